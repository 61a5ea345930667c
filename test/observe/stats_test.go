package observe_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Each row does one thing and says which totals that adds to. All others must
// stay as they were.
func TestEachTotalCountsWhatItSays(t *testing.T) {
	background := context.Background()
	ok := taskpool.Task{Run: pooltest.Nop}
	retry := taskpool.Retry{MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Second }}
	hang := func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(time.Minute) // more than the grace
		return nil
	}
	tests := []struct {
		name string
		opts []taskpool.Option
		do   func(t *testing.T, p *taskpool.Pool)
		want taskpool.Stats
		by   map[taskpool.Priority]uint64 // attempts by priority; nil: all were Medium
	}{
		{name: "nothing"},
		{name: "a function", do: func(t *testing.T, p *taskpool.Pool) {
			require.NoError(t, p.Go(taskpool.Medium, func() {}))
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Succeeded: 1}},
		{name: "a task", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, ok)
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Succeeded: 1}},
		{name: "an error", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return errors.New("x") }})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Failed: 1, Errors: 1}},
		{name: "a panic", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic("x") }})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Failed: 1, Panics: 1, Replaced: 1, ReplacedPanic: 1}},
		{name: "a panic in a function", do: func(t *testing.T, p *taskpool.Pool) {
			require.NoError(t, p.Go(taskpool.Medium, func() { panic("x") }))
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Failed: 1, Panics: 1, Replaced: 1, ReplacedPanic: 1}},
		{name: "Goexit", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { runtime.Goexit(); return nil }})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Failed: 1, Goexits: 1, Replaced: 1, ReplacedGoexit: 1}},
		{name: "a timeout", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.UntilEnd, Timeout: time.Second})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Failed: 1, Timeouts: 1}},
		{name: "an error without a Beat", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.UntilEnd, Heartbeat: time.Second})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Failed: 1, Timeouts: 1}},
		{name: "a success after the timeout", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); return nil }, Timeout: time.Second})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Succeeded: 1}},
		{name: "a hang", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: hang, Timeout: time.Second})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Failed: 1, Hangs: 1, Replaced: 1, ReplacedHung: 1}},
		{name: "a hang that keeps its slot", opts: []taskpool.Option{taskpool.WithMaxAbandoned(0)}, do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: hang, Timeout: time.Second})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Failed: 1, Hangs: 1}},
		{name: "retries that fail", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Retry: retry, Run: func(context.Context) error { return errors.New("x") }})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 3, Retries: 2, Failed: 1, Errors: 3}},
		{name: "a retry that succeeds", do: func(t *testing.T, p *taskpool.Pool) {
			n := 0
			pooltest.Submit(t, p, taskpool.Task{Retry: retry, Run: func(context.Context) error {
				if n++; n == 1 {
					panic("x")
				}
				return nil
			}})
		}, want: taskpool.Stats{Submitted: 1, Attempts: 2, Retries: 1, Panics: 1, Replaced: 1, ReplacedPanic: 1, Succeeded: 1}},
		{name: "canceled while it waits", do: func(t *testing.T, p *taskpool.Pool) {
			p.Pause()
			h := pooltest.Submit(t, p, ok)
			require.True(t, h.Cancel(nil))
			require.False(t, h.Cancel(nil))
			p.Resume()
		}, want: taskpool.Stats{Submitted: 1, Canceled: 1}},
		{name: "canceled while it is delayed", do: func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, NotBefore: time.Now().Add(time.Hour)}).Cancel(nil)
		}, want: taskpool.Stats{Submitted: 1, Canceled: 1}},
		{name: "canceled while it runs", do: func(t *testing.T, p *taskpool.Pool) {
			h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.UntilEnd})
			synctest.Wait()
			h.Cancel(nil)
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Canceled: 1, Interrupted: 1}},
		{name: "refused as full", opts: []taskpool.Option{taskpool.WithCapacity(0, taskpool.OverflowReject)}, do: func(t *testing.T, p *taskpool.Pool) {
			release := sync.OnceFunc(pooltest.Block(t, p))
			defer release()
			require.ErrorIs(t, p.TryGo(taskpool.High, func() {}), taskpool.ErrFull)
			_, err := p.Submit(background, ok)
			require.ErrorIs(t, err, taskpool.ErrFull)
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Succeeded: 1, Refused: 2, RefusedFull: 2}, by: map[taskpool.Priority]uint64{taskpool.High: 1}},
		{name: "refused as its context is over", do: func(t *testing.T, p *taskpool.Pool) {
			_, err := p.Submit(pooltest.EndedContext(), ok)
			require.Error(t, err)
		}, want: taskpool.Stats{Refused: 1, RefusedContext: 1}},
		{name: "refused as its context ends waiting for room", opts: []taskpool.Option{taskpool.WithCapacity(0, taskpool.OverflowWait)}, do: func(t *testing.T, p *taskpool.Pool) {
			release := sync.OnceFunc(pooltest.Block(t, p))
			defer release()
			ctx, cancel := context.WithTimeout(background, time.Second)
			defer cancel()
			_, err := p.Submit(ctx, ok)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Succeeded: 1, Refused: 1, RefusedContext: 1}, by: map[taskpool.Priority]uint64{taskpool.High: 1}},
		{name: "shed", opts: []taskpool.Option{taskpool.WithCapacity(1, taskpool.OverflowShed)}, do: func(t *testing.T, p *taskpool.Pool) {
			release := sync.OnceFunc(pooltest.Block(t, p))
			defer release()
			require.NoError(t, p.Go(taskpool.Low, func() {}))
			h := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
			require.Equal(t, taskpool.StateQueued, h.State())
		}, want: taskpool.Stats{Submitted: 3, Attempts: 2, Succeeded: 2, Shed: 1}, by: map[taskpool.Priority]uint64{taskpool.High: 2}},
		{name: "refused as its flow is full", opts: []taskpool.Option{taskpool.WithFlows(func(string) taskpool.FlowPolicy {
			return taskpool.FlowPolicy{Capacity: 1}
		}), taskpool.WithCapacity(9, taskpool.OverflowReject)}, do: func(t *testing.T, p *taskpool.Pool) {
			release := sync.OnceFunc(pooltest.Block(t, p))
			defer release()
			pooltest.Submit(t, p, taskpool.Task{Flow: "f", Run: pooltest.Nop})
			_, err := p.Submit(background, taskpool.Task{Flow: "f", Run: pooltest.Nop})
			require.ErrorIs(t, err, taskpool.ErrFull)
			require.NotErrorIs(t, err, taskpool.ErrShed)
		}, want: taskpool.Stats{Submitted: 2, Attempts: 2, Succeeded: 2, Refused: 1, RefusedFlow: 1}, by: map[taskpool.Priority]uint64{taskpool.High: 1, taskpool.Medium: 1}},
		{name: "refused as its MaxWait is over", opts: []taskpool.Option{taskpool.WithCapacity(0, taskpool.OverflowWait)}, do: func(t *testing.T, p *taskpool.Pool) {
			release := sync.OnceFunc(pooltest.Block(t, p))
			defer release()
			_, err := p.Submit(background, taskpool.Task{MaxWait: time.Second, Run: pooltest.Nop})
			require.ErrorIs(t, err, taskpool.ErrExpired)
		}, want: taskpool.Stats{Submitted: 1, Attempts: 1, Succeeded: 1, Refused: 1, RefusedExpired: 1}, by: map[taskpool.Priority]uint64{taskpool.High: 1}},
		{name: "refused as the pool is closed", do: func(t *testing.T, p *taskpool.Pool) {
			require.NoError(t, p.Shutdown(background))
			_, err := p.Submit(background, ok)
			require.ErrorIs(t, err, taskpool.ErrClosed)
			require.ErrorIs(t, p.Go(taskpool.Low, func() {}), taskpool.ErrClosed)
			require.Equal(t, taskpool.PriorityTotals{RefusedClosed: 1}, p.Stats().ByPriority[taskpool.Low])
		}, want: taskpool.Stats{Refused: 2, RefusedClosed: 2, Closed: true}},
		{name: "refused as its group is over", do: func(t *testing.T, p *taskpool.Pool) {
			g := p.Group(background, taskpool.Task{Priority: taskpool.Low})
			require.NoError(t, g.Wait())
			g.Go(pooltest.Nop)
			require.Equal(t, taskpool.PriorityTotals{RefusedContext: 1}, p.Stats().ByPriority[taskpool.Low])
		}, want: taskpool.Stats{Refused: 1, RefusedContext: 1}},
		{name: "a task that cannot be", do: func(t *testing.T, p *taskpool.Pool) {
			_, err := p.Submit(background, taskpool.Task{})
			require.Error(t, err)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, append([]taskpool.Option{taskpool.WithWorkers(1)}, test.opts...)...)
				if test.do != nil {
					test.do(t, p)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if test.want.Workers = 1; !test.want.Closed {
					test.want.Goroutines, test.want.Idle = 1, 1
				}
				got := p.Stats()
				if test.by == nil && test.want.Attempts > 0 {
					test.by = map[taskpool.Priority]uint64{taskpool.Medium: test.want.Attempts}
				}
				if test.by == nil {
					test.by = map[taskpool.Priority]uint64{}
				}
				require.Equal(t, test.by, pooltest.Started(got))
				got.ByPriority = nil
				test.want.Capacity = got.Capacity // the test of levels looks at it
				require.Equal(t, test.want, got)
				pooltest.RequireConserved(t, p.Stats())
			})
		})
	}
}

func TestLevelsAreThoseOfTheMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithCapacity(5, taskpool.OverflowWait),
			taskpool.WithMaxAbandoned(1), taskpool.WithHangGrace(time.Second))
		levels := func() taskpool.Stats {
			synctest.Wait()
			s := p.Stats()
			pooltest.RequireConserved(t, s)
			// Totals are for the test above.
			s.Submitted, s.Refused, s.Succeeded, s.Failed, s.Canceled, s.Shed = 0, 0, 0, 0, 0, 0
			s.Attempts, s.Retries, s.Panics, s.Goexits, s.Hangs, s.Replaced = 0, 0, 0, 0, 0, 0
			s.Timeouts, s.ReplacedHung, s.RefusedFull, s.ByPriority = 0, 0, 0, nil
			require.Equal(t, 5, s.Capacity)
			s.Capacity = 0
			// Times are for TestWaitsAndWorkAreTimed.
			s.InProgress, s.Longest = 0, 0
			for i := range s.Waiting {
				s.Waiting[i].OldestWait = 0
			}
			return s
		}
		require.Equal(t, taskpool.Stats{Workers: 3, Goroutines: 3, Idle: 3}, levels())

		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		require.Equal(t, taskpool.Stats{Workers: 3, Goroutines: 3, Idle: 2, Running: 1}, levels())

		// Two tasks hang: one worker is abandoned, one keeps its slot.
		gate := make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		defer open()
		for range 2 {
			pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		}
		require.Equal(t, taskpool.Stats{Workers: 3, Goroutines: 3, Running: 3}, levels())
		time.Sleep(2 * time.Second)
		require.Equal(t, taskpool.Stats{Workers: 3, Goroutines: 2, Idle: 1, Running: 1, Abandoned: 1, Lost: 1}, levels())

		p.Pause()
		require.Equal(t, taskpool.Stats{Workers: 3, Goroutines: 2, Idle: 1, Running: 1, Abandoned: 1, Lost: 1, Paused: true}, levels())
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, NotBefore: time.Now().Add(time.Hour)})
		for i, pr := range []taskpool.Priority{taskpool.Low, taskpool.High, 100, taskpool.High, taskpool.High, -100} {
			if i%2 == 0 {
				require.NoError(t, p.Go(pr, func() {}))
			} else {
				pooltest.Submit(t, p, taskpool.Task{Priority: pr, Run: pooltest.Nop})
			}
		}
		go func() { _, _ = p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop}) }()
		require.Equal(t, taskpool.Stats{Workers: 3, Goroutines: 2, Idle: 1, Running: 1, Abandoned: 1, Lost: 1, Paused: true,
			Queued: 6, Delayed: 1, SubmittersWaiting: 1,
			Waiting: []taskpool.PriorityStats{{Priority: -100, Queued: 1}, {Priority: taskpool.High, Queued: 3}, {Priority: taskpool.Low, Queued: 1}, {Priority: 100, Queued: 1}}}, levels())

		p.Resume()
		require.Equal(t, taskpool.Stats{Workers: 3, Goroutines: 2, Idle: 1, Running: 1, Abandoned: 1, Lost: 1, Delayed: 1}, levels())
		open()
		require.Equal(t, taskpool.Stats{Workers: 3, Goroutines: 3, Idle: 2, Running: 1, Delayed: 1}, levels())
		require.NoError(t, p.Resize(5))
		require.Equal(t, taskpool.Stats{Workers: 5, Goroutines: 5, Idle: 4, Running: 1, Delayed: 1}, levels())

		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		require.Equal(t, taskpool.Stats{Workers: 5, Goroutines: 5, Idle: 4, Running: 1, Delayed: 1, Closed: true}, levels())
		release()
		require.NoError(t, <-down)
		require.Equal(t, taskpool.Stats{Workers: 5, Closed: true}, levels())
	})
}

func TestTasksDescribesEachTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithHangGrace(grace))
		gate := make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		defer open()
		failure := errors.New("not yet")
		start := time.Now()

		require.Empty(t, p.Tasks())
		// Each gets to its state before the next comes, so that the numbers
		// of tasks and workers are known.
		hung := pooltest.Submit(t, p, taskpool.Task{Name: "hung", Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		time.Sleep(2 * time.Second)
		synctest.Wait() // it is given up at this very instant
		retried := pooltest.Submit(t, p, taskpool.Task{Name: "retried", Run: func(context.Context) error { return failure },
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }}})
		synctest.Wait()
		delayed := pooltest.Submit(t, p, taskpool.Task{Name: "delayed", Priority: 9, Run: pooltest.Nop, NotBefore: start.Add(time.Minute)})
		running := pooltest.Submit(t, p, taskpool.Task{Name: "running", Priority: -7, Timeout: time.Minute, Run: pooltest.UntilEnd})
		endless := pooltest.Submit(t, p, taskpool.Task{Name: "endless", Run: func(context.Context) error { <-gate; return nil }})
		require.NoError(t, p.Go(-5, func() { <-gate }))
		synctest.Wait()
		queued := pooltest.Submit(t, p, taskpool.Task{Name: "queued", Priority: taskpool.Low, Run: pooltest.Nop})
		require.NoError(t, p.Go(taskpool.Low, func() {}))
		urgent := pooltest.Submit(t, p, taskpool.Task{Name: "urgent", Priority: taskpool.High, Run: pooltest.Nop})
		settled := pooltest.Submit(t, p, taskpool.Task{Name: "settled", Run: pooltest.Nop})
		settled.Cancel(nil)

		now := start.Add(2 * time.Second)
		want := map[taskpool.State][]taskpool.TaskInfo{
			taskpool.StateQueued: {
				{ID: 9, Name: "urgent", Priority: taskpool.High, State: taskpool.StateQueued, Handle: urgent},
				{ID: 7, Name: "queued", Priority: taskpool.Low, State: taskpool.StateQueued, Handle: queued},
				{Priority: taskpool.Low, State: taskpool.StateQueued},
			},
			taskpool.StateDelayed: {
				{ID: 2, Name: "retried", State: taskpool.StateDelayed, Attempt: 1, Due: now.Add(time.Hour), Err: failure, Handle: retried},
				{ID: 3, Name: "delayed", Priority: 9, State: taskpool.StateDelayed, Due: start.Add(time.Minute), Handle: delayed},
			},
			taskpool.StateRunning: {
				{ID: 4, Name: "running", Priority: -7, State: taskpool.StateRunning, Attempt: 1, Started: now,
					Deadline: now.Add(time.Minute), Handle: running},
				{ID: 5, Name: "endless", State: taskpool.StateRunning, Attempt: 1, Started: now, Handle: endless},
				{Priority: -5, State: taskpool.StateRunning, Attempt: 1, Started: now},
			},
			taskpool.StateAbandoned: {
				{ID: 1, Name: "hung", State: taskpool.StateAbandoned, Attempt: 1, Started: start,
					Deadline: start.Add(time.Second), Err: hung.Err(), Handle: hung},
			},
		}
		for _, tasks := range want {
			for i := range tasks {
				tasks[i].Urgency = tasks[i].Priority
			}
		}
		// workers takes the numbers of the workers out of the tasks.
		workers := func(tasks []taskpool.TaskInfo) (ids []int) {
			for i := range tasks {
				if id := tasks[i].Worker; id != 0 {
					ids = append(ids, id)
					tasks[i].Worker = 0
				}
			}
			return ids
		}
		for state := taskpool.StateQueued; state <= taskpool.StateAbandoned; state++ {
			got := p.Tasks(state)
			ids := workers(got)
			switch state {
			case taskpool.StateQueued:
				require.Equal(t, want[state], got, "the most urgent first")
				require.Empty(t, ids)
			case taskpool.StateRunning:
				require.ElementsMatch(t, want[state], got)
				require.ElementsMatch(t, []int{2, 3, 4}, ids, "1 was abandoned")
			case taskpool.StateAbandoned:
				require.ElementsMatch(t, want[state], got)
				require.Equal(t, []int{1}, ids)
			default:
				require.ElementsMatch(t, want[state], got, state)
				require.Empty(t, ids)
			}
		}

		all := p.Tasks()
		workers(all)
		var interesting []taskpool.TaskInfo
		for _, state := range []taskpool.State{taskpool.StateDelayed, taskpool.StateRunning, taskpool.StateAbandoned} {
			interesting = append(interesting, want[state]...)
		}
		require.ElementsMatch(t, interesting, all, "without states")
		require.Len(t, p.Tasks(taskpool.StateQueued, taskpool.StateDelayed), 5)

		open()
		require.NoError(t, p.Shutdown(context.Background()))
		synctest.Wait()
		require.Empty(t, p.Tasks(taskpool.StateQueued, taskpool.StateDelayed, taskpool.StateRunning, taskpool.StateSucceeded, taskpool.StateFailed, taskpool.StateAbandoned))
	})
}

func TestHealthIsNilUntilThePoolIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		require.NoError(t, p.Health())
		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		p.Pause()
		require.NoError(t, p.Health(), "busy and paused")
		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrClosed, "while it drains")
		release()
		require.NoError(t, <-down)
		require.ErrorIs(t, p.Health(), taskpool.ErrClosed)
	})
}

func TestAHandleSaysWhatTasksAndHooksSayOfItsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.EventLog)
		p := pooltest.New(t, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithHooks(log.Hooks()),
			taskpool.WithLogger(slog.New(slog.DiscardHandler)))
		gate := make(chan struct{})
		require.NoError(t, p.Go(taskpool.High, func() { <-gate }))
		synctest.Wait()
		failure := errors.New("failed")
		h := pooltest.Submit(t, p, taskpool.Task{Name: "one", Priority: taskpool.Low, Timeout: time.Hour,
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }},
			Run: func(ctx context.Context) error {
				me, _ := taskpool.Current(ctx)
				assert.Equal(t, me, me.Handle.Info())
				time.Sleep(time.Second)
				return failure
			}})
		require.EqualValues(t, 2, h.ID(), "the function was the first")
		listed := func(state taskpool.State) {
			all := p.Tasks(state)
			require.Len(t, all, 1)
			require.Equal(t, all[0], h.Info())
			require.Equal(t, "a", h.Info().Pool)
			require.False(t, h.Info().IsFunc())
		}
		listed(taskpool.StateQueued)
		close(gate)
		synctest.Wait()
		listed(taskpool.StateRunning)
		time.Sleep(time.Second)
		synctest.Wait()
		listed(taskpool.StateDelayed)
		require.Equal(t, failure, h.Wait(t.Context()))
		synctest.Wait()
		require.Equal(t, taskpool.TaskInfo{Pool: "a", ID: 2, Name: "one", Priority: taskpool.Low, Urgency: taskpool.Low, State: taskpool.StateFailed,
			Attempt: 2, Err: failure, Handle: h}, h.Info())
		require.EqualValues(t, 2, h.ID())
		for _, e := range log.Named("Queued", "Started", "AttemptFailed", "Retried", "Finished") {
			require.Equal(t, "a", e.Task.Task.Pool, e.Name)
			require.Equal(t, e.Task.Task.Handle == nil, e.Task.Task.IsFunc(), e.Name)
		}
		require.NoError(t, p.Go(taskpool.High, func() {
			running := p.Tasks(taskpool.StateRunning)
			assert.True(t, len(running) == 1 && running[0].IsFunc() && running[0].Pool == "a")
		}))
		p.Pause()
		defer p.Resume()
		require.NoError(t, p.Go(taskpool.High, func() {}))
		for _, queued := range p.Tasks(taskpool.StateQueued) {
			require.True(t, queued.IsFunc() && queued.Pool == "a")
		}
	})
}

func TestHealthSaysHowManySlotsAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithMaxAbandoned(1))
		gate := make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		defer open()
		hang := taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }}
		pooltest.Submit(t, p, hang)
		time.Sleep(time.Minute)
		require.NoError(t, p.Health(), "one is within the limit")
		pooltest.Submit(t, p, hang)
		pooltest.Submit(t, p, hang)
		time.Sleep(time.Minute)
		require.ErrorIs(t, p.Health(), taskpool.ErrHung)
		require.ErrorContains(t, p.Health(), "2 of 3 slots lost, with 1 hung goroutines abandoned already")
		open()
		synctest.Wait()
		require.NoError(t, p.Health())
		pooltest.RequireWorkers(t, p, 3)
	})
}
