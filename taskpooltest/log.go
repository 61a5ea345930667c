package taskpooltest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// Logger returns a logger that writes to t's output, for pools and other code that a test
// starts. It takes records of level Debug and above, in a benchmark of level Warn and
// above. Times are left out, and a stack is written below its record. After the end of the
// test it drops what it is given, so code that outlives the test may still log.
//
// A pool logs each success of a task at level Debug, and the test keeps the log in memory
// until it ends. A test that runs a million tasks should set another logger.
func Logger(t testing.TB) *slog.Logger {
	out := &output{t: t}
	t.Cleanup(out.close)
	level := slog.LevelDebug
	if _, ok := t.(*testing.B); ok {
		level = slog.LevelWarn
	}
	return slog.New(&handler{out, level, func(w io.Writer) slog.Handler {
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	}})
}

// A handler writes records to an output.
type handler struct {
	out   *output
	level slog.Level
	text  func(io.Writer) slog.Handler
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.out, h.level, func(w io.Writer) slog.Handler { return h.text(w).WithAttrs(attrs) }}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.out, h.level, func(w io.Writer) slog.Handler { return h.text(w).WithGroup(name) }}
}

// Handle formats the record before it locks the output: the values in the record may have
// methods that log.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	var stack string
	short := slog.NewRecord(time.Time{}, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "stack" && a.Value.Kind() == slog.KindString {
			stack = a.Value.String()
		} else {
			short.AddAttrs(a)
		}
		return true
	})
	var line bytes.Buffer
	if err := h.text(&line).Handle(ctx, short); err != nil {
		return err
	}
	if stack = strings.TrimSpace(stack); stack != "" {
		line.WriteString("    " + strings.ReplaceAll(stack, "\n", "\n    ") + "\n")
	}
	return h.out.write(line.Bytes())
}

// An output is where the records of a test go until it ends.
type output struct {
	mu sync.Mutex
	t  testing.TB // nil after the end of the test
}

func (o *output) write(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.t == nil {
		return nil
	}
	_, err := o.t.Output().Write(b)
	return err
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.t = nil
}
