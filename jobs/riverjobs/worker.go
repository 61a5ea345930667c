package riverjobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/contain"
	"github.com/taskpool-go/taskpool/internal/remote"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

// A worker makes attempts at jobs of all kinds, in the pool.
type worker struct {
	river.WorkerDefaults[args]
	reg        *jobs.Registry
	pool       *taskpool.Pool
	jobTimeout time.Duration // of attempts whose kind has none
	patience   time.Duration // how long a row is kept that waits for a worker of the pool
	attempts   attempts

	payloadGrace time.Duration // how long a job goes back whose payload does not decode

	closed func() // called where the pool is found shut down; it does not wait
	logger *slog.Logger
	events events
}

// noRoom is when a job is looked at again for which the pool had no room.
const noRoom = time.Second

var (
	errLost   = errors.New("riverjobs: the process that ran the job has not stored its end")
	errWaited = errors.New("riverjobs: the pool had no worker free for the job in time, or its flow was at its limit")
)

// The fates of a row that waits for a worker of the pool. The first to be decided stands.
const (
	undecided int32 = iota
	begun
	givenBack
)

// Work makes an attempt. What it returns, and job, tell River what to store:
//
//	completed               nil
//	discarded               any error, and no attempts left in River's copy of the row:
//	                        River itself discards nothing before its last attempt
//	retryable or available  any error; NextRetry
//	cancelled               a river.JobCancelError, or any error after a remote cancel
//	snoozed                 a river.JobSnoozeError: the attempt is refunded. After a hard
//	                        stop context.Canceled would do, but only after River's own
func (w *worker) Work(ctx context.Context, job *river.Job[args]) error {
	m := meta(job.JobRow)
	note(ctx, attemptKey, m.Attempt)
	w.attempts.begin(job.ID, m.Attempt)
	defer w.attempts.end(job.ID, m.Attempt)
	left := patienceOf(job.JobRow)
	if left < 0 {
		m.Attempt = 0 // it has not started
		w.events.failed(job.JobRow, jobs.Event{Meta: m, State: jobs.StateDiscarded, Err: taskpool.ErrExpired})
		job.MaxAttempts = job.Attempt
		return storedError(taskpool.ErrExpired.Error())
	}
	policy, _ := engine.Policy(w.reg, m.Kind)
	state := taskpool.StateCanceled

	var fate atomic.Int32
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer time.AfterFunc(w.patience, func() {
		if fate.CompareAndSwap(undecided, givenBack) {
			cancel(errWaited)
		}
	}).Stop()
	h, refused, err := w.submit(engine.WithMeta(waiting, m), taskpool.Task{
		Name: m.Kind, Priority: m.Priority, Flow: m.Flow, Timeout: cmp.Or(policy.Timeout, w.jobTimeout), Heartbeat: policy.Heartbeat,
		MaxWait: left, // what the pool sheds for it goes back, and is discarded when it is fetched again
		Run: func(ctx context.Context) error {
			if !fate.CompareAndSwap(undecided, begun) {
				<-ctx.Done() // the timer is about to end it
				return errWaited
			}
			return engine.Run(ctx, w.reg, m, payload(job.JobRow))
		},
	})
	if err == nil {
		err = h.Wait(context.Background()) // the pool ends it when ctx has ended
		state = h.State()
	}
	if latest := w.attempts.latest(job.ID); latest != m.Attempt { // River stores one end of a job at a time, the last it gets
		w.logger.Warn("riverjobs: the job was taken for lost while an attempt was under way, whose end is not stored",
			slog.Int64("job", job.ID), slog.String("kind", m.Kind), slog.Int("attempt", m.Attempt), slog.Int("latest", latest))
		note(ctx, attemptKey, unstorable{})
		return nil
	}
	if err == nil && fate.Load() != givenBack { // a hook may have swallowed that
		return nil
	}
	seen := lookAt(err)
	if seen.stack != "" {
		note(ctx, traceKey, seen.stack)
	}
	cutOff := state == taskpool.StateCanceled || state == taskpool.StateShed
	e := jobs.Event{Meta: m, State: jobs.StateRetrying, Err: err}
	ended := error(seen.text)
	switch {
	case errors.Is(context.Cause(ctx), river.ErrJobCancelledRemotely):
		e = engine.Canceled(m, err)
	case errors.Is(ctx.Err(), context.Canceled) && (cutOff || seen.hung):
		ended = river.JobSnooze(0)
	case fate.Load() == givenBack:
		e.Err, e.Delay, ended = errWaited, noRoom, river.JobSnooze(noRoom)
	case cutOff && ctx.Err() == nil && (refused || seen.closed || state == taskpool.StateShed),
		cutOff && ctx.Err() != nil && fate.Load() == undecided: // what has not begun is not judged
		e.Delay, ended = noRoom, river.JobSnooze(noRoom)
		switch {
		case seen.closed:
			w.closed()
		case refused && !seen.full && ctx.Err() == nil:
			w.logger.Error("riverjobs: the pool did not take a job, which goes back",
				slog.Int64("job", job.ID), slog.Int("attempt", m.Attempt), slog.String("kind", m.Kind), slog.String("flow", m.Flow), slog.String("error", string(seen.text)))
		}
	case cutOff && ctx.Err() == nil: // somebody who has the handle has canceled the task
		e.State = jobs.StateCanceled
		ended = river.JobCancel(ended)
	case seen.payload && undecodedFor(ctx, job.JobRow) < w.payloadGrace:
		e.Delay = min(max(undecodedFor(ctx, job.JobRow), time.Second), time.Minute, w.payloadGrace)
		ended = river.JobSnooze(e.Delay)
	default:
		if cutOff { // River has ended ctx, if Timeout was asked late
			err = fmt.Errorf("%w: %w", taskpool.ErrTimeout, err)
		}
		e = engine.Judge(w.reg, m, err)
		if job.Args.next = &e.Delay; e.State == jobs.StateDiscarded {
			job.MaxAttempts = job.Attempt
		}
	}
	w.events.failed(job.JobRow, e)
	return ended
}

// undecodedFor returns the time since it was first found that a job's payload does not decode, by
// the database's clock: other processes may have found it.
func undecodedFor(ctx context.Context, row *rivertype.JobRow) time.Duration {
	now, since := time.Now(), extraOf(row).Undecoded
	if row.AttemptedAt != nil {
		now = *row.AttemptedAt
	}
	if since.IsZero() {
		note(ctx, undecodedKey, now)
		return 0
	}
	return now.Sub(since)
}

// note has River store a value with the end of the attempt, for the fence.
func note(ctx context.Context, key string, value any) { _ = river.MetadataSet(ctx, key, value) }

// unstorable is a note with which River stores nothing.
type unstorable struct{}

func (unstorable) MarshalJSON() ([]byte, error) {
	return nil, errors.New("riverjobs: a later attempt at the job is under way in this process")
}

// attempts are those under way in this process. Of one job there may be two, if it was
// taken for lost while the process was frozen, and then by this process.
type attempts struct {
	mu     sync.Mutex    // protects the field below
	number map[int64]int // of the latest, by job
}

func (a *attempts) begin(id int64, number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.number == nil {
		a.number = make(map[int64]int)
	}
	a.number[id] = max(number, a.number[id])
}

func (a *attempts) latest(id int64) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.number[id]
}

func (a *attempts) end(id int64, number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.number[id] == number {
		delete(a.number, id)
	}
}

// submit hands a task to the pool. It returns true if the pool refused it. The pool asks the
// policy of WithFlows, which is the user's.
func (w *worker) submit(ctx context.Context, t taskpool.Task) (h *taskpool.Handle, refused bool, err error) {
	if !remote.HasFlows(w.pool) {
		t.Flow = ""
	}
	if t.Flow == "" {
		h, err = w.pool.Submit(ctx, t)
		return h, err != nil, err
	}
	contain.Apart(func() { h, err = w.pool.Submit(ctx, t) }, func(v any) {
		did := "called runtime.Goexit"
		if v != nil {
			did = fmt.Sprintf("panicked: %v", v)
		}
		err = fmt.Errorf("riverjobs: the policy of WithFlows for flow %q %s", t.Flow, did)
	})
	return h, err != nil, err
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
		job.Args.next = new(engine.Judge(w.reg, meta(job.JobRow), errLost).Delay)
	}
	return ceil(time.Now().Add(*job.Args.next))
}

// A storedError is the text of an error, all that River gets of a handler's: it calls
// errors.As where a panic of the error's methods would end the process, and would take
// an error of its own, such as that of river.JobSnooze, for an order. The text is one
// that PostgreSQL's jsonb takes: River writes the ends of many jobs at once, and tries
// again for ever, so one text with a NUL would hold up all.
type storedError string

func (e storedError) Error() string { return string(e) }

// A sight is what there is to know of an error.
type sight struct {
	text               storedError
	hung, full, closed bool
	payload            bool   // does not decode
	stack              string // of a panic
}

// maxErrorText is how much of an error's text, and of a stack, a row has: PostgreSQL refuses
// rows of more than 256 MiB, and with one all ends that would be stored at once.
const maxErrorText = 64 << 10

// storable returns as much of a text as a row may have, as PostgreSQL takes it.
func storable(text string) string {
	if len(text) > maxErrorText {
		const note = "... (cut)"
		text = strings.ToValidUTF8(text[:maxErrorText-len(note)], "") + note
	}
	return strings.ReplaceAll(text, "\x00", "�")
}

// lookAt calls an error's methods, which are the user's. They may panic, or call
// runtime.Goexit.
func lookAt(err error) sight {
	s := sight{text: "an error whose Error method does not return"}
	contain.Apart(func() { s.text = storedError(storable(err.Error())) }, nil)
	contain.Apart(func() {
		var permanent *remote.PermanentError
		s.hung, s.full, s.closed = errors.Is(err, taskpool.ErrHung), errors.Is(err, taskpool.ErrFull), errors.Is(err, taskpool.ErrClosed)
		var panicked *taskpool.PanicError
		if errors.As(err, &panicked) {
			s.stack = storable(string(panicked.Stack))
		}
		s.payload = errors.Is(err, jobs.ErrPayload) && errors.As(err, &permanent) // the registry's; or a handler's that means the same
	}, nil)
	return s
}

// An errorHandler discards jobs of kinds that the registry does not have, which River
// would retry.
type errorHandler struct {
	w    *worker
	next river.ErrorHandler // may be nil
}

func (h *errorHandler) HandleError(ctx context.Context, row *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	if unknown, ok := err.(*river.UnknownJobKindError); ok { // River's own; one of a handler's is a text here
		h.w.events.failed(row, jobs.Event{Meta: meta(row), State: jobs.StateDiscarded, Err: fmt.Errorf("%w %q", jobs.ErrUnknownKind, unknown.Kind)})
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
