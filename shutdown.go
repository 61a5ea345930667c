package taskpool

import (
	"context"
	"log/slog"
	"slices"
)

// Shutdown ends the pool. From the moment it is called no task is accepted,
// except what running tasks submit with their own context, and a pause is
// lifted. It waits until all accepted tasks have settled, retries included and,
// unless [WithDelayedAtShutdown] says otherwise, delayed ones, and until all hooks
// have returned, and returns nil.
//
// If ctx ends first, waiting tasks are Canceled and the contexts of running ones
// end, both with [ErrClosed]; those get the hang grace to return and are given
// up as hung after it. Then Shutdown returns a [*ShutdownError] that lists every
// task that did not finish, ready to be submitted to another pool. Hooks that do
// not return are waited for at most another grace.
//
// When it has returned, no goroutine of the pool is left but those given up as
// hung and those whose hooks did not return. Any number of calls get the same
// answer, and the one with the least patience counts. A call from inside a task
// or a hook of the pool returns [ErrInside] at once and shuts nothing down.
func (p *Pool) Shutdown(ctx context.Context) error {
	switch {
	case p.misused():
		return p.misuse("Shutdown")
	case ctx == nil:
		return nilArgument("Shutdown", "ctx")
	}
	if p.inside(ctx) {
		return ErrInside
	}
	p.close()
	select {
	case <-p.terminated:
		return p.answer()
	default:
	}
	if pk := parkCaller(ctx); pk != nil { // a task of another pool
		defer pk.back()
	}
	select {
	case <-p.terminated:
	case <-ctx.Done():
		p.cutShort(context.Cause(ctx))
		<-p.terminated
	}
	return p.answer()
}

// close stops the pool from accepting tasks.
func (p *Pool) close() {
	p.lock()
	defer p.unlock()
	if p.closed {
		return
	}
	p.closed, p.paused = true, false
	p.arrivals.close()
	p.takeInLocked()
	p.turnAwayLocked(func(h *Handle) bool { return !p.continuesLocked(h.parent) || p.tooLateLocked(&h.task) })
	if p.cfg.delayed == DelayedCancel {
		p.cancelDelayedLocked()
	}
	p.restoreLocked()
}

// tooLateLocked reports whether t is to start so late that the pool, which is
// closed, does not wait for it.
func (p *Pool) tooLateLocked(t *Task) bool {
	return p.closed && p.cfg.delayed == DelayedCancel && t.later()
}

// cancelDelayedLocked cancels the tasks that have never started and are not due, the
// first to be due first.
func (p *Pool) cancelDelayedLocked() {
	var reports []report
	for _, h := range p.delayed.all() {
		if h.attempts == 0 && h.task.later() {
			p.settleWaitingLocked(p.withdrawLocked(h), h.task.Priority, Canceled, ErrClosed, &reports)
		}
	}
	p.reportLocked(reports)
}

// answer returns what Shutdown returns once the pool has terminated.
func (p *Pool) answer() error {
	p.lock()
	defer p.unlock()
	if p.cut == nil {
		return nil
	}
	return p.cut
}

// logUnfinished says in the log that a shutdown left n tasks unfinished.
func (p *Pool) logUnfinished(n int) {
	p.log(slog.LevelWarn, "taskpool: shutdown left tasks unfinished", slog.Int("unfinished", n))
}

// turnAwayLocked refuses the submitters waiting for room for whom refuse is
// true.
func (p *Pool) turnAwayLocked(refuse func(*Handle) bool) {
	var all []*Handle
	for _, e := range p.door.all() {
		all = append(all, e.h)
	}
	all = append(all, p.doorDelayed.all()...)
	for _, h := range all {
		if refuse(h) {
			p.leaveDoorLocked(h)
			h.refused = ErrClosed
			p.wakeLocked(&h.waiters)
		}
	}
}

// cutShort settles what waits and ends the contexts of what runs, unless another
// call did. From here Shutdown takes two graces at most: one for tasks, and one
// more for other user code.
func (p *Pool) cutShort(cause error) {
	p.lock()
	if !p.final.IsZero() || p.over {
		p.unlock()
		return
	}
	p.setFinalLocked()
	if p.outstandingLocked() == 0 { // but a hook keeps a goroutine
		p.unlock()
		return
	}
	p.cut = &ShutdownError{cause: cause}
	p.helpers++
	p.reclaimLocked() // for parked tasks on their way out
	p.turnAwayLocked(func(*Handle) bool { return true })
	var running []*attempt
	var reports []report
	for _, w := range slices.Clone(p.crew) {
		if !w.busy {
			continue
		}
		u := p.unfinishedLocked(w.job, w.priority, Running)
		w.unfinished = &u
		h := w.job.h
		if h == nil {
			p.watchEndLocked(w)
			continue
		}
		if h.canceled == nil {
			h.canceled = ErrClosed
		}
		p.endLocked(h.attempt, cutOff) // takes it out of the queue if it asks for a slot there
		running = append(running, h.attempt)
		p.settleJudgedLocked(w, &reports)
	}
	settle := func(e entry, pr Priority) {
		p.cut.Unfinished = append(p.cut.Unfinished, p.unfinishedLocked(e, pr, Queued))
		p.settleWaitingLocked(e, pr, Canceled, ErrClosed, &reports)
	}
	for e, pr, ok := p.queue.pop(false); ok; e, pr, ok = p.queue.pop(false) {
		settle(e, pr)
	}
	for h := p.delayed.first(); h != nil; h = p.delayed.first() {
		p.undelayLocked(h)
		settle(entry{h: h}, h.task.Priority)
	}
	p.reportLocked(reports)
	p.restoreLocked()
	p.unlock()
	defer p.helperDone(0)
	for _, a := range running {
		p.finish(a, cutOff)
	}
}

// unfinishedLocked describes a task that has not finished. s is the state of a
// function given to Go.
func (p *Pool) unfinishedLocked(e entry, pr Priority, s State) Unfinished {
	if h := e.h; h != nil && h.function {
		e.f = h.work.f
		if h.attempt != nil { // it waits for something
			s = h.state
		}
	} else if h != nil {
		t := h.task
		t.Run = h.work.run // also where a function stood beside the Task
		return Unfinished{Task: t, State: h.state, Attempt: h.attempts}
	}
	u := Unfinished{
		Task:  Task{Priority: pr, Run: func(context.Context) error { e.f(); return nil }},
		State: s,
	}
	if s != Queued {
		u.Attempt = 1
	}
	return u
}
