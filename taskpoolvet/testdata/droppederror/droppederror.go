package droppederror

import (
	"context"
	"errors"

	"github.com/taskpool-go/taskpool"
)

func bad(ctx context.Context, p *taskpool.Pool) {
	taskpool.New()                                          // want `the error of New is dropped`
	p.Go(taskpool.Low, func() {})                           // want `the error of Pool.Go is dropped: a task that was not accepted is lost`
	p.TryGo(taskpool.Low, func() {})                        // want `the error of Pool.TryGo`
	p.Submit(ctx, taskpool.Task{})                          // want `the error of Pool.Submit`
	p.TrySubmit(ctx, taskpool.Task{})                       // want `the error of Pool.TrySubmit`
	p.SubmitWithin(ctx, ctx, taskpool.Task{})               // want `the error of Pool.SubmitWithin`
	taskpool.SubmitFunc(ctx, p, taskpool.Task{}, compute)   // want `the error of SubmitFunc`
	p.Resize(2)                                             // want `the error of Pool.Resize is dropped: nobody learns that it failed`
	p.Shutdown(ctx)                                         // want `the error of Pool.Shutdown is dropped: nobody learns which tasks did not finish`
	defer p.Shutdown(ctx)                                   // want `the error of Pool.Shutdown`
	go p.Go(taskpool.Low, func() {})                        // want `the error of Pool.Go`
	struct{ *taskpool.Pool }{p}.Go(taskpool.Low, func() {}) // want `the error of Pool.Go`
}

func compute(ctx context.Context) (int, error) { return 0, nil }

func good(ctx context.Context, p *taskpool.Pool, h *taskpool.Handle, g *taskpool.Group) (err error) {
	defer func() { err = errors.Join(err, p.Shutdown(ctx)) }()
	_ = p.Go(taskpool.Low, func() {})
	_, _ = p.Submit(ctx, taskpool.Task{})
	p.Go(taskpool.Low, func() {}) //nolint:taskpoolvet
	h.Wait(ctx)                   // for its end only
	g.Go(func(context.Context) error { return nil })
	p.Pause()
	p.Shutdown(context.Background()) // leaves nothing unfinished
	if err := p.TryGo(taskpool.Low, func() {}); err != nil {
		return err
	}
	return p.Resize(2)
}
