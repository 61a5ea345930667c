package taskpool

import (
	"cmp"
	"container/heap"
	"slices"
)

// A laneSet is the lanes of one flow that are not empty, of tasks that hold a place of it or of
// tasks that hold none. Of those of named flows only the lane that goes first of each class, the
// face, is in the heap lead, and only the one that is shed from first is in the heap spare, so
// that a flow with many priorities is held back, and let go, as fast as one with a few. Those of
// the tasks without a flow are in the heaps themselves.
type laneSet struct {
	of      *flowLanes
	lanes   []*lane     // sorted by compareLanes; of a named flow only
	face    [2]*lane    // by class: the lane that is in the heap lead; nil if there is none, or if out is set
	spare   *lane       // the least urgent lane with a task to shed; nil if there is none, or nothing is shed
	old     *[2]ageHeap // by class; nil without a fair share, and in a set of few lanes
	filled  [2]int32    // lanes, by class
	n       [2]int32    // first places, by class; like the two below of a named flow only
	parked  [2]int32    // how many of these are of tasks that go on
	seconds int32       // second places
	out     bool        // held back: no lane is in the heaps lead and spare
}

// An ageHeap is a heap of the lanes of one set and one class. The one with the oldest front
// is on top.
type ageHeap []*lane

func (h ageHeap) Len() int           { return len(h) }
func (h ageHeap) Less(i, j int) bool { return h[i].age < h[j].age }
func (h ageHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos[heapOld], h[j].pos[heapOld] = int32(i), int32(j)
}

func (h *ageHeap) Push(x any) {
	l := x.(*lane)
	l.pos[heapOld] = int32(len(*h))
	*h = append(*h, l)
}

func (h *ageHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = shrunk((*h)[:last])
	l.pos[heapOld] = -1
	return l
}

// oldest returns the lane whose front has waited longest, nil if all are empty.
// While a lane is in the heap, its order only grows, so its age may lag behind;
// it is brought up to date when the lane comes to the top. A dispatch makes at most
// one lane lag, so this costs O(log lanes) per dispatch, and next to nothing if most
// dispatches take from one lane.
func (h *ageHeap) oldest() *lane {
	for len(*h) > 0 {
		l := (*h)[0]
		if l.age == l.order() {
			return l
		}
		l.age = l.order()
		heap.Fix(h, 0)
	}
	return nil
}

// manyLanes is with how many lanes a set of a named flow has heaps by age.
const manyLanes = 8

// addByAge puts l into the heap by age of its class, or those of all lanes of s if they are
// many now.
func (s *laneSet) addByAge(q *priorityQueue, l *lane) {
	switch {
	case s.old != nil:
		heap.Push(&s.old[q.class(l)], l)
	case !s.named():
		s.old = new([2]ageHeap)
		heap.Push(&s.old[q.class(l)], l)
	case len(s.lanes) >= manyLanes:
		s.old = new([2]ageHeap)
		for _, l := range s.lanes {
			l.age = l.order()
			heap.Push(&s.old[q.class(l)], l)
		}
	}
}

// oldest returns the lane of a class whose front has waited longest, nil if all are empty.
func (s *laneSet) oldest(q *priorityQueue, class int) (oldest *lane) {
	if s.old != nil {
		return s.old[class].oldest()
	}
	for _, l := range s.lanes {
		if q.class(l) == class && (oldest == nil || l.order() < oldest.order()) {
			oldest = l
		}
	}
	return oldest
}

// named reports whether s is of a named flow.
func (s *laneSet) named() bool { return s.of.flow != nil }

// compareLanes orders the lanes of one set.
func compareLanes(a *lane, k laneKey) int {
	return cmp.Or(cmp.Compare(a.priority, k.priority), cmp.Compare(a.kind, k.kind))
}

// find returns the lane of key k in s, which is of a named flow, nil if it is empty.
func (s *laneSet) find(k laneKey) *lane {
	if i, found := slices.BinarySearchFunc(s.lanes, k, compareLanes); found {
		return s.lanes[i]
	}
	return nil
}

// add adds l, which is not empty any more, to s, which is of a named flow. That takes time for
// each lane of s, but little: a task of a new priority costs as much with 1,000 priorities in
// its flow as with 100, four times as much with 10,000, and thirty times with 100,000.
func (s *laneSet) add(l *lane) {
	i, _ := slices.BinarySearchFunc(s.lanes, l.laneKey, compareLanes)
	s.lanes = slices.Insert(s.lanes, i, l)
}

// remove removes l, which is empty.
func (s *laneSet) remove(l *lane) {
	i, _ := slices.BinarySearchFunc(s.lanes, l.laneKey, compareLanes)
	s.lanes = shrunk(slices.Delete(s.lanes, i, i+1))
}

// share adds the lanes of s, which is of a named flow, that are in group k to lanes.
func (s *laneSet) share(k groupKey, lanes *flowShare) {
	i, _ := slices.BinarySearchFunc(s.lanes, k, func(o *lane, k groupKey) int {
		return cmp.Or(cmp.Compare(o.priority, k.priority), compareFlags(k.resuming, o.kind.resumes()))
	})
	for ; i < len(s.lanes) && s.lanes[i].groupKey() == k; i++ {
		lanes.add(s.lanes[i])
	}
}

// compareFlags orders false before true.
func compareFlags(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// first returns the lane of a class that goes first, nil if there is none.
func (s *laneSet) first(q *priorityQueue, class int) *lane {
	if s.filled[class] == 0 {
		return nil
	}
	i := 0
	if class == 1 && q.in == inQueue {
		i = int(s.filled[0]) // those of the first class are more urgent
	}
	for q.class(s.lanes[i]) != class {
		i++ // second places of submitters are of the second class, whatever their priority
	}
	l := s.lanes[i]
	if i+1 < len(s.lanes) {
		if o := s.lanes[i+1]; o.priority == l.priority && o.kind.rank() == l.kind.rank() && q.class(o) == class && o.order() < l.order() {
			return o
		}
	}
	return l
}

// count counts n entries, parked or not, that have come into lane l of s, which is of a class,
// or were taken from it if n is negative.
func (s *laneSet) count(l *lane, class int, parked bool, n int32) {
	switch {
	case l.kind.second():
		s.seconds += n
	case parked:
		s.parked[class] += n
		fallthrough
	default:
		s.n[class] += n
	}
}

// waiting returns how many entries of priority pr or more urgent are in the lanes of a class,
// up to more than enough.
func (s *laneSet) waiting(q *priorityQueue, class int, pr Priority, enough int) (n int) {
	for _, l := range s.lanes {
		if l.priority > pr || n > enough {
			break
		}
		if q.class(l) == class {
			n += l.n
		}
	}
	return n
}

// updateFaces has the lane of s that goes first of each class be in the heap lead, in its
// place there, and no other lane of s.
func (q *priorityQueue) updateFaces(s *laneSet) {
	for class := range s.face {
		if q.reserve == nil && class == 0 {
			continue
		}
		var l *lane
		if !s.out {
			l = s.first(q, class)
		}
		lead := &q.classes[class].lead
		switch face := s.face[class]; {
		case l != face:
			if face != nil {
				lead.drop(face)
			}
			if s.face[class] = l; l != nil {
				lead.add(l)
			}
		case l != nil:
			lead.fix(l)
		}
	}
}

// hold takes the lanes of fl that are of tasks without a place out of the heaps if held is set,
// and puts them back if it is not.
func (q *priorityQueue) hold(fl *flowLanes, held bool) {
	s := &fl.open
	if s.out == held {
		return
	}
	sign := 1
	if s.out = held; held {
		sign = -1
		fl.heldI = int32(len(q.heldFlows))
		q.heldFlows = append(q.heldFlows, fl)
	} else {
		last := len(q.heldFlows) - 1
		o := q.heldFlows[last]
		q.heldFlows[fl.heldI], o.heldI = o, fl.heldI
		q.heldFlows[last] = nil
		q.heldFlows = shrunk(q.heldFlows[:last])
	}
	for class := range s.n {
		c, n, queued := &q.classes[class], sign*int(s.n[class]), sign*int(s.n[class]-s.parked[class])
		c.lanes += sign * int(s.filled[class])
		q.n += n
		q.heldBack -= n
		q.heldQueued -= queued
		if q.reserve != nil {
			c.n += n
			c.queued += queued
		}
	}
	q.seconds += sign * int(s.seconds)
	q.showSpare(s, !held)
	q.updateFaces(s)
	q.updateRing(fl)
}

// updateSpare restores the heap spare after the number of l's tasks that have never started has
// changed. The heap has those lanes that have such tasks and, of those of a set of a named flow,
// only the least urgent one. To find the next one may take a look at each lane of the set, if
// many hold none but tasks that wait again.
func (q *priorityQueue) updateSpare(l *lane) {
	s := q.set(l)
	switch {
	case !q.shed:
		return
	case !s.named():
		switch in := l.pos[heapSpare] >= 0; {
		case in && l.fresh == 0:
			q.spare.drop(l)
		case in && l.flow != nil: // its length counts
			q.spare.fix(l)
		case !in && l.fresh > 0:
			q.spare.add(l)
		}
		return
	}
	next := s.spare
	switch {
	case l == next && l.fresh == 0:
		next = s.spareBefore(l)
	case l.fresh > 0 && (next == nil || l.priority > next.priority):
		next = l
	}
	switch {
	case next != s.spare:
		if !s.out {
			q.showSpare(s, false)
		}
		if s.spare = next; !s.out {
			q.showSpare(s, true)
		}
	case l.pos[heapSpare] >= 0:
		q.spare.fix(l)
	}
}

// spareBefore returns the least urgent lane of s that has tasks to shed and is more urgent than
// l, which has none any more; nil if there is none.
func (s *laneSet) spareBefore(l *lane) *lane {
	i, _ := slices.BinarySearchFunc(s.lanes, l.laneKey, compareLanes)
	for ; i >= 0; i-- {
		if s.lanes[i].fresh > 0 {
			return s.lanes[i]
		}
	}
	return nil
}

// showSpare puts the lane of s that is shed from first into the heap spare, or takes it out.
func (q *priorityQueue) showSpare(s *laneSet, show bool) {
	switch {
	case s.spare == nil:
	case show:
		q.spare.add(s.spare)
	default:
		q.spare.drop(s.spare)
	}
}
