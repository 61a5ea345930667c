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

// busy runs a pool with something of everything until the test ends: urgent work that
// starves the rest, tasks that are parked, delayed, overdue and hung, and failures of
// each kind.
func busy(t *testing.T, d *dashboard.Dashboard) {
	quiet := taskpool.WithLogger(slog.New(slog.DiscardHandler))
	p, err := taskpool.New(quiet, taskpool.WithName("orders"), taskpool.WithHooks(d.Hooks()),
		taskpool.WithWorkers(12), taskpool.WithCapacity(120, taskpool.OverflowShed), taskpool.WithFairShare(0),
		taskpool.WithHangGrace(3*time.Second))
	require.NoError(t, err)
	require.NoError(t, d.Watch(p))
	ctx, stop := context.WithCancel(context.Background())
	release := make(chan struct{})
	var wg sync.WaitGroup
	t.Cleanup(func() {
		stop()
		wg.Wait()
		close(release)
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = p.Shutdown(end)
	})

	submit := func(task taskpool.Task) *taskpool.Handle {
		h, err := p.Submit(ctx, task)
		if err != nil && !errors.Is(err, taskpool.ErrFull) && ctx.Err() == nil {
			t.Error(err)
		}
		return h
	}
	pause := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(d):
				return nil
			}
		}
	}

	// Long ones, started first.
	submit(taskpool.Task{Name: "reindex catalog", Run: pause(time.Hour), Timeout: 3 * time.Minute})
	submit(taskpool.Task{Name: "nightly report", Run: pause(time.Hour), Timeout: 2 * time.Minute, Priority: taskpool.Low})
	submit(taskpool.Task{Name: "import supplier feed", Run: pause(time.Hour)})
	submit(taskpool.Task{Name: "convert invoice.pdf", Timeout: 20 * time.Second, Run: func(context.Context) error {
		<-release // whatever its context says
		return nil
	}})
	submit(taskpool.Task{Name: "sync warehouse", Run: func(ctx context.Context) error {
		return taskpool.Block(ctx, func() error { return pause(time.Hour)(ctx) })
	}})
	submit(taskpool.Task{Name: "await payment provider", Timeout: 5 * time.Minute, Priority: taskpool.High, Run: func(ctx context.Context) error {
		return taskpool.Block(ctx, func() error { return pause(time.Hour)(ctx) })
	}})
	later := func(d time.Duration) taskpool.Retry {
		return taskpool.Retry{MaxAttempts: 5, Backoff: func(n int) time.Duration { return time.Duration(n) * d }}
	}
	submit(taskpool.Task{Name: "send newsletter", NotBefore: time.Now().Add(25 * time.Minute), Run: pause(0)})
	submit(taskpool.Task{Name: "webhook acme.example", Retry: later(85 * time.Second), Priority: taskpool.High, Run: func(context.Context) error {
		return errors.New("POST https://acme.example/hook: 503 Service Unavailable")
	}})
	submit(taskpool.Task{Name: "fetch exchange rates", Retry: later(130 * time.Second), Run: func(context.Context) error {
		return fmt.Errorf("reading the answer: %w", io.ErrUnexpectedEOF)
	}})
	for range 40 {
		submit(taskpool.Task{Name: "compact archive", Priority: taskpool.Low, Run: pause(time.Second)})
	}

	// Short ones, so many that urgent ones wait most of the time, less urgent ones
	// always, and at times more than there is room for.
	wg.Go(func() {
		timer := time.NewTicker(2 * time.Millisecond)
		defer timer.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			waiting := make(map[taskpool.Priority]int)
			for _, w := range p.Stats().Waiting {
				waiting[w.Priority] = w.Queued
			}
			wave := math.Sin(float64(i)/1200) + rand.Float64()/2
			for range int(45*wave) - waiting[taskpool.High] {
				submit(taskpool.Task{Name: "render page", Priority: taskpool.High, Run: pause(time.Duration(rand.ExpFloat64() * 1e7))})
			}
			for range 25 - waiting[taskpool.Medium] {
				d := time.Duration(rand.ExpFloat64() * 3e7)
				_ = p.Go(taskpool.Medium, func() { time.Sleep(d) })
			}
		}
	})
	wg.Go(func() {
		fails := []taskpool.Task{
			{Name: "parse order 8812", Run: func(context.Context) error {
				var lines []string
				return errors.New(lines[2])
			}},
			{Name: "charge card", Timeout: 40 * time.Millisecond, Run: pause(time.Second)},
			{Name: "ship 8801", Run: func(context.Context) error { return errors.New("address is incomplete: no postal code") }},
		}
		for i := 0; ctx.Err() == nil; i++ {
			_ = pause(19 * time.Second / 4)(ctx)
			fail := fails[i%len(fails)]
			fail.Priority = taskpool.High
			submit(fail)
		}
	})
}
