package browsertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

// busy runs a pool that is well and has plenty to do until the test ends: twelve workers
// at some nine tenths of what they can do, with tasks that wait, run, are parked and are
// delayed, and now and then a failure.
func busy(t *testing.T, d *dashboard.Dashboard) {
	p, err := taskpool.New(taskpool.WithName("orders"), taskpool.WithWorkers(12),
		taskpool.WithCapacity(500, taskpool.OverflowShed),
		taskpool.WithHooks(d.Hooks()), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	require.NoError(t, d.Watch(p))
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		stop()
		wg.Wait()
		_ = p.Shutdown(context.Background()) // with ctx, all tasks have ended
	})
	submit := func(task taskpool.Task) {
		if _, err := p.Submit(ctx, task); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}
	pause := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(d):
				return nil
			}
		}
	}
	const long = time.Hour

	// Three that take long, two that wait for others, and three that are due later.
	submit(taskpool.Task{Name: "reindex catalog", Run: pause(long), Timeout: 3 * time.Minute})
	submit(taskpool.Task{Name: "nightly report", Run: pause(long), Timeout: 4 * time.Minute, Priority: taskpool.Low})
	submit(taskpool.Task{Name: "import supplier feed", Run: pause(long)})
	blocked := func(ctx context.Context) error {
		return taskpool.Block(ctx, func() error { return pause(long)(ctx) })
	}
	submit(taskpool.Task{Name: "await payment provider", Run: blocked, Timeout: 5 * time.Minute, Priority: taskpool.High})
	submit(taskpool.Task{Name: "sync warehouse", Run: blocked})
	retry := func(d time.Duration) taskpool.Retry {
		return taskpool.Retry{MaxAttempts: 5, Backoff: func(int) time.Duration { return d }}
	}
	submit(taskpool.Task{Name: "webhook acme.example", Retry: retry(2 * time.Minute), Priority: taskpool.High, Run: func(context.Context) error {
		return errors.New("POST https://acme.example/hook: 503 Service Unavailable")
	}})
	submit(taskpool.Task{Name: "fetch exchange rates", Retry: retry(3 * time.Minute), Run: func(context.Context) error {
		return fmt.Errorf("reading the answer: %w", io.ErrUnexpectedEOF)
	}})
	submit(taskpool.Task{Name: "send newsletter", NotBefore: time.Now().Add(25 * time.Minute), Run: pause(0)})

	// The many. Urgent ones come in waves, on whose crests the others wait.
	began := time.Now()
	stream := func(name string, pr taskpool.Priority, perSecond float64, takes time.Duration, swing float64) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(pr)))
			for ctx.Err() == nil {
				submit(taskpool.Task{Name: name, Priority: pr, Run: pause(time.Duration(random.ExpFloat64() * float64(takes)))})
				rate := perSecond * (1 + swing*math.Sin(time.Since(began).Seconds()/2.2))
				_ = pause(time.Duration(random.ExpFloat64() / rate * float64(time.Second)))(ctx)
			}
		})
	}
	stream("render page", taskpool.High, 160, 25*time.Millisecond, .75)
	stream("resize photo", taskpool.Medium, 36, 60*time.Millisecond, .3)
	stream("archive order", taskpool.Low, 12, 160*time.Millisecond, 0)

	// What went wrong, each once.
	for _, fail := range []struct {
		at time.Duration
		taskpool.Task
	}{
		{4 * time.Second, taskpool.Task{Name: "parse order 8812", Run: func(context.Context) error {
			var lines []string
			return errors.New(lines[2])
		}}},
		{23 * time.Second, taskpool.Task{Name: "charge card 4431", Timeout: 400 * time.Millisecond, Run: pause(long)}},
		{41 * time.Second, taskpool.Task{Name: "ship order 8801", Run: func(context.Context) error {
			return errors.New("address is incomplete: no postal code")
		}}},
	} {
		fail.NotBefore, fail.Priority = began.Add(fail.at), taskpool.High
		submit(fail.Task)
	}
}
