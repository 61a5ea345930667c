// Package remote is what taskpool shares with the packages around it. A task can have
// its work done in another process: signs of life cross the border, and so do the
// verdicts on an error that a retry policy looks at. A pool that cannot be used is
// refused in the name of the call that got it. And package taskpooltest looks inside.
package remote

import (
	"context"
	"fmt"
	"time"
)

// A Waiter is a task that waits for work it has given away.
type Waiter interface {
	// BeatDue returns a channel that is closed as soon as the task's next sign of
	// life is due. It is nil if none is ever due.
	BeatDue() <-chan struct{}

	// Urgency returns the priority that the task counts as, and a channel that is closed
	// when that changes.
	Urgency() (pr int, changed <-chan struct{})
}

// A Worker is work done for a task that is elsewhere.
type Worker interface {
	// Beat is a sign of life of that task.
	Beat()
}

type (
	waiterKey struct{}
	workerKey struct{}
)

// WaiterKey and WorkerKey are the context keys of a Waiter and a Worker.
var (
	WaiterKey any = waiterKey{}
	WorkerKey any = workerKey{}
)

// An AttemptKey is the context key of the attempt that a context belongs to.
type AttemptKey struct{}

// WaiterOf returns the task that ctx belongs to, nil if none.
func WaiterOf(ctx context.Context) Waiter {
	w, _ := ctx.Value(WaiterKey).(Waiter)
	return w
}

// Beat is a sign of life of the task elsewhere that ctx's work is done for, if
// there is one.
func Beat(ctx context.Context) {
	if w, ok := ctx.Value(WorkerKey).(Worker); ok {
		w.Beat()
	}
}

// A PermanentError is what taskpool.Permanent returns.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// A RetryAfterError is what taskpool.RetryAfter returns.
type RetryAfterError struct {
	Delay time.Duration
	Err   error
}

func (e *RetryAfterError) Error() string { return e.Err.Error() }
func (e *RetryAfterError) Unwrap() error { return e.Err }

// PoolMisuse says what a *taskpool.Pool is, "nil", "a zero Pool" or "a copy", that is none
// of taskpool.New's, and "" of one that is. Package taskpool sets it.
var PoolMisuse func(pool any) (got string)

// CheckPool returns an error that begins with what, as in "jobs: Local: pool", if pool is a
// *taskpool.Pool that is none of taskpool.New's, else nil.
func CheckPool(what string, pool any) error {
	switch got := PoolMisuse(pool); got {
	case "":
		return nil
	case "nil":
		return fmt.Errorf("%s must not be nil", what)
	default:
		return fmt.Errorf("%s must be one that taskpool.New has returned, got %s", what, got)
	}
}

// HasFlows reports whether the tasks of a *taskpool.Pool may have a flow. Package taskpool
// sets it.
var HasFlows func(pool any) bool

// Await is taskpool.Block for an f that waits for what other tasks bring about: the task
// gives back not only its slot but also its place in its flow, as where it waits for a task,
// and however many tasks are parked. Package taskpool sets it.
var Await func(ctx context.Context, f func() error) error

// TaskHere returns the context of the task, of any pool, on whose goroutine it is called,
// nil if there is none. Package taskpool sets it.
var TaskHere func() context.Context

// OnSettled has f called when the task of a *taskpool.Handle has settled, where hooks are told
// of that, which may be the goroutine of its worker or of who cancels it. canceled is why it
// was canceled while an attempt was under way, nil if it was not. It returns false, and does
// not call f, if the task has settled. Package taskpool sets it.
var OnSettled func(handle any, f func(canceled error)) bool

// Step lets one task of a *taskpool.Pool that is paused start or go on, and waits until it
// has settled, waits for a retry or is parked. It returns the taskpool.TaskInfo of that
// task, or why there is none: the cause, if ctx ends first. Package taskpool sets it.
var Step func(ctx context.Context, pool any) (task any, err error)

// WaitAbandoned waits until no goroutine of a *taskpool.Pool is left that was given up as
// hung. It returns the cause if ctx ends first. Package taskpool sets it.
var WaitAbandoned func(ctx context.Context, pool any) error
