package dashboard

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBucketsCoverAllDurationsInOrderAndWithinThreePercent(t *testing.T) {
	before := -1
	for b := range numBuckets {
		v := valueOf(b)
		require.Equal(t, b, bucketOf(v), v)
		require.Greater(t, int(v), before)
		before = int(v)
	}
	for range 10_000 {
		d := time.Duration(rand.Int64N(1 << (1 + rand.IntN(maxBits))))
		require.InEpsilon(t, float64(d)+1, float64(valueOf(bucketOf(d)))+1, .032)
	}
	require.Equal(t, 0, bucketOf(-1))
	require.Equal(t, numBuckets-1, bucketOf(1<<62))
}

// The reference sorts them all.
func TestQuantilesAgreeWithSorting(t *testing.T) {
	for range 20 {
		var h histogram
		var all []time.Duration
		for range 1 + rand.IntN(500) {
			d := time.Duration(rand.ExpFloat64() * float64(time.Second))
			weight := 1 + rand.IntN(3)
			h.add(d, uint64(weight))
			for range weight {
				all = append(all, d)
			}
		}
		slices.Sort(all)
		for _, q := range []float64{.5, .95, .99, 1} {
			i := 0
			for float64(i+1) < q*float64(len(all)) {
				i++
			}
			require.InEpsilon(t, float64(all[i]), float64(h.quantile(q)), .032)
		}
	}
	require.Zero(t, new(histogram).quantile(.5))
}

func TestWindowForgetsWhatIsOlderThanAMinute(t *testing.T) {
	var w window
	require.Zero(t, w.sum(0).total)
	for s := range 300 { // one each second
		w.add(time.Duration(s)*time.Second, time.Duration(s), 1)
		all := w.sum(time.Duration(s) * time.Second)
		require.GreaterOrEqual(t, int(all.total), min(s+1, 56))
		require.LessOrEqual(t, int(all.total), 60)
	}
	require.Zero(t, w.sum(400*time.Second).total)
}

func TestNumbersAndDurationsAreShort(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0 s": 0, "15 ns": 15, "1.50 µs": 1500, "15.0 µs": 15 * time.Microsecond, "150 ms": 150 * time.Millisecond,
		"1.5 s": 1500 * time.Millisecond, "20 s": 20 * time.Second, "1 m": time.Minute, "2 m 05 s": 125 * time.Second,
		"3 h 02 m": 182 * time.Minute, "2 d 03 h": 51 * time.Hour,
	} {
		require.Equal(t, want, duration(d))
	}
	for want, x := range map[string]float64{"0": 0, "0.25": .25, "42.5": 42.5, "420": 420, "12,346": 12345.6} {
		require.Equal(t, want, rate(x))
	}
	for want, n := range map[string]int{"0": 0, "-1": -1, "999": 999, "1,000": 1000, "-123,456": -123456, "1,234,567": 1234567} {
		require.Equal(t, want, count(n))
	}
}

func TestCurveHasGapsWhereNobodyLooked(t *testing.T) {
	now := time.Now()
	at := func(ago int, value float64) sample { return sample{now.Add(-time.Duration(ago) * time.Second), value} }
	c := newCurve(now, []sample{at(70, 100), at(50, 2), at(49, 4), at(10, 1), at(9, 0)})
	require.Equal(t, "M10.0 8.0L11.0 1.0M50.0 11.5L51.0 15.0", c.Line)
	require.Equal(t, "M10.0 15.5L10.0 8.0L11.0 1.0V15.5M50.0 15.5L50.0 11.5L51.0 15.0V15.5", c.Area)
	require.Equal(t, 4., c.Max)
	require.Zero(t, newCurve(now, nil))
}
