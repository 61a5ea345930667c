package waits_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Go where there is no room.

// waitInGo calls Go on a goroutine of its own, which waits.
func waitInGo(p *taskpool.Pool, pr taskpool.Priority, f func()) <-chan error {
	done := make(chan error, 1)
	go func() { done <- p.Go(pr, f) }()
	synctest.Wait()
	return done
}

func TestGoWaitsForRoomTheMostUrgentFirst(t *testing.T) {
	for _, capacity := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			var queued, started []taskpool.Priority
			var waited []time.Duration
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(capacity, taskpool.OverflowWait),
				taskpool.WithHooks(taskpool.Hooks{
					Queued: func(e taskpool.TaskEvent) { queued = append(queued, e.Task.Priority) },
					Started: func(e taskpool.TaskEvent) {
						started, waited = append(started, e.Task.Priority), append(waited, e.Wait)
					},
				}))
			release := pooltest.Block(t, p)
			for range capacity {
				require.NoError(t, p.Go(taskpool.High, func() { time.Sleep(time.Hour) }))
			}
			synctest.Wait()
			queued, started = nil, nil
			var ran []taskpool.Priority
			var waits []<-chan error
			for _, pr := range []taskpool.Priority{taskpool.Low, taskpool.High, taskpool.Medium} {
				waits = append(waits, waitInGo(p, pr, func() { ran = append(ran, pr); time.Sleep(time.Hour) }))
			}
			require.Equal(t, 3, p.Stats().SubmittersWaiting)
			require.Equal(t, taskpool.ErrFull, p.TryGo(taskpool.High, func() { t.Error("it was refused") }))
			time.Sleep(30 * time.Minute)
			release()
			require.NoError(t, p.WaitIdle(t.Context()))
			for _, err := range waits {
				require.NoError(t, <-err)
			}
			want := []taskpool.Priority{taskpool.High, taskpool.Medium, taskpool.Low}
			require.Equal(t, want, ran)
			require.ElementsMatch(t, want, queued)
			require.Equal(t, want, started[len(started)-3:])
			for _, d := range waited[len(waited)-3:] {
				require.Equal(t, time.Duration(capacity)*time.Hour, d, "it counts from when there is room")
			}
			s := p.Stats()
			require.EqualValues(t, 1, s.Refused)
			pooltest.RequireConserved(t, s)
		})
	}
}

func TestTryGoNeverWaits(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, overflow))
			release := pooltest.Block(t, p)
			ran := 0
			require.NoError(t, p.TryGo(taskpool.Low, func() { ran++ }))
			require.Equal(t, taskpool.ErrFull, p.TryGo(taskpool.Low, func() { t.Error("it was refused") }))
			if overflow == taskpool.OverflowReject {
				require.Equal(t, taskpool.ErrFull, p.Go(taskpool.High, func() { t.Error("it was refused") }))
			}
			release()
			require.NoError(t, p.WaitIdle(t.Context()))
			require.Equal(t, 1, ran)
		})
	}
	var none *taskpool.Pool
	require.ErrorContains(t, none.TryGo(taskpool.High, func() {}), "TryGo")
	require.ErrorContains(t, pooltest.New(t).TryGo(taskpool.High, nil), "TryGo")
}

// Each waits for room in a task that has the only slot.
func TestTasksThatWaitInGoGiveTheirSlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		const depth = 100
		ran := 0
		var nest func(n int) func()
		nest = func(n int) func() {
			return func() {
				ran++
				if n > 0 {
					require.NoError(t, p.Go(taskpool.Medium, nest(n-1)))
				}
			}
		}
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error {
			for range 3 {
				if err := p.Go(taskpool.Low, nest(depth)); err != nil {
					return err
				}
			}
			return nil
		}})
		require.NoError(t, h.Wait(t.Context()))
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Equal(t, 3*(depth+1), ran)
	})
}

func TestWaitingInGoEndsWithTheTasksContextOrThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		gate, busy := make(chan struct{}), make(chan struct{})
		var err error
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error {
			<-gate
			err = p.Go(taskpool.Low, func() { t.Error("it was refused") })
			return err
		}})
		first := waitInGo(p, taskpool.High, func() { <-busy }) // takes the slot that the task gives back
		close(gate)
		require.NoError(t, <-first)
		last := waitInGo(p, taskpool.Low, func() { t.Error("it was refused") })
		require.Equal(t, 2, p.Stats().SubmittersWaiting)

		cause := errors.New("enough")
		require.True(t, h.Cancel(cause))
		synctest.Wait()
		require.Equal(t, 1, p.Stats().SubmittersWaiting)
		closed := make(chan error)
		go func() { closed <- p.Shutdown(context.Background()) }()
		require.Equal(t, taskpool.ErrClosed, <-last)
		close(busy)
		require.NoError(t, <-closed)
		require.ErrorIs(t, h.Err(), cause)
		require.ErrorIs(t, err, cause)
		require.ErrorContains(t, err, "Go")
		require.EqualValues(t, 2, p.Stats().Refused)
	})
}
