package riverjobs_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// What a process that was frozen finds when it goes on: its job was taken for lost, and
// another process works on it.
func TestEndOfAnAttemptThatWasTakenForLostIsNeitherStoredNorTold(t *testing.T) {
	for name, end := range map[string]func() error{
		"Completes": func() error { return nil },
		"Fails":     func() error { return errTest },
		"Discards":  func() error { return taskpool.Permanent(errTest) },
		"Panics":    func() error { panic("as the handler says") },
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, open opener) {
				var frozen, healthy jobs.Registry
				_, told := observeAll(t, &frozen)
				next := observe(t, &healthy)
				started, again := make(chan struct{}), make(chan struct{})
				thaw, gate := make(chan struct{}), make(chan struct{})
				p := jobs.Policy{MaxAttempts: 5, Backoff: func(int) time.Duration { return 0 }}
				k := jobs.Register(&frozen, "kind", func(context.Context, jobs.Meta, int) error { close(started); <-thaw; return end() }, p)
				jobs.Register(&healthy, "kind", func(context.Context, jobs.Meta, int) error { close(again); <-gate; return nil }, p)
				a := open(&frozen, riverjobs.Config{Pool: newPool(t)})
				id := enqueue(t, k, a, 1, nil)
				await(t, started)
				a.lose(id)
				stopped := make(chan error, 1)
				go func() { stopped <- a.Stop(context.Background()) }() // it fetches nothing more
				b := open(&healthy, riverjobs.Config{Pool: newPool(t)})
				await(t, again)
				close(thaw)
				require.NoError(t, <-stopped, "all is stored and told then")
				row := b.row(id)
				require.Equal(t, rivertype.JobStateRunning, row.State)
				require.Equal(t, 2, row.Attempt)
				require.Empty(t, row.Errors)
				close(gate)
				e := next()
				require.Equal(t, jobs.StateCompleted, e.State)
				require.Equal(t, 2, e.Attempt)
				row = b.row(id)
				require.Equal(t, rivertype.JobStateCompleted, row.State)
				require.NotContains(t, string(row.Metadata), "taskpool_attempt")
				require.Zero(t, told(), "the frozen process tells nothing")
			})
		})
	}
}

func TestProcessThatHasItsOwnLostJobAgainStoresTheLaterAttemptOnly(t *testing.T) {
	for name, end := range map[string]error{"Completes": nil, "Fails": errTest} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, open opener) {
				var reg jobs.Registry
				next, left := observeAll(t, &reg)
				starts := make(chan int, 2)
				thaw, gate := make(chan struct{}), make(chan struct{})
				k := jobs.Register(&reg, "kind", func(_ context.Context, m jobs.Meta, _ int) error {
					starts <- m.Attempt
					if m.Attempt == 1 {
						<-thaw
						return end
					}
					<-gate
					return nil
				}, jobs.Policy{MaxAttempts: 5})
				var log syncBuffer
				r := quick()
				r.Logger = slog.New(slog.NewTextHandler(&log, nil))
				p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(2)), River: r})
				id := enqueue(t, k, p, 1, nil)
				require.Equal(t, 1, <-starts)
				p.lose(id)
				require.Equal(t, 2, <-starts)
				close(thaw)
				require.Eventually(t, func() bool { return log.count("whose end is not stored") == 1 }, patience, time.Millisecond)
				require.Equal(t, rivertype.JobStateRunning, p.row(id).State)
				close(gate)
				e := next()
				require.Equal(t, jobs.StateCompleted, e.State)
				require.Equal(t, 2, e.Attempt)
				require.NoError(t, p.Stop(t.Context()))
				require.Zero(t, left(), "the attempt that was lost is not told")
			})
		})
	}
}

// newSkewedPostgres returns a new database whose clock is off by so much.
func newSkewedPostgres(t testing.TB, by time.Duration) *pgxpool.Pool {
	t.Helper()
	db := newPostgres(t)
	_, err := db.Exec(t.Context(), fmt.Sprintf(`
		CREATE SCHEMA skewed;
		CREATE FUNCTION skewed.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT pg_catalog.now() + interval '%[2]d ms' $$;
		CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ SELECT pg_catalog.clock_timestamp() + interval '%[2]d ms' $$;
		ALTER DATABASE %[1]s SET search_path = skewed, pg_catalog, public`, db.Config().ConnConfig.Database, by.Milliseconds()))
	require.NoError(t, err)
	skewed, err := pgxpool.New(t.Context(), db.Config().ConnString())
	require.NoError(t, err)
	t.Cleanup(skewed.Close)
	return skewed
}

// A database whose clock is behind is to a leader what its own clock ahead of all others is.
func TestLeaderWhoseClockIsAheadTakesNoJobForLost(t *testing.T) {
	db := newSkewedPostgres(t, -time.Hour)
	var reg jobs.Registry
	next := observe(t, &reg)
	started, gate := make(chan int, 2), make(chan struct{})
	k := jobs.Register(&reg, "kind", func(_ context.Context, m jobs.Meta, n int) error { started <- n; <-gate; return nil },
		jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }})
	open := openerOn(t, riverpgxv5.New(db))
	r := quick()
	r.RescueStuckJobsAfter, r.LeaderElectionDisabled = 10*time.Minute, true
	p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(2)), River: r})
	healthy, lost := enqueue(t, k, p, 1, nil), enqueue(t, k, p, 2, nil)
	<-started
	<-started
	require.NoError(t, p.sql(t.Context(), "UPDATE river_job SET attempted_at = attempted_at - interval '11 min' WHERE id = "+string(lost)))

	var leader jobs.Registry
	jobs.Register(&leader, "kind", done, jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }})
	r.LeaderElectionDisabled = false
	r.Queues = map[string]river.QueueConfig{"other": {MaxWorkers: 1}}
	open(&leader, riverjobs.Config{Pool: newPool(t), River: r})
	require.Eventually(t, func() bool { return p.row(lost).State == rivertype.JobStateRetryable }, patience, 10*time.Millisecond)
	var in time.Duration
	require.NoError(t, db.QueryRow(t.Context(), "SELECT scheduled_at - clock_timestamp() FROM river_job WHERE id = "+string(lost)).Scan(&in))
	require.InDelta(t, time.Hour, in, float64(patience), "its retry is due by the database's clock")
	require.Equal(t, rivertype.JobStateRunning, p.row(healthy).State)
	close(gate)
	e := next()
	require.Equal(t, healthy, e.ID)
	require.Equal(t, jobs.StateCompleted, e.State)
}

func TestRetryIsDueByTheClockOfTheDatabase(t *testing.T) {
	for _, by := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			db := newSkewedPostgres(t, by)
			var reg jobs.Registry
			next := observe(t, &reg)
			k := jobs.Register(&reg, "kind", func(context.Context, jobs.Meta, int) error { return errTest },
				jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return 2 * time.Hour }})
			p := openerOn(t, riverpgxv5.New(db))(&reg, riverjobs.Config{Pool: newPool(t)})
			id := enqueue(t, k, p, 1, nil)
			require.Equal(t, jobs.StateRetrying, next().State)
			var in time.Duration
			require.NoError(t, db.QueryRow(t.Context(), "SELECT scheduled_at - clock_timestamp() FROM river_job WHERE id = "+string(id)).Scan(&in))
			require.InDelta(t, 2*time.Hour, in, float64(patience))
		})
	}
}

func TestLeaderThatDoesNotKnowTheKindOfALostJobHasItRunAgain(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg, other jobs.Registry
		next := observe(t, &reg)
		started, gate := make(chan int, 2), make(chan struct{})
		defer close(gate)
		k := jobs.Register(&reg, "foreign", func(_ context.Context, m jobs.Meta, _ int) error {
			if started <- m.Attempt; m.Attempt == 1 {
				<-gate
			}
			return nil
		}, jobs.Policy{MaxAttempts: 2})
		jobs.Register(&other, "kind", done, jobs.Policy{})
		r := quick()
		r.LeaderElectionDisabled = true
		p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(3)), River: r})
		id := enqueue(t, k, p, 1, nil)
		last := enqueue(t, k, p, 1, &jobs.Options{MaxAttempts: 1})
		<-started
		<-started
		require.NoError(t, p.sql(t.Context(), "UPDATE river_job SET attempted_at = '2001-01-01 00:00:00'"))
		open(&other, riverjobs.Config{Pool: newPool(t)})
		require.Equal(t, 2, <-started)
		e := next()
		require.Equal(t, id, e.ID)
		require.Equal(t, jobs.StateCompleted, e.State)
		require.Equal(t, 2, e.Attempt)
		require.Equal(t, rivertype.JobStateDiscarded, p.row(last).State, "it had no attempt left")
	})
}

// A deploy: processes of the old program are still at work when those of the new enqueue.
func TestNoJobOfTheNextVersionIsLostToThisOne(t *testing.T) {
	const n = 20
	type payload struct{ To any }
	type old struct{ To string }
	onEach(t, func(t *testing.T, open opener) {
		var before, after jobs.Registry
		look := observe(t, &before)
		next := observe(t, &after)
		jobs.Register(&before, "kind", func(context.Context, jobs.Meta, old) error { return nil }, jobs.Policy{})
		k := jobs.Register(&after, "kind", func(context.Context, jobs.Meta, payload) error { return nil }, jobs.Policy{})
		added := jobs.Register(&after, "added", done, jobs.Policy{})
		p := open(&before, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(4))})
		q := open(&after, riverjobs.Config{})
		for i := range n {
			enqueue(t, added, q, i, nil)
			enqueue(t, k, q, payload{[]int{i}}, nil)
			enqueue(t, k, q, payload{"as before"}, nil)
		}
		looked := make(map[jobs.ID]bool)
		for len(looked) < 2*n { // all that it knows; what does not decode is looked at every second
			looked[look().ID] = true
		}
		require.Zero(t, p.count(rivertype.JobStateDiscarded))
		require.Equal(t, n, p.count(rivertype.JobStateCompleted))
		require.NoError(t, p.Stop(t.Context()))

		open(&after, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(4))})
		for range 2 * n {
			e := next()
			require.Equal(t, jobs.StateCompleted, e.State)
			require.Equal(t, 1, e.Attempt, "what was put back has used no attempt")
		}
		require.Equal(t, 3*n, p.count(rivertype.JobStateCompleted))
	})
}

func TestPayloadThatDoesNotDecodeGoesBackForItsGraceAndIsThenDiscarded(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg, other jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&other, "kind", func(context.Context, jobs.Meta, string) error { return nil }, jobs.Policy{})
		jobs.Register(&reg, "kind", done, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t)})
		q := open(&other, riverjobs.Config{})
		id := enqueue(t, k, q, "text", nil)
		e := next()
		require.Equal(t, jobs.StateRetrying, e.State)
		require.ErrorIs(t, e.Err, jobs.ErrPayload)
		require.Equal(t, time.Second, e.Delay)
		require.Zero(t, p.row(id).Attempt)
		require.NoError(t, p.Stop(t.Context()))

		// An hour later, and in another process.
		metadata := `'{"taskpool_undecoded": "` + time.Now().Add(-time.Hour).Format(time.RFC3339Nano) + `"}'`
		require.NoError(t, p.sql(t.Context(), "UPDATE river_job SET metadata = "+metadata))
		open(&reg, riverjobs.Config{Pool: newPool(t)})
		e = next()
		require.Equal(t, jobs.StateDiscarded, e.State)
		require.ErrorIs(t, e.Err, jobs.ErrPayload)

		enqueue(t, k, q, "text", nil)
		require.Equal(t, jobs.StateRetrying, next().State)
	})
	t.Run("Negative", func(t *testing.T) {
		var reg, other jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&other, "kind", func(context.Context, jobs.Meta, string) error { return nil }, jobs.Policy{})
		jobs.Register(&reg, "kind", done, jobs.Policy{})
		open := openerOn(t, riversqlite.New(newSQLite(t)))
		open(&reg, riverjobs.Config{Pool: newPool(t), PayloadGrace: -1})
		enqueue(t, k, open(&other, riverjobs.Config{}), "text", nil)
		require.Equal(t, jobs.StateDiscarded, next().State)
	})
}
