package waits_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// A task that waits for another lends it its urgency.

// A crowd is a pool of one worker with 10,000 Low tasks in its queue, in which each dispatch
// of another task than those of the test brings one more High task.
type crowd struct {
	*taskpool.Pool
	t          *testing.T
	dispatches int
	lasting    bool // High tasks arrive
}

func newCrowd(t *testing.T, opts ...taskpool.Option) *crowd {
	c := &crowd{t: t, Pool: pooltest.New(t, append([]taskpool.Option{taskpool.WithWorkers(1)}, opts...)...)}
	return c
}

// fill puts n Low tasks into the queue, and one High task.
func (c *crowd) fill(n int) {
	c.lasting = true
	for range n {
		require.NoError(c.t, c.Go(taskpool.Low, func() { c.dispatches++ }))
	}
	c.arrive()
}

func (c *crowd) arrive() {
	require.NoError(c.t, c.Go(taskpool.High, func() {
		if c.dispatches++; c.lasting {
			c.arrive()
		}
	}))
}

var loanPolicies = map[string][]taskpool.Option{
	"strict":        {taskpool.WithFairShare(0)},
	"fair share 2":  {taskpool.WithFairShare(2)},
	"fair share 16": nil,
	"aging":         {taskpool.WithAging(time.Hour)},
}

func TestChildThatAnUrgentTaskWaitsForStartsWithinTwoDispatches(t *testing.T) {
	ways := map[string]func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error{
		"Handle.Wait": func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error {
			h, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.Low, Run: child})
			if err != nil {
				return err
			}
			return h.Wait(ctx)
		},
		"another context": func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error {
			h, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.Low, Run: child})
			if err != nil {
				return err
			}
			return h.Wait(context.Background())
		},
		"Call": func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error {
			_, err := taskpool.Call(ctx, p, taskpool.Task{Priority: taskpool.Low}, func(ctx context.Context) (int, error) { return 0, child(ctx) })
			return err
		},
		"Future.Get": func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error {
			f, err := taskpool.SubmitFunc(ctx, p, taskpool.Task{Priority: taskpool.Low}, func(ctx context.Context) (int, error) { return 0, child(ctx) })
			if err != nil {
				return err
			}
			_, err = f.Get(ctx)
			return err
		},
		"Map": func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error {
			one := func(yield func(int) bool) { yield(1) }
			for _, err := range taskpool.Map(ctx, p, taskpool.Task{Priority: taskpool.Low}, one, func(ctx context.Context, _ int) (int, error) { return 0, child(ctx) }) {
				return err
			}
			return nil
		},
		"Group.Wait": func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error {
			g := p.Group(ctx, taskpool.Task{Priority: taskpool.Low})
			g.Go(child)
			return g.Wait()
		},
		"Group.Go at its limit": func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error {
			g := p.Group(ctx, taskpool.Task{Priority: taskpool.Low})
			g.SetLimit(1)
			g.Go(child)
			g.Go(pooltest.Nop)
			return g.Wait()
		},
		"a goroutine of the task": func(ctx context.Context, p *taskpool.Pool, child func(context.Context) error) error {
			h, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.Low, Run: child})
			if err != nil {
				return err
			}
			done := make(chan error)
			go func() { done <- h.Wait(ctx) }()
			return <-done
		},
	}
	for policy, opts := range loanPolicies {
		for way, wait := range ways {
			t.Run(way+", "+policy, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCrowd(t, opts...)
					started := 0
					h := pooltest.Submit(t, c.Pool, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error {
						c.fill(10_000)
						return wait(ctx, c.Pool, func(context.Context) error {
							started = c.dispatches + 1
							c.lasting = false
							return nil
						})
					}})
					require.NoError(t, h.Wait(t.Context()))
					require.Positive(t, started)
					require.LessOrEqual(t, started, 2)
					require.NoError(t, c.Shutdown(t.Context()))
				})
			})
		}
	}
}

func TestUrgencyPassesAlongChainsOfWaits(t *testing.T) {
	for policy, opts := range loanPolicies {
		for _, pools := range []int{1, 2, 3} {
			for _, length := range []int{1, 10, 1000} {
				t.Run(fmt.Sprintf("%s, %d waits, %d pools", policy, length, pools), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var all []*crowd
						for range pools {
							all = append(all, newCrowd(t, opts...))
						}
						// Each task of the chain waits for the next. The last one waits in the queue
						// of a pool that is paused as soon as all others have started.
						handles := make([]*taskpool.Handle, length)
						started, last := 0, all[(length-1)%pools]
						for _, c := range all {
							c.Pause()
						}
						for i := range handles {
							task := taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
								if i == length-1-pools {
									last.Pause()
								}
								return handles[i+1].Wait(ctx)
							}}
							if i == length-1 {
								task.Run = func(context.Context) error {
									started, last.lasting = last.dispatches+1, false
									return nil
								}
							}
							handles[i] = pooltest.Submit(t, all[i%pools].Pool, task)
						}
						for _, c := range all {
							if c != last || length > pools { // otherwise the last one is alone there
								c.Resume()
							}
						}
						synctest.Wait()
						require.Equal(t, taskpool.StateQueued, handles[length-1].State())
						last.fill(1000)
						high := pooltest.New(t, taskpool.WithWorkers(1))
						h := pooltest.Submit(t, high, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error {
							return handles[0].Wait(ctx)
						}})
						synctest.Wait()
						require.Equal(t, taskpool.High, handles[length-1].Info().Urgency)
						last.Resume()
						require.NoError(t, h.Wait(t.Context()))
						require.LessOrEqual(t, started, 2)
						for _, h := range handles {
							require.NoError(t, h.Wait(t.Context()))
						}
						for _, c := range all {
							require.NoError(t, c.Shutdown(t.Context()))
						}
					})
				})
			}
		}
	}
}

// What was lent stays until the task has settled: through retries, which wait for their time
// as before, and until the task resumes.
func TestLoansLastUntilTheTaskHasSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		attempts := 0
		begin := time.Now()
		low := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, NotBefore: begin.Add(time.Hour),
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }},
			Run: func(ctx context.Context) error {
				if attempts++; attempts == 1 {
					return pooltest.ErrTask
				}
				info, _ := taskpool.Current(ctx)
				require.Equal(t, taskpool.High, info.Urgency)
				require.Equal(t, taskpool.Low, info.Priority)
				return nil
			}})
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		high := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error {
			_ = low.Wait(impatient)
			return nil
		}})
		require.NoError(t, high.Wait(t.Context()), "it waits no longer")
		require.Equal(t, taskpool.High, low.Info().Urgency)
		require.Equal(t, taskpool.StateDelayed, low.State(), "a loan does not hurry what has to wait for its time")
		require.NoError(t, low.Wait(t.Context()))
		require.Equal(t, time.Hour+time.Minute, time.Since(begin))
		require.Equal(t, taskpool.Low, low.Info().Urgency, "it has settled")
		pooltest.Drain(t, p)
	})
}

func TestNewPriorityOfATaskThatWaitsPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithMaxParked(10))
		other := pooltest.New(t, taskpool.WithWorkers(1))
		last := pooltest.Submit(t, p, taskpool.Task{Priority: 9, Run: pooltest.Nop})
		middle := pooltest.Submit(t, other, taskpool.Task{Priority: 8, Run: func(ctx context.Context) error { return last.Wait(ctx) }})
		first := pooltest.Submit(t, other, taskpool.Task{Priority: 8, Run: func(ctx context.Context) error {
			// Two goroutines wait, of which one parks the task.
			done := make(chan error)
			go func() { done <- middle.Wait(ctx) }()
			err := middle.Wait(ctx)
			return errors.Join(err, <-done)
		}})
		synctest.Wait()
		urgencies := func() (all [3]taskpool.Priority) {
			for i, h := range []*taskpool.Handle{first, middle, last} {
				all[i] = h.Info().Urgency
			}
			return all
		}
		require.Equal(t, [3]taskpool.Priority{8, 8, 8}, urgencies())
		require.True(t, first.SetPriority(5))
		require.Equal(t, [3]taskpool.Priority{5, 5, 5}, urgencies())
		require.True(t, middle.SetPriority(7), "which is less than it was lent")
		require.Equal(t, [3]taskpool.Priority{5, 5, 5}, urgencies())
		require.True(t, first.SetPriority(6), "loans are not taken back")
		require.Equal(t, [3]taskpool.Priority{6, 5, 5}, urgencies())
		require.True(t, last.SetPriority(-3))
		require.Equal(t, [3]taskpool.Priority{6, 5, -3}, urgencies())
		release()
		require.NoError(t, first.Wait(t.Context()))
		require.False(t, first.SetPriority(0))
	})
}

func TestCirclesOfWaitsEndTheWalkOfALoan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		handles := make([]*taskpool.Handle, 3)
		ctx, cancel := context.WithCancel(t.Context())
		p.Pause()
		for i := range handles {
			handles[i] = pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(own context.Context) error {
				return handles[(i+1)%len(handles)].Wait(ctx)
			}})
		}
		p.Resume()
		synctest.Wait()
		high := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error { return handles[0].Wait(ctx) }})
		synctest.Wait()
		for _, h := range handles {
			require.Equal(t, taskpool.High, h.Info().Urgency)
		}
		cancel()
		require.Error(t, high.Wait(t.Context()))
		pooltest.Drain(t, p)
	})
}

func TestTaskThatWasLentToIsNotShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(2, taskpool.OverflowShed))
		elsewhere := pooltest.New(t, taskpool.WithWorkers(1))
		lent := pooltest.Submit(t, p, taskpool.Task{Priority: 9, Run: pooltest.Nop})
		other := pooltest.Submit(t, p, taskpool.Task{Priority: 8, Run: pooltest.Nop})
		waits := pooltest.Submit(t, elsewhere, taskpool.Task{Priority: 7, Run: func(ctx context.Context) error { return lent.Wait(ctx) }})
		synctest.Wait()
		first := pooltest.Submit(t, p, taskpool.Task{Priority: 2, Run: pooltest.Nop})
		require.Equal(t, taskpool.StateShed, other.State())
		second := pooltest.Submit(t, p, taskpool.Task{Priority: 1, Run: pooltest.Nop})
		require.Equal(t, taskpool.StateShed, first.State())
		require.Equal(t, taskpool.StateQueued, lent.State())
		release()
		require.NoError(t, waits.Wait(t.Context()))
		require.NoError(t, second.Wait(t.Context()))
	})
}

func TestReservedSlotTakesATaskThatAnUrgentOneWaitsFor(t *testing.T) {
	wait := func(h *taskpool.Handle) func(context.Context) error { return h.Wait }
	for name, test := range map[string]struct {
		elsewhere bool
		waits     func(t *testing.T, from *taskpool.Pool, low *taskpool.Handle) func(context.Context) error
	}{
		"of its pool": {false, func(t *testing.T, _ *taskpool.Pool, low *taskpool.Handle) func(context.Context) error {
			return wait(low)
		}},
		"of another pool": {true, func(t *testing.T, _ *taskpool.Pool, low *taskpool.Handle) func(context.Context) error {
			return wait(low)
		}},
		"of another pool, through a task of its own": {true, func(t *testing.T, from *taskpool.Pool, low *taskpool.Handle) func(context.Context) error {
			return wait(pooltest.Submit(t, from, taskpool.Task{Priority: taskpool.Low, Run: low.Wait}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithReserved(1, taskpool.High))
				from := p
				if test.elsewhere {
					from = pooltest.New(t)
				}
				gate := make(chan struct{})
				pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { <-gate; return nil }}) // in the slot that is not reserved
				low := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
				waits := test.waits(t, from, low)
				synctest.Wait()
				require.Equal(t, taskpool.StateQueued, low.State())
				high := pooltest.Submit(t, from, taskpool.Task{Priority: taskpool.High, Run: waits})
				synctest.Wait()
				require.Equal(t, taskpool.StateSucceeded, low.State())
				require.NoError(t, high.Wait(t.Context()))
				close(gate)
				pooltest.Drain(t, p)
			})
		})
	}
}

func TestReservedSlotTakesAMemberOfALargeGroupThatAnUrgentTaskWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithReserved(1, taskpool.High))
		elsewhere := pooltest.New(t)
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { <-gate; return nil }}) // in the slot that is not reserved
		g := p.Group(t.Context(), taskpool.Task{Priority: taskpool.Low})
		done := 0
		for range 1000 {
			g.Go(func(context.Context) error { done++; return nil })
		}
		synctest.Wait()
		require.Zero(t, done)
		high := pooltest.Submit(t, elsewhere, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { return g.Wait() }})
		synctest.Wait()
		require.Equal(t, 1000, done)
		require.NoError(t, high.Wait(t.Context()))
		close(gate)
		pooltest.Drain(t, p)
	})
}

// What a task was lent while it ran, it lends to what it waits for afterward.
func TestTaskLendsWhatItWasLentWhileItRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const urgent = taskpool.High - 1
		p, release := pooltest.Occupied(t)
		elsewhere := pooltest.New(t, taskpool.WithWorkers(2))
		last := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
		lent := make(chan struct{})
		low := pooltest.Submit(t, elsewhere, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
			<-lent
			return last.Wait(ctx)
		}})
		synctest.Wait()
		pooltest.Submit(t, elsewhere, taskpool.Task{Priority: urgent, Run: low.Wait})
		synctest.Wait()
		close(lent)
		synctest.Wait()
		require.Equal(t, urgent, last.Info().Urgency)
		release()
		pooltest.Drain(t, elsewhere)
	})
}

// The place of a task that waits for room counts as urgent as the task; there must still be
// room for what it submits.
func TestSubmittersAreLetInByTheUrgencyOfTheTaskThatSubmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(1, taskpool.OverflowWait))
		elsewhere := pooltest.New(t, taskpool.WithWorkers(3))
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop}) // the room
		var order []string
		submitter := func(name string, pr taskpool.Priority) *taskpool.Handle {
			h := pooltest.Submit(t, elsewhere, taskpool.Task{Priority: pr, Run: func(ctx context.Context) error {
				_, err := p.Submit(taskpool.Detach(ctx), taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error {
					order = append(order, name)
					return nil
				}})
				return err
			}})
			synctest.Wait()
			return h
		}
		low := submitter("low", taskpool.Low)
		medium := submitter("medium", taskpool.Medium)
		high := submitter("high", taskpool.High)
		require.Equal(t, 3, p.Stats().SubmittersWaiting)
		require.True(t, low.SetPriority(-9)) // and it passes on
		release()
		for _, h := range []*taskpool.Handle{low, medium, high} {
			require.NoError(t, h.Wait(t.Context()))
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Equal(t, []string{"low", "high", "medium"}, order)
	})
}

// Members that come after the loan are lent to as well.
func TestMembersOfAGroupThatIsWaitedForAreLentTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		elsewhere := pooltest.New(t, taskpool.WithWorkers(2))
		g := p.Group(t.Context(), taskpool.Task{Priority: taskpool.Low})
		const members = 1000
		for range members {
			g.Go(pooltest.Nop)
		}
		waits := pooltest.Submit(t, elsewhere, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { return g.Wait() }})
		synctest.Wait()
		urgent := func() (n int) {
			for _, info := range p.Tasks(taskpool.StateQueued) {
				if info.Urgency == taskpool.High {
					n++
				}
			}
			return n
		}
		require.Equal(t, members, urgent())
		g.Go(pooltest.Nop)
		require.Equal(t, members+1, urgent())
		release()
		require.NoError(t, waits.Wait(t.Context()))
	})
}

func TestTaskStaysAsUrgentAsItsWaitersWhenItsPriorityIsLowered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		low := make(chan *taskpool.Handle, 1)
		var order []string
		log := func(s string) func(context.Context) error {
			return func(context.Context) error { order = append(order, s); return nil }
		}
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error {
			h := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: log("awaited")})
			pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Medium, Run: log("medium")})
			low <- h
			p.Pause()
			return h.Wait(ctx)
		}})
		h := <-low
		synctest.Wait()
		h.SetPriority(taskpool.Low)
		require.Equal(t, taskpool.High, h.Info().Urgency, "a High task waits for it")
		p.Resume()
		synctest.Wait()
		require.Equal(t, []string{"awaited", "medium"}, order)
	})
}

func TestSlotGoesToWhatItIsLentToAlongAChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var order []string
		log := func(s string) func(context.Context) error {
			return func(context.Context) error { order = append(order, s); return nil }
		}
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Medium, Run: func(ctx context.Context) error {
			_ = taskpool.Block(ctx, func() error { <-gate; return nil })
			return log("medium")(ctx)
		}})
		synctest.Wait()
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
			b, _ := taskpool.Current(ctx)
			c := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: log("awaited")})
			pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error { return b.Handle.Wait(ctx) }})
			close(gate)
			time.Sleep(time.Nanosecond) // it asks for its slot
			return c.Wait(ctx)
		}})
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []string{"awaited", "medium"}, order)
	})
}

// The invariants, which are checked with their tag, allow for it.
func TestLostSlotKeepsItsClassOnceItsTaskHasSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithReserved(1, taskpool.High), taskpool.WithMaxAbandoned(0), taskpool.WithHangGrace(time.Second))
		gate := make(chan struct{})
		low := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { <-gate; return nil }})
		high := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error { _ = low.Wait(ctx); return nil }})
		synctest.Wait()
		low.Cancel(nil)
		time.Sleep(2 * time.Second)
		require.NoError(t, high.Wait(t.Context()))
		close(gate)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

func TestNewPriorityPassesOnToAllThatGoroutinesOfATaskStillWaitFor(t *testing.T) {
	const goroutines = 5
	for first := range goroutines {
		synctest.Test(t, func(t *testing.T) {
			p, release := pooltest.Occupied(t)
			other := pooltest.New(t, taskpool.WithWorkers(1))
			var all [goroutines]*taskpool.Handle
			var stop [goroutines]context.CancelFunc
			for i := range all {
				all[i] = pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
			}
			lender := pooltest.Submit(t, other, taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error {
					done := make(chan error)
					for i, h := range all {
						var waits context.Context
						waits, stop[i] = context.WithCancel(ctx)
						go func() { done <- h.Wait(waits) }()
					}
					for range all {
						<-done
					}
					return nil
				})
			}})
			synctest.Wait()
			var still [goroutines]bool
			for i := range still {
				still[i] = true
			}
			// Their waits end one by one, each time with another priority for the others.
			for n := range goroutines {
				i := (first + 2*n) % goroutines
				stop[i]()
				still[i] = false
				synctest.Wait()
				if n == goroutines-1 {
					break
				}
				require.True(t, lender.SetPriority(taskpool.High-taskpool.Priority(n)))
				for i, h := range all {
					require.Equal(t, still[i], h.Info().Urgency == taskpool.High-taskpool.Priority(n), "%d after %d", i, n)
				}
			}
			require.NoError(t, lender.Wait(t.Context()))
			release()
		})
	}
}

func TestLoanToALargeGroupPassesOnToWhatItsMembersWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members = 1000
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var others [2]*taskpool.Pool
		var releases [2]func()
		for i := range others {
			others[i], releases[i] = pooltest.Occupied(t)
		}
		g := p.Group(t.Context(), taskpool.Task{Priority: taskpool.Low})
		var all []*taskpool.Handle
		for i := range members {
			h := pooltest.Submit(t, others[i%2], taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
			all = append(all, h)
			g.Go(h.Wait)
		}
		synctest.Wait()
		lender := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { return g.Wait() }})
		synctest.Wait()
		for _, h := range all {
			require.Equal(t, taskpool.High, h.Info().Urgency)
		}
		for _, release := range releases {
			release()
		}
		require.NoError(t, lender.Wait(t.Context()))
	})
}

func TestTaskWhoseWaitIsOverLendsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		waits, stop := context.WithCancel(t.Context())
		release := make(chan struct{})
		var child *taskpool.Handle
		lender := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error {
			pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error {
				<-release
				return nil
			}})
			child = pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
			return child.Wait(waits)
		}})
		synctest.Wait()
		stop()
		synctest.Wait() // it asks for a slot
		require.True(t, lender.SetPriority(taskpool.Medium))
		require.Equal(t, taskpool.Low, child.Info().Urgency)
		close(release)
		require.ErrorIs(t, lender.Wait(t.Context()), context.Canceled)
	})
}

func TestGroupThatWasIdleLendsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		other := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{Priority: taskpool.Low})
		g.SetLimit(1)
		lender := pooltest.Submit(t, other, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error {
			g.Go(func(context.Context) error {
				time.Sleep(time.Second)
				return nil
			})
			g.Go(pooltest.Nop) // waits at the limit
			return nil
		}})
		require.NoError(t, lender.Wait(t.Context()))
		synctest.Wait()
		p.Pause()
		g.Go(pooltest.Nop)
		members := p.Tasks(taskpool.StateQueued)
		require.Len(t, members, 1)
		require.Equal(t, taskpool.Low, members[0].Urgency)
		p.Resume()
		require.NoError(t, g.Wait())
	})
}

// A member for which there is no room has the group's urgency where it waits for that, too.
func TestMemberThatWaitsForRoomHasTheUrgencyOfItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(1, taskpool.OverflowWait))
		elsewhere := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{Priority: taskpool.Low})
		g.Go(pooltest.Nop) // the room
		waits := pooltest.Submit(t, elsewhere, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { return g.Wait() }})
		synctest.Wait()
		var order []string
		medium := pooltest.SubmitOrWait(t.Context(), p, taskpool.Task{Run: func(context.Context) error {
			order = append(order, "medium")
			return nil
		}})
		synctest.Wait()
		go g.Go(func(context.Context) error { order = append(order, "member"); return nil })
		synctest.Wait()
		release()
		require.NoError(t, waits.Wait(t.Context()))
		pooltest.RequireAccepted(t, medium)
		require.NoError(t, p.WaitIdle(t.Context()))
		synctest.Wait()
		require.Equal(t, []string{"member", "medium"}, order)
	})
}
