package overload_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/taskpooltest"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

const target = 20 * time.Millisecond

// A traffic is functions that arrive at random: work of 10 ms on average for some workers, at
// load times what these get done, a third of it in each of three priorities.
type traffic struct {
	workers int
	load    float64
	span    time.Duration
	bounded bool // the pool has OverflowShed, and some are refused

	mu   sync.Mutex
	ends map[taskpool.Priority][]waitEnd
	ran  time.Duration // by tasks
}

// A waitEnd is the end of a task's wait: it has started or was shed.
type waitEnd struct {
	at, wait time.Duration
	shed     bool
}

// record returns hooks that record the ends of waits.
func (r *traffic) record(began time.Time) taskpool.Option {
	r.ends = map[taskpool.Priority][]waitEnd{}
	add := func(e taskpool.TaskEvent, shed bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ends[e.Task.Priority] = append(r.ends[e.Task.Priority], waitEnd{time.Since(began), e.Wait, shed})
	}
	return taskpool.WithHooks(taskpool.Hooks{
		Started: func(e taskpool.TaskEvent) { add(e, false) },
		Shed:    func(e taskpool.TaskEvent) { add(e, true) },
	})
}

// run runs the traffic in a bubble, and waits until all of it has settled.
func (r *traffic) run(t *testing.T, opts ...taskpool.Option) {
	t.Helper()
	const mean = 10 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := pooltest.New(t, append([]taskpool.Option{taskpool.WithWorkers(r.workers), r.record(began)}, opts...)...)
		random := rand.New(rand.NewPCG(1, uint64(r.load*100)))
		gap := float64(mean) / float64(r.workers) / r.load
		for time.Since(began) < r.span {
			time.Sleep(time.Duration(random.ExpFloat64() * gap))
			run := time.Duration((0.5 + random.Float64()) * float64(mean))
			err := p.Go(taskpool.Priority(random.IntN(3)-1), func() {
				time.Sleep(run)
				if time.Since(began) < r.span {
					r.mu.Lock()
					defer r.mu.Unlock()
					r.ran += run
				}
			})
			if !r.bounded || err != taskpool.ErrFull {
				require.NoError(t, err)
			}
		}
		pooltest.Drain(t, p)
		s := p.Stats()
		pooltest.RequireConserved(t, s)
		if r.bounded {
			require.Greater(t, s.Shed, s.Expired)
		} else {
			require.Equal(t, s.Shed, s.Expired)
		}
		require.EqualValues(t, s.Shed, r.shed(taskpool.High)+r.shed(taskpool.Medium)+r.shed(taskpool.Low))
	})
}

// shed returns how many tasks were shed.
func (r *traffic) shed(pr taskpool.Priority) (n int) {
	for _, e := range r.ends[pr] {
		if e.shed {
			n++
		}
	}
	return n
}

// longest returns the longest wait of what was started.
func (r *traffic) longest(pr taskpool.Priority) (longest time.Duration) {
	for _, e := range r.ends[pr] {
		if !e.shed {
			longest = max(longest, e.wait)
		}
	}
	return longest
}

// requireRule requires that the tasks of a priority that were shed are those that the
// documentation says, all of them. It returns how many started while the priority was late.
func (r *traffic) requireRule(t *testing.T, pr taskpool.Priority) (startedLate int) {
	t.Helper()
	ends := slices.Clone(r.ends[pr]) // hooks may be called in another order
	slices.SortFunc(ends, func(a, b waitEnd) int { return cmp.Compare(a.at-a.wait, b.at-b.wait) })
	above := time.Duration(-1) // since when all that starts has waited too long
	for i, e := range ends {
		if i > 0 && e.at-e.wait > ends[i-1].at {
			above = -1 // it came when none waited
		}
		switch {
		case e.wait <= target:
			above = -1
		case above < 0:
			above = e.at
		}
		late := above >= 0 && e.at-above >= 20*target
		require.Equal(t, late && e.wait > 2*target, e.shed, "%v, the %d. of them: %+v", pr, i, e)
		if late && !e.shed {
			startedLate++
		}
	}
	return startedLate
}

func TestQueueDelayUnderOverload(t *testing.T) {
	for _, load := range []float64{0.8, 1.2, 2, 4} {
		t.Run(fmt.Sprint(load), func(t *testing.T) {
			r := traffic{workers: 8, load: load, span: 20 * time.Second}
			r.run(t, taskpool.WithQueueDelay(target))
			late := 0
			for pr := taskpool.High; pr <= taskpool.Low; pr++ {
				late += r.requireRule(t, pr)
				t.Logf("%v: %d started after at most %v, %d shed", pr, len(r.ends[pr])-r.shed(pr), r.longest(pr), r.shed(pr))
			}
			t.Logf("goodput %.3f", float64(r.ran)/float64(r.span)/float64(r.workers))
			require.GreaterOrEqual(t, float64(r.ran), 0.95*min(load, 1)*float64(r.span)*float64(r.workers))
			if load == 0.8 {
				require.Zero(t, r.shed(taskpool.High)+r.shed(taskpool.Medium)+r.shed(taskpool.Low))
			} else {
				require.Positive(t, r.shed(taskpool.Low))
				require.Positive(t, late, "so the rule was put to the test")
			}
			if load <= 2 {
				require.Zero(t, r.shed(taskpool.High))
				require.LessOrEqual(t, r.longest(taskpool.High), target)
			}
		})
	}
}

// seconds has p's only worker be busy with n functions, each for a second.
func seconds(t *testing.T, p *taskpool.Pool, pr taskpool.Priority, n int) {
	t.Helper()
	for range n {
		require.NoError(t, p.Go(pr, func() { time.Sleep(time.Second) }))
	}
}

// waitLate has p, whose only worker is busy, work on a queue of priority pr, with a target of a
// second, until that is late: 22 s from now. What is behind those 22 functions waits then.
func waitLate(t *testing.T, p *taskpool.Pool, pr taskpool.Priority) {
	t.Helper()
	time.Sleep(22*time.Second - 1)
	synctest.Wait()
	require.False(t, isLate(p, pr))
	time.Sleep(time.Nanosecond)
	synctest.Wait()
}

func isLate(p *taskpool.Pool, pr taskpool.Priority) bool {
	for _, w := range p.Stats().Waiting {
		if w.Priority == pr {
			return w.Late
		}
	}
	return false
}

// delayed runs f in a bubble with a pool of one worker and a queue delay of a second.
func delayed(t *testing.T, f func(t *testing.T, p *taskpool.Pool), opts ...taskpool.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, append([]taskpool.Option{taskpool.WithWorkers(1), taskpool.WithQueueDelay(time.Second)}, opts...)...)
		f(t, p)
		pooltest.Drain(t, p)
		pooltest.RequireConserved(t, p.Stats())
	})
}

func TestBurstThatIsWorkedOffInTimeIsNotShed(t *testing.T) {
	// From the third on, after 2 s, all have waited too long; of more than 22, 20 s later, all
	// that are left.
	for burst, shed := range map[int]int{22: 0, 23: 1, 1000: 978} {
		delayed(t, func(t *testing.T, p *taskpool.Pool) {
			seconds(t, p, taskpool.Medium, burst)
			require.NoError(t, p.WaitIdle(t.Context()))
			require.EqualValues(t, shed, p.Stats().Expired)
		})
	}
}

func TestOnlyWhatIsLateIsShed(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		seconds(t, p, taskpool.Medium, 23)
		old := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun})
		low := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, Priority: taskpool.Low})
		member := p.Group(t.Context(), taskpool.Task{})
		member.Go(pooltest.MustNotRun)
		var young *taskpool.Handle
		time.AfterFunc(20*time.Second, func() { young = pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}) })
		waitLate(t, p, taskpool.Medium)
		require.ErrorIs(t, old.Err(), taskpool.ErrExpired)
		require.NotErrorIs(t, old.Err(), context.DeadlineExceeded)
		require.EqualError(t, old.Err(), "taskpool: task waited too long in a queue that is late")
		require.ErrorIs(t, member.Wait(), taskpool.ErrExpired)
		require.Equal(t, taskpool.StateSucceeded, young.State(), "it has waited 2 s and no more")
		require.NoError(t, low.Wait(t.Context()), "its priority is not late, however long it has waited")
		require.EqualValues(t, 3, p.Stats().Expired)
		require.False(t, isLate(p, taskpool.Medium), "nothing waits")
	}, taskpool.WithFairShare(0))
}

func TestPriorityIsNoLongerLateOnceOneStartsInTime(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		seconds(t, p, taskpool.Medium, 23)
		time.AfterFunc(20*time.Second+time.Second/2, func() { seconds(t, p, taskpool.Medium, 3) })
		waitLate(t, p, taskpool.Medium)
		require.True(t, isLate(p, taskpool.Medium), "that has waited for 1.5 s, and started")
		time.Sleep(time.Second - 1)
		synctest.Wait()
		require.True(t, isLate(p, taskpool.Medium))
		require.EqualValues(t, 1, p.Stats().Expired)
		seconds(t, p, taskpool.Medium, 3) // so the two before have waited 2.5 s, and go
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.EqualValues(t, 3, p.Stats().Expired)
		require.False(t, isLate(p, taskpool.Medium), "as the next has not waited at all")
	})
}

func TestRetryStartsHoweverLateItIs(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		var ran []time.Duration
		began := time.Now()
		retried := pooltest.Submit(t, p, taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait},
			Run: func(context.Context) error {
				if ran = append(ran, time.Since(began)); len(ran) == 1 {
					seconds(t, p, taskpool.Medium, 23)
					return context.Canceled
				}
				return nil
			},
		})
		shed := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun, NotBefore: began.Add(time.Second)})
		require.NoError(t, retried.Wait(t.Context()))
		require.ErrorIs(t, shed.Wait(t.Context()), taskpool.ErrExpired)
		require.Equal(t, []time.Duration{0, 22 * time.Second}, ran)
		require.EqualValues(t, 2, p.Stats().Expired)
	})
}

func TestTaskThatIsLentToIsNotShed(t *testing.T) {
	for _, lends := range []bool{false, true} {
		delayed(t, func(t *testing.T, p *taskpool.Pool) {
			seconds(t, p, taskpool.Low, 21)
			h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, Priority: taskpool.Low})
			seconds(t, p, taskpool.Low, 2)
			pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(20*time.Second + 1), Run: func(ctx context.Context) error {
				seconds(t, p, taskpool.High, 3) // until Low is late
				if lends {
					return h.Wait(ctx)
				}
				return nil
			}})
			require.NoError(t, p.WaitIdle(t.Context()))
			require.Equal(t, lends, h.State() == taskpool.StateSucceeded)
			require.EqualValues(t, map[bool]int{true: 2, false: 3}[lends], p.Stats().Expired)
		}, taskpool.WithFairShare(0))
	}
}

func TestPauseIsNoReasonToShed(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		seconds(t, p, taskpool.Medium, 30)
		time.Sleep(21 * time.Second)
		p.Pause()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.False(t, isLate(p, taskpool.Medium))
		p.Resume()
		p.Resume() // does nothing
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Zero(t, p.Stats().Expired, "from its end they wait for 8 s")

		p.Pause()
		seconds(t, p, taskpool.Medium, 23)
		time.Sleep(time.Hour)
		p.Resume()
		waitLate(t, p, taskpool.Medium)
		require.EqualValues(t, 1, p.Stats().Expired, "as if they had come then")
	})
}

// The worker is busy when the pause begins and when it ends, and the queue stands before and after.
func TestLatenessBeginsAnewAfterAPause(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		seconds(t, p, taskpool.Medium, 5) // from the third on they have waited too long
		require.NoError(t, p.Go(taskpool.Medium, func() { time.Sleep(40 * time.Second) }))
		seconds(t, p, taskpool.Medium, 30)
		time.Sleep(6 * time.Second)
		p.Pause()
		time.Sleep(34 * time.Second)
		require.False(t, isLate(p, taskpool.Medium))
		p.Resume()
		time.Sleep(time.Second)
		require.False(t, isLate(p, taskpool.Medium))
		time.AfterFunc(20*time.Second, p.Resume) // ends no pause, and changes nothing
		require.NoError(t, p.WaitIdle(t.Context()))
		require.EqualValues(t, 10, p.Stats().Expired, "those that are left 20 s after the next start")
	})
}

func TestShutdownEndsAPauseForTheQueueDelayToo(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		p.Pause()
		seconds(t, p, taskpool.Medium, 23)
		time.Sleep(time.Hour)
		require.NoError(t, p.Shutdown(context.Background()))
		require.EqualValues(t, 1, p.Stats().Expired)
	})
}

func TestTimeForWhichALimitHoldsBackDoesNotCount(t *testing.T) {
	limit := taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
		if flow == "one" {
			return taskpool.FlowPolicy{Limit: 1}
		}
		return taskpool.FlowPolicy{}
	})
	second := func(context.Context) error { time.Sleep(time.Second); return nil }
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		for range 100 { // a worker is free, but not for them
			pooltest.Submit(t, p, taskpool.Task{Run: second, Flow: "one"})
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Zero(t, p.Stats().Expired)
	}, limit, taskpool.WithWorkers(2))

	// Two of other flows go before each of them. So it waits for 2 s and not more, and they, which
	// no limit holds back, ever longer.
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		var ones, others []*taskpool.Handle
		for range 20 {
			ones = append(ones, pooltest.Submit(t, p, taskpool.Task{Run: second, Flow: "one"}))
			for _, flow := range []string{"other", "third"} {
				others = append(others, pooltest.Submit(t, p, taskpool.Task{Run: second, Flow: flow}))
			}
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Zero(t, countShed(ones))
		require.Positive(t, countShed(others))
	}, limit)
}

func countShed(all []*taskpool.Handle) (n int) {
	for _, h := range all {
		if h.State() == taskpool.StateShed {
			n++
		}
	}
	return n
}

func TestTaskThatIsMovedIsJudgedByItsNewPriority(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		seconds(t, p, taskpool.Medium, 24)
		h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		time.Sleep(21 * time.Second)
		require.True(t, h.SetPriority(taskpool.Low))
		require.NoError(t, h.Wait(t.Context()), "Low is not late")
		require.EqualValues(t, 2, p.Stats().Expired)

		seconds(t, p, taskpool.Medium, 24)
		h = pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun, Priority: taskpool.Low})
		time.Sleep(21 * time.Second)
		require.True(t, h.SetPriority(taskpool.Medium))
		require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrExpired)
	}, taskpool.WithFairShare(0))
}

func TestQueueDelayGoesWithOtherOptions(t *testing.T) {
	for name, opt := range map[string]taskpool.Option{
		"aging":    taskpool.WithAging(time.Second),
		"reserved": taskpool.WithReserved(1, taskpool.High),
		"fifo":     taskpool.WithFairShare(1),
		"strict":   taskpool.WithFairShare(0),
		"shed":     taskpool.WithCapacity(20, taskpool.OverflowShed),
		"samples":  taskpool.WithHooks(taskpool.Hooks{GoEvery: 100, Finished: func(taskpool.TaskEvent) {}}),
	} {
		t.Run(name, func(t *testing.T) {
			r := traffic{workers: 4, load: 3, span: 5 * time.Second}
			if name == "shed" {
				r.bounded = true
			}
			r.run(t, taskpool.WithQueueDelay(target), opt)
			for pr := taskpool.High; pr <= taskpool.Low; pr++ {
				if !r.bounded {
					r.requireRule(t, pr)
				}
			}
			require.GreaterOrEqual(t, float64(r.ran), 0.95*float64(r.span)*float64(r.workers))
		})
	}
}

func TestQueueDelayThatIsNotPositiveIsRefused(t *testing.T) {
	for _, d := range []time.Duration{0, -time.Second} {
		_, err := taskpool.New(taskpool.WithQueueDelay(d))
		require.EqualError(t, err, fmt.Sprintf("taskpool: WithQueueDelay: target must be positive, got %v", d))
	}
	p := pooltest.New(t, taskpool.WithQueueDelay(1<<63-1))
	require.NoError(t, p.Go(taskpool.High, func() {}))
	pooltest.Drain(t, p)
}

// In a pause, taskpooltest.Step starts what it is asked to.
func TestStepStartsWhatIsLate(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		seconds(t, p, taskpool.Medium, 23)
		h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		time.Sleep(21*time.Second + 1)
		p.Pause()
		time.Sleep(time.Second) // now they are late, and one is left before h
		taskpooltest.Step(t, p)
		taskpooltest.Step(t, p)
		require.NoError(t, h.Err())
		require.True(t, h.State().Final())
		p.Resume()
	})
}

func TestCallOfDoThatIsLateGetsErrExpired(t *testing.T) {
	delayed(t, func(t *testing.T, p *taskpool.Pool) {
		seconds(t, p, taskpool.Medium, 23)
		errs := make(chan error, 100)
		for range cap(errs) { // more than are shed in one critical section
			go func() {
				errs <- p.Do(t.Context(), taskpool.Task{}, func(context.Context) error { panic("must not run") })
			}()
		}
		for range cap(errs) {
			require.ErrorIs(t, <-errs, taskpool.ErrExpired)
		}
		require.EqualValues(t, 101, p.Stats().Expired)

		require.NoError(t, p.Do(t.Context(), taskpool.Task{}, pooltest.Nop))
	})
}
