package taskpool_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

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
