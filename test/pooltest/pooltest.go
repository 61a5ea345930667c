// Package pooltest has what the suites of tests in this directory, and the tests at the
// root, share: pools that are made and looked at, tasks, contexts, and records of what a
// pool has told.
package pooltest

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
)

// Main is a suite's TestMain. It fails if a goroutine is left.
func Main(m *testing.M) { goleak.VerifyTestMain(m) }

// New starts a pool that logs nothing unless told otherwise. The test shuts it down
// itself, or leaves that to the end of the test.
func New(t testing.TB, opts ...taskpool.Option) *taskpool.Pool {
	t.Helper()
	opts = append([]taskpool.Option{taskpool.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	p, err := taskpool.New(opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = p.Shutdown(ctx)
	})
	return p
}

// Submit submits a task that must be accepted.
func Submit(t testing.TB, p *taskpool.Pool, task taskpool.Task) *taskpool.Handle {
	t.Helper()
	h, err := p.Submit(context.Background(), task)
	require.NoError(t, err)
	return h
}

// Block occupies a worker until release is called, and returns once it does.
func Block(t testing.TB, p *taskpool.Pool) (release func()) {
	t.Helper()
	started, gate := make(chan struct{}), make(chan struct{})
	require.NoError(t, p.Go(taskpool.High, func() { close(started); <-gate }))
	<-started
	return func() { close(gate) }
}

// Occupy is Block, but the worker is released at the end of the test at the latest, and
// release may be called again.
func Occupy(t testing.TB, p *taskpool.Pool) (release func()) {
	t.Helper()
	release = sync.OnceFunc(Block(t, p))
	t.Cleanup(release)
	return release
}

// Occupied returns a pool of one worker, which is occupied.
func Occupied(t testing.TB, opts ...taskpool.Option) (p *taskpool.Pool, release func()) {
	t.Helper()
	p = New(t, append([]taskpool.Option{taskpool.WithWorkers(1)}, opts...)...)
	return p, Occupy(t, p)
}

// Answers reports whether p answers a question, which it does not while the caller's
// goroutine holds its lock. Others hold it for a moment only.
func Answers(p *taskpool.Pool) bool {
	var answered atomic.Bool
	go func() { p.Stats(); answered.Store(true) }()
	for range 1_000_000 {
		if answered.Load() {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// Drain waits until the pool has nothing to do.
func Drain(t testing.TB, p *taskpool.Pool) {
	t.Helper()
	require.NoError(t, p.WaitIdle(context.Background()))
	RequireConserved(t, p.Stats())
}

// RequireConserved checks that every accepted task is accounted for.
func RequireConserved(t testing.TB, s taskpool.Stats) {
	t.Helper()
	require.Equal(t, s.Submitted, s.Succeeded+s.Failed+s.Canceled+s.Shed+
		uint64(s.Queued+s.Delayed+s.Running+s.Parked), "counts must add up: %+v", s)
	require.Equal(t, s.Refused, s.RefusedFull+s.RefusedFlow+s.RefusedClosed+s.RefusedContext+s.RefusedExpired, "refusals must add up: %+v", s)
	if len(s.ByPriority) > 4000 { // not all have totals of their own
		return
	}
	var sum taskpool.PriorityTotals
	for _, by := range s.ByPriority {
		sum.Attempts += by.Attempts
		sum.Succeeded += by.Succeeded
		sum.Failed += by.Failed
		sum.Canceled += by.Canceled
		sum.Shed += by.Shed
		sum.RefusedFull += by.RefusedFull
		sum.RefusedFlow += by.RefusedFlow
		sum.RefusedClosed += by.RefusedClosed
		sum.RefusedContext += by.RefusedContext
		sum.RefusedExpired += by.RefusedExpired
	}
	require.Equal(t, taskpool.PriorityTotals{
		Attempts: s.Attempts, Succeeded: s.Succeeded, Failed: s.Failed, Canceled: s.Canceled, Shed: s.Shed,
		RefusedFull: s.RefusedFull, RefusedFlow: s.RefusedFlow, RefusedClosed: s.RefusedClosed,
		RefusedContext: s.RefusedContext, RefusedExpired: s.RefusedExpired,
	}, sum, "totals by priority must add up: %+v", s)
}

// Started returns the attempts started by priority.
func Started(s taskpool.Stats) map[taskpool.Priority]uint64 {
	by := make(map[taskpool.Priority]uint64)
	for pr, t := range s.ByPriority {
		if t.Attempts > 0 {
			by[pr] = t.Attempts
		}
	}
	return by
}

// RequireWorkers checks that n tasks can run at once, each on a live worker, once nothing
// else is outstanding.
func RequireWorkers(t testing.TB, p *taskpool.Pool, n int) {
	t.Helper()
	var all sync.WaitGroup
	all.Add(n)
	gate := make(chan struct{})
	for range n {
		require.NoError(t, p.Go(taskpool.High, func() { all.Done(); <-gate }))
	}
	all.Wait() // would never end with a worker less
	s := p.Stats()
	close(gate)
	require.Equal(t, n, s.Goroutines, "goroutines alive")
	require.Equal(t, n, s.Running)
}

// RequireWhole checks, in a bubble, that an idle pool has its n workers and runs n tasks at
// once, not more and not fewer.
func RequireWhole(t testing.TB, p *taskpool.Pool, n int) {
	t.Helper()
	synctest.Wait()
	s := p.Stats()
	require.Equal(t, n, s.Goroutines, "goroutines alive")
	require.Equal(t, n, s.Idle, "idle workers")
	require.Zero(t, s.Lost)
	RequireConserved(t, s)
	var running atomic.Int32
	gate := make(chan struct{})
	for range n + 1 {
		require.NoError(t, p.Go(taskpool.Medium, func() { running.Add(1); <-gate }))
	}
	synctest.Wait()
	atOnce := int(running.Load())
	close(gate)
	synctest.Wait()
	require.Equal(t, n, atOnce, "tasks that run at once")
	require.Equal(t, n+1, int(running.Load()))
}

// LiveHeap returns how many bytes of the heap are in use.
func LiveHeap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second frees what sync.Pools kept in the first
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// A Submission is a call of Submit that may wait for room.
type Submission struct {
	Handle   *taskpool.Handle
	Err      error
	Returned bool
}

// SubmitOrWait calls Submit on a goroutine of its own, and returns once that call has
// returned or waits. Only in a bubble.
func SubmitOrWait(ctx context.Context, p *taskpool.Pool, task taskpool.Task) *Submission {
	s := new(Submission)
	go func() {
		s.Handle, s.Err = p.Submit(ctx, task)
		s.Returned = true
	}()
	synctest.Wait()
	return s
}

// RequireWaiting checks that Submit has not returned.
func RequireWaiting(t testing.TB, s *Submission) {
	t.Helper()
	synctest.Wait()
	require.False(t, s.Returned, "Submit must wait, it returned %v", s.Err)
}

// RequireAccepted checks that Submit has returned without an error.
func RequireAccepted(t testing.TB, s *Submission) {
	t.Helper()
	synctest.Wait()
	require.True(t, s.Returned, "Submit still waits")
	require.NoError(t, s.Err)
}
