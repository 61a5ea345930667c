package process

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool/internal/option"
)

const (
	defaultKillGrace    = 2 * time.Second
	defaultStartTimeout = 10 * time.Second
	defaultMaxFrame     = 64 << 20
	minMaxFrame         = 4 << 10
	maxMaxFrame         = 1 << 30 // package gob takes no more
)

// pkg is what the errors of this package begin with.
const pkg option.Package = "process"

// An Option sets how a pool works; see [New].
type Option interface {
	apply(*config)
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// maxWorkers is more processes than most machines let a user have.
const maxWorkers = 10_000

type config struct {
	workers      int
	maxCalls     int   // 0: no limit
	maxMemory    int64 // 0: no limit
	killGrace    time.Duration
	startTimeout time.Duration
	maxFrame     int
	stderr       io.Writer
	stderrLabels bool
	env          []string
	inits        []func(context.Context, *worker) error
	initErr      error
	argv0        string
	rlimits      []rlimit
	credential   *credential // nil: this program's

	maxCallsSet, maxMemorySet, argv0Set bool
}

// WithWorkers sets how many children there are, and so how many calls are at work
// at once: at least 1 and at most 10,000. The default is [runtime.GOMAXPROCS].
//
// The children share that many processors: each has its part, and at least one, as
// GOMAXPROCS. WithEnv("GOMAXPROCS=8") gives each eight. Small calls are fastest with
// one, for then no thread of the child wakes another.
func WithWorkers(n int) Option {
	return optionFunc(func(c *config) { c.workers = n })
}

// WithMaxCalls has a child replaced after n calls, at least 1, so that what it
// leaks does not add up. By default it stays.
func WithMaxCalls(n int) Option {
	return optionFunc(func(c *config) { c.maxCalls, c.maxCallsSet = n, true })
}

// WithMaxMemory bounds the resident memory of a child, in bytes, at least 1: a
// child that is above it during a call is killed, and the call's error is
// [ErrMaxMemory]; one that is above it after a call is replaced. It is looked at
// every 20 ms, so a call may be above it for that long. (On other systems than
// Linux it is every 200 ms, and each look, also that after a call, takes some
// milliseconds.) In the child, the runtime is told to keep the Go heap below nine
// tenths of it (see [runtime/debug.SetMemoryLimit]) unless GOMEMLIMIT is set. By
// default there is no bound.
//
// What the child starts in its turn is not counted: bound that with a control group, or
// with RLIMIT_AS. On Linux the kernel, where memory runs out, ends a child rather than this
// program: the oom_score_adj of the children is 500 above its.
//
// A program with a Go heap of its own needs some ten MiB before it does anything;
// a bound that no child can keep has each replaced after each call.
func WithMaxMemory(bytes int64) Option {
	return optionFunc(func(c *config) { c.maxMemory, c.maxMemorySet = bytes, true })
}

// WithKillGrace sets how long a function may go on after its context has ended:
// then its child and what that has started get SIGTERM, and half that time later
// SIGKILL. The default is 2 s. With 0 they get both at once.
//
// In a task of a pool, keep one and a half times d below the pool's hang grace, 5 s
// by default, or the pool gives the task up before the child is killed.
func WithKillGrace(d time.Duration) Option {
	return optionFunc(func(c *config) { c.killGrace = d })
}

// WithStartTimeout sets how long a child may take from its start until it calls
// [Main] and is ready, more than 0. The default is 10 s.
func WithStartTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.startTimeout = d })
}

// WithMaxFrame bounds the encoded size of an argument and of a result, in bytes,
// with the few that go before it: from 4 KiB to 1 GiB. The default is 64 MiB. What
// is larger is an [ErrTooLarge].
func WithMaxFrame(bytes int) Option {
	return optionFunc(func(c *config) { c.maxFrame = bytes })
}

// WithStderr sets where to copy what the children write to standard error. The
// default is [os.Stderr]; [io.Discard] drops it, and an [*ExitError] has the end
// of it in either case. Calls of w.Write are never concurrent, and each has whole
// lines of one child: what it writes is copied when its line ends, when the child
// has exited, or in pieces of 64 KiB. A w that blocks blocks the children that
// write. Their standard output is that of this program.
func WithStderr(w io.Writer) Option {
	return optionFunc(func(c *config) { c.stderr = w })
}

// WithStderrLabels begins each line that is copied from a child's standard error
// with the child's process id and the function that it is at work on when the line
// arrives, which may be a moment after it was written: "4711 render: " or, between
// two calls, "4711: ". An [*ExitError] has the lines without.
func WithStderrLabels() Option {
	return optionFunc(func(c *config) { c.stderrLabels = true })
}

// WithEnv adds variables to the environment of the children, each in the form
// "key=value", over those of this program. Given several times, they add up.
func WithEnv(env ...string) Option {
	return optionFunc(func(c *config) { c.env = append(c.env, env...) })
}

// WithInit has each child call f with that argument once, when it has started and before it is
// given any other call: to open what functions need, or to fill a cache. It has the time of
// [WithStartTimeout]. If it returns an error, panics or ends the child, that counts as a child
// that does not start, see [New]. Given several times, they are called in that order.
func WithInit[In, Out any](f *Func[In, Out], in In) Option {
	return optionFunc(func(c *config) {
		err := f.misuse("WithInit")
		c.inits = append(c.inits, func(ctx context.Context, w *worker) error {
			if err != nil {
				return err
			}
			var out value[Out]
			_, err := w.call(ctx, f.name, &value[In]{in}, &out)
			return err
		})
		c.initErr = cmp.Or(c.initErr, err)
	})
}

// WithArgv0 sets the name of the children, which ps shows: their first and only argument. The
// default is that of this program. It must not be empty, or have a NUL.
func WithArgv0(name string) Option {
	return optionFunc(func(c *config) { c.argv0, c.argv0Set = name, true })
}

// WithRlimit bounds a resource of each child: both the soft and the hard limit of
// setrlimit, for a resource such as [syscall.RLIMIT_CPU] or RLIMIT_AS. The child sets it when it
// begins, before main. It works on Linux and macOS; elsewhere a child does not start. Nor does
// one whose limit is above the hard limit of this program. Given several times, for several
// resources, all hold.
//
// The runtime of Go reserves address space that it does not use: RLIMIT_AS below a gigabyte
// may end a child that has hardly begun.
func WithRlimit(resource int, limit uint64) Option {
	return optionFunc(func(c *config) { c.rlimits = append(c.rlimits, rlimit{resource, limit}) })
}

// WithCredential has the children run as that user and group, with these supplementary groups and
// no others: for what needs fewer rights than this program, which must be root's or have the
// capabilities to change them. The user must be allowed to execute the program's file, and to
// read what its initialization reads. By default they run as this program does.
func WithCredential(uid, gid uint32, groups ...uint32) Option {
	return optionFunc(func(c *config) { c.credential = &credential{uid, gid, groups} })
}

// A credential is who a child is to be.
type credential struct {
	uid, gid uint32
	groups   []uint32
}

// An rlimit bounds a resource.
type rlimit struct {
	resource int
	limit    uint64
}

func newConfig(opts []Option) (*config, error) {
	c := &config{
		workers:      runtime.GOMAXPROCS(0),
		killGrace:    defaultKillGrace,
		startTimeout: defaultStartTimeout,
		maxFrame:     defaultMaxFrame,
		stderr:       os.Stderr,
	}
	if err := option.Apply(pkg, opts, func(o Option) { o.apply(c) }); err != nil {
		return nil, err
	}
	return c, c.validate()
}

// validate reports the first setting that cannot be.
func (c *config) validate() error {
	bad := pkg.Bad
	switch {
	case c.workers < 1:
		return bad("WithWorkers: n", "be at least 1", c.workers)
	case c.workers > maxWorkers:
		return bad("WithWorkers: n", fmt.Sprintf("be at most %d", maxWorkers), c.workers)
	case c.maxCallsSet && c.maxCalls < 1:
		return bad("WithMaxCalls: n", "be at least 1", c.maxCalls)
	case c.maxMemorySet && c.maxMemory < 1:
		return bad("WithMaxMemory: bytes", "be at least 1", c.maxMemory)
	case c.killGrace < 0:
		return bad("WithKillGrace: d", "not be negative", c.killGrace)
	case c.startTimeout <= 0:
		return bad("WithStartTimeout: d", "be positive", c.startTimeout)
	case c.maxFrame < minMaxFrame || c.maxFrame > maxMaxFrame:
		return bad("WithMaxFrame: bytes", fmt.Sprintf("be from %d to %d", minMaxFrame, maxMaxFrame), c.maxFrame)
	case c.stderr == nil:
		return bad("WithStderr: w", "not be nil (io.Discard drops what is written)", "nil")
	}
	if c.initErr != nil {
		return c.initErr
	}
	if c.argv0Set && (c.argv0 == "" || strings.ContainsRune(c.argv0, 0)) {
		return bad("WithArgv0: name", "not be empty or have a NUL", fmt.Sprintf("%q", c.argv0))
	}
	for _, r := range c.rlimits {
		if r.resource < 0 {
			return bad("WithRlimit: resource", "not be negative", r.resource)
		}
	}
	for _, kv := range c.env {
		key, _, ok := strings.Cut(kv, "=")
		if !ok || key == "" || strings.ContainsRune(kv, 0) {
			return bad("WithEnv: variable", `have the form "key=value"`, fmt.Sprintf("%q", kv))
		}
		if key == cookieName {
			return bad("WithEnv: variable", "not be the one this package uses", fmt.Sprintf("%q", kv))
		}
	}
	return nil
}

// childProcs returns a child's GOMAXPROCS, 0 if that is for the environment to say.
func (c *config) childProcs() int {
	for _, kv := range c.env {
		if strings.HasPrefix(kv, "GOMAXPROCS=") {
			return 0
		}
	}
	return max(1, runtime.GOMAXPROCS(0)/c.workers)
}
