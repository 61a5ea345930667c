package httppool_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// An outcome is what comes of a load on a service, in virtual time.
type outcome struct {
	inTime   int             // requests answered with 200 before their client gave up and the load was over
	startedN int             // handlers that began
	lateN    int             // of these, for a client that was gone
	high     []time.Duration // the latencies of High requests that were answered, sorted
}

const (
	loadWorkers  = 16
	loadWork     = 50 * time.Millisecond // of a request on average: from half to one and a half of it
	loadPatience = time.Second           // of each client, which asks once more
	loadTime     = 15 * time.Second
	capacity     = float64(loadWorkers) / .05 // requests a second
)

// load sends a service so many times what it can answer, a tenth of it of High priority.
func load(t *testing.T, times float64, task taskpool.Task, opts ...taskpool.Option) (o outcome) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(append(opts, taskpool.WithWorkers(loadWorkers))...)
		require.NoError(t, err)
		var mu sync.Mutex // protects o and works
		works := rand.New(rand.NewPCG(2, 0))
		h := httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			o.startedN++
			if r.Context().Err() != nil {
				o.lateN++
			}
			work := time.NewTimer(loadWork/2 + time.Duration(works.Int64N(int64(loadWork)))) // which ends no sooner for a client that has gone
			mu.Unlock()
			<-work.C
		}), func(r *http.Request) (taskpool.Task, bool) {
			t := task
			if r.URL.Path == "/high" {
				t.Priority = taskpool.High
			}
			return t, true
		})
		random := rand.New(rand.NewPCG(1, 0))
		begun := time.Now()
		var clients sync.WaitGroup
		for time.Since(begun) < loadTime {
			time.Sleep(time.Duration(random.ExpFloat64() / (times * capacity) * float64(time.Second)))
			path, pause := "/low", time.Duration(random.Int64N(int64(time.Second)))
			if random.IntN(10) == 0 {
				path = "/high"
			}
			clients.Go(func() {
				for try := range 2 {
					ctx, gaveUp := context.WithTimeout(context.Background(), loadPatience)
					sent := time.Now()
					w := ask(h, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
					ok := w.Code == http.StatusOK && ctx.Err() == nil
					gaveUp()
					if ok {
						mu.Lock()
						if time.Since(begun) <= loadTime {
							o.inTime++
						}
						if path == "/high" {
							o.high = append(o.high, time.Since(sent))
						}
						mu.Unlock()
						return
					}
					if try == 0 {
						time.Sleep(pause)
					}
				}
			})
		}
		clients.Wait()
		require.NoError(t, p.Shutdown(t.Context()))
	})
	slices.Sort(o.high)
	return o
}

func (o outcome) highP99() time.Duration { return o.high[len(o.high)*99/100] }

// At four times what the service can answer, with clients that give up after a second and ask
// once more: 95 % of what can be is answered in time, High is as fast as at half the load, and
// nothing begins for nobody.
func TestGoodputAndLatencyUnderOverload(t *testing.T) {
	if pooltest.Scarce() {
		t.Skip("a minute of overload takes seconds, though it is virtual")
	}
	half := load(t, .5, taskpool.Task{})
	require.InDelta(t, half.startedN, half.inTime, loadWorkers)
	for name, test := range map[string]struct {
		task taskpool.Task
		opts []taskpool.Option
	}{
		"MaxWait":     {taskpool.Task{MaxWait: 500 * time.Millisecond}, nil},
		"queue delay": {taskpool.Task{}, []taskpool.Option{taskpool.WithQueueDelay(50 * time.Millisecond)}},
		"capacity":    {taskpool.Task{}, []taskpool.Option{taskpool.WithCapacity(64, taskpool.OverflowShed)}},
	} {
		o := load(t, 4, test.task, test.opts...)
		t.Logf("%s: %.1f %% of capacity in time, High p99 %v (at half load %v), %d started", name,
			100*float64(o.inTime)/(capacity*loadTime.Seconds()), o.highP99(), half.highP99(), o.startedN)
		require.GreaterOrEqual(t, float64(o.inTime), .95*capacity*loadTime.Seconds(), name)
		require.LessOrEqual(t, o.highP99(), half.highP99()*3/2, name)
		require.Zero(t, o.lateN, name)
	}
}
