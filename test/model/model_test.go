package model_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"time"

	"github.com/taskpool-go/taskpool"
)

// A modelPool is what the documentation says a Pool does, done the slow way: a
// single thread, time a number, each question answered by looking at all tasks.
// It has no goroutines, heaps, lanes, counters or lazily made anything, so that
// it can be read against the documentation. The driver in driver_test.go
// does the same to a Pool and to its model and compares the two after each step.
//
// Where the documentation leaves a choice the model asks what the Pool did
// (modelPool.goesOn, modelPool.wasShed) and goes on from there. There are two such places:
// which of several tasks that are on their way out gets a free slot first, and which of
// several flows that are as long loses a task.
type modelPool struct {
	modelConfig
	now   time.Duration // since the pool was made
	slots int

	tasks     []*modelTask    // all that were ever submitted
	queue     modelLine       // of those that wait for a slot
	admission []*modelTask    // waiting for room, in the order in which they came; those that are not due wait for room among the delayed
	entering  modelLine       // of those of them that are due
	leaving   []*modelAttempt // on their way out, and in want of a slot
	seq       int64

	paused, closed bool
	cut            bool          // Shutdown's context ended too early
	final          time.Duration // with cut: the end of all patience
	over           bool          // drained and closed: Shutdown returns
	unfinished     []string      // with cut: its list, each as in describeUnfinished
	idlers         int           // calls of WaitIdle that wait
	resters        int           // calls of WaitRunning that wait
	shutters       int           // calls of Shutdown that wait

	submitted, refused, attempts, retries, parks, panics, goexits, hangs uint64

	retriesDenied uint64
	savedPercent  int // of a retry, that the budget has

	expired               uint64
	shedLate, startedLate int                                 // for the record
	above                 map[taskpool.Priority]time.Duration // with queueDelay: since when all that starts has waited longer
	resumed               time.Duration                       // when the last pause ended

	loans   loans
	behind  []*modelTask // that have yet to lend to what they come after
	passing bool         // they do, see passOn
	flows   modelFlows
	told    []*modelTask // have settled, and those that come after them are yet to be told

	hold      int             // restore waits while it is above 0
	unstarted bool            // restore starts no task: no worker has looked yet
	undefined bool            // more than one thing may have happened in this step
	log       []string        // what user code would have noticed in this step
	awake     []*modelAttempt // go on with what they do in this step
	goesOn    func(*modelTask) bool
	wasShed   func(*modelTask) bool
}

type modelConfig struct {
	workers      int
	capacity     int // -1: unbounded
	overflow     taskpool.Overflow
	share        int
	step         time.Duration // 0: no aging
	reserved     int
	reservedFor  taskpool.Priority
	maxAbandoned int // -1: as many as workers
	maxParked    int
	quantum      time.Duration
	grace        time.Duration
	delayed      taskpool.DelayedPolicy
	plain        taskpool.FlowPolicy // of tasks without a flow
	budget       bool                // retries have one
	retryPercent int                 // with budget: what an attempt earns, of a retry
	retryLeast   int                 // with budget
	queueDelay   time.Duration       // the target; 0: none
}

// A modelTask is one call of Submit or Go.
type modelTask struct {
	n           int
	isGo        bool
	flow        string
	policy      taskpool.FlowPolicy // what WithFlows said of its flow as it was submitted
	priority    taskpool.Priority
	timeout     time.Duration
	workTimeout time.Duration
	heartbeat   time.Duration
	most        int // attempts
	backoff     time.Duration
	retryIf     retryIf
	notBefore   time.Duration
	maxWait     time.Duration
	expires     time.Duration // with maxWait, once that is known
	queued      time.Duration // when it last joined the queue
	after       []*modelTask
	waitsFor    bool          // waits for those, or will when it is accepted
	cancelable  bool          // its context may end
	ctxEnd      time.Duration // when its own context's deadline is; 0: never
	ctxOf       *modelAttempt // the attempt whose context it was submitted with, if that ends it
	parent      *modelAttempt // the attempt that submits, if its context says so
	caller      *modelAttempt // the attempt that submits
	bound       bool          // waiting for room: the end of caller ends the wait, though its context is another
	ctxOver     bool          // the context that it was submitted with has ended

	accepted  bool
	submitErr error // with !accepted, once Submit has returned
	returned  bool  // Submit has returned
	state     taskpool.State
	err       error
	started   int
	made      []*modelAttempt
	attempt   *modelAttempt   // under way
	waiters   []*modelAttempt // in Wait for it
	canceled  error           // while under way
	due       time.Duration   // while Delayed
	apart     bool            // was delayed when it was accepted
	placed    bool            // holds a place of its flow
	adopted   bool            // with isGo: it has waited, and is a task like others since

	awaitedBy taskpool.Priority // the most urgent task that has waited for it, or for a place of its flow
	awaited   bool              // by any
}

// A modelPlace is where a task waits for a slot, or for room. It has two places if tasks
// that wait for it have made it more urgent, and is served by the one that comes up first.
type modelPlace struct {
	t        *modelTask
	priority taskpool.Priority
	rank     int   // of its priority, those of less go first: 0 if it resumes, 1 if it has not started and was lent to, else 2
	order    int64 // when it came
	second   bool
}

// loans counts what happened to the urgency of tasks.
type loans struct {
	tasks  int // a task was made more urgent by one that waits for it,
	passed int // of these: not by one that waits for it itself
	places int // a submitter that waits for room got the urgency of the task that submits
	served int // a task got a slot, or a submitter room, by its second place
	raised int // a task that has waiters, or waits, was given another priority
	behind int // a task was made more urgent by one that comes after it
}

// retryIf is a task's Retry.If.
type retryIf int

const (
	ifNil retryIf = iota
	ifAlways
	ifNever
)

func (l *loans) add(o loans) {
	l.tasks += o.tasks
	l.passed += o.passed
	l.places += o.places
	l.served += o.served
	l.raised += o.raised
	l.behind += o.behind
}

type modelAttempt struct {
	t       *modelTask
	number  int
	urgency taskpool.Priority // of the task, until the attempt is over

	holds   bool // a slot
	parked  bool
	asked   bool // with parked: for a slot
	working bool // with parked: in Block's f
	excused bool // from beating
	slice   time.Duration

	cause  error // why its context has ended
	reason endReason

	deadline  time.Duration // 0: none
	workLeft  time.Duration // with a WorkTimeout: what was left of it,
	workFrom  time.Duration // at this time, since when it has counted; -1: it does not count now
	beatDue   time.Duration
	beatOwed  bool
	ending    bool          // the grace counts down,
	graceLeft time.Duration // from here,
	graceFrom time.Duration // since then; -1: it does not count now

	over   bool // settled, or given up
	gaveUp bool // hung; a goroutine that is abandoned or, with holds, lost
	hungAs int  // with gaveUp: how many hung before
	gone   bool // Run has returned

	doing doing
	on    *modelTask // waits for it, or submits it
	bound bool       // with doingWait: the end of its own context ends the wait
	fails string     // with doingBlock, once f has ended: how
	wasAt string     // the state and attempt at the cut, as in describeUnfinished
}

type endReason int

const (
	notEnded endReason = iota
	endedCanceled
	endedCut
	endedTimeout
	endedSilent
	endedReturned
)

// doing is the call of the library that an attempt is in.
type doing int

const (
	doingNothing doing = iota
	doingYield
	doingBlock
	doingWait
	doingSubmit
)

func newModel(c modelConfig) *modelPool {
	m := &modelPool{modelConfig: c, slots: c.workers, queue: newLine(), entering: newLine(), above: map[taskpool.Priority]time.Duration{}}
	m.flows.init(c.plain)
	return m
}

// Order.

func (m *modelPool) less(pr taskpool.Priority) bool { return m.reserved > 0 && pr > m.reservedFor }

func (m *modelPool) nextOrder() int64 {
	if m.step > 0 {
		return int64(m.now)
	}
	m.seq++
	return m.seq
}

// key is the time at which a task of priority 0 would have to arrive to wait
// beside one of priority pr that came at order.
func (m *modelPool) key(pr taskpool.Priority, order int64) *big.Int {
	clamp := func(x *big.Int) *big.Int {
		switch {
		case x.IsInt64():
			return x
		case x.Sign() > 0:
			return big.NewInt(math.MaxInt64)
		default:
			return big.NewInt(math.MinInt64)
		}
	}
	head := clamp(new(big.Int).Mul(big.NewInt(int64(pr)), big.NewInt(int64(m.step))))
	return clamp(head.Add(head, big.NewInt(order)))
}

// before compares two places in l: the one that comes up first, but for a fair-share turn, is
// less.
func (m *modelPool) before(l *modelLine, a, b *modelPlace) int {
	if m.step > 0 {
		byLane := cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.rank, b.rank))
		return cmp.Or(m.key(a.priority, a.order).Cmp(m.key(b.priority, b.order)), cmp.Compare(a.order, b.order), byLane, m.compareAge(a, b))
	}
	byGroup := cmp.Or(cmp.Compare(a.priority, b.priority), compareBool(b.resumes(), a.resumes()))
	return cmp.Or(byGroup, l.compareTurns(a, b), cmp.Compare(a.rank, b.rank), m.compareAge(a, b))
}

// compareAge compares when two of the same lane came. The time of arrival is all that a
// second place is compared with others by.
func (m *modelPool) compareAge(a, b *modelPlace) int {
	return cmp.Or(cmp.Compare(a.order, b.order), compareBool(a.second, b.second))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// pick returns the place in l whose turn it is, nil if there is none, and whether there was a
// choice: whether several lanes had tasks, other than those of both places of the same.
func (m *modelPool) pick(l *modelLine, restricted bool) (best *modelPlace, choice bool) {
	all := m.reach(l, restricted)
	if len(all) == 0 {
		return nil, false
	}
	var fronts []*modelPlace // of the lanes
	for _, p := range all {
		i := slices.IndexFunc(fronts, func(f *modelPlace) bool { return f.lane() == p.lane() })
		if i < 0 {
			fronts = append(fronts, p)
		} else if p.order < fronts[i].order {
			fronts[i] = p
		}
	}
	choice = len(fronts) > 2 || len(fronts) == 2 && fronts[0].t != fronts[1].t
	if choice && m.turnDue(l, restricted) {
		return l.turnOf(all, restricted), choice
	}
	best = slices.MinFunc(all, func(a, b *modelPlace) int { return m.before(l, a, b) })
	if m.step == 0 {
		return m.ownTurn(l, best, all, restricted), choice
	}
	// Those that resume, or were lent to, take the turn of others of their priority.
	for _, p := range all {
		if p.priority == best.priority && (p.rank < best.rank || p.rank == best.rank && p.rank < 2 && m.compareAge(p, best) < 0) {
			best = p
		}
	}
	return best, choice
}

// reach returns the places in l that a dispatch may serve. A reserved slot goes to a submitter
// by its own priority, as what it was lent is for its place there only.
func (m *modelPool) reach(l *modelLine, restricted bool) (all []*modelPlace) {
	for _, p := range l.places {
		if restricted && (m.less(p.priority) || p.second && l == &m.entering) || m.heldBack(l, p.t) {
			continue
		}
		all = append(all, p)
	}
	return all
}

func (m *modelPool) turnDue(l *modelLine, restricted bool) bool {
	return m.share > 0 && l.turns[restricted] == m.share-1
}

// served takes note that p, which pick has chosen, is about to be taken.
func (m *modelPool) served(l *modelLine, p *modelPlace, choice, restricted bool) {
	m.charge(l, p, choice, restricted)
	if choice && m.share > 0 {
		l.turns[restricted] = (l.turns[restricted] + 1) % m.share
	}
	if p.second {
		m.loans.served++
	}
}

// Slots.

// each calls f with all attempts whose goroutine is there.
func (m *modelPool) each(f func(*modelAttempt)) {
	for _, t := range m.tasks {
		for _, a := range t.made {
			if !a.gone {
				f(a)
			}
		}
	}
}

func (m *modelPool) count(is func(*modelAttempt) bool) (n int) {
	m.each(func(a *modelAttempt) {
		if is(a) {
			n++
		}
	})
	return n
}

func (m *modelPool) held() int { return m.count(func(a *modelAttempt) bool { return a.holds }) }
func (m *modelPool) heldLess() int {
	return m.count(func(a *modelAttempt) bool { return a.holds && m.less(a.urgency) })
}
func (m *modelPool) abandoned() int {
	return m.count(func(a *modelAttempt) bool { return a.gaveUp && !a.holds })
}
func (m *modelPool) lost() int {
	return m.count(func(a *modelAttempt) bool { return a.gaveUp && a.holds })
}

func (m *modelPool) inState(s taskpool.State) (n int) {
	for _, t := range m.tasks {
		if t.accepted && t.state == s {
			n++
		}
	}
	return n
}

func (m *modelPool) outstanding() int {
	return m.inState(taskpool.StateQueued) + m.inState(taskpool.StateDelayed) + m.inState(taskpool.StateRunning) + m.inState(taskpool.StateParked)
}

// free is the number of slots free for a newcomer: those that parked tasks ask
// for are not.
func (m *modelPool) free(pr taskpool.Priority) int {
	asking := func(less bool) int {
		return m.count(func(a *modelAttempt) bool {
			return a.parked && a.asked && m.less(a.urgency) == less && !m.heldBack(&m.queue, a.t)
		})
	}
	free := m.slots - m.held() - asking(false)
	forLess := max(m.slots-m.reserved-m.heldLess(), 0)
	if m.less(pr) {
		return max(min(free, forLess)-asking(true), 0)
	}
	return max(free-min(asking(true), forLess), 0)
}

// room reports whether t may be accepted. What is delayed when it is accepted
// counts apart until it starts, and among those that wait once it is due.
func (m *modelPool) room(t *modelTask) bool {
	switch {
	case m.later(t):
		later := 0
		for _, t := range m.tasks {
			if t.accepted && t.apart && t.started == 0 && !final(t.state) {
				later++
			}
		}
		return m.capacity < 0 || later < m.capacity+m.slots
	case !m.flowRoom(t):
		return false
	case m.atLimit(t.flow) && !m.atDoor(t.flow):
		return true
	}
	return m.poolRoom(t)
}

// poolRoom is room for a task that is due, of whatever flow.
func (m *modelPool) poolRoom(t *modelTask) bool {
	waiting := 0
	for _, t := range m.tasks {
		if t.waits() && !(t.state == taskpool.StateQueued && m.heldBack(&m.queue, t)) {
			waiting++
		}
	}
	return m.capacity < 0 || waiting < m.capacity+m.free(t.priority)
}

// waits reports whether t counts as one that waits, as a retry does before it is due.
func (t *modelTask) waits() bool {
	return t.accepted && (t.state == taskpool.StateQueued || t.state == taskpool.StateDelayed && t.started > 0)
}

func (m *modelPool) later(t *modelTask) bool { return t.waitsFor || m.early(t) }

// early reports whether t's time has not come.
func (m *modelPool) early(t *modelTask) bool { return t.notBefore > m.now }

func (t *modelTask) succeeded() bool { return t.state == taskpool.StateSucceeded && t.accepted }

// vain reports whether t waits for one that has ended without success.
func (t *modelTask) vain() bool {
	return t.waitsFor && slices.ContainsFunc(t.after, func(on *modelTask) bool { return on.settled() && !on.succeeded() })
}

// tell has those that come after tasks that have settled be queued, or canceled, if it is time.
func (m *modelPool) tell() {
	for len(m.told) > 0 {
		on := m.told[0]
		m.told = m.told[1:]
		for _, t := range m.tasks {
			if !t.accepted || !t.waitsFor || t.settled() || !slices.Contains(t.after, on) {
				continue
			}
			switch {
			case !on.succeeded():
				m.settle(t, taskpool.StateCanceled, on.err)
			case !slices.ContainsFunc(t.after, func(on *modelTask) bool { return !on.succeeded() }):
				m.beginMaxWait(t)
				if t.waitsFor = false; m.early(t) {
					t.due = t.notBefore
				} else {
					m.enqueue(t)
				}
			}
		}
	}
}

// restore lets submitters in while there is room and starts tasks while there
// are slots.
func (m *modelPool) restore() {
	m.tell()
	if m.hold > 0 {
		return
	}
	m.admit()
	for m.held() < m.slots && m.next() {
		m.admit()
	}
	if !m.unstarted && m.held() == m.lost() && m.count(func(a *modelAttempt) bool { return a.parked && a.working }) == 0 {
		for ; m.resters > 0; m.resters-- {
			m.note("at rest")
		}
	}
	if m.outstanding() == 0 {
		for ; m.idlers > 0 && m.held() == m.lost(); m.idlers-- { // else somebody still reports
			m.note("idle")
		}
		if m.closed {
			m.terminate()
		}
	}
}

// restoreParked is restore before any worker has looked: no task starts.
func (m *modelPool) restoreParked() {
	m.unstarted = true
	m.restore()
	m.unstarted = false
}

// startable reports whether a task waits, and is not held back, while a slot is free.
func (m *modelPool) startable() bool {
	return m.held() < m.slots && slices.ContainsFunc(m.inQueue(), func(t *modelTask) bool { return !m.heldBack(&m.queue, t) })
}

// restricted reports whether a free slot is for reserved priorities only.
func (m *modelPool) restricted() bool {
	return m.reserved > 0 && m.heldLess() >= m.slots-m.reserved
}

// resumesAtOnce reports whether a, which is parked, gets a slot as soon as it
// asks for one.
func (m *modelPool) resumesAtOnce(a *modelAttempt) bool {
	return m.held() < m.slots && !(m.restricted() && m.less(a.urgency)) && (!m.paused || a.cause != nil)
}

func (m *modelPool) next() bool {
	restricted := m.restricted()
	chosen := -1
	for i, a := range m.leaving {
		if restricted && m.less(a.urgency) || m.heldBack(&m.queue, a.t) {
			continue
		}
		if chosen < 0 || m.goesOn(a.t) && !m.goesOn(m.leaving[chosen].t) {
			chosen = i
		}
	}
	if chosen >= 0 {
		a := m.leaving[chosen]
		m.leaving = slices.Delete(m.leaving, chosen, chosen+1)
		m.unpark(a)
		return true
	}
	if m.paused {
		return false
	}
	p, choice := m.pick(&m.queue, restricted)
	if p == nil || m.unstarted && p.t.state == taskpool.StateQueued {
		return false
	}
	t := p.t
	if m.isLate(t) {
		m.shedLate++
		m.leaveQueue(t)
		m.shedExpired(t, errLate{})
		return true
	}
	m.served(&m.queue, p, choice, restricted)
	m.leaveQueue(t)
	if t.state == taskpool.StateParked {
		m.unpark(t.attempt)
	} else {
		m.start(t)
	}
	return true
}

func (m *modelPool) admit() {
	for t := m.nextInAdmission(); t != nil; t = m.nextInAdmission() {
		m.accept(t)
		if t.caller != nil && t.caller.parked {
			m.back(t.caller)
		} else {
			m.submitReturns(t)
		}
		m.comesAfter(t)
	}
}

func (m *modelPool) leaveAdmission(t *modelTask) {
	m.admission = remove(m.admission, t)
	m.entering.drop(t)
}

// enter has t, which waits for room, be one of those that are due.
func (m *modelPool) enter(t *modelTask) {
	m.join(&m.entering, &modelPlace{t: t, priority: t.priority, rank: 2, order: m.nextOrder()})
	m.addSecond(&m.entering, t, 2)
}

func (m *modelPool) nextInAdmission() *modelTask {
	if t := m.nextDelayedInAdmission(); t != nil {
		return t
	}
	p, choice := m.pick(&m.entering, false)
	restricted := false
	if p != nil && !m.poolRoom(p.t) && m.reserved > 0 { // a reserved slot may be free for another
		restricted = true
		p, choice = m.pick(&m.entering, restricted)
	}
	if p == nil || !m.poolRoom(p.t) {
		return nil
	}
	m.served(&m.entering, p, choice, restricted)
	m.leaveAdmission(p.t)
	return p.t
}

// nextDelayedInAdmission returns the first to be due of those that wait for room among
// the delayed, if there is room.
func (m *modelPool) nextDelayedInAdmission() *modelTask {
	var first *modelTask
	for _, t := range m.admission {
		if m.later(t) && (first == nil || !first.waitsFor && (t.waitsFor || t.notBefore < first.notBefore)) {
			first = t
		}
	}
	if first == nil || !m.room(first) {
		return nil
	}
	m.leaveAdmission(first)
	return first
}

func remove[T comparable](from []T, x T) []T {
	return slices.DeleteFunc(from, func(y T) bool { return x == y })
}

// Submitting.

func (m *modelPool) submit(t *modelTask) {
	m.tasks = append(m.tasks, t)
	if a := t.ctxOf; a != nil && a.cause != nil {
		m.refuse(t, ctxError(a.cause))
		return
	}
	if m.closed && !m.continues(t.parent) || m.tooLate(t) {
		m.refuse(t, taskpool.ErrClosed)
		return
	}
	freed := m.policyCounts(t)
	if t.waitsFor = slices.ContainsFunc(t.after, func(on *modelTask) bool { return !on.succeeded() }); !t.waitsFor {
		m.beginMaxWait(t)
	}
	switch {
	case m.room(t) || t.vain():
	case m.overflow == taskpool.OverflowShed:
		victim := m.victim(t)
		if victim == nil {
			m.refuse(t, m.errFull(t))
			m.restore()
			return
		}
		t.apart = victim.apart
		m.leaveQueue(victim)
		m.settle(victim, taskpool.StateShed, taskpool.ErrShed)
	case m.overflow == taskpool.OverflowReject || t.isGo:
		m.refuse(t, m.errFull(t))
		m.restore()
		return
	default:
		m.admission = append(m.admission, t)
		if !m.later(t) {
			m.enter(t)
		}
		if t.caller != nil {
			t.caller.doing, t.caller.on = doingSubmit, t
		}
		if a := t.caller; a != nil {
			t.bound = t.parent == nil && a.cause == nil
			if freed {
				m.undefined = true // a worker may be faster to start those than a to give its place back
			}
			m.parkToWait(a)
			m.lend(a)
		}
		m.restore()
		return
	}
	m.accept(t)
	m.comesAfter(t)
	m.restore()
	m.submitReturns(t)
}

// comesAfter has t, which was accepted, look at those that it comes after, and lend to them.
func (m *modelPool) comesAfter(t *modelTask) {
	if !t.waitsFor {
		return
	}
	for _, on := range t.after {
		if on.settled() {
			m.told = append(m.told, on)
		}
	}
	m.lendBehind(t)
	m.tell()
}

// lendBehind has what t comes after count as urgent as t does, and what that waits for in turn:
// first what attempts wait for, then what tasks come after, those that were found first before
// others.
func (m *modelPool) lendBehind(t *modelTask) { m.passOn(func() { m.behind = append(m.behind, t) }) }

// passOn calls f, and then has those that f has added to m.behind lend to what they come after.
func (m *modelPool) passOn(f func()) {
	if m.passing {
		f()
		return
	}
	m.passing = true
	f()
	for len(m.behind) > 0 {
		t := m.behind[0]
		m.behind = m.behind[1:]
		if !t.waitsFor || !t.accepted || t.settled() {
			continue
		}
		for _, on := range t.after {
			if !on.settled() && m.raise(on, t.urgency()) {
				m.loans.behind++
				m.behind = append(m.behind, on)
				if a := on.attempt; a != nil {
					m.lend(a)
				}
			}
		}
	}
	m.passing = false
}

// continues reports whether what a submits is part of the work accepted.
func (m *modelPool) continues(a *modelAttempt) bool { return a != nil && !a.over && !m.cut }

func (m *modelPool) accept(t *modelTask) {
	m.submitted++
	t.accepted, t.awaited = true, false // what it was lent was for its place there
	if m.later(t) {
		if t.state, t.due, t.apart = taskpool.StateDelayed, t.notBefore, true; t.waitsFor {
			t.due = math.MaxInt64
		}
	} else {
		m.enqueue(t)
	}
}

func (m *modelPool) enqueue(t *modelTask) {
	t.state, t.queued = taskpool.StateQueued, m.now
	m.joinQueue(t, false)
}

// Waits that are too long.

// errLate is the error of a task that was shed as its priority is late.
type errLate struct{}

func (errLate) Error() string { return "taskpool: task waited too long in a queue that is late" }
func (errLate) Unwrap() error { return taskpool.ErrExpired }

// isLate reports whether t, whose turn it is, is to be shed.
func (m *modelPool) isLate(t *modelTask) bool {
	if m.queueDelay == 0 || t.state != taskpool.StateQueued || t.started > 0 || t.urgency() < t.priority {
		return false
	}
	wait := m.now - max(t.queued, m.resumed)
	if wait <= m.queueDelay {
		delete(m.above, t.priority)
		return false
	}
	if _, is := m.above[t.priority]; !is {
		m.above[t.priority] = m.now
	}
	if !m.late(t.priority) {
		return false
	}
	if wait <= 2*m.queueDelay {
		m.startedLate++
	}
	return wait > 2*m.queueDelay
}

func (m *modelPool) late(pr taskpool.Priority) bool {
	above, is := m.above[pr]
	return is && !m.paused && m.now-above >= 20*m.queueDelay
}

func (m *modelPool) shedExpired(t *modelTask, err error) {
	m.expired++
	m.settle(t, taskpool.StateShed, err)
}

// expire is the end of the MaxWait of t, which has not started.
func (m *modelPool) expire(t *modelTask) {
	if t.accepted {
		m.leaveQueue(t)
		m.shedExpired(t, taskpool.ErrExpired)
	} else {
		m.turnAway(t, taskpool.ErrExpired)
	}
	m.restore()
}

// beginMaxWait has the MaxWait of t count.
func (m *modelPool) beginMaxWait(t *modelTask) {
	if t.maxWait > 0 {
		t.expires = max(m.now, t.notBefore) + t.maxWait
	}
}

// joinQueue puts t at the back, before those of its priority that have not started if it
// resumes. By what it was lent it goes before these in any case, unless its quantum is over.
func (m *modelPool) joinQueue(t *modelTask, resuming bool) {
	p := &modelPlace{t: t, priority: t.priority, rank: 2, order: m.nextOrder()}
	if resuming {
		p.rank = 0
	}
	m.join(&m.queue, p)
	m.addSecond(&m.queue, t, rankOfSecond(t, p.rank))
	m.lendHolders()
}

// rankOfSecond returns the rank of t's second place in the queue, given that of the first for
// one that has started.
func rankOfSecond(t *modelTask, rank int) int {
	if t.state == taskpool.StateQueued {
		return 1
	}
	return rank
}

func (m *modelPool) leaveQueue(t *modelTask) {
	m.queue.drop(t)
	if !slices.ContainsFunc(m.inQueue(), func(o *modelTask) bool {
		return o.priority == t.priority && o.state == taskpool.StateQueued
	}) {
		delete(m.above, t.priority) // what nobody waits for is not late
	}
}

// inQueue returns the tasks that wait for a slot, in the order in which they came.
func (m *modelPool) inQueue() (tasks []*modelTask) {
	for _, p := range m.queue.places {
		if !p.second {
			tasks = append(tasks, p.t)
		}
	}
	return tasks
}

// Urgency.

// urgency is what t counts as.
func (t *modelTask) urgency() taskpool.Priority {
	if t.awaited && !t.settled() {
		return min(t.priority, t.awaitedBy)
	}
	return t.priority
}

// lend has what a waits for count as urgent as a does, and what that waits for in turn.
func (m *modelPool) lend(a *modelAttempt) { m.passOn(func() { m.lendAlong(a) }) }

func (m *modelPool) lendAlong(a *modelAttempt) {
	if a.over { // it was given up
		return
	}
	for first := true; ; first = false {
		t := a.on
		switch {
		case a.asked: // its wait is over, and it waits for its slot
			return
		case a.doing == doingWait && t.accepted && !final(t.state):
		case a.doing == doingSubmit && slices.Contains(m.admission, t):
		default:
			return
		}
		if a.doing == doingSubmit {
			if t.counts(a.urgency) {
				m.loans.places++
				if !m.later(t) {
					m.addSecond(&m.entering, t, 2)
				}
			}
			return
		}
		if !m.raise(t, a.urgency) {
			return
		}
		if m.loans.tasks++; !first {
			m.loans.passed++
		}
		m.lendBehind(t)
		if a = t.attempt; a == nil {
			return
		}
	}
}

// counts has t count as no less urgent than pr. It returns false if it did.
func (t *modelTask) counts(pr taskpool.Priority) (changed bool) {
	before := t.urgency()
	if !t.awaited || pr < t.awaitedBy {
		t.awaited, t.awaitedBy = true, pr
	}
	return t.urgency() != before
}

// raise has t, which was accepted, count as no less urgent than pr, and with it those that it
// waits for as its flow's limit holds it back. It returns false if it did.
func (m *modelPool) raise(t *modelTask, pr taskpool.Priority) bool {
	if !t.counts(pr) {
		return false
	}
	if slices.Contains(m.inQueue(), t) {
		m.addSecond(&m.queue, t, rankOfSecond(t, 0))
	}
	if t.attempt != nil {
		t.attempt.urgency = t.urgency()
	}
	if m.waitsToLeave(t) {
		m.lendHoldersOf(t.flow, t.urgency())
	}
	m.lendHolders()
	return true
}

// addSecond gives t, which has a place in l, a second one at the back of its urgency, if that is not its priority. With aging it keeps the second place that it has if
// that comes up no later, and by the same slots.
func (m *modelPool) addSecond(l *modelLine, t *modelTask, rank int) {
	if t.urgency() == t.priority {
		return
	}
	p := &modelPlace{t: t, priority: t.urgency(), rank: rank, order: m.nextOrder(), second: true}
	is := func(p *modelPlace) bool { return p.t == t && p.second }
	if i := slices.IndexFunc(l.places, is); i >= 0 && m.step > 0 {
		old := l.places[i]
		if m.less(old.priority) == m.less(p.priority) && m.key(old.priority, old.order).Cmp(m.key(p.priority, p.order)) <= 0 {
			return
		}
	}
	l.places = slices.DeleteFunc(l.places, is)
	m.join(l, p)
}

func (m *modelPool) refuse(t *modelTask, err error) {
	t.submitErr = err
	m.submitReturns(t)
}

func (m *modelPool) submitReturns(t *modelTask) {
	t.returned = true
	if t.submitErr != nil {
		m.refused++
		m.leaveFlow(t)
	}
	if a := t.caller; a != nil && a.doing == doingSubmit && a.on == t {
		a.doing, a.on = doingNothing, nil
	}
	m.note("submit #%d: %s", t.n, describe(t.submitErr))
}

// inAdmission returns those waiting for room, most urgent first, and then those that are not
// due in the order in which they will be.
func (m *modelPool) inAdmission() []*modelTask {
	var due, later []*modelTask
	for _, t := range m.admission {
		if m.later(t) {
			later = append(later, t)
		} else {
			due = append(due, t)
		}
	}
	slices.SortStableFunc(later, func(a, b *modelTask) int {
		if a.waitsFor || b.waitsFor {
			return compareBool(a.waitsFor, b.waitsFor)
		}
		return cmp.Compare(a.notBefore, b.notBefore)
	})
	slices.SortStableFunc(due, m.compareAtDoor)
	return append(due, later...)
}

// turnAway refuses a submitter waiting for room. Where a task submits, that returns when it
// has its slot back.
func (m *modelPool) turnAway(t *modelTask, err error) {
	m.leaveAdmission(t)
	t.submitErr = err
	if t.caller != nil && t.caller.parked {
		m.back(t.caller)
	} else {
		m.submitReturns(t)
	}
}

// Attempts.

func (m *modelPool) start(t *modelTask) {
	m.attempts++
	t.started++
	a := &modelAttempt{t: t, number: t.started, urgency: t.urgency(), holds: true, slice: m.now, graceFrom: -1}
	t.state, t.attempt = taskpool.StateRunning, a
	t.made = append(t.made, a)
	m.takePlace(t)
	if t.timeout > 0 {
		a.deadline = m.now + t.timeout
	}
	a.workLeft, a.workFrom = t.workTimeout, m.now
	m.expectBeat(a)
	m.note("start #%d.%d", t.n, a.number)
}

// A command is what the body of a task is told to do next.
type command struct {
	do     string
	err    error                 // for "return"
	after  time.Duration         // for "return" with RetryAfter
	task   int                   // for "wait"
	with   waitContext           // for "wait"
	submit func(context.Context) // for "submit"
}

// finish is the end of Run: how is "return", "panic" or "goexit".
func (m *modelPool) finish(a *modelAttempt, c command) {
	if a.gaveUp { // late: what it came to is discarded
		if a.gone = true; a.holds {
			a.holds = false
		} else {
			m.reclaim()
		}
		m.restore()
		return
	}
	a.over, a.gone = true, false
	m.hold++
	endedBefore, reported := a.cause != nil, false
	if c.do == "return" && c.err == nil {
		m.settleAttempt(a, taskpool.StateSucceeded, nil, false, 0)
	} else {
		reported = m.fail(a, c)
	}
	if m.tracked(a.t.flow) && a.t.cancelable && !a.t.ctxOver {
		reported = true // the worker lets go of the context likewise, after the place
	}
	if !endedBefore {
		m.end(a, context.Canceled, endedReturned) // the tasks submitted with its context never start
	}
	m.hold--
	if reported {
		// The worker reports the failure before it gives its slot back.
		if m.restoreParked(); m.tracked(a.t.flow) && m.startable() && (len(m.admission) > 0 || m.reserved > 0) {
			m.undefined = true // another worker may be faster to start what the place was for
		}
		m.restore()
	}
	a.holds, a.gone = false, true
	m.restore()
}

// fail ends an attempt with an error, a panic or a Goexit. It says whether there
// is something to report.
func (m *modelPool) fail(a *modelAttempt, c command) (reported bool) {
	t := a.t
	state, err, retry, delay := taskpool.StateFailed, c.err, false, t.backoff
	switch c.do {
	case "goexit":
		m.goexits++
		err = taskpool.ErrGoexit
	case "panic":
		m.panics++
		err = errOfPanic
	default:
		if a.reason != notEnded {
			err = errors.Join(a.cause, c.err)
			if c.err == context.Canceled || c.err == context.DeadlineExceeded {
				err = a.cause
			}
			if a.reason == endedCanceled || a.reason == endedCut {
				state = taskpool.StateCanceled
			}
		}
	}
	if state == taskpool.StateFailed && c.do != "goexit" && a.number < t.most {
		switch a.reason {
		case endedCanceled:
		case endedCut:
			state, err = taskpool.StateCanceled, errors.Join(taskpool.ErrClosed, err)
		default:
			retry = m.grants(t, err, a.reason == endedSilent)
			if c.after > 0 {
				delay = c.after
			}
		}
	}
	canceledLate := t.canceled != nil && retry && t.cancelable
	m.settleAttempt(a, state, err, retry, delay)
	return c.do == "panic" || canceledLate || t.state == taskpool.StateFailed || !final(t.state)
}

// grants reports whether t's policy grants a retry.
func (m *modelPool) grants(t *modelTask, err error, hung bool) bool {
	switch {
	case errors.Is(err, errLasting):
		return false
	case t.retryIf == ifNil:
		return !hung
	default:
		return t.retryIf == ifAlways
	}
}

// settleAttempt ends an attempt: its task settles or waits for a retry.
func (m *modelPool) settleAttempt(a *modelAttempt, s taskpool.State, err error, retry bool, delay time.Duration) {
	t := a.t
	a.over = true
	m.unparkOver(a)
	if t.canceled != nil && !a.gaveUp && !errors.Is(err, errOfPanic) && !errors.Is(err, taskpool.ErrGoexit) &&
		s == taskpool.StateFailed || t.canceled != nil && retry {
		s, err, retry = taskpool.StateCanceled, errors.Join(t.canceled, err), false
	}
	m.savedPercent = min(m.savedPercent+m.retryPercent, 1000*m.retryPercent)
	if retry && m.budget {
		waiting := 0
		for _, t := range m.tasks {
			if t.accepted && t.started > 0 && (t.state == taskpool.StateQueued || t.state == taskpool.StateDelayed) {
				waiting++
			}
		}
		switch {
		case m.savedPercent >= 100:
			m.savedPercent -= 100
		case waiting >= m.retryLeast:
			m.retriesDenied++
			retry, err = false, errors.Join(taskpool.ErrRetryBudget, err)
		}
	}
	if a.wasAt != "" && (a.gaveUp || s == taskpool.StateCanceled && t.canceled == taskpool.ErrClosed) {
		m.unfinished = append(m.unfinished, a.wasAt)
	}
	if !retry {
		m.settle(t, s, err)
		return
	}
	m.retries++
	m.givePlace(t)
	t.attempt = nil
	if delay == 0 {
		m.enqueue(t)
	} else {
		t.state, t.due = taskpool.StateDelayed, m.now+delay
	}
}

func (m *modelPool) settle(t *modelTask, s taskpool.State, err error) {
	t.state, t.err, t.attempt = s, err, nil
	m.givePlace(t)
	m.leaveFlow(t)
	m.told = append(m.told, t)
	for _, a := range t.waiters {
		switch {
		case a.doing != doingWait || a.on != t:
		case a.parked:
			if t.cancelable && m.held() < m.slots {
				// A worker that lets go of a context does so before it gives its slot
				// back, and a slot that is free already may be taken in between.
				m.undefined = true
			}
			m.back(a)
		default:
			m.wake(a)
		}
	}
	t.waiters = nil
}

// giveUp settles an attempt that hangs.
func (m *modelPool) giveUp(a *modelAttempt) {
	t := a.t
	m.hangs++
	a.hungAs = int(m.hangs)
	err := errors.Join(taskpool.ErrHung, a.cause)
	if t.isGo {
		err = errors.Join(taskpool.ErrHung, taskpool.ErrClosed)
	}
	retry := t.canceled == nil && t.retryIf == ifAlways && a.number < t.most && (m.final == 0 || m.now < m.final)
	bound := m.maxAbandoned
	if bound < 0 {
		bound = m.slots
	}
	abandon := !a.holds || m.abandoned() < bound || m.cut
	a.gaveUp = true
	m.settleAttempt(a, taskpool.StateFailed, err, retry, t.backoff)
	if abandon {
		a.holds = false
	}
	m.restore()
}

// reclaim makes lost slots good, as far as the bound of abandoned goroutines
// allows. The first to hang is the first to be let go.
func (m *modelPool) reclaim() {
	bound := m.maxAbandoned
	if bound < 0 {
		bound = m.slots
	}
	var lost []*modelAttempt
	m.each(func(a *modelAttempt) {
		if a.gaveUp && a.holds {
			lost = append(lost, a)
		}
	})
	slices.SortFunc(lost, func(a, b *modelAttempt) int { return cmp.Compare(a.hungAs, b.hungAs) })
	for _, a := range lost {
		if m.abandoned() < bound || m.cut {
			a.holds = false
		}
	}
}

// end ends the context of an attempt, and with it those of the tasks that were
// submitted with it.
func (m *modelPool) end(a *modelAttempt, cause error, reason endReason) {
	m.hold++ // several may want a slot now: no order is promised
	first, admission := a.cause == nil, len(m.admission) > 0
	if first {
		a.cause, a.reason = cause, reason
	}
	if !a.over {
		if !a.ending {
			a.ending, a.graceLeft, a.graceFrom = true, m.grace, -1
			m.watchGrace(a)
		}
		switch {
		case !a.parked:
		case a.asked && !slices.Contains(m.leaving, a):
			m.leaveQueue(a.t)
			m.leave(a)
		case a.doing == doingWait && a.bound:
			m.back(a) // the end of the context is that of the call
		case a.doing == doingSubmit && slices.Contains(m.admission, a.on):
			if a.on.ctxOf == a {
				m.turnAway(a.on, ctxError(cause))
			} else if a.on.bound {
				m.turnAway(a.on, fmt.Errorf("the task's: %w", cause))
			}
		}
	}
	if first {
		for _, t := range m.tasks {
			if t.ctxOf != a {
				continue
			}
			if t.accepted && t.attempt == nil && !t.settled() && admission {
				// The room it leaves may be seen waiting for room before its
				// submitter asks for the free slot, or a stops waiting for room, or after.
				m.undefined = true
			}
			m.contextEnds(t, cause)
		}
	}
	m.hold--
	m.restore()
}

// contextEnds is the end of the context that t was submitted with.
func (m *modelPool) contextEnds(t *modelTask, cause error) {
	t.ctxOver = true
	switch {
	case t.accepted:
		m.cancel(t, cause)
	case t.returned || t.submitErr != nil:
	default:
		m.turnAway(t, ctxError(cause))
		m.restore()
	}
}

func (m *modelPool) cancel(t *modelTask, cause error) bool {
	switch t.state {
	case taskpool.StateQueued, taskpool.StateDelayed:
		m.leaveQueue(t)
		m.settle(t, taskpool.StateCanceled, cause)
		m.restore()
	case taskpool.StateRunning, taskpool.StateParked:
		if t.canceled == nil {
			t.canceled = cause
		}
		m.end(t.attempt, cause, endedCanceled)
	default:
		return false
	}
	return true
}

func (m *modelPool) setPriority(t *modelTask, pr taskpool.Priority) bool {
	if final(t.state) {
		return false
	}
	if t.awaited || t.attempt != nil && t.attempt.on != nil {
		m.loans.raised++
	}
	resuming := slices.ContainsFunc(m.queue.places, func(p *modelPlace) bool { return p.t == t && !p.second && p.rank == 0 })
	waits := slices.Contains(m.inQueue(), t)
	m.leaveQueue(t)
	t.priority = pr
	if waits {
		m.joinQueue(t, resuming)
	}
	m.passOn(func() {
		m.lendBehind(t)
		if a := t.attempt; a != nil {
			a.urgency = t.urgency()
			m.lend(a)
		}
	})
	if a := t.attempt; a != nil && slices.Contains(m.leaving, a) && m.limit(t.flow) > 0 {
		m.undefined = true // the pool is not of one mind about what one that is on its way out lends then
	}
	m.lendHolders()
	m.restore()
	return true
}

// Giving the slot back.

// park takes the slot of a, if it has one to give.
func (m *modelPool) park(a *modelAttempt) bool {
	if a.over || a.parked {
		return false
	}
	m.parks++
	a.parked, a.asked, a.working, a.holds = true, false, false, false
	a.t.state = taskpool.StateParked
	m.watchGrace(a)
	return true
}

// back has a parked attempt ask for a slot.
func (m *modelPool) back(a *modelAttempt) {
	if !a.parked || a.asked {
		return
	}
	a.asked, a.working = true, false
	m.watchGrace(a)
	if a.cause != nil {
		m.leave(a)
		return
	}
	m.ask(a, true)
}

func (m *modelPool) ask(a *modelAttempt, resuming bool) {
	a.asked = true
	m.joinQueue(a.t, resuming)
}

// unpark gives a parked attempt a slot.
func (m *modelPool) unpark(a *modelAttempt) {
	a.parked, a.asked, a.holds, a.slice = false, false, true, m.now
	a.t.state = taskpool.StateRunning
	m.takePlace(a.t)
	if !a.ending {
		m.expectBeat(a)
	}
	m.watchGrace(a)
	m.wake(a)
}

// unparkOver lets go of an attempt that was given up while parked.
func (m *modelPool) unparkOver(a *modelAttempt) {
	if !a.parked {
		return
	}
	m.leaveQueue(a.t)
	m.leaving = remove(m.leaving, a)
	waits := !a.working
	a.parked, a.asked, a.working = false, false, false
	if waits {
		m.wake(a)
	}
}

// wake has a go on with its call once the lock is free.
func (m *modelPool) wake(a *modelAttempt) {
	if !slices.Contains(m.awake, a) {
		m.awake = append(m.awake, a)
	}
}

// settleDown lets those go on that were woken, until none is left.
func (m *modelPool) settleDown() {
	for len(m.awake) > 0 {
		a := m.awake[0]
		m.awake = m.awake[1:]
		m.goOn(a)
	}
}

// goOn is what a does when its call of the library goes on.
func (m *modelPool) goOn(a *modelAttempt) {
	switch a.doing {
	case doingYield:
		m.callReturns(a, "yield", a.cause)
	case doingBlock:
		how := a.fails
		a.fails = ""
		if how != "" && how != "return" {
			a.doing = doingNothing
			m.finish(a, command{do: how})
			return
		}
		m.callReturns(a, "block", nil)
	case doingWait:
		switch t := a.on; {
		case final(t.state):
			m.callReturns(a, "wait", t.err)
		case a.cause != nil && a.bound:
			m.callReturns(a, "wait", a.cause)
		}
	case doingSubmit:
		if t := a.on; t.accepted || t.submitErr != nil {
			m.submitReturns(t)
		}
	}
}

func (m *modelPool) callReturns(a *modelAttempt, call string, err error) {
	a.doing, a.on = doingNothing, nil
	m.note("#%d.%d %s: %s", a.t.n, a.number, call, describe(err))
}

func (m *modelPool) yield(a *modelAttempt) {
	a.beatOwed = false
	a.doing = doingYield
	most := math.MaxInt
	for _, p := range m.queue.places {
		if !m.paused && !m.heldBack(&m.queue, p.t) {
			most = min(most, int(p.priority))
		}
	}
	own := int(a.urgency)
	over := m.now-a.slice >= m.quantum
	switch {
	case a.cause != nil, most > own, most == math.MaxInt:
	case most < own:
		if m.park(a) {
			m.back(a)
			m.restore()
			return
		}
	case over && m.inState(taskpool.StateParked) < m.maxParked:
		if m.park(a) {
			m.ask(a, false)
			m.restore()
			return
		}
	}
	m.goOn(a)
}

func (m *modelPool) block(a *modelAttempt) {
	a.doing = doingBlock
	if m.inState(taskpool.StateParked) >= m.maxParked {
		a.excused = !a.over && a.t.heartbeat > 0
		return
	}
	if m.park(a) {
		a.working = true
		m.watchGrace(a)
		m.restore()
	}
}

// unblock is the end of Block's f.
func (m *modelPool) unblock(a *modelAttempt, how string) {
	a.fails = how
	if a.excused {
		a.excused = false
		if !a.ending {
			m.expectBeat(a)
		}
	}
	if a.parked {
		m.back(a)
		m.restore()
		return
	}
	m.goOn(a)
}

// wait is a call of Wait with the context of a, the same without its end, or another
// context that does not end.
func (m *modelPool) wait(a *modelAttempt, t *modelTask, with waitContext) {
	a.doing, a.on = doingWait, t
	a.bound = with == ownContext || with == otherContext && a.cause == nil
	switch {
	case a.t == t && !(with == otherContext && final(t.state)): // nobody looks where it is called if it need not wait
		m.callReturns(a, "wait", taskpool.ErrInside)
	case final(t.state):
		m.goOn(a)
	default:
		t.waiters = append(t.waiters, a)
		parked := m.parkToWait(a)
		m.lend(a)
		if a.cause == nil || !a.bound {
			m.restore()
		} else if parked {
			started := m.attempts
			m.restore() // its slot is gone before it finds out
			if m.attempts > started {
				m.undefined = true // or it asks for it before a worker has looked
			}
			m.back(a)
			m.restore()
		} else {
			m.goOn(a)
		}
	}
}

// waitContext is what a task calls Wait with.
type waitContext int

const (
	ownContext waitContext = iota
	withoutCancel
	otherContext
)

func final(s taskpool.State) bool { return s >= taskpool.StateSucceeded && s <= taskpool.StateShed }

// Time.

// expectBeat has a give a sign of life within twice its heartbeat.
func (m *modelPool) expectBeat(a *modelAttempt) {
	if every := a.t.heartbeat; every > 0 {
		a.beatOwed, a.beatDue = true, m.now+every
	}
}

// watchGrace stops or starts the count of the WorkTimeout and of the grace: they
// count while the task has a slot or works in Block.
func (m *modelPool) watchGrace(a *modelAttempt) {
	counts := !a.parked || a.working
	switch {
	case counts && a.workFrom < 0:
		a.workFrom = m.now
	case !counts && a.workFrom >= 0:
		a.workLeft -= m.now - a.workFrom
		a.workFrom = -1
	}
	if !a.ending {
		return
	}
	switch {
	case counts && a.graceFrom < 0:
		a.graceFrom = m.now
	case !counts && a.graceFrom >= 0:
		a.graceLeft -= m.now - a.graceFrom
		a.graceFrom = -1
	}
}

// An event is something that happens at a time known before.
type event struct {
	at   time.Duration
	what string
	do   func()
}

// events returns what comes next, more than one if at the same time.
func (m *modelPool) events() (next []event) {
	add := func(at time.Duration, what string, do func()) {
		if len(next) > 0 && at < next[0].at {
			next = nil
		}
		if len(next) == 0 || at == next[0].at {
			next = append(next, event{at, what, do})
		}
	}
	if m.cut && !m.over {
		add(m.final, "the end of patience", func() {
			m.each(func(a *modelAttempt) {
				if !a.over {
					m.giveUp(a)
				}
			})
		})
	}
	for _, t := range m.tasks {
		if t.ctxEnd > 0 && !t.refused() && !t.settled() {
			add(t.ctxEnd, fmt.Sprintf("the context of #%d ends", t.n), func() {
				t.ctxEnd = 0
				m.contextEnds(t, context.DeadlineExceeded)
			})
		}
		if t.accepted && t.state == taskpool.StateDelayed && !(t.waitsFor && t.started == 0) {
			add(t.due, fmt.Sprintf("#%d is due", t.n), func() { m.enqueue(t); m.restore() })
		}
		if t.expires > 0 && t.started == 0 && !t.refused() && !t.settled() && t.submitErr == nil && t.state != taskpool.StateRunning {
			add(t.expires, fmt.Sprintf("#%d expires", t.n), func() { m.expire(t) })
		}
		if slices.Contains(m.admission, t) && m.later(t) && !t.waitsFor {
			add(t.notBefore, fmt.Sprintf("#%d is due waiting for room", t.n), func() {
				m.admission = append(remove(m.admission, t), t)
				m.enter(t)
				m.restore()
			})
		}
	}
	m.each(func(a *modelAttempt) {
		switch {
		case a.over:
		case a.ending:
			if a.graceFrom >= 0 {
				add(a.graceFrom+a.graceLeft, fmt.Sprintf("#%d.%d hangs", a.t.n, a.number), func() { m.giveUp(a) })
			}
		default:
			if a.deadline > 0 {
				add(a.deadline, fmt.Sprintf("#%d.%d times out", a.t.n, a.number), func() { m.end(a, taskpool.ErrTimeout, endedTimeout) })
			}
			if a.t.workTimeout > 0 && a.workFrom >= 0 {
				add(a.workFrom+a.workLeft, fmt.Sprintf("#%d.%d has worked too long", a.t.n, a.number), func() { m.end(a, errWorked, endedTimeout) })
			}
			if a.t.heartbeat > 0 && !a.parked && !a.excused {
				add(a.beatDue, fmt.Sprintf("#%d.%d is to beat", a.t.n, a.number), func() {
					if a.beatOwed {
						m.end(a, taskpool.ErrHung, endedSilent)
					} else {
						m.expectBeat(a)
					}
				})
			}
		}
	})
	return next
}

func (t *modelTask) refused() bool { return t.returned && !t.accepted }
func (t *modelTask) settled() bool { return t.accepted && final(t.state) }

// The pool as a whole.

func (m *modelPool) pause(paused bool) {
	if !paused {
		m.endPause()
	}
	m.paused = paused && !m.closed
	m.restore()
}

// endPause has waits count from now, if there is a pause.
func (m *modelPool) endPause() {
	if m.paused {
		m.resumed = m.now
		clear(m.above)
	}
}

func (m *modelPool) resize(slots int) {
	m.slots = slots
	m.reclaim()
	m.restore()
}

func (m *modelPool) shutdown() {
	if m.shutters++; m.over {
		m.terminate()
	}
	if m.closed {
		return
	}
	m.endPause()
	m.closed, m.paused = true, false
	for _, t := range m.inAdmission() {
		if !m.continues(t.parent) || m.tooLate(t) {
			m.turnAway(t, taskpool.ErrClosed)
		}
	}
	var canceled []*modelTask
	for _, t := range m.tasks {
		if t.accepted && t.state == taskpool.StateDelayed && t.started == 0 && m.tooLate(t) {
			canceled = append(canceled, t)
		}
	}
	slices.SortStableFunc(canceled, func(a, b *modelTask) int { return cmp.Compare(a.due, b.due) })
	for _, t := range canceled {
		m.settle(t, taskpool.StateCanceled, taskpool.ErrClosed)
	}
	m.restore()
}

// tooLate reports whether a pool that is closed does not wait for t's time to come.
func (m *modelPool) tooLate(t *modelTask) bool {
	return m.closed && m.delayed == taskpool.DelayedCancel && m.early(t)
}

// cutShort is the end of Shutdown's context.
func (m *modelPool) cutShort() {
	if m.cut || m.over {
		return
	}
	m.cut, m.final = true, m.now+2*m.grace
	m.liftLimits()
	m.reclaim()
	for _, t := range m.inAdmission() {
		m.turnAway(t, taskpool.ErrClosed)
	}
	var ended []*modelAttempt
	m.each(func(a *modelAttempt) {
		if !a.over {
			a.wasAt = describeUnfinished(a.t.name(), a.t.priority, a.t.state, a.t.started)
			if a.t.canceled == nil {
				a.t.canceled = taskpool.ErrClosed
			}
			if a.cause == nil {
				a.cause, a.reason = taskpool.ErrClosed, endedCut
			}
			ended = append(ended, a)
		}
	})
	for _, t := range m.tasks {
		if t.accepted && (t.state == taskpool.StateQueued || t.state == taskpool.StateDelayed) {
			m.unfinished = append(m.unfinished, describeUnfinished(t.name(), t.priority, t.state, t.started))
			m.leaveQueue(t)
			m.settle(t, taskpool.StateCanceled, taskpool.ErrClosed)
		}
	}
	m.hold++
	for _, a := range ended {
		m.end(a, taskpool.ErrClosed, endedCut)
	}
	m.hold--
	m.restore()
}

// terminate is the end of a pool that is closed and drained: goroutines that
// hang keep no slot.
func (m *modelPool) terminate() {
	m.over = true
	m.each(func(a *modelAttempt) { a.holds = false })
	for ; m.shutters > 0; m.shutters-- {
		m.note("shutdown: %s", m.answer())
	}
}

func (m *modelPool) answer() string {
	if !m.cut {
		return "drained"
	}
	slices.Sort(m.unfinished)
	return fmt.Sprintf("cut short, unfinished: %v", m.unfinished)
}

func (m *modelPool) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (t *modelTask) name() string {
	if t.isGo {
		return ""
	}
	return fmt.Sprint(t.n)
}

// What the errors of a Pool and its model are compared by.

var (
	errOfTask   = errors.New("the task's error")
	errLasting  = errors.New("the task's lasting error")
	errOfPanic  = errors.New("the task's panic")
	errOfCaller = errors.New("the canceler's cause")

	// errWorked is the ErrTimeout of a WorkTimeout, which is no deadline.
	errWorked = fmt.Errorf("%w", taskpool.ErrTimeout)
)

// ctxError is the error of a Submit whose context has ended.
func ctxError(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) && !errors.Is(cause, errWorked) {
		return errors.Join(context.DeadlineExceeded, cause)
	}
	return errors.Join(context.Canceled, cause)
}

// describe names all that an error is.
func describe(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := err.(*taskpool.DependencyError); ok {
		err = e.Unwrap() // the model passes on the error itself
	}
	var is []string
	for _, e := range []error{
		errOfTask, errLasting, errOfPanic, errOfCaller, context.Canceled, context.DeadlineExceeded,
		taskpool.ErrClosed, taskpool.ErrFull, taskpool.ErrShed, taskpool.ErrExpired, taskpool.ErrTimeout, taskpool.ErrHung, taskpool.ErrRetryBudget,
		taskpool.ErrGoexit, taskpool.ErrInside,
	} {
		switch {
		case !errors.Is(err, e):
		case e == taskpool.ErrFull:
			is = append(is, err.Error()) // it names the flow
		default:
			is = append(is, e.Error())
		}
	}
	return fmt.Sprintf("%q", is)
}

func describeUnfinished(name string, pr taskpool.Priority, s taskpool.State, attempt int) string {
	return fmt.Sprintf("{%q %v %v %d}", name, pr, s, attempt)
}
