package waits_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// outstanding is the number of accepted tasks that have not settled.
func outstanding(p *taskpool.Pool) int {
	s := p.Stats()
	return s.Queued + s.Delayed + s.Running + s.Parked
}

// atOnce is a retry policy without a wait.
func atOnce(attempts int) taskpool.Retry {
	return taskpool.Retry{MaxAttempts: attempts, Backoff: func(int) time.Duration { return 0 }}
}

// SubmitFunc, Future and Call.

func TestFutureGivesTheResult(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	fut, err := taskpool.SubmitFunc(t.Context(), p, taskpool.Task{Name: "answer"},
		func(ctx context.Context) (string, error) {
			info, _ := taskpool.Current(ctx)
			return info.Name, nil
		})
	require.NoError(t, err)
	for range 2 {
		v, err := fut.Get(t.Context())
		require.NoError(t, err)
		require.Equal(t, "answer", v)
	}
}

func TestFailedFutureGivesTheZeroValue(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name  string
		f     func(context.Context) (int, error)
		check func(t *testing.T, err error)
	}{
		{"error beside a value", func(context.Context) (int, error) { return 7, boom },
			func(t *testing.T, err error) { require.Same(t, boom, err) }},
		{"panic", func(context.Context) (int, error) { panic(boom) },
			func(t *testing.T, err error) {
				var e *taskpool.PanicError
				require.ErrorAs(t, err, &e)
				require.Same(t, boom, e.Value)
			}},
		{"Goexit", func(context.Context) (int, error) { runtime.Goexit(); return 7, nil },
			func(t *testing.T, err error) { require.Equal(t, taskpool.ErrGoexit, err) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			fut, err := taskpool.SubmitFunc(t.Context(), p, taskpool.Task{}, test.f)
			require.NoError(t, err)
			v, err := fut.Get(t.Context())
			require.Zero(t, v)
			test.check(t, err)
			require.Equal(t, taskpool.StateFailed, fut.State())

			v, err = taskpool.Call(t.Context(), p, taskpool.Task{}, test.f)
			require.Zero(t, v)
			test.check(t, err)
		})
	}
}

func TestCanceledFutureGivesTheZeroValueAndTheCause(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	release := pooltest.Block(t, p)
	defer release()
	fut, err := taskpool.SubmitFunc(t.Context(), p, taskpool.Task{},
		func(context.Context) (int, error) { panic("must not run") })
	require.NoError(t, err)
	cause := errors.New("not wanted")
	require.True(t, fut.Cancel(cause))
	v, err := fut.Get(t.Context())
	require.Zero(t, v)
	require.Same(t, cause, err)
}

// A function that stands beside a Task takes the place of Run.

func TestPatternWithRunIsRefused(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	task := taskpool.Task{Run: func(context.Context) error { panic("must not run") }}
	f := func(context.Context) (int, error) { panic("must not run") }
	const want = "taskpool: Task.Run must be nil"

	fut, err := taskpool.SubmitFunc(t.Context(), p, task, f)
	require.ErrorContains(t, err, want)
	require.Nil(t, fut)

	_, err = taskpool.Call(t.Context(), p, task, f)
	require.ErrorContains(t, err, want)

	pairs := 0
	for v, err := range taskpool.Map(t.Context(), p, task, slices.Values([]int{1, 2}),
		func(context.Context, int) (int, error) { panic("must not run") }) {
		pairs++
		require.Zero(t, v)
		require.ErrorContains(t, err, want)
	}
	require.Equal(t, 1, pairs)

	g := p.Group(t.Context(), task)
	g.Go(func(context.Context) error { panic("must not run") })
	require.ErrorContains(t, g.Wait(), want)
	require.Zero(t, p.Stats().Submitted)
}

func TestRetryOverwritesTheResult(t *testing.T) {
	boom := errors.New("boom")
	// The hook fails an attempt that has come to a result, which a plain
	// function cannot.
	hook := taskpool.Hooks{Around: func(ctx context.Context, info taskpool.TaskInfo, run func(context.Context) error) error {
		if err := run(ctx); err != nil {
			return err
		}
		if info.Attempt == 1 {
			return boom
		}
		return nil
	}}
	p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(hook))
	attempt := 0
	v, err := taskpool.Call(t.Context(), p, taskpool.Task{Retry: atOnce(3)},
		func(context.Context) (int, error) {
			attempt++
			if attempt == 2 {
				return 20, boom
			}
			return attempt, nil
		})
	require.NoError(t, err)
	require.Equal(t, 3, v)
}

func TestResultOfAFailedAttemptNeverShows(t *testing.T) {
	boom := errors.New("boom")
	// The hook fails the first attempt, which had a result, and forgives the
	// second, which had none.
	hook := taskpool.Hooks{Around: func(ctx context.Context, info taskpool.TaskInfo, run func(context.Context) error) error {
		_ = run(ctx)
		if info.Attempt == 1 {
			return boom
		}
		return nil
	}}
	p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(hook))
	attempt := 0
	v, err := taskpool.Call(t.Context(), p, taskpool.Task{Retry: atOnce(2)},
		func(context.Context) (int, error) {
			if attempt++; attempt == 1 {
				return 1, nil
			}
			return 2, boom
		})
	require.NoError(t, err)
	require.Equal(t, 2, attempt)
	require.Zero(t, v)
}

func TestLateResultOfAbandonedAttemptNeverShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		gate := make(chan struct{})
		fut, err := taskpool.SubmitFunc(pooltest.Patience(t), p, taskpool.Task{Timeout: time.Second},
			func(context.Context) (int, error) { <-gate; return 1, nil })
		require.NoError(t, err)
		v, err := fut.Get(pooltest.Patience(t))
		require.Zero(t, v)
		require.ErrorIs(t, err, taskpool.ErrHung)

		require.Equal(t, 1, p.Stats().Abandoned)
		close(gate)
		synctest.Wait() // the attempt has returned its value
		require.Zero(t, p.Stats().Abandoned)
		v, err = fut.Get(pooltest.Patience(t))
		require.Zero(t, v)
		require.ErrorIs(t, err, taskpool.ErrHung)
	})
}

func TestLateResultOfAbandonedAttemptNeverReplacesThatOfItsRetry(t *testing.T) {
	for _, test := range []struct {
		name string
		late bool // the first attempt returns after the retry has
	}{{"during the retry", false}, {"after the retry", true}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
				hung, retry := make(chan struct{}), make(chan struct{})
				second := make(chan struct{})
				fut, err := taskpool.SubmitFunc(pooltest.Patience(t), p, taskpool.Task{
					Timeout: time.Second,
					Retry: taskpool.Retry{
						MaxAttempts: 2,
						Backoff:     func(int) time.Duration { return 0 },
						If:          func(error) bool { return true },
					},
				}, func(ctx context.Context) (int, error) {
					if info, _ := taskpool.Current(ctx); info.Attempt == 1 {
						<-hung
						return 1, nil
					}
					close(second)
					<-retry
					return 2, nil
				})
				require.NoError(t, err)
				<-second
				require.Equal(t, 1, p.Stats().Abandoned)
				first, then := hung, retry
				if test.late {
					first, then = retry, hung
				}
				close(first)
				synctest.Wait()
				close(then)
				synctest.Wait()
				require.Zero(t, p.Stats().Abandoned)
				v, err := fut.Get(pooltest.Patience(t))
				require.NoError(t, err)
				require.Equal(t, 2, v)
			})
		})
	}
}

func TestLateResultIsDiscardedWhereAHookGaveAContextOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		around := func(_ context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			return run(context.Background())
		}
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second),
			taskpool.WithHooks(taskpool.Hooks{Around: around}))
		var attempts atomic.Int32
		gate := make(chan struct{})
		task := taskpool.Task{Timeout: time.Second, Retry: atOnce(2)}
		task.Retry.If = func(error) bool { return true }
		fut, err := taskpool.SubmitFunc(pooltest.Patience(t), p, task, func(context.Context) (int, error) {
			if attempts.Add(1) == 1 {
				<-gate
				return 1, nil
			}
			return 2, nil
		})
		require.NoError(t, err)
		require.NoError(t, fut.Wait(pooltest.Patience(t)))
		require.Equal(t, 1, p.Stats().Abandoned)
		close(gate)
		for range 2 {
			v, err := fut.Get(pooltest.Patience(t)) // also while the first attempt returns, says the race detector
			require.NoError(t, err)
			require.Equal(t, 2, v)
			synctest.Wait()
		}
	})
}

func TestGetEndsWithItsContextAndTheTaskGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate := make(chan struct{})
		fut, err := taskpool.SubmitFunc(pooltest.Patience(t), p, taskpool.Task{},
			func(context.Context) (int, error) { <-gate; return 5, nil })
		require.NoError(t, err)
		cause := errors.New("impatient")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		v, err := fut.Get(ctx)
		require.Zero(t, v)
		require.Same(t, cause, err)
		require.Equal(t, taskpool.StateRunning, fut.State())

		close(gate)
		v, err = fut.Get(pooltest.Patience(t))
		require.NoError(t, err)
		require.Equal(t, 5, v)
		v, err = fut.Get(ctx)
		require.NoError(t, err, "a settled task is reported though ctx is over")
		require.Equal(t, 5, v)
	})
}

func TestCallEndsWithItsContext(t *testing.T) {
	t.Run("while its task runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			cause := errors.New("enough")
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
			defer cancel()
			gate := make(chan struct{})
			var seen error
			v, err := taskpool.Call(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				seen = context.Cause(ctx)
				<-gate
				return 1, ctx.Err()
			})
			require.Zero(t, v)
			require.ErrorIs(t, err, cause)
			require.Equal(t, 1, outstanding(p), "Call does not wait for f")
			close(gate)
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			require.Same(t, cause, seen)
			require.Equal(t, uint64(1), p.Stats().Canceled)
		})
	})
	t.Run("while its task waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			release := pooltest.Block(t, p)
			cause := errors.New("enough")
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
			defer cancel()
			_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(context.Context) (int, error) { panic("must not run") })
			require.ErrorIs(t, err, cause)
			synctest.Wait()
			require.Zero(t, p.Stats().Queued)
			release()
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			require.Equal(t, uint64(1), p.Stats().Canceled)
			require.Zero(t, p.Stats().Panics)
		})
	})
	t.Run("before it", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(context.Context) (int, error) { panic("must not run") })
		require.ErrorIs(t, err, cause)
		require.Zero(t, p.Stats().Submitted)
	})
}

func TestCallFollowsItsPattern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		_, err := taskpool.Call(pooltest.Patience(t), p, taskpool.Task{Timeout: time.Second},
			func(ctx context.Context) (int, error) { <-ctx.Done(); return 1, ctx.Err() })
		require.ErrorIs(t, err, taskpool.ErrTimeout)

		attempts := 0
		info, err := taskpool.Call(pooltest.Patience(t), p, taskpool.Task{Name: "call", Priority: 5, Retry: atOnce(3)},
			func(ctx context.Context) (taskpool.TaskInfo, error) {
				if attempts++; attempts < 3 {
					return taskpool.TaskInfo{}, errors.New("again")
				}
				info, _ := taskpool.Current(ctx)
				return info, nil
			})
		require.NoError(t, err)
		require.Equal(t, "call", info.Name)
		require.Equal(t, taskpool.Priority(5), info.Priority)
		require.Equal(t, 3, info.Attempt)

		due := time.Now().Add(time.Minute)
		started, err := taskpool.Call(pooltest.Patience(t), p, taskpool.Task{NotBefore: due},
			func(context.Context) (time.Time, error) { return time.Now(), nil })
		require.NoError(t, err)
		require.False(t, started.Before(due))

		_, err = taskpool.Call(pooltest.Patience(t), p, taskpool.Task{Timeout: -1},
			func(context.Context) (int, error) { panic("must not run") })
		require.ErrorContains(t, err, "Task.Timeout must not be negative")
	})
}

func TestGetInsideItsOwnTaskReturnsErrInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		self := make(chan *taskpool.Future[int], 1)
		var v int
		var inside error
		fut, err := taskpool.SubmitFunc(pooltest.Patience(t), p, taskpool.Task{}, func(ctx context.Context) (int, error) {
			v, inside = (<-self).Get(ctx)
			return 9, nil
		})
		require.NoError(t, err)
		self <- fut
		got, err := fut.Get(pooltest.Patience(t))
		require.NoError(t, err)
		require.Equal(t, 9, got)
		require.Zero(t, v)
		require.Equal(t, taskpool.ErrInside, inside)
	})
}

func TestFutureIsAHandle(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	release := pooltest.Block(t, p)
	fut, err := taskpool.SubmitFunc(t.Context(), p, taskpool.Task{},
		func(ctx context.Context) (*taskpool.Handle, error) {
			info, _ := taskpool.Current(ctx)
			return info.Handle, nil
		})
	require.NoError(t, err)
	require.Equal(t, taskpool.StateQueued, fut.State())
	require.True(t, fut.SetPriority(taskpool.Low))
	require.Equal(t, []taskpool.PriorityStats{{Priority: taskpool.Low, Queued: 1}}, p.Stats().Waiting)
	release()
	<-fut.Done()
	require.Equal(t, taskpool.StateSucceeded, fut.State())
	require.NoError(t, fut.Err())
	require.NoError(t, fut.Wait(t.Context()))
	require.False(t, fut.Cancel(nil))
	h, err := fut.Get(t.Context())
	require.NoError(t, err)
	require.Same(t, fut.Handle, h)
}

func TestNestedCallsNeedNoMoreThanOneWorker(t *testing.T) {
	for _, capacity := range []int{0, 1, -1} {
		t.Run(fmt.Sprint("capacity ", capacity), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []taskpool.Option{taskpool.WithWorkers(1)}
				if capacity >= 0 {
					opts = append(opts, taskpool.WithCapacity(capacity, taskpool.OverflowWait))
				}
				p := pooltest.New(t, opts...)
				const depth = 20
				var deepest taskpool.Stats
				var nest func(ctx context.Context, n int) (int, error)
				nest = func(ctx context.Context, n int) (int, error) {
					if n == 0 {
						deepest = p.Stats()
						return 0, nil
					}
					v, err := taskpool.Call(ctx, p, taskpool.Task{},
						func(ctx context.Context) (int, error) { return nest(ctx, n-1) })
					return v + 1, err
				}
				v, err := nest(pooltest.Patience(t), depth)
				require.NoError(t, err)
				require.Equal(t, depth, v)
				require.Equal(t, 1, deepest.Running)
				require.Equal(t, depth-1, deepest.Parked)
			})
		})
	}
}

func TestPoolsThatCallEachOtherGiveTheirSlotsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pools := []*taskpool.Pool{
			pooltest.New(t, taskpool.WithWorkers(1)),
			pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait)),
		}
		const depth = 10
		var deepest [2]taskpool.Stats
		var nest func(ctx context.Context, n int) (int, error)
		nest = func(ctx context.Context, n int) (int, error) {
			if n == 0 {
				time.Sleep(time.Second) // until all the others wait
				deepest = [2]taskpool.Stats{pools[0].Stats(), pools[1].Stats()}
				return 0, nil
			}
			v, err := taskpool.Call(ctx, pools[n%2], taskpool.Task{},
				func(ctx context.Context) (int, error) { return nest(ctx, n-1) })
			return v + 1, err
		}
		v, err := nest(pooltest.Patience(t), depth)
		require.NoError(t, err)
		require.Equal(t, depth, v)
		require.Equal(t, []int{depth / 2, depth/2 - 1}, []int{deepest[0].Parked, deepest[1].Parked})
	})
}

func TestManyGoroutinesGetTheSameFuture(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	gate := make(chan struct{})
	fut, err := taskpool.SubmitFunc(t.Context(), p, taskpool.Task{},
		func(context.Context) (*int, error) { <-gate; return new(int), nil })
	require.NoError(t, err)
	got := make([]*int, 50)
	var all, begun sync.WaitGroup
	for i := range got {
		begun.Add(1)
		all.Go(func() {
			begun.Done()
			v, err := fut.Get(t.Context())
			assert.NoError(t, err)
			got[i] = v
		})
	}
	begun.Wait()
	close(gate)
	all.Wait()
	require.NotNil(t, got[0])
	for _, v := range got {
		require.Same(t, got[0], v)
	}
}

// Map.

// endless returns the numbers from 0, and counts them.
func endless(pulled *int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := 0; ; i++ {
			*pulled++
			if !yield(i) {
				return
			}
		}
	}
}

// requireSquares checks the results of square for upTo(n).
func requireSquares(t testing.TB, n int, got []pooltest.Pair[int]) {
	t.Helper()
	require.Len(t, got, n)
	for i, g := range got {
		require.Equal(t, pooltest.Pair[int]{V: i * i, Err: nil}, g)
	}
}

func TestMapRunsNothingBeforeTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		pulled := 0
		seq := taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, endless(&pulled), pooltest.Square)
		synctest.Wait()
		require.Zero(t, pulled)
		require.Zero(t, p.Stats().Submitted)
		for range seq {
			break
		}
		require.NotZero(t, pulled)
		require.NotZero(t, p.Stats().Submitted)
	})
}

func TestMapGivesResultsInTheOrderOfTheInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4))
		var mu sync.Mutex
		var finished []int
		got := pooltest.PairsOf(taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, pooltest.UpTo(40), func(_ context.Context, i int) (int, error) {
			time.Sleep(time.Duration(4-i%4) * time.Second) // the last of four is done first
			mu.Lock()
			defer mu.Unlock()
			finished = append(finished, i)
			return i * i, nil
		}))
		requireSquares(t, 40, got)
		require.False(t, slices.IsSorted(finished), "the test needs another order of completion")
	})
}

// The window is twice the number of workers: so many elements have been taken
// from the input and not yet been given to the loop, at most.
func TestMapKeepsAWindowOfTwiceTheWorkersInFlight(t *testing.T) {
	for _, workers := range []int{1, 3} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(workers))
				pulled, given, widest, most := 0, 0, 0, 0
				look := func() {
					widest = max(widest, pulled-given)
					most = max(most, outstanding(p))
				}
				in := func(yield func(int) bool) {
					for i := range 50 {
						pulled++
						look()
						if !yield(i) {
							return
						}
					}
				}
				for range taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, in, func(context.Context, int) (int, error) {
					time.Sleep(time.Second)
					return 0, nil
				}) {
					given++
					look()
					before := pulled
					time.Sleep(time.Minute) // a slow loop
					require.Equal(t, before, pulled, "nobody works ahead of the loop")
				}
				require.Equal(t, 50, given)
				require.Equal(t, 2*workers, widest)
				require.LessOrEqual(t, most, 2*workers)
				require.GreaterOrEqual(t, most, workers, "all workers have work")
			})
		})
	}
}

func TestMapLimitSetsTheWindow(t *testing.T) {
	for _, limit := range []int{1, 2, 7} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(4))
				pulled, given, widest := 0, 0, 0
				var mu sync.Mutex
				running := 0
				in := func(yield func(int) bool) {
					for i := range 50 {
						pulled++
						widest = max(widest, pulled-given)
						if !yield(i) {
							return
						}
					}
				}
				for range taskpool.MapLimit(pooltest.Patience(t), p, limit, taskpool.Task{}, in, func(context.Context, int) (int, error) {
					mu.Lock()
					running = max(running, p.Stats().Running)
					mu.Unlock()
					time.Sleep(time.Second)
					return 0, nil
				}) {
					given++
				}
				require.Equal(t, 50, given)
				require.Equal(t, limit, widest)
				require.Equal(t, min(limit, 4), running)
			})
		})
	}
}

func TestMapLimitRefusesALimitBelowOne(t *testing.T) {
	p := pooltest.New(t)
	for _, limit := range []int{0, -1} {
		pulled := 0
		got := pooltest.PairsOf(taskpool.MapLimit(t.Context(), p, limit, taskpool.Task{}, endless(&pulled), pooltest.Square))
		require.Len(t, got, 1)
		require.EqualError(t, got[0].Err, fmt.Sprintf("taskpool: MapLimit: limit must be at least 1, got %d", limit))
		require.Zero(t, pulled)
	}
}

func TestMapsWindowFollowsResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		pulled, given := 0, 0
		widest := map[int]int{} // by the number of workers
		workers := 2
		in := func(yield func(int) bool) {
			for i := range 300 {
				pulled++
				if given%100 >= 50 { // the window has had time to change
					widest[workers] = max(widest[workers], pulled-given)
				}
				if !yield(i) {
					return
				}
			}
		}
		for range taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, in, func(context.Context, int) (int, error) {
			time.Sleep(time.Second)
			return 0, nil
		}) {
			if given++; given%100 == 0 {
				workers = map[int]int{100: 5, 200: 1, 300: 1}[given]
				require.NoError(t, p.Resize(workers))
			}
		}
		require.Equal(t, map[int]int{2: 4, 5: 10, 1: 2}, widest)
	})
}

// What is done, and in turn, does not wait until the window is full.
func TestMapGivesWhatIsThereBeforeItAsksForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(8))
		given := 0
		in := func(yield func(int) bool) {
			for i := range 40 {
				require.GreaterOrEqual(t, given, i-1, "all but the latest were done before it came")
				time.Sleep(50 * time.Millisecond)
				if !yield(i) {
					return
				}
			}
		}
		for v, err := range taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, in, pooltest.Square) {
			require.NoError(t, err)
			require.Equal(t, given*given, v)
			given++
		}
		require.Equal(t, 40, given)
	})
}

// A Map with results as large as those ought not to keep a window of them that
// nobody needs any more.
func TestMapLetsGoOfTheResultsThatTheLoopHasHad(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	const n = 40
	var had []weak.Pointer[[1 << 10]byte]
	alive := 0
	for v, err := range taskpool.MapLimit(t.Context(), p, 16, taskpool.Task{}, pooltest.UpTo(n), func(context.Context, int) (*[1 << 10]byte, error) {
		return new([1 << 10]byte), nil
	}) {
		require.NoError(t, err)
		if had = append(had, weak.Make(v)); len(had) == n-1 {
			runtime.GC()
			for _, each := range had {
				if each.Value() != nil {
					alive++
				}
			}
		}
	}
	require.LessOrEqual(t, alive, 2, "this one, and perhaps the one before in a register")
}

func TestLeavingAMapCancelsAndWaitsForTheTasksInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3))
		var mu sync.Mutex
		var causes []error
		pulled := 0
		for v, err := range taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, endless(&pulled), func(ctx context.Context, i int) (int, error) {
			if i == 0 {
				time.Sleep(time.Second) // until the window is full
				return 1, nil
			}
			<-ctx.Done()
			time.Sleep(time.Second) // on its way out
			mu.Lock()
			defer mu.Unlock()
			causes = append(causes, context.Cause(ctx))
			return 0, ctx.Err()
		}) {
			require.NoError(t, err)
			require.Equal(t, 1, v)
			synctest.Wait() // three of those in flight run, the others wait
			break
		}
		require.Zero(t, outstanding(p), "right after the loop")
		require.Equal(t, 6, pulled)
		require.Len(t, causes, 3, "those that wait never run")
		for _, cause := range causes {
			require.ErrorIs(t, cause, context.Canceled)
			require.NotEqual(t, context.Canceled, cause, "says why")
		}
		s := p.Stats()
		require.Equal(t, uint64(1), s.Succeeded)
		require.Equal(t, uint64(5), s.Canceled)
		pooltest.RequireConserved(t, s)
	})
}

func TestMapLeavesNoGoroutineBehind(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	pooltest.RequireWorkers(t, p, 2) // and so they were started
	require.NoError(t, p.WaitIdle(t.Context()))
	before := goleak.IgnoreCurrent()
	for _, leaveAt := range []int{0, 1, 7, 30} {
		pulled := 0
		for v, err := range taskpool.Map(t.Context(), p, taskpool.Task{}, endless(&pulled), pooltest.Square) {
			require.NoError(t, err)
			if v == leaveAt*leaveAt {
				break
			}
		}
		require.Zero(t, outstanding(p))
		require.LessOrEqual(t, pulled, leaveAt+4)
	}
	require.NoError(t, goleak.Find(before))
}

// goroutine returns the first line of the caller's stack dump up to its number,
// as in "goroutine 7".
func goroutine() string {
	var buf [64]byte
	head := buf[:runtime.Stack(buf[:], false)]
	return string(bytes.Join(bytes.Fields(head)[:2], []byte(" ")))
}

func TestMapInputRunsOnTheLoopingGoroutine(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	var where []string
	ended := false
	in := func(yield func(int) bool) {
		defer func() { ended = true }()
		for i := range 20 {
			where = append(where, goroutine())
			if !yield(i) {
				return
			}
		}
	}
	for v, err := range taskpool.Map(t.Context(), p, taskpool.Task{}, in, pooltest.Square) {
		require.NoError(t, err)
		if v == 100 {
			break
		}
	}
	require.True(t, ended, "the input cleans up when the loop is left")
	require.Equal(t, []string{goroutine()}, slices.Compact(where))
}

func TestMapElementErrorComesInItsPlaceAndTheLoopGoesOn(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	boom := errors.New("boom")
	got := pooltest.PairsOf(taskpool.Map(t.Context(), p, taskpool.Task{}, pooltest.UpTo(20), func(_ context.Context, i int) (int, error) {
		switch i {
		case 3:
			return 7, boom
		case 5:
			panic(boom)
		case 7:
			runtime.Goexit()
		}
		return i * i, nil
	}))
	require.Len(t, got, 20)
	for i, g := range got {
		switch i {
		case 3:
			require.Equal(t, pooltest.Pair[int]{V: 0, Err: boom}, g)
		case 5:
			require.Zero(t, g.V)
			var e *taskpool.PanicError
			require.ErrorAs(t, g.Err, &e)
			require.Same(t, boom, e.Value)
		case 7:
			require.Equal(t, pooltest.Pair[int]{V: 0, Err: taskpool.ErrGoexit}, g)
		default:
			require.Equal(t, pooltest.Pair[int]{V: i * i, Err: nil}, g)
		}
	}
	pooltest.RequireWorkers(t, p, 2)
}

func TestMapFollowsItsPattern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		boom := errors.New("boom")
		attempts := make([]atomic.Int32, 3)
		task := taskpool.Task{Name: "element", Priority: 4, Timeout: time.Minute, Retry: atOnce(3)}
		got := pooltest.PairsOf(taskpool.Map(pooltest.Patience(t), p, task, pooltest.UpTo(4), func(ctx context.Context, i int) (string, error) {
			if i == 3 {
				<-ctx.Done()
				return "late", taskpool.Permanent(ctx.Err())
			}
			if n := attempts[i].Add(1); i == 1 && n < 3 {
				return "", boom
			} else if i == 2 {
				return "", taskpool.Permanent(boom)
			}
			info, _ := taskpool.Current(ctx)
			return fmt.Sprint(info.Name, info.Priority, " ", info.Attempt), nil
		}))
		require.Len(t, got, 4)
		require.Equal(t, pooltest.Pair[string]{V: "element4 1", Err: nil}, got[0])
		require.Equal(t, pooltest.Pair[string]{V: "element4 3", Err: nil}, got[1])
		require.ErrorIs(t, got[2].Err, boom)
		require.Equal(t, int32(1), attempts[2].Load())
		require.ErrorIs(t, got[3].Err, taskpool.ErrTimeout)
	})
}

// requireCut checks the pairs of a Map that was cut short: each element that was
// taken from the input has one, and the last gives the cause.
func requireCut(t testing.TB, got []pooltest.Pair[int], pulled int, cause error) {
	t.Helper()
	require.NotEmpty(t, got)
	last := got[len(got)-1]
	require.Zero(t, last.V)
	require.Equal(t, cause, last.Err, "the cause itself")
	// The last element taken was the one that could not be submitted.
	require.Len(t, got, pulled)
}

func TestMapEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(pooltest.Patience(t))
		defer cancel(nil)
		pulled := 0
		var ten sync.WaitGroup
		ten.Add(10)
		got := pooltest.PairsOf(taskpool.Map(ctx, p, taskpool.Task{}, endless(&pulled), func(ctx context.Context, i int) (int, error) {
			if i < 10 {
				ten.Done()
			}
			if i == 10 {
				ten.Wait()
				cancel(cause)
			}
			if i >= 10 {
				<-ctx.Done()
				return 1, ctx.Err()
			}
			return i * i, nil
		}))
		requireCut(t, got, pulled, cause)
		requireSquares(t, 10, got[:10])
		for _, g := range got[10:] {
			require.Zero(t, g.V)
			require.ErrorIs(t, g.Err, cause)
		}
		require.Zero(t, outstanding(p))
	})
}

func TestMapWithAContextThatIsOverGivesTheCauseOnly(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	pulled := 0
	got := pooltest.PairsOf(taskpool.Map(ctx, p, taskpool.Task{}, endless(&pulled), pooltest.Square))
	require.Len(t, got, 1)
	requireCut(t, got, pulled, cause)
	require.Zero(t, p.Stats().Submitted)
}

func TestMapWhosePoolIsShutDownGivesWhatWasAcceptedAndErrClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		down := make(chan error, 1)
		pulled := 0
		var got []pooltest.Pair[int]
		for v, err := range taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, endless(&pulled), pooltest.Square) {
			if got = append(got, pooltest.Pair[int]{V: v, Err: err}); len(got) == 5 {
				ctx := pooltest.Patience(t)
				go func() { down <- p.Shutdown(ctx) }()
				synctest.Wait()
			}
		}
		requireCut(t, got, pulled, taskpool.ErrClosed)
		require.Equal(t, taskpool.ErrClosed, got[len(got)-1].Err)
		requireSquares(t, len(got)-1, got[:len(got)-1])
		require.NoError(t, <-down)
	})
}

func TestMapWhosePoolIsCutOffGivesEachElementItsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		over, cancel := context.WithCancel(t.Context())
		cancel()
		down := make(chan error, 1)
		pulled := 0
		first := true
		var got []pooltest.Pair[int]
		for v, err := range taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, endless(&pulled), func(ctx context.Context, i int) (int, error) {
			if i == 0 {
				time.Sleep(time.Second) // until the window is full
				return 0, nil
			}
			<-ctx.Done()
			return i, ctx.Err()
		}) {
			got = append(got, pooltest.Pair[int]{V: v, Err: err})
			if first {
				first = false
				go func() { down <- p.Shutdown(over) }()
				synctest.Wait()
			}
		}
		requireCut(t, got, pulled, taskpool.ErrClosed)
		require.Equal(t, pooltest.Pair[int]{V: 0, Err: nil}, got[0])
		for _, g := range got[1:] {
			require.Zero(t, g.V)
			require.ErrorIs(t, g.Err, taskpool.ErrClosed)
		}
		require.Error(t, <-down)
	})
}

func TestPanicInTheInputOfAMapCancelsTheTasksInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		in := func(yield func(int) bool) {
			for i := range 3 {
				if !yield(i) {
					return
				}
			}
			panic("the input broke")
		}
		require.PanicsWithValue(t, "the input broke", func() {
			for range taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, in, pooltest.WaitForEnd) {
				t.Error("no task returns before the panic")
			}
		})
		synctest.Wait()
		require.Zero(t, outstanding(p))
		require.Equal(t, uint64(3), p.Stats().Canceled)
	})
}

func TestPanicInTheLoopOverAMapCancelsTheTasksInFlight(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func()
	}{{"panic", func() { panic("the loop broke") }}, {"Goexit", runtime.Goexit}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2))
				ctx := pooltest.Patience(t)
				pulled := 0
				cleaned := false
				in := func(yield func(int) bool) {
					defer func() { cleaned = true }()
					endless(&pulled)(yield)
				}
				ended := make(chan any)
				go func() {
					defer close(ended)
					defer func() { ended <- recover() }()
					for range taskpool.Map(ctx, p, taskpool.Task{}, in, func(ctx context.Context, i int) (int, error) {
						if i == 0 {
							return 0, nil
						}
						return pooltest.WaitForEnd(ctx, i)
					}) {
						test.end()
					}
				}()
				if v := <-ended; test.name == "panic" {
					require.Equal(t, "the loop broke", v)
				}
				<-ended
				synctest.Wait()
				require.True(t, cleaned)
				require.Zero(t, outstanding(p))
				require.Equal(t, uint64(pulled-1), p.Stats().Canceled)
			})
		})
	}
}

func TestMapInsideATaskNeedsNoMoreThanOneWorker(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		for _, capacity := range []int{0, 1, 2, -1} {
			t.Run(fmt.Sprintf("%v %d", overflow, capacity), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := []taskpool.Option{taskpool.WithWorkers(1)}
					if capacity >= 0 {
						opts = append(opts, taskpool.WithCapacity(capacity, overflow))
					}
					p := pooltest.New(t, opts...)
					var running pooltest.Peak
					got, err := taskpool.Call(pooltest.Patience(t), p, taskpool.Task{}, func(ctx context.Context) ([]pooltest.Pair[int], error) {
						return pooltest.PairsOf(taskpool.Map(ctx, p, taskpool.Task{}, pooltest.UpTo(10), func(ctx context.Context, i int) (int, error) {
							running.Enter()
							defer running.Leave()
							return i * i, taskpool.Yield(ctx)
						})), nil
					})
					require.NoError(t, err)
					require.LessOrEqual(t, running.Highest.Load(), int64(1))
					requireSquares(t, 10, got)
					pooltest.RequireConserved(t, p.Stats())
				})
			})
		}
	}
}

func TestMapOutsideATaskWaitsForRoom(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		for _, capacity := range []int{0, 1} {
			t.Run(fmt.Sprintf("%v %d", overflow, capacity), func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(capacity, overflow))
				requireSquares(t, 50, pooltest.PairsOf(taskpool.Map(t.Context(), p, taskpool.Task{}, pooltest.UpTo(50), pooltest.Square)))
			})
		}
	}
}

// A failed element keeps its slot until its failure has been reported. The next
// one waits for that slot, where Submit would be refused.
func TestMapWaitsForTheSlotOfAFailedElement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooks := taskpool.Hooks{Finished: func(taskpool.TaskEvent) { time.Sleep(time.Second) }}
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(hooks),
			taskpool.WithCapacity(0, taskpool.OverflowReject))
		boom := errors.New("boom")
		got := pooltest.PairsOf(taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, pooltest.UpTo(3),
			func(context.Context, int) (int, error) { return 0, boom }))
		require.Equal(t, []pooltest.Pair[int]{{V: 0, Err: boom}, {V: 0, Err: boom}, {V: 0, Err: boom}}, got)
	})
}

func TestShedElementOfAMapComesInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(1, taskpool.OverflowShed))
		release := pooltest.Block(t, p)
		defer release()
		gate := make(chan struct{})
		in := func(yield func(int) bool) {
			for i := range 2 {
				if !yield(i) {
					return
				}
			}
			synctest.Wait()
			// Element 0 runs, 1 waits, and this takes its room.
			synctest.Wait()
			assert.Equal(t, 1, p.Stats().Queued)
			assert.NoError(t, p.Go(taskpool.High, func() {}))
			close(gate)
		}
		got := pooltest.PairsOf(taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, in,
			func(context.Context, int) (int, error) { <-gate; return 8, nil }))
		require.Equal(t, []pooltest.Pair[int]{{V: 8, Err: nil}, {V: 0, Err: taskpool.ErrShed}}, got)
	})
}

func TestMapMayBeRangedOverTwice(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	seq := taskpool.Map(t.Context(), p, taskpool.Task{}, pooltest.UpTo(10), pooltest.Square)
	for range seq {
		break
	}
	for range 2 {
		before := p.Stats().Submitted
		requireSquares(t, 10, pooltest.PairsOf(seq))
		require.Equal(t, before+10, p.Stats().Submitted)
	}
}

func TestMapOverNothingGivesNothing(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	require.Empty(t, pooltest.PairsOf(taskpool.Map(t.Context(), p, taskpool.Task{}, pooltest.UpTo(0), pooltest.Square)))
	require.Zero(t, p.Stats().Submitted)
}

func TestMapInsideMapNeedsNoMoreThanOneWorker(t *testing.T) {
	for _, capacity := range []int{0, 1, -1} {
		t.Run(fmt.Sprint("capacity ", capacity), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []taskpool.Option{taskpool.WithWorkers(1)}
				if capacity >= 0 {
					opts = append(opts, taskpool.WithCapacity(capacity, taskpool.OverflowWait))
				}
				p := pooltest.New(t, opts...)
				var running pooltest.Peak
				got := pooltest.PairsOf(taskpool.Map(pooltest.Patience(t), p, taskpool.Task{}, pooltest.UpTo(6), func(ctx context.Context, i int) (int, error) {
					sum := 0
					for v, err := range taskpool.Map(ctx, p, taskpool.Task{}, pooltest.UpTo(6), func(context.Context, int) (int, error) {
						running.Enter()
						defer running.Leave()
						return i, nil
					}) {
						if err != nil {
							return 0, err
						}
						sum += v
					}
					return sum, nil
				}))
				require.Len(t, got, 6)
				for i, g := range got {
					require.Equal(t, pooltest.Pair[int]{V: 6 * i, Err: nil}, g)
				}
				require.Equal(t, int64(1), running.Highest.Load())
				require.Zero(t, outstanding(p))
			})
		})
	}
}

func TestMapInATaskThatIsCanceledEndsWithTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		cause := errors.New("not wanted")
		pulled := 0
		var got []pooltest.Pair[int]
		fut, err := taskpool.SubmitFunc(pooltest.Patience(t), p, taskpool.Task{}, func(ctx context.Context) (int, error) {
			got = pooltest.PairsOf(taskpool.Map(ctx, p, taskpool.Task{}, endless(&pulled), func(ctx context.Context, i int) (int, error) {
				if i < 3 {
					return i * i, nil
				}
				return pooltest.WaitForEnd(ctx, i)
			}))
			return 1, context.Cause(ctx)
		})
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, taskpool.StateParked, fut.State())
		require.True(t, fut.Cancel(cause))
		v, err := fut.Get(pooltest.Patience(t))
		require.Zero(t, v)
		require.Same(t, cause, err)
		require.Equal(t, taskpool.StateCanceled, fut.State())
		requireCut(t, got, pulled, cause)
		requireSquares(t, 3, got[:3])
		require.Zero(t, outstanding(p), "the elements were waited for")
	})
}

func TestMapInsideATaskGoesOnDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		down := make(chan error, 1)
		ctx := pooltest.Patience(t)
		fut, err := taskpool.SubmitFunc(ctx, p, taskpool.Task{}, func(ctx context.Context) ([]pooltest.Pair[int], error) {
			time.Sleep(time.Second) // Shutdown is called meanwhile
			return pooltest.PairsOf(taskpool.Map(ctx, p, taskpool.Task{}, pooltest.UpTo(10), pooltest.Square)), nil
		})
		require.NoError(t, err)
		go func() { down <- p.Shutdown(ctx) }()
		got, err := fut.Get(ctx)
		require.NoError(t, err)
		requireSquares(t, 10, got)
		require.NoError(t, <-down)
	})
}
