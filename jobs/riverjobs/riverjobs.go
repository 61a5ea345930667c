package riverjobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// A Config says what a process does with the jobs of a database. The zero value only
// enqueues.
type Config struct {
	// Pool runs the jobs in this process, as tasks whose Name is the kind. It may run
	// other tasks too. It is the caller's, to be shut down after Stop: what it refuses goes
	// back to the database for a second, without having used an attempt. Nil: the process
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
	//   - JobTimeout is the Timeout of kinds that have none. It must not be less than that
	//     of any kind, nor -1, as a job without bound is never rescued from a process that
	//     died. Zero is nine tenths of RescueStuckJobsAfter: 54 minutes by default.
	//   - JobStuckThreshold and JobStuckHandler have no effect: the pool gives up what hangs.
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
	known  bool // Enqueue refuses kinds that the registry does not have

	mu  sync.Mutex // protects the fields below; nothing waits with it
	run *run       // nil unless started
}

// A run is what lies between Start and Stop.
type run struct {
	unsubscribe func()
	told        chan struct{} // closed when the observers have been told of all
	cut         error         // why it was cut short; protected by Queue.mu
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
	w := &worker{reg: reg, pool: c.Pool, jobTimeout: rc.JobTimeout, ends: make(map[attempt]jobs.Event)}
	rc.Workers = river.NewWorkers()
	for _, kind := range reg.Kinds() {
		river.AddWorkerArgs(rc.Workers, args{kind: kind}, w)
	}
	rc.ErrorHandler = &errorHandler{w, rc.ErrorHandler}
	rc.Hooks = append([]rivertype.Hook{&insertHook{}}, rc.Hooks...)
	q := &Queue[TTx]{reg: reg, route: c.Route, worker: w, known: !rc.SkipUnknownJobCheck}
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
	r := &run{told: make(chan struct{})}
	q.mu.Lock()
	if q.run != nil {
		q.mu.Unlock()
		return errors.New("riverjobs: the queue is started")
	}
	q.run = r
	events, unsubscribe := q.client.SubscribeConfig(&river.SubscribeConfig{ChanSize: eventBurst, Kinds: []river.EventKind{
		river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed,
		river.EventKindJobInterrupted, river.EventKindJobSnoozed}})
	r.unsubscribe = unsubscribe
	q.mu.Unlock()
	go q.worker.follow(events, r.told)

	running, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	err := q.client.Start(running)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel(err)
		q.finish(r)
		return fmt.Errorf("riverjobs: %w", err)
	}
	return nil
}

// Stop stops fetching jobs and waits until those under way are finished and stored, and
// the observers have been told. If ctx ends first, the contexts of what still runs end,
// and the jobs go back to be run again, here or elsewhere, without having used an
// attempt: also those that did not return within the pool's hang grace. Stop then
// returns an error that wraps ctx's cause. Jobs that wait are left in the database. Stop
// of a queue that is not started does nothing.
func (q *Queue[TTx]) Stop(ctx context.Context) error {
	q.mu.Lock()
	r := q.run
	q.mu.Unlock()
	if r == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.finish(r)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		q.mu.Lock()
		r.cut = fmt.Errorf("riverjobs: Stop was cut short: %w", context.Cause(ctx))
		q.mu.Unlock()
		_ = q.client.StopAndCancel(context.WithoutCancel(ctx)) // its error would be that context's
		<-done
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return r.cut
}

// finish waits until the client has stopped softly, or has been made to stop, and the
// observers have been told.
func (q *Queue[TTx]) finish(r *run) {
	_ = q.client.Stop(context.Background())
	r.unsubscribe() // which a client does that has started
	<-r.told
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.run == r {
		q.run = nil
	}
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
	res, err := insert(newArgs(r, q.route(r)))
	if err != nil {
		return "", fmt.Errorf("riverjobs: job of kind %q: %w", r.Kind, err)
	}
	if res.UniqueSkippedAsDuplicate {
		return id(res.Job), jobs.ErrDuplicate
	}
	return id(res.Job), nil
}

// Cancel ends a job, see [jobs.Queue]: the attempt's context, whichever process runs it,
// ends with the cause river.ErrJobCancelledRemotely. River tells the processes at once on
// PostgreSQL, and within a minute if the message is lost; on SQLite they look every 50 ms.
func (q *Queue[TTx]) Cancel(ctx context.Context, id jobs.ID) error {
	waited, row, err := cancel(id,
		func(id int64) (*rivertype.JobRow, error) { return q.client.JobGet(ctx, id) },
		func(id int64) (*rivertype.JobRow, error) { return q.client.JobCancel(ctx, id) })
	if err == nil && waited {
		q.reg.Tell(jobs.Event{Meta: meta(row), State: jobs.Canceled, Err: context.Canceled})
	}
	return err
}

// InTx returns a queue that does all in the caller's transaction:
//
//	resize.Enqueue(ctx, q.InTx(tx), ResizeArgs{…}, jobs.Options{})
//
// Observers are not told of a job that its Cancel ended before it ran, as that may be
// rolled back.
func (q *Queue[TTx]) InTx(tx TTx) jobs.Queue { return &txQueue[TTx]{q, tx} }

type txQueue[TTx any] struct {
	q  *Queue[TTx]
	tx TTx
}

func (t *txQueue[TTx]) Enqueue(ctx context.Context, r jobs.Request) (jobs.ID, error) {
	return t.q.EnqueueTx(ctx, t.tx, r)
}

func (t *txQueue[TTx]) Cancel(ctx context.Context, id jobs.ID) error {
	_, _, err := cancel(id,
		func(id int64) (*rivertype.JobRow, error) { return t.q.client.JobGetTx(ctx, t.tx, id) },
		func(id int64) (*rivertype.JobRow, error) { return t.q.client.JobCancelTx(ctx, t.tx, id) })
	return err
}

// cancel cancels a job and reports whether it waited then. River's JobCancel does not
// say whether the job had settled, so there is a look before.
func cancel(id jobs.ID, get, cancel func(int64) (*rivertype.JobRow, error)) (waited bool, row *rivertype.JobRow, err error) {
	n, err := strconv.ParseInt(string(id), 10, 64)
	if err != nil {
		return false, nil, fmt.Errorf("%w: %q", jobs.ErrNotFound, string(id))
	}
	if row, err = get(n); err == nil && row.FinalizedAt == nil {
		row, err = cancel(n)
	} else if err == nil {
		err = river.ErrNotFound
	}
	switch {
	case errors.Is(err, river.ErrNotFound), err == nil && row.FinalizedAt != nil && row.State != rivertype.JobStateCancelled:
		return false, nil, fmt.Errorf("%w: %q", jobs.ErrNotFound, string(id))
	case err != nil:
		return false, nil, fmt.Errorf("riverjobs: Cancel of job %q: %w", string(id), err)
	}
	return row.FinalizedAt != nil, row, nil
}
