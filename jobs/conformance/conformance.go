// Package conformance tests that an engine of package jobs keeps what that package
// says a job means.
package conformance

import (
	"context"
	"errors"
	"slices"
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
// just calls it. No test depends on how long anything takes but for a deadline of
// ten minutes.
func Run(t *testing.T, run func(*testing.T, func(*testing.T)), start func(*testing.T, *jobs.Registry) Engine) {
	if run == nil {
		run = func(t *testing.T, f func(*testing.T)) { f(t) }
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(t *testing.T) {
				s := &suite{T: t, events: make(chan jobs.Event, 100)}
				s.ctx, s.cancel = context.WithTimeout(context.Background(), 10*time.Minute)
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
	{"EnqueueManyAddsAllInOrder", many},
	{"EnqueueManyAddsNothingIfARequestIsNotValid", manyInvalid},
	{"EnqueueManySaysWhichKeysAreTaken", manyUnique},
	{"MiddlewareGoesAroundEachAttempt", middleware},
	{"EnqueueWithAContextThatIsOverAddsNothing", enqueueOver},
	{"HandlerEnqueuesWhatComesNextAndSeesNoValueOfTheEnqueuer", handlerEnqueues},
	{"PanicIsAFailureLikeAnyOther", panics},
	{"GoexitDiscardsAtOnce", goexit},
	{"UnknownKindIsNeverRetried", unknownKind},
	{"BadPayloadIsDiscardedAndUsesNoAttempt", badPayload},
	{"UniqueKeyAllowsOneUnsettledJob", unique},
	{"NotBeforeIsKept", notBefore},
	{"ListShowsEachUnsettledJob", list},
	{"ListIsFilteredAndComesInPages", listFiltered},
	{"JobThatWaitsForItsRetryIsListedAsDelayed", listRetry},
	{"DepthsCountByQueueAndKind", depths},
	{"PausedQueueStartsNothingUntilItIsResumed", pause},
	{"PauseOfAQueueThatIsNotThereIsAnError", pauseNothing},
	{"JobThatHasWaitedTooLongIsDiscardedAndNeverRuns", maxWait},
	{"MaxWaitDoesNotBoundRetries", maxWaitOfRetries},
	{"MaxWaitCountsFromNotBefore", maxWaitFromNotBefore},
	{"PeriodicJobComesRoundAndRoundsDoNotOverlap", periodic},
	{"PeriodicJobThatCannotBeIsRefused", periodicRefused},
	{"ScheduleThatPanicsOrEndsHarmsNoOther", periodicSchedule},
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
