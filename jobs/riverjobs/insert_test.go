package riverjobs_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// Several add many at once, in transactions of their own and nested in others, and each
// is told the ids of its own jobs, in order.
func TestEachOfManyIsToldTheIDOfItsJob(t *testing.T) {
	const n, adders, rounds = 200, 4, 5
	db := newPostgres(t)
	var reg jobs.Registry
	k := jobs.Register(&reg, "kind", done, jobs.Policy{})
	q, err := riverjobs.New(riverpgxv5.New(db), &reg, riverjobs.Config{River: river.Config{Logger: quiet}})
	require.NoError(t, err)
	add := func(q jobs.Queue, first int) error {
		rs := make([]jobs.Request, n)
		for i := range rs {
			var o *jobs.Options
			if i%7 == 0 {
				o = &jobs.Options{NotBefore: time.Now().Add(time.Hour), Flow: "flow"}
			}
			r, err := k.Request(first+i, o)
			if err != nil {
				return err
			}
			rs[i] = r
		}
		added, err := jobs.EnqueueMany(context.Background(), q, rs)
		if err != nil {
			return err
		}
		for i, a := range added {
			if _, err := db.Exec(context.Background(), "INSERT INTO told VALUES ($1, $2)", first+i, mustInt(a.ID)); err != nil {
				return err
			}
		}
		return nil
	}
	_, err = db.Exec(t.Context(), "CREATE TABLE told (n int, id bigint)")
	require.NoError(t, err)
	var all sync.WaitGroup
	errs := make(chan error, adders)
	for a := range adders {
		all.Go(func() {
			for r := range rounds {
				first := (a*rounds + r) * n
				var err error
				if a%2 == 0 {
					err = add(q, first)
				} else {
					err = pgx.BeginFunc(context.Background(), db, func(tx pgx.Tx) error {
						return pgx.BeginFunc(context.Background(), tx, func(savepoint pgx.Tx) error { return add(q.InTx(savepoint), first) })
					})
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	var right, ahead int
	require.NoError(t, db.QueryRow(t.Context(), "SELECT count(*), count(*) FILTER (WHERE created_at > clock_timestamp()) FROM told JOIN river_job USING (id) WHERE args ->> 'value' = n::text").Scan(&right, &ahead))
	require.Equal(t, n*adders*rounds, right)
	require.Zero(t, ahead)
}

func mustInt(id jobs.ID) int64 {
	n, err := strconv.ParseInt(string(id), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}
