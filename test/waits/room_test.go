package waits_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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

// TrySubmit and SubmitWithin: how long a submission may wait for room.

func TestTrySubmitNeverWaits(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		for _, capacity := range []int{0, 2} {
			t.Run(fmt.Sprintf("%v %d", overflow, capacity), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(capacity, overflow))
					release := pooltest.Block(t, p)
					defer release()
					for range capacity {
						_, err := p.TrySubmit(pooltest.Patience(t), taskpool.Task{Run: pooltest.Nop})
						require.NoError(t, err)
					}
					began := time.Now()
					h, err := p.TrySubmit(pooltest.Patience(t), taskpool.Task{Run: pooltest.MustNotRun})
					require.Equal(t, taskpool.ErrFull, err)
					require.Nil(t, h)
					require.Zero(t, time.Since(began))
					require.EqualValues(t, 1, p.Stats().Refused)
				})
			})
		}
	}
}

func TestTrySubmitTakesTheRoomThatThereIs(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	h, err := p.TrySubmit(t.Context(), taskpool.Task{Run: pooltest.Nop})
	require.NoError(t, err)
	require.NoError(t, h.Wait(t.Context()))

	p = pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
	release := pooltest.Block(t, p)
	victim := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.MustNotRun})
	h, err = p.TrySubmit(t.Context(), taskpool.Task{Run: pooltest.Nop})
	require.NoError(t, err, "it sheds what is less urgent")
	require.Equal(t, taskpool.ErrShed, victim.Wait(t.Context()))
	release()
	require.NoError(t, h.Wait(t.Context()))
}

func TestSubmitWithinBoundsTheWaitAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		release := pooltest.Block(t, p)
		cause := errors.New("enough")
		wait, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		began := time.Now()
		h, err := p.SubmitWithin(wait, pooltest.Patience(t), taskpool.Task{Run: pooltest.MustNotRun})
		require.ErrorIs(t, err, cause)
		require.Nil(t, h)
		require.Equal(t, time.Second, time.Since(began))
		require.Zero(t, p.Stats().SubmittersWaiting)
		require.EqualValues(t, 1, p.Stats().Refused)

		_, err = p.SubmitWithin(wait, pooltest.Patience(t), taskpool.Task{Run: pooltest.MustNotRun})
		require.ErrorIs(t, err, cause, "it is over already")
		release()
		synctest.Wait()
		_, err = p.SubmitWithin(wait, pooltest.Patience(t), taskpool.Task{Run: pooltest.MustNotRun})
		require.ErrorIs(t, err, cause, "even if there is room")
	})
}

func TestTheEndOfSubmitWithinsWaitChangesNothingForTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
		release := pooltest.Block(t, p)
		wait, cancel := context.WithCancel(t.Context())
		h, err := p.SubmitWithin(wait, pooltest.Patience(t), taskpool.Task{Run: func(ctx context.Context) error {
			time.Sleep(time.Second)
			return ctx.Err()
		}})
		require.NoError(t, err)
		cancel()
		release()
		require.NoError(t, h.Wait(pooltest.Patience(t)))
	})
}

func TestSubmitWithinEndsWithTheTasksContextToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		release := pooltest.Block(t, p)
		defer release()
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		for _, took := range []time.Duration{time.Second, 0} {
			began := time.Now()
			_, err := p.SubmitWithin(pooltest.Patience(t), ctx, taskpool.Task{Run: pooltest.MustNotRun})
			require.ErrorIs(t, err, cause)
			require.Equal(t, took, time.Since(began))
			require.Zero(t, p.Stats().SubmittersWaiting)
		}
	})
}

// A task that submits names itself by the context for the wait.
func TestSubmitWithinInATaskGivesItsSlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		sum, err := taskpool.Call(pooltest.Patience(t), p, taskpool.Task{}, func(ctx context.Context) (int, error) {
			total := 0
			for i := range 3 {
				h, err := p.SubmitWithin(ctx, context.Background(), taskpool.Task{Run: func(context.Context) error {
					total += i
					return nil
				}})
				if err != nil {
					return 0, err
				}
				if err := h.Wait(ctx); err != nil {
					return 0, err
				}
			}
			return total, nil
		})
		require.NoError(t, err)
		require.Equal(t, 3, sum)
	})
}

func TestSubmitWithinInATaskIsPartOfTheWorkAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		closed, ran := make(chan struct{}), false
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			<-closed
			_, err := p.SubmitWithin(ctx, context.Background(), taskpool.Task{Run: func(context.Context) error { ran = true; return nil }})
			assert.NoError(t, err)
			_, err = p.SubmitWithin(context.Background(), context.Background(), taskpool.Task{Run: pooltest.MustNotRun})
			assert.Equal(t, taskpool.ErrClosed, err)
			return nil
		}})
		down := make(chan error)
		ctx := pooltest.Patience(t)
		go func() { down <- p.Shutdown(ctx) }()
		synctest.Wait()
		close(closed)
		require.NoError(t, <-down)
		require.True(t, ran)
	})
}

// A task that submits needs its slot back when its wait for room is over. Room that comes
// while it waits for that is for others.
func TestWhatIsSubmittedIsNotAcceptedOnceTheWaitIsOver(t *testing.T) {
	cause := errors.New("enough")
	type ends struct {
		task *taskpool.Handle        // that submits
		wait context.CancelCauseFunc // of a context of its own
	}
	for _, c := range []struct {
		name   string
		submit func(p *taskpool.Pool, own, other context.Context, child taskpool.Task) error
		end    func(ends)
	}{
		{
			"wait of SubmitWithin",
			func(p *taskpool.Pool, _, other context.Context, child taskpool.Task) error {
				_, err := p.SubmitWithin(other, context.Background(), child)
				return err
			},
			func(e ends) { e.wait(cause) },
		},
		{
			"context of the child",
			func(p *taskpool.Pool, _, other context.Context, child taskpool.Task) error {
				_, err := p.Submit(other, child)
				return err
			},
			func(e ends) { e.wait(cause) },
		},
		{
			"context of the task, which is the child's",
			func(p *taskpool.Pool, own, _ context.Context, child taskpool.Task) error {
				_, err := p.Submit(own, child)
				return err
			},
			func(e ends) { e.task.Cancel(cause) },
		},
		{
			"context of the task, which is not the child's",
			func(p *taskpool.Pool, own, _ context.Context, child taskpool.Task) error {
				_, err := p.Submit(taskpool.Detach(own), child)
				return err
			},
			func(e ends) { e.task.Cancel(cause) },
		},
	} {
		for _, elsewhere := range []bool{false, true} {
			for _, later := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, elsewhere=%t, later=%t", c.name, elsewhere, later), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
						home := p
						if elsewhere {
							home = pooltest.New(t, taskpool.WithWorkers(1))
							defer pooltest.Block(t, p)()
						}
						other, end := context.WithCancelCause(t.Context())
						defer end(nil)
						child := taskpool.Task{Priority: taskpool.Low, Run: pooltest.MustNotRun}
						if later {
							child.NotBefore = time.Now().Add(time.Hour)
						}
						do, refused := make(chan struct{}), error(nil)
						task := pooltest.Submit(t, home, taskpool.Task{Run: func(ctx context.Context) error {
							<-do
							refused = c.submit(p, ctx, other, child)
							return nil
						}})
						synctest.Wait()
						gate := make(chan struct{})
						open := sync.OnceFunc(func() { close(gate) })
						defer open()
						require.NoError(t, home.Go(taskpool.High, func() { <-gate }))
						var fill []*pooltest.Submission // what takes the child's room
						for range 2 {
							fill = append(fill, pooltest.SubmitOrWait(t.Context(), p, taskpool.Task{Run: pooltest.Nop, NotBefore: child.NotBefore}))
						}
						close(do)
						synctest.Wait() // it waits for room, and its slot is taken
						require.Equal(t, taskpool.StateParked, task.State())

						c.end(ends{task, end})
						synctest.Wait()
						require.Equal(t, taskpool.StateParked, task.State(), "it has no slot")
						for _, f := range fill {
							pooltest.RequireAccepted(t, f)
							f.Handle.Cancel(nil)
						}
						require.Zero(t, p.Stats().SubmittersWaiting, "nobody waits for room")
						open()
						synctest.Wait()
						require.ErrorIs(t, refused, cause)
						require.EqualValues(t, 1, p.Stats().Refused)
						require.NoError(t, task.Err())
						require.Equal(t, taskpool.StateSucceeded, task.State())
					})
				})
			}
		}
	}
}

// Whenever the wait ends, the task is refused and never runs, or is accepted and runs.
func TestSubmitWithinIsAcceptedOrRefusedWheneverTheWaitEnds(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
	var ran atomic.Int64
	accepted := int64(0)
	for range 500 {
		wait, cancel := context.WithCancel(t.Context())
		require.NoError(t, p.WaitIdle(t.Context()))
		release := pooltest.Block(t, p)
		go func() {
			runtime.Gosched()
			release()
			cancel()
		}()
		if h, err := p.SubmitWithin(wait, context.Background(), taskpool.Task{Run: func(ctx context.Context) error { ran.Add(1); return ctx.Err() }}); err == nil {
			accepted++
			require.NoError(t, h.Wait(t.Context()))
		} else {
			require.ErrorIs(t, err, context.Canceled)
		}
		cancel()
	}
	require.NoError(t, p.WaitIdle(t.Context()))
	require.Equal(t, accepted, ran.Load())
}
