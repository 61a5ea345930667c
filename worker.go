package taskpool

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"runtime/trace"
	"slices"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool/internal/remote"
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
	inRun       bool   // user code of the task is on the stack
	ran         bool   // Run was called
	aroundTried bool   // Around was called
	phase       phase
	ended       *ending  // why the attempt must not begin; nil if it may
	parent      *attempt // of a task that is, or may become, an orphan
	err         error    // what the attempt came to, and how
	kind        attemptKind
	verdict     verdict   // what becomes of the task
	reports     []report  // to be made before the next task
	reportSpace [2]report // for the usual number of reports
	event       TaskEvent // that they are about, made here to be none of the heap's

	// Of a function that hooks are told of, see Pool.timedFunction.
	timed   bool
	draw    uint64    // as in TaskInfo
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

	watch      time.Time     // when it looks after the task; zero: never
	watchI     int           // index in Pool.watched while watch is set
	workEnd    time.Time     // when the task has worked for its WorkTimeout; zero without, and while it does not count
	workLeft   time.Duration // while that does not count: what is left of it
	beatDue    time.Time     // when a sign of life is due; zero without a Heartbeat
	half       bool          // half of the time until then is over
	counting   int           // its silence, or the grace, counts: the kind in Pool.rounds; 0: it does not
	granted    time.Duration // of rounds.lateness: the rest is still to be granted
	ending     bool          // the task's context has ended: the hang grace counts
	graceEnd   time.Time     // with ending: when the grace is over; zero while it does not count
	graceLeft  time.Duration // with ending, while the grace does not count: what is left of it
	suspect    bool          // the grace is over: about to be given up
	glimpse    []byte        // with ending: its stack, if it was looked for,
	glimpsedAt time.Time     // and when
	hung       *verdict      // with suspect, while Retry.If is asked about the hang: what stands without it
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
	phaseReport              // tell hooks and the log
	phaseTake                // give the slot back, take the next task
)

// A verdict is what becomes of a task after an attempt.
type verdict struct {
	state State // Succeeded, Failed or Canceled; with retry what it would be without
	err   error
	kind  attemptKind
	hung  bool // too long without a Beat
	late  bool // its time was over, or it was without a Beat for too long
	log   bool // of a success: the log takes it
	retry bool
	delay time.Duration
}

// An attemptKind is how an attempt ended.
type attemptKind int

const (
	attemptOK attemptKind = iota
	attemptError
	attemptPanic
	attemptGoexit
	attemptHung
)

// sizeLocked returns the number of workers, without those abandoned.
func (p *Pool) sizeLocked() int { return len(p.crew) + p.unhired }

// hireLocked starts one of the workers that were not needed yet, or else one more.
// It sleeps until it is wanted.
func (p *Pool) hireLocked() *worker {
	p.lastID++
	w := &worker{pool: p, wake: make(chan struct{}, 1), id: p.lastID, crewI: len(p.crew), watchI: -1}
	p.crew = append(p.crew, w)
	p.idle = append(p.idle, w)
	if p.unhired > 0 {
		p.unhired--
	}
	p.extra = max(p.extra, p.sizeLocked()-p.slots)
	go w.main()
	return w
}

// assignLocked makes a task that was taken out of the queue the task of w.
func (p *Pool) assignLocked(w *worker, e entry, pr Priority) {
	p.count[Queued]--
	p.count[Running]++
	p.total.attempts++
	p.dispatched.add(pr, 1)
	w.job, w.priority, w.busy = e, pr, true
	if w.timed {
		w.timed, w.started = false, time.Time{}
	}
	w.jobs++
	if e.h != nil {
		p.assignHandleLocked(w, e.h)
	} else if p.hooks.timed {
		w.seen, w.seenAt = w.jobs, time.Now()
	}
}

// assignHandleLocked is what assignLocked has to do for a handle. Like noteStartLocked it
// is not inlined, as it takes more stack than the rest of what workers do: with it they
// outgrow their first stack when they start.
//
//go:noinline
func (p *Pool) assignHandleLocked(w *worker, h *Handle) {
	if h.function {
		w.job = entry{f: h.work.f}
		w.timed, w.draw, w.started = true, h.draw, time.Now()
		if p.hooks.started != nil {
			p.noteStartLocked(w, w.started.Sub(p.epoch)-h.queuedAt)
		}
		if h.laterLocked() {
			p.later--
		}
		h.pool, h.work.f, h.id, h.due = nil, nil, 0, time.Time{}
		functionHandles.Put(h)
		return
	}
	if h.laterLocked() {
		p.later--
		h.due = time.Time{} // it is counted no more, also if it should be withdrawn
	}
	w.attempt = h.beginAttemptLocked(w)
	if h.task.Timeout > 0 || h.task.Heartbeat > 0 || h.task.WorkTimeout > 0 {
		if h.task.WorkTimeout > 0 {
			w.workEnd = w.attempt.started.Add(h.task.WorkTimeout)
		}
		p.expectBeatLocked(w, w.attempt.started)
		p.rewatchLocked(w)
	}
	if p.hooks.started != nil {
		p.noteStartLocked(w, w.attempt.started.Sub(p.epoch)-h.queuedAt)
	}
}

// noteStartLocked makes the event for the hooks that are told that an attempt
// starts, after so long in the queue: here, to spare the worker a turn at the lock.
//
//go:noinline
func (p *Pool) noteStartLocked(w *worker, wait time.Duration) {
	w.event = TaskEvent{Pool: p.cfg.name, Task: w.infoLocked(), Wait: wait}
}

// beginAttemptLocked makes h's next attempt.
func (h *Handle) beginAttemptLocked(w *worker) *attempt {
	a := h.first
	if h.attempts > 0 {
		a = &attempt{ctx: a.ctx}
	}
	h.attempts++
	h.state, h.attempt = Running, a
	a.h, a.w, a.number, a.run, a.started = h, w, h.attempts, h.work.run, time.Now()
	a.pool, a.group, a.priority, a.retry = h.pool, h.work.group, int64(h.task.Priority), h.task.Retry
	if h.task.Timeout > 0 {
		a.deadline = a.started.Add(h.task.Timeout)
	}
	return a
}

// idleLocked returns the number of workers without a task.
func (p *Pool) idleLocked() int {
	n := p.unhired + len(p.idle) + p.coming
	if p.scout != nil {
		n++
	}
	return n
}

// takeIdleLocked takes the idle worker on top, nil if none is asleep. Whoever calls
// it wakes that.
func (p *Pool) takeIdleLocked() *worker {
	if len(p.idle) == 0 {
		p.releaseScoutLocked()
	}
	last := len(p.idle) - 1
	if last < 0 {
		return nil
	}
	w := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return w
}

// summonLocked has one more worker come and look. If none is asleep one is hired:
// where a slot is free and all were hired, some are with parked tasks.
func (p *Pool) summonLocked() {
	coming := p.coming
	w := p.takeIdleLocked()
	if p.coming > coming {
		return // that was the scout, and it was woken already
	}
	if w == nil {
		p.hireLocked()
		w = p.takeIdleLocked()
	}
	p.coming++
	w.wake <- struct{}{}
}

// boundExtraLocked forgets those beyond slots that have become workers like all others,
// as there are more slots, or that were abandoned.
func (p *Pool) boundExtraLocked() { p.extra = min(p.extra, max(p.sizeLocked()-p.slots, 0)) }

// trimLocked lets idle workers go while there are more than most.
func (p *Pool) trimLocked(most int) {
	p.unhired -= min(p.unhired, max(p.sizeLocked()-most, 0))
	for len(p.crew) > most && p.dismissIdleLocked() {
	}
}

// dismissIdleLocked lets the idle worker on top go. It returns false if none is
// asleep: those that come will see for themselves.
func (p *Pool) dismissIdleLocked() bool {
	w := p.takeIdleLocked()
	if w == nil {
		return false
	}
	p.leaveLocked(w)
	w.dismissed = true
	w.wake <- struct{}{}
	return true
}

// leaveLocked removes w from the crew.
func (p *Pool) leaveLocked(w *worker) {
	last := len(p.crew) - 1
	moved := p.crew[last]
	p.crew[w.crewI], moved.crewI = moved, w.crewI
	p.crew[last] = nil
	p.crew, p.idle = shrunk(p.crew[:last]), shrunk(p.idle)
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
	if !w.inRun && !goexit {
		panic(w.value) // not the user's panic but this package's: hide nothing
	}
	if w.inRun {
		w.inRun = false
		w.err, w.kind = ErrGoexit, attemptGoexit
		if !goexit || w.panicked {
			e := &PanicError{Value: w.value, site: w.site}
			if w.attempt != nil || w.pool.hooked || w.pool.hooks.attemptFailed != nil {
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
		p.returnedLateLocked(w)
		return
	}
	switch {
	case w.gaveUp:
		// It is about to have its slot again. Nobody must abandon it until then:
		// its goroutine has ended.
		p.lost = shrunk(slices.DeleteFunc(p.lost, func(l *worker) bool { return l == w }))
	case w.attempt != nil && (w.phase == phaseJudge || w.phase == phaseSettle):
		// That its replacement has yet to say so is no reason to give it up.
		w.inTimeLocked()
	}
	if w.phase == phaseJudge && w.attempt == nil && !w.gaveUp {
		// Nobody is to be asked about a function, so it need not wait for the
		// replacement.
		w.verdict = verdict{state: Failed, err: w.err, kind: w.kind}
		p.settleAttemptLocked(w, &w.verdict, &w.reports)
		w.job, w.phase, w.err, w.verdict.err = entry{}, phaseReport, nil, nil
		p.restoreLocked()
	}
	w.dead = true
	p.dead = append(p.dead, w)
	p.alarmLocked()
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
			if w.attempt == nil && !w.pool.hooked && !w.timed {
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
		case phaseReport:
			w.relabel()
			w.deliver()
			w.phase = phaseTake
		case phaseTake:
			lockSoon(&w.pool.mu) // as settle does: what has arrived is not looked at in vain
			w.pool.endRunLocked()
			if !w.takeLocked() {
				return
			}
		}
	}
}

// deliver makes the reports that w has to make.
func (w *worker) deliver() {
	for len(w.reports) > 0 {
		if r := next(&w.reports); !r.start || w.attempt == nil || !w.tooLate() {
			w.pool.contain("a hook or logger", func() { r.make() })
		}
	}
	w.reports, w.event = w.reportSpace[:0], TaskEvent{} // which refers to the task
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
		e = w.pool.contextEnd(a.ctx)
	}
	if e != nil && e.cause == errReturned {
		w.parent = w.pool.returnedParent(a.ctx)
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
		return w.late()
	}
	p.unwatchLocked(w)
	w.busy, w.attempt.over = false, true
	h.attempts--
	p.total.withdrawn++
	if w.choice {
		p.queue.giveTurnBack(w.restricted)
	}
	p.dispatched.takeBack(w.priority)
	if h.canceled != nil {
		cause = h.canceled
	}
	if u := w.unfinished; u != nil && cause == ErrClosed {
		u.State, u.Attempt = Queued, h.attempts
		p.cut.Unfinished = append(p.cut.Unfinished, *u)
	}
	w.findParentLocked(h)
	p.settleWaitingLocked(entry{h: h}, h.task.Priority, Canceled, cause, &w.reports)
	w.job, w.attempt, w.ended, w.unfinished, w.event = entry{}, nil, nil, nil, TaskEvent{}
	if len(w.reports) == 0 {
		return w.takeLocked()
	}
	w.phase = phaseReport
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
		tellOf(&w.reports, hooks, &w.event)
		for i := range w.reports {
			w.reports[i].start = true
		}
		w.deliver()
		w.relabel()
	}
}

// run makes the attempt, within the hooks that go around it.
func (w *worker) run() {
	if len(w.reports) > 0 { // start's goroutine has died in a hook
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
	w.pool.finish(a, end)
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
	w.ran, w.inRun = true, true
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
	w.inRun = false
	return err
}

// runAround calls run within hooks, the first outermost.
func (w *worker) runAround(hooks []func(context.Context, TaskInfo, func(context.Context) error) error) {
	w.aroundTried = true // to a replacement: do not try again
	w.pool.lock()
	info := w.infoLocked()
	w.pool.unlock()
	run := func(ctx context.Context) error {
		switch {
		case w.ran:
			return errors.New("taskpool: hook Around called run a second time")
		case ctx == nil:
			return errors.New("taskpool: hook Around called run with a nil context")
		}
		if w.err = w.mayRun(); w.err == nil {
			w.err = w.callRecovered(ctx)
		}
		w.ran = true
		return w.err
	}
	for i := len(hooks) - 1; i >= 0; i-- {
		hook, next := hooks[i], run
		run = func(ctx context.Context) error { return hook(ctx, info, next) }
	}
	var err error
	if !w.containAround(func() { err = run(w.context()) }) {
		return
	}
	switch {
	case w.kind == attemptPanic: // stands
	case !w.ran && err == nil:
		w.ran, w.err = true, errNotRun
	default:
		w.ran, w.err = true, err
	}
}

// containAround is Pool.contain for hooks that go around Run, whose own Goexit is
// not to be logged as theirs.
func (w *worker) containAround(f func()) (ok bool) {
	defer func() {
		if ok {
			return
		}
		if v := recover(); v != nil || !w.inRun {
			w.pool.logContained("hook Around", v)
		}
	}()
	f()
	return true
}

// callRecovered is call for the hooks that go around it: these see a panic as
// an error.
func (w *worker) callRecovered(ctx context.Context) (err error) {
	normal := false
	func() {
		defer func() {
			if !normal {
				w.value, w.site = recover(), newPanicSite(w.goroutine.Load())
				w.panicked = w.value != nil
			}
		}()
		err = w.call(ctx)
		normal = true
	}()
	if !normal { // a Goexit does not come here; died sees to it
		w.inRun, w.kind = false, attemptPanic
		err = (&PanicError{Value: w.value, site: w.site}).complete()
		w.panicked, w.value, w.site = false, nil, panicSite{}
	}
	return err
}

// judge decides what becomes of the task. It returns false if the worker has
// nothing more to do.
func (w *worker) judge() bool {
	w.phase = phaseSettle
	v := &w.verdict
	*v = verdict{state: Succeeded}
	a := w.attempt
	if a != nil && w.err == nil {
		a.noteEnd(returned) // from here on derived stays as it is, or ends itself
	}
	// Before user code is called it must be sure that the task has no other attempt by
	// now.
	if a != nil && (w.err != nil || a.h.ends && a.derived.Load() != nil) && !w.inTime() {
		return w.late()
	}
	if w.err != nil {
		if w.kind == attemptOK {
			w.kind = attemptError
		}
		*v = verdict{state: Failed, err: w.err, kind: w.kind}
	}
	if a == nil {
		return true
	}
	a.run = nil // let go of what it refers to; retry is still needed
	var end *ending
	if v.kind != attemptOK {
		w.pool.contain("a context's method", func() { end = a.ended() })
	}
	if w.err != nil || a.derived.Load() != nil {
		w.pool.finish(a, returned)
	}
	if v.kind == attemptError && end != nil {
		v.err = withReason(end.cause, v.err)
		if end.kind == endCanceled {
			v.state = Canceled
		}
		if end.cause == errReturned {
			w.parent = w.pool.returnedParent(a.ctx)
		}
	}
	v.hung = end != nil && end.kind == endSilent
	v.late = v.hung || end != nil && end.kind == endTimeout
	if v.state == Failed && v.kind != attemptGoexit && a.number < a.retry.MaxAttempts {
		switch {
		case end == nil || end.kind != endCanceled:
			w.pool.decideRetry(v, a.retry, a.number)
		case end == cutOff: // it panicked, and might have been retried
			v.state, v.err = Canceled, withReason(ErrClosed, v.err)
		}
	}
	if v.kind == attemptOK && !a.h.function {
		w.pool.contain("a logger", func() { v.log = w.pool.logs(slog.LevelDebug) })
	}
	return true
}

// decideRetry asks the policy about an attempt that failed. It calls user code;
// v is at every such moment what stands if that kills the goroutine.
func (p *Pool) decideRetry(v *verdict, r Retry, attempt int) {
	var permanent *remote.PermanentError
	var after *remote.RetryAfterError
	if !p.contain("an error's Is or As", func() {
		if !errors.As(v.err, &permanent) {
			errors.As(v.err, &after)
		}
	}) || permanent != nil {
		return
	}
	again := !v.hung
	if r.If != nil {
		again = false
		p.contain("Retry.If", func() { again = r.If(v.err) })
	}
	if !again {
		return
	}
	v.retry, v.delay = true, defaultBackoff(attempt)
	switch {
	case after != nil:
		v.delay = after.Delay
	case r.Backoff != nil:
		p.contain("Retry.Backoff", func() { v.delay = max(r.Backoff(attempt), 0) })
	}
}

// inTime takes the attempt out of the supervisor's hands and reports whether it
// was still in them. From here the worker alone settles it.
func (w *worker) inTime() bool {
	w.pool.lock()
	defer w.pool.unlock()
	return w.inTimeLocked()
}

func (w *worker) inTimeLocked() bool {
	if w.gaveUp {
		return false
	}
	w.succeeded = w.err == nil
	if a := w.attempt; a != nil {
		a.over = true
		if !w.workEnd.IsZero() && !time.Now().Before(w.workEnd) { // the supervisor may be late
			a.noteEnd(workOver)
		}
		if a.parking != nil {
			w.pool.unparkOverLocked(a)
			w.pool.restoreLocked() // the slot it asked for is room at the door
		}
	}
	switch cut := w.pool.cut != nil; {
	case !cut:
		w.pool.unwatchLocked(w)
	case w.suspect: // about to be given up; now If and Backoff have the grace
		w.pool.unwatchLocked(w)
		w.pool.watchEndLocked(w)
	} // else they have what is left of it
	return true
}

// settle makes the verdict so. If there is nothing to report it goes on to the
// next task at once. It returns false if the worker has nothing more to do.
func (w *worker) settle() bool {
	lockSoon(&w.pool.mu)
	return w.settleLocked()
}

func (w *worker) settleLocked() bool {
	p := w.pool
	p.endRunLocked()
	if w.gaveUp {
		p.unlock()
		return w.late()
	}
	h := w.job.h
	alone := h == nil || w.verdict.kind == attemptOK && len(h.waiters.parked) == 0 && h.work.group == nil && w.attempt.parking == nil
	if !alone {
		p.takeInLocked() // as others may join the queue
	}
	if w.attempt == nil && w.verdict.kind == attemptOK && p.cut == nil && !p.hooked && !w.timed {
		p.count[Running]--
		p.total.succeeded++
		w.busy = false
		w.job = entry{}
		return w.takeLocked()
	}
	p.settleAttemptLocked(w, &w.verdict, &w.reports)
	if w.attempt != nil {
		w.attempt.retry = Retry{}
	}
	w.job, w.attempt, w.err, w.verdict.err = entry{}, nil, nil, nil // let go of what they refer to
	if len(w.reports) == 0 {
		return w.takeLocked()
	}
	w.phase = phaseReport
	if !alone || p.outstandingLocked() == 0 {
		p.takeInLocked()
		p.restoreLocked()
	} // else nothing has changed for others: the slot is still held
	p.unlock()
	return true
}

// takeLocked has the worker take the next task with the slot of the last one. For
// lack of one it gives the slot back and goes to sleep. It unlocks pool.mu, and
// returns false if the worker has nothing more to do.
func (w *worker) takeLocked() bool {
	p := w.pool
	defer p.unlock()
	if w.abandoned { // while it reported
		p.returnedLateLocked(w)
		return false
	}
	if w.holds && p.plainLocked() && p.takeNextLocked(w) {
		w.phase = phaseStart
		return true
	}
	p.takeInLocked()
	p.freeSlotLocked(w)
	return w.takeOrSleepLocked()
}

// takeOrSleepLocked has a worker without a slot take the task whose turn it is, or
// go to sleep. It returns false if the worker is one too many.
func (w *worker) takeOrSleepLocked() bool {
	p := w.pool
	switch {
	case p.sizeLocked() > p.slots+p.extra: // after Resize
		w.dismissed = true
	case p.idleLocked() >= p.slots: // enough for what may be parked next
		w.dismissed = true
		p.extra--
	}
	if w.dismissed {
		p.leaveLocked(w)
		p.restoreLocked()
		return false
	}
	p.restoreWithLocked(w)
	if w.phase = phaseSleep; w.busy {
		w.phase = phaseStart
	}
	return true
}

// late ends an attempt that was settled as hung while Run was still at work.
// What Run came to is discarded. It returns false if the worker has nothing more
// to do.
func (w *worker) late() bool {
	p := w.pool
	if a := w.attempt; a != nil {
		a.run, a.retry = nil, Retry{}
		p.finish(a, returned)
	}
	p.lock()
	w.job, w.attempt, w.ended, w.parent, w.err, w.verdict.err = entry{}, nil, nil, nil, nil, nil
	if !w.abandoned { // it still has its slot, and is a worker like any other
		w.gaveUp = false
		p.lost = shrunk(slices.DeleteFunc(p.lost, func(l *worker) bool { return l == w }))
	}
	return w.takeLocked()
}

// settleAttemptLocked ends the attempt of w with verdict v: the task is settled,
// or waits for its retry. It adds what is to be reported.
func (p *Pool) settleAttemptLocked(w *worker, v *verdict, reports *[]report) {
	p.unwatchLocked(w)
	w.busy = false
	told := v.kind != attemptOK || v.log || p.hooks.finished != nil // somebody may have to be
	var info TaskInfo
	started := w.started
	undone := v.kind == attemptHung
	h := w.job.h
	if h == nil {
		if told {
			info = TaskInfo{Priority: w.priority, Attempt: 1, State: v.state, Worker: w.id, draw: w.lot()}
		}
		p.count[Running]--
		p.total.settled(v.state)
	} else {
		if !h.function {
			started = w.attempt.started
		}
		w.attempt.over = true
		p.unparkOverLocked(w.attempt)
		h.lastErr = v.err
		if h.canceled != nil {
			// Canceled too late for judge to see.
			if v.kind != attemptHung && (v.retry || v.kind == attemptError && v.state == Failed) {
				v.state, v.err = Canceled, withReason(h.canceled, v.err)
			}
			v.retry = false
		}
		undone = undone || v.state == Canceled && h.canceled == ErrClosed
		if told {
			info = h.infoLocked()
			info.State = v.state
		}
		if v.retry {
			p.retryLocked(h, v.delay)
			if info.State = h.state; h.state == Delayed {
				info.Due = h.due
			}
		} else {
			if reports == &w.reports { // else w is not at rest
				w.findParentLocked(h)
			}
			p.settleLocked(h, v.state, v.err, reports)
		}
	}
	if w.unfinished != nil && undone {
		p.cut.Unfinished = append(p.cut.Unfinished, *w.unfinished)
	}
	w.unfinished = nil
	p.total.attempt(v)
	if told {
		e := &w.event
		if reports != &w.reports { // w, which was given up, may be telling hooks of it
			e = new(TaskEvent)
		}
		p.reportAttempt(v, info, started, e, reports)
	}
}

// retryLocked lets h wait for its next attempt.
func (p *Pool) retryLocked(h *Handle, delay time.Duration) {
	p.total.retries++
	p.count[h.state]--
	h.attempt = nil
	if delay == 0 {
		p.enqueueLocked(entry{h: h}, h.task.Priority)
	} else {
		p.delayLocked(h, time.Now().Add(delay))
	}
}
