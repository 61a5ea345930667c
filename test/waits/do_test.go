package waits_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Do runs a function on the goroutine that calls it, as a task.

func TestDoRunsOnTheCallersGoroutine(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	ran := 0
	require.NoError(t, p.Do(context.Background(), taskpool.Task{Name: "guest"}, func(ctx context.Context) error {
		ran++ // the race detector would see another goroutine
		info, ok := taskpool.Current(ctx)
		require.True(t, ok)
		require.Equal(t, "guest", info.Name)
		require.Equal(t, taskpool.StateRunning, info.State)
		require.Zero(t, info.Worker)
		require.True(t, p.Inside(context.Background()))
		s := p.Stats()
		require.Equal(t, 1, s.Running)
		require.Zero(t, s.Goroutines-s.Idle, "no worker is at work")
		require.Len(t, p.Tasks(), 1)
		return nil
	}))
	require.Equal(t, 1, ran)
	require.False(t, p.Inside(context.Background()))
	require.ErrorIs(t, p.Do(context.Background(), taskpool.Task{}, func(context.Context) error { return pooltest.ErrTask }), pooltest.ErrTask)
	s := p.Stats()
	require.EqualValues(t, 1, s.Succeeded)
	require.EqualValues(t, 1, s.Failed)
	pooltest.RequireConserved(t, s)
	pooltest.RequireWorkers(t, p, 1)
}

func TestDoRefusesWhatItCannotKeep(t *testing.T) {
	p := pooltest.New(t)
	ctx := context.Background()
	var none context.Context
	for want, do := range map[string]func() error{
		"taskpool: Do: ctx must not be nil": func() error { return p.Do(none, taskpool.Task{}, pooltest.MustNotRun) },
		"taskpool: Do: f must not be nil":   func() error { return p.Do(ctx, taskpool.Task{}, nil) },
		"taskpool: Task.Run must be nil":    func() error { return p.Do(ctx, taskpool.Task{Run: pooltest.Nop}, pooltest.MustNotRun) },
		"taskpool: Do: Task.Retry.MaxAttempts must be at most 1, got 2": func() error {
			return p.Do(ctx, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2}}, pooltest.MustNotRun)
		},
		"taskpool: Do: Task.NotBefore must be zero": func() error {
			return p.Do(ctx, taskpool.Task{NotBefore: time.Now()}, pooltest.MustNotRun)
		},
		"taskpool: Task.Timeout must not be negative": func() error { return p.Do(ctx, taskpool.Task{Timeout: -1}, pooltest.MustNotRun) },
		"taskpool: Do: ": func() error { return p.Do(pooltest.EndedContext(), taskpool.Task{}, pooltest.MustNotRun) },
	} {
		require.ErrorContains(t, do(), want)
	}
	require.Error(t, (*taskpool.Pool)(nil).Do(ctx, taskpool.Task{}, pooltest.MustNotRun))
	require.Zero(t, p.Stats().Submitted)
}

func TestDoTakesItsTurnByUrgency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		order := make(chan string, 5)
		do := func(pr taskpool.Priority, name string) {
			go func() {
				_ = p.Do(t.Context(), taskpool.Task{Priority: pr}, func(context.Context) error { order <- name; return nil })
			}()
			synctest.Wait()
		}
		do(taskpool.Low, "low")
		require.NoError(t, p.Go(taskpool.Medium, func() { order <- "function" }))
		do(taskpool.Medium, "medium")
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { order <- "task"; return nil }})
		do(taskpool.High, "high")
		release()
		synctest.Wait()
		for _, want := range []string{"high", "function", "medium", "task", "low"} {
			require.Equal(t, want, <-order)
		}
	})
}

func TestDoThatEndsBeforeItsTurnCallsNothing(t *testing.T) {
	cause := errors.New("the client has gone")
	expect := func(name string, want error, setup func(t *testing.T, p *taskpool.Pool, do func(ctx context.Context, t taskpool.Task)), opts ...taskpool.Option) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, release := pooltest.Occupied(t, opts...)
				result := make(chan error, 1)
				setup(t, p, func(ctx context.Context, task taskpool.Task) {
					go func() { result <- p.Do(ctx, task, pooltest.MustNotRun) }()
					synctest.Wait()
				})
				require.ErrorIs(t, <-result, want)
				release()
				pooltest.Drain(t, p)
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
	type do = func(context.Context, taskpool.Task)
	expect("context", cause, func(t *testing.T, p *taskpool.Pool, do do) {
		ctx, cancel := context.WithCancelCause(context.Background())
		do(ctx, taskpool.Task{})
		cancel(cause)
	})
	expect("Cancel", cause, func(t *testing.T, p *taskpool.Pool, do do) {
		do(context.Background(), taskpool.Task{Name: "it"})
		for _, info := range p.Tasks(taskpool.StateQueued) {
			if info.Name == "it" {
				require.True(t, info.Handle.Cancel(cause))
			}
		}
	})
	expect("MaxWait", taskpool.ErrExpired, func(t *testing.T, p *taskpool.Pool, do do) {
		do(context.Background(), taskpool.Task{MaxWait: time.Second})
		time.Sleep(time.Second)
	})
	expect("shed", taskpool.ErrShed, func(t *testing.T, p *taskpool.Pool, do do) {
		do(context.Background(), taskpool.Task{Priority: taskpool.Low})
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
	}, taskpool.WithCapacity(1, taskpool.OverflowShed))
	expect("full", taskpool.ErrFull, func(t *testing.T, p *taskpool.Pool, do do) {
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		do(context.Background(), taskpool.Task{})
	}, taskpool.WithCapacity(1, taskpool.OverflowReject))
	expect("at the door", cause, func(t *testing.T, p *taskpool.Pool, do do) {
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		ctx, cancel := context.WithCancelCause(context.Background())
		do(ctx, taskpool.Task{})
		require.Equal(t, 1, p.Stats().SubmittersWaiting)
		cancel(cause)
	}, taskpool.WithCapacity(1, taskpool.OverflowWait))
	expect("MaxWait at the door", taskpool.ErrExpired, func(t *testing.T, p *taskpool.Pool, do do) {
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		do(context.Background(), taskpool.Task{MaxWait: time.Second})
		time.Sleep(time.Second)
	}, taskpool.WithCapacity(1, taskpool.OverflowWait))
}

// nested calls Do inside Do, n deep, with the context that with returns.
func nested(p *taskpool.Pool, n int, ctx context.Context, with func(context.Context) context.Context) (deepest int, err error) {
	var deeper func(ctx context.Context, n int) error
	deeper = func(ctx context.Context, n int) error {
		deepest++
		if n == 0 {
			return nil
		}
		return p.Do(with(ctx), taskpool.Task{}, func(ctx context.Context) error { return deeper(ctx, n-1) })
	}
	return deepest, deeper(ctx, n)
}

func TestDoInDoAndInTasksNeedsOneSlot(t *testing.T) {
	contexts := map[string]func(context.Context) context.Context{
		"own context":     func(ctx context.Context) context.Context { return ctx },
		"another context": func(context.Context) context.Context { return context.Background() },
	}
	pools := map[string][]taskpool.Option{
		"unbounded":  nil,
		"bounded":    {taskpool.WithCapacity(1, taskpool.OverflowWait)},
		"limit":      {taskpool.WithFlows(func(string) taskpool.FlowPolicy { return taskpool.FlowPolicy{Limit: 1} })},
		"no waiting": {taskpool.WithCapacity(0, taskpool.OverflowWait)},
	}
	for which, with := range contexts {
		for kind, opts := range pools {
			t.Run(which+" "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, append([]taskpool.Option{taskpool.WithWorkers(1)}, opts...)...)
					run := func(ctx context.Context) error { // in a task, or outside
						_, err := nested(p, 20, ctx, with)
						return err
					}
					require.NoError(t, run(context.Background()))
					require.NoError(t, p.Do(context.Background(), taskpool.Task{Flow: ""}, run))
					require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: run}).Wait(context.Background()))
					done := make(chan error, 1)
					require.NoError(t, p.Go(taskpool.Medium, func() { done <- run(context.Background()) }))
					require.NoError(t, <-done)
					pooltest.Drain(t, p)
					pooltest.RequireWorkers(t, p, 1)
				})
			})
		}
	}
}

func TestDoThroughTwoPoolsOfOneWorker(t *testing.T) {
	for _, own := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("p"))
			q := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("q"), taskpool.WithCapacity(1, taskpool.OverflowWait))
			with := func(ctx context.Context) context.Context {
				if own {
					return ctx
				}
				return context.Background()
			}
			var deeper func(ctx context.Context, n int) error
			deeper = func(ctx context.Context, n int) error {
				if n == 0 {
					require.True(t, p.Inside(context.Background()))
					require.True(t, q.Inside(context.Background()))
					require.ErrorIs(t, p.Shutdown(context.Background()), taskpool.ErrInside)
					return nil
				}
				in := p
				if n%2 == 0 {
					in = q
				}
				return in.Do(with(ctx), taskpool.Task{}, func(ctx context.Context) error { return deeper(ctx, n-1) })
			}
			require.NoError(t, deeper(context.Background(), 9))
			require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { return deeper(ctx, 8) }}).Wait(context.Background()))
			pooltest.RequireWhole(t, p, 1)
			pooltest.RequireWhole(t, q, 1)
		})
	}
}

// The task in which Do is called waits for room as the caller of Submit does, but goes on only
// when Do returns.
func TestDoInATaskAtTheDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
		var order []string
		gate := make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Name: "outer", Run: func(ctx context.Context) error {
			<-gate
			err := p.Do(ctx, taskpool.Task{Priority: taskpool.Low}, func(context.Context) error {
				order = append(order, "inner")
				return nil
			})
			order = append(order, "outer")
			return err
		}})
		synctest.Wait()
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Medium, Run: func(context.Context) error { // takes the room
			order = append(order, "other")
			return nil
		}})
		atDoor := pooltest.SubmitOrWait(t.Context(), p, taskpool.Task{Run: func(context.Context) error { // came first
			order = append(order, "last")
			return nil
		}})
		pooltest.RequireWaiting(t, atDoor)
		close(gate)
		require.NoError(t, h.Wait(context.Background()))
		pooltest.Drain(t, p)
		require.Equal(t, []string{"other", "inner", "outer", "last"}, order)
		pooltest.RequireWhole(t, p, 1)
	})
}

func TestDoIsAsUrgentAsTheTaskThatCallsIt(t *testing.T) {
	for _, door := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			opts := []taskpool.Option{taskpool.WithWorkers(1), taskpool.WithFairShare(0)}
			if door {
				opts = append(opts, taskpool.WithCapacity(3, taskpool.OverflowWait))
			}
			p := pooltest.New(t, opts...)
			gate := make(chan struct{})
			var order []string
			h := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error {
				<-gate
				return p.Do(ctx, taskpool.Task{Priority: taskpool.Low}, func(ctx context.Context) error {
					info, _ := taskpool.Current(ctx)
					require.Equal(t, taskpool.High, info.Urgency)
					order = append(order, "inner")
					return nil
				})
			}})
			synctest.Wait()
			for range 3 {
				require.NoError(t, p.Go(taskpool.Medium, func() { order = append(order, "medium") }))
			}
			if door { // one came to it before
				pooltest.RequireWaiting(t, pooltest.SubmitOrWait(t.Context(), p, taskpool.Task{Run: func(context.Context) error {
					order = append(order, "last")
					return nil
				}}))
			}
			close(gate)
			require.NoError(t, h.Wait(context.Background()))
			pooltest.Drain(t, p)
			if door { // so one must start to make room
				require.Equal(t, []string{"medium", "inner", "medium", "medium", "last"}, order)
			} else {
				require.Equal(t, []string{"inner", "medium", "medium", "medium"}, order)
			}
		})
	}
}

// A loan that comes while the guest waits passes on, through another pool too.
func TestLoansPassThroughDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("p"))
		q, release := pooltest.Occupied(t, taskpool.WithFairShare(0))
		var order []string
		low := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
			return q.Do(ctx, taskpool.Task{Priority: taskpool.Low}, func(context.Context) error {
				order = append(order, "inner")
				return nil
			})
		}})
		synctest.Wait()
		require.NoError(t, q.Go(taskpool.Medium, func() { order = append(order, "medium") }))
		require.Contains(t, low.Info().WaitsFor, "Do")
		high := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error { return low.Wait(ctx) }})
		synctest.Wait()
		release()
		require.NoError(t, high.Wait(context.Background()))
		pooltest.Drain(t, q)
		require.Equal(t, []string{"inner", "medium"}, order)
	})
}

func TestPanicInDoStaysTheCallers(t *testing.T) {
	for name, opts := range map[string][]taskpool.Option{
		"plain":  nil,
		"around": {pooltest.WithAround(func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error { return run(ctx) })},
	} {
		t.Run(name, func(t *testing.T) {
			var told []taskpool.TaskEvent
			opts := append(opts, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) { told = append(told, e) }}))
			p := pooltest.New(t, opts...)
			for range 3 {
				var stack []byte
				func() {
					defer func() {
						require.Equal(t, http.ErrAbortHandler, recover(), "the very value")
						stack = make([]byte, 1<<16)
						stack = stack[:runtime.Stack(stack, false)]
					}()
					_ = p.Do(context.Background(), taskpool.Task{}, func(context.Context) error {
						pooltest.PanicsHere(http.ErrAbortHandler)
						return nil
					})
				}()
				if name == "plain" {
					require.Contains(t, string(stack), "PanicsHere", "what the caller sees of it")
				}
			}
			require.Len(t, told, 3)
			var e *taskpool.PanicError
			require.ErrorAs(t, told[0].Err, &e)
			require.Equal(t, taskpool.ResultPanic, told[0].Result)
			require.Contains(t, string(e.Stack), "PanicsHere")
			s := p.Stats()
			require.EqualValues(t, 3, s.Panics)
			require.EqualValues(t, 3, s.Failed)
			require.Zero(t, s.ReplacedPanic, "no worker has died")
			pooltest.RequireWorkers(t, p, 1)
		})
	}
}

func TestGoexitInDoStaysTheCallers(t *testing.T) {
	for name, opts := range map[string][]taskpool.Option{
		"plain":  nil,
		"around": {pooltest.WithAround(func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error { return run(ctx) })},
		"hook":   {taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) { runtime.Goexit() }})},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, append(opts, taskpool.WithWorkers(1))...)
				ended, returned := make(chan struct{}), false
				go func() {
					defer close(ended)
					_ = p.Do(context.Background(), taskpool.Task{}, func(context.Context) error {
						if name != "hook" {
							runtime.Goexit()
						}
						return nil
					})
					returned = true
				}()
				<-ended
				require.False(t, returned)
				if name != "hook" {
					require.EqualValues(t, 1, p.Stats().Goexits)
				}
				require.Zero(t, p.Stats().ReplacedGoexit)
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

// In a task, a panic that goes on through Do is that of the task in which it was called.
func TestPanicInDoInATask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			return p.Do(ctx, taskpool.Task{}, func(context.Context) error { panic("both") })
		}})
		require.ErrorAs(t, h.Wait(context.Background()), new(*taskpool.PanicError))
		recovers := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) (err error) {
			defer func() {
				if recover() == "one" {
					err = p.Do(context.Background(), taskpool.Task{}, pooltest.Nop) // the first guest is still on the stack
				}
			}()
			return p.Do(ctx, taskpool.Task{}, func(context.Context) error { panic("one") })
		}})
		require.NoError(t, recovers.Wait(context.Background()))
		s := p.Stats()
		require.EqualValues(t, 3, s.Panics)
		require.EqualValues(t, 1, s.ReplacedPanic)
		pooltest.RequireWhole(t, p, 1)
	})
}

func TestHungDoLosesItsSlotAndReturnsTheHungError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		gate, result := make(chan struct{}), make(chan error, 1)
		go func() {
			result <- p.Do(context.Background(), taskpool.Task{Timeout: time.Second}, func(context.Context) error {
				pooltest.HangsHere(gate)
				return nil
			})
		}()
		time.Sleep(2*time.Second + time.Millisecond)
		synctest.Wait()
		s := p.Stats()
		require.EqualValues(t, 1, s.Hangs)
		require.Equal(t, 1, s.Abandoned)
		require.Zero(t, s.ReplacedHung)
		require.Len(t, p.Tasks(taskpool.StateAbandoned), 1)
		require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}).Wait(context.Background()), "its slot is free")
		require.Empty(t, result, "f has not returned")
		close(gate)
		var hung *taskpool.HungError
		require.ErrorAs(t, <-result, &hung)
		require.Contains(t, string(hung.Stack), "HangsHere")
		require.Zero(t, p.Stats().Abandoned)
		pooltest.RequireWhole(t, p, 1)
	})
}

// More may hang than are given up at once: then they keep their slots, until they return.
func TestManyHungDoReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 4
		p := pooltest.New(t, taskpool.WithWorkers(n), taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(1))
		gate, result := make(chan struct{}), make(chan error, n)
		for range n {
			go func() {
				result <- p.Do(context.Background(), taskpool.Task{Timeout: time.Second}, func(context.Context) error { <-gate; return nil })
			}()
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Equal(t, n-1, p.Stats().Lost)
		require.ErrorIs(t, p.Health(), taskpool.ErrHung)
		close(gate)
		for range n {
			require.ErrorIs(t, <-result, taskpool.ErrHung)
		}
		require.NoError(t, p.Health())
		pooltest.RequireWhole(t, p, n)
	})
}

func TestShutdownAndDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate, results := make(chan struct{}), make(chan error, 2)
		for range 2 { // one runs, one waits
			go func() {
				results <- p.Do(context.Background(), taskpool.Task{}, func(ctx context.Context) error {
					<-gate
					return p.Do(ctx, taskpool.Task{}, pooltest.Nop) // goes on as part of what was accepted
				})
			}()
		}
		synctest.Wait()
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		require.ErrorIs(t, p.Do(context.Background(), taskpool.Task{}, pooltest.MustNotRun), taskpool.ErrClosed)
		require.Empty(t, down, "it waits for both")
		close(gate)
		require.NoError(t, <-results)
		require.NoError(t, <-results)
		require.NoError(t, <-down)
		require.ErrorIs(t, p.Do(context.Background(), taskpool.Task{}, pooltest.MustNotRun), taskpool.ErrClosed)
	})
}

func TestShutdownThatIsCutShortEndsDo(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
			running, waiting, gate := make(chan error, 1), make(chan error, 1), make(chan struct{})
			go func() {
				running <- p.Do(context.Background(), taskpool.Task{}, func(ctx context.Context) error {
					if hangs {
						<-gate
					}
					<-ctx.Done()
					return context.Cause(ctx)
				})
			}()
			synctest.Wait()
			go func() { waiting <- p.Do(context.Background(), taskpool.Task{}, pooltest.MustNotRun) }()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			var cut *taskpool.ShutdownError
			require.ErrorAs(t, p.Shutdown(ctx), &cut)
			require.Len(t, cut.Unfinished, 2)
			require.ErrorIs(t, <-waiting, taskpool.ErrClosed)
			close(gate)
			require.ErrorIs(t, <-running, taskpool.ErrClosed)
		})
	}
}

func TestDoGivesItsSlotBackInYieldBlockAndWaits(t *testing.T) {
	ways := map[string]func(ctx context.Context, p *taskpool.Pool) error{
		"Yield": func(ctx context.Context, _ *taskpool.Pool) error { return taskpool.Yield(ctx) },
		"Wait": func(ctx context.Context, p *taskpool.Pool) error {
			h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			if err != nil {
				return err
			}
			return h.Wait(ctx)
		},
		"Wait with another context": func(_ context.Context, p *taskpool.Pool) error {
			h, err := p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop})
			if err != nil {
				return err
			}
			return h.Wait(context.Background())
		},
		"WaitIdle": func(context.Context, *taskpool.Pool) error { return nil },
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				var urgent atomic.Bool
				require.NoError(t, p.Do(context.Background(), taskpool.Task{}, func(ctx context.Context) error {
					require.NoError(t, p.Go(taskpool.High, func() { urgent.Store(true) }))
					synctest.Wait()
					require.False(t, urgent.Load())
					if name == "WaitIdle" {
						require.ErrorIs(t, p.WaitIdle(context.Background()), taskpool.ErrInside)
						return nil
					}
					err := way(ctx, p)
					require.True(t, urgent.Load())
					return err
				}))
				pooltest.Drain(t, p)
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

// With a context that is not the task's, the end of the task ends what Do does.
func TestEndOfTheTaskEndsItsDo(t *testing.T) {
	for _, begun := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			cause := errors.New("enough")
			p := pooltest.New(t, taskpool.WithWorkers(1))
			q := pooltest.New(t, taskpool.WithWorkers(1))
			release := func() {}
			if !begun {
				release = pooltest.Occupy(t, q)
			}
			var err error
			h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error {
				err = q.Do(context.Background(), taskpool.Task{}, func(ctx context.Context) error {
					<-ctx.Done()
					return context.Cause(ctx)
				})
				return err
			}})
			synctest.Wait()
			h.Cancel(cause)
			require.ErrorIs(t, h.Wait(context.Background()), cause)
			require.ErrorIs(t, err, cause)
			release()
			pooltest.RequireWhole(t, q, 1)
		})
	}
}

func TestDoThatNobodyLimitsKeepsTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots, calls = 3, 200
		p := pooltest.New(t, taskpool.WithWorkers(slots))
		var now, most, ran atomic.Int32
		done := make(chan error, calls)
		for i := range calls {
			go func() {
				done <- p.Do(context.Background(), taskpool.Task{Priority: taskpool.Priority(i % 3)}, func(context.Context) error {
					if n := now.Add(1); n > most.Load() {
						most.Store(n)
					}
					time.Sleep(time.Millisecond)
					now.Add(-1)
					ran.Add(1)
					return nil
				})
			}()
		}
		for range calls {
			require.NoError(t, <-done)
		}
		require.EqualValues(t, slots, most.Load())
		require.EqualValues(t, calls, ran.Load())
		pooltest.RequireWhole(t, p, slots)
	})
}

// A hook that is told that the task was queued ends the goroutine that was to run it.
func TestDoWhoseCallerEndsBeforeItsTurnKeepsNoSlot(t *testing.T) {
	for _, free := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var ends atomic.Bool
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Queued: func(taskpool.TaskEvent) {
				if ends.Swap(false) {
					runtime.Goexit()
				}
			}}))
			release := func() {}
			if !free {
				release = pooltest.Occupy(t, p)
			}
			ends.Store(true)
			go func() { _ = p.Do(context.Background(), taskpool.Task{}, pooltest.MustNotRun) }()
			synctest.Wait()
			release()
			pooltest.Drain(t, p)
			require.EqualValues(t, 1, p.Stats().Canceled)
			pooltest.RequireWhole(t, p, 1)
		})
	}
}

// The task ends while what Do does is being accepted, or waits for room.
func TestEndOfTheTaskEndsItsDoAtTheDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("enough")
		p := pooltest.New(t, taskpool.WithWorkers(1))
		q, release := pooltest.Occupied(t, taskpool.WithCapacity(0, taskpool.OverflowWait))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error {
			return q.Do(context.Background(), taskpool.Task{}, pooltest.MustNotRun)
		}})
		synctest.Wait()
		require.Equal(t, 1, q.Stats().SubmittersWaiting)
		h.Cancel(cause)
		require.ErrorIs(t, h.Wait(context.Background()), cause)
		require.Equal(t, taskpool.StateCanceled, h.State())
		release()
		pooltest.RequireWorkers(t, q, 1)
	})
}
