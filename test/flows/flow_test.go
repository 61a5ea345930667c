package flows_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// policies returns the option for flows with these policies.
func policies(of map[string]taskpool.FlowPolicy) taskpool.Option {
	return taskpool.WithFlows(func(flow string) taskpool.FlowPolicy { return of[flow] })
}

// limit returns the option for a limit of n for all named flows.
func limit(n int) taskpool.Option {
	return taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
		if flow == "" {
			return taskpool.FlowPolicy{}
		}
		return taskpool.FlowPolicy{Limit: n}
	})
}

// starts notes which flows' tasks start.
type starts struct {
	mu  sync.Mutex
	all []string
}

// task returns a task of flow that notes its start and takes d.
func (s *starts) task(flow string, pr taskpool.Priority, d time.Duration) taskpool.Task {
	return taskpool.Task{Flow: flow, Priority: pr, Run: func(context.Context) error {
		s.mu.Lock()
		s.all = append(s.all, flow)
		s.mu.Unlock()
		time.Sleep(d)
		return nil
	}}
}

func TestBacklogOfOneFlowDoesNotStandBeforeAnother(t *testing.T) {
	const few = 10
	for _, workers := range []int{1, 2, 8} {
		for _, share := range []int{0, 2, 16} {
			flood := 1000
			if workers == 2 && share == 16 && !pooltest.Scarce() {
				flood = 100_000
			}
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithFairShare(share))
				p.Pause()
				var s starts
				for range flood {
					pooltest.Submit(t, p, s.task("A", taskpool.Medium, 20*time.Microsecond))
				}
				for range few {
					pooltest.Submit(t, p, s.task("B", taskpool.Medium, 20*time.Microsecond))
				}
				p.Resume()
				pooltest.Drain(t, p)
				require.Len(t, s.all, flood+few)
				last := len(s.all) - 1
				for s.all[last] != "B" {
					last--
				}
				require.Less(t, last, 24, "B's last task is start %d", last+1)
			})
		}
	}
}

// waitsOfOthers returns how long, in order, the tasks of 1,000 flows wait that keep two workers
// busy for the given share of the time, while another flow has a backlog of the given length.
// Tasks come at random, and take 1 ms on average, also at random.
func waitsOfOthers(t *testing.T, load float64, backlog int) (waits []time.Duration) {
	const took = time.Millisecond
	tasks := 20_000
	if pooltest.Scarce() {
		tasks /= 4
		backlog = min(backlog, 10_000) // which lasts as well
	}
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		rng, flood := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4))
		takes := func(rng *rand.Rand) time.Duration { return time.Duration(rng.ExpFloat64() * float64(took)) }
		for range backlog {
			d := takes(flood)
			pooltest.Submit(t, p, taskpool.Task{Flow: "flood", Run: func(context.Context) error { time.Sleep(d); return nil }})
		}
		var mu sync.Mutex
		for range tasks {
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(took) / 2 / load))
			came, d := time.Now(), takes(rng)
			pooltest.Submit(t, p, taskpool.Task{Flow: strconv.Itoa(rng.IntN(1000)), Run: func(context.Context) error {
				mu.Lock()
				waits = append(waits, time.Since(came))
				mu.Unlock()
				time.Sleep(d)
				return nil
			}})
		}
		for all := false; !all; {
			time.Sleep(time.Second)
			mu.Lock()
			all = len(waits) == tasks
			mu.Unlock()
		}
		_ = p.Shutdown(pooltest.EndedContext()) // what is left of the flood
	})
	slices.Sort(waits)
	return waits
}

// The flood about doubles the waits of others: a worker is never idle when they come, and it has
// the share of one of those that wait.
func TestFloodOfOneFlowAboutDoublesTheWaitsOfAThousandOthers(t *testing.T) {
	for _, load := range []float64{0.7, 0.8} {
		without, with := waitsOfOthers(t, load, 0), waitsOfOthers(t, load, 100_000)
		p99 := len(with) * 99 / 100
		t.Logf("load %v: p99 %v without the flood, %v with it", load, without[p99], with[p99])
		require.Less(t, float64(with[p99]), 2.2*float64(without[p99]))
	}
}

// A flow with a limit may be at it whenever the pool's turn comes. So it has turns of its own.
func TestOldestTaskOfALimitedFlowHasItsTurnAmongItsOwn(t *testing.T) {
	for _, share := range []int{1, 2, 4, 16} {
		for _, workers := range []int{1, 2, 3} {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithFairShare(share), limit(1))
				var s starts
				lasting := func(flow string) {
					task := s.task(flow, taskpool.High, time.Millisecond)
					run := task.Run
					task.Run = func(ctx context.Context) error {
						if len(s.flow(flow)) < 200 {
							pooltest.Submit(t, p, task)
						}
						return run(ctx)
					}
					for range 3 {
						pooltest.Submit(t, p, task)
					}
				}
				p.Pause()
				lasting("A")
				lasting("B")
				ahead := -1
				pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: func(context.Context) error {
					ahead = len(s.flow("A"))
					return nil
				}})
				p.Resume()
				pooltest.Drain(t, p)
				require.Less(t, ahead, share*(3+1), "starts of A before its oldest task had its turn")
			})
		}
	}
}

// flow returns the starts of tasks of a flow.
func (s *starts) flow(flow string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.all), func(f string) bool { return f != flow })
}

func TestStartsAreSharedByWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(0), policies(map[string]taskpool.FlowPolicy{
			"": {Weight: 1}, "two": {Weight: 2}, "four": {Weight: 4}, "most": {Weight: 1024}}))
		p.Pause()
		var s starts
		for range 700 {
			for _, flow := range []string{"", "two", "four"} {
				pooltest.Submit(t, p, s.task(flow, taskpool.Medium, time.Millisecond))
			}
		}
		p.Resume()
		pooltest.Drain(t, p)
		count := map[string]int{}
		for i, flow := range s.all[:700] {
			count[flow]++
			for flow, weight := range map[string]int{"": 1, "two": 2, "four": 4} {
				require.InDelta(t, float64((i+1)*weight)/7, count[flow], 2, "%q after %d starts", flow, i+1)
			}
		}
	})
}

func TestTasksOfOneFlowStartFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		p.Pause()
		started := map[string][]int{}
		for i := range 1000 {
			flow := strconv.Itoa(i % 7)
			pooltest.Submit(t, p, taskpool.Task{Flow: flow, Run: func(context.Context) error {
				started[flow] = append(started[flow], i)
				return nil
			}})
		}
		p.Resume()
		pooltest.Drain(t, p)
		require.Len(t, started, 7)
		for flow, all := range started {
			require.True(t, slices.IsSorted(all), "flow %s: %v", flow, all)
		}
	})
}

// Priority goes before flows: a flow's High task waits for no other flow's Low ones.
func TestPriorityGoesBeforeFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(0))
		p.Pause()
		var s starts
		for range 100 {
			pooltest.Submit(t, p, s.task("B", taskpool.Low, 0))
			pooltest.Submit(t, p, s.task("A", taskpool.High, 0))
		}
		p.Resume()
		pooltest.Drain(t, p)
		require.Equal(t, slices.Concat(slices.Repeat([]string{"A"}, 100), slices.Repeat([]string{"B"}, 100)), s.all)
	})
}

// An active counts tasks of each flow that are at work at once.
type active struct {
	now  [8]atomic.Int64
	most [8]atomic.Int64
}

func (a *active) enter(f int) {
	n := a.now[f].Add(1)
	for m := a.most[f].Load(); n > m && !a.most[f].CompareAndSwap(m, n); m = a.most[f].Load() {
	}
}

func (a *active) leave(f int) { a.now[f].Add(-1) }

// Tasks of limited flows do all that a task can do, on real goroutines.
func TestNoMoreTasksOfAFlowAreAtWorkThanItsLimit(t *testing.T) {
	for _, max := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(max), func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(6), taskpool.WithReserved(1, taskpool.High), taskpool.WithQuantum(time.Microsecond), limit(max))
			var a active
			flow := func(f int) string { return strconv.Itoa(f) }
			var body func(f, depth int) func(context.Context) error
			body = func(f, depth int) func(context.Context) error {
				return func(ctx context.Context) error {
					a.enter(f)
					_ = taskpool.Yield(ctx)
					if depth%2 == 1 {
						_ = taskpool.Block(ctx, func() error { return nil })
					}
					a.leave(f)
					if depth > 0 { // it gives its place back while it waits
						child := (f + depth) % 4
						h, err := p.Submit(ctx, taskpool.Task{Flow: flow(child), Priority: taskpool.Priority(depth % 3), Run: body(child, depth-1)})
						if err == nil {
							_ = h.Wait(ctx)
						}
					}
					a.enter(f)
					defer a.leave(f)
					switch depth {
					case 2:
						return errors.New("failed, to be tried again")
					case 1:
						panic("died")
					}
					return taskpool.Yield(ctx)
				}
			}
			var handles []*taskpool.Handle
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			for i := range pooltest.Times(5000, 1000) {
				h, err := p.Submit(ctx, taskpool.Task{Flow: flow(i % 4), Priority: taskpool.Priority(i%3 - 1), Run: body(i%4, i%4),
					Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}})
				require.NoError(t, err)
				switch handles = append(handles, h); i % 7 {
				case 0:
					handles[i/2].Cancel(errors.New("enough"))
				case 1:
					handles[i/2].SetPriority(taskpool.Priority(i%5 - 2))
				}
			}
			pooltest.Drain(t, p)
			for f := range 4 {
				require.LessOrEqual(t, a.most[f].Load(), int64(max), "flow %d", f)
				require.Positive(t, a.most[f].Load(), "flow %d", f)
			}
			require.Zero(t, p.Stats().HeldBack)
			require.Empty(t, p.Flows(-1))
		})
	}
}

// P of flow f waits for C of flow g, which waits for D of flow f, and so on, through two pools.
func TestLimitsOfOneCauseNoDeadlockInNestedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pools := []*taskpool.Pool{
			pooltest.New(t, taskpool.WithWorkers(1), limit(1), taskpool.WithName("a")),
			pooltest.New(t, taskpool.WithWorkers(2), limit(1), taskpool.WithName("b"), taskpool.WithCapacity(1, taskpool.OverflowWait)),
		}
		var down func(depth int) func(context.Context) error
		down = func(depth int) func(context.Context) error {
			return func(ctx context.Context) error {
				if err := taskpool.Yield(ctx); err != nil || depth == 0 {
					return err
				}
				h, err := pools[depth/3%2].Submit(ctx, taskpool.Task{Flow: []string{"f", "g"}[depth%2], Run: down(depth - 1)})
				if err != nil {
					return err
				}
				return h.Wait(ctx)
			}
		}
		var all []*taskpool.Handle
		for range 5 {
			all = append(all, pooltest.Submit(t, pools[0], taskpool.Task{Flow: "f", Run: down(100)}))
		}
		for _, h := range all {
			require.NoError(t, h.Wait(pooltest.Patience(t)))
		}
	})
}

func TestWhatALimitHoldsBackIsInNobodysWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(100, taskpool.OverflowReject), limit(1))
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: func(context.Context) error { <-gate; return nil }})
		synctest.Wait()
		for range 100 {
			pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.High, Run: pooltest.Nop})
		}
		_, err := p.Submit(t.Context(), taskpool.Task{Flow: "A", Run: pooltest.Nop})
		require.ErrorIs(t, err, taskpool.ErrFull, "a flow without a capacity has that of the pool")
		require.EqualError(t, err, `taskpool: queue of flow "A" is full`)
		s := p.Stats()
		require.Equal(t, 100, s.HeldBack)
		require.Equal(t, 100, s.Queued)
		require.Equal(t, []taskpool.FlowStats{{Flow: "A", Queued: 100, HeldBack: 100, Running: 1, Places: 1, OldestWait: 0}}, p.Flows(1))

		// They take no room, Yield does not give way to them, and they delay nobody.
		for range 100 {
			h := pooltest.Submit(t, p, taskpool.Task{Flow: "B", Priority: taskpool.Low, Run: func(ctx context.Context) error {
				return taskpool.Yield(ctx)
			}})
			require.NoError(t, h.Wait(pooltest.Patience(t)))
		}
		require.Zero(t, p.Stats().Parks)
		require.Equal(t, uint64(101), p.Stats().Attempts)
		close(gate)
		pooltest.Drain(t, p)
		require.Zero(t, p.Stats().HeldBack)
		require.Equal(t, uint64(201), p.Stats().Succeeded)
	})
}

// A Low task that holds the only place of its flow must not wait behind High tasks of others
// while a High task of its own flow waits for that place.
func TestHeldBackTaskLendsItsUrgencyToWhoHoldsThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithFairShare(0), limit(1))
		var passed int
		var more func()
		lasting := true
		more = func() {
			if passed++; lasting {
				require.NoError(t, p.Go(0, more)) // Medium tasks of others, one after the other
			}
		}
		began := make(chan struct{})
		low := pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: func(ctx context.Context) error {
			close(began)
			for range 10 {
				time.Sleep(time.Second)
				if err := taskpool.Yield(ctx); err != nil {
					return err
				}
			}
			return nil
		}})
		<-began
		high := pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.High, Run: func(context.Context) error {
			lasting = false
			require.Zero(t, passed)
			return nil
		}})
		require.Equal(t, taskpool.High, low.Info().Urgency)
		require.NoError(t, p.Go(0, more))
		require.NoError(t, high.Wait(pooltest.Patience(t)))
		pooltest.Drain(t, p)
	})
}

// The loan goes on, to what the one that holds the place waits for in another pool.
func TestHeldBackTaskLendsAlongWaitsInOtherPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := pooltest.New(t, taskpool.WithWorkers(2), limit(1))
		b, release := pooltest.Occupied(t)
		var child atomic.Pointer[taskpool.Handle]
		holds := pooltest.Submit(t, a, taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: func(ctx context.Context) error {
			h, err := b.Submit(taskpool.Detach(ctx), taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
			child.Store(h)
			helped := make(chan error)
			go func() { helped <- h.Wait(context.Background()) }() // nobody's wait
			_ = taskpool.Block(ctx, func() error { return <-helped })
			return err
		}})
		synctest.Wait()
		pooltest.Submit(t, a, taskpool.Task{Flow: "A", Priority: taskpool.High, Run: pooltest.Nop})
		synctest.Wait()
		require.Equal(t, taskpool.High, holds.Info().Urgency)
		require.Equal(t, taskpool.Low, child.Load().Info().Urgency, "a wait of nobody lends nothing")
		release()
		pooltest.Drain(t, a)
	})
}

// It waits for its place, in no list of those that only wait for a slot.
func TestTaskOnItsWayOutThatWaitsForAPlaceCanBeMovedAndLentTo(t *testing.T) {
	for _, how := range []string{"SetPriority", "Wait"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithReserved(1, taskpool.High), limit(1))
				gate := make(chan struct{})
				gated := func(context.Context) error { <-gate; return nil }
				child := pooltest.Submit(t, p, taskpool.Task{Flow: "B", Run: gated})
				ctx, cancel := context.WithCancel(context.Background())
				x, err := p.Submit(ctx, taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: func(ctx context.Context) error { _ = child.Wait(ctx); return ctx.Err() }})
				require.NoError(t, err)
				synctest.Wait()
				pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: gated})
				synctest.Wait()
				cancel()
				synctest.Wait()
				require.Equal(t, 1, p.Stats().HeldBack)
				if how == "Wait" {
					pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error { _ = x.Wait(ctx); return nil }})
					synctest.Wait()
				} else {
					require.True(t, x.SetPriority(taskpool.High))
				}
				require.Equal(t, taskpool.High, x.Info().Urgency)
				close(gate)
				pooltest.Drain(t, p)
				require.ErrorIs(t, x.Err(), context.Canceled)
			})
		})
	}
}

// A task on its way out that waits for its place lends what it counts
// as by SetPriority, and one that has its place lends nothing by it.
func TestTaskOnItsWayOutLendsByItsPriorityWhileItWaitsForItsPlace(t *testing.T) {
	for _, places := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			p, q := pooltest.New(t, taskpool.WithWorkers(2), limit(places)), pooltest.New(t, taskpool.WithWorkers(1))
			gate := make(chan struct{})
			other := pooltest.Submit(t, q, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
			waits := pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: func(ctx context.Context) error { return other.Wait(ctx) }})
			synctest.Wait()
			runs := pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: func(context.Context) error { <-gate; return nil }})
			busy := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
			synctest.Wait()
			waits.Cancel(nil)
			synctest.Wait()
			waits.SetPriority(taskpool.High)
			want := taskpool.High
			if places == 2 {
				want = taskpool.Low
			}
			require.Equal(t, want, runs.Info().Urgency, "with %d places", places)
			close(gate)
			require.NoError(t, busy.Wait(t.Context()))
			pooltest.Drain(t, p)
			pooltest.Drain(t, q)
		})
	}
}

// In a pool without flows the other task gives its slot in place of the one that waits. A
// place is of one flow, so the one that waits must give its own.
func TestTaskThatWaitsWithAnothersContextGivesItsOwnPlace(t *testing.T) {
	for _, flow := range []string{"", "g"} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(4), limit(1))
			other := make(chan context.Context, 1)
			gate := make(chan struct{})
			pooltest.Submit(t, p, taskpool.Task{Flow: flow, Run: func(ctx context.Context) error { other <- ctx; <-gate; return nil }})
			ctx := <-other
			h := pooltest.Submit(t, p, taskpool.Task{Flow: "f", Run: func(context.Context) error {
				child, err := p.Submit(ctx, taskpool.Task{Flow: "f", Run: pooltest.Nop})
				if err != nil {
					return err
				}
				return child.Wait(ctx)
			}})
			require.NoError(t, h.Wait(pooltest.Patience(t)))
			close(gate)
			pooltest.Drain(t, p)
		})
	}
}

func TestChangedWeightCountsInWhoIsShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weight := 1
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(20, taskpool.OverflowShed), taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
			if flow == "A" {
				return taskpool.FlowPolicy{Weight: weight}
			}
			return taskpool.FlowPolicy{}
		}))
		release := pooltest.Block(t, p)
		for range 6 {
			pooltest.Submit(t, p, taskpool.Task{Flow: "B", Run: pooltest.Nop})
		}
		weight = 1024
		for range 13 {
			pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: pooltest.Nop})
		}
		weight = 1
		a := pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: pooltest.Nop})
		pooltest.Submit(t, p, taskpool.Task{Flow: "C", Run: pooltest.Nop})
		require.ErrorIs(t, a.Err(), taskpool.ErrShed)
		release()
		pooltest.Drain(t, p)
	})
}

// The task with which the weight changes is in another lane than those that are compared.
func TestChangedWeightCountsInWhoIsShedInAllPriorities(t *testing.T) {
	for _, weights := range [][2]int{{1, 2}, {2, 1}} {
		synctest.Test(t, func(t *testing.T) {
			weight := weights[0]
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(20, taskpool.OverflowShed), taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
				if flow == "A" {
					return taskpool.FlowPolicy{Weight: weight}
				}
				return taskpool.FlowPolicy{}
			}))
			release := pooltest.Block(t, p)
			last := map[string]*taskpool.Handle{}
			for i := range 19 {
				flow := []string{"A", "B"}[i%2]
				last[flow] = pooltest.Submit(t, p, taskpool.Task{Flow: flow, Priority: taskpool.Low, Run: pooltest.Nop})
			}
			weight = weights[1]
			pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.High, Run: pooltest.Nop})
			pooltest.Submit(t, p, taskpool.Task{Flow: "C", Priority: taskpool.High, Run: pooltest.Nop})
			longest, other := "B", "A"
			if weight == 1 {
				longest, other = other, longest
			}
			require.ErrorIs(t, last[longest].Err(), taskpool.ErrShed)
			require.NoError(t, last[other].Err())
			release()
			pooltest.Drain(t, p)
		})
	}
}

func TestChangedLimitCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		max := 1
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
			if flow == "" {
				return taskpool.FlowPolicy{}
			}
			return taskpool.FlowPolicy{Limit: max}
		}))
		gate := make(chan struct{})
		task := taskpool.Task{Flow: "A", Run: func(context.Context) error { <-gate; return nil }}
		for range 3 {
			pooltest.Submit(t, p, task)
		}
		synctest.Wait()
		require.Equal(t, 1, p.Stats().Running)
		max = 3
		pooltest.Submit(t, p, task)
		synctest.Wait()
		require.Equal(t, 3, p.Stats().Running)
		require.Equal(t, 1, p.Stats().HeldBack)
		max = 2
		pooltest.Submit(t, p, task)
		gate <- struct{}{}
		synctest.Wait()
		require.Equal(t, 2, p.Stats().Running)
		max = 0
		pooltest.Submit(t, p, task)
		synctest.Wait()
		require.Equal(t, 4, p.Stats().Running)
		close(gate)
		pooltest.Drain(t, p)
	})
}

// The task that raises the limit is refused itself: the one that was held back gets the slot.
func TestRaisedLimitCountsThoughTheTaskThatRaisesItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		max := 1
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(0, taskpool.OverflowReject), taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
			return taskpool.FlowPolicy{Limit: max, Capacity: 2}
		}))
		gate := make(chan struct{})
		task := taskpool.Task{Flow: "A", Run: func(context.Context) error { <-gate; return nil }}
		pooltest.Submit(t, p, task)
		synctest.Wait()
		pooltest.Submit(t, p, task)
		synctest.Wait()
		require.Equal(t, 1, p.Stats().Running)
		max = 2
		_, err := p.Submit(t.Context(), task)
		require.ErrorIs(t, err, taskpool.ErrFull)
		synctest.Wait()
		require.Equal(t, 2, p.Stats().Running)
		close(gate)
		pooltest.Drain(t, p)
	})
}

func TestCapacityOfAFlowBoundsItsTasksAlone(t *testing.T) {
	capacities := policies(map[string]taskpool.FlowPolicy{"A": {Capacity: 2}})
	gated := func(gate chan struct{}) taskpool.Task {
		return taskpool.Task{Flow: "A", Run: func(context.Context) error { <-gate; return nil }}
	}
	t.Run("reject", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(1000, taskpool.OverflowReject), capacities)
			gate := make(chan struct{})
			for range 4 { // with idle workers nobody is refused
				pooltest.Submit(t, p, gated(gate))
			}
			_, err := p.Submit(t.Context(), gated(gate))
			require.EqualError(t, err, `taskpool: queue of flow "A" is full`)
			require.ErrorIs(t, err, taskpool.ErrFull)
			pooltest.Submit(t, p, taskpool.Task{Flow: "B", Run: pooltest.Nop})
			require.NoError(t, p.Go(0, func() {}))
			require.Equal(t, uint64(1), p.Stats().Refused)
			close(gate)
			pooltest.Drain(t, p)
		})
	})
	t.Run("wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), capacities)
			gate := make(chan struct{})
			for range 3 {
				pooltest.Submit(t, p, gated(gate))
			}
			_, err := p.TrySubmit(t.Context(), gated(gate))
			require.EqualError(t, err, `taskpool: queue of flow "A" is full`)
			var waits []*pooltest.Submission
			for range 2 {
				waits = append(waits, pooltest.SubmitOrWait(t.Context(), p, gated(gate)))
			}
			synctest.Wait()
			require.Equal(t, 2, p.Stats().SubmittersWaiting)
			pooltest.Submit(t, p, taskpool.Task{Flow: "B", Run: pooltest.Nop}) // does not wait
			for _, w := range waits {
				pooltest.RequireWaiting(t, w)
				gate <- struct{}{}
				synctest.Wait()
				pooltest.RequireAccepted(t, w)
			}
			close(gate)
			pooltest.Drain(t, p)
		})
	})
	t.Run("shed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1000, taskpool.OverflowShed), capacities)
			release := pooltest.Block(t, p)
			other := pooltest.Submit(t, p, taskpool.Task{Flow: "B", Priority: 5, Run: pooltest.Nop})
			var low []*taskpool.Handle
			for range 2 {
				low = append(low, pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: pooltest.Nop}))
			}
			high := pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.High, Run: pooltest.Nop})
			require.ErrorIs(t, low[1].Err(), taskpool.ErrShed)
			_, err := p.Submit(t.Context(), taskpool.Task{Flow: "A", Priority: taskpool.Low, Run: pooltest.Nop})
			require.ErrorIs(t, err, taskpool.ErrFull)
			release()
			pooltest.Drain(t, p)
			for _, h := range []*taskpool.Handle{other, low[0], high} {
				require.NoError(t, h.Err())
			}
		})
	})
}

// The pool is full of tasks of one flow, all as urgent: another's take the place of its newest.
func TestPoolWithoutABoundRefusesWhatAFlowHasNoRoomFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(math.MaxInt, taskpool.OverflowReject),
			policies(map[string]taskpool.FlowPolicy{"A": {Capacity: 2}, "B": {Limit: 1}}))
		release := pooltest.Block(t, p)
		for _, flow := range []string{"A", "B", ""} {
			for i := range 5 {
				_, err := p.Submit(t.Context(), taskpool.Task{Flow: flow, Run: pooltest.Nop})
				require.Equal(t, flow == "A" && i >= 2, errors.Is(err, taskpool.ErrFull), "%q %d: %v", flow, i, err)
			}
		}
		release()
		pooltest.Drain(t, p)
	})
}

func TestEachFlowHeldBackHasTheRoomOfThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithCapacity(3, taskpool.OverflowReject), limit(1))
		gate := make(chan struct{})
		for _, flow := range []string{"A", "B", "C"} {
			pooltest.Submit(t, p, taskpool.Task{Flow: flow, Run: func(context.Context) error { <-gate; return nil }})
			synctest.Wait()
			for i := range 5 {
				_, err := p.Submit(t.Context(), taskpool.Task{Flow: flow, Run: pooltest.Nop})
				require.Equal(t, i >= 3, errors.Is(err, taskpool.ErrFull), "%q %d: %v", flow, i, err)
			}
		}
		s := p.Stats()
		require.Equal(t, 3, s.Capacity)
		require.Equal(t, 9, s.Queued)
		require.Equal(t, 9, s.HeldBack)
		close(gate)
		pooltest.Drain(t, p)
	})
}

func TestSheddingTakesFromTheLongestFlow(t *testing.T) {
	for _, newcomer := range []string{"B", ""} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(10, taskpool.OverflowShed))
			release := pooltest.Block(t, p)
			var flood []*taskpool.Handle
			for range 10 {
				flood = append(flood, pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: pooltest.Nop}))
			}
			for i := range 5 {
				pooltest.Submit(t, p, taskpool.Task{Flow: newcomer, Run: pooltest.Nop})
				require.ErrorIs(t, flood[9-i].Err(), taskpool.ErrShed)
			}
			_, err := p.Submit(t.Context(), taskpool.Task{Flow: newcomer, Run: pooltest.Nop})
			require.Equal(t, taskpool.ErrFull, err, "now they are as long")
			release()
			pooltest.Drain(t, p)
		})
	}
}

// At the door a full flow is in nobody's way either, and flows take turns there.
func TestSubmittersOfFlowsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		release := pooltest.Block(t, p)
		var s starts
		for range 20 {
			pooltest.SubmitOrWait(t.Context(), p, s.task("A", 0, 0))
		}
		synctest.Wait()
		for range 2 {
			pooltest.SubmitOrWait(t.Context(), p, s.task("B", 0, 0))
		}
		synctest.Wait()
		release()
		pooltest.Drain(t, p)
		synctest.Wait()
		require.Len(t, s.all, 22)
		require.Equal(t, 2, strings.Count(strings.Join(s.all[:5], ""), "B"), "%v", s.all)
	})
}

func TestShutdownFindsWhatIsHeldBack(t *testing.T) {
	t.Run("cut short", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2), limit(1))
			holds := pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: pooltest.UntilEnd})
			synctest.Wait()
			var held []*taskpool.Handle
			for range 5 {
				held = append(held, pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: pooltest.MustNotRun}))
			}
			err := p.Shutdown(pooltest.EndedContext())
			var cut *taskpool.ShutdownError
			require.ErrorAs(t, err, &cut)
			require.Len(t, cut.Unfinished, 6)
			for _, h := range append(held, holds) {
				require.ErrorIs(t, h.Err(), taskpool.ErrClosed)
			}
		})
	})
	t.Run("patient", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2), limit(1))
			var s starts
			for range 5 {
				pooltest.Submit(t, p, s.task("A", 0, time.Second))
			}
			require.NoError(t, p.Shutdown(pooltest.Patience(t)))
			require.Len(t, s.all, 5)
		})
	})
}

// Tasks that gave their place back, and whose contexts have ended, go on one after the other.
func TestTaskOnItsWayOutWaitsForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4), limit(1))
		ctx, cancel := context.WithCancel(context.Background())
		child := pooltest.Submit(t, p, taskpool.Task{Flow: "B", Run: pooltest.UntilEnd})
		var a active
		var all []*taskpool.Handle
		for range 3 {
			h, err := p.Submit(ctx, taskpool.Task{Flow: "A", Run: func(ctx context.Context) error {
				_ = child.Wait(ctx)
				a.enter(0)
				defer a.leave(0)
				time.Sleep(time.Second)
				return ctx.Err()
			}})
			require.NoError(t, err)
			all = append(all, h)
		}
		synctest.Wait()
		require.Equal(t, 3, p.Stats().Parked)
		cancel()
		began := time.Now()
		for _, h := range all {
			require.ErrorIs(t, h.Wait(pooltest.Patience(t)), context.Canceled)
		}
		require.Equal(t, int64(1), a.most[0].Load())
		require.Equal(t, 3*time.Second, time.Since(began))
		child.Cancel(pooltest.ErrCause)
		pooltest.Drain(t, p)
	})
}

// Also tasks without a flow, and functions, can have a policy, which New asks for.
func TestTasksWithoutAFlowCanHaveALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := []string{}
		p := pooltest.New(t, taskpool.WithWorkers(8), taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
			asked = append(asked, flow)
			return taskpool.FlowPolicy{Limit: 2}
		}), taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) {}, Finished: func(taskpool.TaskEvent) {}}))
		var a active
		work := func() { a.enter(0); time.Sleep(time.Second); a.leave(0) }
		for i := range 20 {
			if i%2 == 0 {
				require.NoError(t, p.Go(0, work))
			} else {
				pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { work(); return taskpool.Yield(ctx) }})
			}
		}
		require.NoError(t, p.Go(0, func() { // it becomes a task as it waits, and gives its place back
			a.enter(0)
			a.leave(0)
			_, _ = taskpool.Call(context.Background(), p, taskpool.Task{}, func(context.Context) (int, error) { work(); return 0, nil })
			a.enter(0)
			a.leave(0)
		}))
		pooltest.Drain(t, p)
		require.Equal(t, int64(2), a.most[0].Load())
		require.Equal(t, []string{""}, asked)
		require.Zero(t, p.Stats().HeldBack)
	})
}

// A function is not known as a task until it waits, and is lent to then.
func TestFunctionThatWaitsIsLentToByWhatItsLimitHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithReserved(1, taskpool.High), policies(map[string]taskpool.FlowPolicy{"": {Limit: 1}}))
		end := make(chan struct{})
		awaited := pooltest.Submit(t, p, taskpool.Task{Name: "awaited", Flow: "A", Run: func(context.Context) error { <-end; return nil }})
		wait := make(chan struct{})
		require.NoError(t, p.Go(taskpool.Low, func() { <-wait; _ = awaited.Wait(context.Background()) }))
		synctest.Wait()
		require.NoError(t, p.Go(taskpool.High, func() { <-end }))
		close(wait)
		synctest.Wait()
		urgency := map[string]taskpool.Priority{}
		for _, task := range p.Tasks() {
			urgency[task.State.String()+task.Name] = task.Urgency
		}
		require.Equal(t, map[string]taskpool.Priority{"runningawaited": taskpool.High, "parked": taskpool.High, "running": taskpool.High}, urgency)
		close(end)
		pooltest.Drain(t, p)
	})
}

func TestWrongPoliciesAreRefused(t *testing.T) {
	for _, test := range []struct {
		policy taskpool.FlowPolicy
		text   string
	}{
		{taskpool.FlowPolicy{Weight: -1}, `taskpool: WithFlows: policy("A").Weight must be 0 to 1024, got -1`},
		{taskpool.FlowPolicy{Weight: 1025}, `taskpool: WithFlows: policy("A").Weight must be 0 to 1024, got 1025`},
		{taskpool.FlowPolicy{Limit: -1}, `taskpool: WithFlows: policy("A").Limit must not be negative, got -1`},
		{taskpool.FlowPolicy{Capacity: math.MinInt}, fmt.Sprintf(`taskpool: WithFlows: policy("A").Capacity must not be negative, got %d`, math.MinInt)},
	} {
		p := pooltest.New(t, policies(map[string]taskpool.FlowPolicy{"A": test.policy}))
		_, err := p.Submit(t.Context(), taskpool.Task{Flow: "A", Run: pooltest.MustNotRun})
		require.EqualError(t, err, test.text)
		require.Empty(t, p.Flows(-1))

		_, err = taskpool.New(policies(map[string]taskpool.FlowPolicy{"": test.policy}))
		require.EqualError(t, err, strings.Replace(test.text, `"A"`, `""`, 1))
	}
	_, err := taskpool.New(taskpool.WithFlows(nil))
	require.EqualError(t, err, "taskpool: WithFlows: policy must not be nil, got nil")
	_, err = taskpool.New(taskpool.WithAging(time.Second), limit(1))
	require.ErrorContains(t, err, "WithAging(1s) and WithFlows exclude each other")
	p := pooltest.New(t, taskpool.WithAging(time.Second))
	_, err = p.Submit(t.Context(), taskpool.Task{Flow: "A", Run: pooltest.MustNotRun})
	require.EqualError(t, err, `taskpool: Task.Flow must be empty in a pool with WithAging, got "A"`)
}

// A policy is user code: what it does is its caller's.
func TestPolicyIsAskedWithoutALock(t *testing.T) {
	var p *taskpool.Pool
	p = pooltest.New(t, taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
		if flow == "" {
			return taskpool.FlowPolicy{}
		}
		if flow == "panics" {
			panic("policy")
		}
		require.True(t, pooltest.Answers(p))
		return taskpool.FlowPolicy{}
	}))
	pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: pooltest.Nop})
	require.PanicsWithValue(t, "policy", func() { _, _ = p.Submit(t.Context(), taskpool.Task{Flow: "panics", Run: pooltest.Nop}) })
	pooltest.Drain(t, p)
	require.Equal(t, uint64(1), p.Stats().Submitted)
}

func TestFlowsAreListedLongestFirst(t *testing.T) {
	for _, opts := range [][]taskpool.Option{nil, {taskpool.WithFlows(func(string) taskpool.FlowPolicy { return taskpool.FlowPolicy{Weight: 2} })}} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, append(opts, taskpool.WithWorkers(1))...)
			release := pooltest.Block(t, p)
			for i, flow := range []string{"few", "many", "", "some"} {
				for range []int{1, 9, 2, 5}[i] {
					pooltest.Submit(t, p, taskpool.Task{Flow: flow, Run: pooltest.Nop})
				}
				p.Flows(0) // waits count from here
				time.Sleep(time.Second)
			}
			want := []taskpool.FlowStats{{Flow: "many", Queued: 9, OldestWait: 3 * time.Second}, {Flow: "some", Queued: 5, OldestWait: time.Second},
				{Flow: "", Queued: 2, Running: 1, Places: len(opts), OldestWait: 2 * time.Second}, {Flow: "few", Queued: 1, OldestWait: 4 * time.Second}}
			require.Equal(t, want, p.Flows(-1))
			require.Equal(t, want[:2], p.Flows(2))
			require.Equal(t, want, p.Flows(100))
			require.Equal(t, []taskpool.PriorityStats{{Priority: taskpool.Medium, Queued: 17, OldestWait: 4 * time.Second}}, p.Stats().Waiting)
			release()
			pooltest.Drain(t, p)
			require.Empty(t, p.Flows(-1))
		})
	}
}

// What a flow at its limit waits for is to be seen, although none of its tasks has a slot.
func TestPlacesOfAFlowIncludeThoseOfItsTasksInBlock(t *testing.T) {
	for _, flow := range []string{"A", ""} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(4), policies(map[string]taskpool.FlowPolicy{flow: {Limit: 2}}))
			answer := make(chan struct{})
			for range 5 {
				pooltest.Submit(t, p, taskpool.Task{Flow: flow, Run: func(ctx context.Context) error {
					return taskpool.Block(ctx, func() error { <-answer; return nil })
				}})
			}
			synctest.Wait()
			require.Equal(t, []taskpool.FlowStats{{Flow: flow, Queued: 3, HeldBack: 3, Places: 2}}, p.Flows(-1))
			answer <- struct{}{}
			answer <- struct{}{}
			answer <- struct{}{}
			answer <- struct{}{}
			synctest.Wait()
			require.Equal(t, []taskpool.FlowStats{{Flow: flow, Places: 1}}, p.Flows(-1))
			wait := taskpool.Task{Flow: flow, Run: func(ctx context.Context) error { // it waits for the last one
				return p.Tasks(taskpool.StateParked)[0].Handle.Wait(ctx)
			}}
			pooltest.Submit(t, p, wait)
			synctest.Wait()
			require.Equal(t, []taskpool.FlowStats{{Flow: flow, Places: 1}}, p.Flows(-1), "who waits for a task has given its place back")
			close(answer)
			pooltest.Drain(t, p)
			require.Empty(t, p.Flows(-1))
		})
	}
}

// The time for which a limit holds a task back is no wait for a worker.
func TestOldestWaitIsWithoutTheTimeHeldBack(t *testing.T) {
	for _, hooks := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			opts := []taskpool.Option{taskpool.WithWorkers(1), limit(1)}
			if hooks {
				opts = append(opts, taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) {}}))
			}
			p := pooltest.New(t, opts...)
			gate := make(chan struct{})
			pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: func(context.Context) error { <-gate; return nil }})
			synctest.Wait()
			pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: pooltest.Nop})
			p.Stats()
			time.Sleep(time.Hour)
			require.Equal(t, []taskpool.PriorityStats{{Queued: 1}}, p.Stats().Waiting)
			require.Equal(t, time.Hour, p.Flows(1)[0].OldestWait)
			hold := make(chan struct{})
			require.NoError(t, p.Go(taskpool.High, func() { <-hold }))
			close(gate)
			synctest.Wait()
			p.Stats()
			time.Sleep(time.Minute)
			require.Equal(t, []taskpool.PriorityStats{{Queued: 1, OldestWait: time.Minute}}, p.Stats().Waiting)
			close(hold)
			pooltest.Drain(t, p)
		})
	}
}
