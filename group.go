package taskpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// A Group is a set of tasks that work on one thing, like x/sync's errgroup but on a
// pool: the first error cancels the other members' contexts, and [Group.Wait] returns
// it. No member starts after it, unless [Group.CollectErrors] says that all are to be done.
// Make one with [Pool.Group]. Its methods may be called from any goroutine. A Group must not
// be copied: the methods of a copy panic, and Wait returns an error.
type Group struct {
	p      *Pool
	self   *Group // the one that Pool.Group returned: copies are refused, see errors.go
	t      Task
	parent context.Context // as given to Pool.Group
	inside *attempt        // the attempt that parent belongs to; nil outside a task
	series *Periodic       // whose rounds are the members; nil if there is none
	ctx    context.Context // the members'
	cancel context.CancelCauseFunc
	failed atomic.Bool // err is set; workers read it without the lock

	// The fields below are protected by p.mu.

	limit   int // on members that have not settled; negative: none
	members int // that have not settled, or are being submitted
	mode    groupMode
	err     error // the first, in the mode firstError
	errs    []error
	ended   []*Handle // in the mode listEnded: members that have settled
	used    bool      // it has had members
	over    bool      // Wait has returned, or is about to
	late    bool      // a member came after that
	lent    bool      // to the members, by tasks that wait for them
	urgency Priority  // if so: as what they count at least
	tasks   []*Handle // the members that were accepted and have not settled
	room    waiters   // those who wait for members to drop below limit
	none    waiters   // those who wait for members to drop to 0
}

// A groupMode says what becomes of the errors of a group's members.
type groupMode byte

const (
	firstError groupMode = iota // the first cancels the other members
	allErrors                   // they are collected in errs
	listEnded                   // the members that have ended are listed in ended, for MapUnordered
	noErrors                    // nobody is told of them, see Periodic
)

// Group returns a new group of tasks after the pattern t, whose Run must be nil.
// The members' contexts derive from ctx, and end when a member fails or Wait
// returns. Inside a task, Wait and, at the limit, Go give that task's slot back,
// whatever ctx is. Group panics if ctx is nil.
func (p *Pool) Group(ctx context.Context, t Task) *Group {
	p.mustBeUsable("Group")
	if ctx == nil {
		panic(nilArgument("Group", "ctx").Error())
	}
	g := &Group{p: p, t: t, parent: ctx, inside: attemptFrom(ctx), limit: -1}
	g.self = g
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

// String describes the group in a line such as
//
//	group (3 in flight, limit 8)
//
// which counts the members that have not settled, and says if one has failed or, where errors
// are collected, how many have. It is
// what package fmt prints for a Group, also for one that is nil, zero or a copy, and may be
// called anywhere.
func (g *Group) String() string {
	switch {
	case g == nil:
		return "<nil>" // as fmt says
	case g.p == nil:
		return "zero Group"
	case g.self != g:
		return "copy of " + g.self.String()
	}
	g.p.lock()
	members, limit, failed := g.members, g.limit, len(g.errs)
	g.p.unlock()
	text := fmt.Appendf(nil, "group (%d in flight", members)
	if limit >= 0 {
		text = fmt.Appendf(text, ", limit %d", limit)
	}
	if g.failed.Load() {
		text = append(text, ", failed"...)
	} else if failed > 0 {
		text = fmt.Appendf(text, ", %d failed", failed)
	}
	return string(append(text, ')'))
}

// GoString returns what String does as something of the type *Group. Package fmt prints it
// for %#v, as tests do, in place of all that a pool consists of.
func (g *Group) GoString() string { return "(*taskpool.Group)(" + g.String() + ")" }

// LogValue has package log/slog log what String returns.
func (g *Group) LogValue() slog.Value { return slog.StringValue(g.String()) }

// SetLimit limits the number of members that have not settled to n; a negative n
// means no limit. At the limit Go and GoTask wait. SetLimit panics if there are members that
// have not settled, or if n is 0, with which Go would wait forever.
func (g *Group) SetLimit(n int) {
	g.mustBeUsable("Group.SetLimit")
	g.p.lock()
	members := g.members
	if members == 0 && n != 0 {
		g.limit = n
	}
	g.p.unlock()
	if n == 0 {
		panic("taskpool: Group.SetLimit: n must not be 0")
	}
	if members > 0 {
		panic("taskpool: Group.SetLimit: the group has members already")
	}
}

// CollectErrors has the group do all of its work whatever fails: an error cancels nobody,
// and [Group.Wait] returns all errors joined by [errors.Join], in the order in which they
// came. They are kept until then, so a group of very many members that fail takes memory for
// each. Call it before the first member is added; it panics if there has been one.
func (g *Group) CollectErrors() {
	g.mustBeUsable("Group.CollectErrors")
	g.p.lock()
	late := g.used
	if !late {
		g.mode = allErrors
	}
	g.p.unlock()
	if late {
		panic("taskpool: Group.CollectErrors: the group has had members already")
	}
}

// Go submits a member that does its work with f. It waits while there are as many
// members as SetLimit allows, and if the queue has no room it waits for room,
// whatever [WithCapacity] says; with [OverflowShed] it makes room if it can.
// Called in a task, be it the one that made the group or a member, it gives that
// task's slot back meanwhile, and waits no longer than until that task's context
// ends. A member that is not accepted is an error of the group. After an error, and
// after Wait, no member is accepted, and f does not run. A member that waits when the
// first error comes does not run either: it is Canceled. Go panics if f is nil.
func (g *Group) Go(f func(context.Context) error) {
	const call = "Group.Go"
	g.mustBeUsable(call)
	switch {
	case f == nil:
		panic(nilArgument(call, "f").Error())
	case g.t.Run != nil:
		if accepts, _ := g.enter(call, g.t.Priority); accepts {
			g.refused(errRunSet)
		}
	default:
		g.submit(call, &g.t, f)
	}
}

// GoTask is [Group.Go] for a member that is unlike the others: t, whose Run does the work,
// stands in place of the task that the group was made with, of which nothing is taken. A t
// that is not valid is an error of the group. GoTask panics if t.Run is nil.
func (g *Group) GoTask(t Task) {
	const call = "Group.GoTask"
	g.mustBeUsable(call)
	if t.Run == nil {
		panic(nilArgument(call, "Task.Run").Error())
	}
	g.submit(call, &t, t.Run)
}

// submit submits a member after the pattern t for the call of that name.
func (g *Group) submit(call string, t *Task, run func(context.Context) error) {
	switch accepts, err := g.enter(call, t.Priority); {
	case !accepts:
	case err != nil:
		g.refused(err)
	default:
		// Pool.submit calls submitted, so nothing is left to do with what it returns.
		_, _ = g.p.submit(call, newHandle(g.ctx), g.ctx, g.ctx, t, work{run: run, group: g}, terms{roomWait, answerLater})
	}
}

// enter counts one more member, of priority pr, once the limit allows it, if the group accepts one. It
// returns an error if the context of the task that waits for that ends; if the group's
// context ends the wait, submit reports it.
func (g *Group) enter(call string, pr Priority) (accepts bool, err error) {
	g.p.lock()
	defer g.p.unlock()
	w := &wait{what: awaited{limit: g}, ctx: g.ctx, task: g.inside, ask: true, always: true}
	_ = w.awaitLocked()
	if !g.acceptsLocked(call, pr) {
		return false, nil
	}
	g.used = true
	g.members++
	if w.byTask == nil {
		return true, nil
	}
	return true, &taskOverError{call, w.byTask}
}

// acceptsLocked reports whether the group accepts one more member, of priority pr, and records
// one that it does not.
func (g *Group) acceptsLocked(call string, pr Priority) bool {
	switch {
	case g.over && !g.late && g.err == nil:
		g.late = true
		g.failLocked(&kindError{"taskpool: " + call + ": the group is over, Wait has returned", context.Canceled})
	case !g.over && g.err == nil:
		return true
	}
	g.p.refusedLocked(pr, errGaveUp) // its context is over
	return false
}

// submitted records how the submission of a member ended.
func (g *Group) submitted(h *Handle, err error) {
	g.p.lock()
	accepted := h.id != 0
	l := lending{urgency: g.urgency}
	if accepted && !h.state.Final() {
		h.memberI = int32(len(g.tasks))
		g.tasks = append(g.tasks, h)
		if g.lent {
			g.lendLocked(h, &l)
			l.passOnLocked(g.p)
			g.p.restoreLocked()
		}
	}
	g.p.unlock()
	l.passOn()
	if !accepted {
		g.refused(err)
	}
	if g.series != nil {
		g.series.submitted(accepted, err)
	}
}

// takesLoanLocked records that the members, those to come too, are lent pr. It returns false
// if they were before, or if there are none.
func (g *Group) takesLoanLocked(pr Priority) bool {
	if g.members == 0 || g.lent && g.urgency <= pr {
		return false
	}
	g.lent, g.urgency = true, pr
	return true
}

// lendLocked lends h, a member, the urgency of l. What makes no difference is not kept for
// each of very many: if h gets another priority, SetPriority asks the group again.
func (g *Group) lendLocked(h *Handle, l *lending) {
	if l.urgency < h.urgency() {
		l.lendTaskLocked(h)
	}
}

// lendGroup lends the urgency to the members of g, a chunk at a time. The list may change
// between two chunks: members that come are lent to as they do, and one that leaves is
// replaced by the last, which the loop has seen.
func (l *lending) lendGroup(g *Group) {
	p := g.p
	p.lock()
	defer p.unlock()
	if !g.takesLoanLocked(l.urgency) {
		return
	}
	for i := len(g.tasks); i > 0; i = min(i, len(g.tasks)) {
		for n := passChunk; n > 0 && i > 0; n-- {
			i--
			g.lendLocked(g.tasks[i], l)
		}
		p.restoreLocked()
		p.unlocked(l.passOn)
	}
}

// leftLocked takes h, which has settled, from the list of members, if it is there already.
func (g *Group) leftLocked(h *Handle, notices *[]notice) {
	switch {
	case g.mode == listEnded:
		g.ended = append(g.ended, h)
	case g.series != nil:
		*notices = append(*notices, notice{call: g.series.next})
	}
	last := len(g.tasks) - 1
	if i := int(h.memberI); i <= last && g.tasks[i] == h {
		g.tasks[i] = g.tasks[last]
		g.tasks[i].memberI = int32(i)
		g.tasks[last] = nil
		g.tasks = shrunk(g.tasks[:last])
	}
}

// refused records a member that was not accepted because of err, which is nil if a
// panic is on its way to the caller of Go.
func (g *Group) refused(err error) {
	g.p.lock()
	var notices []notice
	g.settledLocked(err, &notices)
	g.p.restoreLocked()
	g.p.outbox.oweLocked(notices)
	g.p.unlock()
	g.p.deliverAll(notices)
}

// Wait waits until all members have settled, and returns the first error among
// theirs or, with [Group.CollectErrors], all of them: that of a member that panicked is a
// [*PanicError]. Inside a task, of
// any pool, it returns the cause at once when that task's context ends, whatever
// context the group was made with; members whose contexts derive from it are then
// on their way out. Inside a member of the group it returns [ErrInside]. The errors of
// members are logged at level Debug only, but for panics and hangs; see [WithLogger].
func (g *Group) Wait() error {
	if err := g.misuse("Group.Wait"); err != nil {
		return err
	}
	if err := g.await(); err != nil {
		return err
	}
	g.p.lock()
	err, errs := g.err, g.errs
	g.p.unlock()
	if len(errs) > 0 {
		err = errors.Join(errs...)
	}
	g.cancel(err)
	return err
}

// end returns why members that have not started must not start, or nil if they may. A
// nil group never prevents that.
func (g *Group) end() *ending {
	if g == nil || !g.failed.Load() {
		return nil
	}
	g.p.lock()
	defer g.p.unlock()
	return &ending{cause: g.err, kind: endCanceled}
}

// await waits until all members have settled. Then the group is over.
func (g *Group) await() error {
	g.p.lock()
	defer g.p.unlock()
	if g.members == 0 {
		g.over = true
		return nil
	}
	w := &wait{what: awaited{members: g}, task: g.inside, ask: true, always: true}
	w.identifyLocked()
	if w.task != nil && w.task == g.inside {
		w.ctx = g.parent
	}
	err := w.awaitLocked()
	g.over = g.over || err == nil
	return err
}

// settledLocked records a member that has settled, or was not accepted, with err.
func (g *Group) settledLocked(err error, notices *[]notice) {
	g.members--
	if err != nil && g.mode == allErrors {
		g.errs = append(g.errs, err)
	} else if err != nil && g.mode == firstError && g.err == nil {
		g.failLocked(err)
		*notices = append(*notices, notice{call: func() { g.cancel(err) }})
	}
	if g.limit >= 0 && g.members < g.limit {
		g.room.wakeLocked()
	}
	if g.members == 0 {
		g.none.wakeLocked()
		g.lent = false // nobody waits any more; whoever waits again lends again
	}
}

func (g *Group) failLocked(err error) {
	if g.mode == allErrors {
		g.errs = append(g.errs, err)
		return
	}
	g.err = err
	g.failed.Store(true)
}

// A Periodic is a task that is done again and again, see [Every]. Its methods may be called
// from any goroutine. A Periodic must not be copied: the methods of a copy panic, and Wait
// returns an error.
type Periodic struct {
	g    *Group // its members are the rounds and, until it has ended, the Periodic itself
	t    Task   // the pattern of the rounds
	d    time.Duration
	busy atomic.Bool // Run is at work

	// The fields below are protected by Pool.mu.

	due     time.Time // of the latest round
	skipped uint64
	stopped bool
	err     error // once it has ended: why
}

// Every has p do t once every d, which must be positive: a round that is due at t.NotBefore
// or, if that is zero, d from now, and then one each d after that. Each round is a task of its
// own, with all of t, whose After must be empty: it has a number, waits for its turn by its
// priority, is retried as t.Retry says, and is seen by hooks, Stats and the log. What becomes
// of it, be it a panic or that it is shed, has no effect on the next.
//
// Rounds never overlap: the next one is submitted when one has settled. Those that would have
// been due by then are left out, and [Periodic.Skipped] counts them; so a round never starts
// because of a time that has passed while another was at work. If a round was given up as
// hung and its Run has not returned, the rounds after it fail until it has.
//
// It goes on until ctx ends, [Periodic.Stop] or [Pool.Shutdown] is called. Shutdown cancels
// a round that is not due, whatever [WithDelayedAtShutdown] says, and waits for one that is.
// ctx is also the context of the rounds. That of a task ends with the task, see [Detach].
//
// Every returns an error for arguments that are not allowed, and the one that Submit would
// return for ctx or a pool that is closed. It never waits for room: between two rounds the
// next one counts as a task that is not due, see [WithCapacity], but is always accepted. So
// [Pool.WaitIdle] waits for the end of it all. It takes no goroutine and no ticker, only what
// a task with a NotBefore takes.
func Every(ctx context.Context, p *Pool, d time.Duration, t Task) (*Periodic, error) {
	const call = "Every"
	switch {
	case misused(p):
		return nil, poolMisuse(p, call)
	case ctx == nil:
		return nil, nilArgument(call, "ctx")
	case t.Run == nil:
		return nil, nilArgument(call, "Task.Run")
	case d <= 0:
		return nil, pkg.Bad(call+": d", "be positive", d)
	case len(t.After) > 0: // it would concern the first round only, or end each at once
		return nil, pkg.Bad(call+": Task.After", "be empty", len(t.After))
	}
	s := &Periodic{t: t, d: d, due: t.NotBefore}
	if s.due.IsZero() {
		s.due = time.Now().Add(d)
	}
	s.t.Run = func(ctx context.Context) error {
		if !s.busy.CompareAndSwap(false, true) {
			return errOverlaps
		}
		defer s.busy.Store(false) // also after a panic or Goexit
		return t.Run(ctx)
	}
	s.g = &Group{p: p, t: Task{Name: t.Name}, ctx: ctx, limit: -1, mode: noErrors, members: 1, series: s}
	s.g.self = s.g
	if err := s.submit(); err != nil {
		return nil, err
	}
	return s, nil
}

var (
	// errOverlaps is the error of a round that must not start.
	errOverlaps = errors.New("taskpool: Every: an earlier round was given up as hung and still runs")
	// errPeriodicStopped cancels a round that waits when Stop is called.
	errPeriodicStopped error = &kindError{"taskpool: Periodic.Stop was called", context.Canceled}
)

// submit submits the next round, which is due at s.due.
func (s *Periodic) submit() error {
	g, t := s.g, s.t
	g.p.lock()
	stopped := s.stopped
	t.NotBefore = s.due
	if !stopped {
		g.members++
	}
	g.p.unlock()
	if stopped {
		s.end(errPeriodicStopped)
		return errPeriodicStopped
	}
	_, err := g.p.submit("Every", newHandle(g.ctx), g.ctx, g.ctx, &t, work{run: t.Run, group: g}, terms{roomAlways, answerOnDemand})
	return err
}

// submitted is called when the submission of a round has ended: with err, which is nil if a panic
// of a method of the context or a Goexit of a hook is on its way, if it was not accepted.
func (s *Periodic) submitted(accepted bool, err error) {
	switch e := s.g.p.guard.contextEnd(s.g.ctx); {
	case accepted:
		s.cancelStopped() // Stop may have come before the round was known
		return
	case e != nil:
		err = e.cause
	case err == nil:
		err = errors.New("taskpool: Every: a method of the context has panicked")
	}
	s.end(err)
}

// next is called when a round has settled.
func (s *Periodic) next() {
	g := s.g
	g.p.lock()
	for again := true; again; again = !s.due.After(time.Now()) { // more than once only if it was due centuries ago
		missed := max(time.Since(s.due)/s.d, 0)
		s.due = s.due.Add(missed * s.d).Add(s.d) // in two steps, as their sum may be too large
		s.skipped += uint64(missed)
	}
	g.p.unlock()
	_ = s.submit() // submitted is told
}

// end records that there are no more rounds, because of err.
func (s *Periodic) end(err error) {
	s.g.p.lock()
	if s.err = err; s.stopped {
		s.err = nil
	}
	s.g.p.unlock()
	s.g.refused(nil) // s itself, which has counted as a member
}

// Stop ends it: no round starts any more, nor a retry of one. A round that is at work goes
// on; to end that as well, end the context given to [Every]. Stop does not wait, see
// [Periodic.Wait], and may be called any number of times, in a round too.
func (s *Periodic) Stop() {
	if err := s.misuse("Periodic.Stop"); err != nil {
		panic(err.Error())
	}
	s.g.p.lock()
	s.stopped = true
	s.g.p.unlock()
	s.cancelStopped()
}

// cancelStopped cancels the round that waits, if Stop was called, and has one that is at work
// not be retried.
func (s *Periodic) cancelStopped() {
	p := s.g.p
	p.lock()
	var notices []notice
	if s.stopped && len(s.g.tasks) > 0 {
		if h := s.g.tasks[0]; h.attempt != nil {
			if h.task.extra != nil {
				h.task.extra.Retry = Retry{}
			}
		} else {
			h.cancelLocked(errPeriodicStopped, false, &notices)
			p.restoreLocked()
		}
	}
	p.outbox.oweLocked(notices)
	p.unlock()
	p.deliverAll(notices)
}

// Wait waits until no round is to come and none is at work, and returns why: nil after Stop,
// [ErrClosed] after Shutdown, and otherwise the cause of the context given to [Every]. If ctx
// ends first it returns ctx's cause. Inside a round it returns [ErrInside]; inside another
// task, of any pool, that task gives its slot back meanwhile, see [Handle.Wait].
func (s *Periodic) Wait(ctx context.Context) error {
	const call = "Periodic.Wait"
	if err := s.misuse(call); err != nil {
		return err
	}
	if ctx == nil {
		return nilArgument(call, "ctx")
	}
	s.g.p.lock()
	defer s.g.p.unlock()
	w := &wait{what: awaited{members: s.g}, ctx: ctx, task: attemptFrom(ctx)}
	if err := w.awaitLocked(); err != nil {
		return err
	}
	return s.err
}

// Skipped returns how many rounds were left out, because an earlier one had not ended when
// they were due.
func (s *Periodic) Skipped() uint64 {
	if err := s.misuse("Periodic.Skipped"); err != nil {
		panic(err.Error())
	}
	s.g.p.lock()
	defer s.g.p.unlock()
	return s.skipped
}
