package riverjobs_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

type benchArgs struct {
	N int `json:"n"`
}

func (benchArgs) Kind() string { return "bench" }

// BenchmarkBesideRiver runs the same rows with the same settings through River alone and
// through this package, in turn, and reports the median of the ratios of their
// throughput. An operation is benchJobs jobs that do nothing through each, from Start
// until Stop has returned, when the ends are stored.
func BenchmarkBesideRiver(b *testing.B) {
	for _, c := range []struct {
		workers  int
		cooldown time.Duration
	}{{8, time.Millisecond}, {100, time.Millisecond}, {100, river.FetchCooldownDefault}} {
		b.Run(fmt.Sprintf("workers=%d/cooldown=%v", c.workers, c.cooldown), func(b *testing.B) { besideRiver(b, c.workers, c.cooldown) })
	}
}

const benchJobs = 2_000

func besideRiver(b *testing.B, workers int, cooldown time.Duration) {
	db := newPostgres(b)
	driver := riverpgxv5.New(db)
	config := river.Config{FetchCooldown: cooldown, Logger: quiet}
	ctx := b.Context()

	rows := make([]river.InsertManyParams, benchJobs)
	for i := range rows {
		rows[i] = river.InsertManyParams{Args: benchArgs{i}, InsertOpts: &river.InsertOpts{Priority: 2, MaxAttempts: 1}}
	}
	inserter, err := river.NewClient(driver, &river.Config{Logger: quiet})
	require.NoError(b, err)
	// run returns the throughput of what start starts, which calls each for each job.
	run := func(start func(each func()) (stop func(context.Context) error, err error)) float64 {
		_, err := db.Exec(ctx, "TRUNCATE river_job")
		require.NoError(b, err)
		_, err = inserter.InsertManyFast(ctx, rows)
		require.NoError(b, err)
		var ran atomic.Int64
		all := make(chan struct{})
		begin := time.Now()
		stop, err := start(func() {
			if ran.Add(1) == benchJobs {
				close(all)
			}
		})
		require.NoError(b, err)
		<-all
		require.NoError(b, stop(ctx))
		return benchJobs / time.Since(begin).Seconds()
	}
	plain := func(each func()) (func(context.Context) error, error) {
		c := config
		c.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}}
		c.Workers = river.NewWorkers()
		river.AddWorker(c.Workers, river.WorkFunc(func(context.Context, *river.Job[benchArgs]) error { each(); return nil }))
		client, err := river.NewClient(driver, &c)
		if err != nil {
			return nil, err
		}
		return client.Stop, client.Start(ctx)
	}
	pool := newPool(b, taskpool.WithWorkers(workers))
	ours := func(each func()) (func(context.Context) error, error) {
		var reg jobs.Registry
		jobs.Register(&reg, "bench", func(context.Context, jobs.Meta, benchArgs) error { each(); return nil }, jobs.Policy{})
		q, err := riverjobs.New(driver, &reg, riverjobs.Config{Pool: pool, River: config})
		if err != nil {
			return nil, err
		}
		return q.Stop, q.Start(ctx)
	}

	var alone, with, ratios []float64
	for i := 0; b.Loop(); i++ {
		var p, o float64
		if i%2 == 0 {
			p, o = run(plain), run(ours)
		} else {
			o, p = run(ours), run(plain)
		}
		alone, with, ratios = append(alone, p), append(with, o), append(ratios, o/p)
	}
	b.ReportMetric(median(alone), "River-jobs/s")
	b.ReportMetric(median(with), "jobs/s")
	b.ReportMetric(median(ratios), "of-River")
}

func median(x []float64) float64 {
	slices.Sort(x)
	return (x[len(x)/2] + x[(len(x)-1)/2]) / 2
}
