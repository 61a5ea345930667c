package taskpool

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// A ledger records what has happened in a pool. Protected by Pool.mu.
type ledger struct {
	total  totals
	clock  waitClock
	slots  slotClock
	budget *retryBudget // nil without WithRetryBudget
}

// A waitClock tells how long tasks have waited. Where their arrival was not timed, it
// uses marks.
type waitClock struct {
	aging bool   // orders are times
	timed bool   // handles know when they arrived
	marks []mark // see oldestWait
}

// A slotClock measures, from the first call of ExpectedWait on, for how long tasks hold slots:
// the time that slots were held in, by the number of attempts started meanwhile. So the clock is
// read when a slot is given away or taken back, and not while workers go from one task to the
// next, and the time in which a task is parked does not count.
type slotClock struct {
	on     bool
	at     time.Duration // since Pool.epoch: until when held is counted
	held   time.Duration // by all slots together, since the last mix
	starts uint64        // attempts started by then
	// The exponentially weighted sums of what was mixed in: an attempt counts for e times less
	// when latelyStarts more have started.
	time, attempts float64
}

// latelyStarts is how many starts the mean of the times goes back.
const latelyStarts = 128

// pass counts the time until now, since Pool.epoch, in which held slots were held. starts is
// how many attempts have started.
func (c *slotClock) pass(now time.Duration, held int, starts uint64) {
	c.held += time.Duration(held) * (now - c.at)
	if c.at = now; starts-c.starts >= latelyStarts {
		c.mix(starts)
	}
}

func (c *slotClock) mix(starts uint64) {
	more := float64(starts - c.starts)
	keep := math.Exp(-more / latelyStarts)
	c.time = c.time*keep + float64(c.held)
	c.attempts = c.attempts*keep + more
	c.held, c.starts = 0, starts
}

// meanLocked returns for how long an attempt has held its slot lately, on average. The first call
// begins the measurement.
func (c *slotClock) meanLocked(p *Pool) float64 {
	now, starts := time.Since(p.epoch), p.ledger.total.attempts
	if !c.on {
		*c = slotClock{on: true, at: now, starts: starts}
		clock := time.Now()
		for _, w := range p.crew.all {
			if w.busy && w.holds { // on average half of its time is over
				c.time += 2 * float64(clock.Sub(w.sinceLocked(clock)))
				c.attempts++
			}
		}
	}
	c.pass(now, p.sched.held, starts)
	if c.mix(starts); c.attempts == 0 {
		return 0
	}
	return c.time / c.attempts
}

// totals holds the counters of Stats, which only grow.
type totals struct {
	submitted                         uint64
	succeeded, failed, canceled, shed uint64
	orphaned, expired                 uint64
	attempts, withdrawn               uint64 // tasks given to workers; those withdrawn before they began
	retries, retriesDenied            uint64
	parks, resumes                    uint64
	errors, timeouts, interrupted     uint64
	panics, goexits, hangs            uint64

	replacedPanic, replacedGoexit, replacedHung uint64
}

// settledLocked counts a task of priority pr that reached final state s.
func (p *Pool) settledLocked(s State, pr Priority) {
	t, of := &p.ledger.total, p.sched.queue.totals.of(pr)
	switch s {
	case StateSucceeded:
		t.succeeded++
		of.Succeeded++
	case StateFailed:
		t.failed++
		of.Failed++
	case StateCanceled:
		t.canceled++
		of.Canceled++
	case StateShed:
		t.shed++
		of.Shed++
	}
}

// refusedLocked counts a task of priority pr that is not accepted because of err, an error of
// this package.
func (p *Pool) refusedLocked(pr Priority, err error) {
	of := p.sched.queue.totals.of(pr)
	switch err {
	case ErrFull:
		of.RefusedFull++
	case ErrClosed:
		of.RefusedClosed++
	case ErrExpired:
		of.RefusedExpired++
	default:
		if _, full := err.(*flowFullError); full {
			of.RefusedFlow++
		} else {
			of.RefusedContext++
		}
	}
}

// tallies are what is counted by priority. They are the queue's, as its lanes point to the
// numbers of attempts.
type tallies struct {
	recent [16]*tally // each in the place of its priority: most lookups end here
	first  map[Priority]*tally
	others tally // of the priorities that are not among the first mostTallies
}

// mostTallies is for how many priorities there is a tally.
const mostTallies = 4096

type tally struct {
	priority Priority
	PriorityTotals
}

// of returns what is counted of tasks of priority pr.
func (t *tallies) of(pr Priority) *PriorityTotals {
	recent := &t.recent[int(pr)&(len(t.recent)-1)]
	if one := *recent; one != nil && one.priority == pr {
		return &one.PriorityTotals
	}
	one := t.first[pr]
	if one == nil {
		if len(t.first) == mostTallies {
			return &t.others.PriorityTotals
		}
		if t.first == nil {
			t.first = make(map[Priority]*tally)
		}
		one = &tally{priority: pr}
		t.first[pr] = one
	}
	*recent = one
	return &one.PriorityTotals
}

// sum returns the totals of all priorities.
func (t *tallies) sum() PriorityTotals {
	sum := t.others.PriorityTotals
	for _, one := range t.first {
		sum.add(&one.PriorityTotals)
	}
	return sum
}

// A retryBudget decides which failed attempts may be followed by a retry, see
// [WithRetryBudget]. It reads no clock: what it saves is bounded by a number of attempts.
type retryBudget struct {
	ratio int64  // what an attempt earns, in parts of a retry, of which wholeRetry are one
	least int    // so many may wait, whatever is saved
	seen  uint64 // how many attempts have earned something
	saved int64  // in parts
}

const (
	wholeRetry    = 1_000_000
	savedAttempts = 1_000 // what more of them have earned is not saved
)

// grants reports whether a retry is granted after the last of ended attempts, while waiting
// tasks wait for theirs, and takes what it costs.
func (b *retryBudget) grants(ended uint64, waiting int) bool {
	earned := b.ratio * int64(min(ended-b.seen, savedAttempts))
	b.seen, b.saved = ended, min(b.saved+earned, b.ratio*savedAttempts)
	switch {
	case b.saved >= wholeRetry:
		b.saved -= wholeRetry
	case waiting >= b.least:
		return false
	}
	return true
}

// grantsRetry reports whether the retry budget, which there is, grants the retry of an attempt
// that is about to end, and takes what it costs.
func (l *ledger) grantsRetry(s *scheduler) bool {
	underWay := s.count[StateRunning] + s.count[StateParked] - 1
	return l.budget.grants(l.total.attempts-l.total.withdrawn-uint64(underWay), s.retriesWaiting)
}

// attempt counts an attempt that ended with v.
func (t *totals) attempt(v *verdict) {
	switch v.result() {
	case ResultError:
		t.errors++
	case ResultTimeout:
		t.timeouts++
	case ResultInterrupted:
		t.interrupted++
	case ResultPanic:
		t.panics++
	case ResultGoexit:
		t.goexits++
	case ResultHung:
		t.hangs++
	}
}

// result returns how an attempt ended.
func (v *verdict) result() Result {
	switch {
	case v.kind == attemptOK:
		return ResultSuccess
	case v.kind == attemptPanic:
		return ResultPanic
	case v.kind == attemptGoexit:
		return ResultGoexit
	case v.kind == attemptHung:
		return ResultHung
	case v.state == StateCanceled:
		return ResultInterrupted
	case v.overdue:
		return ResultTimeout
	}
	return ResultError
}

// A mark says that all tasks of an order up to seq had arrived at a certain time. It
// gives a lower bound on the wait of tasks whose arrival was not timed.
type mark struct {
	seq int64
	at  time.Duration // since Pool.epoch
}

// When there are more than maxMarks, those are dropped without which a wait is still
// known to within one part in markPrecision. That seldom leaves more than half of
// maxMarks: a wait that is longer by a factor of e takes 32 marks more.
const (
	maxMarks      = 1024
	markPrecision = 32
)

// note notes that all tasks so far, up to order seq, have arrived by now, and forgets the
// marks that say nothing about waiting tasks. lanes are the lanes that are not empty.
func (c *waitClock) note(lanes []*lane, seq int64, now time.Duration) {
	oldest := int64(math.MaxInt64)
	for _, l := range lanes {
		oldest = min(oldest, l.order())
	}
	first, _ := slices.BinarySearchFunc(c.marks, oldest, mark.compare)
	c.marks = slices.Delete(c.marks, 0, first)
	if oldest <= seq {
		c.add(seq, now)
	}
}

// batch notes when the tasks of a batch arrived that is being taken in. Their orders count
// from base. With hooks that are told how long tasks wait, the arrival of the first task of
// each span is known, so that Stats need not be called first. alone says that no other task
// waits.
func (c *waitClock) batch(base int64, spans []span, began *spanTimes, alone bool) {
	if alone {
		c.marks = c.marks[:0]
	}
	first := 0
	for i, s := range spans[:min(len(spans), maxTimed)] {
		c.add(base+int64(first), began[i])
		first = s.end
	}
}

// cameAt returns the time, since epoch, at which e arrives. It is called only if hooks are
// told how long tasks wait; then a handle already has the time.
func (e *entry) cameAt(epoch time.Time) time.Duration {
	if e.h != nil {
		return e.h.queuedAt
	}
	return time.Since(epoch)
}

// add notes that the tasks of an order up to seq had arrived at time at.
func (c *waitClock) add(seq int64, at time.Duration) {
	if last := len(c.marks) - 1; last >= 0 {
		if c.marks[last].seq == seq {
			return
		}
		at = max(at, c.marks[last].at) // at may be older: it was read before a lock
	}
	c.marks = append(c.marks, mark{seq, at})
	for precision := time.Duration(markPrecision); len(c.marks) > maxMarks; precision /= 2 {
		c.marks = thinOut(c.marks, at, precision)
	}
}

// thinOut drops every mark whose two neighbors are no further apart than one part in
// precision of the age of the later one.
func thinOut(marks []mark, now, precision time.Duration) []mark {
	kept := marks[:1]
	for i, m := range marks[1:] {
		next := i + 2
		if next == len(marks) || precision*(marks[next].at-kept[len(kept)-1].at) > now-marks[next].at {
			kept = append(kept, m)
		}
	}
	return kept
}

func (m mark) compare(seq int64) int { return cmp.Compare(m.seq, seq) }

// oldestWait returns how long the first task of l that is not parked has waited or, if that is
// less, for how long its flow has not been held back. l must have one. now is the time since
// Pool.epoch.
func (c *waitClock) oldestWait(l *lane, now time.Duration) time.Duration {
	wait := c.wholeWait(l, now)
	if l.flow == nil {
		return wait
	}
	f := l.flow.set.of
	if f.justShown { // nobody has read the clock then
		f.justShown, f.shown = false, now
	}
	return min(wait, now-f.shown)
}

// oldestOf returns how long the first task that is not parked of those in lanes has waited, with
// the time for which it was held back; 0 if there is none.
func (c *waitClock) oldestOf(lanes []*lane, now time.Duration) (oldest time.Duration) {
	for _, l := range lanes {
		if l.n > l.parked && !l.kind.second() {
			oldest = max(oldest, c.wholeWait(l, now))
		}
	}
	return oldest
}

// wholeWait is oldestWait with the time for which the task was held back.
func (c *waitClock) wholeWait(l *lane, now time.Duration) time.Duration {
	for e := range l.all() {
		if e.parked() {
			continue
		}
		switch {
		case e.h != nil && c.timed:
			return now - e.h.queuedAt
		case c.aging:
			return now - time.Duration(e.order)
		}
		i, _ := slices.BinarySearchFunc(c.marks, e.order, mark.compare)
		return now - c.marks[i].at
	}
	return 0
}
