package theorems_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// The theorems of docs/starvation.md, on the real pool. A trace is driven by
// the tasks themselves: at any moment one of those that run makes the next
// random steps, and then ends itself or lets another end. All slots stay taken,
// so each end is followed by one dispatch, and that task drives on. So the order
// of the dispatches is known exactly, with any number of workers.

// traces is how many random traces each theorem is tested with.
func traces() uint64 { return uint64(pooltest.Times(10_000, 1_000)) }

// A traceTask is a task in a trace.
type traceTask struct {
	id       int
	h        *taskpool.Handle // nil if given to Go
	pr       taskpool.Priority
	gate     chan struct{}
	fails    bool // the attempt under way is to be retried
	attempts int
	slice    time.Duration // when it got its slot

	// Of its present wait.

	seq      int           // number in order of arrival
	at       time.Duration // time of arrival
	resuming bool
	deadline int // it must start by this dispatch of those that can run it
}

// A traceLane is what the order is decided between.
type traceLane struct {
	pr       taskpool.Priority
	resuming bool
}

func (x *traceTask) lane() traceLane { return traceLane{x.pr, x.resuming} }

// before is the order of lanes without a fair-share turn and without aging.
func (l traceLane) before(m traceLane) bool {
	return l.pr < m.pr || l.pr == m.pr && l.resuming && !m.resuming
}

// A traceConfig says what the traces of a test are made of.
type traceConfig struct {
	shares   []int           // picked from; 0: strict
	steps    []time.Duration // aging, in place of the shares: picked from
	extremes bool            // priorities at the ends of int among the others
	workers  int             // at most
	yields   bool
	reserved bool
}

// traceTotals is what happened in all traces of a test. A test looks at it to
// know that it has tested something.
type traceTotals struct {
	dispatches, choices, lost, tight                     int
	cancels, moves, retries, yields, quanta, resumptions int
	restricted                                           int
	passedOver                                           int // pairs in which the younger went first
}

// An orderTrace is one pool and what the test knows about it. Whoever drives has it
// for itself.
type orderTrace struct {
	cfg    traceConfig
	totals *traceTotals
	rng    *rand.Rand
	p      *taskpool.Pool
	begin  time.Time

	n           int // the fair share
	step        time.Duration
	workers     int
	reserved    int
	reservedFor taskpool.Priority

	spread                         int     // of the priorities
	urgent                         float64 // how often an arrival is more urgent than all that wait
	arrive, cancel, move, fail, yd float64 // how often
	left                           int     // dispatches until the end

	nextID, seq int
	waiting     []*traceTask // in order of arrival
	running     []*traceTask
	restricted  bool   // the dispatch to come
	count       [2]int // dispatches so far: unrestricted, all
	choices     [2]int // with a choice: unrestricted, restricted
	lastLost    [2]int // the last of these that urgent work lost; 0: none
	err         error  // the first promise broken
	log         []int  // the tasks in order of their dispatches
	ended       bool   // no more steps
	quantum     time.Duration
}

// checkTraces runs random traces and checks every promise at every dispatch.
func checkTraces(t *testing.T, cfg traceConfig) (totals traceTotals) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		for seed := range traces() {
			tr := newTrace(t, cfg, seed, &totals)
			if err := tr.run(t); err != nil {
				t.Fatalf("seed %d (workers %d, n %d, step %v, %d reserved for %d), dispatches %v: %v",
					seed, tr.workers, tr.n, tr.step, tr.reserved, tr.reservedFor, tr.log, err)
			}
		}
	})
	t.Logf("%d traces: %+v", traces(), totals)
	return totals
}

func newTrace(t *testing.T, cfg traceConfig, seed uint64, totals *traceTotals) *orderTrace {
	rng := rand.New(rand.NewPCG(seed, 77))
	tr := &orderTrace{cfg: cfg, totals: totals, rng: rng, begin: time.Now(), workers: 1 + rng.IntN(cfg.workers),
		spread: 1 + rng.IntN(8), urgent: rng.Float64() * rng.Float64(),
		arrive: .8 + .4*rng.Float64(), cancel: .15 * rng.Float64(), move: .2 * rng.Float64(),
		fail: .3 * rng.Float64(), yd: .5 * rng.Float64(), left: 6 + rng.IntN(16), quantum: 3 * time.Millisecond}
	if rng.IntN(32) == 0 {
		tr.left += rng.IntN(150)
	}
	if cfg.reserved {
		tr.workers++
		tr.reserved, tr.reservedFor = 1+rng.IntN(tr.workers-1), tr.priority()
	}
	opts := []taskpool.Option{taskpool.WithWorkers(tr.workers), taskpool.WithReserved(tr.reserved, tr.reservedFor),
		taskpool.WithQuantum(tr.quantum)}
	if len(cfg.steps) > 0 {
		tr.step = cfg.steps[rng.IntN(len(cfg.steps))]
		opts = append(opts, taskpool.WithAging(tr.step))
	} else {
		tr.n = cfg.shares[rng.IntN(len(cfg.shares))]
		opts = append(opts, taskpool.WithFairShare(tr.n))
	}
	tr.p = pooltest.New(discardCleanup{t}, opts...)
	return tr
}

// discardCleanup keeps 10,000 pools that were shut down out of the test's list
// of what is to be cleaned up.
type discardCleanup struct{ testing.TB }

func (discardCleanup) Cleanup(func()) {}

func (tr *orderTrace) priority() taskpool.Priority {
	if tr.cfg.extremes && tr.rng.IntN(3) == 0 {
		ends := []taskpool.Priority{math.MinInt, math.MinInt + 1, math.MinInt / 2, math.MaxInt / 2, math.MaxInt - 1, math.MaxInt}
		return ends[tr.rng.IntN(len(ends))]
	}
	return taskpool.Priority(tr.rng.IntN(tr.spread) - tr.spread/2)
}

// run takes the trace to its end.
func (tr *orderTrace) run(t *testing.T) error {
	// The first tasks fill the slots; only the most urgent may do so on all.
	for i := range tr.workers {
		x := &traceTask{id: -1 - i, pr: math.MinInt, gate: make(chan struct{})}
		tr.running = append(tr.running, x)
		if i < tr.workers-1 {
			require.NoError(t, tr.p.Go(x.pr, func() { <-x.gate }))
			continue
		}
		require.NoError(t, tr.p.Go(x.pr, func() {
			for range tr.rng.IntN(12) {
				tr.add()
			}
			tr.drive(context.Background(), x)
		}))
	}
	require.NoError(t, tr.p.WaitIdle(context.Background()))
	s := tr.p.Stats()
	require.NoError(t, tr.p.Shutdown(context.Background()))
	pooltest.RequireConserved(t, s)
	if tr.err == nil && len(tr.waiting) > 0 {
		return fmt.Errorf("%d tasks have not started", len(tr.waiting))
	}
	return tr.err
}

func (tr *orderTrace) chance(p float64) bool { return tr.rng.Float64() < p }

func (tr *orderTrace) broken(format string, args ...any) {
	if tr.err == nil {
		tr.err = fmt.Errorf(format, args...)
	}
	tr.ended = true
}

var errTrace = errors.New("to be retried")

// body is the Run of a task of a trace.
func (tr *orderTrace) body(ctx context.Context, x *traceTask) error {
	tr.started(x)
	tr.drive(ctx, x)
	if x.fails {
		return errTrace
	}
	return nil
}

// drive makes steps until x is to end.
func (tr *orderTrace) drive(ctx context.Context, x *traceTask) {
	for {
		tr.steps()
		if len(tr.waiting) == 0 {
			if tr.ended {
				for _, y := range tr.running {
					if y.fails = false; y != x {
						close(y.gate)
					}
				}
				return
			}
			tr.add()
		}
		if x.h != nil && tr.cfg.yields && !tr.ended && tr.chance(tr.yd) {
			tr.yield(ctx, x)
			continue
		}
		y := tr.nextToEnd(x)
		y.fails = y.h != nil && !tr.ended && y.attempts < 5 && tr.chance(tr.fail)
		tr.running = slices.DeleteFunc(tr.running, func(z *traceTask) bool { return z == y })
		if y.fails {
			tr.totals.retries++
			tr.arrived(y, false)
		}
		tr.restricted = tr.isRestricted()
		if y == x {
			return
		}
		close(y.gate)
		<-x.gate
		return
	}
}

// nextToEnd picks a running task whose end is followed by a dispatch.
func (tr *orderTrace) nextToEnd(x *traceTask) *traceTask {
	forAll := slices.ContainsFunc(tr.waiting, func(w *traceTask) bool { return !tr.lessUrgent(w.pr) })
	for {
		y := x
		if tr.chance(.7) {
			y = tr.running[tr.rng.IntN(len(tr.running))]
		}
		less := tr.runningLess()
		if tr.lessUrgent(y.pr) {
			less--
		}
		if forAll || tr.reserved == 0 || less < tr.workers-tr.reserved {
			return y
		}
		x = tr.running[tr.rng.IntN(len(tr.running))]
	}
}

func (tr *orderTrace) lessUrgent(pr taskpool.Priority) bool {
	return tr.reserved > 0 && pr > tr.reservedFor
}

func (tr *orderTrace) runningLess() (n int) {
	for _, y := range tr.running {
		if tr.lessUrgent(y.pr) {
			n++
		}
	}
	return n
}

// isRestricted reports whether a free slot is a reserved one.
func (tr *orderTrace) isRestricted() bool {
	return tr.reserved > 0 && tr.runningLess() >= tr.workers-tr.reserved
}

// steps makes random arrivals, cancels, and changes of priority, and lets time
// pass.
func (tr *orderTrace) steps() {
	if tr.left--; tr.left <= 0 {
		tr.ended = true
	}
	if tr.ended {
		return
	}
	for p := tr.arrive; tr.chance(p) && len(tr.waiting) < 60; p *= .5 {
		tr.pass()
		tr.add()
	}
	if tr.chance(tr.cancel) {
		if x := tr.pick(); x != nil {
			tr.totals.cancels++
			if !x.h.Cancel(nil) {
				tr.broken("task %d waits and cannot be canceled", x.id)
			}
			tr.remove(x)
			tr.refresh()
		}
	}
	if tr.chance(tr.move) {
		if x := tr.pick(); x != nil {
			tr.totals.moves++
			tr.remove(x)
			x.pr = tr.priority()
			if !x.h.SetPriority(x.pr) {
				tr.broken("task %d waits and cannot be moved", x.id)
			}
			tr.arrived(x, false)
		}
	}
	tr.pass()
}

// pass lets time pass, or not, where time matters. Whole steps make ties.
func (tr *orderTrace) pass() {
	switch {
	case tr.step > 0 && tr.chance(.4):
		time.Sleep(time.Duration(tr.rng.IntN(5)) * tr.step / 4)
	case tr.step > 0 && tr.chance(.2):
		time.Sleep(time.Duration(1 + tr.rng.Int64N(int64(tr.step))))
	case tr.cfg.yields && tr.chance(.3):
		time.Sleep(time.Duration(1+tr.rng.IntN(3)) * time.Millisecond)
	}
}

// add submits a task.
func (tr *orderTrace) add() {
	x := &traceTask{id: tr.nextID, pr: tr.priority(), gate: make(chan struct{})}
	tr.nextID++
	if tr.chance(tr.urgent) {
		for _, w := range tr.waiting {
			if w.pr > math.MinInt {
				x.pr = min(x.pr, w.pr-1)
			}
		}
	}
	var err error
	if tr.chance(.3) {
		err = tr.p.Go(x.pr, func() { _ = tr.body(context.Background(), x) })
	} else {
		x.h, err = tr.p.Submit(context.Background(), taskpool.Task{Priority: x.pr,
			Run: func(ctx context.Context) error {
				x.gate = make(chan struct{})
				return tr.body(ctx, x)
			},
			Retry: taskpool.Retry{MaxAttempts: 10, Backoff: func(int) time.Duration { return 0 }}})
	}
	if err != nil {
		tr.broken("refused: %w", err)
		return
	}
	tr.arrived(x, false)
}

// pick returns a waiting task that has a handle and is not parked.
func (tr *orderTrace) pick() *traceTask {
	if len(tr.waiting) == 0 {
		return nil
	}
	x := tr.waiting[tr.rng.IntN(len(tr.waiting))]
	if x.h == nil || x.h.State() != taskpool.StateQueued {
		return nil
	}
	return x
}

// yield calls Yield, which parks the task if and only if something more urgent
// waits, or something equally urgent and the quantum is over.
func (tr *orderTrace) yield(ctx context.Context, x *traceTask) {
	least := tr.waiting[0].pr
	for _, w := range tr.waiting {
		least = min(least, w.pr)
	}
	interrupted := least < x.pr
	parks := interrupted || least == x.pr && time.Since(tr.begin)-x.slice >= tr.quantum
	before := tr.p.Stats().Parks
	if parks {
		tr.totals.yields++
		if !interrupted {
			tr.totals.quanta++
		}
		tr.running = slices.DeleteFunc(tr.running, func(z *traceTask) bool { return z == x })
		tr.arrived(x, interrupted)
		tr.restricted = tr.isRestricted()
	}
	_ = taskpool.Yield(ctx)
	if parks {
		tr.started(x)
	} else if tr.p.Stats().Parks != before {
		tr.broken("task %d has nothing to yield to and parked", x.id)
	}
}

// arrived notes that x waits from now on.
func (tr *orderTrace) arrived(x *traceTask, resuming bool) {
	tr.seq++
	x.seq, x.at, x.resuming, x.deadline = tr.seq, time.Since(tr.begin), resuming, math.MaxInt
	tr.waiting = append(tr.waiting, x)
	tr.refresh()
}

func (tr *orderTrace) remove(x *traceTask) {
	tr.waiting = slices.DeleteFunc(tr.waiting, func(w *traceTask) bool { return w == x })
}

// able returns the number of dispatches so far that could have run x.
func (tr *orderTrace) able(x *traceTask) int {
	if tr.lessUrgent(x.pr) {
		return tr.count[0]
	}
	return tr.count[1]
}

// limit is the fair-share bound of x with m older tasks before it.
func (tr *orderTrace) limit(x *traceTask, m int) int {
	limit := tr.n * (m + 1)
	if tr.reserved > 0 && !tr.lessUrgent(x.pr) {
		limit += tr.n - 1
	}
	return limit
}

// refresh brings the deadlines up to date: the bound holds from every moment of
// a wait, with the older tasks that are left then.
func (tr *orderTrace) refresh() {
	for m, x := range tr.waiting {
		x.deadline = min(x.deadline, tr.able(x)+tr.limit(x, m))
	}
}

// started checks a dispatch.
func (tr *orderTrace) started(x *traceTask) {
	x.slice = time.Since(tr.begin)
	x.attempts++
	tr.log = append(tr.log, x.id)
	tr.running = append(tr.running, x)
	if tr.err != nil {
		tr.remove(x)
		return
	}
	able := tr.waiting // those that this dispatch can run
	kind := 0
	if tr.restricted {
		kind = 1
		tr.totals.restricted++
		able = slices.DeleteFunc(slices.Clone(able), func(w *traceTask) bool { return tr.lessUrgent(w.pr) })
	}
	if !slices.Contains(able, x) {
		tr.broken("task %d does not wait for this slot", x.id)
		tr.remove(x)
		return
	}
	choice, lost := false, false
	for _, w := range able {
		choice = choice || w.lane() != x.lane()
		lost = lost || w.lane().before(x.lane())
		if w.lane() == x.lane() && w.seq < x.seq {
			tr.broken("task %d passed %d of the same lane", x.id, w.id)
		}
		if w.seq < x.seq {
			tr.totals.passedOver++
		}
	}
	tr.totals.dispatches++
	if choice {
		tr.totals.choices++
		tr.choices[kind]++
	}
	if x.resuming {
		tr.totals.resumptions++
	}
	if tr.step > 0 {
		tr.checkAging(x, able)
	} else if lost {
		tr.totals.lost++
		switch last := tr.lastLost[kind]; {
		case tr.n == 0:
			tr.broken("strict order: %d started before something more urgent", x.id)
		case last > 0 && tr.choices[kind]-last < tr.n:
			tr.broken("urgent work lost choices %d and %d", last, tr.choices[kind])
		}
		tr.lastLost[kind] = tr.choices[kind]
	}
	if tr.n == 1 && able[0] != x {
		tr.broken("first in, first out: %d started before %d", x.id, able[0].id)
	}

	if tr.count[1]++; !tr.restricted {
		tr.count[0]++
	}
	tr.remove(x)
	if tr.n == 0 {
		return
	}
	if able := tr.able(x); able > x.deadline {
		tr.broken("task %d started in dispatch %d, %d was its bound", x.id, able, x.deadline)
	} else if able == x.deadline {
		tr.totals.tight++
	}
	for _, w := range tr.waiting {
		if tr.able(w) >= w.deadline {
			tr.broken("task %d has not started by its bound, %d", w.id, w.deadline)
		}
	}
	tr.refresh()
}

// checkAging checks the promise of aging, in both directions, of the dispatch
// of x, one of those that could be run. A task that resumes goes before tasks of
// its priority that have not started, and with that in the place of the first
// of them.
func (tr *orderTrace) checkAging(x *traceTask, able []*traceTask) {
	place := func(pr taskpool.Priority) (at time.Duration) {
		at = math.MaxInt64
		for _, w := range able {
			if w.pr == pr {
				at = min(at, w.at)
			}
		}
		return at
	}
	at := place(x.pr)
	for _, w := range able {
		if w.pr == x.pr {
			if w.resuming && !x.resuming {
				tr.broken("task %d started before %d, which resumes", x.id, w.id)
			}
			continue
		}
		switch late := at - w.at; {
		case late >= 0 && atLeastHead(late, w.pr, x.pr, tr.step):
			tr.broken("task %d of priority %d passed %d of %d, which came %v before", x.id, x.pr, w.id, w.pr, late)
		case late < 0 && !atLeastHead(-late, x.pr, w.pr, tr.step) && !tr.cfg.extremes: // saturated keys are equal
			tr.broken("task %d of priority %d, which came %v after, was denied its head start over %d of %d", w.id, w.pr, -late, x.id, x.pr)
		}
	}
}

// atLeastHead reports whether late is at least (p-q)·step, without overflow.
func atLeastHead(late time.Duration, p, q taskpool.Priority, step time.Duration) bool {
	if p <= q {
		return true
	}
	hi, lo := bits.Mul64(uint64(p)-uint64(q), uint64(step))
	return hi == 0 && uint64(late) >= lo
}

// oneTo returns the numbers from 1 to n.
func oneTo(n int) (all []int) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

func TestTheoremFairShareBoundsEveryWait(t *testing.T) {
	totals := checkTraces(t, traceConfig{shares: oneTo(20), workers: 4})
	require.Greater(t, totals.tight, int(traces())/10, "bounds reached")
	require.Greater(t, totals.lost, int(traces())/20)
	require.Greater(t, min(totals.cancels, totals.moves, totals.retries), int(traces())/20)
}

func TestTheoremFairShareHoldsForTasksThatResume(t *testing.T) {
	totals := checkTraces(t, traceConfig{shares: oneTo(20), workers: 4, yields: true})
	require.Greater(t, totals.resumptions, int(traces())/20)
	require.Greater(t, totals.quanta, int(traces())/20)
	require.Greater(t, totals.lost, int(traces())/20)
}

func TestTheoremFairShareHoldsBesideReservedWorkers(t *testing.T) {
	totals := checkTraces(t, traceConfig{shares: oneTo(20), workers: 4, yields: true, reserved: true})
	require.Greater(t, totals.restricted, int(traces())/20)
	require.Greater(t, totals.lost, int(traces())/20)
}

func TestTheoremStrictOrderIsStrict(t *testing.T) {
	totals := checkTraces(t, traceConfig{shares: []int{0}, workers: 4, extremes: true, yields: true, reserved: true})
	require.Zero(t, totals.lost)
	require.Greater(t, totals.passedOver, int(traces())/20)
}

func TestTheoremFairShareOfOneIsFirstInFirstOut(t *testing.T) {
	totals := checkTraces(t, traceConfig{shares: []int{1}, workers: 4, extremes: true, yields: true})
	require.Zero(t, totals.passedOver)
	require.Greater(t, totals.choices, int(traces())/20)
}

func TestTheoremAgingKeepsItsPromise(t *testing.T) {
	totals := checkTraces(t, traceConfig{steps: []time.Duration{time.Second}, workers: 4})
	require.Greater(t, totals.passedOver, int(traces())/20)
}

func TestTheoremAgingHoldsForTasksThatResume(t *testing.T) {
	totals := checkTraces(t, traceConfig{steps: []time.Duration{10 * time.Millisecond}, workers: 4, yields: true, reserved: true})
	require.Greater(t, totals.resumptions, int(traces())/20)
	require.Greater(t, totals.restricted, int(traces())/20)
}

func TestTheoremAgingKeepsItsPromiseAtTheEndsOfInt(t *testing.T) {
	steps := []time.Duration{1, time.Second, time.Hour}
	totals := checkTraces(t, traceConfig{steps: steps, workers: 4, extremes: true})
	require.Greater(t, totals.passedOver, int(traces())/20)
}

// A stepper is a pool whose tasks run until they are told to end, so that
// dispatches can be counted and made one by one. Only in a bubble.
type stepper struct {
	t       testing.TB
	p       *taskpool.Pool
	running map[string][]chan struct{} // by name, in order of their starts
	started []string
}

func newStepper(t testing.TB, opts ...taskpool.Option) *stepper {
	s := &stepper{t: t, p: pooltest.New(discardCleanup{t}, opts...), running: map[string][]chan struct{}{}}
	t.Cleanup(s.finish)
	return s
}

func (s *stepper) add(name string, pr taskpool.Priority) {
	s.t.Helper()
	require.NoError(s.t, s.p.Go(pr, func() { // one starts at a time
		gate := make(chan struct{})
		s.started = append(s.started, name)
		s.running[name] = append(s.running[name], gate)
		<-gate
	}))
	synctest.Wait()
}

// end ends the first running task of that name, and returns who started then.
func (s *stepper) end(name string) (next string) {
	s.t.Helper()
	gates := s.running[name]
	require.NotEmpty(s.t, gates, "%s does not run", name)
	before := len(s.started)
	s.running[name] = gates[1:]
	close(gates[0])
	synctest.Wait()
	require.LessOrEqual(s.t, len(s.started), before+1)
	if len(s.started) > before {
		return s.started[before]
	}
	return ""
}

// finish ends all; also at the end of a test that fails.
func (s *stepper) finish() {
	for len(s.running) > 0 {
		for name, gates := range s.running {
			delete(s.running, name)
			for _, gate := range gates {
				close(gate)
				synctest.Wait()
			}
		}
	}
	require.NoError(s.t, s.p.Shutdown(context.Background()))
}

// The bound is reached, for every n and m: no smaller one is true.
func TestTheoremFairShareBoundIsTight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n := 1; n <= 20; n++ {
			for m := range 21 {
				s := newStepper(t, taskpool.WithWorkers(1), taskpool.WithFairShare(n))
				s.add("urgent", taskpool.High)
				for range m {
					s.add("older", taskpool.Medium)
				}
				s.add("the task", taskpool.Low)
				running, dispatches := "urgent", 0
				for running != "the task" {
					s.add("urgent", taskpool.High)
					running = s.end(running)
					dispatches++
					require.LessOrEqual(t, dispatches, n*(m+1), "n %d, m %d", n, m)
				}
				require.Equal(t, n*(m+1), dispatches, "n %d, m %d", n, m)
				s.finish()
			}
		}
	})
}

// With reserved workers the bound of a task that may use them is n-1 more, and
// that of a task that may not leaves out the dispatches it cannot get.
func TestTheoremBoundBesideReservedWorkersIsTight(t *testing.T) {
	for _, least := range []taskpool.Priority{taskpool.Medium, taskpool.Low} {
		synctest.Test(t, func(t *testing.T) {
			for n := 1; n <= 20; n++ {
				for m := range 8 {
					s := newStepper(t, taskpool.WithWorkers(2), taskpool.WithFairShare(n),
						taskpool.WithReserved(1, taskpool.Medium))
					s.add("blocker", taskpool.Low)
					s.add("urgent", taskpool.High)
					for range m {
						s.add("older", least)
					}
					s.add("the task", least)
					// The blocker has the only slot for Low: these are restricted.
					restricted := n - 1
					if least == taskpool.Low {
						restricted = 3 * n // as many as you like
					}
					for range restricted {
						s.add("urgent", taskpool.High)
						require.Equal(t, "urgent", s.end("urgent"), "n %d, m %d", n, m)
					}
					s.add("urgent", taskpool.High)
					running, unrestricted := s.end("blocker"), 1
					for running != "the task" {
						s.add("urgent", taskpool.High)
						running = s.end(running) // the other slot has a High task
						unrestricted++
						require.LessOrEqual(t, unrestricted, n*(m+1), "n %d, m %d", n, m)
					}
					if least == taskpool.Low {
						require.Equal(t, n*(m+1), unrestricted, "n %d, m %d", n, m)
					} else {
						require.Equal(t, n*(m+1)+n-1, restricted+unrestricted, "n %d, m %d", n, m)
					}
					s.finish()
				}
			}
		})
	}
}

// Nor can urgent work be promised more: with enough less urgent work it loses
// the n-th choice, and every n-th after it.
func TestTheoremUrgentWorkLosesExactlyEveryNth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n := 1; n <= 20; n++ {
			s := newStepper(t, taskpool.WithWorkers(1), taskpool.WithFairShare(n))
			s.add("urgent", taskpool.High)
			for range 12 {
				s.add("low", taskpool.Low)
			}
			running := "urgent"
			for i := range 10 * n {
				s.add("urgent", taskpool.High)
				running = s.end(running)
				// With n = 1 the urgent ones are older than nobody.
				require.Equal(t, (i+1)%n == 0, running == "low", "n %d, choice %d", n, i+1)
			}
			s.finish()
		}
	})
}

// More waiting never hurts: a task that arrives earlier, all else being equal,
// starts after no more dispatches than it would have.
func TestTheoremUnderAgingMoreWaitingNeverHurts(t *testing.T) {
	type arrival struct {
		dispatch int // arrives while the task of this dispatch runs
		pr       taskpool.Priority
	}
	synctest.Test(t, func(t *testing.T) {
		sooner := 0
		for seed := range traces() {
			rng := rand.New(rand.NewPCG(seed, 78))
			const length = 24
			step := time.Duration(1 + rng.IntN(6))
			gaps := make([]time.Duration, length+1)
			others := make([][]taskpool.Priority, length+1)
			for i := range gaps {
				gaps[i] = time.Duration(rng.IntN(4))
				for range rng.IntN(3) {
					others[i] = append(others[i], taskpool.Priority(rng.IntN(9)-4))
				}
			}
			startOf := func(a arrival) (start int) {
				p := pooltest.New(discardCleanup{t}, taskpool.WithWorkers(1), taskpool.WithAging(step))
				dispatch := -1
				var run func()
				run = func() {
					if dispatch++; dispatch > length {
						return
					}
					if dispatch == a.dispatch {
						_ = p.Go(a.pr, func() { start = dispatch + 1; run() })
					}
					for _, pr := range others[dispatch] {
						_ = p.Go(pr, run)
					}
					_ = p.Go(1_000_000, run) // so that there is always a next
					time.Sleep(gaps[dispatch])
				}
				require.NoError(t, p.Go(0, run))
				require.NoError(t, p.WaitIdle(context.Background()))
				require.NoError(t, p.Shutdown(context.Background()))
				return start
			}
			a := arrival{1 + rng.IntN(length), taskpool.Priority(rng.IntN(9) - 4)}
			late := startOf(a)
			a.dispatch = rng.IntN(a.dispatch)
			early := startOf(a)
			require.Positive(t, late, "seed %d", seed)
			require.LessOrEqual(t, early, late, "seed %d: %+v", seed, a)
			if early < late {
				sooner++
			}
		}
		require.Greater(t, sooner, int(traces())/2)
	})
}

// Tasks that fail for ever and are due again at once take turns with those of their
// priority that have not started, whatever the policy: with m older tasks before it,
// one of these starts within m+1 dispatches.
func TestTheoremRetriesPassNoFirstAttempt(t *testing.T) {
	for name, policy := range map[string]taskpool.Option{
		"strict":     taskpool.WithFairShare(0),
		"fair share": taskpool.WithFairShare(16),
		"aging":      taskpool.WithAging(time.Second),
	} {
		for _, workers := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d workers", name, workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := pooltest.New(t, taskpool.WithWorkers(workers), policy)
					var starts atomic.Int64
					var failing []*taskpool.Handle
					for range 2 * workers {
						failing = append(failing, pooltest.Submit(t, p, taskpool.Task{
							Retry: taskpool.Retry{MaxAttempts: 1 << 30},
							Run: func(ctx context.Context) error {
								starts.Add(1)
								time.Sleep(time.Millisecond)
								return taskpool.RetryAfter(0, errors.New("fails"))
							}}))
					}
					for i := range 50 {
						time.Sleep(time.Duration(i%3) * time.Millisecond)
						synctest.Wait()
						older, before := p.Stats().Queued, starts.Load()
						pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error {
							if n := starts.Add(1) - before; n > int64(older+workers) { // workers count their starts in any order
								t.Errorf("task %d: %d older tasks waited, and it was number %d to start", i, older, n)
							}
							time.Sleep(time.Millisecond)
							return nil
						}})
					}
					time.Sleep(time.Second)
					synctest.Wait()
					require.EqualValues(t, 50, p.Stats().Succeeded)
					for _, h := range failing {
						require.True(t, h.Cancel(nil))
					}
					require.NoError(t, p.Shutdown(context.Background()))
				})
			})
		}
	}
}
