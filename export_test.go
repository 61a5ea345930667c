package taskpool

import (
	"context"
	"time"
)

// MakeLate has the supervisor take a turn at once that comes late by d for every
// task that it watches, and returns how many these are.
func (p *Pool) MakeLate(d time.Duration) int {
	p.lock()
	defer p.unlock()
	due := time.Now().Add(-d)
	for _, w := range p.watch.watched.items { // all alike, so the heap stays one
		if w.watch = due; w.ending {
			w.graceEnd = due
		} else {
			w.beatDue, w.half = due, true
		}
	}
	p.supervisor.alarmLocked()
	return p.watch.watched.Len()
}

// WithGivingUp has f called when the supervisor is about to give up on tasks, while
// it holds no lock.
func WithGivingUp(f func()) Option {
	return optionFunc(func(c *config) { c.givingUp = f })
}

// MakeRoundLate has the supervisor take a turn at once at which the round under way
// is late by d. It returns false if there are no rounds.
func (p *Pool) MakeRoundLate(d time.Duration) bool {
	p.lock()
	defer p.unlock()
	if p.watch.rounds.long == 0 {
		return false
	}
	p.watch.rounds.next = time.Now().Add(-d)
	p.supervisor.alarmLocked()
	return true
}

// SilenceOnly returns a channel that is closed when the context of an attempt ends,
// if that is for its silence.
func SilenceOnly(ctx context.Context) <-chan struct{} {
	if a := attemptFrom(ctx); a.h.extras().Heartbeat > 0 {
		return ctx.Done()
	}
	return nil
}

// AllowLooks makes good what looks at hung tasks have cost so far.
func AllowLooks() {
	looks.mu.Lock()
	defer looks.mu.Unlock()
	looks.left = maxLooks
}

// Marks returns how many marks of arrivals the pool keeps for Stats.
func (p *Pool) Marks() int {
	p.lock()
	defer p.unlock()
	return len(p.ledger.clock.marks)
}

// UntilNextLook returns when the supervisor looks again whether p stands still, from now
// on; 0 if there is nothing to look after.
func (p *Pool) UntilNextLook() time.Duration {
	p.lock()
	defer p.unlock()
	if p.stall.next.IsZero() {
		return 0
	}
	return time.Until(p.stall.next)
}
