package taskpool

import (
	"context"
	"errors"
	"runtime"
	"runtime/trace"
	"slices"
	"sync/atomic"
	"time"
)

// A worker runs one task after the other on a goroutine of its own. When that
// goroutine dies, by a panic or Goexit in user code, the supervisor starts
// another, which continues where the dead one stopped: phase says where. So
// whatever user code does, every step of an attempt is done once.
type worker struct {
	pool *Pool

	// The fields below belong to the worker's goroutine, except for jobs. What every
	// function given to Go needs comes first, to be in one cache line.

	job         entry // a function, or a handle whose attempt is in the next field
	attempt     *attempt
	priority    Priority
	jobs        uint64 // how many tasks the worker was given; protected by pool.mu
	inUserCode  bool   // user code of the task is on the stack
	ran         bool   // Run was called
	aroundTried bool   // Around was called
	phase       phase
	ended       *ending                     // why the attempt must not begin; nil if it may
	parent      *attempt                    // the parent of a task that is, or may become, an orphan
	body        func(context.Context) error // what the attempt runs; nil once it has, and for a function
	err         error                       // the attempt's error
	kind        attemptKind
	verdict     verdict   // what becomes of the task
	notices     []notice  // to deliver before the next task
	noticeSpace [2]notice // space for the usual number of notices
	event       TaskEvent // the event of these notices, kept here to save an allocation

	// For a function that hooks are told of, see timedFunction.
	timed   bool
	sample  uint64    // as in TaskInfo
	started time.Time // zero unless timed

	guest *guest // nil for all that have a goroutine of their own

	// How the goroutine died.
	panicked bool
	value    any
	site     panicSite

	// wake wakes the worker to look for a task, or to end if it is dismissed. It is
	// buffered, so that sending never waits.
	wake chan struct{}

	// goroutine is the number of the worker's goroutine, as in stack dumps. It is
	// set before the goroutine calls user code; 0 until then.
	goroutine atomic.Uint64

	// labels are the goroutine's profiler labels.
	labels atomic.Pointer[workerLabels]

	// The fields below are protected by pool.mu.

	id         int
	crewI      int         // index in crew.all
	dismissed  bool        // it must end, as there are too many workers or the pool is drained
	busy       bool        // has a task that has not settled
	seen       uint64      // value of jobs when sinceLocked last looked
	seenAt     time.Time   // when sinceLocked first saw it at that job
	holds      bool        // has a slot
	choice     bool        // as in decision, of its task
	restricted bool        // likewise
	less       bool        // that slot counts as one of a less urgent task
	succeeded  bool        // with attempt.over: Run returned nil
	gaveUp     bool        // its task was settled as hung, and the worker no longer affects it
	dead       bool        // its goroutine has ended: it is in crew.all and, to be replaced, in crew.dead
	abandoned  bool        // with gaveUp: it has no slot either
	unfinished *Unfinished // the task as it was when Shutdown was cut short

	// What the supervisor watches; see rewatchLocked.

	watch     time.Time     // when it checks the task; zero: never
	watchI    int           // index in watchdog.watched while watch is set
	workEnd   time.Time     // when the WorkTimeout is over; zero without, and while it does not count
	workLeft  time.Duration // while the WorkTimeout does not count: what is left of it
	beatDue   time.Time     // when a sign of life is due; zero without a Heartbeat
	half      bool          // half of the time until beatDue is over
	counting  int           // the kind (see rounds) of the grace or silence that counts; 0: none counts
	granted   time.Duration // the part of rounds.lateness that the task was granted
	ending    bool          // the task's context has ended: the hang grace counts
	graceEnd  time.Time     // with ending: when the grace is over; zero while it does not count
	graceLeft time.Duration // with ending, while the grace does not count: what is left of it
	suspect   bool          // the grace is over: the task is about to be given up
	stack     []byte        // with ending: its stack, if it was taken
	stackAt   time.Time     // when stack was taken
	hung      *verdict      // with suspect, while Retry.If is asked about the hang: the verdict without a retry
}

// A phase is the next step of a worker, or of its replacement. The steps phaseStart,
// phaseBegin and phaseJudge set it to the step after them before they call user code.
type phase int

const (
	phaseSleep  phase = iota // wait to be woken, and look for a task
	phaseStart               // check whether the attempt may begin
	phaseBegin               // begin it and tell hooks so, or withdraw the task
	phaseRun                 // call Run
	phaseJudge               // decide what becomes of the task
	phaseSettle              // carry out the verdict
	phaseNotify              // tell hooks and the log
	phaseTake                // give the slot back, take the next task
)

// takeLocked gives w a task that was taken out of the queue.
func (w *worker) takeLocked(e entry, d decision) {
	p := w.pool
	p.ledger.total.attempts++
	w.job, w.priority, w.busy = e, d.priority, true
	w.choice, w.restricted = d.choice, d.restricted
	if w.timed {
		w.timed, w.started = false, time.Time{}
	}
	if p.ledger.total.attempts >= p.crew.procs.lookFrom && p.crew.procs.on {
		p.crew.procs.lookLocked(p, time.Now())
	}
	w.jobs++
	if e.h != nil {
		w.takeHandleLocked(e.h)
	} else if p.hooks.timed {
		w.seen, w.seenAt = w.jobs, time.Now()
	}
}

// takeHandleLocked is the part of takeLocked for a handle. Like noteStartLocked it is
// not inlined, as it takes more stack than anything else that workers do: inlined, it
// would make them outgrow their first stack when they start.
//
//go:noinline
func (w *worker) takeHandleLocked(h *Handle) {
	p := w.pool
	if h.function != nil {
		w.job = entry{f: h.function.f}
		w.timed, w.sample, w.started = true, h.function.sample, time.Now()
		if p.hooks.started != nil {
			w.noteStartLocked(w.started.Sub(p.epoch) - h.queuedAt)
		}
		p.sched.becomeFunction(h)
		if h.self == nil { // nobody else refers to it
			h.pool, h.function.f, h.id, h.item = nil, nil, 0, item{}
			functionHandles.Put(h)
		}
		return
	}
	w.attempt, w.body = h.beginAttemptLocked(w), h.task.Run
	if p.crew.procs.on && !w.attempt.started.Before(p.crew.procs.lookAt) {
		p.crew.procs.lookLocked(p, w.attempt.started)
	}
	if h.task.Timeout > 0 || h.task.extra != nil && (h.task.extra.Heartbeat > 0 || h.task.extra.WorkTimeout > 0) {
		if h.extras().WorkTimeout > 0 {
			w.workEnd = w.attempt.started.Add(h.extras().WorkTimeout)
		}
		w.expectBeatLocked(w.attempt.started)
		w.rewatchLocked()
	}
	if p.hooks.started != nil {
		w.noteStartLocked(w.attempt.started.Sub(p.epoch) - h.queuedAt)
	}
}

// noteStartLocked makes the event for the hooks that are told that an attempt starts,
// after wait in the queue. It is made here so that the worker need not lock again.
//
//go:noinline
func (w *worker) noteStartLocked(wait time.Duration) {
	p := w.pool
	w.event = TaskEvent{Pool: p.cfg.name, Task: w.infoLocked(), Context: context.Background(), Wait: wait}
	if w.attempt != nil {
		w.event.Context = w.attempt.ctx
	}
}

// holdSlotLocked gives w a slot for its task.
func (w *worker) holdSlotLocked() {
	p := w.pool
	p.passSlotTimeLocked()
	w.holds, w.less = true, p.sched.lessUrgent(w.urgencyLocked())
	if p.sched.hold(w.less); p.sched.held == p.sched.slots {
		p.watchFullLocked()
	}
	p.crew.engage(+1)
}

// freeSlotLocked takes back w's slot, if it has one.
func (w *worker) freeSlotLocked() {
	if w.holds {
		w.holds = false
		w.pool.passSlotTimeLocked()
		w.pool.sched.release(w.less)
		w.pool.crew.engage(-1)
	}
}

// passSlotTimeLocked is called before the number of slots that are held changes.
func (p *Pool) passSlotTimeLocked() {
	if p.ledger.slots.on {
		p.ledger.slots.pass(time.Since(p.epoch), p.sched.held, p.ledger.total.attempts)
	}
}

// urgencyLocked returns what w's task counts as.
func (w *worker) urgencyLocked() Priority {
	if h := w.job.h; h != nil {
		return h.urgency()
	}
	return w.priority
}

// beginAttemptLocked makes h's next attempt.
func (h *Handle) beginAttemptLocked(w *worker) *attempt {
	a := h.first
	if h.attempts > 1 {
		a = &attempt{ctx: a.ctx, group: a.group, ends: a.ends, terms: a.terms}
	}
	h.attempt = a
	a.h, a.w, a.number, a.started = h, w, h.attempts, time.Now()
	a.pool, a.priority = h.pool, int64(h.urgency())
	return a
}

// main is the worker's goroutine.
func (w *worker) main() {
	var head [64]byte // goroutineID is not used: each stack frame adds to the cost of a death
	goroutine := parseGoroutineID(head[:runtime.Stack(head[:], false)])
	w.register(goroutine)
	w.label()
	w.panicked, w.value, w.site = false, nil, panicSite{}
	quit, goexit := false, true
	defer func() {
		w.unregister(goroutine)
		if !quit {
			w.died(goexit)
		}
	}()
	quit = w.recovered()
	goexit = false // not reached in a Goexit
}

// recovered calls work and reports whether it returned. If work panicked, the fields
// panicked, value and site say how. In a Goexit recovered does not return to its
// caller, even if a deferred function panics on the way. That tells panic(nil) from
// Goexit: under GODEBUG=panicnil=1, recover returns nil for both.
func (w *worker) recovered() (returned bool) {
	if workerReturn.Load() == 0 {
		var caller [1]uintptr
		runtime.Callers(2, caller[:])
		workerReturn.Store(caller[0])
	}
	defer func() {
		if returned {
			return
		}
		if v := recover(); !w.panicked { // otherwise callRecovered has set the fields
			w.value, w.site = v, newPanicSite(w.goroutine.Load())
			w.panicked = v != nil
		}
	}()
	w.work()
	return true
}

// died hands a dead worker to the supervisor. It calls no user code: its replacement
// does what is left to do.
func (w *worker) died(goexit bool) {
	if !w.inUserCode && !goexit {
		panic(w.value) // a bug in this package, not a panic of user code: do not hide it
	}
	if w.inUserCode {
		w.inUserCode = false
		w.err, w.kind = ErrGoexit, attemptGoexit
		if !goexit || w.panicked {
			e := &PanicError{Value: w.value, site: w.site}
			if w.attempt != nil || w.pool.hooks.all || w.pool.hooks.attemptFailed != nil {
				e.complete() // otherwise the log does, if it takes the record
			}
			w.err, w.kind = e, attemptPanic
		}
		w.phase = phaseJudge
	}
	w.value, w.site = nil, panicSite{}
	p := w.pool
	p.lock()
	defer p.unlock()
	w.panicked = !goexit
	if w.gaveUp && w.abandoned {
		w.returnedLateLocked()
		return
	}
	switch {
	case w.gaveUp:
		// It still has its slot and will be replaced. It must not be abandoned
		// meanwhile: its goroutine has ended.
		p.crew.lost = shrunk(slices.DeleteFunc(p.crew.lost, func(l *worker) bool { return l == w }))
	case w.attempt != nil && (w.phase == phaseJudge || w.phase == phaseSettle):
		// It must not be given up because its replacement has not settled it yet.
		w.inTimeLocked()
	}
	if w.phase == phaseJudge && w.attempt == nil && !w.gaveUp {
		// For a function there is no retry policy to ask, so it need not wait for
		// the replacement.
		w.verdict = verdict{state: StateFailed, err: w.err, kind: w.kind}
		w.settleAttemptLocked(&w.verdict, &w.notices)
		w.job, w.phase, w.err, w.verdict.err = entry{}, phaseNotify, nil, nil
		p.restoreLocked()
	}
	w.dead = true
	p.crew.dead = append(p.crew.dead, w)
	p.supervisor.alarmLocked()
}

// work does one step after the other until the worker is no longer needed.
func (w *worker) work() {
	for {
		switch w.phase {
		case phaseSleep:
			w.relabel()
			if <-w.wake; !w.look() {
				return
			}
		case phaseStart:
			w.relabel()
			if w.attempt == nil && !w.pool.hooks.all && !w.timed {
				if !w.runFunctions() {
					return
				}
				continue
			}
			w.phase = phaseBegin
			w.ended = w.endedWaiting()
			fallthrough
		case phaseBegin:
			if a := w.attempt; a != nil {
				if w.ended == nil {
					w.ended = a.begin()
				}
				if w.ended != nil {
					if !w.withdraw() {
						return
					}
					continue
				}
			}
			w.phase = phaseRun
			w.start()
		case phaseRun:
			w.run()
			w.phase = phaseJudge
		case phaseJudge:
			if !w.judge() {
				return
			}
		case phaseSettle:
			if !w.settle() {
				return
			}
		case phaseNotify:
			w.relabel()
			w.deliver()
			w.phase = phaseTake
		case phaseTake:
			lockSoon(&w.pool.mu) // like settle, without taking in arrivals, which may not be needed
			w.pool.endBurstLocked()
			if !w.nextLocked() {
				return
			}
		}
	}
}

// deliver delivers the notices that w has.
func (w *worker) deliver() {
	for len(w.notices) > 0 {
		if r := next(&w.notices); !r.start || w.attempt == nil || !w.tooLate() {
			w.pool.guard.contain("a hook or logger", func() { r.make() })
		}
	}
	w.notices, w.event = w.noticeSpace[:0], TaskEvent{} // event referred to the task
}

// endedWaiting returns why w's task must not start, nil if it may: its group or its
// context may have ended while it waited. The context's AfterFunc may be late, so this
// check decides. It costs nothing for a context that cannot end, and a look at the
// clock for one with a deadline.
func (w *worker) endedWaiting() *ending {
	if w.attempt == nil {
		return nil
	}
	a := w.attempt
	switch x := a.h.expiry; {
	case x != nil && a.number == 1 && !time.Now().Before(x.at):
		return expired // the supervisor is late
	case !a.ends:
		return nil
	}
	e := a.group.end()
	if e == nil {
		e = w.pool.guard.contextEnd(a.ctx)
	}
	if e != nil && e.cause == errReturned {
		w.parent = w.pool.guard.returnedParent(a.ctx)
	}
	return e
}

// start tells hooks that an attempt starts.
func (w *worker) start() {
	w.ran, w.aroundTried, w.err, w.kind = false, false, nil, attemptOK
	if hooks := w.pool.hooks.started; hooks != nil {
		tellOf(&w.notices, hooks, &w.event)
		for i := range w.notices {
			w.notices[i].start = true
		}
		w.deliver()
		w.relabel()
	}
}

// run runs the attempt, inside the Around hooks.
func (w *worker) run() {
	if len(w.notices) > 0 { // the goroutine that called start has died in a hook
		w.deliver()
	}
	if hooks := w.pool.hooks.around; hooks != nil && !w.aroundTried {
		if w.err = w.mayRun(); w.err != nil {
			return
		}
		w.runAround(hooks)
	}
	if !w.ran {
		if w.err = w.mayRun(); w.err == nil {
			w.err = w.call(w.context())
		}
	}
}

// mayRun returns nil if Run may be called. If the attempt was given up, or its context
// ended since it began, it returns the attempt's error.
func (w *worker) mayRun() error {
	a, hooks := w.attempt, &w.pool.hooks
	switch {
	case w.tooLate():
		return errTooLate
	case a == nil:
		return nil
	}
	end := a.end.Load()
	if end == nil && (hooks.started != nil || hooks.around != nil) { // otherwise it has just begun
		if end = a.group.end(); end == nil {
			end = a.ended()
		}
	}
	if end == nil {
		return nil
	}
	a.endContext(end)
	if end.kind == endTimeout {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// errTooLate is what an Around hook gets if it calls run after the attempt was given up.
var errTooLate = errors.New("taskpool: the task was given up before it ran")

// tooLate reports whether a hook, or the Go scheduler, took so long that the attempt
// was given up before Run was called. Then Run must not be called: the task may have
// another attempt under way, or be on Shutdown's list.
func (w *worker) tooLate() bool {
	if a := w.attempt; a != nil && a.signal.Load()&signalEnded == 0 {
		return false
	}
	if hooks := &w.pool.hooks; w.attempt == nil && hooks.started == nil && hooks.around == nil {
		return false
	}
	lockSoon(&w.pool.mu) // arrivals need not be taken in
	defer w.pool.unlock()
	return w.gaveUp
}

// context returns the context that Run is called with.
func (w *worker) context() context.Context {
	if w.attempt == nil {
		return context.Background()
	}
	return w.attempt
}

// call calls the user's function. A panic or Goexit in it ends the goroutine, and died
// handles the rest.
func (w *worker) call(ctx context.Context) (err error) {
	w.ran, w.inUserCode = true, true
	switch a := w.attempt; {
	case a == nil && trace.IsEnabled():
		traceFunction(w.priority, w.job.f)
	case a == nil:
		w.job.f()
	case trace.IsEnabled():
		err = a.traceAttempt(ctx, w.body)
	default:
		err = w.body(ctx)
	}
	w.inUserCode = false
	return err
}

// nextLocked has the worker take the next task with the slot of the last one. If there
// is no task, it gives the slot back and goes to sleep. It unlocks pool.mu, and returns
// false if the worker has nothing more to do.
func (w *worker) nextLocked() bool {
	p := w.pool
	defer p.unlock()
	switch {
	case w.abandoned: // while it delivered notices
		w.returnedLateLocked()
		return false
	case w.guest != nil:
		w.guest.leaveLocked()
		return false
	}
	if w.holds && p.plainLocked() && w.takeNextLocked() {
		w.phase = phaseStart
		return true
	}
	p.takeInLocked()
	w.freeSlotLocked()
	return w.takeOrSleepLocked()
}

// takeOrSleepLocked has a worker without a slot take the task whose turn it is, or go
// to sleep. It returns false if there are too many workers.
func (w *worker) takeOrSleepLocked() bool {
	p := w.pool
	switch {
	case p.crew.size() > p.sched.slots+p.crew.extra: // after Resize
		w.dismissed = true
	case p.crew.withoutTask() >= p.sched.slots: // enough even if all running tasks park
		w.dismissed = true
		p.crew.extra--
	}
	if w.dismissed {
		p.crew.remove(w)
		p.restoreLocked()
		return false
	}
	p.restoreWithLocked(w)
	if w.phase = phaseSleep; w.busy {
		w.phase = phaseStart
	}
	return true
}
