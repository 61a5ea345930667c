package taskpool

import (
	"bytes"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

// This file finds the worker on whose goroutine it is called. A wait asks for it
// where its context does not say which task waits: with the context of a request, or in
// a function given to Go, which has none. A goroutine can be known only by its
// number, and the runtime tells that only together with a stack, which takes some
// 5 to 100 µs. So two cheaper questions come first: whether any worker of any pool is
// at work at all, and whether the stack of this goroutine ends in a worker.

// workersByGoroutine holds the workers of all pools by the number of their goroutine,
// from before it calls user code until it ends.
var workersByGoroutine [64]struct {
	mu      sync.Mutex
	workers map[uint64]*worker
}

// activePools is the number of pools with tasks that hold a slot or are parked.
var activePools atomic.Int64

// anyPoolActive reports whether anybody may be on a worker's goroutine.
func anyPoolActive() bool { return activePools.Load() > 0 }

// workerReturn is the address to which the function recovered returns on the
// goroutine of every worker; 0 before there was one.
var workerReturn atomic.Uintptr

// register makes the calling goroutine known as that of w.
func (w *worker) register(goroutine uint64) {
	w.goroutine.Store(goroutine)
	shard := &workersByGoroutine[goroutine%uint64(len(workersByGoroutine))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.workers == nil {
		shard.workers = make(map[uint64]*worker)
	}
	shard.workers[goroutine] = w
}

// unregister takes that back, as the goroutine ends.
func (w *worker) unregister(goroutine uint64) {
	shard := &workersByGoroutine[goroutine%uint64(len(workersByGoroutine))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	delete(shard.workers, goroutine)
}

// currentWorker returns the worker, of any pool, on whose goroutine it is called, nil
// if there is none. No lock may be held. It takes well below a microsecond on other
// goroutines, unless their stacks are deep.
func currentWorker() *worker {
	if !endsInWorker() {
		return nil
	}
	goroutine := goroutineID()
	shard := &workersByGoroutine[goroutine%uint64(len(workersByGoroutine))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.workers[goroutine]
}

// endsInWorker reports whether the calling goroutine was started as a worker's.
func endsInWorker() bool {
	target := workerReturn.Load()
	if target == 0 {
		return false
	}
	var few [64]uintptr
	frames := few[:]
	n := runtime.Callers(2, frames)
	for n == len(frames) { // the end of the stack is what counts
		frames = make([]uintptr, 8*len(frames))
		n = runtime.Callers(2, frames)
	}
	for _, pc := range frames[max(n-4, 0):n] { // below main there is little but goexit
		if pc == target {
			return true
		}
	}
	return false
}

// goroutineID returns the number by which stack dumps name the calling goroutine. It
// serves to find a worker by its goroutine; nothing is attached to it.
func goroutineID() uint64 {
	var buf [64]byte
	head := buf[:runtime.Stack(buf[:], false)]
	return parseGoroutineID(head)
}

// parseGoroutineID returns the number in the first line of a stack dump,
// "goroutine 7 [running]:", and 0 if there is none.
func parseGoroutineID(head []byte) uint64 {
	fields := bytes.Fields(head)
	if len(fields) < 2 {
		return 0
	}
	id, _ := strconv.ParseUint(string(fields[1]), 10, 64)
	return id
}

// A panicSite is the stack of a goroutine that panics, or hangs.
type panicSite struct {
	goroutine uint64
	frames    []uintptr
	cut       bool // it is deeper
}

const maxPanicFrames = 100

// newPanicSite returns the stack of the calling goroutine, which has the given
// number, from the call of panic on: the caller is the deferred function that
// recovers.
func newPanicSite(goroutine uint64) panicSite {
	var frames [maxPanicFrames]uintptr
	n := runtime.Callers(3, frames[:])
	return panicSite{goroutine, slices.Clone(frames[:n]), n == len(frames)}
}

// stack returns the stack of the goroutine, which runs, as text.
func (s panicSite) stack() []byte { return s.text("running") }

// state returns what the goroutine, another one, does.
func (s panicSite) state() string {
	if f, _ := runtime.CallersFrames(s.frames).Next(); f.Function == "runtime.gopark" {
		return "waiting"
	}
	return "running"
}

// text returns the stack as text. Unlike debug.Stack it takes no lock of the
// runtime, which that does for each word it prints: workers whose tasks panic at
// the same time would wait for each other.
func (s panicSite) text(state string) []byte {
	text := make([]byte, 0, 1024)
	text = append(text, "goroutine "...)
	text = strconv.AppendUint(text, s.goroutine, 10)
	text = append(text, " ["...)
	text = append(text, state...)
	text = append(text, "]:\n"...)
	for frames, more := runtime.CallersFrames(s.frames), true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		name := f.Function
		if name == "runtime.gopanic" {
			name = "panic" // as debug.Stack calls it
		}
		text = append(text, name...)
		text = append(text, "(...)\n\t"...)
		text = append(text, f.File...)
		text = append(text, ':')
		text = strconv.AppendInt(text, int64(f.Line), 10)
		text = append(text, '\n')
	}
	if s.cut {
		text = append(text, "...additional frames elided...\n"...)
	}
	return text
}
