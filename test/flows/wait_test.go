package flows_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// A task gives its place back also in a wait inside Block, and in Shutdown of another pool: else
// tasks of one flow that wait for each other would stand still.
func TestWaitInBlockGivesThePlaceBack(t *testing.T) {
	one := func(context.Context) (int, error) { return 1, nil }
	for name, wait := range map[string]func(ctx context.Context, p *taskpool.Pool) error{
		"call": func(ctx context.Context, p *taskpool.Pool) error {
			return taskpool.Block(ctx, func() error { _, err := taskpool.Call(ctx, p, taskpool.Task{Flow: "f"}, one); return err })
		},
		"group": func(ctx context.Context, p *taskpool.Pool) error {
			g := p.Group(ctx, taskpool.Task{Flow: "f"})
			g.Go(func(context.Context) error { return nil })
			return taskpool.Block(ctx, g.Wait)
		},
		"no Block": func(ctx context.Context, p *taskpool.Pool) error {
			_, err := taskpool.Call(ctx, p, taskpool.Task{Flow: "f"}, one)
			return err
		},
		"goroutine in Block": func(ctx context.Context, p *taskpool.Pool) error {
			return taskpool.Block(ctx, func() error {
				done := make(chan error)
				go func() { _, err := taskpool.Call(ctx, p, taskpool.Task{Flow: "f"}, one); done <- err }()
				return <-done
			})
		},
	} {
		for _, lim := range []int{0, 1} {
			t.Run(fmt.Sprint(name, lim), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(4), limit(lim))
					outer, cancelOuter := context.WithCancel(context.Background())
					h, err := p.Submit(outer, taskpool.Task{Flow: "f", Run: func(ctx context.Context) error { return wait(ctx, p) }})
					require.NoError(t, err)
					ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
					defer cancel()
					err = h.Wait(ctx)
					cancelOuter()
					require.NoError(t, err)
				})
			})
		}
	}
}

func TestShutdownOfAnotherPoolGivesThePlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := pooltest.New(t, taskpool.WithWorkers(4), limit(1), taskpool.WithName("a"))
		b := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithName("b"))
		begun := make(chan struct{})
		_, err := b.Submit(context.Background(), taskpool.Task{Run: func(ctx context.Context) error {
			close(begun)
			time.Sleep(time.Second)
			_, err := taskpool.Call(ctx, a, taskpool.Task{Flow: "f"}, func(context.Context) (int, error) { return 1, nil })
			return err
		}})
		require.NoError(t, err)
		<-begun
		p, err := a.Submit(context.Background(), taskpool.Task{Flow: "f", Run: func(ctx context.Context) error { return b.Shutdown(context.Background()) }})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
		defer cancel()
		err = p.Wait(ctx)
		if err != nil {
			go func() { c, cancel := context.WithCancel(context.Background()); cancel(); _ = b.Shutdown(c) }()
		}
		require.NoError(t, err)
	})
}

func TestSlotsPromisedToOthersAreNoRoomInAFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(8), taskpool.WithCapacity(1000, taskpool.OverflowReject), taskpool.WithFlows(func(f string) taskpool.FlowPolicy {
			if f == "B" {
				return taskpool.FlowPolicy{Capacity: 1}
			}
			return taskpool.FlowPolicy{}
		}))
		gate := make(chan struct{})
		hold := func(context.Context) error { <-gate; return nil }
		for range 8 {
			pooltest.Submit(t, p, taskpool.Task{Flow: "A", Priority: taskpool.High, Run: hold})
		}
		n := 0
		for range 20 {
			if _, err := p.TrySubmit(context.Background(), taskpool.Task{Flow: "B", Run: hold}); err == nil {
				n++
			}
		}
		synctest.Wait()
		require.Equal(t, 1, n)
		q := 0
		for _, f := range p.Flows(-1) {
			if f.Flow == "B" {
				q = f.Queued
			}
		}
		close(gate)
		pooltest.Drain(t, p)
		require.LessOrEqual(t, q, 1)
	})
}

// Also of a task that goes by the priority that it was lent, as its flow was just let go.
func TestStartsAreCountedByTheTasksOwnPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lim atomic.Int64
		lim.Store(1)
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithFlows(func(f string) taskpool.FlowPolicy {
			if f == "f" {
				return taskpool.FlowPolicy{Limit: int(lim.Load())}
			}
			return taskpool.FlowPolicy{}
		}))
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Flow: "f", Priority: taskpool.Low, Run: func(context.Context) error { <-gate; return nil }})
		for range 3 { // so that there are workers that have nothing to do
			pooltest.Submit(t, p, taskpool.Task{Priority: 7, Run: func(context.Context) error { time.Sleep(time.Second); return nil }})
		}
		time.Sleep(2 * time.Second)
		x := pooltest.Submit(t, p, taskpool.Task{Flow: "f", Priority: taskpool.Low, Run: pooltest.Nop})
		pooltest.Submit(t, p, taskpool.Task{Flow: "g", Priority: taskpool.High, Run: func(ctx context.Context) error { return x.Wait(ctx) }})
		synctest.Wait()
		lim.Store(2)
		_, err := p.Submit(context.Background(), taskpool.Task{Flow: "f", Priority: 5, Run: pooltest.Nop})
		require.NoError(t, err)
		synctest.Wait()
		close(gate)
		pooltest.Drain(t, p)
		require.Equal(t, map[taskpool.Priority]uint64{taskpool.High: 1, taskpool.Low: 2, 5: 1, 7: 3}, pooltest.Started(p.Stats()))
	})
}

func TestOldestWaitCountsFromWhenStatsSawTheFlowLetGo(t *testing.T) {
	for _, hooks := range []bool{false, true} {
		t.Run(fmt.Sprint("hooks ", hooks), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []taskpool.Option{taskpool.WithWorkers(1), limit(1)}
				if hooks {
					opts = append(opts, taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) {}}))
				}
				p := pooltest.New(t, opts...)
				for _, task := range []taskpool.Task{{Flow: "f"}, {Flow: "g", Priority: taskpool.High}, {Flow: "f", Priority: taskpool.Low}} {
					task.Run = func(context.Context) error { time.Sleep(100 * time.Second); return nil }
					pooltest.Submit(t, p, task)
					synctest.Wait()
				}
				time.Sleep(time.Second)
				before := p.Stats()
				time.Sleep(100 * time.Second) // f's first ended 1 s ago
				after := p.Stats()
				pooltest.Drain(t, p)
				require.Equal(t, 1, before.HeldBack)
				require.LessOrEqual(t, after.Waiting[len(after.Waiting)-1].OldestWait, 2*time.Second)
			})
		})
	}
}

// The worker of a task whose end lets another of its flow start takes that one, and a task that
// has waited for it goes on in the slot that was free until then. So no worker is needed for what
// arrives next, though one was kept ready before.
func TestEndThatFreesAPlaceAndEndsAWaitTakesTheLastSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), limit(1))
		ctx := context.Background()
		gate := make(chan struct{})
		first, err := p.Submit(ctx, taskpool.Task{Flow: "f", Priority: taskpool.High, Run: func(context.Context) error {
			<-gate
			return nil
		}})
		require.NoError(t, err)
		waiter, err := p.Submit(ctx, taskpool.Task{Flow: "g", Priority: taskpool.Low, Run: func(ctx context.Context) error {
			err := first.Wait(ctx)
			time.Sleep(2 * time.Second)
			return err
		}})
		require.NoError(t, err)
		second, err := p.Submit(ctx, taskpool.Task{Flow: "f", Priority: taskpool.High, Run: func(context.Context) error {
			time.Sleep(time.Second)
			return nil
		}})
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 1, p.Stats().HeldBack)
		close(gate)
		synctest.Wait()
		require.Equal(t, taskpool.StateRunning, second.State())
		require.Equal(t, taskpool.StateRunning, waiter.State())
		third, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		require.NoError(t, third.Wait(ctx))
		require.NoError(t, waiter.Wait(ctx))
	})
}

// A submitter that a reserved slot is free for is let in at once, though a less urgent one of its
// flow, for which there is none, waits for room and their flow is held back.
func TestReservedSlotIsRoomInAFlowThatIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithReserved(2, taskpool.High), taskpool.WithCapacity(1, taskpool.OverflowWait), limit(1))
		ctx := context.Background()
		gate := make(chan struct{})
		wait := func(context.Context) error { <-gate; return nil }
		for _, flow := range []string{"g", "h"} { // at work, and waiting
			_, err := p.Submit(ctx, taskpool.Task{Flow: flow, Priority: taskpool.Low, Run: wait})
			require.NoError(t, err)
			synctest.Wait()
		}
		low := make(chan error)
		go func() {
			_, err := p.Submit(ctx, taskpool.Task{Flow: "f", Priority: taskpool.Low, Run: wait})
			low <- err
		}()
		synctest.Wait()
		require.Equal(t, 1, p.Stats().SubmittersWaiting)
		_, err := p.Submit(ctx, taskpool.Task{Flow: "f", Priority: taskpool.High, Run: wait}) // has the only place of f
		require.NoError(t, err)
		synctest.Wait()
		_, err = p.TrySubmit(ctx, taskpool.Task{Flow: "f", Priority: taskpool.High, Run: wait})
		require.NoError(t, err)
		require.Equal(t, 1, p.Stats().HeldBack)
		close(gate)
		require.NoError(t, <-low)
	})
}
