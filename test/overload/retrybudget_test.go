package overload_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// requireBudget requires that what the budget may have granted holds of s, a snapshot at any
// moment of a pool that never had least tasks waiting for a retry.
func requireBudget(t testing.TB, s taskpool.Stats, ratio float64) {
	t.Helper()
	if float64(s.Retries) > ratio*float64(s.Attempts)+1e-6 {
		t.Errorf("%d retries of %d attempts, of which at most %v may be", s.Retries, s.Attempts, ratio)
	}
}

func TestRetriesStayWithinTheBudgetInAStormOfFailures(t *testing.T) {
	const backoff = time.Second
	for _, budget := range []struct {
		ratio float64
		least int
		tasks int
	}{{0.1, 0, pooltest.Times(100_000, 100_000)}, {0, 7, pooltest.Times(100_000, 10_000)}, {0.2, 50, pooltest.Times(100_000, 10_000)}} {
		tasks := budget.tasks
		t.Run(fmt.Sprint(budget), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var p *taskpool.Pool
				retried, looked := 0, 0
				var mu sync.Mutex
				p = pooltest.New(t, taskpool.WithWorkers(8), taskpool.WithRetryBudget(budget.ratio, budget.least), taskpool.WithHooks(taskpool.Hooks{
					Retried: func(taskpool.TaskEvent) {
						mu.Lock()
						defer mu.Unlock()
						if retried++; retried%16 == 0 {
							looked++
							s := p.Stats()
							free := float64(budget.least) * (1 + float64(time.Since(began)/backoff)) // each occupies its place for as long as that
							if float64(s.Retries) > budget.ratio*float64(s.Attempts)+free+1e-6 {
								t.Errorf("%d retries of %d attempts after %v", s.Retries, s.Attempts, time.Since(began))
							}
						}
					},
				}))
				task := taskpool.Task{
					Run: func(ctx context.Context) error {
						time.Sleep(time.Millisecond)
						return pooltest.ErrTask
					},
					Retry: taskpool.Retry{MaxAttempts: 100, Backoff: func(int) time.Duration { return backoff }},
				}
				for range tasks {
					pooltest.Submit(t, p, task)
				}
				require.NoError(t, p.WaitIdle(t.Context()))
				s := p.Stats()
				require.EqualValues(t, tasks, s.Failed)
				require.EqualValues(t, uint64(tasks)+s.Retries, s.Attempts)
				require.NotZero(t, looked)
				require.EqualValues(t, retried, s.Retries)
				free := float64(budget.least) * (1 + float64(time.Since(began)/backoff))
				require.LessOrEqual(t, float64(s.Attempts), (float64(tasks)+free)/(1-budget.ratio)+1)
				require.Greater(t, float64(s.Retries), 0.95*budget.ratio*float64(tasks), "it grants what there is")
				require.NotZero(t, s.RetriesDenied)
			})
		})
	}
}

func TestRetriesStayWithinTheBudgetInAnyInterleaving(t *testing.T) {
	const ratio = 0.25
	p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithRetryBudget(ratio, 0))
	var left atomic.Int64
	left.Store(int64(pooltest.Times(100_000, 20_000)))
	var submitters sync.WaitGroup
	for range 4 {
		submitters.Go(func() {
			for left.Add(-1) >= 0 {
				switch n := rand.N(8); {
				case n == 0:
					_ = p.Go(taskpool.High, func() {})
				case n == 1:
					ctx, cancel := context.WithCancel(context.Background())
					_, _ = p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
					cancel() // it may be withdrawn from the worker that was handed it
				default:
					_, _ = p.Submit(context.Background(), taskpool.Task{
						Priority: taskpool.Priority(n % 3),
						Run:      func(context.Context) error { return pooltest.ErrTask },
						Retry:    taskpool.Retry{MaxAttempts: 1000, Backoff: pooltest.NoWait},
					})
				}
				requireBudget(t, p.Stats(), ratio)
			}
		})
	}
	submitters.Wait()
	require.NoError(t, p.Shutdown(context.Background()))
	s := p.Stats()
	requireBudget(t, s, ratio)
	require.NotZero(t, s.Retries)
	require.NotZero(t, s.RetriesDenied)
	pooltest.RequireConserved(t, s)
}

func TestRetryBeyondTheBudgetFailsWithBothErrors(t *testing.T) {
	own := fmt.Errorf("mine: %w", pooltest.ErrTask)
	synctest.Test(t, func(t *testing.T) {
		var failed, finished []taskpool.TaskEvent
		log := &pooltest.LogRecorder{}
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithRetryBudget(0, 0), taskpool.WithLogger(log.Logger()), taskpool.WithHooks(taskpool.Hooks{
			AttemptFailed: func(e taskpool.TaskEvent) { failed = append(failed, e) },
			Finished:      func(e taskpool.TaskEvent) { finished = append(finished, e) },
			Retried:       func(taskpool.TaskEvent) { panic("not granted") },
		}))
		twice := taskpool.Retry{MaxAttempts: 2}
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return own }, Retry: twice})
		err := h.Wait(t.Context())
		require.ErrorIs(t, err, taskpool.ErrRetryBudget)
		require.ErrorIs(t, err, pooltest.ErrTask)
		require.EqualError(t, err, "taskpool: no retry, as the retry budget is spent; the attempt's error: mine: pooltest: failed")
		require.Equal(t, taskpool.StateFailed, h.State())
		require.Equal(t, err, h.Info().Err)

		err = pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic("boom") }, Retry: twice}).Wait(t.Context())
		require.ErrorIs(t, err, taskpool.ErrRetryBudget)
		var panicked *taskpool.PanicError
		require.ErrorAs(t, err, &panicked)
		require.Equal(t, "boom", panicked.Value)

		_, err = taskpool.Call(t.Context(), p, taskpool.Task{Timeout: time.Second, Retry: twice}, func(ctx context.Context) (int, error) {
			return 1, pooltest.UntilEnd(ctx)
		})
		require.ErrorIs(t, err, taskpool.ErrRetryBudget)
		require.ErrorIs(t, err, taskpool.ErrTimeout)

		// What is not granted anyhow is none of the budget's business.
		for _, other := range []error{
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return own }}).Wait(t.Context()),
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return taskpool.Permanent(own) }, Retry: twice}).Wait(t.Context()),
		} {
			require.ErrorIs(t, other, pooltest.ErrTask)
			require.NotErrorIs(t, other, taskpool.ErrRetryBudget)
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Len(t, failed, 5)
		require.Len(t, finished, 5)
		for i, e := range finished {
			denied := i < 3
			require.Equal(t, denied, errors.Is(e.Err, taskpool.ErrRetryBudget))
			require.Equal(t, denied, errors.Is(failed[i].Err, taskpool.ErrRetryBudget))
			require.Equal(t, denied, errors.Is(e.Task.Err, taskpool.ErrRetryBudget))
			require.Equal(t, taskpool.StateFailed, e.Task.State)
		}
		require.Equal(t, taskpool.ResultError, finished[0].Result)
		require.Equal(t, taskpool.ResultPanic, finished[1].Result)
		require.Equal(t, taskpool.ResultTimeout, finished[2].Result)
		s := p.Stats()
		require.EqualValues(t, 3, s.RetriesDenied)
		require.EqualValues(t, 0, s.Retries)
		require.EqualValues(t, 5, s.Failed)
		records := log.Named("taskpool: task failed")
		require.Len(t, records, 3) // not that of Call, which is told at level Debug
		require.Equal(t, slog.LevelError, records[0].Level)
		require.Len(t, log.Named("taskpool: task panicked"), 1)
	})
}

func TestHungTaskIsRetriedWithinTheBudgetOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithRetryBudget(0, 0))
		h := pooltest.Submit(t, p, taskpool.Task{
			Timeout: time.Second,
			Run:     func(context.Context) error { pooltest.HangsHere(gate); return nil },
			Retry:   taskpool.Retry{MaxAttempts: 2, If: func(error) bool { return true }},
		})
		err := h.Wait(t.Context())
		require.ErrorIs(t, err, taskpool.ErrRetryBudget)
		require.ErrorIs(t, err, taskpool.ErrHung)
		require.EqualValues(t, 1, p.Stats().RetriesDenied)
		close(gate)
		pooltest.Drain(t, p)
	})
}

// failsOnce are n tasks whose first attempt fails, at once, and whose retries are due long
// after.
func failsOnce(t *testing.T, p *taskpool.Pool, n int) (all []*taskpool.Handle) {
	for range n {
		var again atomic.Bool
		all = append(all, pooltest.Submit(t, p, taskpool.Task{
			Run: func(context.Context) error {
				if again.Swap(true) {
					return nil
				}
				return pooltest.ErrTask
			},
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
		}))
	}
	return all
}

func TestALongTimeWithoutFailuresIsNoCreditForAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithRetryBudget(0.1, 0))
		for range 50_000 {
			require.NoError(t, p.Go(taskpool.Medium, func() {})) // these earn retries, too
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		failsOnce(t, p, 2000)
		synctest.Wait()
		s := p.Stats()
		require.EqualValues(t, 299, s.Retries) // a tenth of 1,000, and of the 2,000 less what is earned beyond that by the first
		require.EqualValues(t, 2000-299, s.RetriesDenied)
		pooltest.Drain(t, p)
	})
}

func TestSavingsOfTheBudgetDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithRetryBudget(0.1, 0))
		for range 5 { // each time as much is earned as can be saved
			for range 1000 {
				require.NoError(t, p.Go(taskpool.Medium, func() {}))
			}
			failsOnce(t, p, 1)
			synctest.Wait()
		}
		require.EqualValues(t, 5, p.Stats().Retries)
		failsOnce(t, p, 150)
		synctest.Wait()
		require.EqualValues(t, 5+99+15, p.Stats().Retries)
		pooltest.Drain(t, p)
	})
}

func TestAttemptThatEndsEarnsItsPartOfItsOwnRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithRetryBudget(0.5, 0))
		for i, want := range []uint64{0, 1, 1, 2} {
			failsOnce(t, p, 1)
			synctest.Wait()
			require.Equal(t, want, p.Stats().Retries, "after attempt %d", i+1)
		}
		pooltest.Drain(t, p)
	})
}

func TestSoManyMayAlwaysWaitForARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithRetryBudget(0, 3))
		waiting := func() int { return p.Stats().Delayed }
		all := failsOnce(t, p, 5)
		synctest.Wait()
		require.Equal(t, 3, waiting())
		require.EqualValues(t, 2, p.Stats().RetriesDenied)

		// One that is canceled makes way for another, and so does one whose retry starts.
		for _, h := range all {
			if h.Cancel(nil) {
				break
			}
		}
		failsOnce(t, p, 2)
		synctest.Wait()
		require.Equal(t, 3, waiting())
		require.EqualValues(t, 3, p.Stats().RetriesDenied)
		time.Sleep(2 * time.Hour)
		require.Zero(t, waiting())

		// One that is due and waits in the queue waits still.
		failsOnce(t, p, 2)
		synctest.Wait()
		p.Pause()
		time.Sleep(2 * time.Hour)
		require.Equal(t, 2, p.Stats().Queued)
		require.Zero(t, waiting())
		p.Resume()
		synctest.Wait()
		require.EqualValues(t, 3, p.Stats().RetriesDenied)
		pooltest.Drain(t, p)
	})
}

func TestRetryInTheQueueStillWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithRetryBudget(0, 1))
		ran := make(map[int]int)
		p.Pause() // until all wait
		for i := range 3 {
			pooltest.Submit(t, p, taskpool.Task{
				Run:   func(context.Context) error { ran[i]++; return pooltest.ErrTask },
				Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait},
			})
		}
		p.Resume()
		pooltest.Drain(t, p) // the first waits behind the others, which fail meanwhile
		require.Equal(t, map[int]int{0: 2, 1: 1, 2: 1}, ran)
		require.EqualValues(t, 2, p.Stats().RetriesDenied)
	})
}

func TestWithoutABudgetEachRetryIsGranted(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	err := pooltest.Submit(t, p, taskpool.Task{
		Run:   func(context.Context) error { return pooltest.ErrTask },
		Retry: taskpool.Retry{MaxAttempts: 50, Backoff: pooltest.NoWait},
	}).Wait(t.Context())
	require.Equal(t, pooltest.ErrTask, err)
	s := p.Stats()
	require.EqualValues(t, 49, s.Retries)
	require.Zero(t, s.RetriesDenied)
}
