package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	maxListed  = 100    // tasks in one list
	maxCounted = 1_000  // tasks of one state whose names are counted
	maxScanned = 10_000 // tasks of one state among which to look for one, or for those in a circle
)

// A listing is a list of tasks of a pool.
type listing struct {
	View *poolView
	List taskList
}

// Of returns a list as the template "tasks" wants it.
func (v *poolView) Of(l taskList) listing { return listing{v, l} }

// An actions is a task of a pool, as the templates of what can be done to it want it.
type actions struct {
	View *poolView
	Task taskView
}

// Acts returns the actions on a task.
func (v *poolView) Acts(t taskView) actions { return actions{v, t} }

type taskList struct {
	Tasks []taskView
	More  int // that are not listed
}

// A taskView is what is shown of a task. It holds nothing of the task's own, which would
// be kept as long as the page.
type taskView struct {
	ID       uint64
	Key      string
	Name     string
	Flow     string
	Priority taskpool.Priority
	Urgency  taskpool.Priority
	WaitsFor string
	Attempt  int
	Worker   int
	Class    string
	Note     string        // what is wrong
	Timed    bool          // Elapsed is known
	Elapsed  time.Duration // since its start or, of a function, since it was first seen at work
	AtLeast  bool          // it may have been at work before that
	Timeout  time.Duration
	Percent  int // of Timeout
	Until    time.Duration
	Err      string
	err      error // nil once Err is set
}

// lists makes the lists of the tasks of w, and counts their names. If w has stalled, parked tasks
// that wait for something come first.
func (v *poolView) lists(w *watched, now point) {
	v.counts = make(map[string]atWork)
	list := func(l *taskList, tasks []taskpool.TaskInfo, count func(*atWork)) {
		for i, t := range tasks {
			x := w.newTaskView(t, now.at)
			l.Tasks = append(l.Tasks, x)
			if i < maxCounted || t.State == taskpool.StateRunning {
				n := v.counts[x.Name]
				count(&n)
				v.counts[x.Name] = n
			}
		}
	}
	parked := maxCounted
	if v.Stalled {
		parked = maxScanned
	}
	list(&v.Active, w.pool.Tasks(taskpool.StateRunning), func(n *atWork) { n.Running++ })
	list(&v.Active, w.pool.Tasks(taskpool.StateAbandoned), func(*atWork) {})
	list(&v.Parking, w.pool.FirstTasks(parked, taskpool.StateParked), func(n *atWork) { n.Parked++ })
	list(&v.Waiters, w.pool.FirstTasks(maxCounted, taskpool.StateDelayed), func(n *atWork) { n.Delayed++ })
	list(&v.Next, w.pool.FirstTasks(maxCounted, taskpool.StateQueued), func(n *atWork) { n.Waiting++ })
	for i := range v.Next.Tasks {
		if t := &v.Next.Tasks[i]; t.ID == 0 { // functions are all alike
			t.Key = "q" + strconv.Itoa(i)
		}
	}
	if max(v.Parked, v.Delayed, v.Queued) > maxCounted {
		v.NamedOf = maxCounted
	}
	longest := func(a, b taskView) int {
		return cmp.Or(cmp.Compare(b.Class, a.Class), // hung and overdue ones first
			cmp.Compare(b.Elapsed, a.Elapsed), cmp.Compare(a.Worker, b.Worker))
	}
	slices.SortFunc(v.Active.Tasks, longest)
	last := func(t taskView) int {
		if v.Stalled && t.WaitsFor == "" {
			return 1
		}
		return 0
	}
	slices.SortFunc(v.Parking.Tasks, func(a, b taskView) int { return cmp.Or(cmp.Compare(last(a), last(b)), longest(a, b)) })
	v.hung, v.overdue = v.alike(classHung), v.alike(classOverdue)
	v.Active.cut(v.Running + v.Abandoned + v.Lost)
	v.Parking.cut(v.Parked)
	v.Waiters.cut(v.Delayed)
	v.Next.cut(v.Queued)
}

// A taskGroup is the tasks of one name in which the same is wrong.
type taskGroup struct {
	first taskView
	n     int
}

// alike returns the tasks of a class by name, in the order of the lists, which are not cut yet.
func (v *poolView) alike(class string) (all []taskGroup) {
	index := make(map[string]int)
	for _, t := range slices.Concat(v.Active.Tasks, v.Parking.Tasks) {
		if t.Class != class {
			continue
		}
		i, known := index[t.Name]
		if !known {
			i = len(all)
			index[t.Name] = i
			all = append(all, taskGroup{first: t})
		}
		all[i].n++
	}
	return all
}

// cut keeps the first tasks of a list that is in order and has n in all. What their errors say
// fill knows, perhaps.
func (l *taskList) cut(n int) {
	l.Tasks = slices.Clone(l.Tasks[:min(len(l.Tasks), maxListed)]) // so that the others go
	l.More = max(n-len(l.Tasks), 0)
	l.withoutErrors()
}

// withoutErrors has nothing of the tasks' own in the list.
func (l *taskList) withoutErrors() {
	for i := range l.Tasks {
		if t := &l.Tasks[i]; t.err != nil {
			t.Err, t.err = fmt.Sprintf("(a %T, of which no hook has told)", t.err), nil
		}
	}
}

// Classes of tasks, in the order in which they are listed from the last one on.
const (
	classHung    = "hung"
	classOverdue = "bad"
)

func (w *watched) newTaskView(t taskpool.TaskInfo, now time.Time) taskView {
	v := taskView{ID: t.ID, Key: keyOf(t), Name: cut(t.Name, maxName), Flow: cut(t.Flow, maxName), Priority: t.Priority,
		Urgency: t.Urgency, WaitsFor: cut(t.WaitsFor, 2*maxName), Attempt: t.Attempt, Worker: t.Worker, Until: max(t.Due.Sub(now), 0), err: t.Err}
	if !t.Started.IsZero() {
		v.Timed, v.Elapsed = true, max(now.Sub(t.Started), 0)
		v.AtLeast = t.IsFunc() && w.atLeast(t.Started)
		if !t.Deadline.IsZero() {
			v.Timeout = t.Deadline.Sub(t.Started)
			v.Percent = min(int(100*v.Elapsed/max(v.Timeout, 1)), 100)
		}
	}
	switch {
	case t.State == taskpool.StateAbandoned:
		v.Class, v.Note = classHung, "hung"
	case t.State != taskpool.StateDelayed && v.Timeout > 0 && v.Elapsed > v.Timeout:
		v.Class, v.Note = classOverdue, "overdue"
	}
	return v
}

// keyOf tells one attempt of a pool from all others.
func keyOf(t taskpool.TaskInfo) string {
	key := fmt.Sprintf("t%d-%d-%d", t.ID, t.Attempt, t.Worker)
	if t.IsFunc() && !t.Started.IsZero() {
		key += "-" + strconv.FormatInt(t.Started.UnixNano(), 36)
	}
	return key
}

// label names a task in a sentence.
func (t *taskView) label() string {
	name := t.Name
	if name == "" {
		name = "a task"
		if t.ID == 0 {
			name = "a function"
		}
	}
	if t.ID != 0 {
		name += " #" + strconv.FormatUint(t.ID, 10)
	}
	return name
}

// Label names a task for who does not see the row that it stands in.
func (t taskView) Label() string { return t.label() }
