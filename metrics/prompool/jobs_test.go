package prompool_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/jobs"
)

// operator is a queue of jobs of which the depths are known.
type operator struct {
	jobs.Operator
	depths []jobs.Depth
	err    error
}

func (o *operator) Depths(context.Context) ([]jobs.Depth, error) { return o.depths, o.err }

func TestJobsAreCountedByQueueKindAndStatus(t *testing.T) {
	c, reg := newCollector(t)
	q := &operator{depths: []jobs.Depth{{Queue: "default", Kind: "mail", Waiting: 3, Delayed: 2, Running: 1, Oldest: time.Minute}, {Queue: "low", Kind: "mail", Running: 5}}}
	require.NoError(t, c.WatchJobs("main", q))
	require.EqualError(t, c.WatchJobs("main", q), `prompool: WatchJobs: jobs named "main" are watched already`)
	require.EqualError(t, c.WatchJobs("other", nil), "prompool: WatchJobs: q must not be nil, got nil")
	s := gather(t, reg)
	require.Equal(t, map[string]float64{"waiting": 3, "delayed": 2, "running": 6}, s.values("taskpool_jobs", "status"))
	require.EqualValues(t, 5, s.sum("taskpool_jobs", "jobs", "main", "queue", "low", "kind", "mail"))
	require.EqualValues(t, 60, s.sum("taskpool_jobs_oldest_waiting_seconds", "queue", "default"))
	require.EqualValues(t, 1, s.sum("taskpool_jobs_up", "jobs", "main"))

	q.depths, q.err = nil, errors.New("the database does not answer")
	s = gather(t, reg)
	require.NotContains(t, s, "taskpool_jobs")
	require.Len(t, s.each("taskpool_jobs_up", "jobs", "main"), 1)
	require.Zero(t, s.sum("taskpool_jobs_up"))
	require.True(t, c.UnwatchJobs("main"))
	require.False(t, c.UnwatchJobs("main"))
	require.NotContains(t, gather(t, reg), "taskpool_jobs_up")
}
