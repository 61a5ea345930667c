//go:build !race && !invariants

// The race detector and looks at the invariants change what is allocated.

package lifecycle_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// allocsPerTask returns the mean number of allocations from a task's submission
// to its end. testing.AllocsPerRun rounds down, so a run is many tasks.
func allocsPerTask(task func()) float64 {
	const tasks = 1000
	return testing.AllocsPerRun(20, func() {
		for range tasks {
			task()
		}
	}) / tasks
}

// warm has every worker and the supervisor take a turn, since each allocates
// when its goroutine starts, and that may be long after New.
func warm(t *testing.T, p *taskpool.Pool) {
	t.Helper()
	var busy sync.WaitGroup
	gate := make(chan struct{})
	for range p.Stats().Goroutines {
		busy.Add(1)
		require.NoError(t, p.Go(taskpool.High, func() { busy.Done(); <-gate }))
	}
	busy.Wait()
	close(gate)
	h := pooltest.Submit(t, p, taskpool.Task{
		NotBefore: time.Now().Add(time.Millisecond),
		Run:       func(context.Context) error { return nil },
	})
	require.NoError(t, h.Wait(context.Background()))
	require.NoError(t, p.WaitIdle(context.Background()))
}

func TestGoDoesNotAllocate(t *testing.T) {
	done := make(chan struct{}, 1)
	f := func() { done <- struct{}{} }
	for _, test := range []struct {
		name string
		opts []taskpool.Option
	}{
		{"one worker", []taskpool.Option{taskpool.WithWorkers(1)}},
		{"many workers", []taskpool.Option{taskpool.WithWorkers(64)}},
		{"strict order", []taskpool.Option{taskpool.WithFairShare(0)}},
		{"aging", []taskpool.Option{taskpool.WithAging(time.Second)}},
		{"bounded queue", []taskpool.Option{taskpool.WithCapacity(10, taskpool.OverflowShed)}},
		{"hooks that see a sample", []taskpool.Option{taskpool.WithHooks(taskpool.Hooks{GoEvery: 1 << 30,
			Started: func(taskpool.TaskEvent) {}, Finished: func(taskpool.TaskEvent) {}})}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := pooltest.New(t, test.opts...)
			warm(t, p)
			var pr taskpool.Priority
			failed := 0
			require.Zero(t, allocsPerTask(func() {
				if pr++; pr > taskpool.Low {
					pr = taskpool.High
				}
				if p.Go(pr, f) != nil {
					failed++
					return
				}
				<-done
			}))
			require.Zero(t, failed)
		})
	}
}

func TestGoDoesNotAllocateBehindABacklog(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	warm(t, p)
	release := pooltest.Block(t, p)
	defer release()
	for range 100_000 {
		require.NoError(t, p.Go(taskpool.Low, func() {}))
	}
	// The queue grows by whole segments, of dozens of tasks each.
	failed := 0
	require.Less(t, allocsPerTask(func() {
		if p.Go(taskpool.Low, func() {}) != nil {
			failed++
		}
	}), 1.0/64)
	require.Zero(t, failed)
}

func TestSubmitAllocations(t *testing.T) {
	type key struct{}
	cancelable, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{}, 1)
	run := func(context.Context) error { done <- struct{}{}; return nil }
	for _, test := range []struct {
		name string
		ctx  context.Context
		task taskpool.Task
		wait bool
	}{
		{"background", context.Background(), taskpool.Task{Run: run}, false},
		{"and wait", context.Background(), taskpool.Task{Run: run}, true},
		{"with a name, a priority and a retry policy", context.Background(),
			taskpool.Task{Name: "x", Priority: 7, Retry: taskpool.Retry{MaxAttempts: 2}, Run: run}, true},
		{"with a flow", context.Background(), taskpool.Task{Flow: "a", Run: run}, false},
		{"with a flow, and wait", context.Background(), taskpool.Task{Flow: "a", Priority: 7, Run: run}, true},
		{"values only", context.WithValue(context.Background(), key{}, 1), taskpool.Task{Run: run}, true},
		{"without cancel", context.WithoutCancel(cancelable), taskpool.Task{Run: run}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2))
			warm(t, p)
			failed := 0
			most := 3.0
			if !test.wait {
				most = 1 // the handle
			}
			require.LessOrEqual(t, allocsPerTask(func() {
				h, err := p.Submit(test.ctx, test.task)
				if err != nil {
					failed++
					return
				}
				<-done
				if test.wait && h.Wait(context.Background()) != nil {
					failed++
				}
			}), most)
			require.Zero(t, failed)
		})
	}
}

func TestWaitingGoTaskTakesAtMost32BytesAndGivesThemBack(t *testing.T) {
	tasks := 1_000_000
	if testing.Short() {
		tasks /= 10
	}
	for _, priorities := range []int{1, 3, 1000} {
		t.Run(fmt.Sprintf("%d priorities", priorities), func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			warm(t, p)
			release := pooltest.Block(t, p)
			f := func() {}
			before := int64(pooltest.LiveHeap())
			for i := range tasks {
				require.NoError(t, p.Go(taskpool.Priority(i%priorities), f))
			}
			full := int64(pooltest.LiveHeap()) - before
			release()
			require.NoError(t, p.WaitIdle(context.Background()))
			left := int64(pooltest.LiveHeap()) - before
			t.Logf("%.1f bytes a task, %d left", float64(full)/float64(tasks), left)
			require.LessOrEqual(t, float64(full)/float64(tasks), 32.0)
			require.LessOrEqual(t, left, int64(800_000), "of %d", full) // empty lanes and segments that are kept, and totals by priority
			runtime.KeepAlive(p)
		})
	}
}

func TestYieldWithNothingToYieldToDoesNotAllocate(t *testing.T) {
	type key struct{}
	for name, derive := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"own": func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} },
		"values": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithValue(ctx, key{}, 1), func() {}
		},
		"cancel": context.WithCancel,
	} {
		for waits, pr := range map[string]taskpool.Priority{"nothing waits": 0, "less urgent waits": 1, "an equal waits, within the quantum": 0} {
			t.Run(name+", "+waits, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithQuantum(time.Hour))
				begin := make(chan struct{})
				var yield, beat float64
				h := pooltest.Submit(t, p, taskpool.Task{Heartbeat: time.Hour, Run: func(ctx context.Context) error {
					<-begin
					ctx, cancel := derive(ctx)
					defer cancel()
					failed := 0
					yield = allocsPerTask(func() {
						if taskpool.Yield(ctx) != nil {
							failed++
						}
					})
					beat = allocsPerTask(func() { taskpool.Beat(ctx) })
					if failed > 0 {
						return context.Cause(ctx)
					}
					return nil
				}})
				if waits != "nothing waits" {
					require.NoError(t, p.Go(pr, func() {}))
				}
				close(begin)
				require.NoError(t, h.Wait(context.Background()))
				require.Zero(t, yield)
				require.Zero(t, beat)
			})
		}
	}
}
