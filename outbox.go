package taskpool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/taskpool-go/taskpool/internal/contain"
)

// An outbox holds the notices for hooks and the log, and keeps track of the goroutines that
// deliver them and do other work for the pool. Protected by Pool.mu.
type outbox struct {
	outside bool // hookTable.outside

	notices    []notice // not delivered yet, see notifyLocked
	delivering bool     // a goroutine delivers notices

	helpers  int             // goroutines that Shutdown waits for, besides the crew
	insiders map[uint64]bool // the numbers of those helpers that are the pool's goroutines
	telling  int             // how many helpers are other goroutines, see tellHere
}

// A notice is something to tell a hook or the log. It is delivered without a lock, by
// call or, if that is nil, by calling hook with *event.
type notice struct {
	call  func()
	hook  func(TaskEvent)
	event *TaskEvent
	start bool // it tells of the start of an attempt, and is dropped if that was given up
}

func (n *notice) make() {
	if n.call != nil {
		n.call()
	} else {
		n.hook(*n.event)
	}
}

// tell adds the notices that tell hooks about e.
func tell[E any](notices *[]notice, hooks []func(E), e E) {
	for _, hook := range hooks {
		e := e // so that it moves to the heap only if there is a hook
		*notices = append(*notices, notice{call: func() { hook(e) }})
	}
}

// tellOf adds the notices that tell hooks about *e, which must not change until they
// are delivered.
func tellOf(notices *[]notice, hooks []func(TaskEvent), e *TaskEvent) {
	for _, hook := range hooks {
		*notices = append(*notices, notice{hook: hook, event: e})
	}
}

// deliver delivers the notices in order. A panic in one is contained. Goexit ends the
// caller's goroutine and leaves the notices not yet delivered in *rs.
func (g *guard) deliver(rs *[]notice) {
	for len(*rs) > 0 {
		r := next(rs)
		g.contain("a hook or logger", func() { r.make() })
	}
}

// next removes and returns the first of the notices.
func next(rs *[]notice) notice {
	r := (*rs)[0]
	(*rs)[0] = notice{}
	*rs = (*rs)[1:]
	return r
}

// oweLocked notes that the caller, on any goroutine, is about to deliver notices with
// deliverAll. If hooks may be told of something there, WaitIdle and Shutdown wait for it.
func (o *outbox) oweLocked(rs []notice) {
	if len(rs) > 0 && o.outside {
		o.helpers++
		o.telling++
	}
}

// deliverAll delivers the notices that oweLocked has noted. After a Goexit in one, another
// goroutine delivers the rest.
func (p *Pool) deliverAll(rs []notice) {
	if len(rs) == 0 {
		return
	}
	defer func() {
		if len(rs) == 0 && !p.hooks.outside {
			return
		}
		p.lock()
		defer p.unlock()
		p.notifyLocked(rs)
		if p.hooks.outside {
			p.outbox.helpers--
			p.outbox.telling--
			p.restoreLocked()
		}
	}()
	if p.hooks.outside {
		p.tellHere(&rs)
	} else {
		p.guard.deliver(&rs)
	}
}

// tellHere is deliver on a goroutine that may not be one of the pool's. tellsHere looks for
// it, and for p, on the stack.
//
//go:noinline
func (p *Pool) tellHere(rs *[]notice) {
	p.guard.deliver(rs)
	runtime.KeepAlive(p) // so that stacks show it
}

// tellsHere reports whether the calling goroutine is in tellHere of p. To record the
// goroutine's number in tellHere would make every delivery to hooks pay, although hooks
// hardly ever ask; in this way only a caller that asks pays.
func tellsHere(p *Pool) bool {
	p.lock()
	telling := p.outbox.telling
	p.unlock()
	if telling == 0 {
		return false
	}
	stack := make([]byte, 64<<10)
	stack = stack[:runtime.Stack(stack, false)]
	return bytes.Contains(stack, fmt.Appendf(nil, ".(*Pool).tellHere(%p,", p))
}

// maxNotices is the number of undelivered notices at which dead workers are no longer
// replaced: so tasks that panic one after the other wait for the hook that is told of
// each.
const maxNotices = 1000

// notifyLocked has notices delivered by a goroutine that runs as long as there are any.
func (p *Pool) notifyLocked(notices []notice) {
	p.outbox.notices = append(p.outbox.notices, notices...)
	if len(p.outbox.notices) > 0 && !p.outbox.delivering {
		p.outbox.delivering = true
		p.outbox.helpers++
		go p.deliverNotices()
	}
}

// deliverNotices is that goroutine. If a hook ends it, another one continues.
func (p *Pool) deliverNotices() {
	id := p.enlist()
	defer func() {
		p.lock()
		defer p.unlock()
		delete(p.outbox.insiders, id)
		if len(p.outbox.notices) > 0 {
			go p.deliverNotices()
			return
		}
		p.outbox.notices = nil // it may have been long
		p.outbox.delivering = false
		p.outbox.helpers--
		p.restoreLocked()
	}()
	p.lock()
	defer p.unlock()
	for len(p.outbox.notices) > 0 {
		next := p.outbox.notices[:1:1]
		if p.outbox.notices = p.outbox.notices[1:]; len(p.outbox.notices) == maxNotices/2 && len(p.crew.dead) > 0 {
			p.supervisor.alarmLocked()
		}
		p.unlock()
		func() {
			defer p.lock()
			p.guard.deliver(&next)
		}()
	}
}

// notify adds the notices about an attempt that ended with v, and completes the event e,
// whose Task is set.
// started is the attempt's start, zero if that is not known. notify is called with pool.mu
// held and calls no user code; the notices do.
func (v *verdict) notify(p *Pool, ctx context.Context, started time.Time, e *TaskEvent, notices *[]notice) {
	var elapsed time.Duration
	if !started.IsZero() {
		elapsed = time.Since(started)
	}
	*e = TaskEvent{Pool: p.cfg.name, Task: e.Task, Err: v.err, Context: eventContext(ctx), Result: v.result(), Wait: e.Wait, Elapsed: elapsed}
	if v.log {
		info, elapsed := e.Task, elapsed // so that they move to the heap only if there is a log
		*notices = append(*notices, notice{call: func() {
			p.guard.writeTask(ctx, slog.LevelDebug, "taskpool: task succeeded", info, slog.Duration("elapsed", elapsed))
		}})
	}
	if v.kind != attemptOK {
		if v.retry || v.state == StateFailed || v.kind == attemptPanic {
			v, info, elapsed := *v, e.Task, elapsed
			*notices = append(*notices, notice{call: func() { p.guard.writeAttempt(ctx, &v, info, elapsed) }})
		}
		tellOf(notices, p.hooks.attemptFailed, e)
	}
	if v.retry {
		retried := *e
		retried.Delay = v.delay
		tell(notices, p.hooks.retried, retried)
	} else {
		tellOf(notices, p.hooks.finished, e)
	}
}

// eventContext returns the context of an event of a task that was submitted with ctx, nil for
// a function given to Go.
func eventContext(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}

// submittedWith returns the context that h, which has not settled, was submitted with, nil for a
// function given to Go.
func (h *Handle) submittedWith() context.Context {
	if h.function != nil || h.first == nil {
		return nil
	}
	return h.first.ctx
}

// enlist makes the calling goroutine known to [Pool.Inside], as one that Shutdown waits
// for. It is called after outbox.helpers++, and its result is passed to discharge.
func (p *Pool) enlist() (id uint64) {
	pprof.SetGoroutineLabels(p.labels) // it inherited those of its starter, which may be a task
	id = goroutineID()
	p.lock()
	defer p.unlock()
	p.outbox.insiders[id] = true
	return id
}

// discharge undoes outbox.helpers++ and enlist.
func (p *Pool) discharge(id uint64) {
	p.lock()
	defer p.unlock()
	delete(p.outbox.insiders, id)
	p.outbox.helpers--
	p.restoreLocked()
}

// A guard contains failures in user code: hooks, policies and methods of contexts. It also
// writes the pool's log, whose handler is user code too. So no lock may be held.
type guard struct {
	name   string       // the pool's name
	logger *slog.Logger // nil: slog.Default
}

// contain calls user code whose failure must do no harm, and reports whether it
// returned. A panic is logged and goes no further. [runtime.Goexit] is logged too,
// but it cannot be stopped: it ends the goroutine.
func (g *guard) contain(what string, f func()) (ok bool) {
	defer func() {
		if !ok {
			g.logContained(what, recover())
		}
	}()
	f()
	return true
}

// logContained logs that a user's function other than Run ended by a panic with value v
// or, if v is nil, by Goexit or panic(nil).
func (g *guard) logContained(what string, v any) {
	log := func(msg string, attrs ...slog.Attr) { g.write(slog.LevelError, msg, attrs...) }
	contain.Log(log, "taskpool: "+what, v)
}

// log returns the pool's logger.
func (g *guard) log() *slog.Logger {
	if l := g.logger; l != nil {
		return l
	}
	return slog.Default()
}

// logs reports whether the log takes records of the given level. It calls the user's
// handler, so no lock may be held.
func (g *guard) logs(ctx context.Context, level slog.Level) bool {
	return g.log().Enabled(ctx, level)
}

// write writes a record. It calls the user's handler, so no lock may be held.
func (g *guard) write(level slog.Level, msg string, attrs ...slog.Attr) {
	g.writeWith(context.Background(), level, msg, attrs...)
}

// writeWith is write with ctx as the record's context.
func (g *guard) writeWith(ctx context.Context, level slog.Level, msg string, attrs ...slog.Attr) {
	if !g.logs(ctx, level) {
		return
	}
	if g.name != "" {
		attrs = append([]slog.Attr{slog.String("pool", g.name)}, attrs...)
	}
	g.log().LogAttrs(ctx, level, msg, attrs...)
}

// writeTask writes a record about a task that was submitted with ctx, nil for a function.
func (g *guard) writeTask(ctx context.Context, level slog.Level, msg string, t TaskInfo, attrs ...slog.Attr) {
	all := []slog.Attr{slog.Any("priority", t.Priority)}
	if t.Flow != "" {
		all = append(all, slog.String("flow", t.Flow))
	}
	all = append(all, slog.Int("attempt", t.Attempt))
	if !t.IsFunc() {
		all = append(all, slog.Uint64("id", t.ID), slog.String("task", t.Name))
	}
	g.writeWith(g.valuesOf(ctx), level, msg, append(all, attrs...)...)
}

// values is a context for the log's handlers, which look for values in it, such as a trace
// ID. It has the values of a task's context but does not end with it: the record is written
// when the task is over.
type values struct {
	context.Context
	of context.Context
	g  *guard
}

// valuesOf returns a context with the values of ctx, which may be nil.
func (g *guard) valuesOf(ctx context.Context) context.Context {
	if ctx == nil || ctx == context.Background() {
		return context.Background()
	}
	return &values{context.Background(), ctx, g}
}

// Value returns nil if the Value method of the task's context panics.
func (v *values) Value(key any) (value any) {
	v.g.contain("a context's method", func() { value = v.of.Value(key) })
	return value
}

// writeAttempt logs an attempt that failed.
func (g *guard) writeAttempt(ctx context.Context, v *verdict, info TaskInfo, elapsed time.Duration) {
	level, msg := slog.LevelError, "taskpool: task failed"
	switch {
	case v.kind == attemptPanic || v.kind == attemptHung: // nobody else says where
	case v.retry:
		level, msg = slog.LevelWarn, "taskpool: attempt failed"
	case v.told || g.passedOn(v.err):
		level = slog.LevelDebug
	}
	if !g.logs(g.valuesOf(ctx), level) {
		return
	}
	attrs := []slog.Attr{slog.Any("error", v.err)}
	switch v.kind {
	case attemptPanic:
		var e *PanicError
		errors.As(v.err, &e)
		e.complete()
		msg, attrs = "taskpool: task panicked", append(attrs, slog.String("at", e.at), slog.String("stack", string(e.Stack)))
	case attemptHung:
		var e *HungError
		errors.As(v.err, &e)
		msg, attrs = "taskpool: task hung", append(attrs, slog.String("stack", string(e.Stack)))
	default:
		var e *PanicError // of a child process: no log has had its stack
		contain.Apart(func() { errors.As(v.err, &e) }, func(v any) { g.logContained("an error's As or Unwrap", v) })
		if e != nil && e.at == "" && len(e.Stack) > 0 {
			attrs = append(attrs, slog.String("stack", string(e.Stack)))
		}
	}
	if elapsed > 0 {
		attrs = append(attrs, slog.Duration("elapsed", elapsed))
	}
	if v.retry {
		attrs = append(attrs, slog.Duration("retry_in", v.delay))
	}
	g.writeTask(ctx, level, msg, info, attrs...)
}

// passedOn reports whether err, which an attempt returned, is the panic or hang of another
// task, perhaps with something said about it. The log has been told of that already. It
// calls methods of err, so no lock may be held.
func (g *guard) passedOn(err error) (passed bool) {
	for err != nil {
		switch e := err.(type) {
		case *PanicError:
			return e.at != ""
		case *HungError:
			return e.cause != nil
		case *retryBudgetError:
			err = e.err
		case interface{ Unwrap() error }: // of several errors, some may be new
			err = nil
			contain.Apart(func() { err = e.Unwrap() }, func(v any) { g.logContained("an error's Unwrap", v) })
		default:
			return false
		}
	}
	return false
}

// contextError returns the error of call for a ctx that is over.
func (g *guard) contextError(call string, ctx context.Context) error {
	err, cause := ctx.Err(), causeOf(ctx)
	if err == nil {
		err = cause
	}
	wraps := false
	g.contain("an error's Is or Unwrap", func() { wraps = errors.Is(cause, err) })
	if wraps {
		return fmt.Errorf("taskpool: %s: context is over: %w", call, cause)
	}
	return fmt.Errorf("taskpool: %s: context is over: %w: %w", call, err, cause)
}

// contextEnd returns why ctx, which was given to Submit, has ended, nil if it has
// not. The timer of a deadline may be late, above all under high load, so contextEnd
// reads the clock itself. It calls methods of ctx, so no lock may be held; their
// failures are contained.
func (g *guard) contextEnd(ctx context.Context) (e *ending) {
	g.contain("a context's method", func() {
		late := false
		if ctx.Err() == nil {
			deadline, ok := ctx.Deadline()
			if late = ok && !time.Now().Before(deadline); !late {
				return
			}
		}
		e = &ending{cause: context.Canceled, kind: endCanceled, byContext: true}
		if late {
			e.cause = context.DeadlineExceeded
		}
		if cause := context.Cause(ctx); cause != nil {
			e.cause = cause
		}
	})
	return e
}

// writeUnfinished logs that a shutdown left n tasks unfinished.
func (g *guard) writeUnfinished(n int) {
	g.write(slog.LevelWarn, "taskpool: shutdown left tasks unfinished", slog.Int("unfinished", n))
}
