package waits_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// rounds records when rounds start, since it was made.
type rounds struct {
	began  time.Time
	starts []time.Duration
	work   func(ctx context.Context, n int) error // n counts from 1; nil: nothing
}

func newRounds() *rounds { return &rounds{began: time.Now()} }

func (r *rounds) run(ctx context.Context) error {
	r.starts = append(r.starts, time.Since(r.began))
	if r.work == nil {
		return nil
	}
	return r.work(ctx, len(r.starts))
}

// pass lets d go by and all that comes of it be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func seconds(n ...int) (all []time.Duration) {
	for _, n := range n {
		all = append(all, time.Duration(n)*time.Second)
	}
	return all
}

func TestEveryRunsATaskOncePerPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var finished []taskpool.TaskInfo
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
			finished = append(finished, e.Task)
		}}))
		r := newRounds()
		s, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Name: "tick", Priority: taskpool.Low, Run: r.run})
		require.NoError(t, err)
		require.Equal(t, 1, p.Stats().Delayed)
		pass(35 * time.Second)
		require.Equal(t, seconds(10, 20, 30), r.starts)
		require.Zero(t, s.Skipped())
		require.Len(t, finished, 3)
		require.EqualValues(t, 3, finished[2].ID)
		require.Equal(t, "tick", finished[2].Name)
		require.EqualValues(t, 3, p.Stats().Succeeded)
		s.Stop()
		require.NoError(t, s.Wait(t.Context()))
		require.Zero(t, outstanding(p))
		require.NoError(t, p.WaitIdle(t.Context()))
		pooltest.Drain(t, p)
	})
}

func TestFirstRoundIsDueAtNotBefore(t *testing.T) {
	for _, offset := range []time.Duration{-time.Hour, 0, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t)
			r := newRounds()
			s, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{NotBefore: r.began.Add(offset), Run: r.run})
			require.NoError(t, err)
			pass(29 * time.Second)
			if offset <= 0 {
				require.Equal(t, seconds(0, 10, 20), r.starts)
			} else {
				require.Equal(t, seconds(3, 13, 23), r.starts)
			}
			require.EqualValues(t, max(-offset/(10*time.Second), 0), s.Skipped())
			s.Stop()
			pooltest.Drain(t, p)
		})
	}
}

func TestRoundsThatAreLateAreSkippedAndNeverOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4))
		r := newRounds()
		var atWork atomic.Int32
		r.work = func(_ context.Context, n int) error {
			require.EqualValues(t, 1, atWork.Add(1))
			defer atWork.Add(-1)
			switch n {
			case 2:
				time.Sleep(35 * time.Second) // from 20 to 55
			case 3:
				time.Sleep(10 * time.Second) // to 70, which is too late for that
			}
			return nil
		}
		s, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Run: r.run})
		require.NoError(t, err)
		pass(95 * time.Second)
		require.Equal(t, seconds(10, 20, 60, 80, 90), r.starts)
		require.EqualValues(t, 4, s.Skipped()) // those at 30, 40, 50 and 70

		p.Pause() // what waits for its turn is late, too
		pass(30 * time.Second)
		p.Resume()
		synctest.Wait()
		require.Equal(t, seconds(125), r.starts[5:])
		require.EqualValues(t, 6, s.Skipped()) // those at 110 and 120
		s.Stop()
		pooltest.Drain(t, p)
	})
}

func TestSeriesSurvivesWhateverBecomesOfARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowShed))
		r := newRounds()
		r.work = func(ctx context.Context, n int) error {
			switch n {
			case 1:
				panic("boom")
			case 2:
				runtime.Goexit()
			case 3:
				return pooltest.ErrTask
			case 4:
				return pooltest.UntilEnd(ctx) // timed out
			}
			return nil
		}
		_, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Timeout: time.Second, MaxWait: 5 * time.Second, Run: r.run})
		require.NoError(t, err)
		pass(55 * time.Second)
		require.Equal(t, seconds(10, 20, 30, 40, 50), r.starts)
		s := p.Stats()
		require.EqualValues(t, 1, s.Panics)
		require.EqualValues(t, 1, s.Goexits)
		require.EqualValues(t, 1, s.Errors)
		require.EqualValues(t, 1, s.Timeouts)

		// One that is canceled by its handle, at 60.
		require.True(t, p.Tasks(taskpool.StateDelayed)[0].Handle.Cancel(nil))
		pass(20 * time.Second) // to 75
		require.Equal(t, seconds(70), r.starts[5:])

		// One that expires, at 80, as the only worker is busy, and one that is shed, at 90.
		release := pooltest.Block(t, p)
		pass(11 * time.Second)
		require.EqualValues(t, 1, p.Stats().Expired)
		pass(6 * time.Second) // to 92
		require.Equal(t, 1, p.Stats().Queued)
		require.NoError(t, p.Go(taskpool.High, func() {}))
		require.EqualValues(t, 2, p.Stats().Shed)
		release()
		pass(10 * time.Second)
		require.Equal(t, seconds(100), r.starts[6:])
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestRoundIsRetriedAndTheNextWaitsForThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		r := newRounds()
		r.work = func(_ context.Context, n int) error {
			if n < 4 {
				return pooltest.ErrTask
			}
			return nil
		}
		_, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Run: r.run, Retry: taskpool.Retry{
			MaxAttempts: 3, Backoff: func(int) time.Duration { return 7 * time.Second },
		}})
		require.NoError(t, err)
		pass(45 * time.Second)
		require.Equal(t, seconds(10, 17, 24, 30, 40), r.starts)
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestRoundDoesNotStartWhileOneThatHangsIsAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var errs []error
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Second), taskpool.WithHooks(taskpool.Hooks{
			Finished: func(e taskpool.TaskEvent) { errs = append(errs, e.Err) },
		}))
		gate := make(chan struct{})
		r := newRounds()
		r.work = func(_ context.Context, n int) error {
			if n == 1 {
				pooltest.HangsHere(gate)
			}
			return nil
		}
		_, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Timeout: time.Second, Run: r.run})
		require.NoError(t, err)
		pass(25 * time.Second)
		require.Equal(t, seconds(10), r.starts)
		require.Len(t, errs, 2)
		require.ErrorIs(t, errs[0], taskpool.ErrHung)
		require.EqualError(t, errs[1], "taskpool: Every: an earlier round was given up as hung and still runs")
		close(gate)
		pass(10 * time.Second)
		require.Equal(t, seconds(10, 30), r.starts)
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestSeriesEndsAtOnceWithShutdown(t *testing.T) {
	for _, policy := range []taskpool.DelayedPolicy{taskpool.DelayedWait, taskpool.DelayedCancel} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithDelayedAtShutdown(policy))
			idle, err := taskpool.Every(t.Context(), p, time.Hour, taskpool.Task{Run: pooltest.MustNotRun})
			require.NoError(t, err)
			r := newRounds()
			r.work = func(context.Context, int) error { time.Sleep(5 * time.Second); return nil }
			busy, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Run: r.run})
			require.NoError(t, err)
			pass(12 * time.Second)
			require.NoError(t, p.Shutdown(t.Context()))
			require.Equal(t, 15*time.Second, time.Since(r.began))
			require.Equal(t, taskpool.ErrClosed, idle.Wait(t.Context()))
			require.Equal(t, taskpool.ErrClosed, busy.Wait(t.Context()))
			require.Equal(t, seconds(10), r.starts)
			s := p.Stats()
			require.EqualValues(t, 1, s.Canceled)
			require.EqualValues(t, 1, s.Succeeded)
			pooltest.RequireConserved(t, s)
			_, err = taskpool.Every(t.Context(), p, time.Hour, taskpool.Task{Run: pooltest.MustNotRun})
			require.Equal(t, taskpool.ErrClosed, err)
			idle.Stop() // is too late
			require.Equal(t, taskpool.ErrClosed, idle.Wait(t.Context()))
		})
	}
}

func TestSeriesEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		ctx, cancel := context.WithCancelCause(t.Context())
		waits, err := taskpool.Every(ctx, p, time.Hour, taskpool.Task{Run: pooltest.MustNotRun})
		require.NoError(t, err)
		r := newRounds()
		r.work = func(ctx context.Context, _ int) error { return pooltest.UntilEnd(ctx) }
		works, err := taskpool.Every(ctx, p, time.Second, taskpool.Task{Run: r.run})
		require.NoError(t, err)
		pass(10 * time.Second)
		cancel(pooltest.ErrCause)
		require.Equal(t, pooltest.ErrCause, waits.Wait(t.Context()))
		require.Equal(t, pooltest.ErrCause, works.Wait(t.Context()))
		require.Equal(t, seconds(1), r.starts)
		require.Zero(t, outstanding(p))
		require.EqualValues(t, 2, p.Stats().Canceled)
		pooltest.Drain(t, p)
	})
}

func TestStopLetsTheRoundAtWorkGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		r := newRounds()
		var s *taskpool.Periodic
		r.work = func(ctx context.Context, n int) error {
			require.Equal(t, taskpool.ErrInside, s.Wait(ctx))
			s.Stop() // in a round
			time.Sleep(5 * time.Second)
			return ctx.Err()
		}
		s, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Run: r.run})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeoutCause(t.Context(), 12*time.Second, pooltest.ErrCause)
		defer cancel()
		require.Equal(t, pooltest.ErrCause, s.Wait(ctx))
		require.NoError(t, s.Wait(t.Context()))
		require.Equal(t, 15*time.Second, time.Since(r.began))
		require.EqualValues(t, 1, p.Stats().Succeeded)

		// A round that waits in the queue, or for its retry, is gone.
		r = newRounds()
		r.work = func(context.Context, int) error { return pooltest.ErrTask }
		s, err = taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Run: r.run, Retry: taskpool.Retry{
			MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Hour },
		}})
		require.NoError(t, err)
		pass(time.Minute)
		s.Stop()
		require.NoError(t, s.Wait(t.Context()))
		require.Zero(t, outstanding(p))
		p.Pause()
		s, err = taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Run: pooltest.MustNotRun})
		require.NoError(t, err)
		pass(time.Minute)
		require.Equal(t, 1, p.Stats().Queued)
		s.Stop()
		s.Stop()
		require.NoError(t, s.Wait(t.Context()))
		p.Resume()
		pooltest.Drain(t, p)
	})
}

func TestRoundsNeedNoRoom(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, overflow))
			r := newRounds()
			for range 5 { // more than there is room for
				_, err := taskpool.Every(t.Context(), p, 10*time.Second, taskpool.Task{Run: r.run})
				require.NoError(t, err)
			}
			pass(25 * time.Second)
			require.Len(t, r.starts, 10)
			require.Zero(t, p.Stats().Shed)
			require.NoError(t, p.Shutdown(context.Background()))
		})
	}
}

func TestSeriesInATaskEndsWithItUnlessDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var own, detached *taskpool.Periodic
		r := newRounds()
		require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) (err error) {
			if own, err = taskpool.Every(ctx, p, 10*time.Second, taskpool.Task{Run: pooltest.MustNotRun}); err != nil {
				return err
			}
			detached, err = taskpool.Every(taskpool.Detach(ctx), p, 10*time.Second, taskpool.Task{Run: r.run})
			return err
		}}).Wait(t.Context()))
		require.ErrorContains(t, own.Wait(t.Context()), "Detach")
		pass(25 * time.Second)
		require.Len(t, r.starts, 2)
		detached.Stop()
		pooltest.Drain(t, p)
	})
}

func TestEveryRefusesByName(t *testing.T) {
	p := pooltest.New(t)
	task := taskpool.Task{Run: pooltest.MustNotRun}
	var none context.Context
	for _, test := range []struct {
		ctx  context.Context
		p    *taskpool.Pool
		d    time.Duration
		t    taskpool.Task
		text string
	}{
		{none, p, 1, task, "taskpool: Every: ctx must not be nil"},
		{t.Context(), nil, 1, task, "taskpool: Every: the Pool must be one that New has returned, got nil"},
		{t.Context(), p, 0, task, "taskpool: Every: d must be positive, got 0s"},
		{t.Context(), p, -time.Second, task, "taskpool: Every: d must be positive, got -1s"},
		{t.Context(), p, 1, taskpool.Task{}, "taskpool: Every: Task.Run must not be nil"},
		{t.Context(), p, 1, taskpool.Task{Run: pooltest.Nop, Timeout: -1}, "taskpool: Task.Timeout must not be negative, got -1ns"},
	} {
		s, err := taskpool.Every(test.ctx, test.p, test.d, test.t)
		require.EqualError(t, err, test.text)
		require.Nil(t, s)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := taskpool.Every(over, p, 1, task)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, outstanding(p))

	for got, s := range map[string]*taskpool.Periodic{"nil": nil, "a zero Periodic": {}} {
		must := ": the Periodic must be one that Every has returned, got " + got
		require.PanicsWithValue(t, "taskpool: Periodic.Stop"+must, s.Stop)
		require.PanicsWithValue(t, "taskpool: Periodic.Skipped"+must, func() { s.Skipped() })
		require.EqualError(t, s.Wait(t.Context()), "taskpool: Periodic.Wait"+must)
	}
	s, err := taskpool.Every(t.Context(), p, time.Hour, task)
	require.NoError(t, err)
	require.EqualError(t, s.Wait(none), "taskpool: Periodic.Wait: ctx must not be nil")
	s.Stop()
	require.NoError(t, s.Wait(t.Context()))
}

func TestStopEndsTheRetriesOfTheRoundAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		attempts := 0
		s, err := taskpool.Every(t.Context(), p, time.Hour, taskpool.Task{NotBefore: time.Now(), Retry: taskpool.Retry{MaxAttempts: 5}, Run: func(context.Context) error {
			attempts++
			time.Sleep(time.Minute)
			return pooltest.ErrTask
		}})
		require.NoError(t, err)
		time.Sleep(time.Second)
		s.Stop()
		require.NoError(t, s.Wait(t.Context()))
		time.Sleep(time.Hour)
		require.Equal(t, 1, attempts)
	})
}

func TestEveryFromACenturyLongPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		rounds := 0
		s, err := taskpool.Every(t.Context(), p, time.Hour, taskpool.Task{NotBefore: time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), Run: func(context.Context) error {
			rounds++
			return nil
		}})
		require.NoError(t, err)
		time.Sleep(10 * time.Hour)
		s.Stop()
		require.Equal(t, 11, rounds, "one at once, and then one each hour")
	})
}

func TestEveryTakesNoAfter(t *testing.T) {
	p := pooltest.New(t)
	h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
	_, err := taskpool.Every(t.Context(), p, time.Hour, taskpool.Task{After: []*taskpool.Handle{h}, Run: pooltest.Nop})
	require.EqualError(t, err, "taskpool: Every: Task.After must be empty, got 1")
}

// A hook that is told of a round ends the goroutine that has submitted it. The round is accepted,
// and so are those after it.
func TestEveryGoesOnAfterAGoexitInAHook(t *testing.T) {
	for _, bad := range []int32{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			var queued atomic.Int32
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Queued: func(taskpool.TaskEvent) {
				if queued.Add(1) == bad {
					runtime.Goexit()
				}
			}}))
			r := newRounds()
			var s *taskpool.Periodic
			ended := make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				defer close(ended)
				s, _ = taskpool.Every(ctx, p, time.Second, taskpool.Task{Run: r.run})
			}()
			<-ended
			pass(3500 * time.Millisecond)
			require.Equal(t, seconds(1, 2, 3), r.starts)
			if s == nil { // the goroutine that called Every has ended: so it ends with ctx
				cancel()
				require.NoError(t, p.WaitIdle(t.Context()))
				return
			}
			s.Stop()
			require.NoError(t, s.Wait(t.Context()))
			cancel()
		})
	}
}
