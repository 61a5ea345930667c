package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

var errTest = errors.New("as the handler says")

// at is a delay as a policy's Backoff.
func at(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }

// record returns a function that returns the events of reg so far.
func record(reg *jobs.Registry) func() []jobs.Event {
	var mu sync.Mutex
	var events []jobs.Event
	reg.Observe(func(e jobs.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	})
	return func() []jobs.Event {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(events)
	}
}

// states are those of events.
func states(events []jobs.Event) (all []jobs.State) {
	for _, e := range events {
		all = append(all, e.State)
	}
	return all
}

// logged returns what slog's default logger writes for the rest of the test.
func logged(t *testing.T) *bytes.Buffer {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &log
}

// must is for an Enqueue that is accepted.
func must(t testing.TB) func(jobs.ID, error) jobs.ID {
	return func(id jobs.ID, err error) jobs.ID {
		t.Helper()
		require.NoError(t, err)
		return id
	}
}

// occupy has the only worker at work until the function it returns is called.
func occupy(t *testing.T, reg *jobs.Registry, q *jobs.LocalQueue) (release func()) {
	gate, started := make(chan struct{}), make(chan struct{})
	k := jobs.Register(reg, "gate", func(context.Context, jobs.Meta, int) error {
		close(started)
		<-gate
		return nil
	}, jobs.Policy{})
	must(t)(k.Enqueue(t.Context(), q, 0, nil))
	<-started
	return sync.OnceFunc(func() { close(gate) })
}

func TestContextThatEndsOnceAJobIsAcceptedChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		ctx, cancel := context.WithCancel(t.Context())
		q := newLocal(t, &reg, taskpool.WithHooks(taskpool.Hooks{Queued: func(e taskpool.TaskEvent) {
			if e.Task.Name == "job" { // accepted, and Enqueue has not returned
				cancel()
				synctest.Wait()
			}
		}}))
		events := record(&reg)
		release := occupy(t, &reg, q)
		k := jobs.Register(&reg, "job", func(ctx context.Context, _ jobs.Meta, _ int) error { return ctx.Err() }, jobs.Policy{MaxAttempts: 3})
		must(t)(k.Enqueue(ctx, q, 0, nil))
		release()
		require.NoError(t, q.Stop(t.Context()))
		require.Equal(t, []jobs.State{jobs.StateCompleted, jobs.StateCompleted}, states(events()))
	})
}

func TestContextThatEndsWhenAJobHasStartedDoesNotCancelIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		finished := make(chan struct{})
		q := newLocal(t, &reg, taskpool.WithHooks(taskpool.Hooks{
			Queued: func(taskpool.TaskEvent) { <-finished }, // Submit returns when the handler has
		}))
		events := record(&reg)
		ctx, cancel := context.WithCancel(t.Context())
		k := jobs.Register(&reg, "job", func(ctx context.Context, _ jobs.Meta, _ int) error {
			defer close(finished)
			cancel()
			synctest.Wait()
			return context.Cause(ctx)
		}, jobs.Policy{})
		id := must(t)(k.Enqueue(ctx, q, 0, nil))
		require.NoError(t, q.Stop(t.Context()))
		require.Len(t, events(), 1)
		require.Equal(t, jobs.StateCompleted, events()[0].State, "error: %v", events()[0].Err)
		require.Equal(t, id, events()[0].ID)
	})
}

func TestJobIsAddedOrRefusedWheneverTheContextEnds(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg, taskpool.WithWorkers(2), taskpool.WithCapacity(1, taskpool.OverflowWait))
	events := record(&reg)
	k := jobs.Register(&reg, "job", func(ctx context.Context, _ jobs.Meta, _ int) error {
		runtime.Gosched()
		return ctx.Err()
	}, jobs.Policy{MaxAttempts: 2})
	var added []jobs.ID
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if id, err := k.Enqueue(ctx, q, 0, &jobs.Options{UniqueKey: "key"}); err == nil {
			added = append(added, id)
		} else if !errors.Is(err, jobs.ErrDuplicate) {
			require.ErrorIs(t, err, context.Canceled)
		}
		cancel()
	}
	require.NoError(t, q.Stop(t.Context()))
	var completed []jobs.ID
	for _, e := range events() {
		require.Equal(t, jobs.StateCompleted, e.State)
		completed = append(completed, e.ID)
	}
	require.ElementsMatch(t, added, completed)
}

func TestContextThatEndsWhileEnqueueWaitsForRoomLeavesNoJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithCapacity(0, taskpool.OverflowWait))
		events := record(&reg)
		release := occupy(t, &reg, q)
		defer release()
		k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { // waits for the other to be added
			_, err := k.Enqueue(ctx, q, 0, &jobs.Options{UniqueKey: "key"})
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}()
		id, err := k.Enqueue(ctx, q, 0, &jobs.Options{UniqueKey: "key"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, context.Canceled)
		require.Empty(t, id)
		_, err = k.Enqueue(ctx, q, 0, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded, "with a context that is over")

		synctest.Wait()
		unsettled, keys := q.Sizes()
		require.Equal(t, 1, unsettled, "but for the job at work")
		require.Zero(t, keys)
		release()
		require.NoError(t, q.Stop(t.Context()))
		require.Len(t, events(), 1)
		unsettled, _ = q.Sizes()
		require.Zero(t, unsettled)
	})
}

type submitterKey struct{}

func TestHandlerAndHooksSeeNothingOfEnqueuesContext(t *testing.T) {
	var reg jobs.Registry
	var seen []any
	look := func(ctx context.Context) { seen = append(seen, ctx.Value(submitterKey{}), ctx.Value(nil)) }
	ran := make(chan struct{})
	q := newLocal(t, &reg, taskpool.WithWorkers(2), taskpool.WithHooks(taskpool.Hooks{
		Queued: func(e taskpool.TaskEvent) {
			if e.Task.Name == "child" {
				<-ran // Submit returns when the handler has
			}
		},
		Around: func(ctx context.Context, task taskpool.TaskInfo, run func(context.Context) error) error {
			if task.Name == "child" {
				look(ctx)
			}
			return run(ctx)
		},
	}))
	child := jobs.Register(&reg, "child", func(ctx context.Context, _ jobs.Meta, _ int) error {
		defer close(ran)
		look(ctx)
		_, inside := taskpool.Current(taskpool.Detach(ctx))
		assert.False(t, inside, "detached from the child, it is inside the parent")
		return nil
	}, jobs.Policy{})
	parent := jobs.Register(&reg, "parent", func(ctx context.Context, _ jobs.Meta, _ int) error {
		_, err := child.Enqueue(context.WithValue(ctx, submitterKey{}, "value"), q, 0, nil)
		return err
	}, jobs.Policy{})
	must(t)(parent.Enqueue(t.Context(), q, 0, nil))
	require.NoError(t, q.Stop(t.Context()))
	require.Equal(t, []any{nil, nil, nil, nil}, seen)
}

func TestWaitingJobKeepsNothingOfEnqueuesContext(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg)
	k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
	value := new([1 << 10]byte)
	weakly := weak.Make(value)
	id := must(t)(k.Enqueue(context.WithValue(t.Context(), submitterKey{}, value), q, 0, &jobs.Options{NotBefore: time.Now().Add(time.Hour)}))
	value = nil
	runtime.GC()
	require.Nil(t, weakly.Value())
	require.NoError(t, q.Cancel(t.Context(), id))
}

func TestEnqueueWithAContextThatIsOverAddsNothing(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg)
	events := record(&reg)
	k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
	over := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	for range 100 {
		_, err := k.Enqueue(ctx, q, 0, nil)
		require.ErrorIs(t, err, over)
	}
	require.NoError(t, q.Stop(t.Context()))
	require.Empty(t, events())
}

func TestKeyIsFreeWhenObserversAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
		later := &jobs.Options{UniqueKey: "key", NotBefore: time.Now().Add(time.Hour)}
		var second jobs.ID
		reg.Observe(func(jobs.Event) {
			if second == "" {
				var err error
				second, err = k.Enqueue(t.Context(), q, 0, later)
				assert.NoError(t, err)
			}
		})
		must(t)(k.Enqueue(t.Context(), q, 0, &jobs.Options{UniqueKey: "key"}))
		synctest.Wait()
		id, err := k.Enqueue(t.Context(), q, 0, later)
		require.ErrorIs(t, err, jobs.ErrDuplicate)
		require.Equal(t, second, id)
	})
}

func TestStopWaitsForObserversUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
		var told atomic.Bool
		reg.Observe(func(jobs.Event) { time.Sleep(time.Minute); told.Store(true) })
		must(t)(k.Enqueue(t.Context(), q, 0, nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, q.Stop(ctx), context.DeadlineExceeded)
		require.False(t, told.Load())
		require.NoError(t, q.Stop(t.Context()))
		require.True(t, told.Load())
	})
}

func TestBackoffThatPanicsIsReplacedByTheDefault(t *testing.T) {
	for name, end := range map[string]func(){
		"panicked":              func() { panic("in Backoff") },
		"called runtime.Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			log := logged(t)
			synctest.Test(t, func(t *testing.T) {
				var reg jobs.Registry
				q := newLocal(t, &reg)
				events := record(&reg)
				k := jobs.Register(&reg, "job", func(context.Context, jobs.Meta, int) error { return errTest },
					jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { end(); return time.Hour }})
				must(t)(k.Enqueue(t.Context(), q, 0, nil))
				require.NoError(t, q.Stop(t.Context()))
				require.Equal(t, []jobs.State{jobs.StateRetrying, jobs.StateDiscarded}, states(events()))
				require.LessOrEqual(t, events()[0].Delay, 100*time.Millisecond)
			})
			require.Contains(t, log.String(), "jobs: Policy.Backoff "+name)
			require.Contains(t, log.String(), "kind=job")
		})
	}
}

func TestObserverThatPanicsOrGoesAwayChangesNothing(t *testing.T) {
	for name, end := range map[string]func(){
		"panicked":              func() { panic("in an observer") },
		"called runtime.Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			log := logged(t)
			synctest.Test(t, func(t *testing.T) {
				var reg jobs.Registry
				reg.Observe(func(jobs.Event) { end() })
				events := record(&reg)
				var died int
				q := newLocal(t, &reg, taskpool.WithHooks(taskpool.Hooks{
					WorkerDied: func(taskpool.WorkerEvent) { died++ },
				}))
				k := jobs.Register(&reg, "job", func(_ context.Context, m jobs.Meta, _ int) error {
					if m.Attempt == 1 {
						return errTest
					}
					return nil
				}, jobs.Policy{MaxAttempts: 2, Backoff: at(time.Second)})
				must(t)(k.Enqueue(t.Context(), q, 0, nil))
				require.NoError(t, q.Stop(t.Context()))
				require.Equal(t, []jobs.State{jobs.StateRetrying, jobs.StateCompleted}, states(events()))
				require.Zero(t, died, "workers")
			})
			require.Contains(t, log.String(), "jobs: an observer "+name)
		})
	}
}

// A panicking handler of slog, and an error whose methods panic.
type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool { panic("in Enabled") }
func (panicking) Is(error) bool                            { panic("in Is") }
func (panicking) Error() string                            { return "an error whose Is panics" }

func TestErrorWhoseMethodsPanicDiscardsTheJob(t *testing.T) {
	before := slog.Default()
	slog.SetDefault(slog.New(panicking{}))
	defer slog.SetDefault(before)
	var reg jobs.Registry
	jobs.Register(&reg, "job", nothing[int], jobs.Policy{MaxAttempts: 5})
	e := engine.Judge(&reg, jobs.Meta{Kind: "job", Attempt: 1, MaxAttempts: 5}, panicking{})
	require.Equal(t, jobs.StateDiscarded, e.State)
}

func TestNothingIsToldOfAJobAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		events := record(&reg)
		k := jobs.Register(&reg, "job", func(context.Context, jobs.Meta, int) error { return errTest },
			jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { time.Sleep(time.Hour); return 0 }})
		must(t)(k.Enqueue(t.Context(), q, 0, nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, q.Stop(ctx)) // gives up while Backoff is at work
		time.Sleep(2 * time.Hour)
		require.Len(t, events(), 1)
		require.NotEqual(t, jobs.StateRetrying, events()[0].State)
	})
}

func TestStopInAHandlerStopsNothing(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg)
	events := record(&reg)
	k := jobs.Register(&reg, "job", func(ctx context.Context, _ jobs.Meta, _ int) error {
		return q.Stop(ctx)
	}, jobs.Policy{})
	must(t)(k.Enqueue(t.Context(), q, 0, nil))
	must(t)(k.Enqueue(t.Context(), q, 0, nil))
	require.NoError(t, q.Stop(t.Context()))
	require.Len(t, events(), 2)
	for _, e := range events() {
		require.ErrorIs(t, e.Err, taskpool.ErrInside)
	}
}

func TestDetachedWorkOutlivesItsJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		var detached context.Context
		k := jobs.Register(&reg, "job", func(ctx context.Context, _ jobs.Meta, _ int) error {
			detached = taskpool.Detach(ctx)
			return nil
		}, jobs.Policy{})
		must(t)(k.Enqueue(t.Context(), q, 0, nil))
		require.NoError(t, q.Stop(t.Context()))
		require.NoError(t, detached.Err())
	})
}

func TestHungJobIsDiscardedAndItsSlotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		events := record(&reg)
		awake := make(chan struct{})
		hang := jobs.Register(&reg, "hang", func(context.Context, jobs.Meta, int) error { <-awake; return nil },
			jobs.Policy{MaxAttempts: 3, Timeout: time.Second})
		k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
		must(t)(hang.Enqueue(t.Context(), q, 0, nil))
		must(t)(k.Enqueue(t.Context(), q, 0, nil))
		require.NoError(t, q.Stop(t.Context()))
		close(awake)
		require.ElementsMatch(t, []jobs.State{jobs.StateDiscarded, jobs.StateCompleted}, states(events()))
		for _, e := range events() {
			if e.Kind == "hang" {
				require.Equal(t, 1, e.Attempt)
				hung, ok := errors.AsType[*taskpool.HungError](e.Err)
				require.True(t, ok, "error: %v", e.Err)
				require.ErrorIs(t, hung, taskpool.ErrTimeout)
			}
		}
	})
}

func TestShedJobIsDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithCapacity(1, taskpool.OverflowShed))
		events := record(&reg)
		release := occupy(t, &reg, q)
		k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{MaxAttempts: 3})
		shed := must(t)(k.Enqueue(t.Context(), q, 0, nil))
		must(t)(k.Enqueue(t.Context(), q, 0, &jobs.Options{Priority: new(taskpool.High)}))
		synctest.Wait()
		require.Len(t, events(), 1)
		e := events()[0]
		require.Equal(t, jobs.StateDiscarded, e.State)
		require.Equal(t, shed, e.ID)
		require.Zero(t, e.Attempt)
		require.ErrorIs(t, e.Err, taskpool.ErrShed)

		id, err := k.Enqueue(t.Context(), q, 0, &jobs.Options{UniqueKey: "key"})
		require.ErrorIs(t, err, taskpool.ErrFull)
		require.Empty(t, id)
		_, keys := q.Sizes()
		require.Zero(t, keys)
		release()
	})
}

func TestStopThatIsCutShortCancelsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		events := record(&reg)
		k := jobs.Register(&reg, "job", func(ctx context.Context, _ jobs.Meta, _ int) error {
			<-ctx.Done()
			return ctx.Err()
		}, jobs.Policy{MaxAttempts: 3})
		for range 3 { // one runs, one waits for a worker, one for its time
			must(t)(k.Enqueue(t.Context(), q, 0, nil))
		}
		must(t)(k.Enqueue(t.Context(), q, 0, &jobs.Options{NotBefore: time.Now().Add(time.Hour)}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := q.Stop(ctx)
		_, ok := errors.AsType[*taskpool.ShutdownError](err)
		require.True(t, ok, "error: %v", err)
		synctest.Wait()
		require.Len(t, events(), 4)
		ran := 0
		for _, e := range events() {
			require.Equal(t, jobs.StateCanceled, e.State)
			require.ErrorIs(t, e.Err, taskpool.ErrClosed)
			ran += e.Attempt
		}
		require.Equal(t, 1, ran)
		_, err = k.Enqueue(t.Context(), q, 0, &jobs.Options{UniqueKey: "key"})
		require.ErrorIs(t, err, taskpool.ErrClosed)
		known, keys := q.Sizes()
		require.Zero(t, known+keys)
	})
}

// What Stop lists as unfinished does the job when it is submitted to another pool:
// the handler gets its payload and counts on from the attempts it has had.
func TestUnfinishedJobsCanBeSubmittedToAnotherPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg)
		events := record(&reg)
		restarted := false
		var done []string
		k := jobs.Register(&reg, "job", func(ctx context.Context, m jobs.Meta, name string) error {
			switch {
			case restarted:
				done = append(done, fmt.Sprint(name, " ", m.Attempt))
				return nil
			case name == "retried":
				return errTest
			}
			<-ctx.Done()
			return ctx.Err()
		}, jobs.Policy{MaxAttempts: 3, Backoff: at(time.Hour)})
		for _, name := range []string{"retried", "running", "queued"} {
			must(t)(k.Enqueue(t.Context(), q, name, nil))
			synctest.Wait()
		}
		must(t)(k.Enqueue(t.Context(), q, "delayed", &jobs.Options{NotBefore: time.Now().Add(time.Hour)}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cut, ok := errors.AsType[*taskpool.ShutdownError](q.Stop(ctx))
		require.True(t, ok)
		require.Len(t, cut.Unfinished, 4)
		synctest.Wait()
		told := len(events())

		restarted = true
		p, err := taskpool.New(taskpool.WithWorkers(1))
		require.NoError(t, err)
		for _, u := range cut.Unfinished {
			_, err := p.Submit(t.Context(), u.Task)
			require.NoError(t, err)
		}
		require.NoError(t, p.Shutdown(t.Context()))
		require.ElementsMatch(t, []string{"retried 2", "running 1", "queued 1", "delayed 1"}, done)
		require.Len(t, events(), told, "the queue has told of the end of these jobs already")
	})
}

// tree enqueues two jobs of its own kind for each level below n and waits for none.
func tree(reg *jobs.Registry, q func() jobs.Queue) *jobs.Kind[int] {
	var k *jobs.Kind[int]
	k = jobs.Register(reg, "tree", func(ctx context.Context, _ jobs.Meta, n int) error {
		for range 2 {
			if n > 0 {
				if _, err := k.Enqueue(ctx, q(), n-1, nil); err != nil {
					return err
				}
			}
		}
		return nil
	}, jobs.Policy{})
	return k
}

func TestHandlersEnqueueOnAFullPoolThatDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithCapacity(0, taskpool.OverflowWait))
		events := record(&reg)
		release := occupy(t, &reg, q)
		k := tree(&reg, func() jobs.Queue { return q })
		go func() {
			synctest.Wait() // Enqueue waits for room
			release()
		}()
		must(t)(k.Enqueue(t.Context(), q, 4, nil))
		require.NoError(t, q.Stop(t.Context()))
		require.Len(t, events(), 1+31)
		for _, e := range events() {
			require.Equal(t, jobs.StateCompleted, e.State, "error: %v", e.Err)
		}
	})
}

func TestOfEnqueuesThatRaceWithOneKeyOneAddsAJob(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg)
	events := record(&reg)
	release := occupy(t, &reg, q)
	k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
	ids, added := make([]jobs.ID, 8), make([]bool, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			id, err := k.Enqueue(t.Context(), q, 0, &jobs.Options{UniqueKey: "key"})
			if ids[i], added[i] = id, err == nil; err != nil {
				assert.ErrorIs(t, err, jobs.ErrDuplicate)
			}
		})
	}
	wg.Wait()
	release()
	require.NoError(t, q.Stop(t.Context()))
	require.Len(t, slices.Compact(ids), 1)
	require.Equal(t, 1, len(slices.DeleteFunc(added, func(a bool) bool { return !a })))
	require.Len(t, events(), 2)
}

func TestEnqueueWaitsForOneWithItsKeyThatIsBeingAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithCapacity(0, taskpool.OverflowWait))
		release := occupy(t, &reg, q)
		gate := make(chan struct{})
		k := jobs.Register(&reg, "job", func(context.Context, jobs.Meta, int) error { <-gate; return nil }, jobs.Policy{})
		var first jobs.ID
		go func() { first, _ = k.Enqueue(t.Context(), q, 0, &jobs.Options{UniqueKey: "key"}) }()
		synctest.Wait()
		go func() {
			synctest.Wait() // both wait
			release()
		}()
		id, err := k.Enqueue(t.Context(), q, 0, &jobs.Options{UniqueKey: "key"})
		require.ErrorIs(t, err, jobs.ErrDuplicate)
		synctest.Wait()
		require.Equal(t, first, id)
		close(gate)
	})
}

func TestHandlerThatWaitsForAKeyToBeAddedGivesItsSlotForThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithCapacity(0, taskpool.OverflowWait))
		events := record(&reg)
		k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
		started := make(chan struct{})
		parent := jobs.Register(&reg, "parent", func(ctx context.Context, _ jobs.Meta, _ int) error {
			close(started)
			synctest.Wait() // the other waits for room
			_, err := k.Enqueue(ctx, q, 0, &jobs.Options{UniqueKey: "key"})
			if errors.Is(err, jobs.ErrDuplicate) {
				return nil // it resumed before the other's worker had looked
			}
			return err
		}, jobs.Policy{})
		must(t)(parent.Enqueue(t.Context(), q, 0, nil))
		<-started
		must(t)(k.Enqueue(t.Context(), q, 0, &jobs.Options{UniqueKey: "key"}))
		require.NoError(t, q.Stop(t.Context()))
		got := states(events())
		require.GreaterOrEqual(t, len(got), 2)
		for _, state := range got {
			require.Equal(t, jobs.StateCompleted, state)
		}
	})
}

func TestUnknownKindIsRefused(t *testing.T) {
	var reg, other jobs.Registry
	q := newLocal(t, &reg)
	_, err := jobs.Register(&other, "job", nothing[int], jobs.Policy{}).Enqueue(t.Context(), q, 0, nil)
	require.ErrorIs(t, err, jobs.ErrUnknownKind)
	require.ErrorContains(t, err, `"job"`)
	err = engine.Run(t.Context(), &reg, jobs.Meta{Kind: "job", Attempt: 1, MaxAttempts: 5}, nil)
	require.ErrorIs(t, err, jobs.ErrUnknownKind)
	require.Equal(t, jobs.StateDiscarded, engine.Judge(&reg, jobs.Meta{Kind: "job", Attempt: 1, MaxAttempts: 5}, err).State)
}

func TestHandleIsThatOfTheTaskUntilTheJobSettles(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg)
	release := occupy(t, &reg, q)
	var order []int
	k := jobs.Register(&reg, "job", func(_ context.Context, _ jobs.Meta, n int) error {
		order = append(order, n)
		return nil
	}, jobs.Policy{})
	must(t)(k.Enqueue(t.Context(), q, 1, nil))
	id := must(t)(k.Enqueue(t.Context(), q, 2, nil))
	h := q.Handle(id)
	require.Equal(t, taskpool.StateQueued, h.State())
	require.True(t, h.SetPriority(taskpool.High))
	require.Nil(t, q.Handle("other"))
	release()
	require.NoError(t, h.Wait(t.Context()))
	require.Nil(t, q.Handle(id))
	require.NoError(t, q.Stop(t.Context()))
	require.Equal(t, []int{2, 1}, order)
}

func TestJobCanBeCanceledBeforeEnqueueHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		over := make(chan struct{})
		q := newLocal(t, &reg, taskpool.WithHooks(taskpool.Hooks{Queued: func(taskpool.TaskEvent) { <-over }}))
		events := record(&reg)
		k := jobs.Register(&reg, "job", func(ctx context.Context, m jobs.Meta, _ int) error {
			defer close(over)
			assert.NoError(t, q.Cancel(ctx, m.ID))
			<-ctx.Done()
			return ctx.Err()
		}, jobs.Policy{})
		must(t)(k.Enqueue(t.Context(), q, 0, nil))
		require.NoError(t, q.Stop(t.Context()))
		require.Equal(t, []jobs.State{jobs.StateCanceled}, states(events()))
		require.ErrorIs(t, events()[0].Err, context.Canceled)
	})
}

func TestKindIsTheTasksName(t *testing.T) {
	var reg jobs.Registry
	var names []string
	q := newLocal(t, &reg, taskpool.WithHooks(taskpool.Hooks{
		Started: func(e taskpool.TaskEvent) { names = append(names, e.Task.Name) },
	}))
	must(t)(jobs.Register(&reg, "mail.send", nothing[int], jobs.Policy{}).Enqueue(t.Context(), q, 0, nil))
	require.NoError(t, q.Stop(t.Context()))
	require.Equal(t, []string{"mail.send"}, names)
}

func TestYieldAndBlockInAHandlerGiveItsSlotToOthers(t *testing.T) {
	for name, give := range map[string]func(ctx context.Context, until <-chan struct{}) error{
		"Yield": func(ctx context.Context, until <-chan struct{}) error {
			for {
				select {
				case <-until:
					return nil
				default:
				}
				if err := taskpool.Yield(ctx); err != nil {
					return err
				}
			}
		},
		"Block": func(ctx context.Context, until <-chan struct{}) error {
			return taskpool.Block(ctx, func() error { <-until; return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			var reg jobs.Registry
			q := newLocal(t, &reg)
			events := record(&reg)
			started, ran := make(chan struct{}), make(chan struct{})
			low := jobs.Register(&reg, "low", func(ctx context.Context, _ jobs.Meta, _ int) error {
				close(started)
				return give(ctx, ran)
			}, jobs.Policy{Priority: taskpool.Low})
			high := jobs.Register(&reg, "high", func(context.Context, jobs.Meta, int) error { close(ran); return nil }, jobs.Policy{Priority: taskpool.High})
			must(t)(low.Enqueue(t.Context(), q, 0, nil))
			<-started
			must(t)(high.Enqueue(t.Context(), q, 0, nil))
			require.NoError(t, q.Stop(t.Context()))
			require.Equal(t, []jobs.State{jobs.StateCompleted, jobs.StateCompleted}, states(events()))
		})
	}
}

func TestHeartbeatIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithWorkers(2))
		events := record(&reg)
		k := jobs.Register(&reg, "job", func(ctx context.Context, _ jobs.Meta, beats bool) error {
			for range 10 {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return ctx.Err()
				}
				if beats {
					taskpool.Beat(ctx)
				}
			}
			return nil
		}, jobs.Policy{MaxAttempts: 3, Heartbeat: 2 * time.Second})
		silent := must(t)(k.Enqueue(t.Context(), q, false, nil))
		must(t)(k.Enqueue(t.Context(), q, true, nil))
		require.NoError(t, q.Stop(t.Context()))
		require.Len(t, events(), 2)
		for _, e := range events() {
			if e.ID == silent {
				require.Equal(t, jobs.StateDiscarded, e.State)
				require.ErrorIs(t, e.Err, taskpool.ErrHung)
			} else {
				require.Equal(t, jobs.StateCompleted, e.State)
			}
		}
	})
}

func TestAttemptThatAHookFailsIsRetriedLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		q := newLocal(t, &reg, taskpool.WithHooks(taskpool.Hooks{
			Around: func(ctx context.Context, task taskpool.TaskInfo, run func(context.Context) error) error {
				if task.Attempt < 3 {
					return errTest
				}
				return run(ctx)
			},
		}))
		events := record(&reg)
		k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{MaxAttempts: 3,
			Backoff: func(n int) time.Duration { return time.Duration(n) * time.Second }})
		must(t)(k.Enqueue(t.Context(), q, 0, nil))
		require.NoError(t, q.Stop(t.Context()))
		require.Equal(t, []jobs.State{jobs.StateRetrying, jobs.StateRetrying, jobs.StateCompleted}, states(events()))
		for i, e := range events() {
			require.Equal(t, i+1, e.Attempt)
			require.Equal(t, []time.Duration{time.Second, 2 * time.Second, 0}[i], e.Delay)
		}
	})
}

func TestWhatCannotBeMeantIsRefusedByName(t *testing.T) {
	var reg jobs.Registry
	q := newLocal(t, &reg)
	k := jobs.Register(&reg, "job", nothing[int], jobs.Policy{})
	ctx := t.Context()
	var none context.Context
	enqueue := func(k *jobs.Kind[int], ctx context.Context, q jobs.Queue) error {
		id, err := k.Enqueue(ctx, q, 0, nil)
		require.Empty(t, id)
		return err
	}
	for _, bad := range []*jobs.Kind[int]{nil, {}} {
		require.EqualError(t, enqueue(bad, ctx, q), "jobs: Kind.Enqueue: the Kind must be one that Register has returned, got nil or a zero Kind")
		require.PanicsWithValue(t, "jobs: Kind.Name: the Kind must be one that Register has returned, got nil or a zero Kind", func() { _ = bad.Name() })
	}
	require.EqualError(t, enqueue(k, none, q), "jobs: Kind.Enqueue: ctx must not be nil")
	require.EqualError(t, enqueue(k, ctx, nil), "jobs: Kind.Enqueue: q must not be nil")
	for _, bad := range []*jobs.LocalQueue{nil, {}} {
		const must = ": the LocalQueue must be one that Local has returned, got nil or a zero one"
		require.EqualError(t, enqueue(k, ctx, bad), "jobs: LocalQueue.Enqueue"+must)
		require.EqualError(t, bad.Cancel(ctx, "1"), "jobs: LocalQueue.Cancel"+must)
		require.EqualError(t, bad.Stop(ctx), "jobs: LocalQueue.Stop"+must)
		require.PanicsWithValue(t, "jobs: LocalQueue.Handle"+must, func() { bad.Handle("1") })
	}
	_, err := q.Enqueue(none, jobs.Request{})
	require.EqualError(t, err, "jobs: LocalQueue.Enqueue: ctx must not be nil")
	require.EqualError(t, q.Cancel(none, "1"), "jobs: LocalQueue.Cancel: ctx must not be nil")
	require.EqualError(t, q.Stop(none), "jobs: LocalQueue.Stop: ctx must not be nil")
	require.PanicsWithValue(t, "jobs: Local: pool must not be nil", func() { jobs.Local(nil, &reg) })
	require.PanicsWithValue(t, "jobs: Local: pool must be one that taskpool.New has returned, got a zero Pool", func() { jobs.Local(new(taskpool.Pool), &reg) })
	p, err := taskpool.New()
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Shutdown(ctx)) }()
	require.PanicsWithValue(t, "jobs: Local: reg must not be nil", func() { jobs.Local(p, nil) })
	require.PanicsWithValue(t, "jobs: Registry.Observe: f must not be nil", func() { reg.Observe(nil) })
	var nobody *jobs.Registry
	for name, call := range map[string]func(){
		"Observe": func() { nobody.Observe(func(jobs.Event) {}) }, "Kinds": func() { nobody.Kinds() },
	} {
		require.PanicsWithValue(t, "jobs: Registry."+name+": the Registry must not be nil", call)
	}
	require.PanicsWithValue(t, `jobs: Register "other": reg must not be nil`, func() { jobs.Register(nil, "other", nothing[int], jobs.Policy{}) })
	must(t)(k.Enqueue(ctx, q, 0, nil)) // nothing was lost
}

func TestAHandlerGivesItsSlotBackWhileItWaitsForAJobThatIsJustBeingAddedWhateverItsContext(t *testing.T) {
	for name, with := range map[string]func(ctx context.Context) context.Context{
		"its own":    func(ctx context.Context) context.Context { return ctx },
		"another":    func(context.Context) context.Context { return context.Background() },
		"a detached": taskpool.Detach,
	} {
		synctest.Test(t, func(t *testing.T) {
			var reg jobs.Registry
			var q *jobs.LocalQueue
			start, ended := make(chan struct{}), make(chan struct{})
			one := &jobs.Options{UniqueKey: "key"}
			second := jobs.Register(&reg, "second", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
			first := jobs.Register(&reg, "first", func(ctx context.Context, _ jobs.Meta, _ int) error {
				defer close(ended)
				<-start
				_, err := second.Enqueue(with(ctx), q, 1, one)
				assert.True(t, err == nil || errors.Is(err, jobs.ErrDuplicate), "%s context: %v", name, err)
				return nil
			}, jobs.Policy{Timeout: time.Minute})
			q = newLocal(t, &reg, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
			_, err := first.Enqueue(t.Context(), q, 1, nil)
			require.NoError(t, err)
			synctest.Wait()
			began := time.Now()
			added := make(chan error)
			go func() {
				_, err := second.Enqueue(context.Background(), q, 1, one) // there is room once the handler gives its slot back
				added <- err
			}()
			synctest.Wait()
			close(start)
			select {
			case err := <-added:
				require.NoError(t, err)
			case <-time.After(time.Hour):
				require.Fail(t, "both wait for ever", "%s context", name)
			}
			<-ended
			require.Zero(t, time.Since(began), "%s context", name)
		})
	}
}

// Waiting jobs are kept in memory, so how much each takes bounds how many there can be.
func TestWaitingJobTakesAtMostAKiBAndNoGoroutine(t *testing.T) {
	const n = 20_000
	var reg jobs.Registry
	q := newLocal(t, &reg)
	release := occupy(t, &reg, q)
	defer release()
	k := jobs.Register(&reg, "job", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{MaxAttempts: 3})
	inUse := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	goroutines, before := runtime.NumGoroutine(), inUse()
	for i := range n {
		must(t)(k.Enqueue(t.Context(), q, i, nil))
	}
	each := (inUse() - before) / n
	t.Logf("%d bytes", each)
	require.LessOrEqual(t, each, int64(1024))
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
}

func TestHooksAndLogNameTheJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reg jobs.Registry
		var log bytes.Buffer
		var around []jobs.Meta
		q := newLocal(t, &reg, taskpool.WithLogger(slog.New(jobs.LogHandler(slog.NewTextHandler(&log, nil)).WithAttrs(nil))),
			taskpool.WithHooks(taskpool.Hooks{Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				m, ok := jobs.MetaFrom(ctx)
				assert.True(t, ok)
				around = append(around, m)
				return run(ctx)
			}}))
		k := jobs.Register(&reg, "job", func(ctx context.Context, m jobs.Meta, _ int) error {
			if m.Attempt == 1 {
				return errTest
			}
			panic("as the handler says")
		}, jobs.Policy{MaxAttempts: 2, Flow: "acme", Backoff: at(time.Second)})
		id := must(t)(k.Enqueue(t.Context(), q, 0, nil))
		require.NoError(t, q.Stop(t.Context()))
		require.Len(t, around, 2)
		for i, m := range around {
			require.Equal(t, id, m.ID)
			require.Equal(t, "job", m.Kind)
			require.Equal(t, i+1, m.Attempt)
			require.Contains(t, log.String(), fmt.Sprintf("job.id=%s job.kind=job job.attempt=%d job.flow=acme", id, i+1))
		}
	})
}
