package taskpool

import (
	"context"
	"runtime/trace"
	"time"

	"github.com/taskpool-go/taskpool/internal/remote"
)

// Parking is how a task in the middle of its work gives its slot back. The
// attempt's goroutine waits, its slot runs something else, and the attempt goes
// on when it gets a slot again. Yield, Block, waiting for a task and submitting
// to a full queue all do it. There are three steps:
//
//   - parkLocked takes the attempt's slot. From here its task is Parked.
//   - backLocked has the attempt ask for a slot, at once or when what it waits for
//     has happened: it joins the queue. The critical section that settles the
//     awaited task or lets the submitter in also calls backLocked, so that the
//     slot that becomes free cannot go to a less urgent task.
//   - resumeLocked gives it a slot, when restoreLocked finds that it is next.
//
// An attempt gets a new suspension each time it is parked. A call of backLocked that
// is too late, after the attempt went on or ended, finds that this suspension is no
// longer the attempt's and does nothing.
type suspension struct {
	a *attempt
	// ready is closed when the attempt has a slot again, or has ended.
	ready chan struct{}
	// region belongs to the goroutine that waits; nil unless traced.
	region *trace.Region

	// The fields below are protected by pool.mu.

	waits awaited // what the attempt waits for; zero in Yield and Block
	waitI int     // index in waiters.parked of that, while it is there
	seen  bool    // lookForStallLocked has seen it
	lasts bool    // lookForStallLocked had already seen it a grace before
	told  bool    // it is, or was, in stallWatch.circle
	// working is set while the attempt works without a slot, in Block: then
	// the hang grace counts.
	working bool
	// blocking is set if it is also counted in crew.blocking: not if f waits for tasks.
	blocking bool
}

// waiters are all who wait for one thing: attempts of the pool that it belongs to, which
// are parked meanwhile, and others. Protected by that pool's mu.
type waiters struct {
	parked *parkedList   // nil if there are none
	others chan struct{} // closed when it has happened; nil unless somebody needs it
}

// A parkedList is attempts that wait for one thing, in the order in which they came. Very many
// may, and leave in any order, so that one that leaves is not searched for.
type parkedList struct {
	all   []*suspension // nil for each that has gone
	gone  int           // how many are nil: no more than half
	space [1]*suspension
}

// channelLocked returns a channel that is closed when what is waited for has happened.
func (ws *waiters) channelLocked() chan struct{} {
	if ws.others == nil {
		ws.others = make(chan struct{})
	}
	return ws.others
}

// addLocked has pk wait.
func (ws *waiters) addLocked(pk *suspension) {
	if ws.parked == nil {
		ws.parked = &parkedList{}
		ws.parked.all = ws.parked.space[:0]
	}
	pk.waitI = len(ws.parked.all)
	ws.parked.all = append(ws.parked.all, pk)
}

// removeLocked has pk, which may have been woken, wait no longer.
func (ws *waiters) removeLocked(pk *suspension) {
	l := ws.parked
	if l == nil || pk.waitI >= len(l.all) || l.all[pk.waitI] != pk {
		return
	}
	l.all[pk.waitI] = nil
	switch l.gone++; {
	case l.gone == len(l.all):
		ws.parked = nil
	case 2*l.gone > len(l.all):
		kept := make([]*suspension, 0, len(l.all)-l.gone)
		for _, o := range l.all {
			if o != nil {
				o.waitI = len(kept)
				kept = append(kept, o)
			}
		}
		l.all, l.gone = kept, 0
	}
}

// wakeLocked wakes all who wait, and forgets them.
func (ws *waiters) wakeLocked() {
	if ws.parked != nil {
		for _, pk := range ws.parked.all {
			if pk != nil {
				pk.backLocked()
			}
		}
	}
	if ws.others != nil {
		close(ws.others)
	}
	*ws = waiters{}
}

// The bits of attempt.signal.
const (
	signalBegun   uint32 = 1 << iota // Run is about to be called, or was; see attempt.begin
	signalEnded                      // the context has ended, or the attempt is over
	signalBeat                       // the supervisor waits for a sign of life
	signalStall                      // the supervisor looks whether anything moves
	signalUrgency                    // the urgency is in attempt.rare, as it has changed
)

// back has the attempt ask for a slot and waits until it has one.
func (pk *suspension) back() {
	p := pk.a.pool
	p.lock()
	pk.backLocked()
	p.restoreLocked()
	p.unlock()
	<-pk.ready
	pk.endRegion()
}

// resume waits for the slot that the attempt has asked for.
func (pk *suspension) resume(ctx context.Context) {
	defer func() { // also if a method of ctx panics, as the task may recover and go on
		<-pk.ready
		pk.endRegion()
	}()
	pk.beginRegion(ctx)
}

// parkLocked takes the slot of a. It returns nil if a has none to give: it is
// over, or another of its goroutines has parked it.
func (a *attempt) parkLocked() *suspension {
	p := a.pool
	if !a.canParkLocked() {
		return nil
	}
	pk := &suspension{a: a, ready: make(chan struct{})}
	a.suspension = pk
	p.crew.engage(+1)
	p.ledger.total.parks++
	p.sched.park(a.h)
	a.w.freeSlotLocked()
	a.w.rewatchLocked()
	return pk
}

// currentLocked reports whether the attempt is still parked as pk.
func (pk *suspension) currentLocked() bool { return pk.a.suspension == pk }

// backLocked has a parked attempt ask for a slot. It goes before tasks of its
// priority that have not started. If its context has ended, it goes before
// everything, as it is exiting.
func (pk *suspension) backLocked() {
	p := pk.a.pool
	if !pk.currentLocked() || pk.askedLocked() {
		return
	}
	pk.working = false
	pk.blockingLocked(false)
	if h := pk.a.h; pk.a.signal.Load()&signalEnded != 0 {
		p.sched.askFirst(h)
	} else {
		p.sched.ask(h, p.now())
	}
	pk.a.w.rewatchLocked()
	p.watchFullLocked()
}

// waitsLocked records what an attempt waits for. It gives the place of its flow back: what it
// waits for may need one, in this pool or through others.
func (pk *suspension) waitsLocked(what awaited) {
	p := pk.a.pool
	if pk.waits = what; what != (awaited{}) {
		p.sched.givePlace(pk.a.h)
	}
	p.stall.watchLocked(p.cfg.hangGrace, &p.supervisor)
}

// askedLocked reports whether the attempt, which is parked as pk, asks for a slot.
func (pk *suspension) askedLocked() bool { return pk.a.h.asks }

// blockingLocked sets blocking.
func (pk *suspension) blockingLocked(blocking bool) {
	if crew := &pk.a.pool.crew; blocking && !pk.blocking {
		crew.blocking++
	} else if !blocking && pk.blocking {
		crew.blocking--
	}
	pk.blocking = blocking
}

// overLocked ends a suspension.
func (pk *suspension) overLocked() {
	p := pk.a.pool
	p.sched.unpark(pk.a.h)
	pk.blockingLocked(false)
	pk.a.suspension = nil
	p.crew.engage(-1)
	close(pk.ready)
}

// resumeLocked has a parked attempt that was chosen for a slot go on.
func (pk *suspension) resumeLocked() {
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

// unparkOverLocked ends the suspension of an attempt that is over, if it has one:
// another goroutine of the task waits, or the attempt was given up as hung in Block.
func (a *attempt) unparkOverLocked() {
	p := a.pool
	if pk := a.suspension; pk != nil {
		p.sched.withdraw(a.h)
		pk.overLocked()
	}
}

// Yield is a safe point: it lets more urgent work run first. If a strictly more
// urgent task waits, or the task's quantum (see [WithQuantum]) is over and an
// equally urgent one waits, the task gives its slot back and goes on when its
// turn comes. Interrupted for more urgent work, it resumes before tasks of its
// own priority that have not started; at the end of its quantum it joins them at
// the back. A task that started in a fair-share turn runs only to its next safe
// point while more urgent work waits.
//
// Yield returns nil, or the cause if ctx has ended; then the task should return. It
// is a sign of life for a task with a Heartbeat. Outside a task it only returns ctx's
// cause, and in a function that package process has called it is also a sign of life
// of the task that made the call. With nothing to yield to it costs a few
// nanoseconds on the task's own context, and a lookup more on one that derives from
// it, so it can be called every few microseconds. Hold no lock across Yield: the task
// that gets the slot may need it.
func Yield(ctx context.Context) error {
	a, own := ctx.(*attempt)
	if own && a.signal.Load() == signalBegun && a.pool.inbox.least.Load() > a.priority && a.pool.waiting.Load() > a.priority {
		return nil
	}
	return yield(ctx)
}

// yield is Yield without the fast path.
func yield(ctx context.Context) error {
	if ctx == nil {
		return nilArgument("Yield", "ctx")
	}
	a := attemptFrom(ctx)
	if a == nil {
		remote.Beat(ctx)
		return context.Cause(ctx)
	}
	if ctx != context.Context(a) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	Beat(a)
	p := a.pool
	most := min(p.inbox.least.Load(), p.waiting.Load()) // in this order, see takeInLocked
	urgency := a.urgency()
	if most > urgency || most == none || most == urgency && !a.sliceOver() {
		return a.cause()
	}
	if a.signal.Load()&signalEnded != 0 {
		return a.cause()
	}
	p.lock()
	var pk *suspension
	urgency = a.urgency()
	switch most := p.waiting.Load(); {
	case most < urgency && p.sched.contended(Priority(urgency-1)):
		if pk = a.parkLocked(); pk != nil {
			pk.backLocked()
		}
	case most == urgency && p.sched.count[StateParked] < p.cfg.maxParked && a.sliceOver() && p.sched.contended(Priority(most)):
		if pk = a.parkLocked(); pk != nil {
			p.sched.askLast(a.h, p.now())
		}
	}
	if pk != nil {
		p.restoreLocked()
	}
	p.unlock()
	if pk != nil {
		pk.resume(ctx)
	}
	return a.cause()
}

// sliceOver reports whether the attempt's quantum is over.
func (a *attempt) sliceOver() bool {
	began := time.Duration(a.slice.Load())
	if began == 0 {
		began = a.started.Sub(a.pool.epoch)
	}
	return time.Since(a.pool.epoch)-began >= a.pool.cfg.quantum
}

// cause returns why the attempt's context has ended, nil if it has not.
func (a *attempt) cause() error {
	if a.signal.Load()&signalEnded == 0 {
		return nil
	}
	return a.end.Load().cause
}

// Block calls f and gives the task's slot back while f runs, so that a few workers
// can keep the CPU busy while many tasks wait for I/O. f runs on the same goroutine.
// Block returns what f returns, once the task has a slot again, for which it goes
// before tasks of its priority that have not started. A panic in f is the task's
// panic. f should return when ctx ends: if it outlives ctx by the hang grace, the
// task is given up as hung.
//
// Outside a task, and if as many tasks are parked as [WithMaxParked] allows, Block
// just calls f. Hold no lock across Block that other tasks need.
func Block(ctx context.Context, f func() error) error {
	switch {
	case ctx == nil:
		return nilArgument("Block", "ctx")
	case f == nil:
		return nilArgument("Block", "f")
	}
	return block(ctx, f, false)
}

// block is Block. If f waits for what other tasks bring about, which may need the place of
// the task's flow, that is given back too, and it may always be parked.
func block(ctx context.Context, f func() error, waits bool) error {
	a := attemptFrom(ctx)
	if a == nil {
		return f()
	}
	p := a.pool
	var pk *suspension
	p.lock()
	if waits || p.sched.count[StateParked] < p.cfg.maxParked {
		if pk = a.parkLocked(); pk != nil {
			if waits {
				p.sched.givePlace(a.h)
			}
			pk.working = true
			pk.blockingLocked(!waits)
			a.w.rewatchLocked()
			p.restoreLocked()
		}
	} else {
		a.exemptLocked(true)
		defer func() {
			p.lock()
			defer p.unlock()
			a.exemptLocked(false)
		}()
	}
	p.unlock()
	if pk != nil {
		defer pk.back() // also if f panics, as the task may recover and go on
		pk.beginRegion(ctx)
	}
	return f()
}

// exemptLocked sets whether a, which has its slot, is exempt from giving signs of life.
func (a *attempt) exemptLocked(excused bool) {
	if a.over {
		return
	}
	a.exempt = excused
	a.w.expectBeatLocked(time.Now())
	a.w.rewatchLocked()
}

// Beat is a sign of life of a task with a Heartbeat, for work that cannot call
// [Yield]. It never gives the slot back and costs as little as Yield. In a function
// that package process has called it counts for the task that made the call; anywhere
// else outside a task it does nothing.
func Beat(ctx context.Context) {
	a, own := ctx.(*attempt)
	if own && a.signal.Load() == signalBegun {
		return
	}
	if ctx == nil {
		panic(nilArgument("Beat", "ctx").Error())
	}
	if a = attemptFrom(ctx); a == nil {
		remote.Beat(ctx)
	} else if a.signal.Load()&(signalBeat|signalStall) != 0 {
		a.signal.And(^(signalBeat | signalStall))
	}
}

// BeatDue implements [remote.Waiter], for a task whose work is done elsewhere: it returns
// a channel that is closed when a sign of life is due from there.
func (a *attempt) BeatDue() <-chan struct{} {
	p := a.pool
	if a.h.extras().Heartbeat == 0 {
		return nil
	}
	p.lock()
	defer p.unlock()
	if a.rare == nil {
		a.rare = &rareAttempt{}
	}
	due := a.rare.beatDue
	if due == nil {
		due = make(chan struct{})
		if a.signal.Load()&signalBeat != 0 {
			close(due)
		} else {
			a.rare.beatDue = due
		}
	}
	return due
}

// Urgency implements [remote.Waiter], for a task that waits in the queue of something else
// than a pool.
func (a *attempt) Urgency() (pr int, changed <-chan struct{}) {
	a.pool.lock()
	defer a.pool.unlock()
	if a.rare == nil {
		a.rare = &rareAttempt{}
	}
	if a.rare.changed == nil {
		a.rare.changed = make(chan struct{})
	}
	return int(a.urgency()), a.rare.changed
}
