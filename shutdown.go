package taskpool

import (
	"container/heap"
	"context"
	"log/slog"
	"time"
)

// Shutdown ends the pool. From the moment it is called no task is accepted,
// except what running tasks submit with their own context, and a pause is
// lifted. It waits until all accepted tasks have settled, delayed ones and
// retries included, and returns nil.
//
// If ctx ends first, waiting tasks are Canceled and the contexts of running ones
// end, both with [ErrClosed]; those get the hang grace to return and are given
// up as hung after it. Then Shutdown returns a [*ShutdownError] that lists every
// task that did not finish. Hooks that do not return are waited for at most
// another grace.
//
// When it has returned, no goroutine of the pool is left but those given up as
// hung. Any number of calls get the same answer, and the one with the least
// patience counts. A call from inside a task of the pool returns [ErrInside] at
// once and shuts nothing down.
func (p *Pool) Shutdown(ctx context.Context) error {
	if p.inside(ctx) {
		return ErrInside
	}
	p.close()
	select {
	case <-p.terminated:
		return p.answer()
	default:
	}
	select {
	case <-p.terminated:
	case <-ctx.Done():
		mine := p.cutShort(context.Cause(ctx))
		<-p.terminated
		if mine {
			p.logUnfinished()
		}
	}
	return p.answer()
}

// close stops the pool from accepting tasks.
func (p *Pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed, p.paused = true, false
	p.turnAwayLocked(func(h *Handle) bool { return !p.continuesLocked(h.parent) })
	p.restoreLocked()
}

// answer returns what Shutdown returns once the pool has terminated.
func (p *Pool) answer() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut == nil {
		return nil
	}
	return p.cut
}

// logUnfinished says in the log what answer says to the callers.
func (p *Pool) logUnfinished() {
	p.mu.Lock()
	n := len(p.cut.Unfinished)
	p.mu.Unlock()
	if n > 0 {
		p.contain("the logger", func() {
			p.log(slog.LevelWarn, "taskpool: shutdown left tasks unfinished", slog.Int("unfinished", n))
		})
	}
}

// turnAwayLocked refuses the submitters waiting for room for whom refuse is
// true.
func (p *Pool) turnAwayLocked(refuse func(*Handle) bool) {
	var all []*Handle
	for _, e := range p.door.all() {
		all = append(all, e.h)
	}
	for _, h := range all {
		if refuse(h) {
			p.door.remove(h)
			h.refused = ErrClosed
			close(h.admitted)
		}
	}
}

// cutShort settles what waits and ends the contexts of what runs. It returns
// false if there is nothing left to do so, or another Shutdown did it.
func (p *Pool) cutShort(cause error) bool {
	p.mu.Lock()
	if p.cut != nil || p.outstandingLocked() == 0 {
		p.mu.Unlock()
		return false
	}
	p.cut = &ShutdownError{cause: cause}
	p.helpers++
	defer p.helperDone()
	p.turnAwayLocked(func(*Handle) bool { return true })
	var reports []report
	settle := func(e entry, pr Priority) {
		p.cut.Unfinished = append(p.cut.Unfinished, p.unfinishedLocked(e, pr))
		info := p.settleWaitingLocked(e, pr, Canceled, ErrClosed)
		reports = p.finishedLocked(reports, e.h, info, ErrClosed)
	}
	for e, pr, ok := p.queue.pop(); ok; e, pr, ok = p.queue.pop() {
		settle(e, pr)
	}
	for len(p.delayed) > 0 {
		h := heap.Pop(&p.delayed).(*Handle)
		settle(entry{h: h}, h.task.Priority)
	}
	var running []*attempt
	for _, w := range p.crew {
		p.watchEndLocked(w)
		if !w.busy {
			continue
		}
		u := p.unfinishedLocked(w.job, w.priority)
		w.unfinished = &u
		if h := w.job.h; h != nil {
			if h.canceled == nil {
				h.canceled = ErrClosed
			}
			running = append(running, h.attempt)
		}
	}
	p.final = time.Now().Add(2 * p.cfg.hangGrace)
	p.alarmAtLocked(p.final)
	p.mu.Unlock()
	for _, a := range running {
		a.finish(cutOff)
	}
	p.deliver(&reports)
	return true
}

// unfinishedLocked describes a task that has not finished.
func (p *Pool) unfinishedLocked(e entry, pr Priority) Unfinished {
	if h := e.h; h != nil {
		return Unfinished{Task: h.task, State: h.state, Attempt: h.attempts}
	}
	u := Unfinished{Task: Task{Priority: pr, Run: func(context.Context) error { e.f(); return nil }}, State: Queued}
	return u
}
