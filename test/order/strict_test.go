package order_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// From the moment Go has returned for an urgent task, one worker may start one
// less urgent task before it, the one that it has taken already, and one more
// where the fair share has its turn. That is counted while Low tasks come and go
// as fast as they can, so that most of them are taken without a look at what has
// arrived since. Without a look at whether something more urgent is among
// that (arrivals.matter returning false) the count was about 1,020, a whole batch,
// in each of 12 tries on 1, 2 and 4 processors.
func TestAtMostOneLowTaskStartsAfterAHighTaskArrived(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []taskpool.Option
		most int64 // Low tasks
	}{
		{"strict", []taskpool.Option{taskpool.WithFairShare(0)}, 1},
		{"fair share", nil, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := pooltest.New(t, append(test.opts, taskpool.WithWorkers(1))...)
			var started, passed atomic.Int64
			var over atomic.Bool
			var low func()
			low = func() {
				started.Add(1)
				if !over.Load() {
					_ = p.Go(taskpool.Low, low)
				}
			}
			for range 5000 {
				require.NoError(t, p.Go(taskpool.Low, low))
			}
			rounds := 5000
			switch {
			case runtime.GOMAXPROCS(0) == 1:
				rounds = 50 // each takes until the worker is preempted
			case pooltest.Scarce():
				rounds = 500
			}
			done := make(chan int64)
			for range rounds {
				var arrived atomic.Int64
				// The first instruction of the task may come before Go has
				// returned. Then nothing was started in between.
				arrived.Store(-1)
				require.NoError(t, p.Go(taskpool.High, func() {
					begin, since := arrived.Load(), started.Load()
					if begin < 0 {
						begin = since
					}
					done <- since - begin
				}))
				arrived.Store(started.Load())
				if n := <-done; n > passed.Load() {
					passed.Store(n)
				}
			}
			over.Store(true)
			require.LessOrEqual(t, passed.Load(), test.most)
			require.NoError(t, p.WaitIdle(context.Background()))
		})
	}
}
