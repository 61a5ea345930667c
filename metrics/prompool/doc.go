// Package prompool gives the metrics of pools to Prometheus.
//
//	c, err := prompool.New()
//	…
//	pool, err := taskpool.New(taskpool.WithName("mail"), taskpool.WithHooks(c.Hooks()))
//	…
//	if err := c.Watch(pool); err != nil { … }
//	prometheus.MustRegister(c)
//
// At each scrape the collector takes one snapshot of each pool that it watches, so the
// values of a scrape belong together. In each of them
//
//	sum without(outcome, priority) (taskpool_tasks_finished_total) + sum without(state) (taskpool_tasks)
//
// is taskpool_tasks_submitted_total. The histograms come from hooks, and may be an
// event or two ahead of that, or behind. The directories metrics/grafana and
// metrics/alerts of this repository have a dashboard and alerts; docs/runbook.md says what to do
// when one rings.
//
// # Metrics
//
// Each has the label pool, the pool's name. Names are cut in labels after 200 bytes.
//
//	taskpool_tasks_submitted_total                  accepted
//	taskpool_tasks_refused_total{priority,reason}   not accepted: full, flow, closed, context, expired
//	taskpool_tasks_finished_total{outcome,priority} succeeded, failed, canceled, shed
//	taskpool_tasks_expired_total                    of those shed, those that had waited too long: for their MaxWait, or for WithQueueDelay
//	taskpool_joined_total                           calls of Join that found a run under way, and need no task
//	taskpool_tasks_orphaned_total                   of the canceled ones, those whose context was that of a task that had returned
//	taskpool_tasks{state}                           queued, delayed, running, parked
//	taskpool_tasks_held_back                        that could start or go on but for the limit of their flow
//	taskpool_tasks_dependent                        of the delayed ones, those that wait for others, see Task.After
//	taskpool_attempts_started_total{priority}
//	taskpool_attempts_ended_total{result}           ended: success, error, timeout, interrupted, panic, goexit, hung
//	taskpool_retries_total                          failed attempts for which a retry was granted
//	taskpool_retries_denied_total                   failed attempts that were not retried because the retry budget was spent
//	taskpool_parks_total                            times that a running task gave its slot back
//	taskpool_queue_depth{priority}                  tasks that wait for a worker
//	taskpool_oldest_waiting_seconds{priority}       how long at least the oldest of them waits, without the time held back
//	taskpool_late{priority}                         1 while those are shed that have waited too long, see WithQueueDelay
//	taskpool_queue_wait_seconds{priority}           histogram, from hooks; with the time held back
//	taskpool_shed_wait_seconds{priority}            histogram, from hooks: what those had waited that were shed
//	taskpool_attempt_duration_seconds{priority}     histogram, from hooks; with the time parked
//	taskpool_workers                                tasks that may run at once: the number of slots
//	taskpool_slots_lost                             of these, those that hung tasks hold beyond WithMaxAbandoned
//	taskpool_goroutines{state}                      of workers: idle, busy, parked, abandoned, lost
//	taskpool_replaced_total{reason}                 workers replaced: panic, goexit, hung
//	taskpool_capacity                               tasks that may wait; only if that is bounded
//	taskpool_submitters_waiting                     calls of Submit that wait for room
//	taskpool_unfinished_work_seconds                time that attempts under way have taken, added up
//	taskpool_longest_running_attempt_seconds        the longest of them
//	taskpool_stalled                                1 if nothing moves though tasks wait, or tasks wait for each other
//	taskpool_paused, taskpool_closed                1 if so
//
// [taskpool.Stats] says more about each. The reasons for which tasks are refused are: full, no
// room in the queue; flow, no room for their flow; closed, the pool was shut down; context, their
// context ended first; expired, their MaxWait was over. A rolling restart refuses as closed and
// context, overload as full, flow and expired. With [WithFlowNames] there are also, of each flow listed
// and of no other,
//
//	taskpool_flow_queue_depth{flow}                 tasks that wait for a worker, with those held back
//	taskpool_flow_tasks_held_back{flow}             that could start or go on but for the flow's limit
//	taskpool_flow_tasks_running{flow}               that have a slot
//	taskpool_flow_oldest_waiting_seconds{flow}      how long at least the oldest waits, with the time held back
//
// which are those of [taskpool.FlowStats], looked at right after the snapshot. There is no
// label for flows that are not listed, as there may be millions.
//
// [Collector.WatchJobs] adds, of the jobs of package jobs in a process or a database, which have
// no label pool,
//
//	taskpool_jobs{jobs,kind,queue,status}                     unsettled: waiting, delayed, running
//	taskpool_jobs_oldest_waiting_seconds{jobs,kind,queue}     how long the oldest of those waits that may start
//	taskpool_jobs_up{jobs}                                    1 if they could be counted
//
// # Priorities
//
// A pool may use any number of priorities; 25 of them have a label of their own, which
// is high, medium, low or the number, and the rest share the label other. Those that
// are seen first have their own, and keep it, so a priority never moves from one series
// to another and no counter goes down. [WithPriorities] names some beforehand. A
// priority that was seen once goes on being reported, with zeros.
//
// # Histograms
//
// Both are classic and native histograms at once: a server that takes native ones gets
// buckets 9 % apart, from 0.1 µs to 18 hours, and the others get those of [WithBuckets].
//
// Of functions given to Go the hooks see one in 64 (see [WithGoEvery]), which counts
// for 64 in the histograms: these are right in the long run, not to the last function.
// Where a priority has had only a few dozen functions, it may have no histogram at all:
// set WithGoEvery to 1 where functions are few. Functions that panic or call Goexit are
// not in taskpool_attempt_duration_seconds. In taskpool_shed_wait_seconds a function counts once,
// and only if its wait is known: in a pool with WithQueueDelay, or if it was in the sample.
//
// # Cost
//
// A scrape costs a [taskpool.Pool.Stats] for each pool and time in proportion to the
// series. An event costs tens of nanoseconds, takes no lock and allocates nothing here;
// what the pool needs to call a hook comes on top.
//
// One run of go test -run '^$' -bench Overhead -benchtime 11x, on two cores, gave as the
// CPU time of a task of 1 µs with the collector to that without:
//
//	             default queue   WithCapacity(1024)
//	pool.Go      1.03            1.08
//	pool.Submit  1.22            1.23
//
// So functions given to Go, of which the hooks see a sample, hardly notice it; a task given
// to Submit pays 0.4 µs for its events and the looks at the clock.
package prompool
