package jobs

import (
	"context"
	"log/slog"
)

// metaKey is the context key of a described.
type metaKey struct{}

// A described is what a context says about its job.
type described interface{ describe() Meta }

func (m Meta) describe() Meta { return m }

// MetaFrom returns what is known of the job that ctx belongs to: that of a handler, or one
// that the pool passes to a hook, [taskpool.Hooks].Around for instance, or to the handler of
// its log. It returns false if there is none. It costs a look-up of a context's value.
func MetaFrom(ctx context.Context) (m Meta, ok bool) {
	if ctx == nil {
		return Meta{}, false
	}
	d, ok := ctx.Value(metaKey{}).(described)
	if !ok {
		return Meta{}, false
	}
	return d.describe(), true
}

// withMeta returns a context that says that it belongs to a job's attempt.
func withMeta(ctx context.Context, m Meta) context.Context {
	return context.WithValue(ctx, metaKey{}, described(m))
}

// LogHandler returns a handler that adds the job to each record that is logged with a job's
// context, also by the pool that runs it: a group "job" with id, kind and attempt, and with
// flow if it has one.
//
//	pool, err := taskpool.New(taskpool.WithLogger(slog.New(jobs.LogHandler(handler))))
//
// It panics if h is nil.
func LogHandler(h slog.Handler) slog.Handler {
	if h == nil {
		panic("jobs: LogHandler: h must not be nil")
	}
	return &logHandler{h}
}

type logHandler struct{ slog.Handler }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	if m, ok := MetaFrom(ctx); ok {
		attrs := []any{slog.String("id", string(m.ID)), slog.String("kind", m.Kind), slog.Int("attempt", m.Attempt)}
		if m.Flow != "" {
			attrs = append(attrs, slog.String("flow", m.Flow))
		}
		r = r.Clone()
		r.AddAttrs(slog.Group("job", attrs...))
	}
	return h.Handler.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.Handler.WithAttrs(attrs)}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.Handler.WithGroup(name)}
}
