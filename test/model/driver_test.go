package model_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

var (
	modelRuns  = flag.Int("model.runs", 1000, "how many random sequences of operations TestPoolAgreesWithModel tries")
	modelFirst = flag.Uint64("model.first", 0, "the seed of the first of them")
)

// Random operations on a Pool and on its model: tasks of all kinds that end in
// all ways, yield, block, wait, submit; cancel, set priority, pause, resize,
// time, shutdown. After each they must agree on the tasks that started and
// resumed, on states, errors, counts and what each call returned. For more, run
// make fuzz.
func TestPoolAgreesWithModel(t *testing.T) {
	runs := *modelRuns
	if pooltest.Scarce() {
		runs /= 10
	}
	var steps, undefined int
	var total loans
	var flows flowCounts
	var expired, shedLate, startedLate int
	var denied uint64
	for i := range uint64(runs) {
		seed := *modelFirst + i
		r := rand.New(rand.NewPCG(seed, 0))
		tape := make([]byte, 50+r.IntN(1000))
		for i := range tape {
			tape[i] = byte(r.Uint32())
		}
		d := agree(t, tape)
		if d.failure != "" {
			tape, d = shrink(t, tape, d)
			t.Fatalf("%s\n\nfrom seed %d; as a file in testdata/fuzz/FuzzPoolAgreesWithModel:\ngo test fuzz v1\n[]byte(%q)",
				d.failure, seed, tape)
		}
		steps += d.steps
		total.add(d.model.loans)
		flows.add(d.model.flows.seen)
		expired += int(d.model.expired) - d.model.shedLate
		shedLate += d.model.shedLate
		startedLate += d.model.startedLate
		denied += d.model.retriesDenied
		if d.undefined {
			undefined++
		}
	}
	t.Logf("%d sequences, %d steps; %d sequences ended early, where several things happened at the same instant; %d retries denied; loans: %+v; flows: %+v", runs, steps, undefined, denied, total, flows)
	t.Logf("%d tasks waited longer than their MaxWait; of late priorities %d were shed and %d started", expired, shedLate, startedLate)
}

func FuzzPoolAgreesWithModel(f *testing.F) {
	f.Fuzz(func(t *testing.T, tape []byte) {
		if len(tape) > 4000 {
			return // no more than the same again
		}
		if d := agree(t, tape); d.failure != "" {
			t.Fatal(d.failure)
		}
	})
}

// agree runs the operations on tape.
func agree(t *testing.T, tape []byte) (d *trial) {
	synctest.Test(t, func(t *testing.T) {
		d = newTrial(t, tape)
		d.operate()
		d.drain()
		d.tearDown()
	})
	return d
}

// shrink makes a tape that fails shorter, as long as it still fails.
func shrink(t *testing.T, tape []byte, d *trial) ([]byte, *trial) {
	for size := len(tape) / 2; size > 0; {
		shorter := false
		for i := 0; i+size <= len(tape); {
			try := slices.Concat(tape[:i], tape[i+size:])
			if e := agree(t, try); e.failure != "" {
				tape, d, shorter = try, e, true
			} else {
				i += size
			}
		}
		if !shorter || size > len(tape) {
			size /= 2
		}
	}
	return tape, d
}

// A tape is where a trial's decisions come from.
type tape struct{ rest []byte }

// n returns a number from 0 to less than n.
func (t *tape) n(n int) int {
	if len(t.rest) == 0 {
		return 0
	}
	b := t.rest[0]
	t.rest = t.rest[1:]
	return int(b) % n
}

func choose[T any](t *tape, from ...T) T { return from[t.n(len(from))] }

// A trial drives a Pool and its model through the same operations.
type trial struct {
	*tape
	t         *testing.T
	pool      *taskpool.Pool
	model     *modelPool
	start     time.Time
	steps     int
	trace     []string
	failure   string // the first difference
	undefined bool   // the documentation does not say what comes next
	peek      bool   // look at contexts after each step, which makes the lazy part of them
	works     bool   // timeouts are such of the work alone, some beside a longer one
	delays    bool   // most tasks have a time before which they do not start
	lends     bool   // many tasks wait for less urgent ones
	flows     bool   // tasks have flows, most of which have policies
	depends   bool   // many tasks come after others
	expires   bool   // many tasks have a MaxWait

	cancels   map[int]context.CancelCauseFunc // of the tasks' own contexts
	patience  context.Context                 // Shutdown's
	cut       context.CancelFunc
	released  chan struct{} // closed at the end: all bodies return
	durations uint64        // handed out

	mu       sync.Mutex                     // protects the fields below
	policies map[string]taskpool.FlowPolicy // what WithFlows says
	log      []string
	bodies   map[[2]int]*body // by task and attempt
	handles  map[int]*taskpool.Handle
	errs     map[int]error // of the handles, found right
}

// A body is one attempt as seen from inside Run. It does as it is told.
type body struct {
	ctx context.Context
	do  chan command
}

func newTrial(t *testing.T, bytes []byte) *trial {
	d := &trial{
		tape: &tape{bytes}, t: t, start: time.Now(), released: make(chan struct{}),
		cancels: map[int]context.CancelCauseFunc{}, policies: map[string]taskpool.FlowPolicy{}, bodies: map[[2]int]*body{}, handles: map[int]*taskpool.Handle{}, errs: map[int]error{},
	}
	d.patience, d.cut = context.WithCancel(context.Background())
	c := modelConfig{
		workers:      1 + d.n(4),
		capacity:     choose(d.tape, -1, -1, 0, 1, 2, 5),
		overflow:     choose(d.tape, taskpool.OverflowWait, taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed),
		share:        choose(d.tape, 16, 0, 1, 2, 3),
		maxAbandoned: choose(d.tape, -1, 0, 1, 3),
		maxParked:    choose(d.tape, 10_000, 10_000, 0, 1, 2),
		quantum:      10 * time.Millisecond,
		grace:        5 * time.Second,
	}
	opts := []taskpool.Option{
		taskpool.WithLogger(slog.New(slog.DiscardHandler)), taskpool.WithWorkers(c.workers),
		taskpool.WithQuantum(c.quantum), taskpool.WithHangGrace(c.grace), taskpool.WithMaxParked(c.maxParked),
	}
	d.flows = len(bytes) > 0 && bytes[len(bytes)-1] > 127
	if d.flows && c.capacity < 0 && d.n(2) == 0 {
		c.capacity = 1000 // so that only flows are ever full
	}
	if c.capacity < 0 {
		c.overflow = taskpool.OverflowWait
	} else {
		opts = append(opts, taskpool.WithCapacity(c.capacity, c.overflow))
	}
	if d.n(3) == 0 && !d.flows {
		c.share, c.step = 0, choose(d.tape, 100*time.Millisecond, 3*time.Second)
		opts = append(opts, taskpool.WithAging(c.step))
	} else {
		opts = append(opts, taskpool.WithFairShare(c.share))
	}
	if c.maxAbandoned >= 0 {
		opts = append(opts, taskpool.WithMaxAbandoned(c.maxAbandoned))
	}
	if c.workers > 1 && d.n(3) == 0 {
		c.reserved, c.reservedFor = 1+d.n(c.workers-1), choose(d.tape, taskpool.Medium, taskpool.High)
		opts = append(opts, taskpool.WithReserved(c.reserved, c.reservedFor))
	}
	d.peek = d.n(2) == 0
	if d.flows && d.n(8) > 0 { // else all have the zero policy
		if d.n(3) == 0 {
			c.plain = d.policy()
		}
		d.policies[""] = c.plain
		for _, flow := range flowNames[1:] {
			d.policies[flow] = d.policy()
		}
		opts = append(opts, taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.policies[flow]
		}))
	}
	if n := len(bytes); n > 0 { // the last byte once more, so that old tapes still mean what they did
		d.delays = bytes[n-1]%4 == 1
		d.works = bytes[n-1]%5 > 2
		c.delayed = choose(&tape{bytes[n-1:]}, taskpool.DelayedWait, taskpool.DelayedCancel, taskpool.DelayedWait)
		opts = append(opts, taskpool.WithDelayedAtShutdown(c.delayed))
		if nibble := bytes[n-1] % 16; nibble == 6 || nibble == 11 { // as in no old tape
			c.budget, c.retryPercent, c.retryLeast = true, choose(d.tape, 0, 25, 50, 90), d.n(3)
			opts = append(opts, taskpool.WithRetryBudget(float64(c.retryPercent)/100, c.retryLeast))
		}
		d.lends = slices.Contains([]byte{3, 7, 8, 9}, bytes[n-1]%11) // as in no old tape
		d.depends = bytes[n-1]%3 == 2
		d.expires = bytes[n-1]%7 == 4
		if !d.flows && bytes[n-1]%6 == 1 {
			c.queueDelay = choose(d.tape, time.Millisecond, 5*time.Millisecond, 50*time.Millisecond)
			opts = append(opts, taskpool.WithQueueDelay(c.queueDelay))
		}
	}
	pool, err := taskpool.New(opts...)
	if !assert.NoError(t, err) {
		t.FailNow()
	}
	d.pool, d.model = pool, newModel(c)
	d.model.goesOn = func(t *modelTask) bool {
		d.mu.Lock()
		h, log := d.handles[t.n], d.log
		d.mu.Unlock()
		if t.isGo { // it has no handle: by what its call returned
			said := fmt.Sprintf("#%d.", t.n)
			if a := t.attempt; a.doing == doingSubmit {
				said = fmt.Sprintf("submit #%d:", a.on.n)
			}
			return slices.ContainsFunc(log, func(line string) bool { return strings.HasPrefix(line, said) })
		}
		return h != nil && h.State() != taskpool.StateParked
	}
	d.model.wasShed = func(t *modelTask) bool {
		h := d.handle(t.n)
		return h != nil && h.State() == taskpool.StateShed
	}
	d.trace = append(d.trace, fmt.Sprintf("%+v flows=%+v", c, d.policies))
	return d
}

var flowNames = []string{"", "a", "b", "c"}

func (d *trial) policy() taskpool.FlowPolicy {
	return taskpool.FlowPolicy{Weight: choose(d.tape, 0, 1, 2, 4), Limit: choose(d.tape, 1, 0, 1, 2, 3), Capacity: choose(d.tape, 0, 0, 0, 1, 2)}
}

// short returns d and a bit that no other duration has, so that no two things
// are due at the same instant.
func (d *trial) unique(about time.Duration) time.Duration {
	d.durations++
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], d.durations)
	return about + time.Duration(rand.NewChaCha8(seed).Uint64()%1_000_000)
}

// step does the same to the pool and to the model and compares them.
func (d *trial) step(what string, pool, model func()) {
	d.trace = append(d.trace, fmt.Sprintf("%v %s", d.model.now, what))
	d.steps++
	pool()
	synctest.Wait()
	if err := pooltest.AtRest(d.pool); err != nil {
		d.failf("%v", err)
	}
	clear(d.model.flows.left)
	model()
	d.model.settleDown()
	if d.undefined = d.undefined || d.model.undefined; !d.undefined {
		d.compare()
	}
}

func (d *trial) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf(format, args...))
}

func (d *trial) failf(format string, args ...any) {
	if d.failure == "" {
		d.failure = fmt.Sprintf(format, args...) + "\n\nafter:\n" + strings.Join(d.trace, "\n")
	}
}

// going reports whether there is still something to compare.
func (d *trial) going() bool { return !d.undefined && d.failure == "" }

func (d *trial) operate() {
	for d.going() && len(d.rest) > 0 {
		op := d.n(40)
		if d.lends && op%5 == 4 { // 4, a submission; 9; 14; 19, a yield; 24; 29; 34; 39
			d.lend()
			continue
		}
		switch op {
		case 0, 1, 2, 3, 4, 5:
			d.submit(nil)
		case 6:
			d.submitGo()
		case 7, 8, 9:
			if a := d.ready(true); a != nil {
				d.submit(a)
			}
		case 10, 11, 12, 13, 14, 15:
			if a := d.ready(true); a != nil {
				d.end(a)
			}
		case 16, 17, 18, 19:
			if a := d.ready(false); a != nil {
				d.command(a, command{do: "yield"}, func() { d.model.yield(a) })
			}
		case 20, 21:
			if a := d.ready(false); a != nil {
				d.command(a, command{do: "block"}, func() { d.model.block(a) })
			}
		case 22, 23:
			if a := d.blocked(); a != nil {
				d.unblock(a)
			}
		case 24, 25:
			if a, t := d.ready(true), d.task(); a != nil && t != nil {
				d.wait(a, t)
			}
		case 26:
			if a := d.ready(false); a != nil {
				d.command(a, command{do: "beat"}, func() { a.beatOwed = false })
			}
		case 27, 28:
			if t := d.task(); t != nil {
				d.both(fmt.Sprintf("cancel #%d", t.n),
					func() bool { return d.handle(t.n).Cancel(errOfCaller) },
					func() bool { return d.model.cancel(t, errOfCaller) })
			}
		case 29:
			if d.n(2) == 0 {
				d.cancelContext()
			} else {
				d.cancelAndFree()
			}
		case 30, 31:
			if t := d.task(); t != nil {
				d.setPriority(t, d.priority())
			}
		case 32:
			d.step("pause", d.pool.Pause, func() { d.model.pause(true) })
		case 33, 34:
			d.step("resume", d.pool.Resume, func() { d.model.pause(false) })
		case 35:
			d.resize()
		case 36:
			d.advance(choose(d.tape, time.Millisecond, 15*time.Millisecond, 200*time.Millisecond, 2*time.Second, 20*time.Second))
		case 37, 38:
			if next := d.model.events(); len(next) > 0 {
				d.advance(next[0].at - d.model.now)
			}
		case 39:
			switch d.n(8) {
			case 0:
				d.shutdown()
			case 1:
				d.cutShort()
			case 2, 3, 4:
				d.step("wait for idle", func() {
					go func() {
						assert.NoError(d.t, d.pool.WaitIdle(context.Background()))
						d.note("idle")
					}()
				}, func() { d.model.idlers++; d.model.restore() })
			case 5, 6:
				d.step("wait for what runs", func() {
					go func() {
						assert.NoError(d.t, d.pool.WaitRunning(context.Background()))
						d.note("at rest")
					}()
				}, func() { d.model.resters++; d.model.restore() })
			}
		}
	}
}

// wait has a wait for t.
func (d *trial) wait(a *modelAttempt, t *modelTask) {
	with := choose(d.tape, ownContext, ownContext, withoutCancel, otherContext)
	if a.t.isGo {
		with = otherContext
	}
	d.command(a, command{do: "wait", task: t.n, with: with}, func() { d.model.wait(a, t, with) })
}

// lend has a task wait for a less urgent one if it can, or have one wait for room, or gives
// one that waits another priority.
func (d *trial) lend() {
	n := d.n(8)
	if n == 0 {
		if waiting := d.attempts(func(a *modelAttempt) bool { return a.on != nil && !a.over && !a.t.isGo }); len(waiting) > 0 {
			t := choose(d.tape, waiting...).t
			d.setPriority(t, d.priority())
			return
		}
	}
	a := d.ready(true)
	if a == nil {
		return
	}
	var less, waiting []*modelTask
	for _, t := range d.model.tasks {
		if t.accepted && t.returned && !t.isGo && !t.settled() && t.urgency() > a.urgency {
			if less = append(less, t); t.attempt != nil && t.attempt.on != nil {
				waiting = append(waiting, t)
			}
		}
	}
	switch {
	case n < 4 && len(waiting) > 0:
		d.wait(a, choose(d.tape, waiting...))
	case n < 7 && len(less) > 0:
		d.wait(a, choose(d.tape, less...))
	default:
		d.submit(a)
	}
}

func (d *trial) setPriority(t *modelTask, pr taskpool.Priority) {
	d.both(fmt.Sprintf("set priority of #%d to %v", t.n, pr),
		func() bool { return d.handle(t.n).SetPriority(pr) },
		func() bool { return d.model.setPriority(t, pr) })
}

// both is a step whose answers must be the same.
func (d *trial) both(what string, pool, model func() bool) {
	var got bool
	d.step(what, func() { got = pool() }, func() {
		if want := model(); got != want {
			d.failf("%s: %v, want %v", what, got, want)
		}
	})
}

// Choosing.

func (d *trial) priority() taskpool.Priority {
	if d.flows && d.n(2) == 0 {
		return taskpool.Medium // flows take turns within a priority
	}
	return choose(d.tape, taskpool.Medium, taskpool.High, taskpool.Low, 2, -7)
}

// attempts returns those of the model that is holds for.
func (d *trial) attempts(is func(*modelAttempt) bool) (all []*modelAttempt) {
	d.model.each(func(a *modelAttempt) {
		if is(a) {
			all = append(all, a)
		}
	})
	return all
}

// ready chooses an attempt that can be told to do something; withGo also a
// function given to Go, which has no context.
func (d *trial) ready(withGo bool) *modelAttempt {
	all := d.attempts(func(a *modelAttempt) bool { return a.doing == doingNothing && (withGo || !a.t.isGo) })
	if len(all) == 0 {
		return nil
	}
	return choose(d.tape, all...)
}

func inBlock(a *modelAttempt) bool { return a.doing == doingBlock && a.fails == "" }

func (d *trial) blocked() *modelAttempt {
	if all := d.attempts(inBlock); len(all) > 0 {
		return choose(d.tape, all...)
	}
	return nil
}

// task chooses one that has a handle.
func (d *trial) task() *modelTask {
	var all []*modelTask
	for _, t := range d.model.tasks {
		if t.accepted && t.returned && !t.isGo {
			all = append(all, t)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[max(len(all)-1-d.n(12), 0)]
}

func (d *trial) handle(n int) *taskpool.Handle {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.handles[n]
}

// Submitting.

// newTask makes up a task and its context. parent submits it; nil for none.
func (d *trial) newTask(parent *modelAttempt) (*modelTask, func(context.Context) context.Context) {
	now := d.model.now
	t := &modelTask{n: len(d.model.tasks), priority: d.priority(), most: choose(d.tape, 0, 0, 0, 2, 3), caller: parent, parent: parent}
	if d.flows {
		if t.flow = choose(d.tape, "a", "b", "", "a", "c"); t.flow != "" && len(d.policies) > 0 && d.n(6) == 0 {
			policy := d.policy()
			d.mu.Lock()
			d.policies[t.flow] = policy
			d.mu.Unlock()
		}
		t.policy = d.policies[t.flow]
	}
	if d.n(4) == 0 {
		t.timeout = d.unique(choose(d.tape, 50*time.Millisecond, time.Second))
	}
	if d.works && t.timeout > 0 {
		if t.workTimeout = t.timeout; t.n%3 == 0 {
			t.timeout += d.unique(time.Second)
		} else {
			t.timeout = 0
		}
	}
	if d.n(6) == 0 {
		t.heartbeat = d.unique(choose(d.tape, 20*time.Millisecond, time.Second))
	}
	if n := d.n(6); d.delays && n < 4 {
		t.notBefore = now + d.unique(choose(d.tape, 30*time.Millisecond, 500*time.Millisecond, 10*time.Second))
	} else if n == 0 {
		t.notBefore = now + d.unique(choose(d.tape, 30*time.Millisecond, 500*time.Millisecond))
	}
	if t.most > 1 {
		t.retryIf = choose(d.tape, ifNil, ifAlways, ifNever)
		t.backoff = choose(d.tape, 0, d.unique(70*time.Millisecond))
	}
	if d.depends && d.n(2) == 0 {
		for range 1 + d.n(3) {
			if on := d.task(); on != nil {
				t.after = append(t.after, on)
			}
		}
	}
	if d.expires && d.n(2) == 0 {
		t.maxWait = d.unique(choose(d.tape, 10*time.Millisecond, 300*time.Millisecond, 5*time.Second))
	}
	own := func(context.Context) context.Context { return context.Background() }
	// If a task whose context may end is waited for, it is often a matter of chance who
	// gets a slot when it settles.
	lasts := d.lends && t.n%4 > 0
	switch {
	case parent != nil:
		live := slices.ContainsFunc(d.model.tasks, func(c *modelTask) bool {
			return c.ctxOf == parent && !c.settled() && !c.refused()
		})
		kind := d.n(3)
		if parent.t.isGo {
			kind = 1
		}
		switch kind {
		case 0:
			own = context.WithoutCancel
		case 1:
			own = taskpool.Detach
			t.parent = nil
		default:
			if live || lasts { // the order in which several end is nobody's business
				own = context.WithoutCancel
				break
			}
			own = func(ctx context.Context) context.Context { return ctx }
			t.ctxOf, t.cancelable = parent, true
			t.after = nil // what it comes after may settle at the instant at which it is canceled
		}
		// Detach is the context of whoever submitted the outermost task.
	default:
		switch kind := d.n(4); {
		case lasts:
		case kind == 0:
			ctx, cancel := context.WithCancelCause(context.Background())
			d.cancels[t.n], t.cancelable = cancel, true
			own = func(context.Context) context.Context { return ctx }
		case kind == 1:
			t.ctxEnd = now + d.unique(choose(d.tape, 40*time.Millisecond, 3*time.Second))
			ctx, cancel := context.WithDeadline(context.Background(), d.start.Add(t.ctxEnd))
			t.cancelable = true
			d.cancels[t.n] = func(error) { cancel() } // not chosen by cancelContext, as ctxEnd is set
			own = func(context.Context) context.Context { return ctx }
		}
	}
	return t, own
}

// submit has a task submitted, by parent if that is not nil.
func (d *trial) submit(parent *modelAttempt) {
	t, own := d.newTask(parent)
	if parent != nil && t.parent == nil { // Detach
		own = func(context.Context) context.Context { return context.Background() }
	}
	by := ""
	if parent != nil {
		by = fmt.Sprintf(" in #%d.%d (with its end: %v, as its own: %v)", parent.t.n, parent.number, t.ctxOf != nil, t.parent != nil)
	}
	if d.flows {
		by += fmt.Sprintf(" of %q %+v", t.flow, t.policy)
	}
	for _, on := range t.after {
		by += fmt.Sprintf(" after #%d", on.n)
	}
	what := fmt.Sprintf("submit #%d%s: %v timeout=%v work=%v heartbeat=%v attempts=%d backoff=%v if=%d notBefore=%v maxWait=%v ctxEnd=%v",
		t.n, by, t.priority, t.timeout, t.workTimeout, t.heartbeat, t.most, t.backoff, t.retryIf, t.notBefore, t.maxWait, t.ctxEnd)
	do := func(ctx context.Context) {
		h, err := d.pool.Submit(own(ctx), d.real(t))
		if err == nil {
			d.mu.Lock()
			d.handles[t.n] = h
			d.mu.Unlock()
		}
		d.note("submit #%d: %s", t.n, describe(err))
	}
	changes := d.flows && t.policy != d.model.flows.policies[t.flow]
	d.step(what, func() {
		if changes {
			d.pool.Stats() // takes in what has arrived, which else would do so with the new policy
		}
		if parent != nil {
			d.tell(parent, command{do: "submit", submit: do})
		} else {
			go do(context.Background())
		}
	}, func() { d.model.submit(t) })
}

// real returns the task that t is the model of.
func (d *trial) real(t *modelTask) taskpool.Task {
	task := taskpool.Task{Name: t.name(), Priority: t.priority, Flow: t.flow, Timeout: t.timeout, WorkTimeout: t.workTimeout, Heartbeat: t.heartbeat, Run: d.run(t.n)}
	task.MaxWait = t.maxWait
	if t.notBefore > 0 {
		task.NotBefore = d.start.Add(t.notBefore)
	}
	for _, on := range t.after {
		task.After = append(task.After, d.handle(on.n))
	}
	if task.Retry.MaxAttempts = t.most; t.most > 1 {
		task.Retry.Backoff = func(int) time.Duration { return t.backoff }
		switch t.retryIf {
		case ifAlways:
			task.Retry.If = func(error) bool { return true }
		case ifNever:
			task.Retry.If = func(error) bool { return false }
		}
	}
	return task
}

// submitGo calls Go, or several times at once.
func (d *trial) submitGo() {
	var all []*modelTask
	what := "go"
	for range 1 + d.steps%3 {
		t := &modelTask{n: len(d.model.tasks) + len(all), priority: d.priority(), isGo: true}
		all = append(all, t)
		what += fmt.Sprintf(" #%d: %v", t.n, t.priority)
	}
	next := func() {
		t := all[0]
		all = all[1:]
		run := d.run(t.n)
		err := d.pool.TryGo(t.priority, func() { _ = run(context.Background()) })
		d.note("submit #%d: %s", t.n, describe(err))
	}
	again := all
	together := false
	d.step(what, func() {
		together = pooltest.Together(d.pool, func() {
			for len(all) > 0 {
				next()
			}
		})
		for len(all) > 0 {
			next()
			synctest.Wait() // else it is a matter of chance what a worker finds that looks
		}
	}, func() {
		if together {
			d.model.hold++
		}
		for _, t := range again {
			d.model.submit(t)
		}
		if together {
			d.model.hold--
			d.model.restore()
		}
	})
}

// run returns the Run of task n.
func (d *trial) run(n int) func(context.Context) error {
	return func(ctx context.Context) error {
		b := &body{ctx: ctx, do: make(chan command)}
		info, _ := taskpool.Current(ctx)
		number := max(info.Attempt, 1)
		d.mu.Lock()
		d.bodies[[2]int{n, number}] = b
		if info.Handle != nil {
			d.handles[n] = info.Handle
		}
		d.mu.Unlock()
		d.note("start #%d.%d", n, number)
		for {
			switch c := d.next(b); c.do {
			case "return":
				switch {
				case c.err == errLasting:
					return taskpool.Permanent(c.err)
				case c.after > 0:
					return taskpool.RetryAfter(c.after, c.err)
				}
				return c.err
			case "return ctx.Err()":
				return ctx.Err()
			case "yield":
				d.note("#%d.%d yield: %s", n, number, describe(taskpool.Yield(ctx)))
			case "beat":
				taskpool.Beat(ctx)
			case "block":
				err := taskpool.Block(ctx, func() error { die(d.next(b)); return nil })
				d.note("#%d.%d block: %s", n, number, describe(err))
			case "wait":
				with := ctx
				switch c.with {
				case withoutCancel:
					with = context.WithoutCancel(ctx)
				case otherContext:
					with = context.Background()
				}
				d.note("#%d.%d wait: %s", n, number, describe(d.handle(c.task).Wait(with)))
			case "submit":
				c.submit(ctx)
			default:
				die(c)
			}
		}
	}
}

func die(c command) {
	switch c.do {
	case "panic":
		panic(errOfPanic)
	case "goexit":
		runtime.Goexit()
	}
}

// next is what b is to do next.
func (d *trial) next(b *body) command {
	select {
	case c := <-b.do:
		return c
	case <-d.released:
		return command{do: "return"}
	}
}

// Commanding.

func (d *trial) tell(a *modelAttempt, c command) {
	d.mu.Lock()
	b := d.bodies[[2]int{a.t.n, a.number}]
	d.mu.Unlock()
	select {
	case b.do <- c:
	case <-time.After(time.Nanosecond): // it must be waiting for it
		d.failf("#%d.%d is not ready", a.t.n, a.number)
	}
}

func (d *trial) command(a *modelAttempt, c command, model func()) {
	what := fmt.Sprintf("#%d.%d: %s", a.t.n, a.number, c.do)
	switch c.do {
	case "wait":
		what += fmt.Sprintf(" for #%d, context %d", c.task, c.with)
	case "return":
		what += fmt.Sprintf(" %v %v", c.err, c.after)
	}
	d.step(what, func() { d.tell(a, c) }, model)
}

// end ends an attempt.
func (d *trial) end(a *modelAttempt) {
	if !d.clear(a) {
		return
	}
	c := command{do: "return"}
	switch d.n(12) {
	case 0, 1, 2, 3:
	case 4, 5:
		c.err = errOfTask
	case 6:
		c.err = errLasting
	case 7:
		c.err, c.after = errOfTask, d.unique(25*time.Millisecond)
	case 8, 9:
		c.do = "return ctx.Err()"
		if a.t.isGo {
			c.do = "return"
		}
	case 10:
		c.do = "panic"
	case 11:
		c.do = "goexit"
	}
	d.ends(a, c)
}

func (d *trial) ends(a *modelAttempt, c command) {
	d.command(a, c, func() {
		switch {
		case a.t.isGo:
			c.err, c.after = nil, 0
		case c.do == "return ctx.Err()":
			c.do = "return"
			if a.cause != nil {
				c.err = context.Canceled
			}
		}
		d.model.finish(a, c)
	})
}

// clear reports whether the end of a leaves no choice: it frees a slot and ends
// the contexts of the tasks submitted with its own, and if one of these is parked or
// waits for room, it may or may not get the slot or the room first.
func (d *trial) clear(a *modelAttempt) bool { return d.clearFor(a, a) }

// clearFor is clear of a where it is by ends that the slot becomes free.
func (d *trial) clearFor(a, by *modelAttempt) bool {
	if a.cause != nil {
		return true
	}
	for _, c := range d.model.tasks {
		if c.ctxOf != a || c.settled() || c.refused() {
			continue
		}
		b := c.attempt
		if b == nil && d.vanishes(c, by) {
			continue
		}
		if b == nil || b.parked && !b.working || !d.clearFor(b, by) {
			return false
		}
	}
	return true
}

func (d *trial) unblock(a *modelAttempt) {
	how := choose(d.tape, "return", "return", "return", "panic", "goexit")
	if !d.clear(a) || a.parked && !d.model.resumesAtOnce(a) {
		how = "return" // its end, once it resumes, may or may not be seen by one that resumes with it
	}
	d.step(fmt.Sprintf("#%d.%d: the blocking call ends: %s", a.t.n, a.number, how),
		func() { d.tell(a, command{do: how}) }, func() { d.model.unblock(a, how) })
}

func (d *trial) cancelContext() {
	var all []*modelTask
	for _, t := range d.model.tasks {
		if d.cancels[t.n] != nil && t.ctxEnd == 0 && !t.settled() && !t.refused() {
			all = append(all, t)
		}
	}
	if len(all) == 0 {
		return
	}
	t := choose(d.tape, all...)
	cancel := d.cancels[t.n]
	delete(d.cancels, t.n)
	d.step(fmt.Sprintf("cancel the context of #%d", t.n), func() { cancel(errOfCaller) }, func() { d.model.contextEnds(t, errOfCaller) })
}

// vanishes reports whether it makes no difference who finds first that the context of t,
// which waits, has ended when the end of by frees a slot: what cancels it, or the worker
// that is about to start it.
func (d *trial) vanishes(t *modelTask, by *modelAttempt) bool {
	m := d.model
	return t.accepted && t.attempt == nil && !t.settled() &&
		len(t.waiters) == 0 && // else one of them may want the slot
		!slices.ContainsFunc(m.tasks, func(o *modelTask) bool { return o.waitsFor && slices.Contains(o.after, t) }) && // likewise
		len(m.admission) == 0 && // and here somebody its room
		(m.share == 0 && m.step == 0 && !d.flows || m.aloneOnceEnded(by)) &&
		(!d.flows || t.urgency() == t.priority) // with two places it may count as a choice of its flow
}

// aloneOnceEnded reports whether no more than one task waits for the slot that a leaves.
// With others beside one that is to vanish, the fair share may count a choice that is none;
// and with aging, those of its priority that resume may have their turn by its age.
func (m *modelPool) aloneOnceEnded(a *modelAttempt) bool {
	joins := len(a.t.waiters)
	for _, t := range m.tasks {
		if t.waitsFor && slices.Contains(t.after, a.t) {
			joins++
		}
	}
	if a.number < a.t.most { // it may be retried at once
		joins++
	}
	return len(m.inQueue())+joins <= 1
}

// cancelAndFree ends the context of a task that waits and then a task that runs, before
// anybody has taken note of the former: it does not start.
func (d *trial) cancelAndFree() {
	a := d.ready(true)
	if a == nil || !d.clear(a) {
		return
	}
	var waiting []*modelTask
	for _, t := range d.model.tasks {
		if d.cancels[t.n] != nil && t.ctxEnd == 0 && d.vanishes(t, a) {
			waiting = append(waiting, t)
		}
	}
	if len(waiting) == 0 {
		return
	}
	t := choose(d.tape, waiting...)
	cancel := d.cancels[t.n]
	delete(d.cancels, t.n)
	d.step(fmt.Sprintf("cancel the context of #%d, which waits, and end #%d.%d", t.n, a.t.n, a.number), func() {
		cancel(errOfCaller)
		d.tell(a, command{do: "return"})
	}, func() {
		d.model.contextEnds(t, errOfCaller)
		d.model.finish(a, command{do: "return"})
	})
}

func (d *trial) resize() {
	n := d.model.reserved + 1 + d.n(5)
	want := "ok"
	if d.model.closed {
		want = describe(taskpool.ErrClosed)
	}
	d.step(fmt.Sprintf("resize to %d", n), func() {
		if got := describe(d.pool.Resize(n)); got != want {
			d.failf("Resize: %s, want %s", got, want)
		}
	}, func() {
		if !d.model.closed {
			d.model.resize(n)
		}
	})
}

func (d *trial) shutdown() {
	d.step("shutdown", func() {
		go func() {
			err := d.pool.Shutdown(d.patience)
			d.note("shutdown: %s", describeShutdown(err))
		}()
	}, d.model.shutdown)
	if d.patience.Err() != nil {
		d.step("at once", func() {}, d.model.cutShort)
	}
}

func describeShutdown(err error) string {
	if err == nil {
		return "drained"
	}
	var e *taskpool.ShutdownError
	if !errors.As(err, &e) {
		return err.Error()
	}
	var all []string
	for _, u := range e.Unfinished {
		all = append(all, describeUnfinished(u.Task.Name, u.Task.Priority, u.State, u.Attempt))
	}
	slices.Sort(all)
	return fmt.Sprintf("cut short, unfinished: %v", all)
}

func (d *trial) cutShort() {
	if d.model.closed && d.patience.Err() == nil {
		d.step("cut the shutdown short", d.cut, d.model.cutShort)
	}
}

// advance lets time go by, from one event to the next.
func (d *trial) advance(by time.Duration) {
	for until := d.model.now + by; d.going(); {
		next := d.model.events()
		if len(next) == 0 || next[0].at > until {
			d.sleepUntil(until, "nothing happens", func() {})
			return
		}
		if len(next) > 1 && !d.model.cut {
			d.undefined = true
			return
		}
		d.sleepUntil(next[0].at, next[0].what, next[0].do)
	}
}

func (d *trial) sleepUntil(at time.Duration, what string, do func()) {
	d.step(fmt.Sprintf("wait until %v: %s", at, what),
		func() { time.Sleep(time.Until(d.start.Add(at))) },
		func() {
			d.model.now = at
			do()
			for d.model.cut { // several may hang at once then
				next := d.model.events()
				if len(next) == 0 || next[0].at > at {
					break
				}
				next[0].do()
			}
		})
}

// drain lets all tasks end.
func (d *trial) drain() {
	if d.going() {
		d.shutdown()
	}
	for d.going() {
		idle := d.attempts(func(a *modelAttempt) bool { return a.doing == doingNothing && d.clear(a) })
		blocked := d.attempts(inBlock)
		next := d.model.events()
		switch {
		case len(blocked) > 0:
			d.step("the blocking call ends", func() { d.tell(blocked[0], command{do: "return"}) },
				func() { d.model.unblock(blocked[0], "return") })
		case len(idle) > 0:
			d.ends(idle[0], command{do: "return"})
		case len(next) > 0:
			d.advance(next[0].at - d.model.now)
		case d.patience.Err() == nil && !d.model.over:
			d.cutShort() // tasks that wait for each other
		default:
			d.finished()
			return
		}
	}
}

// finished checks that nothing is left.
func (d *trial) finished() {
	if !d.model.over || d.model.count(func(*modelAttempt) bool { return true }) > 0 {
		d.failf("the model has not come to its end")
	}
	for _, t := range d.model.tasks {
		if !t.settled() && !t.refused() {
			d.failf("the model has lost #%d", t.n)
		}
	}
}

// tearDown ends whatever is left after a difference was found.
func (d *trial) tearDown() {
	close(d.released)
	d.cut()
	for _, cancel := range d.cancels {
		cancel(nil)
	}
	_ = d.pool.Shutdown(d.patience)
}

// Comparing.

func (d *trial) compare() {
	if d.failure != "" {
		return
	}
	m := d.model
	d.mu.Lock()
	got := d.log
	d.log = nil
	d.mu.Unlock()
	want := m.log
	m.log = nil
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		d.failf("the pool did %q\nthe model did %q", got, want)
		return
	}
	if !d.peek && d.steps%4 != 0 && !m.over {
		return // to look further would take in what has arrived, and end a run
	}
	for _, t := range m.tasks {
		h := d.handle(t.n)
		if h == nil {
			continue
		}
		got, err := h.State(), h.Err()
		if got != t.state || err != d.errs[t.n] && describe(err) != describe(t.err) {
			d.failf("#%d is %v %s, want %v %s", t.n, got, describe(err), t.state, describe(t.err))
			return
		}
		d.errs[t.n] = err
		if info := h.Info(); info.Priority != t.priority || info.Urgency != t.urgency() {
			d.failf("#%d has priority %v and counts as %v, want %v and %v", t.n, info.Priority, info.Urgency, t.priority, t.urgency())
			return
		}
	}
	if got, want := d.census(), m.census(); got != want {
		d.failf("the pool:\n%+v\nthe model:\n%+v", got, want)
		return
	}
	if d.peek {
		m.each(func(a *modelAttempt) {
			d.mu.Lock()
			b := d.bodies[[2]int{a.t.n, a.number}]
			d.mu.Unlock()
			if got := describe(context.Cause(b.ctx)); got != describe(a.cause) && !a.t.isGo {
				d.failf("the context of #%d.%d: %s, want %s", a.t.n, a.number, got, describe(a.cause))
			}
		})
	}
}

// A census is what Stats, Tasks and Health say.
type census struct {
	submitted, refused, succeeded, failed, canceled, shed uint64
	expired                                               uint64
	attempts, retries, parks, panics, goexits, hangs      uint64
	retriesDenied                                         uint64

	slots, queued, heldBack, delayed, running, parked, abandoned, lost, blocked int

	paused, closed bool
	queue, others  string // what Tasks says
	waiting        string
	flows          string // what Flows says
	health         string
}

func (d *trial) census() census {
	s := d.pool.Stats()
	var queue, others []string
	if s.Queued > 0 {
		tasks := d.pool.Tasks(taskpool.StateQueued)
		slices.SortStableFunc(tasks, func(a, b taskpool.TaskInfo) int {
			return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Flow, b.Flow))
		})
		for _, t := range tasks {
			queue = append(queue, describeTask(t.Name, t.Priority, t.Urgency, t.State))
		}
	}
	for _, t := range d.pool.Tasks(taskpool.StateDelayed, taskpool.StateRunning, taskpool.StateParked) {
		others = append(others, describeTask(t.Name, t.Priority, t.Urgency, t.State))
	}
	slices.Sort(others)
	ended := s.Errors + s.Timeouts + s.Interrupted + s.Panics + s.Goexits + s.Hangs + uint64(s.Running+s.Parked)
	started := uint64(0)
	for _, t := range s.ByPriority {
		started += t.Attempts
	}
	if ended > s.Attempts || started != s.Attempts {
		return census{health: fmt.Sprintf("attempts do not add up: %+v", s)}
	}
	health := d.pool.Health()
	if errors.Is(health, taskpool.ErrStalled) { // the model knows nothing of that
		health = nil
	}
	var waiting []string
	for _, w := range s.Waiting {
		waiting = append(waiting, fmt.Sprint(w.Priority, w.Queued, w.Late))
	}
	return census{
		submitted: s.Submitted, refused: s.Refused, succeeded: s.Succeeded, failed: s.Failed, canceled: s.Canceled, shed: s.Shed, expired: s.Expired,
		retriesDenied: s.RetriesDenied,
		attempts:      s.Attempts, retries: s.Retries, parks: s.Parks, panics: s.Panics, goexits: s.Goexits, hangs: s.Hangs,
		slots: s.Workers, queued: s.Queued, heldBack: s.HeldBack, delayed: s.Delayed, running: s.Running, parked: s.Parked,
		abandoned: s.Abandoned, lost: s.Lost, blocked: s.SubmittersWaiting, paused: s.Paused, closed: s.Closed,
		queue: strings.Join(queue, " "), others: strings.Join(others, " "), waiting: strings.Join(waiting, " "),
		flows: describeFlows(d.pool.Flows(-1)) + describeFlows(d.pool.Flows(2)), health: describe(health),
	}
}

func describeFlows(flows []taskpool.FlowStats) (text string) {
	for _, f := range flows {
		text += fmt.Sprintf("{%q %d %d %d %d}", f.Flow, f.Queued, f.HeldBack, f.Running, f.Places)
	}
	return text + " "
}

func describeTask(name string, pr, urgency taskpool.Priority, s taskpool.State) string {
	return fmt.Sprintf("{%q %v %v %v}", name, pr, urgency, s)
}

func (m *modelPool) census() census {
	var queue, others, waiting []string
	count := map[taskpool.Priority]int{}
	sorted := m.inQueue()
	slices.SortStableFunc(sorted, func(a, b *modelTask) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.flow, b.flow))
	})
	for _, t := range sorted {
		if t.state == taskpool.StateQueued {
			queue = append(queue, describeTask(t.name(), t.priority, t.urgency(), t.state))
			count[t.priority]++
		}
	}
	for _, t := range sorted {
		if n := count[t.priority]; n > 0 {
			waiting = append(waiting, fmt.Sprint(t.priority, n, m.late(t.priority)))
			delete(count, t.priority)
		}
	}
	c := census{
		submitted: m.submitted, refused: m.refused,
		retriesDenied: m.retriesDenied,
		attempts:      m.attempts, retries: m.retries, parks: m.parks, panics: m.panics, goexits: m.goexits, hangs: m.hangs,
		slots: m.slots, abandoned: m.abandoned(), lost: m.lost(), blocked: len(m.admission), paused: m.paused, closed: m.closed,
		queue: strings.Join(queue, " "), waiting: strings.Join(waiting, " "), health: describe(nil), expired: m.expired,
	}
	for _, t := range m.tasks {
		if !t.accepted {
			continue
		}
		if s := t.state; s == taskpool.StateDelayed || s == taskpool.StateRunning || s == taskpool.StateParked {
			others = append(others, describeTask(t.name(), t.priority, t.urgency(), s))
		}
		switch t.state {
		case taskpool.StateQueued:
			c.queued++
		case taskpool.StateDelayed:
			c.delayed++
		case taskpool.StateRunning:
			c.running++
		case taskpool.StateParked:
			c.parked++
		case taskpool.StateSucceeded:
			c.succeeded++
		case taskpool.StateFailed:
			c.failed++
		case taskpool.StateCanceled:
			c.canceled++
		case taskpool.StateShed:
			c.shed++
		}
	}
	for _, flow := range flowNames {
		c.heldBack += m.heldBackTasks(flow)
	}
	flows := m.flowStats()
	c.flows = describeFlows(flows) + describeFlows(flows[:min(2, len(flows))])
	slices.Sort(others)
	c.others = strings.Join(others, " ")
	switch {
	case m.closed:
		c.health = describe(taskpool.ErrClosed)
	case c.lost > 0:
		c.health = describe(taskpool.ErrHung)
	}
	return c
}
