package otelpool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/taskpool-go/taskpool"
)

var background = context.Background()

// spans makes the spans of the tasks of pools.
//
// A span is made around the attempt, whose context it belongs in, and ended by the event
// that says what the pool made of it: of an attempt that hangs nothing returns.
type spans struct {
	c    *Collector
	live sync.Map // of attempts under way: *live by attemptKey
}

type attemptKey struct {
	task   *taskpool.Handle
	number int
}

// A live is what is known of an attempt under way. It does not change.
type live struct {
	pool    string // which around is not told
	span    trace.Span
	started time.Time
}

func (s *spans) started(e *taskpool.TaskEvent) {
	if e.Task.ID != 0 {
		s.live.Store(attemptKey{e.Task.Handle, e.Task.Attempt}, &live{pool: e.Pool})
	}
}

func (s *spans) around(ctx context.Context, t taskpool.TaskInfo, run func(context.Context) error) error {
	key := attemptKey{t.Handle, t.Attempt}
	was, ok := s.live.Load(key)
	if !ok { // a function, or the attempt was given up before it ran
		return run(ctx)
	}
	pool := was.(*live).pool
	name := t.Name
	if name == "" {
		name = "taskpool.task"
	}
	opts := []trace.SpanStartOption{
		trace.WithTimestamp(t.Started),
		trace.WithAttributes(
			attribute.String("taskpool.pool", valid(pool)),
			attribute.Int64("taskpool.task.id", int64(t.ID)),
			attribute.String("taskpool.priority", t.Priority.String()),
			attribute.Int("taskpool.attempt", t.Attempt),
		),
	}
	if !s.c.cfg.childSpans {
		opts = append(opts, trace.WithNewRoot())
		if submitter := trace.SpanContextFromContext(ctx); submitter.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: submitter}))
		}
	}
	ctx, span := s.c.tracer.Start(ctx, valid(name), opts...)
	if !s.live.CompareAndSwap(key, was, &live{pool, span, t.Started}) {
		span.End() // given up in this moment
	}
	return run(ctx)
}

// end ends the span of an attempt, if it has one that has not ended, and returns what it
// was.
func (s *spans) end(e *taskpool.TaskEvent) trace.SpanContext {
	was, ok := s.live.LoadAndDelete(attemptKey{e.Task.Handle, e.Task.Attempt})
	if !ok || was.(*live).span == nil {
		return trace.SpanContext{}
	}
	l := was.(*live)
	end := trace.WithTimestamp(l.started.Add(e.Elapsed))
	defer l.span.End(end) // methods of the error may panic
	if e.Err != nil && l.span.IsRecording() {
		// What RecordError would add, but in UTF-8 and with the stack of the panic.
		message := valid(e.Err.Error())
		exception := []attribute.KeyValue{
			attribute.String("exception.type", fmt.Sprintf("%T", e.Err)),
			attribute.String("exception.message", message),
		}
		if p, ok := errors.AsType[*taskpool.PanicError](e.Err); ok {
			exception = append(exception, attribute.String("exception.stacktrace", valid(string(p.Stack))))
		}
		l.span.SetStatus(codes.Error, message)
		l.span.SetAttributes(attribute.String("error.type", result(e)))
		l.span.AddEvent("exception", end, trace.WithAttributes(exception...))
	}
	return l.span.SpanContext()
}

// result returns how an attempt has failed, in the terms of taskpool.attempts.ended.
func result(e *taskpool.TaskEvent) string {
	if _, ok := errors.AsType[*taskpool.HungError](e.Err); ok {
		return "hung"
	}
	if _, ok := errors.AsType[*taskpool.PanicError](e.Err); ok {
		return "panic"
	}
	switch {
	case errors.Is(e.Err, taskpool.ErrGoexit):
		return "goexit"
	case e.Task.State == taskpool.Canceled:
		return "interrupted"
	case errors.Is(e.Err, taskpool.ErrTimeout), errors.Is(e.Err, taskpool.ErrHung):
		return "timeout"
	}
	return "error"
}

// valid returns s in UTF-8, which exporters insist on.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
