package taskpool_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

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
