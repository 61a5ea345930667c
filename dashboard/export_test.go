package dashboard

import "time"

// Taken returns when the last snapshot was begun.
func Taken(d *Dashboard) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.taken
}

// Histories returns of how many pools the dashboard notes what hooks tell.
func Histories(d *Dashboard) (n int) {
	for range d.pools.All {
		n++
	}
	return n
}
