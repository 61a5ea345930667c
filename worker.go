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
// another, which goes on where the dead one stopped: phase says where. So
// whatever user code does, every step of an attempt is made once.
type worker struct {
	pool *Pool

	// The fields below belong to the worker's goroutine, but for jobs. What each function
	// needs comes first, to be in one cache line.

	job         entry // f, or h and its attempt
	attempt     *attempt
	priority    Priority
	jobs        uint64 // how many tasks it was given; protected by pool.mu
	inUserCode  bool   // user code of the task is on the stack
	ran         bool   // Run was called
	aroundTried bool   // Around was called
	phase       phase
	ended       *ending  // why the attempt must not begin; nil if it may
	parent      *attempt // of a task that is, or may become, an orphan
	err         error    // what the attempt came to, and how
	kind        attemptKind
	verdict     verdict   // what becomes of the task
	notices     []notice  // to be made before the next task
	noticeSpace [2]notice // for the usual number of notices
	event       TaskEvent // that they are about, made here to be none of the heap's

	// Of a function that hooks are told of, see Pool.timedFunction.
	timed   bool
	sample  uint64    // as in TaskInfo
	started time.Time // zero unless timed

	// How the goroutine died.
	panicked bool
	value    any
	site     panicSite

	wake chan struct{} // wakes it to look, or to end if it is dismissed; buffered, so that sending never waits

	// goroutine is the number of the worker's goroutine, as in stack dumps. It is
	// set before that calls user code; 0 until then.
	goroutine atomic.Uint64

	// labels are those of the goroutine in profiles.
	labels atomic.Pointer[workerLabels]

	// The fields below are protected by pool.mu.

	id         int
	crewI      int         // index in Pool.crew
	dismissed  bool        // to end, as it is one too many or the pool is drained
	busy       bool        // has a task that has not settled
	seen       uint64      // jobs when somebody last looked,
	seenAt     time.Time   // and when it was first seen to be at that job
	holds      bool        // has a slot
	choice     bool        // its task was one of several lanes,
	restricted bool        // and of reserved priorities only
	succeeded  bool        // with attempt.over: Run returned nil
	gaveUp     bool        // its task was settled as hung; it has no say in it any more
	dead       bool        // its goroutine has ended, and the supervisor is to start another: it is in Pool.dead and in the crew
	abandoned  bool        // with gaveUp: it has no slot either
	unfinished *Unfinished // the task as it was when Shutdown was cut short

	// What the supervisor watches; see rewatchLocked.

	watch     time.Time     // when it looks after the task; zero: never
	watchI    int           // index in Pool.watched while watch is set
	workEnd   time.Time     // when the task has worked for its WorkTimeout; zero without, and while it does not count
	workLeft  time.Duration // while that does not count: what is left of it
	beatDue   time.Time     // when a sign of life is due; zero without a Heartbeat
	half      bool          // half of the time until then is over
	counting  int           // its silence, or the grace, counts: the kind in Pool.rounds; 0: it does not
	granted   time.Duration // of rounds.lateness: the rest is still to be granted
	ending    bool          // the task's context has ended: the hang grace counts
	graceEnd  time.Time     // with ending: when the grace is over; zero while it does not count
	graceLeft time.Duration // with ending, while the grace does not count: what is left of it
	suspect   bool          // the grace is over: about to be given up
	stack     []byte        // with ending: its stack, if it was looked for,
	stackAt   time.Time     // and when
	hung      *verdict      // with suspect, while Retry.If is asked about the hang: what stands without it
}

// A phase is the next step of a worker. It is set before user code is called
// that belongs to the step before.
type phase int

const (
	phaseSleep  phase = iota // wait to be woken, and look for a task
	phaseStart               // look whether the attempt may begin
	phaseBegin               // begin it and tell hooks so, or withdraw the task
	phaseRun                 // call Run
	phaseJudge               // decide what becomes of the task
	phaseSettle              // and make it so
	phaseNotify              // tell hooks and the log
	phaseTake                // give the slot back, take the next task
)

// takeLocked makes a task that was taken out of the queue the task of w.
func (w *worker) takeLocked(t turn) {
	p := w.pool
	p.ledger.total.attempts++
	w.job, w.priority, w.busy = t.entry, t.priority, true
	w.choice, w.restricted = t.choice, t.restricted
	if w.timed {
		w.timed, w.started = false, time.Time{}
	}
	w.jobs++
	if t.h != nil {
		w.takeHandleLocked(t.h)
	} else if p.hooks.timed {
		w.seen, w.seenAt = w.jobs, time.Now()
	}
}

// takeHandleLocked is what takeLocked has to do for a handle. Like noteStartLocked it
// is not inlined, as it takes more stack than the rest of what workers do: with it they
// outgrow their first stack when they start.
//
//go:noinline
func (w *worker) takeHandleLocked(h *Handle) {
	p := w.pool
	if h.function {
		w.job = entry{f: h.work.f}
		w.timed, w.sample, w.started = true, h.sample, time.Now()
		if p.hooks.started != nil {
			w.noteStartLocked(w.started.Sub(p.epoch) - h.queuedAt)
		}
		if h.self == nil { // nobody else knows it
			h.pool, h.work.f, h.id, h.item = nil, nil, 0, item{}
			functionHandles.Put(h)
		}
		return
	}
	w.attempt = h.beginAttemptLocked(w)
	if h.task.Timeout > 0 || h.task.Heartbeat > 0 || h.task.WorkTimeout > 0 {
		if h.task.WorkTimeout > 0 {
			w.workEnd = w.attempt.started.Add(h.task.WorkTimeout)
		}
		w.expectBeatLocked(w.attempt.started)
		w.rewatchLocked()
	}
	if p.hooks.started != nil {
		w.noteStartLocked(w.attempt.started.Sub(p.epoch) - h.queuedAt)
	}
}

// noteStartLocked makes the event for the hooks that are told that an attempt
// starts, after so long in the queue: here, to spare the worker a turn at the lock.
//
//go:noinline
func (w *worker) noteStartLocked(wait time.Duration) {
	p := w.pool
	w.event = TaskEvent{Pool: p.cfg.name, Task: w.infoLocked(), Wait: wait}
}

// holdSlotLocked gives w a slot for its task.
func (w *worker) holdSlotLocked() {
	p := w.pool
	w.holds = true
	if p.sched.hold(w.priority); p.sched.held == p.sched.slots {
		p.watchFullLocked()
	}
	p.crew.engage(+1)
}

// freeSlotLocked takes w's slot, if it has one.
func (w *worker) freeSlotLocked() {
	if w.holds {
		w.holds = false
		w.pool.sched.release(w.priority)
		w.pool.crew.engage(-1)
	}
}

// beginAttemptLocked makes h's next attempt.
func (h *Handle) beginAttemptLocked(w *worker) *attempt {
	a := h.first
	if h.attempts > 1 {
		a = &attempt{ctx: a.ctx}
	}
	h.attempt = a
	a.h, a.w, a.number, a.run, a.started = h, w, h.attempts, h.work.run, time.Now()
	a.pool, a.group, a.priority, a.retry = h.pool, h.work.group, int64(h.priority), h.task.Retry
	if h.task.Timeout > 0 {
		a.deadline = a.started.Add(h.task.Timeout)
	}
	return a
}

// main is the worker's goroutine.
func (w *worker) main() {
	var head [64]byte // not by goroutineID: each frame on the stack adds to what a death costs
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
	goexit = false // a Goexit does not come here
}

// recovered calls work and reports whether it returned. If it panicked, the
// fields say how. In a Goexit it does not return to its caller, even if a
// deferred function panics on the way: that tells panic(nil) from Goexit, for
// which recover returns nil alike under GODEBUG=panicnil=1.
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
		if v := recover(); !w.panicked { // else callRecovered was here before
			w.value, w.site = v, newPanicSite(w.goroutine.Load())
			w.panicked = v != nil
		}
	}()
	w.work()
	return true
}

// died hands a dead worker to the supervisor. It calls no user code: what is
// left to do, its replacement does.
func (w *worker) died(goexit bool) {
	if !w.inUserCode && !goexit {
		panic(w.value) // not the user's panic but this package's: hide nothing
	}
	if w.inUserCode {
		w.inUserCode = false
		w.err, w.kind = ErrGoexit, attemptGoexit
		if !goexit || w.panicked {
			e := &PanicError{Value: w.value, site: w.site}
			if w.attempt != nil || w.pool.hooks.all || w.pool.hooks.attemptFailed != nil {
				e.complete() // else the log will, if it is interested
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
		// It is about to have its slot again. Nobody must abandon it until then:
		// its goroutine has ended.
		p.crew.lost = shrunk(slices.DeleteFunc(p.crew.lost, func(l *worker) bool { return l == w }))
	case w.attempt != nil && (w.phase == phaseJudge || w.phase == phaseSettle):
		// That its replacement has yet to say so is no reason to give it up.
		w.inTimeLocked()
	}
	if w.phase == phaseJudge && w.attempt == nil && !w.gaveUp {
		// Nobody is to be asked about a function, so it need not wait for the
		// replacement.
		w.verdict = verdict{state: StateFailed, err: w.err, kind: w.kind}
		w.settleAttemptLocked(&w.verdict, &w.notices)
		w.job, w.phase, w.err, w.verdict.err = entry{}, phaseNotify, nil, nil
		p.restoreLocked()
	}
	w.dead = true
	p.crew.dead = append(p.crew.dead, w)
	p.supervisor.alarmLocked()
}

// work makes step after step until the worker is no longer needed.
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
			lockSoon(&w.pool.mu) // as settle does: what has arrived is not looked at in vain
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
	w.notices, w.event = w.noticeSpace[:0], TaskEvent{} // which refers to the task
}

// endedWaiting returns why w's task must not start, as what it belongs to ended
// while it waited; nil if it may. The context's AfterFunc may be late, so this is
// where it counts. A context that cannot end costs nothing here, and one with a
// deadline a look at the clock.
func (w *worker) endedWaiting() *ending {
	if w.attempt == nil {
		return nil
	}
	a := w.attempt
	if !a.h.ends {
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

// withdraw settles w's task, whose attempt does not begin, as if it still waited:
// this attempt was none. It returns false if the worker has nothing more to do.
func (w *worker) withdraw() bool {
	p, h, cause := w.pool, w.job.h, w.ended.cause
	p.lock()
	if w.gaveUp {
		p.unlock()
		return w.endGivenUp()
	}
	w.unwatchLocked()
	w.busy, w.attempt.over = false, true
	p.sched.undo(h, w.priority, w.choice, w.restricted)
	p.ledger.total.withdrawn++
	if h.canceled != nil {
		cause = h.canceled
	}
	if u := w.unfinished; u != nil && cause == ErrClosed {
		u.State, u.Attempt = StateQueued, h.attempts
		p.end.cut.Unfinished = append(p.end.cut.Unfinished, *u)
	}
	w.findParentLocked(h)
	p.settleWaitingLocked(entry{h: h}, h.priority, StateCanceled, cause, &w.notices)
	w.job, w.attempt, w.ended, w.unfinished, w.event = entry{}, nil, nil, nil, TaskEvent{}
	if len(w.notices) == 0 {
		return w.nextLocked()
	}
	w.phase = phaseNotify
	p.restoreLocked()
	p.unlock()
	return true
}

// findParentLocked notes the parent of h, w's task, in case it is an orphan.
func (w *worker) findParentLocked(h *Handle) {
	if w.parent != nil {
		h.parent, w.parent = w.parent, nil
	}
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

// run makes the attempt, within the hooks that go around it.
func (w *worker) run() {
	if len(w.notices) > 0 { // start's goroutine has died in a hook
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

// mayRun returns nil if Run may be called, else what the attempt comes to without:
// it was given up, or its context ended since it began.
func (w *worker) mayRun() error {
	a, hooks := w.attempt, &w.pool.hooks
	switch {
	case w.tooLate():
		return errTooLate
	case a == nil:
		return nil
	}
	end := a.end.Load()
	if end == nil && (hooks.started != nil || hooks.around != nil) { // else it began just now
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

// errTooLate is what run returns to a hook that calls it after the attempt was
// given up.
var errTooLate = errors.New("taskpool: the task was given up before it ran")

// tooLate reports whether a hook, or the Go scheduler, took so long that the
// attempt was given up before Run was called. Then Run must not be called any more:
// the task may have another attempt under way, or be on Shutdown's list.
func (w *worker) tooLate() bool {
	if a := w.attempt; a != nil && a.signal.Load()&signalEnded == 0 {
		return false
	}
	if hooks := &w.pool.hooks; w.attempt == nil && hooks.started == nil && hooks.around == nil {
		return false
	}
	lockSoon(&w.pool.mu) // without a look at what has arrived
	defer w.pool.unlock()
	return w.gaveUp
}

// context returns what Run is called with.
func (w *worker) context() context.Context {
	if w.attempt == nil {
		return context.Background()
	}
	return w.attempt
}

// call calls the user's function. A panic or Goexit in it ends the goroutine,
// and died sees to the rest.
func (w *worker) call(ctx context.Context) (err error) {
	w.ran, w.inUserCode = true, true
	switch a := w.attempt; {
	case a == nil && trace.IsEnabled():
		traceFunction(w.priority, w.job.f)
	case a == nil:
		w.job.f()
	case trace.IsEnabled():
		err = a.traceAttempt(ctx, a.run)
	default:
		err = a.run(ctx)
	}
	w.inUserCode = false
	return err
}

// nextLocked has the worker take the next task with the slot of the last one. For
// lack of one it gives the slot back and goes to sleep. It unlocks pool.mu, and
// returns false if the worker has nothing more to do.
func (w *worker) nextLocked() bool {
	p := w.pool
	defer p.unlock()
	if w.abandoned { // while it reported
		w.returnedLateLocked()
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

// takeOrSleepLocked has a worker without a slot take the task whose turn it is, or
// go to sleep. It returns false if the worker is one too many.
func (w *worker) takeOrSleepLocked() bool {
	p := w.pool
	switch {
	case p.crew.size() > p.sched.slots+p.crew.extra: // after Resize
		w.dismissed = true
	case p.crew.withoutTask() >= p.sched.slots: // enough for what may be parked next
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
