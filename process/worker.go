package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// A worker is a child process as the parent sees it. Its life:
//
//	start ─→ ready ─→ (call)* ─→ retire or kill, or a death of its own ─→ exited
//
// What holds:
//
//   - One call at a time has it, and only that call reads from the pipes.
//   - Nobody sends a signal once the process has been waited for: its number may
//     belong to another then. mu sees to that.
//   - A signal that a call has asked for is sent during that call or not at all. A
//     child that was sent one gets no further call.
//   - exited is closed when the process has been waited for, its group has been
//     killed, and its standard error has been read to the end, or for a second.
type worker struct {
	cfg     *config
	process *os.Process
	pid     int
	in      *os.File     // requests
	unread  *os.File     // the child's end of in: what it has not read can be found here
	out     *os.File     // results, read through results
	results *frameReader // used by whoever has the worker
	request *frameWriter
	stderr  *tail
	exited  chan struct{}
	state   *os.ProcessState // valid once exited is closed

	held bool // a call has it; protected by Pool.mu

	// Used by whoever has the worker.
	calls   int
	streams map[string]*workerStreams

	mu       sync.Mutex  // protects the fields below
	waited   bool        // for the process, so that pid is not its own any more
	id       uint32      // of the latest call
	initID   uint32      // of the last call of WithInit
	busy     bool        // that call is under way
	next     *time.Timer // sends the next signal that call asks for; nil: none
	name     string      // of the function of the call that is under way
	wake     *time.Timer // wakes the child if the call takes long; running while busy
	memory   *time.Timer // takes the next look at the child's memory; nil without a limit
	doomed   bool        // it was sent a signal, or has closed its end: no further call
	cause    error       // why it was sent a signal; nil if it died by itself
	retiring bool        // told to exit
}

// workerStreams are a function's streams at the parent's end.
type workerStreams struct {
	args    valueEncoder
	results valueDecoder
}

// drainTime is how long after a child's death its pipes are read, should they be
// held open by a process that has left its group.
const drainTime = time.Second

// startWorker starts a child and returns when it is ready for calls, or why it is
// not within the start timeout, or when stop is closed.
func startWorker(cfg *config, stderr io.Writer, exits *exits, stop <-chan struct{}) (*worker, error) {
	path, err := executable()
	if err != nil {
		return nil, fmt.Errorf("process: path of this program: %w", err)
	}
	var open []*os.File // closed if there is an error, and the child's at the end
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
			open = append(open, r, w)
		}
		return r, w
	}
	closeAll := func(files ...*os.File) {
		for _, f := range files {
			_ = f.Close() // a nil one, too
		}
	}
	childIn, in := pipe()
	out, childOut := pipe()
	errs, childErrs := pipe()
	if err != nil {
		closeAll(open...)
		return nil, fmt.Errorf("process: %w", err)
	}
	enlarge(in, cfg.workers)
	enlarge(out, cfg.workers)
	null, err := os.Open(os.DevNull)
	if err != nil {
		closeAll(open...)
		return nil, fmt.Errorf("process: %w", err)
	}
	argv := []string{path}
	if len(os.Args) > 0 {
		argv[0] = cmp.Or(cfg.argv0, os.Args[0]) // what ps shows
	}
	env := append(os.Environ(), cfg.env...)
	env = append(env, cookieName+"="+cookie{os.Getpid(), cfg.maxFrame, cfg.maxMemory, cfg.childProcs(), cfg.rlimits}.String())
	env = (&exec.Cmd{Env: env}).Environ() // the last of each name counts
	p, err := startChild(path, argv, env, []*os.File{null, os.Stdout, childErrs, childIn, childOut}, cfg.credential)
	closeAll(null, childOut, childErrs)
	if err != nil {
		closeAll(in, childIn, out, errs)
		return nil, fmt.Errorf("process: start of a child: %w", err)
	}
	w := &worker{
		cfg: cfg, process: p, pid: p.Pid,
		in: in, unread: childIn, out: out, results: newFrameReader(out, cfg.maxFrame), request: &frameWriter{w: in},
		exited: make(chan struct{}), streams: make(map[string]*workerStreams),
	}
	var label func() string
	if cfg.stderrLabels {
		label = w.label
	}
	w.stderr = newTail(errs, stderr, label)
	w.wake = time.AfterFunc(wakeAfter, w.wakeUp)
	w.wake.Stop()
	if cfg.maxMemory > 0 {
		w.memory = time.AfterFunc(memoryInterval, w.lookAtMemory)
	}
	go w.wait(exits)
	if err := w.prepare(stop); err != nil {
		w.kill(nil)
		<-w.exited
		w.close()
		return nil, w.startError(err)
	}
	return w, nil
}

// wait waits for the end of the process, and sees to what it leaves.
func (w *worker) wait(exits *exits) {
	exits.await(w.process)
	state, err := w.process.Wait()
	if err != nil {
		state = nil // somebody else has waited for it
	}
	w.mu.Lock()
	w.waited = true
	w.mu.Unlock()
	// What it started is left in its group. That its number has become another
	// group's meanwhile is not to be feared: numbers are given out in turn.
	signalGroup(w.pid, syscall.SIGKILL)
	_ = w.out.SetReadDeadline(time.Now().Add(drainTime))
	_ = w.in.Close() // what could not be written by now, nobody reads
	w.stderr.finish(drainTime)
	w.state = state
	childExited(w)
	close(w.exited)
}

// childExited is called with each child that has exited, before others know. Tests
// replace it.
var childExited = func(*worker) {}

// close gives back what is left of a worker that is gone. No call has it.
func (w *worker) close() {
	_ = w.out.Close()
	_ = w.unread.Close()
}

// alive reports whether the process has not been waited for, nor was sent a signal
// or told to exit.
func (w *worker) alive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.waited && !w.doomed && !w.retiring
}

// history tells what became of a child: whether it was given a call, was killed, or
// told to exit.
func (w *worker) history() (called, killed, retired bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id > w.initID, w.cause != nil, w.retiring
}

// kill ends the child and its group at once; the first cause counts. It is nil for
// a child that seems to have died.
func (w *worker) kill(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.killLocked(cause)
}

func (w *worker) killLocked(cause error) {
	w.signalLocked(syscall.SIGKILL, cause)
}

func (w *worker) signalLocked(sig os.Signal, cause error) {
	if w.waited {
		return
	}
	if !w.doomed {
		w.doomed, w.cause = true, cause
	}
	signalGroup(w.pid, sig)
}

// retire has the child exit, and killed if it takes longer than the kill grace or a
// second. No call has it.
func (w *worker) retire() {
	w.mu.Lock()
	if w.retiring || w.waited {
		w.mu.Unlock()
		return
	}
	w.retiring = true
	late := time.AfterFunc(max(w.cfg.killGrace, time.Second), func() { w.kill(nil) })
	w.mu.Unlock()
	go func() {
		defer late.Stop()
		// A child that hangs may not read it.
		_, _ = w.request.write(newFrame(nil, kindBye), nil)
		<-w.exited
	}()
}

// errNotBegun is why a call cannot have begun: the child died before it had read
// the request.
var errNotBegun = errors.New("process: the child died before the call began")

// call has the child call a function, and puts what that returns into out. It
// returns errNotBegun if another child can be asked, and what [Pool.call] says of sizes.
func (w *worker) call(ctx context.Context, name string, in, out any) (bytes int, err error) {
	st := w.streams[name]
	if st == nil {
		st = new(workerStreams)
		w.streams[name] = st
	}
	header := callHeader{prefix: prefix{id: w.begin(name)}, name: name}
	defer w.end()
	if st.args.fresh() {
		header.flags |= flagFreshValue
	}
	if st.results.dec == nil {
		header.flags |= flagFreshReply
	}
	if deadline, ok := ctx.Deadline(); ok {
		header.flags |= flagHasDeadline
		header.left = time.Until(deadline)
	}
	request, tail, err := st.args.encode(header.appendTo(newFrame(nil, kindCall)), in)
	name = strings.TrimPrefix(name, chunkPrefix)
	if err != nil {
		return 0, taskpool.Permanent(fmt.Errorf("process: argument of %s: %w", name, err))
	}
	bytes = len(request) + len(tail)
	if size := bytes - headerSize; size > w.cfg.maxFrame {
		st.args.giveUp()
		return 0, tooLarge(name, "argument", uint64(size), w.cfg.maxFrame)
	}
	w.calls++
	if many, ok := in.(interface{ elements() int }); ok {
		w.calls += many.elements() - 1
	}

	// The grace begins when ctx ends, though a child that hangs may not have read the
	// request. The child is told when it has: it would not know which call is meant.
	defer context.AfterFunc(ctx, func() { w.killAfterGrace(header.id, ctx) })()
	end, _ := w.request.write(request, tail) // an error shows in the reply, too
	defer context.AfterFunc(ctx, func() { w.cancel(header.id, ctx) })()
	beats := newBeats(ctx, w, header.id)
	defer beats.stop()

	k, body, err := w.reply(header.id, beats)
	var p prefix
	if err == nil {
		p, body, err = parsePrefix(body)
	}
	if err == nil && k == kindResult {
		if err := st.results.decode(body, p.flags&flagFreshValue != 0, out); err != nil {
			return 0, fmt.Errorf("process: result of %s: %w", name, err)
		}
		return max(bytes, len(body)), nil
	}
	var f failure
	if err == nil {
		f, err = parseFailure(body)
	}
	if err == nil {
		if p.flags&flagFreshReply != 0 {
			st.args.giveUp()
		}
		return 0, f.error(name, w.cfg.maxFrame)
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF || errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil // its death says it
	}
	w.kill(err)
	<-w.exited
	if w.notBegun(end) {
		return 0, errNotBegun
	}
	return 0, w.exitError(name)
}

// reply returns the frame that ends the call.
func (w *worker) reply(id uint32, beats *beats) (kind, []byte, error) {
	for {
		k, body, err := w.results.next()
		if err != nil {
			return 0, nil, err
		}
		p, _, err := parsePrefix(body)
		switch {
		case err != nil:
			return 0, nil, err
		case k != kindResult && k != kindFailure && k != kindBeat:
			return 0, nil, fmt.Errorf("%w: kind %d from a child at work", errMalformed, k)
		case p.id != id && k == kindBeat: // of an earlier call
		case p.id != id:
			return 0, nil, fmt.Errorf("%w: reply to call %d in call %d", errMalformed, p.id, id)
		case k == kindBeat:
			beats.came()
		default:
			return k, body, nil
		}
	}
}

// notBegun reports whether the child, which is gone, died by itself before it had
// read all of the call's request, which ends at the given byte of all that was
// written to it.
func (w *worker) notBegun(end int64) bool {
	left, _ := io.Copy(io.Discard, w.unread) // to the end, as w.in is closed
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.request.total()-left < end && w.cause == nil
}

// label is what the lines of the child's standard error begin with.
func (w *worker) label() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.name == "" {
		return fmt.Sprintf("%d: ", w.pid)
	}
	return fmt.Sprintf("%d %s: ", w.pid, w.name)
}

// wakeAfter is how long after the begin of a call the child is told to go on, in case
// somebody has stopped it while it was idle: a call without a deadline would wait for ever.
const wakeAfter = time.Second

// wakeUp continues the child if it is stopped, and is nothing to it otherwise.
func (w *worker) wakeUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy && !w.waited {
		_ = w.process.Signal(goOn)
	}
}

// begin begins a call of the named function and returns its number.
func (w *worker) begin(name string) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.id++
	w.busy, w.name = true, strings.TrimPrefix(name, chunkPrefix)
	w.wake.Reset(wakeAfter)
	if w.memory != nil {
		w.memory.Reset(memoryInterval)
	}
	return w.id
}

// end ends the call: no signal comes after it.
func (w *worker) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy, w.name = false, ""
	w.wake.Stop()
	if w.next != nil {
		w.next.Stop()
		w.next = nil
	}
	if w.memory != nil {
		w.memory.Stop()
	}
	if w.doomed {
		w.killLocked(nil) // SIGTERM alone may not have ended it
	}
}

// killAfterGrace has the child killed if it is at work for too long after the end of
// the call's context, ctx.
func (w *worker) killAfterGrace(id uint32, ctx context.Context) {
	cause := context.Cause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.busy || w.id != id || w.doomed {
		return
	}
	w.afterLocked(w.cfg.killGrace, id, func() {
		w.signalLocked(syscall.SIGTERM, cause)
		w.afterLocked(w.cfg.killGrace/2, id, func() { w.killLocked(cause) })
	})
}

// cancel tells the child, which was sent the request, that the call's context, ctx,
// has ended.
func (w *worker) cancel(id uint32, ctx context.Context) {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == context.DeadlineExceeded && !time.Now().Before(deadline) {
		return // the function's context has the same deadline, and ends by itself as ctx did
	}
	frame := prefix{id: id}.appendTo(newFrame(nil, kindCancel))
	// A child that hangs may not read it: then this ends with the child.
	_, _ = w.request.write(causeOnWire(context.Cause(ctx), w.cfg.maxFrame).appendTo(frame), nil)
}

// causeOnWire is newWireError where a panic of the error's methods has nobody to
// go to.
func causeOnWire(cause error, most int) *wireError {
	wire := &wireError{Text: "process: canceled, but the cause's methods panicked"}
	func() {
		defer func() { _ = recover() }()
		wire = newWireError(cause, most)
	}()
	return wire
}

// afterLocked has f, which needs mu, called after d if the call is under way then.
func (w *worker) afterLocked(d time.Duration, id uint32, f func()) {
	w.next = time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.busy && w.id == id {
			f()
		}
	})
}

// lookAtMemory kills the child if it is above the memory limit during a call. A
// process's memory can only be looked at; nothing tells of its growth.
func (w *worker) lookAtMemory() {
	w.mu.Lock()
	id, busy := w.id, w.busy && !w.waited
	w.mu.Unlock()
	if !busy {
		return
	}
	n, err := residentBytes(w.pid)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.busy || w.waited: // end has stopped the timer, begin will start it
	case err == nil && n > w.cfg.maxMemory && w.id == id:
		w.killLocked(fmt.Errorf("%w: %d bytes resident, WithMaxMemory allows %d", ErrMaxMemory, n, w.cfg.maxMemory))
	default:
		w.memory.Reset(memoryInterval)
	}
}

// worn reports whether the child is to be replaced after a call.
func (w *worker) worn() bool {
	if w.cfg.maxCalls > 0 && w.calls >= w.cfg.maxCalls {
		return true
	}
	if w.cfg.maxMemory > 0 {
		n, err := residentBytes(w.pid)
		return err == nil && n > w.cfg.maxMemory
	}
	return false
}

// exitError describes the death of a child that is gone.
func (w *worker) exitError(name string) *ExitError {
	e := &ExitError{Func: name, PID: w.pid, Code: -1}
	e.Stderr, e.why = w.stderr.last()
	if e.unknown = w.state == nil; !e.unknown {
		e.Code, e.Signal = exitStatus(w.state)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e.cause = w.cause
	return e
}

// beats are the signs of life of the task that a call is made in. The task's pool
// says when one is due, the child is asked for it and gives it at the next Yield or
// Beat of the function.
type beats struct {
	ctx     context.Context
	arrived chan struct{}
	done    chan struct{}
}

// newBeats returns nil if no sign of life is ever due.
func newBeats(ctx context.Context, w *worker, id uint32) *beats {
	task := remote.WaiterOf(ctx)
	if task == nil {
		return nil
	}
	due := task.BeatDue()
	if due == nil {
		return nil
	}
	b := &beats{ctx, make(chan struct{}, 1), make(chan struct{})}
	go func() {
		for {
			select {
			case <-due:
			case <-b.done:
				return
			}
			if _, err := w.request.write(prefix{id: id}.appendTo(newFrame(nil, kindBeatDue)), nil); err != nil {
				return
			}
			select {
			case <-b.arrived:
			case <-b.done:
				return
			}
			due = task.BeatDue()
		}
	}()
	return b
}

// came passes a sign of life on to the task.
func (b *beats) came() {
	if b == nil {
		return
	}
	taskpool.Beat(b.ctx)
	select {
	case b.arrived <- struct{}{}:
	default:
	}
}

func (b *beats) stop() {
	if b != nil {
		close(b.done)
	}
}
