package faults_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestAnyNumberOfDeathsLeavesAllWorkers(t *testing.T) {
	for name, die := range map[string]func(){"panic": func() { panic("x") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const workers, deaths = 3, 100
				p := pooltest.New(t, taskpool.WithWorkers(workers))
				for i := range deaths {
					if i%2 == 0 {
						require.NoError(t, p.Go(taskpool.Medium, die))
					} else {
						pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { die(); return nil }})
					}
				}
				require.NoError(t, p.WaitIdle(t.Context()))
				synctest.Wait()
				s := p.Stats()
				require.EqualValues(t, deaths, s.Replaced)
				require.EqualValues(t, deaths, s.Failed)
				require.EqualValues(t, deaths, s.Panics+s.Goexits)
				pooltest.RequireWhole(t, p, workers)
			})
		})
	}
}

// Nothing is due at any time, so the supervisor has but its channel to learn of
// a death.
func TestDeadWorkerIsReplacedWithoutTimePassing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		began := time.Now()
		for range 10 {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic("x") }})
		}
		require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }}).Wait(t.Context()))
		require.Zero(t, time.Since(began))
	})
}

func TestHealthyLongTasksAreNeverJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Millisecond))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { time.Sleep(1000 * time.Hour); return nil }})
		require.NoError(t, err)
		h2 := pooltest.Submit(t, p, taskpool.Task{Timeout: 2000 * time.Hour, Run: func(context.Context) error { time.Sleep(1000 * time.Hour); return nil }})
		require.NoError(t, h.Wait(t.Context()))
		require.NoError(t, h2.Wait(t.Context()))
		s := p.Stats()
		require.Zero(t, s.Hangs)
		require.Zero(t, s.Replaced)
	})
}

func TestHungTaskIsGivenUpAfterTheGrace(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout time.Duration
		end     func(h *taskpool.Handle, cancel context.CancelCauseFunc)
		cause   error
	}{
		"timeout": {time.Second, nil, taskpool.ErrTimeout},
		"Cancel":  {0, func(h *taskpool.Handle, _ context.CancelCauseFunc) { h.Cancel(pooltest.ErrCause) }, pooltest.ErrCause},
		"ctx":     {0, func(_ *taskpool.Handle, cancel context.CancelCauseFunc) { cancel(pooltest.ErrCause) }, pooltest.ErrCause},
	} {
		for _, retry := range []taskpool.Retry{{}, {MaxAttempts: 5, Backoff: pooltest.NoWait}} {
			t.Run(fmt.Sprintf("%s, MaxAttempts %d", name, retry.MaxAttempts), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(3*time.Second))
					gate := make(chan struct{})
					ctx, cancel := context.WithCancelCause(context.Background())
					defer cancel(nil)
					h, err := p.Submit(ctx, taskpool.Task{Timeout: tt.timeout, Retry: retry, Run: func(context.Context) error {
						pooltest.HangsHere(gate)
						return nil
					}})
					require.NoError(t, err)
					time.Sleep(time.Second)
					if tt.end != nil {
						tt.end(h, cancel)
					}
					time.Sleep(3*time.Second - 1)
					synctest.Wait()
					require.Equal(t, taskpool.StateRunning, h.State(), "the grace is not over")
					time.Sleep(time.Nanosecond)
					synctest.Wait()
					require.Equal(t, taskpool.StateFailed, h.State())
					err = h.Err()
					var he *taskpool.HungError
					require.ErrorAs(t, err, &he)
					require.ErrorIs(t, err, taskpool.ErrHung)
					require.ErrorIs(t, err, tt.cause)
					require.Contains(t, string(he.Stack), "HangsHere")
					require.Contains(t, string(he.Stack), "supervisor_test.go")
					require.NotContains(t, string(he.Stack), "synctest.Wait(", "no other goroutine's stack")
					require.False(t, h.Cancel(nil))

					s := p.Stats()
					require.EqualValues(t, 1, s.Hangs)
					require.EqualValues(t, 1, s.Replaced)
					require.EqualValues(t, 1, s.Attempts, "a hang is not retried")
					require.Equal(t, 1, s.Abandoned)
					require.Zero(t, s.Running)
					require.NoError(t, p.Health())
					infos := p.Tasks()
					require.Len(t, infos, 1)
					require.Equal(t, taskpool.StateAbandoned, infos[0].State)
					require.Same(t, h, infos[0].Handle)
					pooltest.RequireWhole(t, p, 1)

					close(gate) // it returns nil, much too late
					synctest.Wait()
					require.Equal(t, taskpool.StateFailed, h.State())
					require.Equal(t, err, h.Err())
					s = p.Stats()
					require.Zero(t, s.Abandoned)
					require.EqualValues(t, 1, s.Failed)
					require.Empty(t, p.Tasks())
					pooltest.RequireWhole(t, p, 1)
				})
			})
		}
	}
}

func TestLateEndOfAnAbandonedTaskIsDiscarded(t *testing.T) {
	for name, end := range map[string]func() error{
		"nil":    func() error { return nil },
		"error":  func() error { return pooltest.ErrTask },
		"panic":  func() error { panic("late") },
		"Goexit": func() error { runtime.Goexit(); return nil },
	} {
		for _, abandoned := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s, MaxAbandoned %d", name, abandoned), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					events := new(pooltest.EventLog)
					p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithMaxAbandoned(abandoned), taskpool.WithHooks(events.Hooks()))
					gate := make(chan struct{})
					h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Retry: taskpool.Retry{MaxAttempts: 5}, Run: func(context.Context) error {
						<-gate
						return end()
					}})
					err := h.Wait(t.Context())
					require.ErrorIs(t, err, taskpool.ErrHung)
					synctest.Wait()
					before := p.Stats()
					close(gate)
					synctest.Wait()
					require.Equal(t, err, h.Err())
					after := p.Stats()
					require.EqualValues(t, 1, after.Failed)
					require.EqualValues(t, 1, after.Attempts)
					require.Equal(t, before.Panics+before.Goexits, after.Panics+after.Goexits)
					require.Zero(t, after.Abandoned)
					require.Len(t, events.Named("Finished"), 1)
					require.Len(t, events.Named("AttemptFailed"), 1)
					pooltest.RequireWhole(t, p, 2)
				})
			})
		}
	}
}

func TestCapacityIsWholeAfterEveryWorkerHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers = 3
		p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithHangGrace(time.Second))
		gate := make(chan struct{})
		var handles []*taskpool.Handle
		for range workers {
			handles = append(handles, pooltest.Hang(t, p, gate))
		}
		next := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }})
		began := time.Now()
		require.NoError(t, next.Wait(t.Context()))
		require.Equal(t, 2*time.Second, time.Since(began), "timeout and grace")
		for _, h := range handles {
			require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
		}
		require.NoError(t, p.Health())
		require.Equal(t, workers, p.Stats().Abandoned)
		pooltest.RequireWhole(t, p, workers)
		close(gate)
		synctest.Wait()
		require.Zero(t, p.Stats().Abandoned)
		pooltest.RequireWhole(t, p, workers)
	})
}

func TestSlotsAreLostBeyondMaxAbandoned(t *testing.T) {
	const workers = 3
	for name, tt := range map[string]struct {
		opts      []taskpool.Option
		abandoned int
		hung      int
	}{
		"0":       {[]taskpool.Option{taskpool.WithMaxAbandoned(0)}, 0, 2},
		"1":       {[]taskpool.Option{taskpool.WithMaxAbandoned(1)}, 1, 3},
		"default": {nil, workers, workers + 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, append(tt.opts, taskpool.WithWorkers(workers))...)
				gates := make([]chan struct{}, tt.hung)
				for i := range gates {
					gates[i] = make(chan struct{})
					h := pooltest.Hang(t, p, gates[i]) // one after the other, so that the first are abandoned
					require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
					synctest.Wait()
				}
				expect := func(abandoned, lost int) {
					t.Helper()
					synctest.Wait()
					s := p.Stats()
					require.Equal(t, abandoned, s.Abandoned)
					require.Equal(t, lost, s.Lost)
					require.Equal(t, workers-lost, s.Goroutines)
					require.Equal(t, workers-lost, s.Idle)
					if lost == 0 {
						require.NoError(t, p.Health())
						pooltest.RequireWhole(t, p, workers)
						return
					}
					err := p.Health()
					require.ErrorIs(t, err, taskpool.ErrHung)
					require.ErrorContains(t, err, fmt.Sprintf("%d of %d slots lost", lost, workers))
					running := make(chan struct{}, workers)
					gate := make(chan struct{})
					for range workers {
						require.NoError(t, p.Go(taskpool.High, func() { running <- struct{}{}; <-gate }))
					}
					synctest.Wait()
					require.Len(t, running, workers-lost, "a lost slot runs nothing")
					close(gate)
					synctest.Wait()
				}
				lost := tt.hung - tt.abandoned
				expect(tt.abandoned, lost)

				// The last has lost its slot; it returns, and has it again.
				close(gates[tt.hung-1])
				lost--
				expect(tt.abandoned, lost)
				// An abandoned one returns: one that has lost its slot is
				// abandoned in its place.
				for i := range tt.hung - 1 {
					close(gates[i])
					left := tt.hung - 2 - i
					expect(min(tt.abandoned, left), max(left-tt.abandoned, 0))
				}
				pooltest.RequireWhole(t, p, workers)
			})
		})
	}
}

func TestWithAllSlotsLostTasksWaitForTheFirstReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxAbandoned(0))
		gate := make(chan struct{})
		require.ErrorIs(t, pooltest.Hang(t, p, gate).Wait(t.Context()), taskpool.ErrHung)
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }})
		time.Sleep(time.Hour)
		require.Equal(t, taskpool.StateQueued, h.State())
		close(gate)
		require.NoError(t, h.Wait(t.Context()))
		pooltest.RequireWhole(t, p, 1)
	})
}

func TestHangIsRetriedIfThePolicySaysSo(t *testing.T) {
	for name, tt := range map[string]struct {
		retryIf func(error) bool
		want    int
	}{
		"nil":    {nil, 1},
		"true":   {func(err error) bool { return errors.Is(err, taskpool.ErrHung) }, 3},
		"false":  {func(err error) bool { return !errors.Is(err, taskpool.ErrHung) }, 1},
		"panic":  {func(error) bool { panic("x") }, 1},
		"Goexit": {func(error) bool { runtime.Goexit(); return true }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Second))
				gate := make(chan struct{})
				var a pooltest.Attempts
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error {
					if a.Start() < 3 {
						<-gate
					}
					return nil
				}, Retry: taskpool.Retry{MaxAttempts: 3, If: tt.retryIf, Backoff: backoffIf(tt.retryIf != nil, time.Minute)}})
				err := h.Wait(t.Context())
				require.Equal(t, tt.want, a.N())
				if tt.want == 3 {
					require.NoError(t, err)
					require.Equal(t, []time.Duration{62 * time.Second, 62 * time.Second}, a.Gaps())
				} else {
					require.ErrorIs(t, err, taskpool.ErrHung)
				}
				pooltest.RequireWhole(t, p, 2)
				close(gate)
				synctest.Wait()
				require.Equal(t, tt.want, a.N())
				require.Equal(t, err, h.Err())
				pooltest.RequireWhole(t, p, 2)
			})
		})
	}
}

func backoffIf(set bool, d time.Duration) func(int) time.Duration {
	if !set {
		return nil
	}
	return func(int) time.Duration { return d }
}

func TestCanceledTaskThatHangsIsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate := make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil },
			Retry: taskpool.Retry{MaxAttempts: 3, If: func(error) bool {
				assert.Fail(t, "If must not be asked about a canceled task")
				return true
			}}})
		synctest.Wait()
		h.Cancel(pooltest.ErrCause)
		err := h.Wait(t.Context())
		require.ErrorIs(t, err, taskpool.ErrHung)
		require.ErrorIs(t, err, pooltest.ErrCause)
		require.EqualValues(t, 1, p.Stats().Attempts)
		close(gate)
		synctest.Wait()
	})
}

func TestPolicyThatThinksForLongDoesNotStopTheSupervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Second))
		gate, thinking := make(chan struct{}), make(chan struct{})
		slow := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil },
			Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { <-thinking; return false }}})
		time.Sleep(time.Minute)
		require.Equal(t, taskpool.StateRunning, slow.State())
		require.ErrorIs(t, pooltest.Hang(t, p, gate).Wait(t.Context()), taskpool.ErrHung)
		require.NoError(t, pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Second),
			Run: func(context.Context) error { return nil }}).Wait(t.Context()))
		close(thinking)
		require.ErrorIs(t, slow.Wait(t.Context()), taskpool.ErrHung)
		close(gate)
		pooltest.RequireWhole(t, p, 2)
	})
}

// The identity of an attempt, not that of the task, says what it may do.
func TestAbandonedAttemptDoesNotDisturbItsRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		gate, second := make(chan struct{}), make(chan struct{})
		contexts := make(chan context.Context, 1)
		var a pooltest.Attempts
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
			if a.Start() == 1 {
				contexts <- ctx
				<-gate
				return pooltest.ErrCause
			}
			assert.NoError(t, ctx.Err())
			close(second)
			return pooltest.Sleep(ctx, 500*time.Millisecond)
		}, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait, If: func(error) bool { return true }}})
		<-second
		first := <-contexts
		info, ok := taskpool.Current(first)
		require.True(t, ok)
		require.Equal(t, 1, info.Attempt)
		require.Equal(t, taskpool.StateAbandoned, info.State)
		s := p.Stats()
		require.Equal(t, 1, s.Running)
		require.Equal(t, 1, s.Abandoned)
		require.Equal(t, taskpool.ErrTimeout, context.Cause(first))
		close(gate)
		synctest.Wait()
		require.Equal(t, taskpool.StateRunning, h.State(), "the late end of the first attempt is nobody's")
		require.NoError(t, h.Wait(t.Context()))
		pooltest.RequireWhole(t, p, 1)
	})
}

func TestAbandonedTaskMayStillUseItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		gate, done := make(chan struct{}), make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error {
			defer close(done)
			<-gate
			assert.Equal(t, context.DeadlineExceeded, ctx.Err())
			_, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { return nil }})
			assert.ErrorIs(t, err, taskpool.ErrTimeout, "its context is over")
			return nil
		}})
		require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
		close(gate)
		<-done
		pooltest.RequireWhole(t, p, 1)
	})
}

// A hook that hangs before Run is called takes the attempt with it.
func TestAttemptGivenUpInAHookDoesNotCallRun(t *testing.T) {
	for name, hooks := range map[string]func(wait func()) taskpool.Hooks{
		"Started": func(wait func()) taskpool.Hooks {
			return taskpool.Hooks{Started: func(taskpool.TaskEvent) { wait() }}
		},
		"Around": func(wait func()) taskpool.Hooks {
			return taskpool.Hooks{Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				wait()
				return run(ctx)
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(hooks(func() { <-gate })))
				ran := 0
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { ran++; return nil }})
				require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
				close(gate)
				synctest.Wait()
				require.Zero(t, ran, "the task has settled, so it must not start")
				pooltest.RequireWhole(t, p, 1)
			})
		})
	}
}

func TestHangGraceStartsAtTheFirstEndOfTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(10*time.Second))
		gate := make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: 5 * time.Second, Run: func(context.Context) error { <-gate; return nil }})
		began := time.Now()
		time.Sleep(time.Second)
		h.Cancel(pooltest.ErrCause)
		time.Sleep(time.Second)
		h.Cancel(nil)
		require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrCause)
		require.Equal(t, 11*time.Second, time.Since(began))
		close(gate)
		pooltest.RequireWhole(t, p, 1)
	})
}
