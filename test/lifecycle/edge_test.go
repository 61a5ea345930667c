package lifecycle_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Mostly regression tests for bugs that took two rare things at once.

func TestRetryOfATaskThatAHelperParkedIsCountedAsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		hold, fail := make(chan struct{}), make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }},
			Run: func(ctx context.Context) error {
				if task, _ := taskpool.Current(ctx); task.Attempt == 2 {
					return nil
				}
				go func() { _ = taskpool.Block(ctx, func() error { <-hold; return nil }) }()
				<-fail
				return errors.New("once")
			}})
		synctest.Wait()
		release := pooltest.Block(t, p) // on the slot of the parked task
		close(fail)
		synctest.Wait()
		require.Equal(t, []taskpool.PriorityStats{{Priority: taskpool.Medium, Queued: 1}}, p.Stats().Waiting)
		release()
		close(hold)
		require.NoError(t, h.Wait(t.Context()))
	})
}

func TestHugeHangGraceDoesNotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(math.MaxInt64))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Hour)
			return nil
		}})
		synctest.Wait()
		over, cancel := context.WithCancel(t.Context())
		cancel()
		var left *taskpool.ShutdownError
		require.ErrorAs(t, p.Shutdown(over), &left)
		require.Empty(t, left.Unfinished)
		require.Equal(t, taskpool.StateSucceeded, h.State())
	})
}

func TestHugeCapacityDoesNotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(math.MaxInt, taskpool.OverflowReject))
		require.NoError(t, pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Second), Run: pooltest.Nop}).Wait(t.Context()))
	})
}

// looseContext is no context of the standard library's, so that what derives
// from it needs a goroutine until it is canceled.
type looseContext struct {
	context.Context
	done chan struct{}
}

func (c looseContext) Done() <-chan struct{} { return c.done }
func (c looseContext) Value(any) any         { return nil }

func TestContextOfAnAttemptGivenUpIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		p := pooltest.New(t, taskpool.WithWorkers(1))
		foreign := looseContext{context.Background(), make(chan struct{})}
		h, err := p.Submit(foreign, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
			<-ctx.Done()
			<-gate
			return errors.New("late")
		}})
		require.NoError(t, err)
		require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		require.False(t, strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "propagateCancel"))
		close(gate)
		close(foreign.done)
	})
}

func TestGrowingThePoolMakesLostSlotsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1)) // and one abandoned goroutine at most
		gate := make(chan struct{})
		for range 2 {
			h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
			require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
		}
		require.Equal(t, 1, p.Stats().Lost)
		require.Error(t, p.Health())
		require.NoError(t, p.Resize(4))
		require.Zero(t, p.Stats().Lost)
		require.NoError(t, p.Health())
		close(gate)
	})
}

func TestWorkerThatHangsInBlockIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate := make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { <-gate; return nil })
		}})
		require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
		require.Equal(t, 1, p.Stats().Goroutines)
		require.Equal(t, 1, p.Stats().Abandoned)
		close(gate)
	})
}

func TestParkedTaskCanLeaveThoughTheSlotsAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxAbandoned(0))
		gate := make(chan struct{})
		var cleaned atomic.Bool
		parked := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			_ = taskpool.Block(ctx, func() error { <-ctx.Done(); return nil })
			cleaned.Store(true)
			return ctx.Err()
		}})
		synctest.Wait()
		hung := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		require.ErrorIs(t, hung.Wait(t.Context()), taskpool.ErrHung)
		require.Equal(t, 1, p.Stats().Lost)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, p.Shutdown(over))
		require.True(t, cleaned.Load())
		require.Equal(t, taskpool.StateCanceled, parked.State())
		close(gate)
	})
}

func TestTaskCanceledWhileItsPolicyTakesLongIsNotCalledHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		mine := errors.New("mine")
		h := pooltest.Submit(t, p, taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { time.Sleep(time.Minute); return true }},
			Run:   func(context.Context) error { return errors.New("failed") },
		})
		synctest.Wait()
		require.True(t, h.Cancel(mine))
		require.ErrorIs(t, h.Wait(t.Context()), mine)
		require.Equal(t, taskpool.StateCanceled, h.State())
		require.Zero(t, p.Stats().Hangs)
		time.Sleep(time.Hour) // If returns
	})
}

// slowContext takes a minute to answer Err once it is told to.
type slowContext struct {
	context.Context
	slow atomic.Bool
}

func (c *slowContext) Err() error {
	if c.slow.CompareAndSwap(true, false) {
		time.Sleep(time.Minute)
	}
	return c.Context.Err()
}

func TestTaskSettledWhileItIsJudgedIsSettledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		ctx := &slowContext{Context: context.Background()}
		h, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error {
			ctx.slow.Store(true)
			return errors.New("failed")
		}})
		require.NoError(t, err)
		synctest.Wait()
		require.True(t, h.Cancel(nil))
		time.Sleep(time.Hour)
		require.Equal(t, taskpool.StateCanceled, h.State())
		s := p.Stats()
		pooltest.RequireConserved(t, s)
		require.EqualValues(t, 1, s.Canceled)
		require.Equal(t, 1, s.Goroutines)
		require.Zero(t, s.Abandoned)
	})
}

func TestLeastUrgentTaskDoesNotParkInAPausedPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Priority: math.MaxInt, Run: func(ctx context.Context) error {
			time.Sleep(time.Second)
			return taskpool.Yield(ctx)
		}})
		synctest.Wait()
		p.Pause()
		require.NoError(t, h.Wait(t.Context()))
	})
}

func TestLostTasksAreListedAsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxAbandoned(0))
		gate := make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Name: "deaf", Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
		tasks := p.Tasks()
		require.Len(t, tasks, 1)
		require.Equal(t, "deaf", tasks[0].Name)
		require.Equal(t, taskpool.StateAbandoned, tasks[0].State)
		close(gate)
	})
}

// panickyContext panics in Err and Value once it is told to.
type panickyContext struct {
	context.Context
	bad atomic.Bool
}

func (c *panickyContext) Err() error {
	if c.bad.Load() {
		panic("Err")
	}
	return c.Context.Err()
}

func (c *panickyContext) Value(key any) any {
	if c.bad.Load() {
		panic("Value")
	}
	return c.Context.Value(key)
}

func TestForeignContextThatPanicsHarmsNobody(t *testing.T) {
	t.Run("when it ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			release := pooltest.Block(t, p)
			std, cancel := context.WithCancel(t.Context())
			ctx := &panickyContext{Context: std}
			h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			require.NoError(t, err)
			ctx.bad.Store(true)
			cancel()
			require.ErrorIs(t, h.Wait(context.Background()), context.Canceled)
			release()
		})
	})
	t.Run("when the task is silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			std, cancel := context.WithCancel(t.Context())
			defer cancel()
			ctx := &panickyContext{Context: std}
			h, err := p.Submit(ctx, taskpool.Task{Heartbeat: time.Second, Run: func(run context.Context) error {
				assert.NotNil(t, run.Done())
				ctx.bad.Store(true)
				time.Sleep(4 * time.Second)
				return nil
			}})
			require.NoError(t, err)
			require.NoError(t, h.Wait(context.Background()))
		})
	})
}

func TestWaitsThatTimeOutLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		gate := make(chan struct{})
		defer close(gate)
		child := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		parent := func() weak.Pointer[[64]int] { // of what lives as long as anything of the parent
			held := new([64]int)
			h, err := p.Submit(context.WithValue(t.Context(), pooltest.Key{}, held), taskpool.Task{Run: func(ctx context.Context) error {
				for range 1000 {
					soon, cancel := context.WithTimeout(ctx, time.Second)
					assert.ErrorIs(t, child.Wait(soon), context.DeadlineExceeded)
					cancel()
				}
				return nil
			}})
			require.NoError(t, err)
			require.NoError(t, h.Wait(t.Context()))
			return weak.Make(held)
		}()
		synctest.Wait()
		runtime.GC()
		runtime.GC() // also if the first came while another was under way
		require.True(t, parent.Value() == nil, "the parent is still referred to")
		require.Equal(t, taskpool.StateRunning, child.State())
	})
}

func TestStatsCountHowOftenSlotsWereGivenBack(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
		for range 3 {
			if err := taskpool.Block(ctx, func() error { return nil }); err != nil {
				return err
			}
		}
		return taskpool.Yield(ctx) // to nobody
	}}).Wait(t.Context()))
	require.EqualValues(t, 3, p.Stats().Parks)
}

// A hung attempt returns late and without an error, while the retry it was
// granted waits: the task's context must still be able to end the task.
func TestLateReturnLeavesTheContextOfTheRetryAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		ctx, cancel := context.WithCancelCause(t.Context())
		hang := make(chan struct{})
		h, err := p.Submit(ctx, taskpool.Task{
			Timeout: time.Second,
			Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { return true },
				Backoff: func(int) time.Duration { return time.Hour }},
			Run: func(context.Context) error { <-hang; return nil },
		})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Equal(t, taskpool.StateDelayed, h.State())
		close(hang)
		synctest.Wait()
		enough := errors.New("enough")
		cancel(enough)
		synctest.Wait()
		require.Equal(t, taskpool.StateCanceled, h.State())
		require.Equal(t, enough, h.Err())
	})
}

// The first reason for which an attempt's context ended stands, also when the
// task asks for the context only after another one has come.
func TestFirstReasonIsTheCauseOfTheContext(t *testing.T) {
	enough, more := errors.New("enough"), errors.New("more")
	tests := []struct {
		name  string
		task  taskpool.Task
		first func(h *taskpool.Handle)
		cause error
		err   error
	}{
		{"canceled", taskpool.Task{}, func(h *taskpool.Handle) { h.Cancel(enough) }, enough, context.Canceled},
		{"canceled, then timed out", taskpool.Task{Timeout: time.Minute}, func(h *taskpool.Handle) { h.Cancel(enough) }, enough, context.Canceled},
		{"timed out", taskpool.Task{Timeout: time.Second}, func(*taskpool.Handle) { time.Sleep(2 * time.Second) }, taskpool.ErrTimeout, context.DeadlineExceeded},
		{"silent", taskpool.Task{Heartbeat: time.Second}, func(*taskpool.Handle) { time.Sleep(3 * time.Second) }, taskpool.ErrHung, context.Canceled},
		{"the context alone", taskpool.Task{}, func(*taskpool.Handle) {}, more, context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Hour))
				ctx, cancel := context.WithCancelCause(t.Context())
				look := make(chan struct{})
				var yielded, cause, err error
				tt.task.Run = func(ctx context.Context) error {
					<-look
					yielded, cause, err = taskpool.Yield(ctx), context.Cause(ctx), ctx.Err()
					return nil
				}
				h, submitErr := p.Submit(ctx, tt.task)
				require.NoError(t, submitErr)
				synctest.Wait()
				tt.first(h)
				synctest.Wait()
				cancel(more)
				time.Sleep(2 * time.Minute)
				close(look)
				require.NoError(t, h.Wait(t.Context()))
				require.Equal(t, tt.cause, yielded)
				require.Equal(t, tt.cause, cause)
				require.Equal(t, tt.err, err)
			})
		})
	}
}

// A helper goroutine of a task asks for a slot, which is no room for newcomers,
// and then the task returns. Its policy may take its time.
func TestSlotThatIsNoLongerAskedForIsRoomWhileThePolicyThinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		fail, ask, think := make(chan struct{}), make(chan struct{}), make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { <-think; return false }},
			Run: func(ctx context.Context) error {
				go func() { _ = taskpool.Block(ctx, func() error { <-ask; return nil }) }()
				<-fail
				return errors.New("failed")
			}})
		synctest.Wait()
		p.Pause()
		close(ask)
		synctest.Wait()
		var admission *taskpool.Handle
		go func() { admission, _ = p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop}) }()
		synctest.Wait()
		require.Nil(t, admission, "the slot is asked for")
		close(fail)
		synctest.Wait()
		require.NotNil(t, admission)
		require.Equal(t, taskpool.StateQueued, admission.State())
		close(think)
		p.Resume()
		require.Error(t, h.Wait(t.Context()))
		require.NoError(t, admission.Wait(t.Context()))
	})
}

func TestYieldOnADerivedContextGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var order []string
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			if err := p.Go(taskpool.High, func() { order = append(order, "urgent") }); err != nil {
				return err
			}
			err := taskpool.Yield(derived)
			order = append(order, "resumed")
			return err
		}})
		require.NoError(t, h.Wait(t.Context()))
		require.Equal(t, []string{"urgent", "resumed"}, order)
	})
}

// A task whose helper goroutine has parked it has no slot to give: Yield returns
// at once, be it for more urgent work or at the end of the quantum.
func TestYieldOfAParkedTaskReturnsAtOnce(t *testing.T) {
	for _, waiting := range []taskpool.Priority{taskpool.High, taskpool.Medium} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			hold, look := make(chan struct{}), make(chan struct{})
			yielded := false
			h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
				go func() { _ = taskpool.Block(ctx, func() error { <-hold; return nil }) }()
				<-look
				err := taskpool.Yield(ctx)
				yielded = true
				return err
			}})
			synctest.Wait()
			release := pooltest.Block(t, p) // on the slot of the parked task
			require.NoError(t, p.Go(waiting, func() {}))
			time.Sleep(time.Second) // the quantum is over
			close(look)
			synctest.Wait()
			require.True(t, yielded, "with %v waiting", waiting)
			require.NoError(t, h.Wait(t.Context()))
			close(hold)
			release()
		})
	}
}

// A goroutine that a task has left behind calls Block when its worker is idle,
// or with another task: it must not be taken for that one.
func TestBlockAfterTheTaskIsOverTouchesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxParked(0))
		var left context.Context
		h := pooltest.Submit(t, p, taskpool.Task{Heartbeat: time.Second, Run: func(ctx context.Context) error { left = ctx; return nil }})
		require.NoError(t, h.Wait(t.Context()))
		called := 0
		f := func() error { called++; return nil }
		require.NoError(t, taskpool.Block(left, f), "the worker is idle")
		silent := pooltest.Submit(t, p, taskpool.Task{Heartbeat: time.Minute, Run: func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}})
		synctest.Wait()
		began := time.Now()
		time.Sleep(50 * time.Second)
		require.NoError(t, taskpool.Block(left, f), "the worker has another task")
		require.NoError(t, silent.Wait(t.Context()))
		require.Equal(t, time.Minute, time.Since(began), "that is no sign of life of the other task")
		require.Equal(t, 2, called)
	})
}

func TestBeatOnADerivedContextIsASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Heartbeat: time.Second, Run: func(ctx context.Context) error {
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			for range 100 {
				time.Sleep(600 * time.Millisecond)
				taskpool.Beat(derived)
			}
			return ctx.Err()
		}})
		require.NoError(t, h.Wait(t.Context()))
	})
}

// The group's context is that of a running task, so what is added to the group
// is part of its work, also by a function given to Go.
func TestFunctionMayAddToTheGroupOfARunningTaskAfterShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		groups, add := make(chan *taskpool.Group, 1), make(chan struct{})
		added := false
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			g := p.Group(ctx, taskpool.Task{})
			groups <- g
			<-add
			return g.Wait()
		}})
		g := <-groups
		closed := make(chan struct{})
		require.NoError(t, p.Go(0, func() {
			<-closed
			g.Go(func(context.Context) error { added = true; return nil })
			close(add)
		}))
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		close(closed)
		require.NoError(t, h.Wait(t.Context()))
		require.NoError(t, <-down)
		require.True(t, added)
	})
}

// An unhurriedContext has an AfterFunc of its own, whose stop function takes its
// time.
type unhurriedContext struct {
	context.Context
	done, stop chan struct{}
}

func (c unhurriedContext) Done() <-chan struct{}        { return c.done }
func (c unhurriedContext) Value(any) any                { return nil }
func (c unhurriedContext) AfterFunc(func()) func() bool { return func() bool { <-c.stop; return true } }

// The task is canceled when Run has returned nil but the task has not settled:
// that comes too late, however long the rest takes.
func TestCancelAfterRunReturnedNilCancelsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		ctx := unhurriedContext{context.Background(), make(chan struct{}), make(chan struct{})}
		h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { return ctx.Err() }}) // so that there is something to stop
		require.NoError(t, err)
		synctest.Wait() // in stop
		require.Equal(t, taskpool.StateRunning, h.State())
		h.Cancel(nil)
		time.Sleep(time.Minute)
		require.Equal(t, taskpool.StateSucceeded, h.State(), "the slot does not wait for the context: %v", h.Err())
		require.NoError(t, p.Go(taskpool.High, func() {}))
		synctest.Wait()
		s := p.Stats()
		require.EqualValues(t, 2, s.Succeeded)
		require.Zero(t, s.Hangs)
		require.Equal(t, 1, s.Abandoned)
		close(ctx.stop)
		synctest.Wait()
		require.Equal(t, taskpool.StateSucceeded, h.State())
		require.Zero(t, p.Stats().Abandoned)
	})
}

// A slog.Handler that does not return must not keep the slot of a hung task.
func TestSlotOfAHungTaskIsFreeBeforeTheLogIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan struct{})
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second), taskpool.WithHooks(taskpool.Hooks{
			Finished: func(e taskpool.TaskEvent) {
				if errors.Is(e.Err, taskpool.ErrHung) {
					<-told
				}
			}}))
		hang := make(chan struct{})
		hung := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-hang; return nil }})
		next := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, taskpool.StateFailed, hung.State())
		require.Equal(t, taskpool.StateSucceeded, next.State())
		close(told)
		close(hang)
	})
}

// Tasks return at the very moment at which they are given up: each has one
// outcome, and its slot is there again.
func TestReturnAtTheEndOfTheGraceHasOneOutcome(t *testing.T) {
	const workers = 200
	for range pooltest.Times(20, 5) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithHangGrace(time.Second))
			var handles []*taskpool.Handle
			for range 2 * workers {
				handles = append(handles, pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error {
					time.Sleep(2 * time.Second)
					return errors.New("late")
				}}))
			}
			require.NoError(t, p.WaitIdle(t.Context()))
			synctest.Wait()
			hung := uint64(0)
			for _, h := range handles {
				require.Equal(t, taskpool.StateFailed, h.State())
				if errors.Is(h.Err(), taskpool.ErrHung) {
					hung++
				}
			}
			s := p.Stats()
			pooltest.RequireConserved(t, s)
			require.Equal(t, hung, s.Hangs)
			require.EqualValues(t, 2*workers, s.Failed)
			require.Equal(t, [3]int{workers, 0, 0}, [3]int{s.Goroutines, s.Lost, s.Abandoned})
		})
	}
}

func TestHungFunctionIsLoggedAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(log.Logger()))
		hang := make(chan struct{})
		require.NoError(t, p.Go(0, func() { <-hang }))
		synctest.Wait()
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, p.Shutdown(over))
		require.Equal(t, []string{"ERROR taskpool: task hung", "WARN taskpool: shutdown left tasks unfinished"}, log.Messages())
		close(hang)
	})
}

// A lost slot that is made good, as an abandoned goroutine has returned, is told
// to hooks like any other.
func TestSlotMadeGoodIsToldToHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events pooltest.EventLog
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithMaxAbandoned(1), taskpool.WithHangGrace(time.Second),
			taskpool.WithHooks(events.Hooks()))
		hang := map[string]chan struct{}{"a": make(chan struct{}), "b": make(chan struct{})}
		for name, c := range hang {
			pooltest.Submit(t, p, taskpool.Task{Name: name, Timeout: time.Second, Run: func(context.Context) error { <-c; return nil }})
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		told := events.Named("WorkerAbandoned", "WorkerReplaced")
		require.Len(t, told, 2)
		require.Equal(t, 1, p.Stats().Lost)
		for _, info := range p.Tasks(taskpool.StateAbandoned) {
			if info.Worker == told[0].Worker.Worker {
				close(hang[info.Name])
				delete(hang, info.Name)
			}
		}
		synctest.Wait()
		require.Zero(t, p.Stats().Lost)
		told = events.Named("WorkerAbandoned", "WorkerReplaced")
		require.Len(t, told, 4)
		require.Equal(t, "WorkerReplaced", told[3].Name)
		for _, c := range hang {
			close(c)
		}
	})
}

func TestShutdownCutShortThatLeftNothingWarnsOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(log.Logger()))
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); return nil }})
		synctest.Wait()
		over, cancel := context.WithCancel(t.Context())
		cancel()
		var left *taskpool.ShutdownError
		require.ErrorAs(t, p.Shutdown(over), &left)
		require.Empty(t, left.Unfinished)
		require.Empty(t, log.Messages())
	})
}

// At the end of all patience Shutdown leaves behind what does not return, and
// says so in the log and in Stats.
func TestShutdownTellsWhatItLeavesBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, thinks := new(pooltest.LogRecorder), make(chan struct{})
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(log.Logger()), taskpool.WithHooks(taskpool.Hooks{
			Finished: func(e taskpool.TaskEvent) {
				if e.Task.Name == "" {
					<-thinks
				}
			}}))
		h := pooltest.Submit(t, p, taskpool.Task{Name: "retried", Run: func(context.Context) error { return errors.New("failed") },
			Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { <-thinks; return false }}})
		require.NoError(t, p.Go(0, func() {}))
		synctest.Wait()
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, p.Shutdown(over))
		synctest.Wait()
		s := p.Stats()
		require.Equal(t, [2]int{0, 2}, [2]int{s.Goroutines, s.Abandoned})
		require.NotEmpty(t, log.Messages())
		require.NotEqual(t, taskpool.StateRunning, h.State())
		close(thinks)
		synctest.Wait()
		require.Zero(t, p.Stats().Abandoned)
	})
}

// What the supervisor has to tell it tells one after the other, in order.
func TestEventsOfWorkersDoNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at, most int32
		p := pooltest.New(t, taskpool.WithWorkers(8), taskpool.WithHooks(taskpool.Hooks{WorkerDied: func(taskpool.WorkerEvent) {
			n := atomic.AddInt32(&at, 1)
			most = max(most, n)
			time.Sleep(time.Second)
			atomic.AddInt32(&at, -1)
		}}))
		for i := range 8 {
			require.NoError(t, p.Go(0, func() { time.Sleep(time.Duration(i) * time.Millisecond); panic("die") }))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, most)
	})
}

func TestTasksDueAtTheSameTimeStartInOrderOfAcceptance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		due := time.Now().Add(time.Hour)
		var order, want []int
		for i := range 50 {
			pooltest.Submit(t, p, taskpool.Task{NotBefore: due, Run: func(context.Context) error { order = append(order, i); return nil }})
			want = append(want, i)
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Equal(t, want, order)
	})
}

// A hook that ends the reporter's goroutine costs no other report.
func TestReportsAfterAHookCalledGoexitAreMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replaced := 0
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{
			WorkerDied:     func(taskpool.WorkerEvent) { runtime.Goexit() },
			WorkerReplaced: func(taskpool.WorkerEvent) { replaced++ },
		}))
		require.NoError(t, p.Go(0, func() { panic("die") }))
		synctest.Wait()
		require.Equal(t, 1, replaced)
	})
}
