package order_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// A startLog is the order in which tasks were started.
type startLog struct {
	mu    sync.Mutex
	names []string
}

func (l *startLog) add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names = append(l.names, name)
}

func (l *startLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.names)
}

// task returns a task that logs its start.
func (l *startLog) task(name string, pr taskpool.Priority) taskpool.Task {
	return taskpool.Task{Name: name, Priority: pr, Run: func(context.Context) error {
		l.add(name)
		return nil
	}}
}

func later() time.Time { return time.Now().Add(time.Hour) }

func TestHighStartsBeforeQueuedLow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		var log startLog
		pooltest.Submit(t, p, log.task("low", taskpool.Low))
		pooltest.Submit(t, p, log.task("least", 1000))
		pooltest.Submit(t, p, log.task("medium", taskpool.Medium))
		pooltest.Submit(t, p, log.task("zero value", 0))
		pooltest.Submit(t, p, log.task("high", taskpool.High))
		pooltest.Submit(t, p, log.task("most", -1000))
		require.NoError(t, p.Go(taskpool.High, func() { log.add("high by Go") }))
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"most", "high", "high by Go", "medium", "zero value", "low", "least"}, log.all())
	})
}

func TestEqualPrioritiesStartInOrderOfArrival(t *testing.T) {
	for _, opts := range [][]taskpool.Option{
		{taskpool.WithFairShare(0)}, {taskpool.WithFairShare(3)}, {taskpool.WithAging(time.Second)},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, release := pooltest.Occupied(t, opts...)
			const tasks = 900 // several segments of each lane
			rng := rand.New(rand.NewPCG(1, 2))
			started := make(map[taskpool.Priority][]int)
			want := make(map[taskpool.Priority][]int)
			for i := range tasks {
				pr := taskpool.Priority(rng.IntN(3) - 1)
				want[pr] = append(want[pr], i)
				f := func() { started[pr] = append(started[pr], i) } // there is one worker
				if rng.IntN(2) == 0 {
					require.NoError(t, p.Go(pr, f))
				} else {
					pooltest.Submit(t, p, taskpool.Task{Priority: pr, Run: func(context.Context) error { f(); return nil }})
				}
				if rng.IntN(8) == 0 {
					time.Sleep(100 * time.Millisecond)
				}
			}
			release()
			pooltest.Drain(t, p)
			require.Equal(t, want, started)
		})
	}
}

func TestOrderIsDecidedWhenAWorkerIsFree(t *testing.T) {
	for _, workers := range []int{1, 2, 8} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithFairShare(0))
				var releases []func()
				for range workers {
					releases = append(releases, pooltest.Occupy(t, p))
				}
				var log startLog
				gates := make(chan struct{})
				open := sync.OnceFunc(func() { close(gates) })
				t.Cleanup(open)
				gated := func(name string, pr taskpool.Priority) taskpool.Task {
					return taskpool.Task{Priority: pr, Run: func(context.Context) error {
						log.add(name)
						<-gates
						return nil
					}}
				}
				for range 3 * workers {
					pooltest.Submit(t, p, gated("low", taskpool.Low))
				}
				synctest.Wait() // now a dispatcher would have taken one in advance
				for i := range workers {
					name := fmt.Sprint("high", i)
					pooltest.Submit(t, p, gated(name, taskpool.High))
					releases[i]()
					synctest.Wait()
					require.Equal(t, name, log.all()[i], "the last to come must be the next to start")
				}
				open()
				pooltest.Drain(t, p)
			})
		})
	}
}

func TestSetPriorityMovesToTheBackOfTheNewLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		var log startLog
		raised := pooltest.Submit(t, p, log.task("raised", taskpool.Low))
		pooltest.Submit(t, p, log.task("low", taskpool.Low))
		again := pooltest.Submit(t, p, log.task("again", taskpool.High))
		lowered := pooltest.Submit(t, p, log.task("lowered", taskpool.High))
		pooltest.Submit(t, p, log.task("high", taskpool.High))
		require.True(t, raised.SetPriority(taskpool.High))
		require.True(t, again.SetPriority(taskpool.High), "to the back, though the lane is the same")
		require.True(t, lowered.SetPriority(taskpool.Low))
		pooltest.Submit(t, p, log.task("last high", taskpool.High))
		pooltest.Submit(t, p, log.task("last low", taskpool.Low))
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"high", "raised", "again", "last high", "low", "lowered", "last low"}, log.all())
	})
}

// To the fair share and to aging a task that was moved has just arrived.
func TestSetPriorityMakesATaskTheYoungest(t *testing.T) {
	for _, opt := range []taskpool.Option{taskpool.WithFairShare(1), taskpool.WithAging(time.Nanosecond)} {
		synctest.Test(t, func(t *testing.T) {
			p, release := pooltest.Occupied(t, opt)
			var log startLog
			moved := pooltest.Submit(t, p, log.task("moved", taskpool.Low))
			time.Sleep(time.Second)
			pooltest.Submit(t, p, log.task("other", taskpool.Medium))
			time.Sleep(time.Second)
			require.True(t, moved.SetPriority(taskpool.High))
			release()
			pooltest.Drain(t, p)
			require.Equal(t, []string{"other", "moved"}, log.all())
		})
	}
}

func TestSetPriorityWorksOnDelayedTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		var log startLog
		due := time.Now().Add(time.Second)
		notBefore := log.task("delayed", taskpool.Low)
		notBefore.NotBefore = due
		delayed := pooltest.Submit(t, p, notBefore)
		require.Equal(t, taskpool.StateDelayed, delayed.State())
		require.True(t, delayed.SetPriority(taskpool.High))
		require.Equal(t, taskpool.StateDelayed, delayed.State(), "a new priority does not make it due")
		pooltest.Submit(t, p, log.task("medium", taskpool.Medium))
		time.Sleep(2 * time.Second)
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"delayed", "medium"}, log.all())
	})
}

func TestSetPriorityIsRefusedOnceATaskHasSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate := make(chan struct{})
		fails := pooltest.Submit(t, p, taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Second }},
			Run:   func(context.Context) error { <-gate; return errors.New("failed") },
		})
		synctest.Wait()
		require.Equal(t, taskpool.StateRunning, fails.State())
		require.True(t, fails.SetPriority(taskpool.High), "it runs")
		require.Equal(t, taskpool.High, fails.Info().Priority)
		close(gate)
		synctest.Wait()
		require.Equal(t, taskpool.StateDelayed, fails.State())
		require.True(t, fails.SetPriority(taskpool.Low), "it waits for its retry")
		pooltest.Drain(t, p)
		require.Equal(t, taskpool.StateFailed, fails.State())
		require.False(t, fails.SetPriority(taskpool.High))

		release := pooltest.Occupy(t, p)
		canceled := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }})
		require.True(t, canceled.Cancel(nil))
		require.False(t, canceled.SetPriority(taskpool.High))
		release()
	})
}

func TestCancelFreesRoomAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(3, taskpool.OverflowReject))
		var log startLog
		delayed := log.task("delayed", taskpool.Low)
		delayed.NotBefore = later()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		withContext, err := p.Submit(ctx, log.task("context", taskpool.Low))
		require.NoError(t, err)
		for name, take := range map[string]func(){
			"queued":  func() { pooltest.Submit(t, p, log.task("queued", taskpool.High)).Cancel(nil) },
			"delayed": func() { pooltest.Submit(t, p, delayed).Cancel(nil) },
		} {
			for range 10 { // more often than there is room
				take()
			}
			require.Equal(t, 1, p.Stats().Queued+p.Stats().Delayed, name)
		}
		pooltest.Submit(t, p, log.task("a", taskpool.Low))
		pooltest.Submit(t, p, log.task("b", taskpool.Low))
		_, err = p.Submit(context.Background(), log.task("refused", taskpool.Low))
		require.ErrorIs(t, err, taskpool.ErrFull)
		cancel()
		synctest.Wait()
		require.Equal(t, taskpool.StateCanceled, withContext.State())
		pooltest.Submit(t, p, log.task("c", taskpool.Low))
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"a", "b", "c"}, log.all(), "what was canceled never runs")
	})
}

// urgentStream keeps one more urgent task waiting at every moment until it has
// made the given number of them.
func urgentStream(t testing.TB, p *taskpool.Pool, log *startLog, tasks int) {
	t.Helper()
	var next func()
	next = func() {
		if log.add("high"); tasks > 0 {
			tasks-- // on the only worker
			_ = p.Go(taskpool.High, next)
		}
	}
	tasks -= 2
	require.NoError(t, p.Go(taskpool.High, next))
	require.NoError(t, p.Go(taskpool.High, next))
}

func TestATaskStartsWithinItsFairShare(t *testing.T) {
	for _, n := range []int{1, 2, 3, 16} {
		for _, older := range []int{0, 1, 2, 7, 50} {
			t.Run(fmt.Sprintf("n=%d,m=%d", n, older), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, release := pooltest.Occupied(t, taskpool.WithFairShare(n))
					var log startLog
					for i := range older {
						pooltest.Submit(t, p, log.task("older", taskpool.Priority(i%5)))
					}
					pooltest.Submit(t, p, log.task("least urgent", 1000))
					bound := n * (older + 1)
					urgentStream(t, p, &log, bound+100)
					release()
					pooltest.Drain(t, p)
					require.LessOrEqual(t, slices.Index(log.all(), "least urgent")+1, bound)
				})
			})
		}
	}
}

func TestUrgentWorkLosesAtMostOneDispatchInN(t *testing.T) {
	for _, test := range []struct {
		n    int
		opts []taskpool.Option
	}{
		{2, []taskpool.Option{taskpool.WithFairShare(2)}},
		{3, []taskpool.Option{taskpool.WithFairShare(3)}},
		{16, nil}, // the default
	} {
		t.Run(fmt.Sprintf("n=%d", test.n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, release := pooltest.Occupied(t, test.opts...)
				var log startLog
				const urgent = 400
				for i := range 2 * urgent {
					pooltest.Submit(t, p, log.task("low", taskpool.Priority(1+i%3)))
				}
				urgentStream(t, p, &log, urgent)
				release()
				pooltest.Drain(t, p)
				names := log.all()
				last := len(names) - 1
				for ; names[last] != "high"; last-- {
				}
				lost, before := 0, make([]int, 0, last+1)
				for i, name := range names[:last+1] {
					if name != "high" {
						lost++
					}
					before = append(before, lost)
					if i >= test.n {
						require.LessOrEqual(t, lost-before[i-test.n], 1, "dispatches %d to %d", i-test.n+1, i)
					}
				}
				require.Equal(t, last/test.n, lost, "of %d dispatches one in %d goes to the oldest", last, test.n)
			})
		})
	}
}

func TestStrictOrderStarvesLessUrgentWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithFairShare(0))
		var log startLog
		pooltest.Submit(t, p, log.task("low", taskpool.Low))
		urgentStream(t, p, &log, 1000)
		release()
		pooltest.Drain(t, p)
		require.Equal(t, 1000, slices.Index(log.all(), "low"))
	})
}

func TestFairShareOfOneIsFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithFairShare(1))
		var log startLog
		var want []string
		rng := rand.New(rand.NewPCG(3, 4))
		for i := range 300 {
			want = append(want, fmt.Sprint(i))
			pooltest.Submit(t, p, log.task(want[i], taskpool.Priority(rng.IntN(100))))
		}
		release()
		pooltest.Drain(t, p)
		require.Equal(t, want, log.all())
	})
}

func TestAgingFavoursTheOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithAging(time.Second))
		var log startLog
		pooltest.Submit(t, p, log.task("old low", taskpool.Low))
		time.Sleep(10 * time.Second)
		pooltest.Submit(t, p, log.task("young low", taskpool.Low))
		pooltest.Submit(t, p, log.task("young high", taskpool.High))
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"old low", "young high", "young low"}, log.all())
	})
}

// A task of priority p is never passed by one of priority q that arrives
// (p-q)·step or more after it, and is by one that arrives sooner.
func TestAgingIsWorthOnePriorityAStep(t *testing.T) {
	const step = 250 * time.Millisecond
	for _, test := range []struct{ p, q taskpool.Priority }{
		{taskpool.Low, taskpool.High}, {taskpool.Low, taskpool.Medium}, {taskpool.Medium, taskpool.High},
		{40, -60}, {-5, -7}, {1000, 999},
	} {
		bound := time.Duration(test.p-test.q) * step
		for _, late := range []time.Duration{-bound, -step, -1, 0, 1, step} {
			t.Run(fmt.Sprintf("p=%d,q=%d,%v after the bound", test.p, test.q, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, release := pooltest.Occupied(t, taskpool.WithAging(step))
					var log startLog
					time.Sleep(time.Minute)
					pooltest.Submit(t, p, log.task("p", test.p))
					time.Sleep(bound + late)
					pooltest.Submit(t, p, log.task("q", test.q))
					time.Sleep(time.Hour) // both age alike
					release()
					pooltest.Drain(t, p)
					want := []string{"p", "q"}
					if late < 0 {
						want = []string{"q", "p"}
					}
					require.Equal(t, want, log.all())
				})
			})
		}
	}
}

func TestAgingKeepsItsPromiseAmongMany(t *testing.T) {
	const step = time.Second
	type arrival struct {
		pr taskpool.Priority
		at time.Duration
	}
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			p, release := pooltest.Occupied(t, taskpool.WithAging(step))
			rng := rand.New(rand.NewPCG(seed, 9))
			var order []arrival // there is one worker
			begin := time.Now()
			for range 200 {
				a := arrival{taskpool.Priority(rng.IntN(20) - 10), time.Since(begin)}
				require.NoError(t, p.Go(a.pr, func() { order = append(order, a) }))
				time.Sleep(time.Duration(rng.IntN(4)) * step / 4) // so that there are ties
			}
			release()
			pooltest.Drain(t, p)
			require.Len(t, order, 200)
			for i, first := range order {
				for _, second := range order[i+1:] {
					head := time.Duration(second.pr-first.pr) * step
					late := first.at - second.at
					if late > head || late == head && late > 0 { // of equal keys the older goes first
						t.Fatalf("%v passed %v", first, second)
					}
				}
			}
		})
	}
}

func TestAgingTakesExtremes(t *testing.T) {
	for _, step := range []time.Duration{1, time.Hour, math.MaxInt64} {
		synctest.Test(t, func(t *testing.T) {
			p, release := pooltest.Occupied(t, taskpool.WithAging(step))
			var log startLog
			pooltest.Submit(t, p, log.task("least", math.MaxInt))
			pooltest.Submit(t, p, log.task("medium", taskpool.Medium))
			pooltest.Submit(t, p, log.task("most", math.MinInt))
			release()
			pooltest.Drain(t, p)
			require.Equal(t, []string{"most", "medium", "least"}, log.all())
		})
	}
}

func TestRetriedTaskKeepsItsPriorityAndJoinsTheBack(t *testing.T) {
	for _, backoff := range []time.Duration{0, time.Second} {
		t.Run(backoff.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, release := pooltest.Occupied(t)
				var log startLog
				task := taskpool.Task{Priority: taskpool.High,
					Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return backoff }}}
				var releaseAgain func()
				occupied := make(chan struct{})
				task.Run = func(ctx context.Context) error {
					info, _ := taskpool.Current(ctx)
					log.add(fmt.Sprint("attempt ", info.Attempt))
					if info.Attempt > 1 {
						return nil
					}
					// The next task on the only worker holds it while the retry
					// becomes due and others come.
					gate := make(chan struct{})
					releaseAgain = sync.OnceFunc(func() { close(gate) })
					_ = p.Go(-100, func() { close(occupied); <-gate })
					return errors.New("failed")
				}
				pooltest.Submit(t, p, task)
				pooltest.Submit(t, p, log.task("low", taskpool.Low))
				pooltest.Submit(t, p, log.task("high before", taskpool.High))
				release()
				<-occupied
				t.Cleanup(releaseAgain)
				pooltest.Submit(t, p, log.task("high meanwhile", taskpool.High))
				time.Sleep(2 * time.Second)
				pooltest.Submit(t, p, log.task("high after", taskpool.High))
				releaseAgain()
				pooltest.Drain(t, p)
				want := []string{"attempt 1", "high before", "high meanwhile", "attempt 2", "high after", "low"}
				if backoff == 0 { // due when "high meanwhile" had not come
					want = []string{"attempt 1", "high before", "attempt 2", "high meanwhile", "high after", "low"}
				}
				require.Equal(t, want, log.all())
			})
		})
	}
}

func TestDelayedTaskJoinsTheBackOfItsLaneWhenDue(t *testing.T) {
	for _, opts := range [][]taskpool.Option{nil, {taskpool.WithAging(time.Hour)}} {
		synctest.Test(t, func(t *testing.T) {
			p, release := pooltest.Occupied(t, opts...)
			var log startLog
			now := time.Now()
			for _, seconds := range []int{3, 1, 2, 3} {
				task := log.task(fmt.Sprint("due after ", seconds), taskpool.High)
				task.NotBefore = now.Add(time.Duration(seconds) * time.Second)
				pooltest.Submit(t, p, task)
			}
			past := log.task("past", taskpool.High)
			past.NotBefore = now
			pooltest.Submit(t, p, past)
			pooltest.Submit(t, p, log.task("low", taskpool.Low))
			pooltest.Submit(t, p, log.task("before", taskpool.High))
			time.Sleep(2500 * time.Millisecond)
			pooltest.Submit(t, p, log.task("between", taskpool.High))
			time.Sleep(2500 * time.Millisecond)
			pooltest.Submit(t, p, log.task("after", taskpool.High))
			release()
			pooltest.Drain(t, p)
			require.Equal(t, []string{"past", "before", "due after 1", "due after 2", "between",
				"due after 3", "due after 3", "after", "low"}, log.all())
		})
	}
}

// admissions runs submitters against a queue without room, makes some and returns their
// names in the order in which they were let in.
func admissions(t *testing.T, capacity int, opts []taskpool.Option, tasks []taskpool.Task) []string {
	t.Helper()
	opts = append(opts, taskpool.WithCapacity(capacity, taskpool.OverflowWait))
	p, release := pooltest.Occupied(t, opts...)
	for range capacity {
		pooltest.Submit(t, p, taskpool.Task{Priority: -1000, Run: func(context.Context) error { return nil }})
	}
	byID := make(map[uint64]string)
	var calls []*pooltest.Submission
	for _, task := range tasks {
		task.Run = func(ctx context.Context) error {
			info, _ := taskpool.Current(ctx)
			byID[info.ID] = info.Name // there is one worker
			return nil
		}
		calls = append(calls, pooltest.SubmitOrWait(context.Background(), p, task))
		time.Sleep(time.Second)
	}
	for _, c := range calls {
		pooltest.RequireWaiting(t, c)
	}
	require.Equal(t, len(tasks), p.Stats().SubmittersWaiting)
	release()
	for _, c := range calls {
		pooltest.RequireAccepted(t, c)
	}
	pooltest.Drain(t, p)
	require.Zero(t, p.Stats().SubmittersWaiting)
	var names []string
	for id := range p.Stats().Submitted + 1 {
		if name, ok := byID[id]; ok {
			names = append(names, name)
		}
	}
	require.Len(t, names, len(tasks))
	return names
}

func TestWaitingSubmittersAreLetInMostUrgentFirst(t *testing.T) {
	tasks := []taskpool.Task{
		{Name: "low 1", Priority: taskpool.Low}, {Name: "high 1", Priority: taskpool.High},
		{Name: "low 2", Priority: taskpool.Low}, {Name: "medium", Priority: taskpool.Medium},
		{Name: "high 2", Priority: taskpool.High}, {Name: "high 3", Priority: taskpool.High},
	}
	strict := []string{"high 1", "high 2", "high 3", "medium", "low 1", "low 2"}
	for _, capacity := range []int{0, 1, 5} {
		for _, test := range []struct {
			name string
			opts []taskpool.Option
			want []string
		}{
			{"strict", []taskpool.Option{taskpool.WithFairShare(0)}, strict},
			{"default", nil, strict},
			{"first in, first out", []taskpool.Option{taskpool.WithFairShare(1)},
				[]string{"low 1", "high 1", "low 2", "medium", "high 2", "high 3"}},
			{"one in three", []taskpool.Option{taskpool.WithFairShare(3)},
				[]string{"high 1", "high 2", "low 1", "high 3", "medium", "low 2"}},
			{"long steps", []taskpool.Option{taskpool.WithAging(time.Hour)}, strict},
			{"short steps", []taskpool.Option{taskpool.WithAging(time.Second)}, // keys 1, 0, 3, 3, 3, 4
				[]string{"high 1", "low 1", "low 2", "medium", "high 2", "high 3"}},
		} {
			t.Run(fmt.Sprintf("capacity %d, %s", capacity, test.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					require.Equal(t, test.want, admissions(t, capacity, test.opts, tasks))
				})
			})
		}
	}
}

func TestWaitingSubmitEndsWithItsContext(t *testing.T) {
	cause := errors.New("the caller has left")
	for _, test := range []struct {
		name string
		ctx  func() (context.Context, func())
		want []error
	}{
		{"canceled", func() (context.Context, func()) {
			ctx, cancel := context.WithCancel(context.Background())
			return ctx, cancel
		}, []error{context.Canceled}},
		{"with a cause", func() (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(context.Background())
			return ctx, func() { cancel(cause) }
		}, []error{context.Canceled, cause}},
		{"deadline", func() (context.Context, func()) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			return ctx, func() { time.Sleep(time.Second); synctest.Wait(); cancel() }
		}, []error{context.DeadlineExceeded}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, release := pooltest.Occupied(t, taskpool.WithCapacity(1, taskpool.OverflowWait))
				var log startLog
				pooltest.Submit(t, p, log.task("accepted", 0))
				before := p.Stats()
				ctx, end := test.ctx()
				call := pooltest.SubmitOrWait(ctx, p, log.task("left", 0))
				pooltest.RequireWaiting(t, call)
				require.Equal(t, 1, p.Stats().SubmittersWaiting)
				end()
				synctest.Wait()
				require.True(t, call.Returned)
				require.Nil(t, call.Handle)
				for _, want := range test.want {
					require.ErrorIs(t, call.Err, want)
				}
				require.NotErrorIs(t, call.Err, taskpool.ErrFull)
				want := before
				want.Refused, want.RefusedContext = want.Refused+1, want.RefusedContext+1
				want.ByPriority[0] = taskpool.PriorityTotals{RefusedContext: 1}
				after := p.Stats()
				want.InProgress, want.Longest = after.InProgress, after.Longest // time may have passed
				want.Waiting[0].OldestWait = after.Waiting[0].OldestWait
				require.Equal(t, want, after, "nothing else is left behind")
				release()
				pooltest.Drain(t, p)
				require.Equal(t, []string{"accepted"}, log.all())
			})
		})
	}
}

func TestShutdownTurnsWaitingSubmittersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(1, taskpool.OverflowWait))
		var log startLog
		pooltest.Submit(t, p, log.task("accepted", 0))
		var calls []*pooltest.Submission
		for i := range 5 {
			calls = append(calls, pooltest.SubmitOrWait(context.Background(), p, log.task("late", taskpool.Priority(i%2))))
		}
		var shutdownErr error
		shut := false
		go func() { shutdownErr, shut = p.Shutdown(context.Background()), true }()
		synctest.Wait()
		require.False(t, shut)
		for _, c := range calls {
			require.True(t, c.Returned)
			require.Nil(t, c.Handle)
			require.ErrorIs(t, c.Err, taskpool.ErrClosed)
		}
		release()
		synctest.Wait()
		require.True(t, shut)
		require.NoError(t, shutdownErr)
		require.Equal(t, []string{"accepted"}, log.all())
	})
}

func TestGrowingThePoolLetsWaitersIn(t *testing.T) {
	for _, capacity := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			p, release := pooltest.Occupied(t, taskpool.WithCapacity(capacity, taskpool.OverflowWait))
			gate := make(chan struct{})
			open := sync.OnceFunc(func() { close(gate) })
			t.Cleanup(open)
			wait := taskpool.Task{Run: func(context.Context) error { <-gate; return nil }}
			for range capacity {
				pooltest.Submit(t, p, wait)
			}
			var calls []*pooltest.Submission
			for range 3 {
				calls = append(calls, pooltest.SubmitOrWait(context.Background(), p, wait))
			}
			require.NoError(t, p.Resize(3))
			pooltest.RequireAccepted(t, calls[0])
			pooltest.RequireAccepted(t, calls[1])
			pooltest.RequireWaiting(t, calls[2])
			require.Equal(t, 3, p.Stats().Running)
			open()
			release()
			pooltest.RequireAccepted(t, calls[2])
			pooltest.Drain(t, p)
		})
	}
}

func TestCancelOfAWaitingTaskLetsASubmitterIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(2, taskpool.OverflowWait))
		var log startLog
		queued := pooltest.Submit(t, p, log.task("queued", 0))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		_, err := p.Submit(ctx, log.task("context", 0))
		require.NoError(t, err)
		var calls []*pooltest.Submission
		for i := range 3 {
			calls = append(calls, pooltest.SubmitOrWait(context.Background(), p, log.task(fmt.Sprint(i), 0)))
		}
		for i, leave := range []func(){func() { queued.Cancel(nil) }, cancel} {
			pooltest.RequireWaiting(t, calls[i])
			leave()
			pooltest.RequireAccepted(t, calls[i])
			require.Equal(t, 2, p.Stats().Queued)
		}
		pooltest.RequireWaiting(t, calls[2])
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"0", "1", "2"}, log.all())
	})
}

func TestWaitingSubmittersNeverExceedTheCapacity(t *testing.T) {
	for _, capacity := range []int{0, 1, 4} {
		for _, workers := range []int{1, 3} {
			t.Run(fmt.Sprintf("capacity %d, %d workers", capacity, workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithCapacity(capacity, taskpool.OverflowWait))
					step := make(chan struct{})
					end := sync.OnceFunc(func() { close(step) })
					t.Cleanup(end)
					task := taskpool.Task{Run: func(context.Context) error { <-step; return nil }}
					for range workers + capacity {
						pooltest.Submit(t, p, task)
					}
					const waiters = 8
					for i := range waiters {
						pooltest.RequireWaiting(t, pooltest.SubmitOrWait(context.Background(), p, task))
						require.Equal(t, i+1, p.Stats().SubmittersWaiting)
					}
					for i := range waiters {
						step <- struct{}{} // one task ends
						synctest.Wait()
						s := p.Stats()
						require.Equal(t, workers, s.Running)
						require.Equal(t, capacity, s.Queued, "after %d tasks", i+1)
						require.Equal(t, waiters-1-i, s.SubmittersWaiting, "one slot became free, so one submitter gets in")
					}
					end()
					pooltest.Drain(t, p)
				})
			})
		}
	}
}

// The first in line leaves in the very moment in which there is room.
func TestSubmitterWhoLeavesTakesNoRoomFromTheNext(t *testing.T) {
	for i, roomFirst := range []bool{true, false, true, false, true, false} {
		t.Run(fmt.Sprintf("%d,%v", i, roomFirst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, release := pooltest.Occupied(t, taskpool.WithCapacity(1, taskpool.OverflowWait))
				var log startLog
				queued := pooltest.Submit(t, p, log.task("queued", 0))
				ctx, cancel := context.WithCancel(context.Background())
				first := pooltest.SubmitOrWait(ctx, p, log.task("first", taskpool.High))
				next := pooltest.SubmitOrWait(context.Background(), p, log.task("next", taskpool.Low))
				if roomFirst {
					queued.Cancel(nil)
					cancel()
				} else {
					cancel()
					queued.Cancel(nil)
				}
				pooltest.RequireAccepted(t, next)
				require.True(t, first.Returned)
				if first.Err == nil { // it got in before it left
					require.Equal(t, taskpool.StateCanceled, first.Handle.State())
				} else {
					require.ErrorIs(t, first.Err, context.Canceled)
				}
				require.Zero(t, p.Stats().SubmittersWaiting)
				release()
				pooltest.Drain(t, p)
				require.Equal(t, []string{"next"}, log.all())
			})
		})
	}
}

// A twoStepContext has its AfterFunc called at its end, and its Done channel
// closed when the test says so.
type twoStepContext struct {
	context.Context
	mu    sync.Mutex
	after func()
	err   error
	done  chan struct{}
}

func (c *twoStepContext) Done() <-chan struct{} { return c.done }

func (c *twoStepContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// AfterFunc is what context.AfterFunc calls if there is one.
func (c *twoStepContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after = f
	return func() bool { return false }
}

func (c *twoStepContext) end() {
	c.mu.Lock()
	c.err = context.Canceled
	after := c.after
	c.mu.Unlock()
	after()
	synctest.Wait()
}

// The pool knows that the first in line has gone before its Submit does.
func TestSubmitterOnItsWayOutIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(1, taskpool.OverflowWait))
		var log startLog
		queued := pooltest.Submit(t, p, log.task("queued", 0))
		ctx := &twoStepContext{Context: context.Background(), done: make(chan struct{})}
		leave := sync.OnceFunc(func() { close(ctx.done) })
		t.Cleanup(leave)
		first := pooltest.SubmitOrWait(ctx, p, log.task("first", taskpool.High))
		next := pooltest.SubmitOrWait(context.Background(), p, log.task("next", taskpool.Low))
		ctx.end()
		pooltest.RequireWaiting(t, first)
		queued.Cancel(nil)
		pooltest.RequireAccepted(t, next)
		leave()
		synctest.Wait()
		require.True(t, first.Returned)
		require.Nil(t, first.Handle)
		require.ErrorIs(t, first.Err, context.Canceled)
		require.Equal(t, uint64(1), p.Stats().Refused)
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"next"}, log.all())
	})
}

func TestCapacityZeroAcceptsOnlyWhatCanStart(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		t.Run(overflow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(0, overflow))
				first, second := pooltest.Occupy(t, p), pooltest.Occupy(t, p)
				require.ErrorIs(t, p.TryGo(taskpool.High, func() {}), taskpool.ErrFull)
				var log startLog
				call := pooltest.SubmitOrWait(context.Background(), p, log.task("one too many", taskpool.High))
				if overflow == taskpool.OverflowWait {
					pooltest.RequireWaiting(t, call)
				} else {
					require.True(t, call.Returned)
					require.ErrorIs(t, call.Err, taskpool.ErrFull)
				}
				require.Zero(t, p.Stats().Queued)
				first()
				synctest.Wait()
				if overflow == taskpool.OverflowWait {
					pooltest.RequireAccepted(t, call)
					require.Equal(t, taskpool.StateSucceeded, call.Handle.State())
				}
				pooltest.Submit(t, p, log.task("in time", taskpool.Low))
				second()
				pooltest.Drain(t, p)
				require.Contains(t, log.all(), "in time")
			})
		})
	}
}

func TestFullQueueRejects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(2, taskpool.OverflowReject))
		var log startLog
		pooltest.Submit(t, p, log.task("a", taskpool.Low))
		require.NoError(t, p.Go(taskpool.Low, func() { log.add("b") }))
		before := p.Stats()
		for _, pr := range []taskpool.Priority{taskpool.High, taskpool.Low} {
			h, err := p.Submit(context.Background(), log.task("refused", pr))
			require.ErrorIs(t, err, taskpool.ErrFull)
			require.NotErrorIs(t, err, taskpool.ErrShed)
			require.Nil(t, h)
			require.ErrorIs(t, p.TryGo(pr, func() { log.add("refused") }), taskpool.ErrFull)
		}
		want := before
		want.Refused, want.RefusedFull = want.Refused+4, want.RefusedFull+4
		want.ByPriority[taskpool.High] = taskpool.PriorityTotals{Attempts: 1, RefusedFull: 2}
		want.ByPriority[taskpool.Low] = taskpool.PriorityTotals{RefusedFull: 2}
		require.Equal(t, want, p.Stats(), "a task refused was never submitted")
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"a", "b"}, log.all())
	})
}

func TestFullQueueShedsTheNewestOfTheLeastUrgent(t *testing.T) {
	require.ErrorIs(t, taskpool.ErrShed, taskpool.ErrFull)
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(4, taskpool.OverflowShed))
		var log startLog
		medium := pooltest.Submit(t, p, log.task("medium", taskpool.Medium))
		oldLow := pooltest.Submit(t, p, log.task("old low", taskpool.Low))
		newLow := pooltest.Submit(t, p, log.task("new low", taskpool.Low))
		require.NoError(t, p.Go(taskpool.Low, func() { log.add("low by Go") }))

		for _, pr := range []taskpool.Priority{taskpool.Low, taskpool.Low + 1} {
			_, err := p.Submit(context.Background(), log.task("refused", pr))
			require.ErrorIs(t, err, taskpool.ErrFull, "no more urgent than what waits")
			require.ErrorIs(t, p.TryGo(pr, func() { log.add("refused") }), taskpool.ErrFull)
		}
		require.Zero(t, p.Stats().Shed)

		pooltest.Submit(t, p, log.task("high 1", taskpool.High))
		require.Equal(t, uint64(1), p.Stats().Shed)
		require.Equal(t, taskpool.StateQueued, newLow.State(), "the one by Go was newer")
		require.NoError(t, p.Go(taskpool.High, func() { log.add("high 2") }))
		require.Equal(t, taskpool.StateShed, newLow.State())
		require.ErrorIs(t, newLow.Err(), taskpool.ErrShed)
		require.ErrorIs(t, newLow.Wait(context.Background()), taskpool.ErrFull)
		require.Equal(t, taskpool.StateQueued, oldLow.State())
		pooltest.Submit(t, p, log.task("medium 2", taskpool.Medium))
		require.Equal(t, taskpool.StateShed, oldLow.State())
		_, err := p.Submit(context.Background(), log.task("refused", taskpool.Medium))
		require.ErrorIs(t, err, taskpool.ErrFull)
		require.Equal(t, taskpool.StateQueued, medium.State())

		s := p.Stats()
		require.Equal(t, uint64(3), s.Shed)
		require.Equal(t, uint64(5), s.Refused)
		require.Equal(t, 4, s.Queued)
		pooltest.RequireConserved(t, s)
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"high 1", "high 2", "medium", "medium 2"}, log.all())
	})
}

func TestSheddingFollowsSetPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(2, taskpool.OverflowShed))
		var log startLog
		raised := pooltest.Submit(t, p, log.task("raised", taskpool.Low))
		lowered := pooltest.Submit(t, p, log.task("lowered", taskpool.Medium))
		require.True(t, raised.SetPriority(taskpool.High))
		require.True(t, lowered.SetPriority(taskpool.Low))
		pooltest.Submit(t, p, log.task("medium", taskpool.Medium))
		require.Equal(t, taskpool.StateShed, lowered.State())
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"raised", "medium"}, log.all())
	})
}

func TestStartedTaskIsNeverShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(3, taskpool.OverflowShed))
		var log startLog
		fail := make(chan struct{})
		started := pooltest.Submit(t, p, taskpool.Task{Priority: 100,
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }},
			Run: func(ctx context.Context) error {
				info, _ := taskpool.Current(ctx)
				log.add(fmt.Sprint("attempt ", info.Attempt))
				if info.Attempt == 1 {
					<-fail
					return errors.New("failed")
				}
				return nil
			}})
		synctest.Wait()
		gate, occupied := make(chan struct{}), make(chan struct{})
		release := sync.OnceFunc(func() { close(gate) })
		t.Cleanup(release)
		require.NoError(t, p.Go(taskpool.High, func() { close(occupied); <-gate }))
		close(fail)
		<-occupied
		require.Equal(t, taskpool.StateQueued, started.State(), "it waits for its second attempt")

		low := pooltest.Submit(t, p, log.task("low", taskpool.Low))
		sameLane := pooltest.Submit(t, p, log.task("same lane", 100))
		pooltest.Submit(t, p, log.task("high 1", taskpool.High))
		require.Equal(t, taskpool.StateShed, sameLane.State())
		pooltest.Submit(t, p, log.task("high 2", taskpool.High))
		require.Equal(t, taskpool.StateShed, low.State())
		_, err := p.Submit(context.Background(), log.task("refused", taskpool.High))
		require.ErrorIs(t, err, taskpool.ErrFull, "nothing but the started task is less urgent")
		require.Equal(t, taskpool.StateQueued, started.State())
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"attempt 1", "high 1", "high 2", "attempt 2"}, log.all())
		require.Equal(t, taskpool.StateSucceeded, started.State())
	})
}

func TestDelayedTaskIsNeverShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(1, taskpool.OverflowShed))
		var log startLog
		task := log.task("delayed", taskpool.Low)
		task.NotBefore = time.Now().Add(time.Second)
		delayed := pooltest.Submit(t, p, task)
		queued := pooltest.Submit(t, p, log.task("queued", taskpool.Medium))
		pooltest.Submit(t, p, log.task("high 1", taskpool.High))
		require.Equal(t, taskpool.StateShed, queued.State(), "though it is more urgent")
		_, err := p.Submit(context.Background(), log.task("refused", taskpool.High))
		require.ErrorIs(t, err, taskpool.ErrFull)
		require.Equal(t, taskpool.StateDelayed, delayed.State())
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, taskpool.StateQueued, delayed.State())
		pooltest.Submit(t, p, log.task("high 2", taskpool.High))
		require.Equal(t, taskpool.StateShed, delayed.State(), "once it is due it is like any other")
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"high 1", "high 2"}, log.all())
	})
}

func TestGoNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithCapacity(1, taskpool.OverflowWait))
		var log startLog
		require.NoError(t, p.Go(0, func() { log.add("accepted") }))
		before := time.Now()
		require.ErrorIs(t, p.TryGo(taskpool.High, func() { log.add("refused") }), taskpool.ErrFull)
		require.Zero(t, time.Since(before))
		require.Zero(t, p.Stats().SubmittersWaiting)
		release()
		pooltest.Drain(t, p)
		require.Equal(t, []string{"accepted"}, log.all())
	})
}

// fillWithRetries fills a queue with the given number of tasks that wait an
// hour for their retry.
func fillWithRetries(t testing.TB, p *taskpool.Pool, n int) {
	t.Helper()
	for i := range n {
		pooltest.Submit(t, p, taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
			Run: func(ctx context.Context) error {
				if info, _ := taskpool.Current(ctx); info.Attempt > 1 {
					return nil
				}
				return errors.New("failed")
			}})
		synctest.Wait()
		require.Equal(t, i+1, p.Stats().Delayed)
	}
}

// Otherwise a storm of retries would fill the memory, however small the capacity.
func TestRetriesThatWaitLeaveNewcomersNoRoom(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		for _, capacity := range []int{0, 2} {
			t.Run(fmt.Sprintf("%v, capacity %d", overflow, capacity), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(capacity, overflow))
					fillWithRetries(t, p, capacity+2) // each was accepted, as two slots are free
					require.ErrorIs(t, p.TryGo(taskpool.High, func() {}), taskpool.ErrFull)
					call := pooltest.SubmitOrWait(context.Background(), p, taskpool.Task{Priority: taskpool.High,
						Run: func(context.Context) error { return nil }})
					if overflow == taskpool.OverflowWait {
						pooltest.RequireWaiting(t, call)
					} else {
						require.ErrorIs(t, call.Err, taskpool.ErrFull)
					}
					pooltest.Drain(t, p) // the retries make room
					want := capacity + 2
					if overflow == taskpool.OverflowWait {
						pooltest.RequireAccepted(t, call)
						want++
					}
					require.EqualValues(t, want, p.Stats().Succeeded)
				})
			})
		}
	}
}

func TestRetryMayExceedTheCapacity(t *testing.T) {
	for _, overflow := range []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(1, overflow))
			var log startLog
			fail := make(chan struct{})
			retried := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low,
				Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Second }},
				Run: func(ctx context.Context) error {
					if info, _ := taskpool.Current(ctx); info.Attempt > 1 {
						log.add("retried")
						return nil
					}
					<-fail
					return errors.New("failed")
				}})
			synctest.Wait()
			release := pooltest.Occupy(t, p)
			pooltest.Submit(t, p, log.task("queued", taskpool.Medium))
			require.NoError(t, p.Resize(1)) // so that the queue does not move on when the attempt fails
			close(fail)
			synctest.Wait()
			s := p.Stats()
			require.Equal(t, 2, s.Queued+s.Delayed, "of 1")
			time.Sleep(time.Second)
			synctest.Wait()
			require.Equal(t, 2, p.Stats().Queued)
			require.ErrorIs(t, p.TryGo(taskpool.Medium, func() {}), taskpool.ErrFull)
			release()
			pooltest.Drain(t, p)
			require.Equal(t, taskpool.StateSucceeded, retried.State())
			require.Equal(t, []string{"queued", "retried"}, log.all())
		})
	}
}

//go:noinline
func submitWeak(t testing.TB, p *taskpool.Pool) (*taskpool.Handle, weak.Pointer[[64]int]) {
	data := new([64]int)
	h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { data[0]++; return nil }})
	return h, weak.Make(data)
}

//go:noinline
func goWeak(t testing.TB, p *taskpool.Pool) weak.Pointer[[64]int] {
	data := new([64]int)
	require.NoError(t, p.Go(0, func() { data[0]++ }))
	return weak.Make(data)
}

// The handle may be kept for ever, and the pool lives on.
func TestWhatASettledTaskRefersToIsGarbage(t *testing.T) {
	p, release := pooltest.Occupied(t)
	var handles []*taskpool.Handle
	var data []weak.Pointer[[64]int]
	for i := range 300 {
		h, d := submitWeak(t, p)
		if handles = append(handles, h); i%3 == 0 {
			require.True(t, h.Cancel(nil))
		}
		data = append(data, d, goWeak(t, p))
	}
	release()
	pooltest.Drain(t, p)
	runtime.GC()
	for i, d := range data {
		require.Nil(t, d.Value(), "what task %d referred to is still there", i)
	}
	runtime.KeepAlive(handles)
	runtime.KeepAlive(p)
}
