package jobs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool"
)

// DefaultQueue is the name of the queue that jobs are in unless an engine is told otherwise.
// [Local] has no other.
const DefaultQueue = "default"

// An Operator is a [Queue] that can be looked at and paused: [Local] is one, and so are queues
// of jobs/riverjobs. An engine may sort its jobs into several queues by name.
type Operator interface {
	Queue

	// List returns the unsettled jobs that f asks for, those that were added first at the
	// beginning.
	List(ctx context.Context, f Filter) ([]Info, error)

	// Depths counts the unsettled jobs by queue and kind, sorted by these. What there is
	// none of is left out. It takes time in proportion to the number of unsettled jobs.
	Depths(ctx context.Context) ([]Depth, error)

	// Pause has no further attempt begin at jobs of the named queue, in any process, until
	// Resume; attempts under way are finished. "" is all queues. It is an error if there is
	// no queue of that name.
	Pause(ctx context.Context, queue string) error

	// Resume is the reverse of Pause.
	Resume(ctx context.Context, queue string) error
}

// A Status is what an unsettled job is at.
type Status int

// The statuses.
const (
	StatusWaiting Status = iota // it may start
	StatusDelayed               // its NotBefore, or the time of its retry, has not come
	StatusRunning               // an attempt is under way
)

// String returns the status's name in lower case.
func (s Status) String() string {
	if s < StatusWaiting || s > StatusRunning {
		return fmt.Sprintf("Status(%d)", int(s))
	}
	return [...]string{"waiting", "delayed", "running"}[s]
}

// An Info is what [Operator].List says of a job.
type Info struct {
	Meta   // Attempt is the number of those that have begun
	Queue  string
	Status Status
	Due    time.Time // from when it may start, or could for the attempt that is under way
}

// A Filter says which jobs to list. The zero value is the first 100 of all.
type Filter struct {
	Queue, Kind, Flow string   // empty: any
	Status            []Status // empty: any

	// After leaves out jobs up to the one with this ID, and that one: give the last ID of
	// a list to get the next. Empty: from the first.
	After ID

	// Limit is how many to return at most, from 1 to 10,000. Zero: 100.
	Limit int
}

// Limits of Filter.Limit.
const (
	defaultLimit = 100
	maxLimit     = 10_000
)

// complete sets defaults, and returns an error that names the first field of f that no engine
// accepts.
func (f *Filter) complete() error {
	for _, s := range f.Status {
		if s < StatusWaiting || s > StatusRunning {
			return fmt.Errorf("jobs: Filter.Status must be one of the constants, got %v", s)
		}
	}
	_, err := strconv.ParseInt(string(f.After), 10, 64)
	switch {
	case f.After != "" && err != nil:
		return fmt.Errorf("jobs: Filter.After must be the ID of a job, got %q", string(f.After))
	case f.Limit < 0 || f.Limit > maxLimit:
		return fmt.Errorf("jobs: Filter.Limit must be from 0 to %d, got %d", maxLimit, f.Limit)
	}
	f.Limit = cmp.Or(f.Limit, defaultLimit)
	return nil
}

// A Depth is how many jobs of a kind there are in a queue.
type Depth struct {
	Queue, Kind               string
	Waiting, Delayed, Running int

	// Oldest is how long the job has waited that waits longest and may start: since it was
	// added, its NotBefore, or its retry was due. 0 if none waits.
	Oldest time.Duration
}

var _ Operator = (*LocalQueue)(nil)

// A placed is a job with its task.
type placed struct {
	j      *localJob
	handle *taskpool.Handle // nil: it is being added
}

// all returns the jobs of q, in no order.
func (q *LocalQueue) all() []placed {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]placed, 0, len(q.jobs))
	for _, j := range q.jobs {
		all = append(all, placed{j, j.handle})
	}
	return all
}

// info returns what there is to say of a job; false if it has settled.
func (p placed) info(now time.Time) (Info, bool) {
	i := Info{Meta: p.j.meta, Queue: DefaultQueue, Due: time.Unix(0, p.j.due.Load())}
	i.Attempt = int(p.j.attempts.Load())
	switch state := p.state(); {
	case state.Final():
		return i, false
	case state == taskpool.StateRunning, state == taskpool.StateParked:
		i.Status = StatusRunning
	case state == taskpool.StateDelayed, i.Due.After(now):
		i.Status = StatusDelayed
	}
	return i, true
}

func (p placed) state() taskpool.State {
	if p.handle == nil {
		return taskpool.StateQueued
	}
	return p.handle.State()
}

// List returns the jobs that f asks for, see [Operator].
func (q *LocalQueue) List(ctx context.Context, f Filter) ([]Info, error) {
	if err := q.misuse("List", ctx); err != nil {
		return nil, err
	}
	if err := f.complete(); err != nil {
		return nil, err
	}
	after, _ := strconv.ParseUint(string(f.After), 10, 64)
	all := slices.DeleteFunc(q.all(), func(p placed) bool {
		m := &p.j.meta
		return p.j.number <= after || f.Queue != "" && f.Queue != DefaultQueue || f.Kind != "" && f.Kind != m.Kind || f.Flow != "" && f.Flow != m.Flow
	})
	slices.SortFunc(all, func(a, b placed) int { return cmp.Compare(a.j.number, b.j.number) })
	var list []Info
	now := time.Now()
	for _, p := range all {
		if len(list) == f.Limit {
			break
		}
		if i, ok := p.info(now); ok && (len(f.Status) == 0 || slices.Contains(f.Status, i.Status)) {
			list = append(list, i)
		}
	}
	return list, nil
}

// Depths counts the jobs by kind, see [Operator].
func (q *LocalQueue) Depths(ctx context.Context) ([]Depth, error) {
	if err := q.misuse("Depths", ctx); err != nil {
		return nil, err
	}
	of := make(map[string]*Depth)
	now := time.Now()
	for _, p := range q.all() {
		i, ok := p.info(now)
		if !ok {
			continue
		}
		d := of[i.Kind]
		if d == nil {
			d = &Depth{Queue: DefaultQueue, Kind: i.Kind}
			of[i.Kind] = d
		}
		switch i.Status {
		case StatusWaiting:
			d.Waiting++
			d.Oldest = max(d.Oldest, now.Sub(i.Due))
		case StatusDelayed:
			d.Delayed++
		case StatusRunning:
			d.Running++
		}
	}
	all := make([]Depth, 0, len(of))
	for _, d := range of {
		all = append(all, *d)
	}
	slices.SortFunc(all, func(a, b Depth) int { return cmp.Compare(a.Kind, b.Kind) })
	return all, nil
}

// Pause pauses the pool, with all else that it has to do, see [taskpool.Pool.Pause]. The queue
// must be "" or [DefaultQueue]. Stop resumes it.
func (q *LocalQueue) Pause(ctx context.Context, queue string) error {
	if err := q.named("Pause", ctx, queue); err != nil {
		return err
	}
	q.pool.Pause()
	return nil
}

// Resume resumes the pool, see [LocalQueue.Pause].
func (q *LocalQueue) Resume(ctx context.Context, queue string) error {
	if err := q.named("Resume", ctx, queue); err != nil {
		return err
	}
	q.pool.Resume()
	return nil
}

func (q *LocalQueue) named(call string, ctx context.Context, queue string) error {
	if err := q.misuse(call, ctx); err != nil {
		return err
	}
	if queue != "" && queue != DefaultQueue {
		return fmt.Errorf("jobs: LocalQueue.%s: there is no queue %q", call, queue)
	}
	return nil
}
