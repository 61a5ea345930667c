package waits_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Tasks come and go with a context while it ends, in several pools; each has one end.
func TestTasksThatComeWhileTheirContextEndsAreCanceledOrRefused(t *testing.T) {
	rounds := 300
	if pooltest.Scarce() {
		rounds /= 10
	}
	pools := []*taskpool.Pool{pooltest.New(t, taskpool.WithWorkers(2)), pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(50, taskpool.OverflowWait))}
	for range rounds {
		ctx, cancel := context.WithCancel(pooltest.Patience(t))
		var over atomic.Bool
		var wg sync.WaitGroup
		for k := range 4 {
			wg.Go(func() {
				var all []*taskpool.Handle
				for i := range 100 {
					own := ctx
					if i%3 == 0 {
						var end context.CancelFunc
						own, end = context.WithCancel(ctx)
						defer end()
					}
					h, err := pools[k%2].Submit(own, taskpool.Task{Run: func(ctx context.Context) error { return ctx.Err() }})
					if err != nil {
						assert.ErrorIs(t, err, context.Canceled)
						assert.True(t, over.Load())
						break
					}
					all = append(all, h)
				}
				for _, h := range all {
					if err := h.Wait(pooltest.Patience(t)); err != nil {
						assert.ErrorIs(t, err, context.Canceled)
						assert.Equal(t, taskpool.StateCanceled, h.State())
					}
				}
			})
		}
		wg.Go(func() { runtime.Gosched(); over.Store(true); cancel() })
		wg.Wait()
	}
	for _, p := range pools {
		require.NoError(t, p.WaitIdle(pooltest.Patience(t)))
		pooltest.RequireConserved(t, p.Stats())
		pooltest.RequireWatches(t, p, 0, 0)
	}
}

// The last task that leaves ends the registration.
func TestNothingIsLeftWithAContextWhoseTasksHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		std, cancel := context.WithCancel(context.Background())
		defer cancel()
		ctx := &pooltest.CountedContext{Context: std}
		for range 3 {
			release := pooltest.Block(t, p)
			var all []*taskpool.Handle
			for i := range 1010 {
				c := std
				if i%101 == 0 {
					c = ctx
				}
				h, err := p.Submit(c, taskpool.Task{Run: pooltest.Nop})
				require.NoError(t, err)
				all = append(all, h)
			}
			require.EqualValues(t, 10, ctx.Waiting.Load(), "what AfterFunc does is its own affair, so none relies on that of another")
			pooltest.RequireWatches(t, p, 0, 49)
			for _, h := range all[:500] {
				h.Cancel(nil)
			}
			require.EqualValues(t, 5, ctx.Waiting.Load())
			pooltest.RequireWatches(t, p, 1, 49)
			release()
			synctest.Wait()
			require.Zero(t, ctx.Waiting.Load())
			pooltest.RequireWatches(t, p, 0, 0)
		}
	})
}

// An askedContext is of another package and calls asked once, when package context asks it
// for a value, as it does when something is registered for its end.
type askedContext struct {
	context.Context
	asked func()
}

func (c *askedContext) Value(key any) any {
	if _, std := key.(*int); std && c.asked != nil { // the context package's own key
		asked := c.asked
		c.asked = nil
		asked()
	}
	return nil
}

// registrations is the number of goroutines that package context has for the end of
// contexts of other packages.
func registrations() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return strings.Count(string(stacks), "created by context.(*cancelCtx).propagateCancel")
}

func TestTasksThatComeAtTheSameTimeShareOneRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		release := pooltest.Block(t, p)
		defer release()
		before := registrations()
		std, cancel := context.WithCancel(context.Background())
		var all []*taskpool.Handle
		add := func(ctx context.Context) {
			h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			require.NoError(t, err)
			all = append(all, h)
		}
		for range 50 { // enough for them to share
			some, end := context.WithCancel(context.Background())
			defer end()
			add(some)
		}
		pooltest.RequireWatches(t, p, 50, 50)
		add(&askedContext{std, func() { add(std) }})
		require.Len(t, all, 52)
		synctest.Wait()
		require.LessOrEqual(t, registrations(), before, "who came second has ended its own")
		pooltest.RequireWatches(t, p, 51, 51)
		cancel()
		synctest.Wait()
		for i, h := range all {
			require.Equal(t, i >= 50, h.State() == taskpool.StateCanceled)
		}
		pooltest.RequireWatches(t, p, 50, 50)
	})
}

// However many tasks there are, running or not, with shared contexts or not, and whoever
// ends first: all that a context concerns are canceled when it ends, without a worker.
func TestAllTasksOfAContextEndWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const contexts, each = 5, 700
		p := pooltest.New(t, taskpool.WithWorkers(contexts), taskpool.WithHangGrace(time.Hour))
		start := time.Now()
		var all [contexts][]*taskpool.Handle
		var ends [contexts]context.CancelCauseFunc
		var causes [contexts]error
		var contextOf [contexts]context.Context
		var told [contexts]time.Duration
		for k := range all {
			ctx, end := context.WithCancelCause(context.Background())
			ends[k], causes[k] = end, fmt.Errorf("cause %d", k)
			h, err := p.Submit(ctx, taskpool.Task{Run: func(ctx context.Context) error {
				<-ctx.Done()
				told[k] = time.Since(start)
				time.Sleep(time.Minute) // it takes its time
				return ctx.Err()
			}})
			require.NoError(t, err)
			all[k], contextOf[k] = append(all[k], h), ctx
		}
		synctest.Wait()
		for k, ctx := range contextOf {
			for range each {
				h, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { panic("must not run") }})
				require.NoError(t, err)
				all[k] = append(all[k], h)
			}
		}
		for k := range all {
			time.Sleep(time.Second)
			ends[k](causes[k])
			synctest.Wait()
			require.Equal(t, time.Duration(k+1)*time.Second, told[k])
			for j := range all {
				for i, h := range all[j] {
					if i == 0 {
						require.Equal(t, taskpool.StateRunning, h.State())
					} else if j > k {
						require.Equal(t, taskpool.StateQueued, h.State())
					} else {
						require.Same(t, causes[j], h.Err())
					}
				}
			}
			left := 2 * (contexts - k - 1) // one for who runs, one for those who wait
			pooltest.RequireWatches(t, p, left, left)
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Equal(t, time.Minute+contexts*time.Second, time.Since(start))
		for k := range all {
			require.ErrorIs(t, all[k][0].Err(), causes[k])
		}
		pooltest.RequireWatches(t, p, 0, 0)
		require.EqualValues(t, contexts*(each+1), p.Stats().Canceled)
	})
}
