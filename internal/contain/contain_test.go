package contain_test

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool/internal/contain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestApartSaysHowAFunctionEnded(t *testing.T) {
	for name, tt := range map[string]struct {
		f    func()
		told []any // what failed is called with
	}{
		"returns": {func() {}, nil},
		"panics":  {func() { panic("bad") }, []any{"bad"}},
		"Goexit":  {runtime.Goexit, []any{nil}},
	} {
		var told []any
		require.Equal(t, name == "returns", contain.Apart(tt.f, func(v any) { told = append(told, v) }), name)
		require.Equal(t, tt.told, told, name)
		require.Equal(t, name == "returns", contain.Apart(tt.f, nil), name)
	}
	require.False(t, contain.Apart(func() { panic("bad") }, func(any) { runtime.Goexit() }), "it ends no other goroutine")
}

type badText struct{}

func (badText) String() string { panic("no text") }

func TestLogSaysWhatWasContained(t *testing.T) {
	type record struct {
		msg   string
		attrs []slog.Attr
	}
	var logged []record
	log := func(msg string, attrs ...slog.Attr) { logged = append(logged, record{msg, attrs}) }
	contain.Log(log, "pack: a hook", "bad")
	contain.Log(log, "pack: a hook", nil)
	contain.Log(log, "pack: a hook", badText{}) // package fmt has caught that
	contain.Log(func(string, ...slog.Attr) { panic("no log") }, "pack: a hook", "bad")
	require.Equal(t, []record{
		{"pack: a hook panicked", []slog.Attr{slog.String("panic", "bad")}},
		{"pack: a hook called runtime.Goexit", nil},
		{"pack: a hook panicked", []slog.Attr{slog.String("panic", "%!v(PANIC=String method: no text)")}},
	}, logged)
}

func TestAPanicIsWhereItsCallIs(t *testing.T) {
	at := func(f func()) (place string) {
		log := func(_ string, attrs ...slog.Attr) {
			for _, a := range attrs {
				if a.Key == "at" {
					place = a.Value.String()
				}
			}
		}
		defer func() { contain.Log(log, "pack: a hook", recover()) }()
		f()
		return place
	}
	_, file, line, _ := runtime.Caller(0)
	var none map[string]int
	require.Equal(t, fmt.Sprint(file, ":", line+2), at(func() { panic("bad") }))
	require.Equal(t, fmt.Sprint(file, ":", line+3), at(func() { none["bad"] = 1 }))
	require.Equal(t, fmt.Sprint(file, ":", line+5), at(func() {
		defer func() { panic("worse") }()
		panic("bad")
	}), "the latest counts, as its value does")
	require.Empty(t, contain.PanickedAt(nil))
	var frames [8]uintptr
	require.Empty(t, contain.PanickedAt(frames[:runtime.Callers(0, frames[:])]), "nothing has panicked")
}
