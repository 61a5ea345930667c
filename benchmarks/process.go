package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/process"
)

const (
	groupCalls   = "Small calls in child processes, two workers"
	groupCompute = "Computing in child processes, two workers"

	callWorkers = 2
	manyCallers = 2 * callWorkers // so that no worker lacks a call
	computeTime = 10 * time.Millisecond
)

// A callee is a function that is called in this process and in others.
type callee struct {
	f     func(context.Context, int) (uint64, error)
	child *process.Func[int, uint64] // f in a child process
}

func newCallee(name string, f func(int) uint64) callee {
	inner := func(_ context.Context, x int) (uint64, error) { return f(x), nil }
	return callee{inner, process.Register(name, inner)}
}

// In Python they have the same names.
var (
	incrementing = newCallee("increment", func(x int) uint64 { return uint64(x) + 1 })
	spinning     = newCallee("spin", spin)
)

// A calling is a scenario in which callers call a function, each of them one call
// after the other, and the time counts until all have their results.
type calling struct {
	group, name  string
	callee       callee
	callers      int
	calls, short int // how many, and how many in the short form
	// computes is set if a call is computeTime of spin. As that is fewer turns in
	// Python, the figure is the time of a turn then, and else that of a call.
	computes bool
}

func callings() []calling {
	return []calling{
		{groupCalls, "small call, one at a time", incrementing, 1, 5_000, 100, false},
		{groupCalls, "small call, many at once", incrementing, manyCallers, 10_000, 100, false},
		{groupCompute, "call of 10 ms, many at once", spinning, manyCallers, 100, 4, true},
	}
}

// processScenarios measures what it costs to do work in other processes: with
// package process, and with what Python brings along for that, where there is a
// Python. What the same calls cost as tasks of a pool in this process stands
// beside it: the price of being safe from each other.
func processScenarios(withPython bool) []scenario {
	if runtime.GOOS == "windows" {
		return nil // package process does not work there
	}
	var all []scenario
	for _, c := range callings() {
		s := scenario{group: c.group, name: c.name, metrics: []metric{{"time a call", "µs"}}}
		if c.computes {
			s.metrics = []metric{{"time a turn", "ns"}}
		}
		s.contestants = []contestant{
			{"process", ours, func(short bool) []float64 { return c.round(short, c.inChildren()) }},
			// A child has one thing to do at a time, as a Python worker has. On two
			// processors that is the default, so two figures of the same thing: they show
			// how much hangs on where the kernel puts parent and child.
			{"process, GOMAXPROCS=1", other, func(short bool) []float64 {
				return c.round(short, c.inChildren(process.WithEnv("GOMAXPROCS=1")))
			}},
			{"taskpool", other, func(short bool) []float64 { return c.round(short, c.inPool) }},
		}
		if withPython {
			for _, pool := range pythonPools {
				s.contestants = append(s.contestants, contestant{pool, peer, func(short bool) []float64 {
					return c.round(short, c.inPython(pool))
				}})
			}
		}
		s.note = func(r result) string { return c.note(r, withPython) }
		all = append(all, s)
	}
	return append(all, bulkScenarios(withPython)...)
}

// note says what the table cannot.
func (c calling) note(r result, withPython bool) string {
	var notes []string
	if c.computes {
		var rates []string
		for _, each := range r.Contestants {
			if turn, ok := r.median(each.Name, 0); ok && turn > 0 {
				rates = append(rates, each.Name+": "+number(1e3/turn))
			}
		}
		notes = append(notes, "Millions of turns a second, "+strings.Join(rates, "; ")+".")
	}
	if !withPython {
		notes = append(notes, noPython)
	}
	return strings.Join(notes, " ")
}

var noPython = "There was no python3, so " + strings.Join(pythonPools, " and ") + " did not take part."

// round returns a round's value. measure makes calls and returns what they took and
// the argument that they had.
func (c calling) round(short bool, measure func(calls int) (took time.Duration, argument int)) []float64 {
	calls := c.calls
	if short {
		calls = c.short
	}
	took, argument := measure(calls)
	call := float64(took.Nanoseconds()) / float64(calls)
	if c.computes {
		return []float64{call / float64(argument)}
	}
	return []float64{call / 1e3}
}

// argument returns what the function is called with, if spin makes so many turns in
// 1 ms.
func (c calling) argument(turnsOfMillisecond func() int) int {
	if c.computes {
		return int(computeTime.Milliseconds()) * turnsOfMillisecond()
	}
	return 1
}

// inChildren returns a measurement with package process.
func (c calling) inChildren(opts ...process.Option) func(calls int) (time.Duration, int) {
	return func(calls int) (time.Duration, int) {
		ctx := context.Background()
		w, err := process.New(append(opts, process.WithWorkers(callWorkers))...)
		must(err)
		defer func() { must(w.Shutdown(ctx)) }()
		return c.measure(calls, func(x int) (uint64, error) { return c.callee.child.Call(ctx, w, x) })
	}
}

// inPool measures with a pool of goroutines in this process.
func (c calling) inPool(calls int) (time.Duration, int) {
	ctx := context.Background()
	p := newTaskpool(callWorkers)
	defer p.close()
	return c.measure(calls, func(x int) (uint64, error) {
		return taskpool.Call(ctx, p.p, taskpool.Task{}, func(ctx context.Context) (uint64, error) { return c.callee.f(ctx, x) })
	})
}

// measure has the callers make their calls, when each worker has had one.
func (c calling) measure(calls int, call func(x int) (uint64, error)) (took time.Duration, argument int) {
	argument = c.argument(func() int { return 1000 * turnsOfMicrosecond() })
	want, err := c.callee.f(context.Background(), argument)
	must(err)
	each := func(n int) {
		for range n {
			if v, err := call(argument); err != nil || v != want {
				panic(fmt.Sprintf("%s returned %d, %v", c.callee.child.Name(), v, err))
			}
		}
	}
	share(4*callWorkers, manyCallers, each)
	runtime.GC()
	begin := time.Now()
	share(calls, c.callers, each)
	return time.Since(begin), argument
}

// inPython returns a measurement with one of pythonPools.
func (c calling) inPython(pool string) func(calls int) (time.Duration, int) {
	return func(calls int) (time.Duration, int) {
		r := pythonRequest{
			Pool: pool, Workers: callWorkers, Function: c.callee.child.Name(), Calls: calls,
			Argument: c.argument(pythonTurnsOfMillisecond),
		}
		if c.callers > 1 {
			r.How = "many"
		}
		took, result := startPython().measure(r)
		if want, err := c.callee.f(context.Background(), r.Argument); err != nil || result != want {
			panic(fmt.Sprintf("%s in Python returned %d, not %d", r.Function, result, want))
		}
		return took, r.Argument
	}
}
