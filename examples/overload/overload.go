// Package overload is an experiment: how long does what is started wait, and how much is started
// at all, when 80, 120, 200 and 400 % of what the workers can do comes in? With one queue for
// all, with a bounded one, and with the queue delay. It has the form of a test, as its time is
// virtual: in a bubble of testing/synctest the real pool works through 30 seconds each time, and
// the figures come out the same.
//
//	go test -C examples/overload -v -run TestPlot
//
// prints the figures, after some 10 s of real time, and fails if they are not those of waits.csv,
// or the picture is not overload.svg. It writes no file; to replace both, which docs/overload.md
// shows, add -update.
//
// There are eight workers, and a task takes 5 to 15 ms of virtual time. Tasks arrive at random
// moments, a third of them High, a third Medium and a third Low. Who has waited a second is gone:
// what starts later is of no use to anybody, and counts as work but not as good work.
package overload

import (
	"context"
	"encoding/csv"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	workers = 8
	mean    = 10 * time.Millisecond // that a task takes
	horizon = 30 * time.Second      // when the last tasks arrive
	useful  = time.Second           // what has waited longer is of no use
	target  = 20 * time.Millisecond // of the queue delay
	room    = 2000                  // of the bounded queue: 2.5 s of work
)

// loads are how much comes in, of what the workers can do.
var loads = []float64{.8, 1.2, 2, 4}

var priorities = []taskpool.Priority{taskpool.High, taskpool.Medium, taskpool.Low}

// A variant is a pool that is meant to cope with overload, or not.
type variant struct {
	name string
	opts []taskpool.Option
}

func variants() []variant {
	return []variant{
		{"first in, first out", []taskpool.Option{taskpool.WithFairShare(1)}},
		{"priorities and a capacity", []taskpool.Option{taskpool.WithCapacity(room, taskpool.OverflowShed)}},
		{"priorities and a queue delay", []taskpool.Option{taskpool.WithQueueDelay(target)}},
	}
}

// An arrival is a task to come.
type arrival struct {
	at, run  time.Duration
	priority taskpool.Priority
}

// arrivals returns a Poisson process: the gaps are exponential.
func arrivals(load float64) (all []arrival) {
	random := rand.New(rand.NewPCG(1, uint64(100*load)))
	gap := func() time.Duration {
		return time.Duration(random.ExpFloat64() * float64(mean) / workers / load)
	}
	for at := gap(); at < horizon; at += gap() {
		run := time.Duration((.5 + random.Float64()) * float64(mean))
		all = append(all, arrival{at, run, priorities[random.IntN(len(priorities))]})
	}
	return all
}

// A result is what was measured of the tasks of one priority.
type result struct {
	variant  int
	load     float64
	priority taskpool.Priority
	arrived  int
	waits    []time.Duration // of those that had started when the last arrived, sorted
	work     time.Duration   // what these took
	good     time.Duration   // what those of them took that were of use
}

// simulate returns the results by priority.
func simulate(i int, load float64) (results []*result, err error) {
	of := make(map[taskpool.Priority]*result)
	for _, pr := range priorities {
		of[pr] = &result{variant: i, load: load, priority: pr}
		results = append(results, of[pr])
	}
	pool, err := taskpool.New(append(variants()[i].opts, taskpool.WithWorkers(workers))...)
	if err != nil {
		return nil, err
	}
	type start struct {
		arrival
		wait time.Duration
	}
	starts := make(chan start, 1<<20)
	begin := time.Now()
	for _, a := range arrivals(load) {
		time.Sleep(a.at - time.Since(begin))
		of[a.priority].arrived++
		_ = pool.Go(a.priority, func() { // what is refused does not start either
			if now := time.Since(begin); now < horizon {
				starts <- start{a, now - a.at}
			} else {
				return // the rest is not looked at
			}
			time.Sleep(a.run)
		})
	}
	err = pool.Shutdown(context.Background())
	close(starts)
	for s := range starts {
		r := of[s.priority]
		r.waits = append(r.waits, s.wait)
		r.work += s.run
		if s.wait <= useful {
			r.good += s.run
		}
	}
	for _, r := range results {
		slices.Sort(r.waits)
	}
	return results, err
}

// quantile returns the least time within which a share q of those that started had.
func (r *result) quantile(q float64) time.Duration {
	if len(r.waits) == 0 {
		return 0
	}
	return r.waits[max(int(math.Ceil(q*float64(len(r.waits)))), 1)-1]
}

// share returns d as a part of the workers' time.
func share(d time.Duration) float64 { return float64(d) / float64(horizon) / workers }

// write writes the results as CSV, with times in milliseconds and shares in percent.
func write(w io.Writer, results []*result) error {
	rows := csv.NewWriter(w)
	_ = rows.Write([]string{"load %", "variant", "priority", "arrived", "started", "p50 ms", "p99 ms", "longest ms", "work %", "good work %"})
	percent := func(d time.Duration) string { return strconv.FormatFloat(100*share(d), 'f', 1, 64) }
	for _, r := range results {
		row := []string{strconv.Itoa(int(math.Round(100 * r.load))), variants()[r.variant].name, r.priority.String(),
			strconv.Itoa(r.arrived), strconv.Itoa(len(r.waits))}
		for _, q := range []float64{.5, .99, 1} {
			row = append(row, strconv.FormatFloat(float64(r.quantile(q).Microseconds())/1000, 'f', 1, 64))
		}
		_ = rows.Write(append(row, percent(r.work), percent(r.good)))
	}
	rows.Flush()
	return rows.Error()
}
