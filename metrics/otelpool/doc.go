// Package otelpool gives the metrics of pools, and spans of their tasks, to OpenTelemetry.
//
//	c, err := otelpool.New() // the global providers, unless options say otherwise
//	…
//	pool, err := taskpool.New(taskpool.WithName("mail"), taskpool.WithHooks(c.Hooks()))
//	…
//	if err := c.Watch(pool); err != nil { … }
//
// # Spans
//
// Each attempt of a task given to Submit has a span, of kind internal, with the name of
// the task, or taskpool.task if it has none; names should be those of kinds of tasks. It
// is in the context that the task gets. Functions given to Go have no spans, and neither
// may an attempt that was given up before it ran, as a hook took too long.
//
// As a task may run long after the span in which it was submitted has ended, and several
// times, each span is the root of a trace, with a link to the span that was in the
// context given to Submit. [WithChildSpans] makes it a child of that instead.
//
//	taskpool.pool        the pool's name
//	taskpool.task.id     the task's number in the pool
//	taskpool.priority    high, medium, low or the number
//	taskpool.attempt     the attempt's number, from 1
//	taskpool.wait        for how many seconds the task had waited for a worker
//	taskpool.job.id      of a job of package jobs, on any engine, with
//	taskpool.job.kind    its kind and
//	taskpool.job.attempt the job's attempt
//	error.type           of one that failed, as in taskpool.attempts.ended: error, timeout, …
//
// An attempt that fails has status Error and an event exception with the error, of a
// panic with its stack, of which the first 2 and 16 KiB are kept; names are cut after 200 bytes.
// A span ends when the pool has done with the attempt, which is
// when one that hangs is given up, not when it returns. It may end shortly after
// Handle.Wait has returned, and has ended when Shutdown has.
//
// A task that is shed, or canceled while it waits, has no span that would tell of it. So the span
// that was in the context given to Submit, if it has not ended, gets the event taskpool.task.shed or
// taskpool.task.canceled, with the attributes above, the name in taskpool.task.name and the error
// in exception.message. Of a task that is refused, Submit has told its caller.
//
// # Metrics
//
// At each collection the collector takes one snapshot of each pool that it watches, so
// the values of a collection belong together. In each of them the sum of
// taskpool.tasks.finished and taskpool.tasks.unfinished is taskpool.tasks.submitted. The
// histograms come from hooks, and may be an event or two ahead of that, or behind.
//
// Each has the attribute taskpool.pool, the pool's name, cut after 200 bytes, and those in
// braces, whose names begin with taskpool. too.
//
//	taskpool.tasks.submitted                   {task}       accepted
//	taskpool.tasks.refused{priority,reason}    {task}       not accepted: full, flow, closed, context, expired
//	taskpool.tasks.finished{outcome,priority}  {task}       succeeded, failed, canceled, shed
//	taskpool.tasks.expired                     {task}       of those shed, those that had waited too long: for their MaxWait, or for WithQueueDelay
//	taskpool.joined                            {call}       calls of Join that found a run under way, and need no task
//	taskpool.tasks.orphaned                    {task}       of the canceled ones, those whose context was that of a task that had returned
//	taskpool.tasks.unfinished{state}           {task}       queued, delayed, running, parked
//	taskpool.tasks.held_back                   {task}       that could start or go on but for the limit of their flow
//	taskpool.tasks.dependent                   {task}       of the delayed ones, those that wait for others, see Task.After
//	taskpool.attempts.started{priority}        {attempt}
//	taskpool.attempts.ended{result}            {attempt}    success, error, timeout, interrupted, panic, goexit, hung
//	taskpool.attempts.in_progress              s            time that attempts under way have taken, added up
//	taskpool.attempts.longest                  s            the longest of them
//	taskpool.attempt.duration{priority}        s            histogram, from hooks; with the time parked
//	taskpool.retries                           {retry}      failed attempts for which a retry was granted
//	taskpool.retries_denied                    {retry}      failed attempts that were not retried because the retry budget was spent
//	taskpool.parks                             {park}       times that a running task gave its slot back
//	taskpool.queue.depth{priority}             {task}       tasks that wait for a worker
//	taskpool.queue.oldest{priority}            s            how long at least the oldest of them waits, without the time held back
//	taskpool.queue.late{priority}              1            1 while those are shed that have waited too long, see WithQueueDelay
//	taskpool.queue.wait{priority}              s            histogram, from hooks; with the time held back
//	taskpool.queue.shed_wait{priority}         s            histogram, from hooks: what those had waited that were shed
//	taskpool.workers                           {worker}     tasks that may run at once: the number of slots
//	taskpool.slots.lost                        {slot}       of these, those that hung tasks hold beyond WithMaxAbandoned
//	taskpool.goroutines{state}                 {goroutine}  of workers: idle, busy, parked, abandoned, lost
//	taskpool.replaced{reason}                  {worker}     workers replaced: panic, goexit, hung
//	taskpool.capacity                          {task}       tasks that may wait; only if that is bounded
//	taskpool.submitters.waiting                {call}       calls of Submit that wait for room
//	taskpool.stalled                           1            1 if nothing moves though tasks wait, or tasks wait for each other
//	taskpool.paused, taskpool.closed           1            1 if so
//
// With [WithFlowNames] there are also, of each flow listed and of no other,
//
//	taskpool.flow.queue.depth{flow}            {task}       tasks that wait for a worker, with those held back
//	taskpool.flow.tasks.held_back{flow}        {task}       that could start or go on but for the flow's limit
//	taskpool.flow.tasks.running{flow}          {task}       that have a slot
//	taskpool.flow.queue.oldest{flow}           s            how long at least the oldest waits, with the time held back
//
// which are those of [taskpool.FlowStats], looked at right after the snapshot. There is no
// value of the attribute for flows that are not listed, as there may be millions.
//
// [Collector.WatchJobs] adds, of the jobs of package jobs in a process or a database, which have
// no attribute taskpool.pool but taskpool.jobs, the name given,
//
//	taskpool.jobs{jobs,kind,queue,status}      {job}        unsettled: waiting, delayed, running
//	taskpool.jobs.oldest{jobs,kind,queue}      s            how long the oldest of those waits that may start
//	taskpool.jobs.up{jobs}                     1            1 if they could be counted
//
// [taskpool.Stats] says more about each. As the spans come from an Around hook, which is
// shown a panic as an error, a panic in a task does not end its worker:
// taskpool.replaced has for reason panic only functions that no hook saw. Views of
// the meter provider change the buckets of the histograms, which reach from 10 µs to 5
// minutes, and what else is exported.
//
// # Priorities
//
// A pool may use any number of priorities; 25 of them have a value of their own in
// metrics, which is high, medium, low or the number, and the rest share the value other.
// Those that are seen first have their own, and keep it, so no counter goes down.
// [WithPriorities] names some beforehand. A priority that was seen once goes on being
// reported, with zeros.
//
// # Cost
//
// A collection costs a [taskpool.Pool.Stats] for each pool and time in proportion to the
// values. A task costs what the SDK needs for a span and two records of a histogram: on
// one machine, on which an empty task took 1.5 µs from Submit to its end, that was 4.2 µs
// with spans that are not sampled and 6.6 µs with spans that are, without their export
// (go test -run '^$' -bench Task -benchtime 20000x -count 4, the medians).
//
// Of functions given to Go the hooks see one in 64 (see [WithGoEvery]), which counts for
// 64 in the histograms: these are right in the long run, not to the last function. Where a
// priority has had only a few dozen functions, it may have no histogram at all: set
// WithGoEvery to 1 where functions are few. Functions that panic or call Goexit are not in
// taskpool.attempt.duration.
package otelpool
