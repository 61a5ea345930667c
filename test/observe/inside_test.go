package observe_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/pprof"
	runtimetrace "runtime/trace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// oldest returns the oldest wait of each priority that waits.
func oldest(s taskpool.Stats) map[taskpool.Priority]time.Duration {
	all := make(map[taskpool.Priority]time.Duration)
	for _, w := range s.Waiting {
		all[w.Priority] = w.OldestWait
	}
	return all
}

func TestOldestWaitCountsFromTheFirstLookAfterTheTaskCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		defer release()
		const h, l = taskpool.High, taskpool.Low
		require.Empty(t, p.Stats().Waiting)
		require.NoError(t, p.Go(l, func() {}))
		time.Sleep(time.Second)
		require.Equal(t, map[taskpool.Priority]time.Duration{l: 0}, oldest(p.Stats()), "nobody has looked before")
		time.Sleep(time.Second)
		require.NoError(t, p.Go(h, func() {}))
		require.NoError(t, p.Go(l, func() {}))
		require.Equal(t, map[taskpool.Priority]time.Duration{h: 0, l: time.Second}, oldest(p.Stats()))
		time.Sleep(time.Minute)
		pooltest.Submit(t, p, taskpool.Task{Priority: 7, Run: pooltest.Nop})
		require.Equal(t, map[taskpool.Priority]time.Duration{h: time.Minute, l: time.Minute + time.Second, 7: 0}, oldest(p.Stats()))

		// However often somebody looks while a task waits.
		for range 5000 {
			require.NoError(t, p.Go(h, func() {}))
			time.Sleep(time.Second)
			p.Stats()
		}
		got := oldest(p.Stats())
		require.Equal(t, 5061*time.Second, got[l])
		for pr, want := range map[taskpool.Priority]time.Duration{7: 5000 * time.Second, h: 5060 * time.Second} {
			require.LessOrEqual(t, got[pr], want)
			require.GreaterOrEqual(t, got[pr], want-want/32, "to within a part in 32")
		}
	})
}

// A task that leaves uncovers the one behind it, whose wait is known as exactly as
// there were looks.
func TestOldestWaitIsNeverTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		defer release()
		start := time.Now()
		var handles []*taskpool.Handle
		var came []time.Duration
		for i := range 3000 {
			handles = append(handles, pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}))
			came = append(came, time.Since(start))
			time.Sleep(time.Second)
			if i%3 > 0 {
				p.Stats()
			}
		}
		for i, h := range handles {
			age := time.Since(start) - came[i]
			got := p.Stats().Waiting[0].OldestWait
			require.LessOrEqual(t, got, age)
			require.GreaterOrEqual(t, got, age-max(2*time.Second, age/32))
			h.Cancel(nil)
		}
		require.Empty(t, p.Stats().Waiting)
	})
}

func TestOldestWaitIsExactWhereTimesAreTaken(t *testing.T) {
	unbounded := func(c taskpool.Option) []taskpool.Option { return []taskpool.Option{c} }
	hooks := func(every int) taskpool.Option {
		return taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) {}, GoEvery: every})
	}
	for name, opts := range map[string][]taskpool.Option{
		"aging":             unbounded(taskpool.WithAging(time.Hour)),
		"hooks":             unbounded(hooks(1)),
		"a sample":          unbounded(hooks(1 << 30)),
		"a sample, bounded": {hooks(1 << 30), taskpool.WithCapacity(10, taskpool.OverflowReject)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, release := pooltest.Occupied(t, opts...)
				defer release()
				time.Sleep(time.Second)
				require.NoError(t, p.Go(taskpool.Low, func() {}))
				time.Sleep(time.Second)
				pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
				require.NoError(t, p.Go(taskpool.High, func() {}))
				time.Sleep(time.Second)
				require.NoError(t, p.Go(taskpool.Low, func() {}))
				want := map[taskpool.Priority]time.Duration{
					taskpool.Low: 2 * time.Second, taskpool.Medium: time.Second, taskpool.High: time.Second}
				require.Equal(t, want, oldest(p.Stats()))
				longest := time.Duration(0)
				if name != "aging" {
					longest = 3 * time.Second // that of the function which occupies the pool
				}
				require.Equal(t, longest, p.Stats().Longest)
			})
		})
	}
}

// A batch of arrivals has more changes of priority than are timed.
func TestOldestWaitIsNeverTooLongHoweverMixedTheArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t, taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) {}, GoEvery: 1 << 30}))
		defer release()
		start := time.Now()
		came := make(map[taskpool.Priority]time.Time)
		for i := range 60 {
			pr := taskpool.Priority(i % 30)
			if came[pr].IsZero() {
				came[pr] = time.Now()
			}
			require.NoError(t, p.Go(pr, func() {}))
			time.Sleep(time.Second)
		}
		got := oldest(p.Stats())
		require.Len(t, got, 30)
		require.Equal(t, time.Since(start), got[0])
		for pr, wait := range got {
			require.LessOrEqual(t, wait, time.Since(came[pr]))
		}
		time.Sleep(time.Second)
		require.NoError(t, p.Go(99, func() {}))
		for pr, wait := range oldest(p.Stats()) {
			if pr != 99 {
				require.Equal(t, got[pr]+time.Second, wait)
			}
		}
	})
}

func TestWorkInProgressIsTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3))
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		require.NoError(t, p.Go(taskpool.Medium, func() { <-gate }))
		synctest.Wait()
		time.Sleep(time.Minute)
		s := p.Stats()
		require.Equal(t, time.Minute, s.Longest)
		require.Equal(t, time.Minute, s.InProgress, "the function is seen for the first time")
		time.Sleep(time.Minute)
		s = p.Stats()
		require.Equal(t, 2*time.Minute, s.Longest)
		require.Equal(t, 3*time.Minute, s.InProgress)
		for _, task := range p.Tasks(taskpool.StateRunning) {
			want := 2 * time.Minute
			if task.ID == 0 {
				want = time.Minute
			}
			require.Equal(t, want, time.Since(task.Started))
		}
		close(gate)
		synctest.Wait()
		require.Zero(t, p.Stats().InProgress)

		// The next function of the same worker is another.
		require.NoError(t, p.Go(taskpool.Medium, func() { time.Sleep(time.Hour) }))
		synctest.Wait()
		require.Zero(t, p.Stats().Longest)
		time.Sleep(2 * time.Hour)
	})
}

func TestDispatchesAreCountedByPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		want := make(map[taskpool.Priority]uint64)
		gate := make(chan struct{})
		for range 2 { // so that runs of functions are taken, too
			for i := range 30_000 {
				pr := taskpool.Priority(i%7*i%1000) * 1_000_003
				if i%3 == 0 {
					pr = taskpool.Priority(i%3) - 1
				}
				want[pr]++
				if i%10 == 0 {
					pooltest.Submit(t, p, taskpool.Task{Priority: pr, Run: pooltest.Nop})
				} else {
					require.NoError(t, p.Go(pr, func() {}))
				}
			}
			require.NoError(t, p.WaitIdle(t.Context()))
			require.Equal(t, want, pooltest.Started(p.Stats()))
			p.Pause()
			go func() { <-gate; p.Resume() }()
			close(gate)
			synctest.Wait()
			gate = make(chan struct{})
		}
	})
}

// More priorities than the pool can count do no harm, and those that it knows go
// on being counted.
func TestCountedPrioritiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		n := 20_000
		if pooltest.Scarce() {
			n = 8000
		}
		for i := range n {
			require.NoError(t, p.Go(taskpool.Priority(i), func() {}))
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		before := p.Stats().ByPriority
		require.Greater(t, len(before), 4000)
		require.Less(t, len(before), 6000)
		for i := range n {
			require.NoError(t, p.Go(taskpool.Priority(i), func() {}))
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		after := p.Stats().ByPriority
		require.Len(t, after, len(before))
		for pr, t0 := range before {
			t0.Attempts, t0.Succeeded = t0.Attempts+1, t0.Succeeded+1
			require.Equal(t, t0, after[pr])
		}
	})
}

func TestEventsTellHowLongThingsTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.EventLog)
		p, release := pooltest.Occupied(t, taskpool.WithHooks(log.Hooks()), taskpool.WithHangGrace(time.Second))
		fail := errors.New("fail")
		attempts := 0
		h := pooltest.Submit(t, p, taskpool.Task{
			Name:  "task",
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }},
			Run: func(ctx context.Context) error {
				attempts++
				_ = taskpool.Block(ctx, func() error { time.Sleep(time.Duration(attempts) * time.Second); return nil })
				if attempts == 1 {
					return fail
				}
				return nil
			},
		})
		synctest.Wait()
		time.Sleep(3 * time.Second)
		require.NoError(t, p.Go(taskpool.Low, func() { time.Sleep(time.Second / 2) }))
		release()
		require.NoError(t, h.Wait(t.Context()))
		time.Sleep(2 * time.Hour)
		synctest.Wait()

		type times struct {
			event         string
			name          string
			wait, elapsed time.Duration
		}
		var got []times
		for _, e := range log.Named("Started", "AttemptFailed", "Retried", "Finished") {
			if e.Task.Task.Name == "task" || e.Task.Task.Priority == taskpool.Low {
				got = append(got, times{e.Name, e.Task.Task.Name, e.Task.Wait.Round(time.Millisecond), e.Task.Elapsed.Round(time.Millisecond)})
			}
		}
		require.Equal(t, []times{
			{"Started", "task", 3 * time.Second, 0},
			{"Started", "", 0, 0},
			{"Finished", "", 0, time.Second / 2},
			{"AttemptFailed", "task", 3 * time.Second, time.Second},
			{"Retried", "task", 3 * time.Second, time.Second},
			{"Started", "task", 0, 0},
			{"Finished", "task", 0, 2 * time.Second},
		}, got)
	})
}

func TestEventsHaveTheContextOfSubmit(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.EventLog)
		p, release := pooltest.Occupied(t, taskpool.WithHooks(log.Hooks()), taskpool.WithCapacity(2, taskpool.OverflowShed))
		submit := func(value string, task taskpool.Task) *taskpool.Handle {
			ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, value), time.Hour)
			t.Cleanup(cancel)
			h, err := p.Submit(ctx, task)
			require.NoError(t, err)
			return h
		}
		nop := func(context.Context) error { return nil }
		shed := submit("shed", taskpool.Task{Priority: taskpool.Low, Run: nop})
		submit("canceled", taskpool.Task{Run: nop}).Cancel(nil)
		failed := false
		submit("retried", taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}, Run: func(context.Context) error {
			if failed = !failed; failed {
				return pooltest.ErrTask
			}
			return nil
		}})
		require.NoError(t, p.Go(taskpool.High, func() {}))
		require.ErrorIs(t, shed.Err(), taskpool.ErrShed)
		release()
		require.NoError(t, p.WaitIdle(t.Context()))
		require.Equal(t, pooltest.ErrTask, p.Do(context.WithValue(t.Context(), key{}, "done"), taskpool.Task{}, func(context.Context) error { return pooltest.ErrTask }))
		synctest.Wait()
		got := make(map[string][]string)
		for _, e := range log.Events() {
			if e.Name == "WorkerDied" || e.Name == "WorkerReplaced" {
				continue
			}
			value, _ := e.Task.Context.Value(key{}).(string)
			if e.Task.Task.IsFunc() {
				require.Equal(t, context.Background(), e.Task.Context)
				value = "function"
			}
			got[value] = append(got[value], e.Name)
		}
		slices.Sort(got["function"]) // Queued may be told after Started
		require.Equal(t, map[string][]string{
			"shed":     {"Queued", "Shed", "Finished"},
			"canceled": {"Queued", "Finished"},
			"retried":  {"Queued", "Started", "AttemptFailed", "Retried", "Started", "Finished"},
			"done":     {"Queued", "Started", "AttemptFailed", "Finished"},
			"function": {"Finished", "Finished", "Queued", "Queued", "Started", "Started"}, // with that which occupied the worker
		}, got)
	})
}

// The hooks of a sample are told of about one in GoEvery of the functions that end
// well, from their arrival to their end, of all that fail, and of all tasks.
func TestGoEveryMakesHooksASample(t *testing.T) {
	const n, every = 20_000, 10
	for _, other := range []bool{false, true} {
		for _, capacity := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var queued, started, finished, around, failed, timed atomic.Int64
				var all atomic.Int64
				log := new(pooltest.LogRecorder)
				opts := []taskpool.Option{taskpool.WithWorkers(2), taskpool.WithLogger(log.Logger()), taskpool.WithHooks(taskpool.Hooks{
					GoEvery: every,
					Started: func(e taskpool.TaskEvent) { started.Add(1) },
					Finished: func(e taskpool.TaskEvent) {
						finished.Add(1)
						if e.Err != nil {
							failed.Add(1)
						} else if e.Elapsed == time.Millisecond {
							timed.Add(1)
						}
					},
					Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
						around.Add(1)
						return run(ctx)
					},
				})}
				if capacity {
					opts = append(opts, taskpool.WithCapacity(n, taskpool.OverflowReject),
						taskpool.WithHooks(taskpool.Hooks{GoEvery: 3, Queued: func(taskpool.TaskEvent) { queued.Add(1) }}))
				}
				if other {
					opts = append(opts, taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) { all.Add(1) }}))
				}
				p := pooltest.New(t, opts...)
				for range n {
					require.NoError(t, p.Go(taskpool.Medium, func() { time.Sleep(time.Millisecond) }))
				}
				require.NoError(t, p.WaitIdle(t.Context()))
				synctest.Wait()
				got := started.Load()
				require.InDelta(t, n/every, got, n/every/4)
				require.Equal(t, got, finished.Load())
				require.Equal(t, got, around.Load())
				require.Equal(t, got, timed.Load())
				if capacity {
					require.InDelta(t, n/3, queued.Load(), n/3/4)
				}
				if other {
					require.EqualValues(t, n, all.Load())
				}
				require.Zero(t, failed.Load())
				require.Empty(t, log.Messages())
				for range 100 {
					require.NoError(t, p.Go(taskpool.Medium, func() { panic("x") }))
				}
				for range 100 {
					pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
				}
				require.NoError(t, p.WaitIdle(t.Context()))
				synctest.Wait()
				require.EqualValues(t, 100, failed.Load())
				require.Equal(t, got+200, finished.Load())
				require.NoError(t, p.Shutdown(t.Context()))
				require.EqualValues(t, n+200, p.Stats().Attempts)
				require.EqualValues(t, 100, p.Stats().Failed)
			})
		}
	}
}

// A function in a sample is a function to everybody.
func TestAFunctionInASampleIsStillAFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.EventLog)
		p, release := pooltest.Occupied(t, taskpool.WithHooks(log.Hooks()), taskpool.WithHangGrace(time.Second),
			taskpool.WithLogger(slog.New(slog.DiscardHandler)), taskpool.WithCapacity(1, taskpool.OverflowShed))
		require.NoError(t, p.Go(taskpool.Low, func() {}))
		require.Equal(t, []taskpool.TaskInfo{{Priority: taskpool.Low, Urgency: taskpool.Low}}, p.Tasks(taskpool.StateQueued))
		ran := false
		require.NoError(t, p.Go(taskpool.Medium, func() { ran = true })) // sheds the other
		over, cancel := context.WithCancel(t.Context())
		cancel()
		var left *taskpool.ShutdownError
		go func() { time.Sleep(500 * time.Millisecond); release() }()
		require.ErrorAs(t, p.Shutdown(over), &left)
		require.Len(t, left.Unfinished, 1)
		require.Equal(t, taskpool.StateQueued, left.Unfinished[0].State)
		require.NoError(t, left.Unfinished[0].Task.Run(t.Context()))
		require.True(t, ran, "it can be made up for")
		for _, e := range log.Named("Queued", "Started", "Shed", "Finished") {
			require.Zero(t, e.Task.Task.ID)
			require.Nil(t, e.Task.Task.Handle)
			require.Empty(t, e.Task.Task.Name)
		}
		require.Len(t, log.Named("Shed"), 1)
		require.Len(t, log.Named("Finished"), 3)
	})
}

func TestGoEveryMustNotBeNegative(t *testing.T) {
	_, err := taskpool.New(taskpool.WithHooks(taskpool.Hooks{GoEvery: -1}))
	require.EqualError(t, err, "taskpool: WithHooks: GoEvery must not be negative, got -1")
}

func TestSuccessIsLoggedAtDebug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &pooltest.LogRecorder{Debug: true}
		p := pooltest.New(t, taskpool.WithName("orders"), taskpool.WithLogger(log.Logger()))
		h := pooltest.Submit(t, p, taskpool.Task{Name: "ship", Priority: taskpool.High, Run: func(context.Context) error {
			time.Sleep(time.Second)
			return nil
		}})
		require.NoError(t, p.Go(taskpool.Medium, func() {}))
		require.NoError(t, h.Wait(t.Context()))
		synctest.Wait()
		require.Equal(t, []string{"DEBUG taskpool: task succeeded"}, log.Messages())
		require.Equal(t, map[string]any{"pool": "orders", "task": "ship", "id": uint64(1), "priority": taskpool.High,
			"attempt": int64(1), "elapsed": time.Second}, log.Attrs(0))
	})
}

func TestLogNamesTheFlowOfATaskThatHasOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &pooltest.LogRecorder{Debug: true}
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(log.Logger()))
		fails := func(context.Context) error { return pooltest.ErrTask }
		pooltest.Submit(t, p, taskpool.Task{Flow: "acme", Run: fails, Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}})
		pooltest.Submit(t, p, taskpool.Task{Flow: "acme", Run: pooltest.Nop, NotBefore: time.Now().Add(time.Second)})
		pooltest.Submit(t, p, taskpool.Task{Run: fails, NotBefore: time.Now().Add(time.Minute)})
		pooltest.Drain(t, p)
		require.Equal(t, []string{"WARN taskpool: attempt failed", "ERROR taskpool: task failed", "DEBUG taskpool: task succeeded",
			"ERROR taskpool: task failed"}, log.Messages())
		for i := range 3 {
			require.Equal(t, "acme", log.Attrs(i)["flow"])
		}
		require.NotContains(t, log.Attrs(3), "flow")
	})
}

func TestStackShowsWhatATaskIsDoing(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2))
	gate, entered := make(chan struct{}), make(chan struct{})
	pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { close(entered); waitAtTheGate(gate); return nil }})
	<-entered
	running := p.Tasks(taskpool.StateRunning)
	require.Len(t, running, 1)
	stack := string(p.Stack(running[0].Worker))
	require.True(t, strings.HasPrefix(stack, "goroutine "), stack)
	require.Contains(t, stack, "TestStackShowsWhatATaskIsDoing")
	require.NotContains(t, stack, "\n\n", "only its own")
	require.Nil(t, p.Stack(0))
	require.Nil(t, p.Stack(99))
	close(gate)
	require.NoError(t, p.Shutdown(t.Context()))
	require.Nil(t, p.Stack(running[0].Worker), "it has gone")
}

//go:noinline
func waitAtTheGate(gate chan struct{}) { <-gate }

func TestWorkersAreLabeledInProfiles(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("labeled"), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	require.Equal(t, "labeled", p.Name())
	profile := func() string {
		gate, entered := make(chan struct{}), make(chan struct{})
		require.NoError(t, p.Go(taskpool.Medium, func() { close(entered); <-gate }))
		<-entered
		var b bytes.Buffer
		require.NoError(t, pprof.Lookup("goroutine").WriteTo(&b, 1))
		close(gate)
		return b.String()
	}
	require.Contains(t, profile(), `labels: {"pool":"labeled", "worker":"1", "worker_goroutine":"`)
	require.NoError(t, p.Go(taskpool.Medium, func() { panic("x") }))
	require.Contains(t, profile(), `labels: {"pool":"labeled", "worker":"2", "worker_goroutine":"`, "so is its replacement")
}

func TestTracesHaveTasksAndRegions(t *testing.T) {
	if runtimetrace.IsEnabled() {
		t.Skip("a trace is being recorded")
	}
	p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	var b bytes.Buffer
	require.NoError(t, runtimetrace.Start(&b))
	defer runtimetrace.Stop()
	named := pooltest.Submit(t, p, taskpool.Task{Name: "named-task", Priority: 4711, Run: func(ctx context.Context) error {
		child, err := p.Submit(taskpool.Detach(ctx), taskpool.Task{Run: pooltest.Nop})
		if err != nil {
			return err
		}
		return child.Wait(ctx)
	}})
	require.NoError(t, named.Wait(t.Context()))
	require.NoError(t, p.Go(-4711, func() {}))
	require.Error(t, pooltest.Submit(t, p, taskpool.Task{Name: "panics", Run: func(context.Context) error { panic("x") }}).Wait(t.Context()))
	require.NoError(t, p.WaitIdle(t.Context()))
	runtimetrace.Stop()
	for _, want := range []string{"named-task", "taskpool.task", "taskpool.func", "taskpool.parked", "taskpool.priority",
		"4711", "-4711", "taskpool.attempt", "panics"} {
		require.Contains(t, b.String(), want)
	}
	require.NotContains(t, b.String(), "taskpool.urgency", "nothing was lent")
	require.NoError(t, p.Go(taskpool.Medium, func() {}))
	require.NoError(t, p.WaitIdle(t.Context()))
}

func TestTracesTellTheUrgencyThatATaskWasLent(t *testing.T) {
	if runtimetrace.IsEnabled() {
		t.Skip("a trace is being recorded")
	}
	var b bytes.Buffer
	require.NoError(t, runtimetrace.Start(&b))
	defer runtimetrace.Stop()
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		other := pooltest.New(t)
		low := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
		waits := pooltest.Submit(t, other, taskpool.Task{Run: low.Wait})
		synctest.Wait()
		waits.SetPriority(-4711) // of which its own attempt, which has begun, says nothing
		release()
		require.NoError(t, waits.Wait(t.Context()))
		pooltest.Drain(t, other)
		pooltest.Drain(t, p)
	})
	runtimetrace.Stop()
	require.Contains(t, b.String(), "taskpool.urgency")
	require.Contains(t, b.String(), "-4711")
}

func TestEachWayToBeParkedIsARegionOfTheTrace(t *testing.T) {
	if runtimetrace.IsEnabled() {
		t.Skip("a trace is being recorded")
	}
	for name, park := range map[string]func(context.Context, *taskpool.Pool) error{
		"Block": func(ctx context.Context, _ *taskpool.Pool) error {
			return taskpool.Block(ctx, func() error { return nil })
		},
		"Yield": func(ctx context.Context, p *taskpool.Pool) error {
			if err := p.Go(taskpool.High, func() {}); err != nil {
				return err
			}
			return taskpool.Yield(ctx)
		},
		"Wait": func(ctx context.Context, p *taskpool.Pool) error {
			child, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			if err != nil {
				return err
			}
			return child.Wait(ctx)
		},
		"Group.Wait": func(ctx context.Context, p *taskpool.Pool) error {
			g := p.Group(ctx, taskpool.Task{})
			g.Go(pooltest.Nop)
			return g.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(1))
			var b bytes.Buffer
			require.NoError(t, runtimetrace.Start(&b))
			defer runtimetrace.Stop()
			require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { return park(ctx, p) }}).Wait(t.Context()))
			runtimetrace.Stop()
			require.EqualValues(t, 1, p.Stats().Parks)
			require.Contains(t, b.String(), "taskpool.parked")
		})
	}
}

// Hooks, Stats, Tasks, Stack: from many goroutines while tasks come and go.
func TestLookingInsideDisturbsNobody(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(slog.DiscardHandler)),
		taskpool.WithHooks(taskpool.Hooks{GoEvery: 4, Started: func(taskpool.TaskEvent) {}, Finished: func(taskpool.TaskEvent) {}}))
	stop := make(chan struct{})
	var lookers, workers sync.WaitGroup
	for range 2 {
		lookers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := p.Stats()
				if s.Submitted != s.Succeeded+s.Failed+s.Canceled+s.Shed+uint64(s.Queued+s.Delayed+s.Running+s.Parked) {
					t.Errorf("counts do not add up: %+v", s)
				}
				if !slices.IsSortedFunc(s.Waiting, func(a, b taskpool.PriorityStats) int { return int(a.Priority - b.Priority) }) {
					t.Errorf("not in order: %+v", s.Waiting)
				}
				for _, task := range p.Tasks() {
					if task.State == taskpool.StateRunning && task.Started.IsZero() {
						t.Errorf("no start: %+v", task)
					}
				}
			}
		})
	}
	for range 2 {
		workers.Go(func() {
			for i := range 5000 {
				pr := taskpool.Priority(i%5 - 2)
				_ = p.Go(pr, func() {
					if i%500 == 0 {
						panic("x")
					}
				})
				if i%10 == 0 {
					h := pooltest.Submit(t, p, taskpool.Task{Priority: pr, Timeout: time.Hour, Run: pooltest.Nop})
					if i%20 == 0 {
						h.Cancel(nil)
					}
				}
			}
		})
	}
	workers.Wait()
	require.NoError(t, p.WaitIdle(t.Context()))
	close(stop)
	lookers.Wait()
	require.EqualValues(t, 11_000, p.Stats().Submitted)
}

func TestEventSaysHowTheAttemptEnded(t *testing.T) {
	fail := errors.New("failed")
	for name, tt := range map[string]struct {
		run  func(context.Context) error
		want taskpool.Result
	}{
		"success": {pooltest.Nop, taskpool.ResultSuccess},
		"error":   {func(context.Context) error { return fail }, taskpool.ResultError},
		"timeout": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, taskpool.ResultTimeout},
		"silence": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, taskpool.ResultTimeout},
		"interrupted": {func(ctx context.Context) error {
			me, _ := taskpool.Current(ctx)
			me.Handle.Cancel(nil)
			return ctx.Err()
		}, taskpool.ResultInterrupted},
		"panic":  {func(context.Context) error { panic("x") }, taskpool.ResultPanic},
		"goexit": {func(context.Context) error { runtime.Goexit(); return nil }, taskpool.ResultGoexit},
		"hung":   {func(context.Context) error { time.Sleep(time.Hour); return nil }, taskpool.ResultHung},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := new(pooltest.EventLog)
				p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithHooks(l.Hooks()), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
				task := taskpool.Task{Run: tt.run, Timeout: time.Minute, Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { return true }}}
				if name == "silence" {
					task.Timeout, task.Heartbeat = 0, time.Minute
				}
				inner := pooltest.Submit(t, p, task)
				// One that returns the other's error has returned an error.
				outer := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return inner.Wait(t.Context()) }})
				err := outer.Wait(t.Context())
				synctest.Wait()
				require.Equal(t, name == "success", err == nil)
				seen := 0
				for _, e := range l.Named("AttemptFailed", "Retried", "Finished") {
					want := tt.want
					if e.Task.Task.Handle == outer && err != nil {
						want = taskpool.ResultError
					}
					require.Equal(t, want, e.Task.Result, "%s of task %d", e.Name, e.Task.Task.ID)
					require.NotZero(t, e.Task.Task.Worker)
					require.False(t, e.Task.Task.Started.IsZero())
					seen++
				}
				require.GreaterOrEqual(t, seen, 2)
				for _, e := range l.Named("Queued", "Started") {
					require.Empty(t, e.Task.Result)
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
	t.Run("none", func(t *testing.T) {
		l := new(pooltest.EventLog)
		p, release := pooltest.Occupied(t, taskpool.WithHooks(l.Hooks()))
		h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		h.Cancel(nil)
		release()
		pooltest.Drain(t, p)
		for _, e := range l.Named("Finished") {
			if e.Task.Task.Handle == h {
				require.Empty(t, e.Task.Result)
				require.Zero(t, e.Task.Task.Worker)
				return
			}
		}
		t.Fatal("no event")
	})
}

// A retry's failed attempt is told of with its worker, and when the next is due.
func TestEventOfARetrySaysWhereItFailedAndWhenItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(pooltest.EventLog)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHooks(l.Hooks()))
		start := time.Now()
		h := pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask },
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }}})
		require.Error(t, h.Wait(t.Context()))
		synctest.Wait()
		for _, e := range append(l.Named("AttemptFailed")[:1], l.Named("Retried")...) {
			require.Equal(t, 1, e.Task.Task.Worker)
			require.Equal(t, start, e.Task.Task.Started)
			require.Equal(t, taskpool.StateDelayed, e.Task.Task.State)
			require.Equal(t, start.Add(time.Minute), e.Task.Task.Due)
		}
	})
}

func TestStartIsNotToldAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(pooltest.EventLog)
		slow := taskpool.Hooks{Started: func(taskpool.TaskEvent) { time.Sleep(time.Minute) }}
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second), taskpool.WithHooks(slow),
			taskpool.WithHooks(l.Hooks()), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
		ran := false
		h := pooltest.Submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { ran = true; return nil }})
		require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
		time.Sleep(time.Hour)
		require.Equal(t, []string{"Queued", "AttemptFailed", "Finished"}, l.OfTask(1))
		require.False(t, ran)
		require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop}).Wait(t.Context()))
		synctest.Wait()
		require.Equal(t, []string{"Queued", "Started", "Finished"}, l.OfTask(2))
	})
}

func TestReportsOfDeathsDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		died := 0
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(slog.DiscardHandler)),
			taskpool.WithHooks(taskpool.Hooks{WorkerDied: func(taskpool.WorkerEvent) { <-gate; died++ }}))
		for range 5000 {
			require.NoError(t, p.Go(taskpool.Medium, func() { panic("x") }))
		}
		synctest.Wait()
		require.Less(t, p.Stats().Panics, uint64(1010), "workers wait for the hook")
		close(gate)
		require.NoError(t, p.Shutdown(t.Context()))
		require.Equal(t, 5000, died)
		require.EqualValues(t, 5000, p.Stats().Panics)
	})
}

func TestFunctionGivenUpKeepsItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(slog.DiscardHandler)),
			taskpool.WithHooks(taskpool.Hooks{Started: func(taskpool.TaskEvent) {}}))
		start := time.Now()
		gate := make(chan struct{})
		require.NoError(t, p.Go(taskpool.Medium, func() { <-gate }))
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, p.Shutdown(ctx))
		given := p.Tasks(taskpool.StateAbandoned)
		require.Len(t, given, 1)
		require.Equal(t, start, given[0].Started)
		close(gate)
	})
}

func TestHangGraceIsWhatWasSet(t *testing.T) {
	require.Equal(t, 5*time.Second, pooltest.New(t).HangGrace())
	require.Equal(t, time.Minute, pooltest.New(t, taskpool.WithHangGrace(time.Minute)).HangGrace())
}

// Who waits for whom is in Tasks.
func TestTasksSayWhatParkedTasksWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithName("a"))
		other, release := pooltest.Occupied(t, taskpool.WithName("b"), taskpool.WithCapacity(1, taskpool.OverflowWait))
		there := pooltest.Submit(t, other, taskpool.Task{Name: "there", Run: pooltest.Nop})
		g := other.Group(t.Context(), taskpool.Task{Name: "copies"})
		for _, task := range []taskpool.Task{
			{Name: "waits for there", Run: there.Wait},
			{Name: "waits for room", Run: func(ctx context.Context) error {
				_, err := other.Submit(taskpool.Detach(ctx), taskpool.Task{Run: pooltest.Nop})
				return err
			}},
			{Name: "waits for a member's room", Run: func(context.Context) error { g.Go(pooltest.Nop); return g.Wait() }},
			{Name: "waits for idle", Run: other.WaitIdle},
		} {
			pooltest.Submit(t, p, task)
		}
		first := pooltest.Submit(t, p, taskpool.Task{Name: "blocks", Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { return there.Wait(context.WithoutCancel(ctx)) })
		}})
		pooltest.Submit(t, p, taskpool.Task{Run: first.Wait})
		synctest.Wait()
		got := make(map[string]string)
		for _, info := range p.Tasks(taskpool.StateParked) {
			got[info.Name] = info.WaitsFor
		}
		require.Equal(t, map[string]string{
			"waits for there":           fmt.Sprintf(`task %d "there" in pool "b"`, there.ID()),
			"waits for room":            `room in pool "b"`,
			"waits for a member's room": `room in pool "b"`,
			"waits for idle":            `an idle pool in pool "b"`,
			"blocks":                    "",
			"":                          fmt.Sprintf(`task %d "blocks"`, first.ID()),
		}, got)
		release()
		require.NoError(t, p.WaitIdle(t.Context()))
		pooltest.Drain(t, p)
		pooltest.Drain(t, other)
	})
}
