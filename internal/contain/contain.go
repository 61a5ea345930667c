// Package contain keeps what functions of the user's do from harming anyone else.
package contain

import (
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
)

// Abort is what a function given to Pool.Do panics with to end a request, which is no fault of
// it: the [net/http.ErrAbortHandler] of a program with package httppool, which sets it before
// there is a pool, otherwise nil.
var Abort error

// IsAbort reports whether a panic with v is one of these.
func IsAbort(v any) bool { return Abort != nil && v == any(Abort) }

// Apart calls f on a goroutine of its own, as nothing can stop a call of
// [runtime.Goexit] but the end of its goroutine, waits for that, and reports whether f
// returned. If it did not, failed is called there, unless it is nil, with what f panicked
// with, or with nil after a Goexit; failed must not panic.
func Apart(f func(), failed func(v any)) (returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if returned {
				return
			}
			if v := recover(); failed != nil {
				failed(v)
			}
		}()
		f()
		returned = true
	}()
	<-done
	return returned
}

// Log logs that a function of the user's, what, panicked with v or, if that is nil, called
// [runtime.Goexit]. The value's own methods and the log, which is the user's, may panic
// too; then the matter is dropped. Called by the deferred function that recovers, or below
// it, Log also says where the panic was.
func Log(log func(msg string, attrs ...slog.Attr), what string, v any) {
	defer func() { _ = recover() }()
	if v == nil {
		log(what + " called runtime.Goexit")
		return
	}
	attrs := []slog.Attr{slog.String("panic", fmt.Sprint(v))}
	var frames [64]uintptr
	if at := PanickedAt(frames[:runtime.Callers(2, frames[:])]); at != "" {
		attrs = append(attrs, slog.String("at", at))
	}
	log(what+" panicked", attrs...)
}

// PanickedAt returns, as file:line, where the latest panic of a goroutine was, according to
// its stack in the deferred function that recovers, or "" if there is none: the call of
// panic or, for a panic that the runtime raises, what made it do so.
func PanickedAt(stack []uintptr) string {
	panicked := false
	for frames, more := runtime.CallersFrames(stack), len(stack) > 0; more; {
		var f runtime.Frame
		f, more = frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			panicked = true
		case panicked && !strings.HasPrefix(f.Function, "runtime.") && !strings.HasPrefix(f.Function, "internal/runtime/"):
			return f.File + ":" + strconv.Itoa(f.Line)
		}
	}
	return ""
}
