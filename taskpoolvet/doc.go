// Package taskpoolvet finds mistakes in programs that use package taskpool, with analyzers
// for go vet and golangci-lint. README.md says how to run them.
//
// A finding is meant to be a mistake: where an analyzer cannot be certain, it is silent. What
// each does not see is part of its description. They look at one package at a time.
//
// A comment //nolint:taskpoolvet at the end of a line silences what is found there, for
// golangci-lint and for go vet. An analyzer's name is also the flag that selects it:
// go vet -vettool=$(which taskpoolvet) -heldlock ./... runs that one,
// and -heldlock=false all others.
//
// A function is known to be a task if it is given to a pool in the same package: as Task.Run,
// or as an argument of Go, TryGo, SubmitFunc, Call, Map, MapLimit or Group.Go. It may be a literal, a
// variable that literals are assigned to, a function or method of the package, or a literal
// that such a function returns.
//
// # Analyzer heldlock
//
// heldlock: report a lock or pooled connection held where a task gives its slot back
//
// The task that gets the slot may wait for the lock, and then it holds the slot that the
// task with the lock needs in order to go on:
//
//	s.mu.Lock()
//	defer s.mu.Unlock()
//	err := taskpool.Yield(ctx) // the task that runs now may call s.mu.Lock
//
// Unlock first, and lock again afterward. The same holds for a connection out of a pool with
// a limit: a *sql.Conn, *sql.Tx or *sql.Rows, a *pgxpool.Conn, or a pgx.Tx or pgx.Rows that
// package pgxpool has returned.
//
// Yield and Block are reported wherever they stand; Handle.Wait, Future.Get, Call, a loop over
// Map, Group.Wait, WaitIdle and Shutdown in functions that are known to run in a task, or that
// such functions of the same package call. Any type with the methods Lock and
// Unlock, without parameters and results, counts as a lock. A lock is reported if it is held on
// every path to the call and the same function releases it afterward or with defer.
//
// Not seen: locks taken in another function, with TryLock, or through an index or a call, as
// in s.shard(k).Lock(); calls that are deferred; a slot given back because the queue is full,
// in Submit and Go, or at the limit of a group; connections got as a parameter.
//
// # Analyzer lostchild
//
// lostchild: report a task submitted with the context of a task whose handle is dropped
//
// What a task submits with its own context is canceled when the task returns. If nothing
// waits for it, that is usually before it has run:
//
//	Run: func(ctx context.Context) error {
//		_, err := pool.Submit(ctx, notify) // canceled when this function returns
//		return err
//	}
//
// Keep the handle and wait, or submit with [taskpool.Detach] of the context.
//
// Not seen: a handle that is kept and not waited for; submissions in functions that the task
// calls. Nothing is reported in a function that waits in another way, with a channel, a select
// or a method named Wait of another package, nor in a loop without a condition.
//
// # Analyzer taskcontext
//
// taskcontext: report a goroutine that waits with the context of the task that started it
//
// The context names the task, so the wait gives the task's slot back although the task is
// still at work, and the wait ends when the task returns:
//
//	go func() {
//		log.Print(report.Wait(ctx)) // ctx is that of the task
//	}()
//
// Give the goroutine [taskpool.Detach] of the context.
//
// Not seen: goroutines that are not started by a go statement in the task's function itself.
// Nothing is reported if that function waits with a channel, a select or a method named Wait
// of another package: while a task waits for its goroutines, it is right that it is parked.
//
// # Analyzer droppederror
//
// droppederror: report an error of New, Go, TryGo, Submit, Resize or Shutdown that is dropped
//
// A task that was not accepted does not run, and the error of Go, TryGo, Submit, TrySubmit,
// SubmitWithin and SubmitFunc is all that says so. The error of Shutdown lists what did not finish:
//
//	defer pool.Shutdown(ctx) // the error is dropped: what did not finish is lost
//
// A call that stands alone, after defer or after go is reported. An assignment to _ is not: it
// says that the error is dropped on purpose. Nor is Shutdown with context.Background(), which
// leaves nothing unfinished.
//
// # Analyzer copypool
//
// copypool: report a Pool, Handle or Group that is copied
//
// A copy refuses to work: its methods return an error or panic. Use pointers, as New, Submit
// and Pool.Group return them.
//
//	type server struct{ pool taskpool.Pool } // needs *taskpool.Pool
//	s := server{pool: *pool}                 // reported
//
// Assignments, declarations, literals, arguments, results, receivers, parameters, sends and
// loop variables are looked at, also of arrays and structs that hold one.
//
// Not seen: values behind an interface or a type parameter.
//
// # Analyzer noshutdown
//
// noshutdown: report a pool that is made and used in a function and not shut down
//
// Without Shutdown the goroutines of the pool are left behind, and what still waits when
// the program ends is lost without a word:
//
//	pool, err := taskpool.New()
//	...
//	err = pool.Go(taskpool.Low, tidyUp) // and no pool.Shutdown(ctx)
//
// A pool is reported if it is only used through its methods and by functions of package
// taskpool, and Shutdown is not among these.
//
// Not seen: pools that are passed on, returned or stored; paths on which Shutdown is
// not called, if it is called on others; pools on which nothing is started.
package taskpoolvet
