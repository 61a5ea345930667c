//go:build unix && !aix

package faults_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

const (
	stopChild = "TASKPOOL_TEST_STOPPED_CHILD"
	stopBound = 600 * time.Millisecond // the child's shortest Heartbeat, and its hang grace
	stopFor   = 2 * time.Second
	stopTasks = 8 // of each kind
)

// The test runs its own binary as a child and stops that with SIGSTOP, for much
// longer than its tasks may be silent or outlive their contexts. For the child's
// clock all of that time has passed when it goes on.
func TestStoppedProcessJudgesNoTask(t *testing.T) {
	t.Parallel() // it mostly waits
	if os.Getenv(stopChild) != "" {
		stoppedChild(t)
		return
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^TestStoppedProcessJudgesNoTask$", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), stopChild+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { // of the errors each says that it has ended
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	said := func(what string) string {
		t.Helper()
		for lines.Scan() {
			if line := lines.Text(); strings.HasPrefix(line, "child: ") {
				require.Contains(t, line, what)
				return line
			}
		}
		require.Fail(t, "the child has ended", "waiting for %q", what)
		return ""
	}
	stops := pooltest.Times(3, 2)
	for range stops {
		said("at work")
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		var status syscall.WaitStatus
		_, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		require.NoError(t, err)
		require.True(t, status.Stopped())
		time.Sleep(stopFor) // real time, in which nothing can happen
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		_, err = io.WriteString(in, "went on\n")
		require.NoError(t, err)
	}
	said("at work")
	require.NoError(t, in.Close())
	said(fmt.Sprintf("%d stops, 0 false verdicts", stops))
	_, _ = io.Copy(io.Discard, out)
	require.NoError(t, cmd.Wait())
}

// stoppedChild runs tasks until its input ends, and counts those that are judged
// though they are healthy.
func stoppedChild(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2*stopTasks), taskpool.WithHangGrace(stopBound))
	var over atomic.Bool
	var verdicts atomic.Int64
	var signs [2 * stopTasks]chan struct{} // of progress; closed when there is none any more
	for i := range signs {
		signs[i] = make(chan struct{}, 1)
	}
	progressed := func(i int) {
		select {
		case signs[i] <- struct{}{}:
		default:
		}
	}
	// Each step of the work is a wake-up. So one that was stopped has steps to
	// go before it can show that it is alive. No two tasks take alike many, or a
	// stop would find them all at the same point. On a machine with much else to
	// do each wake-up comes late; so do those of the supervisor, of which there are
	// more before it judges a task.
	steps := func(n int) {
		for range n {
			<-time.After(8 * time.Millisecond)
		}
	}
	var all []*taskpool.Handle
	for i := range stopTasks {
		// After a stop all are watched anew from the same moment. So their times
		// differ, for the next stop to find some that have yet to give a sign.
		h := stopBound + time.Duration(i)*50*time.Millisecond
		all = append(all, pooltest.Submit(t, p, taskpool.Task{Heartbeat: h, Run: func(ctx context.Context) error {
			defer close(signs[i])
			for !over.Load() {
				steps(5 + i)
				taskpool.Beat(ctx)
				progressed(i)
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
			return nil
		}}))
	}
	down := make(chan struct{}, stopTasks)
	for i := range stopTasks { // tasks that outlive their contexts by some steps
		outlives := taskpool.Task{Timeout: time.Millisecond, Run: func(ctx context.Context) error {
			<-ctx.Done()
			steps(5 + i)
			return pooltest.ErrTask
		}}
		go func() {
			defer func() { down <- struct{}{} }()
			defer close(signs[stopTasks+i])
			for !over.Load() {
				h, err := p.Submit(context.Background(), outlives)
				if !assert.NoError(t, err) {
					return
				}
				err = h.Wait(context.Background())
				if errors.Is(err, taskpool.ErrHung) {
					verdicts.Add(1)
				}
				assert.ErrorIs(t, err, taskpool.ErrTimeout)
				progressed(stopTasks + i)
			}
		}()
	}
	// progress returns once every task has gone on.
	progress := func() {
		for range 5 { // the first may be an old sign
			for _, sign := range signs {
				<-sign
			}
		}
	}
	stops := 0
	progress()
	fmt.Println("child: at work")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); stops++ {
		progress()
		fmt.Println("child: at work")
	}
	over.Store(true)
	for range stopTasks {
		<-down
	}
	for _, h := range all {
		if err := h.Wait(context.Background()); err != nil {
			verdicts.Add(1)
		}
	}
	require.NoError(t, p.Shutdown(context.Background()))
	fmt.Printf("child: %d stops, %d false verdicts, %d hangs\n", stops, verdicts.Load(), p.Stats().Hangs)
	require.Zero(t, p.Stats().Hangs)
	require.Zero(t, verdicts.Load())
}
