package taskpool

import (
	"context"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool/internal/remote"
)

// An attempt is one run of a task, and the context that Run gets. Identity is
// per attempt, not per handle: an attempt that was given up as hung may still
// run while the next attempt of its task is under way, and what it does then
// must not affect the new one.
//
// As a context it derives from the one given to Submit. The standard library's
// part of it, two or three allocations, is made only when somebody asks for more
// than the task's identity; most tasks never do.
type attempt struct {
	// signal tells Yield and Beat that there is something to do; see yield.go.
	signal atomic.Uint32

	// over is set once Run has returned or died, or the attempt has been given up:
	// what it does from then on does not count. Protected by pool.mu.
	over bool
	// exempt is set while the attempt need give no sign of life although it has
	// its slot. Protected by pool.mu.
	exempt bool
	// asked is set if signalStall was set when the supervisor last checked whether
	// anything moves. Protected by pool.mu.
	asked bool

	ends bool // the context given to Submit can end; fixed

	// ctx is the context given to Submit. It is kept here and not in the handle: a
	// handle is kept by whoever wants to know how the task went, an attempt only by
	// those who work with its context. The same goes for group, the group that the task is
	// a member of, which has a context too; nil if there is none.
	ctx   context.Context
	group *Group

	// Set when the attempt is dispatched, fixed thereafter.
	pool     *Pool
	priority int64 // what the task counted as
	h        *Handle
	w        *worker
	number   int32 // from 1
	terms    terms // fixed since Submit
	started  time.Time

	// suspension is the attempt's time without a slot, while its task is Parked.
	// Protected by pool.mu.
	suspension *suspension

	// rare is what few attempts need; nil until one does. Protected by pool.mu.
	rare *rareAttempt

	// slice is when its time slice began, in nanoseconds since pool.epoch; 0: when the
	// attempt did.
	slice   atomic.Int64
	end     atomic.Pointer[ending] // why the context ended; nil while it has not been noticed
	derived atomic.Pointer[derivedContext]
}

// A rareAttempt holds what few attempts need. Protected by pool.mu.
type rareAttempt struct {
	// beatDue is closed when a sign of life is due; nil while nobody waits for that.
	beatDue chan struct{}
	// urgency is what the task counts as by now, if signalUrgency is set; written under
	// pool.mu.
	urgency atomic.Int64
	// changed is closed when the urgency changes; nil while nobody waits for that.
	changed chan struct{}
	// waits is what the attempt's goroutines wait for beside the one that has parked it.
	waits []*recordedWait
}

// A recordedWait is what one goroutine of an attempt waits for.
type recordedWait struct {
	what awaited
	i    int // index in rareAttempt.waits
}

// urgency returns what the task counts as. No lock need be held.
func (a *attempt) urgency() int64 {
	if a.signal.Load()&signalUrgency != 0 {
		return a.rare.urgency.Load()
	}
	return a.priority
}

// An ending is why an attempt's context ended.
type ending struct {
	cause error
	kind  endKind
	// byContext is set if the context given to Submit has ended.
	byContext bool
}

type endKind int

const (
	endCanceled endKind = iota // by Submit's context, Cancel or Shutdown
	endTimeout                 // by the task's Timeout
	endSilent                  // by the task's Heartbeat
	endReturned                // Run is over
	endExpired                 // by the task's MaxWait, before it began
)

var (
	expired  = &ending{cause: ErrExpired, kind: endExpired}
	timedOut = &ending{cause: ErrTimeout, kind: endTimeout}
	workOver = &ending{cause: ErrTimeout, kind: endTimeout} // by its WorkTimeout
	silent   = &ending{cause: ErrHung, kind: endSilent}
	returned = &ending{cause: errReturned, kind: endReturned}
	cutOff   = &ending{cause: ErrClosed, kind: endCanceled}
)

// A derivedContext is the standard library's part of an attempt's context.
type derivedContext struct {
	context.Context
	cancel      context.CancelCauseFunc
	stopTimeout context.CancelFunc  // nil without a Timeout
	labels      atomic.Pointer[any] // for package runtime/pprof; nil until somebody asks
}

// attemptFrom returns the attempt that ctx belongs to, or nil if there is none.
func attemptFrom(ctx context.Context) *attempt {
	if a, ok := ctx.(*attempt); ok {
		return a
	}
	a, _ := ctx.Value(remote.AttemptKey{}).(*attempt)
	return a
}

// derive returns the standard library's part of the context, which the first call
// makes. It calls methods of the context given to Submit, so no lock may be held.
func (a *attempt) derive() *derivedContext {
	if d := a.derived.Load(); d != nil {
		return d
	}
	d := new(derivedContext)
	ctx, ended := a.ctx, a.end.Load()
	if ended != nil && !ended.byContext {
		ctx = context.WithoutCancel(ctx) // it may have ended too by now, but was not first
	}
	d.Context, d.cancel = context.WithCancelCause(ctx)
	if end := a.timeoutEnd(); !end.IsZero() && (ended == nil || ended == timedOut) {
		d.Context, d.stopTimeout = context.WithDeadlineCause(d.Context, end, ErrTimeout)
	}
	if !a.derived.CompareAndSwap(nil, d) {
		d.finish(nil)
		return a.derived.Load()
	}
	// Whoever ends the attempt sets end before it looks at derived, and this
	// function sets derived before it looks at end, so one of the two sees both.
	if e := a.end.Load(); e != nil {
		d.finish(e.cause)
	}
	return d
}

func (d *derivedContext) finish(cause error) {
	d.cancel(cause)
	if d.stopTimeout != nil {
		d.stopTimeout()
	}
}

// finishDerived ends the attempt's context for good; the first ending counts. It
// calls methods of the context given to Submit, so no lock may be held.
func (a *attempt) finishDerived(e *ending) {
	a.noteEnd(e)
	if d := a.derived.Load(); d != nil {
		d.finish(a.end.Load().cause)
	}
}

// endContext does what finishDerived does, and contains panics in methods of the context
// given to Submit.
func (a *attempt) endContext(e *ending) {
	p := a.pool
	if a.noteEnd(e); a.derived.Load() != nil {
		p.guard.contain("a context's method", func() { a.finishDerived(e) })
	}
}

// noteEnd makes the attempt's end known to Yield and to ended. It leaves the
// derived context alone, so it may be called under a lock.
func (a *attempt) noteEnd(e *ending) {
	a.end.CompareAndSwap(nil, e)
	a.signal.Or(signalEnded)
}

// begin marks the attempt as begun, or returns its ending if it was canceled before.
// Ending and beginning an attempt set bits of the same word, so one of the two comes
// first, and an attempt that was canceled first does not begin. One that has timed
// out by now, which is the scheduler's doing, does begin, so that it fails as timed
// out: see worker.mayRun.
func (a *attempt) begin() *ending {
	for {
		s := a.signal.Load()
		if s&signalEnded != 0 {
			if e := a.end.Load(); e.kind == endCanceled {
				return e
			}
		}
		if a.signal.CompareAndSwap(s, s|signalBegun) {
			return nil
		}
	}
}

// ended returns why the context has ended, or nil if it has not. Its AfterFunc and
// the supervisor may be late, so it checks for itself; no lock may be held.
func (a *attempt) ended() *ending {
	if e := a.end.Load(); e != nil {
		return e
	}
	if e := a.pool.guard.contextEnd(a.ctx); e != nil {
		return e
	}
	if a.h.task.Timeout > 0 && a.timeoutOver(time.Now()) {
		return timedOut
	}
	return nil
}

// timeoutEnd returns when the attempt's Timeout is over, zero without one. No lock need be
// held, as a task's Timeout does not change.
func (a *attempt) timeoutEnd() time.Time {
	if t := a.h.task.Timeout; t > 0 {
		return a.started.Add(t)
	}
	return time.Time{}
}

// timeoutOver reports whether the Timeout is over at now.
func (a *attempt) timeoutOver(now time.Time) bool {
	end := a.timeoutEnd()
	return !end.IsZero() && !now.Before(end)
}

// Deadline returns the earlier of the end of the attempt's Timeout and that of the
// context given to Submit.
func (a *attempt) Deadline() (time.Time, bool) {
	d, ok := a.ctx.Deadline()
	if end := a.timeoutEnd(); !end.IsZero() && (!ok || end.Before(d)) {
		return end, true
	}
	return d, ok
}

func (a *attempt) Done() <-chan struct{} { return a.derive().Done() }
func (a *attempt) Err() error            { return a.derive().Err() }

func (a *attempt) Value(key any) any {
	switch key {
	case remote.AttemptKey{}, remote.WaiterKey:
		return a
	case labelKey:
		return a.labels()
	}
	return a.derive().Value(key)
}

// labels returns what the attempt's context holds for package runtime/pprof. It calls
// methods of the context given to Submit, so no lock may be held.
func (a *attempt) labels() any {
	d := a.derive()
	if l := d.labels.Load(); l != nil {
		return *l
	}
	labels := d.Context.Value(labelKey)
	if own := a.w.labels.Load(); own != nil { // a guest has none
		labels = pprof.WithLabels(d.Context, own.set).Value(labelKey)
	}
	d.labels.Store(&labels)
	return labels
}

// While an execution trace is recorded, each attempt of a task given to Submit is a
// task of package runtime/trace, whose type is the task's name or, if it has none,
// "taskpool.task". Each attempt and each function given to Go is also a region, and so
// is the time in which an attempt is parked.

const (
	traceTask   = "taskpool.task"
	traceFunc   = "taskpool.func"
	traceParked = "taskpool.parked"
)

// traceFunction calls f in a region.
func traceFunction(pr Priority, f func()) {
	ctx := context.Background()
	defer trace.StartRegion(ctx, traceFunc).End()
	trace.Log(ctx, "taskpool.priority", pr.String())
	f()
}

// traceAttempt calls run in a region of a task.
func (a *attempt) traceAttempt(ctx context.Context, run func(context.Context) error) error {
	kind := a.h.task.Name
	if kind == "" {
		kind = traceTask
	}
	ctx, task := trace.NewTask(ctx, kind)
	defer task.End()
	defer trace.StartRegion(ctx, traceTask).End()
	trace.Log(ctx, "taskpool.priority", a.w.priority.String())
	if u := Priority(a.urgency()); u != a.w.priority {
		trace.Log(ctx, "taskpool.urgency", u.String())
	}
	trace.Log(ctx, "taskpool.attempt", strconv.Itoa(int(a.number)))
	return run(ctx)
}

// beginRegion begins the region for the time without a slot, while a trace is recorded.
// It calls methods of ctx, so no lock may be held.
func (pk *suspension) beginRegion(ctx context.Context) {
	if trace.IsEnabled() {
		pk.region = trace.StartRegion(ctx, traceParked)
	}
}

// endRegion ends that region. It must be called on the same goroutine.
func (pk *suspension) endRegion() {
	if pk.region != nil {
		pk.region.End()
	}
}
