package taskpool

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A pool can stall although nothing in it is broken: its tasks wait for each other in a
// circle, or all slots are held by tasks that wait, on a channel of their own, for what
// only a queued task could bring about. The pool cannot end a stall, but it reports it:
// once in the log, and by Health and Stats for as long as it lasts. There are two kinds:
//
//   - All slots are held, something waits, and for a hang grace nothing has moved: no
//     attempt has started, resumed, been parked or ended, and no task has called Yield or
//     Beat. Long tasks without a safe point look just the same.
//   - Some attempts have been parked for a hang grace, and each waits for what only others
//     of them could bring about, in this pool or another.
//
// The supervisor looks for both. Its timer is set when something waits while all slots are
// held, or when a task begins to wait, and again after each look as long as there may be a
// stall. So it costs one look at the clock per grace, and nothing per task. A stall is
// found when it has lasted for one to two graces. While a stall lasts, the supervisor looks
// less and less often, down to once in maxStillLooks graces, and a stall that follows it
// may be found that late.

// A stallWatch is what a pool knows about stalls. Protected by pool.mu.
type stallWatch struct {
	next    time.Time     // when the supervisor looks; zero: there is nothing to look for
	arrival bool          // with next zero: the next task to arrive has it look, see inbox.watch
	moves   uint64        // ledger.moves at the last look
	waited  bool          // at the last look all slots were held and something waited
	stalled bool          // nothing has moved between two looks with waited set
	graces  int           // number of graces from one look to the next
	circle  []*suspension // attempts found to wait for each other
}

// maxStillLooks is the largest number of graces between two looks.
const maxStillLooks = 16

// watchLocked has the supervisor look for a stall after a grace.
func (s *stallWatch) watchLocked(grace time.Duration, sup *supervisor) {
	if s.graces == 1 && !s.next.IsZero() {
		return
	}
	if next := time.Now().Add(grace); s.next.IsZero() || next.Before(s.next) {
		s.next, s.graces = next, 1
		sup.alarmAtLocked(next)
	}
}

// watchFullLocked is called when the last slot may have been taken, or something may wait
// while no slot is free. If so, it has the supervisor look for a stall or, if nothing waits
// yet, has the next task to arrive do that.
func (p *Pool) watchFullLocked() {
	s := &p.stall
	switch {
	case !s.next.IsZero() || p.sched.held < p.sched.slots || p.sched.paused || p.end.cut != nil:
	case p.sched.waiting() > 0 || p.sched.admission.n > 0:
		s.watchLocked(p.cfg.hangGrace, &p.supervisor)
	case !s.arrival:
		in := &p.inbox
		lockSoon(&in.mu)
		arrived := in.n > 0
		s.arrival, in.watch = !arrived, !arrived
		in.mu.Unlock()
		p.supervisor.startLocked()
		if arrived {
			s.watchLocked(p.cfg.hangGrace, &p.supervisor)
		}
	}
}

// firedLocked reports whether a task for which s.arrival was set has arrived in in.
func (s *stallWatch) firedLocked(in *inbox) bool {
	if !s.arrival {
		return false
	}
	lockSoon(&in.mu)
	defer in.mu.Unlock()
	if in.watch {
		return false
	}
	s.arrival = false
	return true
}

// moves returns a number that changes whenever an attempt starts, resumes, is parked or
// ends, or a task settles.
func (l *ledger) moves() uint64 {
	t := &l.total
	return t.attempts + t.parks + t.resumes + t.succeeded + t.failed + t.canceled + t.shed + t.retries
}

// safePoint reports whether a task has reached a safe point since the last look.
func (c *crew) safePoint() bool {
	for _, w := range c.all {
		if a := w.attempt; w.busy && a != nil && a.asked && a.signal.Load()&signalStall == 0 {
			return true
		}
	}
	return false
}

// lookForStallLocked is the supervisor's look for a stall, which is due at now. It reports
// whether there may be a circle, which the caller must look for without the lock.
func (p *Pool) lookForStallLocked(now time.Time) (circle bool) {
	s := &p.stall
	late := now.Sub(s.next) > p.cfg.hangGrace/4 // then tasks had no time to move either
	moved := s.moves != p.ledger.moves() || p.crew.safePoint()
	still := p.sched.still() && p.end.cut == nil
	if was := s.stalled; still && s.waited && !moved && !late {
		if s.stalled = true; !was {
			attrs := []slog.Attr{slog.Int("workers", p.sched.slots), slog.Int("queued", p.sched.count[StateQueued]),
				slog.Int("submitters_waiting", p.sched.admission.n), slog.Int("parked", p.sched.count[StateParked])}
			attrs = append(attrs, p.crew.running(now, true)...)
			p.notifyLocked([]notice{{call: func() {
				p.guard.write(slog.LevelWarn, "taskpool: nothing moves: all slots are held, none has come to a safe point, and tasks wait", attrs...)
			}}})
		}
	} else if moved || !still {
		s.stalled = false
	}
	s.moves, s.waited = p.ledger.moves(), still
	waiting := false
	for _, w := range p.crew.all {
		a := w.attempt
		if a == nil || !w.busy {
			continue
		}
		a.asked = a.suspension == nil
		if a.asked {
			a.signal.Or(signalStall)
		} else if pk := a.suspension; pk.waits != (awaited{}) && !pk.askedLocked() {
			if pk.seen && !late {
				pk.lasts, circle = true, true
			} else {
				waiting = true // only then can a circle form without another task that begins to wait
			}
			pk.seen = true
		}
	}
	s.circle = shrunk(slices.DeleteFunc(s.circle, func(pk *suspension) bool { return !pk.waitingLocked() }))
	s.next = time.Time{}
	if still || waiting {
		if s.stalled && !waiting {
			s.graces = min(2*s.graces, maxStillLooks)
		} else {
			s.graces = 1
		}
		s.next = now.Add(time.Duration(s.graces) * p.cfg.hangGrace)
	} else {
		p.watchFullLocked()
	}
	return circle
}

// waitingLocked reports whether the attempt is still parked as pk and what it waits for has
// not happened yet.
func (pk *suspension) waitingLocked() bool { return pk.currentLocked() && !pk.askedLocked() }

// stalledLocked returns the error of Health for a stalled pool, nil if p is not stalled.
func (p *Pool) stalledLocked() error {
	s := &p.stall
	if s.stalled && p.sched.still() && p.end.cut == nil && s.moves == p.ledger.moves() && !p.crew.safePoint() {
		return fmt.Errorf("%w: all %d slots have been held for %v and longer without a safe point, while %d tasks and %d submitters wait",
			ErrStalled, p.sched.slots, p.cfg.hangGrace, p.sched.waiting(), p.sched.admission.n)
	}
	for _, pk := range s.circle {
		if pk.waitingLocked() {
			return fmt.Errorf("%w: %d tasks wait for each other", ErrStalled, len(s.circle))
		}
	}
	return nil
}

// maxNamed is how many tasks a log record names at most.
const maxNamed = 10

// describeTask returns a description of a task for use in a sentence.
func describeTask(t TaskInfo) string {
	if t.IsFunc() {
		return t.Priority.String() + " function of worker " + strconv.Itoa(t.Worker)
	}
	if t.Name == "" {
		return "task " + strconv.FormatUint(t.ID, 10)
	}
	return fmt.Sprintf("task %d %q", t.ID, t.Name)
}

// circles serializes the search for circles, so that only one of several pools reports a
// circle through all of them.
var circles sync.Mutex

// A waitNode is an attempt that is parked and waits.
type waitNode struct {
	pk    *suspension
	waits awaited
	after []*Handle // what the task that it waits for comes after, see waitGraph.behind
	info  TaskInfo
	stuck int  // how many of its targets are not free
	free  bool // what it waits for may happen
}

// A waitGraph holds the waiting attempts of a pool and of all pools that these wait for.
type waitGraph struct {
	nodes   []*waitNode
	byTask  map[*Handle]*waitNode
	members map[*Group][]*waitNode // members of groups
	byPool  map[*Pool][]*waitNode
	sizes   map[*Group]int // how many members of a group have not settled
	steps   int            // how many more tasks behind looks at
}

// maxBehind is how many tasks a search for circles looks at because others come after them. A
// circle through more is not found.
const maxBehind = 10_000

// lookForCircle looks for tasks that wait for each other, logs those that are new, and
// notes them in their pools. No lock may be held.
//
// A task that waits for another task is stuck if that one is stuck, or any that it comes after,
// by Task.After. A task that waits for
// all members of a group, or for an idle pool, is stuck if any member, or any task of the
// pool, is stuck. A task that waits for the limit of a group is stuck if all members are.
// All others are free; the search starts from these. The pools are looked at one after the
// other. That does no harm: a task that is stuck stays stuck, and in the end those found
// are checked once more, so that there was a moment at which all of them waited.
func lookForCircle(p *Pool) {
	circles.Lock()
	defer circles.Unlock()
	g := newWaitGraph(p)
	g.release()
	stuck := make(map[*Pool][]*waitNode)
	for _, n := range g.nodes {
		if !n.free {
			q := n.pk.a.pool
			stuck[q] = append(stuck[q], n)
		}
	}
	for q, nodes := range stuck {
		if !stillWait(q, nodes) {
			return // something has changed; the next look will find what remains
		}
	}
	var told []string
	more, fresh := 0, false
	for q, nodes := range stuck {
		fresh = noteCircle(q, nodes) || fresh
		for _, n := range nodes {
			if len(told) == maxNamed {
				more++
				continue
			}
			told = append(told, describeTask(n.info)+" waits for "+n.target())
		}
	}
	if !fresh {
		return
	}
	slices.Sort(told)
	attrs := []slog.Attr{slog.Any("tasks", told)}
	if more > 0 {
		attrs = append(attrs, slog.Int("tasks_more", more))
	}
	p.lock()
	defer p.unlock()
	p.notifyLocked([]notice{{call: func() {
		p.guard.write(slog.LevelWarn, "taskpool: tasks wait for each other", attrs...)
	}}})
}

// newWaitGraph collects the attempts that wait in p, and in the pools that these wait for,
// and so on.
func newWaitGraph(p *Pool) *waitGraph {
	g := &waitGraph{byTask: make(map[*Handle]*waitNode), members: make(map[*Group][]*waitNode),
		byPool: make(map[*Pool][]*waitNode), sizes: make(map[*Group]int), steps: maxBehind}
	pools, seen := []*Pool{p}, map[*Pool]bool{p: true}
	for len(pools) > 0 {
		q := pools[0]
		pools = pools[1:]
		from := len(g.nodes)
		g.collect(q)
		look := func(t *Pool) {
			if t != nil && !seen[t] {
				seen[t] = true
				pools = append(pools, t)
			}
		}
		for _, n := range g.nodes[from:] {
			look(n.waits.pool())
			if h := n.waits.settled; h != nil {
				n.after = g.behind(h)
			}
			for _, on := range n.after {
				look(on.pool)
			}
		}
	}
	return g
}

// behind returns the tasks that have to succeed before h starts, directly or through others
// that wait as h does, without those others. No lock may be held.
func (g *waitGraph) behind(h *Handle) (all []*Handle) {
	seen := make(map[*Handle]bool)
	for next := []*Handle{h}; len(next) > 0; {
		h, next = next[len(next)-1], next[:len(next)-1]
		h.pool.lock()
		var on []dependency
		if h.place.in == inDependents {
			on = h.links().dependencies
		}
		h.pool.unlock()
		if on == nil && len(seen) > 0 {
			all = append(all, h)
		}
		for _, d := range on {
			if g.steps > 0 && !seen[d.on] && !d.on.settled.Load() {
				g.steps--
				seen[d.on] = true
				next = append(next, d.on)
			}
		}
	}
	return all
}

// pool returns the pool of what is waited for, nil if a is zero.
func (a *awaited) pool() *Pool {
	switch {
	case a.settled != nil:
		return a.settled.pool
	case a.ran != nil:
		return a.ran.pool
	case a.room != nil:
		return a.room.pool
	case a.members != nil:
		return a.members.p
	case a.limit != nil:
		return a.limit.p
	default:
		return a.idle
	}
}

// collect adds the attempts that have waited in p for a grace. The others count as free.
func (g *waitGraph) collect(p *Pool) {
	p.lock()
	defer p.unlock()
	for _, w := range p.crew.all {
		a := w.attempt
		if !w.busy || a == nil || a.suspension == nil || !a.suspension.lasts || !a.suspension.waitingLocked() {
			continue
		}
		n := &waitNode{pk: a.suspension, waits: a.suspension.waits, info: a.infoLocked()}
		g.nodes = append(g.nodes, n)
		g.byTask[a.h] = n
		g.byPool[p] = append(g.byPool[p], n)
		if group := a.group; group != nil {
			g.members[group] = append(g.members[group], n)
			g.sizes[group] = group.members
		}
	}
}

// release finds out which nodes are free.
func (g *waitGraph) release() {
	waiting := make(map[*waitNode][]*waitNode) // the nodes that have a node among their targets
	for _, n := range g.nodes {
		targets := g.targets(n)
		n.stuck = len(targets)
		for _, on := range targets {
			waiting[on] = append(waiting[on], n)
		}
	}
	again := slices.Clone(g.nodes)
	for len(again) > 0 {
		n := again[len(again)-1]
		again = again[:len(again)-1]
		if !n.free && g.isFree(n) {
			n.free = true
			for _, w := range waiting[n] {
				w.stuck--
			}
			again = append(again, waiting[n]...)
		}
	}
}

// targets returns the nodes on which it depends whether n is free.
func (g *waitGraph) targets(n *waitNode) []*waitNode {
	switch w := &n.waits; {
	case w.settled != nil:
		var all []*waitNode
		for _, h := range append(n.after, w.settled) {
			if on := g.byTask[h]; on != nil {
				all = append(all, on)
			}
		}
		return all
	case w.ran != nil:
		if on := g.byTask[w.ran]; on != nil {
			return []*waitNode{on}
		}
		return nil
	case w.members != nil:
		return g.members[w.members]
	case w.limit != nil:
		return g.members[w.limit]
	case w.idle != nil:
		return g.byPool[w.idle]
	}
	return nil
}

// isFree reports whether what n waits for may happen, given the nodes known to be free so
// far.
func (g *waitGraph) isFree(n *waitNode) bool {
	if n.waits.limit != nil {
		return n.stuck < max(g.sizes[n.waits.limit], 1)
	}
	return n.stuck == 0
}

// stillWait reports whether all nodes, which are attempts of p, still wait as they did.
func stillWait(p *Pool, nodes []*waitNode) bool {
	p.lock()
	defer p.unlock()
	for _, n := range nodes {
		if !n.pk.waitingLocked() {
			return false
		}
	}
	return true
}

// noteCircle records that nodes are attempts of p that wait for each other, and reports
// whether any of them is new.
func noteCircle(p *Pool, nodes []*waitNode) (fresh bool) {
	p.lock()
	defer p.unlock()
	for _, n := range nodes {
		if !n.pk.told {
			n.pk.told, fresh = true, true
			p.stall.circle = append(p.stall.circle, n.pk)
		}
	}
	return fresh
}

// target returns a description of what n waits for.
func (n *waitNode) target() string {
	switch w := &n.waits; {
	case w.settled != nil:
		h := w.settled
		h.pool.lock()
		defer h.pool.unlock()
		info := h.infoLocked()
		if info.State == StateDelayed && info.WaitsFor != "" {
			return describeTask(info) + ", which comes after " + info.WaitsFor
		}
		return describeTask(info)
	case w.members != nil:
		return "the members of a group"
	case w.limit != nil:
		return "the limit of a group"
	case w.idle != nil:
		return "an idle pool"
	}
	return "room"
}
