package taskpool

import (
	"context"
	"errors"
)

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

// waitAbandoned waits until none of p's goroutines that were given up as hung is left. It returns the
// cause if ctx ends first.
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
