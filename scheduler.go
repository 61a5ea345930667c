package taskpool

import (
	"math"
	"slices"
	"time"
)

// A scheduler decides who is next: which task gets a free slot, which submitter is let in,
// what is shed. It knows tasks as items and slots as numbers, and nothing of goroutines: it
// has no lock and no clock, starts nothing, calls no user code, and times are passed in. So
// it can be driven alone, see scheduler_test.go. Protected by Pool.mu.
//
// What holds between two of its methods:
//
//   - Each item waits in one place at most, the one that item.place names. One that is
//     Queued is in queue, one that is Delayed in delayed, one that is Parked and asks for a
//     slot in queue or in exiting, and one that has not been accepted in admission or
//     admissionDelayed.
//   - count, later, retrying, asking and askingLess are the numbers that a walk over all
//     items would find.
//
// Who is next is said at next, and who is let in at admit.
type scheduler struct {
	// Fixed.

	capacity    int      // as given to WithCapacity, or unbounded
	reserved    int      // slots kept for tasks up to reservedFor
	reservedFor Priority // with reserved > 0
	aging       bool     // orders are times

	queue     priorityQueue
	exiting   [2][]exit     // parked tasks whose context has ended and that ask for a slot; the second are the less urgent ones
	exits     int64         // number of the last that came to these
	admission priorityQueue // submitters that wait for room, in their task's place
	seq       int64         // last order handed out
	paused    bool          // nothing in queue may have a slot

	// Tasks that wait for their time. Those that have never started take no room
	// from what could run at once: they are bounded by themselves, and so their
	// submitters wait in a queue of their own, where the first due is the first to
	// be let in. One that becomes due there goes on to admission.
	delayed          dueHeap
	retrying         int     // how many in delayed wait for a retry
	later            int     // how many tasks are later, see there: in delayed or, as they are due, in queue
	admissionDelayed dueHeap // submitters that wait for room among these, until their task is due

	// Slots. A slot is held from the moment a worker takes a task until it has
	// settled and reported it, but for the time in which the task is parked;
	// also while a dead worker waits to be replaced.
	slots      int // how many there are
	held       int // how many are held; more than slots after Resize, for a while
	heldLess   int // how many of these by less urgent tasks, see lessUrgent
	asking     int // parked tasks that ask for one,
	askingLess int // and the less urgent ones

	count [numStates]int // tasks by state; Parked and before, as the final ones are totals
}

// init sets s up for what c says.
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
	s.queue.shed = c.overflow == OverflowShed
	s.queue.init()
	s.admission.init()
}

// Slots.

// lessUrgent reports whether a task of priority pr may not have a reserved slot.
func (s *scheduler) lessUrgent(pr Priority) bool { return s.reserved > 0 && pr > s.reservedFor }

// restricted reports whether a free slot is for reserved priorities only.
func (s *scheduler) restricted() bool {
	return s.reserved > 0 && s.heldLess >= s.slots-s.reserved
}

// hold has a task of priority pr hold a slot.
func (s *scheduler) hold(pr Priority) {
	s.held++
	if s.lessUrgent(pr) {
		s.heldLess++
	}
}

// release takes back what hold gave.
func (s *scheduler) release(pr Priority) {
	s.held--
	if s.lessUrgent(pr) {
		s.heldLess--
	}
}

// Who is next.

// next takes the task whose turn it is for a free slot: of tasks on their way out the first
// that came, and else what the queue says. It returns false if no slot is free or nobody may
// have it, and also if the task has yet to start and starts is false, as no worker is at
// hand: then it stays where it is, for a worker that comes to look.
func (s *scheduler) next(starts bool) (t turn, ok bool) {
	if s.held >= s.slots {
		return t, false
	}
	restricted := s.restricted()
	if h := s.takeExiting(restricted); h != nil {
		return turn{entry: entry{h: h}, priority: h.priority}, true
	}
	if s.paused || s.queue.n == 0 {
		return t, false
	}
	l, choice := s.queue.next(restricted)
	if l == nil || !starts && !l.front().parked() {
		return t, false
	}
	return s.take(l, choice, restricted), true
}

// take takes the first task of l, as the queue's next has said. One that has yet to start is
// Running from here on.
func (s *scheduler) take(l *lane, choice, restricted bool) turn {
	t := turn{s.queue.takeTurn(l, choice, restricted), l.priority, choice, restricted}
	if t.parked() {
		return t
	}
	*l.dispatched++
	s.count[StateQueued]--
	s.count[StateRunning]++
	if h := t.h; h != nil {
		s.notLater(h)
		h.attempts++
		h.state = StateRunning
	}
	return t
}

// firstExiting returns the list whose first is the first task on its way out that may have
// a free slot, nil if there is none.
func (s *scheduler) firstExiting(restricted bool) *[]exit {
	all, less := &s.exiting[0], &s.exiting[1]
	switch {
	case len(*less) > 0 && !restricted && (len(*all) == 0 || (*less)[0].number < (*all)[0].number):
		return less
	case len(*all) > 0:
		return all
	}
	return nil
}

// takeExiting takes that task, nil if there is none.
func (s *scheduler) takeExiting(restricted bool) *Handle {
	from := s.firstExiting(restricted)
	if from == nil {
		return nil
	}
	h := (*from)[0].h
	(*from)[0] = exit{}
	if *from = (*from)[1:]; len(*from) == 0 {
		*from = nil
	}
	h.place = place{}
	return h
}

// wanted returns how many tasks that have yet to start there are slots for.
func (s *scheduler) wanted() int {
	if s.paused {
		return 0
	}
	less := s.queue.classes[1].queued // 0 without a reservation
	forLess := max(s.slots-s.reserved-s.heldLess, 0)
	return min(max(s.slots-s.held, 0), s.count[StateQueued]-less+min(less, forLess))
}

// waiting returns how many tasks wait for a slot, to start or to go on.
func (s *scheduler) waiting() int {
	return s.queue.n + len(s.exiting[0]) + len(s.exiting[1])
}

// still reports whether all slots are held while something waits for one, or for room.
func (s *scheduler) still() bool {
	return s.held >= s.slots && !s.paused && (s.waiting() > 0 || s.admission.n > 0)
}

// outstanding returns the number of accepted tasks that have not settled.
func (s *scheduler) outstanding() int {
	return s.count[StateQueued] + s.count[StateDelayed] + s.count[StateRunning] + s.count[StateParked]
}

// mostUrgent returns the most urgent priority of which a task waits in the queue, none if
// there are slots for all that wait, or it is paused.
func (s *scheduler) mostUrgent() int64 {
	if pr, ok := s.queue.leastPriority(); ok && !s.paused && s.contended(math.MaxInt) {
		return int64(pr)
	}
	return none
}

// contended reports whether more waits in the queue, up to priority pr, than there are free
// slots for.
func (s *scheduler) contended(pr Priority) bool {
	free := s.slots - s.held
	if free <= 0 {
		return s.queue.n > 0
	}
	if s.reserved == 0 && s.queue.n <= free {
		return false
	}
	n, forLess := 0, min(free, max(s.slots-s.reserved-s.heldLess, 0))
	for i := range s.queue.classes {
		for _, l := range s.queue.classes[i].lead.items {
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

// Who is let in.

// admit takes the next submitter for whom there is room from where it waits, nil if there is
// none. later says that its task has to wait for its time.
func (s *scheduler) admit() (h *Handle, later bool) {
	// Those that are not due first: they take no room from others, but the tasks
	// that submit them ask for their slots.
	if h := s.admissionDelayed.first(); h != nil && s.laterRoom() {
		s.admissionDelayed.remove(h)
		return h, true
	}
	// Where the one whose turn it is finds no room, a reserved slot may be free for
	// another.
	for restricted := false; s.admission.n > 0; restricted = true {
		l, choice := s.admission.next(restricted)
		switch {
		case l == nil:
			return nil, false
		case s.room(l.priority):
			return s.admission.takeTurn(l, choice, restricted).h, false
		case restricted || s.reserved == 0:
			return nil, false
		}
	}
	return nil, false
}

// room reports whether one more task of priority pr, which may start at once, may be
// accepted.
func (s *scheduler) room(pr Priority) bool {
	if s.capacity == unbounded {
		return true
	}
	free, promised := s.free(pr)
	return s.count[StateQueued]-promised+s.retrying-free < s.capacity
}

// laterRoom is room for a task that has to wait for its time: there may be as many as may
// be accepted when nothing runs. One counts until it starts, as a queue that is full does
// not keep it out when it is due.
func (s *scheduler) laterRoom() bool {
	return s.capacity == unbounded || s.later-s.slots < s.capacity
}

// free returns the number of slots that are free for a newcomer of priority pr, and how
// many queued tasks take no room, as others are free for them and workers on their way.
// Those that parked tasks ask for are not free. While submitters wait, free
// slots are promised to no task: a parked task that waits there may be the first to have one.
func (s *scheduler) free(pr Priority) (free, promised int) {
	free = s.slots - s.held
	forLess := min(free, s.slots-s.reserved-s.heldLess)
	less := s.queue.classes[1].queued // 0 without a reservation
	queued := s.count[StateQueued] - less
	if s.paused || s.submitters() > 0 {
		queued, less = 0, 0
	} else if free > 0 && s.asking+s.askingLess > 0 {
		// Whose turn it is has a slot before those that ask for one.
		restricted := s.restricted()
		switch l, _ := s.queue.next(restricted); {
		case s.firstExiting(restricted) != nil || l == nil || l.front().parked():
		case s.lessUrgent(l.priority):
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

// submitters returns how many wait for room.
func (s *scheduler) submitters() int { return s.admission.n + s.admissionDelayed.Len() }

// knock has the submitter of h wait for room, until h is due if later is set.
func (s *scheduler) waitForRoom(h *Handle, later bool, now time.Duration) {
	if later {
		s.admissionDelayed.add(h)
		return
	}
	h.due = time.Time{}
	s.admission.push(entry{h: h, order: s.number(now)}, h.priority, false)
}

// What becomes of tasks. now is the time since Pool.epoch; it counts with aging only.

// number returns the order of a task that comes now.
func (s *scheduler) number(now time.Duration) int64 {
	if s.aging {
		s.seq = max(s.seq, int64(now))
	} else {
		s.seq++
	}
	return s.seq
}

// enqueue puts a task, which counts in no state any more, at the back of its lane.
func (s *scheduler) enqueue(e entry, pr Priority, now time.Duration) (l *lane, order int64) {
	e.order = s.number(now)
	if e.h != nil {
		e.h.state = StateQueued
	}
	l = s.queue.lane(laneKey{pr, false})
	s.queue.pushLane(l, e)
	s.count[StateQueued]++
	return l, e.order
}

// delay has h, which counts in no state any more, wait until due.
func (s *scheduler) delay(h *Handle, due time.Time) {
	h.state, h.due = StateDelayed, due
	s.count[StateDelayed]++
	if h.attempts == 0 {
		s.later++
	} else {
		s.retrying++
	}
	s.delayed.add(h)
}

// nextDue takes the delayed task that is due first, nil if none is at now. Then it counts
// in no state any more.
func (s *scheduler) nextDue(now time.Time) *Handle {
	if !s.delayed.isDue(now) {
		return nil
	}
	h := s.delayed.first()
	s.withdraw(h)
	s.count[StateDelayed]--
	return h
}

// nextDueSubmitter is nextDue for submitters: h goes on to those that are due.
func (s *scheduler) nextDueSubmitter(clock time.Time, now time.Duration) *Handle {
	if !s.admissionDelayed.isDue(clock) {
		return nil
	}
	h := s.admissionDelayed.first()
	s.admissionDelayed.remove(h)
	s.waitForRoom(h, false, now)
	return h
}

// withdraw takes h from where it waits, if it does. The caller sees to its state.
func (s *scheduler) withdraw(h *Handle) {
	switch h.place.in {
	case inQueue:
		s.queue.remove(h)
	case inExiting:
		less := 0
		if s.lessUrgent(h.priority) {
			less = 1
		}
		from := &s.exiting[less]
		*from = shrunk(slices.DeleteFunc(*from, func(x exit) bool { return x.h == h }))
		h.place = place{}
	case inDelayed:
		if h.attempts > 0 {
			s.retrying--
		}
		s.delayed.remove(h)
	case inAdmission:
		s.admission.remove(h)
	case inAdmissionDelayed:
		s.admissionDelayed.remove(h)
	}
}

// setPriority moves a task that waits to start to the back of those of priority pr. It
// returns false if it does not.
func (s *scheduler) setPriority(h *Handle, pr Priority, now time.Duration) bool {
	switch h.state {
	case StateQueued:
		s.queue.remove(h)
		h.priority = pr
		s.queue.push(entry{h: h, order: s.number(now)}, pr, false)
	case StateDelayed:
		h.priority = pr
	default:
		return false
	}
	return true
}

// notLater takes note that h is not later any more, if it was.
func (s *scheduler) notLater(h *Handle) {
	if h.isLater() {
		s.later--
		h.due = time.Time{}
	}
}

// inherit has h, which is accepted, count as later in the place of a task that was shed for
// it, if due, that task's, is set.
func (s *scheduler) inherit(h *Handle, due time.Time) {
	if h.due = due; !due.IsZero() {
		s.later++
	}
}

// undo takes back what take has counted, as the attempt turned out to be none. The task counts as Running
// until it has settled.
func (s *scheduler) undo(h *Handle, pr Priority, choice, restricted bool) {
	h.attempts--
	*s.queue.count(pr)--
	if choice {
		s.queue.giveTurnBack(restricted)
	}
}

// leaveState has h, which waits nowhere, count in no state, until it is enqueued or delayed.
func (s *scheduler) leaveState(h *Handle) { s.count[h.state]-- }

// end brings h, which waits nowhere, into state final.
func (s *scheduler) end(h *Handle, final State) {
	s.count[h.state]--
	h.state = final
}

// endFunction is end for a running function without a handle,
func (s *scheduler) endFunction() { s.count[StateRunning]-- }

// endQueued for one that was taken from the queue, but not begun.
func (s *scheduler) endQueued() { s.count[StateQueued]-- }

// Parking.

// park has h, which is Running, give its slot back.
func (s *scheduler) park(h *Handle) {
	h.state = StateParked
	s.count[StateRunning]--
	s.count[StateParked]++
}

// ask has h, which is Parked, ask for a slot. It goes before tasks of its priority that have
// not started.
func (s *scheduler) ask(h *Handle, now time.Duration) {
	s.asks(h, +1)
	s.queue.push(entry{h: h, order: s.number(now)}, h.priority, true)
}

// askLast is ask for a task whose quantum is over: it goes behind all of its priority.
func (s *scheduler) askLast(h *Handle, now time.Duration) {
	s.asks(h, +1)
	s.queue.push(entry{h: h, order: s.number(now)}, h.priority, false)
}

// askFirst is ask for a task whose context has ended: it is on its way out, and goes before
// everything, also in a pause.
func (s *scheduler) askFirst(h *Handle) {
	s.asks(h, +1)
	s.exit(h)
}

// hasten has h, which is Parked, go as if it had called askFirst, if it asks for a slot.
func (s *scheduler) hasten(h *Handle) {
	if h.place.in == inQueue {
		s.queue.remove(h)
		s.exit(h)
	}
}

func (s *scheduler) exit(h *Handle) {
	less := 0
	if s.lessUrgent(h.priority) {
		less = 1
	}
	s.exits++
	s.exiting[less] = append(s.exiting[less], exit{h, s.exits})
	h.place = place{in: inExiting}
}

// asks counts a task that asks for a slot, or no longer does.
func (s *scheduler) asks(h *Handle, n int) {
	h.asks = n > 0
	if s.lessUrgent(h.priority) {
		s.askingLess += n
	} else {
		s.asking += n
	}
}

// unpark ends the suspension of h, which waits nowhere any more. What it is then is said by
// resume or end.
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
}
