package dashboard

import (
	"math"
	"math/bits"
	"time"
)

// A histogram counts durations in buckets that are a sixteenth of an octave wide, so
// that a quantile is off by 3 % at most. Anything over 9 hours counts as that.
type histogram struct {
	total  uint64
	counts [numBuckets]uint64
}

const (
	subBits    = 4
	sub        = 1 << subBits
	maxBits    = 45
	numBuckets = (maxBits - subBits + 1) * sub
)

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < sub {
		return int(v)
	}
	v = min(v, 1<<maxBits-1)
	shift := bits.Len64(v) - subBits - 1
	return shift*sub + int(v>>shift)
}

// valueOf returns the middle of a bucket.
func valueOf(bucket int) time.Duration {
	if bucket < 2*sub {
		return time.Duration(bucket)
	}
	shift := bucket/sub - 1
	return time.Duration((bucket-shift*sub)<<shift + 1<<shift>>1)
}

func (h *histogram) add(d time.Duration, weight uint64) {
	h.total += weight
	h.counts[bucketOf(d)] += weight
}

// quantile returns the least duration that a share q of all does not exceed, 0 of
// none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	return valueOf(bucketAt(h.counts[:], h.total, q))
}

// bucketAt returns the first bucket up to which a share q of all counts is, of which there are some.
func bucketAt(counts []uint64, total uint64, q float64) int {
	rank := max(uint64(math.Ceil(q*float64(total))), 1)
	var seen uint64
	for i, n := range counts {
		if seen += n; seen >= rank {
			return i
		}
	}
	return len(counts) - 1
}

// A window is a histogram of the last minute, in steps of 5 seconds: it holds the
// step under way and the 11 before.
type window struct {
	steps [windowSteps]*step[histogram]
}

const (
	windowStepLen = 5 * time.Second
	windowSteps   = 12
)

func (w *window) add(now, d time.Duration, weight uint64) {
	stepAt(w.steps[:], windowStepLen, now).add(d, weight)
}

// sum returns the histogram of what the window holds at a time.
func (w *window) sum(now time.Duration) (all histogram) {
	for _, s := range lately(w.steps[:], windowStepLen, now) {
		all.total += s.total
		for i, n := range s.counts {
			all.counts[i] += n
		}
	}
	return all
}

// A sketch is a window that takes a fifth of the memory: its steps are 10 seconds long and its
// buckets twice as wide, so that a quantile is off by 6 % at most.
type sketch struct {
	steps [sketchSteps]*step[sketchStep]
}

type sketchStep struct {
	total  uint64
	counts [numBuckets / 2]uint32
}

const (
	sketchStepLen = 10 * time.Second
	sketchSteps   = 6
)

func (w *sketch) add(now, d time.Duration, weight uint64) {
	s := stepAt(w.steps[:], sketchStepLen, now)
	s.total += weight
	s.counts[bucketOf(d)/2] += uint32(weight)
}

// quantiles returns those of what the sketch holds at a time.
func (w *sketch) quantiles(now time.Duration) (q quantiles) {
	var total uint64
	var counts [numBuckets / 2]uint64
	for _, s := range lately(w.steps[:], sketchStepLen, now) {
		total += s.total
		for i, n := range s.counts {
			counts[i] += uint64(n)
		}
	}
	if total == 0 {
		return quantiles{}
	}
	q.Known = true
	for _, want := range []struct {
		share float64
		of    *time.Duration
	}{{.50, &q.P50}, {.95, &q.P95}, {.99, &q.P99}} {
		i := bucketAt(counts[:], total, want.share)
		*want.of = (valueOf(2*i) + valueOf(2*i+1)) / 2
	}
	return q
}
