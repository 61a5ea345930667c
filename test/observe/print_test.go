package observe_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// requirePrints checks that x is the line want for fmt, whatever the verb, and for slog.
func requirePrints(t *testing.T, want string, x any) {
	t.Helper()
	for _, verb := range []string{"%v", "%+v", "%s"} {
		require.Equal(t, want, fmt.Sprintf(verb, x), verb)
	}
	require.Equal(t, want, fmt.Sprint(x))
	require.Equal(t, fmt.Sprintf("%q", want), fmt.Sprintf("%q", x))
}

// logged returns what slog's handlers write of x, as text and as JSON.
func logged(x any) (text, json string) {
	write := func(handler func(*bytes.Buffer, *slog.HandlerOptions) slog.Handler) string {
		b := new(bytes.Buffer)
		slog.New(handler(b, &slog.HandlerOptions{ReplaceAttr: func(in []string, a slog.Attr) slog.Attr {
			if in == nil && a.Key != "x" {
				return slog.Attr{}
			}
			return a
		}})).Info("", "x", x)
		return strings.TrimSpace(b.String())
	}
	return write(func(b *bytes.Buffer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(b, o) }),
		write(func(b *bytes.Buffer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(b, o) })
}

func requireLogged(t *testing.T, text, json string, x any) {
	t.Helper()
	gotText, gotJSON := logged(x)
	require.Equal(t, text, gotText)
	require.JSONEq(t, json, gotJSON)
}

// copyOf returns a copy of *p, without a complaint of vet about it.
func copyOf[T any](p *T) *T {
	c := reflect.New(reflect.TypeFor[T]()).Elem()
	c.Set(reflect.ValueOf(p).Elem())
	return c.Addr().Interface().(*T)
}

func TestAHandleIsPrintedAsALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("orders"))
		gate := make(chan struct{})
		h := pooltest.Submit(t, p, taskpool.Task{Name: "report", Priority: taskpool.High, Run: func(ctx context.Context) error {
			<-gate
			return taskpool.Block(ctx, func() error { <-gate; return nil })
		}})
		retry := taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }}
		other := pooltest.Submit(t, p, taskpool.Task{Priority: 7, Retry: retry, Run: func(context.Context) error { return pooltest.ErrTask }})
		synctest.Wait()
		requirePrints(t, `task 1 "report" (high, running)`, h)
		requirePrints(t, `task 2 (7, queued)`, other)
		require.Equal(t, `(*taskpool.Handle)(task 1 "report" (high, running))`, fmt.Sprintf("%#v", h))
		requireLogged(t, "x.pool=orders x.id=1 x.name=report x.priority=high x.state=running x.attempt=1",
			`{"x": {"pool": "orders", "id": 1, "name": "report", "priority": "high", "state": "running", "attempt": 1}}`, h)
		requirePrints(t, `copy of task 1 "report" (high, running)`, copyOf(h))
		text, _ := logged(copyOf(h))
		require.Equal(t, `x="copy of task 1 \"report\" (high, running)"`, text)

		gate <- struct{}{}
		synctest.Wait()
		requirePrints(t, `task 1 "report" (high, parked)`, h)
		requirePrints(t, `task 2 (7, delayed)`, other)
		close(gate)
		synctest.Wait()
		requirePrints(t, `task 1 "report" (high, succeeded)`, h)
		time.Sleep(time.Hour)
		synctest.Wait()
		requirePrints(t, `task 2 (7, failed, attempt 2)`, other)
	})
	requirePrints(t, "zero Handle", new(taskpool.Handle))
	requirePrints(t, "zero Handle", copyOf(new(taskpool.Handle)))
	none := (*taskpool.Handle)(nil)
	require.Equal(t, "<nil> <nil> <nil>", fmt.Sprintf("%v %+v %s", none, none, none))
	require.Equal(t, "(*taskpool.Handle)(<nil>)", fmt.Sprintf("%#v", none))
	requireLogged(t, "x=<nil>", `{"x": "<nil>"}`, none)
	requireLogged(t, `x="zero Handle"`, `{"x": "zero Handle"}`, new(taskpool.Handle))
}

func TestAFutureIsPrintedAsItsHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		f, err := taskpool.SubmitFunc(t.Context(), p, taskpool.Task{Name: "sum"}, func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
		synctest.Wait()
		requirePrints(t, `task 1 "sum" (medium, succeeded)`, f)
		requirePrints(t, `task 1 "sum" (medium, succeeded)`, *f)
		require.Equal(t, `(*taskpool.Handle)(task 1 "sum" (medium, succeeded))`, fmt.Sprintf("%#v", f))
		text, _ := logged(f)
		require.Equal(t, "x.id=1 x.name=sum x.priority=medium x.state=succeeded x.attempt=1", text)
	})
	requirePrints(t, "<nil>", taskpool.Future[int]{})
	require.Equal(t, "<nil>", fmt.Sprint((*taskpool.Future[int])(nil)))
}

func TestATaskIsPrintedAsALine(t *testing.T) {
	task := taskpool.Task{Name: "report", Priority: taskpool.High, Run: pooltest.Nop, Timeout: time.Minute,
		Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait}}
	const line = `task "report" (high, timeout 1m0s, 3 attempts)`
	requirePrints(t, line, task)
	requirePrints(t, line, &task)
	requireLogged(t, `x="task \"report\" (high, timeout 1m0s, 3 attempts)"`, `{"x": "task \"report\" (high, timeout 1m0s, 3 attempts)"}`, task)
	requirePrints(t, "task (medium)", taskpool.Task{})
	requirePrints(t, `task (low, work timeout 2s, heartbeat 1s, not before 2026-12-24T18:00:00Z)`, taskpool.Task{Priority: taskpool.Low,
		WorkTimeout: 2 * time.Second, Heartbeat: time.Second, NotBefore: time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)})
	require.Equal(t, "<nil>", fmt.Sprint((*taskpool.Task)(nil)))
	requirePrints(t, line+", queued", taskpool.Unfinished{Task: task})
	requirePrints(t, `task 17 (low, flow "acme"), parked, attempt 1`, taskpool.Unfinished{ID: 17, State: taskpool.StateParked, Attempt: 1,
		Task: taskpool.Task{Priority: taskpool.Low, Flow: "acme"}})
	require.Equal(t, "["+line+", running, attempt 2]", fmt.Sprint([]taskpool.Unfinished{{Task: task, State: taskpool.StateRunning, Attempt: 2}}))
	_, json := logged(taskpool.Unfinished{Task: task})
	require.JSONEq(t, `{"x": "task \"report\" (high, timeout 1m0s, 3 attempts), queued"}`, json)
}

func TestATaskInfoIsPrintedAsALine(t *testing.T) {
	info := taskpool.TaskInfo{Pool: "orders", ID: 17, Name: "report", Priority: taskpool.High, Urgency: taskpool.High, State: taskpool.StateRunning, Attempt: 2}
	requirePrints(t, `task 17 "report" (high, running, attempt 2)`, info)
	requirePrints(t, `task 17 "report" (high, running, attempt 2)`, &info)
	requireLogged(t, "x.pool=orders x.id=17 x.name=report x.priority=high x.state=running x.attempt=2",
		`{"x": {"pool": "orders", "id": 17, "name": "report", "priority": "high", "state": "running", "attempt": 2}}`, info)
	info.Flow, info.Urgency = "acme", -5
	requirePrints(t, `task 17 "report" (high → -5, flow "acme", running, attempt 2)`, info)
	requireLogged(t, "x.pool=orders x.id=17 x.name=report x.priority=high x.flow=acme x.state=running x.attempt=2",
		`{"x": {"pool": "orders", "id": 17, "name": "report", "priority": "high", "flow": "acme", "state": "running", "attempt": 2}}`, info)
	info.Flow, info.Urgency = "", taskpool.High
	function := taskpool.TaskInfo{Priority: taskpool.Low, Urgency: taskpool.Low, State: taskpool.StateRunning, Attempt: 1}
	requirePrints(t, "function (low, running)", function)
	requireLogged(t, "x.priority=low x.state=running x.attempt=1", `{"x": {"priority": "low", "state": "running", "attempt": 1}}`, function)
	require.Equal(t, `{orders task 17 "report" (high, running, attempt 2) <nil> 0s  0s 0s <nil>}`,
		fmt.Sprint(taskpool.TaskEvent{Pool: "orders", Task: info}))
}

func TestAPoolIsPrintedAsALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithName("orders"), taskpool.WithCapacity(2, taskpool.OverflowWait))
		requirePrints(t, `pool "orders" (0 of 3 workers busy, 0 waiting)`, p)
		value, pointer := reflect.ValueOf(p).Elem().Interface(), copyOf(p)
		gate := make(chan struct{})
		wait := taskpool.Task{Run: func(context.Context) error { <-gate; return nil }}
		for range 5 {
			pooltest.Submit(t, p, wait)
		}
		synctest.Wait()
		const line = `pool "orders" (3 of 3 workers busy, 2 waiting)`
		requirePrints(t, line, p)
		require.Equal(t, "(*taskpool.Pool)("+line+")", fmt.Sprintf("%#v", p))
		requireLogged(t, `x="pool \"orders\" (3 of 3 workers busy, 2 waiting)"`, `{"x": "pool \"orders\" (3 of 3 workers busy, 2 waiting)"}`, p)
		// By value and as a copy a pool is of no use, but does no harm.
		requirePrints(t, line, value)
		require.Equal(t, "(*taskpool.Pool)("+line+")", fmt.Sprintf("%#v", value))
		requirePrints(t, line, pointer)

		s := pooltest.SubmitOrWait(t.Context(), p, wait)
		pooltest.RequireWaiting(t, s)
		later := wait
		later.NotBefore = time.Now().Add(time.Hour)
		pooltest.Submit(t, p, later)
		p.Pause()
		requirePrints(t, `pool "orders" (3 of 3 workers busy, 2 waiting, 1 delayed, 1 waiting for room, paused)`, p)
		p.Resume()
		go func() { _ = p.Shutdown(context.Background()) }()
		synctest.Wait()
		requirePrints(t, `pool "orders" (3 of 3 workers busy, 2 waiting, 1 delayed, shutting down)`, p)
		close(gate)
		synctest.Wait()
		time.Sleep(time.Hour)
		synctest.Wait()
		requirePrints(t, `pool "orders" (shut down)`, p)

		p = pooltest.New(t, taskpool.WithWorkers(1))
		release := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { <-release; return nil })
		}})
		gate = make(chan struct{})
		require.NoError(t, p.Go(0, func() { <-gate }))
		require.NoError(t, p.Go(0, func() {}))
		time.Sleep(time.Minute)
		requirePrints(t, `pool (1 of 1 workers busy, 1 waiting, 1 parked, stalled)`, p)
		close(gate)
		close(release)
	})
	requirePrints(t, "zero Pool", new(taskpool.Pool))
	none := (*taskpool.Pool)(nil)
	require.Equal(t, "<nil> <nil> <nil> <nil>", fmt.Sprintf("%v %+v %s %#v", none, none, none, none))
	require.NotPanics(t, func() { logged(none) })
}

func TestAGroupIsPrintedAsALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{})
		requirePrints(t, "group (0 in flight)", g)
		g.SetLimit(8)
		g.Go(pooltest.UntilEnd)
		g.Go(pooltest.UntilEnd)
		requirePrints(t, "group (2 in flight, limit 8)", g)
		requireLogged(t, `x="group (2 in flight, limit 8)"`, `{"x": "group (2 in flight, limit 8)"}`, g)
		requirePrints(t, "copy of group (2 in flight, limit 8)", copyOf(g))
		require.Equal(t, "(*taskpool.Group)(group (2 in flight, limit 8))", fmt.Sprintf("%#v", g))
		synctest.Wait()
		p.Tasks(taskpool.StateRunning)[0].Handle.Cancel(pooltest.ErrCause)
		synctest.Wait()
		requirePrints(t, "group (0 in flight, limit 8, failed)", g)
	})
	requirePrints(t, "zero Group", new(taskpool.Group))
	require.Equal(t, "<nil>", fmt.Sprint((*taskpool.Group)(nil)))
}

// A printer prints all it knows wherever it is called.
type printer struct {
	mu     sync.Mutex
	p      *taskpool.Pool
	places map[string]bool
}

func (pr *printer) print(place string, more ...any) {
	pr.mu.Lock()
	p := pr.p
	pr.mu.Unlock()
	line := fmt.Sprintf("%v %#v %v %+v", p, p, more, more)
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.places[place] = strings.Contains(line, "workers busy") || strings.Contains(line, "shut down")
}

func TestPrintingIsSafeAnywhere(t *testing.T) {
	pr := &printer{places: make(map[string]bool)}
	log := &pooltest.LogRecorder{Debug: true, Before: func(r slog.Record) { pr.print("log handler", r) }}
	hooks := pooltest.EveryHook(func(name string, e taskpool.TaskEvent, _ taskpool.WorkerEvent) { pr.print(name, e, e.Task.Handle) })
	hooks.Around = func(ctx context.Context, info taskpool.TaskInfo, run func(context.Context) error) error {
		pr.print("Around", info, info.Handle)
		return run(ctx)
	}
	p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(log.Logger()), taskpool.WithHooks(hooks))
	pr.mu.Lock()
	pr.p = p
	pr.mu.Unlock()

	stop := make(chan struct{})
	var watchers sync.WaitGroup
	var handles sync.Map
	for range 2 {
		watchers.Go(func() {
			for {
				pr.print("elsewhere")
				handles.Range(func(h, _ any) bool { pr.print("elsewhere", h); return true })
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	n := pooltest.Times(200, 50)
	for i := range n {
		h, err := p.Submit(context.Background(), taskpool.Task{Name: "t", Run: func(ctx context.Context) error {
			info, _ := taskpool.Current(ctx)
			pr.print("Run", info, info.Handle, ctx)
			_ = taskpool.Block(ctx, func() error { pr.print("Block", info.Handle); return nil })
			if i%2 == 0 {
				panic(info.Handle)
			}
			return fmt.Errorf("failed in %v", info.Handle)
		}, Retry: taskpool.Retry{MaxAttempts: 2,
			If:      func(err error) bool { pr.print("If", err); return true },
			Backoff: func(int) time.Duration { pr.print("Backoff"); return 0 }}})
		require.NoError(t, err)
		handles.Store(h, nil)
		if i%10 == 9 {
			require.Error(t, h.Wait(t.Context()))
			handles.Clear()
		}
	}
	require.NoError(t, p.Shutdown(context.Background()))
	close(stop)
	watchers.Wait()
	for _, place := range []string{"Run", "Block", "If", "Backoff", "log handler", "elsewhere", "Around", "Queued", "Started",
		"AttemptFailed", "Retried", "Finished"} {
		readable, called := pr.places[place]
		require.True(t, called && readable, place)
	}
	pooltest.RequireConserved(t, p.Stats())
}

// A recordingT keeps what a failed assertion says.
type recordingT struct{ said string }

func (r *recordingT) Errorf(format string, args ...any) { r.said += fmt.Sprintf(format, args...) }

func TestWhatAnAssertionSaysOfAHandleOrPoolIsShort(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
	pooltest.Drain(t, p)
	for name, check := range map[string]func(assert.TestingT) bool{
		"Nil":     func(t assert.TestingT) bool { return assert.Nil(t, h) },
		"Empty":   func(t assert.TestingT) bool { return assert.Empty(t, p) },
		"Same":    func(t assert.TestingT) bool { return assert.Same(t, h, new(taskpool.Handle)) },
		"OneOf":   func(t assert.TestingT) bool { return assert.Contains(t, []*taskpool.Pool{p}, new(taskpool.Pool)) },
		"of info": func(t assert.TestingT) bool { return assert.Zero(t, h.Info()) },
	} {
		var said recordingT
		require.False(t, check(&said), name)
		require.Less(t, len(said.said), 2000, "%s: %s", name, said.said)
	}
}
