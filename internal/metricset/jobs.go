package metricset

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool/internal/option"
	"github.com/taskpool-go/taskpool/jobs"
)

// Jobs are the queues of jobs that a collector watches, by name.
type Jobs struct {
	mu     sync.Mutex // protects the field below
	queues map[string]jobs.Operator
}

// patience is how long a collection waits for a database.
const patience = 5 * time.Second

// maxJobs bounds how many pairs of queue and kind are reported: a table may have any.
const maxJobs = 1000

// Watch adds a queue.
func (j *Jobs) Watch(of option.Package, name string, q jobs.Operator) error {
	if q == nil {
		return of.Bad("WatchJobs: q", "not be nil", "nil")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.queues[Label(name)] != nil {
		return fmt.Errorf("%s: WatchJobs: jobs named %q are watched already", string(of), name)
	}
	if j.queues == nil {
		j.queues = make(map[string]jobs.Operator)
	}
	j.queues[Label(name)] = q
	return nil
}

// Unwatch removes a queue and reports whether it was there.
func (j *Jobs) Unwatch(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, ok := j.queues[Label(name)]
	delete(j.queues, Label(name))
	return ok
}

// A Backlog is what a queue has at a moment.
type Backlog struct {
	Name   string // as a label
	Depths []jobs.Depth
	Err    error // why there are none
}

// Look asks all queues, each for a while.
func (j *Jobs) Look(ctx context.Context) []Backlog {
	j.mu.Lock()
	all := make([]Backlog, 0, len(j.queues))
	of := make(map[string]jobs.Operator, len(j.queues))
	for name, q := range j.queues {
		all = append(all, Backlog{Name: name})
		of[name] = q
	}
	j.mu.Unlock()
	slices.SortFunc(all, func(a, b Backlog) int { return cmp.Compare(a.Name, b.Name) })
	var looks sync.WaitGroup
	for i := range all {
		looks.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			b := &all[i]
			b.Depths, b.Err = of[b.Name].Depths(ctx)
			b.Depths = b.Depths[:min(len(b.Depths), maxJobs)]
		})
	}
	looks.Wait()
	return all
}

// Statuses returns the numbers of d by status.
func Statuses(d *jobs.Depth) []Value {
	return []Value{{jobs.StatusWaiting.String(), uint64(d.Waiting)}, {jobs.StatusDelayed.String(), uint64(d.Delayed)}, {jobs.StatusRunning.String(), uint64(d.Running)}}
}
