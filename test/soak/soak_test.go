package soak_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
)

var (
	soakFor  = flag.Duration("soak", 0, "how long TestSoak runs; 0: 2s, and 1s with -short")
	soakSeed = flag.Uint64("soak.seed", 0, "seed of TestSoak; 0: a new one")
)

const (
	soakPools     = 6    // that live at once
	soakFlight    = 2000 // unsettled tasks of a pool beyond which its submitters wait
	soakAttempts  = 4    // the largest MaxAttempts
	soakDepth     = 3    // of nesting
	soakHeap      = 256 << 20
	soakStall     = 60  // seconds, see watch
	soakMostExtra = 200 // rounds beyond the duration, see TestSoak
)

var (
	errSoakCancel    = errors.New("soak: canceled by its handle")
	errSoakRoot      = errors.New("soak: all contexts of the pool are over")
	errSoakOwn       = errors.New("soak: the task's own context is over")
	errSoakImpatient = errors.New("soak: shutdown cut short")
)

// TestSoak mixes everything that a pool can do, at random and in real time, on
// several pools at once, each of which is shut down sooner or later and gives
// way to a new one. Nothing is asserted about how long anything takes. What must
// hold is written down by the tasks and hooks themselves, and compared with what
// the pool says: when a task settles, at samples, and when its pool has ended.
//
// It goes in rounds. At the end of each everything has stopped, so that
// goroutines left over and the live heap can be told from those in use.
//
// The seed decides the options and the tasks. The interleaving it does not, so
// that a seed that failed once is a hint only.
func TestSoak(t *testing.T) {
	duration := *soakFor
	if duration <= 0 {
		duration = 2 * time.Second
		if testing.Short() {
			duration = time.Second
		}
	}
	s := &soak{seed: *soakSeed}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	t.Logf("-soak.seed=%d: a hint only, as the interleaving is not seeded", s.seed)
	s.ctx, s.stop = context.WithCancel(context.Background())
	defer s.stop()
	unwatch := s.watch()
	defer unwatch()

	// A round that is too short has nothing but beginnings and ends. After the
	// duration it goes on until each outcome was seen, so that the test has
	// power on a slow machine too.
	length := min(max(duration/8, 250*time.Millisecond), 3*time.Second)
	begin := time.Now()
	var heaps []uint64
	for extra := 0; s.ctx.Err() == nil; {
		if time.Since(begin) >= duration {
			if s.unseen() == "" || extra == soakMostExtra {
				break
			}
			extra++
		}
		heaps = append(heaps, s.round(length))
	}
	s.report(t, heaps, time.Since(begin))
	if n := len(heaps) / 4; n >= 3 {
		first, last := soakMedian(heaps[:n]), soakMedian(heaps[len(heaps)-n:])
		require.LessOrEqual(t, last, first+first/2+8<<20,
			"the heap grows: median of the first and of the last quarter of %d rounds", len(heaps))
	}
	require.Empty(t, s.unseen(), "never seen in %d rounds", len(heaps))
}

// A soak is what the pools of the test have in common.
type soak struct {
	seed     uint64
	ctx      context.Context // ends with the first failure
	stop     context.CancelFunc
	berths   [soakPools]atomic.Pointer[soakPool]
	made     atomic.Uint64 // pools so far
	progress atomic.Uint64 // anything that moves; see watch

	mu       sync.Mutex // protects the fields below
	failures []string
	state    string // of everything, at the first failure
	total    soakTotals
	endings  [numSoakEndings]int
}

// soakTotals is summed up over pools that have ended.
type soakTotals struct {
	s                                    taskpool.Stats
	bodies, unfinished, contained, peaks uint64
	mapped, grouped, late                uint64
}

// unseen names what ought to have happened and has not.
func (s *soak) unseen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none []string
	for _, c := range []struct {
		name string
		n    uint64
	}{
		{"success", s.total.s.Succeeded}, {"failure", s.total.s.Failed}, {"cancellation", s.total.s.Canceled},
		{"shedding", s.total.s.Shed}, {"refusal", s.total.s.Refused}, {"retry", s.total.s.Retries},
		{"park", s.total.s.Parks}, {"panic", s.total.s.Panics}, {"goexit", s.total.s.Goexits}, {"hang", s.total.s.Hangs},
		{"unfinished task", s.total.unfinished}, {"contained panic", s.total.contained},
		{"map", s.total.mapped}, {"group", s.total.grouped}, {"late return", s.total.late},
	} {
		if c.n == 0 {
			none = append(none, c.name)
		}
	}
	for e, n := range s.endings {
		if n == 0 {
			none = append(none, "ending "+soakEnding(e).String())
		}
	}
	return strings.Join(none, ", ")
}

// report logs the totals and fails t if anything has failed.
func (s *soak) report(t *testing.T, heaps []uint64, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, x := s.total.s, s.total
	t.Logf("soak: %d tasks accepted: %d succeeded, %d failed, %d canceled, %d shed; %d refused, %d attempts, %d retries, "+
		"%d panics, %d goexits, %d hangs (%d returned late), %d parks, %d workers replaced, %d unfinished at shutdown, "+
		"%d maps, %d groups, %d panics in hooks, %d bodies; %d pools (%d with all slots in use at once), endings %v, "+
		"%d rounds, max heap %.1f MiB, %v",
		st.Submitted, st.Succeeded, st.Failed, st.Canceled, st.Shed, st.Refused, st.Attempts, st.Retries,
		st.Panics, st.Goexits, st.Hangs, x.late, st.Parks, st.Replaced, x.unfinished,
		x.mapped, x.grouped, x.contained, x.bodies, s.made.Load(), x.peaks, s.endings,
		len(heaps), float64(slices.Max(append(heaps, 0)))/(1<<20), d.Round(time.Millisecond))
	if len(s.failures) > 0 { // once more at the end, which is what one sees of a long log
		failures := strings.Join(s.failures, "\n")
		t.Fatalf("-soak.seed=%d (a hint only)\n%s\n\n%s\n\n%s", s.seed, failures, s.state, failures)
	}
}

// fail takes note of a failure, and of the state of everything at the first.
// It may be called anywhere, also in a hook.
func (s *soak) fail(g *soakPool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	var state string
	if s.ctx.Err() == nil {
		state = s.describe(g)
	}
	if g != nil {
		text = g.name + ": " + text
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == "" {
		s.state = state
	}
	if len(s.failures) < 20 {
		s.failures = append(s.failures, text)
	}
	s.stop()
}

// describe says what is needed to find out about a failure in g.
func (s *soak) describe(g *soakPool) string {
	var b strings.Builder
	pools := []*soakPool{g}
	for i := range s.berths {
		if o := s.berths[i].Load(); o != g {
			pools = append(pools, o)
		}
	}
	for _, g := range pools {
		if g == nil || g.p == nil {
			continue
		}
		fmt.Fprintf(&b, "pool %s: %s\n%+v\nretired %v, closing %v, may be cut %v; own counts: accepted %d, finished %v, started %d, "+
			"running %d (most %d), inside %d, users %d, left late %d\n", g.name, g.options, g.p.Stats(),
			g.retired.Load(), g.closing.Load(), g.mayCut.Load(), g.queued.Load(), g.finishedByState(), g.started.Load(),
			g.running.Load(), g.peak.Load(), g.inside.Load(), g.users.Load(), g.left.Load())
		tasks := g.p.Tasks(taskpool.StateQueued, taskpool.StateDelayed, taskpool.StateRunning, taskpool.StateParked, taskpool.StateAbandoned)
		for _, t := range tasks[:min(len(tasks), 100)] {
			fmt.Fprintf(&b, "  %d %q %v %v, attempt %d, worker %d, started %v, err %v\n",
				t.ID, t.Name, t.Priority, t.State, t.Attempt, t.Worker, t.Started, t.Err)
		}
	}
	dump := make([]byte, 512<<10)
	b.Write(dump[:runtime.Stack(dump, true)])
	return b.String()
}

// watch ends the process if nothing has moved for a minute, seen by a timer each
// second, so that a machine that sleeps does not count. It stands in for
// go test's -timeout, which cannot be short for a long run.
func (s *soak) watch() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		still, last := 0, uint64(0)
		for {
			select {
			case <-quit:
				return
			case <-time.After(time.Second):
			}
			now := s.progress.Load()
			if still++; now != last {
				still, last = 0, now
			}
			if still == soakStall {
				panic(fmt.Sprintf("soak: stalled, -soak.seed=%d (a hint only)\n%s\n%s", s.seed, strings.Join(s.failures, "\n"), s.describe(nil)))
			}
		}
	}()
	return func() { close(quit); <-done }
}

// round runs pools for about the given time, and until all have ended. It
// returns the live heap.
func (s *soak) round(length time.Duration) uint64 {
	before := goleak.IgnoreCurrent()
	over, cancel := context.WithTimeout(s.ctx, length)
	defer cancel()
	var keepers sync.WaitGroup
	for i := range s.berths {
		keepers.Go(func() { s.keep(i, over) })
	}
	keepers.Wait()
	cancel()
	// Goroutines that have done their work need a moment to be gone. One that
	// stays is found by each of the tries.
	var leaked error
	for range 10 {
		if leaked = goleak.Find(before); leaked == nil {
			break
		}
	}
	if leaked != nil {
		s.fail(nil, "goroutines are left when all pools have ended: %v", leaked)
	}
	runtime.GC()
	runtime.GC() // what the first found has finalizers run, or sync.Pools emptied
	live := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(live)
	heap := live[0].Value.Uint64()
	if heap > soakHeap {
		s.fail(nil, "live heap of %d MiB with all pools ended", heap>>20)
	}
	s.progress.Add(1)
	return heap
}

// keep has one pool after the other in berth i.
func (s *soak) keep(i int, over context.Context) {
	for over.Err() == nil {
		g := s.newPool()
		if g == nil {
			return
		}
		s.berths[i].Store(g)
		for n := range 3 {
			g.crowd.Go(func() { g.submitAll(g.rng(uint64(n))) })
		}
		g.crowd.Go(func() { g.disturb(g.rng(10)) })
		select {
		case <-g.enough:
		case <-over.Done():
		}
		g.end(g.rng(11))
	}
	s.berths[i].Store(nil)
}

// A soakPool is a pool, what it was made with, and the account that the test
// keeps of it.
type soakPool struct {
	s       *soak
	p       *taskpool.Pool
	name    string
	options string // for describe
	seed    uint64
	root    context.Context // of many of the tasks
	cutRoot context.CancelCauseFunc

	slots, reserved  int
	reservedFor      taskpool.Priority
	capacity         int // -1: unbounded
	overflow         taskpool.Overflow
	grace            time.Duration
	hangs            bool // some tasks ignore the end of their context
	flows            int  // how many tasks may name; none if it is not above 0
	resizes, retries bool
	chaos            bool // hooks and logger panic now and then
	target           int64

	crowd     sync.WaitGroup // submitters and the disturber
	enough    chan struct{}  // closed when target tasks were accepted
	enoughOne sync.Once
	nudge     chan struct{} // for the disturber
	release   chan struct{} // closed for the tasks that hang to return
	retiredCh chan struct{}
	pulse     chan struct{} // something was counted while ending
	ending    atomic.Bool
	retired   atomic.Bool // no one enters any more
	closing   atomic.Bool // Shutdown may have been called
	mayCut    atomic.Bool // with too little patience
	rootOver  atomic.Bool
	users     atomic.Int64 // tasks that use the pool from inside, and others'
	inside    atomic.Int64 // bodies and their helpers
	dice      atomic.Uint64

	maxSlots  atomic.Int64 // most slots ever
	running   atomic.Int64 // bodies that should have a slot
	peak      atomic.Int64
	left      atomic.Int64 // bodies that have returned after they were given up
	refused   atomic.Uint64
	contained atomic.Uint64
	mapped    atomic.Uint64
	grouped   atomic.Uint64
	bodies    atomic.Uint64

	// As hooks and logger saw it.
	queued, started, retried, shed atomic.Uint64
	panics, goexits, hung          atomic.Uint64
	finished                       [taskpool.StateAbandoned + 1]atomic.Uint64
	warnings, failures             atomic.Uint64

	// Functions given to Go, which have no name.
	goAccepted, goStarted, goHung, goCanceled, goShed, goFinished atomic.Uint64

	recent [32]atomic.Pointer[soakTask]

	lessMu sync.Mutex             // protects less
	less   map[*soakBody]struct{} // those among running that began less urgent

	mu    sync.Mutex // protects tasks
	tasks []*soakTask
}

// newPool makes a pool with options at random, but of each kind of overflow
// with each capacity once in a while.
func (s *soak) newPool() *soakPool {
	n := s.made.Add(1)
	g := &soakPool{
		s: s, name: "p" + strconv.FormatUint(n, 10), seed: s.seed ^ n*0x9e3779b97f4a7c15, capacity: -1,
		enough: make(chan struct{}), nudge: make(chan struct{}, 1), release: make(chan struct{}),
		retiredCh: make(chan struct{}), pulse: make(chan struct{}, 1), less: map[*soakBody]struct{}{},
	}
	r := g.rng(100)
	g.root, g.cutRoot = context.WithCancelCause(context.Background())
	g.target = int64(200 + r.IntN(6000))
	g.slots = 1 + r.IntN(6)
	g.resizes, g.retries, g.chaos, g.hangs = oneIn(r, 2), !oneIn(r, 3), oneIn(r, 3), !oneIn(r, 3)
	g.grace = 5 * time.Second
	if g.hangs {
		g.grace = 30 * time.Millisecond
	}
	opts := []taskpool.Option{taskpool.WithName(g.name), taskpool.WithWorkers(g.slots), taskpool.WithHangGrace(g.grace),
		taskpool.WithLogger(slog.New(soakLog{g})), taskpool.WithHooks(g.hooks())}
	note := func(o taskpool.Option, format string, args ...any) {
		opts = append(opts, o)
		g.options += fmt.Sprintf(format+" ", args...)
	}
	g.options = fmt.Sprintf("workers %d, grace %v, resizes %v, retries %v, chaos %v, ", g.slots, g.grace, g.resizes, g.retries, g.chaos)
	if kind := n % 4; kind > 0 {
		g.capacity = []int{0, 1, 10, 100, 1000}[n/4%5]
		g.overflow = taskpool.Overflow(kind - 1)
		note(taskpool.WithCapacity(g.capacity, g.overflow), "capacity %d %v", g.capacity, g.overflow)
	}
	switch r.IntN(4) {
	case 0:
		share := []int{0, 1, 2, 5}[r.IntN(4)]
		note(taskpool.WithFairShare(share), "share %d", share)
	case 1:
		step := time.Duration(1+r.IntN(5000)) * time.Microsecond
		note(taskpool.WithAging(step), "aging %v", step)
		g.flows = -1
	}
	if g.flows == 0 && oneIn(r, 2) {
		g.flows = 1 + r.IntN(4)
		kind := r.IntN(3)
		note(taskpool.WithFlows(g.policy(kind)), "%d flows of kind %d", g.flows, kind)
	}
	if g.slots > 1 && oneIn(r, 3) {
		g.reserved, g.reservedFor = 1+r.IntN(g.slots-1), taskpool.Priority(r.IntN(3)-1)
		note(taskpool.WithReserved(g.reserved, g.reservedFor), "reserved %d %v", g.reserved, g.reservedFor)
	}
	if oneIn(r, 2) {
		parked := r.IntN(4)
		note(taskpool.WithMaxParked(parked), "parked %d", parked)
	}
	if oneIn(r, 2) {
		abandoned := r.IntN(4)
		note(taskpool.WithMaxAbandoned(abandoned), "abandoned %d", abandoned)
	}
	if oneIn(r, 2) {
		quantum := time.Duration(1+r.IntN(1000)) * time.Microsecond
		note(taskpool.WithQuantum(quantum), "quantum %v", quantum)
	}
	if oneIn(r, 2) {
		note(taskpool.WithHooks(g.around()), "around")
	}
	if g.chaos {
		note(taskpool.WithHooks(g.badHooks()), "bad hooks")
	}
	g.maxSlots.Store(int64(g.slots))
	p, err := taskpool.New(opts...)
	if err != nil {
		s.fail(g, "New(%s): %v", g.options, err)
		return nil
	}
	g.p = p
	return g
}

// policy returns the policies of flows: of kind 0 without limits, of kind 1 with limits that
// change, of kind 2 with a capacity, too, and also for tasks without a flow.
func (g *soakPool) policy(kind int) func(flow string) taskpool.FlowPolicy {
	return func(flow string) (p taskpool.FlowPolicy) {
		if len(flow) > 0 || kind == 2 {
			p.Weight = len(flow)
			if kind > 0 && !g.roll(5) {
				p.Limit = 1 + len(flow)%3
			}
			if kind == 2 && g.roll(2) {
				p.Capacity = 5
			}
		}
		return p
	}
}

func (g *soakPool) rng(n uint64) *rand.Rand { return rand.New(rand.NewPCG(g.seed, n)) }

func oneIn(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

func (g *soakPool) fail(format string, args ...any) { g.s.fail(g, format, args...) }

// roll is one in n times true, for hooks, which have no source of their own.
func (g *soakPool) roll(n uint64) bool {
	x := g.dice.Add(1)*0x9e3779b97f4a7c15 ^ g.seed
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	return (x>>32)%n == 0
}

// tick says that something was counted, see await.
func (g *soakPool) tick() {
	g.s.progress.Add(1)
	if g.ending.Load() {
		select {
		case g.pulse <- struct{}{}:
		default:
		}
	}
}

// await waits until cond, which must depend on what calls tick when it changes.
func (g *soakPool) await(cond func() bool) {
	g.ending.Store(true) // before cond looks
	for !cond() {
		<-g.pulse
	}
}

// enter lets a task use the pool from inside, until leave, if it is in use.
func (g *soakPool) enter() bool {
	g.users.Add(1)
	if g.retired.Load() {
		g.leave()
		return false
	}
	return true
}

func (g *soakPool) leave() {
	g.users.Add(-1)
	g.tick()
}

// retire turns everyone away and waits until all have gone.
func (g *soakPool) retire() {
	g.retired.Store(true)
	close(g.retiredCh)
	g.crowd.Wait()
	g.await(func() bool { return g.users.Load() == 0 })
}

// lookUp returns the task of that name, nil for a function given to Go.
func (g *soakPool) lookUp(name string) *soakTask {
	if name == "" {
		return nil
	}
	i, err := strconv.Atoi(name)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil || i >= len(g.tasks) {
		g.fail("a task of unknown name %q", name)
		return nil
	}
	return g.tasks[i]
}

func (g *soakPool) finishedByState() (n [taskpool.StateAbandoned + 1]uint64) {
	for i := range n {
		n[i] = g.finished[i].Load()
	}
	return n
}

func (g *soakPool) finishedInAll() (n uint64) {
	for _, f := range g.finishedByState() {
		n += f
	}
	return n
}

// hooks are those that count and check.
func (g *soakPool) hooks() taskpool.Hooks {
	known := func(e taskpool.TaskEvent) *soakTask {
		if e.Pool != g.name || (e.Task.Handle == nil) != (e.Task.ID == 0) || (e.Task.ID == 0) != (e.Task.Name == "") {
			g.fail("an event that is not the pool's, or mixes tasks and functions: %+v", e)
		}
		return g.lookUp(e.Task.Name)
	}
	return taskpool.Hooks{
		Queued: func(e taskpool.TaskEvent) {
			if t := known(e); t != nil {
				if n := t.accepted.Add(1); n > 1 && !t.shared {
					t.fail("was queued %d times", n)
				}
			}
			if g.queued.Add(1) >= uint64(g.target) {
				g.enoughOne.Do(func() { close(g.enough) })
			}
			g.tick()
		},
		Started: func(e taskpool.TaskEvent) {
			if t := known(e); t != nil && (e.Task.Attempt < 1 || e.Task.Attempt > t.max) {
				t.fail("started attempt %d of %d", e.Task.Attempt, t.max)
			}
			g.started.Add(1)
			g.tick()
		},
		AttemptFailed: func(e taskpool.TaskEvent) {
			known(e)
			// The error alone does not tell: a task that ends with its parent's context, as
			// a Group's members and their children do, wraps what that has ended with.
			var hung *taskpool.HungError
			var panicked *taskpool.PanicError
			is := true
			switch e.Result {
			case taskpool.ResultHung:
				is = errors.As(e.Err, &hung)
				g.hung.Add(1)
			case taskpool.ResultPanic:
				is = errors.As(e.Err, &panicked)
				g.panics.Add(1)
			case taskpool.ResultGoexit:
				is = errors.Is(e.Err, taskpool.ErrGoexit)
				g.goexits.Add(1)
			}
			if !is || e.Err == nil {
				g.fail("an attempt ended by %q with %v", e.Result, e.Err)
			}
			g.tick()
		},
		Retried: func(e taskpool.TaskEvent) {
			if t := known(e); t == nil || e.Err == nil || e.Delay < 0 || e.Task.Attempt >= t.max {
				g.fail("retried: %+v", e)
			}
			g.retried.Add(1)
			g.tick()
		},
		Shed: func(e taskpool.TaskEvent) {
			known(e)
			g.shed.Add(1)
			g.tick()
		},
		Finished: func(e taskpool.TaskEvent) {
			if t := known(e); t != nil {
				t.settle(e)
			} else {
				g.settleGo(e)
			}
			g.finished[e.Task.State].Add(1)
			g.tick()
		},
		WorkerDied:      func(taskpool.WorkerEvent) { g.tick() },
		WorkerAbandoned: func(taskpool.WorkerEvent) { g.tick() },
		WorkerReplaced: func(e taskpool.WorkerEvent) {
			if e.Replacement <= e.Worker {
				g.fail("worker %d replaced by %d", e.Worker, e.Replacement)
			}
			g.tick()
		},
	}
}

// around is a hook Around that changes nothing, though it may panic or die in
// some pools. Half of the attempts get a context derived from their own.
func (g *soakPool) around() taskpool.Hooks {
	type key struct{}
	bad := func() {
		switch {
		case !g.chaos:
		case g.roll(500):
			g.contained.Add(1)
			panic("soak: Around")
		case g.roll(1000):
			runtime.Goexit()
		}
	}
	return taskpool.Hooks{Around: func(ctx context.Context, t taskpool.TaskInfo, run func(context.Context) error) error {
		if g.roll(2) {
			ctx = context.WithValue(ctx, key{}, t.ID)
		}
		bad()
		err := run(ctx)
		bad()
		return err
	}}
}

// badHooks panic now and then. Only Started calls Goexit: it always runs on a
// worker, and never on a goroutine of this test.
func (g *soakPool) badHooks() taskpool.Hooks {
	bad := func() {
		if g.roll(300) {
			g.contained.Add(1)
			panic("soak: hook")
		}
	}
	task := func(taskpool.TaskEvent) { bad() }
	worker := func(taskpool.WorkerEvent) { bad() }
	return taskpool.Hooks{
		Queued: task, AttemptFailed: task, Retried: task, Shed: task, Finished: task,
		WorkerDied: worker, WorkerAbandoned: worker, WorkerReplaced: worker,
		Started: func(taskpool.TaskEvent) {
			if bad(); g.roll(500) {
				runtime.Goexit()
			}
		},
	}
}

// soakLog is a handler that counts, and panics now and then in some pools.
type soakLog struct{ g *soakPool }

func (l soakLog) Enabled(context.Context, slog.Level) bool { return true }
func (l soakLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l soakLog) WithGroup(string) slog.Handler            { return l }
func (l soakLog) Handle(_ context.Context, r slog.Record) error {
	switch {
	case r.Level == slog.LevelWarn:
		l.g.warnings.Add(1)
	case r.Level == slog.LevelError, r.Message == "taskpool: task failed": // Debug, if somebody gets the error
		l.g.failures.Add(1)
	}
	l.g.tick()
	if l.g.chaos && l.g.roll(100) {
		l.g.contained.Add(1)
		panic("soak: logger")
	}
	return nil
}

// A soakTask is a task and the account of it. One that is shared stands for all
// tasks of a Map or Group, which have one name.
type soakTask struct {
	g      *soakPool
	i      int
	task   taskpool.Task // without Run
	max    int
	depth  int
	does   soakWork
	seed   uint64
	shared bool
	typed  bool // it has a result: Run is the library's own

	ctx      context.Context
	cancel   context.CancelFunc // releases ctx; may be nil
	endable  bool               // ctx may end
	inherits bool               // ctx derives from another task's, and may end for its reasons
	rootOf   *soakPool          // whose root ctx derives from; nil if none's. Detach makes it another's

	canceled  atomic.Bool // Cancel may have been called
	moved     atomic.Bool // SetPriority may have been called
	noRetry   atomic.Bool // Cancel has returned true between an attempt and its retry
	accepted  atomic.Int32
	handle    atomic.Pointer[taskpool.Handle]
	settled   atomic.Pointer[soakSettled]
	got       atomic.Int64 // the result that somebody got
	bodies    [soakAttempts]atomic.Int32
	ends      [soakAttempts]atomic.Pointer[soakEnd]
	succeeded atomic.Int64 // shared: bodies that returned nil
}

type soakSettled struct {
	state   taskpool.State
	err     error
	attempt int
	hung    bool // the last attempt was given up
}

// A soakEnd is how a body ended.
type soakEnd struct {
	how   soakHow
	err   error
	value any // of a panic
}

type soakHow int

const (
	endOK soakHow = iota
	endError
	endPermanent
	endPanic
	endGoexit
)

// soakError is an error that no other body returns. What it wraps is not shown,
// or a task would seem to have had what its child had.
type soakError struct {
	t       *soakTask
	attempt int
	why     string
}

func (e *soakError) Error() string {
	return fmt.Sprintf("soak: task %d, attempt %d: %s", e.t.i, e.attempt, e.why)
}

func (t *soakTask) fail(format string, args ...any) {
	t.g.fail("task %d (%v, depth %d, %+v): %s", t.i, t.does, t.depth, t.task, fmt.Sprintf(format, args...))
}

// mayBeCanceled reports whether there is anything that could cancel the task.
func (t *soakTask) mayBeCanceled() bool {
	return t.endable || t.canceled.Load() || t.g.mayCut.Load()
}

// mayEnd reports whether there is anything that could end an attempt's context
// before Run returns. Without it, nothing can be hung.
func (t *soakTask) mayEnd() bool {
	return t.task.Timeout > 0 || t.task.WorkTimeout > 0 || t.task.Heartbeat > 0 || t.mayBeCanceled()
}

// settle checks a task's final state against what its bodies did.
func (t *soakTask) settle(e taskpool.TaskEvent) {
	h, n := e.Task.Handle, e.Task.Attempt
	var he *taskpool.HungError
	s := &soakSettled{state: e.Task.State, err: e.Err, attempt: n}
	s.hung = errors.As(e.Err, &he) || n > 0 && errors.As(e.Task.Err, &he)
	if state, err := h.State(), h.Err(); state != s.state || err != s.err {
		t.fail("finished %v with %v, and its handle says %v, %v", s.state, s.err, state, err)
	}
	if t.g.roll(8) {
		select {
		case <-h.Done():
		default:
			t.fail("finished, and Done is open")
		}
		if h.Cancel(errSoakCancel) || h.SetPriority(taskpool.High) {
			t.fail("finished, and could be canceled or moved")
		}
		if err := h.Wait(context.Background()); err != s.err {
			t.fail("finished with %v, and Wait returns %v", s.err, err)
		}
	}
	if t.shared {
		if s.state != taskpool.StateSucceeded && s.err == nil {
			t.fail("%v without an error", s.state)
		}
		return
	}
	if !t.settled.CompareAndSwap(nil, s) {
		t.fail("finished twice: %+v, %+v", t.settled.Load(), s)
		return
	}
	if t.cancel != nil {
		t.cancel()
	}
	if old := t.handle.Swap(h); old != nil && old != h {
		t.fail("has two handles")
	}
	if n > t.max {
		t.fail("%d attempts of %d", n, t.max)
		return
	}
	for i := range t.bodies {
		if k := t.bodies[i].Load(); k > 1 || k == 1 && i >= n {
			t.fail("finished %v after %d attempts, but the body of attempt %d ran %d times", s.state, n, i+1, k)
		}
	}
	var end *soakEnd
	if n > 0 {
		end = t.ends[n-1].Load()
	}
	switch s.state {
	case taskpool.StateSucceeded:
		if s.err != nil || end == nil || end.how != endOK {
			t.fail("succeeded with error %v after attempt %d, whose body ended with %+v", s.err, n, end)
		}
	case taskpool.StateShed:
		if s.err != taskpool.ErrShed || n > 0 || t.g.capacity < 0 || t.g.overflow != taskpool.OverflowShed {
			t.fail("shed with error %v after %d attempts", s.err, n)
		}
	case taskpool.StateCanceled:
		t.checkCanceled(s, end)
	case taskpool.StateFailed:
		t.checkFailed(s, end)
	default:
		t.fail("finished as %v", s.state)
	}
}

func (t *soakTask) checkCanceled(s *soakSettled, end *soakEnd) {
	if !t.mayBeCanceled() {
		t.fail("canceled without a reason: %v", s.err)
	}
	known := slices.ContainsFunc([]error{context.Canceled, context.DeadlineExceeded, taskpool.ErrClosed, taskpool.ErrHung,
		errSoakCancel, errSoakRoot, errSoakOwn}, func(err error) bool { return errors.Is(s.err, err) })
	if !known || errors.Is(s.err, errSoakCancel) && !t.canceled.Load() && !t.inherits ||
		errors.Is(s.err, errSoakRoot) && !t.inherits && (t.rootOf == nil || !t.rootOf.rootOver.Load()) {
		t.fail("canceled for a wrong reason: %v", s.err)
	}
	switch {
	case s.attempt == 0 || s.hung || t.endedBeforeRun(s):
	case end == nil:
		t.fail("canceled after attempt %d whose body has not returned: %v", s.attempt, s.err)
	case end.how == endOK:
		t.fail("canceled, and its body returned nil: %v", s.err)
	}
}

// endedBeforeRun reports whether the last attempt's context ended after it had begun
// and before its body was called.
func (t *soakTask) endedBeforeRun(s *soakSettled) bool { return t.bodies[s.attempt-1].Load() == 0 }

func (t *soakTask) checkFailed(s *soakSettled, end *soakEnd) {
	var hung *taskpool.HungError
	if errors.As(s.err, &hung) {
		if !t.mayEnd() {
			t.fail("hung, and nothing could have ended its context: %v", s.err)
		}
		if !errors.Is(s.err, taskpool.ErrHung) {
			t.fail("a HungError that is no ErrHung")
		}
		return // what the body came to does not count
	}
	if end == nil && t.endedBeforeRun(s) && (errors.Is(s.err, taskpool.ErrTimeout) || errors.Is(s.err, taskpool.ErrHung)) {
		return
	}
	if end == nil || end.how == endOK {
		t.fail("failed with %v after attempt %d whose body ended with %+v", s.err, s.attempt, end)
		return
	}
	right := false
	switch end.how {
	case endPanic:
		var e *taskpool.PanicError
		right = errors.As(s.err, &e) && e.Value == end.value && len(e.Stack) > 0
	case endGoexit:
		right = errors.Is(s.err, taskpool.ErrGoexit)
	default:
		right = errors.Is(s.err, end.err)
		if end.err == context.Canceled || end.err == context.DeadlineExceeded {
			right = errors.Is(s.err, taskpool.ErrTimeout) || errors.Is(s.err, taskpool.ErrHung)
		}
	}
	if !right {
		t.fail("failed with %v (%T) after attempt %d whose body ended with %+v", s.err, s.err, s.attempt, end)
	}
	mustRetry := end.how == endError || end.how == endPanic && !t.mayBeCanceled()
	if mustRetry && s.attempt < t.max && t.task.Retry.If == nil && t.task.Heartbeat == 0 {
		t.fail("given up after attempt %d of %d, which ended with %+v: %v", s.attempt, t.max, end, s.err)
	}
}

// settleGo is settle for functions given to Go.
func (g *soakPool) settleGo(e taskpool.TaskEvent) {
	g.goFinished.Add(1)
	var hung *taskpool.HungError
	switch e.Task.State {
	case taskpool.StateCanceled:
		g.goCanceled.Add(1)
		if !errors.Is(e.Err, taskpool.ErrClosed) || !g.mayCut.Load() {
			g.fail("a function was canceled: %v", e.Err)
		}
	case taskpool.StateShed:
		g.goShed.Add(1)
	case taskpool.StateFailed:
		if errors.As(e.Err, &hung) {
			if g.goHung.Add(1); !g.mayCut.Load() {
				g.fail("a function was given up, and no shutdown cut short: %v", e.Err)
			}
		} else if !errors.As(e.Err, new(*taskpool.PanicError)) && !errors.Is(e.Err, taskpool.ErrGoexit) {
			g.fail("a function failed with %v", e.Err)
		}
	}
}

// soakWork is what a body does before it ends.
type soakWork int

const (
	doNothing soakWork = iota
	doSpin
	doYield
	doBlock
	doNest
	doAwaitEnd  // wait until the context ends
	doIgnoreEnd // go on after the context has ended
	doPause
	doBeat
	doHelp      // have a goroutine wait with the task's context
	doAskInside // ask for what must be refused inside
)

var soakWeights = []struct {
	does   soakWork
	weight int
}{
	{doNothing, 5700}, {doSpin, 800}, {doYield, 1400}, {doBlock, 700}, {doNest, 600},
	{doAwaitEnd, 150}, {doIgnoreEnd, 25}, {doPause, 80}, {doBeat, 100}, {doHelp, 50}, {doAskInside, 100},
}

func (d soakWork) String() string {
	return [...]string{"nothing", "spin", "yield", "block", "nest", "await end", "ignore end", "pause", "beat", "help", "ask inside"}[d]
}

// newTask makes a task with ctx. Outside a task parent is nil, and ctx the
// starting point of another.
func (g *soakPool) newTask(r *rand.Rand, ctx context.Context, parent *soakTask, detached bool) *soakTask {
	t := &soakTask{g: g, seed: r.Uint64(), max: 1, ctx: ctx, typed: oneIn(r, 3)}
	pick := r.IntN(9705)
	for _, w := range soakWeights {
		if t.does = w.does; pick < w.weight {
			break
		}
		pick -= w.weight
	}
	if parent != nil {
		t.depth = parent.depth + 1
		t.endable, t.inherits = true, true
		if detached {
			t.endable, t.inherits, t.rootOf = parent.endable, parent.inherits, parent.rootOf
		}
		if t.does == doNest && t.depth >= soakDepth {
			t.does = doYield
		}
	} else {
		switch r.IntN(10) {
		case 0, 1:
			t.ctx, t.endable, t.rootOf = g.root, true, g
		case 2:
			t.ctx = context.WithoutCancel(g.root)
		default:
			t.ctx = context.Background()
		}
	}
	if g.flows > 0 && !oneIn(r, 4) {
		t.task.Flow = strings.Repeat("f", 1+r.IntN(g.flows))
	}
	t.task.Priority = taskpool.Priority(r.IntN(3) - 1)
	if oneIn(r, 20) {
		t.task.Priority = taskpool.Priority(r.IntN(200) - 100)
	}
	if g.retries && oneIn(r, 6) {
		t.max = 2 + r.IntN(soakAttempts-1)
		retry := taskpool.Retry{MaxAttempts: t.max}
		delay := time.Duration(r.IntN(3000)) * time.Microsecond
		switch r.IntN(8) {
		case 0: // the default, which takes some time
			t.max, retry.MaxAttempts = 2, 2
		case 1, 2, 3:
			retry.Backoff = func(int) time.Duration { return 0 }
		default:
			retry.Backoff = func(n int) time.Duration {
				if t.task.Retry.If == nil && g.roll(20) {
					// Seldom hit by others: canceled while the retry is decided.
					// With If it could be a hung attempt's that is asked about,
					// while its retry is under way.
					t.canceled.Store(true)
					if t.handle.Load().Cancel(errSoakCancel) {
						t.noRetry.Store(true)
					}
				}
				return time.Duration(n) * delay
			}
		}
		if oneIn(r, 4) {
			yes := !oneIn(r, 3)
			retry.If = func(error) bool { return yes }
		}
		t.task.Retry = retry
	}
	ms := func(most int) time.Duration { return time.Duration(1+r.IntN(most*1000)) * time.Microsecond }
	if t.does == doIgnoreEnd && !g.hangs {
		t.does = doAwaitEnd
	}
	switch t.does {
	case doAwaitEnd, doIgnoreEnd:
		switch r.IntN(4) {
		case 0, 1:
			t.task.Timeout = ms(4)
		case 2:
			t.task.Heartbeat = ms(8)
		default:
			t.ownContext(ms(4))
		}
	case doBeat:
		t.task.Heartbeat = ms(20)
	default:
		switch r.IntN(40) {
		case 0:
			t.task.Timeout = ms(100)
		case 1:
			t.ownContext(ms(20))
		case 2:
			t.task.NotBefore = time.Now().Add(ms(10))
		case 3:
			t.task.NotBefore = time.Now().Add(-ms(10))
		case 4:
			t.task.WorkTimeout = ms(100)
		}
	}
	return g.register(t)
}

// ownContext gives the task a context that ends after d.
func (t *soakTask) ownContext(d time.Duration) {
	t.ctx, t.cancel = context.WithTimeoutCause(t.ctx, d, errSoakOwn)
	t.endable = true
}

// register gives the task its name.
func (g *soakPool) register(t *soakTask) *soakTask {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.i = len(g.tasks)
	t.task.Name = strconv.Itoa(t.i)
	g.tasks = append(g.tasks, t)
	return t
}

// submit hands the task to the pool, and returns nil if it was refused.
func (t *soakTask) submit() (h *taskpool.Handle, get func(context.Context) error) {
	var err error
	if t.typed {
		var f *taskpool.Future[int64]
		if f, err = taskpool.SubmitFunc(t.ctx, t.g.p, t.task, t.result); err == nil {
			h, get = f.Handle, func(ctx context.Context) error {
				v, err := f.Get(ctx)
				t.checkValue(v, err)
				return err
			}
		}
	} else {
		task := t.task
		task.Run = func(ctx context.Context) error { _, err := t.result(ctx); return err }
		if h, err = t.g.p.Submit(t.ctx, task); err == nil {
			get = h.Wait
		}
	}
	if err != nil {
		t.refuse(err)
		return nil, nil
	}
	if t.accepted.Load() != 1 {
		t.fail("accepted, and queued %d times", t.accepted.Load())
	}
	if old := t.handle.Swap(h); old != nil && old != h {
		t.fail("has two handles")
	}
	t.g.recent[t.i%len(t.g.recent)].Store(t)
	return h, get
}

// refuse checks the error of a task that was not accepted.
func (t *soakTask) refuse(err error) {
	if t.cancel != nil {
		t.cancel()
	}
	t.g.refused.Add(1)
	t.g.checkRefusal(err, t.endable, t.g.overflow == taskpool.OverflowWait)
	if t.accepted.Load() > 0 {
		t.fail("refused with %v, and queued", err)
	}
	for i := range t.bodies {
		if t.bodies[i].Load() > 0 {
			t.fail("refused with %v, and run", err)
		}
	}
}

// checkRefusal checks that there was a reason for err.
func (g *soakPool) checkRefusal(err error, endable, waits bool) {
	switch {
	case strings.Contains(err.Error(), "context is over") && endable:
	case strings.Contains(err.Error(), "context of the task that waits is over"):
	case err == taskpool.ErrClosed && g.closing.Load():
	case errors.Is(err, taskpool.ErrFull) && (g.capacity >= 0 || g.flows > 0) && !waits:
	default:
		g.fail("refused with %v", err)
	}
}

// checkValue checks what a future has given.
func (t *soakTask) checkValue(v int64, err error) {
	switch n := v % 8; {
	case err != nil && v != 0:
		t.fail("a value of %d with error %v", v, err)
	case err != nil:
	case v/8 != int64(t.i) || n < 1 || n > int64(t.max) || t.ends[n-1].Load() == nil || t.ends[n-1].Load().how != endOK:
		t.fail("a value of %d", v)
	default:
		t.got.Store(n)
	}
}

// A soakBody is one run of a task's body.
type soakBody struct {
	t    *soakTask // nil for a function given to Go
	ctx  context.Context
	r    *rand.Rand
	n    int  // attempt
	less bool // when it began, or went on
	in   bool // counts as running
	err  error
}

// result is what the pool runs: it returns a value that tells task and attempt.
func (t *soakTask) result(ctx context.Context) (v int64, err error) {
	g := t.g
	g.inside.Add(1)
	g.bodies.Add(1)
	info, ok := taskpool.Current(ctx)
	b := &soakBody{t: t, ctx: ctx, n: info.Attempt}
	defer b.leave()
	if !ok || b.n < 1 || b.n > t.max || info.Name != t.task.Name || info.Handle == nil {
		t.fail("runs as %+v, %v", info, ok)
		return 0, errors.New("soak: failed")
	}
	if !t.handle.CompareAndSwap(nil, info.Handle) && t.handle.Load() != info.Handle {
		t.fail("has two handles")
	}
	if k := t.bodies[b.n-1].Add(1); k > 1 {
		t.fail("the body of attempt %d runs %d times", b.n, k)
	}
	if s := t.settled.Load(); s != nil && b.n > s.attempt {
		t.fail("attempt %d runs after the task was settled: %+v", b.n, s)
	}
	if b.n > 1 && (t.task.Retry.If == nil || !t.mayEnd()) { // else the last one may have hung
		e := t.ends[b.n-2].Load()
		unrun := e == nil && t.bodies[b.n-2].Load() == 0 && t.task.Timeout+t.task.WorkTimeout > 0 // its time was over before Run was called
		if !unrun && (e == nil || e.how != endError && e.how != endPanic) || t.noRetry.Load() {
			t.fail("retried after attempt %d, which ended with %+v (canceled then: %v)", b.n-1, e, t.noRetry.Load())
		}
	}
	b.r = rand.New(rand.NewPCG(t.seed, uint64(b.n)))
	b.less = info.Urgency > g.reservedFor
	b.enter()
	b.work()
	return int64(t.i)*8 + int64(b.n), b.end()
}

// enter counts the body as one that runs, and checks that there are not too
// many. Those that were given up count until they return, so that they must be
// allowed for. Their number is at most what Hangs says later less what left said
// before.
func (b *soakBody) enter() {
	b.in = true
	if b.less { // it may have been lent the urgency of a task that waits for it
		info, _ := taskpool.Current(b.ctx)
		b.less = info.Urgency > b.t.g.reservedFor
	}
	b.t.g.enterSlot(b)
}

func (g *soakPool) enterSlot(b *soakBody) {
	left := g.left.Load()
	g.checkSlots("bodies", g.running.Add(1), left, 0)
	if b.less && g.reserved > 0 {
		g.checkSlots("less urgent bodies", g.addLess(b), left, int64(g.reserved))
	}
}

// addLess adds b to the less urgent bodies, and returns how many of them are so for certain.
// None leaves while it looks, and a loan is never taken back, so those that it finds less
// urgent all were when it began. Only SetPriority can make a task less urgent than it was.
func (g *soakPool) addLess(b *soakBody) (n int64) {
	g.lessMu.Lock()
	defer g.lessMu.Unlock()
	g.less[b] = struct{}{}
	for o := range g.less {
		if o.t == nil {
			n++
		} else if info, _ := taskpool.Current(o.ctx); info.Urgency > g.reservedFor && !o.t.moved.Load() {
			n++
		}
	}
	return n
}

func (g *soakPool) checkSlots(what string, n, left, reserved int64) {
	for peak := g.peak.Load(); n > peak && !g.peak.CompareAndSwap(peak, n); peak = g.peak.Load() {
	}
	slots := g.maxSlots.Load() - reserved
	if n <= slots {
		return
	}
	if hangs := int64(g.p.Stats().Hangs); n > slots+hangs-left {
		g.fail("%d %s at once on %d slots, with %d hung of which %d have returned", n, what, slots, hangs, left)
	}
}

func (g *soakPool) leaveSlot(b *soakBody) {
	g.running.Add(-1)
	g.lessMu.Lock()
	defer g.lessMu.Unlock()
	delete(g.less, b)
}

// away does what may give the slot back. Then the body does not count as one
// that runs from before that to after.
func (b *soakBody) away(f func()) {
	b.t.g.leaveSlot(b)
	b.in = false
	defer b.enter() // also if f panics
	f()
}

// leave is deferred by the body.
func (b *soakBody) leave() {
	g := b.t.g
	if b.in {
		g.leaveSlot(b)
	}
	if b.t.mayEnd() {
		if info, _ := taskpool.Current(b.ctx); info.State == taskpool.StateAbandoned {
			g.left.Add(1)
		}
	}
	g.inside.Add(-1)
	g.tick()
}

// end ends the body, and writes down how before it does.
func (b *soakBody) end() error {
	t, r := b.t, b.r
	e := &soakEnd{err: b.err}
	often := 12 // for one in how many times not to succeed
	if t.max > 1 {
		often = 2
	}
	if e.err == nil && oneIn(r, often) {
		e.err = &soakError{t, b.n, "at random"}
		switch r.IntN(16) {
		case 0, 1:
			e.how = endPanic
		case 2:
			e.how = endGoexit
		case 3:
			e.how = endPermanent
		}
	}
	switch {
	case e.err == nil:
	case e.how == endPanic:
		e.value = e.err
		if oneIn(r, 2) {
			e.value = "soak"
		}
	case e.how == endOK:
		e.how = endError
	}
	t.ends[b.n-1].Store(e)
	switch e.how {
	case endPanic:
		panic(e.value)
	case endGoexit:
		runtime.Goexit()
	case endPermanent:
		return taskpool.Permanent(e.err)
	case endError:
		if oneIn(r, 8) {
			return taskpool.RetryAfter(time.Duration(r.IntN(3))*time.Millisecond, e.err)
		}
	}
	return e.err
}

func soakSpin(r *rand.Rand) {
	x := uint64(1)
	for range r.IntN(300) {
		x = x*6364136223846793005 + 1
	}
	soakSink.Store(x)
}

var soakSink atomic.Uint64

// soakPause waits for d, or until stop is closed.
func soakPause(d time.Duration, stop <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
}

func (b *soakBody) yield() {
	var err error
	b.away(func() { err = taskpool.Yield(b.ctx) })
	if err != nil && b.err == nil && !oneIn(b.r, 4) {
		b.err = &soakError{b.t, b.n, err.Error()}
	}
}

// work does what the task is there for. It sets err if that comes to one.
func (b *soakBody) work() {
	g, r := b.t.g, b.r
	switch b.t.does {
	case doSpin:
		soakSpin(r)
	case doYield:
		for range 1 + r.IntN(12) {
			soakSpin(r)
			b.yield()
		}
	case doBeat:
		for range 1 + r.IntN(6) {
			soakPause(time.Duration(r.IntN(500))*time.Microsecond, g.release)
			if taskpool.Beat(b.ctx); oneIn(r, 3) {
				b.yield()
			}
		}
	case doPause:
		soakPause(time.Duration(r.IntN(1500))*time.Microsecond, g.release)
	case doBlock:
		b.block()
	case doNest:
		b.nest()
	case doAwaitEnd:
		b.awaitEnd()
	case doIgnoreEnd:
		b.ignoreEnd()
	case doHelp:
		b.help()
	case doAskInside:
		b.askInside()
	}
}

func (b *soakBody) block() {
	t, r := b.t, b.r
	b.away(func() {
		err := taskpool.Block(b.ctx, func() error {
			switch r.IntN(60) {
			case 0:
				t.ends[b.n-1].Store(&soakEnd{how: endPanic, value: "soak: Block"})
				panic("soak: Block")
			case 1:
				t.ends[b.n-1].Store(&soakEnd{how: endGoexit})
				runtime.Goexit()
			case 2, 3, 4, 5, 6, 7:
				soakPause(time.Duration(r.IntN(1000))*time.Microsecond, b.ctx.Done())
			case 8, 9:
				return &soakError{t, b.n, "Block"}
			case 10: // parks nothing
				_ = taskpool.Yield(b.ctx)
				return taskpool.Block(b.ctx, func() error { return nil })
			}
			return nil
		})
		if err != nil {
			b.err = err
		}
	})
}

func (b *soakBody) awaitEnd() {
	// The pause bounds the wait of a task whose context ends only if nobody
	// gets in between.
	park := oneIn(b.r, 3)
	wait := func() error { soakPause(100*time.Millisecond, b.ctx.Done()); return nil }
	if park {
		b.away(func() { _ = taskpool.Block(b.ctx, wait) })
	} else {
		_ = wait()
	}
	switch b.r.IntN(4) {
	case 0:
	case 1:
		b.err = b.ctx.Err()
	case 2:
		if b.ctx.Err() != nil {
			b.err = &soakError{b.t, b.n, context.Cause(b.ctx).Error()}
		}
	default:
		b.err = &soakError{b.t, b.n, "awaited the end"}
	}
}

// ignoreEnd goes on for longer than the grace, and then uses its context as if
// nothing had happened.
func (b *soakBody) ignoreEnd() {
	g, r := b.t.g, b.r
	long := g.grace/2 + time.Duration(r.Int64N(int64(3*g.grace)))
	if oneIn(r, 4) {
		long = 20 * g.grace // a grace is longer on a busy machine, see rounds
	}
	wait := func() error {
		soakPause(long, g.release)
		return nil
	}
	if oneIn(r, 4) {
		b.away(func() { _ = taskpool.Block(b.ctx, wait) })
	} else {
		_ = wait()
	}
	for range r.IntN(4) {
		switch r.IntN(3) {
		case 0:
			b.yield()
		case 1:
			b.away(func() { _ = taskpool.Block(b.ctx, func() error { return nil }) })
		case 2:
			if b.t.depth < soakDepth {
				b.nest()
			}
		}
	}
	b.err = nil
}

// askInside asks for what would wait for the task itself.
func (b *soakBody) askInside() {
	p := b.t.g.p
	for i, err := range []error{p.Shutdown(b.ctx), p.WaitIdle(b.ctx), b.t.handle.Load().Wait(b.ctx), p.WaitIdle(context.Background())} {
		if err != taskpool.ErrInside {
			// An abandoned worker is still known by its goroutine, so it holds late too.
			b.t.fail("call %d inside returned %v", i, err)
		}
	}
}

// help has a goroutine wait for a child with the task's context, which parks
// the task under its feet, or not if it is parked already. So it does not count
// as one that runs from here to its end. A wait with the context is the only way
// for it to await that goroutine: no other is sure to give the slot back.
func (b *soakBody) help() {
	g := b.t.g
	g.leaveSlot(b)
	b.in = false
	if !g.enter() {
		return
	}
	defer g.leave()
	h, get := g.newTask(b.r, b.ctx, b.t, false).submit()
	if h == nil {
		return
	}
	g.inside.Add(1)
	go func() {
		defer func() { g.inside.Add(-1); g.tick() }()
		_ = get(b.ctx)
	}()
	for range 3 {
		_ = taskpool.Yield(b.ctx)
		_ = taskpool.Block(b.ctx, func() error { return nil })
	}
	if oneIn(b.r, 2) {
		b.sawChild(get(b.ctx))
	}
}

// nest submits to this pool or another, and mostly waits. Everyone waits for
// its own children only, so that no circle can come about.
func (b *soakBody) nest() {
	r, g := b.r, b.t.g
	if oneIn(r, 2) {
		if g = b.t.g.s.berths[r.IntN(soakPools)].Load(); g == nil {
			return
		}
	}
	if !g.enter() {
		return
	}
	defer g.leave()
	b.away(func() {
		switch r.IntN(8) {
		case 0:
			g.useMap(r, b.ctx, true)
		case 1:
			g.useGroup(r, b.ctx, true)
		case 2: // its task's context, without its slot: so it must not wait for long
			child := g.newTask(r, taskpool.Detach(b.ctx), b.t, true)
			if child.cancel == nil {
				child.ownContext(5 * time.Millisecond)
			}
			if h, get := child.submit(); h != nil && oneIn(r, 2) {
				b.sawChild(get(b.ctx))
			}
		case 3: // canceled when the parent returns, unless it was quick
			_, _ = g.newTask(r, b.ctx, b.t, false).submit()
		case 4:
			child := g.newTask(r, b.ctx, b.t, false)
			child.typed = true
			v, err := taskpool.Call(child.ctx, g.p, child.task, child.result)
			if child.accepted.Load() == 0 {
				child.refuse(err)
			} else {
				child.checkValue(v, err)
			}
			b.sawChild(err)
		default:
			var gets []func(context.Context) error
			for range 1 + r.IntN(3) {
				if h, get := g.newTask(r, b.ctx, b.t, false).submit(); h != nil {
					gets = append(gets, get)
				}
			}
			for _, get := range gets {
				b.sawChild(get(b.ctx))
			}
		}
	})
}

// sawChild makes a child's error the body's, sometimes.
func (b *soakBody) sawChild(err error) {
	if err != nil && oneIn(b.r, 3) {
		b.err = &soakError{b.t, b.n, "child: " + err.Error()}
	}
}

// member is the body of a task of a Map or Group.
func (t *soakTask) member(ctx context.Context, seed uint64) error {
	g := t.g
	g.inside.Add(1)
	g.bodies.Add(1)
	info, ok := taskpool.Current(ctx)
	b := &soakBody{t: t, ctx: ctx, n: 1, r: rand.New(rand.NewPCG(t.seed, seed)), less: info.Priority > g.reservedFor}
	defer b.leave()
	if !ok || info.Name != t.task.Name {
		t.fail("a member runs as %+v, %v", info, ok)
	}
	b.enter()
	if oneIn(b.r, 2) {
		b.yield()
	}
	switch b.r.IntN(40) {
	case 0:
		panic("soak: member")
	case 1:
		return &soakError{t, 1, "member"}
	case 2:
		runtime.Goexit()
	}
	if b.err == nil {
		t.succeeded.Add(1)
	}
	return b.err
}

func (g *soakPool) newShared(r *rand.Rand) *soakTask {
	return g.register(&soakTask{g: g, seed: r.Uint64(), max: 1, shared: true, endable: true, inherits: true,
		task: taskpool.Task{Priority: taskpool.Priority(r.IntN(3) - 1)}})
}

// useMap checks that results come in order, each once, and that only the last
// tells that there will be no more.
func (g *soakPool) useMap(r *rand.Rand, ctx context.Context, endable bool) {
	t, n := g.newShared(r), r.IntN(12)
	leave := -1
	if oneIn(r, 4) {
		leave = r.IntN(12)
	}
	in := make([]int, n)
	for i := range in {
		in[i] = i
	}
	var last error
	pairs := 0
	for v, err := range taskpool.Map(ctx, g.p, t.task, slices.Values(in), func(ctx context.Context, i int) (int, error) {
		return i + 1000, t.member(ctx, uint64(i))
	}) {
		if err == nil && v != pairs+1000 || err != nil && v != 0 {
			t.fail("Map's pair %d is %d, %v", pairs, v, err)
		}
		pairs, last = pairs+1, err
		if pairs-1 == leave {
			break
		}
	}
	if pairs != n && pairs-1 != leave {
		if pairs > n || last == nil {
			t.fail("Map gave %d of %d pairs, the last with %v", pairs, n, last)
		} else if cause := context.Cause(ctx); cause == nil || last != cause {
			g.checkRefusal(last, endable, true)
		}
	}
	g.mapped.Add(1)
}

// useGroup checks that no error means that all members succeeded.
func (g *soakPool) useGroup(r *rand.Rand, ctx context.Context, inside bool) {
	t, n := g.newShared(r), r.IntN(8)
	group := g.p.Group(ctx, t.task)
	if oneIn(r, 3) {
		group.SetLimit(1 + r.IntN(3))
	}
	for i := range n {
		group.Go(func(ctx context.Context) error { return t.member(ctx, uint64(i)) })
	}
	err := group.Wait()
	if ok := t.succeeded.Load(); err == nil && ok != int64(n) || ok > int64(n) {
		t.fail("Group.Wait returned nil, and %d of %d members did", ok, n)
	}
	if err == nil || !inside {
		if h := t.accepted.Load(); err == nil && h != int32(n) {
			t.fail("Group.Wait returned nil, and %d of %d members were accepted", h, n)
		}
	}
	g.grouped.Add(1)
}

// submitAll is what a submitter does until the pool ends.
func (g *soakPool) submitAll(r *rand.Rand) {
	var get func(context.Context) error // of the last task accepted
	closed := 0
	for n := 1; !g.retired.Load() && closed < 50; n++ {
		if g.closing.Load() {
			closed++ // a few tries after Shutdown are enough
		}
		switch k := r.IntN(1000); {
		case k < 400:
			if !g.goSome(r) {
				runtime.Gosched()
			}
		case k < 402:
			g.useMap(r, context.Background(), false)
		case k < 404:
			g.useGroup(r, context.Background(), false)
		case k < 406:
			over, cancel := context.WithCancel(context.Background())
			cancel()
			t := g.newTask(r, context.Background(), nil, false)
			if t.cancel != nil {
				t.cancel()
			}
			t.ctx, t.endable = over, true
			if h, _ := t.submit(); h != nil {
				t.fail("accepted with a context that was over")
			}
		default:
			if h, wait := g.newTask(r, context.Background(), nil, false).submit(); h == nil {
				runtime.Gosched()
			} else if get = wait; oneIn(r, 30) {
				g.checkWait(h, get)
			}
		}
		if n%16 == 0 {
			select {
			case g.nudge <- struct{}{}:
			default:
			}
		}
		if n%64 == 0 {
			g.sample(n%1024 == 0)
		}
		if get != nil && g.queued.Load()-g.finishedInAll() > soakFlight {
			_ = get(context.Background())
		}
	}
}

// checkWait waits for a task from outside.
func (g *soakPool) checkWait(h *taskpool.Handle, get func(context.Context) error) {
	err := get(context.Background())
	if got, state := h.Err(), h.State(); err != got || (err == nil) != (state == taskpool.StateSucceeded) {
		g.fail("Wait returned %v, and the handle says %v, %v", err, state, got)
	}
}

// goSome gives the pool a function.
func (g *soakPool) goSome(r *rand.Rand) bool {
	pr := taskpool.Priority(r.IntN(3) - 1)
	seed := r.Uint64()
	err := g.p.TryGo(pr, func() {
		g.inside.Add(1)
		g.bodies.Add(1)
		g.goStarted.Add(1)
		b := &soakBody{less: pr > g.reservedFor}
		defer func() { g.leaveSlot(b); g.inside.Add(-1); g.tick() }()
		g.enterSlot(b)
		switch seed % 256 {
		case 0:
			panic("soak: Go")
		case 1:
			runtime.Goexit()
		case 2:
			soakPause(time.Duration(seed>>32%1000)*time.Microsecond, g.release)
		case 3:
			if g.hangs && g.mayCut.Load() { // only then can it be given up
				soakPause(3*g.grace, g.release)
			}
		}
	})
	if err != nil {
		g.refused.Add(1)
		g.checkRefusal(err, false, false)
		return false
	}
	g.goAccepted.Add(1)
	return true
}

// disturb changes the pool and its tasks until it is retired.
func (g *soakPool) disturb(r *rand.Rand) {
	for {
		select {
		case <-g.nudge:
		case <-g.retiredCh:
			return
		}
		t := g.recent[r.IntN(len(g.recent))].Load()
		switch k := r.IntN(12); {
		case k < 4 && t != nil:
			t.canceled.Store(true) // before, for the check may come at once
			t.handle.Load().Cancel(errSoakCancel)
		case k < 7 && t != nil:
			t.moved.Store(true) // before, for the check may come at once
			t.handle.Load().SetPriority(taskpool.Priority(r.IntN(5) - 2))
		case k == 7:
			g.p.Pause()
			soakPause(time.Duration(r.IntN(2000))*time.Microsecond, g.retiredCh)
			g.p.Resume()
		case k == 8 && g.resizes:
			n := g.reserved + 1 + r.IntN(6)
			g.maxSlots.Store(max(g.maxSlots.Load(), int64(n))) // the only one to write it
			if err := g.p.Resize(n); err != nil && (err != taskpool.ErrClosed || !g.closing.Load()) {
				g.fail("Resize: %v", err)
			}
		case k == 9:
			ctx, cancel := context.WithTimeoutCause(context.Background(), time.Duration(r.IntN(2000))*time.Microsecond, errSoakOwn)
			if err := g.p.WaitIdle(ctx); err != nil && err != errSoakOwn {
				g.fail("WaitIdle: %v", err)
			}
			cancel()
		case k == 10:
			err := g.p.Health()
			if err != nil && !errors.Is(err, taskpool.ErrStalled) && !(errors.Is(err, taskpool.ErrHung) && g.hangs) && !(err == taskpool.ErrClosed && g.closing.Load()) {
				g.fail("Health: %v", err)
			}
		default:
			g.sample(true)
		}
	}
}

// sample looks at the pool as a whole. With deep set it looks at each task too,
// and the pool stands still meanwhile.
func (g *soakPool) sample(deep bool) {
	s := g.p.Stats()
	levels := s.Queued + s.Delayed + s.Running + s.Parked
	if s.Submitted != s.Succeeded+s.Failed+s.Canceled+s.Shed+uint64(levels) {
		g.fail("counts do not add up: %+v", s)
	}
	if min(s.Queued, s.Delayed, s.Running, s.Parked, s.Idle, s.Abandoned, s.Lost, s.SubmittersWaiting) < 0 {
		g.fail("a negative level: %+v", s)
	}
	most := int(g.maxSlots.Load())
	if !g.resizes && s.Workers != g.slots || s.Running+s.Lost > most {
		g.fail("%d running and %d lost on %d slots, %d at most: %+v", s.Running, s.Lost, s.Workers, most, s)
	}
	if g.capacity >= 0 && !g.retries && g.flows <= 0 && s.Queued+s.Delayed > 2*(g.capacity+most) {
		g.fail("more waiting than there is room for: %+v", s)
	}
	started := uint64(0)
	for _, t := range s.ByPriority {
		started += t.Attempts
	}
	if ended := s.Errors + s.Timeouts + s.Interrupted + s.Panics + s.Goexits + s.Hangs; started != s.Attempts ||
		ended+uint64(s.Running+s.Parked) > s.Attempts || s.Replaced != s.ReplacedPanic+s.ReplacedGoexit+s.ReplacedHung {
		g.fail("attempts do not add up: %+v", s)
	}
	waiting := 0
	for i, w := range s.Waiting {
		waiting += w.Queued
		if w.Queued <= 0 || w.OldestWait < 0 || i > 0 && w.Priority <= s.Waiting[i-1].Priority {
			g.fail("waiting out of order: %+v", s)
		}
	}
	if waiting != s.Queued {
		g.fail("%d waiting by priority, %d in all: %+v", waiting, s.Queued, s)
	}
	if (s.Closed && !g.closing.Load()) || s.SubmittersWaiting > 0 && g.capacity < 0 && g.flows <= 0 || s.Shed > 0 && g.overflow != taskpool.OverflowShed {
		g.fail("closed, blocked or shed without a reason: %+v", s)
	}
	if !deep {
		return
	}
	tasks := g.p.Tasks(taskpool.StateQueued, taskpool.StateDelayed, taskpool.StateRunning, taskpool.StateParked)
	seen := make(map[uint64]bool, len(tasks))
	var last *taskpool.TaskInfo
	for i := range tasks {
		t := &tasks[i]
		if t.ID != 0 && seen[t.ID] || (t.ID == 0) != (t.Handle == nil) || t.State > taskpool.StateParked {
			g.fail("listed twice or wrongly: %+v", *t)
		}
		seen[t.ID] = true
		if (t.State == taskpool.StateRunning || t.State == taskpool.StateParked) && t.Attempt < 1 {
			g.fail("at work before its first attempt: %+v", *t)
		}
		if t.State == taskpool.StateQueued {
			if last != nil && last.Priority > t.Priority {
				g.fail("listed out of order: %+v before %+v", *last, *t)
			}
			last = t
		}
	}
}

// soakEnding is a way in which a pool is ended.
type soakEnding int

const (
	endQuiet    soakEnding = iota // no more tasks come, it gets idle, then Shutdown
	endPatient                    // Shutdown under fire, with all the patience it takes
	endContexts                   // the same, with many contexts ended before
	endCut                        // Shutdown with a context that is over
	endMidway                     // cut short when some more tasks have finished
	endSeveral                    // several calls at once, of which one or two lose patience
	numSoakEndings
)

func (e soakEnding) String() string {
	return [...]string{"quiet", "patient", "contexts", "cut", "midway", "several"}[e]
}

// end ends the pool and closes its account.
func (g *soakPool) end(r *rand.Rand) {
	how := soakEnding(r.IntN(int(numSoakEndings)))
	released := oneIn(r, 2)
	if released {
		close(g.release) // else they are found hung when it ends
	}
	var answers []error
	switch how {
	case endQuiet:
		// With nobody there to call the pool, nothing makes up for a wake-up lost.
		g.retire()
		if err := g.p.WaitIdle(context.Background()); err != nil {
			g.fail("WaitIdle: %v", err)
		}
		if s := g.p.Stats(); s.Queued+s.Delayed+s.Running+s.Parked+s.SubmittersWaiting > 0 {
			g.fail("idle, and not: %+v", s)
		}
		answers = g.shutDown(context.Background())
	case endPatient:
		answers = g.shutDown(slices.Repeat([]context.Context{context.Background()}, 1+r.IntN(3))...)
	case endContexts:
		g.rootOver.Store(true)
		g.cutRoot(errSoakRoot)
		answers = g.shutDown(context.Background())
	case endCut:
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errSoakImpatient)
		g.mayCut.Store(true)
		answers = g.shutDown(ctx)
	default:
		g.mayCut.Store(true)
		ctxs := []context.Context{}
		if how == endSeveral {
			ctxs = append(ctxs, context.Background(), context.Background())
		}
		for range 1 + r.IntN(2) {
			ctx, cancel := context.WithTimeoutCause(context.Background(), time.Duration(r.IntN(10_000))*time.Microsecond, errSoakImpatient)
			defer cancel()
			ctxs = append(ctxs, ctx)
		}
		answers = g.shutDown(ctxs...)
	}
	if s := g.p.Stats(); s.Queued+s.Delayed+s.Running+s.Parked+s.SubmittersWaiting > 0 || !s.Closed {
		g.fail("shut down (%v), and not: %+v", how, s)
	}
	if !released {
		close(g.release)
	}
	if how != endQuiet {
		g.retire()
	}
	g.rootOver.Store(true) // every task has settled, but those detached to other pools
	g.cutRoot(errSoakRoot)
	g.await(func() bool { return g.inside.Load() == 0 })
	g.audit(how, answers)
}

// shutDown calls Shutdown once for each context, at the same time.
func (g *soakPool) shutDown(ctxs ...context.Context) []error {
	g.closing.Store(true)
	answers := make([]error, len(ctxs))
	var calls sync.WaitGroup
	for i, ctx := range ctxs {
		calls.Go(func() { answers[i] = g.p.Shutdown(ctx) })
	}
	calls.Wait()
	return answers
}

// audit compares the account of the test with that of the pool.
func (g *soakPool) audit(how soakEnding, answers []error) {
	for _, err := range answers {
		if err != answers[0] {
			g.fail("shutdown (%v) gave two answers: %v, %v", how, answers[0], err)
		}
	}
	var e *taskpool.ShutdownError
	if errors.As(answers[0], &e); answers[0] != nil && (e == nil || !g.mayCut.Load() || !errors.Is(e, errSoakImpatient)) {
		g.fail("shutdown (%v): %v", how, answers[0])
		return
	}
	if err := g.p.Go(taskpool.High, func() {}); err != taskpool.ErrClosed {
		g.fail("Go after shutdown: %v", err)
	}
	if err := g.p.Health(); err != taskpool.ErrClosed {
		g.fail("Health after shutdown: %v", err)
	}
	if err := g.p.Shutdown(context.Background()); err != answers[0] {
		g.fail("shutdown again: %v, %v before", err, answers[0])
	}

	s := g.p.Stats()
	type count struct {
		what      string
		own, pool uint64
	}
	unfinished := uint64(0)
	if e != nil {
		unfinished = uint64(len(e.Unfinished))
	}
	counts := func() []count {
		f := g.finishedByState()
		return []count{
			{"queued", g.queued.Load(), s.Submitted}, {"finished", g.finishedInAll(), s.Submitted},
			{"succeeded", f[taskpool.StateSucceeded], s.Succeeded}, {"failed", f[taskpool.StateFailed], s.Failed},
			{"canceled", f[taskpool.StateCanceled], s.Canceled}, {"shed", f[taskpool.StateShed], s.Shed}, {"shed hooks", g.shed.Load(), s.Shed},
			{"attempts, but for some given up", max(g.started.Load(), min(g.started.Load()+s.Hangs, s.Attempts)), s.Attempts}, {"retries", g.retried.Load(), s.Retries},
			{"panics", g.panics.Load(), s.Panics}, {"goexits", g.goexits.Load(), s.Goexits}, {"hangs", g.hung.Load(), s.Hangs},
			{"functions", g.goFinished.Load(), g.goAccepted.Load()},
			{"a warning of unfinished tasks", min(g.warnings.Load(), unfinished, 1), min(unfinished, 1)},
		}
	}
	if g.mayCut.Load() {
		// Then Shutdown does not wait for hooks beyond a grace or two.
		g.await(func() bool {
			return !slices.ContainsFunc(counts(), func(c count) bool { return c.own < c.pool })
		})
	}
	for _, c := range counts() {
		if c.own != c.pool {
			g.fail("shut down (%v): hooks saw %d %s, the pool %d: %+v", how, c.own, c.what, c.pool, s)
		}
	}
	if n := g.goAccepted.Load() - g.goShed.Load() - g.goCanceled.Load(); g.goStarted.Load() > n || g.goStarted.Load()+g.goHung.Load() < n {
		g.fail("%d functions ran of %d accepted, %d shed, %d canceled, %d hung",
			g.goStarted.Load(), g.goAccepted.Load(), g.goShed.Load(), g.goCanceled.Load(), g.goHung.Load())
	}
	if s.Refused < g.refused.Load() {
		g.fail("%d refused, the pool says %d", g.refused.Load(), s.Refused)
	}
	if g.failures.Load() < s.Failed {
		g.fail("%d failures logged, %d tasks failed", g.failures.Load(), s.Failed)
	}
	if g.running.Load() != 0 || len(g.less) != 0 {
		g.fail("%d bodies run, %d less urgent", g.running.Load(), len(g.less))
	}
	listed := g.auditList(e)
	g.auditTasks(s, listed)

	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	t := &g.s.total
	t.s.Submitted, t.s.Refused = t.s.Submitted+s.Submitted, t.s.Refused+s.Refused
	t.s.Succeeded, t.s.Failed = t.s.Succeeded+s.Succeeded, t.s.Failed+s.Failed
	t.s.Canceled, t.s.Shed = t.s.Canceled+s.Canceled, t.s.Shed+s.Shed
	t.s.Attempts, t.s.Retries, t.s.Parks = t.s.Attempts+s.Attempts, t.s.Retries+s.Retries, t.s.Parks+s.Parks
	t.s.Panics, t.s.Goexits = t.s.Panics+s.Panics, t.s.Goexits+s.Goexits
	t.s.Hangs, t.s.Replaced = t.s.Hangs+s.Hangs, t.s.Replaced+s.Replaced
	t.bodies, t.contained = t.bodies+g.bodies.Load(), t.contained+g.contained.Load()
	t.mapped, t.grouped = t.mapped+g.mapped.Load(), t.grouped+g.grouped.Load()
	t.late += uint64(g.left.Load())
	t.unfinished += unfinished
	if g.peak.Load() >= int64(g.slots) {
		t.peaks++
	}
	g.s.endings[how]++
}

// auditList checks a ShutdownError, whose list names each task at most once and
// only those that did not finish. It returns how often each is listed.
func (g *soakPool) auditList(e *taskpool.ShutdownError) map[string]int {
	listed := make(map[string]int)
	if e == nil {
		return listed
	}
	var goQueued, goRunning uint64
	for _, u := range e.Unfinished {
		name := u.Task.Name
		listed[name]++
		if u.State > taskpool.StateParked || (u.State == taskpool.StateRunning || u.State == taskpool.StateParked) && u.Attempt < 1 {
			g.fail("unfinished: %+v", u)
		}
		t := g.lookUp(name)
		if t == nil {
			switch {
			case u.State == taskpool.StateQueued && u.Attempt == 0 && u.Task.Run != nil:
				goQueued++
			case u.State == taskpool.StateRunning && u.Attempt == 1 && u.Task.Run != nil:
				goRunning++
			default:
				g.fail("an unfinished function: %+v", u)
			}
			continue
		}
		if t.shared {
			if listed[name] > int(t.accepted.Load()) {
				t.fail("listed %d times, accepted %d", listed[name], t.accepted.Load())
			}
			continue
		}
		s := t.settled.Load()
		if s == nil {
			t.fail("unfinished, and never settled: %+v", u)
			continue
		}
		var hung *taskpool.HungError
		undone := s.state == taskpool.StateFailed && errors.As(s.err, &hung) ||
			s.state == taskpool.StateCanceled && (errors.Is(s.err, taskpool.ErrClosed) || t.endable || t.canceled.Load())
		if listed[name] > 1 || !undone || u.Task.Run == nil || u.Attempt > s.attempt {
			t.fail("unfinished as %+v, listed %d times, settled as %+v", u, listed[name], s)
		}
		if waits := u.State == taskpool.StateQueued || u.State == taskpool.StateDelayed; waits && u.Attempt != s.attempt {
			t.fail("unfinished as %+v, and then attempt %d", u, s.attempt)
		}
	}
	if goQueued != g.goCanceled.Load() || goRunning != g.goHung.Load() {
		g.fail("%d queued and %d running functions unfinished, %d canceled and %d hung",
			goQueued, goRunning, g.goCanceled.Load(), g.goHung.Load())
	}
	return listed
}

// auditTasks checks each task once all is over.
func (g *soakPool) auditTasks(s taskpool.Stats, listed map[string]int) {
	accepted, finals := g.goAccepted.Load(), uint64(0)
	for _, t := range g.tasks {
		accepted += uint64(t.accepted.Load())
		if t.shared {
			continue
		}
		end := t.settled.Load()
		if t.accepted.Load() == 0 {
			if end != nil {
				t.fail("refused, and settled: %+v", end)
			}
			continue
		}
		if end == nil {
			t.fail("never settled")
			continue
		}
		finals++
		if h := t.handle.Load(); h.State() != end.state || h.Err() != end.err {
			t.fail("settled as %+v, and now %v, %v", end, h.State(), h.Err())
		}
		for i := range t.bodies {
			if k := t.bodies[i].Load(); k > 1 || k == 1 && i >= end.attempt {
				t.fail("settled as %+v, and the body of attempt %d ran %d times", end, i+1, k)
			}
		}
		if n := t.got.Load(); n != 0 && (end.state != taskpool.StateSucceeded || n != int64(end.attempt)) {
			t.fail("settled as %+v, and gave the result of attempt %d", end, n)
		}
		if cut := end.state == taskpool.StateCanceled && errors.Is(end.err, taskpool.ErrClosed); cut && !t.inherits && listed[t.task.Name] == 0 {
			t.fail("cut off, and not listed: %+v", end)
		}
	}
	if accepted != s.Submitted {
		g.fail("%d tasks accepted, the pool says %d (%d with a handle)", accepted, s.Submitted, finals)
	}
}

func soakMedian[T cmp.Ordered](all []T) T {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}
