package taskpool

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"
)

// StaysLocked reports whether p.mu is held for as long as the caller looks,
// which it is if the caller holds it itself. Others hold it for a moment only.
func (p *Pool) StaysLocked() bool {
	for range 1_000_000 {
		if p.mu.TryLock() {
			p.mu.Unlock()
			return false
		}
		runtime.Gosched()
	}
	return true
}

// Waiting returns how many attempts are parked until h has settled.
func (h *Handle) Waiting() int {
	h.pool.mu.Lock()
	defer h.pool.mu.Unlock()
	return len(h.waiting)
}

// CheckQueue looks for a fault in the pool's queues: it walks every heap and
// every lane of the queue and of the door and checks the invariants written at
// type priorityQueue, then those of the delayed and watched heaps, the counts that
// go with them and the invariant at Pool.mu. It changes nothing, not even the
// ages that a dispatch would bring up to date, so it hides no fault. It returns
// nil if all is well.
func (p *Pool) CheckQueue() error {
	p.lock()
	defer p.unlock()
	parked, err := p.queue.check(p.cfg.aging == 0)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if n, err := p.door.check(p.cfg.aging == 0); err != nil {
		return fmt.Errorf("door: %w", err)
	} else if n != 0 {
		return fmt.Errorf("door: %d attempts are parked in it", n)
	}
	for pr, e := range p.queue.all() {
		if h := e.h; h != nil {
			switch {
			case h.task.Priority != pr:
				return fmt.Errorf("queue: task %d of priority %d is in lane %d", h.id, h.task.Priority, pr)
			case h.state != Queued && h.state != Parked:
				return fmt.Errorf("queue: task %d is %v", h.id, h.state)
			case h.id == 0:
				return errors.New("queue: it holds a task that was not accepted")
			}
		}
	}
	for pr, e := range p.door.all() {
		h := e.h
		switch {
		case h == nil || h.id != 0 || h.refused != nil || h.task.Priority != pr:
			return fmt.Errorf("door: lane %d holds a task that does not wait for room in it", pr)
		case p.betweenLocked() || h.canceled != nil: // not to be let in
		case p.roomLocked(pr):
			return fmt.Errorf("door: a submitter of priority %d waits while there is room", pr)
		}
	}
	return p.checkCountsLocked(parked)
}

// betweenLocked reports whether a worker is between two critical sections of the
// end of an attempt: what the attempt asked for is free, but not given away yet.
func (p *Pool) betweenLocked() bool {
	for _, w := range p.crew {
		if w.busy && w.attempt != nil && w.attempt.over {
			return true
		}
	}
	return false
}

// checkCountsLocked is the part of CheckQueue beyond the two queues; parked is the
// number of parked attempts in the queue.
func (p *Pool) checkCountsLocked(parked int) error {
	for i, h := range p.delayed {
		switch {
		case h.heapI != i:
			return fmt.Errorf("delayed: task %d is at %d and believes %d", h.id, i, h.heapI)
		case h.state != Delayed || h.place.lane != nil:
			return fmt.Errorf("delayed: task %d is %v", h.id, h.state)
		case i > 0 && p.delayed.Less(i, (i-1)/2):
			return fmt.Errorf("delayed: the heap is out of order at %d", i)
		}
	}
	for i, w := range p.watched {
		if w.watchI != i || w.watch.IsZero() || i > 0 && p.watched.Less(i, (i-1)/2) {
			return fmt.Errorf("watched: the heap is broken at %d", i)
		}
	}
	held, heldLess, busy := 0, 0, [numStates]int{}
	for i, w := range p.crew {
		if w.crewI != i {
			return fmt.Errorf("crew: worker %d is at %d and believes %d", w.id, i, w.crewI)
		}
		if w.holds {
			held++
			if p.lessUrgent(w.priority) {
				heldLess++
			}
		}
		if w.busy {
			s := Running
			if w.job.h != nil {
				s = w.job.h.state
			}
			busy[s]++
		}
	}
	for _, c := range []struct {
		what      string
		got, want int
	}{
		{"queued tasks", p.count[Queued], p.queue.n - parked},
		{"delayed tasks", p.count[Delayed], len(p.delayed)},
		{"running tasks", p.count[Running], busy[Running]},
		{"parked tasks", p.count[Parked], busy[Parked]},
		{"slots held", p.held, held},
		{"slots held by less urgent tasks", p.heldLess, heldLess},
		{"attempts that ask for a slot", p.ask + p.askLess, parked + len(p.leaving)},
	} {
		if c.got != c.want {
			return fmt.Errorf("counted %d %s, found %d", c.got, c.what, c.want)
		}
	}
	if sum := p.total.succeeded + p.total.failed + p.total.canceled + p.total.shed +
		uint64(p.outstandingLocked()); p.total.submitted != sum {
		return fmt.Errorf("counted %d tasks submitted, found %d", p.total.submitted, sum)
	}
	if p.paused {
		return nil
	}
	if pr, ok := p.queue.leastPriority(); ok && p.waiting.Load() > int64(pr) {
		return fmt.Errorf("Yield is told %d, while a task of priority %d waits", p.waiting.Load(), pr)
	}
	if p.held < p.slots {
		restricted := p.restrictedLocked()
		if len(p.queue.classes[0].lead.lanes) > 0 || !restricted && len(p.queue.classes[1].lead.lanes) > 0 {
			return errors.New("a task waits while a slot is free")
		}
		for _, pk := range p.leaving {
			if !restricted || !p.lessUrgent(pk.a.w.priority) {
				return errors.New("a task on its way out waits while a slot is free")
			}
		}
	}
	return nil
}

// check checks the invariants of q and returns how many parked attempts it holds.
// strict says that no two tasks of a lane have the same order.
func (q *priorityQueue) check(strict bool) (parked int, err error) {
	if err := invariants(q); err != nil {
		return 0, err
	}
	filled := [2]int{}
	for k, l := range q.lanes {
		if err := laneInvariants(q, l); err != nil {
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
				switch {
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
	}
	for i := range q.classes {
		c := &q.classes[i]
		for _, h := range []*laneHeap{&c.lead, &c.keyed, &c.old} {
			if !h.off && len(h.lanes) != filled[i] {
				return 0, fmt.Errorf("heap %d of class %d has %d lanes, want %d", h.id, i, len(h.lanes), filled[i])
			}
		}
		if q.share > 0 && q.turn[i] >= q.share {
			return 0, fmt.Errorf("fair-share turn %d of %d", q.turn[i], q.share)
		}
	}
	return parked, nil
}

// MakeLate has the supervisor take a turn at once that comes late by d for every
// task that it watches, and returns how many these are.
func (p *Pool) MakeLate(d time.Duration) int {
	p.lock()
	defer p.unlock()
	due := time.Now().Add(-d)
	for _, w := range p.watched { // all alike, so the heap stays one
		w.watch = due
	}
	p.alarmLocked()
	return len(p.watched)
}
