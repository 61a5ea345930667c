package taskpool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"time"
)

// Hooks are functions that the pool calls on events; any may be nil. They are
// called without a lock, on the goroutine that brought the event about: Queued
// on the submitter's, those of an attempt on its worker's, before the worker
// takes its next task. So a slow hook slows its caller down and nobody else. What
// the supervisor finds is told one after the other on a goroutine of its own: the
// end of hung tasks, and all about workers. There a slow hook holds up the next of
// these, and if a thousand wait, dead workers are replaced no sooner than hooks are
// told.
//
// A hook that panics or calls [runtime.Goexit] is logged and changes no task's
// outcome. [Pool.Shutdown] and [Pool.WaitIdle] wait for hooks, whatever goroutine they
// are called on, and return [ErrInside] in a hook of the pool.
//
// A hook costs each task its time and that of a look or two at the clock, which
// for short functions given to Go may be as much as they take themselves; see
// GoEvery.
//
// The events of one attempt come in order. Queued, called after the fact, may
// come while the task runs already, and a hook that takes longer than the delay
// of a retry may still be at work when the next attempt starts. Should Started take
// so long that the attempt is given up, hooks that were not told yet are not told of
// the start any more.
type Hooks struct {
	Queued        func(TaskEvent) // accepted: it waits for a worker, or for its time
	Started       func(TaskEvent) // an attempt starts; Run is not called if the context ends before all hooks are told
	AttemptFailed func(TaskEvent) // an attempt has failed with Err, for good or not
	Retried       func(TaskEvent) // the failed task will be retried after Delay
	Shed          func(TaskEvent) // removed from a full queue; Finished follows
	Finished      func(TaskEvent) // reached its final state: once for each accepted task

	WorkerDied      func(WorkerEvent) // a worker's goroutine ended, by a panic or Goexit
	WorkerAbandoned func(WorkerEvent) // a worker was given up with its hung task
	WorkerReplaced  func(WorkerEvent) // a new worker has taken its place

	// Around is called in place of an attempt's Run and must call run, once
	// and on the same goroutine, with ctx or a context derived from it. What
	// it returns is the attempt's error; of a run that panicked it is shown a
	// [*PanicError], and that stands, but does not end the worker, which need not be
	// replaced then. With several hooks the first is the outermost. If it panics before it has called run, the attempt goes on
	// without it; if it panics afterwards, run's error stands. For a function
	// given to Go, ctx is [context.Background].
	Around func(ctx context.Context, t TaskInfo, run func(context.Context) error) error

	// GoEvery makes these hooks a sample where functions given to Go are
	// concerned: of those that end well they are told of one in GoEvery, chosen
	// at random, and the others cost nothing. Of one that fails or is shed they
	// are always told, of its start only if it was chosen. 0 and 1: of every
	// function. Tasks given to Submit are not affected.
	GoEvery int
}

// A TaskEvent is an event in a task's life.
type TaskEvent struct {
	Pool  string        // the pool's name
	Task  TaskInfo      // the task as it was then, with the worker and the start of the attempt, if there was one
	Err   error         // AttemptFailed, Retried: the attempt's error; Finished: the task's
	Delay time.Duration // Retried: the time until the next attempt may start

	// Result is how the attempt ended, in the terms of [Stats]: "success", "error",
	// "timeout", "interrupted", "panic", "goexit" or "hung". Set for AttemptFailed and
	// Retried, and for Finished unless the task ended while it waited.
	Result string

	// Wait is how long the task has waited for a worker, since it was accepted or
	// its time had come: set for Started.
	Wait time.Duration
	// Elapsed is how long the attempt took, from its start to its end, with the
	// time in which it was parked: set for AttemptFailed, Retried and Finished. It
	// is zero if no attempt was made, and for a function given to Go of whose start
	// or end no hook was to be told, as none is set or GoEvery has left it out.
	Elapsed time.Duration
}

// A WorkerEvent is an event in a worker's life. Workers are numbered from 1 in
// the order in which they were started; a number is never used again.
type WorkerEvent struct {
	Pool        string
	Worker      int    // the one that died or was abandoned
	Replacement int    // WorkerReplaced: the new one
	Reason      string // "panic", "goexit" or "hung"
}

// errNotRun is the outcome of an attempt whose Around returned nil without
// having called run.
var errNotRun = errors.New("taskpool: hook Around returned nil without calling run")

// hookTable is the hooks of a pool by event.
type hookTable struct {
	queued, started, attemptFailed, retried, shed, finished []func(TaskEvent)
	workerDied, workerAbandoned, workerReplaced             []func(WorkerEvent)
	around                                                  []func(context.Context, TaskInfo, func(context.Context) error) error

	outside bool     // some hook may be told on a goroutine that is none of the pool's
	timed   bool     // some hook is told how long a task waited, or a function took
	all     bool     // some hook is told of each function given to Go
	samples []uint64 // GoEvery of the others
}

// unsampled is TaskInfo.draw of a function that is in no sample. Without samples
// it is 0, so that such functions are told from tasks by nothing but their ID.
func (t *hookTable) unsampled() uint64 {
	if len(t.samples) == 0 {
		return 0
	}
	return 1
}

// draws draws lots for a function given to Go, and reports whether it is for any
// hook's sample.
func (t *hookTable) draws() (draw uint64, sampled bool) {
	draw = rand.Uint64()
	for _, every := range t.samples {
		if draw%every == 0 {
			return draw, true
		}
	}
	return t.unsampled(), false
}

// sampled returns hooks that are h for what GoEvery lets through.
func (h Hooks) sampled() Hooks {
	every := uint64(h.GoEvery)
	event := func(hook func(TaskEvent)) func(TaskEvent) {
		if hook == nil {
			return nil
		}
		return func(e TaskEvent) {
			if e.Task.draw%every == 0 || e.Err != nil {
				hook(e)
			}
		}
	}
	h.Queued, h.Started, h.Finished = event(h.Queued), event(h.Started), event(h.Finished) // the others have an error
	if around := h.Around; around != nil {
		h.Around = func(ctx context.Context, t TaskInfo, run func(context.Context) error) error {
			if t.draw%every != 0 {
				return run(ctx)
			}
			return around(ctx, t, run)
		}
	}
	return h
}

func newHookTable(hooks []Hooks) (t hookTable) {
	for _, h := range hooks {
		t.outside = t.outside || h.Queued != nil || h.Shed != nil || h.Finished != nil
		t.timed = t.timed || h.Started != nil || h.Finished != nil
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
	return t
}

func add[E any](to *[]func(E), f func(E)) {
	if f != nil {
		*to = append(*to, f)
	}
}

// A report is something to tell hooks and the log about, to be called without
// a lock: a call or, if that is nil, a hook to be told of an event.
type report struct {
	call  func()
	hook  func(TaskEvent)
	event *TaskEvent
	start bool // of the start of an attempt, which is not told once that was given up
}

func (r *report) make() {
	if r.call != nil {
		r.call()
	} else {
		r.hook(*r.event)
	}
}

// tell adds the reports that tell hooks about e.
func tell[E any](reports *[]report, hooks []func(E), e E) {
	for _, hook := range hooks {
		e := e // moves to the heap here, not where there is no hook
		*reports = append(*reports, report{call: func() { hook(e) }})
	}
}

// tellOf adds the reports that tell hooks about *e, which stays as it is until they
// are made.
func tellOf(reports *[]report, hooks []func(TaskEvent), e *TaskEvent) {
	for _, hook := range hooks {
		*reports = append(*reports, report{hook: hook, event: e})
	}
}

// deliver makes the reports in order. A panic in one is contained; Goexit is
// left to the caller's goroutine, and leaves the reports not yet made in *rs.
func (p *Pool) deliver(rs *[]report) {
	for len(*rs) > 0 {
		r := next(rs)
		p.contain("a hook or logger", func() { r.make() })
	}
}

// next takes the first of the reports.
func next(rs *[]report) report {
	r := (*rs)[0]
	(*rs)[0] = report{}
	*rs = (*rs)[1:]
	return r
}

// oweLocked notes that the caller, on whatever goroutine, is about to make reports with
// deliverAll. If hooks may be told of something then, WaitIdle and Shutdown wait for it.
func (p *Pool) oweLocked(rs []report) {
	if len(rs) > 0 && p.hooks.outside {
		p.helpers++
		p.telling++
	}
}

// deliverAll makes the reports that oweLocked has noted, those after a Goexit on
// another goroutine.
func (p *Pool) deliverAll(rs []report) {
	if len(rs) == 0 {
		return
	}
	defer func() {
		if len(rs) == 0 && !p.hooks.outside {
			return
		}
		p.lock()
		defer p.unlock()
		p.reportLocked(rs)
		if p.hooks.outside {
			p.helpers--
			p.telling--
			p.restoreLocked()
		}
	}()
	if p.hooks.outside {
		p.tellHere(&rs)
	} else {
		p.deliver(&rs)
	}
}

// tellHere is deliver where hooks may be told on a goroutine that is none of the pool's:
// tellsHere looks for it, and for p, on the stack.
//
//go:noinline
func (p *Pool) tellHere(rs *[]report) {
	p.deliver(rs)
	runtime.KeepAlive(p) // so that stacks show it
}

// tellsHere reports whether the calling goroutine is in tellHere of p. The number by
// which the runtime knows a goroutine would cost whoever tells hooks more than that is
// worth, as hooks hardly ever ask; this costs who asks.
func (p *Pool) tellsHere() bool {
	p.lock()
	telling := p.telling
	p.unlock()
	if telling == 0 {
		return false
	}
	stack := make([]byte, 64<<10)
	stack = stack[:runtime.Stack(stack, false)]
	return bytes.Contains(stack, fmt.Appendf(nil, ".(*Pool).tellHere(%p,", p))
}

// contain calls user code that must not harm anyone and reports whether it
// returned. A panic is logged, and so is [runtime.Goexit], which cannot be
// stopped: it ends the goroutine.
func (p *Pool) contain(what string, f func()) (ok bool) {
	defer func() {
		if !ok {
			p.logContained(what, recover())
		}
	}()
	f()
	return true
}

// finish is attempt.finish, which calls methods of the context given to Submit.
func (p *Pool) finish(a *attempt, e *ending) {
	if a.noteEnd(e); a.derived.Load() != nil {
		p.contain("a context's method", func() { a.finish(e) })
	}
}

// logContained logs the end of a user's function other than Run by a panic with
// value v, or by Goexit or panic(nil), if v is nil. The value's own methods and
// the logger may panic too; then the matter is dropped.
func (p *Pool) logContained(what string, v any) {
	defer func() { _ = recover() }()
	if v == nil {
		p.log(slog.LevelError, "taskpool: "+what+" called runtime.Goexit")
		return
	}
	p.log(slog.LevelError, "taskpool: "+what+" panicked", slog.String("panic", fmt.Sprint(v)))
}

// logger returns the pool's logger.
func (p *Pool) logger() *slog.Logger {
	if l := p.cfg.logger; l != nil {
		return l
	}
	return slog.Default()
}

// logs reports whether the log takes records of a level. It calls the user's
// handler, so no lock may be held.
func (p *Pool) logs(level slog.Level) bool {
	return p.logger().Enabled(context.Background(), level)
}

// log writes a record. It calls the user's handler, so no lock may be held.
func (p *Pool) log(level slog.Level, msg string, attrs ...slog.Attr) {
	if !p.logs(level) {
		return
	}
	if p.cfg.name != "" {
		attrs = append([]slog.Attr{slog.String("pool", p.cfg.name)}, attrs...)
	}
	p.logger().LogAttrs(context.Background(), level, msg, attrs...)
}

// logTask writes a record about a task.
func (p *Pool) logTask(level slog.Level, msg string, t TaskInfo, attrs ...slog.Attr) {
	all := []slog.Attr{slog.Any("priority", t.Priority), slog.Int("attempt", t.Attempt)}
	if t.ID != 0 {
		all = append(all, slog.Uint64("id", t.ID), slog.String("task", t.Name))
	}
	p.log(level, msg, append(all, attrs...)...)
}
