package prompool

import "github.com/prometheus/client_golang/prometheus"

// descs are what the metrics are called and mean.
type descs struct {
	all []*prometheus.Desc

	submitted, refused, finished, tasks        *prometheus.Desc
	heldBack, dependent, joined                *prometheus.Desc
	started, ended, retries, denied, parks     *prometheus.Desc
	depth, oldest, late                        *prometheus.Desc
	wait, shedWait, duration                   *prometheus.Desc
	workers, lost, goroutines, replaced        *prometheus.Desc
	capacity, submitters                       *prometheus.Desc
	unfinished, longest                        *prometheus.Desc
	expired, orphaned, stalled, paused, closed *prometheus.Desc

	flowDepth, flowHeldBack, flowRunning, flowOldest *prometheus.Desc // nil without WithFlowNames
}

func newDescs(taskNames, flows bool) (d descs) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		labels = append([]string{"pool"}, labels...)
		one := prometheus.NewDesc("taskpool_"+name, help, labels, nil)
		d.all = append(d.all, one)
		return one
	}
	d.submitted = desc("tasks_submitted_total", "Tasks accepted.")
	d.refused = desc("tasks_refused_total", "Tasks not accepted: no room in the queue or for their flow, a closed pool, a context that ended first, or a MaxWait that was over.", "priority", "reason")
	d.finished = desc("tasks_finished_total", "Tasks that have reached their final state.", "outcome", "priority")
	d.expired = desc("tasks_expired_total", "Tasks shed because they had waited too long: for their MaxWait, or for WithQueueDelay.")
	d.joined = desc("joined_total", "Calls of Join that found a run under way.")
	d.orphaned = desc("tasks_orphaned_total", "Tasks canceled because the task whose context they were submitted with had returned.")
	d.tasks = desc("tasks", "Tasks accepted that have not finished.", "state")
	d.heldBack = desc("tasks_held_back", "Tasks that could start or go on but for the limit of their flow.")
	d.dependent = desc("tasks_dependent", "Of the delayed tasks, those that wait for other tasks to succeed.")
	d.started = desc("attempts_started_total", "Attempts started.", "priority")
	d.ended = desc("attempts_ended_total", "Attempts that have ended.", "result")
	d.retries = desc("retries_total", "Failed attempts for which a retry was granted.")
	d.denied = desc("retries_denied_total", "Failed attempts that were not retried because the retry budget was spent.")
	d.parks = desc("parks_total", "Times that a running task gave its slot back.")
	d.depth = desc("queue_depth", "Tasks that wait for a worker.", "priority")
	d.oldest = desc("oldest_waiting_seconds", "How long at least the task that waits longest for a worker has waited, without the time for which the limit of its flow held it back.", "priority")
	d.late = desc("late", "Whether tasks that have waited too long are shed, in a pool with WithQueueDelay.", "priority")
	d.wait = desc("queue_wait_seconds", "How long tasks have waited for a worker. Functions given to Go are a weighted sample.", "priority")
	d.shedWait = desc("shed_wait_seconds", "How long tasks had waited for a worker that were shed. Functions given to Go are in it if that is known.", "priority")
	attemptLabels := []string{"priority"}
	if taskNames {
		attemptLabels = append(attemptLabels, "task")
	}
	d.duration = desc("attempt_duration_seconds", "How long attempts took, with the time in which they were parked. Functions given to Go are a weighted sample.", attemptLabels...)
	d.workers = desc("workers", "Tasks that may run at once.")
	d.lost = desc("slots_lost", "Workers that can run no task, as one that hangs holds their slot and no more goroutines may be abandoned.")
	d.goroutines = desc("goroutines", "Goroutines that are idle, busy, with a parked task, or given up with a task that hangs: abandoned, or lost with the slot that they hold.", "state")
	d.replaced = desc("replaced_total", "Workers replaced.", "reason")
	d.capacity = desc("capacity", "Tasks that may wait.")
	d.submitters = desc("submitters_waiting", "Calls of Submit that wait for room.")
	d.unfinished = desc("unfinished_work_seconds", "Time that the attempts under way have taken so far, added up.")
	d.longest = desc("longest_running_attempt_seconds", "Time that the longest attempt under way has taken so far.")
	d.stalled = desc("stalled", "Whether nothing moves though tasks wait, or tasks wait for each other.")
	d.paused = desc("paused", "Whether the pool is paused.")
	d.closed = desc("closed", "Whether the pool was shut down.")
	if flows {
		d.flowDepth = desc("flow_queue_depth", "Tasks of a flow that wait for a worker, with those that its limit holds back.", "flow")
		d.flowHeldBack = desc("flow_tasks_held_back", "Tasks of a flow that could start or go on but for its limit.", "flow")
		d.flowRunning = desc("flow_tasks_running", "Tasks of a flow that have a slot.", "flow")
		d.flowOldest = desc("flow_oldest_waiting_seconds", "How long at least the task of a flow that waits longest for a worker has waited, with the time for which its limit held it back.", "flow")
	}
	return d
}

func (d *descs) describe(to chan<- *prometheus.Desc) {
	for _, one := range d.all {
		to <- one
	}
}
