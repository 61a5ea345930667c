// Jobs compresses the files of a directory tree, as jobs of one process or of several
// that share a database. The handler is the same for all three engines:
//
//	go run -C examples/jobs . $(go env GOROOT)/src/net                  # local: in this process, in memory
//	go run -C examples/jobs . -engine sqlite $(go env GOROOT)/src/net   # jobs that outlive the process, in a file
//	jobs/riverjobs/postgres.sh go run -C examples/jobs . -engine postgres $(go env GOROOT)/src/net
//
// Each takes a few seconds, and with a larger tree says on standard error after each
// 1000 files how far it is. The last needs PostgreSQL installed, and starts a server for
// as long as it takes; to use another, name it with -db or TASKPOOL_POSTGRES_URL.
//
// Of a directory TREE, TREE/dir/file goes, compressed, to examples/jobs/gzipped/dir/file.gz,
// or where -out says; what is not a regular file is left out. A relative name of a file or
// a directory counts from examples/jobs, where -C goes. Files of more than 1 MiB have low
// priority.
//
// A process that is given no TREE works on what others have enqueued, and one with
// -workers 0 only enqueues. So this is a producer and, after it, two workers, which
// print:
//
//	go run -C examples/jobs . -engine sqlite -workers 0 $(go env GOROOT)/src/net
//	go run -C examples/jobs . -engine sqlite & go run -C examples/jobs . -engine sqlite & wait
//
//	enqueued 415 files; 0 up to date, 0 waiting already
//	compressed 0 files; 0 failed
//	compressed 189 files in 1.61 s, 117 a second; 0 failed
//	compressed 226 files in 2.17 s, 104 a second; 0 failed
//
// They must see the same files under the same names. A worker ends when no job is left,
// whoever ran it. A file that is up to date, with the time of its source, is not
// enqueued again, and neither is one that waits: it does no harm to run all this twice,
// and after a failure that is what to do.
//
// # The end
//
// With SIGTERM or Ctrl-C the process stops enqueueing and finishes the files under way;
// what waits is left in the database, and with the local engine, where up to 100 files
// wait, finished too. After -grace, what is still under way goes back into the
// database, and locally is given up. A second signal kills.
//
// A process that is killed loses nothing but time. Its jobs are run again by the others,
// or when the program is started again, about a minute later: see -timeout. It leaves
// behind what it was writing, in hidden files named .jobs-*.
//
// The exit status is 0 if all went well, also after a signal, 1 if this process could
// not compress a file, could not go on or was out of patience, and 2 if the command line
// is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// Exit statuses.
const (
	statusOK    = 0
	statusError = 1
	statusUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// config is what the command line says.
type config struct {
	engine  string
	db      string
	tree    string // as resolve returns it; empty if there is none
	out     string
	workers int
	timeout time.Duration
	grace   time.Duration
	verbose bool
}

func parse(args []string, stderr io.Writer) (c config, err error) {
	flags := flag.NewFlagSet("jobs", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: jobs [-engine local|sqlite|postgres] [FLAGS] [TREE]")
		flags.PrintDefaults()
	}
	flags.StringVar(&c.engine, "engine", "local", "where jobs are kept: `local`, sqlite or postgres")
	flags.StringVar(&c.db, "db", "", "sqlite: the `file`, by default jobs.sqlite; postgres: the URL, by default $TASKPOOL_POSTGRES_URL")
	flags.StringVar(&c.out, "out", "gzipped", "write to this `directory`")
	flags.IntVar(&c.workers, "workers", runtime.GOMAXPROCS(0), "compress `n` files at once; 0: only enqueue")
	flags.DurationVar(&c.timeout, "timeout", 20*time.Second,
		"the longest that a file may take; the jobs of a killed process run again within a minute or so after that")
	flags.DurationVar(&c.grace, "grace", 10*time.Second, "patience with files under way after a signal")
	flags.BoolVar(&c.verbose, "v", false, "print each file that is begun")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if c.db == "" {
		c.db = map[string]string{"sqlite": "jobs.sqlite", "postgres": os.Getenv("TASKPOOL_POSTGRES_URL")}[c.engine]
	}
	if flags.NArg() > 0 {
		c.tree, err = resolve(flags.Arg(0))
	}
	switch {
	case err != nil:
	case flags.NArg() > 1:
		err = fmt.Errorf("one TREE at most, got %q", flags.Args())
	case c.engine != "local" && c.engine != "sqlite" && c.engine != "postgres":
		err = fmt.Errorf("-engine must be local, sqlite or postgres, got %q", c.engine)
	case c.engine == "postgres" && c.db == "":
		err = errors.New("-engine postgres needs -db or TASKPOOL_POSTGRES_URL")
	case c.workers < 0:
		err = fmt.Errorf("-workers must not be negative, got %d", c.workers)
	case c.engine == "local" && (c.tree == "" || c.workers == 0):
		err = errors.New("-engine local needs a TREE and workers")
	case c.tree == "" && c.workers == 0:
		err = errors.New("nothing to do: neither a TREE nor workers")
	case c.timeout <= 0:
		err = fmt.Errorf("-timeout must be positive, got %v", c.timeout)
	case c.grace < 0:
		err = fmt.Errorf("-grace must not be negative, got %v", c.grace)
	}
	if err != nil {
		fmt.Fprintln(stderr, "jobs:", err)
	}
	return c, err
}

// resolve returns the one name that a directory has for all processes.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%q is not a directory", dir)
	}
	return dir, err
}

// run is the program. It returns the exit status. The end of ctx is the signal.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return statusOK
	case err != nil:
		return statusUsage
	}
	level := slog.LevelWarn
	if c.verbose {
		level = slog.LevelInfo
	}
	stderr = &lockedWriter{w: stderr}
	p := &program{config: c, progress: stderr, log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))}
	began := time.Now()
	if err := p.run(ctx); err != nil {
		p.log.Error("stopped", "error", err)
		p.broken = true
	}
	if ctx.Err() != nil {
		p.log.Warn("interrupted: run this again for what is left", "cause", context.Cause(ctx))
	}
	return p.summary(stdout, began)
}

// A program is a run of it.
type program struct {
	config
	progress io.Writer
	log      *slog.Logger
	compress *jobs.Kind[file]

	mu                          sync.Mutex // protects the fields below
	enqueued, upToDate, waiting int        // files that were found
	compressed, failed          int        // files that this process has worked on
	last                        time.Time  // when it had done the last of them
	broken                      bool       // it could not go on
}

// run enqueues, works until no job is left or ctx ends, and stops.
func (p *program) run(ctx context.Context) error {
	var reg jobs.Registry
	p.register(&reg)
	e, err := p.open(ctx, &reg)
	if err != nil {
		return err
	}
	defer e.close()
	over, end := context.WithCancel(ctx)
	defer end()
	err = p.work(ctx, e)
	switch {
	case ctx.Err() != nil:
		err = nil // it is no more than the signal
	case err != nil:
		end()
	}
	// With no signal and no error nothing is under way, and that is soon stored.
	grace, cancel := later(over, p.grace)
	defer cancel()
	return errors.Join(err, e.stop(grace))
}

// work does what there is to do for this process.
func (p *program) work(ctx context.Context, e *engine) error {
	if p.workers > 0 {
		if err := e.start(ctx); err != nil {
			return err
		}
	}
	if p.tree != "" {
		if err := p.enqueue(ctx, e); err != nil {
			return err
		}
	}
	if p.workers > 0 {
		return e.wait(ctx)
	}
	return nil
}

// later returns a context that ends some time after ctx.
func later(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	l, cancel := context.WithCancelCause(context.Background())
	context.AfterFunc(ctx, func() {
		select {
		case <-time.After(d):
			cancel(errors.New("out of patience, see -grace"))
		case <-l.Done():
		}
	})
	return l, func() { cancel(nil) }
}

// settled counts what attempts came to.
func (p *program) settled(e jobs.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.State {
	case jobs.StateCompleted:
		p.compressed++
		p.last = time.Now()
		if p.compressed%1000 == 0 {
			fmt.Fprintf(p.progress, "jobs: %d files compressed\n", p.compressed)
		}
	case jobs.StateRetrying:
		p.log.Warn("to be retried", "output", e.UniqueKey, "error", e.Err, "attempt", e.Attempt)
	default:
		p.log.Error("failed", "output", e.UniqueKey, "error", e.Err, "state", e.State)
		p.failed++
	}
}

// count adds one to one of the numbers of files.
func (p *program) count(n *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*n++
}

// A lockedWriter is for goroutines that write lines.
type lockedWriter struct {
	mu sync.Mutex // protects w
	w  io.Writer
}

func (l *lockedWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(line)
}

// summary prints what was done and returns the exit status.
func (p *program) summary(w io.Writer, began time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tree != "" {
		fmt.Fprintf(w, "enqueued %d files; %d up to date, %d waiting already\n", p.enqueued, p.upToDate, p.waiting)
	}
	fmt.Fprintf(w, "compressed %d files", p.compressed)
	if p.compressed > 0 {
		took := p.last.Sub(began).Seconds()
		fmt.Fprintf(w, " in %.2f s, %.0f a second", took, float64(p.compressed)/took)
	}
	fmt.Fprintf(w, "; %d failed\n", p.failed)
	if p.failed > 0 || p.broken {
		return statusError
	}
	return statusOK
}

// newPool returns the pool that runs the jobs in this process. What becomes of them is
// for the observer to say, not for the pool's log.
func (p *program) newPool(opts ...taskpool.Option) (*taskpool.Pool, error) {
	return taskpool.New(append(opts, taskpool.WithName("jobs"), taskpool.WithWorkers(p.workers),
		taskpool.WithHangGrace(hangGrace), taskpool.WithLogger(slog.New(slog.DiscardHandler)))...)
}
