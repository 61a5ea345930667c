package taskpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/taskpool-go/taskpool/internal/contain"
)

// Hooks are functions that the pool calls on events; any may be nil. They are
// called without a lock, on the goroutine that brought the event about: Queued
// on the submitter's, those of an attempt on its worker's, before the worker
// takes its next task. So a slow hook slows its caller down and nobody else. What
// the supervisor finds, the end of hung tasks and everything about workers, is told
// one event after the other on a goroutine of its own. There a slow hook holds up
// the next events, and if a thousand of them wait, dead workers are replaced no
// sooner than hooks are told.
//
// If a hook panics or calls [runtime.Goexit], that is logged and changes no task's
// outcome. [Pool.Shutdown] and [Pool.WaitIdle] wait for hooks, whatever goroutine the
// hooks are called on, and return [ErrInside] when called in a hook of the pool.
//
// A hook must not wait for room: on a worker's goroutine it keeps the slot that would be
// room. [Pool.TryGo] and [Pool.TrySubmit] never wait.
//
// A hook costs each task the time that it takes and one or two looks at the clock,
// which for short functions given to Go may be as much as they take themselves; see
// GoEvery.
//
// The events of one attempt come in order. Queued, called after the fact, may
// come while the task is running already, and a hook that takes longer than the delay
// of a retry may still be running when the next attempt starts. If Started takes so
// long that the attempt is given up, hooks that have not been told of the start yet
// are no longer told of it.
type Hooks struct {
	Queued        func(TaskEvent) // accepted: it waits for a worker, or for its time
	Started       func(TaskEvent) // an attempt starts; Run is not called if the context ends before all hooks are told
	AttemptFailed func(TaskEvent) // an attempt has failed with Err, whether it is retried or not
	Retried       func(TaskEvent) // the failed task will be retried after Delay
	Shed          func(TaskEvent) // removed from a full queue, or as it had waited too long; Finished follows
	Finished      func(TaskEvent) // reached its final state: once for each accepted task

	WorkerDied      func(WorkerEvent) // a worker's goroutine ended, by a panic or Goexit
	WorkerAbandoned func(WorkerEvent) // a worker was given up with its hung task
	WorkerReplaced  func(WorkerEvent) // a new worker has taken its place

	// Around is called in place of an attempt's Run and must call run, once
	// and on the same goroutine, with ctx or a context derived from it. What
	// it returns is the attempt's error. If Run panics, run returns a
	// [*PanicError] to Around, and that stands; but the panic does not end the
	// worker, which need not be replaced then. With several hooks the first is
	// the outermost. If Around panics before it has called run, the attempt goes
	// on without it; if it panics afterward, run's error stands. For a function
	// given to Go, ctx is [context.Background].
	Around func(ctx context.Context, t TaskInfo, run func(context.Context) error) error

	// GoEvery limits these hooks to a sample of the functions given to Go: of
	// those that end well they are told of one in GoEvery, chosen at random, and
	// the others cost nothing. Of one that fails or is shed they are always told,
	// but of its start only if it was chosen. With 0 and 1 they are told of every
	// function. Tasks given to Submit are not affected.
	GoEvery int
}

// A TaskEvent is an event in a task's life.
type TaskEvent struct {
	Pool  string        // the pool's name
	Task  TaskInfo      // the task as it was then, with the worker and the start of the attempt, if there was one
	Err   error         // AttemptFailed, Retried: the attempt's error; Finished: the task's
	Delay time.Duration // Retried: the time until the next attempt may start

	// Result is how the attempt ended: set for AttemptFailed and Retried, and for
	// Finished unless the task ended while it waited.
	Result Result

	// Wait is how long the task has waited for a worker before its attempt started or it was
	// shed, since it was accepted or became due, with the time for which the limit of its flow
	// held it back: set for all events but Queued, and for Finished unless the task was
	// canceled while it waited. Of a function given to Go it is set for Started, and for Shed
	// and Finished if it was shed; it is zero then unless some hook is told of the start or end
	// of each function, or the pool has a queue delay, see [WithQueueDelay].
	Wait time.Duration
	// Elapsed is how long the attempt took, from its start to its end, with the
	// time in which it was parked: set for AttemptFailed, Retried and Finished. It
	// is zero if no attempt was made, and for a function given to Go if no hook had
	// to be told of its start or end, because none is set or GoEvery left it out.
	Elapsed time.Duration

	// Context is the one that the task was submitted with, for its values, such as a trace, and
	// [context.Background] for a function given to Go. It may have ended.
	Context context.Context
}

// A WorkerEvent is an event in a worker's life. Workers are numbered from 1 in
// the order in which they were started; a number is never used again.
type WorkerEvent struct {
	Pool        string
	Worker      int // the one that died or was abandoned
	Replacement int // WorkerReplaced: the new one
	Reason      Reason
}

// A Result is how an attempt ended. The zero value, "", means that no attempt has ended.
// It is text for logs and metrics, where it appears as one of these values.
type Result string

// The results of an attempt, each with the field of [Stats] that counts it.
const (
	ResultSuccess     Result = "success"     // returned no error
	ResultError       Result = "error"       // returned an error: Errors
	ResultTimeout     Result = "timeout"     // returned an error after a timeout or without a Beat for too long: Timeouts
	ResultInterrupted Result = "interrupted" // returned an error after it was canceled: Interrupted
	ResultPanic       Result = "panic"       // panicked: Panics
	ResultGoexit      Result = "goexit"      // called runtime.Goexit: Goexits
	ResultHung        Result = "hung"        // was given up as hung: Hangs
)

// A Reason is why a worker died or was given up, and was replaced.
type Reason string

// The reasons, each with the field of [Stats] that counts the replacements.
const (
	ReasonPanic  Reason = "panic"  // its task, or a hook, panicked: ReplacedPanic
	ReasonGoexit Reason = "goexit" // its task, or a hook, called runtime.Goexit: ReplacedGoexit
	ReasonHung   Reason = "hung"   // its task was given up as hung: ReplacedHung
)

// errNotRun is the outcome of an attempt whose Around returned nil without
// having called run.
var errNotRun = errors.New("taskpool: hook Around returned nil without calling run")

// hookTable holds the hooks of a pool by event.
type hookTable struct {
	queued, started, attemptFailed, retried, shed, finished []func(TaskEvent)
	workerDied, workerAbandoned, workerReplaced             []func(WorkerEvent)
	around                                                  []func(context.Context, TaskInfo, func(context.Context) error) error

	outside  bool     // some hook may be told on a goroutine that is not one of the pool's
	timed    bool     // some hook is told how long a task waited, or a function took; or the pool must know how long each waits
	all      bool     // some hook is told of each function given to Go
	samples  []uint64 // GoEvery of the other hooks
	timesGo  bool     // some or all functions are timed
	timesAll bool     // all are
}

// unsampled returns TaskInfo.sample for a function that is in no sample. Without samples
// it is 0, so that nothing but their ID distinguishes such functions from tasks.
func (t *hookTable) unsampled() uint64 {
	if len(t.samples) == 0 {
		return 0
	}
	return 1
}

// draw draws a number for a function given to Go, see TaskInfo.sample, and reports whether
// it is in any hook's sample.
func (t *hookTable) draw() (draw uint64, sampled bool) {
	draw = rand.Uint64()
	for _, every := range t.samples {
		if draw%every == 0 {
			return draw, true
		}
	}
	return t.unsampled(), false
}

// sampled returns hooks that pass on to h what GoEvery lets through.
func (h Hooks) sampled() Hooks {
	every := uint64(h.GoEvery)
	event := func(hook func(TaskEvent)) func(TaskEvent) {
		if hook == nil {
			return nil
		}
		return func(e TaskEvent) {
			if e.Task.sample%every == 0 || e.Err != nil {
				hook(e)
			}
		}
	}
	h.Queued, h.Started, h.Finished = event(h.Queued), event(h.Started), event(h.Finished) // the others have an error
	if around := h.Around; around != nil {
		h.Around = func(ctx context.Context, t TaskInfo, run func(context.Context) error) error {
			if t.sample%every != 0 {
				return run(ctx)
			}
			return around(ctx, t, run)
		}
	}
	return h
}

// newHookTable returns the table of hooks; delay says that the pool must know how long each
// task waits.
func newHookTable(hooks []Hooks, delay bool) (t hookTable) {
	for _, h := range hooks {
		t.outside = t.outside || h.Queued != nil || h.Shed != nil || h.Finished != nil
		t.timed = t.timed || h.Started != nil || h.Finished != nil || h.Shed != nil
		if h.GoEvery > 1 {
			t.samples = append(t.samples, uint64(h.GoEvery))
			h = h.sampled()
		} else if h.Started != nil || h.Finished != nil || h.Around != nil {
			t.all = true
		}
		add(&t.queued, h.Queued)
		add(&t.started, h.Started)
		add(&t.attemptFailed, h.AttemptFailed)
		add(&t.retried, h.Retried)
		add(&t.shed, h.Shed)
		add(&t.finished, h.Finished)
		add(&t.workerDied, h.WorkerDied)
		add(&t.workerAbandoned, h.WorkerAbandoned)
		add(&t.workerReplaced, h.WorkerReplaced)
		if h.Around != nil {
			t.around = append(t.around, h.Around)
		}
	}
	t.timed = t.timed || delay
	t.timesAll = t.all && t.timed || delay
	t.timesGo = t.timesAll || len(t.samples) > 0
	return t
}

func add[E any](to *[]func(E), f func(E)) {
	if f != nil {
		*to = append(*to, f)
	}
}

// TaskInfo describes a task at one moment.
type TaskInfo struct {
	Pool     string // the pool's name, as given to WithName
	ID       uint64 // number in order of acceptance, from 1; 0 for a function given to Go
	Name     string
	Flow     string // as in Task
	Priority Priority
	// Urgency is what the task counts as when it is decided who is next: its Priority, or
	// that of a more urgent task that waits for it.
	Urgency Priority
	// WaitsFor says, for people, what a task that is Parked waits for: another task, the
	// members of a group, room, an idle pool. Empty in Yield and Block, and when it waits for
	// nothing but a slot. Of a task that is Delayed it says which others it waits for, see
	// Task.After; empty if it waits for its time.
	WaitsFor string
	State    State
	Attempt  int // the number of the attempt under way, or of those started; from 1
	Worker   int // Running, Parked and Abandoned: the worker's number
	// Started is when the attempt of a task that is Running, Parked or Abandoned
	// started. For a function given to Go it may be when Stats or Tasks first found it
	// at work: the clock is not read for one that runs after another out of a backlog,
	// nor for any if no hook is told of starts or ends. It is zero if neither has
	// found it.
	Started time.Time
	// Deadline is, of a task that is Running or Parked, when the attempt's Timeout is over;
	// zero without a Timeout, even with a WorkTimeout.
	Deadline time.Time
	Due      time.Time // Delayed: when the task will be queued, if it does not wait for others then
	Err      error     // of the last failed attempt, if any
	Handle   *Handle   // nil for a function given to Go

	// sample says which hooks' samples a function given to Go is in: those whose GoEvery
	// divides it. It is 0, which every GoEvery divides, for other tasks.
	sample uint64
}

// IsFunc reports whether t describes a function given to Go or TryGo, and not a task given
// to Submit. A function has neither ID nor Name nor Handle. Hooks may be told of only a
// sample of the functions, see [Hooks], so that one stands for several.
func (t TaskInfo) IsFunc() bool { return t.ID == 0 }

// String describes the task in a line such as
//
//	task 17 "report" (high, flow "acme", running)
//
// with its flow if it has one and the attempt from the second on, and a function given to
// Go as function (high, running).
func (t TaskInfo) String() string {
	text := []byte("function")
	if !t.IsFunc() {
		text = fmt.Appendf(nil, "task %d", t.ID)
	}
	if t.Name != "" {
		text = fmt.Appendf(text, " %q", t.Name)
	}
	text = fmt.Appendf(text, " (%v", t.Priority)
	if t.Urgency < t.Priority {
		text = fmt.Appendf(text, " → %v", t.Urgency)
	}
	if t.Flow != "" {
		text = fmt.Appendf(text, ", flow %q", t.Flow)
	}
	text = fmt.Appendf(text, ", %v", t.State)
	if t.Attempt > 1 {
		text = fmt.Appendf(text, ", attempt %d", t.Attempt)
	}
	return string(append(text, ')'))
}

// LogValue has package log/slog log the task as a group of pool, if that has a name, id,
// name, priority, flow, if it has one, state and attempt; of a function given to Go without
// id and name.
func (t TaskInfo) LogValue() slog.Value {
	var attrs []slog.Attr
	if t.Pool != "" {
		attrs = append(attrs, slog.String("pool", t.Pool))
	}
	if !t.IsFunc() {
		attrs = append(attrs, slog.Uint64("id", t.ID), slog.String("name", t.Name))
	}
	attrs = append(attrs, slog.Any("priority", t.Priority))
	if t.Flow != "" {
		attrs = append(attrs, slog.String("flow", t.Flow))
	}
	return slog.GroupValue(append(attrs, slog.String("state", t.State.String()), slog.Int("attempt", t.Attempt))...)
}

// infoLocked describes h, with the attempt under way if there is one.
func (h *Handle) infoLocked() TaskInfo {
	if h.function != nil {
		t := TaskInfo{Pool: h.pool.cfg.name, Priority: h.priority, Urgency: h.urgency(), State: h.state, sample: h.function.sample}
		if a := h.attempt; a != nil { // see worker.adopt
			t.Attempt, t.Worker, t.Started = int(a.number), a.w.id, a.started
		}
		return t
	}
	t := TaskInfo{Pool: h.pool.cfg.name, ID: h.id, Name: h.task.Name, Flow: h.task.Flow, Priority: h.priority, State: h.state,
		Urgency: h.urgency(), Attempt: int(h.attempts), Err: h.lastErr(), Handle: h}
	if a := h.attempt; a != nil {
		t.Worker, t.Started, t.Deadline = a.w.id, a.started, a.timeoutEnd()
		if pk := a.suspension; pk != nil && !pk.askedLocked() {
			t.WaitsFor = pk.waits.describe(h.pool)
		}
	}
	if h.state == StateDelayed {
		if t.Due = h.due; h.place.in == inDependents {
			t.Due, t.WaitsFor = h.extras().NotBefore, h.describeDependencies()
		}
	}
	return t
}

// infoLocked describes a's task as a sees it.
func (a *attempt) infoLocked() TaskInfo {
	t := a.h.infoLocked()
	t.Attempt, t.Worker, t.Started, t.Deadline = int(a.number), a.w.id, a.started, a.timeoutEnd()
	if a.w.gaveUp && a.w.attempt == a {
		t.State = StateAbandoned
	}
	return t
}

// infoLocked describes the task that w is working on.
func (w *worker) infoLocked() TaskInfo {
	if w.attempt != nil {
		return w.attempt.infoLocked()
	}
	t := TaskInfo{Pool: w.pool.cfg.name, Priority: w.priority, Urgency: w.priority, State: StateRunning, Attempt: 1, Worker: w.id, Started: w.started, sample: w.sampleOf()}
	if w.seen == w.jobs && !w.timed {
		t.Started = w.seenAt
	}
	if w.gaveUp {
		t.State = StateAbandoned
	}
	return t
}

// stateLocked returns the state of the task that w, which is busy, is working on, as infoLocked
// has it.
func (w *worker) stateLocked() State {
	switch {
	case w.gaveUp:
		return StateAbandoned
	case w.attempt != nil:
		return w.attempt.h.state
	}
	return StateRunning
}

// sampleOf returns TaskInfo.sample of the function that w is working on.
func (w *worker) sampleOf() uint64 {
	if w.timed {
		return w.sample
	}
	return w.pool.hooks.unsampled()
}

// runAround calls run within hooks, of which the first is the outermost.
func (w *worker) runAround(hooks []func(context.Context, TaskInfo, func(context.Context) error) error) {
	w.aroundTried = true // tells a replacement not to try again
	w.pool.lock()
	info := w.infoLocked()
	w.pool.unlock()
	run := func(ctx context.Context) error {
		switch {
		case w.ran:
			return errors.New("taskpool: hook Around called run a second time")
		case ctx == nil:
			return errors.New("taskpool: hook Around called run with a nil context")
		}
		if w.err = w.mayRun(); w.err == nil {
			w.err = w.callRecovered(ctx)
		}
		w.ran = true
		return w.err
	}
	for i := len(hooks) - 1; i >= 0; i-- {
		hook, next := hooks[i], run
		run = func(ctx context.Context) error { return hook(ctx, info, next) }
	}
	var err error
	if !w.containAround(func() { err = run(w.context()) }) {
		return
	}
	switch {
	case w.kind == attemptPanic: // this stands
	case !w.ran && err == nil:
		w.ran, w.err = true, errNotRun
	default:
		w.ran, w.err = true, err
	}
}

// containAround is guard.contain for hooks that go around Run. A Goexit of Run itself must
// not be logged as theirs.
func (w *worker) containAround(f func()) (ok bool) {
	defer func() {
		if ok {
			return
		}
		if v := recover(); v != nil || !w.inUserCode {
			w.pool.guard.logContained("hook Around", v)
		}
	}()
	f()
	return true
}

// callRecovered is call for the hooks that go around it: they see a panic as an error.
func (w *worker) callRecovered(ctx context.Context) (err error) {
	normal := false
	func() {
		defer func() {
			if !normal {
				w.value, w.site = recover(), newPanicSite(w.goroutine.Load())
				w.panicked = w.value != nil
			}
		}()
		err = w.call(ctx)
		normal = true
	}()
	if !normal { // a Goexit does not come here; died sees to it
		w.inUserCode = false
		if w.guest != nil && contain.IsAbort(w.value) {
			err = contain.Abort
		} else {
			err, w.kind = (&PanicError{Value: w.value, site: w.site}).complete(), attemptPanic
		}
		if w.panicked, w.site = false, (panicSite{}); w.guest == nil {
			w.value = nil
		}
	}
	return err
}
