package taskpool

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
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
