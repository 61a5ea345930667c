package taskpool

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Pool runs tasks on a fixed number of workers, the most urgent first. Make
// one with [New] and end it with [Pool.Shutdown]; its methods may be called from
// any goroutine. A Pool must not be copied.
type Pool struct {
	cfg        *config
	hooks      hookTable
	epoch      time.Time     // ageing counts from here
	alarm      chan struct{} // wakes the supervisor; buffered, so that sending never waits
	terminated chan struct{} // closed when Shutdown has nothing left to wait for

	// mu protects the fields below and what says so in Handle, attempt and
	// worker. No user code runs under it: no task, hook, policy or logger,
	// and no method of a context that came from outside.
	//
	// Every critical section that might disturb it restores this invariant
	// before it unlocks, by calling restoreLocked: no slot is free while a
	// task that may run waits, and no submitter waits while there is room.
	// A task put into the hands of a worker has left the queue: between that
	// and its first instruction lies only the Go scheduler.
	mu sync.Mutex

	queue   priorityQueue
	door    priorityQueue // submitters that wait for room, in their task's place
	delayed dueHeap
	seq     int64 // last order handed out, unless ageing

	// Slots. A slot is held from the dispatch of a task until its worker has
	// settled and reported it, also while a dead worker waits to be replaced.
	slots int       // how many there are
	held  int       // how many are held; more than slots after Resize, for a while
	idle  []*worker // workers without a task, the last to come on top
	crew  []*worker // all workers but those abandoned; in no order

	dead      []*worker // to be replaced by the supervisor
	watched   watchHeap // workers whose task must end in time
	lost      []*worker // given up with their slot, as too many are abandoned
	abandoned []*worker // given up without a slot, still running
	nextTurn  time.Time // when the supervisor's timer is set for; zero: not set
	lastID    int       // number of the newest worker

	count [numStates]int // tasks by state; Parked and before, as the final ones are totals
	total totals

	paused  bool
	idleCh  chan struct{} // closed when nothing is outstanding; nil unless somebody waits
	helpers int           // goroutines that Shutdown waits for, beside the crew

	reports   []report // for the reporter, see reportLocked
	reporter  uint64   // its goroutine's number while it runs
	reporting bool

	closed bool           // Shutdown was called
	cut    *ShutdownError // what is left undone, once a Shutdown's context has ended too early
	final  time.Time      // with cut: when hooks are not waited for any longer
	over   bool           // terminated is closed, or about to be
}

// New starts a pool with the given options. Its workers and its supervisor run
// until Shutdown.
func New(opts ...Option) (*Pool, error) {
	c, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	p := &Pool{
		cfg:        c,
		hooks:      newHookTable(c.hooks),
		epoch:      time.Now(),
		alarm:      make(chan struct{}, 1),
		terminated: make(chan struct{}),
		slots:      c.workers,
	}
	p.queue.init(uint64(c.fairShare), c.aging, c.overflow == OverflowShed)
	p.door.init(uint64(c.fairShare), c.aging, false)
	p.mu.Lock()
	defer p.mu.Unlock()
	for range c.workers {
		p.hireLocked()
	}
	go p.supervise()
	return p, nil
}

// Go runs f with priority pr as soon as no more urgent task waits for a worker.
// It is the fast way for work that needs neither context nor result: it
// allocates nothing per task and never waits. If f panics, that is logged and
// counted.
//
// Go returns [ErrFull] if the queue has no room, with OverflowWait too, and
// [ErrClosed] after Shutdown was called.
func (p *Pool) Go(pr Priority, f func()) error {
	if f == nil {
		return errors.New("taskpool: Go: f must be a function, got nil")
	}
	p.mu.Lock()
	var reports []report
	err := ErrClosed
	if !p.closed {
		reports, err = p.makeRoomLocked(pr, false)
	}
	if err != nil {
		p.total.refused++
		p.mu.Unlock()
		return err
	}
	p.total.submitted++
	p.enqueueLocked(entry{f: f}, pr)
	if p.hooks.queued != nil {
		reports = event(reports, p.hooks.queued, TaskEvent{Pool: p.cfg.name, Task: TaskInfo{Priority: pr}})
	}
	p.restoreLocked()
	p.mu.Unlock()
	p.deliver(&reports)
	return nil
}

// Submit hands a task to the pool and returns a handle to it. ctx governs the
// whole task: waiting for room, waiting in the queue and each attempt. When it
// ends before the task has started, the task is Canceled at once and never
// runs. A task that is to outlive a request gets [context.WithoutCancel].
//
// If the queue is full, Submit waits for room, makes some or returns [ErrFull],
// as [WithCapacity] says. After Shutdown was called it returns [ErrClosed],
// except to a running task of the pool that submits with its own context. It
// returns an error that wraps ctx's if ctx ends before the task is accepted, and
// one that names the field if t cannot be. A task that is not accepted leaves
// nothing behind.
func (p *Pool) Submit(ctx context.Context, t Task) (*Handle, error) {
	if ctx == nil {
		return nil, errors.New("taskpool: Submit: ctx must not be nil")
	}
	if err := t.validate(); err != nil {
		return nil, err
	}
	h := &Handle{pool: p, ctx: ctx, task: t, heapI: -1}
	if ctx.Err() != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.total.refused++
		return nil, contextError(ctx)
	}
	if ctx.Done() != nil {
		h.stop = context.AfterFunc(ctx, h.contextEnded)
	}
	reports, err := p.submit(h, attemptFrom(ctx))
	if err != nil {
		if h.stop != nil {
			h.stop()
		}
		return nil, err
	}
	p.deliver(&reports)
	return h, nil
}

// contextError says that Submit's context is over.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return fmt.Errorf("taskpool: Submit: context is over: %w", cause)
	}
	return fmt.Errorf("taskpool: Submit: context is over: %w: %w", err, cause)
}

// submit has h accepted or returns why not. parent is the attempt that submits.
func (p *Pool) submit(h *Handle, parent *attempt) (reports []report, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delayed := p.laterLocked(h)
	switch {
	case h.canceled != nil:
		err = contextError(h.ctx)
	case p.closed && !p.continuesLocked(parent):
		err = ErrClosed
	default:
		if reports, err = p.makeRoomLocked(h.task.Priority, delayed); err == nil {
			p.acceptLocked(h)
		} else if p.cfg.overflow == OverflowWait {
			err = p.waitForRoomLocked(h, parent)
		}
	}
	if err != nil {
		p.total.refused++
		return nil, err
	}
	if p.hooks.queued != nil {
		reports = event(reports, p.hooks.queued, TaskEvent{Pool: p.cfg.name, Task: h.infoLocked()})
	}
	p.restoreLocked()
	return reports, nil
}

// waitForRoomLocked waits at the door until h is accepted, h's context ends or
// the pool is closed. It unlocks p.mu while it waits.
func (p *Pool) waitForRoomLocked(h *Handle, parent *attempt) error {
	h.admitted, h.parent = make(chan struct{}), parent
	p.door.push(entry{h: h, order: p.orderLocked()}, h.task.Priority)
	p.mu.Unlock()
	select {
	case <-h.admitted:
	case <-h.ctx.Done():
	}
	p.mu.Lock()
	h.parent = nil
	switch {
	case h.id != 0: // accepted, perhaps in the moment in which its context ended
		return nil
	case h.refused != nil:
		return h.refused
	case h.place.lane != nil:
		p.door.remove(h)
	}
	p.mu.Unlock()
	err := contextError(h.ctx)
	p.mu.Lock()
	return err
}

// continuesLocked reports whether a, if not nil, is at work in this pool, so
// that what it submits is part of the work accepted.
func (p *Pool) continuesLocked(a *attempt) bool {
	return a != nil && a.h.pool == p && !a.over && p.cut == nil
}

// laterLocked reports whether h, on being accepted, has to wait for its time.
func (p *Pool) laterLocked(h *Handle) bool {
	return !h.task.NotBefore.IsZero() && time.Now().Before(h.task.NotBefore)
}

// freeLocked returns the number of free slots.
func (p *Pool) freeLocked() int { return max(p.slots-p.held, 0) }

// roomLocked reports whether one more task may be accepted.
func (p *Pool) roomLocked(delayed bool) bool {
	if p.cfg.capacity == unbounded {
		return true
	}
	free := p.freeLocked()
	return p.count[Queued]+p.count[Delayed] < p.cfg.capacity+free ||
		free > 0 && !delayed && !p.paused // retries fill the queue, but it can start at once
}

// makeRoomLocked returns nil if there is room for one more task, if need be
// after shedding one, of which the reports tell.
func (p *Pool) makeRoomLocked(pr Priority, delayed bool) ([]report, error) {
	if p.roomLocked(delayed) {
		return nil, nil
	}
	if p.cfg.overflow != OverflowShed {
		return nil, ErrFull
	}
	e, victim, ok := p.queue.shed(pr)
	if !ok {
		return nil, ErrFull
	}
	info := p.settleWaitingLocked(e, victim, Shed, ErrShed)
	reports := event(nil, p.hooks.shed, TaskEvent{Pool: p.cfg.name, Task: info, Err: ErrShed})
	return p.finishedLocked(reports, e.h, info, ErrShed), nil
}

// acceptLocked makes h one of the pool's tasks.
func (p *Pool) acceptLocked(h *Handle) {
	p.total.submitted++
	h.id = p.total.submitted
	if p.laterLocked(h) {
		p.delayLocked(h, h.task.NotBefore)
	} else {
		p.enqueueLocked(entry{h: h}, h.task.Priority)
	}
}

// enqueueLocked puts a task at the back of its lane.
func (p *Pool) enqueueLocked(e entry, pr Priority) {
	e.order = p.orderLocked()
	p.queue.push(e, pr)
	p.count[Queued]++
	if e.h != nil {
		e.h.state = Queued
	}
}

// orderLocked returns the order of a task that arrives now.
func (p *Pool) orderLocked() int64 {
	if p.cfg.aging > 0 {
		return int64(time.Since(p.epoch))
	}
	p.seq++
	return p.seq
}

// delayLocked lets h wait until due.
func (p *Pool) delayLocked(h *Handle, due time.Time) {
	h.state, h.due = Delayed, due
	p.count[Delayed]++
	heap.Push(&p.delayed, h)
	p.alarmAtLocked(due)
}

// settleWaitingLocked settles a task that was just taken out of the queue or
// the delayed ones, and returns what is known of it.
func (p *Pool) settleWaitingLocked(e entry, pr Priority, s State, err error) TaskInfo {
	if e.h == nil {
		p.count[Queued]--
		p.total.settled(s)
		return TaskInfo{Priority: pr, State: s}
	}
	p.settleLocked(e.h, s, err)
	return e.h.infoLocked()
}

// settleLocked brings h into a final state. That happens once.
func (p *Pool) settleLocked(h *Handle, s State, err error) {
	p.count[h.state]--
	p.total.settled(s)
	h.state, h.err, h.attempt = s, err, nil
	h.task.Run, h.task.Retry = nil, Retry{} // let go of what they refer to
	if h.done != nil {
		close(h.done)
	}
}

// finishedLocked adds the reports due after a task, of handle h unless nil, has
// settled outside a worker.
func (p *Pool) finishedLocked(reports []report, h *Handle, info TaskInfo, err error) []report {
	if h != nil && h.stop != nil {
		reports = append(reports, func() { h.stop() })
	}
	return event(reports, p.hooks.finished, TaskEvent{Pool: p.cfg.name, Task: info, Err: err})
}

// cancel implements Handle.Cancel and the end of a task's context.
func (p *Pool) cancel(h *Handle, cause error) bool {
	p.mu.Lock()
	var reports []report
	var a *attempt
	switch {
	case h.state.final():
		p.mu.Unlock()
		return false
	case h.id == 0: // Submit will find out
		h.canceled = cause
		p.mu.Unlock()
		return true
	case h.state == Running:
		if a = h.attempt; h.canceled == nil {
			h.canceled = cause
		}
		p.watchEndLocked(a.w)
	default:
		info := p.settleWaitingLocked(p.withdrawLocked(h), h.task.Priority, Canceled, cause)
		reports = p.finishedLocked(nil, h, info, cause)
	}
	p.restoreLocked()
	p.mu.Unlock()
	if a != nil {
		a.finish(&ending{cause, endCanceled})
	}
	p.deliver(&reports)
	return true
}

// withdrawLocked takes a waiting handle out of the queue or the delayed ones.
func (p *Pool) withdrawLocked(h *Handle) entry {
	if h.state == Delayed {
		heap.Remove(&p.delayed, h.heapI)
		return entry{h: h}
	}
	return p.queue.remove(h)
}

// contextEnded is called when the context given to Submit has ended.
func (h *Handle) contextEnded() {
	p := h.pool
	p.mu.Lock()
	if h.state.final() || p.over {
		p.mu.Unlock()
		return
	}
	p.helpers++
	p.mu.Unlock()
	defer p.helperDone() // also if a hook calls Goexit
	p.cancel(h, context.Cause(h.ctx))
}

// helperDone ends what p.helpers++ began.
func (p *Pool) helperDone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.helpers--
	p.restoreLocked()
}

// restoreLocked restores the invariant at Pool.mu: it lets submitters in while
// there is room and dispatches waiting tasks while there are slots. It also
// tells those who wait for the pool to be idle or drained.
func (p *Pool) restoreLocked() {
	for {
		for p.door.n > 0 && p.roomLocked(p.laterLocked(p.door.next().front().h)) {
			e, _, _ := p.door.pop()
			if e.h.canceled == nil { // else its Submit is about to find out
				p.acceptLocked(e.h)
				close(e.h.admitted)
			}
		}
		if p.held >= p.slots || p.paused {
			break
		}
		e, pr, ok := p.queue.pop()
		if !ok {
			break
		}
		p.dispatchLocked(e, pr)
	}
	if p.outstandingLocked() > 0 {
		return
	}
	if p.idleCh != nil {
		close(p.idleCh)
		p.idleCh = nil
	}
	if p.closed {
		p.dismissLocked()
	}
}

// outstandingLocked returns the number of accepted tasks that have not settled.
func (p *Pool) outstandingLocked() int {
	return p.count[Queued] + p.count[Delayed] + p.count[Running] + p.count[Parked]
}

// WaitIdle waits until no task is queued, delayed, parked or running, and
// returns nil; others may submit the next one at any time. If ctx ends first, it
// returns ctx's cause. In a task of the pool it returns [ErrInside].
func (p *Pool) WaitIdle(ctx context.Context) error {
	if p.inside(ctx) {
		return ErrInside
	}
	p.mu.Lock()
	if p.outstandingLocked() == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.idleCh == nil {
		p.idleCh = make(chan struct{})
	}
	idle := p.idleCh
	p.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inside reports whether the caller is a task or a hook on a goroutine of the
// pool, or has the context of a task of the pool.
func (p *Pool) inside(ctx context.Context) bool {
	if a := attemptFrom(ctx); a != nil && a.h.pool == p {
		return true
	}
	id := goroutineID()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reporting && p.reporter == id {
		return true
	}
	for _, workers := range [][]*worker{p.crew, p.abandoned} {
		for _, w := range workers {
			if w.goroutine == id {
				return true
			}
		}
	}
	return false
}

// Pause stops the pool from starting tasks until [Pool.Resume]; those that run
// go on, and tasks are accepted as before. Shutdown lifts the pause, and after
// it Pause does nothing.
func (p *Pool) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = !p.closed
}

// Resume ends a Pause.
func (p *Pool) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = false
	p.restoreLocked()
}

// Resize changes the number of workers, to at least 1. Added workers start at
// once; workers that are too many end when they have finished their task.
// Resize does not wait for that. It returns [ErrClosed] after Shutdown was
// called.
func (p *Pool) Resize(workers int) error {
	if workers < 1 {
		return fmt.Errorf("taskpool: Resize: workers must be at least 1, got %d", workers)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	p.slots = workers
	for p.held+len(p.idle) < workers {
		p.hireLocked()
	}
	for p.held+len(p.idle) > workers && len(p.idle) > 0 {
		p.dismissIdleLocked()
	}
	p.restoreLocked()
	return nil
}
