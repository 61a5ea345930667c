package otelpool

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/taskpool-go/taskpool/internal/metricset"
)

// observe is called by the meter provider at each collection.
func (c *Collector) observe(ctx context.Context, o metric.Observer) error {
	for _, w := range c.pools.All {
		c.in.observe(w, o)
		c.in.observeFlows(w, c.cfg.flows, o)
	}
	c.in.observeJobs(c.jobs.Look(ctx), o)
	return nil
}

// observe reports one snapshot of a pool.
func (in *instruments) observe(w *watched, o metric.Observer) {
	s := w.pool.Stats()
	pool := attribute.String("taskpool.pool", w.label)
	alone := metric.WithAttributeSet(attribute.NewSet(pool))
	with := func(key, value string) metric.ObserveOption {
		return metric.WithAttributeSet(attribute.NewSet(pool, attribute.String("taskpool."+key, value)))
	}
	each := func(to metric.Int64Observable, key string, values []metricset.Value) {
		for _, v := range values {
			o.ObserveInt64(to, int64(v.N), with(key, v.Label))
		}
	}

	o.ObserveInt64(in.submitted, int64(s.Submitted), alone)
	o.ObserveInt64(in.expired, int64(s.Expired), alone)
	o.ObserveInt64(in.joined, int64(s.Joined), alone)
	o.ObserveInt64(in.orphaned, int64(s.Orphaned), alone)
	each(in.unfinished, "state", metricset.Tasks(&s))
	o.ObserveInt64(in.heldBack, int64(s.HeldBack), alone)
	o.ObserveInt64(in.dependent, int64(s.Dependent), alone)
	each(in.ended, "result", metricset.Results(&s))
	o.ObserveInt64(in.retries, int64(s.Retries), alone)
	o.ObserveInt64(in.denied, int64(s.RetriesDenied), alone)
	o.ObserveInt64(in.parks, int64(s.Parks), alone)
	each(in.goroutines, "state", metricset.Goroutines(&s))
	each(in.replaced, "reason", metricset.Replaced(&s))
	o.ObserveInt64(in.workers, int64(s.Workers), alone)
	o.ObserveInt64(in.lost, int64(s.Lost), alone)
	if s.Capacity >= 0 {
		o.ObserveInt64(in.capacity, int64(s.Capacity), alone)
	}
	o.ObserveInt64(in.submitters, int64(s.SubmittersWaiting), alone)
	o.ObserveFloat64(in.inProgress, s.InProgress.Seconds(), alone)
	o.ObserveFloat64(in.longest, s.Longest.Seconds(), alone)
	o.ObserveInt64(in.stalled, oneIf(s.Stalled), alone)
	o.ObserveInt64(in.paused, oneIf(s.Paused), alone)
	o.ObserveInt64(in.closed, oneIf(s.Closed), alone)
	for _, r := range metricset.Rows(&s, w.priorities) {
		priority := with("priority", r.Label)
		o.ObserveInt64(in.started, int64(r.Totals.Attempts), priority)
		eachOf := func(to metric.Int64Observable, key string, values []metricset.Value) {
			for _, v := range values {
				o.ObserveInt64(to, int64(v.N), metric.WithAttributeSet(attribute.NewSet(pool,
					attribute.String("taskpool.priority", r.Label), attribute.String("taskpool."+key, v.Label))))
			}
		}
		eachOf(in.refused, "reason", metricset.Refusals(&r.Totals))
		eachOf(in.finished, "outcome", metricset.Outcomes(&r.Totals))
		o.ObserveInt64(in.depth, int64(r.Queued), priority)
		o.ObserveFloat64(in.oldest, r.OldestWait.Seconds(), priority)
		o.ObserveInt64(in.late, oneIf(r.Late), priority)
	}
}

// observeFlows reports the flows of a pool that have these names.
func (in *instruments) observeFlows(w *watched, names []string, o metric.Observer) {
	pool := attribute.String("taskpool.pool", w.label)
	for _, f := range metricset.Flows(w.pool, names) {
		flow := metric.WithAttributeSet(attribute.NewSet(pool, attribute.String("taskpool.flow", metricset.Label(f.Flow))))
		o.ObserveInt64(in.flowDepth, int64(f.Queued), flow)
		o.ObserveInt64(in.flowHeldBack, int64(f.HeldBack), flow)
		o.ObserveInt64(in.flowRunning, int64(f.Running), flow)
		o.ObserveFloat64(in.flowOldest, f.OldestWait.Seconds(), flow)
	}
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
