package jobs_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

// A plainQueue is no more than a Queue.
type plainQueue struct{ jobs.Queue }

func TestEachIsDueAtTheSameMomentsInAllProcesses(t *testing.T) {
	require.PanicsWithValue(t, "jobs: Each: d must be at least a second, got 999ms", func() { jobs.Each(999 * time.Millisecond) })
	berlin := time.FixedZone("", 3600)
	at := time.Date(2026, 3, 4, 5, 6, 7, 8, berlin)
	require.Equal(t, time.Date(2026, 3, 4, 4, 15, 0, 0, time.UTC), jobs.Each(15*time.Minute).Next(at))
	require.Equal(t, time.Date(2026, 3, 4, 4, 30, 0, 0, time.UTC), jobs.Each(15*time.Minute).Next(time.Date(2026, 3, 4, 4, 15, 0, 0, time.UTC)))
}

func TestARoundOfEachComesWhenItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		var came []time.Duration
		begun := time.Now()
		k := jobs.Register(&reg, "kind", func(context.Context, jobs.Meta, int) error {
			came = append(came, time.Since(begun))
			return nil
		}, jobs.Policy{})
		stop, err := k.Periodic(q, jobs.Each(time.Hour), 1, nil)
		require.NoError(t, err)
		_, err = k.Periodic(q, jobs.Each(time.Hour), 1, nil)
		require.EqualError(t, err, `jobs: Kind.Periodic: there is a series of kind "kind" with the key "periodic" already`)
		time.Sleep(3*time.Hour + time.Minute)
		stop()
		time.Sleep(3 * time.Hour)
		require.Equal(t, []time.Duration{time.Hour, 2 * time.Hour, 3 * time.Hour}, came)
		stop, err = k.Periodic(q, jobs.Each(time.Hour), 1, nil)
		require.NoError(t, err, "the key is free again")
		defer stop()
		require.NoError(t, q.Stop(t.Context()))
		time.Sleep(3 * time.Hour)
		require.Len(t, came, 3, "it ends with the queue")
		_, err = k.Periodic(q, jobs.Each(time.Hour), 1, nil)
		require.ErrorIs(t, err, taskpool.ErrClosed)
	})
}

func TestASeriesEndsAtAPoolThatIsShutDownByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		pool, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(quiet))
		require.NoError(t, err)
		q := jobs.Local(pool, &reg)
		k := jobs.Register(&reg, "kind", idle, jobs.Policy{})
		asked := 0
		stop, err := k.Periodic(q, scheduleFunc(func(now time.Time) time.Time {
			asked++
			return now.Add(time.Hour)
		}), 1, nil)
		require.NoError(t, err)
		defer stop()
		require.NoError(t, pool.Shutdown(t.Context()))
		time.Sleep(10 * time.Hour)
		require.Equal(t, 1, asked, "the first round found the pool closed")
	})
}

type scheduleFunc func(time.Time) time.Time

func (f scheduleFunc) Next(t time.Time) time.Time { return f(t) }

func idle(context.Context, jobs.Meta, int) error { return nil }

func TestOperatorsAndSeriesRefuseWhatCannotBeMeant(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg)
	k := jobs.Register(&reg, "kind", idle, jobs.Policy{})
	var other jobs.Registry
	foreign := jobs.Register(&other, "foreign", idle, jobs.Policy{})
	var none context.Context
	var noQueue *jobs.LocalQueue
	each := jobs.Each(time.Hour)
	ctx := t.Context()
	second := func(_ any, err error) error { return err }
	periodic := func(k *jobs.Kind[int], q jobs.Queue, s jobs.Schedule, o *jobs.Options) error {
		_, err := k.Periodic(q, s, 1, o)
		return err
	}
	for want, err := range map[string]error{
		"jobs: Kind.Periodic: ":                      periodic(nil, q, each, nil),
		"jobs: Kind.Periodic: q must not be nil":     periodic(k, nil, each, nil),
		"jobs: Kind.Periodic: s must not be nil":     periodic(k, q, nil, nil),
		"Options.NotBefore must be zero":             periodic(k, q, each, &jobs.Options{NotBefore: time.Now()}),
		"Options.MaxAttempts must be from 0":         periodic(k, q, each, &jobs.Options{MaxAttempts: -1}),
		"q must be a PeriodicQueue, got a jobs_test": periodic(k, plainQueue{q}, each, nil),
		`"foreign"`: periodic(foreign, q, each, nil),
		"LocalQueue.EnqueuePeriodically: s must not be nil":                     second(q.EnqueuePeriodically(nil, jobs.Request{})),
		"LocalQueue.EnqueuePeriodically: the LocalQueue must be one that Local": second(noQueue.EnqueuePeriodically(each, jobs.Request{})),
		"LocalQueue.List: the LocalQueue must be one that Local has returned":   second(noQueue.List(ctx, jobs.Filter{})),
		"LocalQueue.List: ctx must not be nil":                                  second(q.List(none, jobs.Filter{})),
		"jobs: Filter.Limit must be from 0 to 10000, got 10001":                 second(q.List(ctx, jobs.Filter{Limit: 10_001})),
		"jobs: Filter.Status must be one of the constants, got Status(3)":       second(q.List(ctx, jobs.Filter{Status: []jobs.Status{3}})),
		`jobs: Filter.After must be the ID of a job, got "x"`:                   second(q.List(ctx, jobs.Filter{After: "x"})),
		"LocalQueue.Depths: ctx must not be nil":                                second(q.Depths(none)),
		"LocalQueue.Pause: ctx must not be nil":                                 q.Pause(none, ""),
		`jobs: LocalQueue.Resume: there is no queue "mail"`:                     q.Resume(ctx, "mail"),
		"jobs: EnqueueMany: ctx must not be nil":                                second(jobs.EnqueueMany(none, q, nil)),
		"jobs: EnqueueMany: q must not be nil":                                  second(jobs.EnqueueMany(ctx, nil, nil)),
		"jobs: EnqueueMany: request 0: ":                                        second(jobs.EnqueueMany(ctx, q, []jobs.Request{{}})),
		`jobs: EnqueueMany: request 0: jobs: unknown kind`:                      second(jobs.EnqueueMany(ctx, q, []jobs.Request{request(t, foreign)})),
	} {
		require.ErrorContains(t, err, want)
	}
	added, err := jobs.EnqueueMany(ctx, q, nil)
	require.NoError(t, err)
	require.Empty(t, added)
	require.PanicsWithValue(t, "jobs: LogHandler: h must not be nil", func() { jobs.LogHandler(nil) })
	require.PanicsWithValue(t, "jobs: Registry.Use: f must not be nil", func() { reg.Use(nil) })
	_, ok := jobs.MetaFrom(none)
	require.False(t, ok)
}

func request(t *testing.T, k *jobs.Kind[int]) jobs.Request {
	r, err := k.Request(1, nil)
	require.NoError(t, err)
	return r
}

func TestStatusesAreWords(t *testing.T) {
	for s, want := range []string{"waiting", "delayed", "running", "Status(3)"} {
		require.Equal(t, want, jobs.Status(s).String())
	}
}

func TestTheLogNamesTheJobInGroupsToo(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(jobs.LogHandler(slog.NewTextHandler(&log, nil))).WithGroup("g")
	logger.InfoContext(engine.WithMeta(t.Context(), jobs.Meta{ID: "7", Kind: "mail", Attempt: 2, Flow: "acme"}), "said", "a", 1)
	require.Contains(t, log.String(), "msg=said g.a=1 g.job.id=7 g.job.kind=mail g.job.attempt=2 g.job.flow=acme\n")
}

func TestTheErrorOfACanceledAttemptNamesBoth(t *testing.T) {
	e := engine.Canceled(jobs.Meta{}, errTest)
	require.Equal(t, jobs.StateCanceled, e.State)
	require.EqualError(t, e.Err, "context canceled: as the handler says")
	require.ErrorIs(t, e.Err, context.Canceled)
	require.ErrorIs(t, e.Err, errTest)
	require.EqualError(t, engine.Canceled(jobs.Meta{}, context.Canceled).Err, "context canceled")
	require.Equal(t, jobs.StateCompleted, engine.Canceled(jobs.Meta{}, nil).State)
}
