package taskpool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) } // for all tests in this directory

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

// The supervisor's lateness. It looks at a task late if the process was stopped
// or starved of CPU; then so was the task. Up to a quarter of the bound counts as
// in time.

var lateBounds = []time.Duration{1, 3, 4, 7, 8, 200 * time.Millisecond, 5 * time.Second, time.Hour}

// lateBy returns how late a turn may come: around the quarter, and far off.
func lateBy(bound time.Duration) []time.Duration {
	return []time.Duration{0, bound / 4, bound/4 + 1, bound, 10 * bound}
}

func TestLateTurnIsNotTakenForAHang(t *testing.T) {
	for _, grace := range lateBounds {
		for _, late := range lateBy(grace) {
			t.Run(fmt.Sprintf("grace %v, late %v", grace, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithHangGrace(grace))
					gate, soon := make(chan struct{}), make(chan struct{})
					run := func(gate chan struct{}) func(context.Context) error {
						return func(ctx context.Context) error { <-ctx.Done(); <-gate; return ctx.Err() }
					}
					hangs := pooltest.Submit(t, p, taskpool.Task{Run: run(gate)})
					returns := pooltest.Submit(t, p, taskpool.Task{Run: run(soon)})
					blocks := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
						return taskpool.Block(ctx, func() error { return run(gate)(ctx) })
					}})
					all := []*taskpool.Handle{hangs, returns, blocks}
					synctest.Wait()
					for _, h := range all {
						h.Cancel(pooltest.ErrCause)
					}
					synctest.Wait()
					require.Equal(t, 3, p.MakeLate(late))
					synctest.Wait()
					if 4*late <= grace { // on time
						for _, h := range all {
							require.ErrorIs(t, h.Err(), taskpool.ErrHung)
						}
						close(gate)
						close(soon)
						pooltest.RequireWhole(t, p, 3)
						return
					}
					require.Equal(t, []int{2, 1}, []int{p.Stats().Running, p.Stats().Parked}, "not hung")
					again := min(late, grace)
					time.Sleep(again - 1)
					close(soon)
					synctest.Wait()
					require.Equal(t, taskpool.StateCanceled, returns.State())
					require.NotErrorIs(t, returns.Err(), taskpool.ErrHung)
					require.Equal(t, []int{1, 1}, []int{p.Stats().Running, p.Stats().Parked})
					time.Sleep(time.Nanosecond)
					synctest.Wait()
					for _, h := range []*taskpool.Handle{hangs, blocks} {
						require.ErrorIs(t, h.Err(), taskpool.ErrHung, "it had that time once more")
					}
					require.EqualValues(t, 2, p.Stats().Hangs)
					close(gate)
					pooltest.RequireWhole(t, p, 3)
				})
			})
		}
	}
}

func TestLateTurnIsNotTakenForAFunctionThatHangsAtShutdown(t *testing.T) {
	for _, grace := range lateBounds {
		for _, late := range lateBy(grace) {
			t.Run(fmt.Sprintf("grace %v, late %v", grace, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(grace))
					release := pooltest.Block(t, p)
					down := make(chan error, 1)
					go func() { down <- p.Shutdown(pooltest.EndedContext()) }()
					synctest.Wait()
					require.Equal(t, 1, p.MakeLate(late))
					synctest.Wait()
					if 4*late > grace {
						time.Sleep(min(late, grace) - 1)
						synctest.Wait()
						require.Empty(t, down)
						require.Zero(t, p.Stats().Hangs)
						time.Sleep(time.Nanosecond)
						synctest.Wait()
					}
					require.Len(t, down, 1)
					require.Error(t, <-down)
					require.EqualValues(t, 1, p.Stats().Hangs)
					release()
				})
			})
		}
	}
}

func TestLateTurnIsNotTakenForSilence(t *testing.T) {
	for _, h := range lateBounds {
		for _, late := range lateBy(h) {
			t.Run(fmt.Sprintf("Heartbeat %v, late %v", h, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(2))
					silent := pooltest.Submit(t, p, taskpool.Task{Heartbeat: h, Run: pooltest.UntilEnd})
					beat, stop := make(chan struct{}), make(chan struct{})
					beats := pooltest.Submit(t, p, taskpool.Task{Heartbeat: h, Run: func(ctx context.Context) error {
						for {
							select {
							case <-ctx.Done():
								return ctx.Err()
							case <-beat:
								taskpool.Beat(ctx)
							case <-stop:
								return nil
							}
						}
					}})
					synctest.Wait()
					require.Equal(t, 2, p.MakeLate(late))
					synctest.Wait()
					if 4*late <= h { // on time, and neither has given a sign
						require.ErrorIs(t, silent.Err(), taskpool.ErrHung)
						require.ErrorIs(t, beats.Err(), taskpool.ErrHung)
						pooltest.RequireWhole(t, p, 2)
						return
					}
					require.Equal(t, 2, p.Stats().Running, "not silent")
					time.Sleep(h - 1)
					synctest.Wait()
					require.Equal(t, 2, p.Stats().Running)
					beat <- struct{}{}
					synctest.Wait()
					time.Sleep(time.Nanosecond)
					synctest.Wait()
					require.ErrorIs(t, silent.Err(), taskpool.ErrHung, "a Heartbeat later")
					require.Equal(t, taskpool.StateRunning, beats.State())
					close(stop)
					require.NoError(t, beats.Wait(t.Context()))
					pooltest.RequireWhole(t, p, 2)
				})
			})
		}
	}
}

// A process that is stopped time and again finds nothing, and finds all of it as
// soon as it is left alone.
func TestTenThousandLateTurnsGiveNoFalseVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tasks, turns, bound = 100, 100, time.Second
		p := pooltest.New(t, taskpool.WithWorkers(2*tasks), taskpool.WithHangGrace(bound), taskpool.WithQuantum(time.Hour))
		rng := rand.New(rand.NewPCG(4, 4))
		gate := make(chan struct{})
		var hang, silent []*taskpool.Handle
		for range tasks {
			hang = append(hang, pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }}))
			silent = append(silent, pooltest.Submit(t, p, taskpool.Task{Heartbeat: bound, Run: pooltest.UntilEnd}))
		}
		synctest.Wait()
		for _, h := range hang {
			h.Cancel(pooltest.ErrCause)
		}
		for range turns {
			time.Sleep(time.Duration(rng.Int64N(int64(bound) / 4)))
			require.Equal(t, 2*tasks, p.MakeLate(bound/4+1+time.Duration(rng.Int64N(int64(bound)))))
			synctest.Wait()
			require.Equal(t, 2*tasks, p.Stats().Running)
		}
		began := time.Now()
		for _, h := range slices.Concat(hang, silent) {
			require.ErrorIs(t, h.Wait(pooltest.Patience(t)), taskpool.ErrHung)
		}
		require.LessOrEqual(t, time.Since(began), bound)
		require.EqualValues(t, tasks, p.Stats().Hangs, "the silent ones returned")
		close(gate)
		pooltest.RequireWhole(t, p, 2*tasks)
	})
}

// On a busy machine every wake-up comes a little late, that of the supervisor as
// those of the task. While it waits for the end of a grace or of a silence it takes
// many short waits, and what these take too long does not count.
func TestTimeThatTheMachineTookDoesNotCount(t *testing.T) {
	const bound, late = 10 * time.Second, time.Second
	for name, submitIt := range map[string]func(t *testing.T, p *taskpool.Pool, run func(context.Context) error) *taskpool.Handle{
		"grace": func(t *testing.T, p *taskpool.Pool, run func(context.Context) error) *taskpool.Handle {
			h := pooltest.Submit(t, p, taskpool.Task{Run: run})
			synctest.Wait()
			h.Cancel(pooltest.ErrCause)
			return h
		},
		"silence": func(t *testing.T, p *taskpool.Pool, run func(context.Context) error) *taskpool.Handle {
			return pooltest.Submit(t, p, taskpool.Task{Heartbeat: bound, Run: run})
		},
		"grace, in part in Block": func(t *testing.T, p *taskpool.Pool, run func(context.Context) error) *taskpool.Handle {
			h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
				_ = taskpool.Block(ctx, func() error { time.Sleep(6800 * time.Millisecond); return nil })
				return run(ctx)
			}})
			synctest.Wait()
			h.Cancel(pooltest.ErrCause)
			return h
		},
	} {
		for _, times := range []int{0, 1, 5} {
			t.Run(fmt.Sprintf("%s, %d times", name, times), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(bound))
					gate := make(chan struct{})
					h := submitIt(t, p, func(ctx context.Context) error {
						select {
						case <-gate:
						case <-taskpool.SilenceOnly(ctx):
						}
						return ctx.Err()
					})
					time.Sleep(bound * 6 / 10)
					for range times {
						require.True(t, p.MakeRoundLate(late), "a round is under way")
						synctest.Wait()
						time.Sleep(bound / 20)
					}
					time.Sleep(bound*4/10 - time.Duration(times)*bound/20)
					if times > 0 {
						synctest.Wait()
						require.Equal(t, taskpool.StateRunning, h.State(), "the lateness is granted")
						time.Sleep(time.Duration(times)*late - 1)
						synctest.Wait()
						require.Equal(t, taskpool.StateRunning, h.State(), "all of it")
						time.Sleep(time.Nanosecond)
					}
					synctest.Wait()
					require.ErrorIs(t, h.Err(), taskpool.ErrHung, "and no more")
					require.False(t, p.MakeRoundLate(late), "nothing counts any more")
					close(gate)
				})
			})
		}
	}
}

// Hooks that do not return are waited for until the last end of a Shutdown that is
// cut short, and that too is put off.
func TestEndOfShutdownIsPutOffByTheTimeThatTheMachineTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(10*time.Second),
			taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) { <-gate }}))
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		synctest.Wait()
		began := time.Now()
		down := make(chan error)
		go func() { down <- p.Shutdown(pooltest.EndedContext()) }()
		time.Sleep(time.Second)
		require.True(t, p.MakeRoundLate(3*time.Second))
		require.NoError(t, <-down)
		require.Equal(t, 23*time.Second, time.Since(began))
		close(gate)
	})
}

// The rounds go on while something counts, and at no other time: a pool that waits
// uses no CPU.
func TestNoRoundsWhereNothingCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithHangGrace(time.Minute))
		gate := make(chan struct{})
		hour := 10 * time.Hour
		for _, task := range []taskpool.Task{
			{Timeout: hour, Run: pooltest.UntilEnd},
			{Heartbeat: time.Minute, Run: func(ctx context.Context) error {
				for range 1000 {
					time.Sleep(10 * time.Second)
					taskpool.Beat(ctx)
				}
				return nil
			}},
			{Timeout: time.Second, Run: func(ctx context.Context) error { // parked for longer than its context lives
				return taskpool.Block(context.WithoutCancel(ctx), func() error { <-gate; return nil })
			}},
		} {
			pooltest.Submit(t, p, task)
		}
		require.False(t, p.MakeRoundLate(time.Second))
		for range 100 {
			time.Sleep(time.Duration(rand.Int64N(int64(time.Minute))))
			if p.Stats().Hangs > 0 { // the grace of the last is over
				synctest.Wait()
				require.False(t, p.MakeRoundLate(time.Second))
			}
		}
		require.EqualValues(t, 1, p.Stats().Hangs)
		close(gate)
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
	})
}

// It must not wake the processor for ever, nor take years of virtual time in a test.
func TestAStallThatLastsIsLookedAfterLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		var log pooltest.LogRecorder
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(grace))
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		time.Sleep(2*grace + 1)
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		require.LessOrEqual(t, p.UntilNextLook(), 2*grace)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		for range 16 {
			if p.UntilNextLook() > 15*grace {
				break
			}
			time.Sleep(grace)
			synctest.Wait()
		}
		require.Greater(t, p.UntilNextLook(), 15*grace)
		require.LessOrEqual(t, p.UntilNextLook(), 16*grace)

		gate <- struct{}{} // the second is at work, and a third waits: the next stall
		synctest.Wait()
		require.NoError(t, p.Health())
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		time.Sleep(18 * grace)
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		require.Len(t, log.Named(pooltest.NothingMoves), 2)
		require.LessOrEqual(t, p.UntilNextLook(), 2*grace)

		p.Pause() // nothing is to move
		time.Sleep(time.Hour)
		synctest.Wait()
		require.NoError(t, p.Health())
		require.Zero(t, p.UntilNextLook())
		p.Resume()
		time.Sleep(2*grace + 1)
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		close(gate)
	})
}

func TestLooksLeaveNothingBehindForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		for range 10 {
			p.Stats()
		}
		require.Zero(t, p.Marks(), "nothing waits")
		require.NoError(t, p.Go(taskpool.Medium, func() {}))
		for range 10 {
			time.Sleep(time.Second)
			p.Stats()
		}
		require.Equal(t, 1, p.Marks(), "nothing has come since the first look")
		for range 10_000 {
			require.NoError(t, p.Go(taskpool.Medium, func() {}))
			time.Sleep(time.Second)
			p.Stats()
		}
		require.Less(t, p.Marks(), 1025)
		release()
		require.NoError(t, p.WaitIdle(t.Context()))
		p.Stats()
		require.Zero(t, p.Marks())
	})
}
