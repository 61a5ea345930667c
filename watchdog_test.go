package taskpool_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// What happens to a worker while the supervisor is about to give up on its task
// and, without the lock, looks where it hangs.

// endsOfRun are the ways in which Run can end, and what is right then for a task
// whose Timeout was over.
var endsOfRun = map[string]struct {
	end   func() error
	right func(err error) bool
}{
	"nil":    {func() error { return nil }, func(err error) bool { return err == nil }},
	"error":  {func() error { return pooltest.ErrTask }, func(err error) bool { return errors.Is(err, pooltest.ErrTask) }},
	"panic":  {func() error { panic("late") }, func(err error) bool { return errors.As(err, new(*taskpool.PanicError)) }},
	"Goexit": {func() error { runtime.Goexit(); return nil }, func(err error) bool { return errors.Is(err, taskpool.ErrGoexit) }},
}

// whileGivingUp returns an option that has f called, once, while the supervisor
// gives up on a task. f is followed by all that comes of it.
func whileGivingUp(f func()) taskpool.Option {
	var once atomic.Bool
	return taskpool.WithGivingUp(func() {
		if !once.Swap(true) {
			f()
			time.Sleep(time.Nanosecond) // in virtual time
		}
	})
}

func TestWhatEndsWhileItIsGivenUpHasEndedInTime(t *testing.T) {
	for name, tt := range endsOfRun {
		for _, retry := range []taskpool.Retry{{}, {MaxAttempts: 2, Backoff: pooltest.NoWait, If: func(error) bool { return false }}} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					gate := make(chan struct{})
					p := pooltest.New(t, taskpool.WithWorkers(2), whileGivingUp(func() { close(gate) }))
					h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Retry: retry, Run: func(context.Context) error {
						<-gate
						return tt.end()
					}})
					err := h.Wait(t.Context())
					require.True(t, tt.right(err), "%v", err)
					require.NotErrorIs(t, err, taskpool.ErrHung)
					time.Sleep(time.Second)
					s := p.Stats()
					require.Zero(t, s.Hangs)
					require.Zero(t, s.Abandoned)
					pooltest.RequireWhole(t, p, 2)
				})
			})
		}
	}
}

// The last worker of a Shutdown that was cut short: the supervisor ends with the
// pool, and nobody would replace a dead worker that is counted as abandoned.
func TestWhatEndsWhileItIsGivenUpAtShutdownIsNotAbandonedForEver(t *testing.T) {
	for name, tt := range endsOfRun {
		for kind, start := range map[string]func(t *testing.T, p *taskpool.Pool, run func() error) *taskpool.Handle{
			"task": func(t *testing.T, p *taskpool.Pool, run func() error) *taskpool.Handle {
				return pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return run() }})
			},
			"retried": func(t *testing.T, p *taskpool.Pool, run func() error) *taskpool.Handle {
				return pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return run() },
					Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { return true }}})
			},
			"function": func(t *testing.T, p *taskpool.Pool, run func() error) *taskpool.Handle {
				require.NoError(t, p.Go(taskpool.Medium, func() { _ = run() }))
				return nil
			},
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					gate := make(chan struct{})
					p := pooltest.New(t, taskpool.WithWorkers(1), whileGivingUp(func() { close(gate) }))
					h := start(t, p, func() error { <-gate; return tt.end() })
					synctest.Wait()
					require.Error(t, p.Shutdown(pooltest.EndedContext()))
					time.Sleep(time.Second)
					s := p.Stats()
					require.Zero(t, s.Abandoned)
					require.Zero(t, s.Hangs)
					pooltest.RequireConserved(t, s)
					if h != nil {
						err := h.Err()
						require.True(t, tt.right(err), "%v", err)
					}
				})
			})
		}
	}
}

// A hook that hung before Run was called: the attempt is given up, but its
// goroutine has gone.
func TestHookThatEndsItsGoroutineWhileItIsGivenUpLeavesNothing(t *testing.T) {
	for _, name := range []string{"Timeout", "Shutdown"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				events := new(pooltest.EventLog)
				p := pooltest.New(t, taskpool.WithWorkers(1), whileGivingUp(func() { close(gate) }), taskpool.WithHooks(events.Hooks()),
					taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) { <-gate; runtime.Goexit() }}))
				ran := false
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { ran = true; return nil }})
				if name == "Shutdown" {
					synctest.Wait()
					require.Error(t, p.Shutdown(pooltest.EndedContext()))
				} else {
					require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
				}
				synctest.Wait()
				require.ErrorIs(t, h.Err(), taskpool.ErrHung)
				require.False(t, ran)
				require.Zero(t, p.Stats().Abandoned)
				require.Len(t, events.Named("Finished"), 1)
				require.Len(t, events.Named("WorkerDied"), 1)
				require.Empty(t, events.Named("WorkerAbandoned"))
				if name == "Timeout" {
					pooltest.RequireWhole(t, p, 1)
				}
			})
		})
	}
}

// A hung task that has kept its slot dies while the last one is given up on: with
// that the pool is drained, and gives up on all that have lost their slots.
func TestLostWorkerThatDiesIsNotAbandoned(t *testing.T) {
	for name, tt := range endsOfRun {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, second := make(chan struct{}), make(chan struct{})
				calls := 0
				events := new(pooltest.EventLog)
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithMaxAbandoned(0), taskpool.WithHooks(events.Hooks()), taskpool.WithGivingUp(func() {
					if calls++; calls == 2 {
						close(first)
						time.Sleep(time.Nanosecond)
					}
				}))
				hang := func(gate chan struct{}) *taskpool.Handle {
					return pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return tt.end() }})
				}
				require.ErrorIs(t, hang(first).Wait(t.Context()), taskpool.ErrHung)
				last := hang(second)
				require.NoError(t, p.Shutdown(pooltest.Patience(t)))
				require.ErrorIs(t, last.Err(), taskpool.ErrHung)
				close(second)
				time.Sleep(time.Second)
				s := p.Stats()
				require.Zero(t, s.Abandoned)
				require.Zero(t, s.Lost)
				require.EqualValues(t, 2, s.Hangs)
				require.Len(t, events.Named("WorkerAbandoned"), 1, "the last one")
			})
		})
	}
}

// Hooks that do not return keep the supervisor from replacing the dead, until the
// end of a Shutdown that is cut short.
func TestDeadWorkersAreNotAbandonedAtTheEndOfShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithHooks(taskpool.Hooks{WorkerDied: func(taskpool.WorkerEvent) { <-gate }}))
		for range 5000 {
			require.NoError(t, p.Go(taskpool.Medium, func() { panic("x") }))
		}
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic("x") }})
		synctest.Wait()
		require.Error(t, p.Shutdown(pooltest.EndedContext()))
		require.Zero(t, p.Stats().Abandoned)
		close(gate)
	})
}
