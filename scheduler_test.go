package taskpool

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The scheduler alone, without a Pool: all short traces of what a Pool does with it, and
// some long ones, beside a naive scheduler that searches plain slices. After each step the
// two must agree on everything that can be asked, and at each dispatch the theorems of
// docs/starvation.md must hold, which are checked by counting, whatever the two have agreed
// on. Times are numbers, and nothing here starts a goroutine.

// taskKey returns the key of the lane of tasks of priority pr that resume, or have not started.
func taskKey(pr Priority, resuming bool) laneKey {
	if resuming {
		return laneKey{pr, kindResuming}
	}
	return laneKey{pr, kindOrdinary}
}

// pushTask pushes e to the lane of that key.
func (q *priorityQueue) pushTask(e entry, pr Priority, resuming bool) {
	q.push(e, taskKey(pr, resuming))
}

// pop takes the task whose turn it is, as next says, and returns it and its priority; false
// if there is none.
func (q *priorityQueue) pop(restricted bool) (entry, Priority, bool) {
	l, choice := q.next(restricted)
	if l == nil {
		return entry{}, 0, false
	}
	pr := l.priority
	q.serve(l, choice, restricted)
	return q.take(l, l.head, l.head.head), pr, true
}

// The naive scheduler.

// A naiveItem is a task that has not settled, or a submitter that waits for room.
type naiveItem struct {
	n        int  // which of the trace, and of its handles
	function bool // without a handle
	pr       Priority
	state    State
	in       waitsIn
	attempts int
	later    bool  // was not due when it was accepted, and has not started
	due      int64 // in inDelayed and inAdmissionDelayed
	arrival  int64 // number of its arrival where it waits
	at       int64 // time of that
	resuming bool  // has started, and goes before others of its priority
	asks     bool  // while Parked: for a slot
	ended    bool  // its context has
	loan     bool  // it was lent to
	lent     Priority
	second   naivePlace // its second place; without an item if it has none
	flow     int        // which; 0 if it has none
	placed   bool       // holds a place of its flow
	less     bool       // while it holds a slot: as it was told to the scheduler
	bounds   flowBounds

	begun              bool // and neither parked nor ended since, so that the attempt may turn out to be none
	choice, restricted bool // of the dispatch that has begun it

	deadline int // by which of the dispatches that can serve it it must be served, see schedulerTrace.promise
}

// A naiveScheduler is the reference for scheduler, after the documentation.
type naiveScheduler struct {
	*schedulerConfig
	slots    int
	paused   bool
	stepping stepPhase
	now      int64
	arrivals int64       // in the queue and waiting for room
	waits    int64       // and elsewhere
	turns    [2][2]int   // in the queue and waiting for room, unrestricted and restricted: dispatches with a choice since the last turn
	items    []naiveItem // in order of submission
	started  [3]int      // attempts, by priority
	naiveFlows
}

type schedulerConfig struct {
	slots, reserved int
	reservedFor     Priority
	share           int
	step            int64 // 0: no aging
	capacity        int   // or unbounded
	shed            bool
	flows           []flowPolicy // from flow 1
}

func (c *schedulerConfig) String() string {
	return fmt.Sprintf("slots=%d,reserved=%d,share=%d,step=%d,capacity=%d,shed=%t,flows=%v",
		c.slots, c.reserved, c.share, c.step, c.capacity, c.shed, c.flows)
}

// A naivePlace is one of the places of an item in the queue, or among those that wait for
// room.
type naivePlace struct {
	*naiveItem
	pr      Priority
	rank    int // 0: it resumes; 1: it has not started, and was lent to; 2: others
	arrival int64
	at      int64
	second  bool
}

// urgency returns what t counts as.
func (t *naiveItem) urgency() Priority {
	if t.loan {
		return min(t.pr, t.lent)
	}
	return t.pr
}

// places returns where t waits.
func (t *naiveItem) places() []naivePlace {
	first := naivePlace{t, t.pr, 2 * (1 - restriction(t.resuming)), t.arrival, t.at, false}
	if t.second.naiveItem == nil {
		return []naivePlace{first}
	}
	second := t.second
	second.naiveItem = t // the items may have moved
	return []naivePlace{first, second}
}

// best returns the more urgent of t's places.
func (t *naiveItem) best() naivePlace {
	all := t.places()
	return all[len(all)-1]
}

// lend has t count as urgent as pr. It returns false if that makes no difference.
func (m *naiveScheduler) lend(t *naiveItem, pr Priority) bool {
	before := t.urgency()
	if !t.loan || pr < t.lent {
		t.loan, t.lent = true, pr
	}
	if t.urgency() == before {
		return false
	}
	switch {
	case t.in == inQueue && t.state == StateQueued:
		m.addSecond(t, 1)
	case t.in == inQueue:
		m.addSecond(t, 0)
	case t.in == inAdmission:
		m.addSecond(t, 2)
	case t.in == inExiting && m.heldBack(t):
		m.lendHoldersOf(t.flow, t.urgency())
	}
	m.lendHolders()
	return true
}

// addSecond gives t a second place as from now, if it comes before the one that it has.
func (m *naiveScheduler) addSecond(t *naiveItem, rank int) {
	if t.urgency() == t.pr {
		return
	}
	m.arrivals++
	now := naivePlace{t, t.urgency(), rank, m.arrivals, m.now, true}
	if old := t.second; m.step > 0 && old.naiveItem != nil && m.less(old.pr) == m.less(now.pr) && old.at+int64(old.pr)*m.step <= now.at+int64(now.pr)*m.step {
		return
	}
	t.second = now
	m.began(now)
}

func (m *naiveScheduler) forget(n int) {
	m.items = slices.DeleteFunc(m.items, func(t naiveItem) bool { return t.n == n })
}

// arrive has t wait in the queue or waiting for room from now.
func (m *naiveScheduler) arrive(t *naiveItem, in waitsIn, resuming bool) {
	m.arrivals++
	t.in, t.arrival, t.at, t.resuming, t.second = in, m.arrivals, m.now, resuming, naivePlace{}
	m.began(t.places()[0])
	rank := t.places()[0].rank
	if in == inQueue && t.state == StateQueued {
		rank = 1
	}
	m.addSecond(t, rank)
	m.lendHolders()
}

// wait has t wait elsewhere.
func (m *naiveScheduler) wait(t *naiveItem, in waitsIn) {
	m.waits++
	t.in, t.arrival, t.second = in, m.waits, naivePlace{}
}

func (m *naiveScheduler) less(pr Priority) bool { return m.reserved > 0 && pr > m.reservedFor }

func (m *naiveScheduler) count(is func(*naiveItem) bool) (n int) {
	for i := range m.items {
		if is(&m.items[i]) {
			n++
		}
	}
	return n
}

// accepted reports whether t is a task, and not a submitter's.
func (t *naiveItem) accepted() bool { return t.in != inAdmission && t.in != inAdmissionDelayed }

func (m *naiveScheduler) inState(s State) int {
	return m.count(func(t *naiveItem) bool { return t.accepted() && t.state == s })
}

func (m *naiveScheduler) waitIn(in waitsIn) int {
	return m.count(func(t *naiveItem) bool { return t.in == in })
}

func (m *naiveScheduler) held() int { return m.inState(StateRunning) }

func (m *naiveScheduler) heldLess() int {
	return m.count(func(t *naiveItem) bool { return t.state == StateRunning && m.less(t.urgency()) })
}

func (m *naiveScheduler) asking(less bool) int {
	return m.count(func(t *naiveItem) bool { return t.asks && !m.heldBack(t) && m.less(t.urgency()) == less })
}

func (m *naiveScheduler) later() int {
	return m.count(func(t *naiveItem) bool { return t.accepted() && t.later })
}

// retrying returns how many wait for the time of their retry.
func (m *naiveScheduler) retrying() int {
	return m.count(func(t *naiveItem) bool { return t.in == inDelayed && t.attempts > 0 })
}

// retriesWaiting returns how many wait for a retry.
func (m *naiveScheduler) retriesWaiting() int {
	return m.retrying() + m.count(func(t *naiveItem) bool { return t.in == inQueue && t.state == StateQueued && t.attempts > 0 })
}

// freeForLess returns how many slots less urgent tasks may have.
func (m *naiveScheduler) freeForLess() int {
	return max(min(m.slots-m.held(), m.slots-m.reserved-m.heldLess()), 0)
}

// restricted reports whether a free slot is kept for the reserved priorities.
func (m *naiveScheduler) restricted() bool {
	return m.reserved > 0 && m.heldLess() >= m.slots-m.reserved
}

func (m *naiveScheduler) inReach(pr Priority, restricted bool) bool {
	return !restricted || !m.less(pr)
}

// before reports whether a goes before b, but for the fair share.
func (m *naiveScheduler) before(a, b naivePlace) bool {
	if m.step > 0 {
		if x, y := a.at+int64(a.pr)*m.step, b.at+int64(b.pr)*m.step; x != y {
			return x < y
		}
		if a.at != b.at {
			return a.at < b.at
		}
	}
	if a.pr != b.pr {
		return a.pr < b.pr
	}
	if a.resumes() != b.resumes() {
		return a.resumes()
	}
	if a.flow != b.flow {
		return m.tags[a.share()].before(m.tags[b.share()])
	}
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	return m.older(a, b)
}

// older reports whether a came before b. With aging the scheduler knows that only by the time
// if one is a second place and the other is not; then of one instant it takes the latter.
func (m *naiveScheduler) older(a, b naivePlace) bool {
	if m.step > 0 && a.second != b.second {
		return a.at < b.at || a.at == b.at && b.second
	}
	return a.arrival < b.arrival
}

// best returns the first of places, and whether they are of more than one lane.
func (m *naiveScheduler) best(places []naivePlace) (best naivePlace, choice bool) {
	for i, p := range places {
		choice = choice || p.lane() != places[0].lane()
		if i == 0 || m.before(p, best) {
			best = p
		}
	}
	return best, choice
}

// first returns which of places is to go first but for the fair share, and whether they are
// of more than one lane.
func (m *naiveScheduler) first(places []naivePlace) (best naivePlace, choice bool) {
	best, choice = m.best(places)
	if m.step > 0 { // tasks that resume, or were lent to, take the turn of the first of their priority
		for _, p := range places {
			if p.pr == best.pr && (p.rank < best.rank || p.rank == best.rank && p.rank < 2 && m.older(p, best)) {
				best = p
			}
		}
	}
	return best, choice
}

// pick returns whose turn it is of those that wait in the queue or waiting for room, by which
// place, and whether there was a choice: whether there are places of more than one lane, other
// than two of which the same goes first.
func (m *naiveScheduler) pick(in waitsIn, restricted bool) (best naivePlace, choice bool) {
	var all []naivePlace
	for i := range m.items {
		t := &m.items[i]
		for _, p := range t.places() {
			if t.in != in || !m.inReach(p.pr, restricted) || p.second && in == inAdmission && restricted || m.heldBack(t) {
				continue
			}
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return naivePlace{}, false
	}
	fronts := map[naiveLane]naivePlace{}
	for _, p := range all {
		if f, ok := fronts[p.lane()]; !ok || p.arrival < f.arrival {
			fronts[p.lane()] = p
		}
	}
	tasks := map[int]bool{}
	for _, p := range fronts {
		tasks[p.n] = true
	}
	best, _ = m.first(all)
	switch choice = len(fronts) > 2 || len(tasks) > 1; {
	case choice && m.share > 0 && *m.turn(in, restricted)+1 == m.share:
		best = m.turnOf(all, restricted)
	case m.step == 0:
		best = m.ownTurn(best, all, restricted)
	}
	return best, choice
}

func (m *naiveScheduler) turn(in waitsIn, restricted bool) *int {
	turns := &m.turns[0]
	if in == inAdmission {
		turns = &m.turns[1]
	}
	return &turns[restriction(restricted)]
}

// served takes note that p was picked.
func (m *naiveScheduler) served(p naivePlace, choice, restricted bool) {
	t := p.naiveItem
	m.charge(p, choice, restricted)
	if turn := m.turn(t.in, restricted); choice && m.share > 0 {
		*turn = (*turn + 1) % m.share
	}
	t.in, t.resuming, t.second = nowhere, false, naivePlace{}
}

// next returns who is to have a free slot, as scheduler.next does, but takes nobody.
func (m *naiveScheduler) next(starts bool) (best naivePlace, choice, restricted bool) {
	if m.held() >= m.slots {
		return naivePlace{}, false, false
	}
	restricted = m.restricted()
	for i := range m.items {
		t := &m.items[i]
		if t.in == inExiting && !m.heldBack(t) && m.inReach(t.urgency(), restricted) && (best.naiveItem == nil || t.arrival < best.arrival) {
			best = t.places()[0]
		}
	}
	if best.naiveItem != nil {
		return best, false, false
	}
	if m.paused && m.stepping != stepGranted {
		return naivePlace{}, false, false
	}
	best, choice = m.pick(inQueue, restricted)
	if best.naiveItem == nil || best.state == StateQueued && !starts {
		return naivePlace{}, false, false
	}
	return best, choice, restricted
}

// run has p, which was chosen, run.
func (m *naiveScheduler) run(p naivePlace, choice, restricted bool) {
	t := p.naiveItem
	if t.state == StateQueued {
		t.begun, t.choice, t.restricted = true, choice, restricted
		t.attempts++
		m.started[t.pr]++
		t.later = false
	}
	if t.in == inQueue {
		m.served(p, choice, restricted)
		if m.stepping == stepGranted {
			m.stepping = stepTaken
		}
	}
	t.in, t.asks, t.state = nowhere, false, StateRunning
	m.takePlace(t)
}

// rested returns m as it is when each task for which there is a slot has got it, after a
// pause if there is one.
func (m *naiveScheduler) rested() *naiveScheduler {
	r := m.clone()
	r.paused = false
	for t, choice, restricted := r.next(true); t.naiveItem != nil; t, choice, restricted = r.next(true) {
		r.run(t, choice, restricted)
	}
	return r
}

// promised returns m as it is when each task has its slot that takes no room from others,
// as it is promised one: while nobody asks for a slot all for which there is one; else the
// one whose turn it is, and others where the parked tasks that ask leave a slot. In a pause,
// and while submitters wait, that is nobody.
func (m *naiveScheduler) promised() *naiveScheduler {
	r := m.clone()
	if m.paused || m.ready(inAdmission)+m.waitIn(inAdmissionDelayed) > 0 {
		return r
	}
	r.frozen = make([]bool, len(r.flows)+1) // a promise takes no account of the limits that it would reach
	for f := range r.frozen {
		r.frozen[f] = m.heldFlow(f)
	}
	if t, choice, restricted := r.next(true); t.naiveItem != nil && t.state == StateQueued {
		r.run(t, choice, restricted)
	}
	for _, s := range []State{StateParked, StateQueued} {
		for _, less := range []bool{false, true} {
			for i := range r.items {
				t := &r.items[i]
				if t.state == s && (t.in == inQueue || t.in == inExiting) && r.less(t.urgency()) == less &&
					r.held() < r.slots && !(less && r.restricted()) && !r.heldBack(t) {
					r.run(t.places()[0], false, false)
				}
			}
		}
	}
	return r
}

// waiting returns how many tasks count against the capacity.
func (m *naiveScheduler) waiting() int {
	return m.count(func(t *naiveItem) bool { return t.accepted() && t.state == StateQueued && !m.heldBack(t) }) + m.retrying()
}

// room reports whether fewer tasks wait than the capacity and the slots that are free for a
// task of priority pr: those that parked tasks ask for are not. m is as promised or rested says.
func (m *naiveScheduler) room(pr Priority) bool {
	free, forLess := m.slots-m.held()-m.asking(false), m.freeForLess()
	if m.less(pr) {
		free = max(min(free, forLess)-m.asking(true), 0)
	} else {
		free = max(free-min(m.asking(true), forLess), 0)
	}
	return m.capacity == unbounded || m.waiting() < m.capacity+free
}

func (m *naiveScheduler) laterRoom() bool {
	return m.capacity == unbounded || m.later() < m.capacity+m.slots
}

// unserved returns how many of those that wait in the queue, and are counted, no free slot
// is left for.
func (m *naiveScheduler) unserved(counts func(*naiveItem) bool) int {
	free, forLess, all := m.slots-m.held(), m.freeForLess(), 0
	for _, less := range []bool{false, true} {
		for i := range m.items {
			t := &m.items[i]
			if t.in != inQueue || m.heldBack(t) || m.less(t.urgency()) != less || !counts(t) {
				continue
			}
			switch {
			case free <= 0 || less && forLess <= 0:
				all++
			case less:
				forLess--
				fallthrough
			default:
				free--
			}
		}
	}
	return all
}

func (m *naiveScheduler) wanted() int {
	if m.paused && m.stepping != stepGranted {
		return 0
	}
	queued := m.count(func(t *naiveItem) bool { return t.accepted() && t.state == StateQueued && !m.heldBack(t) })
	return queued - m.unserved(func(t *naiveItem) bool { return t.state == StateQueued })
}

// still reports whether nothing moves until a slot is given back.
func (m *naiveScheduler) still() bool {
	return m.held() >= m.slots && !m.paused && m.ready(inQueue)+m.ready(inExiting)+m.ready(inAdmission) > 0
}

func (m *naiveScheduler) mostUrgent() int64 {
	most := int64(none)
	if m.paused && m.stepping == noStep || m.unserved(func(*naiveItem) bool { return true }) == 0 {
		return most
	}
	for i := range m.items {
		if t := &m.items[i]; t.in == inQueue && !m.heldBack(t) {
			most = min(most, int64(t.best().pr))
		}
	}
	return most
}

// firstDue returns the one that is due first in in, nil if there is none.
func (m *naiveScheduler) firstDue(in waitsIn) (first *naiveItem) {
	for i := range m.items {
		if t := &m.items[i]; t.in == in && (first == nil || cmp.Or(cmp.Compare(t.due, first.due), cmp.Compare(t.arrival, first.arrival)) < 0) {
			first = t
		}
	}
	return first
}

// victim returns the newest of the least urgent tasks that have never started, if that is less
// urgent than pr, or see outstays. Where there are several flows it is of the longest; of
// those that are as long any will do. If the newcomer's flow f is full, it is one of f.
func (m *naiveScheduler) victims(f int, pr Priority) (victims []*naiveItem) {
	least := Priority(math.MinInt)
	sheds := func(t *naiveItem) bool {
		return t.in == inQueue && t.attempts == 0 && t.urgency() == t.pr && (m.full(f) && t.flow == f || !m.full(f) && !m.heldBack(t))
	}
	length := func(f int, pr Priority) int {
		return m.count(func(t *naiveItem) bool { return sheds(t) && t.flow == f && t.pr == pr }) * int(m.cost(f))
	}
	for i := range m.items {
		if t := &m.items[i]; sheds(t) {
			least = max(least, t.pr)
		}
	}
	longest := 0
	for g := range len(m.flows) + 1 {
		longest = max(longest, length(g, least))
	}
	for g := range len(m.flows) + 1 {
		if length(g, least) < longest || longest == 0 {
			continue
		}
		stays := g != f && longest-int(m.cost(g)) >= length(f, least)+int(m.cost(f))
		if least < pr || least == pr && !stays {
			continue
		}
		var victim *naiveItem
		for i := range m.items {
			if t := &m.items[i]; sheds(t) && t.flow == g && t.pr == least && (victim == nil || t.arrival > victim.arrival) {
				victim = t
			}
		}
		victims = append(victims, victim)
	}
	return victims
}

// Flows.

// naiveFlows is what a naiveScheduler remembers of flows.
type naiveFlows struct {
	policies  []flowPolicy // from flow 1
	unlimited bool
	tags      map[naiveShare]tag
	groups    map[naiveShare]int64 // the tag of the flow served last; for no flow
	ring      map[naiveTurn]tag
	turns0    map[naiveTurn]int64 // the tag of the flow served last; for no flow
	own       map[naiveTurn]int
	set       uint64 // tags
	holders   [][]int
	frozen    []bool              // which flows are held back, whatever their places
	begun     map[naiveShare]bool // which have begun to wait since schedulerTrace.beginRounds looked
}

type naiveLane struct {
	naiveShare
	rank           int
	second, holder bool
}

// A naiveShare is the lanes of a flow that take turns with those of other flows.
type naiveShare struct {
	in       waitsIn
	pr       Priority
	resuming bool
	flow     int
}

type naiveTurn struct {
	in   waitsIn
	kind int
	flow int
}

func (p naivePlace) resumes() bool { return p.rank == 0 }

func (p naivePlace) share() naiveShare { return naiveShare{p.in, p.pr, p.resumes(), p.flow} }

func (p naivePlace) lane() naiveLane { return naiveLane{p.share(), p.rank, p.second, p.placed} }

func (s naiveShare) group() naiveShare {
	s.flow = 0
	return s
}

func (f *naiveFlows) init(policies []flowPolicy) {
	*f = naiveFlows{policies: slices.Clone(policies), tags: map[naiveShare]tag{}, groups: map[naiveShare]int64{}, begun: map[naiveShare]bool{},
		ring: map[naiveTurn]tag{}, turns0: map[naiveTurn]int64{}, own: map[naiveTurn]int{}, holders: make([][]int, len(policies)+1)}
}

// clone returns a copy of m.
func (m *naiveScheduler) clone() *naiveScheduler {
	r := *m
	r.items = slices.Clone(m.items)
	if len(m.flows) > 0 {
		r.tags, r.groups, r.ring, r.turns0, r.own = maps.Clone(m.tags), maps.Clone(m.groups), maps.Clone(m.ring), maps.Clone(m.turns0), maps.Clone(m.own)
		r.holders = slices.Clone(m.holders)
		for f := range r.holders {
			r.holders[f] = slices.Clone(m.holders[f])
		}
	}
	return &r
}

func (m *naiveScheduler) cost(f int) int64 {
	if f == 0 {
		return tagScale
	}
	return tagScale / int64(max(m.policies[f-1].weight, 1))
}

func (m *naiveScheduler) limit(f int) int {
	if f == 0 || m.unlimited {
		return 0
	}
	return int(m.policies[f-1].limit)
}

func (m *naiveScheduler) heldPlaces(f int) int {
	return m.count(func(t *naiveItem) bool { return t.placed && t.flow == f })
}

// heldFlow reports whether the limit of f is reached.
func (m *naiveScheduler) heldFlow(f int) bool {
	if m.frozen != nil {
		return m.frozen[f]
	}
	return m.limit(f) > 0 && m.heldPlaces(f) >= m.limit(f)
}

// heldBack reports whether t waits and its flow holds it back.
func (m *naiveScheduler) heldBack(t *naiveItem) bool {
	switch {
	case t.flow == 0 || t.placed:
		return false
	case t.in == inQueue || t.in == inExiting:
		return m.heldFlow(t.flow)
	case t.in == inAdmission:
		return m.full(t.flow)
	}
	return false
}

// ready returns how many wait in in and are not held back.
func (m *naiveScheduler) ready(in waitsIn) int {
	return m.count(func(t *naiveItem) bool { return t.in == in && !m.heldBack(t) })
}

// flowWaits returns how many tasks of f its capacity counts.
func (m *naiveScheduler) flowWaits(f int) int {
	return m.count(func(t *naiveItem) bool {
		return t.flow == f && t.accepted() && (t.state == StateQueued || t.in == inDelayed && t.attempts > 0)
	})
}

func (m *naiveScheduler) full(f int) bool {
	if f == 0 {
		return false
	}
	switch capacity := int(m.policies[f-1].capacity); {
	case capacity > 0:
		return m.flowWaits(f) >= capacity
	case m.heldFlow(f) && m.capacity != unbounded:
		return m.flowWaits(f) >= m.capacity
	}
	return false
}

// flowRoom reports whether f lets one more of its tasks be accepted.
func (m *naiveScheduler) flowRoom(f int, pr Priority) bool {
	if !m.full(f) {
		return true
	}
	if m.heldFlow(f) || m.atDoor(f) {
		return false
	}
	r := m.promised()
	free, forLess := r.slots-r.held()-r.asking(false), r.freeForLess()
	if m.less(pr) {
		free = max(min(free, forLess)-r.asking(true), 0)
	} else {
		free = max(free-min(r.asking(true), forLess), 0)
	}
	ready := func(m *naiveScheduler, f int) int {
		return m.count(func(t *naiveItem) bool {
			return t.accepted() && t.state == StateQueued && !m.heldBack(t) && (f < 0 || t.flow == f)
		})
	}
	free += max(ready(m, -1)-ready(r, -1)-(ready(m, -1)-ready(m, f)), 0)
	if l := m.limit(f); l > 0 {
		free = min(free, l-m.heldPlaces(f))
	}
	return m.flowWaits(f) < int(m.policies[f-1].capacity)+free
}

// firstClass reports whether a dispatch that is restricted may serve p: of submitters only those
// whose own priority is reserved.
func (m *naiveScheduler) firstClass(p naivePlace) bool {
	return !m.less(p.pr) && !(p.second && p.in == inAdmission)
}

// atDoor reports whether submitters of f wait for room.
func (m *naiveScheduler) atDoor(f int) bool {
	return m.count(func(t *naiveItem) bool { return t.flow == f && t.in == inAdmission }) > 0
}

// began takes note that p is a place from now on.
func (m *naiveScheduler) began(p naivePlace) {
	if len(m.flows) == 0 {
		return
	}
	share, waits := 0, [2]int{}
	for i := range m.items {
		for _, o := range m.items[i].places() {
			if o.in != p.in || o.naiveItem.n == p.n && o.arrival == p.arrival {
				continue
			}
			if o.share() == p.share() {
				share++
			}
			if o.flow == p.flow {
				waits[0]++
				waits[1] += restriction(m.firstClass(o))
			}
		}
	}
	if share == 0 {
		m.setTag(p.share())
		m.begun[p.share()] = true
	}
	for kind, n := range waits {
		if n == 0 && (kind == 0 || m.firstClass(p)) {
			m.setTurn(naiveTurn{p.in, kind, p.flow})
		}
	}
}

func (m *naiveScheduler) setTag(s naiveShare) {
	m.set++
	m.tags[s] = tag{m.groups[s.group()] + m.cost(s.flow), m.set}
}

func (m *naiveScheduler) setTurn(of naiveTurn) {
	all := of
	all.flow = 0
	m.set++
	m.ring[of] = tag{m.turns0[all] + m.cost(of.flow), m.set}
}

// turnOf returns the oldest of those of places that are of the flow whose turn it is.
func (m *naiveScheduler) turnOf(places []naivePlace, restricted bool) (best naivePlace) {
	turn := func(p naivePlace) tag { return m.ring[naiveTurn{p.in, restriction(restricted), p.flow}] }
	for _, p := range places {
		if best.naiveItem == nil || p.flow != best.flow && turn(p).before(turn(best)) || p.flow == best.flow && m.older(p, best) {
			best = p
		}
	}
	return best
}

// ownTurn returns which of its flow goes instead of first.
func (m *naiveScheduler) ownTurn(first naivePlace, firsts []naivePlace, restricted bool) naivePlace {
	if m.share > 0 && m.limit(first.flow) > 0 && m.own[naiveTurn{first.in, restriction(restricted), first.flow}]+1 >= m.share {
		for _, p := range firsts {
			if p.flow == first.flow && p.arrival < first.arrival {
				first = p
			}
		}
	}
	return first
}

// charge takes note that p is taken in a dispatch.
func (m *naiveScheduler) charge(p naivePlace, choice, restricted bool) {
	if len(m.flows) == 0 {
		return
	}
	kind, mine := restriction(restricted), map[naiveLane]bool{}
	first := p
	for i := range m.items {
		for _, o := range m.items[i].places() {
			if o.in != p.in || !m.inReach(o.pr, restricted) || o.second && o.in == inAdmission && restricted || m.heldBack(o.naiveItem) {
				continue
			}
			if m.before(o, first) {
				first = o
			}
			if o.flow == p.flow {
				mine[o.lane()] = true
			}
		}
	}
	if choice && m.share > 0 && *m.turn(p.in, restricted)+1 == m.share {
		of := naiveTurn{p.in, kind, p.flow}
		all := of
		all.flow = 0
		m.turns0[all] = max(m.turns0[all], m.ring[of].at)
		m.setTurn(of)
	} else if first.share() == p.share() {
		s := p.share()
		m.groups[s.group()] = max(m.groups[s.group()], m.tags[s].at)
		m.setTag(s)
	}
	if m.share > 0 && m.limit(p.flow) > 0 && len(mine) > 1 {
		of := naiveTurn{p.in, kind, p.flow}
		m.own[of] = (m.own[of] + 1) % m.share
	}
}

// takePlace gives t a place of its flow, if it has none.
func (m *naiveScheduler) takePlace(t *naiveItem) {
	if t.flow == 0 || t.placed {
		return
	}
	t.placed = true
	m.holders[t.flow] = append(m.holders[t.flow], t.n)
	m.lendHolders()
}

// givePlace takes it back.
func (m *naiveScheduler) givePlace(t *naiveItem) {
	if !t.placed {
		return
	}
	t.placed = false
	all := m.holders[t.flow]
	i, last := slices.Index(all, t.n), len(all)-1
	all[i] = all[last]
	m.holders[t.flow] = all[:last]
	m.placesChanged(t.flow)
}

// placesChanged gives places to those of f on their way out, while there are any.
func (m *naiveScheduler) placesChanged(f int) {
	for !m.heldFlow(f) {
		var first *naiveItem
		for i := range m.items {
			if t := &m.items[i]; t.in == inExiting && t.flow == f && !t.placed && (first == nil || t.arrival < first.arrival) {
				first = t
			}
		}
		if first == nil {
			break
		}
		m.waits++
		first.arrival = m.waits
		m.takePlace(first)
	}
	m.lendHolders()
}

// exit has t, which asks for a slot, be on its way out. It needs a place, too.
func (m *naiveScheduler) exit(t *naiveItem) {
	m.wait(t, inExiting)
	if t.flow > 0 && !t.placed {
		if m.placesChanged(t.flow); !t.placed {
			m.lendHoldersOf(t.flow, t.urgency())
		}
	}
}

// lendHolders has those that hold a place count as urgent as what waits for it.
func (m *naiveScheduler) lendHolders() {
	for f := 1; f <= len(m.flows); f++ {
		if !m.heldFlow(f) {
			continue
		}
		most := Priority(math.MaxInt)
		for i := range m.items {
			if t := &m.items[i]; t.flow == f && t.in == inQueue && m.heldBack(t) {
				most = min(most, t.urgency())
			}
		}
		m.lendHoldersOf(f, most)
	}
}

func (m *naiveScheduler) lendHoldersOf(f int, pr Priority) {
	for _, n := range m.holders[f] {
		for i := range m.items {
			if t := &m.items[i]; t.n == n && pr < t.urgency() {
				m.lend(t, pr)
			}
		}
	}
}

// The driver.

// A schedulerTrace does the same to a scheduler as a Pool would, and to a naive one, and
// compares.
type schedulerTrace struct {
	s       scheduler
	m       naiveScheduler
	handles []*Handle
	f       []func() // the functions, which tell who they are
	called  int
	came    int   // items so far
	looks   bool  // the two are compared
	err     error // what was found first

	// What the theorems count: dispatches and those with a choice, unrestricted and
	// restricted, and the last of these that urgent work has lost; 0 if it has lost none.
	dispatches, choices, lost [2]int

	pairs  map[flowPair]flowLead
	rounds map[naiveShare]flowRound
	loans  bool // somebody was lent to and went by that
	limits bool // limits have changed
}

// begin brings d to its start.
func (d *schedulerTrace) begin(c *schedulerConfig) {
	for _, h := range d.handles {
		h.item = item{}
	}
	*d = schedulerTrace{handles: d.handles, f: d.f, m: naiveScheduler{schedulerConfig: c, slots: c.slots, items: d.m.items[:0]}}
	if len(c.flows) > 0 {
		d.m.naiveFlows.init(c.flows)
		d.pairs, d.rounds = map[flowPair]flowLead{}, map[naiveShare]flowRound{}
	}
	overflow := OverflowWait
	if c.shed {
		overflow = OverflowShed
	}
	d.s.init(&config{workers: c.slots, capacity: c.capacity, overflow: overflow, fairShare: c.share,
		aging: time.Duration(c.step), reserved: c.reserved, reservedFor: c.reservedFor})
}

// end has the task of x, which waits nowhere, settle.
func (d *schedulerTrace) end(x *naiveItem, final State) {
	h := d.handle(x.n)
	d.s.end(h, final)
	if h.state != final || h.waits() || h.asks || d.s.lend(h, -1, d.now()) || d.s.setPriority(h, x.pr+1, d.now()) || h.urgency() != x.pr {
		d.fail("item %d has settled as %+v", x.n, h.item)
	}
	d.forget(x)
}

// forget is the end of x.
func (d *schedulerTrace) forget(x *naiveItem) {
	f := x.flow
	d.m.givePlace(x)
	d.m.forget(x.n)
	if f == 0 {
		return
	}
	d.m.placesChanged(f)
	if d.m.count(func(t *naiveItem) bool { return t.flow == f }) == 0 { // nothing is remembered of it
		maps.DeleteFunc(d.m.own, func(of naiveTurn, _ int) bool { return of.flow == f })
	}
}

func (d *schedulerTrace) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *schedulerTrace) now() time.Duration { return time.Duration(d.m.now) }

func instant(t int64) time.Time { return time.Unix(0, t) }

// handle returns the handle of item n.
func (d *schedulerTrace) handle(n int) *Handle {
	for len(d.handles) <= n {
		i := len(d.handles)
		d.handles = append(d.handles, &Handle{})
		d.f = append(d.f, func() { d.called = i })
	}
	return d.handles[n]
}

// entry returns the entry of t.
func (d *schedulerTrace) entry(t *naiveItem) entry {
	h := d.handle(t.n)
	if t.function {
		return entry{f: d.f[t.n]}
	}
	return entry{h: h}
}

// is reports whether e is of t.
func (d *schedulerTrace) is(e entry, t *naiveItem) bool {
	if e.f == nil {
		return !t.function && e.h == d.handles[t.n]
	}
	d.called = -1
	e.f()
	return e.h == nil && d.called == t.n
}

// add makes an item of priority pr.
func (d *schedulerTrace) add(pr Priority, function bool) *naiveItem {
	d.m.items = append(d.m.items, naiveItem{n: d.came, pr: pr, function: function, deadline: math.MaxInt})
	d.handle(d.came).priority = pr
	d.came++
	return &d.m.items[len(d.m.items)-1]
}

// restore is what ends each critical section of a Pool: submitters are let in, parked tasks
// go on, and a worker that looks for a task gets the one whose turn it is.
func (d *schedulerTrace) restore(worker bool) {
	for d.err == nil {
		d.admit()
		e, by := d.s.next(worker)
		x, choice, restricted := d.m.next(worker)
		switch {
		case e.live() != (x.naiveItem != nil):
			d.fail("next has returned a task: %t, want %t", e.live(), !e.live())
			return
		case !e.live():
			return
		case !d.is(e, x.naiveItem) || by != (decision{priority: x.naiveItem.pr, choice: choice, restricted: restricted}):
			d.fail("next has decided %+v; want item %d, %d, %t, %t", by, x.n, x.naiveItem.pr, choice, restricted)
			return
		}
		if x.in == inQueue {
			d.dispatch(x, choice, restricted)
		}
		if e.parked() {
			d.s.unpark(e.h)
			d.s.resume(e.h)
		} else {
			worker = false
		}
		less := d.s.lessUrgent(d.urgency(x.naiveItem))
		d.s.hold(less)
		d.m.run(x, choice, restricted)
		if x.less = less; len(d.s.flowLoans) == 0 && less != d.m.less(x.urgency()) {
			d.fail("item %d has the slot of another class", x.n)
		}
		if f := x.flow; d.m.limit(f) > 0 && d.m.heldPlaces(f) > d.m.limit(f) && !d.limits {
			d.fail("%d tasks of flow %d hold a place", d.m.heldPlaces(f), f) // theorem 9
		}
		if held, less := d.m.held(), d.m.heldLess(); held > d.m.slots || d.m.less(x.urgency()) && less > d.m.slots-d.m.reserved {
			d.fail("%d slots are held, %d of them by less urgent tasks", held, less)
		}
		d.promise()
	}
}

// urgency returns what t counts as in the scheduler.
func (d *schedulerTrace) urgency(t *naiveItem) Priority {
	if t.function {
		return t.pr
	}
	return d.handles[t.n].urgency()
}

// passFlowLoans has the slots of those that were lent to for their flow be in the class that
// they are in now.
func (d *schedulerTrace) passFlowLoans() {
	for _, h := range d.s.flowLoans {
		if x := d.find(entry{h: h}); x != nil {
			d.reclass(x)
		}
	}
	d.s.flowLoans = nil
}

// admit lets submitters in while there is room.
func (d *schedulerTrace) admit() {
	for d.err == nil {
		d.passFlowLoans()
		x, later := d.m.firstDue(inAdmissionDelayed), true
		choice, restricted := false, false
		var p naivePlace
		if x == nil || !d.m.laterRoom() {
			p, choice = d.m.pick(inAdmission, false)
			if later = false; p.naiveItem != nil && !d.room(0, p.naiveItem.pr) && d.m.reserved > 0 {
				restricted = true
				p, choice = d.m.pick(inAdmission, true)
			}
			if x = p.naiveItem; x != nil && !d.room(0, x.pr) {
				x = nil
			}
		}
		h, isLater := d.s.admit()
		switch {
		case (h == nil) != (x == nil) || x != nil && (h != d.handles[x.n] || isLater != later):
			d.fail("admit has let in %v, later %t; want %v, %t", h, isLater, x, later)
			return
		case h == nil:
			return
		}
		waited := d.waiting()
		if !later {
			d.m.served(p, choice, restricted)
		}
		x.loan = false // it was for the place
		d.accept(x, later, waited)
	}
}

// room asks the scheduler for room, and sees that it is as promised says, and that no
// promise is made that could not be kept.
func (d *schedulerTrace) room(f int, pr Priority) bool {
	room := d.s.room(d.flow(f), pr)
	if !d.looks {
		return room
	}
	flowRoom := f == 0 || d.m.flowRoom(f, pr)
	unbounded := d.m.capacity == unbounded || f > 0 && d.m.heldFlow(f) && !d.m.atDoor(f)
	switch want := flowRoom && (unbounded || d.m.promised().room(pr)); {
	case room && !unbounded && !d.m.rested().room(pr):
		d.fail("there is said to be room for priority %d of flow %d", pr, f)
	case room != want:
		d.fail("room for priority %d of flow %d is %t", pr, f, room)
	}
	return room
}

// flow returns flow f of the scheduler, nil if it has no task or submitter.
func (d *schedulerTrace) flow(f int) *flow { return d.s.flows[flowName(f)] }

func flowName(f int) string {
	if f == 0 {
		return ""
	}
	return string(rune('A' + f - 1))
}

// accept makes x, which was submitted, a task. It sees that no promise is broken: if so many tasks had to
// wait before, no more do now, or no more than the capacity and the parked tasks that ask.
func (d *schedulerTrace) accept(x *naiveItem, later bool, waited int) {
	if later {
		d.s.delay(d.handle(x.n), instant(x.due))
		x.state, x.later = StateDelayed, true
		d.m.wait(x, inDelayed)
		return
	}
	if h := d.handle(x.n); !x.function {
		h.due = time.Time{}
	}
	d.enqueue(x)
	asking := d.m.asking(false) + d.m.asking(true) // each may go before one that was let in
	if waits := d.waiting(); waits > max(waited, d.m.capacity)+asking {
		d.fail("%d tasks wait as one was let in, and %d before", waits, waited)
	}
}

// waiting returns how many tasks wait for a slot when each for which there is one has it.
func (d *schedulerTrace) waiting() int {
	if !d.looks || d.m.capacity == unbounded {
		return unbounded
	}
	return d.m.rested().waiting()
}

// enqueue has x, which counts in no state, be Queued.
func (d *schedulerTrace) enqueue(x *naiveItem) {
	isNext := !x.function && d.looks && d.s.isNext(d.handle(x.n))
	d.s.enqueue(d.entry(x), x.pr, d.now())
	x.state = StateQueued
	d.m.arrive(x, inQueue, false)
	if isNext {
		if next, choice, restricted := d.m.next(true); next.naiveItem != x || choice || restricted {
			d.fail("item %d is said to be next", x.n)
		}
	}
	d.promise()
}

// The theorems.

// inReach returns how many dispatches there were that could have served t.
func (d *schedulerTrace) inReach(t *naiveItem) int {
	if d.m.less(t.pr) {
		return d.dispatches[0]
	}
	return d.dispatches[0] + d.dispatches[1]
}

// promise gives those that wait the bound of theorem 1, or 4: it only ever comes nearer.
func (d *schedulerTrace) promise() {
	if len(d.m.flows) > 0 && d.m.reserved == 0 {
		d.promiseFlows()
	}
	if d.m.share == 0 || len(d.m.flows) > 0 {
		return
	}
	for i := range d.m.items {
		t := &d.m.items[i]
		if t.in != inQueue {
			t.deadline = math.MaxInt
			continue
		}
		older := d.m.count(func(o *naiveItem) bool { return o.in == inQueue && o.arrival < t.arrival })
		limit := d.m.share * (older + 1)
		if d.m.reserved > 0 && !d.m.less(t.pr) {
			limit += d.m.share - 1
		}
		t.deadline = min(t.deadline, d.inReach(t)+limit)
	}
}

// dispatch checks what is promised about the choice of x, which still waits in the queue.
func (d *schedulerTrace) dispatch(x naivePlace, choice, restricted bool) {
	m, kind := &d.m, restriction(restricted)
	passed, lost := "", false
	came := x.arrival // where it could be served, first
	if first := x.places()[0]; m.inReach(first.pr, restricted) {
		came = first.arrival
	}
	for i := range m.items {
		t := &m.items[i]
		if t.n == x.n || t.in != inQueue || m.heldBack(t) {
			continue
		}
		if a, b := t.best(), x.best(); m.inReach(a.pr, restricted) && (a.pr < b.pr || a.pr == b.pr && a.resumes() && !b.resumes()) {
			lost = true
		}
		for _, w := range t.places() {
			if !m.inReach(w.pr, restricted) {
				continue
			}
			older := m.older(w, x)
			resumes := w.pr == x.pr && w.rank < x.rank
			switch head := int64(w.pr-x.pr) * m.step; {
			case older && w.lane() == x.lane():
				passed = "an older one of its lane" // and so no retry passes a first attempt
			// Without a choice no turn is due. Then only first places are in order: a second
			// one may be all that a task has in reach. Between flows they take turns.
			case m.share == 1 && w.arrival < came && (choice || !w.second) && len(m.flows) == 0:
				passed = "an older one, though the fair share is 1"
			case m.step == 0:
			case resumes:
				passed = "one that resumes"
			case older && x.at-w.at >= head && !d.forAnother(x, w):
				passed = "one that came so long before" // theorem 3
			case !older && w.at-x.at < -head && !d.forAnother(x, w):
				passed = "one that had its head start left"
			}
		}
	}
	own := m.share > 0 && m.limit(x.flow) > 0 && m.own[naiveTurn{inQueue, kind, x.flow}]+1 == m.share // see Theorem 9
	if len(m.flows) > 0 && m.reserved == 0 {
		d.dispatchFlows(x, choice, own)
	}
	d.dispatches[kind]++
	if choice {
		d.choices[kind]++
	}
	last := d.lost[kind]
	if lost = lost && !own; lost {
		d.lost[kind] = d.choices[kind]
	}
	switch {
	case passed != "":
		d.fail("item %d has passed %s", x.n, passed)
	case !m.inReach(x.urgency(), restricted):
		d.fail("item %d has a reserved slot", x.n)
	case m.paused && m.stepping != stepGranted:
		d.fail("item %d has a slot in a pause", x.n)
	case lost && m.step == 0 && (m.share == 0 || last > 0 && d.choices[kind]-last < m.share): // theorem 2
		d.fail("urgent work has lost choice %d, and %d", last, d.choices[kind])
	}
	for i := range m.items {
		if w := &m.items[i]; m.share > 0 && w.in == inQueue && (d.inReach(w) > w.deadline || w.n != x.n && d.inReach(w) == w.deadline) {
			d.fail("item %d was not served by dispatch %d", w.n, w.deadline)
		}
	}
}

// flowBounds is what is counted of a task that waits in the queue of a pool with flows, for the
// theorems about these.
type flowBounds struct {
	counts bool // it has waited since it came, or since it was first counted
	older  int  // tasks of its flow that waited before it, when it came
	flows  int  // the most flows that have waited since, itself included
	able   int  // dispatches since, while its limit did not hold it back
	own    int  // those of them that were of its flow
}

// beginRounds begins to count anew for those that have begun to wait, also where that was in
// the moment in which they no longer did: as the only task was moved.
func (d *schedulerTrace) beginRounds() {
	for s := range d.m.begun {
		delete(d.rounds, s)
		for p := range d.pairs {
			if !s.resuming && p.pr == s.pr && (p.a == s.flow || p.b == s.flow) {
				delete(d.pairs, p)
			}
		}
	}
	clear(d.m.begun)
}

// promiseFlows counts who waits.
func (d *schedulerTrace) promiseFlows() {
	m := &d.m
	d.beginRounds()
	for p := range d.pairs {
		if !m.waitsIn(p.a, p.pr) || !m.waitsIn(p.b, p.pr) {
			delete(d.pairs, p)
		}
	}
	flows := map[int]bool{}
	groups, shares := map[naiveShare]map[int]bool{}, map[naiveShare]bool{}
	for i := range m.items {
		t := &m.items[i]
		if t.in != inQueue {
			t.bounds = flowBounds{}
			continue
		}
		flows[t.flow] = true
		for _, p := range t.places() {
			s := p.share()
			if groups[s.group()] == nil {
				groups[s.group()] = map[int]bool{}
			}
			groups[s.group()][t.flow], shares[s] = true, true
		}
	}
	maps.DeleteFunc(d.rounds, func(s naiveShare, _ flowRound) bool { return !shares[s] })
	for s := range shares {
		r := d.rounds[s]
		r.rivals = max(r.rivals, len(groups[s.group()]))
		d.rounds[s] = r
	}
	for i := range m.items {
		t := &m.items[i]
		if t.in != inQueue {
			continue
		}
		b := &t.bounds
		if !b.counts {
			*b = flowBounds{counts: true, older: m.count(func(o *naiveItem) bool { return o.in == inQueue && o.flow == t.flow && o.arrival < t.arrival })}
		}
		b.flows = max(b.flows, len(flows))
	}
}

// dispatchFlows checks the theorems about flows as x is about to be taken, in a turn if it is
// the time for one, or in one of its flow's own if own is set.
func (d *schedulerTrace) dispatchFlows(x naivePlace, choice, own bool) {
	m := &d.m
	d.beginRounds()
	turn := choice && m.share > 0 && m.turns[0][0]+1 == m.share
	equal := true
	for _, p := range m.policies {
		equal = equal && max(p.weight, 1) == 1
	}
	if x.second {
		d.loans = true // a loan shifts turns
	}
	for i := range m.items {
		t := &m.items[i]
		if t.in != inQueue || m.heldBack(t) {
			continue
		}
		b := &t.bounds
		if b.able++; t.flow == x.flow {
			b.own++
		}
		rounds := b.flows
		if !equal { // turns in which each flow has one at least
			rounds = 0
			for f := range len(m.flows) + 1 {
				rounds += int((m.cost(t.flow) + m.cost(f) - 1) / m.cost(f))
			}
		}
		late := func(n, most int) bool { return n > most || n == most && t.n != x.n }
		limited := m.share > 0 && m.limit(t.flow) > 0
		switch bound := m.share * (b.older + 1); {
		case d.loans || d.limits:
		case limited && late(b.own, bound):
			d.fail("item %d was not served by dispatch %d of its flow", t.n, bound) // theorem 10
		case limited && late(b.able, m.share*rounds*bound):
			d.fail("item %d was not served by dispatch %d", t.n, m.share*rounds*bound)
		case m.share > 0 && !limited && late(b.able, rounds*bound): // theorem 6
			d.fail("item %d was not served by dispatch %d, with %d flows", t.n, rounds*bound, rounds)
		}
	}
	d.fair(x, turn || own)
	if equal {
		d.rivals(x, turn || own)
	}
}

// A flowRound is what is counted of a flow that waits in a priority since it began to, or was
// last served there.
type flowRound struct {
	rivals int // the most flows that have waited there, itself included
	passed int // dispatches there that were no turns, while it was not held back
}

// rivals checks that each flow is served by as many dispatches of a priority as flows wait
// there, also of tasks that were lent to, theorem 8.
func (d *schedulerTrace) rivals(x naivePlace, turn bool) {
	for s, r := range d.rounds {
		switch ready := slices.ContainsFunc(d.m.items, func(t naiveItem) bool {
			return !d.m.heldBack(&t) && slices.ContainsFunc(t.places(), func(p naivePlace) bool { return p.in == inQueue && p.share() == s })
		}); {
		case s == x.share():
			r.rivals, r.passed = 0, 0
		case !ready || turn || s.group() != x.share().group():
		default:
			if r.passed++; r.passed >= r.rivals {
				d.fail("flow %d was not served by dispatch %d of priority %d", s.flow, r.rivals, s.pr)
			}
		}
		d.rounds[s] = r
	}
}

// fair checks that two flows that wait in a priority share the dispatches there by weight, also
// of tasks that were lent to, theorem 7.
func (d *schedulerTrace) fair(x naivePlace, turn bool) {
	m := &d.m
	for a := range len(m.flows) + 1 {
		for b := a + 1; b < len(m.flows)+1; b++ {
			for pr := range Priority(3) {
				p := flowPair{a, b, pr}
				s := d.pairs[p]
				if !m.waitsIn(a, pr) || !m.waitsIn(b, pr) {
					continue
				}
				if !turn && x.pr == pr && !x.resumes() {
					switch x.flow {
					case a:
						s.ahead += m.cost(a)
					case b:
						s.ahead -= m.cost(b)
					}
				}
				s.least, s.most = min(s.least, s.ahead), max(s.most, s.ahead)
				if d.pairs[p] = s; s.most-s.least > m.cost(a)+m.cost(b) {
					d.fail("flows %d and %d do not share priority %d: %+v", a, b, pr, s)
				}
			}
		}
	}
}

// waitsIn reports whether tasks of f wait in priority pr to start, or behind those, and are not
// held back.
func (m *naiveScheduler) waitsIn(f int, pr Priority) bool {
	return m.count(func(t *naiveItem) bool {
		return t.in == inQueue && t.flow == f && !m.heldBack(t) &&
			slices.ContainsFunc(t.places(), func(p naivePlace) bool { return p.pr == pr && !p.resumes() })
	}) > 0
}

// A flowPair is two flows that wait in a priority.
type flowPair struct {
	a, b int
	pr   Priority
}

// A flowLead is how far the first of a pair is ahead, by what its starts cost, since both wait.
type flowLead struct{ ahead, least, most int64 }

// forAnother reports whether x may pass w as it resumes, in the turn of one of its priority
// that has not started: the exception of theorem 3.
func (d *schedulerTrace) forAnother(x, w naivePlace) bool {
	return x.rank < 2 && slices.ContainsFunc(d.m.items, func(t naiveItem) bool {
		return t.in == inQueue && slices.ContainsFunc(t.places(), func(u naivePlace) bool {
			return u.pr == x.pr && u.rank > x.rank && (u.n == w.n && u.arrival == w.arrival || d.m.before(u, w))
		})
	})
}

// The comparison.

// compare sees that the two agree, and that the scheduler's counts and places are what a
// walk over all items finds.
func (d *schedulerTrace) compare() error {
	s, m := &d.s, &d.m
	for pr := range Priority(3) {
		for f := range len(m.flows) + 1 {
			if f == 0 || d.flow(f) != nil {
				d.room(f, pr)
			}
		}
		if n := m.count(func(t *naiveItem) bool { return t.in == inQueue && !m.heldBack(t) && t.best().pr <= pr }); n > 0 {
			twice := m.count(func(t *naiveItem) bool { return t.in == inQueue && t.pr <= pr && t.best().pr < t.pr }) > 0
			if want := m.unserved(func(t *naiveItem) bool { return t.best().pr <= pr }) > 0; s.contended(pr) != want && (want || !twice) {
				d.fail("contended up to %d is %t", pr, !want)
			}
		}
	}
	if d.err != nil {
		return d.err
	}
	for pr, want := range m.started {
		if got := s.queue.totals.of(Priority(pr)).Attempts; got != uint64(want) {
			return fmt.Errorf("another number of attempts of priority %d than %d", pr, want)
		}
	}
	for _, c := range [...]struct {
		what      string
		got, want int
	}{
		{"tasks queued", s.count[StateQueued], m.inState(StateQueued)},
		{"tasks delayed", s.count[StateDelayed], m.inState(StateDelayed)},
		{"tasks running", s.count[StateRunning], m.inState(StateRunning)},
		{"tasks parked", s.count[StateParked], m.inState(StateParked)},
		{"tasks outstanding", s.outstanding(), m.count((*naiveItem).accepted)},
		{"tasks that wait for a slot", s.waiting(), m.ready(inQueue) + m.ready(inExiting)},
		{"submitters", s.submitters(), m.waitIn(inAdmission) + m.waitIn(inAdmissionDelayed)},
		{"slots", s.slots, m.slots},
		{"slots held", s.held, m.held()},
		{"slots held by less urgent tasks", s.heldLess, m.heldLess()},
		{"tasks that ask for a slot", s.asking, m.asking(false)},
		{"less urgent tasks that ask for a slot", s.askingLess, m.asking(true)},
		{"tasks that are later", s.later, m.later()},
		{"tasks that wait for the time of a retry", s.retrying, m.retrying()},
		{"tasks that wait for a retry", s.retriesWaiting, m.retriesWaiting()},
		{"workers wanted", s.wanted(), m.wanted()},
		{"as the most urgent that waits", int(s.mostUrgent()), int(m.mostUrgent())},
		{"still", restriction(s.still()), restriction(m.still())},
		{"restricted", restriction(s.restricted()), restriction(m.restricted())},
		{"step", int(s.stepping), int(m.stepping)},
		{"room for later tasks", restriction(s.laterRoom()), restriction(m.laterRoom())},
		{"choices since a turn", int(s.queue.turn[0]), m.turns[0][0]},
		{"restricted choices since a turn", int(s.queue.turn[1]), m.turns[0][1]},
		{"choices since a turn of submitters", int(s.admission.turn[0]), m.turns[1][0]},
		{"restricted choices since a turn of submitters", int(s.admission.turn[1]), m.turns[1][1]},
	} {
		if c.got != c.want {
			return fmt.Errorf("%d %s, want %d", c.got, c.what, c.want)
		}
	}
	found := 0
	for i := range m.items {
		t := &m.items[i]
		if t.in != nowhere {
			found++
		}
		if t.function {
			continue
		}
		switch h := d.handles[t.n]; {
		case h.state != t.state || int(h.attempts) != t.attempts || h.urgency() != t.urgency() || h.priority != t.pr || h.asks != t.asks || h.placed != t.placed || t.accepted() && h.isLater() != t.later:
			return fmt.Errorf("item %d is %+v, want %+v", t.n, h.item, *t)
		case t.in == inAdmission && !h.due.IsZero():
			return fmt.Errorf("item %d, which may start at once, is due %v", t.n, h.due)
		case h.place.in != t.in || h.waits() != (t.in != nowhere):
			return fmt.Errorf("item %d is in place %d, want %d", t.n, h.place.in, t.in)
		}
	}
	return cmp.Or(d.walkQueue(&s.queue), d.walkQueue(&s.admission), d.walkSeconds(&s.queue), d.walkSeconds(&s.admission), d.walkDue(&s.delayed), d.walkDue(&s.admissionDelayed), d.walkExiting(found))
}

// walkQueue sees that q holds those that are to wait in it, in their order, and no other.
func (d *schedulerTrace) walkQueue(q *priorityQueue) error {
	n, queued := 0, [2]int{}
	for _, l := range q.sorted() {
		last, here, parked, fresh := int64(0), 0, 0, 0
		for e := range l.all() {
			t := d.find(e)
			switch {
			case t == nil || t.in != q.in || t.pr != l.priority || t.resuming != l.kind.resumes() || !d.isLane(q, l, t):
				return fmt.Errorf("lane %v of place %d holds %+v", l.laneKey, q.in, t)
			case t.arrival <= last || e.order != d.order(t):
				return fmt.Errorf("item %d has order %d, want %d", t.n, e.order, d.order(t))
			case e.h != nil && (e.h.place.lane != l || e.h.place.seg.slots[e.h.place.i].h != e.h):
				return fmt.Errorf("item %d is not in its place", t.n)
			}
			last = t.arrival
			here, parked, fresh = here+1, parked+restriction(t.state == StateParked), fresh+restriction(t.attempts == 0 && t.urgency() == t.pr)
		}
		if l.n != here || l.parked != parked || l.fresh != fresh || q.step > 0 && l.key != q.key(l) {
			return fmt.Errorf("lane %v counts %d, %d parked, %d fresh, or has the wrong key %d", l.laneKey, l.n, l.parked, l.fresh, l.key)
		}
		if q.reserve != nil && !q.set(l).out {
			queued[restriction(d.m.less(l.priority))] += here - parked
		}
		n += here
	}
	if want, ready := d.m.waitIn(q.in), d.m.ready(q.in); n != want || q.n != ready || q.heldBack != want-ready {
		return fmt.Errorf("%d tasks are in place %d, counted %d and %d held back, want %d and %d", n, q.in, q.n, q.heldBack, ready, want-ready)
	}
	if got := [2]int{q.classes[0].queued, q.classes[1].queued}; got != queued {
		return fmt.Errorf("place %d counts %d tasks that are not parked in its classes, want %d", q.in, got, queued)
	}
	fair := q.named > 0 || len(q.groups) > 0 // or the tasks without a flow have another turn than they would get now
	for kind, r := range q.rings {
		fair = fair || q.fair && q.share > 0 && q.plain.waits(kind == 1) > 0 && q.plain.ring[kind].at != r.at+tagScale
	}
	if len(q.plain.open.lanes) > 0 {
		return fmt.Errorf("%d lanes of tasks without a flow are in a list", len(q.plain.open.lanes))
	}
	if q.fair != fair {
		return fmt.Errorf("flows make a difference in place %d: %t, want %t", q.in, q.fair, fair)
	}
	// With the tag invariants it looks after itself.
	if c, ok := any(q).(interface {
		check(strict, deep bool) (int, error)
	}); ok {
		_, err := c.check(q.step == 0, true)
		return err
	}
	return nil
}

// isLane reports whether l is the lane of t's flow in q, and is held back if t is.
func (d *schedulerTrace) isLane(q *priorityQueue, l *lane, t *naiveItem) bool {
	fl := q.owner(l)
	if t.flow == 0 {
		return fl == &q.plain
	}
	return fl.flow == d.flow(t.flow) && (l.flow.set == fl.holders) == t.placed && l.flow.set.out == d.m.heldBack(t)
}

// walkSeconds is walkQueue for second places.
func (d *schedulerTrace) walkSeconds(q *priorityQueue) error {
	n, held := 0, 0
	for _, l := range q.filled() {
		if !l.kind.second() {
			continue
		}
		last := int64(0)
		for e := range l.all() {
			t := d.find(e)
			if t == nil || t.in != q.in || t.second.naiveItem == nil {
				return fmt.Errorf("a second place of %+v", t)
			}
			order := t.second.arrival
			if d.m.step > 0 {
				order = t.second.at
			}
			if !d.isLane(q, l, t) {
				return fmt.Errorf("item %d has its second place in lane %v of another flow", t.n, l.laneKey)
			}
			if p := e.h.loan.second; t.second.pr != l.priority || t.second.rank != int(l.kind.rank()) || e.order != order ||
				t.second.arrival <= last || p.lane != l || p.seg.slots[p.i].h != e.h || p.order() != order {
				return fmt.Errorf("item %d has another second place in lane %v, want %+v", t.n, l.laneKey, t.second)
			}
			last = t.second.arrival
			if n++; d.m.heldBack(t) {
				held++
			}
		}
	}
	if want := d.m.count(func(t *naiveItem) bool { return t.in == q.in && t.second.naiveItem != nil }); n != want || q.seconds != want-held {
		return fmt.Errorf("%d second places %d, counted %d, want %d, %d of them held back", n, q.in, q.seconds, want, held)
	}
	return nil
}

// order returns the order that t has in the scheduler.
func (d *schedulerTrace) order(t *naiveItem) int64 {
	if d.m.step > 0 {
		return t.at
	}
	return t.arrival
}

func (d *schedulerTrace) find(e entry) *naiveItem {
	for i := range d.m.items {
		if t := &d.m.items[i]; d.is(e, t) {
			return t
		}
	}
	return nil
}

// walkDue is walkQueue for those that wait for their time.
func (d *schedulerTrace) walkDue(q *dueHeap) error {
	all, last := q.all(), (*naiveItem)(nil)
	for _, h := range all {
		t := d.find(entry{h: h})
		switch {
		case t == nil || t.in != q.in || !h.due.Equal(instant(t.due)) || q.items[h.place.i].Handle != h:
			return fmt.Errorf("place %d holds %+v", q.in, t)
		case last != nil && (t.due < last.due || t.due == last.due && t.arrival < last.arrival):
			return fmt.Errorf("item %d is due behind item %d", t.n, last.n)
		}
		last = t
	}
	if want := d.m.waitIn(q.in); len(all) != want {
		return fmt.Errorf("%d tasks are in place %d, want %d", len(all), q.in, want)
	}
	return nil
}

// walkExiting is walkQueue for those on their way out. In all there are so many in some
// place.
func (d *schedulerTrace) walkExiting(want int) error {
	s := &d.s
	for less, exits := range s.exiting {
		for i, x := range exits {
			t := d.find(entry{h: x.h})
			if t == nil || t.in != inExiting || t.flow > 0 && !t.placed || restriction(d.m.less(t.urgency())) != less || i > 0 && x.number <= exits[i-1].number {
				return fmt.Errorf("list %d of those on their way out holds %+v", less, t)
			}
			for _, y := range s.exiting[1-less] {
				if o := d.find(entry{h: y.h}); o != nil && (o.arrival < t.arrival) != (y.number < x.number) {
					return fmt.Errorf("items %d and %d, on their way out, have numbers %d and %d", t.n, o.n, x.number, y.number)
				}
			}
		}
	}
	exits := 0
	for f := 1; f <= len(d.m.flows); f++ {
		if f := d.flow(f); f != nil {
			exits += len(f.exits())
		}
	}
	n := exits + s.queue.heldBack + s.admission.heldBack + s.queue.n + s.admission.n + s.delayed.Len() + s.admissionDelayed.Len() + len(s.exiting[0]) + len(s.exiting[1])
	if n != want {
		return fmt.Errorf("%d items wait, want %d", n, want)
	}
	return nil
}

// state returns what all that may follow depends on: two traces with the same state go on
// alike. It names the items anew in order of submission, arrivals by their rank, and times
// from now. Where compare has seen that the scheduler agrees with the naive one, that says
// what is in the scheduler, too, but for what is found in lanes and heaps: where each is, and
// by which age the fair share knows it. Not in it is how segments are filled and which empty
// lanes are kept, of which nothing in a trace of a few tasks depends; for these see
// priority_queue_test.go.
func (d *schedulerTrace) state(b []byte) []byte {
	m := &d.m
	put := func(n int64) { b = binary.AppendVarint(b, n) }
	rank := func(in waitsIn, number int64) (r int64) {
		for i := range m.items {
			for _, p := range m.items[i].places() {
				if p.in == in && p.arrival < number {
					r++
				}
			}
		}
		return r
	}
	flags := func(flags ...bool) (n int64) {
		for _, f := range flags {
			n = 2*n + int64(restriction(f))
		}
		return n
	}
	put(int64(m.slots))
	put(flags(m.paused))
	put(int64(m.stepping))
	for _, turns := range m.turns {
		put(int64(turns[0]))
		put(int64(turns[1]))
	}
	for i := range m.items {
		t := &m.items[i]
		put(int64(t.pr)<<8 | int64(t.state)<<4 | int64(t.in))
		put(flags(t.function, t.later, t.resuming, t.asks, t.ended, t.begun, t.begun && t.choice, t.begun && t.restricted))
		if put(int64(restriction(t.loan))); t.loan {
			put(int64(t.lent))
		}
		put(int64(min(t.attempts, 2))) // more make no difference, also if one is taken back
		if t.in == nowhere {
			continue
		}
		put(rank(t.in, t.arrival))
		if p := t.second; p.naiveItem != nil {
			put(int64(p.pr))
			put(rank(t.in, p.arrival))
			put(int64(p.rank))
			if m.step > 0 {
				put(p.at - m.now)
			}
		}
		switch {
		case t.in == inDelayed || t.in == inAdmissionDelayed:
			put(t.due - m.now)
			put(int64(d.handles[t.n].place.i))
		case m.step > 0:
			put(t.at - m.now)
		case m.share > 0 && t.in == inQueue:
			put(int64(t.deadline - d.inReach(t)))
		}
	}
	if len(m.flows) > 0 {
		d.flowState(put)
	}
	for kind, last := range d.lost {
		if last > 0 {
			put(int64(min(d.choices[kind]-last, m.share)))
		} else {
			put(-1)
		}
	}
	for _, q := range []*priorityQueue{&d.s.queue, &d.s.admission} {
		lanes := q.filled()
		slices.SortFunc(lanes, func(a, b *lane) int { return cmp.Compare(restriction(moreUrgent(b, a)), restriction(moreUrgent(a, b))) })
		for _, l := range lanes {
			for _, pos := range l.pos {
				put(int64(pos))
			}
			if m.share > 0 && l.age != l.order() && l.pos[heapOld] >= 0 {
				put(rank(q.in, l.age))
				for _, o := range lanes {
					put(int64(cmp.Compare(l.age, o.age)))
				}
			}
		}
	}
	return b
}

// flowState puts what state is to say of flows.
func (d *schedulerTrace) flowState(put func(int64)) {
	m := &d.m
	put(int64(restriction(m.unlimited)<<2 | restriction(d.loans)<<1 | restriction(d.limits)))
	for a := range len(m.flows) + 1 {
		for b := a + 1; b < len(m.flows)+1; b++ {
			for pr := range Priority(3) {
				lead := d.pairs[flowPair{a, b, pr}]
				put(lead.ahead - lead.least)
				put(lead.most - lead.least)
			}
		}
	}
	for pr := range Priority(3) {
		for resuming := range 2 {
			for f := range len(m.flows) + 1 {
				r := d.rounds[naiveShare{inQueue, pr, resuming == 1, f}]
				put(int64(r.rivals)<<8 + int64(r.passed))
			}
		}
	}
	var tags []tag // that count
	var ats []int64
	for i := range m.items {
		t := &m.items[i]
		put(int64(t.flow)<<1 | int64(restriction(t.placed)))
		if b := t.bounds; b.counts && !d.loans && !d.limits {
			for _, n := range []int{b.older, b.flows, b.able, b.own} {
				put(int64(n))
			}
		}
		if t.in != inQueue && t.in != inAdmission {
			continue
		}
		for _, p := range t.places() {
			tags, ats = append(tags, m.tags[p.share()]), append(ats, m.groups[p.share().group()])
			for kind := range 2 {
				of := naiveTurn{p.in, kind, p.flow}
				tags = append(tags, m.ring[of])
				of.flow = 0
				ats = append(ats, m.turns0[of])
			}
		}
	}
	for i, t := range tags {
		rank := 0
		for _, o := range tags {
			rank += restriction(o.number < t.number)
		}
		put(t.at - ats[i])
		put(int64(rank))
	}
	for f := 1; f <= len(m.flows); f++ {
		put(int64(m.policies[f-1].limit))
		for kind := range 2 {
			for _, in := range []waitsIn{inQueue, inAdmission} {
				put(int64(m.own[naiveTurn{in, kind, f}]))
			}
		}
		for _, n := range m.holders[f] {
			for i := range m.items {
				if m.items[i].n == n {
					put(int64(i))
				}
			}
		}
		f := d.flow(f)
		if f == nil {
			put(-1)
			continue
		}
		put(int64(f.lent))
		put(f.queue.ringPlaces())
		if f.rare != nil {
			put(f.rare.door.ringPlaces())
		}
	}
}

// ringPlaces tells in one number where f is in the rings.
func (f *flowLanes) ringPlaces() int64 { return int64(f.ringI[0])<<16 + int64(f.ringI[1]) }

// The operations.

// A schedulerOp is something that a Pool does in one critical section. do returns false if
// there is nothing to do it to.
type schedulerOp struct {
	name string
	do   func(d *schedulerTrace) bool
}

// one returns the item that was submitted first of those that are as is says or, if
// last is set, the one that was submitted last of several.
func (d *schedulerTrace) one(last bool, is func(*naiveItem) bool) *naiveItem {
	var first, newest *naiveItem
	for i := range d.m.items {
		if t := &d.m.items[i]; is(t) {
			if newest = t; first == nil {
				first = t
			}
		}
	}
	switch {
	case !last:
		return first
	case newest == first:
		return nil
	}
	return newest
}

func opSubmit(pr Priority) schedulerOp {
	return schedulerOp{fmt.Sprintf("submit %d", pr), func(d *schedulerTrace) bool { return d.submit(0, pr, false) }}
}

func opSubmitFlow(f int, pr Priority) schedulerOp {
	return schedulerOp{fmt.Sprintf("submit %d of %s", pr, flowName(f)), func(d *schedulerTrace) bool { return d.submit(f, pr, false) }}
}

func opGo(pr Priority) schedulerOp {
	return schedulerOp{fmt.Sprintf("go %d", pr), func(d *schedulerTrace) bool { return d.submit(0, pr, true) }}
}

func (d *schedulerTrace) submit(f int, pr Priority, function bool) bool {
	var due int64
	waited := d.waiting()
	join := func() {}
	if f > 0 {
		join = func() { d.s.joinFlow(d.handle(d.came), flowName(f), d.m.policies[f-1]) }
	}
	if join(); !d.room(f, pr) {
		if !d.m.shed {
			if function {
				return false // refused
			}
			x := d.add(pr, false)
			x.flow = f
			d.s.waitForRoom(d.handle(x.n), false, d.now())
			d.m.arrive(x, inAdmission, false)
			d.restore(false)
			return true
		}
		victims := d.m.victims(f, pr)
		e, of, ok := d.s.takeShed(pr, d.flow(f))
		i := slices.IndexFunc(victims, func(t *naiveItem) bool { return ok && d.is(e, t) && of == t.pr })
		if ok != (len(victims) > 0) || ok && i < 0 {
			d.fail("%v is shed, want one of %v", e, victims)
			return true
		}
		if !ok {
			d.s.leaveFlow(d.handle(d.came))
			return false
		}
		victim := victims[i]
		if e.h == nil {
			d.s.endQueued()
		} else {
			if e.h.isLater() {
				due = e.h.due.UnixNano()
			}
			d.s.notLater(e.h)
			d.s.end(e.h, StateShed)
		}
		waited = max(waited, d.m.waiting()) // one goes for one, whoever else would have gone first
		d.forget(victim)
	}
	x := d.add(pr, function && due == 0) // one that is later gets a handle
	x.flow = f
	d.accept(x, false, waited)
	if x.later = due != 0; x.later {
		d.s.inherit(d.handle(x.n), instant(due))
	} else if !x.function {
		d.s.inherit(d.handle(x.n), time.Time{})
	}
	d.restore(false)
	return true
}

// A task that is not due.
func opSubmitLater(pr Priority, in int64) schedulerOp {
	return schedulerOp{fmt.Sprintf("submit %d for later", pr), func(d *schedulerTrace) bool {
		room := d.s.laterRoom()
		if !room && d.m.shed {
			return false
		}
		x := d.add(pr, false)
		h := d.handle(x.n)
		if x.due = d.m.now + in; room {
			d.accept(x, true, 0)
		} else {
			h.due = instant(x.due)
			d.s.waitForRoom(h, true, d.now())
			d.m.wait(x, inAdmissionDelayed)
		}
		d.restore(false)
		return true
	}}
}

// A worker looks for a task.
var opLook = schedulerOp{"look", func(d *schedulerTrace) bool {
	if d.m.wanted() == 0 {
		return false
	}
	d.restore(true)
	return true
}}

// An attempt ends, its task with it, and its worker looks for another.
func opEnd(last bool) schedulerOp {
	return schedulerOp{fmt.Sprintf("end, last %t", last), func(d *schedulerTrace) bool {
		x := d.one(last, func(t *naiveItem) bool { return t.state == StateRunning })
		if x == nil {
			return false
		}
		if x.function {
			d.s.endFunction()
		} else {
			d.s.end(d.handle(x.n), StateSucceeded)
		}
		d.s.release(x.less)
		d.forget(x)
		d.restore(true)
		return true
	}}
}

func (d *schedulerTrace) running(is func(*naiveItem) bool) *naiveItem {
	return d.one(false, func(t *naiveItem) bool { return t.state == StateRunning && !t.function && is(t) })
}

func always(*naiveItem) bool { return true }

// An attempt fails, and its task is to have another: now or, in so long, later.
func opRetry(in int64) schedulerOp {
	return schedulerOp{fmt.Sprintf("retry in %d", in), func(d *schedulerTrace) bool {
		x := d.running(always)
		if x == nil {
			return false
		}
		d.s.leaveState(d.handle(x.n))
		x.state = StateDelayed // in no state, in fact
		d.m.givePlace(x)
		x.begun, x.ended = false, false
		if in == 0 {
			d.enqueue(x)
		} else {
			x.due = d.m.now + in
			d.s.delay(d.handle(x.n), instant(x.due))
			x.state = StateDelayed
			d.m.wait(x, inDelayed)
		}
		d.s.release(x.less)
		d.restore(true)
		return true
	}}
}

// An attempt turns out to be none, as its task was canceled in time.
var opUndo = schedulerOp{"undo", func(d *schedulerTrace) bool {
	x := d.running(func(t *naiveItem) bool { return t.begun })
	if x == nil {
		return false
	}
	h := d.handle(x.n)
	d.s.undo(h, decision{priority: h.priority, choice: x.choice, restricted: x.restricted})
	if int(h.attempts) != x.attempts-1 {
		d.fail("item %d has started %d times", x.n, h.attempts)
	}
	if x.choice && d.m.share > 0 {
		turn := d.m.turn(inQueue, x.restricted)
		*turn = (*turn + d.m.share - 1) % d.m.share
	}
	d.s.notLater(h)
	d.s.release(x.less)
	d.m.started[x.pr]--
	kind := restriction(x.restricted) // and so that was no dispatch
	if d.dispatches[kind]--; x.choice {
		d.choices[kind]--
	}
	d.lost = [2]int{} // which of the others were lost is another question now
	d.end(x, StateCanceled)
	d.promise()
	d.restore(true)
	return true
}}

// A task gives its slot back.
func opPark(how string) schedulerOp {
	return schedulerOp{how, func(d *schedulerTrace) bool {
		x := d.running(always)
		if x == nil {
			return false
		}
		d.s.park(d.handle(x.n))
		d.s.release(x.less)
		x.state, x.begun = StateParked, false
		if how == "wait" {
			d.s.givePlace(d.handle(x.n))
			d.m.givePlace(x)
		}
		switch how {
		case "yield":
			d.ask(x)
		case "quantum":
			d.s.askLast(d.handle(x.n), d.now())
			x.asks = true
			d.m.arrive(x, inQueue, false)
		}
		d.promise()
		d.restore(false)
		return true
	}}
}

func (d *schedulerTrace) ask(x *naiveItem) {
	if x.asks = true; x.ended {
		d.s.askFirst(d.handle(x.n))
		d.m.exit(x)
	} else {
		d.s.ask(d.handle(x.n), d.now())
		d.m.arrive(x, inQueue, true)
	}
}

// What a parked task has waited for is there.
var opAsk = schedulerOp{"ask", func(d *schedulerTrace) bool {
	x := d.one(false, func(t *naiveItem) bool { return t.state == StateParked && !t.asks })
	if x == nil {
		return false
	}
	d.ask(x)
	d.promise()
	d.restore(false)
	return true
}}

// The context of a task ends.
func opContext(last bool) schedulerOp {
	return schedulerOp{fmt.Sprintf("context ends, last %t", last), func(d *schedulerTrace) bool {
		x := d.one(last, func(t *naiveItem) bool {
			return (t.state == StateParked || t.state == StateRunning && !t.function) && !t.ended
		})
		if x == nil {
			return false
		}
		d.s.hasten(d.handle(x.n))
		if x.ended = true; x.in == inQueue {
			d.m.exit(x)
		}
		d.restore(false)
		return true
	}}
}

// A task ends while it is parked.
var opAbandon = schedulerOp{"abandon", func(d *schedulerTrace) bool {
	x := d.one(true, func(t *naiveItem) bool { return t.state == StateParked })
	if x == nil {
		x = d.one(false, func(t *naiveItem) bool { return t.state == StateParked })
	}
	if x == nil {
		return false
	}
	h := d.handle(x.n)
	d.s.withdraw(h)
	d.s.unpark(h)
	d.end(x, StateFailed)
	d.restore(false)
	return true
}}

// A task that waits, or its submitter, is canceled.
func opCancel(last bool) schedulerOp {
	return schedulerOp{fmt.Sprintf("cancel, last %t", last), func(d *schedulerTrace) bool {
		x := d.one(last, func(t *naiveItem) bool { return t.in != nowhere && t.state != StateParked && !t.function })
		if x == nil {
			return false
		}
		h := d.handle(x.n)
		if d.s.withdraw(h); x.accepted() {
			d.s.notLater(h)
			d.end(x, StateCanceled)
		} else {
			d.s.leaveFlow(h)
			d.forget(x)
		}
		d.promise()
		d.restore(false)
		return true
	}}
}

// Shutdown is cut short, after all that were parked have left the queue: what waits there ends.
var opCut = schedulerOp{"cut short", func(d *schedulerTrace) bool {
	parked := d.m.count(func(t *naiveItem) bool { return t.in == inQueue && t.state == StateParked })
	if parked > 0 || d.m.waitIn(inQueue) == 0 {
		return false
	}
	for e, pr, ok := d.s.popQueued(); ok; e, pr, ok = d.s.popQueued() {
		switch x := d.find(e); {
		case x == nil || x.in != inQueue || x.pr != pr:
			d.fail("%+v is taken from the queue, with priority %d", x, pr)
			return true
		case x.function:
			d.s.endQueued()
			d.m.forget(x.n)
		default:
			d.s.notLater(e.h)
			d.end(x, StateCanceled)
		}
	}
	if n := d.m.waitIn(inQueue); n > 0 {
		d.fail("%d tasks are left in the queue", n)
	}
	for i, turn := range d.s.queue.turn { // whose turn it was is of no matter then
		d.m.turns[0][i] = int(turn)
	}
	d.restore(false)
	return true
}}

// A task gets another priority.
func opMove(last bool, pr Priority) schedulerOp {
	return schedulerOp{fmt.Sprintf("move to %d, last %t", pr, last), func(d *schedulerTrace) bool {
		return d.move(pr, d.one(last, func(t *naiveItem) bool {
			return (t.in == inQueue && t.state == StateQueued || t.in == inDelayed) && !t.function
		}))
	}}
}

// So does one that has started.
func opMoveStarted(pr Priority) schedulerOp {
	return schedulerOp{fmt.Sprintf("move started to %d", pr), func(d *schedulerTrace) bool {
		return d.move(pr, d.one(false, func(t *naiveItem) bool {
			return (t.state == StateParked || t.state == StateRunning) && !t.function && t.pr != pr && !t.begun
		}))
	}}
}

func (d *schedulerTrace) move(pr Priority, x *naiveItem) bool {
	if x == nil {
		return false
	}
	h := d.handle(x.n)
	if !d.s.setPriority(h, pr, d.now()) {
		d.fail("item %d does not move", x.n)
	}
	if x.pr = pr; x.in == inQueue {
		d.m.arrive(x, inQueue, x.resuming)
		x.deadline, x.bounds = math.MaxInt, flowBounds{}
		maps.DeleteFunc(d.pairs, func(p flowPair, _ flowLead) bool { return p.a == x.flow || p.b == x.flow }) // its lane may have been empty
	}
	d.reclass(x)
	d.promise()
	d.restore(false)
	return true
}

// reclass moves the slot of x, if it holds one, to the class that it is in now.
func (d *schedulerTrace) reclass(x *naiveItem) {
	if x.state == StateRunning {
		d.s.release(x.less)
		x.less = d.m.less(x.urgency())
		d.s.hold(x.less)
	}
}

// Another task, of priority pr, waits for a task in some state; if place is set, it waits for
// room with it.
func opLend(last, place bool, pr Priority) schedulerOp {
	return schedulerOp{fmt.Sprintf("lend %d, last %t, place %t", pr, last, place), func(d *schedulerTrace) bool {
		x := d.one(last, func(t *naiveItem) bool {
			return !t.function && t.accepted() != place && (!place || t.urgency() > pr) && (!t.loan || pr < t.lent)
		})
		if x == nil {
			return false
		}
		h := d.handle(x.n)
		lend, other := d.s.lend, d.s.lendPlace
		if place {
			lend = d.s.lendPlace
		} else if other(h, pr-1, d.now()) {
			d.fail("item %d, which was accepted, is lent to as if it waited for room", x.n)
		}
		raised := lend(h, pr, d.now())
		if lend(h, pr, d.now()) || lend(h, pr+1, d.now()) {
			d.fail("item %d is lent the same again", x.n)
		}
		if d.m.lend(x, pr) != raised {
			d.fail("item %d is lent something: %t", x.n, raised)
		}
		d.reclass(x)
		d.promise()
		d.restore(false)
		return true
	}}
}

// The policy of flow f changes to the next limit, up to most.
func opLimit(f, most int) schedulerOp {
	return schedulerOp{fmt.Sprintf("limit of %s", flowName(f)), func(d *schedulerTrace) bool {
		if d.m.unlimited {
			return false
		}
		d.limits = true
		p := &d.m.policies[f-1]
		p.limit = (p.limit + 1) % int32(most+1)
		if f := d.flow(f); f != nil {
			d.s.setPolicy(f, *p)
		}
		d.m.placesChanged(f)
		d.restore(false)
		return true
	}}
}

// Limits end, as when Shutdown is cut short.
var opLift = schedulerOp{"lift limits", func(d *schedulerTrace) bool {
	if d.m.unlimited {
		return false
	}
	d.s.liftLimits()
	d.m.unlimited, d.limits = true, true
	for f := range d.m.policies {
		d.m.placesChanged(f + 1)
	}
	d.restore(false)
	return true
}}

var opPause = schedulerOp{"pause", func(d *schedulerTrace) bool {
	d.m.paused = !d.m.paused
	d.s.paused = d.m.paused
	d.restore(false)
	return true
}}

// A step begins or ends.
var opStep = schedulerOp{"step", func(d *schedulerTrace) bool {
	if d.m.stepping != noStep {
		d.m.stepping = noStep
	} else {
		d.m.stepping = stepGranted
	}
	d.s.stepping = d.m.stepping
	d.restore(false)
	return true
}}

// One slot more than at the start, or no more.
var opResize = schedulerOp{"resize", func(d *schedulerTrace) bool {
	if d.m.slots++; d.m.slots > d.m.schedulerConfig.slots+1 {
		d.m.slots = d.m.schedulerConfig.slots
	}
	d.s.slots = d.m.slots
	d.restore(false)
	return true
}}

// Time goes by.
var opTick = schedulerOp{"tick", func(d *schedulerTrace) bool {
	if d.m.step == 0 && d.m.waitIn(inDelayed)+d.m.waitIn(inAdmissionDelayed) == 0 {
		return false
	}
	d.m.now++
	for d.err == nil {
		h, x := d.s.nextDue(instant(d.m.now)), d.m.firstDue(inDelayed)
		if x != nil && x.due > d.m.now {
			x = nil
		}
		if (h == nil) != (x == nil) || x != nil && h != d.handles[x.n] {
			d.fail("%v is due, want %v", h, x)
			return true
		}
		if x == nil {
			break
		}
		d.enqueue(x)
	}
	for d.err == nil {
		h, x := d.s.nextDueSubmitter(instant(d.m.now), d.now()), d.m.firstDue(inAdmissionDelayed)
		if x != nil && x.due > d.m.now {
			x = nil
		}
		if (h == nil) != (x == nil) || x != nil && h != d.handles[x.n] {
			d.fail("%v is due among submitters, want %v", h, x)
			return true
		}
		if x == nil {
			break
		}
		d.m.arrive(x, inAdmission, false)
	}
	d.restore(false)
	return true
}}

// The traces.

// A schedulerScene is operations of which all short traces are run.
type schedulerScene struct {
	name    string
	ops     []schedulerOp
	start   []schedulerOp // first, these
	configs []schedulerConfig
	lengths [3]int // with -short or the race detector; else; and with TASKPOOL_TEST_FULL
}

// length returns the number of operations of the traces under configuration i. Without
// TASKPOOL_TEST_FULL only a sample of the configurations goes to the full length. The
// distance, 7, divides no number of policies or capacities, so that each comes up.
func (sc *schedulerScene) length(extent, i int) int {
	if extent == 2 || i%7 == 0 || i == len(sc.configs)-1 {
		return sc.lengths[extent]
	}
	return sc.lengths[extent] - 1
}

// explore runs all traces of so many operations. Of those that lead to the same state, see
// schedulerTrace.state, only the first is gone on with: all that follows would be the same.
// It returns how many traces there are, how many steps were made and compared, and how many
// states were found.
func (sc *schedulerScene) explore(c *schedulerConfig, length int) (traces float64, steps, states int, err error) {
	type node struct {
		ops  []byte
		next []int32 // the states that its operations lead to
	}
	var d schedulerTrace
	var key []byte
	run := func(ops []byte) bool {
		d.begin(c)
		for _, op := range sc.start {
			op.do(&d)
		}
		for i, op := range ops {
			d.looks = i == len(ops)-1
			if done := sc.ops[op].do(&d); !done {
				return false // only the last
			}
		}
		if d.err == nil {
			d.looks = true
			d.err = d.compare()
		}
		return true
	}
	run(nil)
	if d.err != nil {
		return 0, 0, 0, fmt.Errorf("at the start: %w", d.err)
	}
	seen := map[string]int32{string(d.state(nil)): 0}
	nodes := []node{{}}
	ops := make([]byte, length)
	for from, end, depth := 0, 1, 0; depth < length; from, end, depth = end, len(nodes), depth+1 {
		for i := from; i < end; i++ {
			ops = append(ops[:0], nodes[i].ops...)
			ops = append(ops, 0)
			for op := range sc.ops {
				ops[depth] = byte(op)
				if !run(ops) {
					continue
				}
				steps++
				if d.err != nil {
					names := make([]string, len(ops))
					for i, op := range ops {
						names[i] = sc.ops[op].name
					}
					return 0, 0, 0, fmt.Errorf("after %q: %w", names, d.err)
				}
				key = d.state(key[:0])
				n, ok := seen[string(key)]
				if !ok {
					n = int32(len(nodes))
					seen[string(key)] = n
					nodes = append(nodes, node{ops: slices.Clone(ops)})
				}
				nodes[i].next = append(nodes[i].next, n)
			}
		}
	}
	ways := map[int32]float64{0: 1} // to each state
	for range length {
		more := make(map[int32]float64)
		for n, w := range ways {
			for _, next := range nodes[n].next {
				more[next] += w
			}
		}
		ways = more
	}
	for _, w := range ways {
		traces += w
	}
	return traces, steps, len(nodes), nil
}

// configs returns every combination.
func schedulerConfigs(slots [][2]int, reservedFor Priority, policies [][2]int, capacities []int, sheds ...bool) (all []schedulerConfig) {
	for _, s := range slots {
		for _, p := range policies {
			for _, capacity := range capacities {
				for _, shed := range sheds {
					all = append(all, schedulerConfig{slots: s[0], reserved: s[1], reservedFor: reservedFor,
						share: p[0], step: int64(p[1]), capacity: capacity, shed: shed})
				}
			}
		}
	}
	return all
}

// flowConfigs returns configs, with each of flows.
func flowConfigs(configs []schedulerConfig, flows ...[]flowPolicy) (all []schedulerConfig) {
	for _, c := range configs {
		for _, c.flows = range flows {
			all = append(all, c)
		}
	}
	return all
}

var (
	slotsAndReserved = [][2]int{{1, 0}, {2, 0}, {2, 1}}
	shareAndStep     = [][2]int{{0, 0}, {1, 0}, {2, 0}, {0, 2}}
)

func schedulerScenes() []schedulerScene {
	everything := []schedulerOp{opSubmit(0), opSubmit(1), opGo(1), opSubmit(2), opSubmitLater(1, 1), opLook, opEnd(false), opEnd(true),
		opRetry(0), opRetry(1), opUndo, opPark("park"), opPark("yield"), opPark("quantum"), opAsk, opContext(false), opContext(true),
		opAbandon, opCancel(false), opCancel(true), opMove(false, 0), opMove(true, 2), opMoveStarted(0), opMoveStarted(2), opLend(false, false, 0), opLend(true, false, 1), opLend(false, true, 0),
		opPause, opResize, opTick}
	return []schedulerScene{
		{"everything", everything, nil,
			append(schedulerConfigs(slotsAndReserved, 0, shareAndStep, []int{unbounded, 0, 1}, false),
				schedulerConfigs(slotsAndReserved, 0, [][2]int{{0, 0}, {2, 0}}, []int{0, 1}, true)...),
			[3]int{2, 4, 5}},
		{"order", []schedulerOp{opSubmit(2), opSubmit(1), opSubmit(0), opEnd(false), opLook, opPark("yield"), opCancel(false), opTick}, []schedulerOp{opSubmit(2), opSubmit(1)},
			schedulerConfigs(slotsAndReserved, 1, append(shareAndStep, [2]int{3, 0}), []int{unbounded}, false),
			[3]int{4, 6, 8}},
		{"parking", []schedulerOp{opSubmit(0), opSubmit(1), opLook, opPark("park"), opPark("quantum"), opAsk, opContext(false), opContext(true), opEnd(false), opAbandon, opPause}, nil,
			schedulerConfigs(slotsAndReserved, 0, [][2]int{{2, 0}, {0, 2}}, []int{unbounded}, false),
			[3]int{5, 7, 8}},
		{"steps", []schedulerOp{opSubmit(0), opSubmit(1), opLook, opPark("yield"), opPark("park"), opAsk, opContext(false), opEnd(false), opPause, opStep}, nil,
			schedulerConfigs(slotsAndReserved, 0, [][2]int{{2, 0}}, []int{unbounded}, false),
			[3]int{4, 6, 8}},
		// From three tasks that are parked, while others have the slots.
		{"exits", []schedulerOp{opSubmit(0), opAsk, opContext(false), opContext(true), opEnd(false), opAbandon, opLook, opPark("park"), opResize},
			[]schedulerOp{opSubmit(1), opLook, opPark("park"), opSubmit(0), opLook, opPark("park"), opSubmit(1), opLook, opPark("park"), opGo(0), opLook, opGo(0), opLook},
			schedulerConfigs(slotsAndReserved, 0, [][2]int{{2, 0}}, []int{unbounded}, false),
			[3]int{5, 6, 8}},
		{"room", []schedulerOp{opSubmit(0), opSubmit(1), opLook, opEnd(false), opPark("park"), opAsk, opContext(false), opCancel(true), opMove(true, 0), opUndo, opResize}, nil,
			schedulerConfigs(slotsAndReserved, 0, [][2]int{{0, 0}, {2, 0}}, []int{0, 1}, false, true),
			[3]int{4, 6, 8}},
		// From three tasks that are parked, and ask while others are to start.
		{"promises", []schedulerOp{opSubmit(0), opSubmit(1), opAsk, opLook, opEnd(false), opContext(false), opPause, opResize},
			[]schedulerOp{opSubmit(2), opLook, opPark("park"), opSubmit(0), opLook, opPark("park"), opSubmit(1), opLook, opPark("park")},
			schedulerConfigs([][2]int{{1, 0}, {2, 0}, {2, 1}, {3, 1}, {3, 2}}, 0, [][2]int{{0, 0}, {2, 0}}, []int{0, 1}, false),
			[3]int{4, 5, 7}},
		{"loans", []schedulerOp{opSubmit(0), opSubmit(1), opSubmit(2), opLook, opEnd(false), opLend(false, false, 0), opLend(true, false, 0), opLend(true, false, 1), opPark("yield"), opPark("quantum"), opTick},
			[]schedulerOp{opSubmit(2), opSubmit(2)},
			schedulerConfigs(slotsAndReserved, 0, append(shareAndStep, [2]int{3, 0}), []int{unbounded}, false),
			[3]int{4, 4, 5}},
		// With a slot held by a less urgent function; the others are reserved.
		{"loans to reserved slots", []schedulerOp{opSubmit(1), opGo(0), opLook, opEnd(false), opCut, opLend(false, false, 0), opLend(true, false, 0), opLend(true, false, 1), opTick},
			[]schedulerOp{opGo(2), opLook, opSubmit(2), opSubmit(2)},
			append(schedulerConfigs([][2]int{{2, 1}}, 0, shareAndStep, []int{unbounded}, false),
				schedulerConfigs([][2]int{{2, 1}, {3, 2}}, 1, shareAndStep, []int{unbounded}, false)...),
			[3]int{3, 4, 5}},
		// From tasks of which two were lent to, one that runs, and one that waits, which is
		// younger in its second place than another of that priority.
		{"loans and time", []schedulerOp{opSubmit(1), opLook, opEnd(false), opPark("yield"), opCancel(false), opLend(false, false, 0), opLend(true, false, 1), opTick},
			[]schedulerOp{opSubmit(1), opLook, opSubmit(1), opSubmit(2), opSubmit(2), opLend(false, false, 0), opTick, opLend(true, false, 1), opTick, opTick, opTick},
			schedulerConfigs([][2]int{{1, 0}}, 0, [][2]int{{0, 1}, {0, 2}}, []int{unbounded}, false),
			[3]int{3, 4, 5}},
		// With a task at work, one that is parked, and submitters that wait for room.
		{"loans at the door", []schedulerOp{opSubmit(0), opSubmit(1), opSubmitLater(1, 1), opLook, opEnd(false), opAsk, opLend(false, true, 0), opLend(true, true, 0), opLend(true, true, 1), opCancel(true), opTick},
			[]schedulerOp{opSubmit(1), opLook, opPark("park"), opSubmit(2), opLook, opSubmit(2), opSubmit(2), opSubmit(2)},
			schedulerConfigs(slotsAndReserved, 1, shareAndStep, []int{0, 1}, false),
			[3]int{3, 3, 4}},
		// From parked tasks of which one is on its way out, and one that asks will be.
		{"loans on the way out", []schedulerOp{opSubmit(0), opLook, opEnd(false), opAsk, opContext(false), opContext(true), opLend(false, false, 0), opLend(true, false, 0), opMoveStarted(0), opMoveStarted(2), opAbandon, opResize},
			[]schedulerOp{opSubmit(2), opLook, opPark("park"), opSubmit(0), opLook, opPark("park"), opSubmit(2), opLook, opPark("park"), opGo(0), opLook, opGo(0), opLook, opContext(true), opContext(true), opAsk, opAsk},
			schedulerConfigs(slotsAndReserved, 0, [][2]int{{2, 0}, {0, 2}}, []int{unbounded}, false),
			[3]int{3, 4, 5}},
		{"flows", []schedulerOp{opSubmit(0), opSubmitFlow(1, 0), opSubmitFlow(2, 0), opSubmitFlow(1, 1), opGo(1), opLook, opEnd(false), opPark("yield"), opCancel(true), opMove(true, 1)}, nil,
			flowConfigs(schedulerConfigs(slotsAndReserved, 0, [][2]int{{0, 0}, {1, 0}, {2, 0}, {3, 0}}, []int{unbounded}, false),
				[]flowPolicy{{}, {}}, []flowPolicy{{weight: 2}, {weight: 3}}),
			[3]int{2, 4, 5}},
		{"limits", []schedulerOp{opSubmitFlow(1, 0), opSubmitFlow(1, 1), opSubmitFlow(2, 0), opSubmit(1), opLook, opEnd(false), opPark("yield"), opPark("quantum"), opPark("park"), opPark("wait"), opAsk,
			opContext(false), opContext(true), opRetry(0), opUndo, opAbandon, opLimit(1, 2), opLift, opLend(true, false, 0)}, nil,
			flowConfigs(schedulerConfigs([][2]int{{2, 0}, {3, 1}}, 0, [][2]int{{0, 0}, {2, 0}}, []int{unbounded}, false),
				[]flowPolicy{{limit: 1}, {}}, []flowPolicy{{limit: 2}, {limit: 1}}),
			[3]int{2, 4, 5}},
		// Without what sets the theorems about flows aside: changed limits, and loans.
		{"flows at their limits", []schedulerOp{opSubmitFlow(1, 0), opSubmitFlow(1, 1), opSubmitFlow(2, 0), opSubmitFlow(2, 1), opLook, opEnd(false), opEnd(true), opPark("wait"), opAsk},
			[]schedulerOp{opSubmitFlow(1, 1), opSubmitFlow(1, 0), opSubmitFlow(2, 1), opSubmitFlow(2, 0), opSubmitFlow(1, 0)},
			flowConfigs(schedulerConfigs([][2]int{{2, 0}, {3, 0}}, 0, [][2]int{{0, 0}, {1, 0}, {2, 0}, {3, 0}}, []int{unbounded}, false),
				[]flowPolicy{{limit: 1}, {}}, []flowPolicy{{limit: 1}, {limit: 1}}, []flowPolicy{{limit: 2, weight: 2}, {limit: 1}}),
			[3]int{2, 4, 5}},
		{"flows' room", []schedulerOp{opSubmitFlow(1, 0), opSubmitFlow(1, 1), opSubmitFlow(2, 0), opSubmit(1), opLook, opEnd(false), opPark("wait"), opAsk, opRetry(1), opCancel(true), opLend(true, true, 0), opTick}, nil,
			flowConfigs(schedulerConfigs([][2]int{{1, 0}, {2, 1}}, 0, [][2]int{{2, 0}}, []int{unbounded, 0, 1, 2}, false, true),
				[]flowPolicy{{limit: 1}, {}}, []flowPolicy{{capacity: 1}, {limit: 1, capacity: 2, weight: 2}}),
			[3]int{2, 4, 5}},
		// From a flow whose oldest task is to be served next among its own, while its limit holds it back.
		{"limits that end", []schedulerOp{opSubmitFlow(1, 0), opSubmitFlow(1, 1), opSubmit(0), opLook, opEnd(false), opLimit(1, 1), opLift},
			[]schedulerOp{opSubmitFlow(1, 1), opSubmitFlow(1, 0), opLook, opSubmit(0), opSubmit(1), opLook},
			flowConfigs(schedulerConfigs([][2]int{{3, 0}}, 0, [][2]int{{2, 0}}, []int{unbounded}, false), []flowPolicy{{limit: 1}}),
			[3]int{3, 4, 6}},
		// From a flow that had no limit, with an older task less urgent than others.
		{"limits that begin", []schedulerOp{opSubmitFlow(1, 0), opSubmitFlow(1, 1), opSubmit(0), opLook, opEnd(false), opLimit(1, 2), opLift},
			[]schedulerOp{opSubmit(1), opSubmit(2), opSubmitFlow(1, 1), opSubmitFlow(1, 0), opLook, opLook, opLimit(1, 2)},
			flowConfigs(schedulerConfigs([][2]int{{3, 0}}, 0, [][2]int{{2, 0}}, []int{unbounded}, false), []flowPolicy{{}}),
			[3]int{3, 4, 6}},
		// From parked tasks of each flow, of which some ask for a slot, while functions have them.
		{"flows' loans", []schedulerOp{opSubmit(1), opSubmitFlow(1, 0), opAsk, opLook, opEnd(false), opPark("quantum"), opLend(false, false, 0), opLend(true, false, 0), opLend(true, false, 1), opCancel(true), opAbandon},
			[]schedulerOp{opSubmit(2), opLook, opPark("park"), opSubmitFlow(1, 2), opLook, opPark("wait"), opSubmitFlow(2, 1), opLook, opPark("park"), opGo(0), opLook, opGo(0), opLook, opAsk, opAsk},
			flowConfigs(schedulerConfigs(slotsAndReserved, 0, [][2]int{{0, 0}, {2, 0}}, []int{unbounded}, false),
				[]flowPolicy{{}, {}}, []flowPolicy{{weight: 2, limit: 1}, {limit: 1}}),
			[3]int{3, 4, 5}},
		// From a flow with more free slots than free places, and as many tasks as it may have.
		{"flows' room beside places", []schedulerOp{opSubmitFlow(1, 0), opSubmitFlow(2, 0), opLook, opEnd(false), opPark("wait"), opAsk, opCancel(true)},
			[]schedulerOp{opSubmitFlow(1, 0), opLook, opSubmitFlow(1, 0), opSubmitFlow(1, 0)},
			flowConfigs(schedulerConfigs([][2]int{{3, 0}}, 0, [][2]int{{2, 0}}, []int{unbounded}, false, true), []flowPolicy{{limit: 2, capacity: 1}, {}}),
			[3]int{2, 4, 5}},
		{"time", []schedulerOp{opSubmitLater(0, 2), opSubmitLater(1, 1), opSubmit(1), opLook, opEnd(false), opRetry(1), opUndo, opCancel(false), opMove(false, 1), opTick}, nil,
			append(schedulerConfigs([][2]int{{1, 0}, {2, 1}}, 0, [][2]int{{2, 0}, {0, 2}}, []int{unbounded, 0, 1}, false),
				schedulerConfigs([][2]int{{1, 0}, {2, 1}}, 0, [][2]int{{2, 0}}, []int{0, 1}, true)...),
			[3]int{4, 6, 7}},
	}
}

func TestSchedulerAgreesWithNaiveOneOnAllShortTraces(t *testing.T) {
	extent := 1
	switch {
	case testing.Short() || raceDetector():
		extent = 0
	case os.Getenv("TASKPOOL_TEST_FULL") != "":
		extent = 2
	}
	for _, sc := range schedulerScenes() {
		t.Run(sc.name, func(t *testing.T) {
			traces, steps, states := 0.0, 0, 0
			for i := range sc.configs {
				if testing.Short() && i%3 > 0 {
					continue // a sample
				}
				c := &sc.configs[i]
				n, some, found, err := sc.explore(c, sc.length(extent, i))
				if err != nil {
					t.Fatalf("%v: %v", c, err)
				}
				traces, steps, states = traces+n, steps+some, states+found
			}
			t.Logf("%.0f traces of up to %d operations, under %d configurations: %d steps between %d states",
				traces, sc.lengths[extent], len(sc.configs), steps, states)
		})
	}
}

// raceDetector reports whether the tests run under it, which makes them ten times slower.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Long traces, at random: more tasks than those have, and lanes of more than a segment.
func TestSchedulerAgreesWithNaiveOneOnLongTraces(t *testing.T) {
	traces := 2
	if testing.Short() || raceDetector() {
		traces = 1
	} else if os.Getenv("TASKPOOL_TEST_FULL") != "" {
		traces = 40
	}
	steps, most := 0, 0
	for _, scene := range schedulerScenes() {
		if scene.name != "everything" && !strings.Contains(scene.name, "flows") && scene.name != "limits" {
			continue
		}
		for i := range scene.configs {
			if (testing.Short() || raceDetector()) && i%3 > 0 {
				continue
			}
			n, waits := longTraces(t, &scene, i, traces)
			steps, most = steps+n, max(most, waits)
		}
	}
	require.Greater(t, most, 10)
	t.Logf("%d steps, with at most %d tasks in the queue", steps, most)
}

// longTraces runs so many long traces of sc under its i-th configuration. It returns how many
// steps these were, and how many tasks were in the queue at most.
func longTraces(t *testing.T, sc *schedulerScene, i, traces int) (steps, most int) {
	c := &sc.configs[i]
	for seed := range uint64(traces) {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		var d schedulerTrace
		d.begin(c)
		d.looks = true
		var names []string
		for range 300 {
			op := sc.ops[rng.IntN(len(sc.ops))]
			if crowded := len(d.m.items) >= 25; crowded && strings.HasPrefix(op.name, "submit") || !op.do(&d) {
				continue
			}
			names = append(names, op.name)
			if d.err == nil {
				d.err = d.compare()
			}
			if d.err != nil {
				t.Fatalf("%s, %v, seed %d: after %q: %v", sc.name, c, seed, names, d.err)
			}
			steps++
			most = max(most, d.m.waitIn(inQueue))
		}
	}
	return steps, most
}

// What the scheduler is made of.

// The files of the scheduler, what they may import, and what they use of the rest of the
// package.
var (
	schedulerFiles   = []string{"scheduler.go", "loan.go", "priority_queue.go", "lane.go", "item.go", "flow.go", "fair_queue.go", "lane_set.go", "overload.go"}
	schedulerImports = []string{"cmp", "container/heap", "iter", "maps", "math", "slices", "time"}
	schedulerUses    = []string{"Priority", "State", "StateQueued", "StateDelayed", "StateRunning", "StateParked", "numStates", "Handle", "Handle.item", "Final",
		"unbounded", "none", "shrunk", "batchSize", "wholeBatch", "worthWhole", "tallies", "of", "PriorityTotals.Attempts", "span", "span.end", "span.priority"}
	schedulerClock = []string{"Time", "Duration"}
)

// The scheduler has no goroutine, channel, lock, context or clock, calls no user code, and
// knows a task by its item alone.
func TestSchedulerHasNoGoroutineLockOrClock(t *testing.T) {
	require.Empty(t, schedulerFaults(t, "package taskpool"))

	file, err := parser.ParseFile(token.NewFileSet(), "scheduler_test.go", nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, spec := range file.Imports {
		require.NotContains(t, []string{`"sync"`, `"sync/atomic"`, `"testing/synctest"`}, spec.Path.Value)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType:
			t.Error("the tests of the scheduler have a goroutine or a channel")
		}
		return true
	})
}

// The look at the source finds each fault of a file that has one in each line that says so.
func TestFaultsOfTheSchedulersSourceAreFound(t *testing.T) {
	const source = `package taskpool

import (
	"context" // fault
	"math"
	"sync" // fault
	clock "time" // fault
	"time"
)

type faulty struct {
	done chan struct{} // fault
	mu sync.Mutex
	p *Pool // fault
	c *config // fault
	at time.Time
}

func (s *scheduler) fault(h *Handle, e entry, l *lane, ctx context.Context) {
	go s.wanted() // fault
	select {} // fault
	s.now = time.Now() // fault
	time.AfterFunc(0, nil) // fault
	_ = time.Second + time.Duration(math.MaxInt64) // fault
	<-h.Done() // fault
	h.settled.Store(true) // fault
	h.attempt = nil // fault
	_ = h.priority
	_ = h.item.state
	_ = dueTask{}.task // fault
	_ = &Handle{item: item{}}
	_ = &Handle{id: 1} // fault
	e.f() // fault
	e.h.pool.restoreLocked() // fault
	_ = closedChannel // fault
	l.head.slots[0].f() // fault
	func() { s.release(Low) }() // fault
	f := e.f // fault
	f()
}
`
	var want []int
	for i, line := range strings.Split(source, "\n") {
		if strings.HasSuffix(line, "// fault") {
			want = append(want, i+1)
		}
	}
	require.Equal(t, want, schedulerFaults(t, source))
}

// schedulerFaults looks at the files of the scheduler and one more, and returns the lines of
// that with what none of them should have. What it finds in the others is an error.
// What the packages imported hold it does not look at, so that it takes no time; the checker
// leaves out what depends on that.
func schedulerFaults(t *testing.T, source string) (lines []int) {
	const more = "more.go"
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var files, own []*ast.File
	for _, name := range append(names, more) {
		var text any
		if name == more {
			text = source
		}
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "invariants") { // the tag decides about the latter
			continue
		}
		file, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, file)
		if name == more || slices.Contains(schedulerFiles, name) {
			own = append(own, file)
		}
	}
	require.Len(t, own, len(schedulerFiles)+1)
	info := types.Info{Uses: make(map[*ast.Ident]types.Object)}
	checker := types.Config{Importer: noImporter{}, Error: func(error) {}}
	pkg, _ := checker.Check("taskpool", fset, files, &info) // of the errors, most are of the imports

	fault := func(n ast.Node, what string) {
		if at := fset.Position(n.Pos()); at.Filename != more {
			t.Errorf("%v: %s", at, what)
		} else if !slices.Contains(lines, at.Line) {
			lines = append(lines, at.Line)
		}
	}
	in := func(pos token.Pos, names ...string) bool { return slices.Contains(names, fset.Position(pos).Filename) }
	fields := fieldNames(pkg)
	configured := ast.Node(nil) // scheduler.init, which is given the configuration
	for _, file := range own {
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Name.Name == "init" && in(f.Pos(), "scheduler.go") {
				configured = f
			}
		}
	}
	require.NotNil(t, configured)
	for _, file := range own {
		for _, spec := range file.Imports {
			if path, err := strconv.Unquote(spec.Path.Value); err != nil || spec.Name != nil || !slices.Contains(schedulerImports, path) {
				fault(spec, "imports "+path)
			}
		}
		compared := make(map[ast.Expr]bool)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
				fault(n, "has a goroutine or a channel")
			case *ast.UnaryExpr:
				if n.Op == token.ARROW {
					fault(n, "receives")
				}
			case *ast.BinaryExpr: // e.f != nil is all that may be asked
				compared[n.X] = n.Op == token.NEQ
			case *ast.SelectorExpr:
				obj := info.Uses[n.Sel]
				x, _ := n.X.(*ast.Ident)
				if of, ok := info.Uses[x].(*types.PkgName); ok {
					if of.Imported().Path() == "time" && !slices.Contains(schedulerClock, n.Sel.Name) {
						fault(n, "uses time."+n.Sel.Name)
					}
				} else if obj != nil && fields[obj] == "entry.f" && !compared[n] {
					fault(n, "uses a function given to Go")
				}
			case *ast.Ident:
				obj := info.Uses[n]
				if obj == nil || obj.Pkg() != pkg {
					return true
				}
				name := cmp.Or(fields[obj], obj.Name())
				switch {
				case in(obj.Pos(), append(schedulerFiles, more)...), slices.Contains(schedulerUses, name):
				case n.Pos() >= configured.Pos() && n.Pos() < configured.End() && (strings.HasPrefix(name, "config") || name == "OverflowShed"):
				default:
					fault(n, "uses "+name)
				}
			}
			return true
		})
	}
	return lines
}

// fieldNames returns the fields of pkg's structs, as T.f.
func fieldNames(pkg *types.Package) map[types.Object]string {
	fields := make(map[types.Object]string)
	for _, name := range pkg.Scope().Names() {
		if s, ok := pkg.Scope().Lookup(name).Type().Underlying().(*types.Struct); ok {
			for f := range s.Fields() {
				fields[f] = name + "." + f.Name()
			}
		}
	}
	return fields
}

// A noImporter has nothing to import.
type noImporter struct{}

func (noImporter) Import(string) (*types.Package, error) { return nil, errors.New("not looked at") }

// A loanTrace drives two schedulers of one slot alike, but for loans, which only the second
// knows. Each task ends as soon as it is dispatched.
type loanTrace struct {
	s       [2]scheduler
	handles [2][]*Handle
	pr      []Priority
	lent    []bool
	start   [2][]int // by which dispatch each task has started; 0: it waits
	n       [2]int
	now     time.Duration
}

func newLoanTrace(share int, step time.Duration) *loanTrace {
	d := &loanTrace{}
	for i := range d.s {
		d.s[i].init(&config{workers: 1, capacity: unbounded, fairShare: share, aging: step})
	}
	return d
}

func (d *loanTrace) arrive(pr Priority) {
	d.pr, d.lent = append(d.pr, pr), append(d.lent, false)
	for i := range d.s {
		h := &Handle{}
		h.priority = pr
		d.handles[i], d.start[i] = append(d.handles[i], h), append(d.start[i], 0)
		d.s[i].enqueue(entry{h: h}, pr, d.now)
	}
}

// lend lends pr to the first task, or the last, that waits in the second scheduler.
func (d *loanTrace) lend(last bool, pr Priority) bool {
	found := -1
	for n, h := range d.handles[1] {
		if h.state == StateQueued && (last || found < 0) {
			found = n
		}
	}
	if found < 0 || !d.s[1].lend(d.handles[1][found], pr, d.now) {
		return false
	}
	d.lent[found] = true
	return true
}

// dispatch takes a task in each scheduler. It returns false if none waits.
func (d *loanTrace) dispatch() bool {
	any := false
	for i := range d.s {
		e, _ := d.s[i].next(true)
		if !e.live() {
			continue
		}
		any = true
		d.n[i]++
		d.start[i][slices.Index(d.handles[i], e.h)] = d.n[i]
		d.s[i].end(e.h, StateSucceeded)
	}
	return any
}

// fault returns what is wrong once all have started: after some number of dispatches a task
// has started that would not have without loans, and was lent nothing; or the only task that
// was lent to has started later.
func (d *loanTrace) fault() error {
	lent := 0
	for t := range d.pr {
		switch without, with := d.start[0][t], d.start[1][t]; {
		case d.lent[t]:
			lent++
		case with < without && (d.s[0].aging || d.s[0].queue.share < 2): // its turns may come at other times
			return fmt.Errorf("task %d, which was lent nothing, has started in dispatch %d, without loans in %d", t, with, without)
		}
	}
	for t := range d.pr {
		if without, with := d.start[0][t], d.start[1][t]; lent == 1 && d.lent[t] && with > without {
			return fmt.Errorf("task %d, which was lent to, has started in dispatch %d, without in %d", t, with, without)
		}
	}
	return nil
}

var loanOps = []struct {
	name string
	do   func(d *loanTrace) bool
}{
	{"arrive 0", func(d *loanTrace) bool { d.arrive(0); return true }},
	{"arrive 1", func(d *loanTrace) bool { d.arrive(1); return true }},
	{"arrive 2", func(d *loanTrace) bool { d.arrive(2); return true }},
	{"dispatch", (*loanTrace).dispatch},
	{"lend 0 to the first", func(d *loanTrace) bool { return d.lend(false, 0) }},
	{"lend 0 to the last", func(d *loanTrace) bool { return d.lend(true, 0) }},
	{"lend 1 to the last", func(d *loanTrace) bool { return d.lend(true, 1) }},
	{"tick", func(d *loanTrace) bool { d.now++; return d.s[0].aging }},
}

// run makes a trace, and drains both schedulers. It returns nil if an operation cannot be done.
func (d *loanTrace) run(ops []byte) error {
	for _, op := range ops {
		if !loanOps[op].do(d) {
			return nil
		}
	}
	for d.dispatch() {
	}
	if err := d.fault(); err != nil {
		names := make([]string, len(ops))
		for i, op := range ops {
			names[i] = loanOps[op].name
		}
		return fmt.Errorf("after %q: %w", names, err)
	}
	return nil
}

// No task that is lent to starts later than without the loan; and after any number of
// dispatches those that have started, and would not have without loans, are tasks that were
// lent to, so that no more of the others are behind.
func TestTheoremLoanHoldsUpNoMoreThanItLetsStart(t *testing.T) {
	length, long := 4, 1000
	if testing.Short() || raceDetector() {
		length, long = 3, 200
	} else if os.Getenv("TASKPOOL_TEST_FULL") != "" {
		length, long = 6, 10_000
	}
	for _, policy := range []struct {
		share int
		step  time.Duration
	}{{0, 0}, {1, 0}, {0, 2}, {2, 0}, {3, 0}} {
		traces := 1
		for range length {
			traces *= len(loanOps)
		}
		ops := make([]byte, length)
		for n := range traces {
			for i := range ops {
				ops[i] = byte(n % len(loanOps))
				n /= len(loanOps)
			}
			if err := newLoanTrace(policy.share, policy.step).run(ops); err != nil {
				t.Fatalf("%+v: %v", policy, err)
			}
		}
		rng := rand.New(rand.NewPCG(uint64(policy.share), uint64(policy.step)))
		for range long {
			d := newLoanTrace(policy.share, policy.step)
			for range 60 {
				loanOps[rng.IntN(len(loanOps))].do(d)
			}
			for d.dispatch() {
			}
			if err := d.fault(); err != nil {
				t.Fatalf("%+v: %v", policy, err)
			}
		}
	}
}

// An invisibleTrace does the same to two schedulers, but for tasks that a limit holds back all
// the time, which only the second gets.
type invisibleTrace struct {
	s       [2]scheduler
	handles [2][]*Handle
	flows   []string // of each task
	log     [2][]decided
	held    []*Handle // waiting tasks of the flow that is held back, in the second
}

// A decided is a task that was dispatched, shed or refused.
type decided struct {
	what string
	task int
	by   decision
}

func newInvisibleTrace(share, capacity int, shed bool) *invisibleTrace {
	d := &invisibleTrace{}
	overflow := OverflowReject
	if shed {
		overflow = OverflowShed
	}
	for i := range d.s {
		d.s[i].init(&config{workers: 3, capacity: capacity, overflow: overflow, fairShare: share})
	}
	d.submit("held", 1, 1)
	d.dispatch() // holds the only place to the end
	return d
}

// submit submits a task to both, with a limit to its flow if that is not 0.
func (d *invisibleTrace) submit(flow string, limit int32, pr Priority) bool {
	n := len(d.flows)
	d.flows = append(d.flows, flow)
	for i := range d.s {
		h := &Handle{id: 1, item: item{priority: pr}}
		d.handles[i] = append(d.handles[i], h)
		d.accept(i, n, h, flow, flowPolicy{limit: limit})
	}
	return true
}

func (d *invisibleTrace) accept(i, n int, h *Handle, flow string, policy flowPolicy) {
	s := &d.s[i]
	s.joinFlow(h, flow, policy)
	if !s.room(h.flow, h.priority) {
		e, _, ok := entry{}, Priority(0), false
		if s.queue.shed {
			e, _, ok = s.takeShed(h.priority, h.flow)
		}
		if !ok {
			s.leaveFlow(h)
			d.note(i, decided{"refused", n, decision{}})
			return
		}
		d.note(i, decided{"shed", slices.Index(d.handles[i], e.h), decision{}})
		d.held = slices.DeleteFunc(d.held, func(o *Handle) bool { return o == e.h })
		s.end(e.h, StateShed)
	}
	s.enqueue(entry{h: h}, h.priority, 0)
}

func (d *invisibleTrace) note(i int, what decided) {
	if what.task >= 0 { // else it is one of those held back
		d.log[i] = append(d.log[i], what)
	}
}

// hold submits a task that stays held back, to the second.
func (d *invisibleTrace) hold(pr Priority) bool {
	h := &Handle{id: 1, item: item{priority: pr}}
	if d.accept(1, -1, h, "held", flowPolicy{limit: 1}); h.waits() {
		d.held = append(d.held, h)
	}
	return true
}

// dispatch gives out all free slots in both.
func (d *invisibleTrace) dispatch() bool {
	for i := range d.s {
		s := &d.s[i]
		for {
			e, by := s.next(true)
			if !e.live() {
				break
			}
			if e.parked() {
				s.unpark(e.h)
				s.resume(e.h)
			}
			s.hold(false)
			d.note(i, decided{"dispatched", slices.Index(d.handles[i], e.h), by})
			if slices.Contains(d.held, e.h) {
				panic("a task that is held back was dispatched")
			}
		}
	}
	return true
}

// running has do done to the first task that runs in both, other than the one that holds the
// place for ever, if there is one, and takes its slot back.
func (d *invisibleTrace) running(do func(s *scheduler, h *Handle)) bool {
	n := slices.IndexFunc(d.handles[0][1:], func(h *Handle) bool { return h.state == StateRunning }) + 1
	if n == 0 {
		return false
	}
	for i := range d.s {
		d.s[i].release(false)
		do(&d.s[i], d.handles[i][n])
	}
	return true
}

var invisibleOps = []func(d *invisibleTrace) bool{
	func(d *invisibleTrace) bool { return d.submit("A", 1, 1) },
	func(d *invisibleTrace) bool { return d.submit("A", 1, 0) },
	func(d *invisibleTrace) bool { return d.submit("B", 0, 1) },
	func(d *invisibleTrace) bool { return d.submit("", 0, 1) },
	(*invisibleTrace).dispatch,
	func(d *invisibleTrace) bool {
		return d.running(func(s *scheduler, h *Handle) { s.end(h, StateSucceeded) })
	},
	func(d *invisibleTrace) bool {
		return d.running(func(s *scheduler, h *Handle) { s.park(h); s.givePlace(h); s.ask(h, 0) })
	},
	func(d *invisibleTrace) bool {
		return d.running(func(s *scheduler, h *Handle) { s.park(h); s.askLast(h, 0) })
	},
	func(d *invisibleTrace) bool { return d.hold(0) },
	func(d *invisibleTrace) bool { return d.hold(2) },
	func(d *invisibleTrace) bool { // one of them is canceled
		last := len(d.held) - 1
		if last < 0 {
			return false
		}
		h := d.held[last]
		d.held = d.held[:last]
		d.s[1].withdraw(h)
		d.s[1].end(h, StateCanceled)
		return true
	},
}

// Whatever waits while its flow's limit holds it back all the time, each other task is
// dispatched, shed or refused as if it were not there.
func TestTheoremWhatALimitHoldsBackIsInvisible(t *testing.T) {
	full := os.Getenv("TASKPOOL_TEST_FULL") != ""
	length, long := 4, 100
	if testing.Short() || raceDetector() {
		length, long, full = 3, 50, false
	} else if full {
		long = 1500
	}
	settings := 0
	rng := rand.New(rand.NewPCG(1, 2))
	for _, share := range []int{0, 1, 2, 3} {
		for _, capacity := range []int{unbounded, 1, 2} {
			for _, shed := range []bool{false, true} {
				length := length
				switch settings++; {
				case full && share == 2 && capacity == 1:
					length++
				case !full && length == 4 && settings%5 > 0: // of the 24 some go to the full length
					length--
				}
				held := 0
				run := func(ops []byte) {
					d := newInvisibleTrace(share, capacity, shed)
					for _, op := range ops {
						if !invisibleOps[op](d) {
							break
						}
					}
					d.dispatch()
					held += len(d.held)
					if i := slices.IndexFunc(d.log[0], func(x decided) bool { return !slices.Contains(d.log[1], x) }); !slices.Equal(d.log[0], d.log[1]) {
						t.Fatalf("share %d, capacity %d, shed %t, %v: decision %d: %+v without and %+v with tasks that are held back",
							share, capacity, shed, ops, i, d.log[0], d.log[1])
					}
				}
				ops := make([]byte, length)
				for n := 0; n >= 0; {
					run(ops)
					for n = length - 1; n >= 0; n-- { // the next trace
						if ops[n]++; int(ops[n]) < len(invisibleOps) {
							break
						}
						ops[n] = 0
					}
				}
				ops = make([]byte, 60)
				for range long {
					for i := range ops {
						ops[i] = byte(rng.IntN(len(invisibleOps)))
					}
					run(ops)
				}
				require.Positive(t, held)
			}
		}
	}
}

// The queue alone, without locks, workers or tasks' own cost. An operation is
// one push and one pop.

// A queueLoad is what waits while a benchmark pushes and pops.
type queueLoad struct {
	name       string
	priorities int // of which tasks are pushed, all alike often
	waiting    int // tasks waiting before each push
}

func queueLoads() []queueLoad {
	return []queueLoad{
		{"1 priority, empties each time", 1, 0},
		{"1 priority, 1 waits", 1, 1},
		{"1 priority, 1e3 wait", 1, 1_000},
		{"1 priority, 1e6 wait", 1, 1_000_000},
		{"3 priorities, empties each time", 3, 0},
		{"3 priorities, 3 wait", 3, 3},
		{"3 priorities, 1e5 wait", 3, 100_000},
		{"1000 priorities, empties each time", 1000, 0},
		{"1000 priorities, 1e3 wait", 1000, 1_000},
		{"1000 priorities, 1e5 wait", 1000, 100_000},
		{"1000 priorities, 1e6 wait", 1000, 1_000_000},
	}
}

func benchmarkQueue(b *testing.B, q *priorityQueue, load queueLoad) {
	q.init()
	f := func() {}
	order := int64(0)
	push := func(pr Priority) {
		order++
		q.pushTask(entry{f: f, order: order}, pr, false)
	}
	for i := range load.waiting {
		push(Priority(i % load.priorities))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	next := make([]Priority, 1<<12)
	for i := range next {
		next[i] = Priority(rng.IntN(load.priorities))
	}
	for i := range 4 * load.priorities { // lanes and segments that stay are made now
		push(next[i%len(next)])
		q.pop(false)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		push(next[i%len(next)])
		q.pop(false)
		i++
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, load := range queueLoads() {
		b.Run(load.name, func(b *testing.B) {
			benchmarkQueue(b, &priorityQueue{share: 16}, load)
		})
	}
}

// What fair share and aging cost.
func BenchmarkQueueMode(b *testing.B) {
	for _, load := range queueLoads() {
		for _, mode := range []queueMode{{name: "strict"}, {name: "fair", share: 16}, {name: "aging", step: time.Second}} {
			b.Run(load.name+"/"+mode.name, func(b *testing.B) {
				benchmarkQueue(b, &priorityQueue{share: mode.share, step: mode.step}, load)
			})
		}
	}
}

// A backlog that comes and goes: an operation is a push and a pop of each.
func BenchmarkQueueFillAndDrain(b *testing.B) {
	for _, load := range []queueLoad{
		{"1 priority", 1, 1_000},
		{"1 priority", 1, 1_000_000},
		{"3 priorities", 3, 100_000},
		{"1000 priorities", 1000, 1_000},
		{"1000 priorities", 1000, 100_000},
		{"1000 priorities", 1000, 1_000_000},
	} {
		b.Run(fmt.Sprintf("%s, %d tasks", load.name, load.waiting), func(b *testing.B) {
			q := &priorityQueue{share: 16}
			q.init()
			f := func() {}
			order := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				for i := range load.waiting {
					order++
					q.pushTask(entry{f: f, order: order}, Priority(i%load.priorities), false)
				}
				for range load.waiting {
					q.pop(false)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(load.waiting), "ns/task")
		})
	}
}

// queueMode is a way to set up a queue.
type queueMode struct {
	name  string
	share uint64
	step  time.Duration
	shed  bool
}

// queueModes returns all ways to set up a queue or, under the race detector, some: it has
// nothing to find where there is one goroutine.
func queueModes() (modes []queueMode) {
	for _, shed := range []bool{false, true} {
		modes = append(modes, queueMode{fmt.Sprintf("strict,shed=%v", shed), 0, 0, shed})
		for _, n := range []uint64{1, 2, 3, 16} {
			modes = append(modes, queueMode{fmt.Sprintf("share=%d,shed=%v", n, shed), n, 0, shed})
		}
		for _, step := range []time.Duration{1, 10, 1000, time.Hour, math.MaxInt64} {
			modes = append(modes, queueMode{fmt.Sprintf("step=%d,shed=%v", step, shed), 0, step, shed})
		}
	}
	if raceDetector() {
		i := -1
		modes = slices.DeleteFunc(modes, func(queueMode) bool { i++; return i%3 > 0 })
	}
	return modes
}

// The supervisor looks for circles, and does nothing else meanwhile. The time for each
// task that waits is to stay about the same, however many there are: here the members of
// a group, for which another task waits.
func BenchmarkLookForCircle(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var on Group
			var elsewhere Handle
			for b.Loop() {
				b.StopTimer()
				g := &waitGraph{members: make(map[*Group][]*waitNode)}
				g.nodes = append(g.nodes, &waitNode{waits: awaited{members: &on}})
				for range n {
					g.members[&on] = append(g.members[&on], &waitNode{waits: awaited{settled: &elsewhere}})
				}
				g.nodes = append(g.nodes, g.members[&on]...)
				b.StartTimer()
				g.release()
				if !g.nodes[0].free {
					b.Fatal("nothing keeps a member waiting")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/task")
		})
	}
}
