package taskpool

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// This file finds the worker on whose goroutine it is called. A wait needs that where
// its context does not say which task waits: with the context of a request, or in a
// function given to Go, which has none. A goroutine can be identified only by its
// number, and the runtime reveals that only together with a stack, which takes some
// 5 to 100 µs. So two cheaper questions come first: whether any worker of any pool is
// at work at all, and whether the stack of this goroutine ends in a worker.

// workersByGoroutine holds the workers of all pools by the number of their goroutine,
// from before the goroutine calls user code until it ends.
var workersByGoroutine [64]struct {
	mu      sync.Mutex
	workers map[uint64]*worker
}

// activePools is the number of pools with slots held, attempts parked or workers abandoned.
var activePools atomic.Int64

// anyPoolActive reports whether the caller may be on a worker's goroutine.
func anyPoolActive() bool { return activePools.Load() > 0 }

// workerReturn is the address to which the function recovered returns on the
// goroutine of every worker; 0 until there is one.
var workerReturn atomic.Uintptr

// register records the calling goroutine as w's.
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

// unregister undoes register before the goroutine ends.
func (w *worker) unregister(goroutine uint64) {
	shard := &workersByGoroutine[goroutine%uint64(len(workersByGoroutine))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	delete(shard.workers, goroutine)
}

// currentWorker returns the worker, of any pool, on whose goroutine it is called, or nil
// if there is none: the innermost guest or, if there is none, the one that the goroutine
// belongs to. No lock may be held. On other goroutines it takes well below a microsecond,
// unless their stacks are deep.
func currentWorker() *worker {
	guests, bottom := stackShows()
	if guests {
		if here := guestsHere(); len(here) > 0 {
			return here[0]
		}
	}
	if !bottom {
		return nil
	}
	return goroutineWorker()
}

// goroutineWorker returns the worker that the calling goroutine belongs to, nil if it is none's.
func goroutineWorker() *worker {
	goroutine := goroutineID()
	shard := &workersByGoroutine[goroutine%uint64(len(workersByGoroutine))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.workers[goroutine]
}

// stackShows reports whether a guest is on the stack of the calling goroutine, and whether
// that was started as a worker's.
func stackShows() (guests, bottom bool) {
	guest, target := guestReturn.Load(), workerReturn.Load()
	if guest == 0 && target == 0 {
		return false, false
	}
	var few [64]uintptr
	frames := few[:]
	n := runtime.Callers(2, frames)
	for n == len(frames) { // the end of the stack is what counts
		frames = make([]uintptr, 8*len(frames))
		n = runtime.Callers(2, frames)
	}
	for _, pc := range frames[max(n-4, 0):n] { // below main there is little but goexit
		bottom = bottom || pc == target
	}
	return guest != 0 && slices.Contains(frames[:n], guest), bottom
}

// goroutineID returns the number that stack dumps give the calling goroutine. It only
// serves to find a worker by its goroutine; nothing else is attached to it.
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

// currentAttempt returns the attempt, of any pool, on whose goroutine it is called, or nil
// if there is none. No lock may be held. A function given to Go, which runs without an
// attempt, gets one now.
func currentAttempt() *attempt {
	w := currentWorker()
	if w == nil || w.attempt == nil && !w.inUserCode {
		return nil
	}
	if w.attempt == nil {
		w.adopt()
	}
	return w.attempt
}

// adopt turns the function that w runs into a task with an attempt, so that it can be
// parked. It is called on the worker's own goroutine.
func (w *worker) adopt() {
	p := w.pool
	p.lock()
	defer p.unlock()
	now := time.Now()
	h := newHandle(context.Background())
	h.pool, h.function = p, &goFunction{w.job.f, w.sampleOf()}
	h.state, h.attempts, h.priority = StateRunning, 1, w.priority
	p.sched.adoptPlace(h)
	a := h.first
	a.h, a.w, a.pool, a.number, a.priority, a.started = h, w, p, 1, int64(w.priority), w.sinceLocked(now)
	a.slice.Store(int64(now.Sub(p.epoch)))
	a.signal.Store(signalBegun)
	h.attempt, w.attempt, w.job = a, a, entry{h: h}
	if p.end.cut != nil {
		a.noteEnd(cutOff)
	}
	if len(p.sched.flowLoans) > 0 { // h was lent to for its flow
		p.restoreLocked()
	}
}

// A panicSite is the stack of a goroutine that panics or hangs.
type panicSite struct {
	goroutine uint64
	frames    []uintptr
	cut       bool // the stack is deeper than frames
}

const maxPanicFrames = 100

// newPanicSite returns the stack of the calling goroutine, which has the given
// number, from the call of panic on. The caller must be the deferred function that
// recovers.
func newPanicSite(goroutine uint64) panicSite {
	var frames [maxPanicFrames]uintptr
	n := runtime.Callers(3, frames[:])
	return panicSite{goroutine, slices.Clone(frames[:n]), n == len(frames)}
}

// stack returns the stack as text, as that of a goroutine that is running.
func (s panicSite) stack() []byte { return s.text("running") }

// state returns what the goroutine, which is not the caller's, is doing.
func (s panicSite) state() string {
	if f, _ := runtime.CallersFrames(s.frames).Next(); f.Function == "runtime.gopark" {
		return "waiting"
	}
	return "running"
}

// text returns the stack as text. Unlike debug.Stack, which takes a lock of the
// runtime for each word it prints, it takes none: otherwise workers whose tasks
// panic at the same time would wait for each other.
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

// Only a look at all goroutines tells where a hung task is stuck. A dump of their
// stacks stops the whole program while it walks all of them, even if only the first
// are printed: half a second with 20,000 goroutines. The goroutine profile stops it
// twice, for a moment each, and has everything but the goroutines' numbers, so each
// worker has its own as a label. A task that removes the labels and then hangs is
// found by a dump if there are few goroutines, and otherwise not at all.
//
// A profile costs CPU, tens of milliseconds with 20,000 goroutines, and in a storm
// of hangs that would take up all of it. So what is spent on hung tasks is bounded,
// and one look serves all tasks of a pool that hang or may do so before long.

// labelGoroutine is the label with the number of a worker's goroutine. Goroutines that
// its tasks start inherit it.
const labelGoroutine = "worker_goroutine"

// workerMain is a function that all workers have on their stacks, unless these are too
// deep for a profile, and that no goroutines started by their tasks have. It is the one
// that main calls, not main itself: a worker that was just started still has the labels
// of the goroutine that started it.
const workerMain = "github.com/taskpool-go/taskpool.(*worker).recovered"

const (
	maxSeen    = 1 << 17 // goroutines; with more a look would take seconds
	maxDumped  = 1000    // goroutines; with more a dump would stop the program for more than a few milliseconds
	dumpSize   = 1 << 20
	maxLooks   = 100 * time.Millisecond // time that looks for hung tasks may take at once
	looksShare = 100                    // and in the long run: one part in looksShare
)

// looks is the budget for looks at hung tasks, one for the whole program.
var looks = budget{left: maxLooks}

// A budget is time that may be spent. It grows by 1/looksShare of the time that passes,
// up to maxLooks.
type budget struct {
	mu   sync.Mutex
	left time.Duration // negative after a long look
	at   time.Time     // when left had that value
}

// ask reports whether anything is left at now.
func (b *budget) ask(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.at); passed < 0 { // a test's clock is another one
		b.left = maxLooks
	} else {
		b.left = min(b.left+passed/looksShare, maxLooks)
	}
	b.at = now
	return b.left > 0
}

func (b *budget) spend(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left -= d
}

// look returns, as text, the stacks of the goroutines with the given numbers, which are
// workers', without those that it could not find.
func look(goroutines []uint64) map[uint64][]byte {
	stacks := make(map[uint64][]byte, len(goroutines))
	n := runtime.NumGoroutine()
	if n > maxSeen {
		return stacks
	}
	s := &profileScanner{wanted: make(map[string]uint64, len(goroutines)), found: make(map[uint64]panicSite)}
	for _, id := range goroutines {
		if id != 0 {
			s.wanted[strconv.FormatUint(id, 10)] = id
		}
	}
	_ = pprof.Lookup("goroutine").WriteTo(s, 1) // s returns no error
	for id, site := range s.found {
		stacks[id] = site.text(site.state())
	}
	if len(stacks) < len(s.wanted) && n <= maxDumped {
		dumped(s.wanted, stacks)
	}
	return stacks
}

// dumped adds the wanted stacks that are missing, from a dump.
func dumped(wanted map[string]uint64, stacks map[uint64][]byte) {
	buf := make([]byte, dumpSize)
	for dump := range bytes.SplitSeq(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		fields := bytes.Fields(dump[:min(len(dump), 64)])
		if len(fields) < 2 {
			continue
		}
		if id, ok := wanted[string(fields[1])]; ok && stacks[id] == nil {
			stacks[id] = bytes.Clone(dump)
		}
	}
}

// noStack returns what stands in for a stack that could not be obtained.
func noStack(goroutine uint64, why string) []byte {
	return fmt.Appendf(nil, "goroutine %d [unknown]:\n(%s)\n", goroutine, why)
}

// earlier returns stack with a note that it was taken that long before its goroutine was
// given up.
func earlier(stack []byte, before time.Duration) []byte {
	note := fmt.Sprintf(", %v before it was given up]:", before.Round(time.Millisecond))
	return bytes.Replace(stack, []byte("]:"), []byte(note), 1)
}

// A profileScanner is an [io.Writer] that finds stacks in a goroutine profile in the
// format of debug=1, in which goroutines with the same stack and the same labels share
// one entry:
//
//	1 @ 0x4a2f0e 0x43bd2b 0x4a9f7f
//	# labels: {"pool":"p", "worker":"1", "worker_goroutine":"34"}
//	#	0x4a2f0d	main.f+0x2d	/tmp/f.go:12
//
// It uses the first two lines; the rest says the same for people, without the frames
// of the runtime.
type profileScanner struct {
	wanted map[string]uint64
	found  map[uint64]panicSite
	line   []byte // the beginning of an unfinished line
	stack  []byte // the last line that began with a number and @
}

var _ io.Writer = (*profileScanner)(nil)

func (s *profileScanner) Write(p []byte) (int, error) {
	for rest := p; ; {
		line, after, over := bytes.Cut(rest, []byte("\n"))
		s.line = append(s.line, line...)
		if !over {
			return len(p), nil
		}
		s.scan(s.line)
		s.line, rest = s.line[:0], after
	}
}

func (s *profileScanner) scan(line []byte) {
	const label = `"` + labelGoroutine + `":"`
	if labels, ok := bytes.CutPrefix(line, []byte("# labels: ")); ok {
		if _, value, ok := bytes.Cut(labels, []byte(label)); ok {
			number, _, _ := bytes.Cut(value, []byte(`"`))
			if id, ok := s.wanted[string(number)]; ok {
				s.take(id, string(s.stack))
			}
		}
	} else if len(line) > 0 && line[0] != '#' {
		s.stack = append(s.stack[:0], line...)
	}
}

// take takes a stack with the label of a worker's goroutine, if it is that goroutine's.
func (s *profileScanner) take(id uint64, stack string) {
	_, pcs, _ := strings.Cut(stack, "@")
	site := panicSite{goroutine: id}
	for field := range strings.FieldsSeq(pcs) {
		pc, err := strconv.ParseUint(field, 0, 64)
		if err != nil {
			return
		}
		site.frames = append(site.frames, uintptr(pc))
	}
	worker, last := false, ""
	for frames, more := runtime.CallersFrames(site.frames), len(site.frames) > 0; more; {
		var f runtime.Frame
		f, more = frames.Next()
		worker, last = worker || f.Function == workerMain, f.Function
	}
	site.cut = last != "runtime.goexit"
	switch _, found := s.found[id]; {
	case worker:
		s.found[id] = site
	case site.cut && !found: // too deep to tell; the worker itself, if it is there, takes its place
		s.found[id] = site
	} // else it has all frames, and is of a goroutine that a task has started
}

// Labels that a task or a hook sets on its worker's goroutine do not outlast it: the
// worker sets its own again before each task, before hooks are told and before it
// sleeps. That takes a few nanoseconds, which is too long for functions given to Go
// that run one after the other: between those, it does so once in labelEvery. Run's
// context has the worker's labels in addition to those of the context given to Submit,
// so that the goroutine has them after pprof.Do. They are made when a context is asked
// for the key under which package runtime/pprof keeps labels. The package does not
// export that key, but it can be seen when the package asks a context for it.

const labelEvery = 64

// labelKey is that key; nil if package runtime/pprof does not ask a context for one.
var labelKey = func() any {
	var probe keyProbe
	pprof.WithLabels(&probe, pprof.Labels())
	return probe.key
}()

// A keyProbe is a context that records the first key that it is asked for.
type keyProbe struct {
	context.Context
	key any
}

func (p *keyProbe) Value(key any) any {
	if p.key == nil {
		p.key = key
	}
	return nil
}

// workerLabels are the labels of a worker.
type workerLabels struct {
	set pprof.LabelSet
	ctx context.Context // has these labels and is asked for nothing else
}

// A labelContext is a context that is asked for nothing but labels.
type labelContext struct {
	context.Context
	labels any
}

func (c *labelContext) Value(any) any { return c.labels }

func newWorkerLabels(labels ...string) *workerLabels {
	l := &workerLabels{set: pprof.Labels(labels...)}
	l.ctx = pprof.WithLabels(context.Background(), l.set)
	if labels := l.ctx.Value(labelKey); labels != nil {
		l.ctx = &labelContext{l.ctx, labels}
	}
	return l
}

// label sets the profiler labels of the calling goroutine, which is w's. Goroutines
// that its tasks start inherit the labels.
func (w *worker) label() {
	w.labels.Store(newWorkerLabels("pool", w.pool.cfg.name,
		"worker", strconv.Itoa(w.id), labelGoroutine, strconv.FormatUint(w.goroutine.Load(), 10)))
	w.relabel()
}

// relabel sets these labels again. A guest's goroutine is not the pool's to label.
func (w *worker) relabel() {
	if w.guest == nil {
		pprof.SetGoroutineLabels(w.labels.Load().ctx)
	}
}
