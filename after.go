package taskpool

import (
	"fmt"
	"slices"
)

// Task.After: a task, the dependent, waits for others, its dependencies, to succeed. Until
// then it is a few words in memory: no goroutine, no attempt, no place of its flow, no room
// that a task could have that may start. It is Delayed, and counts among those that are not
// due. A dependency may belong to another pool, and no two pools' locks are ever held together.
//
// Invariants:
//
//   - A task that was accepted and has not been found ready is in scheduler.dependents, and
//     left is how many of its dependencies it was not told of. It is told of each once.
//   - A dependent joins its dependencies once it is accepted. A dependency that has not settled
//     knows those that have joined it. When it settles it forgets them, and they are in the
//     work of its pool's supervisor until they are told.
//   - A dependent that settles before all its dependencies leaves those that it has joined,
//     by the same way. So neither keeps the other in memory.
//   - All that is done under a lock is done by the chunk: there may be very many of both.
//   - Whoever is lent to passes that on to its dependencies. They are first joined, then lent
//     to, so one of the two sees a change that comes meanwhile.
//
// A circle cannot be made of dependencies alone, as each has been accepted before a dependent
// can name it; see stall.go for one that goes through a wait.

// A dependency is one of the tasks that another comes after.
type dependency struct {
	on        *Handle
	dependent *Handle
	i         int32 // index in dependents of on; -1 if it is not there. Protected by on.pool.mu
}

// links are what a task has to do with others by Task.After. Protected by pool.mu.
type links struct {
	dependents   []*dependency // of the tasks that wait for this one, in the order in which they came; nil for each that has gone
	gone         int           // how many are nil: no more than half
	dependencies []dependency  // of this task, fixed; nil once it waits for none
	left         int           // how many of these it was not told of
	settled      int           // those before this one have settled
	joined       bool          // all have been joined: what is read to describe them is fixed
}

// links returns what h has to do with others; nil if nothing.
func (h *Handle) links() *links {
	if h.rare == nil {
		return nil
	}
	return h.rare.links
}

// comesAfter has h, which is about to be submitted, wait for those of its task's After that
// have not succeeded yet.
func (h *Handle) comesAfter() {
	succeeded := func(on *Handle) bool { return on.settled.Load() && on.state == StateSucceeded }
	own := h.task.extra
	if !slices.ContainsFunc(own.After, func(on *Handle) bool { return !succeeded(on) }) {
		own.After = nil
		return
	}
	own.After = slices.DeleteFunc(slices.Clone(own.After), succeeded)
	all := make([]dependency, len(own.After))
	for i, on := range own.After {
		all[i] = dependency{on, h, -1}
	}
	h.rare = &rareHandle{links: &links{dependencies: all, left: len(all)}}
}

// waitsForTasks reports whether h has yet to be told of a dependency.
func (h *Handle) waitsForTasks() bool {
	l := h.links()
	return l != nil && l.left > 0
}

// isVain reports whether one of h's dependencies has settled without success: then h needs no
// room, as it ends as soon as it is accepted.
func (h *Handle) isVain() bool {
	return h.waitsForTasks() && slices.ContainsFunc(h.links().dependencies, func(d dependency) bool {
		return d.on.settled.Load() && d.on.state != StateSucceeded
	})
}

// joinLocked has d's dependent be told when d.on, whose pool's lock is held, settles.
func (d *dependency) joinLocked() {
	if d.on.rare == nil {
		d.on.rare = &rareHandle{}
	}
	l := d.on.rare.links
	if l == nil {
		l = &links{}
		d.on.rare.links = l
	}
	d.i = int32(len(l.dependents))
	l.dependents = append(l.dependents, d)
}

// leaveLocked has d's dependent, which has settled, be told no more. The lock of d.on's pool
// is held. The others keep their order, in which they are queued.
func (d *dependency) leaveLocked() {
	l := d.on.links()
	if l == nil || d.i < 0 {
		return
	}
	l.dependents[d.i], d.i = nil, -1
	switch l.gone++; {
	case l.gone == len(l.dependents):
		l.dependents, l.gone = nil, 0
	case 2*l.gone > len(l.dependents):
		kept := make([]*dependency, 0, len(l.dependents)-l.gone)
		for _, o := range l.dependents {
			if o != nil {
				o.i = int32(len(kept))
				kept = append(kept, o)
			}
		}
		l.dependents, l.gone = kept, 0
	}
}

// tellLocked tells d's dependent, whose pool's lock is held, that d.on has settled.
func (d *dependency) tellLocked(notices *[]notice) {
	h, on := d.dependent, d.on
	if !h.waitsForTasks() { // it has settled
		return
	}
	p := h.pool
	if on.state != StateSucceeded {
		p.sched.withdraw(h)
		p.settleWaitingLocked(entry{h: h}, h.priority, StateCanceled, newDependencyError(on), notices)
		return
	}
	own := h.links()
	if own.left--; own.left > 0 {
		return
	}
	own.dependencies, h.task.extra.After = nil, nil
	p.sched.leaveDependents(h)
	if h.extras().MaxWait > 0 {
		h.expireLocked()
	}
	if h.later() {
		p.sched.notLater(h)
		h.delayLocked(h.extras().NotBefore)
	} else {
		p.enqueueLocked(entry{h: h}, h.priority)
	}
}

// unlinkedLocked is called when h has settled. It leaves those with whom h has to do by l to
// the next restoreLocked.
func (h *Handle) unlinkedLocked(l *links) {
	w := &h.pool.supervisor.dependencies
	if l.gone > 0 {
		l.dependents = slices.DeleteFunc(l.dependents, func(d *dependency) bool { return d == nil })
	}
	if len(l.dependents) > 0 {
		w.settled = append(w.settled, l.dependents)
	}
	if len(l.dependencies) > 0 {
		w.left = append(w.left, l.dependencies)
	}
}

// describeDependencies says what h waits for, which is in its pool's dependents.
func (h *Handle) describeDependencies() string {
	own := h.links()
	for own.settled < len(own.dependencies)-1 && own.dependencies[own.settled].on.settled.Load() {
		own.settled++
	}
	if !own.joined {
		return fmt.Sprintf("%d tasks", own.left)
	}
	what := awaited{settled: own.dependencies[own.settled].on}
	if own.left > 1 {
		return fmt.Sprintf("%s and %d more", what.describe(h.pool), own.left-1)
	}
	return what.describe(h.pool)
}

// joinsLocked has h, which was accepted, join its dependencies in the next restoreLocked.
func (h *Handle) joinsLocked() {
	w := &h.pool.supervisor.dependencies
	w.joining = append(w.joining, joining{h: h, all: h.links().dependencies})
}

// A joining is a task that joins its dependencies.
type joining struct {
	h       *Handle
	all     []dependency
	next    int           // the first that it has not joined yet
	settled []*dependency // those that had settled before
}

// stepLocked joins the next, or if h has settled or has joined all, ends the joining. The lock
// of j.pool, which is p, is held. It reports whether that was the end.
func (j *joining) stepLocked(p *Pool, w *dependencyWork) (over bool) {
	if j.next < len(j.all) {
		d := &j.all[j.next]
		switch j.next++; {
		case j.h.settled.Load():
			j.next = len(j.all)
		case d.on.state.Final():
			j.settled = append(j.settled, d)
		default:
			d.joinLocked()
		}
		return false
	}
	own := j.h.links()
	if own == nil { // it has settled, and may not have left those that it has joined since
		w.left = append(w.left, j.all)
		return true
	}
	if own.joined = true; len(j.settled) > 0 {
		w.settled = append(w.settled, j.settled)
	}
	l := lending{urgency: j.h.urgency(), dependencies: [][]dependency{j.all}}
	if l.passOnLocked(p); l.any() {
		p.supervisor.lendings = append(p.supervisor.lendings, l)
		p.supervisor.alarmLocked()
	}
	return true
}

// pool returns the pool whose lock the next step needs.
func (j *joining) pool() *Pool {
	if j.next < len(j.all) {
		return j.all[j.next].on.pool
	}
	return j.h.pool
}

// A dependencyWork is what is left to do for tasks that wait for others.
type dependencyWork struct {
	joining []joining
	settled [][]*dependency // whose dependents are to be told; none is empty
	left    [][]dependency  // whose dependents have settled; none is empty
}

func (w *dependencyWork) any() bool { return len(w.joining)+len(w.settled)+len(w.left) > 0 }

// pool returns the pool whose lock the next step needs.
func (w *dependencyWork) pool() *Pool {
	switch {
	case len(w.joining) > 0:
		return w.joining[0].pool()
	case len(w.settled) > 0:
		return w.settled[0][0].dependent.pool
	}
	return w.left[0][0].on.pool
}

// passOn does all of w. No lock may be held, and it holds none for long.
func (w *dependencyWork) passOn() {
	for w.any() {
		p := w.pool()
		p.lock()
		w.passOnLocked(p)
		p.restoreLocked()
		p.unlock()
	}
}

// passOnLocked does what comes first in w, as far as it needs the lock of p, which is held,
// and takes but a moment.
func (w *dependencyWork) passOnLocked(p *Pool) {
	var notices []notice
	for n := passChunk; n > 0 && w.any() && w.pool() == p; n-- {
		switch {
		case len(w.joining) > 0:
			if w.joining[0].stepLocked(p, w) {
				w.joining[0] = joining{}
				if w.joining = w.joining[1:]; len(w.joining) == 0 {
					w.joining = nil
				}
			}
		case len(w.settled) > 0:
			pop(&w.settled).tellLocked(&notices)
		default:
			first := &w.left[0][0]
			pop(&w.left)
			first.leaveLocked()
		}
	}
	p.notifyLocked(notices)
}

// pop removes and returns the first of what lists has.
func pop[T any](lists *[][]T) T {
	all := *lists
	first := all[0][0]
	if all[0] = all[0][1:]; len(all[0]) == 0 {
		all[0] = nil
		if *lists = all[1:]; len(all) == 1 {
			*lists = nil
		}
	}
	return first
}

// passDependenciesLocked does part of the work for tasks of p that wait for others, and leaves
// the rest to the supervisor's goroutine.
func (s *supervisor) passDependenciesLocked(p *Pool) {
	if s.dependencies.passOnLocked(p); s.dependencies.any() {
		s.alarmLocked()
	}
}

// passDependencies does what passDependenciesLocked has left.
func (s *supervisor) passDependencies(p *Pool) {
	p.mu.Lock() // as nothing is decided here, no burst need end
	work := s.dependencies
	s.dependencies = dependencyWork{}
	p.mu.Unlock()
	work.passOn()
}

// newDependencyError returns the error of a task that was canceled because of on.
func newDependencyError(on *Handle) *DependencyError {
	if e, ok := on.err.(*DependencyError); ok && on.state == StateCanceled && on.attempts == 0 {
		return e // on has not failed itself
	}
	return &DependencyError{Pool: on.pool.cfg.name, ID: on.id, Name: on.task.Name, State: on.state, err: on.err}
}
