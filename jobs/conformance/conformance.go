// Package conformance tests that an engine of package jobs keeps what that package
// says a job means.
package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// An Engine is a queue that can be stopped.
type Engine interface {
	jobs.Queue

	// Stop finishes the attempts under way, unless ctx ends first. When it has
	// returned the observers have been told what these came to. That it asks ctx
	// for its Done channel tells the suite that it has begun.
	Stop(ctx context.Context) error
}

// Run tests the engines that start returns: each new, empty, at work with the
// handlers of reg, and running one job at a time. One that puts back what does not decode,
// for other processes, is to discard it after a moment, and the hang grace is to be one, too.
// run calls each test, in a
// bubble of [testing/synctest] if the engine has no life outside the process; nil
// just calls it. No test depends on how long anything takes but for a deadline of a
// minute.
func Run(t *testing.T, run func(*testing.T, func(*testing.T)), start func(*testing.T, *jobs.Registry) Engine) {
	if run == nil {
		run = func(t *testing.T, f func(*testing.T)) { f(t) }
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s := &suite{T: t, events: make(chan jobs.Event, 100)}
				s.ctx, s.cancel = context.WithTimeout(context.Background(), time.Minute)
				defer s.cancel()
				s.reg.Observe(func(e jobs.Event) { s.events <- e })
				s.start = func() { s.q = start(t, &s.reg) }
				c.test(s)
				if !s.stopped && s.q != nil {
					s.stop()
				}
			})
		})
	}
}

var tests = []struct {
	name string
	test func(*suite)
}{
	{"HandlerIsToldWhatWasEnqueued", meta},
	{"ContextNamesTheJob", named},
	{"UrgentJobsRunFirst", order},
	{"FlowIsKeptWhateverHappensToAJob", flow},
	{"FailedJobIsRetriedAfterThePolicysBackoff", retries},
	{"PermanentErrorDiscardsAtOnce", permanent},
	{"RetryAfterTakesTheBackoffsPlaceAndOneAttempt", retryAfter},
	{"TimeoutEndsTheContextAndCountsAsAFailure", timeout},
	{"CanceledBeforeItRunsItNeverRuns", cancelWaiting},
	{"CanceledWhileItRunsItsContextEnds", cancelRunning},
	{"CanceledWhileItRunsItIsCanceledWhateverItDoes", cancelOutcomes},
	{"CanceledInItsLastAttemptItIsCanceled", cancelLastAttempt},
	{"CanceledWhileItRunsItIsCompletedIfItReturnsNil", cancelCompletes},
	{"CanceledBeforeARetryItNeverRunsAgain", cancelRetry},
	{"CancelOfAJobThatIsNotThereIsErrNotFound", cancelNothing},
	{"HangIsDiscardedAtOnce", hangs},
	{"SilenceIsAHang", silence},
	{"BackoffThatPanicsOrIsNegativeDoesNoHarm", oddBackoff},
	{"ErrorOfManyMiBIsToldAndHoldsNobodyUp", longError},
	{"PanicOfManyMiBIsToldAndHoldsNobodyUp", longPanic},
	{"RequestThatNoEngineCanKeepIsRefused", badRequests},
	{"PayloadOfAnyShapeArrives", payloads},
	{"PayloadAsDeepAsIsAllowedArrives", deepPayload},
	{"EqualJobsRunInTheOrderOfTheirArrival", fifo},
	{"UniqueKeyIsFreeOnceItsJobHasSettled", uniqueFreed},
	{"OneOfManyWithTheSameUniqueKeyIsAdded", uniqueRace},
	{"EnqueueWithAContextThatIsOverAddsNothing", enqueueOver},
	{"HandlerEnqueuesWhatComesNextAndSeesNoValueOfTheEnqueuer", handlerEnqueues},
	{"PanicIsAFailureLikeAnyOther", panics},
	{"GoexitDiscardsAtOnce", goexit},
	{"UnknownKindIsNeverRetried", unknownKind},
	{"BadPayloadIsDiscardedAndUsesNoAttempt", badPayload},
	{"UniqueKeyAllowsOneUnsettledJob", unique},
	{"NotBeforeIsKept", notBefore},
	{"GracefulStopFinishesWhatRunsAndSpoilsNothingThatWaits", gracefulStop},
}

type suite struct {
	*testing.T
	ctx     context.Context
	cancel  func()
	reg     jobs.Registry
	q       Engine
	start   func()
	events  chan jobs.Event
	stopped bool
}

func (s *suite) stop() {
	s.Helper()
	s.stopped = true
	if err := s.q.Stop(s.ctx); err != nil {
		s.Fatalf("Stop: %v", err)
	}
}

func (s *suite) check(ok bool, format string, args ...any) {
	s.Helper()
	if !ok {
		s.Fatalf(format, args...)
	}
}

// next returns the next event, which must be of that state and attempt.
func (s *suite) next(state jobs.State, attempt int) jobs.Event {
	s.Helper()
	e := s.any()
	s.check(e.State == state && e.Attempt == attempt, "event is %v of attempt %d, want %v of attempt %d; error: %v",
		e.State, e.Attempt, state, attempt, e.Err)
	return e
}

// any returns the next event.
func (s *suite) any() jobs.Event {
	s.Helper()
	select {
	case e := <-s.events:
		return e
	case <-s.ctx.Done():
		s.Fatal("no event")
	}
	panic("not reached")
}

func (s *suite) enqueue(k *jobs.Kind[int], payload int, o *jobs.Options) jobs.ID {
	s.Helper()
	id, err := k.Enqueue(s.ctx, s.q, payload, o)
	s.check(err == nil, "Enqueue: %v", err)
	return id
}

// one starts an engine with one kind and enqueues one job.
func (s *suite) one(p jobs.Policy, handler func(context.Context, jobs.Meta) error) jobs.ID {
	s.Helper()
	k := jobs.Register(&s.reg, "one", func(ctx context.Context, m jobs.Meta, _ int) error { return handler(ctx, m) }, p)
	s.start()
	return s.enqueue(k, 0, nil)
}

// gate registers a kind whose jobs occupy the engine until release is called.
func (s *suite) gate() (k *jobs.Kind[int], started <-chan struct{}, release func()) {
	began, gate := make(chan struct{}), make(chan struct{})
	k = jobs.Register(&s.reg, "gate", func(ctx context.Context, _ jobs.Meta, _ int) error {
		close(began)
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}, jobs.Policy{})
	return k, began, func() { close(gate) }
}

func (s *suite) await(c <-chan struct{}) {
	s.Helper()
	select {
	case <-c:
	case <-s.ctx.Done():
		s.Fatal("waited in vain")
	}
}

var errTest = errors.New("conformance: as the handler says")

func meta(s *suite) {
	type args struct {
		Text string
		List []int
	}
	want := args{"text", []int{1, 2}}
	var got args
	var m jobs.Meta
	k := jobs.Register(&s.reg, "meta", func(_ context.Context, told jobs.Meta, p args) error {
		m, got = told, p
		return nil
	}, jobs.Policy{MaxAttempts: 3})
	s.start()
	id, err := k.Enqueue(s.ctx, s.q, want, &jobs.Options{Priority: new(taskpool.Low), Flow: "acme", MaxAttempts: 7, UniqueKey: "key"})
	s.check(err == nil, "Enqueue: %v", err)
	e := s.next(jobs.StateCompleted, 1)
	s.check(got.Text == want.Text && slices.Equal(got.List, want.List), "payload is %v, want %v", got, want)
	s.check(!m.Enqueued.IsZero(), "Enqueued is zero")
	for who, m := range map[string]jobs.Meta{"handler": m, "observer": e.Meta} {
		m.Enqueued = time.Time{}
		is := jobs.Meta{ID: id, Kind: "meta", Attempt: 1, MaxAttempts: 7, Priority: taskpool.Low, Flow: "acme", UniqueKey: "key"}
		s.check(m == is, "%s was told %+v, want %+v", who, m, is)
	}
}

func named(s *suite) {
	told, found := make(chan jobs.Meta, 2), make(chan jobs.Meta, 2)
	s.one(jobs.Policy{MaxAttempts: 2, Flow: "acme", Backoff: func(int) time.Duration { return 0 }}, func(ctx context.Context, m jobs.Meta) error {
		of, ok := jobs.MetaFrom(context.WithoutCancel(ctx))
		if !ok {
			return taskpool.Permanent(errors.New("the context names no job"))
		}
		told <- m
		found <- of
		return errTest
	})
	s.next(jobs.StateRetrying, 1)
	s.next(jobs.StateDiscarded, 2)
	for range 2 {
		want, got := <-told, <-found
		s.check(want == got, "the context names %+v, want %+v", got, want)
	}
	_, ok := jobs.MetaFrom(s.ctx)
	s.check(!ok, "the test's own context names a job")
}

func order(s *suite) {
	var got []int
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(_ context.Context, _ jobs.Meta, n int) error {
		got = append(got, n)
		return nil
	}, jobs.Policy{Priority: taskpool.Low})
	s.start()
	s.enqueue(gate, 0, nil)
	s.await(started)
	s.enqueue(k, 3, nil)
	s.enqueue(k, 2, &jobs.Options{Priority: new(taskpool.Medium)})
	s.enqueue(k, 1, &jobs.Options{Priority: new(taskpool.High)})
	release()
	for range 4 {
		s.next(jobs.StateCompleted, 1)
	}
	s.check(slices.Equal(got, []int{1, 2, 3}), "jobs ran in the order %v", got)
}

func flow(s *suite) {
	const odd = "a b/ü<&>\u2028\"\\\U0001F600"
	var told []string
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(_ context.Context, m jobs.Meta, _ int) error {
		told = append(told, m.Flow)
		if m.Attempt == 1 {
			return errTest
		}
		return nil
	}, jobs.Policy{Flow: "of the kind", MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }})
	s.start()
	for _, c := range []struct {
		o    *jobs.Options
		want string
	}{{nil, "of the kind"}, {&jobs.Options{}, "of the kind"}, {&jobs.Options{Flow: odd}, odd}} {
		told = nil
		s.enqueue(k, 0, c.o)
		retrying, completed := s.next(jobs.StateRetrying, 1), s.next(jobs.StateCompleted, 2)
		s.check(slices.Equal(told, []string{c.want, c.want}), "the handler was told of flows %q, want %q", told, c.want)
		s.check(retrying.Flow == c.want && completed.Flow == c.want, "the observer was told of flows %q and %q, want %q", retrying.Flow, completed.Flow, c.want)
	}
	s.enqueue(gate, 0, nil)
	s.await(started)
	id := s.enqueue(k, 0, &jobs.Options{Flow: odd})
	s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
	e := s.next(jobs.StateCanceled, 0)
	s.check(e.Flow == odd, "the observer was told of flow %q, want %q", e.Flow, odd)
	release()
	e = s.next(jobs.StateCompleted, 1)
	s.check(e.Flow == "", "the observer was told of flow %q, want none", e.Flow)
}

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

func timeout(s *suite) {
	s.one(jobs.Policy{MaxAttempts: 2, Timeout: 20 * time.Millisecond, Backoff: func(int) time.Duration { return 0 }},
		func(ctx context.Context, m jobs.Meta) error {
			if m.Attempt == 2 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
	s.check(errors.Is(s.next(jobs.StateRetrying, 1).Err, taskpool.ErrTimeout), "not ErrTimeout")
	s.next(jobs.StateCompleted, 2)
}

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

func hangs(s *suite) {
	gate := make(chan struct{})
	defer close(gate)
	s.one(jobs.Policy{MaxAttempts: 3, Timeout: 20 * time.Millisecond}, func(context.Context, jobs.Meta) error { <-gate; return nil })
	e := s.next(jobs.StateDiscarded, 1)
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

// maxDepth is how deep arrays and objects of a payload may be nested.
const maxDepth = 500

func nested(depth int) json.RawMessage {
	return json.RawMessage(strings.Repeat("[", depth) + strings.Repeat("]", depth))
}

func badRequests(s *suite) {
	jobs.Register(&s.reg, "one", func(context.Context, jobs.Meta, json.RawMessage) error { return nil }, jobs.Policy{})
	s.start()
	good := jobs.Request{Kind: "one", Payload: json.RawMessage("1"), MaxAttempts: 1}
	west := time.FixedZone("west", -12*60*60)
	for field, bad := range map[string]func(*jobs.Request){
		"Kind":        func(r *jobs.Request) { r.Kind = "no kind" },
		"Payload":     func(r *jobs.Request) { r.Payload = nil },
		"JSON":        func(r *jobs.Request) { r.Payload = json.RawMessage("{") },
		"surrogates":  func(r *jobs.Request) { r.Payload = json.RawMessage(`"\ud800"`) },
		"deep":        func(r *jobs.Request) { r.Payload = nested(maxDepth + 1) },
		"Flow":        func(r *jobs.Request) { r.Flow = "\x00" },
		"UniqueKey":   func(r *jobs.Request) { r.UniqueKey = "\xff" },
		"NotBefore":   func(r *jobs.Request) { r.NotBefore = time.Date(9999, 12, 31, 23, 0, 0, 0, west) }, // the year 10000 in UTC
		"MaxAttempts": func(r *jobs.Request) { r.MaxAttempts = 0 },
		"32767":       func(r *jobs.Request) { r.MaxAttempts = 32768 },
	} {
		r := good
		bad(&r)
		_, err := s.q.Enqueue(s.ctx, r)
		s.check(err != nil && strings.Contains(err.Error(), field), "%s: %v", field, err)
	}
	_, err := s.q.Enqueue(s.ctx, good)
	s.check(err == nil, "Enqueue: %v", err)
	s.next(jobs.StateCompleted, 1)
}

func payloads(s *suite) {
	arrived := make(chan any, 1)
	k := jobs.Register(&s.reg, "any", func(_ context.Context, _ jobs.Meta, p any) error { arrived <- p; return nil }, jobs.Policy{})
	s.start()
	for _, p := range []any{nil, true, 1.5, "", "text \u2028 <&> \U0001F600", []any{}, []any{1.0, "2", nil}, map[string]any{}, map[string]any{"value": map[string]any{"a": []any{false}}}} {
		_, err := k.Enqueue(s.ctx, s.q, p, nil)
		s.check(err == nil, "Enqueue of %v: %v", p, err)
		s.next(jobs.StateCompleted, 1)
		got := <-arrived
		s.check(reflect.DeepEqual(got, p), "payload is %#v, want %#v", got, p)
	}
}

func deepPayload(s *suite) {
	arrived := make(chan int, 1)
	jobs.Register(&s.reg, "deep", func(_ context.Context, _ jobs.Meta, p json.RawMessage) error {
		arrived <- bytes.Count(p, []byte("["))
		return nil
	}, jobs.Policy{})
	s.start()
	_, err := s.q.Enqueue(s.ctx, jobs.Request{Kind: "deep", Payload: nested(maxDepth), MaxAttempts: 1})
	s.check(err == nil, "Enqueue: %v", err)
	s.next(jobs.StateCompleted, 1)
	s.check(<-arrived == maxDepth, "it is not what was enqueued")
}

func fifo(s *suite) {
	var got []int
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(_ context.Context, _ jobs.Meta, n int) error { got = append(got, n); return nil }, jobs.Policy{})
	s.start()
	s.enqueue(gate, 0, nil)
	s.await(started)
	for i := range 10 {
		s.enqueue(k, i, nil)
	}
	release()
	for range 11 {
		s.next(jobs.StateCompleted, 1)
	}
	s.check(slices.IsSorted(got) && len(got) == 10, "jobs ran in the order %v", got)
}

func uniqueFreed(s *suite) {
	fails := jobs.Register(&s.reg, "fails", func(context.Context, jobs.Meta, int) error { return errTest }, jobs.Policy{})
	s.start()
	o := &jobs.Options{UniqueKey: "key"}
	for range 2 {
		s.enqueue(fails, 0, o)
		s.next(jobs.StateDiscarded, 1)
	}
	o.NotBefore = time.Now().Add(time.Hour)
	for range 2 {
		id := s.enqueue(fails, 0, o)
		got, err := fails.Enqueue(s.ctx, s.q, 0, o)
		s.check(errors.Is(err, jobs.ErrDuplicate) && got == id, "Enqueue while it waits: %q, %v", got, err)
		s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
		s.next(jobs.StateCanceled, 0)
	}
}

func uniqueRace(s *suite) {
	const n = 8
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	s.enqueue(gate, 0, nil)
	s.await(started)
	var mu sync.Mutex
	ids, added := make(map[jobs.ID]bool), 0
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			id, err := k.Enqueue(s.ctx, s.q, 0, &jobs.Options{UniqueKey: "key"})
			mu.Lock()
			defer mu.Unlock()
			ids[id] = true
			switch {
			case err == nil:
				added++
			case !errors.Is(err, jobs.ErrDuplicate):
				s.Errorf("Enqueue: %v", err)
			}
		})
	}
	all.Wait()
	s.check(added == 1 && len(ids) == 1, "%d were added, with the IDs %v", added, ids)
	release()
	s.next(jobs.StateCompleted, 1)
	s.next(jobs.StateCompleted, 1)
}

func enqueueOver(s *suite) {
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	over, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := k.Enqueue(over, s.q, 0, &jobs.Options{UniqueKey: "key"})
	s.check(errors.Is(err, context.Canceled), "Enqueue: %v", err)
	id := s.enqueue(k, 0, &jobs.Options{UniqueKey: "key"}) // the key is not taken
	s.check(s.next(jobs.StateCompleted, 1).ID == id, "another job was completed")
}

func handlerEnqueues(s *suite) {
	type key struct{}
	seen := make(chan any, 2)
	second := jobs.Register(&s.reg, "second", func(ctx context.Context, _ jobs.Meta, _ int) error { seen <- ctx.Value(key{}); return nil }, jobs.Policy{})
	first := jobs.Register(&s.reg, "first", func(ctx context.Context, _ jobs.Meta, _ int) error {
		seen <- ctx.Value(key{})
		_, err := second.Enqueue(context.WithValue(ctx, key{}, "of the first"), s.q, 0, nil)
		return err
	}, jobs.Policy{})
	s.start()
	_, err := first.Enqueue(context.WithValue(s.ctx, key{}, "of the test"), s.q, 0, nil)
	s.check(err == nil, "Enqueue: %v", err)
	kinds := map[string]bool{s.next(jobs.StateCompleted, 1).Kind: true, s.next(jobs.StateCompleted, 1).Kind: true}
	s.check(kinds["first"] && kinds["second"], "completed were %v", kinds)
	for range 2 {
		v := <-seen
		s.check(v == nil, "a handler sees the value %v", v)
	}
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

func unknownKind(s *suite) {
	jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{}) // an engine may refuse to run none
	s.start()
	_, err := s.q.Enqueue(s.ctx, jobs.Request{Kind: "nobody", Payload: json.RawMessage("1"), MaxAttempts: 5})
	if err == nil {
		err = s.next(jobs.StateDiscarded, 1).Err
	}
	s.check(errors.Is(err, jobs.ErrUnknownKind), "not ErrUnknownKind: %v", err)
}

func badPayload(s *suite) {
	jobs.Register(&s.reg, "one", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	r := jobs.Request{Kind: "one", Payload: json.RawMessage("{"), MaxAttempts: 5}
	_, err := s.q.Enqueue(s.ctx, r)
	s.check(err != nil, "what is no JSON was accepted")
	r.Payload = json.RawMessage(`"text"`)
	_, err = s.q.Enqueue(s.ctx, r)
	s.check(err == nil, "Enqueue: %v", err)
	for {
		e := s.any()
		s.check(errors.Is(e.Err, jobs.ErrPayload), "not ErrPayload: %v", e.Err)
		s.check(e.Attempt == 1, "it is attempt %d", e.Attempt)
		if e.State == jobs.StateDiscarded {
			return
		}
		s.check(e.State == jobs.StateRetrying, "event is %v", e.State) // for others to take it
	}
}

func unique(s *suite) {
	gate, started, release := s.gate()
	other := jobs.Register(&s.reg, "other", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	o := &jobs.Options{UniqueKey: "key"}
	first := s.enqueue(gate, 0, o)
	s.await(started)
	id, err := gate.Enqueue(s.ctx, s.q, 1, o)
	s.check(errors.Is(err, jobs.ErrDuplicate) && id == first, "second Enqueue: %q, %v", id, err)
	s.enqueue(other, 0, o) // a key of another kind is another
	release()
	s.next(jobs.StateCompleted, 1)
	s.next(jobs.StateCompleted, 1)
	again := s.enqueue(other, 0, o)
	s.check(s.next(jobs.StateCompleted, 1).ID == again, "the key was not free again")
}

func notBefore(s *suite) {
	var ran time.Time
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { ran = time.Now(); return nil }, jobs.Policy{})
	s.start()
	at := time.Now().Add(50 * time.Millisecond)
	s.enqueue(k, 0, &jobs.Options{NotBefore: at})
	s.next(jobs.StateCompleted, 1)
	s.check(!ran.Before(at), "it ran %v too early", at.Sub(ran))
}

func gracefulStop(s *suite) {
	gate, started, release := s.gate()
	other := jobs.Register(&s.reg, "other", func(ctx context.Context, _ jobs.Meta, _ int) error { return ctx.Err() }, jobs.Policy{})
	s.start()
	running := s.enqueue(gate, 0, nil)
	s.await(started)
	waiting := s.enqueue(other, 0, nil)

	ctx := &stopContext{Context: s.ctx, asked: make(chan struct{})}
	stopped := make(chan error, 1)
	s.stopped = true
	go func() { stopped <- s.q.Stop(ctx) }()
	s.await(ctx.asked)
	select {
	case err := <-stopped:
		s.Fatalf("Stop returned while a job ran: %v", err)
	default:
	}
	release()
	err := <-stopped // it has a deadline
	s.check(err == nil, "Stop: %v", err)

	ends := make(map[jobs.ID]int)
	for len(s.events) > 0 {
		ends[s.next(jobs.StateCompleted, 1).ID]++
	}
	s.check(ends[running] == 1, "the job that ran was completed %d times", ends[running])
	s.check(ends[waiting] <= 1, "the job that waited was completed %d times", ends[waiting]) // or kept
}

// A stopContext shows that it has been asked for its Done channel.
type stopContext struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (c *stopContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.asked) })
	return c.Context.Done()
}
