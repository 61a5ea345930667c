package dashboard

import (
	"iter"
	"time"
)

// A step is what came to pass in one step of time. The last of them are in an array, each at its
// number modulo their number, and nil if that was never used: so a time that is over is forgotten
// when its place is needed, and no timer has to see to it.
type step[S any] struct {
	number int64 // steps since the epoch
	of     S
}

// stepAt returns the step under way at a time, of that length. It is zero if it has just begun.
func stepAt[S any](steps []*step[S], length, now time.Duration) *S {
	number := int64(now / length)
	s := &steps[number%int64(len(steps))]
	switch {
	case *s == nil:
		*s = &step[S]{number: number}
	case (*s).number != number:
		**s = step[S]{number: number}
	}
	return &(*s).of
}

// lately returns those of the last steps, the one under way included, in which something came to
// pass, the oldest first, with their places: that of the one under way is len(steps)-1.
func lately[S any](steps []*step[S], length, now time.Duration) iter.Seq2[int, *S] {
	return func(yield func(int, *S) bool) {
		first := int64(now/length) - int64(len(steps)) + 1
		for i := range steps {
			number := first + int64(i)
			if number < 0 {
				continue
			}
			if s := steps[number%int64(len(steps))]; s != nil && s.number == number && !yield(i, &s.of) {
				return
			}
		}
	}
}
