package taskpool

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/taskpool-go/taskpool/internal/backoff"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// A verdict says what becomes of a task after an attempt.
type verdict struct {
	state   State // Succeeded, Failed or Canceled; with retry, the state if there were none
	err     error
	kind    attemptKind
	hung    bool // too long without a Beat
	overdue bool // hung, or its time was over
	log     bool // it succeeded, and the log takes a record of that
	told    bool // somebody gets its error in any case, see answer
	retry   bool
	delay   time.Duration
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

// judge decides what becomes of the task. It returns false if the worker has
// nothing more to do.
func (w *worker) judge() bool {
	w.phase = phaseSettle
	v := &w.verdict
	*v = verdict{state: StateSucceeded}
	a := w.attempt
	if a != nil && w.err == nil {
		a.noteEnd(returned) // from here on derived stays as it is, or ends itself
	}
	// Before user code is called, the worker must be sure that the task has no other
	// attempt by now.
	var retry Retry
	if a != nil && (w.err != nil || a.ends && a.derived.Load() != nil) {
		var inTime bool
		if retry, inTime = w.inTime(); !inTime {
			return w.endGivenUp()
		}
	}
	if w.err != nil {
		if w.kind == attemptOK {
			w.kind = attemptError
		}
		*v = verdict{state: StateFailed, err: w.err, kind: w.kind}
	}
	if a == nil {
		return true
	}
	w.body = nil // free what it refers to
	var end *ending
	if v.kind != attemptOK {
		w.pool.guard.contain("a context's method", func() { end = a.ended() })
	}
	if w.err != nil || a.derived.Load() != nil {
		a.endContext(returned)
	}
	if v.kind == attemptError && end != nil {
		v.err = withReason(end.cause, v.err)
		if end.kind == endCanceled {
			v.state = StateCanceled
		}
		if end.cause == errReturned {
			w.parent = w.pool.guard.returnedParent(a.ctx)
		}
	}
	v.hung = end != nil && end.kind == endSilent
	v.overdue = v.hung || end != nil && end.kind == endTimeout
	if v.state == StateFailed && v.kind != attemptGoexit && int(a.number) < retry.MaxAttempts {
		switch {
		case end == nil || end.kind != endCanceled:
			v.decideRetry(&w.pool.guard, retry, int(a.number))
		case end == cutOff: // it panicked, and a retry might have been granted
			v.state, v.err = StateCanceled, withReason(ErrClosed, v.err)
		}
	}
	v.told = a.terms.answer != answerOnDemand
	if v.kind == attemptOK && a.h.function == nil {
		w.pool.guard.contain("a logger", func() { v.log = w.pool.guard.logs(context.Background(), slog.LevelDebug) })
	}
	return true
}

// decideRetry asks the policy about an attempt that failed. It calls user code, and
// before each call it sets v to the verdict that applies if that call ends the
// goroutine.
func (v *verdict) decideRetry(g *guard, r Retry, attempt int) {
	var permanent *remote.PermanentError
	var after *remote.RetryAfterError
	if !g.contain("an error's Is or As", func() {
		if !errors.As(v.err, &permanent) {
			errors.As(v.err, &after)
		}
	}) || permanent != nil {
		return
	}
	again := !v.hung
	if r.If != nil {
		again = false
		g.contain("Retry.If", func() { again = r.If(v.err) })
	}
	if !again {
		return
	}
	v.retry, v.delay = true, backoff.FullJitter(attempt)
	switch {
	case after != nil:
		v.delay = after.Delay
	case r.Backoff != nil:
		g.contain("Retry.Backoff", func() { v.delay = max(r.Backoff(attempt), 0) })
	}
}

// inTime reports whether the attempt has not been given up. If so, the supervisor no
// longer watches it, and from here the worker alone settles it, by the policy that inTime
// returns: the end of a Shutdown may take that from the task.
func (w *worker) inTime() (r Retry, ok bool) {
	w.pool.lock()
	defer w.pool.unlock()
	if ok = w.inTimeLocked(); ok {
		r = w.attempt.h.extras().Retry
	}
	return r, ok
}

func (w *worker) inTimeLocked() bool {
	if w.gaveUp {
		return false
	}
	w.succeeded = w.err == nil
	if a := w.attempt; a != nil {
		a.over = true
		if !w.workEnd.IsZero() && !time.Now().Before(w.workEnd) { // in case the supervisor is late
			a.noteEnd(workOver)
		}
		if a.suspension != nil {
			a.unparkOverLocked()
			w.pool.restoreLocked() // the slot it asked for is room for a submitter
		}
	}
	switch cut := w.pool.end.cut != nil; {
	case !cut:
		w.unwatchLocked()
	case w.suspect: // it was about to be given up; If and Backoff get a grace of their own
		w.unwatchLocked()
		w.watchEndLocked()
	} // otherwise they get the rest of the grace
	return true
}

// settle carries out the verdict. If there are no notices to deliver, it goes on to the
// next task at once. It returns false if the worker has nothing more to do.
func (w *worker) settle() bool {
	lockSoon(&w.pool.mu)
	return w.settleLocked()
}

func (w *worker) settleLocked() bool {
	p := w.pool
	p.endBurstLocked()
	if w.gaveUp {
		p.unlock()
		return w.endGivenUp()
	}
	h := w.job.h
	alone := p.sched.flowOf(h).unbounded() && // else its place, or its room, may let others go on
		(h == nil || w.verdict.kind == attemptOK && h.waiters.parked == nil && h.rare == nil && w.attempt.group == nil && w.attempt.suspension == nil)
	if !alone {
		p.takeInLocked() // as tasks may join the queue here, behind those that have arrived
	}
	if w.attempt == nil && w.verdict.kind == attemptOK && p.end.cut == nil && !p.hooks.all && !w.timed {
		p.sched.endFunction()
		p.settledLocked(StateSucceeded, w.priority)
		w.busy = false
		w.job = entry{}
		return w.nextLocked()
	}
	w.settleAttemptLocked(&w.verdict, &w.notices)
	w.job, w.attempt, w.err, w.verdict.err = entry{}, nil, nil, nil // free what they refer to
	if p.supervisor.dependencies.any() {
		p.restoreLocked() // others may start now
	}
	if len(w.notices) == 0 {
		return w.nextLocked()
	}
	w.phase = phaseNotify
	if !alone || p.sched.outstanding() == 0 {
		p.takeInLocked()
		p.restoreLocked()
	} // otherwise nothing has changed for others: the slot is still held
	p.unlock()
	return true
}

// endGivenUp ends an attempt that was settled as hung while Run was still at work.
// The result of Run is discarded. It returns false if the worker has nothing more to
// do.
func (w *worker) endGivenUp() bool {
	p := w.pool
	if a := w.attempt; a != nil {
		w.body = nil
		a.endContext(returned)
	}
	p.lock()
	w.job, w.attempt, w.ended, w.parent, w.err, w.verdict.err = entry{}, nil, nil, nil, nil, nil
	if !w.abandoned { // it still has its slot, and becomes a worker like any other
		w.gaveUp = false
		p.crew.lost = shrunk(slices.DeleteFunc(p.crew.lost, func(l *worker) bool { return l == w }))
	}
	return w.nextLocked()
}

// settleAttemptLocked ends the attempt of w with verdict v: the task is settled, or
// waits for its retry. It adds the notices about that.
func (w *worker) settleAttemptLocked(v *verdict, notices *[]notice) {
	p := w.pool
	w.unwatchLocked()
	w.busy = false
	var e *TaskEvent // nil if there are no notices
	if v.kind != attemptOK || v.log || p.hooks.finished != nil {
		e = &w.event
		if notices != &w.notices { // w was given up, and may be telling hooks of w.event
			e = new(TaskEvent)
		}
	}
	started := w.started
	undone := v.kind == attemptHung
	h := w.job.h
	if h == nil {
		w.describeLocked(e, v)
		p.sched.endFunction()
		p.settledLocked(v.state, w.priority)
	} else {
		if h.function == nil {
			started = w.attempt.started
		}
		w.attempt.over = true
		w.attempt.unparkOverLocked()
		h.setLastErr(v.err)
		if cause := h.canceled(); cause != nil {
			// It was canceled too late for judge to see it.
			if v.kind != attemptHung && (v.retry || v.kind == attemptError && v.state == StateFailed) {
				v.state, v.err = StateCanceled, withReason(cause, v.err)
			}
			v.retry = false
		}
		if v.retry && p.ledger.budget != nil && !p.ledger.grantsRetry(&p.sched) {
			p.ledger.total.retriesDenied++
			v.retry, v.err = false, &retryBudgetError{v.err}
			h.setLastErr(v.err)
		}
		undone = undone || v.state == StateCanceled && h.canceled() == ErrClosed
		w.describeLocked(e, v)
		if v.retry { // so e is set: the attempt has failed
			h.retryLocked(v.delay)
			if e.Task.State = h.state; h.state == StateDelayed {
				e.Task.Due = h.due
			}
		} else {
			if notices == &w.notices { // otherwise w's goroutine may be using its fields
				w.findParentLocked(h)
			}
			h.settleLocked(v.state, v.err, notices)
		}
	}
	if w.unfinished != nil && undone {
		p.end.cut.Unfinished = append(p.end.cut.Unfinished, *w.unfinished)
	}
	w.unfinished = nil
	p.ledger.total.attempt(v)
	if e != nil {
		var ctx context.Context
		if w.attempt != nil {
			ctx = w.attempt.ctx
		}
		v.notify(p, ctx, started, e, notices)
	}
}

// describeLocked sets e.Task, unless e is nil, to what is known of w's task as its attempt
// ends with v. It is not inlined, for the reason given at takeHandleLocked.
//
//go:noinline
func (w *worker) describeLocked(e *TaskEvent, v *verdict) {
	switch h := w.job.h; {
	case e == nil:
	case h == nil:
		e.Task = TaskInfo{Pool: w.pool.cfg.name, Priority: w.priority, Urgency: w.priority, Attempt: 1, State: v.state, Worker: w.id, sample: w.sampleOf()}
	default:
		e.Task = h.infoLocked()
		e.Task.State = v.state
		if p := w.pool; p.hooks.timed && h.function == nil {
			e.Wait = w.attempt.started.Sub(p.epoch) - h.queuedAt
		}
	}
}

// retryLocked has h wait for its next attempt.
func (h *Handle) retryLocked(delay time.Duration) {
	p := h.pool
	p.ledger.total.retries++
	p.sched.leaveState(h)
	h.attempt = nil
	if delay == 0 {
		p.enqueueLocked(entry{h: h}, h.priority)
	} else {
		h.delayLocked(time.Now().Add(delay))
	}
}

// settleWaitingLocked settles a task that was just taken out of the queue or from
// the delayed ones, and adds the notices about that.
func (p *Pool) settleWaitingLocked(e entry, pr Priority, s State, err error, notices *[]notice) {
	info := TaskInfo{Pool: p.cfg.name, Priority: pr, Urgency: pr, State: s, sample: p.hooks.unsampled()}
	var waited time.Duration
	ctx := context.Background()
	if h := e.h; h == nil {
		p.sched.endQueued()
		p.settledLocked(s, pr)
	} else {
		if s == StateShed && p.hooks.timed {
			waited = time.Since(p.epoch) - h.queuedAt
		}
		p.sched.notLater(h)
		ctx = eventContext(h.submittedWith())
		h.settleLocked(s, err, notices)
		info = h.infoLocked()
	}
	about := TaskEvent{Pool: p.cfg.name, Task: info, Err: err, Context: ctx, Wait: waited}
	if s == StateShed {
		tell(notices, p.hooks.shed, about)
	}
	tell(notices, p.hooks.finished, about)
}

// settleLocked brings h into a final state. That happens only once.
func (h *Handle) settleLocked(s State, err error, notices *[]notice) {
	p := h.pool
	p.sched.end(h, s)
	p.settledLocked(s, h.priority)
	h.err, h.attempt = err, nil
	if s == StateCanceled {
		h.orphanedLocked(err)
	}
	g := h.group()
	if guest := h.guestOf(); guest != nil && !guest.entered {
		guest.doneLocked()
	}
	if h.rare != nil {
		if l := h.rare.links; l != nil {
			h.unlinkedLocked(l)
		}
		if f, canceled := h.rare.settled, h.rare.canceled; f != nil {
			*notices = append(*notices, notice{call: func() { f(canceled) }})
		}
		*h.rare = rareHandle{lastErr: h.rare.lastErr}
	}
	h.task.Run, h.first = nil, nil // free what they refer to
	if own := h.task.extra; own != nil {
		own.Retry, own.After = Retry{}, nil
	}
	if h.function != nil {
		h.function.f = nil
	}
	h.settled.Store(true)
	h.waiters.wakeLocked()
	if h.watch != nil {
		if forget := p.watches.leave(h); forget != nil {
			*notices = append(*notices, notice{call: forget})
		}
	}
	if g != nil {
		g.leftLocked(h, notices)
		g.settledLocked(err, notices)
	}
}

// withdraw settles w's task, whose attempt must not begin, as if it still waited: the
// attempt does not count. It returns false if the worker has nothing more to do.
func (w *worker) withdraw() bool {
	p, h, cause := w.pool, w.job.h, w.ended.cause
	p.lock()
	if w.gaveUp {
		p.unlock()
		return w.endGivenUp()
	}
	w.unwatchLocked()
	w.busy, w.attempt.over = false, true
	p.sched.undo(h, decision{priority: w.priority, choice: w.choice, restricted: w.restricted})
	p.ledger.total.withdrawn++
	state := StateCanceled
	if c := h.canceled(); c != nil {
		cause = c
	} else if w.ended == expired {
		state = StateShed
		p.ledger.total.expired++
	}
	if u := w.unfinished; u != nil && cause == ErrClosed {
		u.State, u.Attempt = StateQueued, int(h.attempts)
		p.end.cut.Unfinished = append(p.end.cut.Unfinished, *u)
	}
	w.findParentLocked(h)
	p.settleWaitingLocked(entry{h: h}, h.priority, state, cause, &w.notices)
	w.job, w.attempt, w.body, w.ended, w.unfinished, w.event = entry{}, nil, nil, nil, nil, TaskEvent{}
	if p.supervisor.dependencies.any() {
		p.restoreLocked()
	}
	if len(w.notices) == 0 {
		return w.nextLocked()
	}
	w.phase = phaseNotify
	p.restoreLocked()
	p.unlock()
	return true
}

// findParentLocked sets the parent of h, w's task, in case h is an orphan.
func (w *worker) findParentLocked(h *Handle) {
	if w.parent != nil {
		h.setParent(w.parent)
		w.parent = nil
	}
}
