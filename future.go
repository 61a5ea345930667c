package taskpool

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// errRunSet is the error for a Task that has a Run where a function is given along with it.
var errRunSet = errors.New("taskpool: Task.Run must be nil where a function stands beside the Task")

// A Future is the handle to a task that has a result. A copy is as good as the Future
// itself.
type Future[T any] struct {
	*Handle
	result *T // shared by all copies; protected by pool.mu until the task has settled
}

// handle returns the handle of f. If there is none it panics in the name of call.
func (f *Future[T]) handle(call string) *Handle {
	if f == nil || f.Handle == nil {
		panic(futureMisuse(call).Error())
	}
	return f.Handle
}

// Done is [Handle.Done].
func (f *Future[T]) Done() <-chan struct{} { return f.handle("Done").Done() }

// Wait is [Handle.Wait].
func (f *Future[T]) Wait(ctx context.Context) error {
	if f == nil || f.Handle == nil {
		return futureMisuse("Wait")
	}
	return f.Handle.Wait(ctx)
}

// Err is [Handle.Err].
func (f *Future[T]) Err() error { return f.handle("Err").Err() }

// ID is [Handle.ID].
func (f *Future[T]) ID() uint64 { return f.handle("ID").ID() }

// Info is [Handle.Info].
func (f *Future[T]) Info() TaskInfo { return f.handle("Info").Info() }

// State is [Handle.State].
func (f *Future[T]) State() State { return f.handle("State").State() }

// Cancel is [Handle.Cancel].
func (f *Future[T]) Cancel(cause error) bool { return f.handle("Cancel").Cancel(cause) }

// SetPriority is [Handle.SetPriority].
func (f *Future[T]) SetPriority(pr Priority) bool { return f.handle("SetPriority").SetPriority(pr) }

// SubmitFunc submits a task that does its work with f and has f's result. t is a
// pattern: its Run must be nil. In everything else it is like [Pool.Submit], but an error
// of f is logged at level Debug only, as the Future has it; see [WithLogger].
func SubmitFunc[T any](ctx context.Context, p *Pool, t Task, f func(context.Context) (T, error)) (*Future[T], error) {
	return submitFunc("SubmitFunc", ctx, p, t, f, nil, terms{roomAsSet, answerLater})
}

// submitFunc is SubmitFunc for the call of that name, for a member of g unless that is nil, on
// the given terms.
func submitFunc[T any](call string, ctx context.Context, p *Pool, t Task, f func(context.Context) (T, error), g *Group, terms terms) (*Future[T], error) {
	switch {
	case misused(p):
		return nil, poolMisuse(p, call)
	case ctx == nil:
		return nil, nilArgument(call, "ctx")
	case f == nil:
		return nil, nilArgument(call, "f")
	case t.Run != nil:
		return nil, errRunSet
	}
	fut := newFuture[T](ctx)
	if err := fut.submit(call, ctx, ctx, p, t, f, g, terms); err != nil {
		return nil, err
	}
	return fut, nil
}

// newFuture returns the Future of a task that is not submitted yet and has ctx.
func newFuture[T any](ctx context.Context) *Future[T] {
	both := new(struct { // one allocation
		Future[T]
		value T
	})
	both.Handle, both.result = newHandle(ctx), &both.value
	return &both.Future
}

// submit submits the task of fut, which calls f. The wait for room ends with wait.
func (fut *Future[T]) submit(call string, wait, ctx context.Context, p *Pool, t Task, f func(context.Context) (T, error), g *Group, terms terms) error {
	_, err := p.submit(call, fut.Handle, wait, ctx, &t, work{group: g, run: func(ctx context.Context) error {
		v, err := f(ctx)
		if err != nil {
			v = *new(T)
		}
		fut.commit(p, attemptFrom(ctx), v)
		return err
	}}, terms)
	return err
}

// commit stores the result of attempt a, unless that was given up: then the task may
// have another attempt under way, or have settled. a is nil if a hook gave f a context
// that does not derive from Run's: then the goroutine tells which attempt it is. The
// attempt is of another pool if a shutdown left the task undone and it was submitted
// again.
func (f *Future[T]) commit(p *Pool, a *attempt, v T) {
	if a == nil {
		a = currentAttempt()
	}
	if a != nil && a.pool != p {
		return
	}
	p.lock()
	defer p.unlock()
	if a == nil || !a.over {
		*f.result = v
	}
}

// Get waits as [Handle.Wait] does and returns the task's result, or the zero
// value and the error that Wait returns.
func (f *Future[T]) Get(ctx context.Context) (T, error) {
	var zero T
	switch {
	case f == nil || f.Handle == nil || f.result == nil:
		return zero, futureMisuse("Get")
	case ctx == nil:
		return zero, nilArgument("Future.Get", "ctx")
	}
	return f.get(&wait{ctx: ctx})
}

func (f *Future[T]) get(w *wait) (T, error) {
	if err := f.wait(w); err != nil {
		var zero T
		return zero, err
	}
	return *f.result, nil
}

// Call runs f as a task of p and returns its result: [SubmitFunc] and
// [Future.Get] in one.
//
// Call returns when ctx ends, with ctx's cause and without waiting for f. f may go on
// then: if the error is not f's, the variables that f has captured may still be read
// and written, so do not use them again. f's context has ended too, and f does not
// start if it has not started by then. An error of f is logged at level Debug only, as
// Call returns it; see [WithLogger].
//
// Inside a task, of any pool, that task gives its slot back meanwhile.
func Call[T any](ctx context.Context, p *Pool, t Task, f func(context.Context) (T, error)) (T, error) {
	fut, err := submitFunc("Call", ctx, p, t, f, nil, terms{roomAsSet, answerNow})
	if err != nil {
		var zero T
		return zero, err
	}
	v, err := fut.Get(ctx)
	if err != nil {
		fut.Cancel(err) // if err is ctx's: at once, so that f does not start later
	}
	return v, err
}

// errStopped cancels the tasks of a Map whose loop was left.
var errStopped error = &kindError{"taskpool: the loop over Map was left", context.Canceled}

// Map calls f for each value of in, as tasks of p after the pattern t, whose Run
// must be nil, and returns the results in the order of in.
//
// It is lazy: nothing runs before the loop over the results does, and of the
// elements taken from in at most twice as many as the pool has workers wait for
// their turn in the loop (see [MapLimit] for another number), so in may be endless.
// in runs on the looping goroutine, in turns with the loop's body: before in is
// asked for its next element, the loop gets all results that are ready and whose
// turn it is, but while either in or the body takes its time, the other must wait.
// If the queue has no room, Map waits for it, whatever [WithCapacity] says.
//
// The error of an element comes in its place, with the zero value, and the loop
// goes on; the log has it at level Debug only, see [WithLogger]. When the loop is left,
// the tasks in flight are canceled and waited for; if it is left by a panic, they are only
// canceled. If ctx ends or the pool is shut
// down while there may be more elements, the results of those in flight come first,
// and the last pair is the zero value and the cause: ctx's, or [ErrClosed].
//
// Inside a task, of any pool, that task gives its slot back while Map waits.
func Map[T, R any](ctx context.Context, p *Pool, t Task, in iter.Seq[T], f func(context.Context, T) (R, error)) iter.Seq2[R, error] {
	return mapSeq("Map", ctx, p, func() int { return 2 * p.sched.slots }, t, in, f)
}

// MapLimit is [Map] with a limit, at least 1, on the elements that have been taken
// from in and whose results the loop has not received yet, in place of twice as many
// as the pool has workers. So it bounds how many of the pool's workers the tasks
// take, as [Group.SetLimit] does, and how many results are kept at a time. With 1 the
// elements are done one after the other.
func MapLimit[T, R any](ctx context.Context, p *Pool, limit int, t Task, in iter.Seq[T], f func(context.Context, T) (R, error)) iter.Seq2[R, error] {
	if limit < 1 {
		return func(yield func(R, error) bool) {
			yield(*new(R), fmt.Errorf("taskpool: MapLimit: limit must be at least 1, got %d", limit))
		}
	}
	return mapSeq("MapLimit", ctx, p, func() int { return limit }, t, in, f)
}

// mapMisuse returns the error of call, a Map with these arguments; nil if they are allowed.
func mapMisuse[T any](call string, ctx context.Context, p *Pool, t *Task, in iter.Seq[T], hasF bool) error {
	switch {
	case misused(p):
		return poolMisuse(p, call)
	case ctx == nil:
		return nilArgument(call, "ctx")
	case in == nil:
		return nilArgument(call, "in")
	case !hasF:
		return nilArgument(call, "f")
	case t.Run != nil:
		return errRunSet
	}
	return nil
}

// mapContext returns the context of the elements of a Map in ctx, which must be canceled with
// errStopped in the end. If the loop runs in a task whose context is another, it ends with
// that as well, as in awaitLocked.
func mapContext(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	here := currentAttempt()
	if here == nil || here == attemptFrom(ctx) || here.ended() != nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(here, func() { cancel(context.Cause(here)) })
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}

// mapSeq is Map for the call of that name. limitLocked returns how many elements may be
// in flight; it may change.
func mapSeq[T, R any](name string, ctx context.Context, p *Pool, limitLocked func() int, t Task, in iter.Seq[T], f func(context.Context, T) (R, error)) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		var zero R
		if bad := mapMisuse(name, ctx, p, &t, in, f != nil); bad != nil {
			yield(zero, bad)
			return
		}
		ctx, cancel := mapContext(ctx)
		defer cancel(errStopped) // even if the loop's body or in panics
		patient := context.WithoutCancel(ctx)
		var flight []*Future[R] // in the order of their elements
		next := func() (more bool) {
			fut := flight[0]
			flight[0] = nil // to let go of the result
			flight = flight[1:]
			return yield(fut.get(&wait{ctx: patient, patient: true})) // the task ends when ctx does
		}
		due := func() bool {
			p.lock()
			defer p.unlock()
			return len(flight) > 0 && (len(flight) >= limitLocked() || flight[0].state.Final())
		}
		more := true // the loop was not left
		var cut error
		for v := range in {
			fut, err := submitFunc(name, ctx, p, t, func(ctx context.Context) (R, error) { return f(ctx, v) }, nil, terms{roomWait, answerNow})
			if err != nil {
				if cut = err; ctx.Err() != nil {
					cut = context.Cause(ctx)
				}
				break
			}
			flight = append(flight, fut)
			for more && due() {
				more = next()
			}
			if !more {
				break
			}
		}
		for more && len(flight) > 0 {
			more = next()
		}
		if more && cut != nil {
			yield(zero, cut)
		}
		cancel(errStopped)
		for _, fut := range flight {
			_ = fut.wait(&wait{ctx: patient, patient: true})
		}
	}
}

// An Indexed is a result of [MapUnordered], with the place of its element in the input.
type Indexed[T any] struct {
	Index int // from 0; -1 with an error that is no element's
	Value T
}

// MapUnordered is [Map] in order of completion: the loop gets the result of each element as
// soon as there is one, with the element's index in in. So one slow element keeps nobody
// waiting, neither the loop nor the elements behind it.
//
// limit bounds the elements that have been taken from in and whose results the loop has not
// received yet, as in [MapLimit]; 0 stands for twice as many as the pool has workers. What is
// in flight counts as urgent as the task in which the loop waits for it. In everything else
// it is like Map: the error of an element comes with its index and the zero value, and if ctx
// ends or the pool is shut down while there may be more elements, the last pair has the index
// -1 and the cause.
func MapUnordered[T, R any](ctx context.Context, p *Pool, limit int, t Task, in iter.Seq[T], f func(context.Context, T) (R, error)) iter.Seq2[Indexed[R], error] {
	const call = "MapUnordered"
	return func(yield func(Indexed[R], error) bool) {
		none := Indexed[R]{Index: -1}
		bad := mapMisuse(call, ctx, p, &t, in, f != nil)
		if bad == nil && limit < 0 {
			bad = pkg.Bad(call+": limit", "not be negative", limit)
		}
		if bad != nil {
			yield(none, bad)
			return
		}
		ctx, cancel := mapContext(ctx)
		defer cancel(errStopped) // even if the loop's body or in panics
		m := &unordered[R]{
			g:       &Group{p: p, t: t, ctx: ctx, cancel: cancel, mode: listEnded},
			patient: context.WithoutCancel(ctx),
			limit:   limit,
			flight:  make(map[*Handle]indexedFuture[R]),
		}
		m.g.self = m.g
		var cut error
		more, i := true, 0 // more: the loop was not left
		for v := range in {
			m.enter()
			fut, err := submitFunc(call, ctx, p, t, func(ctx context.Context) (R, error) { return f(ctx, v) }, m.g, terms{roomWait, answerNow})
			if err != nil {
				if cut = err; ctx.Err() != nil {
					cut = context.Cause(ctx)
				}
				break
			}
			m.flight[fut.Handle] = indexedFuture[R]{fut, i}
			i++
			for more {
				h := m.next(false)
				if h == nil {
					break
				}
				more = yield(m.take(h))
			}
			if !more {
				break
			}
		}
		for more && len(m.flight) > 0 {
			more = yield(m.take(m.next(true)))
		}
		if more && cut != nil {
			yield(none, cut)
		}
		cancel(errStopped)
		for len(m.flight) > 0 {
			delete(m.flight, m.next(true))
		}
	}
}

// An unordered is a MapUnordered under way. Its tasks are the members of a group, which lists
// them as they settle.
type unordered[R any] struct {
	g       *Group
	patient context.Context
	limit   int                          // 0: as the number of workers says
	flight  map[*Handle]indexedFuture[R] // those that the loop has not received
}

type indexedFuture[R any] struct {
	*Future[R]
	index int
}

// enter counts a member that is about to be submitted.
func (m *unordered[R]) enter() {
	m.g.p.lock()
	defer m.g.p.unlock()
	m.g.members++
}

// next returns the first of the members that have settled and that it has not returned yet.
// If there is none it waits for one, but if wait is false only where no more may be in flight;
// otherwise it returns nil.
func (m *unordered[R]) next(wait bool) *Handle {
	g := m.g
	g.p.lock()
	defer g.p.unlock()
	limit := m.limit
	if limit == 0 {
		limit = 2 * g.p.sched.slots
	}
	if len(g.ended) == 0 && (wait || len(m.flight) >= limit) {
		m.awaitOneLocked()
	}
	if len(g.ended) == 0 {
		return nil
	}
	h := g.ended[0]
	g.ended[0] = nil
	g.ended = g.ended[1:]
	return h
}

// awaitOneLocked waits until one more of the members has settled: as nobody else adds any,
// there are fewer then. It does not end with a context, as the members do.
func (m *unordered[R]) awaitOneLocked() {
	m.g.limit = m.g.members
	w := &wait{what: awaited{limit: m.g}, ctx: m.patient, task: attemptFrom(m.patient), patient: true}
	_ = w.awaitLocked()
}

// take returns the result of h, which has settled.
func (m *unordered[R]) take(h *Handle) (Indexed[R], error) {
	fut := m.flight[h]
	delete(m.flight, h)
	r := Indexed[R]{Index: fut.index}
	err := h.Err()
	if err == nil {
		r.Value = *fut.result
	}
	return r, err
}
