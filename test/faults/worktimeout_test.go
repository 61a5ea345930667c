package faults_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// until waits for the end of ctx and returns when that was, and why.
func until(ctx context.Context, began time.Time) (time.Duration, error) {
	<-ctx.Done()
	return time.Since(began), context.Cause(ctx)
}

// What a task with a WorkTimeout of 10 s does before it waits for the end of its
// context, and when that comes.
func TestWorkTimeoutCountsOnlyWork(t *testing.T) {
	const limit = 10 * time.Second
	sleep := func(d time.Duration) func(context.Context) error {
		return func(context.Context) error { time.Sleep(d); return nil }
	}
	tests := map[string]struct {
		opts []taskpool.Option
		run  func(t *testing.T, p *taskpool.Pool, ctx context.Context)
		end  time.Duration
	}{
		"work": {end: limit, run: func(*testing.T, *taskpool.Pool, context.Context) { time.Sleep(3 * time.Second) }},
		"Block's f": {end: limit, run: func(_ *testing.T, _ *taskpool.Pool, ctx context.Context) {
			_ = taskpool.Block(ctx, func() error { time.Sleep(3 * time.Second); return nil })
		}},
		"Block without parking": {end: limit, opts: []taskpool.Option{taskpool.WithMaxParked(0)},
			run: func(_ *testing.T, _ *taskpool.Pool, ctx context.Context) {
				_ = taskpool.Block(ctx, func() error { time.Sleep(3 * time.Second); return nil })
			}},
		"its turn after Block": {end: limit + time.Hour - 3*time.Second, run: func(t *testing.T, p *taskpool.Pool, ctx context.Context) {
			pooltest.Submit(t, p, taskpool.Task{Run: sleep(time.Hour)})
			_ = taskpool.Block(ctx, func() error { time.Sleep(3 * time.Second); return nil })
		}},
		"its turn after Yield": {end: limit + time.Hour, run: func(t *testing.T, p *taskpool.Pool, ctx context.Context) {
			time.Sleep(time.Second)
			pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: sleep(time.Hour)})
			require.NoError(t, taskpool.Yield(ctx))
		}},
		"another task": {end: limit + time.Hour, run: func(t *testing.T, p *taskpool.Pool, ctx context.Context) {
			require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: sleep(time.Hour)}).Wait(ctx))
		}},
		"a group": {end: limit + time.Hour, run: func(t *testing.T, p *taskpool.Pool, ctx context.Context) {
			g := p.Group(ctx, taskpool.Task{})
			g.Go(sleep(time.Hour))
			require.NoError(t, g.Wait())
		}},
		"room": {end: limit + time.Hour, opts: []taskpool.Option{taskpool.WithCapacity(0, taskpool.OverflowWait)},
			run: func(t *testing.T, p *taskpool.Pool, ctx context.Context) {
				go func() {
					_, _ = p.Submit(context.Background(), taskpool.Task{Priority: taskpool.High, Run: sleep(time.Hour)})
				}()
				synctest.Wait()
				_, err := p.Submit(context.WithoutCancel(ctx), taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
				require.NoError(t, err)
			}},
		"several, one after the other": {end: limit + 3*time.Hour, run: func(t *testing.T, p *taskpool.Pool, ctx context.Context) {
			for range 3 {
				time.Sleep(2 * time.Second)
				require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: sleep(time.Hour)}).Wait(ctx))
				require.NoError(t, taskpool.Block(ctx, func() error { time.Sleep(time.Second); return nil }))
			}
		}},
	}
	for name, test := range tests {
		for _, derived := range []bool{false, true} {
			t.Run(map[bool]string{false: "own context, ", true: "derived context, "}[derived]+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, append(test.opts, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Minute))...)
					var ended time.Duration
					var cause error
					h := pooltest.Submit(t, p, taskpool.Task{WorkTimeout: limit, Run: func(ctx context.Context) error {
						began := time.Now()
						info, _ := taskpool.Current(ctx)
						require.Zero(t, info.Deadline)
						_, bounded := ctx.Deadline()
						require.False(t, bounded)
						if derived {
							var cancel context.CancelFunc
							ctx, cancel = context.WithCancel(ctx)
							defer cancel()
						}
						test.run(t, p, ctx)
						ended, cause = until(ctx, began)
						require.ErrorIs(t, taskpool.Yield(ctx), taskpool.ErrTimeout)
						return ctx.Err()
					}})
					require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrTimeout)
					require.Equal(t, test.end, ended)
					require.Equal(t, taskpool.ErrTimeout, cause)
					require.Equal(t, taskpool.StateFailed, h.State())
					require.EqualValues(t, 1, p.Stats().Timeouts)
					require.NoError(t, p.Shutdown(context.Background()))
				})
			})
		}
	}
}

func TestWorkTimeoutEndsBlocksFunctionToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		began := time.Now()
		h := pooltest.Submit(t, p, taskpool.Task{WorkTimeout: time.Second, Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { <-ctx.Done(); return ctx.Err() })
		}})
		require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrTimeout)
		require.Equal(t, time.Second, time.Since(began))
	})
}

func TestEachAttemptHasItsWorkTimeoutAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var took []time.Duration
		h := pooltest.Submit(t, p, taskpool.Task{
			WorkTimeout: time.Second,
			Retry:       taskpool.Retry{MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Minute }},
			Run: func(ctx context.Context) error {
				began := time.Now()
				time.Sleep(500 * time.Millisecond)
				d, _ := until(ctx, began)
				took = append(took, d)
				return ctx.Err()
			}})
		require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrTimeout)
		require.Equal(t, []time.Duration{time.Second, time.Second, time.Second}, took)
		require.EqualValues(t, 3, p.Stats().Timeouts)
	})
}

// Whichever is first ends the attempt.
func TestWorkTimeoutBesideTimeoutAndHeartbeat(t *testing.T) {
	for name, test := range map[string]struct {
		task  taskpool.Task
		end   time.Duration
		cause error
		run   func(*taskpool.Pool, context.Context)
	}{
		"Timeout first, as it counts what is parked": {
			taskpool.Task{WorkTimeout: time.Second, Timeout: time.Minute}, time.Minute, taskpool.ErrTimeout,
			func(p *taskpool.Pool, ctx context.Context) {
				if h, err := p.Submit(context.WithoutCancel(ctx), taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop}); err == nil {
					_ = h.Wait(ctx)
				}
			},
		},
		"WorkTimeout first": {
			taskpool.Task{WorkTimeout: time.Second, Timeout: time.Minute}, time.Second, taskpool.ErrTimeout,
			func(*taskpool.Pool, context.Context) {},
		},
		"silence first": {
			taskpool.Task{WorkTimeout: time.Minute, Heartbeat: time.Second}, time.Second, taskpool.ErrHung,
			func(*taskpool.Pool, context.Context) {},
		},
		"WorkTimeout of a task that beats": {
			taskpool.Task{WorkTimeout: time.Minute, Heartbeat: time.Second}, time.Minute, taskpool.ErrTimeout,
			func(_ *taskpool.Pool, ctx context.Context) {
				for beat := time.Tick(500 * time.Millisecond); ctx.Err() == nil; {
					select {
					case <-beat:
						taskpool.Beat(ctx)
					case <-ctx.Done():
					}
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				var ended time.Duration
				var cause error
				test.task.Run = func(ctx context.Context) error {
					began := time.Now()
					test.run(p, ctx)
					ended, cause = until(ctx, began)
					return ctx.Err()
				}
				h := pooltest.Submit(t, p, test.task)
				require.Error(t, h.Wait(context.Background()))
				require.Equal(t, test.cause, cause)
				require.Equal(t, test.end, ended)
			})
		})
	}
}

// A task that returns an error when its time is over has timed out, noticed or not.
func TestWorkTimeoutHoldsWhereTheSupervisorIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		for _, err := range []error{pooltest.ErrTask, nil} {
			h := pooltest.Submit(t, p, taskpool.Task{WorkTimeout: time.Second, Run: func(context.Context) error {
				time.Sleep(time.Second) // the supervisor wakes at the same instant, before this or after
				return err
			}})
			if err == nil {
				require.NoError(t, h.Wait(context.Background()))
			} else {
				require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrTimeout)
				require.ErrorIs(t, h.Err(), pooltest.ErrTask)
			}
		}
		require.EqualValues(t, 1, p.Stats().Timeouts)
	})
}

func TestATaskThatOutlivesItsWorkTimeoutIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		began := time.Now()
		h := pooltest.Submit(t, p, taskpool.Task{WorkTimeout: time.Second, Run: func(context.Context) error { time.Sleep(time.Hour); return nil }})
		require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrHung)
		require.ErrorIs(t, h.Err(), taskpool.ErrTimeout)
		require.Equal(t, 2*time.Second, time.Since(began))
		time.Sleep(2 * time.Hour)
	})
}

func TestNegativeWorkTimeoutIsRefused(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	_, err := p.Submit(t.Context(), taskpool.Task{WorkTimeout: -1, Run: pooltest.Nop})
	require.EqualError(t, err, "taskpool: Task.WorkTimeout must not be negative, got -1ns")
}
