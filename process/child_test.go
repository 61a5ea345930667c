//go:build unix

package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/process"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// mumble writes n lines, each in three pieces.
var mumble = process.Register("mumble", func(_ context.Context, n int) (none, error) {
	for i := range n {
		fmt.Fprintf(os.Stderr, "begin %d ", i)
		fmt.Fprint(os.Stderr, strings.Repeat("x", i%300))
		fmt.Fprintln(os.Stderr, " end")
	}
	return none{}, nil
})

var mumbled = regexp.MustCompile(`^begin (\d+) (x*) end$`)

func TestLinesOfManyChildrenStayWhole(t *testing.T) {
	t.Parallel()
	lines := pooltest.Times(5000, 5000)
	for _, labels := range []bool{false, true} {
		t.Run(fmt.Sprintf("labels=%v", labels), func(t *testing.T) {
			var out bytes.Buffer
			opts := []process.Option{process.WithWorkers(4), process.WithStderr(&out)}
			if labels {
				opts = append(opts, process.WithStderrLabels())
			}
			w := start(t, opts...)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() { _, _ = mumble.Call(context.Background(), w, lines) })
			}
			all.Wait()
			shutdown(t, w)
			require.Equal(t, 4*lines, bytes.Count(out.Bytes(), []byte("\n")))
			seen, pids := make(map[string]int), make(map[string]bool)
			for line := range strings.Lines(out.String()) {
				line = strings.TrimSuffix(line, "\n")
				if labels {
					label, rest, _ := strings.Cut(line, ": ")
					pid, name, _ := strings.Cut(label, " ")
					_, err := strconv.Atoi(pid)
					require.NoError(t, err, "%q", line)
					require.Contains(t, []string{"", "mumble"}, name, "the call may be over when its last line arrives")
					pids[pid] = true
					line = rest
				}
				m := mumbled.FindStringSubmatch(line)
				require.NotNil(t, m, "torn: %q", line)
				n, err := strconv.Atoi(m[1])
				require.NoError(t, err)
				require.Len(t, m[2], n%300)
				seen[m[1]]++
			}
			require.Len(t, seen, lines)
			if labels {
				require.GreaterOrEqual(t, len(pids), 1)
			}
		})
	}
}

// mutter writes a text to standard error, and nothing after it.
var mutter = process.Register("mutter", func(_ context.Context, text string) (int, error) { return fmt.Fprint(os.Stderr, text) })

func TestALineWithoutEndIsCopiedWhenItsChildIsGone(t *testing.T) {
	var out bytes.Buffer
	w := start(t, process.WithWorkers(1), process.WithStderr(&out))
	text := strings.Repeat("y", 100<<10)
	call(t, w, mutter, text)
	call(t, w, mutter, "end")
	shutdown(t, w)
	got := out.String()
	require.True(t, strings.HasSuffix(got, "end\n"), "%d bytes", len(got))
	require.Equal(t, text+"end", strings.ReplaceAll(got, "\n", ""))
	require.Equal(t, 2, strings.Count(got, "\n"), "a piece of 64 KiB, and the rest")
}

var openPipes = process.Register("openPipes", func(context.Context, none) ([]string, error) {
	var open []string
	for fd := 5; fd < 1024; fd++ {
		var s syscall.Stat_t
		if err := syscall.Fstat(fd, &s); err == nil && s.Mode&syscall.S_IFMT == syscall.S_IFIFO {
			open = append(open, strconv.Itoa(fd))
		}
	}
	return open, nil
})

func TestAChildInheritsNoOpenFile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells which files are open")
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	leaked, err := syscall.Dup(int(r.Fd())) // as code in C opens files: without O_CLOEXEC
	require.NoError(t, err)
	defer syscall.Close(leaked)
	require.Empty(t, call(t, start(t, process.WithWorkers(1)), openPipes, none{}))
}

var oomScore = process.Register("oomScore", func(context.Context, none) (int, error) { return readOOMScore() })

func readOOMScore() (int, error) {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func TestTheKernelTakesAChildBeforeTheParentWhenMemoryRunsOut(t *testing.T) {
	t.Parallel()
	own, err := readOOMScore()
	if err != nil {
		t.Skip("this system has no such score")
	}
	w := start(t, process.WithWorkers(1), process.WithMaxCalls(1))
	for range 2 { // a child that replaces another too
		require.Equal(t, min(own+500, 1000), call(t, w, oomScore, none{}))
	}
}

func TestAChildThatWasStoppedWhileIdleIsWoken(t *testing.T) {
	t.Parallel()
	w := start(t, process.WithWorkers(1))
	child := call(t, w, pid, none{})
	require.NoError(t, syscall.Kill(child, syscall.SIGSTOP))
	require.Equal(t, child, call(t, w, pid, none{})) // without a deadline
}

func init() {
	programs["ignores SIGCHLD"] = func() {
		process.Main()
		signal.Ignore(syscall.SIGCHLD)
		w, err := process.New(process.WithWorkers(1), process.WithStderr(io.Discard), fastExit)
		if err != nil {
			panic(err)
		}
		_, err = die.Call(context.Background(), w, order{How: "kill"})
		fmt.Println(err)
		_ = w.Shutdown(context.Background())
	}
	programs["privileged"] = func() {
		process.Main()
		_, err := process.New()
		fmt.Println("not a child:", err)
	}
}

func TestADeathOfWhichNobodyIsToldSaysSo(t *testing.T) {
	t.Parallel()
	out, err := run(t, "ignores SIGCHLD").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "ignores SIGCHLD")
	require.NotContains(t, string(out), "exited with code")
}

// Whoever starts a setuid program chooses its environment and its open files, so could talk to it
// as a parent does.
func TestASetuidProgramIsNeverAChild(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can make such a program")
	}
	program, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	dir := t.TempDir()
	for at := dir; at != "/" && at != os.TempDir(); at = filepath.Dir(at) {
		require.NoError(t, os.Chmod(at, 0o755))
	}
	path := filepath.Join(dir, "setuid")
	require.NoError(t, os.WriteFile(path, program, 0o755))
	require.NoError(t, os.Chmod(path, 0o755|os.ModeSetuid))
	cmd := exec.Command(path)
	cmd.Env = []string{modeName + "=privileged", fmt.Sprintf("%s=%s", process.CookieName, process.Cookie(os.Getpid()))}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	requests, w, err := os.Pipe()
	require.NoError(t, err)
	defer w.Close()
	r, results, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	cmd.ExtraFiles = []*os.File{requests, results}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Start()
	requests.Close()
	results.Close()
	require.NoError(t, err)
	said, err := io.ReadAll(r) // to its end
	require.NoError(t, err)
	_ = cmd.Wait()
	if strings.Contains(out.String(), "not a child: <nil>") || strings.Contains(out.String(), "not a child: process: New needs") {
		t.Skip("the file system of the temporary directory has no setuid bit")
	}
	require.Empty(t, said, "it has said hello")
	require.Contains(t, out.String(), "not a child: process: New called in a program that is setuid")
}

func TestTheLogHasTheStackOfAChildsPanic(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	pool, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	require.NoError(t, err)
	w := start(t, process.WithWorkers(1))
	h, err := pool.Submit(t.Context(), taskpool.Task{Name: "panics", Run: func(ctx context.Context) error {
		_, err := panics.Call(ctx, w, "text")
		return err
	}})
	require.NoError(t, err)
	err = h.Wait(t.Context())
	_, ok := errors.AsType[*taskpool.PanicError](err)
	require.True(t, ok, "%v", err)
	require.NoError(t, pool.Shutdown(t.Context()))
	require.Contains(t, log.String(), "stack=")
	require.Contains(t, log.String(), "process_test.go")
}
