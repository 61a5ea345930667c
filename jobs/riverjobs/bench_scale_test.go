package riverjobs_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// What docs/scale.md says of one process and one PostgreSQL.

// BenchmarkEnqueue adds jobs one by one.
func BenchmarkEnqueue(b *testing.B) {
	var reg jobs.Registry
	k := jobs.Register(&reg, "bench", func(context.Context, jobs.Meta, benchArgs) error { return nil }, jobs.Policy{})
	q, err := riverjobs.New(riverpgxv5.New(newPostgres(b)), &reg, riverjobs.Config{River: river.Config{Logger: quiet}})
	require.NoError(b, err)
	for b.Loop() {
		_, err := k.Enqueue(b.Context(), q, benchArgs{}, nil)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkLatency measures from Enqueue to the handler, of jobs that come one at a time, after
// random pauses of 50 ms in the mean.
func BenchmarkLatency(b *testing.B) {
	for _, cooldown := range []time.Duration{time.Millisecond, 10 * time.Millisecond, river.FetchCooldownDefault} {
		b.Run(fmt.Sprintf("cooldown=%v", cooldown), func(b *testing.B) {
			db := newPostgres(b)
			began := make(chan time.Time, 1)
			var reg jobs.Registry
			k := jobs.Register(&reg, "bench", func(context.Context, jobs.Meta, benchArgs) error { began <- time.Now(); return nil }, jobs.Policy{})
			q := started(b, riverpgxv5.New(db), &reg, riverjobs.Config{Pool: newPool(b, taskpool.WithWorkers(8)),
				River: river.Config{FetchCooldown: cooldown, Logger: quiet}})
			var took []float64
			for b.Loop() {
				<-time.After(time.Duration(rand.ExpFloat64() * float64(50*time.Millisecond)))
				begin := time.Now()
				_, err := k.Enqueue(b.Context(), q, benchArgs{}, nil)
				require.NoError(b, err)
				took = append(took, float64((<-began).Sub(begin).Microseconds())/1000)
			}
			slices.Sort(took)
			b.ReportMetric(median(took), "p50-ms")
			b.ReportMetric(took[len(took)*99/100], "p99-ms")
		})
	}
}

// BenchmarkIdle counts what a process without jobs asks of the database, in twenty seconds.
func BenchmarkIdle(b *testing.B) {
	const window = 20 * time.Second
	db := newPostgres(b)
	name := db.Config().ConnConfig.Database
	admin, err := pgx.Connect(b.Context(), server.url) // another database
	require.NoError(b, err)
	defer admin.Close(context.Background())
	var reg jobs.Registry
	jobs.Register(&reg, "bench", func(context.Context, jobs.Meta, benchArgs) error { return nil }, jobs.Policy{})
	started(b, riverpgxv5.New(db), &reg, riverjobs.Config{Pool: newPool(b, taskpool.WithWorkers(8)), River: river.Config{Logger: quiet}})
	transactions := func() (n int) {
		require.NoError(b, admin.QueryRow(b.Context(), "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1", name).Scan(&n))
		return n
	}
	<-time.After(15 * time.Second) // until it leads, and the server has counted the beginning
	var rates, connections []float64
	for b.Loop() {
		before := transactions()
		<-time.After(window)
		rates = append(rates, float64(transactions()-before)/window.Seconds())
		var n int
		require.NoError(b, admin.QueryRow(b.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name).Scan(&n))
		connections = append(connections, float64(n))
	}
	b.ReportMetric(median(rates), "transactions/s")
	b.ReportMetric(median(connections), "connections")
}
