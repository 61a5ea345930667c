package taskpool

import (
	"context"
	"runtime/trace"
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
//   - resumeLocked gives it a slot, as restoreLocked does for whoever is next.
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
	seen  bool    // by lookForStallLocked
	lasts bool    // it was seen before, a grace ago
	told  bool    // it is, or was, in stallWatch.circle
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
	pk.backLocked()
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

// parkLocked takes the slot of a. It returns nil if a has none to give: it is
// over, or another of its goroutines has parked it.
func (a *attempt) parkLocked() *parking {
	p := a.pool
	if !a.canParkLocked() {
		return nil
	}
	pk := &parking{a: a, ready: make(chan struct{})}
	a.parking = pk
	p.crew.engage(+1)
	p.ledger.total.parks++
	p.sched.park(a.h)
	a.w.freeSlotLocked()
	a.w.rewatchLocked()
	return pk
}

// currentLocked reports whether the attempt is still parked as pk.
func (pk *parking) currentLocked() bool { return pk.a.parking == pk }

// backLocked has a parked attempt ask for a slot. It goes before tasks of its
// priority that have not started or, if its context has ended, before
// everything, as it is on its way out.
func (pk *parking) backLocked() {
	p := pk.a.pool
	if !pk.currentLocked() || pk.askedLocked() {
		return
	}
	pk.working = false
	if h := pk.a.h; pk.a.signal.Load()&signalEnded != 0 {
		p.sched.askFirst(h)
	} else {
		p.sched.ask(h, p.now())
	}
	pk.a.w.rewatchLocked()
	p.watchFullLocked()
}

// askedLocked reports whether the attempt, which is parked as pk, asks for a slot.
func (pk *parking) askedLocked() bool { return pk.a.h.asks }

// overLocked ends a parking.
func (pk *parking) overLocked() {
	p := pk.a.pool
	p.sched.unpark(pk.a.h)
	pk.a.parking = nil
	p.crew.engage(-1)
	close(pk.ready)
}

// resumeLocked has a parked attempt go on, which was chosen for a slot.
func (pk *parking) resumeLocked() {
	p := pk.a.pool
	a := pk.a
	pk.overLocked()
	p.ledger.total.resumes++
	p.sched.resume(a.h)
	a.w.holdSlotLocked()
	now := time.Now()
	a.slice.Store(int64(now.Sub(p.epoch)))
	a.w.expectBeatLocked(now)
	a.w.rewatchLocked()
}

// unparkOverLocked lets go of an attempt that is over while parked: another
// goroutine of the task waits, or Block's f was given up on.
func (a *attempt) unparkOverLocked() {
	p := a.pool
	if pk := a.parking; pk != nil {
		p.sched.withdraw(a.h)
		pk.overLocked()
	}
}
