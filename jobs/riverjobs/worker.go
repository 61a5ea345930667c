package riverjobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// A worker makes attempts at jobs of all kinds, in the pool.
type worker struct {
	river.WorkerDefaults[args]
	reg        *jobs.Registry
	pool       *taskpool.Pool
	jobTimeout time.Duration // of attempts whose kind has none

	mu   sync.Mutex             // protects the field below; no user code is called with it
	ends map[attempt]jobs.Event // of failed attempts whose end River has not stored yet
}

// An attempt names one: River counts an interrupted one no more, so there may be another
// of its number, but only after this one's end has been stored.
type attempt struct {
	job    int64
	number int
}

// noRoom is when a job is looked at again for which the pool had no room.
const noRoom = time.Second

var errLost = errors.New("riverjobs: the process that ran the job has not stored its end")

// Work makes an attempt. What it returns, and job, tell River what to store:
//
//	completed               nil
//	discarded               any error, and no attempts left in River's copy of the row:
//	                        River itself discards nothing before its last attempt
//	retryable or available  any error; NextRetry
//	cancelled               a river.JobCancelError, or any error after a remote cancel
//	interrupted             context.Canceled, after River's hard stop ended ctx: the
//	                        attempt is refunded
//	snoozed                 a river.JobSnoozeError: likewise
func (w *worker) Work(ctx context.Context, job *river.Job[args]) error {
	m := meta(job.JobRow)
	policy, _ := w.reg.Policy(m.Kind)
	state := taskpool.Canceled
	h, err := w.pool.Submit(ctx, taskpool.Task{
		Name: m.Kind, Priority: m.Priority, Timeout: cmp.Or(policy.Timeout, w.jobTimeout), Heartbeat: policy.Heartbeat,
		Run: func(ctx context.Context) error { return w.reg.Run(ctx, m, payload(job.JobRow)) },
	})
	if err == nil {
		err = h.Wait(context.Background()) // the pool ends it when ctx has ended
		state = h.State()
	}
	if err == nil {
		return nil
	}
	cutOff := state == taskpool.Canceled || state == taskpool.Shed
	e := jobs.Event{Meta: m, State: jobs.Retrying, Err: err}
	switch {
	case errors.Is(context.Cause(ctx), river.ErrJobCancelledRemotely):
		e.State = jobs.Canceled
	case errors.Is(ctx.Err(), context.Canceled) && (cutOff || errors.Is(err, taskpool.ErrHung)):
		err = context.Canceled
	case cutOff && ctx.Err() == nil && (errors.Is(err, taskpool.ErrFull) || errors.Is(err, taskpool.ErrClosed)):
		e.Delay = noRoom
		err = river.JobSnooze(noRoom)
	case cutOff && ctx.Err() == nil: // somebody who has the handle has canceled the task
		e.State = jobs.Canceled
		err = river.JobCancel(storable(err))
	default:
		if cutOff { // River has ended ctx, if Timeout was asked late
			err = fmt.Errorf("%w: %w", taskpool.ErrTimeout, err)
		}
		e = w.reg.Judge(m, err)
		if job.Args.next = &e.Delay; e.State == jobs.Discarded {
			job.MaxAttempts = job.Attempt
		}
		err = storable(err)
	}
	w.end(job.JobRow, e)
	return err
}

// Timeout is asked for by River twice: before an attempt, to end its context in time,
// which costs a timer and a goroutine and which the pool does anyway; and by the rescuer,
// which leaves a job that has none alone, and asks only when it has long passed.
func (w *worker) Timeout(job *river.Job[args]) time.Duration {
	if job.AttemptedAt != nil && time.Since(*job.AttemptedAt) >= w.jobTimeout {
		return w.jobTimeout
	}
	return -1
}

// NextRetry returns when the job runs again. Of a job that was judged it is asked at
// once; River's rescuer asks of one that was lost.
func (w *worker) NextRetry(job *river.Job[args]) time.Time {
	if job.Args.next == nil {
		job.Args.next = new(w.reg.Judge(meta(job.JobRow), errLost).Delay)
	}
	return ceil(time.Now().Add(*job.Args.next))
}

// A storedError is an error with a text that PostgreSQL's jsonb takes. River writes the
// ends of many jobs at once, and tries again for ever: one text with a NUL would hold up
// all. It also keeps the panics of an Error method from River, which would not survive.
type storedError struct {
	error
	text string
}

func storable(err error) error {
	text := "an error whose Error method panics"
	func() {
		defer func() { _ = recover() }()
		text = strings.ReplaceAll(err.Error(), "\x00", "�")
	}()
	return &storedError{err, text}
}

func (e *storedError) Error() string { return e.text }
func (e *storedError) Unwrap() error { return e.error }

// An errorHandler discards jobs of kinds that the registry does not have, which River
// would retry.
type errorHandler struct {
	w    *worker
	next river.ErrorHandler // may be nil
}

func (h *errorHandler) HandleError(ctx context.Context, row *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	if unknown, ok := errors.AsType[*river.UnknownJobKindError](err); ok {
		h.w.end(row, jobs.Event{Meta: meta(row), State: jobs.Discarded, Err: fmt.Errorf("%w %q", jobs.ErrUnknownKind, unknown.Kind)})
		row.MaxAttempts = row.Attempt
	}
	if h.next == nil {
		return nil
	}
	return h.next.HandleError(ctx, row, err)
}

func (h *errorHandler) HandlePanic(ctx context.Context, row *rivertype.JobRow, v any, trace string) *river.ErrorHandlerResult {
	if h.next == nil {
		return nil
	}
	return h.next.HandlePanic(ctx, row, v, trace)
}

// end notes what a failed attempt came to, to be told when River has stored it: an
// observer may rely on it then, for instance that a unique key is free.
func (w *worker) end(row *rivertype.JobRow, e jobs.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends[attempt{row.ID, row.Attempt}] = e
}

// event returns what to tell of an end that River has stored.
func (w *worker) event(e *river.Event) jobs.Event {
	if e.Kind == river.EventKindJobCompleted {
		return jobs.Event{Meta: meta(e.Job)}
	}
	key := attempt{e.Job.ID, e.Job.Attempt}
	if e.Kind == river.EventKindJobInterrupted || e.Kind == river.EventKindJobSnoozed {
		key.number++ // River has refunded it
	}
	w.mu.Lock()
	end, ok := w.ends[key]
	delete(w.ends, key)
	w.mu.Unlock()
	if !ok { // it is River who found that it failed
		end = jobs.Event{Meta: meta(e.Job)}
		if n := len(e.Job.Errors); n > 0 {
			end.Err = errors.New(e.Job.Errors[n-1].Error)
		}
	}
	// What was stored counts: a job that is to be retried may have been canceled before.
	switch e.Job.State {
	case rivertype.JobStateDiscarded:
		end.State = jobs.Discarded
	case rivertype.JobStateCancelled:
		end.State, end.Delay = jobs.Canceled, 0
	default:
		end.State = jobs.Retrying
	}
	return end
}

// eventBurst is more than River sends at once, which drops what finds no room.
const eventBurst = 25_000

// follow tells the observers of events until these are closed, and closes told then. A
// slow observer makes no event get lost: it takes them at once and lets them wait.
func (w *worker) follow(events <-chan *river.Event, told chan<- struct{}) {
	var mu sync.Mutex // protects waiting
	var waiting []jobs.Event
	some := make(chan struct{}, 1)
	go func() {
		defer close(told)
		var tell []jobs.Event
		for open := true; open; {
			_, open = <-some
			clear(tell)
			mu.Lock()
			tell, waiting = waiting, tell[:0]
			mu.Unlock()
			for _, e := range tell {
				w.reg.Tell(e)
			}
		}
	}()
	defer close(some)
	defer func() { // River tells nothing of a job that it found taken from this process
		w.mu.Lock()
		defer w.mu.Unlock()
		clear(w.ends)
	}()
	for e := range events {
		end := w.event(e)
		mu.Lock()
		waiting = append(waiting, end)
		mu.Unlock()
		select {
		case some <- struct{}{}:
		default:
		}
	}
}
