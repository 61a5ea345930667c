package waits_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
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

// joinAll calls Join with each of the tasks, in order, and returns what each call returns.
func joinAll(t *testing.T, p *taskpool.Pool, f func(context.Context) (int, error), tasks ...taskpool.Task) (wait func() ([]int, []error)) {
	values, errs := make([]int, len(tasks)), make([]error, len(tasks))
	var all sync.WaitGroup
	for i, task := range tasks {
		all.Go(func() { values[i], errs[i] = taskpool.Join(t.Context(), p, "key", task, f) })
		synctest.Wait()
	}
	return func() ([]int, []error) {
		all.Wait()
		return values, errs
	}
}

func TestCallsWithTheSameKeyShareOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t)
		runs := 0
		f := func(ctx context.Context) (int, error) {
			runs++
			return runs, pooltest.Sleep(ctx, time.Second)
		}
		for i := range 2 { // the key is free when the run is over
			values, errs := joinAll(t, p, f, make([]taskpool.Task, 5)...)()
			require.Equal(t, []int{i + 1, i + 1, i + 1, i + 1, i + 1}, values)
			require.Equal(t, make([]error, 5), errs)
		}
		s := p.Stats()
		require.EqualValues(t, 2, s.Submitted)
		require.EqualValues(t, 8, s.Joined)
	})
}

func TestKeysAreApartForEachPoolAndTypeOfKeyAndResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := pooltest.New(t, taskpool.WithWorkers(10)), pooltest.New(t)
		type other string
		var all sync.WaitGroup
		wait := func(ctx context.Context) error { return pooltest.Sleep(ctx, time.Second) }
		number := func(ctx context.Context) (int, error) { return 7, wait(ctx) }
		all.Go(func() { _, _ = taskpool.Join(t.Context(), p, "key", taskpool.Task{}, number) })
		all.Go(func() { _, _ = taskpool.Join(t.Context(), p, other("key"), taskpool.Task{}, number) })
		all.Go(func() { _, _ = taskpool.Join(t.Context(), p, any("key"), taskpool.Task{}, number) })
		all.Go(func() { _, _ = taskpool.Join(t.Context(), q, "key", taskpool.Task{}, number) })
		all.Go(func() {
			_, _ = taskpool.Join(t.Context(), p, "key", taskpool.Task{}, func(ctx context.Context) (string, error) { return "7", wait(ctx) })
		})
		all.Wait()
		require.EqualValues(t, 4, p.Stats().Submitted)
		require.EqualValues(t, 1, q.Stats().Submitted)
		require.Zero(t, p.Stats().Joined)
	})
}

func TestACallThatLeavesARunLeavesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t)
		ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), testKey{}, "first's"))
		var ended error
		f := func(ctx context.Context) (any, error) {
			_ = pooltest.Sleep(ctx, time.Minute)
			ended = context.Cause(ctx)
			return ctx.Value(testKey{}), ended
		}
		var all sync.WaitGroup
		all.Go(func() {
			_, err := taskpool.Join(ctx, p, 1, taskpool.Task{}, f)
			assert.Equal(t, pooltest.ErrCause, err)
			assert.Equal(t, time.Duration(0), time.Since(time.Now()))
		})
		synctest.Wait()
		all.Go(func() {
			v, err := taskpool.Join(t.Context(), p, 1, taskpool.Task{}, f)
			assert.NoError(t, err)
			assert.Equal(t, "first's", v)
		})
		synctest.Wait()
		cancel(pooltest.ErrCause)
		all.Wait()
		require.NoError(t, ended)
	})
}

type testKey struct{}

func TestARunIsCanceledWithItsLastCallAndItsKeyIsFreeThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t)
		var causes []error
		runs := 0
		f := func(ctx context.Context) (int, error) {
			runs++
			run := runs
			if run == 2 {
				return run, nil
			}
			<-ctx.Done()
			causes = append(causes, context.Cause(ctx))
			time.Sleep(time.Second) // it takes its time
			return run, ctx.Err()
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				_, err := taskpool.Join(ctx, p, "key", taskpool.Task{}, f)
				assert.Equal(t, pooltest.ErrCause, err)
			})
			synctest.Wait()
		}
		cancel(pooltest.ErrCause)
		synctest.Wait()
		require.Equal(t, []error{pooltest.ErrCause}, causes)
		v, err := taskpool.Join(t.Context(), p, "key", taskpool.Task{}, f)
		require.NoError(t, err)
		require.Equal(t, 2, v)
		all.Wait()
	})
}

func TestHighThatJoinsWhatLowBeganStartsItAsHigh(t *testing.T) {
	for _, inTask := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			release := pooltest.Block(t, p)
			var order []string
			medium := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { order = append(order, "medium"); return nil }})
			var priority taskpool.Priority
			join := func(ctx context.Context, pr taskpool.Priority) error {
				_, err := taskpool.Join(ctx, p, "key", taskpool.Task{Name: "shared", Priority: pr}, func(ctx context.Context) (int, error) {
					info, _ := taskpool.Current(ctx)
					priority = info.Urgency
					order = append(order, "shared")
					return 0, nil
				})
				return err
			}
			var all sync.WaitGroup
			all.Go(func() { assert.NoError(t, join(t.Context(), taskpool.Low)) })
			synctest.Wait()
			if inTask {
				q := pooltest.New(t)
				pooltest.Submit(t, q, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error { return join(ctx, taskpool.Low) }})
			} else {
				all.Go(func() { assert.NoError(t, join(t.Context(), taskpool.High)) })
				all.Go(func() { assert.NoError(t, join(t.Context(), taskpool.Medium)) })
			}
			synctest.Wait()
			release()
			all.Wait()
			require.NoError(t, medium.Wait(t.Context()))
			require.Equal(t, taskpool.High, priority)
			require.Equal(t, []string{"shared", "medium"}, order)
		})
	}
}

// Whoever waits for room for the run does so for all; when it leaves, or somebody is more urgent,
// another does.
func TestARunThatWaitsForRoomWaitsAsItsMostUrgentCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		release := pooltest.Block(t, p)
		var order []string
		f := func(ctx context.Context) (taskpool.Priority, error) {
			order = append(order, "run")
			info, _ := taskpool.Current(ctx)
			return info.Priority, nil
		}
		var all sync.WaitGroup
		join := func(ctx context.Context, pr taskpool.Priority) {
			all.Go(func() {
				got, err := taskpool.Join(ctx, p, "key", taskpool.Task{Priority: pr}, f)
				assert.NoError(t, err)
				assert.Equal(t, taskpool.High, got)
			})
			synctest.Wait()
		}
		join(t.Context(), taskpool.Low)
		join(t.Context(), taskpool.Low)
		require.Equal(t, 1, p.Stats().SubmittersWaiting)
		all.Go(func() {
			assert.NoError(t, p.Go(taskpool.Medium, func() { order = append(order, "medium") }))
		})
		synctest.Wait()
		join(t.Context(), taskpool.High)
		require.Equal(t, 2, p.Stats().SubmittersWaiting)
		release()
		all.Wait()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"run", "medium"}, order)
		require.EqualValues(t, 3, p.Stats().Submitted)

		// One after the other leaves.
		release = pooltest.Block(t, p)
		var cancels []context.CancelCauseFunc
		for range 3 {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancels = append(cancels, cancel)
			all.Go(func() {
				_, err := taskpool.Join(ctx, p, "key", taskpool.Task{}, f)
				assert.ErrorIs(t, err, pooltest.ErrCause)
			})
			synctest.Wait()
		}
		join(t.Context(), taskpool.High)
		for _, i := range []int{1, 0, 2} {
			cancels[i](pooltest.ErrCause)
			synctest.Wait()
			require.Equal(t, 1, p.Stats().SubmittersWaiting)
		}
		release()
		all.Wait()
	})
}

func TestACallThatLeavesWhileItWaitsForRoomHasAnotherWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		release := pooltest.Block(t, p)
		var all sync.WaitGroup
		var cancels []context.CancelCauseFunc
		for i := range 3 {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancels = append(cancels, cancel)
			all.Go(func() {
				_, err := taskpool.Join(ctx, p, "key", taskpool.Task{}, zero)
				if i < 2 {
					assert.ErrorIs(t, err, pooltest.ErrCause)
				} else {
					assert.NoError(t, err)
				}
			})
			synctest.Wait()
		}
		for _, cancel := range cancels[:2] { // the one that waits for room, each time
			cancel(pooltest.ErrCause)
			synctest.Wait()
			require.Equal(t, 1, p.Stats().SubmittersWaiting)
		}
		release()
		all.Wait()
		cancels[2](nil)
	})
}

func TestACallWhoseRunHasNoRoomTriesForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
		release := sync.OnceFunc(pooltest.Block(t, p))
		defer release()
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		_, err := taskpool.Join(t.Context(), p, "key", taskpool.Task{Priority: taskpool.Low}, zero)
		require.ErrorIs(t, err, taskpool.ErrFull)
		time.AfterFunc(time.Second, release)
		_, err = taskpool.Join(t.Context(), p, "key", taskpool.Task{Priority: taskpool.High}, zero)
		require.NoError(t, err)
		require.NoError(t, p.Shutdown(t.Context()))
		_, err = taskpool.Join(t.Context(), p, "key", taskpool.Task{}, zero)
		require.ErrorIs(t, err, taskpool.ErrClosed)
	})
}

func TestAllCallsGetThePanicOfTheirRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		for _, end := range []func(){func() { pooltest.PanicsHere("boom") }, runtime.Goexit} {
			_, errs := joinAll(t, p, func(context.Context) (int, error) {
				time.Sleep(time.Second)
				end()
				return 0, nil
			}, make([]taskpool.Task, 3)...)()
			for _, err := range errs {
				var e *taskpool.PanicError
				require.True(t, errors.As(err, &e) && e.Value == "boom" && len(e.Stack) > 0 || errors.Is(err, taskpool.ErrGoexit), "%v", err)
			}
		}
		v, err := taskpool.Join(t.Context(), p, "key", taskpool.Task{}, zero)
		require.NoError(t, err)
		require.Zero(t, v)
	})
}

func TestJoinInTasksGivesTheSlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var inside error
		var all []*taskpool.Handle
		for range 10 {
			all = append(all, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
				_, err := taskpool.Join(ctx, p, "key", taskpool.Task{}, func(ctx context.Context) (int, error) {
					_, inside = taskpool.Join(ctx, p, "key", taskpool.Task{}, zero)
					return 0, pooltest.Sleep(ctx, time.Second)
				})
				return err
			}}))
		}
		for _, h := range all {
			require.NoError(t, h.Wait(t.Context()))
		}
		require.Equal(t, taskpool.ErrInside, inside)
	})
}

func TestJoinRefusesWhatMustBeAMistake(t *testing.T) {
	p := pooltest.New(t)
	join := func(ctx context.Context, p *taskpool.Pool, key any, task taskpool.Task, f func(context.Context) (int, error)) string {
		_, err := taskpool.Join(ctx, p, key, task, f)
		require.Error(t, err)
		return err.Error()
	}
	ctx := t.Context()
	require.Equal(t, "taskpool: Join: the Pool must be one that New has returned, got nil", join(ctx, nil, 1, taskpool.Task{}, zero))
	require.Equal(t, "taskpool: Join: ctx must not be nil", join(nil, p, 1, taskpool.Task{}, zero)) //nolint:staticcheck // that is the mistake
	require.Equal(t, "taskpool: Join: f must not be nil", join(ctx, p, 1, taskpool.Task{}, nil))
	require.Contains(t, join(ctx, p, 1, taskpool.Task{Run: pooltest.Nop}, zero), "Task.Run must be nil")
	require.Equal(t, "taskpool: Join: key must be equal to itself, got NaN", join(ctx, p, math.NaN(), taskpool.Task{}, zero))
	require.Equal(t, "taskpool: Join: key must be equal to itself, got [1]", join(ctx, p, []int{1}, taskpool.Task{}, zero))
	require.Equal(t, "taskpool: Task.Timeout must not be negative, got -1ns", join(ctx, p, 1, taskpool.Task{Timeout: -1}, zero))
	require.Contains(t, join(pooltest.EndedContext(), p, 1, taskpool.Task{}, zero), "context is over")
}

// Very many calls of few keys, some of which leave: at no moment has a key two runs whose context
// has not ended, and nobody gets the cancellation of another.
func TestManyCallsOfFewKeys(t *testing.T) {
	const calls, keys = 10_000, 100
	for _, opts := range [][]taskpool.Option{{}, {taskpool.WithCapacity(3, taskpool.OverflowWait)}} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, append(opts, taskpool.WithWorkers(20))...)
			r := rand.New(rand.NewPCG(1, 2))
			var mu sync.Mutex
			live := make(map[int]context.Context)
			var runs atomic.Int64
			var all sync.WaitGroup
			for range calls {
				key, pr := r.IntN(keys), taskpool.Priority(r.IntN(3)-1)
				starts, works := time.Duration(r.IntN(1000))*time.Millisecond, time.Duration(r.IntN(100))*time.Millisecond
				patience := time.Hour
				if r.IntN(3) == 0 {
					patience = time.Duration(r.IntN(50)) * time.Millisecond
				}
				all.Go(func() {
					time.Sleep(starts)
					ctx, cancel := context.WithTimeoutCause(t.Context(), patience, pooltest.ErrCause)
					defer cancel()
					v, err := taskpool.Join(ctx, p, key, taskpool.Task{Priority: pr}, func(ctx context.Context) (int, error) {
						runs.Add(1)
						mu.Lock()
						if other := live[key]; other != nil && other.Err() == nil {
							t.Errorf("key %d has two runs", key)
						}
						live[key] = ctx
						mu.Unlock()
						err := pooltest.Sleep(ctx, works)
						mu.Lock()
						defer mu.Unlock()
						if live[key] == ctx {
							delete(live, key)
						}
						return key, err
					})
					if err != nil {
						assert.ErrorIs(t, err, pooltest.ErrCause)
						assert.Error(t, ctx.Err(), "it is its own")
					} else {
						assert.Equal(t, key, v)
					}
				})
			}
			all.Wait()
			pooltest.Drain(t, p)
			s := p.Stats()
			require.Greater(t, s.Joined, uint64(calls/10))
			t.Logf("%d runs, %d joined, %d canceled, %d refused", runs.Load(), s.Joined, s.Canceled, s.Refused)
		})
	}
}

func zero(context.Context) (int, error) { return 0, nil }

// An endsOnDone ends when it is asked for its Done channel.
type endsOnDone struct {
	context.Context
	end func()
}

func (c *endsOnDone) Done() <-chan struct{} { c.end(); return c.Context.Done() }

// A more urgent call that takes the leader's place leaves at once: the leader goes on.
func TestJoinLeaderGoesOnWhenWhoTookItsPlaceHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(0, taskpool.OverflowWait))
		seven := func(context.Context) (int, error) { return 7, nil }
		done := make(chan error, 1)
		go func() {
			_, err := taskpool.Join(context.Background(), p, "k", taskpool.Task{Priority: taskpool.Low}, seven)
			done <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		_, err := taskpool.Join(&endsOnDone{ctx, cancel}, p, "k", taskpool.Task{Priority: taskpool.High}, seven)
		require.Error(t, err)
		synctest.Wait()
		release()
		require.NoError(t, <-done)
	})
}

// A hook ends the goroutine of the call that has begun a run: the others get its result, and where
// there are none it is canceled.
func TestJoinRunOutlivesTheCallThatBeganIt(t *testing.T) {
	for _, others := range []int{0, 1, 5} {
		t.Run(fmt.Sprint(others), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := make(chan struct{})
				p, release := pooltest.Occupied(t, taskpool.WithHooks(taskpool.Hooks{Queued: func(e taskpool.TaskEvent) {
					if e.Task.Name == "shared" {
						close(begun)
						synctest.Wait() // until the others wait
						runtime.Goexit()
					}
				}}))
				var runs atomic.Int32
				join := func() (int, error) {
					return taskpool.Join(context.Background(), p, "k", taskpool.Task{Name: "shared"}, func(context.Context) (int, error) {
						return int(runs.Add(1)), nil
					})
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_, _ = join()
					t.Error("Join has returned")
				}()
				<-begun
				results := make(chan int, others)
				for range others {
					go func() {
						v, err := join()
						assert.NoError(t, err)
						results <- v
					}()
				}
				<-ended
				release()
				for range others {
					require.Equal(t, 1, <-results)
				}
				pooltest.Drain(t, p)
				require.EqualValues(t, min(others, 1), runs.Load())
				require.EqualValues(t, 1-min(others, 1), p.Stats().Canceled)
			})
		})
	}
}
