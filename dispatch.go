package taskpool

import (
	"time"
)

// The scheduler's decisions are carried out here: submitters are let in, parked attempts
// go on, and workers are woken for the tasks that there are slots for.

// restoreLocked restores the invariant at Pool.mu: it lets submitters in while there
// is room, resumes parked attempts whose turn it is, and wakes workers for the tasks
// that there are slots for. It also tells those who wait for the pool to be idle or
// drained.
func (p *Pool) restoreLocked() { p.restoreWithLocked(nil) }

// restoreWithLocked is restoreLocked for w, a worker that looks for a task and has no
// slot, or nil. w gets the task whose turn it is, or else becomes idle.
func (p *Pool) restoreWithLocked(w *worker) {
	p.dispatchLocked(w)
	if w != nil && !w.busy {
		p.crew.idle = append(p.crew.idle, w)
	}
	for {
		for want := p.sched.wanted(); p.crew.coming < want; {
			p.summonLocked()
		}
		if p.expectLocked() {
			break
		}
		p.takeInLocked()
		p.dispatchLocked(nil)
	}
	p.tellYieldLocked()
	if p.stepper.changes.others != nil {
		p.stepper.changes.wakeLocked()
	}
	if p.sched.outstanding() == 0 && p.inbox.least.Load() == none {
		p.drainedLocked()
	}
}

// passFlowLoansLocked has the attempts of those that were lent to by what their flow's limit
// holds back count as that urgent, and passes it on to what they wait for.
func (p *Pool) passFlowLoansLocked() {
	for len(p.sched.flowLoans) > 0 {
		last := len(p.sched.flowLoans) - 1
		h := p.sched.flowLoans[last]
		p.sched.flowLoans[last] = nil
		p.sched.flowLoans = shrunk(p.sched.flowLoans[:last])
		l := lending{urgency: h.urgency()}
		l.to = h.urgencyChangedLocked(nil)
		if l.passOnLocked(p); len(l.to)+len(l.large) > 0 { // in other pools, or to many
			p.supervisor.lendings = append(p.supervisor.lendings, l)
			p.supervisor.alarmLocked()
		}
	}
}

// tellYieldLocked tells Yield the most urgent priority in the queue, unless there are
// slots for all that waits there.
func (p *Pool) tellYieldLocked() {
	if least := p.sched.mostUrgent(); p.waiting.Load() != least {
		p.waiting.Store(least)
	}
}

// dispatchLocked gives free slots to those whose turn it is, and lets in submitters
// for whom that makes room. A task that has not started goes to w, which may be nil;
// the next one waits until another worker looks.
func (p *Pool) dispatchLocked(w *worker) {
	for {
		p.passFlowLoansLocked()
		for h, later := p.sched.admit(); h != nil; h, later = p.sched.admit() {
			h.acceptLocked(later)
			h.waiters.wakeLocked()
			p.passFlowLoansLocked()
		}
		step := p.sched.stepping
		e, d := p.sched.next(w != nil && !w.busy)
		if p.sched.stepping != step {
			p.stepper.took(e, d.priority)
		}
		switch {
		case !e.live():
			return
		case e.parked():
			e.h.attempt.suspension.resumeLocked()
		default:
			w.takeLocked(e, d)
			w.holdSlotLocked()
		}
	}
}

// makeRoomLocked returns nil if there is room for one more task, if need be after
// shedding one. later says that the new task has to wait for its time: nothing is shed
// for one that could not run yet. due is set if the task that was shed was later itself:
// then the new one must count as such in its place. Otherwise a queue that is longer than
// its capacity, because tasks have become due, would grow with each task shed.
func (p *Pool) makeRoomLocked(f *flow, pr Priority, later bool, notices *[]notice) (due time.Time, err error) {
	switch {
	case later && p.sched.laterRoom(), !later && p.sched.room(f, pr):
		return time.Time{}, nil
	case later:
		return time.Time{}, ErrFull
	case p.cfg.overflow != OverflowShed:
		return time.Time{}, fullError(f)
	}
	e, victim, ok := p.sched.takeShed(pr, f)
	if !ok {
		return time.Time{}, fullError(f)
	}
	if e.h != nil && e.h.isLater() {
		due = e.h.due
	}
	p.settleWaitingLocked(e, victim, StateShed, ErrShed, notices)
	return due, nil
}

// fullError returns the error for a task of flow f, which may be nil, for which there is no
// room.
func fullError(f *flow) error {
	if f != nil && f.full {
		return &flowFullError{f.name}
	}
	return ErrFull
}

// acceptLocked makes h one of the pool's tasks. later says that it has to wait for
// its time.
func (h *Handle) acceptLocked(later bool) {
	p := h.pool
	p.ledger.total.submitted++
	h.id = p.ledger.total.submitted
	if later {
		h.delayLocked(h.task.NotBefore)
	} else {
		h.due = time.Time{} // it may have become due while it waited for room
		p.enqueueLocked(entry{h: h}, h.priority)
	}
	if g := h.group(); g != nil && g.lent { // it has no attempt yet that would pass it on
		p.sched.lend(h, g.urgency, p.now())
	}
}

// enqueueLocked puts a task at the back of its lane.
func (p *Pool) enqueueLocked(e entry, pr Priority) {
	h := e.h
	if h != nil && p.hooks.timed && h.self != nil {
		h.queuedAt = time.Since(p.epoch)
	}
	l, order := p.sched.enqueue(e, pr, p.now())
	p.watchFullLocked()
	if p.hooks.timed && (l.n == 1 || order%maxTimed == 0) && !p.sched.aging {
		p.ledger.clock.add(order, e.cameAt(p.epoch)) // as takeInLocked does
	}
}

// delayLocked makes h wait until due.
func (h *Handle) delayLocked(due time.Time) {
	p := h.pool
	p.sched.delay(h, due)
	p.supervisor.alarmAtLocked(due)
}

// now returns the time for the orders of tasks: with aging the time since epoch. Without
// aging nobody uses it, so the clock is not read.
func (p *Pool) now() time.Duration {
	if !p.sched.aging {
		return 0
	}
	return time.Since(p.epoch)
}
