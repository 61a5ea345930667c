// Package readme has the code of README.md.
package readme

import (
	"context"
	"errors"
	"log"
	"sync"

	"github.com/taskpool-go/taskpool"
)

type server struct {
	mu   sync.Mutex
	pool *taskpool.Pool
}

type copied struct{ pool taskpool.Pool }

var notify = taskpool.Task{Run: func(context.Context) error { return nil }}

func tidyUp() {}

func held(ctx context.Context, s *server) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return taskpool.Yield(ctx) // bad. Good: s.mu.Unlock() before Yield // want `held across Yield`
}

func children(ctx context.Context, pool *taskpool.Pool) error {
	return errors.Join(
		submit(pool.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
			_, err := pool.Submit(ctx, notify) // bad // want `canceled when this one returns`
			return err
		}})),
		submit(pool.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
			_, err := pool.Submit(taskpool.Detach(ctx), notify) // good
			return err
		}})),
	)
}

func dropped(ctx context.Context, pool *taskpool.Pool) (err error) {
	defer pool.Shutdown(ctx)                                      // bad // want `error of Pool.Shutdown is dropped`
	defer func() { err = errors.Join(err, pool.Shutdown(ctx)) }() // good
	_ = pool.Go(taskpool.Low, tidyUp)                             // good: dropped on purpose
	return nil
}

func waits(ctx context.Context, pool *taskpool.Pool, report *taskpool.Handle) error {
	return submit(pool.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
		go func() { log.Print(report.Wait(ctx)) }()                  // bad // want `in a goroutine parks the task`
		go func() { log.Print(report.Wait(taskpool.Detach(ctx))) }() // good
		return nil
	}}))
}

func submit(h *taskpool.Handle, err error) error { return err }

func copies(pool *taskpool.Pool) {
	{
		type server = copied
		s := server{pool: *pool} // bad // want `copies a taskpool.Pool`
		s.pool.Pause()
	}
	s := server{pool: pool} // good: a *taskpool.Pool
	s.pool.Pause()
}

func endless(ctx context.Context) error {
	pool, err := taskpool.New() // bad without the last line // want `the pool is not shut down`
	err = pool.Go(taskpool.Low, tidyUp)
	return err
}

func ends(ctx context.Context) error {
	pool, err := taskpool.New()
	err = pool.Go(taskpool.Low, tidyUp)
	err = pool.Shutdown(ctx)
	return err
}
