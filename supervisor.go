package taskpool

import (
	"bytes"
	"container/heap"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// supervise is the supervisor's goroutine. It replaces workers that died, gives
// up on those that hang, and releases delayed tasks. It sleeps on a channel and
// one timer, which is set only if there is something to wait for: an idle pool
// wakes no CPU. It calls no user code; what it has to tell is reported from
// another goroutine.
func (p *Pool) supervise() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, over := p.supervisorTurn()
		if over {
			close(p.terminated)
			return
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-p.alarm:
		case <-timer.C:
		}
	}
}

// alarmLocked has the supervisor take a turn.
func (p *Pool) alarmLocked() {
	select {
	case p.alarm <- struct{}{}:
	default: // it will anyway
	}
}

// alarmAtLocked has the supervisor take a turn at t, if not before.
func (p *Pool) alarmAtLocked(t time.Time) {
	if p.nextTurn.IsZero() || t.Before(p.nextTurn) {
		p.nextTurn = t
		p.alarmLocked()
	}
}

// supervisorTurn does what is due. It returns when the next turn is, zero if
// that is not known yet, and whether there will be none.
func (p *Pool) supervisorTurn() (next time.Time, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.dead {
		p.replaceLocked(w)
	}
	clear(p.dead)
	p.dead = p.dead[:0]

	var hung []*worker
	if len(p.delayed) > 0 || len(p.watched) > 0 || p.cut != nil {
		now := time.Now()
		for len(p.delayed) > 0 && !now.Before(p.delayed[0].due) {
			h := heap.Pop(&p.delayed).(*Handle)
			p.count[Delayed]--
			p.enqueueLocked(entry{h: h}, h.task.Priority)
		}
		for len(p.watched) > 0 && !now.Before(p.watched[0].watch) {
			if w := p.watched[0]; p.expireLocked(w, now) {
				hung = append(hung, w)
			}
		}
		if p.cut != nil && !now.Before(p.final) {
			p.desertLocked()
		}
	}
	p.restoreLocked()
	if len(hung) > 0 {
		p.giveUpLocked(hung)
		p.restoreLocked()
	}

	p.nextTurn = time.Time{}
	due := func(t time.Time) {
		if p.nextTurn.IsZero() || t.Before(p.nextTurn) {
			p.nextTurn = t
		}
	}
	if len(p.delayed) > 0 {
		due(p.delayed[0].due)
	}
	if len(p.watched) > 0 {
		due(p.watched[0].watch)
	}
	if p.cut != nil {
		due(p.final)
	}
	return p.nextTurn, p.over
}

// replaceLocked starts a new goroutine where one died. It goes on with what the
// dead one left undone, and holds its slot.
func (p *Pool) replaceLocked(w *worker) {
	reason := "goexit"
	if w.panicked {
		reason = "panic"
	}
	old := w.id
	p.lastID++
	w.id, w.goroutine = p.lastID, 0
	p.total.replaced++
	e := WorkerEvent{Pool: p.cfg.name, Worker: old, Reason: reason}
	reports := event(nil, p.hooks.workerDied, e)
	e.Replacement = w.id
	p.reportLocked(event(reports, p.hooks.workerReplaced, e))
	go w.main()
}

// watchLocked has the supervisor look after w's task at t.
func (p *Pool) watchLocked(w *worker, t time.Time) {
	if w.watch = t; w.watchI >= 0 {
		heap.Fix(&p.watched, w.watchI)
	} else {
		heap.Push(&p.watched, w)
	}
	p.alarmAtLocked(t)
}

// watchEndLocked gives w's task, whose context has ended, the hang grace.
func (p *Pool) watchEndLocked(w *worker) {
	if w.busy && !w.ending {
		w.ending = true
		p.watchLocked(w, time.Now().Add(p.cfg.hangGrace))
	}
}

func (p *Pool) unwatchLocked(w *worker) {
	if w.ending = false; w.watchI >= 0 {
		heap.Remove(&p.watched, w.watchI)
	}
}

// expireLocked looks after the task of w, whose watch is over. It reports
// whether the task hangs.
func (p *Pool) expireLocked(w *worker, now time.Time) (hung bool) {
	switch late := now.Sub(w.watch); {
	case !w.ending: // the timeout; the context has a timer of its own
		w.attempt.end.CompareAndSwap(nil, timedOut)
		p.watchEndLocked(w)
	case late > p.cfg.hangGrace/4:
		// This turn comes late: the process was stopped, or starved of CPU.
		// Then so was the task, and it gets that time once more.
		p.watchLocked(w, now.Add(min(late, p.cfg.hangGrace)))
	default:
		heap.Remove(&p.watched, w.watchI)
		return true
	}
	return false
}

// giveUpLocked gives up on tasks that hang. It unlocks p.mu while it looks for
// their stacks, and those that return meanwhile have made it in time.
func (p *Pool) giveUpLocked(hung []*worker) {
	tasks := make([]entry, len(hung))
	attempts := make([]int, len(hung))
	ids := make([]uint64, len(hung))
	for i, w := range hung {
		tasks[i], ids[i] = w.job, w.goroutine
		if w.job.h != nil {
			attempts[i] = w.job.h.attempts
		}
	}
	p.mu.Unlock()
	stacks := goroutineStacks(ids)
	p.mu.Lock()
	var reports []report
	for i, w := range hung {
		h := tasks[i].h
		if !w.busy || !w.ending || w.watchI >= 0 || w.job.h != h || h != nil && h.attempts != attempts[i] {
			continue
		}
		cause := ErrClosed // the only reason there is for a function given to Go
		if h != nil {
			cause = ErrTimeout
			if h.canceled != nil {
				cause = h.canceled
			}
		}
		v := verdict{state: Failed, kind: attemptHung,
			err: &HungError{Stack: stacks[ids[i]], cause: cause, grace: p.cfg.hangGrace}}
		if h != nil && h.canceled == nil && h.task.Retry.If != nil && h.attempts < h.task.Retry.MaxAttempts {
			p.helpers++
			go p.judgeHung(w, w.attempt, v, h.task.Retry)
			continue
		}
		p.settleHungLocked(w, &v, &reports)
	}
	p.reportLocked(reports)
}

// judgeHung asks the policy whether a hung attempt is to be retried, and
// settles it, unless it has returned meanwhile. It runs on a goroutine of its
// own, as it calls user code.
func (p *Pool) judgeHung(w *worker, a *attempt, v verdict, r Retry) {
	defer func() { // also after a Goexit
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.helpers--; !a.over {
			var reports []report
			p.settleHungLocked(w, &v, &reports)
			p.reportLocked(reports)
		}
		p.restoreLocked()
	}()
	p.decideRetry(&v, r, a.number)
}

// settleHungLocked settles the task of w as v says, while its goroutine still
// runs it.
func (p *Pool) settleHungLocked(w *worker, v *verdict, reports *[]report) {
	h := w.job.h
	p.settleAttemptLocked(w, v, reports)
	if h != nil && h.stop != nil && !v.retry {
		*reports = append(*reports, func() { h.stop() })
	}
	w.gaveUp = true
	if len(p.abandoned) < p.maxAbandonedLocked() || p.cut != nil {
		*reports = p.abandonLocked(w, *reports)
	} else {
		p.lost = append(p.lost, w)
	}
}

func (p *Pool) maxAbandonedLocked() int {
	if p.cfg.maxAbandoned == likeWorkers {
		return p.slots
	}
	return p.cfg.maxAbandoned
}

// abandonLocked takes the slot of w, which hangs, and gives it to a new worker.
func (p *Pool) abandonLocked(w *worker, reports []report) []report {
	w.gaveUp, w.abandoned = true, true
	p.leaveLocked(w)
	p.abandoned = append(p.abandoned, w)
	p.held--
	e := WorkerEvent{Pool: p.cfg.name, Worker: w.id, Reason: "hung"}
	reports = event(reports, p.hooks.workerAbandoned, e)
	if p.held+len(p.idle) < p.slots && p.cut == nil && !(p.closed && p.outstandingLocked() == 0) {
		p.total.replaced++
		e.Replacement = p.hireLocked().id
		reports = event(reports, p.hooks.workerReplaced, e)
	}
	return reports
}

// returnedLateLocked takes note of the end of an abandoned worker. If slots
// were lost because there were too many, one is made good.
func (p *Pool) returnedLateLocked(w *worker) {
	p.abandoned = slices.DeleteFunc(p.abandoned, func(a *worker) bool { return a == w })
	if len(p.lost) > 0 && len(p.abandoned) < p.maxAbandonedLocked() {
		l := p.lost[0]
		p.lost = slices.Delete(p.lost, 0, 1)
		p.reportLocked(p.abandonLocked(l, nil))
	}
	p.restoreLocked()
}

// dismissLocked ends the workers of a pool that is closed and drained, and says
// so once the last has gone.
func (p *Pool) dismissLocked() {
	for len(p.idle) > 0 {
		p.dismissIdleLocked()
	}
	for _, w := range p.lost {
		p.reportLocked(p.abandonLocked(w, nil))
	}
	p.lost = nil
	if len(p.crew) == 0 && p.helpers == 0 && !p.over {
		p.over = true
		p.alarmLocked()
	}
}

// desertLocked stops waiting for hooks and policies that do not return, at the
// very end of a Shutdown that was cut short.
func (p *Pool) desertLocked() {
	var reports []report
	for _, w := range slices.Clone(p.crew) {
		if w.busy { // Retry.If is still being asked whether to retry a hung attempt
			v := verdict{state: Failed, kind: attemptHung, err: &HungError{cause: ErrClosed, grace: p.cfg.hangGrace}}
			p.settleHungLocked(w, &v, &reports)
		}
	}
	p.restoreLocked() // dismisses idle workers
	for len(p.crew) > 0 {
		p.abandonLocked(p.crew[0], nil)
	}
	p.reportLocked(reports)
	p.over = true
}

// reportLocked has reports made by the reporter, a goroutine that runs while
// there are any.
func (p *Pool) reportLocked(reports []report) {
	p.reports = append(p.reports, reports...)
	if len(p.reports) > 0 && !p.reporting {
		p.reporting = true
		p.helpers++
		go p.reportAll()
	}
}

// reportAll is the reporter. Should a hook end its goroutine, another goes on.
func (p *Pool) reportAll() {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.reporter = 0; len(p.reports) > 0 {
			go p.reportAll()
			return
		}
		p.reporting = false
		p.helpers--
		p.restoreLocked()
	}()
	id := goroutineID()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reporter = id
	for len(p.reports) > 0 {
		next := p.reports[:1:1]
		p.reports = p.reports[1:]
		p.mu.Unlock()
		func() {
			defer p.mu.Lock()
			p.deliver(&next)
		}()
	}
}

// A dueHeap is a [heap.Interface] of delayed handles, the first due on top.
type dueHeap []*Handle

func (d dueHeap) Len() int { return len(d) }
func (d dueHeap) Less(i, j int) bool {
	if d[i].due.Equal(d[j].due) {
		return d[i].id < d[j].id
	}
	return d[i].due.Before(d[j].due)
}
func (d dueHeap) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].heapI, d[j].heapI = i, j
}
func (d *dueHeap) Push(x any) {
	h := x.(*Handle)
	h.heapI = len(*d)
	*d = append(*d, h)
}
func (d *dueHeap) Pop() any {
	last := len(*d) - 1
	h := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	h.heapI = -1
	return h
}

// A watchHeap is a [heap.Interface] of watched workers, the first due on top.
type watchHeap []*worker

func (q watchHeap) Len() int           { return len(q) }
func (q watchHeap) Less(i, j int) bool { return q[i].watch.Before(q[j].watch) }
func (q watchHeap) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].watchI, q[j].watchI = i, j
}
func (q *watchHeap) Push(x any) {
	w := x.(*worker)
	w.watchI = len(*q)
	*q = append(*q, w)
}
func (q *watchHeap) Pop() any {
	last := len(*q) - 1
	w := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	w.watchI = -1
	return w
}

// goroutineID returns the number by which stack dumps name the calling
// goroutine. It serves to find the stack of a hung worker, and to refuse a wait
// that would never end; nothing is attached to it.
func goroutineID() uint64 {
	var buf [64]byte
	head := buf[:runtime.Stack(buf[:], false)]
	return parseGoroutineID(head)
}

// parseGoroutineID returns the number in the first line of a stack dump,
// "goroutine 7 [running]:", and 0 if there is none.
func parseGoroutineID(head []byte) uint64 {
	fields := bytes.Fields(head)
	if len(fields) < 2 {
		return 0
	}
	id, _ := strconv.ParseUint(string(fields[1]), 10, 64)
	return id
}

// maxStackDump bounds the memory for finding hung goroutines among all.
const maxStackDump = 64 << 20

// goroutineStacks returns the stacks of the goroutines with the given numbers,
// without those that could not be found. It stops the world for as long as it
// takes to print the stacks of all goroutines.
func goroutineStacks(ids []uint64) map[uint64][]byte {
	buf := make([]byte, 64<<10)
	n := runtime.Stack(buf, true)
	for n == len(buf) && n < maxStackDump {
		buf = make([]byte, 4*len(buf))
		n = runtime.Stack(buf, true)
	}
	found := make(map[uint64][]byte)
	for dump := range bytes.SplitSeq(buf[:n], []byte("\n\n")) {
		if id := parseGoroutineID(dump[:min(len(dump), 64)]); slices.Contains(ids, id) {
			found[id] = bytes.Clone(dump)
		}
	}
	return found
}
