package taskpooltest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/taskpool-go/taskpool"
)

// A Recorder notes the order in which the tasks of pools start and finish. Its zero value
// is ready for use; it must not be copied. Give it to a pool with
// taskpool.WithHooks(recorder.Hooks()). Its methods may be called at any time.
//
// Tasks appear by name: as "task 7", with the ID, if they have none, and as "func high",
// with the priority, if they are functions given to Go. A second attempt of "mail" is
// "mail (attempt 2)". When a parked task goes on, that is not noted.
//
// Tasks that start at the same time, on different workers, may be noted in any order. For
// an order to rely on, use a pool with one worker or [Step].
type Recorder struct {
	mu       sync.Mutex // protects the fields below
	started  []string
	finished []string
}

// Hooks returns the hooks that tell r of a pool's tasks.
func (r *Recorder) Hooks() taskpool.Hooks {
	return taskpool.Hooks{
		Started: func(e taskpool.TaskEvent) {
			name := taskName(e.Task)
			if e.Task.Attempt > 1 {
				name += fmt.Sprintf(" (attempt %d)", e.Task.Attempt)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.started = append(r.started, name)
		},
		Finished: func(e taskpool.TaskEvent) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.finished = append(r.finished, taskName(e.Task))
		},
	}
}

// Started returns the tasks in the order in which they have started, each attempt by
// itself.
func (r *Recorder) Started() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.started)
}

// Finished returns the tasks in the order in which they have reached their final states,
// those that were canceled or shed among them.
func (r *Recorder) Finished() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.finished)
}

// Reset forgets what was noted so far.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started, r.finished = nil, nil
}

// AssertOrder fails the test if the tasks that have started so far are not want, in this
// order. It does not wait: call it after [Step], [taskpool.Pool.WaitIdle] or a wait for the
// tasks.
func AssertOrder(t testing.TB, r *Recorder, want ...string) {
	t.Helper()
	if got := r.Started(); !slices.Equal(got, want) {
		t.Errorf("taskpooltest: tasks started in another order:\n%s", table(got, want))
	}
}

// AssertBefore fails the test unless both tasks have started, and the first attempt of first
// did so before that of then. Unlike [AssertOrder] it leaves open what else has started.
func AssertBefore(t testing.TB, r *Recorder, first, then string) {
	t.Helper()
	got := r.Started()
	i, j := slices.Index(got, first), slices.Index(got, then)
	if i < 0 || j < 0 || i >= j {
		t.Errorf("taskpooltest: %q has not started before %q, the order was %q", first, then, got)
	}
}

// table shows got beside want, with a mark where they differ.
func table(got, want []string) string {
	width := len("got")
	for _, name := range got {
		width = max(width, len([]rune(name)))
	}
	at := func(names []string, i int) string {
		if i < len(names) {
			return names[i]
		}
		return "-"
	}
	var b strings.Builder
	row := func(mark, number, got, want string) {
		fmt.Fprintf(&b, "  %1s %3s  %-*s  %s\n", mark, number, width, got, want)
	}
	row("", "", "got", "want")
	for i := range max(len(got), len(want)) {
		mark := ""
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			mark = ">"
		}
		row(mark, fmt.Sprint(i+1), at(got, i), at(want, i))
	}
	return strings.TrimSuffix(b.String(), "\n")
}
