package taskpool

import (
	"iter"
	"slices"
	"time"
)

// A priorityQueue holds waiting tasks: one FIFO lane for each priority, and one
// more for tasks of that priority that have started, given their slot back and
// want to go on. A task that was lent to has a second place, in another lane, see
// loan.go. The lanes that are not empty are in heaps, so the cost depends
// on the number of distinct waiting priorities, not on the number of waiting
// tasks: push, take and remove are O(log priorities), and O(1) if their lane keeps
// its place in the heaps.
//
// Invariants, for every lane l:
//   - l is in the heaps, and has segments, if and only if it holds a live entry;
//   - each segment holds a live entry; the first slot of l.head is live, and so
//     is the last of l.tail;
//   - orders grow from the front of l to its back;
//   - l.age is at most the order of l's front (see oldest);
//   - l is in the map lanes; recent holds only lanes that are in the map.
//
// It is not safe for concurrent use.
type priorityQueue struct {
	// Fixed after init.
	share   uint64        // one in share dispatches with a choice is a fair-share turn; 0: none
	step    time.Duration // aging: the waiting time worth one priority; 0: off
	reserve *Priority     // the least urgent priority of the first class; nil: no reservation
	shed    bool          // takeShed may be called
	in      waitsIn       // for the places of its handles

	n       int // waiting tasks, but for those held back
	seconds int // second places, but for those of tasks held back
	lanes   map[laneKey]*lane
	peak    int // the largest number of lanes that the map has held

	// For flows, see fair_queue.go. Of the lanes above each is of the tasks without a flow.
	plain      flowLanes
	fair       bool // flows make a difference
	named      int  // how many named flows wait
	groups     map[groupKey]*laneGroup
	mostGroups int // the largest number of groups that the map has held
	spareGroup *laneGroup
	rings      [2]flowRing // by kind of dispatch, see restriction
	tags       uint64      // how many were set
	heldFlows  []*flowLanes
	heldBack   int     // waiting tasks that are held back
	heldQueued int     // how many of those are not parked
	freeLanes  []*lane // of named flows

	totals  tallies // the lanes point to the numbers of attempts in it
	recent  []*lane // some lanes of the map, each in the place of its priority: most lookups end here
	classes [2]laneClass
	spare   laneHeap  // the least urgent lane on top; of those with a task to shed, see updateSpare
	turn    [2]uint64 // dispatches with a choice since the last fair-share turn, see restriction
	free    [len(segmentSlots)]segmentStack
}

// A laneClass is the lanes whose tasks may run on the same slots. The first class is
// those of the reserved priority or a more urgent one, the second all others. Without
// a reservation all lanes are in the second.
type laneClass struct {
	n      int      // waiting tasks, but for those held back; like queued counted only if there is a reservation
	queued int      // how many of these are not parked
	lanes  int      // that are not empty, but for those held back
	lead   laneHeap // the most urgent lane on top; of named flows only the faces, see laneSet
	keyed  laneHeap // the lane with the least key on top; used with aging, in place of lead
}

// keptLanes is how many empty lanes stay in the map, ready for the next task of their
// priority.
const keptLanes = 448

// The length of recent.
const (
	leastRecent = 16
	mostRecent  = 1 << 12
)

func (q *priorityQueue) init() {
	q.lanes = make(map[laneKey]*lane)
	q.makeRecent(leastRecent)
	for i := range q.classes {
		c := &q.classes[i]
		c.lead = newLaneHeap(heapLead, moreUrgent, false)
		c.keyed = newLaneHeap(heapKeyed, keyFirst, q.step == 0)
	}
	q.plain.init(nil)
	q.spare = newLaneHeap(heapSpare, spareFirst, !q.shed)
}

// moreUrgent orders lanes by priority. Tasks that resume go before tasks of their own
// priority that do not. Flows take turns, see fair_queue.go. Within a flow lanes are ordered
// by kind and, of those that hold first and second places of the same kind of tasks, the one
// with the older front goes first.
func moreUrgent(a, b *lane) bool {
	if a.priority != b.priority {
		return a.priority < b.priority
	}
	if a.kind.resumes() != b.kind.resumes() {
		return a.kind.resumes()
	}
	if a.flow != nil && b.flow != nil && a.flow.tag != b.flow.tag {
		return a.flow.tag.before(b.flow.tag)
	}
	if a.kind.rank() != b.kind.rank() {
		return a.kind.rank() < b.kind.rank()
	}
	if x, y := a.order(), b.order(); x != y {
		return x < y
	}
	return a.kind < b.kind
}

// keyFirst orders lanes by key. If keys are equal, the older front task goes first,
// and of tasks that arrived at the same time the more urgent one.
func keyFirst(a, b *lane) bool {
	if a.key != b.key {
		return a.key < b.key
	}
	if x, y := a.order(), b.order(); x != y {
		return x < y
	}
	return moreUrgent(a, b)
}

// spareFirst orders lanes by what may be shed from them.
func spareFirst(a, b *lane) bool {
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	return a.length() > b.length()
}

// length returns how long l is for its flow: with twice the weight it may be twice as long.
func (l *lane) length() int64 {
	if l.flow == nil {
		return 0 // the only one of its priority
	}
	return int64(l.fresh) * l.flow.set.of.flow.cost()
}

// push puts e at the back of the lane of its flow and of key k. Orders must not decrease from
// one push to the next.
func (q *priorityQueue) push(e entry, k laneKey) {
	var l *lane
	if e.h != nil && e.h.flow != nil {
		l = q.laneOf(e.h.flow, k, e.h.placed)
	} else {
		l = q.lane(k)
	}
	q.pushLane(l, e)
}

// pushLane puts e at the back of l.
func (q *priorityQueue) pushLane(l *lane, e entry) {
	s := l.tail
	if s == nil || int(s.tail) == len(s.slots) {
		s = q.appendSegment(l)
	}
	e.order -= s.base // not 0 if s came from the inbox with room left
	s.slots[s.tail] = e
	if e.h != nil {
		*l.placeOf(e.h) = place{l, s, s.tail, q.in}
	}
	s.tail++
	s.live++
	l.n++
	q.counted(l, e, +1)
	if e.fresh() {
		s.fresh++
		l.fresh++
	}
	if l.n == 1 {
		q.enter(l)
	} else if e.fresh() {
		q.updateSpare(l)
	}
}

// reorder restores the heap lead after the tag or the front of l has changed.
func (q *priorityQueue) reorder(l *lane) {
	if s := q.set(l); s.named() {
		q.updateFaces(s)
	} else {
		l.class.lead.fix(l)
	}
}

// counted counts e, which has come into l if n is 1, or was taken from it if n is -1.
func (q *priorityQueue) counted(l *lane, e entry, n int) {
	parked := e.parked()
	if parked {
		l.parked += n
	}
	out := false
	if s := q.set(l); s.named() {
		out = s.out
		s.count(l, q.class(l), parked, int32(n))
	}
	switch {
	case l.kind.second():
		if !out {
			q.seconds += n
		}
	case out:
		if q.heldBack += n; !parked {
			q.heldQueued += n
		}
	default:
		if q.n += n; q.reserve == nil {
			return
		}
		if l.class.n += n; !parked {
			l.class.queued += n
		}
	}
}

// recently returns the place in recent for the lane of key k.
func (q *priorityQueue) recently(k laneKey) **lane {
	return &q.recent[int(k.priority)&(len(q.recent)-1)]
}

// lane returns the lane of key k, and makes it if there is none.
func (q *priorityQueue) lane(k laneKey) *lane {
	recent := q.recently(k)
	if l := *recent; l != nil && l.laneKey == k {
		return l
	}
	l := q.lanes[k]
	if l == nil {
		l = &lane{laneKey: k, class: q.classOf(k), dispatched: q.count(k.priority)}
		for i := range l.pos {
			l.pos[i] = -1
		}
		q.lanes[k] = l
		q.peak = max(q.peak, len(q.lanes))
		if n := len(q.recent); len(q.lanes) > n && n < mostRecent {
			q.makeRecent(2 * n)
			return l
		}
	}
	*recent = l
	return l
}

// makeRecent rebuilds recent with n places. n must be a power of two.
func (q *priorityQueue) makeRecent(n int) {
	q.recent = make([]*lane, n)
	for k, l := range q.lanes {
		*q.recently(k) = l
	}
}

// next returns the lane of the task whose turn it is, nil if none waits: the most
// urgent one, the first by key with aging or, in a fair-share turn, the one that has
// waited longest. If restricted is set, only the first class counts. choice says
// whether there was more than one lane, other than two of one task.
func (q *priorityQueue) next(restricted bool) (l *lane, choice bool) {
	classes := q.reach(restricted)
	l, lanes := top(classes, q.step > 0)
	choice = lanes > 2 || lanes == 2 && (q.seconds == 0 || !q.sameFront(restricted))
	switch {
	case choice && q.turnDue(restricted):
		l = q.turnOf(restricted)
	case l != nil && l.flow != nil:
		l = q.ownTurn(l, restricted)
	case choice && q.step > 0 && l.kind.rank() > 0:
		l = q.firstOfPriority(l, restricted)
	}
	return l, choice
}

// sameFront reports whether the lanes that such a dispatch can serve, which are two, begin with
// the same task, by its first and its second place.
func (q *priorityQueue) sameFront(restricted bool) bool {
	l, _ := top(q.reach(restricted), false)
	h := l.front().h
	if h == nil || h.loan == nil || h.loan.second.lane == nil {
		return false
	}
	first, second := h.place.lane, h.loan.second.lane
	return first.front().h == h && second.front().h == h && (!restricted || q.class(first) == 0 && q.class(second) == 0)
}

// firstOfPriority returns the lane that goes before l, or l: with aging, too, tasks that
// resume, or were lent to, go before others of their priority.
func (q *priorityQueue) firstOfPriority(l *lane, restricted bool) *lane {
	for _, k := range [...]laneKind{kindResuming, kindResumingLent, kindLent} {
		o := q.lanes[laneKey{l.priority, k}]
		switch {
		case o == nil || o.n == 0 || restricted && q.class(o) > 0 || k.rank() > l.kind.rank():
		case k.rank() < l.kind.rank() || o.order() < l.order():
			l = o
		}
	}
	return l
}

// firstByAge returns how many tasks at the front of l, whose turn it is, come before
// those of all other lanes with aging. There must be another lane. It looks at no more
// than the first n, and at few enough to take little time. Like a burst, it takes no
// account of reservations. If it is l's turn because its tasks resume, the result does
// not matter: it is about functions, and l has none.
func (q *priorityQueue) firstByAge(l *lane, n int) int {
	others := l.class.keyed.items[1:] // l is on top of the heap
	next := others[0].key
	if len(others) > 1 {
		next = min(next, others[1].key)
	}
	head := mulSaturating(int64(l.priority), int64(q.step))
	s := l.head
	n = min(n, 64)
	for i := range n {
		if addSaturating(s.base+s.slots[int(s.head)+i].order, head) >= next {
			return i
		}
	}
	return n
}

// restriction returns the index in turn: 0 for dispatches among all lanes, 1 for those in
// the first class only.
func restriction(restricted bool) int {
	if restricted {
		return 1
	}
	return 0
}

// giveTurnBack undoes the fair-share count of a task that was taken with a choice and turned
// out not to start.
func (q *priorityQueue) giveTurnBack(restricted bool) {
	if q.share > 0 {
		turn := &q.turn[restriction(restricted)]
		*turn = (*turn + q.share - 1) % q.share
	}
}

// serve counts that the first task of l is about to be taken in its turn, given the results
// of next.
func (q *priorityQueue) serve(l *lane, choice, restricted bool) {
	q.charge(l, choice && q.turnDue(restricted), restricted)
	if choice && q.share > 0 {
		turn := &q.turn[restriction(restricted)]
		*turn = (*turn + 1) % q.share
	}
}

// turnDue reports whether the next dispatch with a choice is a fair-share turn.
func (q *priorityQueue) turnDue(restricted bool) bool {
	return q.share > 0 && q.turn[restriction(restricted)]+1 >= q.share
}

// skip records that the first n tasks of l were taken out of their slots. All are in l's
// first segment, and the last task of l is not among them.
func (q *priorityQueue) skip(l *lane, n int) {
	if n == 0 {
		return
	}
	s := l.head
	s.head += int32(n)
	s.live -= int32(n)
	s.fresh -= int32(n)
	l.n -= n
	l.fresh -= n
	q.updateSpare(l)
	q.n -= n
	if q.share > 0 && q.classes[0].lanes+q.classes[1].lanes > 1 {
		q.turn[0] += uint64(n)
	}
	if s.live == 0 {
		l.unlink(s)
		q.release(s)
	} else {
		for !s.slots[s.head].live() {
			s.head++
		}
	}
	if q.step > 0 {
		l.key = q.key(l)
		l.class.keyed.fix(l)
	}
}

// leastPriority returns the priority of the most urgent waiting task, false if none waits.
func (q *priorityQueue) leastPriority() (Priority, bool) {
	for i := range q.classes {
		if lead := q.classes[i].lead.items; len(lead) > 0 {
			return lead[0].priority, true
		}
	}
	return 0, false
}

// remove takes h, which waits in the queue, out of it.
func (q *priorityQueue) remove(h *Handle) entry { return q.removeFrom(&h.place) }

// removeFrom takes the entry in place p.
func (q *priorityQueue) removeFrom(p *place) entry { return q.take(p.lane, p.seg, p.i) }

// takeShed takes the newest of the least urgent tasks that have never started, if it is less
// urgent than pr. Otherwise it returns false. Of several flows it takes from the longest, and
// also if that is as urgent as pr, unless that makes it shorter than f, the newcomer's.
func (q *priorityQueue) takeShed(pr Priority, f *flow) (entry, Priority, bool) {
	if len(q.spare.items) == 0 {
		return entry{}, 0, false
	}
	l := q.spare.items[0]
	if l.priority < pr || l.priority == pr && !l.outstays(q, f) {
		return entry{}, 0, false
	}
	return q.takeNewest(l), l.priority, true
}

// takeNewest takes the newest task of l that has never started.
func (q *priorityQueue) takeNewest(l *lane) entry {
	s := l.tail
	for s.fresh == 0 {
		s = s.prev
	}
	i := s.tail - 1
	for e := &s.slots[i]; !e.live() || !e.fresh(); e = &s.slots[i] {
		i--
	}
	return q.take(l, s, i)
}

// take removes the live entry in slot i of segment s of lane l.
func (q *priorityQueue) take(l *lane, s *segment, i int32) entry {
	e := s.slots[i]
	e.order += s.base
	s.slots[i] = entry{}
	s.live--
	l.n--
	q.counted(l, e, -1)
	wasFresh := e.fresh()
	if wasFresh {
		s.fresh--
		l.fresh--
	}
	if e.h != nil {
		*l.placeOf(e.h) = place{}
	}
	wasFront := s == l.head && i == s.head
	if s.live == 0 {
		l.unlink(s)
		q.release(s)
		if l.n == 0 {
			q.leave(l)
			return e
		}
	} else {
		for !s.slots[s.head].live() {
			s.head++
		}
		if i == s.tail-1 {
			for !s.slots[s.tail-1].live() {
				s.tail--
			}
		}
	}
	if wasFront {
		if q.seconds > 0 || q.owner(l).holders != nil { // of two lanes of its kind the fronts decide
			q.reorder(l)
		}
		if q.step > 0 {
			l.key = q.key(l)
			l.class.keyed.fix(l)
		}
	}
	if wasFresh {
		q.updateSpare(l)
	}
	return e
}

// key returns l's key in the heap keyed: the time at which a task of priority 0 would
// have had to arrive to be as urgent as l's front. All tasks age at the same rate, so
// keys do not change over time.
func (q *priorityQueue) key(l *lane) int64 { return q.keyOf(l.order(), l.priority) }

func (q *priorityQueue) keyOf(order int64, pr Priority) int64 {
	return addSaturating(order, mulSaturating(int64(pr), int64(q.step)))
}

// all returns the waiting tasks by their first places, the most urgent first. Within a
// priority, those that resume come first, and each lane is listed from front to back.
func (q *priorityQueue) all() iter.Seq2[Priority, entry] {
	return func(yield func(Priority, entry) bool) {
		for _, l := range q.sorted() {
			for e := range l.all() {
				if !yield(l.priority, e) {
					return
				}
			}
		}
	}
}

// filled returns the lanes that are not empty, with those that are held back.
func (q *priorityQueue) filled() []*lane {
	var lanes []*lane
	for i := range q.classes {
		for _, l := range q.classes[i].lead.items {
			switch s := q.set(l); {
			case !s.named():
				lanes = append(lanes, l)
			case i == 0 || s.face[0] == nil:
				lanes = append(lanes, s.lanes...)
			}
		}
	}
	for _, fl := range q.heldFlows {
		lanes = append(lanes, fl.open.lanes...)
	}
	return lanes
}

// sorted returns the lanes of first places that are not empty, the most urgent first, with
// those that are held back.
func (q *priorityQueue) sorted() []*lane {
	lanes := slices.DeleteFunc(q.filled(), func(l *lane) bool { return l.kind.second() })
	slices.SortFunc(lanes, func(a, b *lane) int {
		if moreUrgent(a, b) {
			return -1
		}
		return 1 // no two lanes are equal
	})
	return lanes
}
