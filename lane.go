package taskpool

import (
	"container/heap"
	"iter"
	"math"
	"slices"
)

// A lane is a FIFO queue of the waiting tasks with one laneKey.
type lane struct {
	laneKey
	class      *laneClass
	head, tail *segment        // a doubly linked list; nil if the lane is empty
	n          int             // live entries
	fresh      int             // live entries that have never started
	parked     int             // live entries whose attempt is under way
	dispatched *uint64         // counts the attempts started with its tasks, see priorityQueue.totals
	age        int64           // key in the heap old: a lower bound on the front's order
	key        int64           // key in the heap keyed
	pos        [numHeaps]int32 // index in each heap; -1 if it is not in that heap
	flow       *laneFlow       // of a named flow, or in a group; nil otherwise
	own        *segment        // of a named flow: its first segment whenever it begins to fill; nil otherwise
}

// A laneKey identifies a lane.
type laneKey struct {
	priority Priority
	kind     laneKind
}

// A laneKind says which tasks wait in a lane. Those of lower rank go first within a priority.
// An odd kind is of second places, whose priority is what their tasks were lent, see loan.go.
type laneKind uint8

const (
	kindResuming     laneKind = 0 // started and want to go on
	kindResumingLent laneKind = 1
	kindLent         laneKind = 3 // have not started, and were lent to
	kindOrdinary     laneKind = 4 // have not started, or go behind those: their quantum is over
	kindOrdinaryLent laneKind = 5 // likewise behind those that have not started, and submitters
)

func (k laneKind) rank() laneKind { return k >> 1 }
func (k laneKind) second() bool   { return k&1 != 0 }
func (k laneKind) resumes() bool  { return k.rank() == 0 }

// placeOf returns which place of h is in l.
func (l *lane) placeOf(h *Handle) *place {
	if l.kind.second() {
		return &h.loan.second
	}
	return &h.place
}

// all returns the entries of l, from front to back, with their orders.
func (l *lane) all() iter.Seq[entry] {
	return func(yield func(entry) bool) {
		for s := l.head; s != nil; s = s.next {
			for _, e := range s.slots[s.head:s.tail] {
				e.order += s.base
				if e.live() && !yield(e) {
					return
				}
			}
		}
	}
}

// front returns the first entry of a lane that is not empty.
func (l *lane) front() *entry { return &l.head.slots[l.head.head] }

// order returns the order of the first entry of a lane that is not empty.
func (l *lane) order() int64 { return l.head.base + l.front().order }

// urgency returns what the first entry of a lane that is not empty counts as.
func (l *lane) urgency() Priority {
	if h := l.front().h; h != nil {
		return h.urgency()
	}
	return l.priority
}

// link puts s at the back of l.
func (l *lane) link(s *segment) {
	if s.prev = l.tail; s.prev == nil {
		l.head = s
	} else {
		s.prev.next = s
	}
	l.tail = s
}

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

// waiting returns how many entries of priority pr or more urgent are in a class, up to more
// than enough. It looks at no more lanes than that.
func (q *priorityQueue) waiting(class int, pr Priority, enough int) int {
	return q.waitingBelow(class, 0, pr, enough)
}

// waitingBelow is waiting for the part of the heap below index i.
func (q *priorityQueue) waitingBelow(class, i int, pr Priority, enough int) int {
	lead := q.classes[class].lead.items
	if i >= len(lead) || lead[i].priority > pr {
		return 0 // nor is any below it
	}
	n := lead[i].n
	if s := q.set(lead[i]); s.named() {
		n = s.waiting(q, class, pr, enough)
	}
	for child := 2*i + 1; child <= 2*i+2 && n <= enough; child++ {
		n += q.waitingBelow(class, child, pr, enough-n)
	}
	return n
}

// reach returns the classes whose tasks may have a slot.
func (q *priorityQueue) reach(restricted bool) []laneClass {
	if restricted {
		return q.classes[:1]
	}
	return q.classes[:]
}

// top returns the most urgent lane, by key with aging, and how many lanes there are.
func top(classes []laneClass, aging bool) (l *lane, lanes int) {
	for i := range classes {
		c := &classes[i]
		lanes += c.lanes
		switch {
		case len(c.lead.items) == 0:
		case aging:
			if top := c.keyed.items[0]; l == nil || keyFirst(top, l) {
				l = top
			}
		case l == nil || moreUrgent(c.lead.items[0], l):
			l = c.lead.items[0]
		}
	}
	return l, lanes
}

// A laneHeap is a heap of lanes.
type laneHeap struct {
	indexedHeap[*lane]
	id  int  // index of this heap in lane.pos
	off bool // the heap is not needed and stays empty
}

func newLaneHeap(id int, less func(a, b *lane) bool, off bool) laneHeap {
	return laneHeap{indexedHeap[*lane]{less: less, moved: func(l *lane, i int) { l.pos[id] = int32(i) }}, id, off}
}

const (
	heapLead = iota
	heapKeyed
	heapOld
	heapSpare
	numHeaps
)

// add puts l into h, unless h is off.
func (h *laneHeap) add(l *lane) {
	if !h.off {
		h.indexedHeap.add(l)
	}
}

// drop takes l out of h, unless h is off.
func (h *laneHeap) drop(l *lane) {
	if !h.off {
		h.remove(int(l.pos[h.id]))
		h.items = shrunk(h.items)
	}
}

// fix restores h after l's key in it has changed.
func (h *laneHeap) fix(l *lane) {
	if !h.off {
		heap.Fix(h, int(l.pos[h.id]))
	}
}

func (h *laneHeap) shrink() { h.items = append([]*lane(nil), h.items...) }

// enter puts l, which was empty, into the heaps, unless it is held back.
func (q *priorityQueue) enter(l *lane) {
	if !q.fair {
		q.plain.open.filled[q.class(l)]++
	} else {
		q.beginFlowLane(l)
	}
	l.age = l.order()
	s := q.set(l)
	if q.share > 0 {
		s.addByAge(q, l)
	}
	q.updateSpare(l)
	if s.out {
		return
	}
	l.class.lanes++
	if s.named() {
		q.updateFaces(s)
	} else {
		l.class.lead.add(l)
		if q.step > 0 {
			l.key = q.key(l)
			l.class.keyed.add(l)
		}
	}
	if q.fair {
		q.updateRing(s.of)
	}
}

// leave takes l, which is empty now, out of the heaps, and forgets it if it is of a named
// flow, or enough empty lanes are kept.
func (q *priorityQueue) leave(l *lane) {
	s := q.set(l)
	if l.pos[heapOld] >= 0 {
		heap.Remove(&s.old[q.class(l)], int(l.pos[heapOld]))
	}
	if !s.out {
		l.class.lanes--
	}
	q.updateSpare(l)
	if s.named() {
		q.endFlowLane(l)
		return
	}
	l.class.lead.drop(l)
	l.class.keyed.drop(l)
	if !q.fair {
		s.filled[q.class(l)]--
	} else {
		q.endFlowLane(l)
	}
	waiting := q.plain.waits(false)
	if len(q.lanes)-waiting <= keptLanes {
		return
	}
	delete(q.lanes, l.laneKey)
	*q.recently(l.laneKey) = nil
	if q.peak > 16*keptLanes && waiting < keptLanes {
		q.shrink()
	}
}

// shrink rebuilds the map and the heaps, without the empty lanes, as they never give
// back the memory for the largest number of lanes they have held.
func (q *priorityQueue) shrink() {
	lanes := q.lanes
	q.lanes, q.peak = make(map[laneKey]*lane), 0
	for k, l := range lanes {
		if l.n > 0 {
			q.lanes[k] = l
			q.peak++
		}
	}
	q.makeRecent(leastRecent)
	q.spare.shrink()
	for i := range q.classes {
		c := &q.classes[i]
		c.lead.shrink()
		c.keyed.shrink()
		if old := q.plain.open.old; old != nil {
			old[i] = slices.Clone(old[i])
		}
	}
}

// A segment is a run of slots of a lane. A slot is cleared as soon as its task is
// taken, so that a finished task's closure is garbage; a task removed from the
// middle leaves an empty slot behind, and a segment left without a live slot
// leaves the lane.
type segment struct {
	prev, next *segment
	slots      []entry
	head, tail int32 // all live entries are in slots[head:tail]
	live       int32
	fresh      int32
	size       int32 // index in segmentSlots
	handles    int32 // of a batch from the inbox: how many entries in slots are handles
	base       int64 // added to the orders in slots
}

// segmentSlots lists the sizes of segments. A lane's first segment is small, since
// there may be very many lanes. Those of a long lane are large. Segments of batchSize come from
// the inbox.
var segmentSlots = [...]int{4, 20, 82, 1020}

// singleSize is the size of segments of a single slot. Each lane of a named flow has one of its
// own, since a flow may have a single task.
const singleSize = int32(len(segmentSlots))

// newSegment returns a segment of size segmentSlots[size], in one allocation. With
// the 8 bytes that the runtime adds to those of more than 512, they fill allocation
// classes of 176, 576, 2048 and 24576 bytes.
func newSegment(size int32) *segment {
	switch size {
	case 0:
		s := new(struct {
			segment
			array [4]entry
		})
		s.slots = s.array[:]
		return &s.segment
	case 1:
		s := new(struct {
			segment
			array [20]entry
		})
		s.slots, s.size = s.array[:], 1
		return &s.segment
	case 2:
		s := new(struct {
			segment
			array [82]entry
		})
		s.slots, s.size = s.array[:], 2
		return &s.segment
	default:
		s := new(struct {
			segment
			array [1020]entry
		})
		s.slots, s.size = s.array[:], 3
		return &s.segment
	}
}

// A segmentStack keeps empty segments of one size for pushes that need one. Together
// they have at most keptSlots slots. The one on top was used last and is likely in the
// processor's cache.
type segmentStack struct {
	top *segment // linked by next
	n   int
}

const keptSlots = 4096

// appendSegment adds an empty segment at the back of l and returns it.
func (q *priorityQueue) appendSegment(l *lane) *segment {
	size := int32(0)
	switch {
	case l.tail == nil && l.own != nil:
		l.link(l.own)
		return l.own
	case l.n >= segmentSlots[1]:
		size = 2
	case l.tail != nil && l.tail.size != singleSize:
		size = 1
	}
	s := q.segment(size)
	l.link(s)
	return s
}

// segment returns an empty segment of size segmentSlots[size].
func (q *priorityQueue) segment(size int32) *segment {
	free := &q.free[size]
	s := free.top
	if s == nil {
		return newSegment(size)
	}
	free.top = s.next
	free.n--
	s.next = nil
	return s
}

// release keeps an empty segment for the next push that needs one, or leaves it to
// the garbage collector.
func (q *priorityQueue) release(s *segment) {
	if s.size == singleSize { // its lane's own
		s.prev, s.next, s.head, s.tail, s.base = nil, nil, 0, 0, 0
		return
	}
	free := &q.free[s.size]
	if (free.n+1)*len(s.slots) > keptSlots {
		return
	}
	s.prev, s.next, s.head, s.tail, s.handles, s.base = nil, free.top, 0, 0, 0, 0
	free.top = s
	free.n++
}

// numberBatch sets the orders of the first n tasks of batch, which are in order of arrival.
func (s *scheduler) numberBatch(batch *segment, n int) {
	if !s.aging {
		batch.base = s.seq + 1
		s.seq += int64(n)
		return
	}
	tasks := batch.slots[:n]
	for i := 0; i < n && tasks[i].order < s.seq; i++ {
		tasks[i].order = s.seq // its time was read before a lock, and others got ahead
	}
	s.seq = tasks[n-1].order
}

// takeBatch puts the first n tasks of a numbered batch into the queue; spans says which
// priorities they have. whole says that none of them is missing, so that the batch may
// become a segment of the queue. takeBatch returns an empty segment for the next batch.
func (s *scheduler) takeBatch(batch *segment, n int, spans []span, whole bool) *segment {
	if whole && len(spans) == 1 && (n >= wholeBatch || n >= worthWhole && s.queue.n == 0) {
		s.queue.pushSegment(batch, n, spans[0].priority)
		return s.queue.segment(batchSize)
	}
	tasks, i := batch.slots[:n], 0
	for _, span := range spans {
		s.queue.pushAll(tasks[i:span.end], batch.base, span.priority)
		i = span.end
	}
	if !whole {
		for i := range tasks {
			if h := tasks[i].h; h != nil {
				s.heldBackChanged(h)
			}
		}
	}
	clear(tasks)
	batch.handles, batch.base = 0, 0
	return batch
}

// pushAll pushes tasks of one priority, with base added to their orders.
func (q *priorityQueue) pushAll(tasks []entry, base int64, pr Priority) {
	var l *lane // looked up at the first live task, as only leave may leave a lane empty
	for _, e := range tasks {
		switch {
		case !e.live():
			continue
		case e.h != nil && e.h.flow != nil:
			e.order += base
			q.push(e, laneKey{pr, kindOrdinary})
			continue
		case l == nil:
			l = q.lane(laneKey{pr, kindOrdinary})
		}
		e.order += base
		q.pushLane(l, e)
	}
}

// pushSegment pushes tasks of one priority that have not started: those in the first n
// slots of a segment that has no other tasks and whose base and handles are set. Neither
// pushSegment nor skip is called on a queue with a reservation.
func (q *priorityQueue) pushSegment(s *segment, n int, pr Priority) {
	l := q.lane(laneKey{pr, kindOrdinary})
	l.link(s)
	s.head, s.tail, s.live, s.fresh = 0, int32(n), int32(n), int32(n)
	if s.handles > 0 {
		for i := range n {
			if h := s.slots[i].h; h != nil {
				h.place = place{l, s, int32(i), q.in} // never a second place
			}
		}
	}
	q.n += n
	l.n += n
	l.fresh += n
	if l.n == n {
		q.enter(l)
	} else {
		q.updateSpare(l)
	}
}

// A burst is the functions at the front of the queue that come next whatever the
// fair share does. Each is taken when a worker is free, like all tasks, but all of
// them are counted together, at the end of the burst. Any other critical section of
// Pool.mu ends the burst first.
type burst struct {
	slots    []entry // the functions not yet taken
	taken    int
	lane     *lane // holds the slots, and at least one task behind them; nil: no burst
	priority int64
	choice   bool // the queue has another lane, or that makes no difference
}

// beginBurst begins a burst, if there is one to begin. The caller makes sure that free
// slots go only to tasks from the front of the queue.
func (s *scheduler) beginBurst(b *burst) {
	q := &s.queue
	if q.n < 2 {
		return
	}
	l, choice := q.next(false)
	if l.flow != nil { // flows take turns
		return
	}
	first := l.head
	if first.slots[first.head].h != nil {
		return
	}
	n := min(int(first.tail-first.head), l.n-1)
	switch {
	case !choice:
	case q.step > 0:
		n = q.firstByAge(l, n)
	case q.share > 0:
		n = min(n, int(q.share-1-q.turn[0]))
	}
	if n > 0 {
		*b = burst{slots: first.slots[first.head:][:n], lane: l, priority: int64(l.priority),
			choice: choice || q.share == 0}
	}
}

// endBurst ends a burst and counts the tasks it has taken. As many tasks have settled.
func (s *scheduler) endBurst(b *burst) {
	*b.lane.dispatched += uint64(b.taken)
	s.queue.skip(b.lane, b.taken)
	s.count[StateQueued] -= b.taken
	*b = burst{}
}

// count returns a pointer to the counter of attempts of priority pr.
func (q *priorityQueue) count(pr Priority) *uint64 { return &q.totals.of(pr).Attempts }

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
