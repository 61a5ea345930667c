package waits_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// sleepFor is a task that works for d.
func sleepFor(d time.Duration) taskpool.Task {
	return taskpool.Task{Run: func(ctx context.Context) error { return pooltest.Sleep(ctx, d) }}
}

func TestWaitRunningWaitsInAPauseForWhatRunsAndForNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		began := time.Now()
		pooltest.Submit(t, p, sleepFor(time.Second))
		pooltest.Submit(t, p, sleepFor(3*time.Second))
		late := pooltest.Submit(t, p, sleepFor(time.Hour))
		delayed := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, NotBefore: began.Add(2 * time.Second)})
		synctest.Wait()
		p.Pause()
		require.NoError(t, p.WaitRunning(t.Context()))
		require.Equal(t, 3*time.Second, time.Since(began))
		require.Zero(t, p.Stats().Running)
		require.Equal(t, taskpool.StateQueued, late.State())
		require.Equal(t, taskpool.StateQueued, delayed.State())
		require.NoError(t, p.WaitRunning(t.Context()), "at once")
		time.Sleep(time.Hour)
		require.Zero(t, p.Stats().Running)
		require.NoError(t, p.Go(taskpool.High, func() {}))
		require.NoError(t, p.WaitRunning(t.Context()), "what comes in a pause does not run")
		p.Resume()
		require.NoError(t, late.Wait(t.Context()))
		pooltest.Drain(t, p)
		require.NoError(t, p.WaitRunning(t.Context()), "after Shutdown")
	})
}

func TestTaskInBlockIsAtWorkAndOthersThatAreParkedAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		began := time.Now()
		blocks := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { return pooltest.Sleep(ctx, 5*time.Second) })
		}})
		waits := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			child, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
			if err != nil {
				return err
			}
			p.Pause() // so it never starts
			return child.Wait(ctx)
		}})
		synctest.Wait()
		require.Equal(t, 2, p.Stats().Parked)
		require.NoError(t, p.WaitRunning(t.Context()))
		require.Equal(t, 5*time.Second, time.Since(began))
		require.Equal(t, 2, p.Stats().Parked)
		p.Resume()
		require.NoError(t, blocks.Wait(t.Context()))
		require.NoError(t, waits.Wait(t.Context()))
		pooltest.Drain(t, p)
	})
}

func TestWaitRunningWithoutAPauseWaitsForWhatWaitsForAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		began := time.Now()
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
			time.Sleep(time.Second)
			return taskpool.Yield(ctx) // its slot is free for a moment
		}})
		synctest.Wait()
		pooltest.Submit(t, p, sleepFor(time.Minute))
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Minute); panic("dies") }})
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, NotBefore: began.Add(time.Hour)})
		require.NoError(t, p.WaitRunning(t.Context()))
		require.Equal(t, 2*time.Minute+time.Second, time.Since(began))
		require.Equal(t, 1, p.Stats().Delayed)
		pooltest.Drain(t, p)
	})
}

func TestWaitRunningEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		pooltest.Submit(t, p, sleepFor(time.Hour))
		synctest.Wait()
		p.Pause()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, pooltest.ErrCause)
		defer cancel()
		began := time.Now()
		require.Equal(t, pooltest.ErrCause, p.WaitRunning(ctx))
		require.Equal(t, time.Minute, time.Since(began))
		p.Resume()
		pooltest.Drain(t, p)
	})
}

func TestWaitRunningWaitsForHooksAndNotForWhatWasGivenUp(t *testing.T) {
	for _, abandoned := range []int{0, 1} { // with 0 its slot is lost
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithMaxAbandoned(abandoned), taskpool.WithHangGrace(time.Second),
				taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
					if e.Task.Name == "told" {
						time.Sleep(time.Minute)
					}
				}}))
			gate := make(chan struct{})
			pooltest.Hang(t, p, gate) // given up after two seconds
			pooltest.Submit(t, p, taskpool.Task{Name: "told", Run: pooltest.Nop})
			pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { // given up in Block
				return taskpool.Block(ctx, func() error { <-gate; return nil })
			}, Timeout: 3 * time.Second})
			synctest.Wait()
			p.Pause()
			require.NoError(t, p.WaitRunning(t.Context()))
			require.Equal(t, time.Minute, time.Since(began))
			close(gate)
			p.Resume()
			pooltest.Drain(t, p)
		})
	}
}

func TestWaitRunningInsideIsRefused(t *testing.T) {
	var p *taskpool.Pool
	inHook := make(chan error, 1)
	p = pooltest.New(t, taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
		if e.Task.Name == "hook" {
			inHook <- p.WaitRunning(context.Background())
		}
	}}))
	pooltest.Submit(t, p, taskpool.Task{Name: "hook", Run: pooltest.Nop})
	require.Equal(t, taskpool.ErrInside, <-inHook)
	require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
		require.Equal(t, taskpool.ErrInside, p.WaitRunning(ctx))
		require.Equal(t, taskpool.ErrInside, p.WaitRunning(context.Background()))
		return nil
	}}).Wait(t.Context()))
}

func TestTaskOfAnotherPoolGivesItsSlotBackInWaitRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("other"))
		pooltest.Submit(t, p, sleepFor(time.Minute))
		began := time.Now()
		waits := pooltest.Submit(t, other, taskpool.Task{Run: func(ctx context.Context) error { return p.WaitRunning(ctx) }})
		require.NoError(t, pooltest.Submit(t, other, taskpool.Task{Run: pooltest.Nop}).Wait(t.Context()))
		require.Zero(t, time.Since(began))
		require.Equal(t, taskpool.StateParked, waits.State())
		require.NoError(t, waits.Wait(t.Context()))
		require.Equal(t, time.Minute, time.Since(began))
		pooltest.Drain(t, p)
		pooltest.Drain(t, other)
	})
}
