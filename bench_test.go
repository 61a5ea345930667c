package taskpool_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// The benchmarks run from the first submit to the end of the last of b.N tasks.
// Tasks are empty, so what is measured is the pool alone. BenchmarkChannel and
// the sub-benchmarks named channel are what one would write by hand: goroutines
// that range over a buffered channel of functions. Compare ratios of one run,
// not times, and on a quiet machine.

const channelCapacity = 1024

var (
	benchProducers  = []int{1, 8}
	benchWorkers    = []int{2, 64}
	benchPriorities = []int{1, 3}
)

func emptyFunc() {}

func emptyRun(context.Context) error { return nil }

// spread returns the priority of the i-th task, of n that are all equally
// frequent, so that every task in a row has another one.
func spread(i, n int) taskpool.Priority { return taskpool.Priority(i % n) }

// produce calls one b.N times in all, on the given number of goroutines, and
// returns when they have ended. The first error fails the benchmark.
func produce(b *testing.B, producers int, one func(i int) error) {
	b.Helper()
	errs := make([]error, producers)
	var wg sync.WaitGroup
	for k := range producers {
		wg.Go(func() {
			for i := k; i < b.N && errs[k] == nil; i += producers {
				// Producers that divide the number of priorities would
				// otherwise have one priority each.
				errs[k] = one(i / producers)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(b, err)
	}
}

// requireDone checks that a pool has done n tasks, no more and no less.
func requireDone(b *testing.B, p *taskpool.Pool, n int) {
	b.Helper()
	s := p.Stats()
	require.EqualValues(b, n, s.Submitted)
	require.EqualValues(b, n, s.Succeeded+s.Failed)
}

// A channelPool is goroutines on one buffered channel.
type channelPool struct {
	tasks   chan func()
	workers sync.WaitGroup
}

func newChannelPool(workers, capacity int) *channelPool {
	c := &channelPool{tasks: make(chan func(), capacity)}
	c.start(workers)
	return c
}

func (c *channelPool) start(workers int) {
	for range workers {
		c.workers.Go(func() {
			for f := range c.tasks {
				f()
			}
		})
	}
}

// drain waits for all tasks.
func (c *channelPool) drain() {
	close(c.tasks)
	c.workers.Wait()
}

func BenchmarkGo(b *testing.B) {
	for _, producers := range benchProducers {
		for _, workers := range benchWorkers {
			for _, priorities := range benchPriorities {
				b.Run(fmt.Sprintf("producers=%d/workers=%d/priorities=%d", producers, workers, priorities), func(b *testing.B) {
					p := pooltest.New(b, taskpool.WithWorkers(workers))
					b.ReportAllocs()
					b.ResetTimer()
					produce(b, producers, func(i int) error { return p.Go(spread(i, priorities), emptyFunc) })
					require.NoError(b, p.WaitIdle(context.Background()))
					b.StopTimer()
					requireDone(b, p, b.N)
				})
			}
		}
	}
}

// With wait=true a producer waits for each task before it submits the next.
func BenchmarkSubmit(b *testing.B) {
	for _, wait := range []bool{false, true} {
		for _, producers := range benchProducers {
			for _, workers := range benchWorkers {
				for _, priorities := range benchPriorities {
					b.Run(fmt.Sprintf("wait=%t/producers=%d/workers=%d/priorities=%d", wait, producers, workers, priorities), func(b *testing.B) {
						benchmarkSubmit(b, wait, producers, workers, priorities)
					})
				}
			}
		}
	}
}

func benchmarkSubmit(b *testing.B, wait bool, producers, workers, priorities int, opts ...taskpool.Option) {
	ctx := context.Background()
	p := pooltest.New(b, append(opts, taskpool.WithWorkers(workers))...)
	b.ReportAllocs()
	b.ResetTimer()
	produce(b, producers, func(i int) error {
		h, err := p.Submit(ctx, taskpool.Task{Priority: spread(i, priorities), Run: emptyRun})
		if err != nil || !wait {
			return err
		}
		return h.Wait(ctx)
	})
	require.NoError(b, p.WaitIdle(ctx))
	b.StopTimer()
	requireDone(b, p, b.N)
}

// A queue as long as the channel's, on which submitters have to wait like the
// channel's senders.
func BenchmarkSubmitBounded(b *testing.B) {
	for _, producers := range benchProducers {
		for _, workers := range benchWorkers {
			b.Run(fmt.Sprintf("producers=%d/workers=%d/priorities=1", producers, workers), func(b *testing.B) {
				benchmarkSubmit(b, false, producers, workers, 1,
					taskpool.WithCapacity(channelCapacity, taskpool.OverflowWait))
			})
		}
	}
}

// BenchmarkFlows submits the tasks of so many flows in turn, and none is waited for.
func BenchmarkFlows(b *testing.B) {
	for _, flows := range []int{0, 1000, 100_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			names := make([]string, max(flows, 1)) // with 0 the empty one
			for i := range flows {
				names[i] = "flow " + strconv.Itoa(i)
			}
			ctx := context.Background()
			p := pooltest.New(b, taskpool.WithWorkers(8))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := p.Submit(ctx, taskpool.Task{Flow: names[i%len(names)], Run: emptyRun}); err != nil {
					b.Fatal(err)
				}
			}
			require.NoError(b, p.WaitIdle(ctx))
		})
	}
}

// BenchmarkDo compares Do with Call and with what one would write by hand, a semaphore or a
// buffered channel used as one, with a free slot and where 16 goroutines for each processor
// want one of one or two slots.
func BenchmarkDo(b *testing.B) {
	ctx := context.Background()
	f := func(context.Context) error { return nil }
	for _, load := range []struct {
		name      string
		slots     int
		contended bool
	}{{"free", 4, false}, {"contended/slots=1", 1, true}, {"contended/slots=2", 2, true}} {
		run := func(name string, one func() error) {
			b.Run(load.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				if !load.contended {
					for b.Loop() {
						if err := one(); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				b.SetParallelism(16)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := one(); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
		p := pooltest.New(b, taskpool.WithWorkers(load.slots))
		run("Do", func() error { return p.Do(ctx, taskpool.Task{}, f) })
		run("Call", func() error {
			_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 0, f(ctx) })
			return err
		})
		s := semaphore.NewWeighted(int64(load.slots))
		run("semaphore", func() error {
			if err := s.Acquire(ctx, 1); err != nil {
				return err
			}
			defer s.Release(1)
			return f(ctx)
		})
		c := make(chan struct{}, load.slots)
		run("channel", func() error {
			c <- struct{}{}
			defer func() { <-c }()
			return f(ctx)
		})
	}
}

// With wait=true each producer has one channel on which its tasks answer, the
// cheapest there is, as nothing is made anew for a task.
func BenchmarkChannel(b *testing.B) {
	for _, wait := range []bool{false, true} {
		for _, producers := range benchProducers {
			for _, workers := range benchWorkers {
				b.Run(fmt.Sprintf("wait=%t/producers=%d/workers=%d", wait, producers, workers), func(b *testing.B) {
					c := newChannelPool(workers, channelCapacity)
					b.ReportAllocs()
					b.ResetTimer()
					if wait {
						produceAndWait(b, c, producers)
					} else {
						produce(b, producers, func(int) error { c.tasks <- emptyFunc; return nil })
					}
					c.drain()
				})
			}
		}
	}
}

func produceAndWait(b *testing.B, c *channelPool, producers int) {
	var wg sync.WaitGroup
	for k := range producers {
		wg.Go(func() {
			done := make(chan struct{}, 1)
			f := func() { done <- struct{}{} }
			for i := k; i < b.N; i += producers {
				c.tasks <- f
				<-done
			}
		})
	}
	wg.Wait()
}

// An iteration fills a paused pool, or a channel without readers, and drains
// it. The result is per task. With 1,000 priorities every task in a row has
// another one.
func BenchmarkBacklog(b *testing.B) {
	const workers = 2
	for _, waiting := range []int{1_000, 10_000, 100_000, 1_000_000} {
		for _, priorities := range []int{1, 3, 1_000} {
			b.Run(fmt.Sprintf("waiting=%d/priorities=%d", waiting, priorities), func(b *testing.B) {
				benchmarkBacklog(b, waiting, priorities, taskpool.WithWorkers(workers))
			})
		}
		b.Run(fmt.Sprintf("waiting=%d/channel", waiting), func(b *testing.B) {
			for b.Loop() {
				c := newChannelPool(0, waiting)
				for range waiting {
					c.tasks <- emptyFunc
				}
				c.start(workers)
				c.drain()
			}
			perTask(b, waiting)
		})
	}
}

func benchmarkBacklog(b *testing.B, waiting, priorities int, opts ...taskpool.Option) {
	ctx := context.Background()
	p := pooltest.New(b, opts...)
	rounds := 0
	for b.Loop() {
		p.Pause()
		for i := range waiting {
			if err := p.Go(spread(i, priorities), emptyFunc); err != nil {
				b.Fatal(err)
			}
		}
		p.Resume()
		if err := p.WaitIdle(ctx); err != nil {
			b.Fatal(err)
		}
		rounds++
	}
	perTask(b, waiting)
	requireDone(b, p, rounds*waiting)
}

// perTask has the time of an iteration reported per task instead.
func perTask(b *testing.B, tasks int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(tasks), "ns/task")
	b.ReportMetric(0, "ns/op")
}

// What the rules of order cost where every dispatch has a choice.
func BenchmarkOrder(b *testing.B) {
	const waiting = 10_000
	for _, order := range []struct {
		name string
		opt  taskpool.Option
	}{
		{"strict", taskpool.WithFairShare(0)},
		{"fairshare=16", taskpool.WithFairShare(16)},
		{"aging=1s", taskpool.WithAging(time.Second)},
	} {
		for _, priorities := range []int{1, 3, 100} {
			b.Run(fmt.Sprintf("%s/priorities=%d", order.name, priorities), func(b *testing.B) {
				benchmarkBacklog(b, waiting, priorities, taskpool.WithWorkers(2), order.opt)
			})
		}
	}
}

// The channel's workers recover and go on; the pool also replaces the worker
// and takes the stack, so that the task's error can tell where it happened.
func BenchmarkPanic(b *testing.B) {
	boom := func() { panic("boom") }
	for _, percent := range []int{0, 10} {
		pick := func(i int, bad, good func()) func() {
			if i%10 < percent/10 {
				return bad
			}
			return good
		}
		b.Run(fmt.Sprintf("percent=%d/pool", percent), func(b *testing.B) {
			p := pooltest.New(b, taskpool.WithWorkers(2))
			b.ReportAllocs()
			b.ResetTimer()
			produce(b, 1, func(i int) error { return p.Go(taskpool.Medium, pick(i, boom, emptyFunc)) })
			require.NoError(b, p.WaitIdle(context.Background()))
			b.StopTimer()
			requireDone(b, p, b.N)
			require.EqualValues(b, (b.N+9)/10*(percent/10), p.Stats().Panics)
		})
		b.Run(fmt.Sprintf("percent=%d/channel", percent), func(b *testing.B) {
			contained := func(f func()) func() {
				return func() {
					defer func() { _ = recover() }()
					f()
				}
			}
			bad, good := contained(boom), contained(emptyFunc) // made once: nothing per task
			c := newChannelPool(2, channelCapacity)
			b.ReportAllocs()
			b.ResetTimer()
			produce(b, 1, func(i int) error { c.tasks <- pick(i, bad, good); return nil })
			c.drain()
		})
	}
}

// What hooks for starts and ends cost: none, those that see one in 16 of the
// functions given to Go, and those that see all.
func BenchmarkHooks(b *testing.B) {
	for _, every := range []int{0, 16, 1} {
		var opts []taskpool.Option
		if every > 0 {
			var events atomic.Int64
			count := func(taskpool.TaskEvent) { events.Add(1) }
			opts = append(opts, taskpool.WithHooks(taskpool.Hooks{Started: count, Finished: count, GoEvery: every}))
		}
		b.Run(fmt.Sprintf("Go/every=%d", every), func(b *testing.B) {
			p := pooltest.New(b, append(opts, taskpool.WithWorkers(2))...)
			b.ReportAllocs()
			b.ResetTimer()
			produce(b, 1, func(int) error { return p.Go(taskpool.Medium, emptyFunc) })
			require.NoError(b, p.WaitIdle(context.Background()))
			b.StopTimer()
			requireDone(b, p, b.N)
		})
		b.Run(fmt.Sprintf("Submit/every=%d", every), func(b *testing.B) {
			benchmarkSubmit(b, false, 1, 2, 1, opts...)
		})
	}
}

// One context ends that 100,000 tasks wait with, or that each of theirs derives from,
// and all are canceled. Beside it is what one would write by hand, a context.AfterFunc
// for each that counts under a mutex.
func BenchmarkCancelStorm(b *testing.B) {
	const tasks = 100_000
	for _, distinct := range []bool{false, true} {
		// contexts returns the tasks' contexts, and what ends them.
		contexts := func() ([]context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			all := make([]context.Context, tasks)
			for i := range all {
				if all[i] = ctx; distinct {
					var end context.CancelFunc
					all[i], end = context.WithCancel(ctx)
					b.Cleanup(end)
				}
			}
			return all, cancel
		}
		b.Run(fmt.Sprintf("AfterFunc/distinct=%t", distinct), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				ctxs, cancel := contexts()
				var mu sync.Mutex
				n, all := 0, make(chan struct{})
				for _, ctx := range ctxs {
					context.AfterFunc(ctx, func() {
						mu.Lock()
						defer mu.Unlock()
						if n++; n == tasks {
							close(all)
						}
					})
				}
				b.StartTimer()
				cancel()
				<-all
			}
		})
		b.Run(fmt.Sprintf("taskpool/distinct=%t", distinct), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				p := pooltest.New(b, taskpool.WithWorkers(1))
				release := pooltest.Block(b, p)
				ctxs, cancel := contexts()
				var all []*taskpool.Handle
				for _, ctx := range ctxs {
					h, err := p.Submit(ctx, taskpool.Task{Run: emptyRun})
					require.NoError(b, err)
					all = append(all, h)
				}
				b.StartTimer()
				cancel()
				for _, h := range all {
					require.Error(b, h.Wait(context.Background()))
				}
				b.StopTimer()
				release()
				require.NoError(b, p.Shutdown(context.Background()))
			}
		})
	}
}

// Submit with a context that can end: one for all tasks, or one for each.
func BenchmarkSubmitWithContext(b *testing.B) {
	for _, distinct := range []bool{false, true} {
		for _, producers := range benchProducers {
			b.Run(fmt.Sprintf("distinct=%t/producers=%d", distinct, producers), func(b *testing.B) {
				p := pooltest.New(b, taskpool.WithWorkers(2))
				shared, cancel := context.WithCancel(context.Background())
				defer cancel()
				b.ReportAllocs()
				b.ResetTimer()
				produce(b, producers, func(int) error {
					ctx, cancel := shared, func() {}
					if distinct {
						ctx, cancel = context.WithCancel(shared)
					}
					h, err := p.Submit(ctx, taskpool.Task{Run: emptyRun})
					if err == nil {
						err = h.Wait(context.Background())
					}
					cancel()
					return err
				})
				b.StopTimer()
				requireDone(b, p, b.N)
			})
		}
	}
}

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

// How long a program with many goroutines stands still because a task hangs, as the
// runtime counts it (standstill-ms, an upper bound: it counts in classes) and as a
// goroutine sees it that looks at the clock all the time (longest-ms, which the
// machine's other work lengthens). One hang:
//
//	go test -run '^$' -bench '^BenchmarkHang$' -benchtime 1x .
//
// and a hang every 20 ms for 4 s:
//
//	go test -run '^$' -bench '^BenchmarkHangStorm$' -benchtime 1x .

var manyGoroutines = []int{1000, 20_000, 100_000}

func BenchmarkHang(b *testing.B) {
	for _, n := range manyGoroutines {
		b.Run(fmt.Sprintf("goroutines=%d", n), func(b *testing.B) {
			measureHangs(b, n, 1, 0)
		})
	}
}

func BenchmarkHangStorm(b *testing.B) {
	for _, n := range manyGoroutines {
		b.Run(fmt.Sprintf("goroutines=%d", n), func(b *testing.B) {
			measureHangs(b, n, 200, 20*time.Millisecond)
		})
	}
}

// measureHangs has so many tasks hang, one each interval, in a program with that many
// goroutines.
func measureHangs(b *testing.B, goroutines, hangs int, every time.Duration) {
	p := pooltest.New(b, taskpool.WithWorkers(20), taskpool.WithHangGrace(100*time.Millisecond), taskpool.WithMaxAbandoned(1<<20))
	gate := make(chan struct{})
	defer close(gate)
	for range goroutines {
		go func() { <-gate }()
	}
	var over atomic.Bool
	var longest time.Duration
	var watch sync.WaitGroup
	watch.Go(func() {
		for last := time.Now(); !over.Load(); {
			now := time.Now()
			longest = max(longest, now.Sub(last))
			last = now
			runtime.Gosched()
		}
	})
	taskpool.AllowLooks()
	b.ResetTimer()
	before := standstill()
	var found atomic.Int64
	for range b.N {
		var all sync.WaitGroup
		for range hangs {
			h := pooltest.Submit(b, p, taskpool.Task{Timeout: time.Millisecond, Run: func(context.Context) error { <-gate; return nil }})
			all.Go(func() {
				var e *taskpool.HungError
				if errors.As(h.Wait(context.Background()), &e) && len(e.Stack) > 200 {
					found.Add(1)
				}
			})
			time.Sleep(every)
		}
		all.Wait()
	}
	still := standstill() - before
	b.StopTimer()
	over.Store(true)
	watch.Wait()
	b.ReportMetric(still*1e3/float64(b.N), "standstill-ms")
	b.ReportMetric(100*still/b.Elapsed().Seconds(), "standstill-%")
	b.ReportMetric(longest.Seconds()*1e3, "longest-ms")
	b.ReportMetric(100*float64(found.Load())/float64(b.N*hangs), "with-stack-%")
}

// standstill returns for how many seconds the program has been stopped, in all, but
// for garbage collection.
func standstill() float64 {
	s := []metrics.Sample{{Name: "/sched/pauses/total/other:seconds"}}
	metrics.Read(s)
	sum := 0.0
	for i, h := 0, s[0].Value.Float64Histogram(); i < len(h.Counts); i++ {
		if n := h.Counts[i]; n > 0 {
			sum += float64(n) * h.Buckets[i+1]
		}
	}
	return sum
}

func BenchmarkNewAndShutdown(b *testing.B) {
	for _, bench := range []struct {
		name    string
		workers int
		used    bool
	}{{"workers=2", 2, false}, {"workers=2/used", 2, true}, {"workers=100000", 100_000, false}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				p, err := taskpool.New(taskpool.WithWorkers(bench.workers))
				if err == nil && bench.used {
					err = p.Go(taskpool.Medium, emptyFunc)
				}
				require.NoError(b, err)
				require.NoError(b, p.Shutdown(context.Background()))
			}
		})
	}
}
