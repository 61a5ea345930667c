package taskpool

import "slices"

// sizeLocked returns the number of workers, without those abandoned.
func (p *Pool) sizeLocked() int { return len(p.crew) + p.unhired }

// hireLocked starts one of the workers that were not needed yet, or else one more.
// It sleeps until it is wanted.
func (p *Pool) hireLocked() *worker {
	p.lastID++
	w := &worker{pool: p, wake: make(chan struct{}, 1), id: p.lastID, crewI: len(p.crew), watchI: -1}
	p.crew = append(p.crew, w)
	p.idle = append(p.idle, w)
	if p.unhired > 0 {
		p.unhired--
	}
	p.extra = max(p.extra, p.sizeLocked()-p.slots)
	go w.main()
	return w
}

// idleLocked returns the number of workers without a task.
func (p *Pool) idleLocked() int {
	n := p.unhired + len(p.idle) + p.coming
	if p.scout != nil {
		n++
	}
	return n
}

// takeIdleLocked takes the idle worker on top, nil if none is asleep. Whoever calls
// it wakes that.
func (p *Pool) takeIdleLocked() *worker {
	if len(p.idle) == 0 {
		p.releaseScoutLocked()
	}
	last := len(p.idle) - 1
	if last < 0 {
		return nil
	}
	w := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return w
}

// summonLocked has one more worker come and look. If none is asleep one is hired:
// where a slot is free and all were hired, some are with parked tasks.
func (p *Pool) summonLocked() {
	coming := p.coming
	w := p.takeIdleLocked()
	if p.coming > coming {
		return // that was the scout, and it was woken already
	}
	if w == nil {
		p.hireLocked()
		w = p.takeIdleLocked()
	}
	p.coming++
	w.wake <- struct{}{}
}

// boundExtraLocked forgets those beyond slots that have become workers like all others,
// as there are more slots, or that were abandoned.
func (p *Pool) boundExtraLocked() { p.extra = min(p.extra, max(p.sizeLocked()-p.slots, 0)) }

// trimLocked lets idle workers go while there are more than most.
func (p *Pool) trimLocked(most int) {
	p.unhired -= min(p.unhired, max(p.sizeLocked()-most, 0))
	for len(p.crew) > most && p.dismissIdleLocked() {
	}
}

// dismissIdleLocked lets the idle worker on top go. It returns false if none is
// asleep: those that come will see for themselves.
func (p *Pool) dismissIdleLocked() bool {
	w := p.takeIdleLocked()
	if w == nil {
		return false
	}
	p.leaveLocked(w)
	w.dismissed = true
	w.wake <- struct{}{}
	return true
}

// leaveLocked removes w from the crew.
func (p *Pool) leaveLocked(w *worker) {
	last := len(p.crew) - 1
	moved := p.crew[last]
	p.crew[w.crewI], moved.crewI = moved, w.crewI
	p.crew[last] = nil
	p.crew, p.idle = shrunk(p.crew[:last]), shrunk(p.idle)
}

// replaceLocked starts a new goroutine where one died. It goes on with what the
// dead one left undone, and holds its slot.
func (p *Pool) replaceLocked(w *worker) {
	reason := w.deathLocked()
	if w.panicked {
		p.total.replacedPanic++
	} else {
		p.total.replacedGoexit++
	}
	old := w.id
	p.lastID++
	w.id, w.dead = p.lastID, false
	w.goroutine.Store(0)
	e := WorkerEvent{Pool: p.cfg.name, Worker: old, Reason: reason}
	var reports []report
	tell(&reports, p.hooks.workerDied, e)
	e.Replacement = w.id
	tell(&reports, p.hooks.workerReplaced, e)
	p.reportLocked(reports)
	go w.main()
}

// deathLocked says how w's goroutine ended, for hooks.
func (w *worker) deathLocked() string {
	if w.panicked {
		return "panic"
	}
	return "goexit"
}

// abandonLocked takes the slot of w, which hangs, and gives it to a new worker. If
// its goroutine has ended, in a hook that hung before, nothing is left of w.
func (p *Pool) abandonLocked(w *worker, reports *[]report) {
	w.gaveUp, w.abandoned = true, true
	p.leaveLocked(w)
	p.boundExtraLocked()
	p.freeSlotLocked(w)
	e := WorkerEvent{Pool: p.cfg.name, Worker: w.id, Reason: "hung"}
	if w.dead {
		e.Reason = w.deathLocked()
		p.dead = shrunk(slices.DeleteFunc(p.dead, func(d *worker) bool { return d == w }))
		w.reports = slices.DeleteFunc(w.reports, func(r report) bool { return r.start })
		*reports = append(*reports, w.reports...) // as its replacement would have
		tell(reports, p.hooks.workerDied, e)
	} else {
		p.abandoned = append(p.abandoned, w)
		p.engageLocked(+1)
		tell(reports, p.hooks.workerAbandoned, e)
	}
	if p.sizeLocked() < p.slots && p.cut == nil && !(p.closed && p.outstandingLocked() == 0) {
		p.total.replacedHung++
		p.unhired++
		e.Replacement = p.hireLocked().id
		tell(reports, p.hooks.workerReplaced, e)
	}
}

func (p *Pool) maxAbandonedLocked() int {
	if p.cfg.maxAbandoned == likeWorkers {
		return p.slots
	}
	return p.cfg.maxAbandoned
}

// returnedLateLocked takes note of the end of an abandoned worker.
func (p *Pool) returnedLateLocked(w *worker) {
	p.abandoned = shrunk(slices.DeleteFunc(p.abandoned, func(a *worker) bool { return a == w }))
	p.engageLocked(-1)
	p.reclaimLocked()
	p.restoreLocked()
}

// reclaimLocked makes lost slots good, as far as the bound of abandoned workers
// allows.
func (p *Pool) reclaimLocked() {
	var reports []report
	for len(p.lost) > 0 && (len(p.abandoned) < p.maxAbandonedLocked() || p.cut != nil) {
		w := p.lost[0]
		p.lost = shrunk(slices.Delete(p.lost, 0, 1))
		p.abandonLocked(w, &reports)
	}
	p.reportLocked(reports)
}

// shrunk returns s, in less memory if it takes up little of what it has: a slice
// that only shrinks by itself keeps the memory for the most that it ever held. It
// copies as many elements as have gone since the last time at most.
func shrunk[S ~[]E, E any](s S) S {
	if cap(s) < leastShrunk || len(s) > cap(s)/4 {
		return s
	}
	return append(make(S, 0, max(2*len(s), leastShrunk/2)), s...)
}

const leastShrunk = 256
