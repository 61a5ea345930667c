package taskpool

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool/internal/remote"
)

// A Handle refers to one submitted task. Its methods may be called from any
// goroutine at any time. A Handle must not be copied: the methods of a copy panic, and
// Wait returns an error.
type Handle struct {
	pool   *Pool
	self   *Handle    // the one that Submit returned: copies are refused, see errors.go
	policy flowPolicy // of its flow, as WithFlows said

	// settled is set, under pool.mu, when state and err are final. Whoever has seen it set,
	// or the waiters' channel closed, may read them without the lock.
	settled atomic.Bool

	function *goFunction // the function given to Go that it stands for; nil for a task

	watch *contextWatch // for the end of the context given to Submit; nil if there is none (any more), see watches

	// The fields below are protected by pool.mu.

	item             // what the scheduler knows of it
	id      uint64   // number in order of acceptance, from 1
	task    pattern  // with its Run even if that was passed beside it; without functions once settled
	err     error    // the task's error, once settled; until it is accepted, why a submitter that waited for room was turned away
	attempt *attempt // the one under way; nil while there is none
	first   *attempt // made with the handle; it has the context given to Submit, and the group. Nil once settled

	watchI  int32 // index in watch
	memberI int32 // index in Group.tasks, if it is there
	// rare is what few tasks need; nil until one does.
	rare *rareHandle
	// waiters wait until the task has settled or, while it is waiting for room itself, until
	// it is accepted or refused.
	waiters waiters
}

// A rareHandle holds what few tasks need. Protected by pool.mu. Of a task that has settled it has
// lastErr only.
type rareHandle struct {
	lastErr error // of the last attempt, if that failed
	// canceled is the cause of Cancel or of the end of the context given to Submit, if that
	// came before the task was accepted or while an attempt was under way.
	canceled error
	// parent is the attempt that submits, while it waits for room; of an orphan that
	// settles, the one that has returned.
	parent *attempt
	// links are what it has to do with others by Task.After.
	links *links
	// settled is called, without the lock, when it has settled, with what canceled was by
	// then. Nil: nobody asks. See remote.OnSettled.
	settled func(canceled error)
}

// A pattern is a [Task] as its handle keeps it, but for the priority, which is the item's. What
// few tasks have is apart: of each that waits that saves 96 bytes.
type pattern struct {
	Name, Flow string
	Run        func(context.Context) error
	Timeout    time.Duration
	extra      *extras // nil if all in it is zero
}

// extras are the fields of a Task that few set.
type extras struct {
	MaxWait, WorkTimeout, Heartbeat time.Duration

	Retry     Retry
	NotBefore time.Time
	After     []*Handle
}

// noExtras is never written to.
var noExtras extras

// newPattern returns t with run for its Run.
func newPattern(t *Task, run func(context.Context) error) pattern {
	p := pattern{Name: t.Name, Flow: t.Flow, Run: run, Timeout: t.Timeout}
	if t.MaxWait != 0 || t.WorkTimeout != 0 || t.Heartbeat != 0 || t.Retry.MaxAttempts != 0 ||
		t.Retry.Backoff != nil || t.Retry.If != nil || !t.NotBefore.IsZero() || t.After != nil {
		p.extra = &extras{t.MaxWait, t.WorkTimeout, t.Heartbeat, t.Retry, t.NotBefore, t.After}
	}
	return p
}

// extras returns what h's task has of them, to be read only.
func (h *Handle) extras() *extras {
	if h.task.extra == nil {
		return &noExtras
	}
	return h.task.extra
}

// wholeTask returns h's task as it was submitted, with its latest priority.
func (h *Handle) wholeTask() Task {
	t, e := &h.task, h.extras()
	return Task{
		Name: t.Name, Priority: h.priority, Flow: t.Flow, Run: t.Run, MaxWait: e.MaxWait, Timeout: t.Timeout,
		WorkTimeout: e.WorkTimeout, Heartbeat: e.Heartbeat, Retry: e.Retry, NotBefore: e.NotBefore, After: e.After,
	}
}

// lastErr returns rareHandle.lastErr.
func (h *Handle) lastErr() error {
	if h.rare == nil {
		return nil
	}
	return h.rare.lastErr
}

func (h *Handle) setLastErr(err error) {
	if h.rare == nil {
		if err == nil {
			return
		}
		h.rare = &rareHandle{}
	}
	h.rare.lastErr = err
}

// canceled returns rareHandle.canceled.
func (h *Handle) canceled() error {
	if h.rare == nil {
		return nil
	}
	return h.rare.canceled
}

func (h *Handle) setCanceled(cause error) {
	if h.rare == nil {
		h.rare = &rareHandle{}
	}
	h.rare.canceled = cause
}

// parent returns rareHandle.parent.
func (h *Handle) parent() *attempt {
	if h.rare == nil {
		return nil
	}
	return h.rare.parent
}

func (h *Handle) setParent(a *attempt) {
	if h.rare == nil {
		if a == nil {
			return
		}
		h.rare = &rareHandle{}
	}
	h.rare.parent = a
}

// onSettled has f called when the task has settled, on the goroutine that tells hooks of it.
// It returns false if the task has settled.
func (h *Handle) onSettled(f func(canceled error)) bool {
	h.pool.lock()
	defer h.pool.unlock()
	if h.state.Final() {
		return false
	}
	if h.rare == nil {
		h.rare = &rareHandle{}
	}
	h.rare.settled = f
	return true
}

// newHandle returns the handle of a task that was submitted with ctx, with its first
// attempt. Both are one object, which saves an allocation, if the attempt then keeps
// nothing of the caller's alive for as long as the handle is kept.
func newHandle(ctx context.Context) *Handle {
	if ctx == context.Background() || ctx == context.TODO() {
		both := new(struct {
			Handle
			attempt
		})
		h := &both.Handle
		h.self, h.first, both.attempt.ctx = h, &both.attempt, ctx
		return h
	}
	h := &Handle{first: &attempt{ctx: ctx}}
	h.self = h
	return h
}

// group returns the group that h is a member of, nil if it is none or has settled.
func (h *Handle) group() *Group {
	if h.first == nil {
		return nil
	}
	return h.first.group
}

// Done returns a channel that is closed when the task has settled.
func (h *Handle) Done() <-chan struct{} {
	h.mustBeUsable("Handle.Done")
	h.pool.lock()
	defer h.pool.unlock()
	return h.doneLocked()
}

func (h *Handle) doneLocked() <-chan struct{} {
	if h.state.Final() {
		return closedChannel
	}
	return h.waiters.channelLocked()
}

var closedChannel = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Wait waits until the task has settled and returns its error, which is nil if
// it succeeded. If ctx ends first, it returns ctx's cause and the task goes on;
// a task that has settled is reported even if ctx is over. Everything that the
// task did happens before Wait returns its error. The hook Finished may still be
// about to be called then; [Pool.WaitIdle] and [Pool.Shutdown] wait for hooks.
//
// Inside a task, of any pool, Wait gives that task's slot back for as long as it
// waits, so that tasks may wait for each other to any depth, even on one worker. With
// a context that is not the task's, the wait also ends, with the cause, when the
// task's context does, unless that had ended before; a wait that must go on can use
// [context.WithoutCancel] of the task's context. Called inside the very task that it
// would wait for, Wait returns [ErrInside], whatever the context.
//
// A task that waits lends its urgency: until it has settled, the task that is waited for
// counts as urgent as the most urgent task that waits for it, and so does what it waits for
// in turn, in any pool. If it waits in the queue, it starts like a task of that priority that
// resumes, or by the place that it has already. TaskInfo.Urgency shows what counts.
// Likewise for a [Future], the members of a [Group], and the element that [Map] waits for.
// Waits outside of tasks lend nothing.
//
// With a context that is no task's, Wait finds the task that it is called in by its
// goroutine. That takes some 5 to 100 µs, depending on the depth of the stack, and well
// below a microsecond on a goroutine that is no worker's; a wait that need not wait takes
// neither. Do not wait with the context of another task that is at work: usually that
// task then gives its slot back in place of the one that waits.
//
// The error is that of the last attempt. If the attempt's context had ended, the error is
// both the reason for that, [ErrTimeout] or the cause with which the task was canceled,
// and what Run returned, as [errors.Is] and [errors.As] see it. The bare context.Canceled
// and context.DeadlineExceeded that a context's Err returns add nothing to the reason and
// are left out.
func (h *Handle) Wait(ctx context.Context) error {
	if err := h.misuse("Handle.Wait"); err != nil {
		return err
	}
	if ctx == nil {
		return nilArgument("Handle.Wait", "ctx")
	}
	return h.wait(&wait{ctx: ctx})
}

// wait is Wait for the wait that w describes.
func (h *Handle) wait(w *wait) error {
	if w.task = attemptFrom(w.ctx); w.task != nil && w.task.h == h {
		return ErrInside
	}
	if h.settled.Load() {
		return h.err
	}
	if w.task == nil {
		if w.identify(); w.task == nil {
			return h.waitOutside(w)
		}
	}
	w.what = awaited{settled: h}
	h.pool.lock()
	defer h.pool.unlock()
	if err := w.awaitLocked(); err != nil {
		return err
	}
	return h.err
}

// waitOutside is wait outside of tasks, where there is no slot to give back. It takes the
// lock once, to register, and does not look at what has arrived: if it did, many who submit
// and wait would be in the workers' way.
func (h *Handle) waitOutside(w *wait) error {
	lockSoon(&h.pool.mu)
	done := h.doneLocked()
	h.pool.unlock()
	if err := w.sleep(done); err != nil && !h.settled.Load() {
		return err
	}
	return h.err
}

// Err returns the task's error once it has settled: nil if it succeeded. Until
// then it returns nil too; State tells the two apart.
func (h *Handle) Err() error {
	h.mustBeUsable("Handle.Err")
	h.pool.lock()
	defer h.pool.unlock()
	return h.err
}

// ID returns the task's number in its pool, in order of acceptance, from 1. It is the
// one in logs, hooks and [TaskInfo], and never changes.
func (h *Handle) ID() uint64 {
	h.mustBeUsable("Handle.ID")
	h.pool.lock()
	defer h.pool.unlock()
	return h.id
}

// Info describes the task at this moment: all in it belongs together, which is not so for
// State and Err, called one after the other. For a task that was given up as hung it says
// what has become of the task, so its State is never [StateAbandoned]. It costs about as
// much as State.
func (h *Handle) Info() TaskInfo {
	h.mustBeUsable("Handle.Info")
	h.pool.lock()
	defer h.pool.unlock()
	return h.infoLocked()
}

// State returns the state the task is in.
func (h *Handle) State() State {
	h.mustBeUsable("Handle.State")
	h.pool.lock()
	defer h.pool.unlock()
	return h.state
}

// String describes the task in a line such as
//
//	task 17 "report" (high, running)
//
// with the attempt from the second on. The line is for people, and may change. It is what
// package fmt prints for a Handle, also for one that is nil, zero or a copy. String may be
// called anywhere, in tasks, hooks and log handlers too, and costs about as much as State.
func (h *Handle) String() string {
	switch {
	case h == nil:
		return "<nil>" // as fmt says
	case h.pool == nil:
		return "zero Handle"
	case h.self != h:
		return "copy of " + h.self.String()
	}
	return h.Info().String()
}

// GoString returns what String does as something of the type *Handle. Package fmt prints it
// for %#v, as tests do, in place of all that a pool consists of.
func (h *Handle) GoString() string { return "(*taskpool.Handle)(" + h.String() + ")" }

// LogValue has package log/slog log the task as [TaskInfo.LogValue] says.
func (h *Handle) LogValue() slog.Value {
	if h == nil || h.self != h || h.pool == nil {
		return slog.StringValue(h.String())
	}
	return h.Info().LogValue()
}

// Cancel ends the task with the given cause; nil stands for [context.Canceled]. A
// task that waits is gone at once and its room in the queue is free. A running one
// has its context ended; it is Canceled if Run then returns an error, and Succeeded
// if it returns nil. Cancel does not wait for that. It returns false if the task had
// settled already.
func (h *Handle) Cancel(cause error) bool {
	h.mustBeUsable("Handle.Cancel")
	if cause == nil {
		cause = context.Canceled
	}
	return h.cancel(cause)
}

// SetPriority gives the task another priority. If it waits to start, it moves behind
// those that wait there, even if it has that priority already. If it runs or is parked,
// the priority counts from now: for what Yield lets go first, where it resumes, and in its
// retries. It stays as urgent as the tasks that wait for it have made it, see
// [Handle.Wait], and a more urgent priority passes on to what it waits for itself.
// SetPriority returns false if the task has settled.
func (h *Handle) SetPriority(pr Priority) bool {
	h.mustBeUsable("Handle.SetPriority")
	p := h.pool
	p.lock()
	changed := p.sched.setPriority(h, pr, p.now())
	var l lending
	if changed {
		if g := h.group(); g != nil && g.lent {
			g.lendLocked(h, &lending{urgency: g.urgency})
		}
		l = lending{urgency: h.urgency()}
		l.changedLocked(h)
		l.passOnLocked(p)
		p.restoreLocked()
	}
	p.unlock()
	l.passOn()
	return changed
}

// Current returns the task whose Run got ctx, or a context that ctx derives from.
// It returns false outside a task.
func Current(ctx context.Context) (TaskInfo, bool) {
	if ctx == nil {
		panic(nilArgument("Current", "ctx").Error())
	}
	a := attemptFrom(ctx)
	if a == nil {
		return TaskInfo{}, false
	}
	a.h.pool.lock()
	defer a.h.pool.unlock()
	return a.infoLocked(), true
}

// Detach returns the context that the task of ctx was submitted with, without that
// task's identity: work that a task starts with it neither ends with the task nor
// counts as part of it. Without Detach such work is canceled when the task returns:
// the log has a warning then, and [Stats] counts it as Orphaned. What was added to
// the context inside the task is not in it. Outside a task Detach returns ctx.
func Detach(ctx context.Context) context.Context {
	if ctx == nil {
		panic(nilArgument("Detach", "ctx").Error())
	}
	a := attemptFrom(ctx)
	if a == nil {
		return ctx
	}
	ctx = a.ctx
	if attemptFrom(ctx) != nil { // the task was submitted by a task
		return context.WithValue(ctx, remote.AttemptKey{}, nil)
	}
	return ctx
}
