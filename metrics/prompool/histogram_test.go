package prompool

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/internal/metricset"
)

// reference is a histogram of client_golang with the same buckets.
func reference(bounds []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "reference", Help: "The same, by others.",
		Buckets:                      bounds,
		NativeHistogramBucketFactor:  1.1,
		NativeHistogramZeroThreshold: math.Exp2(minExp),
	})
}

// nativeCounts are the buckets that are not empty, by Prometheus's number.
func nativeCounts(h *dto.Histogram) map[int32]int64 {
	counts := make(map[int32]int64)
	at, n, i := int32(0), int64(0), 0
	for _, s := range h.PositiveSpan {
		at += s.GetOffset()
		for range s.GetLength() {
			n += h.PositiveDelta[i]
			if n != 0 {
				counts[at] = n
			}
			at++
			i++
		}
	}
	return counts
}

func requireSame(t *testing.T, want prometheus.Histogram, got *histogram) {
	t.Helper()
	var w, g dto.Metric
	require.NoError(t, want.Write(&w))
	require.NoError(t, histogramMetric{h: got}.Write(&g))
	require.Equal(t, w.Histogram.GetSampleCount(), g.Histogram.GetSampleCount())
	require.InEpsilon(t, w.Histogram.GetSampleSum(), g.Histogram.GetSampleSum(), 1e-6)
	require.Len(t, g.Histogram.Bucket, len(w.Histogram.Bucket))
	for i, b := range w.Histogram.Bucket {
		require.Equal(t, b.GetUpperBound(), g.Histogram.Bucket[i].GetUpperBound())
		require.Equal(t, b.GetCumulativeCount(), g.Histogram.Bucket[i].GetCumulativeCount(), "up to %v", b.GetUpperBound())
	}
	require.Equal(t, w.Histogram.GetSchema(), g.Histogram.GetSchema())
	require.Equal(t, w.Histogram.GetZeroThreshold(), g.Histogram.GetZeroThreshold())
	require.Equal(t, w.Histogram.GetZeroCount(), g.Histogram.GetZeroCount())
	require.Equal(t, nativeCounts(w.Histogram), nativeCounts(g.Histogram))
}

func TestHistogramCountsAsThatOfClientGolang(t *testing.T) {
	for name, bounds := range map[string][]float64{
		"default":              metricset.Bounds,
		"none but the rest":    {},
		"on native bounds":     {0x1p-10, 0.5, 1, 2, 1024},
		"many in a native one": {1, 1.001, 1.002, 1.003, 1.1, 1.2},
		"least and greatest":   {minBound, maxBound},
	} {
		t.Run(name, func(t *testing.T) {
			want, got := reference(bounds), newHistogram(newLayout(bounds, false))
			observe := func(d time.Duration) {
				want.Observe(d.Seconds())
				got.observe(d, 1)
			}
			for _, d := range []time.Duration{0, 1, 119, 120, 130, 999, time.Microsecond, time.Second, 2 * time.Second, time.Minute, 12 * time.Hour, 18 * time.Hour} {
				observe(d)
			}
			for _, b := range bounds {
				for d := range time.Duration(3) {
					observe(time.Duration(b*float64(time.Second)) + d - 1)
				}
			}
			r := rand.New(rand.NewPCG(1, 2))
			for range 5000 {
				observe(time.Duration(math.Exp(r.Float64() * math.Log(float64(15*time.Hour)))))
			}
			requireSame(t, want, got)
		})
	}
}

func TestWeightCountsSeveralTimes(t *testing.T) {
	want, got := reference(metricset.Bounds), newHistogram(newLayout(metricset.Bounds, false))
	for range 16 {
		want.Observe(.003)
	}
	got.observe(3*time.Millisecond, 16)
	requireSame(t, want, got)
}

func TestAnyDurationHasABucket(t *testing.T) {
	h := newHistogram(newLayout(metricset.Bounds, false))
	h.observe(-1, 1)
	h.observe(math.MaxInt64, 1)
	var m dto.Metric
	require.NoError(t, histogramMetric{h: h}.Write(&m))
	require.EqualValues(t, 2, m.Histogram.GetSampleCount())
	require.EqualValues(t, 1, m.Histogram.GetZeroCount())
	require.EqualValues(t, 1, m.Histogram.Bucket[len(metricset.Bounds)-1].GetCumulativeCount())
	require.Equal(t, map[int32]int64{maxExp * perOctave: 1}, nativeCounts(m.Histogram))
}

func TestEachScrapeOfAHistogramAddsUp(t *testing.T) {
	h := newHistogram(newLayout(metricset.Bounds, false))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for d := time.Duration(1); ; d = d*3%time.Hour + 1 {
				select {
				case <-stop:
					return
				default:
					h.observe(d, 3)
				}
			}
		})
	}
	for last := uint64(0); last < 1000; {
		var m dto.Metric
		require.NoError(t, histogramMetric{h: h}.Write(&m))
		sum := m.Histogram.GetZeroCount()
		for _, n := range nativeCounts(m.Histogram) {
			sum += uint64(n)
		}
		total := m.Histogram.GetSampleCount()
		require.Equal(t, total, sum)
		require.GreaterOrEqual(t, total, last)
		require.LessOrEqual(t, m.Histogram.Bucket[len(metricset.Bounds)-1].GetCumulativeCount(), total)
		last = total
	}
	close(stop)
	wg.Wait()
}

func TestObserveDoesNotAllocate(t *testing.T) {
	h := newHistogram(newLayout(metricset.Bounds, false))
	require.Zero(t, testing.AllocsPerRun(100, func() { h.observe(time.Millisecond, 1) }))
}

func BenchmarkObserve(b *testing.B) {
	h := newHistogram(newLayout(metricset.Bounds, false))
	for d := time.Duration(1); b.Loop(); d = d*5%time.Minute + 1 {
		h.observe(d, 16)
	}
}
