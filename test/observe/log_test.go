package observe_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// loggedPool returns a pool in a bubble and the log of it, with level Debug.
func loggedPool(t *testing.T, opts ...taskpool.Option) (*taskpool.Pool, *pooltest.LogRecorder) {
	log := &pooltest.LogRecorder{Debug: true}
	return pooltest.New(t, append([]taskpool.Option{taskpool.WithWorkers(2), taskpool.WithLogger(log.Logger())}, opts...)...), log
}

// failures returns level, text and task of each record that is not of a success.
func failures(log *pooltest.LogRecorder) (all []string) {
	synctest.Wait()
	for i, r := range log.Records() {
		if r.Message != "taskpool: task succeeded" {
			all = append(all, fmt.Sprintf("%v %s: %v", r.Level, strings.TrimPrefix(r.Message, "taskpool: "), log.Attrs(i)["task"]))
		}
	}
	return all
}

// Each way to have a task run, and what it returns of its error.
var waysToRun = map[string]struct {
	told bool // somebody gets the error
	run  func(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error
}{
	"Submit": {false, func(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
		t.Run = f
		h, err := p.Submit(ctx, t)
		if err != nil {
			return err
		}
		return h.Wait(ctx)
	}},
	"TrySubmit": {false, func(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
		t.Run = f
		h, err := p.TrySubmit(ctx, t)
		if err != nil {
			return err
		}
		return h.Wait(ctx)
	}},
	"SubmitWithin": {false, func(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
		t.Run = f
		h, err := p.SubmitWithin(ctx, ctx, t)
		if err != nil {
			return err
		}
		return h.Wait(ctx)
	}},
	"SubmitFunc": {true, func(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
		future, err := taskpool.SubmitFunc(ctx, p, t, func(ctx context.Context) (int, error) { return 0, f(ctx) })
		if err != nil {
			return err
		}
		_, err = future.Get(ctx)
		return err
	}},
	"Call": {true, call},
	"Map": {true, func(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) (err error) {
		for _, err = range taskpool.Map(ctx, p, t, pooltest.UpTo(1), func(ctx context.Context, _ int) (int, error) { return 0, f(ctx) }) {
		}
		return err
	}},
	"MapLimit": {true, func(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) (err error) {
		for _, err = range taskpool.MapLimit(ctx, p, 1, t, pooltest.UpTo(1), func(ctx context.Context, _ int) (int, error) { return 0, f(ctx) }) {
		}
		return err
	}},
	"Group": {true, func(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
		g := p.Group(ctx, t)
		g.Go(f)
		return g.Wait()
	}},
}

func call(ctx context.Context, p *taskpool.Pool, t taskpool.Task, f func(context.Context) error) error {
	_, err := taskpool.Call(ctx, p, t, func(ctx context.Context) (int, error) { return 0, f(ctx) })
	return err
}

func TestAFailureThatACallerGetsIsLoggedAtDebug(t *testing.T) {
	for name, way := range waysToRun {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, log := loggedPool(t)
				err := way.run(context.Background(), p, taskpool.Task{Name: "t"}, func(context.Context) error { return pooltest.ErrTask })
				require.ErrorIs(t, err, pooltest.ErrTask)
				level := slog.LevelError
				if way.told {
					level = slog.LevelDebug
				}
				require.Equal(t, []string{level.String() + " task failed: t"}, failures(log))
				require.Equal(t, pooltest.ErrTask, log.Attrs(0)["error"])
			})
		})
	}
}

func TestARetryIsLoggedAtWarnWhoeverGetsTheError(t *testing.T) {
	for name, way := range waysToRun {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, log := loggedPool(t)
				task := taskpool.Task{Name: "t", Retry: taskpool.Retry{MaxAttempts: 2}}
				require.Error(t, way.run(context.Background(), p, task, func(context.Context) error { return pooltest.ErrTask }))
				require.Equal(t, "WARN attempt failed: t", failures(log)[0])
				require.Len(t, failures(log), 2)
			})
		})
	}
}

func TestAPanicOrHangIsLoggedAtErrorWhoeverGetsTheError(t *testing.T) {
	for name, way := range waysToRun {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, log := loggedPool(t)
				require.Error(t, way.run(context.Background(), p, taskpool.Task{Name: "t"}, func(context.Context) error { panic("x") }))
				require.Equal(t, []string{"ERROR task panicked: t"}, failures(log))
			})
			synctest.Test(t, func(t *testing.T) {
				p, log := loggedPool(t)
				gate := make(chan struct{})
				defer close(gate)
				require.ErrorIs(t, way.run(context.Background(), p, taskpool.Task{Name: "t", Timeout: time.Second}, func(context.Context) error {
					<-gate
					return nil
				}), taskpool.ErrHung)
				require.Equal(t, []string{"ERROR task hung: t"}, failures(log))
			})
		})
	}
}

// nested submits a task whose error comes up from three nested calls, each of which may
// say something about it.
func nested(t *testing.T, p *taskpool.Pool, pass func(error) error, last func(context.Context) error) *taskpool.Handle {
	task := func(name string) taskpool.Task { return taskpool.Task{Name: name, Timeout: time.Minute} }
	inner := func(ctx context.Context) error { return pass(call(ctx, p, task("c"), last)) }
	middle := func(ctx context.Context) error { return pass(call(ctx, p, task("b"), inner)) }
	top := task("a")
	top.Run = func(ctx context.Context) error { return pass(call(ctx, p, taskpool.Task{Name: "b0"}, middle)) }
	return pooltest.Submit(t, p, top)
}

func TestAnErrorThatGoesUpThroughNestedCallsIsLoggedOnceAboveDebug(t *testing.T) {
	plain := func(err error) error { return err }
	wrap := func(err error) error { return fmt.Errorf("could not: %w", err) }
	add := func(err error) error { return errors.Join(err, errors.New("and another")) }
	fail := func(context.Context) error { return pooltest.ErrTask }
	boom := func(context.Context) error { panic("x") }
	for name, tt := range map[string]struct {
		pass func(error) error
		last func(context.Context) error
		want []string // in any order
	}{
		"an error": {plain, fail, []string{"DEBUG task failed: c", "DEBUG task failed: b", "DEBUG task failed: b0", "ERROR task failed: a"}},
		"an error, wrapped": {wrap, fail,
			[]string{"DEBUG task failed: c", "DEBUG task failed: b", "DEBUG task failed: b0", "ERROR task failed: a"}},
		"a panic": {plain, boom, []string{"ERROR task panicked: c", "DEBUG task failed: b", "DEBUG task failed: b0", "DEBUG task failed: a"}},
		"a panic, wrapped": {wrap, boom,
			[]string{"ERROR task panicked: c", "DEBUG task failed: b", "DEBUG task failed: b0", "DEBUG task failed: a"}},
		"a panic with another error": {add, boom,
			[]string{"ERROR task panicked: c", "DEBUG task failed: b", "DEBUG task failed: b0", "ERROR task failed: a"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, log := loggedPool(t)
				require.Error(t, nested(t, p, tt.pass, tt.last).Wait(context.Background()))
				require.ElementsMatch(t, tt.want, failures(log))
			})
		})
	}
}

func TestAPanicOrHangOfATaskThatIsWaitedForIsLoggedOnce(t *testing.T) {
	wait := func(p *taskpool.Pool, child *taskpool.Handle) taskpool.Task {
		return taskpool.Task{Name: "parent", Run: child.Wait}
	}
	synctest.Test(t, func(t *testing.T) {
		p, log := loggedPool(t)
		child := pooltest.Submit(t, p, taskpool.Task{Name: "child", Run: func(context.Context) error { panic("x") }})
		parent := pooltest.Submit(t, p, wait(p, child))
		require.ErrorAs(t, parent.Wait(context.Background()), new(*taskpool.PanicError))
		require.ElementsMatch(t, []string{"ERROR task panicked: child", "DEBUG task failed: parent"}, failures(log))
	})
	synctest.Test(t, func(t *testing.T) {
		p, log := loggedPool(t)
		gate := make(chan struct{})
		defer close(gate)
		parent := pooltest.Submit(t, p, wait(p, pooltest.Hang(t, p, gate)))
		require.ErrorIs(t, parent.Wait(context.Background()), taskpool.ErrHung)
		require.ElementsMatch(t, []string{"ERROR task hung: hang", "DEBUG task failed: parent"}, failures(log))
	})
	// The log knows nothing of a panic that is not of a task.
	synctest.Test(t, func(t *testing.T) {
		p, log := loggedPool(t)
		pooltest.Submit(t, p, taskpool.Task{Name: "parent", Run: func(context.Context) error {
			return fmt.Errorf("a child process: %w", &taskpool.PanicError{Value: "x", Stack: []byte("elsewhere")})
		}})
		require.Equal(t, []string{"ERROR task failed: parent"}, failures(log))
	})
}

// deref panics if p is nil.
//
//go:noinline
func deref(p *int) int { return *p }

func TestThePlaceOfAPanicIsAnAttribute(t *testing.T) {
	var none map[string]int
	var few []int
	for name, run := range map[string]func(context.Context) error{
		"panic":           func(context.Context) error { panic("here") },
		"nil map":         func(context.Context) error { none["here"] = 1; return nil },
		"index":           func(context.Context) error { _ = few[len(few)]; return errors.New("here") },
		"nil pointer":     func(context.Context) error { return errors.New(strconv.Itoa(deref(nil))) },
		"in a deferred":   func(context.Context) error { defer func() { panic("here") }(); return nil },
		"panicked before": func(context.Context) error { return panicsAgain() },
		"deeper":          func(context.Context) error { pooltest.PanicsHere("x"); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			want := "log_test.go"
			if name == "deeper" {
				want = "tasks.go"
			}
			synctest.Test(t, func(t *testing.T) {
				p, log := loggedPool(t)
				h := pooltest.Submit(t, p, taskpool.Task{Run: run})
				var panicked *taskpool.PanicError
				require.ErrorAs(t, h.Wait(context.Background()), &panicked)
				synctest.Wait()
				requirePlace(t, log, "taskpool: task panicked", want, string(panicked.Stack))
				require.NoError(t, p.Go(0, func() { _ = run(context.Background()) }))
				synctest.Wait()
				requirePlace(t, log, "taskpool: task panicked", want, string(panicked.Stack))
			})
			synctest.Test(t, func(t *testing.T) {
				p, log := loggedPool(t, taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) { _ = run(context.Background()) }}),
					pooltest.WithAround(func(ctx context.Context, _ taskpool.TaskInfo, next func(context.Context) error) error {
						return next(ctx)
					}))
				h := pooltest.Submit(t, p, taskpool.Task{Run: run})
				var panicked *taskpool.PanicError
				require.ErrorAs(t, h.Wait(context.Background()), &panicked)
				synctest.Wait()
				requirePlace(t, log, "taskpool: task panicked", want, string(panicked.Stack))
				requirePlace(t, log, "taskpool: a hook or logger panicked", want, string(panicked.Stack))
			})
		})
	}
}

//go:noinline
func panicsAgain() error {
	defer func() { panic(fmt.Sprint("again: ", recover())) }()
	panic("before")
}

// requirePlace checks that the last record with that message names a line of file, which is
// the first of the program's in stack.
func requirePlace(t *testing.T, log *pooltest.LogRecorder, message, file, stack string) {
	t.Helper()
	messages := log.Messages()
	slices.Reverse(messages)
	i := slices.Index(messages, "ERROR "+message)
	require.GreaterOrEqual(t, i, 0, messages)
	at, _ := log.Attrs(len(messages) - 1 - i)["at"].(string)
	require.Regexp(t, "/"+file+`:\d+$`, at)
	first := ""
	for line := range strings.Lines(stack) {
		if strings.HasPrefix(line, "\t") && strings.Contains(line, "/test/") {
			first = strings.TrimSpace(line)
			break
		}
	}
	require.Equal(t, first, at)
}
