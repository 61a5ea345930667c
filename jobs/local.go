package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
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

	mu     sync.Mutex // protects the fields below, localJob.handle and localJob.admitted; no user code is called with it
	last   uint64
	jobs   map[ID]*localJob // those that are not over
	unique map[uniqueKey]*localJob
	series map[uniqueKey]*series
	empty  chan struct{} // closed when jobs is empty; nil: nobody waits for that
}

type uniqueKey struct{ kind, key string }

// A localJob is a job that is not over. A million of them may wait, so they are small.
type localJob struct {
	q        *LocalQueue
	number   uint64 // what its ID says
	meta     Meta
	payload  json.RawMessage
	attempts atomic.Int32 // started
	retries  atomic.Int32 // granted
	delay    atomic.Int64 // of the retry that was granted last
	due      atomic.Int64 // when the next attempt, or the one under way, is; in nanoseconds since 1970

	handle   *taskpool.Handle // nil until the job is accepted
	admitted chan struct{}    // closed when it is accepted or refused; nil: nobody waits for that

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
// reg. Each unsettled job takes less than a KiB and its payload.
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
	h, err := q.pool.SubmitWithin(ctx, &jobContext{context.Background(), j}, j.task(policy, r))
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
			now := time.Now()
			j = &localJob{q: q, number: q.last, payload: r.Payload, meta: Meta{
				ID: ID(strconv.FormatUint(q.last, 10)), Kind: r.Kind, MaxAttempts: r.MaxAttempts,
				Priority: r.Priority, Flow: r.Flow, Enqueued: now, UniqueKey: r.UniqueKey}}
			j.due.Store(dueTime(now, r.NotBefore))
			q.jobs[j.meta.ID] = j
			if r.UniqueKey != "" {
				q.unique[key] = j
			}
			q.mu.Unlock()
			return j, true, nil
		}
		if first.handle != nil {
			q.mu.Unlock()
			return first, false, nil
		}
		if first.admitted == nil {
			first.admitted = make(chan struct{})
		}
		admitted := first.admitted
		q.mu.Unlock()
		if err := awaitAdmission(ctx, admitted); err != nil {
			return nil, false, err
		}
	}
}

// dueTime returns the later of two times, in nanoseconds since 1970, which end in 2262.
func dueTime(now, at time.Time) int64 {
	if at.Before(now) {
		at = now
	}
	if last := time.Unix(0, math.MaxInt64); at.After(last) {
		at = last
	}
	return at.UnixNano()
}

// awaitAdmission waits until a job that is being added is accepted or refused.
func awaitAdmission(ctx context.Context, admitted <-chan struct{}) error {
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
		case <-admitted:
			return nil
		case <-ctx.Done():
			return contextOver(ctx)
		case <-done:
			return contextOver(task)
		}
	})
}

// accepted notes that j is the task of h, and has its end told. It is called by
// whoever learns that first: Enqueue, or the task, which may start before Submit has
// returned and tell others its ID.
func (q *LocalQueue) accepted(j *localJob, h *taskpool.Handle) {
	q.mu.Lock()
	first := j.handle == nil
	if first {
		j.handle = h
		j.admittedLocked()
	}
	q.mu.Unlock()
	if first && !remote.OnSettled(h, j.settled) {
		j.settled(nil)
	}
}

// A jobContext is the context that a job is submitted with.
type jobContext struct {
	context.Context
	j *localJob
}

// Value is the context's.
func (c *jobContext) Value(key any) any {
	if key == (metaKey{}) {
		return c.j
	}
	return nil
}

// describe returns the job with the attempt that the pool is about to make, makes or has made
// last: for hooks and the log.
func (j *localJob) describe() Meta {
	j.q.mu.Lock()
	h := j.handle
	j.q.mu.Unlock()
	m := j.meta
	if m.Attempt = 1; h != nil { // else it is the first, which Enqueue does not know of yet
		m.Attempt = h.Info().Attempt
	}
	return m
}

// admittedLocked wakes those who wait until j is accepted or refused.
func (j *localJob) admittedLocked() {
	if j.admitted != nil {
		close(j.admitted)
		j.admitted = nil
	}
}

// refused forgets j, which was not added.
func (q *LocalQueue) refused(j *localJob) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forgetLocked(j)
	j.admittedLocked()
}

func (q *LocalQueue) forgetLocked(j *localJob) {
	delete(q.jobs, j.meta.ID)
	if key := (uniqueKey{j.meta.Kind, j.meta.UniqueKey}); q.unique[key] == j {
		delete(q.unique, key)
	}
	if len(q.jobs) == 0 && q.empty != nil {
		close(q.empty)
		q.empty = nil
	}
}

// task returns the task that is the job.
func (j *localJob) task(p Policy, r Request) taskpool.Task {
	t := taskpool.Task{Name: j.meta.Kind, Priority: j.meta.Priority, Flow: j.meta.Flow, Timeout: p.Timeout, Heartbeat: p.Heartbeat,
		NotBefore: r.NotBefore, MaxWait: r.MaxWait, Run: j.run}
	if j.meta.MaxAttempts > 1 {
		t.Retry = taskpool.Retry{MaxAttempts: j.meta.MaxAttempts, If: j.again, Backoff: j.backoff}
	}
	return t
}

// run makes an attempt.
func (j *localJob) run(ctx context.Context) error {
	if task, ok := taskpool.Current(ctx); ok {
		j.q.accepted(j, task.Handle)
	}
	return j.q.reg.run(ctx, j.underWay(), j.payload)
}

// again reports whether there is another attempt after one that ended with err, and tells of
// it.
func (j *localJob) again(err error) bool {
	e := j.q.reg.judge(j.underWay(), err)
	if e.State != StateRetrying {
		return false
	}
	j.retries.Add(1)
	j.delay.Store(int64(e.Delay))
	j.due.Store(dueTime(time.Now(), time.Now().Add(e.Delay)))
	j.tell(e)
	return true
}

func (j *localJob) backoff(int) time.Duration { return time.Duration(j.delay.Load()) }

// underWay returns the job with the attempt that is under way. Both run and again note
// that, as a hook that goes around an attempt may fail it without a call of run.
func (j *localJob) underWay() Meta {
	m := j.meta
	n := j.retries.Load() + 1
	j.attempts.Store(n)
	m.Attempt = int(n)
	return m
}

// settled is called when the task has: on its worker's goroutine if it succeeded, where a
// slow observer may hold up the worker, and else on any, perhaps on that of Cancel, which
// does not wait.
func (j *localJob) settled(canceled error) {
	h := j.handle
	e := Event{Meta: j.meta, Err: h.Err()}
	e.Attempt = int(j.attempts.Load())
	switch state := h.State(); {
	case state == taskpool.StateSucceeded:
		j.end(e)
		return
	case state == taskpool.StateCanceled:
		e.State = StateCanceled
	case canceled != nil: // and it panicked, called Goexit or hangs
		e = canceledEvent(e.Meta, canceled, e.Err)
	default:
		e.State = StateDiscarded
	}
	go j.end(e)
}

// end tells of the job's end.
func (j *localJob) end(e Event) {
	j.tell(e)
	j.q.mu.Lock()
	defer j.q.mu.Unlock()
	j.q.forgetLocked(j)
}

// tell tells the observers of an event of j, unless it comes after the last one: the
// pool does not wait for ever for what is said of an attempt when it is cut off.
func (j *localJob) tell(e Event) {
	j.telling.Lock()
	defer j.telling.Unlock()
	if j.ended {
		return
	}
	j.ended = e.State != StateRetrying
	j.q.reg.tell(e)
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
	if q.pool.Inside(ctx) {
		return taskpool.ErrInside
	}
	q.stopSeries()
	err := q.pool.Shutdown(ctx)
	for {
		q.mu.Lock()
		if len(q.jobs) == 0 {
			q.mu.Unlock()
			return err
		}
		if q.empty == nil {
			q.empty = make(chan struct{})
		}
		empty := q.empty
		q.mu.Unlock()
		select {
		case <-empty:
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("jobs: Stop: an observer is still being told: %w", context.Cause(ctx))
			}
			return err
		}
	}
}
