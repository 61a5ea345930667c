package taskpool

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// watches notice the end of the contexts that tasks were submitted with. Except for a few
// tasks, there is one registration with package context for each Done channel, however
// many tasks there are: contexts that share it end together, though each has its own values
// and cause. When it is closed, one goroutine, the pass, cancels all tasks concerned, a
// chunk at a time. Package context starts a goroutine for each registration; where many
// contexts end at once, all but one of these goroutines only hand theirs to the pass.
//
// Invariants:
//
//   - A task is watched from before it is accepted until it has settled or the pass has
//     taken it: while it is, h.watch.handles[h.watchI] is h, and otherwise h.watch is nil.
//   - A watch in byDone has handles, even after its context has ended: the pass has not
//     come to them yet. Any other has one at most; alone counts those that have one.
//   - A watch that the last handle has left, and whose context has not ended, is
//     forgotten, and whoever took that handle out ends its registration.
//   - A watch that was told that its context has ended is in the list told until the pass
//     takes the list. Whoever finds told nil starts the pass, which leaves passing there
//     until it ends.
//
// It is not the pass that keeps such tasks from starting: a worker checks for itself, see
// worker.endedWaiting.
type watches struct {
	// mu protects the fields below, those of contextWatch except stop and forget, and
	// Handle.watchI. Handle.watch is protected by Pool.mu too once the task is
	// accepted. mu may be locked under Pool.mu, and no user code runs under it.
	mu     sync.Mutex
	byDone map[<-chan struct{}]*contextWatch
	alone  int             // number of watches that are not in byDone and have a handle
	spare  []*contextWatch // for reuse, with what they have allocated

	// The watches that were told, the latest first. Adding one takes no lock, as there
	// may be very many at once.
	told atomic.Pointer[contextWatch]
}

// A contextWatch is one registration for the end of contexts.
type contextWatch struct {
	pool    *Pool
	done    <-chan struct{} // key in byDone; nil if it is not there
	over    atomic.Bool     // the context has ended
	handles []*Handle
	only    [1]*Handle    // backs handles while there is only one
	next    *contextWatch // in the list told; nil at its end

	// Fixed while there are handles.

	stop   func() bool // ends the registration
	ended  func()      // is told that the context has ended
	forget func()      // ends the registration of a watch that has no handles left
}

const (
	passChunk    = 256 // tasks canceled in one critical section
	spareWatches = 64

	// This many tasks have a registration of their own before others share theirs. A few
	// goroutines do no harm, and the map costs more than it saves where each context ends
	// with its one task.
	mostAlone = 32
)

// watch has h, which is not accepted yet, canceled when ctx ends. ctx must be able to end.
// watch calls methods of ctx.
func (ws *watches) watch(p *Pool, h *Handle, ctx context.Context) {
	done := ctx.Done()
	if _, own := ctx.(interface{ AfterFunc(func()) func() bool }); own {
		done = nil // what it does is unknown: no other task may depend on it
	}
	w, alone := ws.enter(p, h, done)
	if w == nil {
		return
	}
	w.stop = context.AfterFunc(ctx, w.ended)
	if !alone && !ws.share(w, h, done) {
		w.stop() // another was faster
	}
}

// enter adds h to the watch of done or, if there is none, returns a new one that has to be
// registered. If alone is true, the new one has h already.
func (ws *watches) enter(p *Pool, h *Handle, done <-chan struct{}) (w *contextWatch, alone bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.byDone) > 0 {
		if w := ws.byDone[done]; w != nil {
			w.add(h)
			return nil, false
		}
	}
	w = ws.newWatch(p)
	if alone = done == nil || ws.alone < mostAlone; alone {
		w.add(h)
		ws.alone++
	}
	return w, alone
}

// newWatch returns a watch without handles.
func (ws *watches) newWatch(p *Pool) *contextWatch {
	if last := len(ws.spare) - 1; last >= 0 {
		w := ws.spare[last]
		ws.spare[last] = nil
		ws.spare = ws.spare[:last]
		return w
	}
	w := &contextWatch{pool: p}
	w.handles = w.only[:0:1]
	w.ended, w.forget = w.contextEnded, w.endRegistration
	return w
}

// share adds h to w, a new watch of done for others to find. If there is another by now,
// it adds h to that instead and returns false.
func (ws *watches) share(w *contextWatch, h *Handle, done <-chan struct{}) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	first := ws.byDone[done]
	switch {
	case first != nil:
		first.add(h)
		return false
	case w.over.Load(): // already
		h.setCanceled(context.Canceled) // Submit will find out, and say why
		return true
	}
	if ws.byDone == nil {
		ws.byDone = make(map[<-chan struct{}]*contextWatch)
	}
	w.done = done
	ws.byDone[done] = w
	w.add(h)
	return true
}

func (w *contextWatch) add(h *Handle) {
	h.watch, h.watchI = w, int32(len(w.handles))
	w.handles = append(w.handles, h)
}

// remove takes the handle at index i out of w.
func (w *contextWatch) remove(i int32) {
	last := len(w.handles) - 1
	w.handles[i].watch = nil
	w.handles[i] = w.handles[last]
	w.handles[i].watchI = i
	w.handles[last] = nil
	w.handles = shrunk(w.handles[:last])
}

// leave ends the watch of h's context for h. It returns what must be called for that
// without a lock, because it calls methods of the context; nil if there is nothing to call.
func (ws *watches) leave(h *Handle) (forget func()) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := h.watch
	if w == nil {
		return nil
	}
	if w.remove(h.watchI); len(w.handles) > 0 {
		return nil
	}
	ws.drop(w)
	if w.over.Load() {
		return nil
	}
	return w.forget
}

// drop removes w, which has no handles left, from byDone or from the count alone.
func (ws *watches) drop(w *contextWatch) {
	if w.done == nil {
		ws.alone--
	} else {
		delete(ws.byDone, w.done)
	}
}

// endRegistration ends the registration of w, which nobody else refers to any more.
func (w *contextWatch) endRegistration() {
	if !w.stop() {
		return // contextEnded was called, or is about to be
	}
	ws := &w.pool.watches
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.spare) < spareWatches {
		w.done, w.stop, w.handles = nil, nil, w.only[:0:1]
		ws.spare = append(ws.spare, w)
	}
}

// contextEnded is called, on a goroutine of its own, when w's context has ended.
func (w *contextWatch) contextEnded() {
	ws := &w.pool.watches
	w.over.Store(true)
	for told := false; !told; {
		w.next = ws.told.Load()
		told = ws.told.CompareAndSwap(w.next, w)
	}
	if w.next == nil {
		pass(w.pool)
	}
}

// passing is at the end of watches.told while the pass is under way. The pass treats it as
// a watch without handles.
var passing = new(contextWatch)

// A chunk is a number of tasks that the pass cancels together.
type chunk struct {
	pool    *Pool
	told    *contextWatch // what is left of the list told
	tasks   []endedTask
	asked   int         // how many of them were asked for their cause
	running []endedTask // those whose attempt must be told
	notices []notice
}

// An endedTask is a task whose context has ended.
type endedTask struct {
	h      *Handle
	ctx    context.Context
	cause  error
	parent *attempt // if it may be an orphan
	a      *attempt // the one under way, and why it ends
	e      *ending
}

// pass cancels the tasks whose context has ended.
func pass(p *Pool) {
	p.lock()
	if p.end.over { // all tasks have settled
		p.unlock()
		return
	}
	p.outbox.helpers++
	p.unlock()
	(&chunk{pool: p, tasks: make([]endedTask, 0, passChunk)}).run()
}

// run is the goroutine of the pass. If user code ends it, another continues where it
// stopped.
func (c *chunk) run() {
	p := c.pool
	id, done := p.enlist(), false
	defer func() {
		if done {
			p.discharge(id)
			return
		}
		p.lock()
		defer p.unlock()
		delete(p.outbox.insiders, id)
		go c.run()
	}()
	for more := true; more; more = c.next() {
		c.askCauses()
		c.cancel()
		for len(c.running) > 0 {
			t := c.running[0]
			c.running = c.running[1:]
			t.a.endContext(t.e)
		}
		notices := c.notices
		c.notices = nil
		p.deliverAll(notices)
	}
	done = true
}

// next takes the next tasks to cancel. It returns false if there are none: then the pass
// is over.
func (c *chunk) next() bool {
	p, ws := c.pool, &c.pool.watches
	p.lock() // because tasks that settle drop their context
	defer p.unlock()
	ws.mu.Lock()
	defer ws.mu.Unlock()
	c.asked = 0
	for len(c.tasks) < passChunk {
		if c.told == nil {
			if len(c.tasks) > 0 || ws.told.CompareAndSwap(passing, nil) {
				break
			}
			c.told = ws.told.Swap(passing)
		}
		w := c.told
		some := len(w.handles) > 0
		for last := len(w.handles) - 1; last >= 0 && len(c.tasks) < passChunk; last-- {
			h := w.handles[last]
			w.remove(int32(last))
			c.tasks = append(c.tasks, endedTask{h: h, ctx: h.first.ctx, cause: context.Canceled})
		}
		if len(w.handles) == 0 {
			if some {
				ws.drop(w)
			}
			c.told = w.next
		}
	}
	return len(c.tasks) > 0
}

// askCauses finds out why the contexts of c's tasks have ended.
func (c *chunk) askCauses() {
	p := c.pool
	for c.asked < len(c.tasks) {
		t := &c.tasks[c.asked]
		c.asked++
		p.guard.contain("a context's method", func() {
			if cause := context.Cause(t.ctx); cause != nil {
				t.cause = cause
			}
		})
		if t.cause == errReturned {
			t.parent = p.guard.returnedParent(t.ctx)
		}
	}
}

// cancel cancels c's tasks.
func (c *chunk) cancel() {
	p := c.pool
	if len(c.tasks) == 0 { // an earlier goroutine canceled them before it was ended
		return
	}
	p.lock()
	defer p.unlock()
	for _, t := range c.tasks {
		if t.parent != nil && t.h.id != 0 && !t.h.state.Final() {
			t.h.setParent(t.parent)
		}
		if t.a, t.e, _ = t.h.cancelLocked(t.cause, true, &c.notices); t.a != nil {
			c.running = append(c.running, t)
		}
	}
	clear(c.tasks)
	c.tasks = c.tasks[:0]
	p.restoreLocked()
	p.outbox.oweLocked(c.notices)
}

// cancel implements Handle.Cancel.
func (h *Handle) cancel(cause error) bool {
	p := h.pool
	p.lock()
	var notices []notice
	a, e, ok := h.cancelLocked(cause, false, &notices)
	if ok {
		p.restoreLocked()
	}
	p.outbox.oweLocked(notices)
	p.unlock()
	if a != nil {
		a.endContext(e)
	}
	p.deliverAll(notices)
	return ok
}

// cancelLocked cancels h; byContext says that the context given to Submit has ended. ok is
// false if h had settled. If an attempt is under way, cancelLocked returns it, with the
// ending that its context must get from the caller once the lock is released.
func (h *Handle) cancelLocked(cause error, byContext bool, notices *[]notice) (a *attempt, e *ending, ok bool) {
	p := h.pool
	switch {
	case h.state.Final():
		return nil, nil, false
	case h.id == 0: // Submit will find out
		p.inbox.mu.Lock() // as inbox.put looks at it
		h.setCanceled(cause)
		p.inbox.mu.Unlock()
		p.sched.withdraw(h) // if its submitter waits for room
		return nil, nil, true
	case h.attempt == nil:
		p.sched.withdraw(h)
		p.settleWaitingLocked(entry{h: h}, h.priority, StateCanceled, cause, notices)
		return nil, nil, true
	}
	if h.canceled() == nil {
		h.setCanceled(cause)
	}
	a, e = h.attempt, &ending{cause: cause, kind: endCanceled, byContext: byContext}
	a.endLocked(e)
	a.w.settleJudgedLocked(notices)
	return a, e, true
}

// An orphan is a task that was canceled because the task whose context it was submitted
// with had returned. That is a trap: nothing fails, yet the work is not done. So orphans
// are counted, and the log is told once for each such parent, of all that were found within
// orphanDelay: usually there are many, found by the pass and by workers.
//
// A task whose submitter learns of its end anyway, as in Call and Map, is not an orphan.
type orphans struct {
	untold map[*attempt]int // how many the log was not told of, by parent; nil: not known
	next   time.Time        // when the log is told; zero if there are none
}

// orphanDelay is how long orphans are collected before the log is told.
const orphanDelay = 100 * time.Millisecond

// errReturned ends the context of an attempt that is over.
var errReturned error = &kindError{
	"taskpool: the task this context was given to has returned (see Detach)", context.Canceled}

// causedByReturn reports whether err, the error of a canceled task, says that the task is
// an orphan.
func causedByReturn(err error) bool {
	if e, ok := err.(*endedError); ok {
		err = e.reason
	}
	return err == errReturned
}

// returnedParent returns the attempt whose return has ended ctx, or nil if it is not known.
// It calls methods of ctx, so no lock may be held.
func (g *guard) returnedParent(ctx context.Context) (parent *attempt) {
	g.contain("a context's method", func() {
		for a := attemptFrom(ctx); a != nil && parent == nil; a = attemptFrom(a.ctx) {
			if a.end.Load() == returned {
				parent = a
			}
		}
	})
	return parent
}

// orphanedLocked records h, which was canceled with err, if it is an orphan.
func (h *Handle) orphanedLocked(err error) {
	p := h.pool
	if !causedByReturn(err) || h.first.terms.answer == answerNow {
		return
	}
	p.ledger.total.orphaned++
	o := &p.orphans
	if o.untold == nil {
		o.untold = make(map[*attempt]int)
	}
	o.untold[h.parent()]++
	if o.next.IsZero() {
		o.next = time.Now().Add(orphanDelay)
		p.supervisor.alarmAtLocked(o.next)
	}
}

// take returns the notices that tell the log, through g, of the orphans that it has not
// been told of.
func (o *orphans) take(g *guard) (notices []notice) {
	for parent, n := range o.untold {
		notices = append(notices, notice{call: func() { g.writeOrphans(parent, n) }})
	}
	*o = orphans{}
	return notices
}

func (g *guard) writeOrphans(parent *attempt, n int) {
	var attrs []slog.Attr
	if parent != nil {
		attrs = append(attrs, slog.Uint64("id", parent.h.id), slog.String("task", parent.h.task.Name))
	}
	g.write(slog.LevelWarn, "taskpool: tasks canceled, as the task with whose context they were submitted has returned",
		append(attrs, slog.Int("children", n), slog.Any("error", errReturned))...)
}
