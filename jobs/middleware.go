package jobs

import (
	"context"
	"errors"
)

// A Middleware is called in place of an attempt at a job, see [Registry.Use]. It calls next,
// with ctx or a context derived from it, and on the same goroutine, to have the attempt made,
// and returns next's error or one of its own: that is the attempt's.
type Middleware func(ctx context.Context, m Meta, next func(context.Context) error) error

// Use has f called around each attempt that begins from now on at a job of any kind of reg, on
// every engine: for a transaction, a tenant's limits, a value that handlers find in their
// context. Of several the first is the outermost. It is called before the payload is
// decoded, and within the attempt's timeout. One that does not call next skips the attempt,
// whose error is what it returns; next may be called once, and returns an error after that.
// A panic in f is a panic of the handler's. Use panics if f is nil.
func (reg *Registry) Use(f Middleware) {
	reg.mustNotBeNil("Use")
	if f == nil {
		panic("jobs: Registry.Use: f must not be nil")
	}
	reg.mu.Lock()
	defer reg.mu.Unlock()
	reg.around = append(reg.around[:len(reg.around):len(reg.around)], f)
}

var errSecondNext = errors.New("jobs: a Middleware has called next a second time")

// runAround calls run within the given middleware.
func runAround(ctx context.Context, around []Middleware, m Meta, run func(context.Context) error) error {
	if len(around) == 0 {
		return run(ctx)
	}
	called := false
	return around[0](ctx, m, func(ctx context.Context) error {
		if called {
			return errSecondNext
		}
		called = true
		return runAround(ctx, around[1:], m, run)
	})
}
