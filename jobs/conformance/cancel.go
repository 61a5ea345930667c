package conformance

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

func cancelWaiting(s *suite) {
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	s.enqueue(gate, 0, nil)
	s.await(started)
	id := s.enqueue(k, 0, nil)
	s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
	e := s.next(jobs.StateCanceled, 0)
	s.check(e.ID == id, "job %q was canceled, want %q", e.ID, id)
	s.check(errors.Is(e.Err, context.Canceled), "event's error: %v", e.Err)
	release()
	s.next(jobs.StateCompleted, 1)
	err := s.q.Cancel(s.ctx, id)
	s.check(errors.Is(err, jobs.ErrNotFound), "second Cancel: %v", err)
}

func cancelRunning(s *suite) {
	started := make(chan struct{})
	id := s.one(jobs.Policy{MaxAttempts: 3}, func(ctx context.Context, _ jobs.Meta) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	})
	s.await(started)
	s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
	e := s.next(jobs.StateCanceled, 1)
	s.check(errors.Is(e.Err, context.Canceled), "event's error: %v", e.Err)
}

func cancelOutcomes(s *suite) {
	gate := make(chan struct{})
	defer close(gate)
	ends := []struct {
		name string
		end  func() error
		is   error
	}{
		{"returns an error", func() error { return errTest }, errTest},
		{"returns a permanent error", func() error { return taskpool.Permanent(errTest) }, errTest},
		{"panics", func() error { panic(errTest) }, errTest},
		{"calls Goexit", func() error { runtime.Goexit(); return nil }, taskpool.ErrGoexit},
		{"hangs", func() error { <-gate; return nil }, taskpool.ErrHung},
	}
	started := make(chan struct{})
	k := jobs.Register(&s.reg, "ends", func(ctx context.Context, _ jobs.Meta, i int) error {
		started <- struct{}{}
		<-ctx.Done()
		return ends[i].end()
	}, jobs.Policy{MaxAttempts: 3})
	s.start()
	for i, c := range ends {
		id := s.enqueue(k, i, nil)
		s.await(started)
		s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
		e := s.next(jobs.StateCanceled, 1)
		s.check(errors.Is(e.Err, context.Canceled), "one that %s: its error is not context.Canceled: %v", c.name, e.Err)
		s.check(errors.Is(e.Err, c.is), "one that %s: its error is not the handler's: %v", c.name, e.Err)
	}
}

func cancelLastAttempt(s *suite) {
	id := make(chan jobs.ID, 1)
	ended := make(chan error, 1)
	id <- s.one(jobs.Policy{MaxAttempts: 1}, func(ctx context.Context, _ jobs.Meta) error {
		ended <- s.q.Cancel(ctx, <-id) // nothing waits for the news of it to arrive
		return errTest
	})
	e := s.next(jobs.StateCanceled, 1)
	err := <-ended
	s.check(err == nil, "Cancel: %v", err)
	s.check(errors.Is(e.Err, context.Canceled) && errors.Is(e.Err, errTest), "event's error: %v", e.Err)
}

func cancelCompletes(s *suite) {
	started := make(chan struct{})
	id := s.one(jobs.Policy{MaxAttempts: 3}, func(ctx context.Context, _ jobs.Meta) error {
		close(started)
		<-ctx.Done()
		return nil
	})
	s.await(started)
	s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
	e := s.next(jobs.StateCompleted, 1)
	s.check(e.Err == nil, "error: %v", e.Err)
}

func cancelRetry(s *suite) {
	id := s.one(jobs.Policy{MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Hour }},
		func(context.Context, jobs.Meta) error { return errTest })
	s.next(jobs.StateRetrying, 1)
	s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
	e := s.next(jobs.StateCanceled, 1)
	s.check(errors.Is(e.Err, context.Canceled), "event's error: %v", e.Err)
}

func cancelNothing(s *suite) {
	id := s.one(jobs.Policy{}, func(context.Context, jobs.Meta) error { return nil })
	s.next(jobs.StateCompleted, 1)
	for _, id := range []jobs.ID{id, "4711", "", "no number", "-1"} {
		err := s.q.Cancel(s.ctx, id)
		s.check(errors.Is(err, jobs.ErrNotFound), "Cancel of %q: %v", id, err)
	}
}
