package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

type ResizeArgs struct {
	File  string
	Width int
}

var reg jobs.Registry

var resize = jobs.Register(&reg, "resize", func(ctx context.Context, m jobs.Meta, p ResizeArgs) error {
	fmt.Printf("attempt %d of %d: %s to %d pixels\n", m.Attempt, m.MaxAttempts, p.File, p.Width)
	if m.Attempt == 1 {
		return errors.New("storage is not to be reached")
	}
	return nil
}, jobs.Policy{Priority: taskpool.Low, MaxAttempts: 5, Timeout: time.Minute})

// Handlers are registered at package level. Here a queue in memory runs them.
func Example() {
	pool, err := taskpool.New(taskpool.WithWorkers(4), taskpool.WithLogger(quiet))
	if err != nil {
		log.Fatal(err)
	}
	q := jobs.Local(pool, &reg)
	id, err := resize.Enqueue(context.Background(), q, ResizeArgs{"cat.jpg", 640},
		&jobs.Options{Priority: new(taskpool.High)})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("job", id, "is enqueued")
	fmt.Println("stop:", q.Stop(context.Background())) // finishes what was enqueued
	// Unordered output:
	// job 1 is enqueued
	// attempt 1 of 5: cat.jpg to 640 pixels
	// attempt 2 of 5: cat.jpg to 640 pixels
	// stop: <nil>
}

// An observer is told what each attempt and each job came to.
func ExampleRegistry_Observe() {
	var reg jobs.Registry
	mail := jobs.Register(&reg, "mail", func(_ context.Context, _ jobs.Meta, to string) error {
		return taskpool.Permanent(fmt.Errorf("no mailbox %q", to))
	}, jobs.Policy{MaxAttempts: 5})
	reg.Observe(func(e jobs.Event) {
		fmt.Printf("%s job after attempt %d: %v: %v\n", e.Kind, e.Attempt, e.State, e.Err)
	})

	pool, err := taskpool.New(taskpool.WithLogger(quiet))
	if err != nil {
		log.Fatal(err)
	}
	q := jobs.Local(pool, &reg)
	if _, err := mail.Enqueue(context.Background(), q, "nobody", nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println("stop:", q.Stop(context.Background()))
	// Output:
	// mail job after attempt 1: discarded: no mailbox "nobody"
	// stop: <nil>
}

// A job is canceled by its ID, whether it waits or runs.
func ExampleLocalQueue_Cancel() {
	var reg jobs.Registry
	remind := jobs.Register(&reg, "remind", func(_ context.Context, _ jobs.Meta, text string) error {
		fmt.Println(text)
		return nil
	}, jobs.Policy{})

	pool, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	q, ctx := jobs.Local(pool, &reg), context.Background()
	id, err := remind.Enqueue(ctx, q, "lunch", &jobs.Options{NotBefore: time.Now().Add(time.Hour)})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("cancel:", q.Cancel(ctx, id))
	fmt.Println("again:", q.Cancel(ctx, id))
	fmt.Println("stop:", q.Stop(ctx))
	// Output:
	// cancel: <nil>
	// again: jobs: no unsettled job has this ID: "1"
	// stop: <nil>
}

// A customer with many jobs does not keep those of another waiting.
func ExampleOptions_flow() {
	var reg jobs.Registry
	scan := jobs.Register(&reg, "scan", func(_ context.Context, m jobs.Meta, file string) error {
		fmt.Printf("%s: %s\n", m.Flow, file)
		return nil
	}, jobs.Policy{})

	pool, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	pool.Pause() // until Stop, so that all jobs wait
	q, ctx := jobs.Local(pool, &reg), context.Background()
	for _, job := range []struct{ customer, file string }{{"large", "a"}, {"large", "b"}, {"large", "c"}, {"small", "d"}} {
		if _, err := scan.Enqueue(ctx, q, job.file, &jobs.Options{Flow: job.customer}); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("stop:", q.Stop(ctx))
	// Output:
	// large: a
	// small: d
	// large: b
	// large: c
	// stop: <nil>
}

// The pool's WithFlows has the jobs of each account run one at a time, and those of
// different accounts at once.
func ExampleOptions_flowWithLimit() {
	var reg jobs.Registry
	balance := map[string]*int{"Ada": new(int), "Bob": new(int)}
	pay := jobs.Register(&reg, "pay", func(_ context.Context, m jobs.Meta, amount int) error {
		*balance[m.Flow] += amount // without a lock
		return nil
	}, jobs.Policy{})

	pool, err := taskpool.New(taskpool.WithWorkers(4), taskpool.WithFlows(func(account string) taskpool.FlowPolicy {
		if account == "" { // jobs and tasks that have none
			return taskpool.FlowPolicy{}
		}
		return taskpool.FlowPolicy{Limit: 1}
	}))
	if err != nil {
		log.Fatal(err)
	}
	q, ctx := jobs.Local(pool, &reg), context.Background()
	for range 100 {
		for account, amount := range map[string]int{"Ada": 1, "Bob": 2} {
			if _, err := pay.Enqueue(ctx, q, amount, &jobs.Options{Flow: account}); err != nil {
				log.Fatal(err)
			}
		}
	}
	fmt.Println("stop:", q.Stop(ctx))
	fmt.Println("Ada:", *balance["Ada"], "Bob:", *balance["Bob"])
	// Output:
	// stop: <nil>
	// Ada: 100 Bob: 200
}

// Of jobs with the same kind and key, one at most is unsettled.
func ExampleOptions_uniqueKey() {
	var reg jobs.Registry
	index := jobs.Register(&reg, "index", func(_ context.Context, _ jobs.Meta, customer int) error {
		fmt.Println("indexing customer", customer)
		return nil
	}, jobs.Policy{})

	pool, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	pool.Pause() // until Stop, so that the first job waits
	q, ctx := jobs.Local(pool, &reg), context.Background()
	first, err := index.Enqueue(ctx, q, 7, &jobs.Options{UniqueKey: "customer 7"})
	if err != nil {
		log.Fatal(err)
	}
	second, err := index.Enqueue(ctx, q, 7, &jobs.Options{UniqueKey: "customer 7"})
	fmt.Println(second == first, errors.Is(err, jobs.ErrDuplicate))
	fmt.Println("stop:", q.Stop(ctx))
	// Output:
	// true true
	// indexing customer 7
	// stop: <nil>
}
