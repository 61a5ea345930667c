package taskpool

import (
	"context"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
)

// While an execution trace is recorded, each attempt of a task given to Submit is a
// task of package runtime/trace, of the type that the task's name says or
// "taskpool.task"; it and each function given to Go are a region, and so is the
// time in which an attempt is parked.

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
	trace.Log(ctx, "taskpool.priority", Priority(a.priority).String())
	trace.Log(ctx, "taskpool.attempt", strconv.Itoa(a.number))
	return run(ctx)
}

// beginRegion begins the region that the time without a slot is, where it is traced.
// It calls methods of ctx, so no lock may be held.
func (pk *parking) beginRegion(ctx context.Context) {
	if trace.IsEnabled() {
		pk.region = trace.StartRegion(ctx, traceParked)
	}
}

// endRegion ends it, on the same goroutine.
func (pk *parking) endRegion() {
	if pk.region != nil {
		pk.region.End()
	}
}

// label labels the calling goroutine, that of a worker, in profiles. Goroutines
// that its tasks start inherit the labels.
func (w *worker) label() {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("pool", w.pool.cfg.name,
		"worker", strconv.Itoa(w.id), labelGoroutine, strconv.FormatUint(w.goroutine.Load(), 10))))
}
