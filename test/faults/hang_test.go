package faults_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

const hangGrace = 3 * time.Second

// A hangWay is how a task comes to hang: its context ends a second after its
// start, and it goes on.
type hangWay struct {
	name    string
	pattern taskpool.Task
	end     func(*taskpool.Handle, context.CancelCauseFunc) // nil: it ends by itself
	cause   error
	inBlock bool
}

func hangWays() []hangWay {
	return []hangWay{
		{name: "Timeout", pattern: taskpool.Task{Timeout: time.Second}, cause: taskpool.ErrTimeout},
		{name: "Cancel", end: func(h *taskpool.Handle, _ context.CancelCauseFunc) { h.Cancel(pooltest.ErrCause) }, cause: pooltest.ErrCause},
		{name: "ctx", end: func(_ *taskpool.Handle, cancel context.CancelCauseFunc) { cancel(pooltest.ErrCause) }, cause: pooltest.ErrCause},
		{name: "Heartbeat", pattern: taskpool.Task{Heartbeat: time.Second}, cause: taskpool.ErrHung},
		{name: "Block", pattern: taskpool.Task{Timeout: time.Second}, cause: taskpool.ErrTimeout, inBlock: true},
	}
}

// A hungTask is one that hangs until gate is closed.
type hungTask struct {
	*taskpool.Handle
	way  hangWay
	gate chan struct{}
	err  error // what it was settled with
}

// A ward is a pool with tasks that hang, and what must be true of it. It lives
// in a bubble.
type ward struct {
	t            *testing.T
	p            *taskpool.Pool
	workers, max int
	rng          *rand.Rand
	hung         []*hungTask // given up, still hanging
	settled      []*hungTask // all that were given up
	most         atomic.Int64
	samples      int
}

// newWard starts a pool that abandons at most max workers; a negative max stands
// for the default.
func newWard(t *testing.T, workers, bound int, seed uint64) *ward {
	w := &ward{t: t, workers: workers, max: bound, rng: rand.New(rand.NewPCG(seed, uint64(workers)))}
	opts := []taskpool.Option{taskpool.WithWorkers(workers), taskpool.WithHangGrace(hangGrace)}
	if bound < 0 {
		w.max = workers
	} else {
		opts = append(opts, taskpool.WithMaxAbandoned(bound))
	}
	// Looks from beside, at moments that the test does not choose.
	look := func(taskpool.WorkerEvent) {
		if n := int64(w.p.Stats().Abandoned); n > w.most.Load() {
			w.most.Store(n)
		}
	}
	w.p = pooltest.New(t, append(opts, taskpool.WithHooks(taskpool.Hooks{WorkerAbandoned: look, WorkerReplaced: look}))...)
	return w
}

// inBlock returns how many hang without a slot.
func (w *ward) inBlock() (n int) {
	for _, h := range w.hung {
		if h.way.inBlock {
			n++
		}
	}
	return n
}

// sample checks a snapshot of an idle pool, and returns how many slots are lost.
func (w *ward) sample() (lost int) {
	t := w.t
	t.Helper()
	w.samples++
	s := w.p.Stats()
	pooltest.RequireConserved(t, s)
	require.Equal(t, len(w.hung), s.Abandoned+s.Lost, "all that hang are counted, once")
	inBlock := w.inBlock()
	require.LessOrEqual(t, s.Abandoned-inBlock, w.max)
	if s.Lost > 0 {
		require.GreaterOrEqual(t, s.Abandoned, w.max, "no slot is lost below the bound")
	}
	if inBlock == 0 {
		require.Equal(t, max(len(w.hung)-w.max, 0), s.Lost)
	}
	if inBlock == len(w.hung) {
		require.Zero(t, s.Lost, "in Block there is no slot to lose")
	}
	if err := w.p.Health(); s.Lost == 0 {
		require.NoError(t, err)
	} else {
		require.ErrorIs(t, err, taskpool.ErrHung)
		require.ErrorContains(t, err, fmt.Sprintf("%d of %d slots lost, with %d hung", s.Lost, w.workers, s.Abandoned))
	}
	return s.Lost
}

// check is sample, and has the idle pool run as much as it can.
func (w *ward) check() (lost int) {
	w.t.Helper()
	synctest.Wait()
	lost = w.sample()
	s := w.p.Stats()
	require.Equal(w.t, w.workers-lost, s.Goroutines)
	require.Equal(w.t, w.workers-lost, s.Idle)
	require.Equal(w.t, w.workers-lost, runAtOnce(w.t, w.p, w.workers+1), "tasks that run at once")
	return lost
}

// runAtOnce returns how many of n tasks an idle pool runs at once. It lets all of
// them run, or none.
func runAtOnce(t testing.TB, p *taskpool.Pool, n int) int {
	t.Helper()
	var running atomic.Int32
	gate := make(chan struct{})
	all := make([]*taskpool.Handle, n)
	for i := range all {
		all[i] = pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { running.Add(1); <-gate; return nil }})
	}
	synctest.Wait()
	got := int(running.Load())
	for _, h := range all {
		if got == 0 {
			require.True(t, h.Cancel(nil))
		}
	}
	close(gate)
	synctest.Wait()
	if got > 0 {
		require.EqualValues(t, n, running.Load())
	}
	return got
}

// hang has one task hang in each of the given ways, all given up at the same
// instant, and checks the instants before.
func (w *ward) hang(ways ...hangWay) {
	t := w.t
	t.Helper()
	before := len(w.hung)
	var wave []*hungTask
	var ends []func()
	for _, way := range ways {
		h := &hungTask{way: way, gate: make(chan struct{})}
		task := way.pattern
		task.Run = func(ctx context.Context) error {
			if way.inBlock {
				return taskpool.Block(ctx, func() error { <-h.gate; return nil })
			}
			<-h.gate
			return nil
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		var err error
		h.Handle, err = w.p.Submit(ctx, task)
		require.NoError(t, err)
		wave = append(wave, h)
		if way.end != nil {
			ends = append(ends, func() { way.end(h.Handle, cancel) })
		}
	}
	under := func(when string) {
		t.Helper()
		synctest.Wait()
		w.sample()
		s := w.p.Stats()
		require.Equal(t, len(ways), s.Running+s.Parked, when)
		require.Len(t, w.hung, before)
	}
	under("at the start")
	time.Sleep(time.Second)
	under("when the context ends")
	for _, end := range ends {
		end()
	}
	under("when the grace begins")
	time.Sleep(hangGrace - 1)
	under("a nanosecond before it ends")
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	for _, h := range wave {
		require.Equal(t, taskpool.StateFailed, h.State(), "%s: at the very end of the grace", h.way.name)
		h.err = h.Err()
		var hung *taskpool.HungError
		require.ErrorAs(t, h.err, &hung)
		require.ErrorIs(t, h.err, h.way.cause)
	}
	w.hung = append(w.hung, wave...)
	w.settled = append(w.settled, wave...)
}

// release lets one of those return that hang.
func (w *ward) release() {
	i := w.rng.IntN(len(w.hung))
	close(w.hung[i].gate)
	w.hung = slices.Delete(w.hung, i, i+1)
}

// run has n tasks hang, in waves of any size, and lets some return in between,
// as it must when all slots are lost.
func (w *ward) run(n int, ways ...hangWay) {
	w.t.Helper()
	for lost := w.check(); n > 0; lost = w.check() {
		if lost == w.workers || len(w.hung) > 0 && w.rng.IntN(4) == 0 {
			w.release()
			continue
		}
		wave := make([]hangWay, 1+w.rng.IntN(min(n, w.workers-lost)))
		for i := range wave {
			wave[i] = ways[w.rng.IntN(len(ways))]
		}
		w.hang(wave...)
		n -= len(wave)
	}
	for len(w.hung) > 0 {
		w.release()
		w.check()
	}
	pooltest.RequireWhole(w.t, w.p, w.workers)
	for _, h := range w.settled {
		require.Equal(w.t, taskpool.StateFailed, h.State())
		require.Same(w.t, h.err, h.Err())
	}
	require.EqualValues(w.t, len(w.settled), w.p.Stats().Hangs)
}

func hangBounds(workers int) map[string]int {
	return map[string]int{"0": 0, "1": 1, "default": -1, "3W": 3 * workers}
}

func TestHungTasksCostExactlyTheSlotsBeyondTheBound(t *testing.T) {
	t.Parallel()
	for k, way := range hangWays() {
		for i, workers := range []int{1, 2, 8} {
			if (pooltest.Scarce() || !pooltest.Full) && i != k%3 {
				continue // every number comes up still, though not in each way
			}
			for name, bound := range hangBounds(workers) {
				t.Run(fmt.Sprintf("%s, %d workers, MaxAbandoned %s", way.name, workers, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWard(t, workers, bound, 1)
						w.run(10*workers, way)
						require.Len(t, w.settled, 10*workers)
						if !way.inBlock {
							require.LessOrEqual(t, w.most.Load(), int64(w.max), "as the hooks saw it")
						}
						require.GreaterOrEqual(t, w.samples, 3*10)
					})
				})
			}
		}
	}
}

// Those that hang in Block count too, and cost no slot; their return makes a lost
// slot good like any other.
func TestAnyMixOfHangsCostsOnlyTheSlotsBeyondTheBound(t *testing.T) {
	t.Parallel()
	for seed := range uint64(pooltest.Times(5, 1)) {
		for _, workers := range []int{1, 2, 8} {
			for name, bound := range hangBounds(workers) {
				t.Run(fmt.Sprintf("seed %d, %d workers, MaxAbandoned %s", seed, workers, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWard(t, workers, bound, seed)
						w.run(10*workers, hangWays()...)
						require.Len(t, w.settled, 10*workers)
					})
				})
			}
		}
	}
}

// Shutdown waits for nobody longer than the grace, so once it is cut short all
// that hang are given up, whatever the bound. Until then the bound holds.
func TestShutdownGivesUpEveryFunctionThatHangs(t *testing.T) {
	for _, workers := range []int{1, 2, 8} {
		for name, bound := range hangBounds(workers) {
			t.Run(fmt.Sprintf("%d workers, MaxAbandoned %s", workers, name), func(t *testing.T) {
				functions := 0
				for seed := uint64(0); functions < max(pooltest.Times(10, 10), 2)*workers; seed++ {
					synctest.Test(t, func(t *testing.T) {
						w := newWard(t, workers, bound, seed)
						for range w.rng.IntN(workers + w.max) { // leaves a slot at least
							w.hang(hangWays()[0])
						}
						hung, free := len(w.hung), workers-w.check()
						gates := make([]chan struct{}, free)
						for i := range gates {
							gates[i] = make(chan struct{})
							require.NoError(t, w.p.Go(taskpool.Medium, func() { <-gates[i] }))
						}
						never := pooltest.Submit(t, w.p, taskpool.Task{Run: pooltest.Nop})
						synctest.Wait()
						require.Equal(t, free, w.p.Stats().Running)
						w.sample()

						down := make(chan error, 1)
						go func() { down <- w.p.Shutdown(pooltest.EndedContext()) }()
						synctest.Wait()
						require.Equal(t, taskpool.StateCanceled, never.State())
						time.Sleep(hangGrace - 1)
						synctest.Wait()
						require.Empty(t, down)
						require.Equal(t, free, w.p.Stats().Running)
						time.Sleep(time.Nanosecond)
						synctest.Wait()
						require.Len(t, down, 1, "at the very end of the grace")
						var e *taskpool.ShutdownError
						require.ErrorAs(t, <-down, &e)
						require.Len(t, e.Unfinished, free+1)
						s := w.p.Stats()
						pooltest.RequireConserved(t, s)
						require.Equal(t, []int{hung + free, 0, 0}, []int{s.Abandoned, s.Lost, s.Running})
						require.EqualValues(t, hung+free, s.Hangs)
						require.ErrorIs(t, w.p.Health(), taskpool.ErrClosed)

						for len(w.hung) > 0 {
							w.release()
							synctest.Wait()
							require.Equal(t, len(w.hung)+free, w.p.Stats().Abandoned)
						}
						for i, gate := range gates {
							close(gate)
							synctest.Wait()
							require.Equal(t, free-i-1, w.p.Stats().Abandoned)
						}
						require.Equal(t, outcomesOf(s), outcomesOf(w.p.Stats()))
						functions += free
					})
				}
			})
		}
	}
}

// Late returns.

// outcomesOf returns the counts that a late return must not change.
func outcomesOf(s taskpool.Stats) [11]uint64 {
	return [...]uint64{s.Submitted, s.Succeeded, s.Failed, s.Canceled, s.Shed,
		s.Attempts, s.Retries, s.Parks, s.Panics, s.Goexits, s.Hangs}
}

// A lateEnd is what a task does after it was given up.
type lateEnd struct {
	name string
	call func(ctx context.Context, p *taskpool.Pool, waits *taskpool.Handle) error // an error says that it did not go as it should
	end  func() (int, error)
	dies bool
}

const cancelsItself = "Cancel of its own"

func lateEnds() []lateEnd {
	over := func(err error) error {
		if !errors.Is(err, taskpool.ErrTimeout) {
			return fmt.Errorf("got %v, not the cause of the context's end", err)
		}
		return nil
	}
	value := func() (int, error) { return 42, nil }
	return []lateEnd{
		{name: "value", end: value},
		{name: "error", end: func() (int, error) { return 42, pooltest.ErrTask }},
		{name: "panic", end: func() (int, error) { panic("late") }, dies: true},
		{name: "Goexit", end: func() (int, error) { runtime.Goexit(); return 42, nil }, dies: true},
		{name: "Yield", end: value, call: func(ctx context.Context, _ *taskpool.Pool, _ *taskpool.Handle) error {
			for range 3 {
				if err := over(taskpool.Yield(ctx)); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "Yield, derived", end: value, call: func(ctx context.Context, _ *taskpool.Pool, _ *taskpool.Handle) error {
			if err := taskpool.Yield(context.WithValue(context.WithoutCancel(ctx), pooltest.Key{}, 1)); err != nil {
				return over(err)
			}
			return nil
		}},
		{name: "Block", end: value, call: func(ctx context.Context, _ *taskpool.Pool, _ *taskpool.Handle) error {
			if err := taskpool.Block(ctx, func() error { return pooltest.ErrTask }); err != pooltest.ErrTask {
				return fmt.Errorf("Block returned %v, not what f did", err)
			}
			return nil
		}},
		{name: "panic in Block", end: func() (int, error) { panic("late") }, dies: true,
			call: func(ctx context.Context, _ *taskpool.Pool, _ *taskpool.Handle) error {
				defer func() { _ = recover() }()
				return taskpool.Block(ctx, func() error { panic("late") })
			}},
		{name: "Beat", end: value, call: func(ctx context.Context, _ *taskpool.Pool, _ *taskpool.Handle) error {
			taskpool.Beat(ctx)
			return nil
		}},
		{name: "Wait", end: value, call: func(ctx context.Context, _ *taskpool.Pool, waits *taskpool.Handle) error {
			return over(waits.Wait(ctx))
		}},
		{name: "Submit", end: value, call: func(ctx context.Context, p *taskpool.Pool, _ *taskpool.Handle) error {
			_, err := p.Submit(ctx, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
			return over(err)
		}},
		{name: "Call", end: value, call: func(ctx context.Context, p *taskpool.Pool, _ *taskpool.Handle) error {
			_, err := taskpool.Call(ctx, p, taskpool.Task{}, func(context.Context) (int, error) { return 1, nil })
			return over(err)
		}},
		{name: "Group", end: value, call: func(ctx context.Context, p *taskpool.Pool, _ *taskpool.Handle) error {
			g := p.Group(ctx, taskpool.Task{})
			g.Go(pooltest.Nop)
			return over(g.Wait())
		}},
		{name: "Map", end: value, call: func(ctx context.Context, p *taskpool.Pool, _ *taskpool.Handle) error {
			err := errors.New("no pair")
			for _, err = range taskpool.Map(ctx, p, taskpool.Task{}, pooltest.UpTo(3), pooltest.Square) {
				if err == nil {
					return errors.New("a result")
				}
			}
			return over(err)
		}},
		{name: cancelsItself, end: value, call: func(ctx context.Context, _ *taskpool.Pool, _ *taskpool.Handle) error {
			if info, ok := taskpool.Current(ctx); !ok || info.Handle.Cancel(pooltest.ErrCause) {
				return errors.New("a task given up was canceled")
			}
			return nil
		}},
	}
}

// lateTasks is how many tasks return late for each pool, enough for each kind of end.
func lateTasks() int { return max(pooltest.Times(1200, 240), 240) }

func TestThousandsOfLateReturnsChangeNoOutcome(t *testing.T) {
	for _, workers := range []int{2, 8} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d workers, slots lost %t", workers, lost), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					finished := make(map[uint64]int)
					var mu sync.Mutex
					bound := workers
					if lost {
						bound = 0
					}
					p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithMaxAbandoned(bound), taskpool.WithHangGrace(hangGrace),
						taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
							mu.Lock()
							defer mu.Unlock()
							if e.Task.ID != 0 { // else a function given to Go
								finished[e.Task.ID]++
							}
						}}))
					rng := rand.New(rand.NewPCG(2, uint64(workers)))
					ends := lateEnds()
					returned, used := 0, make([]int, len(ends))
					for returned < lateTasks() {
						returned += lateRound(t, p, workers, bound, rng, func() lateEnd {
							i := rng.IntN(len(ends))
							used[i]++
							return ends[i]
						})
					}
					for i, n := range used {
						require.NotZero(t, n, ends[i].name)
					}
					s := p.Stats()
					require.EqualValues(t, returned, s.Failed)
					require.EqualValues(t, returned, s.Hangs)
					require.Zero(t, s.Canceled+s.Shed+s.Panics+s.Goexits+s.Parks)
					pooltest.RequireWhole(t, p, workers)
					mu.Lock()
					defer mu.Unlock()
					require.Greater(t, len(finished), returned)
					for id, n := range finished {
						require.Equal(t, 1, n, "verdicts on task %d", id)
					}
				})
			})
		}
	}
}

// lateRound has a task hang on each worker, and lets them return late one after
// the other while something more urgent waits. It returns their number.
func lateRound(t *testing.T, p *taskpool.Pool, workers, bound int, rng *rand.Rand, next func() lateEnd) int {
	type late struct {
		lateEnd
		*taskpool.Future[int]
		err  error
		gate chan struct{}
	}
	call := make(chan struct{})
	var waits *taskpool.Handle // set before call is closed
	all := make([]*late, workers)
	for i := range all {
		l := &late{lateEnd: next(), gate: make(chan struct{})}
		var err error
		l.Future, err = taskpool.SubmitFunc(t.Context(), p, taskpool.Task{Timeout: time.Second}, func(ctx context.Context) (int, error) {
			<-call
			if l.call != nil {
				assert.NoError(t, l.call(ctx, p, waits), l.name)
			}
			<-l.gate
			return l.end()
		})
		require.NoError(t, err)
		all[i] = l
	}
	time.Sleep(time.Second + hangGrace)
	synctest.Wait()
	for _, l := range all {
		require.Equal(t, taskpool.StateFailed, l.State())
		l.err = l.Err()
		require.ErrorIs(t, l.err, taskpool.ErrHung)
	}
	free := make(chan struct{})
	if bound > 0 {
		for range workers {
			require.NoError(t, p.Go(taskpool.Medium, func() { <-free }))
		}
		synctest.Wait()
	}
	var started atomic.Bool
	waits = pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { started.Store(true); return nil }})
	synctest.Wait()
	before := p.Stats()
	require.Equal(t, []int{bound, workers - bound, 1}, []int{before.Abandoned, before.Lost, before.Queued})

	close(call)
	synctest.Wait()
	after := p.Stats()
	require.Equal(t, outcomesOf(before), outcomesOf(after))
	require.False(t, started.Load(), "no slot is given that was taken already")
	require.Equal(t, before.Replaced, after.Replaced)

	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i, l := range all {
		before, want := p.Stats(), p.Stats()
		if bound == 0 && i == 0 { // a slot is made good and runs what waits
			want.Succeeded, want.Attempts = want.Succeeded+1, want.Attempts+1
		}
		close(l.gate)
		synctest.Wait()
		after := p.Stats()
		require.Equal(t, outcomesOf(want), outcomesOf(after), l.name)
		require.Equal(t, bound == 0, started.Load(), l.name)
		require.Equal(t, max(bound-i-1, 0), after.Abandoned, l.name)
		require.Equal(t, max(workers-bound-i-1, 0), after.Lost, l.name)
		if bound == 0 {
			if l.dies { // the slot is good again, so it needs a worker
				before.Replaced++
			}
			require.Equal(t, i+1, after.Goroutines, l.name)
			require.Equal(t, i+1, runAtOnce(t, p, workers+1), l.name)
		}
		require.Equal(t, before.Replaced, after.Replaced, l.name)
		require.Equal(t, taskpool.StateFailed, l.State(), l.name)
		v, err := l.Get(t.Context())
		require.Same(t, l.err, err, l.name)
		require.Zero(t, v, "a late value: %s", l.name)
	}
	close(free)
	require.NoError(t, waits.Wait(t.Context()))
	require.NoError(t, p.WaitIdle(t.Context()))
	synctest.Wait()
	require.NoError(t, p.Health())
	return workers
}

// Silence.

// healthyTasks is how many tasks give 1,000 signs of life each, enough for some to wait.
func healthyTasks() int { return max(pooltest.Times(1000, 100), 100) }

// Half of the gaps are a nanosecond short of the Heartbeat, the others anything
// below. A fifth of the tasks falls silent at some time.
func TestAMillionBeatsGiveNoFalseVerdictAndSilenceIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const workers, beats = 100, 1000
		p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithHangGrace(time.Minute))
		began := time.Now()
		var beaten, cut, silenced, early, late atomic.Int64
		work := func(h time.Duration, seed uint64, n int) func(context.Context) error {
			return func(ctx context.Context) error {
				rng := rand.New(rand.NewPCG(3, seed))
				for range n {
					gap := h - 1
					if rng.IntN(2) == 0 {
						gap = time.Duration(rng.Int64N(int64(h)))
					}
					time.Sleep(gap)
					switch rng.IntN(4) {
					case 0: // parks, as others wait
						if err := taskpool.Yield(ctx); err != nil {
							cut.Add(1)
							return err
						}
					case 1:
						taskpool.Beat(context.WithValue(ctx, pooltest.Key{}, 1))
					default:
						taskpool.Beat(ctx)
					}
					beaten.Add(1)
				}
				if ctx.Err() != nil {
					cut.Add(1)
					return ctx.Err()
				}
				if n == beats {
					return nil
				}
				last := time.Now()
				select {
				case <-ctx.Done():
				case <-time.After(3 * h): // never, or it counts as late
				}
				silence := time.Since(last)
				if silence < h {
					early.Add(1)
				}
				if silence > 2*h {
					late.Add(1)
				}
				if context.Cause(ctx) == taskpool.ErrHung {
					silenced.Add(1)
				}
				return ctx.Err()
			}
		}
		var healthy, silent []*taskpool.Handle
		for i := range healthyTasks() {
			h := []time.Duration{10 * time.Millisecond, time.Second, time.Minute, time.Hour}[i%4]
			healthy = append(healthy, pooltest.Submit(t, p, taskpool.Task{Heartbeat: h, Run: work(h, uint64(i), beats)}))
			if i%4 == 0 {
				h, n := []time.Duration{time.Second, time.Minute, time.Hour}[i%3], i/4%50
				silent = append(silent, pooltest.Submit(t, p, taskpool.Task{Heartbeat: h, Run: work(h, uint64(-1-i), n)}))
			}
		}
		require.NoError(t, p.WaitIdle(context.Background()))
		for _, h := range healthy {
			require.NoError(t, h.Err())
		}
		for _, h := range silent {
			require.ErrorIs(t, h.Err(), taskpool.ErrHung)
		}
		require.GreaterOrEqual(t, beaten.Load(), int64(beats*len(healthy)))
		require.Zero(t, cut.Load(), "false verdicts")
		require.EqualValues(t, len(silent), silenced.Load())
		require.Zero(t, early.Load(), "found before a Heartbeat of silence")
		require.Zero(t, late.Load(), "not found after two")
		s := p.Stats()
		require.Zero(t, s.Hangs)
		require.EqualValues(t, len(silent), s.Failed)
		require.NotZero(t, s.Parks, "some waited for their slot meanwhile")
		require.Greater(t, time.Since(began), 500*time.Hour)
		pooltest.RequireWhole(t, p, workers)
	})
}

// Hangs that are retried.

// Five attempts of each task hang and the sixth succeeds. The late ends come while
// the retry waits, runs or is parked, and after the task has settled.
func TestLateEndsOfHungAttemptsNeverTouchTheirRetries(t *testing.T) {
	t.Parallel()
	const attempts, rounds = 6, 30
	for i := range 8 {
		when := []taskpool.State{taskpool.StateDelayed, taskpool.StateRunning, taskpool.StateParked, taskpool.StateSucceeded}[i/2]
		workers, bound := 2, attempts
		if i%2 == 1 {
			workers, bound = attempts, 0 // those that hang keep their slots
		}
		t.Run(fmt.Sprintf("%v, MaxAbandoned %d", when, bound), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithMaxAbandoned(bound), taskpool.WithHangGrace(hangGrace))
				rng := rand.New(rand.NewPCG(5, uint64(when)))
				ends := slices.DeleteFunc(lateEnds(), func(l lateEnd) bool {
					return l.name == cancelsItself // which is its right while a retry is to come
				})
				other := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop, NotBefore: time.Now().Add(10_000 * time.Hour)})
				for range rounds {
					var n, asked atomic.Int32
					gates := make([]chan struct{}, attempts)
					for i := range gates {
						gates[i] = make(chan struct{})
					}
					task := taskpool.Task{Timeout: time.Second, Retry: taskpool.Retry{
						MaxAttempts: attempts,
						Backoff:     func(int) time.Duration { return time.Minute },
						If:          func(err error) bool { asked.Add(1); return errors.Is(err, taskpool.ErrHung) },
					}}
					fut, err := taskpool.SubmitFunc(t.Context(), p, task, func(ctx context.Context) (int, error) {
						k := int(n.Add(1))
						if k == attempts {
							if when == taskpool.StateParked {
								_ = taskpool.Block(ctx, func() error { <-gates[k-1]; return nil })
							}
							<-gates[k-1]
							return k, nil
						}
						<-gates[k-1]
						end := ends[rng.IntN(len(ends))] // one at a time
						if end.call != nil {
							assert.NoError(t, end.call(ctx, p, other), end.name)
						}
						return end.end()
					})
					require.NoError(t, err)
					lateEnds := func(from, to int) {
						t.Helper()
						for k := from; k < to; k++ {
							before, state := p.Stats(), fut.State()
							close(gates[k])
							synctest.Wait()
							after := p.Stats()
							require.Equal(t, state, fut.State())
							require.Equal(t, outcomesOf(before), outcomesOf(after))
							require.Equal(t, []int{max(before.Abandoned-1, 0), max(before.Lost-1, 0)}, []int{after.Abandoned, after.Lost})
							if bound > 0 {
								require.Equal(t, before.Replaced, after.Replaced)
							}
							require.Equal(t, []int{before.Running, before.Parked, before.Delayed}, []int{after.Running, after.Parked, after.Delayed})
						}
					}
					for k := 1; k < attempts; k++ {
						time.Sleep(time.Second + hangGrace)
						synctest.Wait()
						require.Equal(t, taskpool.StateDelayed, fut.State())
						require.EqualValues(t, k, asked.Load(), "once for each hang")
						if when == taskpool.StateDelayed {
							lateEnds(k-1, k)
						} else {
							require.Equal(t, k, p.Stats().Abandoned+p.Stats().Lost, "all hang on")
						}
						time.Sleep(time.Minute)
						synctest.Wait()
					}
					require.EqualValues(t, attempts, n.Load())
					switch when {
					case taskpool.StateRunning, taskpool.StateParked:
						require.Equal(t, when, fut.State())
						lateEnds(0, attempts-1)
					}
					close(gates[attempts-1])
					synctest.Wait()
					if when == taskpool.StateSucceeded {
						lateEnds(0, attempts-1)
					}
					v, err := fut.Get(t.Context())
					require.NoError(t, err)
					require.Equal(t, attempts, v, "the value of the attempt that counts")
					require.EqualValues(t, attempts, n.Load())
					require.EqualValues(t, attempts-1, asked.Load())
				}
				s := p.Stats()
				require.EqualValues(t, rounds*(attempts-1), s.Hangs)
				require.EqualValues(t, rounds*(attempts-1), s.Retries)
				require.EqualValues(t, rounds, s.Succeeded)
				require.EqualValues(t, rounds+1, s.Submitted)
				require.True(t, other.Cancel(nil))
				pooltest.RequireWhole(t, p, workers)
			})
		})
	}
}

// While If is asked about a hang the task may still return, and what it returns
// counts. An error is an attempt's end of its own, about which If is asked as
// well; its first answer then counts for nothing, whichever comes first.
func TestReturnWhileThePolicyIsAskedAboutTheHangCounts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		end    func() error
		second bool // If is asked about it too
		state  taskpool.State
		is     error
	}{
		{"nil", func() error { return nil }, false, taskpool.StateSucceeded, nil},
		{"error", func() error { return pooltest.ErrTask }, true, taskpool.StateFailed, pooltest.ErrTask},
		{"permanent error", func() error { return taskpool.Permanent(pooltest.ErrTask) }, false, taskpool.StateFailed, pooltest.ErrTask},
		{"panic", func() error { panic(pooltest.ErrTask) }, true, taskpool.StateFailed, pooltest.ErrTask},
		{"Goexit", func() error { runtime.Goexit(); return nil }, false, taskpool.StateFailed, taskpool.ErrGoexit},
	} {
		for _, first := range []bool{false, true} {
			for _, second := range []bool{false, true} {
				for _, firstLast := range []bool{false, true} {
					if !tt.second && (second || firstLast) {
						continue
					}
					t.Run(fmt.Sprintf("%s, first %t, second %t, first last %t", tt.name, first, second, firstLast), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							var finished atomic.Int32
							p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(hangGrace), taskpool.WithHooks(taskpool.Hooks{
								Finished: func(taskpool.TaskEvent) { finished.Add(1) }}))
							type question struct {
								err    error
								answer chan bool
							}
							asked := make(chan question, 3)
							var n atomic.Int32
							gate := make(chan struct{})
							h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error {
								if n.Add(1) > 1 {
									return nil
								}
								<-gate
								return tt.end()
							}, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait, If: func(err error) bool {
								q := question{err, make(chan bool)}
								asked <- q
								return <-q.answer
							}}})
							time.Sleep(time.Second + hangGrace)
							synctest.Wait()
							require.Len(t, asked, 1)
							q1 := <-asked
							require.ErrorIs(t, q1.err, taskpool.ErrHung)
							require.Equal(t, taskpool.StateRunning, h.State(), "no verdict yet")
							time.Sleep(time.Hour)
							require.Empty(t, asked, "asked once")

							close(gate)
							synctest.Wait()
							if tt.second {
								require.Len(t, asked, 1)
								q2 := <-asked
								require.NotErrorIs(t, q2.err, taskpool.ErrHung)
								require.ErrorIs(t, q2.err, tt.is)
								require.Equal(t, taskpool.StateRunning, h.State())
								if firstLast {
									q2.answer <- second
									synctest.Wait()
									q1.answer <- first
								} else {
									q1.answer <- first
									synctest.Wait()
									require.Equal(t, taskpool.StateRunning, h.State(), "the answer is to another question")
									q2.answer <- second
								}
							} else {
								require.Equal(t, tt.state, h.State())
								q1.answer <- first
							}
							err := h.Wait(pooltest.Patience(t))
							synctest.Wait()
							s := p.Stats()
							if tt.second && second {
								require.NoError(t, err)
								require.EqualValues(t, 2, n.Load())
								require.EqualValues(t, 1, s.Retries)
							} else {
								require.Equal(t, tt.state, h.State())
								require.ErrorIs(t, err, tt.is)
								require.EqualValues(t, 1, n.Load())
								require.Zero(t, s.Retries)
							}
							require.NotErrorIs(t, err, taskpool.ErrHung)
							require.EqualValues(t, 1, finished.Load(), "one verdict")
							require.EqualValues(t, 1, s.Succeeded+s.Failed+s.Canceled)
							require.Zero(t, s.Hangs)
							require.Zero(t, s.Abandoned)
							require.Empty(t, asked)
							pooltest.RequireWhole(t, p, 1)
						})
					})
				}
			}
		}
	}
}

// A policy that dies says no. One that thinks keeps its task's slot and no other.
func TestPolicyThatDiesOrThinksGivesOneVerdict(t *testing.T) {
	const workers, tasks = 8, 80
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		finished := make(map[*taskpool.Handle]int)
		p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithMaxAbandoned(tasks), taskpool.WithHangGrace(hangGrace),
			taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
				mu.Lock()
				defer mu.Unlock()
				finished[e.Task.Handle]++
			}}))
		gate := make(chan struct{})
		policies := []func(chan struct{}) bool{
			func(chan struct{}) bool { panic("If") },
			func(chan struct{}) bool { runtime.Goexit(); return true },
			func(thinks chan struct{}) bool { <-thinks; return false },
			func(thinks chan struct{}) bool { <-thinks; panic("If") },
			func(thinks chan struct{}) bool { <-thinks; runtime.Goexit(); return true },
		}
		var all []*taskpool.Handle
		for len(all) < tasks {
			thinks := make(chan struct{})
			thinking := 0
			var asked atomic.Int32
			for range workers {
				policy := policies[len(all)%len(policies)]
				if len(all)%len(policies) >= 2 {
					thinking++
				}
				all = append(all, pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil },
					Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait, If: func(error) bool { asked.Add(1); return policy(thinks) }}}))
			}
			time.Sleep(time.Second + hangGrace)
			synctest.Wait()
			require.Equal(t, thinking, p.Stats().Running)
			require.Equal(t, len(all)-thinking, p.Stats().Abandoned)
			require.Equal(t, workers-thinking, runAtOnce(t, p, workers+1))
			time.Sleep(time.Hour)
			require.EqualValues(t, workers, asked.Load(), "once each")
			close(thinks)
			synctest.Wait()
			require.Equal(t, len(all), p.Stats().Abandoned)
			require.EqualValues(t, workers, asked.Load())
			pooltest.RequireWhole(t, p, workers)
		}
		close(gate)
		synctest.Wait()
		s := p.Stats()
		require.EqualValues(t, tasks, s.Failed)
		require.EqualValues(t, tasks, s.Hangs)
		require.Zero(t, s.Retries)
		mu.Lock()
		defer mu.Unlock()
		for _, h := range all {
			require.ErrorIs(t, h.Err(), taskpool.ErrHung)
			require.Equal(t, 1, finished[h])
		}
	})
}

// Canceled or shut down while If thinks: the task settles once, and a yes that
// comes later grants nothing.
func TestYesOfThePolicyComesTooLateForATaskThatIsOver(t *testing.T) {
	for _, name := range []string{"Cancel", "Shutdown"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(hangGrace))
				gate, thinks := make(chan struct{}), make(chan struct{})
				var n, asked atomic.Int32
				h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { n.Add(1); <-gate; return nil },
					Retry: taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait, If: func(error) bool { asked.Add(1); <-thinks; return true }}})
				time.Sleep(time.Second + hangGrace)
				synctest.Wait()
				require.EqualValues(t, 1, asked.Load())
				switch name {
				case "Cancel":
					require.True(t, h.Cancel(pooltest.ErrCause))
					synctest.Wait()
					var e *taskpool.HungError
					require.ErrorAs(t, h.Err(), &e)
					require.NotEmpty(t, e.Stack)
				case "Shutdown":
					began := time.Now()
					var e *taskpool.ShutdownError
					require.ErrorAs(t, p.Shutdown(pooltest.EndedContext()), &e)
					require.Equal(t, 2*hangGrace, time.Since(began), "it waits for If")
					require.Len(t, e.Unfinished, 1)
					require.Equal(t, taskpool.StateFailed, h.State())
				}
				close(thinks)
				synctest.Wait()
				require.Equal(t, taskpool.StateFailed, h.State())
				err := h.Err()
				require.ErrorIs(t, err, taskpool.ErrHung)
				close(gate)
				synctest.Wait()
				require.Same(t, err, h.Err())
				require.EqualValues(t, 1, n.Load())
				require.EqualValues(t, 1, asked.Load())
				s := p.Stats()
				pooltest.RequireConserved(t, s)
				require.EqualValues(t, 1, s.Failed)
				require.EqualValues(t, 1, s.Hangs)
				require.Zero(t, s.Retries)
				require.Zero(t, s.Abandoned)
			})
		})
	}
}
