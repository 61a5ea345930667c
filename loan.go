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
// A task that waits in the queue keeps its place there, and gets a second place in the lane
// of the priority that it was lent. Whichever comes first is taken, and the other goes. So it
// starts no later than it would have without the loan, but for shifted turns of the fair
// share, see docs/starvation.md. If it were moved instead, it would be the youngest of all, and the fair share, which serves the oldest, would come to it last.
// While it waits for room, a submitter has a second place in the same way.
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
		s.pushSecond(h, true, now)
	}
	if !h.placed {
		s.heldBackChanged(h)
	}
	return true
}

// lendPlace is lend for a submitter that waits for room with h. The loan is for its place
// there only, and ends when h is accepted.
func (s *scheduler) lendPlace(h *Handle, pr Priority, now time.Duration) bool {
	if h.place.in != inAdmission && h.place.in != inAdmissionDelayed || pr >= h.urgency() {
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
		s.pushSecond(h, false, now)
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
	in := h.place.in
	resuming := in == inQueue && h.place.lane.resuming
	if in == inQueue {
		s.leaveQueue(h)
	}
	s.changeUrgency(h, func() { h.priority = pr })
	if h.placed {
		h.flow.lent = max(h.flow.lent, h.urgency())
		s.heldBackChanged(h)
	}
	if in == inQueue {
		s.enterQueue(h, resuming, now)
		s.heldBackChanged(h)
	}
	return true
}

// Second places.

// enterQueue puts h at the back of its lane or lanes.
func (s *scheduler) enterQueue(h *Handle, resuming bool, now time.Duration) {
	s.queue.push(entry{h: h, order: s.number(now)}, h.priority, resuming)
	s.addSecond(h, now)
}

// leaveQueue takes h, which is in the queue, out of it.
func (s *scheduler) leaveQueue(h *Handle) {
	s.dropSecond(h)
	s.queue.remove(h)
}

// addSecond gives h, which has joined the queue, its second place if it is to have one. If
// it resumes, or has not started, that is with those that resume; if it has gone behind the
// others of its priority, it does so there, too.
func (s *scheduler) addSecond(h *Handle, now time.Duration) {
	if h.lentTo() {
		s.pushSecond(h, h.place.lane.resuming || h.state == StateQueued, now)
	}
}

// pushSecond gives h, which is in the queue or waits for room, a second place at the back of
// the lane of its urgency. With aging it keeps the one that it has if that comes first.
func (s *scheduler) pushSecond(h *Handle, resuming bool, now time.Duration) {
	q := s.seconds(h.place.in)
	e, pr := entry{h: h, order: s.number(now)}, h.urgency()
	if old := h.loan.second; old.lane != nil {
		sameSlots := s.lessUrgent(old.lane.priority) == s.lessUrgent(pr)
		if q.step > 0 && sameSlots && q.keyOf(old.order(), old.lane.priority) <= q.keyOf(e.order, pr) {
			return
		}
		s.dropSecond(h)
	}
	if q.lanes == nil {
		q.init()
	}
	q.push(e, pr, resuming)
	s.promote(h, +1)
}

// dropSecond takes h out of its second place, if it has one.
func (s *scheduler) dropSecond(h *Handle) {
	if h.loan == nil || h.loan.second.lane == nil {
		return
	}
	s.promote(h, -1)
	s.seconds(h.loan.second.in).remove(h)
}

// seconds returns the second places of those that wait in the queue or for room.
func (s *scheduler) seconds(in waitsIn) *priorityQueue {
	if in == inAdmission {
		return &s.admissionSeconds
	}
	return &s.queueSeconds
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
			if f.promoted[i] += n; f.held {
				return
			}
		}
		s.promoted[i] += n
	}
}

// placeOf returns where h waits in q.
func (q *priorityQueue) placeOf(h *Handle) *place {
	if q.second {
		return &h.loan.second
	}
	return &h.place
}

// notFresh records that h, if it waits in q, is about to be fresh no longer.
func (q *priorityQueue) notFresh(h *Handle) {
	if p := h.place; p.in == q.in && h.attempts == 0 {
		p.seg.fresh--
		p.lane.fresh--
		q.fixSpare(p.lane, p.lane.fresh == 0)
	}
}

// choose returns the lane of the task whose turn it is, nil if there is none, and whether it
// is one of second places. It is next of q, with the second places of the tasks in q beside it.
//
// A fair-share turn serves the oldest. That is in q, as a task is no younger there, unless its
// place there is out of reach.
func choose(q, seconds *priorityQueue, restricted bool) (l *lane, choice, second bool) {
	l, choice = q.next(restricted)
	reach := seconds.reach(restricted)
	o, lanes := top(reach, q.step > 0)
	switch {
	case o == nil:
		return l, choice, false
	case l == nil:
		choice = lanes > 1
	default:
		choice = choice || o.front().h != l.front().h
	}
	switch {
	case choice && q.turnDue(restricted):
		if o = seconds.turnOf(restricted); l == nil || o.order() < l.order() {
			return o, true, true
		}
		return l, true, false
	case l != nil && q.step > 0:
		l, second = firstByKey(q, seconds, restricted)
		return l, choice, second
	case l == nil:
		return o, choice, true
	}
	first, _ := top(q.reach(restricted), false) // l may be another of its flow
	if o.laneKey == first.laneKey && o.order() < first.order() || o.laneKey != first.laneKey && moreUrgent(o, first) {
		return o, choice, true
	}
	return l, choice, false
}

// firstByKey returns the lane that is first by key, or another of its priority that resumes,
// and so takes its turn. Both queues have lanes.
func firstByKey(q, seconds *priorityQueue, restricted bool) (l *lane, second bool) {
	l, _ = top(q.reach(restricted), true)
	if o, _ := top(seconds.reach(restricted), true); keyFirst(o, l) {
		l, second = o, true
	}
	for _, from := range []*priorityQueue{q, seconds} {
		r := from.lanes[laneKey{l.priority, true}]
		if r != nil && r.n > 0 && (!l.resuming || r.order() < l.order()) {
			l, second = r, from == seconds
		}
	}
	return l, second
}

// popQueued takes a task that waits in the queue, and returns it with its priority; false if
// there is none.
func (s *scheduler) popQueued() (entry, Priority, bool) {
	e, pr, ok := s.queue.pop(false)
	if e.h != nil {
		s.dropSecond(e.h)
	}
	return e, pr, ok
}

// takeSecond takes the first task of l, a lane of second places that choose has chosen.
func (s *scheduler) takeSecond(l *lane, d decision) entry {
	h := l.front().h
	s.queueSeconds.charge(l, d.choice && s.queue.turnDue(d.restricted), d.restricted)
	s.queue.countChoice(d.choice, d.restricted)
	s.dropSecond(h)
	e := s.queue.remove(h)
	if !e.parked() {
		*s.queue.count(h.priority)++
		s.start(h)
	}
	return e
}

// nextSubmitter chooses among those that wait for room. Of second places only the first
// choice takes account: a reserved slot is for those whose own priority may have it.
func (s *scheduler) nextSubmitter(restricted bool) (l *lane, choice, second bool) {
	if restricted {
		l, choice = s.admission.next(true)
		return l, choice, false
	}
	return choose(&s.admission, &s.admissionSeconds, false)
}

// takeSubmitter takes the first of l, which nextSubmitter has chosen. What it was lent ends.
func (s *scheduler) takeSubmitter(l *lane, choice, restricted, second bool) *Handle {
	h, q := l.front().h, &s.admission
	if second {
		q = &s.admissionSeconds
	}
	q.charge(l, choice && s.admission.turnDue(restricted), restricted)
	s.admission.countChoice(choice, restricted)
	s.dropSecond(h)
	s.admission.remove(h)
	h.loan = nil
	return h
}
