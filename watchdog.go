package taskpool

import (
	"container/heap"
	"math/bits"
	"time"
)

// A watchdog is what the supervisor looks after: tasks that must end in time. Protected by
// Pool.mu.
type watchdog struct {
	watched indexedHeap[*worker] // whose task must end in time, the first due on top
	rounds  rounds               // how late the supervisor comes
}

func (d *watchdog) init() {
	d.watched.less = func(a, b *worker) bool { return a.watch.Before(b.watch) }
	d.watched.moved = func(w *worker, i int) { w.watchI = i }
}

// leave has w, which is watched, be watched no more.
func (d *watchdog) leave(w *worker) {
	d.watched.remove(w.watchI)
	d.watched.items = shrunk(d.watched.items)
}

// Rounds tell the supervisor how much of the time by the clock the program had. A
// task is judged by the clock, and that is wrong if the process was stopped, or if
// other programs had the CPU. Nobody says so, but the supervisor can see how late it
// comes itself. So while a grace or a silence counts it does not sleep to its end,
// but in short waits one after the other, the rounds, and what these take too long
// puts the verdict off. A task that needs fewer wake-ups than there are rounds for
// what is left to do has the time for it, however slow the machine is; one that
// hangs is given up all the same, after as many rounds. There are none while no
// context of a running task has ended and no task has been silent for half its
// Heartbeat.
type rounds struct {
	counting [64]int       // what counts, by the kind of its length; without any there are no rounds
	long     int           // the kind of the shortest of them, 0 if there is none
	next     time.Time     // when the round should be over
	lateness time.Duration // by how much all rounds so far have taken longer
}

const (
	roundsEach = 16               // at least so many in a grace, or half a Heartbeat,
	minRound   = time.Millisecond // if they are not shorter; timers are no finer than that everywhere
	minRounds  = 10               // where these would be fewer there are none
)

// kind returns the kind of what counts for d: its number of bits. It is 0 if d is
// too short for rounds.
func (r *rounds) kind(d time.Duration) int {
	if d < minRounds*minRound {
		return 0
	}
	return bits.Len64(uint64(d))
}

func (r *rounds) every() time.Duration { return max(1<<(r.long-1)/roundsEach, minRound) }

// end takes note that something of that kind counts no longer.
func (r *rounds) end(kind int) {
	if kind == 0 {
		return
	}
	for r.counting[kind]--; r.long > 0 && r.counting[r.long] == 0; {
		r.long = (r.long + 1) % len(r.counting)
	}
}

// tick takes note that the supervisor is at work at now.
func (r *rounds) tick(now time.Time) {
	if r.long > 0 && !now.Before(r.next) {
		r.lateness += now.Sub(r.next)
		r.next = now.Add(r.every())
	}
}

// grant returns what lateness there is beyond what has been granted.
func (r *rounds) grant(granted *time.Duration) time.Duration {
	more := r.lateness - *granted
	*granted = r.lateness
	return more
}

// countLocked says for how long what is counted for w's task is to count, from now
// on; 0: it does not.
func (w *worker) countLocked(d time.Duration) {
	p := w.pool
	if kind := p.watch.rounds.kind(d); kind != w.counting {
		p.watch.beginRound(kind, &p.supervisor)
		p.watch.rounds.end(w.counting)
		w.counting = kind
	}
}

// beginRound begins a round, if those under way are too long for something of that kind
// that counts from now on.
func (d *watchdog) beginRound(kind int, sup *supervisor) {
	if kind == 0 {
		return
	}
	r := &d.rounds
	if r.counting[kind]++; r.long == 0 || kind < r.long {
		r.long = kind
		r.next = time.Now().Add(r.every())
		sup.alarmAtLocked(r.next)
	}
}

// rewatchLocked has the supervisor look after w's task when something may be due:
// one of its timeouts, a sign of life or, once its context has ended, the end of
// the grace. The grace and WorkTimeout count while the task has a slot or works in
// Block, and a sign of life is due only while it has a slot.
func (w *worker) rewatchLocked() {
	p := w.pool
	var at time.Time
	var long time.Duration // for how long the grace or the silence counts
	parked := w.attempt != nil && w.attempt.suspension != nil
	counts := !parked || w.attempt.suspension.working
	switch {
	case w.suspect:
	case w.ending:
		if now := time.Now(); counts && w.graceEnd.IsZero() {
			w.graceEnd, w.granted = now.Add(w.graceLeft), p.watch.rounds.lateness
		} else if !counts && !w.graceEnd.IsZero() {
			w.graceLeft = w.graceEnd.Add(p.watch.rounds.grant(&w.granted)).Sub(now)
			w.graceEnd = time.Time{}
		}
		if at = w.graceEnd; counts {
			long = p.cfg.hangGrace
		}
	default:
		at = w.attempt.deadline
		if w.job.h.task.WorkTimeout > 0 {
			w.countWorkLocked(counts, time.Now())
			if !w.workEnd.IsZero() && (at.IsZero() || w.workEnd.Before(at)) {
				at = w.workEnd
			}
		}
		if beat := w.beatDue; !parked && !w.attempt.exempt && !beat.IsZero() {
			if half := w.job.h.task.Heartbeat / 2; p.watch.rounds.kind(half) == 0 {
				w.half = true // as good as
			} else if !w.half {
				beat = beat.Add(-half)
			} else if w.attempt.signal.Load()&signalBeat != 0 {
				long = half
			}
			if at.IsZero() || beat.Before(at) {
				at = beat
			}
		}
	}
	w.countLocked(long)
	w.watch = at
	switch {
	case at.IsZero():
		if w.watchI >= 0 {
			p.watch.leave(w)
		}
		return
	case w.watchI >= 0:
		heap.Fix(&p.watch.watched, w.watchI)
	default:
		p.watch.watched.add(w)
	}
	p.supervisor.alarmAtLocked(at)
}

// countWorkLocked has the time from now on count for WorkTimeout, or not. What was
// over before it stopped counting stays over.
func (w *worker) countWorkLocked(counts bool, now time.Time) {
	if counts && w.workEnd.IsZero() {
		w.workEnd = now.Add(w.workLeft)
	} else if !counts && now.Before(w.workEnd) {
		w.workLeft, w.workEnd = w.workEnd.Sub(now), time.Time{}
	}
}

// unwatchLocked has the supervisor leave w's task alone.
func (w *worker) unwatchLocked() {
	p := w.pool
	w.ending, w.suspect, w.hung, w.beatDue, w.stack = false, false, nil, time.Time{}, nil
	w.workEnd = time.Time{}
	w.countLocked(0)
	if w.watchI >= 0 {
		p.watch.leave(w)
	}
}

// expectBeatLocked has a task with a Heartbeat give the next sign of life
// between now and one Heartbeat later: Beat and Yield take the signal back.
func (w *worker) expectBeatLocked(now time.Time) {
	if every := w.job.h.task.Heartbeat; every > 0 {
		a := w.attempt
		a.signal.Or(signalBeat)
		if a.beatDue != nil {
			close(a.beatDue)
			a.beatDue = nil
		}
		w.beatDue, w.half = now.Add(every), false
	}
}

// watchEndLocked gives w's task, whose context has ended, the hang grace.
func (w *worker) watchEndLocked() {
	p := w.pool
	if !w.ending {
		w.ending, w.graceEnd, w.graceLeft = true, time.Time{}, p.cfg.hangGrace
		w.rewatchLocked()
	}
}

// endLocked sees to a running or parked attempt whose context has ended: it gets
// the grace and, if parked, goes on. The caller ends the derived context.
func (a *attempt) endLocked(e *ending) {
	p := a.pool
	a.noteEnd(e)
	a.w.watchEndLocked()
	p.sched.hasten(a.h)
}

// expireLocked looks after the task of w, whose watch is over. It reports
// whether the task hangs.
func (w *worker) expireLocked(now time.Time) (hung bool) {
	p := w.pool
	a, late := w.attempt, now.Sub(w.watch)
	if w.counting > 0 {
		late -= p.watch.rounds.grant(&w.granted)
	}
	switch {
	case w.ending && late < 0:
		w.graceEnd = now.Add(-late)
	case w.ending && late > p.cfg.hangGrace/4:
		// This turn comes late: the process was stopped, or starved of CPU.
		// Then so was the task, and it gets that time once more.
		w.graceEnd = now.Add(min(late, p.cfg.hangGrace))
	case w.ending:
		w.suspect, hung = true, true
	case !a.deadline.IsZero() && !now.Before(a.deadline):
		a.endLocked(timedOut) // the derived context has a timer of its own
	case !w.workEnd.IsZero() && !now.Before(w.workEnd):
		a.endLocked(workOver)
		a.endContextSoonLocked(workOver)
	case !w.half: // from here silence counts
		w.half, w.granted = true, p.watch.rounds.lateness
		w.beatDue = w.beatDue.Add(late)
	case a.signal.Load()&signalBeat == 0 || late > w.job.h.task.Heartbeat/4:
		w.expectBeatLocked(now) // it gave a sign of life, or had no time to
	case late < 0:
		w.beatDue = now.Add(-late)
	default:
		a.endLocked(silent)
		a.endContextSoonLocked(silent)
	}
	w.rewatchLocked()
	return hung
}

// endContextSoonLocked has the derived context of a ended on another goroutine, as that
// may call user code.
func (a *attempt) endContextSoonLocked(e *ending) {
	p := a.pool
	if a.derived.Load() == nil {
		return // whoever derives it sees that it has ended
	}
	p.outbox.helpers++
	go func() {
		defer p.discharge(p.enlist())
		a.endContext(e)
	}()
}

// giveUpLocked gives up on tasks that hang. It unlocks p.mu while it looks for
// their stacks, and those whose Run returns, panics or calls Goexit meanwhile have
// made it in time: they are suspect no more.
func (p *Pool) giveUpLocked(hung []*worker) {
	type target struct {
		w         *worker
		goroutine uint64
		job       uint64
	}
	var looked []target // those that hang, and those that may before long
	var goroutines []uint64
	add := func(w *worker) {
		looked = append(looked, target{w, w.goroutine.Load(), w.jobs})
		goroutines = append(goroutines, w.goroutine.Load())
	}
	for _, w := range hung {
		add(w)
	}
	for _, w := range p.watch.watched.items {
		if w.ending {
			add(w)
		}
	}
	p.unlock()
	now := time.Now()
	why := "its stack could not be found"
	var stacks map[uint64][]byte
	if looks.ask(now) {
		stacks = look(goroutines)
		looks.spend(time.Since(now))
	} else {
		why = "its stack was not looked for: that may take 1 % of the time, and many tasks hang"
	}
	if f := p.cfg.givingUp; f != nil {
		f()
	}
	p.lock()
	for _, g := range looked {
		if stack := stacks[g.goroutine]; stack != nil && g.w.ending && g.w.jobs == g.job {
			g.w.stack, g.w.stackAt = stack, now
		}
	}
	var notices []notice
	for i, w := range hung {
		if !w.suspect { // returned meanwhile; only the supervisor makes another task suspect
			continue
		}
		stack := w.stack
		if stack == nil {
			stack = noStack(goroutines[i], why)
		} else if w.stackAt != now {
			stack = earlier(stack, now.Sub(w.stackAt))
		}
		v := w.hungLocked(stack)
		a := w.attempt
		if a != nil && !a.over && a.h.canceled == nil && a.retry.If != nil && a.number < a.retry.MaxAttempts {
			p.outbox.helpers++
			stands := v
			w.hung = &stands
			go w.judgeHung(a, v, a.retry)
			continue
		}
		w.settleHungLocked(&v, &notices)
	}
	p.notifyLocked(notices)
}

// hungLocked returns what becomes of the task of w, which is given up with that
// stack, if there is no retry.
func (w *worker) hungLocked(stack []byte) verdict {
	p := w.pool
	a := w.attempt
	switch {
	case a == nil || !a.over:
		cause := ErrClosed // the only reason there is for a function given to Go
		if a != nil {
			cause = a.end.Load().cause
		}
		return verdict{state: StateFailed, kind: attemptHung, err: &HungError{Stack: stack, cause: cause, grace: p.cfg.hangGrace}}
	case w.succeeded:
		return verdict{state: StateSucceeded}
	default:
		// Run has returned, but Retry.If, Backoff or a method of the context has
		// not, and the task was canceled meanwhile.
		return verdict{state: StateCanceled, kind: attemptError, err: a.h.canceled}
	}
}

// judgeHung asks the policy whether a hung attempt is to be retried, and
// settles it, unless it has returned meanwhile. It runs on a goroutine of its
// own, as it calls user code.
func (w *worker) judgeHung(a *attempt, v verdict, r Retry) {
	p := w.pool
	id := p.enlist()
	defer func() { // also after a Goexit
		defer p.discharge(id)
		p.lock()
		defer p.unlock()
		if !a.over {
			var notices []notice
			w.settleHungLocked(&v, &notices)
			p.notifyLocked(notices)
			p.restoreLocked()
		}
	}()
	v.decideRetry(&p.guard, r, a.number)
}

// settleJudgedLocked settles the task of w if Retry.If is being asked about its
// hang: the task was canceled, and there will be no retry whatever the answer.
func (w *worker) settleJudgedLocked(notices *[]notice) {
	if w.hung != nil {
		v := *w.hung
		w.settleHungLocked(&v, notices)
	}
}

// settleHungLocked settles the task of w as v says, while its goroutine still
// runs it.
func (w *worker) settleHungLocked(v *verdict, notices *[]notice) {
	p := w.pool
	w.settleAttemptLocked(v, notices)
	if a := w.attempt; a != nil { // it may never return to do so itself
		*notices = append(*notices, notice{call: func() { a.finishDerived(returned) }})
	}
	w.gaveUp = true
	if !w.holds || len(p.crew.abandoned) < p.cfg.maxAbandonedOf(p.sched.slots) || p.end.cut != nil {
		w.abandonLocked(notices)
	} else {
		p.crew.lost = append(p.crew.lost, w)
	}
}
