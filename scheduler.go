package taskpool

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"time"
)

// A scheduler decides who is next. It has no goroutine, lock or clock, and calls no user
// code: times are passed in, and it can be driven alone. Protected by Pool.mu.
type scheduler struct {
	aging bool // WithAging is given

	queue       priorityQueue
	exiting     []*parking    // parked attempts whose context has ended and that ask for a slot; they go first. See exitingLess
	exitingLess []*parking    // as exiting, but those less urgent than WithReserved's
	exits       int64         // number of the last that came to one of the two
	door        priorityQueue // submitters that wait for room, in their task's place
	seq         int64         // last order handed out
	paused      bool

	// Tasks that wait for their time. Those that have never started take no room
	// from what could run at once: they are bounded by themselves, and so their
	// submitters wait at a door of their own, where the first due is the first to
	// be let in. One that becomes due there goes on to the other door.
	delayed     dueHeap
	retrying    int     // how many in delayed wait for a retry
	later       int     // tasks that were delayed when they were accepted and have not started: in delayed or, as they are due, in queue
	doorDelayed dueHeap // submitters that wait for room among these, until their task is due

	// Slots. A slot is held from the moment a worker takes a task until it has
	// settled and reported it, but for the time in which the task is parked;
	// also while a dead worker waits to be replaced.
	slots      int // how many there are
	held       int // how many are held; more than slots after Resize, for a while
	heldLess   int // how many of these by tasks less urgent than those of WithReserved
	asking     int // parked attempts that ask for one,
	askingLess int // and the less urgent ones

	count [numStates]int // tasks by state; Parked and before, as the final ones are totals
}

// restoreLocked restores the invariant at Pool.mu: it lets submitters in while
// there is room, has parked attempts go on whose turn it is, and wakes workers for
// the tasks that there are slots for. It also tells those who wait for the pool to
// be idle or drained.
func (p *Pool) restoreLocked() { p.restoreWithLocked(nil) }

// restoreWithLocked is restoreLocked by w, if not nil, a worker that looks for a
// task and has no slot. It gets the one whose turn it is, or else it is idle.
func (p *Pool) restoreWithLocked(w *worker) {
	p.dispatchLocked(w)
	if w != nil && !w.busy {
		p.crew.idle = append(p.crew.idle, w)
	}
	for {
		for want := p.wantedLocked(); p.crew.coming < want; {
			p.summonLocked()
		}
		if p.expectLocked() {
			break
		}
		p.takeInLocked()
		p.dispatchLocked(nil)
	}
	p.tellYieldLocked()
	if p.outstandingLocked() == 0 && p.inbox.least.Load() == none {
		p.drainedLocked()
	}
}

// tellYieldLocked tells Yield what waits in the queue, unless there are slots for
// all of it.
func (p *Pool) tellYieldLocked() {
	least := int64(none)
	if pr, ok := p.sched.queue.leastPriority(); ok && !p.sched.paused && p.contendedLocked(math.MaxInt) {
		least = int64(pr)
	}
	if p.waiting.Load() != least {
		p.waiting.Store(least)
	}
}

// dispatchLocked gives free slots to those whose turn it is, and lets submitters in
// for whom that makes room. A task that has yet to start goes to w, which may be
// nil: the next waits for a worker that looks.
func (p *Pool) dispatchLocked(w *worker) {
	p.admitLocked()
	for p.sched.held < p.sched.slots && p.nextLocked(w) {
		p.admitLocked()
	}
}

// nextLocked gives a free slot to the task whose turn it is. It returns false if
// there is none, or if it needs a worker and w is none, or has a task.
func (p *Pool) nextLocked(w *worker) bool {
	restricted := p.restrictedLocked()
	if from := p.nextLeavingLocked(restricted); from != nil {
		pk := (*from)[0]
		(*from)[0] = nil
		if *from = (*from)[1:]; len(*from) == 0 {
			*from = nil
		}
		p.unparkLocked(pk)
		return true
	}
	if p.sched.paused || p.sched.queue.n == 0 {
		return false
	}
	l, choice := p.sched.queue.next(restricted)
	switch {
	case l == nil:
		return false
	case l.front().parked():
		p.unparkLocked(p.sched.queue.takeTurn(l, choice, restricted).h.attempt.parking)
	case w == nil || w.busy:
		return false
	default:
		w.choice, w.restricted = choice, restricted
		p.assignLocked(w, p.sched.queue.takeTurn(l, choice, restricted), l.priority)
		p.holdSlotLocked(w)
	}
	return true
}

// nextLeavingLocked returns the list whose first is the first parked attempt on its way
// out that may have a free slot, nil if there is none.
func (p *Pool) nextLeavingLocked(restricted bool) *[]*parking {
	switch all, less := p.sched.exiting, p.sched.exitingLess; {
	case len(less) > 0 && !restricted && (len(all) == 0 || less[0].left < all[0].left):
		return &p.sched.exitingLess
	case len(all) > 0:
		return &p.sched.exiting
	}
	return nil
}

// admitLocked lets submitters in while there is room.
func (p *Pool) admitLocked() {
	// Those that are not due first: they take no room from others, but the tasks
	// that submit them ask for their slots.
	for h := p.sched.doorDelayed.first(); h != nil && (h.canceled != nil || p.laterRoomLocked()); h = p.sched.doorDelayed.first() {
		p.sched.doorDelayed.remove(h)
		if h.canceled == nil { // else its Submit is about to find out
			p.letInLocked(h, true)
		}
	}
	for h := p.nextAtDoorLocked(); h != nil; h = p.nextAtDoorLocked() {
		p.letInLocked(h, false)
	}
}

// letInLocked accepts h, which has left the door.
func (p *Pool) letInLocked(h *Handle, later bool) {
	p.acceptLocked(h, later)
	p.wakeLocked(&h.waiters)
}

// nextAtDoorLocked takes the next submitter for whom there is room from the
// door, nil if there is none. Where the one whose turn it is finds none, a
// reserved slot may be free for another.
func (p *Pool) nextAtDoorLocked() *Handle {
	for restricted := false; p.sched.door.n > 0; {
		l, _ := p.sched.door.next(restricted)
		if l == nil {
			return nil
		}
		h := l.front().h
		switch {
		case h.canceled != nil: // its Submit is about to find out
			p.sched.door.remove(h)
		case p.roomLocked(l.priority):
			p.sched.door.pop(restricted)
			return h
		case restricted || p.cfg.reserved == 0:
			return nil
		default:
			restricted = true
		}
	}
	return nil
}

// roomLocked reports whether one more task of priority pr, which may start at
// once, may be accepted.
func (p *Pool) roomLocked(pr Priority) bool {
	if p.cfg.capacity == unbounded {
		return true
	}
	free, promised := p.freeLocked(pr)
	return p.sched.count[Queued]-promised+p.sched.retrying-free < p.cfg.capacity
}

// laterRoomLocked is roomLocked for a task that has to wait for its time: there
// may be as many as may be accepted when nothing runs. One counts until it starts,
// as a queue that is full does not keep it out when it is due.
func (p *Pool) laterRoomLocked() bool {
	return p.cfg.capacity == unbounded || p.sched.later-p.sched.slots < p.cfg.capacity
}

// makeRoomLocked returns nil if there is room for one more task, if need be
// after shedding one. later says that the task has to wait for its time: nothing
// is shed for one that could not run. due is set if the task that was shed counted
// in Pool.later: then the new one is to count there in its place, or a queue that is
// longer than its capacity, as tasks have become due, would grow with each that is shed.
func (p *Pool) makeRoomLocked(pr Priority, later bool, reports *[]report) (due time.Time, err error) {
	switch {
	case later && p.laterRoomLocked(), !later && p.roomLocked(pr):
		return time.Time{}, nil
	case later, p.cfg.overflow != OverflowShed:
		return time.Time{}, ErrFull
	}
	e, victim, ok := p.sched.queue.takeShed(pr)
	if !ok {
		return time.Time{}, ErrFull
	}
	if e.h != nil && e.h.laterLocked() {
		due = e.h.due
	}
	p.settleWaitingLocked(e, victim, Shed, ErrShed, reports)
	return due, nil
}

// inheritLocked has h count in Pool.later in the place of a task that was shed for it,
// if due is set.
func (p *Pool) inheritLocked(h *Handle, due time.Time) {
	if h.due = due; !due.IsZero() {
		p.sched.later++
	}
}

// acceptLocked makes h one of the pool's tasks. later says that it has to wait for
// its time.
func (p *Pool) acceptLocked(h *Handle, later bool) {
	p.ledger.total.submitted++
	h.id = p.ledger.total.submitted
	if later {
		p.delayLocked(h, h.task.NotBefore)
	} else {
		h.due = time.Time{} // it may have become due while it waited for room
		p.enqueueLocked(entry{h: h}, h.task.Priority)
	}
}

// enqueueLocked puts a task at the back of its lane.
func (p *Pool) enqueueLocked(e entry, pr Priority) {
	e.order = p.orderLocked()
	if h := e.h; h != nil {
		h.state = Queued
		if p.hooks.timed && !h.function {
			h.queuedAt = time.Since(p.epoch)
		}
	}
	l := p.sched.queue.lane(laneKey{pr, false})
	p.sched.queue.pushLane(l, e)
	p.sched.count[Queued]++
	p.watchFullLocked()
	if p.hooks.timed && (l.n == 1 || e.order%maxTimed == 0) && !p.sched.aging {
		p.addMarkLocked(e.order, p.cameAt(e)) // as markArrivalsLocked does
	}
}

// orderLocked returns the order of a task that arrives now.
func (p *Pool) orderLocked() int64 {
	if p.sched.aging {
		p.sched.seq = max(p.sched.seq, int64(time.Since(p.epoch)))
	} else {
		p.sched.seq++
	}
	return p.sched.seq
}

// freeLocked returns the number of slots that are free for a newcomer of
// priority pr, and how many queued tasks take no room, as others are free for
// them and workers on their way. Those that parked attempts ask for are not free.
// While submitters wait at the door, free slots are promised to no task: an attempt
// that waits there may be the first to have one.
func (p *Pool) freeLocked(pr Priority) (free, promised int) {
	free = p.sched.slots - p.sched.held
	forLess := min(free, p.sched.slots-p.cfg.reserved-p.sched.heldLess)
	less := p.sched.queue.classes[1].queued // 0 without a reservation
	queued := p.sched.count[Queued] - less
	if p.sched.paused || p.sched.door.n > 0 || p.sched.doorDelayed.Len() > 0 {
		queued, less = 0, 0
	} else if free > 0 && p.sched.asking+p.sched.askingLess > 0 {
		// Whose turn it is has a slot before those that ask for one.
		restricted := p.restrictedLocked()
		switch l, _ := p.sched.queue.next(restricted); {
		case p.nextLeavingLocked(restricted) != nil || l == nil || l.front().parked():
		case p.lessUrgent(l.priority):
			promised, free, forLess, less = 1, free-1, forLess-1, less-1
		default:
			promised, free, queued = 1, free-1, queued-1
		}
	}
	askLess := max(min(p.sched.askingLess, forLess), 0)
	free -= p.sched.asking + askLess
	less = max(min(less, forLess-askLess), 0)
	n := max(min(queued+less, free), 0)
	free -= n
	if p.lessUrgent(pr) {
		free = min(free, forLess-askLess-less)
	}
	return max(free, 0), promised + n
}

// wantedLocked returns how many queued tasks there are slots for.
func (p *Pool) wantedLocked() int {
	if p.sched.paused {
		return 0
	}
	less := p.sched.queue.classes[1].queued // 0 without a reservation
	forLess := max(p.sched.slots-p.cfg.reserved-p.sched.heldLess, 0)
	return min(p.sched.slots-p.sched.held, p.sched.count[Queued]-less+min(less, forLess))
}

// contendedLocked reports whether more waits in the queue, up to priority pr, than
// there are free slots for.
func (p *Pool) contendedLocked(pr Priority) bool {
	free := p.sched.slots - p.sched.held
	if free <= 0 {
		return p.sched.queue.n > 0
	}
	if p.cfg.reserved == 0 && p.sched.queue.n <= free {
		return false
	}
	n, forLess := 0, min(free, max(p.sched.slots-p.cfg.reserved-p.sched.heldLess, 0))
	for i := range p.sched.queue.classes {
		for _, l := range p.sched.queue.classes[i].lead.lanes {
			if l.priority <= pr {
				n += l.n
			}
		}
		if i == 0 {
			forLess = min(forLess, free-n)
			n = 0
		}
	}
	return n > forLess
}

// lessUrgent reports whether reserved workers are none of pr's business.
func (p *Pool) lessUrgent(pr Priority) bool { return p.cfg.reserved > 0 && pr > p.cfg.reservedFor }

// restrictedLocked reports whether a free slot is for reserved priorities only.
func (p *Pool) restrictedLocked() bool {
	return p.cfg.reserved > 0 && p.sched.heldLess >= p.sched.slots-p.cfg.reserved
}

// holdSlotLocked gives w a slot for its task.
func (p *Pool) holdSlotLocked(w *worker) {
	w.holds = true
	if p.sched.held++; p.sched.held == p.sched.slots {
		p.watchFullLocked()
	}
	p.engageLocked(+1)
	if p.lessUrgent(w.priority) {
		p.sched.heldLess++
	}
}

// freeSlotLocked takes w's slot, if it has one.
func (p *Pool) freeSlotLocked(w *worker) {
	if !w.holds {
		return
	}
	w.holds = false
	p.sched.held--
	p.engageLocked(-1)
	if p.lessUrgent(w.priority) {
		p.sched.heldLess--
	}
}

// engageLocked counts slots held, attempts parked and workers abandoned: while there are
// any, somebody may wait on a worker's goroutine.
func (p *Pool) engageLocked(n int) {
	if p.crew.engaged == 0 {
		activePools.Add(1)
	}
	if p.crew.engaged += n; p.crew.engaged == 0 {
		activePools.Add(-1)
	}
}

// delayLocked lets h wait until due.
func (p *Pool) delayLocked(h *Handle, due time.Time) {
	h.state, h.due = Delayed, due
	p.sched.count[Delayed]++
	if h.attempts == 0 {
		p.sched.later++
	} else {
		p.sched.retrying++
	}
	p.sched.delayed.add(h)
	p.alarmAtLocked(due)
}

// undelayLocked takes h out of the delayed ones. The caller sees to its state.
func (p *Pool) undelayLocked(h *Handle) {
	if h.attempts > 0 {
		p.sched.retrying--
	}
	p.sched.delayed.remove(h)
}

// laterLocked reports whether h, which was accepted, counts in Pool.later.
func (h *Handle) laterLocked() bool { return h.attempts == 0 && !h.due.IsZero() }

// A dueHeap is a [heap.Interface] of handles that wait for their time, the first
// due on top; of those due at one time, the first that came. heapI is a handle's
// place in it, -1 outside.
type dueHeap struct {
	tasks []dueTask
	last  uint64 // number of the last that came
}

type dueTask struct {
	*Handle
	number uint64
}

// add lets h wait for h.due.
func (d *dueHeap) add(h *Handle) { heap.Push(d, h) }

// remove takes h out.
func (d *dueHeap) remove(h *Handle) { heap.Remove(d, int(h.heapI)) }

// first returns the handle that is due first, nil if there is none.
func (d *dueHeap) first() *Handle {
	if len(d.tasks) == 0 {
		return nil
	}
	return d.tasks[0].Handle
}

// due reports whether the time of a handle has come.
func (d *dueHeap) due(now time.Time) bool { return len(d.tasks) > 0 && !now.Before(d.tasks[0].due) }

// all returns the handles in the order in which they are due.
func (d *dueHeap) all() []*Handle {
	sorted := slices.Clone(d.tasks)
	slices.SortFunc(sorted, func(a, b dueTask) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.number, b.number))
	})
	all := make([]*Handle, len(sorted))
	for i, t := range sorted {
		all[i] = t.Handle
	}
	return all
}

func (d *dueHeap) Len() int { return len(d.tasks) }

func (d *dueHeap) Less(i, j int) bool {
	a, b := &d.tasks[i], &d.tasks[j]
	if a.due.Equal(b.due) {
		return a.number < b.number
	}
	return a.due.Before(b.due)
}

func (d *dueHeap) Swap(i, j int) {
	d.tasks[i], d.tasks[j] = d.tasks[j], d.tasks[i]
	d.tasks[i].heapI, d.tasks[j].heapI = int32(i), int32(j)
}

func (d *dueHeap) Push(x any) {
	h := x.(*Handle)
	h.heapI = int32(len(d.tasks))
	d.last++
	d.tasks = append(d.tasks, dueTask{h, d.last})
}

func (d *dueHeap) Pop() any {
	last := len(d.tasks) - 1
	h := d.tasks[last].Handle
	d.tasks[last] = dueTask{}
	d.tasks = shrunk(d.tasks[:last])
	h.heapI = -1
	return h
}
