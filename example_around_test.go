package taskpool_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/taskpool-go/taskpool"
)

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

// trace is a hook that makes a span of each attempt, and hands it to the task
// in its context.
func trace(ctx context.Context, t taskpool.TaskInfo, run func(context.Context) error) error {
	s := &span{name: fmt.Sprintf("%s#%d", t.Name, t.Attempt), start: time.Now()}
	err := run(context.WithValue(ctx, spanKey{}, s))
	s.end(err) // also after a panic, which run returns as a *PanicError
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
