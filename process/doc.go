// Package process calls functions in child processes of the same program: each
// child has its own memory, does one call at a time, is killed when it overruns and
// replaced when it dies.
//
// A goroutine cannot be killed, and no recover survives os.Exit, a fatal error of
// the runtime (concurrent map writes, a stack that is exhausted), the end of memory
// or a crash in C. A process can be, and its death is an [*ExitError] of the one
// call that it was at work on.
//
//	var render = process.Register("render", func(ctx context.Context, in Page) (Image, error) { … })
//
//	func main() {
//		process.Main() // in a child: serves calls and does not return
//		children, err := process.New(process.WithWorkers(4))
//		…
//		image, err := render.Call(ctx, children, page) // inside a task of a pool or anywhere
//	}
//
// # Children
//
// [New] starts the children before it returns, and each that dies is replaced at
// once, before the next call needs it. One that is not ready in time, or dies in its
// first second without having been called, is replaced after a pause: 10 ms, doubling
// to 30 s. Calls that find no child wait. Once all children have failed five times in
// a row, they fail with the reason, until one is ready again.
//
// A child runs this very program, from its beginning: what the program does before
// [Main] it does in each child. The children share the processors: with the default
// number of them each has one, so the goroutines of a function take turns (see
// [WithWorkers]). A child starts with no arguments, an empty standard input
// and the parent's standard output; what it writes to standard error is copied to
// the parent's, line by line (see [WithStderr]). It inherits environment and working
// directory, and no open file; on other systems than Linux, those that code in C has opened
// without O_CLOEXEC. Where memory runs out, the kernel of Linux ends a child rather than the
// parent. It leads a process group of its own, so Ctrl-C in a terminal
// reaches the parent alone, and what the child starts dies with it.
//
// When the parent dies, by SIGKILL too, its children see the end of the pipe that
// requests come from, and kill their groups; those that a signal had stopped are woken
// for that by the kernel, but one that is stopped in the moment between stays. (The
// kernel of Linux could kill them, too, but does so when the thread ends that started
// them, and leaves what they have started alone.)
//
// # Calls
//
// Arguments and results are copied by package encoding/gob, but for []byte, which
// travels as it is; see [Register] for what
// that means, and for what becomes of errors. Parent and child talk over two pipes
// of their own, so a function may print. A call costs some tens of microseconds, or a
// hundred and more where the kernel has to wake a processor for it: a pool of
// goroutines is for work that is shorter than that, and for work that need not be
// isolated.
//
// [Map] is for many elements of which each takes little: they travel together, and one costs a
// fraction of a microsecond beside its work, where a single call takes some 20. For an empty
// function of an int, on two cores that had other work, it was 0.3 to 0.5 µs:
//
//	go test -run '^$' -bench 'Map$' -benchtime 1000000x ./process
//
// A call in a task of a [taskpool.Pool] needs nothing more: the task's context
// brings its timeout and its cancellation, its priority decides who gets the next
// free child, its retry policy applies to an ExitError as to any other error, and
// [taskpool.Yield] and [taskpool.Beat] in the function are signs of life of the task.
// [taskpool.Block] around the call frees the task's slot for Go code meanwhile.
// Without it, and with as many children as the pool has workers, no call waits for a
// child but for one that is being replaced.
//
// Exactly the call whose child died fails; a call that its child had not read when
// it died goes to another child. So a function may have been at work when its call
// fails, and a retry does again what it did.
//
// # The end of a call
//
// When the context given to Call ends, so does the function's, with the cause as far
// as that can travel. A function that does not return within the kill grace gets
// SIGTERM, for which it may have a handler, together with its process group, and half
// that time later SIGKILL. A child that somebody has stopped while it was idle is woken by
// SIGCONT after a second of the call. Call waits for the function to return or to be gone, so
// that no retry ever runs beside what it retries.
//
// [Pool.Shutdown] waits for all calls and has the children exit, or kills them
// when its context ends.
//
// # Trust
//
// A child is trusted as far as this program is: it is not a sandbox. It runs with
// all rights of the parent, and package gob, which decodes what it sends, is not made
// for data of an adversary. Whoever starts the program can have it serve calls, as a child
// does: so a program that is setuid or setgid, or has file capabilities, is never a child, and
// New returns an error there.
//
// # Systems
//
// The package works on Linux, macOS and other Unix systems. Elsewhere, on Windows for
// one, programs that use it build, and New returns an error.
package process
