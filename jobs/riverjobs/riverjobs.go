package riverjobs

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivershared/uniquestates"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// A Config says what a process does with the jobs of a database. The zero value only
// enqueues.
type Config struct {
	// Pool runs the jobs in this process, as tasks whose Name is the kind. It may run
	// other tasks too. It is the caller's: Stop does not shut it down. Nil: the process
	// enqueues and cancels, and runs nothing.
	Pool *taskpool.Pool

	// Route returns the River queue that a new job is stored in, for instance one with
	// workers of its own for work that urgent jobs must not keep waiting for ever. Nil:
	// river.QueueDefault for all.
	Route func(jobs.Request) string

	// River is the configuration of the River client, with River's defaults but for:
	//
	//   - Queues: nil is river.QueueDefault with as many workers as the pool. The workers
	//     of all queues together must not be more than the pool's, so that the process
	//     holds no row for which it has no worker.
	//   - JobTimeout is the most that an attempt may take, with the wait for a worker of
	//     the pool, of kinds without a Timeout too. It must not be less than any Timeout,
	//     nor -1, as a job without bound is never rescued from a process that died. Zero
	//     is nine tenths of RescueStuckJobsAfter: 54 minutes by default.
	//   - Logger: nil is slog.Default().
	//   - Workers must be nil: they are made of the registry.
	River river.Config
}

// A Queue is a [jobs.Queue] in a database. TTx is the driver's type of transactions. Its
// methods may be called from any goroutine.
type Queue[TTx any] struct {
	reg    *jobs.Registry
	route  func(jobs.Request) string
	client *river.Client[TTx]
	worker *worker
	known  bool          // Enqueue refuses kinds that the registry does not have
	told   chan struct{} // see startStop
	// startStop is held by Start and Stop. Its element is whether the queue is started;
	// then told is closed when the observers have been told of the last event.
	startStop chan bool
}

// Migrate creates River's tables in the driver's database, or brings them up to date, as
// package rivermigrate does. Run it before the first process starts.
func Migrate[TTx any](ctx context.Context, driver riverdriver.Driver[TTx]) error {
	m, err := rivermigrate.New(driver, nil)
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// New returns a queue in the driver's database that runs the handlers of reg, once it is
// started. All kinds must be registered before. It does not connect.
func New[TTx any](driver riverdriver.Driver[TTx], reg *jobs.Registry, c Config) (*Queue[TTx], error) {
	rc := &c.River
	if err := c.complete(reg); err != nil {
		return nil, err
	}
	w := &worker{reg: reg, pool: c.Pool, logger: rc.Logger, ends: make(map[attempt]jobs.Event)}
	rc.Workers = river.NewWorkers()
	for _, kind := range reg.Kinds() {
		river.AddWorkerArgs(rc.Workers, args{kind: kind}, w)
	}
	rc.ErrorHandler = &errorHandler{w, rc.ErrorHandler}
	rc.Hooks = append([]rivertype.Hook{&insertHook{}}, rc.Hooks...)
	q := &Queue[TTx]{reg: reg, route: c.Route, worker: w, known: !rc.SkipUnknownJobCheck, startStop: make(chan bool, 1)}
	q.startStop <- false
	var err error
	if q.client, err = river.NewClient(driver, rc); err != nil {
		return nil, fmt.Errorf("riverjobs: %w", err)
	}
	return q, nil
}

// complete reports the first setting that cannot be, and sets defaults.
func (c *Config) complete(reg *jobs.Registry) error {
	rc := &c.River
	switch {
	case reg == nil:
		return errors.New("riverjobs: the registry must not be nil")
	case rc.Workers != nil:
		return errors.New("riverjobs: Config.River.Workers must be nil: workers are made of the registry")
	case c.Pool == nil && rc.Queues != nil:
		return errors.New("riverjobs: Config.Pool must not be nil where Config.River.Queues is set")
	case rc.JobTimeout < 0:
		return fmt.Errorf("riverjobs: Config.River.JobTimeout must not be negative, got %v: "+
			"a job without bound is never rescued from a process that died", rc.JobTimeout)
	}
	if c.Route == nil {
		c.Route = func(jobs.Request) string { return river.QueueDefault }
	}
	if rc.Logger == nil {
		rc.Logger = slog.Default()
	}
	if c.Pool != nil {
		slots, workers := c.Pool.Stats().Slots, 0
		if rc.Queues == nil {
			rc.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: min(slots, river.QueueNumWorkersMax)}}
		}
		for _, queue := range rc.Queues {
			workers += queue.MaxWorkers
		}
		if workers > slots {
			return fmt.Errorf("riverjobs: Config.River.Queues must not have more workers than the pool's %d, got %d", slots, workers)
		}
	}
	if rc.JobTimeout == 0 {
		rescue := rc.RescueStuckJobsAfter
		if rescue == 0 {
			rescue = time.Hour // River's default
		}
		rc.JobTimeout = rescue / 10 * 9
	}
	for _, kind := range reg.Kinds() {
		if p, _ := reg.Policy(kind); p.Timeout > rc.JobTimeout {
			return fmt.Errorf("riverjobs: Policy.Timeout of kind %q must not be more than Config.River.JobTimeout, %v, got %v",
				kind, rc.JobTimeout, p.Timeout)
		}
	}
	return nil
}

// Client returns the River client, for what this package does not do. To the client's
// own Insert the registry's kinds are unknown types; use Enqueue.
func (q *Queue[TTx]) Client() *river.Client[TTx] { return q.client }

// Start begins to fetch and run jobs. It waits for the database until ctx ends. The
// values of ctx are seen by handlers; its end later changes nothing. A queue that was
// stopped may be started again. It is an error to start one that has no Pool or is
// started.
func (q *Queue[TTx]) Start(ctx context.Context) error {
	if q.worker.pool == nil {
		return errors.New("riverjobs: Config.Pool must be set to run jobs")
	}
	started := <-q.startStop
	defer func() { q.startStop <- started }()
	if started {
		return errors.New("riverjobs: the queue is started")
	}
	events, unsubscribe := q.client.SubscribeConfig(&river.SubscribeConfig{ChanSize: eventBurst, Kinds: []river.EventKind{
		river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed,
		river.EventKindJobInterrupted, river.EventKindJobSnoozed}})
	run, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	err := q.client.Start(run)
	if !stop() && err == nil {
		err = errors.Join(context.Cause(ctx), q.client.StopAndCancel(context.WithoutCancel(ctx)))
	}
	if err != nil {
		cancel(nil)
		unsubscribe()
		return fmt.Errorf("riverjobs: %w", err)
	}
	started, q.told = true, make(chan struct{})
	go q.worker.follow(events, q.told)
	return nil
}

// Stop stops fetching jobs and waits until those under way are finished and stored, and
// the observers have been told. If ctx ends first, the contexts of what still runs end,
// and the jobs go back to be run again, here or elsewhere, without having used an
// attempt: also those that did not return within the pool's hang grace. Stop then
// returns an error that wraps ctx's cause. Jobs that wait are left in the database. Stop
// of a queue that is not started does nothing.
func (q *Queue[TTx]) Stop(ctx context.Context) error {
	started := <-q.startStop
	defer func() { q.startStop <- false }()
	if !started {
		return nil
	}
	err := q.client.Stop(ctx)
	if err != nil {
		err = fmt.Errorf("riverjobs: Stop was cut short: %w", context.Cause(ctx))
		if hard := q.client.StopAndCancel(context.WithoutCancel(ctx)); hard != nil {
			err = errors.Join(err, hard)
		}
	}
	<-q.told
	return err
}

// Enqueue stores a job, see [jobs.Queue]. A kind that the registry does not have is
// jobs.ErrUnknownKind, unless Config.River.SkipUnknownJobCheck is set.
func (q *Queue[TTx]) Enqueue(ctx context.Context, r jobs.Request) (jobs.ID, error) {
	return q.enqueue(r, func(a args, o *river.InsertOpts) (*rivertype.JobInsertResult, error) {
		return q.client.Insert(ctx, a, o)
	})
}

// EnqueueTx is Enqueue in the caller's transaction: the job exists if tx is committed,
// and runs afterwards.
func (q *Queue[TTx]) EnqueueTx(ctx context.Context, tx TTx, r jobs.Request) (jobs.ID, error) {
	return q.enqueue(r, func(a args, o *river.InsertOpts) (*rivertype.JobInsertResult, error) {
		return q.client.InsertTx(ctx, tx, a, o)
	})
}

func (q *Queue[TTx]) enqueue(r jobs.Request, insert func(args, *river.InsertOpts) (*rivertype.JobInsertResult, error)) (jobs.ID, error) {
	if err := r.Validate(); err != nil {
		return "", err
	}
	if _, ok := q.reg.Policy(r.Kind); !ok && q.known {
		return "", fmt.Errorf("%w %q", jobs.ErrUnknownKind, r.Kind)
	}
	o := &river.InsertOpts{MaxAttempts: r.MaxAttempts, Priority: riverPriority(r.Priority), Queue: q.route(r)}
	if time.Until(r.NotBefore) > 0 {
		o.ScheduledAt = ceil(r.NotBefore)
	}
	note := note{UniqueKey: r.UniqueKey}
	if priorities[o.Priority] != r.Priority {
		note.Priority = &r.Priority
	}
	if note != (struct {
		Priority  *taskpool.Priority `json:"taskpool_priority,omitempty"`
		UniqueKey string             `json:"taskpool_unique_key,omitempty"`
	}{}) {
		o.Metadata, _ = json.Marshal(note)
	}
	res, err := insert(args{r.Kind, r.Payload, r.UniqueKey, nil}, o)
	if err != nil {
		return "", fmt.Errorf("riverjobs: job of kind %q: %w", r.Kind, err)
	}
	if res.UniqueSkippedAsDuplicate {
		return id(res.Job), jobs.ErrDuplicate
	}
	return id(res.Job), nil
}
