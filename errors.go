package taskpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool/internal/contain"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// The errors that callers branch on, with [errors.Is].
var (
	// ErrClosed is returned by Submit and Go once Shutdown has been called, and
	// is the error of a task that was cut off when Shutdown's context ended, or
	// that Shutdown canceled because of WithDelayedAtShutdown.
	ErrClosed = errors.New("taskpool: pool is shut down")

	// ErrFull is returned by Submit and Go when the queue has no room for
	// the task. If it is the task's flow that is full, the error is an ErrFlowFull.
	ErrFull = errors.New("taskpool: queue is full")

	// ErrFlowFull is returned by Submit when as many tasks of the task's flow wait as its
	// capacity allows, see [FlowPolicy]. The error is another one that Is ErrFlowFull, and its
	// text names the flow. It is an ErrFull too.
	ErrFlowFull error = &kindError{"taskpool: queue of the flow is full", ErrFull}

	// ErrShed is the error of a task that was removed from a full queue to
	// make room for a more urgent one. It is an ErrFull too.
	ErrShed error = &kindError{"taskpool: task shed for a more urgent one", ErrFull}

	// ErrExpired is the error of a task that had not started when its MaxWait was over, or
	// that [WithQueueDelay] has shed; then it is another one that Is ErrExpired, and its text
	// says so. It is an ErrShed too, and so an ErrFull.
	ErrExpired error = &kindError{"taskpool: task waited longer than its MaxWait", ErrShed}

	// ErrRetryBudget marks the error of a task that would have been retried but for
	// [WithRetryBudget]: errors.Is and errors.As find it beside that of the last attempt.
	ErrRetryBudget = errors.New("taskpool: no retry, as the retry budget is spent")

	// ErrTimeout ends the context of an attempt that took longer than its
	// task's Timeout or WorkTimeout. It is a [context.DeadlineExceeded] too.
	ErrTimeout error = &kindError{"taskpool: attempt timed out", context.DeadlineExceeded}

	// ErrHung is the error that every [HungError] wraps.
	ErrHung = errors.New("taskpool: task hung")

	// ErrStalled is returned by Health while a pool stands still, once it has done so for
	// one to two hang graces. Either all slots are held, and nothing has started, ended,
	// resumed or come to a safe point (Yield or Beat) while tasks or submitters wait; tasks
	// that just take long without a safe point look like that too. Or tasks wait for each
	// other in a circle.
	ErrStalled = errors.New("taskpool: pool stands still")

	// ErrGoexit is the error of a task that called [runtime.Goexit], as
	// testing.T.FailNow does.
	ErrGoexit = errors.New("taskpool: task called runtime.Goexit")

	// ErrInside is returned by a call that would wait for the task or hook it
	// is made in: Shutdown, WaitIdle and WaitRunning inside a task or a hook of the pool,
	// Wait for a task's own handle, and Group.Wait in a member of the group.
	ErrInside = errors.New("taskpool: called inside the task it would wait for")
)

// errLate is the error of a task that WithQueueDelay has shed.
var errLate error = &kindError{"taskpool: task waited too long in a queue that is late", ErrExpired}

// A taskOverError is the error of a call that waited in a task until that task's context
// ended.
type taskOverError struct {
	call  string
	cause error
}

func (e *taskOverError) Error() string {
	return fmt.Sprintf("taskpool: %s: the context of the task that waits is over: %v", e.call, e.cause)
}
func (e *taskOverError) Unwrap() error { return e.cause }

// A flowFullError is the error of a task for which its flow has no room.
type flowFullError struct{ flow string }

func (e *flowFullError) Error() string {
	if e.flow == "" {
		return "taskpool: queue of tasks without a flow is full"
	}
	return fmt.Sprintf("taskpool: queue of flow %q is full", e.flow)
}
func (e *flowFullError) Unwrap() error { return ErrFlowFull }

// A retryBudgetError is the error of an attempt that is not retried because the retry budget
// is spent.
type retryBudgetError struct{ err error }

func (e *retryBudgetError) Error() string {
	return fmt.Sprintf("%v; the attempt's error: %v", ErrRetryBudget, e.err)
}
func (e *retryBudgetError) Unwrap() []error { return []error{ErrRetryBudget, e.err} }

// A kindError is a sentinel that is also a more general sentinel.
type kindError struct {
	text string
	kind error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.kind }

// A PanicError is the error of an attempt that panicked.
type PanicError struct {
	Value any    // what the task panicked with; nil for panic(nil) under GODEBUG=panicnil=1
	Stack []byte // the panicking goroutine's stack, in the form of debug.Stack without arguments

	// site is where it panicked, until Stack is made from it: making Stack takes longer
	// than all the rest of a panic, and nobody may ever look at it.
	site panicSite
	at   string // file and line of the panic; set with Stack by the pool, so not for a panic elsewhere
}

// Error returns the panic's value without the stack.
func (e *PanicError) Error() string { return fmt.Sprintf("taskpool: task panicked: %v", e.Value) }

// Unwrap returns the panic's value if that is an error, and nil otherwise.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// complete makes Stack and at from site, unless that was done before.
func (e *PanicError) complete() *PanicError {
	if e.site.frames != nil {
		e.Stack, e.at, e.site = e.site.stack(), contain.PanickedAt(e.site.frames), panicSite{}
	}
	return e
}

// A HungError is the error of a task whose Run did not return within the hang
// grace after its context had ended. Its goroutine may still be running.
type HungError struct {
	// Stack is the goroutine's stack when it was given up, in the form of debug.Stack
	// without arguments. Finding it takes a goroutine profile, which stops the program
	// for a moment and costs tens of milliseconds of CPU with 20,000 goroutines. That
	// is bounded for all pools of the program together, to 100 ms at once and 1 % of the
	// time: if more tasks hang, Stack may be from an earlier moment after the end of the
	// task's context, and its first line says how much earlier, or it says in words why
	// there is no stack. There is none either with more than 131,072 goroutines or, with
	// more than 1,000, if the task has replaced its goroutine's labels by others than its
	// context's, see [runtime/pprof]. Stack is empty if a Shutdown that is cut short no
	// longer waits for Retry.If.
	Stack []byte

	cause error // why the context had ended
	grace time.Duration
}

// Error says how long the task went on after its context ended, and why that ended.
func (e *HungError) Error() string {
	return fmt.Sprintf("%v: still running %v after its context ended: %v", ErrHung, e.grace, e.cause)
}

// Unwrap returns [ErrHung] and the reason why the task's context had ended.
func (e *HungError) Unwrap() []error { return []error{ErrHung, e.cause} }

// A DependencyError is the error of a task that was canceled because one of those that it was
// to come after, see Task.After, or that these were to come after in turn, has settled without
// success. Where that went through several tasks, it is about the first of them, the one that
// was not canceled for another.
type DependencyError struct {
	Pool  string // the name of its pool
	ID    uint64 // its number in that
	Name  string
	State State // StateFailed, StateCanceled or StateShed

	err error
}

// Error names the task and says how it ended.
func (e *DependencyError) Error() string {
	return fmt.Sprintf("taskpool: %s, which was to succeed before, has ended as %v: %v",
		describeTask(TaskInfo{ID: e.ID, Name: e.Name}), e.State, e.err)
}

// Unwrap returns the error of that task.
func (e *DependencyError) Unwrap() error { return e.err }

// A ShutdownError says what a shutdown left undone because the context given
// to [Pool.Shutdown] ended first.
type ShutdownError struct {
	// Unfinished lists each task that had been accepted and did not finish, once, in
	// no particular order. It is empty if the tasks that ran when the context ended
	// finished within the hang grace and no others were left.
	Unfinished []Unfinished

	cause error
}

// An Unfinished is a task that a shutdown left undone.
type Unfinished struct {
	// ID is the task's number, as in TaskInfo; 0 for a function given to Go.
	ID uint64
	// Task is the task as it was submitted, with its latest priority. It can be
	// submitted again, to another pool. Its Run is never nil: for a function given to
	// Go, and for one given along with the Task to SubmitFunc, Call, Map or Group.Go,
	// it calls that function. The result of such a function is then dropped, because
	// its Future, Call, Map or Group has the task's error already; only its error is
	// returned, to whoever runs it now. Where Task.After names tasks that were left undone
	// too, replace them, found by [Handle.ID], by the handles of their new submissions: the
	// old ones have ended, and a task that comes after them would be canceled.
	Task Task
	// State is the task's state when the shutdown's context ended.
	State State
	// Attempt is the number of attempts started by then.
	Attempt int
}

// String describes the task in a line such as
//
//	task 17 "report" (high, 3 attempts), running, attempt 2
func (u Unfinished) String() string {
	if u.Attempt == 0 {
		return fmt.Sprintf("%s, %v", u.Task.describe(u.ID), u.State)
	}
	return fmt.Sprintf("%s, %v, attempt %d", u.Task.describe(u.ID), u.State, u.Attempt)
}

// LogValue has package log/slog log what String returns.
func (u Unfinished) LogValue() slog.Value { return slog.StringValue(u.String()) }

// Error counts the unfinished tasks by state.
func (e *ShutdownError) Error() string {
	var count [numStates]int
	for _, u := range e.Unfinished {
		count[u.State]++
	}
	var parts []string
	for s, n := range count {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %v", n, State(s)))
		}
	}
	if parts == nil {
		return fmt.Sprintf("taskpool: shutdown cut short, all tasks finished within the grace: %v", e.cause)
	}
	tasks := "tasks"
	if len(e.Unfinished) == 1 {
		tasks = "task"
	}
	return fmt.Sprintf("taskpool: shutdown left %d %s unfinished (%s): %v",
		len(e.Unfinished), tasks, strings.Join(parts, ", "), e.cause)
}

// Unwrap returns the cause with which the context given to Shutdown ended.
func (e *ShutdownError) Unwrap() error { return e.cause }

// Permanent wraps an error that a retry cannot fix: a task whose Run returns
// it is not retried, whatever its policy says. It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &remote.PermanentError{Err: err}
}

// RetryAfter wraps an error together with the time to wait before the next attempt,
// which replaces that of the policy's Backoff; a negative d counts as 0. It grants no
// retry that the policy does not. When d is over, the retry joins the queue behind all
// tasks of its priority that wait there, see [Retry]. It returns nil for nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &remote.RetryAfterError{Delay: max(d, 0), Err: err}
}

// withReason returns an error that is both the reason why an attempt's context ended
// and what its Run then returned.
func withReason(reason, err error) error {
	if err == context.Canceled || err == context.DeadlineExceeded || same(err, reason) {
		return reason // err adds nothing
	}
	return &endedError{reason, err}
}

// same reports whether two errors are the same pointer. Errors that are not pointers may
// be of types that cannot be compared.
func same(a, b error) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Kind() == reflect.Pointer && a == b
}

type endedError struct{ reason, err error }

func (e *endedError) Error() string   { return fmt.Sprintf("%v; the task returned: %v", e.reason, e.err) }
func (e *endedError) Unwrap() []error { return []error{e.reason, e.err} }

// Each call refuses arguments that must be mistakes before it does anything: a nil context
// or function, or a Pool, Handle, Group or Future that is nil, zero or a copy (except that
// a Future may be copied). It returns an error that names the call or, if it returns no
// error, panics with the same text.

// nilArgument is the error of a call whose argument is nil.
func nilArgument(call, name string) error {
	return fmt.Errorf("taskpool: %s: %s must not be nil", call, name)
}

// misused reports whether p is not a pool that New has returned.
func misused(p *Pool) bool { return p == nil || p.self != p }

// poolMisuse is the error of a call with a pool that is misused.
func poolMisuse(p *Pool, call string) error {
	return fmt.Errorf("taskpool: %s: the Pool must be one that New has returned, got %s", call, whatElse(p))
}

// whatElse returns what p is if it is misused, and "" otherwise.
func whatElse(p *Pool) string {
	switch {
	case p == nil:
		return "nil"
	case p.self == nil:
		return "a zero Pool"
	case p.self != p:
		return "a copy"
	}
	return ""
}

func init() { // what the packages around this one use
	remote.PoolMisuse = func(pool any) string { return whatElse(pool.(*Pool)) }
	remote.Step = func(ctx context.Context, pool any) (any, error) {
		p := pool.(*Pool)
		if misused(p) {
			return TaskInfo{}, poolMisuse(p, "Step")
		}
		return p.stepper.once(ctx, p)
	}
	remote.WaitAbandoned = func(ctx context.Context, pool any) error {
		p := pool.(*Pool)
		return p.stepper.waitAbandoned(ctx, p)
	}
	remote.HasFlows = func(pool any) bool { return !pool.(*Pool).sched.aging }
	remote.Await = func(ctx context.Context, f func() error) error { return block(ctx, f, true) }
	remote.OnSettled = func(handle any, f func(canceled error)) bool { return handle.(*Handle).onSettled(f) }
	remote.TaskHere = func() context.Context {
		if a := currentAttempt(); a != nil {
			return a
		}
		return nil
	}
}

// mustBeUsable panics in a call that returns no error if p is misused.
func (p *Pool) mustBeUsable(call string) {
	if misused(p) {
		panic(poolMisuse(p, call).Error())
	}
}

// misuse returns an error for call if h is nil, zero or a copy, and nil otherwise.
func (h *Handle) misuse(call string) error {
	if what := h.whatElse(); what != "" {
		return fmt.Errorf("taskpool: %s: the Handle must be one that Submit has returned, got %s", call, what)
	}
	return nil
}

// whatElse returns what h is if it is misused, and "" otherwise.
func (h *Handle) whatElse() string {
	switch {
	case h == nil:
		return "nil"
	case h.pool == nil:
		return "a zero Handle"
	case h.self != h:
		return "a copy"
	}
	return ""
}

// mustBeUsable panics in a call that returns no error of its own if h is misused.
func (h *Handle) mustBeUsable(call string) {
	if err := h.misuse(call); err != nil {
		panic(err.Error())
	}
}

// misuse returns an error for call if g is nil, zero or a copy, and nil otherwise.
func (g *Group) misuse(call string) error {
	switch {
	case g == nil:
		return fmt.Errorf("taskpool: %s: the Group must be one that Pool.Group has returned, got nil", call)
	case g.p == nil:
		return fmt.Errorf("taskpool: %s: the Group must be one that Pool.Group has returned, got a zero Group", call)
	case g.self != g:
		return fmt.Errorf("taskpool: %s: the Group must be one that Pool.Group has returned, got a copy", call)
	}
	return nil
}

// mustBeUsable panics in a call that returns no error if g is misused.
func (g *Group) mustBeUsable(call string) {
	if err := g.misuse(call); err != nil {
		panic(err.Error())
	}
}

// futureMisuse is the error of a call with a future that is nil or zero.
func futureMisuse(call string) error {
	return fmt.Errorf("taskpool: Future.%s: the Future must be one that SubmitFunc has returned, got nil or a zero Future", call)
}

// misuse returns an error for call if s is nil, zero or a copy, and nil otherwise.
func (s *Periodic) misuse(call string) error {
	var got string
	switch {
	case s == nil:
		got = "nil"
	case s.g == nil:
		got = "a zero Periodic"
	case s.g.series != s:
		got = "a copy"
	default:
		return nil
	}
	return fmt.Errorf("taskpool: %s: the Periodic must be one that Every has returned, got %s", call, got)
}
