//go:build !race && !invariants

// The race detector and looks at the invariants change what is allocated.

package taskpool_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestYieldWithNothingToYieldToDoesNotAllocate(t *testing.T) {
	type key struct{}
	for name, derive := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"own": func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} },
		"values": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithValue(ctx, key{}, 1), func() {}
		},
		"cancel": context.WithCancel,
	} {
		for waits, pr := range map[string]taskpool.Priority{"nothing waits": 0, "less urgent waits": 1, "an equal waits, within the quantum": 0} {
			t.Run(name+", "+waits, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithQuantum(time.Hour))
				begin := make(chan struct{})
				var yield, beat float64
				h := pooltest.Submit(t, p, taskpool.Task{Heartbeat: time.Hour, Run: func(ctx context.Context) error {
					<-begin
					ctx, cancel := derive(ctx)
					defer cancel()
					failed := 0
					yield = allocsPerTask(func() {
						if taskpool.Yield(ctx) != nil {
							failed++
						}
					})
					beat = allocsPerTask(func() { taskpool.Beat(ctx) })
					if failed > 0 {
						return context.Cause(ctx)
					}
					return nil
				}})
				if waits != "nothing waits" {
					require.NoError(t, p.Go(pr, func() {}))
				}
				close(begin)
				require.NoError(t, h.Wait(context.Background()))
				require.Zero(t, yield)
				require.Zero(t, beat)
			})
		}
	}
}
