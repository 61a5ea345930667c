package process

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/backoff"
	"github.com/taskpool-go/taskpool/internal/remote"
)

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 30 * time.Second

	// hopeless is how many starts of a child must have failed in a row, for each of
	// the children, before calls are told so instead of waiting.
	hopeless = 5

	// earlyDeath is how soon after its start a child that dies without having been
	// called counts as one that did not start.
	earlyDeath = time.Second

	// maxHandovers is how many children a call is given to that die before it has
	// begun.
	maxHandovers = 3

	// fairTurn is the turn, of those that had a choice, that goes to the caller that
	// has waited longest.
	fairTurn = 16
)

// Workers are child processes that functions are called in. It is made by [Start],
// ended by [Workers.Shutdown], and safe for concurrent use. It must not be copied.
//
// Each child has a keeper, a goroutine that starts it, waits for its death and
// starts the next one. Children that are ready and have no call are idle; callers
// that find none wait. What holds whenever mu is free:
//
//   - There is no idle child while callers wait.
//   - calls counts those who wait and those who have a child; once closing is set it
//     only falls, and drained is closed when it is 0.
//   - A child that is known to have died is not idle.
type Workers struct {
	self    *Workers // what Start has returned: others are refused
	cfg     *config
	stderr  *serialWriter
	stop    chan struct{} // closed when the keepers are to end
	keepers sync.WaitGroup
	ended   chan struct{} // closed when they have
	drained chan struct{} // closed when the last call is over after Shutdown

	mu       sync.Mutex // protects the fields below; nothing blocks and no user code runs under it
	idle     []*worker  // the one that was at work last is at the end
	children map[*worker]struct{}
	waiting  callerHeap
	arrivals uint64 // of callers, ever
	turns    int    // choices since the last fair turn
	calls    int
	busy     int
	closing  bool
	stopped  bool // stop is closed
	cut      bool // Shutdown's context has ended
	hopeless int  // keepers without hope
	startErr error
	stats    Stats
}

// Stats are figures of Workers, all of one moment. A death is counted as soon as the
// process has been waited for, which may be a moment after the call has failed.
type Stats struct {
	Workers int // children there are to be
	Idle    int // children ready for a call
	Busy    int // children at work on a call
	Waiting int // calls that wait for a child

	Calls   uint64 // calls that were given to a child, ever
	Started uint64 // children that became ready
	Died    uint64 // children that died by themselves, or by somebody else's signal
	Killed  uint64 // children killed: by the end of a call's context or of Shutdown's, the memory limit or nonsense that they sent
	Worn    uint64 // children replaced by WithMaxCalls or WithMaxMemory between two calls

	StartFailures  uint64 // children that did not become ready, or died within a second of that without a call
	LastStartError error  // why the latest of them failed; nil if none has since one was started
}

// Start starts child processes of this program and returns when all are ready for
// calls. [Main] must have been called before. If an option is bad, or a child
// cannot be started or does not become ready, the error says why, and no child is
// left. In a child Start returns an error: children have no children of their own.
// It returns an error on systems without process groups, such as Windows.
//
// A child is this program's executable, started with no arguments but its name,
// with this program's environment, working directory and standard output, an empty
// standard input and a process group of its own. It ends when this program does,
// however that ends.
func Start(opts ...Option) (*Workers, error) {
	switch {
	case supported != nil:
		return nil, supported
	case self.child != nil || self.cookieErr != nil:
		return nil, errors.New("process: Start called in a child process, which cannot have children of its own")
	case !self.mainCalled.Load():
		return nil, errors.New("process: Start needs a call of process.Main before it, first in main or TestMain")
	}
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	w := &Workers{
		cfg: cfg, stderr: &serialWriter{w: cfg.stderr},
		stop: make(chan struct{}), ended: make(chan struct{}), drained: make(chan struct{}),
		children: make(map[*worker]struct{}),
	}
	w.self = w
	first := make(chan error, cfg.workers)
	for range cfg.workers {
		k := &keeper{w: w}
		w.keepers.Go(func() { k.run(first) })
	}
	go func() {
		w.keepers.Wait()
		close(w.ended)
	}()
	for range cfg.workers {
		if e := <-first; e != nil && err == nil {
			err = e
			w.stopKeepers()
		}
	}
	if err != nil {
		<-w.ended
		return nil, err
	}
	return w, nil
}

// misuse returns the error of a call with Workers that Start has not returned, else nil.
func (w *Workers) misuse(call string) error {
	got := "a copy"
	switch {
	case w == nil:
		got = "nil"
	case w.self == w:
		return nil
	case w.self == nil:
		got = "zero Workers"
	}
	return fmt.Errorf("process: %s: the Workers must be what Start has returned, got %s", call, got)
}

// A keeper keeps one child alive.
type keeper struct {
	w *Workers
	// failures counts the starts that failed in a row.
	failures int
	hopeless bool // counted in w.hopeless
}

// run starts children, one after the other, until the keepers are to end. It tells
// first how the first start went, and ends if that failed.
func (k *keeper) run(first chan<- error) {
	w := k.w
	for {
		began := time.Now()
		c, err := startWorker(w.cfg, w.stderr, w.stop)
		if err == nil {
			k.add(c)
		}
		if first != nil {
			first <- err
			if first = nil; err != nil {
				return
			}
		}
		if err == nil {
			select {
			case <-c.gone:
			case <-w.stop:
				c.retire()
				<-c.gone
			}
			err = k.remove(c, time.Since(began))
		}
		if !k.pause(err) {
			return
		}
	}
}

// add makes a child that is ready known to the callers.
func (k *keeper) add(c *worker) {
	w := k.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.children[c] = struct{}{}
	w.stats.Started++
	w.startErr = nil
	if k.hopeless {
		k.hopeless = false
		w.hopeless--
	}
	w.offerLocked(c)
}

// remove takes leave of a child that is gone. It returns an error if the child was
// of no use.
func (k *keeper) remove(c *worker, lived time.Duration) error {
	w := k.w
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.children, c)
	if i := slices.Index(w.idle, c); i >= 0 {
		w.idle = slices.Delete(w.idle, i, i+1)
	}
	if !c.held {
		c.close() // else whoever has it does
	}
	called, killed, retired := c.history()
	switch {
	case retired: // counted where it was told to
	case killed:
		w.stats.Killed++
	default:
		w.stats.Died++
		if !called && lived < earlyDeath {
			return c.exitError("")
		}
	}
	return nil
}

// pause waits before the next start, if err says that the last one failed. It
// returns false when the keeper is to end.
func (k *keeper) pause(err error) bool {
	w := k.w
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return false
	}
	if err == nil {
		k.failures = 0
		w.mu.Unlock()
		return true
	}
	k.failures++
	w.stats.StartFailures++
	w.startErr = err
	if k.failures >= hopeless {
		k.hopeless = true
		if w.hopeless++; w.hopeless == w.cfg.workers {
			w.refuseLocked(err)
		}
	}
	w.mu.Unlock()
	pause := time.NewTimer(backoff.Exponential(minBackoff, maxBackoff, k.failures))
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-w.stop:
		return false
	}
}

// A caller waits for a child.
type caller struct {
	priority taskpool.Priority
	arrival  uint64
	index    int          // in the heap; -1 once it has its answer
	child    chan *worker // gets the child, or nil if err is why there is none
	err      error
}

// callerHeap implements heap.Interface. The most urgent caller is at the top, and
// the first to have come among equals.
type callerHeap []*caller

func (h callerHeap) Len() int { return len(h) }
func (h callerHeap) Less(i, j int) bool {
	if h[i].priority != h[j].priority {
		return h[i].priority < h[j].priority
	}
	return h[i].arrival < h[j].arrival
}
func (h callerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *callerHeap) Push(x any) {
	c := x.(*caller)
	c.index = len(*h)
	*h = append(*h, c)
}
func (h *callerHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	c.index = -1
	return c
}

// offerLocked gives a child to the caller whose turn it is, or makes it idle.
func (w *Workers) offerLocked(c *worker) {
	if len(w.waiting) == 0 {
		w.idle = append(w.idle, c)
		return
	}
	next := 0
	if len(w.waiting) > 1 {
		if w.turns++; w.turns >= fairTurn {
			w.turns = 0
			for i, each := range w.waiting {
				if each.arrival < w.waiting[next].arrival {
					next = i
				}
			}
		}
	}
	w.takeLocked(c)
	heap.Remove(&w.waiting, next).(*caller).child <- c
}

// takeLocked notes that a call has c.
func (w *Workers) takeLocked(c *worker) {
	c.held = true
	w.busy++
	w.stats.Calls++
}

// refuseLocked ends the wait of all callers.
func (w *Workers) refuseLocked(err error) {
	for _, c := range w.waiting {
		c.index, c.err = -1, err
		c.child <- nil
	}
	w.waiting = nil
}

// call has a child call a function; see [Func.Call].
func (w *Workers) call(ctx context.Context, name string, in, out any) error {
	if err := w.misuse("Call of " + name); err != nil {
		return err
	}
	if ctx == nil {
		return fmt.Errorf("process: Call of %s: ctx must not be nil", name)
	}
	ended := ctx.Err() != nil
	w.mu.Lock()
	if w.closing || ended {
		closed := w.closing
		w.mu.Unlock()
		if closed {
			return ErrClosed
		}
		return context.Cause(ctx)
	}
	w.calls++
	w.mu.Unlock()
	defer w.callOver()
	for handover := 1; ; handover++ {
		c, err := w.acquire(ctx)
		if err != nil {
			return err
		}
		err = w.callIn(ctx, c, name, in, out)
		if err != errNotBegun {
			return err
		}
		if handover == maxHandovers {
			return c.exitError(name)
		}
	}
}

// callIn calls the function in c, and lets go of c whatever becomes of it.
func (w *Workers) callIn(ctx context.Context, c *worker, name string, in, out any) error {
	defer w.release(c)
	return c.call(ctx, name, in, out)
}

// callOver notes that a call is over.
func (w *Workers) callOver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls--
	if w.closing && w.calls == 0 {
		close(w.drained)
	}
}

// acquire returns a child, which the caller has to itself until release.
func (w *Workers) acquire(ctx context.Context) (*worker, error) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		c := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle = w.idle[:n-1]
		w.takeLocked(c)
		w.mu.Unlock()
		return c, nil
	}
	w.mu.Unlock()
	me := &caller{child: make(chan *worker, 1)}
	if task, ok := taskpool.Current(ctx); ok {
		me.priority = task.Priority
	}
	w.mu.Lock()
	switch {
	case w.cut:
		w.mu.Unlock()
		return nil, ErrClosed
	case w.hopeless == w.cfg.workers:
		defer w.mu.Unlock()
		return nil, w.startErr
	}
	me.arrival = w.arrivals
	w.arrivals++
	heap.Push(&w.waiting, me)
	if n := len(w.idle); n > 0 { // since the lock was free
		c := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.offerLocked(c)
	}
	w.mu.Unlock()
	task := remote.WaiterOf(ctx)
	for waiting := true; waiting; {
		var beatDue <-chan struct{}
		if task != nil {
			beatDue = task.BeatDue()
		}
		select {
		case c := <-me.child:
			return c, me.err
		case <-beatDue:
			taskpool.Beat(ctx) // to wait is no silence
		case <-ctx.Done():
			waiting = false
		}
	}
	w.mu.Lock()
	answered := me.index < 0
	if !answered {
		heap.Remove(&w.waiting, me.index)
	}
	startErr := w.startErr
	w.mu.Unlock()
	if answered {
		if c := <-me.child; c != nil {
			w.release(c)
		}
	}
	if startErr != nil {
		return nil, fmt.Errorf("%w while no child could be started: %w", context.Cause(ctx), startErr)
	}
	return nil, context.Cause(ctx)
}

// release gives back a child that acquire returned.
func (w *Workers) release(c *worker) {
	worn := c.worn()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy--
	c.held = false
	if _, there := w.children[c]; !there {
		c.close()
		return
	}
	switch {
	case !c.alive(): // its keeper will see to it
	case worn:
		w.stats.Worn++
		c.retire()
	default:
		w.offerLocked(c)
	}
}

// stopKeepers has the children retire, and the keepers end.
func (w *Workers) stopKeepers() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.stopped = true
		close(w.stop)
	}
}

// Shutdown refuses further calls with [ErrClosed], waits until those that were made
// are over, has the children exit and returns when they are gone. If ctx ends
// first, the children are killed: calls that are at work fail with an [*ExitError]
// that is an ErrClosed, those that wait for a child with ErrClosed, and Shutdown
// returns how many there were and the cause of ctx's end. A further call of Shutdown
// waits as well.
func (w *Workers) Shutdown(ctx context.Context) error {
	if err := w.misuse("Workers.Shutdown"); err != nil {
		return err
	}
	if ctx == nil {
		return errors.New("process: Workers.Shutdown: ctx must not be nil")
	}
	w.mu.Lock()
	if !w.closing {
		w.closing = true
		if w.calls == 0 {
			close(w.drained)
		}
	}
	w.mu.Unlock()
	var err error
	select {
	case <-w.drained:
	case <-ctx.Done():
		if n := w.cutOff(); n > 0 {
			err = fmt.Errorf("process: shutdown cut off %d calls: %w", n, context.Cause(ctx))
		}
	}
	w.stopKeepers()
	select {
	case <-w.ended:
	case <-ctx.Done():
		w.cutOff()
		<-w.ended
	}
	return err
}

// cutOff ends all calls and kills the children. It returns how many calls there
// were.
func (w *Workers) cutOff() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	w.refuseLocked(ErrClosed)
	for c := range w.children {
		c.kill(ErrClosed)
	}
	return w.calls
}

// Stats returns figures of this moment.
func (w *Workers) Stats() Stats {
	if err := w.misuse("Workers.Stats"); err != nil {
		panic(err.Error())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.Workers, s.Idle, s.Busy, s.Waiting = w.cfg.workers, len(w.idle), w.busy, len(w.waiting)
	s.LastStartError = w.startErr
	return s
}
