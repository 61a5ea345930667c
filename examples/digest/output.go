package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

// printSums prints the sums of the files that were digested.
func printSums(w io.Writer, files []*file) error {
	out := bufio.NewWriter(w) // keeps the first error for Flush
	for _, f := range files {
		if f.err == nil {
			fmt.Fprintln(out, sumLine(f.path, f.sum[:]))
		}
	}
	return out.Flush()
}

var escaper = strings.NewReplacer("\\", "\\\\", "\n", "\\n", "\r", "\\r")

// sumLine returns a line as GNU sha256sum prints it: a name that would break it
// is escaped, which a backslash in front says.
func sumLine(path string, sum []byte) string {
	if name := escaper.Replace(path); name != path {
		return fmt.Sprintf("\\%x  %s", sum, name)
	}
	return fmt.Sprintf("%x  %s", sum, path)
}

// printSummary prints what was done in the given time, and how long the files
// of each priority had to wait for their start, half of them and nearly all.
func printSummary(logger *log.Logger, files []*file, elapsed time.Duration) {
	var bytes int64
	done := 0
	waits := make(map[taskpool.Priority][]time.Duration)
	for _, f := range files {
		if f.err == nil {
			done++
			bytes += f.read
			waits[f.priority()] = append(waits[f.priority()], f.wait)
		}
	}
	mb, seconds := megabytes(bytes), max(elapsed, time.Millisecond).Seconds()
	logger.Printf("%d files, %.1f MB in %.3f s, %.1f MB/s", done, mb, seconds, mb/seconds)
	for _, group := range []struct {
		priority taskpool.Priority
		files    string
	}{
		{taskpool.High, "small"},
		{taskpool.Low, "large"},
	} {
		if w := waits[group.priority]; len(w) > 0 {
			slices.Sort(w)
			logger.Printf("%s (%v): %d files, wait p50 %v, p99 %v", group.files, group.priority, len(w),
				percentile(w, 50).Round(time.Microsecond), percentile(w, 99).Round(time.Microsecond))
		}
	}
}

// percentile returns the least of the sorted values that is not exceeded by p
// percent of them, 0 < p ≤ 100.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)*p+99)/100-1]
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// isTerminal reports whether somebody may be watching what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// showProgress keeps a line on the terminal w up to date until stop is called,
// which clears it.
func showProgress(w io.Writer, line func() string) (stop func()) {
	const clearLine = "\r\x1b[K"
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				fmt.Fprint(w, clearLine, line())
			case <-done:
				fmt.Fprint(w, clearLine)
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}
