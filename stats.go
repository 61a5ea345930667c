package taskpool

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Stats is a snapshot of what a pool has done and is doing. In each,
//
//	Submitted = Succeeded + Failed + Canceled + Shed + Queued + Delayed + Running + Parked
type Stats struct {
	// Totals since the pool was made.

	Submitted uint64 // tasks accepted
	Refused   uint64 // tasks not accepted, for one of the reasons below
	Succeeded uint64 // tasks by final state
	Failed    uint64
	Canceled  uint64
	Shed      uint64
	Expired   uint64 // those shed because they had waited too long: for their MaxWait, or for WithQueueDelay
	Joined    uint64 // calls of [Join] that found a run under way
	Orphaned  uint64 // those canceled because the task whose context they used had returned, see [Detach]
	Attempts  uint64 // attempts started
	Retries   uint64 // failed attempts for which a retry was granted
	// RetriesDenied is how many failed attempts were not retried because of
	// WithRetryBudget: these tasks have failed.
	RetriesDenied uint64
	Parks         uint64 // times that a running task gave its slot back

	// Why tasks were refused. These add up to Refused.
	RefusedFull    uint64 // no room, see WithCapacity
	RefusedFlow    uint64 // no room for their flow, see FlowPolicy.Capacity
	RefusedClosed  uint64 // Shutdown was called
	RefusedContext uint64 // their context had ended or ended while Submit waited for room, or their Group was over
	RefusedExpired uint64 // their MaxWait was over while Submit waited for room

	// How attempts have ended. Attempts - Running - Parked of them have ended, and
	// those that are not counted here returned no error. A task that was handed to a
	// worker is Queued until the worker begins the attempt.
	Errors      uint64 // returned an error, other than the next two
	Timeouts    uint64 // returned an error after a Timeout or WorkTimeout, or too long without a Beat
	Interrupted uint64 // returned an error after they were canceled
	Panics      uint64 // panicked
	Goexits     uint64 // called runtime.Goexit
	Hangs       uint64 // were given up as hung

	// Workers replaced, in total and by reason.
	Replaced       uint64
	ReplacedPanic  uint64
	ReplacedGoexit uint64
	ReplacedHung   uint64

	// ByPriority has the totals of each priority that has any, for the first 4,096 priorities
	// that the pool has seen. It is nil if none has.
	ByPriority map[Priority]PriorityTotals

	// Levels.

	Capacity          int  // tasks that may wait, as set by WithCapacity; -1: any number. More may in all, see there
	Workers           int  // tasks that may run at once: the number of slots, as set by WithWorkers and Resize
	Goroutines        int  // goroutines of workers, alive or not needed yet: as many as Workers, more while tasks are parked
	Idle              int  // those of Goroutines that have no task
	Queued            int  // tasks that wait for a worker, with those that are held back
	HeldBack          int  // tasks that wait because of the limit of their flow, see FlowPolicy: Queued ones, and parked ones that are to go on
	Delayed           int  // tasks that wait for their time, or for others
	Dependent         int  // those of Delayed that wait for others, see Task.After
	Running           int  // tasks with an attempt under way
	Parked            int  // tasks that have given their slot back
	Abandoned         int  // goroutines given up as hung that still run
	Lost              int  // slots held by hung tasks beyond WithMaxAbandoned
	SubmittersWaiting int  // calls of Submit that wait for room
	Stalled           bool // nothing moves, or tasks wait for each other, see ErrStalled
	Paused            bool
	Closed            bool // Shutdown was called

	// InProgress is the total time that the attempts under way have taken so far;
	// Longest is the time of the longest. For a function given to Go the time counts
	// from when Stats or Tasks first found it at work, unless a hook is told of it.
	InProgress time.Duration
	Longest    time.Duration

	// Waiting has an entry for each priority with queued tasks, the most urgent
	// first.
	Waiting []PriorityStats
}

// PriorityTotals are totals of one priority since the pool was made; [Stats] says more about
// each. A task counts for the priority that it had then: that may be another at each attempt
// and at the end, see [Handle.SetPriority]. What it was lent does not count.
type PriorityTotals struct {
	Attempts  uint64 // attempts started
	Succeeded uint64 // tasks by final state
	Failed    uint64
	Canceled  uint64
	Shed      uint64

	// Tasks refused, by reason.
	RefusedFull, RefusedFlow, RefusedClosed, RefusedContext, RefusedExpired uint64
}

// Refused returns how many tasks were refused, for any reason.
func (t PriorityTotals) Refused() uint64 {
	return t.RefusedFull + t.RefusedFlow + t.RefusedClosed + t.RefusedContext + t.RefusedExpired
}

func (t *PriorityTotals) add(o *PriorityTotals) {
	t.Attempts += o.Attempts
	t.Succeeded += o.Succeeded
	t.Failed += o.Failed
	t.Canceled += o.Canceled
	t.Shed += o.Shed
	t.RefusedFull += o.RefusedFull
	t.RefusedFlow += o.RefusedFlow
	t.RefusedClosed += o.RefusedClosed
	t.RefusedContext += o.RefusedContext
	t.RefusedExpired += o.RefusedExpired
}

// byPriorityLocked returns Stats.ByPriority.
func (p *Pool) byPriorityLocked() map[Priority]PriorityTotals {
	var all map[Priority]PriorityTotals
	first := p.sched.queue.totals.first
	for pr, one := range first {
		if one.PriorityTotals == (PriorityTotals{}) { // of a task that waits
			continue
		}
		if all == nil {
			all = make(map[Priority]PriorityTotals, len(first))
		}
		all[pr] = one.PriorityTotals
	}
	return all
}

// PriorityStats describes the queued tasks of one priority.
type PriorityStats struct {
	Priority Priority
	Queued   int

	// Late is set, with [WithQueueDelay], while those of the tasks are shed that have waited
	// longer than twice its target.
	Late bool

	// OldestWait is how long the task that waits longest has waited, at least. That of a task
	// whose flow has a limit counts from when the limit last held the flow back: since then it
	// could have started. It is 0 while it is held back. It is otherwise
	// exact with aging and with WithQueueDelay. Where a hook is told of starts or ends, it is
	// exact for tasks given to Submit and nearly so for functions given to Go. Otherwise
	// the clock is not read when a task arrives: its wait counts from the first call
	// of Stats after its arrival.
	OldestWait time.Duration
}

// Stats returns a snapshot. Its cost grows with the number of distinct priorities, of flows
// that wait, workers and parked tasks, not with the number of tasks that wait.
func (p *Pool) Stats() Stats {
	p.mustBeUsable("Stats")
	p.lock()
	defer p.unlock()
	sum := p.sched.queue.totals.sum()
	s := Stats{
		Submitted:     p.ledger.total.submitted,
		Refused:       sum.Refused(),
		Succeeded:     p.ledger.total.succeeded,
		Failed:        p.ledger.total.failed,
		Canceled:      p.ledger.total.canceled,
		Shed:          p.ledger.total.shed,
		Expired:       p.ledger.total.expired,
		Joined:        p.joins.joined.Load(),
		Orphaned:      p.ledger.total.orphaned,
		Attempts:      p.ledger.total.attempts - p.ledger.total.withdrawn,
		Retries:       p.ledger.total.retries,
		RetriesDenied: p.ledger.total.retriesDenied,
		Parks:         p.ledger.total.parks,

		RefusedFull:    sum.RefusedFull,
		RefusedFlow:    sum.RefusedFlow,
		RefusedClosed:  sum.RefusedClosed,
		RefusedContext: sum.RefusedContext,
		RefusedExpired: sum.RefusedExpired,

		Errors:      p.ledger.total.errors,
		Timeouts:    p.ledger.total.timeouts,
		Interrupted: p.ledger.total.interrupted,
		Panics:      p.ledger.total.panics,
		Goexits:     p.ledger.total.goexits,
		Hangs:       p.ledger.total.hangs,

		Replaced:       p.ledger.total.replacedPanic + p.ledger.total.replacedGoexit + p.ledger.total.replacedHung,
		ReplacedPanic:  p.ledger.total.replacedPanic,
		ReplacedGoexit: p.ledger.total.replacedGoexit,
		ReplacedHung:   p.ledger.total.replacedHung,

		ByPriority: p.byPriorityLocked(),

		Capacity:          p.cfg.capacity,
		Workers:           p.sched.slots,
		Goroutines:        p.crew.size(),
		Idle:              p.crew.withoutTask(),
		Queued:            p.sched.count[StateQueued],
		Delayed:           p.sched.count[StateDelayed],
		Dependent:         len(p.sched.dependents),
		Running:           p.sched.count[StateRunning],
		Parked:            p.sched.count[StateParked],
		Abandoned:         len(p.crew.abandoned),
		Lost:              len(p.crew.lost),
		HeldBack:          p.sched.queue.heldBack + p.sched.exitsInFlows(),
		SubmittersWaiting: p.sched.submitters(),
		Stalled:           p.stalledLocked() != nil,
		Paused:            p.sched.paused,
		Closed:            p.end.closed,
	}
	for _, w := range p.crew.lost {
		if w.guest == nil {
			s.Goroutines--
		}
	}
	for _, w := range p.crew.dead {
		if !w.gaveUp { // otherwise it is in lost
			s.Goroutines--
		}
	}
	now := time.Now()
	var handed []Priority // the priorities of tasks that their workers have not begun yet
	for _, w := range p.crew.all {
		if w.busy && !w.begunLocked() {
			handed = append(handed, w.priority)
		} else if w.busy {
			elapsed := now.Sub(w.sinceLocked(now))
			s.InProgress += elapsed
			s.Longest = max(s.Longest, elapsed)
		}
	}
	lanes := p.sched.queue.filled()
	if !p.sched.aging { // with aging, orders are times
		p.ledger.clock.note(lanes, p.sched.seq, now.Sub(p.epoch))
	}
	index := make(map[Priority]int)
	for _, l := range lanes {
		n := l.n - l.parked
		if n == 0 || l.kind.second() {
			continue
		}
		i, has := index[l.priority]
		if !has {
			i = len(s.Waiting)
			index[l.priority] = i
			late := p.sched.delays != nil && !s.Paused && p.sched.delays.late(l.priority, now.Sub(p.epoch))
			s.Waiting = append(s.Waiting, PriorityStats{Priority: l.priority, Late: late})
		}
		w := &s.Waiting[i]
		if w.Queued += n; !p.sched.queue.set(l).out {
			w.OldestWait = max(w.OldestWait, p.ledger.clock.oldestWait(l, now.Sub(p.epoch)))
		}
	}
	slices.SortFunc(s.Waiting, func(a, b PriorityStats) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, pr := range handed {
		s.putBack(pr)
	}
	return s
}

// ExpectedWait estimates how long a task of priority pr and of a flow, "" for none, would wait
// for its start if it was submitted now: for a Retry-After, or to tell a person. It is 0 if a slot
// is free for it. It counts the tasks that would go before it, as if no other came, among them
// what less urgent ones get by the fair share, how flows take turns, and the calls of Submit that
// wait for room; and it knows for how long attempts hold their slots, without the time in which
// they are parked: the mean of the last hundred or so. From these it takes
//
//	mean × (tasks that go before it + 1) / workers
//
// and, if its flow has a limit, no less than the flow's own tasks take in its places. So under
// steady load of one priority the estimate is right but for the spread of the times; what it
// does not see are tasks yet to come that are more urgent, times that differ between kinds of
// tasks, a pause, and what is shed or canceled instead of started. With [WithAging] it counts
// those as urgent and more urgent.
//
// The measurement begins with the first call, which knows only for how long the tasks at work
// have held their slots so far, and of functions given to Go not even that. So call it once
// before the answer is needed. From then on the pool reads the clock when a worker begins to work
// and when it has nothing to do, but not between two tasks. A call waits for nothing. Its cost
// grows as that of Stats.
func (p *Pool) ExpectedWait(pr Priority, flow string) time.Duration {
	p.mustBeUsable("ExpectedWait")
	p.lock()
	defer p.unlock()
	return p.sched.expectedWait(pr, flow, p.ledger.slots.meanLocked(p))
}

// FlowStats describes the tasks of one flow that have not settled.
type FlowStats struct {
	Flow     string // as in Task; "" for tasks without one and functions given to Go
	Queued   int    // tasks that wait for a worker, with those that are held back
	HeldBack int    // tasks that could start or go on but for the flow's limit: queued ones, and parked ones that are to go on
	Running  int    // tasks that have a slot; those that are parked have none

	// Places is how many tasks count against the flow's limit, see [FlowPolicy], whether it has
	// one or not; so it includes those that are parked in Yield and Block. For tasks without a
	// flow it is 0 unless [WithFlows] gives them a policy.
	Places int

	// OldestWait is how long the queued task that waits longest has waited, as in
	// PriorityStats but with the time for which it was held back. As there, it may count
	// from the first call of Stats or Flows after the task's arrival.
	OldestWait time.Duration
}

// Flows returns the k flows of which most tasks wait; of those with as many, first those of
// which most run. With a k below 0 it returns all. A flow is known while it has tasks that have
// not settled. The cost grows with the number of these flows and of the tasks that run, and the
// pool is blocked meanwhile: some 90 ms for 300,000 flows.
func (p *Pool) Flows(k int) []FlowStats {
	p.mustBeUsable("Flows")
	p.lock()
	defer p.unlock()
	now := time.Since(p.epoch)
	if !p.sched.aging {
		p.ledger.clock.add(p.sched.seq, now)
	}
	plain := FlowStats{Queued: p.sched.count[StateQueued], Running: p.sched.count[StateRunning]}
	first := selection[FlowStats]{n: k, compare: compareFlows}
	for _, f := range p.sched.flows {
		s := f.stats()
		plain.Queued -= s.Queued
		plain.Running -= s.Running
		first.offer(s)
	}
	if f := p.sched.plainFlow; f != nil {
		s := f.stats()
		plain.HeldBack, plain.Places = s.HeldBack, s.Places
	}
	if plain.Queued+plain.Running+plain.HeldBack+plain.Places > 0 {
		first.offer(plain)
	}
	all := first.sorted()
	for i := range all {
		s := &all[i]
		s.OldestWait = p.ledger.clock.oldestOf(p.sched.lanesOf(s.Flow), now)
	}
	return all
}

// compareFlows orders flows as Flows lists them.
func compareFlows(a, b FlowStats) int {
	return cmp.Or(cmp.Compare(b.Queued, a.Queued), cmp.Compare(b.Running, a.Running), cmp.Compare(a.Flow, b.Flow))
}

// stats returns what Flows is to say of f, but for the wait.
func (f *flow) stats() FlowStats {
	s := FlowStats{Flow: f.name, Queued: int(f.queued), HeldBack: len(f.exits()), Places: int(f.places)}
	if open := &f.queue.open; open.out {
		s.HeldBack += int(open.n[0] + open.n[1])
	}
	for _, h := range f.holders {
		if h.state == StateRunning {
			s.Running++
		}
	}
	return s
}

// putBack counts a task of priority pr that was handed to a worker as waiting.
func (s *Stats) putBack(pr Priority) {
	s.Attempts--
	if t := s.ByPriority[pr]; t.Attempts > 0 { // else it is not among the first
		t.Attempts--
		if s.ByPriority[pr] = t; t == (PriorityTotals{}) {
			delete(s.ByPriority, pr)
		}
	}
	s.Running--
	s.Queued++
	i, waits := slices.BinarySearchFunc(s.Waiting, pr, func(w PriorityStats, pr Priority) int { return cmp.Compare(w.Priority, pr) })
	if !waits {
		s.Waiting = slices.Insert(s.Waiting, i, PriorityStats{Priority: pr})
	}
	s.Waiting[i].Queued++
}

// begunLocked reports whether the attempt of w, which is busy, has begun. Until then it
// may still be withdrawn.
func (w *worker) begunLocked() bool {
	return w.attempt == nil || w.attempt.signal.Load()&signalBegun != 0
}

// sinceLocked returns when the attempt of w, which is busy, started. If that is not
// known, it returns when the attempt was first seen, which may be now.
func (w *worker) sinceLocked(now time.Time) time.Time {
	switch {
	case w.attempt != nil:
		return w.attempt.started
	case w.timed:
		return w.started
	case w.seen != w.jobs:
		w.seen, w.seenAt = w.jobs, now
	}
	return w.seenAt
}

// Name returns the name given to [WithName], "" if there is none.
func (p *Pool) Name() string {
	p.mustBeUsable("Name")
	return p.cfg.name
}

// HangGrace returns the time set with [WithHangGrace]: how long a task may go on after its
// context has ended before it is given up.
func (p *Pool) HangGrace() time.Duration {
	p.mustBeUsable("HangGrace")
	return p.cfg.hangGrace
}

// Tasks returns the tasks in the given states; without any, those that are
// delayed, running, parked or abandoned. Queued ones are listed most urgent
// first, the others in no particular order. Settled tasks are not kept, so they
// are never listed. The list is a snapshot. Its cost grows with the number of
// tasks in these states, and the pool is blocked while Tasks makes it.
func (p *Pool) Tasks(states ...State) []TaskInfo {
	p.mustBeUsable("Tasks")
	if len(states) == 0 {
		states = []State{StateDelayed, StateRunning, StateParked, StateAbandoned}
	}
	p.lock()
	defer p.unlock()
	var all []TaskInfo
	if slices.Contains(states, StateQueued) {
		all = p.queuedLocked(-1)
	}
	if slices.Contains(states, StateDelayed) {
		for _, h := range p.sched.delayed.items {
			all = append(all, h.infoLocked())
		}
		for _, h := range p.sched.dependents {
			all = append(all, h.infoLocked())
		}
	}
	now := time.Now()
	for _, w := range p.crew.all {
		if !w.busy {
			continue
		}
		w.sinceLocked(now)
		if slices.Contains(states, w.stateLocked()) {
			all = append(all, w.infoLocked())
		}
	}
	if slices.Contains(states, StateAbandoned) {
		for _, w := range p.crew.hung() {
			all = append(all, w.infoLocked())
		}
	}
	return all
}

// FirstTasks returns the first n of the tasks in a state, with an n below 0 all: queued ones the
// most urgent first; delayed ones in the order in which they are due, and then those that wait for
// others; running, parked and abandoned ones in the order in which their attempts started. Its
// cost grows with n and, for queued tasks, with the number of priorities and of flows that wait,
// for running, parked and abandoned ones with the number of those, but not with the number of
// tasks that are queued or delayed. The pool is blocked meanwhile.
func (p *Pool) FirstTasks(n int, state State) []TaskInfo {
	p.mustBeUsable("FirstTasks")
	p.lock()
	defer p.unlock()
	switch state {
	case StateQueued:
		return p.queuedLocked(n)
	case StateDelayed:
		return p.delayedLocked(n)
	case StateRunning, StateParked:
		return firstLocked(n, slices.DeleteFunc(slices.Clone(p.crew.all), func(w *worker) bool { return !w.busy || w.stateLocked() != state }))
	case StateAbandoned:
		return firstLocked(n, p.crew.hung())
	}
	return nil // settled tasks are not kept
}

// delayedLocked returns the first n delayed tasks, with a negative n all.
func (p *Pool) delayedLocked(n int) (all []TaskInfo) {
	for _, h := range p.sched.delayed.upTo(n) {
		all = append(all, h.infoLocked())
	}
	for _, h := range p.sched.dependents {
		if len(all) == n {
			break
		}
		all = append(all, h.infoLocked())
	}
	return all
}

// firstLocked returns the tasks of those n workers whose attempts started first, with a negative n
// of all.
func firstLocked(n int, workers []*worker) (all []TaskInfo) {
	type begun struct {
		*worker
		since time.Time
	}
	now := time.Now()
	first := selection[begun]{n: n, compare: func(a, b begun) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id)) }}
	for _, w := range workers {
		first.offer(begun{w, w.sinceLocked(now)})
	}
	for _, w := range first.sorted() {
		all = append(all, w.infoLocked())
	}
	return all
}

// queuedLocked returns the first n queued tasks, with a negative n all.
func (p *Pool) queuedLocked(n int) (all []TaskInfo) {
	if n == 0 {
		return nil
	}
	for pr, e := range p.sched.queue.all() {
		switch {
		case e.parked():
			continue
		case e.h != nil:
			all = append(all, e.h.infoLocked())
		default:
			all = append(all, TaskInfo{Pool: p.cfg.name, Priority: pr, Urgency: pr, State: StateQueued})
		}
		if len(all) == n {
			break
		}
	}
	return all
}

// Stack returns the stack of the goroutine of the worker with that number, which is
// TaskInfo's Worker, in the form of a panic's output: what its task is doing now. It
// returns nil if the pool has no such worker, or no longer, and where [HungError] has
// no stack either. Unlike stacks for HungError, calls are not limited; each takes a
// goroutine profile, which stops the program for a moment and costs tens of
// milliseconds of CPU with 20,000 goroutines.
func (p *Pool) Stack(number int) []byte {
	p.mustBeUsable("Stack")
	p.lock()
	w := p.crew.worker(number)
	p.unlock()
	if w == nil {
		return nil
	}
	id := w.goroutine.Load()
	if id == 0 {
		return nil
	}
	return look([]uint64{id})[id]
}

// Health returns nil if the pool accepts tasks, has all its slots and is not stalled.
// Otherwise it returns [ErrClosed]; an error that wraps [ErrHung] and says how many slots
// are lost to hung tasks, because as many goroutines as [WithMaxAbandoned] allows were
// given up already; or an error that wraps [ErrStalled].
func (p *Pool) Health() error {
	if misused(p) {
		return poolMisuse(p, "Health")
	}
	p.lock()
	defer p.unlock()
	switch {
	case p.end.closed:
		return ErrClosed
	case len(p.crew.lost) > 0:
		return fmt.Errorf("%w: %d of %d slots lost, with %d hung goroutines abandoned already",
			ErrHung, len(p.crew.lost), p.sched.slots, len(p.crew.abandoned))
	}
	return p.stalledLocked()
}
