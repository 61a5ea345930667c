package riverjobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivershared/riverpilot"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

// A Config says what a process does with the jobs of a database. The zero value only
// enqueues.
type Config struct {
	// Pool runs the jobs in this process, as tasks whose Name is the kind and whose Flow is
	// the job's. It may run other tasks too. What it refuses, and what waits in it for a
	// worker, or for its flow's limit, for longer than a twentieth of RescueStuckJobsAfter
	// (at most 3 minutes), goes back to the database for a second, without having used an
	// attempt; that the policy of WithFlows is not allowed, or panics, is logged. The pool is
	// the caller's, to be shut down after Stop: the queue logs an error and fetches no more
	// when it finds it shut down before. Nil: the process enqueues and cancels, and runs
	// nothing.
	Pool *taskpool.Pool

	// Route returns the River queue that a new job is stored in, for instance one with
	// workers of its own for work that urgent jobs must not keep waiting for ever, or for a
	// flow that must not keep others waiting. Nil: river.QueueDefault for all.
	Route func(jobs.Request) string

	// DiscardUnknownKinds has this process take, and discard, jobs of kinds that its registry
	// does not have, with jobs.ErrUnknownKind. By default it leaves them to processes that
	// know them, of another version of the program for instance.
	DiscardUnknownKinds bool

	// PayloadGrace is how long a job goes back whose payload does not decode here, so that a
	// process of another version may take it; after that it is discarded. It counts from
	// when that was first found. The job is looked at again after a second, and then
	// whenever as much time as has passed has passed again, at most a minute; none of that
	// uses an attempt. Zero: an hour. Negative: it is discarded at once.
	PayloadGrace time.Duration

	// River is the configuration of the River client, with River's defaults but for:
	//
	//   - FetchOnlyKnownKinds is what DiscardUnknownKinds says, and need not be set.
	//   - Queues: nil is river.QueueDefault with as many workers as the pool. The workers
	//     of all queues together must not be more than the pool's, so that the process
	//     holds no row for which it has no worker. A pool that is made smaller afterwards, or
	//     paused, keeps rows waiting, which go back as Pool says.
	//   - RescueStuckJobsAfter is as in River, an hour more than JobTimeout if zero. It must
	//     be so much more than JobTimeout that no attempt of a living process is taken for
	//     lost: by the pool's hang grace, and by a tenth of itself, at most 6 minutes, for
	//     the wait for a worker and for the storing of the end.
	//   - JobTimeout is the Timeout of kinds that have none. It must not be less than that
	//     of any kind, nor -1, as a job without bound is never rescued from a process that
	//     died. Zero is as much as RescueStuckJobsAfter allows, by default 54 minutes less
	//     the hang grace. Where Pool is nil both do nothing.
	//   - ErrorHandler, and Middleware, get of a handler's error the text only.
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
	fence  *fence
	logger *slog.Logger
	kinds  []string // sorted, those that the client knows
	known  bool     // Enqueue refuses others

	noLeader bool // this process never leads

	canceling chan struct{} // has room for the one that cancels

	mu       sync.Mutex      // protects the fields below and those of run; nothing waits with it
	run      *run            // nil unless started
	periodic map[string]bool // by kind and key, those of which there is a series
}

var _ jobs.Operator = (*Queue[any])(nil)

// A run is what lies between Start and Stop.
type run struct {
	abort    context.CancelCauseFunc // of Start
	begun    chan struct{}           // closed when Start is over
	followed chan struct{}           // closed when River has said all
	cut      error                   // why it was cut short
	closed   bool                    // the pool was found shut down
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
	q := &Queue[TTx]{reg: reg, route: c.Route, logger: rc.Logger, kinds: reg.Kinds(), known: !rc.SkipUnknownJobCheck,
		canceling: make(chan struct{}, 1)}
	q.worker = &worker{reg: reg, pool: c.Pool, jobTimeout: rc.JobTimeout, patience: margin(rc.RescueStuckJobsAfter) / 2,
		payloadGrace: cmp.Or(c.PayloadGrace, time.Hour), closed: q.poolClosed, logger: q.logger, events: events{reg: reg, ends: make(map[int64][]end)}}
	rc.Workers = river.NewWorkers()
	for _, kind := range q.kinds {
		river.AddWorkerArgs(rc.Workers, args{kind: kind}, q.worker)
	}
	rc.FetchOnlyKnownKinds = !c.DiscardUnknownKinds
	rc.ErrorHandler = &errorHandler{q.worker, rc.ErrorHandler}
	rc.Hooks = append([]rivertype.Hook{&insertHook{}}, rc.Hooks...)
	q.fence, q.noLeader = &fence{Pilot: new(riverpilot.StandardPilot), reg: reg, events: &q.worker.events, logger: q.logger,
		postgres: driver.DatabaseName() == riverdriver.DatabaseNamePostgres, rescue: rc.RescueStuckJobsAfter}, rc.LeaderElectionDisabled
	var err error
	if q.client, err = river.NewClient(&fencedDriver[TTx]{driver, q.fence}, rc); err != nil {
		return nil, fmt.Errorf("riverjobs: %w", err)
	}
	return q, nil
}

// margin is the part of RescueStuckJobsAfter that an attempt must leave: half of it for
// the wait for a worker of the pool, half for its end to be stored.
func margin(rescue time.Duration) time.Duration { return min(rescue/10, 6*time.Minute) }

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
	case rc.FetchOnlyKnownKinds && c.DiscardUnknownKinds:
		return errors.New("riverjobs: Config.River.FetchOnlyKnownKinds and Config.DiscardUnknownKinds must not both be set")
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
	if c.Pool == nil {
		rc.JobTimeout = cmp.Or(rc.JobTimeout, rc.RescueStuckJobsAfter) // River's default may be more, which it refuses
		return nil
	}
	if err := remote.CheckPool("riverjobs: Config.Pool", c.Pool); err != nil {
		return err
	}
	slots, workers := c.Pool.Stats().Workers, 0
	if rc.Queues == nil {
		rc.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: min(slots, river.QueueNumWorkersMax)}}
	}
	for _, queue := range rc.Queues {
		workers += queue.MaxWorkers
	}
	if workers > slots {
		return fmt.Errorf("riverjobs: Config.River.Queues must not have more workers than the pool's %d, got %d", slots, workers)
	}

	if rc.RescueStuckJobsAfter == 0 {
		rc.RescueStuckJobsAfter = time.Hour + rc.JobTimeout // River's default
	}
	grace := c.Pool.HangGrace()
	limit := rc.RescueStuckJobsAfter - margin(rc.RescueStuckJobsAfter) - grace
	if limit <= 0 {
		return fmt.Errorf("riverjobs: Config.River.RescueStuckJobsAfter must leave time for attempts: more than the pool's hang grace, %v, and a margin of %v, got %v",
			grace, margin(rc.RescueStuckJobsAfter), rc.RescueStuckJobsAfter)
	}
	if rc.JobTimeout > limit {
		return fmt.Errorf("riverjobs: Config.River.JobTimeout must not be more than %v, which is RescueStuckJobsAfter, %v, less the pool's hang grace, %v, and a margin of %v, got %v",
			limit, rc.RescueStuckJobsAfter, grace, margin(rc.RescueStuckJobsAfter), rc.JobTimeout)
	}
	rc.JobTimeout = cmp.Or(rc.JobTimeout, limit)
	for _, kind := range reg.Kinds() {
		if p, _ := engine.Policy(reg, kind); p.Timeout > rc.JobTimeout {
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
	running, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	r := &run{abort: cancel, begun: make(chan struct{}), followed: make(chan struct{})}
	defer close(r.begun)
	q.mu.Lock()
	if q.run != nil {
		q.mu.Unlock()
		return errors.New("riverjobs: the queue is started")
	}
	q.run = r
	q.mu.Unlock()
	stored, unsubscribe := q.client.SubscribeConfig(&river.SubscribeConfig{ChanSize: eventBurst, Kinds: []river.EventKind{
		river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed,
		river.EventKindJobInterrupted, river.EventKindJobSnoozed}})
	go func() {
		defer close(r.followed)
		q.worker.events.follow(stored)
	}()
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	err := q.client.Start(running)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	cancel(err)   // unless ctx or Stop has ended it, whose cause counts
	unsubscribe() // which a client does that has started
	q.finish(r)
	return fmt.Errorf("riverjobs: %w", context.Cause(running))
}

// eventBurst is more than River sends at once, which drops what finds no room.
const eventBurst = 25_000

// storing is how long a Stop that was cut short waits for the database, beyond the hang
// grace, which handlers have to return.
const storing = 5 * time.Second

// Stop stops fetching jobs and waits until those under way are finished and stored, and
// the observers have been told; while Start waits for the database, it waits for Start.
// If ctx ends first, the contexts of what still runs end, and the jobs go back to be run
// again, here or elsewhere, without having used an attempt: also those that did not
// return within the pool's hang grace. Stop then returns an error that wraps ctx's cause.
//
// If the database does not answer, or an observer does not return, that is all it waits
// for: 5 seconds after the hang grace Stop returns an error that says that ends may not
// be stored. What they are the ends of runs again once it is taken for lost. The queue
// remains started until the rest has ended.
//
// Jobs that wait are left in the database. Stop of a queue that is not started only waits
// for the observers. In a task of the pool, so in a handler, it returns
// taskpool.ErrInside and stops nothing.
func (q *Queue[TTx]) Stop(ctx context.Context) error {
	if p := q.worker.pool; p != nil && p.Inside(ctx) {
		return taskpool.ErrInside
	}
	q.mu.Lock()
	r := q.run
	q.mu.Unlock()
	if r == nil && q.worker.events.allTold() == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r != nil {
			<-r.begun
			q.finish(r)
		}
		if told := q.worker.events.allTold(); told != nil {
			<-told
		}
	}()
	select {
	case <-done:
		return q.cutOf(r)
	case <-ctx.Done():
	}
	if r == nil {
		return fmt.Errorf("riverjobs: Stop: an observer is still being told: %w", context.Cause(ctx))
	}
	q.mu.Lock()
	r.cut = fmt.Errorf("riverjobs: Stop was cut short: %w", context.Cause(ctx))
	q.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-r.begun:
		default:
			r.abort(context.Cause(ctx))
			<-r.begun
		}
		_ = q.client.StopAndCancel(context.Background()) // not later than this run: the next is not to be stopped
		<-done
	}()
	limit := time.NewTimer(q.worker.pool.HangGrace() + storing)
	defer limit.Stop()
	select {
	case <-ended:
		return q.cutOf(r)
	case <-limit.C:
		return fmt.Errorf("%w; the database has not answered, or an observer has not returned, within %v: ends of jobs may not be stored", q.cutOf(r), q.worker.pool.HangGrace()+storing)
	}
}

func (q *Queue[TTx]) cutOf(r *run) error {
	if r == nil {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return r.cut
}

// finish waits until the client has stopped softly, or has been made to stop, and has
// said all.
func (q *Queue[TTx]) finish(r *run) {
	_ = q.client.Stop(context.Background())
	<-r.followed
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.run == r {
		q.run = nil
	}
}

// poolClosed stops fetching: all that was fetched would go back, again and again.
func (q *Queue[TTx]) poolClosed() {
	q.mu.Lock()
	r := q.run
	first := r != nil && !r.closed
	if first {
		r.closed = true
	}
	q.mu.Unlock()
	if !first {
		return
	}
	go func() {
		<-r.begun
		_ = q.client.Stop(context.Background())
	}()
	q.logger.Error("riverjobs: the pool was shut down before the queue was stopped, which fetches no more jobs", slog.String("pool", q.worker.pool.Name()))
}

// Enqueue stores a job, see [jobs.Queue]. A kind that the registry does not have is
// jobs.ErrUnknownKind, unless Config.River.SkipUnknownJobCheck is set.
func (q *Queue[TTx]) Enqueue(ctx context.Context, r jobs.Request) (jobs.ID, error) {
	return q.enqueue(r, func(a args, o *river.InsertOpts) (*rivertype.JobInsertResult, error) {
		return q.client.Insert(ctx, a, o)
	})
}

func (q *Queue[TTx]) enqueue(r jobs.Request, insert func(args, *river.InsertOpts) (*rivertype.JobInsertResult, error)) (jobs.ID, error) {
	if err := q.validate(r); err != nil {
		return "", err
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

// validate returns why no job can be added for r, nil if one can.
func (q *Queue[TTx]) validate(r jobs.Request) error {
	if err := engine.Validate(r); err != nil {
		return err
	}
	if _, ok := slices.BinarySearch(q.kinds, r.Kind); !ok && q.known {
		if _, late := engine.Policy(q.reg, r.Kind); late {
			return fmt.Errorf("%w %q: it was registered after New", jobs.ErrUnknownKind, r.Kind)
		}
		return fmt.Errorf("%w %q", jobs.ErrUnknownKind, r.Kind)
	}
	return nil
}

// EnqueueMany stores jobs in one transaction, all or none, see [jobs.EnqueueMany].
func (q *Queue[TTx]) EnqueueMany(ctx context.Context, rs []jobs.Request) ([]jobs.Added, error) {
	return q.enqueueMany(rs, func(p []river.InsertManyParams) ([]*rivertype.JobInsertResult, error) {
		return q.client.InsertMany(ctx, p)
	})
}

func (q *Queue[TTx]) enqueueMany(rs []jobs.Request, insert func([]river.InsertManyParams) ([]*rivertype.JobInsertResult, error)) ([]jobs.Added, error) {
	type key struct{ kind, key string }
	first := make(map[key]int)    // the place in params of each unique key
	place := make([]int, len(rs)) // of each request in params
	params := make([]river.InsertManyParams, 0, len(rs))
	for i, r := range rs {
		if err := q.validate(r); err != nil {
			return nil, fmt.Errorf("riverjobs: EnqueueMany: request %d: %w", i, err)
		}
		if at, taken := first[key{r.Kind, r.UniqueKey}]; taken && r.UniqueKey != "" { // no statement adds both
			place[i] = at
			continue
		}
		place[i] = len(params)
		first[key{r.Kind, r.UniqueKey}] = place[i]
		a, o := newArgs(r, q.route(r))
		params = append(params, river.InsertManyParams{Args: a, InsertOpts: o})
	}
	if len(params) == 0 {
		return nil, nil
	}
	results, err := insert(params)
	if err != nil {
		return nil, fmt.Errorf("riverjobs: EnqueueMany: %w", err)
	}
	all := make([]jobs.Added, len(rs))
	told := make([]bool, len(params))
	for i, at := range place {
		all[i] = jobs.Added{ID: id(results[at].Job), Duplicate: told[at] || results[at].UniqueSkippedAsDuplicate}
		told[at] = true
	}
	return all, nil
}

// Cancel ends a job, see [jobs.Queue]: the attempt's context, whichever process runs it,
// ends with the cause river.ErrJobCancelledRemotely. River tells the processes at once on
// PostgreSQL, and within a minute if the message is lost; on SQLite they look every 50 ms.
//
// Of a job that waited the observers of this process are told, not before Cancel returns
// but in order; that it waits for other Cancels keeps them from being told twice.
func (q *Queue[TTx]) Cancel(ctx context.Context, id jobs.ID) error {
	ctx, done := untilAnswered(ctx, id)
	defer done()
	select {
	case q.canceling <- struct{}{}:
		defer func() { <-q.canceling }()
	case <-ctx.Done():
		return fmt.Errorf("riverjobs: Cancel of job %q: %w", string(id), context.Cause(ctx))
	}
	ended, row, err := cancel(id,
		func(id int64) (*rivertype.JobRow, error) { return q.client.JobGet(ctx, id) },
		func(id int64) (*rivertype.JobRow, error) { return q.client.JobCancel(ctx, id) })
	if ended {
		q.worker.events.canceled(row, jobs.Event{Meta: meta(row), State: jobs.StateCanceled, Err: context.Canceled})
	}
	return err
}

// untilAnswered returns the context for a Cancel of a job with ctx. A handler that cancels its
// own job with its own context has that context end by it, perhaps before the database's answer
// is here: Cancel would say that it has failed. So only the context's deadline counts then.
func untilAnswered(ctx context.Context, id jobs.ID) (context.Context, context.CancelFunc) {
	if m, ok := jobs.MetaFrom(ctx); !ok || m.ID != id {
		return ctx, func() {}
	}
	own := context.WithoutCancel(ctx)
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(own, deadline)
	}
	return own, func() {}
}

// InTx returns a queue that does all in the caller's transaction. A job that is added so
// exists if tx is committed, and runs afterwards:
//
//	resize.Enqueue(ctx, q.InTx(tx), ResizeArgs{…}, nil)
//
// Observers are not told of a job that its Cancel ended before it ran, as that may be
// rolled back.
func (q *Queue[TTx]) InTx(tx TTx) jobs.Queue { return &txQueue[TTx]{q, tx} }

type txQueue[TTx any] struct {
	q  *Queue[TTx]
	tx TTx
}

func (t *txQueue[TTx]) Enqueue(ctx context.Context, r jobs.Request) (jobs.ID, error) {
	return t.q.enqueue(r, func(a args, o *river.InsertOpts) (*rivertype.JobInsertResult, error) {
		return t.q.client.InsertTx(ctx, t.tx, a, o)
	})
}

func (t *txQueue[TTx]) EnqueueMany(ctx context.Context, rs []jobs.Request) ([]jobs.Added, error) {
	return t.q.enqueueMany(rs, func(p []river.InsertManyParams) ([]*rivertype.JobInsertResult, error) {
		return t.q.client.InsertManyTx(ctx, t.tx, p)
	})
}

func (t *txQueue[TTx]) Cancel(ctx context.Context, id jobs.ID) error {
	_, _, err := cancel(id,
		func(id int64) (*rivertype.JobRow, error) { return t.q.client.JobGetTx(ctx, t.tx, id) },
		func(id int64) (*rivertype.JobRow, error) { return t.q.client.JobCancelTx(ctx, t.tx, id) })
	return err
}

// cancel cancels a job and reports whether that has ended it, as it waited. River's
// JobCancel says neither whether the job had settled, so there is a look before; nor
// whether it was another's cancellation that has ended it since: the row says when that was.
func cancel(id jobs.ID, get, cancel func(int64) (*rivertype.JobRow, error)) (ended bool, row *rivertype.JobRow, err error) {
	n, err := strconv.ParseInt(string(id), 10, 64)
	if err != nil {
		return false, nil, fmt.Errorf("%w: %q", jobs.ErrNotFound, string(id))
	}
	var from time.Time
	if row, err = get(n); err == nil && row.FinalizedAt == nil {
		from = time.Now()
		row, err = cancel(n)
	} else if err == nil {
		err = river.ErrNotFound
	}
	switch {
	case errors.Is(err, river.ErrNotFound), err == nil && row.FinalizedAt != nil && canceledAt(row).Before(from):
		return false, nil, fmt.Errorf("%w: %q", jobs.ErrNotFound, string(id))
	case err != nil:
		return false, nil, fmt.Errorf("riverjobs: Cancel of job %q: %w", string(id), err)
	}
	return row.FinalizedAt != nil, row, nil
}
