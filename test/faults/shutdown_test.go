package faults_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// cutTask is what the test knows of one accepted task, from what Run did and not
// from what the pool says.
type cutTask struct {
	name     string // "" for a function given to Go, which its priority tells apart
	priority taskpool.Priority
	state    taskpool.State // as long as nothing is cut short
	attempt  int
	finishes bool           // in spite of the cut
	final    taskpool.State // after the cut
	handle   *taskpool.Handle
	settled  int // how often Finished was told
	second   int // how often it ran in its second life
}

// A crowd is a pool with many tasks in every state.
type crowd struct {
	p         *taskpool.Pool
	mu        sync.Mutex
	tasks     map[string]*cutTask // by name
	functions map[taskpool.Priority]*cutTask
	end       chan struct{} // closed: everything finishes
	hung      chan struct{} // closed: what ignores its context returns, too
	again     atomic.Bool   // tasks live their second life
	outside   chan error    // what submitters waiting for room got
	inside    chan error    // and what tasks waiting for room got
	n         int
	children  int            // finished, of those let in
	strangers sync.WaitGroup // the submitters
}

func (c *crowd) set(k *cutTask, s taskpool.State, attempt int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.state, k.attempt = s, attempt
}

// task submits a task that is in state s, and comes to final once it is cut off.
func (c *crowd) task(t *testing.T, kind string, i int, s, final taskpool.State, task taskpool.Task, run func(ctx context.Context, k *cutTask) error) *cutTask {
	k := &cutTask{name: fmt.Sprintf("%s %d", kind, i), state: taskpool.StateQueued, final: final}
	k.finishes = final != taskpool.StateCanceled && kind != "hung" && kind != "hung in Block"
	k.priority = task.Priority
	c.tasks[k.name] = k
	task.Name = k.name
	task.Run = func(ctx context.Context) error {
		if c.again.Load() {
			c.mu.Lock()
			defer c.mu.Unlock()
			k.second++
			return nil
		}
		c.mu.Lock()
		k.state, k.attempt = s, k.attempt+1
		c.mu.Unlock()
		return run(ctx, k)
	}
	if !task.NotBefore.IsZero() {
		k.state = taskpool.StateDelayed
	}
	k.handle = pooltest.Submit(t, c.p, task)
	return k
}

// until waits for the end of ctx, or of the crowd, and then returns nil.
func (c *crowd) until(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.end:
		return nil
	}
}

// function gives a function to Go. It runs until the end of the crowd if s is
// Running.
func (c *crowd) function(t *testing.T, pr taskpool.Priority, s taskpool.State) {
	k := &cutTask{priority: pr, state: s}
	c.functions[pr] = k
	k.final = taskpool.StateCanceled
	if s == taskpool.StateRunning {
		k.attempt, k.final = 1, taskpool.StateFailed
	}
	require.NoError(t, c.p.Go(pr, func() {
		switch {
		case c.again.Load():
			c.mu.Lock()
			defer c.mu.Unlock()
			k.second++
		case s == taskpool.StateRunning:
			<-c.hung
		}
	}))
}

// newCrowd makes one with n tasks of each of 19 kinds. It must be called in a bubble.
func newCrowd(t *testing.T, n int) *crowd {
	c := &crowd{tasks: make(map[string]*cutTask), functions: make(map[taskpool.Priority]*cutTask),
		end: make(chan struct{}), hung: make(chan struct{}), outside: make(chan error, 3*n), inside: make(chan error, n), n: n}
	// Nine kinds hold a slot: the others give theirs back, wait or never have one.
	const low = 50
	c.p = pooltest.New(t, taskpool.WithWorkers(9*n), taskpool.WithFairShare(0), taskpool.WithMaxParked(10*n),
		taskpool.WithCapacity(5*n, taskpool.OverflowWait), taskpool.WithHangGrace(time.Minute),
		taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
			c.mu.Lock()
			defer c.mu.Unlock()
			k := c.functions[e.Task.Priority]
			if e.Task.ID != 0 {
				k = c.tasks[e.Task.Name]
			}
			if k == nil {
				c.children++
				return
			}
			k.settled++
		}}))
	target := c.task(t, "target", 0, taskpool.StateDelayed, taskpool.StateCanceled, taskpool.Task{NotBefore: time.Now().Add(time.Hour)},
		func(context.Context, *cutTask) error { return nil })
	for i := range n {
		c.task(t, "not before", i, taskpool.StateRunning, taskpool.StateCanceled, taskpool.Task{NotBefore: time.Now().Add(time.Hour)},
			func(ctx context.Context, _ *cutTask) error { return nil })
		c.task(t, "retry", i, taskpool.StateDelayed, taskpool.StateCanceled, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 5,
			Backoff: func(attempt int) time.Duration { return time.Duration(attempt/2) * time.Hour }}},
			func(_ context.Context, k *cutTask) error {
				if k.attempt == 3 { // after the hour
					return nil
				}
				return pooltest.ErrTask
			})
	}
	synctest.Wait()
	cooperative := func(ctx context.Context, _ *cutTask) error { return c.until(ctx) }
	ignores := func(context.Context, *cutTask) error { <-c.hung; return nil }
	give := make(chan struct{}) // closed: give the slot back now
	for i := range n {
		c.task(t, "in Block", i, taskpool.StateParked, taskpool.StateCanceled, taskpool.Task{Priority: low},
			func(ctx context.Context, _ *cutTask) error {
				return taskpool.Block(ctx, func() error { return c.until(ctx) })
			})
		c.task(t, "hung in Block", i, taskpool.StateParked, taskpool.StateFailed, taskpool.Task{Priority: low},
			func(ctx context.Context, _ *cutTask) error {
				return taskpool.Block(ctx, func() error { <-c.hung; return nil })
			})
		c.task(t, "in Wait", i, taskpool.StateParked, taskpool.StateCanceled, taskpool.Task{Priority: low},
			func(ctx context.Context, _ *cutTask) error { return target.handle.Wait(ctx) })
	}
	synctest.Wait()
	for i := range n {
		// These two hold a slot until the queue is full.
		c.task(t, "waiting for room", i, taskpool.StateRunning, taskpool.StateCanceled, taskpool.Task{Priority: low},
			func(ctx context.Context, k *cutTask) error {
				<-give
				c.set(k, taskpool.StateParked, 1)
				h, err := c.p.Submit(ctx, taskpool.Task{Name: "child " + k.name, Priority: low, Run: pooltest.Nop})
				c.inside <- err
				if err != nil {
					return err
				}
				return h.Wait(ctx)
			})
		c.task(t, "in Yield", i, taskpool.StateRunning, taskpool.StateCanceled, taskpool.Task{Priority: low},
			func(ctx context.Context, k *cutTask) error {
				<-give
				c.set(k, taskpool.StateParked, 1)
				return taskpool.Yield(ctx)
			})
		c.task(t, "running", i, taskpool.StateRunning, taskpool.StateCanceled, taskpool.Task{}, cooperative)
		c.task(t, "own error", i, taskpool.StateRunning, taskpool.StateCanceled, taskpool.Task{}, func(ctx context.Context, _ *cutTask) error {
			if c.until(ctx) != nil {
				return pooltest.ErrTask
			}
			return nil
		})
		c.task(t, "in time", i, taskpool.StateRunning, taskpool.StateSucceeded, taskpool.Task{}, func(ctx context.Context, _ *cutTask) error {
			_ = c.until(ctx)
			time.Sleep(time.Second)
			return nil
		})
		c.task(t, "panics", i, taskpool.StateRunning, taskpool.StateFailed, taskpool.Task{}, func(ctx context.Context, _ *cutTask) error {
			if c.until(ctx) != nil {
				panic("at the cut")
			}
			return nil
		})
		c.task(t, "hung", i, taskpool.StateRunning, taskpool.StateFailed, taskpool.Task{}, ignores)
		c.task(t, "hung in time", i, taskpool.StateRunning, taskpool.StateSucceeded, taskpool.Task{}, func(ctx context.Context, _ *cutTask) error {
			select { // deaf for less than the grace
			case <-c.end:
			case <-ctx.Done():
				time.Sleep(59 * time.Second)
			}
			return nil
		})
		c.function(t, taskpool.Priority(-1000-i), taskpool.StateRunning)
	}
	synctest.Wait()
	require.Equal(t, 9*n, c.p.Stats().Running)
	// The queue: it is full with what is delayed, these and functions.
	for i := range n {
		c.task(t, "starts late", i, taskpool.StateRunning, taskpool.StateCanceled, taskpool.Task{Priority: 10}, cooperative)
		c.task(t, "starts last", i, taskpool.StateRunning, taskpool.StateCanceled, taskpool.Task{Priority: 20}, cooperative)
		moved := c.task(t, "moved", i, taskpool.StateRunning, taskpool.StateCanceled, taskpool.Task{Priority: 60}, cooperative)
		require.True(t, moved.handle.SetPriority(45))
		moved.priority = 45
		c.function(t, taskpool.Priority(1000+i), taskpool.StateQueued)
	}
	// Two tasks in n give their slots back to the first two of these, and the room
	// goes to two of three submitters waiting for room.
	for i := range 3 * n {
		k := &cutTask{name: fmt.Sprintf("stranger %d", i), priority: 40, state: taskpool.StateQueued, final: taskpool.StateCanceled}
		c.tasks[k.name] = k
		run := func(context.Context) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.again.Load() {
				k.second++
			}
			return nil
		}
		c.strangers.Go(func() {
			h, err := c.p.Submit(context.Background(), taskpool.Task{Name: k.name, Priority: k.priority, Run: run})
			if err != nil {
				c.outside <- err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			k.handle = h
		})
	}
	synctest.Wait()
	require.Equal(t, 3*n, c.p.Stats().SubmittersWaiting)
	close(give)
	synctest.Wait()
	s := c.p.Stats()
	require.Equal(t, []int{9 * n, 5 * n, 4 * n, 2*n + 1, 2 * n},
		[]int{s.Running, s.Parked, s.Queued, s.Delayed, s.SubmittersWaiting}, "running, parked, queued, delayed, waiting for room")
	return c
}

// requireSettled checks that every task came to the state that want says, was told
// to have finished once, and that the rest was refused.
func (c *crowd) requireSettled(t *testing.T, want func(*cutTask) taskpool.State) {
	c.strangers.Wait()
	synctest.Wait()
	accepted := len(c.functions)
	for _, k := range c.functions {
		require.Equal(t, 1, k.settled, "function of priority %d", k.priority)
	}
	for name, k := range c.tasks {
		if k.handle == nil {
			require.Zero(t, k.settled, name)
			continue
		}
		accepted++
		require.Equal(t, 1, k.settled, name)
		require.Equal(t, want(k), k.handle.State(), name)
		select {
		case <-k.handle.Done():
		default:
			require.Fail(t, "not done", name)
		}
		switch err := k.handle.Err(); k.handle.State() {
		case taskpool.StateSucceeded:
			require.NoError(t, err, name)
		case taskpool.StateCanceled:
			require.ErrorIs(t, err, taskpool.ErrClosed, name)
		case taskpool.StateFailed:
			require.Error(t, err, name)
			require.Equal(t, !k.finishes, errors.Is(err, taskpool.ErrHung), name)
		}
	}
	require.Len(t, c.outside, c.n)
	for range c.n {
		require.ErrorIs(t, <-c.outside, taskpool.ErrClosed)
	}
	s := c.p.Stats()
	pooltest.RequireConserved(t, s)
	require.EqualValues(t, accepted+c.children, s.Submitted)
	require.Zero(t, s.Queued+s.Delayed+s.Running+s.Parked+s.SubmittersWaiting+s.Goroutines)
}

// crowdSize is the number of tasks of each kind.
func crowdSize() int { return pooltest.Times(1000, 200) }

type cutRow struct {
	State    taskpool.State
	Attempt  int
	Priority taskpool.Priority
}

func TestShutdownCutShortAccountsForThousandsInEveryState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, crowdSize())
		defer sync.OnceFunc(func() { close(c.hung) })()
		start := time.Now()
		err := c.p.Shutdown(pooltest.EndedContext())
		require.LessOrEqual(t, time.Since(start), 2*time.Minute, "two graces")
		var e *taskpool.ShutdownError
		require.ErrorAs(t, err, &e)
		require.ErrorIs(t, err, pooltest.ErrStop)

		want, got := make(map[string]cutRow), make(map[string]cutRow)
		for pr, k := range c.functions {
			want[fmt.Sprintf("function %d", pr)] = cutRow{k.state, k.attempt, pr}
		}
		for name, k := range c.tasks {
			if k.handle != nil && !k.finishes {
				want[name] = cutRow{k.state, k.attempt, k.priority}
			}
		}
		for _, u := range e.Unfinished {
			name := u.Task.Name
			if name == "" {
				name = fmt.Sprintf("function %d", u.Task.Priority)
			}
			_, twice := got[name] // as NotContains walks the map
			require.False(t, twice, "%s is listed twice", name)
			got[name] = cutRow{u.State, u.Attempt, u.Task.Priority}
		}
		require.Len(t, got, 17*c.n+1)
		require.Equal(t, want, got)

		c.requireSettled(t, func(k *cutTask) taskpool.State { return k.final })
		require.Len(t, c.inside, c.n)
		for range c.n {
			require.ErrorIs(t, <-c.inside, taskpool.ErrClosed)
		}
		s := c.p.Stats()
		require.Zero(t, c.children)
		require.EqualValues(t, 2*c.n, s.Refused)
		require.Equal(t, 3*c.n, s.Abandoned, "hung, hung in Block and hung functions")

		// A restart loses nothing.
		c.again.Store(true)
		p := pooltest.New(t, taskpool.WithWorkers(8))
		for _, u := range e.Unfinished {
			pooltest.Submit(t, p, u.Task)
		}
		require.NoError(t, p.Shutdown(context.Background()))
		require.EqualValues(t, len(want), p.Stats().Succeeded)
		for pr, k := range c.functions {
			require.Equal(t, 1, k.second, "function %d", pr)
		}
		for name, k := range c.tasks {
			ran := 0
			if _, listed := want[name]; listed {
				ran = 1
			}
			require.Equal(t, ran, k.second, name)
		}
	})
}

func TestShutdownWithPatienceFinishesThousandsInEveryState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, crowdSize())
		start := time.Now()
		down := make(chan error)
		go func() { down <- c.p.Shutdown(context.Background()) }()
		synctest.Wait()
		require.Len(t, c.outside, c.n, "at once")
		require.Empty(t, c.inside, "part of what was accepted")
		close(c.end)
		close(c.hung)
		require.NoError(t, <-down)
		require.Equal(t, time.Hour, time.Since(start))
		require.Equal(t, c.n, c.children)
		for range c.n {
			require.NoError(t, <-c.inside)
		}
		c.requireSettled(t, func(*cutTask) taskpool.State { return taskpool.StateSucceeded })
		require.EqualValues(t, c.n, c.p.Stats().Refused)
		for name, k := range c.tasks {
			require.False(t, k.handle == nil && k.priority != 40, name)
		}
	})
}

// The cut falls into the middle of things, on real cores: tasks start, end, fail,
// are retried, canceled and submitted. Nothing moves between what the list says and
// what the handles say.
func TestShutdownCutShortAtAnyMomentLosesNothing(t *testing.T) {
	const tasks = 600
	rounds := max(pooltest.Times(100, 10), 10) // enough for some to be cut and some to be done
	listed, done := 0, 0
	for seed := range uint64(rounds) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		var told [tasks]atomic.Int32
		var ran [tasks]atomic.Int32 // to the end, in both lives
		var again atomic.Bool
		index := func(name string) (i int) { _, _ = fmt.Sscan(name, &i); return i }
		p := pooltest.New(t, taskpool.WithWorkers(3), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
			told[index(e.Task.Name)].Add(1)
		}}))
		var handles [tasks]*taskpool.Handle
		var refused [tasks]bool
		kinds := rnd.Perm(tasks)
		cutAt, cut := rnd.IntN(tasks), make(chan struct{})
		var submitters sync.WaitGroup
		for first := range 2 {
			submitters.Go(func() {
				for i := first; i < tasks; i += 2 {
					if i/2 == cutAt/2 {
						runtime.Gosched()
						if first == 0 {
							close(cut)
						}
					}
					kind := kinds[i] % 6
					task := taskpool.Task{Name: fmt.Sprint(i), Priority: taskpool.Priority(kinds[i] % 5), Run: func(ctx context.Context) error {
						if kind == 0 && !again.Load() {
							if err := taskpool.Block(ctx, func() error { runtime.Gosched(); return ctx.Err() }); err != nil {
								return err
							}
						}
						if kind == 1 && !again.Load() {
							return pooltest.ErrTask
						}
						if err := taskpool.Yield(ctx); err != nil {
							return err
						}
						ran[i].Add(1)
						return nil
					}}
					if kind == 1 {
						// More attempts than there is time for: only the cut ends it.
						task.Retry = taskpool.Retry{MaxAttempts: 1 << 30, Backoff: func(int) time.Duration { return time.Duration(i%2) * time.Millisecond }}
					}
					h, err := p.Submit(context.Background(), task)
					handles[i], refused[i] = h, errors.Is(err, taskpool.ErrClosed)
				}
			})
		}
		<-cut
		err := p.Shutdown(pooltest.EndedContext())
		submitters.Wait()
		var e *taskpool.ShutdownError
		left := make(map[int]taskpool.Unfinished)
		if errors.As(err, &e) {
			for _, u := range e.Unfinished {
				i := index(u.Task.Name)
				_, twice := left[i]
				require.False(t, twice, "seed %d, task %d: listed twice", seed, i)
				left[i] = u
			}
		} else {
			require.NoError(t, err)
		}
		again.Store(true)
		second := pooltest.New(t)
		for _, u := range left {
			pooltest.Submit(t, second, u.Task)
		}
		require.NoError(t, second.Shutdown(context.Background()))
		for i, h := range handles {
			u, in := left[i]
			switch {
			case h == nil:
				require.True(t, refused[i], "seed %d, task %d: refused without ErrClosed", seed, i)
				require.False(t, in, "seed %d, task %d", seed, i)
				require.Zero(t, told[i].Load())
				require.Zero(t, ran[i].Load())
				continue
			case in:
				listed++
				require.Equal(t, taskpool.StateCanceled, h.State(), "seed %d, task %d: %+v", seed, i, u)
				require.ErrorIs(t, h.Err(), taskpool.ErrClosed)
				require.Contains(t, []taskpool.State{taskpool.StateQueued, taskpool.StateDelayed, taskpool.StateRunning, taskpool.StateParked}, u.State)
			default:
				done++
				require.Equal(t, taskpool.StateSucceeded, h.State(), "seed %d, task %d: %v", seed, i, h.Err())
			}
			require.EqualValues(t, 1, told[i].Load(), "seed %d, task %d", seed, i)
			require.EqualValues(t, 1, ran[i].Load(), "seed %d, task %d: work lost or done twice", seed, i)
		}
	}
	require.Positive(t, listed)
	require.Positive(t, done)
}

// In each of 100 rounds, 100 callers have as many minutes of patience as they like.
func TestAHundredShutdownsAgreeAndTheLeastPatientCounts(t *testing.T) {
	const grace, lingers = time.Hour, 50 * time.Minute // others run out of patience meanwhile
	drained, cut := 0, 0
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 8))
			p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHangGrace(grace))
			needs := time.Duration(1+rnd.IntN(10))*time.Minute + time.Second // a task
			for range 20 {
				pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
					if err := pooltest.Sleep(ctx, needs); err != nil {
						time.Sleep(lingers)
						return err
					}
					return nil
				}})
			}
			start, total := time.Now(), 10*needs
			least, calls := time.Duration(1<<62), 100
			answers := make([]error, calls)
			causes := make([]error, calls)
			var patient error
			var wg sync.WaitGroup
			for i := range calls {
				after := time.Duration(rnd.IntN(60)) * time.Second // when it is called
				patience := time.Duration(1+rnd.IntN(1000)) * time.Minute
				causes[i] = fmt.Errorf("caller %d", i)
				if at := after + patience; at < least {
					least, patient = at, causes[i]
				}
				wg.Go(func() {
					time.Sleep(after)
					ctx, cancel := context.WithTimeoutCause(context.Background(), patience, causes[i])
					defer cancel()
					answers[i] = p.Shutdown(ctx)
				})
			}
			wg.Wait()
			for _, err := range answers {
				require.Equal(t, answers[0], err, "seed %d", seed)
			}
			if least > total {
				require.NoError(t, answers[0], "seed %d", seed)
				// Callers who come after it get the same answer at once.
				require.Less(t, time.Since(start), max(total, time.Minute)+time.Second, "seed %d", seed)
				drained++
				return
			}
			cut++
			require.Equal(t, least+lingers, time.Since(start), "seed %d", seed)
			var e *taskpool.ShutdownError
			require.ErrorAs(t, answers[0], &e)
			require.Equal(t, patient, errors.Unwrap(e), "seed %d", seed)
			require.Len(t, e.Unfinished, 20-2*int(least/needs), "seed %d", seed)
			for _, err := range answers {
				require.Same(t, e, err)
			}
		})
	}
	require.Positive(t, drained)
	require.Positive(t, cut)
}

// An askingError and an askingHandler are user code that
// workers and reporters call.
type askingError struct{ ask func() }

func (e askingError) Error() string   { e.ask(); return "asking" }
func (e askingError) Is(error) bool   { e.ask(); return false }
func (e askingError) As(any) bool     { e.ask(); return false }
func (e askingError) Unwrap() []error { e.ask(); return nil }

type askingHandler struct {
	slog.Handler
	ask func()
}

func (h askingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h askingHandler) Handle(context.Context, slog.Record) error {
	h.ask()
	return nil
}

// What is called on a goroutine of the pool cannot shut it down, wherever it is
// called from. (Queued and Shed are called on the submitter's: here, a task's.)
func TestShutdownFromUserCodeOfThePoolIsErrInside(t *testing.T) {
	background := context.Background()
	again := taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}
	failing := func(context.Context) error { return pooltest.ErrTask }
	deaf := func(context.Context) error { time.Sleep(time.Hour); return nil }
	hangs := taskpool.Task{Run: deaf, Timeout: time.Second}
	type setting struct {
		task     taskpool.Task
		function func()
		hooks    taskpool.Hooks
		logger   slog.Handler
		overflow bool
	}
	inTask := func(f func(ctx context.Context)) setting {
		return setting{task: taskpool.Task{Run: func(ctx context.Context) error { f(ctx); return nil }}}
	}
	inHook := func(task taskpool.Task, set func(*taskpool.Hooks, func(taskpool.TaskEvent), func(taskpool.WorkerEvent))) func(ask func(context.Context)) setting {
		return func(ask func(context.Context)) setting {
			s := setting{task: task}
			set(&s.hooks, func(taskpool.TaskEvent) { ask(background) }, func(taskpool.WorkerEvent) { ask(background) })
			return s
		}
	}
	type taskHook = func(taskpool.TaskEvent)
	type workerHook = func(taskpool.WorkerEvent)
	panics := taskpool.Task{Run: func(context.Context) error { panic("fault") }}
	for name, set := range map[string]func(ask func(context.Context)) setting{
		"task, own context": func(ask func(context.Context)) setting { return inTask(ask) },
		"task, Background":  func(ask func(context.Context)) setting { return inTask(func(context.Context) { ask(background) }) },
		"task, detached context": func(ask func(context.Context)) setting {
			return inTask(func(ctx context.Context) { ask(taskpool.Detach(ctx)) })
		},
		"task, without its cancel": func(ask func(context.Context)) setting {
			return inTask(func(ctx context.Context) { ask(context.WithoutCancel(ctx)) })
		},
		"task, derived context": func(ask func(context.Context)) setting {
			return inTask(func(ctx context.Context) {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Nanosecond)
				defer cancel()
				ask(ctx)
			})
		},
		"task, ended context": func(ask func(context.Context)) setting {
			return inTask(func(context.Context) { ask(pooltest.EndedContext()) })
		},
		"helper of a task": func(ask func(context.Context)) setting {
			return inTask(func(ctx context.Context) {
				var wg sync.WaitGroup
				wg.Go(func() { ask(ctx) })
				wg.Wait()
			})
		},
		"Block": func(ask func(context.Context)) setting {
			return inTask(func(ctx context.Context) {
				_ = taskpool.Block(ctx, func() error { ask(background); return nil })
			})
		},
		"function":             func(ask func(context.Context)) setting { return setting{function: func() { ask(background) }} },
		"hook Started":         inHook(panics, func(h *taskpool.Hooks, f taskHook, _ workerHook) { h.Started = f }),
		"hook AttemptFailed":   inHook(panics, func(h *taskpool.Hooks, f taskHook, _ workerHook) { h.AttemptFailed = f }),
		"hook Finished":        inHook(panics, func(h *taskpool.Hooks, f taskHook, _ workerHook) { h.Finished = f }),
		"hook Retried":         inHook(taskpool.Task{Run: failing, Retry: again}, func(h *taskpool.Hooks, f taskHook, _ workerHook) { h.Retried = f }),
		"hook Finished, hung":  inHook(hangs, func(h *taskpool.Hooks, f taskHook, _ workerHook) { h.Finished = f }),
		"hook WorkerDied":      inHook(panics, func(h *taskpool.Hooks, _ taskHook, f workerHook) { h.WorkerDied = f }),
		"hook WorkerReplaced":  inHook(panics, func(h *taskpool.Hooks, _ taskHook, f workerHook) { h.WorkerReplaced = f }),
		"hook WorkerAbandoned": inHook(hangs, func(h *taskpool.Hooks, _ taskHook, f workerHook) { h.WorkerAbandoned = f }),
		"hook Queued, in a task": func(ask func(context.Context)) setting {
			return setting{hooks: taskpool.Hooks{Queued: func(e taskpool.TaskEvent) {
				if e.Task.Name == "child" {
					ask(background)
				}
			}}}
		},
		"hook Shed, in a task": func(ask func(context.Context)) setting {
			return setting{hooks: taskpool.Hooks{Shed: func(taskpool.TaskEvent) { ask(background) }}, overflow: true}
		},
		"hook Around": func(ask func(context.Context)) setting {
			return setting{task: taskpool.Task{Run: pooltest.Nop}, hooks: taskpool.Hooks{
				Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
					ask(background)
					ask(ctx)
					err := run(ctx)
					ask(background)
					return err
				}}}
		},
		"hook Around, of a function": func(ask func(context.Context)) setting {
			return setting{function: func() {}, hooks: taskpool.Hooks{
				Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
					ask(ctx)
					return run(ctx)
				}}}
		},
		"Retry.Backoff": func(ask func(context.Context)) setting {
			return setting{task: taskpool.Task{Run: failing, Retry: taskpool.Retry{MaxAttempts: 2,
				Backoff: func(int) time.Duration { ask(background); return 0 }}}}
		},
		"Retry.If": func(ask func(context.Context)) setting {
			return setting{task: taskpool.Task{Run: failing, Retry: taskpool.Retry{MaxAttempts: 2,
				If: func(error) bool { ask(background); return true }}}}
		},
		"Retry.If, hung": func(ask func(context.Context)) setting {
			task := hangs
			task.Retry = taskpool.Retry{MaxAttempts: 2, If: func(error) bool { ask(background); return false }}
			return setting{task: task}
		},
		"an error's methods": func(ask func(context.Context)) setting {
			return setting{task: taskpool.Task{Run: func(context.Context) error { return askingError{func() { ask(background) }} }, Retry: again}}
		},
		"logger": func(ask func(context.Context)) setting {
			return setting{task: panics, logger: askingHandler{slog.DiscardHandler, func() { ask(background) }}}
		},
		"logger, hung": func(ask func(context.Context)) setting {
			return setting{task: hangs, logger: askingHandler{slog.DiscardHandler, func() { ask(background) }}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p *taskpool.Pool
				var answers []error
				var took time.Duration
				var mu sync.Mutex
				armed := true
				s := set(func(ctx context.Context) {
					mu.Lock()
					defer mu.Unlock()
					if !armed {
						return
					}
					start := time.Now()
					answers = append(answers, p.Shutdown(ctx))
					took += time.Since(start)
				})
				opts := []taskpool.Option{taskpool.WithWorkers(2), taskpool.WithHooks(s.hooks)}
				if s.overflow {
					opts = append(opts, taskpool.WithCapacity(1, taskpool.OverflowShed))
				}
				if s.logger != nil {
					opts = append(opts, taskpool.WithLogger(slog.New(s.logger)))
				}
				p = pooltest.New(t, opts...)
				switch {
				case s.function != nil:
					require.NoError(t, p.Go(0, s.function))
				case s.task.Run != nil:
					pooltest.Submit(t, p, s.task)
				default: // a task whose child is queued, and sheds another
					release := pooltest.Block(t, p)
					pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
						_, err := p.Submit(taskpool.Detach(ctx), taskpool.Task{Name: "victim", Priority: 9, Run: pooltest.Nop})
						if err != nil {
							return err
						}
						_, err = p.Submit(taskpool.Detach(ctx), taskpool.Task{Name: "child", Run: pooltest.Nop})
						return err
					}})
					synctest.Wait()
					release()
				}
				require.NoError(t, p.WaitIdle(context.Background()))
				synctest.Wait()
				mu.Lock()
				armed = false
				require.NotEmpty(t, answers, "it must have been called")
				for _, err := range answers {
					require.ErrorIs(t, err, taskpool.ErrInside)
				}
				require.Zero(t, took, "at once")
				mu.Unlock()
				require.False(t, p.Stats().Closed)
				require.NoError(t, p.Health())
				h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
				require.NoError(t, h.Wait(context.Background()))
				require.NoError(t, p.Shutdown(context.Background()))
				time.Sleep(2 * time.Hour) // a hung one comes back
			})
		})
	}
}

// Hooks that do not return keep the supervisor from replacing the dead, until the
// end of a Shutdown that is cut short.
func TestDeadWorkersAreNotAbandonedAtTheEndOfShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithHooks(taskpool.Hooks{WorkerDied: func(taskpool.WorkerEvent) { <-gate }}))
		for range 5000 {
			require.NoError(t, p.Go(taskpool.Medium, func() { panic("x") }))
		}
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { panic("x") }})
		synctest.Wait()
		require.Error(t, p.Shutdown(pooltest.EndedContext()))
		require.Zero(t, p.Stats().Abandoned)
		close(gate)
	})
}
