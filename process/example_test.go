//go:build unix

package process_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/process"
)

// A Page is an argument: a struct with exported fields.
type Page struct {
	Title string
	Words []string
}

// At package level, so that parent and children have registered the same.
var count = process.Register("count", func(_ context.Context, p Page) (int, error) {
	if p.Title == "" {
		os.Exit(3) // the worst that a function can do
	}
	return len(p.Words), nil
})

// The program begins with a call of Main; the tests of this package have theirs in
// TestMain.
func Example() {
	children, err := process.New(process.WithWorkers(2), process.WithStderr(io.Discard))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	n, err := count.Call(ctx, children, Page{"Poem", []string{"so", "much", "depends", "upon"}})
	fmt.Println(n, err)

	_, err = count.Call(ctx, children, Page{})
	var exit *process.ExitError
	if errors.As(err, &exit) {
		fmt.Println(exit.Func, "exited with code", exit.Code)
	}

	n, err = count.Call(ctx, children, Page{"Haiku", []string{"an", "old", "pond"}})
	fmt.Println(n, err)
	fmt.Println("shutdown:", children.Shutdown(ctx))
	// Output:
	// 4 <nil>
	// count exited with code 3
	// 3 <nil>
	// shutdown: <nil>
}

var forever = process.Register("forever", func(context.Context, struct{}) (struct{}, error) {
	for n := 0; ; n++ {
	}
})

// A task of a pool whose work cannot be trusted to end: its timeout holds, and the
// process that was at it is gone.
func Example_timeout() {
	children, err := process.New(process.WithWorkers(1), process.WithKillGrace(10*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	pool, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(quiet))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	h, err := pool.Submit(ctx, taskpool.Task{
		Timeout: 500 * time.Millisecond,
		Run: func(ctx context.Context) error {
			_, err := forever.Call(ctx, children, struct{}{})
			return err
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = h.Wait(ctx)
	fmt.Println("timeout:", errors.Is(err, taskpool.ErrTimeout))
	var exit *process.ExitError
	fmt.Println("killed:", errors.As(err, &exit))
	fmt.Println(pool.Shutdown(ctx), children.Shutdown(ctx))
	// Output:
	// timeout: true
	// killed: true
	// <nil> <nil>
}
