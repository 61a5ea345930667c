package taskpool

import (
	"container/heap"
	"iter"
)

// A lane is the waiting tasks of one key, first in, first out.
type lane struct {
	laneKey
	class      *laneClass
	head, tail *segment      // a doubly linked list; nil if the lane is empty
	n          int           // live entries
	fresh      int           // those that have never started
	parked     int           // those whose attempt is under way
	age        int64         // key in the heap old: a lower bound of the front's order
	key        int64         // key in the heap keyed
	pos        [numHeaps]int // index in each heap; -1: not in it
}

// A laneKey names a lane.
type laneKey struct {
	priority Priority
	resuming bool
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

// A laneHeap is a [heap.Interface] of lanes.
type laneHeap struct {
	id    int // which of lane.pos is this heap's
	less  func(a, b *lane) bool
	off   bool // not needed, and so not kept
	lanes []*lane
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
	switch {
	case h.off:
	case len(h.lanes) == 0:
		h.Push(l)
	default:
		heap.Push(h, l)
	}
}

// drop takes l out of h, unless h is off.
func (h *laneHeap) drop(l *lane) {
	switch {
	case h.off:
	case len(h.lanes) == 1:
		h.Pop()
	default:
		heap.Remove(h, l.pos[h.id])
	}
}

func (h *laneHeap) shrink() { h.lanes = append([]*lane(nil), h.lanes...) }

func (h *laneHeap) Len() int { return len(h.lanes) }

func (h *laneHeap) Less(i, j int) bool { return h.less(h.lanes[i], h.lanes[j]) }

func (h *laneHeap) Swap(i, j int) {
	a, b := h.lanes[i], h.lanes[j]
	h.lanes[i], h.lanes[j] = b, a
	a.pos[h.id], b.pos[h.id] = j, i
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
