package taskpool

import (
	"fmt"
	"testing"
)

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
