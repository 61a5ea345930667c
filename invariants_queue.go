//go:build invariants

package taskpool

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// check checks the invariants of q and returns how many parked attempts it holds.
// strict says that no two tasks of a lane may have the same order.
func (q *priorityQueue) check(strict, deep bool) (parked int, err error) {
	if err := q.checkHeaps(deep); err != nil {
		return 0, err
	}
	filled, faces, n, queued := [2]int{}, [2]int{}, [2]int{}, [2]int{}
	for _, l := range q.allLanes() {
		k, out := l.laneKey, q.set(l).out
		if err := l.check(); err != nil {
			return 0, fmt.Errorf("lane %v: %w", k, err)
		}
		class := 1
		if q.reserve != nil && k.priority <= *q.reserve && !(q.in == inAdmission && k.kind.second()) {
			class = 0
		}
		if l.class != &q.classes[class] {
			return 0, fmt.Errorf("lane %v is in the wrong class", k)
		}
		if s := q.set(l); l.n > 0 && !out {
			if filled[class]++; !s.named() || s.face[class] == l {
				faces[class]++
			}
		}
		if k.kind.second() {
			continue // see checkSeconds
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
		case k.kind.resumes() && l.fresh > 0:
			return 0, fmt.Errorf("lane %v: %d tasks resume that have not started", k, l.fresh)
		}
		if parked += here; !out {
			n[class] += l.n
			queued[class] += l.n - here
		}
	}
	for i := range q.classes {
		c := &q.classes[i]
		if q.reserve == nil {
			n[i], queued[i] = 0, 0
		}
		if c.n != n[i] || c.queued != queued[i] {
			return 0, fmt.Errorf("class %d counts %d tasks, %d of them not parked, found %d and %d", i, c.n, c.queued, n[i], queued[i])
		}
		if c.lanes != filled[i] {
			return 0, fmt.Errorf("class %d counts %d lanes, want %d", i, c.lanes, filled[i])
		}
		for _, h := range []*laneHeap{&c.lead, &c.keyed} {
			if !h.off && len(h.items) != faces[i] {
				return 0, fmt.Errorf("heap %d of class %d has %d lanes, want %d", h.id, i, len(h.items), faces[i])
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
	total, seconds, empty, waiting, toShed, hidden := 0, 0, 0, 0, 0, 0
	for pr, l := range q.lanes {
		if l.laneKey != pr {
			return fmt.Errorf("lane %v is filed under %v", l.laneKey, pr)
		}
	}
	held, heldQueued := 0, 0
	for _, l := range q.allLanes() {
		pr := l.laneKey
		if q.set(l).out {
			if !l.kind.second() {
				held, heldQueued = held+l.n, heldQueued+l.n-l.parked
			}
			for id, pos := range l.pos {
				if pos != -1 && id != heapOld {
					return fmt.Errorf("lane %v is held back and in heap %d", pr, id)
				}
			}
			continue
		}
		if l.kind.second() {
			seconds += l.n
		} else {
			total += l.n
		}
		if s := q.set(l); s.named() && s.face[q.class(l)] != l {
			hidden++
		}
		if s := q.set(l); l.fresh > 0 && (!s.named() || s.spare == l) {
			toShed++
		}
		if l.n == 0 {
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
		for _, h := range []*laneHeap{&l.class.lead, &l.class.keyed, &q.spare} {
			switch i := int(l.pos[h.id]); {
			case h.off:
			case h == &q.spare && (l.fresh == 0 || q.set(l).named() && q.set(l).spare != l):
				if i != -1 {
					return fmt.Errorf("lane %v is not to be shed from and in heap %d", pr, h.id)
				}
			case h.id == heapLead && q.set(l).named() && q.set(l).face[q.class(l)] != l:
				if i != -1 {
					return fmt.Errorf("lane %v is not the face of its set and in heap %d", pr, h.id)
				}
			case l.n == 0 && i != -1:
				return fmt.Errorf("lane %v is empty and in heap %d", pr, h.id)
			case l.n > 0 && (i < 0 || i >= len(h.items) || h.items[i] != l):
				return fmt.Errorf("lane %v is not where it should be in heap %d", pr, h.id)
			case l.n > 0 && i > 0 && h.less(l, h.items[(i-1)/2]):
				return fmt.Errorf("lane %v is out of order in heap %d", pr, h.id)
			}
		}
	}
	if seconds != q.seconds {
		return fmt.Errorf("%d second places, counted %d", seconds, q.seconds)
	}
	if total != q.n || held != q.heldBack || heldQueued != q.heldQueued {
		return fmt.Errorf("the lanes hold %d tasks and %d held back, %d of them queued; the queue says %d, %d and %d", total, held, heldQueued, q.n, q.heldBack, q.heldQueued)
	}
	if err := q.checkFair(); err != nil {
		return err
	}
	if empty > keptLanes {
		return fmt.Errorf("%d empty lanes are kept", empty)
	}
	if len(q.lanes) > q.peak {
		return fmt.Errorf("%d lanes, at most %d so far", len(q.lanes), q.peak)
	}
	for id := range numHeaps {
		if id == heapOld { // see checkFair
			continue
		}
		lanes, off := 0, false
		for _, h := range q.heaps() {
			if h.id == id {
				lanes, off = lanes+len(h.items), h.off
			}
		}
		want := waiting
		switch id {
		case heapSpare:
			want = toShed
		case heapLead:
			want -= hidden
		}
		if !off && lanes != want || off && lanes != 0 {
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

// allLanes returns all lanes of q: those of tasks without a flow, and of the named flows those
// that are not empty.
func (q *priorityQueue) allLanes() []*lane {
	all := slices.Collect(maps.Values(q.lanes))
	return append(all, slices.DeleteFunc(q.filled(), func(l *lane) bool { return q.owner(l) == &q.plain })...)
}

// checkFair returns what is wrong with what q knows of flows, if anything; see fair_queue.go.
func (q *priorityQueue) checkFair() error {
	type inGroup struct{ named, plain int }
	type share struct {
		fl *flowLanes
		g  *laneGroup
	}
	tags := map[share]tag{}
	groups, owners := map[*laneGroup]inGroup{}, map[*laneSet][]*lane{&q.plain.open: nil}
	flows := map[*flowLanes]bool{&q.plain: true}
	for _, l := range q.allLanes() {
		if l.n == 0 {
			if l.flow != nil {
				return fmt.Errorf("lane %v is empty and in a group", l.laneKey)
			}
			continue
		}
		fl, s := q.owner(l), q.set(l)
		flows[fl] = true
		if owners[s] = append(owners[s], l); s != &fl.open && s != fl.holders || s.of != fl {
			return fmt.Errorf("lane %v is in a set that is not of its flow", l.laneKey)
		}
		if l.flow == nil {
			if q.groups[l.groupKey()] != nil {
				return fmt.Errorf("lane %v has a group and is not in it", l.laneKey)
			}
			continue
		}
		g := l.flow.group
		if t, has := tags[share{fl, g}]; has && t != l.flow.tag {
			return fmt.Errorf("lane %v has another tag than those of its flow", l.laneKey)
		}
		tags[share{fl, g}] = l.flow.tag
		if q.groups[l.groupKey()] != g {
			return fmt.Errorf("lane %v is in another group", l.laneKey)
		}
		if d := l.flow.tag.at - g.at; fl == &q.plain && (d < 0 && (q.in == inQueue || q.reserve == nil) || d > fl.flow.cost()) {
			return fmt.Errorf("lane %v has tag %d, and its group %d", l.laneKey, l.flow.tag.at, g.at)
		}
		in := groups[g]
		if fl == &q.plain {
			in.plain++
		} else {
			in.named++
		}
		groups[g] = in
	}
	if len(q.groups) != len(groups) {
		return fmt.Errorf("%d groups, found %d", len(q.groups), len(groups))
	}
	for g, in := range groups {
		if in.named != g.named || in.plain != g.plain {
			return fmt.Errorf("a group counts %d lanes of named flows and %d others, found %+v", g.named, g.plain, in)
		}
	}
	if q.named != len(flows)-1 || len(groups) > 0 && !q.fair {
		return fmt.Errorf("%d named flows wait, found %d; fair %t", q.named, len(flows)-1, q.fair)
	}
	for s, lanes := range owners {
		if err := q.checkSet(s, lanes); err != nil {
			return err
		}
	}
	for fl := range flows {
		for kind, i := range fl.ringI {
			i := int(i)
			in := q.share > 0 && q.fair && fl.reached(kind == 1) > 0
			if in != (i >= 0) || in && q.rings[kind].items[i] != fl {
				return fmt.Errorf("a flow is in ring %d: %t, at %d", kind, in, i)
			}
			if in && i > 0 && q.rings[kind].Less(i, (i-1)/2) {
				return fmt.Errorf("ring %d is out of order", kind)
			}
		}
	}
	return nil
}

// checkSet returns what is wrong with s, which is to have these lanes, if anything.
func (q *priorityQueue) checkSet(s *laneSet, lanes []*lane) error {
	want := laneSet{}
	for _, l := range lanes {
		class := q.class(l)
		want.filled[class]++
		if first := want.face[class]; !s.out && s.named() && (first == nil || moreUrgent(l, first)) {
			want.face[class] = l
		}
		if s.old != nil {
			if i := int(l.pos[heapOld]); i < 0 || i >= len(s.old[class]) || s.old[class][i] != l || s.old[class].Less(i, (i-1)/2) && i > 0 {
				return fmt.Errorf("lane %v is not where it should be by age", l.laneKey)
			}
		}
		if !s.named() {
			continue
		}
		if q.shed && l.fresh > 0 && (want.spare == nil || l.priority > want.spare.priority) {
			want.spare = l
		}
		want.count(l, class, true, int32(l.parked))
		want.count(l, class, false, int32(l.n-l.parked))
		if s.find(l.laneKey) != l {
			return fmt.Errorf("lane %v of flow %q is not in its list", l.laneKey, s.of.flow.name)
		}
	}
	if s.filled != want.filled || s.face != want.face || s.spare != want.spare || s.n != want.n || s.parked != want.parked || s.seconds != want.seconds || s.named() && len(s.lanes) != len(lanes) {
		return fmt.Errorf("a set is %+v, want %+v", *s, want)
	}
	if few := q.share == 0 || s.named() && len(lanes) < manyLanes; s.old == nil && !few && len(lanes) > 0 {
		return fmt.Errorf("a set of %d lanes has no heaps by age", len(lanes))
	}
	for class := range 2 {
		if s.old != nil && len(s.old[class]) != int(s.filled[class]) {
			return fmt.Errorf("a set has %d lanes, and %d by age", s.filled[class], len(s.old[class]))
		}
	}
	return nil
}

// checkFlows returns what is wrong with the flows, if anything. tasks are those that have not
// settled, and the handles of submitters.
func (s *scheduler) checkFlows() error {
	all := slices.Collect(maps.Values(s.flows))
	if s.plainFlow != nil {
		all = append(all, s.plainFlow)
	}
	for _, f := range all {
		if held := f.limit > 0 && f.places >= f.limit; held != f.held || f.queue.open.out != held {
			return fmt.Errorf("flow %q, with %d of %d places held, is held back: %t", f.name, f.places, f.limit, f.held)
		}
		if len(f.exits()) > 0 && !f.held {
			return fmt.Errorf("flow %q has %d tasks on their way out that wait for a place, and is not held back", f.name, len(f.exits()))
		}
		if int32(len(f.holders)) > f.places || f != s.plainFlow && int32(len(f.holders)) != f.places || f != s.plainFlow && (f.live < int32(len(f.holders))+f.queued+f.retrying || f.live == 0) {
			return fmt.Errorf("flow %q has %d tasks, %d queued, %d retrying, %d places and %d holders", f.name, f.live, f.queued, f.retrying, f.places, len(f.holders))
		}
		most, has := f.queue.mostUrgentHeldBack()
		for i, h := range f.holders {
			switch {
			case !h.placed || h.flow != f || int(h.holderI) != i:
				return fmt.Errorf("flow %q has a holder that does not know it", f.name)
			case h.urgency() > f.lent:
				return fmt.Errorf("flow %q has lent %d, and task %d counts as %d", f.name, f.lent, h.id, h.urgency())
			case f.held && has && most < h.urgency():
				return fmt.Errorf("flow %q holds back a task of priority %d, and task %d, which holds a place, counts as %d", f.name, most, h.id, h.urgency())
			}
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
				if l.kind.second() {
					p = &e.h.loan.second
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
		hs = append(hs, &c.lead, &c.keyed)
	}
	return hs
}

// checkSeconds returns what is wrong with the second places, if anything.
func (s *scheduler) checkSeconds() error {
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
			if k := second.lane.kind; !k.second() || (k == kindLent) != (h.state == StateQueued && q == &s.queue) || h.place.lane.kind == kindResuming && !k.resumes() {
				return fmt.Errorf("task %d is in lanes %v and %v", h.id, h.place.lane.laneKey, second.lane.laneKey)
			}
			if !q.set(second.lane).out {
				n++
			}
			if pr := second.lane.priority; second.in != q.in || pr < h.urgency() || pr >= h.priority ||
				s.lessUrgent(pr) != s.lessUrgent(h.urgency()) || pr != h.urgency() && !s.aging {
				return fmt.Errorf("task %d counts as %d, and its second place is in lane %v", h.id, h.urgency(), second.lane.laneKey)
			}
			if q == &s.queue && s.lessUrgent(h.priority) && !s.lessUrgent(second.lane.priority) && !q.set(second.lane).out {
				if h.state == StateQueued {
					promoted[0]++
				} else {
					promoted[1]++
				}
			}
		}
		if q.seconds != n {
			return fmt.Errorf("%d second places, want %d", q.seconds, n)
		}
	}
	if promoted != s.promoted {
		return fmt.Errorf("%d tasks are promoted, counted %d", promoted, s.promoted)
	}
	return nil
}

// checkDelays checks what WithQueueDelay knows of priorities.
func (s *scheduler) checkDelays() error {
	if s.delays == nil {
		return nil
	}
	queued := make(map[Priority]int)
	for pr, e := range s.queue.all() {
		if e.h == nil {
			return errors.New("queue delays: a function waits whose arrival was not timed")
		}
		if e.h.state == StateQueued {
			queued[pr]++
		}
	}
	for pr, d := range s.delays.of {
		if d.queued != queued[pr] || d.queued == 0 || d.above < 0 || d.above > s.delays.now {
			return fmt.Errorf("queue delays: of priority %d %d wait, and %+v is known", pr, queued[pr], *d)
		}
		delete(queued, pr)
	}
	if len(queued) > 0 || len(s.delays.shown) > 0 {
		return fmt.Errorf("queue delays: nothing is known of %v, and %d flows are new", queued, len(s.delays.shown))
	}
	return nil
}
