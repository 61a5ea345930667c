// Package taskpool runs tasks on a fixed set of workers when some work matters
// more than other work: the most urgent task runs first, no task starves, no
// failure of a task takes the pool down, and nothing that was accepted is lost
// silently.
//
// A [Pool] is made with [New] and ended with [Pool.Shutdown]. [Pool.Go] runs a
// plain function; [Pool.Submit] takes a [Task], with a name, a timeout, a retry
// policy and a context, and returns a [Handle] to it.
//
// # Priorities
//
// The lower [Priority] runs first; the zero value is Medium. A free worker takes
// the most urgent task that waits at that moment: no task is set aside for a worker
// ahead of time, so an urgent task never waits behind one that arrived before it and
// has not started. Within a priority tasks start in the order of their arrival. A
// retried or delayed task keeps its priority and arrives when it is due;
// [Handle.SetPriority] makes a task arrive anew.
//
// # Starvation
//
// Under strict priority, urgent work that fills the pool keeps all other work
// waiting forever. Therefore one of every n dispatches that had a choice
// between priorities, 16 by default, goes to the task that has waited longest.
// Two promises follow. First, a task that has m older tasks before it starts within
// n·(m+1) dispatches: a dispatch without a choice serves the oldest task anyway,
// as lanes are first in, first out, and so does one in n of the others, so at
// most n dispatches lie between two that serve the oldest, and m+1 of these
// reach the task. Second, urgent work loses at most one dispatch in n. See
// [WithFairShare].
//
// [WithAging] is an alternative for soft deadlines: waiting for one step is worth
// one priority level. Any two waiting tasks age alike, so their order never changes,
// and a task of priority p is never passed by one of priority q that arrives
// (p−q)·step or more after it. Aging has a price: when the backlog has become older
// than the head start of urgent tasks, they wait in it like all others.
//
// The queue keeps one first-in-first-out lane for each priority and the lanes in
// a container/heap. Accepting and dispatching a task costs O(log p) for p
// distinct waiting priorities, however many tasks wait.
//
// # Giving the slot back
//
// A pool of n workers has n slots, and at most n tasks run at any moment. A task
// in the middle of its work can give its slot back: it is parked, its goroutine
// waits, another task runs on the slot, and the parked task goes on when its turn
// comes.
//
//   - [Yield] is a safe point: it lets more urgent tasks run first and shares the
//     slot among equals in turns of a quantum, see [WithQuantum].
//   - [Block] gives the slot back while a function waits for I/O.
//   - [Handle.Wait], [Future.Get], [Call], [Map], [Group.Wait], [Group.Go] at its
//     limit, and [Pool.WaitIdle] and [Pool.Shutdown] of another pool do so in a
//     task, whichever pool they wait for. So tasks may wait for tasks to any depth,
//     on one worker and through several pools. Only tasks that wait for each other
//     in a circle wait until a context ends.
//   - Submit in a task gives the slot back while it waits for room.
//
// A wait belongs to the task whose context it is called with. With another context,
// such as a request's or context.Background, it belongs to the task on whose goroutine
// it is called, and so do waits in functions given to Go, which have no context. Such
// a wait ends when its context or the task's ends, whichever comes first. If the task's
// has ended already when the wait begins, only the wait's own context bounds it, so that
// the task can clean up. Finding the task by its goroutine takes some 5 to 100 µs,
// depending on the depth of the stack, and finding that there is none, on any other
// goroutine, well below a microsecond; a wait that need not wait takes neither. Do not
// wait with the context of another task that is at work: usually that task then gives its
// slot back in place of the one that waits.
//
// A parked task resumes before tasks of its own priority that have not started, but
// behind them at the end of its quantum, and before everything if its context has ended,
// as it is then on its way out. Yield, Block and Beat know the task only by its context,
// which must be the one that Run got, or derive from it. Another goroutine of the task
// that waits with its context parks the task; give that goroutine [Detach] of the context
// instead. While a task is parked, other waits with its context park nothing, and it has
// its slot back when the wait that parked it is over. Hold no lock and no pooled
// connection across a call that may park, because whoever gets the slot may need it.
//
// The promises about starvation count a task that resumes as one that arrived
// when it asked to resume: tasks that resume form lanes of their own beside those that
// have not started, and the fair share's turn serves the oldest of all. So a Low
// task that yields to lasting urgent work runs, in each turn it is granted, from one
// of its safe points to the next, and no further. With aging, too, a task that resumes
// ages from then on, and it still goes before tasks of its own priority that have not
// started: it takes the turn of the first of these, and so may pass a third task that
// it came too late to pass by itself. Tasks whose context has ended are not counted.
// [WithReserved] says how reserved workers change the bounds.
//
// # The life of a task
//
//	Queued ─→ Running ─→ Succeeded | Failed | Canceled
//	  ↑  ↖       │ ↘
//	Delayed ←────┘   Parked ─→ (resuming) ─→ Running
//	Queued, Delayed ─→ Canceled      Queued ─→ Shed
//
// Every accepted task reaches exactly one of the final states, once, and in each
// [Stats] the counts add up. The context given to Submit governs the task from
// the wait for room in the queue to the end of its last attempt, and Run's
// context derives from it. When Run has returned, that context is over, so what
// a task submits with it ends with the task, and the log has a warning with the
// number of tasks canceled in that way; [Detach] returns the context for work
// that must go on. A task that submits itself again does so with Detach, and
// gets [ErrClosed] once the pool is shut down.
//
// A task that returns nil has succeeded, whatever happened before. A task whose
// Handle or context was canceled, and that then returns an error, is Canceled,
// and never retried. Any other error, a panic and a timeout fail the attempt,
// and [Retry] says whether there is another.
//
// # Supervision
//
// A panic and a call of [runtime.Goexit] end the worker's goroutine. The
// supervisor, one goroutine for each pool, puts a new one in its place, and the
// task's error is a [*PanicError] or [ErrGoexit]. The supervisor also watches tasks
// whose context has ended, by one of their timeouts or otherwise: a task that has not
// returned within the hang grace is given up. Its error is a [*HungError], and a new
// worker takes the slot, so that the pool has its full capacity while the goroutine
// that cannot be stopped goes on. At most as many tasks as [WithMaxAbandoned] says are
// given up at a time; what they return later is discarded. The grace counts only while
// the task has a slot or works in Block. A task with a Heartbeat is also watched for
// silence: its context ends with [ErrHung] if it calls neither [Yield] nor [Beat] for
// too long. Time that the program did not get, because the process was stopped or the
// machine is busy with other work, counts neither toward the grace nor as silence: the
// supervisor waits for their end in many short steps, and judges by how late it wakes
// up itself.
//
// Nothing can be done in this process about os.Exit and fatal errors of the
// runtime, such as concurrent writes to a map.
//
// A pool may also stand still although nothing is wrong with it: tasks wait for each
// other, or all slots are held by tasks that wait for what only a queued one could
// bring about. When nothing has moved for one to two hang graces while something
// waits, the log says so once, at Warn, with the tasks' names, and [Pool.Health] and
// [Stats] say it for as long as it lasts, see [ErrStalled].
//
// An idle pool uses no CPU. There is no polling and no ticker in this package.
//
// # Shutdown
//
// After [Pool.Shutdown] is called, new tasks are refused with [ErrClosed], and what
// was accepted is finished, including what running tasks submit with their own
// contexts; [WithDelayedAtShutdown] says whether that applies to tasks that are not
// due yet. If Shutdown's context ends first, the rest is cut off and listed in
// a [*ShutdownError], so that it can be saved or submitted elsewhere. To stop
// softly first and hard later, submit with a context that does not end with the
// soft signal, and give Shutdown one that ends with the hard one.
//
// # Errors
//
// The error of a task, from [Handle.Wait] or [Handle.Err], is that of its last attempt.
// If the attempt's context had ended, the error is both the reason for that and what
// Run returned, as [errors.Is] and [errors.As] see it. The reason is [ErrTimeout] after
// a timeout, and otherwise the cause with which the task was canceled. The bare
// context.Canceled and context.DeadlineExceeded that a context's Err returns add nothing
// to the reason and are left out.
//
// A nil context or function, and a Pool, Handle, Group or Future that no call has returned,
// is refused before anything is done: with an error that names the call and what must not be
// nil or, if the call returns no error, by a panic with that text.
//
// # Seeing inside
//
// [Pool.Stats], [Pool.Tasks] and [Pool.Stack] answer questions while the pool is at
// work: what runs and for how long, what waits, how long and of which priority, how
// attempts ended, where a task is stuck. [Hooks] tell of events as they happen, and
// [Hooks.Around] goes around each attempt. Every panic, hang and final failure is
// logged at level Error, a retry at Warn and the success of a task given to Submit at
// Debug, see [WithLogger]. What nobody asks for costs nothing: without hooks, the clock
// is not read for a function given to Go.
//
// In profiles the goroutines of workers have the labels pool, worker and
// worker_goroutine, which is the goroutine's number in stack dumps. Run's context has
// them beside those of the context given to Submit. What a task or a hook does to the
// labels ends with it; but if functions given to Go run one after the other, up to 63
// may run with the labels that an earlier one has left.
//
// While an execution trace is recorded, each attempt is a task of package
// [runtime/trace] with the task's name and a region. A function given to Go is a region
// taskpool.func, and the time in which an attempt is parked is a region taskpool.parked.
//
// Package dashboard serves a live page about pools. The modules metrics/prompool and
// metrics/otelpool export metrics to Prometheus and OpenTelemetry, the latter with
// spans.
//
// # User code and locks
//
// No lock of the pool is held while it calls a task, a hook, a retry policy, a
// logger, or a method of an error or of a context that was given to it. A panic in
// any of these but the task itself is logged and changes nothing or, if it happens
// inside a call of this package, goes to the caller. Only a panic in the methods
// of a context that has a Done channel of its own may end the process, as package
// context calls them on a goroutine of its own. All methods may be called from
// anywhere; Shutdown and WaitIdle return [ErrInside] where they would wait for
// their own caller.
package taskpool
