package otelpool_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/metrics/otelpool"
)

// A tally counts spans. As a sampler it takes its time before each.
type tally struct {
	sdktrace.SpanProcessor
	delay          func()
	started, ended atomic.Int64
}

func (y *tally) OnStart(context.Context, sdktrace.ReadWriteSpan) { y.started.Add(1) }
func (y *tally) OnEnd(sdktrace.ReadOnlySpan)                     { y.ended.Add(1) }

func (y *tally) Description() string { return "tally" }
func (y *tally) ShouldSample(sdktrace.SamplingParameters) sdktrace.SamplingResult {
	y.delay()
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
}

func (y *tally) provider() trace.TracerProvider {
	return sdktrace.NewTracerProvider(sdktrace.WithSampler(y), sdktrace.WithSpanProcessor(y))
}

// Whatever is slow, so that attempts are given up before, between and after what the
// collector is told of them.
func TestNothingIsKeptOfTasksThatAreOver(t *testing.T) {
	const tasks = 30
	nothing := func() {}
	long := func() { time.Sleep(10 * time.Second) }
	atRandom := func() { time.Sleep(time.Duration(rand.IntN(4)) * time.Second) }
	for name, slow := range map[string]struct{ started, around, sampler, failed, finished, run func() }{
		"nothing":             {nothing, nothing, nothing, nothing, nothing, nothing},
		"Started":             {long, nothing, nothing, nothing, nothing, nothing},
		"Around":              {nothing, long, nothing, nothing, nothing, nothing},
		"sampler":             {nothing, nothing, long, nothing, nothing, nothing},
		"Run":                 {nothing, nothing, nothing, nothing, nothing, long},
		"Run, and its events": {nothing, nothing, nothing, long, long, long},
		"all, at random":      {atRandom, atRandom, atRandom, atRandom, atRandom, atRandom},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				y := &tally{delay: slow.sampler}
				c, b := newCollector(t, otelpool.WithTracerProvider(y.provider()))
				p, err := taskpool.New(
					taskpool.WithName("a"), taskpool.WithWorkers(3), taskpool.WithHangGrace(time.Second),
					taskpool.WithLogger(slog.New(slog.DiscardHandler)),
					taskpool.WithHooks(taskpool.Hooks{
						Started:       func(taskpool.TaskEvent) { slow.started() },
						AttemptFailed: func(taskpool.TaskEvent) { slow.failed() },
						Finished:      func(taskpool.TaskEvent) { slow.finished() },
						Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
							slow.around()
							return run(ctx)
						},
					}),
					taskpool.WithHooks(c.Hooks()))
				require.NoError(t, err)
				require.NoError(t, c.Watch(p))
				for i := range tasks {
					h, err := p.Submit(context.Background(), taskpool.Task{
						Timeout: time.Second,
						Retry: taskpool.Retry{
							MaxAttempts: 2,
							Backoff:     func(int) time.Duration { return time.Second },
							If:          func(error) bool { return i%2 == 0 },
						},
						Run: func(context.Context) error {
							slow.run()
							if i%3 == 0 {
								return errors.New("failed")
							}
							return nil
						},
					})
					require.NoError(t, err)
					if i%5 == 0 {
						time.AfterFunc(3*time.Second, func() { h.Cancel(nil) }) // some in the wait for their retry
					}
				}
				require.NoError(t, p.Shutdown(context.Background()))
				time.Sleep(time.Hour) // what was given up returns
				require.Zero(t, c.Kept())
				require.Equal(t, y.started.Load(), y.ended.Load())
				s := p.Stats()
				if name != "Started" { // then all are given up before they have a span
					require.Positive(t, y.started.Load())
				}
				require.Equal(t, name == "nothing", s.Hangs == 0)
				require.EqualValues(t, s.Attempts, b.collect().sum("taskpool.attempt.duration", "a"))
			})
		})
	}
}

// As a hook in front may have taken its time.
func TestEventsOfTasksThatAreOverAreForgotten(t *testing.T) {
	c, b := newCollector(t)
	p := newPool(t, c)
	var late taskpool.TaskEvent
	h, err := p.Submit(context.Background(), taskpool.Task{Run: func(ctx context.Context) error {
		late.Task, _ = taskpool.Current(ctx)
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, h.Wait(context.Background()))
	shutdown(t, p)
	hooks := c.Hooks()
	hooks.Started(late)
	ran := false
	require.NoError(t, hooks.Around(context.Background(), late.Task, func(context.Context) error { ran = true; return nil }))
	require.True(t, ran)
	require.Zero(t, c.Kept())
	require.Len(t, b.spans.GetSpans(), 1)
}

// A task that waits for another may return that one's error, and it is its own error then.
func TestErrorOfAnotherTaskIsAnErrorOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		release := make(chan struct{})
		for _, child := range []taskpool.Task{
			{Name: "panic", Run: func(context.Context) error { panic("boom") }},
			{Name: "timeout", Timeout: time.Second, Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
			{Name: "hung", Timeout: time.Second, Run: func(context.Context) error { <-release; return nil }},
		} {
			submit(t, context.Background(), p, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error {
				h, err := p.Submit(ctx, child)
				if err != nil {
					return err
				}
				return h.Wait(ctx)
			}})
		}
		close(release)
		shutdown(t, p)
		results := make(map[string]float64)
		for _, s := range b.spans.GetSpans() {
			result := attributesOf(s)["error.type"]
			if s.Name == "parent" {
				require.Equal(t, "error", result)
				require.Len(t, s.Events[0].Attributes, 2, "no stack: that is of the other task")
			} else {
				require.Equal(t, s.Name, result)
			}
			results[result]++
		}
		results["success"], results["interrupted"], results["goexit"] = 0, 0, 0
		require.Equal(t, b.collect().values("taskpool.attempts.ended", "taskpool.result"), results)
	})
}
