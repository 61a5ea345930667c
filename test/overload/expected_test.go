package overload_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// take returns a Run that takes d.
func take(d time.Duration) func(context.Context) error {
	return func(context.Context) error { time.Sleep(d); return nil }
}

// inBubble runs f in a bubble with a pool whose ExpectedWait was called once.
func inBubble(t *testing.T, f func(t *testing.T, p *taskpool.Pool), opts ...taskpool.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, opts...)
		require.Zero(t, p.ExpectedWait(taskpool.Medium, ""))
		f(t, p)
		pooltest.Drain(t, p)
	})
}

// Tasks come at random, more than the workers get done, or as many as before with 30 that wait at
// all times. Estimates are off by no more than 25 % and what four tasks take of one worker.
func TestExpectedWaitIsWhatTasksThenWait(t *testing.T) {
	const mean = 100 * time.Millisecond
	for _, workers := range []int{1, 4, 16} {
		for _, spread := range []float64{0, .9} {
			for _, functions := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d workers, spread %v, functions: %t", workers, spread, functions), func(t *testing.T) {
					inBubble(t, func(t *testing.T, p *taskpool.Pool) {
						random := rand.New(rand.NewPCG(1, 2))
						submitted := 0
						for time.Sleep(time.Second); submitted < 3000; submitted++ {
							run := time.Duration((1 - spread + 2*spread*random.Float64()) * float64(mean))
							began, estimate, late := time.Now(), p.ExpectedWait(taskpool.Medium, ""), submitted > 300
							f := func() {
								wait := time.Since(began)
								if diff := (wait - estimate).Abs(); late && diff > wait/4+4*mean/time.Duration(workers) {
									t.Errorf("waited %v, not %v", wait, estimate)
								}
								time.Sleep(run)
							}
							if functions {
								require.NoError(t, p.Go(taskpool.Medium, f))
							} else {
								pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { f(); return nil }})
							}
							if p.Stats().Queued > 30*workers { // no more than get done
								time.Sleep(mean / time.Duration(workers))
							} else {
								time.Sleep(time.Duration(random.ExpFloat64() * float64(mean) / float64(workers) / 1.5))
							}
						}
						require.NoError(t, p.WaitIdle(t.Context()))
					}, taskpool.WithWorkers(workers))
				})
			}
		}
	}
}

// queue submits n tasks that take a second each.
func queue(t *testing.T, p *taskpool.Pool, task taskpool.Task, n int) {
	t.Helper()
	task.Run = take(time.Second)
	for range n {
		pooltest.Submit(t, p, task)
	}
}

// steady has each worker of p work on tasks of a second until it knows that they take that.
func steady(t *testing.T, p *taskpool.Pool) {
	t.Helper()
	queue(t, p, taskpool.Task{}, p.Stats().Workers*1000)
	require.NoError(t, p.WaitIdle(t.Context()))
}

func requireWait(t *testing.T, p *taskpool.Pool, want time.Duration, pr taskpool.Priority, flow string) {
	t.Helper()
	synctest.Wait()
	require.InDelta(t, want.Seconds(), p.ExpectedWait(pr, flow).Seconds(), .02*want.Seconds())
}

func TestExpectedWaitIsZeroWhileASlotIsFree(t *testing.T) {
	inBubble(t, func(t *testing.T, p *taskpool.Pool) {
		steady(t, p)
		queue(t, p, taskpool.Task{}, 1)
		requireWait(t, p, 0, taskpool.Low, "")
		queue(t, p, taskpool.Task{}, 1)
		requireWait(t, p, time.Second/2, taskpool.Low, "")
	}, taskpool.WithWorkers(2))
}

func TestExpectedWaitCountsWhatGoesBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, p *taskpool.Pool) {
		steady(t, p)
		queue(t, p, taskpool.Task{Priority: taskpool.High}, 1+30)
		queue(t, p, taskpool.Task{Priority: taskpool.Low}, 100)
		requireWait(t, p, (30+2+1)*time.Second, taskpool.High, "") // and one in 16 is Low
		requireWait(t, p, (30+2+1)*time.Second, taskpool.Medium, "")
		requireWait(t, p, (30+100+1)*time.Second, taskpool.Low, "")
		requireWait(t, p, (30+100+1)*time.Second, 7, "")
	}, taskpool.WithWorkers(1))
	inBubble(t, func(t *testing.T, p *taskpool.Pool) {
		steady(t, p)
		queue(t, p, taskpool.Task{Priority: taskpool.High}, 1+30)
		queue(t, p, taskpool.Task{Priority: taskpool.Low}, 100)
		requireWait(t, p, (30+1)*time.Second, taskpool.High, "")
	}, taskpool.WithWorkers(1), taskpool.WithFairShare(0))
	inBubble(t, func(t *testing.T, p *taskpool.Pool) {
		steady(t, p)
		queue(t, p, taskpool.Task{Priority: taskpool.Low}, 1+30)
		requireWait(t, p, (30+1)*time.Second, taskpool.High, "")
	}, taskpool.WithWorkers(1), taskpool.WithFairShare(1))
}

func TestExpectedWaitCountsSubmittersAndReservedSlots(t *testing.T) {
	inBubble(t, func(t *testing.T, p *taskpool.Pool) {
		steady(t, p)
		queue(t, p, taskpool.Task{}, 2+1) // one slot is kept for High
		requireWait(t, p, 0, taskpool.High, "")
		requireWait(t, p, time.Second, taskpool.Medium, "")
		queue(t, p, taskpool.Task{}, 9)
		for range 4 {
			go func() { _, _ = p.Submit(context.Background(), taskpool.Task{Run: take(time.Second)}) }()
		}
		requireWait(t, p, (10+4+1)*time.Second/2, taskpool.Medium, "")
	}, taskpool.WithWorkers(3), taskpool.WithReserved(1, taskpool.High), taskpool.WithCapacity(10, taskpool.OverflowWait))
}

func TestExpectedWaitKnowsThatFlowsTakeTurns(t *testing.T) {
	weights := taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
		switch flow {
		case "heavy":
			return taskpool.FlowPolicy{Weight: 3}
		case "one at a time":
			return taskpool.FlowPolicy{Limit: 1}
		}
		return taskpool.FlowPolicy{}
	})
	inBubble(t, func(t *testing.T, p *taskpool.Pool) {
		steady(t, p)
		queue(t, p, taskpool.Task{}, 1+1000)
		requireWait(t, p, 2*time.Second, taskpool.Medium, "new")
		requireWait(t, p, 1001*time.Second, taskpool.Medium, "")
		queue(t, p, taskpool.Task{Flow: "heavy"}, 100)
		requireWait(t, p, (1+3+1)*time.Second, taskpool.Medium, "new")
		queue(t, p, taskpool.Task{Flow: "light"}, 9)
		requireWait(t, p, (9+10+30+1)*time.Second, taskpool.Medium, "light")
		requireWait(t, p, (100+9+33+1)*time.Second, taskpool.Medium, "heavy")
	}, taskpool.WithWorkers(1), weights)
	inBubble(t, func(t *testing.T, p *taskpool.Pool) {
		steady(t, p)
		queue(t, p, taskpool.Task{Flow: "one at a time"}, 1+10)
		requireWait(t, p, 0, taskpool.Medium, "")
		requireWait(t, p, 11*time.Second, taskpool.Medium, "one at a time")
		queue(t, p, taskpool.Task{}, 7+8)
		requireWait(t, p, 9*time.Second/8, taskpool.Medium, "")
	}, taskpool.WithWorkers(8), weights)
}

func TestExpectedWaitDoesNotCountTheTimeParked(t *testing.T) {
	inBubble(t, func(t *testing.T, p *taskpool.Pool) {
		run := func(ctx context.Context) error {
			time.Sleep(time.Second)
			return taskpool.Block(ctx, func() error { time.Sleep(time.Minute); return nil })
		}
		for range 1000 {
			pooltest.Submit(t, p, taskpool.Task{Run: run})
		}
		time.Sleep(500*time.Second + time.Millisecond)
		requireWait(t, p, 500*time.Second, taskpool.Medium, "")
	}, taskpool.WithWorkers(1))
}

func TestFirstExpectedWaitGoesByWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		queue(t, p, taskpool.Task{}, 5)
		time.Sleep(time.Second / 2)
		requireWait(t, p, 5*time.Second, taskpool.Medium, "")
		pooltest.Drain(t, p)
	})
}
