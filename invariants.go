//go:build invariants

package taskpool

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"slices"
)

// With the build tag invariants, every critical section of a pool ends with a check of the
// invariants between its parts, which are written at their types. The tests of all packages
// are run that way: go test -tags invariants. It is slow, and not for programs.

// checkedLocked is called before Pool.mu is unlocked. It ends the program if it finds a
// fault, because a panic might be contained.
func (p *Pool) checkedLocked() {
	things := p.sched.queue.n + p.sched.admission.n + p.sched.delayed.Len() + p.sched.admissionDelayed.Len() +
		len(p.sched.dependents) + p.sched.admissionDependents.Len() + len(p.crew.all)
	switch {
	case !p.checkClock.due(things):
	case p.burst.lane != nil: // what it has taken is not counted yet
		mustHold(p.checkArrivalsLocked(p.checkClock.deep()))
	default:
		mustHold(p.checkInvariantsLocked(p.checkClock.deep()))
	}
}

// A checkClock makes the checks of large pools rarer the longer they take.
type checkClock struct {
	since int
	looks int
	never bool // set by tests that bring a pool into a state by hand
}

// due reports whether it is time to check that number of things: always if they are few.
func (c *checkClock) due(things int) bool {
	const few = 16
	if c.since += few; c.since < things || c.never {
		return false
	}
	c.since = 0
	return true
}

// deep reports whether it is time to check every slot of segments that are empty, or that
// arrivals fill.
func (c *checkClock) deep() bool {
	c.looks++
	return c.looks%64 == 0
}

func mustHold(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "taskpool: an invariant does not hold: %v\n\n%s", err, debug.Stack())
		os.Exit(2)
	}
}

// CheckInvariants returns a fault if there is one, see checkInvariantsLocked. Like
// CheckAtRest it exists only with the tag.
func (p *Pool) CheckInvariants() error {
	p.lock()
	defer p.mu.Unlock()
	return p.checkInvariantsLocked(true)
}

// checkInvariantsLocked walks every heap and every lane of the queue and of admission and
// checks the invariants written at type priorityQueue, then those of the delayed and
// watched heaps, the counts that go with them and the invariant at Pool.mu. It changes
// nothing, not even the ages that a dispatch would bring up to date, so it hides no fault.
// It returns nil if all is well.
func (p *Pool) checkInvariantsLocked(deep bool) error {
	parked, err := p.sched.queue.check(p.cfg.aging == 0, deep)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if n, err := p.sched.admission.check(p.cfg.aging == 0, deep); err != nil {
		return fmt.Errorf("admission: %w", err)
	} else if n != 0 {
		return fmt.Errorf("admission: %d attempts are parked in it", n)
	}
	for pr, e := range p.sched.queue.all() {
		if h := e.h; h != nil {
			switch {
			case h.priority != pr:
				return fmt.Errorf("queue: task %d of priority %d is in lane %d", h.id, h.priority, pr)
			case h.state != StateQueued && h.state != StateParked:
				return fmt.Errorf("queue: task %d is %v", h.id, h.state)
			case h.id == 0 && h.function == nil:
				return errors.New("queue: it holds a task that was not accepted")
			}
		}
	}
	for pr, e := range p.sched.admission.all() {
		h := e.h
		switch {
		case h == nil || h.id != 0 || h.err != nil || h.priority != pr:
			return fmt.Errorf("admission: lane %d holds a task that does not wait for room in it", pr)
		case p.betweenLocked():
		case (h.flow == nil || !h.flow.full) && p.sched.poolRoom(pr):
			return fmt.Errorf("admission: a submitter of priority %d waits while there is room", pr)
		}
	}
	return cmp.Or(p.sched.checkSeconds(), p.sched.checkFlows(), p.sched.checkDelays(), p.checkCountsLocked(parked), p.checkArrivalsLocked(deep))
}

// betweenLocked reports whether a worker is between two critical sections of the
// end of an attempt: what the attempt asked for is free, but not given away yet.
func (p *Pool) betweenLocked() bool {
	for _, w := range p.crew.all {
		if w.busy && w.attempt != nil && w.attempt.over {
			return true
		}
	}
	return false
}

// checkCountsLocked is the part of checkInvariantsLocked beyond the two queues; parked is the
// number of parked attempts in the queue.
func (p *Pool) checkCountsLocked(parked int) error {
	var later, retrying, retriesWaiting int
	for _, h := range p.sched.delayed.items {
		switch {
		case h.state != StateDelayed:
			return fmt.Errorf("delayed: task %d is %v", h.id, h.state)
		case h.attempts > 0:
			retrying++
		default:
			later++
		}
	}
	for i, h := range p.sched.dependents {
		if later++; h.state != StateDelayed || !h.waitsForTasks() || h.place != (place{in: inDependents, i: int32(i)}) {
			return fmt.Errorf("dependents: task %d, at %d, is %v and waits for others: %t", h.id, i, h.state, h.waitsForTasks())
		}
	}
	for _, w := range p.crew.dead {
		if !w.dead || w.abandoned || w.crewI >= len(p.crew.all) || p.crew.all[w.crewI] != w {
			return fmt.Errorf("worker %d is to be replaced, and is not in the crew", w.id)
		}
	}
	for _, w := range slices.Concat(p.crew.abandoned, p.crew.lost) {
		if w.dead {
			return fmt.Errorf("worker %d was given up and is still counted, though its goroutine has ended", w.id)
		}
	}
	retriesWaiting = retrying
	for _, e := range p.sched.queue.all() {
		if e.h != nil && e.h.isLater() {
			later++
		}
		if e.h != nil && e.h.state == StateQueued && e.h.attempts > 0 {
			retriesWaiting++
		}
	}
	for _, h := range p.sched.admissionDelayed.items {
		switch {
		case h.id != 0 || h.err != nil || !h.due.Equal(h.extras().NotBefore):
			return errors.New("admission of delayed: it holds a task that does not wait for room at it")
		case p.sched.laterRoom():
			return errors.New("admission of delayed: a submitter waits while there is room")
		}
	}
	for _, h := range p.sched.admissionDependents.items {
		switch {
		case h.id != 0 || h.err != nil || !h.due.IsZero():
			return errors.New("admission of dependents: it holds a task that does not wait for room at it")
		case p.sched.laterRoom():
			return errors.New("admission of dependents: a submitter waits while there is room")
		}
	}
	if err := cmp.Or(p.sched.delayed.check("delayed"), p.sched.admissionDelayed.check("admission of delayed"),
		p.sched.admissionDependents.check("admission of dependents")); err != nil {
		return err
	}
	for i, w := range p.watch.watched.items {
		if w.watchI != i || w.watch.IsZero() || i > 0 && p.watch.watched.Less(i, (i-1)/2) {
			return fmt.Errorf("watched: the heap is broken at %d", i)
		}
	}
	held, heldLess, busy := 0, 0, [numStates]int{}
	for i, w := range p.crew.all {
		if w.crewI != i {
			return fmt.Errorf("crew: worker %d is at %d and believes %d", w.id, i, w.crewI)
		}
		if w.holds {
			held++
			if w.less {
				heldLess++
			}
			if h := w.job.h; h != nil && h.attempt == w.attempt && !w.attempt.over && w.less != p.sched.lessUrgent(h.urgency()) {
				return fmt.Errorf("worker %d has a slot of the wrong class, for a task that counts as %d", w.id, h.urgency())
			}
		}
		if w.busy {
			s := StateRunning
			if w.job.h != nil {
				s = w.job.h.state
			}
			busy[s]++
		}
	}
	for _, c := range []struct {
		what      string
		got, want int
	}{
		{"queued tasks", p.sched.count[StateQueued], p.sched.queue.n + p.sched.queue.heldBack - parked},
		{"delayed tasks", p.sched.count[StateDelayed], p.sched.delayed.Len() + len(p.sched.dependents)},
		{"tasks that wait for the time of a retry", p.sched.retrying, retrying},
		{"tasks that wait for a retry", p.sched.retriesWaiting, retriesWaiting},
		{"tasks that were delayed and have not started", p.sched.later, later},
		{"running tasks", p.sched.count[StateRunning], busy[StateRunning]},
		{"parked tasks", p.sched.count[StateParked], busy[StateParked]},
		{"slots held", p.sched.held, held},
		{"slots held by less urgent tasks", p.sched.heldLess, heldLess},
		{"attempts that ask for a slot", p.sched.asking + p.sched.askingLess + p.sched.askHeldBack(), parked + p.sched.exitsInFlows() + len(p.sched.exiting[0]) + len(p.sched.exiting[1])},
	} {
		if c.got != c.want {
			return fmt.Errorf("counted %d %s, found %d", c.got, c.what, c.want)
		}
	}
	if sum := p.ledger.total.succeeded + p.ledger.total.failed + p.ledger.total.canceled + p.ledger.total.shed +
		uint64(p.sched.outstanding()); p.ledger.total.submitted != sum {
		return fmt.Errorf("counted %d tasks submitted, found %d", p.ledger.total.submitted, sum)
	}
	t, by := &p.ledger.total, p.sched.queue.totals.sum()
	if by.Succeeded != t.succeeded || by.Failed != t.failed || by.Canceled != t.canceled || by.Shed != t.shed {
		return fmt.Errorf("counted %+v, by priority %+v", t, by)
	}
	if p.sched.paused {
		return nil
	}
	if pr, ok := p.sched.queue.leastPriority(); ok && p.waiting.Load() > int64(pr) && p.sched.contended(math.MaxInt) {
		return fmt.Errorf("Yield is told %d, while a task of priority %d waits", p.waiting.Load(), pr)
	}
	return p.checkDispatchLocked()
}

// askHeldBack returns how many tasks that are held back ask for a slot.
func (s *scheduler) askHeldBack() (n int) {
	for _, fl := range s.queue.heldFlows {
		n += int(fl.flow.asking[0] + fl.flow.asking[1])
	}
	return n
}

// checkDispatchLocked checks that no free slot is withheld: a parked attempt gets one at
// once, and any other task through a worker that is on its way.
func (p *Pool) checkDispatchLocked() error {
	free := p.sched.slots - p.sched.held
	if free <= 0 || p.sched.paused {
		return nil
	}
	restricted := p.sched.restricted()
	if p.sched.firstExiting(restricted) != nil {
		return errors.New("a task on its way out waits while a slot is free")
	}
	queued, asking := [2]int{}, 0
	for _, l := range p.sched.queue.filled() {
		if l.kind.second() || p.sched.queue.set(l).out {
			continue
		}
		class := p.sched.queue.class(l)
		queued[class] += l.n - l.parked
		if class == 0 || !restricted {
			asking += l.parked
		}
	}
	promoted := p.sched.promoted
	if queued[0], queued[1] = queued[0]+promoted[0], queued[1]-promoted[0]; restricted {
		asking += promoted[1]
	}
	want := min(free, queued[0]+min(queued[1], max(p.sched.slots-p.sched.reserved-p.sched.heldLess, 0)))
	switch {
	case want != p.sched.wanted():
		return fmt.Errorf("%d workers are wanted, and %d by the pool", want, p.sched.wanted())
	case want == 0 && asking > 0:
		return errors.New("a parked attempt waits while a slot is free")
	case want > 0 && p.crew.coming == 0:
		return errors.New("a task waits while a slot is free, and no worker is on its way")
	case p.crew.coming < want && !p.inbox.direct:
		return fmt.Errorf("%d workers are on their way, for %d tasks", p.crew.coming, want)
	}
	return nil
}

// CheckAtRest is CheckArrivals for when nothing moves any more: no worker is on its way,
// so no task waits that could run.
func (p *Pool) CheckAtRest() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.crew.coming != 0 {
		return fmt.Errorf("%d workers are said to be on their way", p.crew.coming)
	}
	if p.burst.lane == nil {
		if err := p.checkDispatchLocked(); err != nil {
			return err
		}
	}
	return p.checkArrivalsLocked(true)
}

// Together calls f, which calls Go, so that no worker looks before f has returned. It
// returns false, and does not call f, if Go would have to wait for the lock held here.
func (p *Pool) Together(f func()) bool {
	p.lock()
	defer p.unlock()
	if !p.inbox.direct || p.crew.detour || p.end.closed {
		return false
	}
	f()
	return true
}

// check checks the invariants of d.
func (d *dueHeap) check(name string) error {
	for i, h := range d.items {
		switch {
		case int(h.place.i) != i || h.place.in != d.in:
			return fmt.Errorf("%s: task %d is at %d and believes %d", name, h.id, i, h.place.i)
		case i > 0 && d.Less(i, (i-1)/2):
			return fmt.Errorf("%s: the heap is out of order at %d", name, i)
		}
	}
	return nil
}

// Watches returns how many registrations for the end of contexts the pool has, and checks what
// holds between them and the tasks.
func (p *Pool) Watches() int {
	p.lock()
	defer p.unlock()
	ws := &p.watches
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.byDone) == 0 && ws.alone > 0 && p.sched.outstanding() == 0 {
		return -1
	}
	for done, w := range ws.byDone {
		if len(w.handles) == 0 || w.done != done {
			return -1
		}
		for i, h := range w.handles {
			if h.watch != w || int(h.watchI) != i || h.state.Final() {
				return -1
			}
		}
		for _, h := range w.handles[len(w.handles):cap(w.handles)] {
			if h != nil {
				return -1 // it is kept
			}
		}
	}
	return len(ws.byDone) + ws.alone
}

// CheckArrivals checks what the fast path keeps beside the queue. It takes nothing in and
// ends no burst, so it sees states that CheckInvariants never does.
func (p *Pool) CheckArrivals() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.checkArrivalsLocked(true)
}

func (p *Pool) checkArrivalsLocked(deep bool) error {
	in := &p.inbox
	in.mu.Lock()
	defer in.mu.Unlock()
	return cmp.Or(in.check(p.sched.aging, deep), p.checkSpareLocked(deep), p.checkIdleLocked(), p.checkBurstLocked())
}

// check checks what has arrived, with in.mu held.
func (in *inbox) check(aging, deep bool) error {
	handles, order, i := int32(0), int64(math.MinInt64), 0
	least, most := int64(none), int64(math.MinInt64)
	for k, s := range in.spans {
		if s.end <= i || k > 0 && s.priority == in.spans[k-1].priority {
			return fmt.Errorf("arrivals: span %d of %v is empty, or no span of its own", k, in.spans)
		}
		least, most = min(least, int64(s.priority)), max(most, int64(s.priority))
		i = s.end
	}
	if i != in.n {
		return fmt.Errorf("arrivals: the spans end at %d of %d", i, in.n)
	}
	for i := range in.n {
		if h := in.batch.slots[i].h; h != nil && h.task.Flow != "" {
			most = flowArrived
		}
	}
	if l, m := in.least.Load(), in.most.Load(); l != least || m != most {
		return fmt.Errorf("arrivals: priorities from %d to %d, said to be from %d to %d", least, most, l, m)
	}
	if in.batch == nil || !deep {
		return nil
	}
	for i, e := range in.batch.slots {
		switch {
		case i >= in.n && (e.live() || e.order != 0) || i < in.n && (!e.live() || e.f != nil && e.h != nil):
			return fmt.Errorf("arrivals: slot %d of %d arrivals is in use: %t", i, in.n, e.live())
		case i >= in.n:
		case !aging && e.order != int64(i) || aging && (e.order < order || e.order > in.latest):
			return fmt.Errorf("arrivals: slot %d has order %d, behind %d", i, e.order, order)
		case e.h != nil:
			handles++
		}
		order = e.order
	}
	if s := in.batch; s.handles != handles || s.size != batchSize || s.base != 0 || s.live != 0 || s.next != nil || s.prev != nil {
		return fmt.Errorf("arrivals: the batch counts %d handles, found %d, or is not clear", s.handles, handles)
	}
	return nil
}

func (p *Pool) checkSpareLocked(deep bool) error {
	if s := p.inbox.spare; s != nil && (s == p.inbox.batch || s.size != batchSize || s.next != nil || deep && !s.cleared()) {
		return errors.New("the spare segment is not clear")
	}
	return nil
}

// checkIdleLocked checks the workers without a task, and which of them the next arrival
// wakes.
func (p *Pool) checkIdleLocked() error {
	in := &p.inbox
	free := p.inbox.direct && !p.end.closed && !p.sched.paused && p.sched.held < p.sched.slots
	asleep := make(map[*worker]bool)
	for _, w := range p.crew.idle {
		asleep[w] = true
	}
	if p.crew.leader != nil {
		asleep[p.crew.leader] = true
	}
	others := 0 // may be on their way
	for _, w := range p.crew.all {
		if !asleep[w] && !w.busy && !w.holds {
			others++
		}
	}
	switch {
	case in.batch == nil && p.inbox.direct && !in.detour && !in.closed:
		return errors.New("arrivals: there is no batch")
	case p.crew.detour != in.detour:
		return fmt.Errorf("detour is %t, but %t for arrivals", p.crew.detour, in.detour)
	case in.leader != nil && (p.crew.leader == nil || in.leader != p.crew.leader.wake):
		return errors.New("the leader is another than the pool says")
	case in.leader == nil && p.crew.leader != nil && in.n == 0:
		return errors.New("the leader is up, and nobody knows")
	case in.leader != nil && in.n > 0:
		return errors.New("tasks have arrived, and the leader was not woken")
	case p.crew.unhired < 0 || p.crew.unhired > p.sched.slots:
		return fmt.Errorf("%d workers were not hired yet, for %d slots", p.crew.unhired, p.sched.slots)
	case p.crew.extra > max(p.crew.size()-p.sched.slots, 0):
		return fmt.Errorf("%d of %d workers are said to be beyond %d slots", p.crew.extra, p.crew.size(), p.sched.slots)
	case p.crew.coming < 0 || p.crew.coming > others:
		return fmt.Errorf("%d workers are on their way, of %d", p.crew.coming, others)
	case p.crew.coming > 0: // they will see to the rest
	case p.crew.leader != nil && !free || p.crew.leader == nil && free && (len(p.crew.idle) > 0 || p.crew.unhired > 0 && p.crew.hired() > 0):
		return fmt.Errorf("there is a leader: %t, with %d slots held of %d and %d workers idle", p.crew.leader != nil, p.sched.held, p.sched.slots, len(p.crew.idle))
	case p.crew.detour != (free && p.crew.leader == nil):
		return fmt.Errorf("arrivals have a worker hired: %t, with %d slots held of %d and %d workers idle", p.crew.detour, p.sched.held, p.sched.slots, len(p.crew.idle))
	}
	for w := range asleep {
		if woken := w == p.crew.leader && in.leader == nil; w.busy || w.holds || w.dismissed || len(w.wake) > 0 && !woken {
			return fmt.Errorf("worker %d is idle and busy: %t, woken: %t", w.id, w.busy, len(w.wake) > 0)
		}
	}
	for _, w := range p.crew.idle[len(p.crew.idle):cap(p.crew.idle)] {
		if w != nil {
			return errors.New("a worker that is not idle is kept")
		}
	}
	return nil
}

func (p *Pool) checkBurstLocked() error {
	r := &p.burst
	if r.lane == nil {
		if r.slots != nil || r.taken != 0 {
			return errors.New("a burst that has ended is not clear")
		}
		return nil
	}
	l := r.lane
	s := l.head
	first := int(s.head) + r.taken
	switch {
	case !p.plainLocked():
		return errors.New("a burst goes on where it should not")
	case r.priority != int64(l.priority) || r.taken+len(r.slots) > min(int(s.tail-s.head), l.n-1):
		return fmt.Errorf("a burst of %d, %d of them taken, in a lane of %d", r.taken+len(r.slots), r.taken, l.n)
	case len(r.slots) > 0 && &r.slots[0] != &s.slots[first]:
		return errors.New("a burst is not where its lane is")
	}
	for i := int(s.head); i < first; i++ {
		if e := s.slots[i]; e.live() || e.order != 0 {
			return fmt.Errorf("slot %d of a burst was taken and is not clear", i)
		}
	}
	return nil
}
