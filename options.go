package taskpool

import (
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool/internal/option"
)

// pkg is the prefix of this package's errors.
const pkg option.Package = "taskpool"

// An Option sets how a pool works; see [New].
type Option interface {
	apply(*config)
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// Overflow says what happens to a task for which the queue has no room.
type Overflow int

const (
	// OverflowWait makes Submit and Go wait for room. The most urgent submitter is
	// let in first, subject to the pool's fair share or aging, and equals in order
	// of arrival. For submitters whose tasks are not due, see WithCapacity.
	OverflowWait Overflow = iota

	// OverflowReject makes Submit and Go return ErrFull.
	OverflowReject

	// OverflowShed makes room by shedding the newest of the least urgent
	// queued tasks that have never started; the error of the shed task is ErrShed.
	// If there is no such task, or the new one is no more urgent, the new one is
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
	// DelayedWait makes Shutdown wait for them, as for all others.
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
	unbounded        = -1 // a value of config.capacity
	likeWorkers      = -1 // a value of config.maxAbandoned: as many as there are workers
)

// config is what the options set. It does not change once a pool runs.
type config struct {
	name         string
	workers      int
	capacity     int // how many tasks may wait for a slot, or unbounded
	overflow     Overflow
	fairShare    int
	aging        time.Duration // 0: off
	hangGrace    time.Duration
	maxAbandoned int // may be likeWorkers
	reserved     int // slots kept for tasks of priority reservedFor or more urgent
	reservedFor  Priority
	queueDelay   time.Duration // the target; 0: off
	quantum      time.Duration
	maxParked    int
	delayed      DelayedPolicy // at Shutdown
	retryRatio   float64       // the retry budget, if it is set
	retryLeast   int
	flows        func(flow string) FlowPolicy // nil: no flow has a policy
	hooks        []Hooks
	logger       *slog.Logger // nil: slog.Default(), looked up at each use

	givingUp func() // called by the supervisor just before it gives up on a task; set only in tests

	// Whether these options were given.
	workersSet, capacitySet, fairShareSet, agingSet, abandonedSet, loggerSet, flowsSet, retryBudgetSet, queueDelaySet bool
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
	case c.queueDelaySet && c.queueDelay <= 0:
		return bad("WithQueueDelay: target", "be positive", c.queueDelay)
	case c.quantum <= 0:
		return bad("WithQuantum: d", "be positive", c.quantum)
	case c.maxParked < 0:
		return bad("WithMaxParked: n", "not be negative", c.maxParked)
	case c.delayed < DelayedWait || c.delayed > DelayedCancel:
		return bad("WithDelayedAtShutdown: policy", "be DelayedWait or DelayedCancel", c.delayed)
	case !(c.retryRatio >= 0 && c.retryRatio < 1): // NaN is not allowed either
		return bad("WithRetryBudget: ratio", "be at least 0 and less than 1", c.retryRatio)
	case c.retryLeast < 0:
		return bad("WithRetryBudget: least", "not be negative", c.retryLeast)
	case c.flowsSet && c.flows == nil:
		return bad("WithFlows: policy", "not be nil", "nil")
	case c.flowsSet && c.agingSet:
		return fmt.Errorf("taskpool: WithAging(%v) and WithFlows exclude each other: aging orders tasks by their arrival alone", c.aging)
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
// needed, so more workers than necessary cost nothing.
//
// Default: [runtime.GOMAXPROCS], also when that changes, as it does since Go 1.25 with the CPU
// limit of the container that the program runs in. The pool looks at it when it starts a
// task, at most once a second, and of functions given to Go at one in 256; an idle pool does
// not look. If it has changed, the pool does what [Pool.Resize] does, but keeps one worker more
// than [WithReserved] says, and the log is told at level Debug. A call of Resize ends that.
func WithWorkers(n int) Option {
	return optionFunc(func(c *config) { c.workers, c.workersSet = n, true })
}

// WithCapacity sets to n the number of tasks that may wait because no slot is free,
// and says what happens to a task beyond that. A new task has room while fewer
// tasks wait than n plus the number of free slots. With 0 a task is accepted only
// if there is a slot for it. A retry keeps its place and is never refused, so more
// than n tasks may wait: one more for each worker and for each task that was
// parked. Retries that wait for their time count as waiting, so the queue can be
// full although a worker is idle.
//
// A task that is not due when it is submitted (see [Task]) takes no room from tasks
// that could run. Such tasks are counted separately, from when they are accepted
// until they start, and there may be n plus the number of workers of them. For one
// beyond that, OverflowWait makes Submit wait until one of them starts or is
// canceled. Of several such calls, the one whose task is due first is let in first.
// If its task becomes due meanwhile, Submit treats it like any other new task.
// OverflowReject and OverflowShed return ErrFull, as nothing is shed for a task that
// could not run. Tasks that become due join the queue even if it is full, and then
// count as waiting too, so that many more than n may wait.
//
// Tasks that the limit of a flow holds back take no room from other flows: of each such flow up
// to n may wait beside the others, or as many as its own Capacity says, see [FlowPolicy]. With
// [math.MaxInt] for n only flows are bounded, in the way that overflow says.
//
// Default: unbounded.
func WithCapacity(n int, overflow Overflow) Option {
	return optionFunc(func(c *config) { c.capacity, c.overflow, c.capacitySet = n, overflow, true })
}

// WithFairShare keeps less urgent tasks from starving: of every n dispatches
// that had a choice between priorities, one goes to the task that has waited
// longest, whatever its priority. So a task with m older tasks ahead of it starts
// within n·(m+1) dispatches, and urgent work loses at most one dispatch in n.
// With 1 the pool is first in, first out; with 0 priority is strict and less
// urgent tasks may starve. Default: 16. It cannot be combined with WithAging.
func WithFairShare(n int) Option {
	return optionFunc(func(c *config) { c.fairShare, c.fairShareSet = n, true })
}

// WithAging makes waiting count: each step, which must be positive, that a task
// has waited is worth one priority level. So a task of priority p is never
// passed by a task of priority q that arrives (p−q)·step or more after it.
// Under lasting overload tasks run in order of arrival, each with the head start of
// its priority, and urgent tasks wait in the backlog like all others: prefer the
// fair share unless priorities are meant as deadlines. Default: off. It cannot be
// combined with WithFairShare.
func WithAging(step time.Duration) Option {
	return optionFunc(func(c *config) { c.aging, c.agingSet = step, true })
}

// WithHangGrace sets how long a task may go on after its context has ended
// before it is given up as hung. It must be positive. It counts only while the task
// has a slot or works in [Block]. A grace of 10 ms or more is extended by the time for
// which the program was stopped, or the machine was busy with other work, as is the time
// of a Heartbeat: the supervisor waits for their end in many short steps, and judges by
// how late it wakes up itself. Default: 5 s.
func WithHangGrace(d time.Duration) Option {
	return optionFunc(func(c *config) { c.hangGrace = d })
}

// WithMaxAbandoned bounds the number of goroutines that were given up as hung
// and still run. Beyond it a hung task is still settled, but its slot stays lost
// until an abandoned goroutine returns, and [Pool.Health] says so. With 0 a hung
// task always keeps its slot. The bound does not apply to a task that hangs in
// [Block], which has no slot, nor to a Shutdown that is cut short, which gives up
// all hung tasks. Default: the number of workers.
func WithMaxAbandoned(n int) Option {
	return optionFunc(func(c *config) { c.maxAbandoned, c.abandonedSet = n, true })
}

// WithReserved keeps n workers free of tasks less urgent than pr, so that a task
// of priority pr or more urgent starts at once as long as fewer than n such tasks
// run. n must be less than the number of workers, also after [Pool.Resize].
//
// The dispatches that fill a reserved slot take their own fair-share turns, among
// the tasks that may have it. So for a task less urgent than pr the bound of
// [WithFairShare] counts only the other dispatches, and a task of priority pr or
// more urgent may have to wait for k−1 more dispatches, where k is the argument of
// WithFairShare. Default: none.
func WithReserved(n int, pr Priority) Option {
	return optionFunc(func(c *config) { c.reserved, c.reservedFor = n, pr })
}

// A FlowPolicy says how the tasks of a flow, see Task.Flow, are treated beside those of
// others. The zero value is that of a flow like all others: weight 1, without limits.
type FlowPolicy struct {
	// Weight is the flow's share of the starts of a priority beside that of other flows
	// that wait there, 1 to 1,024. Zero is 1.
	Weight int

	// Limit is how many tasks of the flow may be at work at once, in Yield and Block too:
	// Block around I/O gives the worker to other flows and keeps the place in this one. A
	// task that waits for another task or for room does not count meanwhile, and may have to
	// wait before it goes on. Nor does one that waits for its retry, so with a limit of 1
	// tasks run one after the other, but retries join the queue at its back. Goroutines that
	// were given up as hung do not count either, nor does a task that has waited inside Block,
	// until Block returns, or whose own goroutines wait for tasks with its context while it
	// works on. Tasks that the limit holds back take no
	// worker and none of the room of other flows, but are bounded too, see Capacity; they lend
	// their urgency to the tasks of their flow that are at work. Zero: no limit.
	Limit int

	// Capacity bounds the tasks of the flow that wait, those that wait for a retry included,
	// beside the capacity of the pool, see [WithCapacity]. A task that could start at once is
	// not counted, nor is one that is not due yet. What happens to a task beyond that is what
	// WithCapacity says, among the tasks of the flow: by default its submitter waits. Zero: as
	// many as the pool, which then bounds what the limit holds back for each such flow by itself.
	Capacity int
}

// WithFlows sets the policy of each flow, see Task.Flow. Submit, and whatever else takes a
// Task, calls policy with the task's flow, if it has one, on the caller's goroutine and
// without a lock; it should be quick, and must be safe for concurrent calls. The last answer
// counts for all of the flow's tasks, at once, so a change is seen at the flow's next Submit.
// An answer that is not allowed is an error of that call. The policy of tasks without a flow,
// and of functions given to Go, is asked for once, by New, with "": a policy that ignores its
// argument limits these as well.
//
// Between flows that wait with tasks of one priority, starts are shared by weight: a flow
// that begins to wait starts its first task within k starts of its priority, where k is the
// number of flows that wait there, if the weights are equal. Tasks that go on after they were
// parked, and those that were lent the urgency of that priority, go first and are not
// counted. Within a flow and priority tasks start first in, first out. The fair share of
// [WithFairShare] goes to the flow that has gone longest without, and to its oldest task: so,
// while no task is lent to, one with m older tasks of its own flow starts within n·k·(m+1)
// dispatches, where k is the number of flows that wait. The proofs are in docs/starvation.md.
//
// Default: all flows have the zero policy. It cannot be combined with [WithAging].
func WithFlows(policy func(flow string) FlowPolicy) Option {
	return optionFunc(func(c *config) { c.flows, c.flowsSet = policy, true })
}

// flowPolicy returns the policy of flow for call, which takes a task.
func (c *config) flowPolicy(flow string) (flowPolicy, error) {
	if c.flows == nil {
		return flowPolicy{}, nil
	}
	p := c.flows(flow)
	bad := func(field, allowed string, got int) error {
		return pkg.Bad(fmt.Sprintf("WithFlows: policy(%q).%s", flow, field), allowed, got)
	}
	switch {
	case p.Weight < 0 || p.Weight > maxWeight:
		return flowPolicy{}, bad("Weight", fmt.Sprintf("be 0 to %d", maxWeight), p.Weight)
	case p.Limit < 0:
		return flowPolicy{}, bad("Limit", "not be negative", p.Limit)
	case p.Capacity < 0:
		return flowPolicy{}, bad("Capacity", "not be negative", p.Capacity)
	}
	return flowPolicy{limit: int32(min(p.Limit, math.MaxInt32)), capacity: int32(min(p.Capacity, math.MaxInt32)), weight: uint16(p.Weight)}, nil
}

// WithQueueDelay has the pool shed what waits too long under lasting overload, by priority, and
// so keeps waits short for what it does start. While each task of a priority that starts has
// waited longer than target, for 20·target and more, that priority is late. When it is the turn
// of a task of a late priority that has waited longer than 2·target, it is shed with
// [ErrExpired] in place of being started. A priority is no longer late as soon as one of its
// tasks starts that has waited no longer than target, or none waits. Others are not affected,
// and a burst that the workers get through in 20·target is never shed.
//
// The wait counts from when a task was accepted or became due: without a wait for room, without
// the time before the end of a [Pool.Pause], in which nothing is shed, and without that before
// the limit of its flow last ended to hold it back. Only tasks that have never started count and
// are shed: no retries, none that are parked, and none that were lent the urgency of a more
// urgent task that waits for them. Calls of Do, members of groups, elements of [Map] and functions given to
// Go are shed like other tasks. A priority that is never served, under strict order, sheds
// nothing; Task.MaxWait bounds that too, and needs no overload.
//
// target must be positive. It should be several times as long as it takes until the next of the
// workers is done, or workers may find that all that waits is too old: for tasks of 20 ms on 8
// workers, 10 ms or more. 5 to 100 ms suit most requests. Stats counts what was shed in Shed and
// Expired, and says in Waiting which priorities are Late; hooks are told by Shed and Finished.
//
// With it the pool reads the clock for each task, and what is given to Go costs about as much as
// what is given to Submit. The rule is that of folly's variant of CoDel (RFC 8289), by priority.
// Default: off, which costs nothing.
func WithQueueDelay(target time.Duration) Option {
	return optionFunc(func(c *config) { c.queueDelay, c.queueDelaySet = target, true })
}

// WithQuantum sets the time slice among tasks of equal priority: a task that calls
// [Yield] after it has had its slot for d gives the slot to a task of its own
// priority, if one waits. It must be positive. Default: 10 ms.
func WithQuantum(d time.Duration) Option {
	return optionFunc(func(c *config) { c.quantum = d })
}

// WithMaxParked bounds the number of tasks that are parked in [Block], or in
// [Yield] for an equally urgent one. Beyond it Block keeps the slot and Yield
// returns at once; nothing fails. Giving way to more urgent tasks, waiting for
// other tasks and submitting to a full queue are not bounded, so that tasks that
// wait for each other cannot block the pool. With 0 Block never parks, and Yield
// parks only for more urgent tasks. Default: 10,000.
func WithMaxParked(n int) Option {
	return optionFunc(func(c *config) { c.maxParked = n })
}

// WithDelayedAtShutdown sets what [Pool.Shutdown] does with tasks that have never
// started and whose NotBefore time has not come. With DelayedWait it waits for
// them, even for hours. With DelayedCancel they are Canceled with [ErrClosed] when
// Shutdown is called. They are not listed in the [*ShutdownError], as they never
// started; [Stats] counts them as canceled. From then on Submit refuses such a task
// with ErrClosed, even when a running task calls it. Shutdown still waits for tasks
// that wait for a retry. A round of [Every] that is not due is canceled in any case.
// Default: DelayedWait.
func WithDelayedAtShutdown(policy DelayedPolicy) Option {
	return optionFunc(func(c *config) { c.delayed = policy })
}

// WithRetryBudget bounds the retries of all tasks of the pool together, so that a failure of
// what they all need is not met with a multiple of the load. A retry that the tasks' policy
// grants, see [Retry], is made only if the budget has one left or fewer than least tasks
// wait for a retry, in the queue or for its time. Otherwise the task fails at once, with an
// error that is both [ErrRetryBudget] and that of the attempt; Stats.RetriesDenied counts
// these.
//
// The budget begins empty. Each attempt that ends earns ratio of a retry, that of a function
// given to Go and a retry itself included, and each retry takes one if there is one. What
// the last 1,000 attempts could have earned is the most that is saved: a long time without
// failures is no credit for a storm. So of any n attempts in a row at most ratio·(n+1000)
// are followed by a retry, and all that the pool has made in its life are at most ratio of
// Stats.Attempts, but for those that least lets through: these are what a pool with few
// tasks can retry, and of them no more than least ever wait at once.
//
// ratio is at least 0 and less than 1, and counts to a millionth; 0.1 or 0.2 is usual. With 0
// retries are made by least alone. least is not negative; with 0 only the ratio counts, so a
// pool that has made few attempts retries nothing.
//
// That a share of the requests earns the retries is the rule of Finagle's RetryBudget, whose
// share is 0.2, and of chapter 21 of Site Reliability Engineering, Handling Overload, with
// 0.1. That the savings are bounded is gRPC's (proposal A6, retry throttling); that a few
// retries may always wait is Envoy's (retry_budget, min_retry_concurrency 3). It costs
// nothing for tasks that succeed, and some nanoseconds for a retry.
//
// Default: off.
func WithRetryBudget(ratio float64, least int) Option {
	return optionFunc(func(c *config) { c.retryRatio, c.retryLeast, c.retryBudgetSet = ratio, least, true })
}

// WithHooks adds functions that are called on events in the life of a task or a
// worker. It may be given several times; then all are called, in that order.
// Default: none.
func WithHooks(h Hooks) Option {
	return optionFunc(func(c *config) { c.hooks = append(c.hooks, h) })
}

// WithLogger sets where the pool logs. Default: what [slog.Default] returns at the time.
// The levels are
//
//   - Error: each panic and each hang, where it happened, whoever gets the error; the final
//     failure of a task given to Submit, TrySubmit or SubmitWithin; a failure in a hook, a
//     policy or a context.
//   - Warn: a failure that is retried; a pool that stands still; tasks canceled because
//     their parent has returned; a shutdown that takes long or is incomplete.
//   - Debug: the final failure of a task whose error its caller gets, by [Call], [Map],
//     [MapLimit], [MapUnordered], a [Future] or a [Group], of which Wait returns the first or
//     all; the failure of a task that returns the panic or hang of another task, as it is or
//     wrapped with %w; the success of a task, but not of a function given to Go.
//
// So an error that is returned through nested calls is logged above Debug once: by the task
// whose error nobody is known to get or, if it is a panic or a hang, by the task in which
// that was. What a task was canceled with is not logged.
//
// Records have those of the attributes pool, priority, flow, attempt, id, task (its name),
// elapsed, error, at, stack and retry_in that apply. The attribute at is the file and line
// of a panic, as in at=/src/report/main.go:42. It is not called source, as handlers use that
// for the place of the call that logs. What a task works on is never logged, except for what its errors say. A handler gets a
// record about a task with a context that has the values of the one the task was submitted
// with, so that it can add what it finds there, such as a trace ID.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(c *config) { c.logger, c.loggerSet = l, true })
}

// WithName names the pool in logs, metrics and profiles. In profiles the goroutines of
// its workers have the labels pool, worker and worker_goroutine, which is the goroutine's
// number in stack dumps, and Run's context has them beside those of the context given to
// Submit. What a task or a hook does to the labels ends with it; but of functions given
// to Go that run one after the other, up to 63 may run with the labels that an earlier
// one has left. Default: "".
func WithName(name string) Option {
	return optionFunc(func(c *config) { c.name = name })
}

// maxAbandonedOf returns how many workers may be abandoned in a pool with that many slots.
func (c *config) maxAbandonedOf(slots int) int {
	if c.maxAbandoned == likeWorkers {
		return slots
	}
	return c.maxAbandoned
}

// workersNow returns the number of workers if it follows GOMAXPROCS.
func (c *config) workersNow() int {
	return min(max(runtime.GOMAXPROCS(0), c.reserved+1), maxWorkers)
}
