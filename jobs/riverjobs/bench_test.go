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

// BenchmarkBesideRiver gives the same rows to River alone and to this package, with the
// same settings, in turn, and reports the median of the ratios of their throughput. An
// operation is benchJobs jobs that do nothing through each, from their insertion until the
// last has run. Both are at work all the time, on queues of their own.
func BenchmarkBesideRiver(b *testing.B) {
	for _, c := range []struct {
		workers  int
		cooldown time.Duration
	}{{8, time.Millisecond}, {100, time.Millisecond}, {100, river.FetchCooldownDefault}} {
		b.Run(fmt.Sprintf("workers=%d/cooldown=%v", c.workers, c.cooldown), func(b *testing.B) { besideRiver(b, c.workers, c.cooldown) })
	}
}

const benchJobs = 1000

func besideRiver(b *testing.B, workers int, cooldown time.Duration) {
	db := newPostgres(b)
	driver := riverpgxv5.New(db)
	ctx := b.Context()
	var ran atomic.Int64
	all := make(chan struct{}, 1)
	each := func() {
		if ran.Add(1)%benchJobs == 0 {
			all <- struct{}{}
		}
	}
	config := func(queue string) river.Config {
		return river.Config{FetchCooldown: cooldown, Logger: quiet, Queues: map[string]river.QueueConfig{queue: {MaxWorkers: workers}}}
	}

	c := config("river")
	c.Workers = river.NewWorkers()
	river.AddWorker(c.Workers, river.WorkFunc(func(context.Context, *river.Job[benchArgs]) error { each(); return nil }))
	client, err := river.NewClient(driver, &c)
	require.NoError(b, err)
	require.NoError(b, client.Start(ctx))
	b.Cleanup(func() { require.NoError(b, client.Stop(context.Background())) })

	var reg jobs.Registry
	jobs.Register(&reg, "bench", func(context.Context, jobs.Meta, benchArgs) error { each(); return nil }, jobs.Policy{})
	started(b, driver, &reg, riverjobs.Config{Pool: newPool(b, taskpool.WithWorkers(workers)), River: config("ours")})

	// run returns the throughput of a queue.
	run := func(queue string) float64 {
		rows := make([]river.InsertManyParams, benchJobs)
		for i := range rows {
			rows[i] = river.InsertManyParams{Args: benchArgs{i}, InsertOpts: &river.InsertOpts{Queue: queue, Priority: 2, MaxAttempts: 1}}
		}
		begin := time.Now()
		_, err = client.InsertManyFast(ctx, rows)
		require.NoError(b, err)
		<-all
		took := time.Since(begin)
		for stored := 0; stored < benchJobs; {
			require.NoError(b, db.QueryRow(ctx, "SELECT count(*) FROM river_job WHERE state = 'completed'").Scan(&stored))
		}
		_, err := db.Exec(ctx, "TRUNCATE river_job")
		require.NoError(b, err)
		return benchJobs / took.Seconds()
	}
	var alone, with, ratios []float64
	for i := 0; b.Loop(); i++ {
		var p, o float64
		if i%2 == 0 {
			p, o = run("river"), run("ours")
		} else {
			o, p = run("ours"), run("river")
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

// BenchmarkEnqueueMany adds a thousand jobs at once, as River's InsertManyFast does in turn.
func BenchmarkEnqueueMany(b *testing.B) {
	db := newPostgres(b)
	driver := riverpgxv5.New(db)
	var reg jobs.Registry
	k := jobs.Register(&reg, "bench", func(context.Context, jobs.Meta, benchArgs) error { return nil }, jobs.Policy{})
	q, err := riverjobs.New(driver, &reg, riverjobs.Config{River: river.Config{Logger: quiet}})
	require.NoError(b, err)
	client, err := river.NewClient(driver, &river.Config{Logger: quiet})
	require.NoError(b, err)
	var fast, ours, ratios []float64
	for b.Loop() {
		rows := make([]river.InsertManyParams, benchJobs)
		for i := range rows {
			rows[i] = river.InsertManyParams{Args: benchArgs{i}, InsertOpts: &river.InsertOpts{Priority: 2, MaxAttempts: 1}}
		}
		begin := time.Now()
		_, err := client.InsertManyFast(b.Context(), rows)
		require.NoError(b, err)
		alone := time.Since(begin)
		begin = time.Now()
		rs := make([]jobs.Request, benchJobs)
		for i := range rs {
			rs[i], err = k.Request(benchArgs{i}, nil)
			require.NoError(b, err)
		}
		_, err = jobs.EnqueueMany(b.Context(), q, rs)
		require.NoError(b, err)
		took := time.Since(begin)
		fast, ours = append(fast, benchJobs/alone.Seconds()), append(ours, benchJobs/took.Seconds())
		ratios = append(ratios, alone.Seconds()/took.Seconds())
		_, err = db.Exec(b.Context(), "TRUNCATE river_job")
		require.NoError(b, err)
	}
	b.ReportMetric(median(fast), "InsertManyFast-jobs/s")
	b.ReportMetric(median(ours), "jobs/s")
	b.ReportMetric(median(ratios), "of-InsertManyFast")
}
