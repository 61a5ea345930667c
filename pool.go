package taskpool

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Pool runs tasks on a fixed number of workers, the most urgent first. Make
// one with [New] and end it with [Pool.Shutdown]; its methods may be called from
// any goroutine. A Pool must not be copied: on a copy, a zero Pool or a nil one, methods
// that return an error return one, and the others panic.
type Pool struct {
	// inbox comes first and mu after a gap, so that each is at the beginning of a cache
	// line: then what every task needs fits into one.
	inbox inbox

	cfg        *config
	hooks      hookTable
	guard      guard
	labels     context.Context // has the profiler labels of its goroutines other than workers
	epoch      time.Time       // aging counts from here
	supervisor supervisor
	original   // the pool that New made, to tell a copy from it, see errors.go
	watches    watches

	// waiting is the priority of the most urgent task in the queue, for Yield to
	// read without the lock; none if no task waits or the pool is paused. Written
	// under mu, and rarely.
	waiting atomic.Int64

	_ [gapBeforeMu]byte

	// mu protects the fields below, and those of Handle, attempt and worker
	// whose comments say so. No user code runs under it: no task, hook, policy
	// or logger, and no method of a context that came from outside.
	//
	// Every critical section that might disturb it restores this invariant
	// before it unlocks, by calling restoreLocked:
	//
	//   - No submitter waits while there is room.
	//   - No parked attempt whose turn it is waits while a slot is free: its
	//     goroutine is woken for that slot.
	//   - While a slot is free that a task in the queue may have, workers have
	//     been woken: as many as can have a task, or one that will wake the next.
	//
	// No task is put aside for a worker. A worker is woken to look for a task, and
	// which one it takes, perhaps one that came meanwhile, is decided in the
	// critical section in which it looks. That section takes the slot, and only
	// the Go scheduler stands between it and the task's first instruction.
	//
	// It is locked by the method lock, which also takes in what has arrived in the
	// inbox; only the functions in fast_path.go, and those that say so, lock it
	// directly.
	mu    sync.Mutex
	burst burst

	sched   scheduler // who is next
	crew    crew      // the workers
	watch   watchdog  // what must end in time
	ledger  ledger    // what has happened
	outbox  outbox    // notices for hooks and the log, and the goroutines that deliver them
	stall   stallWatch
	stepper stepper
	idlers  waiters // calls that wait until the pool is quiet
	orphans orphans
	end     shutdownState

	joins joins // not protected by mu

	checkClock checkClock // see invariants.go
}

// New makes a pool with the given options. Its workers and its supervisor are
// started when they are first needed, and run until Shutdown.
func New(opts ...Option) (*Pool, error) {
	c, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	plain, err := c.flowPolicy("")
	if err != nil {
		return nil, err
	}
	p := newPool(c)
	p.lock()
	defer p.unlock()
	if plain != (flowPolicy{}) {
		p.sched.setPlainFlow(plain)
		p.inbox.direct = false
	}
	p.crew.unhired = c.workers
	p.restoreLocked()
	return p, nil
}

// newPool returns a pool without workers.
func newPool(c *config) *Pool {
	p := &Pool{
		cfg:    c,
		hooks:  newHookTable(c.hooks, c.queueDelay > 0),
		guard:  guard{c.name, c.logger},
		labels: newWorkerLabels("pool", c.name).ctx,
		epoch:  time.Now(),
	}
	p.supervisor = supervisor{bell: make(chan struct{}, 1), run: p.supervise}
	p.inbox.aging, p.inbox.timed = c.aging > 0, p.hooks.timed
	p.inbox.epoch, p.inbox.bell = p.epoch, p.supervisor.bell
	p.ledger.clock.aging, p.ledger.clock.timed = c.aging > 0, p.hooks.timed
	if c.retryBudgetSet {
		p.ledger.budget = &retryBudget{ratio: min(int64(math.Round(c.retryRatio*wholeRetry)), wholeRetry-1), least: c.retryLeast}
	}
	p.end.dropsDelayed = c.delayed == DelayedCancel
	p.end.terminated = make(chan struct{})
	p.outbox.outside, p.outbox.insiders = p.hooks.outside, make(map[uint64]bool)
	p.sched.init(c)
	if p.crew.procs.on = !c.workersSet; c.workersSet {
		p.crew.procs.stop()
	}
	p.watch.init()
	p.original = original{p}
	p.inbox.direct = c.capacity == unbounded && c.reserved == 0 && p.hooks.queued == nil && c.queueDelay == 0
	p.inbox.init()
	p.waiting.Store(none)
	return p
}

// An original is what a Pool has of the pool that New made, which is the Pool itself unless
// that is a copy. The methods with which a Pool prints itself are its own, so that fmt
// finds them for a copy too: it would walk maps that are in use.
type original struct{ self *Pool }

// String describes the pool in a line such as
//
//	pool "orders" (3 of 4 workers busy, 12 waiting)
//
// with what else there is: tasks that are parked or delayed, submitters that wait for room,
// and whether the pool is paused, stands still or is shut down. The line is for people, and
// may change. It is what package fmt prints for a Pool. String may be called anywhere, in
// tasks, hooks and log handlers too, and costs about as much as [Handle.State].
func (p original) String() string {
	pool := p.self
	if pool == nil {
		return "zero Pool"
	}
	name := "pool"
	if pool.cfg.name != "" {
		name = fmt.Sprintf("pool %q", pool.cfg.name)
	}
	pool.lock()
	sched, slots, held := &pool.sched, pool.sched.slots, pool.sched.held
	queued, parked, delayed := sched.count[StateQueued], sched.count[StateParked], sched.count[StateDelayed]
	submitters, paused, stalled := sched.submitters(), sched.paused, pool.stalledLocked() != nil
	closed, over := pool.end.closed, pool.end.over
	pool.unlock()
	if over {
		return name + " (shut down)"
	}
	text := fmt.Appendf(nil, "%s (%d of %d workers busy, %d waiting", name, held, slots, queued)
	for _, more := range []struct {
		n    int
		what string
	}{{parked, "parked"}, {delayed, "delayed"}, {submitters, "waiting for room"}} {
		if more.n > 0 {
			text = fmt.Appendf(text, ", %d %s", more.n, more.what)
		}
	}
	for _, more := range []struct {
		is   bool
		what string
	}{{paused, "paused"}, {stalled, "stalled"}, {closed, "shutting down"}} {
		if more.is {
			text = append(append(text, ", "...), more.what...)
		}
	}
	return string(append(text, ')'))
}

// GoString returns what String does as something of the type *Pool. Package fmt prints it
// for %#v, as tests do, in place of all that a pool consists of.
func (p original) GoString() string { return "(*taskpool.Pool)(" + p.String() + ")" }

// LogValue has package log/slog log what String returns.
func (p original) LogValue() slog.Value { return slog.StringValue(p.String()) }

// quietLocked reports whether no task is outstanding and hooks have been told of all that
// were. A worker that has notices to deliver still has its slot; any other goroutine that
// has notices is counted in helpers.
func (p *Pool) quietLocked() bool {
	return p.sched.outstanding() == 0 && p.sched.held == len(p.crew.lost) && p.outbox.helpers == 0
}

// drainedLocked is called when no task is outstanding. It wakes WaitIdle if the pool is
// quiet, and lets a shutdown go on.
func (p *Pool) drainedLocked() {
	p.crew.extra = 0
	p.crew.trim(p.sched.slots, &p.inbox)
	if p.quietLocked() {
		p.idlers.wakeLocked()
	}
	if p.end.closed {
		p.dismissLocked()
	}
}

// WaitIdle waits until no task is queued, delayed, parked or running and the hooks that
// were told of the tasks have returned, and returns nil. Another task may be submitted at
// any time. If ctx ends first, it returns ctx's cause. In a task or a hook of the pool it
// returns [ErrInside]; a task of another pool gives its slot back while it waits, see
// [Handle.Wait].
func (p *Pool) WaitIdle(ctx context.Context) error { return awaitIdle("WaitIdle", p, ctx, false) }

// WaitRunning waits until no task is at work, and returns nil. It is for a pool that is
// paused, to change something that no task may see change: [Pool.Pause] lets no other start,
// and WaitRunning waits for what runs by then. In a pool that is not paused it returns at the
// first moment at which nothing runs and nothing waits for a worker, which may never come.
//
// At work is a task that has a slot, until hooks and the log have been told how its attempt
// ended, and one that is in the function given to [Block]. Other tasks that are parked are
// not, in [Yield] or because they wait for tasks, which may be unable to start; nor are those
// that were given up as hung. In a pause, parked tasks go on only if their context ends: then
// they clean up.
//
// If ctx ends first, it returns ctx's cause. In a task or a hook of the pool it returns
// [ErrInside]; a task of another pool gives its slot back while it waits, see [Handle.Wait].
func (p *Pool) WaitRunning(ctx context.Context) error {
	return awaitIdle("WaitRunning", p, ctx, true)
}

// awaitIdle implements WaitIdle and WaitRunning, for the call of that name.
func awaitIdle(call string, p *Pool, ctx context.Context, running bool) error {
	switch {
	case misused(p):
		return poolMisuse(p, call)
	case ctx == nil:
		return nilArgument(call, "ctx")
	}
	if p.Inside(ctx) {
		return ErrInside
	}
	task := attemptFrom(ctx)
	p.lock()
	defer p.unlock()
	return (&wait{what: awaited{idle: p, running: running}, ctx: ctx, task: task}).awaitLocked()
}

// Inside reports whether the caller is a task or a hook of the pool, or ctx is, or derives
// from, the context of a task of the pool. In that case [Pool.Shutdown], [Pool.WaitIdle] and
// [Pool.WaitRunning] return [ErrInside], as they would wait for their own caller. In a
// goroutine that a task has started, only ctx can tell. Inside waits for nothing, and it
// does not matter whether ctx has ended. It costs nanoseconds if ctx tells, and about a
// microsecond if the caller's goroutine has to be looked up.
func (p *Pool) Inside(ctx context.Context) bool {
	p.mustBeUsable("Inside")
	if ctx == nil {
		panic(nilArgument("Inside", "ctx").Error())
	}
	if a := attemptFrom(ctx); a != nil && a.pool == p || tellsHere(p) {
		return true
	}
	guests, bottom := stackShows()
	if guests && slices.ContainsFunc(guestsHere(), func(w *worker) bool { return w.pool == p }) {
		return true
	}
	if bottom {
		if w := goroutineWorker(); w != nil && w.pool == p {
			return true
		}
	}
	p.lock()
	helpers := len(p.outbox.insiders)
	p.unlock()
	if helpers == 0 {
		return false
	}
	id := goroutineID()
	p.lock()
	defer p.unlock()
	return p.outbox.insiders[id]
}

// Pause stops the pool from starting tasks, and from resuming parked ones whose
// context has not ended, until [Pool.Resume]. Running tasks go on, see [Pool.WaitRunning],
// and tasks are accepted as before. Shutdown lifts the pause, and after it Pause does nothing.
func (p *Pool) Pause() {
	p.mustBeUsable("Pause")
	p.lock()
	defer p.unlock()
	p.sched.paused = !p.end.closed
	p.restoreLocked() // so that Yield sees that it has nothing to yield to
}

// Resume ends a Pause.
func (p *Pool) Resume() {
	p.mustBeUsable("Resume")
	p.lock()
	defer p.unlock()
	p.sched.endPause(time.Since(p.epoch))
	p.restoreLocked()
	p.watchFullLocked()
}

// Resize changes the number of workers, to at least 1, to more than
// [WithReserved] keeps and to at most 1,000,000. Added workers take tasks at once;
// surplus workers end when they have finished their task, and Resize does not wait
// for that. From then on the pool no longer follows GOMAXPROCS, see [WithWorkers]. Resize
// returns [ErrClosed] after Shutdown was called.
func (p *Pool) Resize(workers int) error {
	if misused(p) {
		return poolMisuse(p, "Resize")
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
	if p.end.closed {
		return ErrClosed
	}
	p.crew.procs.stop()
	p.crew.resizeLocked(p, workers)
	return nil
}
