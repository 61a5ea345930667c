package faults_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
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

//go:noinline
func lifePanicsDeferred(v any) { defer pooltest.PanicsHere(v) }

// A lifeOutcome is something that Run may do, and what becomes of it.
type lifeOutcome struct {
	name    string
	run     func() error
	state   taskpool.State
	err     error // if not nil, what errors.Is finds
	panics  bool
	value   func(t *testing.T, v any) // of the panic
	goexits bool
}

func lifeOutcomes(panicnil bool) []lifeOutcome {
	equals := func(want any) func(*testing.T, any) {
		return func(t *testing.T, v any) { require.Equal(t, want, v) }
	}
	nilValue := func(t *testing.T, v any) {
		if panicnil {
			require.Nil(t, v)
		} else {
			require.IsType(t, &runtime.PanicNilError{}, v)
		}
	}
	return []lifeOutcome{
		{name: "nil", run: func() error { return nil }, state: taskpool.StateSucceeded},
		{name: "error", run: func() error { return pooltest.ErrTask }, state: taskpool.StateFailed, err: pooltest.ErrTask},
		{name: "own panic recovered", run: func() error {
			defer func() { _ = recover() }()
			panic("mine")
		}, state: taskpool.StateSucceeded},
		{name: "panic with error", run: func() error { pooltest.PanicsHere(pooltest.ErrTask); return nil },
			state: taskpool.StateFailed, err: pooltest.ErrTask, panics: true, value: equals(pooltest.ErrTask)},
		{name: "panic with string", run: func() error { pooltest.PanicsHere("boom"); return nil },
			state: taskpool.StateFailed, panics: true, value: equals("boom")},
		{name: "panic with an error whose Error panics", run: func() error { pooltest.PanicsHere(pooltest.AngryError{}); return nil },
			state: taskpool.StateFailed, panics: true, value: equals(pooltest.AngryError{})},
		{name: "panic of the runtime", run: func() error {
			m := map[bool]map[string]int{}[true]
			m["x"] = 1
			return nil
		}, state: taskpool.StateFailed, panics: true, value: func(t *testing.T, v any) {
			require.Implements(t, (*runtime.Error)(nil), v)
		}},
		{name: "panic in a deferred call", run: func() error { lifePanicsDeferred("late"); return nil },
			state: taskpool.StateFailed, panics: true, value: equals("late")},
		{name: "panic in a deferred call after an error", run: func() error {
			defer pooltest.PanicsHere("late")
			return pooltest.ErrTask
		}, state: taskpool.StateFailed, panics: true, value: equals("late")},
		{name: "panic again with another value", run: func() error {
			defer func() { panic(fmt.Sprint("again ", recover())) }()
			panic("first")
		}, state: taskpool.StateFailed, panics: true, value: equals("again first")},
		{name: "panic in a deferred call while panicking", run: func() error {
			defer pooltest.PanicsHere("second")
			panic("first")
		}, state: taskpool.StateFailed, panics: true, value: equals("second")},
		{name: "panic(nil)", run: func() error { pooltest.PanicsHere(nil); return nil },
			state: taskpool.StateFailed, panics: true, value: nilValue},
		{name: "panic(nil) in a deferred call", run: func() error { lifePanicsDeferred(nil); return nil },
			state: taskpool.StateFailed, panics: true, value: nilValue},
		{name: "Goexit", run: func() error { runtime.Goexit(); return nil },
			state: taskpool.StateFailed, err: taskpool.ErrGoexit, goexits: true},
		{name: "Goexit in a deferred call", run: func() error {
			defer runtime.Goexit()
			return nil
		}, state: taskpool.StateFailed, err: taskpool.ErrGoexit, goexits: true},
		{name: "Goexit after a panic", run: func() error {
			defer runtime.Goexit()
			panic("aborted")
		}, state: taskpool.StateFailed, err: taskpool.ErrGoexit, goexits: true},
		{name: "Goexit after a recovered panic", run: func() error {
			defer func() { _ = recover(); runtime.Goexit() }()
			panic("over")
		}, state: taskpool.StateFailed, err: taskpool.ErrGoexit, goexits: true},
		{name: "panic after Goexit", run: func() error {
			defer pooltest.PanicsHere("on the way out")
			runtime.Goexit()
			return nil
		}, state: taskpool.StateFailed, panics: true, value: equals("on the way out")},
		{name: "recovered panic after Goexit", run: func() error {
			defer func() {
				defer func() { _ = recover() }()
				panic("over")
			}()
			runtime.Goexit()
			return nil
		}, state: taskpool.StateFailed, err: taskpool.ErrGoexit, goexits: true},
	}
}

func requireOutcome(t *testing.T, o lifeOutcome, err error) {
	t.Helper()
	if o.state == taskpool.StateSucceeded {
		require.NoError(t, err)
		return
	}
	require.Error(t, err)
	if o.err != nil {
		require.ErrorIs(t, err, o.err)
	}
	var pe *taskpool.PanicError
	require.Equal(t, o.panics, errors.As(err, &pe), "is a PanicError: %T", err)
	require.Equal(t, o.goexits, errors.Is(err, taskpool.ErrGoexit))
	if o.panics {
		o.value(t, pe.Value)
		require.NotEmpty(t, pe.Stack)
		require.NotEmpty(t, pe.Error())
	}
}

func TestEveryEndOfRunIsClassified(t *testing.T) {
	around := taskpool.Hooks{Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
		return run(ctx)
	}}
	for _, panicnil := range []bool{false, true} {
		for _, within := range []bool{false, true} {
			t.Run(fmt.Sprintf("panicnil=%v,Around=%v", panicnil, within), func(t *testing.T) {
				t.Setenv("GODEBUG", map[bool]string{false: "panicnil=0", true: "panicnil=1"}[panicnil])
				func() { // the setting must be in force, or the test has no power
					defer func() { require.Equal(t, panicnil, recover() == nil) }()
					pooltest.PanicsHere(nil)
				}()
				for _, o := range lifeOutcomes(panicnil) {
					for _, byGo := range []bool{false, true} {
						t.Run(fmt.Sprintf("%s,Go=%v", o.name, byGo), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								events := new(pooltest.EventLog)
								opts := []taskpool.Option{taskpool.WithWorkers(2), taskpool.WithHooks(events.Hooks())}
								if within {
									opts = append(opts, taskpool.WithHooks(around))
								}
								p := pooltest.New(t, opts...)
								want := o
								if byGo {
									if o.name == "error" {
										want.state, want.err = taskpool.StateSucceeded, nil // Go takes no error
									}
									require.NoError(t, p.Go(taskpool.Medium, func() { _ = o.run() }))
								} else {
									h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return o.run() }})
									requireOutcome(t, want, h.Wait(t.Context()))
									require.Equal(t, want.state, h.State())
								}
								synctest.Wait()
								finished := events.Named("Finished")
								require.Len(t, finished, 1)
								require.Equal(t, want.state, finished[0].Task.Task.State)
								requireOutcome(t, want, finished[0].Task.Err)

								s := p.Stats()
								count := map[bool]uint64{true: 1}
								require.Equal(t, count[want.state == taskpool.StateSucceeded], s.Succeeded)
								require.Equal(t, count[want.state == taskpool.StateFailed], s.Failed)
								require.Equal(t, count[o.panics], s.Panics)
								require.Equal(t, count[o.goexits], s.Goexits)
								if !within { // else the panic is over before it kills the worker
									require.Equal(t, count[o.panics || o.goexits], s.Replaced)
								}
								pooltest.RequireWhole(t, p, 2)
							})
						})
					}
				}
			})
		}
	}
}

func TestStackOfPanicErrorNamesThePanickingFunction(t *testing.T) {
	around := taskpool.WithHooks(taskpool.Hooks{Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
		return run(ctx)
	}})
	for name, opts := range map[string][]taskpool.Option{"plain": nil, "within Around": {around}} {
		for where, f := range map[string]func(any){"called": pooltest.PanicsHere, "deferred": lifePanicsDeferred} {
			t.Run(name+", "+where, func(t *testing.T) {
				p := pooltest.New(t, opts...)
				h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { f("x"); return nil }})
				var pe *taskpool.PanicError
				require.ErrorAs(t, h.Wait(t.Context()), &pe)
				require.Contains(t, string(pe.Stack), "PanicsHere")
				require.Contains(t, string(pe.Stack), "life_test.go")
				require.NotContains(t, pe.Error(), "PanicsHere", "the stack is not part of the text")
			})
		}
	}
}

func TestPanicErrorUnwrapsAnErrorAndNothingElse(t *testing.T) {
	require.Equal(t, pooltest.ErrTask, (&taskpool.PanicError{Value: pooltest.ErrTask}).Unwrap())
	require.ErrorIs(t, &taskpool.PanicError{Value: fmt.Errorf("deep: %w", pooltest.ErrTask)}, pooltest.ErrTask)
	require.NoError(t, (&taskpool.PanicError{Value: "text"}).Unwrap())
	require.NoError(t, (&taskpool.PanicError{}).Unwrap())
}

func TestChildsPanicReturnedAsErrorIsNoPanicOfTheParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			child, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { panic("child") }})
			if err != nil {
				return err
			}
			return child.Wait(taskpool.Detach(ctx))
		}})
		var pe *taskpool.PanicError
		require.ErrorAs(t, h.Wait(t.Context()), &pe)
		synctest.Wait()
		s := p.Stats()
		require.EqualValues(t, 2, s.Failed)
		require.EqualValues(t, 1, s.Panics)
		require.EqualValues(t, 1, s.Replaced)
		pooltest.RequireWhole(t, p, 2)
	})
}

// Retry.

func TestMaxAttemptsCountsTheFirstOne(t *testing.T) {
	for limit, want := range []int{1, 1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			var a pooltest.Attempts
			h := pooltest.Submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: limit}, Run: func(context.Context) error {
				return fmt.Errorf("attempt %d: %w", a.Start(), pooltest.ErrTask)
			}})
			require.EqualError(t, h.Wait(t.Context()), fmt.Sprintf("attempt %d: %v", want, pooltest.ErrTask), "the last error counts")
			require.Equal(t, taskpool.StateFailed, h.State())
			require.Equal(t, want, a.N())
			s := p.Stats()
			require.EqualValues(t, want, s.Attempts)
			require.EqualValues(t, want-1, s.Retries)
			require.EqualValues(t, 1, s.Submitted)
			require.EqualValues(t, 1, s.Failed)
		})
	}
}

func TestRetryEndsWithTheFirstSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var a pooltest.Attempts
		h := pooltest.Submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 9}, Run: func(context.Context) error {
			switch a.Start() {
			case 1:
				return pooltest.ErrTask
			case 2:
				panic("once more")
			}
			return nil
		}})
		require.NoError(t, h.Wait(t.Context()))
		require.Equal(t, 3, a.N())
		pooltest.RequireWhole(t, p, 1)
		require.EqualValues(t, 1, p.Stats().Panics)
	})
}

func TestDefaultBackoffDoublesWithFullJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tasks, rounds = 64, 12
		var mu sync.Mutex
		delays := make([][]time.Duration, rounds)
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithHooks(taskpool.Hooks{Retried: func(e taskpool.TaskEvent) {
			mu.Lock()
			defer mu.Unlock()
			delays[e.Task.Attempt-1] = append(delays[e.Task.Attempt-1], e.Delay)
		}}))
		all := make([]pooltest.Attempts, tasks)
		for i := range all {
			pooltest.Submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: rounds + 1}, Run: func(context.Context) error {
				all[i].Start()
				return pooltest.ErrTask
			}})
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		synctest.Wait()
		for i, ds := range delays {
			limit := min(100*time.Millisecond<<i, 30*time.Second)
			require.Len(t, ds, tasks)
			low, high := 0, 0
			for _, d := range ds {
				require.GreaterOrEqual(t, d, time.Duration(0))
				require.LessOrEqual(t, d, limit)
				if d < limit/2 {
					low++
				} else {
					high++
				}
			}
			// Each half is missed once in 2^64 runs.
			require.Positive(t, low, "round %d: jitter must reach down", i+1)
			require.Positive(t, high, "round %d: jitter must reach up to %v", i+1, limit)
		}
		for i := range all {
			for n, gap := range all[i].Gaps() {
				require.Contains(t, delays[n], gap, "the delay that hooks are told is the one that passes")
			}
		}
	})
}

func TestBackoffIsUsedExactly(t *testing.T) {
	for name, tt := range map[string]struct {
		backoff func(int) time.Duration
		want    []time.Duration
	}{
		"as told":          {func(n int) time.Duration { return time.Duration(n) * 137 * time.Millisecond }, []time.Duration{137e6, 274e6, 411e6}},
		"longer than 30 s": {func(int) time.Duration { return time.Hour }, []time.Duration{3600e9, 3600e9, 3600e9}},
		"zero":             {pooltest.NoWait, []time.Duration{0, 0, 0}},
		"negative":         {func(int) time.Duration { return -time.Hour }, []time.Duration{0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				events := new(pooltest.EventLog)
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHooks(events.Hooks()))
				var a pooltest.Attempts
				var asked []int
				h := pooltest.Submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 4, Backoff: func(n int) time.Duration {
					asked = append(asked, n)
					return tt.backoff(n)
				}}, Run: func(context.Context) error { a.Start(); return pooltest.ErrTask }})
				require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrTask)
				require.Equal(t, tt.want, a.Gaps())
				require.Equal(t, []int{1, 2, 3}, asked)
				synctest.Wait()
				require.Equal(t, tt.want, events.Delays(), "a negative delay is not told either")
			})
		})
	}
}

func TestRetryIfDecides(t *testing.T) {
	other := errors.New("life: other")
	for name, tt := range map[string]struct {
		retryIf func(error) bool
		run     func(ctx context.Context, n int) error
		want    int
	}{
		"nil, error":   {nil, func(context.Context, int) error { return pooltest.ErrTask }, 3},
		"nil, panic":   {nil, func(context.Context, int) error { panic(pooltest.ErrTask) }, 3},
		"nil, timeout": {nil, func(ctx context.Context, _ int) error { <-ctx.Done(); return pooltest.ErrTask }, 3},
		"true":         {func(error) bool { return true }, func(context.Context, int) error { return pooltest.ErrTask }, 3},
		"true, panic":  {func(error) bool { return true }, func(context.Context, int) error { panic(pooltest.ErrTask) }, 3},
		"false":        {func(error) bool { return false }, func(context.Context, int) error { return pooltest.ErrTask }, 1},
		"false, panic": {func(error) bool { return false }, func(context.Context, int) error { panic(pooltest.ErrTask) }, 1},
		"by error": {func(err error) bool { return errors.Is(err, other) }, func(_ context.Context, n int) error {
			if n == 1 {
				return other
			}
			return pooltest.ErrTask
		}, 2},
		"by timeout": {func(err error) bool { return errors.Is(err, taskpool.ErrTimeout) && errors.Is(err, pooltest.ErrTask) },
			func(ctx context.Context, n int) error {
				if n == 1 {
					<-ctx.Done()
				}
				return pooltest.ErrTask
			}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				var a pooltest.Attempts
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error { return tt.run(ctx, a.Start()) },
					Retry: taskpool.Retry{MaxAttempts: 3, If: tt.retryIf}})
				require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrTask)
				require.Equal(t, taskpool.StateFailed, h.State())
				require.Equal(t, tt.want, a.N())
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

func TestPermanentIsNeverRetried(t *testing.T) {
	require.NoError(t, taskpool.Permanent(nil))
	require.EqualError(t, taskpool.Permanent(pooltest.ErrTask), pooltest.ErrTask.Error())
	deep := fmt.Errorf("deep: %w", errors.Join(pooltest.ErrCause, taskpool.Permanent(pooltest.ErrTask)))
	for name, run := range map[string]func() error{
		"plain":                    func() error { return taskpool.Permanent(pooltest.ErrTask) },
		"wrapped":                  func() error { return deep },
		"inside RetryAfter":        func() error { return taskpool.RetryAfter(0, taskpool.Permanent(pooltest.ErrTask)) },
		"outside RetryAfter":       func() error { return taskpool.Permanent(taskpool.RetryAfter(0, pooltest.ErrTask)) },
		"as the value of a panic":  func() error { panic(taskpool.Permanent(pooltest.ErrTask)) },
		"joined before RetryAfter": func() error { return errors.Join(taskpool.RetryAfter(0, pooltest.ErrCause), deep) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				var a pooltest.Attempts
				h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { a.Start(); return run() },
					Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait, If: func(error) bool {
						assert.Fail(t, "If must not be asked about a permanent error")
						return true
					}}})
				require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrTask)
				require.Equal(t, taskpool.StateFailed, h.State())
				require.Equal(t, 1, a.N())
			})
		})
	}
}

func TestRetryAfterSetsTheDelayOfAGrantedRetry(t *testing.T) {
	require.NoError(t, taskpool.RetryAfter(time.Second, nil))
	require.EqualError(t, taskpool.RetryAfter(time.Second, pooltest.ErrTask), pooltest.ErrTask.Error())
	for name, tt := range map[string]struct {
		err   error
		retry taskpool.Retry
		want  []time.Duration
	}{
		"default backoff": {taskpool.RetryAfter(time.Hour, pooltest.ErrTask), taskpool.Retry{MaxAttempts: 3}, []time.Duration{3600e9, 3600e9}},
		"over Backoff":    {taskpool.RetryAfter(time.Hour, pooltest.ErrTask), taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}, []time.Duration{3600e9}},
		"wrapped deep": {fmt.Errorf("a: %w", errors.Join(pooltest.ErrCause, fmt.Errorf("b: %w", taskpool.RetryAfter(time.Minute, pooltest.ErrTask)))),
			taskpool.Retry{MaxAttempts: 2}, []time.Duration{60e9}},
		"negative":     {taskpool.RetryAfter(-time.Hour, pooltest.ErrTask), taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }}, []time.Duration{0}},
		"no retry":     {taskpool.RetryAfter(time.Hour, pooltest.ErrTask), taskpool.Retry{}, nil},
		"refused":      {taskpool.RetryAfter(time.Hour, pooltest.ErrTask), taskpool.Retry{MaxAttempts: 3, If: func(error) bool { return false }}, nil},
		"granted":      {taskpool.RetryAfter(time.Hour, pooltest.ErrTask), taskpool.Retry{MaxAttempts: 2, If: func(error) bool { return true }}, []time.Duration{3600e9}},
		"outside a %w": {taskpool.RetryAfter(time.Minute, fmt.Errorf("c: %w", pooltest.ErrTask)), taskpool.Retry{MaxAttempts: 2}, []time.Duration{60e9}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				events := new(pooltest.EventLog)
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(events.Hooks()))
				var a pooltest.Attempts
				h := pooltest.Submit(t, p, taskpool.Task{Retry: tt.retry, Run: func(context.Context) error { a.Start(); return tt.err }})
				require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrTask)
				require.Equal(t, tt.want, a.Gaps())
				synctest.Wait()
				require.Equal(t, tt.want, events.Delays())
			})
		})
	}
}

func TestGoexitIsNeverRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var a pooltest.Attempts
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { a.Start(); runtime.Goexit(); return nil },
			Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait, If: func(error) bool {
				assert.Fail(t, "If must not be asked about Goexit")
				return true
			}}})
		require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrGoexit)
		require.Equal(t, 1, a.N())
		pooltest.RequireWhole(t, p, 1)
	})
}

func TestRetryWaitsWithoutAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var a pooltest.Attempts
		h := pooltest.Submit(t, p, taskpool.Task{Name: "again", Run: func(context.Context) error {
			if a.Start() == 1 {
				return pooltest.ErrTask
			}
			return nil
		}, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }}})
		synctest.Wait()
		require.Equal(t, taskpool.StateDelayed, h.State())
		s := p.Stats()
		require.Equal(t, 1, s.Delayed)
		require.Equal(t, 1, s.Idle)
		pooltest.RequireConserved(t, s)
		infos := p.Tasks(taskpool.StateDelayed)
		require.Len(t, infos, 1)
		require.Equal(t, time.Now().Add(time.Hour), infos[0].Due)
		require.ErrorIs(t, infos[0].Err, pooltest.ErrTask)
		require.Equal(t, 1, infos[0].Attempt)
		require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }}).Wait(t.Context()))
		require.NoError(t, h.Wait(t.Context()))
		require.Equal(t, []time.Duration{time.Hour}, a.Gaps())
	})
}

// Cancellation.

// A lifeEnd is a way to end a task's context from outside.
type lifeEnd struct {
	name  string
	cause error
	ctx   func(parent context.Context) (context.Context, func()) // and what ends it; or
	end   func(h *taskpool.Handle)                               // after the task was submitted with parent
}

var lifeEnds = []lifeEnd{
	{name: "Cancel", cause: pooltest.ErrCause, end: func(h *taskpool.Handle) { h.Cancel(pooltest.ErrCause) }},
	{name: "Cancel(nil)", cause: context.Canceled, end: func(h *taskpool.Handle) { h.Cancel(nil) }},
	{name: "ctx", cause: context.Canceled, ctx: func(parent context.Context) (context.Context, func()) {
		return context.WithCancel(parent)
	}},
	{name: "ctx with cause", cause: pooltest.ErrCause, ctx: func(parent context.Context) (context.Context, func()) {
		ctx, cancel := context.WithCancelCause(parent)
		return ctx, func() { cancel(pooltest.ErrCause) }
	}},
	{name: "parent of ctx", cause: pooltest.ErrCause, ctx: func(parent context.Context) (context.Context, func()) {
		ctx, cancel := context.WithCancelCause(parent)
		ctx, stop := context.WithCancel(ctx)
		return ctx, func() { cancel(pooltest.ErrCause); stop() }
	}},
	{name: "foreign ctx", cause: context.Canceled, ctx: func(parent context.Context) (context.Context, func()) {
		f := &pooltest.ForeignContext{Context: parent, Ended: make(chan struct{})}
		return f, f.End
	}},
	{name: "deadline of ctx", cause: context.DeadlineExceeded, ctx: func(parent context.Context) (context.Context, func()) {
		ctx, cancel := context.WithTimeout(parent, time.Minute)
		return ctx, func() { time.Sleep(time.Minute + time.Second); cancel() }
	}},
}

// begin returns the context to submit with and what ends the task.
func (e lifeEnd) begin(parent context.Context) (context.Context, func(*taskpool.Handle)) {
	if e.ctx == nil {
		return parent, e.end
	}
	ctx, end := e.ctx(parent)
	return ctx, func(*taskpool.Handle) { end() }
}

func TestTaskThatWaitsIsCanceledAtOnce(t *testing.T) {
	for _, end := range lifeEnds {
		for name, task := range map[string]taskpool.Task{
			"queued":            {},
			"delayed":           {NotBefore: time.Now().Add(24 * time.Hour)},
			"delayed for retry": {Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }}},
			"queued for retry":  {Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}},
		} {
			t.Run(name+" by "+end.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1))
					var a pooltest.Attempts
					task.Run = func(context.Context) error {
						a.Start()
						p.Pause() // keeps a retry in the queue
						return pooltest.ErrTask
					}
					retried := strings.HasSuffix(name, "retry")
					if name == "queued" {
						p.Pause()
					}
					ctx, cancel := end.begin(t.Context())
					h, err := p.Submit(ctx, task)
					require.NoError(t, err)
					synctest.Wait()
					want := taskpool.StateQueued
					if strings.HasPrefix(name, "delayed") {
						want = taskpool.StateDelayed
					}
					require.Equal(t, want, h.State())

					cancel(h)
					synctest.Wait()
					require.Equal(t, taskpool.StateCanceled, h.State())
					require.Equal(t, end.cause, h.Err())
					select {
					case <-h.Done():
					default:
						require.Fail(t, "Done must be closed")
					}
					s := p.Stats()
					require.Zero(t, s.Queued+s.Delayed)
					require.EqualValues(t, 1, s.Canceled)
					pooltest.RequireConserved(t, s)
					require.False(t, h.Cancel(pooltest.ErrTask), "it has settled")
					require.Equal(t, end.cause, h.Err())
					p.Resume()
					pooltest.RequireWhole(t, p, 1)
					want2 := 0
					if retried {
						want2 = 1
					}
					require.Equal(t, want2, a.N(), "a canceled task never runs")
				})
			})
		}
	}
}

func TestRunningTaskIsCanceledIfItReturnsAnError(t *testing.T) {
	for _, end := range lifeEnds {
		for name, tt := range map[string]struct {
			run   func(ctx context.Context) error
			state taskpool.State
			is    []error
		}{
			"returns ctx.Err()": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, taskpool.StateCanceled, nil},
			"returns the cause": {func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }, taskpool.StateCanceled, nil},
			"returns an error":  {func(ctx context.Context) error { <-ctx.Done(); return pooltest.ErrTask }, taskpool.StateCanceled, []error{pooltest.ErrTask}},
			"returns one later": {func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				return pooltest.ErrTask
			}, taskpool.StateCanceled, []error{pooltest.ErrTask}},
			"returns nil": {func(ctx context.Context) error { <-ctx.Done(); return nil }, taskpool.StateSucceeded, nil},
		} {
			t.Run(end.name+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1))
					var cause error
					var a pooltest.Attempts
					ctx, cancel := end.begin(t.Context())
					h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
						a.Start()
						err := tt.run(ctx)
						cause = context.Cause(ctx)
						return err
					}, Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait, If: func(error) bool {
						assert.Fail(t, "If must not be asked about a canceled task")
						return true
					}}})
					require.NoError(t, err)
					synctest.Wait()
					require.Equal(t, taskpool.StateRunning, h.State())
					cancel(h)
					err = h.Wait(t.Context())
					require.Equal(t, end.cause, cause, "the cause reaches the task")
					require.Equal(t, tt.state, h.State())
					require.Equal(t, 1, a.N(), "a canceled task is never retried")
					if tt.state == taskpool.StateSucceeded {
						require.NoError(t, err)
					} else {
						require.ErrorIs(t, err, end.cause)
						for _, is := range tt.is {
							require.ErrorIs(t, err, is)
							require.ErrorContains(t, err, is.Error())
						}
					}
					require.False(t, h.Cancel(nil))
					pooltest.RequireWhole(t, p, 1)
				})
			})
		}
	}
}

func TestCancelReturnsTrueUntilTheTaskHasSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Second); return pooltest.ErrTask }})
		synctest.Wait()
		require.True(t, h.Cancel(pooltest.ErrCause))
		require.True(t, h.Cancel(errors.New("too late for the cause")))
		require.Equal(t, taskpool.StateRunning, h.State(), "Cancel does not wait")
		require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrCause, "the first cause counts")
		require.False(t, h.Cancel(pooltest.ErrCause))

		for _, run := range []func(context.Context) error{
			func(context.Context) error { return nil },
			func(context.Context) error { return pooltest.ErrTask },
			func(context.Context) error { panic("x") },
		} {
			h := pooltest.Submit(t, p, taskpool.Task{Run: run})
			want := h.Wait(t.Context())
			require.False(t, h.Cancel(pooltest.ErrCause))
			require.Equal(t, want, h.Err())
		}
	})
}

// A task may see that its context is over before the pool does.
func TestErrorReturnedAtTheMomentOfCancellationIsCanceled(t *testing.T) {
	for _, end := range lifeEnds {
		if end.name == "deadline of ctx" {
			continue // there is no moment to choose
		}
		t.Run(end.name, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2))
			for range 100 {
				ctx, cancel := end.begin(context.Background())
				h, err := p.Submit(ctx, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait},
					Run: func(ctx context.Context) error {
						info, _ := taskpool.Current(ctx)
						cancel(info.Handle)
						return pooltest.ErrTask
					}})
				require.NoError(t, err)
				err = h.Wait(t.Context())
				require.ErrorIs(t, err, end.cause)
				require.ErrorIs(t, err, pooltest.ErrTask)
				require.Equal(t, taskpool.StateCanceled, h.State())
			}
			require.EqualValues(t, 100, p.Stats().Attempts)
		})
	}
}

func TestTaskCanceledWhileItsPolicyIsAskedIsNotRetried(t *testing.T) {
	for _, end := range lifeEnds {
		for _, where := range []string{"If", "Backoff"} {
			for name, fail := range map[string]func() error{
				"error": func() error { return pooltest.ErrTask },
				"panic": func() error { panic(pooltest.ErrTask) },
			} {
				t.Run(fmt.Sprintf("%s in %s after %s", end.name, where, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						logs := new(pooltest.LogRecorder)
						p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(logs.Logger()))
						ctx, cancel := end.begin(t.Context())
						var a pooltest.Attempts
						var h *taskpool.Handle
						at := func(here string) {
							if here == where {
								cancel(h)
							}
						}
						h2, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
							a.Start()
							info, _ := taskpool.Current(ctx)
							h = info.Handle
							return fail()
						}, Retry: taskpool.Retry{MaxAttempts: 3,
							Backoff: func(int) time.Duration { at("Backoff"); return time.Hour },
							If:      func(error) bool { at("If"); return true },
						}})
						require.NoError(t, err)
						began := time.Now()
						err = h2.Wait(t.Context())
						require.Less(t, time.Since(began), time.Hour, "no backoff is waited for")
						require.ErrorIs(t, err, end.cause)
						require.Equal(t, taskpool.StateCanceled, h2.State())
						require.Equal(t, 1, a.N())
						synctest.Wait()
						if name == "panic" {
							// What became of the task does not make the panic unseen.
							require.Contains(t, logs.Messages(), "ERROR taskpool: task panicked")
						}
						pooltest.RequireWhole(t, p, 2)
					})
				})
			}
		}
	}
}

// A panic is not an error that Run returns: with and without a policy it stands.
func TestPanicAfterCancelIsLoggedAndNotRetried(t *testing.T) {
	for _, retry := range []taskpool.Retry{{}, {MaxAttempts: 3, Backoff: pooltest.NoWait}} {
		for _, end := range lifeEnds {
			t.Run(fmt.Sprintf("%s, MaxAttempts %d", end.name, retry.MaxAttempts), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					logs := new(pooltest.LogRecorder)
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(logs.Logger()))
					var a pooltest.Attempts
					var asked atomic.Bool
					retry := retry
					if retry.MaxAttempts > 0 {
						retry.If = func(error) bool { asked.Store(true); return true }
					}
					ctx, cancel := end.begin(t.Context())
					h, err := p.Submit(ctx, taskpool.Task{Retry: retry, Run: func(ctx context.Context) error {
						a.Start()
						<-ctx.Done()
						panic("late")
					}})
					require.NoError(t, err)
					synctest.Wait()
					cancel(h)
					var pe *taskpool.PanicError
					require.ErrorAs(t, h.Wait(t.Context()), &pe)
					require.Equal(t, taskpool.StateFailed, h.State())
					require.Equal(t, 1, a.N())
					require.False(t, asked.Load(), "If is not asked about a canceled task")
					synctest.Wait()
					require.Equal(t, []string{"ERROR taskpool: task panicked"}, logs.Messages())
					require.EqualValues(t, 1, p.Stats().Panics)
					pooltest.RequireWhole(t, p, 1)
				})
			})
		}
	}
}

// Timeout.

func TestTimeoutEndsTheContextOfTheAttempt(t *testing.T) {
	for name, derive := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"own": func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} },
		"with value": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithValue(ctx, pooltest.Key{}, 1), func() {}
		},
		"with cancel": context.WithCancel,
		"with later limit": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				began := time.Now()
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
					ctx, cancel := derive(ctx)
					defer cancel()
					assert.NoError(t, ctx.Err())
					<-ctx.Done()
					assert.Equal(t, time.Second, time.Since(began))
					assert.Equal(t, context.DeadlineExceeded, ctx.Err())
					assert.Equal(t, taskpool.ErrTimeout, context.Cause(ctx))
					return ctx.Err()
				}})
				err := h.Wait(t.Context())
				require.ErrorIs(t, err, taskpool.ErrTimeout)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, taskpool.StateFailed, h.State())
			})
		})
	}
}

// Keys of values outside and inside a task.
type (
	taskKey struct{}
)

func TestTimeoutIsWrappedWithWhatRunReturned(t *testing.T) {
	for name, run := range map[string]func(ctx context.Context) error{
		"watches its context": func(ctx context.Context) error { <-ctx.Done(); return pooltest.ErrTask },
		"never looks at it":   func(context.Context) error { time.Sleep(2 * time.Second); return pooltest.ErrTask },
		"looks when it is late": func(ctx context.Context) error {
			time.Sleep(2 * time.Second)
			assert.Error(t, ctx.Err())
			return pooltest.ErrTask
		},
		"returns on the instant": func(context.Context) error { time.Sleep(time.Second); return pooltest.ErrTask },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: run})
				err := h.Wait(t.Context())
				require.ErrorIs(t, err, taskpool.ErrTimeout)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorIs(t, err, pooltest.ErrTask)
				require.ErrorContains(t, err, pooltest.ErrTask.Error())
				require.NotErrorIs(t, err, taskpool.ErrHung)
				require.Equal(t, taskpool.StateFailed, h.State())
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

func TestContextFirstAskedForAfterTheTimeoutIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
			time.Sleep(3 * time.Second)
			assert.Equal(t, context.DeadlineExceeded, ctx.Err())
			assert.Equal(t, taskpool.ErrTimeout, context.Cause(ctx))
			return nil
		}})
		require.NoError(t, h.Wait(t.Context()))
	})
}

func TestNilAfterTheTimeoutWithinTheGraceSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(5*time.Second))
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error {
			time.Sleep(6*time.Second - 1)
			return nil
		}})
		require.NoError(t, h.Wait(t.Context()))
		require.Equal(t, taskpool.StateSucceeded, h.State())
		require.Zero(t, p.Stats().Hangs)
	})
}

func TestTaskThatMakesItInTimeKeepsItsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
			time.Sleep(time.Second - 1)
			assert.NoError(t, ctx.Err())
			return pooltest.ErrTask
		}})
		require.Equal(t, pooltest.ErrTask, h.Wait(t.Context()))
		time.Sleep(time.Minute)
		pooltest.RequireWhole(t, p, 1)
	})
}

func TestEachAttemptHasItsOwnTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var a pooltest.Attempts
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
			n := a.Start()
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.Equal(t, time.Now().Add(time.Second), deadline)
			info, _ := taskpool.Current(ctx)
			assert.Equal(t, deadline, info.Deadline)
			if n == 3 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, Retry: taskpool.Retry{MaxAttempts: 3, Backoff: func(int) time.Duration { return 10 * time.Second }}})
		require.NoError(t, h.Wait(t.Context()))
		require.Equal(t, []time.Duration{11 * time.Second, 11 * time.Second}, a.Gaps())
	})
}

func TestDeadlineIsTheEarlierOfTimeoutAndContext(t *testing.T) {
	for name, tt := range map[string]struct{ timeout, ctx, want time.Duration }{
		"none":            {0, 0, 0},
		"timeout":         {time.Second, 0, time.Second},
		"context":         {0, time.Second, time.Second},
		"timeout earlier": {time.Second, time.Minute, time.Second},
		"context earlier": {time.Minute, time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1))
				ctx := t.Context()
				if tt.ctx > 0 {
					var cancel func()
					ctx, cancel = context.WithTimeout(ctx, tt.ctx)
					defer cancel()
				}
				h, err := p.Submit(ctx, taskpool.Task{Timeout: tt.timeout, Run: func(ctx context.Context) error {
					began := time.Now()
					deadline, ok := ctx.Deadline()
					assert.Equal(t, tt.want > 0, ok)
					if ok {
						assert.Equal(t, began.Add(tt.want), deadline)
						<-ctx.Done()
						assert.Equal(t, tt.want, time.Since(began))
					}
					return ctx.Err()
				}})
				require.NoError(t, err)
				err = h.Wait(context.Background())
				want := taskpool.StateSucceeded
				switch {
				case tt.ctx == tt.want && tt.want > 0:
					want = taskpool.StateCanceled
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.NotErrorIs(t, err, taskpool.ErrTimeout)
				case tt.want > 0:
					want = taskpool.StateFailed
					require.ErrorIs(t, err, taskpool.ErrTimeout)
				}
				require.Equal(t, want, h.State())
			})
		})
	}
}

// Contexts.

func TestContextValuesFlowIntoTheTask(t *testing.T) {
	p := pooltest.New(t)
	ctx := context.WithValue(context.Background(), pooltest.Key{}, "seen")
	h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
		assert.Equal(t, "seen", ctx.Value(pooltest.Key{}))
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		assert.Equal(t, "seen", derived.Value(pooltest.Key{}))
		assert.Nil(t, ctx.Value("other"))
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, h.Wait(context.Background()))
}

func TestContextOfATaskEndsWithTheTaskAndSaysSo(t *testing.T) {
	for name, run := range map[string]func(context.Context) error{
		"nil":    func(context.Context) error { return nil },
		"error":  func(context.Context) error { return pooltest.ErrTask },
		"panic":  func(context.Context) error { panic("x") },
		"Goexit": func(context.Context) error { runtime.Goexit(); return nil },
	} {
		for _, early := range []bool{false, true} { // asked for its Done while the task ran
			t.Run(fmt.Sprintf("%s, asked early %v", name, early), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1))
					var kept context.Context
					h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
						kept = ctx
						if early {
							assert.NotNil(t, ctx.Done())
						}
						return run(ctx)
					}})
					_ = h.Wait(t.Context())
					require.Equal(t, context.Canceled, kept.Err())
					require.ErrorContains(t, context.Cause(kept), "Detach")
					require.ErrorIs(t, context.Cause(kept), context.Canceled)
					<-kept.Done()
				})
			})
		}
	}
}

func TestContextOfAnAttemptEndsBeforeTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		var contexts []context.Context
		h := pooltest.Submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 3}, Run: func(ctx context.Context) error {
			for _, before := range contexts {
				assert.Error(t, before.Err())
			}
			assert.NoError(t, ctx.Err())
			contexts = append(contexts, ctx)
			return pooltest.ErrTask
		}})
		require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrTask)
		require.Len(t, contexts, 3)
	})
}

func TestChildEndsWithItsParentUnlessDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		var child, free *taskpool.Handle
		wait := func(ctx context.Context) error { return pooltest.Sleep(ctx, time.Minute) }
		parent := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) (err error) {
			child, err = p.Submit(ctx, taskpool.Task{Run: wait})
			if err == nil {
				free, err = p.Submit(taskpool.Detach(ctx), taskpool.Task{Run: wait})
			}
			return err
		}})
		require.NoError(t, parent.Wait(t.Context()))
		err := child.Wait(t.Context())
		require.Equal(t, taskpool.StateCanceled, child.State())
		require.ErrorContains(t, err, "Detach")
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, free.Wait(t.Context()))
	})
}

func TestDetachLeavesTheTask(t *testing.T) {
	outside := context.WithValue(context.Background(), pooltest.Key{}, "outer")
	require.Equal(t, outside, taskpool.Detach(outside), "outside a task it changes nothing")

	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		ctx, cancel := context.WithCancelCause(context.WithValue(context.Background(), pooltest.Key{}, "outer"))
		var kept, keptChild context.Context
		check := func(detached context.Context) {
			_, inside := taskpool.Current(detached)
			assert.False(t, inside)
			assert.Equal(t, "outer", detached.Value(pooltest.Key{}))
			assert.NoError(t, detached.Err())
			assert.Equal(t, detached, taskpool.Detach(detached))
		}
		h, err := p.Submit(ctx, taskpool.Task{Timeout: time.Minute, Run: func(ctx context.Context) error {
			derived := context.WithValue(ctx, taskKey{}, 1)
			kept = taskpool.Detach(derived)
			check(kept)
			assert.Nil(t, kept.Value(taskKey{}))
			_, limited := kept.Deadline()
			assert.False(t, limited, "the task's timeout is not part of it")
			child, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
				info, inside := taskpool.Current(ctx)
				assert.True(t, inside)
				assert.EqualValues(t, 2, info.ID)
				keptChild = taskpool.Detach(ctx)
				check(keptChild)
				return nil
			}})
			if err != nil {
				return err
			}
			return child.Wait(kept)
		}})
		require.NoError(t, err)
		require.NoError(t, h.Wait(context.Background()))
		require.NoError(t, kept.Err(), "it does not end with the task")
		require.ErrorContains(t, context.Cause(keptChild), "Detach", "the child was submitted with its parent's context")
		cancel(pooltest.ErrCause)
		require.Equal(t, pooltest.ErrCause, context.Cause(kept), "it ends with the context the task was submitted with")
	})
}

func TestCurrentTellsTheTaskOfAContext(t *testing.T) {
	_, ok := taskpool.Current(context.Background())
	require.False(t, ok)

	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }})
		var infos []taskpool.TaskInfo
		var contexts []context.Context
		h := pooltest.Submit(t, p, taskpool.Task{Name: "who", Priority: 7, Timeout: time.Minute, Run: func(ctx context.Context) error {
			info, ok := taskpool.Current(ctx)
			assert.True(t, ok)
			derived, cancel := context.WithTimeout(context.WithValue(ctx, pooltest.Key{}, 1), time.Second)
			defer cancel()
			for _, ctx := range []context.Context{derived, context.WithoutCancel(ctx)} {
				same, ok := taskpool.Current(ctx)
				assert.True(t, ok)
				assert.Equal(t, info, same)
			}
			assert.Equal(t, time.Now(), info.Started)
			assert.Equal(t, time.Now().Add(time.Minute), info.Deadline)
			infos, contexts = append(infos, info), append(contexts, ctx)
			time.Sleep(time.Millisecond)
			return pooltest.ErrTask
		}, Retry: taskpool.Retry{MaxAttempts: 3}})
		require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrTask)
		require.Len(t, infos, 3)
		for i, info := range infos {
			require.EqualValues(t, 2, info.ID)
			require.Equal(t, "who", info.Name)
			require.Equal(t, taskpool.Priority(7), info.Priority)
			require.Equal(t, taskpool.StateRunning, info.State)
			require.Equal(t, i+1, info.Attempt)
			require.Positive(t, info.Worker)
			require.Same(t, h, info.Handle)
			if i > 0 {
				require.ErrorIs(t, info.Err, pooltest.ErrTask)
			} else {
				require.NoError(t, info.Err)
			}
			later, ok := taskpool.Current(contexts[i])
			require.True(t, ok)
			require.Equal(t, i+1, later.Attempt, "a context keeps its attempt")
			require.Equal(t, taskpool.StateFailed, later.State)
		}
	})
}

// Handles.

func TestWaitEndsWithItsContextAndTheTaskGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		over, cancel := context.WithCancelCause(context.Background())
		cancel(pooltest.ErrCause)
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Second); return pooltest.ErrTask }})
		require.Equal(t, pooltest.ErrCause, h.Wait(over))
		soon, stop := context.WithTimeout(context.Background(), time.Millisecond)
		defer stop()
		require.Equal(t, context.DeadlineExceeded, h.Wait(soon))
		require.Equal(t, taskpool.StateRunning, h.State())
		require.Equal(t, pooltest.ErrTask, h.Wait(context.Background()))
		for range 50 { // a choice between two ready channels must not show
			require.Equal(t, pooltest.ErrTask, h.Wait(over), "a settled task is reported even if ctx is over")
		}
	})
}

func TestWaitForItselfIsErrInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2}, Run: func(ctx context.Context) error {
			info, _ := taskpool.Current(ctx)
			assert.Equal(t, taskpool.ErrInside, info.Handle.Wait(ctx))
			derived, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			assert.Equal(t, taskpool.ErrInside, info.Handle.Wait(derived))
			if info.Attempt == 1 {
				return pooltest.ErrTask
			}
			return nil
		}})
		require.NoError(t, h.Wait(t.Context()))
	})
}

func TestHandleShowsTheTasksLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		p.Pause()
		var a pooltest.Attempts
		h := pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Second), Run: func(context.Context) error {
			time.Sleep(time.Second)
			if a.Start() == 1 {
				return pooltest.ErrTask
			}
			return nil
		}, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Second }}})
		done := h.Done()
		require.Equal(t, done, h.Done())
		expect := func(want taskpool.State) {
			t.Helper()
			synctest.Wait()
			require.Equal(t, want, h.State())
			require.NoError(t, h.Err(), "nil until done")
			select {
			case <-done:
				require.Fail(t, "Done must be open")
			default:
			}
		}
		expect(taskpool.StateDelayed)
		time.Sleep(time.Second)
		expect(taskpool.StateQueued)
		p.Resume()
		expect(taskpool.StateRunning)
		time.Sleep(time.Second)
		expect(taskpool.StateDelayed)
		time.Sleep(time.Second)
		expect(taskpool.StateRunning)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, taskpool.StateSucceeded, h.State())
		<-done
		require.NoError(t, h.Err())
		<-pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }}).Done()
		require.NotNil(t, h.Done())
	})
}

func TestNotBeforeIsTheEarliestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		began := time.Now()
		var mu sync.Mutex
		started := make(map[time.Duration]time.Duration)
		for _, d := range []time.Duration{5 * time.Second, time.Second, -time.Hour, 3 * time.Second, 0, time.Hour} {
			pooltest.Submit(t, p, taskpool.Task{NotBefore: began.Add(d), Run: func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				started[d] = time.Since(began)
				return nil
			}})
		}
		synctest.Wait()
		require.Equal(t, 4, p.Stats().Delayed)
		require.NoError(t, p.WaitIdle(t.Context()), "a delayed task is not idle")
		require.Equal(t, map[time.Duration]time.Duration{-time.Hour: 0, 0: 0, time.Second: time.Second,
			3 * time.Second: 3 * time.Second, 5 * time.Second: 5 * time.Second, time.Hour: time.Hour}, started)
	})
}

func TestEveryAcceptedTaskSettlesExactlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tasks = 400
		var mu sync.Mutex
		finished := make(map[uint64][]taskpool.State)
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(2),
			taskpool.WithCapacity(150, taskpool.OverflowShed), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
				mu.Lock()
				defer mu.Unlock()
				finished[e.Task.ID] = append(finished[e.Task.ID], e.Task.State)
			}}))
		rnd := rand.New(rand.NewPCG(1, 2))
		var handles []*taskpool.Handle
		refused := 0
		for range tasks {
			kind := rnd.IntN(9)
			ctx, cancel := context.WithCancelCause(context.Background())
			task := taskpool.Task{Priority: taskpool.Priority(rnd.IntN(4)), Timeout: time.Duration(rnd.IntN(3)) * time.Second,
				Run: func(ctx context.Context) error {
					err := pooltest.Sleep(ctx, time.Duration(kind)*300*time.Millisecond)
					switch kind {
					case 1:
						panic("x")
					case 2:
						runtime.Goexit()
					case 3:
						return pooltest.ErrTask
					case 4:
						time.Sleep(10 * time.Second) // hangs if it has a timeout
					case 5:
						cancel(pooltest.ErrCause)
					}
					return err
				}}
			if rnd.IntN(2) == 0 {
				task.Retry = taskpool.Retry{MaxAttempts: 3, If: func(error) bool { return true }}
			}
			if rnd.IntN(3) == 0 {
				task.NotBefore = time.Now().Add(time.Duration(rnd.IntN(10)) * time.Second)
			}
			h, err := p.Submit(ctx, task)
			if err != nil {
				require.ErrorIs(t, err, taskpool.ErrFull)
				refused++
				continue
			}
			handles = append(handles, h)
			if kind == 6 {
				h.Cancel(pooltest.ErrCause)
			}
			if rnd.IntN(3) == 0 {
				time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
			}
			pooltest.RequireConserved(t, p.Stats())
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		time.Sleep(time.Minute) // the hung ones come back
		synctest.Wait()
		byState := make(map[taskpool.State]int)
		for _, h := range handles {
			byState[h.State()]++
		}
		require.Equal(t, len(handles), byState[taskpool.StateSucceeded]+byState[taskpool.StateFailed]+byState[taskpool.StateCanceled]+byState[taskpool.StateShed])
		for s := taskpool.StateSucceeded; s <= taskpool.StateShed; s++ {
			require.Positive(t, byState[s], "the mix must have some %v", s)
		}
		require.Len(t, finished, len(handles))
		for id, states := range finished {
			require.Len(t, states, 1, "task %d finished once", id)
			require.Equal(t, handles[id-1].State(), states[0])
		}
		s := p.Stats()
		require.EqualValues(t, len(handles), s.Submitted)
		require.EqualValues(t, refused, s.Refused)
		require.EqualValues(t, byState[taskpool.StateSucceeded], s.Succeeded)
		require.EqualValues(t, byState[taskpool.StateFailed], s.Failed)
		require.EqualValues(t, byState[taskpool.StateCanceled], s.Canceled)
		require.EqualValues(t, byState[taskpool.StateShed], s.Shed)
		require.Positive(t, s.Hangs)
		require.Zero(t, s.Abandoned)
		pooltest.RequireWhole(t, p, 3)
	})
}

func TestFourStatesAreFinal(t *testing.T) {
	var final []taskpool.State
	for s := taskpool.StateQueued - 1; s <= taskpool.StateAbandoned+1; s++ {
		if s.Final() {
			final = append(final, s)
		}
	}
	require.Equal(t, []taskpool.State{taskpool.StateSucceeded, taskpool.StateFailed, taskpool.StateCanceled, taskpool.StateShed}, final)
}
