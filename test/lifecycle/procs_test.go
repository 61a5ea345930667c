package lifecycle_test

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// withProcs calls f in a bubble with GOMAXPROCS at n. It may be changed there.
func withProcs(t *testing.T, n int, f func(t *testing.T)) {
	before := runtime.GOMAXPROCS(n)
	defer runtime.GOMAXPROCS(before)
	synctest.Test(t, f)
}

// runOne has p start a task, and what comes of it be done.
func runOne(t *testing.T, p *taskpool.Pool) {
	require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}).Wait(t.Context()))
	synctest.Wait()
}

func TestNumberOfWorkersFollowsGOMAXPROCSAsTasksStart(t *testing.T) {
	withProcs(t, 3, func(t *testing.T) {
		log := &pooltest.LogRecorder{Debug: true}
		p := pooltest.New(t, taskpool.WithLogger(log.Logger()))
		workers := func() int { return p.Stats().Workers }
		runOne(t, p)
		require.Equal(t, 3, workers())

		runtime.GOMAXPROCS(5)
		runOne(t, p)
		require.Equal(t, 3, workers(), "it looks at most once a second")
		time.Sleep(time.Hour)
		require.Equal(t, 3, workers(), "nobody looks while no task starts")
		release := make(chan struct{})
		for range 7 {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-release; return nil }})
		}
		synctest.Wait()
		require.Equal(t, 5, workers())
		require.Equal(t, 5, p.Stats().Running)

		runtime.GOMAXPROCS(2)
		time.Sleep(time.Second)
		close(release) // the two that wait start
		synctest.Wait()
		require.Equal(t, 2, workers())
		require.Equal(t, 2, p.Stats().Goroutines)

		records := log.Named("taskpool: workers follow GOMAXPROCS")
		require.Len(t, records, 2)
		require.Equal(t, slog.LevelDebug, records[0].Level)
		var attrs []string
		records[0].Attrs(func(a slog.Attr) bool { attrs = append(attrs, a.String()); return true })
		require.Equal(t, []string{"workers=5", "before=3"}, attrs)
		pooltest.Drain(t, p)
	})
}

func TestNumberOfWorkersFollowsGOMAXPROCSAsFunctionsStart(t *testing.T) {
	withProcs(t, 2, func(t *testing.T) {
		for _, opts := range [][]taskpool.Option{nil, {taskpool.WithCapacity(10_000, taskpool.OverflowReject)}} {
			runtime.GOMAXPROCS(2)
			p := pooltest.New(t, opts...)
			for range 1000 {
				require.NoError(t, p.Go(taskpool.Medium, func() {}))
			}
			synctest.Wait()
			runtime.GOMAXPROCS(4)
			time.Sleep(time.Second)
			for range 300 { // one after the other
				require.NoError(t, p.Go(taskpool.Medium, func() {}))
				synctest.Wait()
			}
			require.Equal(t, 4, p.Stats().Workers)
			pooltest.Drain(t, p)
		}
	})
}

func TestNumberOfWorkersThatWasGivenStaysWhatItIs(t *testing.T) {
	withProcs(t, 3, func(t *testing.T) {
		given := pooltest.New(t, taskpool.WithWorkers(3))
		resized := pooltest.New(t)
		require.NoError(t, resized.Resize(3))
		found := pooltest.New(t)
		runOne(t, found)
		for _, n := range []int{6, 1} {
			runtime.GOMAXPROCS(n)
			for _, p := range []*taskpool.Pool{given, resized} {
				time.Sleep(time.Second)
				runOne(t, p)
				for range 600 {
					require.NoError(t, p.Go(taskpool.Medium, func() {}))
				}
				synctest.Wait()
				require.Equal(t, 3, p.Stats().Workers)
			}
		}
		runtime.GOMAXPROCS(6)
		time.Sleep(time.Second)
		runOne(t, found)
		require.Equal(t, 6, found.Stats().Workers)
		require.NoError(t, found.Resize(6), "to what it is")
		runtime.GOMAXPROCS(2)
		time.Sleep(time.Second)
		runOne(t, found)
		require.Equal(t, 6, found.Stats().Workers)
		for _, p := range []*taskpool.Pool{given, resized, found} {
			pooltest.Drain(t, p)
		}
	})
}

func TestReservedWorkersAreKeptAsGOMAXPROCSShrinks(t *testing.T) {
	withProcs(t, 4, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithReserved(2, taskpool.High))
		runtime.GOMAXPROCS(1)
		runOne(t, p)
		require.Equal(t, 3, p.Stats().Workers)
		pooltest.Drain(t, p)
	})
}
