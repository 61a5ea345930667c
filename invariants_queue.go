//go:build invariants

package taskpool

import (
	"fmt"
	"math"
	"slices"
)

// check checks the invariants of q and returns how many parked attempts it holds.
// strict says that no two tasks of a lane may have the same order.
func (q *priorityQueue) check(strict, deep bool) (parked int, err error) {
	if err := q.checkHeaps(deep); err != nil {
		return 0, err
	}
	filled, queued := [2]int{}, [2]int{}
	for k, l := range q.lanes {
		if err := l.check(); err != nil {
			return 0, fmt.Errorf("lane %v: %w", k, err)
		}
		class := 1
		if q.reserve != nil && k.priority <= *q.reserve {
			class = 0
		}
		if l.class != &q.classes[class] {
			return 0, fmt.Errorf("lane %v is in the wrong class", k)
		}
		if l.n > 0 {
			filled[class]++
		}
		here, last := 0, int64(math.MinInt64)
		for s := l.head; s != nil && l.n > 0; s = s.next {
			for _, e := range s.slots[s.head:s.tail] {
				switch e.order += s.base; {
				case !e.live():
					continue
				case strict && e.order == last:
					return 0, fmt.Errorf("lane %v: order %d is there twice", k, last)
				case e.parked():
					here++
				}
				last = e.order
			}
		}
		switch {
		case here != l.parked:
			return 0, fmt.Errorf("lane %v counts %d parked, want %d", k, l.parked, here)
		case k.resuming && l.fresh > 0:
			return 0, fmt.Errorf("lane %v: %d tasks resume that have not started", k, l.fresh)
		}
		parked += here
		queued[class] += l.n - here
	}
	for i := range q.classes {
		c := &q.classes[i]
		if q.reserve == nil {
			queued[i] = 0
		}
		if c.queued != queued[i] {
			return 0, fmt.Errorf("class %d counts %d tasks that are not parked, found %d", i, c.queued, queued[i])
		}
		for _, h := range []*laneHeap{&c.lead, &c.keyed, &c.old} {
			if !h.off && len(h.items) != filled[i] {
				return 0, fmt.Errorf("heap %d of class %d has %d lanes, want %d", h.id, i, len(h.items), filled[i])
			}
		}
		if q.share > 0 && q.turn[i] >= q.share {
			return 0, fmt.Errorf("fair-share turn %d of %d", q.turn[i], q.share)
		}
	}
	return parked, nil
}

// checkHeaps returns what is wrong with q, if anything. For the lanes themselves see
// lane.check.
func (q *priorityQueue) checkHeaps(deep bool) error {
	total, empty, waiting := 0, 0, 0
	for pr, l := range q.lanes {
		if l.laneKey != pr {
			return fmt.Errorf("lane %v is filed under %v", l.laneKey, pr)
		}
		if total += l.n; l.n == 0 {
			empty++
		} else if waiting++; !l.front().live() {
			return fmt.Errorf("lane %v: the first slot is not live", pr)
		} else if !l.tail.slots[l.tail.tail-1].live() {
			return fmt.Errorf("lane %v: the last slot is not live", pr)
		} else if l.age > l.order() {
			return fmt.Errorf("lane %v has age %d, above its front's order %d", pr, l.age, l.order())
		} else if q.step > 0 && l.key != q.key(l) {
			return fmt.Errorf("lane %v has key %d, want %d", pr, l.key, q.key(l))
		}
		for _, h := range []*laneHeap{&l.class.lead, &l.class.keyed, &l.class.old, &q.spare} {
			switch i := l.pos[h.id]; {
			case h.off:
			case l.n == 0 && i != -1:
				return fmt.Errorf("lane %v is empty and in heap %d", pr, h.id)
			case l.n > 0 && (i < 0 || i >= len(h.items) || h.items[i] != l):
				return fmt.Errorf("lane %v is not where it should be in heap %d", pr, h.id)
			case l.n > 0 && i > 0 && h.less(l, h.items[(i-1)/2]):
				return fmt.Errorf("lane %v is out of order in heap %d", pr, h.id)
			}
		}
	}
	if total != q.n {
		return fmt.Errorf("the lanes hold %d tasks, the queue says %d", total, q.n)
	}
	if empty > keptLanes {
		return fmt.Errorf("%d empty lanes are kept", empty)
	}
	if len(q.lanes) > q.peak {
		return fmt.Errorf("%d lanes, at most %d so far", len(q.lanes), q.peak)
	}
	for id := range numHeaps {
		lanes, off := 0, false
		for _, h := range q.heaps() {
			if h.id == id {
				lanes, off = lanes+len(h.items), h.off
			}
		}
		if want := waiting; !off && lanes != want || off && lanes != 0 {
			return fmt.Errorf("heap %d has %d lanes, want %d", id, lanes, want)
		}
	}
	for i, l := range q.recent {
		if l != nil && (q.lanes[l.laneKey] != l || q.recently(l.laneKey) != &q.recent[i]) {
			return fmt.Errorf("lane %v is recent and should not be, or not there", l.laneKey)
		}
	}
	for size, free := range q.free {
		n := 0
		for s := free.top; s != nil; s = s.next {
			if n++; int(s.size) != size || len(s.slots) != segmentSlots[size] || deep && !s.cleared() {
				return fmt.Errorf("free segment %d of size %d is not clear", n, size)
			}
		}
		if n != free.n || n*segmentSlots[size] > keptSlots {
			return fmt.Errorf("%d segments of size %d are free, counted %d", n, size, free.n)
		}
	}
	return nil
}

// check returns what is wrong with l, if anything.
func (l *lane) check() error {
	n, fresh := 0, 0
	order := int64(math.MinInt64)
	var prev *segment
	for s := l.head; s != nil; prev, s = s, s.next {
		if s.prev != prev {
			return fmt.Errorf("a segment's prev is wrong")
		}
		live, freshHere := 0, 0
		for i := range s.slots {
			e := &s.slots[i]
			if !e.live() {
				if e.order != 0 {
					return fmt.Errorf("slot %d is not clear", i)
				}
				continue
			}
			if int32(i) < s.head || int32(i) >= s.tail {
				return fmt.Errorf("slot %d is live outside [%d:%d)", i, s.head, s.tail)
			}
			if s.base+e.order < order {
				return fmt.Errorf("order %d comes behind %d", s.base+e.order, order)
			}
			if order = s.base + e.order; e.h != nil {
				p := &e.h.place
				if second := e.h.loan; second != nil && second.second.lane == l {
					p = &second.second
				}
				if p.lane != l || p.seg != s || p.i != int32(i) {
					return fmt.Errorf("handle in slot %d has another place", i)
				}
			}
			if live++; e.fresh() {
				freshHere++
			}
		}
		if int(s.live) != live || int(s.fresh) != freshHere {
			return fmt.Errorf("a segment counts %d live and %d fresh, want %d and %d", s.live, s.fresh, live, freshHere)
		}
		if live == 0 {
			return fmt.Errorf("a segment without a live slot is left")
		}
		n, fresh = n+live, fresh+freshHere
	}
	switch {
	case l.tail != prev:
		return fmt.Errorf("the last segment is not the tail")
	case l.n != n || l.fresh != fresh:
		return fmt.Errorf("counts %d live and %d fresh, want %d and %d", l.n, l.fresh, n, fresh)
	case n == 0 && l.head != nil:
		return fmt.Errorf("empty, with a segment")
	}
	return nil
}

// cleared reports whether s, which is in no lane, is like a new one.
func (s *segment) cleared() bool {
	return s.prev == nil && s.head == 0 && s.tail == 0 && s.live == 0 && s.fresh == 0 && s.handles == 0 && s.base == 0 &&
		!slices.ContainsFunc(s.slots[:], func(e entry) bool { return e.live() || e.order != 0 })
}

// heaps returns all heaps of lanes.
func (q *priorityQueue) heaps() []*laneHeap {
	hs := []*laneHeap{&q.spare}
	for i := range q.classes {
		c := &q.classes[i]
		hs = append(hs, &c.lead, &c.keyed, &c.old)
	}
	return hs
}

// checkSeconds returns what is wrong with the second places, if anything.
func (s *scheduler) checkSeconds(deep bool) error {
	promoted := [2]int{}
	for _, q := range []*priorityQueue{&s.queue, &s.admission} {
		n := 0
		for _, e := range q.all() {
			if e.h == nil || e.h.loan == nil {
				continue
			}
			h, second := e.h, &e.h.loan.second
			if (h.urgency() != h.priority) != (second.lane != nil) {
				return fmt.Errorf("task %d of priority %d counts as %d, and its second place is %+v", h.id, h.priority, h.urgency(), second)
			}
			if second.lane == nil {
				continue
			}
			n++
			if pr := second.lane.priority; second.in != q.in || pr < h.urgency() || pr >= h.priority ||
				s.lessUrgent(pr) != s.lessUrgent(h.urgency()) || pr != h.urgency() && !s.aging {
				return fmt.Errorf("task %d counts as %d, and its second place is in lane %v", h.id, h.urgency(), second.lane.laneKey)
			}
			if q == &s.queue && s.lessUrgent(h.priority) && !s.lessUrgent(second.lane.priority) {
				if h.state == StateQueued {
					promoted[0]++
				} else {
					promoted[1]++
				}
			}
		}
		seconds := s.seconds(q.in)
		if seconds.n != n {
			return fmt.Errorf("%d second places, want %d", seconds.n, n)
		}
		if seconds.lanes == nil {
			continue
		}
		if _, err := seconds.check(!s.aging, deep); err != nil {
			return fmt.Errorf("second places: %w", err)
		}
	}
	if promoted != s.promoted {
		return fmt.Errorf("%d tasks are promoted, counted %d", promoted, s.promoted)
	}
	return nil
}
