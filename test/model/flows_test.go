package model_test

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/taskpool-go/taskpool"
)

// What the model knows of flows, after docs/flows.md and docs/starvation.md.

// modelFlows is what a modelPool remembers of the flows that have tasks.
type modelFlows struct {
	policies map[string]taskpool.FlowPolicy // that count
	// holders are the tasks that hold a place of a flow, but for functions that have never
	// waited, which nobody can lend to. Those that are lent to at once join the queue, if they
	// are in Yield, in the order of this list: a task comes at its end, and one that goes is
	// replaced by the last.
	holders map[string][]*modelTask
	left    map[string]int // how many have come to want a place to leave in this step
	seen    flowCounts
}

func (f *modelFlows) init(plain taskpool.FlowPolicy) {
	f.policies, f.holders, f.left = map[string]taskpool.FlowPolicy{"": plain}, map[string][]*modelTask{}, map[string]int{}
}

// flowCounts counts what happened to flows.
type flowCounts struct {
	held    int // a task came to wait that its flow's limit held back,
	lent    int // a holder was lent its urgency by one of those
	exits   int // a task on its way out had to wait for a place
	own     int // a flow's oldest task took the turn of one before it
	full    int // a submitter waited, was refused, or had another shed, as its flow was full
	shed    int // a task of another flow, of the priority of the new one, was shed
	changed int // a policy changed while its flow had other tasks,
	freed   int // so that some went on
}

func (c *flowCounts) add(o flowCounts) {
	c.held += o.held
	c.lent += o.lent
	c.exits += o.exits
	c.own += o.own
	c.full += o.full
	c.shed += o.shed
	c.changed += o.changed
	c.freed += o.freed
}

// A modelLine is where tasks wait for their turn: for a slot, or for room.
type modelLine struct {
	places []*modelPlace // in the order in which they came
	turns  map[bool]int  // dispatches with a choice since the fair share's turn; of all, of reserved slots

	tags   map[flowGroup]modelTag // of a flow in a group
	served map[flowGroup]float64  // the tag of the flow served last; for no flow
	ring   map[flowTurn]modelTag  // of a flow among those that take the fair share's turns
	turned map[bool]float64       // the tag of the flow served last there
	own    map[flowTurn]int       // a flow's dispatches with a choice among its own lanes, since that was of use to its oldest task
	set    int                    // tags
}

func newLine() modelLine {
	return modelLine{turns: map[bool]int{}, tags: map[flowGroup]modelTag{}, served: map[flowGroup]float64{},
		ring: map[flowTurn]modelTag{}, turned: map[bool]float64{}, own: map[flowTurn]int{}}
}

// A modelTag says when it is a flow's turn. Of equal ones the one that was set first goes
// first.
type modelTag struct {
	at     float64
	number int
}

func (t modelTag) compare(o modelTag) int {
	return cmp.Or(cmp.Compare(t.at, o.at), cmp.Compare(t.number, o.number))
}

// A flowGroup is the places of a flow that take turns with those of other flows.
type flowGroup struct {
	flow     string
	priority taskpool.Priority
	resumes  bool
}

// A flowTurn is a flow's among those that take turns of one kind of dispatch.
type flowTurn struct {
	flow       string
	restricted bool
}

// A modelLane is what places have in common that are first in, first out.
type modelLane struct {
	flowGroup
	rank           int
	second, placed bool
}

func (p *modelPlace) resumes() bool    { return p.rank == 0 }
func (p *modelPlace) group() flowGroup { return flowGroup{p.t.flow, p.priority, p.resumes()} }
func (p *modelPlace) lane() modelLane  { return modelLane{p.group(), p.rank, p.second, p.t.placed} }

func (g flowGroup) ofAll() flowGroup {
	g.flow = ""
	return g
}

// Turns.

// compareTurns compares two places of one group by whose flow's turn it is.
func (l *modelLine) compareTurns(a, b *modelPlace) int {
	if a.t.flow == b.t.flow {
		return 0
	}
	return l.tags[a.group()].compare(l.tags[b.group()])
}

// cost is what a start costs a flow.
func (m *modelPool) cost(flow string) float64 {
	return 1 / float64(max(m.flows.policies[flow].Weight, 1))
}

// join puts p at the back of l. A flow that begins to wait there, or in p's group, takes its
// turn from now.
func (m *modelPool) join(l *modelLine, p *modelPlace) {
	began, kinds := true, map[bool]bool{false: true, true: m.mayReserve(l, p)}
	for _, o := range l.places {
		if o.t.flow != p.t.flow {
			continue
		}
		if kinds[false] = false; m.mayReserve(l, o) {
			kinds[true] = false
		}
		if o.group() == p.group() {
			began = false
		}
	}
	l.places = append(l.places, p)
	if began {
		m.setTag(l, p.group())
	}
	for _, restricted := range []bool{false, true} {
		if kinds[restricted] {
			m.setTurn(l, flowTurn{p.t.flow, restricted})
		}
	}
	if l == &m.queue && m.heldBack(l, p.t) {
		m.flows.seen.held++
	}
}

// mayReserve reports whether p may be served in a dispatch for a reserved slot.
func (m *modelPool) mayReserve(l *modelLine, p *modelPlace) bool {
	return m.reserved > 0 && !m.less(p.priority) && !(p.second && l == &m.entering)
}

func (l *modelLine) drop(t *modelTask) {
	l.places = slices.DeleteFunc(l.places, func(p *modelPlace) bool { return p.t == t })
}

func (m *modelPool) setTag(l *modelLine, g flowGroup) {
	l.set++
	l.tags[g] = modelTag{l.served[g.ofAll()] + m.cost(g.flow), l.set}
}

func (m *modelPool) setTurn(l *modelLine, of flowTurn) {
	l.set++
	l.ring[of] = modelTag{l.turned[of.restricted] + m.cost(of.flow), l.set}
}

// turnOf returns which of the places goes in a turn of the fair share: the oldest of the flow
// that has gone longest without one.
func (l *modelLine) turnOf(places []*modelPlace, restricted bool) *modelPlace {
	return slices.MinFunc(places, func(a, b *modelPlace) int {
		x, y := l.ring[flowTurn{a.t.flow, restricted}], l.ring[flowTurn{b.t.flow, restricted}]
		if a.t.flow == b.t.flow {
			x, y = modelTag{}, modelTag{}
		}
		return cmp.Or(x.compare(y), cmp.Compare(a.order, b.order))
	})
}

// ownTurn returns which of the places goes instead of first: the oldest of its flow, if the
// flow has a limit and it is that one's turn among its own.
func (m *modelPool) ownTurn(l *modelLine, first *modelPlace, places []*modelPlace, restricted bool) *modelPlace {
	if m.share == 0 || m.limit(first.t.flow) == 0 || l.own[flowTurn{first.t.flow, restricted}] < m.share-1 {
		return first
	}
	oldest := first
	for _, p := range places {
		if p.t.flow == first.t.flow && p.order < oldest.order {
			oldest = p
		}
	}
	if oldest != first {
		m.flows.seen.own++
	}
	return oldest
}

// charge has the flow of p, which is about to be taken from l, pay for that.
func (m *modelPool) charge(l *modelLine, p *modelPlace, choice, restricted bool) {
	if m.step > 0 {
		return
	}
	reached, own := m.reach(l, restricted), map[modelLane]bool{}
	for _, o := range reached {
		if o.t.flow == p.t.flow {
			own[o.lane()] = true
		}
	}
	first := slices.MinFunc(reached, func(a, b *modelPlace) int { return m.before(l, a, b) })
	turn := flowTurn{p.t.flow, restricted}
	switch g := p.group(); {
	case choice && m.turnDue(l, restricted):
		l.turned[restricted] = max(l.turned[restricted], l.ring[turn].at)
		m.setTurn(l, turn)
	case first.group() == g: // else it is the flow's own turn, at no cost
		l.served[g.ofAll()] = max(l.served[g.ofAll()], l.tags[g].at)
		m.setTag(l, g)
	}
	if m.share > 0 && m.limit(p.t.flow) > 0 && len(own) > 1 {
		l.own[turn] = (l.own[turn] + 1) % m.share
	}
}

// Places.

// limit returns how many of the flow's tasks may hold a place; 0: any number. A Shutdown that
// is cut short ends all limits.
func (m *modelPool) limit(flow string) int {
	if m.cut {
		return 0
	}
	return m.flows.policies[flow].Limit
}

// tracked reports whether tasks of the flow hold places. Those without a flow do only if New
// was given a policy for them.
func (m *modelPool) tracked(flow string) bool {
	return flow != "" || m.plain != taskpool.FlowPolicy{}
}

func (m *modelPool) places(flow string) (n int) {
	for _, t := range m.tasks {
		if t.flow == flow && t.placed {
			n++
		}
	}
	return n
}

// atLimit reports whether the flow's limit holds back its tasks that hold no place.
func (m *modelPool) atLimit(flow string) bool {
	limit := m.limit(flow)
	return limit > 0 && m.places(flow) >= limit
}

// heldBack reports whether t, if it waits in l, takes no part there: it could start or go on
// but for its flow's limit, or be let in but for its capacity.
func (m *modelPool) heldBack(l *modelLine, t *modelTask) bool {
	if l == &m.entering {
		return m.full(t.flow)
	}
	return !t.placed && m.atLimit(t.flow)
}

// takePlace gives t, which starts or goes on, a place of its flow, if it has none.
func (m *modelPool) takePlace(t *modelTask) {
	if t.placed || !m.tracked(t.flow) {
		return
	}
	if t.placed = true; !t.isGo || t.adopted {
		m.flows.holders[t.flow] = append(m.flows.holders[t.flow], t)
	}
	m.lendHolders()
}

// givePlace takes it back.
func (m *modelPool) givePlace(t *modelTask) {
	if !t.placed {
		return
	}
	t.placed = false
	all := m.flows.holders[t.flow]
	if i := slices.Index(all, t); i >= 0 {
		last := len(all) - 1
		all[i] = all[last]
		m.flows.holders[t.flow] = all[:last]
	}
	m.placesChanged(t.flow)
}

// placesChanged gives places to those of the flow on their way out, while there are any.
func (m *modelPool) placesChanged(flow string) {
	for !m.atLimit(flow) {
		i := slices.IndexFunc(m.leaving, func(a *modelAttempt) bool { return a.t.flow == flow && m.waitsToLeave(a.t) })
		if i < 0 {
			break
		}
		t := m.leaving[i].t
		t.placed = true
		m.flows.holders[flow] = append(m.flows.holders[flow], t)
	}
	m.lendHolders()
}

// waitsToLeave reports whether t is on its way out and has no place of its flow yet.
func (m *modelPool) waitsToLeave(t *modelTask) bool {
	return !t.placed && m.tracked(t.flow) && t.attempt != nil && slices.Contains(m.leaving, t.attempt)
}

// leave has a, which asks for a slot, be on its way out. It needs a place, too.
func (m *modelPool) leave(a *modelAttempt) {
	m.leaving = append(m.leaving, a)
	if !m.waitsToLeave(a.t) {
		return
	}
	if m.flows.left[a.t.flow]++; m.limit(a.t.flow) > 0 && m.flows.left[a.t.flow] > 1 {
		m.undefined = true // who came first is nobody's business
	}
	if m.placesChanged(a.t.flow); m.waitsToLeave(a.t) {
		m.flows.seen.exits++
		m.lendHoldersOf(a.t.flow, a.t.urgency())
	}
}

// parkToWait parks a for a wait for a task or for room: that may need the place of its flow.
func (m *modelPool) parkToWait(a *modelAttempt) bool {
	if t := a.t; t.isGo && !t.adopted {
		if t.adopted = true; t.placed {
			m.flows.holders[t.flow] = append(m.flows.holders[t.flow], t)
			m.lendHolders()
		}
	}
	if !m.park(a) {
		return false
	}
	m.givePlace(a.t)
	return true
}

// lendHolders has those that hold a place of a flow count as urgent as what waits in the queue
// for one.
func (m *modelPool) lendHolders() {
	for _, flow := range slices.Sorted(maps.Keys(m.flows.holders)) {
		if !m.atLimit(flow) {
			continue
		}
		most := taskpool.Priority(math.MaxInt)
		for _, p := range m.queue.places {
			if p.t.flow == flow && !p.t.placed {
				most = min(most, p.priority)
			}
		}
		m.lendHoldersOf(flow, most)
	}
}

func (m *modelPool) lendHoldersOf(flow string, pr taskpool.Priority) {
	for _, t := range slices.Clone(m.flows.holders[flow]) {
		if t.placed && pr < t.urgency() {
			m.flows.seen.lent++
			m.raise(t, pr)
		}
	}
}

// liftLimits is called when no limit counts any more.
func (m *modelPool) liftLimits() {
	for _, flow := range slices.Sorted(maps.Keys(m.flows.policies)) {
		m.placesChanged(flow)
	}
}

// Policies.

// lives reports whether the flow has tasks that have not settled, or whose Submit has not
// returned, other than t.
func (m *modelPool) lives(flow string, t *modelTask) bool {
	return slices.ContainsFunc(m.tasks, func(o *modelTask) bool { return o.flow == flow && o != t && o.counted() })
}

func (t *modelTask) counted() bool {
	if t.accepted {
		return !final(t.state)
	}
	return !t.returned
}

// policyCounts has what WithFlows said of the flow of t, which is being submitted, count for
// all of the flow's tasks. It returns true if some of those may start now, while it is decided
// about t.
func (m *modelPool) policyCounts(t *modelTask) (freed bool) {
	before := m.flows.policies[t.flow]
	if t.flow == "" || before == t.policy {
		return false
	}
	m.flows.policies[t.flow] = t.policy
	if !m.lives(t.flow, t) {
		return false
	}
	m.flows.seen.changed++
	if m.capacity < 0 && t.policy.Capacity == 0 && m.atDoor(t.flow) {
		m.undefined = true // t may arrive by the batch: those at the door are let in when that is taken in
	}
	m.placesChanged(t.flow)
	parked := m.inState(taskpool.StateParked)
	m.restoreParked() // workers have yet to look
	freed = m.startable()
	if resumed := m.inState(taskpool.StateParked) != parked; freed || resumed {
		m.flows.seen.freed++
		asks := m.count(func(a *modelAttempt) bool { return a.parked && a.asked && !m.heldBack(&m.queue, a.t) }) > 0
		if m.capacity >= 0 && (m.reserved > 0 || asks) || resumed && m.capacity < 0 {
			m.undefined = true // by how t arrives, and for whom slots are promised
		}
	}
	return freed
}

// leaveFlow is called when t has settled or was refused. Nothing is remembered of a flow that
// has nothing to do.
func (m *modelPool) leaveFlow(t *modelTask) {
	if t.flow == "" || m.lives(t.flow, nil) {
		return
	}
	delete(m.flows.policies, t.flow)
	for _, l := range []*modelLine{&m.queue, &m.entering} {
		maps.DeleteFunc(l.own, func(of flowTurn, _ int) bool { return of.flow == t.flow })
	}
}

// Room.

// full reports whether as many tasks of the flow wait as its capacity says or, if it is at its
// limit and has none, as the pool's.
func (m *modelPool) full(flow string) bool {
	capacity := m.flows.policies[flow].Capacity
	if capacity == 0 {
		if m.capacity < 0 || !m.atLimit(flow) {
			return false
		}
		capacity = m.capacity
	}
	return m.waiting(flow) >= capacity
}

// waiting returns how many tasks of the flow its capacity counts.
func (m *modelPool) waiting(flow string) (n int) {
	for _, t := range m.tasks {
		if t.flow == flow && t.waits() {
			n++
		}
	}
	return n
}

// atDoor reports whether submitters of the flow wait for room.
func (m *modelPool) atDoor(flow string) bool {
	return slices.ContainsFunc(m.entering.places, func(p *modelPlace) bool { return p.t.flow == flow })
}

// flowRoom reports whether t's flow lets it be accepted. If it could start at once, it is held
// up only by others of its flow that wait for room.
func (m *modelPool) flowRoom(t *modelTask) bool {
	switch {
	case !m.full(t.flow):
		return true
	case m.atLimit(t.flow), m.atDoor(t.flow):
		m.flows.seen.full++
		return false
	}
	free := m.free(t.priority)
	if limit := m.limit(t.flow); limit > 0 {
		free = min(free, limit-m.places(t.flow))
	}
	if m.waiting(t.flow) < m.flows.policies[t.flow].Capacity+free {
		return true
	}
	m.flows.seen.full++
	return false
}

// errFull is the error of t, for which there is no room.
func (m *modelPool) errFull(t *modelTask) error {
	switch {
	case m.later(t), !m.full(t.flow):
		return taskpool.ErrFull
	case t.flow == "":
		return fullError("taskpool: queue of tasks without a flow is full")
	}
	return fullError(fmt.Sprintf("taskpool: queue of flow %q is full", t.flow))
}

type fullError string

func (e fullError) Error() string        { return string(e) }
func (e fullError) Is(target error) bool { return target == taskpool.ErrFull }

// compareAtDoor orders those that wait for room by priority, and of one priority by whose
// flow's turn it is.
func (m *modelPool) compareAtDoor(a, b *modelTask) int {
	place := func(t *modelTask) *modelPlace { return &modelPlace{t: t, priority: t.priority, rank: 2} }
	return cmp.Or(cmp.Compare(a.priority, b.priority), m.entering.compareTurns(place(a), place(b)))
}

// victim returns the task that is shed for by, nil if none is: the newest of the longest flow
// of the least urgent priority, of those that never started and count as no more urgent. If
// by's flow is full, it is one of that.
func (m *modelPool) victim(by *modelTask) *modelTask {
	if m.later(by) {
		return nil
	}
	full := m.full(by.flow)
	lanes := map[string][]*modelTask{} // of the least urgent priority
	least := taskpool.Priority(math.MinInt)
	for _, t := range m.inQueue() {
		switch {
		case t.started > 0 || t.urgency() != t.priority:
		case full && t.flow != by.flow, !full && m.heldBack(&m.queue, t):
		case t.priority >= least:
			if t.priority > least {
				least = t.priority
				clear(lanes)
			}
			lanes[t.flow] = append(lanes[t.flow], t)
		}
	}
	if least < by.priority {
		return nil
	}
	length := func(flow string, more int) float64 { return float64(len(lanes[flow])+more) * m.cost(flow) }
	longest := 0.0
	for flow := range lanes {
		longest = max(longest, length(flow, 0))
	}
	var victims []*modelTask
	tied := 0
	for _, flow := range slices.Sorted(maps.Keys(lanes)) {
		if length(flow, 0) < longest {
			continue
		}
		tied++
		// For one as urgent, only if its flow does not become the shorter of the two.
		if least > by.priority || flow != by.flow && length(flow, -1) >= length(by.flow, 1) {
			victims = append(victims, lanes[flow][len(lanes[flow])-1])
		}
	}
	if tied > 1 { // any of these flows will do
		victims = m.whichWasShed(victims, tied)
	}
	if len(victims) == 0 {
		return nil
	}
	if victims[0].priority == by.priority {
		m.flows.seen.shed++
	}
	return victims[0]
}

// whichWasShed returns which of the victims the pool has chosen, or none, as there are more
// flows that it may have considered.
func (m *modelPool) whichWasShed(victims []*modelTask, flows int) []*modelTask {
	was := slices.DeleteFunc(slices.Clone(victims), func(t *modelTask) bool { return !m.wasShed(t) })
	functions := slices.DeleteFunc(slices.Clone(victims), func(t *modelTask) bool { return !t.isGo })
	switch {
	case len(was) == 0 && len(functions) == 0 && len(victims) < flows:
	case len(was) == 0 && len(functions) == 1 && len(victims) == flows:
		return functions // nobody has a handle of it
	case len(was) != 1:
		m.undefined = true
	}
	return was
}

// What Stats and Flows say.

func (m *modelPool) heldBackTasks(flow string) (n int) {
	for _, t := range m.tasks {
		if t.flow == flow && (slices.Contains(m.inQueue(), t) && m.heldBack(&m.queue, t) || m.waitsToLeave(t)) {
			n++
		}
	}
	return n
}

// flowStats returns what Flows lists, but for the waits.
func (m *modelPool) flowStats() []taskpool.FlowStats {
	stats := map[string]taskpool.FlowStats{}
	for _, t := range m.tasks {
		if !t.counted() {
			continue
		}
		s := stats[t.flow]
		if s.Flow = t.flow; t.accepted {
			switch t.state {
			case taskpool.StateQueued:
				s.Queued++
			case taskpool.StateRunning:
				s.Running++
			}
		}
		stats[t.flow] = s
	}
	var all []taskpool.FlowStats
	for flow, s := range stats {
		s.HeldBack, s.Places = m.heldBackTasks(flow), m.places(flow)
		if flow != "" || s.Queued+s.Running+s.HeldBack+s.Places > 0 {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b taskpool.FlowStats) int {
		return cmp.Or(cmp.Compare(b.Queued, a.Queued), cmp.Compare(b.Running, a.Running), cmp.Compare(a.Flow, b.Flow))
	})
	return all
}
