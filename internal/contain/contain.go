// Package contain keeps what functions of the user's do from harming anyone else.
package contain

import (
	"fmt"
	"log/slog"
)

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
// too; then the matter is dropped.
func Log(log func(msg string, attrs ...slog.Attr), what string, v any) {
	defer func() { _ = recover() }()
	if v == nil {
		log(what + " called runtime.Goexit")
		return
	}
	log(what+" panicked", slog.String("panic", fmt.Sprint(v)))
}
