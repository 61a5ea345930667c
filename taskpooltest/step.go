package taskpooltest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// Step lets one task of a paused pool run, and returns what has become of it. The pool
// chooses the task as it would without the pause: it starts the one whose turn it is, or
// resumes one that is parked. Step returns when that task has settled, waits for a retry or
// is parked, hooks have returned, and no other task runs. So it makes no difference how
// many workers the pool has, except that a task that calls [taskpool.Yield] gives way only
// if no worker is free: a test of that needs a pool with one worker.
//
// A task that waits for others is parked, and further Steps run these and then resume it.
// One whose context has ended needs no Step to go on, as in any pause. If tasks run when
// Step is called, it waits for them first. If none is ready, it waits for one that is
// delayed, or that is parked and will be back, such as in [taskpool.Block].
//
// Step ends the test with [testing.TB.Fatal] if the pool is not paused, if it is shut down,
// if no task is left, and after 30 s, with the stacks of the tasks that run. In a bubble of
// package testing/synctest it waits for a virtual day. Like Fatal it must be called from
// the test's goroutine, so not in a task.
//
// State in the result is the state after the step. For a function given to Go, the result
// has only Pool, Priority and State.
func Step(t testing.TB, pool *taskpool.Pool) taskpool.TaskInfo {
	t.Helper()
	wait := stepPatience()
	ctx, cancel := context.WithTimeoutCause(context.Background(), wait, errStepPatience)
	defer cancel()
	task, err := remote.Step(ctx, pool)
	if err == nil {
		return task.(taskpool.TaskInfo)
	}
	if !errors.Is(err, errStepPatience) {
		t.Fatalf("taskpooltest: Step: %v", err)
	}
	stats := pool.Stats()
	message := fmt.Sprintf("taskpooltest: Step: after %v, a task still runs or none is ready: %d queued, %d delayed, %d running, %d parked",
		wait, stats.Queued, stats.Delayed, stats.Running, stats.Parked)
	var tasks []string
	for _, task := range pool.Tasks(taskpool.StateRunning, taskpool.StateParked) {
		tasks = append(tasks, describeTask(task)+where(pool, task))
	}
	t.Fatal(message + indented(tasks))
	return taskpool.TaskInfo{}
}

var errStepPatience = errors.New("taskpooltest: Step has waited for too long")

// programStarted tells a bubble of testing/synctest, where it is the year 2000 at first,
// from the world outside.
var programStarted = time.Now()

// stepPatience returns how long Step waits. A task in a bubble may sleep for hours.
func stepPatience() time.Duration {
	if time.Now().Before(programStarted) {
		return 24 * time.Hour
	}
	return patience
}
