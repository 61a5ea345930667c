package dashboard

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

func TestErrorsOfTasksAreKeptWhileTheyWaitForTheirRetry(t *testing.T) {
	h := &history{epoch: time.Now(), goEvery: 1}
	event := func(id uint64) taskpool.TaskEvent {
		return taskpool.TaskEvent{Task: taskpool.TaskInfo{ID: id, Attempt: 1}, Err: errors.New("late"), Result: "error", Delay: time.Hour}
	}
	fail := func(id uint64) {
		h.attemptFailed(event(id), 0)
		h.retried(event(id), 0)
	}
	for id := range uint64(2 * keptFailures) {
		fail(id + 1)
	}
	require.Len(t, h.retrying, 2*keptFailures, "more than are in the list of failures")
	v := &poolView{Waiters: taskList{Tasks: []taskView{
		{ID: 1, Attempt: 1, Err: "not known"}, {ID: 1, Attempt: 2, Err: "not known"}, {ID: 999, Attempt: 1}}}}
	h.fill(v, time.Now())
	require.Equal(t, "late", v.Waiters.Tasks[0].Err)
	require.Equal(t, "not known", v.Waiters.Tasks[1].Err, "that of an attempt before")
	require.Empty(t, v.Waiters.Tasks[2].Err)

	for id := range uint64(keptFailures) {
		h.started(event(id+1), 0)
		h.finished(event(id+1+keptFailures), 0)
	}
	require.Empty(t, h.retrying)

	// Where hooks are slow, a retry is told of when the task has ended.
	for id := range uint64(keptTexts + 5) {
		fail(id + 1)
	}
	require.Len(t, h.retrying, keptTexts)
	require.Contains(t, h.retrying, uint64(keptTexts+5), "the newest is always there")
}
