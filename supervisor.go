package taskpool

import (
	"runtime/pprof"
	"slices"
	"time"
)

// A supervisor is a pool's handle on its supervisor's goroutine.
type supervisor struct {
	bell chan struct{} // wakes it; buffered, so that sending never waits
	run  func()        // the goroutine's function

	// The fields below are protected by Pool.mu.

	lendings     []lending      // to be passed on, with no lock held
	dependencies dependencyWork // likewise
	next         time.Time      // the time that its timer is set for; zero: not set
	started      bool           // it was started, or must not be started any more
}

// supervise is the supervisor's goroutine. It replaces workers that died, gives
// up on those that hang, and releases delayed tasks. It sleeps on a channel and
// one timer, which is set only if there is something to wait for: an idle pool
// wakes no CPU. It calls no user code; its notices are delivered by another
// goroutine.
func (p *Pool) supervise() {
	pprof.SetGoroutineLabels(p.labels)
	timer := time.NewTimer(0)
	timer.Stop()
	for {
		next, circle, over := p.supervisorTurn()
		p.supervisor.passDependencies(p)
		if over {
			close(p.end.terminated)
			return
		}
		if circle {
			lookForCircle(p)
		}
		p.supervisor.passLendings(p)
		if next.IsZero() {
			<-p.supervisor.bell
			continue
		}
		timer.Reset(time.Until(next))
		select {
		case <-p.supervisor.bell:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// passLendings passes on what could not be passed on where it was lent, as a lock was held.
func (s *supervisor) passLendings(p *Pool) {
	p.mu.Lock() // as nothing is decided here, no burst need end
	all := s.lendings
	s.lendings = nil
	p.mu.Unlock()
	for i := range all {
		all[i].passOn()
	}
}

// alarmLocked has the supervisor take a turn.
func (s *supervisor) alarmLocked() {
	if s.started {
		ring(s.bell)
	}
	s.startLocked()
}

// startLocked starts the supervisor, when it is first needed.
func (s *supervisor) startLocked() {
	if !s.started {
		s.started = true
		go s.run()
	}
}

// ring has the supervisor with that bell take a turn, if it was started.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it will take a turn anyway
	}
}

// alarmAtLocked has the supervisor take a turn at t or before.
func (s *supervisor) alarmAtLocked(t time.Time) {
	if s.next.IsZero() || t.Before(s.next) {
		s.next = t
		s.alarmLocked()
	}
}

// supervisorTurn does what is due. It returns when the next turn is, zero if that is
// not known yet; whether tasks may wait for each other in a circle; and whether this
// was the last turn.
func (p *Pool) supervisorTurn() (next time.Time, circle, over bool) {
	p.lock()
	defer p.unlock()
	replaced := 0
	for replaced < len(p.crew.dead) && len(p.outbox.notices) < maxNotices {
		p.crew.dead[replaced].replaceLocked()
		replaced++
	}
	p.crew.dead = shrunk(slices.Delete(p.crew.dead, 0, replaced))
	p.crew.procs.followLocked(p)

	var hung []*worker
	if p.sched.delayed.Len() > 0 || p.sched.admissionDelayed.Len() > 0 || p.watch.watched.Len() > 0 || p.sched.expiring.Len() > 0 || !p.end.final.IsZero() {
		now := time.Now()
		p.watch.rounds.tick(now)
		for h := p.sched.nextDue(now); h != nil; h = p.sched.nextDue(now) {
			p.enqueueLocked(entry{h: h}, h.priority)
		}
		for p.sched.nextDueSubmitter(now, p.now()) != nil { // now its task might start at once
		}
		if h := p.sched.firstToExpire(); h != nil && !now.Before(h.expiry.at) {
			p.restoreLocked() // a slot may be free for it
			if !p.expireLocked(now) {
				p.supervisor.alarmLocked()
			}
		}
		for p.watch.watched.Len() > 0 && !now.Before(p.watch.watched.items[0].watch) {
			if w := p.watch.watched.items[0]; w.expireLocked(now) {
				hung = append(hung, w)
			}
		}
		if !p.end.final.IsZero() && !now.Before(p.end.final) {
			if p.end.final = p.end.final.Add(p.watch.rounds.grant(&p.end.grantedFinal)); !now.Before(p.end.final) {
				p.abandonAllLocked()
			}
		}
	}
	p.restoreLocked()
	if len(hung) > 0 {
		p.giveUpLocked(hung)
		p.restoreLocked()
	}

	if p.stall.firedLocked(&p.inbox) {
		p.stall.watchLocked(p.cfg.hangGrace, &p.supervisor)
	}
	if !p.stall.next.IsZero() {
		if now := time.Now(); !now.Before(p.stall.next) {
			circle = p.lookForStallLocked(now)
		}
	}

	p.end.closing.tellLocked(p)
	if !p.orphans.next.IsZero() && !time.Now().Before(p.orphans.next) {
		p.notifyLocked(p.orphans.take(&p.guard))
	}

	p.supervisor.next = time.Time{}
	due := func(t time.Time) {
		if p.supervisor.next.IsZero() || t.Before(p.supervisor.next) {
			p.supervisor.next = t
		}
	}
	if h := p.sched.delayed.first(); h != nil {
		due(h.due)
	}
	if h := p.sched.admissionDelayed.first(); h != nil {
		due(h.due)
	}
	if h := p.sched.firstToExpire(); h != nil {
		due(h.expiry.at)
	}
	if p.watch.watched.Len() > 0 {
		due(p.watch.watched.items[0].watch)
	}
	if !p.end.final.IsZero() {
		due(p.end.final)
	}
	if !p.end.closing.next.IsZero() {
		due(p.end.closing.next)
	}
	if !p.orphans.next.IsZero() {
		due(p.orphans.next)
	}
	if p.watch.rounds.long > 0 {
		due(p.watch.rounds.next)
	}
	if !p.stall.next.IsZero() && !p.end.over {
		due(p.stall.next)
	}
	return p.supervisor.next, circle, p.end.over
}
