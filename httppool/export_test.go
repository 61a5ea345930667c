package httppool

import "runtime"

// Services collects garbage and returns how many pools have a service.
func Services() int {
	runtime.GC()
	services.mu.Lock()
	defer services.mu.Unlock()
	return len(services.of)
}
