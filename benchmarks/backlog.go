package main

import (
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/taskpool-go/taskpool"
)

// roomyChannel is the reference where more tasks wait than the usual channel has
// room for.
func roomyChannel(room int) entrant {
	return entrant{"channel", channel, func(workers int) pool { return newRoomyChannel(workers, room) }}
}

func newRoomyChannel(workers, room int) *channelPool {
	c := &channelPool{tasks: make(chan func(), room)}
	for range workers {
		c.workers.Go(func() { plain(c.tasks) })
	}
	return c
}

// unbounded lists the pools in which any number of tasks can wait, and a channel
// with the given room. errgroup, semaphore, ants and conc are not among them: they
// make the caller wait until a worker is free, so their backlog would be the
// caller's goroutines.
func unbounded(room int) []entrant {
	return []entrant{
		taskpoolEntrant("taskpool", ours),
		roomyChannel(room),
		{"heap+cond", peer, newHeapPool},
		{"pond", peer, newPond},
		{"workerpool", peer, newWorkerpool},
		{"gopool", peer, newGopool},
	}
}

// contest returns the contestants that do round with the entrants' pools.
func contest(entrants []entrant, round func(e entrant, short bool) []float64) (all []contestant) {
	for _, e := range entrants {
		all = append(all, contestant{e.name, e.kind, func(short bool) []float64 { return round(e, short) }})
	}
	return all
}

// The depths of the backlog, and how many tasks pass in a measurement at each of
// them, so that totals are equal.
var backlogDepths = []int{1_000, 100_000, 1_000_000}

const (
	backlogPasses     = 1_000_000
	backlogGroup      = "A backlog, one worker"
	prioritiesGroup   = "100,000 tasks wait, one worker"
	prioritiesWaiting = 100_000
)

// backlogName returns the name of the row for a depth.
func backlogName(depth int) string { return thousands(depth) + " tasks wait" }

// backlogScenarios measures what a task costs, and takes, when many wait.
//
// One worker, so that neither locks nor cores decide. Three values:
//
//   - At that depth: every task submits itself again, so that exactly depth-1
//     others wait whenever one is submitted or taken, until a million tasks have
//     passed. Nothing differs between the rows but the depth: neither the number
//     of tasks, nor that of wake-ups (none), nor who submits.
//   - Filled and emptied: depth tasks are submitted while the worker is held, then
//     all run; again and again until a million have passed. Growing and giving
//     back the memory is in it.
//   - Heap: what the pool and its backlog occupy, divided by depth. The function
//     is the same for all tasks and not counted.
//
// With several priorities only the last two make sense: under strict priority a
// task that submits itself again either is the next to run or never runs.
func backlogScenarios() (all []scenario) {
	for _, depth := range backlogDepths {
		all = append(all, scenario{
			group:   backlogGroup,
			name:    backlogName(depth),
			metrics: []metric{{"a task at that depth", "ns"}, {"a task, filled and emptied", "ns"}, {"heap a waiting task", "B"}},
			contestants: contest(unbounded(depth+1),
				func(e entrant, short bool) []float64 {
					depth, passes := depth, backlogPasses
					if short {
						depth, passes = max(depth/1000, 100), 1000
					}
					bytes, filled := fillAndEmpty(e, depth, passes, 1)
					return []float64{circulate(e, depth, passes), filled, bytes}
				}),
		})
	}
	for _, priorities := range []int{3, 1000} {
		all = append(all, scenario{
			group:   prioritiesGroup,
			name:    thousands(priorities) + " priorities",
			metrics: []metric{{"a task, filled and emptied", "ns"}, {"heap a waiting task", "B"}},
			contestants: contest([]entrant{
				taskpoolEntrant("taskpool", ours),
				{"heap+cond", peer, newHeapPool},
				{"priorityqueue", peer, newPriorityQueue},
			}, func(e entrant, short bool) []float64 {
				waiting, passes := prioritiesWaiting, backlogPasses
				if short {
					waiting, passes = 2000, 2000
				}
				bytes, filled := fillAndEmpty(e, waiting, passes, priorities)
				return []float64{filled, bytes}
			}),
		})
	}
	return all
}

// hold occupies the only worker of p until the function that it returns is called.
func hold(p pool) (release func()) {
	started, released := make(chan struct{}), make(chan struct{})
	p.submit(int(taskpool.High), newJob(func() {
		close(started)
		<-released
	}))
	<-started
	return func() { close(released) }
}

// circulate returns the nanoseconds that a task costs while depth tasks wait.
func circulate(e entrant, depth, passes int) float64 {
	p := e.start(1)
	defer p.close()
	release := hold(p)
	var start time.Time
	done := make(chan time.Duration)
	ran := 0 // by the only worker
	again := &job{}
	again.run = func() {
		switch ran++; {
		case ran == depth: // all memory has been used once
			start = time.Now()
		case ran == depth+passes:
			done <- time.Since(start)
		}
		if ran < depth+passes {
			p.submit(int(taskpool.Medium), again)
		}
	}
	for range depth {
		p.submit(int(taskpool.Medium), again)
	}
	release()
	return float64((<-done).Nanoseconds()) / float64(passes)
}

// fillAndEmpty submits depth tasks with the given number of priorities at random,
// has them run, and so on until passes tasks have run. It returns the heap bytes
// that a waiting task takes, the pool's own included, and the nanoseconds from
// the first submit to the last task, for each task.
func fillAndEmpty(e entrant, depth, passes, priorities int) (bytes, nanoseconds float64) {
	random := rand.New(rand.NewPCG(1, 2))
	order := make([]int, depth)
	for i := range order {
		order[i] = random.IntN(priorities)
	}
	left := 0 // counted by the only worker
	done := make(chan struct{})
	task := newJob(func() {
		if left--; left == 0 {
			done <- struct{}{}
		}
	})
	empty := heapBytes()
	p := e.start(1)
	defer p.close()
	fill := func() (release func()) {
		release = hold(p)
		left = depth
		for _, pr := range order {
			p.submit(pr, task)
		}
		return release
	}

	release := fill()
	bytes = float64(heapBytes()-empty) / float64(depth)
	release()
	<-done

	start := time.Now()
	rounds := max(passes/depth, 1)
	for range rounds {
		release := fill()
		release()
		<-done
	}
	return bytes, float64(time.Since(start).Nanoseconds()) / float64(rounds*depth)
}

// heapBytes returns the size of all that is reachable.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC() // what was in a sync.Pool outlives one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
