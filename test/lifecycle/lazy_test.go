package lifecycle_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Workers and the supervisor are started when they are first needed, so the size of
// the set costs nothing by itself. Stats counts the whole set all the same.

func TestPoolThatIsNotUsedHasNoGoroutines(t *testing.T) {
	for name, opts := range map[string][]taskpool.Option{
		"": nil, "bounded": {taskpool.WithCapacity(10, taskpool.OverflowReject)}, "reserved": {taskpool.WithReserved(10, taskpool.High)},
	} {
		t.Run(name, func(t *testing.T) {
			const workers = 100_000
			before := runtime.NumGoroutine()
			p, err := taskpool.New(append(opts, taskpool.WithWorkers(workers))...)
			require.NoError(t, err)
			require.NoError(t, p.Resize(2*workers))
			require.NoError(t, p.Resize(workers))
			p.Pause()
			p.Resume()
			s := p.Stats()
			require.Equal(t, []int{workers, workers, workers}, []int{s.Workers, s.Goroutines, s.Idle})
			require.NoError(t, p.Health())
			require.Empty(t, p.Tasks())
			require.LessOrEqual(t, runtime.NumGoroutine(), before)
			require.NoError(t, p.Shutdown(context.Background()))
			require.Zero(t, p.Stats().Goroutines)
		})
	}
}

func TestAllocationsOfNewDoNotGrowWithTheWorkers(t *testing.T) {
	allocs := func(workers int) float64 {
		return testing.AllocsPerRun(10, func() {
			p, err := taskpool.New(taskpool.WithWorkers(workers))
			require.NoError(t, err)
			require.NoError(t, p.Shutdown(context.Background()))
		})
	}
	require.LessOrEqual(t, allocs(100_000), allocs(1)+1)
}

// Each of many tasks that come one after the other finds the worker that the last one
// has left, or one more.
func TestWorkersAreStartedAsTheyAreNeeded(t *testing.T) {
	for name, opts := range map[string][]taskpool.Option{
		"": nil, "bounded": {taskpool.WithCapacity(10, taskpool.OverflowReject)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const workers, used = 1000, 10
				p := pooltest.New(t, append(opts, taskpool.WithWorkers(workers))...)
				before := runtime.NumGoroutine()
				for range 100 {
					for range used {
						require.NoError(t, p.Go(taskpool.Low, func() { time.Sleep(time.Second) }))
					}
					synctest.Wait()
					s := p.Stats()
					require.Equal(t, []int{workers, workers - used, used}, []int{s.Goroutines, s.Idle, s.Running})
					time.Sleep(2 * time.Second)
					require.Equal(t, workers, p.Stats().Idle)
				}
				require.LessOrEqual(t, runtime.NumGoroutine()-before, used+1, "and one in store")
				pooltest.Drain(t, p)
			})
		})
	}
}

// The set has the size that was asked for, whatever becomes of its workers: all of it
// can be at work at once.
func TestSetOfWorkersIsWholeHoweverItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(20), taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(5))
		whole := func(n int) {
			t.Helper()
			synctest.Wait()
			s := p.Stats()
			require.Equal(t, []int{n, n, 0}, []int{s.Workers, s.Goroutines, s.Lost})
			gate := make(chan struct{})
			for range n + 1 {
				require.NoError(t, p.Go(taskpool.High, func() { <-gate }))
			}
			synctest.Wait()
			s = p.Stats()
			require.Equal(t, []int{n, 0, 1}, []int{s.Running, s.Idle, s.Queued})
			close(gate)
			synctest.Wait()
			require.Equal(t, n, p.Stats().Idle)
		}
		require.NoError(t, p.Go(taskpool.Low, func() { panic("on the only worker there is") }))
		require.NoError(t, p.Go(taskpool.Low, runtime.Goexit))
		synctest.Wait()
		require.Equal(t, uint64(2), p.Stats().Replaced)
		deaf := make(chan struct{})
		for range 3 {
			pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-deaf; return nil }})
		}
		time.Sleep(3 * time.Second)
		s := p.Stats()
		require.Equal(t, []int{3, 20, 20}, []int{s.Abandoned, s.Goroutines, s.Idle})
		for range 25 { // parked, with their workers
			pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { time.Sleep(time.Second); return nil })
			}})
		}
		synctest.Wait()
		require.Equal(t, 25, p.Stats().Parked)
		time.Sleep(2 * time.Second)
		pooltest.Drain(t, p)
		whole(20)
		require.NoError(t, p.Resize(5))
		whole(5)
		require.NoError(t, p.Resize(30))
		whole(30)
		close(deaf)
		whole(30)
	})
}
