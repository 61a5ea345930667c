package taskpool_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/taskpool-go/taskpool"
)

// A feedPoller is a task that submits itself again until its pool shuts down.
type feedPoller struct {
	pool   *taskpool.Pool
	rounds int
	third  chan struct{} // closed in round 3
}

func (f *feedPoller) poll(ctx context.Context) error {
	if f.rounds++; f.rounds == 3 {
		close(f.third)
	}
	// With ctx itself, the next round would be canceled when this one returns.
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
