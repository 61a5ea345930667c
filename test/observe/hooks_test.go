package observe_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestHooksTellATasksLifeInOrder(t *testing.T) {
	retry := taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }}
	for name, tt := range map[string]struct {
		task taskpool.Task
		want []string
		err  error
	}{
		"success": {taskpool.Task{Run: func(context.Context) error { return nil }},
			[]string{"Queued", "Started", "Finished"}, nil},
		"failure": {taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask }},
			[]string{"Queued", "Started", "AttemptFailed", "Finished"}, pooltest.ErrTask},
		"panic": {taskpool.Task{Run: func(context.Context) error { panic(pooltest.ErrTask) }},
			[]string{"Queued", "Started", "AttemptFailed", "Finished"}, pooltest.ErrTask},
		"Goexit": {taskpool.Task{Run: func(context.Context) error { runtime.Goexit(); return nil }},
			[]string{"Queued", "Started", "AttemptFailed", "Finished"}, taskpool.ErrGoexit},
		"retry": {taskpool.Task{Retry: retry, Run: func(context.Context) error { return pooltest.ErrTask }},
			[]string{"Queued", "Started", "AttemptFailed", "Retried", "Started", "AttemptFailed", "Finished"}, pooltest.ErrTask},
		"retry after panic": {taskpool.Task{Retry: retry, Run: func(context.Context) error { panic(pooltest.ErrTask) }},
			[]string{"Queued", "Started", "AttemptFailed", "Retried", "Started", "AttemptFailed", "Finished"}, pooltest.ErrTask},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				events := new(pooltest.EventLog)
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("named"), taskpool.WithHooks(events.Hooks()))
				p.Pause() // Queued may come late otherwise
				tt.task.Name, tt.task.Priority = "told", 3
				h := pooltest.Submit(t, p, tt.task)
				p.Resume()
				_ = h.Wait(t.Context())
				synctest.Wait()
				require.Equal(t, tt.want, events.OfTask(1))
				attempt := 0
				for i, e := range events.Events() {
					if e.Worker != (taskpool.WorkerEvent{}) {
						continue
					}
					require.Equal(t, "named", e.Task.Pool)
					require.EqualValues(t, 1, e.Task.Task.ID)
					require.Equal(t, "told", e.Task.Task.Name)
					require.Equal(t, taskpool.Priority(3), e.Task.Task.Priority)
					require.Same(t, h, e.Task.Task.Handle)
					if e.Name == "Started" {
						attempt++
					}
					require.Equal(t, attempt, e.Task.Task.Attempt, "event %d", i)
					switch e.Name {
					case "Queued":
						require.Equal(t, taskpool.StateQueued, e.Task.Task.State)
						require.NoError(t, e.Task.Err)
					case "Started":
						require.Equal(t, taskpool.StateRunning, e.Task.Task.State)
						require.Positive(t, e.Task.Task.Worker)
						require.False(t, e.Task.Task.Started.IsZero())
						require.NoError(t, e.Task.Err)
					case "AttemptFailed":
						require.ErrorIs(t, e.Task.Err, tt.err)
					case "Retried":
						require.Equal(t, taskpool.StateDelayed, e.Task.Task.State)
						require.ErrorIs(t, e.Task.Err, tt.err)
						require.Equal(t, time.Minute, e.Task.Delay)
					case "Finished":
						require.Equal(t, h.State(), e.Task.Task.State)
						require.Equal(t, h.Err(), e.Task.Err)
						require.Zero(t, e.Task.Delay)
					}
				}
			})
		})
	}
}

func TestHooksTellOfTasksThatNeverRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := new(pooltest.EventLog)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowShed), taskpool.WithHooks(events.Hooks()))
		p.Pause()
		h := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { return nil }})
		h2 := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }})
		require.Equal(t, taskpool.ErrShed, h.Err())
		_, err := p.Submit(t.Context(), taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { return nil }})
		require.ErrorIs(t, err, taskpool.ErrFull)
		h2.Cancel(pooltest.ErrCause)
		synctest.Wait()
		require.Equal(t, []string{"Queued", "Shed", "Finished"}, events.OfTask(1))
		require.Equal(t, []string{"Queued", "Finished"}, events.OfTask(2))
		require.Len(t, events.Events(), 5, "a refused task is no event")
		for _, e := range events.Named("Shed", "Finished") {
			if e.Task.Task.ID == 1 {
				require.Equal(t, taskpool.StateShed, e.Task.Task.State)
				require.Equal(t, taskpool.ErrShed, e.Task.Err)
			} else {
				require.Equal(t, taskpool.StateCanceled, e.Task.Task.State)
				require.Equal(t, pooltest.ErrCause, e.Task.Err)
			}
		}
	})
}

// Those of different attempts may overlap if a hook is slower than the retry.
func TestEventsOfAnAttemptComeInOrderThoughAHookIsSlow(t *testing.T) {
	for name, run := range map[string]func(ctx context.Context) error{
		"error": func(context.Context) error { return pooltest.ErrTask },
		"panic": func(context.Context) error { panic(pooltest.ErrTask) },
		"hang":  func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Hour); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				events := new(pooltest.EventLog)
				slow := taskpool.Hooks{AttemptFailed: func(taskpool.TaskEvent) { time.Sleep(time.Minute) }}
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHooks(slow), taskpool.WithHooks(events.Hooks()))
				pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: run,
					Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait, If: func(error) bool { return true }}})
				time.Sleep(24 * time.Hour)
				byAttempt := make(map[int][]string)
				for _, e := range events.Named("Started", "AttemptFailed", "Retried", "Finished") {
					n := e.Task.Task.Attempt
					byAttempt[n] = append(byAttempt[n], e.Name)
				}
				require.Equal(t, map[int][]string{
					1: {"Started", "AttemptFailed", "Retried"},
					2: {"Started", "AttemptFailed", "Finished"},
				}, byAttempt)
			})
		})
	}
}

func TestHooksTellOfFunctionsGivenToGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := new(pooltest.EventLog)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(events.Hooks()))
		p.Pause()
		require.NoError(t, p.Go(5, func() { panic(pooltest.ErrTask) }))
		p.Resume()
		synctest.Wait()
		require.Equal(t, []string{"Queued", "Started", "AttemptFailed", "Finished"}, events.OfTask(0))
		for _, e := range events.Named("Queued", "Started", "AttemptFailed", "Finished") {
			require.Equal(t, taskpool.Priority(5), e.Task.Task.Priority)
			require.Nil(t, e.Task.Task.Handle)
		}
		require.ErrorIs(t, events.Named("Finished")[0].Task.Err, pooltest.ErrTask)
	})
}

func TestHooksTellOfWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := new(pooltest.EventLog)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("named"), taskpool.WithHooks(events.Hooks()))
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic("x") }})
		synctest.Wait()
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { runtime.Goexit(); return nil }})
		synctest.Wait()
		require.ErrorIs(t, pooltest.Hang(t, p, gate).Wait(t.Context()), taskpool.ErrHung)
		synctest.Wait()
		var got []string
		for _, e := range events.Named("WorkerDied", "WorkerAbandoned", "WorkerReplaced") {
			require.Equal(t, "named", e.Worker.Pool)
			got = append(got, fmt.Sprintf("%s %s %d->%d", e.Name, e.Worker.Reason, e.Worker.Worker, e.Worker.Replacement))
		}
		require.Equal(t, []string{
			"WorkerDied panic 1->0", "WorkerReplaced panic 1->2",
			"WorkerDied goexit 2->0", "WorkerReplaced goexit 2->3",
			"WorkerAbandoned hung 3->0", "WorkerReplaced hung 3->4",
		}, got)
		close(gate)
	})
}

func TestAllHooksAreCalledInTheOrderGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		hooks := func(n int) taskpool.Option {
			h := pooltest.EveryHook(func(name string, _ taskpool.TaskEvent, w taskpool.WorkerEvent) {
				if w.Worker == 0 {
					got = append(got, fmt.Sprintf("%s %d", name, n))
				}
			})
			h.Around = func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				got = append(got, fmt.Sprintf("before %d", n))
				defer func() { got = append(got, fmt.Sprintf("after %d", n)) }()
				return run(ctx)
			}
			return taskpool.WithHooks(h)
		}
		p := pooltest.New(t, taskpool.WithWorkers(1), hooks(1), taskpool.WithHooks(taskpool.Hooks{}), hooks(2))
		p.Pause()
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { got = append(got, "run"); return pooltest.ErrTask }})
		p.Resume()
		require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrTask)
		synctest.Wait()
		require.Equal(t, []string{"Queued 1", "Queued 2", "Started 1", "Started 2", "before 1", "before 2", "run",
			"after 2", "after 1", "AttemptFailed 1", "AttemptFailed 2", "Finished 1", "Finished 2"}, got)
	})
}

// Around.

func TestAroundGoesRoundTheAttempt(t *testing.T) {
	other := errors.New("around: other")
	for name, tt := range map[string]struct {
		around pooltest.AroundFunc
		result error // of Run
		panics bool
		goexit bool
		ran    int
		is     error // nil: success, if state says so
		state  taskpool.State
	}{
		"passes nil on":      {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error { return run(ctx) }, ran: 1, state: taskpool.StateSucceeded},
		"passes an error on": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error { return run(ctx) }, result: pooltest.ErrTask, ran: 1, is: pooltest.ErrTask, state: taskpool.StateFailed},
		"returns another": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			assert.Equal(t, pooltest.ErrTask, run(ctx))
			return other
		}, result: pooltest.ErrTask, ran: 1, is: other, state: taskpool.StateFailed},
		"makes a success of an error": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			assert.Equal(t, pooltest.ErrTask, run(ctx))
			return nil
		}, result: pooltest.ErrTask, ran: 1, state: taskpool.StateSucceeded},
		"makes an error of a success": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			assert.NoError(t, run(ctx))
			return other
		}, ran: 1, is: other, state: taskpool.StateFailed},
		"does not call run": {around: func(context.Context, taskpool.TaskInfo, func(context.Context) error) error { return other },
			ran: 0, is: other, state: taskpool.StateFailed},
		"does not call run and returns nil": {around: func(context.Context, taskpool.TaskInfo, func(context.Context) error) error { return nil },
			ran: 0, state: taskpool.StateFailed},
		"calls run twice": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			err := run(ctx)
			assert.Error(t, run(ctx))
			return err
		}, ran: 1, state: taskpool.StateSucceeded},
		"panics before run": {around: func(context.Context, taskpool.TaskInfo, func(context.Context) error) error { panic("hook") },
			result: pooltest.ErrTask, ran: 1, is: pooltest.ErrTask, state: taskpool.StateFailed},
		"panics after run": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			_ = run(ctx)
			panic("hook")
		}, result: pooltest.ErrTask, ran: 1, is: pooltest.ErrTask, state: taskpool.StateFailed},
		"panics after a run without error": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			_ = run(ctx)
			panic("hook")
		}, ran: 1, state: taskpool.StateSucceeded},
		"calls Goexit before run": {around: func(context.Context, taskpool.TaskInfo, func(context.Context) error) error {
			runtime.Goexit()
			return nil
		}, result: pooltest.ErrTask, ran: 1, is: pooltest.ErrTask, state: taskpool.StateFailed},
		"calls Goexit after run": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			_ = run(ctx)
			runtime.Goexit()
			return nil
		}, result: pooltest.ErrTask, ran: 1, is: pooltest.ErrTask, state: taskpool.StateFailed},
		"calls Goexit after a run without error": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			_ = run(ctx)
			runtime.Goexit()
			return nil
		}, ran: 1, state: taskpool.StateSucceeded},
		"cannot hide a panic": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			var pe *taskpool.PanicError
			assert.ErrorAs(t, run(ctx), &pe)
			return nil
		}, panics: true, ran: 1, is: pooltest.ErrTask, state: taskpool.StateFailed},
		"panics after a panic": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			_ = run(ctx)
			panic("hook")
		}, panics: true, ran: 1, is: pooltest.ErrTask, state: taskpool.StateFailed},
		"calls Goexit after a panic": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			_ = run(ctx)
			runtime.Goexit()
			return nil
		}, panics: true, ran: 1, is: pooltest.ErrTask, state: taskpool.StateFailed},
		"panics on the way out of Goexit": {around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			defer func() { panic("hook") }()
			return run(ctx)
		}, goexit: true, ran: 1, is: taskpool.ErrGoexit, state: taskpool.StateFailed},
	} {
		for _, outer := range []int{0, 1} { // hooks that pass everything on
			t.Run(fmt.Sprintf("%s, %d others", name, outer), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := []taskpool.Option{taskpool.WithWorkers(2)}
					pass := pooltest.WithAround(func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error { return run(ctx) })
					for range outer {
						opts = append(opts, pass)
					}
					opts = append(opts, pooltest.WithAround(tt.around))
					for range outer {
						opts = append(opts, pass)
					}
					p := pooltest.New(t, opts...)
					ran := 0
					h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error {
						ran++
						switch {
						case tt.panics:
							panic(pooltest.ErrTask)
						case tt.goexit:
							runtime.Goexit()
						}
						return tt.result
					}})
					err := h.Wait(t.Context())
					synctest.Wait()
					require.Equal(t, tt.ran, ran)
					require.Equal(t, tt.state, h.State())
					require.Equal(t, tt.state == taskpool.StateFailed, err != nil)
					if tt.is != nil {
						require.ErrorIs(t, err, tt.is)
					}
					var pe *taskpool.PanicError
					require.Equal(t, tt.panics, errors.As(err, &pe))
					s := p.Stats()
					require.EqualValues(t, map[bool]int{true: 1}[tt.panics], s.Panics)
					require.EqualValues(t, map[bool]int{true: 1}[tt.goexit], s.Goexits)
					require.EqualValues(t, 1, s.Attempts)
				})
			})
		}
	}
}

func TestPoolIsWholeAfterAroundDied(t *testing.T) {
	for name, die := range map[string]func(){"panic": func() { panic("hook") }, "Goexit": runtime.Goexit} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, after run %v", name, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					logs := new(pooltest.LogRecorder)
					p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(logs.Logger()),
						pooltest.WithAround(func(ctx context.Context, info taskpool.TaskInfo, run func(context.Context) error) error {
							if info.Name != "victim" {
								return run(ctx)
							}
							if after {
								_ = run(ctx)
							}
							die()
							return nil
						}))
					for range 10 {
						require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Name: "victim", Run: func(context.Context) error { return nil }}).Wait(t.Context()))
					}
					pooltest.RequireWhole(t, p, 2)
					require.Len(t, logs.Messages(), 10, "contained and logged")
					require.Zero(t, p.Stats().Panics+p.Stats().Goexits, "a hook's death is not the task's")
				})
			})
		}
	}
}

func TestAroundSeesTheTaskAndItsContextReachesRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var infos []taskpool.TaskInfo
		add := func(key, value string) taskpool.Option {
			return pooltest.WithAround(func(ctx context.Context, info taskpool.TaskInfo, run func(context.Context) error) error {
				infos = append(infos, info)
				current, ok := taskpool.Current(ctx)
				assert.Equal(t, info.ID != 0, ok)
				if ok {
					assert.Equal(t, current, info)
				}
				seen, _ := ctx.Value(pooltest.Key{}).(string)
				return run(context.WithValue(ctx, pooltest.Key{}, seen+key+value))
			})
		}
		p := pooltest.New(t, taskpool.WithWorkers(1), add("a", "1"), add("b", "2"))
		h := pooltest.Submit(t, p, taskpool.Task{Name: "seen", Priority: 4, Run: func(ctx context.Context) error {
			assert.Equal(t, "a1b2", ctx.Value(pooltest.Key{}))
			info, ok := taskpool.Current(ctx)
			assert.True(t, ok)
			if info.Attempt == 1 {
				return pooltest.ErrTask
			}
			return nil
		}, Retry: taskpool.Retry{MaxAttempts: 2}})
		require.NoError(t, h.Wait(t.Context()))
		require.NoError(t, p.Go(8, func() {}))
		synctest.Wait()
		require.Len(t, infos, 6)
		for i, info := range infos {
			require.Equal(t, []int{1, 1, 2, 2, 1, 1}[i], info.Attempt)
			require.Equal(t, taskpool.StateRunning, info.State)
			if i < 4 {
				require.Equal(t, "seen", info.Name)
				require.Equal(t, taskpool.Priority(4), info.Priority)
				require.Same(t, h, info.Handle)
			} else {
				require.Zero(t, info.ID)
				require.Equal(t, taskpool.Priority(8), info.Priority)
				require.Nil(t, info.Handle)
			}
		}
	})
}

// Containment.

// hookKills are ways in which user code may try to take the pool down.
var hookKills = map[string]func(){
	"panic":      func() { panic("hook") },
	"angry":      func() { panic(pooltest.AngryError{}) },
	"panic(nil)": func() { pooltest.PanicsHere(nil) },
	"Goexit":     runtime.Goexit,
}

func TestDeadlyHooksChangeNothing(t *testing.T) {
	for name, kill := range hookKills {
		for _, victim := range []string{"Queued", "Started", "AttemptFailed", "Retried", "Shed", "Finished", "WorkerDied", "WorkerAbandoned", "WorkerReplaced"} {
			t.Run(name+" in "+victim, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					logs, events := new(pooltest.LogRecorder), new(pooltest.EventLog)
					deaths := 0
					var mu sync.Mutex
					deadly := pooltest.EveryHook(func(name string, e taskpool.TaskEvent, _ taskpool.WorkerEvent) {
						if name == victim && e.Task.Name != "spared" {
							mu.Lock()
							deaths++
							mu.Unlock()
							kill()
						}
					})
					p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Second), taskpool.WithLogger(logs.Logger()),
						taskpool.WithCapacity(8, taskpool.OverflowShed), taskpool.WithHooks(deadly), taskpool.WithHooks(events.Hooks()))
					gate := make(chan struct{})
					handles := make([]*taskpool.Handle, 0, 16)
					// Queued and Shed are called on the submitter's goroutine, which
					// Goexit ends: that is the submitter's own doing.
					submit := func(ctx context.Context, task taskpool.Task) *taskpool.Handle {
						var started atomic.Pointer[taskpool.Handle]
						done := make(chan struct{})
						run := task.Run
						task.Run = func(ctx context.Context) error {
							info, _ := taskpool.Current(ctx)
							started.Store(info.Handle)
							return run(ctx)
						}
						go func() {
							defer close(done)
							_, err := p.Submit(ctx, task)
							assert.NoError(t, err)
						}()
						<-done
						synctest.Wait()
						h := started.Load()
						if h == nil { // it waits, and its submitter died
							for _, info := range p.Tasks(taskpool.StateQueued, taskpool.StateDelayed) {
								h = info.Handle
							}
						}
						handles = append(handles, h)
						return h
					}
					ctx := context.Background()
					ok := submit(ctx, taskpool.Task{Run: func(context.Context) error { return nil }})
					failed := submit(ctx, taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask }})
					panicked := submit(ctx, taskpool.Task{Run: func(context.Context) error { panic(pooltest.ErrTask) }})
					exited := submit(ctx, taskpool.Task{Run: func(context.Context) error { runtime.Goexit(); return nil }})
					n := 0
					retried := submit(ctx, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait}, Run: func(context.Context) error {
						if n++; n < 3 {
							return pooltest.ErrTask
						}
						return nil
					}})
					hung := submit(ctx, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
					time.Sleep(time.Minute)
					canceled := submit(ctx, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: func(context.Context) error { return nil }})
					done := make(chan struct{})
					go func() { defer close(done); canceled.Cancel(pooltest.ErrCause) }()
					<-done
					endCtx, end := context.WithCancelCause(ctx)
					ended := submit(endCtx, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: func(context.Context) error { return nil }})
					end(pooltest.ErrCause)
					synctest.Wait()
					p.Pause()
					var shed *taskpool.Handle
					for i := range 11 { // two slots and room for eight
						h := submit(ctx, taskpool.Task{Priority: taskpool.Priority(20 - i), Run: func(context.Context) error { return nil }})
						if i == 0 {
							shed = h
						}
					}
					p.Resume()
					close(gate)
					synctest.Wait()

					require.NoError(t, ok.Wait(ctx))
					require.Equal(t, pooltest.ErrTask, failed.Wait(ctx))
					var pe *taskpool.PanicError
					require.ErrorAs(t, panicked.Wait(ctx), &pe)
					require.Equal(t, taskpool.ErrGoexit, exited.Wait(ctx))
					require.NoError(t, retried.Wait(ctx))
					require.ErrorIs(t, hung.Wait(ctx), taskpool.ErrHung)
					require.Equal(t, pooltest.ErrCause, canceled.Wait(ctx))
					require.Equal(t, pooltest.ErrCause, ended.Wait(ctx))
					require.Equal(t, taskpool.ErrShed, shed.Wait(ctx))
					s := p.Stats()
					require.EqualValues(t, 19, s.Submitted)
					require.EqualValues(t, 12, s.Succeeded)
					require.EqualValues(t, 4, s.Failed)
					require.EqualValues(t, 2, s.Canceled)
					require.EqualValues(t, 1, s.Shed)
					require.EqualValues(t, 1, s.Panics)
					require.EqualValues(t, 1, s.Goexits)
					pooltest.RequireConserved(t, s)

					mu.Lock()
					died := deaths
					mu.Unlock()
					require.Positive(t, died, "the hook must have been called")
					require.Len(t, slices.DeleteFunc(logs.Messages(), func(m string) bool {
						return slices.Contains([]string{"ERROR taskpool: task panicked", "ERROR taskpool: task failed",
							"ERROR taskpool: task hung", "WARN taskpool: attempt failed"}, m)
					}), died, "each is contained and logged")
					require.Len(t, events.Named(victim), died, "the next hook is called all the same")
					require.Len(t, events.Named("Finished"), 19)
				})
			})
		}
	}
}

func TestDeadlyPoliciesAreContained(t *testing.T) {
	for name, kill := range hookKills {
		for where, tt := range map[string]struct {
			retry taskpool.Retry
			want  int // attempts
		}{
			"If":      {taskpool.Retry{MaxAttempts: 3, If: func(error) bool { kill(); return true }}, 1},
			"Backoff": {taskpool.Retry{MaxAttempts: 3, Backoff: func(int) time.Duration { kill(); return time.Hour }}, 3},
		} {
			t.Run(name+" in "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					logs := new(pooltest.LogRecorder)
					p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(logs.Logger()))
					for range 3 {
						var a pooltest.Attempts
						h := pooltest.Submit(t, p, taskpool.Task{Retry: tt.retry, Run: func(context.Context) error { a.Start(); return pooltest.ErrTask }})
						require.Equal(t, pooltest.ErrTask, h.Wait(t.Context()))
						require.Equal(t, taskpool.StateFailed, h.State())
						require.Equal(t, tt.want, a.N())
						for i, gap := range a.Gaps() {
							require.LessOrEqual(t, gap, 100*time.Millisecond<<i, "the default backoff stands in")
						}
					}
					pooltest.RequireWhole(t, p, 2)
					require.Zero(t, p.Stats().Panics+p.Stats().Goexits, "the death of a policy is not the task's")
					contained := slices.DeleteFunc(logs.Messages(), func(m string) bool {
						return m == "ERROR taskpool: task failed" || m == "WARN taskpool: attempt failed"
					})
					require.Len(t, contained, 3*max(tt.want-1, 1), "contained and logged")
				})
			})
		}
	}
}

// An evilError does harm whenever somebody looks at it.
type evilError struct{ kill func() }

func (e evilError) Error() string   { e.kill(); return "" }
func (e evilError) Is(error) bool   { e.kill(); return false }
func (e evilError) As(any) bool     { e.kill(); return false }
func (e evilError) Unwrap() []error { e.kill(); return nil }

func TestDeadlyErrorsAreContained(t *testing.T) {
	for name, kill := range hookKills {
		for how, fail := range map[string]func() error{
			"returned":    func() error { return evilError{kill} },
			"wrapped":     func() error { return &taskpool.PanicError{Value: evilError{kill}} },
			"as a panic":  func() error { panic(evilError{kill}) },
			"behind more": func() error { return taskpool.RetryAfter(0, evilError{kill}) },
		} {
			for _, attempts := range []int{0, 2} {
				t.Run(fmt.Sprintf("%s, %s, MaxAttempts %d", name, how, attempts), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						text := slog.New(slog.NewTextHandler(new(discard), nil)) // asks an error for its text
						p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(text))
						h := pooltest.Submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: attempts}, Run: func(context.Context) error { return fail() }})
						<-h.Done()
						require.Equal(t, taskpool.StateFailed, h.State())
						ctx, cancel := context.WithCancelCause(context.Background())
						h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); return evilError{kill} }})
						require.NoError(t, err)
						synctest.Wait()
						cancel(pooltest.ErrCause)
						<-h.Done()
						require.Equal(t, taskpool.StateCanceled, h.State())
						pooltest.RequireWhole(t, p, 2)
					})
				})
			}
		}
	}
}

type discard struct{}

func (*discard) Write(b []byte) (int, error) { return len(b), nil }

func TestDeadlyLoggerIsContained(t *testing.T) {
	for name, kill := range hookKills {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logs := &pooltest.LogRecorder{Before: func(slog.Record) { kill() }}
				events := new(pooltest.EventLog)
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(logs.Logger()), taskpool.WithHooks(events.Hooks()))
				gate := make(chan struct{})
				run := []func(context.Context) error{
					func(context.Context) error { return pooltest.ErrTask },
					func(context.Context) error { panic(pooltest.ErrTask) },
					func(ctx context.Context) error { <-gate; return nil },
				}
				for _, run := range run {
					for _, n := range []int{0, 2} {
						h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: run, Retry: taskpool.Retry{MaxAttempts: n}})
						require.Error(t, h.Wait(t.Context()))
						require.Equal(t, taskpool.StateFailed, h.State())
					}
				}
				close(gate)
				synctest.Wait()
				require.GreaterOrEqual(t, len(logs.Messages()), 8)
				require.Len(t, events.Named("Finished"), 6, "who comes after the logger is told")
				pooltest.RequireWhole(t, p, 2)
			})
		})
	}
}

// Logging.

func TestLogTellsFailuresAndIsSilentOtherwise(t *testing.T) {
	type record struct {
		message string
		attrs   map[string]any
		stack   string
	}
	gone := map[string]any{}
	for name, tt := range map[string]struct {
		task taskpool.Task
		want []record
	}{
		"success": {taskpool.Task{Run: func(context.Context) error { return nil }}, nil},
		"cancel": {taskpool.Task{Run: func(ctx context.Context) error {
			info, _ := taskpool.Current(ctx)
			info.Handle.Cancel(pooltest.ErrCause)
			return ctx.Err()
		}}, nil},
		"failure": {taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask }},
			[]record{{"ERROR taskpool: task failed", map[string]any{"error": pooltest.ErrTask, "attempt": int64(1)}, ""}}},
		"retry": {taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask },
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }}},
			[]record{
				{"WARN taskpool: attempt failed", map[string]any{"error": pooltest.ErrTask, "attempt": int64(1), "retry_in": time.Minute}, ""},
				{"ERROR taskpool: task failed", map[string]any{"error": pooltest.ErrTask, "attempt": int64(2)}, ""},
			}},
		"panic": {taskpool.Task{Run: func(context.Context) error { pooltest.PanicsHere("x"); return nil }},
			[]record{{"ERROR taskpool: task panicked", gone, "PanicsHere"}}},
		"panic that is retried": {taskpool.Task{Run: func(ctx context.Context) error {
			if info, _ := taskpool.Current(ctx); info.Attempt == 1 {
				pooltest.PanicsHere("x")
			}
			return nil
		}, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }}},
			[]record{{"ERROR taskpool: task panicked", map[string]any{"retry_in": time.Minute}, "PanicsHere"}}},
		"Goexit": {taskpool.Task{Run: func(context.Context) error { runtime.Goexit(); return nil }},
			[]record{{"ERROR taskpool: task failed", map[string]any{"error": taskpool.ErrGoexit}, ""}}},
		"hang": {taskpool.Task{Timeout: time.Second, Run: func(context.Context) error {
			gate := make(chan struct{})
			time.AfterFunc(time.Hour, func() { close(gate) })
			pooltest.HangsHere(gate)
			return nil
		}}, []record{{"ERROR taskpool: task hung", gone, "HangsHere"}}},
		"child's panic": {taskpool.Task{Run: func(context.Context) error { return &taskpool.PanicError{Value: "x", Stack: []byte("elsewhere")} }},
			[]record{{"ERROR taskpool: task failed", gone, "elsewhere"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logs := new(pooltest.LogRecorder)
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("named"), taskpool.WithLogger(logs.Logger()))
				tt.task.Name, tt.task.Priority = "told", taskpool.Low
				h := pooltest.Submit(t, p, tt.task)
				<-h.Done()
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				require.Len(t, logs.Messages(), len(tt.want))
				for i, want := range tt.want {
					require.Equal(t, want.message, logs.Messages()[i])
					attrs := logs.Attrs(i)
					require.Equal(t, "named", attrs["pool"])
					require.Equal(t, "told", attrs["task"])
					require.EqualValues(t, 1, attrs["id"])
					require.Equal(t, taskpool.Low, attrs["priority"])
					require.Contains(t, attrs, "attempt")
					require.Contains(t, attrs, "error")
					for k, v := range want.attrs {
						require.Equal(t, v, attrs[k], k)
					}
					if want.stack == "" {
						require.NotContains(t, attrs, "stack")
					} else {
						require.Contains(t, attrs["stack"], want.stack)
					}
					if want.attrs["retry_in"] == nil {
						require.NotContains(t, attrs, "retry_in")
					}
				}
			})
		})
	}
}

// A Goexit of Run unwinds the hooks around it, which are not to blame.
func TestGoexitWithinAroundIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(logs.Logger()),
			pooltest.WithAround(func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error { return run(ctx) }))
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { runtime.Goexit(); return nil }})
		require.Equal(t, taskpool.ErrGoexit, h.Wait(t.Context()))
		synctest.Wait()
		require.Equal(t, []string{"ERROR taskpool: task failed"}, logs.Messages())
	})
}

func TestPanicOfAFunctionGivenToGoIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(logs.Logger()))
		require.NoError(t, p.Go(taskpool.Low, func() { pooltest.PanicsHere("x") }))
		require.NoError(t, p.Go(taskpool.Low, func() {}))
		synctest.Wait()
		require.Equal(t, []string{"ERROR taskpool: task panicked"}, logs.Messages())
		attrs := logs.Attrs(0)
		require.Contains(t, attrs["stack"], "PanicsHere")
		require.Equal(t, taskpool.Low, attrs["priority"])
		require.NotContains(t, attrs, "id")
		require.NotContains(t, attrs, "pool", "it has no name")
	})
}

func TestLoggerIsSlogDefaultUnlessGiven(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	logs := new(pooltest.LogRecorder)
	p, err := taskpool.New(taskpool.WithWorkers(1))
	require.NoError(t, err)
	slog.SetDefault(logs.Logger()) // after New: it is looked up at each use
	h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask }})
	require.ErrorIs(t, h.Wait(t.Context()), pooltest.ErrTask)
	require.NoError(t, p.Shutdown(t.Context()))
	require.Equal(t, []string{"ERROR taskpool: task failed"}, logs.Messages())
}

// A handler that blocks holds up whoever calls it, and nobody else.
func TestLoggerThatBlocksStopsNobodyElse(t *testing.T) {
	for name, run := range map[string]func(ctx context.Context, gate chan struct{}) error{
		"hang":  func(_ context.Context, gate chan struct{}) error { <-gate; return nil },
		"error": func(context.Context, chan struct{}) error { return pooltest.ErrTask },
		"panic": func(context.Context, chan struct{}) error { panic(pooltest.ErrTask) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate, logging := make(chan struct{}), make(chan struct{})
				var first atomic.Bool
				logs := &pooltest.LogRecorder{Before: func(slog.Record) {
					if first.CompareAndSwap(false, true) {
						<-logging
					}
				}}
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Second), taskpool.WithLogger(logs.Logger()))
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error { return run(ctx, gate) }})
				require.Error(t, h.Wait(t.Context()), "the task settles before it is logged")
				synctest.Wait()
				require.Len(t, logs.Messages(), 1)

				// The supervisor replaces, releases, times out and gives up.
				require.Error(t, pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic("x") }}).Wait(t.Context()))
				require.Equal(t, taskpool.ErrGoexit, pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { runtime.Goexit(); return nil }}).Wait(t.Context()))
				require.NoError(t, pooltest.Submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Second), Run: func(context.Context) error { return nil }}).Wait(t.Context()))
				require.ErrorIs(t, pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error { <-ctx.Done(); return pooltest.ErrTask }}).Wait(t.Context()), taskpool.ErrTimeout)
				require.ErrorIs(t, pooltest.Hang(t, p, gate).Wait(t.Context()), taskpool.ErrHung)
				require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }}).Wait(t.Context()))
				close(logging)
				close(gate)
				pooltest.RequireWhole(t, p, 2)
			})
		})
	}
}

// askStats does what user code may do wherever it is called from: use the pool.
// It looks first, so that a lock held fails the test and does not hang it.
func askStats(t *testing.T, p *taskpool.Pool, where string) {
	if !assert.True(t, pooltest.Answers(p), "%s was called with a lock held", where) {
		return
	}
	p.Stats()
}

func TestUserCodeIsCalledWithoutALock(t *testing.T) {
	var p *taskpool.Pool
	var mu sync.Mutex
	asked := make(map[string]int)
	ask := func(where string) {
		mu.Lock()
		asked[where]++
		n := asked[where]
		mu.Unlock()
		if n <= 200 { // enough to have been everywhere
			askStats(t, p, where)
		}
	}
	hooks := pooltest.EveryHook(func(name string, _ taskpool.TaskEvent, _ taskpool.WorkerEvent) { ask(name) })
	hooks.Around = func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
		ask("Around")
		return run(ctx)
	}
	logs := &pooltest.LogRecorder{Before: func(slog.Record) { ask("logger") }}
	p = pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Millisecond), taskpool.WithHooks(hooks),
		taskpool.WithLogger(logs.Logger()), taskpool.WithCapacity(8, taskpool.OverflowShed))
	run := func(task taskpool.Task) error {
		h, err := p.Submit(context.Background(), task)
		require.NoError(t, err)
		err = h.Wait(context.Background())
		require.NoError(t, p.WaitIdle(context.Background()))
		return err
	}
	evil := evilError{func() { ask("error") }}
	retry := taskpool.Retry{MaxAttempts: 2, If: func(error) bool { ask("If"); return true },
		Backoff: func(int) time.Duration { ask("Backoff"); return 0 }}
	require.Error(t, run(taskpool.Task{Retry: retry, Run: func(context.Context) error { return evil }}))
	require.Error(t, run(taskpool.Task{Retry: retry, Run: func(context.Context) error { panic(evil) }}))
	require.Error(t, run(taskpool.Task{Run: func(context.Context) error { ask("Run"); runtime.Goexit(); return nil }}))
	gate := make(chan struct{})
	hang := func(context.Context) error { <-gate; return nil }
	for timeout := time.Millisecond; ; timeout *= 2 { // long enough for the attempt to start
		if errors.Is(run(taskpool.Task{Timeout: timeout, Retry: retry, Run: hang}), taskpool.ErrHung) {
			break
		}
	}
	close(gate)

	p.Pause()
	for pr := range taskpool.Priority(12) { // the last ones shed the first: there is room for ten
		_, err := p.Submit(context.Background(), taskpool.Task{Priority: -pr, Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
	}
	p.Resume()
	require.NoError(t, p.WaitIdle(context.Background()))
	require.NoError(t, p.Shutdown(context.Background()))
	for _, where := range []string{"Queued", "Started", "AttemptFailed", "Retried", "Shed", "Finished", "WorkerDied",
		"WorkerAbandoned", "WorkerReplaced", "Around", "logger", "If", "Backoff", "error", "Run"} {
		require.Positive(t, asked[where], "%s was never called", where)
	}
}

func TestForeignContextIsAskedWithoutALock(t *testing.T) {
	var p *taskpool.Pool
	foreign := func(over bool) *pooltest.ForeignContext {
		f := &pooltest.ForeignContext{Context: context.Background(), Ended: make(chan struct{}), Probe: func() { askStats(t, p, "a context's method") }}
		if over {
			f.End()
		}
		return f
	}
	p = pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowWait), taskpool.WithHangGrace(time.Millisecond))
	look := func(ctx context.Context) {
		_ = ctx.Value("x")
		_ = ctx.Err()
		_, _ = ctx.Deadline()
		_, _ = taskpool.Current(ctx)
		_ = taskpool.Detach(ctx)
	}
	t.Run("over before Submit", func(t *testing.T) {
		_, err := p.Submit(foreign(true), taskpool.Task{Run: func(context.Context) error { return nil }})
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("success", func(t *testing.T) {
		f := foreign(false)
		h, err := p.Submit(f, taskpool.Task{Timeout: time.Hour, Run: func(ctx context.Context) error { look(ctx); return nil }})
		require.NoError(t, err)
		require.NoError(t, h.Wait(f))
	})
	t.Run("retried", func(t *testing.T) {
		h, err := p.Submit(foreign(false), taskpool.Task{Run: func(ctx context.Context) error { look(ctx); return pooltest.ErrTask },
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}})
		require.NoError(t, err)
		require.ErrorIs(t, h.Wait(foreign(false)), pooltest.ErrTask)
	})
	t.Run("ends while running", func(t *testing.T) {
		f := foreign(false)
		h, err := p.Submit(f, taskpool.Task{Run: func(ctx context.Context) error { f.End(); <-ctx.Done(); return ctx.Err() }})
		require.NoError(t, err)
		require.ErrorIs(t, h.Wait(context.Background()), context.Canceled)
	})
	t.Run("hangs", func(t *testing.T) {
		f := foreign(false)
		gate := make(chan struct{})
		h, err := p.Submit(f, taskpool.Task{Run: func(ctx context.Context) error { look(ctx); f.End(); <-gate; return nil }})
		require.NoError(t, err)
		require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrHung)
		close(gate)
	})
	t.Run("ends while waiting", func(t *testing.T) {
		release := pooltest.Block(t, p)
		f, admission := foreign(false), foreign(false)
		h, err := p.Submit(f, taskpool.Task{Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		refused := make(chan error)
		go func() {
			_, err := p.Submit(admission, taskpool.Task{Run: func(context.Context) error { return nil }})
			refused <- err
		}()
		admission.End()
		require.ErrorIs(t, <-refused, context.Canceled)
		require.ErrorIs(t, h.Wait(admission), context.Canceled)
		require.Equal(t, taskpool.StateQueued, h.State())
		f.End()
		require.ErrorIs(t, h.Wait(context.Background()), context.Canceled)
		release()
	})
	require.NoError(t, p.WaitIdle(foreign(false)))
	require.Equal(t, taskpool.ErrInside, func() (err error) {
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { err = p.WaitIdle(ctx); return nil }})
		<-h.Done()
		return err
	}())
	require.NoError(t, p.Shutdown(foreign(false)))
}

// The context may end between Submit's first look and its last.
func TestForeignContextThatEndsInsideSubmitIsAskedWithoutALock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		f := &pooltest.ForeignContext{Context: context.Background(), Ended: make(chan struct{})}
		late := &lateContext{ForeignContext: f, onValue: func(key any) {
			if key == any(remote.AttemptKey{}) {
				time.Sleep(time.Nanosecond) // Submit looks for a parent; let the pool learn of the end first
			}
		}}
		f.Probe = func() {
			askStats(t, p, "a context's method")
		}
		_, err := p.Submit(late, taskpool.Task{Run: func(context.Context) error { return nil }})
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, p.Stats().Refused)
	})
}

// A lateContext ends when its Done is asked for the second time.
type lateContext struct {
	*pooltest.ForeignContext
	asked   int
	onValue func(key any)
}

func (l *lateContext) Done() <-chan struct{} {
	if l.asked++; l.asked == 2 {
		l.End()
	}
	return l.ForeignContext.Done()
}

func (l *lateContext) Value(key any) any {
	l.onValue(key)
	return l.ForeignContext.Value(key)
}

// callersHooks are the events that hooks are told of on the goroutine of whoever brought
// them about. Each function is called with a pool of one worker, at work, and a queue with
// room for one task, and returns when the hooks have.
var callersHooks = map[string]func(*testing.T, *taskpool.Pool){
	"Queued by Go":     func(t *testing.T, p *taskpool.Pool) { require.NoError(t, p.Go(0, func() {})) },
	"Queued by Submit": func(t *testing.T, p *taskpool.Pool) { pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}) },
	"Finished by Cancel": func(t *testing.T, p *taskpool.Pool) {
		require.True(t, pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun}).Cancel(nil))
	},
	"Shed by Go": func(t *testing.T, p *taskpool.Pool) {
		require.NoError(t, p.Go(taskpool.Low, func() { panic("must not run") }))
		require.NoError(t, p.Go(taskpool.High, func() {}))
	},
	"Finished by Submit, that sheds": func(t *testing.T, p *taskpool.Pool) {
		require.NoError(t, p.Go(taskpool.Low, func() { panic("must not run") }))
		pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
	},
}

// testCallersHooks calls f for each event in callersHooks with a pool whose hook of that
// event is hook, and with what brings the event about.
func testCallersHooks(t *testing.T, hook func(*taskpool.Pool), f func(*testing.T, *taskpool.Pool, func())) {
	for name, bring := range callersHooks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p *taskpool.Pool
				armed := false
				call := func(taskpool.TaskEvent) {
					if armed {
						armed = false // the worker's events, later, are none of ours
						hook(p)
					}
				}
				var hooks taskpool.Hooks
				switch event, _, _ := strings.Cut(name, " "); event {
				case "Queued":
					hooks.Queued = call
				case "Finished":
					hooks.Finished = call
				case "Shed":
					hooks.Shed = call
				}
				p = pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed), taskpool.WithHooks(hooks))
				release := pooltest.Block(t, p)
				armed = true
				f(t, p, func() { bring(t, p) })
				release()
			})
		})
	}
}

func TestShutdownWaitsForHooksOnTheirCallersGoroutine(t *testing.T) {
	returned := false
	hook := func(*taskpool.Pool) {
		time.Sleep(time.Hour)
		returned = true
	}
	testCallersHooks(t, hook, func(t *testing.T, p *taskpool.Pool, bring func()) {
		returned = false
		go bring()
		synctest.Wait() // in the hook
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
		t.Cleanup(cancel)
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(ctx) }()
		t.Cleanup(func() { // the worker's task has returned by then
			assert.NoError(t, <-down)
			assert.True(t, returned)
		})
	})
}

func TestWaitIdleWaitsForHooksOnTheirCallersGoroutine(t *testing.T) {
	returned := false
	hook := func(*taskpool.Pool) {
		time.Sleep(time.Hour)
		returned = true
	}
	testCallersHooks(t, hook, func(t *testing.T, p *taskpool.Pool, bring func()) {
		returned = false
		go bring()
		synctest.Wait() // in the hook
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
		t.Cleanup(cancel)
		idle := make(chan error, 1)
		go func() { idle <- p.WaitIdle(ctx) }()
		t.Cleanup(func() { // the worker's task has returned by then
			assert.NoError(t, <-idle)
			assert.True(t, returned)
		})
	})
}

// A hook that never returns holds a Shutdown up until its context has ended, and then for
// two graces.
func TestShutdownGivesUpOnHooksOnTheirCallersGoroutine(t *testing.T) {
	var gate chan struct{}
	testCallersHooks(t, func(*taskpool.Pool) { <-gate }, func(t *testing.T, p *taskpool.Pool, bring func()) {
		gate = make(chan struct{})
		go bring()
		synctest.Wait() // in the hook
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		t.Cleanup(cancel)
		down := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			_ = p.Shutdown(ctx)
			down <- time.Since(began)
		}()
		t.Cleanup(func() {
			assert.Equal(t, time.Hour+2*p.HangGrace(), <-down)
			close(gate)
		})
	})
}

func TestShutdownAndWaitIdleInAHookOnItsCallersGoroutineReturnErrInside(t *testing.T) {
	told := false
	hook := func(p *taskpool.Pool) {
		told = true
		assert.Equal(t, taskpool.ErrInside, p.Shutdown(context.Background()))
		assert.Equal(t, taskpool.ErrInside, p.WaitIdle(context.Background()))
	}
	testCallersHooks(t, hook, func(t *testing.T, p *taskpool.Pool, bring func()) {
		told = false
		bring()
		require.True(t, told)
		require.NoError(t, p.Resize(1), "it is not shut down")
	})
}

// A hook of one pool may wait for another, also while somebody else is in a hook of that.
func TestAHookMayWaitForAnotherPool(t *testing.T) {
	told := false
	var other *taskpool.Pool
	hook := func(*taskpool.Pool) {
		told = true
		assert.NoError(t, other.WaitIdle(context.Background()))
		assert.NoError(t, other.Shutdown(context.Background()))
	}
	testCallersHooks(t, hook, func(t *testing.T, p *taskpool.Pool, bring func()) {
		told = false
		other = pooltest.New(t, taskpool.WithHooks(taskpool.Hooks{Queued: func(taskpool.TaskEvent) { time.Sleep(time.Second) }}))
		go func() { assert.NoError(t, other.Go(0, func() {})) }()
		synctest.Wait()
		bring()
		require.True(t, told)
	})
}

func TestWaitIdleComesBackWhenFinishedHooksHave(t *testing.T) {
	for name, task := range map[string]taskpool.Task{
		"success": {Run: pooltest.Nop},
		"failure": {Run: func(context.Context) error { return errors.New("boom") }},
		"panic":   {Run: func(context.Context) error { panic("boom") }},
		"hang": {Timeout: time.Second, Run: func(context.Context) error {
			time.Sleep(20 * time.Minute)
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				finished := 0
				var mu sync.Mutex
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithMaxAbandoned(5), taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) {
					time.Sleep(time.Minute)
					mu.Lock()
					defer mu.Unlock()
					finished++
				}}))
				for range 5 {
					pooltest.Submit(t, p, task)
				}
				require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
				require.Equal(t, 5, finished)
				time.Sleep(time.Hour) // until the last has returned
			})
		})
	}
}
