package main

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	stallWorkers = 64
	stallSubmits = 20_000
)

// stallScenarios measures the longest that a single submit takes while tasks
// compute on all cores, on 64 workers, without a pause. None of the submitted tasks
// can run meanwhile, so only pools that take any number of tasks can take
// part: ants would make the caller wait for a worker or, if told not to, refuse; a
// channel with room for 1024 would make it wait for ever.
//
// Go's scheduler takes the processor away from the submitting goroutine when its
// 10 ms are over, and gives it back when the others have had theirs. That is
// in every contestant's time. Each starts with a fresh turn.
func stallScenarios() []scenario {
	return []scenario{{
		group:   "Submits while 64 tasks compute on all cores",
		name:    "20,000 submits",
		metrics: []metric{{"worst submit", "ms"}, {"p99.9", "µs"}, {"all submits", "ms"}},
		contestants: contest(unbounded(stallWorkers+stallSubmits),
			func(e entrant, short bool) []float64 {
				if short {
					return submitTimes(e, 2, 1000)
				}
				return submitTimes(e, stallWorkers, stallSubmits)
			}),
	}}
}

// submitTimes keeps all workers computing while it submits.
func submitTimes(e entrant, workers, submits int) []float64 {
	p := e.start(workers)
	defer p.close()
	var stop atomic.Bool
	defer stop.Store(true)
	var started sync.WaitGroup
	started.Add(workers)
	busy := newJob(func() {
		started.Done()
		for !stop.Load() {
			continue
		}
	})
	for range workers {
		p.submit(int(taskpool.Medium), busy)
	}
	started.Wait()

	times := make([]float64, submits)
	empty := newJob(func() {})
	runtime.Gosched() // the next turn begins
	start := time.Now()
	before := start
	for i := range times {
		p.submit(int(taskpool.Medium), empty)
		now := time.Now()
		times[i] = microseconds(now.Sub(before))
		before = now
	}
	return []float64{slices.Max(times) / 1000, quantile(times, 0.999), microseconds(time.Since(start)) / 1000}
}
