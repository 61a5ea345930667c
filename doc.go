// Package taskpool runs tasks on a fixed set of workers when some work matters more
// than other work: the most urgent task runs first, no task starves, no failure of a
// task takes the pool down, and nothing that was accepted is lost silently.
//
//	pool, err := taskpool.New(taskpool.WithWorkers(4))
//	if err != nil {
//		return err
//	}
//	report, err := pool.Submit(ctx, taskpool.Task{Priority: taskpool.High, Run: writeReport})
//	if err != nil {
//		return err // not accepted: nothing was started
//	}
//	if err := pool.Go(taskpool.Low, tidyUp); err != nil { // a func(); no handle, no allocation
//		return err
//	}
//	return errors.Join(report.Wait(ctx), pool.Shutdown(ctx)) // Shutdown finishes what was accepted
//
// [Pool.Go] runs a plain function. [Pool.Submit] takes a [Task], with a name, a timeout,
// a retry policy and a context, and returns a [Handle]. [SubmitFunc], [Call], [Join] and [Map]
// are for tasks with results, [Pool.Group] for tasks that fail together. Package process
// calls functions in child processes, as they may crash or never end. Package jobs runs
// the same handlers in this process or, with a database, on many machines. Package
// dashboard is a live page, package httppool is for HTTP servers, package taskpooltest for
// tests, and the modules metrics/prompool and metrics/otelpool export metrics.
//
// # Order
//
// The lower [Priority] runs first; the zero value is Medium. A free worker takes the most
// urgent task that waits at that moment; none is set aside ahead of time. Within a
// priority the flows that Task.Flow names take turns, see [WithFlows], and tasks of one flow
// start in the order of their arrival, as do those without one. Retries and delayed tasks arrive
// when they are due, and [Handle.SetPriority] makes a task arrive anew.
//
// So that urgent work cannot keep other work waiting forever, one of every 16 dispatches
// that had a choice goes to the task that has waited longest. A task with m older tasks of
// its flow before it starts within 16·(m+1) dispatches, or 16·k·(m+1) while k flows of equal
// weight wait, and urgent work loses at most one in 16.
// See [WithFairShare], [WithAging] for soft deadlines, [WithReserved] for workers kept
// free, and docs/starvation.md for the proofs. Accepting and dispatching a task costs
// O(log p) for p distinct waiting priorities, however many tasks wait.
//
// # Giving the slot back
//
// A pool of n workers has n slots, and at most n tasks run at any moment. A task can give
// its slot back in the middle of its work: it is parked, its goroutine waits, another task
// runs, and it goes on when its turn comes, before tasks of its priority that have not
// started. [Yield] is a safe point, at which more urgent tasks run first; [Block] gives
// the slot back around I/O. What waits in a task gives it back by itself: Handle.Wait,
// Future.Get, Call, Do, Map, Group.Wait, Submit and Go when the queue is full. So tasks may
// wait for tasks to any depth, on one worker and through several pools. A task that waits
// lends its urgency: what it waits for counts as that urgent until it has settled.
//
// # The life of a task
//
//	Queued ─→ Running ─→ Succeeded | Failed | Canceled
//	  ↑  ↖       │ ↘
//	Delayed ←────┘   Parked ─→ (resuming) ─→ Running
//	Queued, Delayed ─→ Canceled | Shed
//
// Every accepted task reaches exactly one of the final states, once. The context given to
// Submit governs it from the wait for room to the end of its last attempt; Run's context
// derives from it and is over when Run has returned. A task that returns nil has
// succeeded. One whose Handle or context was canceled, and that then returns an error, is
// Canceled and never retried. Any other error, a panic and a timeout fail the attempt, and
// [Retry] says whether there is another. [Handle.Wait] returns the last attempt's error:
// what Run returned and, if its context had ended, the reason, such as [ErrTimeout].
//
// A panic or [runtime.Goexit] ends the worker's goroutine, and a new one takes its place.
// A task that has not returned some time after its context has ended is given up with a
// [*HungError], see [WithHangGrace], and a new worker takes its slot. A pool that stands
// still with nothing wrong in it, as when tasks wait for each other in a circle, says so
// in its log and in [Pool.Health]. An idle pool uses no CPU.
//
// After [Pool.Shutdown] is called, new tasks are refused with [ErrClosed], and what was
// accepted is finished, with what running tasks submit in their own contexts. If its
// context ends first, the rest is cut off and listed in a [*ShutdownError], to be saved or
// submitted elsewhere.
//
// # Traps
//
//   - What a task submits with its own context ends with the task. Work that is to go on
//     gets [Detach] of it; so does a task that submits itself again, until [ErrClosed].
//   - Hold no lock and no pooled connection across Yield, Block or a wait in a task:
//     whoever gets the slot may need it.
//   - Timeout includes the time parked; Task.WorkTimeout does not.
//   - A goroutine that waits with the context of the task that started it parks the
//     task. Give it Detach of the context.
//   - Within a priority, a thousand tasks of one submitter stand before the next one of
//     another, unless Task.Flow says whose they are.
//   - A retry after a timeout or a hang may find the side effects of the first attempt.
//   - A panic on a goroutine that a task has started ends the program. So do os.Exit and
//     fatal errors of the runtime, such as concurrent writes to a map: see package process.
//   - Hooks run on the goroutine that brought the event about, and slow it down.
//
// No lock of the pool is held while it calls a task, a hook, a retry policy, a logger, or
// a method of an error or a context. A panic in any of these but the task is logged or, if
// it happens inside a call of this package, goes to the caller. A nil context or function,
// and a Pool, Handle, Group or Future that no call has returned, is refused with an error
// that names the call or, where none is returned, with a panic.
package taskpool
