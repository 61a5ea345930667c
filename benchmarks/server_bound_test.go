package main

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// What RESULTS.md says of the latencies of High requests is that no order of requests makes them
// shorter. So the computed server must be one that there could be, and at its best.
func TestTheComputedServerSpendsAllItsSlotsOnTheMostUrgent(t *testing.T) {
	s := scaleOf(false)
	for _, load := range serverLoads {
		o := strictest(load, s, s.patience/2, 0)
		require.GreaterOrEqual(t, slices.Min(append(o.latencies[0], o.latencies[1]...)), 50.0, "the work itself")
		require.Equal(t, o.clients[0], o.answered[0], "each High request")
		require.LessOrEqual(t, float64(o.inTime), o.capacity+serverSlots)
		if load >= 2 {
			require.GreaterOrEqual(t, float64(o.inTime), o.capacity-serverSlots, "no slot is idle")
			require.Less(t, o.answered[1], o.clients[1], "Low requests get what is left")
		}
	}
	// With so many slots for each High request that there is no wait, it takes what the work takes.
	require.Equal(t, []float64{50}, slices.Compact(strictest(0.5, s, s.patience/2, 5).latencies[0]))
	t.Log(leastLatencies())
}
