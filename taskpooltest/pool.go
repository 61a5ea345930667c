package taskpooltest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// patience is how long the end of a test, and Step, wait for tasks. A test that hangs
// should fail in half a minute, and one on a busy machine should not.
const patience = 30 * time.Second

// leakPatience is how long the end of a test waits for goroutines that were given up as
// hung: they may be about to return.
const leakPatience = 5 * time.Second

// New makes a pool for a test. It logs to t, see [Logger], unless opts say otherwise. A
// wrong option ends the test.
//
// When the test ends, the pool is shut down if it is still open: it finishes what it has
// accepted, paused or not. What has not finished after 30 s is cut off, as by
// [taskpool.Pool.Shutdown], and fails the test with a list of the tasks. So do goroutines of
// the pool that are left 5 s later, those of tasks that were given up as hung and have not
// returned: the message has their stacks.
//
// If the test has failed or was skipped by then, what still waits is canceled, running
// tasks have their contexts ended, and what is left is logged and not reported as another
// failure. That takes at most twice the hang grace, 5 s by default. If the test has shut
// the pool down itself, it knows the answer of Shutdown, and only goroutines that are left
// are reported.
//
// The cleanup is registered when New is called, and functions registered later run before
// it: so New goes before whatever uses the pool.
func New(t testing.TB, opts ...taskpool.Option) *taskpool.Pool {
	t.Helper()
	pool, err := taskpool.New(append([]taskpool.Option{taskpool.WithLogger(Logger(t))}, opts...)...)
	if err != nil {
		t.Fatalf("taskpooltest: New: %v", err)
	}
	w := &watched{t: t, pool: pool, label: describe(pool, "made")}
	t.Cleanup(w.end)
	return pool
}

// Watch fails the test if, when it ends, a pool that the code under test has made is still
// open, or has left goroutines, as [New] does. A pool that is open is then shut down like
// one of New's. Watch is not for New's own pools.
//
// The code must shut the pool down before that: in the test itself, or in a cleanup that is
// registered after the call of Watch.
func Watch(t testing.TB, pool *taskpool.Pool) {
	t.Helper()
	if err := remote.CheckPool("taskpooltest: Watch: pool", pool); err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, pool: pool, label: describe(pool, "watched"), foreign: true}
	t.Cleanup(w.end)
}

// describe names a pool in messages. It is called by what the test calls.
func describe(pool *taskpool.Pool, what string) string {
	label := "a pool"
	if name := pool.Name(); name != "" {
		label = fmt.Sprintf("pool %q", name)
	}
	if _, file, line, ok := runtime.Caller(2); ok {
		label += fmt.Sprintf(" (%s at %s:%d)", what, filepath.Base(file), line)
	}
	return label
}

// A watched is a pool that is looked at when its test ends.
type watched struct {
	t       testing.TB
	pool    *taskpool.Pool
	label   string
	foreign bool // the code under test must shut it down
}

// Why the end of a test cuts a shutdown short.
var (
	errPatience = errors.New("taskpooltest: the test has ended, and 30s later tasks were left")
	errFailed   = errors.New("taskpooltest: the test has failed or was skipped")
)

// end is the cleanup.
func (w *watched) end() {
	w.t.Helper()
	report := w.t.Errorf
	failed := w.t.Failed() || w.t.Skipped()
	if failed {
		report = w.t.Logf // it is the failure's consequence, not another failure
	}
	open := !w.pool.Stats().Closed
	if open && w.foreign {
		report("taskpooltest: %s was not shut down before the end of the test", w.label)
	}
	if failed {
		if left := w.abort(open); len(left) > 0 {
			report("taskpooltest: %s had tasks that had not finished at the end of the test:%s", w.label, indented(left))
		}
	} else if left := w.drain(); len(left) > 0 {
		report("taskpooltest: %s has tasks that had not finished %v after the end of the test:%s", w.label, patience, indented(left))
	}
	if !failed {
		ctx, cancel := context.WithTimeout(context.Background(), leakPatience)
		defer cancel()
		_ = remote.WaitAbandoned(ctx, w.pool) // the test may have released them just now
	}
	if leaks := leaked(w.pool); len(leaks) > 0 {
		report("taskpooltest: %s has left goroutines that still run:%s", w.label, indented(leaks))
	}
}

// drain shuts the pool down and returns the tasks that did not finish in time.
func (w *watched) drain() []string {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errPatience)
	defer cancel()
	err := w.pool.Shutdown(ctx)
	if err == nil || !errors.Is(err, errPatience) { // if somebody else has cut it short, it was told to them
		return nil
	}
	var unfinished *taskpool.ShutdownError
	if !errors.As(err, &unfinished) {
		return []string{err.Error()}
	}
	var left []string
	for _, u := range unfinished.Unfinished {
		left = append(left, describeUnfinished(u))
	}
	slices.Sort(left)
	if len(left) == 0 {
		left = append(left, "what ran has finished since")
	}
	return left
}

// abort ends the pool at once and returns the tasks that had not finished. Nothing that
// waits starts any more, except for functions given to Go, which cannot be canceled.
func (w *watched) abort(open bool) []string {
	var left []string
	if open {
		w.pool.Pause()
		all := w.pool.Tasks(taskpool.StateRunning, taskpool.StateParked, taskpool.StateQueued, taskpool.StateDelayed)
		for _, task := range all {
			left = append(left, describeTask(task))
			if task.State == taskpool.StateQueued || task.State == taskpool.StateDelayed {
				if task.Handle != nil {
					task.Handle.Cancel(errFailed)
				}
			}
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errFailed)
	_ = w.pool.Shutdown(ctx)
	return left
}

// leaked describes the goroutines of a pool that was shut down.
func leaked(pool *taskpool.Pool) []string {
	n := pool.Stats().Abandoned
	if n == 0 {
		return nil
	}
	var leaks []string
	for _, task := range pool.Tasks(taskpool.StateAbandoned) {
		leaks = append(leaks, describeTask(task)+where(pool, task))
	}
	if n > len(leaks) {
		leaks = append(leaks, fmt.Sprintf("%d in hooks that have not returned", n-len(leaks)))
	}
	return leaks
}

// where returns the stack of a task that has a worker, for a line about it.
func where(pool *taskpool.Pool, task taskpool.TaskInfo) string {
	stack := strings.TrimSpace(string(pool.Stack(task.Worker)))
	if stack == "" {
		return ""
	}
	return ", at\n" + stack
}

func describeTask(t taskpool.TaskInfo) string {
	return describeAs(taskName(t), t.State, t.Attempt)
}

func describeUnfinished(u taskpool.Unfinished) string {
	name := u.Task.Name
	if name == "" {
		name = fmt.Sprintf("a task or function of priority %v", u.Task.Priority)
	}
	return describeAs(name, u.State, u.Attempt)
}

func describeAs(name string, state taskpool.State, attempt int) string {
	line := fmt.Sprintf("%s: %v", name, state)
	if attempt > 1 {
		line += fmt.Sprintf(", attempt %d", attempt)
	}
	return line
}

// taskName names a task in messages and in a Recorder.
func taskName(t taskpool.TaskInfo) string {
	switch {
	case t.IsFunc():
		return "func " + t.Priority.String()
	case t.Name == "":
		return fmt.Sprintf("task %d", t.ID)
	}
	return t.Name
}

// indented returns the entries, each on lines of its own.
func indented(entries []string) string {
	var b strings.Builder
	for _, e := range entries {
		b.WriteString("\n    ")
		b.WriteString(strings.ReplaceAll(e, "\n", "\n        "))
	}
	return b.String()
}
