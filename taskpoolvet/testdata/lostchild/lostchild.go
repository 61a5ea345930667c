package lostchild

import (
	"context"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

var nop = func(ctx context.Context) error { return nil }

func bad(ctx context.Context, p *taskpool.Pool) error {
	child := taskpool.Task{Run: nop}
	_, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
		if _, err := p.Submit(ctx, child); err != nil { // want `the task that Pool.Submit starts is canceled when this one returns.*taskpool.Detach\(ctx\)`
			return err
		}
		_, _ = p.TrySubmit(ctx, child)                                  // want `the task that Pool.TrySubmit starts`
		_, _ = p.SubmitWithin(context.Background(), ctx, child)         // want `the task that Pool.SubmitWithin starts`
		_, err := taskpool.SubmitFunc(ctx, p, taskpool.Task{}, compute) // want `the task that SubmitFunc starts`
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		p.Submit(short, child)                                  // want `the task that Pool.Submit starts`
		p.Submit(context.WithValue(ctx, "key", "value"), child) // want `the task that Pool.Submit starts`
		return err
	}})
	return err
}

func compute(ctx context.Context) (int, error) { return 0, nil }

type server struct{ p *taskpool.Pool }

func (s *server) start(ctx context.Context) error {
	t := taskpool.Task{Priority: taskpool.Low}
	t.Run = s.run
	_, err := s.p.Submit(ctx, t)
	return err
}

func (s *server) run(ctx context.Context) error {
	_, err := s.p.Submit(ctx, taskpool.Task{Run: s.job(1)}) // want `the task that Pool.Submit starts`
	return err
}

func (s *server) job(n int) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.p.Submit(ctx, taskpool.Task{Run: nop}) // want `the task that Pool.Submit starts`
		return err
	}
}

func again(ctx context.Context, p *taskpool.Pool) error {
	var run func(context.Context) error
	run = func(ctx context.Context) error {
		_, err := p.Submit(ctx, taskpool.Task{Run: run}) // want `the task that Pool.Submit starts`
		return err
	}
	_, err := p.Submit(ctx, taskpool.Task{Run: run})
	return err
}

func good(ctx context.Context, p *taskpool.Pool) {
	child := taskpool.Task{Run: nop}
	tasks := []taskpool.Task{
		{Run: func(ctx context.Context) error {
			_, err := p.Submit(taskpool.Detach(ctx), child)
			return err
		}},
		{Run: func(ctx context.Context) error {
			_, err := p.Submit(context.WithoutCancel(ctx), child)
			return err
		}},
		{Run: func(ctx context.Context) error {
			ctx = taskpool.Detach(ctx)
			_, err := p.Submit(ctx, child)
			return err
		}},
		{Run: func(ctx context.Context) error {
			h, err := p.Submit(ctx, child)
			if err != nil {
				return err
			}
			return h.Wait(ctx)
		}},
		{Run: func(ctx context.Context) error { // waits in its own way
			done := make(chan struct{})
			if _, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { close(done); return nil }}); err != nil {
				return err
			}
			<-done
			return nil
		}},
		{Run: func(ctx context.Context) error {
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Add(1)
			_, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { wg.Done(); return nil }})
			return err
		}},
		{Run: func(ctx context.Context) error { // what it submits is to end with it
			for {
				if _, err := p.Submit(ctx, child); err != nil {
					return err
				}
			}
		}},
	}
	for _, t := range tasks {
		_, _ = p.Submit(ctx, t) // not in a task
	}
}
