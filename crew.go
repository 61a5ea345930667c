package taskpool

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"
)

// A crew is the set of workers of a pool. A worker is hired when it is first needed: until
// then it is only counted, in unhired, and is as idle as those that sleep. Protected by
// Pool.mu.
type crew struct {
	all     []*worker // all that were hired except those abandoned, and guests; in no order
	guests  int       // how many of all are guests, see do.go
	hosts   bool      // the pool has had a guest, and is in hosts
	spare   sync.Pool // guests, for reuse; not protected
	unhired int       // number of those not hired yet
	extra   int       // how many are beyond slots, at most, for tasks that ran while others were parked
	lastID  int       // number of the newest worker
	engaged int       // slots held, attempts parked and workers abandoned

	// Workers without a task. There need not be one for each free slot.
	idle   []*worker // asleep, the latest on top
	leader *worker   // asleep, to be woken by the next arrival; nil: none, or its waking was noticed
	coming int       // how many were woken or hired and have not looked for a task yet
	detour bool      // same as inbox.detour

	blocking int     // how many attempts are in the function given to Block, without a slot
	resters  waiters // calls that wait until no task is at work

	procs procsWatch

	dead      []*worker // to be replaced by the supervisor
	lost      []*worker // given up together with their slot, as too many are abandoned
	abandoned []*worker // given up without a slot, still running
}

// engage adds n to the number of slots held, attempts parked and workers abandoned: while
// that is not 0, somebody may wait on a worker's goroutine.
func (c *crew) engage(n int) {
	if c.engaged == 0 {
		activePools.Add(1)
	}
	if c.engaged += n; c.engaged == 0 {
		activePools.Add(-1)
	}
}

// size returns the number of workers, without those abandoned.
func (c *crew) size() int { return c.hired() + c.unhired }

// hired returns the number of workers that were hired, without those abandoned.
func (c *crew) hired() int { return len(c.all) - c.guests }

// hung returns the workers whose tasks were given up and still run; one that hangs in a hook has
// none.
func (c *crew) hung() []*worker {
	return slices.DeleteFunc(slices.Concat(c.abandoned, c.lost), func(w *worker) bool { return !w.job.live() })
}

// hireLocked starts one of the workers not hired yet or, if there are none, one more.
// It sleeps until it is woken.
func (p *Pool) hireLocked() *worker {
	p.crew.lastID++
	w := &worker{pool: p, wake: make(chan struct{}, 1), id: p.crew.lastID, crewI: len(p.crew.all), watchI: -1}
	p.crew.all = append(p.crew.all, w)
	p.crew.idle = append(p.crew.idle, w)
	if p.crew.unhired > 0 {
		p.crew.unhired--
	}
	p.crew.extra = max(p.crew.extra, p.crew.size()-p.sched.slots)
	go w.main()
	return w
}

// withoutTask returns the number of workers without a task.
func (c *crew) withoutTask() int {
	n := c.unhired + len(c.idle) + c.coming
	if c.leader != nil {
		n++
	}
	return n
}

// takeIdle takes the idle worker on top, or returns nil if none is asleep. The caller must
// wake it.
func (c *crew) takeIdle(in *inbox) *worker {
	if len(c.idle) == 0 {
		c.releaseLeader(in)
	}
	last := len(c.idle) - 1
	if last < 0 {
		return nil
	}
	w := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	return w
}

// summonLocked wakes one more worker to look for a task. If none is asleep it hires one:
// if a slot is free although all were hired, some are with parked tasks.
func (p *Pool) summonLocked() {
	coming := p.crew.coming
	w := p.crew.takeIdle(&p.inbox)
	if p.crew.coming > coming {
		return // that was the leader, and it was woken already
	}
	if w == nil {
		p.hireLocked()
		w = p.crew.takeIdle(&p.inbox)
	}
	p.crew.coming++
	w.wake <- struct{}{}
}

// rests reports whether no task is at work, nor about to be.
func (c *crew) rests(s *scheduler) bool {
	return s.held == len(c.lost) && c.blocking == 0 && s.wanted() == 0
}

// resizeLocked has p, whose crew c is, have so many workers.
func (c *crew) resizeLocked(p *Pool, workers int) {
	p.sched.slots = workers
	c.boundExtra(workers)
	c.unhired += max(workers-c.size(), 0)
	p.recoverLostLocked()
	c.trim(workers+c.extra, &p.inbox)
	p.restoreLocked()
	p.watchFullLocked() // there may be fewer slots than are held
}

// boundExtra lowers extra to the number of workers that are still beyond slots: there may
// be more slots now, or some of those workers were abandoned.
func (c *crew) boundExtra(slots int) { c.extra = min(c.extra, max(c.size()-slots, 0)) }

// trim dismisses idle workers while there are more than most.
func (c *crew) trim(most int, in *inbox) {
	c.unhired -= min(c.unhired, max(c.size()-most, 0))
	for c.hired() > most {
		w := c.takeIdle(in)
		if w == nil {
			return // those on their way will see for themselves
		}
		c.remove(w)
		w.dismissed = true
		w.wake <- struct{}{}
	}
}

// remove takes w out of the crew.
func (c *crew) remove(w *worker) {
	if w.guest != nil {
		c.guests--
	}
	last := len(c.all) - 1
	moved := c.all[last]
	c.all[w.crewI], moved.crewI = moved, w.crewI
	c.all[last] = nil
	c.all, c.idle = shrunk(c.all[:last]), shrunk(c.idle)
}

// running returns for the log which tasks are under way and for how long, or only those
// that have a slot: first those with a slot, the longest first, then the parked ones.
func (c *crew) running(now time.Time, slotsOnly bool) []slog.Attr {
	type underWay struct {
		w     *worker
		since time.Time
	}
	var all []underWay
	for _, w := range c.all {
		if w.busy && (w.holds || !slotsOnly) {
			all = append(all, underWay{w, w.sinceLocked(now)})
		}
	}
	slices.SortFunc(all, func(a, b underWay) int {
		switch {
		case a.w.holds == b.w.holds:
			return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.w.id, b.w.id))
		case a.w.holds:
			return -1
		}
		return 1
	})
	var names []string
	for _, u := range all[:min(len(all), maxNamed)] {
		name := fmt.Sprintf("%s for %v", describeTask(u.w.infoLocked()), now.Sub(u.since))
		if !u.w.holds {
			name += ", parked"
		}
		names = append(names, name)
	}
	attrs := []slog.Attr{slog.Any("running", names)}
	if more := len(all) - len(names); more > 0 {
		attrs = append(attrs, slog.Int("running_more", more))
	}
	return attrs
}

// worker returns the worker with that number, or nil if there is none.
func (c *crew) worker(number int) *worker {
	for _, workers := range [][]*worker{c.all, c.abandoned} {
		for _, w := range workers {
			if w.id == number {
				return w
			}
		}
	}
	return nil
}

// endDetour lets tasks arrive without Pool.mu. It is called with in.mu held.
func (c *crew) endDetour(in *inbox) {
	c.detour, in.detour = false, false
	if in.batch == nil {
		in.batch = newSegment(batchSize)
	}
}

// releaseLeader makes the leader, if there is one, a worker like any other.
func (c *crew) releaseLeader(in *inbox) {
	if c.leader != nil {
		lockSoon(&in.mu)
		defer in.mu.Unlock()
		c.endLeader(in)
	}
}

// endLeader makes the leader a worker like any other. It is called with in.mu held.
func (c *crew) endLeader(in *inbox) {
	if in.leader == nil {
		c.coming++ // the first arrival has woken it
	} else {
		in.leader = nil
		c.idle = append(c.idle, c.leader)
	}
	c.leader = nil
}

// replaceLocked starts a new goroutine for w, whose own has died. It continues what the
// dead one left undone, and holds its slot.
func (w *worker) replaceLocked() {
	p := w.pool
	reason := w.deathLocked()
	if w.panicked {
		p.ledger.total.replacedPanic++
	} else {
		p.ledger.total.replacedGoexit++
	}
	old := w.id
	p.crew.lastID++
	w.id, w.dead = p.crew.lastID, false
	w.goroutine.Store(0)
	e := WorkerEvent{Pool: p.cfg.name, Worker: old, Reason: reason}
	var notices []notice
	tell(&notices, p.hooks.workerDied, e)
	e.Replacement = w.id
	tell(&notices, p.hooks.workerReplaced, e)
	p.notifyLocked(notices)
	go w.main()
}

// deathLocked returns how w's goroutine ended, for hooks.
func (w *worker) deathLocked() Reason {
	if w.panicked {
		return ReasonPanic
	}
	return ReasonGoexit
}

// abandonLocked takes the slot from w, which hangs, and gives it to a new worker, unless w is
// a guest. If the goroutine of w has ended, in a hook that hung before, nothing is left of w.
func (w *worker) abandonLocked(notices *[]notice) {
	p := w.pool
	w.gaveUp, w.abandoned = true, true
	p.crew.remove(w)
	p.crew.boundExtra(p.sched.slots)
	w.freeSlotLocked()
	e := WorkerEvent{Pool: p.cfg.name, Worker: w.id, Reason: ReasonHung}
	if w.dead {
		e.Reason = w.deathLocked()
		p.crew.dead = shrunk(slices.DeleteFunc(p.crew.dead, func(d *worker) bool { return d == w }))
		w.notices = slices.DeleteFunc(w.notices, func(r notice) bool { return r.start })
		*notices = append(*notices, w.notices...) // which its replacement would have delivered
		tell(notices, p.hooks.workerDied, e)
	} else {
		p.crew.abandoned = append(p.crew.abandoned, w)
		p.crew.engage(+1)
		if w.guest != nil { // the pool has lost no worker
			return
		}
		tell(notices, p.hooks.workerAbandoned, e)
	}
	if p.crew.size() < p.sched.slots && p.end.cut == nil && !(p.end.closed && p.sched.outstanding() == 0) {
		p.ledger.total.replacedHung++
		p.crew.unhired++
		e.Replacement = p.hireLocked().id
		tell(notices, p.hooks.workerReplaced, e)
	}
}

// returnedLateLocked records that an abandoned worker has ended.
func (w *worker) returnedLateLocked() {
	p := w.pool
	p.crew.abandoned = shrunk(slices.DeleteFunc(p.crew.abandoned, func(a *worker) bool { return a == w }))
	p.crew.engage(-1)
	p.recoverLostLocked()
	p.restoreLocked()
}

// recoverLostLocked replaces lost slots, as far as the bound on abandoned workers
// allows.
func (p *Pool) recoverLostLocked() {
	var notices []notice
	for len(p.crew.lost) > 0 && (len(p.crew.abandoned) < p.cfg.maxAbandonedOf(p.sched.slots) || p.end.cut != nil) {
		w := p.crew.lost[0]
		p.crew.lost = shrunk(slices.Delete(p.crew.lost, 0, 1))
		w.abandonLocked(&notices)
	}
	p.notifyLocked(notices)
}

// shrunk returns s, copied to less memory if it uses little of its capacity: otherwise a
// slice that only shrinks would keep the memory for the most that it ever held. It copies
// at most as many elements as were removed since the last copy.
func shrunk[S ~[]E, E any](s S) S {
	if cap(s) < leastShrunk || len(s) > cap(s)/4 {
		return s
	}
	return append(make(S, 0, max(2*len(s), leastShrunk/2)), s...)
}

const leastShrunk = 256

// A procsWatch has the number of workers follow GOMAXPROCS, if that was not given. It looks
// as tasks start, where a lock is held and, for tasks, the clock was read anyway.
type procsWatch struct {
	on       bool
	lookAt   time.Time // when the next task that starts may look
	lookFrom uint64    // from so many attempts on the clock is read for that; math.MaxUint64 unless on
	found    int       // not 0: what the supervisor is to resize to, as here a task is handed out
}

// procsEvery is how many attempts start for one for which the clock is read to look at
// GOMAXPROCS.
const procsEvery = 256

// stop has the number of workers stay what it is.
func (w *procsWatch) stop() { *w = procsWatch{lookFrom: math.MaxUint64} }

// lookLocked looks at GOMAXPROCS unless that was done less than a second ago.
func (w *procsWatch) lookLocked(p *Pool, now time.Time) {
	w.lookFrom = p.ledger.total.attempts + procsEvery
	if now.Before(w.lookAt) {
		return
	}
	w.lookAt = now.Add(time.Second)
	if n := p.cfg.workersNow(); n != p.sched.slots {
		w.found = n
		p.supervisor.alarmLocked()
	}
}

// followLocked resizes p to what was found.
func (w *procsWatch) followLocked(p *Pool) {
	n, before := w.found, p.sched.slots
	w.found = 0
	if n == 0 || p.end.closed {
		return
	}
	p.crew.resizeLocked(p, n)
	p.notifyLocked([]notice{{call: func() {
		p.guard.write(slog.LevelDebug, "taskpool: workers follow GOMAXPROCS", slog.Int("workers", n), slog.Int("before", before))
	}}})
}
