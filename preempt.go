package taskpool

import (
	"context"
	"runtime/trace"
	"slices"
	"time"
)

// Parking is how a task in the middle of its work gives its slot back. The
// attempt's goroutine waits, its slot runs something else, and the attempt goes
// on when it gets a slot again. Yield, Block, waiting for a task and submitting
// to a full queue all do it. An attempt is parked in three steps:
//
//   - parkLocked takes its slot. From here it is off the slot, its task Parked.
//   - backLocked has it ask for a slot, at once or when what it waits for has
//     come: it joins the queue. Who lets a child settle or a submitter in does
//     so in the same critical section, so that the slot that becomes free then
//     cannot go to a less urgent task.
//   - unparkLocked gives it a slot, as restoreLocked does for whoever is next.
//
// A parking belongs to one attempt and to one stay: whoever comes too late with
// backLocked, after its attempt went on or ended, finds another one there and
// does nothing.
type parking struct {
	a *attempt
	// ready is closed when the attempt has a slot again, or has ended.
	ready chan struct{}
	// region belongs to the goroutine that waits; nil unless traced.
	region *trace.Region

	// The fields below are protected by pool.mu.

	waits awaited // what for; zero in Yield and Block
	asked bool    // for a slot
	seen  bool    // by lookForStallLocked
	lasts bool    // it was seen before, a grace ago
	told  bool    // it is, or was, in stallWatch.circle
	left  int64   // number in order of leaving; 0: it is not there, see goFirstLocked
	// working is set while the attempt works without a slot, in Block: the
	// hang grace goes on.
	working bool
}

// The bits of attempt.signal.
const (
	signalBegun uint32 = 1 << iota // Run is about to be called, or was; see attempt.begin
	signalEnded                    // the context has ended, or the attempt is over
	signalBeat                     // the supervisor waits for a sign of life
	signalStall                    // it looks whether anything moves
)

// back asks for a slot and waits for it.
func (pk *parking) back() {
	p := pk.a.pool
	p.lock()
	p.backLocked(pk)
	p.restoreLocked()
	p.unlock()
	<-pk.ready
	pk.endRegion()
}

// resume waits for the slot that the attempt has asked for.
func (pk *parking) resume(ctx context.Context) {
	defer func() { // also if a method of ctx panics, as the task may recover and go on
		<-pk.ready
		pk.endRegion()
	}()
	pk.beginRegion(ctx)
}

// parkHereLocked is parkLocked for an attempt that waits for something in p. It
// returns nil too if a is nil or belongs to another pool.
func (p *Pool) parkHereLocked(a *attempt) *parking {
	if a == nil || a.pool != p {
		return nil
	}
	return p.parkLocked(a)
}

// parkLocked takes the slot of a. It returns nil if a has none to give: it is
// over, or another of its goroutines has parked it.
func (p *Pool) parkLocked(a *attempt) *parking {
	if !a.canParkLocked() {
		return nil
	}
	pk := &parking{a: a, ready: make(chan struct{})}
	a.parking = pk
	p.engageLocked(+1)
	a.h.state = Parked
	p.sched.count[Running]--
	p.sched.count[Parked]++
	p.ledger.total.parks++
	p.freeSlotLocked(a.w)
	p.rewatchLocked(a.w)
	return pk
}

// currentLocked reports whether the attempt is still parked as pk.
func (pk *parking) currentLocked() bool { return pk.a.parking == pk }

// backLocked has a parked attempt ask for a slot. It goes before tasks of its
// priority that have not started or, if its context has ended, before
// everything, as it is on its way out.
func (p *Pool) backLocked(pk *parking) {
	if !pk.currentLocked() || pk.asked {
		return
	}
	pk.working = false
	p.askLocked(pk)
	p.rewatchLocked(pk.a.w)
	if pk.a.signal.Load()&signalEnded != 0 {
		p.goFirstLocked(pk)
	} else {
		h := pk.a.h
		p.sched.queue.push(entry{h: h, order: p.orderLocked()}, h.task.Priority, true)
	}
	p.watchFullLocked()
}

// leavingOf returns the list of those on their way out that pk belongs to.
func (p *Pool) leavingOf(pk *parking) *[]*parking {
	if p.lessUrgent(pk.a.w.priority) {
		return &p.sched.exitingLess
	}
	return &p.sched.exiting
}

// goFirstLocked puts an attempt whose context has ended before everything.
func (p *Pool) goFirstLocked(pk *parking) {
	p.sched.exits++
	pk.left = p.sched.exits
	to := p.leavingOf(pk)
	*to = append(*to, pk)
}

// backOfLaneLocked is backLocked for an attempt whose quantum is over.
func (p *Pool) backOfLaneLocked(pk *parking) {
	p.askLocked(pk)
	h := pk.a.h
	p.sched.queue.push(entry{h: h, order: p.orderLocked()}, h.task.Priority, false)
}

// askLocked counts an attempt that asks for a slot.
func (p *Pool) askLocked(pk *parking) {
	pk.asked = true
	if p.lessUrgent(pk.a.w.priority) {
		p.sched.askingLess++
	} else {
		p.sched.asking++
	}
}

// goneLocked ends a parking.
func (p *Pool) goneLocked(pk *parking) {
	pk.a.parking = nil
	p.engageLocked(-1)
	close(pk.ready)
	switch {
	case !pk.asked:
	case p.lessUrgent(pk.a.w.priority):
		p.sched.askingLess--
	default:
		p.sched.asking--
	}
}

// hurryLocked puts a parked attempt whose context has ended before everything,
// if it has asked for a slot. If not it will ask by itself, as whoever waits
// with the task's context sees it end.
func (p *Pool) hurryLocked(a *attempt) {
	if a.h.place.lane != nil {
		p.sched.queue.remove(a.h)
		p.goFirstLocked(a.parking)
	}
}

// unparkLocked gives a parked attempt that was taken out of the queue a slot.
func (p *Pool) unparkLocked(pk *parking) {
	a := pk.a
	p.goneLocked(pk)
	p.ledger.total.resumes++
	a.h.state = Running
	p.sched.count[Parked]--
	p.sched.count[Running]++
	p.holdSlotLocked(a.w)
	now := time.Now()
	a.slice.Store(int64(now.Sub(p.epoch)))
	p.expectBeatLocked(a.w, now)
	p.rewatchLocked(a.w)
}

// unparkOverLocked lets go of an attempt that is over while parked: another
// goroutine of the task waits, or Block's f was given up on.
func (p *Pool) unparkOverLocked(a *attempt) {
	pk := a.parking
	if pk == nil {
		return
	}
	if a.h.place.lane != nil {
		p.sched.queue.remove(a.h)
	}
	if pk.left > 0 {
		from := p.leavingOf(pk)
		*from = shrunk(slices.DeleteFunc(*from, func(l *parking) bool { return l == pk }))
	}
	p.goneLocked(pk)
}
