package taskpool

import (
	"math"
	"runtime"
	"runtime/trace"
	"sync"
	"sync/atomic"
	"time"
)

// This file is the path of a task through the pool when nothing out of the
// ordinary happens, and what makes it fast. With one lock for everything,
// submitters and workers would take turns for each task. So there are two: tasks
// arrive under a lock of their own, and are taken in under Pool.mu, many at a time
// and without a look at each of them. Workers are woken one at a time, and take
// the next task with two atomic operations and a few loads.
//
// Invariants between the two locks:
//
//   - A task has arrived when Go or Submit returns. Whoever calls Pool.lock finds
//     it queued: outside of this file it is as if each arrival were queued at once.
//   - A worker that takes the next task without a look at the arrivals takes the
//     same one that it would have taken after a look.
//   - While a slot is free, either the next arrival wakes an idle worker, the leader,
//     or a worker is on its way. That worker takes in what has arrived, takes the task
//     whose turn it is and, if there are more, wakes the next worker. If there is no
//     worker to wake, for instance because none was hired yet, arrivals take the detour
//     by Pool.lock, and one is hired.

// lock locks mu, and takes in what has arrived.
func (p *Pool) lock() {
	lockSoon(&p.mu)
	p.endBurstLocked()
	if p.inbox.least.Load() != none {
		p.takeInLocked()
		p.restoreLocked()
	}
}

// unlock unlocks mu.
func (p *Pool) unlock() {
	p.checkedLocked()
	p.mu.Unlock()
}

// takeInLocked puts what has arrived into the queue.
func (p *Pool) takeInLocked() {
	in := &p.inbox
	if in.least.Load() == none {
		return
	}
	if in.spare == nil {
		in.spare = p.sched.queue.segment(batchSize)
	}
	lockSoon(&in.mu)
	// Yield looks at least before waiting, so it finds what waits in one or the other.
	if least := in.least.Load(); least < p.waiting.Load() && !p.sched.muted() {
		p.waiting.Store(least)
	}
	batch, n, spans, began := in.takeLocked(p.ledger.total.attempts)
	if p.crew.leader != nil {
		p.crew.endLeader(in)
	}
	in.mu.Unlock()
	in.spareSpans = spans
	p.sched.numberBatch(batch, n)
	whole := p.acceptAllLocked(batch, n)
	if p.hooks.timed && !p.sched.aging {
		p.ledger.clock.batch(batch.base, spans, &began, p.sched.queue.n == 0)
	}
	in.spare = p.sched.takeBatch(batch, n, spans, whole)
}

// acceptAllLocked makes the first n tasks of batch, which have arrived, the pool's. It
// clears those whose context has ended meanwhile, and returns false if there were any, or
// some that have a flow.
func (p *Pool) acceptAllLocked(batch *segment, n int) (whole bool) {
	p.sched.count[StateQueued] += n
	before := p.ledger.total.submitted
	p.ledger.total.submitted += uint64(n)
	if batch.handles == 0 {
		return true
	}
	whole = true
	for i := range batch.slots[:n] {
		e := &batch.slots[i]
		if e.h == nil {
			continue
		}
		e.h.id = before + uint64(i) + 1
		if e.h.task.Flow != "" {
			if p.sched.joinBatch(e.h, e.h.task.Flow, e.h.policy) {
				p.supervisor.alarmLocked() // others may start or be let in, and nobody else may look
			}
			whole = false
		}
		if cause := e.h.canceled(); cause != nil {
			var notices []notice
			p.settleWaitingLocked(*e, e.h.priority, StateCanceled, cause, &notices)
			p.notifyLocked(notices)
			*e = entry{}
			whole = false
		}
	}
	return whole
}

// plainLocked reports whether a worker with a slot may take the next task just like that.
func (p *Pool) plainLocked() bool {
	return p.inbox.direct && !p.sched.paused && len(p.sched.exiting[0]) == 0 && p.sched.queue.seconds == 0 &&
		p.sched.admission.n+p.sched.admission.heldBack == 0 &&
		p.sched.held <= p.sched.slots && p.crew.hired() <= p.sched.slots+p.crew.extra
}

// takeNextLocked gives w, which has no task, the task whose turn it is, and a slot if
// w has none: one must be free. It returns false if no task waits, or if it is the turn
// of one that needs no worker.
//
// The arrivals are younger than all that waits in the queue. So they matter only if one
// is more urgent or, because the fair share counts dispatches with a choice, if the
// queue has a single lane and an arrival belongs to another. A worker checks no more
// than that, with two loads.
func (w *worker) takeNextLocked() bool {
	p := w.pool
	l, choice := p.sched.queue.next(false)
	if l == nil || p.sched.queue.fair || p.inbox.matter(int64(l.priority), choice || p.sched.queue.share == 0) {
		p.takeInLocked()
		l, choice = p.sched.queue.next(false)
	}
	if l == nil || !l.front().needsWorker() {
		return false
	}
	d := decision{priority: l.taskPriority(), choice: choice}
	w.takeLocked(p.sched.take(l, d), d)
	if !w.holds {
		w.holdSlotLocked()
	}
	if len(p.sched.flowLoans) > 0 {
		p.passFlowLoansLocked()
	}
	if p.sched.held < p.sched.slots && p.sched.asking+p.sched.askingLess > 0 { // it may be the turn of one of those now
		p.dispatchLocked(nil)
		p.wakeNextLocked() // the free slots are others now
		p.tellYieldLocked()
		return true
	}
	p.tellYieldLocked()
	p.sched.beginBurst(&p.burst)
	return true
}

// endBurstLocked ends the burst, if there is one.
func (p *Pool) endBurstLocked() {
	b := &p.burst
	if b.lane == nil {
		return
	}
	n, pr := uint64(b.taken), Priority(b.priority)
	p.sched.endBurst(b)
	p.ledger.total.attempts += n
	p.ledger.total.succeeded += n // for each one taken, the one before it
	p.sched.queue.totals.of(pr).Succeeded += n
}

// takeFromBurst gives w, whose function has returned, the next function of the burst. If
// there is none it returns false, with pool.mu locked.
func (w *worker) takeFromBurst() bool {
	p := w.pool
	if !p.mu.TryLock() {
		lockSoon(&p.mu)
	}
	r := &p.burst
	if len(r.slots) == 0 || r.slots[0].f == nil || p.inbox.matter(r.priority, r.choice) {
		return false
	}
	if int64(w.priority) != r.priority { // endBurstLocked takes the one before for one of the burst
		p.sched.queue.totals.of(w.priority).Succeeded++
		p.sched.queue.totals.of(Priority(r.priority)).Succeeded--
		w.priority = Priority(r.priority)
	}
	w.job.f = r.slots[0].f
	r.slots[0] = entry{}
	r.slots = r.slots[1:]
	r.taken++
	w.jobs++
	p.unlock()
	return true
}

// runFunctions runs w's task, a function, and then those of the burst. It returns false
// if the worker has nothing more to do.
func (w *worker) runFunctions() bool {
	for n, more := 1, true; more; n, more = n+1, w.takeFromBurst() {
		if n%labelEvery == 0 {
			w.relabel()
		}
		w.inUserCode = true
		if trace.IsEnabled() {
			traceFunction(w.priority, w.job.f)
		} else {
			w.job.f()
		}
		w.inUserCode = false
		if w.attempt != nil { // it was adopted
			w.err, w.kind, w.phase = nil, attemptOK, phaseJudge
			return true
		}
	}
	w.verdict = verdict{state: StateSucceeded}
	return w.settleLocked()
}

// look makes a worker that was woken take a task. It returns false if the worker has
// nothing more to do.
func (w *worker) look() bool {
	p := w.pool
	lockSoon(&p.mu)
	defer p.unlock()
	p.endBurstLocked()
	if w.dismissed {
		return false
	}
	if p.crew.leader == w { // nobody has noticed yet that the first arrival woke it
		p.crew.leader = nil
	} else {
		p.crew.coming--
	}
	if w.abandoned { // at the very end of Shutdown
		w.returnedLateLocked()
		return false
	}
	if p.sched.held < p.sched.slots && p.plainLocked() && w.takeNextLocked() {
		w.phase = phaseStart
		p.wakeNextLocked()
		return true
	}
	p.takeInLocked() // only now: a worker that finds a task in the queue leaves submitters alone
	return w.takeOrSleepLocked()
}

// wakeNextLocked wakes one more worker if there is a task for it, and otherwise
// leaves that to the next arrival.
func (p *Pool) wakeNextLocked() {
	waiting := p.sched.held < p.sched.slots && p.sched.queue.n > 0
	if p.crew.coming > 0 || !waiting && p.expectLocked() {
		return
	}
	// No worker is left to wake, and none to hire: a slot is free for a task that is parked.
	if len(p.crew.idle) == 0 && p.crew.leader == nil && p.crew.unhired == 0 {
		p.endBurstLocked()
		p.takeInLocked()
		p.restoreLocked()
		return
	}
	p.summonLocked()
}

// expectLocked makes sure that the next arrival wakes a worker if a slot is free and
// no worker is on its way. It returns false if there are arrivals already.
func (p *Pool) expectLocked() bool {
	if p.crew.coming > 0 {
		if p.crew.detour { // not any more: the worker on its way finds what arrives
			lockSoon(&p.inbox.mu)
			p.crew.endDetour(&p.inbox)
			p.inbox.mu.Unlock()
		}
		return true
	}
	free := p.inbox.direct && !p.end.closed && !p.sched.paused && p.sched.held < p.sched.slots
	if free && p.crew.leader == nil && len(p.crew.idle) == 0 && p.crew.unhired > 0 && p.crew.hired() > 0 {
		p.hireLocked() // workers are needed, so one is kept ready
	}
	lead := free && (len(p.crew.idle) > 0 || p.crew.leader != nil)
	detour := free && !lead
	if lead == (p.crew.leader != nil) && detour == p.crew.detour {
		return true
	}
	in := &p.inbox
	lockSoon(&in.mu)
	defer in.mu.Unlock()
	if free && in.n > 0 {
		return false
	}
	if p.crew.detour, in.detour = detour, detour; !detour {
		p.crew.endDetour(in)
	}
	if lead {
		last := len(p.crew.idle) - 1
		p.crew.leader = p.crew.idle[last]
		in.leader = p.crew.leader.wake
		p.crew.idle[last] = nil
		p.crew.idle = p.crew.idle[:last]
	} else if p.crew.leader != nil {
		p.crew.endLeader(in)
	}
	return true
}

// An inbox holds the tasks that have arrived and that nobody has taken in yet.
type inbox struct {
	inboxTerms
	_ toNextLine

	// mu protects the fields above least. It may be locked under Pool.mu,
	// never the other way round.
	mu sync.Mutex
	// batch holds the tasks, in order; with aging, order is the time of arrival. It is nil
	// until the first detour is over.
	batch    *segment
	n        int    // number of tasks in batch
	spans    []span // the tasks' priorities
	began    spanTimes
	leader   chan struct{} // wakes the worker that the next arrival must wake; nil if there is none
	closed   bool          // Shutdown was called
	detour   bool          // a worker must be hired; as with closed, tasks arrive by Pool.lock
	watch    bool          // the next arrival makes the supervisor check whether the pool stands still
	latest   int64         // with aging: the order of the last arrival
	yielding yieldPolicy

	_ cacheLine

	// The lowest priority value in batch, the most urgent, and the highest, or flowArrived;
	// none and math.MinInt64 if batch is empty. Written under mu, and rarely.
	least, most atomic.Int64

	_ cacheLine

	// For whoever takes the tasks in, under Pool.mu.
	spare      *segment // empty, to replace batch
	spareSpans []span   // empty, to replace spans
}

// inboxTerms are the fields of an inbox that do not change.
type inboxTerms struct {
	direct bool // tasks may arrive without Pool.mu: neither room nor a hook needs attention
	aging  bool // orders are times since epoch
	timed  bool // hooks are told how long tasks wait
	epoch  time.Time
	bell   chan struct{} // wakes the supervisor
}

// A span is a number of consecutive arrivals of one priority.
type span struct {
	priority Priority
	end      int // index after the last
}

// spanTimes are the times since Pool.epoch at which the first spans began. They are
// recorded only if hooks are told how long tasks wait.
type spanTimes [maxTimed]time.Duration

// cacheLine keeps fields that different goroutines write on different cache lines.
type cacheLine [64]byte

// toNextLine, after inboxTerms in a large object, puts what follows at the beginning of a
// cache line: the allocator puts a word of its own before such an object.
type toNextLine [64 - 8 - 40]byte

// gapBeforeMu separates Pool.mu from the fields before it that are written, and puts it at
// the beginning of a cache line where pointers have 64 bits.
const gapBeforeMu = 2*64 - 16

const (
	none        = math.MaxInt64 // no task waits; a task of that very priority arrives by Pool.lock
	flowArrived = math.MaxInt64 // in most: a task that has a flow is among the arrivals
	batchSize   = int32(len(segmentSlots) - 1)
	maxArrivals = 1020
	wholeBatch  = maxArrivals * 3 / 4 // this many tasks are worth a segment of that size
	worthWhole  = 16                  // this many are if they are about to be taken
	maxTimed    = 16                  // spans of a batch whose beginning is timed, with hooks
)

func (in *inbox) init() {
	in.least.Store(none)
	in.most.Store(math.MinInt64)
}

// close makes tasks arrive by Pool.lock only.
func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
}

// put adds a task; direct must be set. It returns false if that must be done under
// Pool.lock.
func (in *inbox) put(e entry, pr Priority) bool {
	if int64(pr) == none {
		return false
	}
	if in.aging {
		e.order = int64(time.Since(in.epoch))
	}
	if !in.mu.TryLock() {
		lockSoon(&in.mu)
	}
	if in.n == maxArrivals && in.yielding.due() {
		in.letOthersRun()
	}
	if in.n == maxArrivals || in.closed || in.detour || e.h != nil && e.h.canceled() != nil {
		in.mu.Unlock()
		return false
	}
	if in.aging {
		in.latest = max(in.latest, e.order)
		e.order = in.latest
	} else {
		e.order = int64(in.n)
	}
	in.batch.slots[in.n] = e
	in.n++
	if e.h != nil {
		in.batch.handles++
		if e.h.task.Flow != "" {
			in.most.Store(flowArrived)
		}
	}
	if last := len(in.spans) - 1; last >= 0 && in.spans[last].priority == pr {
		in.spans[last].end = in.n
	} else {
		in.beginSpan(e, pr)
	}
	if wake := in.leader; wake != nil {
		in.leader, in.yielding.woken = nil, true
		wake <- struct{}{}
	}
	in.mu.Unlock()
	return true
}

// beginSpan begins a span with e, the latest arrival.
func (in *inbox) beginSpan(e entry, pr Priority) {
	if n := len(in.spans); in.timed && n < maxTimed {
		in.began[n] = e.cameAt(in.epoch)
	}
	if in.watch {
		in.watch = false
		ring(in.bell)
	}
	in.spans = append(in.spans, span{pr, in.n})
	in.least.Store(min(in.least.Load(), int64(pr)))
	in.most.Store(max(in.most.Load(), int64(pr)))
}

// takeLocked takes out all that has arrived, and leaves spare and spareSpans in its place:
// the caller, who holds mu and Pool.mu, must replace these. attempts is the number of
// attempts started so far.
func (in *inbox) takeLocked(attempts uint64) (batch *segment, n int, spans []span, began spanTimes) {
	batch, n, spans = in.batch, in.n, in.spans
	in.batch, in.n, in.spans = in.spare, 0, in.spareSpans[:0]
	if in.timed {
		began = in.began
	}
	in.least.Store(none)
	in.most.Store(math.MinInt64)
	in.yielding.tookIn(n == maxArrivals, attempts)
	return batch, n, spans, began
}

// letOthersRun yields the processor, because the batch is full, so that the workers can
// catch up: tasks that are taken while they are in the processor's cache cost less than a
// queue that grows. It unlocks mu meanwhile.
func (in *inbox) letOthersRun() {
	in.mu.Unlock()
	begin := time.Now()
	runtime.Gosched()
	away := time.Since(begin)
	lockSoon(&in.mu)
	in.yielding.longestYield = max(in.yielding.longestYield, away)
}

// A yieldPolicy decides whether submitters let others run when the batch is full. That is
// good for tasks that are done in no time. If tasks are long, whoever has the processor
// next keeps it for 10 ms, and so do all others that wait for it, and a submitter would
// stand still for as long as that takes.
type yieldPolicy struct {
	woken bool // the leader was woken for what is in the batch, and has not come yet
	// draining is set if about as many tasks were started as arrived while a batch filled
	// up, and no yield took too long since.
	draining     bool
	started      uint64        // attempts, in all, when a full batch was last taken in
	longestYield time.Duration // the longest that a submitter has yielded since
	// holdoff is the number of full batches left at which they do not yield, because the
	// last yield took too long.
	holdoff int
}

const (
	tooLong        = time.Millisecond // unless a task was started each microsecond
	holdoffBatches = 1000
)

func (c *yieldPolicy) due() bool { return c.holdoff == 0 && (c.draining || c.woken) }

// tookIn records that a batch is taken in, full or not; started is the number of attempts
// started so far.
func (c *yieldPolicy) tookIn(full bool, started uint64) {
	c.woken = false
	if !full {
		return
	}
	since := started - c.started
	if since >= maxArrivals/2 {
		c.draining = true
	}
	if c.longestYield > tooLong && c.longestYield > time.Duration(since)*time.Microsecond {
		c.draining, c.holdoff = false, holdoffBatches
	} else if c.holdoff > 0 {
		c.holdoff--
	}
	c.started, c.longestYield = started, 0
}

// matter reports whether an arrival may change whose turn it is, now that of a task of
// priority pr, or turn a dispatch without a choice into one with a choice. choice is set
// if there is a choice already, or if that makes no difference. One that has a flow may
// always change that.
func (in *inbox) matter(pr int64, choice bool) bool {
	most := pr
	if choice {
		most = flowArrived - 1
	}
	return in.least.Load() < pr || in.most.Load() > most
}

// lockSoon locks a mutex that many hold in turn, each for a moment only.
func lockSoon(mu *sync.Mutex) {
	for range 10 {
		if mu.TryLock() {
			return
		}
	}
	mu.Lock()
}
