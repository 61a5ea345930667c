package otelpool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/metrics/otelpool"
)

func TestBadOptionsAreRefused(t *testing.T) {
	for want, opt := range map[string]otelpool.Option{
		"otelpool: option 1 must not be nil": nil,
		"otelpool: WithMeterProvider: p must not be nil (package metric/noop has one that does nothing), got nil": otelpool.WithMeterProvider(nil),
		"otelpool: WithTracerProvider: p must not be nil (package trace/noop has one that does nothing), got nil": otelpool.WithTracerProvider(nil),
		"otelpool: WithGoEvery: n must be from 1 to 1024, got 0":                                                  otelpool.WithGoEvery(0),
		"otelpool: WithGoEvery: n must be from 1 to 1024, got 1025":                                               otelpool.WithGoEvery(1025),
		"otelpool: WithFlowNames must have at most 1000 names, got 1001":                                          otelpool.WithFlowNames(numbered(1001)...),
		`otelpool: WithFlowNames: name must be in UTF-8, got "\xff"`:                                              otelpool.WithFlowNames("a", "\xff"),
		"otelpool: WithPriorities must have at most 25 priorities, got 26":                                        otelpool.WithPriorities(priorities(26)...),
	} {
		c, err := otelpool.New(opt)
		require.EqualError(t, err, want)
		require.Nil(t, c)
	}
}

func priorities(n int) []taskpool.Priority {
	all := make([]taskpool.Priority, n)
	for i := range all {
		all[i] = taskpool.Priority(i)
	}
	return all
}

func numbered(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i)
	}
	return all
}

func TestPoolsOfOneNameAreRefused(t *testing.T) {
	c, b := newCollector(t)
	a := newPool(t, c, taskpool.WithName("a"))
	require.NoError(t, c.Watch(a), "it is watched already")
	twin, err := taskpool.New(taskpool.WithName("a"))
	require.NoError(t, err)
	defer shutdown(t, twin)
	latin, err := taskpool.New(taskpool.WithName("\xe4"))
	require.NoError(t, err)
	defer shutdown(t, latin)

	require.EqualError(t, c.Watch(twin),
		`otelpool: Watch: pool 1 must have a name of its own, got "a", which another pool has (see taskpool.WithName and Collector.Unwatch)`)
	require.EqualError(t, c.Watch(latin), `otelpool: Watch: pool 1 must have a name in UTF-8, got "\xe4" (see taskpool.WithName)`)
	require.EqualError(t, c.Watch(a, nil), "otelpool: Watch: pool 2 must not be nil")
	require.Len(t, b.collect()["taskpool.workers"], 1)
	require.False(t, c.Unwatch(twin))
	require.True(t, c.Unwatch(a))
	require.Empty(t, b.collect()["taskpool.workers"])
	require.NoError(t, c.Watch(twin))
	require.Len(t, b.collect()["taskpool.workers"], 1)
	require.NoError(t, c.Close())
	require.Empty(t, b.collect()["taskpool.workers"])
}

// In a bubble, so all times are exact.
func TestEachKindOfEndIsCountedAndTraced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second), taskpool.WithCapacity(7, taskpool.OverflowReject))
		release := make(chan struct{})
		run := func(t_ taskpool.Task, f func(context.Context) error) {
			t_.Run = f
			submit(t, context.Background(), p, t_)
			synctest.Wait()
		}
		run(taskpool.Task{Name: "good"}, func(context.Context) error { time.Sleep(3 * time.Second); return nil })
		tries := 0
		retry := taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }}
		run(taskpool.Task{Retry: retry}, func(context.Context) error {
			if tries++; tries == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		run(taskpool.Task{Timeout: time.Second}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		run(taskpool.Task{}, func(ctx context.Context) error {
			self, _ := taskpool.Current(ctx)
			self.Handle.Cancel(nil)
			return ctx.Err()
		})
		run(taskpool.Task{}, func(context.Context) error { panic("boom") })
		run(taskpool.Task{}, func(context.Context) error { runtime.Goexit(); return nil })
		run(taskpool.Task{Timeout: time.Second}, func(context.Context) error { <-release; return nil })

		got := b.collect()
		require.Equal(t, map[string]float64{"success": 2, "error": 1, "timeout": 1, "interrupted": 1, "panic": 1, "goexit": 1, "hung": 1},
			got.values("taskpool.attempts.ended", "taskpool.result"))
		require.Equal(t, map[string]float64{"succeeded": 2, "failed": 4, "canceled": 1, "shed": 0},
			got.values("taskpool.tasks.finished", "taskpool.outcome"))
		// A panic goes to the hook, and the worker survives it.
		require.Equal(t, map[string]float64{"panic": 0, "goexit": 1, "hung": 1}, got.values("taskpool.replaced", "taskpool.reason"))
		require.Equal(t, map[string]float64{"idle": 1, "busy": 0, "parked": 0, "abandoned": 1, "lost": 0}, got.values("taskpool.goroutines", "taskpool.state"))
		require.Equal(t, map[string]float64{"medium": 8}, got.values("taskpool.attempts.started", "taskpool.priority"))
		require.Equal(t, map[string]float64{"medium": 8}, got.values("taskpool.queue.wait", "taskpool.priority"))
		require.Equal(t, map[string]float64{"medium": 8}, got.values("taskpool.attempt.duration", "taskpool.priority"))
		require.EqualValues(t, 3+1+2, got["taskpool.attempt.duration"][0].sum, "seconds")
		require.EqualValues(t, 7, got.sum("taskpool.tasks.submitted", "a"))
		require.EqualValues(t, 7, got.sum("taskpool.capacity", "a"))
		require.EqualValues(t, 1, got.sum("taskpool.retries", "a"))

		spans := b.spans.GetSpans()
		results := make([]string, len(spans))
		for i, s := range spans {
			results[i] = attributesOf(s)["error.type"]
			require.Equal(t, results[i] != "", s.Status.Code == codes.Error)
			require.Len(t, s.Events, min(len(results[i]), 1))
		}
		require.Equal(t, []string{"", "error", "", "timeout", "interrupted", "panic", "goexit", "hung"}, results)
		require.Equal(t, "good", spans[0].Name)
		require.Equal(t, trace.SpanKindInternal, spans[0].SpanKind)
		require.Equal(t, 3*time.Second, spans[0].EndTime.Sub(spans[0].StartTime))
		require.Equal(t, "taskpool.task", spans[1].Name)
		require.Equal(t, "not yet", spans[1].Status.Description)
		require.Equal(t, 2*time.Second, spans[7].EndTime.Sub(spans[7].StartTime), "the timeout and the grace")
		panicked := make(map[string]string)
		for _, kv := range spans[5].Events[0].Attributes {
			panicked[string(kv.Key)] = kv.Value.AsString()
		}
		require.Equal(t, "taskpool: task panicked: boom", panicked["exception.message"])
		require.Equal(t, "*taskpool.PanicError", panicked["exception.type"])
		require.Contains(t, panicked["exception.stacktrace"], "otelpool_test.go:")

		close(release)
		synctest.Wait()
		require.Len(t, b.spans.GetSpans(), 8, "what returns late has no second span")
	})
}

func attributesOf(s tracetest.SpanStub) map[string]string {
	all := make(map[string]string)
	for _, kv := range s.Attributes {
		all[string(kv.Key)] = kv.Value.String()
	}
	return all
}

func TestSpansAreLinkedToTheSubmitters(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c, taskpool.WithName("mail"), taskpool.WithWorkers(1))
	ctx, submitter := b.tracers.Tracer("test").Start(context.Background(), "request")
	tries := 0
	var inside trace.SpanContext
	submit(t, ctx, p, taskpool.Task{
		Name:     "letter",
		Priority: taskpool.High,
		Retry:    taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }},
		Run: func(ctx context.Context) error {
			if tries++; tries == 1 {
				return errors.New("bounced")
			}
			inside = trace.SpanContextFromContext(ctx)
			return nil
		},
	})
	submit(t, context.Background(), p, taskpool.Task{})
	shutdown(t, p)
	spans := b.spans.GetSpans()
	require.Len(t, spans, 3)
	traces := map[trace.TraceID]bool{submitter.SpanContext().TraceID(): true}
	for i, s := range spans {
		require.False(t, s.Parent.IsValid())
		require.False(t, traces[s.SpanContext.TraceID()], "each has a trace of its own")
		traces[s.SpanContext.TraceID()] = true
		if s.Name != "letter" {
			require.Empty(t, s.Links)
			continue
		}
		require.Len(t, s.Links, 1)
		require.Equal(t, submitter.SpanContext(), s.Links[0].SpanContext)
		require.Equal(t, "mail", attributesOf(s)["taskpool.pool"])
		require.Equal(t, "high", attributesOf(s)["taskpool.priority"])
		require.Equal(t, "1", attributesOf(s)["taskpool.task.id"])
		require.Equal(t, fmt.Sprint(i+1), attributesOf(s)["taskpool.attempt"])
	}
	require.Equal(t, "letter", spans[1].Name)
	require.Equal(t, spans[1].SpanContext, inside)
}

func TestSpansSayHowLongTheTaskHasWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1))
		p.Pause()
		_, err := p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		time.Sleep(1500 * time.Millisecond)
		p.Resume()
		shutdown(t, p)
		require.Equal(t, "1.5", attributesOf(b.spans.GetSpans()[0])["taskpool.wait"])
	})
}

// They have no span of their own.
func TestTheSubmittersSpanTellsOfTasksThatAreShedOrCanceledWhileTheyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowShed))
		p.Pause()
		ctx, span := b.tracers.Tracer("test").Start(context.Background(), "request")
		run := func(context.Context) error { return nil }
		_, err := p.Submit(ctx, taskpool.Task{Name: "low", Priority: taskpool.Low, Run: run})
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		h, err := p.Submit(ctx, taskpool.Task{Name: "urgent", Priority: taskpool.High, Run: run}) // sheds the first
		require.NoError(t, err)
		h.Cancel(errors.New("not any more"))
		synctest.Wait()
		span.End()
		_, err = p.Submit(ctx, taskpool.Task{Run: run}) // the span has ended
		require.NoError(t, err)
		p.Resume()
		shutdown(t, p)
		got := b.spans.GetSpans()[0]
		require.Equal(t, "request", got.Name)
		var events []string
		for _, e := range got.Events {
			attributes := attribute.NewSet(e.Attributes...)
			events = append(events, e.Name+" "+attributes.Encoded(attribute.DefaultEncoder()))
		}
		require.Equal(t, []string{
			"taskpool.task.shed exception.message=taskpool: task shed for a more urgent one,taskpool.pool=a,taskpool.priority=low,taskpool.task.id=1,taskpool.task.name=low,taskpool.wait=2",
			"taskpool.task.canceled exception.message=not any more,taskpool.pool=a,taskpool.priority=high,taskpool.task.id=2,taskpool.task.name=urgent",
		}, events)
	})
}

func TestTextIsExportedOnlyUpToABound(t *testing.T) {
	c, b := newCollector(t)
	long := strings.Repeat("x", 100_000)
	p := newPool(t, c, taskpool.WithName(long))
	submit(t, context.Background(), p, taskpool.Task{Name: long, Run: func(context.Context) error { return errors.New(long) }})
	shutdown(t, p)
	s := b.spans.GetSpans()[0]
	require.Len(t, s.Name, 200)
	require.Len(t, attributesOf(s)["taskpool.pool"], 200)
	require.Len(t, s.Status.Description, 2<<10)
	for _, a := range s.Events[0].Attributes {
		require.LessOrEqual(t, len(a.Value.AsString()), 2<<10)
	}
	for name, points := range b.collect() {
		for _, point := range points {
			pool, _ := point.attrs.Value("taskpool.pool")
			require.Len(t, pool.AsString(), 200, name)
		}
	}
}

func TestWhyTasksAreRefusedIsSeenByPriority(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithCapacity(0, taskpool.OverflowReject), taskpool.WithWorkers(1))
	release := make(chan struct{})
	require.NoError(t, p.Go(taskpool.Medium, func() { <-release }))
	require.ErrorIs(t, p.Go(taskpool.Low, func() {}), taskpool.ErrFull)
	close(release)
	shutdown(t, p)
	require.ErrorIs(t, p.Go(taskpool.High, func() {}), taskpool.ErrClosed)
	got := b.collect()
	require.Equal(t, map[string]float64{"full": 1, "flow": 0, "closed": 1, "context": 0, "expired": 0}, got.values("taskpool.tasks.refused", "taskpool.reason"))
	require.Equal(t, map[string]float64{"low": 1, "medium": 0, "high": 1}, got.values("taskpool.tasks.refused", "taskpool.priority"))
	require.Equal(t, map[string]float64{"low": 0, "medium": 1, "high": 0}, got.values("taskpool.tasks.finished", "taskpool.priority"))
	require.Zero(t, got.sum("taskpool.slots.lost", "a"))
	require.Contains(t, got, "taskpool.slots.lost")
}

// The table in the package's documentation has each metric, with its attributes, and no other.
func TestTheDocumentationListsWhatIsCollected(t *testing.T) {
	c, b := newCollector(t, otelpool.WithFlowNames("a"))
	require.NoError(t, c.WatchJobs("a", &operator{depths: []jobs.Depth{{Kind: "a"}}}))
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowShed))
	p.Pause()
	run := func(context.Context) error { return nil }
	_, err := p.Submit(t.Context(), taskpool.Task{Priority: taskpool.Low, Run: run})
	require.NoError(t, err)
	_, err = p.Submit(t.Context(), taskpool.Task{Run: run}) // sheds that
	require.NoError(t, err)
	p.Resume()
	shutdown(t, p)
	var collected []string
	for name, points := range b.collect() {
		var attributes []string
		for _, a := range points[0].attrs.ToSlice() {
			if a.Key != "taskpool.pool" {
				attributes = append(attributes, strings.TrimPrefix(string(a.Key), "taskpool."))
			}
		}
		if len(attributes) > 0 {
			name += "{" + strings.Join(attributes, ",") + "}"
		}
		collected = append(collected, name)
	}
	file, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(taskpool\.[a-z_.]+(?:\{[a-z,]+\})?)(?:, (taskpool\.[a-z]+))? +(?:\{[a-z]+\}|s|1)(?: |$)`).FindAllStringSubmatch(string(file), -1) {
		if listed = append(listed, m[1]); m[2] != "" {
			listed = append(listed, m[2])
		}
	}
	require.ElementsMatch(t, collected, listed)
}

func TestSpansNameTheJob(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c, taskpool.WithWorkers(1))
	var reg jobs.Registry
	resize := jobs.Register(&reg, "resize", func(_ context.Context, m jobs.Meta, _ int) error {
		if m.Attempt == 1 {
			return errors.New("not yet")
		}
		return nil
	}, jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }})
	q := jobs.Local(p, &reg)
	id, err := resize.Enqueue(t.Context(), q, 1, nil)
	require.NoError(t, err)
	require.NoError(t, q.Stop(t.Context()))
	spans := b.spans.GetSpans()
	require.Len(t, spans, 2)
	for i, s := range spans {
		require.Equal(t, "resize", attributesOf(s)["taskpool.job.kind"])
		require.Equal(t, string(id), attributesOf(s)["taskpool.job.id"])
		require.Equal(t, fmt.Sprint(i+1), attributesOf(s)["taskpool.job.attempt"])
	}
}

func TestSpansAreChildrenIfSoWanted(t *testing.T) {
	c, b := newCollector(t, otelpool.WithChildSpans())
	p := newPool(t, c)
	ctx, submitter := b.tracers.Tracer("test").Start(context.Background(), "request")
	submit(t, ctx, p, taskpool.Task{})
	shutdown(t, p)
	spans := b.spans.GetSpans()
	require.Len(t, spans, 1)
	require.Equal(t, submitter.SpanContext(), spans[0].Parent)
	require.Empty(t, spans[0].Links)
}

func TestTasksOfTasksAreLinkedToTheSpanOfTheAttempt(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c, taskpool.WithWorkers(1))
	submit(t, context.Background(), p, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error {
		h, err := p.Submit(ctx, taskpool.Task{Name: "child", Run: func(context.Context) error { return nil }})
		if err != nil {
			return err
		}
		return h.Wait(ctx)
	}})
	shutdown(t, p)
	byName := make(map[string]tracetest.SpanStub)
	for _, s := range b.spans.GetSpans() {
		byName[s.Name] = s
	}
	require.Len(t, byName, 2)
	require.Len(t, byName["child"].Links, 1)
	require.Equal(t, byName["parent"].SpanContext, byName["child"].Links[0].SpanContext)
}

func TestTextIsExportedInUTF8(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c)
	submit(t, context.Background(), p, taskpool.Task{Name: "\xe4", Run: func(context.Context) error { return errors.New("\xff") }})
	shutdown(t, p)
	s := b.spans.GetSpans()[0]
	require.Equal(t, "\uFFFD", s.Name)
	require.Equal(t, "\uFFFD", s.Status.Description)
	for _, kv := range s.Events[0].Attributes {
		require.NotContains(t, kv.Value.AsString(), "\xff", kv.Key)
	}
}

func TestFunctionsCountAsOftenAsTheyStandFor(t *testing.T) {
	c, b := newCollector(t, otelpool.WithGoEvery(2))
	p := newPool(t, c, taskpool.WithName("a"))
	for range 4000 {
		require.NoError(t, p.Go(taskpool.Low, func() {}))
	}
	shutdown(t, p)
	got := b.collect()
	require.EqualValues(t, 4000, got.sum("taskpool.attempts.started", "a"))
	// Of 4000 draws 2000 ± 32 are right, so this is 15 standard deviations.
	require.InDelta(t, 4000, got.sum("taskpool.queue.wait", "a"), 1000)
	require.Equal(t, got.values("taskpool.queue.wait", "taskpool.priority"), got.values("taskpool.attempt.duration", "taskpool.priority"))
	require.Empty(t, b.spans.GetSpans(), "functions have no spans")
}

func TestPrioritiesBeyond25ShareOne(t *testing.T) {
	c, b := newCollector(t, otelpool.WithPriorities(29))
	p := newPool(t, c, taskpool.WithName("a"))
	for _, pr := range priorities(30) {
		submit(t, context.Background(), p, taskpool.Task{Priority: pr})
	}
	shutdown(t, p)
	got := b.collect()
	for _, name := range []string{"taskpool.attempts.started", "taskpool.queue.wait", "taskpool.attempt.duration"} {
		values := got.values(name, "taskpool.priority")
		require.Len(t, values, 26, name)
		require.EqualValues(t, 1, values["29"], name)
		require.EqualValues(t, 5, values["other"], name)
	}
}

// So that values of one collection add up while the pool is at work.
func TestEachCollectionAddsUpUnderLoad(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(3), taskpool.WithCapacity(20, taskpool.OverflowShed))
	var (
		load     sync.WaitGroup
		attempts atomic.Int64 // of tasks
	)
	for range 2 {
		load.Go(func() {
			for i := range 500 {
				pr := taskpool.Priority(i % 5)
				if i%3 == 0 {
					_ = p.Go(pr, func() {})
					continue
				}
				_, _ = p.Submit(context.Background(), taskpool.Task{
					Priority: pr,
					Retry:    taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }},
					Run: func(ctx context.Context) error {
						attempts.Add(1)
						if i%7 == 0 {
							return errors.New("failed")
						}
						return taskpool.Yield(ctx)
					},
				})
			}
		})
	}
	for range 50 {
		got := b.collect()
		require.Equal(t, got.sum("taskpool.tasks.submitted", "a"), got.sum("taskpool.tasks.finished", "a")+got.sum("taskpool.tasks.unfinished", "a"))
		require.Equal(t, got.values("taskpool.tasks.unfinished", "taskpool.state")["queued"], got.sum("taskpool.queue.depth", "a"))
	}
	load.Wait()
	shutdown(t, p)
	got := b.collect()
	require.Zero(t, got.sum("taskpool.tasks.unfinished", "a"))
	require.Equal(t, got.sum("taskpool.attempts.started", "a"), got.sum("taskpool.attempts.ended", "a"))
	ids := make(map[string]bool)
	for _, s := range b.spans.GetSpans() {
		attrs := attributesOf(s)
		id := attrs["taskpool.task.id"] + "/" + attrs["taskpool.attempt"]
		require.False(t, ids[id], "a span for each attempt")
		ids[id] = true
	}
	require.Len(t, ids, int(attempts.Load()))
}

func TestTasksThatExpireAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1))
		p.Pause()
		_, err := p.Submit(t.Context(), taskpool.Task{MaxWait: time.Second, Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		got := b.collect()
		require.EqualValues(t, 1, got.sum("taskpool.tasks.expired", "a"))
		require.Equal(t, map[string]float64{"medium": 1}, got.values("taskpool.queue.shed_wait", "taskpool.priority"))
		p.Resume()
		shutdown(t, p)
	})
}

func TestRetriesBeyondTheBudgetAreCounted(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithRetryBudget(0, 0))
	h, err := p.Submit(t.Context(), taskpool.Task{
		Run:   func(context.Context) error { return errors.New("failed") },
		Retry: taskpool.Retry{MaxAttempts: 2},
	})
	require.NoError(t, err)
	require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrRetryBudget)
	got := b.collect()
	require.EqualValues(t, 1, got.sum("taskpool.retries_denied", "a"))
	require.Zero(t, got.sum("taskpool.retries", "a"))
	shutdown(t, p)
}

func TestPriorityThatIsLateIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithQueueDelay(time.Second))
		for range 60 { // twice as many as get done
			require.NoError(t, p.Go(taskpool.Low, func() { time.Sleep(time.Second) }))
			time.Sleep(time.Second / 2)
		}
		synctest.Wait() // a task ends at this very instant, and its worker sheds the next ones
		require.EqualValues(t, 1, b.collect().sum("taskpool.queue.late", "a"))
		require.NoError(t, p.WaitIdle(t.Context()))
		require.EqualValues(t, 0, b.collect().sum("taskpool.queue.late", "a"))
		shutdown(t, p)
	})
}

func TestCallsThatJoinAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"))
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				_, err := taskpool.Join(t.Context(), p, "key", taskpool.Task{}, func(context.Context) (int, error) { time.Sleep(time.Second); return 0, nil })
				assert.NoError(t, err)
			})
		}
		all.Wait()
		require.EqualValues(t, 2, b.collect().sum("taskpool.joined", "a"))
		shutdown(t, p)
	})
}

func TestTasksThatWaitForOthersAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"))
		release := make(chan struct{})
		h, err := p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { <-release; return nil }})
		require.NoError(t, err)
		_, err = p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { return nil }, After: []*taskpool.Handle{h}})
		require.NoError(t, err)
		require.EqualValues(t, 1, b.collect().sum("taskpool.tasks.dependent", "a"))
		close(release)
		synctest.Wait()
		require.EqualValues(t, 0, b.collect().sum("taskpool.tasks.dependent", "a"))
		shutdown(t, p)
	})
}

func TestOrphansAndStandingStillAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		release := make(chan struct{})
		_, err := p.Submit(t.Context(), taskpool.Task{Run: func(ctx context.Context) error {
			_, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { return nil }})
			<-release
			return err
		}})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		got := b.collect()
		require.EqualValues(t, 1, got.sum("taskpool.stalled", "a"))
		require.EqualValues(t, 0, got.sum("taskpool.tasks.orphaned", "a"))
		close(release)
		synctest.Wait()
		got = b.collect()
		require.EqualValues(t, 0, got.sum("taskpool.stalled", "a"))
		require.EqualValues(t, 1, got.sum("taskpool.tasks.orphaned", "a"))
		shutdown(t, p)
	})
}

// hostFlows submits tasks of flows with limit 1 to a pool with 2 workers, one after the other,
// and lets a minute pass: of a one runs and two are held back, of other one runs, of b one
// waits for a worker, as does a task without a flow. They run until the test is over.
func hostFlows(t *testing.T, c *otelpool.Collector) {
	p := newPool(t, c, taskpool.WithName("hosts"), taskpool.WithWorkers(2), taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
		if flow == "" {
			return taskpool.FlowPolicy{}
		}
		return taskpool.FlowPolicy{Limit: 1}
	}))
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for _, flow := range []string{"a", "a", "a", "other", "b", ""} {
		pr := taskpool.Medium
		if flow == "a" {
			pr = taskpool.High
		}
		_, err := p.Submit(context.Background(), taskpool.Task{Flow: flow, Priority: pr, Run: func(context.Context) error { <-release; return nil }})
		require.NoError(t, err)
		synctest.Wait()
	}
	time.Sleep(time.Minute)
}

func TestFlowsAreNoAttributeUnlessListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		hostFlows(t, c)
		got := b.collect()
		require.EqualValues(t, 2, got.sum("taskpool.tasks.held_back", "hosts"))
		require.Equal(t, map[string]float64{"high": 0, "medium": 60}, got.values("taskpool.queue.oldest", "taskpool.priority"),
			"without the time held back")
		for name, points := range got {
			require.NotContains(t, name, "flow")
			for _, p := range points {
				require.False(t, p.attrs.HasValue("taskpool.flow"), name)
			}
		}
	})
}

func TestEachListedFlowIsShownAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t, otelpool.WithFlowNames("a", "nobody", "", "other", "a"))
		hostFlows(t, c)
		got := b.collect()
		for name, want := range map[string]map[string]float64{
			"taskpool.flow.queue.depth":     {"a": 2, "other": 0, "nobody": 0, "": 1},
			"taskpool.flow.tasks.held_back": {"a": 2, "other": 0, "nobody": 0, "": 0},
			"taskpool.flow.tasks.running":   {"a": 1, "other": 1, "nobody": 0, "": 0},
			"taskpool.flow.queue.oldest":    {"a": 60, "other": 0, "nobody": 0, "": 60},
		} {
			require.Len(t, got[name], len(want), name)
			require.Equal(t, want, got.values(name, "taskpool.flow"), name)
		}
	})
}

func TestShutdownEndsTheSpansOfWhatItCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithHooks(c.Hooks()), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		release := make(chan struct{})
		_, err = p.Submit(context.Background(), taskpool.Task{Run: func(context.Context) error { <-release; return nil }})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.Error(t, p.Shutdown(ctx))
		require.Len(t, b.spans.GetSpans(), 1)
		require.Equal(t, codes.Error, b.spans.GetSpans()[0].Status.Code)
		close(release)
	})
}

func TestDurationsHaveTheSpanAsExemplar(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c)
	submit(t, context.Background(), p, taskpool.Task{})
	shutdown(t, p)
	var all metricdata.ResourceMetrics
	require.NoError(t, b.reader.Collect(context.Background(), &all))
	span := b.spans.GetSpans()[0].SpanContext.SpanID()
	for _, m := range all.ScopeMetrics[0].Metrics {
		if m.Name == "taskpool.attempt.duration" {
			exemplars := m.Data.(metricdata.Histogram[float64]).DataPoints[0].Exemplars
			require.Len(t, exemplars, 1)
			require.Equal(t, span[:], exemplars[0].SpanID)
			return
		}
	}
	t.Fatal("no durations")
}

func ExampleCollector() {
	exporter := tracetest.NewInMemoryExporter() // in a program, one of OTLP
	c, err := otelpool.New(otelpool.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))))
	if err != nil {
		panic(err)
	}
	defer c.Close()
	pool, err := taskpool.New(taskpool.WithName("mail"), taskpool.WithHooks(c.Hooks()))
	if err != nil {
		panic(err)
	}
	if err := c.Watch(pool); err != nil {
		panic(err)
	}
	_, _ = pool.Submit(context.Background(), taskpool.Task{
		Name: "letter",
		Run: func(ctx context.Context) error {
			trace.SpanFromContext(ctx).AddEvent("sent")
			return nil
		},
	})
	_ = pool.Shutdown(context.Background())

	span := exporter.GetSpans()[0]
	fmt.Println(span.Name, span.Attributes[0].Key == attribute.Key("taskpool.pool"), span.Events[0].Name)
	// Output:
	// letter true sent
}
