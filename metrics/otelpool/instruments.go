package otelpool

import (
	"go.opentelemetry.io/otel/metric"

	"github.com/taskpool-go/taskpool/internal/metricset"
)

// instruments are what the metrics are called and mean.
type instruments struct {
	observed []metric.Observable // all but the histograms

	submitted, refused, finished, unfinished metric.Int64Observable
	started, ended, retries, denied, parks   metric.Int64Observable
	depth, workers, goroutines, replaced     metric.Int64Observable
	lost                                     metric.Int64Observable
	capacity, submitters, heldBack           metric.Int64Observable
	expired, orphaned, dependent, joined     metric.Int64Observable
	late, stalled, paused, closed            metric.Int64Observable
	inProgress, longest, oldest              metric.Float64Observable

	flowDepth, flowHeldBack, flowRunning metric.Int64Observable // nil without WithFlowNames
	flowOldest                           metric.Float64Observable

	jobs, jobsUp metric.Int64Observable
	jobsOldest   metric.Float64Observable

	wait, shedWait, duration metric.Float64Histogram
}

func newInstruments(m metric.Meter, flows bool) (*instruments, error) {
	var (
		in    instruments
		first error
	)
	note := func(o metric.Observable, err error) {
		in.observed = append(in.observed, o)
		if first == nil {
			first = err
		}
	}
	counter := func(name, unit, description string) metric.Int64Observable {
		o, err := m.Int64ObservableCounter("taskpool."+name, metric.WithUnit(unit), metric.WithDescription(description))
		note(o, err)
		return o
	}
	level := func(name, unit, description string) metric.Int64Observable { // levels of several pools add up
		o, err := m.Int64ObservableUpDownCounter("taskpool."+name, metric.WithUnit(unit), metric.WithDescription(description))
		note(o, err)
		return o
	}
	gauge := func(name, unit, description string) metric.Int64Observable {
		o, err := m.Int64ObservableGauge("taskpool."+name, metric.WithUnit(unit), metric.WithDescription(description))
		note(o, err)
		return o
	}
	flag := func(name, description string) metric.Int64Observable { return gauge(name, "1", description) }
	seconds := func(name, description string) metric.Float64Observable {
		o, err := m.Float64ObservableGauge("taskpool."+name, metric.WithUnit("s"), metric.WithDescription(description))
		note(o, err)
		return o
	}
	histogram := func(name, description string) metric.Float64Histogram {
		h, err := m.Float64Histogram("taskpool."+name, metric.WithUnit("s"), metric.WithDescription(description),
			metric.WithExplicitBucketBoundaries(metricset.Bounds...))
		if first == nil {
			first = err
		}
		return h
	}
	in.jobs = gauge("jobs", "{job}", "Jobs that have not settled.")
	in.jobsOldest = seconds("jobs.oldest", "How long the job has waited that waits longest and may start.")
	in.jobsUp = flag("jobs.up", "Whether the jobs could be counted.")
	in.submitted = counter("tasks.submitted", "{task}", "Tasks accepted.")
	in.refused = counter("tasks.refused", "{task}", "Tasks not accepted: no room in the queue or for their flow, a closed pool, a context that ended first, or a MaxWait that was over.")
	in.finished = counter("tasks.finished", "{task}", "Tasks that have reached their final state.")
	in.expired = counter("tasks.expired", "{task}", "Tasks shed because they had waited too long: for their MaxWait, or for WithQueueDelay.")
	in.joined = counter("joined", "{call}", "Calls of Join that found a run under way.")
	in.orphaned = counter("tasks.orphaned", "{task}", "Tasks canceled because the task whose context they were submitted with had returned.")
	in.unfinished = level("tasks.unfinished", "{task}", "Tasks accepted that have not finished.")
	in.heldBack = level("tasks.held_back", "{task}", "Tasks that could start or go on but for the limit of their flow.")
	in.dependent = level("tasks.dependent", "{task}", "Of the delayed tasks, those that wait for other tasks to succeed.")
	in.started = counter("attempts.started", "{attempt}", "Attempts started, by priority.")
	in.ended = counter("attempts.ended", "{attempt}", "Attempts that have ended.")
	in.inProgress = seconds("attempts.in_progress", "Time that the attempts under way have taken so far, added up.")
	in.longest = seconds("attempts.longest", "Time that the longest attempt under way has taken so far.")
	in.duration = histogram("attempt.duration", "How long attempts took, with the time in which they were parked. Functions given to Go are a weighted sample.")
	in.retries = counter("retries", "{retry}", "Failed attempts for which a retry was granted.")
	in.denied = counter("retries_denied", "{retry}", "Failed attempts that were not retried because the retry budget was spent.")
	in.parks = counter("parks", "{park}", "Times that a running task gave its slot back.")
	in.depth = level("queue.depth", "{task}", "Tasks that wait for a worker.")
	in.oldest = seconds("queue.oldest", "How long at least the task that waits longest for a worker has waited, without the time for which the limit of its flow held it back.")
	in.late = flag("queue.late", "Whether tasks that have waited too long are shed, in a pool with WithQueueDelay.")
	in.wait = histogram("queue.wait", "How long tasks have waited for a worker. Functions given to Go are a weighted sample.")
	in.shedWait = histogram("queue.shed_wait", "How long tasks had waited for a worker that were shed. Functions given to Go are in it if that is known.")
	in.workers = level("workers", "{worker}", "Tasks that may run at once.")
	in.lost = level("slots.lost", "{slot}", "Workers that can run no task, as one that hangs holds their slot and no more goroutines may be abandoned.")
	in.goroutines = level("goroutines", "{goroutine}", "Goroutines that are idle, busy, with a parked task, or given up with a task that hangs: abandoned, or lost with the slot that they hold.")
	in.replaced = counter("replaced", "{worker}", "Workers replaced.")
	in.capacity = level("capacity", "{task}", "Tasks that may wait.")
	in.submitters = level("submitters.waiting", "{call}", "Calls of Submit that wait for room.")
	in.stalled = flag("stalled", "Whether nothing moves though tasks wait, or tasks wait for each other.")
	in.paused = flag("paused", "Whether the pool is paused.")
	in.closed = flag("closed", "Whether the pool was shut down.")
	if flows {
		in.flowDepth = level("flow.queue.depth", "{task}", "Tasks of a flow that wait for a worker, with those that its limit holds back.")
		in.flowHeldBack = level("flow.tasks.held_back", "{task}", "Tasks of a flow that could start or go on but for its limit.")
		in.flowRunning = level("flow.tasks.running", "{task}", "Tasks of a flow that have a slot.")
		in.flowOldest = seconds("flow.queue.oldest", "How long at least the task of a flow that waits longest for a worker has waited, with the time for which its limit held it back.")
	}
	return &in, first
}
