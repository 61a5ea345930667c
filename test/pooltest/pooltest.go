// Package pooltest has what the suites of tests in this directory share.
package pooltest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
)

// Main is a suite's TestMain. It fails if a goroutine is left.
func Main(m *testing.M) { goleak.VerifyTestMain(m) }

// New starts a pool that logs nothing unless told otherwise. The test shuts it down
// itself, or leaves that to the end of the test.
func New(t testing.TB, opts ...taskpool.Option) *taskpool.Pool {
	t.Helper()
	opts = append([]taskpool.Option{taskpool.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	p, err := taskpool.New(opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = p.Shutdown(ctx)
	})
	return p
}

// Submit submits a task that must be accepted.
func Submit(t testing.TB, p *taskpool.Pool, task taskpool.Task) *taskpool.Handle {
	t.Helper()
	h, err := p.Submit(context.Background(), task)
	require.NoError(t, err)
	return h
}

// RequireConserved checks that every accepted task is accounted for.
func RequireConserved(t testing.TB, s taskpool.Stats) {
	t.Helper()
	require.Equal(t, s.Submitted, s.Succeeded+s.Failed+s.Canceled+s.Shed+
		uint64(s.Queued+s.Delayed+s.Running+s.Parked), "counts must add up: %+v", s)
}
