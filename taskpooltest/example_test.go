package taskpooltest_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/taskpooltest"
)

// t stands for the *testing.T of a test: examples have none.
var t testing.TB = printed{}

// printed is a test that prints what it fails with.
type printed struct{ testing.TB }

func (printed) Helper()                           {}
func (printed) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (printed) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// quietPool is New without a log and without a cleanup.
func quietPool(opts ...taskpool.Option) *taskpool.Pool {
	pool, err := taskpool.New(append(opts, taskpool.WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return pool
}

// A long task is interrupted at its safe point, step by step.
func ExampleStep() {
	ctx := context.Background()
	pool := quietPool(taskpool.WithWorkers(1)) // in a test: taskpooltest.New(t, taskpool.WithWorkers(1))
	pool.Pause()
	_, err := pool.Submit(ctx, taskpool.Task{Name: "index", Priority: taskpool.Low, Run: func(ctx context.Context) error {
		_, err := pool.Submit(taskpool.Detach(ctx), taskpool.Task{Name: "search", Priority: taskpool.High,
			Run: func(context.Context) error { return nil }})
		if err != nil {
			return err
		}
		return taskpool.Yield(ctx)
	}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	for range 3 {
		task := taskpooltest.Step(t, pool)
		fmt.Println(task.Name, task.State) // index parked, search succeeded, index succeeded
	}
	if err := pool.Shutdown(ctx); err != nil {
		t.Fatalf("%v", err)
	}
	// Output:
	// index parked
	// search succeeded
	// index succeeded
}

// A test that is wrong about the order shows where.
func ExampleAssertOrder() {
	ctx := context.Background()
	var order taskpooltest.Recorder
	pool := quietPool(taskpool.WithWorkers(1), taskpool.WithHooks(order.Hooks()))
	pool.Pause() // nothing starts before everything is queued
	for name, pr := range map[string]taskpool.Priority{"newsletter": taskpool.Low, "receipt": taskpool.Medium, "password": taskpool.High} {
		if _, err := pool.Submit(ctx, taskpool.Task{Name: name, Priority: pr, Run: func(context.Context) error { return nil }}); err != nil {
			t.Fatalf("%v", err)
		}
	}
	pool.Resume()
	if err := pool.Shutdown(ctx); err != nil {
		t.Fatalf("%v", err)
	}
	taskpooltest.AssertOrder(t, &order, "password", "newsletter", "receipt")
	taskpooltest.AssertBefore(t, &order, "receipt", "newsletter") // which is so
	// Output:
	// taskpooltest: tasks started in another order:
	//          got         want
	//       1  password    password
	//   >   2  receipt     newsletter
	//   >   3  newsletter  receipt
}

func ExampleRecorder() {
	ctx := context.Background()
	var order taskpooltest.Recorder
	pool := quietPool(taskpool.WithWorkers(1), taskpool.WithHooks(order.Hooks()))
	parent, err := pool.Submit(ctx, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error {
		_, err := taskpool.Call(ctx, pool, taskpool.Task{Name: "child"}, func(context.Context) (int, error) { return 42, nil })
		return err
	}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	fmt.Println(parent.Wait(ctx), pool.Shutdown(ctx))
	fmt.Println("started: ", order.Started())
	fmt.Println("finished:", order.Finished())
	// Output:
	// <nil> <nil>
	// started:  [parent child]
	// finished: [child parent]
}
