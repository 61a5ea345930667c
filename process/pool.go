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

	// startAttempts is how many starts of a child must have failed in a row, for each of
	// the children, before calls are told so instead of waiting.
	startAttempts = 5

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

// A Pool is a set of child processes that functions are called in. It is made by [New],
// ended by [Pool.Shutdown], and safe for concurrent use. It must not be copied.
//
// Each child has a keeper, a goroutine that starts it, waits for its death and
// starts the next one. Children that are ready and have no call are idle; callers
// that find none wait. What holds whenever mu is free:
//
//   - There is no idle child while callers wait.
//   - calls counts those who wait and those who have a child; once closing is set it
//     only falls, and drained is closed when it is 0.
//   - A child that is known to have died is not idle.
type Pool struct {
	self    *Pool // what New has returned: others are refused
	cfg     *config
	stderr  *serialWriter
	exits   *exits        // of the children
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
	failing  int  // keepers whose child does not start, see startAttempts
	startErr error
	stats    Stats
}

// Stats are figures of a Pool, all of one moment. A death is counted as soon as the
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

// New starts child processes of this program and returns when all are ready for
// calls. [Main] must have been called before. If an option is bad, or a child
// cannot be started or does not become ready, the error says why, and no child is
// left. In a child it returns an error: children have no children of their own.
// It returns an error on systems without process groups, such as Windows, and in a program
// that runs with other rights than those of who has started it, by its setuid or setgid bit
// or by file capabilities.
//
// A child is this program's executable, started with no arguments but its name,
// with this program's environment, working directory and standard output, an empty
// standard input and a process group of its own. It ends when this program does,
// however that ends.
func New(opts ...Option) (*Pool, error) {
	switch {
	case supported != nil:
		return nil, supported
	case self.child != nil || self.cookieErr != nil:
		return nil, errors.New("process: New called in a child process, which cannot have children of its own")
	case privileged():
		return nil, errors.New("process: New called in a program that is setuid or setgid, or has capabilities, for whose children anybody could pass")
	case !self.mainCalled.Load():
		return nil, errors.New("process: New needs a call of process.Main before it, first in main or TestMain")
	}
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	p := &Pool{
		cfg: cfg, stderr: &serialWriter{w: cfg.stderr}, exits: newExits(),
		stop: make(chan struct{}), ended: make(chan struct{}), drained: make(chan struct{}),
		children: make(map[*worker]struct{}),
	}
	p.self = p
	first := make(chan error, cfg.workers)
	for range cfg.workers {
		k := &keeper{p: p}
		p.keepers.Go(func() { k.run(first) })
	}
	go func() {
		p.keepers.Wait()
		p.exits.close()
		close(p.ended)
	}()
	for range cfg.workers {
		if e := <-first; e != nil && err == nil {
			err = e
			p.stopKeepers()
		}
	}
	if err != nil {
		<-p.ended
		return nil, err
	}
	return p, nil
}

// misuse returns the error of a call with a pool that New has not returned, else nil.
func (p *Pool) misuse(call string) error {
	got := "a copy"
	switch {
	case p == nil:
		got = "nil"
	case p.self == p:
		return nil
	case p.self == nil:
		got = "a zero Pool"
	}
	return fmt.Errorf("process: %s: the Pool must be one that New has returned, got %s", call, got)
}

// A keeper keeps one child alive.
type keeper struct {
	p *Pool
	// failures counts the starts that failed in a row.
	failures int
	failing  bool // counted in p.failing
}

// run starts children, one after the other, until the keepers are to end. It tells
// first how the first start went, and ends if that failed.
func (k *keeper) run(first chan<- error) {
	p := k.p
	for {
		began := time.Now()
		c, err := startWorker(p.cfg, p.stderr, p.exits, p.stop)
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
			case <-c.exited:
			case <-p.stop:
				c.retire()
				<-c.exited
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
	p := k.p
	p.mu.Lock()
	defer p.mu.Unlock()
	p.children[c] = struct{}{}
	p.stats.Started++
	p.startErr = nil
	if k.failing {
		k.failing = false
		p.failing--
	}
	p.offerLocked(c)
}

// remove takes leave of a child that is gone. It returns an error if the child was
// of no use.
func (k *keeper) remove(c *worker, lived time.Duration) error {
	p := k.p
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.children, c)
	if i := slices.Index(p.idle, c); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	if !c.held {
		c.close() // else whoever has it does
	}
	called, killed, retired := c.history()
	switch {
	case retired: // counted where it was told to
	case killed:
		p.stats.Killed++
	default:
		p.stats.Died++
		if !called && lived < earlyDeath {
			return c.exitError("")
		}
	}
	return nil
}

// pause waits before the next start, if err says that the last one failed. It
// returns false when the keeper is to end.
func (k *keeper) pause(err error) bool {
	p := k.p
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return false
	}
	if err == nil {
		k.failures = 0
		p.mu.Unlock()
		return true
	}
	k.failures++
	p.stats.StartFailures++
	p.startErr = err
	if k.failures >= startAttempts {
		k.failing = true
		if p.failing++; p.failing == p.cfg.workers {
			p.refuseLocked(err)
		}
	}
	p.mu.Unlock()
	pause := time.NewTimer(backoff.Exponential(minBackoff, maxBackoff, k.failures))
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-p.stop:
		return false
	}
}

// A caller waits for a child.
type caller struct {
	priority int // what its task counts as
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
func (p *Pool) offerLocked(c *worker) {
	if len(p.waiting) == 0 {
		p.idle = append(p.idle, c)
		return
	}
	next := 0
	if len(p.waiting) > 1 {
		if p.turns++; p.turns >= fairTurn {
			p.turns = 0
			for i, each := range p.waiting {
				if each.arrival < p.waiting[next].arrival {
					next = i
				}
			}
		}
	}
	p.takeLocked(c)
	heap.Remove(&p.waiting, next).(*caller).child <- c
}

// takeLocked notes that a call has c.
func (p *Pool) takeLocked(c *worker) {
	c.held = true
	p.busy++
	p.stats.Calls++
}

// refuseLocked ends the wait of all callers.
func (p *Pool) refuseLocked(err error) {
	for _, c := range p.waiting {
		c.index, c.err = -1, err
		c.child <- nil
	}
	p.waiting = nil
}

// call has a child call a function; see [Func.Call]. It returns the size of what was sent,
// there or back, whichever is more. placed is called as acquire says.
func (p *Pool) call(ctx context.Context, name string, in, out any, placed func()) (bytes int, err error) {
	if err := p.misuse("Call of " + name); err != nil {
		return 0, err
	}
	if ctx == nil {
		return 0, fmt.Errorf("process: Call of %s: ctx must not be nil", name)
	}
	ended := ctx.Err() != nil
	p.mu.Lock()
	if p.closing || ended {
		closed := p.closing
		p.mu.Unlock()
		if closed {
			return 0, ErrClosed
		}
		return 0, context.Cause(ctx)
	}
	p.calls++
	p.mu.Unlock()
	defer p.callOver()
	for handover := 1; ; handover++ {
		c, err := p.acquire(ctx, placed)
		if err != nil {
			return 0, err
		}
		bytes, err = p.callIn(ctx, c, name, in, out)
		if err != errNotBegun {
			return bytes, err
		}
		if handover == maxHandovers {
			return 0, c.exitError(name)
		}
	}
}

// callIn calls the function in c, and lets go of c whatever becomes of it.
func (p *Pool) callIn(ctx context.Context, c *worker, name string, in, out any) (bytes int, err error) {
	defer p.release(c)
	return c.call(ctx, name, in, out)
}

// callOver notes that a call is over.
func (p *Pool) callOver() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls--
	if p.closing && p.calls == 0 {
		close(p.drained)
	}
}

// acquire returns a child, which the caller has to itself until release. placed, unless it is
// nil, is called as soon as the caller has one or has its place among those that wait.
func (p *Pool) acquire(ctx context.Context, placed func()) (*worker, error) {
	if placed == nil {
		placed = func() {}
	}
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.takeLocked(c)
		p.mu.Unlock()
		placed()
		return c, nil
	}
	p.mu.Unlock()
	me := &caller{child: make(chan *worker, 1)}
	task := remote.WaiterOf(ctx)
	var changed <-chan struct{} // task's urgency; nil outside tasks
	if task != nil {
		me.priority, changed = task.Urgency()
	}
	p.mu.Lock()
	switch {
	case p.cut:
		p.mu.Unlock()
		return nil, ErrClosed
	case p.failing == p.cfg.workers:
		defer p.mu.Unlock()
		return nil, p.startErr
	}
	me.arrival = p.arrivals
	p.arrivals++
	heap.Push(&p.waiting, me)
	if n := len(p.idle); n > 0 { // since the lock was free
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.offerLocked(c)
	}
	p.mu.Unlock()
	placed()
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
		case <-changed:
			var pr int
			pr, changed = task.Urgency()
			p.moveTo(me, pr)
		case <-ctx.Done():
			waiting = false
		}
	}
	p.mu.Lock()
	answered := me.index < 0
	if !answered {
		heap.Remove(&p.waiting, me.index)
	}
	startErr := p.startErr
	p.mu.Unlock()
	if answered {
		if c := <-me.child; c != nil {
			p.release(c)
		}
	}
	if startErr != nil {
		return nil, fmt.Errorf("%w while no child could be started: %w", context.Cause(ctx), startErr)
	}
	return nil, context.Cause(ctx)
}

// moveTo gives c, which may have its answer already, another priority.
func (p *Pool) moveTo(c *caller, pr int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.priority = pr; c.index >= 0 {
		heap.Fix(&p.waiting, c.index)
	}
}

// release gives back a child that acquire returned.
func (p *Pool) release(c *worker) {
	worn := c.worn()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	c.held = false
	if _, there := p.children[c]; !there {
		c.close()
		return
	}
	switch {
	case !c.alive(): // its keeper will see to it
	case worn:
		p.stats.Worn++
		c.retire()
	default:
		p.offerLocked(c)
	}
}

// stopKeepers has the children retire, and the keepers end.
func (p *Pool) stopKeepers() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.stopped = true
		close(p.stop)
	}
}

// Shutdown refuses further calls with [ErrClosed], waits until those that were made
// are over, has the children exit and returns when they are gone. If ctx ends
// first, the children are killed: calls that are at work fail with an [*ExitError]
// that is an ErrClosed, those that wait for a child with ErrClosed, and Shutdown
// returns how many there were and the cause of ctx's end. A further call of Shutdown
// waits as well.
func (p *Pool) Shutdown(ctx context.Context) error {
	if err := p.misuse("Pool.Shutdown"); err != nil {
		return err
	}
	if ctx == nil {
		return errors.New("process: Pool.Shutdown: ctx must not be nil")
	}
	p.mu.Lock()
	if !p.closing {
		p.closing = true
		if p.calls == 0 {
			close(p.drained)
		}
	}
	p.mu.Unlock()
	var err error
	select {
	case <-p.drained:
	case <-ctx.Done():
		if n := p.cutOff(); n > 0 {
			err = fmt.Errorf("process: shutdown cut off %d calls: %w", n, context.Cause(ctx))
		}
	}
	p.stopKeepers()
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.cutOff()
		<-p.ended
	}
	return err
}

// cutOff ends all calls and kills the children. It returns how many calls there
// were.
func (p *Pool) cutOff() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.refuseLocked(ErrClosed)
	for c := range p.children {
		c.kill(ErrClosed)
	}
	return p.calls
}

// Stats returns figures of this moment.
func (p *Pool) Stats() Stats {
	if err := p.misuse("Pool.Stats"); err != nil {
		panic(err.Error())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Workers, s.Idle, s.Busy, s.Waiting = p.cfg.workers, len(p.idle), p.busy, len(p.waiting)
	s.LastStartError = p.startErr
	return s
}
