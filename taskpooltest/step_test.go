package taskpooltest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
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

// paused returns a paused pool and a recorder of its tasks.
func paused(t testing.TB, opts ...taskpool.Option) (*taskpool.Pool, *taskpooltest.Recorder) {
	t.Helper()
	order := new(taskpooltest.Recorder)
	pool := taskpooltest.New(t, append(opts, taskpool.WithHooks(order.Hooks()))...)
	pool.Pause()
	return pool, order
}

// requireStep is a step that must return a task of that name and state.
func requireStep(t testing.TB, pool *taskpool.Pool, name string, state taskpool.State) taskpool.TaskInfo {
	t.Helper()
	task := taskpooltest.Step(t, pool)
	require.Equal(t, fmt.Sprint(name, " ", state), fmt.Sprint(task.Name, " ", task.State))
	return task
}

func TestStepRunsOneTaskAtATimeTheMostUrgentFirst(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			pool, order := paused(t, taskpool.WithWorkers(workers))
			var running atomic.Int32
			for _, task := range []struct {
				name string
				pr   taskpool.Priority
			}{{"c", taskpool.Low}, {"b1", taskpool.Medium}, {"a", taskpool.High}, {"b2", taskpool.Medium}} {
				pooltest.Submit(t, pool, taskpool.Task{Name: task.name, Priority: task.pr, Run: func(context.Context) error {
					defer running.Add(-1)
					if running.Add(1) != 1 {
						return errors.New("another task runs")
					}
					runtime.Gosched()
					return nil
				}})
			}
			require.Empty(t, order.Started())
			for i, name := range []string{"a", "b1", "b2", "c"} {
				requireStep(t, pool, name, taskpool.StateSucceeded)
				stats := pool.Stats()
				require.Equal(t, i+1, len(order.Finished()), "hooks were told")
				require.Equal(t, 3-i, stats.Queued)
				require.Zero(t, stats.Running)
				require.True(t, stats.Paused)
			}
			taskpooltest.AssertOrder(t, order, "a", "b1", "b2", "c")
		})
	}
}

// A step takes the task whose turn it is when it is taken.
func TestStepTakesWhatHasJustArrived(t *testing.T) {
	pool, _ := paused(t)
	pooltest.Submit(t, pool, taskpool.Task{Name: "first", Run: func(ctx context.Context) error {
		pooltest.Submit(t, pool, taskpool.Task{Name: "urgent", Priority: taskpool.High, Run: pooltest.Nop})
		return nil
	}})
	pooltest.Submit(t, pool, taskpool.Task{Name: "second", Run: pooltest.Nop})
	requireStep(t, pool, "first", taskpool.StateSucceeded)
	requireStep(t, pool, "urgent", taskpool.StateSucceeded)
	requireStep(t, pool, "second", taskpool.StateSucceeded)
}

func TestStepsGoFromYieldToYield(t *testing.T) {
	pool, order := paused(t, taskpool.WithWorkers(1))
	pooltest.Submit(t, pool, taskpool.Task{Name: "long", Priority: taskpool.Low, Run: func(ctx context.Context) error {
		for i := range 3 {
			pooltest.Submit(t, pool, taskpool.Task{Name: fmt.Sprint("urgent ", i), Priority: taskpool.High, Run: pooltest.Nop})
			if err := taskpool.Yield(ctx); err != nil {
				return err
			}
		}
		return nil
	}})
	for i := range 3 {
		requireStep(t, pool, "long", taskpool.StateParked)
		requireStep(t, pool, fmt.Sprint("urgent ", i), taskpool.StateSucceeded)
	}
	requireStep(t, pool, "long", taskpool.StateSucceeded)
	taskpooltest.AssertOrder(t, order, "long", "urgent 0", "urgent 1", "urgent 2")
}

// Outside of a step nothing may start, so there is nothing to give way to.
func TestInAPauseWithoutStepsYieldGivesWayToNothing(t *testing.T) {
	pool := taskpooltest.New(t, taskpool.WithWorkers(1))
	started, gate := make(chan struct{}), make(chan struct{})
	h := pooltest.Submit(t, pool, taskpool.Task{Name: "running", Run: func(ctx context.Context) error {
		close(started)
		<-gate
		return taskpool.Yield(ctx)
	}})
	<-started
	pool.Pause()
	pooltest.Submit(t, pool, taskpool.Task{Name: "urgent", Priority: taskpool.High, Run: pooltest.Nop})
	close(gate)
	require.NoError(t, h.Wait(context.Background()))
	require.Zero(t, pool.Stats().Parks)
	requireStep(t, pool, "urgent", taskpool.StateSucceeded)
}

func TestStepsGoThroughNestedWaits(t *testing.T) {
	for _, workers := range []int{1, 3} {
		pool, _ := paused(t, taskpool.WithWorkers(workers))
		pooltest.Submit(t, pool, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error {
			n, err := taskpool.Call(ctx, pool, taskpool.Task{Name: "child"}, func(ctx context.Context) (int, error) {
				return taskpool.Call(ctx, pool, taskpool.Task{Name: "grandchild"}, func(context.Context) (int, error) { return 42, nil })
			})
			if err == nil && n != 42 {
				err = fmt.Errorf("got %d", n)
			}
			return err
		}})
		pooltest.Submit(t, pool, taskpool.Task{Name: "other", Priority: taskpool.Low, Run: pooltest.Nop})
		requireStep(t, pool, "parent", taskpool.StateParked)
		requireStep(t, pool, "child", taskpool.StateParked)
		requireStep(t, pool, "grandchild", taskpool.StateSucceeded)
		requireStep(t, pool, "child", taskpool.StateSucceeded)
		requireStep(t, pool, "parent", taskpool.StateSucceeded)
		requireStep(t, pool, "other", taskpool.StateSucceeded)
	}
}

func TestStepTellsWhatHasBecomeOfTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, order := paused(t)
		pooltest.Submit(t, pool, taskpool.Task{Name: "flaky", Retry: taskpool.Retry{MaxAttempts: 3}, Run: func(ctx context.Context) error {
			if task, _ := taskpool.Current(ctx); task.Attempt < 3 {
				return pooltest.ErrTask
			}
			return nil
		}})
		task := requireStep(t, pool, "flaky", taskpool.StateDelayed)
		require.ErrorIs(t, task.Err, pooltest.ErrTask)
		requireStep(t, pool, "flaky", taskpool.StateDelayed) // it has waited until the retry was due
		task = requireStep(t, pool, "flaky", taskpool.StateSucceeded)
		require.Equal(t, 3, task.Attempt)
		taskpooltest.AssertOrder(t, order, "flaky", "flaky (attempt 2)", "flaky (attempt 3)")

		pooltest.Submit(t, pool, taskpool.Task{Name: "bad", Run: func(context.Context) error { panic("bad") }})
		task = requireStep(t, pool, "bad", taskpool.StateFailed)
		var panicked *taskpool.PanicError
		require.ErrorAs(t, task.Err, &panicked)

		h := pooltest.Submit(t, pool, taskpool.Task{Name: "canceled", Run: pooltest.UntilEnd})
		time.AfterFunc(time.Hour, func() { h.Cancel(nil) }) // in a bubble a task may take long
		requireStep(t, pool, "canceled", taskpool.StateCanceled)
	})
}

func TestStepTellsWhatHasBecomeOfAFunction(t *testing.T) {
	pool, _ := paused(t, taskpool.WithName("p"))
	gate := make(chan struct{})
	require.NoError(t, pool.Go(taskpool.High, func() {}))
	require.NoError(t, pool.Go(taskpool.Medium, func() { panic("bad") }))
	require.NoError(t, pool.Go(taskpool.Low, func() {
		_, _ = taskpool.Call(context.Background(), pool, taskpool.Task{Name: "child"}, func(context.Context) (int, error) { <-gate; return 1, nil })
	}))
	step := func(pr taskpool.Priority, state taskpool.State) {
		t.Helper()
		task := taskpooltest.Step(t, pool)
		require.True(t, task.IsFunc())
		require.Equal(t, taskpool.TaskInfo{Pool: "p", Priority: pr, State: state},
			taskpool.TaskInfo{Pool: task.Pool, Priority: task.Priority, State: task.State})
	}
	step(taskpool.High, taskpool.StateSucceeded)
	step(taskpool.Medium, taskpool.StateFailed)
	step(taskpool.Low, taskpool.StateParked)
	close(gate)
	requireStep(t, pool, "child", taskpool.StateSucceeded)
	step(taskpool.Low, taskpool.StateSucceeded)
}

// A silentContext may have ended, but tells so only if it is asked.
type silentContext struct {
	context.Context
	err error
}

func (*silentContext) Done() <-chan struct{} { return make(chan struct{}) }
func (c *silentContext) Err() error          { return c.err }

func TestATaskThatIsCanceledInsteadOfStartedIsNoStep(t *testing.T) {
	pool, order := paused(t)
	ctx := &silentContext{Context: context.Background()}
	canceled, err := pool.Submit(ctx, taskpool.Task{Name: "canceled", Priority: taskpool.High, Run: pooltest.MustNotRun})
	require.NoError(t, err)
	pooltest.Submit(t, pool, taskpool.Task{Name: "next", Run: pooltest.Nop})
	ctx.err = context.Canceled
	requireStep(t, pool, "next", taskpool.StateSucceeded)
	require.Equal(t, taskpool.StateCanceled, canceled.State())
	taskpooltest.AssertOrder(t, order, "next")
}

// While f runs in Block, the task needs no slot.
func TestStepWaitsForATaskInBlockIfNoOtherIsReady(t *testing.T) {
	pool, _ := paused(t, taskpool.WithWorkers(1))
	gate := make(chan struct{})
	pooltest.Submit(t, pool, taskpool.Task{Name: "reader", Run: func(ctx context.Context) error {
		return taskpool.Block(ctx, func() error {
			<-gate
			return pool.Go(taskpool.Medium, func() {}) // which nothing but Step waits for
		})
	}})
	pooltest.Submit(t, pool, taskpool.Task{Name: "other", Run: pooltest.Nop})
	requireStep(t, pool, "reader", taskpool.StateParked)
	requireStep(t, pool, "other", taskpool.StateSucceeded)
	close(gate)
	var names []string
	for range 2 { // whichever came first
		names = append(names, taskpooltest.Step(t, pool).Name)
	}
	require.ElementsMatch(t, []string{"", "reader"}, names)
}

// What arrives while Step waits is noticed although Step waits for something else.
func TestStepNoticesWhatArrivesWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, _ := paused(t, taskpool.WithWorkers(1))
		answer := make(chan struct{})
		pooltest.Submit(t, pool, taskpool.Task{Name: "asks", Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { <-answer; return nil })
		}})
		requireStep(t, pool, "asks", taskpool.StateParked)
		time.AfterFunc(time.Second, func() {
			_ = pool.Go(taskpool.Low, func() { close(answer) })
		})
		require.True(t, taskpooltest.Step(t, pool).IsFunc())
		requireStep(t, pool, "asks", taskpool.StateSucceeded)
	})
}

func TestStepWaitsForHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := false
		pool, _ := paused(t, taskpool.WithHooks(taskpool.Hooks{WorkerReplaced: func(taskpool.WorkerEvent) {
			time.Sleep(time.Second) // not on the goroutine of a worker
			told = true
		}}))
		pooltest.Submit(t, pool, taskpool.Task{Name: "bad", Run: func(context.Context) error { panic("bad") }})
		requireStep(t, pool, "bad", taskpool.StateFailed)
		require.True(t, told)
	})
}

func TestStepWaitsForTasksThatRunAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := taskpooltest.New(t, taskpool.WithWorkers(2))
		var ended bool
		pooltest.Submit(t, pool, taskpool.Task{Run: func(context.Context) error {
			time.Sleep(time.Minute)
			ended = true
			return nil
		}})
		synctest.Wait()
		pool.Pause()
		pooltest.Submit(t, pool, taskpool.Task{Name: "next", Run: func(context.Context) error {
			if !ended {
				return errors.New("another task runs")
			}
			return nil
		}})
		requireStep(t, pool, "next", taskpool.StateSucceeded)
	})
}

// Fair-share turns, reserved workers and aging among them.
func TestStepsFollowTheOrderOfThePool(t *testing.T) {
	for seed := range uint64(pooltest.Times(200, 50)) {
		rnd := rand.New(rand.NewPCG(18, seed))
		options := [][]taskpool.Option{
			{taskpool.WithWorkers(1), taskpool.WithFairShare(2 + rnd.IntN(4))},
			{taskpool.WithWorkers(1), taskpool.WithFairShare(0)},
			{taskpool.WithWorkers(1), taskpool.WithAging(time.Nanosecond)},
		}[rnd.IntN(3)]
		n := 1 + rnd.IntN(30)
		priorities := make([]taskpool.Priority, n)
		for i := range priorities {
			priorities[i] = taskpool.Priority(rnd.IntN(4))
		}
		var orders [2][]string
		for i := range orders {
			synctest.Test(t, func(t *testing.T) { // with the same times for aging
				pool, order := paused(t, options...)
				for k, pr := range priorities {
					pooltest.Submit(t, pool, taskpool.Task{Name: fmt.Sprintf("%d: %d", k, pr), Priority: pr, Run: pooltest.Nop})
				}
				if i == 0 {
					pool.Resume()
					require.NoError(t, pool.WaitIdle(context.Background()))
				} else {
					for range priorities {
						taskpooltest.Step(t, pool)
					}
				}
				orders[i] = order.Started()
			})
		}
		require.Equal(t, orders[0], orders[1], "seed %d", seed)
	}
}

func TestStepRespectsReservedWorkersAndRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, order := paused(t, taskpool.WithWorkers(2), taskpool.WithReserved(1, taskpool.High), taskpool.WithCapacity(1, taskpool.OverflowWait))
		submission := make([]*pooltest.Submission, 6)
		for i := range submission {
			submission[i] = pooltest.SubmitOrWait(context.Background(), pool, taskpool.Task{Name: fmt.Sprint(i), Run: pooltest.Nop})
		}
		for i := range submission {
			requireStep(t, pool, fmt.Sprint(i), taskpool.StateSucceeded)
		}
		taskpooltest.AssertOrder(t, order, "0", "1", "2", "3", "4", "5")
	})
}

func TestResumeEndsTheSteps(t *testing.T) {
	pool, order := paused(t, taskpool.WithWorkers(2))
	for i := range 10 {
		pooltest.Submit(t, pool, taskpool.Task{Name: fmt.Sprint(i), Run: pooltest.Nop})
	}
	requireStep(t, pool, "0", taskpool.StateSucceeded)
	pool.Resume()
	require.NoError(t, pool.WaitIdle(context.Background()))
	require.Len(t, order.Finished(), 10)
}

func TestStepEndsTheTestIfThereIsNothingToStep(t *testing.T) {
	for want, prepare := range map[string]func(testing.TB) *taskpool.Pool{
		"Step: pool must be paused": func(t testing.TB) *taskpool.Pool {
			return taskpooltest.New(t)
		},
		"Step: no task waits": func(t testing.TB) *taskpool.Pool {
			pool, _ := paused(t)
			return pool
		},
		"Step: taskpool: pool is shut down": func(t testing.TB) *taskpool.Pool {
			pool, _ := paused(t)
			require.NoError(t, pool.Shutdown(context.Background()))
			return pool
		},
		"Step: the Pool must be one that New has returned, got nil": func(testing.TB) *taskpool.Pool { return nil },
	} {
		test := runTest(func(t testing.TB) {
			taskpooltest.Step(t, prepare(t))
			t.Fatal("not reached")
		})
		require.Len(t, test.failures(), 1)
		require.Contains(t, test.failures()[0], want)
	}
}

func TestStepRefusesToWaitForTheTaskThatCallsIt(t *testing.T) {
	test := runTest(func(t testing.TB) {
		pool := taskpooltest.New(t)
		h := pooltest.Submit(t, pool, taskpool.Task{Run: func(context.Context) error {
			taskpooltest.Step(t, pool)
			return nil
		}})
		require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrGoexit)
	})
	require.Equal(t, []string{"taskpooltest: Step: " + taskpool.ErrInside.Error() + "\n"}, test.failures())
}

func TestStepEndsTheTestIfThePoolIsResumedOrShutDownMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for what, interrupt := range map[string]func(*taskpool.Pool){
			"resumed":   (*taskpool.Pool).Resume,
			"shut down": func(p *taskpool.Pool) { _ = p.Shutdown(context.Background()) },
		} {
			test := runTest(func(t testing.TB) {
				pool, _ := paused(t)
				pooltest.Submit(t, pool, taskpool.Task{Run: func(ctx context.Context) error {
					return pooltest.Sleep(ctx, time.Minute)
				}})
				go func() {
					time.Sleep(time.Second)
					interrupt(pool)
				}()
				taskpooltest.Step(t, pool)
				t.Fatal("not reached")
			})
			require.Equal(t, []string{"taskpooltest: Step: the pool was resumed or shut down\n"}, test.failures(), what)
		}
	})
}

func TestAStepThatTakesTooLongShowsWhereTheTaskIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		began := time.Now()
		var waited time.Duration
		test := runTest(func(t testing.TB) {
			pool, _ := paused(t)
			pooltest.Submit(t, pool, taskpool.Task{Name: "stuck", Run: func(context.Context) error {
				pooltest.HangsHere(gate)
				return nil
			}})
			t.Cleanup(func() { waited = time.Since(began); close(gate) })
			taskpooltest.Step(t, pool)
		})
		require.Equal(t, 24*time.Hour, waited)
		require.Len(t, test.failures(), 1)
		require.Regexp(t, `^taskpooltest: Step: after 24h0m0s, a task still runs or none is ready: 0 queued, 0 delayed, 1 running, 0 parked
    stuck: running, at
(.*\n)*.*pooltest\.HangsHere`, test.failures()[0])
	})
}

func TestAStepThatNoTaskIsEverReadyForShowsWhatIsParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		test := runTest(func(t testing.TB) {
			pool, _ := paused(t)
			pooltest.Submit(t, pool, taskpool.Task{Name: "reader", Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { return pooltest.UntilEnd(ctx) })
			}})
			requireStep(t, pool, "reader", taskpool.StateParked)
			taskpooltest.Step(t, pool)
		})
		require.Len(t, test.failures(), 1)
		require.Regexp(t, `0 queued, 0 delayed, 0 running, 1 parked\n    reader: parked, at\n(.*\n)*.*pooltest\.UntilEnd`, test.failures()[0])
	})
}

// Several goroutines may step at once; each step is one task.
func TestStepsAtOnceAreOneAfterTheOther(t *testing.T) {
	pool, order := paused(t, taskpool.WithWorkers(4))
	const n = 200
	var running, steps atomic.Int32
	var all sync.WaitGroup
	all.Go(func() {
		for i := range n {
			task := taskpool.Task{Priority: taskpool.Priority(i % 3), Run: func(ctx context.Context) error {
				if running.Add(1) != 1 {
					return errors.New("another task runs")
				}
				runtime.Gosched()
				running.Add(-1)
				return taskpool.Block(ctx, func() error { runtime.Gosched(); return nil })
			}}
			if _, err := pool.Submit(context.Background(), task); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	for range 2 {
		all.Go(func() {
			for steps.Add(1) <= 2*n { // each task is parked once
				if task := taskpooltest.Step(t, pool); task.State == taskpool.StateFailed {
					t.Error(task.Err)
				}
			}
		})
	}
	all.Wait()
	require.Len(t, order.Finished(), n)
	require.EqualValues(t, n, pool.Stats().Succeeded)
}

// Out of a bubble, with the race detector: submitters, cancellations and changes of
// priority meanwhile.
func TestStepsAmidEverythingElse(t *testing.T) {
	pool, order := paused(t, taskpool.WithWorkers(3))
	const n = 300
	end := make(chan struct{})
	pooltest.Submit(t, pool, taskpool.Task{Name: "there", Run: func(ctx context.Context) error { // so that Step waits for what arrives
		return taskpool.Block(ctx, func() error { <-end; return nil })
	}})
	requireStep(t, pool, "there", taskpool.StateParked)
	var all sync.WaitGroup
	for s := range 3 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(18, uint64(s)))
			for range n / 3 {
				ctx, cancel := context.WithCancel(context.Background())
				h, err := pool.Submit(ctx, taskpool.Task{Priority: taskpool.Priority(rnd.IntN(3)), Run: func(ctx context.Context) error {
					return taskpool.Yield(ctx)
				}})
				if err != nil {
					t.Error(err)
				}
				switch rnd.IntN(4) {
				case 0:
					h.SetPriority(taskpool.High)
				case 1:
					cancel()
				}
				t.Cleanup(cancel)
			}
		})
	}
	stepped := make(chan struct{})
	go func() {
		defer close(stepped)
		for range n / 4 {
			taskpooltest.Step(t, pool)
		}
	}()
	all.Wait()
	<-stepped
	close(end)
	pool.Resume()
	require.NoError(t, pool.WaitIdle(context.Background()))
	require.Len(t, order.Finished(), n+1)
}
