package process_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/process"
)

func TestMain(m *testing.M) {
	process.Main()
	goleak.VerifyTestMain(m)
}

// patience bounds what ought to take no time at all.
const patience = time.Minute

// start starts children whose standard error is dropped unless told otherwise. The
// test shuts them down itself, or leaves that to its end.
func start(t testing.TB, opts ...process.Option) *process.Workers {
	t.Helper()
	opts = append([]process.Option{process.WithStderr(io.Discard), process.WithStartTimeout(patience)}, opts...)
	w, err := process.Start(opts...)
	require.NoError(t, err)
	t.Cleanup(func() { shutdown(t, w) })
	return w
}

func shutdown(t testing.TB, w *process.Workers) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, w.Shutdown(ctx))
}

type point struct{ X, Y int }

var (
	add = process.Register("add", func(_ context.Context, p point) (int, error) { return p.X + p.Y, nil })
	pid = process.Register("pid", func(context.Context, struct{}) (int, error) { return os.Getpid(), nil })
)

func TestACallReturnsWhatTheFunctionReturns(t *testing.T) {
	w := start(t, process.WithWorkers(2))
	for i := range 100 {
		sum, err := add.Call(context.Background(), w, point{i, 1})
		require.NoError(t, err)
		require.Equal(t, i+1, sum)
	}
	id, err := pid.Call(context.Background(), w, struct{}{})
	require.NoError(t, err)
	require.NotEqual(t, os.Getpid(), id)
}

func BenchmarkCall(b *testing.B) {
	w := start(b, process.WithWorkers(2))
	for b.Loop() {
		_, err := add.Call(context.Background(), w, point{1, 2})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCallParallel(b *testing.B) {
	w := start(b, process.WithWorkers(2))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, err := add.Call(context.Background(), w, point{1, 2})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

var (
	_ = errors.New
	_ = fmt.Sprint
	_ fs.FileInfo
	_ = runtime.NumCPU
	_ = debug.Stack
	_ = strings.Cut
	_ sync.Mutex
	_ syscall.Signal
	_ taskpool.Task
)
