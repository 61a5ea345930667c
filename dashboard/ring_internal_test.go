package dashboard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStepsThatAreOverAreForgotten(t *testing.T) {
	var steps [3]*step[int]
	at := func(now time.Duration) map[int]int {
		all := make(map[int]int)
		last := -1
		for i, n := range lately(steps[:], time.Second, now) {
			require.Greater(t, i, last, "the oldest come first")
			last, all[i] = i, *n
		}
		return all
	}
	require.Empty(t, at(0))
	*stepAt(steps[:], time.Second, 0) = 1
	*stepAt(steps[:], time.Second, time.Second-1)++
	require.Equal(t, map[int]int{2: 2}, at(0))
	*stepAt(steps[:], time.Second, 2*time.Second) = 3
	require.Equal(t, map[int]int{0: 2, 2: 3}, at(2*time.Second))
	require.Equal(t, map[int]int{1: 3}, at(3*time.Second))
	require.Zero(t, *stepAt(steps[:], time.Second, 3*time.Second), "its place had that of second 0")
	require.Equal(t, map[int]int{0: 3, 1: 0}, at(4*time.Second))
	require.Empty(t, at(time.Hour))
	for i := range lately(steps[:], time.Second, 4*time.Second) {
		require.Zero(t, i)
		break
	}
}
