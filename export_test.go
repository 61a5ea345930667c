package taskpool

import "runtime"

// StaysLocked reports whether p.mu is held for as long as the caller looks,
// which it is if the caller holds it itself. Others hold it for a moment only.
func (p *Pool) StaysLocked() bool {
	for range 1_000_000 {
		if p.mu.TryLock() {
			p.mu.Unlock()
			return false
		}
		runtime.Gosched()
	}
	return true
}

// Waiting returns how many attempts are parked until h has settled.
func (h *Handle) Waiting() int {
	h.pool.mu.Lock()
	defer h.pool.mu.Unlock()
	return len(h.waiting)
}
