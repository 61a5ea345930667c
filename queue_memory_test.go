//go:build !race

// The race detector changes what is allocated.

package taskpool

import (
	"context"
	"fmt"
	"log/slog"
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
		if testing.Short() {
			test.tasks = min(test.tasks, 100_000)
		}
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
					q.pushTask(entry{f: f, order: int64(i)}, Priority(i%test.priorities), false)
				}
				full := liveHeap()
				require.LessOrEqual(t, float64(full-before)/float64(test.tasks), test.perTask, mode.name)
				for range test.tasks {
					q.pop(false)
				}
				// Some empty lanes and segments are kept, and what was counted by priority.
				require.LessOrEqual(t, liveHeap()-before, 1_000_000, mode.name)
				t.Logf("%s: %.1f bytes a task, %d left", mode.name, float64(full-before)/float64(test.tasks), liveHeap()-before)
				runtime.KeepAlive(&q)
			}
		})
	}
}

// What a peak took is given back when it is over: what waits for its time, what the
// supervisor watches, and whatever else there is a list of.
func TestMemoryOfAPeakIsGivenBack(t *testing.T) {
	const peak, left = 20_000, 20_000 // bytes
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
