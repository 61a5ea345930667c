package taskpool

import (
	"runtime/pprof"
	"slices"
	"time"
)

// supervise is the supervisor's goroutine. It replaces workers that died, gives
// up on those that hang, and releases delayed tasks. It sleeps on a channel and
// one timer, which is set only if there is something to wait for: an idle pool
// wakes no CPU. It calls no user code; what it has to tell is reported from
// another goroutine.
func (p *Pool) supervise() {
	pprof.SetGoroutineLabels(p.labels)
	timer := time.NewTimer(0)
	timer.Stop()
	for {
		next, circle, over := p.supervisorTurn()
		if over {
			close(p.terminated)
			return
		}
		if circle {
			p.lookForCircle()
		}
		if next.IsZero() {
			<-p.alarm
			continue
		}
		timer.Reset(time.Until(next))
		select {
		case <-p.alarm:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// alarmLocked has the supervisor take a turn.
func (p *Pool) alarmLocked() {
	p.superviseLocked()
	p.ring()
}

// superviseLocked starts the supervisor, when it is first needed.
func (p *Pool) superviseLocked() {
	if !p.supervised && !p.over {
		p.supervised = true
		go p.supervise()
	}
}

// ring is alarmLocked without the lock, by one who knows that the supervisor was started.
func (p *Pool) ring() {
	select {
	case p.alarm <- struct{}{}:
	default: // it will anyway
	}
}

// alarmAtLocked has the supervisor take a turn at t, if not before.
func (p *Pool) alarmAtLocked(t time.Time) {
	if p.nextTurn.IsZero() || t.Before(p.nextTurn) {
		p.nextTurn = t
		p.alarmLocked()
	}
}

// supervisorTurn does what is due. It returns when the next turn is, zero if
// that is not known yet, whether tasks may wait for each other in a circle, and whether
// there will be no turn any more.
func (p *Pool) supervisorTurn() (next time.Time, circle, over bool) {
	p.lock()
	defer p.unlock()
	replaced := 0
	for replaced < len(p.dead) && len(p.reports) < maxReports {
		p.replaceLocked(p.dead[replaced])
		replaced++
	}
	p.dead = shrunk(slices.Delete(p.dead, 0, replaced))

	var hung []*worker
	if p.delayed.Len() > 0 || p.doorDelayed.Len() > 0 || len(p.watched) > 0 || !p.final.IsZero() {
		now := time.Now()
		p.rounds.tick(now)
		for p.delayed.due(now) {
			h := p.delayed.first()
			p.undelayLocked(h)
			p.count[Delayed]--
			p.enqueueLocked(entry{h: h}, h.task.Priority)
		}
		for p.doorDelayed.due(now) { // it might start at once now
			h := p.doorDelayed.first()
			p.doorDelayed.remove(h)
			h.due = time.Time{}
			p.door.push(entry{h: h, order: p.orderLocked()}, h.task.Priority, false)
		}
		for len(p.watched) > 0 && !now.Before(p.watched[0].watch) {
			if w := p.watched[0]; p.expireLocked(w, now) {
				hung = append(hung, w)
			}
		}
		if !p.final.IsZero() && !now.Before(p.final) {
			if p.final = p.final.Add(p.rounds.grant(&p.grantedFinal)); !now.Before(p.final) {
				p.desertLocked()
			}
		}
	}
	p.restoreLocked()
	if len(hung) > 0 {
		p.giveUpLocked(hung)
		p.restoreLocked()
	}

	if p.stall.arrival {
		p.arrivedLocked()
	}
	if !p.stall.next.IsZero() {
		if now := time.Now(); !now.Before(p.stall.next) {
			circle = p.lookForStallLocked(now)
		}
	}

	p.tellOfClosingLocked()
	if !p.orphans.next.IsZero() && !time.Now().Before(p.orphans.next) {
		p.tellOfOrphansLocked()
	}

	p.nextTurn = time.Time{}
	due := func(t time.Time) {
		if p.nextTurn.IsZero() || t.Before(p.nextTurn) {
			p.nextTurn = t
		}
	}
	if h := p.delayed.first(); h != nil {
		due(h.due)
	}
	if h := p.doorDelayed.first(); h != nil {
		due(h.due)
	}
	if len(p.watched) > 0 {
		due(p.watched[0].watch)
	}
	if !p.final.IsZero() {
		due(p.final)
	}
	if !p.closing.next.IsZero() {
		due(p.closing.next)
	}
	if !p.orphans.next.IsZero() {
		due(p.orphans.next)
	}
	if p.rounds.long > 0 {
		due(p.rounds.next)
	}
	if !p.stall.next.IsZero() && !p.over {
		due(p.stall.next)
	}
	return p.nextTurn, circle, p.over
}
