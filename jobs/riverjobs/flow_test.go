package riverjobs_test

import (
	"context"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// limited is WithFlows with a limit for one flow.
func limited(flow string, limit int) taskpool.Option {
	return taskpool.WithFlows(func(f string) taskpool.FlowPolicy {
		if f == flow {
			return taskpool.FlowPolicy{Limit: limit}
		}
		return taskpool.FlowPolicy{}
	})
}

func TestFlowIsInTheRowAndTheTask(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		var inHandler, inHook string
		k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error {
			task, _ := taskpool.Current(ctx)
			inHandler = task.Flow
			return nil
		}, jobs.Policy{Flow: "host"})
		p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithHooks(taskpool.Hooks{
			Started: func(e taskpool.TaskEvent) { inHook = e.Task.Flow },
		}))})
		for _, flow := range []string{`acme "ü"`, "host"} {
			id := enqueue(t, k, p, 1, &jobs.Options{Flow: flow})
			require.Equal(t, flow, next().Flow)
			require.Equal(t, flow, inHandler)
			require.Equal(t, flow, inHook)

			which := river.NewJobListParams().Where("metadata ->> 'taskpool_flow' = @flow", river.NamedArgs{"flow": flow})
			found, err := p.list(t.Context(), which)
			require.NoError(t, err)
			require.Len(t, found.Jobs, 1)
			require.Equal(t, id, jobs.ID(strconv.FormatInt(found.Jobs[0].ID, 10)))
		}
	})
}

func TestJobThatGoesBackKeepsItsFlow(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		pool := newPool(t, taskpool.WithCapacity(0, taskpool.OverflowReject))
		gate := make(chan struct{})
		release := sync.OnceFunc(func() { close(gate) })
		defer release()
		require.NoError(t, pool.Go(taskpool.Medium, func() { <-gate }))
		p := open(&reg, riverjobs.Config{Pool: pool})
		enqueue(t, k, p, 1, &jobs.Options{Flow: "acme"})
		e := next()
		require.Equal(t, jobs.StateRetrying, e.State)
		require.ErrorIs(t, e.Err, taskpool.ErrFull)
		require.Equal(t, "acme", e.Flow)
		release()
		for e = next(); e.State == jobs.StateRetrying; e = next() {
		}
		require.Equal(t, jobs.StateCompleted, e.State)
		require.Equal(t, "acme", e.Flow)
	})
}

func TestOneQueueGivesOutJobsByAgeWhoseverTheyAre(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		var order []string
		k := jobs.Register(&reg, "kind", func(_ context.Context, m jobs.Meta, _ int) error {
			order = append(order, m.Flow)
			return nil
		}, jobs.Policy{})
		q := open(&reg, riverjobs.Config{})
		want := []string{"flood", "flood", "flood", "small"}
		for _, flow := range want {
			enqueue(t, k, q, 1, &jobs.Options{Flow: flow})
		}
		open(&reg, riverjobs.Config{Pool: newPool(t)})
		for range want {
			require.Equal(t, jobs.StateCompleted, next().State)
		}
		require.Equal(t, want, order)
	})
}

func TestAQueueOfItsOwnBoundsAFlowInAProcessAndItsBacklogDelaysNoOther(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		var running, most atomic.Int64
		started, gate := make(chan struct{}, 10), make(chan struct{})
		release := sync.OnceFunc(func() { close(gate) })
		defer release()
		k := jobs.Register(&reg, "kind", func(_ context.Context, m jobs.Meta, _ int) error {
			if m.Flow == "flood" {
				most.Store(max(most.Load(), running.Add(1)))
				started <- struct{}{}
				<-gate
				running.Add(-1)
			}
			return nil
		}, jobs.Policy{})
		p := open(&reg, riverjobs.Config{
			Pool: newPool(t, taskpool.WithWorkers(3)),
			Route: func(r jobs.Request) string {
				if r.Flow == "flood" {
					return "flood"
				}
				return river.QueueDefault
			},
			River: river.Config{Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2}, "flood": {MaxWorkers: 1}}},
		})
		for i := range 5 {
			enqueue(t, k, p, i, &jobs.Options{Flow: "flood"})
		}
		await(t, started)
		for i := range 5 {
			enqueue(t, k, p, i, &jobs.Options{Flow: "small"})
		}
		for range 5 {
			require.Equal(t, "small", next().Flow)
		}
		release()
		for range 5 {
			require.Equal(t, "flood", next().Flow)
		}
		require.EqualValues(t, 1, most.Load())
	})
}

func TestPoolsLimitOfAFlowHoldsAndAJobThatItHoldsBackGoesBack(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		var released, early atomic.Bool
		k := jobs.Register(&reg, "kind", func(_ context.Context, m jobs.Meta, _ int) error {
			if m.Flow == "acme" && !released.Load() {
				early.Store(true)
			}
			return nil
		}, jobs.Policy{})
		pool := newPool(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(100*time.Millisecond), limited("acme", 1))
		gate := make(chan struct{})
		release := sync.OnceFunc(func() { close(gate) })
		defer release()
		_, err := pool.Submit(t.Context(), taskpool.Task{Flow: "acme", Run: func(context.Context) error { <-gate; return nil }})
		require.NoError(t, err)
		r := rescueSoon(false)
		r.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 1}}
		q := open(&reg, riverjobs.Config{})
		held := enqueue(t, k, q, 1, &jobs.Options{Flow: "acme"})
		other := enqueue(t, k, q, 1, &jobs.Options{Flow: "other"})
		p := open(&reg, riverjobs.Config{Pool: pool, River: r})
		for wentBack, ran := false, false; !wentBack || !ran; { // in any order
			e := next()
			if e.ID == other {
				ran = ran || e.State == jobs.StateCompleted
				continue
			}
			require.Equal(t, jobs.StateRetrying, e.State)
			require.ErrorContains(t, e.Err, "its flow was at its limit")
			wentBack = true
		}
		released.Store(true)
		release()
		e := next()
		for ; e.State == jobs.StateRetrying; e = next() {
		}
		require.Equal(t, held, e.ID)
		require.Equal(t, jobs.StateCompleted, e.State)
		require.Equal(t, 1, e.Attempt)
		require.Equal(t, 1, p.row(held).Attempt)
		require.False(t, early.Load())
	})
}

func TestJobGoesBackWithItsAttemptWhereTheFlowsPolicyIsNotAllowedOrDoesNotReturn(t *testing.T) {
	for name, c := range map[string]struct {
		policy func() taskpool.FlowPolicy
		want   string
	}{
		"not allowed": {func() taskpool.FlowPolicy { return taskpool.FlowPolicy{Weight: -1} }, `taskpool: WithFlows: policy("acme").Weight must be 0 to 1024, got -1`},
		"panic":       {func() taskpool.FlowPolicy { panic("as the policy says") }, `the policy of WithFlows for flow "acme" panicked: as the policy says`},
		"Goexit":      {func() taskpool.FlowPolicy { runtime.Goexit(); return taskpool.FlowPolicy{} }, `the policy of WithFlows for flow "acme" called runtime.Goexit`},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, open opener) {
				var reg jobs.Registry
				next := observe(t, &reg)
				k := jobs.Register(&reg, "kind", done, jobs.Policy{})
				var mended atomic.Bool
				var log syncBuffer
				r := quick()
				r.Logger = slog.New(slog.NewTextHandler(&log, nil))
				p := open(&reg, riverjobs.Config{River: r, Pool: newPool(t, taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
					if flow == "" || mended.Load() {
						return taskpool.FlowPolicy{}
					}
					return c.policy()
				}))})
				id := enqueue(t, k, p, 1, &jobs.Options{Flow: "acme"})
				e := next()
				require.Equal(t, jobs.StateRetrying, e.State)
				require.ErrorContains(t, e.Err, c.want)
				require.Equal(t, time.Second, e.Delay)
				require.Zero(t, p.row(id).Attempt)
				require.Positive(t, log.count("the pool did not take a job, which goes back"))
				require.Positive(t, log.count("kind=kind flow=acme error="))
				mended.Store(true)
				for e = next(); e.State == jobs.StateRetrying; e = next() {
				}
				require.Equal(t, jobs.StateCompleted, e.State)
				require.Equal(t, 1, e.Attempt)
			})
		})
	}
}

func TestPoolWithAgingRunsJobsThatHaveAFlow(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		inTask := "not called"
		k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error {
			task, _ := taskpool.Current(ctx)
			inTask = task.Flow
			return nil
		}, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithAging(time.Second))})
		enqueue(t, k, p, 1, &jobs.Options{Flow: "acme"})
		e := next()
		require.Equal(t, jobs.StateCompleted, e.State)
		require.Equal(t, "acme", e.Flow)
		require.Empty(t, inTask)
	})
}
