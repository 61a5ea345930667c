package taskpool

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// An inbox holds the tasks that have arrived and that nobody has taken in yet.
type inbox struct {
	inboxTerms
	_ toNextLine

	// mu protects the fields above least. It may be locked under Pool.mu,
	// never the other way round.
	mu sync.Mutex
	// batch holds the tasks, in order; with aging, order is the time of arrival. It is nil
	// until the first detour is over.
	batch    *segment
	n        int    // number of tasks in batch
	spans    []span // the tasks' priorities
	began    spanTimes
	leader   chan struct{} // wakes the worker that the next arrival must wake; nil if there is none
	closed   bool          // Shutdown was called
	detour   bool          // a worker must be hired; as with closed, tasks arrive by Pool.lock
	watch    bool          // the next arrival makes the supervisor check whether the pool stands still
	latest   int64         // with aging: the order of the last arrival
	yielding yieldPolicy

	_ cacheLine

	// The lowest priority value in batch, the most urgent, and the highest, or flowArrived;
	// none and math.MinInt64 if batch is empty. Written under mu, and rarely.
	least, most atomic.Int64

	_ cacheLine

	// For whoever takes the tasks in, under Pool.mu.
	spare      *segment // empty, to replace batch
	spareSpans []span   // empty, to replace spans
}

// inboxTerms are the fields of an inbox that do not change.
type inboxTerms struct {
	direct bool // tasks may arrive without Pool.mu: neither room nor a hook needs attention
	aging  bool // orders are times since epoch
	timed  bool // hooks are told how long tasks wait
	epoch  time.Time
	bell   chan struct{} // wakes the supervisor
}

// A span is a number of consecutive arrivals of one priority.
type span struct {
	priority Priority
	end      int // index after the last
}

// spanTimes are the times since Pool.epoch at which the first spans began. They are
// recorded only if hooks are told how long tasks wait.
type spanTimes [maxTimed]time.Duration

// cacheLine keeps fields that different goroutines write on different cache lines.
type cacheLine [64]byte

// toNextLine, after inboxTerms in a large object, puts what follows at the beginning of a
// cache line: the allocator puts a word of its own before such an object.
type toNextLine [64 - 8 - 40]byte

// gapBeforeMu separates Pool.mu from the fields before it that are written, and puts it at
// the beginning of a cache line where pointers have 64 bits.
const gapBeforeMu = 2*64 - 16

const (
	none        = math.MaxInt64 // no task waits; a task of that very priority arrives by Pool.lock
	flowArrived = math.MaxInt64 // in most: a task that has a flow is among the arrivals
	batchSize   = int32(len(segmentSlots) - 2)
	maxArrivals = 1020
	wholeBatch  = maxArrivals * 3 / 4 // this many tasks are worth a segment of that size
	worthWhole  = 16                  // this many are if they are about to be taken
	maxTimed    = 16                  // spans of a batch whose beginning is timed, with hooks
)

func (in *inbox) init() {
	in.least.Store(none)
	in.most.Store(math.MinInt64)
}

// close makes tasks arrive by Pool.lock only.
func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
}

// put adds a task; direct must be set. It returns false if that must be done under
// Pool.lock.
func (in *inbox) put(e entry, pr Priority) bool {
	if int64(pr) == none {
		return false
	}
	if in.aging {
		e.order = int64(time.Since(in.epoch))
	}
	if !in.mu.TryLock() {
		lockSoon(&in.mu)
	}
	if in.n == maxArrivals && in.yielding.due() {
		in.letOthersRun()
	}
	if in.n == maxArrivals || in.closed || in.detour || e.h != nil && e.h.canceled() != nil {
		in.mu.Unlock()
		return false
	}
	if in.aging {
		in.latest = max(in.latest, e.order)
		e.order = in.latest
	} else {
		e.order = int64(in.n)
	}
	in.batch.slots[in.n] = e
	in.n++
	if e.h != nil {
		in.batch.handles++
		if e.h.task.Flow != "" {
			in.most.Store(flowArrived)
		}
	}
	if last := len(in.spans) - 1; last >= 0 && in.spans[last].priority == pr {
		in.spans[last].end = in.n
	} else {
		in.beginSpan(e, pr)
	}
	if wake := in.leader; wake != nil {
		in.leader, in.yielding.woken = nil, true
		wake <- struct{}{}
	}
	in.mu.Unlock()
	return true
}

// beginSpan begins a span with e, the latest arrival.
func (in *inbox) beginSpan(e entry, pr Priority) {
	if n := len(in.spans); in.timed && n < maxTimed {
		in.began[n] = e.cameAt(in.epoch)
	}
	if in.watch {
		in.watch = false
		ring(in.bell)
	}
	in.spans = append(in.spans, span{pr, in.n})
	in.least.Store(min(in.least.Load(), int64(pr)))
	in.most.Store(max(in.most.Load(), int64(pr)))
}

// takeLocked takes out all that has arrived, and leaves spare and spareSpans in its place:
// the caller, who holds mu and Pool.mu, must replace these. attempts is the number of
// attempts started so far.
func (in *inbox) takeLocked(attempts uint64) (batch *segment, n int, spans []span, began spanTimes) {
	batch, n, spans = in.batch, in.n, in.spans
	in.batch, in.n, in.spans = in.spare, 0, in.spareSpans[:0]
	if in.timed {
		began = in.began
	}
	in.least.Store(none)
	in.most.Store(math.MinInt64)
	in.yielding.tookIn(n == maxArrivals, attempts)
	return batch, n, spans, began
}

// letOthersRun yields the processor, because the batch is full, so that the workers can
// catch up: tasks that are taken while they are in the processor's cache cost less than a
// queue that grows. It unlocks mu meanwhile.
func (in *inbox) letOthersRun() {
	in.mu.Unlock()
	begin := time.Now()
	runtime.Gosched()
	away := time.Since(begin)
	lockSoon(&in.mu)
	in.yielding.longestYield = max(in.yielding.longestYield, away)
}

// A yieldPolicy decides whether submitters let others run when the batch is full. That is
// good for tasks that are done in no time. If tasks are long, whoever has the processor
// next keeps it for 10 ms, and so do all others that wait for it, and a submitter would
// stand still for as long as that takes.
type yieldPolicy struct {
	woken bool // the leader was woken for what is in the batch, and has not come yet
	// draining is set if about as many tasks were started as arrived while a batch filled
	// up, and no yield took too long since.
	draining     bool
	started      uint64        // attempts, in all, when a full batch was last taken in
	longestYield time.Duration // the longest that a submitter has yielded since
	// holdoff is the number of full batches left at which they do not yield, because the
	// last yield took too long.
	holdoff int
}

const (
	tooLong        = time.Millisecond // unless a task was started each microsecond
	holdoffBatches = 1000
)

func (c *yieldPolicy) due() bool { return c.holdoff == 0 && (c.draining || c.woken) }

// tookIn records that a batch is taken in, full or not; started is the number of attempts
// started so far.
func (c *yieldPolicy) tookIn(full bool, started uint64) {
	c.woken = false
	if !full {
		return
	}
	since := started - c.started
	if since >= maxArrivals/2 {
		c.draining = true
	}
	if c.longestYield > tooLong && c.longestYield > time.Duration(since)*time.Microsecond {
		c.draining, c.holdoff = false, holdoffBatches
	} else if c.holdoff > 0 {
		c.holdoff--
	}
	c.started, c.longestYield = started, 0
}

// matter reports whether an arrival may change whose turn it is, now that of a task of
// priority pr, or turn a dispatch without a choice into one with a choice. choice is set
// if there is a choice already, or if that makes no difference. One that has a flow may
// always change that.
func (in *inbox) matter(pr int64, choice bool) bool {
	most := pr
	if choice {
		most = flowArrived - 1
	}
	return in.least.Load() < pr || in.most.Load() > most
}

// lockSoon locks a mutex that many hold in turn, each for a moment only.
func lockSoon(mu *sync.Mutex) {
	for range 10 {
		if mu.TryLock() {
			return
		}
	}
	mu.Lock()
}
