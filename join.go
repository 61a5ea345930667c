package taskpool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Join runs f as a task of p and returns its result, like [Call], but calls with the same key
// share one run: as long as a run is under way, from the call that begins it until its task has
// settled, whoever calls Join with its key gets its result too. Keys are apart for each pool,
// each type of key and each type of result. Nothing is kept of a key without a run.
//
// The run belongs to all that wait for it, and to nobody alone. A call returns when its ctx
// ends, with the cause; the run goes on for the others. When the last has left, the run is
// canceled, and its key is free at that moment: the next call begins another run, though f may
// take a while to notice that its context has ended. So no call gets the cancellation of
// another's context.
//
// The run is as urgent as the most urgent that wait or have waited for it: it has the most urgent
// Task.Priority that was asked with, by [Handle.SetPriority], and a task that waits lends its
// urgency, see [Handle.Wait]. While the call that began the run waits for room, a more urgent
// one takes its place. Of the other settings in t those of the call whose task was accepted
// count. f's context has the values of that call's ctx, but neither its end nor its deadline.
//
// All get the same value, and the same error: a [*PanicError] if f panics, as Call does, and
// [ErrShed] or [ErrExpired] if the run is shed. If the task is not accepted, each call tries for
// itself. An error of f is logged at level Debug only. Inside a task, of any pool, that task
// gives its slot back meanwhile; inside the very run, Join returns [ErrInside]. A key that is not
// equal to itself, such as NaN, or cannot be compared, is refused. [Stats] counts as Joined the
// calls that found a run. Join takes as long as Call and two short locks more.
//
// It differs from Group.Do of golang.org/x/sync/singleflight in that a caller can leave, that a
// run ends when all have left, that there is no Forget to be called for that, and that a
// panic is an error of each caller, and does not end the program.
func Join[K comparable, T any](ctx context.Context, p *Pool, key K, t Task, f func(context.Context) (T, error)) (T, error) {
	const call = "Join"
	var zero T
	switch {
	case misused(p):
		return zero, poolMisuse(p, call)
	case ctx == nil:
		return zero, nilArgument(call, "ctx")
	case f == nil:
		return zero, nilArgument(call, "f")
	case t.Run != nil:
		return zero, errRunSet
	case !equalsItself(key):
		return zero, pkg.Bad("Join: key", "be equal to itself", fmt.Sprint(key))
	}
	if err := t.validate(); err != nil {
		return zero, err
	}
	if ctx.Err() != nil {
		return zero, p.refuseOver(call, ctx, t.Priority)
	}
	j := &joiner{priority: t.Priority, urgency: t.Priority}
	if a := attemptFrom(ctx); a != nil {
		j.urgency = min(j.urgency, Priority(a.urgency()))
	}
	run := p.joins.enter(joinKey[K, T]{key: key}, j)
	defer func() { run.leave(j) }() // also if a method of ctx panics
	for {
		accepted, leads := run.state(j)
		if accepted {
			break
		}
		var err error
		if leads {
			own := ctx
			if ctx.Done() != nil {
				own = context.WithoutCancel(ctx)
			}
			fut := newFuture[T](own)
			err = run.lead(j, ctx, fut, fut.Handle, func(wait context.Context, pr Priority) error {
				t := t
				t.Priority = pr
				return fut.submit(call, wait, own, p, t, f, nil, terms{roomAsSet, answerNow})
			})
		} else {
			err = j.await(ctx)
		}
		if err != nil {
			return zero, err
		}
	}
	run.raise()
	v, err := run.future.(*Future[T]).get(&wait{ctx: ctx})
	j.cause = err
	return v, err
}

// equalsItself reports whether key can be found in a map.
func equalsItself[K comparable](key K) (equal bool) {
	defer func() { _ = recover() }() // it is of an interface type, and what is in it cannot be compared
	same := key
	return key == same
}

// A joinKey is a key in joins.runs. It differs for each type of result.
type joinKey[K comparable, T any] struct {
	_   [0]*T
	key K
}

// joins are the runs of [Join] that are under way, by their keys.
type joins struct {
	joined atomic.Uint64 // calls that found a run

	// mu protects the fields below, and those of joinRun and joiner whose comments say nothing
	// else. No other lock is taken under it, and no user code runs.
	mu   sync.Mutex
	runs map[any]*joinRun
}

// A joinRun is what calls of Join share. Until its task is accepted one of them, the leader, is
// about to submit it; when it fails, by the end of its context or for want of room, another
// becomes the leader. The run is in joins.runs from its first call to its last, or until another
// takes its place as it has settled.
type joinRun struct {
	of       *joins    // fixed
	key      any       // fixed
	calls    int       // that have not left
	waiting  []*joiner // for the task to be accepted, in the order in which they came; without the leader
	leader   *joiner   // nil once the task is accepted
	priority Priority  // the most urgent asked with

	// Set when the task is accepted, fixed thereafter.
	h      *Handle
	future any // *Future[T]

	raising sync.Mutex // held while the task's priority is changed, before joins.mu
	raised  Priority   // what it was set to; protected by raising once the task is accepted
}

// A joiner is one call of Join.
type joiner struct {
	priority Priority                // asked with; fixed
	urgency  Priority                // of the call, with that of the task that it is made in; fixed
	woken    chan struct{}           // closed when the task is accepted, or the call leads; nil while it leads from the start
	yield    context.CancelCauseFunc // ends the leader's wait for room; nil while it has none
	leads    bool                    // is the leader
	cause    error                   // why it leaves, if not because the run is over; the call's own
}

// errLedByAnother ends the wait of a leader for room, as a more urgent call takes its place.
var errLedByAnother = errors.New("taskpool: Join: a more urgent call takes the place")

// enter has j join the run of key, or begin it.
func (s *joins) enter(key any, j *joiner) *joinRun {
	s.mu.Lock()
	r := s.runs[key]
	if r == nil || r.h != nil && r.h.settled.Load() {
		r = &joinRun{of: s, key: key, calls: 1, leader: j, priority: j.priority}
		j.leads = true
		if s.runs == nil {
			s.runs = make(map[any]*joinRun)
		}
		s.runs[key] = r
		s.mu.Unlock()
		return r
	}
	r.calls++
	r.priority = min(r.priority, j.priority)
	var yield context.CancelCauseFunc
	if r.h == nil {
		j.woken = make(chan struct{})
		r.waiting = append(r.waiting, j)
		if j.urgency < r.leader.urgency {
			yield = r.leader.yield
		}
	}
	s.mu.Unlock()
	s.joined.Add(1)
	if yield != nil {
		yield(errLedByAnother)
	}
	return r
}

// state reports whether the task of r is accepted, and whether j is to submit it.
func (r *joinRun) state(j *joiner) (accepted, leads bool) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	return r.h != nil, j.leads
}

// await waits until j is woken or ctx ends, and returns the cause if it has. A task that waits
// gives its slot back.
func (j *joiner) await(ctx context.Context) error {
	select {
	case <-j.woken:
		return nil
	default:
	}
	var task *attempt // that waits with a context that is not its own
	var over <-chan struct{}
	if pk := suspendCaller(ctx); pk != nil {
		defer pk.back()
		if pk.a != attemptFrom(ctx) && pk.a.ended() == nil {
			task, over = pk.a, pk.a.Done()
		}
	}
	select {
	case <-j.woken:
		return nil
	case <-over:
		return context.Cause(task)
	case <-ctx.Done():
		return causeOf(ctx)
	}
}

// lead has j, the leader, submit the task of future, whose handle is h. It returns an error if j
// is to leave; otherwise the task is accepted, or another leads.
func (r *joinRun) lead(j *joiner, ctx context.Context, future any, h *Handle, submit func(wait context.Context, pr Priority) error) error {
	wait, yield := context.WithCancelCause(ctx)
	defer yield(nil)
	r.of.mu.Lock()
	j.yield = yield
	pr := r.priority
	yields := r.next() != nil && r.next().urgency < j.urgency
	r.of.mu.Unlock()
	err := errLedByAnother
	if !yields {
		returned := false
		defer func() {
			if !returned && h.accepted() { // a hook has called Goexit: the task goes on for the others
				r.accepted(j, future, h, pr)
			}
		}()
		err = submit(wait, pr)
		returned = true
	}
	if err == nil {
		r.accepted(j, future, h, pr)
		return nil
	}
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	j.yield = nil
	if context.Cause(wait) != errLedByAnother && !yields {
		return err // leave has another lead
	}
	if r.next() == nil { // the call that was to lead has left
		return nil
	}
	j.woken = make(chan struct{})
	r.handOver(j)
	r.waiting = append(r.waiting, j)
	return nil
}

// accepted has all who wait for the task, which j has submitted with priority pr, go on.
func (r *joinRun) accepted(j *joiner, future any, h *Handle, pr Priority) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	j.yield = nil
	r.h, r.future, r.raised, r.leader, j.leads = h, future, pr, nil, false
	for _, o := range r.waiting {
		close(o.woken)
	}
	r.waiting = nil
}

// next returns the one to lead after the leader: the most urgent of those that wait and, of these,
// the first; nil if there is none.
func (r *joinRun) next() *joiner {
	if len(r.waiting) == 0 {
		return nil
	}
	return slices.MinFunc(r.waiting, func(a, b *joiner) int { return cmp.Compare(a.urgency, b.urgency) })
}

// handOver has another lead than j, if there is one.
func (r *joinRun) handOver(j *joiner) {
	j.leads, r.leader = false, r.next()
	if o := r.leader; o != nil {
		r.waiting = slices.DeleteFunc(r.waiting, func(w *joiner) bool { return w == o })
		o.leads = true
		close(o.woken)
	}
}

// raise has the task be as urgent as any call has asked for.
func (r *joinRun) raise() {
	r.raising.Lock()
	defer r.raising.Unlock()
	r.of.mu.Lock()
	pr := r.priority
	r.of.mu.Unlock()
	if pr < r.raised {
		r.raised = pr
		r.h.SetPriority(pr)
	}
}

// leave ends a call. The last that leaves cancels the task, unless it has settled.
func (r *joinRun) leave(j *joiner) {
	s := r.of
	s.mu.Lock()
	r.calls--
	switch {
	case r.h == nil && j.leads:
		r.handOver(j)
	case r.h == nil:
		r.waiting = slices.DeleteFunc(r.waiting, func(w *joiner) bool { return w == j })
	}
	over := r.calls == 0 || r.h != nil && r.h.settled.Load()
	if over && s.runs[r.key] == r {
		delete(s.runs, r.key)
	}
	last := r.calls == 0 && r.h != nil
	s.mu.Unlock()
	if last {
		r.h.cancel(cmp.Or(j.cause, context.Canceled))
	}
}
