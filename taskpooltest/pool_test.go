package taskpooltest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/taskpooltest"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestNewShutsThePoolDownAndFinishesWhatItHasAccepted(t *testing.T) {
	for _, paused := range []bool{false, true} {
		t.Run(fmt.Sprintf("paused: %t", paused), func(t *testing.T) {
			var ran atomic.Int32
			var pool *taskpool.Pool
			test := runTest(func(t testing.TB) {
				pool = taskpooltest.New(t, taskpool.WithWorkers(2))
				if paused {
					pool.Pause()
				}
				for range 10 {
					require.NoError(t, pool.Go(taskpool.Low, func() { ran.Add(1) }))
				}
			})
			require.Empty(t, test.failures())
			require.EqualValues(t, 10, ran.Load())
			require.ErrorIs(t, pool.Go(taskpool.Low, func() {}), taskpool.ErrClosed)
		})
	}
}

func TestNewFailsTheTestForTasksThatDoNotFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		began := time.Now()
		test := runTest(func(t testing.TB) {
			pool := taskpooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("orders"))
			pooltest.Submit(t, pool, taskpool.Task{Name: "stuck", Run: func(context.Context) error {
				pooltest.HangsHere(gate)
				return nil
			}})
			synctest.Wait()
			pooltest.Submit(t, pool, taskpool.Task{Name: "behind it", Run: pooltest.MustNotRun})
			pooltest.Submit(t, pool, taskpool.Task{Name: "tomorrow", Run: pooltest.MustNotRun, NotBefore: time.Now().Add(24 * time.Hour)})
			require.NoError(t, pool.Go(taskpool.Low, func() { panic("must not run") }))
		})
		require.Equal(t, 40*time.Second, time.Since(began), "30 s, the hang grace, and 5 s for the goroutine")
		close(gate)

		failures := test.failures()
		require.Len(t, failures, 2)
		require.Regexp(t, `^taskpooltest: pool "orders" \(made at pool_test.go:\d+\) has tasks that had not finished 30s after the end of the test:
    a task or function of priority low: queued
    behind it: queued
    stuck: running
    tomorrow: delayed
$`, failures[0])
		require.Regexp(t, `^taskpooltest: pool "orders" \(made at pool_test.go:\d+\) has left goroutines that still run:
    stuck: abandoned, at
        (.*\n)+ .*pooltest\.HangsHere`, failures[1])
	})
}

// The context of a task that takes too long ends, which tells what the task could have
// done by itself.
func TestNewFailsTheTestForTasksThatHadToBeCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		test := runTest(func(t testing.TB) {
			pool := taskpooltest.New(t)
			pooltest.Submit(t, pool, taskpool.Task{Name: "endless", Run: pooltest.UntilEnd})
			synctest.Wait()
		})
		require.Len(t, test.failures(), 1)
		require.Contains(t, test.failures()[0], "\n    endless: running\n")

		test = runTest(func(t testing.TB) { // it finishes in time after all, and no task is listed
			pool := taskpooltest.New(t)
			require.NoError(t, pool.Go(taskpool.Low, func() { time.Sleep(32 * time.Second) }))
			synctest.Wait()
		})
		require.Len(t, test.failures(), 1)
		require.Contains(t, test.failures()[0], "\n    what ran has finished since\n")
	})
}

func TestNewFailsTheTestForGoroutinesThatAreLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, hook := make(chan struct{}), make(chan struct{})
		test := runTest(func(t testing.TB) {
			pool := taskpooltest.New(t)
			h := pooltest.Hang(t, pool, gate)
			require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrHung)
		})
		require.Len(t, test.failures(), 1)
		require.Regexp(t, `has left goroutines that still run:\n    hang: abandoned, at\n(.*\n)+.*pooltest\.HangsHere`, test.failures()[0])

		test = runTest(func(t testing.TB) { // no task is left, but a hook
			pool := taskpooltest.New(t, taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) { <-hook }}))
			require.NoError(t, pool.Go(taskpool.Low, func() {}))
		})
		require.Len(t, test.failures(), 1)
		require.Contains(t, test.failures()[0], "has left goroutines that still run:\n    1 in hooks that have not returned")
		close(gate)
		close(hook)
	})
}

func TestATaskThatHungAndHasReturnedIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		test := runTest(func(t testing.TB) {
			gate := make(chan struct{})
			h := pooltest.Hang(t, taskpooltest.New(t), gate)
			require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrHung)
			close(gate)
		})
		require.Empty(t, test.failures())
	})
}

func TestWhatAFailedTestLeavesIsNotAnotherFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for what, end := range map[string]func(testing.TB){
			"failed":  func(t testing.TB) { t.Fatal("the test's own failure") },
			"skipped": func(t testing.TB) { t.SkipNow() },
		} {
			gate := make(chan struct{})
			began := time.Now()
			test := runTest(func(t testing.TB) {
				pool := taskpooltest.New(t, taskpool.WithWorkers(2))
				pooltest.Submit(t, pool, taskpool.Task{Name: "stuck", Run: func(context.Context) error { <-gate; return nil }})
				pooltest.Submit(t, pool, taskpool.Task{Name: "endless", Run: pooltest.UntilEnd})
				synctest.Wait()
				pooltest.Submit(t, pool, taskpool.Task{Name: "behind", Run: pooltest.MustNotRun})
				end(t)
				t.Fatal("not reached")
			})
			took := time.Since(began)
			close(gate)
			require.LessOrEqual(t, took, 10*time.Second, "%s: no patience, but for the hang grace", what)
			if what == "failed" {
				require.Equal(t, []string{"the test's own failure\n"}, test.failures())
			} else {
				require.Empty(t, test.failures())
			}
			for _, line := range []string{"stuck: running", "endless: running", "behind: queued", "stuck: abandoned"} {
				require.Contains(t, test.log(), "\n    "+line, what)
			}
		}
	})
}

// A test that fails between two steps must not run the rest of what is queued.
func TestAfterAFailureNothingIsStarted(t *testing.T) {
	for _, paused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var waiting []*taskpool.Handle
			test := runTest(func(t testing.TB) {
				gate := make(chan struct{})
				release := sync.OnceFunc(func() { close(gate) })
				pool := taskpooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
					if e.Task.State == taskpool.StateCanceled {
						release() // now the worker could take the next one
						synctest.Wait()
					}
				}}))
				require.NoError(t, pool.Go(taskpool.High, func() { <-gate }))
				synctest.Wait()
				if paused {
					pool.Pause()
				}
				for range 5 {
					waiting = append(waiting, pooltest.Submit(t, pool, taskpool.Task{Run: pooltest.MustNotRun}),
						pooltest.Submit(t, pool, taskpool.Task{Run: pooltest.MustNotRun, NotBefore: time.Now().Add(time.Hour)}))
				}
				t.Fatal("failed")
			})
			require.Len(t, test.failures(), 1)
			for _, h := range waiting {
				require.Equal(t, taskpool.StateCanceled, h.State())
				require.EqualError(t, h.Err(), "taskpooltest: the test has failed or was skipped")
			}
		})
	}
}

func TestAPoolThatTheTestHasShutDownIsNotReportedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		test := runTest(func(t testing.TB) {
			pool := taskpooltest.New(t, taskpool.WithWorkers(1))
			h := pooltest.Submit(t, pool, taskpool.Task{Name: "stuck", Run: func(context.Context) error { <-gate; return nil }})
			synctest.Wait()
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			var left *taskpool.ShutdownError
			require.ErrorAs(t, pool.Shutdown(ctx), &left)
			require.True(t, h.State().Final())
		})
		require.Len(t, test.failures(), 1, "the goroutine is left, that is another matter")
		require.Contains(t, test.failures()[0], "has left goroutines")
		close(gate)
	})
}

// The test's own Shutdown may be under way in a goroutine that nobody waits for.
func TestTheEndOfATestBoundsItsOwnShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		test := runTest(func(t testing.TB) {
			pool := taskpooltest.New(t)
			pooltest.Submit(t, pool, taskpool.Task{Name: "endless", Run: pooltest.UntilEnd})
			go func() { _ = pool.Shutdown(context.Background()) }()
			synctest.Wait()
		})
		require.Len(t, test.failures(), 1)
		require.Contains(t, test.failures()[0], "endless: running")
	})
}

func TestWatchFailsATestThatLeavesThePoolOpen(t *testing.T) {
	var pool *taskpool.Pool
	test := runTest(func(t testing.TB) {
		pool, _ = taskpool.New(taskpool.WithLogger(taskpooltest.Logger(t)))
		taskpooltest.Watch(t, pool)
	})
	require.Len(t, test.failures(), 1)
	require.Regexp(t, `^taskpooltest: a pool \(watched at pool_test.go:\d+\) was not shut down before the end of the test\n$`, test.failures()[0])
	require.True(t, pool.Stats().Closed, "Watch does it then")
}

func TestWatchIsContentWithAPoolThatIsShutDownInTime(t *testing.T) {
	for what, end := range map[string]func(testing.TB, func()){
		"in the test":    func(_ testing.TB, end func()) { end() },
		"in its cleanup": func(t testing.TB, end func()) { t.Cleanup(end) },
	} {
		test := runTest(func(t testing.TB) {
			pool, err := taskpool.New()
			require.NoError(t, err)
			taskpooltest.Watch(t, pool)
			end(t, func() { require.NoError(t, pool.Shutdown(context.Background())) })
		})
		require.Empty(t, test.failures(), what)
	}
}

func TestWatchReportsGoroutinesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		test := runTest(func(t testing.TB) {
			pool, err := taskpool.New(taskpool.WithLogger(taskpooltest.Logger(t)))
			require.NoError(t, err)
			taskpooltest.Watch(t, pool)
			_ = pooltest.Hang(t, pool, gate).Wait(context.Background())
			require.NoError(t, pool.Shutdown(context.Background()))
		})
		require.Len(t, test.failures(), 1)
		require.Contains(t, test.failures()[0], "hang: abandoned")
		close(gate)
	})
}

func TestNewAndWatchEndTheTestForWhatTheyCannotUse(t *testing.T) {
	test := runTest(func(t testing.TB) {
		taskpooltest.New(t, taskpool.WithWorkers(0))
		t.Fatal("not reached")
	})
	require.Equal(t, []string{"taskpooltest: New: taskpool: WithWorkers: n must be at least 1, got 0\n"}, test.failures())
	for got, pool := range map[string]*taskpool.Pool{"must not be nil": nil, "got a zero Pool": new(taskpool.Pool)} {
		test = runTest(func(t testing.TB) {
			taskpooltest.Watch(t, pool)
			t.Fatal("not reached")
		})
		require.Len(t, test.failures(), 1)
		require.Contains(t, test.failures()[0], "taskpooltest: Watch: pool must")
		require.Contains(t, test.failures()[0], got)
	}
}

func TestThePoolLogsToTheTest(t *testing.T) {
	test := runTest(func(t testing.TB) {
		pool := taskpooltest.New(t, taskpool.WithName("orders"), taskpool.WithWorkers(1))
		require.NoError(t, pooltest.Submit(t, pool, taskpool.Task{Name: "fine", Run: pooltest.Nop}).Wait(context.Background()))
		h := pooltest.Submit(t, pool, taskpool.Task{Name: "bad", Run: func(context.Context) error { pooltest.PanicsHere("oh"); return nil }})
		require.Error(t, h.Wait(context.Background()))
	})
	require.Empty(t, test.failures(), "a task that fails is the test's own business")
	require.Regexp(t, `(?m)^level=DEBUG msg="taskpool: task succeeded" pool=orders priority=medium attempt=1 id=1 task=fine elapsed=\S+$`, test.log())
	require.Regexp(t, `(?m)^level=ERROR msg="taskpool: task panicked" pool=orders .*\n    goroutine .*\n(    .*\n)*    .*pooltest\.PanicsHere\(`, test.log())
}

func TestAnotherLoggerMayBeGiven(t *testing.T) {
	var records pooltest.LogRecorder
	test := runTest(func(t testing.TB) {
		pool := taskpooltest.New(t, taskpool.WithLogger(records.Logger()))
		_ = pooltest.Submit(t, pool, taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask }}).Wait(context.Background())
	})
	require.Empty(t, test.log())
	require.NotEmpty(t, records.Messages())
}

// A task that hangs logs whenever it likes.
func TestWhatIsLoggedAfterTheEndOfTheTestIsDropped(t *testing.T) {
	var logger *slog.Logger
	test := runTest(func(t testing.TB) {
		logger = taskpooltest.Logger(t)
		t.Cleanup(func() { logger.Info("in a cleanup") })
		logger.Info("in the test")
	})
	logger.With("a", 1).WithGroup("g").Error("after the test") // the test would panic
	require.Equal(t, "level=INFO msg=\"in the test\"\nlevel=INFO msg=\"in a cleanup\"\n", test.log())
}

// logs is a value that logs when it is printed.
type logs struct{ to *slog.Logger }

func (l logs) LogValue() slog.Value {
	l.to.Debug("on the way")
	return slog.StringValue("value")
}

func TestLoggerKeepsAttributesAndGroups(t *testing.T) {
	test := runTest(func(t testing.TB) {
		l := taskpooltest.Logger(t)
		l.With("a", 1).WithGroup("g").With("b", 2).Warn("m", "c", 3, "stack", "first\nsecond\n", "v", logs{l})
		l.Info("an int", "stack", 4)
	})
	require.Equal(t, strings.TrimPrefix(`
level=DEBUG msg="on the way"
level=WARN msg=m a=1 g.b=2 g.c=3 g.v=value
    first
    second
level=INFO msg="an int" stack=4
`, "\n"), test.log())
}

func TestABenchmarkIsNotFloodedWithSuccesses(t *testing.T) {
	testing.Benchmark(func(b *testing.B) {
		l := taskpooltest.Logger(b)
		require.False(t, l.Enabled(context.Background(), slog.LevelInfo))
		require.True(t, l.Enabled(context.Background(), slog.LevelWarn))
	})
	require.True(t, taskpooltest.Logger(t).Enabled(context.Background(), slog.LevelDebug))
}

// The same outside of a bubble, in real tests.
func TestParallelTestsHaveAPoolEach(t *testing.T) {
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := taskpooltest.New(t, taskpool.WithWorkers(2))
			for range 100 {
				pooltest.Submit(t, pool, taskpool.Task{Name: "quiet", Run: func(context.Context) error {
					return errors.New("in the log of a test that passes")
				}})
			}
		})
	}
}
