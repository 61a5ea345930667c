package taskcontext

import (
	"context"
	"sync"

	"github.com/taskpool-go/taskpool"
)

func bad(ctx context.Context, p *taskpool.Pool, h *taskpool.Handle, f *taskpool.Future[int]) error {
	_, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
		go func() {
			_ = h.Wait(ctx)         // want `Handle.Wait with the task's context in a goroutine parks the task`
			_, _ = f.Get(ctx)       // want `Future.Get with the task's context`
			_ = taskpool.Yield(ctx) // want `Yield with the task's context`
		}()
		go func(c context.Context) {
			_ = h.Wait(c) // want `Handle.Wait with the task's context`
		}(ctx)
		values, cancel := context.WithCancel(ctx)
		defer cancel()
		go watch(values, h) // want `Handle.Wait with the task's context`
		go h.Wait(ctx)      // want `Handle.Wait with the task's context`
		return nil
	}})
	return err
}

func watch(ctx context.Context, h *taskpool.Handle) { _ = h.Wait(ctx) }

func good(ctx context.Context, p *taskpool.Pool, h *taskpool.Handle) error {
	go func() { _ = h.Wait(ctx) }() // not in a task
	_, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
		go func() { _ = h.Wait(taskpool.Detach(ctx)) }()
		go func(ctx context.Context) { _ = h.Wait(ctx) }(taskpool.Detach(ctx))
		go watch(context.WithoutCancel(ctx), h)
		go func() { <-ctx.Done() }()
		go func() {
			_, _ = p.Submit(taskpool.Detach(ctx), taskpool.Task{Run: func(ctx context.Context) error { return h.Wait(ctx) }})
		}()
		return h.Wait(ctx)
	}})
	if err != nil {
		return err
	}
	_, err = p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
		var wg sync.WaitGroup
		wg.Add(1)
		go func() {
			defer wg.Done()
			_ = h.Wait(ctx) // the task itself only waits for it
		}()
		wg.Wait()
		return nil
	}})
	return err
}
