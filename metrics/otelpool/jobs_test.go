package otelpool_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"

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
	c, b := newCollector(t)
	q := &operator{depths: []jobs.Depth{{Queue: "default", Kind: "mail", Waiting: 3, Delayed: 2, Running: 1, Oldest: time.Minute}}}
	require.NoError(t, c.WatchJobs("main", q))
	require.EqualError(t, c.WatchJobs("main", q), `otelpool: WatchJobs: jobs named "main" are watched already`)
	require.EqualError(t, c.WatchJobs("other", nil), "otelpool: WatchJobs: q must not be nil, got nil")
	got := b.collect()
	by := make(map[string]float64)
	for _, p := range got["taskpool.jobs"] {
		for key, want := range map[string]string{"jobs": "main", "queue": "default", "kind": "mail"} {
			v, _ := p.attrs.Value("taskpool." + attribute.Key(key))
			require.Equal(t, want, v.AsString(), key)
		}
		status, _ := p.attrs.Value("taskpool.status")
		by[status.AsString()] = p.value
	}
	require.Equal(t, map[string]float64{"waiting": 3, "delayed": 2, "running": 1}, by)
	require.EqualValues(t, 60, got["taskpool.jobs.oldest"][0].value)
	require.EqualValues(t, 1, got["taskpool.jobs.up"][0].value)

	q.depths, q.err = nil, errors.New("the database does not answer")
	got = b.collect()
	require.Empty(t, got["taskpool.jobs"])
	require.EqualValues(t, 0, got["taskpool.jobs.up"][0].value)
	require.True(t, c.UnwatchJobs("main"))
	require.False(t, c.UnwatchJobs("main"))
	require.Empty(t, b.collect()["taskpool.jobs.up"])
}
