package taskpool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

// A Priority says how urgent a task is: the lower number runs first. Any int is
// a priority; three have names. The zero value is the ordinary case, so that a
// forgotten field does no harm.
type Priority int

// The named priorities.
const (
	High   Priority = -1
	Medium Priority = 0
	Low    Priority = 1
)

// String returns "high", "medium", "low" or the number.
func (pr Priority) String() string {
	switch pr {
	case High:
		return "high"
	case Medium:
		return "medium"
	case Low:
		return "low"
	}
	return strconv.Itoa(int(pr))
}

// A Task is a piece of work and how it is to be treated. The pool copies it; a
// Task may be used as a template and submitted any number of times.
type Task struct {
	// Name is shown in logs, metrics and lists of tasks. It need not be
	// unique and may be empty.
	Name string

	// Priority is the task's urgency; zero is Medium.
	Priority Priority

	// Run does the work. It is required by Submit, and must be nil where a
	// function stands beside the Task, as with [Call] and [Map]. Its context ends when the attempt is over, times
	// out or is canceled; see [Detach] for work that is to outlive it.
	//
	// A Run that leaves its thread locked, see [runtime.LockOSThread], leaves it
	// so for the tasks that come after it on the same goroutine. The pool does not
	// unlock it: that would hand a thread that Run may have changed for good to the
	// whole program. A Run that has done so ends with [runtime.Goexit], and the
	// thread with it. A panic in a goroutine that Run has started ends the process.
	Run func(ctx context.Context) error

	// Timeout bounds one attempt from its start to its end, the time in which
	// it is parked included: in [Block], and while it waits for its turn, for
	// other tasks or for room. Then the context of the attempt ends with
	// [ErrTimeout]. Zero: no bound.
	Timeout time.Duration

	// WorkTimeout bounds the time in which one attempt has a slot or is at
	// work in the function given to [Block]; what it waits for its turn, for
	// other tasks or for room does not count. Then the context of the attempt
	// ends with [ErrTimeout] as cause. It is no deadline, as nobody knows when
	// that will be, so the context's Err is [context.Canceled]. Each attempt
	// has it anew, and Timeout may be set too. Zero: no bound.
	WorkTimeout time.Duration

	// Heartbeat is the longest silence allowed between the calls of [Yield]
	// and [Beat] of an attempt, while it is not parked. A task that is silent
	// for longer, which is found out within twice the time, has its context
	// ended with [ErrHung]. Zero: not watched.
	Heartbeat time.Duration

	// Retry says whether and when a failed attempt is followed by another.
	// Zero: one attempt.
	Retry Retry

	// NotBefore is the earliest time at which the task may start. Zero, or a
	// time in the past: at once. The task is accepted now, so Shutdown waits
	// for it or cancels it, see [WithDelayedAtShutdown], and it takes no room
	// from tasks that could run, see [WithCapacity].
	NotBefore time.Time
}

// Retry is a task's policy for failed attempts.
//
// A retry that is due joins the queue behind all tasks of its priority that wait
// there, also without any delay: with a backlog of its priority it starts when that
// is done. So tasks that fail again and again take turns with those that have not
// started, and never keep them waiting; docs/starvation.md says why nothing else
// would hold. For a retry that is to come sooner, loop in Run, or move the task
// with [Handle.SetPriority] while it waits, as a hook Retried may do.
type Retry struct {
	// MaxAttempts is the number of attempts in all, the first included. With
	// 0 and 1 there is no retry, and then Backoff and If must be nil.
	MaxAttempts int

	// Backoff returns the time from the end of attempt n, counted from 1, to
	// its retry; a negative one counts as 0. Nil: exponential with full
	// jitter, uniform between 0 and 100 ms doubled with each attempt, at
	// most 30 s.
	Backoff func(attempt int) time.Duration

	// If says whether the error of an attempt is worth a retry. Nil: every
	// error but a hang. It is not asked about a [Permanent] error, a
	// canceled task and a call of [runtime.Goexit]: these are never retried.
	// Where Run returns while If is asked about its hang, it is asked again,
	// about what Run came to, and only that answer counts.
	If func(err error) bool
}

// Bounds of the default backoff.
const (
	backoffBase = 100 * time.Millisecond
	backoffCap  = 30 * time.Second
)

// defaultBackoff is exponential backoff with full jitter. Full jitter spreads
// the retries of tasks that failed together evenly, see Marc Brooker,
// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
func defaultBackoff(attempt int) time.Duration {
	limit := backoffCap
	if shift := attempt - 1; shift < 20 {
		limit = min(limit, backoffBase<<shift)
	}
	return time.Duration(rand.Int64N(int64(limit) + 1))
}

// validate reports the first field of t that cannot be accepted, but for Run.
func (t *Task) validate() error {
	bad := func(field, allowed string, got any) error {
		return fmt.Errorf("taskpool: Task.%s must %s, got %v", field, allowed, got)
	}
	switch r := &t.Retry; {
	case t.Timeout < 0:
		return bad("Timeout", "not be negative", t.Timeout)
	case t.WorkTimeout < 0:
		return bad("WorkTimeout", "not be negative", t.WorkTimeout)
	case t.Heartbeat < 0:
		return bad("Heartbeat", "not be negative", t.Heartbeat)
	case r.MaxAttempts < 0:
		return bad("Retry.MaxAttempts", "not be negative", r.MaxAttempts)
	case r.MaxAttempts <= 1 && r.Backoff != nil:
		return bad("Retry.MaxAttempts", "be at least 2 where Retry.Backoff is set", r.MaxAttempts)
	case r.MaxAttempts <= 1 && r.If != nil:
		return bad("Retry.MaxAttempts", "be at least 2 where Retry.If is set", r.MaxAttempts)
	}
	return nil
}

// A State is where a task is in its life. Every accepted task reaches exactly
// one of the final states Succeeded, Failed, Canceled and Shed, once.
type State int

// The states of a task.
const (
	Queued    State = iota // waits for a worker
	Delayed                // waits for its NotBefore time or for its retry
	Running                // an attempt is under way
	Parked                 // an attempt has given its slot back and will go on
	Succeeded              // Run returned nil
	Failed                 // the last attempt failed
	Canceled               // its context ended or it was canceled before it succeeded
	Shed                   // removed from a full queue for a more urgent task
	Abandoned              // in a TaskInfo only: an attempt given up as hung whose goroutine still runs; the task itself has moved on

	numStates = iota
)

// String returns the state's name in lower case.
func (s State) String() string {
	names := [numStates]string{"queued", "delayed", "running", "parked",
		"succeeded", "failed", "canceled", "shed", "abandoned"}
	if s < 0 || s >= numStates {
		return "State(" + strconv.Itoa(int(s)) + ")"
	}
	return names[s]
}

// final reports whether a task in state s has settled.
func (s State) final() bool { return s >= Succeeded && s <= Shed }

// A Handle refers to one submitted task. Its methods may be called from any
// goroutine at any time. A Handle must not be copied: the methods of a copy panic, and
// Wait returns an error.
type Handle struct {
	pool *Pool
	self *Handle // the one that Submit returned: copies are refused, see misuse.go
	ends bool    // the context given to Submit can end

	function bool // it stands for a function given to Go, see timedFunction
	terms    terms

	// settled is set, under pool.mu, when state and err are final. Whoever has seen it,
	// or the waiters' channel closed, may read them without the lock.
	settled atomic.Bool

	watch *contextWatch // of that context; nil if there is none, or none any more, see watches

	// The fields below are protected by pool.mu.

	work     work   // without run once settled
	id       uint64 // number in order of acceptance, from 1
	task     Task   // without its functions once settled
	state    State
	err      error         // the task's error, once settled
	lastErr  error         // of the last failed attempt
	attempts int           // started so far
	queuedAt time.Duration // since pool.epoch: when it was queued at last, if hooks are told of times
	draw     uint64        // as in TaskInfo
	attempt  *attempt      // the one under way; nil while there is none
	first    *attempt      // made with the handle; it has the context given to Submit. Nil once settled

	place  place     // where it waits while Queued
	due    time.Time // when Delayed ends
	heapI  int32     // index in Pool.delayed while Delayed
	watchI int32     // index in watch
	// canceled is the cause of Cancel or of ctx's end, if that came before
	// the task was accepted or while an attempt was under way.
	canceled error
	refused  error    // why a submitter that waited for room was turned away
	parent   *attempt // the one that submits, while it waits for room; of an orphan that settles, the one that has returned
	// waiters wait until the task has settled or, while it waits for room itself, until
	// it is accepted or refused.
	waiters waiters
}

// newHandle returns the handle of a task that was submitted with ctx, with its first
// attempt. The two are one object, which saves an allocation, where the attempt keeps
// nothing of the caller's alive while the handle is kept.
func newHandle(ctx context.Context) *Handle {
	if ctx == context.Background() || ctx == context.TODO() {
		both := new(struct {
			Handle
			attempt
		})
		h := &both.Handle
		h.self, h.first, h.heapI, both.attempt.ctx = h, &both.attempt, -1, ctx
		return h
	}
	h := &Handle{first: &attempt{ctx: ctx}, heapI: -1}
	h.self = h
	return h
}

// Done returns a channel that is closed when the task has settled.
func (h *Handle) Done() <-chan struct{} {
	h.mustBeUsable("Handle.Done")
	h.pool.lock()
	defer h.pool.unlock()
	return h.doneLocked()
}

func (h *Handle) doneLocked() <-chan struct{} {
	if h.state.final() {
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
// waits, so that tasks may wait for each other to any depth, on one worker too. With
// a context that is not the task's, the wait also ends, with the cause, when the
// task's context does, unless that had ended before; [context.WithoutCancel] of the
// task's context is for one that is to go on waiting. Called inside the very task it
// returns [ErrInside], whatever the context.
func (h *Handle) Wait(ctx context.Context) error {
	if err := h.misuse("Handle.Wait"); err != nil {
		return err
	}
	if ctx == nil {
		return nilArgument("Handle.Wait", "ctx")
	}
	return h.wait(&wait{ctx: ctx})
}

// wait is Wait, as w says.
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
	if err := h.pool.awaitLocked(w); err != nil {
		return err
	}
	return h.err
}

// waitOutside is wait outside of tasks, where no slot is to be given back. The lock is
// taken once, to leave word that somebody waits, and without a look at what has arrived:
// with that, many who submit and wait would be in the workers' way.
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

// State returns the state the task is in.
func (h *Handle) State() State {
	h.mustBeUsable("Handle.State")
	h.pool.lock()
	defer h.pool.unlock()
	return h.state
}

// Cancel ends the task with the given cause, nil standing for
// [context.Canceled]. A task that waits is gone at once and its room in the
// queue is free; a running one has its context ended, and is Canceled if Run
// then returns an error and Succeeded if it returns nil. Cancel does not wait
// for that. It returns false if the task had settled already.
func (h *Handle) Cancel(cause error) bool {
	h.mustBeUsable("Handle.Cancel")
	if cause == nil {
		cause = context.Canceled
	}
	return h.pool.cancel(h, cause)
}

// SetPriority moves a waiting task to another priority, at the back of those
// that wait there, even if that is the priority it has. It returns false if the
// task no longer waits: it runs, is parked or has settled.
func (h *Handle) SetPriority(pr Priority) bool {
	h.mustBeUsable("Handle.SetPriority")
	p := h.pool
	p.lock()
	defer p.unlock()
	switch h.state {
	case Queued:
		e := p.queue.remove(h)
		h.task.Priority = pr
		e.order = p.orderLocked()
		p.queue.push(e, pr, false)
	case Delayed:
		h.task.Priority = pr
	default:
		return false
	}
	p.restoreLocked()
	return true
}
