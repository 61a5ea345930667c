package prompool

import (
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Native buckets. Bucket i holds what is over 2^((i-1)/8) seconds and at most 2^(i/8).
const (
	schema    = 3 // buckets that are 2^(2^-3) apart
	perOctave = 1 << schema
	minExp    = -23 // at most 2^-23 s, 0.1 µs, counts as zero
	maxExp    = 16  // more than 2^16 s, 18 hours, is in the last bucket
	natives   = (maxExp - minExp) * perOctave
)

// fractions are the bounds of the buckets of the octave from 1/2 to 1.
var fractions = func() (f [perOctave]float64) {
	for i := range f {
		f[i] = math.Exp2(float64(i)/perOctave - 1)
	}
	return f
}()

// nativeOf returns the bucket of v seconds, from 1, or 0 if it counts as zero. The
// first is that behind 2^minExp.
func nativeOf(v float64) int {
	if v <= 0 {
		return 0
	}
	frac, exp := math.Frexp(v)
	i := (exp - 1 - minExp) * perOctave
	for _, f := range fractions {
		if frac > f {
			i++
		}
	}
	return min(max(i, 0), natives)
}

// A layout says what the cells of a histogram are. A cell is what lies in one native
// and in one classic bucket; so each event is counted in one place, and both kinds of
// histogram come of the same counts. Classic bounds divide few native buckets, so
// there are not many more cells than these.
type layout struct {
	bounds    []float64 // of the classic buckets
	exemplars bool      // whether these have exemplars

	// first is, by native bucket, the index of the first cell and that of its
	// first bound: cells go on from there as bounds do. One entry more for the end.
	first [natives + 2]cellAt
}

type cellAt struct{ cell, bound int }

func newLayout(bounds []float64, exemplars bool) *layout {
	l := &layout{bounds: bounds, exemplars: exemplars}
	at := cellAt{}
	for i := range l.first {
		l.first[i] = at
		at.cell++
		for at.bound < len(bounds) && nativeOf(bounds[at.bound]) == i {
			at.bound++
			at.cell++
		}
	}
	return l
}

func (l *layout) cells() int { return l.first[natives+1].cell }

func (l *layout) cellOf(v float64) int {
	i := nativeOf(v)
	at, end := l.first[i], l.first[i+1].bound
	for at.bound < end && v > l.bounds[at.bound] {
		at.bound++
		at.cell++
	}
	return at.cell
}

// A histogram counts durations. It is safe for concurrent use.
type histogram struct {
	layout *layout
	sum    atomic.Int64 // nanoseconds
	counts []atomic.Uint64

	exemplars exemplars
}

func newHistogram(l *layout) *histogram {
	h := &histogram{layout: l, counts: make([]atomic.Uint64, l.cells())}
	if l.exemplars {
		h.exemplars = exemplars{l.bounds, make([]exemplar, len(l.bounds)+1)}
	}
	return h
}

// observe counts d weight times.
func (h *histogram) observe(d time.Duration, weight uint64) {
	d = max(d, 0)
	h.sum.Add(int64(d) * int64(weight))
	h.counts[h.layout.cellOf(d.Seconds())].Add(weight)
}

// exemplars are the exemplars of a histogram, by classic bucket.
type exemplars struct {
	bounds []float64
	of     []exemplar
}

// An exemplar is that of a bucket, once there is one.
type exemplar struct {
	atomic.Pointer[prometheus.Exemplar]
}

// exemplarEvery is how long an exemplar stays, at least: to ask for its labels takes longer
// than to count.
const exemplarEvery = time.Second

// due returns where to keep an exemplar of d, nil if there is one that is recent.
func (x *exemplars) due(d time.Duration) *exemplar {
	i, _ := slices.BinarySearch(x.bounds, d.Seconds())
	at := &x.of[i]
	if last := at.Load(); last != nil && time.Since(last.Timestamp) < exemplarEvery {
		return nil
	}
	return at
}

// keep keeps an exemplar of d, unless it has no labels.
func (e *exemplar) keep(d time.Duration, labels prometheus.Labels) {
	if len(labels) > 0 {
		e.Store(&prometheus.Exemplar{Value: d.Seconds(), Labels: labels, Timestamp: time.Now()})
	}
}

// withExemplars returns m, which is of h, with the exemplars of h; without any if one has
// labels that cannot be.
func (h *histogram) withExemplars(m prometheus.Metric) prometheus.Metric {
	var all []prometheus.Exemplar
	for i := range h.exemplars.of {
		if e := h.exemplars.of[i].Load(); e != nil {
			all = append(all, *e)
		}
	}
	if len(all) == 0 {
		return m
	}
	with, err := prometheus.NewMetricWithExemplars(m, all...)
	if err != nil {
		return m
	}
	return with
}

// A histogramMetric is a histogram at a scrape.
type histogramMetric struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	h      *histogram
}

func (m histogramMetric) Desc() *prometheus.Desc { return m.desc }

// Write reads each count once, and what it writes is made of these alone. The sum may be
// ahead of them by events that are being counted at this moment.
func (m histogramMetric) Write(out *dto.Metric) error {
	l := m.h.layout
	buckets := make([]*dto.Bucket, len(l.bounds))
	native := make([]uint64, natives+1)
	total, cell := uint64(0), 0
	for i := range native {
		for bound := l.first[i].bound; ; bound++ {
			n := m.h.counts[cell].Load()
			native[i] += n
			total += n
			cell++
			if bound == l.first[i+1].bound {
				break
			}
			upper, cumulative := l.bounds[bound], total
			buckets[bound] = &dto.Bucket{UpperBound: &upper, CumulativeCount: &cumulative}
		}
	}
	sum := time.Duration(m.h.sum.Load()).Seconds()
	out.Label = m.labels
	out.Histogram = &dto.Histogram{
		SampleCount: &total,
		SampleSum:   &sum,
		Bucket:      buckets,
	}
	encodeNative(out.Histogram, native)
	return nil
}

// encodeNative adds the counts of native buckets, the first being what counts as zero:
// as spans of buckets that are not empty, and in these each count as the difference to
// the one before. Short gaps are filled with empty buckets, as a span takes as much room
// as two.
func encodeNative(h *dto.Histogram, counts []uint64) {
	threshold := math.Exp2(minExp)
	h.Schema = new(int32(schema))
	h.ZeroThreshold = &threshold
	h.ZeroCount = new(counts[0])
	const maxGap = 2
	last := int64(0)
	end := 0 // of the last span, as an index into counts
	for i, n := range counts {
		if i == 0 || n == 0 {
			continue
		}
		if gap := i - end; end > 0 && gap <= maxGap {
			for ; end < i; end++ {
				extend(h, &last, 0)
			}
		} else {
			offset := int32(gap)
			if end == 0 { // the first: from bucket 0 of Prometheus, which ends at 1 s
				offset = int32(i + minExp*perOctave)
			}
			h.PositiveSpan = append(h.PositiveSpan, &dto.BucketSpan{Offset: &offset, Length: new(uint32)})
		}
		extend(h, &last, int64(n))
		end = i + 1
	}
}

// extend adds a bucket with n events to the last span.
func extend(h *dto.Histogram, last *int64, n int64) {
	*h.PositiveSpan[len(h.PositiveSpan)-1].Length++
	h.PositiveDelta = append(h.PositiveDelta, n-*last)
	*last = n
}
