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
	rank := uint64(math.Ceil(q * float64(h.total)))
	var seen uint64
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return valueOf(i)
		}
	}
	return 0
}

// A window is a histogram of the last minute, in steps of 5 seconds: it holds the
// step under way and the 11 before.
type window struct {
	steps [windowSteps]*windowStep // by number modulo windowSteps; nil if never used
}

type windowStep struct {
	number int64 // steps since the beginning
	histogram
}

const (
	windowStepLen = 5 * time.Second
	windowSteps   = 12
)

func (w *window) add(now, d time.Duration, weight uint64) {
	number := int64(now / windowStepLen)
	s := &w.steps[number%windowSteps]
	switch {
	case *s == nil:
		*s = &windowStep{number: number}
	case (*s).number != number:
		**s = windowStep{number: number}
	}
	(*s).add(d, weight)
}

// sum returns the histogram of what the window holds at a time.
func (w *window) sum(now time.Duration) (all histogram) {
	first := int64(now/windowStepLen) - windowSteps + 1
	for _, s := range w.steps {
		if s == nil || s.number < first {
			continue
		}
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
	steps [sketchSteps]*sketchStep // by number modulo sketchSteps; nil if never used
}

type sketchStep struct {
	number int64
	total  uint64
	counts [numBuckets / 2]uint32
}

const (
	sketchStepLen = 10 * time.Second
	sketchSteps   = 6
)

func (w *sketch) add(now, d time.Duration, weight uint64) {
	number := int64(now / sketchStepLen)
	s := &w.steps[number%sketchSteps]
	switch {
	case *s == nil:
		*s = &sketchStep{number: number}
	case (*s).number != number:
		**s = sketchStep{number: number}
	}
	(*s).total += weight
	(*s).counts[bucketOf(d)/2] += uint32(weight)
}

// quantiles returns those of what the sketch holds at a time.
func (w *sketch) quantiles(now time.Duration) (q quantiles) {
	first := int64(now/sketchStepLen) - sketchSteps + 1
	var total uint64
	var counts [numBuckets / 2]uint64
	for _, s := range w.steps {
		if s == nil || s.number < first {
			continue
		}
		total += s.total
		for i, n := range s.counts {
			counts[i] += uint64(n)
		}
	}
	q.Known = total > 0
	for _, want := range []struct {
		share float64
		of    *time.Duration
	}{{.50, &q.P50}, {.95, &q.P95}, {.99, &q.P99}} {
		rank := uint64(math.Ceil(want.share * float64(total)))
		var seen uint64
		for i, n := range counts {
			if seen += n; n > 0 && seen >= rank {
				*want.of = (valueOf(2*i) + valueOf(2*i+1)) / 2
				break
			}
		}
	}
	return q
}
