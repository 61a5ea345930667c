package lifecycle_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Tasks that do next to nothing keep the two locks busy, and have workers fall
// asleep and wake up again all the time. A scout that found nothing and was then
// given a task by another goroutine was once woken for it a second time: it ran
// no task, or two at once, and one was lost.
func TestEachOfManyFunctionsRunsOnce(t *testing.T) {
	functions, rounds := pooltest.Times(100_000, 20_000), pooltest.Times(10, 3)
	for name, opts := range map[string][]taskpool.Option{
		"fair share": nil,
		"strict":     {taskpool.WithFairShare(0)},
		"aging":      {taskpool.WithAging(time.Second)},
	} {
		for _, workers := range []int{1, 2, 8} {
			for _, producers := range []int{1, 3} {
				t.Run(fmt.Sprintf("%s, %d workers, %d producers", name, workers, producers), func(t *testing.T) {
					for range rounds {
						eachRunsOnce(t, functions, producers, append(opts, taskpool.WithWorkers(workers))...)
					}
				})
			}
		}
	}
}

func eachRunsOnce(t *testing.T, functions, producers int, opts ...taskpool.Option) {
	p := pooltest.New(t, opts...)
	ran := make([]atomic.Int32, functions)
	var submitting sync.WaitGroup
	for k := range producers {
		submitting.Go(func() {
			for i := k; i < functions; i += producers {
				if p.Go(taskpool.Priority(i/100%3), func() { ran[i].Add(1) }) != nil {
					return // and is missed below
				}
			}
		})
	}
	submitting.Wait()
	require.NoError(t, p.Shutdown(context.Background()))
	for i := range ran {
		if n := ran[i].Load(); n != 1 {
			t.Fatalf("function %d ran %d times", i, n)
		}
	}
	s := p.Stats()
	require.Zero(t, s.Panics)
	require.Equal(t, uint64(functions), s.Submitted)
	require.Equal(t, uint64(functions), s.Succeeded)
	require.Equal(t, uint64(functions), s.Attempts)
}

// A worker that goes from one function to the next must not pass a task that was
// parked and whose context has ended.
func TestATaskOnItsWayOutGoesBeforeTheNextFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		ctx, cancel := context.WithCancel(context.Background())
		var order []string
		parked, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
			err := taskpool.Block(ctx, func() error { <-ctx.Done(); return ctx.Err() })
			order = append(order, "parked")
			return err
		}})
		require.NoError(t, err)
		synctest.Wait()
		gate := make(chan struct{})
		require.NoError(t, p.Go(taskpool.High, func() { <-gate }))
		synctest.Wait()
		for range 3 {
			require.NoError(t, p.Go(taskpool.High, func() { order = append(order, "function") }))
		}
		cancel() // the task asks for the slot that the first function has
		synctest.Wait()
		close(gate)
		require.NoError(t, p.WaitIdle(context.Background()))
		require.Equal(t, []string{"parked", "function", "function", "function"}, order)
		require.Equal(t, taskpool.StateCanceled, parked.State())
	})
}

// Tasks that came into a segment of the queue behind a batch of arrivals that had
// become one were once taken for younger than they are.
func TestTasksBehindABatchAreAsOldAsTheyAre(t *testing.T) {
	const batch = 16 // enough to be kept as it is
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(1)) // the oldest always has its turn
		for range 10 {
			require.NoError(t, p.Go(taskpool.High, func() {}))
		}
		synctest.Wait()
		gate := make(chan struct{})
		require.NoError(t, p.Go(taskpool.High, func() { <-gate }))
		synctest.Wait()
		var order []string
		arrive := func(pr taskpool.Priority, name string, n int) {
			for range n {
				require.NoError(t, p.Go(pr, func() { order = append(order, name) }))
			}
			p.Stats() // takes them in
		}
		arrive(taskpool.Low, "batch", batch)
		arrive(taskpool.Low, "behind it", 1)
		arrive(taskpool.Medium, "last", 1)
		close(gate)
		require.NoError(t, p.WaitIdle(context.Background()))
		require.Equal(t, []string{"batch", "behind it", "last"}, slices.Compact(order))
		require.Len(t, order, batch+2)
	})
}

// Whoever takes in what has arrived must not hide it from Yield for a moment.
func TestYieldSeesWhatHasArrivedWhileOthersTakeItIn(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	stop := make(chan struct{})
	var lookers sync.WaitGroup
	for range 2 {
		lookers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					p.Stats()
				}
			}
		})
	}
	rounds, missed := 20_000, 0
	if pooltest.Race {
		rounds = 1_000
	}
	h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
		for range rounds {
			ran := false // one slot: no two run at once
			if err := p.Go(taskpool.High, func() { ran = true }); err != nil {
				return err
			}
			if err := taskpool.Yield(ctx); err != nil {
				return err
			}
			if !ran {
				missed++
				for !ran {
					if err := taskpool.Yield(ctx); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}})
	require.NoError(t, h.Wait(t.Context()))
	close(stop)
	lookers.Wait()
	require.Zero(t, missed)
}
