package noshutdown

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/taskpool-go/taskpool"
)

func bad(ctx context.Context) error {
	p, err := taskpool.New() // want `the pool is not shut down`
	if err != nil {
		return err
	}
	return p.Go(taskpool.Low, func() {})
}

func badWithResults(ctx context.Context) error {
	var p, err = taskpool.New() // want `the pool is not shut down`
	if p == nil {
		return err
	}
	_, err = taskpool.Call(ctx, p, taskpool.Task{}, func(context.Context) (int, error) { return p.Stats().Workers, nil })
	return err
}

func badInLiteral(ctx context.Context) {
	run := func() error {
		p, err := taskpool.New() // want `the pool is not shut down`
		if err != nil {
			return err
		}
		for _, err := range taskpool.Map(ctx, p, taskpool.Task{}, slices.Values([]int{1}), double) {
			if err != nil {
				return err
			}
		}
		return p.WaitIdle(ctx)
	}
	_ = run()
}

func double(ctx context.Context, n int) (int, error) { return 2 * n, nil }

func good(ctx context.Context) (err error) {
	p, err := taskpool.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Shutdown(ctx)) }()
	return p.Go(taskpool.Low, func() {})
}

func returned() (*taskpool.Pool, error) {
	p, err := taskpool.New()
	if err != nil {
		return nil, err
	}
	return p, p.Go(taskpool.Low, func() {})
}

func namedResult() (p *taskpool.Pool, err error) {
	p, err = taskpool.New()
	if err == nil {
		err = p.Go(taskpool.Low, func() {})
	}
	return
}

type server struct{ p *taskpool.Pool }

func stored(s *server) error {
	p, err := taskpool.New()
	if err != nil {
		return err
	}
	s.p = p
	return p.Go(taskpool.Low, func() {})
}

func passedOn(t *testing.T) {
	p, err := taskpool.New()
	if err != nil {
		t.Fatal(err)
	}
	stop(t, p)
	_ = p.Go(taskpool.Low, func() {})
}

func stop(t *testing.T, p *taskpool.Pool) { t.Cleanup(func() { _ = p.Shutdown(context.Background()) }) }

func methodValue() (func(context.Context) error, error) {
	p, err := taskpool.New()
	if err != nil {
		return nil, err
	}
	return p.Shutdown, p.Go(taskpool.Low, func() {})
}

var shared, errShared = taskpool.New()

func assigned() (err error) {
	shared, err = taskpool.New()
	_ = shared.Go(taskpool.Low, func() {})
	return err
}

// Nothing was started.
func unused() error {
	p, err := taskpool.New(taskpool.WithWorkers(0))
	if err == nil {
		_ = p.Stats()
	}
	_, err = taskpool.New()
	return err
}
