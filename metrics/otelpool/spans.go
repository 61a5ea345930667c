package otelpool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/metricset"
	"github.com/taskpool-go/taskpool/jobs"
)

var background = context.Background()

// spans makes the spans of the tasks of pools.
//
// A span is made around the attempt, whose context it belongs in, and ended by the event
// that says what the pool made of it: of an attempt that hangs nothing returns.
//
// An attempt may be given up at any moment, so its end may be told before its beginning
// is. Who makes an entry below therefore looks at the task afterwards, and takes the entry
// back if the task, or the attempt, is over: the event that would have may be past. If it
// is not over, that event is yet to come.
type spans struct {
	tracer   trace.Tracer
	children bool // of the submitter's span, not linked to it

	live sync.Map // of attempts under way: *live by attemptKey
}

type attemptKey struct {
	task   *taskpool.Handle
	number int
}

// A live is the span of an attempt under way.
type live struct {
	span    trace.Span
	started time.Time
}

// around makes the span of an attempt, until end.
func (s *spans) around(ctx context.Context, t taskpool.TaskInfo, run func(context.Context) error) error {
	if t.IsFunc() || t.Handle.State().Final() { // the attempt was given up before it ran
		return run(ctx)
	}
	name := t.Name
	if name == "" {
		name = "taskpool.task"
	}
	opts := []trace.SpanStartOption{
		trace.WithTimestamp(t.Started),
		trace.WithAttributes(
			attribute.String("taskpool.pool", metricset.Label(t.Pool)),
			attribute.Int64("taskpool.task.id", int64(t.ID)),
			attribute.String("taskpool.priority", t.Priority.String()),
			attribute.Int("taskpool.attempt", t.Attempt),
		),
	}
	if job, ok := jobs.MetaFrom(ctx); ok {
		opts = append(opts, trace.WithAttributes(
			attribute.String("taskpool.job.id", string(job.ID)),
			attribute.String("taskpool.job.kind", job.Kind),
			attribute.Int("taskpool.job.attempt", job.Attempt),
		))
	}
	if !s.children {
		opts = append(opts, trace.WithNewRoot())
		if submitter := trace.SpanContextFromContext(ctx); submitter.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: submitter}))
		}
	}
	ctx, span := s.tracer.Start(ctx, metricset.Label(name), opts...)
	key, l := attemptKey{t.Handle, t.Attempt}, &live{span, t.Started}
	s.live.Store(key, l)
	if now, _ := taskpool.Current(ctx); now.State == taskpool.StateAbandoned && s.live.CompareAndDelete(key, l) {
		span.SetStatus(codes.Error, "given up before it ran")
		span.SetAttributes(attribute.String("error.type", string(taskpool.ResultHung)))
		span.End()
	}
	return run(ctx)
}

// end ends the span of an attempt, if it has one that has not ended, and returns what it
// was.
func (s *spans) end(e *taskpool.TaskEvent) trace.SpanContext {
	was, ok := s.live.LoadAndDelete(attemptKey{e.Task.Handle, e.Task.Attempt})
	if !ok {
		return trace.SpanContext{}
	}
	l := was.(*live)
	end := trace.WithTimestamp(l.started.Add(e.Elapsed))
	defer l.span.End(end) // methods of the error may panic
	l.span.SetAttributes(attribute.Float64("taskpool.wait", e.Wait.Seconds()))
	if e.Err != nil && l.span.IsRecording() {
		// What RecordError would add, but in UTF-8, of a bounded size and with the stack of the panic.
		message := metricset.Cut(e.Err.Error(), maxText)
		exception := []attribute.KeyValue{
			attribute.String("exception.type", fmt.Sprintf("%T", e.Err)),
			attribute.String("exception.message", message),
		}
		// A task that waits for another may return its panic: the stack is then another's.
		if p, ok := errors.AsType[*taskpool.PanicError](e.Err); ok && e.Result == taskpool.ResultPanic {
			exception = append(exception, attribute.String("exception.stacktrace", metricset.Cut(string(p.Stack), maxStack)))
		}
		l.span.SetStatus(codes.Error, message)
		l.span.SetAttributes(attribute.String("error.type", string(e.Result)))
		l.span.AddEvent("exception", end, trace.WithAttributes(exception...))
	}
	return l.span.SpanContext()
}

// neverStarted adds an event to the span that a task was submitted in, if that is under way,
// when the task was shed or canceled before its first attempt or between two: there is no
// span of an attempt to tell of it.
func neverStarted(e *taskpool.TaskEvent) {
	span := trace.SpanFromContext(e.Context)
	if !span.IsRecording() || e.Task.IsFunc() {
		return
	}
	attributes := []attribute.KeyValue{
		attribute.String("taskpool.pool", metricset.Label(e.Pool)),
		attribute.Int64("taskpool.task.id", int64(e.Task.ID)),
		attribute.String("taskpool.task.name", metricset.Label(e.Task.Name)),
		attribute.String("taskpool.priority", e.Task.Priority.String()),
	}
	if e.Task.State == taskpool.StateShed {
		attributes = append(attributes, attribute.Float64("taskpool.wait", e.Wait.Seconds()))
	}
	if e.Err != nil {
		attributes = append(attributes, attribute.String("exception.message", metricset.Cut(e.Err.Error(), maxText)))
	}
	span.AddEvent("taskpool.task."+e.Task.State.String(), trace.WithAttributes(attributes...))
}

// How many bytes of an error's text and of a stack are exported.
const (
	maxText  = 2 << 10
	maxStack = 16 << 10
)
