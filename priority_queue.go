package taskpool

import (
	"cmp"
	"container/heap"
	"iter"
	"math"
	"slices"
	"time"
)

// A priorityQueue holds waiting tasks: one FIFO lane for each priority, and the
// lanes that are not empty in heaps. So its cost depends on the number of
// distinct waiting priorities, not on the number of waiting tasks: push, pop
// and remove are O(log priorities), and O(1) while their lane keeps its place.
//
// Invariants, for every lane l:
//   - l is in the heaps if and only if it holds a live entry;
//   - the first slot of l.head is live then, and so is the last of l.tail;
//   - orders grow from the front of l to its back;
//   - l.age is at most the order of l's front (see oldest).
//
// It is not safe for concurrent use.
type priorityQueue struct {
	// Fixed after init.
	share uint64        // a fair-share turn comes every share dispatches; 0: never
	step  time.Duration // ageing: the waiting time worth one priority; 0: off

	n      int // waiting tasks
	lanes  map[Priority]*lane
	urgent laneHeap // the most urgent lane on top
	old    laneHeap // the lane with the oldest front on top; used if share > 0
	spare  laneHeap // the least urgent lane with a task to shed on top; used if init was told so
	turn   uint64   // dispatches with a choice since the last fair-share turn
	cache  *segment // an empty segment kept for the next push that needs one
}

// Emptied lanes stay in the map, ready for the next task of their priority, as
// long as the map holds at most this many.
const keptLanes = 64

// An entry is one waiting task: a function given to Go or a handle.
type entry struct {
	f func()
	h *Handle
	// order is the task's age: its number in order of arrival or, with
	// ageing, its time of arrival in nanoseconds since the pool's start.
	order int64
}

func (e *entry) live() bool { return e.f != nil || e.h != nil }

// fresh reports whether no attempt of the task has started. Only such a task
// may be shed.
func (e *entry) fresh() bool { return e.h == nil || e.h.attempts == 0 }

// A place is where in the queue a handle waits.
type place struct {
	lane *lane
	seg  *segment
	i    int32
}

// A lane is the waiting tasks of one priority, first in, first out.
type lane struct {
	priority   Priority
	head, tail *segment // a doubly linked list; nil if never used or handed back
	n          int      // live entries
	fresh      int      // those that have never started
	age        int64    // key in the heap old: a lower bound of the front's order
	key        int64    // key in the heap urgent
	pos        [3]int   // index in each heap, by laneHeap.id; -1: not in it
}

// A segment is a run of slots of a lane. The size makes it fill an allocation
// class of 2048 bytes. A slot is cleared as soon as its task is taken, so that
// a finished task's closure is garbage; a task removed from the middle leaves
// an empty slot behind, and a segment left without a live slot leaves the lane.
type segment struct {
	prev, next *segment
	head, tail int32 // live entries are within slots[head:tail]
	live       int32
	fresh      int32
	slots      [84]entry
}

func (q *priorityQueue) init(share uint64, step time.Duration, shed bool) {
	q.share, q.step = share, step
	q.lanes = make(map[Priority]*lane)
	q.urgent = laneHeap{id: 0, less: func(a, b *lane) bool {
		if a.key != b.key {
			return a.key < b.key
		}
		// Only with ageing are there equal keys. The older task goes first,
		// and between tasks of one instant the more urgent.
		if x, y := a.front().order, b.front().order; x != y {
			return x < y
		}
		return a.priority < b.priority
	}}
	if share > 0 {
		q.old = laneHeap{id: 1, less: func(a, b *lane) bool { return a.age < b.age }}
	}
	if shed {
		q.spare = laneHeap{id: 2, less: func(a, b *lane) bool {
			if (a.fresh > 0) != (b.fresh > 0) {
				return a.fresh > 0
			}
			return a.priority > b.priority
		}}
	}
}

// push puts e at the back of its priority's lane. Orders must never decrease
// from one push to the next.
func (q *priorityQueue) push(e entry, pr Priority) {
	l := q.lanes[pr]
	if l == nil {
		l = &lane{priority: pr, pos: [3]int{-1, -1, -1}}
		q.lanes[pr] = l
	}
	s := l.tail
	if s == nil || int(s.tail) == len(s.slots) {
		s = q.appendSegment(l)
	}
	s.slots[s.tail] = e
	if e.h != nil {
		e.h.place = place{l, s, s.tail}
	}
	s.tail++
	s.live++
	l.n++
	q.n++
	if e.fresh() {
		s.fresh++
		l.fresh++
	}
	if l.n == 1 {
		l.age = e.order
		l.key = q.key(l)
		for h := range q.heaps() {
			heap.Push(h, l)
		}
	} else if l.fresh == 1 && e.fresh() {
		q.fixSpare(l)
	}
}

// next returns the lane of the task whose turn it is: the most urgent one or,
// when the fair share has its turn, the one that waits longest. The queue must
// not be empty.
func (q *priorityQueue) next() *lane {
	if q.choice() && q.turn+1 >= q.share {
		return q.oldest()
	}
	return q.urgent.lanes[0]
}

// choice reports whether a dispatch counts for the fair share.
func (q *priorityQueue) choice() bool { return q.share > 0 && len(q.urgent.lanes) > 1 }

// pop takes the task whose turn it is, and returns its priority with it.
func (q *priorityQueue) pop() (entry, Priority, bool) {
	if q.n == 0 {
		return entry{}, 0, false
	}
	l := q.next()
	if q.choice() {
		q.turn = (q.turn + 1) % q.share
	}
	return q.take(l, l.head, l.head.head), l.priority, true
}

// oldest returns the lane whose front has waited longest. A lane's front only
// gets younger while it is in the heaps, so its age there may lag behind; it is
// brought up to date when it comes to the top. A dispatch makes at most one
// lane lag, so this is O(log lanes) a dispatch, and next to nothing where most
// dispatches take from one lane.
func (q *priorityQueue) oldest() *lane {
	for {
		l := q.old.lanes[0]
		if l.age == l.front().order {
			return l
		}
		l.age = l.front().order
		heap.Fix(&q.old, 0)
	}
}

// remove takes a waiting handle out of the queue.
func (q *priorityQueue) remove(h *Handle) entry {
	return q.take(h.place.lane, h.place.seg, h.place.i)
}

// shed takes the newest of the least urgent tasks that have never started, if
// it is less urgent than pr.
func (q *priorityQueue) shed(pr Priority) (entry, Priority, bool) {
	if q.n == 0 {
		return entry{}, 0, false
	}
	l := q.spare.lanes[0]
	if l.fresh == 0 || l.priority <= pr {
		return entry{}, 0, false
	}
	s := l.tail
	for s.fresh == 0 {
		s = s.prev
	}
	i := s.tail - 1
	for e := &s.slots[i]; !e.live() || !e.fresh(); e = &s.slots[i] {
		i--
	}
	return q.take(l, s, i), l.priority, true
}

// take removes the live entry in slot i of segment s of lane l.
func (q *priorityQueue) take(l *lane, s *segment, i int32) entry {
	e := s.slots[i]
	s.slots[i] = entry{}
	s.live--
	l.n--
	q.n--
	wasFresh := e.fresh()
	if wasFresh {
		s.fresh--
		l.fresh--
	}
	if e.h != nil {
		e.h.place = place{}
	}
	wasFront := s == l.head && i == s.head
	switch {
	case l.n == 0:
		for h := range q.heaps() {
			heap.Remove(h, l.pos[h.id])
		}
		s.head, s.tail = 0, 0 // the lane's only segment
		if len(q.lanes) > keptLanes {
			delete(q.lanes, l.priority)
			q.release(s)
		}
		return e
	case s.live == 0:
		l.unlink(s)
		q.release(s)
	default:
		for !s.slots[s.head].live() {
			s.head++
		}
		for !s.slots[s.tail-1].live() {
			s.tail--
		}
	}
	if wasFront && q.step > 0 {
		l.key = q.key(l)
		heap.Fix(&q.urgent, l.pos[q.urgent.id])
	}
	if wasFresh && l.fresh == 0 {
		q.fixSpare(l)
	}
	return e
}

// key returns l's key in the heap urgent: its priority or, with ageing, the
// time at which its front would have arrived to be where it is with priority 0.
// Both operands of a comparison grow alike as time goes by, so it is computed
// once.
func (q *priorityQueue) key(l *lane) int64 {
	if q.step == 0 {
		return int64(l.priority)
	}
	return addSaturating(l.front().order, mulSaturating(int64(l.priority), int64(q.step)))
}

// heaps returns the heaps in use.
func (q *priorityQueue) heaps() iter.Seq[*laneHeap] {
	return func(yield func(*laneHeap) bool) {
		for _, h := range [...]*laneHeap{&q.urgent, &q.old, &q.spare} {
			if h.less != nil && !yield(h) {
				return
			}
		}
	}
}

func (q *priorityQueue) fixSpare(l *lane) {
	if q.spare.less != nil {
		heap.Fix(&q.spare, l.pos[q.spare.id])
	}
}

// all returns the waiting tasks, by priority and within one from front to back.
func (q *priorityQueue) all() iter.Seq2[Priority, entry] {
	return func(yield func(Priority, entry) bool) {
		for _, l := range q.byPriority() {
			for s := l.head; s != nil; s = s.next {
				for _, e := range s.slots[s.head:s.tail] {
					if e.live() && !yield(l.priority, e) {
						return
					}
				}
			}
		}
	}
}

// byPriority returns the lanes that are not empty, the most urgent first.
func (q *priorityQueue) byPriority() []*lane {
	return slices.SortedFunc(slices.Values(q.urgent.lanes), func(a, b *lane) int {
		return cmp.Compare(a.priority, b.priority)
	})
}

func (q *priorityQueue) appendSegment(l *lane) *segment {
	s := q.cache
	if q.cache = nil; s == nil {
		s = new(segment)
	}
	if s.prev = l.tail; s.prev == nil {
		l.head = s
	} else {
		s.prev.next = s
	}
	l.tail = s
	return s
}

// release keeps an empty segment for the next push, or leaves it to the garbage
// collector.
func (q *priorityQueue) release(s *segment) {
	if q.cache == nil {
		s.prev, s.next, s.head, s.tail = nil, nil, 0, 0
		q.cache = s
	}
}

// front returns the first entry of a lane that is not empty.
func (l *lane) front() *entry { return &l.head.slots[l.head.head] }

func (l *lane) unlink(s *segment) {
	if s.prev == nil {
		l.head = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		l.tail = s.prev
	} else {
		s.next.prev = s.prev
	}
}

// A laneHeap is a [heap.Interface] of lanes.
type laneHeap struct {
	id    int // which of lane.pos is this heap's
	less  func(a, b *lane) bool
	lanes []*lane
}

func (h *laneHeap) Len() int           { return len(h.lanes) }
func (h *laneHeap) Less(i, j int) bool { return h.less(h.lanes[i], h.lanes[j]) }

func (h *laneHeap) Swap(i, j int) {
	h.lanes[i], h.lanes[j] = h.lanes[j], h.lanes[i]
	h.lanes[i].pos[h.id], h.lanes[j].pos[h.id] = i, j
}

func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.pos[h.id] = len(h.lanes)
	h.lanes = append(h.lanes, l)
}

func (h *laneHeap) Pop() any {
	last := len(h.lanes) - 1
	l := h.lanes[last]
	h.lanes[last] = nil
	h.lanes = h.lanes[:last]
	l.pos[h.id] = -1
	return l
}

func addSaturating(a, b int64) int64 {
	sum := a + b
	if (sum > a) != (b > 0) && b != 0 {
		if b > 0 {
			return math.MaxInt64
		}
		return math.MinInt64
	}
	return sum
}

func mulSaturating(a, b int64) int64 {
	product := a * b
	if a != 0 && (product/a != b || (a == -1 && b == math.MinInt64)) {
		if (a > 0) == (b > 0) {
			return math.MaxInt64
		}
		return math.MinInt64
	}
	return product
}
