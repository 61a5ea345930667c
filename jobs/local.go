package jobs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// A LocalQueue runs jobs in a pool of this process, in memory.
type LocalQueue struct {
	pool *taskpool.Pool
	reg  *Registry

	mu     sync.Mutex // protects the fields below and localJob.handle; no user code is called with it
	last   uint64
	jobs   map[ID]*localJob // those that are not over
	unique map[uniqueKey]*localJob
}

type uniqueKey struct{ kind, key string }

type localJob struct {
	meta     Meta
	attempts atomic.Int64 // started
	retries  atomic.Int64 // granted
	delay    atomic.Int64 // of the retry that was granted last

	handle   *taskpool.Handle // nil until the job is accepted
	admitted chan struct{}    // closed when it is accepted or refused
	over     chan struct{}    // closed when it is refused, or the observers have been told of its end

	telling sync.Mutex // held while the observers are told, so that events come in order
	ended   bool       // the last event is on its way; protected by telling
}

// Local returns a queue that runs the handlers of reg in pool: as tasks whose Name is
// the kind, which hooks, metrics and the dashboard show, and in whose handlers
// taskpool.Yield, Block and Beat work. A job's flow is the task's: flows take turns, and
// [taskpool.WithFlows] sets what they may do, also beside tasks that are no jobs. Where the
// pool, or the job's flow, has no room for a job, Enqueue waits or returns taskpool.ErrFull
// as the pool's options say. In a pool with [taskpool.WithAging], Enqueue refuses a job
// that has a flow.
//
// A job is known until it has settled; what it came to is told to the observers of
// reg. Each unsettled job takes a goroutine that waits for its end.
//
// It panics if pool is none that taskpool.New has returned, or reg is nil.
func Local(pool *taskpool.Pool, reg *Registry) *LocalQueue {
	if err := remote.CheckPool("jobs: Local: pool", pool); err != nil {
		panic(err.Error())
	}
	if reg == nil {
		panic("jobs: Local: reg must not be nil")
	}
	return &LocalQueue{pool: pool, reg: reg, jobs: make(map[ID]*localJob), unique: make(map[uniqueKey]*localJob)}
}

// Enqueue adds a job, see [Queue]. A kind that the registry does not have is
// ErrUnknownKind. After the pool was shut down it returns taskpool.ErrClosed, except
// to a handler that calls it with its own context. While a job with the same kind and
// key is just being added it waits for that, a handler in taskpool.Block, whatever its
// context. If it returns an error the job was not added, and no handler has been called.
func (q *LocalQueue) Enqueue(ctx context.Context, r Request) (ID, error) {
	if err := q.misuse("Enqueue", ctx); err != nil {
		return "", err
	}
	if err := r.validate(); err != nil {
		return "", err
	}
	policy, ok := q.reg.policy(r.Kind)
	switch {
	case !ok:
		return "", fmt.Errorf("%w %q", ErrUnknownKind, r.Kind)
	case r.Flow != "" && !remote.HasFlows(q.pool):
		return "", fmt.Errorf("jobs: Request.Flow must be empty in a pool with WithAging, got %q", r.Flow)
	}
	if ctx.Err() != nil {
		return "", contextOver(ctx)
	}
	j, mine, err := q.reserve(ctx, r)
	if err != nil {
		return "", err
	}
	if !mine {
		return j.meta.ID, ErrDuplicate
	}
	defer func() {
		if v := recover(); v != nil { // by the policy of WithFlows, or a method of ctx: it was not accepted
			q.refused(j)
			panic(v)
		}
	}()
	h, err := q.pool.SubmitWithin(ctx, context.Background(), q.task(j, r, policy))
	if err != nil {
		q.refused(j)
		return "", err
	}
	q.accepted(j, h)
	return j.meta.ID, nil
}

// misuse returns the error of a call with a queue that is nil or zero, or a nil context;
// else nil.
func (q *LocalQueue) misuse(call string, ctx context.Context) error {
	switch {
	case q == nil || q.pool == nil:
		return fmt.Errorf("jobs: LocalQueue.%s: the LocalQueue must be one that Local has returned, got nil or a zero one", call)
	case ctx == nil:
		return fmt.Errorf("jobs: LocalQueue.%s: ctx must not be nil", call)
	}
	return nil
}

func contextOver(ctx context.Context) error {
	return fmt.Errorf("jobs: Enqueue: context is over: %w", context.Cause(ctx))
}

// reserve gives r a job with an ID of its own, or returns the job that has its unique
// key. It waits for one that is just being added.
func (q *LocalQueue) reserve(ctx context.Context, r Request) (j *localJob, mine bool, err error) {
	key := uniqueKey{r.Kind, r.UniqueKey}
	for {
		q.mu.Lock()
		first := q.unique[key]
		if first == nil || first.handle != nil && first.handle.State().Final() {
			q.last++
			j = &localJob{admitted: make(chan struct{}), over: make(chan struct{}), meta: Meta{
				ID: ID(strconv.FormatUint(q.last, 10)), Kind: r.Kind, MaxAttempts: r.MaxAttempts,
				Priority: r.Priority, Flow: r.Flow, Enqueued: time.Now(), UniqueKey: r.UniqueKey}}
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
		if err := q.awaitAdmission(ctx, first); err != nil {
			return nil, false, err
		}
	}
}

// awaitAdmission waits until j, which is being added, is accepted or refused.
func (q *LocalQueue) awaitAdmission(ctx context.Context, j *localJob) error {
	// A handler that waits here must not keep the slot, or the place of its flow, that makes
	// the room, and may have been given, or have made, a context that is not its own.
	task, done := ctx, (<-chan struct{})(nil)
	if here := remote.TaskHere(); here != nil {
		task = here
		if here.Err() == nil { // else the handler is cleaning up
			done = here.Done()
		}
	}
	return remote.Await(task, func() error {
		select {
		case <-j.admitted:
			return nil
		case <-ctx.Done():
			return contextOver(ctx)
		case <-done:
			return contextOver(task)
		}
	})
}

// accepted notes that j is the task of h, and has its end watched. It is called by
// whoever learns that first: Enqueue, or the task, which may start before Submit has
// returned and tell others its ID.
func (q *LocalQueue) accepted(j *localJob, h *taskpool.Handle) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-j.admitted:
	default:
		j.handle = h
		close(j.admitted)
		go q.watch(j, h)
	}
}

// refused forgets j, which was not added.
func (q *LocalQueue) refused(j *localJob) {
	q.forget(j)
	close(j.admitted)
	close(j.over)
}

func (q *LocalQueue) forget(j *localJob) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.jobs, j.meta.ID)
	if key := (uniqueKey{j.meta.Kind, j.meta.UniqueKey}); q.unique[key] == j {
		delete(q.unique, key)
	}
}

// task returns the task that is the job.
func (q *LocalQueue) task(j *localJob, r Request, p Policy) taskpool.Task {
	t := taskpool.Task{Name: r.Kind, Priority: r.Priority, Flow: r.Flow, Timeout: p.Timeout, Heartbeat: p.Heartbeat, NotBefore: r.NotBefore}
	t.Run = func(ctx context.Context) error {
		if task, ok := taskpool.Current(ctx); ok {
			q.accepted(j, task.Handle)
		}
		m := j.meta
		m.Attempt = j.underWay()
		return q.reg.run(ctx, m, r.Payload)
	}
	if t.Retry.MaxAttempts = r.MaxAttempts; r.MaxAttempts > 1 {
		t.Retry.If = func(err error) bool {
			m := j.meta
			m.Attempt = j.underWay()
			e := q.reg.judge(m, err)
			if e.State != StateRetrying {
				return false
			}
			j.retries.Add(1)
			j.delay.Store(int64(e.Delay))
			q.tell(j, e)
			return true
		}
		t.Retry.Backoff = func(int) time.Duration { return time.Duration(j.delay.Load()) }
	}
	return t
}

// underWay returns the number of the attempt that is under way. Run and Retry.If both
// note it, as a hook that goes around an attempt may fail it without a call of Run.
func (j *localJob) underWay() int {
	n := j.retries.Load() + 1
	j.attempts.Store(n)
	return int(n)
}

// watch waits for the end of a job and tells of it.
func (q *LocalQueue) watch(j *localJob, h *taskpool.Handle) {
	defer close(j.over)
	<-h.Done()
	defer q.forget(j)
	e := Event{Meta: j.meta, Err: h.Err()}
	e.Attempt = int(j.attempts.Load())
	switch h.State() {
	case taskpool.StateFailed, taskpool.StateShed:
		e.State = StateDiscarded
	case taskpool.StateCanceled:
		e.State = StateCanceled
	}
	q.tell(j, e)
}

// tell tells the observers of an event of j, unless it comes after the last one: the
// pool does not wait for ever for what is said of an attempt when it is cut off.
func (q *LocalQueue) tell(j *localJob, e Event) {
	j.telling.Lock()
	defer j.telling.Unlock()
	if j.ended {
		return
	}
	j.ended = e.State != StateRetrying
	q.reg.tell(e)
}

// Cancel ends a job, see [Queue]. Its error is then [context.Canceled]. It never
// waits.
func (q *LocalQueue) Cancel(ctx context.Context, id ID) error {
	if err := q.misuse("Cancel", ctx); err != nil {
		return err
	}
	if h := q.Handle(id); h == nil || !h.Cancel(nil) {
		return fmt.Errorf("%w: %q", ErrNotFound, string(id))
	}
	return nil
}

// Handle returns the handle of the task that is the job, for its state, to wait for
// it or to move it to another priority. It is nil if the job has settled, is still
// being added, or never was.
func (q *LocalQueue) Handle(id ID) *taskpool.Handle {
	if err := q.misuse("Handle", context.Background()); err != nil {
		panic(err.Error())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if j := q.jobs[id]; j != nil && j.handle != nil && !j.handle.State().Final() {
		return j.handle
	}
	return nil
}

// Stop shuts the pool down, as [taskpool.Pool.Shutdown] does, and waits until the
// observers have been told of every job. What was enqueued is finished. If ctx ends
// first it returns an error; jobs that are cut off then are Canceled, with
// taskpool.ErrClosed, and the observers may be told of them later. The tasks that the
// *[taskpool.ShutdownError] then lists call the handler with its payload when they
// are submitted to another pool; this queue's observers are not told of that. In a
// handler, or with a handler's context, Stop returns taskpool.ErrInside and stops nothing.
func (q *LocalQueue) Stop(ctx context.Context) error {
	if err := q.misuse("Stop", ctx); err != nil {
		return err
	}
	err := q.pool.Shutdown(ctx)
	if errors.Is(err, taskpool.ErrInside) {
		return err
	}
	q.mu.Lock()
	left := slices.Collect(maps.Values(q.jobs))
	q.mu.Unlock()
	for _, j := range left {
		select {
		case <-j.over:
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("jobs: Stop: an observer is still being told: %w", context.Cause(ctx))
			}
			return err
		}
	}
	return err
}
