//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A child is the program in a process of its own.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout bytes.Buffer
	lines  chan string // of its log; closed once it has exited
}

// launch starts the program. It is killed before the test ends, also if that is because
// it takes too long.
func launch(t *testing.T, args ...string) *child {
	t.Helper()
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-5*time.Second))
		t.Cleanup(cancel)
	}
	c := &child{t: t, cmd: exec.CommandContext(ctx, os.Args[0], args...), lines: make(chan string, 1000)}
	c.cmd.Env = append(os.Environ(), asProgram+"=1")
	c.cmd.Stdout = &c.stdout
	stderr, err := c.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	go func() {
		defer close(c.lines)
		for log := bufio.NewScanner(stderr); log.Scan(); {
			c.lines <- log.Text()
		}
		_ = c.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		c.rest()
	})
	return c
}

// waitFor returns the next line of the log that contains a text.
func (c *child) waitFor(text string) string {
	c.t.Helper()
	for line := range c.lines {
		if strings.Contains(line, text) {
			return line
		}
		c.t.Log(line)
	}
	require.Fail(c.t, "not in the log", "%s", text)
	return ""
}

// rest waits until the program has exited, and returns what is left of its log.
func (c *child) rest() (log string) {
	for line := range c.lines {
		log += line + "\n"
	}
	return log
}

// wait waits until the program has exited, and returns its status and the numbers that
// it has printed by the word after or before them.
func (c *child) wait() (status int, log string, n map[string]int) {
	log, n = c.rest(), make(map[string]int)
	for _, m := range regexp.MustCompile(`(enqueued|compressed) (\d+)|(\d+) (up to date|waiting|failed)`).FindAllStringSubmatch(c.stdout.String(), -1) {
		count, err := strconv.Atoi(m[2] + m[3])
		require.NoError(c.t, err)
		n[m[1]+m[4]] = count
	}
	return c.cmd.ProcessState.ExitCode(), log, n
}

func (c *child) requireOK() (n map[string]int) {
	c.t.Helper()
	status, log, n := c.wait()
	require.Equal(c.t, statusOK, status, log)
	require.Zero(c.t, n["failed"], log)
	return n
}

// A name of bytes that no JSON can hold, and a path that is too long, which keeps the
// superuser out as well.
func TestWhatCannotBeEnqueuedIsReportedAndTheOthersAre(t *testing.T) {
	tree, n := newTree(t)
	if os.WriteFile(filepath.Join(tree, "\xff"), nil, 0o644) != nil {
		t.Skip("the file system takes UTF-8 only")
	}
	root, err := os.OpenRoot(tree)
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, root.MkdirAll(strings.Repeat(strings.Repeat("d", 200)+"/", 25), 0o755))
	status, stdout, stderr := runHere("-out", t.TempDir(), tree)
	require.Equal(t, statusError, status)
	require.Contains(t, stdout, fmt.Sprintf("compressed %d files", n))
	require.Contains(t, stdout, "2 failed\n")
	require.Contains(t, stderr, "not UTF-8")
	require.Contains(t, stderr, syscall.ENAMETOOLONG.Error())
}

func TestTwoProcessesShareOneDatabase(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree, n := newTree(t)
		out := t.TempDir()
		producer := launch(t, flags(on, "-out", out, "-workers", "0", tree)...)
		require.Equal(t, n, producer.requireOK()["enqueued"])
		workers := []*child{launch(t, on...), launch(t, on...)}
		require.Equal(t, n, workers[0].requireOK()["compressed"]+workers[1].requireOK()["compressed"], "once each")
		requireComplete(t, tree, out, false)
	}, "sqlite", "postgres")
}

func TestProcessesMayStartAndEnqueueTheSameAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree, n := newTree(t)
		out := t.TempDir()
		var children []*child
		for range 3 {
			children = append(children, launch(t, flags(on, "-out", out, "-workers", "1", tree)...))
		}
		enqueued, compressed := 0, 0
		for _, c := range children {
			counts := c.requireOK()
			require.Equal(t, n, counts["enqueued"]+counts["up to date"]+counts["waiting"])
			enqueued += counts["enqueued"]
			compressed += counts["compressed"]
		}
		require.GreaterOrEqual(t, enqueued, n)
		require.Equal(t, enqueued, compressed)
		requireComplete(t, tree, out, false)
	}, "sqlite", "postgres")
}

// grow makes a file that takes longer to compress than a test takes to see it begun.
func grow(t *testing.T, path string) {
	t.Helper()
	write(t, path, "")
	require.NoError(t, os.Truncate(path, 64<<30)) // all holes
}

func TestAKilledProcessLosesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree, out := t.TempDir(), t.TempDir()
		grow(t, filepath.Join(tree, "big"))
		on = flags(on, "-out", out, "-workers", "1", "-timeout", "10s", "-v", tree)
		killed := launch(t, on...)
		killed.waitFor("msg=compressing")
		const n = 20
		for i := range n {
			write(t, filepath.Join(tree, fmt.Sprint(i)), fmt.Sprint(i))
		}
		other := launch(t, on...)
		other.waitFor("msg=compressing")
		require.NoError(t, killed.cmd.Process.Kill())
		killed.rest()
		require.Equal(t, -1, killed.cmd.ProcessState.ExitCode())
		write(t, filepath.Join(tree, "big"), "no more")

		counts := other.requireOK()
		require.Equal(t, n, counts["enqueued"])
		require.Equal(t, 1, counts["waiting"])
		require.Equal(t, n+1, counts["compressed"])
		requireComplete(t, tree, out, true)
	}, "sqlite", "postgres")
}

func TestSIGTERMLosesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree, out := t.TempDir(), t.TempDir()
		big := filepath.Join(tree, "big")
		grow(t, big)
		on = flags(on, "-out", out, "-workers", "1", "-timeout", "10m", "-grace", "10m", tree)
		first := launch(t, flags([]string{"-v"}, on...)...)
		first.waitFor("msg=compressing")
		const n = 20
		for i := range n {
			write(t, filepath.Join(tree, fmt.Sprint(i)), fmt.Sprint(i))
		}
		if on[1] != "local" {
			producer := launch(t, flags(on[:len(on)-1], "-workers", "0", tree)...)
			require.Equal(t, n, producer.requireOK()["enqueued"])
		}
		require.NoError(t, first.cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, os.Truncate(big, 1)) // to its reader this is the end of the file
		status, log, counts := first.wait()
		require.Equal(t, statusOK, status, log)
		require.Contains(t, log, "interrupted: run this again")
		require.Positive(t, counts["compressed"], "what was under way")

		second := launch(t, on...).requireOK()
		// Big was done once more, unless the end of it came before it was opened. So may others
		// be, which the second process has found undone and finished before it enqueued them.
		require.GreaterOrEqual(t, counts["compressed"]+second["compressed"], n+1)
		requireComplete(t, tree, out, false)
	}, "local", "sqlite", "postgres")
}

func TestWhatAStopCutsOffIsDoneByTheNextRun(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree, out := t.TempDir(), t.TempDir()
		grow(t, filepath.Join(tree, "big"))
		on = flags(on, "-out", out, "-timeout", "10m", "-grace", "10ms", "-v", tree)
		first := launch(t, on...)
		first.waitFor("msg=compressing")
		require.NoError(t, first.cmd.Process.Signal(os.Interrupt))
		status, log, _ := first.wait()
		require.Equal(t, statusError, status, log)
		require.Contains(t, log, "out of patience, see -grace")

		write(t, filepath.Join(tree, "big"), "no more")
		second := launch(t, on...)
		require.Contains(t, second.waitFor("msg=compressing"), "attempt=1", "the attempt does not count")
		require.Equal(t, 1, second.requireOK()["compressed"])
		requireComplete(t, tree, out, false)
	}, "local", "sqlite", "postgres")
}
