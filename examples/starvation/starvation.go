// Package starvation is an experiment: it measures how long tasks wait under strict
// priority, under aging and under the fair share, in a pool that has too much to do. It
// has the form of a test, as its time is virtual: in a bubble of testing/synctest the
// real pool works through 60 seconds, and the figures come out the same each time.
//
//	go test -C examples/starvation -v -run TestPlot
//
// prints the figures, after some 3 s of real time, and fails if they are not those of
// waits.csv. It writes no file; to replace waits.csv and starvation.svg, which
// docs/starvation.md shows, add -update.
//
// One worker does a task in 1 ms of virtual time, so it can do 1000 a second.
// High and Low tasks arrive at random moments, and under one load all three
// policies see the same arrivals.
package starvation

import (
	"cmp"
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
	service = time.Millisecond
	horizon = 60 * time.Second
	// Tasks that arrive later than this are load, but are not measured, so that
	// a wait of up to 10 s is seen to end.
	measured = 50 * time.Second
)

// A policy is one way of deciding who goes first.
type policy struct {
	name string
	opt  taskpool.Option
}

func policies() []policy {
	return []policy{
		{"strict", taskpool.WithFairShare(0)},
		{"aging, 1 s", taskpool.WithAging(time.Second)},
		{"fair share, 1 in 16", taskpool.WithFairShare(16)},
	}
}

// A load is how many tasks arrive, in percent of what the worker can do.
type load struct {
	name      string
	high, low int
}

func loads() []load {
	return []load{
		{"80 %: 30 % High, 50 % Low", 30, 50},
		{"120 %: 30 % High, 90 % Low", 30, 90},
		{"140 %: 110 % High, 30 % Low", 110, 30},
	}
}

// An arrival is a task to come.
type arrival struct {
	at time.Duration
	pr taskpool.Priority
}

// arrivals returns those of a load, in order. They are two independent Poisson
// processes: the gaps are exponential.
func arrivals(l load, seed uint64) (all []arrival) {
	for i, percent := range []int{l.high, l.low} {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		mean := float64(service) * 100 / float64(percent)
		gap := func() time.Duration { return time.Duration(rng.ExpFloat64() * mean) }
		for at := gap(); at < horizon; at += gap() {
			all = append(all, arrival{at, priorities[i]})
		}
	}
	slices.SortStableFunc(all, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	return all
}

var priorities = [2]taskpool.Priority{taskpool.High, taskpool.Low}

// A result is what was measured of the tasks of one priority.
type result struct {
	load     load
	policy   policy
	priority taskpool.Priority
	arrived  int             // while measured
	waits    []time.Duration // of those of them that started before the horizon, sorted
}

// simulate puts a pool with that policy under the load and returns the results
// for High and for Low.
func simulate(l load, pol policy, all []arrival) ([2]*result, error) {
	var results [2]*result
	for i, pr := range priorities {
		results[i] = &result{load: l, policy: pol, priority: pr}
	}
	pool, err := taskpool.New(taskpool.WithWorkers(1), pol.opt)
	if err != nil {
		return results, err
	}
	begin := time.Now()
	for _, a := range all {
		time.Sleep(a.at - time.Since(begin))
		r := results[0]
		if a.pr == taskpool.Low {
			r = results[1]
		}
		if a.at < measured {
			r.arrived++
		}
		if err := pool.Go(a.pr, func() {
			now := time.Since(begin)
			if now >= horizon {
				return // as if it had not started
			}
			if a.at < measured {
				r.waits = append(r.waits, now-a.at) // the worker is the only one
			}
			time.Sleep(service)
		}); err != nil {
			return results, err
		}
	}
	err = pool.Shutdown(context.Background())
	for _, r := range results {
		slices.Sort(r.waits)
	}
	return results, err
}

// quantile returns the least time within which a share q of the tasks that
// arrived had started; false if so many had not by the horizon.
func (r *result) quantile(q float64) (time.Duration, bool) {
	i := max(int(math.Ceil(q*float64(r.arrived))), 1) - 1
	if i >= len(r.waits) {
		return 0, false
	}
	return r.waits[i], true
}

// share returns the share of the tasks that had started within d of their
// arrival.
func (r *result) share(d time.Duration) float64 {
	n, _ := slices.BinarySearch(r.waits, d+1)
	return float64(n) / float64(r.arrived)
}

// writeTable writes the results as CSV, with times in milliseconds.
func writeTable(w io.Writer, results []*result) error {
	rows := csv.NewWriter(w)
	_ = rows.Write([]string{"load", "policy", "priority", "arrived", "started", "p50 ms", "p99 ms", "longest ms"})
	for _, r := range results {
		row := []string{r.load.name, r.policy.name, r.priority.String(), strconv.Itoa(r.arrived), strconv.Itoa(len(r.waits))}
		for _, q := range []float64{.5, .99} {
			cell := "not started"
			if d, ok := r.quantile(q); ok {
				cell = milliseconds(d)
			}
			row = append(row, cell)
		}
		longest := "none started"
		if n := len(r.waits); n > 0 {
			longest = milliseconds(r.waits[n-1])
		}
		_ = rows.Write(append(row, longest))
	}
	rows.Flush()
	return rows.Error()
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 2, 64)
}
