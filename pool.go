package taskpool

import (
	"context"
	"fmt"
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
	epoch      time.Time       // aging counts from here
	alarm      chan struct{}   // wakes the supervisor; buffered, so that sending never waits
	terminated chan struct{}   // closed when Shutdown has nothing left to wait for
	direct     bool            // tasks may arrive without mu: neither room nor a hook has to be looked after
	hooked     bool            // there are hooks around the attempts of functions
	sampled    bool            // some functions, or all, are timed
	aging      bool            // WithAging is given
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
	p.aging = c.aging > 0
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
