package jobs_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// flows is WithFlows with a policy for each flow.
func flows(policies map[string]taskpool.FlowPolicy) taskpool.Option {
	return taskpool.WithFlows(func(flow string) taskpool.FlowPolicy { return policies[flow] })
}

// started registers a kind that notes the flows of its jobs as they start.
func started(reg *jobs.Registry, name string) (k *jobs.Kind[int], flows *[]string) {
	flows = new([]string)
	return jobs.Register(reg, name, func(_ context.Context, m jobs.Meta, _ int) error {
		*flows = append(*flows, m.Flow)
		return nil
	}, jobs.Policy{}), flows
}

func of(flow string) *jobs.Options { return &jobs.Options{Flow: flow} }

func TestAFlowsBacklogDelaysAnotherFlowByOneJob(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg)
	k, order := started(&reg, "note")
	release := occupy(t, &reg, q)
	defer release()
	for range 100 {
		must(t)(k.Enqueue(t.Context(), q, 0, of("flood")))
	}
	for range 2 {
		must(t)(k.Enqueue(t.Context(), q, 0, of("small")))
	}
	release()
	require.NoError(t, q.Stop(t.Context()))
	require.Len(t, *order, 102)
	require.Equal(t, "flood small flood small flood flood", strings.Join((*order)[:6], " "))
}

func TestWeightsOfThePoolShareTheStartsOfJobs(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg, flows(map[string]taskpool.FlowPolicy{"gold": {Weight: 3}}))
	k, order := started(&reg, "note")
	release := occupy(t, &reg, q)
	defer release()
	for range 30 {
		must(t)(k.Enqueue(t.Context(), q, 0, of("free")))
		must(t)(k.Enqueue(t.Context(), q, 0, of("gold")))
	}
	release()
	require.NoError(t, q.Stop(t.Context()))
	require.InDelta(t, 15, strings.Count(strings.Join((*order)[:20], " "), "gold"), 1, "%v", *order)
}

// A tally counts the jobs of each flow that are at work.
type tally struct {
	mu        sync.Mutex
	now, most map[string]int
}

func (c *tally) at(flow string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now, c.most = make(map[string]int), make(map[string]int)
	}
	c.now[flow] += n
	c.most[flow] = max(c.most[flow], c.now[flow])
}

func TestLimitOfThePoolHoldsForJobsAndWhatItHoldsBackDelaysNoOtherFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithWorkers(4), flows(map[string]taskpool.FlowPolicy{"account": {Limit: 1}, "host": {Limit: 2}}))
		var c tally
		k := jobs.Register(&reg, "job", func(ctx context.Context, m jobs.Meta, _ int) error {
			c.at(m.Flow, 1)
			defer c.at(m.Flow, -1)
			time.Sleep(time.Second)
			if m.Attempt == 1 {
				return errTest
			}
			return nil
		}, jobs.Policy{MaxAttempts: 2, Backoff: at(0)})
		began := time.Now()
		var free time.Duration
		reg.Observe(func(e jobs.Event) {
			if e.Flow == "free" && e.State == jobs.StateCompleted {
				free = time.Since(began)
			}
		})
		for range 10 {
			must(t)(k.Enqueue(t.Context(), q, 0, of("account")))
			must(t)(k.Enqueue(t.Context(), q, 0, of("host")))
		}
		must(t)(k.Enqueue(t.Context(), q, 0, of("free")))
		require.NoError(t, q.Stop(t.Context()))
		require.Equal(t, map[string]int{"account": 1, "host": 2, "free": 1}, c.most)
		require.Equal(t, 20*time.Second, time.Since(began), "two attempts of ten jobs, one after the other")
		require.Equal(t, 2*time.Second, free)
	})
}

func TestFullFlowIsNamedByEnqueueAndOtherFlowsHaveRoom(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg, taskpool.WithCapacity(100, taskpool.OverflowReject), flows(map[string]taskpool.FlowPolicy{"acme": {Capacity: 1}}))
	k, order := started(&reg, "note")
	release := occupy(t, &reg, q)
	defer release()
	must(t)(k.Enqueue(t.Context(), q, 0, of("acme")))
	id, err := k.Enqueue(t.Context(), q, 0, &jobs.Options{Flow: "acme", UniqueKey: "key"})
	require.ErrorIs(t, err, taskpool.ErrFull)
	require.EqualError(t, err, `taskpool: queue of flow "acme" is full`)
	require.Empty(t, id)
	must(t)(k.Enqueue(t.Context(), q, 0, &jobs.Options{Flow: "other", UniqueKey: "key"})) // and the key is free
	release()
	require.NoError(t, q.Stop(t.Context()))
	require.ElementsMatch(t, []string{"acme", "other"}, *order)
}

func TestEnqueueWaitsForRoomInTheJobsFlowAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, flows(map[string]taskpool.FlowPolicy{"acme": {Capacity: 1}}))
		k, order := started(&reg, "note")
		release := occupy(t, &reg, q)
		defer release()
		must(t)(k.Enqueue(t.Context(), q, 0, of("acme")))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := k.Enqueue(ctx, q, 0, of("acme"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		must(t)(k.Enqueue(t.Context(), q, 0, of("other")))
		added := make(chan error)
		go func() {
			_, err := k.Enqueue(t.Context(), q, 0, of("acme"))
			added <- err
		}()
		synctest.Wait()
		release()
		require.NoError(t, <-added)
		require.NoError(t, q.Stop(t.Context()))
		require.ElementsMatch(t, []string{"acme", "acme", "other"}, *order)
	})
}

func TestFlowIsTheTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		var hooked, seen []string
		pool, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(quiet), taskpool.WithHooks(taskpool.Hooks{
			Started: func(e taskpool.TaskEvent) { hooked = append(hooked, e.Task.Flow) },
		}))
		require.NoError(t, err)
		q := jobs.Local(pool, &reg)
		k := jobs.Register(&reg, "job", func(ctx context.Context, m jobs.Meta, _ int) error {
			task, _ := taskpool.Current(ctx)
			seen = append(seen, task.Flow)
			if m.Attempt == 1 {
				return errTest
			}
			return nil
		}, jobs.Policy{Flow: "host", MaxAttempts: 2, Backoff: at(time.Second)})
		must(t)(k.Enqueue(t.Context(), q, 0, nil))
		synctest.Wait()
		require.Equal(t, "host", pool.Flows(1)[0].Flow)
		require.NoError(t, q.Stop(t.Context()))
		require.Equal(t, []string{"host", "host"}, hooked)
		require.Equal(t, hooked, seen)
	})
}

func TestUnfinishedJobsKeepTheirFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		k := jobs.Register(&reg, "job", func(ctx context.Context, _ jobs.Meta, _ int) error { <-ctx.Done(); return ctx.Err() }, jobs.Policy{Flow: "host"})
		must(t)(k.Enqueue(t.Context(), q, 0, of("acme")))
		must(t)(k.Enqueue(t.Context(), q, 0, nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cut, ok := errors.AsType[*taskpool.ShutdownError](q.Stop(ctx))
		require.True(t, ok)
		var left []string
		for _, u := range cut.Unfinished {
			left = append(left, u.Task.Flow)
		}
		require.ElementsMatch(t, []string{"acme", "host"}, left)
	})
}

func TestFlowPolicyThatIsNotAllowedIsNamedByEnqueue(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg, flows(map[string]taskpool.FlowPolicy{"heavy": {Weight: 2000}, "negative": {Limit: -1}}))
	k, order := started(&reg, "note")
	for flow, want := range map[string]string{
		"heavy":    `taskpool: WithFlows: policy("heavy").Weight must be 0 to 1024, got 2000`,
		"negative": `taskpool: WithFlows: policy("negative").Limit must not be negative, got -1`,
	} {
		_, err := k.Enqueue(t.Context(), q, 0, &jobs.Options{Flow: flow, UniqueKey: "key"})
		require.EqualError(t, err, want)
	}
	must(t)(k.Enqueue(t.Context(), q, 0, &jobs.Options{UniqueKey: "key"}))
	require.NoError(t, q.Stop(t.Context()))
	require.Equal(t, []string{""}, *order)
}

func TestFlowPolicyThatPanicsDoesSoInEnqueueAndLeavesNoJob(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg, taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
		if flow == "bad" {
			panic("as the policy says")
		}
		return taskpool.FlowPolicy{}
	}))
	k, order := started(&reg, "note")
	require.PanicsWithValue(t, "as the policy says", func() {
		_, _ = k.Enqueue(t.Context(), q, 0, &jobs.Options{Flow: "bad", UniqueKey: "key"})
	})
	known, keys := q.Sizes()
	require.Zero(t, known+keys)
	must(t)(k.Enqueue(t.Context(), q, 0, &jobs.Options{Flow: "good", UniqueKey: "key"}))
	require.NoError(t, q.Stop(t.Context()))
	require.Equal(t, []string{"good"}, *order)
}

func TestFlowInAPoolWithAgingIsRefusedByName(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg, taskpool.WithAging(time.Second))
	k, order := started(&reg, "note")
	_, err := k.Enqueue(t.Context(), q, 0, of("acme"))
	require.EqualError(t, err, `jobs: Request.Flow must be empty in a pool with WithAging, got "acme"`)
	must(t)(k.Enqueue(t.Context(), q, 0, nil))
	require.NoError(t, q.Stop(t.Context()))
	require.Equal(t, []string{""}, *order)
}

// With one place for the flow, each job waits for the next, which needs the place.
func TestJobsOfAFlowWithOnePlaceMayWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithWorkers(4), flows(map[string]taskpool.FlowPolicy{"acme": {Limit: 1}}))
		events := record(&reg)
		var k *jobs.Kind[int]
		k = jobs.Register(&reg, "chain", func(ctx context.Context, m jobs.Meta, n int) error {
			if n == 0 {
				return nil
			}
			id, err := k.Enqueue(ctx, q, n-1, of(m.Flow))
			if err != nil {
				return err
			}
			if h := q.Handle(id); h != nil {
				return h.Wait(ctx)
			}
			return nil // it has settled
		}, jobs.Policy{Timeout: time.Minute})
		must(t)(k.Enqueue(t.Context(), q, 5, of("acme")))
		require.NoError(t, q.Stop(t.Context()))
		require.Len(t, events(), 6)
		for _, e := range events() {
			require.Equal(t, jobs.StateCompleted, e.State, "error: %v", e.Err)
		}
	})
}

func TestAHandlerGivesItsFlowsPlaceBackWhileItWaitsForAJobThatIsJustBeingAdded(t *testing.T) {
	for name, with := range map[string]func(own, others context.Context) context.Context{
		"its own":        func(own, _ context.Context) context.Context { return own },
		"another":        func(_, _ context.Context) context.Context { return context.Background() },
		"another task's": func(_, others context.Context) context.Context { return others },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reg jobs.Registry
				q := newLocal(t, &reg, taskpool.WithWorkers(4), flows(map[string]taskpool.FlowPolicy{"acme": {Limit: 1, Capacity: 1}}))
				began := time.Now()
				one := &jobs.Options{Flow: "acme", UniqueKey: "key"}
				k := jobs.Register(&reg, "note", nothing[int], jobs.Policy{})
				contexts, start, ended := make(chan context.Context, 1), make(chan struct{}), make(chan struct{})
				other := jobs.Register(&reg, "other", func(ctx context.Context, _ jobs.Meta, _ int) error {
					contexts <- ctx
					<-ended
					return nil
				}, jobs.Policy{})
				first := jobs.Register(&reg, "first", func(ctx context.Context, _ jobs.Meta, _ int) error {
					defer close(ended)
					<-start
					_, err := k.Enqueue(with(ctx, <-contexts), q, 0, one)
					assert.True(t, err == nil || errors.Is(err, jobs.ErrDuplicate), "%v", err)
					return nil
				}, jobs.Policy{Flow: "acme", Timeout: time.Minute})
				must(t)(other.Enqueue(t.Context(), q, 0, nil))
				must(t)(first.Enqueue(t.Context(), q, 0, nil))
				synctest.Wait()
				must(t)(k.Enqueue(t.Context(), q, 0, of("acme"))) // the flow is full
				added := make(chan error)
				go func() {
					_, err := k.Enqueue(t.Context(), q, 0, one) // there is room once the handler has given its place back
					added <- err
				}()
				synctest.Wait()
				close(start)
				require.NoError(t, <-added)
				<-ended
				require.NoError(t, q.Stop(t.Context()))
				require.Zero(t, time.Since(began))
			})
		})
	}
}
