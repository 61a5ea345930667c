package taskpool

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// A shutdownState says how far a pool's shutdown has come. Protected by Pool.mu, except for
// terminated.
type shutdownState struct {
	dropsDelayed bool // DelayedCancel was given

	closed       bool           // Shutdown was called
	closing      closing        // with closed: for the log records about it
	cut          *ShutdownError // what is left undone; nil unless a Shutdown's context ended too early
	logged       bool           // with cut: it was logged
	final        time.Time      // when the pool stops waiting for user code; zero: no such time
	grantedFinal time.Duration  // the part of rounds.lateness by which final was put off
	over         bool           // terminated is closed, or about to be
	terminated   chan struct{}  // closed when Shutdown has nothing left to wait for
}

// Shutdown ends the pool. From the moment it is called no task is accepted,
// except what running tasks submit with their own context, and a pause is
// lifted. It waits until all hooks have returned and all accepted tasks have settled,
// including retries and, unless [WithDelayedAtShutdown] says otherwise, delayed tasks.
// Then it returns nil.
//
// If ctx ends first, waiting tasks are Canceled and the contexts of running ones
// end, both with [ErrClosed]. Running tasks get the hang grace to return and are
// then given up as hung. Then Shutdown returns a [*ShutdownError] that lists every
// task that did not finish, ready to be submitted to another pool. It waits for
// hooks that do not return for at most another grace.
//
// A Shutdown that waits says so in the log, at level Warn, when the hang grace is
// over, and again each time it has taken twice as long. The record says which tasks
// are still under way and for how long, how many wait, when the last delayed one is
// due, and the earliest deadline of ctx.
//
// To stop softly first and hard later, submit with a context that does not end with the
// soft signal, such as [context.WithoutCancel] of it, and give Shutdown one that ends with
// the hard one.
//
// When it has returned, no goroutine of the pool is left except those given up as
// hung and those whose hooks did not return. It may be called any number of times:
// all calls get the same answer, and the context that ends first counts. A call from
// inside a task or a hook of the pool returns [ErrInside] at once and shuts nothing
// down. A task of another pool gives its slot back while it waits, see [Handle.Wait].
// If it waits with a context that is not its own, and its own ends first, Shutdown
// returns the cause, and the pool continues to shut down.
func (p *Pool) Shutdown(ctx context.Context) error {
	switch {
	case misused(p):
		return poolMisuse(p, "Shutdown")
	case ctx == nil:
		return nilArgument("Shutdown", "ctx")
	}
	if p.Inside(ctx) {
		return ErrInside
	}
	deadline, _ := ctx.Deadline()
	p.close(deadline)
	select {
	case <-p.end.terminated:
		return p.end.answer(p)
	default:
	}
	var task *attempt // of another pool, that waits with a context that is not its own
	var over <-chan struct{}
	if pk := suspendCaller(ctx); pk != nil {
		defer pk.back()
		if pk.a != attemptFrom(ctx) && pk.a.ended() == nil {
			task, over = pk.a, pk.a.Done()
		}
	}
	select {
	case <-p.end.terminated:
	case <-over: // which does not cut the shutdown short
		return &taskOverError{"Shutdown", context.Cause(task)}
	case <-ctx.Done():
		p.cutShort(causeOf(ctx))
		<-p.end.terminated
	}
	return p.end.answer(p)
}

// close stops the pool from accepting tasks. deadline is that of the context given
// to Shutdown, zero if there is none.
func (p *Pool) close(deadline time.Time) {
	p.lock()
	defer p.unlock()
	if c := &p.end.closing; !deadline.IsZero() && (c.deadline.IsZero() || deadline.Before(c.deadline)) {
		c.deadline = deadline
	}
	if p.end.closed {
		return
	}
	p.end.closed = true
	p.sched.endPause(time.Since(p.epoch))
	p.inbox.close()
	p.takeInLocked()
	p.turnAwayLocked(func(h *Handle) bool { return !h.parent().continuesLocked(p) || p.end.refuses(h) })
	var notices []notice
	for _, h := range p.sched.delayed.all() { // in the order in which they are due
		if h.attempts == 0 && p.end.refuses(h) {
			p.sched.withdraw(h)
			p.settleWaitingLocked(entry{h: h}, h.priority, StateCanceled, ErrClosed, &notices)
		}
	}
	for _, h := range slices.Clone(p.sched.dependents) {
		if p.end.refuses(h) {
			p.sched.withdraw(h)
			p.settleWaitingLocked(entry{h: h}, h.priority, StateCanceled, ErrClosed, &notices)
		}
	}
	p.notifyLocked(notices)
	p.restoreLocked()
	p.end.closing.watchLocked(p)
}

// closing is a Shutdown that may take long. What it waits for is logged after the hang
// grace, and again each time it has taken twice as long.
type closing struct {
	began    time.Time
	next     time.Time // when the next record is due; zero: never
	deadline time.Time // the earliest of those of Shutdown's contexts; zero: none
}

// watchLocked arranges for log records in case Shutdown of p, which has just begun, takes
// long.
func (c *closing) watchLocked(p *Pool) {
	if p.end.over {
		return
	}
	now := time.Now()
	for _, w := range p.crew.all {
		if w.busy {
			w.sinceLocked(now) // the run time of a function counts from here
		}
	}
	c.began, c.next = now, now.Add(p.cfg.hangGrace)
	p.supervisor.alarmAtLocked(c.next)
}

// tellLocked logs what Shutdown of p waits for, if a record is due. Once Shutdown is cut
// short its end is near, and nothing more is logged.
func (c *closing) tellLocked(p *Pool) {
	if p.end.over || !p.end.final.IsZero() {
		c.next = time.Time{}
	}
	if c.next.IsZero() {
		return
	}
	now := time.Now()
	if now.Before(c.next) {
		return
	}
	for !now.Before(c.next) {
		c.next = c.began.Add(2 * c.next.Sub(c.began))
	}
	msg := "taskpool: shutdown waits for tasks"
	if p.sched.outstanding() == 0 {
		msg = "taskpool: shutdown waits for hooks that have not returned"
	}
	attrs := c.attrsLocked(p, now)
	p.notifyLocked([]notice{{call: func() { p.guard.write(slog.LevelWarn, msg, attrs...) }}})
}

// attrsLocked returns attributes that say what Shutdown of p waits for and, where that is
// known, until when.
func (c *closing) attrsLocked(p *Pool, now time.Time) []slog.Attr {
	attrs := append([]slog.Attr{slog.Duration("waited", now.Sub(c.began))}, p.crew.running(now, false)...)
	attrs = append(attrs, slog.Int("queued", p.sched.count[StateQueued]), slog.Int("delayed", p.sched.count[StateDelayed]),
		slog.Int("parked", p.sched.count[StateParked]), slog.Int("submitters_waiting", p.sched.submitters()))
	var last time.Time
	for _, t := range p.sched.delayed.items {
		if t.due.After(last) {
			last = t.due
		}
	}
	if !last.IsZero() {
		attrs = append(attrs, slog.Time("last_due", last))
	}
	if !c.deadline.IsZero() {
		attrs = append(attrs, slog.Time("deadline", c.deadline))
	}
	return attrs
}

// refuses reports whether the pool is closed and does not wait for h: a round of [Every] or,
// under DelayedCancel, a task that is not due yet.
func (e *shutdownState) refuses(h *Handle) bool {
	return e.closed && (h.first.terms.room == roomAlways || e.dropsDelayed && h.later())
}

// answer returns what Shutdown returns once the pool has terminated.
func (e *shutdownState) answer(p *Pool) error {
	p.lock()
	defer p.unlock()
	if e.cut == nil {
		return nil
	}
	return e.cut
}

// turnAwayLocked refuses those submitters waiting for room for which refuse returns
// true.
func (p *Pool) turnAwayLocked(refuse func(*Handle) bool) {
	var all []*Handle
	for _, e := range p.sched.admission.all() {
		all = append(all, e.h)
	}
	all = slices.Concat(all, p.sched.admissionDelayed.all(), p.sched.admissionDependents.all())
	for _, h := range all {
		if refuse(h) {
			p.sched.withdraw(h)
			h.err = ErrClosed
			h.waiters.wakeLocked()
		}
	}
}

// cutShort settles waiting tasks and ends the contexts of running ones, unless another
// call has done so. From here Shutdown takes at most two graces: one for tasks, and one
// more for other user code.
func (p *Pool) cutShort(cause error) {
	p.lock()
	if !p.end.final.IsZero() || p.end.over {
		p.unlock()
		return
	}
	p.end.final = time.Now().Add(p.cfg.hangGrace).Add(p.cfg.hangGrace)
	p.end.grantedFinal = p.watch.rounds.lateness
	p.supervisor.alarmAtLocked(p.end.final)
	p.watch.beginRound(p.watch.rounds.kind(p.cfg.hangGrace), &p.supervisor) // to the end of the pool
	if p.sched.outstanding() == 0 {                                         // only a hook has not returned
		p.unlock()
		return
	}
	p.end.cut = &ShutdownError{cause: cause}
	p.sched.liftLimits() // so that all that wait are found, and all that run can end
	p.outbox.helpers++
	p.recoverLostLocked() // for parked tasks on their way out
	p.turnAwayLocked(func(*Handle) bool { return true })
	var running []*attempt
	var notices []notice
	for _, w := range slices.Clone(p.crew.all) {
		if !w.busy {
			continue
		}
		u := w.job.unfinished(w.priority, StateRunning)
		w.unfinished = &u
		h := w.job.h
		if h == nil {
			w.watchEndLocked()
			continue
		}
		if h.canceled() == nil {
			h.setCanceled(ErrClosed)
		}
		h.attempt.endLocked(cutOff) // takes it out of the queue if it waits there for a slot
		running = append(running, h.attempt)
		w.settleJudgedLocked(&notices)
	}
	settle := func(e entry, pr Priority) {
		p.end.cut.Unfinished = append(p.end.cut.Unfinished, e.unfinished(pr, StateQueued))
		p.settleWaitingLocked(e, pr, StateCanceled, ErrClosed, &notices)
	}
	for e, pr, ok := p.sched.popQueued(); ok; e, pr, ok = p.sched.popQueued() {
		settle(e, pr)
	}
	for h := p.sched.delayed.first(); h != nil; h = p.sched.delayed.first() {
		p.sched.withdraw(h)
		settle(entry{h: h}, h.priority)
	}
	for len(p.sched.dependents) > 0 {
		h := p.sched.dependents[0]
		p.sched.withdraw(h)
		settle(entry{h: h}, h.priority)
	}
	p.notifyLocked(notices)
	p.restoreLocked()
	p.unlock()
	defer p.discharge(0)
	for _, a := range running {
		a.endContext(cutOff)
	}
}

// unfinished describes a task that has not finished. s is the state of a
// function given to Go.
func (e entry) unfinished(pr Priority, s State) Unfinished {
	if h := e.h; h != nil && h.function != nil {
		e.f = h.function.f
		if h.attempt != nil { // it may be parked
			s = h.state
		}
	} else if h != nil {
		return Unfinished{ID: h.id, Task: h.wholeTask(), State: h.state, Attempt: int(h.attempts)}
	}
	u := Unfinished{
		Task:  Task{Priority: pr, Run: func(context.Context) error { e.f(); return nil }},
		State: s,
	}
	if s != StateQueued {
		u.Attempt = 1
	}
	return u
}

// dismissLocked ends the workers of a pool that is closed and drained. Once the last
// has ended, it has terminated closed.
func (p *Pool) dismissLocked() {
	p.crew.trim(0, &p.inbox)
	var notices []notice
	for _, w := range p.crew.lost {
		w.abandonLocked(&notices)
	}
	p.crew.lost = nil
	if p.end.cut != nil && !p.end.logged {
		p.end.logged = true
		if n := len(p.end.cut.Unfinished); n > 0 {
			notices = append(notices, notice{call: func() { p.guard.writeUnfinished(n) }})
		}
	}
	p.notifyLocked(notices)
	p.notifyLocked(p.orphans.take(&p.guard))
	if len(p.crew.all) == 0 && p.outbox.helpers == 0 && !p.end.over {
		p.end.over = true
		if p.supervisor.started {
			p.supervisor.alarmLocked()
		} else {
			p.supervisor.started = true
			close(p.end.terminated)
		}
	}
}

// abandonAllLocked stops waiting for hooks and policies that do not return, at the
// very end of a Shutdown that was cut short.
func (p *Pool) abandonAllLocked() {
	var notices []notice
	for _, w := range slices.Clone(p.crew.all) {
		if w.busy { // a call of Retry.If about its attempt has not returned
			v := w.hungLocked(nil)
			w.settleHungLocked(&v, &notices)
		}
	}
	p.restoreLocked() // dismisses idle workers
	for len(p.crew.all) > 0 {
		p.crew.all[0].abandonLocked(&notices)
	}
	p.notifyLocked(notices)
	p.end.over = true
}
