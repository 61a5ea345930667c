package prompool

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskpool-go/taskpool/internal/metricset"
	"github.com/taskpool-go/taskpool/jobs"
)

// jobDescs are what the metrics of jobs are called and mean.
var jobDescs = struct{ jobs, oldest, up *prometheus.Desc }{
	prometheus.NewDesc("taskpool_jobs", "Jobs that have not settled.", []string{"jobs", "queue", "kind", "status"}, nil),
	prometheus.NewDesc("taskpool_jobs_oldest_waiting_seconds", "How long the job has waited that waits longest and may start.", []string{"jobs", "queue", "kind"}, nil),
	prometheus.NewDesc("taskpool_jobs_up", "Whether the jobs could be counted.", []string{"jobs"}, nil),
}

// WatchJobs adds the jobs of q, by queue and kind, to what is collected, with name as the label
// jobs, until [Collector.UnwatchJobs]. Each scrape calls Depths of q, which may be a statement
// that counts all unsettled jobs of a database, and waits for it for at most 5 seconds. What
// several processes report of one database is the same: watch it in one of them, or take the
// maximum of all. It returns an error if q is nil or the name is taken.
func (c *Collector) WatchJobs(name string, q jobs.Operator) error { return c.jobs.Watch(pkg, name, q) }

// UnwatchJobs ends the collection of the jobs with that name. It reports whether they were
// watched.
func (c *Collector) UnwatchJobs(name string) bool { return c.jobs.Unwatch(name) }

func describeJobs(to chan<- *prometheus.Desc) {
	to <- jobDescs.jobs
	to <- jobDescs.oldest
	to <- jobDescs.up
}

func (c *Collector) collectJobs(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	for _, b := range c.jobs.Look(context.Background()) {
		gauge(jobDescs.up, oneIf(b.Err == nil), b.Name)
		for _, d := range b.Depths {
			queue, kind := metricset.Label(d.Queue), metricset.Label(d.Kind)
			for _, v := range metricset.Statuses(&d) {
				gauge(jobDescs.jobs, float64(v.N), b.Name, queue, kind, v.Label)
			}
			gauge(jobDescs.oldest, d.Oldest.Seconds(), b.Name, queue, kind)
		}
	}
}
