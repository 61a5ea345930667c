package taskpool_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/taskpool-go/taskpool"
)

func Example() {
	ctx := context.Background()
	pool, err := taskpool.New(taskpool.WithWorkers(4))
	if err != nil {
		log.Fatal(err)
	}
	report, err := pool.Submit(ctx, taskpool.Task{
		Name:     "report",
		Priority: taskpool.High, // or Medium, Low, any int: the lower number runs first
		Timeout:  time.Minute,
		Retry:    taskpool.Retry{MaxAttempts: 3},
		Run:      writeReport, // a func(context.Context) error
	})
	if err != nil {
		log.Fatal(err) // not accepted: nothing was started
	}
	if err := pool.Go(taskpool.Low, tidyUp); err != nil { // a plain func(): no handle, no allocation
		log.Fatal(err)
	}
	fmt.Println("report:", report.Wait(ctx))
	fmt.Println("shutdown:", pool.Shutdown(ctx)) // finishes what was accepted
	// Output:
	// report: <nil>
	// shutdown: <nil>
}

func writeReport(context.Context) error { return nil }

func tidyUp() {}

// Many tasks at once: results in order, tasks that fail together, and one that is moved
// and canceled while it waits.
func Example_many() {
	ctx := context.Background()
	pool, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	words := []string{"most", "urgent", "first"}
	count := func(_ context.Context, word string) (int, error) { return len(word), nil }
	check := func(context.Context, string) error { return nil }

	// Results come in the order of the input, and only a few are kept at a time.
	for n, err := range taskpool.Map(ctx, pool, taskpool.Task{Priority: taskpool.Low}, slices.Values(words), count) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(n)
	}

	// The first error cancels the others, as with an errgroup.
	group := pool.Group(ctx, taskpool.Task{Name: "check", Timeout: time.Second})
	for _, word := range words {
		group.Go(func(ctx context.Context) error { return check(ctx, word) })
	}
	fmt.Println("checked:", group.Wait())

	// A task that waits can be moved to another priority, or canceled.
	pool.Pause()
	task, err := pool.Submit(ctx, taskpool.Task{Priority: taskpool.Low, Run: writeReport})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("moved:", task.SetPriority(taskpool.High))
	fmt.Println("canceled:", task.Cancel(errors.New("no longer needed")), task.Err())

	if err := pool.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 4
	// 6
	// 5
	// checked: <nil>
	// moved: true
	// canceled: true no longer needed
}

// Signals end a program in two steps: the first stops the intake and lets
// accepted tasks finish, a second one or half a minute cuts them off.
func Example_signals() {
	soft, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}

	// With soft itself, the first signal would cancel the task.
	ctx := context.WithoutCancel(soft)
	_, err = p.Submit(ctx, taskpool.Task{Name: "serve", Run: func(context.Context) error { return nil }})
	if err != nil {
		log.Print(err)
	}

	<-soft.Done()
	log.Print("finishing; press Ctrl-C again to force")
	hard, stopHard := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stopHard()
	hard, cancel := context.WithTimeout(hard, 30*time.Second)
	defer cancel()
	if err := p.Shutdown(hard); err != nil {
		log.Print(err)
	}
}

func ExamplePool_Go() {
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	var sum atomic.Int64
	for i := range 10 {
		if err := p.Go(taskpool.Low, func() { sum.Add(int64(i)) }); err != nil {
			log.Print(err) // ErrFull or ErrClosed: the function will not run
		}
	}
	if err := p.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	fmt.Println(sum.Load())
	// Output: 45
}

func ExamplePool_Submit() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	h, err := p.Submit(ctx, taskpool.Task{
		Name: "mail",
		Run:  func(context.Context) error { return errors.New("no such mailbox") },
	})
	if err != nil {
		log.Fatal(err) // not accepted: the pool is full or closed, ctx is over, or the Task is wrong
	}
	fmt.Println(h.Wait(ctx)) // the task's own error
	fmt.Println(h.State())
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// no such mailbox
	// failed
}

// The context given to Wait bounds the wait only; the task goes on.
func ExampleHandle_Wait() {
	ctx := context.Background()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	answer := make(chan string)
	h, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error {
		fmt.Println(<-answer)
		return nil
	}})
	if err != nil {
		log.Fatal(err)
	}

	impatient, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	fmt.Println(h.Wait(impatient))

	answer <- "here it is"
	fmt.Println(h.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// context deadline exceeded
	// here it is
	// <nil>
}

func ExamplePriority() {
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	p.Pause() // so that all of them wait before the first one starts
	for _, pr := range []taskpool.Priority{taskpool.Low, taskpool.Medium, 7, taskpool.High, -40} {
		if err := p.Go(pr, func() { fmt.Println(pr) }); err != nil {
			log.Print(err)
		}
	}
	p.Resume()
	if err := p.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	// Output:
	// -40
	// high
	// medium
	// low
	// 7
}

func ExamplePool_WaitIdle() {
	ctx := context.Background()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	var squares [3]int
	for i := range squares {
		if err := p.Go(taskpool.Medium, func() { squares[i] = i * i }); err != nil {
			log.Print(err)
		}
	}
	if err := p.WaitIdle(ctx); err != nil {
		log.Print(err)
	}
	fmt.Println(squares) // and the pool is ready for the next batch
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output: [0 1 4]
}

func ExampleRetry() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	attempt := 0
	h, err := p.Submit(ctx, taskpool.Task{
		Name: "upload",
		Retry: taskpool.Retry{
			MaxAttempts: 5,
			Backoff:     func(n int) time.Duration { return time.Duration(n) * time.Millisecond },
		},
		Run: func(context.Context) error {
			if attempt++; attempt < 3 {
				fmt.Println("attempt", attempt, "failed")
				return errors.New("connection reset")
			}
			fmt.Println("attempt", attempt, "succeeded")
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// attempt 1 failed
	// attempt 2 failed
	// attempt 3 succeeded
	// <nil>
}

// If picks the errors that are worth a retry.
func ExampleRetry_if() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	h, err := p.Submit(ctx, taskpool.Task{
		Retry: taskpool.Retry{
			MaxAttempts: 5,
			If:          func(err error) bool { return !errors.Is(err, os.ErrNotExist) },
		},
		Run: func(context.Context) error {
			fmt.Println("opening")
			return &os.PathError{Op: "open", Path: "data.csv", Err: os.ErrNotExist}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// opening
	// open data.csv: file does not exist
}

// A server that says when to come back is taken at its word.
func ExampleRetryAfter() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	status := []int{http.StatusTooManyRequests, http.StatusOK} // the server's answers
	h, err := p.Submit(ctx, taskpool.Task{
		Retry: taskpool.Retry{MaxAttempts: 3},
		Run: func(context.Context) error {
			code := status[0]
			status = status[1:]
			fmt.Println(http.StatusText(code))
			if code == http.StatusTooManyRequests {
				return taskpool.RetryAfter(time.Millisecond, errors.New("rate limited"))
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// Too Many Requests
	// OK
	// <nil>
}

// What all tasks need is down: they do not put a multiple of the load on it.
func ExampleWithRetryBudget() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithRetryBudget(0.1, 2), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	p.Pause()
	var last *taskpool.Handle
	for range 999 {
		last, err = p.Submit(ctx, taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 5, Backoff: func(int) time.Duration { return 0 }},
			Run:   func(context.Context) error { return errors.New("no route to host") },
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	p.Resume()
	err = last.Wait(ctx)
	fmt.Println(err)
	fmt.Println(errors.Is(err, taskpool.ErrRetryBudget))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	fmt.Println(p.Stats().Attempts, "attempts") // not 4,995
	// Output:
	// taskpool: no retry, as the retry budget is spent; the attempt's error: no route to host
	// true
	// 1115 attempts
}

func ExamplePermanent() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	h, err := p.Submit(ctx, taskpool.Task{
		Retry: taskpool.Retry{MaxAttempts: 5},
		Run: func(context.Context) error {
			fmt.Println("charging the card")
			return taskpool.Permanent(errors.New("card is stolen"))
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// charging the card
	// card is stolen
}

// A panic is an error of its task; the pool has all its workers again.
func ExamplePanicError() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	h, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { panic("out of cheese") }})
	if err != nil {
		log.Fatal(err)
	}
	if e, ok := errors.AsType[*taskpool.PanicError](h.Wait(ctx)); ok {
		fmt.Println("panicked:", e.Value)
		fmt.Println("has a stack:", len(e.Stack) > 0)
	}
	fmt.Println("workers:", p.Stats().Goroutines)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// panicked: out of cheese
	// has a stack: true
	// workers: 2
}

// A waiting task is gone at once; a running one has its context ended.
func ExampleHandle_Cancel() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	started := make(chan struct{})
	running, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}})
	if err != nil {
		log.Fatal(err)
	}
	waiting, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { return nil }})
	if err != nil {
		log.Fatal(err)
	}
	<-started

	waiting.Cancel(errors.New("the customer left"))
	fmt.Println(waiting.State(), "because", waiting.Err())
	running.Cancel(errors.New("the disk is full"))
	err = running.Wait(ctx)
	fmt.Println(running.State(), "because", err)
	fmt.Println("canceled twice:", running.Cancel(nil))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// canceled because the customer left
	// canceled because the disk is full
	// canceled twice: false
}

func ExampleHandle_SetPriority() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	p.Pause() // so that all of them wait before the first one starts
	handles := make(map[string]*taskpool.Handle)
	for _, name := range []string{"tick", "tock", "alarm"} {
		handles[name], err = p.Submit(ctx, taskpool.Task{
			Name: name,
			Run:  func(context.Context) error { fmt.Println(name); return nil },
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	if !handles["alarm"].SetPriority(taskpool.High) {
		fmt.Println("too late")
	}
	p.Resume()
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// alarm
	// tick
	// tock
}

func ExampleTask_timeout() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	h, err := p.Submit(ctx, taskpool.Task{
		Timeout: time.Millisecond,
		Run: func(ctx context.Context) error {
			<-ctx.Done() // a call that takes too long, and minds its context
			return ctx.Err()
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = h.Wait(ctx)
	fmt.Println(err)
	fmt.Println(errors.Is(err, taskpool.ErrTimeout), errors.Is(err, context.DeadlineExceeded))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// taskpool: attempt timed out
	// true true
}

func ExampleTask_notBefore() {
	ctx := context.Background()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	due := time.Now().Add(time.Millisecond)
	h, err := p.Submit(ctx, taskpool.Task{
		NotBefore: due,
		Run: func(context.Context) error {
			fmt.Println("too early:", time.Now().Before(due))
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// too early: false
	// <nil>
}

// A request that finds all workers busy is turned away, with the time after which it may come
// again.
func ExamplePool_ExpectedWait() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowReject))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.ExpectedWait(taskpool.High, "")) // begins the measurement
	release := make(chan struct{})
	work := func() { <-release }
	for range 3 {
		err := p.Go(taskpool.High, work)
		if errors.Is(err, taskpool.ErrFull) {
			after := p.ExpectedWait(taskpool.High, "") + time.Duration(rand.Int64N(int64(time.Second)))
			fmt.Println("Retry-After:", max(1, int(after.Round(time.Second).Seconds())))
		}
	}
	close(release)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// 0s
	// Retry-After: 1
}

// Reports come faster than they get done. Once each that starts has waited longer than the
// target for 20 targets, those that have waited longer than two are shed, so that the worker
// goes on with what somebody may still wait for.
func ExampleWithQueueDelay() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithQueueDelay(50*time.Microsecond)) // 50 ms, in earnest
	if err != nil {
		log.Fatal(err)
	}
	release := make(chan struct{})
	if err := p.Go(taskpool.High, func() { <-release }); err != nil { // keeps the worker busy
		log.Fatal(err)
	}
	var reports []*taskpool.Handle
	for range 4 {
		h, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error {
			time.Sleep(2 * time.Millisecond)
			return nil
		}})
		if err != nil {
			log.Fatal(err)
		}
		reports = append(reports, h)
	}
	time.Sleep(time.Millisecond)
	close(release)
	for _, h := range reports {
		err := h.Wait(ctx)
		fmt.Println(h.State(), err, errors.Is(err, taskpool.ErrExpired))
	}
	fmt.Println("expired:", p.Stats().Expired)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// succeeded <nil> false
	// shed taskpool: task waited too long in a queue that is late true
	// shed taskpool: task waited too long in a queue that is late true
	// shed taskpool: task waited too long in a queue that is late true
	// expired: 3
}

// Nobody waits for an answer for longer than a second, so after that the work need not begin.
func ExampleTask_maxWait() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	release := make(chan struct{})
	if err := p.Go(taskpool.High, func() { <-release }); err != nil { // keeps the worker busy
		log.Fatal(err)
	}
	h, err := p.Submit(ctx, taskpool.Task{
		MaxWait: time.Millisecond, // a second, in earnest
		Run:     func(context.Context) error { return errors.New("too late to run") },
	})
	if err != nil {
		log.Fatal(err)
	}
	err = h.Wait(ctx)
	fmt.Println(err)
	fmt.Println(errors.Is(err, taskpool.ErrExpired), h.State(), p.Stats().Expired)
	close(release)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// taskpool: task waited longer than its MaxWait
	// true shed 1
}

// Requests for the same page, at the same time, share one look-up. The one that is urgent makes
// it urgent, and whoever gives up leaves the others alone.
func ExampleJoin() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	const requests = 3
	lookUp := func(ctx context.Context) (string, error) {
		fmt.Println("look up")
		for p.Stats().Joined < requests-1 { // it takes its time
			time.Sleep(time.Millisecond)
		}
		return "a page", nil
	}
	var all sync.WaitGroup
	for range requests {
		all.Go(func() {
			page, err := taskpool.Join(ctx, p, "/index", taskpool.Task{Priority: taskpool.High}, lookUp)
			fmt.Println(page, err)
		})
	}
	all.Wait()
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// look up
	// a page <nil>
	// a page <nil>
	// a page <nil>
}

// A report comes after what it is made of. Neither it nor what is to come after it needs a
// goroutine until then.
func ExampleTask_after() {
	ctx := context.Background()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	say := func(name string) func(context.Context) error {
		return func(context.Context) error { fmt.Println(name); return nil }
	}
	submit := func(t taskpool.Task) *taskpool.Handle {
		h, err := p.Submit(ctx, t)
		if err != nil {
			log.Fatal(err)
		}
		return h
	}
	fetch := submit(taskpool.Task{Name: "fetch", Run: say("fetch")})
	count := submit(taskpool.Task{Name: "count", Run: say("count"), After: []*taskpool.Handle{fetch}})
	check := submit(taskpool.Task{Name: "check", After: []*taskpool.Handle{count},
		Run: func(context.Context) error { return errors.New("it does not add up") }})
	report := submit(taskpool.Task{Name: "report", Run: say("report"), After: []*taskpool.Handle{count, check}})
	mail := submit(taskpool.Task{Name: "mail", Run: say("mail"), After: []*taskpool.Handle{report}})

	err = mail.Wait(ctx)
	fmt.Println(err)
	var e *taskpool.DependencyError
	fmt.Println(errors.As(err, &e) && e.ID == check.ID(), mail.State())
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// fetch
	// count
	// taskpool: task 3 "check", which was to succeed before, has ended as failed: it does not add up
	// true canceled
}

// A server that answers "try again later" rather than keep its callers waiting.
func ExampleWithCapacity() {
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowReject))
	if err != nil {
		log.Fatal(err)
	}
	release := make(chan struct{})
	for i := range 3 { // one runs, one waits, one is too many
		err := p.Go(taskpool.Medium, func() { <-release })
		if errors.Is(err, taskpool.ErrFull) {
			fmt.Println(i, http.StatusText(http.StatusServiceUnavailable))
			continue
		}
		fmt.Println(i, http.StatusText(http.StatusAccepted))
	}
	close(release)
	if err := p.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	// Output:
	// 0 Accepted
	// 1 Accepted
	// 2 Service Unavailable
}

// With OverflowShed the less urgent work makes room for the more urgent.
func ExampleWithCapacity_shed() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
	if err != nil {
		log.Fatal(err)
	}
	release := make(chan struct{})
	run := func(context.Context) error { <-release; return nil }
	var handles []*taskpool.Handle
	for _, pr := range []taskpool.Priority{taskpool.Medium, taskpool.Low, taskpool.High} {
		h, err := p.Submit(ctx, taskpool.Task{Priority: pr, Run: run})
		if err != nil {
			log.Fatal(err)
		}
		handles = append(handles, h)
	}
	close(release)
	for _, h := range handles {
		err := h.Wait(ctx)
		fmt.Println(h.State(), errors.Is(err, taskpool.ErrShed))
	}
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// succeeded false
	// shed true
	// succeeded false
}

// One dispatch in three goes to the task that has waited longest.
func ExampleWithFairShare() {
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithFairShare(3))
	if err != nil {
		log.Fatal(err)
	}
	p.Pause() // so that all of them wait before the first one starts
	for _, pr := range []taskpool.Priority{taskpool.Low, taskpool.High} {
		for range 5 {
			if err := p.Go(pr, func() { fmt.Print(pr, " ") }); err != nil {
				log.Print(err)
			}
		}
	}
	p.Resume()
	if err := p.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	// Output: high high low high high low high low low low
}

// With aging, priorities are soft deadlines: here the number of seconds within
// which a task should start. An hourly report is put off for a click, but not
// for one that comes when the report has waited for an hour.
func ExampleWithAging() {
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithAging(time.Second))
	if err != nil {
		log.Fatal(err)
	}
	within := func(d time.Duration) taskpool.Priority { return taskpool.Priority(d / time.Second) }
	p.Pause() // so that all of them wait before the first one starts
	for _, d := range []time.Duration{time.Hour, 0, 10 * time.Minute} {
		if err := p.Go(within(d), func() { fmt.Println("should start within", d) }); err != nil {
			log.Print(err)
		}
	}
	p.Resume()
	if err := p.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	// Output:
	// should start within 0s
	// should start within 10m0s
	// should start within 1h0m0s
}

func ExampleWithHooks() {
	ctx := context.Background()
	p, err := taskpool.New(
		taskpool.WithWorkers(1), // so that the hooks are called one after the other
		taskpool.WithLogger(slog.New(slog.DiscardHandler)),
		taskpool.WithHooks(taskpool.Hooks{
			Started:  func(e taskpool.TaskEvent) { fmt.Println(e.Task.Name, "started, attempt", e.Task.Attempt) },
			Retried:  func(e taskpool.TaskEvent) { fmt.Println(e.Task.Name, "again in", e.Delay, "after:", e.Err) },
			Finished: func(e taskpool.TaskEvent) { fmt.Println(e.Task.Name, e.Task.State) },
		}))
	if err != nil {
		log.Fatal(err)
	}
	attempt := 0
	_, err = p.Submit(ctx, taskpool.Task{
		Name:  "sync",
		Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Millisecond }},
		Run: func(context.Context) error {
			if attempt++; attempt == 1 {
				return errors.New("locked")
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := p.Shutdown(ctx); err != nil { // waits for the hooks too; Handle.Wait does not
		log.Print(err)
	}
	// Output:
	// sync started, attempt 1
	// sync again in 1ms after: locked
	// sync started, attempt 2
	// sync succeeded
}

func ExampleCurrent() {
	ctx := context.Background()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	// A helper far down the call chain can tell for whom it works.
	query := func(ctx context.Context) error {
		if t, ok := taskpool.Current(ctx); ok {
			fmt.Printf("query for %s, priority %v, attempt %d\n", t.Name, t.Priority, t.Attempt)
		}
		return nil
	}
	_, err = p.Submit(ctx, taskpool.Task{Name: "report", Priority: taskpool.Low, Run: query})
	if err != nil {
		log.Fatal(err)
	}
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	_, inTask := taskpool.Current(ctx)
	fmt.Println("in a task:", inTask)
	// Output:
	// query for report, priority low, attempt 1
	// in a task: false
}

// On one worker these two tasks would wait for each other for ever.
// What tasks use is exchanged while none of them is at work.
func ExamplePool_WaitRunning() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(2))
	if err != nil {
		log.Fatal(err)
	}
	config := "old"
	started := make(chan struct{})
	use := func() { close(started); fmt.Println("a task uses the", config, "one") }
	if err := p.Go(taskpool.Medium, use); err != nil {
		log.Fatal(err)
	}
	<-started
	p.Pause()
	if err := p.Go(taskpool.High, func() { fmt.Println("another uses the", config, "one") }); err != nil { // waits in the pause
		log.Fatal(err)
	}
	if err := p.WaitRunning(ctx); err != nil {
		log.Fatal(err)
	}
	config = "new"
	p.Resume()
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// a task uses the old one
	// another uses the new one
}

// Without WithWorkers there are as many workers as GOMAXPROCS, also when that changes.
func ExampleWithWorkers_default() {
	ctx := context.Background()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Stats().Workers)
	runtime.GOMAXPROCS(3) // as the runtime does when the limit of the container is raised
	var meet sync.WaitGroup
	meet.Add(3)
	for range 3 { // they need three workers
		_, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error {
			meet.Done()
			meet.Wait()
			return nil
		}})
		if err != nil {
			log.Fatal(err)
		}
	}
	meet.Wait()
	fmt.Println(p.Stats().Workers)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// 2
	// 3
}

func ExamplePool_Resize() {
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	baton := make(chan string)
	for _, f := range []func(){
		func() { baton <- "passed on" },
		func() { fmt.Println(<-baton) },
	} {
		if err := p.Go(taskpool.Medium, f); err != nil {
			log.Print(err)
		}
	}
	if err := p.Resize(2); err != nil {
		log.Print(err)
	}
	if err := p.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	// Output: passed on
}

func ExamplePool_Tasks() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	running, release := make(chan struct{}, 3), make(chan struct{})
	for _, name := range []string{"first", "second", "third"} {
		_, err := p.Submit(ctx, taskpool.Task{Name: name, Run: func(context.Context) error {
			running <- struct{}{}
			<-release
			return nil
		}})
		if err != nil {
			log.Fatal(err)
		}
	}
	<-running
	for _, t := range p.Tasks(taskpool.StateRunning, taskpool.StateQueued) {
		fmt.Println(t.ID, t.Name, t.State)
	}
	close(release)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Unordered output:
	// 1 first running
	// 2 second queued
	// 3 third queued
}

func ExamplePool_Stats() {
	p, err := taskpool.New(taskpool.WithWorkers(2))
	if err != nil {
		log.Fatal(err)
	}
	p.Pause()
	for _, pr := range []taskpool.Priority{taskpool.Low, taskpool.High, taskpool.Low} {
		if err := p.Go(pr, func() {}); err != nil {
			log.Print(err)
		}
	}
	s := p.Stats()
	fmt.Println("queued:", s.Queued, "running:", s.Running)
	for _, w := range s.Waiting {
		fmt.Println(w.Priority, w.Queued)
	}
	if err := p.Shutdown(context.Background()); err != nil { // lifts the pause
		log.Print(err)
	}
	s = p.Stats()
	fmt.Println("submitted:", s.Submitted, "succeeded:", s.Succeeded)
	// Output:
	// queued: 3 running: 0
	// high 1
	// low 2
	// submitted: 3 succeeded: 3
}

// Health makes a probe that takes a server out of rotation while it shuts down,
// or when hung tasks hold its slots.
func ExamplePool_Health() {
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	ready := func(w http.ResponseWriter, _ *http.Request) {
		if err := p.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}
	probe := func() int {
		w := httptest.NewRecorder()
		ready(w, httptest.NewRequest(http.MethodGet, "/ready", nil))
		return w.Code
	}
	fmt.Println(probe(), p.Health())
	if err := p.Shutdown(context.Background()); err != nil {
		log.Print(err)
	}
	fmt.Println(probe(), p.Health())
	// Output:
	// 200 <nil>
	// 503 taskpool: pool is shut down
}

// The first signal ends the intake, the second one the patience. Two contexts
// stand for the signals here; with real ones see the package example Signals.
func ExamplePool_Shutdown() {
	soft, firstSignal := context.WithCancel(context.Background())
	hard, secondSignal := context.WithCancel(context.Background())
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	// The task has the values of soft, and does not end with it.
	running := make(chan struct{})
	h, err := p.Submit(context.WithoutCancel(soft), taskpool.Task{
		Run: func(ctx context.Context) error {
			close(running)
			<-ctx.Done() // would take hours
			return ctx.Err()
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	<-running
	firstSignal()
	<-soft.Done()
	fmt.Println("stopping, task is", h.State())
	go secondSignal() // while Shutdown waits for the task
	fmt.Println(p.Shutdown(hard))
	fmt.Println("task is", h.State(), "because:", h.Err())
	// Output:
	// stopping, task is running
	// taskpool: shutdown left 1 task unfinished (1 running): context canceled
	// task is canceled because: taskpool: pool is shut down
}

// A span stands for that of a tracing library.
type span struct {
	name  string
	start time.Time
}

type spanKey struct{}

func (s *span) end(err error) {
	elapsed := time.Since(s.start)
	fmt.Printf("%s: timed: %t, error: %v\n", s.name, elapsed >= 0, err)
}

// trace is a hook that makes a span of each attempt, and hands it to the task in its
// context. It ends the span also after a panic, which run returns as a *PanicError.
func trace(ctx context.Context, t taskpool.TaskInfo, run func(context.Context) error) error {
	s := &span{name: fmt.Sprintf("%s#%d", t.Name, t.Attempt), start: time.Now()}
	err := run(context.WithValue(ctx, spanKey{}, s))
	s.end(err)
	return err
}

// Around wraps each attempt, here in a span that the task can add to.
func ExampleHooks_around() {
	ctx := context.Background()
	p, err := taskpool.New(
		taskpool.WithWorkers(1),
		taskpool.WithHooks(taskpool.Hooks{Around: trace}),
		taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range []taskpool.Task{
		{Name: "index", Run: func(ctx context.Context) error {
			fmt.Println("inside", ctx.Value(spanKey{}).(*span).name)
			return nil
		}},
		{Name: "mail", Run: func(context.Context) error { return errors.New("bounced") }},
		{Name: "parse", Run: func(context.Context) error { panic("no input") }},
	} {
		if _, err := p.Submit(ctx, t); err != nil {
			log.Fatal(err)
		}
	}
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// inside index#1
	// index#1: timed: true, error: <nil>
	// mail#1: timed: true, error: bounced
	// parse#1: timed: true, error: taskpool: task panicked: no input
}

// save stands for what keeps a task for the next start of the program: a file,
// a table, another pool's Submit.
func save(u taskpool.Unfinished) {
	fmt.Printf("saved %s: was %v, %d attempts started\n", u.Task.Name, u.State, u.Attempt)
}

// Nothing that was accepted is lost without a word: a shutdown that runs out of
// patience lists the tasks that did not finish.
func ExampleShutdownError() {
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	running := make(chan struct{}, 3)
	untilCutOff := func(ctx context.Context) error {
		running <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	for _, name := range []string{"export", "import", "cleanup"} {
		if _, err := p.Submit(context.Background(), taskpool.Task{Name: name, Run: untilCutOff}); err != nil {
			log.Fatal(err)
		}
	}

	<-running // the first
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("host goes down"))
	err = p.Shutdown(ctx)
	fmt.Println(err)
	if e, ok := errors.AsType[*taskpool.ShutdownError](err); ok {
		for _, u := range e.Unfinished {
			save(u)
		}
	}
	// Unordered output:
	// taskpool: shutdown left 3 tasks unfinished (2 queued, 1 running): host goes down
	// saved export: was running, 1 attempts started
	// saved import: was queued, 0 attempts started
	// saved cleanup: was queued, 0 attempts started
}

// A long task lets more urgent work in between two of its steps.
func ExampleYield() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	started, arrived := make(chan struct{}), make(chan struct{})
	report := func(ctx context.Context) error {
		for page := 1; page <= 3; page++ {
			fmt.Println("page", page)
			if page == 1 { // so that the click comes during the first page
				close(started)
				<-arrived
			}
			if err := taskpool.Yield(ctx); err != nil {
				return err // canceled: time to stop
			}
		}
		return nil
	}
	_, err = p.Submit(ctx, taskpool.Task{Name: "report", Priority: taskpool.Low, Run: report})
	if err != nil {
		log.Fatal(err)
	}
	<-started
	if err := p.Go(taskpool.High, func() { fmt.Println("click") }); err != nil {
		log.Print(err)
	}
	close(arrived)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// page 1
	// click
	// page 2
	// page 3
}

// One worker keeps three downloads waiting for the network at the same time.
func ExampleBlock() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	var requests sync.WaitGroup
	requests.Add(3)
	fetch := func() error { // stands for a server that answers once all three have asked
		requests.Done()
		requests.Wait()
		return nil
	}
	pages := 0 // no lock: outside of Block only one task runs at a time
	for range 3 {
		_, err := p.Submit(ctx, taskpool.Task{Name: "download", Run: func(ctx context.Context) error {
			if err := taskpool.Block(ctx, fetch); err != nil {
				return err
			}
			pages++
			return nil
		}})
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	fmt.Println(pages, "pages")
	// Output: 3 pages
}

// Beat tells a task that is slow from one that is stuck.
func ExampleBeat() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	slow, err := p.Submit(ctx, taskpool.Task{Heartbeat: time.Minute, Run: func(ctx context.Context) error {
		for range 1000 {
			taskpool.Beat(ctx) // after each piece of work
		}
		return nil
	}})
	if err != nil {
		log.Fatal(err)
	}
	stuck, err := p.Submit(ctx, taskpool.Task{Heartbeat: time.Millisecond, Run: func(ctx context.Context) error {
		<-ctx.Done() // a call that never comes back, but minds its context
		return ctx.Err()
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("slow:", slow.Wait(ctx))
	fmt.Println("stuck:", stuck.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// slow: <nil>
	// stuck: taskpool: task hung
}

// A task that waits for its children gives them its slot: one worker is enough.
func ExamplePool_Submit_nested() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	build := func(ctx context.Context) error {
		var parts []*taskpool.Handle
		for _, name := range []string{"parse", "check"} {
			h, err := p.Submit(ctx, taskpool.Task{Name: name, Run: func(context.Context) error {
				fmt.Println(name)
				return nil
			}})
			if err != nil {
				return err
			}
			parts = append(parts, h)
		}
		for _, h := range parts {
			if err := h.Wait(ctx); err != nil { // ctx says whose slot it is
				return err
			}
		}
		fmt.Println("link")
		return nil
	}
	h, err := p.Submit(ctx, taskpool.Task{Name: "build", Run: build})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// parse
	// check
	// link
	// <nil>
}

// Goroutines that exist already, as those of requests do, take turns by urgency, each with its
// own work.
func ExamplePool_Do() {
	ctx := context.Background()
	var queued sync.WaitGroup
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{
		Queued: func(taskpool.TaskEvent) { queued.Done() },
	}))
	if err != nil {
		log.Fatal(err)
	}
	serve := func(page string, pr taskpool.Priority) {
		err := p.Do(ctx, taskpool.Task{Name: page, Priority: pr, MaxWait: time.Minute}, func(ctx context.Context) error {
			fmt.Println(page)
			return nil // or an error, which Do returns
		})
		if err != nil {
			log.Print(err) // too late, the pool is full or shut down, or the caller has gone
		}
	}
	p.Pause() // until all have asked
	var requests sync.WaitGroup
	queued.Add(3)
	requests.Go(func() { serve("report", taskpool.Low) })
	requests.Go(func() { serve("checkout", taskpool.High) })
	requests.Go(func() { serve("search", taskpool.Medium) })
	queued.Wait()
	p.Resume()
	requests.Wait()
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// checkout
	// search
	// report
}

func ExampleCall() {
	ctx := context.Background()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	n, err := taskpool.Call(ctx, p, taskpool.Task{Priority: taskpool.High, Timeout: time.Minute},
		func(context.Context) (int, error) { return strconv.Atoi("42") })
	fmt.Println(n, err)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output: 42 <nil>
}

func ExampleSubmitFunc() {
	ctx := context.Background()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	fut, err := taskpool.SubmitFunc(ctx, p, taskpool.Task{Name: "lookup"},
		func(context.Context) (string, error) { return "192.0.2.7", nil })
	if err != nil {
		log.Fatal(err)
	}
	// A Future is a Handle with a result. There is time for other things here.
	addr, err := fut.Get(ctx)
	fmt.Println(addr, err, fut.State())
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output: 192.0.2.7 <nil> succeeded
}

// An element that fails does not end the loop, and results keep their order.
func ExampleMap() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	words := slices.Values([]string{"7", "eight", "9", "10", "11"})
	parse := func(_ context.Context, s string) (int, error) { return strconv.Atoi(s) }
	for n, err := range taskpool.Map(ctx, p, taskpool.Task{Name: "parse"}, words, parse) {
		if err != nil {
			fmt.Println("skipped:", err)
			continue
		}
		fmt.Println(n)
		if n == 10 {
			break // cancels what is in flight
		}
	}
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// 7
	// skipped: strconv.Atoi: parsing "eight": invalid syntax
	// 9
	// 10
}

// The first error of a group ends the contexts of its other members.
func ExamplePool_Group() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	g := p.Group(ctx, taskpool.Task{Name: "copy"})
	copying := make(chan struct{})
	g.Go(func(ctx context.Context) error {
		close(copying)
		<-ctx.Done() // a long copy, which minds its context
		fmt.Println("stopped because:", context.Cause(ctx))
		return ctx.Err()
	})
	g.Go(func(context.Context) error {
		<-copying
		return errors.New("disk full")
	})
	fmt.Println("group:", g.Wait())
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// stopped because: disk full
	// group: disk full
}

// A limit keeps a group from taking more than its part of the pool: with 1, its
// members run one after the other.
func ExampleGroup_SetLimit() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(4))
	if err != nil {
		log.Fatal(err)
	}
	g := p.Group(ctx, taskpool.Task{Name: "migrate"})
	g.SetLimit(1)
	for step := range 3 {
		g.Go(func(context.Context) error { // waits while the limit is reached
			fmt.Println("step", step)
			return nil
		})
	}
	fmt.Println(g.Wait())
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// step 0
	// step 1
	// step 2
	// <nil>
}

// The first that is done comes first, and says which it is.
func ExampleMapUnordered() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(2))
	if err != nil {
		log.Fatal(err)
	}
	mirrors := []string{"slow.example", "quick.example"}
	answered := make(chan struct{})
	for r, err := range taskpool.MapUnordered(ctx, p, 0, taskpool.Task{Name: "ping"}, slices.Values(mirrors),
		func(ctx context.Context, mirror string) (string, error) {
			if mirror == "slow.example" {
				<-answered
			}
			return "pong from " + mirror, nil
		}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(r.Index, r.Value)
		if r.Index == 1 {
			close(answered)
		}
	}
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// 1 pong from quick.example
	// 0 pong from slow.example
}

// A cache that is refreshed as long as the pool is there.
func ExampleEvery() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	round, third := 0, make(chan struct{})
	refresh, err := taskpool.Every(ctx, p, time.Millisecond, taskpool.Task{ // a minute, in earnest
		Name:     "refresh",
		Priority: taskpool.Low,
		Run: func(context.Context) error {
			if round++; round <= 3 {
				fmt.Println("round", round)
			}
			if round == 3 {
				close(third)
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	<-third
	refresh.Stop()
	fmt.Println("stopped:", refresh.Wait(ctx))
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// round 1
	// round 2
	// round 3
	// stopped: <nil>
}

// Members that differ.
func ExampleGroup_GoTask() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	p.Pause()
	g := p.Group(ctx, taskpool.Task{})
	for _, part := range []taskpool.Task{
		{Name: "thumbnails", Priority: taskpool.Low},
		{Name: "page", Priority: taskpool.High, Timeout: time.Minute},
	} {
		part.Run = func(context.Context) error {
			fmt.Println(part.Name)
			return nil
		}
		g.GoTask(part)
	}
	p.Resume()
	fmt.Println(g.Wait())
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// page
	// thumbnails
	// <nil>
}

// A group that does all of its work, and says all that went wrong.
func ExampleGroup_CollectErrors() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	g := p.Group(ctx, taskpool.Task{Name: "validate"})
	g.CollectErrors()
	for line, text := range []string{"1", "two", "3", "four"} {
		g.Go(func(context.Context) error {
			if _, err := strconv.Atoi(text); err != nil {
				return fmt.Errorf("line %d: %q is not a number", line+1, text)
			}
			return nil
		})
	}
	fmt.Println(g.Wait())
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// line 2: "two" is not a number
	// line 4: "four" is not a number
}

// A reserved worker is there for urgent work while long tasks keep the others.
func ExampleWithReserved() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(2), taskpool.WithReserved(1, taskpool.High))
	if err != nil {
		log.Fatal(err)
	}
	release := make(chan struct{})
	var backups []*taskpool.Handle
	for range 2 {
		h, err := p.Submit(ctx, taskpool.Task{Name: "backup", Priority: taskpool.Low, Run: func(context.Context) error {
			<-release
			return nil
		}})
		if err != nil {
			log.Fatal(err)
		}
		backups = append(backups, h)
	}
	click, err := p.Submit(ctx, taskpool.Task{Name: "click", Priority: taskpool.High, Run: func(context.Context) error {
		return nil
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("click:", click.Wait(ctx))
	for _, h := range backups {
		fmt.Println("backup:", h.State())
	}
	close(release)
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// click: <nil>
	// backup: running
	// backup: queued
}

// A feedPoller is a task that submits itself again until its pool shuts down. third is
// closed in round 3.
type feedPoller struct {
	pool   *taskpool.Pool
	rounds int
	third  chan struct{}
}

// poll is one round. The context of the next is not ctx itself: with that it would be
// canceled when this one returns.
func (f *feedPoller) poll(ctx context.Context) error {
	if f.rounds++; f.rounds == 3 {
		close(f.third)
	}
	_, err := f.pool.Submit(taskpool.Detach(ctx), taskpool.Task{
		Name:      "poll",
		NotBefore: time.Now().Add(time.Millisecond),
		Run:       f.poll,
	})
	if errors.Is(err, taskpool.ErrClosed) {
		fmt.Println("that was the last round")
		return nil
	}
	return err
}

// Detach lets work that a task starts outlive it, here the task's own next
// round. Shutdown waits for the round that is due next, and no further.
func ExampleDetach() {
	ctx := context.Background()
	p, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	f := &feedPoller{pool: p, third: make(chan struct{})}
	if _, err := p.Submit(ctx, taskpool.Task{Name: "poll", Run: f.poll}); err != nil {
		log.Fatal(err)
	}
	<-f.third
	fmt.Println(p.Shutdown(ctx))
	fmt.Println("at least three:", f.rounds >= 3)
	// Output:
	// that was the last round
	// <nil>
	// at least three: true
}

// A task that waits for another lends it its urgency: the refresh, which is Low, goes before
// what is more urgent than itself and before what is older.
func ExampleHandle_Wait_urgency() {
	ctx := context.Background()
	p, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	submit := func(name string, pr taskpool.Priority, run func(context.Context) error) *taskpool.Handle {
		h, err := p.Submit(ctx, taskpool.Task{Name: name, Priority: pr, Run: run})
		if err != nil {
			log.Fatal(err)
		}
		return h
	}
	say := func(ctx context.Context) error {
		info, _ := taskpool.Current(ctx)
		fmt.Println(info.Name)
		return nil
	}

	p.Pause() // so that all of them wait before the first one starts
	submit("backup", taskpool.Low, say)
	refresh := submit("refresh", taskpool.Low, func(ctx context.Context) error {
		info, _ := taskpool.Current(ctx)
		fmt.Printf("%s, priority %v, urgency %v\n", info.Name, info.Priority, info.Urgency)
		return nil
	})
	submit("mail", taskpool.Medium, say)
	submit("request", taskpool.High, func(ctx context.Context) error {
		fmt.Println("request: needs the refresh")
		err := refresh.Wait(ctx)
		fmt.Println("request: has it")
		return err
	})
	p.Resume()
	if err := p.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// request: needs the refresh
	// refresh, priority low, urgency high
	// request: has it
	// mail
	// backup
}

// One tenant submits 1000 tasks, then another one submits its own, which does not wait for all
// of them.
func ExampleTask_flow() {
	ctx := context.Background()
	pool, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	started := 0
	submit := func(tenant string) {
		_, err := pool.Submit(ctx, taskpool.Task{Flow: tenant, Run: func(context.Context) error {
			if tenant == "small" {
				fmt.Println("tasks that started before:", started)
			}
			started++
			return nil
		}})
		if err != nil {
			log.Fatal(err)
		}
	}
	pool.Pause() // until all of them wait
	for range 1000 {
		submit("large")
	}
	submit("small")
	pool.Resume()
	if err := pool.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output: tasks that started before: 1
}

// A tenant that pays gets four times the starts of one that does not, while both have tasks
// that wait.
func ExampleWithFlows() {
	ctx := context.Background()
	paying := map[string]bool{"Ann": true}
	pool, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithFlows(func(tenant string) taskpool.FlowPolicy {
		if paying[tenant] {
			return taskpool.FlowPolicy{Weight: 4}
		}
		return taskpool.FlowPolicy{} // weight 1, no limits
	}))
	if err != nil {
		log.Fatal(err)
	}
	pool.Pause() // until all of them wait
	for _, tenant := range slices.Concat(slices.Repeat([]string{"Bob"}, 4), slices.Repeat([]string{"Ann"}, 8)) {
		_, err := pool.Submit(ctx, taskpool.Task{Flow: tenant, Run: func(context.Context) error {
			fmt.Print(tenant, " ")
			return nil
		}})
		if err != nil {
			log.Fatal(err)
		}
	}
	pool.Resume()
	if err := pool.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output: Ann Ann Ann Bob Ann Ann Ann Ann Bob Ann Bob Bob
}

// The changes of an account are made one after the other, in their order; those of other
// accounts at the same time.
func ExampleFlowPolicy_limit() {
	ctx := context.Background()
	pool, err := taskpool.New(taskpool.WithWorkers(4), taskpool.WithFlows(func(account string) taskpool.FlowPolicy {
		if account == "" {
			return taskpool.FlowPolicy{} // tasks of no account
		}
		return taskpool.FlowPolicy{Limit: 1}
	}))
	if err != nil {
		log.Fatal(err)
	}
	var ann, bob []int
	var begun sync.WaitGroup
	begun.Add(2)
	for i, change := range []int{100, -30, -70, 50} {
		for account, changes := range map[string]*[]int{"Ann": &ann, "Bob": &bob} {
			_, err := pool.Submit(ctx, taskpool.Task{Flow: account, Run: func(context.Context) error {
				if i == 0 { // only to show that another account's task runs at the same time
					begun.Done()
					begun.Wait()
				}
				*changes = append(*changes, change) // no lock: no other task of the account runs
				return nil
			}})
			if err != nil {
				log.Fatal(err)
			}
		}
	}
	if err := pool.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	fmt.Println("Ann:", ann)
	fmt.Println("Bob:", bob)
	// Output:
	// Ann: [100 -30 -70 50]
	// Bob: [100 -30 -70 50]
}

// The changes of an account are made in their order, although one of them fails at first. It
// is tried again in Run, as a retry of the pool would join the queue behind the account's next
// change. Block gives the worker to other accounts during the pause, and keeps the account's
// place.
func ExampleFlowPolicy_retry() {
	ctx := context.Background()
	pool, err := taskpool.New(taskpool.WithWorkers(4), taskpool.WithFlows(func(account string) taskpool.FlowPolicy {
		if account == "" {
			return taskpool.FlowPolicy{} // tasks of no account
		}
		return taskpool.FlowPolicy{Limit: 1}
	}))
	if err != nil {
		log.Fatal(err)
	}
	busy := true
	book := func(change string) error {
		if busy {
			busy = false
			return errors.New("bank is busy")
		}
		return nil
	}
	for _, change := range []string{"open", "pay in 100", "pay out 30"} { // submitted by one goroutine
		_, err := pool.Submit(ctx, taskpool.Task{Flow: "account 7", Run: func(ctx context.Context) error {
			for attempt := 1; ; attempt++ {
				err := book(change)
				fmt.Println(change, err)
				if err == nil || attempt == 5 {
					return err
				}
				err = taskpool.Block(ctx, func() error {
					select {
					case <-time.After(time.Millisecond):
						return nil
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				})
				if err != nil {
					return err
				}
			}
		}})
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := pool.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// open bank is busy
	// open <nil>
	// pay in 100 <nil>
	// pay out 30 <nil>
}

// A crawler fetches at most two pages of a host at once. In Block a fetch holds no worker, so
// that a host that does not answer holds up nobody else; without, two such hosts would have all
// four. The timeout of a fetch begins when it starts, however long it has waited for its host.
func ExampleFlowPolicy_hosts() {
	ctx := context.Background()
	pool, err := taskpool.New(taskpool.WithWorkers(4), taskpool.WithFlows(func(host string) taskpool.FlowPolicy {
		if host == "" {
			return taskpool.FlowPolicy{} // tasks of no host, and functions given to Go
		}
		return taskpool.FlowPolicy{Limit: 2}
	}))
	if err != nil {
		log.Fatal(err)
	}
	web := pretendedWeb{asked: make(chan bool, 10), answer: make(chan bool), atOnce: make(map[string]int)}
	web.others.Add(30)
	for range 10 {
		for _, host := range []string{"slow.example", "a.example", "b.example", "c.example"} {
			_, err := pool.Submit(ctx, taskpool.Task{Flow: host, Timeout: time.Minute, Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { return web.fetch(ctx, host) })
			}})
			if err != nil {
				log.Fatal(err)
			}
		}
	}
	web.others.Wait()
	<-web.asked
	<-web.asked
	slow := pool.Flows(1)[0]
	fmt.Printf("all other pages are here; of %s %d are asked for and %d are held back\n", slow.Flow, slow.Places, slow.HeldBack)
	close(web.answer)
	if err := pool.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	fmt.Println("most from one host at once:", web.most)
	// Output:
	// all other pages are here; of slow.example 2 are asked for and 8 are held back
	// most from one host at once: 2
}

// A pretendedWeb counts fetches. One of its hosts does not answer for a while.
type pretendedWeb struct {
	others sync.WaitGroup // pages of other hosts
	asked  chan bool      // has a value for each page of the slow one
	answer chan bool      // closed when it answers

	mu     sync.Mutex     // protects the fields below
	atOnce map[string]int // by host
	most   int
}

func (w *pretendedWeb) fetch(_ context.Context, host string) error {
	w.count(host, 1)
	defer w.count(host, -1)
	if host == "slow.example" {
		w.asked <- true
		<-w.answer
		return nil
	}
	w.others.Done()
	return nil
}

func (w *pretendedWeb) count(host string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.atOnce[host] += n
	w.most = max(w.most, w.atOnce[host])
}
