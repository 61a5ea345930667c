//go:build !race

// The race detector changes what is allocated.

package taskpool

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func liveHeap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second frees what sync.Pools kept in the first
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestMemoryOfABacklog(t *testing.T) {
	for _, test := range []struct {
		tasks, priorities int
		perTask           float64 // bytes, at most
	}{
		{1_000_000, 1, 32},
		{1_000_000, 3, 32},
		{1_000_000, 1000, 32},
		{100_000, 10_000, 110},
		{100_000, 100_000, 400}, // a lane each
	} {
		t.Run(fmt.Sprintf("%d tasks of %d priorities", test.tasks, test.priorities), func(t *testing.T) {
			for _, mode := range queueModes() {
				if mode.shed != (mode.step > 0) || mode.share != 0 && mode.share != 16 || mode.step > 1 {
					continue // strict, with fair share, and with aging and shedding
				}
				q := priorityQueue{share: mode.share, step: mode.step, shed: mode.shed}
				q.init()
				f := func() {}
				before := liveHeap()
				for i := range test.tasks {
					q.push(entry{f: f, order: int64(i)}, Priority(i%test.priorities), false)
				}
				full := liveHeap()
				require.LessOrEqual(t, float64(full-before)/float64(test.tasks), test.perTask, mode.name)
				for range test.tasks {
					q.pop(false)
				}
				// Some empty lanes and segments are kept.
				require.LessOrEqual(t, liveHeap()-before, 600_000, mode.name)
				t.Logf("%s: %.1f bytes a task, %d left", mode.name, float64(full-before)/float64(test.tasks), liveHeap()-before)
				runtime.KeepAlive(&q)
			}
		})
	}
}

// What a peak took is given back when it is over: what waits for its time, what the
// supervisor watches, and whatever else there is a list of.
func TestMemoryOfAPeakIsGivenBack(t *testing.T) {
	const peak, left = 50_000, 20_000 // bytes
	handles := make([]Handle, peak)
	workers := make([]worker, peak)
	now := time.Now()
	for i := range handles {
		handles[i].due = now.Add(time.Duration(i * 7919 % peak))
		workers[i].watch, workers[i].watchI = handles[i].due, -1
	}
	for name, test := range map[string]func() (rise, fall func(), keep any){
		"delayed": func() (rise, fall func(), keep any) {
			d := newDueHeap(inDelayed)
			return func() {
					for i := range handles {
						d.add(&handles[i])
					}
				}, func() {
					for d.Len() > 0 {
						d.remove(d.first())
					}
				}, &d
		},
		"watched": func() (rise, fall func(), keep any) {
			q := new(watchdog)
			q.init()
			return func() {
					for i := range workers {
						q.watched.add(&workers[i])
					}
				}, func() {
					for q.watched.Len() > 0 {
						q.leave(q.watched.items[0])
					}
				}, q
		},
		"lists": func() (rise, fall func(), keep any) {
			l := new([]*worker)
			return func() {
					for i := range workers {
						*l = append(*l, &workers[i])
					}
				}, func() {
					for len(*l) > 0 {
						*l = shrunk((*l)[:len(*l)-1])
					}
				}, l
		},
	} {
		t.Run(name, func(t *testing.T) {
			rise, fall, keep := test()
			before := liveHeap()
			rise()
			require.Greater(t, liveHeap()-before, 8*peak*9/10)
			fall()
			require.LessOrEqual(t, liveHeap()-before, left)
			runtime.KeepAlive(keep)
			runtime.KeepAlive(handles)
			runtime.KeepAlive(workers)
		})
	}
}

// To give memory back costs no more than to take elements out.
func TestShrinkingCopiesNoMoreThanWasTakenOut(t *testing.T) {
	copied, removed := 0, 0
	s := make([]int, 100_000)
	for len(s) > 0 {
		s = s[:len(s)-1]
		removed++
		before := cap(s)
		if s = shrunk(s); cap(s) != before {
			copied += len(s)
		}
		require.LessOrEqual(t, copied, removed)
	}
	require.Less(t, cap(s), leastShrunk)
}

func TestListsOfAPoolShrink(t *testing.T) {
	const peak = 3000
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithWorkers(1), WithLogger(slog.New(slog.DiscardHandler)), WithMaxAbandoned(peak), WithHangGrace(time.Second))
		require.NoError(t, err)
		sizes := func() []int {
			synctest.Wait()
			p.lock()
			defer p.unlock()
			return []int{cap(p.crew.all), cap(p.crew.idle), cap(p.crew.dead), cap(p.sched.exiting[0]), cap(p.sched.exiting[1]), cap(p.crew.abandoned), cap(p.watch.watched.items),
				cap(p.sched.delayed.items), cap(p.outbox.notices), cap(p.sched.admissionDelayed.items)}
		}
		require.NoError(t, p.Resize(peak))
		for range peak {
			require.NoError(t, p.Go(0, func() { time.Sleep(time.Second); panic("all at once") }))
		}
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		for i := range peak {
			_, err := p.Submit(ctx, Task{NotBefore: time.Now().Add(time.Hour), Run: func(context.Context) error { return nil }})
			require.NoError(t, err)
			_, err = p.Submit(ctx, Task{Run: func(ctx context.Context) error {
				return Block(ctx, func() error { <-ctx.Done(); time.Sleep(time.Duration(i%2) * 2 * time.Second); return ctx.Err() })
			}})
			require.NoError(t, err)
		}
		synctest.Wait()
		require.NoError(t, p.Resize(1))
		cancel()
		time.Sleep(time.Minute)
		for i, n := range sizes() {
			require.LessOrEqual(t, n, leastShrunk, "list %d", i)
		}
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

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
