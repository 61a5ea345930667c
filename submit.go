package taskpool

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"
)

// Go runs f with priority pr as soon as no more urgent task waits for a worker.
// It is the fast way for work that needs neither context nor result, and allocates
// nothing per task. A panic in f is logged and counted.
//
// If the queue is full, Go waits for room, makes room or returns [ErrFull], as
// [WithCapacity] says; [Pool.TryGo] never waits. A task that waits in Go gives its slot
// back meanwhile and stops waiting when its context ends; other callers wait until there
// is room or the pool is shut down. After Shutdown was called Go returns [ErrClosed].
func (p *Pool) Go(pr Priority, f func()) error { return p.submitFunction("Go", pr, f, roomAsSet) }

// TryGo is like [Pool.Go] but never waits: where Go would wait for room, with
// [OverflowWait], it returns [ErrFull].
func (p *Pool) TryGo(pr Priority, f func()) error {
	return p.submitFunction("TryGo", pr, f, roomNow)
}

// submitFunction implements Go for the method named call; room says what to do if there is
// no room.
func (p *Pool) submitFunction(call string, pr Priority, f func(), room roomMode) error {
	if misused(p) {
		return poolMisuse(p, call)
	}
	if f == nil {
		return nilArgument(call, "f")
	}
	e := entry{f: f}
	if p.hooks.timesGo {
		e = timedFunction(p, f, pr)
	}
	if p.inbox.direct && p.inbox.put(e, pr) {
		return nil
	}
	notices, err := p.admitFunction(call, e, pr, room)
	p.deliverAll(notices)
	return err
}

// admitFunction has e, which did not go into the inbox, accepted, or returns why it was not.
func (p *Pool) admitFunction(call string, e entry, pr Priority, room roomMode) (notices []notice, err error) {
	p.lock()
	defer p.unlock()
	var due time.Time
	err = ErrClosed
	if !p.end.closed {
		due, err = p.makeRoomLocked(p.sched.flowOf(nil), pr, false, &notices)
	}
	switch {
	case err != nil && err != ErrClosed && p.cfg.overflow == OverflowWait && room != roomNow:
		f, sample := e.f, p.hooks.unsampled()
		if e.h != nil {
			f, sample = e.h.function.f, e.h.function.sample
		}
		e.h = newFunctionHandle().standFor(p, f, pr, sample)
		e.h.self = e.h // so that it is not reused: the waiting caller still reads it
		err = e.h.waitForRoomLocked(false, &wait{what: awaited{room: e.h}, call: call})
	case err == nil:
		p.ledger.total.submitted++
		if e.h == nil && !due.IsZero() {
			e.h = functionHandles.Get().(*Handle).standFor(p, e.f, pr, p.hooks.unsampled())
			e.f = nil
		}
		if e.h != nil {
			e.h.id = p.ledger.total.submitted
			p.sched.inherit(e.h, due)
		}
		p.enqueueLocked(e, pr)
	}
	if err != nil {
		p.refusedLocked(pr, err)
		return nil, err
	}
	if p.hooks.queued != nil {
		info := TaskInfo{Pool: p.cfg.name, Priority: pr, Urgency: pr, sample: p.hooks.unsampled()}
		if e.h != nil {
			info = e.h.infoLocked()
		}
		tell(&notices, p.hooks.queued, TaskEvent{Pool: p.cfg.name, Task: info, Context: context.Background()})
	}
	p.restoreLocked()
	p.outbox.oweLocked(notices)
	return notices, nil
}

// timedFunction returns the entry of a function. If a hook must be told of it, or the pool must
// know how long it waits, the entry is a handle, which knows when the function arrived and which no caller gets to see. The
// worker that takes it turns it into a function again.
func timedFunction(p *Pool, f func(), pr Priority) entry {
	draw, sampled := uint64(0), true
	if len(p.hooks.samples) > 0 {
		draw, sampled = p.hooks.draw()
	}
	if !sampled && !p.hooks.timesAll {
		return entry{f: f}
	}
	return entry{h: functionHandles.Get().(*Handle).standFor(p, f, pr, draw)}
}

// A goFunction is what a handle that stands for a function has beside what all have.
type goFunction struct {
	f      func() // nil once it has settled
	sample uint64 // as in TaskInfo
}

// newFunctionHandle returns a handle that can stand for a function.
func newFunctionHandle() *Handle {
	both := new(struct { // one allocation
		Handle
		goFunction
	})
	both.function = &both.goFunction
	return &both.Handle
}

// standFor has h stand for f.
func (h *Handle) standFor(p *Pool, f func(), pr Priority, sample uint64) *Handle {
	h.pool, h.function.f, h.function.sample, h.priority, h.queuedAt = p, f, sample, pr, time.Since(p.epoch)
	h.flow = p.sched.plainFlow // fixed since New
	return h
}

// functionHandles holds handles that stand for functions. They can be reused, as only the
// queue refers to them.
var functionHandles = sync.Pool{New: func() any { return newFunctionHandle() }}

// Submit hands a task to the pool and returns a handle to it. ctx governs the
// whole task: waiting for room, waiting in the queue and each attempt. If it ends
// before the task has started, the task is Canceled at once and never runs. Once
// ctx's deadline has passed, no attempt starts, neither the first nor a retry. Such
// a task makes no further attempt, and hooks are told only of its end. For a task
// that must outlive a request, use [context.WithoutCancel]; then only room or
// Shutdown ends a wait for room. A method of ctx that panics does so in the caller,
// unless package context calls it on a goroutine of its own, which ends the program.
//
// If the queue is full, Submit waits for room, makes room or returns [ErrFull],
// as [WithCapacity] says. After Shutdown was called it returns [ErrClosed],
// except to a running task of the pool that submits with its own context. It
// returns an error that wraps ctx's if ctx ends before the task is accepted, and
// one that names the field if t is not valid. A task that is not accepted leaves
// nothing behind. [Pool.TrySubmit] never waits, and [Pool.SubmitWithin] has a
// separate context for the wait.
//
// If the task fails, that is logged at level Error, as perhaps nobody waits for it; see
// [WithLogger].
func (p *Pool) Submit(ctx context.Context, t Task) (*Handle, error) {
	return p.submitRun("Submit", ctx, ctx, &t, roomAsSet)
}

// TrySubmit is like [Pool.Submit] but never waits: where Submit would wait for room, with
// [OverflowWait], it returns [ErrFull].
func (p *Pool) TrySubmit(ctx context.Context, t Task) (*Handle, error) {
	return p.submitRun("TrySubmit", ctx, ctx, &t, roomNow)
}

// SubmitWithin is like [Pool.Submit] but has a separate context for the wait for room: ctx
// governs the task, and wait limits how long SubmitWithin may take. If wait ends first,
// the error wraps its cause, and the task was not accepted; once the task is accepted, the
// end of wait has no effect. SubmitWithin is for a task that outlives the request in which
// it is submitted:
//
//	h, err := pool.SubmitWithin(r.Context(), context.WithoutCancel(r.Context()), task)
//
// Inside a task, wait identifies the task that submits. SubmitWithin also returns if ctx
// ends while it waits.
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
		return nil, p.refuseOver(call, wait, t.Priority)
	}
	if ctx.Done() != nil {
		both, cancel := context.WithCancelCause(wait)
		defer cancel(nil)
		defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
		wait = both
	}
	return p.submitRun(call, wait, ctx, &t, roomAsSet)
}

// submitRun implements SubmitWithin for the method named call, when wait has not ended;
// room says what to do if there is no room.
func (p *Pool) submitRun(call string, wait, ctx context.Context, t *Task, room roomMode) (*Handle, error) {
	switch {
	case misused(p):
		return nil, poolMisuse(p, call)
	case ctx == nil:
		return nil, nilArgument(call, "ctx")
	case t.Run == nil:
		return nil, nilArgument(call, "Task.Run")
	}
	return p.submit(call, newHandle(ctx), wait, ctx, t, work{run: t.Run}, terms{room: room})
}

// work is what the pool adds to a Task: what to run, and for which group.
type work struct {
	run   func(context.Context) error
	group *Group // the group that the task is a member of, or nil
}

// terms are how a task is submitted.
type terms struct {
	room   roomMode
	answer answer
}

// An answer says who gets to know how a task has ended.
type answer byte

const (
	answerOnDemand answer = iota // whoever asks its handle, perhaps nobody
	answerLater                  // whoever gets the result of its Future, or waits for its Group
	answerNow                    // the call that submitted it, which waits for it: so it is no orphan
)

// A roomMode says what happens to a task for which there is no room.
type roomMode byte

const (
	roomAsSet  roomMode = iota // what WithCapacity says
	roomWait                   // it waits, whatever WithCapacity says
	roomNow                    // it does not wait
	roomAlways                 // it needs none, but is refused once Shutdown was called, see Every
)

// submit implements SubmitWithin for the method named call, for a task that does work on
// the given terms and whose handle is h, a new one.
func (p *Pool) submit(call string, h *Handle, wait, ctx context.Context, t *Task, work work, terms terms) (_ *Handle, err error) {
	h.pool, h.task, h.priority, h.first.terms = p, newPattern(t, work.run), t.Priority, terms
	if g := work.group; g != nil {
		h.first.group = g
		defer func() { g.submitted(h, err) }() // also if ctx or a hook ends the goroutine
	}
	if err := t.validate(); err != nil {
		return nil, err
	}
	if t.Flow != "" {
		if p.sched.aging {
			return nil, pkg.Bad("Task.Flow", "be empty in a pool with WithAging", strconv.Quote(t.Flow))
		}
		if h.policy, err = p.cfg.flowPolicy(t.Flow); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, p.refuseOver(call, ctx, t.Priority)
	}
	if t.After != nil {
		h.comesAfter()
	}
	if ctx.Done() != nil {
		h.first.ends = true
		p.watches.watch(p, h, ctx)
	}
	if p.hooks.timed {
		h.queuedAt = time.Since(p.epoch)
	}
	parent := attemptFrom(wait)
	if g := h.guestOf(); g != nil {
		if parent = g.outer; parent != nil {
			g.stepAside()
		}
	} else if p.inbox.direct && t.NotBefore.IsZero() && t.MaxWait == 0 && h.extras().After == nil && h.policy.capacity == 0 && p.inbox.put(entry{h: h}, t.Priority) {
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

// refuseOver counts a task of priority pr that is refused because ctx is over, and returns the
// error for call.
func (p *Pool) refuseOver(call string, ctx context.Context, pr Priority) error {
	p.lock()
	p.refusedLocked(pr, errGaveUp)
	p.unlock()
	return p.guard.contextError(call, ctx)
}

// errGaveUp stands in for contextError where the context cannot be asked, as a lock is held.
var errGaveUp = errors.New("taskpool: context is over")

// admit has h accepted or returns why it was not. within bounds how long that may take, and
// parent is the attempt that submits, according to within.
func (h *Handle) admit(call string, within context.Context, parent *attempt) (notices []notice, err error) {
	p := h.pool
	submitted := h.first.ctx
	p.lock()
	defer p.unlock()
	w := &wait{what: awaited{room: h}, call: call, ctx: within, task: parent, ask: h.group() != nil}
	guest := h.guestOf()
	if guest != nil {
		w.task, w.identified = nil, true
		if parent != nil && parent.pool == p {
			guest.parkOuterLocked()
			if p.sched.submitters() > 0 {
				p.restoreLocked() // what room that makes is for those that came before
			}
		}
	}
	for decided := false; !decided; {
		decided = true
		switch {
		case h.canceled() != nil:
			err = errGaveUp
		case p.end.refuses(h):
			err = ErrClosed
		case p.end.closed && !parent.continuesLocked(p):
			// The caller may be a member that adds to its own group.
			if w.ask && !w.identified {
				w.identifyLocked()
				decided = false
			} else if w.ask && w.task.continuesLocked(p) && w.task.h.function == nil {
				parent, decided = w.task, false
			} else {
				err = ErrClosed
			}
		default:
			later := h.waitsForTasks() || h.later()
			if h.extras().MaxWait > 0 && !h.waitsForTasks() {
				h.expireLocked()
			}
			var due time.Time
			if p.sched.joinFlow(h, h.task.Flow, h.policy) {
				p.restoreLocked()
			}
			if h.first.terms.room != roomAlways {
				due, err = p.makeRoomLocked(h.flow, h.priority, later, &notices)
			}
			if err == nil || h.isVain() {
				err = nil
				h.acceptLocked(later)
				if !later {
					p.sched.inherit(h, due)
				}
			} else if h.first.terms.room == roomNow || h.first.terms.room != roomWait && p.cfg.overflow != OverflowWait {
				// refused
			} else {
				h.setParent(parent)
				err = h.waitForRoomLocked(later, w)
			}
		}
	}
	if err != nil {
		p.sched.leaveFlow(h)
		p.sched.noExpiry(h)
		p.refusedLocked(h.priority, err)
		if guest != nil { // outer has given its slot back
			p.restoreLocked()
		}
		return nil, err
	}
	if p.hooks.queued != nil {
		tell(&notices, p.hooks.queued, TaskEvent{Pool: p.cfg.name, Task: h.infoLocked(), Context: submitted})
	}
	p.restoreLocked()
	p.outbox.oweLocked(notices)
	if guest != nil {
		guest.admittedLocked()
	}
	return notices, nil
}

// waitForRoomLocked waits for room until h is accepted, a context ends the wait or the
// pool is closed. p.mu is unlocked meanwhile. later says that the task is not due.
func (h *Handle) waitForRoomLocked(later bool, w *wait) error {
	p := h.pool
	if h.due = h.extras().NotBefore; later && h.waitsForTasks() {
		h.due = time.Time{}
	} else if later {
		p.supervisor.alarmAtLocked(h.due)
	}
	p.sched.waitForRoom(h, later, p.now())
	if g := h.group(); g != nil && g.lent {
		p.sched.lendPlace(h, g.urgency, p.now())
	}
	if g := h.guestOf(); g != nil {
		if g.outer != nil {
			p.sched.lendPlace(h, Priority(g.outer.urgency()), p.now())
		}
		p.restoreLocked() // outer has given its slot back
	}
	p.watchFullLocked()
	defer func() { // also if h's context panics
		if h.id == 0 {
			p.sched.withdraw(h)
			p.sched.leaveFlow(h)
			p.sched.noExpiry(h)
		}
		h.setParent(nil)
		p.restoreLocked()
	}()
	_ = w.awaitLocked() // if a context has ended the wait, h was refused there
	if h.id != 0 {      // it may have settled meanwhile
		return nil
	}
	return h.err
}

// accepted reports whether h is, or was, one of its pool's tasks.
func (h *Handle) accepted() bool {
	h.pool.lock()
	defer h.pool.unlock()
	return h.id != 0
}

// expireLocked has h, which is being submitted, expire when its MaxWait is over.
func (h *Handle) expireLocked() {
	if h.expiry != nil {
		return
	}
	from := time.Now()
	if from.Before(h.extras().NotBefore) {
		from = h.extras().NotBefore
	}
	at := from.Add(h.extras().MaxWait)
	h.pool.sched.expires(h, at)
	h.pool.supervisor.alarmAtLocked(at)
}

// maxExpired is how many expired tasks are shed in one critical section.
const maxExpired = 64

// expireLocked sheds those tasks that have expired, and turns away such submitters. It returns
// false if there may be more.
func (p *Pool) expireLocked(now time.Time) (all bool) {
	var notices []notice
	defer func() { p.notifyLocked(notices) }()
	for range maxExpired {
		h := p.sched.nextExpired(now)
		if h == nil {
			return true
		}
		if h.id == 0 && h.err != nil {
			continue // it was turned away before, and its submitter waits for a slot to learn of it
		}
		p.sched.withdraw(h)
		if h.id == 0 {
			h.err = ErrExpired
			h.waiters.wakeLocked()
			continue
		}
		p.ledger.total.expired++
		p.settleWaitingLocked(entry{h: h}, h.priority, StateShed, ErrExpired, &notices)
	}
	return false
}

// shedLateLocked sheds h, which was taken out of the queue as its priority is late.
func (h *Handle) shedLateLocked() {
	p := h.pool
	var notices []notice
	p.ledger.total.expired++
	p.settleWaitingLocked(entry{h: h}, h.priority, StateShed, errLate, &notices)
	p.notifyLocked(notices)
}

// unlocked calls f without p.mu, which the caller holds. The caller holds it again when f
// has ended, by returning or otherwise.
func (p *Pool) unlocked(f func()) {
	p.unlock()
	defer p.lock()
	f()
}

// continuesLocked reports whether a is not nil and at work in p, so that what it submits is
// part of work that p has accepted.
func (a *attempt) continuesLocked(p *Pool) bool {
	return a != nil && a.pool == p && !a.over && p.end.cut == nil
}

// later reports whether h has to wait for its time.
func (h *Handle) later() bool {
	due := h.extras().NotBefore
	return !due.IsZero() && time.Now().Before(due)
}
