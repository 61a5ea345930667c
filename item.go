package taskpool

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// An item is what the scheduler knows of a task. Protected by Pool.mu.
type item struct {
	priority Priority
	attempts int32 // started so far
	holderI  int32 // index in flow.holders, if placed
	state    State
	asks     bool          // it asks for a slot, while it is Parked
	placed   bool          // it holds a place of its flow
	guest    bool          // Do runs it, on the goroutine of its caller
	flow     *flow         // nil if it has none, or has settled
	loan     *loan         // what tasks that wait for it have lent it; nil if none has
	expiry   *expiry       // when it must have started; nil if there is no such time
	due      time.Time     // when it may start, or start again; zero if that is at once, or if it has started
	place    place         // where it waits
	queuedAt time.Duration // since Pool.epoch: when it was last queued, if hooks are told of times
}

// waits reports whether i waits in any place.
func (i *item) waits() bool { return i.place.in != nowhere }

// isLater reports whether i was not due yet when it was accepted, and has not started.
func (i *item) isLater() bool { return i.attempts == 0 && !i.due.IsZero() }

// noRetry records that h, if it waits for a retry, no longer does.
func (s *scheduler) noRetry(h *Handle) {
	if h.attempts > 0 && (h.state == StateQueued || h.state == StateDelayed) {
		s.retriesWaiting--
	}
}

// An exit is a parked task on its way out.
type exit struct {
	h      *Handle
	number int64 // in order of arrival, across both lists
}

// A decision says how a task was chosen.
type decision struct {
	priority   Priority
	choice     bool // there were others to choose from, which counts for the fair share
	restricted bool // the choice was among the reserved priorities only
	late       bool // it is to be shed, see queueDelays
}

// A stepPhase says how far a step has come. A step lets one task in queue have a slot in a
// pause. Yield gives way in it as it does without a pause.
type stepPhase int8

const (
	noStep      stepPhase = iota // none is under way
	stepGranted                  // the task whose turn it is may have a slot
	stepTaken                    // it got one
)

// An entry is one waiting task: a function given to Go or a handle.
type entry struct {
	f func()
	h *Handle
	// order is the task's age: its number in order of arrival or, with
	// aging, its time of arrival in nanoseconds since the pool's start.
	order int64
}

func (e entry) live() bool { return e.f != nil || e.h != nil }

// parked reports whether an attempt of the task is under way that has given its slot back
// and wants to go on.
func (e entry) parked() bool { return e.h != nil && e.h.state == StateParked }

// isGuests reports whether a guest carries the task out, see do.go.
func (e entry) isGuests() bool { return e.h != nil && e.h.guest }

// needsWorker reports whether a worker must be found for the task, which is next.
func (e entry) needsWorker() bool { return !e.parked() && !e.isGuests() }

// fresh reports whether no attempt of the task has started, and it does not count as more
// urgent than its priority. Only such a task may be shed.
func (e entry) fresh() bool { return e.h == nil || e.h.attempts == 0 && !e.h.lentTo() }

// A place is where a handle waits, if it does.
type place struct {
	lane *lane // for inQueue and inAdmission: it is in slot i of segment seg of this lane
	seg  *segment
	i    int32 // for the heaps: its index
	in   waitsIn
}

// order returns the order of the entry in a place that is in a lane.
func (p *place) order() int64 { return p.seg.base + p.seg.slots[p.i].order }

// waitsIn says which part of the scheduler a handle waits in, see scheduler.
type waitsIn uint8

const (
	nowhere waitsIn = iota
	inQueue
	inExiting
	inDelayed
	inAdmission
	inAdmissionDelayed
	inDependents
	inAdmissionDependents
)

// An indexedHeap is a [heap.Interface] of elements that know their index in it, so that
// each can be moved and taken out.
type indexedHeap[T any] struct {
	items []T
	less  func(a, b T) bool
	moved func(x T, i int) // x is at index i now or, if that is -1, no longer in the heap
}

func (h *indexedHeap[T]) Len() int           { return len(h.items) }
func (h *indexedHeap[T]) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }

func (h *indexedHeap[T]) Swap(i, j int) {
	a, b := h.items[i], h.items[j]
	h.items[i], h.items[j] = b, a
	h.moved(b, i)
	h.moved(a, j)
}

func (h *indexedHeap[T]) Push(x any) { h.push(x.(T)) }
func (h *indexedHeap[T]) Pop() any   { return h.pop() }

func (h *indexedHeap[T]) push(x T) {
	h.items = append(h.items, x)
	h.moved(x, len(h.items)-1)
}

func (h *indexedHeap[T]) pop() T {
	last := len(h.items) - 1
	x := h.items[last]
	clear(h.items[last:])
	h.items = h.items[:last]
	h.moved(x, -1)
	return x
}

// add is [heap.Push] without the allocation that Push makes if T is not a pointer.
func (h *indexedHeap[T]) add(x T) {
	if h.push(x); len(h.items) > 1 {
		heap.Fix(h, len(h.items)-1)
	}
}

// remove is [heap.Remove] without that allocation.
func (h *indexedHeap[T]) remove(i int) {
	last := len(h.items) - 1
	if i < last {
		h.Swap(i, last)
	}
	switch h.pop(); {
	case i == last:
	case i > 0 && h.Less(i, (i-1)/2):
		heap.Fix(h, i)
	default:
		h.sink(i)
	}
}

// sink is [heap.Fix] for an element whose place is no further up, and most likely far down. The
// gap that it leaves goes down to a leaf first, with one comparison at each level in place of
// two, and the element goes up from there (bottom-up heap sort, Wegener, 1993).
func (h *indexedHeap[T]) sink(i int) {
	x, top := h.items[i], i
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if right := child + 1; right < len(h.items) && h.less(h.items[right], h.items[child]) {
			child = right
		}
		i = h.fill(i, child)
	}
	for i > top && h.less(x, h.items[(i-1)/2]) {
		i = h.fill(i, (i-1)/2)
	}
	h.items[i] = x
	h.moved(x, i)
}

// fill moves the element at index from to index i, and returns from, where the gap is now.
func (h *indexedHeap[T]) fill(i, from int) int {
	h.items[i] = h.items[from]
	h.moved(h.items[i], i)
	return from
}

// A selection is the first n, in an order, of what it is offered, or all if n is negative. They
// are in a heap with the last of them on top.
type selection[T any] struct {
	items   []T
	n       int
	compare func(a, b T) int
}

func (s *selection[T]) Len() int           { return len(s.items) }
func (s *selection[T]) Less(i, j int) bool { return s.compare(s.items[i], s.items[j]) > 0 }
func (s *selection[T]) Swap(i, j int)      { s.items[i], s.items[j] = s.items[j], s.items[i] }
func (s *selection[T]) Push(x any)         { s.items = append(s.items, x.(T)) }
func (s *selection[T]) Pop() any           { panic("taskpool: a selection does not shrink") }

func (s *selection[T]) offer(x T) {
	switch {
	case s.n < 0:
		s.items = append(s.items, x)
	case len(s.items) < s.n:
		heap.Push(s, x)
	case s.n > 0 && s.compare(x, s.items[0]) < 0:
		s.items[0] = x
		heap.Fix(s, 0)
	}
}

// sorted returns them in order. It is called last.
func (s *selection[T]) sorted() []T {
	slices.SortFunc(s.items, s.compare)
	return s.items
}

// A dueHeap is a heap of handles that wait for their time. The one due first is on top; of
// those due at the same time, the one that came first.
type dueHeap struct {
	indexedHeap[dueTask]
	in   waitsIn // what their places say
	last uint64  // number of the latest to come
}

type dueTask struct {
	*Handle
	number uint64
}

func newDueHeap(in waitsIn) dueHeap {
	return dueHeap{in: in, indexedHeap: indexedHeap[dueTask]{
		less: func(a, b dueTask) bool { return a.compare(b) < 0 },
		moved: func(t dueTask, i int) {
			if t.place = (place{in: in, i: int32(i)}); i < 0 {
				t.place = place{}
			}
		},
	}}
}

func (t dueTask) compare(o dueTask) int {
	return cmp.Or(t.due.Compare(o.due), cmp.Compare(t.number, o.number))
}

// add makes h wait for h.due.
func (d *dueHeap) add(h *Handle) {
	d.last++
	d.indexedHeap.add(dueTask{h, d.last})
}

// remove takes h out.
func (d *dueHeap) remove(h *Handle) {
	d.indexedHeap.remove(int(h.place.i))
	d.items = shrunk(d.items)
}

// first returns the handle that is due first, or nil if there is none.
func (d *dueHeap) first() *Handle {
	if len(d.items) == 0 {
		return nil
	}
	return d.items[0].Handle
}

// isDue reports whether the first handle is due at now.
func (d *dueHeap) isDue(now time.Time) bool {
	return len(d.items) > 0 && !now.Before(d.items[0].due)
}

// upTo returns the first n handles in the order in which they are due, with a negative n all. It
// looks at no more than twice as many, however many there are.
func (d *dueHeap) upTo(n int) []*Handle {
	if n < 0 || n >= len(d.items) {
		return d.all()
	}
	var all []*Handle
	next := indexedHeap[int]{ // of indices: each but the first is that of a child of one that was taken
		less:  func(a, b int) bool { return d.less(d.items[a], d.items[b]) },
		moved: func(int, int) {},
	}
	for i := 0; len(all) < n; i = next.items[0] {
		if len(all) > 0 {
			next.remove(0)
		}
		all = append(all, d.items[i].Handle)
		for child := 2*i + 1; child <= 2*i+2 && child < len(d.items); child++ {
			next.add(child)
		}
	}
	return all
}

// all returns the handles in the order in which they are due.
func (d *dueHeap) all() []*Handle {
	sorted := slices.Clone(d.items)
	slices.SortFunc(sorted, dueTask.compare)
	all := make([]*Handle, len(sorted))
	for i, t := range sorted {
		all[i] = t.Handle
	}
	return all
}

// nextDue takes the delayed task that is due first, nil if none is due at now. The task is
// then counted in no state.
func (s *scheduler) nextDue(now time.Time) *Handle {
	if !s.delayed.isDue(now) {
		return nil
	}
	h := s.delayed.first()
	s.withdraw(h)
	s.count[StateDelayed]--
	return h
}

// nextDueSubmitter is nextDue for submitters: it moves the one whose task is due first to
// admission.
func (s *scheduler) nextDueSubmitter(clock time.Time, now time.Duration) *Handle {
	if !s.admissionDelayed.isDue(clock) {
		return nil
	}
	h := s.admissionDelayed.first()
	s.admissionDelayed.remove(h)
	s.waitForRoom(h, false, now)
	return h
}

// exit has h, which asks for a slot, wait on its way out.
func (s *scheduler) exit(h *Handle) {
	s.lastExit++
	to := s.exitList(s.lessUrgent(h.urgency()))
	*to = append(*to, exit{h, s.lastExit})
	h.place = place{in: inExiting}
}

// exitList returns the list of those exiting that are less urgent, or of the others.
func (s *scheduler) exitList(less bool) *[]exit {
	if less {
		return &s.exiting[1]
	}
	return &s.exiting[0]
}

// firstExiting returns the list that begins with the first exiting task that may have a free
// slot, nil if there is none.
func (s *scheduler) firstExiting(restricted bool) *[]exit {
	all, less := &s.exiting[0], &s.exiting[1]
	switch {
	case len(*less) > 0 && !restricted && (len(*all) == 0 || (*less)[0].number < (*all)[0].number):
		return less
	case len(*all) > 0:
		return all
	}
	return nil
}

// takeExiting takes the first exiting task that may have a free slot, nil if there is none.
func (s *scheduler) takeExiting(restricted bool) *Handle {
	from := s.firstExiting(restricted)
	if from == nil {
		return nil
	}
	h := (*from)[0].h
	(*from)[0] = exit{}
	if *from = (*from)[1:]; len(*from) == 0 {
		*from = nil
	}
	h.place = place{}
	return h
}

// An expiry is when a task must have started for the first time, or is not to start at all.
type expiry struct {
	at     time.Time
	number uint64 // in order of submission, for those of one time
	i      int32  // index in scheduler.expiring; -1 if it is not there
}

// newExpiryHeap returns an empty heap of the handles that have an expiry and wait to start, or
// for room. The one that expires first is on top.
func newExpiryHeap() indexedHeap[*Handle] {
	return indexedHeap[*Handle]{
		less: func(a, b *Handle) bool {
			return cmp.Or(a.expiry.at.Compare(b.expiry.at), cmp.Compare(a.expiry.number, b.expiry.number)) < 0
		},
		moved: func(h *Handle, i int) { h.expiry.i = int32(i) },
	}
}

// expires has h, which has yet to start, expire at the given time.
func (s *scheduler) expires(h *Handle, at time.Time) {
	if h.expiry == nil {
		s.lastExpiry++
		h.expiry = &expiry{at, s.lastExpiry, -1}
		s.expiring.add(h)
	}
}

// noExpiry has h, which has an expiry or not, not expire any more.
func (s *scheduler) noExpiry(h *Handle) {
	if h.expiry != nil && h.expiry.i >= 0 {
		s.expiring.remove(int(h.expiry.i))
		s.expiring.items = shrunk(s.expiring.items)
	}
}

// firstToExpire returns the handle that expires first, nil if none does.
func (s *scheduler) firstToExpire() *Handle {
	if len(s.expiring.items) == 0 {
		return nil
	}
	return s.expiring.items[0]
}

// nextExpired takes the first handle that has expired at now out of the heap, nil if there is
// none. The caller takes it out of where it waits.
func (s *scheduler) nextExpired(now time.Time) *Handle {
	h := s.firstToExpire()
	if h == nil || now.Before(h.expiry.at) {
		return nil
	}
	s.noExpiry(h)
	return h
}

// atOnce is item.due of a task that was not due when it was accepted, and may start at once
// when it has been told of its dependencies.
var atOnce = time.Time{}.Add(1)

// waitForTasks has h, which must be counted in no state, wait for its dependencies.
func (s *scheduler) waitForTasks(h *Handle) {
	h.state, h.due = StateDelayed, atOnce
	s.count[StateDelayed]++
	s.later++
	h.place = place{in: inDependents, i: int32(len(s.dependents))}
	s.dependents = append(s.dependents, h)
}

// leaveDependents takes out h, which waits for its dependencies. The task is then counted in no
// state, and still as later.
func (s *scheduler) leaveDependents(h *Handle) {
	s.withdraw(h)
	s.count[StateDelayed]--
}

// removeDependent is the part of withdraw for h, which waits for its dependencies.
func (s *scheduler) removeDependent(h *Handle) {
	last := len(s.dependents) - 1
	moved := s.dependents[last]
	s.dependents[h.place.i], moved.place.i = moved, h.place.i
	s.dependents[last] = nil
	s.dependents = shrunk(s.dependents[:last])
	h.place = place{}
}

// firstLater returns the submitter that is the first to be let in among those whose tasks have
// to wait for their time or for others, nil if there is none.
func (s *scheduler) firstLater() *Handle {
	if h := s.admissionDependents.first(); h != nil {
		return h
	}
	return s.admissionDelayed.first()
}

// withdraw removes h from where it waits, if it waits. The caller updates its state.
func (s *scheduler) withdraw(h *Handle) {
	switch h.place.in {
	case inQueue:
		s.leaveQueue(h)
	case inExiting:
		if f := h.flow; f != nil && !h.placed {
			f.rare.exits = slices.DeleteFunc(f.rare.exits, func(o *Handle) bool { return o == h })
			h.place = place{}
			return
		}
		from := s.exitList(s.lessUrgent(h.urgency()))
		*from = shrunk(slices.DeleteFunc(*from, func(x exit) bool { return x.h == h }))
		h.place = place{}
	case inDelayed:
		if h.attempts > 0 {
			s.retries(h, -1)
		}
		s.delayed.remove(h)
	case inAdmission:
		s.dropSecond(h)
		s.admission.remove(h)
	case inAdmissionDelayed:
		s.admissionDelayed.remove(h)
	case inDependents:
		s.removeDependent(h)
	case inAdmissionDependents:
		s.admissionDependents.remove(h)
	}
}
