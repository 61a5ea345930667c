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

// An outbox is what hooks and the log are to be told, and the goroutines that do that and
// other work for the pool. Protected by Pool.mu.
type outbox struct {
	outside bool // hookTable.outside

	notices    []notice // to be delivered, see notifyLocked
	delivering bool     // a goroutine is at it

	helpers  int             // goroutines that Shutdown waits for, beside the crew
	insiders map[uint64]bool // the numbers of those that are the pool's
	telling  int             // the others, which tell hooks of something; see tellHere
}

// A notice is something to tell hooks and the log about, to be called without
// a lock: a call or, if that is nil, a hook to be told of an event.
type notice struct {
	call  func()
	hook  func(TaskEvent)
	event *TaskEvent
	start bool // of the start of an attempt, which is not told once that was given up
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
		e := e // moves to the heap here, not where there is no hook
		*notices = append(*notices, notice{call: func() { hook(e) }})
	}
}

// tellOf adds the notices that tell hooks about *e, which stays as it is until they
// are made.
func tellOf(notices *[]notice, hooks []func(TaskEvent), e *TaskEvent) {
	for _, hook := range hooks {
		*notices = append(*notices, notice{hook: hook, event: e})
	}
}

// deliver delivers the notices in order. A panic in one is contained; Goexit is
// left to the caller's goroutine, and leaves the notices not yet made in *rs.
func (g *guard) deliver(rs *[]notice) {
	for len(*rs) > 0 {
		r := next(rs)
		g.contain("a hook or logger", func() { r.make() })
	}
}

// next takes the first of the notices.
func next(rs *[]notice) notice {
	r := (*rs)[0]
	(*rs)[0] = notice{}
	*rs = (*rs)[1:]
	return r
}

// oweLocked notes that the caller, on whatever goroutine, is about to deliver notices with
// deliverAll. If hooks may be told of something then, WaitIdle and Shutdown wait for it.
func (o *outbox) oweLocked(rs []notice) {
	if len(rs) > 0 && o.outside {
		o.helpers++
		o.telling++
	}
}

// deliverAll delivers the notices that oweLocked has noted, those after a Goexit on
// another goroutine.
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

// tellHere is deliver where hooks may be told on a goroutine that is none of the pool's:
// tellsHere looks for it, and for p, on the stack.
//
//go:noinline
func (p *Pool) tellHere(rs *[]notice) {
	p.guard.deliver(rs)
	runtime.KeepAlive(p) // so that stacks show it
}

// tellsHere reports whether the calling goroutine is in tellHere of p. The number by
// which the runtime knows a goroutine would cost whoever tells hooks more than that is
// worth, as hooks hardly ever ask; this costs who asks.
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

// maxNotices is the number of notices that may wait for their delivery before dead
// workers are no longer replaced: tasks that panic one after the other wait for the
// hook that is told of each.
const maxNotices = 1000

// notifyLocked has notices delivered by a goroutine that runs while
// there are any.
func (p *Pool) notifyLocked(notices []notice) {
	p.outbox.notices = append(p.outbox.notices, notices...)
	if len(p.outbox.notices) > 0 && !p.outbox.delivering {
		p.outbox.delivering = true
		p.outbox.helpers++
		go p.deliverNotices()
	}
}

// deliverNotices is that goroutine. Should a hook end its goroutine, another goes on.
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

// notify adds the notices about an attempt that ended with v. started is
// zero if it is not known when it did, and e is to be the event. It is called with
// pool.mu held and calls no user code; the notices do.
func (v *verdict) notify(p *Pool, ctx context.Context, info TaskInfo, started time.Time, e *TaskEvent, notices *[]notice) {
	var elapsed time.Duration
	if !started.IsZero() {
		elapsed = time.Since(started)
	}
	*e = TaskEvent{Pool: p.cfg.name, Task: info, Err: v.err, Result: v.result(), Elapsed: elapsed}
	if v.log {
		info, elapsed := info, elapsed // they move to the heap here, not where there is no log
		*notices = append(*notices, notice{call: func() {
			p.guard.writeTask(ctx, slog.LevelDebug, "taskpool: task succeeded", info, slog.Duration("elapsed", elapsed))
		}})
	}
	if v.kind != attemptOK {
		if v.retry || v.state == StateFailed || v.kind == attemptPanic {
			v, info, elapsed := *v, info, elapsed
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

// helps makes the calling goroutine known to inside, as one that Shutdown waits
// for. It is called after p.helpers++, and discharge gets what it returns.
func (p *Pool) enlist() (id uint64) {
	pprof.SetGoroutineLabels(p.labels) // else it has those of whoever started it, which may be a task
	id = goroutineID()
	p.lock()
	defer p.unlock()
	p.outbox.insiders[id] = true
	return id
}

// discharge ends what p.helpers++ and helps began.
func (p *Pool) discharge(id uint64) {
	p.lock()
	defer p.unlock()
	delete(p.outbox.insiders, id)
	p.outbox.helpers--
	p.restoreLocked()
}

// A guard calls code of the user's that must not harm anyone, hooks, policies and methods of
// contexts, and writes the pool's log, which is the user's too. So no lock may be held.
type guard struct {
	name   string       // of the pool
	logger *slog.Logger // nil: slog.Default
}

// contain calls user code that must not harm anyone and reports whether it
// returned. A panic is logged, and so is [runtime.Goexit], which cannot be
// stopped: it ends the goroutine.
func (g *guard) contain(what string, f func()) (ok bool) {
	defer func() {
		if !ok {
			g.logContained(what, recover())
		}
	}()
	f()
	return true
}

// logContained logs the end of a user's function other than Run by a panic with
// value v, or by Goexit or panic(nil), if v is nil.
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

// logs reports whether the log takes records of a level. It calls the user's
// handler, so no lock may be held.
func (g *guard) logs(ctx context.Context, level slog.Level) bool {
	return g.log().Enabled(ctx, level)
}

// write writes a record. It calls the user's handler, so no lock may be held.
func (g *guard) write(level slog.Level, msg string, attrs ...slog.Attr) {
	g.writeWith(context.Background(), level, msg, attrs...)
}

// writeWith is write of what belongs to ctx.
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
	all := []slog.Attr{slog.Any("priority", t.Priority), slog.Int("attempt", t.Attempt)}
	if !t.IsFunc() {
		all = append(all, slog.Uint64("id", t.ID), slog.String("task", t.Name))
	}
	g.writeWith(g.valuesOf(ctx), level, msg, append(all, attrs...)...)
}

// values is a context for the log's handlers, which look for values in it, such as those of
// a trace. It has those of a task's context, and does not end with that: the record is
// written when the task is over.
type values struct {
	context.Context
	of context.Context
	g  *guard
}

// valuesOf returns the values of ctx.
func (g *guard) valuesOf(ctx context.Context) context.Context {
	if ctx == nil || ctx == context.Background() {
		return context.Background()
	}
	return &values{context.Background(), ctx, g}
}

// Value returns nil where the context's own method does not return.
func (v *values) Value(key any) (value any) {
	v.g.contain("a context's method", func() { value = v.of.Value(key) })
	return value
}

// writeAttempt logs an attempt that failed.
func (g *guard) writeAttempt(ctx context.Context, v *verdict, info TaskInfo, elapsed time.Duration) {
	level, msg := slog.LevelError, "taskpool: task failed"
	if v.retry && v.kind != attemptPanic && v.kind != attemptHung {
		level, msg = slog.LevelWarn, "taskpool: attempt failed"
	}
	if !g.logs(g.valuesOf(ctx), level) {
		return
	}
	attrs := []slog.Attr{slog.Any("error", v.err)}
	switch v.kind {
	case attemptPanic:
		var e *PanicError
		errors.As(v.err, &e)
		msg, attrs = "taskpool: task panicked", append(attrs, slog.String("stack", string(e.complete().Stack)))
	case attemptHung:
		var e *HungError
		errors.As(v.err, &e)
		msg, attrs = "taskpool: task hung", append(attrs, slog.String("stack", string(e.Stack)))
	}
	if elapsed > 0 {
		attrs = append(attrs, slog.Duration("elapsed", elapsed))
	}
	if v.retry {
		attrs = append(attrs, slog.Duration("retry_in", v.delay))
	}
	g.writeTask(ctx, level, msg, info, attrs...)
}

// contextError says that a context given to call is over.
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
// not. The timer of a deadline may be late, most of all where there is too much to
// do, so it looks at the clock itself. It calls methods of ctx, so no lock may be
// held; what goes wrong in them is contained.
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

// writeUnfinished says in the log that a shutdown left n tasks unfinished.
func (g *guard) writeUnfinished(n int) {
	g.write(slog.LevelWarn, "taskpool: shutdown left tasks unfinished", slog.Int("unfinished", n))
}
