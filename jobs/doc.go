// Package jobs registers handlers by name, so that the same handlers run in this
// process or, on an engine that stores jobs, in many.
//
//	var reg jobs.Registry
//
//	var resize = jobs.Register(&reg, "resize", func(ctx context.Context, m jobs.Meta, p ResizeArgs) error {
//		…
//	}, jobs.Policy{Priority: taskpool.Low, MaxAttempts: 5, Timeout: time.Minute})
//
//	q := jobs.Local(pool, &reg)
//	id, err := resize.Enqueue(ctx, q, ResizeArgs{…}, nil)
//
// A [Queue] is an engine; [Local] is one in memory, on a [taskpool.Pool], and package
// engine is for those who make another. Payloads go through JSON in each, so that what
// works in one process works in many: a handler gets a decoded copy, of exported fields
// only.
//
// # Meaning
//
// It is one for all engines, and package conformance tests it.
//
//	priority       the lower runs first: Options.Priority if set, else Policy.Priority
//	after          there is none: a handler enqueues what comes next, as no engine could
//	               tell of a job that another process does; Task.After is for tasks
//	flow           whose work it is: Options.Flow if set, else Policy.Flow. Handlers and
//	               observers are told. How flows share workers, and what limits they
//	               have, is what the pool's WithFlows says (Local) or what the engine's
//	               documentation says
//	attempts       Options.MaxAttempts if set, else Policy.MaxAttempts: the first included
//	nil            the job is Completed
//	an error       Retrying while attempts are left, then Discarded
//	backoff        the delay that Policy.Backoff computes is the delay used; without
//	               it, and if it panics, full jitter: uniform between 0 and 100 ms
//	               doubled with each attempt, at most 30 s
//	Permanent      Discarded at once
//	RetryAfter     its delay takes the place of the backoff's; the attempt counts like
//	               any other, and the last one's error discards the job
//	timeout        the context ends with taskpool.ErrTimeout; an error that the handler
//	               then returns is an error like any other
//	panic          an error like any other, a *taskpool.PanicError
//	Goexit         Discarded at once, with taskpool.ErrGoexit
//	hang           Discarded at once, with an error that is taskpool.ErrHung: a retry
//	               could run beside what it retries. So is silence for longer than
//	               Policy.Heartbeat
//	shed           Discarded, with taskpool.ErrShed (Local, where the pool sheds); with
//	               WithQueueDelay that is an ErrExpired too
//	longest wait   Options.MaxWait bounds the wait for the first attempt: after it the job is
//	               Discarded, with taskpool.ErrExpired, at once (Local) or when a process
//	               comes to take it (engines that store jobs). By default there is none, as
//	               jobs are there to be done, however late
//	cancellation   before it runs, or before a retry: Canceled, and it never runs again.
//	               While it runs: its context ends; Completed if the handler then returns
//	               nil, and Canceled whatever else it does, return an error, panic, call
//	               Goexit or hang. It is never retried. Event.Err is context.Canceled, and
//	               what the handler's end was
//	not before     it starts at that time or later, by the clock of the process (Local) or
//	               of the database; at most the year 9999 in UTC
//	unique key     while a job of the kind with that key has not settled, another is not
//	               added: Enqueue returns the first one's ID and ErrDuplicate. While one is
//	               just being added, in a transaction that is open for instance, Enqueue
//	               waits for what becomes of that, until its context ends
//	unknown kind   an error of Enqueue where the engine can know; else it waits for a
//	               process that knows it or is Discarded at once, with ErrUnknownKind
//	bad payload    Discarded, with ErrPayload, and never retried: at once (Local), or when
//	               processes of other versions have had time to take it (engines that store
//	               jobs), until which it goes back and that is told as Retrying; what is no
//	               JSON, is nested more than 500 deep or has text that some database does not
//	               store, is refused by Enqueue
//	long errors    the observers get all of an error; an engine that stores jobs may store
//	               the first 64 KiB of its text and of a panic's stack
//	graceful stop  attempts under way are finished, their contexts left alone. Jobs
//	               that wait are finished too (Local) or kept (engines that store them)
//
// Priority, flow, attempts, not-before and unique key are fixed when a job is enqueued. The
// timeout, the heartbeat and the backoff are those of the process that runs it.
//
// [EnqueueMany] adds many jobs at once, and [Registry.Use] has a [Middleware] called around
// each attempt, on every engine.
//
// [Kind.Periodic] has jobs added again and again, by a crontab for one. Operators list, count,
// pause and resume with [Operator], which all queues of this project are. What a handler finds
// out it stores itself, in one transaction with what else it writes; jobs/riverjobs has an
// example.
//
// The handler's context names the job, see [MetaFrom], and so do those that the pool passes
// to hooks and to its log's handler, to which [LogHandler] adds the job.
//
// An engine that stores jobs may run one twice, after a crash: handlers must be
// idempotent. The context given to Enqueue governs the enqueueing and nothing more,
// and a handler sees none of its values.
package jobs
