package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// What Submit and Go refuse.

func TestSubmitRefusesWhatCannotBe(t *testing.T) {
	var bad taskpool.Task
	with := func(change func(*taskpool.Task)) taskpool.Task {
		task := taskpool.Task{Run: func(context.Context) error { panic("must not run") }}
		change(&task)
		return task
	}
	backoff := func(int) time.Duration { return 0 }
	always := func(error) bool { return true }
	tests := []struct {
		name    string
		ctx     context.Context
		task    taskpool.Task
		mention []string // the field, the value and what is allowed
	}{
		{"nil context", nil, with(func(*taskpool.Task) {}), []string{"ctx", "must not be nil"}},
		{"nil Run", context.Background(), bad, []string{"Task.Run", "must not be nil"}},
		{"negative Timeout", context.Background(), with(func(t *taskpool.Task) { t.Timeout = -time.Second }),
			[]string{"Task.Timeout", "not be negative", "-1s"}},
		{"negative MaxAttempts", context.Background(), with(func(t *taskpool.Task) { t.Retry.MaxAttempts = -2 }),
			[]string{"Task.Retry.MaxAttempts", "not be negative", "-2"}},
		{"Backoff without attempts", context.Background(), with(func(t *taskpool.Task) { t.Retry.Backoff = backoff }),
			[]string{"Retry.MaxAttempts", "at least 2", "Retry.Backoff", "got 0"}},
		{"Backoff with one attempt", context.Background(), with(func(t *taskpool.Task) { t.Retry = taskpool.Retry{MaxAttempts: 1, Backoff: backoff} }),
			[]string{"Retry.MaxAttempts", "at least 2", "Retry.Backoff", "got 1"}},
		{"If without attempts", context.Background(), with(func(t *taskpool.Task) { t.Retry.If = always }),
			[]string{"Retry.MaxAttempts", "at least 2", "Retry.If", "got 0"}},
		{"If with one attempt", context.Background(), with(func(t *taskpool.Task) { t.Retry = taskpool.Retry{MaxAttempts: 1, If: always} }),
			[]string{"Retry.MaxAttempts", "at least 2", "Retry.If", "got 1"}},
	}
	p := pooltest.New(t, taskpool.WithWorkers(1))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			h, err := p.Submit(test.ctx, test.task)
			require.Error(t, err)
			require.Nil(t, h)
			require.Regexp(t, "^taskpool: ", err.Error())
			for _, m := range test.mention {
				require.Contains(t, err.Error(), m)
			}
			require.NoError(t, goleak.Find(before))
			s := p.Stats()
			require.Zero(t, s.Submitted)
			require.Zero(t, s.Attempts)
		})
	}
}

func TestGoRefusesNil(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	err := p.Go(taskpool.High, nil)
	require.EqualError(t, err, "taskpool: Go: f must not be nil")
	require.Zero(t, p.Stats().Submitted)
}

func TestSubmitRefusesAContextThatIsOver(t *testing.T) {
	cause := errors.New("client went away")
	p := pooltest.New(t, taskpool.WithWorkers(1))
	run := func(context.Context) error { panic("must not run") }

	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		h, err := p.Submit(ctx, taskpool.Task{Run: run})
		require.Nil(t, h)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, cause)
	})
	t.Run("canceled without a cause", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := p.Submit(ctx, taskpool.Task{Run: run})
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithDeadlineCause(context.Background(), time.Unix(1, 0), cause)
		defer cancel()
		_, err := p.Submit(ctx, taskpool.Task{Run: run})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, cause)
	})
	s := p.Stats()
	require.Equal(t, uint64(3), s.Refused)
	require.Zero(t, s.Submitted)
	require.Zero(t, s.Attempts)
}

// A context from outside may do anything in its methods, so none is called with
// the pool's lock held. A call of Stats in one would otherwise never return.
func TestMethodsOfForeignContextsAreCalledWithoutTheLock(t *testing.T) {
	tests := []struct {
		name string
		run  func(t *testing.T, p *taskpool.Pool, ctx *pooltest.CountedContext, cancel func())
	}{
		{"context over before Submit", func(t *testing.T, p *taskpool.Pool, ctx *pooltest.CountedContext, cancel func()) {
			cancel()
			_, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			require.ErrorIs(t, err, context.Canceled)
		}},
		{"context over in the middle of Submit", func(t *testing.T, p *taskpool.Pool, ctx *pooltest.CountedContext, cancel func()) {
			ctx.Asked = func() { cancel(); synctest.Wait() }
			_, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			require.ErrorIs(t, err, context.Canceled)
			require.Nil(t, ctx.Asked, "too early to be of use")
		}},
		{"task runs", func(t *testing.T, p *taskpool.Pool, ctx *pooltest.CountedContext, _ func()) {
			h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { ctx.Done(); return ctx.Err() }})
			require.NoError(t, err)
			require.NoError(t, h.Wait(context.Background()))
		}},
		{"context ends in Run", func(t *testing.T, p *taskpool.Pool, ctx *pooltest.CountedContext, cancel func()) {
			h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() }})
			require.NoError(t, err)
			require.ErrorIs(t, h.Wait(context.Background()), context.Canceled)
		}},
		{"context ends waiting for room", func(t *testing.T, p *taskpool.Pool, ctx *pooltest.CountedContext, cancel func()) {
			release := pooltest.Block(t, p)
			defer release()
			refused := make(chan error)
			go func() {
				_, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
				refused <- err
			}()
			synctest.Wait()
			cancel()
			require.ErrorIs(t, <-refused, context.Canceled)
		}},
		{"context ends while it waits", func(t *testing.T, p *taskpool.Pool, ctx *pooltest.CountedContext, cancel func()) {
			h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop, NotBefore: time.Now().Add(time.Hour)})
			require.NoError(t, err)
			cancel()
			require.ErrorIs(t, h.Wait(context.Background()), context.Canceled)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
				synctest.Wait() // nobody else holds the lock for a moment
				var held atomic.Int64
				inner, cancel := context.WithCancel(context.Background())
				defer cancel()
				ctx := &pooltest.CountedContext{Context: inner, Probe: func() {
					if !pooltest.Answers(p) {
						held.Add(1)
					}
				}}
				test.run(t, p, ctx, cancel)
				synctest.Wait()
				require.Zero(t, held.Load(), "calls with the lock held")
			})
		})
	}
}

func TestRefusedSubmitLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
		inner, cancel := context.WithCancel(context.Background())
		defer cancel()
		ctx := &pooltest.CountedContext{Context: inner}

		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		_, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
		require.ErrorIs(t, err, taskpool.ErrFull)
		require.Zero(t, ctx.Waiting.Load(), "a full pool still waits for the context")
		release()
		require.NoError(t, p.WaitIdle(context.Background()))

		h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop, NotBefore: time.Now().Add(time.Second)})
		require.NoError(t, err)
		require.Equal(t, int64(1), ctx.Waiting.Load(), "the test sees who waits")
		require.NoError(t, h.Wait(context.Background()))
		synctest.Wait()
		require.Zero(t, ctx.Waiting.Load(), "a settled task still waits for its context")

		require.NoError(t, p.Shutdown(context.Background()))
		_, err = p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
		require.ErrorIs(t, err, taskpool.ErrClosed)
		require.Zero(t, ctx.Waiting.Load(), "a closed pool still waits for the context")
		require.ErrorIs(t, p.Go(taskpool.High, func() {}), taskpool.ErrClosed)
		require.Equal(t, uint64(3), p.Stats().Refused)
	})
}

// Pause and Resume.

func TestNothingStartsWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		p.Pause()
		var ran atomic.Int64
		for range 3 {
			require.NoError(t, p.Go(taskpool.High, func() { ran.Add(1) }))
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { ran.Add(1); return nil }})
			pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Minute), Run: func(context.Context) error { ran.Add(1); return nil }})
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, ran.Load())
		s := p.Stats()
		require.True(t, s.Paused)
		require.Equal(t, 9, s.Queued)
		require.Zero(t, s.Attempts)
		p.Resume()
		synctest.Wait()
		require.Equal(t, int64(9), ran.Load())
		require.False(t, p.Stats().Paused)
	})
}

func TestRunningTasksGoOnWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		running := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Minute); return nil }})
		waiting := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		synctest.Wait()
		p.Pause()
		require.NoError(t, running.Wait(context.Background()))
		synctest.Wait()
		require.Equal(t, taskpool.StateQueued, waiting.State())
		p.Resume()
		require.NoError(t, waiting.Wait(context.Background()))
	})
}

func TestTasksOfAPausedPoolCanBeCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		p.Pause()
		ctx, cancel := context.WithCancel(context.Background())
		h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, err)
		cancel()
		require.ErrorIs(t, h.Wait(context.Background()), context.Canceled)
		require.Zero(t, p.Stats().Attempts)
	})
}

func TestAPausedPoolHasRoomForItsCapacityAndItsFreeSlots(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(3, taskpool.OverflowReject))
	p.Pause()
	for range 5 {
		require.NoError(t, p.Go(taskpool.Medium, func() {}))
	}
	require.ErrorIs(t, p.TryGo(taskpool.High, func() {}), taskpool.ErrFull)
}

func TestShutdownLiftsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		p.Pause()
		h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, p.Shutdown(context.Background()))
		require.Equal(t, taskpool.StateSucceeded, h.State())
		require.False(t, p.Stats().Paused)
	})
}

func TestPauseDoesNothingDuringAShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		p.Pause()
		require.False(t, p.Stats().Paused)
		release()
		require.NoError(t, <-down)
		require.Equal(t, taskpool.StateSucceeded, h.State())
	})
}

// Resize.

func TestGrowingStartsWaitingTasksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate := make(chan struct{})
		for range 5 {
			require.NoError(t, p.Go(taskpool.Medium, func() { <-gate }))
		}
		synctest.Wait()
		require.Equal(t, 1, p.Stats().Running)
		require.NoError(t, p.Resize(3))
		synctest.Wait()
		s := p.Stats()
		require.Equal(t, 3, s.Running)
		require.Equal(t, 2, s.Queued)
		require.Equal(t, 3, s.Goroutines)
		require.Equal(t, 3, s.Workers)
		close(gate)
	})
}

func TestGrowingLetsWaitingSubmittersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		release := pooltest.Block(t, p)
		defer release()
		accepted := make(chan *taskpool.Handle)
		go func() {
			h, err := p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop})
			assert.NoError(t, err)
			accepted <- h
		}()
		synctest.Wait()
		require.Equal(t, 1, p.Stats().SubmittersWaiting)
		require.NoError(t, p.Resize(2))
		require.NoError(t, (<-accepted).Wait(context.Background()))
	})
}

func TestShrinkingLetsRunningTasksFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4))
		var running pooltest.Peak
		var hs []*taskpool.Handle
		task := taskpool.Task{Run: func(ctx context.Context) error {
			running.Enter()
			defer running.Leave()
			time.Sleep(time.Second)
			return ctx.Err()
		}}
		for range 4 {
			hs = append(hs, pooltest.Submit(t, p, task))
		}
		synctest.Wait()
		require.NoError(t, p.Resize(2))
		s := p.Stats()
		require.Equal(t, 4, s.Running, "running tasks are left alone")
		require.Equal(t, 2, s.Workers)
		for range 6 {
			hs = append(hs, pooltest.Submit(t, p, task))
		}
		for _, h := range hs[:4] {
			require.NoError(t, h.Wait(context.Background()))
		}
		running.Highest.Store(0)
		for _, h := range hs[4:] {
			require.NoError(t, h.Wait(context.Background()))
		}
		require.Equal(t, int64(2), running.Highest.Load(), "at once, when the first four had finished")
		synctest.Wait()
		s = p.Stats()
		require.Equal(t, 2, s.Goroutines)
		require.Equal(t, 2, s.Idle)
		pooltest.RequireWorkers(t, p, 2)
	})
}

func TestShrinkingAnIdlePoolEndsWorkersAtOnce(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(8))
	require.NoError(t, p.Resize(1))
	require.Equal(t, 1, p.Stats().Goroutines)
	pooltest.RequireWorkers(t, p, 1)
}

// Workers that came for tasks which ran while others were parked are not kept for nothing.
func TestShrinkingKeepsNoWorkersForWhatIsParkedNoMore(t *testing.T) {
	const parked = 3
	for _, c := range []struct {
		name    string
		hang    bool
		workers int
	}{
		{"the parked resume", false, 5},
		{"the parked are given up", true, 5},
		{"the parked are given up, and others were hired since", true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				gate := make(chan struct{})
				open := sync.OnceFunc(func() { close(gate) })
				defer open()
				var hs []*taskpool.Handle
				for range parked {
					hs = append(hs, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
						return taskpool.Block(ctx, func() error { <-gate; return nil })
					}}))
				}
				synctest.Wait()
				require.Equal(t, parked, p.Stats().Parked)
				defer pooltest.Occupy(t, p)()
				require.Equal(t, parked+1, p.Stats().Goroutines)
				if c.hang {
					for _, h := range hs {
						h.Cancel(nil)
						require.ErrorIs(t, h.Wait(pooltest.Patience(t)), taskpool.ErrHung)
					}
					require.NoError(t, p.Resize(c.workers))
				} else {
					require.NoError(t, p.Resize(c.workers))
					open()
					for _, h := range hs {
						require.NoError(t, h.Wait(pooltest.Patience(t)))
					}
				}
				synctest.Wait()
				require.Equal(t, c.workers, p.Stats().Goroutines)
				require.NoError(t, p.Resize(1))
				synctest.Wait()
				require.NoError(t, pooltest.AtRest(p))
				require.Equal(t, 1, p.Stats().Goroutines)
			})
		})
	}
}

func TestResizeKeepsItsWordThroughPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4))
		gate := make(chan struct{})
		for range 4 {
			require.NoError(t, p.Go(taskpool.Medium, func() { <-gate; panic("x") }))
		}
		synctest.Wait()
		require.NoError(t, p.Resize(2))
		close(gate)
		synctest.Wait()
		require.Equal(t, 2, p.Stats().Goroutines)
		pooltest.RequireWorkers(t, p, 2)
		require.NoError(t, p.Resize(5))
		pooltest.RequireWorkers(t, p, 5)
	})
}

func TestResizeRefusesWhatCannotBe(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	for _, n := range []int{0, -1} {
		require.EqualError(t, p.Resize(n), fmt.Sprintf("taskpool: Resize: workers must be at least 1, got %d", n))
	}
	require.Equal(t, 2, p.Stats().Workers)
	require.Equal(t, 2, p.Stats().Goroutines)
	require.NoError(t, p.Shutdown(context.Background()))
	require.ErrorIs(t, p.Resize(3), taskpool.ErrClosed)
	require.Zero(t, p.Stats().Goroutines)
}

// WaitIdle.

func TestWaitIdleReturnsWhenNothingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		require.NoError(t, p.WaitIdle(context.Background()), "an empty pool")
		start := time.Now()
		sleep := func(context.Context) error { time.Sleep(time.Second); return nil }
		failing := true
		hs := []*taskpool.Handle{
			pooltest.Submit(t, p, taskpool.Task{Name: "running", Run: sleep}),
			pooltest.Submit(t, p, taskpool.Task{Name: "queued", Run: sleep}),
			pooltest.Submit(t, p, taskpool.Task{Name: "delayed", Run: sleep, NotBefore: start.Add(time.Hour)}),
			pooltest.Submit(t, p, taskpool.Task{Name: "retried", Run: func(context.Context) error {
				if failing {
					failing = false
					return errors.New("not yet")
				}
				return nil
			}, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 2 * time.Hour }}}),
		}
		require.NoError(t, p.WaitIdle(context.Background()))
		for _, h := range hs {
			require.Equal(t, taskpool.StateSucceeded, h.State())
		}
		require.Equal(t, 2*time.Hour+2*time.Second, time.Since(start))
	})
}

func TestEveryWaitIdleReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		for range 3 {
			release := pooltest.Block(t, p)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { assert.NoError(t, p.WaitIdle(context.Background())) })
			}
			synctest.Wait()
			release()
			wg.Wait()
		}
	})
}

func TestWaitIdleReturnsWhenTheLastTaskIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		p.Pause()
		h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		idle := make(chan error)
		go func() { idle <- p.WaitIdle(context.Background()) }()
		synctest.Wait()
		h.Cancel(nil)
		require.NoError(t, <-idle)
	})
}

func TestWaitIdleReturnsTheCauseWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		release := pooltest.Block(t, p)
		defer release()
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, cause)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, p.WaitIdle(ctx), cause)
		require.Equal(t, time.Minute, time.Since(start))
	})
}

func TestWaitIdleOfADrainedPoolReturns(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	require.NoError(t, p.Shutdown(context.Background()))
	require.NoError(t, p.WaitIdle(context.Background()))
}

func TestWaitIdleInsideATaskReturnsErrInside(t *testing.T) {
	for name, wait := range insideCalls(func(p *taskpool.Pool, ctx context.Context) error { return p.WaitIdle(ctx) }) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, err := wait(t)
				require.ErrorIs(t, err, taskpool.ErrInside)
			})
		})
	}
}

func TestInsideSaysWhetherTheCallerIsOfThePool(t *testing.T) {
	errInside := errors.New("inside")
	for name, ask := range insideCalls(func(p *taskpool.Pool, ctx context.Context) error {
		over, cancel := context.WithCancel(ctx)
		cancel()
		if p.Inside(ctx) && p.Inside(over) {
			return errInside
		}
		return nil
	}) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := ask(t)
				require.Equal(t, errInside, err)
				require.False(t, p.Inside(t.Context()), "the test is outside")
				pooltest.Submit(t, pooltest.New(t), taskpool.Task{Run: func(ctx context.Context) error {
					assert.False(t, p.Inside(ctx), "a task of another pool")
					return nil
				}})
			})
		})
	}
	p := pooltest.New(t)
	var none context.Context
	require.PanicsWithValue(t, "taskpool: Inside: ctx must not be nil", func() { p.Inside(none) })
}

// insideCalls makes a call that would wait for its own caller from each place
// inside a pool, and returns the pool and what the first such call returned.
func insideCalls(call func(*taskpool.Pool, context.Context) error) map[string]func(*testing.T) (*taskpool.Pool, error) {
	var p *taskpool.Pool // one a call; tests of one map do not run in parallel
	var got chan error
	start := func(t *testing.T, hooks taskpool.Hooks) {
		got = make(chan error, 1)
		p = pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHooks(hooks))
	}
	withTask := func(run func(context.Context) error) func(*testing.T) (*taskpool.Pool, error) {
		return func(t *testing.T) (*taskpool.Pool, error) {
			start(t, taskpool.Hooks{})
			pooltest.Submit(t, p, taskpool.Task{Run: run})
			return p, <-got
		}
	}
	background := context.Background()
	ask := func(ctx context.Context) error {
		select {
		case got <- call(p, ctx):
		default: // a hook is called again for what the test does afterwards
		}
		return nil
	}
	return map[string]func(*testing.T) (*taskpool.Pool, error){
		"with the task's context": withTask(ask),
		"with a context derived from the task's": withTask(func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			return ask(ctx)
		}),
		"with the task's context on another goroutine": withTask(func(ctx context.Context) error {
			done := make(chan struct{})
			go func() { defer close(done); _ = ask(ctx) }()
			<-done
			return nil
		}),
		"with another context on the task's goroutine": withTask(func(context.Context) error { return ask(background) }),
		"in a function given to Go": func(t *testing.T) (*taskpool.Pool, error) {
			start(t, taskpool.Hooks{})
			require.NoError(t, p.Go(taskpool.High, func() { _ = ask(background) }))
			return p, <-got
		},
		"on a worker that replaced one": func(t *testing.T) (*taskpool.Pool, error) {
			start(t, taskpool.Hooks{})
			require.NoError(t, p.Resize(1))
			require.NoError(t, p.Go(taskpool.High, func() { panic("x") }))
			require.NoError(t, p.Go(taskpool.High, func() { _ = ask(background) }))
			return p, <-got
		},
		"in hook Started": func(t *testing.T) (*taskpool.Pool, error) {
			start(t, taskpool.Hooks{Started: func(taskpool.TaskEvent) { _ = ask(background) }})
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
			return p, <-got
		},
		"in hook Finished": func(t *testing.T) (*taskpool.Pool, error) {
			start(t, taskpool.Hooks{Finished: func(taskpool.TaskEvent) { _ = ask(background) }})
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
			return p, <-got
		},
		"in hook WorkerReplaced": func(t *testing.T) (*taskpool.Pool, error) {
			start(t, taskpool.Hooks{WorkerReplaced: func(taskpool.WorkerEvent) { _ = ask(background) }})
			require.NoError(t, p.Go(taskpool.High, func() { panic("x") }))
			return p, <-got
		},
	}
}

// What a pool costs that has nothing to do.

// wakeups returns about how many times goroutines were made to run, in the whole
// process. The runtime samples each goroutine's every eighth.
func wakeups() (n uint64) {
	sample := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(sample)
	for _, c := range sample[0].Value.Float64Histogram().Counts {
		n += c
	}
	return 8 * n
}

// In a bubble the clock jumps from timer to timer, so ten thousand hours cost as
// many wake-ups as there are timers in them: a ticker of an hour costs ten
// thousand. What the runtime does on its own stays far below that.
func TestAnIdlePoolWakesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(8), taskpool.WithHangGrace(time.Minute))
		// Leave behind what could leave a timer behind.
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, Timeout: time.Hour})
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, NotBefore: time.Now().Add(time.Second)})
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, NotBefore: time.Now().Add(24 * time.Hour)}).Cancel(nil)
		require.NoError(t, p.Go(taskpool.High, func() { panic("x") }))
		time.Sleep(48 * time.Hour)
		require.NoError(t, p.WaitIdle(context.Background()))
		synctest.Wait()
		runtime.GC() // so that none is due in the meantime

		before := wakeups()
		time.Sleep(10_000 * time.Hour)
		require.Less(t, wakeups()-before, uint64(2_000), "wake-ups in ten thousand idle hours")
	})
}

// What a finished task holds on to.

// load is what a closure in the tests below refers to.
type load struct{ bytes [1 << 10]byte }

// requireGarbage fails if what w points to is still referred to, once the pool's
// goroutines sleep.
func requireGarbage(t *testing.T, w weak.Pointer[load]) {
	t.Helper()
	synctest.Wait()
	runtime.GC()
	runtime.GC() // also if the first came while another was under way
	require.True(t, w.Value() == nil, "the closure is still referred to")
}

func TestFinishedTaskIsGarbageWhileItsHandleIsHeld(t *testing.T) {
	// Each submits a task whose closure refers to a load, and settles it. The
	// load must not be on the test's own stack.
	type settle func(*testing.T, *taskpool.Pool, *load) *taskpool.Handle
	tests := map[string]settle{
		"succeeded": func(t *testing.T, p *taskpool.Pool, l *load) *taskpool.Handle {
			return pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { l.bytes[0]++; return nil }})
		},
		"failed": func(t *testing.T, p *taskpool.Pool, l *load) *taskpool.Handle {
			return pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { l.bytes[0]++; return errors.New("x") }})
		},
		"panicked": func(t *testing.T, p *taskpool.Pool, l *load) *taskpool.Handle {
			return pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { l.bytes[0]++; panic("x") }})
		},
		"retried": func(t *testing.T, p *taskpool.Pool, l *load) *taskpool.Handle {
			return pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { l.bytes[0]++; return errors.New("x") },
				Retry: taskpool.Retry{MaxAttempts: 3,
					Backoff: func(int) time.Duration { l.bytes[1]++; return 0 },
					If:      func(error) bool { l.bytes[2]++; return true }}})
		},
		"canceled while it waited": func(t *testing.T, p *taskpool.Pool, l *load) *taskpool.Handle {
			h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { l.bytes[0]++; return nil },
				NotBefore: time.Now().Add(time.Hour)})
			h.Cancel(nil)
			return h
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				var w weak.Pointer[load]
				h := func() *taskpool.Handle {
					l := new(load)
					w = weak.Make(l)
					return test(t, p, l)
				}()
				_ = h.Wait(context.Background())
				require.NotEqual(t, taskpool.StateRunning, h.State())
				requireGarbage(t, w)
				runtime.KeepAlive(h)
			})
		})
	}
}

// A loadError is an error that holds on to a load.
type loadError struct{ l *load }

func (e *loadError) Error() string { return "load" }

func TestErrorOfATaskIsGarbageOnceItsHandleIs(t *testing.T) {
	for name, fail := range map[string]func(*testing.T, *taskpool.Pool, *load){
		"error": func(t *testing.T, p *taskpool.Pool, l *load) {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return &loadError{l} }})
		},
		"panic": func(t *testing.T, p *taskpool.Pool, l *load) {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic(l) }})
		},
		"function's panic": func(t *testing.T, p *taskpool.Pool, l *load) {
			require.NoError(t, p.Go(taskpool.Medium, func() { panic(l) }))
		},
		"late error": func(t *testing.T, p *taskpool.Pool, l *load) {
			pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second,
				Run: func(context.Context) error { time.Sleep(time.Hour); return &loadError{l} }})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var failed atomic.Int64
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(slog.DiscardHandler)),
					taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) { failed.Add(1) }}))
				w := func() weak.Pointer[load] {
					l := new(load)
					fail(t, p, l)
					return weak.Make(l)
				}()
				require.NoError(t, p.WaitIdle(context.Background()))
				time.Sleep(2 * time.Hour)
				require.EqualValues(t, 1, failed.Load())
				requireGarbage(t, w)
			})
		})
	}
}

func TestFinishedFunctionIsGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		w := func() weak.Pointer[load] {
			l := new(load)
			require.NoError(t, p.Go(taskpool.Medium, func() { l.bytes[0]++ }))
			return weak.Make(l)
		}()
		require.NoError(t, p.WaitIdle(context.Background()))
		requireGarbage(t, w)
	})
}

// Stress.

// Ten in a hundred tasks panic, one calls Goexit, and all the same every one
// settles once and the pool is as it was.
func TestEveryAcceptedTaskSettlesOnceUnderStress(t *testing.T) {
	const workers, submitters, window, lap = 4, 16, 4096, 1000
	n := pooltest.Times(1_000_000, 100_000)
	ran := make([]atomic.Uint32, n)    // by number of the task
	finals := make([]atomic.Uint32, n) // of the submitted ones, by ID less one
	var goFinals [16]atomic.Int64      // of the others, by state
	var running pooltest.Peak
	room := make(chan struct{}, window) // bounds memory: tasks that are not finished
	p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithHooks(taskpool.Hooks{
		Finished: func(e taskpool.TaskEvent) {
			if e.Task.ID == 0 {
				goFinals[e.Task.State].Add(1)
			} else {
				finals[e.Task.ID-1].Add(1)
			}
		},
	}))
	act := func(i int) {
		running.Enter()
		defer func() { running.Leave(); <-room }()
		ran[i].Add(1)
		switch {
		case i%10 == 0:
			panic("one in ten")
		case i%100 == 1:
			runtime.Goexit()
		}
	}

	// The sampler takes its turn whenever a submitter has made a lap, so that
	// it sees the pool at work for all of the time.
	laps := make(chan struct{})
	sampled := make(chan []taskpool.Stats)
	go func() {
		var bad []taskpool.Stats
		for range laps {
			s := p.Stats()
			if s.Submitted != s.Succeeded+s.Failed+s.Canceled+s.Shed+uint64(s.Queued+s.Delayed+s.Running+s.Parked) ||
				s.Running > workers || s.Goroutines > workers || s.Goroutines < 0 {
				bad = append(bad, s)
			}
		}
		sampled <- bad
	}()

	var next atomic.Int64
	var producers errgroup.Group
	for s := range submitters {
		producers.Go(func() error {
			for made := 1; ; made++ {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				pr := taskpool.Priority(i%5 - 2)
				room <- struct{}{}
				var err error
				if s%2 == 0 {
					err = p.Go(pr, func() { act(i) })
				} else {
					_, err = p.Submit(context.Background(), taskpool.Task{Priority: pr,
						Run: func(context.Context) error { act(i); return nil }})
				}
				if err != nil {
					return err
				}
				if made%lap == 0 {
					laps <- struct{}{}
				}
			}
		})
	}
	require.NoError(t, producers.Wait())
	close(laps)
	require.Empty(t, <-sampled)
	require.NoError(t, p.WaitIdle(context.Background()))
	pooltest.RequireWorkers(t, p, workers)
	require.NoError(t, p.WaitIdle(context.Background()))

	s := p.Stats()
	pooltest.RequireConserved(t, s)
	total, panics, goexits := uint64(n+workers), uint64(n/10), uint64(n/100)
	require.Equal(t, total, s.Submitted)
	require.Equal(t, total, s.Attempts)
	require.Equal(t, panics, s.Panics)
	require.Equal(t, goexits, s.Goexits)
	require.Equal(t, panics+goexits, s.Failed)
	require.Equal(t, panics+goexits, s.Replaced)
	require.Equal(t, total-panics-goexits, s.Succeeded)
	require.Zero(t, s.Canceled+s.Shed+s.Refused+s.Retries+s.Hangs)
	require.LessOrEqual(t, running.Highest.Load(), int64(workers))

	require.NoError(t, p.Shutdown(context.Background())) // hooks have been called
	for i := range ran {
		require.Equal(t, uint32(1), ran[i].Load(), "task %d", i)
	}
	settled := goFinals[taskpool.StateSucceeded].Load() + goFinals[taskpool.StateFailed].Load()
	for i := range finals {
		f := finals[i].Load()
		require.LessOrEqual(t, f, uint32(1), "task with ID %d", i+1)
		settled += int64(f)
	}
	require.Equal(t, int64(total), settled)
}

// Submitters race with Shutdown, many times over: a task is accepted and
// settles, or it is refused and never runs.
func TestSubmittersRacingWithShutdownLoseNothing(t *testing.T) {
	const submitters = 64
	rounds := pooltest.Times(1000, 100)
	before := goleak.IgnoreCurrent()
	for round := range rounds {
		opts := []taskpool.Option{taskpool.WithWorkers(1 + round%4)}
		switch round % 3 {
		case 1:
			opts = append(opts, taskpool.WithCapacity(8, taskpool.OverflowWait))
		case 2:
			opts = append(opts, taskpool.WithCapacity(8, taskpool.OverflowShed))
		}
		p := pooltest.New(t, opts...)
		shutdownAt := int64(rand.IntN(500)) // accepted tasks after which it is called
		var accepted, ran, late atomic.Int64
		var down atomic.Bool
		now := make(chan struct{})
		act := func() {
			ran.Add(1)
			if down.Load() {
				late.Add(1)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		handles := make([][]*taskpool.Handle, submitters)
		var once sync.Once
		for i := range submitters {
			wg.Go(func() {
				for {
					var err error
					var h *taskpool.Handle
					switch pr := taskpool.Priority(i % 3); i % 4 {
					case 0, 1:
						err = p.Go(pr, act)
					case 2:
						h, err = p.Submit(context.Background(), taskpool.Task{Priority: pr, Run: func(context.Context) error { act(); return nil }})
					case 3:
						h, err = p.Submit(ctx, taskpool.Task{Priority: pr, Run: func(context.Context) error { act(); return nil }})
					}
					switch {
					case err == nil:
						if h != nil {
							handles[i] = append(handles[i], h)
						}
						if accepted.Add(1) >= shutdownAt {
							once.Do(func() { close(now) })
						}
					case errors.Is(err, taskpool.ErrClosed):
						return
					case errors.Is(err, taskpool.ErrFull):
						runtime.Gosched()
					default:
						assert.NoError(t, err)
						return
					}
				}
			})
		}
		<-now
		err := p.Shutdown(context.Background())
		down.Store(true)
		require.NoError(t, err)
		atReturn := p.Stats()
		wg.Wait()
		cancel()
		s := p.Stats()
		require.Equal(t, atReturn.Attempts, s.Attempts, "started after Shutdown had returned")
		require.Zero(t, late.Load(), "ran after Shutdown had returned")
		require.Equal(t, uint64(accepted.Load()), s.Submitted)
		require.Equal(t, s.Submitted, s.Succeeded+s.Shed, "accepted and settled: %+v", s)
		require.Equal(t, uint64(ran.Load()), s.Succeeded)
		require.Zero(t, s.Goroutines)
		for _, h := range slices.Concat(handles...) {
			require.Contains(t, []taskpool.State{taskpool.StateSucceeded, taskpool.StateShed}, h.State())
		}
	}
	require.NoError(t, goleak.Find(before))
}

// Several goroutines do what comes to their mind, then the pool is shut down;
// nothing is lost or counted twice.
func TestRandomActionsConserveTasks(t *testing.T) {
	const actors, actions = 8, 300
	for seed := range uint64(pooltest.Times(30, 6)) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomActions(t, seed, actors, actions) })
		})
	}
}

func randomActions(t *testing.T, seed uint64, actors, actions int) {
	const most = 6 // workers
	var mu sync.Mutex
	finals := make(map[*taskpool.Handle]int) // how often each was reported as finished
	var goFinals, goAccepted int
	var running pooltest.Peak
	opts := []taskpool.Option{taskpool.WithWorkers(3), taskpool.WithHooks(taskpool.Hooks{
		Finished: func(e taskpool.TaskEvent) {
			mu.Lock()
			defer mu.Unlock()
			if h := e.Task.Handle; h != nil {
				finals[h]++
			} else {
				goFinals++
			}
		},
	})}
	if seed%3 > 0 {
		opts = append(opts, taskpool.WithCapacity(20, taskpool.Overflow(seed%3)))
	}
	p := pooltest.New(t, opts...)
	conserved := func() {
		s := p.Stats()
		assert.Equal(t, s.Submitted, s.Succeeded+s.Failed+s.Canceled+s.Shed+
			uint64(s.Queued+s.Delayed+s.Running+s.Parked), "%+v", s)
		assert.LessOrEqual(t, s.Running, most)
	}

	handles := make([][]*taskpool.Handle, actors)
	var wg sync.WaitGroup
	for actor := range actors {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(actor)))
			pr := func() taskpool.Priority { return taskpool.Priority(r.IntN(5) - 2) }
			some := func() *taskpool.Handle {
				if len(handles[actor]) == 0 {
					return nil
				}
				return handles[actor][r.IntN(len(handles[actor]))]
			}
			for range actions {
				switch action := r.IntN(20); action {
				case 0, 1, 2, 3, 4, 5, 6: // submit
					length, end := time.Duration(r.IntN(3))*time.Millisecond, r.IntN(10)
					task := taskpool.Task{Priority: pr(), Run: func(ctx context.Context) error {
						running.Enter()
						defer running.Leave()
						time.Sleep(length)
						switch end {
						case 0:
							panic("random")
						case 1:
							runtime.Goexit()
						case 2, 3:
							return errors.New("random")
						case 4:
							<-ctx.Done() // until it times out
						}
						return nil
					}}
					if end == 4 {
						task.Timeout = 5 * time.Millisecond
					}
					if r.IntN(3) == 0 {
						task.Retry = taskpool.Retry{MaxAttempts: 3, Backoff: func(attempt int) time.Duration {
							return time.Duration(attempt-1) * time.Millisecond // the first at once
						}}
					}
					if r.IntN(4) == 0 {
						task.NotBefore = time.Now().Add(time.Duration(r.IntN(5)) * time.Millisecond)
					}
					// The context ends while the task runs, waits or is
					// waiting for room, or later.
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+r.IntN(100))*time.Millisecond)
					context.AfterFunc(ctx, cancel)
					h, err := p.Submit(ctx, task)
					switch {
					case err == nil:
						handles[actor] = append(handles[actor], h)
					case !errors.Is(err, taskpool.ErrFull) && !errors.Is(err, context.DeadlineExceeded):
						assert.NoError(t, err)
					}
				case 7, 8, 9:
					err := p.Go(pr(), func() {
						running.Enter()
						defer running.Leave()
						time.Sleep(time.Millisecond)
					})
					if err == nil {
						mu.Lock()
						goAccepted++
						mu.Unlock()
					} else {
						assert.ErrorIs(t, err, taskpool.ErrFull)
					}
				case 10, 11:
					if h := some(); h != nil {
						h.Cancel(nil)
					}
				case 12, 13:
					if h := some(); h != nil {
						h.SetPriority(pr())
					}
				case 14:
					p.Pause()
				case 15, 16:
					p.Resume()
				case 17:
					assert.NoError(t, p.Resize(1+r.IntN(most)))
				case 18:
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
					if err := p.WaitIdle(ctx); err != nil {
						assert.ErrorIs(t, err, context.DeadlineExceeded)
					}
					cancel()
				case 19:
					time.Sleep(time.Millisecond)
				}
				conserved()
			}
		})
	}
	wg.Wait()
	require.NoError(t, p.Shutdown(context.Background()))

	s := p.Stats()
	pooltest.RequireConserved(t, s)
	require.Zero(t, s.Queued+s.Delayed+s.Running+s.Goroutines+s.Abandoned+s.Lost+s.SubmittersWaiting)
	require.LessOrEqual(t, running.Highest.Load(), int64(most))
	byState := make(map[taskpool.State]uint64)
	all := slices.Concat(handles...)
	for _, h := range all {
		byState[h.State()]++
		require.Equal(t, 1, finals[h], "reports of the end of one task")
	}
	require.Len(t, finals, len(all))
	require.Equal(t, goAccepted, goFinals)
	require.Equal(t, s.Submitted, uint64(len(all)+goAccepted))
	require.Equal(t, s.Failed, byState[taskpool.StateFailed])
	require.Equal(t, s.Canceled, byState[taskpool.StateCanceled])
	require.Equal(t, s.Submitted, byState[taskpool.StateSucceeded]+byState[taskpool.StateFailed]+
		byState[taskpool.StateCanceled]+byState[taskpool.StateShed]+uint64(goAccepted))
	require.NotZero(t, s.Failed, "the test is to have some of each")
	require.NotZero(t, s.Canceled)
	require.NotZero(t, s.Retries)
	require.NotZero(t, s.Panics)
}
