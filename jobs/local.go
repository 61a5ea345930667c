package jobs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool"
)

// A LocalQueue runs jobs in a pool of this process, in memory.
type LocalQueue struct {
	pool *taskpool.Pool
	reg  *Registry

	mu     sync.Mutex // protects the fields below; no user code is called with it
	last   uint64
	jobs   map[ID]*localJob       // those that have not settled
	untold map[*localJob]struct{} // accepted, and their last event has not been told
	unique map[uniqueKey]*localJob
}

type uniqueKey struct{ kind, key string }

type localJob struct {
	meta     Meta
	attempts atomic.Int64
	delay    atomic.Int64  // of the retry that was judged last
	admitted chan struct{} // closed when handle is set or the pool has refused the job
	told     chan struct{} // closed when the observers have been told of its end
	handle   *taskpool.Handle
}

// Local returns a queue that runs the handlers of reg in pool: as tasks whose Name is
// the kind, which hooks, metrics and the dashboard show, and in whose handlers
// taskpool.Yield, Block and Beat work. Where the pool has no room for a job, Enqueue
// waits or returns taskpool.ErrFull as the pool's options say.
//
// A job is known until it has settled; what it came to is told to the observers of
// reg. Each unsettled job takes a goroutine that waits for its end.
func Local(pool *taskpool.Pool, reg *Registry) *LocalQueue {
	return &LocalQueue{pool: pool, reg: reg, jobs: make(map[ID]*localJob),
		untold: make(map[*localJob]struct{}), unique: make(map[uniqueKey]*localJob)}
}

// Enqueue adds a job, see [Queue]. A kind that the registry does not have is
// ErrUnknownKind. After the pool was shut down it returns taskpool.ErrClosed, except
// to a handler that calls it with its own context.
func (q *LocalQueue) Enqueue(ctx context.Context, r Request) (ID, error) {
	if err := r.Validate(); err != nil {
		return "", err
	}
	policy, ok := q.reg.Policy(r.Kind)
	if !ok {
		return "", fmt.Errorf("%w %q", ErrUnknownKind, r.Kind)
	}
	j, mine, err := q.reserve(ctx, r)
	if err != nil {
		return "", err
	}
	if !mine {
		return j.meta.ID, ErrDuplicate
	}
	sub := newSubmission(ctx)
	stop := context.AfterFunc(ctx, func() { sub.cancel(context.Cause(ctx)) })
	h, err := q.pool.Submit(sub, q.task(j, sub, r, policy))
	sub.from.Store(nil)
	stop()
	if err != nil {
		q.forget(j)
		close(j.admitted)
		return "", err
	}
	q.mu.Lock()
	j.handle = h
	q.untold[j] = struct{}{}
	q.mu.Unlock()
	close(j.admitted)
	go q.watch(j, sub)
	return j.meta.ID, nil
}

// reserve gives r a job with an ID of its own, or returns the job that has its unique
// key. It waits for one that is just being added.
func (q *LocalQueue) reserve(ctx context.Context, r Request) (j *localJob, mine bool, err error) {
	key := uniqueKey{r.Kind, r.UniqueKey}
	for {
		q.mu.Lock()
		first := q.unique[key]
		if first == nil || first.handle != nil && final(first.handle) {
			q.last++
			j = &localJob{admitted: make(chan struct{}), told: make(chan struct{}), meta: Meta{ID: ID(strconv.FormatUint(q.last, 10)), Kind: r.Kind,
				MaxAttempts: r.MaxAttempts, Priority: r.Priority, Enqueued: time.Now(), UniqueKey: r.UniqueKey}}
			q.jobs[j.meta.ID] = j
			if r.UniqueKey != "" {
				q.unique[key] = j
			}
			q.mu.Unlock()
			return j, true, nil
		}
		there := first.handle != nil
		q.mu.Unlock()
		if there {
			return first, false, nil
		}
		// A handler that waits here must not keep the slot that makes the room.
		err := taskpool.Block(ctx, func() error {
			select {
			case <-first.admitted:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		if err != nil {
			return nil, false, err
		}
	}
}

// task returns the task that is the job.
func (q *LocalQueue) task(j *localJob, sub *submission, r Request, p Policy) taskpool.Task {
	t := taskpool.Task{Name: r.Kind, Priority: r.Priority, Timeout: p.Timeout, Heartbeat: p.Heartbeat, NotBefore: r.NotBefore}
	t.Run = func(ctx context.Context) error {
		sub.from.Store(nil)
		m := j.meta
		m.Attempt = int(j.attempts.Add(1))
		return q.reg.Run(ctx, m, r.Payload)
	}
	if t.Retry.MaxAttempts = r.MaxAttempts; r.MaxAttempts > 1 {
		t.Retry.If = func(err error) bool {
			m := j.meta
			m.Attempt = int(j.attempts.Load())
			e := q.reg.Judge(m, err)
			if e.State != Retrying {
				return false
			}
			j.delay.Store(int64(e.Delay))
			q.reg.Tell(e)
			return true
		}
		t.Retry.Backoff = func(int) time.Duration { return time.Duration(j.delay.Load()) }
	}
	return t
}

// watch waits for the end of a job and tells of it.
func (q *LocalQueue) watch(j *localJob, sub *submission) {
	defer func() {
		close(j.told)
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.untold, j)
	}()
	<-j.handle.Done()
	sub.cancel(nil)
	q.forget(j)
	e := Event{Meta: j.meta, Err: j.handle.Err()}
	e.Attempt = int(j.attempts.Load())
	switch j.handle.State() {
	case taskpool.Failed, taskpool.Shed:
		e.State = Discarded
	case taskpool.Canceled:
		e.State = Canceled
	}
	q.reg.Tell(e)
}

func (q *LocalQueue) forget(j *localJob) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.jobs, j.meta.ID)
	if key := (uniqueKey{j.meta.Kind, j.meta.UniqueKey}); q.unique[key] == j {
		delete(q.unique, key)
	}
}

// Cancel ends a job, see [Queue]. Its error is then [context.Canceled]. It never
// waits.
func (q *LocalQueue) Cancel(_ context.Context, id ID) error {
	if h := q.Handle(id); h == nil || !h.Cancel(nil) {
		return fmt.Errorf("%w: %q", ErrNotFound, string(id))
	}
	return nil
}

// Handle returns the handle of the task that is the job, for its state, to wait for
// it or to move it to another priority. It is nil if the job has settled, is still
// being added, or never was.
func (q *LocalQueue) Handle(id ID) *taskpool.Handle {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j := q.jobs[id]; j != nil {
		return j.handle
	}
	return nil
}

// Stop shuts the pool down, as [taskpool.Pool.Shutdown] does, and waits until the
// observers have been told of every job, or ctx ends. What was enqueued is finished;
// what is cut off when ctx ends is Canceled, with taskpool.ErrClosed.
func (q *LocalQueue) Stop(ctx context.Context) error {
	err := q.pool.Shutdown(ctx)
	q.mu.Lock()
	untold := slices.Collect(maps.Keys(q.untold))
	q.mu.Unlock()
	for _, j := range untold {
		select {
		case <-j.told:
		case <-ctx.Done():
		}
	}
	return err
}

func final(h *taskpool.Handle) bool {
	s := h.State()
	return s >= taskpool.Succeeded && s <= taskpool.Shed
}

// A submission is the context of a job's task. Until the job is accepted or has
// started it has the values of Enqueue's context, so that the pool knows a handler
// that enqueues and gives its slot back while it waits for room. To keep them would
// make a job that enqueues its successor hold all its predecessors.
type submission struct {
	context.Context
	cancel context.CancelCauseFunc
	from   atomic.Pointer[context.Context]
}

func newSubmission(from context.Context) *submission {
	s := new(submission)
	s.Context, s.cancel = context.WithCancelCause(context.Background())
	s.from.Store(&from)
	return s
}

func (s *submission) Value(key any) any {
	if v := s.Context.Value(key); v != nil {
		return v
	}
	if from := s.from.Load(); from != nil {
		return (*from).Value(key)
	}
	return nil
}
