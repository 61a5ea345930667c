// Package comeback says when a request that was refused should come again, to packages httppool
// and grpcpool.
package comeback

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

const most = time.Hour

// After returns a time at random, in seconds, between wait and twice that. It is at least a second
// and at most an hour.
func After(wait time.Duration) time.Duration {
	wait = min(max(wait, time.Second), most/2)
	wait += rand.N(wait) + rand.N(time.Second) // so that it is as likely to be rounded up as it is near
	return wait.Truncate(time.Second)
}

// Waits are the waits that a pool expects, by priority and flow, as they have been for up to a
// second. To ask the pool costs more the more lanes it has, and refusals come by the thousand.
type Waits struct {
	mu sync.Mutex // protects the field below
	of map[lane]expected
}

type lane struct {
	priority taskpool.Priority
	flow     string
}

type expected struct {
	wait time.Duration
	at   time.Time
}

const (
	holds   = time.Second // is for how long an expectation counts
	maxKept = 1000
)

// Expected returns what p.ExpectedWait does.
func (w *Waits) Expected(p *taskpool.Pool, pr taskpool.Priority, flow string) time.Duration {
	key, now := lane{pr, flow}, time.Now()
	w.mu.Lock()
	e, has := w.of[key]
	if has && now.Sub(e.at) < holds {
		w.mu.Unlock()
		return e.wait
	}
	e.at = now
	w.keepLocked(key, e) // so that others do not ask meanwhile
	w.mu.Unlock()
	e.wait = p.ExpectedWait(pr, flow)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keepLocked(key, e)
	return e.wait
}

func (w *Waits) keepLocked(key lane, e expected) {
	if w.of == nil || len(w.of) >= maxKept {
		w.of = make(map[lane]expected)
	}
	w.of[key] = e
}
