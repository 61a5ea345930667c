package tenants

import (
	"cmp"
	"context"
	"encoding/csv"
	"io"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool"
)

// The tenants with weights 1 and 2 have work all the time. The one with weight 4 submits 800
// tasks in the beginning, which is its share of 1.4 s, and as many when away is over.
const (
	away     = 3 * time.Second
	observed = 5 * time.Second
	window   = 100 * time.Millisecond // over which starts are counted
)

var weights = map[string]int{"weight 1": 1, "weight 2": 2, "weight 4": 4}

// names of the tenants in weights, in order.
var names = [3]string{"weight 1", "weight 2", "weight 4"}

// simulateWeights returns, for each window, how many tasks of each tenant started in it.
func simulateWeights() ([][3]int, error) {
	starts := make([][3]int, observed/window)
	pool, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithFlows(func(tenant string) taskpool.FlowPolicy {
		return taskpool.FlowPolicy{Weight: weights[tenant]}
	}))
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	begin := time.Now()
	var failed error
	submit := func(of, n int) {
		for range n {
			_, err := pool.Submit(ctx, taskpool.Task{Flow: names[of], Run: func(context.Context) error {
				if now := time.Since(begin); now < observed {
					starts[now/window][of]++ // the worker is the only one
					time.Sleep(service)
				}
				return nil
			}})
			failed = cmp.Or(failed, err)
		}
	}
	pool.Pause() // until all of them wait
	submit(0, 4000)
	submit(1, 4000)
	submit(2, 800)
	pool.Resume()
	time.Sleep(away - service/2) // not in the moment in which a task ends
	submit(2, 800)
	return starts, cmp.Or(failed, pool.Shutdown(ctx))
}

// writeShares writes the starts as CSV.
func writeShares(w io.Writer, starts [][3]int) error {
	rows := csv.NewWriter(w)
	_ = rows.Write(append([]string{"from ms"}, names[:]...))
	for i, s := range starts {
		row := []string{strconv.FormatInt((time.Duration(i) * window).Milliseconds(), 10)}
		for _, n := range s {
			row = append(row, strconv.Itoa(n))
		}
		_ = rows.Write(row)
	}
	rows.Flush()
	return rows.Error()
}
