package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

// A slowQueue is an engine that keeps jobs in a slice, and runs them one at a time when it
// is told to.
type slowQueue struct {
	reg     *jobs.Registry
	waiting []jobs.Request
}

func (q *slowQueue) Enqueue(_ context.Context, r jobs.Request) (jobs.ID, error) {
	if err := engine.Validate(r); err != nil {
		return "", err
	}
	q.waiting = append(q.waiting, r)
	return jobs.ID(strconv.Itoa(len(q.waiting))), nil
}

func (q *slowQueue) Cancel(context.Context, jobs.ID) error { return jobs.ErrNotFound }

// runAll runs what waits, in a pool, which sees to panics, hangs and the bounds of the
// policy.
func (q *slowQueue) runAll(ctx context.Context, pool *taskpool.Pool) error {
	for i, r := range q.waiting {
		policy, _ := engine.Policy(q.reg, r.Kind)
		m := jobs.Meta{ID: jobs.ID(strconv.Itoa(i + 1)), Kind: r.Kind, MaxAttempts: r.MaxAttempts, Priority: r.Priority, Flow: r.Flow}
		for again := true; again; {
			m.Attempt++
			h, err := pool.Submit(ctx, taskpool.Task{
				Name: r.Kind, Priority: r.Priority, Flow: r.Flow, Timeout: policy.Timeout, Heartbeat: policy.Heartbeat,
				Run: func(ctx context.Context) error { return engine.Run(ctx, q.reg, m, r.Payload) },
			})
			if err != nil {
				return err
			}
			e := engine.Judge(q.reg, m, h.Wait(ctx))
			engine.Tell(q.reg, e)
			again = e.State == jobs.StateRetrying // after e.Delay, in a better engine
		}
	}
	q.waiting = nil
	return nil
}

// An engine makes attempts with the handlers of a registry, and does what Judge says.
func Example() {
	var reg jobs.Registry
	greet := jobs.Register(&reg, "greet", func(_ context.Context, m jobs.Meta, name string) error {
		if m.Attempt == 1 {
			return errors.New("not yet awake")
		}
		fmt.Println("Hello", name)
		return nil
	}, jobs.Policy{MaxAttempts: 3})
	reg.Observe(func(e jobs.Event) { fmt.Printf("attempt %d: %v\n", e.Attempt, e.State) })

	pool, err := taskpool.New()
	if err != nil {
		log.Fatal(err)
	}
	ctx, q := context.Background(), &slowQueue{reg: &reg}
	if _, err := greet.Enqueue(ctx, q, "Ada", nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println(q.runAll(ctx, pool), pool.Shutdown(ctx))
	// Output:
	// attempt 1: retrying
	// Hello Ada
	// attempt 2: completed
	// <nil> <nil>
}
