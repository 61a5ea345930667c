//go:build unix

package process_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
	"github.com/taskpool-go/taskpool/process"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func init() {
	programs["parent"] = func() {
		process.Main()
		go func() { // do not outlive a test that was stopped
			_, _ = io.ReadAll(os.Stdin)
			os.Exit(1)
		}()
		w, err := process.New(process.WithWorkers(4))
		if err != nil {
			panic(err)
		}
		ctx := context.Background()
		for _, way := range []string{"ignores TERM", "spins", "stopped"} {
			go linger.Call(ctx, w, way)
		}
		// The fourth is idle, and has started something.
		id, err := family.Call(ctx, w, false)
		for w.Stats().Busy < 3 {
			runtime.Gosched()
		}
		// A child that stops after the parent has died, and before it knows, stays
		// stopped; the kernel wakes those that have stopped by then.
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(-1, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
			panic(fmt.Sprint("no child has stopped: ", err, status))
		}
		fmt.Println("ready", id, err)
		select {}
	}
	programs["no Main"] = func() {
		_, err := process.New()
		fmt.Println(err)
	}
	programs["Main"] = func() {
		process.Main()
		process.Main()
		fmt.Println("Main returned")
	}
}

// run runs this test binary in a mode, with more variables.
func run(t *testing.T, mode string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), modeName+"="+mode), env...)
	return cmd
}

// The children have the parent's standard output, so its end is when the last of
// them, and of what they have started, has gone.
func TestTheChildrenDieWithTheParent(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		cmd := run(t, "parent")
		_, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewReader(out)
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Regexp(t, `^ready \d+ <nil>`, line)
		began := time.Now()
		require.NoError(t, cmd.Process.Signal(sig))
		rest, err := io.ReadAll(lines)
		require.NoError(t, err)
		require.Empty(t, rest)
		t.Logf("%v: gone after %v", sig, time.Since(began))
		require.Error(t, cmd.Wait())
	}
}

func TestStartNeedsMain(t *testing.T) {
	out, err := run(t, "no Main").Output()
	require.NoError(t, err)
	require.Equal(t, "process: New needs a call of process.Main before it, first in main or TestMain\n", string(out))
}

func TestMainReturnsInAParent(t *testing.T) {
	out, err := run(t, "Main").Output()
	require.NoError(t, err)
	require.Equal(t, "Main returned\n", string(out))
}

// A process that got the variable from elsewhere is no child.
func TestMainRefusesAProcessThatOnlySeemsToBeAChild(t *testing.T) {
	for cookie, want := range map[string]string{
		"2 1 65536 0 0":                         `process: TASKPOOL_PROCESS="2 1 65536 0 0": this is not a child of process 1 (it was inherited, or that process has died)`,
		"":                                      `process: TASKPOOL_PROCESS="": EOF`,
		fmt.Sprint("0 ", os.Getpid(), " 1 0 0"): "protocol version 0, this program speaks 2",
	} {
		cmd := run(t, "Main", "TASKPOOL_PROCESS="+cookie)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.Empty(t, out)
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 2, exit.ExitCode())
		require.Contains(t, stderr.String(), want)
	}
}

// A program that is replaced on disk while it runs still starts children of its own
// build.
func TestAReplacedProgramStartsChildrenOfItsOwnBuild(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux knows a running program's file when that has been replaced")
	}
	path := filepath.Join(t.TempDir(), "program")
	program, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, program, 0o700))
	cmd := run(t, "replaced")
	cmd.Path = path
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/false\n"), 0o700))
	require.NoError(t, in.Close())
	line, err = lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "3 <nil>\n", line)
	require.NoError(t, cmd.Wait())
}

func init() {
	programs["replaced"] = func() {
		process.Main()
		fmt.Println("ready")
		_, _ = io.ReadAll(os.Stdin)
		w, err := process.New(process.WithWorkers(1))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(add.Call(context.Background(), w, point{1, 2}))
		_ = w.Shutdown(context.Background())
	}
}

// openFiles returns how many descriptors this process has open.
func openFiles(t *testing.T) int {
	t.Helper()
	for _, dir := range []string{"/proc/self/fd", "/dev/fd"} {
		if files, err := os.ReadDir(dir); err == nil {
			return len(files)
		}
	}
	t.Skip("descriptors cannot be counted here")
	return 0
}

func TestThousandsOfChildLivesLeaveNothing(t *testing.T) {
	lives := pooltest.Times(10_000, 300)
	w := start(t, process.WithWorkers(4), process.WithMaxCalls(1))
	var wg sync.WaitGroup
	work := make(chan int)
	for range 4 {
		wg.Go(func() {
			for i := range work {
				if i%10 == 0 {
					_, _ = die.Call(context.Background(), w, order{How: "exit"})
					continue
				}
				sum, err := add.Call(context.Background(), w, point{i, 1})
				if err != nil || sum != i+1 {
					t.Errorf("%d: %d, %v", i, sum, err)
				}
			}
		})
	}
	for range 8 {
		work <- 1 // some of what there is to be
	}
	for w.Stats().Idle < 4 {
		runtime.Gosched()
	}
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	for i := range lives {
		work <- i
	}
	close(work)
	wg.Wait()
	for w.Stats().Idle < 4 {
		runtime.Gosched()
	}
	require.GreaterOrEqual(t, w.Stats().Started, uint64(lives))
	require.LessOrEqual(t, openFiles(t), files+4, "descriptors") // a worker told to exit may still be on its way
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+8)
	shutdown(t, w)
	// Nobody is left to be waited for.
	var status syscall.WaitStatus
	_, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	require.Equal(t, syscall.ECHILD, err)
}

// A beating task is one that package process takes for a task of a pool, and its
// heart is asked for a beat whenever it has given one.
type beatingTask struct {
	context.Context
	due   chan struct{}
	beats chan struct{}
}

func (b *beatingTask) BeatDue() <-chan struct{}        { return b.due }
func (b *beatingTask) Urgency() (int, <-chan struct{}) { return 0, nil }
func (b *beatingTask) Beat()                           { b.beats <- struct{}{} }
func (b *beatingTask) Value(key any) any {
	switch key {
	case remote.WaiterKey, remote.WorkerKey:
		return b
	}
	return b.Context.Value(key)
}

var beat = process.Register("beat", func(ctx context.Context, how string) (int, error) {
	n := 0
	for ctx.Err() == nil {
		if n++; how == "Yield" {
			if taskpool.Yield(ctx) != nil {
				break
			}
		} else if how == "Beat" {
			taskpool.Beat(ctx)
		}
		runtime.Gosched()
	}
	return n, nil
})

func TestYieldAndBeatInAChildAreSignsOfLifeOfTheCallingTask(t *testing.T) {
	w := start(t, process.WithWorkers(1), process.WithKillGrace(patience))
	for _, how := range []string{"Yield", "Beat"} {
		ctx, cancel := context.WithCancel(context.Background())
		task := &beatingTask{ctx, make(chan struct{}), make(chan struct{}, 1)}
		done := make(chan error)
		go func() {
			_, err := beat.Call(task, w, how)
			done <- err
		}()
		// A child that computes looks at its pipe every ten milliseconds or so.
		for range 20 {
			task.due <- struct{}{}
			<-task.beats
		}
		select {
		case <-task.beats:
			t.Error("a beat that nobody asked for")
		default:
		}
		cancel()
		require.NoError(t, <-done)
	}
}

func TestATaskWhoseChildGivesNoSignOfLifeIsHung(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(quiet))
	require.NoError(t, err)
	defer p.Shutdown(context.Background())
	h, err := p.Submit(context.Background(), taskpool.Task{
		Heartbeat: 50 * time.Millisecond,
		Run: func(ctx context.Context) error {
			_, err := beat.Call(ctx, w, "never")
			if err == nil {
				err = context.Cause(ctx)
			}
			return err
		},
	})
	require.NoError(t, err)
	require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrHung)
}

func TestWaitingForAChildIsNoSilence(t *testing.T) {
	w := start(t, process.WithWorkers(1), process.WithKillGrace(patience))
	busy, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = meet.Call(busy, w, none{}) })
	for w.Stats().Busy == 0 {
		runtime.Gosched()
	}
	task := &beatingTask{context.Background(), make(chan struct{}), make(chan struct{}, 1)}
	wg.Go(func() {
		sum, err := add.Call(task, w, point{1, 2})
		require.NoError(t, err)
		require.Equal(t, 3, sum)
	})
	for range 10 {
		task.due <- struct{}{}
		<-task.beats
	}
	require.Equal(t, 1, w.Stats().Waiting)
	release()
	wg.Wait()
}
