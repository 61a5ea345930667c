package waits_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

const inACircle = "taskpool: tasks wait for each other"

func attrOf(r slog.Record, key string) (v slog.Value) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			v = a.Value
		}
		return true
	})
	return v
}

func TestAPoolInWhichNothingMovesSaysSoOnceAndInHealthWhileItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log pooltest.LogRecorder
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second))
		gate := make(chan struct{})
		for _, name := range []string{"a", "b"} { // each waits for what only the third could bring about
			pooltest.Submit(t, p, taskpool.Task{Name: name, Run: func(context.Context) error { <-gate; return nil }})
		}
		time.Sleep(10 * time.Second)
		require.NoError(t, p.Health(), "nothing waits")
		require.False(t, p.Stats().Stalled)
		pooltest.Submit(t, p, taskpool.Task{Name: "c", Run: func(context.Context) error { close(gate); return nil }})
		time.Sleep(time.Second - 1)
		require.NoError(t, p.Health(), "not for long enough")
		time.Sleep(time.Hour)
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		require.True(t, p.Stats().Stalled)
		told := log.Named(pooltest.NothingMoves)
		require.Len(t, told, 1)
		require.Equal(t, slog.LevelWarn, told[0].Level)
		require.EqualValues(t, 1, attrOf(told[0], "queued").Int64())
		running := attrOf(told[0], "running").Any().([]string)
		require.Len(t, running, 2)
		require.Contains(t, fmt.Sprint(running), `task 1 "a" for `)
		require.Contains(t, fmt.Sprint(running), `task 2 "b" for `)
		require.NoError(t, p.Resize(3)) // is what helps
		synctest.Wait()
		require.NoError(t, p.Health())
		require.False(t, p.Stats().Stalled)
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
	})
}

func TestAPoolThatMovesDoesNotSayThatItStandsStill(t *testing.T) {
	for name, task := range map[string]func(ctx context.Context){
		"Yield": func(ctx context.Context) { time.Sleep(300 * time.Millisecond); _ = taskpool.Yield(ctx) },
		"Beat":  func(ctx context.Context) { time.Sleep(300 * time.Millisecond); taskpool.Beat(ctx) },
		"Block": func(ctx context.Context) {
			_ = taskpool.Block(ctx, func() error { time.Sleep(300 * time.Millisecond); return nil })
		},
		"a derived one": func(ctx context.Context) {
			time.Sleep(300 * time.Millisecond)
			_ = taskpool.Yield(context.WithValue(ctx, waitKey{}, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log pooltest.LogRecorder
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second))
				pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
					for range 100 {
						task(ctx)
					}
					return nil
				}})
				pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
				for range 40 {
					time.Sleep(time.Second)
					require.NoError(t, p.Health())
				}
				require.Empty(t, log.Named(pooltest.NothingMoves))
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // many short tasks, and a pause
		var log pooltest.LogRecorder
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second))
		for range 200 {
			require.NoError(t, p.Go(taskpool.Medium, func() { time.Sleep(100 * time.Millisecond) }))
		}
		time.Sleep(5 * time.Second)
		p.Pause()
		time.Sleep(5 * time.Second)
		require.NoError(t, p.Health())
		p.Resume()
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		require.Empty(t, log.Named(pooltest.NothingMoves))
	})
}

func TestTasksThatWaitForEachOtherAreNamedOnceAndShownInHealth(t *testing.T) {
	type ring func(p, other *taskpool.Pool) (cancel func())
	handles := func(in func(i int, p, other *taskpool.Pool) *taskpool.Pool, n int) ring {
		return func(p, other *taskpool.Pool) func() {
			all := make([]*taskpool.Handle, n)
			ready := make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			for i := range n {
				all[i], _ = in(i, p, other).Submit(ctx, taskpool.Task{Name: fmt.Sprint("ring ", i), Run: func(ctx context.Context) error {
					<-ready
					return all[(i+1)%n].Wait(ctx)
				}})
			}
			close(ready)
			return cancel
		}
	}
	for name, c := range map[string]struct {
		ring  ring
		tasks int
		names []string
	}{
		"two": {handles(func(_ int, p, _ *taskpool.Pool) *taskpool.Pool { return p }, 2), 2,
			[]string{`task 1 "ring 0" waits for task 2 "ring 1"`, `task 2 "ring 1" waits for task 1 "ring 0"`}},
		"five": {handles(func(_ int, p, _ *taskpool.Pool) *taskpool.Pool { return p }, 5), 5, []string{`"ring 4" waits for task 1 "ring 0"`}},
		"through two pools": {handles(func(i int, p, other *taskpool.Pool) *taskpool.Pool {
			if i%2 == 0 {
				return p
			}
			return other
		}, 4), 4, []string{`"ring 3" waits for task 1 "ring 0"`}},
		"a child that waits for the group of its parent": {func(p, _ *taskpool.Pool) func() {
			ctx, cancel := context.WithCancel(context.Background())
			_, _ = p.Submit(ctx, taskpool.Task{Name: "maker", Run: func(ctx context.Context) error {
				g := p.Group(ctx, taskpool.Task{Name: "member"})
				g.Go(func(ctx context.Context) error {
					_, err := taskpool.Call(ctx, p, taskpool.Task{Name: "child"}, func(context.Context) (int, error) { return 0, g.Wait() })
					return err
				})
				return g.Wait()
			}})
			return cancel
		}, 3, []string{`"maker" waits for the members of a group`, `"member" waits for task 3 "child"`, `"child" waits for the members of a group`}},
		"members that wait for the limit of their group": {func(p, _ *taskpool.Pool) func() {
			ctx, cancel := context.WithCancel(context.Background())
			g := p.Group(ctx, taskpool.Task{Name: "member"})
			g.SetLimit(2)
			ready := make(chan struct{})
			for range 2 {
				g.Go(func(context.Context) error { <-ready; g.Go(pooltest.Nop); return nil })
			}
			close(ready)
			return cancel
		}, 2, []string{`"member" waits for the limit of a group`}},
		"groups of two pools": {func(p, other *taskpool.Pool) func() {
			return twoGroups(p, other, func(g *taskpool.Group) { _ = g.Wait() })
		}, 2, []string{`"a" waits for the members of a group`, `"b" waits for the members of a group`}},
		"limits of groups of two pools": {func(p, other *taskpool.Pool) func() {
			return twoGroups(p, other, func(g *taskpool.Group) { g.Go(pooltest.Nop) })
		}, 2, []string{`"a" waits for the limit of a group`, `"b" waits for the limit of a group`}},
		"an idle pool": {func(p, other *taskpool.Pool) func() {
			ctx, cancel := context.WithCancel(context.Background())
			ready := make(chan struct{})
			a, _ := p.Submit(ctx, taskpool.Task{Name: "a", Run: func(ctx context.Context) error { <-ready; return other.WaitIdle(ctx) }})
			_, _ = other.Submit(ctx, taskpool.Task{Name: "b", Run: a.Wait})
			_, _ = other.Submit(ctx, taskpool.Task{Name: "c", Run: a.Wait})
			close(ready) // the other pool is not idle any more
			return cancel
		}, 3, []string{`"a" waits for an idle pool`, `"b" waits for task 1 "a"`, `"c" waits for task 1 "a"`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log pooltest.LogRecorder
				opts := []taskpool.Option{taskpool.WithWorkers(6), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second)}
				p, other := pooltest.New(t, opts...), pooltest.New(t, opts...)
				cancel := c.ring(p, other)
				time.Sleep(time.Second - 1)
				require.NoError(t, p.Health())
				for range 100 { // other work goes on, and other tasks wait
					time.Sleep(100 * time.Millisecond)
					pooltest.Submit(t, p, taskpool.Task{Run: waitsForAWhile(p)})
				}
				told := log.Named(inACircle)
				require.Len(t, told, 1)
				require.Len(t, attrOf(told[0], "tasks").Any(), c.tasks)
				for _, name := range c.names {
					require.Contains(t, fmt.Sprint(attrOf(told[0], "tasks").Any()), name)
				}
				require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
				require.True(t, p.Stats().Stalled)
				if name == "through two pools" {
					require.ErrorIs(t, other.Health(), taskpool.ErrStalled)
				}
				cancel()
				time.Sleep(time.Second)
				synctest.Wait()
				require.NoError(t, p.Health())
				require.NoError(t, other.Health())
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			})
		})
	}
}

// waitsForAWhile is a task that waits in p for 150 ms.
func waitsForAWhile(p *taskpool.Pool) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(context.Context) (int, error) { time.Sleep(150 * time.Millisecond); return 0, nil })
		return err
	}
}

// twoGroups has a member of a group of each pool wait for the group of the other.
func twoGroups(p, other *taskpool.Pool, wait func(*taskpool.Group)) (cancel func()) {
	ctx, cancel := context.WithCancel(context.Background())
	a, b := p.Group(ctx, taskpool.Task{Name: "a"}), other.Group(ctx, taskpool.Task{Name: "b"})
	a.SetLimit(1)
	b.SetLimit(1)
	ready := make(chan struct{})
	a.Go(func(context.Context) error { <-ready; wait(b); return nil })
	b.Go(func(context.Context) error { <-ready; wait(a); return nil })
	close(ready)
	return cancel
}

func TestLongWaitsThatEndAreNoCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log pooltest.LogRecorder
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second))
		slow := func(context.Context) error { time.Sleep(time.Minute); return nil }
		for _, call := range waits {
			h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
				return call(ctx, p, func(ctx context.Context) error { return call(ctx, p, slow) })
			}})
			require.NoError(t, h.Wait(pooltest.Patience(t)))
		}
		later := pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
		h := pooltest.Submit(t, p, taskpool.Task{Run: later.Wait})
		require.NoError(t, h.Wait(pooltest.Patience(t)))
		require.Empty(t, log.Named(inACircle))
		require.Empty(t, log.Named(pooltest.NothingMoves))
	})
}

// stallTrial is a pool with a grace of one second, and what it logs.
func stallTrial(t *testing.T, workers int, opts ...taskpool.Option) (*taskpool.Pool, *pooltest.LogRecorder) {
	log := new(pooltest.LogRecorder)
	return pooltest.New(t, append(opts, taskpool.WithWorkers(workers), taskpool.WithLogger(slog.New(log)), taskpool.WithHangGrace(time.Second))...), log
}

func TestAReportOfAStallNamesTenTasksAndCountsTheRest(t *testing.T) {
	for _, workers := range []int{10, 12} {
		synctest.Test(t, func(t *testing.T) {
			p, log := stallTrial(t, workers)
			gate := make(chan struct{})
			// One that is parked holds no slot.
			pooltest.Submit(t, p, taskpool.Task{Name: "parked", Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { <-gate; return nil })
			}})
			synctest.Wait()
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
			for range workers - 1 {
				require.NoError(t, p.Go(taskpool.Low, func() { <-gate }))
				synctest.Wait()
			}
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
			time.Sleep(3 * time.Second)
			told := log.Named(pooltest.NothingMoves)
			require.Len(t, told, 1)
			running := attrOf(told[0], "running").Any().([]string)
			require.Len(t, running, 10)
			require.NotContains(t, fmt.Sprint(running), "parked")
			require.Contains(t, fmt.Sprint(running), "task 2 for ")
			require.Contains(t, fmt.Sprint(running), taskpool.Low.String()+" function of worker ")
			require.EqualValues(t, 1, attrOf(told[0], "parked").Int64())
			if workers == 10 {
				require.Equal(t, slog.Value{}, attrOf(told[0], "running_more"))
			} else {
				require.EqualValues(t, 2, attrOf(told[0], "running_more").Int64())
			}
			close(gate)
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		})
	}
}

func TestAReportOfACircleNamesTenTasksInOrderAndCountsTheRest(t *testing.T) {
	for _, n := range []int{10, 12} {
		synctest.Test(t, func(t *testing.T) {
			p, log := stallTrial(t, n+1)
			release := make(chan struct{})
			require.NoError(t, p.Go(taskpool.Medium, func() { <-release }))
			synctest.Wait()
			cancel := ring(t, p, n)
			time.Sleep(3 * time.Second)
			told := log.Named(inACircle)
			require.Len(t, told, 1)
			tasks := attrOf(told[0], "tasks").Any().([]string)
			require.Len(t, tasks, 10)
			require.True(t, slices.IsSorted(tasks), "%q", tasks)
			if n == 10 {
				require.Equal(t, slog.Value{}, attrOf(told[0], "tasks_more"))
			} else {
				require.EqualValues(t, 2, attrOf(told[0], "tasks_more").Int64())
			}
			close(release)
			cancel()
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		})
	}
}

// ring submits n tasks each of which waits for the next one.
func ring(t *testing.T, p *taskpool.Pool, n int) (cancel func()) {
	all := make([]*taskpool.Handle, n)
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	for i := range n {
		h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
			<-ready
			return all[(i+1)%n].Wait(ctx)
		}})
		require.NoError(t, err)
		all[i] = h
	}
	close(ready)
	return cancel
}

// Whichever comes first, that no slot is free or that something waits, for one or for room.
func TestAStallIsFoundWhereverTasksWait(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T, p *taskpool.Pool){
		"what waits was there first": func(t *testing.T, p *taskpool.Pool) {
			p.Pause()
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Hour); return nil }})
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
			p.Resume()
		},
		"waiting for room": func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Hour); return nil }})
			go func() { _, _ = p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop}) }()
		},
		"after a look that found nothing": func(t *testing.T, p *taskpool.Pool) {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Hour); return nil }})
			h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
			synctest.Wait()
			h.Cancel(nil)
			time.Sleep(5 * time.Second)
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opts []taskpool.Option
				if name == "waiting for room" {
					opts = append(opts, taskpool.WithCapacity(0, taskpool.OverflowWait))
				}
				p, log := stallTrial(t, 1, opts...)
				begin(t, p)
				time.Sleep(time.Second - 1)
				require.NoError(t, p.Health())
				time.Sleep(2 * time.Second)
				require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
				require.Len(t, log.Named(pooltest.NothingMoves), 1)
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			})
		})
	}
}

func TestAStallThatEndsIsOverAndTheNextOneIsToldOf(t *testing.T) {
	for name, move := range map[string]func(next chan struct{}, p *taskpool.Pool){
		"a task ends":        func(next chan struct{}, _ *taskpool.Pool) { next <- struct{}{} },
		"a safe point":       func(next chan struct{}, _ *taskpool.Pool) { close(next) },
		"pause, then resume": func(_ chan struct{}, p *taskpool.Pool) { p.Pause() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, log := stallTrial(t, 1)
				next, gate := make(chan struct{}), make(chan struct{})
				for range 3 {
					pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
						select {
						case _, end := <-next:
							if end {
								return nil
							}
							taskpool.Beat(ctx)
						case <-gate:
						}
						<-gate
						return nil
					}})
				}
				time.Sleep(3500 * time.Millisecond) // between two looks
				require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
				move(next, p)
				synctest.Wait()
				require.NoError(t, p.Health())
				time.Sleep(time.Second)
				require.NoError(t, p.Health())
				p.Resume()
				require.NoError(t, p.Health(), "not for a grace again")
				time.Sleep(3 * time.Second)
				require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
				require.Len(t, log.Named(pooltest.NothingMoves), 2)
				close(gate)
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			})
		})
	}
}

// There is a look each second here, because of a task that waits.
func TestNoStallIsToldOfBeforeAGraceOrWhereNothingWaits(t *testing.T) {
	begin := func(t *testing.T) (p *taskpool.Pool, log *pooltest.LogRecorder, gate chan struct{}) {
		p, log = stallTrial(t, 1)
		gate = make(chan struct{})
		later := pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
		pooltest.Submit(t, p, taskpool.Task{Run: later.Wait})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		return p, log, gate
	}
	for name, then := range map[string]func(t *testing.T, p *taskpool.Pool, log *pooltest.LogRecorder){
		"nothing waits": func(t *testing.T, p *taskpool.Pool, _ *pooltest.LogRecorder) { time.Sleep(10 * time.Second) },
		"not for a grace": func(t *testing.T, p *taskpool.Pool, _ *pooltest.LogRecorder) {
			time.Sleep(1900 * time.Millisecond)
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
			time.Sleep(600 * time.Millisecond)
		},
		"paused": func(t *testing.T, p *taskpool.Pool, _ *pooltest.LogRecorder) {
			p.Pause()
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
			time.Sleep(time.Minute)
		},
		"paused between two looks": func(t *testing.T, p *taskpool.Pool, _ *pooltest.LogRecorder) {
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
			time.Sleep(1500 * time.Millisecond)
			p.Pause()
			time.Sleep(time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, log, gate := begin(t)
				then(t, p, log)
				require.NoError(t, p.Health())
				require.Empty(t, log.Named(pooltest.NothingMoves))
				p.Resume()
				close(gate)
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			})
		})
	}
}

// Each kind of move is one, although others come with it.
func TestWhateverMovesIsNoStall(t *testing.T) {
	const period = 300 * time.Millisecond
	work := func() { time.Sleep(period) }
	for name, run := range map[string]func(ctx context.Context) error{
		"retries":  func(context.Context) error { work(); return pooltest.ErrTask },
		"failures": func(context.Context) error { work(); return taskpool.Permanent(pooltest.ErrTask) },
		"canceled": func(ctx context.Context) error {
			work()
			h, _ := taskpool.Current(ctx)
			h.Handle.Cancel(nil)
			return ctx.Err()
		},
		"parked and resumed": func(ctx context.Context) error {
			for range 50 {
				work()
				if err := taskpool.Block(ctx, func() error { time.Sleep(time.Millisecond); return nil }); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, log := stallTrial(t, 1)
				retry := taskpool.Retry{MaxAttempts: 20, Backoff: func(int) time.Duration { return time.Millisecond }}
				n := 100
				if name == "retries" || name == "parked and resumed" {
					n = 5
				}
				for range n {
					pooltest.Submit(t, p, taskpool.Task{Retry: retry, Run: run})
				}
				for range 20 {
					time.Sleep(time.Second)
					require.NoError(t, p.Health())
				}
				require.Empty(t, log.Named(pooltest.NothingMoves))
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			})
		})
	}
}

func TestACircleIsToldOfOnceItHasLastedForAGraceThoughOthersWaitForLonger(t *testing.T) {
	for _, after := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			p, log := stallTrial(t, 4)
			later := pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
			var a, b *taskpool.Handle
			ready := make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			a, _ = p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { <-ready; return b.Wait(ctx) }})
			b, _ = p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { <-ready; return a.Wait(ctx) }})
			synctest.Wait()
			pooltest.Submit(t, p, taskpool.Task{Run: later.Wait}) // a look in a second, and in two
			time.Sleep(after)
			close(ready)
			time.Sleep(time.Second - 1)
			require.NoError(t, p.Health())
			time.Sleep(time.Second + 1)
			require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
			require.Len(t, log.Named(inACircle), 1)
			cancel()
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		})
	}
}

func TestACircleIsNoneAnyMoreOnceItsWaitsHaveEnded(t *testing.T) {
	t.Run("though they have no slot yet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, _ := stallTrial(t, 1)
			cancel := ring2(t, p)
			time.Sleep(3 * time.Second)
			require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
			release := pooltest.Block(t, p)
			cancel()
			synctest.Wait()
			require.NoError(t, p.Health())
			release()
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		})
	})
	t.Run("as a task was over while a helper waited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, _ := stallTrial(t, 2)
			var a, b *taskpool.Handle
			ready, end := make(chan struct{}), make(chan struct{})
			run := func(on **taskpool.Handle) func(context.Context) error {
				return func(ctx context.Context) error {
					<-ready
					go func() { _ = (*on).Wait(ctx) }()
					<-end
					return nil
				}
			}
			a = pooltest.Submit(t, p, taskpool.Task{Run: run(&b)})
			b = pooltest.Submit(t, p, taskpool.Task{Run: run(&a)})
			close(ready)
			time.Sleep(3 * time.Second)
			require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
			close(end)
			synctest.Wait()
			require.NoError(t, p.Health())
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		})
	})
	t.Run("and the next is counted by itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, log := stallTrial(t, 3)
			for i, n := range []int{2, 3} {
				cancel := ring(t, p, n)
				time.Sleep(3 * time.Second)
				require.ErrorContains(t, p.Health(), fmt.Sprintf("%d tasks wait for each other", n))
				require.Len(t, log.Named(inACircle), i+1)
				cancel()
				time.Sleep(3 * time.Second)
				require.NoError(t, p.Health())
			}
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		})
	})
}

// ring2 is a circle of two on one worker.
func ring2(t *testing.T, p *taskpool.Pool) (cancel func()) {
	ctx, cancel := context.WithCancel(context.Background())
	other := make(chan *taskpool.Handle, 1)
	a, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
		var b *taskpool.Handle
		if err := taskpool.Block(ctx, func() error { b = <-other; return nil }); err != nil {
			return err
		}
		return b.Wait(ctx)
	}})
	require.NoError(t, err)
	b, err := p.Submit(ctx, taskpool.Task{Run: a.Wait})
	require.NoError(t, err)
	other <- b
	return cancel
}

// It waits for ever as well.
func TestWhoWaitsForACircleIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := stallTrial(t, 3)
		other, otherLog := stallTrial(t, 20)
		ctx, cancel := context.WithCancel(context.Background())
		var a, b *taskpool.Handle
		ready := make(chan struct{})
		a, _ = p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { <-ready; return b.Wait(ctx) }})
		b, _ = p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { <-ready; return a.Wait(ctx) }})
		close(ready)
		time.Sleep(3 * time.Second)
		require.Len(t, log.Named(inACircle), 1)
		for i := range 10 {
			_, err := other.Submit(ctx, taskpool.Task{Run: a.Wait})
			require.NoError(t, err)
			time.Sleep(3 * time.Second)
			require.ErrorIs(t, other.Health(), taskpool.ErrStalled)
			require.Len(t, otherLog.Named(inACircle), i+1)
		}
		cancel()
		require.NoError(t, other.WaitIdle(pooltest.Patience(t)))
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
	})
}

// What less urgent tasks wait for is as it should be.
func TestAFreeReservedSlotIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := stallTrial(t, 2, taskpool.WithReserved(1, taskpool.High))
		gate := make(chan struct{})
		later := pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Minute), Run: pooltest.Nop})
		pooltest.Submit(t, p, taskpool.Task{Run: later.Wait}) // has the supervisor look
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		time.Sleep(10 * time.Second)
		require.NoError(t, p.Health())
		require.Empty(t, log.Named(pooltest.NothingMoves))
		close(gate)
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
	})
}

func TestAMemberThatWaitsForTheLimitWhileAnotherWorksIsInNoCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := stallTrial(t, 4)
		g := p.Group(context.Background(), taskpool.Task{})
		g.SetLimit(2)
		ready := make(chan struct{})
		g.Go(func(context.Context) error { time.Sleep(time.Minute); return nil })
		g.Go(func(context.Context) error { <-ready; g.Go(pooltest.Nop); return nil })
		close(ready)
		time.Sleep(10 * time.Second)
		require.NoError(t, p.Health())
		require.NoError(t, g.Wait())
		require.Empty(t, log.Named(inACircle))
	})
}

func TestTasksThatWaitForASlotToGoOnAreInAStall(t *testing.T) {
	for _, ended := range []bool{false, true} { // then it goes before all others
		synctest.Test(t, func(t *testing.T) {
			p, log := stallTrial(t, 1)
			gate, back := make(chan struct{}), make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			parked, err := p.Submit(ctx, taskpool.Task{Name: "parked", Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { <-back; return nil })
			}})
			require.NoError(t, err)
			synctest.Wait()
			pooltest.Submit(t, p, taskpool.Task{Name: "holds", Run: func(context.Context) error { <-gate; return nil }})
			synctest.Wait()
			if ended {
				cancel()
				synctest.Wait()
			}
			close(back)
			synctest.Wait()
			require.Equal(t, taskpool.StateParked, parked.State())
			require.NoError(t, p.Health())
			time.Sleep(time.Hour)
			require.ErrorContains(t, p.Health(), "while 1 tasks and 0 submitters wait", "ended: %v", ended)
			told := log.Named(pooltest.NothingMoves)
			require.Len(t, told, 1)
			require.EqualValues(t, 1, attrOf(told[0], "parked").Int64())
			close(gate)
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			require.NoError(t, p.Health())
		})
	}
}

func TestAStallOfAPoolThatWasMadeSmallerIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := stallTrial(t, 2)
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		synctest.Wait()
		require.NoError(t, p.Resize(1))
		require.NoError(t, p.Go(0, func() { close(gate) }))
		time.Sleep(time.Hour)
		require.Len(t, log.Named(pooltest.NothingMoves), 1)
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		require.NoError(t, p.Resize(2))
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
	})
}

// A circle that comes about meanwhile is found in time all the same.
func TestACircleIsFoundInTimeWhileAStallLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		var log pooltest.LogRecorder
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(grace))
		gate, all := make(chan struct{}), make([]*taskpool.Handle, 2)
		ctx, cancel := context.WithCancel(t.Context())
		for i := range all {
			all[i], _ = p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { <-gate; return all[1-i].Wait(ctx) }})
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, log.Named(pooltest.NothingMoves), 1)
		close(gate)
		time.Sleep(2*grace + 1)
		synctest.Wait()
		require.Len(t, log.Named(inACircle), 1)
		cancel()
	})
}

// The supervisor has nothing else to do between the two.
func TestEachStallIsFoundThoughNothingElseHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		var log pooltest.LogRecorder
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(grace))
		for n := range 3 {
			gate := make(chan struct{})
			require.NoError(t, p.Go(taskpool.High, func() { <-gate }))
			time.Sleep(time.Hour) // nothing waits
			require.NoError(t, p.Go(taskpool.High, func() {}))
			time.Sleep(3 * grace)
			synctest.Wait()
			require.Len(t, log.Named(pooltest.NothingMoves), n+1)
			close(gate)
			require.NoError(t, p.WaitIdle(t.Context()))
			time.Sleep(time.Hour)
		}
	})
}
