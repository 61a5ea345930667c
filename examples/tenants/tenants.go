// Package tenants is an experiment: how long do the tasks of a small tenant wait while another
// one floods the pool, with one priority for all, with priorities set by hand, and with flows?
// And what does each of three tenants with weights 1, 2 and 4 get? It has the form of a test, as
// its time is virtual: in a bubble of testing/synctest the real pool works through 60 seconds,
// and the figures come out the same each time.
//
//	go test -C examples/tenants -v -run TestPlot
//
// prints the figures, after some 1 s of real time, and fails if they are not those of waits.csv
// and shares.csv, or the picture is not tenants.svg. It writes no file; to replace the three,
// which docs/flows.md shows, add -update.
//
// There is one worker with the default fair share, and each task takes 1 ms of virtual time, so
// it can do 1000 a second. The small tenant submits 50 tasks a second, one by one, and the
// middle one 200 at once every other second on average, both at random moments. The large one submits
// 10,000 at once in the beginning and after 20 s, and after 40 s a new one does, which nobody
// has heard of.
package tenants

import (
	"cmp"
	"context"
	"encoding/csv"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	service = time.Millisecond // of each task
	horizon = 60 * time.Second // when the last tasks arrive
)

// A tenant is somebody who submits tasks, several at once.
type tenant struct {
	name  string
	batch int
	mean  time.Duration     // from one batch to the next, if they come at random
	at    []time.Duration   // when the batches come, if they do not
	rank  taskpool.Priority // what somebody who knows all but the new one gives it
}

func tenants() []tenant {
	return []tenant{
		{name: "small", batch: 1, mean: 20 * time.Millisecond, rank: taskpool.High},
		{name: "middle", batch: 200, mean: 2 * time.Second, rank: taskpool.Medium},
		{name: "large", batch: 10_000, at: []time.Duration{0, 20 * time.Second}, rank: taskpool.Low},
		{name: "new", batch: 10_000, at: []time.Duration{40 * time.Second}, rank: taskpool.Medium},
	}
}

// A variant is a way to keep tenants out of each other's way. Its function sets what a task of
// t is submitted with, if unfinished is how many t has in the pool.
type variant struct {
	name string
	set  func(task *taskpool.Task, t tenant, unfinished int)
}

// Without flows, two things can be done by hand. A list says who is urgent, and is right as long
// as everybody who submits much is on it. A count of each tenant's tasks needs no list, but a
// number. The small tenant hardly ever has 20 tasks in the pool; were it 200, for the sake of the
// middle one, up to 200 tasks of each of the others would go before it.
func variants() []variant {
	return []variant{
		{"one priority", func(*taskpool.Task, tenant, int) {}},
		{"priorities from a list", func(task *taskpool.Task, t tenant, _ int) { task.Priority = t.rank }},
		{"priorities from a count", func(task *taskpool.Task, _ tenant, unfinished int) {
			if unfinished >= 20 {
				task.Priority = taskpool.Low
			}
		}},
		{"flows", func(task *taskpool.Task, t tenant, _ int) { task.Flow = t.name }},
	}
}

// An arrival is a batch of tasks to come.
type arrival struct {
	at time.Duration
	of int // index in tenants
}

// arrivals returns all of them, in order. Those at random are Poisson processes: the gaps are
// exponential.
func arrivals(seed uint64) (all []arrival) {
	for i, t := range tenants() {
		for _, at := range t.at {
			all = append(all, arrival{at, i})
		}
		if t.mean == 0 {
			continue
		}
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		gap := func() time.Duration { return time.Duration(rng.ExpFloat64() * float64(t.mean)) }
		for at := gap(); at < horizon; at += gap() {
			all = append(all, arrival{at, i})
		}
	}
	slices.SortStableFunc(all, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	return all
}

// A result is what was measured of the tasks of one tenant.
type result struct {
	variant variant
	tenant  tenant
	waits   []time.Duration // from submission to start, sorted
}

// simulate returns the results by tenant.
func simulate(v variant, all []arrival) (results []*result, err error) {
	for _, t := range tenants() {
		results = append(results, &result{variant: v, tenant: t})
	}
	pool, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // protects unfinished
	unfinished := make([]int, len(results))
	count := func(of, n int) int {
		mu.Lock()
		defer mu.Unlock()
		unfinished[of] += n
		return unfinished[of]
	}
	ctx := context.Background()
	begin := time.Now()
	for _, a := range all {
		time.Sleep(a.at - time.Since(begin))
		r := results[a.of]
		pool.Pause() // until all of them wait, so that each run is the same
		for range r.tenant.batch {
			task := taskpool.Task{Run: func(context.Context) error {
				r.waits = append(r.waits, time.Since(begin)-a.at) // the worker is the only one
				time.Sleep(service)
				count(a.of, -1)
				return nil
			}}
			v.set(&task, r.tenant, count(a.of, 1)-1)
			if _, err := pool.Submit(ctx, task); err != nil {
				return nil, err
			}
		}
		pool.Resume()
	}
	err = pool.Shutdown(ctx)
	for _, r := range results {
		slices.Sort(r.waits)
	}
	return results, err
}

// quantile returns the least time within which a share q of the tasks had started.
func (r *result) quantile(q float64) time.Duration {
	return r.waits[max(int(math.Ceil(q*float64(len(r.waits)))), 1)-1]
}

// share returns the share of the tasks that had started within d of their arrival.
func (r *result) share(d time.Duration) float64 {
	n, _ := slices.BinarySearch(r.waits, d+1)
	return float64(n) / float64(len(r.waits))
}

// writeWaits writes the results as CSV, with times in milliseconds.
func writeWaits(w io.Writer, results []*result) error {
	rows := csv.NewWriter(w)
	_ = rows.Write([]string{"variant", "tenant", "tasks", "p50 ms", "p99 ms", "longest ms"})
	for _, r := range results {
		row := []string{r.variant.name, r.tenant.name, strconv.Itoa(len(r.waits))}
		for _, q := range []float64{.5, .99, 1} {
			row = append(row, strconv.FormatFloat(float64(r.quantile(q).Microseconds())/1000, 'f', 2, 64))
		}
		_ = rows.Write(row)
	}
	rows.Flush()
	return rows.Error()
}
