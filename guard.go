package taskpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/taskpool-go/taskpool/internal/contain"
)

// A guard calls code of the user's that must not harm anyone, hooks, policies and methods of
// contexts, and writes the pool's log, which is the user's too. So no lock may be held.
type guard struct {
	name   string       // of the pool
	logger *slog.Logger // nil: slog.Default
}

// contain calls user code that must not harm anyone and reports whether it
// returned. A panic is logged, and so is [runtime.Goexit], which cannot be
// stopped: it ends the goroutine.
func (g *guard) contain(what string, f func()) (ok bool) {
	defer func() {
		if !ok {
			g.logContained(what, recover())
		}
	}()
	f()
	return true
}

// logContained logs the end of a user's function other than Run by a panic with
// value v, or by Goexit or panic(nil), if v is nil.
func (g *guard) logContained(what string, v any) {
	log := func(msg string, attrs ...slog.Attr) { g.write(slog.LevelError, msg, attrs...) }
	contain.Log(log, "taskpool: "+what, v)
}

// log returns the pool's logger.
func (g *guard) log() *slog.Logger {
	if l := g.logger; l != nil {
		return l
	}
	return slog.Default()
}

// logs reports whether the log takes records of a level. It calls the user's
// handler, so no lock may be held.
func (g *guard) logs(level slog.Level) bool {
	return g.log().Enabled(context.Background(), level)
}

// write writes a record. It calls the user's handler, so no lock may be held.
func (g *guard) write(level slog.Level, msg string, attrs ...slog.Attr) {
	if !g.logs(level) {
		return
	}
	if g.name != "" {
		attrs = append([]slog.Attr{slog.String("pool", g.name)}, attrs...)
	}
	g.log().LogAttrs(context.Background(), level, msg, attrs...)
}

// writeTask writes a record about a task.
func (g *guard) writeTask(level slog.Level, msg string, t TaskInfo, attrs ...slog.Attr) {
	all := []slog.Attr{slog.Any("priority", t.Priority), slog.Int("attempt", t.Attempt)}
	if t.ID != 0 {
		all = append(all, slog.Uint64("id", t.ID), slog.String("task", t.Name))
	}
	g.write(level, msg, append(all, attrs...)...)
}

// writeAttempt logs an attempt that failed.
func (g *guard) writeAttempt(v *verdict, info TaskInfo, elapsed time.Duration) {
	level, msg := slog.LevelError, "taskpool: task failed"
	if v.retry && v.kind != attemptPanic && v.kind != attemptHung {
		level, msg = slog.LevelWarn, "taskpool: attempt failed"
	}
	if !g.logs(level) {
		return
	}
	attrs := []slog.Attr{slog.Any("error", v.err)}
	switch v.kind {
	case attemptPanic:
		var e *PanicError
		errors.As(v.err, &e)
		msg, attrs = "taskpool: task panicked", append(attrs, slog.String("stack", string(e.complete().Stack)))
	case attemptHung:
		var e *HungError
		errors.As(v.err, &e)
		msg, attrs = "taskpool: task hung", append(attrs, slog.String("stack", string(e.Stack)))
	}
	if elapsed > 0 {
		attrs = append(attrs, slog.Duration("elapsed", elapsed))
	}
	if v.retry {
		attrs = append(attrs, slog.Duration("retry_in", v.delay))
	}
	g.writeTask(level, msg, info, attrs...)
}

// contextError says that a context given to call is over.
func (g *guard) contextError(call string, ctx context.Context) error {
	err, cause := ctx.Err(), causeOf(ctx)
	if err == nil {
		err = cause
	}
	wraps := false
	g.contain("an error's Is or Unwrap", func() { wraps = errors.Is(cause, err) })
	if wraps {
		return fmt.Errorf("taskpool: %s: context is over: %w", call, cause)
	}
	return fmt.Errorf("taskpool: %s: context is over: %w: %w", call, err, cause)
}

// contextEnd returns why ctx, which was given to Submit, has ended, nil if it has
// not. The timer of a deadline may be late, most of all where there is too much to
// do, so it looks at the clock itself. It calls methods of ctx, so no lock may be
// held; what goes wrong in them is contained.
func (g *guard) contextEnd(ctx context.Context) (e *ending) {
	g.contain("a context's method", func() {
		late := false
		if ctx.Err() == nil {
			deadline, ok := ctx.Deadline()
			if late = ok && !time.Now().Before(deadline); !late {
				return
			}
		}
		e = &ending{cause: context.Canceled, kind: endCanceled, byContext: true}
		if late {
			e.cause = context.DeadlineExceeded
		}
		if cause := context.Cause(ctx); cause != nil {
			e.cause = cause
		}
	})
	return e
}

// writeUnfinished says in the log that a shutdown left n tasks unfinished.
func (g *guard) writeUnfinished(n int) {
	g.write(slog.LevelWarn, "taskpool: shutdown left tasks unfinished", slog.Int("unfinished", n))
}
