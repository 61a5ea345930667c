package taskpool

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// A ledger is what has happened in a pool. Protected by Pool.mu.
type ledger struct {
	total totals
	clock waitClock
}

// A waitClock tells how long tasks have waited whose arrival nobody has timed.
type waitClock struct {
	aging bool   // orders are times
	timed bool   // handles know when they came
	marks []mark // see oldestWait
}

// totals is the part of Stats that only grows.
type totals struct {
	submitted, refused                uint64
	succeeded, failed, canceled, shed uint64
	orphaned                          uint64
	attempts, withdrawn               uint64 // tasks given to workers, and those of them of which no attempt began
	retries, parks, resumes           uint64
	errors, timeouts, interrupted     uint64
	panics, goexits, hangs            uint64

	replacedPanic, replacedGoexit, replacedHung uint64
}

// settled counts a task that reached final state s.
func (t *totals) settled(s State) {
	switch s {
	case StateSucceeded:
		t.succeeded++
	case StateFailed:
		t.failed++
	case StateCanceled:
		t.canceled++
	case StateShed:
		t.shed++
	}
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

// result says in a word how an attempt ended.
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

// A mark says which tasks had come at a time: those of an order up to seq. So of
// tasks whose arrival nobody has timed, one can tell how long at least they wait.
type mark struct {
	seq int64
	at  time.Duration // since Pool.epoch
}

// With more than maxMarks, those are dropped without which a wait is still known to
// within a part in markPrecision. There are seldom more than half of it then: it
// takes 32 marks for each e-fold of the time for which a task waits.
const (
	maxMarks      = 1024
	markPrecision = 32
)

// note notes that all tasks so far, up to order seq, have come by now, and forgets the marks
// that say nothing about those that wait in lanes, which are those that are not empty.
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

// batch notes when the tasks of a batch have come that is taken in, whose orders count from
// base. With hooks that are told how long tasks wait, that is known of the first of each
// span, so that Stats need not have been asked before. alone says that no other task waits.
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

// cameAt returns when a task has come, since epoch, with hooks that are told how long tasks
// wait: the time was taken already if there is a handle.
func (e *entry) cameAt(epoch time.Time) time.Duration {
	if e.h != nil {
		return e.h.queuedAt
	}
	return time.Since(epoch)
}

// add notes that the tasks of an order up to seq had come at a time.
func (c *waitClock) add(seq int64, at time.Duration) {
	if last := len(c.marks) - 1; last >= 0 {
		if c.marks[last].seq == seq {
			return
		}
		at = max(at, c.marks[last].at) // was read before a lock
	}
	c.marks = append(c.marks, mark{seq, at})
	for precision := time.Duration(markPrecision); len(c.marks) > maxMarks; precision /= 2 {
		c.marks = thinOut(c.marks, at, precision)
	}
}

// thinOut drops every mark whose neighbors, the one before and the one behind, are
// no further apart than a part in precision of the age of the latter.
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

// oldestWait returns how long at now, since Pool.epoch, the task at the front of l that is
// not parked, of which there is one, has waited.
func (c *waitClock) oldestWait(l *lane, now time.Duration) time.Duration {
	for e := range l.all() {
		switch {
		case e.parked():
			continue
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
