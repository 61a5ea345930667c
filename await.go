package taskpool

import (
	"context"
	"fmt"
)

// Waiting for a task, for the members of a group, for room or for an idle pool is one
// mechanism, awaitLocked. Its invariants:
//
//   - A task that waits has given its slot back, whatever context it waits with. If the
//     context is not the task's, the task is found by its goroutine, and so is a function
//     given to Go. Other goroutines wait without a task.
//   - A waiter is registered in the critical section that found something to wait for, and
//     is woken in the critical section that brings it about. Attempts of the same pool ask
//     for a slot right there, so that the slot that becomes free cannot go to a less urgent
//     task.
//   - A wait ends with its context. If that is not the task's, the wait ends with the task's
//     as well, unless that had ended before: then the task is cleaning up.
//   - A task that waits lends its urgency, see loan.go: first it is recorded what it waits
//     for, then it lends what it counts as by then. So if it is lent to meanwhile, one of the
//     two passes that on.
//   - A submitter that waits for room is in admission no longer than the wait lasts. If it
//     is a task, it may have to wait for its slot after that, and what it would have
//     submitted is not accepted meanwhile.

// awaited is what somebody waits for. Exactly one of the pointers is set.
type awaited struct {
	settled *Handle // that this task has settled
	room    *Handle // that this task, which is being submitted, is accepted or refused
	members *Group  // that all members of this group have settled
	limit   *Group  // that it has fewer members than its limit
	idle    *Pool   // that this pool is quiet
	ran     *Handle // that Do has run this task, or will not; see guest, which waits for it by itself
	running bool    // beside idle: that none of its tasks is at work is enough
}

// overLocked reports whether what is waited for has happened.
func (a *awaited) overLocked() bool {
	switch {
	case a.settled != nil:
		return a.settled.state.Final()
	case a.room != nil:
		return a.room.id != 0 || a.room.err != nil
	case a.members != nil:
		return a.members.members == 0
	case a.limit != nil:
		return a.limit.limit < 0 || a.limit.members < a.limit.limit
	default:
		if a.running {
			return a.idle.crew.rests(&a.idle.sched)
		}
		return a.idle.quietLocked()
	}
}

// group returns the group whose members are waited for, nil if it is something else.
func (a *awaited) group() *Group {
	if a.members != nil {
		return a.members
	}
	return a.limit
}

// describe says what is waited for in a task of pool from; "" if it is nothing. It takes no
// lock: what it reads of a task was fixed before somebody could wait for it, and its number
// when it was found that there is something to wait for.
func (a *awaited) describe(from *Pool) string {
	var what string
	switch {
	case *a == awaited{}:
		return ""
	case a.settled != nil:
		what = describeTask(TaskInfo{ID: a.settled.id, Name: a.settled.task.Name})
	case a.room != nil:
		what = "room"
	case a.ran != nil:
		what = "a call of Do"
		if name := a.ran.task.Name; name != "" {
			what = fmt.Sprintf("Do of %q", name)
		}
	case a.idle != nil:
		what = "an idle pool" // or, if it is paused, one at rest
	default:
		what = "a group"
		if name := a.group().t.Name; name != "" {
			what = fmt.Sprintf("group %q", name)
		}
	}
	if p := a.pool(); p != from {
		what += fmt.Sprintf(" in pool %q", p.cfg.name)
	}
	return what
}

// waiters returns the waiters to join.
func (a *awaited) waiters() *waiters {
	switch {
	case a.settled != nil:
		return &a.settled.waiters
	case a.room != nil:
		return &a.room.waiters
	case a.members != nil:
		return &a.members.none
	case a.limit != nil:
		return &a.limit.room
	default:
		if a.running {
			return &a.idle.crew.resters
		}
		return &a.idle.idlers
	}
}

// isItself reports whether task, which may be nil, would wait for its own end. WaitIdle and
// WaitRunning check that by themselves, before they wait.
func (a *awaited) isItself(task *attempt) bool {
	switch {
	case task == nil:
		return false
	case a.settled != nil:
		return task.h == a.settled
	case a.members != nil:
		return task.group == a.members
	}
	return false
}

// A wait is the state of one call of awaitLocked.
type wait struct {
	what awaited
	call string          // if what.room is set: the call that waits
	ctx  context.Context // bounds it; nil if only the end of the task does
	task *attempt        // the task that waits; nil if none does, or if it is not known yet

	// ask is set if task was not taken from the context of the call: the goroutine may
	// belong to another.
	ask bool
	// always is set if the end of the task ends the wait even if it came before the wait.
	always bool
	// patient is set if only the end of ctx ends the wait.
	patient bool

	identified bool            // task is known, as far as it can be
	byTask     error           // the cause, if end has ended the wait
	end        <-chan struct{} // of task's context, if that ends the wait and ctx does not include it
}

// awaitLocked waits until what w waits for has happened and returns nil. It returns the
// cause if a context ends the wait first, and ErrInside if the task would wait for itself.
// The mu that is held is that of w.what.pool(); it is unlocked meanwhile.
func (w *wait) awaitLocked() (err error) {
	p := w.what.pool()
	for !w.what.overLocked() {
		switch {
		case err != nil:
			return err
		case w.what.isItself(w.task):
			return ErrInside
		case !w.identified && w.task == nil && anyPoolActive():
			// Usually the caller is not a task, so it joins the waiters first and looks
			// at the goroutine afterward, with a single unlock. If it is a task after
			// all, it is parked next.
			done := w.what.waiters().channelLocked()
			p.unlocked(func() {
				if w.identify(); w.task == nil {
					err = w.elsewhere(done)
				}
			})
			if w.task != nil {
				continue
			}
		case !w.identified:
			w.identifyLocked()
			continue
		default:
			err = w.waitAsLocked()
		}
		if w.what.idle != nil && err == nil {
			return nil // it was idle, though it may have something to do again
		}
	}
	return nil
}

// waitAsLocked waits once. The task that waits, if there is one, is parked meanwhile.
func (w *wait) waitAsLocked() (err error) {
	p := w.what.pool()
	var pk *suspension
	if w.task != nil && w.task.pool == p {
		pk = w.task.parkLocked()
	}
	if pk != nil {
		pk.waitsLocked(w.what)
		on := w.what.waiters()
		on.addLocked(pk)
		l := lending{urgency: w.task.h.urgency()}
		if l.lendLocked(w.what); len(l.to)+len(l.dependencies) > 0 {
			l.passOnLocked(p)
		}
		p.restoreLocked()
		p.unlocked(func() {
			l.passOn()
			err = pk.wait(w)
		})
		on.removeLocked(pk)
	} else {
		done := w.what.waiters().channelLocked()
		p.unlocked(func() { err = w.elsewhere(done) })
	}
	return err
}

// identifyLocked is identify for callers that hold the pool's lock. p.mu is unlocked
// meanwhile, unless there is no need to look at the goroutine.
//
// A task may wait with the context of another task, which then gives its slot back in
// place of the one that waits: in the same pool one slot is as good as another. In another
// pool it is not if p has no slot left, because the goroutine may hold p's last one, so
// then the goroutine is looked at.
func (w *wait) identifyLocked() {
	p := w.what.pool()
	if w.task != nil && w.task.pool != p && p.sched.held >= p.sched.slots-p.cfg.reserved {
		w.ask = true
	}
	switch {
	case w.task != nil && !w.ask && w.task.pool == p && w.task.standsInLocked():
	case w.task == nil && !anyPoolActive():
	default:
		p.unlocked(w.identify)
	}
	w.identified = true
}

// identify finds the task that waits, and whether its end ends the wait. No lock may be
// held.
func (w *wait) identify() {
	w.identified = true
	if w.task == nil && !anyPoolActive() || w.task != nil && !w.ask && w.task.standsIn() {
		return
	}
	other := false
	if here := currentAttempt(); here != nil && here != w.task {
		w.task, other = here, true
	}
	if w.task != nil && (w.always || other && !w.patient && w.task.ended() == nil) {
		w.end = w.task.Done()
	}
}

// standsIn reports whether a may be parked in place of the task that waits: in a pool with
// flows, that one's place is needed.
func (a *attempt) standsIn() bool {
	a.pool.lock()
	defer a.pool.unlock()
	return a.standsInLocked()
}

func (a *attempt) standsInLocked() bool {
	return a.canParkLocked() && len(a.pool.sched.flows) == 0 && a.pool.sched.plainFlow == nil
}

// canParkLocked reports whether a has a slot to give back.
func (a *attempt) canParkLocked() bool { return !a.over && a.suspension == nil }

// elsewhere waits until done is closed or a context ends the wait, and returns the cause
// if one does. The task, if there is one, belongs to another pool, where it is parked, or
// has no slot to give back.
func (w *wait) elsewhere(done <-chan struct{}) error {
	a := w.task
	if a == nil {
		return w.stay(nil, done)
	}
	pk := a.park(w.what)
	if pk != nil {
		defer pk.back()
	} else if r := a.waits(w.what); r != nil {
		defer a.waitsNoLonger(r)
	} else { // it is over, and lends nothing
		return w.stay(nil, done)
	}
	(&lending{urgency: Priority(a.urgency()), to: []awaited{w.what}}).passOn()
	return w.stay(pk, done)
}

// waits records that a, which has no slot to give back, waits for what. It returns nil if a
// is over.
func (a *attempt) waits(what awaited) *recordedWait {
	a.pool.lock()
	defer a.pool.unlock()
	if a.over {
		return nil
	}
	return a.recordLocked(what)
}

func (a *attempt) recordLocked(what awaited) *recordedWait {
	if a.rare == nil {
		a.rare = &rareAttempt{}
	}
	r := &recordedWait{what, len(a.rare.waits)}
	a.rare.waits = append(a.rare.waits, r)
	a.givePlaceLocked() // in Block it has one
	return r
}

// givePlace gives the place of a's flow back, if a is parked and has one. It needs one again to
// go on.
func (a *attempt) givePlace() {
	a.pool.lock()
	defer a.pool.unlock()
	a.givePlaceLocked()
}

func (a *attempt) givePlaceLocked() {
	if pk := a.suspension; pk != nil && !pk.askedLocked() && a.h.placed {
		a.pool.sched.givePlace(a.h)
		a.pool.restoreLocked()
	}
}

// waitsNoLonger undoes waits. It takes the same time however many goroutines of a wait.
func (a *attempt) waitsNoLonger(r *recordedWait) {
	a.pool.lock()
	defer a.pool.unlock()
	all := a.rare.waits
	last := len(all) - 1
	all[r.i], all[last].i = all[last], r.i
	all[last] = nil
	a.rare.waits = shrunk(all[:last])
}

// A lending passes an urgency on: to what a task waits for, to what that waits for, and so
// on, in any pool. It ends where all is as urgent already, so also where tasks wait in a
// circle.
type lending struct {
	urgency Priority
	to      []awaited
	large   []*Group // with more than passChunk members
	// dependencies are lists, none empty, of what tasks wait for by Task.After.
	dependencies [][]dependency
}

func (l *lending) any() bool { return len(l.to)+len(l.large)+len(l.dependencies) > 0 }

// passOn lends the urgency to what is in l.to and l.large, and to all that this waits for. No
// lock may be held. It holds no lock for long.
func (l *lending) passOn() {
	for l.any() {
		if last := len(l.large) - 1; last >= 0 {
			g := l.large[last]
			l.large = l.large[:last]
			l.lendGroup(g)
			continue
		}
		var p *Pool
		if last := len(l.to) - 1; last >= 0 {
			p = l.to[last].pool()
		} else {
			p = l.dependencies[0][0].on.pool
		}
		p.lock()
		l.passOnLocked(p)
		p.restoreLocked()
		p.unlock()
	}
}

// passOnLocked is passOn for what is in l.to and belongs to p, whose lock is held, as far as
// that takes but a moment: so far the caller gives no slot away.
func (l *lending) passOnLocked(p *Pool) {
	var left []awaited
	for n := passChunk; n > 0 && len(l.to)+len(l.dependencies) > 0; n-- {
		var what awaited
		if last := len(l.to) - 1; last >= 0 {
			what = l.to[last]
			l.to = l.to[:last]
		} else if what.settled = pop(&l.dependencies).on; what.settled.settled.Load() {
			continue
		}
		if what.pool() == p {
			n -= l.lendLocked(what)
		} else {
			left = append(left, what)
		}
	}
	l.to = append(l.to, left...)
}

// lendLocked lends the urgency to what, whose pool's lock is held, and adds what that waits
// for to l.to; what is a large group goes to l.large. It returns to how many members it has
// lent.
func (l *lending) lendLocked(what awaited) (members int) {
	switch g := what.group(); {
	case what.settled != nil:
		l.lendTaskLocked(what.settled)
	case what.ran != nil && what.ran.id != 0:
		l.lendTaskLocked(what.ran)
	case what.ran != nil:
		p := what.ran.pool
		p.sched.lendPlace(what.ran, l.urgency, p.now())
	case what.room != nil:
		p := what.room.pool
		p.sched.lendPlace(what.room, l.urgency, p.now())
	case g == nil: // an idle pool is nobody's to bring about
	case len(g.tasks) > passChunk:
		l.large = append(l.large, g)
	case g.takesLoanLocked(l.urgency):
		for _, h := range g.tasks {
			g.lendLocked(h, l)
		}
		members = len(g.tasks)
	}
	return members
}

func (l *lending) lendTaskLocked(h *Handle) {
	if p := h.pool; p.sched.lend(h, l.urgency, p.now()) {
		l.changedLocked(h)
	}
}

// changedLocked brings h's attempt up to date with its urgency, and adds what h waits for to l.
func (l *lending) changedLocked(h *Handle) {
	if own := h.links(); own != nil && len(own.dependencies) > 0 {
		l.dependencies = append(l.dependencies, own.dependencies)
	}
	a := h.attempt
	if a == nil || a.over {
		return
	}
	if a.rare == nil {
		a.rare = &rareAttempt{}
	}
	a.rare.urgency.Store(int64(h.urgency()))
	a.signal.Or(signalUrgency)
	if w := a.w; w.holds {
		h.pool.sched.release(w.less)
		w.less = h.pool.sched.lessUrgent(h.urgency())
		h.pool.sched.hold(w.less)
	}
	if pk := a.suspension; pk != nil && pk.waits != (awaited{}) && !pk.askedLocked() {
		l.to = append(l.to, pk.waits)
	}
	if a.rare.changed != nil {
		close(a.rare.changed)
		a.rare.changed = nil
	}
	for _, r := range a.rare.waits {
		l.to = append(l.to, r.what)
	}
}

// park parks a for a wait for something in another pool. It returns nil if a has no slot
// to give back.
func (a *attempt) park(what awaited) *suspension {
	p := a.pool
	p.lock()
	defer p.unlock()
	pk := a.parkLocked()
	if pk != nil {
		pk.waitsLocked(what)
		p.restoreLocked()
	}
	return pk
}

// wait waits until the attempt has a slot again; it asks for one when a context ends w.
func (pk *suspension) wait(w *wait) error {
	defer func() { // also if a method of a context panics, as the task may recover and go on
		select {
		case <-pk.ready: // the ordinary case takes no lock
			pk.endRegion()
		default:
			pk.back()
		}
	}()
	return w.stay(pk, pk.ready)
}

// stay is sleep for an attempt that is parked as pk, which is nil if none is. If w ends
// before there is room, its submitter stops waiting for it here.
func (w *wait) stay(pk *suspension, ready <-chan struct{}) (err error) {
	if w.what.room != nil {
		err = errGaveUp // also if a method of a context panics
		defer func() {
			if err != nil {
				w.giveUpRoom()
			}
		}()
	}
	if pk != nil {
		pk.beginRegion(w.context())
	}
	return w.sleep(ready)
}

// giveUpRoom refuses the task that waits for room, unless it was accepted or refused before.
func (w *wait) giveUpRoom() {
	h := w.what.room
	p := h.pool
	p.lock()
	defer p.unlock()
	if w.what.overLocked() {
		return
	}
	p.sched.withdraw(h)
	if h.err = errGaveUp; w.byTask != nil {
		h.err = &taskOverError{w.call, w.byTask}
	}
	p.restoreLocked()
}

// context returns w's context or, if it has none, the waiting task's.
func (w *wait) context() context.Context {
	if w.ctx != nil {
		return w.ctx
	}
	return w.task
}

// sleep sleeps until ready is closed or a context ends w, and returns the cause if one has.
func (w *wait) sleep(ready <-chan struct{}) error {
	var done <-chan struct{}
	if w.ctx != nil {
		done = w.ctx.Done()
	}
	if done == nil && w.end == nil { // half the cost of a select
		<-ready
		return nil
	}
	select {
	case <-ready:
	case <-done:
		return causeOf(w.ctx)
	case <-w.end:
	}
	if w.ctx != nil && w.ctx.Err() != nil {
		return causeOf(w.ctx)
	}
	select {
	case <-w.end:
		w.byTask = context.Cause(w.task)
		return w.byTask
	default:
		return nil
	}
}

// causeOf returns why ctx, which is over, has ended. That is never nil, even if a context
// type of the caller's own has closed Done while its Err returns nil.
func causeOf(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return context.Canceled
}

// suspendCaller parks the task that ctx belongs to or, if that has no slot to give back,
// the one on whose goroutine it is called. It returns nil if there is none.
func suspendCaller(ctx context.Context) *suspension {
	for _, a := range []*attempt{attemptFrom(ctx), currentAttempt()} {
		if a != nil {
			if pk := a.park(awaited{}); pk != nil {
				a.givePlace()
				return pk
			}
		}
	}
	return nil
}
