// Package urgency is an experiment: how long does a High request take that waits for a Low
// task, if the wait lends that task its urgency, and if it lends nothing? It has the form of
// a test, as its time is virtual: in a bubble of testing/synctest the real pool works through
// 60 seconds, and the figures come out the same each time.
//
//	go test -C examples/urgency -v -run TestPlot
//
// prints the figures, after some 1 s of real time, and fails if they are not those of
// times.csv. It writes no file; to replace times.csv and urgency.svg, which
// docs/starvation.md shows, add -update.
//
// There is one worker, the default fair share, and each task takes 1 ms of virtual time.
// 1000 Low tasks wait at any time, as each one that starts submits the next. 600 Medium tasks
// and 50 High requests a second arrive at random moments. A request submits a Low task, waits
// until it is done, and then works for 1 ms itself.
package urgency

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
	backlog = 1000             // Low tasks

	horizon = 60 * time.Second
	// What arrives later than this is load, but is not measured, so that a time of up to
	// 10 s is seen to end.
	measured = 50 * time.Second
)

// A variant is a way for a request to wait for its Low task.
type variant struct {
	name string
	// wait returns when the task h is done, and done is closed.
	wait func(ctx context.Context, h *taskpool.Handle, done <-chan struct{}) error
}

func variants() []variant {
	return []variant{
		{"the wait lends urgency", func(ctx context.Context, h *taskpool.Handle, _ <-chan struct{}) error {
			return h.Wait(ctx)
		}},
		// A channel tells the pool nothing about who waits for whom. Like Wait, Block gives
		// the slot back.
		{"the wait lends nothing", func(ctx context.Context, _ *taskpool.Handle, done <-chan struct{}) error {
			return taskpool.Block(ctx, func() error { <-done; return nil })
		}},
	}
}

// An arrival is a task to come.
type arrival struct {
	at time.Duration
	pr taskpool.Priority // High for a request
}

// arrivals returns all of them, in order. They are two independent Poisson processes: the
// gaps are exponential.
func arrivals(seed uint64) (all []arrival) {
	for i, s := range []struct {
		pr     taskpool.Priority
		second float64 // how many arrive in one
	}{{taskpool.High, 50}, {taskpool.Medium, 600}} {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		gap := func() time.Duration { return time.Duration(rng.ExpFloat64() / s.second * float64(time.Second)) }
		for at := gap(); at < horizon; at += gap() {
			all = append(all, arrival{at, s.pr})
		}
	}
	slices.SortStableFunc(all, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	return all
}

// A result is what was measured of the tasks of one priority.
type result struct {
	variant  variant
	priority taskpool.Priority // High for the requests
	arrived  int               // while measured
	times    []time.Duration   // from submission to end, of those that ended before the horizon; sorted in the end
}

// An experiment is with one variant.
type experiment struct {
	variant variant
	pool    *taskpool.Pool
	begin   time.Time
	// By priority. Tasks write while they have the only slot. What has arrived is counted by
	// simulate, that of Low, once the pool has resumed, by its tasks.
	results [3]*result

	mu  sync.Mutex // protects the fields below
	err error      // the first one
}

// simulate returns the results by priority.
func simulate(v variant, all []arrival) ([3]*result, error) {
	x := &experiment{variant: v, begin: time.Now()}
	for i, pr := range priorities {
		x.results[i] = &result{variant: v, priority: pr}
	}
	var err error
	if x.pool, err = taskpool.New(taskpool.WithWorkers(1)); err != nil {
		return x.results, err
	}
	x.pool.Pause()
	for range backlog {
		x.fill()
	}
	x.pool.Resume()
	for _, a := range all {
		time.Sleep(a.at - time.Since(x.begin))
		ended := x.arrive(a.pr)
		if a.pr == taskpool.Medium {
			x.check(x.pool.Go(a.pr, func() { time.Sleep(service); ended() }))
			continue
		}
		_, err := x.pool.Submit(context.Background(), taskpool.Task{Name: "request", Priority: a.pr, Run: func(ctx context.Context) error {
			if err := x.refresh(ctx); err != nil {
				x.check(err)
				return err
			}
			time.Sleep(service)
			ended()
			return nil
		}})
		x.check(err)
	}
	x.check(x.pool.Shutdown(context.Background()))
	for _, r := range x.results {
		slices.Sort(r.times)
	}
	return x.results, x.err
}

// fill submits a Low task of the backlog. When it starts, it submits the next.
func (x *experiment) fill() {
	ended := x.arrive(taskpool.Low)
	x.check(x.pool.Go(taskpool.Low, func() {
		if time.Since(x.begin) >= horizon {
			return
		}
		x.fill()
		time.Sleep(service)
		ended()
	}))
}

// refresh is what a request waits for.
func (x *experiment) refresh(ctx context.Context) error {
	done := make(chan struct{})
	h, err := x.pool.Submit(ctx, taskpool.Task{Name: "refresh", Priority: taskpool.Low, Run: func(context.Context) error {
		time.Sleep(service)
		close(done)
		// By the time the slot is free, who waits for the channel has asked for it. So a
		// request goes on next whichever way it waits, and in each run.
		time.Sleep(time.Nanosecond)
		return nil
	}})
	if err != nil {
		return err
	}
	return x.variant.wait(ctx, h, done)
}

// arrive counts a task that arrives now, and returns what is to be called when it ends.
func (x *experiment) arrive(pr taskpool.Priority) (ended func()) {
	r, at := x.results[slices.Index(priorities[:], pr)], time.Since(x.begin)
	if at >= measured {
		return func() {}
	}
	r.arrived++
	return func() {
		if now := time.Since(x.begin); now < horizon {
			r.times = append(r.times, now-at)
		}
	}
}

func (x *experiment) check(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = err
	}
}

var priorities = [3]taskpool.Priority{taskpool.High, taskpool.Medium, taskpool.Low}

// quantile returns the least time within which a share q of the tasks that arrived had
// ended; false if so many had not by the horizon.
func (r *result) quantile(q float64) (time.Duration, bool) {
	i := max(int(math.Ceil(q*float64(r.arrived))), 1) - 1
	if i >= len(r.times) {
		return 0, false
	}
	return r.times[i], true
}

// share returns the share of the tasks that had ended within d of their arrival.
func (r *result) share(d time.Duration) float64 {
	n, _ := slices.BinarySearch(r.times, d+1)
	return float64(n) / float64(r.arrived)
}

// writeTable writes the results as CSV, with times in milliseconds.
func writeTable(w io.Writer, results []*result) error {
	rows := csv.NewWriter(w)
	_ = rows.Write([]string{"variant", "priority", "arrived", "ended", "p50 ms", "p99 ms", "longest ms"})
	for _, r := range results {
		row := []string{r.variant.name, r.priority.String(), strconv.Itoa(r.arrived), strconv.Itoa(len(r.times))}
		for _, q := range []float64{.5, .99, 1} {
			cell := "not ended"
			if d, ok := r.quantile(q); ok {
				cell = strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 2, 64)
			}
			row = append(row, cell)
		}
		_ = rows.Write(row)
	}
	rows.Flush()
	return rows.Error()
}
