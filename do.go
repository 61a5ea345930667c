package taskpool

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/taskpool-go/taskpool/internal/contain"
)

// A guest is a worker whose goroutine is the caller's of Do, for one task. To the scheduler
// that is a task like any other; only who carries it out differs. Invariants:
//
//   - A guest is in the crew from its turn until it leaves. It takes a slot, and is none of
//     the workers that the pool has hired.
//   - Its turn comes like that of a parked task: the critical section that finds it next gives
//     it the slot, and no worker is woken for it.
//   - Once its task is accepted, its goroutine is told once: that its turn has come, or that
//     the task has settled before. Both happen in a critical section, which tells it, unless
//     that is its own.
//   - The task in which Do was called is parked, and lends to the guest's, from before the
//     guest's is accepted until Do returns. It asks for a slot no sooner than the guest's task
//     is over and hooks were told, or two would wait for one goroutine.
type guest struct {
	w worker
	h *Handle // of its task

	turn chan struct{} // tells the goroutine, with room for one

	// Protected by pool.mu until the goroutine was told.

	waits   bool // the goroutine waits for that
	entered bool // its turn has come

	endWait context.CancelCauseFunc // ends the wait for room, where outer's end ends the guest's task; else nil
	outer   *attempt                // the task in which Do was called; nil if there is none
	stop    func() bool             // has outer's end no longer end the guest's task; nil if it does not
	parked  *suspension             // of outer; nil if it had no slot to give back
	record  *recordedWait           // that outer waits, if it had none
}

// Do runs f on the calling goroutine as soon as a slot is free and no more urgent task waits
// for one, and returns f's error. It is a semaphore that knows priorities, for a goroutine
// that exists already: that of a request, say. f is a task in all else, after the pattern t:
// what [WithCapacity], MaxWait, Flow, Timeout, WorkTimeout and Heartbeat say holds for it,
// hooks and [Stats] know it, Shutdown waits for it, and with f's context [Yield], [Block] and
// waits for other tasks give its slot back. In t, Run must be nil, NotBefore zero, and
// there are no retries: Retry.MaxAttempts is at most 1.
//
// If ctx ends before f has begun, or the task is shed, expires or is canceled, f is not called,
// and Do returns that error. Once f has begun, Do returns no sooner than f does. Where f goes
// on for longer than the hang grace after its context has ended, the task is given up: its
// slot goes to others, and Do returns the [*HungError] when f has returned. An error is that of
// [Handle.Wait]; as the caller has it, it is logged at level Debug only.
//
// A panic in f, or a call of [runtime.Goexit], is counted and goes on in the caller, after
// hooks were told. It ends no worker.
//
// Inside a task, of any pool, that task gives its slot back until Do returns, and lends f its
// urgency, see [Handle.Wait]. If ctx is not that task's, f's context ends with the task's as
// well, unless that had ended before. A wait in f with another context than f's is known by
// its stack, so not if f is called deep in one, of a hundred calls or more, nor on a goroutine
// that f has started: use f's context there.
//
// With a free slot Do switches no goroutine. It then costs a third of [Call], and some 20 times
// a plain semaphore, which knows nothing but a number; BenchmarkDo compares them.
// TaskInfo.Worker is 0 for f's task.
func (p *Pool) Do(ctx context.Context, t Task, f func(context.Context) error) error {
	const call = "Do"
	switch {
	case misused(p):
		return poolMisuse(p, call)
	case ctx == nil:
		return nilArgument(call, "ctx")
	case f == nil:
		return nilArgument(call, "f")
	case t.Run != nil:
		return errRunSet
	case t.Retry.MaxAttempts > 1:
		return pkg.Bad("Do: Task.Retry.MaxAttempts", "be at most 1", t.Retry.MaxAttempts)
	case !t.NotBefore.IsZero():
		return pkg.Bad("Do: Task.NotBefore", "be zero", t.NotBefore)
	}
	g := newGuest(p, ctx)
	h := g.h
	within := ctx
	if g.outer = taskHere(ctx); g.outer != nil {
		if g.outer != attemptFrom(ctx) && g.outer.ended() == nil {
			within, g.endWait = context.WithCancelCause(ctx)
		}
		defer g.comeBack()
	}
	returned := false
	defer func() {
		if !returned {
			g.giveUp()
		}
	}()
	if _, err := p.submit(call, h, within, ctx, &t, work{run: f}, terms{roomAsSet, answerNow}); err != nil {
		returned = true
		return err
	}
	if g.parked != nil {
		g.parked.beginRegion(ctx)
	}
	if g.waits {
		<-g.turn
	}
	returned = true
	if g.entered {
		if g.work(); g.w.value != nil {
			panic(g.w.value) // a hook Around has seen it first
		}
	}
	g.release()
	return h.err
}

// giveUp settles g's task, if it was accepted, as the goroutine that was to run it ends or
// panics: in a hook that is told that the task was queued, or in a method of a context.
func (g *guest) giveUp() {
	if g.h.cancel(errCallerGone); g.entered {
		g.work() // and find that f must not begin
	}
}

// work is where guestReturn is.
//
//go:noinline
func (g *guest) work() { g.w.asGuest() }

var errCallerGone error = &kindError{"taskpool: the call of Do has ended before its turn", context.Canceled}

// release has g, whose task has settled, reused. What its attempt still refers to, under the
// same lock as ever, says then that it is another's.
func (g *guest) release() {
	if g.outer != nil || g.w.gaveUp { // comeBack needs it, or those who look at hung tasks
		return
	}
	g.h, g.waits, g.entered = nil, false, false
	g.w.goroutine.Store(0)
	g.w.pool.crew.spare.Put(g)
}

// newGuest returns a guest whose task has ctx.
func newGuest(p *Pool, ctx context.Context) *guest {
	g, _ := p.crew.spare.Get().(*guest)
	if g == nil {
		g = &guest{turn: make(chan struct{}, 1)}
		g.w.pool, g.w.guest, g.w.watchI = p, g, -1
	}
	both := new(struct { // one allocation
		Handle
		attempt
	})
	g.h = &both.Handle
	both.attempt.ctx, both.attempt.w = ctx, &g.w
	g.h.pool, g.h.self, g.h.first, g.h.guest = p, g.h, &both.attempt, true
	return g
}

// guestOf returns the guest of h, nil if it has none or has settled.
func (h *Handle) guestOf() *guest {
	if !h.guest || h.first == nil {
		return nil
	}
	return h.first.w.guest
}

// taskHere returns the task in which a call with ctx waits from now on, nil if there is none:
// that of ctx if it can give its slot back, and otherwise that of the goroutine.
func taskHere(ctx context.Context) *attempt {
	a := attemptFrom(ctx)
	if a != nil && a.standsIn() || !anyPoolActive() {
		return a
	}
	if here := currentAttempt(); here != nil {
		return here
	}
	return a
}

// stepAside has outer, which is not nil, make way for the guest.
func (g *guest) stepAside() {
	a, h := g.outer, g.h
	if g.endWait != nil {
		g.stop = context.AfterFunc(a, func() { g.endWait(context.Cause(a)); h.cancel(context.Cause(a)) })
	}
	if a.pool != g.w.pool { // in the same, admit does it
		a.pool.lock()
		defer a.pool.unlock()
		g.parkOuterLocked()
		a.pool.restoreLocked()
	}
}

// parkOuterLocked parks outer, if there is one. The caller has outer's pool locked.
func (g *guest) parkOuterLocked() {
	a, what := g.outer, awaited{ran: g.h}
	if a == nil {
		return
	}
	if g.parked = a.parkLocked(); g.parked != nil {
		g.parked.waitsLocked(what)
	} else if !a.over {
		g.record = a.recordLocked(what)
	}
}

// comeBack has outer go on.
func (g *guest) comeBack() {
	if g.stop != nil {
		g.stop()
	}
	if g.endWait != nil {
		g.endWait(nil)
	}
	if g.parked != nil {
		g.parked.back()
	}
	if g.record != nil {
		g.outer.waitsNoLonger(g.record)
	}
}

// admittedLocked has g told of what becomes of its task, which was accepted.
func (g *guest) admittedLocked() { g.waits = !g.entered && !g.h.state.Final() }

// tellLocked tells the goroutine, if it waits for that.
func (g *guest) tellLocked() {
	if g.waits {
		g.turn <- struct{}{}
	}
}

// enterLocked gives g a slot and its task, which was taken from the queue.
func (g *guest) enterLocked(e entry, d decision) {
	w, p := &g.w, g.w.pool
	w.crewI = len(p.crew.all)
	p.crew.all = append(p.crew.all, w)
	if p.crew.guests++; !p.crew.hosts {
		p.crew.hosts = true
		hosts.add(p)
	}
	w.takeLocked(e, d)
	w.holdSlotLocked()
	w.phase, g.entered = phaseStart, true
	g.tellLocked()
}

// doneLocked is called when g's task has settled without g, or g leaves. It has outer ask for a
// slot right there, so that the one that becomes free cannot go to a less urgent task.
func (g *guest) doneLocked() {
	if g.parked != nil && g.outer.pool == g.w.pool {
		g.parked.backLocked()
	}
	if !g.entered {
		g.tellLocked()
	}
}

// leaveLocked ends g, whose task has settled.
func (g *guest) leaveLocked() {
	p := g.w.pool
	p.takeInLocked()
	g.w.freeSlotLocked()
	p.crew.remove(&g.w)
	g.doneLocked()
	p.restoreLocked()
}

// asGuest does the steps of w, which is a guest's, on the goroutine of Do. Others find it,
// and w, on the stack; see guestsHere.
//
//go:noinline
func (w *worker) asGuest() {
	if guestReturn.Load() == 0 {
		var caller [1]uintptr
		runtime.Callers(2, caller[:])
		guestReturn.Store(caller[0])
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		v := recover() // nil in a Goexit, which goes on as this function returns
		switch {
		case w.inUserCode:
			w.diedAsGuest(v, newPanicSite(goroutineID()))
		case v != nil:
			panic(v) // a bug in this package
		}
		w.asGuest() // what is left to do
		if v != nil {
			panic(v) // with the stack of the first one still below
		}
	}()
	w.work()
	returned = true
	runtime.KeepAlive(w) // so that stacks show it
}

// diedAsGuest records that f has panicked with v or, if that is nil, called Goexit.
func (w *worker) diedAsGuest(v any, site panicSite) {
	w.inUserCode, w.phase = false, phaseJudge
	switch {
	case v == nil:
		w.err, w.kind = ErrGoexit, attemptGoexit
	case contain.IsAbort(v):
		w.err, w.kind = contain.Abort, attemptError
	default:
		w.err, w.kind = (&PanicError{Value: v, site: site}).complete(), attemptPanic
	}
}

// Who is on the stack.

// guestReturn is the address to which the function asGuest returns; 0 until it was called.
var guestReturn atomic.Uintptr

// hosts are the pools in which Do has run a task.
var hosts hostList

type hostList struct {
	mu    sync.Mutex
	pools []weak.Pointer[Pool]
}

// add adds p, and forgets pools that are gone.
func (l *hostList) add(p *Pool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pools) == cap(l.pools) {
		kept := l.pools[:0:0]
		for _, w := range l.pools {
			if w.Value() != nil {
				kept = append(kept, w)
			}
		}
		l.pools = kept
	}
	l.pools = append(l.pools, weak.Make(p))
}

// all returns those that are left.
func (l *hostList) all() (pools []*Pool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.pools {
		if p := w.Value(); p != nil {
			pools = append(pools, p)
		}
	}
	return pools
}

// mark returns how asGuest shows w in a stack.
func (w *worker) mark() []byte { return fmt.Appendf(nil, ".(*worker).asGuest(%p", w) }

// guestsHere returns the guests, of any pool, on whose goroutine it is called, the innermost
// first. To record the goroutine's number in Do would cost more than all the rest of it; in
// this way only a caller that asks pays. No lock may be held.
func guestsHere() (here []*worker) {
	stack := make([]byte, 64<<10)
	stack = stack[:runtime.Stack(stack, false)]
	at := make(map[*worker]int)
	for _, p := range hosts.all() {
		p.lock()
		for _, w := range p.crew.guestsLocked() {
			if i := bytes.Index(stack, w.mark()); i >= 0 {
				at[w] = i
				here = append(here, w)
			}
		}
		p.unlock()
	}
	slices.SortFunc(here, func(a, b *worker) int { return cmp.Compare(at[a], at[b]) })
	return here
}

// guestsLocked returns the guests that have a slot, are parked or were abandoned.
func (c *crew) guestsLocked() (guests []*worker) {
	for _, workers := range [][]*worker{c.all, c.abandoned} {
		for _, w := range workers {
			if w.guest != nil {
				guests = append(guests, w)
			}
		}
	}
	return guests
}

// dumpedGuests adds the stacks of guests to stacks, each by the number of its goroutine, which
// it sets. Only a dump shows it; see dumped.
func dumpedGuests(guests []*worker, stacks map[uint64][]byte) {
	if len(guests) == 0 || runtime.NumGoroutine() > maxDumped {
		return
	}
	buf := make([]byte, dumpSize)
	for dump := range bytes.SplitSeq(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		for _, w := range guests {
			if bytes.Contains(dump, w.mark()) {
				id := parseGoroutineID(dump[:min(len(dump), 64)])
				w.goroutine.Store(id)
				stacks[id] = bytes.Clone(dump)
			}
		}
	}
}
