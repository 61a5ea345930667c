package taskpool_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"

	"github.com/taskpool-go/taskpool"
)

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
