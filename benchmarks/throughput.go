package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/alitto/pond/v2"

	"github.com/taskpool-go/taskpool"
)

// Groups of scenarios, which are headings of RESULTS.md.
const (
	groupEmpty       = "Empty task"
	groupMicrosecond = "Task of 1 µs"
	groupSleep       = "Tasks that wait"
	groupPriorities  = "Priorities mixed"
	groupPanics      = "Tasks that panic"
	groupHandles     = "Tasks with a handle"
	groupOptions     = "Options of taskpool"
	groupBusy        = "Empty task, one core busy" // the runner keeps it busy
)

var timeATask = []metric{{"time a task", "ns"}}

// A throughput is a scenario in which producers submit tasks and the time counts
// until all are done.
type throughput struct {
	group, name        string
	workers, producers int
	tasks, short       int // how many, and how many in the short form
	priorities         int // the tasks have in turn; with 1 all are Medium
	jobs               func() []*job
	entrants           []entrant
	inAll              bool // the time is that of all tasks, in ms
	ramp               bool // the pool has done the same before, and then was idle for a moment
}

func throughputs() []throughput {
	var all []throughput
	grid := func(group, name string, tasks int, jobs func() []*job, entrants func() []entrant) {
		for _, workers := range []int{2, 8, 64} {
			for _, producers := range []int{1, 8} {
				all = append(all, throughput{
					group: group, name: name + ", " + crew(workers, producers),
					workers: workers, producers: producers,
					tasks: tasks, short: 2_000, priorities: 1, jobs: jobs, entrants: entrants(),
				})
			}
		}
	}
	grid(groupEmpty, "empty task", 1_000_000, emptyJobs, unordered)
	grid(groupMicrosecond, "1 µs task", 50_000, microsecondJobs, unordered)
	grid(groupBusy, "empty task, one core busy", 1_000_000, emptyJobs, func() []entrant {
		return []entrant{taskpoolEntrant("taskpool", ours), channelEntrant}
	})
	all = append(all, throughput{
		group: groupSleep, name: "10,000 tasks of 1 ms on 1,000 workers",
		workers: 1_000, producers: 1, tasks: 10_000, short: 2_000, priorities: 1,
		jobs: sleepJobs, entrants: unordered(), inAll: true,
	}, throughput{
		group: groupSleep, name: "ramp, 10,000 tasks of 1 ms on 1,000 idle workers",
		workers: 1_000, producers: 1, tasks: 10_000, short: 2_000, priorities: 1,
		jobs: sleepJobs, entrants: unordered(), inAll: true, ramp: true,
	})
	for _, priorities := range []int{3, 1_000} {
		for _, producers := range []int{1, 8} {
			all = append(all, throughput{
				group: groupPriorities, name: fmt.Sprintf("%s priorities, %s", thousands(priorities), crew(8, producers)),
				workers: 8, producers: producers, tasks: 500_000, short: 2_000, priorities: priorities,
				jobs: emptyJobs, entrants: ordered(),
			})
		}
	}
	for _, producers := range []int{1, 8} {
		all = append(all, throughput{
			group: groupPanics, name: "10 % panic, " + crew(8, producers),
			workers: 8, producers: producers, tasks: 100_000, short: 2_000, priorities: 1,
			jobs: panickingJobs, entrants: panicking(),
		})
	}
	for _, priorities := range []int{1, 3, 1_000} {
		all = append(all, throughput{
			group: groupOptions, name: fmt.Sprintf("options, %s, %s", plural(priorities, "priority", "priorities"), crew(8, 1)),
			workers: 8, producers: 1, tasks: 1_000_000, short: 2_000, priorities: priorities,
			jobs: emptyJobs, entrants: []entrant{
				taskpoolEntrant("taskpool", ours),
				taskpoolEntrant("fair share 0", other, taskpool.WithFairShare(0)),
				taskpoolEntrant("aging 1 s", other, taskpool.WithAging(time.Second)),
				channelEntrant,
			},
		})
	}
	return all
}

// crew says in the name of a scenario who works in it.
func crew(workers, producers int) string {
	return fmt.Sprintf("%d workers, %s", workers, plural(producers, "producer", "producers"))
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

func throughputScenarios() []scenario {
	var all []scenario
	for _, t := range throughputs() {
		s := scenario{group: t.group, name: t.name, metrics: timeATask}
		if t.inAll {
			s.metrics = []metric{{"time in all", "ms"}}
		}
		for _, e := range t.entrants {
			s.contestants = append(s.contestants, contestant{e.name, e.kind, func(short bool) []float64 {
				return []float64{t.round(e, short)}
			}})
		}
		all = append(all, s)
	}
	return append(all, handleScenarios()...)
}

// round has an entrant do the work once and returns what it took. Creating the
// pool and closing it do not count.
func (t throughput) round(e entrant, short bool) float64 {
	n := t.tasks
	if short {
		n = t.short
	}
	jobs := t.jobs()
	p := e.start(t.workers)
	defer p.close()

	if t.ramp {
		t.submitAll(p, n, jobs)
		meet(p, t.workers, t.last())()
		time.Sleep(20 * time.Millisecond)
	}
	begin := time.Now()
	t.submitAll(p, n, jobs)
	leave := meet(p, t.workers, t.last())
	elapsed := time.Since(begin)
	leave()

	if t.inAll {
		return elapsed.Seconds() * 1e3
	}
	return float64(elapsed.Nanoseconds()) / float64(n)
}

// submitAll submits n tasks, shared among the producers, and returns when all
// are submitted.
func (t throughput) submitAll(p pool, n int, jobs []*job) {
	share(n, t.producers, func(part int) { t.submit(p, part, jobs) })
}

// share has f called on each of the given number of goroutines with its part of
// n, and waits for them.
func share(n, goroutines int, f func(part int)) {
	var all sync.WaitGroup
	for k := range goroutines {
		part := n / goroutines
		if k < n%goroutines {
			part++
		}
		all.Go(func() { f(part) })
	}
	all.Wait()
}

// submit submits n of the jobs in turn, with the priorities in turn. It counts
// up to either instead of dividing, which would cost a noticeable part of a
// submit.
func (t throughput) submit(p pool, n int, jobs []*job) {
	first := t.first()
	priority, next := 0, 0
	for range n {
		p.submit(first+priority, jobs[next])
		if priority++; priority == t.priorities {
			priority = 0
		}
		if next++; next == len(jobs) {
			next = 0
		}
	}
}

// first returns the most urgent priority: with three they are High, Medium and
// Low.
func (t throughput) first() int {
	if t.priorities == 3 {
		return int(taskpool.High)
	}
	return int(taskpool.Medium)
}

// last returns a priority which no task is less urgent than.
func (t throughput) last() int { return t.first() + t.priorities - 1 }

// meet returns when every task that was submitted before is done, without a
// counter that each task would have to touch. It submits as many tasks as there
// are workers, which stay until leave is called, and waits until they all run.
// They come last in any order: they are no more urgent than any other task, and
// younger. So every other task has been started; and as all workers are here,
// none still runs.
//
// That is exact for each of the contestants. taskpool, the channel, pond,
// workerpool, heap+cond and priorityqueue have one queue in order and never
// more than the given number of workers. errgroup, the semaphore, ants and conc
// have no queue: submit waits for a worker and gives it the task, and a worker
// takes another only when it is done. Each of the pools in a MultiPool gets its
// share of these tasks. gopool may have too many workers, so it is a settler.
func meet(p pool, workers, priority int) (leave func()) {
	var arrived sync.WaitGroup
	arrived.Add(workers)
	left := make(chan struct{})
	j := newJob(func() {
		arrived.Done()
		<-left
	})
	for range workers {
		p.submit(priority, j)
	}
	arrived.Wait()
	if s, ok := p.(settler); ok {
		for !s.settled() {
			runtime.Gosched()
		}
	}
	return func() { close(left) }
}

func emptyJobs() []*job { return []*job{newJob(func() {})} }

func sleepJobs() []*job { return []*job{newJob(func() { time.Sleep(time.Millisecond) })} }

// microsecondJobs returns a job that computes for 1 µs. It reads no clock, which
// would cost more than many a submit.
func microsecondJobs() []*job {
	n := turnsOfMicrosecond()
	return []*job{newJob(func() { _ = spin(n) })}
}

var errPanicking = errors.New("panicking task")

// panickingJobs returns jobs of which every tenth panics.
func panickingJobs() []*job {
	jobs := []*job{newJob(func() { panic(errPanicking) })}
	for len(jobs) < 10 {
		jobs = append(jobs, newJob(func() {}))
	}
	return jobs
}

// spin computes for n turns. It touches no memory.
//
//go:noinline
func spin(n int) uint64 {
	x := uint64(n) | 1
	for range n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}

// turnsOfMicrosecond returns the number of turns that spin needs for 1 µs, from
// the fastest of many tries.
var turnsOfMicrosecond = sync.OnceValue(func() int {
	const turns = 20_000
	fastest := time.Duration(1<<63 - 1)
	for range 200 {
		begin := time.Now()
		_ = spin(turns)
		fastest = min(fastest, time.Since(begin))
	}
	return max(1, int(turns*time.Microsecond/max(1, fastest)))
})

// A handleEntrant is a contestant of the scenario in which a producer keeps what
// it gets for each task and at the end waits for all of them.
type handleEntrant struct {
	name  string
	kind  kind
	start func(workers int) (submitAndWait func(n int, j *job), close func())
}

func handleEntrants() []handleEntrant {
	return []handleEntrant{
		{"taskpool", ours, func(workers int) (func(int, *job), func()) {
			ctx := context.Background()
			p := newTaskpool(workers, taskpool.WithLogger(slog.New(slog.DiscardHandler)))
			return func(n int, j *job) {
				keepAndWait(n,
					func() *taskpool.Handle {
						h, err := p.p.Submit(ctx, taskpool.Task{Run: j.runContext})
						must(err)
						return h
					},
					func(h *taskpool.Handle) error { return h.Wait(ctx) })
			}, p.close
		}},
		// One channel a task, on which its error comes.
		{"channel", channel, func(workers int) (func(int, *job), func()) {
			c := newChannelPool(workers, plain)
			return func(n int, j *job) {
				keepAndWait(n,
					func() chan error {
						done := make(chan error, 1)
						c.tasks <- func() { done <- j.runErr() }
						return done
					},
					func(done chan error) error { return <-done })
			}, c.close
		}},
		{"pond", peer, func(workers int) (func(int, *job), func()) {
			p := pond.NewPool(workers)
			return func(n int, j *job) {
				keepAndWait(n,
					func() pond.Task { return p.SubmitErr(j.runErr) },
					pond.Task.Wait)
			}, p.StopAndWait
		}},
	}
}

// keepAndWait calls submit n times and then wait for each of what it returned.
func keepAndWait[H any](n int, submit func() H, wait func(H) error) {
	kept := make([]H, n)
	for i := range kept {
		kept[i] = submit()
	}
	for _, h := range kept {
		must(wait(h))
	}
}

func handleScenarios() []scenario {
	const workers = 8
	var all []scenario
	for _, producers := range []int{1, 8} {
		s := scenario{group: groupHandles, name: "handle, " + crew(workers, producers), metrics: timeATask}
		for _, e := range handleEntrants() {
			s.contestants = append(s.contestants, contestant{e.name, e.kind, func(short bool) []float64 {
				n := 100_000
				if short {
					n = 2_000
				}
				return []float64{float64(e.round(workers, producers, n, emptyJobs()[0]).Nanoseconds()) / float64(n)}
			}})
		}
		all = append(all, s)
	}
	return all
}

// round returns how long it took until each producer had waited for its tasks.
func (e handleEntrant) round(workers, producers, n int, j *job) time.Duration {
	submitAndWait, closePool := e.start(workers)
	defer closePool()
	begin := time.Now()
	share(n, producers, func(part int) { submitAndWait(part, j) })
	return time.Since(begin)
}
