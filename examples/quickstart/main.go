// Quickstart runs seven tasks on three workers and tells what happens to them:
// the urgent ones start first, one is retried until it succeeds, one panics and
// costs its worker, and the pool does not end before all have settled.
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/taskpool-go/taskpool"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(w io.Writer) error {
	out := log.New(w, "", 0) // hooks are called on many goroutines; a Logger may be, too
	pool, err := taskpool.New(
		taskpool.WithWorkers(3),
		taskpool.WithHooks(narrate(out)),
		taskpool.WithLogger(slog.New(slog.DiscardHandler)), // the hooks say it all
	)
	if err != nil {
		return err
	}

	// Nothing starts before Resume. So the order of the starts is that of the
	// priorities: Low_1 comes third here, and last there.
	pool.Pause()
	for _, task := range []taskpool.Task{
		{Name: "High_1", Priority: taskpool.High, Run: work(60 * time.Millisecond)},
		{Name: "Medium_1", Priority: taskpool.Medium, Run: work(100 * time.Millisecond)},
		{Name: "Low_1", Priority: taskpool.Low, Run: work(60 * time.Millisecond)},
		{Name: "High_2", Priority: taskpool.High, Run: work(80 * time.Millisecond)},
		{Name: "Medium_2", Priority: taskpool.Medium, Run: work(70 * time.Millisecond)},
		{Name: "Flaky", Run: flaky, Retry: taskpool.Retry{MaxAttempts: 3, Backoff: backoff}},
		{Name: "Broken", Run: func(context.Context) error { panic("out of luck") }},
	} {
		// The handle that Submit returns is there to wait for one task, or to
		// cancel it; Shutdown below waits for all.
		if _, err := pool.Submit(context.Background(), task); err != nil {
			return errors.Join(err, pool.Shutdown(context.Background()))
		}
	}
	pool.Resume()

	// A graceful shutdown: no task is accepted from here on, and those accepted
	// are finished, retries included. Should that take longer than ctx lasts,
	// the rest is canceled and the error lists it.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = pool.Shutdown(ctx)

	s := pool.Stats()
	out.Printf("%d tasks: %d succeeded, %d failed", s.Submitted, s.Succeeded, s.Failed)
	out.Printf("%d attempts: %d retried, %d panicked, %d worker replaced", s.Attempts, s.Retries, s.Panics, s.Replaced)
	return err
}

// work returns a task that takes d, or less if its context ends before.
func work(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// flaky is a task that succeeds at the third attempt.
func flaky(ctx context.Context) error {
	if task, _ := taskpool.Current(ctx); task.Attempt < 3 {
		return errors.New("connection refused")
	}
	return nil
}

// backoff waits longer after each attempt, 40 ms and then 80.
func backoff(attempt int) time.Duration { return time.Duration(attempt) * 40 * time.Millisecond }

// narrate returns hooks that print what happens, a line for each event.
func narrate(out *log.Logger) taskpool.Hooks {
	return taskpool.Hooks{
		Started: func(e taskpool.TaskEvent) {
			out.Printf("started    %s, attempt %d", e.Task.Name, e.Task.Attempt)
		},
		Retried: func(e taskpool.TaskEvent) {
			out.Printf("retry      %s in %v: %v", e.Task.Name, e.Delay, e.Err)
		},
		Finished: func(e taskpool.TaskEvent) {
			line := fmt.Sprintf("%-9v  %s", e.Task.State, e.Task.Name)
			if e.Err != nil {
				line += ": " + e.Err.Error()
			}
			out.Print(line)
		},
		WorkerReplaced: func(e taskpool.WorkerEvent) {
			out.Printf("replaced   worker %d by worker %d: %s", e.Worker, e.Replacement, e.Reason)
		},
	}
}
