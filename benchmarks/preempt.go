package main

import (
	"context"
	"runtime"
	"time"

	"github.com/taskpool-go/taskpool"
)

// preemptScenarios measures what it costs to give the slot back in the middle of
// a task.
//
// There and back, on one worker: a Low task submits a High one, yields to it, and
// goes on when that has run. The reference is a goroutine that sends to another
// on an unbuffered channel and waits for the answer: two switches of goroutines as well, but
// nothing is queued or decided.
//
// Nothing to yield to: Yield is called when no other task waits. The reference is
// what a task without a pool does to learn whether it should stop, a look at
// its context's channel. Gosched is how goroutines give way otherwise.
func preemptScenarios() []scenario {
	const group = "Giving the slot back, one worker"
	return []scenario{{
		group:   group,
		name:    "Yield to a High task, there and back",
		metrics: []metric{{"time", "ns"}},
		contestants: []contestant{
			{"taskpool", ours, times(100_000, yieldAndBack)},
			{"channel", channel, times(100_000, pingPong)},
		},
	}, {
		group:   group,
		name:    "Yield with nothing to yield to",
		metrics: []metric{{"time", "ns"}},
		contestants: []contestant{
			{"taskpool", ours, times(10_000_000, yieldToNothing)},
			{"channel", channel, times(10_000_000, lookAtContext)},
			{"runtime.Gosched", other, times(1_000_000, gosched)},
		},
	}}
}

// times returns a round that does measure n times, which returns how long it
// took. The round's value is the nanoseconds of one.
func times(n int, measure func(n int) time.Duration) func(short bool) []float64 {
	return func(short bool) []float64 {
		some := n
		if short {
			some = max(n/1000, 100)
		}
		return []float64{float64(measure(some).Nanoseconds()) / float64(some)}
	}
}

func yieldAndBack(n int) time.Duration {
	p := newTaskpool(1).p
	done := 0 // by the only worker
	took := inTask(p, func(ctx context.Context) {
		for range n {
			must(p.Go(taskpool.High, func() { done++ }))
			must(taskpool.Yield(ctx))
		}
	})
	if done != n {
		panic("Yield did not give way")
	}
	return took
}

func yieldToNothing(n int) time.Duration {
	return inTask(newTaskpool(1).p, func(ctx context.Context) {
		for range n {
			must(taskpool.Yield(ctx))
		}
	})
}

// inTask has p run f in a Low task, ends p and returns how long f took.
func inTask(p *taskpool.Pool, f func(ctx context.Context)) (took time.Duration) {
	h, err := p.Submit(context.Background(), taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
		start := time.Now()
		f(ctx)
		took = time.Since(start)
		return nil
	}})
	must(err)
	must(h.Wait(context.Background()))
	must(p.Shutdown(context.Background()))
	return took
}

func pingPong(n int) time.Duration {
	there, back := make(chan struct{}), make(chan struct{})
	go func() {
		for range there {
			back <- struct{}{}
		}
	}()
	start := time.Now()
	for range n {
		there <- struct{}{}
		<-back
	}
	close(there)
	return time.Since(start)
}

func lookAtContext(n int) time.Duration {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	start := time.Now()
	for range n {
		select {
		case <-ctx.Done():
			panic("the context has ended")
		default:
		}
	}
	return time.Since(start)
}

func gosched(n int) time.Duration {
	start := time.Now()
	for range n {
		runtime.Gosched()
	}
	return time.Since(start)
}
