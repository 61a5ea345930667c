package taskpool

import (
	"math"
	"time"
)

// A scheduler decides who is next: which task gets a free slot, which submitter is let in,
// what is shed. It knows tasks as items and slots as numbers, and nothing of goroutines: it
// has no lock and no clock, starts nothing and calls no user code, and times are passed in.
// So it can be tested alone, see scheduler_test.go. Protected by Pool.mu.
//
// What holds between two of its methods:
//
//   - Each item waits in one place at most, the one that item.place names. One that is
//     Queued is in queue, one that is Delayed in delayed, one that is Parked and asks for a
//     slot in queue or in exiting, and one that has not been accepted in admission or
//     admissionDelayed.
//   - count, later, retrying, retriesWaiting, asking and askingLess are the numbers that a
//     walk over all items would find.
//
// See next for who is next, and admit for who is let in.
type scheduler struct {
	// Fixed.

	capacity    int      // as given to WithCapacity, or unbounded
	reserved    int      // slots kept for tasks of priority reservedFor or more urgent
	reservedFor Priority // set if reserved > 0
	aging       bool     // orders are times

	queue     priorityQueue
	exiting   [2][]exit     // parked tasks with an ended context that ask for a slot; second: the lessUrgent ones
	lastExit  int64         // number of the last exit
	admission priorityQueue // submitters that wait for room, as handles of their tasks

	promoted [2]int // see loan.go

	seq      int64     // last order handed out
	paused   bool      // nothing in queue may have a slot
	stepping stepPhase // with paused: lets one in queue have a slot

	// Tasks that wait for their time. Those that have never started take no room
	// from tasks that could run at once: they have a bound of their own, and so
	// their submitters wait in a queue of their own, where the first due is the
	// first to be let in. A submitter whose task becomes due goes on to admission.
	delayed          dueHeap
	retrying         int     // how many in delayed wait for a retry
	retriesWaiting   int     // how many in delayed or queue do
	later            int     // how many tasks are later, see item.isLater: in delayed or queue
	admissionDelayed dueHeap // submitters that wait for room among these, until their task is due

	// Those that wait for others, see after.go, count among the later ones too. Their
	// submitters are let in before those in admissionDelayed, which may go on to admission.
	dependents          []*Handle
	admissionDependents dueHeap // all due at once: first in, first out

	expiring   indexedHeap[*Handle] // those of all that wait to start, or for room, that have an expiry
	lastExpiry uint64

	// Slots. A slot is held from the moment a worker takes a task until it has
	// settled the task and told hooks and the log of it, also while a dead worker
	// waits to be replaced, but not while the task is parked.
	slots      int // how many there are
	held       int // how many are held; for a while after Resize, this may exceed slots
	heldLess   int // how many are held by less urgent tasks, see lessUrgent
	asking     int // parked tasks that ask for a slot, without those in askingLess
	askingLess int // less urgent parked tasks that ask for a slot

	count [numStates]int // tasks by state, up to Parked; for final states see totals

	flowSet
	delays *queueDelays // nil without WithQueueDelay
}

// init sets s up as c says.
func (s *scheduler) init(c *config) {
	s.capacity, s.slots = c.capacity, c.workers
	s.reserved, s.reservedFor = c.reserved, c.reservedFor
	s.aging = c.aging > 0
	s.queue.share, s.queue.step = uint64(c.fairShare), c.aging
	if s.reserved > 0 {
		s.queue.reserve = &s.reservedFor
	}
	s.admission = s.queue
	s.queue.in, s.admission.in = inQueue, inAdmission
	s.delayed, s.admissionDelayed = newDueHeap(inDelayed), newDueHeap(inAdmissionDelayed)
	s.admissionDependents = newDueHeap(inAdmissionDependents)
	s.expiring = newExpiryHeap()
	s.queue.shed = c.overflow == OverflowShed
	s.queue.init()
	s.admission.init()
	s.delays = newQueueDelays(c.queueDelay)
}

// Slots.

// lessUrgent reports whether a task of priority pr may not have a reserved slot.
func (s *scheduler) lessUrgent(pr Priority) bool { return s.reserved > 0 && pr > s.reservedFor }

// restricted reports whether a free slot is for reserved priorities only. Where no slot is
// reserved, no task is less urgent, and so none of the slots counts in heldLess.
func (s *scheduler) restricted() bool { return s.heldLess >= s.slots-s.reserved }

// hold gives away a slot; less says that it is to a less urgent task.
func (s *scheduler) hold(less bool) {
	s.held++
	if less {
		s.heldLess++
	}
}

// release takes the slot back.
func (s *scheduler) release(less bool) {
	s.held--
	if less {
		s.heldLess--
	}
}

// Who is next.

// next takes the task whose turn it is for a free slot: the first of the tasks that are
// exiting or, if there is none, the one that the queue says. The entry is parked if the task
// resumes, and not live if no slot is free or no task may have it. starts says that the
// caller is a worker that can start a task. If it is false, a task that needs a worker stays
// where it is, for one that looks for a task. One that is late is to be shed, and has no slot.
func (s *scheduler) next(starts bool) (entry, decision) {
	if s.held >= s.slots {
		return entry{}, decision{}
	}
	restricted := s.restricted()
	if h := s.takeExiting(restricted); h != nil {
		return entry{h: h}, decision{priority: h.priority}
	}
	if s.queue.n == 0 || s.paused && s.stepping != stepGranted {
		return entry{}, decision{}
	}
	l, choice := s.queue.next(restricted)
	if l == nil || !starts && l.front().needsWorker() {
		return entry{}, decision{}
	}
	d := decision{priority: l.taskPriority(), choice: choice, restricted: restricted}
	if d.late = s.delays != nil && s.isLate(l.front().h); d.late {
		return s.takeFront(&s.queue, l), d
	}
	if s.stepping == stepGranted {
		s.stepping = stepTaken
	}
	return s.take(l, d), d
}

// endPause ends the pause, if there is one. now is the time since Pool.epoch.
func (s *scheduler) endPause(now time.Duration) {
	if s.delays != nil && s.paused {
		s.delays.resumed = now
	}
	s.paused = false
}

// muted reports whether Yield gives way to nothing in queue, as the pool is paused.
func (s *scheduler) muted() bool { return s.paused && s.stepping == noStep }

// take takes the first task of l, for which the queue's next has decided. A task that has
// yet to start is Running from here on.
func (s *scheduler) take(l *lane, d decision) entry {
	s.queue.serve(l, d.choice, d.restricted)
	dispatched := l.dispatched
	if l.kind.second() {
		dispatched = s.queue.count(d.priority)
	}
	e := s.takeFront(&s.queue, l)
	if e.parked() {
		return e
	}
	*dispatched++
	s.start(e.h)
	return e
}

// takeFront takes the first task of l, which is in q, out of both its places.
func (s *scheduler) takeFront(q *priorityQueue, l *lane) entry {
	h := l.front().h
	if h == nil || h.loan == nil {
		return q.take(l, l.head, l.head.head)
	}
	s.dropSecond(h)
	return q.remove(h)
}

// taskPriority returns the priority of the first task of a lane that is not empty, which is
// another than the lane's if that is of second places.
func (l *lane) taskPriority() Priority {
	if l.kind.second() {
		return l.front().h.priority
	}
	return l.priority
}

// start has a task that was taken from the queue, h or if that is nil a function, be Running.
func (s *scheduler) start(h *Handle) {
	s.queued(h, -1)
	s.count[StateRunning]++
	if h != nil {
		s.notLater(h)
		s.noExpiry(h)
		s.noRetry(h)
		h.attempts++
		h.state = StateRunning
	}
	s.takePlace(h)
}

// isNext reports whether h, which has been accepted and is in no state, would be the next to have a
// slot if it were queued, and that one is free. It may say no though that is so.
func (s *scheduler) isNext(h *Handle) bool {
	return s.held < s.slots && s.waiting() == 0 && s.submitters() == 0 && !s.paused &&
		s.flowOf(h) == nil && s.reserved == 0 && s.delays == nil && !s.queue.fair
}

// startNext has h, which is next, be Running.
func (s *scheduler) startNext(h *Handle) {
	s.queued(h, +1)
	*s.queue.count(h.priority)++
	s.start(h)
}

// wanted returns for how many tasks that have yet to start there are slots.
func (s *scheduler) wanted() int {
	if s.paused && s.stepping != stepGranted {
		return 0
	}
	less := s.queuedLess()
	forLess := max(s.slots-s.reserved-s.heldLess, 0)
	return min(max(s.slots-s.held, 0), s.ready()-less+min(less, forLess))
}

// queuedLess returns how many tasks wait to start that may not have a reserved slot.
func (s *scheduler) queuedLess() int { return s.queue.classes[1].queued - s.promoted[0] }

// waiting returns how many tasks wait for a slot, to start or to go on.
func (s *scheduler) waiting() int {
	return s.queue.n + len(s.exiting[0]) + len(s.exiting[1])
}

// still reports whether all slots are held while a task waits for one, or a submitter for
// room.
func (s *scheduler) still() bool {
	return s.held >= s.slots && !s.paused && (s.waiting() > 0 || s.admission.n > 0)
}

// outstanding returns the number of accepted tasks that have not settled.
func (s *scheduler) outstanding() int {
	return s.count[StateQueued] + s.count[StateDelayed] + s.count[StateRunning] + s.count[StateParked]
}

// mostUrgent returns the priority of the most urgent task in the queue; none if there are
// slots for all that wait, or the pool is paused.
func (s *scheduler) mostUrgent() int64 {
	pr, ok := s.queue.leastPriority()
	if !ok || s.muted() || !s.contended(math.MaxInt) {
		return none
	}
	return int64(pr)
}

// contended reports whether more tasks of priority pr or more urgent wait in the queue than
// there are free slots for. Unless pr is [math.MaxInt], one with two places may count twice.
func (s *scheduler) contended(pr Priority) bool {
	free := s.slots - s.held
	if free <= 0 {
		return s.queue.n > 0
	}
	if s.reserved == 0 && (s.queue.n <= free || pr == math.MaxInt) {
		return s.queue.n > free
	}
	classes := &s.queue.classes
	forLess := min(free, max(s.slots-s.reserved-s.heldLess, 0))
	if pr == math.MaxInt {
		promoted := s.promoted[0] + s.promoted[1]
		return classes[1].n-promoted > min(forLess, free-classes[0].n-promoted)
	}
	forLess = min(forLess, free-s.queue.waiting(0, pr, free))
	return forLess < 0 || s.queue.waiting(1, pr, forLess) > forLess
}

// Who is let in.

// admit removes and returns the next submitter for which there is room, nil if there is none.
// later says that its task has to wait for its time.
func (s *scheduler) admit() (h *Handle, later bool) {
	// First those that are not due: they take no room from others, but the tasks
	// that submit them then ask for slots.
	if h := s.firstLater(); h != nil && s.laterRoom() {
		s.withdraw(h)
		h.loan = nil
		return h, true
	}
	// If there is no room for the one whose turn it is, a reserved slot may be free
	// for another.
	for restricted := false; s.admission.n > 0; restricted = true {
		l, choice := s.admission.next(restricted)
		switch {
		case l == nil:
			return nil, false
		case s.poolRoom(l.front().h.priority):
			return s.takeSubmitter(l, choice, restricted), false
		case restricted || s.reserved == 0:
			return nil, false
		}
	}
	return nil, false
}

// room reports whether one more task of flow f, which may be nil, and of priority pr, which
// may start at once, may be accepted. A flow that is held back takes no room from others, but
// none of its tasks is accepted before those that wait for room, unless there is some for it.
func (s *scheduler) room(f *flow, pr Priority) bool {
	switch {
	case f != nil && !s.flowRoom(f, pr):
		return false
	case f != nil && f.held && !f.atDoor():
		return true
	}
	return s.poolRoom(pr)
}

// poolRoom is room for one more task of any flow: what submitters that wait for room wait for,
// while their flow is not full.
func (s *scheduler) poolRoom(pr Priority) bool {
	if s.capacity == unbounded {
		return true
	}
	free, promised := s.free(pr)
	return s.ready()-promised+s.retrying-free < s.capacity
}

// laterRoom reports whether one more task that has to wait for its time may be accepted.
// There may be as many of them as an idle pool accepts tasks. Each counts until it starts,
// as it joins the queue when it is due even if the queue is full.
func (s *scheduler) laterRoom() bool {
	return s.capacity == unbounded || s.later-s.slots < s.capacity
}

// free returns the number of slots that are free for a new task of priority pr, and how many
// queued tasks take no room, as other free slots are promised to them and workers were woken
// for them. Slots that parked tasks ask for are not free. While submitters wait, no slot is
// promised: a parked task among the submitters may be the first to have one.
func (s *scheduler) free(pr Priority) (free, promised int) {
	free = s.slots - s.held
	forLess := min(free, s.slots-s.reserved-s.heldLess)
	less := s.queuedLess()
	queued := s.ready() - less
	if s.paused || s.admission.n > 0 || s.firstLater() != nil {
		queued, less = 0, 0
	} else if free > 0 && s.asking+s.askingLess > 0 {
		// The task whose turn it is gets a slot before those that ask for one.
		restricted := s.restricted()
		switch l, _ := s.queue.next(restricted); {
		case s.firstExiting(restricted) != nil || l == nil || l.front().parked():
		case s.lessUrgent(l.urgency()):
			promised, free, forLess, less = 1, free-1, forLess-1, less-1
		default:
			promised, free, queued = 1, free-1, queued-1
		}
	}
	askingLess := max(min(s.askingLess, forLess), 0)
	free -= s.asking + askingLess
	less = max(min(less, forLess-askingLess), 0)
	n := max(min(queued+less, free), 0)
	free -= n
	if s.lessUrgent(pr) {
		free = min(free, forLess-askingLess-less)
	}
	return max(free, 0), promised + n
}

// submitters returns how many submitters wait for room.
func (s *scheduler) submitters() int {
	return s.admission.n + s.admission.heldBack + s.admissionDelayed.Len() + s.admissionDependents.Len()
}

// waitForRoom has the submitter of h wait for room. If later is set, it waits among those
// whose tasks are not due, until h is due.
func (s *scheduler) waitForRoom(h *Handle, later bool, now time.Duration) {
	switch {
	case later && h.due.IsZero(): // it waits for others
		s.admissionDependents.add(h)
		return
	case later:
		s.admissionDelayed.add(h)
		return
	}
	h.due = time.Time{}
	s.admission.push(entry{h: h, order: s.number(now)}, laneKey{h.priority, kindOrdinary})
	if h.loan != nil { // it had a place among those that are not due
		s.pushSecond(h, kindOrdinaryLent, now)
	}
}

// What becomes of tasks. now is the time since Pool.epoch; it counts with aging only.

// number returns the order of a task that arrives now.
func (s *scheduler) number(now time.Duration) int64 {
	if s.aging {
		s.seq = max(s.seq, int64(now))
	} else {
		s.seq++
	}
	return s.seq
}

// enqueue puts a task, which must be counted in no state, at the back of its lane.
func (s *scheduler) enqueue(e entry, pr Priority, now time.Duration) (l *lane, order int64) {
	e.order = s.number(now)
	if e.h != nil {
		e.h.state = StateQueued
	}
	f := s.flowOf(e.h)
	l = s.queue.laneOf(f, laneKey{pr, kindOrdinary}, false)
	s.queue.pushLane(l, e)
	s.queued(e.h, +1)
	if e.h != nil {
		s.addSecond(e.h, now)
	}
	if f != nil && f.held {
		s.lendHolders(f)
	}
	return l, e.order
}

// delay has h, which must be counted in no state, wait until due.
func (s *scheduler) delay(h *Handle, due time.Time) {
	h.state, h.due = StateDelayed, due
	s.count[StateDelayed]++
	if h.attempts == 0 {
		s.later++
	} else {
		s.retries(h, +1)
	}
	s.delayed.add(h)
}

// notLater records that h is no longer later, if it was.
func (s *scheduler) notLater(h *Handle) {
	if h.isLater() {
		s.later--
		h.due = time.Time{}
	}
}

// inherit is called when h was accepted. If a task that counted as later was shed for h, due
// is that task's due time, and h counts as later in its place; otherwise due is zero.
func (s *scheduler) inherit(h *Handle, due time.Time) {
	if h.due = due; !due.IsZero() {
		s.later++
	}
}

// undo takes back what take has counted, as the attempt was withdrawn. The task counts as
// Running until it has settled.
func (s *scheduler) undo(h *Handle, d decision) {
	h.attempts--
	*s.queue.count(d.priority)--
	if d.choice {
		s.queue.giveTurnBack(d.restricted)
	}
}

// leaveState has h, whose attempt has ended, count in no state until it is enqueued or delayed.
func (s *scheduler) leaveState(h *Handle) {
	s.count[h.state]--
	s.retriesWaiting++
	s.givePlace(h)
}

// end brings h, which waits nowhere, into state final.
func (s *scheduler) end(h *Handle, final State) {
	s.noRetry(h)
	if h.state == StateQueued {
		s.queued(h, -1)
	} else {
		s.count[h.state]--
	}
	h.state, h.loan = final, nil
	s.noExpiry(h)
	s.givePlace(h)
	s.leaveFlow(h)
}

// endFunction is end for a running function without a handle.
func (s *scheduler) endFunction() {
	s.count[StateRunning]--
	if f := s.plainFlow; f != nil {
		s.givePlaceOf(f)
	}
}

// endQueued is end for a function that was taken from the queue but not begun.
func (s *scheduler) endQueued() { s.queued(nil, -1) }

// Parking.

// park has h, which is Running, give its slot back.
func (s *scheduler) park(h *Handle) {
	h.state = StateParked
	s.count[StateRunning]--
	s.count[StateParked]++
}

// ask has h, which is Parked, ask for a slot, ahead of tasks of its priority that have not
// started.
func (s *scheduler) ask(h *Handle, now time.Duration) {
	s.asks(h, +1)
	s.enterQueue(h, kindResuming, now)
	s.heldBackChanged(h)
}

// askLast is ask for a task whose quantum is over: it goes behind all tasks of its priority.
func (s *scheduler) askLast(h *Handle, now time.Duration) {
	s.asks(h, +1)
	s.enterQueue(h, kindOrdinary, now)
}

// askFirst is ask for a task whose context has ended: it is exiting, and goes before
// everything, even in a pause.
func (s *scheduler) askFirst(h *Handle) {
	s.asks(h, +1)
	if !s.exitInFlow(h) {
		s.exit(h)
	}
}

// hasten moves h, which is Parked, to where askFirst would have put it, if it asks for a
// slot.
func (s *scheduler) hasten(h *Handle) {
	if h.place.in == inQueue {
		s.leaveQueue(h)
		if !s.exitInFlow(h) {
			s.exit(h)
		}
	}
}

// asks counts that h asks for a slot, if n is 1, or no longer does, if n is -1.
func (s *scheduler) asks(h *Handle, n int) {
	h.asks = n > 0
	less := s.lessUrgent(h.urgency())
	if f := h.flow; f != nil && !h.placed {
		if f.asking[restriction(less)] += int32(n); f.held {
			return
		}
	}
	if less {
		s.askingLess += n
	} else {
		s.asking += n
	}
}

// unpark ends the suspension of h, which no longer waits anywhere. resume or end then sets
// its state.
func (s *scheduler) unpark(h *Handle) {
	if h.asks {
		s.asks(h, -1)
	}
}

// resume has h, which is Parked, go on.
func (s *scheduler) resume(h *Handle) {
	h.state = StateRunning
	s.count[StateParked]--
	s.count[StateRunning]++
	s.takePlace(h)
}
