package taskpool_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newPool starts a pool that logs nothing unless told otherwise. The test shuts
// it down itself, or leaves that to the end of the test.
func newPool(t testing.TB, opts ...taskpool.Option) *taskpool.Pool {
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

// submit submits a task that must be accepted.
func submit(t testing.TB, p *taskpool.Pool, task taskpool.Task) *taskpool.Handle {
	t.Helper()
	h, err := p.Submit(context.Background(), task)
	require.NoError(t, err)
	return h
}

// block occupies a worker until release is called, and returns once it does.
func block(t testing.TB, p *taskpool.Pool) (release func()) {
	t.Helper()
	started, gate := make(chan struct{}), make(chan struct{})
	require.NoError(t, p.Go(taskpool.High, func() { close(started); <-gate }))
	<-started
	return func() { close(gate) }
}

// requireConserved checks that every accepted task is accounted for.
func requireConserved(t testing.TB, s taskpool.Stats) {
	t.Helper()
	require.Equal(t, s.Submitted, s.Succeeded+s.Failed+s.Canceled+s.Shed+
		uint64(s.Queued+s.Delayed+s.Running+s.Parked), "counts must add up: %+v", s)
}
