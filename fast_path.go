package taskpool

import (
	"math"
	"runtime"
	"runtime/trace"
	"sync"
	"sync/atomic"
	"time"
)

// This file is the way of a task through the pool where nothing out of the
// ordinary happens, and what makes it fast. With one lock for everything,
// submitters and workers would take turns for each task. So there are two: tasks
// arrive under a lock of their own, and are taken in under Pool.mu, many at a time
// and without a look at each of them. Workers are woken one at a time, and take
// the next task with two atomic operations and a few loads.
//
// What holds between the two locks:
//
//   - A task has arrived when Go or Submit returns. Whoever calls Pool.lock finds
//     it queued: outside of this file it is as if each arrival were queued at once.
//   - A worker that takes the next task without a look at the arrivals takes the
//     one that it would have taken with it.
//   - While a slot is free, the next arrival wakes an idle worker, the scout, or a
//     worker is on its way. It takes in what has arrived, takes the task whose turn
//     it is and, if there are more, wakes the next worker. Where there is none to
//     be woken, be it that none was hired yet, arrivals take the detour by
//     Pool.lock, and one is hired.

// An inbox holds the tasks that nobody has taken in yet.
type inbox struct {
	direct bool // tasks may arrive without Pool.mu: neither room nor a hook has to be looked after

	_ toNextLine

	// mu protects the fields above least. It may be locked under Pool.mu,
	// never the other way round.
	mu       sync.Mutex
	batch    *segment // the tasks, in order; with aging, their order is the time. Nil until the first detour is over
	n        int      // how many
	spans    []span   // their priorities
	began    beginnings
	leader   *worker // to be woken by the next arrival; nil if nobody is
	closed   bool    // Shutdown was called
	detour   bool    // a worker has to be hired; like closed, tasks arrive by Pool.lock
	watch    bool    // the next arrival has the supervisor look whether the pool stands still
	latest   int64   // with aging: the order of the last arrival
	yielding yieldPolicy

	_ cacheLine

	// The most and the least urgent priority in batch; none and math.MinInt64
	// if it is empty. Written under mu, and rarely.
	least, most atomic.Int64

	_ cacheLine

	// For whoever takes the tasks in, under Pool.mu.
	spare      *segment // empty, for batch
	spareSpans []span   // empty, for spans
}

// A span is arrivals of one priority.
type span struct {
	priority Priority
	end      int // index behind the last
}

// beginnings are the times since Pool.epoch at which the first stretches began. They are
// taken if hooks are told how long tasks wait.
type beginnings [maxTimed]time.Duration

// cacheLine keeps what different goroutines write out of each other's way.
type cacheLine [64]byte

// toNextLine, at the beginning of a large object, puts what follows at the beginning of a
// cache line: the allocator has a word of its own before such an object.
type toNextLine [64 - 8 - 1]byte

// gapBeforeMu keeps Pool.mu away from what is written before it, and puts it at the
// beginning of a cache line where pointers have 64 bits.
const gapBeforeMu = 64 + 48

const (
	none        = math.MaxInt64 // no priority waits; a task of that priority takes the long way
	batchSize   = int32(len(segmentSlots) - 1)
	maxArrivals = 1020
	wholeBatch  = maxArrivals * 3 / 4 // so many tasks are worth a segment that size,
	worthWhole  = 16                  // and so many if they are about to be taken
	maxTimed    = 16                  // stretches of a batch whose time is taken, with hooks
)

func (in *inbox) init() {
	in.least.Store(none)
	in.most.Store(math.MinInt64)
}

// close has tasks arrive by Pool.lock only.
func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
}

// arrive hands a task in. It returns false if that has to be done under
// Pool.lock.
func (p *Pool) arrive(e entry, pr Priority) bool {
	if !p.inbox.direct || int64(pr) == none {
		return false
	}
	if p.sched.aging {
		e.order = int64(time.Since(p.epoch))
	}
	in := &p.inbox
	if !in.mu.TryLock() {
		lockSoon(&in.mu)
	}
	if in.n == maxArrivals && in.yielding.due() {
		in.letOthersRun()
	}
	if in.n == maxArrivals || in.closed || in.detour || e.h != nil && e.h.canceled != nil {
		in.mu.Unlock()
		return false
	}
	if p.sched.aging {
		in.latest = max(in.latest, e.order)
		e.order = in.latest
	} else {
		e.order = int64(in.n)
	}
	in.batch.slots[in.n] = e
	in.n++
	if e.h != nil {
		in.batch.handles++
	}
	if last := len(in.spans) - 1; last >= 0 && in.spans[last].priority == pr {
		in.spans[last].end = in.n
	} else {
		if p.hooks.timed && last+1 < maxTimed {
			in.began[last+1] = p.cameAt(e)
		}
		if in.watch {
			in.watch = false
			p.ring()
		}
		in.spans = append(in.spans, span{pr, in.n})
		in.least.Store(min(in.least.Load(), int64(pr)))
		in.most.Store(max(in.most.Load(), int64(pr)))
	}
	if w := in.leader; w != nil {
		in.leader, in.yielding.woken = nil, true
		w.wake <- struct{}{}
	}
	in.mu.Unlock()
	return true
}

// letOthersRun gives the processor away, as the batch is full, for the workers to
// catch up: tasks that are taken while they are in the processor's cache cost less
// than a queue that grows. It unlocks mu meanwhile.
func (in *inbox) letOthersRun() {
	in.mu.Unlock()
	begin := time.Now()
	runtime.Gosched()
	away := time.Since(begin)
	lockSoon(&in.mu)
	in.yielding.away = max(in.yielding.away, away)
}

// A yieldPolicy is whether submitters let others run when the batch is full. That is
// good for tasks that are done in no time. Where they are long, whoever has the
// processor next keeps it for 10 ms, and so do all others that wait for it, so
// that a submitter would stand still for as long as that takes.
type yieldPolicy struct {
	woken    bool          // the scout was woken for what is in the batch, and has not come yet
	brisk    bool          // while a batch filled up about as many tasks were started, and it did not take too long since
	started  uint64        // attempts, in all, when a full batch was last taken in
	away     time.Duration // the longest that a submitter has let others run since
	stubborn int           // so many more full batches they do not, as the last time took too long
}

const (
	tooLong      = time.Millisecond // if they did not start a task each microsecond
	stubbornness = 1000
)

func (c *yieldPolicy) due() bool { return c.stubborn == 0 && (c.brisk || c.woken) }

// tookIn takes note that a batch is taken in, full or not, when so many attempts
// have been started.
func (c *yieldPolicy) tookIn(full bool, started uint64) {
	c.woken = false
	if !full {
		return
	}
	since := started - c.started
	if since >= maxArrivals/2 {
		c.brisk = true
	}
	if c.away > tooLong && c.away > time.Duration(since)*time.Microsecond {
		c.brisk, c.stubborn = false, stubbornness
	} else if c.stubborn > 0 {
		c.stubborn--
	}
	c.started, c.away = started, 0
}

// lock locks mu, and completes what has arrived.
func (p *Pool) lock() {
	lockSoon(&p.mu)
	p.endRunLocked()
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
	if p.inbox.spare == nil {
		p.inbox.spare = p.sched.queue.segment(batchSize)
	}
	lockSoon(&in.mu)
	batch, n, stretches := in.batch, in.n, in.spans
	// Yield looks at least and then at waiting, so what waits is in one or the other.
	if least := in.least.Load(); least < p.waiting.Load() && !p.sched.paused {
		p.waiting.Store(least)
	}
	in.batch, in.n, in.spans = p.inbox.spare, 0, p.inbox.spareSpans[:0]
	var began beginnings
	if p.hooks.timed {
		began = in.began
	}
	in.least.Store(none)
	in.most.Store(math.MinInt64)
	in.yielding.tookIn(n == maxArrivals, p.ledger.total.attempts)
	if p.crew.leader != nil {
		p.endScoutLocked()
	}
	in.mu.Unlock()
	p.inbox.spareSpans = stretches
	canceled := p.acceptAllLocked(batch, n)
	if p.hooks.timed {
		p.markArrivalsLocked(batch, stretches, &began)
	}
	whole := canceled == 0 && len(stretches) == 1 &&
		(n >= wholeBatch || n >= worthWhole && p.sched.queue.n == 0)
	tasks := batch.slots[:n]
	if whole {
		p.sched.queue.pushSegment(batch, n, stretches[0].priority)
		p.inbox.spare = p.sched.queue.segment(batchSize)
		return
	}
	i := 0
	for _, s := range stretches {
		p.sched.queue.pushAll(tasks[i:s.end], batch.base, s.priority)
		i = s.end
	}
	clear(tasks)
	batch.handles, batch.base = 0, 0
	p.inbox.spare = batch
}

// acceptAllLocked makes the first n tasks of batch, which have arrived, the
// pool's. It clears those whose context has ended meanwhile and returns how many
// these are.
func (p *Pool) acceptAllLocked(batch *segment, n int) (canceled int) {
	tasks := batch.slots[:n]
	if p.sched.aging {
		for i := 0; i < n && tasks[i].order < p.sched.seq; i++ {
			tasks[i].order = p.sched.seq // the time was taken before the lock
		}
		p.sched.seq = tasks[n-1].order
	} else {
		batch.base = p.sched.seq + 1
		p.sched.seq += int64(n)
	}
	p.sched.count[Queued] += n
	before := p.ledger.total.submitted
	p.ledger.total.submitted += uint64(n)
	if batch.handles == 0 {
		return 0
	}
	for i := range tasks {
		e := &tasks[i]
		if e.h == nil {
			continue
		}
		e.h.id = before + uint64(i) + 1
		if e.h.canceled != nil {
			var reports []report
			p.settleWaitingLocked(*e, e.h.task.Priority, Canceled, e.h.canceled, &reports)
			p.reportLocked(reports)
			*e = entry{}
			canceled++
		}
	}
	return canceled
}

// plainLocked reports whether a worker with a slot may just take the next task.
func (p *Pool) plainLocked() bool {
	return p.inbox.direct && !p.sched.paused && len(p.sched.exiting) == 0 &&
		p.sched.held <= p.sched.slots && len(p.crew.all) <= p.sched.slots+p.crew.extra
}

// takeNextLocked gives w, which has no task, the one whose turn it is, and a slot if
// it has none: one must be free. It returns false if there is none, or one that is
// to go on where it was parked.
//
// The arrivals are younger than all that waits in the queue. So they matter only
// if one is more urgent or, as the fair share counts dispatches with a choice, if
// the queue has a single lane and there is one for another. A worker looks at no
// more than that: two loads.
func (p *Pool) takeNextLocked(w *worker) bool {
	l, choice := p.sched.queue.next(false)
	if l == nil || p.inbox.matter(int64(l.priority), choice || p.sched.queue.share == 0) {
		p.takeInLocked()
		l, choice = p.sched.queue.next(false)
	}
	if l == nil || l.front().parked() {
		return false
	}
	w.choice, w.restricted = choice, false
	p.assignLocked(w, p.sched.queue.takeTurn(l, choice, false), l.priority)
	if !w.holds {
		p.holdSlotLocked(w)
	}
	if p.sched.held < p.sched.slots && p.sched.asking+p.sched.askingLess > 0 { // it may be the turn of one of those now
		p.dispatchLocked(nil)
		p.tellYieldLocked()
		return true
	}
	p.tellYieldLocked()
	p.beginRunLocked()
	return true
}

// matter reports whether an arrival may change whose turn it is, which is that of
// a task of priority pr, or whether this is a choice, where it is none yet and that
// makes a difference.
func (in *inbox) matter(pr int64, choice bool) bool {
	return in.least.Load() < pr || !choice && in.most.Load() > pr
}

// A run is the functions at the front of the queue that come next whatever the
// fair share does. Each is taken when a worker is free, like all tasks, but what
// there is to count is counted at the end of the run; anything else that is done
// under Pool.mu ends it first.
type burst struct {
	slots    []entry // what is left of it
	taken    int
	lane     *lane // that the slots are in, with at least one task behind them; nil: no run
	priority int64
	choice   bool // the queue has another lane, or that makes no difference
}

// beginRunLocked begins a run, if there is one to begin. The pool is plain.
func (p *Pool) beginRunLocked() {
	q := &p.sched.queue
	if q.n < 2 {
		return
	}
	l, choice := q.next(false)
	s := l.head
	n := min(int(s.tail-s.head), l.n-1)
	switch {
	case !choice:
	case q.step > 0:
		n = q.firstByAge(l, n)
	case q.share > 0:
		n = min(n, int(q.share-1-q.turn[0]))
	}
	if n > 0 {
		p.burst = burst{slots: s.slots[s.head:][:n], lane: l, priority: int64(l.priority),
			choice: choice || q.share == 0}
	}
}

// endRunLocked ends the run, if there is one.
func (p *Pool) endRunLocked() {
	r := &p.burst
	if r.lane == nil {
		return
	}
	p.sched.queue.skip(r.lane, r.taken)
	p.sched.count[Queued] -= r.taken
	p.ledger.total.attempts += uint64(r.taken)
	p.ledger.dispatched.add(Priority(r.priority), uint64(r.taken))
	p.ledger.total.succeeded += uint64(r.taken) // the one before each
	*r = burst{}
}

// takeFromRun gives w, whose function has returned, the next of the run. If there
// is none it returns false, with pool.mu locked.
func (w *worker) takeFromRun() bool {
	p := w.pool
	if !p.mu.TryLock() {
		lockSoon(&p.mu)
	}
	r := &p.burst
	if len(r.slots) == 0 || r.slots[0].f == nil || p.inbox.matter(r.priority, r.choice) {
		return false
	}
	w.job.f, w.priority = r.slots[0].f, Priority(r.priority)
	r.slots[0] = entry{}
	r.slots = r.slots[1:]
	r.taken++
	w.jobs++
	p.unlock()
	return true
}

// runFunctions makes the attempt of w's task, a function, and those of the run. It
// returns false if the worker has nothing more to do.
func (w *worker) runFunctions() bool {
	for n, more := 1, true; more; n, more = n+1, w.takeFromRun() {
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
	w.verdict = verdict{state: Succeeded}
	return w.settleLocked()
}

// look has a worker that was woken take a task. It returns false if the worker has
// nothing more to do.
func (w *worker) look() bool {
	p := w.pool
	lockSoon(&p.mu)
	defer p.unlock()
	p.endRunLocked()
	if w.dismissed {
		return false
	}
	if p.crew.leader == w { // nobody has noticed yet that the first arrival woke it
		p.crew.leader = nil
	} else {
		p.crew.coming--
	}
	if w.abandoned { // at the very end of Shutdown
		p.returnedLateLocked(w)
		return false
	}
	if p.sched.held < p.sched.slots && p.plainLocked() && p.takeNextLocked(w) {
		w.phase = phaseStart
		p.wakeNextLocked()
		return true
	}
	p.takeInLocked() // not before: who finds a task in the queue leaves submitters alone
	return w.takeOrSleepLocked()
}

// wakeNextLocked wakes one more worker if there is a task for it, and otherwise
// leaves that to the next arrival.
func (p *Pool) wakeNextLocked() {
	waiting := p.sched.held < p.sched.slots && p.sched.queue.n > 0
	if p.crew.coming > 0 || !waiting && p.expectLocked() {
		return
	}
	if len(p.crew.idle) == 0 && p.crew.leader == nil && p.crew.unhired == 0 { // those with parked tasks have it first
		p.endRunLocked()
		p.takeInLocked()
		p.restoreLocked()
		return
	}
	p.summonLocked()
}

// expectLocked sees to it that the next arrival wakes a worker if a slot is free
// and none is on its way. It returns false if there are arrivals already.
func (p *Pool) expectLocked() bool {
	if p.crew.coming > 0 {
		if p.crew.detour { // no more: who is coming finds what arrives
			lockSoon(&p.inbox.mu)
			p.endDetourLocked()
			p.inbox.mu.Unlock()
		}
		return true
	}
	free := p.inbox.direct && !p.end.closed && !p.sched.paused && p.sched.held < p.sched.slots
	if free && p.crew.leader == nil && len(p.crew.idle) == 0 && p.crew.unhired > 0 && len(p.crew.all) > 0 {
		p.hireLocked() // as they are needed, one is kept in store
	}
	scout := free && (len(p.crew.idle) > 0 || p.crew.leader != nil)
	detour := free && !scout
	if scout == (p.crew.leader != nil) && detour == p.crew.detour {
		return true
	}
	in := &p.inbox
	lockSoon(&in.mu)
	defer in.mu.Unlock()
	if free && in.n > 0 {
		return false
	}
	if p.crew.detour, in.detour = detour, detour; !detour {
		p.endDetourLocked()
	}
	if scout {
		last := len(p.crew.idle) - 1
		p.crew.leader, in.leader = p.crew.idle[last], p.crew.idle[last]
		p.crew.idle[last] = nil
		p.crew.idle = p.crew.idle[:last]
	} else if p.crew.leader != nil {
		p.endScoutLocked()
	}
	return true
}

// endDetourLocked lets tasks arrive without Pool.mu. It is called with inbox.mu held.
func (p *Pool) endDetourLocked() {
	in := &p.inbox
	p.crew.detour, in.detour = false, false
	if in.batch == nil {
		in.batch = newSegment(batchSize)
	}
}

// releaseScoutLocked makes the scout, if there is one, a worker like any other.
func (p *Pool) releaseScoutLocked() {
	if p.crew.leader != nil {
		lockSoon(&p.inbox.mu)
		defer p.inbox.mu.Unlock()
		p.endScoutLocked()
	}
}

// endScoutLocked is releaseScoutLocked with inbox.mu held.
func (p *Pool) endScoutLocked() {
	if in := &p.inbox; in.leader == nil {
		p.crew.coming++ // the first arrival has woken it
	} else {
		in.leader = nil
		p.crew.idle = append(p.crew.idle, p.crew.leader)
	}
	p.crew.leader = nil
}

// lockSoon locks a mutex that is held for moments only, by many in turn.
func lockSoon(mu *sync.Mutex) {
	for range 10 {
		if mu.TryLock() {
			return
		}
	}
	mu.Lock()
}
