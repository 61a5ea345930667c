package taskpool_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

//go:noinline
func emptyCall(context.Context) error { return nil }

// What a safe point costs. There and back is a hand-over to an equal task and
// one back, on one worker. Compare with baseline, an empty function call.
func BenchmarkYield(b *testing.B) {
	type key struct{}
	derived := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithCancel(context.WithValue(ctx, key{}, 1))
	}
	own := func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }
	beat := func(ctx context.Context) error { taskpool.Beat(ctx); return nil }
	nothing := func() error { return nil }
	for _, bench := range []struct {
		name   string
		derive func(context.Context) (context.Context, context.CancelFunc)
		call   func(context.Context) error
		equals int // further tasks that yield all the time
	}{
		{"baseline", own, emptyCall, 0},
		{"own context", own, taskpool.Yield, 0},
		{"derived context", derived, taskpool.Yield, 0},
		{"Beat", own, beat, 0},
		{"Beat, derived context", derived, beat, 0},
		{"there and back", own, taskpool.Yield, 1},
		{"Block", own, func(ctx context.Context) error { return taskpool.Block(ctx, nothing) }, 0},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p := pooltest.New(b, taskpool.WithWorkers(1), taskpool.WithQuantum(1))
			p.Pause() // so that all have been submitted when the first starts
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			h := pooltest.Submit(b, p, taskpool.Task{Run: func(ctx context.Context) error {
				ctx, cancel := bench.derive(ctx)
				defer cancel()
				b.ResetTimer()
				for range b.N {
					if err := bench.call(ctx); err != nil {
						return err
					}
				}
				b.StopTimer()
				return nil
			}})
			for range bench.equals {
				_, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
					for {
						if err := taskpool.Yield(ctx); err != nil {
							return err
						}
					}
				}})
				require.NoError(b, err)
			}
			p.Resume()
			require.NoError(b, h.Wait(context.Background()))
			cancel()
			require.NoError(b, p.WaitIdle(context.Background()))
		})
	}
}
