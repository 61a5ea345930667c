package taskpool

import "time"

// How the tasks of one priority are shared between flows, see docs/starvation.md. A lane of a
// named flow belongs to one flow, and so does each lane of the tasks without one, which are
// a flow together. The lanes of one priority whose tasks resume form a group, and so do the
// others. Within a group the flow with the least tag goes first, by self-clocked fair queuing
// (Golestani, 1994): when a flow begins to wait there, and when it is served in its
// turn, its tag is set to that of the group plus the flow's cost, and the tag of the group is
// that of the flow served last. So a flow that was idle begins where the others are, and
// nothing need be remembered of it. A task that was lent to takes its flow's turn, before the
// flow's other tasks of that priority, so what a flow's tasks wait for passes no other flow.
//
// A fair-share turn goes to the flow that has gone longest without one, by tags alike, and
// takes that flow's oldest task, whatever its priority. The flows are in a ring for that: a
// heap for each kind of dispatch.
//
// While a flow is held back, its lanes are in no heap that a choice looks at, but for those of
// tasks that hold a place of it. They keep their tags.
//
// Invariants, for every queue q:
//
//   - named is how many named flows have tasks in q.
//   - fair is set if it makes a difference that there are flows, or were: if named > 0, if
//     there are groups, or if the ring tag of the tasks without a flow is not the one that they
//     would get now. Else the rings are empty: where there are no flows, nobody pays for them.
//   - A lane has a laneFlow if and only if it is of a named flow, or not empty and in a group.
//   - A group exists if it has a lane of a named flow, and while it makes a difference that it
//     had one: as long as the tag of its other lanes is not the one that they would get now. A
//     stream of flows with a task each must not begin anew each time, or it would never be
//     those lanes' turn.
//   - The lanes of a flow in a group have the same tag. It is later than that of the group by no
//     more than the flow's cost, and earlier only if they were held back or out of reach.
//   - A flow is in the ring of a kind of dispatch if and only if fair is set and it has a lane
//     that such a dispatch can serve.
//   - n is how many first places are in lanes that are not held back, heldBack how many are in
//     others.

// tagScale is the cost of a start in a flow of weight 1. Tags wrap around: they are
// compared by their difference.
const tagScale = 1 << 20

// maxWeight is the largest weight of a flow.
const maxWeight = 1024

// A tag says when it is the turn of a lane in its group, or of a flow in a ring. Of equal
// tags the one that was set first goes first.
type tag struct {
	at     int64
	number uint64 // in the order in which tags are set
}

// before reports whether t comes before o.
func (t tag) before(o tag) bool {
	if d := t.at - o.at; d != 0 {
		return d < 0
	}
	return t.number < o.number
}

// A laneFlow is what makes a lane one of several of its key.
type laneFlow struct {
	set   *laneSet
	group *laneGroup
	tag   tag
}

// A laneGroup is the lanes of one groupKey that are not empty, if they are of several flows.
type laneGroup struct {
	at    int64 // the tag of the flow served last
	named int   // lanes of named flows
	plain int   // lanes of the tasks without a flow
}

type groupKey struct {
	priority Priority
	resuming bool
}

// groupKey returns the key of l's group.
func (l *lane) groupKey() groupKey { return groupKey{l.priority, l.kind.resumes()} }

// A flowLanes is what a flow has waiting in one queue.
type flowLanes struct {
	flow    *flow     // nil: the tasks without one
	open    laneSet   // of tasks that hold no place
	holders *laneSet  // of tasks that hold a place, which are never held back; nil until there is one
	ring    [2]tag    // when its turn is in a ring, by kind of dispatch, see restriction
	ringI   [2]int32  // index there; -1 if it is not there
	own     [2]uint32 // its dispatches with a choice among its own lanes since it last served its oldest task, as turn
	heldI   int32     // index in priorityQueue.heldFlows, if open is held back
	// justShown is set when open is no longer held back, until Stats has seen that. It stands
	// here for a flow to fit its class of allocations.
	justShown bool
	shown     time.Duration // since Pool.epoch: when Stats first saw that open is no longer held back; 0: never
}

// A flowRing is a heap of flows; the one whose turn is next is on top.
type flowRing struct {
	indexedHeap[*flowLanes]
	at int64 // the tag of the flow served last
}

func newFlowRing(kind int) flowRing {
	return flowRing{indexedHeap: indexedHeap[*flowLanes]{
		less:  func(a, b *flowLanes) bool { return a.ring[kind].before(b.ring[kind]) },
		moved: func(f *flowLanes, i int) { f.ringI[kind] = int32(i) },
	}}
}

// oldest returns the lane whose front has waited longest, of those that such a dispatch can
// serve.
func (f *flowLanes) oldest(q *priorityQueue, restricted bool) (l *lane) {
	for _, s := range f.sets() {
		if s == nil || s.out {
			continue
		}
		for class := range 2 - restriction(restricted) {
			if o := s.oldest(q, class); o != nil && (l == nil || o.order() < l.order()) {
				l = o
			}
		}
	}
	return l
}

// sets returns the sets of f. The second may be nil.
func (f *flowLanes) sets() [2]*laneSet { return [2]*laneSet{&f.open, f.holders} }

// reached returns how many of f's lanes such a dispatch can serve.
func (f *flowLanes) reached(restricted bool) (n int) {
	for _, s := range f.sets() {
		if s != nil && !s.out {
			n += s.lanesIn(restricted)
		}
	}
	return n
}

// waits returns how many lanes of f are not empty, of those that such a dispatch could serve
// if they were not held back.
func (f *flowLanes) waits(restricted bool) (n int) {
	for _, s := range f.sets() {
		if s != nil {
			n += s.lanesIn(restricted)
		}
	}
	return n
}

// lanesIn returns how many lanes of s are of the classes that such a dispatch can serve.
func (s *laneSet) lanesIn(restricted bool) int {
	n := int(s.filled[0])
	if !restricted {
		n += int(s.filled[1])
	}
	return n
}

// cost returns what a start of the flow costs it, f being nil if it has no flow.
func (f *flow) cost() int64 {
	if f == nil || f.policy.weight <= 1 {
		return tagScale
	}
	return tagScale / int64(f.policy.weight)
}

// laneOf returns the lane of key k of flow f, which is nil for tasks without one, and makes it
// if there is none. If holder is set, it is the one of tasks that hold a place of f. The
// caller pushes a task to it.
func (q *priorityQueue) laneOf(f *flow, k laneKey, holder bool) *lane {
	if f == nil {
		return q.lane(k)
	}
	fl := f.in(q)
	s := &fl.open
	if holder {
		if fl.holders == nil {
			fl.holders = &laneSet{of: fl}
		}
		s = fl.holders
	}
	l := s.find(k)
	if l == nil {
		if fl.waits(false) == 0 {
			q.beginNamed()
		}
		l = q.newFlowLane(k)
		*l.flow = laneFlow{set: s}
	}
	return l
}

// newFlowLane returns an empty lane with a laneFlow.
func (q *priorityQueue) newFlowLane(k laneKey) *lane {
	var l *lane
	if last := len(q.freeLanes) - 1; last >= 0 {
		l = q.freeLanes[last]
		q.freeLanes = q.freeLanes[:last]
	} else {
		all := new(struct { // one allocation
			lane
			laneFlow
			segment
			array [1]entry
		})
		l = &all.lane
		l.flow, l.own = &all.laneFlow, &all.segment
		l.own.slots, l.own.size = all.array[:], singleSize
		for i := range l.pos {
			l.pos[i] = -1
		}
	}
	l.laneKey, l.class, l.dispatched = k, q.classOf(k), q.count(k.priority)
	return l
}

// classOf returns the class of the lanes of key k. A submitter that was lent to has a reserved
// slot only if its own priority may have it, as the loan ends when it is let in.
func (q *priorityQueue) classOf(k laneKey) *laneClass {
	if q.reserve != nil && k.priority <= *q.reserve && !(q.in == inAdmission && k.kind.second()) {
		return &q.classes[0]
	}
	return &q.classes[1]
}

// class returns the index of l's class.
func (q *priorityQueue) class(l *lane) int {
	if l.class == &q.classes[0] {
		return 0
	}
	return 1
}

// beginNamed records that one more named flow begins to wait.
func (q *priorityQueue) beginNamed() {
	q.named++
	if q.fair {
		return
	}
	q.fair = true
	if q.groups == nil {
		q.groups = make(map[groupKey]*laneGroup)
		q.rings = [2]flowRing{newFlowRing(0), newFlowRing(1)}
	}
	for kind := range q.rings {
		q.setRingTag(&q.plain, kind)
	}
	q.updateRing(&q.plain)
}

// endFair is called, with fair set, when it may make no difference any more that there were
// flows. A named flow that waits is in a group.
func (q *priorityQueue) endFair() {
	if len(q.groups) > 0 {
		return
	}
	for kind := range q.rings {
		if q.plain.waits(kind == 1) > 0 && q.plain.ring[kind].at != q.rings[kind].at+tagScale {
			return
		}
	}
	q.fair = false
	q.updateRing(&q.plain)
	if q.mostGroups > 16*keptLanes { // a map keeps the memory for the most that it has held
		q.groups, q.mostGroups = make(map[groupKey]*laneGroup), 0
	}
}

// owner returns whose lane l is.
func (q *priorityQueue) owner(l *lane) *flowLanes {
	if l.flow == nil {
		return &q.plain
	}
	return l.flow.set.of
}

// set returns which set l is in.
func (q *priorityQueue) set(l *lane) *laneSet {
	if l.flow == nil {
		return &q.plain.open
	}
	return l.flow.set
}

// beginFlowLane has l, which is not empty any more, join its group, if there is one, and wait
// for its flow's turn.
func (q *priorityQueue) beginFlowLane(l *lane) {
	fl, class := q.owner(l), q.class(l)
	for kind := range fl.ring {
		if (class == 0 || kind == 0) && fl.waits(kind == 1) == 0 {
			q.setRingTag(fl, kind)
		}
	}
	s := q.set(l)
	if s.filled[class]++; s.named() {
		s.add(l)
	}
	k := l.groupKey()
	g := q.groups[k]
	if g == nil && fl.flow == nil {
		return
	}
	if g == nil {
		if g = q.spareGroup; g == nil {
			g = &laneGroup{}
		}
		q.spareGroup = nil
		q.groups[k] = g
		q.mostGroups = max(q.mostGroups, len(q.groups))
		plain := q.plainLanes(k)
		for _, o := range plain.all() {
			q.joinGroup(o, g)
		}
	}
	q.joinGroup(l, g)
}

// joinGroup has l be one of g.
func (q *priorityQueue) joinGroup(l *lane, g *laneGroup) {
	if l.flow == nil {
		l.flow = &laneFlow{set: &q.plain.open}
		g.plain++
	} else {
		g.named++
	}
	l.flow.group = g
	siblings := q.siblings(l)
	for _, o := range siblings.all() { // those that are in a group are in this one
		if o != l && o.flow != nil {
			l.flow.tag = o.flow.tag
			return
		}
	}
	l.flow.tag = q.nextTag(l)
}

// nextTag returns the tag of a flow that begins to wait in the group of l, which is one of its
// lanes.
func (q *priorityQueue) nextTag(l *lane) tag {
	q.tags++
	return tag{l.flow.group.at + l.flow.set.of.flow.cost(), q.tags}
}

// plainLanes returns the lanes in group k of tasks without a flow that are not empty.
func (q *priorityQueue) plainLanes(k groupKey) (lanes flowShare) {
	kinds := [...]laneKind{kindOrdinary, kindLent, kindOrdinaryLent}
	if k.resuming {
		kinds = [...]laneKind{kindResuming, kindResumingLent, kindResumingLent}
	}
	for i, kind := range kinds {
		if i > 0 && (q.seconds == 0 || kind == kinds[i-1]) {
			break
		}
		if l := q.lanes[laneKey{k.priority, kind}]; l != nil && l.n > 0 {
			lanes.add(l)
		}
	}
	return lanes
}

// siblings returns the lanes of l's flow in l's group that are not empty, l itself included.
func (q *priorityQueue) siblings(l *lane) (lanes flowShare) {
	fl := q.owner(l)
	if fl.flow == nil {
		return q.plainLanes(l.groupKey())
	}
	for _, s := range fl.sets() {
		if s != nil {
			s.share(l.groupKey(), &lanes)
		}
	}
	return lanes
}

// A flowShare is the lanes of one flow in one group.
type flowShare struct {
	lanes [6]*lane // there are no more: three kinds, in each of two sets
	n     int
}

func (s *flowShare) add(l *lane) {
	s.lanes[s.n] = l
	s.n++
}

func (s *flowShare) all() []*lane { return s.lanes[:s.n] }

func (q *priorityQueue) setRingTag(fl *flowLanes, kind int) {
	q.tags++
	fl.ring[kind] = tag{q.rings[kind].at + fl.flow.cost(), q.tags}
}

// endFlowLane is called when l is empty and in no heap.
func (q *priorityQueue) endFlowLane(l *lane) {
	fl, s := q.owner(l), q.set(l)
	s.filled[q.class(l)]--
	if l.flow != nil {
		g, k := l.flow.group, l.groupKey()
		if fl.flow == nil {
			l.flow = nil
			g.plain--
		} else {
			g.named--
			q.forgetFlowLane(l)
		}
		if g.named == 0 && g.plain == 0 {
			q.forgetGroup(k, g)
		}
	}
	q.updateRing(fl)
	q.endFair()
}

// forgetGroup ends g, whose lanes have left it, and keeps it for the next.
func (q *priorityQueue) forgetGroup(k groupKey, g *laneGroup) {
	delete(q.groups, k)
	*g = laneGroup{}
	q.spareGroup = g
}

// forgetFlowLane takes l, which is empty, from its flow, which is a named one.
func (q *priorityQueue) forgetFlowLane(l *lane) {
	s := l.flow.set
	s.remove(l)
	q.updateFaces(s)
	*l.flow = laneFlow{}
	if len(q.freeLanes) < keptLanes {
		q.freeLanes = append(q.freeLanes, l)
	}
	if s.of.waits(false) == 0 {
		q.named--
	}
}

// updateRing puts fl into the rings where it belongs, or takes it out.
func (q *priorityQueue) updateRing(fl *flowLanes) {
	if q.share == 0 || q.groups == nil {
		return
	}
	for kind := range q.rings {
		r, i := &q.rings[kind], fl.ringI[kind]
		switch in := q.fair && fl.reached(kind == 1) > 0; {
		case in && i < 0:
			r.add(fl)
		case !in && i >= 0:
			r.remove(int(i))
			r.items = shrunk(r.items)
		}
	}
}

// turnOf returns the lane whose turn it is in a fair-share turn, if there is a choice.
func (q *priorityQueue) turnOf(restricted bool) *lane {
	if !q.fair {
		return q.plain.oldest(q, restricted)
	}
	return q.rings[restriction(restricted)].items[0].oldest(q, restricted)
}

// ownTurn returns the lane of the oldest task of l's flow, if the flow has a limit and that
// task's turn among its own has come, or else l.
func (q *priorityQueue) ownTurn(l *lane, restricted bool) *lane {
	if fl := l.flow.set.of; q.share > 0 && fl.limited() && uint64(fl.own[restriction(restricted)])+1 >= q.share {
		return fl.oldest(q, restricted)
	}
	return l
}

// limited reports whether the flow has a limit.
func (f *flowLanes) limited() bool { return f.flow != nil && f.flow.limit > 0 }

// charge records that the first task of l is about to be taken in a dispatch, which is a
// fair-share turn if turn is set.
func (q *priorityQueue) charge(l *lane, turn, restricted bool) {
	if !q.fair {
		return
	}
	fl, kind := q.owner(l), restriction(restricted)
	h := l.front().h
	last := l.n == 1 && (h == nil || h.loan == nil) // l leaves the heaps before anything else changes in them
	if turn {
		r := &q.rings[kind]
		if at := fl.ring[kind].at; at-r.at > 0 {
			r.at = at
		}
		q.setRingTag(fl, kind)
		if !last || fl.reached(restricted) > 1 {
			r.sink(int(fl.ringI[kind]))
		}
	} else if first, _ := top(q.reach(restricted), false); l.flow != nil && l.flow.tag == first.flow.tag {
		// first is l, or is of the same flow and not in its own turn.
		g := l.flow.group
		if d := l.flow.tag.at - g.at; d > 0 {
			g.at = l.flow.tag.at
		}
		next, siblings := q.nextTag(l), q.siblings(l)
		stays := !last || siblings.n > 1
		for _, o := range siblings.all() {
			o.flow.tag = next
			if i := o.pos[heapLead]; stays && i >= 0 { // one after the other: a heap bears one change at a time
				o.class.lead.sink(int(i))
			}
		}
		if g.named == 0 {
			for _, o := range siblings.all() {
				o.flow = nil
			}
			q.forgetGroup(l.groupKey(), g)
		}
	}
	if fl.limited() && fl.reached(restricted) > 1 {
		if fl.own[kind]++; uint64(fl.own[kind]) >= q.share {
			fl.own[kind] = 0
		}
	}
	q.endFair()
}

// mostUrgentHeldBack returns what the most urgent task of f that is held back counts as, false
// if none is.
func (f *flowLanes) mostUrgentHeldBack() (Priority, bool) {
	if !f.open.out || len(f.open.lanes) == 0 {
		return 0, false
	}
	return f.open.lanes[0].priority, true
}
