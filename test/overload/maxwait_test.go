package overload_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }

// busy runs f in a bubble, with a pool whose only worker is busy until release is called or f
// returns.
func busy(t *testing.T, f func(t *testing.T, p *taskpool.Pool, release func()), opts ...taskpool.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, append([]taskpool.Option{taskpool.WithWorkers(1)}, opts...)...)
		release := sync.OnceFunc(pooltest.Block(t, p))
		func() {
			defer release()
			f(t, p, release)
		}()
		pooltest.Drain(t, p)
	})
}

func TestTaskThatHasWaitedForItsMaxWaitIsShedAtThatInstant(t *testing.T) {
	var shed []taskpool.TaskEvent
	busy(t, func(t *testing.T, p *taskpool.Pool, _ func()) {
		began := time.Now()
		never := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun, MaxWait: time.Second})
		last := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun, MaxWait: time.Minute + 1, Priority: taskpool.High})
		late := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun, MaxWait: time.Minute, NotBefore: began.Add(time.Hour)})
		for _, test := range []struct {
			h     *taskpool.Handle
			after time.Duration
		}{{never, time.Second}, {last, time.Minute + 1}, {late, time.Hour + time.Minute}} {
			err := test.h.Wait(t.Context())
			require.Equal(t, test.after, time.Since(began))
			require.ErrorIs(t, err, taskpool.ErrExpired)
			require.ErrorIs(t, err, taskpool.ErrShed)
			require.ErrorIs(t, err, taskpool.ErrFull)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, taskpool.StateShed, test.h.State())
		}
		synctest.Wait() // hooks are told after those who wait
		require.Len(t, shed, 3)
		require.Equal(t, taskpool.ErrExpired, shed[0].Err)
		for i, wait := range []time.Duration{time.Second, time.Minute + 1, time.Minute} { // of the last, from when it was due
			require.Equal(t, wait, shed[i].Wait)
		}
		s := p.Stats()
		require.EqualValues(t, 3, s.Shed)
		require.EqualValues(t, 3, s.Expired)
		pooltest.RequireConserved(t, s)
	}, taskpool.WithHooks(taskpool.Hooks{Shed: func(e taskpool.TaskEvent) { shed = append(shed, e) }}))
}

func TestTaskThatStartsInTimeDoesNotExpire(t *testing.T) {
	busy(t, func(t *testing.T, p *taskpool.Pool, release func()) {
		began := time.Now()
		var ran []time.Duration
		h := pooltest.Submit(t, p, taskpool.Task{MaxWait: time.Second, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
			Run: func(context.Context) error {
				ran = append(ran, time.Since(began))
				if time.Sleep(time.Minute); len(ran) == 1 {
					return context.Canceled // it is retried long after its MaxWait
				}
				return nil
			}})
		time.Sleep(time.Second - 1)
		release()
		require.NoError(t, h.Wait(t.Context()))
		require.Equal(t, []time.Duration{time.Second - 1, time.Hour + time.Minute + time.Second - 1}, ran)
		require.Zero(t, p.Stats().Expired)
	})
}

func TestSubmitterWhoseTaskExpiresAtTheDoorIsToldSo(t *testing.T) {
	busy(t, func(t *testing.T, p *taskpool.Pool, _ func()) {
		began := time.Now()
		first := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		h, err := p.Submit(t.Context(), taskpool.Task{Run: pooltest.MustNotRun, MaxWait: time.Second})
		require.Nil(t, h)
		require.ErrorIs(t, err, taskpool.ErrExpired)
		require.Equal(t, time.Second, time.Since(began))
		s := p.Stats()
		require.EqualValues(t, 1, s.Refused)
		require.Zero(t, s.Expired, "it was never a task")

		// What it waits at the door counts.
		time.AfterFunc(time.Second/2, func() { first.Cancel(nil) })
		h, err = p.Submit(t.Context(), taskpool.Task{Run: pooltest.MustNotRun, MaxWait: time.Second})
		require.NoError(t, err)
		require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrExpired)
		require.Equal(t, 2*time.Second, time.Since(began))
	}, taskpool.WithCapacity(1, taskpool.OverflowWait))
}

func TestNothingExpiresThatLeftInAnotherWay(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(p *taskpool.Pool, h *taskpool.Handle)
		want error
	}{
		{"canceled", func(_ *taskpool.Pool, h *taskpool.Handle) { h.Cancel(nil) }, context.Canceled},
		{"shed for another", func(p *taskpool.Pool, _ *taskpool.Handle) {
			_, _ = p.Submit(context.Background(), taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
		}, taskpool.ErrShed},
		{"cut off", func(p *taskpool.Pool, _ *taskpool.Handle) { _ = p.Shutdown(pooltest.EndedContext()) }, taskpool.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			busy(t, func(t *testing.T, p *taskpool.Pool, release func()) {
				h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun, MaxWait: time.Second})
				time.AfterFunc(time.Millisecond, func() { release() })
				test.do(p, h)
				err := h.Wait(t.Context())
				require.ErrorIs(t, err, test.want)
				require.NotErrorIs(t, err, taskpool.ErrExpired)
				time.Sleep(time.Hour)
				require.Zero(t, p.Stats().Expired)
			}, taskpool.WithCapacity(1, taskpool.OverflowShed))
		})
	}
}

// A submitter that was turned away at the door, and that waits for a slot to learn of it, is told
// of that, although its time is over by then.
func TestWhoWasTurnedAwayIsToldWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
		gate, full := make(chan struct{}), make(chan struct{})
		result := make(chan error, 1)
		require.NoError(t, p.Go(taskpool.Medium, func() {
			<-full
			_, err := p.Submit(context.Background(), taskpool.Task{Priority: taskpool.Low, Run: pooltest.MustNotRun, MaxWait: time.Second})
			result <- err
		}))
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		pooltest.RequireWaiting(t, pooltest.SubmitOrWait(context.Background(), p, taskpool.Task{Run: pooltest.Nop}))
		close(full)
		synctest.Wait()
		require.Equal(t, 1, p.Stats().SubmittersWaiting)
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(context.Background()) }()
		time.Sleep(time.Minute)
		require.Empty(t, result, "its slot is another's")
		close(gate)
		require.Equal(t, taskpool.ErrClosed, <-result)
		require.NoError(t, <-down)
		require.Zero(t, p.Stats().Expired)
	})
}

func TestTaskDoesNotStartAtTheInstantAtWhichItExpires(t *testing.T) {
	for range pooltest.Times(1000, 100) {
		busy(t, func(t *testing.T, p *taskpool.Pool, release func()) {
			h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun, MaxWait: time.Second})
			time.Sleep(time.Second)
			release()
			require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrExpired)
			require.EqualValues(t, 1, p.Stats().Expired)
			require.EqualValues(t, 1, p.Stats().Attempts, "of the one that was in its way")
		})
	}
}

// The pool is paused, and very many expire at one instant.
func TestExpiryNeedsNoWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		p.Pause()
		g := p.Group(t.Context(), taskpool.Task{MaxWait: time.Second, Flow: "a"})
		for range 10_000 {
			g.Go(pooltest.MustNotRun)
		}
		require.Equal(t, taskpool.ErrExpired, g.Wait())
		s := p.Stats()
		require.EqualValues(t, 10_000, s.Shed+s.Canceled)
		require.Positive(t, s.Expired)
		p.Resume()
		pooltest.Drain(t, p)
	})
}

func TestNegativeMaxWaitIsRefused(t *testing.T) {
	p := pooltest.New(t)
	_, err := p.Submit(t.Context(), taskpool.Task{Run: pooltest.Nop, MaxWait: -1})
	require.EqualError(t, err, "taskpool: Task.MaxWait must not be negative, got -1ns")
	pooltest.Drain(t, p)
}
