package taskpool

import (
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool/internal/option"
)

// pkg is what the errors of this package begin with.
const pkg option.Package = "taskpool"

// An Option sets how a pool works; see [New].
type Option interface {
	apply(*config)
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// Overflow says what becomes of a task for which the queue has no room.
type Overflow int

const (
	// OverflowWait makes Submit and Go wait for room. The most urgent submitter is
	// let in first, with the pool's fair share or aging, and in order of
	// arrival among equals; WithCapacity says which of those whose tasks are
	// not due.
	OverflowWait Overflow = iota

	// OverflowReject makes Submit and Go return ErrFull.
	OverflowReject

	// OverflowShed makes room by shedding the newest of the least urgent
	// tasks that are queued and have never started; its error is ErrShed. A
	// newcomer that is no more urgent than that one, or finds none, is
	// refused with ErrFull.
	OverflowShed
)

// String returns "wait", "reject", "shed" or a number.
func (o Overflow) String() string {
	switch o {
	case OverflowWait:
		return "wait"
	case OverflowReject:
		return "reject"
	case OverflowShed:
		return "shed"
	}
	return "Overflow(" + strconv.Itoa(int(o)) + ")"
}

// DelayedPolicy says what a shutdown does with tasks that have never started and
// whose NotBefore time has not come.
type DelayedPolicy int

const (
	// DelayedWait makes Shutdown wait for them, like for all others.
	DelayedWait DelayedPolicy = iota

	// DelayedCancel makes Shutdown cancel them.
	DelayedCancel
)

// String returns "wait", "cancel" or a number.
func (d DelayedPolicy) String() string {
	switch d {
	case DelayedWait:
		return "wait"
	case DelayedCancel:
		return "cancel"
	}
	return "DelayedPolicy(" + strconv.Itoa(int(d)) + ")"
}

const (
	defaultFairShare = 16
	defaultHangGrace = 5 * time.Second
	defaultQuantum   = 10 * time.Millisecond
	defaultMaxParked = 10_000
	maxWorkers       = 1_000_000
	unbounded        = -1 // of config.capacity
	likeWorkers      = -1 // of config.maxAbandoned
)

// config is what the options set. It does not change once a pool runs.
type config struct {
	name         string
	workers      int
	capacity     int // tasks that may wait for a slot; or unbounded
	overflow     Overflow
	fairShare    int
	aging        time.Duration // 0: off
	hangGrace    time.Duration
	maxAbandoned int // or likeWorkers
	reserved     int // slots for tasks up to reservedFor
	reservedFor  Priority
	quantum      time.Duration
	maxParked    int
	delayed      DelayedPolicy // at Shutdown
	hooks        []Hooks
	logger       *slog.Logger // nil: slog.Default(), looked up at each use

	givingUp func() // called by the supervisor while it is about to give up on a task; nil but in tests

	// Which options were given, where that matters.
	capacitySet, fairShareSet, agingSet, abandonedSet, loggerSet bool
}

func newConfig(opts []Option) (*config, error) {
	c := &config{
		workers:      runtime.GOMAXPROCS(0),
		capacity:     unbounded,
		fairShare:    defaultFairShare,
		hangGrace:    defaultHangGrace,
		maxAbandoned: likeWorkers,
		quantum:      defaultQuantum,
		maxParked:    defaultMaxParked,
	}
	if err := option.Apply(pkg, opts, func(o Option) { o.apply(c) }); err != nil {
		return nil, err
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.agingSet {
		c.fairShare = 0
	}
	return c, nil
}

// validate returns an error for the first setting that is not allowed.
func (c *config) validate() error {
	bad := pkg.Bad
	switch {
	case c.workers < 1:
		return bad("WithWorkers: n", "be at least 1", c.workers)
	case c.workers > maxWorkers:
		return bad("WithWorkers: n", fmt.Sprintf("be at most %d", maxWorkers), c.workers)
	case c.capacitySet && c.capacity < 0:
		return bad("WithCapacity: n", "not be negative", c.capacity)
	case c.overflow < OverflowWait || c.overflow > OverflowShed:
		return bad("WithCapacity: overflow", "be OverflowWait, OverflowReject or OverflowShed", c.overflow)
	case c.fairShare < 0:
		return bad("WithFairShare: n", "not be negative", c.fairShare)
	case c.agingSet && c.aging <= 0:
		return bad("WithAging: step", "be positive", c.aging)
	case c.agingSet && c.fairShareSet:
		return fmt.Errorf("taskpool: WithAging(%v) and WithFairShare(%d) exclude each other: a fair-share turn would break the promise of aging", c.aging, c.fairShare)
	case c.hangGrace <= 0:
		return bad("WithHangGrace: d", "be positive", c.hangGrace)
	case c.abandonedSet && c.maxAbandoned < 0:
		return bad("WithMaxAbandoned: n", "not be negative", c.maxAbandoned)
	case c.reserved < 0:
		return bad("WithReserved: n", "not be negative", c.reserved)
	case c.reserved >= c.workers:
		return bad("WithReserved: n", fmt.Sprintf("be less than the number of workers, %d", c.workers), c.reserved)
	case c.quantum <= 0:
		return bad("WithQuantum: d", "be positive", c.quantum)
	case c.maxParked < 0:
		return bad("WithMaxParked: n", "not be negative", c.maxParked)
	case c.delayed < DelayedWait || c.delayed > DelayedCancel:
		return bad("WithDelayedAtShutdown: policy", "be DelayedWait or DelayedCancel", c.delayed)
	case c.loggerSet && c.logger == nil:
		return bad("WithLogger: logger", "not be nil (slog.DiscardHandler makes one that is silent)", "nil")
	}
	for _, h := range c.hooks {
		if h.GoEvery < 0 {
			return bad("WithHooks: GoEvery", "not be negative", h.GoEvery)
		}
	}
	return nil
}

// WithWorkers sets the number of workers, which is the number of tasks that run
// at once: at least 1 and at most 1,000,000. A worker starts when it is first
// needed, so a set that is larger than need be costs nothing. Default:
// [runtime.GOMAXPROCS].
func WithWorkers(n int) Option {
	return optionFunc(func(c *config) { c.workers = n })
}

// WithCapacity bounds the number of tasks that wait because no slot is free to n,
// and says what becomes of a task beyond that: a newcomer has room while fewer
// tasks wait than n plus the number of free slots. With 0 a task is accepted only
// if there is a slot for it. A retry keeps its place and is never refused, so more
// than n may wait, by one for each worker and each task that was parked; where
// these are retries that wait for their time, newcomers overflow although a worker
// is idle.
//
// A task that is not due when it is submitted, see [Task], takes no room from those
// that could run: there may be n plus the number of workers of these, counted
// apart, from when they are accepted until they start. For one beyond that,
// OverflowWait makes Submit wait until one of them starts or is canceled, the first
// due first and no longer than until its own time comes, when it is a newcomer like
// all others; the other two return ErrFull, as nothing is shed for a task that could
// not run. Those that become due join the queue though it may be full, and then
// count among those that wait, too: so many more than n may wait.
//
// Default: unbounded.
func WithCapacity(n int, overflow Overflow) Option {
	return optionFunc(func(c *config) { c.capacity, c.overflow, c.capacitySet = n, overflow, true })
}

// WithFairShare keeps less urgent tasks from starving: of every n dispatches
// that had a choice between priorities, one goes to the task that has waited
// longest, whatever its priority. So a task with m older tasks before it starts
// within n·(m+1) dispatches, and urgent work loses at most one dispatch in n.
// With 1 the pool is first in, first out; with 0 priority is strict and less
// urgent tasks may starve. Default: 16. It excludes WithAging.
func WithFairShare(n int) Option {
	return optionFunc(func(c *config) { c.fairShare, c.fairShareSet = n, true })
}

// WithAging makes waiting count: each step, which must be positive, that a task
// has waited is worth one priority level. So a task of priority p is never
// passed by a task of priority q that arrives (p−q)·step or more after it.
// Under lasting overload the order becomes that of arrival plus head start, and
// urgent tasks wait in the backlog like all others: prefer the fair share unless
// priorities are meant as deadlines. Default: off. It excludes WithFairShare.
func WithAging(step time.Duration) Option {
	return optionFunc(func(c *config) { c.aging, c.agingSet = step, true })
}

// WithHangGrace sets how long a task may go on after its context has ended
// before it is given up as hung. It must be positive. A grace of 10 ms and more is put
// off by as much as the machine holds the program up meanwhile, see the section on
// supervision. Default: 5 s.
func WithHangGrace(d time.Duration) Option {
	return optionFunc(func(c *config) { c.hangGrace = d })
}

// WithMaxAbandoned bounds the number of goroutines that were given up as hung
// and still run. Beyond it a hung task is settled all the same, but its slot
// stays lost until an abandoned goroutine returns, and [Pool.Health] says so.
// With 0 a hung task always keeps its slot. A task that hangs in [Block] has
// none and is given up all the same, and a Shutdown that is cut short gives up
// all. Default: the number of workers.
func WithMaxAbandoned(n int) Option {
	return optionFunc(func(c *config) { c.maxAbandoned, c.abandonedSet = n, true })
}

// WithReserved keeps n workers free of tasks less urgent than pr, so that a task
// of priority pr or more urgent starts at once as long as fewer than n of them
// run. n must be less than the number of workers, also after [Pool.Resize].
//
// The dispatches that fill a reserved slot take their own fair-share turns,
// among the tasks that may have it. So the bound of [WithFairShare] counts, for a
// task less urgent than pr, the other dispatches only; and a task up to pr may
// have to wait for n−1 dispatches more, n being the fair share's. Default: none.
func WithReserved(n int, pr Priority) Option {
	return optionFunc(func(c *config) { c.reserved, c.reservedFor = n, pr })
}

// WithQuantum sets the time slice among equals: a task that calls [Yield] when
// it has had its slot for longer gives it to a task of its own priority, if one
// waits. It must be positive. Default: 10 ms.
func WithQuantum(d time.Duration) Option {
	return optionFunc(func(c *config) { c.quantum = d })
}

// WithMaxParked bounds the number of tasks that are parked in [Block], or in
// [Yield] for an equally urgent one. Beyond it Block keeps its slot and Yield
// goes on at once; nothing fails. Giving way to more urgent tasks, waiting for
// other tasks and submitting to a full queue are not bounded, so that tasks that
// wait for each other cannot block the pool. With 0 neither of the two parks.
// Default: 10,000.
func WithMaxParked(n int) Option {
	return optionFunc(func(c *config) { c.maxParked = n })
}

// WithDelayedAtShutdown sets what [Pool.Shutdown] does with tasks that have never
// started and whose NotBefore time has not come. With DelayedWait it waits for
// them, be it for hours. With DelayedCancel they are Canceled with [ErrClosed] at the
// moment it is called: what is due after that will not be done here, and they are
// not in the [*ShutdownError], as nobody began them; [Stats] counts them with the
// canceled ones. From then on Submit refuses such a task with ErrClosed also where a
// running task calls it. Tasks that wait for a retry are waited for all the same.
// Default: DelayedWait.
func WithDelayedAtShutdown(policy DelayedPolicy) Option {
	return optionFunc(func(c *config) { c.delayed = policy })
}

// WithHooks adds functions that are called on the events in a task's and a
// worker's life. It may be given several times; then all are called, in that
// order. Default: none.
func WithHooks(h Hooks) Option {
	return optionFunc(func(c *config) { c.hooks = append(c.hooks, h) })
}

// WithLogger sets where the pool logs: panics, hangs and final failures at
// level Error, retries and a shutdown that takes long or is incomplete at Warn, and
// the success of tasks given to Submit at Debug; that of a function given to Go is
// not logged. Records have the attributes pool, priority, attempt, id and task (its name), elapsed,
// error, stack and retry_in, where there is such a thing; what a task works on is
// never logged, except for what its errors say. A record about a task has the values of the
// context that the task was submitted with, so that handlers find what they add from there,
// such as the identity of a trace. Default: what [slog.Default] returns at the time.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(c *config) { c.logger, c.loggerSet = l, true })
}

// WithName names the pool in logs, metrics and profiles. Default: "".
func WithName(name string) Option {
	return optionFunc(func(c *config) { c.name = name })
}

// maxAbandonedOf returns how many workers of a pool with so many slots may be abandoned.
func (c *config) maxAbandonedOf(slots int) int {
	if c.maxAbandoned == likeWorkers {
		return slots
	}
	return c.maxAbandoned
}
