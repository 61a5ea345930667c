package observe_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

//go:noinline
func showsLabels(gate chan struct{}) { <-gate }

// labelsOf returns the labels of the goroutine that is in showsLabels, "" if it has
// none.
func labelsOf(t *testing.T) string {
	var b bytes.Buffer
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&b, 1))
	for stack := range strings.SplitSeq(b.String(), "\n\n") {
		if strings.Contains(stack, "showsLabels") {
			_, labels, _ := strings.Cut(stack, "# labels: ")
			labels, _, _ = strings.Cut(labels, "\n")
			return labels
		}
	}
	require.Fail(t, "nobody is in showsLabels", b.String())
	return ""
}

// relabels are the things that a task may do to the labels of its goroutine.
var relabels = map[string]func(ctx context.Context){
	"Do": func(ctx context.Context) {
		pprof.Do(ctx, pprof.Labels("user", "alice"), func(context.Context) {})
	},
	"Do, other context": func(context.Context) {
		pprof.Do(context.Background(), pprof.Labels("user", "alice"), func(context.Context) {})
	},
	"Do, in Do": func(ctx context.Context) {
		pprof.Do(pprof.WithLabels(ctx, pprof.Labels("user", "alice")), pprof.Labels("a", "b"), func(context.Context) {})
	},
	"Set": func(ctx context.Context) {
		pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels("user", "alice")))
	},
	"Set, then panics": func(ctx context.Context) {
		pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels("user", "alice")))
		panic("x")
	},
	"cleared": func(context.Context) { pprof.SetGoroutineLabels(context.Background()) },
}

func TestLabelsOfATaskEndWithIt(t *testing.T) {
	aliceOf := func(ctx context.Context) context.Context { return pprof.WithLabels(ctx, pprof.Labels("user", "alice")) }
	for name, relabel := range relabels {
		for where, run := range map[string]func(t *testing.T, p *taskpool.Pool){
			"task": func(t *testing.T, p *taskpool.Pool) {
				h, err := p.Submit(aliceOf(context.Background()), taskpool.Task{Run: func(ctx context.Context) error { relabel(ctx); return nil }})
				require.NoError(t, err)
				_ = h.Wait(t.Context())
			},
			"function": func(t *testing.T, p *taskpool.Pool) {
				require.NoError(t, p.Go(taskpool.Medium, func() { relabel(aliceOf(context.Background())) }))
			},
			"many functions": func(t *testing.T, p *taskpool.Pool) {
				release := pooltest.Block(t, p)
				for range 200 {
					require.NoError(t, p.Go(taskpool.Medium, func() { relabel(aliceOf(context.Background())) }))
				}
				release()
			},
			"Retry.If": func(t *testing.T, p *taskpool.Pool) {
				h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask },
					Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait, If: func(error) bool { relabel(context.Background()); return true }}})
				_ = h.Wait(t.Context())
			},
		} {
			for what, next := range map[string]func(t *testing.T, p *taskpool.Pool, f func()){
				"task": func(t *testing.T, p *taskpool.Pool, f func()) {
					pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { f(); return nil }})
				},
				"function": func(t *testing.T, p *taskpool.Pool, f func()) { require.NoError(t, p.Go(taskpool.Medium, f)) },
			} {
				t.Run(name+", "+where+", then "+what, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("labeled"))
						run(t, p)
						gate := make(chan struct{})
						if what == "task" {
							next(t, p, func() { showsLabels(gate) }) // may be the very next
						} else {
							synctest.Wait()
							next(t, p, func() { showsLabels(gate) })
						}
						synctest.Wait()
						labels := labelsOf(t)
						require.Contains(t, labels, `"pool":"labeled", "worker":"`)
						require.NotContains(t, labels, "alice")
						close(gate)
					})
				})
			}
		}
	}
}

// Functions given to Go that run one after the other are the exception, for some of
// them.
func TestLabelsOfAFunctionEndSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("labeled"))
		release := pooltest.Block(t, p)
		gate := make(chan struct{})
		require.NoError(t, p.Go(taskpool.Medium, func() {
			pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("user", "alice")))
		}))
		for range 64 {
			require.NoError(t, p.Go(taskpool.Medium, func() {}))
		}
		require.NoError(t, p.Go(taskpool.Medium, func() { showsLabels(gate) }))
		for range 64 {
			require.NoError(t, p.Go(taskpool.Medium, func() {}))
		}
		release()
		synctest.Wait()
		require.Contains(t, labelsOf(t), `"pool":"labeled", "worker":"`)
		close(gate)
	})
}

func TestLabelsOfHooksEndWithThem(t *testing.T) {
	for name, relabel := range relabels {
		if strings.Contains(name, "panics") {
			continue
		}
		for where, hooks := range map[string]taskpool.Hooks{
			"Started":  {Started: func(taskpool.TaskEvent) { relabel(context.Background()) }},
			"Finished": {Finished: func(taskpool.TaskEvent) { relabel(context.Background()) }},
			"Around": {Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				err := run(ctx)
				relabel(ctx)
				return err
			}},
		} {
			t.Run(name+", "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("labeled"), taskpool.WithHooks(hooks))
					require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}).Wait(t.Context()))
					gate := make(chan struct{})
					pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { showsLabels(gate); return nil }})
					synctest.Wait()
					labels := labelsOf(t)
					require.Contains(t, labels, `"pool":"labeled", "worker":"1"`)
					require.NotContains(t, labels, "alice")
					close(gate)
				})
			})
		}
	}
}

// What an Around hook sets for the call of Run holds in it, with the pool's.
func TestLabelsOfAroundHoldInRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("labeled"), taskpool.WithHooks(taskpool.Hooks{
			Around: func(ctx context.Context, info taskpool.TaskInfo, run func(context.Context) error) (err error) {
				pprof.Do(ctx, pprof.Labels("task", info.Name), func(ctx context.Context) { err = run(ctx) })
				return err
			}}))
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Name: "resize", Run: func(context.Context) error { showsLabels(gate); return nil }})
		synctest.Wait()
		require.Contains(t, labelsOf(t), `"pool":"labeled", "task":"resize", "worker":"1"`)
		close(gate)
	})
}

func TestRunsContextCarriesThePoolsLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithName("labeled"))
		other := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("other"))
		label := func(ctx context.Context, key string) string { v, _ := pprof.Label(ctx, key); return v }
		ctx := pprof.WithLabels(context.Background(), pprof.Labels("user", "alice", "pool", "mine"))
		gate := make(chan struct{})
		var child *taskpool.Handle
		h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
			info, _ := taskpool.Current(ctx)
			if label(ctx, "pool") != "labeled" || label(ctx, "user") != "alice" || label(ctx, "worker") == "" {
				return pooltest.ErrTask
			}
			if derived := context.WithValue(ctx, pooltest.Key{}, 1); label(derived, "pool") != "labeled" || info.Worker == 0 {
				return pooltest.ErrTask
			}
			if d := taskpool.Detach(ctx); label(d, "pool") != "mine" || label(d, "worker") != "" {
				return pooltest.ErrTask
			}
			pprof.Do(ctx, pprof.Labels("zone", "a"), func(ctx context.Context) {
				var err error
				child, err = other.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
					if label(ctx, "pool") != "other" || label(ctx, "zone") != "a" || label(ctx, "user") != "alice" {
						return pooltest.ErrTask
					}
					return nil
				}})
				if err == nil {
					err = child.Wait(ctx)
				}
				if err != nil {
					panic(err)
				}
			})
			showsLabels(gate) // after Do, with those of ctx
			return nil
		}})
		require.NoError(t, err)
		synctest.Wait()
		require.Contains(t, labelsOf(t), `"pool":"labeled", "user":"alice", "worker":"`)
		close(gate)
		require.NoError(t, h.Wait(t.Context()))
	})
}

// Goroutines of the pool that are started while a task is at work, or a caller, have
// nothing of their labels.
func TestLabelsOfCallersDoNotReachTheReporter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var once atomic.Bool
		var p *taskpool.Pool
		pprof.Do(context.Background(), pprof.Labels("user", "alice"), func(context.Context) {
			p = pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("labeled"), taskpool.WithLogger(slog.New(slog.DiscardHandler)),
				taskpool.WithHooks(taskpool.Hooks{WorkerDied: func(taskpool.WorkerEvent) {
					if !once.Swap(true) {
						showsLabels(gate)
					}
				}}))
			require.NoError(t, p.Go(taskpool.Medium, func() { panic("x") }))
			time.Sleep(time.Nanosecond)
		})
		synctest.Wait()
		require.Equal(t, `{"pool":"labeled"}`, labelsOf(t))
		close(gate)
	})
}
