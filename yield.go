package taskpool

import (
	"context"
	"time"

	"github.com/taskpool-go/taskpool/internal/remote"
)

// Yield is a safe point: it lets more urgent work run first. If a strictly more
// urgent task waits, or the task's quantum (see [WithQuantum]) is over and an
// equally urgent one waits, the task gives its slot back and goes on when its
// turn comes. Interrupted for more urgent work, it resumes before tasks of its
// own priority that have not started; at the end of its quantum it joins them at
// the back. In a fair-share turn it runs to its next safe point and no further
// while urgent work waits.
//
// Yield returns nil, or the cause for which ctx has ended, and then it is time
// to return. It is a sign of life for a task with a Heartbeat. Outside a task it
// only reports ctx's error, and in a function that package process has called it
// is a sign of life of the task that made the call. With nothing to yield to it
// costs a few nanoseconds on the task's own context, and a lookup more on one that
// derives from it, so call it as often as every few microseconds. Hold no lock
// across it: whoever gets the slot may need it.
func Yield(ctx context.Context) error {
	a, own := ctx.(*attempt)
	if own && a.signal.Load() == signalBegun && a.pool.inbox.least.Load() > a.priority && a.pool.waiting.Load() > a.priority {
		return nil
	}
	return yield(ctx)
}

// yield is Yield when there may be something to do.
func yield(ctx context.Context) error {
	if ctx == nil {
		return nilArgument("Yield", "ctx")
	}
	a := attemptFrom(ctx)
	if a == nil {
		remote.Beat(ctx)
		return context.Cause(ctx)
	}
	if ctx != context.Context(a) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	Beat(a)
	p := a.pool
	most := min(p.inbox.least.Load(), p.waiting.Load()) // in this order, see takeInLocked
	if most > a.priority || most == none || most == a.priority && !a.sliceOver() {
		return a.cause()
	}
	if a.signal.Load()&signalEnded != 0 {
		return a.cause()
	}
	p.lock()
	var pk *parking
	switch most := p.waiting.Load(); {
	case most < a.priority && p.sched.contended(Priority(a.priority-1)):
		if pk = a.parkLocked(); pk != nil {
			pk.backLocked()
		}
	case most == a.priority && p.sched.count[Parked] < p.cfg.maxParked && a.sliceOver() && p.sched.contended(Priority(most)):
		if pk = a.parkLocked(); pk != nil {
			p.sched.askLast(a.h, p.now())
		}
	}
	if pk != nil {
		p.restoreLocked()
	}
	p.unlock()
	if pk != nil {
		pk.resume(ctx)
	}
	return a.cause()
}

// sliceOver reports whether the attempt's quantum is over.
func (a *attempt) sliceOver() bool {
	began := time.Duration(a.slice.Load())
	if began == 0 {
		began = a.started.Sub(a.pool.epoch)
	}
	return time.Since(a.pool.epoch)-began >= a.pool.cfg.quantum
}

// cause returns why the attempt's context has ended, nil if it has not.
func (a *attempt) cause() error {
	if a.signal.Load()&signalEnded == 0 {
		return nil
	}
	return a.end.Load().cause
}

// Block calls f and gives the task's slot back meanwhile: with it, a few workers
// keep the CPU busy while any number of tasks wait for I/O. f runs on the same
// goroutine, and Block returns what f returns, once the task has a slot again;
// there it goes before tasks of its priority that have not started. A panic in f
// is the task's panic. f ought to end when ctx does: if it outlives ctx by the
// hang grace, the task is given up as hung.
//
// Outside a task, and with [WithMaxParked] tasks parked, f is just called. Hold
// no lock across Block that other tasks need.
func Block(ctx context.Context, f func() error) error {
	switch {
	case ctx == nil:
		return nilArgument("Block", "ctx")
	case f == nil:
		return nilArgument("Block", "f")
	}
	a := attemptFrom(ctx)
	if a == nil {
		return f()
	}
	p := a.pool
	var pk *parking
	p.lock()
	if p.sched.count[Parked] < p.cfg.maxParked {
		if pk = a.parkLocked(); pk != nil {
			pk.working = true
			a.w.rewatchLocked()
			p.restoreLocked()
		}
	} else {
		a.excuseLocked(true)
		defer func() {
			p.lock()
			defer p.unlock()
			a.excuseLocked(false)
		}()
	}
	p.unlock()
	if pk != nil {
		defer pk.back() // also if f panics, as the task may recover and go on
		pk.beginRegion(ctx)
	}
	return f()
}

// excuseLocked says whether a, which has its slot, need give no sign of life.
func (a *attempt) excuseLocked(excused bool) {
	if a.over {
		return
	}
	a.excused = excused
	a.w.expectBeatLocked(time.Now())
	a.w.rewatchLocked()
}

// Beat is a sign of life of a task with a Heartbeat, for work that has no room
// for [Yield]. It never gives the slot back and costs as little as Yield. In a
// function that package process has called it counts for the task that made the
// call; elsewhere outside a task it does nothing.
func Beat(ctx context.Context) {
	a, own := ctx.(*attempt)
	if own && a.signal.Load() == signalBegun {
		return
	}
	if ctx == nil {
		panic(nilArgument("Beat", "ctx").Error())
	}
	if a = attemptFrom(ctx); a == nil {
		remote.Beat(ctx)
	} else if a.signal.Load()&(signalBeat|signalStall) != 0 {
		a.signal.And(^(signalBeat | signalStall))
	}
}

// BeatDue implements [remote.Waiter]: the task's work is done elsewhere, and its
// signs of life come from there when they are asked for.
func (a *attempt) BeatDue() <-chan struct{} {
	p := a.pool
	if a.h.task.Heartbeat == 0 {
		return nil
	}
	p.lock()
	defer p.unlock()
	due := a.beatDue
	if due == nil {
		due = make(chan struct{})
		if a.signal.Load()&signalBeat != 0 {
			close(due)
		} else {
			a.beatDue = due
		}
	}
	return due
}
