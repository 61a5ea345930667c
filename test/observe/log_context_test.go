package observe_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// A tracingHandler notes the value of traceID that each record's context has.
type tracingHandler struct {
	mu   *sync.Mutex
	ids  map[string][]any // by message
	ends *bool            // some record's context can end
}

type traceID struct{}

func (h tracingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h tracingHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h tracingHandler) WithGroup(string) slog.Handler            { return h }

func (h tracingHandler) Handle(ctx context.Context, r slog.Record) error {
	id := ctx.Value(traceID{})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids[r.Message] = append(h.ids[r.Message], id)
	if _, ok := ctx.Deadline(); ok || ctx.Done() != nil || ctx.Err() != nil {
		*h.ends = true
	}
	return nil
}

// badValues is a context whose values cannot be had.
type badValues struct{ context.Context }

func (badValues) Value(key any) any {
	if _, ok := key.(traceID); ok {
		panic("no values today")
	}
	return nil
}

func TestRecordsInTheLogHaveTheValuesOfTheTasksContext(t *testing.T) {
	h := tracingHandler{new(sync.Mutex), make(map[string][]any), new(bool)}
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(h)))
	require.NoError(t, err)
	submit := func(ctx context.Context, retries int, run func(context.Context) error) {
		var retry taskpool.Retry
		if retries > 0 {
			retry = taskpool.Retry{MaxAttempts: 1 + retries, Backoff: pooltest.NoWait}
		}
		handle, err := p.Submit(ctx, taskpool.Task{Run: run, Retry: retry})
		require.NoError(t, err)
		_ = handle.Wait(context.Background())
	}
	traced := func(id string) context.Context { return context.WithValue(t.Context(), traceID{}, id) }
	broken := func(context.Context) error { return errors.New("broken") }

	submit(traced("good"), 0, func(context.Context) error { return nil })
	submit(traced("retried"), 1, broken)
	submit(traced("panic"), 0, func(context.Context) error { panic("x") })
	over, cancel := context.WithCancel(traced("canceled later"))
	submit(over, 0, func(context.Context) error { cancel(); panic("x") })
	submit(badValues{t.Context()}, 0, broken)
	submit(context.Background(), 0, broken)
	require.NoError(t, p.Go(taskpool.High, func() { panic("of a function") }))
	require.NoError(t, p.Shutdown(context.Background()))

	require.False(t, *h.ends, "a handler must not be kept from writing what it is told")
	require.Equal(t, map[string][]any{
		"taskpool: task succeeded":              {"good"},
		"taskpool: attempt failed":              {"retried"},
		"taskpool: task failed":                 {"retried", nil, nil},
		"taskpool: task panicked":               {"panic", "canceled later", nil},
		"taskpool: a context's method panicked": {nil},
	}, h.ids)
	pooltest.RequireConserved(t, p.Stats())
}
