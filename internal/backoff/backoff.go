// Package backoff computes how long to wait before something that failed is tried again.
package backoff

import (
	"math/rand/v2"
	"time"
)

// The bounds of [FullJitter].
const (
	first = 100 * time.Millisecond
	limit = 30 * time.Second
)

// Exponential returns first, which is positive, doubled with each failure in a row after
// the first one, but at most limit.
func Exponential(first, limit time.Duration, failures int) time.Duration {
	d := first
	for ; failures > 1 && d < limit; failures-- {
		if d > limit/2 {
			return limit
		}
		d *= 2
	}
	return min(d, limit)
}

// FullJitter returns the time from the end of attempt n, counted from 1, to the next,
// where nobody has said how long: uniform between 0 and 100 ms doubled with each attempt,
// at most 30 s. That spreads the retries of tasks that failed together evenly, see Marc
// Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
func FullJitter(attempt int) time.Duration {
	return rand.N(Exponential(first, limit, attempt) + 1)
}
