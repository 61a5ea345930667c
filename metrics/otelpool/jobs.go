package otelpool

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/taskpool-go/taskpool/internal/metricset"
	"github.com/taskpool-go/taskpool/jobs"
)

// WatchJobs adds the jobs of q, by queue and kind, to what is collected, with name as the
// attribute taskpool.jobs, until [Collector.UnwatchJobs]. Each collection calls Depths of q,
// which may be a statement that counts all unsettled jobs of a database, and waits for it for at
// most 5 seconds. What several processes report of one database is the same: watch it in one of
// them, or take the maximum of all. It returns an error if q is nil or the name is taken.
func (c *Collector) WatchJobs(name string, q jobs.Operator) error { return c.jobs.Watch(pkg, name, q) }

// UnwatchJobs ends the collection of the jobs with that name. It reports whether they were
// watched.
func (c *Collector) UnwatchJobs(name string) bool { return c.jobs.Unwatch(name) }

func (in *instruments) observeJobs(all []metricset.Backlog, o metric.Observer) {
	for _, b := range all {
		name := attribute.String("taskpool.jobs", b.Name)
		o.ObserveInt64(in.jobsUp, oneIf(b.Err == nil), metric.WithAttributeSet(attribute.NewSet(name)))
		for _, d := range b.Depths {
			of := []attribute.KeyValue{name, attribute.String("taskpool.queue", metricset.Label(d.Queue)), attribute.String("taskpool.kind", metricset.Label(d.Kind))}
			for _, v := range metricset.Statuses(&d) {
				o.ObserveInt64(in.jobs, int64(v.N), metric.WithAttributes(append(of[:len(of):len(of)], attribute.String("taskpool.status", v.Label))...))
			}
			o.ObserveFloat64(in.jobsOldest, d.Oldest.Seconds(), metric.WithAttributes(of...))
		}
	}
}
