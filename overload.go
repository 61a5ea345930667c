package taskpool

import (
	"math"
	"time"
)

// A queueDelays decides, with [WithQueueDelay], which tasks are shed because they have waited
// too long. A priority is late if for a while every task that it started had waited longer than
// target. That tells a queue that stands from one that a burst has filled and that empties
// again. A late priority sheds what has waited longer than twice the target when it is that
// task's turn to start. The rule that a queue is good as soon as one task gets through it in
// time is CoDel's (RFC 8289); to shed at twice the target, in place of ever more often, is
// folly's variant of it (folly/executors/Codel.cpp).
//
// What counts are first attempts alone, of tasks that are not lent to: a retry and a parked
// task have begun, which is never undone, and a task that was lent to neither waits like its
// priority nor is it shed. Nothing counts in a pause, and no wait counts from before the end of
// one, or from before the limit of the task's flow last ended to hold it back.
//
// Invariants:
//
//   - of has an entry for each priority of which tasks are Queued, and no other; queued is how
//     many these are. So a priority of which no task waits is not late, and memory is bounded by
//     what waits.
//   - above is 0, or when a task was started, or shed, that had waited longer than target, and
//     since then none was started that had not.
type queueDelays struct {
	target   time.Duration
	interval time.Duration // for how long all must have waited longer than target
	most     time.Duration // what a task of a late priority may have waited
	now      time.Duration // since Pool.epoch: when the pool last passed in the time
	resumed  time.Duration // when the last pause ended
	shown    []*flow       // those whose limit has ended to hold them back since now
	of       map[Priority]*queueDelay
}

// A queueDelay is what is known of one priority.
type queueDelay struct {
	queued int
	above  time.Duration
}

// For how many targets every start must have been late, and how many of them a task of a late
// priority may wait, as in folly.
const (
	lateInterval = 20
	lateMost     = 2
)

// newQueueDelays returns nil for a target of 0.
func newQueueDelays(target time.Duration) *queueDelays {
	if target == 0 {
		return nil
	}
	times := func(n int64) time.Duration { return time.Duration(mulSaturating(n, int64(target))) }
	return &queueDelays{target: target, interval: times(lateInterval), most: times(lateMost), of: make(map[Priority]*queueDelay)}
}

// pass passes in the time since Pool.epoch.
func (q *queueDelays) pass(now time.Duration) {
	q.now = now
	for i, f := range q.shown {
		f.queue.justShown, f.queue.shown = false, now
		q.shown[i] = nil
	}
	q.shown = shrunk(q.shown[:0])
}

// queued counts that n more tasks of priority pr are Queued.
func (q *queueDelays) queued(pr Priority, n int) {
	d := q.of[pr]
	if d == nil {
		d = &queueDelay{}
		q.of[pr] = d
	}
	if d.queued += n; d.queued == 0 {
		delete(q.of, pr)
	}
}

// isLate reports whether h, whose turn it is, is to be shed, and otherwise notes how long it has
// waited.
func (s *scheduler) isLate(h *Handle) bool {
	q := s.delays
	if h.attempts > 0 || h.lentTo() || s.paused {
		return false
	}
	since := max(h.queuedAt, q.resumed)
	if f := h.flow; f != nil {
		since = max(since, f.queue.shown)
	}
	d, wait := q.of[h.priority], q.now-since
	switch {
	case wait <= q.target:
		d.above = 0
	case d.above <= q.resumed: // or 0
		d.above = q.now
	}
	return wait > q.most && q.late(h.priority, q.now)
}

// late reports whether priority pr is late at now.
func (q *queueDelays) late(pr Priority, now time.Duration) bool {
	d := q.of[pr]
	return d != nil && d.above > q.resumed && now-d.above >= q.interval
}

// expectedWait returns how long a task of priority pr would wait that was submitted now, of the
// flow of that name, "" for none, if attempts hold their slots for mean nanoseconds.
func (s *scheduler) expectedWait(pr Priority, name string, mean float64) time.Duration {
	f := s.plainFlow
	if name != "" {
		f = s.flows[name]
	}
	held := f != nil && f.held
	if free, _ := s.free(pr); free > 0 && !held {
		return 0
	}
	slots := s.slots
	if s.lessUrgent(pr) {
		slots -= s.reserved
	}
	ahead, behind, own := s.aheadOf(f, name, pr)
	if share := int(s.queue.share); share > 1 {
		ahead += min(ahead/(share-1), behind)
	} else if share == 1 { // first in, first out
		ahead += behind
	}
	wait := mean * float64(ahead+1) / float64(slots)
	if f != nil && f.limit > 0 {
		wait = max(wait, mean*float64(own+1+int(f.places-f.limit))/float64(f.limit))
	}
	return time.Duration(wait)
}

// aheadOf returns how many of the tasks that wait would go before one of priority pr of flow f,
// whose name is given as f is nil if it has no tasks; how many would go behind it; and how many
// that are as urgent or more are of its flow, with those that its limit holds back.
func (s *scheduler) aheadOf(f *flow, name string, pr Priority) (ahead, behind, own int) {
	alike := 0                         // of its flow and priority
	others := make(map[*flowLanes]int) // of the other flows of its priority
	for _, l := range s.queue.filled() {
		of, out := s.queue.owner(l), s.queue.set(l).out
		if l.kind.second() {
			continue
		}
		mine := of.flow == f && (f != nil || name == "")
		if mine && l.priority <= pr {
			own += l.n
		}
		switch {
		case out:
		case l.priority > pr:
			behind += l.n
		case l.priority < pr || l.kind.resumes():
			ahead += l.n
		case mine:
			alike += l.n
		default:
			others[of] += l.n
		}
	}
	ahead += alike + len(s.exiting[0]) + len(s.exiting[1])
	for of, n := range others { // each has its turns until this task has come to its own
		ahead += min(n, int(int64(alike+1)*f.cost()/of.flow.cost()))
	}
	for class := range s.admission.classes {
		ahead += s.admission.waiting(class, pr, math.MaxInt)
	}
	return ahead, behind, own
}
