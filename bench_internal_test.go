package taskpool

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// The queue alone, without locks, workers or tasks' own cost. An operation is
// one push and one pop.

// A queueLoad is what waits while a benchmark pushes and pops.
type queueLoad struct {
	name       string
	priorities int // of which tasks are pushed, all alike often
	waiting    int // tasks waiting before each push
}

func queueLoads() []queueLoad {
	return []queueLoad{
		{"1 priority, empties each time", 1, 0},
		{"1 priority, 1 waits", 1, 1},
		{"1 priority, 1e3 wait", 1, 1_000},
		{"1 priority, 1e6 wait", 1, 1_000_000},
		{"3 priorities, empties each time", 3, 0},
		{"3 priorities, 3 wait", 3, 3},
		{"3 priorities, 1e5 wait", 3, 100_000},
		{"1000 priorities, empties each time", 1000, 0},
		{"1000 priorities, 1e3 wait", 1000, 1_000},
		{"1000 priorities, 1e5 wait", 1000, 100_000},
		{"1000 priorities, 1e6 wait", 1000, 1_000_000},
	}
}

func benchmarkQueue(b *testing.B, q *priorityQueue, load queueLoad) {
	q.init()
	f := func() {}
	order := int64(0)
	push := func(pr Priority) {
		order++
		q.push(entry{f: f, order: order}, pr, false)
	}
	for i := range load.waiting {
		push(Priority(i % load.priorities))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	next := make([]Priority, 1<<12)
	for i := range next {
		next[i] = Priority(rng.IntN(load.priorities))
	}
	for i := range 4 * load.priorities { // lanes and segments that stay are made now
		push(next[i%len(next)])
		q.pop(false)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		push(next[i%len(next)])
		q.pop(false)
		i++
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, load := range queueLoads() {
		b.Run(load.name, func(b *testing.B) {
			benchmarkQueue(b, &priorityQueue{share: 16}, load)
		})
	}
}

// What fair share and aging cost.
func BenchmarkQueueMode(b *testing.B) {
	for _, load := range queueLoads() {
		for _, mode := range []queueMode{{name: "strict"}, {name: "fair", share: 16}, {name: "aging", step: time.Second}} {
			b.Run(load.name+"/"+mode.name, func(b *testing.B) {
				benchmarkQueue(b, &priorityQueue{share: mode.share, step: mode.step}, load)
			})
		}
	}
}

// A backlog that comes and goes: an operation is a push and a pop of each.
func BenchmarkQueueFillAndDrain(b *testing.B) {
	for _, load := range []queueLoad{
		{"1 priority", 1, 1_000},
		{"1 priority", 1, 1_000_000},
		{"3 priorities", 3, 100_000},
		{"1000 priorities", 1000, 1_000},
		{"1000 priorities", 1000, 100_000},
		{"1000 priorities", 1000, 1_000_000},
	} {
		b.Run(fmt.Sprintf("%s, %d tasks", load.name, load.waiting), func(b *testing.B) {
			q := &priorityQueue{share: 16}
			q.init()
			f := func() {}
			order := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				for i := range load.waiting {
					order++
					q.push(entry{f: f, order: order}, Priority(i%load.priorities), false)
				}
				for range load.waiting {
					q.pop(false)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(load.waiting), "ns/task")
		})
	}
}

// queueMode is a way to set up a queue.
type queueMode struct {
	name  string
	share uint64
	step  time.Duration
	shed  bool
}

func queueModes() (modes []queueMode) {
	for _, shed := range []bool{false, true} {
		modes = append(modes, queueMode{fmt.Sprintf("strict,shed=%v", shed), 0, 0, shed})
		for _, n := range []uint64{1, 2, 3, 16} {
			modes = append(modes, queueMode{fmt.Sprintf("share=%d,shed=%v", n, shed), n, 0, shed})
		}
		for _, step := range []time.Duration{1, 10, 1000, time.Hour, math.MaxInt64} {
			modes = append(modes, queueMode{fmt.Sprintf("step=%d,shed=%v", step, shed), 0, step, shed})
		}
	}
	return modes
}

// The supervisor looks for circles, and does nothing else meanwhile. The time for each
// task that waits is to stay about the same, however many there are: here the members of
// a group, for which another task waits.
func BenchmarkLookForCircle(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var on Group
			var elsewhere Handle
			for b.Loop() {
				b.StopTimer()
				g := &waitGraph{members: make(map[*Group][]*waitNode)}
				g.nodes = append(g.nodes, &waitNode{waits: awaited{members: &on}})
				for range n {
					g.members[&on] = append(g.members[&on], &waitNode{waits: awaited{settled: &elsewhere}})
				}
				g.nodes = append(g.nodes, g.members[&on]...)
				b.StartTimer()
				g.release()
				if !g.nodes[0].free {
					b.Fatal("nothing keeps a member waiting")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/task")
		})
	}
}
