package order_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
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

// goroutines counts those that have not ended, which in a bubble is exact once
// synctest.Wait has returned.
func goroutines() int {
	buf := make([]byte, 4<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "\n\ngoroutine ") + 1
}

// The promise of at most W.

// A mix is a stress of tasks that park in every way there is. running counts the
// tasks between two safe points, less those that reserved slots are not for.
type mix struct {
	t             *testing.T
	p             *taskpool.Pool
	running, less pooltest.Peak
}

func (m *mix) enter(pr taskpool.Priority) {
	m.running.Enter()
	if pr > taskpool.High {
		m.less.Enter()
	}
}

func (m *mix) leave(pr taskpool.Priority) {
	m.running.Leave()
	if pr > taskpool.High {
		m.less.Leave()
	}
}

func (m *mix) priority() taskpool.Priority { return taskpool.Priority(rand.IntN(3) - 1) }

// run returns the work of a task of priority pr, whose children are depth levels
// deep at most.
func (m *mix) run(pr taskpool.Priority, depth int) func(context.Context) error {
	return func(ctx context.Context) error {
		m.enter(pr)
		defer m.leave(pr)
		off := func(f func() error) error { // f may give the slot back
			m.leave(pr)
			defer m.enter(pr)
			return f()
		}
		for range 10 {
			var err error
			child := min(m.priority(), pr) // a less urgent one would count as urgent as its parent
			what := rand.IntN(12)
			if depth == 0 {
				what = rand.IntN(8)
			}
			switch what {
			case 0, 1, 2, 3:
				err = off(func() error { return taskpool.Yield(ctx) })
			case 4:
				time.Sleep(time.Microsecond) // the quantum
			case 5:
				runtime.Gosched()
			case 6:
				err = off(func() error {
					return taskpool.Block(ctx, func() error { return pooltest.Sleep(ctx, 2*time.Microsecond) })
				})
			case 7:
				if rand.IntN(20) == 0 {
					_ = off(func() error {
						return taskpool.Block(ctx, func() error { panic("in f") })
					})
				}
			case 8, 9:
				err = off(func() error {
					h, err := m.p.Submit(ctx, taskpool.Task{Priority: child, Run: m.run(child, depth-1)})
					if err != nil {
						return err
					}
					_ = h.Wait(ctx)
					return context.Cause(ctx)
				})
			case 10:
				err = off(func() error {
					_, _ = taskpool.Call(ctx, m.p, taskpool.Task{Priority: child}, func(ctx context.Context) (int, error) {
						return 1, m.run(child, depth-1)(ctx)
					})
					return context.Cause(ctx)
				})
			case 11:
				err = off(func() error {
					g := m.p.Group(ctx, taskpool.Task{Priority: child})
					g.SetLimit(2)
					for range 3 {
						g.Go(m.run(child, depth-1))
					}
					_ = g.Wait()
					return context.Cause(ctx)
				})
			}
			if err != nil {
				return err
			}
		}
		switch rand.IntN(60) {
		case 0:
			panic("mixed in")
		case 1:
			runtime.Goexit()
		case 2:
			return pooltest.ErrTask
		}
		return nil
	}
}

func TestAtMostWTasksRunThroughPreemptionsOfAllKinds(t *testing.T) {
	parks := uint64(pooltest.Times(100_000, 10_000))
	reserve := taskpool.WithReserved(1, taskpool.High)
	variants := []struct {
		name    string
		percent uint64 // of the preemptions; where few park they take long
		less    int
		options []taskpool.Option
	}{
		{"any number parked", 45, 4, nil},
		{"few parked", 5, 4, []taskpool.Option{taskpool.WithMaxParked(2)}},
		{"one worker reserved", 45, 3, []taskpool.Option{reserve}},
		{"one worker reserved, few parked, short queue", 5, 3, []taskpool.Option{reserve, taskpool.WithMaxParked(2),
			taskpool.WithCapacity(3, taskpool.OverflowWait)}},
	}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const workers = 4
				nothing := goroutines()
				p := pooltest.New(t, append(v.options, taskpool.WithWorkers(workers), taskpool.WithQuantum(time.Microsecond))...)
				synctest.Wait()
				pooltest.RequireWorkers(t, p, workers) // and so they were started
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
				synctest.Wait()
				before := goroutines() + 1 // the supervisor may come
				m := &mix{t: t, p: p}
				var handles []*taskpool.Handle
				for p.Stats().Parks < parks*v.percent/100 {
					for range 20 {
						pr := m.priority()
						handles = append(handles, pooltest.Submit(t, p, taskpool.Task{Priority: pr, Run: m.run(pr, 2)}))
					}
					handles[rand.IntN(len(handles))].Cancel(pooltest.ErrCause)
					time.Sleep(10 * time.Microsecond)
					handles[rand.IntN(len(handles))].Cancel(pooltest.ErrCause)
					s := p.Stats()
					pooltest.RequireConserved(t, s)
					require.LessOrEqual(t, s.Running, workers)
				}
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
				for _, h := range handles {
					require.GreaterOrEqual(t, h.State(), taskpool.StateSucceeded)
				}
				s := p.Stats()
				pooltest.RequireConserved(t, s)
				require.Zero(t, s.Queued+s.Delayed+s.Running+s.Parked+s.SubmittersWaiting)
				require.Positive(t, s.Panics)
				require.EqualValues(t, workers, m.running.Highest.Load(), "tasks running at once")
				require.EqualValues(t, v.less, m.less.Highest.Load(), "less urgent tasks running at once")
				pooltest.RequireWorkers(t, p, workers)
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
				synctest.Wait()
				require.LessOrEqual(t, goroutines(), before, "goroutines of the idle pool")
				require.NoError(t, p.Shutdown(context.Background()))
				synctest.Wait()
				require.LessOrEqual(t, goroutines(), nothing, "goroutines after Shutdown")
			})
		})
	}
}

// Nested waits.

func TestOneWorkerFinishesWaitsNestedAThousandDeep(t *testing.T) {
	depth := pooltest.Times(1000, 100)
	type pools []*taskpool.Pool
	// Each runs rest as a child of ctx's task in pool p and waits for it.
	ways := map[string]func(ctx context.Context, p *taskpool.Pool, rest func(context.Context) error) error{
		"Handle.Wait": func(ctx context.Context, p *taskpool.Pool, rest func(context.Context) error) error {
			h, err := p.Submit(ctx, taskpool.Task{Run: rest})
			if err != nil {
				return err
			}
			return h.Wait(ctx)
		},
		"Submit to a full queue": func(ctx context.Context, p *taskpool.Pool, rest func(context.Context) error) error {
			var hs [3]*taskpool.Handle
			for i := range hs {
				var err error
				run := pooltest.Nop
				if i == len(hs)-1 {
					run = rest
				}
				if hs[i], err = p.Submit(ctx, taskpool.Task{Run: run}); err != nil {
					return err
				}
			}
			return errors.Join(hs[2].Wait(ctx), hs[1].Wait(ctx), hs[0].Wait(ctx))
		},
		"Future.Get": func(ctx context.Context, p *taskpool.Pool, rest func(context.Context) error) error {
			f, err := taskpool.SubmitFunc(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 1, rest(ctx) })
			if err != nil {
				return err
			}
			_, err = f.Get(ctx)
			return err
		},
		"Call": func(ctx context.Context, p *taskpool.Pool, rest func(context.Context) error) error {
			_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 1, rest(ctx) })
			return err
		},
		"Group": func(ctx context.Context, p *taskpool.Pool, rest func(context.Context) error) error {
			g := p.Group(ctx, taskpool.Task{})
			g.SetLimit(1)
			g.Go(pooltest.Nop)
			g.Go(rest)
			return g.Wait()
		},
		"Map": func(ctx context.Context, p *taskpool.Pool, rest func(context.Context) error) error {
			in := slices.Values([]int{0, 1})
			for _, err := range taskpool.Map(ctx, p, taskpool.Task{}, in, func(ctx context.Context, i int) (int, error) {
				if i == 0 {
					return 0, nil
				}
				return 0, rest(ctx)
			}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	for name, way := range ways {
		for _, n := range []int{1, 2} {
			for _, maxParked := range []int{10_000, 5, 0} {
				t.Run(fmt.Sprintf("%s, %d pools, %d parked", name, n, maxParked), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var ps pools
						for range n {
							ps = append(ps, pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxParked(maxParked),
								taskpool.WithCapacity(1, taskpool.OverflowWait)))
						}
						var deepest int
						var gauge [2]pooltest.Peak
						var nest func(level int) func(context.Context) error
						nest = func(level int) func(context.Context) error {
							return func(ctx context.Context) error {
								g := &gauge[level%n]
								g.Enter()
								defer g.Leave()
								if deepest = level; level == depth {
									return nil
								}
								g.Leave()
								defer g.Enter()
								return way(ctx, ps[(level+1)%n], nest(level+1))
							}
						}
						ctx := pooltest.Patience(t)
						h, err := ps[0].Submit(ctx, taskpool.Task{Run: nest(0)})
						require.NoError(t, err)
						require.NoError(t, h.Wait(ctx))
						require.Equal(t, depth, deepest)
						for i, p := range ps {
							require.EqualValues(t, 1, gauge[i].Highest.Load(), "tasks running at once")
							pooltest.RequireWhole(t, p, 1)
						}
					})
				})
			}
		}
	}
}

func TestMembersMayAddMembersToTheirGroupOnOneWorker(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit int
		opts  []taskpool.Option
	}{
		{"limit", 2, nil},
		{"full queue", -1, []taskpool.Option{taskpool.WithCapacity(1, taskpool.OverflowWait)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, append(tt.opts, taskpool.WithWorkers(1))...)
				ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
				defer cancel()
				var members atomic.Int32
				h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
					g := p.Group(ctx, taskpool.Task{})
					g.SetLimit(tt.limit)
					g.Go(func(context.Context) error {
						for range 5 {
							g.Go(func(context.Context) error { members.Add(1); return nil })
						}
						return nil
					})
					return g.Wait()
				}})
				require.NoError(t, err)
				require.NoError(t, h.Wait(context.Background()))
				require.EqualValues(t, 5, members.Load())
			})
		})
	}
}

// Yield.

func TestHighStartsAfterAtMostTwoSafePoints(t *testing.T) {
	for _, tt := range []struct{ share, workers, most int }{{0, 1, 2}, {16, 1, 3}, {2, 1, 3}, {0, 3, 2}, {16, 3, 3}} {
		t.Run(fmt.Sprintf("fair share %d, %d workers", tt.share, tt.workers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const interval = 100 * time.Microsecond
				p := pooltest.New(t, taskpool.WithWorkers(tt.workers), taskpool.WithFairShare(tt.share), taskpool.WithQuantum(time.Hour))
				stop := make(chan struct{})
				var points atomic.Int64
				for range 20 {
					pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
						for {
							select {
							case <-stop:
								return nil
							case <-time.After(interval):
								points.Add(1)
								if err := taskpool.Yield(ctx); err != nil {
									return err
								}
							}
						}
					}})
				}
				for range 200 {
					time.Sleep(time.Duration(rand.IntN(int(5 * interval))))
					var started time.Time
					var passed int64
					at, before := time.Now(), points.Load()
					h := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error {
						started, passed = time.Now(), points.Load()-before
						return nil
					}})
					require.NoError(t, h.Wait(pooltest.Patience(t)))
					require.LessOrEqual(t, passed, int64(tt.most*tt.workers), "safe points before High started")
					require.LessOrEqual(t, started.Sub(at), time.Duration(tt.most)*interval)
				}
				close(stop)
			})
		})
	}
}

func TestPreemptedTaskResumesBeforeItsEqualsThatHaveNotStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(0), taskpool.WithQuantum(time.Hour))
		log := new(startLog)
		hs := make([]*taskpool.Handle, 0, 30)
		for i := range 10 {
			hs = append(hs, pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
				name := fmt.Sprint("low ", i)
				log.add(name)
				if err := p.Go(taskpool.High, func() { log.add("high") }); err != nil {
					return err
				}
				err := taskpool.Yield(ctx)
				log.add(name + " resumed")
				return err
			}}))
		}
		pooltest.Drain(t, p)
		var want []string
		for i := range hs {
			name := fmt.Sprint("low ", i)
			want = append(want, name, "high", name+" resumed")
		}
		require.Equal(t, want, log.all())
	})
}

func TestEqualsShareAWorkerQuantumByQuantum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quantum, quanta = 10 * time.Millisecond, 50
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithQuantum(quantum))
		var done [2]int
		var turns []int
		stop := time.Now().Add(quanta * quantum)
		var hs []*taskpool.Handle
		p.Pause() // so that both wait when the first starts
		for i := range done {
			hs = append(hs, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
				for time.Now().Before(stop) {
					if len(turns) == 0 || turns[len(turns)-1] != i {
						turns = append(turns, i)
					}
					time.Sleep(time.Millisecond)
					done[i]++
					if err := taskpool.Yield(ctx); err != nil {
						return err
					}
				}
				return nil
			}}))
		}
		p.Resume()
		for _, h := range hs {
			require.NoError(t, h.Wait(pooltest.Patience(t)))
		}
		require.EqualValues(t, quanta*quantum/time.Millisecond, done[0]+done[1])
		require.InEpsilon(t, done[0], done[1], 0.1, "%v", done)
		require.InDelta(t, quanta, len(turns), quanta/10)
	})
}

func TestTaskWhoseQuantumEndedGoesBehindEqualsThatHaveNotStarted(t *testing.T) {
	for _, long := range []bool{false, true} {
		t.Run(fmt.Sprint("quantum over: ", long), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1)) // the default quantum is 10 ms
				log := new(startLog)
				pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
					time.Sleep(10*time.Millisecond - 1)
					if long {
						time.Sleep(time.Nanosecond)
					}
					err := taskpool.Yield(ctx)
					log.add("went on")
					return err
				}})
				pooltest.Submit(t, p, log.task("b", taskpool.Medium))
				pooltest.Submit(t, p, log.task("c", taskpool.Medium))
				pooltest.Drain(t, p)
				want := []string{"went on", "b", "c"}
				if long {
					want = []string{"b", "c", "went on"}
				}
				require.Equal(t, want, log.all())
			})
		})
	}
}

func TestYieldDoesNothingForLessUrgentTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithQuantum(1))
		log := new(startLog)
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			time.Sleep(time.Second)
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			err := errors.Join(taskpool.Yield(ctx), taskpool.Yield(derived))
			log.add("medium")
			return err
		}})
		pooltest.Submit(t, p, log.task("low", taskpool.Low))
		pooltest.Drain(t, p)
		require.Equal(t, []string{"medium", "low"}, log.all())
	})
}

func TestYieldOutsideATaskReportsTheErrorOfItsContext(t *testing.T) {
	require.NoError(t, taskpool.Yield(context.Background()))
	require.Equal(t, pooltest.ErrStop, taskpool.Yield(pooltest.EndedContext()))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.Equal(t, context.Canceled, taskpool.Yield(ctx))
	taskpool.Beat(context.Background())
	require.Equal(t, pooltest.ErrTask, taskpool.Block(ctx, func() error { return pooltest.ErrTask }))
}

func TestYieldReturnsTheCauseOnceTheContextHasEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		end   func(h *taskpool.Handle, cancel context.CancelCauseFunc)
		task  taskpool.Task
		cause error
	}{
		"Cancel":    {end: func(h *taskpool.Handle, _ context.CancelCauseFunc) { h.Cancel(pooltest.ErrCause) }, cause: pooltest.ErrCause},
		"ctx":       {end: func(_ *taskpool.Handle, cancel context.CancelCauseFunc) { cancel(pooltest.ErrCause) }, cause: pooltest.ErrCause},
		"Timeout":   {task: taskpool.Task{Timeout: time.Second}, cause: taskpool.ErrTimeout},
		"Heartbeat": {task: taskpool.Task{Heartbeat: time.Second}, cause: taskpool.ErrHung},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithQuantum(1))
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				var own, derived, child error
				tt.task.Run = func(ctx context.Context) error {
					time.Sleep(3 * time.Second)
					synctest.Wait()
					own = taskpool.Yield(ctx)
					derived = taskpool.Yield(context.WithValue(ctx, t, 1))
					less, cancel := context.WithCancelCause(ctx)
					cancel(pooltest.ErrStop)
					child = taskpool.Yield(less)
					return own
				}
				h, err := p.Submit(ctx, tt.task)
				require.NoError(t, err)
				pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop}) // there is something to yield to
				time.Sleep(2 * time.Second)
				if tt.end != nil {
					tt.end(h, cancel)
				}
				require.ErrorIs(t, h.Wait(pooltest.Patience(t)), tt.cause)
				require.Equal(t, tt.cause, own)
				require.Equal(t, tt.cause, derived)
				require.Equal(t, tt.cause, child, "the task's context ended before")
			})
		})
	}
}

func TestYieldWithADerivedContextReturnsItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			derived, cancel := context.WithCancelCause(ctx)
			cancel(pooltest.ErrCause)
			if err := taskpool.Yield(ctx); err != nil {
				return err
			}
			return taskpool.Yield(derived)
		}})
		require.Equal(t, pooltest.ErrCause, h.Wait(pooltest.Patience(t)))
	})
}

func TestYieldDoesNotParkWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithQuantum(1))
		log := new(startLog)
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			time.Sleep(time.Second)
			err := taskpool.Yield(ctx)
			log.add("went on")
			return err
		}})
		synctest.Wait()
		pooltest.Submit(t, p, log.task("medium", taskpool.Medium))
		pooltest.Submit(t, p, log.task("high", taskpool.High))
		p.Pause()
		require.NoError(t, h.Wait(pooltest.Patience(t)))
		require.Equal(t, []string{"went on"}, log.all())
		p.Resume()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"went on", "high", "medium"}, log.all())
	})
}

func TestNothingFailsAtMaxParked(t *testing.T) {
	for _, limit := range []int{0, 1} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxParked(limit), taskpool.WithQuantum(1), taskpool.WithFairShare(0))
				gate := make(chan struct{})
				for range limit {
					pooltest.Submit(t, p, taskpool.Task{Name: "parked", Run: func(ctx context.Context) error {
						return taskpool.Block(ctx, func() error { <-gate; return nil })
					}})
				}
				synctest.Wait()
				require.Equal(t, limit, p.Stats().Parked)
				log := new(startLog)
				begin := make(chan struct{})
				h := pooltest.Submit(t, p, taskpool.Task{Name: "main", Run: func(ctx context.Context) error {
					<-begin
					err := taskpool.Block(ctx, func() error { time.Sleep(time.Second); log.add("blocked"); return pooltest.ErrTask })
					if !errors.Is(err, pooltest.ErrTask) {
						return fmt.Errorf("Block returned %w", err)
					}
					if err := taskpool.Yield(ctx); err != nil {
						return err
					}
					log.add("yielded to equals")
					if err := p.Go(taskpool.High, func() { log.add("high") }); err != nil {
						return err
					}
					if err := taskpool.Yield(ctx); err != nil {
						return err
					}
					log.add("yielded to high")
					child, err := p.Submit(ctx, log.task("child", taskpool.High))
					if err != nil {
						return err
					}
					if err := child.Wait(ctx); err != nil {
						return err
					}
					log.add("waited")
					return nil
				}})
				synctest.Wait()
				pooltest.Submit(t, p, log.task("equal", taskpool.Medium))
				close(begin)
				require.NoError(t, h.Wait(pooltest.Patience(t)))
				close(gate)
				pooltest.Drain(t, p)
				require.Equal(t, []string{"blocked", "yielded to equals", "high", "yielded to high", "child", "waited", "equal"}, log.all())
				require.Zero(t, p.Stats().Failed)
			})
		})
	}
}

// The end of a parked task's context.

func TestTaskWhoseContextEndsWhileParkedResumesBeforeEverything(t *testing.T) {
	elsewhere := func(t *testing.T) *taskpool.Pool { p, _ := pooltest.Occupied(t); return p }
	// Each waits with ctx in a task of p. never is a task that waits behind all
	// others, full says that one more task does not fit into the queue.
	ways := map[string]struct {
		full bool
		wait func(ctx context.Context, p, other *taskpool.Pool, never *taskpool.Future[int]) error
	}{
		"Yield": {wait: func(ctx context.Context, _, _ *taskpool.Pool, _ *taskpool.Future[int]) error {
			return taskpool.Yield(ctx)
		}},
		"Handle.Wait": {wait: func(ctx context.Context, _, _ *taskpool.Pool, never *taskpool.Future[int]) error {
			return never.Wait(ctx)
		}},
		"Future.Get": {wait: func(ctx context.Context, _, _ *taskpool.Pool, never *taskpool.Future[int]) error {
			_, err := never.Get(ctx)
			return err
		}},
		"Group.Wait": {wait: func(ctx context.Context, p, _ *taskpool.Pool, _ *taskpool.Future[int]) error {
			g := p.Group(ctx, taskpool.Task{Priority: taskpool.Low})
			g.Go(pooltest.Nop)
			return g.Wait()
		}},
		"Call of another pool": {wait: func(ctx context.Context, _, other *taskpool.Pool, _ *taskpool.Future[int]) error {
			_, err := taskpool.Call(ctx, other, taskpool.Task{}, func(context.Context) (int, error) { return 0, nil })
			return err
		}},
		"Submit": {full: true, wait: func(ctx context.Context, p, _ *taskpool.Pool, _ *taskpool.Future[int]) error {
			_, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
			return err
		}},
		"Block": {wait: func(ctx context.Context, _, _ *taskpool.Pool, _ *taskpool.Future[int]) error {
			return taskpool.Block(ctx, func() error { <-ctx.Done(); return context.Cause(ctx) })
		}},
	}
	ends := map[string]struct {
		timeout time.Duration
		end     func(p *taskpool.Pool, h *taskpool.Handle, cancel context.CancelCauseFunc)
		cause   error
	}{
		"Cancel":  {0, func(_ *taskpool.Pool, h *taskpool.Handle, _ context.CancelCauseFunc) { h.Cancel(pooltest.ErrCause) }, pooltest.ErrCause},
		"ctx":     {0, func(_ *taskpool.Pool, _ *taskpool.Handle, cancel context.CancelCauseFunc) { cancel(pooltest.ErrCause) }, pooltest.ErrCause},
		"Timeout": {time.Second, func(*taskpool.Pool, *taskpool.Handle, context.CancelCauseFunc) { time.Sleep(time.Second) }, taskpool.ErrTimeout},
		"Shutdown": {0, func(p *taskpool.Pool, _ *taskpool.Handle, _ context.CancelCauseFunc) {
			go func() { _ = p.Shutdown(pooltest.EndedContext()) }()
		}, taskpool.ErrClosed},
	}
	for way, w := range ways {
		for end, e := range ends {
			for _, paused := range []bool{false, true} {
				if paused && end == "Shutdown" {
					continue // it lifts the pause
				}
				t.Run(fmt.Sprintf("%s, %s, paused %t", way, end, paused), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						opts := []taskpool.Option{taskpool.WithWorkers(1)}
						if w.full {
							opts = append(opts, taskpool.WithCapacity(1, taskpool.OverflowWait))
						}
						p := pooltest.New(t, opts...)
						other := elsewhere(t)
						log := new(startLog)
						begin, gate := make(chan struct{}), make(chan struct{})
						ctx, cancel := context.WithCancelCause(context.Background())
						defer cancel(nil)
						var never *taskpool.Future[int]
						var got error
						h, err := p.Submit(ctx, taskpool.Task{Name: "parked", Priority: taskpool.Low, Timeout: e.timeout, Run: func(ctx context.Context) error {
							<-begin
							got = w.wait(ctx, p, other, never)
							log.add("parked")
							return got
						}})
						require.NoError(t, err)
						synctest.Wait()
						require.NoError(t, p.Go(-5, func() { <-gate }))
						if w.full {
							// Parking makes room for one; this one takes it.
							pooltest.SubmitOrWait(context.Background(), p, log.task("urgent", -4))
						} else {
							pooltest.Submit(t, p, log.task("urgent", -4))
							never, err = taskpool.SubmitFunc(context.Background(), p, taskpool.Task{Priority: 5}, func(context.Context) (int, error) { return 1, nil })
							require.NoError(t, err)
						}
						close(begin)
						synctest.Wait()
						require.Equal(t, taskpool.StateParked, h.State())
						if paused {
							p.Pause()
						}
						e.end(p, h, cancel)
						synctest.Wait()
						require.Empty(t, log.all(), "the only slot is held")
						close(gate)
						synctest.Wait()
						switch {
						case paused:
							require.Equal(t, []string{"parked"}, log.all())
							p.Resume()
							fallthrough
						case end != "Shutdown":
							synctest.Wait()
							require.Equal(t, []string{"parked", "urgent"}, log.all())
						default:
							require.Equal(t, []string{"parked"}, log.all())
						}
						require.ErrorIs(t, got, e.cause)
						require.ErrorIs(t, h.Err(), e.cause)
						s := p.Stats()
						pooltest.RequireConserved(t, s)
						require.Zero(t, s.Parked+s.Running)
						require.Zero(t, s.Hangs)
					})
				})
			}
		}
	}
}

// The hang grace.

//go:noinline
func preemptHangsHere(gate <-chan struct{}) { <-gate }

func TestBlockThatOutlivesTheGraceIsGivenUpAndCostsNoSlot(t *testing.T) {
	for _, abandoned := range []int{0, 1} { // no slot is at stake, so the bound is
		t.Run(fmt.Sprintf("at most %d abandoned", abandoned), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(3*time.Second), taskpool.WithMaxAbandoned(abandoned))
				gate := make(chan struct{})
				h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
					return taskpool.Block(ctx, func() error { preemptHangsHere(gate); return nil })
				}})
				synctest.Wait()
				h.Cancel(pooltest.ErrCause)
				time.Sleep(3*time.Second - 1)
				synctest.Wait()
				require.Equal(t, taskpool.StateParked, h.State())
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				require.Equal(t, taskpool.StateFailed, h.State())
				var hung *taskpool.HungError
				require.ErrorAs(t, h.Err(), &hung)
				require.Contains(t, string(hung.Stack), "preemptHangsHere")
				require.ErrorIs(t, h.Err(), pooltest.ErrCause)
				s := p.Stats()
				require.Equal(t, []int{1, 0, 0, 0}, []int{s.Abandoned, s.Lost, s.Parked, s.Running})
				require.NoError(t, p.Health())

				busy := make(chan struct{})
				var ran atomic.Int32
				for range 2 {
					require.NoError(t, p.Go(taskpool.Medium, func() { ran.Add(1); <-busy }))
				}
				synctest.Wait()
				require.EqualValues(t, 1, ran.Load())
				close(gate) // f returns late
				synctest.Wait()
				require.EqualValues(t, 1, ran.Load(), "a late return must free no slot")
				s = p.Stats()
				require.Equal(t, []int{0, 1, 1, 0}, []int{s.Abandoned, s.Running, s.Queued, s.Parked})
				close(busy)
				pooltest.Drain(t, p)
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

func TestHangGraceCountsOnlyTimeOnASlotOverAllParkings(t *testing.T) {
	for _, tt := range []struct {
		name string
		work time.Duration // on the slot, before and after an hour of waiting
		hung bool
	}{{"within", 450 * time.Millisecond, false}, {"beyond", 600 * time.Millisecond, true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
				h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
					child, err := p.Submit(taskpool.Detach(ctx), taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Hour); return nil }})
					if err != nil {
						return err
					}
					<-ctx.Done()
					time.Sleep(tt.work)
					if err := child.Wait(context.WithoutCancel(ctx)); err != nil {
						return err
					}
					time.Sleep(tt.work)
					return pooltest.ErrTask
				}})
				synctest.Wait()
				h.Cancel(pooltest.ErrCause)
				err := h.Wait(pooltest.Patience(t))
				require.ErrorIs(t, err, pooltest.ErrCause)
				require.Equal(t, tt.hung, errors.Is(err, taskpool.ErrHung))
				require.Equal(t, !tt.hung, errors.Is(err, pooltest.ErrTask))
				time.Sleep(time.Hour)
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

// Late goroutines.

func TestAbandonedAttemptTouchesNoSlotWhileItsRetryRuns(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, p *taskpool.Pool, settled *taskpool.Handle) error{
		"Yield": func(ctx context.Context, _ *taskpool.Pool, _ *taskpool.Handle) error { return taskpool.Yield(ctx) },
		"Block": func(ctx context.Context, _ *taskpool.Pool, _ *taskpool.Handle) error {
			return taskpool.Block(ctx, func() error { time.Sleep(time.Second); return taskpool.ErrTimeout })
		},
		"Wait": func(ctx context.Context, _ *taskpool.Pool, h *taskpool.Handle) error { return h.Wait(ctx) },
		"Wait without cancel": func(ctx context.Context, _ *taskpool.Pool, h *taskpool.Handle) error {
			short, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Second, taskpool.ErrTimeout)
			defer cancel()
			return h.Wait(short)
		},
		"Group.Wait": func(ctx context.Context, p *taskpool.Pool, _ *taskpool.Handle) error {
			g := p.Group(ctx, taskpool.Task{})
			g.Go(pooltest.Nop)
			return g.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
				first, second := make(chan struct{}), make(chan struct{})
				var late error
				var queued *taskpool.Handle
				var attempts atomic.Int32
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
					if attempts.Add(1) == 2 {
						<-second
						return nil
					}
					<-first
					late = call(ctx, p, queued)
					return nil
				}, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait, If: func(error) bool { return true }}})
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.EqualValues(t, 2, attempts.Load())
				require.Equal(t, taskpool.StateRunning, h.State())
				log := new(startLog)
				queued = pooltest.Submit(t, p, log.task("queued", taskpool.High))
				close(first)
				time.Sleep(1500 * time.Millisecond) // within the retry's timeout and grace
				synctest.Wait()
				require.ErrorIs(t, late, taskpool.ErrTimeout)
				require.Empty(t, log.all())
				s := p.Stats()
				require.Equal(t, []int{1, 0, 1}, []int{s.Running, s.Parked, s.Queued})
				require.Equal(t, taskpool.StateRunning, h.State())
				close(second)
				pooltest.Drain(t, p)
				require.Equal(t, taskpool.StateSucceeded, h.State())
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

func TestHelperGoroutinesParkATaskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		gate, busy := make(chan struct{}), make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			var helpers sync.WaitGroup
			for range 5 {
				helpers.Go(func() { _ = taskpool.Block(ctx, func() error { <-gate; return nil }) })
			}
			helpers.Wait()
			return nil
		}})
		synctest.Wait()
		require.Equal(t, taskpool.StateParked, h.State())
		require.Equal(t, 1, p.Stats().Parked)
		var running pooltest.Peak
		for range 4 {
			require.NoError(t, p.Go(taskpool.Medium, func() { running.Enter(); <-busy; running.Leave() }))
		}
		synctest.Wait()
		require.Equal(t, 2, p.Stats().Running)
		close(gate)
		close(busy)
		pooltest.Drain(t, p)
		require.EqualValues(t, 2, running.Highest.Load())
		require.Equal(t, taskpool.StateSucceeded, h.State())
		pooltest.RequireWhole(t, p, 2)
	})
}

func TestTaskMayReturnWhileAHelperKeepsItParked(t *testing.T) {
	for name, o := range map[string]struct {
		end   func() error
		state taskpool.State
	}{
		"nil":    {func() error { return nil }, taskpool.StateSucceeded},
		"error":  {func() error { return pooltest.ErrTask }, taskpool.StateFailed},
		"panic":  {func() error { panic("x") }, taskpool.StateFailed},
		"Goexit": {func() error { runtime.Goexit(); return nil }, taskpool.StateFailed},
	} {
		for _, helper := range []string{"blocks", "asks for a slot", "asks first, as the context has ended"} {
			t.Run(name+", helper "+helper, func(t *testing.T) {
				asked, ended := helper != "blocks", strings.Contains(helper, "ended")
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1))
					gate, busy, back := make(chan struct{}), make(chan struct{}), make(chan struct{})
					h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
						go func() {
							defer close(back)
							_ = taskpool.Block(ctx, func() error { <-gate; return nil })
						}()
						synctest.Wait() // it has parked the task
						if err := p.Go(taskpool.High, func() { <-busy }); err != nil {
							return err
						}
						time.Sleep(2 * time.Second)
						return o.end()
					}})
					time.Sleep(time.Second)
					if ended {
						h.Cancel(pooltest.ErrCause)
					}
					if asked {
						close(gate)
					}
					synctest.Wait()
					require.Equal(t, taskpool.StateParked, h.State())
					time.Sleep(time.Second)
					synctest.Wait()
					want := o.state
					if ended && name == "error" {
						want = taskpool.StateCanceled
					}
					require.Equal(t, want, h.State())
					s := p.Stats()
					require.Equal(t, []int{0, 1}, []int{s.Parked, s.Running})
					pooltest.RequireConserved(t, s)
					if !asked {
						close(gate)
					}
					synctest.Wait()
					<-back
					require.Equal(t, 1, p.Stats().Running)
					close(busy)
					pooltest.Drain(t, p)
					pooltest.RequireWhole(t, p, 1)
				})
			})
		}
	}
}

// What f does.

//go:noinline
func preemptPanicsHere() { panic("in f") }

func TestWhatFDoesIsWhatTheTaskDoes(t *testing.T) {
	for name, tt := range map[string]struct {
		f       func() error
		recover bool
		check   func(t *testing.T, err error)
	}{
		"returns an error": {f: func() error { return pooltest.ErrTask }, check: func(t *testing.T, err error) { require.Equal(t, pooltest.ErrTask, err) }},
		"panics": {f: func() error { preemptPanicsHere(); return nil }, check: func(t *testing.T, err error) {
			var e *taskpool.PanicError
			require.ErrorAs(t, err, &e)
			require.Equal(t, "in f", e.Value)
			require.Contains(t, string(e.Stack), "preemptPanicsHere")
		}},
		"panics, recovered": {f: func() error { preemptPanicsHere(); return nil }, recover: true,
			check: func(t *testing.T, err error) { require.NoError(t, err) }},
		"Goexit": {f: func() error { runtime.Goexit(); return nil }, check: func(t *testing.T, err error) {
			require.Equal(t, taskpool.ErrGoexit, err)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				var running pooltest.Peak
				h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
					block := func() error {
						if tt.recover {
							defer func() { _ = recover() }()
						}
						return taskpool.Block(ctx, func() error { time.Sleep(time.Second); return tt.f() })
					}
					if err := block(); err != nil {
						return err
					}
					running.Enter()
					defer running.Leave()
					time.Sleep(time.Second)
					return nil
				}})
				for range 3 {
					require.NoError(t, p.Go(taskpool.Medium, func() { running.Enter(); defer running.Leave(); time.Sleep(700 * time.Millisecond) }))
				}
				tt.check(t, h.Wait(pooltest.Patience(t)))
				pooltest.Drain(t, p)
				require.EqualValues(t, 1, running.Highest.Load(), "tasks running at once")
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

// Shutdown.

func TestShutdownDrainsParkedTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3))
		var ended atomic.Int32
		for i := range 9 {
			pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
				defer ended.Add(1)
				if i%3 == 0 {
					_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) {
						return 0, taskpool.Block(ctx, func() error { return pooltest.Sleep(ctx, time.Hour) })
					})
					return err
				}
				return taskpool.Block(ctx, func() error { return pooltest.Sleep(ctx, time.Hour) })
			}})
		}
		synctest.Wait()
		require.Equal(t, 12, p.Stats().Parked, "three of them children")
		for range 5 {
			require.NoError(t, p.Go(taskpool.Low, func() { time.Sleep(time.Minute); ended.Add(1) }))
		}
		require.NoError(t, p.Shutdown(pooltest.Patience(t)))
		require.EqualValues(t, 14, ended.Load())
		require.EqualValues(t, 17, p.Stats().Succeeded)
		require.Zero(t, p.Stats().Goroutines)
	})
}

func TestShutdownCutShortListsParkedTasksAndEndsWithinTwoGraces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithHangGrace(grace))
		gate := make(chan struct{})
		defer close(gate)
		parked := func(name string, run func(ctx context.Context) error) {
			pooltest.Submit(t, p, taskpool.Task{Name: name, Run: run})
		}
		parked("block", func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { return pooltest.UntilEnd(ctx) })
		})
		parked("deaf block", func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { <-gate; return nil })
		})
		parked("deaf wait", func(ctx context.Context) error {
			h, err := p.Submit(taskpool.Detach(ctx), taskpool.Task{Name: "late", Run: pooltest.Nop, NotBefore: time.Now().Add(time.Hour)})
			if err != nil {
				return err
			}
			return h.Wait(context.WithoutCancel(ctx))
		})
		foreign := pooltest.New(t, taskpool.WithWorkers(1))
		parked("deaf wait for another pool", func(ctx context.Context) error {
			h, err := foreign.Submit(taskpool.Detach(ctx), taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
			if err != nil {
				return err
			}
			return h.Wait(context.WithoutCancel(ctx))
		})
		synctest.Wait()
		require.Equal(t, 4, p.Stats().Parked)
		for range 3 {
			parked("running", pooltest.UntilEnd)
		}
		for i := range 5 {
			pooltest.Submit(t, p, taskpool.Task{Name: fmt.Sprint("queued ", i), Run: pooltest.Nop})
		}
		synctest.Wait()
		start := time.Now()
		err := p.Shutdown(pooltest.EndedContext())
		require.LessOrEqual(t, time.Since(start), 2*grace)
		var e *taskpool.ShutdownError
		require.ErrorAs(t, err, &e)
		states := make(map[string]taskpool.State)
		for _, u := range e.Unfinished {
			states[u.Task.Name] = u.State
		}
		for _, name := range []string{"block", "deaf block", "deaf wait", "deaf wait for another pool"} {
			require.Equal(t, taskpool.StateParked, states[name], name)
		}
		require.Equal(t, taskpool.StateRunning, states["running"])
		require.Equal(t, taskpool.StateQueued, states["queued 0"])
		require.Equal(t, taskpool.StateDelayed, states["late"])
		require.Len(t, e.Unfinished, 13)
		s := p.Stats()
		pooltest.RequireConserved(t, s)
		require.Zero(t, s.Queued+s.Delayed+s.Running+s.Parked)
	})
}

// Reserved workers.

func TestHighStartsAtOnceOnAReservedWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithReserved(1, taskpool.High), taskpool.WithFairShare(2))
		gate := make(chan struct{})
		for i := range 20 {
			require.NoError(t, p.Go(taskpool.Priority(i%2), func() { <-gate }))
		}
		synctest.Wait()
		require.Equal(t, 2, p.Stats().Running, "less urgent tasks")
		for range 20 {
			h := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
			synctest.Wait()
			require.Equal(t, taskpool.StateSucceeded, h.State())
			require.Equal(t, 2, p.Stats().Running)
		}
		close(gate)
		pooltest.Drain(t, p)
	})
}

func TestLessUrgentTasksNeverHoldReservedSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reserved = 2
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithReserved(reserved, taskpool.High), taskpool.WithQuantum(time.Millisecond))
		m := &mix{t: t, p: p}
		for range 100 {
			pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: m.run(taskpool.Low, 0)})
			pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Medium, Run: m.run(taskpool.Medium, 1)})
		}
		for _, workers := range []int{4, 8, 3, 6, 4} {
			// What runs already is not stopped by shrinking, so a new size counts
			// from the moment at which the pool has come down to it.
			require.NoError(t, p.Resize(workers))
			for range 20 {
				for i := range 3 {
					pr := taskpool.Priority(i - 1)
					pooltest.Submit(t, p, taskpool.Task{Priority: pr, Run: m.run(pr, 1)})
				}
				time.Sleep(5 * time.Microsecond)
			}
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			m.less.Highest.Store(0)
			gate := make(chan struct{})
			for i := range 3 * workers {
				pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Priority(i % 2), Run: func(ctx context.Context) error {
					return taskpool.Block(ctx, func() error { <-gate; return m.run(taskpool.High, 0)(ctx) })
				}})
			}
			synctest.Wait()
			for i := range 10 * workers {
				pr := taskpool.Priority(i % 2)
				pooltest.Submit(t, p, taskpool.Task{Priority: pr, Run: m.run(pr, 1)})
			}
			close(gate)
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			require.EqualValues(t, workers-reserved, m.less.Highest.Load(), "less urgent tasks at once of %d", workers)
		}
		require.Positive(t, p.Stats().Panics)
	})
}

func TestBadReservationsAreRefusedByName(t *testing.T) {
	for _, tt := range []struct {
		n       int
		mention []string
	}{
		{-1, []string{"WithReserved", "n", "not be negative", "-1"}},
		{2, []string{"WithReserved", "less than the number of workers", "2"}},
		{7, []string{"WithReserved", "less than the number of workers", "7"}},
	} {
		p, err := taskpool.New(taskpool.WithReserved(tt.n, taskpool.High), taskpool.WithWorkers(2))
		require.Nil(t, p)
		require.Error(t, err)
		for _, m := range tt.mention {
			require.Contains(t, err.Error(), m)
		}
	}
}

func TestResizeRefusesToBreakAReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithReserved(2, taskpool.High))
		err := p.Resize(2)
		require.ErrorContains(t, err, "WithReserved")
		require.ErrorContains(t, err, "at least 3")
		require.ErrorContains(t, err, "got 2")
		require.Equal(t, 4, p.Stats().Workers)
		require.NoError(t, p.Resize(3))
		gate := make(chan struct{})
		for range 3 {
			require.NoError(t, p.Go(taskpool.Low, func() { <-gate }))
		}
		synctest.Wait()
		require.Equal(t, 1, p.Stats().Running)
		require.NoError(t, p.Resize(5))
		synctest.Wait()
		require.Equal(t, 3, p.Stats().Running)
		close(gate)
		pooltest.Drain(t, p)
	})
}

func TestHighSubmitterIsLetInPastALowOneWhileAReservedSlotIsFree(t *testing.T) {
	for _, capacity := range []int{0, 1} {
		t.Run(fmt.Sprint("capacity ", capacity), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithReserved(1, taskpool.High), taskpool.WithFairShare(1),
					taskpool.WithCapacity(capacity, taskpool.OverflowWait))
				gate, highs := make(chan struct{}), make(chan struct{})
				for range 1 + capacity {
					require.NoError(t, p.Go(taskpool.Low, func() { <-gate }))
				}
				synctest.Wait()
				low := pooltest.SubmitOrWait(context.Background(), p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
				pooltest.RequireWaiting(t, low)
				hold := func(context.Context) error { <-highs; return nil }
				first := pooltest.SubmitOrWait(context.Background(), p, taskpool.Task{Priority: taskpool.High, Run: hold})
				pooltest.RequireAccepted(t, first)
				require.Equal(t, taskpool.StateRunning, first.Handle.State())
				require.ErrorIs(t, p.TryGo(taskpool.High, func() {}), taskpool.ErrFull)
				second := pooltest.SubmitOrWait(context.Background(), p, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
				pooltest.RequireWaiting(t, second)
				close(highs) // the reserved slot is free again
				pooltest.RequireAccepted(t, second)
				pooltest.RequireWaiting(t, low)
				close(gate)
				pooltest.RequireAccepted(t, low)
				pooltest.Drain(t, p)
			})
		})
	}
}

// Capacity.

func TestQueueStaysWithinItsCapacityWhenParkedTasksResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
		back, busy, slow := make(chan struct{}), make(chan struct{}), make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			err := taskpool.Block(ctx, func() error { <-back; return nil })
			<-slow
			return err
		}})
		synctest.Wait()
		require.NoError(t, p.Go(taskpool.Medium, func() { <-busy }))
		require.NoError(t, p.Go(taskpool.Medium, func() {}))
		admission := pooltest.SubmitOrWait(context.Background(), p, taskpool.Task{Run: pooltest.Nop})
		pooltest.RequireWaiting(t, admission)
		close(back)
		synctest.Wait()
		require.Equal(t, taskpool.StateParked, h.State())
		close(busy)
		synctest.Wait()
		require.Equal(t, taskpool.StateRunning, h.State(), "the slot goes to the one that resumes")
		queued := p.Stats().Queued
		close(slow)
		pooltest.RequireAccepted(t, admission)
		pooltest.Drain(t, p)
		require.Equal(t, 1, queued, "tasks that wait because no slot is free")
	})
}

// No starvation.

func TestFairShareCountsResumptions(t *testing.T) {
	// One worker, kept busy by High tasks that hand over at each safe point. The
	// Low tasks waited first, so m older ones stand before the m-th.
	for _, n := range []int{1, 2, 3, 16} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(n), taskpool.WithQuantum(1))
				log := new(startLog)
				const lows = 5
				p.Pause()
				for i := range lows {
					pooltest.Submit(t, p, log.task(fmt.Sprint("low ", i), taskpool.Low))
				}
				for range 3 {
					pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error {
						for range 10 * n {
							log.add("high")
							time.Sleep(time.Nanosecond)
							if err := taskpool.Yield(ctx); err != nil {
								return err
							}
						}
						return nil
					}})
				}
				p.Resume()
				pooltest.Drain(t, p)
				all := log.all()
				for m := range lows {
					at := slices.Index(all, fmt.Sprint("low ", m)) + 1
					require.LessOrEqual(t, at, n*(m+1), "dispatches until low %d: %v", m, all)
				}
				urgent := all[:slices.Index(all, fmt.Sprint("low ", lows-1))+1]
				for i := range urgent {
					window := urgent[i:min(i+n, len(urgent))]
					others := len(slices.DeleteFunc(slices.Clone(window), func(s string) bool { return s == "high" }))
					require.LessOrEqual(t, others, 1, "of %d dispatches", n)
				}
			})
		})
	}
}

func TestFairShareReachesATaskThatResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 4
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(n), taskpool.WithQuantum(time.Hour))
		log := new(startLog)
		const points = 5
		low := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
			for range points {
				time.Sleep(time.Millisecond)
				if err := taskpool.Yield(ctx); err != nil {
					return err
				}
				log.add("low")
			}
			return nil
		}})
		synctest.Wait()
		// Urgent work arrives all the time: none of it is older than a task that
		// asked to resume before.
		stop := time.Now().Add(time.Hour)
		var high func()
		high = func() {
			log.add("high")
			time.Sleep(time.Second)
			if low.State() < taskpool.StateSucceeded && time.Now().Before(stop) {
				assert.NoError(t, p.Go(taskpool.High, high))
			}
		}
		require.NoError(t, p.Go(taskpool.High, high))
		pooltest.Drain(t, p)
		require.Equal(t, taskpool.StateSucceeded, low.State())
		// It advances by one interval in n dispatches, no more and no less.
		var want []string
		for range points {
			want = append(want, slices.Repeat([]string{"high"}, n-1)...)
			want = append(want, "low")
		}
		require.Equal(t, want, log.all()[:len(want)])
	})
}

func TestAgingCountsFromTheMomentATaskAsksToResume(t *testing.T) {
	for _, after := range []time.Duration{500 * time.Millisecond, 2500 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithAging(time.Second))
				log := new(startLog)
				gate := make(chan struct{})
				pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
					// An hour of waiting for I/O is no waiting for a slot.
					err := taskpool.Block(ctx, func() error { time.Sleep(time.Hour); return nil })
					log.add("low resumed")
					return err
				}})
				synctest.Wait()
				require.NoError(t, p.Go(-100, func() { <-gate }))
				pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: log.task("low fresh", 0).Run, NotBefore: time.Now().Add(time.Hour)})
				time.Sleep(time.Hour + after)
				pooltest.Submit(t, p, log.task("high", taskpool.High))
				close(gate)
				pooltest.Drain(t, p)
				want := []string{"high", "low resumed", "low fresh"}
				if after > 2*time.Second { // two priorities apart
					want = []string{"low resumed", "low fresh", "high"}
				}
				require.Equal(t, want, log.all())
			})
		})
	}
}

// Heartbeat.

func TestSilentTaskIsFoundWithinTwiceItsHeartbeat(t *testing.T) {
	for _, beats := range []time.Duration{0, 1, 500 * time.Millisecond, time.Second - 1, time.Second} {
		for _, deaf := range []bool{false, true} {
			t.Run(fmt.Sprintf("last beat after %v, deaf %t", beats, deaf), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(3*time.Second))
					gate := make(chan struct{})
					release := sync.OnceFunc(func() { close(gate) })
					defer release()
					var last, found time.Time
					attempts := 0
					h := pooltest.Submit(t, p, taskpool.Task{Heartbeat: time.Second, Run: func(ctx context.Context) error {
						attempts++
						time.Sleep(beats)
						if beats < time.Second {
							taskpool.Beat(ctx)
							last = time.Now()
						} else {
							last = time.Now().Add(-beats) // found before, or just then
						}
						<-ctx.Done()
						found = time.Now()
						assert.Equal(t, taskpool.ErrHung, context.Cause(ctx))
						if deaf {
							<-gate
						}
						return pooltest.ErrTask
					}, Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait}})
					err := h.Wait(pooltest.Patience(t))
					require.ErrorIs(t, err, taskpool.ErrHung)
					require.Equal(t, 1, attempts, "not retried")
					require.Equal(t, !deaf, errors.Is(err, pooltest.ErrTask))
					var e *taskpool.HungError
					require.Equal(t, deaf, errors.As(err, &e))
					if deaf {
						require.Equal(t, 3*time.Second, time.Since(found))
					}
					require.GreaterOrEqual(t, found.Sub(last), time.Second)
					require.LessOrEqual(t, found.Sub(last), 2*time.Second)
					require.Equal(t, taskpool.StateFailed, h.State())
					release()
					pooltest.RequireWhole(t, p, 1)
				})
			})
		}
	}
}

func TestSilentTaskIsRetriedIfThePolicySaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		attempts := 0
		h := pooltest.Submit(t, p, taskpool.Task{Heartbeat: time.Second, Run: func(ctx context.Context) error {
			if attempts++; attempts == 3 {
				return nil
			}
			return pooltest.UntilEnd(ctx)
		}, Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait, If: func(err error) bool { return errors.Is(err, taskpool.ErrHung) }}})
		require.NoError(t, h.Wait(pooltest.Patience(t)))
		require.Equal(t, 3, attempts)
	})
}

func TestTaskThatBeatsIsNeverJudged(t *testing.T) {
	times := 3600
	if pooltest.Scarce() {
		times /= 10
	}
	for name, beat := range map[string]func(context.Context){
		"Beat":            taskpool.Beat,
		"Yield":           func(ctx context.Context) { _ = taskpool.Yield(ctx) },
		"Beat, derived":   func(ctx context.Context) { taskpool.Beat(context.WithValue(ctx, pooltest.Key{}, 1)) },
		"Yield, derived":  func(ctx context.Context) { _ = taskpool.Yield(context.WithValue(ctx, pooltest.Key{}, 1)) },
		"by a helper":     func(ctx context.Context) { go taskpool.Beat(ctx) },
		"a settled child": func(ctx context.Context) { _ = taskpool.Block(ctx, func() error { return nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithQuantum(time.Second))
				work := taskpool.Task{Heartbeat: time.Second, Run: func(ctx context.Context) error {
					for range times {
						time.Sleep(999 * time.Millisecond)
						beat(ctx)
					}
					return ctx.Err()
				}}
				a, b := pooltest.Submit(t, p, work), pooltest.Submit(t, p, work)
				require.NoError(t, a.Wait(pooltest.Patience(t)))
				require.NoError(t, b.Wait(pooltest.Patience(t)))
			})
		})
	}
}

func TestParkedTaskIsNotWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(0))
		h := pooltest.Submit(t, p, taskpool.Task{Heartbeat: time.Second, Priority: taskpool.Low, Run: func(ctx context.Context) error {
			for range 3 {
				if err := taskpool.Block(ctx, func() error { time.Sleep(time.Hour); return nil }); err != nil {
					return err
				}
				time.Sleep(900 * time.Millisecond) // the interval begins anew
			}
			_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(context.Context) (int, error) { time.Sleep(time.Hour); return 0, nil })
			if err != nil {
				return err
			}
			if err := p.Go(taskpool.High, func() { time.Sleep(time.Hour) }); err != nil {
				return err
			}
			if err := taskpool.Yield(ctx); err != nil {
				return err
			}
			time.Sleep(time.Hour) // now it is
			return ctx.Err()
		}})
		start := time.Now()
		require.ErrorIs(t, h.Wait(pooltest.Patience(t)), taskpool.ErrHung)
		require.Greater(t, time.Since(start), 5*time.Hour)
		require.Zero(t, p.Stats().Abandoned-1, "it went on past the grace")
		time.Sleep(2 * time.Hour)
		pooltest.RequireWhole(t, p, 1)
	})
}

// What users see of parked tasks.

func TestParkedTasksAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate := make(chan struct{})
		var within taskpool.TaskInfo
		h := pooltest.Submit(t, p, taskpool.Task{Name: "io", Timeout: time.Hour, Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error {
				within, _ = taskpool.Current(ctx)
				<-gate
				return nil
			})
		}})
		synctest.Wait()
		release := pooltest.Occupy(t, p)
		pooltest.Submit(t, p, taskpool.Task{Name: "queued", Run: pooltest.Nop})
		synctest.Wait()
		require.Equal(t, taskpool.StateParked, within.State)
		require.Equal(t, taskpool.StateParked, h.State())
		check := func() {
			t.Helper()
			s := p.Stats()
			pooltest.RequireConserved(t, s)
			require.Equal(t, []int{1, 1, 1}, []int{s.Parked, s.Running, s.Queued})
			require.Equal(t, []taskpool.PriorityStats{{Priority: taskpool.Medium, Queued: 1}}, s.Waiting)
			parked := p.Tasks(taskpool.StateParked)
			require.Len(t, parked, 1)
			info := parked[0]
			require.Equal(t, "io", info.Name)
			require.Equal(t, taskpool.StateParked, info.State)
			require.Equal(t, 1, info.Attempt)
			require.Same(t, h, info.Handle)
			require.Equal(t, info.Started.Add(time.Hour), info.Deadline)
			require.Positive(t, info.Worker)
			require.Len(t, p.Tasks(), 2)
			require.Len(t, p.Tasks(taskpool.StateRunning), 1)
			require.Len(t, p.Tasks(taskpool.StateQueued), 1)
			require.NoError(t, p.Health())
		}
		check()
		close(gate)
		synctest.Wait()
		check() // now it waits for a slot
		require.True(t, h.Cancel(pooltest.ErrCause))
		release()
		require.NoError(t, h.Wait(pooltest.Patience(t)), "it returned nil")
		pooltest.Drain(t, p)
	})
}

func TestWaitIdleWaitsForParkedTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { <-gate; return nil })
		}})
		synctest.Wait()
		require.Equal(t, 1, p.Stats().Parked)
		idle := false
		go func() { idle = p.WaitIdle(context.Background()) == nil }()
		synctest.Wait()
		require.False(t, idle)
		close(gate)
		synctest.Wait()
		require.True(t, idle)
	})
}

func TestWaitForOnesOwnHandleIsErrInsideAndParksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			info, _ := taskpool.Current(ctx)
			derived, cancel := context.WithCancel(context.WithoutCancel(ctx))
			defer cancel()
			return errors.Join(info.Handle.Wait(ctx), info.Handle.Wait(derived))
		}})
		require.ErrorIs(t, h.Wait(pooltest.Patience(t)), taskpool.ErrInside)
	})
}
