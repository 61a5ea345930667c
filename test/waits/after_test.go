package waits_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// after submits a task that comes after those.
func after(t testing.TB, p *taskpool.Pool, task taskpool.Task, on ...*taskpool.Handle) *taskpool.Handle {
	t.Helper()
	task.After = on
	if task.Run == nil {
		task.Run = pooltest.Nop
	}
	return pooltest.Submit(t, p, task)
}

// gated submits a task that returns what is sent to the channel.
func gated(t testing.TB, p *taskpool.Pool, task taskpool.Task) (*taskpool.Handle, chan error) {
	gate := make(chan error, 1)
	task.Run = func(ctx context.Context) error {
		select {
		case err := <-gate:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return pooltest.Submit(t, p, task), gate
}

func TestATaskStartsWhenAllThatItComesAfterHaveSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told pooltest.EventLog
		p, q := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHooks(told.Hooks())), pooltest.New(t, taskpool.WithName("other"), taskpool.WithWorkers(4))
		a, gateA := gated(t, p, taskpool.Task{Name: "a"})
		b, gateB := gated(t, q, taskpool.Task{Name: "b"})
		done := pooltest.Submit(t, q, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, done.Wait(t.Context()))
		h := after(t, p, taskpool.Task{Name: "c"}, a, b, done, a)
		synctest.Wait()
		before := runtime.NumGoroutine()
		after(t, p, taskpool.Task{}, a, b).Cancel(nil)
		after(t, p, taskpool.Task{}, h)
		synctest.Wait()
		require.LessOrEqual(t, runtime.NumGoroutine(), before, "it needs no goroutine")
		info := h.Info()
		require.Equal(t, taskpool.StateDelayed, info.State)
		require.Equal(t, `task 1 "a" and 2 more`, info.WaitsFor)
		require.Zero(t, info.Due)
		s := p.Stats()
		require.Equal(t, 2, s.Delayed)
		require.Equal(t, 2, s.Dependent)
		require.Len(t, p.Tasks(taskpool.StateDelayed), 2)

		gateA <- nil
		require.NoError(t, a.Wait(t.Context()))
		synctest.Wait()
		require.Equal(t, `task 1 "b" in pool "other"`, h.Info().WaitsFor)
		time.Sleep(time.Second)
		gateB <- nil
		require.NoError(t, h.Wait(t.Context()))
		require.Empty(t, h.Info().WaitsFor)
		pooltest.Drain(t, p)
		require.Zero(t, p.Stats().Dependent)
		require.Equal(t, []string{"Queued", "Started", "Finished"}, told.OfTask(h.ID()))
		for _, e := range told.Named("Started") {
			require.Zero(t, e.Task.Wait, "for a worker")
		}
	})
}

func TestATaskIsCanceledWithTheErrorOfWhatItComesAfter(t *testing.T) {
	for _, test := range []struct {
		name  string
		state taskpool.State
		want  error
		end   func(h *taskpool.Handle, gate chan error)
	}{
		{"failed", taskpool.StateFailed, pooltest.ErrTask, func(_ *taskpool.Handle, gate chan error) { gate <- pooltest.ErrTask }},
		{"canceled", taskpool.StateCanceled, pooltest.ErrCause, func(h *taskpool.Handle, _ chan error) { h.Cancel(pooltest.ErrCause) }},
		{"shed", taskpool.StateShed, taskpool.ErrShed, func(*taskpool.Handle, chan error) {}},
	} {
		for _, other := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, in another pool: %t", test.name, other), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("p"))
					q, task := p, taskpool.Task{Name: "on"}
					if other {
						q = pooltest.New(t, taskpool.WithWorkers(4))
					}
					if test.state == taskpool.StateShed {
						defer pooltest.Block(t, p)()
						task.MaxWait = time.Second
					}
					on, gate := gated(t, p, task)
					middle := after(t, q, taskpool.Task{Run: pooltest.MustNotRun}, on)
					last := after(t, p, taskpool.Task{Run: pooltest.MustNotRun}, middle)
					test.end(on, gate)
					for _, h := range []*taskpool.Handle{middle, last, after(t, q, taskpool.Task{Run: pooltest.MustNotRun}, middle)} {
						err := h.Wait(t.Context())
						require.ErrorIs(t, err, test.want)
						var e *taskpool.DependencyError
						require.ErrorAs(t, err, &e)
						require.Equal(t, taskpool.DependencyError{Pool: "p", ID: on.ID(), Name: "on", State: test.state}, taskpool.DependencyError{Pool: e.Pool, ID: e.ID, Name: e.Name, State: e.State})
						require.Contains(t, err.Error(), fmt.Sprintf(`task %d "on", which was to succeed before, has ended as %v: `, on.ID(), test.state))
						require.Equal(t, taskpool.StateCanceled, h.State())
					}
				})
			})
		}
	}
}

func TestHooksAreToldOfTasksThatADependencyHasCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		told := make(map[string]taskpool.State)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
			mu.Lock()
			defer mu.Unlock()
			told[e.Task.Name] = e.Task.State
		}}))
		on, gate := gated(t, p, taskpool.Task{Name: "on"})
		middle := after(t, p, taskpool.Task{Name: "middle", Run: pooltest.MustNotRun}, on)
		after(t, p, taskpool.Task{Name: "last", Run: pooltest.MustNotRun}, middle)
		gate <- pooltest.ErrTask
		synctest.Wait()
		require.Equal(t, map[string]taskpool.State{"on": taskpool.StateFailed, "middle": taskpool.StateCanceled, "last": taskpool.StateCanceled}, told)
		pooltest.Drain(t, p)
	})
}

// A task that fails with the error of another has failed itself.
func TestTheErrorNamesTheTaskThatHasFailedItself(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(4))
	a := pooltest.Submit(t, p, taskpool.Task{Name: "a", Run: func(context.Context) error { return pooltest.ErrTask }})
	b := after(t, p, taskpool.Task{Name: "b"}, a)
	c := pooltest.Submit(t, p, taskpool.Task{Name: "c", Run: b.Wait})
	var e *taskpool.DependencyError
	require.ErrorAs(t, after(t, p, taskpool.Task{}, c).Wait(t.Context()), &e)
	require.Equal(t, "c", e.Name)
	require.ErrorAs(t, errors.Unwrap(e), &e)
	require.Equal(t, "a", e.Name)
}

func TestAfterRefusesWhatIsNoHandle(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(4))
	h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
	pooltest.Drain(t, p)
	copied := reflect.New(reflect.TypeFor[taskpool.Handle]())
	copied.Elem().Set(reflect.ValueOf(h).Elem())
	for _, test := range []struct {
		on   *taskpool.Handle
		what string
	}{{nil, "nil"}, {new(taskpool.Handle), "a zero Handle"}, {copied.Interface().(*taskpool.Handle), "a copy"}} {
		_, err := p.Submit(t.Context(), taskpool.Task{Run: pooltest.Nop, After: []*taskpool.Handle{h, test.on}})
		require.EqualError(t, err, "taskpool: Task.After[1] must be a Handle that Submit has returned, got "+test.what)
	}
	pooltest.Drain(t, p)
}

func TestATaskWithNotBeforeWaitsForBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := pooltest.New(t, taskpool.WithWorkers(4)), time.Now()
		at := began.Add(time.Minute)
		for _, test := range []struct{ ends, starts time.Duration }{{time.Second, time.Minute}, {2 * time.Minute, 2 * time.Minute}} {
			on := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { return pooltest.Sleep(ctx, test.ends-time.Since(began)) }})
			var started time.Duration
			h := after(t, p, taskpool.Task{NotBefore: at, MaxWait: time.Second, Run: func(context.Context) error {
				started = time.Since(began)
				return nil
			}}, on)
			require.Equal(t, at, h.Info().Due)
			require.NoError(t, on.Wait(t.Context()))
			synctest.Wait()
			require.Empty(t, h.Info().WaitsFor)
			require.NoError(t, h.Wait(t.Context()))
			require.Equal(t, test.starts, started)
		}
	})
}

func TestMaxWaitCountsFromWhenATaskMayStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		on := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { return pooltest.Sleep(ctx, time.Minute) }})
		in := after(t, p, taskpool.Task{MaxWait: time.Second}, on)
		long := after(t, p, taskpool.Task{MaxWait: time.Second, Run: func(ctx context.Context) error { return pooltest.Sleep(ctx, time.Minute) }}, in)
		late := after(t, p, taskpool.Task{MaxWait: time.Second, Run: pooltest.MustNotRun}, in)
		began := time.Now()
		require.ErrorIs(t, late.Wait(t.Context()), taskpool.ErrExpired)
		require.Equal(t, time.Minute+time.Second, time.Since(began))
		require.NoError(t, long.Wait(t.Context()))
	})
}

// Those that wait for others take no room from those that could run, and their number has a
// bound of its own.
func TestRoomOfTasksThatWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
		on, gate := gated(t, p, taskpool.Task{})
		synctest.Wait()
		first, second := after(t, p, taskpool.Task{}, on), after(t, p, taskpool.Task{}, on)
		ready := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		_, err := p.TrySubmit(t.Context(), taskpool.Task{Run: pooltest.Nop, After: []*taskpool.Handle{on}})
		require.ErrorIs(t, err, taskpool.ErrFull)
		_, err = p.TrySubmit(t.Context(), taskpool.Task{Run: pooltest.Nop})
		require.ErrorIs(t, err, taskpool.ErrFull)

		// They wait for room in the order in which they come, and before those with a time.
		var order []string
		var all sync.WaitGroup
		for _, task := range []taskpool.Task{{Name: "time", NotBefore: time.Now().Add(time.Hour)}, {Name: "x"}, {Name: "y"}} {
			if task.NotBefore.IsZero() {
				task.After = []*taskpool.Handle{on}
			}
			all.Go(func() {
				task.Run = pooltest.Nop
				_, err := p.Submit(context.Background(), task)
				require.NoError(t, err)
				order = append(order, task.Name)
			})
			synctest.Wait()
		}
		require.Equal(t, 3, p.Stats().SubmittersWaiting)
		gone, cancel := context.WithCancelCause(t.Context())
		all.Go(func() {
			_, err := p.Submit(gone, taskpool.Task{Run: pooltest.MustNotRun, After: []*taskpool.Handle{on}})
			require.ErrorIs(t, err, pooltest.ErrCause)
		})
		synctest.Wait()
		cancel(pooltest.ErrCause)
		synctest.Wait()
		require.Equal(t, 3, p.Stats().SubmittersWaiting)
		for _, h := range []*taskpool.Handle{first, second} {
			h.Cancel(nil)
			synctest.Wait()
		}
		require.Equal(t, []string{"x", "y"}, order)
		gate <- nil
		require.NoError(t, ready.Wait(t.Context()))
		all.Wait()
		require.Equal(t, []string{"x", "y", "time"}, order)
		pooltest.Drain(t, p)
	})
}

// A task that need not wait any more is like any other, and one that waits in vain needs no room.
func TestWhatHasSettledBeforeSubmitCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
		good := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, good.Wait(t.Context()))
		synctest.Wait()
		bad := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask }})
		require.ErrorIs(t, bad.Wait(t.Context()), pooltest.ErrTask)
		synctest.Wait()
		release := pooltest.Block(t, p)
		_, err := p.Submit(t.Context(), taskpool.Task{Run: pooltest.MustNotRun, After: []*taskpool.Handle{good}})
		require.ErrorIs(t, err, taskpool.ErrFull)
		pending := after(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour)}, good) // as many as may be
		_, err = p.Submit(t.Context(), taskpool.Task{Run: pooltest.MustNotRun, After: []*taskpool.Handle{pending}})
		require.ErrorIs(t, err, taskpool.ErrFull)
		vain := after(t, p, taskpool.Task{Run: pooltest.MustNotRun}, pending, bad)
		require.ErrorIs(t, vain.Wait(t.Context()), pooltest.ErrTask)
		release()
		require.NoError(t, pending.Wait(t.Context()))
		pooltest.Drain(t, p)
	})
}

func TestATaskThatWaitsForOthersCanBeCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4))
		on, gate := gated(t, p, taskpool.Task{})
		ctx, cancel := context.WithCancelCause(t.Context())
		byContext, err := p.Submit(ctx, taskpool.Task{Run: pooltest.MustNotRun, After: []*taskpool.Handle{on}})
		require.NoError(t, err)
		byCall := after(t, p, taskpool.Task{Run: pooltest.MustNotRun}, on)
		third := after(t, p, taskpool.Task{}, on)
		cancel(pooltest.ErrCause)
		require.Equal(t, pooltest.ErrCause, byContext.Wait(t.Context()))
		require.True(t, byCall.Cancel(pooltest.ErrTask))
		require.Equal(t, pooltest.ErrTask, byCall.Err())
		g := p.Group(t.Context(), taskpool.Task{After: []*taskpool.Handle{on}})
		g.Go(pooltest.MustNotRun)
		require.Equal(t, 2, p.Stats().Dependent)
		gate <- pooltest.ErrTask
		require.ErrorIs(t, g.Wait(), pooltest.ErrTask)
		require.ErrorIs(t, third.Wait(t.Context()), pooltest.ErrTask)
		pooltest.Drain(t, p)
	})
}

func TestDependentsThatLeaveKeepTheOthersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		on, gate := gated(t, p, taskpool.Task{})
		const n = 50
		var got []int
		dependents := make([]*taskpool.Handle, n)
		for i := range n {
			dependents[i] = after(t, p, taskpool.Task{Run: func(context.Context) error { got = append(got, i); return nil }}, on)
		}
		left := make(map[int]bool)
		for k, i := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
			if left[i] = k >= n-8; !left[i] {
				require.True(t, dependents[i].Cancel(pooltest.ErrCause))
				synctest.Wait()
			}
		}
		require.Equal(t, 8, p.Stats().Dependent)
		gate <- nil
		var want []int
		for i, h := range dependents {
			if left[i] {
				require.NoError(t, h.Wait(t.Context()))
				want = append(want, i)
			} else {
				require.Equal(t, pooltest.ErrCause, h.Err())
			}
		}
		require.Equal(t, want, got)
		pooltest.Drain(t, p)
	})
}

func TestShutdownWaitsForTasksThatComeAfterOthers(t *testing.T) {
	for _, policy := range []taskpool.DelayedPolicy{taskpool.DelayedWait, taskpool.DelayedCancel} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithDelayedAtShutdown(policy), taskpool.WithWorkers(4))
			on := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { return pooltest.Sleep(ctx, time.Second) }})
			next := after(t, p, taskpool.Task{}, on)
			timed := after(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour)}, on)
			last := after(t, p, taskpool.Task{}, timed)
			require.NoError(t, p.Shutdown(t.Context()))
			require.NoError(t, next.Err())
			require.Equal(t, taskpool.StateSucceeded, next.State())
			if policy == taskpool.DelayedWait {
				require.NoError(t, errors.Join(timed.Err(), last.Err()))
				return
			}
			require.Equal(t, taskpool.ErrClosed, timed.Err())
			require.ErrorIs(t, last.Err(), taskpool.ErrClosed)
			pooltest.RequireConserved(t, p.Stats())
		})
	}
}

func TestShutdownThatIsCutShortListsTasksThatWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := pooltest.New(t, taskpool.WithWorkers(4)), pooltest.New(t, taskpool.WithWorkers(4))
		on, gate := gated(t, q, taskpool.Task{})
		first := after(t, p, taskpool.Task{Name: "first"}, on)
		second := after(t, p, taskpool.Task{Name: "second"}, first)
		var e *taskpool.ShutdownError
		require.ErrorAs(t, p.Shutdown(pooltest.EndedContext()), &e)
		require.Len(t, e.Unfinished, 2)
		for _, u := range e.Unfinished {
			require.Equal(t, taskpool.StateDelayed, u.State)
			require.Len(t, u.Task.After, 1)
			require.Contains(t, u.String(), "after 1")
		}
		require.Equal(t, taskpool.ErrClosed, first.Err())
		require.Equal(t, taskpool.ErrClosed, second.Err())
		gate <- nil
		pooltest.Drain(t, q)
	})
}

// A task of one pool settles while the pool is about to end, and another pool must be told.
func TestPoolThatEndsTellsThoseOfOthers(t *testing.T) {
	for range pooltest.Times(300, 30) {
		p, q := pooltest.New(t, taskpool.WithWorkers(2)), pooltest.New(t, taskpool.WithWorkers(2))
		on := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		cut, gate := gated(t, p, taskpool.Task{})
		all := []*taskpool.Handle{after(t, q, taskpool.Task{}, on), after(t, q, taskpool.Task{}, cut)}
		_ = gate
		_ = p.Shutdown(pooltest.EndedContext())
		for _, h := range all {
			_ = h.Wait(context.Background())
		}
		require.ErrorIs(t, all[1].Err(), taskpool.ErrClosed)
		require.NoError(t, q.Shutdown(context.Background()))
	}
}

func TestUrgencyPassesThroughAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1))
		defer pooltest.Block(t, p)()
		defer pooltest.Block(t, q)()
		low := taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop}
		first, other := pooltest.Submit(t, p, low), pooltest.Submit(t, q, low)
		middle := after(t, q, low, first)
		last := after(t, p, low, middle, other)
		urgencies := func() (all []taskpool.Priority) {
			synctest.Wait()
			for _, h := range []*taskpool.Handle{first, other, middle, last} {
				all = append(all, h.Info().Urgency)
			}
			return all
		}
		require.Equal(t, []taskpool.Priority{1, 1, 1, 1}, urgencies())
		after(t, q, taskpool.Task{Priority: taskpool.Medium}, middle) // which is more urgent than what it comes after
		require.Equal(t, []taskpool.Priority{0, 1, 0, 1}, urgencies())
		r := pooltest.New(t, taskpool.WithWorkers(4))
		pooltest.Submit(t, r, taskpool.Task{Priority: taskpool.High, Run: last.Wait})
		synctest.Wait()
		require.Equal(t, []taskpool.Priority{-1, -1, -1, -1}, urgencies())
		last.SetPriority(-7)
		synctest.Wait()
		require.Equal(t, []taskpool.Priority{-7, -7, -7, -7}, urgencies())
	})
}

// What is lent to a task while it waits counts when it is queued.
func TestATaskThatWaitedForOthersStartsAsUrgentAsItsWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(4))
		on, gate := gated(t, p, taskpool.Task{})
		synctest.Wait()
		var order []string
		run := func(name string) func(context.Context) error {
			return func(context.Context) error { order = append(order, name); return nil }
		}
		h := after(t, p, taskpool.Task{Priority: taskpool.Low, Run: run("low")}, on)
		pooltest.Submit(t, p, taskpool.Task{Run: run("medium")})
		pooltest.Submit(t, q, taskpool.Task{Priority: taskpool.High, Run: h.Wait})
		synctest.Wait()
		gate <- nil
		pooltest.Drain(t, p)
		require.Equal(t, []string{"low", "medium"}, order)
	})
}

// A circle through a wait is found, in one pool and through two.
func TestATaskThatWaitsForWhatComesAfterItIsReported(t *testing.T) {
	for _, pools := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			var log pooltest.LogRecorder
			p := pooltest.New(t, taskpool.WithLogger(log.Logger()), taskpool.WithWorkers(4))
			q := p
			if pools == 2 {
				q = pooltest.New(t, taskpool.WithName("q"), taskpool.WithWorkers(4))
			}
			gate := make(chan *taskpool.Handle, 1)
			first := pooltest.Submit(t, q, taskpool.Task{Name: "first", Run: func(ctx context.Context) error { return (<-gate).Wait(ctx) }})
			last := after(t, p, taskpool.Task{Name: "last"}, after(t, p, taskpool.Task{Name: "middle"}, first))
			gate <- last
			time.Sleep(time.Hour)
			require.ErrorIs(t, q.Health(), taskpool.ErrStalled)
			if pools == 1 {
				require.Equal(t, []string{`task 1 "first" waits for task 3 "last", which comes after task 2 "middle"`},
					log.Attrs(0)["tasks"])
			}
			first.Cancel(nil)
			require.ErrorIs(t, last.Wait(t.Context()), context.Canceled)
			require.NoError(t, q.Health())
		})
	}
}

// A dependent that is gone, and one that has settled, keeps nobody in memory.
func TestDependenciesAndDependentsAreNotKept(t *testing.T) {
	p, q := pooltest.New(t, taskpool.WithWorkers(4)), pooltest.New(t, taskpool.WithWorkers(4))
	collected := func(h *taskpool.Handle) *atomic.Bool {
		var gone atomic.Bool
		runtime.AddCleanup(h, func(int) { gone.Store(true) }, 0)
		return &gone
	}
	on, gate := gated(t, p, taskpool.Task{})
	// They stay, and so does the list that those are in which go: no more than half of it.
	stay := []*taskpool.Handle{after(t, p, taskpool.Task{}, on), after(t, p, taskpool.Task{}, on), after(t, q, taskpool.Task{}, on)}
	var gone []*atomic.Bool
	func() {
		for _, pool := range []*taskpool.Pool{p, q} {
			h := after(t, pool, taskpool.Task{}, on)
			gone = append(gone, collected(h))
			h.Cancel(nil)
		}
	}()
	requireGone := func() {
		t.Helper()
		for _, g := range gone {
			for i := 0; !g.Load(); i++ {
				require.Less(t, i, 10_000)
				runtime.GC()
				runtime.Gosched()
			}
		}
	}
	requireGone()
	last := after(t, q, taskpool.Task{}, on)
	gone = []*atomic.Bool{collected(on)}
	on = nil
	gate <- nil
	for _, h := range append(stay, last) {
		require.NoError(t, h.Wait(t.Context()))
	}
	requireGone()
	runtime.KeepAlive(append(stay, last))
}

// Random graphs of very many tasks, in two pools, some of which fail or are canceled: each
// starts after all that it comes after have succeeded, and none is left.
func TestRandomGraphsSettleInOrder(t *testing.T) {
	const many = 100_000
	n := pooltest.Times(many, many/20)
	for _, end := range []string{"none", "shutdown", "cut"} {
		t.Run(end, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			pools := []*taskpool.Pool{pooltest.New(t, taskpool.WithWorkers(3)), pooltest.New(t, taskpool.WithWorkers(2))}
			for _, p := range pools {
				p.Pause()
			}
			goroutines := runtime.NumGoroutine()
			all, succeeded := make([]*taskpool.Handle, n), make([]atomic.Bool, n)
			before := make([][]int, n)
			var wrong atomic.Int64
			for i := range all {
				task := taskpool.Task{Priority: taskpool.Priority(r.IntN(3) - 1)}
				for range min(r.IntN(4), i) {
					on := i - 1 - r.IntN(min(i, 1000))
					before[i] = append(before[i], on)
					task.After = append(task.After, all[on])
				}
				fails := r.IntN(500) == 0
				task.Run = func(context.Context) error {
					for _, on := range before[i] {
						if !succeeded[on].Load() {
							wrong.Add(1)
						}
					}
					if fails {
						return pooltest.ErrTask
					}
					succeeded[i].Store(true)
					return nil
				}
				h, err := pools[r.IntN(2)].Submit(t.Context(), task)
				require.NoError(t, err)
				all[i] = h
			}
			require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+10)
			for _, p := range pools {
				p.Resume()
			}
			var canceled atomic.Int64
			var cancelers sync.WaitGroup
			cancelers.Go(func() {
				for range 20 {
					if all[r.IntN(n)].Cancel(pooltest.ErrCause) {
						canceled.Add(1)
					}
				}
			})
			cancelers.Wait()
			for i, p := range pools {
				switch end {
				case "shutdown":
					require.NoError(t, p.Shutdown(t.Context()))
				case "cut":
					_ = p.Shutdown(pooltest.EndedContext())
				default:
					if require.NoError(t, p.WaitIdle(t.Context())); i == 0 {
						require.NoError(t, pools[1].WaitIdle(t.Context()))
						require.NoError(t, p.WaitIdle(t.Context()))
					}
				}
			}
			require.Zero(t, wrong.Load())
			states := make(map[taskpool.State]int)
			for i, h := range all {
				s := h.State()
				require.True(t, s.Final(), "%d: %v", i, h)
				states[s]++
				ok := true
				for _, on := range before[i] {
					ok = ok && all[on].State() == taskpool.StateSucceeded
				}
				var e *taskpool.DependencyError
				switch {
				case !ok && end != "cut":
					require.Equal(t, taskpool.StateCanceled, s)
					if h.Err() != pooltest.ErrCause {
						require.ErrorAs(t, h.Err(), &e)
					}
				case ok:
					require.NotErrorAs(t, h.Err(), &e)
				}
			}
			for _, p := range pools {
				pooltest.RequireConserved(t, p.Stats())
				require.Zero(t, p.Stats().Dependent)
			}
			t.Logf("%d tasks: %v", n, states)
		})
	}
}
