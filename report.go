package taskpool

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"time"
)

// An outbox is what hooks and the log are to be told, and the goroutines that do that and
// other work for the pool. Protected by Pool.mu.
type outbox struct {
	outside bool // hookTable.outside

	notices    []report // for the reporter, see reportLocked
	delivering bool     // it runs

	helpers  int             // goroutines that Shutdown waits for, beside the crew
	insiders map[uint64]bool // the numbers of those that are the pool's
	telling  int             // the others, which tell hooks of something; see tellHere
}

// A report is something to tell hooks and the log about, to be called without
// a lock: a call or, if that is nil, a hook to be told of an event.
type report struct {
	call  func()
	hook  func(TaskEvent)
	event *TaskEvent
	start bool // of the start of an attempt, which is not told once that was given up
}

func (r *report) make() {
	if r.call != nil {
		r.call()
	} else {
		r.hook(*r.event)
	}
}

// tell adds the reports that tell hooks about e.
func tell[E any](reports *[]report, hooks []func(E), e E) {
	for _, hook := range hooks {
		e := e // moves to the heap here, not where there is no hook
		*reports = append(*reports, report{call: func() { hook(e) }})
	}
}

// tellOf adds the reports that tell hooks about *e, which stays as it is until they
// are made.
func tellOf(reports *[]report, hooks []func(TaskEvent), e *TaskEvent) {
	for _, hook := range hooks {
		*reports = append(*reports, report{hook: hook, event: e})
	}
}

// deliver makes the reports in order. A panic in one is contained; Goexit is
// left to the caller's goroutine, and leaves the reports not yet made in *rs.
func (g *guard) deliver(rs *[]report) {
	for len(*rs) > 0 {
		r := next(rs)
		g.contain("a hook or logger", func() { r.make() })
	}
}

// next takes the first of the reports.
func next(rs *[]report) report {
	r := (*rs)[0]
	(*rs)[0] = report{}
	*rs = (*rs)[1:]
	return r
}

// oweLocked notes that the caller, on whatever goroutine, is about to make reports with
// deliverAll. If hooks may be told of something then, WaitIdle and Shutdown wait for it.
func (o *outbox) oweLocked(rs []report) {
	if len(rs) > 0 && o.outside {
		o.helpers++
		o.telling++
	}
}

// deliverAll makes the reports that oweLocked has noted, those after a Goexit on
// another goroutine.
func (p *Pool) deliverAll(rs []report) {
	if len(rs) == 0 {
		return
	}
	defer func() {
		if len(rs) == 0 && !p.hooks.outside {
			return
		}
		p.lock()
		defer p.unlock()
		p.reportLocked(rs)
		if p.hooks.outside {
			p.outbox.helpers--
			p.outbox.telling--
			p.restoreLocked()
		}
	}()
	if p.hooks.outside {
		p.tellHere(&rs)
	} else {
		p.guard.deliver(&rs)
	}
}

// tellHere is deliver where hooks may be told on a goroutine that is none of the pool's:
// tellsHere looks for it, and for p, on the stack.
//
//go:noinline
func (p *Pool) tellHere(rs *[]report) {
	p.guard.deliver(rs)
	runtime.KeepAlive(p) // so that stacks show it
}

// tellsHere reports whether the calling goroutine is in tellHere of p. The number by
// which the runtime knows a goroutine would cost whoever tells hooks more than that is
// worth, as hooks hardly ever ask; this costs who asks.
func tellsHere(p *Pool) bool {
	p.lock()
	telling := p.outbox.telling
	p.unlock()
	if telling == 0 {
		return false
	}
	stack := make([]byte, 64<<10)
	stack = stack[:runtime.Stack(stack, false)]
	return bytes.Contains(stack, fmt.Appendf(nil, ".(*Pool).tellHere(%p,", p))
}

// maxReports is the number of reports that may wait for the reporter before dead
// workers are no longer replaced: tasks that panic one after the other wait for the
// hook that is told of each.
const maxReports = 1000

// reportLocked has reports made by the reporter, a goroutine that runs while
// there are any.
func (p *Pool) reportLocked(reports []report) {
	p.outbox.notices = append(p.outbox.notices, reports...)
	if len(p.outbox.notices) > 0 && !p.outbox.delivering {
		p.outbox.delivering = true
		p.outbox.helpers++
		go p.reportAll()
	}
}

// reportAll is the reporter. Should a hook end its goroutine, another goes on.
func (p *Pool) reportAll() {
	id := p.helps()
	defer func() {
		p.lock()
		defer p.unlock()
		delete(p.outbox.insiders, id)
		if len(p.outbox.notices) > 0 {
			go p.reportAll()
			return
		}
		p.outbox.notices = nil // it may have been long
		p.outbox.delivering = false
		p.outbox.helpers--
		p.restoreLocked()
	}()
	p.lock()
	defer p.unlock()
	for len(p.outbox.notices) > 0 {
		next := p.outbox.notices[:1:1]
		if p.outbox.notices = p.outbox.notices[1:]; len(p.outbox.notices) == maxReports/2 && len(p.crew.dead) > 0 {
			p.supervisor.alarmLocked()
		}
		p.unlock()
		func() {
			defer p.lock()
			p.guard.deliver(&next)
		}()
	}
}

// report adds the reports about an attempt that ended with v. started is
// zero if it is not known when it did, and e is to be the event. It is called with
// pool.mu held and calls no user code; the reports do.
func (v *verdict) report(p *Pool, info TaskInfo, started time.Time, e *TaskEvent, reports *[]report) {
	var elapsed time.Duration
	if !started.IsZero() {
		elapsed = time.Since(started)
	}
	*e = TaskEvent{Pool: p.cfg.name, Task: info, Err: v.err, Result: v.result(), Elapsed: elapsed}
	if v.log {
		info, elapsed := info, elapsed // they move to the heap here, not where there is no log
		*reports = append(*reports, report{call: func() {
			p.guard.writeTask(slog.LevelDebug, "taskpool: task succeeded", info, slog.Duration("elapsed", elapsed))
		}})
	}
	if v.kind != attemptOK {
		if v.retry || v.state == Failed || v.kind == attemptPanic {
			v, info, elapsed := *v, info, elapsed
			*reports = append(*reports, report{call: func() { p.guard.writeAttempt(&v, info, elapsed) }})
		}
		tellOf(reports, p.hooks.attemptFailed, e)
	}
	if v.retry {
		retried := *e
		retried.Delay = v.delay
		tell(reports, p.hooks.retried, retried)
	} else {
		tellOf(reports, p.hooks.finished, e)
	}
}

// helps makes the calling goroutine known to inside, as one that Shutdown waits
// for. It is called after p.helpers++, and helperDone gets what it returns.
func (p *Pool) helps() (id uint64) {
	pprof.SetGoroutineLabels(p.labels) // else it has those of whoever started it, which may be a task
	id = goroutineID()
	p.lock()
	defer p.unlock()
	p.outbox.insiders[id] = true
	return id
}

// helperDone ends what p.helpers++ and helps began.
func (p *Pool) helperDone(id uint64) {
	p.lock()
	defer p.unlock()
	delete(p.outbox.insiders, id)
	p.outbox.helpers--
	p.restoreLocked()
}
