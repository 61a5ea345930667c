package process_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool/process"
)

// modeName is a variable that has a process of this test binary do something else
// than run tests.
const modeName = "PROCESS_TEST_MODE"

// flagName is a variable with the name of a file. A child that finds that file
// dies before it is ready.
const flagName = "PROCESS_TEST_BROKEN"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(modeName); mode {
	case "":
	case "exit":
		fmt.Fprintln(os.Stderr, "configuration is missing")
		os.Exit(3)
	case "deaf":
		select {} // never comes to Main
	default:
		if program := programs[mode]; program != nil {
			program()
			return
		}
	}
	if _, err := os.Stat(os.Getenv(flagName)); err == nil {
		fmt.Fprintln(os.Stderr, "broken")
		os.Exit(4)
	}
	process.Main()
	// Tests that do not use start have their children looked at here.
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, fault := range process.Faults() {
			fmt.Fprintln(os.Stderr, "FAIL:", fault)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

// programs are what a process of this test binary can be in place of the tests, by
// mode. They call Main where it is theirs to call.
var programs = map[string]func(){}

// patience bounds what ought to take no time at all.
const patience = time.Minute

// start starts children whose standard error is dropped unless told otherwise. The
// test shuts them down itself, or leaves that to its end. It fails if they have had a
// data race, or have not exited with 0 when they were told to exit.
func start(t testing.TB, opts ...process.Option) *process.Pool {
	t.Helper()
	opts = append([]process.Option{process.WithStderr(io.Discard), process.WithStartTimeout(patience), fastExit}, opts...)
	w, err := process.New(opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		shutdown(t, w)
		require.Empty(t, process.Faults())
	})
	return w
}

// fastExit keeps a child with the race detector from sleeping for a second at its
// end.
var fastExit = process.WithEnv("GORACE=atexit_sleep_ms=0")

// shutdown waits for the end of all calls and children.
func shutdown(t testing.TB, w *process.Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, w.Shutdown(ctx))
}

// call calls a function that must succeed.
func call[In, Out any](t testing.TB, w *process.Pool, f *process.Func[In, Out], in In) Out {
	t.Helper()
	out, err := f.Call(context.Background(), w, in)
	require.NoError(t, err)
	return out
}

// fails calls a function that must fail.
func fails[In, Out any](t testing.TB, w *process.Pool, f *process.Func[In, Out], in In) error {
	t.Helper()
	out, err := f.Call(context.Background(), w, in)
	require.Error(t, err)
	require.Zero(t, out)
	return err
}

// none is the argument of functions that need none.
type none = struct{}

var quiet = slog.New(slog.DiscardHandler)
