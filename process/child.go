package process

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool/internal/remote"
)

// cookieName is the variable that tells a process that it is a child. Its value is
// a cookie.
const cookieName = "TASKPOOL_PROCESS"

// A cookie is what a child must know before it can read its first frame.
type cookie struct {
	parent    int // process id
	maxFrame  int
	maxMemory int64 // 0: no limit
	procs     int   // GOMAXPROCS; 0: as the environment says
	rlimits   []rlimit
}

func (c cookie) String() string {
	text := fmt.Sprintf("%d %d %d %d %d", protocolVersion, c.parent, c.maxFrame, c.maxMemory, c.procs)
	for _, r := range c.rlimits {
		text += fmt.Sprintf(" %d=%d", r.resource, r.limit)
	}
	return text
}

// parseCookie is the reverse of String.
func parseCookie(text string) (cookie, error) {
	var version int
	var c cookie
	_, err := fmt.Sscanf(text, "%d %d %d %d %d", &version, &c.parent, &c.maxFrame, &c.maxMemory, &c.procs)
	if err != nil {
		return cookie{}, fmt.Errorf("%s=%q: %w", cookieName, text, err)
	}
	for _, field := range strings.Fields(text)[5:] {
		var r rlimit
		if _, err := fmt.Sscanf(field, "%d=%d", &r.resource, &r.limit); err != nil {
			return cookie{}, fmt.Errorf("%s=%q: %w", cookieName, text, err)
		}
		c.rlimits = append(c.rlimits, r)
	}
	switch {
	case version != protocolVersion:
		return cookie{}, fmt.Errorf("%s=%q: protocol version %d, this program speaks %d",
			cookieName, text, version, protocolVersion)
	case c.parent != os.Getppid():
		return cookie{}, fmt.Errorf("%s=%q: this is not a child of process %d (it was inherited, or that process has died)",
			cookieName, text, c.parent)
	}
	return c, nil
}

// self is what this process is. A child begins to listen to its parent when the
// program is initialized, not in Main: it must end with its parent even if it
// never comes to Main.
var self struct {
	child      *server // nil in a parent
	cookieErr  error   // why a process with a cookie cannot be a child
	mainCalled atomic.Bool
	build      string // identity of the build, set before mainCalled
}

func init() {
	text, ok := os.LookupEnv(cookieName)
	if !ok || supported != nil {
		return
	}
	_ = os.Unsetenv(cookieName) // not for what this process starts
	if privileged() {
		return // whoever has set it must not have this program serve calls with rights that are not theirs
	}
	c, err := parseCookie(text)
	if err != nil {
		self.cookieErr = err
		return
	}
	for _, r := range c.rlimits {
		if err := setRlimit(r); err != nil {
			self.cookieErr = fmt.Errorf("WithRlimit of %d for resource %d: %w", r.limit, r.resource, err)
			return
		}
	}
	in, out := pipes()
	closeInherited()
	offerToOOMKiller()
	self.child = newServer(in, out, c.maxFrame)
	if _, set := os.LookupEnv("GOMEMLIMIT"); c.maxMemory > 0 && !set {
		debug.SetMemoryLimit(c.maxMemory / 10 * 9)
	}
	if c.procs > 0 {
		runtime.GOMAXPROCS(c.procs)
	}
	go self.child.receive()
}

// Main makes a program fit for child processes. Call it first in main, and in
// TestMain of tests that call [New]. In a child it serves calls and does not
// return; in every other process it returns at once.
//
// Whatever runs before it, initializations of packages for one, runs in each
// child, too.
func Main() {
	switch {
	case self.cookieErr != nil:
		fmt.Fprintf(os.Stderr, "process: %v\n", self.cookieErr)
		os.Exit(2)
	case self.child != nil:
		os.Exit(self.child.serve(buildIdentity()))
	case !self.mainCalled.Load():
		self.build = buildIdentity()
		self.mainCalled.Store(true)
	}
}

// executable returns the path of this program. Should its file have been replaced or
// deleted, that is, on Linux, the one by which the kernel knows the file that this
// process runs.
func executable() (string, error) {
	const running = "/proc/self/exe"
	path, err := os.Executable()
	mine, errMine := os.Stat(running)
	if errMine != nil {
		return path, err
	}
	if err == nil {
		if file, err := os.Stat(path); err == nil && os.SameFile(file, mine) {
			return path, nil
		}
	}
	return running, nil
}

// buildIdentity tells this build of the program from others. A child of another
// build could not be trusted to mean the same by a name or an encoded value. It
// stems from what the linker wrote into the program, and from size and time of
// the file.
func buildIdentity() string {
	var b strings.Builder
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintf(&b, "%s %s %s", info.Path, info.Main.Version, info.GoVersion)
		for _, s := range info.Settings {
			if strings.HasPrefix(s.Key, "vcs.") {
				b.WriteString(" " + s.Value)
			}
		}
	}
	if path, err := executable(); err == nil {
		if file, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, " %d bytes of %s", file.Size(), file.ModTime().UTC().Format(time.RFC3339Nano))
		}
	}
	return b.String()
}

// A server is the child's side of the pipes.
type server struct {
	in  *frameReader
	out *frameWriter
	max int // bytes of a frame

	finished chan int // what receive ends with: the exit code
	calls    sync.WaitGroup

	// turn is held by a call until its reply has been written. The parent makes one
	// call at a time, but the next can arrive while the write of the reply, which is
	// in a buffer of streams, has yet to return.
	turn    sync.Mutex                // protects the field below, and what it holds
	streams map[string]*serverStreams // by the function's name

	mu  sync.Mutex // protects the field below
	now *call      // under way; nil: none
}

// serverStreams are a function's streams at the child's end.
type serverStreams struct {
	args    valueDecoder
	results valueEncoder
}

// A call is a call under way in the child, and the worker that its context names.
type call struct {
	s      *server
	id     uint32
	cancel context.CancelCauseFunc
	due    atomic.Bool // a sign of life
}

func newServer(in io.Reader, out io.Writer, maxFrame int) *server {
	return &server{
		in:       newFrameReader(in, maxFrame),
		out:      &frameWriter{w: out},
		max:      maxFrame,
		finished: make(chan int, 1),
		streams:  make(map[string]*serverStreams),
	}
}

// serve says hello and returns the exit code when the parent wants no more.
func (s *server) serve(build string) int {
	_, _ = s.out.write(hello{protocolVersion, build}.appendTo(newFrame(nil, kindHello)), nil)
	return <-s.finished
}

// receive takes what the parent sends, to the end. It is a goroutine of its own and
// calls no user code, so that it sees the end of the parent whatever a function
// does.
func (s *server) receive() {
	err := s.handle()
	if err == nil {
		s.calls.Wait() // the latest may have replied, but not returned
		s.finished <- 0
		return
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		fmt.Fprintf(os.Stderr, "process: from the parent: %v\n", err)
	}
	abandon() // the parent has died, or we do not understand each other
}

// Tests replace these.
var (
	// pipes returns the child's ends of the pipes.
	pipes = openPipes
	// abandon ends a child that has lost its parent, and all that it has started.
	abandon = killOwnGroup
)

// handle returns nil when the parent says bye.
func (s *server) handle() error {
	for {
		k, body, err := s.in.next()
		if err != nil {
			return err
		}
		switch k {
		case kindCall:
			header, arg, err := parseCall(body)
			if err != nil {
				return err
			}
			s.in.detach() // arg is decoded while we listen on
			if err := s.begin(header, arg); err != nil {
				return err
			}
		case kindCancel:
			p, rest, err := parsePrefix(body)
			if err != nil {
				return err
			}
			cause := &parser{rest: rest}
			w := parseWireError(cause)
			if err := cause.end("cancellation"); err != nil {
				return err
			}
			if c := s.current(p.id); c != nil {
				c.cancel(w.error())
			}
		case kindBeatDue:
			p, _, err := parsePrefix(body)
			if err != nil {
				return err
			}
			if c := s.current(p.id); c != nil {
				c.due.Store(true)
			}
		case kindBye:
			return nil
		default:
			return fmt.Errorf("%w: kind %d", errMalformed, k)
		}
	}
}

// current returns the call of that number if it is under way.
func (s *server) current(id uint32) *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || s.now.id != id {
		return nil
	}
	return s.now
}

// begin starts a call on a goroutine of its own.
func (s *server) begin(header callHeader, arg []byte) error {
	c := &call{s: s, id: header.id}
	ctx, stop := context.Background(), context.CancelFunc(func() {})
	if header.flags&flagHasDeadline != 0 {
		ctx, stop = context.WithTimeout(ctx, header.left)
	}
	ctx, c.cancel = context.WithCancelCause(ctx)
	s.mu.Lock()
	busy := s.now != nil
	if !busy {
		s.now = c
	}
	s.mu.Unlock()
	if busy {
		stop()
		return fmt.Errorf("%w: a call during a call", errMalformed)
	}
	s.calls.Go(func() {
		defer stop()
		s.turn.Lock()
		defer s.turn.Unlock()
		s.run(&callContext{ctx, c}, header, arg)
	})
	return nil
}

// run calls the function and sends its result or why there is none, whatever the
// function does to this goroutine.
func (s *server) run(ctx *callContext, header callHeader, arg []byte) {
	var reply, tail []byte
	defer func() {
		_ = recover() // from what a method of the panic's value did
		if reply == nil {
			reply, tail = s.failure(header, failure{reason: calledGoexit}), nil
		}
		s.mu.Lock()
		s.now = nil
		s.mu.Unlock()
		ctx.call.cancel(nil)
		if _, err := s.out.write(reply, tail); err != nil {
			abandon()
		}
	}()
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			reply = s.failure(header, panicked("(a method of the value panicked)", stack, s.max))
			reply = s.failure(header, panicked(v, stack, s.max))
		}
	}()
	reply, tail = s.reply(ctx, header, arg)
}

// reply calls the function and returns the frame that says what came of it, with its tail.
func (s *server) reply(ctx context.Context, header callHeader, arg []byte) (frame, tail []byte) {
	fn := lookUp(header.name)
	if fn == nil {
		return s.failure(header, failure{reason: notRegistered}), nil
	}
	st := s.streams[header.name]
	if st == nil {
		st = new(serverStreams)
		s.streams[header.name] = st
	}
	if header.flags&flagFreshReply != 0 {
		st.results.giveUp()
	}
	result, err := fn.call(ctx, func(v any) error {
		return st.args.decode(arg, header.flags&flagFreshValue != 0, v)
	})
	if err != nil {
		return s.failure(header, failed(err, s.max)), nil
	}
	p := prefix{id: header.id}
	if st.results.fresh() {
		p.flags |= flagFreshValue
	}
	frame, tail, err = st.results.encode(p.appendTo(newFrame(nil, kindResult)), result)
	if err != nil {
		return s.failure(header, failed(fmt.Errorf("process: result of %s: %w", header.name, err), s.max)), nil
	}
	if size := len(frame) + len(tail) - headerSize; size > s.max {
		st.results.giveUp()
		return s.failure(header, failure{reason: resultTooLarge, size: uint64(size)}), nil
	}
	return frame, tail
}

// failure returns the frame of a failure. It asks for a new stream of arguments if
// the one there is has been given up, or has not been looked at.
func (s *server) failure(header callHeader, f failure) []byte {
	p := prefix{id: header.id}
	if st := s.streams[header.name]; st == nil || st.args.dec == nil {
		p.flags |= flagFreshReply
	}
	return f.appendTo(p.appendTo(newFrame(nil, kindFailure)))
}

// A callContext is the context that a function gets.
type callContext struct {
	context.Context
	call *call
}

func (c *callContext) Value(key any) any {
	if key == remote.WorkerKey {
		return c.call
	}
	return c.Context.Value(key)
}

// Beat tells the parent that the function is alive, if it wants to know.
func (c *call) Beat() {
	if c.due.Load() && c.due.CompareAndSwap(true, false) {
		_, _ = c.s.out.write(prefix{id: c.id}.appendTo(newFrame(nil, kindBeat)), nil)
	}
}
