package conformance

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

func retries(s *suite) {
	delay := func(n int) time.Duration { return time.Duration(n) * 10 * time.Millisecond }
	var ends, starts []time.Time
	s.one(jobs.Policy{MaxAttempts: 3, Backoff: delay}, func(context.Context, jobs.Meta) error {
		starts = append(starts, time.Now())
		defer func() { ends = append(ends, time.Now()) }()
		return errTest
	})
	for n := 1; n < 3; n++ {
		e := s.next(jobs.StateRetrying, n)
		s.check(e.Delay == delay(n), "delay is %v, want %v", e.Delay, delay(n))
	}
	s.check(s.next(jobs.StateDiscarded, 3).Err != nil, "no error")
	for n := 1; n < 3; n++ {
		s.check(starts[n].Sub(ends[n-1]) >= delay(n), "retry came after %v", starts[n].Sub(ends[n-1]))
	}
}

func permanent(s *suite) {
	s.one(jobs.Policy{MaxAttempts: 5}, func(context.Context, jobs.Meta) error { return taskpool.Permanent(errTest) })
	s.check(errors.Is(s.next(jobs.StateDiscarded, 1).Err, errTest), "not the handler's error")
}

func retryAfter(s *suite) {
	never := func(int) time.Duration { return time.Hour }
	s.one(jobs.Policy{MaxAttempts: 2, Backoff: never}, func(context.Context, jobs.Meta) error {
		return taskpool.RetryAfter(time.Millisecond, errTest)
	})
	s.check(s.next(jobs.StateRetrying, 1).Delay == time.Millisecond, "not the delay of RetryAfter")
	s.next(jobs.StateDiscarded, 2)
}

// hasty is a policy for attempts that are to time out. On a machine with much else to do one may
// do so before the handler is called, so there are many.
func hasty() jobs.Policy {
	return jobs.Policy{MaxAttempts: 1000, Timeout: 20 * time.Millisecond, Backoff: func(int) time.Duration { return 0 }}
}

func timeout(s *suite) {
	timedOut := 0
	s.one(hasty(), func(ctx context.Context, m jobs.Meta) error {
		if timedOut > 0 {
			return nil
		}
		timedOut = m.Attempt
		<-ctx.Done()
		return ctx.Err()
	})
	for n := 1; ; n++ {
		e := s.any()
		s.check(e.Attempt == n, "event is of attempt %d, want %d", e.Attempt, n)
		if e.State == jobs.StateCompleted {
			s.check(timedOut > 0 && timedOut < n, "it was completed in attempt %d, and %d was the first to begin", n, timedOut)
			return
		}
		s.check(e.State == jobs.StateRetrying, "event is %v", e.State)
		s.check(errors.Is(e.Err, taskpool.ErrTimeout), "not ErrTimeout: %v", e.Err)
	}
}

func hangs(s *suite) {
	gate := make(chan struct{})
	defer close(gate)
	began := make(chan int, 1)
	s.one(hasty(), func(_ context.Context, m jobs.Meta) error { began <- m.Attempt; <-gate; return nil })
	e := s.any()
	for ; e.State == jobs.StateRetrying; e = s.any() {
	}
	s.check(e.State == jobs.StateDiscarded && e.Attempt == <-began, "event is %v of attempt %d", e.State, e.Attempt)
	s.check(errors.Is(e.Err, taskpool.ErrHung), "event's error: %v", e.Err)
}

func silence(s *suite) {
	s.one(jobs.Policy{MaxAttempts: 3, Heartbeat: 20 * time.Millisecond}, func(ctx context.Context, _ jobs.Meta) error {
		<-ctx.Done()
		return ctx.Err()
	})
	e := s.next(jobs.StateDiscarded, 1)
	s.check(errors.Is(e.Err, taskpool.ErrHung), "event's error: %v", e.Err)
}

func oddBackoff(s *suite) {
	fails := func(context.Context, jobs.Meta, int) error { return errTest }
	panics := jobs.Register(&s.reg, "panics", fails, jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { panic("as the policy says") }})
	negative := jobs.Register(&s.reg, "negative", fails, jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return -time.Hour }})
	s.start()
	s.enqueue(panics, 0, nil)
	delay := s.next(jobs.StateRetrying, 1).Delay
	s.check(delay >= 0 && delay <= 100*time.Millisecond, "delay is %v, want full jitter", delay)
	s.next(jobs.StateDiscarded, 2)
	s.enqueue(negative, 0, nil)
	delay = s.next(jobs.StateRetrying, 1).Delay
	s.check(delay == 0, "delay is %v, want 0", delay)
	s.next(jobs.StateDiscarded, 2)
}

func longError(s *suite) {
	text := strings.Repeat("\u00fc", 8<<20)
	k := jobs.Register(&s.reg, "long", func(context.Context, jobs.Meta, int) error { return errors.New(text) }, jobs.Policy{})
	s.start()
	s.enqueue(k, 0, nil)
	s.check(s.next(jobs.StateDiscarded, 1).Err.Error() == text, "not the handler's error")
	s.enqueue(k, 0, nil)
	s.next(jobs.StateDiscarded, 1)
}

func longPanic(s *suite) {
	k := jobs.Register(&s.reg, "long", func(context.Context, jobs.Meta, int) error { panic(strings.Repeat("x", 8<<20)) }, jobs.Policy{})
	s.start()
	for range 2 {
		s.enqueue(k, 0, nil)
		e := s.next(jobs.StateDiscarded, 1)
		p, ok := errors.AsType[*taskpool.PanicError](e.Err)
		s.check(ok && len(p.Value.(string)) == 8<<20, "not the handler's panic")
	}
}

func middleware(s *suite) {
	type key struct{}
	var trace []string
	for _, name := range []string{"outer", "inner"} {
		s.reg.Use(func(ctx context.Context, m jobs.Meta, next func(context.Context) error) error {
			trace = append(trace, name+" "+m.Kind)
			if m.Kind == "skipped" {
				return errTest
			}
			err := next(context.WithValue(ctx, key{}, name))
			if again := next(ctx); again == nil {
				return errors.New("next was called twice")
			}
			trace = append(trace, name+" ends")
			return err
		})
	}
	k := jobs.Register(&s.reg, "runs", func(ctx context.Context, m jobs.Meta, _ int) error {
		trace = append(trace, ctx.Value(key{}).(string))
		if m.Attempt == 1 {
			return errTest
		}
		return nil
	}, jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }})
	skipped := jobs.Register(&s.reg, "skipped", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	s.enqueue(k, 0, nil)
	s.check(errors.Is(s.next(jobs.StateRetrying, 1).Err, errTest), "not the handler's error")
	s.next(jobs.StateCompleted, 2)
	once := []string{"outer runs", "inner runs", "inner", "inner ends", "outer ends"}
	s.check(slices.Equal(trace, append(once, once...)), "called were %q", trace)
	s.enqueue(skipped, 0, nil)
	s.check(errors.Is(s.next(jobs.StateDiscarded, 1).Err, errTest), "not the middleware's error")
}

func panics(s *suite) {
	s.one(jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }}, func(_ context.Context, m jobs.Meta) error {
		if m.Attempt == 1 {
			panic("conformance: as the handler says")
		}
		return nil
	})
	_, ok := errors.AsType[*taskpool.PanicError](s.next(jobs.StateRetrying, 1).Err)
	s.check(ok, "not a PanicError")
	s.next(jobs.StateCompleted, 2)
}

func goexit(s *suite) {
	s.one(jobs.Policy{MaxAttempts: 3}, func(context.Context, jobs.Meta) error { runtime.Goexit(); return nil })
	s.check(errors.Is(s.next(jobs.StateDiscarded, 1).Err, taskpool.ErrGoexit), "not ErrGoexit")
}
