//go:build linux || darwin

package prompool_test

import (
	"context"
	"io"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

// BenchmarkOverhead says what the collector costs a task that takes 1 µs, on a pool with
// the default queue and on one whose queue is bounded. Each of b.N rounds makes the same
// tasks on a pool without the collector and on one with it, with hooks and a scrape, in
// changing order, and the medians of all rounds are compared: of the CPU time of the
// process, in which other work of the machine does not count. 1 is no overhead; use
// -benchtime 11x.
func BenchmarkOverhead(b *testing.B) {
	one := spinner()
	run := func(context.Context) error { one(); return nil }
	submits := map[string]func(*taskpool.Pool) error{
		"Go": func(p *taskpool.Pool) error { return p.Go(taskpool.Medium, one) },
		"Submit": func(p *taskpool.Pool) error {
			_, err := p.Submit(context.Background(), taskpool.Task{Run: run})
			return err
		},
	}
	queues := map[string][]taskpool.Option{
		"unbounded": nil,
		"bounded":   {taskpool.WithCapacity(1024, taskpool.OverflowWait)},
	}
	for _, submit := range []string{"Go", "Submit"} {
		for _, queue := range []string{"unbounded", "bounded"} {
			b.Run(submit+"/"+queue, func(b *testing.B) {
				benchmarkOverhead(b, submits[submit], queues[queue])
			})
		}
	}
}

func benchmarkOverhead(b *testing.B, submit func(*taskpool.Pool) error, opts []taskpool.Option) {
	// A scrape a round is one in 0.2 s or less: more than any server makes.
	const tasks = 200_000
	round := func(collected bool) time.Duration {
		c, reg := newCollector(b)
		opts := append([]taskpool.Option{taskpool.WithWorkers(2)}, opts...)
		if collected {
			opts = append(opts, taskpool.WithHooks(c.Hooks()))
		}
		p, err := taskpool.New(opts...)
		require.NoError(b, err)
		if collected {
			require.NoError(b, c.Watch(p))
		}
		start := cpuTime(b)
		for i := range tasks {
			for submit(p) != nil { // Go does not wait for room
				require.NoError(b, p.WaitIdle(context.Background()))
			}
			if i == tasks/2 && collected {
				write(b, reg, io.Discard)
			}
		}
		require.NoError(b, p.Shutdown(context.Background()))
		return cpuTime(b) - start
	}
	var without, with []time.Duration
	for i := range b.N {
		for _, collected := range []bool{i%2 == 0, i%2 != 0} {
			if d := round(collected); collected {
				with = append(with, d)
			} else {
				without = append(without, d)
			}
		}
	}
	perTask := func(all []time.Duration) float64 { return float64(median(all)) / tasks }
	b.ReportMetric(perTask(without), "cpu-ns/task-without")
	b.ReportMetric(perTask(with), "cpu-ns/task-with")
	b.ReportMetric(perTask(with)/perTask(without), "with/without")
	b.ReportMetric(0, "ns/op")
}

// cpuTime returns the CPU time that the process has used.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// spinner returns a function that takes about a microsecond.
func spinner() func() {
	work := func(n int) func() {
		return func() {
			x := uint64(n) | 1
			for range n {
				x ^= x << 13
				x ^= x >> 7
				x ^= x << 17
			}
			if x == 0 { // it never is, but the compiler does not know
				panic("unreachable")
			}
		}
	}
	best := time.Duration(1<<63 - 1)
	const trial = 1 << 20
	for range 5 {
		start := time.Now()
		work(trial)()
		best = min(best, time.Since(start))
	}
	return work(int(trial * time.Microsecond / best))
}
