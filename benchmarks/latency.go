package main

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	latencyGroup    = "Wait of High tasks behind Low tasks"
	openLoadGroup   = "Wait of High tasks, 30 % High, Poisson arrivals, 16 workers"
	overloadName    = "120 % load"
	latencyBacklog  = 100_000
	lowTask         = 200 * time.Microsecond // of computing
	sleepTask       = time.Millisecond
	openLoadWorkers = 16
	openLoadHigh    = 0.3 // share of the tasks
	openLoadTime    = 3 * time.Second
	openLoadRoom    = 100_000 // more than can arrive
)

// strictEntrant is the pool without its fair share.
func strictEntrant() entrant {
	return taskpoolEntrant("taskpool, strict", other, taskpool.WithFairShare(0))
}

// apartEntrant is what is often done instead of priorities: two pools side by
// side, here on a channel each. High tasks have their share of the workers.
func apartEntrant(name string, share float64, room int) entrant {
	return entrant{name, other, func(workers int) pool {
		high := max(int(share*float64(workers)+0.5), 1)
		return apartPool{newRoomyChannel(high, room), newRoomyChannel(max(workers-high, 1), room)}
	}}
}

type apartPool struct{ high, less *channelPool }

func (p apartPool) submit(priority int, j *job) {
	if priority <= int(taskpool.High) {
		p.high.submit(priority, j)
	} else {
		p.less.submit(priority, j)
	}
}

func (p apartPool) close() {
	p.high.close()
	p.less.close()
}

// latencyScenarios measures how long a High task waits from the call that
// submits it to its first instruction.
//
//   - Behind a backlog: Low tasks compute, on all processors but one, which
//     submits; otherwise Go's scheduler would be measured. High tasks come one at a
//     time, after a random pause, while at least half of the backlog waits. So a
//     pool that is first in, first out yields one wait in a round, that for the
//     whole backlog, and the channel stands for all of these: the order decides,
//     not who keeps it.
//   - Open load: tasks arrive on a schedule that does not depend on what the pool
//     does. They sleep, so that 16 workers can be busy on two cores. Load is
//     relative to what 16 goroutines on a channel do at most, which is measured
//     first, as a sleep of 1 ms takes longer than that. Of two pools side by side,
//     High tasks get half of the workers, which is enough for them at both loads,
//     or 5 of 16, in proportion to the arrivals. What the split costs can be seen
//     from the time at which all tasks are done.
func latencyScenarios() []scenario {
	backlog := scenario{
		group:   latencyGroup,
		name:    "behind 100,000 tasks of 200 µs",
		metrics: []metric{{"p50", "µs"}, {"p99", "µs"}, {"p99.9", "µs"}, {"p99 in Low tasks", "units of 200 µs"}},
		contestants: contest([]entrant{
			taskpoolEntrant("taskpool", ours),
			strictEntrant(),
			roomyChannel(latencyBacklog + 1),
			{"heap+cond", peer, newHeapPool},
		},
			func(e entrant, short bool) []float64 {
				low, high, length := latencyBacklog, 2_000, lowTask
				if short {
					low, high, length = 100, 5, lowTask/10
				}
				waits := waitsBehind(e, low, high, length)
				p99 := quantile(waits, 0.99)
				return []float64{quantile(waits, 0.5), p99, quantile(waits, 0.999), p99 / (lowTask.Seconds() * 1e6)}
			}),
	}
	all := []scenario{backlog}
	for _, load := range []struct {
		name  string
		share float64
	}{{"80 % load", 0.8}, {overloadName, 1.2}} {
		all = append(all, scenario{
			group:   openLoadGroup,
			name:    load.name,
			metrics: []metric{{"p50", "µs"}, {"p99", "µs"}, {"p99.9", "µs"}, {"p99 in the last quarter", "µs"}, {"all done after", "s"}},
			contestants: contest([]entrant{
				taskpoolEntrant("taskpool", ours),
				strictEntrant(),
				roomyChannel(openLoadRoom),
				{"pond", peer, newPond},
				{"workerpool", peer, newWorkerpool},
				apartEntrant("two pools 8+8", 0.5, openLoadRoom),
				apartEntrant("two pools 5+11", openLoadHigh, openLoadRoom),
			},
				func(e entrant, short bool) []float64 {
					length := openLoadTime
					if short {
						length = 20 * time.Millisecond
					}
					schedule := poisson(load.share*capacity(short), length, openLoadHigh)
					waits, took := serve(e, schedule)
					return []float64{quantile(waits, 0.5), quantile(waits, 0.99), quantile(waits, 0.999),
						quantile(waits[len(waits)*3/4:], 0.99), took.Seconds()}
				}),
		})
	}
	return all
}

// compute computes for as long as d.
func compute(d time.Duration) {
	for start := time.Now(); time.Since(start) < d; {
		continue
	}
}

// waitsBehind submits low tasks that compute for d each, then at most high High
// ones, and returns the waits of these in microseconds.
func waitsBehind(e entrant, low, high int, d time.Duration) (waits []float64) {
	p := e.start(max(runtime.GOMAXPROCS(0)-1, 1))
	defer p.close()
	var left atomic.Int64 // Low tasks that wait
	left.Store(int64(low))
	var enough atomic.Bool
	task := newJob(func() {
		left.Add(-1)
		if !enough.Load() {
			compute(d)
		}
	})
	for range low {
		p.submit(int(taskpool.Low), task)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for len(waits) == 0 || len(waits) < high && left.Load() >= int64(low/2) {
		time.Sleep(time.Duration(random.Int64N(int64(5 * d)))) // not in step with the Low tasks
		wait := make(chan time.Duration, 1)
		submitted := time.Now()
		p.submit(int(taskpool.High), newJob(func() { wait <- time.Since(submitted) }))
		waits = append(waits, microseconds(<-wait))
	}
	enough.Store(true)
	return waits
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// An arrival is a task of an open load.
type arrival struct {
	at       time.Duration // after the first moment of the load
	priority taskpool.Priority
}

// poisson returns a schedule in which rate tasks a second arrive at random times,
// each of them High with probability high, else Low. It is the same at each call.
func poisson(rate float64, length time.Duration, high float64) (schedule []arrival) {
	random := rand.New(rand.NewPCG(3, 4))
	for at := 0.0; ; {
		at += random.ExpFloat64() / rate
		a := arrival{at: time.Duration(at * float64(time.Second)), priority: taskpool.Low}
		if a.at >= length {
			return schedule
		}
		if random.Float64() < high {
			a.priority = taskpool.High
		}
		schedule = append(schedule, a)
	}
}

// capacity returns how many tasks a second openLoadWorkers goroutines on a
// channel can do. It is measured once in a process, so that all contestants of a
// scenario have the same load.
func capacity(short bool) float64 {
	measureCapacity.Do(func() {
		length := time.Second
		if short {
			length = 20 * time.Millisecond
		}
		p := newChannelPool(openLoadWorkers, plain)
		task := newJob(func() { time.Sleep(sleepTask) })
		tasks := 0
		start := time.Now()
		for ; time.Since(start) < length; tasks++ {
			p.submit(int(taskpool.Medium), task)
		}
		p.close()
		measuredCapacity = float64(tasks) / time.Since(start).Seconds()
	})
	return measuredCapacity
}

var (
	measureCapacity  sync.Once
	measuredCapacity float64
)

// serve submits tasks by the schedule and waits for all of them. It returns the
// waits of the High ones in microseconds, in order of arrival, and the time from
// the beginning of the schedule until the last task was done.
//
// A generator that is late catches up, as times are absolute. A wait begins when
// the task is submitted, not when it should have been: how exactly the generator
// sleeps is not the pool's doing.
func serve(e entrant, schedule []arrival) (waits []float64, took time.Duration) {
	p := e.start(openLoadWorkers)
	all := make([]time.Duration, len(schedule))
	start := time.Now()
	for i, a := range schedule {
		if early := a.at - time.Since(start); early > 0 {
			time.Sleep(early)
		}
		submitted := time.Now()
		p.submit(int(a.priority), &job{run: func() {
			all[i] = time.Since(submitted)
			time.Sleep(sleepTask)
		}})
	}
	p.close() // when all are done
	took = time.Since(start)
	for i, a := range schedule {
		if a.priority == taskpool.High {
			waits = append(waits, microseconds(all[i]))
		}
	}
	return waits, took
}
