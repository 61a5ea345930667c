package waits_test

import (
	"context"
	"errors"
	"fmt"
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

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// A hookCounts is what hooks are told of the tasks of a pool.
type hookCounts struct{ started, finished atomic.Int64 }

func (l *hookCounts) hooks() taskpool.Option {
	return taskpool.WithHooks(taskpool.Hooks{
		Started: func(taskpool.TaskEvent) { l.started.Add(1) },
		Finished: func(e taskpool.TaskEvent) {
			if e.Task.State == taskpool.StateCanceled {
				l.finished.Add(1)
			}
		},
	})
}

// The worker looks itself: what cancels tasks that wait is a goroutine of package
// context, which comes when the Go scheduler lets it.
func TestWhatHasEndedNeverStarts(t *testing.T) {
	tasks := 10_000
	if pooltest.Scarce() {
		tasks /= 10
	}
	for _, told := range []bool{false, true} {
		t.Run(fmt.Sprintf("hooks=%t", told), func(t *testing.T) {
			for range 3 {
				log, opts := new(hookCounts), []taskpool.Option{taskpool.WithWorkers(1)}
				if told {
					opts = append(opts, log.hooks())
				}
				p := pooltest.New(t, opts...)
				release := pooltest.Block(t, p)
				ctx, cancel := context.WithCancelCause(pooltest.Patience(t))
				cause := errors.New("enough")
				var started atomic.Int64
				var all []*taskpool.Handle
				for range tasks {
					h, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { started.Add(1); return nil }})
					require.NoError(t, err)
					all = append(all, h)
				}
				cancel(cause)
				release()
				for _, h := range all {
					require.Same(t, cause, h.Wait(pooltest.Patience(t)))
					require.Equal(t, taskpool.StateCanceled, h.State())
				}
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
				require.Zero(t, started.Load())
				s := p.Stats()
				pooltest.RequireConserved(t, s)
				require.EqualValues(t, tasks, s.Canceled)
				require.EqualValues(t, 1, s.Attempts)
				require.Equal(t, map[taskpool.Priority]uint64{taskpool.High: 1}, pooltest.Started(s))
				require.NoError(t, p.Shutdown(pooltest.Patience(t))) // hooks have been called
				if told {
					require.EqualValues(t, 1, log.started.Load())
					require.EqualValues(t, tasks, log.finished.Load())
				}
			}
		})
	}
}

// A unheardContext ends and tells nobody: its Done channel is never closed, its Err and
// Deadline say how things are.
type unheardContext struct {
	context.Context
	done     chan struct{}
	deadline time.Time
	err      atomic.Pointer[error]
}

func newUnheardContext(parent context.Context) *unheardContext {
	return &unheardContext{Context: parent, done: make(chan struct{})}
}

func (c *unheardContext) Done() <-chan struct{}       { return c.done }
func (c *unheardContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }
func (c *unheardContext) Value(any) any               { return nil }

func (c *unheardContext) AfterFunc(func()) func() bool { return func() bool { return true } }

func (c *unheardContext) Err() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// unheardEnds are the ways in which a unheardContext ends.
var unheardEnds = map[string]struct {
	end  func(*unheardContext)
	want error
}{
	"canceled": {func(c *unheardContext) { err := context.Canceled; c.err.Store(&err) }, context.Canceled},
	"deadline": {func(c *unheardContext) {}, context.DeadlineExceeded}, // it has passed by itself
}

func TestTaskWhoseContextEndedUnheardNeverStarts(t *testing.T) {
	for name, end := range unheardEnds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := new(hookCounts)
				p := pooltest.New(t, taskpool.WithWorkers(1), log.hooks())
				release := pooltest.Block(t, p)
				ctx := newUnheardContext(context.Background())
				ctx.deadline = time.Now().Add(time.Second)
				var got []taskpool.TaskInfo
				for _, retry := range []taskpool.Retry{{}, atOnce(3)} {
					h, err := p.Submit(ctx, taskpool.Task{Retry: retry, NotBefore: time.Now().Add(time.Millisecond), Run: func(context.Context) error { panic("must not run") }})
					require.NoError(t, err)
					defer func() {
						require.ErrorIs(t, h.Err(), end.want)
						require.Equal(t, taskpool.StateCanceled, h.State())
					}()
				}
				time.Sleep(time.Second)
				end.end(ctx)
				got = p.Tasks(taskpool.StateQueued)
				require.Len(t, got, 2, "nobody knows yet")
				release()
				synctest.Wait()
				s := p.Stats()
				require.EqualValues(t, 2, s.Canceled)
				require.EqualValues(t, 1, s.Attempts)
				require.EqualValues(t, 1, log.started.Load())
				require.EqualValues(t, 2, log.finished.Load())
			})
		})
	}
}

func TestDeadlineThatIsAheadStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		ctx := newUnheardContext(context.Background())
		ctx.deadline = time.Now().Add(1)
		h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, err)
		require.NoError(t, h.Wait(t.Context()))
	})
}

// What does not start is no dispatch: it is not counted for the fair share either.
func TestTasksThatDoNotStartTakeNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(16))
		release := pooltest.Block(t, p)
		var order []string
		log := func(what string) func() { return func() { order = append(order, what) } }
		for range 20 {
			require.NoError(t, p.Go(taskpool.Low, log("low")))
		}
		ctx := newUnheardContext(context.Background())
		for range 1000 {
			_, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { panic("must not run") }})
			require.NoError(t, err)
		}
		for range 17 {
			require.NoError(t, p.Go(taskpool.High, log("high")))
		}
		unheardEnds["canceled"].end(ctx)
		release()
		require.NoError(t, p.WaitIdle(t.Context()))
		want := slices.Concat(slices.Repeat([]string{"high"}, 15), []string{"low", "high", "high"}, slices.Repeat([]string{"low"}, 19))
		require.Equal(t, want, order)
	})
}

// A retry whose context ended meanwhile is no attempt either.
func TestNoRetryStartsOnceTheContextHasEnded(t *testing.T) {
	for name, end := range unheardEnds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				ctx := newUnheardContext(context.Background())
				ctx.deadline = time.Now().Add(time.Second)
				failed := errors.New("failed")
				retry := taskpool.Retry{MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Minute }}
				h, err := p.Submit(ctx, taskpool.Task{Retry: retry, Run: func(context.Context) error { return failed }})
				require.NoError(t, err)
				synctest.Wait()
				require.Equal(t, taskpool.StateDelayed, h.State())
				time.Sleep(time.Second)
				end.end(ctx)
				time.Sleep(time.Hour)
				require.Equal(t, taskpool.StateCanceled, h.State())
				require.ErrorIs(t, h.Err(), end.want)
				require.NotErrorIs(t, h.Err(), failed)
				require.EqualValues(t, 1, p.Stats().Attempts)
				require.EqualValues(t, 1, p.Stats().Retries)
			})
		})
	}
}

// What every way of submitting does with a context that has ended. cancel is called
// once the worker is busy and the work waits.
func TestEveryWayToSubmitStartsNothingThatHasEnded(t *testing.T) {
	bad := func(context.Context) error { panic("must not run") }
	ways := map[string]func(ctx context.Context, p *taskpool.Pool) error{
		"Submit": func(ctx context.Context, p *taskpool.Pool) error {
			h, err := p.Submit(ctx, taskpool.Task{Run: bad})
			if err != nil {
				return err
			}
			return h.Wait(context.WithoutCancel(ctx))
		},
		"SubmitFunc": func(ctx context.Context, p *taskpool.Pool) error {
			f, err := taskpool.SubmitFunc(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 0, bad(ctx) })
			if err != nil {
				return err
			}
			_, err = f.Get(context.WithoutCancel(ctx))
			return err
		},
		"Call": func(ctx context.Context, p *taskpool.Pool) error {
			_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 0, bad(ctx) })
			return err
		},
		"Map": func(ctx context.Context, p *taskpool.Pool) (err error) {
			for _, err = range taskpool.Map(ctx, p, taskpool.Task{}, pooltest.UpTo(100), func(ctx context.Context, _ int) (int, error) { return 0, bad(ctx) }) {
			}
			return err
		},
		"Group": func(ctx context.Context, p *taskpool.Pool) error {
			g := p.Group(ctx, taskpool.Task{})
			for range 100 {
				g.Go(bad)
			}
			return g.Wait()
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			for range 100 {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1))
					release := pooltest.Block(t, p)
					ctx, cancel := context.WithCancel(context.Background())
					done := make(chan error, 1)
					go func() { done <- way(ctx, p) }()
					synctest.Wait()
					cancel()
					release()
					require.ErrorIs(t, <-done, context.Canceled)
					synctest.Wait()
					s := p.Stats()
					require.EqualValues(t, 1, s.Attempts)
					require.Zero(t, outstanding(p))
				})
			}
		})
	}
}

func TestCallThatHasReturnedHasWithdrawnItsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		defer pooltest.Block(t, p)()
		ctx := newUnheardContext(context.Background()) // tells nobody but those who wait
		go func() {
			time.Sleep(time.Second)
			unheardEnds["canceled"].end(ctx)
			close(ctx.done)
		}()
		_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(context.Context) (int, error) { panic("must not run") })
		require.ErrorIs(t, err, context.Canceled)
		s := p.Stats()
		require.Zero(t, s.Queued)
		require.EqualValues(t, 1, s.Canceled)
	})
}

func TestChildNeverStartsAfterItsParentHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		for range 200 {
			var child *taskpool.Handle
			parent := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) (err error) {
				child, err = p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { panic("must not run") }})
				return err
			}})
			require.NoError(t, parent.Wait(t.Context()))
			require.ErrorIs(t, child.Wait(t.Context()), context.Canceled)
		}
		s := p.Stats()
		require.EqualValues(t, 200, s.Attempts)
		require.EqualValues(t, 200, s.Canceled)
	})
}

func TestNoMemberStartsAfterTheFirstErrorOfItsGroup(t *testing.T) {
	boom := errors.New("boom")
	rounds := 2000
	if pooltest.Scarce() {
		rounds /= 10
	}
	t.Run("members that wait", func(t *testing.T) {
		const members = 1000
		for range 5 {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			release := pooltest.Block(t, p)
			g := p.Group(pooltest.Patience(t), taskpool.Task{})
			var started atomic.Int64
			for range members {
				g.Go(func(context.Context) error { started.Add(1); return boom })
			}
			release()
			require.Same(t, boom, g.Wait())
			require.EqualValues(t, 1, started.Load())
			require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
			s := p.Stats()
			require.EqualValues(t, 2, s.Attempts)
			require.EqualValues(t, members-1, s.Canceled)
			require.NoError(t, p.Shutdown(pooltest.Patience(t)))
		}
	})
	t.Run("members that come", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		for range rounds {
			g := p.Group(pooltest.Patience(t), taskpool.Task{})
			g.SetLimit(1)
			var started atomic.Int64
			for i := range 5 {
				g.Go(func(context.Context) error {
					if started.Add(1); i == 1 {
						return boom
					}
					return nil
				})
			}
			require.Same(t, boom, g.Wait())
			require.EqualValues(t, 2, started.Load())
		}
	})
	t.Run("after Wait", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		for range rounds / 10 {
			g := p.Group(pooltest.Patience(t), taskpool.Task{})
			var wait sync.WaitGroup
			wait.Go(func() { assert.NoError(t, g.Wait()) })
			wait.Wait()
			before := p.Stats()
			g.Go(func(context.Context) error { panic("must not run") })
			require.ErrorIs(t, g.Wait(), context.Canceled)
			require.Equal(t, before.Submitted, p.Stats().Submitted)
			require.Equal(t, before.Refused+1, p.Stats().Refused)
		}
	})
}

// Where a hook took its time the attempt has begun, as others were told. It comes to
// its end without Run.
func TestRunIsNotCalledWhereTheContextEndedInAHook(t *testing.T) {
	type hook int
	const (
		started hook = iota
		around
	)
	for _, in := range []hook{started, around} {
		for name, end := range unheardEnds {
			t.Run(fmt.Sprintf("%s in hook %d", name, in), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx := newUnheardContext(context.Background())
					ctx.deadline = time.Now().Add(time.Second)
					slow := func(of hook) {
						if in == of {
							time.Sleep(time.Second)
							end.end(ctx)
						}
					}
					var finished []taskpool.TaskEvent
					var shown error
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{
						Started:  func(taskpool.TaskEvent) { slow(started) },
						Finished: func(e taskpool.TaskEvent) { finished = append(finished, e) },
						Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
							slow(around)
							shown = run(ctx)
							return shown
						},
					}))
					h, err := p.Submit(ctx, taskpool.Task{Retry: atOnce(3), Run: func(context.Context) error { panic("must not run") }})
					require.NoError(t, err)
					err = h.Wait(t.Context())
					require.ErrorIs(t, err, end.want)
					require.Equal(t, taskpool.StateCanceled, h.State())
					if in == around {
						require.ErrorIs(t, shown, context.Canceled)
					}
					synctest.Wait()
					require.Len(t, finished, 1)
					require.Equal(t, taskpool.ResultInterrupted, finished[0].Result)
					require.Equal(t, 1, finished[0].Task.Attempt)
					s := p.Stats()
					require.EqualValues(t, 1, s.Attempts)
					require.EqualValues(t, 1, s.Interrupted)
				})
			})
		}
	}
}

// A task without a context of its own, canceled by its handle in the hook.
func TestRunIsNotCalledAfterCancelOrTimeoutInAHook(t *testing.T) {
	for _, test := range []struct {
		name    string
		in      func(taskpool.TaskInfo)
		state   taskpool.State
		want    error
		attempt int
	}{
		{"cancel", func(i taskpool.TaskInfo) { i.Handle.Cancel(nil) }, taskpool.StateCanceled, context.Canceled, 1},
		{"timeout", func(taskpool.TaskInfo) { time.Sleep(time.Second) }, taskpool.StateFailed, taskpool.ErrTimeout, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{
					Started: func(e taskpool.TaskEvent) { test.in(e.Task) },
				}))
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Retry: atOnce(2), Run: func(context.Context) error { panic("must not run") }})
				err := h.Wait(t.Context())
				require.ErrorIs(t, err, test.want)
				require.Equal(t, test.state, h.State())
				s := p.Stats()
				require.EqualValues(t, test.attempt, s.Attempts)
				require.EqualValues(t, test.attempt, s.Interrupted+s.Timeouts)
			})
		})
	}
}

// An evilContext lets a worker that looks at it die, or tries to.
type evilContext struct {
	*unheardContext
	in  string
	evi func()
	on  *atomic.Bool
}

func (c evilContext) do(what string) {
	if c.on.Load() && c.in == what {
		c.evi()
	}
}
func (c evilContext) Err() error { c.do("Err"); return c.unheardContext.Err() }
func (c evilContext) Deadline() (time.Time, bool) {
	c.do("Deadline")
	return c.unheardContext.Deadline()
}
func (c evilContext) Value(any) any { c.do("Value"); return nil }

func TestContextThatFailsAWorkerThatLooksAtItHarmsNobody(t *testing.T) {
	for _, in := range []string{"Err", "Deadline", "Value"} {
		for how, die := range map[string]func(){"panic": func() { panic("in a context") }, "Goexit": runtime.Goexit} {
			t.Run(how+" in "+in, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1))
					release := pooltest.Block(t, p)
					ctx := evilContext{newUnheardContext(context.Background()), in, die, new(atomic.Bool)}
					ran := false
					h, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { ran = true; return nil }})
					require.NoError(t, err)
					if in == "Value" {
						unheardEnds["canceled"].end(ctx.unheardContext)
					}
					ctx.on.Store(true)
					release()
					synctest.Wait()
					require.True(t, taskpool.StateSucceeded == h.State() == ran)
					require.Equal(t, in != "Value" || how == "Goexit", ran, "%v", h.Err())
					ctx.on.Store(false)
					require.Zero(t, outstanding(p))
					pooltest.RequireWorkers(t, p, 1)
				})
			})
		}
	}
}

// Whoever asks sees attempts that begin, and never fewer than before.
func TestTotalsNeverGoDownWhileTasksAreWithdrawn(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for last := p.Stats(); ; {
			select {
			case <-stop:
				return
			default:
			}
			s := p.Stats()
			pooltest.RequireConserved(t, s)
			ended := s.Errors + s.Timeouts + s.Interrupted + s.Panics + s.Goexits + s.Hangs
			assert.LessOrEqual(t, ended+uint64(s.Running+s.Parked), s.Attempts)
			assert.GreaterOrEqual(t, s.Attempts-uint64(s.Running), last.Attempts-uint64(last.Running), "attempts that have ended")
			assert.GreaterOrEqual(t, s.Attempts, last.Attempts)
			sum := uint64(0)
			for pr, by := range s.ByPriority {
				assert.GreaterOrEqual(t, by.Attempts, last.ByPriority[pr].Attempts)
				sum += by.Attempts
			}
			assert.Equal(t, s.Attempts, sum)
			waiting := 0
			for _, w := range s.Waiting {
				waiting += w.Queued
			}
			assert.Equal(t, s.Queued, waiting)
			assert.True(t, slices.IsSortedFunc(s.Waiting, func(a, b taskpool.PriorityStats) int { return int(a.Priority - b.Priority) }))
			last = s
		}
	})
	ran := new(atomic.Int64)
	for range 100 {
		ctx, cancel := context.WithCancel(pooltest.Patience(t))
		for i := range 30 {
			_, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.Priority(i % 3), Run: func(context.Context) error { ran.Add(1); return nil }})
			require.NoError(t, err)
		}
		cancel()
	}
	require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
	close(stop)
	asking.Wait()
	require.EqualValues(t, ran.Load(), p.Stats().Attempts-p.Stats().Interrupted)
}

// One registration for each Done channel, however many tasks wait with it.

func TestEndOfAContextStartsNoGoroutineForEachTask(t *testing.T) {
	tasks := 100_000
	if pooltest.Scarce() {
		tasks /= 10
	}
	var most atomic.Int64
	p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
		if e.Task.State == taskpool.StateCanceled {
			most.Store(max(most.Load(), int64(runtime.NumGoroutine())))
		}
	}}))
	release := pooltest.Block(t, p)
	defer release()
	ctx, cancel := context.WithCancelCause(pooltest.Patience(t))
	all := make([]*taskpool.Handle, tasks)
	for i := range all {
		// They share a Done channel, and each has a context of its own.
		h, err := p.Submit(context.WithValue(ctx, new(int), i), taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, err)
		all[i] = h
	}
	before := runtime.NumGoroutine()
	cause := errors.New("enough")
	cancel(cause)
	for _, h := range all {
		require.Same(t, cause, h.Wait(pooltest.Patience(t)))
	}
	require.Less(t, int(most.Load()), before+100)
	require.EqualValues(t, tasks, p.Stats().Canceled)
}

// Contexts that share a Done channel may end for causes of their own, and contexts may be
// of types that cannot be compared.
type causedContext struct {
	context.Context
	cause []error // makes it incomparable
}

func (c causedContext) Value(key any) any { // so that package context does not see the one inside
	return nil
}

func (c causedContext) Err() error {
	if c.Context.Err() != nil {
		return c.cause[0]
	}
	return nil
}

func TestTasksOfOneDoneChannelHaveTheirOwnCauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := pooltest.New(t, taskpool.WithWorkers(1)), pooltest.New(t, taskpool.WithWorkers(1))
		ctx, cancel := context.WithCancelCause(context.Background())
		std, own := errors.New("std"), errors.New("own")
		release := []func(){pooltest.Block(t, p), pooltest.Block(t, q)}
		var all []*taskpool.Handle
		for _, pool := range []*taskpool.Pool{p, q} {
			for _, c := range []context.Context{ctx, causedContext{ctx, []error{own}}, context.WithValue(ctx, new(int), 0)} {
				h, err := pool.Submit(c, taskpool.Task{Run: pooltest.Nop})
				require.NoError(t, err)
				all = append(all, h)
			}
		}
		cancel(std)
		synctest.Wait()
		for i, h := range all {
			require.Equal(t, []error{std, own, std}[i%3], h.Err())
		}
		for _, f := range release {
			f()
		}
	})
}

// What another package does when its contexts end is not known, so no two share a
// registration, however many there are.
func TestTheEndOfAContextOfAnotherPackageEndsItsOwnTaskOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		defer pooltest.Block(t, p)()
		const tasks = 100
		var all [tasks]*taskpool.Handle
		var ends [tasks]context.CancelFunc
		for i := range all {
			std, end := context.WithCancel(context.Background())
			h, err := p.Submit(&pooltest.CountedContext{Context: std}, taskpool.Task{Run: pooltest.Nop})
			require.NoError(t, err)
			all[i], ends[i] = h, end
		}
		for last := tasks - 1; last >= 0; last-- {
			ends[last]()
			synctest.Wait()
			for i, h := range all {
				require.Equal(t, i >= last, h.State() == taskpool.StateCanceled, "task %d, after the end of %d", i, last)
			}
		}
	})
}

// The room that canceled tasks leave is taken at once, also while hooks are told of them.
func TestASubmitterGetsTheRoomOfACanceledTaskBeforeHooksHaveReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait), taskpool.WithHooks(taskpool.Hooks{
			Finished: func(e taskpool.TaskEvent) {
				if e.Task.State == taskpool.StateCanceled {
					time.Sleep(time.Hour)
				}
			},
		}))
		release := pooltest.Block(t, p)
		ctx, cancel := context.WithCancel(context.Background())
		_, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, err)
		begin, took := time.Now(), time.Duration(-1)
		go func() {
			_, err := p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop})
			assert.NoError(t, err)
			took = time.Since(begin)
		}()
		synctest.Wait()
		require.Equal(t, time.Duration(-1), took)
		cancel()
		synctest.Wait()
		require.Zero(t, took)
		release()
		require.NoError(t, p.WaitIdle(t.Context()))
	})
}

// What a handle keeps alive once its task has settled.

type secret struct{ _ [64]byte }

//go:noinline
func submitWithSecret(t *testing.T, p *taskpool.Pool, wrap func(context.Context) context.Context, run func(context.Context) error) (*taskpool.Handle, weak.Pointer[secret]) {
	s := new(secret)
	h, err := p.Submit(wrap(context.WithValue(context.Background(), secret{}, s)), taskpool.Task{Run: run, Retry: atOnce(2)})
	require.NoError(t, err)
	return h, weak.Make(s)
}

func requireGone(t *testing.T, w weak.Pointer[secret]) {
	t.Helper()
	for range 100 {
		if runtime.GC(); w.Value() == nil {
			return
		}
		runtime.Gosched()
	}
	require.Fail(t, "the submitter's context is kept")
}

func TestHandleOfASettledTaskLetsItsContextGo(t *testing.T) {
	withCancel := func(ctx context.Context) context.Context {
		ctx, end := context.WithCancel(ctx)
		_ = end // nobody keeps it alive
		return ctx
	}
	for name, wrap := range map[string]func(context.Context) context.Context{
		"cannot end": func(ctx context.Context) context.Context { return ctx },
		"can end":    withCancel,
	} {
		for how, run := range map[string]func(context.Context) error{
			"succeeds":            pooltest.Nop,
			"fails":               func(context.Context) error { return errors.New("failed") },
			"looks at its values": func(ctx context.Context) error { _ = ctx.Value(0); return ctx.Err() },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				h, w := submitWithSecret(t, p, wrap, run)
				_ = h.Wait(t.Context())
				require.NoError(t, p.WaitIdle(t.Context()))
				requireGone(t, w)
				require.NotEqual(t, taskpool.StateRunning, h.State())
			})
		}
	}
	t.Run("canceled while it waits", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		release := pooltest.Block(t, p)
		h, w := submitWithSecret(t, p, withCancel, pooltest.Nop)
		h.Cancel(nil)
		release()
		require.NoError(t, p.WaitIdle(t.Context()))
		requireGone(t, w)
		require.Equal(t, taskpool.StateCanceled, h.State())
	})
	t.Run("a member of a group", func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h, w := memberWithSecret(t, p)
		requireGone(t, w)
		require.Equal(t, taskpool.StateSucceeded, h.State())
	})
}

//go:noinline
func memberWithSecret(t *testing.T, p *taskpool.Pool) (h *taskpool.Handle, w weak.Pointer[secret]) {
	s := new(secret)
	g := p.Group(context.WithValue(context.Background(), secret{}, s), taskpool.Task{})
	g.Go(func(ctx context.Context) error {
		info, _ := taskpool.Current(ctx)
		h = info.Handle
		return nil
	})
	require.NoError(t, g.Wait())
	return h, weak.Make(s)
}

// Whoever is still at work with the context of an attempt has its values, deadline and
// Detach as before.
func TestContextOfAnAttemptKeepsItsValuesAfterTheTaskHasSettled(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	outer, cancel := context.WithTimeout(context.WithValue(t.Context(), secret{}, "value"), time.Hour)
	defer cancel()
	deadline, _ := outer.Deadline()
	for _, asks := range []bool{false, true} {
		var kept context.Context
		h, err := p.Submit(outer, taskpool.Task{Run: func(ctx context.Context) error {
			if kept = ctx; asks {
				return ctx.Err()
			}
			return nil
		}})
		require.NoError(t, err)
		require.NoError(t, h.Wait(t.Context()))
		require.Equal(t, "value", kept.Value(secret{}))
		d, ok := kept.Deadline()
		require.True(t, ok)
		require.Equal(t, deadline, d)
		require.ErrorIs(t, kept.Err(), context.Canceled)
		require.Equal(t, outer, taskpool.Detach(kept))
		info, ok := taskpool.Current(kept)
		require.True(t, ok)
		require.Same(t, h, info.Handle)
	}
}
