package backoff_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/internal/backoff"
)

func TestExponentialDoublesUpToALimit(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		-1: 10, 0: 10, 1: 10, 2: 20, 3: 40, 4: 80, 5: 100, 6: 100, 99: 100, math.MaxInt: 100,
	} {
		require.Equal(t, want, backoff.Exponential(10, 100, failures), "%d failures", failures)
	}
	require.EqualValues(t, 80, backoff.Exponential(10, 80, 4))
	require.EqualValues(t, 80, backoff.Exponential(10, 80, 5))
	require.EqualValues(t, 5, backoff.Exponential(10, 5, 1))
	const longest = time.Duration(math.MaxInt64)
	require.Equal(t, longest, backoff.Exponential(1, longest, math.MaxInt), "nothing overflows")
}

func TestFullJitterFillsItsRange(t *testing.T) {
	for attempt, limit := range map[int]time.Duration{
		0: 100 * time.Millisecond, 1: 100 * time.Millisecond, 3: 400 * time.Millisecond,
		9: 25600 * time.Millisecond, 10: 30 * time.Second, math.MaxInt: 30 * time.Second,
	} {
		shortest, longest := limit, time.Duration(0)
		for range 1000 {
			d := backoff.FullJitter(attempt)
			shortest, longest = min(shortest, d), max(longest, d)
		}
		require.GreaterOrEqual(t, shortest, time.Duration(0))
		require.LessOrEqual(t, longest, limit)
		require.Less(t, shortest, limit/2, "of 1,000 delays none is in the lower half")
		require.Greater(t, longest, limit/2, "of 1,000 delays none is in the upper half")
	}
}
