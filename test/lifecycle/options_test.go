package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestBadOptionsAreRefusedAndStartNothing(t *testing.T) {
	tests := []struct {
		name    string
		opts    []taskpool.Option
		mention []string // the option, the value and what is allowed
	}{
		{"no workers", []taskpool.Option{taskpool.WithWorkers(0)},
			[]string{"WithWorkers", "at least 1", "got 0"}},
		{"negative workers", []taskpool.Option{taskpool.WithWorkers(-3)},
			[]string{"WithWorkers", "at least 1", "got -3"}},
		{"negative capacity", []taskpool.Option{taskpool.WithCapacity(-1, taskpool.OverflowReject)},
			[]string{"WithCapacity", "not be negative", "got -1"}},
		{"unknown overflow", []taskpool.Option{taskpool.WithCapacity(1, taskpool.Overflow(7))},
			[]string{"WithCapacity", "OverflowWait, OverflowReject or OverflowShed", "Overflow(7)"}},
		{"negative overflow", []taskpool.Option{taskpool.WithCapacity(1, taskpool.Overflow(-1))},
			[]string{"WithCapacity", "OverflowWait, OverflowReject or OverflowShed", "Overflow(-1)"}},
		{"negative fair share", []taskpool.Option{taskpool.WithFairShare(-2)},
			[]string{"WithFairShare", "not be negative", "got -2"}},
		{"no aging step", []taskpool.Option{taskpool.WithAging(0)},
			[]string{"WithAging", "positive", "got 0s"}},
		{"negative aging step", []taskpool.Option{taskpool.WithAging(-time.Second)},
			[]string{"WithAging", "positive", "got -1s"}},
		{"aging before fair share", []taskpool.Option{taskpool.WithAging(time.Second), taskpool.WithFairShare(4)},
			[]string{"WithAging(1s)", "WithFairShare(4)", "exclude"}},
		{"fair share before aging", []taskpool.Option{taskpool.WithFairShare(4), taskpool.WithAging(time.Second)},
			[]string{"WithAging(1s)", "WithFairShare(4)", "exclude"}},
		{"aging and the default fair share", []taskpool.Option{taskpool.WithFairShare(16), taskpool.WithAging(time.Second)},
			[]string{"WithAging(1s)", "WithFairShare(16)", "exclude"}},
		{"aging and no fair share", []taskpool.Option{taskpool.WithAging(time.Second), taskpool.WithFairShare(0)},
			[]string{"WithAging(1s)", "WithFairShare(0)", "exclude"}},
		{"no hang grace", []taskpool.Option{taskpool.WithHangGrace(0)},
			[]string{"WithHangGrace", "positive", "got 0s"}},
		{"negative hang grace", []taskpool.Option{taskpool.WithHangGrace(-time.Minute)},
			[]string{"WithHangGrace", "positive", "got -1m0s"}},
		{"negative abandoned", []taskpool.Option{taskpool.WithMaxAbandoned(-1)},
			[]string{"WithMaxAbandoned", "not be negative", "got -1"}},
		{"unknown delayed policy", []taskpool.Option{taskpool.WithDelayedAtShutdown(7)},
			[]string{"WithDelayedAtShutdown", "DelayedWait or DelayedCancel", "got DelayedPolicy(7)"}},
		{"negative delayed policy", []taskpool.Option{taskpool.WithDelayedAtShutdown(-1)},
			[]string{"WithDelayedAtShutdown", "DelayedWait or DelayedCancel", "got DelayedPolicy(-1)"}},
		{"no logger", []taskpool.Option{taskpool.WithLogger(nil)},
			[]string{"WithLogger", "not be nil", "got nil"}},
		{"negative retry ratio", []taskpool.Option{taskpool.WithRetryBudget(-0.1, 1)},
			[]string{"WithRetryBudget: ratio", "at least 0 and less than 1", "got -0.1"}},
		{"a retry for each attempt", []taskpool.Option{taskpool.WithRetryBudget(1, 1)},
			[]string{"WithRetryBudget: ratio", "at least 0 and less than 1", "got 1"}},
		{"no number as retry ratio", []taskpool.Option{taskpool.WithRetryBudget(math.NaN(), 1)},
			[]string{"WithRetryBudget: ratio", "at least 0 and less than 1", "got NaN"}},
		{"negative least retries", []taskpool.Option{taskpool.WithRetryBudget(0.1, -1)},
			[]string{"WithRetryBudget: least", "not be negative", "got -1"}},
		{"nil option", []taskpool.Option{taskpool.WithWorkers(1), nil},
			[]string{"option 2", "not be nil"}},
		{"good after bad", []taskpool.Option{taskpool.WithHangGrace(-1), taskpool.WithWorkers(1)},
			[]string{"WithHangGrace", "positive", "got -1ns"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			p, err := taskpool.New(test.opts...)
			require.Error(t, err)
			require.Nil(t, p)
			require.Regexp(t, "^taskpool: ", err.Error())
			for _, m := range test.mention {
				require.Contains(t, err.Error(), m)
			}
			require.NoError(t, goleak.Find(before), "a goroutine was started")
		})
	}
}

func TestEdgesOfOptionsAreAllowed(t *testing.T) {
	for i, opts := range [][]taskpool.Option{
		nil,
		{taskpool.WithWorkers(1)},
		{taskpool.WithCapacity(0, taskpool.OverflowWait)},
		{taskpool.WithCapacity(0, taskpool.OverflowReject)},
		{taskpool.WithCapacity(0, taskpool.OverflowShed)},
		{taskpool.WithFairShare(0)},
		{taskpool.WithFairShare(1)},
		{taskpool.WithAging(1)},
		{taskpool.WithHangGrace(1)},
		{taskpool.WithMaxAbandoned(0)},
		{taskpool.WithHooks(taskpool.Hooks{}), taskpool.WithHooks(taskpool.Hooks{})},
		{taskpool.WithName("")},
		{taskpool.WithRetryBudget(0, 0)},
		{taskpool.WithRetryBudget(math.Nextafter(1, 0), math.MaxInt)},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			p := pooltest.New(t, opts...)
			ran := false
			require.NoError(t, p.Go(taskpool.Medium, func() { ran = true }))
			require.NoError(t, p.Shutdown(context.Background()))
			require.True(t, ran)
		})
	}
}

func TestDefaultNumberOfWorkersIsGOMAXPROCS(t *testing.T) {
	p := pooltest.New(t)
	require.Equal(t, runtime.GOMAXPROCS(0), p.Stats().Goroutines)
	require.Equal(t, runtime.GOMAXPROCS(0), p.Stats().Workers)
}

func TestDefaultCapacityIsUnbounded(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	release := pooltest.Block(t, p)
	defer release()
	for range 10_000 {
		require.NoError(t, p.Go(taskpool.Low, func() {}))
	}
	require.Equal(t, 10_000, p.Stats().Queued)
}

func TestDefaultFairShareIsSixteen(t *testing.T) {
	const n = 64
	p := pooltest.New(t, taskpool.WithWorkers(1))
	release := pooltest.Block(t, p)
	var order []taskpool.Priority // written by the one worker
	add := func(pr taskpool.Priority) {
		require.NoError(t, p.Go(pr, func() { order = append(order, pr) }))
	}
	for range n / 16 {
		add(taskpool.Low)
	}
	for range n {
		add(taskpool.High)
	}
	release()
	require.NoError(t, p.Shutdown(context.Background()))
	require.Len(t, order, n+n/16)
	var turns []int // at which dispatches low tasks had their turn
	for i, pr := range order {
		if pr == taskpool.Low {
			turns = append(turns, i+1)
		}
	}
	require.Equal(t, []int{16, 32, 48, 64}, turns)
}

func TestDefaultHangGraceIsFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate := make(chan struct{})
		defer close(gate)
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		time.Sleep(6*time.Second - 1)
		synctest.Wait()
		require.Equal(t, taskpool.StateRunning, h.State())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, taskpool.StateFailed, h.State())
		require.ErrorIs(t, h.Err(), taskpool.ErrHung)
	})
}

func TestDefaultMaxAbandonedIsTheNumberOfWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers = 2
		p := pooltest.New(t, taskpool.WithWorkers(workers))
		gate := make(chan struct{})
		defer close(gate)
		for range workers + 1 {
			pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		s := p.Stats()
		require.Equal(t, workers, s.Abandoned)
		require.Equal(t, 1, s.Lost)
	})
}

func TestNameIsInEvents(t *testing.T) {
	var got string
	p := pooltest.New(t, taskpool.WithName("mail"), taskpool.WithHooks(taskpool.Hooks{
		Finished: func(e taskpool.TaskEvent) { got = e.Pool },
	}))
	require.NoError(t, p.Go(taskpool.Medium, func() {}))
	require.NoError(t, p.Shutdown(context.Background()))
	require.Equal(t, "mail", got)
}

func TestHooksGivenTwiceAreCalledInOrder(t *testing.T) {
	var got []int
	hook := func(i int) taskpool.Option {
		return taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) { got = append(got, i) }})
	}
	p := pooltest.New(t, hook(1), hook(2))
	require.NoError(t, p.Go(taskpool.Medium, func() {}))
	require.NoError(t, p.Shutdown(context.Background()))
	require.Equal(t, []int{1, 2}, got)
}

func TestOverflowNamesItself(t *testing.T) {
	for o, want := range map[taskpool.Overflow]string{
		taskpool.OverflowWait:   "wait",
		taskpool.OverflowReject: "reject",
		taskpool.OverflowShed:   "shed",
		taskpool.Overflow(9):    "Overflow(9)",
	} {
		require.Equal(t, want, o.String())
	}
}

// A slip of the pen must not take all memory there is.
func TestNumberOfWorkersIsBounded(t *testing.T) {
	const most = 1_000_000
	for _, n := range []int{most + 1, math.MaxInt} {
		_, err := taskpool.New(taskpool.WithWorkers(n))
		require.EqualError(t, err, fmt.Sprintf("taskpool: WithWorkers: n must be at most 1000000, got %d", n))
	}
	p := pooltest.New(t, taskpool.WithWorkers(most))
	require.EqualError(t, p.Resize(math.MaxInt), fmt.Sprintf("taskpool: Resize: workers must be at most 1000000, got %d", math.MaxInt))
	require.Equal(t, most, p.Stats().Workers)
	require.NoError(t, p.Resize(1))
	require.NoError(t, p.Resize(most))
	s := p.Stats()
	require.Equal(t, []int{most, most, most}, []int{s.Workers, s.Goroutines, s.Idle})
}

// The largest values that options take mean what they say: nothing overflows.
func TestOptionsTakeTheLargestValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
			for _, order := range []taskpool.Option{taskpool.WithAging(math.MaxInt64), taskpool.WithFairShare(math.MaxInt)} {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithReserved(1, math.MinInt), order,
					taskpool.WithCapacity(math.MaxInt, overflow), taskpool.WithMaxParked(math.MaxInt),
					taskpool.WithMaxAbandoned(math.MaxInt), taskpool.WithQuantum(math.MaxInt64), taskpool.WithHangGrace(math.MaxInt64))
				release := pooltest.Occupy(t, p)
				g := p.Group(t.Context(), taskpool.Task{Timeout: math.MaxInt64, Heartbeat: math.MaxInt64})
				g.SetLimit(math.MaxInt)
				for range 3 {
					g.Go(func(ctx context.Context) error { time.Sleep(time.Second); return taskpool.Yield(ctx) })
				}
				h := pooltest.Submit(t, p, taskpool.Task{Priority: math.MaxInt, Retry: taskpool.Retry{MaxAttempts: math.MaxInt,
					Backoff: func(int) time.Duration { return math.MaxInt64 }}, Run: func(context.Context) error { return errors.New("again") }})
				release()
				require.NoError(t, g.Wait())
				synctest.Wait()
				require.Equal(t, taskpool.StateDelayed, h.State())
				require.True(t, h.Cancel(nil))
				require.NoError(t, p.Shutdown(context.Background()))
			}
		}
	})
}
