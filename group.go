package taskpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
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
		if accepts, _ := g.enter(call); accepts {
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
	switch accepts, err := g.enter(call); {
	case !accepts:
	case err != nil:
		g.refused(err)
	default:
		// Pool.submit calls submitted, so nothing is left to do with what it returns.
		_, _ = g.p.submit(call, g.ctx, g.ctx, t, work{run: run, group: g}, terms{roomWait, answerLater})
	}
}

// enter counts one more member, once the limit allows it, if the group accepts one. It
// returns an error if the context of the task that waits for that ends; if the group's
// context ends the wait, submit reports it.
func (g *Group) enter(call string) (accepts bool, err error) {
	g.p.lock()
	defer g.p.unlock()
	w := &wait{what: awaited{limit: g}, ctx: g.ctx, task: g.inside, ask: true, always: true}
	_ = w.awaitLocked()
	if !g.acceptsLocked(call) {
		return false, nil
	}
	g.used = true
	g.members++
	if w.byTask == nil {
		return true, nil
	}
	return true, &taskOverError{call, w.byTask}
}

// acceptsLocked reports whether the group accepts one more member, and records one that
// it does not.
func (g *Group) acceptsLocked(call string) bool {
	switch {
	case g.over && !g.late && g.err == nil:
		g.late = true
		g.failLocked(&kindError{"taskpool: " + call + ": the group is over, Wait has returned", context.Canceled})
	case !g.over && g.err == nil:
		return true
	}
	g.p.ledger.total.refused++
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
func (g *Group) leftLocked(h *Handle) {
	if g.mode == listEnded {
		g.ended = append(g.ended, h)
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
