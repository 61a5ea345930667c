//go:build !race

// The race detector changes what is allocated.

package taskpool

import (
	"fmt"
	"runtime"
	"testing"

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
					continue // strict, with fair share, and with ageing and shedding
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
