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
	maxScanned = 10_000 // delayed or parked tasks among which to look for these
	maxCounted = 1_000  // queued tasks whose names are counted
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
	Tasks   []taskView
	More    int  // that are not listed
	TooMany bool // to look at
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

// scan returns the tasks in the given states, but for those that are parked or delayed
// if they are too many to look at: the pool stands still meanwhile.
func scan(p *taskpool.Pool, s *taskpool.Stats, states ...taskpool.State) []taskpool.TaskInfo {
	states = slices.DeleteFunc(states, func(state taskpool.State) bool {
		return state == taskpool.StateParked && s.Parked > maxScanned || state == taskpool.StateDelayed && s.Delayed > maxScanned
	})
	return p.Tasks(states...)
}

// lists makes the lists of the tasks of w, and counts their names. If w has stalled, parked tasks
// that wait for something come first.
func (v *poolView) lists(w *watched, now point) {
	v.counts = make(map[string]atWork)
	v.Parking.TooMany = v.Parked > maxScanned
	v.Waiters.TooMany = v.Delayed > maxScanned
	for _, t := range scan(w.pool, &v.Stats, taskpool.StateRunning, taskpool.StateAbandoned, taskpool.StateParked, taskpool.StateDelayed) {
		list := &v.Active
		switch t.State {
		case taskpool.StateParked:
			list = &v.Parking
		case taskpool.StateDelayed:
			list = &v.Waiters
		}
		x := w.newTaskView(t, now.at)
		list.Tasks = append(list.Tasks, x)
		if t.State == taskpool.StateRunning {
			n := v.counts[x.Name]
			n.running++
			v.counts[x.Name] = n
		}
	}
	for i, t := range w.pool.FirstTasks(maxCounted, taskpool.StateQueued) {
		if i < maxListed {
			x := w.newTaskView(t, now.at)
			if x.ID == 0 { // functions are all alike
				x.Key = "q" + strconv.Itoa(i)
			}
			v.Next.Tasks = append(v.Next.Tasks, x)
		}
		name := cut(t.Name, maxName)
		n := v.counts[name]
		n.waiting++
		v.counts[name] = n
	}
	v.Next.withoutErrors()
	v.Next.More = max(v.Queued-len(v.Next.Tasks), 0)
	if v.Queued > maxCounted {
		v.NamedOf = maxCounted
	}
	longest := func(a, b taskView) int {
		return cmp.Or(cmp.Compare(b.Class, a.Class), // hung and overdue ones first
			cmp.Compare(b.Elapsed, a.Elapsed), cmp.Compare(a.Worker, b.Worker))
	}
	v.Active.sort(longest)
	last := func(t taskView) int {
		if v.Stalled && t.WaitsFor == "" {
			return 1
		}
		return 0
	}
	v.Parking.sort(func(a, b taskView) int { return cmp.Or(cmp.Compare(last(a), last(b)), longest(a, b)) })
	v.Waiters.sort(func(a, b taskView) int { return cmp.Or(cmp.Compare(a.Until, b.Until), cmp.Compare(a.ID, b.ID)) })
}

// sort puts the tasks in order, and keeps the first. What their errors say fill knows,
// perhaps.
func (l *taskList) sort(by func(a, b taskView) int) {
	slices.SortFunc(l.Tasks, by)
	l.More = max(len(l.Tasks)-maxListed, 0)
	l.Tasks = slices.Clone(l.Tasks[:len(l.Tasks)-l.More]) // so that the others go
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
