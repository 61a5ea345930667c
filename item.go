package taskpool

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// An item is a task as the scheduler knows it. Protected by Pool.mu.
type item struct {
	priority Priority
	state    State
	attempts int       // started so far
	due      time.Time // when it may start, or start again; zero if that is at once, or if it has started
	place    place     // where it waits
	asks     bool      // while it is Parked: for a slot
}

// waits reports whether i is in some place.
func (i *item) waits() bool { return i.place.in != nowhere }

// isLater reports whether i, which was accepted, was not due then, and has not started.
func (i *item) isLater() bool { return i.attempts == 0 && !i.due.IsZero() }

// An exit is a parked task on its way out.
type exit struct {
	h      *Handle
	number int64 // in order of arrival, in both lists
}

// A turn is a task that was chosen for a slot. Its entry is parked if it is to go on where
// it was.
type turn struct {
	entry
	priority   Priority
	choice     bool // there were others to choose from, which counts for the fair share,
	restricted bool // among the reserved priorities only
}

// An entry is one waiting task: a function given to Go or a handle.
type entry struct {
	f func()
	h *Handle
	// order is the task's age: its number in order of arrival or, with
	// aging, its time of arrival in nanoseconds since the pool's start.
	order int64
}

func (e *entry) live() bool { return e.f != nil || e.h != nil }

// parked reports whether an attempt of the task is under way: it has given its
// slot back and wants to go on.
func (e *entry) parked() bool { return e.h != nil && e.h.state == StateParked }

// fresh reports whether no attempt of the task has started. Only such a task
// may be shed.
func (e *entry) fresh() bool { return e.h == nil || e.h.attempts == 0 }

// A place is where a handle waits, if it does.
type place struct {
	lane *lane // in inQueue and inAdmission: slot i of segment seg of a lane
	seg  *segment
	i    int32 // in the heaps: the index
	in   waitsIn
}

// waitsIn names what handles wait in, see scheduler.
type waitsIn uint8

const (
	nowhere waitsIn = iota
	inQueue
	inExiting
	inDelayed
	inAdmission
	inAdmissionDelayed
)

// A dueHeap is a [heap.Interface] of handles that wait for their time, the first
// due on top; of those due at one time, the first that came.
type dueHeap struct {
	in    waitsIn // as their places say
	tasks []dueTask
	last  uint64 // number of the last that came
}

type dueTask struct {
	*Handle
	number uint64
}

// add lets h wait for h.due.
func (d *dueHeap) add(h *Handle) { heap.Push(d, h) }

// remove takes h out.
func (d *dueHeap) remove(h *Handle) { heap.Remove(d, int(h.place.i)) }

// first returns the handle that is due first, nil if there is none.
func (d *dueHeap) first() *Handle {
	if len(d.tasks) == 0 {
		return nil
	}
	return d.tasks[0].Handle
}

// due reports whether the time of a handle has come.
func (d *dueHeap) due(now time.Time) bool { return len(d.tasks) > 0 && !now.Before(d.tasks[0].due) }

// all returns the handles in the order in which they are due.
func (d *dueHeap) all() []*Handle {
	sorted := slices.Clone(d.tasks)
	slices.SortFunc(sorted, func(a, b dueTask) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.number, b.number))
	})
	all := make([]*Handle, len(sorted))
	for i, t := range sorted {
		all[i] = t.Handle
	}
	return all
}

func (d *dueHeap) Len() int { return len(d.tasks) }

func (d *dueHeap) Less(i, j int) bool {
	a, b := &d.tasks[i], &d.tasks[j]
	if a.due.Equal(b.due) {
		return a.number < b.number
	}
	return a.due.Before(b.due)
}

func (d *dueHeap) Swap(i, j int) {
	d.tasks[i], d.tasks[j] = d.tasks[j], d.tasks[i]
	d.tasks[i].place.i, d.tasks[j].place.i = int32(i), int32(j)
}

func (d *dueHeap) Push(x any) {
	h := x.(*Handle)
	h.place = place{in: d.in, i: int32(len(d.tasks))}
	d.last++
	d.tasks = append(d.tasks, dueTask{h, d.last})
}

func (d *dueHeap) Pop() any {
	last := len(d.tasks) - 1
	h := d.tasks[last].Handle
	d.tasks[last] = dueTask{}
	d.tasks = shrunk(d.tasks[:last])
	h.place = place{}
	return h
}
