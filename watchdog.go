package taskpool

import (
	"container/heap"
	"math/bits"
	"time"
)

// A watchdog holds the tasks that the supervisor watches, as they must end in time.
// Protected by Pool.mu.
type watchdog struct {
	watched indexedHeap[*worker] // workers whose task must end in time, the first due on top
	rounds  rounds               // how late the supervisor runs
}

func (d *watchdog) init() {
	d.watched.less = func(a, b *worker) bool { return a.watch.Before(b.watch) }
	d.watched.moved = func(w *worker, i int) { w.watchI = i }
}

// leave removes w, which is watched, from those watched.
func (d *watchdog) leave(w *worker) {
	d.watched.remove(w.watchI)
	d.watched.items = shrunk(d.watched.items)
}

// Rounds tell the supervisor how much of the elapsed time the program could run. A
// task is judged by the clock, and that is wrong if the process was stopped, or if
// other programs had the CPU. The system does not report that, but the supervisor can
// see how late it wakes up itself. So while a grace or a silence counts, it does not
// sleep to the end of it but in short waits one after the other, the rounds, and the
// time by which these take too long postpones the verdict. A task that needs fewer
// wake-ups than there are rounds to do what is left has the time for it, however slow
// the machine is. One that hangs is still given up, after as many rounds. There are no
// rounds while no context of a running task has ended and no task has been silent for
// half its Heartbeat.
type rounds struct {
	counting [64]int       // how many graces and silences count, by kind; without any, no rounds
	long     int           // the kind of the shortest that counts, 0 if there is none
	next     time.Time     // when the round should be over
	lateness time.Duration // by how much all rounds so far have taken too long
}

const (
	roundsEach = 16               // rounds in a grace or half a Heartbeat, at least, if minRound allows
	minRound   = time.Millisecond // the shortest round: not all systems have finer timers
	minRounds  = 10               // a time too short for that many rounds has none
)

// kind returns the kind of a grace or silence that counts for d: the number of bits of
// d, or 0 if d is too short for rounds.
func (r *rounds) kind(d time.Duration) int {
	if d < minRounds*minRound {
		return 0
	}
	return bits.Len64(uint64(d))
}

func (r *rounds) every() time.Duration { return max(1<<(r.long-1)/roundsEach, minRound) }

// end records that a grace or silence of that kind no longer counts.
func (r *rounds) end(kind int) {
	if kind == 0 {
		return
	}
	for r.counting[kind]--; r.long > 0 && r.counting[r.long] == 0; {
		r.long = (r.long + 1) % len(r.counting)
	}
}

// tick records that the supervisor runs at now.
func (r *rounds) tick(now time.Time) {
	if r.long > 0 && !now.Before(r.next) {
		r.lateness += now.Sub(r.next)
		r.next = now.Add(r.every())
	}
}

// grant returns how much lateness there is beyond *granted, and adds that to it.
func (r *rounds) grant(granted *time.Duration) time.Duration {
	more := r.lateness - *granted
	*granted = r.lateness
	return more
}

// countLocked sets the length of the grace or silence that counts for w's task from now
// on; 0 means that none does.
func (w *worker) countLocked(d time.Duration) {
	p := w.pool
	if kind := p.watch.rounds.kind(d); kind != w.counting {
		p.watch.beginRound(kind, &p.supervisor)
		p.watch.rounds.end(w.counting)
		w.counting = kind
	}
}

// beginRound records that a grace or silence of that kind counts from now on. If it needs
// shorter rounds than there are, it begins one.
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

// rewatchLocked has the supervisor check w's task when something may be due: one of
// its timeouts, a sign of life or, once its context has ended, the end of the grace.
// The grace and WorkTimeout count while the task has a slot or works in Block, and a
// sign of life is due only while it has a slot.
func (w *worker) rewatchLocked() {
	p := w.pool
	var at time.Time
	var long time.Duration // the length of the grace or silence that counts
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
		at = w.attempt.timeoutEnd()
		if w.job.h.extras().WorkTimeout > 0 {
			w.countWorkLocked(counts, time.Now())
			if !w.workEnd.IsZero() && (at.IsZero() || w.workEnd.Before(at)) {
				at = w.workEnd
			}
		}
		if beat := w.beatDue; !parked && !w.attempt.exempt && !beat.IsZero() {
			if half := w.job.h.extras().Heartbeat / 2; p.watch.rounds.kind(half) == 0 {
				w.half = true // without rounds, the first half needs no separate look
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

// countWorkLocked sets whether the time from now on counts for WorkTimeout. A
// WorkTimeout that is already over stays over.
func (w *worker) countWorkLocked(counts bool, now time.Time) {
	if counts && w.workEnd.IsZero() {
		w.workEnd = now.Add(w.workLeft)
	} else if !counts && now.Before(w.workEnd) {
		w.workLeft, w.workEnd = w.workEnd.Sub(now), time.Time{}
	}
}

// unwatchLocked has the supervisor stop watching w's task.
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
	if every := w.job.h.extras().Heartbeat; every > 0 {
		a := w.attempt
		a.signal.Or(signalBeat)
		if r := a.rare; r != nil && r.beatDue != nil {
			close(r.beatDue)
			r.beatDue = nil
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

// endLocked handles the end of the context of a running or parked attempt. The attempt
// gets the grace and, if it asks for a slot, goes first. The caller ends the derived
// context.
func (a *attempt) endLocked(e *ending) {
	p := a.pool
	a.noteEnd(e)
	a.w.watchEndLocked()
	p.sched.hasten(a.h)
}

// expireLocked checks the task of w, whose watch time has come. It reports whether
// the task hangs.
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
		// This turn is late: the process was stopped, or starved of CPU. So was
		// the task then, and it gets that time again.
		w.graceEnd = now.Add(min(late, p.cfg.hangGrace))
	case w.ending:
		w.suspect, hung = true, true
	case a.timeoutOver(now):
		a.endLocked(timedOut) // the derived context has a timer of its own
	case !w.workEnd.IsZero() && !now.Before(w.workEnd):
		a.endLocked(workOver)
		a.endContextSoonLocked(workOver)
	case !w.half: // half of the time is over: from here silence counts
		w.half, w.granted = true, p.watch.rounds.lateness
		w.beatDue = w.beatDue.Add(late)
	case a.signal.Load()&signalBeat == 0 || late > w.job.h.extras().Heartbeat/4:
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

// endContextSoonLocked ends the derived context of a on another goroutine, as that may
// call user code.
func (a *attempt) endContextSoonLocked(e *ending) {
	p := a.pool
	if a.derived.Load() == nil {
		return // if it is derived later, its end is seen then
	}
	p.outbox.helpers++
	go func() {
		defer p.discharge(p.enlist())
		a.endContext(e)
	}()
}

// giveUpLocked gives up on tasks that hang. It unlocks p.mu while it looks for
// their stacks. A task whose Run returns, panics or calls Goexit meanwhile is in time
// and no longer suspect.
func (p *Pool) giveUpLocked(hung []*worker) {
	type target struct {
		w         *worker
		goroutine uint64
		job       uint64
	}
	var looked []target // those that hang, and those that may hang soon
	var goroutines []uint64
	var guests []*worker
	add := func(w *worker) {
		if w.guest != nil {
			guests = append(guests, w)
		}
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
		dumpedGuests(guests, stacks)
		looks.spend(time.Since(now))
	} else {
		why = "its stack was not looked for: that may take 1 % of the time, and many tasks hang"
	}
	if f := p.cfg.givingUp; f != nil {
		f()
	}
	p.lock()
	for _, g := range looked {
		if g.w.guest != nil {
			g.goroutine = g.w.goroutine.Load() // known now, if it was found
		}
		if stack := stacks[g.goroutine]; stack != nil && g.w.ending && g.w.jobs == g.job {
			g.w.stack, g.w.stackAt = stack, now
		}
	}
	var notices []notice
	for i, w := range hung {
		if !w.suspect { // it returned meanwhile; only the supervisor sets suspect, so not for another task
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
		if a != nil && !a.over && a.h.canceled() == nil {
			if r := a.h.extras().Retry; r.If != nil && int(a.number) < r.MaxAttempts {
				p.outbox.helpers++
				stands := v
				w.hung = &stands
				go w.judgeHung(a, v, r)
				continue
			}
		}
		w.settleHungLocked(&v, &notices)
	}
	p.notifyLocked(notices)
}

// hungLocked returns the verdict on the task of w, which is given up with the given
// stack, if there is no retry.
func (w *worker) hungLocked(stack []byte) verdict {
	p := w.pool
	a := w.attempt
	switch {
	case a == nil || !a.over:
		cause := ErrClosed // the only possible cause for a function given to Go
		if a != nil {
			cause = a.end.Load().cause
		}
		return verdict{state: StateFailed, kind: attemptHung, err: &HungError{Stack: stack, cause: cause, grace: p.cfg.hangGrace}}
	case w.succeeded:
		return verdict{state: StateSucceeded}
	default:
		// Run has returned, but Retry.If, Retry.Backoff or a method of the context
		// has not, and the task was canceled meanwhile.
		return verdict{state: StateCanceled, kind: attemptError, err: a.h.canceled()}
	}
}

// judgeHung asks the policy whether to retry a hung attempt, and settles the attempt
// unless it has returned meanwhile. It runs on a goroutine of its own, as it calls
// user code.
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
	v.decideRetry(&p.guard, r, int(a.number))
}

// settleJudgedLocked settles the task of w, which was canceled, if Retry.If is being
// asked about its hang: there will be no retry, whatever the answer.
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
	if a := w.attempt; a != nil { // its goroutine may never return to do this itself
		*notices = append(*notices, notice{call: func() { a.finishDerived(returned) }})
	}
	w.gaveUp = true
	if !w.holds || len(p.crew.abandoned) < p.cfg.maxAbandonedOf(p.sched.slots) || p.end.cut != nil {
		w.abandonLocked(notices)
	} else {
		p.crew.lost = append(p.crew.lost, w)
	}
}
