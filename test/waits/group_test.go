package waits_test

import (
	"context"
	"errors"
	"fmt"
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

// The meaning of errgroup.

func TestGroupWaitsForAllItsMembers(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	g := p.Group(t.Context(), taskpool.Task{Name: "member", Priority: 4})
	var sum atomic.Int64
	for i := range 50 {
		g.Go(func(ctx context.Context) error {
			if info, _ := taskpool.Current(ctx); info.Name == "member" && info.Priority == 4 {
				sum.Add(int64(i))
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.Equal(t, int64(49*50/2), sum.Load())
	require.Zero(t, outstanding(p))
}

func TestGroupWithoutMembersWaitsForNothing(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	require.NoError(t, p.Group(t.Context(), taskpool.Task{}).Wait())
}

func TestFirstErrorOfAGroupCancelsTheOthersAndIsWhatWaitReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3))
		g := p.Group(pooltest.Patience(t), taskpool.Task{})
		boom := errors.New("boom")
		var causes [2]error
		for i := range causes {
			g.Go(func(ctx context.Context) error {
				<-ctx.Done()
				causes[i] = context.Cause(ctx)
				return errors.New("another")
			})
		}
		synctest.Wait()
		g.Go(func(context.Context) error { return boom })
		g.Go(pooltest.Nop) // may wait or run when the error comes; it is none of its own
		require.Same(t, boom, g.Wait())
		require.Equal(t, [2]error{boom, boom}, causes)
	})
}

func TestErrorOfAGroupRemovesItsWaitingMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(pooltest.Patience(t), taskpool.Task{})
		boom := errors.New("boom")
		gate := make(chan struct{})
		g.Go(func(context.Context) error { <-gate; return boom })
		synctest.Wait()
		// Less urgent than the group, so that it is still to come.
		last := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
		for range 5 {
			g.Go(func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}
		synctest.Wait()
		require.Equal(t, 6, p.Stats().Queued)
		close(gate)
		require.Same(t, boom, g.Wait())
		require.NoError(t, last.Wait(pooltest.Patience(t)))
		s := p.Stats()
		require.Equal(t, uint64(5), s.Canceled)
		pooltest.RequireConserved(t, s)
	})
}

func TestGroupWaitWaitsForAllMembersThoughTheFirstFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		g := p.Group(pooltest.Patience(t), taskpool.Task{})
		boom := errors.New("boom")
		gate := make(chan struct{})
		g.Go(func(context.Context) error { <-gate; return nil })
		synctest.Wait()
		g.Go(func(context.Context) error { return boom })
		done := make(chan error, 1)
		go func() { done <- g.Wait() }()
		synctest.Wait()
		require.Empty(t, done)
		close(gate)
		require.Same(t, boom, <-done)
		require.Zero(t, outstanding(p))
	})
}

func TestMemberAfterTheFirstErrorDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(pooltest.Patience(t), taskpool.Task{})
		boom := errors.New("boom")
		g.Go(func(context.Context) error { return boom })
		synctest.Wait()
		g.Go(func(context.Context) error { panic("must not run") })
		require.Same(t, boom, g.Wait())
		require.Zero(t, p.Stats().Panics)
	})
}

func TestContextOfAGroupEndsWhenWaitReturns(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	g := p.Group(t.Context(), taskpool.Task{})
	var members context.Context
	g.Go(func(ctx context.Context) error { members = taskpool.Detach(ctx); return nil })
	require.NoError(t, g.Wait())
	require.Error(t, members.Err())
}

func TestGroupWaitMayBeCalledAgain(t *testing.T) {
	for _, want := range []error{nil, errors.New("boom")} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			g := p.Group(t.Context(), taskpool.Task{})
			g.Go(func(context.Context) error { return want })
			for range 2 {
				require.Equal(t, want, g.Wait())
			}
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() { assert.Equal(t, want, g.Wait()) })
			}
			all.Wait()
		})
	}
}

func TestGroupIsOverOnceWaitHasReturned(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	g := p.Group(t.Context(), taskpool.Task{})
	g.Go(pooltest.Nop)
	require.NoError(t, g.Wait())
	g.Go(func(context.Context) error { panic("must not run") })
	require.ErrorIs(t, g.Wait(), context.Canceled)
	require.Equal(t, uint64(1), p.Stats().Submitted)
}

func TestContextValuesReachTheMembersOfAGroup(t *testing.T) {
	type key struct{}
	p := pooltest.New(t, taskpool.WithWorkers(1))
	g := p.Group(context.WithValue(t.Context(), key{}, "value"), taskpool.Task{})
	var got any
	g.Go(func(ctx context.Context) error { got = ctx.Value(key{}); return nil })
	require.NoError(t, g.Wait())
	require.Equal(t, "value", got)
}

func TestEndOfItsContextCancelsTheMembersOfAGroupAndWaitWaitsForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(pooltest.Patience(t))
		g := p.Group(ctx, taskpool.Task{})
		gate := make(chan struct{})
		var seen error
		g.Go(func(ctx context.Context) error {
			<-ctx.Done()
			seen = context.Cause(ctx)
			<-gate
			return ctx.Err()
		})
		done := make(chan error, 1)
		go func() { done <- g.Wait() }()
		synctest.Wait()
		cancel(cause)
		synctest.Wait()
		require.Empty(t, done, "outside a task Wait waits for its members")
		close(gate)
		require.ErrorIs(t, <-done, cause)
		require.Same(t, cause, seen)
	})
}

// SetLimit.

func TestGroupLimitBoundsItsMembersAndGoWaits(t *testing.T) {
	for _, inside := range []bool{false, true} {
		t.Run(fmt.Sprint("inside a task: ", inside), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(5))
				work := func(ctx context.Context) (int, error) {
					g := p.Group(ctx, taskpool.Task{})
					g.SetLimit(2)
					var running pooltest.Peak
					ended := 0
					var mu sync.Mutex
					started := 0
					for range 10 {
						g.Go(func(context.Context) error {
							running.Enter()
							defer running.Leave()
							time.Sleep(time.Second)
							mu.Lock()
							defer mu.Unlock()
							ended++
							return nil
						})
						started++
						mu.Lock()
						assert.LessOrEqual(t, started-ended, 2)
						mu.Unlock()
					}
					err := g.Wait()
					assert.Equal(t, 10, ended)
					return int(running.Highest.Load()), err
				}
				var most int
				var err error
				if inside {
					most, err = taskpool.Call(pooltest.Patience(t), p, taskpool.Task{}, work)
				} else {
					most, err = work(pooltest.Patience(t))
				}
				require.NoError(t, err)
				require.Equal(t, 2, most)
			})
		})
	}
}

func TestGroupLimitHoldsForSeveralWhoCallGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(8))
		g := p.Group(pooltest.Patience(t), taskpool.Task{})
		g.SetLimit(3)
		var running pooltest.Peak
		var ran atomic.Int64
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() {
				for range 5 {
					g.Go(func(context.Context) error {
						running.Enter()
						defer running.Leave()
						time.Sleep(time.Second)
						ran.Add(1)
						return nil
					})
				}
			})
		}
		all.Wait()
		require.NoError(t, g.Wait())
		require.Equal(t, int64(30), ran.Load())
		require.Equal(t, int64(3), running.Highest.Load())
	})
}

func TestGroupWithoutALimitTakesAnyNumberOfMembers(t *testing.T) {
	for _, limit := range []int{-1, -7} {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{})
		g.SetLimit(1)
		g.SetLimit(limit) // takes the bound away
		gate := make(chan struct{})
		for range 100 {
			g.Go(func(context.Context) error { <-gate; return nil })
		}
		require.Equal(t, 100, outstanding(p))
		close(gate)
		require.NoError(t, g.Wait())
	}
}

func TestGroupLimitMustNotBeZeroOrLate(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	g := p.Group(t.Context(), taskpool.Task{})
	require.PanicsWithValue(t, "taskpool: Group.SetLimit: n must not be 0", func() { g.SetLimit(0) })
	gate := make(chan struct{})
	g.Go(func(context.Context) error { <-gate; return nil })
	require.PanicsWithValue(t, "taskpool: Group.SetLimit: the group has members already", func() { g.SetLimit(1) })
	require.PanicsWithValue(t, "taskpool: Group.SetLimit: the group has members already", func() { g.SetLimit(-1) })
	g.Go(pooltest.Nop) // neither took effect, or this would wait for ever
	close(gate)
	require.NoError(t, g.Wait())
}

// The task needs its slot back when the wait for a place is over. A place that is free by
// then changes nothing.
func TestGoThatWaitsForALimitEndsWithTheTasksContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		g := p.Group(pooltest.Patience(t), taskpool.Task{})
		g.SetLimit(1)
		gate := make(chan struct{})
		g.Go(func(context.Context) error { <-gate; return nil })
		synctest.Wait()
		returned := false
		task := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error {
			g.Go(pooltest.MustNotRun)
			returned = true
			return nil
		}})
		synctest.Wait()
		defer pooltest.Occupy(t, p)()
		cause := errors.New("enough")
		require.True(t, task.Cancel(cause))
		synctest.Wait()
		require.False(t, returned, "it has no slot")
		close(gate)
		synctest.Wait()
		require.True(t, returned)
		require.ErrorIs(t, g.Wait(), cause)
	})
}

func TestGoThatWaitsForALimitEndsWithTheGroupsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(pooltest.Patience(t))
		g := p.Group(ctx, taskpool.Task{})
		g.SetLimit(1)
		gate := make(chan struct{})
		g.Go(func(context.Context) error { <-gate; return nil })
		returned := make(chan struct{})
		go func() {
			g.Go(func(context.Context) error { panic("must not run") })
			close(returned)
		}()
		synctest.Wait()
		cancel(cause)
		<-returned
		require.Equal(t, 1, outstanding(p))
		close(gate)
		require.ErrorIs(t, g.Wait(), cause)
		require.Zero(t, p.Stats().Panics)
	})
}

// How members fail, and how they are refused.

func TestDeathOfAMemberIsTheGroupsError(t *testing.T) {
	tests := []struct {
		name  string
		f     func(context.Context) error
		check func(t *testing.T, err error)
	}{
		{"panic", func(context.Context) error { panic("out of cheese") },
			func(t *testing.T, err error) {
				var e *taskpool.PanicError
				require.ErrorAs(t, err, &e)
				require.Equal(t, "out of cheese", e.Value)
				require.NotEmpty(t, e.Stack)
			}},
		{"Goexit", func(context.Context) error { runtime.Goexit(); return nil },
			func(t *testing.T, err error) { require.Equal(t, taskpool.ErrGoexit, err) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2))
			g := p.Group(t.Context(), taskpool.Task{})
			g.Go(func(ctx context.Context) error { <-ctx.Done(); return nil })
			g.Go(test.f)
			test.check(t, g.Wait())
			pooltest.RequireWorkers(t, p, 2)
		})
	}
}

func TestGroupDoesNotWaitForAHungMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		g := p.Group(pooltest.Patience(t), taskpool.Task{Timeout: time.Second})
		gate := make(chan struct{})
		g.Go(func(context.Context) error { <-gate; return errors.New("late") })
		require.ErrorIs(t, g.Wait(), taskpool.ErrHung)
		require.Equal(t, 1, p.Stats().Abandoned)
		close(gate)
		synctest.Wait()
		require.ErrorIs(t, g.Wait(), taskpool.ErrHung, "and what it returns later is no member's")
	})
}

func TestFailedAttemptOfAMemberIsNoErrorOfTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		g := p.Group(pooltest.Patience(t), taskpool.Task{Retry: taskpool.Retry{
			MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Second },
		}})
		attempts := 0
		g.Go(func(context.Context) error {
			if attempts++; attempts < 3 {
				return errors.New("again")
			}
			return nil
		})
		var err error
		g.Go(func(ctx context.Context) error {
			time.Sleep(time.Minute) // longer than the retries take
			err = ctx.Err()
			return nil
		})
		require.NoError(t, g.Wait())
		require.NoError(t, err)
		require.Equal(t, 3, attempts)
		require.Equal(t, uint64(2), p.Stats().Retries)
	})
}

func TestErrorOfAGroupEndsTheRetriesOfItsMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		g := p.Group(pooltest.Patience(t), taskpool.Task{Retry: taskpool.Retry{
			MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Minute },
		}})
		boom := errors.New("boom")
		attempts := 0
		g.Go(func(context.Context) error { attempts++; return errors.New("again") })
		synctest.Wait()
		require.Equal(t, 1, p.Stats().Delayed)
		g.Go(func(context.Context) error { return taskpool.Permanent(boom) })
		require.ErrorIs(t, g.Wait(), boom)
		require.Equal(t, 1, attempts)
		require.Equal(t, uint64(1), p.Stats().Canceled)
	})
}

func TestMemberThatIsNotAcceptedIsAnErrorOfItsGroup(t *testing.T) {
	t.Run("closed pool", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{})
		require.NoError(t, p.Shutdown(t.Context()))
		g.Go(pooltest.MustNotRun)
		require.Equal(t, taskpool.ErrClosed, g.Wait())
	})
	t.Run("bad pattern", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{Timeout: -1})
		g.Go(pooltest.MustNotRun)
		require.ErrorContains(t, g.Wait(), "Task.Timeout must not be negative")
	})
	t.Run("context over", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		g := p.Group(ctx, taskpool.Task{})
		g.Go(pooltest.MustNotRun)
		require.ErrorIs(t, g.Wait(), cause)
	})
	t.Run("it cancels the others", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{})
		var cause error
		started := make(chan struct{})
		g.Go(func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			cause = context.Cause(ctx)
			return nil
		})
		<-started
		over, cancel := context.WithCancel(t.Context())
		down := make(chan error)
		go func() { down <- p.Shutdown(over) }()
		for p.Resize(1) == nil {
			runtime.Gosched()
		}
		g.Go(pooltest.MustNotRun)
		require.Equal(t, taskpool.ErrClosed, g.Wait())
		require.Equal(t, taskpool.ErrClosed, cause)
		require.NoError(t, <-down)
		cancel()
	})
	t.Run("shed", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
		release := pooltest.Block(t, p)
		g := p.Group(t.Context(), taskpool.Task{})
		g.Go(pooltest.MustNotRun)
		require.NoError(t, p.Go(taskpool.High, func() {}))
		require.Equal(t, taskpool.ErrShed, g.Wait())
		release()
	})
}

func TestGroupMembersWaitForRoomWhateverTheOverflow(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		for _, capacity := range []int{0, 1} {
			t.Run(fmt.Sprintf("%v %d", overflow, capacity), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(capacity, overflow))
					g := p.Group(pooltest.Patience(t), taskpool.Task{})
					var ran atomic.Int32
					for range 50 {
						g.Go(func(context.Context) error {
							time.Sleep(time.Second)
							ran.Add(1)
							return nil
						})
					}
					require.NoError(t, g.Wait())
					require.EqualValues(t, 50, ran.Load())
					require.Zero(t, p.Stats().Refused)
				})
			})
		}
	}
}

func TestGroupWaitsForRoomInTheQueue(t *testing.T) {
	for _, capacity := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(capacity, taskpool.OverflowWait))
			release := pooltest.Block(t, p)
			g := p.Group(pooltest.Patience(t), taskpool.Task{})
			ran := 0
			accepted := make(chan struct{})
			go func() {
				defer close(accepted)
				for range 5 {
					g.Go(func(context.Context) error { ran++; return nil })
				}
			}()
			synctest.Wait()
			require.Equal(t, 1, p.Stats().SubmittersWaiting)
			require.Equal(t, capacity, p.Stats().Queued)
			release()
			<-accepted
			require.NoError(t, g.Wait())
			require.Equal(t, 5, ran)
		})
	}
}

func TestGroupTakesMembersFromSeveralGoroutines(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	g := p.Group(t.Context(), taskpool.Task{})
	var ran atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				g.Go(func(context.Context) error { ran.Add(1); return nil })
			}
		})
	}
	all.Wait()
	require.NoError(t, g.Wait())
	require.Equal(t, int64(400), ran.Load())
}

// Inside a task.

func TestGroupInsideATaskNeedsNoMoreThanOneWorker(t *testing.T) {
	for _, other := range []bool{false, true} {
		for _, capacity := range []int{0, 1, -1} {
			for _, limit := range []int{1, 2, -1} {
				name := fmt.Sprintf("other pool %v, capacity %d, limit %d", other, capacity, limit)
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						opts := []taskpool.Option{taskpool.WithWorkers(1)}
						if capacity >= 0 {
							opts = append(opts, taskpool.WithCapacity(capacity, taskpool.OverflowWait))
						}
						p := pooltest.New(t, opts...)
						outer := p
						if other {
							outer = pooltest.New(t, taskpool.WithWorkers(1))
						}
						var running pooltest.Peak
						var parked atomic.Int64
						ran, err := taskpool.Call(pooltest.Patience(t), outer, taskpool.Task{}, func(ctx context.Context) (int, error) {
							g := p.Group(ctx, taskpool.Task{})
							g.SetLimit(limit)
							ran := 0
							for range 10 {
								g.Go(func(context.Context) error {
									running.Enter()
									defer running.Leave()
									time.Sleep(time.Second) // until the task waits
									parked.Store(int64(outer.Stats().Parked))
									ran++
									return nil
								})
							}
							err := g.Wait()
							return ran, err
						})
						require.NoError(t, err)
						require.Equal(t, 10, ran)
						require.Equal(t, int64(1), running.Highest.Load())
						require.Equal(t, int64(1), parked.Load(), "the task gives its slot back")
						require.Zero(t, outstanding(p)+outstanding(outer))
					})
				})
			}
		}
	}
}

func TestGroupsNestToAnyDepthOnOneWorker(t *testing.T) {
	for _, capacity := range []int{0, 1, -1} {
		t.Run(fmt.Sprint("capacity ", capacity), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []taskpool.Option{taskpool.WithWorkers(1)}
				if capacity >= 0 {
					opts = append(opts, taskpool.WithCapacity(capacity, taskpool.OverflowWait))
				}
				p := pooltest.New(t, opts...)
				var leaves atomic.Int64
				var grow func(ctx context.Context, depth int) error
				grow = func(ctx context.Context, depth int) error {
					if depth == 0 {
						leaves.Add(1)
						return nil
					}
					g := p.Group(ctx, taskpool.Task{})
					for range 3 {
						g.Go(func(ctx context.Context) error { return grow(ctx, depth-1) })
					}
					return g.Wait()
				}
				require.NoError(t, grow(pooltest.Patience(t), 5))
				require.Equal(t, int64(243), leaves.Load())
			})
		})
	}
}

// As with errgroup, a member may start more members: a walk over a tree.
func TestMembersMayStartMembersOnOneWorker(t *testing.T) {
	for _, capacity := range []int{0, 1, -1} {
		for _, inside := range []bool{false, true} {
			t.Run(fmt.Sprintf("capacity %d, inside a task %v", capacity, inside), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := []taskpool.Option{taskpool.WithWorkers(1)}
					if capacity >= 0 {
						opts = append(opts, taskpool.WithCapacity(capacity, taskpool.OverflowWait))
					}
					p := pooltest.New(t, opts...)
					var leaves atomic.Int64
					work := func(ctx context.Context) (int, error) {
						g := p.Group(ctx, taskpool.Task{})
						var grow func(depth int) error
						grow = func(depth int) error {
							if depth == 0 {
								leaves.Add(1)
								return nil
							}
							for range 2 {
								g.Go(func(context.Context) error { return grow(depth - 1) })
							}
							return nil
						}
						g.Go(func(context.Context) error { return grow(4) })
						return 0, g.Wait()
					}
					var err error
					if inside {
						_, err = taskpool.Call(pooltest.Patience(t), p, taskpool.Task{}, work)
					} else {
						_, err = work(pooltest.Patience(t))
					}
					require.NoError(t, err)
					require.Equal(t, int64(16), leaves.Load())
				})
			})
		}
	}
}

func TestGroupWaitInATaskWhoseContextEndsReturnsTheCauseAtOnce(t *testing.T) {
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprint("other pool ", other), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				outer := pooltest.New(t, taskpool.WithWorkers(1))
				p := outer
				if other {
					p = pooltest.New(t, taskpool.WithWorkers(1))
				}
				gate := make(chan struct{})
				running := make(chan struct{})
				cause := errors.New("not wanted")
				var got, member error
				var left int
				h := pooltest.Submit(t, outer, taskpool.Task{Run: func(ctx context.Context) error {
					g := p.Group(ctx, taskpool.Task{})
					g.Go(func(ctx context.Context) error {
						close(running)
						return taskpool.Block(ctx, func() error {
							<-ctx.Done()
							member = context.Cause(ctx)
							<-gate
							return nil
						})
					})
					got = g.Wait()
					left = p.Stats().Parked
					return got
				}})
				<-running
				synctest.Wait()
				require.Equal(t, taskpool.StateParked, h.State())
				require.True(t, h.Cancel(cause))
				require.Same(t, cause, h.Wait(pooltest.Patience(t)))
				require.Same(t, cause, got)
				require.Equal(t, 1, left, "the member was still at work")
				close(gate)
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
				require.Same(t, cause, member)
			})
		})
	}
}

func TestMembersOfARunningTaskAreAcceptedDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
		ctx := pooltest.Patience(t)
		ran := 0
		started := make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			close(started)
			time.Sleep(time.Second) // Shutdown is called meanwhile
			g := p.Group(ctx, taskpool.Task{})
			for range 5 {
				g.Go(func(context.Context) error { ran++; return nil })
			}
			return g.Wait()
		}})
		outside := p.Group(ctx, taskpool.Task{})
		<-started
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(ctx) }()
		synctest.Wait()
		outside.Go(pooltest.Nop)
		require.Equal(t, taskpool.ErrClosed, outside.Wait())
		require.NoError(t, h.Wait(ctx))
		require.Equal(t, 5, ran)
		require.NoError(t, <-down)
	})
}

func TestMembersCutOffByShutdownSettleTheirGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(pooltest.Patience(t), taskpool.Task{Name: "member"})
		for range 3 {
			g.Go(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		var e *taskpool.ShutdownError
		require.ErrorAs(t, p.Shutdown(over), &e)
		require.Len(t, e.Unfinished, 3)
		for _, u := range e.Unfinished {
			require.Equal(t, "member", u.Task.Name)
		}
		require.ErrorIs(t, g.Wait(), taskpool.ErrClosed)
	})
}

// Go has no context of its own, so the pool finds the member that calls it.
func TestMemberOfAGroupMadeOutsideMayAddMembersWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait))
		g := p.Group(t.Context(), taskpool.Task{})
		gate := make(chan struct{})
		var ran atomic.Int32
		g.Go(func(context.Context) error {
			<-gate
			for range 3 {
				g.Go(func(context.Context) error { ran.Add(1); return nil })
			}
			return nil
		})
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		close(gate)
		require.NoError(t, g.Wait())
		require.NoError(t, <-down)
		require.EqualValues(t, 3, ran.Load())
	})
}

func TestAMemberThatComesAfterWaitIsToldThatTheGroupIsOver(t *testing.T) {
	mustNotRun := func(context.Context) error { panic("must not run") }
	for _, members := range []int{0, 1} {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{})
		for range members {
			g.Go(pooltest.Nop)
		}
		require.NoError(t, g.Wait())
		g.Go(mustNotRun)
		require.EqualError(t, g.Wait(), "taskpool: Group.Go: the group is over, Wait has returned")
		g.Go(mustNotRun)
		require.EqualError(t, g.Wait(), "taskpool: Group.Go: the group is over, Wait has returned")
	}
	p := pooltest.New(t, taskpool.WithWorkers(1))
	g := p.Group(t.Context(), taskpool.Task{})
	g.Go(func(context.Context) error { return pooltest.ErrTask })
	require.Equal(t, pooltest.ErrTask, g.Wait())
	g.Go(mustNotRun)
	require.Equal(t, pooltest.ErrTask, g.Wait(), "the first error remains")
}

func TestALimitThatIsRefusedChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		g := p.Group(t.Context(), taskpool.Task{})
		gate := make(chan struct{})
		untilOpen := func(context.Context) error { <-gate; return nil }
		g.Go(untilOpen)
		require.PanicsWithValue(t, "taskpool: Group.SetLimit: the group has members already", func() { g.SetLimit(1) })
		g.Go(untilOpen) // does not wait
		close(gate)
		require.NoError(t, g.Wait())
	})
}

func TestAGroupWhosePatternRunsSomethingRefusesItsMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		mustNotRun := func(context.Context) error { panic("must not run") }
		g := p.Group(t.Context(), taskpool.Task{Run: mustNotRun})
		g.Go(mustNotRun)
		require.ErrorContains(t, g.Wait(), "Run must be nil")
	})
}

// Whose context it is that ends while members do not heed theirs.
func TestGroupWaitInATaskEndsWithTheContextOfTheGroupIfTheTaskMadeIt(t *testing.T) {
	for _, inside := range []bool{true, false} {
		t.Run(fmt.Sprintf("made inside %t", inside), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Hour))
				heedless := func(context.Context) error { time.Sleep(time.Minute); return nil }
				var waited time.Duration
				var got error
				wait := func(g *taskpool.Group) {
					start := time.Now()
					got = g.Wait()
					waited = time.Since(start)
				}
				outside, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				g := p.Group(outside, taskpool.Task{})
				h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
					if inside {
						ctx, cancel := context.WithTimeout(ctx, time.Second)
						defer cancel()
						g = p.Group(ctx, taskpool.Task{})
					}
					g.Go(heedless)
					wait(g)
					return nil
				}})
				require.NoError(t, h.Wait(pooltest.Patience(t)))
				if inside {
					require.Equal(t, time.Second, waited)
					require.ErrorIs(t, got, context.DeadlineExceeded)
				} else {
					require.Equal(t, time.Minute, waited)
					require.NoError(t, got)
				}
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			})
		})
	}
}

// A hook that takes its time comes between the error and the end of the others' context.
func TestNoMemberStartsBetweenTheFirstErrorAndTheEndOfTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHooks(taskpool.Hooks{
			Finished: func(taskpool.TaskEvent) { time.Sleep(time.Second) },
		}))
		g := p.Group(t.Context(), taskpool.Task{})
		var started atomic.Int64
		fail, gate := make(chan struct{}), make(chan struct{})
		g.Go(func(context.Context) error { <-fail; return pooltest.ErrTask })
		g.Go(func(context.Context) error { <-gate; return nil })
		synctest.Wait()
		for range 10 {
			g.Go(func(context.Context) error { started.Add(1); return nil })
		}
		close(fail)
		synctest.Wait()
		close(gate)
		require.Equal(t, pooltest.ErrTask, g.Wait())
		require.Zero(t, started.Load())
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
	})
}
