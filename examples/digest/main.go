// Digest prints the SHA-256 of every file in a directory tree, in the format of
// sha256sum, sorted by path:
//
//	go run ./examples/digest [-workers n] [DIR] >/tmp/sums
//	sha256sum -c /tmp/sums
//
// Without DIR it takes the source tree of the Go toolchain, which takes a second or two;
// a terminal shows how far it is. Symbolic links and
// whatever else is not a regular file are skipped, but DIR itself may be a link.
// Small files go first, but one file in 16 is the one that has waited longest, so
// large ones do not wait for ever. All but the digests goes to standard error.
//
// With the first Ctrl-C (or SIGTERM) no file is begun any more; those at work
// are finished, and the others are counted and the first of them listed. The second
// stops those at work, too.
// The exit status is 0 if every file was digested, 1 if not and 2 if the command
// line is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Exit statuses.
const (
	statusOK    = 0
	statusError = 1
	statusUsage = 2
)

// maxListed is the number of files that an interrupt left out that are listed one by
// one.
const maxListed = 10

func main() {
	soft, hard := interrupts()
	os.Exit(run(soft, hard, os.Args[1:], os.Stdout, os.Stderr, openFile))
}

// interrupts returns two contexts: soft ends with the first signal that asks the
// program to stop, hard with the second. The third kills it.
func interrupts() (soft, hard context.Context) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	soft, endSoft := context.WithCancelCause(context.Background())
	hard, endHard := context.WithCancelCause(context.Background())
	first, stopFirst := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(first, func() {
		// Listen for the second signal before anybody can have seen the
		// effect of the first, so that it cannot get lost.
		second, stopSecond := signal.NotifyContext(context.Background(), signals...)
		endSoft(context.Cause(first))
		<-second.Done()
		stopFirst()
		stopSecond()
		endHard(context.Cause(second))
	})
	return soft, hard
}

// run is the program. It returns the exit status.
func run(soft, hard context.Context, args []string, stdout, stderr io.Writer, open opener) int {
	logger := log.New(stderr, "digest: ", 0)
	flags := flag.NewFlagSet("digest", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: digest [-workers n] [DIR]")
		flags.PrintDefaults()
	}
	workers := flags.Int("workers", runtime.GOMAXPROCS(0), "digest `n` files at once")
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
		var err error
		if dir, err = goSource(soft); err != nil {
			logger.Printf("no DIR given and no Go source found: %v", err)
			return statusUsage
		}
	}
	if info, err := os.Stat(dir); err != nil {
		logger.Print(err)
		return statusUsage
	} else if !info.IsDir() {
		logger.Printf("%q is not a directory", dir)
		return statusUsage
	}
	d, err := newDigester(*workers, open)
	if err != nil {
		logger.Print(err)
		return statusUsage
	}

	began := time.Now()
	files, unreadable := find(soft, filepath.Clean(dir))
	stopProgress := func() {}
	if isTerminal(stderr) {
		stopProgress = showProgress(stderr, func() string { return d.progress(soft, len(files)) })
	}
	d.digestAll(soft, hard, files)
	stopProgress()
	elapsed := time.Since(began)

	status := statusOK
	if err := printSums(stdout, files); err != nil {
		logger.Print(err)
		status = statusError
	}
	for _, err := range unreadable {
		logger.Print(err)
		status = statusError
	}
	leftOut := 0
	for _, f := range files {
		switch {
		case f.leftOut():
			if leftOut++; leftOut <= maxListed {
				logger.Printf("left out: %q", f.path)
			}
			status = statusError
		case f.err != nil:
			logger.Print(pathError(f.path, f.err))
			status = statusError
		}
	}
	if leftOut > maxListed {
		logger.Printf("left out: %d more", leftOut-maxListed)
	}
	if soft.Err() != nil {
		logger.Print(context.Cause(soft))
	}
	printSummary(logger, files, elapsed)
	return status
}

// goSource returns the source directory of the Go toolchain. The go command
// knows where it is, also if this program was built with -trimpath.
func goSource(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src"), nil
}
