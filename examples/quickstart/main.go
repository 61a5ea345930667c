// Quickstart runs eight tasks on three workers and tells what happens to them:
// the urgent ones start first, a long one gives way to one that comes later, one
// is retried until it succeeds, one panics and costs its worker, and the pool
// does not end before all have settled.
//
//	go run ./examples/quickstart
//
// takes less than a second.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"sync/atomic"
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

	var refused error
	submit := func(task taskpool.Task) *taskpool.Handle {
		handle, err := pool.Submit(context.Background(), task)
		refused = errors.Join(refused, err)
		return handle
	}

	// Low_1 starts at once. It works in slices, with a safe point between two.
	var gaveWay atomic.Bool
	started := make(chan struct{})
	low := submit(taskpool.Task{Name: "Low_1", Priority: taskpool.Low, Run: func(ctx context.Context) error {
		close(started)
		for slice := 1; ; slice++ {
			if err := work(20 * time.Millisecond)(ctx); err != nil || slice == 3 {
				return err
			}
			if err := taskpool.Yield(ctx); err != nil {
				return err
			}
			if gaveWay.Swap(false) {
				out.Printf("resumed    Low_1, %d of 3 slices done", slice)
			}
		}
	}})

	<-started

	// Nothing starts before Resume. So the order of the starts is that of the
	// priorities: Medium_1 comes first here, and third there.
	pool.Pause()
	submit(taskpool.Task{Name: "Medium_1", Run: work(120 * time.Millisecond)})
	submit(taskpool.Task{Name: "High_1", Priority: taskpool.High, Run: work(100 * time.Millisecond)})
	submit(taskpool.Task{Name: "Medium_2", Run: work(90 * time.Millisecond)})
	submit(taskpool.Task{Name: "High_2", Priority: taskpool.High, Run: work(130 * time.Millisecond)})
	submit(taskpool.Task{Name: "Flaky", Run: flaky, Retry: taskpool.Retry{MaxAttempts: 3, Backoff: backoff}})
	submit(taskpool.Task{Name: "Broken", Run: func(context.Context) error { panic("out of luck") }})
	pool.Resume()

	// Now all workers are busy, and something urgent comes up. It starts at the
	// next safe point of Low_1, which goes on when no other task waits.
	submit(taskpool.Task{Name: "High_3", Priority: taskpool.High, Run: func(ctx context.Context) error {
		if low.State() == taskpool.StateParked {
			gaveWay.Store(true)
			out.Print("yielded    Low_1, to High_3")
		}
		return work(40 * time.Millisecond)(ctx)
	}})

	// A graceful shutdown: no task is accepted from here on, and those accepted
	// are finished, retries included. Should that take longer than ctx lasts,
	// the rest is canceled and the error lists it.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = errors.Join(refused, pool.Shutdown(ctx))

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
