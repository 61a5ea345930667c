package taskpool

import (
	"context"
	"fmt"
	"math"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"
)

// A Pool runs tasks on a fixed number of workers, the most urgent first. Make
// one with [New] and end it with [Pool.Shutdown]; its methods may be called from
// any goroutine. A Pool must not be copied: the methods of a copy, of a zero Pool and of
// a nil one return an error, or panic where they return none.
type Pool struct {
	// arrivals comes first and mu behind a gap of the right size, as each is to be at the
	// beginning of a cache line: what is needed for each task fits into one then.
	arrivals arrivals

	cfg        *config
	hooks      hookTable
	labels     context.Context // has those of its goroutines, but for workers, in profiles
	epoch      time.Time       // ageing counts from here
	alarm      chan struct{}   // wakes the supervisor; buffered, so that sending never waits
	terminated chan struct{}   // closed when Shutdown has nothing left to wait for
	direct     bool            // tasks may arrive without mu: neither room nor a hook has to be looked after
	hooked     bool            // there are hooks around the attempts of functions
	sampled    bool            // some functions, or all, are timed
	ageing     bool            // WithAging is given
	self       *Pool           // the pool that New made: others are refused, see misuse.go

	watches watches

	// waiting is the most urgent priority of which a task waits in the queue,
	// for Yield to look at without the lock; none if none waits or the pool
	// is paused. Written under mu, and rarely.
	waiting atomic.Int64

	_ [gapBeforeMu]byte

	// mu protects the fields below and what says so in Handle, attempt and
	// worker. No user code runs under it: no task, hook, policy or logger,
	// and no method of a context that came from outside.
	//
	// Every critical section that might disturb it restores this invariant
	// before it unlocks, by calling restoreLocked:
	//
	//   - No submitter waits while there is room.
	//   - No parked attempt whose turn it is waits while a slot is free: its
	//     goroutine is woken for that slot.
	//   - While a slot is free that a task in the queue may have, a worker is on
	//     its way: as many as can have a task, or one that will wake the next.
	//
	// No task is put aside for a worker: one that is woken is woken to look, and
	// which task it takes, be it one that came meanwhile, is decided in the
	// critical section in which it looks. That takes the slot, and between it
	// and the task's first instruction lies only the Go scheduler.
	//
	// It is locked by the method lock, which sees to what has arrived; only
	// the functions in fast_path.go, and those that say so, lock it without.
	mu  sync.Mutex
	run run

	queue   priorityQueue
	leaving []*parking    // parked attempts whose context has ended and that ask for a slot; they go first. See leavingLess
	door    priorityQueue // submitters that wait for room, in their task's place
	seq     int64         // last order handed out

	// Tasks that wait for their time. Those that have never started take no room
	// from what could run at once: they are bounded by themselves, and so their
	// submitters wait at a door of their own, where the first due is the first to
	// be let in. One that becomes due there goes on to the other door.
	delayed     dueHeap
	retrying    int     // how many in delayed wait for a retry
	later       int     // tasks that were delayed when they were accepted and have not started: in delayed or, as they are due, in queue
	doorDelayed dueHeap // submitters that wait for room among these, until their task is due

	// What the functions in fast_path.go need.
	spare          *segment  // empty, for arrivals.batch
	spareStretches []stretch // empty, for arrivals.stretches
	detour         bool      // as arrivals.detour

	// Slots. A slot is held from the moment a worker takes a task until it has
	// settled and reported it, but for the time in which the task is parked;
	// also while a dead worker waits to be replaced.
	slots    int // how many there are
	held     int // how many are held; more than slots after Resize, for a while
	heldLess int // how many of these by tasks less urgent than those of WithReserved
	ask      int // parked attempts that ask for one,
	askLess  int // and the less urgent ones
	engaged  int // slots held, attempts parked and workers abandoned

	// Workers. A worker is hired when it is first needed: until then it is a
	// number in unhired and idle like those that sleep.
	crew    []*worker // all that were hired but those abandoned; in no order
	unhired int       // how many more there are
	extra   int       // how many there are beyond slots, at most, for the tasks that ran while others were parked

	// Those without a task; a free slot need not have one.
	idle   []*worker // asleep, the last to come on top
	scout  *worker   // asleep too, to be woken by the next arrival; nil: none is, or somebody has noticed that it was woken
	coming int       // how many were woken, or hired, and have not looked yet

	stall     stallWatch
	dead      []*worker // to be replaced by the supervisor
	watched   watchHeap // workers whose task must end in time
	lost      []*worker // given up with their slot, as too many are abandoned
	abandoned []*worker // given up without a slot, still running
	nextTurn  time.Time // when the supervisor's timer is set for; zero: not set
	rounds    rounds    // how late the supervisor comes
	lastID    int       // number of the newest worker

	count [numStates]int // tasks by state; Parked and before, as the final ones are totals
	total totals

	dispatched dispatchCounts // attempts started, by priority
	marks      []mark         // see oldestWaitLocked

	paused   bool
	idlers   waiters // those who wait until the pool is quiet
	orphans  orphans
	helpers  int             // goroutines that Shutdown waits for, beside the crew
	insiders map[uint64]bool // the numbers of those that are the pool's
	telling  int             // the others, which tell hooks of something; see tellHere

	reports   []report // for the reporter, see reportLocked
	reporting bool     // it runs

	closed       bool           // Shutdown was called
	closing      closing        // with closed: what the log is told of it
	cut          *ShutdownError // what is left undone, once a Shutdown's context has ended too early
	logged       bool           // with cut: the log was told
	final        time.Time      // when user code is not waited for any longer; zero: no such time
	grantedFinal time.Duration  // of rounds.lateness: final has been put off by so much
	over         bool           // terminated is closed, or about to be

	checkClock checkClock // see invariants.go

	supervised bool // the supervisor was started

	leavingLess []*parking // as leaving, but those less urgent than WithReserved's
	left        int64      // number of the last that came to one of the two
}

// New makes a pool with the given options. Its workers and its supervisor are
// started when they are first needed, and run until Shutdown.
func New(opts ...Option) (*Pool, error) {
	c, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	p := newPool(c)
	p.lock()
	defer p.unlock()
	p.unhired = c.workers
	p.restoreLocked()
	return p, nil
}

// newPool returns a pool without workers.
func newPool(c *config) *Pool {
	p := &Pool{
		cfg:        c,
		hooks:      newHookTable(c.hooks),
		labels:     newWorkerLabels("pool", c.name).ctx,
		epoch:      time.Now(),
		alarm:      make(chan struct{}, 1),
		terminated: make(chan struct{}),
		insiders:   make(map[uint64]bool),
		slots:      c.workers,
	}
	p.self = p
	p.direct = c.capacity == unbounded && c.reserved == 0 && p.hooks.queued == nil
	p.ageing = c.aging > 0
	p.hooked = p.hooks.all
	p.sampled = p.hooked && p.hooks.timed || len(p.hooks.samples) > 0
	p.arrivals.init()
	p.waiting.Store(none)
	p.queue.share, p.queue.step = uint64(c.fairShare), c.aging
	if c.reserved > 0 {
		p.queue.reserve = &c.reservedFor
	}
	p.door = p.queue
	p.queue.shed = c.overflow == OverflowShed
	p.queue.init()
	p.door.init()
	return p
}

// freeLocked returns the number of slots that are free for a newcomer of
// priority pr, and how many queued tasks take no room, as others are free for
// them and workers on their way. Those that parked attempts ask for are not free.
// While submitters wait at the door, free slots are promised to no task: an attempt
// that waits there may be the first to have one.
func (p *Pool) freeLocked(pr Priority) (free, promised int) {
	free = p.slots - p.held
	forLess := min(free, p.slots-p.cfg.reserved-p.heldLess)
	less := p.queue.classes[1].queued // 0 without a reservation
	queued := p.count[Queued] - less
	if p.paused || p.door.n > 0 || p.doorDelayed.Len() > 0 {
		queued, less = 0, 0
	} else if free > 0 && p.ask+p.askLess > 0 {
		// Whose turn it is has a slot before those that ask for one.
		restricted := p.restrictedLocked()
		switch l, _ := p.queue.next(restricted); {
		case p.nextLeavingLocked(restricted) != nil || l == nil || l.front().parked():
		case p.lessUrgent(l.priority):
			promised, free, forLess, less = 1, free-1, forLess-1, less-1
		default:
			promised, free, queued = 1, free-1, queued-1
		}
	}
	askLess := max(min(p.askLess, forLess), 0)
	free -= p.ask + askLess
	less = max(min(less, forLess-askLess), 0)
	n := max(min(queued+less, free), 0)
	free -= n
	if p.lessUrgent(pr) {
		free = min(free, forLess-askLess-less)
	}
	return max(free, 0), promised + n
}

// wantedLocked returns how many queued tasks there are slots for.
func (p *Pool) wantedLocked() int {
	if p.paused {
		return 0
	}
	less := p.queue.classes[1].queued // 0 without a reservation
	forLess := max(p.slots-p.cfg.reserved-p.heldLess, 0)
	return min(p.slots-p.held, p.count[Queued]-less+min(less, forLess))
}

// contendedLocked reports whether more waits in the queue, up to priority pr, than
// there are free slots for.
func (p *Pool) contendedLocked(pr Priority) bool {
	free := p.slots - p.held
	if free <= 0 {
		return p.queue.n > 0
	}
	if p.cfg.reserved == 0 && p.queue.n <= free {
		return false
	}
	n, forLess := 0, min(free, max(p.slots-p.cfg.reserved-p.heldLess, 0))
	for i := range p.queue.classes {
		for _, l := range p.queue.classes[i].lead.lanes {
			if l.priority <= pr {
				n += l.n
			}
		}
		if i == 0 {
			forLess = min(forLess, free-n)
			n = 0
		}
	}
	return n > forLess
}

// lessUrgent reports whether reserved workers are none of pr's business.
func (p *Pool) lessUrgent(pr Priority) bool { return p.cfg.reserved > 0 && pr > p.cfg.reservedFor }

// restrictedLocked reports whether a free slot is for reserved priorities only.
func (p *Pool) restrictedLocked() bool {
	return p.cfg.reserved > 0 && p.heldLess >= p.slots-p.cfg.reserved
}

// holdSlotLocked gives w a slot for its task.
func (p *Pool) holdSlotLocked(w *worker) {
	w.holds = true
	if p.held++; p.held == p.slots {
		p.watchFullLocked()
	}
	p.engageLocked(+1)
	if p.lessUrgent(w.priority) {
		p.heldLess++
	}
}

// engageLocked counts slots held, attempts parked and workers abandoned: while there are
// any, somebody may wait on a worker's goroutine.
func (p *Pool) engageLocked(n int) {
	if p.engaged == 0 {
		activePools.Add(1)
	}
	if p.engaged += n; p.engaged == 0 {
		activePools.Add(-1)
	}
}

// freeSlotLocked takes w's slot, if it has one.
func (p *Pool) freeSlotLocked(w *worker) {
	if !w.holds {
		return
	}
	w.holds = false
	p.held--
	p.engageLocked(-1)
	if p.lessUrgent(w.priority) {
		p.heldLess--
	}
}

// roomLocked reports whether one more task of priority pr, which may start at
// once, may be accepted.
func (p *Pool) roomLocked(pr Priority) bool {
	if p.cfg.capacity == unbounded {
		return true
	}
	free, promised := p.freeLocked(pr)
	return p.count[Queued]-promised+p.retrying-free < p.cfg.capacity
}

// laterRoomLocked is roomLocked for a task that has to wait for its time: there
// may be as many as may be accepted when nothing runs. One counts until it starts,
// as a queue that is full does not keep it out when it is due.
func (p *Pool) laterRoomLocked() bool {
	return p.cfg.capacity == unbounded || p.later-p.slots < p.cfg.capacity
}

// makeRoomLocked returns nil if there is room for one more task, if need be
// after shedding one. later says that the task has to wait for its time: nothing
// is shed for one that could not run. due is set if the task that was shed counted
// in Pool.later: then the new one is to count there in its place, or a queue that is
// longer than its capacity, as tasks have become due, would grow with each that is shed.
func (p *Pool) makeRoomLocked(pr Priority, later bool, reports *[]report) (due time.Time, err error) {
	switch {
	case later && p.laterRoomLocked(), !later && p.roomLocked(pr):
		return time.Time{}, nil
	case later, p.cfg.overflow != OverflowShed:
		return time.Time{}, ErrFull
	}
	e, victim, ok := p.queue.takeShed(pr)
	if !ok {
		return time.Time{}, ErrFull
	}
	if e.h != nil && e.h.laterLocked() {
		due = e.h.due
	}
	p.settleWaitingLocked(e, victim, Shed, ErrShed, reports)
	return due, nil
}

// inheritLocked has h count in Pool.later in the place of a task that was shed for it,
// if due is set.
func (p *Pool) inheritLocked(h *Handle, due time.Time) {
	if h.due = due; !due.IsZero() {
		p.later++
	}
}

// acceptLocked makes h one of the pool's tasks. later says that it has to wait for
// its time.
func (p *Pool) acceptLocked(h *Handle, later bool) {
	p.total.submitted++
	h.id = p.total.submitted
	if later {
		p.delayLocked(h, h.task.NotBefore)
	} else {
		h.due = time.Time{} // it may have become due while it waited for room
		p.enqueueLocked(entry{h: h}, h.task.Priority)
	}
}

// enqueueLocked puts a task at the back of its lane.
func (p *Pool) enqueueLocked(e entry, pr Priority) {
	e.order = p.orderLocked()
	if h := e.h; h != nil {
		h.state = Queued
		if p.hooks.timed && !h.function {
			h.queuedAt = time.Since(p.epoch)
		}
	}
	l := p.queue.lane(laneKey{pr, false})
	p.queue.pushLane(l, e)
	p.count[Queued]++
	p.watchFullLocked()
	if p.hooks.timed && (l.n == 1 || e.order%maxTimed == 0) && !p.ageing {
		p.addMarkLocked(e.order, p.cameAt(e)) // as markArrivalsLocked does
	}
}

// orderLocked returns the order of a task that arrives now.
func (p *Pool) orderLocked() int64 {
	if p.ageing {
		p.seq = max(p.seq, int64(time.Since(p.epoch)))
	} else {
		p.seq++
	}
	return p.seq
}

// delayLocked lets h wait until due.
func (p *Pool) delayLocked(h *Handle, due time.Time) {
	h.state, h.due = Delayed, due
	p.count[Delayed]++
	if h.attempts == 0 {
		p.later++
	} else {
		p.retrying++
	}
	p.delayed.add(h)
	p.alarmAtLocked(due)
}

// undelayLocked takes h out of the delayed ones. The caller sees to its state.
func (p *Pool) undelayLocked(h *Handle) {
	if h.attempts > 0 {
		p.retrying--
	}
	p.delayed.remove(h)
}

// laterLocked reports whether h, which was accepted, counts in Pool.later.
func (h *Handle) laterLocked() bool { return h.attempts == 0 && !h.due.IsZero() }

// settleWaitingLocked settles a task that was just taken out of the queue or
// the delayed ones, and adds what is to be reported.
func (p *Pool) settleWaitingLocked(e entry, pr Priority, s State, err error, reports *[]report) {
	info := TaskInfo{Priority: pr, State: s, draw: p.hooks.unsampled()}
	if h := e.h; h == nil {
		p.count[Queued]--
		p.total.settled(s)
	} else {
		if h.laterLocked() {
			p.later--
		}
		p.settleLocked(h, s, err, reports)
		info = h.infoLocked()
	}
	about := TaskEvent{Pool: p.cfg.name, Task: info, Err: err}
	if s == Shed {
		tell(reports, p.hooks.shed, about)
	}
	tell(reports, p.hooks.finished, about)
}

// settleLocked brings h into a final state. That happens once.
func (p *Pool) settleLocked(h *Handle, s State, err error, reports *[]report) {
	p.count[h.state]--
	p.total.settled(s)
	h.state, h.err, h.attempt = s, err, nil
	if s == Canceled {
		p.orphanedLocked(h, err)
	}
	g := h.work.group
	h.parent = nil
	h.work, h.task.Run, h.task.Retry, h.first = work{}, nil, Retry{}, nil // let go of what they refer to
	h.settled.Store(true)
	p.wakeLocked(&h.waiters)
	if h.watch != nil {
		if forget := p.watches.leave(h); forget != nil {
			*reports = append(*reports, report{call: forget})
		}
	}
	if g != nil {
		g.settledLocked(err, reports)
	}
}

// cancel implements Handle.Cancel.
func (p *Pool) cancel(h *Handle, cause error) bool {
	p.lock()
	var reports []report
	a, e, ok := p.cancelLocked(h, cause, false, &reports)
	if ok {
		p.restoreLocked()
	}
	p.oweLocked(reports)
	p.unlock()
	if a != nil {
		p.finish(a, e)
	}
	p.deliverAll(reports)
	return ok
}

// cancelLocked cancels h, byContext if the context given to Submit has ended. It returns
// false if h has settled, and the attempt under way, if there is one, with the ending that
// its context is to get without the lock.
func (p *Pool) cancelLocked(h *Handle, cause error, byContext bool, reports *[]report) (a *attempt, e *ending, ok bool) {
	switch {
	case h.state.final():
		return nil, nil, false
	case h.id == 0: // Submit will find out
		p.arrivals.mu.Lock() // as arrive looks at it
		h.canceled = cause
		p.arrivals.mu.Unlock()
		return nil, nil, true
	case h.attempt == nil:
		p.settleWaitingLocked(p.withdrawLocked(h), h.task.Priority, Canceled, cause, reports)
		return nil, nil, true
	}
	if h.canceled == nil {
		h.canceled = cause
	}
	a, e = h.attempt, &ending{cause: cause, kind: endCanceled, byContext: byContext}
	p.endLocked(a, e)
	p.settleJudgedLocked(a.w, reports)
	return a, e, true
}

// withdrawLocked takes a waiting handle out of the queue or the delayed ones.
func (p *Pool) withdrawLocked(h *Handle) entry {
	if h.state == Delayed {
		p.undelayLocked(h)
		return entry{h: h}
	}
	return p.queue.remove(h)
}

// helps makes the calling goroutine known to inside, as one that Shutdown waits
// for. It is called after p.helpers++, and helperDone gets what it returns.
func (p *Pool) helps() (id uint64) {
	pprof.SetGoroutineLabels(p.labels) // else it has those of whoever started it, which may be a task
	id = goroutineID()
	p.lock()
	defer p.unlock()
	p.insiders[id] = true
	return id
}

// helperDone ends what p.helpers++ and helps began.
func (p *Pool) helperDone(id uint64) {
	p.lock()
	defer p.unlock()
	delete(p.insiders, id)
	p.helpers--
	p.restoreLocked()
}

// restoreLocked restores the invariant at Pool.mu: it lets submitters in while
// there is room, has parked attempts go on whose turn it is, and wakes workers for
// the tasks that there are slots for. It also tells those who wait for the pool to
// be idle or drained.
func (p *Pool) restoreLocked() { p.restoreWithLocked(nil) }

// restoreWithLocked is restoreLocked by w, if not nil, a worker that looks for a
// task and has no slot. It gets the one whose turn it is, or else it is idle.
func (p *Pool) restoreWithLocked(w *worker) {
	p.dispatchLocked(w)
	if w != nil && !w.busy {
		p.idle = append(p.idle, w)
	}
	for {
		for want := p.wantedLocked(); p.coming < want; {
			p.summonLocked()
		}
		if p.expectLocked() {
			break
		}
		p.takeInLocked()
		p.dispatchLocked(nil)
	}
	p.tellYieldLocked()
	if p.outstandingLocked() == 0 && p.arrivals.least.Load() == none {
		p.drainedLocked()
	}
}

// tellYieldLocked tells Yield what waits in the queue, unless there are slots for
// all of it.
func (p *Pool) tellYieldLocked() {
	least := int64(none)
	if pr, ok := p.queue.leastPriority(); ok && !p.paused && p.contendedLocked(math.MaxInt) {
		least = int64(pr)
	}
	if p.waiting.Load() != least {
		p.waiting.Store(least)
	}
}

// dispatchLocked gives free slots to those whose turn it is, and lets submitters in
// for whom that makes room. A task that has yet to start goes to w, which may be
// nil: the next waits for a worker that looks.
func (p *Pool) dispatchLocked(w *worker) {
	p.admitLocked()
	for p.held < p.slots && p.nextLocked(w) {
		p.admitLocked()
	}
}

// nextLocked gives a free slot to the task whose turn it is. It returns false if
// there is none, or if it needs a worker and w is none, or has a task.
func (p *Pool) nextLocked(w *worker) bool {
	restricted := p.restrictedLocked()
	if from := p.nextLeavingLocked(restricted); from != nil {
		pk := (*from)[0]
		(*from)[0] = nil
		if *from = (*from)[1:]; len(*from) == 0 {
			*from = nil
		}
		p.unparkLocked(pk)
		return true
	}
	if p.paused || p.queue.n == 0 {
		return false
	}
	l, choice := p.queue.next(restricted)
	switch {
	case l == nil:
		return false
	case l.front().parked():
		p.unparkLocked(p.queue.takeTurn(l, choice, restricted).h.attempt.parking)
	case w == nil || w.busy:
		return false
	default:
		w.choice, w.restricted = choice, restricted
		p.assignLocked(w, p.queue.takeTurn(l, choice, restricted), l.priority)
		p.holdSlotLocked(w)
	}
	return true
}

// nextLeavingLocked returns the list whose first is the first parked attempt on its way
// out that may have a free slot, nil if there is none.
func (p *Pool) nextLeavingLocked(restricted bool) *[]*parking {
	switch all, less := p.leaving, p.leavingLess; {
	case len(less) > 0 && !restricted && (len(all) == 0 || less[0].left < all[0].left):
		return &p.leavingLess
	case len(all) > 0:
		return &p.leaving
	}
	return nil
}

// admitLocked lets submitters in while there is room.
func (p *Pool) admitLocked() {
	// Those that are not due first: they take no room from others, but the tasks
	// that submit them ask for their slots.
	for h := p.doorDelayed.first(); h != nil && (h.canceled != nil || p.laterRoomLocked()); h = p.doorDelayed.first() {
		p.doorDelayed.remove(h)
		if h.canceled == nil { // else its Submit is about to find out
			p.letInLocked(h, true)
		}
	}
	for h := p.nextAtDoorLocked(); h != nil; h = p.nextAtDoorLocked() {
		p.letInLocked(h, false)
	}
}

// letInLocked accepts h, which has left the door.
func (p *Pool) letInLocked(h *Handle, later bool) {
	p.acceptLocked(h, later)
	p.wakeLocked(&h.waiters)
}

// nextAtDoorLocked takes the next submitter for whom there is room from the
// door, nil if there is none. Where the one whose turn it is finds none, a
// reserved slot may be free for another.
func (p *Pool) nextAtDoorLocked() *Handle {
	for restricted := false; p.door.n > 0; {
		l, _ := p.door.next(restricted)
		if l == nil {
			return nil
		}
		h := l.front().h
		switch {
		case h.canceled != nil: // its Submit is about to find out
			p.door.remove(h)
		case p.roomLocked(l.priority):
			p.door.pop(restricted)
			return h
		case restricted || p.cfg.reserved == 0:
			return nil
		default:
			restricted = true
		}
	}
	return nil
}

// quietLocked reports whether nothing is outstanding, and hooks have been told of all
// that was. A worker that has something to tell still has its slot, and who else has is
// a helper.
func (p *Pool) quietLocked() bool {
	return p.outstandingLocked() == 0 && p.held == len(p.lost) && p.helpers == 0
}

// drainedLocked tells those who wait for it that nothing is outstanding.
func (p *Pool) drainedLocked() {
	p.extra = 0
	p.trimLocked(p.slots)
	if p.quietLocked() {
		p.wakeLocked(&p.idlers)
	}
	if p.closed {
		p.dismissLocked()
	}
}

// outstandingLocked returns the number of accepted tasks that have not settled.
func (p *Pool) outstandingLocked() int {
	return p.count[Queued] + p.count[Delayed] + p.count[Running] + p.count[Parked]
}

// WaitIdle waits until no task is queued, delayed, parked or running and the hooks that
// were told of the tasks have returned, and returns nil; others may submit the next
// one at any time. If ctx ends first, it returns ctx's cause. In a task or a hook of the
// pool it returns [ErrInside]; a task of another pool gives its slot back meanwhile, see
// [Handle.Wait].
func (p *Pool) WaitIdle(ctx context.Context) error {
	switch {
	case p.misused():
		return p.misuse("WaitIdle")
	case ctx == nil:
		return nilArgument("WaitIdle", "ctx")
	}
	if p.inside(ctx) {
		return ErrInside
	}
	task := attemptFrom(ctx)
	p.lock()
	defer p.unlock()
	return p.awaitLocked(&wait{what: awaited{idle: p}, ctx: ctx, task: task})
}

// inside reports whether the caller is a task or a hook of the pool, or has the context
// of a task of the pool.
func (p *Pool) inside(ctx context.Context) bool {
	if a := attemptFrom(ctx); a != nil && a.pool == p || p.tellsHere() {
		return true
	}
	if w := currentWorker(); w != nil && w.pool == p {
		return true
	}
	return p.helping()
}

// helping reports whether the calling goroutine is one of the pool's beside its workers.
func (p *Pool) helping() bool {
	p.lock()
	helpers := len(p.insiders)
	p.unlock()
	if helpers == 0 {
		return false
	}
	id := goroutineID()
	p.lock()
	defer p.unlock()
	return p.insiders[id]
}

// Pause stops the pool from starting tasks, and from resuming parked ones whose
// context has not ended, until [Pool.Resume]; those that run go on, and tasks are
// accepted as before. Shutdown lifts the pause, and after
// it Pause does nothing.
func (p *Pool) Pause() {
	p.mustBeUsable("Pause")
	p.lock()
	defer p.unlock()
	p.paused = !p.closed
	p.restoreLocked() // Yield has nothing to yield to
}

// Resume ends a Pause.
func (p *Pool) Resume() {
	p.mustBeUsable("Resume")
	p.lock()
	defer p.unlock()
	p.paused = false
	p.restoreLocked()
	p.watchFullLocked()
}

// Resize changes the number of workers, to at least 1, to more than
// [WithReserved] keeps and to at most 1,000,000. Added workers take tasks at once;
// workers that are too many end when they have finished their task. Resize does
// not wait for that. It returns [ErrClosed] after Shutdown was called.
func (p *Pool) Resize(workers int) error {
	if p.misused() {
		return p.misuse("Resize")
	}
	if least := p.cfg.reserved + 1; workers < least {
		err := fmt.Errorf("taskpool: Resize: workers must be at least %d, got %d", least, workers)
		if p.cfg.reserved > 0 {
			err = fmt.Errorf("%w: WithReserved keeps %d", err, p.cfg.reserved)
		}
		return err
	}
	if workers > maxWorkers {
		return fmt.Errorf("taskpool: Resize: workers must be at most %d, got %d", maxWorkers, workers)
	}
	p.lock()
	defer p.unlock()
	if p.closed {
		return ErrClosed
	}
	p.slots = workers
	p.boundExtraLocked()
	p.unhired += max(workers-p.sizeLocked(), 0)
	p.reclaimLocked()
	p.trimLocked(workers + p.extra)
	p.restoreLocked()
	p.watchFullLocked() // there may be fewer slots than are held
	return nil
}
