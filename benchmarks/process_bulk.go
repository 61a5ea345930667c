package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/taskpool-go/taskpool/process"
)

const (
	groupMaps  = "Maps in child processes, two workers"
	groupBytes = "Bytes to a child process and back"
)

var echoing = process.Register("echo", func(_ context.Context, data []byte) ([]byte, error) { return data, nil })

// bulkScenarios measures what is more than a small call: many elements that travel together,
// and much data. In a pool of this process both would cost nothing to speak of.
func bulkScenarios(withPython bool) []scenario {
	beside := func(s scenario, in func(pool string, short bool) []float64) scenario {
		if !withPython {
			s.note = func(result) string { return noPython }
			return s
		}
		for _, pool := range pythonPools {
			s.contestants = append(s.contestants, contestant{pool, peer, func(short bool) []float64 { return in(pool, short) }})
		}
		return s
	}
	size := func(n int, short bool, few int) int {
		if short {
			return few
		}
		return n
	}

	const elements = 200_000
	perElement := func(took time.Duration, n int) []float64 {
		return []float64{float64(took.Nanoseconds()) / 1e3 / float64(n)}
	}
	all := []scenario{beside(scenario{
		group: groupMaps, name: "map of 200,000 small elements", metrics: []metric{{"time an element", "µs"}},
		contestants: []contestant{{"process", ours, func(short bool) []float64 {
			n := size(elements, short, 100)
			return perElement(mapInChildren(n), n)
		}}},
	}, func(pool string, short bool) []float64 {
		n := size(elements, short, 100)
		took, result := startPython().measure(pythonRequest{Pool: pool, Workers: callWorkers, Function: "increment", Argument: 1, Calls: n, How: "chunks"})
		if result != 2 {
			panic(fmt.Sprintf("increment in Python returned %d", result))
		}
		return perElement(took, n)
	})}

	for _, c := range []struct {
		name         string
		bytes, calls int
	}{{"1 MiB there and back", 1 << 20, 100}, {"32 MiB there and back", 32 << 20, 2}} {
		perCall := func(took time.Duration, calls int) []float64 { return []float64{took.Seconds() * 1e3 / float64(calls)} }
		all = append(all, beside(scenario{
			group: groupBytes, name: c.name, metrics: []metric{{"time a call", "ms"}},
			contestants: []contestant{{"process", ours, func(short bool) []float64 {
				calls := size(c.calls, short, 2)
				return perCall(echoInChild(c.bytes, calls), calls)
			}}},
		}, func(pool string, short bool) []float64 {
			calls := size(c.calls, short, 2)
			took, result := startPython().measure(pythonRequest{Pool: pool, Workers: callWorkers, Function: "echo", Argument: c.bytes, Calls: calls})
			if result != uint64(c.bytes) {
				panic(fmt.Sprintf("echo in Python returned %d bytes", result))
			}
			return perCall(took, calls)
		}))
	}
	return all
}

// withChildren calls f with children that have had a few calls.
func withChildren(f func(ctx context.Context, w *process.Pool) time.Duration) time.Duration {
	ctx := context.Background()
	w, err := process.New(process.WithWorkers(callWorkers))
	must(err)
	defer func() { must(w.Shutdown(ctx)) }()
	share(4*callWorkers, manyCallers, func(n int) {
		for range n {
			_, err := incrementing.child.Call(ctx, w, 1)
			must(err)
		}
	})
	runtime.GC()
	return f(ctx, w)
}

func mapInChildren(n int) time.Duration {
	return withChildren(func(ctx context.Context, w *process.Pool) time.Duration {
		arguments, got := slices.Repeat([]int{1}, n), 0
		begin := time.Now()
		for v, err := range process.Map(ctx, w, incrementing.child, slices.Values(arguments)) {
			if got++; err != nil || v != 2 {
				panic(fmt.Sprintf("increment returned %d, %v", v, err))
			}
		}
		took := time.Since(begin)
		if got != n {
			panic(fmt.Sprintf("%d results of %d", got, n))
		}
		return took
	})
}

func echoInChild(size, calls int) time.Duration {
	return withChildren(func(ctx context.Context, w *process.Pool) time.Duration {
		data := make([]byte, size)
		each := func() {
			if v, err := echoing.Call(ctx, w, data); err != nil || len(v) != size {
				panic(fmt.Sprintf("echo returned %d bytes, %v", len(v), err))
			}
		}
		each() // as Python has, too
		begin := time.Now()
		for range calls {
			each()
		}
		return time.Since(begin)
	})
}
