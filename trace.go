package taskpool

import (
	"context"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
)

// While an execution trace is recorded, each attempt of a task given to Submit is a
// task of package runtime/trace, whose type is the task's name or, if it has none,
// "taskpool.task". Each attempt and each function given to Go is also a region, and so
// is the time in which an attempt is parked.

const (
	traceTask   = "taskpool.task"
	traceFunc   = "taskpool.func"
	traceParked = "taskpool.parked"
)

// traceFunction calls f in a region.
func traceFunction(pr Priority, f func()) {
	ctx := context.Background()
	defer trace.StartRegion(ctx, traceFunc).End()
	trace.Log(ctx, "taskpool.priority", pr.String())
	f()
}

// traceAttempt calls run in a region of a task.
func (a *attempt) traceAttempt(ctx context.Context, run func(context.Context) error) error {
	kind := a.h.task.Name
	if kind == "" {
		kind = traceTask
	}
	ctx, task := trace.NewTask(ctx, kind)
	defer task.End()
	defer trace.StartRegion(ctx, traceTask).End()
	trace.Log(ctx, "taskpool.priority", a.w.priority.String())
	if u := Priority(a.urgency()); u != a.w.priority {
		trace.Log(ctx, "taskpool.urgency", u.String())
	}
	trace.Log(ctx, "taskpool.attempt", strconv.Itoa(a.number))
	return run(ctx)
}

// beginRegion begins the region for the time without a slot, while a trace is recorded.
// It calls methods of ctx, so no lock may be held.
func (pk *suspension) beginRegion(ctx context.Context) {
	if trace.IsEnabled() {
		pk.region = trace.StartRegion(ctx, traceParked)
	}
}

// endRegion ends that region. It must be called on the same goroutine.
func (pk *suspension) endRegion() {
	if pk.region != nil {
		pk.region.End()
	}
}

// Labels that a task or a hook sets on its worker's goroutine do not outlast it: the
// worker sets its own again before each task, before hooks are told and before it
// sleeps. That takes a few nanoseconds, which is too long for functions given to Go
// that run one after the other: between those, it does so once in labelEvery. Run's
// context has the worker's labels in addition to those of the context given to Submit,
// so that the goroutine has them after pprof.Do. They are made when a context is asked
// for the key under which package runtime/pprof keeps labels. The package does not
// export that key, but it can be seen when the package asks a context for it.

const labelEvery = 64

// labelKey is that key; nil if package runtime/pprof does not ask a context for one.
var labelKey = func() any {
	var probe keyProbe
	pprof.WithLabels(&probe, pprof.Labels())
	return probe.key
}()

// A keyProbe is a context that records the first key that it is asked for.
type keyProbe struct {
	context.Context
	key any
}

func (p *keyProbe) Value(key any) any {
	if p.key == nil {
		p.key = key
	}
	return nil
}

// workerLabels are the labels of a worker.
type workerLabels struct {
	set pprof.LabelSet
	ctx context.Context // has these labels and is asked for nothing else
}

// A labelContext is a context that is asked for nothing but labels.
type labelContext struct {
	context.Context
	labels any
}

func (c *labelContext) Value(any) any { return c.labels }

func newWorkerLabels(labels ...string) *workerLabels {
	l := &workerLabels{set: pprof.Labels(labels...)}
	l.ctx = pprof.WithLabels(context.Background(), l.set)
	if labels := l.ctx.Value(labelKey); labels != nil {
		l.ctx = &labelContext{l.ctx, labels}
	}
	return l
}

// label sets the profiler labels of the calling goroutine, which is w's. Goroutines
// that its tasks start inherit the labels.
func (w *worker) label() {
	w.labels.Store(newWorkerLabels("pool", w.pool.cfg.name,
		"worker", strconv.Itoa(w.id), labelGoroutine, strconv.FormatUint(w.goroutine.Load(), 10)))
	w.relabel()
}

// relabel sets these labels again.
func (w *worker) relabel() { pprof.SetGoroutineLabels(w.labels.Load().ctx) }

// labels returns what the attempt's context holds for package runtime/pprof. It calls
// methods of the context given to Submit, so no lock may be held.
func (a *attempt) labels() any {
	d := a.derive()
	if l := d.labels.Load(); l != nil {
		return *l
	}
	labels := pprof.WithLabels(d.Context, a.w.labels.Load().set).Value(labelKey)
	d.labels.Store(&labels)
	return labels
}
