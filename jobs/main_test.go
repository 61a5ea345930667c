package jobs_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/conformance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// newLocal returns a queue with one worker, which is stopped when the test ends.
func newLocal(t testing.TB, reg *jobs.Registry, opts ...taskpool.Option) *jobs.LocalQueue {
	t.Helper()
	opts = append([]taskpool.Option{taskpool.WithWorkers(1), taskpool.WithLogger(quiet)}, opts...)
	pool, err := taskpool.New(opts...)
	require.NoError(t, err)
	q := jobs.Local(pool, reg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = q.Stop(ctx)
	})
	return q
}

func TestLocalConforms(t *testing.T) {
	conformance.Run(t, synctest.Test, func(t *testing.T, reg *jobs.Registry) conformance.Engine { return newLocal(t, reg) })
}

func TestLocalConformsInRealTime(t *testing.T) {
	conformance.Run(t, nil, func(t *testing.T, reg *jobs.Registry) conformance.Engine {
		return newLocal(t, reg, taskpool.WithHangGrace(500*time.Millisecond))
	})
}
