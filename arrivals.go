package taskpool

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// This file is the way of a task through the pool where nothing out of the
// ordinary happens, and it is the one that has to be fast. With one lock for
// everything, submitters and workers would take turns for each task. So there are
// two: tasks arrive under a lock of their own, and workers take them in, many at a
// time, under Pool.mu.
//
// What holds between the two:
//
//   - A task has arrived when Go or Submit returns. Whoever calls Pool.lock finds
//     it queued, or running if a slot is free: to all but those in this file it is
//     as if arrivals joined the queue at once.
//   - A worker that takes the next task from the queue without a look at the
//     arrivals (takeNextLocked) takes the one that it would have taken with it.
//   - While a slot is free, an arrival wakes a worker, the scout, unless that one
//     is on its way already. The scout takes in all that has arrived by then, and
//     while tasks are left it wakes the next. So however many tasks arrive, one
//     worker at a time is being woken.

// arrivals holds the tasks that nobody has taken in yet.
type arrivals struct {
	_ cacheLine

	// mu protects the fields below up to least. It may be locked under Pool.mu,
	// never the other way round.
	mu     sync.Mutex
	batch  *segment  // in order of arrival. With ageing their order is the time of arrival.
	n      int       // how many
	runs   []stretch // of one priority each, together all
	closed bool      // Shutdown was called
	detour bool      // a worker has to be hired; like closed, tasks arrive by Pool.lock
	scout  *worker   // the worker to be woken by the next arrival; nil if none is to be

	_ cacheLine

	// The most and the least urgent priority among tasks; none and
	// math.MinInt64 if there are none. Written under mu, and rarely.
	least, most atomic.Int64

	_ cacheLine
}

// A stretch is arrivals of one priority.
type stretch struct {
	priority Priority
	end      int // index of the first task behind it
}

// cacheLine keeps fields that different goroutines write out of each other's way.
type cacheLine [64]byte

const (
	none         = math.MaxInt64
	arrivalsSize = len(segmentSlots) - 1
	maxArrivals  = 1021
)

func (in *arrivals) init() {
	in.batch = newSegment(arrivalsSize)
	in.least.Store(none)
	in.most.Store(math.MinInt64)
}

// closeLocked has tasks arrive by Pool.lock only.
func (in *arrivals) closeLocked() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
}

// arrive hands a task in. It returns false if that has to be done under
// Pool.lock.
func (p *Pool) arrive(e entry, pr Priority) bool {
	if !p.direct || int64(pr) == none {
		return false
	}
	if p.cfg.aging > 0 {
		e.order = int64(time.Since(p.epoch))
	}
	in := &p.arrivals
	if !in.mu.TryLock() {
		lockSoon(&in.mu)
	}
	if in.n == maxArrivals {
		in.mu.Unlock()
		runtime.Gosched()
		lockSoon(&in.mu)
	}
	if in.n == maxArrivals || in.closed || in.detour || e.h != nil && e.h.canceled != nil {
		in.mu.Unlock()
		return false
	}
	in.batch.slots[in.n] = e
	in.n++
	if n := len(in.runs); n > 0 && in.runs[n-1].priority == pr {
		in.runs[n-1].end = in.n
	} else {
		in.runs = append(in.runs, stretch{pr, in.n})
		in.least.Store(min(in.least.Load(), int64(pr)))
		in.most.Store(max(in.most.Load(), int64(pr)))
	}
	if w := in.scout; w != nil {
		in.scout = nil
		w.wake <- wakeToLook
	}
	in.mu.Unlock()
	return true
}

// lock locks mu and completes what has arrived: it is queued, and running where
// a slot is free.
func (p *Pool) lock() {
	p.mu.Lock()
	p.endRunLocked()
	if p.arrivals.least.Load() != none || p.scoutUp {
		p.takeInLocked()
		p.restoreLocked()
	}
}

func (p *Pool) unlock() { p.mu.Unlock() }

// takeInLocked puts what has arrived into the queue.
func (p *Pool) takeInLocked() {
	in := &p.arrivals
	if in.least.Load() == none {
		return
	}
	lockSoon(&in.mu)
	batch, n, runs := in.batch, in.n, in.runs
	in.batch, in.n, in.runs = p.spareBatch, 0, p.spareRuns[:0]
	in.least.Store(none)
	in.most.Store(math.MinInt64)
	p.scoutUp = p.scout != nil && in.scout == nil
	in.mu.Unlock()
	p.spareBatch, p.spareRuns = nil, runs
	whole := p.acceptAllLocked(batch.slots[:n]) && len(runs) == 1
	free := 0
	if p.queue.n == 0 && !p.paused {
		free = p.slots - p.held - (len(p.ready) - p.readyI)
	}
	if whole && free <= 0 && (n > maxArrivals*3/4 || n > 16 && p.queue.n == 0) {
		p.queue.pushSegment(batch, n, runs[0].priority)
		p.spareBatch = p.queue.segment(arrivalsSize)
		return
	}
	begin := 0
	for _, r := range runs {
		// The first find free slots, and are next whatever comes after them.
		for ; begin < r.end && free > 0; begin++ {
			if e := batch.slots[begin]; e.live() {
				p.ready = append(p.ready, readyTask{e, r.priority})
				free--
			}
		}
		if begin < r.end {
			p.queue.pushAll(batch.slots[begin:r.end], r.priority)
			begin = r.end
		}
	}
	clear(batch.slots[:n])
	p.spareBatch = batch
}

// acceptAllLocked makes what has arrived the pool's tasks. It reports whether all
// are to be queued.
func (p *Pool) acceptAllLocked(tasks []entry) bool {
	all := true
	p.count[Queued] += len(tasks)
	for i := range tasks {
		e := &tasks[i]
		if p.cfg.aging == 0 {
			p.seq++
		} else {
			// A stamp is taken before the lock, so a later one may come first.
			p.seq = max(p.seq, e.order)
		}
		e.order = p.seq
		p.total.submitted++
		if e.h == nil {
			continue
		}
		e.h.id = p.total.submitted
		if e.h.canceled != nil { // while it was being accepted
			var reports []report
			p.settleWaitingLocked(*e, e.h.task.Priority, Canceled, e.h.canceled, &reports)
			p.reportLocked(reports)
			*e = entry{}
			all = false
		}
	}
	return all
}

// plainLocked reports whether a worker that has done its task may just take the
// next.
func (p *Pool) plainLocked() bool {
	return p.direct && !p.paused && len(p.leaving) == 0 && p.held <= p.slots && len(p.crew) <= p.slots+p.extra
}

// takeNextLocked gives w, which has a slot and no task, the task whose turn it
// is. It returns false if there is none, or one that is to go on where it was
// parked. There is no need to look at the arrivals if they would not change
// which one it is: they are younger than all that waits in the queue, so that
// they matter only if one is more urgent, or if the queue has one lane and they
// would be another, as the fair share counts the dispatches with a choice.
func (p *Pool) takeNextLocked(w *worker) bool {
	if p.takeReadyLocked(w) {
		return true
	}
	l, choice := p.queue.next(false)
	if l == nil || p.arrivals.least.Load() < int64(l.priority) ||
		!choice && p.queue.share > 0 && p.arrivals.most.Load() > int64(l.priority) {
		p.takeInLocked()
		if p.takeReadyLocked(w) {
			return true
		}
		l, choice = p.queue.next(false)
	}
	if l == nil || l.front().parked() {
		return false
	}
	p.assignLocked(w, p.queue.takeTurn(l, choice, false), l.priority)
	p.tellYieldLocked()
	return true
}

func (p *Pool) popReadyLocked() readyTask {
	r := p.ready[p.readyI]
	p.ready[p.readyI] = readyTask{}
	if p.readyI++; p.readyI == len(p.ready) {
		p.ready, p.readyI = p.ready[:0], 0
	}
	return r
}

func (p *Pool) takeReadyLocked(w *worker) bool {
	if len(p.ready) == 0 {
		return false
	}
	r := p.popReadyLocked()
	p.assignLocked(w, r.entry, r.priority)
	return true
}

// wakeNextLocked wakes one more worker if there is something to do for it, and
// otherwise leaves that to the next arrival.
func (p *Pool) wakeNextLocked() {
	if p.held == p.slots || p.queue.n == 0 && len(p.ready) == 0 && p.expectLocked() {
		return
	}
	if len(p.idle) == 0 { // it has to be hired
		p.takeInLocked()
		p.restoreLocked()
		return
	}
	w := p.scoutLocked()
	w.asleep, p.scoutUp = false, true
	w.wake <- wakeToLook
}

// A run is a stretch of functions at the front of the lane whose turn it is. They
// are taken one at a time, each when a worker is free, like all tasks; but what
// there is to count is counted at the end of the run, which is when anything else
// is done under Pool.mu. A run leaves at least one task in its lane.
type run struct {
	lane     *lane
	slots    []entry // from the next to the last
	taken    int
	priority int64
	choice   bool // the queue has another lane
	share    bool //
}

// startRunLocked begins a run if the next turns are all one lane's.
func (p *Pool) startRunLocked() {
	q := &p.queue
	if q.n < 2 || len(p.ready) > 0 {
		return
	}
	l, choice := q.next(false)
	if l == nil || choice && q.step > 0 {
		return
	}
	s := l.head
	n := min(int(s.tail-s.head), l.n-1)
	if choice && q.share > 0 {
		n = min(n, int(q.share-1-q.turn[0]))
	}
	if n <= 0 {
		return
	}
	p.run = run{lane: l, slots: s.slots[s.head : int(s.head)+n], priority: int64(l.priority), choice: choice, share: q.share > 0}
}

// endRunLocked ends the run, if there is one.
func (p *Pool) endRunLocked() {
	r := &p.run
	if r.lane == nil {
		return
	}
	n := r.taken
	p.queue.skip(r.lane, n, r.choice)
	p.count[Queued] -= n
	p.total.attempts += uint64(n)
	p.total.succeeded += uint64(n)
	*r = run{}
}

// next
func (w *worker) next() bool {
	p := w.pool
	if !p.mu.TryLock() {
		lockInTurn(&p.mu)
	}
	r := &p.run
	in := &p.arrivals
	if len(r.slots) == 0 || in.least.Load() < r.priority || !r.choice && r.share && in.most.Load() > r.priority {
		return false
	}
	e := &r.slots[0]
	if e.f == nil {
		return false
	}
	w.job.f, w.priority = e.f, Priority(r.priority)
	e.f = nil
	r.slots = r.slots[1:]
	r.taken++
	p.mu.Unlock()
	return true
}

// look has a worker that was woken by an arrival take a task. It returns false if
// the worker is dismissed.
func (w *worker) look() bool {
	p := w.pool
	lockInTurn(&p.mu)
	defer p.mu.Unlock()
	p.endRunLocked()
	if w.dismissed {
		return false
	}
	if !w.busy { // else it was given a task meanwhile
		p.scout, p.scoutUp = nil, false
		p.takeInLocked()
		if p.plainLocked() && p.held < p.slots && p.takeNextLocked(w) {
			last := len(p.idle) - 1
			p.idle[0], p.idle[last] = p.idle[last], nil
			p.idle = p.idle[:last]
			p.holdSlotLocked(w)
			p.wakeNextLocked()
			p.startRunLocked()
		} else {
			p.restoreLocked()
		}
	}
	if w.asleep = !w.busy; w.busy {
		w.phase = phaseStart
	}
	return true
}

// scoutLocked makes an idle worker the scout.
func (p *Pool) scoutLocked() *worker {
	last := len(p.idle) - 1
	p.idle[0], p.idle[last] = p.idle[last], p.idle[0]
	p.scout = p.idle[0]
	return p.scout
}

// expectLocked sees to it that the next arrival wakes a worker if a slot is free.
// It returns false if tasks have arrived meanwhile.
func (p *Pool) expectLocked() bool {
	free := p.direct && !p.paused && p.held < p.slots
	scout, detour := free && len(p.idle) > 0, free && len(p.idle) == 0
	if p.scoutUp || scout == (p.scout != nil) && detour == p.detour {
		return true
	}
	in := &p.arrivals
	lockSoon(&in.mu)
	defer in.mu.Unlock()
	if free && in.n > 0 {
		return false
	}
	p.detour, in.detour = detour, detour
	switch {
	case scout:
		in.scout = p.scoutLocked()
	case p.scout != nil:
		p.scoutUp = in.scout == nil
		if !p.scoutUp {
			in.scout, p.scout = nil, nil
		}
	}
	return true
}

// takeIdleLocked takes an idle worker off the stack: the scout if it is awake,
// otherwise the one on top.
func (p *Pool) takeIdleLocked() *worker {
	last := len(p.idle) - 1
	if p.scoutUp {
		p.idle[0], p.idle[last] = p.idle[last], p.idle[0]
	}
	w := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	if w == p.scout {
		in := &p.arrivals
		lockSoon(&in.mu)
		if in.scout == nil {
			w.asleep = false // it will find out what it is wanted for
		}
		in.scout = nil
		in.mu.Unlock()
		p.scout, p.scoutUp = nil, false
	}
	return w
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

// lockInTurn is lockSoon for workers, which rather let others run than sleep.
func lockInTurn(mu *sync.Mutex) {
	for range 2 {
		for range 10 {
			if mu.TryLock() {
				return
			}
		}
		runtime.Gosched()
	}
	mu.Lock()
}

type readyTask struct {
	entry
	priority Priority
}
