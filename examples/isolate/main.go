// Isolate parses every Go file of a directory tree, in child processes: a file
// that takes its parser down, and the whole process with it, costs one child and
// one line of the report.
//
//	go run -C examples/isolate . [-workers n] [-plant=false] [DIR]
//
// Without DIR it takes the source tree of the Go toolchain, which takes some 10 s; after
// each 2000 files it says on standard error how far it is. A relative DIR counts from
// examples/isolate, where -C goes. One file is planted among the others whose parentheses
// are nested so deeply that the parser's stack overflows, which no recover can stop.
// Files with syntax errors are only counted; there are some in every tree with tests of a
// parser.
//
// With Ctrl-C (or SIGTERM) no file is begun any more, and those at work are
// finished; a second one ends the program at once, and the children with it. The
// exit status is 0 if every file but the planted one was parsed, 1 if not and 2 if
// it could not begin, as with a wrong command line or a directory that cannot be
// read.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"iter"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/process"
)

// Exit statuses.
const (
	statusOK    = 0
	statusError = 1
	statusUsage = 2
)

// What a file may cost. Within one process nothing holds these bounds: what goes
// beyond the first two takes all other files down as well, and a parser that does
// not return cannot be stopped.
const (
	// The runtime's own bound is 1 GB, which go/parser does not reach, as it refuses
	// what is nested deeper than 100,000 levels. But those take a hundred MB, a stack
	// that no source written by people needs.
	maxStack  = 16 << 20
	maxMemory = 1 << 30 // resident, of a child
	maxTime   = 10 * time.Second
)

// A summary says what is in a file.
type summary struct {
	Bytes     int
	Decls     int
	Malformed bool // it has syntax errors
}

// parse parses a file. It runs in the children only, and is called for one file at
// a time: a call costs a few percent of what parsing does, and when a child dies,
// it is plain which file was to blame.
var parse = process.Register("parse", func(_ context.Context, path string) (summary, error) {
	debug.SetMaxStack(maxStack)
	source, err := os.ReadFile(path)
	if err != nil {
		return summary{}, err
	}
	s := summary{Bytes: len(source)}
	file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
	if file != nil {
		s.Decls = len(file.Decls) // those before a syntax error
	}
	s.Malformed = err != nil
	return s, nil
})

func main() {
	process.Main() // in a child this does not return
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	logger := log.New(stderr, "isolate: ", 0)
	flags := flag.NewFlagSet("isolate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: isolate [-workers n] [-plant=false] [DIR]")
		flags.PrintDefaults()
	}
	workers := flags.Int("workers", runtime.GOMAXPROCS(0), "parse in `n` child processes")
	plant := flags.Bool("plant", true, "plant a file that overflows the parser's stack")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return statusOK
	case err != nil:
		return statusUsage
	case flags.NArg() > 1:
		flags.Usage()
		return statusUsage
	}
	dir := flags.Arg(0)
	if flags.NArg() == 0 {
		goroot, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			logger.Printf("no DIR given and no Go source found: %v", err)
			return statusUsage
		}
		dir = filepath.Join(strings.TrimSpace(string(goroot)), "src")
	}
	paths, err := find(dir)
	if err != nil {
		logger.Print(err)
		return statusUsage
	}
	planted := ""
	if *plant {
		if planted, err = plantFile(); err != nil {
			logger.Print(err)
			return statusUsage
		}
		defer os.RemoveAll(filepath.Dir(planted))
		paths = slices.Insert(paths, len(paths)/2, planted)
	}
	r, err := parseAll(ctx, paths, *workers, func(done int) {
		if done%2000 == 0 {
			logger.Printf("%d of %d files", done, len(paths))
		}
	})
	if err != nil {
		logger.Print(err)
		return statusUsage
	}
	r.print(stdout)
	if r.leftOut > 0 {
		logger.Printf("%d files left out: %v", r.leftOut, context.Cause(ctx))
	}
	if r.leftOut > 0 || slices.ContainsFunc(r.bad, func(b badFile) bool { return b.path != planted }) {
		return statusError
	}
	return statusOK
}

// find returns the Go files below dir, which may be a symbolic link.
func find(dir string) (paths []string, err error) {
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && filepath.Ext(path) == ".go" {
			paths = append(paths, path)
		}
		return err
	})
	return paths, err
}

// plantFile makes a file, in a directory of its own, that go/parser would parse if
// it had the stack.
func plantFile() (path string, err error) {
	dir, err := os.MkdirTemp("", "isolate")
	if err != nil {
		return "", err
	}
	const depth = 45_000 // each pair of parentheses counts as two levels
	source := "package planted\n\nvar x = " + strings.Repeat("(", depth) + "1" + strings.Repeat(")", depth) + "\n"
	path = filepath.Join(dir, "planted.go")
	return path, os.WriteFile(path, []byte(source), 0o666)
}

// A report is what became of all files.
type report struct {
	parsed, malformed, leftOut int
	decls, bytes               int
	bad                        []badFile
	died                       uint64 // children
	took                       time.Duration
}

// A badFile could not be parsed, for another reason than its syntax.
type badFile struct {
	path string
	err  error
}

// parseAll parses the files, as many at once as there are workers. When ctx ends
// it finishes those it has begun. Progress is called after each file, with how many are
// done. The error says why it could not begin.
func parseAll(ctx context.Context, paths []string, workers int, progress func(done int)) (report, error) {
	pool, err := taskpool.New(
		taskpool.WithWorkers(workers),
		taskpool.WithLogger(slog.New(slog.DiscardHandler)), // the report has the errors
	)
	if err != nil {
		return report{}, err
	}
	defer pool.Shutdown(context.Background())
	children, err := process.New(
		process.WithWorkers(workers),
		process.WithMaxMemory(maxMemory),
		process.WithKillGrace(0),       // parse would not notice that its time is up
		process.WithStderr(io.Discard), // the errors have the end of it
	)
	if err != nil {
		return report{}, err
	}

	began := time.Now()
	r := report{leftOut: len(paths)}
	results := taskpool.Map(context.WithoutCancel(ctx), pool, taskpool.Task{Timeout: maxTime}, until(ctx, paths),
		func(ctx context.Context, path string) (summary, error) { return parse.Call(ctx, children, path) })
	for s, err := range results { // in the order of paths
		path := paths[len(paths)-r.leftOut]
		r.leftOut--
		progress(len(paths) - r.leftOut)
		if err != nil {
			r.bad = append(r.bad, badFile{path, err})
			continue
		}
		r.parsed++
		r.decls += s.Decls
		r.bytes += s.Bytes
		if s.Malformed {
			r.malformed++
		}
	}
	r.took = time.Since(began)
	err = children.Shutdown(context.Background())
	stats := children.Stats() // now no death is on its way to be counted
	r.died = stats.Died + stats.Killed
	return r, err
}

// until yields the paths until ctx ends.
func until(ctx context.Context, paths []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, path := range paths {
			if ctx.Err() != nil || !yield(path) {
				return
			}
		}
	}
}

func (r report) print(w io.Writer) {
	for _, b := range r.bad {
		fmt.Fprintf(w, "bad file %q: %v\n", b.path, b.err)
	}
	fmt.Fprintf(w, "%d files parsed, %d of them with syntax errors; %d declarations, %.1f MB in %.2f s; bad files: %d, children died: %d\n",
		r.parsed, r.malformed, r.decls, float64(r.bytes)/1e6, r.took.Seconds(), len(r.bad), r.died)
}
