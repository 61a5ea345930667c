package riverjobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

func TestDepthsAndListSeeAllQueuesFromAnyProcess(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Route: func(r jobs.Request) string { return "of_" + r.Flow }})
		q := p.queue.(jobs.Operator)
		for _, flow := range []string{"b", "a", "b"} {
			enqueue(t, k, p, 1, &jobs.Options{Flow: flow})
		}
		depths, err := q.Depths(t.Context())
		require.NoError(t, err)
		for i := range depths {
			depths[i].Oldest = 0
		}
		require.Equal(t, []jobs.Depth{{Queue: "of_a", Kind: "kind", Waiting: 1}, {Queue: "of_b", Kind: "kind", Waiting: 2}}, depths)
		list, err := q.List(t.Context(), jobs.Filter{Queue: "of_b", Flow: "b"})
		require.NoError(t, err)
		require.Len(t, list, 2)
		list, err = q.List(t.Context(), jobs.Filter{Queue: "of_a", Flow: "b"})
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

// Of two processes with the same crontab one adds the job.
func TestPeriodicJobOfTwoProcessesIsAddedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		everySecond, err := cron.ParseStandard("CRON_TZ=Europe/Berlin @every 1s")
		require.NoError(t, err)
		var leader jobs.Operator
		for range 2 {
			var reg jobs.Registry
			k := jobs.Register(&reg, "round", func(ctx context.Context, _ jobs.Meta, _ int) error { <-ctx.Done(); return nil }, jobs.Policy{})
			p := open(&reg, riverjobs.Config{Pool: newPool(t)})
			stop, err := k.Periodic(p.queue, everySecond, 1, nil)
			require.NoError(t, err)
			t.Cleanup(stop)
			leader = p.queue.(jobs.Operator)
		}
		var list []jobs.Info
		for len(list) == 0 {
			<-time.After(10 * time.Millisecond)
			list, err = leader.List(t.Context(), jobs.Filter{Kind: "round"})
			require.NoError(t, err)
		}
		<-time.After(1500 * time.Millisecond)
		list, err = leader.List(t.Context(), jobs.Filter{})
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.NoError(t, leader.Cancel(t.Context(), list[0].ID))
	})
}

func TestPeriodicNeedsAProcessThatRunsJobs(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		k := jobs.Register(&reg, "round", done, jobs.Policy{})
		p := open(&reg, riverjobs.Config{})
		_, err := k.Periodic(p.queue, jobs.Each(time.Minute), 1, nil)
		require.ErrorContains(t, err, "Config.Pool must be set")
	})
}

// A job that its process holds while the pool has no worker for it goes back, and is discarded
// when it is fetched again.
func TestJobThatExpiresInAPoolThatIsBusyIsDiscarded(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", done, jobs.Policy{MaxAttempts: 3})
		pool := newPool(t)
		gate := make(chan struct{})
		require.NoError(t, pool.Go(taskpool.High, func() { <-gate }))
		p := open(&reg, riverjobs.Config{Pool: pool})
		enqueue(t, k, p, 1, &jobs.Options{MaxWait: 200 * time.Millisecond})
		for {
			e := next()
			if e.State == jobs.StateDiscarded {
				require.ErrorIs(t, e.Err, taskpool.ErrExpired)
				require.Zero(t, e.Attempt)
				break
			}
			require.Equal(t, jobs.StateRetrying, e.State)
		}
		close(gate)
	})
}

func TestPeriodicIsRefusedWhereNobodyLeads(t *testing.T) {
	var reg jobs.Registry
	k := jobs.Register(&reg, "round", done, jobs.Policy{})
	q, err := riverjobs.New(riversqlite.New(newSQLite(t)), &reg, riverjobs.Config{Pool: newPool(t), River: river.Config{LeaderElectionDisabled: true, Logger: quiet}})
	require.NoError(t, err)
	_, err = k.Periodic(q, jobs.Each(time.Minute), 1, nil)
	require.ErrorContains(t, err, "LeaderElectionDisabled must not be set")
}

// While a transaction that is open has added a job with a key, Enqueue with that key waits for what
// becomes of it, until its context ends.
func TestEnqueueWaitsForAKeyThatAnOpenTransactionHasAdded(t *testing.T) {
	db := newPostgres(t)
	var reg jobs.Registry
	k := jobs.Register(&reg, "kind", done, jobs.Policy{})
	q, err := riverjobs.New(riverpgxv5.New(db), &reg, riverjobs.Config{River: river.Config{Logger: quiet}})
	require.NoError(t, err)
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	o := &jobs.Options{UniqueKey: "key"}
	id := enqueue(t, k, q.InTx(tx), 1, o)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = k.Enqueue(ctx, q, 2, o)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	type added struct {
		id  jobs.ID
		err error
	}
	all := make(chan added, 1)
	go func() {
		id, err := k.Enqueue(t.Context(), q, 3, o)
		all <- added{id, err}
	}()
	require.NoError(t, tx.Commit(t.Context()))
	a := <-all
	require.ErrorIs(t, a.err, jobs.ErrDuplicate)
	require.Equal(t, id, a.id)
}
