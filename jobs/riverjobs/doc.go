// Package riverjobs runs the handlers of package jobs on River: in many processes, from
// a PostgreSQL database, or in a few on one machine from a SQLite file. Jobs outlive the
// processes.
//
//	db, err := pgxpool.New(ctx, url)
//	driver := riverpgxv5.New(db)
//	err = riverjobs.Migrate(ctx, driver)                  // River's tables
//	q, err := riverjobs.New(driver, &reg, riverjobs.Config{Pool: pool})
//	err = q.Start(ctx)
//	id, err := resize.Enqueue(ctx, q, ResizeArgs{…}, nil)
//	id, err = resize.Enqueue(ctx, q.InTx(tx), ResizeArgs{…}, nil) // exists if tx is committed
//	err = q.Stop(ctx)                                     // soft; hard when ctx ends
//
// Or with SQLite, of which one process waits for another only when it is told so:
//
//	import _ "modernc.org/sqlite"
//
//	db, err := sql.Open("sqlite", "file:jobs.sqlite?_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_txlock=immediate")
//	db.SetMaxOpenConns(1)
//	driver := riversqlite.New(db)
//
// Each kind is a kind of River's, a payload is the args of its row, and River's own UI
// and [Queue.Client] see both. Each process runs its jobs as tasks of a pool, so panics,
// hangs, Yield, Block, hooks, metrics and the dashboard are what they are without River.
// A process takes a row only when it has a worker for it: which job is next is decided
// in the database, for all processes.
//
// # What a job means here
//
// The conformance suite of package jobs passes on both databases.
//
//	exactly        attempts, Permanent, RetryAfter, timeout, heartbeat, panic, Goexit, hang,
//	               cancellation by ID from any process, unique key per kind, payload
//	               errors, and the delay that a backoff computes
//	with loss      priority: River has 1 to 4. High and all that is more urgent is 1,
//	               Medium 2, Low 3, the rest 4; among equals the first is first. The
//	               handler is told the number that was given
//	               flow: it is stored, told, and the task's. What flows may do holds in
//	               one process at best, see below
//	               start: a job starts at the next fetch, see the traps
//	               no Timeout: it is Config.River.JobTimeout then
//	               longest wait: MaxWait is looked at when a process takes the job for its first
//	               attempt, by the database's clock; until then the row is there
//	               periodic jobs: River's, see EnqueuePeriodically. While no process runs, and
//	               for up to 15 s after the death of the leader, none is added
//	               Retrying: also what a Stop that was cut short, or a pool without room or
//	               without a free worker, gave back; that attempt did not count, and its
//	               number comes again
//	               events: told once the database has stored the end, in the process that
//	               ran the attempt or whose Cancel ended the job. Of different jobs they come
//	               in any order. A slow observer holds up no worker: events wait for it, in
//	               memory, and Stop waits too. What a process that dies has not told, and
//	               what River's rescuer decides, nobody is told
//	               payload: PostgreSQL stores jsonb, so a handler that takes it as text sees
//	               other spaces and another order of keys, of equal keys the last only, 1e5
//	               as 100000 and -0.0 as 0.0; numbers beyond its numeric, such as 1e131075,
//	               are refused. SQLite drops spaces. Strings are the same, their escapes not
//	               unknown kind: left to processes that know it, unless DiscardUnknownKinds is
//	               set, and see the traps
//	               bad payload: it goes back for Config.PayloadGrace, an hour by default, for
//	               a process of another version to take, and is discarded after that. Each
//	               time it goes back that is told as Retrying, and uses no attempt. A handler
//	               that decodes for itself returns taskpool.Permanent(jobs.ErrPayload) to have it so
//	not at all     fair share and aging among the jobs of one queue: urgent jobs starve the
//	               others there. Give low work a queue with workers of its own, Config.Route
//	               and the example
//	               turns between flows, their weights and capacities, and limits across
//	               processes, see below
//	               shedding: what a pool sheds, for WithQueueDelay too, goes back and is
//	               fetched again; results: let the handler store them, see the example
//	               River's own errors: what a handler returns of river.JobSnooze or
//	               river.JobCancel is an error like any other
//	               exactly once: handlers must be idempotent, see below
//
// # Flows
//
// A job's flow is in the metadata of its row, as taskpool_flow, and Config.Route,
// handlers, observers, hooks and the pool of each process see it. This lists a flow's jobs:
//
//	river.NewJobListParams().Where("metadata ->> 'taskpool_flow' = @flow", river.NamedArgs{"flow": "acme"})
//
// But the database gives out jobs by priority and age, whose they are makes no difference
// to it, and this package adds no quota of its own to that:
//
//	turns          none: a thousand jobs of one flow stand before another's that came later,
//	               if it is no more urgent
//	Weight         counts only among jobs that this process has fetched and that wait for a
//	               worker of its pool: hardly ever, as it fetches no more than it has
//	               workers for
//	Limit          is kept in this process, for its pool. A job that it holds back keeps one
//	               of the queue's workers from other jobs, and goes back after a twentieth of
//	               RescueStuckJobsAfter, 3 minutes at most
//	Capacity       likewise. Enqueue never refuses a job for it: a table has no bound
//
// What River has is queues. One of its own, with Config.Route, keeps a flow, or a class of
// flows, out of the others' way, and its MaxWorkers is a limit in each process, for which
// no job is held back; workers that it does not need are idle. If a single process works on
// it, that is a limit for all.
//
//	Route: func(r jobs.Request) string {
//		if r.Flow == "flood" {
//			return "flood"
//		}
//		return river.QueueDefault
//	},
//	River: river.Config{Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 6}, "flood": {MaxWorkers: 2}}},
//
// If the pool has WithAging, its tasks have no flow, and handlers are still told.
//
// # When a process dies
//
// Its jobs are marked as running until one of the others, the leader, takes those for
// lost that have been for longer than Config.River.RescueStuckJobsAfter, by default an
// hour, which it looks for every 30 s; after the death of a leader there is a new one
// within 15 s. The attempt has counted, and the job is retried after its backoff, or
// discarded if it was the last. So a job of one attempt does not survive the death of
// its process, but a job of two does.
//
// RescueStuckJobsAfter counts from when a process took the row, so it bounds all that a
// living process does with one, for no job to run in two: the wait for a worker of the
// pool, the timeout, the hang grace and the storing. New refuses what does not fit, the
// default of JobTimeout is what does. For jobs to be missed soon set a short
// RescueStuckJobsAfter: with 1 minute and a hang grace of 5 s attempts may take 49 s.
//
// It is the database's clock that counts, PostgreSQL's or that of the one machine: for what
// is lost, for when a retry is due, and for what may start at once. So the clocks of the
// machines need not agree; but NotBefore is the caller's time, and a job starts when it is
// that time in the database: keep all machines on NTP.
//
// # When a process is frozen
//
// A process that is stopped for longer than RescueStuckJobsAfter, by SIGSTOP or by the
// suspension of its virtual machine, is taken for dead, and others have its jobs. When it
// goes on, so do its handlers: nothing tells them, and two attempts at one job run at once.
// What the earlier one comes to is neither stored nor told: the transaction that stores an
// end first locks the row, and looks whether the attempt is still the row's. It is logged.
// The handler's own transactions can look, too, and fail if it is not:
//
//	SELECT 1 FROM river_job WHERE id = $1 AND attempt = $2 AND state = 'running' FOR UPDATE
//
// with jobs.Meta's ID and Attempt. What is left: an attempt that was lost and has not been
// taken by anybody yet is stopped by nothing; a process that is frozen while it stores ends
// keeps others from taking those rows for 10 seconds on PostgreSQL, and on SQLite, where a
// transaction holds the file, from everything until it goes on.
//
// River stores the ends of jobs in batches, up to a quarter of a second late. What a
// killed process had finished in that time, and what was at work, runs again. A test kills
// worker processes of eight workers at random, PostgreSQL once, and freezes one process until
// others have its jobs, while the clocks of most processes, and of all leaders, are wrong by an
// hour. With 84 kills while 10,000 jobs of 20 ms ran, all ended as their handlers say, no
// success was told or stored as a failure, and 509 ran once more than that:
//
//	TASKPOOL_TEST_FULL=1 go test -run NoJobIsLost -v .
//
// # Traps
//
// Those of River that this package takes care of: priority 0 is not a priority; a timeout
// of -1 exempts a job from being rescued; the channels of Subscribe close on Stop, and
// drop what is not received in time; an error whose text has a NUL cannot be stored in
// PostgreSQL, and would keep its process from storing the end of any other; a panic in a method of a
// handler's error, as of a typed nil, would end the process, so River gets the text only;
// the driver of
// SQLite refuses or changes args that are a string or a boolean, so a payload that is no
// object or array is in the args as {"value": …}; a kind without worker would be retried
// for days.
//
// Those that are left, as measured with River's defaults:
//
//   - A queue runs at most workers / FetchCooldown jobs a second: 1 worker and 100 ms
//     gave 9.7, 100 workers 1,019. Lower FetchCooldown for short jobs.
//   - PostgreSQL tells of a new job, SQLite within 50 ms. Nobody tells of one that its process
//     has added to a queue within FetchCooldown after another, nor of one whose time
//     has come: it starts with the next poll, FetchPollInterval, 1 s, later at most. Three
//     retries without delay took 3.0 s. What is due in more than 5 s is first made
//     available by the leader: without one it waits.
//   - On SQLite, without SetMaxOpenConns(1) on each process's sql.DB Start fails with
//     "database is locked" at once; without busy_timeout and _txlock calls do in which two
//     processes meet. With one connection an open transaction keeps all else of the process
//     waiting, so in one use InTx alone: Enqueue would wait for itself.
//   - A pool that is made smaller with Resize, or paused, or has other work, does not make
//     the queue fetch less: the rows wait in it, urgent ones too, and go back, see
//     Config.Pool. Start a queue with fewer workers, or pause River's queue.
//   - A job of a kind that no process knows stays in the table, and a thousand of them that
//     are more urgent make each fetch of their queue look past a thousand rows. Find them
//     with River's UI, or by
//     SELECT kind, count(*) FROM river_job WHERE state = 'available' GROUP BY kind,
//     and run one process with DiscardUnknownKinds when it is known that nobody will want them.
//   - A process that was frozen runs its handlers on when it goes on, beside those of the
//     process that has their jobs by then. See below.
//   - A leader with a shorter RescueStuckJobsAfter than another process takes that one's
//     jobs: give all the same.
//   - A row has the first 64 KiB of an error's text and, as its trace, of the stack of a
//     panic. A row that is larger than 256 MiB PostgreSQL refuses, and River then tries the
//     ends of all that would be stored with it again and again: payloads count too.
//   - While a transaction of somebody else has added a job with the same unique key and is
//     open, Enqueue waits for it on PostgreSQL, and on SQLite for any transaction that writes:
//     give it a context that ends.
//   - A queue that is added with Client().Queues().Add is not counted: with more workers in
//     all than the pool has, the process holds rows that wait, and go back.
//
// # Versions
//
// River and its drivers are all v0.51.2, which the tests pass with. Take them together, as
// River's driver interface changes without notice.
//
// # Cost
//
// The same rows through River alone and through this package in turn, jobs that do
// nothing, PostgreSQL on the same two cores, which did nothing else; jobs a second, and the
// median of the ratios of 31 pairs of runs (15 of the last):
//
//	                        River    here    ratio
//	8 workers, 1 ms         2,947   2,705    0.94
//	100 workers, 1 ms       7,719   6,620    0.87
//	100 workers, 100 ms     1,037   1,051    1.02
//
// With the default FetchCooldown that is what takes the time. With a short one the processors
// are busy, and a job costs this process some 11 µs more than River alone: the way through
// the pool, and the transaction in which ends are stored.
//
//	go test -run '^$' -bench BesideRiver -benchtime 31x .
//
// EnqueueMany of a thousand jobs without unique keys adds 56,851 a second, which is 0.84 of
// what River's InsertManyFast adds, which returns no IDs. One by one they are 1,321.
//
//	go test -run '^$' -bench 'EnqueueMany$' -benchtime 61x .
//	go test -run '^$' -bench 'Enqueue$' -benchtime 2000x .
package riverjobs
