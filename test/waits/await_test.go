package waits_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// What a task may wait with, given its own context.
var waitContexts = map[string]func(ctx context.Context) context.Context{
	"its own":          func(ctx context.Context) context.Context { return ctx },
	"derived":          func(ctx context.Context) context.Context { return context.WithValue(ctx, waitKey{}, 1) },
	"without cancel":   context.WithoutCancel,
	"detached":         taskpool.Detach,
	"background":       func(context.Context) context.Context { return context.Background() },
	"the submitter's":  func(ctx context.Context) context.Context { return ctx.Value(waitKey{}).(context.Context) },
	"its grandparents": nil, // see nest
}

type waitKey struct{}

// waits are the calls that wait for a task of p that runs f.
var waits = map[string]func(ctx context.Context, p *taskpool.Pool, f func(context.Context) error) error{
	"Call": func(ctx context.Context, p *taskpool.Pool, f func(context.Context) error) error {
		_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 0, f(ctx) })
		return err
	},
	"Wait": func(ctx context.Context, p *taskpool.Pool, f func(context.Context) error) error {
		h, err := p.Submit(ctx, taskpool.Task{Run: f})
		if err != nil {
			return err
		}
		return h.Wait(ctx)
	},
	"Get": func(ctx context.Context, p *taskpool.Pool, f func(context.Context) error) error {
		fut, err := taskpool.SubmitFunc(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 0, f(ctx) })
		if err != nil {
			return err
		}
		_, err = fut.Get(ctx)
		return err
	},
	"Group": func(ctx context.Context, p *taskpool.Pool, f func(context.Context) error) error {
		g := p.Group(ctx, taskpool.Task{})
		g.Go(f)
		return g.Wait()
	},
	"Group at its limit": func(ctx context.Context, p *taskpool.Pool, f func(context.Context) error) error {
		g := p.Group(ctx, taskpool.Task{})
		g.SetLimit(1)
		g.Go(f)
		g.Go(pooltest.Nop)
		return g.Wait()
	},
	"Map": func(ctx context.Context, p *taskpool.Pool, f func(context.Context) error) error {
		one := func(yield func(int) bool) { yield(1) }
		for _, err := range taskpool.Map(ctx, p, taskpool.Task{}, one, func(ctx context.Context, _ int) (int, error) { return 0, f(ctx) }) {
			if err != nil {
				return err
			}
		}
		return nil
	},
}

func TestWaitsNestToAnyDepthOnOneWorkerWithAnyContext(t *testing.T) {
	depth := pooltest.Times(1000, 50)
	for how, call := range waits {
		for with, derive := range waitContexts {
			for _, pools := range []int{1, 2} {
				t.Run(fmt.Sprintf("%s, context %s, %d pools", how, with, pools), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						all := []*taskpool.Pool{pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1))}[:pools]
						deepest := 0
						// before is the context of the task around the one with ctx.
						var nest func(before, ctx context.Context, level int) error
						nest = func(before, ctx context.Context, level int) error {
							if level == depth {
								deepest = level
								return nil
							}
							outer, with := ctx, before
							if derive != nil {
								with = derive(ctx)
							}
							// The submitter's context, for the next to know.
							with = context.WithValue(with, waitKey{}, pooltest.Patience(t))
							return call(with, all[level%pools], func(ctx context.Context) error { return nest(outer, ctx, level+1) })
						}
						ctx := context.WithValue(pooltest.Patience(t), waitKey{}, pooltest.Patience(t))
						require.NoError(t, call(ctx, all[0], func(ctx context.Context) error { return nest(ctx, ctx, 1) }))
						require.Equal(t, depth, deepest)
						for _, p := range all {
							require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
						}
					})
				})
			}
		}
	}
}

func TestFunctionsMayWaitForTasksToAnyDepthOnOneWorker(t *testing.T) {
	for how, call := range waits {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				other := pooltest.New(t, taskpool.WithWorkers(1))
				const depth = 100
				var reached atomic.Int64
				errs := make(chan error, depth)
				var nest func(level int)
				nest = func(level int) {
					reached.Store(int64(level))
					if level == depth {
						return
					}
					in, next := p, other
					if level%3 == 0 {
						in, next = other, p
					}
					errs <- call(context.Background(), in, func(context.Context) error {
						return next.Go(taskpool.Medium, func() { nest(level + 1) })
					})
				}
				require.NoError(t, p.Go(taskpool.Low, func() { nest(0) }))
				synctest.Wait()
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
				require.NoError(t, other.WaitIdle(pooltest.Patience(t)))
				require.EqualValues(t, depth, reached.Load())
				close(errs)
				for err := range errs {
					require.NoError(t, err)
				}
			})
		})
	}
}

func TestAFunctionThatWaitsIsParkedAndEndsAsUsual(t *testing.T) {
	for end, f := range map[string]func(){"return": func() {}, "panic": func() { panic("the function's") }} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var finished []taskpool.TaskEvent
				hooks := taskpool.Hooks{Finished: func(e taskpool.TaskEvent) { finished = append(finished, e) }}
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(hooks))
				gate := make(chan struct{})
				got := pooltest.ErrCause
				require.NoError(t, p.Go(taskpool.High, func() {
					h, err := p.Submit(context.Background(), taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { <-gate; return nil }})
					if err == nil {
						got = h.Wait(context.Background())
					}
					f()
				}))
				synctest.Wait()
				s := p.Stats()
				require.Equal(t, []int{1, 1, 0}, []int{s.Running, s.Parked, s.Queued})
				tasks := p.Tasks(taskpool.StateParked)
				require.Len(t, tasks, 1)
				require.Zero(t, tasks[0].ID)
				require.Nil(t, tasks[0].Handle)
				require.Equal(t, taskpool.High, tasks[0].Priority)
				require.Equal(t, 1, tasks[0].Attempt)
				require.NotZero(t, tasks[0].Worker)
				require.Equal(t, time.Now(), tasks[0].Started)
				close(gate)
				synctest.Wait()
				require.NoError(t, got)
				s = p.Stats()
				pooltest.RequireConserved(t, s)
				require.Zero(t, s.Running+s.Parked)
				require.EqualValues(t, 2, s.Succeeded+s.Panics)
				require.Len(t, finished, 2)
				require.Zero(t, finished[1].Task.ID)
				require.Equal(t, 1, finished[1].Task.Attempt)
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

func TestAFunctionThatWaitsIsCutOffByShutdownAndListedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, pooltest.New(t, taskpool.WithWorkers(1)), taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Hour); return nil }})
		var got []error
		require.NoError(t, p.Go(taskpool.Medium, func() { got = append(got, h.Wait(context.Background())) }))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		err := p.Shutdown(ctx)
		require.Equal(t, time.Second, time.Since(start))
		var cut *taskpool.ShutdownError
		require.ErrorAs(t, err, &cut)
		require.Empty(t, cut.Unfinished, "it returned within the grace")
		require.Equal(t, []error{taskpool.ErrClosed}, got)
		require.NoError(t, h.Wait(pooltest.Patience(t)))
	})
}

func TestWorkersThatSubmitToTheirFullQueueMoveOn(t *testing.T) {
	for with, derive := range waitContexts {
		if derive == nil || with == "its own" || with == "derived" {
			continue // these end with the task
		}
		for _, function := range []bool{false, true} {
			if function && with != "background" {
				continue
			}
			t.Run(fmt.Sprintf("context %s, function %t", with, function), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const workers = 3
					p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithCapacity(1, taskpool.OverflowWait))
					var left atomic.Int64
					left.Store(200)
					var body func(ctx context.Context) error
					body = func(ctx context.Context) error {
						for range 3 {
							if left.Add(-1) < 0 {
								return nil
							}
							if _, err := p.Submit(context.WithValue(derive(ctx), waitKey{}, pooltest.Patience(t)), taskpool.Task{Run: body}); err != nil {
								return err
							}
						}
						return nil
					}
					ctx := context.WithValue(pooltest.Patience(t), waitKey{}, pooltest.Patience(t))
					for range workers {
						if function {
							require.NoError(t, p.Go(taskpool.Medium, func() { _ = body(ctx) }))
							synctest.Wait()
						} else {
							_, err := p.Submit(ctx, taskpool.Task{Run: body})
							require.NoError(t, err)
						}
					}
					require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
					require.Less(t, left.Load(), int64(0))
					pooltest.RequireWhole(t, p, workers)
				})
			})
		}
	}
}

// A task whose wait is cut off by the end of its own context, in each way that it may end.
var endsOfATask = map[string]struct {
	task  taskpool.Task
	end   func(h *taskpool.Handle, cancel context.CancelCauseFunc)
	cause error
}{
	"Timeout":     {task: taskpool.Task{Timeout: time.Second}, cause: taskpool.ErrTimeout},
	"Cancel":      {end: func(h *taskpool.Handle, _ context.CancelCauseFunc) { h.Cancel(pooltest.ErrCause) }, cause: pooltest.ErrCause},
	"its context": {end: func(_ *taskpool.Handle, cancel context.CancelCauseFunc) { cancel(pooltest.ErrCause) }, cause: pooltest.ErrCause},
}

func TestAWaitEndsWithTheTaskThatWaits(t *testing.T) {
	type waiter = func(ctx context.Context, p *taskpool.Pool) error
	long := func(context.Context) error { time.Sleep(time.Hour); return nil }
	group := func(limit int) func(derive func(context.Context) context.Context) waiter {
		return func(derive func(context.Context) context.Context) waiter {
			return func(ctx context.Context, p *taskpool.Pool) error {
				g := p.Group(derive(ctx), taskpool.Task{})
				if limit > 0 {
					g.SetLimit(limit)
				}
				g.Go(long)
				if limit > 0 {
					g.Go(pooltest.Nop)
				}
				return g.Wait()
			}
		}
	}
	kinds := map[string]func(derive func(context.Context) context.Context) waiter{
		"Group.Wait": group(0),
		"Group.Go":   group(1),
		"Wait": func(derive func(context.Context) context.Context) waiter {
			return func(ctx context.Context, p *taskpool.Pool) error {
				h, err := p.Submit(context.Background(), taskpool.Task{Run: long})
				if err != nil {
					return err
				}
				return h.Wait(derive(ctx))
			}
		},
		"Call": func(derive func(context.Context) context.Context) waiter {
			return func(ctx context.Context, p *taskpool.Pool) error {
				_, err := taskpool.Call(derive(ctx), p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 0, long(ctx) })
				return err
			}
		},
		"Map": func(derive func(context.Context) context.Context) waiter {
			return func(ctx context.Context, p *taskpool.Pool) error {
				endless := func(yield func(int) bool) {
					for yield(0) {
					}
				}
				untilItEnds := func(ctx context.Context, _ int) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
				var last error
				for _, err := range taskpool.Map(derive(ctx), p, taskpool.Task{}, endless, untilItEnds) {
					last = err
				}
				return last
			}
		},
		"Submit": func(derive func(context.Context) context.Context) waiter {
			return func(ctx context.Context, p *taskpool.Pool) error {
				for { // until one has to wait for room
					if _, err := p.Submit(derive(ctx), taskpool.Task{Run: long}); err != nil {
						return err
					}
				}
			}
		},
		"WaitIdle": func(derive func(context.Context) context.Context) waiter {
			return func(ctx context.Context, p *taskpool.Pool) error {
				if err := p.Go(taskpool.Medium, func() { time.Sleep(time.Hour) }); err != nil {
					return err
				}
				return p.WaitIdle(derive(ctx))
			}
		},
	}
	for kind, waiter := range kinds {
		for with, derive := range map[string]func(context.Context) context.Context{
			"its own":        func(ctx context.Context) context.Context { return ctx },
			"without cancel": context.WithoutCancel,
			"detached":       taskpool.Detach,
			"background":     func(context.Context) context.Context { return context.Background() },
		} {
			if with == "without cancel" && kind != "Group.Wait" && kind != "Group.Go" {
				continue // that is how a task says that it will wait
			}
			for name, end := range endsOfATask {
				for _, other := range []bool{false, true} {
					if (kind == "Submit" || kind == "WaitIdle") && !other {
						continue // what is let in needs the slot, and WaitIdle would wait for itself
					}
					t.Run(fmt.Sprintf("%s, context %s, %s, other pool %t", kind, with, name, other), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(1, taskpool.OverflowWait))
							in := p
							if other {
								in = pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(1, taskpool.OverflowWait))
							}
							ctx, cancel := context.WithCancelCause(context.Background())
							defer cancel(nil)
							task := end.task
							var got error
							start := time.Now()
							var returned time.Duration
							task.Run = func(ctx context.Context) error {
								got = waiter(derive)(ctx, in)
								returned = time.Since(start)
								return got
							}
							h, err := p.Submit(ctx, task)
							require.NoError(t, err)
							time.Sleep(time.Second - 1)
							synctest.Wait()
							require.Equal(t, taskpool.StateParked, h.State())
							time.Sleep(time.Nanosecond)
							if end.end != nil {
								end.end(h, cancel)
							}
							synctest.Wait()
							require.ErrorIs(t, got, end.cause)
							require.Equal(t, time.Second, returned)
							require.ErrorIs(t, h.Wait(pooltest.Patience(t)), end.cause)
							s := p.Stats()
							require.Zero(t, s.Hangs)
							require.Zero(t, s.Parked)
							time.Sleep(100 * time.Hour) // for all that sleep, given up or not
						})
					})
				}
			}
		}
	}
}

func TestATaskOnItsWayOutMayStillWaitWithAnotherContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		child := make(chan *taskpool.Handle, 1)
		var waited time.Duration
		var got error
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
			c, err := p.Submit(context.Background(), taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Minute); return nil }})
			if err != nil {
				return err
			}
			child <- c
			<-ctx.Done()
			start := time.Now()
			got = c.Wait(context.Background())
			waited = time.Since(start)
			return nil
		}})
		require.NoError(t, h.Wait(pooltest.Patience(t)))
		require.NoError(t, got)
		require.Equal(t, time.Minute, waited)
	})
}

func TestWaitForOneselfIsErrInsideWhateverTheContext(t *testing.T) {
	for with, derive := range waitContexts {
		if derive == nil {
			continue
		}
		t.Run(with, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2))
				ctx := context.WithValue(pooltest.Patience(t), waitKey{}, pooltest.Patience(t))
				var g *taskpool.Group
				errs := map[string]error{}
				self := make(chan *taskpool.Handle, 1)
				h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
					h := <-self
					errs["Wait"] = h.Wait(derive(ctx))
					errs["Wait in Block"] = taskpool.Block(ctx, func() error { return h.Wait(derive(ctx)) })
					errs["WaitIdle"] = p.WaitIdle(derive(ctx))
					errs["Shutdown"] = p.Shutdown(derive(ctx))
					return nil
				}})
				require.NoError(t, err)
				self <- h
				require.NoError(t, h.Wait(ctx))
				g = p.Group(ctx, taskpool.Task{})
				g.Go(func(context.Context) error {
					errs["Group.Wait"] = g.Wait()
					return nil
				})
				require.NoError(t, g.Wait())
				for _, what := range []string{"Wait", "Wait in Block", "WaitIdle", "Shutdown", "Group.Wait"} {
					require.Equal(t, taskpool.ErrInside, errs[what], what)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var got error
		require.NoError(t, p.Go(taskpool.Medium, func() { got = p.WaitIdle(context.Background()) }))
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		require.Equal(t, taskpool.ErrInside, got)
	})
}

func TestATaskIsFoundByItsGoroutineHoweverDeepTheStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var down func(n int) error
		down = func(n int) error {
			if n > 0 {
				return down(n - 1)
			}
			_, err := taskpool.Call(context.Background(), p, taskpool.Task{}, func(context.Context) (int, error) { return 0, nil })
			return err
		}
		for _, depth := range []int{0, 40, 60, 70, 500, 3000} {
			h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return down(depth) }})
			require.NoError(t, h.Wait(pooltest.Patience(t)), "depth %d", depth)
		}
	})
}

func TestOtherGoroutinesWaitWithoutATask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		gate := make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { _ = h.Wait(context.Background()) })
		}
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			all.Go(func() { _ = h.Wait(taskpool.Detach(ctx)) }) // a helper of a task is none itself
			return nil
		}})
		synctest.Wait()
		require.Zero(t, p.Stats().Parks)
		close(gate)
		all.Wait()
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		require.Zero(t, p.Stats().Parks)
	})
}

func TestATaskThatWaitsForAnotherPoolToBeIdleOrShutDownGivesItsSlotBack(t *testing.T) {
	for name, wait := range map[string]func(ctx context.Context, p *taskpool.Pool) error{
		"WaitIdle": func(ctx context.Context, p *taskpool.Pool) error { return p.WaitIdle(ctx) },
		"Shutdown": func(ctx context.Context, p *taskpool.Pool) error { return p.Shutdown(ctx) },
	} {
		for with, derive := range map[string]func(context.Context) context.Context{"its own": context.WithoutCancel, "background": func(context.Context) context.Context { return context.Background() }} {
			t.Run(name+", context "+with, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, other := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1))
					h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
						// The other pool's task needs this one's only worker.
						if err := other.Go(taskpool.Medium, func() {
							time.Sleep(time.Second)
							_, _ = taskpool.Call(context.Background(), p, taskpool.Task{}, func(context.Context) (int, error) { return 0, nil })
						}); err != nil {
							return err
						}
						if err := wait(derive(ctx), other); err != nil {
							return err
						}
						info, _ := taskpool.Current(ctx)
						require.Equal(t, taskpool.StateRunning, info.State, "it has a slot again")
						return nil
					}})
					require.NoError(t, h.Wait(pooltest.Patience(t)))
				})
			})
		}
	}
}

// A deadline that has passed, and of which nobody is told.
type overdueContext struct {
	context.Context
	deadline time.Time
	done     chan struct{}
}

func (c overdueContext) Deadline() (time.Time, bool) { return c.deadline, true }
func (c overdueContext) Done() <-chan struct{}       { return c.done }

func TestADelayedTaskThatDoesNotStartIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowReject))
		ctx := overdueContext{context.Background(), time.Now().Add(time.Second), make(chan struct{})}
		h, err := p.Submit(ctx, taskpool.Task{NotBefore: time.Now().Add(2 * time.Second), Run: pooltest.Nop})
		require.NoError(t, err)
		require.ErrorIs(t, h.Wait(pooltest.Patience(t)), context.DeadlineExceeded)
		require.Zero(t, p.Stats().Attempts)
	})
}

// A function given to Go has no context, and members of a group may use that of the task
// around them by mistake.
func TestWhatWaitsWithTheContextOfAnotherPoolsTaskGivesItsSlotBack(t *testing.T) {
	one := func(context.Context) (int, error) { return 1, nil }
	for name, f := range map[string]func(ctx context.Context, p *taskpool.Pool) error{
		"Call": func(ctx context.Context, p *taskpool.Pool) error {
			_, err := taskpool.Call(ctx, p, taskpool.Task{}, one)
			return err
		},
		"Wait": func(ctx context.Context, p *taskpool.Pool) error {
			h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			if err != nil {
				return err
			}
			return h.Wait(ctx)
		},
		"Submit": func(ctx context.Context, p *taskpool.Pool) error {
			for range 3 { // the queue has room for one
				if _, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop}); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		for way, begin := range map[string]func(ctx context.Context, p *taskpool.Pool, f func() error) error{
			"function": func(_ context.Context, p *taskpool.Pool, f func() error) error {
				return p.Go(taskpool.Medium, func() { _ = f() })
			},
			"task": func(ctx context.Context, p *taskpool.Pool, f func() error) error {
				_, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { return f() }})
				return err
			},
		} {
			t.Run(name+" in a "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					around := pooltest.New(t, taskpool.WithWorkers(1))
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
					_, err := taskpool.Call(pooltest.Patience(t), around, taskpool.Task{}, func(ctx context.Context) (int, error) {
						answer := make(chan error, 1)
						err := begin(ctx, p, func() error {
							err := f(ctx, p)
							answer <- err
							return err
						})
						if err != nil {
							return 0, err
						}
						return 0, <-answer // while it still has its own slot
					})
					require.NoError(t, err)
				})
			})
		}
	}
}

// deafContext is a context whose Done is closed while its Err says that nothing has ended:
// its author forgot it.
type deafContext struct {
	context.Context
	done chan struct{}
}

func (c *deafContext) Done() <-chan struct{} { return c.done }

func TestWaitNeverReportsATaskThatHasNotSettled(t *testing.T) {
	for _, inTask := range []bool{false, true} {
		t.Run(fmt.Sprintf("in a task: %t", inTask), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				gate := make(chan struct{})
				fut, err := taskpool.SubmitFunc(pooltest.Patience(t), p, taskpool.Task{}, func(context.Context) (int, error) {
					<-gate
					return 1, nil
				})
				require.NoError(t, err)
				ctx := &deafContext{context.Background(), make(chan struct{})}
				close(ctx.done)
				get := func(context.Context) (int, error) { return fut.Get(ctx) }
				if inTask {
					_, err = taskpool.Call(pooltest.Patience(t), pooltest.New(t), taskpool.Task{}, get)
				} else {
					_, err = get(nil)
				}
				require.ErrorIs(t, err, context.Canceled)
				require.ErrorIs(t, p.WaitIdle(ctx), context.Canceled)
				close(gate)
				synctest.Wait()
				v, err := fut.Get(ctx)
				require.NoError(t, err)
				require.Equal(t, 1, v)
			})
		})
	}
}

func TestShutdownOfAnotherPoolEndsWithTheTaskThatWaits(t *testing.T) {
	for name, with := range map[string]func(context.Context) context.Context{
		"background": func(context.Context) context.Context { return context.Background() },
		"detached":   taskpool.Detach,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, other := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1))
				long := pooltest.Submit(t, other, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Hour); return nil }})
				began := time.Now()
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
					err := other.Shutdown(with(ctx))
					require.ErrorIs(t, err, taskpool.ErrTimeout)
					require.Equal(t, time.Second, time.Since(began))
					return err
				}})
				require.ErrorIs(t, h.Wait(pooltest.Patience(t)), taskpool.ErrTimeout)
				require.NoError(t, other.Shutdown(pooltest.Patience(t)), "nothing was cut short")
				require.NoError(t, long.Err())
				require.Equal(t, time.Hour, time.Since(began))
			})
		})
	}
}

// The context of a task that has returned tells nothing of who waits with it.
func TestWhatWaitsWithTheContextOfATaskThatIsOverGivesItsSlotBack(t *testing.T) {
	all := map[string]func(*testing.T, context.Context, *taskpool.Pool) error{
		"Shutdown of another pool": func(t *testing.T, ctx context.Context, p *taskpool.Pool) error {
			other := pooltest.New(t, taskpool.WithWorkers(1))
			if err := other.Go(taskpool.Medium, func() {
				_, _ = taskpool.Call(ctx, p, taskpool.Task{}, func(context.Context) (int, error) { return 0, nil })
			}); err != nil {
				return err
			}
			return other.Shutdown(ctx)
		},
	}
	for name, call := range waits {
		all[name] = func(_ *testing.T, ctx context.Context, p *taskpool.Pool) error { return call(ctx, p, pooltest.Nop) }
	}
	for name, call := range all {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				kept, err := taskpool.Call(pooltest.Patience(t), p, taskpool.Task{}, func(ctx context.Context) (context.Context, error) { return context.WithoutCancel(ctx), nil })
				require.NoError(t, err)
				info, _ := taskpool.Current(kept)
				h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return call(t, kept, p) }})
				require.NoError(t, h.Wait(pooltest.Patience(t)))
				require.Equal(t, taskpool.StateSucceeded, info.Handle.State(), "nothing has become of it")
			})
		})
	}
}

// That is how a task says that it will wait, also where it has given its slot back already.
func TestAWaitWithoutCancelInBlockGoesOnAfterTheEndOfTheTask(t *testing.T) {
	for _, pools := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d pools", pools), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Hour))
				in := []*taskpool.Pool{p, pooltest.New(t, taskpool.WithWorkers(1))}[pools-1]
				long := pooltest.Submit(t, in, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Minute); return nil }})
				start := time.Now()
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
					return taskpool.Block(ctx, func() error { return long.Wait(context.WithoutCancel(ctx)) })
				}})
				require.NoError(t, h.Wait(t.Context()))
				require.Equal(t, time.Minute, time.Since(start))
				require.EqualValues(t, 1, p.Stats().Parks)
			})
		})
	}
}

func TestMapWaitsForItsTasksThoughTheTaskThatWaitsHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Hour)), pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithHangGrace(time.Hour))
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error {
			for _, err := range taskpool.Map(context.Background(), other, taskpool.Task{}, pooltest.UpTo(3), func(context.Context, int) (int, error) { time.Sleep(time.Minute); return 0, nil }) {
				assert.NoError(t, err, "the results of those in flight come first")
			}
			assert.Zero(t, other.Stats().Running)
			return nil
		}})
		start := time.Now()
		_ = h.Wait(t.Context())
		require.Equal(t, time.Minute, time.Since(start))
	})
}

// It was idle, and the task that waits for that learns it when it has a slot again.
func TestWaitIdleReturnsThoughThereIsSomethingToDoAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1))
		sleep := func(p *taskpool.Pool, pr taskpool.Priority, d time.Duration) {
			require.NoError(t, p.Go(pr, func() { time.Sleep(d) }))
		}
		sleep(p, taskpool.Medium, time.Second)
		start := time.Now()
		h := pooltest.Submit(t, other, taskpool.Task{Run: func(context.Context) error { return p.WaitIdle(context.Background()) }})
		synctest.Wait()
		sleep(other, taskpool.High, 10*time.Second) // has the slot meanwhile
		time.Sleep(2 * time.Second)
		sleep(p, taskpool.Medium, time.Minute)
		require.NoError(t, h.Wait(t.Context()))
		require.Equal(t, 10*time.Second, time.Since(start))
	})
}

// A hook that is told on a worker's goroutine of a function's end is no task.
func TestAHookThatWaitsAfterAFunctionParksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := pooltest.New(t, taskpool.WithWorkers(1))
		var got []error
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) {
			h := pooltest.Submit(t, other, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Second); return nil }})
			got = append(got, h.Wait(context.Background()))
		}}))
		for range 2 {
			require.NoError(t, p.Go(taskpool.Medium, func() {}))
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Equal(t, []error{nil, nil}, got)
		require.Zero(t, p.Stats().Parks)
		require.EqualValues(t, 2, p.Stats().Succeeded)
	})
}

// A hook before Run has the slot of its attempt, and that is given back.
func TestAHookThatWaitsBeforeRunParksItsAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *taskpool.Pool
		first := true
		p = pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) {
			if first {
				first = false
				require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}).Wait(context.Background()))
			}
		}}))
		require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}).Wait(pooltest.Patience(t)))
		require.EqualValues(t, 1, p.Stats().Parks)
	})
}

// A function that waits has started, so it is not shed when it asks for a slot.
func TestAFunctionThatWaitsIsNeverShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
		other := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, other, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Second); return nil }})
		got := pooltest.ErrCause
		require.NoError(t, p.Go(taskpool.Low, func() { got = h.Wait(context.Background()) }))
		synctest.Wait()
		require.NoError(t, p.Go(taskpool.High, func() { time.Sleep(time.Minute) }))
		time.Sleep(2 * time.Second)
		victim := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Medium, Run: pooltest.MustNotRun})
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
		require.Equal(t, taskpool.StateShed, victim.State())
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		require.NoError(t, got)
	})
}

func TestHooksAreToldOfTheSameFunctionsAlsoWhereTheseWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started, finished := map[taskpool.Priority]int{}, map[taskpool.Priority]int{}
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{
			GoEvery:  4,
			Started:  func(e taskpool.TaskEvent) { started[e.Task.Priority]++ },
			Finished: func(e taskpool.TaskEvent) { finished[e.Task.Priority]++ },
		}))
		other := pooltest.New(t, taskpool.WithWorkers(1))
		for i := range 200 {
			require.NoError(t, p.Go(taskpool.Priority(i), func() {
				_, _ = taskpool.Call(context.Background(), other, taskpool.Task{}, func(context.Context) (int, error) { return 0, nil })
			}))
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		require.NotEmpty(t, started)
		require.Less(t, len(started), 150)
		require.Equal(t, started, finished)
	})
}

// Its end came before it had anything to wait for, and a group heeds that.
func TestAFunctionThatWasCutOffWaitsForNoGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Hour)), pooltest.New(t, taskpool.WithWorkers(1))
		var got error
		var took time.Duration
		require.NoError(t, p.Go(taskpool.Medium, func() {
			time.Sleep(time.Minute)
			g := other.Group(context.Background(), taskpool.Task{})
			g.Go(func(context.Context) error { time.Sleep(time.Hour); return nil })
			start := time.Now()
			got = g.Wait()
			took = time.Since(start)
		}))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.Error(t, p.Shutdown(ctx))
		require.ErrorIs(t, got, taskpool.ErrClosed)
		require.Zero(t, took)
		require.NoError(t, other.WaitIdle(pooltest.Patience(t)))
	})
}

// badWait is a context for SubmitWithin whose Done panics the second time that it is asked.
type badWait struct {
	context.Context
	asked int
}

func (c *badWait) Done() <-chan struct{} {
	if c.asked++; c.asked > 1 {
		panic("in Done")
	}
	return c.Context.Done()
}

// Who waits for room stops waiting for room when the wait is over, and not when the task that
// waited has its slot again. Those behind it move up.
func TestATaskStopsWaitingForRoomWithTheEndOfItsWait(t *testing.T) {
	for name, within := range map[string]func(t *testing.T) context.Context{
		"deadline": func(t *testing.T) context.Context {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			t.Cleanup(cancel)
			return ctx
		},
		"panic in Done": func(*testing.T) context.Context { return &badWait{Context: context.Background()} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				around := pooltest.New(t, taskpool.WithWorkers(1))
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
				release := pooltest.Block(t, p)
				pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Minute); return nil }})
				var err error
				waiter := pooltest.Submit(t, around, taskpool.Task{Run: func(context.Context) error {
					defer func() {
						if v := recover(); v != nil {
							err = pooltest.ErrCause
						}
					}()
					require.NoError(t, around.Go(taskpool.High, func() { time.Sleep(time.Hour) })) // has the slot after that
					ctx := within(t)
					if bad, ok := ctx.(*badWait); ok {
						bad.asked = 1 // Submit does not ask what it waits with
					}
					_, err = p.SubmitWithin(ctx, context.Background(), taskpool.Task{Run: pooltest.MustNotRun})
					return nil
				}})
				time.Sleep(2 * time.Second)
				require.Equal(t, taskpool.StateParked, waiter.State())
				require.Zero(t, p.Stats().SubmittersWaiting)
				ran := time.Duration(0)
				start := time.Now()
				go func() {
					_, err := p.Submit(context.Background(), taskpool.Task{Run: func(context.Context) error { ran = time.Since(start); return nil }})
					require.NoError(t, err)
				}()
				synctest.Wait()
				release()
				require.NoError(t, around.WaitIdle(pooltest.Patience(t)))
				require.Error(t, err)
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
				require.Equal(t, time.Minute, ran)
				require.EqualValues(t, 3, p.Stats().Succeeded)
			})
		})
	}
}

// It waits with the context of a task of another pool, and what it waits for could have no
// slot but its own: the other is kept for High.
func TestWaitWithAForeignContextGivesBackTheSlotThatIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithReserved(1, taskpool.High))
		other := pooltest.New(t, taskpool.WithWorkers(1))
		contexts, done := make(chan context.Context), make(chan struct{})
		foreign := pooltest.Submit(t, other, taskpool.Task{Run: func(ctx context.Context) error {
			contexts <- ctx
			<-done
			return nil
		}})
		h := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error {
			defer close(done)
			ctx := <-contexts
			child, err := p.Submit(context.Background(), taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
			if err != nil {
				return err
			}
			return child.Wait(ctx)
		}})
		require.NoError(t, h.Wait(t.Context()))
		require.NoError(t, foreign.Wait(t.Context()))
		require.EqualValues(t, 1, p.Stats().Parks)
		require.Zero(t, other.Stats().Parks)
	})
}
