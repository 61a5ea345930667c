package riverjobs_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// A queue is a Queue of any driver.
type queue interface {
	jobs.Queue
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

// patience is how long tests wait for what should happen at once: so long that no busy
// machine fails them, and what hangs is still told of by its name.
const patience = 20 * time.Minute

// A process is what a test sees of one process at a database.
type process struct {
	queue
	t    *testing.T
	get  func(ctx context.Context, id int64) (*rivertype.JobRow, error)
	list func(ctx context.Context, p *river.JobListParams) (*river.JobListResult, error)
	sql  func(ctx context.Context, sql string, args ...any) error

	pause, resume func(ctx context.Context, queue string, o *river.QueuePauseOpts) error
}

// lose does what River's rescuer does with a job that it takes for lost.
func (p *process) lose(id jobs.ID) {
	p.t.Helper()
	require.NoError(p.t, p.sql(p.t.Context(), "UPDATE river_job SET state = 'available' WHERE id = "+string(id)))
}

func (p *process) row(id jobs.ID) *rivertype.JobRow {
	p.t.Helper()
	n, err := strconv.ParseInt(string(id), 10, 64)
	require.NoError(p.t, err)
	row, err := p.get(p.t.Context(), n)
	require.NoError(p.t, err)
	return row
}

func (p *process) count(state rivertype.JobState) int {
	p.t.Helper()
	res, err := p.list(p.t.Context(), river.NewJobListParams().States(state).First(10_000))
	require.NoError(p.t, err)
	return len(res.Jobs)
}

// An opener starts a process on the test's database; without a Pool it only enqueues.
type opener func(reg *jobs.Registry, c riverjobs.Config) *process

// onEach runs a test on each database. Logs are discarded and polls are quick unless
// Config.River says otherwise.
func onEach(t *testing.T, test func(t *testing.T, open opener)) {
	t.Run("SQLite", func(t *testing.T) { test(t, openerOn(t, riversqlite.New(newSQLite(t)))) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, openerOn(t, riverpgxv5.New(newPostgres(t)))) })
}

func openerOn[TTx any](t *testing.T, driver riverdriver.Driver[TTx]) opener {
	return func(reg *jobs.Registry, c riverjobs.Config) *process {
		t.Helper()
		if c.River.Logger == nil {
			queues, rest := c.River.Queues, c.River
			c.River = quick()
			c.River.Queues, c.River.JobTimeout = queues, rest.JobTimeout
			c.River.SkipUnknownJobCheck = rest.SkipUnknownJobCheck
		}
		q, err := riverjobs.New(driver, reg, c)
		require.NoError(t, err)
		if c.Pool != nil {
			require.NoError(t, q.Start(t.Context()))
			t.Cleanup(func() { _ = q.Stop(context.Background()) })
		}
		return &process{q, t, q.Client().JobGet, q.Client().JobList, driver.GetExecutor().Exec,
			q.Client().QueuePause, q.Client().QueueResume}
	}
}

// observe returns the events of reg, one after the other.
func observe(t *testing.T, reg *jobs.Registry) (next func() jobs.Event) {
	next, _ = observeAll(t, reg)
	return next
}

// observeAll returns the events of reg as observe does, and how many have come since.
func observeAll(t *testing.T, reg *jobs.Registry) (next func() jobs.Event, left func() int) {
	events := make(chan jobs.Event, 10_000)
	reg.Observe(func(e jobs.Event) { events <- e })
	next = func() jobs.Event {
		t.Helper()
		select {
		case e := <-events:
			return e
		case <-time.After(patience):
			require.Fail(t, "no event")
			return jobs.Event{}
		}
	}
	return next, func() int { return len(events) }
}

func await(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		require.Fail(t, "waited in vain")
	}
}

func enqueue[T any](t *testing.T, k *jobs.Kind[T], q jobs.Queue, payload T, o *jobs.Options) jobs.ID {
	t.Helper()
	id, err := k.Enqueue(t.Context(), q, payload, o)
	require.NoError(t, err)
	return id
}

func done(context.Context, jobs.Meta, int) error { return nil }

var errTest = errors.New("as the handler says")

func TestStopThatIsCutShortGivesJobsBackWithTheirAttempt(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		t.Run(fmt.Sprintf("hangs=%v", hangs), func(t *testing.T) {
			onEach(t, func(t *testing.T, open opener) {
				var reg, other jobs.Registry
				next, otherNext := observe(t, &reg), observe(t, &other)
				started, gate := make(chan struct{}), make(chan struct{})
				defer close(gate)
				k := jobs.Register(&reg, "kind", func(ctx context.Context, m jobs.Meta, n int) error {
					close(started)
					if hangs {
						<-gate
					}
					<-ctx.Done()
					return errors.New("not the context's error")
				}, jobs.Policy{MaxAttempts: 1})
				p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithHangGrace(10*time.Millisecond))})
				id := enqueue(t, k, p, 1, nil)
				await(t, started)
				impatient, cancel := context.WithCancelCause(t.Context())
				cancel(errTest)
				require.ErrorIs(t, p.Stop(impatient), errTest)
				e := next()
				require.Equal(t, jobs.StateRetrying, e.State)
				require.Equal(t, 1, e.Attempt)
				row := p.row(id)
				require.Equal(t, rivertype.JobStateAvailable, row.State)
				require.Zero(t, row.Attempt)
				require.Empty(t, row.Errors)

				jobs.Register(&other, "kind", done, jobs.Policy{})
				open(&other, riverjobs.Config{Pool: newPool(t)})
				e = otherNext()
				require.Equal(t, jobs.StateCompleted, e.State)
				require.Equal(t, 1, e.Attempt)
			})
		})
	}
}

func TestASecondStopWithLessPatienceCutsTheFirstShort(t *testing.T) {
	var reg jobs.Registry
	started := make(chan struct{})
	k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}, jobs.Policy{})
	p := openerOn(t, riversqlite.New(newSQLite(t)))(&reg, riverjobs.Config{Pool: newPool(t)})
	enqueue(t, k, p, 1, nil)
	await(t, started)
	first := make(chan error, 1)
	go func() { first <- p.Stop(context.Background()) }()
	impatient, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	require.ErrorIs(t, p.Stop(impatient), errTest)
	<-first
	require.NoError(t, p.Stop(impatient), "there is nothing to stop any more")
}

func TestAQueueIsStartedOnceAndMayBeStartedAgain(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t)})
		require.ErrorContains(t, p.Start(t.Context()), "is started")
		require.NoError(t, p.Stop(t.Context()))
		require.NoError(t, p.Stop(t.Context()))
		over, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, p.Start(over), context.Canceled)
		id := enqueue(t, k, p, 1, nil)
		require.NoError(t, p.Start(t.Context()))
		require.Equal(t, id, next().ID)

		idle := open(&reg, riverjobs.Config{})
		require.ErrorContains(t, idle.Start(t.Context()), "Config.Pool")
	})
}

func TestHungJobIsDiscardedAndItsSlotTakesTheNext(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		gate := make(chan struct{})
		defer close(gate)
		hangs := jobs.Register(&reg, "hangs", func(context.Context, jobs.Meta, int) error { <-gate; return nil },
			jobs.Policy{MaxAttempts: 5, Timeout: 300 * time.Millisecond})
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithHangGrace(10*time.Millisecond))})
		id := enqueue(t, hangs, p, 1, nil)
		enqueue(t, k, p, 1, nil)
		ends := map[string]jobs.Event{}
		for len(ends) < 2 { // in any order
			if e := next(); e.State != jobs.StateRetrying { // on a busy machine its time may be over before it has begun
				ends[e.Kind] = e
			}
		}
		require.Equal(t, jobs.StateDiscarded, ends["hangs"].State)
		require.ErrorIs(t, ends["hangs"].Err, taskpool.ErrHung)
		require.Equal(t, jobs.StateCompleted, ends["kind"].State)
		row := p.row(id)
		require.Equal(t, rivertype.JobStateDiscarded, row.State)
		require.Equal(t, ends["hangs"].Attempt, row.Attempt)
	})
}

func TestJobOfAnotherProgramsKindIsDiscardedWithAReason(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg, other jobs.Registry
		next := observe(t, &reg)
		jobs.Register(&reg, "kind", done, jobs.Policy{})
		k := jobs.Register(&other, "foreign", done, jobs.Policy{MaxAttempts: 9})
		p := open(&reg, riverjobs.Config{Pool: newPool(t), DiscardUnknownKinds: true})
		id := enqueue(t, k, open(&other, riverjobs.Config{}), 1, nil)
		e := next()
		require.Equal(t, jobs.StateDiscarded, e.State)
		require.ErrorIs(t, e.Err, jobs.ErrUnknownKind)
		row := p.row(id)
		require.Equal(t, rivertype.JobStateDiscarded, row.State)
		require.Len(t, row.Errors, 1)
	})
}

func TestKnownKindsOnlyLeavesTheOthersToOtherProcesses(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg, other jobs.Registry
		next, otherNext := observe(t, &reg), observe(t, &other)
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		jobs.Register(&other, "foreign", done, jobs.Policy{})
		c := river.Config{SkipUnknownJobCheck: true}
		p := open(&reg, riverjobs.Config{Pool: newPool(t), River: c})
		foreign, err := p.Enqueue(t.Context(), jobs.Request{Kind: "foreign", Payload: json.RawMessage("1"), MaxAttempts: 1})
		require.NoError(t, err)
		own := enqueue(t, k, p, 1, &jobs.Options{Priority: new(taskpool.Low)}) // it would come later
		require.Equal(t, own, next().ID)
		require.Equal(t, rivertype.JobStateAvailable, p.row(foreign).State)
		open(&other, riverjobs.Config{Pool: newPool(t), River: c})
		e := otherNext()
		require.Equal(t, foreign, e.ID)
		require.Equal(t, jobs.StateCompleted, e.State)
	})
}

func TestEveryPriorityIsKeptAndMapsMonotonically(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		var got []taskpool.Priority
		k := jobs.Register(&reg, "kind", func(_ context.Context, m jobs.Meta, _ int) error {
			got = append(got, m.Priority)
			return nil
		}, jobs.Policy{})
		q := open(&reg, riverjobs.Config{})
		for _, c := range []struct {
			priority taskpool.Priority
			river    int
		}{{100, 4}, {2, 4}, {taskpool.Low, 3}, {taskpool.Medium, 2}, {taskpool.High, 1}, {-2, 1}, {-100, 1}} {
			id := enqueue(t, k, q, 1, &jobs.Options{Priority: &c.priority})
			require.Equal(t, c.river, q.row(id).Priority, "priority %d", c.priority)
		}
		open(&reg, riverjobs.Config{Pool: newPool(t)})
		for range 7 {
			require.Equal(t, jobs.StateCompleted, next().State)
		}
		require.Equal(t, []taskpool.Priority{taskpool.High, -2, -100, taskpool.Medium, taskpool.Low, 100, 2}, got)
	})
}

func TestTheRowsArgsShowThePayload(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		got := make(chan string, 1)
		jobs.Register(&reg, "kind", func(_ context.Context, _ jobs.Meta, payload json.RawMessage) error {
			got <- string(payload)
			return nil
		}, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t)})
		for payload, args := range map[string]string{
			`{"a":12,"b":{"c":[1,2]}}`: "", `[1,"2"]`: "", `{"value":1}`: "", `{}`: "",
			` "text"`: `{"value":"text"}`, `"12"`: `{"value":"12"}`, `true`: `{"value":true}`,
			`null`: `{"value":null}`, `1.5`: `{"value":1.5}`, `""`: `{"value":""}`,
		} {
			if args == "" {
				args = payload
			}
			id, err := p.Enqueue(t.Context(), jobs.Request{Kind: "kind", Payload: json.RawMessage(payload), MaxAttempts: 1})
			require.NoError(t, err, payload)
			require.JSONEq(t, payload, <-got)
			require.Equal(t, jobs.StateCompleted, next().State)
			require.JSONEq(t, args, string(p.row(id).EncodedArgs))
			require.Equal(t, "kind", p.row(id).Kind)
		}
	})
}

// hostile is an error that River cannot store or survive.
type hostile struct{ panics bool }

func (h hostile) Error() string {
	if h.panics {
		panic("as the error says")
	}
	return "a NUL: \x00 and no UTF-8: \xff"
}

func TestErrorThatCannotBeStoredHoldsNobodyUp(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", func(_ context.Context, _ jobs.Meta, panics bool) error { return hostile{panics} }, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t)})
		for _, panics := range []bool{false, true} {
			id := enqueue(t, k, p, panics, nil)
			e := next()
			require.Equal(t, jobs.StateDiscarded, e.State)
			require.ErrorIs(t, e.Err, hostile{panics})
			require.Equal(t, rivertype.JobStateDiscarded, p.row(id).State)
			t.Logf("stored: %q", p.row(id).Errors[0].Error)
		}
	})
}

func TestCancelReachesAJobInAnotherProcess(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg, other jobs.Registry
		next := observe(t, &reg)
		started := make(chan struct{})
		cause := make(chan error, 1)
		k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error {
			close(started)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return errTest
		}, jobs.Policy{MaxAttempts: 3})
		p := open(&reg, riverjobs.Config{Pool: newPool(t)})
		id := enqueue(t, k, p, 1, nil)
		await(t, started)
		q := open(&other, riverjobs.Config{})
		require.NoError(t, q.Cancel(t.Context(), id))
		require.ErrorIs(t, <-cause, river.ErrJobCancelledRemotely)
		e := next()
		require.Equal(t, jobs.StateCanceled, e.State)
		require.ErrorIs(t, e.Err, errTest)
		require.ErrorIs(t, q.Cancel(t.Context(), id), jobs.ErrNotFound)
		require.ErrorIs(t, q.Cancel(t.Context(), "4711"), jobs.ErrNotFound)
		require.ErrorIs(t, q.Cancel(t.Context(), "no number"), jobs.ErrNotFound)
	})
}

func TestJobThatWaitsForItsRetryCanBeCanceled(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", func(context.Context, jobs.Meta, int) error { return taskpool.RetryAfter(time.Hour, errTest) },
			jobs.Policy{MaxAttempts: 3})
		p := open(&reg, riverjobs.Config{Pool: newPool(t)})
		id := enqueue(t, k, p, 1, nil)
		require.Equal(t, time.Hour, next().Delay)
		require.Equal(t, rivertype.JobStateRetryable, p.row(id).State)
		require.NoError(t, p.Cancel(t.Context(), id))
		e := next()
		require.Equal(t, jobs.StateCanceled, e.State)
		require.Equal(t, 1, e.Attempt)
	})
}

func TestJobWhoseTaskIsCanceledInThePoolIsCanceled(t *testing.T) {
	var reg jobs.Registry
	next := observe(t, &reg)
	k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error {
		info, _ := taskpool.Current(ctx)
		info.Handle.Cancel(errTest)
		<-ctx.Done()
		return ctx.Err()
	}, jobs.Policy{MaxAttempts: 3})
	p := openerOn(t, riversqlite.New(newSQLite(t)))(&reg, riverjobs.Config{Pool: newPool(t)})
	id := enqueue(t, k, p, 1, nil)
	e := next()
	require.Equal(t, jobs.StateCanceled, e.State)
	require.ErrorIs(t, e.Err, errTest)
	require.Equal(t, rivertype.JobStateCancelled, p.row(id).State)
}

func TestProcessHoldsNoMoreRowsThanItHasWorkers(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		started, gate := make(chan struct{}, 10), make(chan struct{})
		k := jobs.Register(&reg, "kind", func(context.Context, jobs.Meta, int) error { started <- struct{}{}; <-gate; return nil }, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(2))})
		for i := range 5 {
			enqueue(t, k, p, i, nil)
		}
		await(t, started)
		await(t, started)
		require.Equal(t, 2, p.count(rivertype.JobStateRunning))
		urgent := enqueue(t, k, p, 5, &jobs.Options{Priority: new(taskpool.High)})
		gate <- struct{}{} // of one worker; that takes the urgent job next
		require.Equal(t, jobs.StateCompleted, next().State)
		await(t, started)
		require.Equal(t, rivertype.JobStateRunning, p.row(urgent).State)
		close(gate)
		for range 5 {
			next()
		}
	})
}

func TestLowWorkInAQueueOfItsOwnIsNotStarvedByUrgentWork(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		gate := make(chan struct{})
		defer close(gate)
		urgent := jobs.Register(&reg, "urgent", func(context.Context, jobs.Meta, int) error { <-gate; return nil }, jobs.Policy{Priority: taskpool.High})
		low := jobs.Register(&reg, "low", done, jobs.Policy{Priority: taskpool.Low})
		p := open(&reg, riverjobs.Config{
			Pool: newPool(t, taskpool.WithWorkers(3)),
			Route: func(r jobs.Request) string {
				if r.Priority >= taskpool.Low {
					return "low"
				}
				return river.QueueDefault
			},
			River: river.Config{Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2}, "low": {MaxWorkers: 1}}},
		})
		for i := range 4 {
			enqueue(t, urgent, p, i, nil)
		}
		id := enqueue(t, low, p, 0, nil)
		e := next()
		require.Equal(t, id, e.ID)
		require.Equal(t, jobs.StateCompleted, e.State)
	})
}

func TestAttemptThatTakesLongerThanJobTimeoutHasTimedOut(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error { <-ctx.Done(); return ctx.Err() }, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t), River: river.Config{JobTimeout: 20 * time.Millisecond}})
		enqueue(t, k, p, 1, nil)
		e := next()
		for ; e.State == jobs.StateRetrying; e = next() { // on a busy machine it may have begun too late
		}
		require.Equal(t, jobs.StateDiscarded, e.State)
		require.ErrorIs(t, e.Err, taskpool.ErrTimeout)
	})
}

func TestJobForWhichThePoolHasNoRoomGoesBackWithItsAttempt(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		pool := newPool(t, taskpool.WithCapacity(0, taskpool.OverflowReject))
		gate := make(chan struct{})
		require.NoError(t, pool.Go(taskpool.Medium, func() { <-gate }))
		p := open(&reg, riverjobs.Config{Pool: pool})
		enqueue(t, k, p, 1, nil)
		e := next()
		require.Equal(t, jobs.StateRetrying, e.State)
		require.ErrorIs(t, e.Err, taskpool.ErrFull)
		require.Equal(t, time.Second, e.Delay)
		close(gate)
		for e = next(); e.State == jobs.StateRetrying; e = next() {
		}
		require.Equal(t, jobs.StateCompleted, e.State)
		require.Equal(t, 1, e.Attempt)
	})
}

func TestJobThatAShutdownOfThePoolCutsOffGoesBackWithItsAttempt(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		started := make(chan struct{})
		k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error {
			close(started)
			<-ctx.Done()
			return ctx.Err()
		}, jobs.Policy{})
		pool := newPool(t)
		p := open(&reg, riverjobs.Config{Pool: pool})
		id := enqueue(t, k, p, 1, nil)
		await(t, started)
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, pool.Shutdown(impatient))
		e := next()
		require.Equal(t, jobs.StateRetrying, e.State)
		require.ErrorIs(t, e.Err, taskpool.ErrClosed)
		require.NoError(t, p.Stop(t.Context()))
		require.Zero(t, p.row(id).Attempt)
		require.False(t, p.row(id).State == rivertype.JobStateDiscarded)
	})
}

func TestSlowObserverLosesNoEvent(t *testing.T) {
	const n = 3000
	var reg jobs.Registry
	gate := make(chan struct{})
	reg.Observe(func(jobs.Event) { <-gate })
	next := observe(t, &reg)
	k := jobs.Register(&reg, "kind", done, jobs.Policy{})
	db := newPostgres(t)
	q := started(t, riverpgxv5.New(db), &reg, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(100)), River: quick()})
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	for i := range n {
		enqueue(t, k, q.InTx(tx), i, nil)
	}
	require.NoError(t, tx.Commit(t.Context()))
	completed := func() (n int) {
		require.NoError(t, db.QueryRow(t.Context(), "SELECT count(*) FROM river_job WHERE state = 'completed'").Scan(&n))
		return n
	}
	for completed() < n {
		<-time.After(20 * time.Millisecond)
	}
	close(gate)
	seen := make(map[jobs.ID]bool)
	for range n {
		seen[next().ID] = true
	}
	require.Len(t, seen, n)
}

func TestConfigThatCannotBeIsRefusedByName(t *testing.T) {
	var reg, slow jobs.Registry
	jobs.Register(&reg, "kind", done, jobs.Policy{})
	jobs.Register(&slow, "slow", done, jobs.Policy{Timeout: 2 * time.Hour})
	pool := newPool(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(10*time.Second))
	queues := map[string]river.QueueConfig{"a": {MaxWorkers: 1}, "b": {MaxWorkers: 2}}
	driver := riversqlite.New(newSQLite(t))
	for want, c := range map[string]riverjobs.Config{
		"Config.River.Workers must be nil":                                        {River: river.Config{Workers: river.NewWorkers()}},
		"Config.River.JobTimeout must not be negative, got -1ns":                  {River: river.Config{JobTimeout: -1}},
		"Config.Pool must not be nil where Config.River.Queues is set":            {River: river.Config{Queues: queues}},
		"FetchOnlyKnownKinds and Config.DiscardUnknownKinds must not both":        {DiscardUnknownKinds: true, River: river.Config{FetchOnlyKnownKinds: true}},
		"Config.Pool must be one that taskpool.New has returned, got a zero Pool": {Pool: new(taskpool.Pool)},
		"must not have more workers than the pool's 2, got 3":                     {Pool: pool, River: river.Config{Queues: queues}},
		"riverjobs: FetchPollInterval cannot be shorter than FetchCooldown":       {River: river.Config{JobTimeout: 3 * time.Hour, FetchCooldown: time.Hour}},
		"Config.River.JobTimeout must not be more than 44s, which is RescueStuckJobsAfter, 1m0s, " +
			"less the pool's hang grace, 10s, and a margin of 6s, got 45s": {Pool: pool, River: river.Config{JobTimeout: 45 * time.Second, RescueStuckJobsAfter: time.Minute}},
		"Config.River.RescueStuckJobsAfter must leave time for attempts: more than the pool's hang grace, 10s, " +
			"and a margin of 1s, got 10s": {Pool: pool, River: river.Config{RescueStuckJobsAfter: 10 * time.Second}},
	} {
		_, err := riverjobs.New(driver, &reg, c)
		require.ErrorContains(t, err, want)
	}
	_, err := riverjobs.New(driver, nil, riverjobs.Config{})
	require.ErrorContains(t, err, "the registry must not be nil")
	_, err = riverjobs.New(driver, &slow, riverjobs.Config{Pool: pool})
	require.ErrorContains(t, err, `Policy.Timeout of kind "slow" must not be more than Config.River.JobTimeout, 53m50s, got 2h0m0s`)
	for _, c := range []river.Config{{RescueStuckJobsAfter: 4 * time.Hour}, {JobTimeout: 2 * time.Hour}} {
		_, err = riverjobs.New(driver, &slow, riverjobs.Config{Pool: pool, River: c})
		require.NoError(t, err)
	}
	_, err = riverjobs.New(driver, &slow, riverjobs.Config{})
	require.NoError(t, err, "a process that runs nothing takes nothing for lost")
	_, err = riverjobs.New(driver, &slow, riverjobs.Config{River: river.Config{RescueStuckJobsAfter: 10 * time.Second}})
	require.NoError(t, err, "so the settings of those that do are no matter to it")
}

func TestTransactionDecidesWhatBecomesOfAJob(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		db := newSQLite(t)
		testTransaction(t, riversqlite.New(db), func(work func(*sql.Tx)) (commit, rollback func() error) {
			tx, err := db.Begin()
			require.NoError(t, err)
			work(tx)
			return tx.Commit, tx.Rollback
		})
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		db := newPostgres(t)
		testTransaction(t, riverpgxv5.New(db), func(work func(pgx.Tx)) (commit, rollback func() error) {
			tx, err := db.Begin(t.Context())
			require.NoError(t, err)
			work(tx)
			return func() error { return tx.Commit(t.Context()) }, func() error { return tx.Rollback(t.Context()) }
		})
	})
}

func testTransaction[TTx any](t *testing.T, driver riverdriver.Driver[TTx], begin func(func(TTx)) (commit, rollback func() error)) {
	var reg jobs.Registry
	next := observe(t, &reg)
	k := jobs.Register(&reg, "kind", done, jobs.Policy{})
	q := started(t, driver, &reg, riverjobs.Config{Pool: newPool(t), River: quick()})
	o := &jobs.Options{UniqueKey: "key"}
	_, rollback := begin(func(tx TTx) { enqueue(t, k, q.InTx(tx), 1, o) })
	require.NoError(t, rollback())

	later := &jobs.Options{UniqueKey: "key", NotBefore: time.Now().Add(time.Hour)}
	var id jobs.ID
	commit, _ := begin(func(tx TTx) {
		id = enqueue(t, k, q.InTx(tx), 2, later) // the key is not taken
		again, err := k.Enqueue(t.Context(), q.InTx(tx), 3, later)
		require.ErrorIs(t, err, jobs.ErrDuplicate)
		require.Equal(t, id, again)
	})
	require.NoError(t, commit())

	_, rollback = begin(func(tx TTx) { require.NoError(t, q.InTx(tx).Cancel(t.Context(), id)) })
	require.NoError(t, rollback())
	_, err := k.Enqueue(t.Context(), q, 4, later)
	require.ErrorIs(t, err, jobs.ErrDuplicate, "its cancellation was rolled back")
	commit, _ = begin(func(tx TTx) { require.NoError(t, q.InTx(tx).Cancel(t.Context(), id)) })
	require.NoError(t, commit())

	var last jobs.ID
	commit, _ = begin(func(tx TTx) { last = enqueue(t, k, q.InTx(tx), 5, o) })
	require.NoError(t, commit())
	e := next()
	require.Equal(t, last, e.ID)
	require.Equal(t, jobs.StateCompleted, e.State)
}

func TestQueueThatIsPausedByAnyProcessStartsNothingUntilItIsResumed(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg, other jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t)})
		operator := open(&other, riverjobs.Config{})
		enqueue(t, k, p, 1, nil)
		require.Equal(t, jobs.StateCompleted, next().State, "the queue is there")
		require.NoError(t, p.Stop(t.Context()))
		require.NoError(t, operator.pause(t.Context(), river.QueueDefault, nil))
		require.NoError(t, p.Start(t.Context()))
		id := enqueue(t, k, p, 2, nil)
		marker := jobs.Register(&other, "marker", done, jobs.Policy{}) // of a queue that is not paused
		nextOther := observe(t, &other)
		q := open(&other, riverjobs.Config{Pool: newPool(t), Route: func(jobs.Request) string { return "other" },
			River: river.Config{Queues: map[string]river.QueueConfig{"other": {MaxWorkers: 1}}}})
		for range 5 {
			enqueue(t, marker, q, 1, nil)
			require.Equal(t, jobs.StateCompleted, nextOther().State)
		}
		require.Equal(t, rivertype.JobStateAvailable, p.row(id).State)
		require.NoError(t, operator.resume(t.Context(), river.QueueDefault, nil))
		require.Equal(t, id, next().ID)
	})
}
