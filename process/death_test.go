//go:build unix

package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/process"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// An order tells the function die what to do: to die of How, or to return N+1.
type order struct {
	How string
	N   int
}

// memoryLimit is what the tests allow a child that is to break it.
const memoryLimit = 128 << 20

var die = process.Register("die", func(ctx context.Context, o order) (int, error) {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) // leave no core file
	switch o.How {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "abort", "bus", "fpe", "illegal", "segv", "sys", "trap", "quit":
		_ = syscall.Kill(os.Getpid(), deadlySignals[o.How])
	case "address space":
		if err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
			return 0, err
		}
		var all [][]byte
		for {
			all = append(all, make([]byte, 64<<20))
			runtime.KeepAlive(all)
		}
	case "exit":
		os.Exit(7)
	case "nil map":
		go func() { // in the function's own goroutine it would come back as a panic
			var m map[string]int
			//lint:ignore SA5000 it is to panic
			m["a"] = 1
		}()
	case "segfault":
		page, err := syscall.Mmap(-1, 0, os.Getpagesize(), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return 0, err
		}
		address := &page[0]
		if err := syscall.Munmap(page); err != nil {
			return 0, err
		}
		*address = 1
	case "stack":
		debug.SetMaxStack(16 << 20)
		return recurse(o.N), nil
	case "memory":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 1 << 10 {
				b[i] = 1
			}
			all = append(all, b)
			if len(all) == memoryLimit>>20+32 {
				<-ctx.Done()
				runtime.KeepAlive(all)
			}
		}
	default:
		return o.N + 1, nil
	}
	<-ctx.Done() // death comes from elsewhere
	return 0, ctx.Err()
})

//lint:ignore SA5007 it is to exhaust the stack
func recurse(n int) int { return recurse(n+1) + 1 }

// deadlySignals are signals that a process can send itself. The runtime takes them as
// it takes those of a crash in C.
var deadlySignals = map[string]syscall.Signal{
	"abort": syscall.SIGABRT, "bus": syscall.SIGBUS, "fpe": syscall.SIGFPE, "illegal": syscall.SIGILL,
	"segv": syscall.SIGSEGV, "sys": syscall.SIGSYS, "trap": syscall.SIGTRAP, "quit": syscall.SIGQUIT,
}

// deaths are the ways to die, with the signal and the exit code that they come to.
var deaths = map[string]struct {
	signal os.Signal
	code   int
	text   string
}{
	"kill":     {syscall.SIGKILL, -1, `died of signal "killed"`},
	"exit":     {nil, 7, "exited with code 7"},
	"nil map":  {nil, 2, "exited with code 2: panic: assignment to entry in nil map"},
	"segfault": {nil, 2, "exited with code 2: fatal error: fault (unexpected fault address 0x"},
	"abort":    {nil, 2, "exited with code 2: SIGABRT: abort"},
	"bus":      {nil, 2, "exited with code 2: SIGBUS: bus error"},
	"fpe":      {nil, 2, "exited with code 2: SIGFPE: floating-point exception"},
	"illegal":  {nil, 2, "exited with code 2: SIGILL: illegal instruction"},
	"segv":     {nil, 2, "exited with code 2: SIGSEGV: segmentation violation"},
	"sys":      {nil, 2, "exited with code 2: SIGSYS: bad system call"},
	"trap":     {nil, 2, "exited with code 2: SIGTRAP: trace trap"},
	"quit":     {nil, 2, "exited with code 2: SIGQUIT: quit"},
	"stack":    {nil, 2, "exited with code 2: fatal error: stack overflow"},
	"memory":   {syscall.SIGKILL, -1, "above the memory limit"},
}

// requireDeath checks that err says truly what a child died of.
func requireDeath(t *testing.T, err error, how string) *process.ExitError {
	t.Helper()
	var e *process.ExitError
	require.ErrorAs(t, err, &e)
	want := deaths[how]
	require.Equal(t, "die", e.Func)
	require.NotZero(t, e.PID)
	require.Equal(t, want.signal, e.Signal, "%v", err)
	require.Equal(t, want.code, e.Code, "%v", err)
	require.ErrorContains(t, err, want.text)
	require.Equal(t, how == "memory", errors.Is(err, process.ErrMaxMemory), "%v", err)
	return e
}

func TestAChildThatFindsNoAddressSpaceSaysSo(t *testing.T) {
	if raceEnabled || runtime.GOOS != "linux" {
		t.Skip("the race detector, or another system, does not bear a limit of address space")
	}
	w := start(t, process.WithWorkers(1))
	require.ErrorContains(t, fails(t, w, die, order{How: "address space"}), "exited with code 2: fatal error: out of memory (runtime: out of memory: ")
}

// GOTRACEBACK=crash has all threads tell of themselves, and ends with an abort.
func TestAChildThatDumpsCoreSaysOfWhatItDied(t *testing.T) {
	t.Parallel()
	w := start(t, process.WithWorkers(1), process.WithEnv("GOTRACEBACK=crash"))
	for how, want := range map[string]string{
		"segv": "SIGSEGV: segmentation violation", "nil map": "panic: assignment to entry in nil map", "quit": "SIGQUIT: quit",
	} {
		require.ErrorContains(t, fails(t, w, die, order{How: how}), `died of signal "aborted": `+want)
	}
}

func TestTheCallWhoseChildDiedFailsAndSaysOfWhat(t *testing.T) {
	t.Parallel()
	w := start(t, process.WithWorkers(1), process.WithMaxMemory(memoryLimit))
	for how := range deaths {
		id := call(t, w, pid, none{})
		e := requireDeath(t, fails(t, w, die, order{How: how}), how)
		require.Equal(t, id, e.PID)
		require.NotEqual(t, id, call(t, w, pid, none{}), "%s: the child is replaced", how)
	}
	s := w.Stats()
	require.EqualValues(t, len(deaths)+1, s.Started)
	require.EqualValues(t, len(deaths)-1, s.Died)
	require.EqualValues(t, 1, s.Killed, "for its memory")
	require.Zero(t, s.StartFailures)
}

// One call in twenty kills its child, in all ways there are.
func TestExactlyTheCallsWhoseChildrenDiedFail(t *testing.T) {
	t.Parallel()
	const workers = 4
	calls := pooltest.Times(10_000, 1000)
	var hows []string
	for how := range deaths {
		hows = append(hows, how)
	}
	w := start(t, process.WithWorkers(workers), process.WithMaxMemory(memoryLimit))
	p, err := taskpool.New(taskpool.WithWorkers(2 * workers))
	require.NoError(t, err)
	defer p.Shutdown(context.Background())

	errs := make([]error, calls)
	results := make([]int, calls)
	orders := make([]order, calls)
	deadly := 0
	var wg sync.WaitGroup
	for i := range calls {
		orders[i].N = i
		if i%20 == 7 {
			orders[i].How = hows[deadly%len(hows)]
			deadly++
		}
		wg.Add(1)
		require.NoError(t, p.Go(taskpool.Medium, func() {
			defer wg.Done()
			results[i], errs[i] = die.Call(context.Background(), w, orders[i])
		}))
	}
	wg.Wait()
	for i, o := range orders {
		if o.How == "" {
			require.NoError(t, errs[i], "call %d", i)
			require.Equal(t, i+1, results[i])
		} else {
			requireDeath(t, errs[i], o.How)
		}
	}
	// As many children as before: all of them answer at once.
	require.Len(t, livePIDs(t, w, workers), workers)
	s := w.Stats()
	require.EqualValues(t, deadly, s.Died+s.Killed)
	require.EqualValues(t, deadly+workers, s.Started)
	require.Zero(t, s.StartFailures)
	t.Logf("%d calls, %d children died", calls, deadly)
}

var meet = process.Register("meet", func(ctx context.Context, _ none) (int, error) {
	<-ctx.Done()
	return os.Getpid(), nil
})

// livePIDs has n children at work at the same time, and returns which they are.
func livePIDs(t *testing.T, w *process.Pool, n int) map[int]bool {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pids := make([]int, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { pids[i], errs[i] = meet.Call(ctx, w, none{}) })
	}
	for w.Stats().Busy < n {
		runtime.Gosched()
	}
	cancel()
	wg.Wait()
	set := map[int]bool{}
	for i, id := range pids {
		require.NoError(t, errs[i])
		set[id] = true
	}
	return set
}

// A child that has died, or is about to, may be given a call before that is known.
// It has not read the request then, and another child does the work.
func TestACallThatItsChildHasNotReadGoesToAnother(t *testing.T) {
	t.Parallel()
	w := start(t, process.WithWorkers(1))
	killed := func(do func()) {
		id := call(t, w, pid, none{})
		stop(t, id)
		made := w.Stats().Calls
		done := make(chan struct{})
		go func() {
			defer close(done)
			for w.Stats().Calls == made {
				runtime.Gosched()
			}
			_ = syscall.Kill(id, syscall.SIGKILL)
		}()
		do()
		<-done
	}
	rounds := max(pooltest.Times(20, 10), 5)
	for range rounds {
		killed(func() { require.Equal(t, 3, call(t, w, add, point{1, 2})) })
		// More than the pipe takes: Call is writing it when the child dies.
		killed(func() { require.Equal(t, 3<<20, call(t, w, size, make([]byte, 3<<20))) })
	}
	require.EqualValues(t, 2*rounds, w.Stats().Died)
}

// stop stops a child, and returns when none of its threads moves any more.
func stop(t *testing.T, id int) {
	t.Helper()
	require.NoError(t, syscall.Kill(id, syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(id, &status, syscall.WUNTRACED, nil)
	require.NoError(t, err)
	require.True(t, status.Stopped())
}

func TestChildrenKilledAtRandomFailNoMoreCallsThanTheyWere(t *testing.T) {
	t.Parallel()
	const workers = 2
	w := start(t, process.WithWorkers(workers))
	kills := 0
	var killer sync.WaitGroup
	victims := make(chan int, 1)
	killer.Go(func() {
		for id := range victims {
			if syscall.Kill(id, syscall.SIGKILL) == nil {
				kills++
			}
		}
	})
	r := rand.New(rand.NewPCG(1, 2))
	failed := 0
	for i := range pooltest.Times(2000, 2000) {
		id, err := pid.Call(context.Background(), w, none{})
		if err != nil {
			var e *process.ExitError
			require.ErrorAs(t, err, &e)
			require.Equal(t, syscall.SIGKILL, e.Signal)
			failed++
			continue
		}
		if i%20 == 0 {
			select {
			case victims <- id:
			default:
			}
		}
		for range r.IntN(50) {
			runtime.Gosched()
		}
	}
	close(victims)
	killer.Wait()
	require.LessOrEqual(t, failed, kills)
	t.Logf("%d kills, %d calls failed", kills, failed)
}

// A way is a function's way to take the end of its context.
var linger = process.Register("linger", func(ctx context.Context, way string) (string, error) {
	switch way {
	case "returns the cause":
		<-ctx.Done()
		return "", context.Cause(ctx)
	case "returns Err":
		<-ctx.Done()
		return "", ctx.Err()
	case "succeeds":
		<-ctx.Done()
		return "done", nil
	case "deadline":
		d, ok := ctx.Deadline()
		return fmt.Sprint(ok, time.Until(d) > time.Minute), nil
	case "on TERM": // ends when it is told to
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "got", <-c)
		os.Exit(9)
	case "ignores TERM":
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "spins":
		signal.Ignore(syscall.SIGTERM)
		//lint:ignore SA5002 it is to be killed
		for {
		}
	case "stopped":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {} // this thread may go on for a moment
	}
	return "", nil
})

// canceled calls linger, and ends its context with the cause once it is at work.
func canceled(t *testing.T, w *process.Pool, way string, cause error) (string, error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	calls := w.Stats().Calls
	go func() {
		for w.Stats().Calls == calls {
			runtime.Gosched()
		}
		cancel(cause)
	}()
	return linger.Call(ctx, w, way)
}

func TestTheFunctionsContextEndsWithTheCallers(t *testing.T) {
	w := start(t, process.WithWorkers(1), process.WithKillGrace(patience))
	id := call(t, w, pid, none{})

	_, err := canceled(t, w, "returns the cause", &inputError{3})
	require.Equal(t, &inputError{3}, err, "the cause has gone there and come back")
	_, err = canceled(t, w, "returns the cause", taskpool.ErrTimeout)
	require.Equal(t, taskpool.ErrTimeout, err)
	_, err = canceled(t, w, "returns the cause", panicky{})
	require.ErrorContains(t, err, "the cause's methods panicked")
	_, err = canceled(t, w, "returns Err", errors.New("enough"))
	require.Equal(t, context.Canceled, err)
	out, err := canceled(t, w, "succeeds", errors.New("enough"))
	require.NoError(t, err)
	require.Equal(t, "done", out)

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err = linger.Call(ctx, w, "deadline")
	require.NoError(t, err)
	require.Equal(t, "true true", out)
	require.Equal(t, "false false", call(t, w, linger, "deadline"))

	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = linger.Call(ctx, w, "returns Err")
	require.Equal(t, context.DeadlineExceeded, err)

	require.Equal(t, id, call(t, w, pid, none{}), "no child was harmed")
}

// An endingContext ends when somebody begins to watch it.
type endingContext struct {
	context.Context
	cancel context.CancelCauseFunc
}

func (c *endingContext) Done() <-chan struct{} {
	c.cancel(&inputError{4})
	return c.Context.Done()
}

func TestTheEndOfTheContextDoesNotOvertakeTheRequest(t *testing.T) {
	t.Parallel()
	w := start(t, process.WithWorkers(1), process.WithKillGrace(patience))
	for range 1000 {
		ctx, cancel := context.WithCancelCause(context.Background())
		_, err := linger.Call(&endingContext{ctx, cancel}, w, "returns the cause")
		require.Equal(t, &inputError{4}, err)
	}
}

func TestACallWithAnEndedContextIsNotMade(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(&inputError{1})
	_, err := add.Call(ctx, w, point{})
	require.Equal(t, &inputError{1}, err)
	require.Zero(t, w.Stats().Calls)
}

func TestAFunctionThatIgnoresTheEndOfItsContextIsKilled(t *testing.T) {
	t.Parallel()
	cause := errors.New("enough")
	for way, want := range map[string]struct {
		signal os.Signal
		code   int
	}{
		"on TERM":      {nil, 9},
		"ignores TERM": {syscall.SIGKILL, -1},
		"spins":        {syscall.SIGKILL, -1},
		"stopped":      {syscall.SIGKILL, -1},
	} {
		t.Run(way, func(t *testing.T) {
			// SIGTERM may come before the function is ready for it, and SIGKILL before the child
			// has heeded the other: then there is more time.
			for grace := 20 * time.Millisecond; ; grace *= 4 {
				w := start(t, process.WithWorkers(1), process.WithKillGrace(grace))
				id := call(t, w, pid, none{})
				_, err := canceled(t, w, way, cause)
				var e *process.ExitError
				require.ErrorAs(t, err, &e)
				require.ErrorIs(t, err, cause)
				require.Equal(t, id, e.PID)
				require.Equal(t, "linger", e.Func)
				require.ErrorIs(t, syscall.Kill(id, 0), syscall.ESRCH, "it is really gone")
				require.NotEqual(t, id, call(t, w, pid, none{}))
				require.EqualValues(t, 1, w.Stats().Killed)
				if e.Signal != want.signal && (e.Signal == syscall.SIGTERM || want.signal == nil) && grace < patience {
					shutdown(t, w)
					continue
				}
				require.Equal(t, want.signal, e.Signal, "%v", err)
				require.Equal(t, want.code, e.Code, "%v", err)
				return
			}
		})
	}
}

func TestWithoutAKillGraceTheChildIsKilledAtOnce(t *testing.T) {
	w := start(t, process.WithWorkers(1), process.WithKillGrace(0))
	_, err := canceled(t, w, "ignores TERM", context.Canceled)
	var e *process.ExitError
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, context.Canceled)
}

func TestACallerThatWaitsForAChildMayGiveUp(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	busy, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = meet.Call(busy, w, none{}) })
	for w.Stats().Busy == 0 {
		runtime.Gosched()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	wg.Go(func() {
		_, err := add.Call(ctx, w, point{})
		require.Equal(t, &inputError{2}, err)
	})
	for w.Stats().Waiting == 0 {
		runtime.Gosched()
	}
	cancel(&inputError{2})
	for w.Stats().Waiting == 1 {
		runtime.Gosched()
	}
	release()
	wg.Wait()
	require.Equal(t, 3, call(t, w, add, point{1, 2}))
	require.EqualValues(t, 2, w.Stats().Calls)
}

// family starts a process that holds standard error open, and tells its number.
var family = process.Register("family", func(ctx context.Context, wait bool) (int, error) {
	cmd := exec.Command("sleep", "1000")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if wait {
		fmt.Fprintln(os.Stderr, "started", cmd.Process.Pid)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return cmd.Process.Pid, nil
})

// awaitDeath waits until a process that is not a child of this one has gone.
func awaitDeath(t *testing.T, id int) {
	t.Helper()
	for began := time.Now(); ; runtime.Gosched() {
		if err := syscall.Kill(id, 0); errors.Is(err, syscall.ESRCH) || zombie(id) {
			return
		}
		require.Less(t, time.Since(began), patience, "process %d is still there", id)
	}
}

// zombie reports whether a process has died, but its parent, not this one, has not
// noticed. It knows that on Linux only.
func zombie(id int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
	_, after, _ := bytes.Cut(text, []byte(") "))
	return err == nil && bytes.HasPrefix(after, []byte("Z"))
}

func TestWhatAChildHasStartedEndsWithIt(t *testing.T) {
	t.Parallel()
	w := start(t, process.WithWorkers(1))
	var e *process.ExitError
	require.ErrorAs(t, fails(t, w, family, true), &e)
	var id int
	_, err := fmt.Sscanf(string(e.Stderr), "started %d", &id)
	require.NoError(t, err, "%q", e.Stderr)
	awaitDeath(t, id)

	id = call(t, w, family, false)
	require.NoError(t, syscall.Kill(id, 0), "it lives as long as the child")
	shutdown(t, w)
	awaitDeath(t, id)
}

var groups = process.Register("groups", func(context.Context, none) ([2]int, error) {
	return [2]int{os.Getpid(), syscall.Getpgrp()}, nil
})

// The terminal sends Ctrl-C to the foreground group, which is the parent's.
func TestAChildLeadsAProcessGroupOfItsOwn(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	ids := call(t, w, groups, none{})
	require.Equal(t, ids[0], ids[1])
	require.NotEqual(t, syscall.Getpgrp(), ids[1])
}

func TestAChildIsReplacedAfterItsCalls(t *testing.T) {
	w := start(t, process.WithWorkers(1), process.WithMaxCalls(3))
	var ids []int
	for range 9 {
		ids = append(ids, call(t, w, pid, none{}))
	}
	for i, id := range ids {
		require.Equal(t, i%3 != 0, i > 0 && id == ids[i-1], "%v", ids)
	}
	s := w.Stats()
	require.EqualValues(t, 3, s.Worn)
	require.Zero(t, s.Died)
	require.Zero(t, s.Killed)
}

var hoard = process.Register("hoard", func(_ context.Context, n int) (int, error) {
	hoarded = make([]byte, n)
	for i := range hoarded {
		hoarded[i] = 1
	}
	return os.Getpid(), nil
})

var hoarded []byte

func TestAChildAboveItsMemoryIsReplacedAfterTheCall(t *testing.T) {
	t.Parallel()
	// One call is too short to be looked at meanwhile, or it is killed: then it was
	// longer than that.
	w := start(t, process.WithWorkers(1), process.WithMaxMemory(memoryLimit))
	id := call(t, w, hoard, 1<<20)
	require.Equal(t, id, call(t, w, pid, none{}))
	_, err := hoard.Call(context.Background(), w, memoryLimit+64<<20)
	require.True(t, err == nil || errors.Is(err, process.ErrMaxMemory), "%v", err)
	require.NotEqual(t, id, call(t, w, pid, none{}))
	s := w.Stats()
	require.EqualValues(t, 1, s.Worn+s.Killed)
}

var babble = process.Register("babble", func(ctx context.Context, n int) (none, error) {
	for i := range n {
		fmt.Fprintf(os.Stderr, "line %d\n", i)
	}
	os.Exit(5)
	return none{}, nil
})

func TestAnExitErrorHasTheEndOfStandardError(t *testing.T) {
	t.Parallel()
	var all bytes.Buffer
	w, err := process.New(process.WithWorkers(1), process.WithStderr(&all))
	require.NoError(t, err)
	var e *process.ExitError
	const lines = 100_000
	require.ErrorAs(t, fails(t, w, babble, lines), &e)
	require.Len(t, e.Stderr, 64<<10)
	require.True(t, bytes.HasSuffix(e.Stderr, fmt.Appendf(nil, "line %d\n", lines-1)))
	require.ErrorContains(t, e, fmt.Sprintf("exited with code 5: line %d", lines-1))
	shutdown(t, w)
	require.Equal(t, lines, bytes.Count(all.Bytes(), []byte("\n")))
}

var crash = process.Register("crash", func(ctx context.Context, n int) (none, error) {
	fmt.Fprintln(os.Stderr, "panic: not yet")
	fmt.Fprintln(os.Stderr, "fatal error: too much")
	for i := range n {
		fmt.Fprintf(os.Stderr, "goroutine %d\n", i)
	}
	os.Exit(2)
	return none{}, nil
})

// The runtime says why first, and then prints all goroutines.
func TestAnExitErrorSaysWhyHoweverMuchFollows(t *testing.T) {
	t.Parallel()
	w := start(t, process.WithWorkers(1))
	for _, n := range []int{0, 100, 1000, 10_000, 50_000} {
		require.ErrorContains(t, fails(t, w, crash, n), "exited with code 2: fatal error: too much")
	}
}

var procs = process.Register("procs", func(context.Context, none) (int, error) { return runtime.GOMAXPROCS(0), nil })

func TestTheChildrenShareTheProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(5))
	for workers, want := range map[int]int{1: 5, 2: 2, 5: 1, 6: 1} {
		require.Equal(t, want, call(t, start(t, process.WithWorkers(workers)), procs, none{}), "%d workers", workers)
	}
	w := start(t, process.WithWorkers(2), process.WithEnv("GOMAXPROCS=3"))
	require.Equal(t, 3, call(t, w, procs, none{}))
}

var memoryLimitOfGo = process.Register("memoryLimitOfGo", func(context.Context, none) (int64, error) {
	return debug.SetMemoryLimit(-1), nil
})

func TestTheRuntimeOfAChildKnowsItsMemoryLimit(t *testing.T) {
	limit := process.WithMaxMemory(memoryLimit)
	require.EqualValues(t, memoryLimit/10*9, call(t, start(t, process.WithWorkers(1), limit), memoryLimitOfGo, none{}))
	w := start(t, process.WithWorkers(1), limit, process.WithEnv("GOMEMLIMIT=100MiB"))
	require.EqualValues(t, 100<<20, call(t, w, memoryLimitOfGo, none{}))
}

// A beginning is what a child finds when it begins.
type beginning struct {
	Args  int
	Stdin string
	Dir   string
}

var begins = process.Register("begins", func(context.Context, none) (beginning, error) {
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return beginning{}, err
	}
	dir, err := os.Getwd()
	return beginning{len(os.Args), string(stdin), dir}, err
})

func TestAChildHasNoArgumentsAndNoInputAndTheParentsDirectory(t *testing.T) {
	dir, err := os.Getwd()
	require.NoError(t, err)
	require.Equal(t, beginning{1, "", dir}, call(t, start(t, process.WithWorkers(1)), begins, none{}))
}

// A soloWriter notices calls that overlap.
type soloWriter struct {
	busy, overlaps, n atomic.Int64
}

func (s *soloWriter) Write(p []byte) (int, error) {
	if s.busy.Add(1) > 1 {
		s.overlaps.Add(1)
	}
	runtime.Gosched()
	s.n.Add(int64(len(p)))
	s.busy.Add(-1)
	return len(p), nil
}

func TestTheChildrenWriteToStandardErrorOneAtATime(t *testing.T) {
	t.Parallel()
	var solo soloWriter
	w := start(t, process.WithWorkers(3), process.WithStderr(&solo))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { _, _ = babble.Call(context.Background(), w, 10_000) })
	}
	wg.Wait()
	shutdown(t, w)
	require.Zero(t, solo.overlaps.Load())
	require.EqualValues(t, 3*len("line 0000\n")*10_000-3*(10*3+90*2+900), solo.n.Load())
}

// A badWriter fails, or panics.
type badWriter struct{ panics bool }

func (b badWriter) Write([]byte) (int, error) {
	if b.panics {
		panic("in Write")
	}
	return 0, errors.New("disk full")
}

func TestAWriterForStandardErrorThatFailsHarmsNobody(t *testing.T) {
	t.Parallel()
	for _, bad := range []badWriter{{false}, {true}} {
		w := start(t, process.WithWorkers(1), process.WithStderr(bad))
		var e *process.ExitError
		require.ErrorAs(t, fails(t, w, babble, 1000), &e)
		require.ErrorContains(t, e, "line 999")
		require.Equal(t, 3, call(t, w, add, point{1, 2}))
	}
}

func TestStartSaysWhyAChildCannotBeStarted(t *testing.T) {
	t.Parallel()
	_, err := process.New(process.WithWorkers(2), process.WithEnv(modeName+"=exit"), process.WithStderr(io.Discard))
	var e *process.ExitError
	require.ErrorAs(t, err, &e)
	require.Equal(t, 3, e.Code)
	require.Regexp(t, `^process: child \d+ exited with code 3 before any call: configuration is missing$`, err.Error())

	_, err = process.New(process.WithWorkers(1), process.WithEnv(modeName+"=deaf"), process.WithStartTimeout(100*time.Millisecond))
	require.ErrorContains(t, err, "was not ready within 100ms: does the program call process.Main first?")
}

func TestAChildThatCannotBeUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	for way, want := range map[string]string{
		"version": "it speaks protocol version 3, not 2",
		"build":   `it is another build: "another build", not "`,
		"kind":    "malformed frame: kind 8 in place of a hello",
		"empty":   "malformed frame: hello without a version",
	} {
		_, err := process.New(process.WithWorkers(1), process.WithEnv(process.HelloName+"="+way))
		require.ErrorContains(t, err, want)
		require.Regexp(t, `^process: child \d+: `, err.Error())
	}
}

func TestCallsSayWhyNoChildCanBeStarted(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "broken")
	w := start(t, process.WithWorkers(2), process.WithEnv(flagName+"="+broken))
	id := call(t, w, pid, none{})
	require.NoError(t, os.WriteFile(broken, nil, 0o600))
	ids := livePIDs(t, w, 2)
	require.True(t, ids[id])
	for id := range ids {
		require.NoError(t, syscall.Kill(id, syscall.SIGKILL))
	}
	// The first may wait until it is hopeless, or find a dying child.
	var err error
	for err == nil || !strings.Contains(err.Error(), "before any call: broken") {
		_, err = add.Call(context.Background(), w, point{})
		require.Error(t, err)
	}
	var e *process.ExitError
	require.ErrorAs(t, err, &e)
	require.Equal(t, 4, e.Code)
	s := w.Stats()
	require.GreaterOrEqual(t, s.StartFailures, uint64(2*5))
	require.ErrorAs(t, s.LastStartError, &e, "of the same child, or of one that was tried since")
	require.ErrorContains(t, e, "before any call: broken")

	// A context that ends while they wait says both.
	require.NoError(t, os.Remove(broken))
	for w.Stats().Idle < 2 {
		runtime.Gosched()
	}
	require.Equal(t, 3, call(t, w, add, point{1, 2}), "they recover by themselves")
	require.NoError(t, w.Stats().LastStartError)
}

func TestShutdownWaitsForCallsAndRefusesNewOnes(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	id := call(t, w, pid, none{})
	ctx, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := meet.Call(ctx, w, none{})
		require.NoError(t, err)
	})
	for w.Stats().Busy == 0 {
		runtime.Gosched()
	}
	wg.Go(func() {
		sum, err := add.Call(context.Background(), w, point{1, 1})
		require.NoError(t, err)
		require.Equal(t, 2, sum, "what waited for a child is done, too")
	})
	for w.Stats().Waiting == 0 {
		runtime.Gosched()
	}
	for range 2 {
		wg.Go(func() { require.NoError(t, w.Shutdown(context.Background())) })
	}
	ended, end := context.WithCancel(context.Background())
	end()
	for {
		_, err := add.Call(ended, w, point{})
		if err == process.ErrClosed {
			break
		}
		require.Equal(t, context.Canceled, err)
		runtime.Gosched()
	}
	release()
	wg.Wait()
	require.ErrorIs(t, syscall.Kill(id, 0), syscall.ESRCH, "the children are gone")
	require.Zero(t, w.Stats().Idle)
	require.NoError(t, w.Shutdown(context.Background()))
	s := w.Stats()
	require.Zero(t, s.Died)
	require.Zero(t, s.Killed)
}

func TestShutdownCutShortKillsAndSaysHowMany(t *testing.T) {
	w := start(t, process.WithWorkers(2), process.WithKillGrace(patience))
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() { _, errs[i] = linger.Call(context.Background(), w, "ignores TERM") })
	}
	for s := w.Stats(); s.Busy < 2 || s.Waiting < 1; s = w.Stats() {
		runtime.Gosched()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(&inputError{5})
	err := w.Shutdown(ctx)
	require.EqualError(t, err, "process: shutdown cut off 3 calls: line 5: bad input")
	var cause *inputError
	require.ErrorAs(t, err, &cause)
	wg.Wait()
	exits := 0
	for _, err := range errs {
		require.ErrorIs(t, err, process.ErrClosed)
		var e *process.ExitError
		if errors.As(err, &e) {
			exits++
			require.Equal(t, syscall.SIGKILL, e.Signal)
		}
	}
	require.Equal(t, 2, exits)
}

func TestACallInATaskIsRetriedAfterItsChildDied(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(quiet))
	require.NoError(t, err)
	defer p.Shutdown(context.Background())
	attempts := 0
	h, err := p.Submit(context.Background(), taskpool.Task{
		Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }},
		Run: func(ctx context.Context) error {
			attempts++
			how := ""
			if attempts == 1 {
				how = "segfault"
			}
			_, err := die.Call(ctx, w, order{How: how})
			return err
		},
	})
	require.NoError(t, err)
	require.NoError(t, h.Wait(context.Background()))
	require.Equal(t, 2, attempts)
}

// A task that hangs in a child fails with its timeout, within the pool's grace, and
// not as hung: its goroutine comes back.
func TestATaskWhoseChildHangsTimesOut(t *testing.T) {
	t.Parallel()
	w := start(t, process.WithWorkers(1), process.WithKillGrace(20*time.Millisecond))
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(quiet), taskpool.WithHangGrace(patience))
	require.NoError(t, err)
	defer p.Shutdown(context.Background())
	err = nil
	for timeout := 50 * time.Millisecond; w.Stats().Calls == 0; timeout *= 2 { // on a busy machine it may be over before there is a call
		h, e := p.Submit(context.Background(), taskpool.Task{
			Timeout: timeout,
			Run: func(ctx context.Context) error {
				_, err := linger.Call(ctx, w, "spins")
				return err
			},
		})
		require.NoError(t, e)
		err = h.Wait(context.Background())
		require.ErrorIs(t, err, taskpool.ErrTimeout)
	}
	var e *process.ExitError
	require.ErrorAs(t, err, &e)
	require.Equal(t, 3, call(t, w, add, point{1, 2}))
}

// With many tasks in Block, more wait for a child than the pool has workers: the
// most urgent comes first, and one of sixteen is the one that has waited longest.
func TestTheMostUrgentCallerGetsTheNextChild(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	p, err := taskpool.New(taskpool.WithWorkers(1))
	require.NoError(t, err)
	defer p.Shutdown(context.Background())
	busy, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = meet.Call(busy, w, none{}) })
	for w.Stats().Busy == 0 {
		runtime.Gosched()
	}
	const n = 40
	var mu sync.Mutex
	var order []int
	for i := range n { // the last to come is the most urgent
		_, err := p.Submit(context.Background(), taskpool.Task{
			Priority: taskpool.Priority(n - i),
			Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error {
					_, err := note.Call(ctx, w, i)
					mu.Lock()
					defer mu.Unlock()
					order = append(order, i)
					return err
				})
			},
		})
		require.NoError(t, err)
		for w.Stats().Waiting != i+1 {
			runtime.Gosched()
		}
	}
	release()
	wg.Wait()
	require.NoError(t, p.WaitIdle(context.Background()))
	log := call(t, w, noted, none{})
	want := []int{}
	fair, urgent := 0, n-1
	for turn := 1; len(want) < n; turn++ {
		if turn%16 == 0 && fair < urgent {
			want = append(want, fair)
			fair++
		} else {
			want = append(want, urgent)
			urgent--
		}
	}
	require.Equal(t, want, log)
	require.Len(t, order, n)
}

// A caller whose task is lent the urgency of another, which waits for it, goes first from
// then on.
func TestCallerThatAnUrgentTaskWaitsForGetsTheNextChild(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	p, err := taskpool.New(taskpool.WithWorkers(4))
	require.NoError(t, err)
	defer p.Shutdown(context.Background())
	busy, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = meet.Call(busy, w, none{}) })
	for w.Stats().Busy == 0 {
		runtime.Gosched()
	}
	var handles []*taskpool.Handle
	for i := range 3 {
		h, err := p.Submit(context.Background(), taskpool.Task{Priority: taskpool.Low, Run: func(ctx context.Context) error {
			_, err := noteAgain.Call(ctx, w, i)
			return err
		}})
		require.NoError(t, err)
		handles = append(handles, h)
		for w.Stats().Waiting != i+1 {
			runtime.Gosched()
		}
	}
	high, err := p.Submit(context.Background(), taskpool.Task{Priority: taskpool.High, Run: handles[2].Wait})
	require.NoError(t, err)
	for w.MostUrgentWaiting() != int(taskpool.High) {
		runtime.Gosched()
	}
	release()
	wg.Wait()
	require.NoError(t, high.Wait(context.Background()))
	require.NoError(t, p.WaitIdle(context.Background()))
	require.Equal(t, []int{2, 0, 1}, call(t, w, notedAgain, none{}))
}

var notesAgain []int

var (
	noteAgain = process.Register("noteAgain", func(_ context.Context, n int) (none, error) {
		notesAgain = append(notesAgain, n)
		return none{}, nil
	})
	notedAgain = process.Register("notedAgain", func(context.Context, none) ([]int, error) { return notesAgain, nil })
)

var notes []int

var (
	note = process.Register("note", func(_ context.Context, n int) (none, error) {
		notes = append(notes, n)
		return none{}, nil
	})
	noted = process.Register("noted", func(context.Context, none) ([]int, error) { return notes, nil })
)
