package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// requireShutdownError checks that err is a ShutdownError with errStop as its
// cause, and returns what it lists by name.
func requireShutdownError(t testing.TB, err error) map[string]taskpool.Unfinished {
	t.Helper()
	var e *taskpool.ShutdownError
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, pooltest.ErrStop)
	byName := make(map[string]taskpool.Unfinished)
	for _, u := range e.Unfinished {
		require.NotContains(t, byName, u.Task.Name, "listed twice")
		byName[u.Task.Name] = u
	}
	return byName
}

// Draining.

func TestShutdownDrainsAllThatWasAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		start := time.Now()
		failing := true
		hs := []*taskpool.Handle{
			pooltest.Submit(t, p, taskpool.Task{Name: "retried", Run: func(context.Context) error {
				if failing {
					failing = false
					return errors.New("not yet")
				}
				return nil
			}, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 2 * time.Hour }}}),
			pooltest.Submit(t, p, taskpool.Task{Name: "running", Run: func(ctx context.Context) error { time.Sleep(time.Minute); return ctx.Err() }}),
			pooltest.Submit(t, p, taskpool.Task{Name: "queued", Run: pooltest.Nop}),
			pooltest.Submit(t, p, taskpool.Task{Name: "delayed", Run: pooltest.Nop, NotBefore: start.Add(time.Hour)}),
		}
		ran := 0
		require.NoError(t, p.Go(taskpool.Low, func() { ran++ }))
		synctest.Wait()
		s := p.Stats()
		require.Equal(t, []int{1, 2, 2}, []int{s.Running, s.Queued, s.Delayed})

		require.NoError(t, p.Shutdown(context.Background()))
		for _, h := range hs {
			require.Equal(t, taskpool.StateSucceeded, h.State())
		}
		require.Equal(t, 1, ran)
		require.Equal(t, 2*time.Hour, time.Since(start))
		s = p.Stats()
		pooltest.RequireConserved(t, s)
		require.Equal(t, uint64(5), s.Succeeded)
		require.Zero(t, s.Goroutines)
		require.True(t, s.Closed)
	})
}

func TestNothingIsAcceptedOnceShutdownWasCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		for _, when := range []string{"while it drains", "when it has"} {
			require.ErrorIs(t, p.Go(taskpool.High, func() {}), taskpool.ErrClosed, when)
			_, err := p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop})
			require.ErrorIs(t, err, taskpool.ErrClosed, when)
			if when == "while it drains" {
				release()
				require.NoError(t, <-down)
			}
		}
		require.Equal(t, uint64(4), p.Stats().Refused)
		require.Equal(t, uint64(1), p.Stats().Submitted)
	})
}

func TestFailedTasksAreNotUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return errors.New("x") }})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic("x") }})
		require.NoError(t, p.Go(taskpool.Medium, func() { runtime.Goexit() }))
		require.NoError(t, p.Shutdown(context.Background()))
		require.Equal(t, uint64(3), p.Stats().Failed)
	})
}

func TestShutdownOfAnIdlePoolReturnsNilEvenIfItsContextIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3))
		require.NoError(t, p.Shutdown(pooltest.EndedContext()))
		require.NoError(t, p.Shutdown(pooltest.EndedContext()), "once more")

		p = pooltest.New(t, taskpool.WithWorkers(3))
		require.NoError(t, p.Go(taskpool.High, func() {}))
		require.NoError(t, p.WaitIdle(context.Background()))
		require.NoError(t, p.Shutdown(pooltest.EndedContext()), "after work")
	})
}

func TestShutdownAfterADrainReturnsNilWhateverItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		require.NoError(t, p.Go(taskpool.High, func() {}))
		require.NoError(t, p.Shutdown(context.Background()))
		require.NoError(t, p.Shutdown(pooltest.EndedContext()))
	})
}

// Children.

func TestChildrenOfRunningTasksAreAcceptedWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		draining := make(chan struct{})
		var child, grandchild *taskpool.Handle
		var errs [3]error
		parent := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			<-draining
			// A child that starts after its parent has returned is canceled,
			// so this one gets the parent's context without its end.
			child, errs[0] = p.Submit(context.WithoutCancel(ctx), taskpool.Task{Run: func(ctx context.Context) error {
				grandchild, errs[1] = p.Submit(context.WithoutCancel(ctx), taskpool.Task{Run: pooltest.Nop})
				return nil
			}})
			_, errs[2] = p.Submit(taskpool.Detach(ctx), taskpool.Task{Run: pooltest.Nop})
			return nil
		}})
		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		close(draining)
		require.NoError(t, <-down)
		require.NoError(t, errs[0])
		require.NoError(t, errs[1])
		require.ErrorIs(t, errs[2], taskpool.ErrClosed, "detached")
		for _, h := range []*taskpool.Handle{parent, child, grandchild} {
			require.Equal(t, taskpool.StateSucceeded, h.State())
		}
	})
}

// A detached child of a child has shed both identities, not only the nearer one.
func TestDetachedGrandchildrenAreRefusedWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		draining := make(chan struct{})
		parent := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			<-draining
			child, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
				_, err := p.Submit(taskpool.Detach(ctx), taskpool.Task{Run: pooltest.Nop})
				return err
			}})
			if err != nil {
				return err
			}
			if err := child.Wait(ctx); !errors.Is(err, taskpool.ErrClosed) {
				return fmt.Errorf("grandchild: got %v, want ErrClosed", err)
			}
			return nil
		}})
		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		close(draining)
		require.NoError(t, <-down)
		require.NoError(t, parent.Err())
	})
}

func TestATaskThatHasReturnedHasNoChildrenAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		var ctx context.Context
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(c context.Context) error { ctx = context.WithoutCancel(c); return nil }})
		require.NoError(t, h.Wait(context.Background()))
		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		_, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
		require.ErrorIs(t, err, taskpool.ErrClosed)
		release()
		require.NoError(t, <-down)
	})
}

func TestTasksOfAnotherPoolAreStrangersWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1))
		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		h := pooltest.Submit(t, other, taskpool.Task{Run: func(ctx context.Context) error {
			_, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop}) //nolint:taskpoolvet // it is refused
			return err
		}})
		require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrClosed)
		release()
		require.NoError(t, <-down)
	})
}

func TestASelfResubmittingTaskStopsAtShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var runs, refused int // by the one worker
		var again func(context.Context) error
		again = func(ctx context.Context) error {
			runs++
			time.Sleep(time.Second)
			_, err := p.Submit(taskpool.Detach(ctx), taskpool.Task{Run: again})
			if errors.Is(err, taskpool.ErrClosed) {
				refused++
				return nil
			}
			return err
		}
		pooltest.Submit(t, p, taskpool.Task{Run: again})
		time.Sleep(9500 * time.Millisecond)
		require.NoError(t, p.Shutdown(context.Background()))
		require.Equal(t, 10, runs)
		require.Equal(t, 1, refused)
		require.Equal(t, uint64(10), p.Stats().Succeeded)
	})
}

// Submitters that wait for room.

func TestSubmittersWaitingForRoomGetErrClosedAtShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const submitters = 20
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		require.NoError(t, p.Go(taskpool.Medium, func() {}))
		refused := make(chan error, submitters)
		for range submitters {
			go func() {
				_, err := p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop})
				refused <- err
			}()
		}
		synctest.Wait()
		require.Equal(t, submitters, p.Stats().SubmittersWaiting)
		down := make(chan error)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait() // nothing has finished yet, and still nobody waits
		require.Len(t, refused, submitters)
		for range submitters {
			require.ErrorIs(t, <-refused, taskpool.ErrClosed)
		}
		require.Zero(t, p.Stats().SubmittersWaiting)
		release()
		require.NoError(t, <-down)
		require.Equal(t, uint64(2), p.Stats().Submitted)
		require.Equal(t, uint64(submitters), p.Stats().Refused)
	})
}

// childWaitingForRoom starts a task whose child waits for room, and has the pool
// drain. It returns what the parent got from Submit and from Shutdown.
func childWaitingForRoom(t *testing.T, p *taskpool.Pool, ctx context.Context) (parent *taskpool.Handle, child chan *taskpool.Handle, release func(), down chan error) {
	releaseOne := pooltest.Block(t, p)
	child = make(chan *taskpool.Handle, 1)
	full := make(chan struct{})
	parent = pooltest.Submit(t, p, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error {
		// In Block, so that the child does not get the parent's slot.
		return taskpool.Block(ctx, func() error {
			<-full
			h, err := p.Submit(ctx, taskpool.Task{Name: "child", Run: pooltest.Nop})
			if err != nil {
				return err
			}
			child <- h
			return h.Wait(context.WithoutCancel(ctx))
		})
	}})
	synctest.Wait()
	releaseOther := pooltest.Block(t, p)
	close(full)
	release = func() { releaseOne(); releaseOther() }
	synctest.Wait()
	require.Equal(t, 1, p.Stats().SubmittersWaiting)
	down = make(chan error, 1)
	go func() { down <- p.Shutdown(ctx) }()
	synctest.Wait()
	return parent, child, release, down
}

func TestAChildWaitingForRoomIsLetInWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(0, taskpool.OverflowWait))
		parent, child, release, down := childWaitingForRoom(t, p, context.Background())
		require.Equal(t, 1, p.Stats().SubmittersWaiting, "it is part of the work accepted")
		release()
		require.NoError(t, <-down)
		require.Equal(t, taskpool.StateSucceeded, parent.State())
		require.Equal(t, taskpool.StateSucceeded, (<-child).State())
	})
}

func TestAChildWaitingForRoomIsTurnedAwayWhenShutdownIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(0, taskpool.OverflowWait))
		ctx, cancel := context.WithCancelCause(context.Background())
		parent, child, release, down := childWaitingForRoom(t, p, ctx)
		cancel(pooltest.ErrStop)
		synctest.Wait()
		release()
		left := requireShutdownError(t, <-down)
		require.Empty(t, child)
		require.Equal(t, taskpool.StateCanceled, parent.State())
		require.ErrorIs(t, parent.Err(), taskpool.ErrClosed)
		require.Len(t, left, 1)
		require.Contains(t, left, "parent")
		require.Equal(t, uint64(1), p.Stats().Refused)
	})
}

// Cut short.

func TestShutdownCutShortListsEveryUnfinishedTaskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		ran := make(map[string]int) // by tasks that were submitted anew
		var again bool
		run := func(name string, first func(context.Context) error) func(context.Context) error {
			return func(ctx context.Context) error {
				if again {
					ran[name]++
					return nil
				}
				return first(ctx)
			}
		}
		failing := func(context.Context) error { return errors.New("x") }
		gate := make(chan struct{})
		release := sync.OnceFunc(func() { close(gate) })
		defer release()
		hang := func(context.Context) error { <-gate; return nil }

		retried := pooltest.Submit(t, p, taskpool.Task{Name: "retried", Run: run("retried", failing),
			Retry: taskpool.Retry{MaxAttempts: 5, Backoff: func(n int) time.Duration {
				if n < 3 {
					return 0
				}
				return time.Hour
			}}})
		synctest.Wait()
		delayed := pooltest.Submit(t, p, taskpool.Task{Name: "delayed", Run: run("delayed", pooltest.Nop), NotBefore: time.Now().Add(time.Hour), Priority: taskpool.Low})
		running := pooltest.Submit(t, p, taskpool.Task{Name: "running", Run: run("running", pooltest.UntilEnd), Timeout: time.Hour})
		require.NoError(t, p.Go(7, func() { _ = run("Go, running", hang)(context.Background()) }))
		synctest.Wait()
		queued := pooltest.Submit(t, p, taskpool.Task{Name: "queued", Run: run("queued", pooltest.Nop)})
		require.True(t, queued.SetPriority(42))
		require.NoError(t, p.Go(8, func() { _ = run("Go, queued", pooltest.Nop)(context.Background()) }))
		requeued := pooltest.Submit(t, p, taskpool.Task{Name: "canceled before", Run: pooltest.Nop})
		requeued.Cancel(nil)

		err := p.Shutdown(pooltest.EndedContext())
		var e *taskpool.ShutdownError
		require.ErrorAs(t, err, &e)
		require.ErrorIs(t, err, pooltest.ErrStop)
		require.ErrorContains(t, err, "6 tasks unfinished")

		type row struct {
			id       uint64
			name     string
			priority taskpool.Priority
			state    taskpool.State
			attempt  int
		}
		var got []row
		for _, u := range e.Unfinished {
			got = append(got, row{u.ID, u.Task.Name, u.Task.Priority, u.State, u.Attempt})
		}
		require.ElementsMatch(t, []row{
			{retried.ID(), "retried", 0, taskpool.StateDelayed, 3},
			{delayed.ID(), "delayed", taskpool.Low, taskpool.StateDelayed, 0},
			{running.ID(), "running", 0, taskpool.StateRunning, 1},
			{0, "", 7, taskpool.StateRunning, 1},
			{queued.ID(), "queued", 42, taskpool.StateQueued, 0},
			{0, "", 8, taskpool.StateQueued, 0},
		}, got)

		for _, h := range []*taskpool.Handle{retried, delayed, running, queued} {
			require.Equal(t, taskpool.StateCanceled, h.State())
			require.ErrorIs(t, h.Err(), taskpool.ErrClosed)
		}
		require.ErrorIs(t, requeued.Err(), context.Canceled)
		s := p.Stats()
		pooltest.RequireConserved(t, s)
		require.Equal(t, 1, s.Abandoned)
		require.Zero(t, s.Goroutines)

		// What is listed can be submitted as it is.
		release()
		again = true
		second := pooltest.New(t, taskpool.WithWorkers(1))
		for _, u := range e.Unfinished {
			u.Task.NotBefore = time.Time{}
			pooltest.Submit(t, second, u.Task)
			if u.Task.Name == "retried" {
				require.Equal(t, 5, u.Task.Retry.MaxAttempts)
			}
			if u.Task.Name == "running" {
				require.Equal(t, time.Hour, u.Task.Timeout)
			}
		}
		require.NoError(t, second.Shutdown(context.Background()))
		require.Equal(t, map[string]int{"retried": 1, "delayed": 1, "running": 1, "Go, running": 1,
			"queued": 1, "Go, queued": 1}, ran)
	})
}

// What a running task comes to after Shutdown's context has ended.
func TestRunningTasksWhenShutdownIsCutShort(t *testing.T) {
	mine := errors.New("its own error")
	retry := taskpool.Retry{MaxAttempts: 3, Backoff: func(int) time.Duration { return 0 }}
	tests := []struct {
		name   string
		task   taskpool.Task
		state  taskpool.State
		is     []error
		listed bool
	}{
		{name: "returns nil", task: taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); return nil }},
			state: taskpool.StateSucceeded},
		{name: "returns nil at the end of the grace", task: taskpool.Task{Run: func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(5*time.Second - 1)
			return nil
		}}, state: taskpool.StateSucceeded},
		{name: "returns its context's error", task: taskpool.Task{Run: pooltest.UntilEnd},
			state: taskpool.StateCanceled, is: []error{taskpool.ErrClosed}, listed: true},
		{name: "returns its context's cause", task: taskpool.Task{Run: func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}}, state: taskpool.StateCanceled, is: []error{taskpool.ErrClosed}, listed: true},
		{name: "returns an error of its own", task: taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); return mine }},
			state: taskpool.StateCanceled, is: []error{taskpool.ErrClosed, mine}, listed: true},
		{name: "could be retried", task: taskpool.Task{Retry: retry, Run: func(ctx context.Context) error { <-ctx.Done(); return mine }},
			state: taskpool.StateCanceled, is: []error{taskpool.ErrClosed, mine}, listed: true},
		{name: "panics and could be retried", task: taskpool.Task{Retry: retry, Run: func(ctx context.Context) error { <-ctx.Done(); panic(mine) }},
			state: taskpool.StateCanceled, is: []error{taskpool.ErrClosed, mine}, listed: true},
		{name: "panics", task: taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); panic(mine) }},
			state: taskpool.StateFailed, is: []error{mine}},
		{name: "calls Goexit", task: taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); runtime.Goexit(); return nil }},
			state: taskpool.StateFailed, is: []error{taskpool.ErrGoexit}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				test.task.Name = "task"
				h := pooltest.Submit(t, p, test.task)
				synctest.Wait()
				left := requireShutdownError(t, p.Shutdown(pooltest.EndedContext()))
				require.Equal(t, test.state, h.State())
				for _, is := range test.is {
					require.ErrorIs(t, h.Err(), is)
				}
				if !test.listed {
					require.Empty(t, left)
					return
				}
				require.Len(t, left, 1)
				require.Equal(t, taskpool.StateRunning, left["task"].State)
				require.Equal(t, 1, left["task"].Attempt)
				require.Equal(t, uint64(1), p.Stats().Attempts, "it is not retried")
			})
		})
	}
}

func TestAFunctionThatPanicsWhenShutdownIsCutShortIsNotUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		require.NoError(t, p.Go(taskpool.High, func() { time.Sleep(time.Second); panic("x") }))
		require.NoError(t, p.Go(taskpool.High, func() { time.Sleep(time.Second) }))
		synctest.Wait()
		require.Empty(t, requireShutdownError(t, p.Shutdown(pooltest.EndedContext())))
		require.Equal(t, uint64(1), p.Stats().Failed)
		require.Equal(t, uint64(1), p.Stats().Succeeded)
	})
}

func TestHungTasksAreAbandonedAndListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = 3 * time.Second
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(grace))
		gate := make(chan struct{})
		release := sync.OnceFunc(func() { close(gate) })
		defer release()
		h := pooltest.Submit(t, p, taskpool.Task{Name: "hangs", Run: func(context.Context) error { <-gate; return nil }})
		require.NoError(t, p.Go(taskpool.High, func() { <-gate }))
		synctest.Wait()
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, pooltest.ErrStop)
		defer cancel()
		start := time.Now()
		left := requireShutdownError(t, p.Shutdown(ctx))
		require.Equal(t, time.Minute+grace, time.Since(start))

		require.Len(t, left, 2) // the function has no name
		require.Equal(t, taskpool.StateRunning, left["hangs"].State)
		require.Equal(t, taskpool.StateFailed, h.State())
		var hung *taskpool.HungError
		require.ErrorAs(t, h.Err(), &hung)
		require.ErrorIs(t, h.Err(), taskpool.ErrHung)
		require.ErrorIs(t, h.Err(), taskpool.ErrClosed, "why its context had ended")
		require.Contains(t, string(hung.Stack), "TestHungTasksAreAbandonedAndListed")
		s := p.Stats()
		require.Equal(t, 2, s.Abandoned)
		require.Equal(t, uint64(2), s.Hangs)
		require.Len(t, p.Tasks(taskpool.StateAbandoned), 2)

		release()
		synctest.Wait()
		require.Zero(t, p.Stats().Abandoned, "they have ended after all")
		require.Equal(t, taskpool.StateFailed, h.State(), "a late result is discarded")
	})
}

// With no abandoned goroutine allowed a hung task keeps its slot, but not for
// ever: Shutdown returns all the same.
func TestShutdownGivesLostSlotsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxAbandoned(0))
		gate := make(chan struct{})
		defer close(gate)
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		time.Sleep(time.Minute)
		require.ErrorIs(t, h.Err(), taskpool.ErrHung)
		require.Equal(t, 1, p.Stats().Lost)
		require.NoError(t, p.Shutdown(context.Background()), "every task had settled")
		require.Equal(t, 1, p.Stats().Abandoned)
	})
}

func TestTasksWithContextsOfTheirOwnAreCutOffToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		soft, cancel := context.WithCancel(context.Background())
		defer cancel()
		var cause error
		h, err := p.Submit(context.WithoutCancel(soft), taskpool.Task{Name: "task", Run: func(ctx context.Context) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return ctx.Err()
		}})
		require.NoError(t, err)
		synctest.Wait()
		left := requireShutdownError(t, p.Shutdown(pooltest.EndedContext()))
		require.Contains(t, left, "task")
		require.ErrorIs(t, cause, taskpool.ErrClosed)
		require.Equal(t, taskpool.StateCanceled, h.State())
	})
}

func TestShutdownErrorIsItsContextsCause(t *testing.T) {
	tests := map[string]struct {
		ctx func() (context.Context, context.CancelFunc)
		is  error
	}{
		"cause": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(context.Background())
			cancel(pooltest.ErrStop)
			return ctx, func() {}
		}, pooltest.ErrStop},
		"canceled": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx, cancel
		}, context.Canceled},
		"deadline": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), time.Second)
		}, context.DeadlineExceeded},
		"timeout with a cause": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(context.Background(), time.Second, pooltest.ErrStop)
		}, pooltest.ErrStop},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				pooltest.Submit(t, p, taskpool.Task{Run: pooltest.UntilEnd})
				ctx, cancel := test.ctx()
				defer cancel()
				err := p.Shutdown(ctx)
				require.ErrorIs(t, err, test.is)
				require.ErrorContains(t, err, test.is.Error())
				var e *taskpool.ShutdownError
				require.ErrorAs(t, err, &e)
				require.Len(t, e.Unfinished, 1)
			})
		})
	}
}

// Several calls.

func TestAllShutdownsAgree(t *testing.T) {
	const calls = 100
	shutdowns := func(p *taskpool.Pool, ctx context.Context) []error {
		errs := make([]error, calls)
		var wg sync.WaitGroup
		for i := range calls {
			wg.Go(func() { errs[i] = p.Shutdown(ctx) })
		}
		wg.Wait()
		return errs
	}
	t.Run("drained", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2))
			for range 10 {
				pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Second); return nil }})
			}
			for _, err := range shutdowns(p, context.Background()) {
				require.NoError(t, err)
			}
		})
	})
	t.Run("cut short", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2))
			for range 10 {
				pooltest.Submit(t, p, taskpool.Task{Run: pooltest.UntilEnd})
			}
			ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, pooltest.ErrStop)
			defer cancel()
			errs := append(shutdowns(p, ctx), p.Shutdown(context.Background()), p.Shutdown(ctx))
			var first *taskpool.ShutdownError
			require.ErrorAs(t, errs[0], &first)
			require.Len(t, first.Unfinished, 10)
			for _, err := range errs {
				var e *taskpool.ShutdownError
				require.ErrorAs(t, err, &e)
				require.Same(t, first, e)
			}
		})
	})
}

func TestAShutdownWithLessPatienceCutsTheFirstShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.UntilEnd})
		start := time.Now()
		first := make(chan error)
		go func() { first <- p.Shutdown(context.Background()) }()
		long, cancelLong := context.WithTimeout(context.Background(), time.Hour)
		defer cancelLong()
		second := make(chan error)
		go func() { second <- p.Shutdown(long) }()
		time.Sleep(time.Minute)
		require.Equal(t, taskpool.StateRunning, h.State())

		var want *taskpool.ShutdownError
		require.ErrorAs(t, p.Shutdown(pooltest.EndedContext()), &want)
		require.ErrorIs(t, want, pooltest.ErrStop)
		for _, call := range []chan error{first, second} {
			var got *taskpool.ShutdownError
			require.ErrorAs(t, <-call, &got)
			require.Same(t, want, got)
		}
		require.Equal(t, time.Minute, time.Since(start))
	})
}

// Inside.

func TestShutdownInsideATaskReturnsErrInsideAndShutsNothingDown(t *testing.T) {
	for name, call := range insideCalls(func(p *taskpool.Pool, ctx context.Context) error { return p.Shutdown(ctx) }) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := call(t)
				require.ErrorIs(t, err, taskpool.ErrInside)
				require.False(t, p.Stats().Closed)
				require.NoError(t, p.Health())
				h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
				require.NoError(t, h.Wait(context.Background()))
				require.NoError(t, p.Shutdown(context.Background()))
			})
		})
	}
}

func TestATaskMayShutAnotherPoolDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { return other.Shutdown(ctx) }})
		require.NoError(t, h.Wait(context.Background()))
		require.ErrorIs(t, other.Health(), taskpool.ErrClosed)
		require.NoError(t, p.Health())
	})
}

// The log.

// warnings returns the records of level Warn.
func warnings(l *pooltest.LogRecorder) []slog.Record {
	return slices.DeleteFunc(l.Records(), func(r slog.Record) bool { return r.Level != slog.LevelWarn })
}

func TestAnIncompleteShutdownLogsOneWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(r.Logger()))
		for range 7 {
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.UntilEnd})
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { assert.Error(t, p.Shutdown(pooltest.EndedContext())) })
		}
		wg.Wait()
		require.Error(t, p.Shutdown(pooltest.EndedContext()))
		require.Len(t, warnings(r), 1)
		attrs := make(map[string]any)
		warnings(r)[0].Attrs(func(a slog.Attr) bool {
			attrs[a.Key] = a.Value.Any()
			return true
		})
		require.Equal(t, map[string]any{"unfinished": int64(7)}, attrs)
	})
}

func TestACompleteShutdownLogsNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(r.Logger()))
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, p.Shutdown(context.Background()))
		require.Empty(t, warnings(r))
	})
}

// Hooks and policies that do not return.

func TestUserCodeThatNeverReturnsBlocksShutdownForTwoGracesAtMost(t *testing.T) {
	const patience, grace = time.Minute, 5 * time.Second
	gate := make(chan struct{}) // made anew for each test, within its bubble
	hangTask := func(taskpool.TaskEvent) { <-gate }
	hangWorker := func(taskpool.WorkerEvent) { <-gate }
	failing := func(context.Context) error { return errors.New("x") }
	hung := func(context.Context) error { <-gate; return nil }
	twice := taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }}
	tests := []struct {
		name  string
		hooks taskpool.Hooks
		task  taskpool.Task
		extra bool // another task is left when Shutdown's patience ends
	}{
		{name: "Started", hooks: taskpool.Hooks{Started: hangTask}, task: taskpool.Task{Run: pooltest.Nop}},
		{name: "AttemptFailed", hooks: taskpool.Hooks{AttemptFailed: hangTask}, task: taskpool.Task{Run: failing}},
		{name: "AttemptFailed, tasks left", hooks: taskpool.Hooks{AttemptFailed: hangTask}, task: taskpool.Task{Run: failing}, extra: true},
		{name: "Retried", hooks: taskpool.Hooks{Retried: hangTask}, task: taskpool.Task{Run: failing, Retry: twice}},
		{name: "Finished", hooks: taskpool.Hooks{Finished: hangTask}, task: taskpool.Task{Run: pooltest.Nop}},
		{name: "Finished, tasks left", hooks: taskpool.Hooks{Finished: hangTask}, task: taskpool.Task{Run: pooltest.Nop}, extra: true},
		{name: "WorkerDied", hooks: taskpool.Hooks{WorkerDied: hangWorker}, task: taskpool.Task{Run: func(context.Context) error { panic("x") }}},
		{name: "WorkerReplaced", hooks: taskpool.Hooks{WorkerReplaced: hangWorker}, task: taskpool.Task{Run: func(context.Context) error { panic("x") }}},
		{name: "WorkerAbandoned", hooks: taskpool.Hooks{WorkerAbandoned: hangWorker}, task: taskpool.Task{Run: hung, Timeout: time.Second}},
		{name: "Around", hooks: taskpool.Hooks{Around: func(context.Context, taskpool.TaskInfo, func(context.Context) error) error {
			<-gate
			return nil
		}}, task: taskpool.Task{Run: pooltest.Nop}},
		{name: "Run", task: taskpool.Task{Run: hung}},
		{name: "Retry.If", task: taskpool.Task{Run: failing, Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { <-gate; return true }}}},
		{name: "Retry.If about a hang", task: taskpool.Task{Run: hung, Timeout: time.Second,
			Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { <-gate; return true }}}},
		{name: "Retry.Backoff", task: taskpool.Task{Run: failing, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { <-gate; return 0 }}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate = make(chan struct{})
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(grace), taskpool.WithHooks(test.hooks))
				pooltest.Submit(t, p, test.task)
				if test.extra {
					pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
				}
				synctest.Wait()
				var returned atomic.Bool
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				var down sync.WaitGroup
				down.Go(func() {
					_ = p.Shutdown(ctx)
					returned.Store(true)
				})
				time.Sleep(patience + 2*grace)
				synctest.Wait()
				intime := returned.Load()
				close(gate) // else the bubble would not end
				down.Wait()
				require.True(t, intime)
				pooltest.RequireConserved(t, p.Stats())
				s := p.Stats()
				require.Zero(t, s.Queued+s.Delayed+s.Running, "every task has settled")
			})
		})
	}
}

// The hook Started holds the attempt up until its task has been given up. Run
// must not be called any more then.
func TestATaskGivenUpBeforeItRanNeverRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		defer open()
		var ran atomic.Int64
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) { <-gate }}))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { ran.Add(1); return nil }})
		require.NoError(t, p.Go(taskpool.Medium, func() { ran.Add(1) }))
		synctest.Wait()
		var e *taskpool.ShutdownError
		require.ErrorAs(t, p.Shutdown(pooltest.EndedContext()), &e)
		require.Len(t, e.Unfinished, 2)
		require.ErrorIs(t, h.Err(), taskpool.ErrHung)
		open()
		synctest.Wait()
		require.Zero(t, ran.Load(), "run after they were listed as unfinished")
	})
}

// Whatever a task was submitted with and whatever it was doing, what is listed
// can be submitted again, and does its work then.
func TestUnfinishedTasksOfEveryKindCanBeSubmittedAgain(t *testing.T) {
	value := func(f func(context.Context) error) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) { return 1, f(ctx) }
	}
	kinds := map[string]func(p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error{
		"Submit": func(p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
			t.Run = f
			h, err := p.Submit(context.Background(), t)
			if err != nil {
				return err
			}
			return h.Wait(context.Background())
		},
		"SubmitFunc": func(p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
			fut, err := taskpool.SubmitFunc(context.Background(), p, t, value(f))
			if err != nil {
				return err
			}
			_, err = fut.Get(context.Background())
			return err
		},
		"Call": func(p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
			_, err := taskpool.Call(context.Background(), p, t, value(f))
			return err
		},
		"Map": func(p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) (err error) {
			in := slices.Values([]int{7})
			work := func(ctx context.Context, _ int) (int, error) { return value(f)(ctx) }
			for _, e := range taskpool.Map(context.Background(), p, t, in, work) {
				err = e
			}
			return err
		},
		"Group": func(p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
			g := p.Group(context.Background(), t)
			g.Go(f)
			return g.Wait()
		},
		"Go": func(p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
			return p.Go(t.Priority, func() { _ = f(context.Background()) })
		},
	}
	again := func(context.Context) error { return errors.New("test: must not run in its first life") }
	states := map[string]struct {
		task    taskpool.Task
		busy    bool // another task has the only slot
		first   func(context.Context) error
		state   taskpool.State
		attempt int
	}{
		"queued":  {busy: true, first: again, state: taskpool.StateQueued},
		"delayed": {task: taskpool.Task{NotBefore: time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)}, first: again, state: taskpool.StateDelayed},
		"waiting for a retry": {
			task:  taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }}},
			first: func(context.Context) error { return pooltest.ErrTask }, state: taskpool.StateDelayed, attempt: 1,
		},
		"running": {first: pooltest.UntilEnd, state: taskpool.StateRunning, attempt: 1},
		"parked": {
			first: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { return pooltest.UntilEnd(ctx) })
			},
			state: taskpool.StateParked, attempt: 1,
		},
		"hung": {
			first: func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Hour); return nil },
			state: taskpool.StateRunning, attempt: 1,
		},
	}
	for state, s := range states {
		for kind, submitted := range kinds {
			if kind == "Go" && state != "queued" {
				continue // a function has no context to see the end of
			}
			t.Run(kind+"/"+state, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1))
					if s.busy {
						pooltest.Submit(t, p, taskpool.Task{Name: "busy", Run: pooltest.UntilEnd})
						synctest.Wait()
					}
					var secondLife atomic.Bool
					ran := 0
					task := s.task
					task.Name, task.Priority = "task", 3
					settled := make(chan error, 1)
					go func() {
						settled <- submitted(p, task, func(ctx context.Context) error {
							if secondLife.Load() {
								ran++
								return nil
							}
							return s.first(ctx)
						})
					}()
					synctest.Wait()
					var e *taskpool.ShutdownError
					require.ErrorAs(t, p.Shutdown(pooltest.EndedContext()), &e)
					if kind != "Go" {
						require.ErrorIs(t, <-settled, taskpool.ErrClosed)
					}
					i := slices.IndexFunc(e.Unfinished, func(u taskpool.Unfinished) bool { return u.Task.Priority == 3 })
					require.GreaterOrEqual(t, i, 0)
					u := e.Unfinished[i]
					require.Equal(t, s.state, u.State)
					require.Equal(t, s.attempt, u.Attempt)
					require.Equal(t, task.Retry.MaxAttempts, u.Task.Retry.MaxAttempts)
					require.Equal(t, task.NotBefore, u.Task.NotBefore)

					secondLife.Store(true)
					u.Task.NotBefore = time.Time{}
					other := pooltest.New(t, taskpool.WithWorkers(1))
					require.NoError(t, pooltest.Submit(t, other, u.Task).Wait(pooltest.Patience(t)))
					require.Equal(t, 1, ran)
					require.NoError(t, other.Shutdown(context.Background()))
					time.Sleep(2 * time.Hour) // for the one that hangs
				})
			})
		}
	}
}

// A task that is parked needs a slot to end. Where all are held by tasks that
// hang, the bound of abandoned ones must not keep it from that.
func TestShutdownCutShortGivesSlotsOfHungTasksToThoseOnTheirWayOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxAbandoned(0), taskpool.WithHangGrace(grace))
		later := pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
		parked := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { return later.Wait(ctx) }})
		synctest.Wait()
		hang := make(chan struct{})
		hung := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-hang; return nil }})
		synctest.Wait()
		over, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		var left *taskpool.ShutdownError
		require.ErrorAs(t, p.Shutdown(over), &left)
		require.Equal(t, grace, time.Since(began))
		require.Len(t, left.Unfinished, 3)
		require.ErrorIs(t, hung.Err(), taskpool.ErrHung)
		require.Equal(t, taskpool.StateCanceled, parked.State())
		require.NotErrorIs(t, parked.Err(), taskpool.ErrHung)
		close(hang)
	})
}

// A task that got its slot back only when others were given up, and hangs too, is
// given up at the end of all patience, and hooks are told like of any other.
func TestShutdownCutShortTellsOfEveryTaskItGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		log, events := new(pooltest.LogRecorder), new(pooltest.EventLog)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(grace),
			taskpool.WithLogger(log.Logger()), taskpool.WithHooks(events.Hooks()))
		later := pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
		hang := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { _ = later.Wait(ctx); <-hang; return nil }})
		synctest.Wait()
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-hang; return nil }})
		synctest.Wait()
		over, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		var left *taskpool.ShutdownError
		require.ErrorAs(t, p.Shutdown(over), &left)
		require.Equal(t, 2*grace, time.Since(began))
		require.Len(t, left.Unfinished, 3)
		synctest.Wait()
		require.Len(t, events.Named("Finished"), 3)
		require.Equal(t, 2, strings.Count(strings.Join(log.Messages(), "\n"), "ERROR taskpool: task hung"))
		close(hang)
	})
}

// waitsLogged returns when, since began, the log was told that a shutdown waits, and
// what, from the attributes of each record.
func waitsLogged(log *pooltest.LogRecorder, began time.Time) (at []time.Duration, attrs []map[string]any) {
	for i, r := range log.Records() {
		if strings.HasPrefix(r.Message, "taskpool: shutdown waits") {
			at, attrs = append(at, r.Time.Sub(began)), append(attrs, log.Attrs(i))
		}
	}
	return at, attrs
}

func TestShutdownThatWaitsSaysForWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(14), taskpool.WithCapacity(3, taskpool.OverflowWait),
			taskpool.WithLogger(log.Logger()), taskpool.WithName("orders"))
		sleep := func(d time.Duration) func(context.Context) error {
			return func(context.Context) error { time.Sleep(d); return nil }
		}
		pooltest.Submit(t, p, taskpool.Task{Name: "away", NotBefore: time.Now().Add(2 * time.Minute), Run: pooltest.Nop})
		pooltest.Submit(t, p, taskpool.Task{Name: "first", Run: sleep(36 * time.Second)})
		time.Sleep(time.Second)
		require.NoError(t, p.Go(taskpool.High, func() { time.Sleep(19 * time.Second) }))
		pooltest.Submit(t, p, taskpool.Task{Name: "blocked", Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { return sleep(19 * time.Second)(ctx) })
		}})
		synctest.Wait()
		for range 12 {
			pooltest.Submit(t, p, taskpool.Task{Run: sleep(9 * time.Second)})
		}
		for range 3 {
			pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		}
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		later, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		go func() { _ = p.Shutdown(later) }()
		synctest.Wait()
		require.NoError(t, p.Shutdown(ctx))
		at, attrs := waitsLogged(log, began)
		const grace = 5 * time.Second
		require.Equal(t, []time.Duration{grace, 2 * grace, 4 * grace, 8 * grace, 16 * grace}, at)
		for _, a := range attrs {
			require.Equal(t, began.Add(time.Hour), a["deadline"])
			require.Equal(t, "orders", a["pool"])
		}
		require.Equal(t, []any{int64(14 - 10 + 1), int64(3), int64(1), int64(1), int64(0), grace, began.Add(2*time.Minute - time.Second)},
			[]any{attrs[0]["running_more"], attrs[0]["queued"], attrs[0]["delayed"], attrs[0]["parked"], attrs[0]["submitters_waiting"], attrs[0]["waited"], attrs[0]["last_due"]})
		names := attrs[0]["running"].([]string)
		require.Len(t, names, 10)
		require.Equal(t, `task 2 "first" for 6s`, names[0])
		for _, name := range names[1:] { // those of which there are more
			require.Regexp(t, `^(task \d+|high function of worker \d+) for 5s$`, name)
		}
		names = attrs[1]["running"].([]string)
		require.Len(t, names, 3)
		require.Equal(t, `task 2 "first" for 11s`, names[0])
		require.Regexp(t, `^high function of worker \d+ for 10s$`, names[1])
		require.Equal(t, `task 4 "blocked" for 10s, parked`, names[2])
		require.NotContains(t, attrs[1], "running_more")
		require.Equal(t, []string{`task 2 "first" for 21s`}, attrs[2]["running"])
		require.Equal(t, []any{[]string(nil), int64(0), int64(1)}, []any{attrs[3]["running"], attrs[3]["queued"], attrs[3]["delayed"]})
		require.Len(t, log.Messages(), 5)
	})
}

func TestShutdownThatIsSoonOverSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(log.Logger()))
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(5*time.Second - 1); return nil }})
		require.NoError(t, p.Shutdown(context.Background()))
		time.Sleep(time.Hour)
		require.Empty(t, log.Messages())
	})
}

// When it is cut short, there is one more word, on what was left.
func TestShutdownThatIsCutShortWaitsWithoutAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(log.Logger()))
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(4 * time.Second)
			return ctx.Err()
		}})
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		require.Error(t, p.Shutdown(ctx))
		require.Equal(t, 12*time.Second, time.Since(began))
		at, _ := waitsLogged(log, began)
		require.Equal(t, []time.Duration{5 * time.Second}, at)
		require.Contains(t, log.Messages(), "WARN taskpool: shutdown left tasks unfinished")
	})
}

func TestShutdownThatWaitsForAHookSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(log.Logger()), taskpool.WithHooks(taskpool.Hooks{
			Finished: func(taskpool.TaskEvent) { time.Sleep(7 * time.Second) }}))
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		synctest.Wait()
		require.NoError(t, p.Shutdown(context.Background()))
		require.Equal(t, []string{"WARN taskpool: shutdown waits for hooks that have not returned"}, log.Messages())
	})
}
