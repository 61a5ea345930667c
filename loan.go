package taskpool

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// A task that waits for another lends it its urgency: the other counts as that urgent until
// it has settled. Loans are never taken back, so a task may count as urgent when nobody waits
// for it any more.
//
// A task that waits in the queue keeps its place there, and gets a second place in a lane
// of the priority that it was lent. Whichever comes first is taken, and the other goes. So it
// starts no later than it would have without the loan, but for shifted turns of the fair
// share, see docs/starvation.md. If it were moved instead, it would be the youngest of all,
// and the fair share, which serves the oldest, would come to it last. One that has not started
// goes before all of its flow that have not, as they do not keep a more urgent task waiting.
// While it waits for room, a submitter has a second place in the same way, behind others.
//
// Invariants, for every item h:
//
//   - h has a second place if and only if it waits in the queue or for room and its urgency
//     is another than its priority. It is in the lane of its urgency or, with aging, in that
//     of an earlier loan, if the key there is less and the same slots can be had.
//   - A task that has one counts as not fresh in the queue, so that it is not shed.
//   - promoted is how many tasks may have a reserved slot only by their second place: those
//     that wait to start, and those that wait to go on.

// A loan is what others have lent a task.
type loan struct {
	urgency Priority // of the most urgent lender
	second  place    // the second place
}

// urgency returns the priority that i counts as: its own or, if that is more urgent, the one
// that it was lent.
func (i *item) urgency() Priority {
	if i.loan == nil {
		return i.priority
	}
	return min(i.priority, i.loan.urgency)
}

// lentTo reports whether i counts as more urgent than its priority.
func (i *item) lentTo() bool { return i.loan != nil && i.loan.urgency < i.priority }

// lend has h, which was accepted, count as urgent as pr, unless it does already. It returns
// false then, and if h has settled. A loan that makes no difference is kept, as h may get a
// less urgent priority.
func (s *scheduler) lend(h *Handle, pr Priority, now time.Duration) bool {
	switch {
	case h.state.Final():
		return false
	case h.loan == nil:
		h.loan = &loan{urgency: math.MaxInt}
	}
	if pr >= h.urgency() {
		h.loan.urgency = min(h.loan.urgency, pr)
		return false
	}
	if !h.lentTo() {
		s.queue.notFresh(h)
	}
	s.changeUrgency(h, func() { h.loan.urgency = pr })
	if h.place.in == inQueue {
		s.pushSecond(h, kindOfSecond(h, kindResuming), now)
	}
	if !h.placed { // one that holds a place is lent to for what is held back, and would do so again for each other
		s.heldBackChanged(h)
	}
	return true
}

// lendPlace is lend for a submitter that waits for room with h. The loan is for its place
// there only, and ends when h is accepted.
func (s *scheduler) lendPlace(h *Handle, pr Priority, now time.Duration) bool {
	switch in := h.place.in; {
	case in != inAdmission && in != inAdmissionDelayed && in != inAdmissionDependents, pr >= h.urgency():
		return false
	}
	if !h.lentTo() {
		s.admission.notFresh(h)
	}
	if h.loan == nil {
		h.loan = &loan{}
	}
	h.loan.urgency = pr
	if h.place.in == inAdmission {
		s.pushSecond(h, kindOrdinaryLent, now)
	}
	return true
}

// changeUrgency calls change, which changes the urgency of h, and keeps what is counted by
// urgency. The second place is for the caller to see to.
func (s *scheduler) changeUrgency(h *Handle, change func()) {
	before := s.lessUrgent(h.urgency())
	asks := h.asks
	if asks {
		s.asks(h, -1)
	}
	change()
	if asks {
		s.asks(h, +1)
	}
	if less := s.lessUrgent(h.urgency()); h.place.in == inExiting && less != before && (h.flow == nil || h.placed) {
		from, to := s.exitList(before), s.exitList(less)
		i := slices.IndexFunc(*from, func(x exit) bool { return x.h == h })
		x := (*from)[i]
		*from = slices.Delete(*from, i, i+1)
		i, _ = slices.BinarySearchFunc(*to, x.number, func(o exit, n int64) int { return cmp.Compare(o.number, n) })
		*to = slices.Insert(*to, i, x)
	}
}

// setPriority gives h, which was accepted, priority pr. If it waits to start, it moves to the
// back of the tasks of that priority, and so it does among those that resume if it waits
// there. It returns false if h has settled.
func (s *scheduler) setPriority(h *Handle, pr Priority, now time.Duration) bool {
	if h.state.Final() {
		return false
	}
	in, kind := h.place.in, kindOrdinary
	if in == inQueue {
		kind = h.place.lane.kind
		s.leaveQueue(h)
	}
	if h.state == StateQueued && s.delays != nil {
		s.delays.queued(h.priority, -1)
		s.delays.queued(pr, +1)
	}
	s.changeUrgency(h, func() { h.priority = pr })
	if h.placed {
		h.flow.lent = max(h.flow.lent, h.urgency())
	}
	if in == inQueue {
		s.enterQueue(h, kind, now)
	}
	s.heldBackChanged(h)
	return true
}

// Second places.

// enterQueue puts h at the back of its lane, which is of the given kind, or lanes.
func (s *scheduler) enterQueue(h *Handle, kind laneKind, now time.Duration) {
	s.queue.push(entry{h: h, order: s.number(now)}, laneKey{h.priority, kind})
	s.addSecond(h, now)
}

// leaveQueue takes h, which is in the queue, out of it.
func (s *scheduler) leaveQueue(h *Handle) {
	s.dropSecond(h)
	s.queue.remove(h)
}

// addSecond gives h, which has joined the queue, its second place if it is to have one. If it
// has gone behind the others of its priority, it does so there, too.
func (s *scheduler) addSecond(h *Handle, now time.Duration) {
	if h.lentTo() {
		s.pushSecond(h, kindOfSecond(h, h.place.lane.kind), now)
	}
}

// kindOfSecond returns of which kind the second place is of h, which is in the queue, if that
// of a task that has started would have the first place in a lane of kind first.
func kindOfSecond(h *Handle, first laneKind) laneKind {
	if h.state == StateQueued {
		return kindLent
	}
	return first | 1
}

// pushSecond gives h, which is in the queue or waits for room, a second place at the back of
// the lane of its urgency and the given kind. With aging it keeps the one that it has if that
// comes first.
func (s *scheduler) pushSecond(h *Handle, kind laneKind, now time.Duration) {
	q := s.placesIn(h.place.in)
	e, pr := entry{h: h, order: s.number(now)}, h.urgency()
	if old := h.loan.second; old.lane != nil {
		sameSlots := s.lessUrgent(old.lane.priority) == s.lessUrgent(pr)
		if q.step > 0 && sameSlots && q.keyOf(old.order(), old.lane.priority) <= q.keyOf(e.order, pr) {
			return
		}
		s.dropSecond(h)
	}
	q.push(e, laneKey{pr, kind})
	s.promote(h, +1)
}

// dropSecond takes h out of its second place, if it has one.
func (s *scheduler) dropSecond(h *Handle) {
	if h.loan == nil || h.loan.second.lane == nil {
		return
	}
	s.promote(h, -1)
	s.placesIn(h.loan.second.in).removeFrom(&h.loan.second)
}

// placesIn returns queue or admission.
func (s *scheduler) placesIn(in waitsIn) *priorityQueue {
	if in == inAdmission {
		return &s.admission
	}
	return &s.queue
}

// promote adds n to promoted if h, which has a second place, counts there.
func (s *scheduler) promote(h *Handle, n int) {
	second := &h.loan.second
	if second.in == inQueue && s.lessUrgent(h.priority) && !s.lessUrgent(second.lane.priority) {
		i := 0
		if h.state != StateQueued {
			i = 1
		}
		if f := h.flow; f != nil && !h.placed {
			if f.promoted[i] += int32(n); f.held {
				return
			}
		}
		s.promoted[i] += n
	}
}

// notFresh records that h, if it waits in q, is about to be fresh no longer.
func (q *priorityQueue) notFresh(h *Handle) {
	if p := h.place; p.in == q.in && h.attempts == 0 {
		p.seg.fresh--
		p.lane.fresh--
		q.updateSpare(p.lane)
	}
}

// popQueued takes a task that waits in the queue, and returns it with its priority; false if
// there is none.
func (s *scheduler) popQueued() (entry, Priority, bool) {
	l, choice := s.queue.next(false)
	if l == nil {
		return entry{}, 0, false
	}
	pr := l.taskPriority()
	s.queue.serve(l, choice, false)
	return s.takeFront(&s.queue, l), pr, true
}

// takeSubmitter takes the first of l, which admission's next has chosen. What it was lent ends.
func (s *scheduler) takeSubmitter(l *lane, choice, restricted bool) *Handle {
	s.admission.serve(l, choice, restricted)
	h := s.takeFront(&s.admission, l).h
	h.loan = nil
	return h
}
