package taskpool

import (
	"fmt"
	"slices"
	"time"
)

// Stats is what a pool has done and does, at one moment. In each,
//
//	Submitted = Succeeded + Failed + Canceled + Shed + Queued + Delayed + Running + Parked
type Stats struct {
	// Totals since the pool was made.

	Submitted uint64 // tasks accepted
	Refused   uint64 // tasks not accepted: no room, closed, or a context that ended first
	Succeeded uint64 // tasks by final state
	Failed    uint64
	Canceled  uint64
	Shed      uint64
	Attempts  uint64 // attempts started
	Retries   uint64 // failed attempts for which a retry was granted
	Parks     uint64 // times that a running task gave its slot back
	Panics    uint64 // attempts that ended in a panic,
	Goexits   uint64 // in a call of runtime.Goexit,
	Hangs     uint64 // or were given up as hung
	Replaced  uint64 // workers replaced after one of these

	// Levels.

	Slots     int // tasks that may run at once, as set by WithWorkers and Resize
	Workers   int // live workers: as many as slots, and more while tasks are parked
	Idle      int // of these, workers without a task
	Queued    int // tasks that wait for a worker
	Delayed   int // tasks that wait for their time
	Running   int // tasks with an attempt under way
	Parked    int // tasks that have given their slot back
	Abandoned int // goroutines given up as hung that still run
	Lost      int // slots held by hung tasks beyond WithMaxAbandoned
	Blocked   int // calls of Submit that wait for room
	Paused    bool
	Closed    bool // Shutdown was called

	// Waiting has an entry for each priority of which tasks are queued, the
	// most urgent first.
	Waiting []PriorityStats
}

// PriorityStats is about the tasks of one priority.
type PriorityStats struct {
	Priority Priority
	Queued   int
}

// totals is the part of Stats that only grows.
type totals struct {
	submitted, refused                uint64
	succeeded, failed, canceled, shed uint64
	attempts, retries, parks          uint64
	panics, goexits                   uint64
	hangs, replaced                   uint64
}

// settled counts a task that reached final state s.
func (t *totals) settled(s State) {
	switch s {
	case Succeeded:
		t.succeeded++
	case Failed:
		t.failed++
	case Canceled:
		t.canceled++
	case Shed:
		t.shed++
	}
}

// attempt counts an attempt that ended.
func (t *totals) attempt(k attemptKind) {
	switch k {
	case attemptPanic:
		t.panics++
	case attemptGoexit:
		t.goexits++
	case attemptHung:
		t.hangs++
	}
}

// Stats returns a snapshot. Its cost grows with the number of distinct waiting
// priorities, not with the number of tasks.
func (p *Pool) Stats() Stats {
	p.lock()
	defer p.unlock()
	s := Stats{
		Submitted: p.total.submitted,
		Refused:   p.total.refused,
		Succeeded: p.total.succeeded,
		Failed:    p.total.failed,
		Canceled:  p.total.canceled,
		Shed:      p.total.shed,
		Attempts:  p.total.attempts,
		Retries:   p.total.retries,
		Parks:     p.total.parks,
		Panics:    p.total.panics,
		Goexits:   p.total.goexits,
		Hangs:     p.total.hangs,
		Replaced:  p.total.replaced,

		Slots:     p.slots,
		Workers:   len(p.crew) - len(p.lost),
		Idle:      len(p.idle),
		Queued:    p.count[Queued],
		Delayed:   p.count[Delayed],
		Running:   p.count[Running],
		Parked:    p.count[Parked],
		Abandoned: len(p.abandoned),
		Lost:      len(p.lost),
		Blocked:   p.door.n,
		Paused:    p.paused,
		Closed:    p.closed,
	}
	for _, w := range p.dead {
		if !w.gaveUp { // else it is among the lost
			s.Workers--
		}
	}
	for _, l := range p.queue.sorted() {
		if n := l.n - l.parked; n > 0 {
			s.Waiting = append(s.Waiting, PriorityStats{Priority: l.priority, Queued: n})
		}
	}
	return s
}

// TaskInfo describes a task at one moment.
type TaskInfo struct {
	ID       uint64 // number in order of acceptance, from 1; 0 for a function given to Go
	Name     string
	Priority Priority
	State    State
	Attempt  int       // the attempt under way, or the number of those started; from 1
	Worker   int       // Running, Parked and Abandoned: the worker's number
	Started  time.Time // Running, Parked and Abandoned: the attempt's start; zero for a function given to Go
	Deadline time.Time // Running and Parked: when the attempt times out; zero without a Timeout
	Due      time.Time // Delayed: when the task will be queued
	Err      error     // of the last failed attempt, if any
	Handle   *Handle   // nil for a function given to Go
}

// infoLocked describes h, with the attempt under way if any.
func (h *Handle) infoLocked() TaskInfo {
	t := TaskInfo{ID: h.id, Name: h.task.Name, Priority: h.task.Priority, State: h.state,
		Attempt: h.attempts, Err: h.lastErr, Handle: h}
	if a := h.attempt; a != nil {
		t.Worker, t.Started, t.Deadline = a.w.id, a.started, a.deadline
	}
	if h.state == Delayed {
		t.Due = h.due
	}
	return t
}

// infoLocked describes a's task as a sees it.
func (a *attempt) infoLocked() TaskInfo {
	t := a.h.infoLocked()
	t.Attempt, t.Worker, t.Started, t.Deadline = a.number, a.w.id, a.started, a.deadline
	if a.w.gaveUp && a.w.attempt == a {
		t.State = Abandoned
	}
	return t
}

// infoLocked describes the task that w is at work on.
func (w *worker) infoLocked() TaskInfo {
	if w.attempt != nil {
		return w.attempt.infoLocked()
	}
	t := TaskInfo{Priority: w.priority, State: Running, Attempt: 1, Worker: w.id}
	if w.gaveUp {
		t.State = Abandoned
	}
	return t
}

// Tasks returns the tasks in the given states; without any, those that are
// delayed, running, parked or abandoned. Queued ones are listed most urgent
// first, the others in no particular order, and tasks that have settled are not
// kept. All are of one moment. Its cost grows with the number of tasks in the
// states asked for, and the pool stands still meanwhile.
func (p *Pool) Tasks(states ...State) []TaskInfo {
	if len(states) == 0 {
		states = []State{Delayed, Running, Parked, Abandoned}
	}
	p.lock()
	defer p.unlock()
	var all []TaskInfo
	if slices.Contains(states, Queued) {
		for pr, e := range p.queue.all() {
			switch {
			case e.parked():
			case e.h != nil:
				all = append(all, e.h.infoLocked())
			default:
				all = append(all, TaskInfo{Priority: pr, State: Queued})
			}
		}
	}
	if slices.Contains(states, Delayed) {
		for _, h := range p.delayed {
			all = append(all, h.infoLocked())
		}
	}
	for _, w := range p.crew {
		if !w.busy {
			continue
		}
		if t := w.infoLocked(); slices.Contains(states, t.State) {
			all = append(all, t)
		}
	}
	if slices.Contains(states, Abandoned) {
		for _, w := range slices.Concat(p.abandoned, p.lost) {
			if w.job.live() { // else it hangs in a hook
				all = append(all, w.infoLocked())
			}
		}
	}
	return all
}

// Health returns nil if the pool accepts tasks and has all its slots. Otherwise
// it returns [ErrClosed], or an error that says how many slots are lost to hung
// tasks because WithMaxAbandoned goroutines were given up already.
func (p *Pool) Health() error {
	p.lock()
	defer p.unlock()
	switch {
	case p.closed:
		return ErrClosed
	case len(p.lost) > 0:
		return fmt.Errorf("%w: %d of %d slots lost, with %d hung goroutines abandoned already",
			ErrHung, len(p.lost), p.slots, len(p.abandoned))
	}
	return nil
}
