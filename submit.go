package taskpool

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Go runs f with priority pr as soon as no more urgent task waits for a worker.
// It is the fast way for work that needs neither context nor result, and allocates
// nothing per task. If f panics, that is logged and counted.
//
// If the queue is full, Go does what [WithCapacity] says, as [Pool.Submit] does: it waits
// for room, makes some or returns [ErrFull]. A task that waits in Go gives its slot back
// meanwhile and waits no longer than until its context ends; other callers wait until there
// is room or the pool is shut down. [Pool.TryGo] never waits. After Shutdown was called Go
// returns [ErrClosed].
func (p *Pool) Go(pr Priority, f func()) error { return p.submitFunction("Go", pr, f, roomAsSet) }

// TryGo is [Pool.Go] that never waits: where Go would wait for room, with [OverflowWait], it
// returns [ErrFull].
func (p *Pool) TryGo(pr Priority, f func()) error {
	return p.submitFunction("TryGo", pr, f, roomNow)
}

// submitFunction is Go, for a call of that name; room says how to get room.
func (p *Pool) submitFunction(call string, pr Priority, f func(), room roomMode) error {
	if misused(p) {
		return poolMisuse(p, call)
	}
	if f == nil {
		return nilArgument(call, "f")
	}
	e := entry{f: f}
	if p.hooks.timesGo {
		e = p.timedFunction(f, pr)
	}
	if p.inbox.direct && p.inbox.put(e, pr) {
		return nil
	}
	notices, err := p.admitFunction(call, e, pr, room)
	p.deliverAll(notices)
	return err
}

// admitFunction has a function accepted that did not go into the inbox, or returns why not.
func (p *Pool) admitFunction(call string, e entry, pr Priority, room roomMode) (notices []notice, err error) {
	p.lock()
	defer p.unlock()
	var due time.Time
	err = ErrClosed
	if !p.end.closed {
		due, err = p.makeRoomLocked(pr, false, &notices)
	}
	switch {
	case err == ErrFull && p.cfg.overflow == OverflowWait && room != roomNow:
		f, sample := e.f, p.hooks.unsampled()
		if e.h != nil {
			f, sample = e.h.work.f, e.h.sample
		}
		e.h = newFunctionHandle(new(Handle), p, f, pr, sample)
		e.h.self = e.h // it is not used again: who waits looks at it
		err = e.h.waitForRoomLocked(false, &wait{what: awaited{room: e.h}, call: call})
	case err == nil:
		p.ledger.total.submitted++
		if e.h == nil && !due.IsZero() {
			e.h = newFunctionHandle(functionHandles.Get().(*Handle), p, e.f, pr, p.hooks.unsampled())
			e.f = nil
		}
		if e.h != nil {
			e.h.id = p.ledger.total.submitted
			p.sched.inherit(e.h, due)
		}
		p.enqueueLocked(e, pr)
	}
	if err != nil {
		p.ledger.total.refused++
		return nil, err
	}
	if p.hooks.queued != nil {
		info := TaskInfo{Pool: p.cfg.name, Priority: pr, sample: p.hooks.unsampled()}
		if e.h != nil {
			info = e.h.infoLocked()
		}
		tell(&notices, p.hooks.queued, TaskEvent{Pool: p.cfg.name, Task: info})
	}
	p.restoreLocked()
	p.outbox.oweLocked(notices)
	return notices, nil
}

// timedFunction returns the entry of a function. Where a hook is to be told of it,
// that is a handle, which nobody gets to see, but it knows when the function came.
// To the worker that takes it, it is a function again.
func (p *Pool) timedFunction(f func(), pr Priority) entry {
	draw, sampled := uint64(0), true
	if len(p.hooks.samples) > 0 {
		draw, sampled = p.hooks.draw()
	}
	if !sampled && !(p.hooks.all && p.hooks.timed) {
		return entry{f: f}
	}
	return entry{h: newFunctionHandle(functionHandles.Get().(*Handle), p, f, pr, draw)}
}

// newFunctionHandle has h stand for a function.
func newFunctionHandle(h *Handle, p *Pool, f func(), pr Priority, sample uint64) *Handle {
	h.pool, h.function, h.work.f, h.priority, h.sample, h.queuedAt = p, true, f, pr, sample, time.Since(p.epoch)
	return h
}

// functionHandles are handles that stand for functions, to be used again: nobody
// but the queue has them.
var functionHandles = sync.Pool{New: func() any {
	return &Handle{function: true}
}}

// Submit hands a task to the pool and returns a handle to it. ctx governs the
// whole task: waiting for room, waiting in the queue and each attempt. When it
// ends before the task has started, the task is Canceled at once and never
// runs; nor does an attempt start, the first or a retry, once ctx's deadline has
// passed. Such a task makes no attempt, and hooks are told of its end only. A task that is to outlive a request gets [context.WithoutCancel]; then
// nothing but room or Shutdown ends a wait for room.
//
// If the queue is full, Submit waits for room, makes some or returns [ErrFull],
// as [WithCapacity] says. After Shutdown was called it returns [ErrClosed],
// except to a running task of the pool that submits with its own context. It
// returns an error that wraps ctx's if ctx ends before the task is accepted, and
// one that names the field if t is not valid. A task that is not accepted leaves
// nothing behind. [Pool.TrySubmit] never waits, and [Pool.SubmitWithin] bounds the
// wait alone.
func (p *Pool) Submit(ctx context.Context, t Task) (*Handle, error) {
	return p.submitRun("Submit", ctx, ctx, &t, roomAsSet)
}

// TrySubmit is [Pool.Submit] that never waits: where Submit would wait for room, with
// [OverflowWait], it returns [ErrFull].
func (p *Pool) TrySubmit(ctx context.Context, t Task) (*Handle, error) {
	return p.submitRun("TrySubmit", ctx, ctx, &t, roomNow)
}

// SubmitWithin is [Pool.Submit] with a context of its own for the wait for room: ctx
// governs the task, and wait how long SubmitWithin may take. If wait ends first, the
// error wraps its cause, and the task was not accepted; once the task is accepted, the
// end of wait changes nothing. It is for a task that outlives the request in which it
// is submitted:
//
//	h, err := pool.SubmitWithin(r.Context(), context.WithoutCancel(r.Context()), task)
//
// Inside a task it is wait that tells which task submits. If ctx ends while
// SubmitWithin waits, it returns too.
func (p *Pool) SubmitWithin(wait, ctx context.Context, t Task) (*Handle, error) {
	const call = "SubmitWithin"
	switch {
	case misused(p):
		return nil, poolMisuse(p, call)
	case wait == nil:
		return nil, nilArgument(call, "wait")
	case ctx == nil:
		return nil, nilArgument(call, "ctx")
	case wait.Err() != nil:
		return nil, p.refuseOver(call, wait)
	}
	if ctx.Done() != nil {
		both, cancel := context.WithCancelCause(wait)
		defer cancel(nil)
		defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
		wait = both
	}
	return p.submitRun(call, wait, ctx, &t, roomAsSet)
}

// submitRun is SubmitWithin, whose wait has not ended, for a call of that name; room says
// how to get room.
func (p *Pool) submitRun(call string, wait, ctx context.Context, t *Task, room roomMode) (*Handle, error) {
	switch {
	case misused(p):
		return nil, poolMisuse(p, call)
	case ctx == nil:
		return nil, nilArgument(call, "ctx")
	case t.Run == nil:
		return nil, nilArgument(call, "Task.Run")
	}
	return p.submit(call, wait, ctx, t, work{run: t.Run}, terms{room: room})
}

// work is what Submit does not leave to its caller.
type work struct {
	run   func(context.Context) error
	f     func() // a function given to Go
	group *Group // that the task is a member of; nil if none
}

// terms are how a task is submitted.
type terms struct {
	room     roomMode
	answered bool // whoever submits it is told of its end: no orphan
}

// A roomMode is what becomes of a task for which there is no room.
type roomMode byte

const (
	roomAsSet roomMode = iota // what WithCapacity says
	roomWait                  // it waits whatever that is
	roomNow                   // it does not wait
)

// submit is SubmitWithin of a task that does work, on these terms, for a call of that name.
func (p *Pool) submit(call string, wait, ctx context.Context, t *Task, work work, terms terms) (_ *Handle, err error) {
	h := newHandle(ctx)
	h.pool, h.task, h.work, h.terms, h.priority = p, *t, work, terms, t.Priority
	if g := work.group; g != nil {
		defer func() { g.submitted(h, err) }() // also if ctx or a hook ends the goroutine
	}
	if err := t.validate(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, p.refuseOver(call, ctx)
	}
	if ctx.Done() != nil {
		h.ends = true
		p.watches.watch(p, h, ctx)
	}
	if p.hooks.timed {
		h.queuedAt = time.Since(p.epoch)
	}
	parent := attemptFrom(wait)
	if p.inbox.direct && t.NotBefore.IsZero() && p.inbox.put(entry{h: h}, t.Priority) {
		return h, nil
	}
	notices, err := h.admit(call, wait, parent)
	if err != nil {
		if forget := p.watches.leave(h); forget != nil {
			forget()
		}
		if err == errGaveUp {
			over := ctx
			if ctx.Err() == nil {
				over = wait
			}
			err = p.guard.contextError(call, over)
		}
		return nil, err
	}
	p.deliverAll(notices)
	return h, nil
}

// refuseOver counts a task that is not accepted as ctx is over, and returns the error of
// call.
func (p *Pool) refuseOver(call string, ctx context.Context) error {
	p.lock()
	p.ledger.total.refused++
	p.unlock()
	return p.guard.contextError(call, ctx)
}

// errGaveUp stands for contextError where a lock forbids to ask the context.
var errGaveUp = errors.New("taskpool: context is over")

// admit has h accepted or returns why not. within bounds how long that may take, and
// parent is the attempt that submits, as that context says.
func (h *Handle) admit(call string, within context.Context, parent *attempt) (notices []notice, err error) {
	p := h.pool
	p.lock()
	defer p.unlock()
	w := &wait{what: awaited{room: h}, call: call, ctx: within, task: parent, ask: h.work.group != nil}
	for decided := false; !decided; {
		decided = true
		switch {
		case h.canceled != nil:
			err = errGaveUp
		case p.end.refuses(&h.task):
			err = ErrClosed
		case p.end.closed && !parent.continuesLocked(p):
			// A member may be the one that adds to its group.
			if w.ask && !w.identified {
				w.identifyLocked()
				decided = false
			} else if w.ask && w.task.continuesLocked(p) && !w.task.h.function {
				parent, decided = w.task, false
			} else {
				err = ErrClosed
			}
		default:
			later := h.task.later()
			var due time.Time
			if due, err = p.makeRoomLocked(h.priority, later, &notices); err == nil {
				h.acceptLocked(later)
				if !later {
					p.sched.inherit(h, due)
				}
			} else if h.terms.room == roomNow || h.terms.room != roomWait && p.cfg.overflow != OverflowWait {
				// refused
			} else {
				h.parent = parent
				err = h.waitForRoomLocked(later, w)
			}
		}
	}
	if err != nil {
		p.ledger.total.refused++
		return nil, err
	}
	if p.hooks.queued != nil {
		tell(&notices, p.hooks.queued, TaskEvent{Pool: p.cfg.name, Task: h.infoLocked()})
	}
	p.restoreLocked()
	p.outbox.oweLocked(notices)
	return notices, nil
}

// waitForRoomLocked waits for room until h is accepted, a context ends the wait or the
// pool is closed. p.mu is unlocked meanwhile. later says that the task is not due.
func (h *Handle) waitForRoomLocked(later bool, w *wait) error {
	p := h.pool
	if h.due = h.task.NotBefore; later {
		p.supervisor.alarmAtLocked(h.due)
	}
	p.sched.waitForRoom(h, later, p.now())
	p.watchFullLocked()
	defer func() { // also if h's context panics
		if h.id == 0 {
			p.sched.withdraw(h)
		}
		h.parent = nil
		p.restoreLocked()
	}()
	_ = w.awaitLocked() // where a context has ended the wait, stay has refused h
	if h.id != 0 {      // it may have settled meanwhile
		return nil
	}
	return h.err
}

// unlocked calls f without p.mu, which the caller holds and holds again when f
// has returned, or has ended in any other way.
func (p *Pool) unlocked(f func()) {
	p.unlock()
	defer p.lock()
	f()
}

// continuesLocked reports whether a, if not nil, is at work in p, so that what it submits
// is part of the work accepted.
func (a *attempt) continuesLocked(p *Pool) bool {
	return a != nil && a.pool == p && !a.over && p.end.cut == nil
}

// later reports whether t has to wait for its time.
func (t *Task) later() bool { return !t.NotBefore.IsZero() && time.Now().Before(t.NotBefore) }
