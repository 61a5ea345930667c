package taskpool

import (
	"context"
	"errors"
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
	if p.supervisor.dependencies.any() {
		p.supervisor.passDependenciesLocked(p)
	}
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
	if p.crew.resters != (waiters{}) && p.crew.rests(&p.sched) {
		p.crew.resters.wakeLocked()
	}
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
		l.changedLocked(h)
		if l.passOnLocked(p); l.any() { // in other pools, or to many
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
// for whom that makes room. A task that needs a worker goes to w, which may be nil; the next
// one waits until another worker looks. So does w, if more are late than may be shed in
// one critical section: then it becomes idle, and is woken for what is left.
func (p *Pool) dispatchLocked(w *worker) {
	if p.sched.delays != nil {
		p.sched.delays.pass(time.Since(p.epoch))
	}
	for late := 0; ; {
		p.passFlowLoansLocked()
		for h, later := p.sched.admit(); h != nil; h, later = p.sched.admit() {
			h.acceptLocked(later)
			h.waiters.wakeLocked()
			if p.supervisor.dependencies.any() {
				p.supervisor.passDependenciesLocked(p)
			}
			p.passFlowLoansLocked()
		}
		step := p.sched.stepping
		e, d := p.sched.next(w != nil && !w.busy && late < maxExpired)
		if p.sched.stepping != step {
			p.stepper.took(e, d.priority)
		}
		switch {
		case !e.live():
			return
		case d.late:
			late++
			e.h.shedLateLocked()
		case e.parked():
			e.h.attempt.suspension.resumeLocked()
		case e.isGuests():
			e.h.guestOf().enterLocked(e, d)
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
	switch {
	case later && h.waitsForTasks():
		p.sched.waitForTasks(h)
		h.joinsLocked()
	case later:
		h.delayLocked(h.extras().NotBefore)
	default:
		h.due = time.Time{} // it may have become due while it waited for room
		if g := h.guestOf(); g != nil && g.outer == nil && !p.hooks.timed && p.sched.isNext(h) {
			p.sched.startNext(h) // else half of what Do costs would be the way through the queue
			g.enterLocked(entry{h: h}, decision{priority: h.priority})
			return
		}
		p.enqueueLocked(entry{h: h}, h.priority)
	}
	if g := h.group(); g != nil && g.lent { // it has no attempt yet that would pass it on
		p.sched.lend(h, g.urgency, p.now())
	}
	if g := h.guestOf(); g != nil && g.outer != nil {
		p.sched.lend(h, Priority(g.outer.urgency()), p.now())
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

// Steps.

// A stepper is what package taskpooltest can do with a pool: let tasks go on one at a time
// while the pool is paused, and wait for goroutines given up as hung. Protected by Pool.mu.
type stepper struct {
	changes waiters // the calls that wait; woken whenever restoreLocked is called

	// What the latest step let go on.
	h        *Handle // nil for a function that has started
	priority Priority
}

// took records that e got the slot that a step has granted.
func (s *stepper) took(e entry, pr Priority) {
	s.h, s.priority = e.h, pr
	if e.h != nil && e.h.function != nil && !e.parked() { // the handle is used again for others
		s.h = nil
	}
}

// once lets one task of p start or go on, the one whose turn it is, and returns what has
// become of it when no task holds a slot any more: it has settled, waits for a retry or is
// parked, and hooks and the log were told. Before that, once waits for tasks that hold a
// slot and, if none waits for one, for those that are parked or not due.
func (s *stepper) once(ctx context.Context, p *Pool) (t TaskInfo, err error) {
	if p.Inside(ctx) {
		return t, ErrInside
	}
	p.lock()
	defer p.unlock()
	for {
		switch {
		case p.end.closed:
			return t, ErrClosed
		case !p.sched.paused:
			return t, errors.New("pool must be paused, see Pool.Pause")
		case p.sched.stepping != noStep || !s.restLocked(p): // another call goes first, or tasks at work
		case p.sched.queue.n > 0 && p.sched.held < p.sched.slots:
			t, stepped, err := s.stepLocked(ctx, p)
			if stepped || err != nil {
				return t, err
			}
			continue
		case p.sched.outstanding() == 0:
			return t, errors.New("no task waits")
		}
		if err := s.sleepLocked(ctx, p); err != nil {
			return t, err
		}
	}
}

// stepLocked is one step of p, in which no task holds a slot. It returns false if no task
// has gone on, because the one whose turn it was has been canceled.
func (s *stepper) stepLocked(ctx context.Context, p *Pool) (t TaskInfo, stepped bool, err error) {
	before := p.ledger.total
	p.sched.stepping = stepGranted
	defer func() {
		p.sched.stepping, s.h = noStep, nil
		p.restoreLocked() // Yield has nothing to give way to any more
	}()
	p.restoreLocked()
	for p.sched.stepping == stepGranted || !s.restLocked(p) {
		switch {
		case !p.sched.paused:
			return t, false, errors.New("the pool was resumed or shut down")
		case p.sched.stepping == stepGranted && p.sched.queue.n == 0:
			return t, false, nil
		}
		if err := s.sleepLocked(ctx, p); err != nil {
			return t, false, err
		}
	}
	after := &p.ledger.total
	if s.h != nil {
		return s.h.infoLocked(), after.withdrawn == before.withdrawn, nil
	}
	t = TaskInfo{Pool: p.cfg.name, Priority: s.priority, State: StateParked}
	switch {
	case after.failed > before.failed:
		t.State = StateFailed
	case after.succeeded > before.succeeded:
		t.State = StateSucceeded
	}
	return t, true, nil
}

// restLocked reports whether no task of p holds a slot, except those that are lost, and
// nothing is left to be told to hooks and the log.
func (s *stepper) restLocked(p *Pool) bool {
	return p.sched.held == len(p.crew.lost) && p.outbox.helpers == 0
}

// sleepLocked waits until something in p has changed, and returns the cause if ctx ends
// first. p.mu is unlocked meanwhile.
func (s *stepper) sleepLocked(ctx context.Context, p *Pool) (err error) {
	changed := s.changes.channelLocked()
	lockSoon(&p.inbox.mu)
	arrived := p.inbox.n > 0
	p.inbox.watch = !arrived // the next arrival makes the supervisor take it in, see stallWatch
	p.inbox.mu.Unlock()
	p.supervisor.startLocked()
	if arrived {
		p.supervisor.alarmLocked()
	}
	p.unlocked(func() {
		select {
		case <-changed:
		case <-ctx.Done():
			err = causeOf(ctx)
		}
	})
	return err
}

// waitAbandoned waits until none of p's goroutines that were given up as hung is left. It
// returns the cause if ctx ends first.
func (s *stepper) waitAbandoned(ctx context.Context, p *Pool) error {
	p.lock()
	defer p.unlock()
	for len(p.crew.abandoned) > 0 {
		if err := s.sleepLocked(ctx, p); err != nil {
			return err
		}
	}
	return nil
}
