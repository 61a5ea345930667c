//go:build unix

package process_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/process"
)

var prepared atomic.Int64

var (
	prepare = process.Register("prepare", func(_ context.Context, n int64) (struct{}, error) {
		if n < 0 {
			return struct{}{}, errors.New("what is to be prepared is not there")
		}
		prepared.Add(n)
		return struct{}{}, nil
	})
	setting = process.Register("setting", func(context.Context, struct{}) (string, error) {
		var files syscall.Rlimit
		err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
		return fmt.Sprint(prepared.Load(), " ", os.Args[0], " ", files.Cur, " ", files.Max, " ", os.Getuid(), " ", os.Getgid()), err
	})
)

func TestEachChildIsPreparedAndAsItIsToldToBe(t *testing.T) {
	w := start(t, process.WithWorkers(1), process.WithMaxCalls(2), process.WithInit(prepare, 40), process.WithInit(prepare, 2),
		process.WithArgv0("renderer"), process.WithRlimit(syscall.RLIMIT_NOFILE, 100))
	for range 5 { // in three children
		is, err := setting.Call(t.Context(), w, struct{}{})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("42 renderer 100 100 ", os.Getuid(), " ", os.Getgid()), is)
	}
	require.EqualValues(t, 5, w.Stats().Calls)
}

func TestAChildThatCannotBePreparedDoesNotStart(t *testing.T) {
	_, err := process.New(process.WithWorkers(2), process.WithInit(prepare, -1))
	require.ErrorContains(t, err, "WithInit: what is to be prepared is not there")
	_, err = process.New(process.WithWorkers(1), process.WithInit(crash, 1))
	require.Error(t, err)
	for want, option := range map[string]process.Option{
		"process: WithInit: the Func must be":                        process.WithInit((*process.Func[int, int])(nil), 1),
		"process: WithArgv0: name must not be empty or have a NUL":   process.WithArgv0(""),
		"process: WithRlimit: resource must not be negative, got -1": process.WithRlimit(-1, 1),
	} {
		_, err := process.New(option)
		require.ErrorContains(t, err, want)
	}
}

func TestAChildMayHaveAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may choose")
	}
	path, err := os.Executable()
	require.NoError(t, err)
	if info, err := os.Stat(path); err != nil || info.Mode()&0o001 == 0 {
		t.Skip("another user may not execute the test")
	}
	const nobody = 65534
	w, err := process.New(process.WithWorkers(1), process.WithCredential(nobody, nobody))
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("a directory above the test is closed to others: %v", err)
	}
	require.NoError(t, err)
	is, err := setting.Call(t.Context(), w, struct{}{})
	require.NoError(t, err)
	require.Contains(t, is, " 65534 65534")
	require.NoError(t, w.Shutdown(t.Context()))
}
