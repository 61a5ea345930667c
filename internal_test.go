//go:build invariants

package taskpool

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/internal/remote"
)

func TestYieldWithNothingWaitingParksNothingAtAnyPriority(t *testing.T) {
	const yields = 1000
	for _, pr := range []Priority{math.MinInt, High, Medium, Low, 7, math.MaxInt} {
		t.Run(fmt.Sprint(pr), func(t *testing.T) {
			p, err := New(WithWorkers(1), WithQuantum(time.Nanosecond), WithLogger(slog.New(slog.DiscardHandler)))
			require.NoError(t, err)
			h, err := p.Submit(context.Background(), Task{Priority: pr, Run: func(ctx context.Context) error {
				for range yields {
					if err := Yield(ctx); err != nil {
						return err
					}
				}
				return nil
			}})
			require.NoError(t, err)
			require.NoError(t, h.Wait(context.Background()))
			require.NoError(t, p.Shutdown(context.Background()))
			require.Zero(t, p.Stats().Parks, "in %d calls of Yield", yields)
		})
	}
}

// A task that is alone looks at one flag, and there it must find its end.
func TestYieldWithNothingWaitingReturnsTheCauseOfTheEnd(t *testing.T) {
	cause := errors.New("enough")
	p, err := New(WithWorkers(1), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	running := make(chan struct{})
	var before, after error
	h, err := p.Submit(context.Background(), Task{Run: func(ctx context.Context) error {
		before = Yield(ctx)
		close(running)
		<-ctx.Done()
		after = Yield(ctx)
		return after
	}})
	require.NoError(t, err)
	<-running
	require.True(t, h.Cancel(cause))
	require.Equal(t, cause, h.Wait(context.Background()))
	require.NoError(t, p.Shutdown(context.Background()))
	require.NoError(t, before)
	require.Equal(t, cause, after)
}

// What was popped must not be kept alive by the heap's array.
func TestHeapsOfTheSupervisorLetGoOfWhatIsPopped(t *testing.T) {
	delayed, watch := newDueHeap(inDelayed), new(watchdog)
	watch.init()
	for range 3 {
		delayed.add(new(Handle))
		watch.watched.add(new(worker))
	}
	for range 3 {
		delayed.remove(delayed.first())
		watch.leave(watch.watched.items[0])
	}
	for i := range 3 {
		require.Nil(t, delayed.items[:3][i].Handle)
		require.Nil(t, watch.watched.items[:3][i])
	}
}

func TestGoroutineNumberIsThatOfTheStackDump(t *testing.T) {
	require.NotZero(t, goroutineID())
	for head, want := range map[string]uint64{
		"":                      0,
		"goroutine":             0,
		"goroutine 7":           7,
		"goroutine 12 [running": 12,
		"goroutine x [running]": 0,
	} {
		require.Equal(t, want, parseGoroutineID([]byte(head)), "%q", head)
	}
}

// Reporters and helpers come and go for as long as the pool lives; the list of
// their goroutines must not grow.
func TestGoroutinesOfThePoolAreForgottenWhenTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithWorkers(2), WithLogger(slog.New(slog.DiscardHandler)), WithHooks(Hooks{WorkerDied: func(WorkerEvent) {}}))
		require.NoError(t, err)
		for range 100 {
			require.NoError(t, p.Go(0, func() { panic("die") }))
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(context.Background())
		_, err = p.Submit(ctx, Task{NotBefore: time.Now().Add(time.Hour), Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		cancel()
		synctest.Wait()
		p.mu.Lock()
		require.Empty(t, p.outbox.insiders)
		require.Zero(t, p.outbox.helpers)
		p.mu.Unlock()
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

// On a machine with too much to do tasks had no time to move either.
func TestALookThatIsLateProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithWorkers(1), WithLogger(slog.New(slog.DiscardHandler)), WithHangGrace(time.Second))
		require.NoError(t, err)
		lookLate := func() (circle bool) {
			p.mu.Lock()
			defer p.mu.Unlock()
			defer func() { require.False(t, p.stall.next.IsZero(), "there is another look") }()
			return p.lookForStallLocked(p.stall.next.Add(p.cfg.hangGrace/4 + 1))
		}
		gate := make(chan struct{})
		later, err := p.Submit(context.Background(), Task{NotBefore: time.Now().Add(time.Minute), Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		_, err = p.Submit(context.Background(), Task{Run: later.Wait})
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, p.Go(Medium, func() { <-gate }))
		}
		time.Sleep(1500 * time.Millisecond) // after the first look
		require.False(t, lookLate())
		require.NoError(t, p.Health())
		time.Sleep(3 * time.Second)
		require.ErrorIs(t, p.Health(), ErrStalled)
		lookLate()
		require.ErrorIs(t, p.Health(), ErrStalled)
		close(gate)
		require.NoError(t, p.WaitIdle(context.Background()))
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestNoLookIsDueWhereNothingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithWorkers(1), WithHangGrace(time.Second))
		require.NoError(t, err)
		h, err := p.Submit(context.Background(), Task{Run: func(ctx context.Context) error {
			_, err := Call(ctx, p, Task{}, func(context.Context) (int, error) { return 0, nil })
			return err
		}})
		require.NoError(t, err)
		require.NoError(t, h.Wait(context.Background()))
		time.Sleep(3 * time.Second)
		p.mu.Lock()
		require.Zero(t, p.stall.next)
		p.mu.Unlock()
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

// A watchTrial is a pool whose worker is busy and that has as many tasks with contexts of
// their own as need to wait before others share a registration.
func watchTrial(t *testing.T) (p *Pool, end func()) {
	p, err := New(WithWorkers(1), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	gate := make(chan struct{})
	require.NoError(t, p.Go(High, func() { <-gate }))
	synctest.Wait()
	var ends []context.CancelFunc
	for range mostAlone {
		ctx, cancel := context.WithCancel(context.Background())
		ends = append(ends, cancel)
		watchedTask(t, p, ctx)
	}
	return p, func() {
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
		for _, cancel := range ends {
			cancel()
		}
	}
}

func watchedTask(t *testing.T, p *Pool, ctx context.Context) *Handle {
	h, err := p.Submit(ctx, Task{Run: func(context.Context) error { return nil }})
	require.NoError(t, err)
	return h
}

func TestTasksShareARegistrationOnceThereAreEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, end := watchTrial(t)
		require.Equal(t, mostAlone, p.watches.alone)
		require.Empty(t, p.watches.byDone)
		for i := range 5 {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			for range 10 {
				watchedTask(t, p, ctx)
				require.Len(t, p.watches.byDone, i+1)
				require.Equal(t, mostAlone, p.watches.alone)
			}
			require.Len(t, p.watches.byDone[ctx.Done()].handles, 10)
		}
		end()
		require.Zero(t, p.Watches())
	})
}

// It takes some time from the registration to its being found by others.
func TestATaskWhoseContextEndsWhileItIsRegisteredIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, end := watchTrial(t)
		defer end()
		ws, h := &p.watches, &Handle{pool: p}
		done := make(chan struct{})
		w, alone := ws.enter(p, h, done)
		require.False(t, alone)
		w.contextEnded()
		require.True(t, ws.share(w, h, done), "the registration has ended by itself")
		require.Equal(t, context.Canceled, h.canceled())
		require.Nil(t, h.watch)
		require.Empty(t, ws.byDone)
		require.Nil(t, ws.told.Load(), "the pass is over")
	})
}

// The last task may leave just when the context has ended.
func TestAWatchWithoutTasksIsNotCountedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, end := watchTrial(t)
		defer end()
		h := watchedTask(t, p, &ownContext{Context: context.Background(), done: make(chan struct{})})
		require.Equal(t, mostAlone+1, p.watches.alone)
		w := h.watch
		w.over.Store(true)
		require.Nil(t, p.watches.leave(h), "it has ended already")
		require.Equal(t, mostAlone, p.watches.alone)
		require.Nil(t, p.watches.leave(h), "it is not there")
		w.contextEnded()
		require.Equal(t, mostAlone, p.watches.alone)
	})
}

// An ownContext does what it likes when it ends.
type ownContext struct {
	context.Context
	done chan struct{}
}

func (c *ownContext) Done() <-chan struct{}          { return c.done }
func (c *ownContext) AfterFunc(f func()) func() bool { return func() bool { return true } }

func TestThePassTakesAChunkAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, end := watchTrial(t)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var all []*Handle
		for range 2*passChunk + 2 {
			all = append(all, watchedTask(t, p, ctx))
		}
		p.watches.told.Store(p.watches.byDone[ctx.Done()])
		c := &chunk{pool: p}
		var sizes []int
		for c.next() {
			sizes = append(sizes, len(c.tasks))
			c.askCauses()
			c.cancel()
			for _, e := range c.tasks[:passChunk] {
				require.Zero(t, e, "it is let go of")
			}
		}
		require.Equal(t, []int{passChunk, passChunk, 2}, sizes)
		for _, h := range all {
			require.Equal(t, context.Canceled, h.Err())
		}
		end()
		require.Zero(t, p.Watches())
	})
}

// A context that has ended may say nothing in Err.
func TestATaskWhoseContextHasEndedWithoutAWordGetsACause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, end := watchTrial(t)
		defer end()
		h := watchedTask(t, p, context.Background())
		c := &chunk{pool: p, tasks: []endedTask{{h: h, ctx: &ownContext{Context: context.Background()}, cause: context.Canceled}}}
		c.askCauses()
		c.cancel()
		require.Equal(t, context.Canceled, h.Err())
	})
}

// A deadlyContext ends the goroutine that asks it whether it has ended, once.
type deadlyContext struct {
	ownContext
	asked atomic.Bool
}

func (c *deadlyContext) Err() error {
	if c.asked.CompareAndSwap(true, false) {
		runtime.Goexit()
	}
	return nil
}

func TestAPassThatUserCodeEndsGoesOnAndIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, end := watchTrial(t)
		ctx := &deadlyContext{ownContext: ownContext{context.Background(), make(chan struct{})}}
		h := watchedTask(t, p, ctx)
		ctx.asked.Store(true)
		go h.watch.contextEnded()
		synctest.Wait()
		require.False(t, ctx.asked.Load())
		require.Equal(t, context.Canceled, h.Err())
		require.Empty(t, p.outbox.insiders)
		require.Zero(t, p.outbox.helpers)
		end()
	})
}

// A goroutine of the pass may be ended after it has canceled a chunk: the next one must
// not owe the same reports once more.
func TestReportsOfAPassAreOwedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithWorkers(1), WithHooks(Hooks{Finished: func(TaskEvent) {}}))
		require.NoError(t, err)
		require.True(t, p.hooks.outside)
		(&chunk{pool: p, notices: make([]notice, 1)}).cancel()
		require.Zero(t, p.outbox.helpers)
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

// Which task is an orphan of whom is noted where it is counted, and nowhere else: a handle
// must not keep the task alive that it comes from.
func TestThePassTellsTheParentToWhatItCancelsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, end := watchTrial(t)
		defer end()
		at, other := &attempt{h: &Handle{}}, &attempt{h: &Handle{}}
		cancel := func(h *Handle, parent *attempt) {
			(&chunk{pool: p, tasks: []endedTask{{h: h, cause: errReturned, parent: parent}}}).cancel()
		}
		settled := watchedTask(t, p, context.Background())
		settled.Cancel(nil)
		cancel(settled, at)
		require.Nil(t, settled.parent())
		require.Empty(t, p.orphans.untold)

		inAdmission := &Handle{pool: p, rare: &rareHandle{parent: other}}
		cancel(inAdmission, at)
		require.Same(t, other, inAdmission.parent())
		require.Equal(t, errReturned, inAdmission.canceled())

		waiting := watchedTask(t, p, context.Background())
		cancel(waiting, at)
		require.Equal(t, map[*attempt]int{at: 1}, p.orphans.untold)

		justIn := watchedTask(t, p, context.Background()) // and its Submit does not know yet
		justIn.setParent(other)
		cancel(justIn, nil)
		require.Equal(t, map[*attempt]int{at: 1, other: 1}, p.orphans.untold)
	})
}

// What registrations have allocated is used again, up to a bound.
func TestRegistrationsAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, end := watchTrial(t)
		ws := &p.watches
		var all []*Handle
		for range 2 * spareWatches {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			for range 2 {
				all = append(all, watchedTask(t, p, ctx))
			}
		}
		for _, h := range all {
			h.Cancel(nil)
		}
		require.Len(t, ws.spare, spareWatches)
		for i := spareWatches - 1; i >= 0; i-- {
			w := ws.spare[i]
			require.Zero(t, w.done)
			require.Nil(t, w.stop, "it keeps the context")
			require.Empty(t, w.handles)
			require.Equal(t, 1, cap(w.handles), "it keeps the list of its tasks")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			h := watchedTask(t, p, ctx)
			require.Same(t, w, h.watch)
			require.Len(t, ws.spare, i)
			require.Nil(t, ws.spare[:i+1][i], "it is kept")
		}
		require.Equal(t, 1, cap(ws.newWatch(p).handles), "one task takes no memory besides")
		end()
	})
}

func TestTheParentOfAnOrphanIsTheNearestTaskThatHasReturned(t *testing.T) {
	var log bytes.Buffer
	p, err := New(WithWorkers(1), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	require.NoError(t, err)
	type key struct{}
	oldest := &attempt{ctx: context.Background()}
	older := &attempt{ctx: context.WithValue(oldest, key{}, 0)}
	old := &attempt{ctx: older}
	ctx := context.WithValue(old, key{}, 0)
	require.Nil(t, p.guard.returnedParent(ctx))
	oldest.noteEnd(returned)
	require.Same(t, oldest, p.guard.returnedParent(ctx))
	older.noteEnd(returned)
	require.Same(t, older, p.guard.returnedParent(ctx))
	old.noteEnd(timedOut)
	require.Same(t, older, p.guard.returnedParent(ctx))
	require.NoError(t, p.Shutdown(context.Background()))
	require.Empty(t, log.String())
}

// The list is that of all pools, and must not grow.
func TestGoroutinesOfWorkersAreForgottenWhenTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithWorkers(3), WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		listed := func() (n int) {
			for i := range workersByGoroutine {
				shard := &workersByGoroutine[i]
				shard.mu.Lock()
				for id, w := range shard.workers {
					if w.pool == p {
						n++
						require.Equal(t, id, w.goroutine.Load())
					}
				}
				shard.mu.Unlock()
			}
			return n
		}
		require.NoError(t, p.Go(0, func() { panic("die") }))
		for range 3 {
			require.NoError(t, p.Go(0, func() { time.Sleep(time.Second) }))
		}
		synctest.Wait()
		require.Equal(t, 3, listed())
		require.NoError(t, p.Shutdown(context.Background()))
		synctest.Wait()
		require.Zero(t, listed())
	})
}

// What looks at the invariants must see each of them broken.
func TestABrokenInvariantIsFound(t *testing.T) {
	for what, broken := range map[string]func(p *Pool) (mend func()){
		"a slot that nobody holds": func(p *Pool) func() { p.sched.held++; return func() { p.sched.held-- } },
		"a task that is not there": func(p *Pool) func() { p.sched.count[StateQueued]++; return func() { p.sched.count[StateQueued]-- } },
		"a task of another priority": func(p *Pool) func() {
			l, _ := p.sched.queue.next(false)
			l.priority++
			return func() { l.priority-- }
		},
		"a worker on its way that is none": func(p *Pool) func() { p.crew.coming++; return func() { p.crew.coming-- } },
		"a task of which Yield is not told": func(p *Pool) func() {
			least := p.waiting.Swap(none)
			return func() { p.waiting.Store(least) }
		},
		"a total too many": func(p *Pool) func() { p.ledger.total.succeeded++; return func() { p.ledger.total.succeeded-- } },
	} {
		t.Run(what, func(t *testing.T) {
			p, gate := occupiedPool(t)
			require.NoError(t, p.Go(Low, func() {}))
			p.lock()
			require.NoError(t, p.checkInvariantsLocked(true))
			mend := broken(p)
			require.Error(t, p.checkInvariantsLocked(true))
			mend()
			p.unlock()
			close(gate)
			require.NoError(t, p.Shutdown(context.Background()))
		})
	}
}

// Whoever is told that the pool was idle returns, though it has something to do again.
func TestWaitIdleBelievesThatThePoolWasIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, gate := occupiedPool(t)
		done := make(chan error)
		go func() { done <- p.WaitIdle(context.Background()) }()
		synctest.Wait()
		p.lock()
		p.idlers.wakeLocked()
		p.unlock()
		require.NoError(t, <-done)
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

// A task that waits again and again, for a time, leaves nothing with what it waits for.
func TestWaitThatItsContextHasEndedLeavesNoWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := quietPool(t, WithWorkers(2))
		gate := make(chan struct{})
		slow, err := p.Submit(t.Context(), Task{Run: func(context.Context) error { <-gate; return nil }})
		require.NoError(t, err)
		waits, err := p.Submit(t.Context(), Task{Run: func(ctx context.Context) (err error) {
			for range 10 {
				short, cancel := context.WithTimeout(ctx, time.Second)
				err = slow.Wait(short)
				cancel()
			}
			return err
		}})
		require.NoError(t, err)
		require.ErrorIs(t, waits.Wait(t.Context()), context.DeadlineExceeded)
		p.lock()
		left := slow.waiters.parked
		p.unlock()
		close(gate)
		require.NoError(t, p.Shutdown(t.Context()))
		require.Nil(t, left)
	})
}

// However many wait for one thing, and in whatever order they leave, those that stay are in the
// order in which they came, and no more than half of the list is of those that have gone.
func TestThoseThatStillWaitStayInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var ws waiters
	var want, removed []*suspension
	for range 20_000 {
		if rng.IntN(5) < 2 || len(want) == 0 {
			pk := &suspension{}
			ws.addLocked(pk)
			want = append(want, pk)
		} else {
			i := rng.IntN(len(want))
			ws.removeLocked(want[i])
			removed = append(removed, want[i])
			want = slices.Delete(want, i, i+1)
		}
		ws.removeLocked(pickOne(rng, removed)) // nothing, as it has gone
		if len(want) == 0 {
			require.Nil(t, ws.parked)
			continue
		}
		require.LessOrEqual(t, 2*ws.parked.gone, len(ws.parked.all))
		left := slices.DeleteFunc(slices.Clone(ws.parked.all), func(pk *suspension) bool { return pk == nil })
		require.True(t, slices.Equal(want, left))
	}
}

func pickOne(rng *rand.Rand, all []*suspension) *suspension {
	if len(all) == 0 {
		return &suspension{}
	}
	return all[rng.IntN(len(all))]
}

// A task that waits in a queue of another kind is told of each change of its urgency.
func TestEachChangeOfTheUrgencyOfATaskIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := quietPool(t)
		gate := make(chan struct{})
		h, err := p.Submit(t.Context(), Task{Priority: Low, Run: func(context.Context) error { <-gate; return nil }})
		require.NoError(t, err)
		synctest.Wait()
		p.lock()
		a := h.attempt
		p.unlock()
		for _, pr := range []Priority{Medium, High} {
			_, changed := a.Urgency()
			h.SetPriority(pr)
			select {
			case <-changed:
			default:
				t.Errorf("the change to %v is not told", pr)
			}
			now, _ := a.Urgency()
			if now != int(pr) {
				t.Errorf("the urgency is %d, want %d", now, pr)
			}
		}
		close(gate)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

func quietPool(t *testing.T, opts ...Option) *Pool {
	p, err := New(append([]Option{WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	require.NoError(t, err)
	return p
}

//go:noinline
func sitsHere(gate chan struct{}) { <-gate }

//go:noinline
func sitsDeep(depth int, gate chan struct{}) {
	if depth > 0 {
		sitsDeep(depth-1, gate)
		return
	}
	sitsHere(gate)
}

// The stack of a worker is told from those of others: of pools that have the same
// name, of goroutines that its task has started and that have its labels, however
// deep it is and whatever the task has done to the labels.
func TestStackIsThatOfTheWorker(t *testing.T) {
	others := []*Pool{quietPool(t), quietPool(t)}
	for name, work := range map[string]func(ctx context.Context, gate chan struct{}){
		"plain": func(_ context.Context, gate chan struct{}) { sitsHere(gate) },
		"deep":  func(_ context.Context, gate chan struct{}) { sitsDeep(1000, gate) },
		"with goroutines": func(_ context.Context, gate chan struct{}) {
			for depth := range 3 {
				go sitsDeep(depth*100, gate)
			}
			sitsHere(gate)
		},
		"with labels of its own": func(ctx context.Context, gate chan struct{}) {
			pprof.Do(ctx, pprof.Labels("worker", "7", "zone", "a"), func(context.Context) { sitsHere(gate) })
		},
		"with foreign labels": func(_ context.Context, gate chan struct{}) {
			pprof.Do(context.Background(), pprof.Labels("pool", "", "worker", "1"), func(context.Context) { sitsHere(gate) })
		},
		"with goroutines and foreign labels": func(ctx context.Context, gate chan struct{}) {
			go sitsDeep(10, gate)
			pprof.SetGoroutineLabels(context.Background())
			sitsHere(gate)
		},
	} {
		t.Run(name, func(t *testing.T) {
			gate := make(chan struct{})
			p := quietPool(t, WithWorkers(2))
			var entered sync.WaitGroup
			for _, q := range append(others, p) {
				entered.Add(1)
				_, err := q.Submit(t.Context(), Task{Run: func(ctx context.Context) error {
					entered.Done()
					if q == p {
						work(ctx, gate)
					} else {
						<-gate
					}
					return nil
				}})
				require.NoError(t, err)
			}
			entered.Wait()
			for text := ""; !strings.Contains(text, "sitsHere"); { // once it is there
				running := p.Tasks(StateRunning)
				require.Len(t, running, 1)
				text = string(p.Stack(running[0].Worker))
				require.NotEmpty(t, text)
				require.True(t, strings.HasPrefix(text, "goroutine "), text)
				require.Equal(t, 1, strings.Count(text, "goroutine "+strings.Fields(text)[1]+" ["), text)
				if strings.Contains(text, "additional frames elided") {
					continue
				}
				require.Contains(t, text, "taskpool.(*worker).main", text)
			}
			close(gate)
			require.NoError(t, p.Shutdown(t.Context()))
		})
	}
	for _, q := range others {
		require.NoError(t, q.Shutdown(t.Context()))
	}
}

// A profile has 128 frames of a stack. Wherever that cuts it off, the text says so.
func TestStackThatIsCutOffSaysSo(t *testing.T) {
	p := quietPool(t, WithWorkers(1))
	cut := 0
	for depth := 100; depth <= 130; depth++ {
		gate := make(chan struct{})
		h, err := p.Submit(t.Context(), Task{Run: func(context.Context) error { sitsDeep(depth, gate); return nil }})
		require.NoError(t, err)
		text := ""
		for !strings.Contains(text, "sitsHere") { // once it is there
			runtime.Gosched()
			if running := p.Tasks(StateRunning); len(running) > 0 {
				text = string(p.Stack(running[0].Worker))
			}
		}
		elided := strings.Contains(text, "additional frames elided")
		if elided {
			cut++
		} else {
			require.Contains(t, text, "taskpool.(*worker).main")
		}
		close(gate)
		require.NoError(t, h.Wait(t.Context()))
	}
	require.Positive(t, cut)
	require.Less(t, cut, 31)
	require.NoError(t, p.Shutdown(t.Context()))
}

// A hang each 20 ms, with looks of 30 ms and of 2 s.
func TestLooksForHungTasksAreBounded(t *testing.T) {
	for _, cost := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 2 * time.Second} {
		var b budget
		now, spent, looks := time.Now(), time.Duration(0), 0
		const storm = 10 * time.Minute
		for passed := time.Duration(0); passed < storm; passed += 20 * time.Millisecond {
			if b.ask(now.Add(passed)) {
				b.spend(cost)
				spent += cost
				looks++
			}
		}
		require.LessOrEqual(t, spent, maxLooks+storm/looksShare+cost)
		require.GreaterOrEqual(t, spent, storm/looksShare-cost, "what may be spent is spent")
		require.NotZero(t, looks)
	}
}

// While nothing may be spent on a look, the stack is that of the last one, if the
// task's context had ended by then, and else words.
func TestHungErrorSaysWhyItsStackIsOldOrMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := quietPool(t, WithWorkers(3), WithHangGrace(10*time.Second))
		gate := make(chan struct{})
		hang := func(timeout time.Duration) *Handle {
			h, err := p.Submit(context.Background(), Task{Timeout: timeout, Run: func(context.Context) error { sitsHere(gate); return nil }})
			require.NoError(t, err)
			return h
		}
		stack := func(h *Handle) string {
			var e *HungError
			require.ErrorAs(t, h.Wait(context.Background()), &e)
			return string(e.Stack)
		}
		first, second, third := hang(time.Second), hang(3*time.Second), hang(time.Minute)
		looks.ask(time.Now()) // this clock's beginning
		text := stack(first)
		require.Contains(t, text, "sitsHere")
		require.Contains(t, text, " [waiting]:")
		looks.spend(time.Hour)
		defer looks.spend(-time.Hour)
		text = stack(second)
		require.Contains(t, text, "sitsHere")
		require.Contains(t, text, " [waiting, 2s before it was given up]:")
		text = stack(third)
		require.NotContains(t, text, "sitsHere")
		require.Contains(t, text, " [unknown]:\n(its stack was not looked for")
		close(gate)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// Cancel and the end of a context reach a task that has arrived and was not taken
// in yet only if it arrives just between cancel's two locks. So that is done by
// hand here, to tasks at all places of a batch that is made a segment and of one
// that is not.
func TestATaskCanceledAmongArrivalsNeverRuns(t *testing.T) {
	cause := errors.New("canceled among arrivals")
	for _, n := range []int{3, worthWhole, maxArrivals} {
		for _, canceled := range []int{0, n / 2, n - 1} {
			for _, busy := range []bool{true, false} {
				t.Run(fmt.Sprintf("task %d of %d, busy: %t", canceled, n, busy), func(t *testing.T) {
					finished := 0
					p, err := New(WithWorkers(1), WithHooks(Hooks{Finished: func(e TaskEvent) {
						if e.Task.State == StateCanceled {
							finished++
						}
					}}))
					require.NoError(t, err)
					warm(t, p)
					started, gate := make(chan struct{}), make(chan struct{})
					if busy {
						require.NoError(t, p.Go(High, func() { close(started); <-gate }))
						<-started
					}
					p.mu.Lock() // nobody takes anything in
					handles, ran := make([]*Handle, n), make([]int, n)
					for i := range handles {
						handles[i], err = p.Submit(context.Background(), Task{Run: func(context.Context) error { ran[i]++; return nil }})
						require.NoError(t, err)
					}
					p.inbox.mu.Lock()
					require.Equal(t, n, p.inbox.n)
					handles[canceled].setCanceled(cause)
					p.inbox.mu.Unlock()
					p.mu.Unlock()
					require.NoError(t, p.CheckInvariants())
					require.Equal(t, StateCanceled, handles[canceled].State())
					if busy {
						require.Equal(t, n-1, p.Stats().Queued)
						close(gate)
					}
					require.NoError(t, p.Shutdown(context.Background()))
					require.Zero(t, p.Stats().Panics)
					require.Equal(t, 1, finished)
					for i, h := range handles {
						if i == canceled {
							require.ErrorIs(t, h.Err(), cause)
							require.Zero(t, ran[i])
							continue
						}
						require.NoError(t, h.Err())
						require.Equal(t, StateSucceeded, h.State())
						require.Equal(t, 1, ran[i])
					}
				})
			}
		}
	}
}

// Idle workers are woken to look, and take what is most urgent then: what has come
// first is not put aside for the one that was woken for it.
func TestNoTaskIsPutAsideForAWorker(t *testing.T) {
	for name, opts := range map[string][]Option{
		"arrivals": nil,
		"by lock":  {WithCapacity(100, OverflowReject)},
		"reserved": {WithReserved(1, High), WithCapacity(100, OverflowReject)},
		"aging":    {WithAging(time.Second)},
	} {
		for workers := 1; workers <= 4; workers++ {
			t.Run(fmt.Sprintf("%s, %d workers", name, workers), func(t *testing.T) {
				if workers == 1 && name == "reserved" {
					t.Skip("it takes two")
				}
				p := handPool(t, workers, opts...)
				idle := slices.Clone(p.crew.all)
				var order []Priority
				start := func(pr Priority) {
					require.NoError(t, p.Go(pr, func() { order = append(order, pr) }))
				}
				for range 8 {
					start(Low)
				}
				start(High) // before a worker has looked
				for len(order) < workers && len(idle) > 0 {
					for i, w := range idle {
						select {
						case <-w.wake:
						default:
							continue
						}
						require.NoError(t, p.CheckArrivals())
						require.True(t, w.look())
						if w.busy {
							w.job.f()
						}
						idle = slices.Delete(idle, i, i+1)
						break
					}
				}
				require.Equal(t, append([]Priority{High}, slices.Repeat([]Priority{Low}, workers-1)...), order)
				require.NoError(t, p.CheckInvariants())
			})
		}
	}
}

// The same with workers that have goroutines, on the way that most tasks take.
func TestUrgentFunctionOvertakesThoseForWhichWorkersWereWoken(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			p, err := New(WithWorkers(4))
			require.NoError(t, err)
			warm(t, p)
			synctest.Wait()
			gate := make(chan struct{})
			var mu sync.Mutex
			started := map[Priority]int{}
			p.mu.Lock() // no worker looks
			for i := range 9 {
				pr := Low
				if i == 8 {
					pr = High
				}
				require.NoError(t, p.Go(pr, func() {
					mu.Lock()
					started[pr]++
					mu.Unlock()
					<-gate
				}))
			}
			p.mu.Unlock()
			synctest.Wait()
			require.Equal(t, map[Priority]int{High: 1, Low: 3}, started)
			close(gate)
			require.NoError(t, p.Shutdown(context.Background()))
		})
	}
}

// A worker that was woken before a Pause takes nothing in it.
func TestAWorkerWokenBeforeAPauseStartsNothing(t *testing.T) {
	for _, opts := range [][]Option{nil, {WithCapacity(10, OverflowReject)}} {
		p := handPool(t, 2, opts...)
		require.NoError(t, p.Go(Low, func() {}))
		p.Pause()
		for range 2 {
			for _, w := range p.crew.all {
				if len(w.wake) == 0 {
					continue
				}
				<-w.wake
				require.True(t, w.look())
				require.Equal(t, p.sched.paused, !w.busy)
				require.NoError(t, p.CheckInvariants())
			}
			require.Equal(t, btoi(!p.sched.paused), p.sched.held)
			p.Resume()
		}
	}
}

// A free slot for which a worker is on its way is a free slot: nobody need give his
// away for the task that will have it.
func TestYieldDoesNotParkForATaskThatHasASlot(t *testing.T) {
	for _, opts := range [][]Option{nil, {WithCapacity(10, OverflowReject)}, {WithReserved(1, High), WithCapacity(10, OverflowReject)}} {
		p := handPool(t, 3, append(opts, WithQuantum(1))...)
		h, err := p.Submit(context.Background(), Task{Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		w := wokenWorker(t, p)
		require.True(t, w.look())
		require.Same(t, h, w.job.h)
		for _, pr := range []Priority{High, Medium} {
			require.NoError(t, p.Go(pr, func() {}))
			require.NoError(t, Yield(w.attempt)) // would wait for ever
			require.Equal(t, StateRunning, h.State())
		}
		require.NoError(t, p.Go(Low, func() {}))
		require.NoError(t, Yield(w.attempt))
		require.Equal(t, StateRunning, h.State())
		require.NoError(t, p.CheckInvariants())
	}
}

// wokenWorker returns a worker that was woken and is to look.
func wokenWorker(t *testing.T, p *Pool) *worker {
	t.Helper()
	for _, w := range p.crew.all {
		select {
		case <-w.wake:
			return w
		default:
		}
	}
	require.Fail(t, "no worker was woken")
	return nil
}

// Tasks that wait for the workers on their way take no room, and the slots that they
// will have are free for nobody else.
func TestTasksThatWaitForAWorkerTakeNoRoom(t *testing.T) {
	for _, capacity := range []int{0, 1, 3} {
		p := handPool(t, 2, WithCapacity(capacity, OverflowReject))
		for i := range 2 + capacity {
			require.NoError(t, p.Go(Priority(i), func() {}))
			require.Equal(t, min(i+1, 2), p.crew.coming)
			require.NoError(t, p.CheckInvariants())
		}
		require.ErrorIs(t, p.TryGo(High, func() {}), ErrFull)
		require.True(t, wokenWorker(t, p).look())
		require.ErrorIs(t, p.TryGo(High, func() {}), ErrFull)
		require.True(t, wokenWorker(t, p).look())
		require.ErrorIs(t, p.TryGo(High, func() {}), ErrFull)
		require.Equal(t, capacity, p.Stats().Queued)
	}
}

// The slots of WithReserved are no room for a less urgent task, and an urgent one
// that waits for a worker leaves it the slots that it may have.
func TestTasksThatWaitForAWorkerLeaveOthersTheirSlots(t *testing.T) {
	p := handPool(t, 3, WithReserved(1, High), WithCapacity(0, OverflowReject))
	for _, test := range []struct {
		pr   Priority
		room bool
	}{{Low, true}, {High, true}, {Low, true}, {Low, false}, {High, false}} {
		err := p.Go(test.pr, func() {})
		require.Equal(t, !test.room, errors.Is(err, ErrFull), "%v", test)
		require.NoError(t, p.CheckInvariants())
	}
	p = handPool(t, 3, WithReserved(1, High), WithCapacity(0, OverflowReject))
	for range 2 {
		require.NoError(t, p.Go(Low, func() {}))
	}
	require.ErrorIs(t, p.TryGo(Low, func() {}), ErrFull, "the third slot is not for it")
	require.NoError(t, p.Go(High, func() {}))
	require.ErrorIs(t, p.TryGo(High, func() {}), ErrFull)
	require.NoError(t, p.CheckInvariants())
}

// Where a task that has yet to start comes before one that goes on, that one follows
// when a worker has looked; the other way round it does not wait for it.
func TestAParkedAttemptWaitsForNoWorker(t *testing.T) {
	for _, fresh := range []Priority{High, Low} {
		p := handPool(t, 2, WithFairShare(0), WithCapacity(10, OverflowReject))
		h, err := p.Submit(context.Background(), Task{Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		w := wokenWorker(t, p)
		require.True(t, w.look())
		p.lock()
		pk := w.attempt.parkLocked()
		p.restoreLocked()
		p.unlock()
		require.NoError(t, p.Go(fresh, func() {}))
		require.Equal(t, 1, p.crew.coming)
		p.lock()
		pk.backLocked()
		p.restoreLocked()
		p.unlock()
		require.NoError(t, p.CheckInvariants())
		require.Equal(t, fresh == Low, h.state == StateRunning)
		require.True(t, wokenWorker(t, p).look())
		require.Equal(t, StateRunning, h.state)
		require.Equal(t, 2, p.sched.held)
		require.NoError(t, p.CheckInvariants())
	}
}

// A batch that comes to an empty queue stays where it is, and the workers take it from
// there, also where slots are free.
func TestABatchThatFindsSlotsFreeIsASegmentToo(t *testing.T) {
	for _, n := range []int{worthWhole, maxArrivals} {
		p, err := New(WithWorkers(3))
		require.NoError(t, err)
		warm(t, p)
		gate := make(chan struct{})
		p.lock() // nobody takes anything in
		for range n {
			require.NoError(t, p.Go(Low, func() { <-gate }))
		}
		p.takeInLocked()
		l := p.sched.queue.lane(laneKey{Low, kindOrdinary})
		require.Same(t, l.head, l.tail)
		require.Equal(t, batchSize, l.head.size)
		require.Equal(t, []int32{0, int32(n), int32(n)}, []int32{l.head.head, l.head.tail, l.head.live})
		p.restoreLocked()
		p.unlock()
		require.NoError(t, p.CheckInvariants())
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
	}
}

// A segment that size is for batches that fill it, or are taken soon; memory for a
// thousand tasks must not wait with a few.
func TestABatchThatIsShortIsNoSegment(t *testing.T) {
	for _, test := range []struct {
		waiting, n int
		whole      bool
	}{{0, worthWhole - 1, false}, {0, worthWhole, true}, {1, wholeBatch - 1, false}, {1, wholeBatch, true}} {
		p, gate := occupiedPool(t)
		p.lock()
		for _, n := range []int{test.waiting, test.n} {
			for range n {
				require.NoError(t, p.Go(Low, func() {}))
			}
			p.takeInLocked()
		}
		require.Equal(t, test.waiting+test.n, p.sched.queue.n)
		require.Equal(t, test.whole, p.sched.queue.lane(laneKey{Low, kindOrdinary}).tail.size == batchSize, "%d behind %d", test.n, test.waiting)
		p.unlock()
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
	}
}

// The first arrival wakes a worker, and whoever takes it in takes note of that. Those
// that come before that worker has looked wake none: it will wake the next.
func TestArrivalsWakeOneWorkerAtATime(t *testing.T) {
	p := handPool(t, 3)
	for i := range 5 {
		require.NoError(t, p.Go(Low, func() {}))
		require.True(t, p.inbox.yielding.woken == (i == 0))
		p.takeInLocked()
		require.Equal(t, 1, p.crew.coming)
		require.Nil(t, p.crew.leader)
		require.Equal(t, i+1, p.sched.queue.n)
		require.Equal(t, 2, len(p.crew.idle))
		require.NoError(t, p.CheckArrivals())
	}
}

// Whether submitters let others run costs time only, so these tests look at the
// decision itself.
func TestSubmittersLetOthersRunWhileTasksAreShort(t *testing.T) {
	const enough, tooFew = maxArrivals / 2, maxArrivals/2 - 1
	var c yieldPolicy
	require.False(t, c.due(), "nothing is known yet")
	c.woken = true
	require.True(t, c.due(), "the leader needs a processor")
	c.tookIn(false, 10)
	require.False(t, c.due(), "it has come")
	c.tookIn(false, 10+enough)
	require.False(t, c.due(), "the batch was not full")
	c.tookIn(true, tooFew)
	require.False(t, c.due())
	c.tookIn(true, tooFew+enough)
	require.True(t, c.due())
	c.tookIn(true, tooFew+enough)
	require.True(t, c.due(), "as long as it does not take too long")
}

func TestSubmittersThatLetOthersRunForTooLongStop(t *testing.T) {
	started := uint64(0)
	next := func(c *yieldPolicy, since uint64, away time.Duration) {
		c.longestYield = away
		started += since
		c.tookIn(true, started)
	}
	for _, test := range []struct {
		name    string
		since   uint64
		away    time.Duration
		tooLong bool
	}{
		{"a moment", maxArrivals / 2, tooLong, false},
		{"long, for few tasks", maxArrivals, tooLong + 30*time.Microsecond, true},
		{"long, for as many tasks", 2000, 2 * time.Millisecond, false},
		{"long, for too few tasks", 2000, 2*time.Millisecond + 1, true},
		{"very long, for none", 0, time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := yieldPolicy{started: started, draining: true}
			next(&c, test.since, test.away)
			require.Equal(t, !test.tooLong, c.due())
			require.Zero(t, c.longestYield, "a new account begins")
			if !test.tooLong {
				return
			}
			for range holdoffBatches {
				c.woken = true
				require.False(t, c.due())
				next(&c, 0, 0)
			}
			c.woken = true
			require.True(t, c.due(), "the leader has a claim again")
			c.woken = false
			require.False(t, c.due())
			next(&c, maxArrivals, 0)
			require.True(t, c.due(), "and so have short tasks")
		})
	}
}

// Full batches that are taken in while nothing starts were once counted so that
// tasks seemed short after the second one. With tasks that compute on all
// processors a call of Go took 700 ms then.
func TestSubmittersDoNotLetLongTasksRun(t *testing.T) {
	p, gate := occupiedPool(t)
	for range 10 {
		for range maxArrivals + 1 {
			require.NoError(t, p.Go(Low, func() {}))
		}
		p.inbox.mu.Lock()
		require.False(t, p.inbox.yielding.due())
		require.Zero(t, p.inbox.yielding.longestYield)
		p.inbox.mu.Unlock()
	}
	p.inbox.mu.Lock()
	require.Equal(t, uint64(1), p.inbox.yielding.started)
	p.inbox.letOthersRun()
	require.Positive(t, p.inbox.yielding.longestYield)
	p.inbox.mu.Unlock()
	close(gate)
	require.NoError(t, p.Shutdown(context.Background()))
}

func TestSubmittersLetOthersRunOnlyWhenTheBatchIsFull(t *testing.T) {
	p, gate := occupiedPool(t)
	p.mu.Lock() // nobody takes anything in
	p.takeInLocked()
	in := &p.inbox
	for i := range maxArrivals {
		in.yielding.draining = i > 0
		require.True(t, p.inbox.put(entry{f: func() {}}, Low))
		require.Zero(t, in.yielding.longestYield)
	}
	in.yielding.draining = false
	require.False(t, p.inbox.put(entry{f: func() {}}, Low))
	require.Zero(t, in.yielding.longestYield)
	in.yielding.draining = true
	require.False(t, p.inbox.put(entry{f: func() {}}, Low))
	require.Positive(t, in.yielding.longestYield)
	require.Equal(t, maxArrivals, in.n)
	p.mu.Unlock()
	close(gate)
	require.NoError(t, p.Shutdown(context.Background()))
}

// handleOf returns the handle of a task of p that was not submitted.
func handleOf(p *Pool, run func(context.Context) error) *Handle {
	h := newHandle(context.Background())
	h.pool, h.task.Run = p, run
	return h
}

// A task whose context ends within Submit, before it arrives, was never accepted.
func TestATaskThatIsCanceledBeforeItArrivesDoesNot(t *testing.T) {
	p, gate := occupiedPool(t)
	h := &Handle{pool: p, rare: &rareHandle{canceled: context.Canceled}}
	require.False(t, p.inbox.put(entry{h: h}, Low))
	require.True(t, p.inbox.put(entry{h: handleOf(p, func(context.Context) error { return nil })}, Medium))
	close(gate)
	require.NoError(t, p.Shutdown(context.Background()))
	require.Zero(t, h.id)
}

// Two submitters may hand in their tasks in another order than they have read the
// clock, and a worker may have read it meanwhile.
func TestWithAgingOrdersOfArrivalsNeverDecrease(t *testing.T) {
	p, gate := occupiedPool(t, WithAging(time.Hour))
	p.mu.Lock() // nobody takes anything in
	p.takeInLocked()
	const late, later = int64(time.Hour), 2 * int64(time.Hour)
	p.inbox.mu.Lock()
	p.inbox.latest = late
	p.inbox.mu.Unlock()
	for range 3 {
		require.NoError(t, p.Go(Low, func() {}))
	}
	p.inbox.mu.Lock()
	for i := range 3 {
		require.Equal(t, late, p.inbox.batch.slots[i].order)
	}
	p.inbox.batch.slots[2].order = later + 1 // read after the worker's
	p.inbox.mu.Unlock()
	p.sched.seq = later
	p.takeInLocked()
	var orders []int64
	for _, e := range p.sched.queue.all() {
		orders = append(orders, e.order)
	}
	require.Equal(t, []int64{later, later, later + 1}, orders)
	require.Zero(t, p.inbox.spare.base, "with aging it stays so")
	require.Zero(t, p.inbox.spare.handles)
	require.Equal(t, later+1, p.sched.seq)
	require.NoError(t, p.Go(Low, func() {}))
	p.sched.seq = later + 2 // and not one arrival was later
	p.takeInLocked()
	require.Equal(t, later+2, p.sched.queue.lane(laneKey{Low, kindOrdinary}).tail.slots[3].order)
	require.Equal(t, later+2, p.sched.seq)
	p.restoreLocked()
	p.unlock()
	require.NoError(t, p.CheckInvariants())
	close(gate)
	require.NoError(t, p.Shutdown(context.Background()))
}

// Handles of a batch that becomes a segment as it is can be told apart: they are
// canceled, moved and listed like all others.
func TestHandlesOfAWholeBatchKnowTheirPlace(t *testing.T) {
	for _, n := range []int{worthWhole, wholeBatch, maxArrivals} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p, gate := occupiedPool(t)
			p.mu.Lock() // nobody takes anything in
			var ran []int
			handles := make([]*Handle, n)
			for i := range handles {
				h, err := p.Submit(context.Background(), Task{Run: func(context.Context) error {
					ran = append(ran, i)
					return nil
				}})
				require.NoError(t, err)
				handles[i] = h
			}
			p.mu.Unlock()
			require.NoError(t, p.CheckInvariants())
			var want []int
			for i, h := range handles {
				require.Equal(t, uint64(i+2), h.id)
				switch i % 3 {
				case 0:
					require.True(t, h.Cancel(nil))
				case 1:
					require.True(t, h.SetPriority(High))
					want = append(want, i)
				}
			}
			for i := range handles {
				if i%3 == 2 {
					want = append(want, i)
				}
			}
			require.NoError(t, p.CheckInvariants())
			close(gate)
			require.NoError(t, p.Shutdown(context.Background()))
			// One worker, and with a fair share the oldest has a turn now and then.
			require.ElementsMatch(t, want, ran)
			for i, h := range handles {
				require.Equal(t, i%3 == 0, h.State() == StateCanceled)
			}
		})
	}
}

// occupiedPool returns a pool whose only worker is busy until gate is closed.
func occupiedPool(t *testing.T, opts ...Option) (p *Pool, gate chan struct{}) {
	t.Helper()
	p, err := New(append(opts, WithWorkers(1))...)
	require.NoError(t, err)
	started, gate := make(chan struct{}), make(chan struct{})
	require.NoError(t, p.Go(High, func() { close(started); <-gate }))
	<-started
	return p, gate
}

// warm has a new pool hire its first worker: until then arrivals take a detour.
func warm(t *testing.T, p *Pool) {
	t.Helper()
	require.NoError(t, p.Go(High, func() {}))
	require.NoError(t, p.WaitIdle(context.Background()))
}

// awaitSupervisor waits until the supervisor has had its first turn, in which it
// takes in what has arrived, and all is idle.
func awaitSupervisor(t *testing.T, p *Pool) {
	t.Helper()
	p.mu.Lock()
	p.stall.next = time.Now().Add(time.Hour) // or it comes in between, to see whether anything moves
	p.mu.Unlock()
	h, err := p.Submit(context.Background(), Task{
		NotBefore: time.Now().Add(time.Millisecond),
		Run:       func(context.Context) error { return nil },
	})
	require.NoError(t, err)
	require.NoError(t, h.Wait(context.Background()))
	require.NoError(t, p.WaitIdle(context.Background()))
}

// A task that takes a free slot was once not told of those that had arrived with
// it and found none, until something else was done under the pool's lock.
func TestYieldSeesWhatArrivedWithItsTask(t *testing.T) {
	p, err := New(WithWorkers(1))
	require.NoError(t, err)
	awaitSupervisor(t, p)
	ran, done := false, make(chan struct{}) // ran by the only worker
	p.mu.Lock()                             // nobody takes anything in
	h, err := p.Submit(context.Background(), Task{Priority: Low, Run: func(ctx context.Context) error {
		defer close(done)
		if err := Yield(ctx); err != nil || !ran {
			return fmt.Errorf("the urgent function has run: %t, error %v", ran, err)
		}
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, p.Go(High, func() { ran = true }))
	p.mu.Unlock()
	<-done // Wait would lock the pool, and so have it look at what waits
	require.NoError(t, p.Shutdown(context.Background()))
	require.NoError(t, h.Err())
}

// A dispatch has a choice as soon as a task of another priority has arrived, taken
// in or not: whether it was is a matter of chance, and turns must not be.
func TestADispatchWithAChoiceOnlyAmongArrivalsCounts(t *testing.T) {
	for _, inRun := range []bool{false, true} {
		t.Run(fmt.Sprintf("in a run: %t", inRun), func(t *testing.T) {
			p, err := New(WithWorkers(1))
			require.NoError(t, err)
			awaitSupervisor(t, p)
			step := make(chan struct{}) // each function takes one before it ends
			started := make(chan struct{})
			for range 10 {
				require.NoError(t, p.Go(Medium, func() { started <- struct{}{}; <-step }))
			}
			<-started
			p.lock() // all are taken in
			require.Equal(t, 9, p.sched.queue.n)
			p.unlock()
			if inRun {
				for range 2 { // the second of these is taken from a run
					step <- struct{}{}
					<-started
				}
				p.mu.Lock()
				require.NotNil(t, p.burst.lane)
				p.mu.Unlock()
			}
			require.NoError(t, p.Go(Low, func() {}))
			p.inbox.mu.Lock()
			require.Equal(t, 1, p.inbox.n)
			p.inbox.mu.Unlock()
			require.Zero(t, p.sched.queue.turn[0])
			step <- struct{}{}
			<-started
			p.mu.Lock()
			require.Equal(t, uint64(1), p.sched.queue.turn[0])
			p.mu.Unlock()
			close(step)
			go func() {
				for range started {
				}
			}()
			require.NoError(t, p.Shutdown(context.Background()))
			close(started)
		})
	}
}

// A leader that finds the last task canceled as it takes it in may be dismissed
// while it looks, and then nobody wakes it any more.
func TestALeaderThatIsDismissedWhileItLooksEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which reports a goroutine that stays
		p, err := New(WithWorkers(1))
		require.NoError(t, err)
		warm(t, p)
		synctest.Wait()
		p.mu.Lock()
		h, err := p.Submit(context.Background(), Task{Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		p.inbox.mu.Lock()
		h.setCanceled(context.Canceled) // as cancel does
		p.inbox.closed = true           // as Shutdown does
		p.inbox.mu.Unlock()
		p.end.closed = true
		p.mu.Unlock()
		synctest.Wait()
		require.NoError(t, p.Shutdown(context.Background()))
		require.Equal(t, StateCanceled, h.State())
	})
}

// Batches, segments made of them and runs only cost less than pushes and pops one
// by one: what comes next, and when the fair share has its turn, stays the same. So
// a pool without workers does by hand what its workers would do, and the reference
// has each task as soon as it has arrived.
func TestBatchesAndRunsAgreeWithNaiveQueue(t *testing.T) {
	for _, mode := range queueModes() {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			const ops = 1500
			b := newBatchPair(t, mode)
			growing := true
			for range ops {
				if n := len(b.ref.tasks); n < 4 {
					growing = true
				} else if n > 400 {
					growing = false
				}
				switch r := b.rng.IntN(100); {
				case r < 30 && growing || r < 2:
					b.arrive()
				case r < 60:
					b.takeFromBurst()
				case r < 90:
					b.takeNext()
				default:
					b.alone()
				}
			}
			if mode.share != 1 {
				require.Greater(t, b.inRuns, 15, "came from a run")
			}
			require.Positive(t, b.whole, "batches became segments")
		})
	}
}

// A batchPair is a queuePair in a pool.
type batchPair struct {
	*queuePair
	pool   *Pool
	rng    *rand.Rand
	inRuns int // how many tasks were taken from runs
	whole  int // how many batches became segments
}

func newBatchPair(t *testing.T, mode queueMode) *batchPair {
	b := &batchPair{
		queuePair: newQueuePair(t, mode.share, mode.step, mode.shed),
		rng:       rand.New(rand.NewPCG(31, 37)),
		pool:      &Pool{cfg: &config{}, checkClock: checkClock{never: true}, epoch: time.Now()},
	}
	p := b.pool
	p.inbox.direct, p.inbox.aging, p.inbox.epoch = true, mode.step > 0, p.epoch
	p.sched.slots, p.sched.held, p.sched.aging = 1, 1, mode.step > 0
	if p.sched.aging {
		p.sched.seq = int64(1000 * time.Hour) // beyond what the clock says
	}
	p.inbox.init()
	p.inbox.batch, p.inbox.spare = newSegment(batchSize), newSegment(batchSize)
	p.sched.queue = *b.q
	p.sched.queue.init()
	b.q, b.nextID = &p.sched.queue, 1
	return b
}

// order returns the order of the next task.
func (b *batchPair) order() int64 {
	p := b.pool
	if p.sched.aging {
		return max(p.sched.seq, p.inbox.latest) + b.rng.Int64N(min(int64(b.q.step), 100))
	}
	return p.sched.seq + int64(p.inbox.n) + 1
}

// arrive has tasks arrive, few or many, of one priority or several.
func (b *batchPair) arrive() {
	p := b.pool
	n := 1 + b.rng.IntN(6)
	switch b.rng.IntN(20) {
	case 0:
		n = maxArrivals
	case 1:
		n = wholeBatch
	case 2, 3, 4:
		n = worthWhole + b.rng.IntN(100)
	}
	pr := Priority(b.rng.IntN(4))
	several := b.rng.IntN(3) == 0
	handles := b.rng.IntN(3)
	for range min(n, maxArrivals-p.inbox.n) {
		if several && b.rng.IntN(3) == 0 {
			pr = Priority(b.rng.IntN(4))
		}
		id, order := b.nextID, b.order()
		b.nextID++
		e := entry{f: func() { b.called = id }}
		if handles > 0 && b.rng.IntN(5*handles) == 0 {
			e = entry{h: handleOf(p, nil)}
			e.h.priority = pr
		}
		if p.sched.aging {
			p.inbox.latest = order
		}
		require.True(b.t, p.inbox.put(e, pr))
		b.ref.push(naiveTask{id: id, h: e.h, priority: pr, order: order, fresh: true})
	}
	require.NoError(b.t, p.inbox.check(p.sched.aging, true))
}

// takeFromBurst takes the next of the run, if there is one.
func (b *batchPair) takeFromBurst() {
	p := b.pool
	r, w := &p.burst, &worker{pool: p}
	if len(r.slots) == 0 {
		return
	}
	if !w.takeFromBurst() {
		require.True(b.t, r.slots[0].f == nil || p.inbox.n > 0)
		p.mu.Unlock()
		return
	}
	b.inRuns++
	want, _ := b.ref.pop()
	w.job.f()
	require.Equal(b.t, want.id, b.called, "in a run")
	require.Equal(b.t, want.priority, w.priority)
	require.NoError(b.t, p.checkBurstLocked())
}

// endRun ends the run, and looks whether all is counted that was taken from it.
func (b *batchPair) endRun() {
	p := b.pool
	taken, attempts := p.burst.taken, p.ledger.total.attempts
	p.sched.count[StateQueued] = b.q.n
	p.endBurstLocked()
	require.Equal(b.t, attempts+uint64(taken), p.ledger.total.attempts)
	require.Equal(b.t, attempts+uint64(taken), p.ledger.total.succeeded)
	require.Equal(b.t, b.q.n, p.sched.count[StateQueued])
	require.NoError(b.t, p.checkBurstLocked())
}

// takeNext has a worker take the next task.
func (b *batchPair) takeNext() {
	p := b.pool
	b.endRun()
	p.ledger.total.submitted = uint64(b.nextID - 1 - p.inbox.n)
	want, some := naiveTask{}, len(b.ref.tasks) > 0
	if some {
		want = b.ref.tasks[b.ref.next()]
	}
	w, batch := &worker{pool: p, holds: true}, p.inbox.batch
	took := w.takeNextLocked()
	b.taken(batch)
	p.ledger.total.succeeded = p.ledger.total.attempts
	require.NoError(b.t, p.checkBurstLocked())
	if !took {
		require.True(b.t, !some || want.h != nil && want.h.state == StateParked)
		p.takeInLocked()
		b.pop()
		return
	}
	b.ref.pop()
	id := 0
	if w.job.h != nil {
		id = int(w.job.h.id)
	} else {
		w.job.f()
		id = b.called
	}
	require.Equal(b.t, want.id, id)
	require.Equal(b.t, want.priority, w.priority)
	require.NoError(b.t, p.checkSpareLocked(true))
}

// taken takes note of what became of a batch that may have been taken in.
func (b *batchPair) taken(batch *segment) {
	if p := b.pool; batch != p.inbox.batch && batch != p.inbox.spare {
		b.whole++
	}
}

// alone is what is done under the pool's lock.
func (b *batchPair) alone() {
	p := b.pool
	b.endRun()
	p.ledger.total.submitted = uint64(b.nextID - 1 - p.inbox.n)
	batch := p.inbox.batch
	p.takeInLocked()
	b.taken(batch)
	p.ledger.total.succeeded = p.ledger.total.attempts
	require.NoError(b.t, cmp.Or(p.checkSpareLocked(true), p.inbox.check(p.sched.aging, true)))
	b.checkAll()
	switch b.rng.IntN(4) {
	case 0:
		order := b.order()
		p.sched.seq = order
		b.push(Priority(b.rng.IntN(4)), order, b.rng.IntN(2) == 0, b.rng.IntN(2) == 0)
		if h := b.ref.tasks[len(b.ref.tasks)-1].h; h != nil {
			h.pool, h.first = p, new(attempt)
		}
	case 1:
		if n := len(b.ref.tasks); n > 0 {
			b.removeAt(b.rng.IntN(n))
		}
	case 2:
		if b.q.shed {
			b.shed(Priority(b.rng.IntN(4)))
		}
	default:
		b.pop()
	}
	b.checkAll()
}

// A worker that ends its task takes one that arrived for a free slot, which stays
// free, with tasks in the queue, until the leader comes. With others parked there is no
// idle worker for each slot, and some have to be hired.
func TestALeaderFillsSlotsThatOthersLeaveFree(t *testing.T) {
	const functions, slots = 10, 4
	for parked := range slots - 1 {
		for ended := range slots {
			for _, inRun := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d parked, %d ended, in a run: %t", parked, ended, inRun), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p, err := New(WithWorkers(slots))
						require.NoError(t, err)
						warm(t, p)
						gate := make(chan struct{})
						for range parked {
							_, err := p.Submit(context.Background(), Task{Run: func(ctx context.Context) error {
								return Block(ctx, func() error { <-gate; return nil })
							}})
							require.NoError(t, err)
						}
						require.NoError(t, p.Go(High, func() { <-gate }))
						synctest.Wait()
						require.NoError(t, p.CheckArrivals())
						ran := 0
						var mu sync.Mutex
						p.mu.Lock()
						for range functions {
							require.NoError(t, p.Go(Low, func() {
								mu.Lock()
								ran++
								mu.Unlock()
								<-gate
							}))
						}
						p.takeInLocked()
						require.Equal(t, functions, p.sched.queue.n)
						for range ended { // as the worker that is busy
							p.sched.queue.pop(false)
							p.sched.count[StateQueued]--
							p.ledger.total.attempts++
							p.ledger.total.succeeded++
							of := p.sched.queue.totals.of(Low)
							of.Attempts++
							of.Succeeded++
						}
						over := ended
						if p.sched.beginBurst(&p.burst); inRun {
							p.burst.slots[0], p.burst.slots, p.burst.taken = entry{}, p.burst.slots[1:], 1
							over++
						}
						p.mu.Unlock()
						synctest.Wait()
						require.NoError(t, p.CheckArrivals())
						p.mu.Lock()
						require.Equal(t, slots, p.sched.held)
						p.mu.Unlock()
						require.Equal(t, slots-1, ran)
						require.NoError(t, p.CheckInvariants())
						close(gate)
						require.NoError(t, p.Shutdown(context.Background()))
						require.Equal(t, functions-over, ran)
						require.EqualValues(t, functions+parked+2, p.Stats().Succeeded)
					})
				})
			}
		}
	}
}

// handPool returns a pool whose workers have no goroutine, so that a test does step
// by step what they would do.
func handPool(t *testing.T, workers int, opts ...Option) *Pool {
	t.Helper()
	c, err := newConfig(append([]Option{WithWorkers(workers)}, opts...))
	require.NoError(t, err)
	p := newPool(c)
	p.checkClock.never = true
	p.supervisor.started = true // by nobody
	for i := range workers {
		w := &worker{pool: p, wake: make(chan struct{}, 1), id: i + 1, crewI: i, watchI: -1}
		p.crew.all = append(p.crew.all, w)
		p.crew.idle = append(p.crew.idle, w)
	}
	p.restoreLocked()
	require.NoError(t, p.CheckArrivals())
	return p
}

func TestOneLeaderWakesTheNext(t *testing.T) {
	for workers := 1; workers <= 4; workers++ {
		for tasks := range workers + 2 {
			p := handPool(t, workers)
			for range tasks {
				require.True(t, p.inbox.put(entry{f: func() {}}, Low))
			}
			for i := range workers {
				woken := 0
				for _, w := range p.crew.all {
					woken += len(w.wake)
				}
				require.Equal(t, btoi(i < tasks), woken)
				if woken == 0 {
					break
				}
				w := wokenWorker(t, p)
				require.True(t, w.look())
				require.NoError(t, p.CheckArrivals())
				require.Equal(t, phaseStart, w.phase)
				require.True(t, w.busy && w.holds)
				require.Equal(t, i+1, p.sched.held)
				require.NotContains(t, p.crew.idle, w)
				require.Equal(t, btoi(i+1 < min(tasks, workers)), p.crew.coming)
			}
			require.NoError(t, p.CheckInvariants())
			require.Equal(t, max(tasks-workers, 0), p.sched.queue.n)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// What arrives while a leader looks finds none to wake.
func TestALeaderSeesToWhatArrivesWhileItLooks(t *testing.T) {
	p := handPool(t, 2)
	require.True(t, p.inbox.put(entry{f: func() {}}, Low))
	require.True(t, wokenWorker(t, p).look())
	p.inbox.leader = nil
	p.crew.idle, p.crew.leader = append(p.crew.idle, p.crew.leader), nil // as it was then
	require.True(t, p.inbox.put(entry{f: func() {}}, Low))
	p.wakeNextLocked()
	require.NoError(t, p.CheckArrivals())
	require.True(t, wokenWorker(t, p).look())
	require.Equal(t, 2, p.sched.held)
}

func TestALeaderThatFindsNothingSleepsAgain(t *testing.T) {
	p := handPool(t, 2)
	require.True(t, p.inbox.put(entry{h: handleOf(p, nil)}, Low))
	p.inbox.batch.slots[0].h.setCanceled(context.Canceled) // as cancel does
	require.NoError(t, p.CheckArrivals())
	w := wokenWorker(t, p)
	require.True(t, w.look())
	require.NoError(t, p.CheckArrivals())
	require.False(t, w.busy)
	require.Equal(t, phaseSleep, w.phase)
	require.Equal(t, 2, p.crew.withoutTask())
	require.NotNil(t, p.crew.leader)
}

// Whoever finds the leader awake wakes no other for the task that woke it.
func TestALeaderOnItsWayIsEnoughForTheTaskItWasWokenFor(t *testing.T) {
	for _, plain := range []bool{true, false} {
		p := handPool(t, 3)
		for i := range 3 {
			require.True(t, p.inbox.put(entry{f: func() {}}, Low))
			require.NoError(t, p.CheckArrivals())
			p.lock()
			require.NoError(t, p.checkArrivalsLocked(true))
			require.Equal(t, 1, p.crew.coming)
			require.Equal(t, i, p.sched.held)
			p.unlock()
			w := wokenWorker(t, p)
			if !plain {
				p.crew.extra = -1 // one worker too many
				w.look()
				require.True(t, w.dismissed)
				break
			}
			require.True(t, w.look())
			require.True(t, w.busy && w.holds)
			require.Equal(t, phaseStart, w.phase)
			require.Equal(t, i+1, p.sched.held)
			require.Zero(t, p.crew.coming)
			require.NoError(t, p.CheckArrivals())
		}
	}
}

// An arrival that came while no slot was free woke nobody.
func TestWhoeverFreesASlotFindsWhatHasArrived(t *testing.T) {
	p := handPool(t, 2)
	p.sched.held = 2 // all are held by tasks
	p.restoreLocked()
	require.Nil(t, p.crew.leader)
	require.True(t, p.inbox.put(entry{f: func() {}}, Low))
	require.NoError(t, p.CheckArrivals())
	p.restoreLocked()
	require.Equal(t, 1, p.inbox.n, "no hurry")
	p.sched.held = 1
	p.restoreLocked()
	require.NoError(t, p.CheckArrivals())
	require.Equal(t, 1, p.crew.coming)
	require.Zero(t, p.inbox.n)
	require.True(t, wokenWorker(t, p).look())
	require.Equal(t, 2, p.sched.held)
}

// A leader that was woken, and whose slot is taken before anybody has looked at what
// has arrived, is on its way all the same.
func TestALeaderIsUpUntilItHasLooked(t *testing.T) {
	p := handPool(t, 2)
	require.True(t, p.inbox.put(entry{f: func() {}}, Low))
	p.sched.held = 2
	p.restoreLocked()
	require.NoError(t, p.CheckArrivals())
	require.Nil(t, p.crew.leader)
	require.Equal(t, 1, p.crew.coming)
	require.Equal(t, 1, p.inbox.n)
	w := wokenWorker(t, p)
	require.True(t, w.look())
	require.NoError(t, p.CheckArrivals())
	require.Nil(t, p.crew.leader)
	require.Zero(t, p.crew.coming)
	require.False(t, w.busy)
	require.Contains(t, p.crew.idle, w)
	require.Equal(t, 1, p.sched.queue.n)
}

// A task that arrived while a worker took a less urgent one in comes before the next
// of these, also if a worker has to be hired for it.
func TestAWorkerIsHiredForTheMostUrgentOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithWorkers(2), WithFairShare(0))
		require.NoError(t, err)
		gate := make(chan struct{})
		_, err = p.Submit(context.Background(), Task{Run: func(ctx context.Context) error {
			return Block(ctx, func() error { <-gate; return nil })
		}})
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, p.Go(Low, func() { <-gate }))
		synctest.Wait()
		p.Pause()
		var order []Priority
		start := func(pr Priority) {
			require.NoError(t, p.Go(pr, func() { order = append(order, pr); <-gate }))
		}
		start(Low)
		p.mu.Lock()
		p.takeInLocked()
		p.sched.paused = false
		require.Equal(t, 1, p.sched.queue.n)
		require.Empty(t, p.crew.idle)
		require.Equal(t, p.sched.slots-1, p.sched.held)
		p.inbox.mu.Lock()
		p.crew.detour, p.inbox.detour = false, false // as it was when they arrived
		p.inbox.mu.Unlock()
		start(High)
		require.Equal(t, 1, p.inbox.n)
		p.wakeNextLocked()
		p.mu.Unlock()
		synctest.Wait()
		require.Equal(t, []Priority{High}, order)
		require.NoError(t, p.CheckInvariants())
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
		require.Equal(t, []Priority{High, Low}, order)
	})
}

// A leader that finds no task may find no slot either, or the pool paused.
func TestALeaderTakesNothingThatMustWait(t *testing.T) {
	for _, paused := range []bool{false, true} {
		t.Run(fmt.Sprintf("paused: %t", paused), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := New(WithWorkers(1))
				require.NoError(t, err)
				gate := make(chan struct{})
				h, err := p.Submit(context.Background(), Task{Run: func(ctx context.Context) error {
					_ = Block(ctx, func() error { <-gate; return nil })
					<-gate
					return nil
				}})
				require.NoError(t, err)
				synctest.Wait()
				require.NoError(t, p.Go(Low, func() {})) // hires a worker
				synctest.Wait()
				p.mu.Lock()
				gone, err := p.Submit(context.Background(), Task{Run: func(context.Context) error { return nil }})
				require.NoError(t, err)
				p.inbox.mu.Lock()
				gone.setCanceled(context.Canceled) // as cancel does
				p.inbox.mu.Unlock()
				p.takeInLocked()
				require.Equal(t, 1, p.crew.coming)
				if p.sched.paused = paused; !paused {
					h.attempt.suspension.backLocked()
				}
				p.restoreLocked()
				inOrder := p.checkArrivalsLocked(true)
				ran := false
				for range 3 {
					require.NoError(t, p.Go(Low, func() { ran = true }))
				}
				p.mu.Unlock()
				synctest.Wait()
				require.NoError(t, cmp.Or(inOrder, p.CheckArrivals()))
				require.False(t, ran)
				require.NoError(t, p.CheckInvariants())
				p.Resume()
				synctest.Wait()
				require.Equal(t, paused, ran)
				close(gate)
				require.NoError(t, p.Shutdown(context.Background()))
				require.True(t, ran)
			})
		})
	}
}

// A worker that comes when Resize has made it one too many takes nothing, and has the
// next one come in its place.
func TestAWorkerThatIsOneTooManyWhenItLooksTakesNothing(t *testing.T) {
	p := handPool(t, 3)
	require.True(t, p.inbox.put(entry{f: func() {}}, Low))
	w := wokenWorker(t, p)
	require.NoError(t, p.Resize(2))
	require.Len(t, p.crew.all, 2, "another was dismissed")
	p.sched.slots = 1
	require.False(t, w.look())
	require.NoError(t, p.CheckArrivals())
	require.True(t, w.dismissed)
	require.False(t, w.busy)
	require.Len(t, p.crew.all, 1)
	require.Equal(t, 1, p.sched.queue.n)
	require.Equal(t, 1, p.crew.coming)
	require.True(t, wokenWorker(t, p).look())
	require.Equal(t, 1, p.sched.held)
}

// At the very end of a Shutdown workers are given up that have no task: one that was on
// its way then is no longer one of the pool's.
func TestAWorkerThatIsGivenUpBeforeItLooksEnds(t *testing.T) {
	p := handPool(t, 1)
	require.True(t, p.inbox.put(entry{f: func() {}}, Low))
	p.lock()
	var notices []notice
	p.sched.slots = 0 // so that none is hired in its place
	p.crew.all[0].abandonLocked(&notices)
	w := p.crew.abandoned[0]
	p.unlock()
	<-w.wake
	require.False(t, w.look())
	require.Zero(t, p.crew.coming)
	require.Empty(t, p.crew.abandoned)
	require.False(t, w.busy)
}

// A function that has returned must not be kept for as long as the run goes on that
// it came from, which may be as long as its longest function.
func TestFunctionOfARunIsGarbageWhenTheNextHasBegun(t *testing.T) {
	p, err := New(WithWorkers(1))
	require.NoError(t, err)
	awaitSupervisor(t, p)
	const functions = worthWhole
	started, step := make(chan struct{}), make(chan struct{})
	kept := make([]weak.Pointer[retained], functions)
	p.mu.Lock() // the leader takes them in together
	for i := range kept {
		kept[i] = goRetained(t, p, func() { started <- struct{}{}; <-step })
	}
	p.mu.Unlock()
	for i := range kept {
		<-started
		p.mu.Lock()
		require.Equal(t, i > 0 && i < functions-1, p.burst.taken > 0, "function %d comes from a run", i)
		p.mu.Unlock()
		runtime.GC()
		for k := range kept {
			require.Equal(t, k >= i, kept[k].Value() != nil, "function %d is kept while the %d-th runs", k, i)
		}
		step <- struct{}{}
	}
	require.NoError(t, p.Shutdown(context.Background()))
}

//go:noinline
func goRetained(t *testing.T, p *Pool, f func()) weak.Pointer[retained] {
	r := &retained{}
	require.NoError(t, p.Go(Low, func() { f(); r.self = r }))
	return weak.Make(r)
}

// With more of these in two lines each, an empty task took up to 10 % longer.
func TestWhatEachTaskNeedsIsInOneCacheLine(t *testing.T) {
	if strconv.IntSize < 64 {
		t.Skip("the layout is made for 64 bits")
	}
	const line = uintptr(len(cacheLine{}))
	at := func(field any) uintptr { return reflect.ValueOf(field).Pointer() }
	for range 10 {
		p, gate := occupiedPool(t)
		p.lock()
		w := p.crew.all[0]
		p.unlock()
		in, r := &p.inbox, &p.burst
		require.Zero(t, at(&in.mu)%line, "arrivals")
		require.Less(t, at(&in.spans)+reflect.TypeOf(in.spans).Size()-1, at(&in.mu)+line)
		require.Zero(t, at(&p.mu)%line, "mu: change gapBeforeMu")
		require.Less(t, at(r)+reflect.TypeOf(*r).Size()-1, at(&p.mu)+line)
		for _, field := range []any{&w.job, &w.attempt, &w.priority, &w.jobs} {
			require.Equal(t, at(&w.pool)/line, (at(field)+reflect.TypeOf(field).Elem().Size()-1)/line)
		}
		require.Equal(t, at(&in.least)/line, at(&in.most)/line)
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
	}
}

// The bounds are classes of allocations: what is larger takes the next, and clearing it
// takes longer.
func TestAHandleWithItsAttemptFitsItsClassOfAllocations(t *testing.T) {
	if strconv.IntSize < 64 {
		t.Skip("the layout is made for 64 bits")
	}
	h := newHandle(context.Background())
	handle, attempt := reflect.TypeOf(h).Elem().Size(), reflect.TypeOf(h.first).Elem().Size()
	require.LessOrEqual(t, handle, uintptr(288), "with a context that can end it is alone")
	require.LessOrEqual(t, attempt, uintptr(144), "likewise")
	require.LessOrEqual(t, handle+attempt, uintptr(416))
}

// The handle keeps a task in another form. Nothing of it is lost, whichever field alone is set.
func TestAHandleKeepsAllOfItsTask(t *testing.T) {
	fill := func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Int, reflect.Int64:
			v.SetInt(7)
		case reflect.Func:
			v.Set(reflect.MakeFunc(v.Type(), nil))
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		default:
			v.Set(reflect.ValueOf(time.Unix(7, 0))) // panics if it is no time
		}
	}
	whole := func(task Task) Task {
		h := &Handle{task: newPattern(&task, task.Run)}
		h.priority = task.Priority
		return h.wholeTask()
	}
	fields := 0
	for i := range reflect.TypeFor[Task]().NumField() {
		inner := 1
		if reflect.TypeFor[Task]().Field(i).Type == reflect.TypeFor[Retry]() {
			inner = reflect.TypeFor[Retry]().NumField()
		}
		for j := range inner {
			var task Task
			at := func(task *Task) reflect.Value {
				v := reflect.ValueOf(task).Elem().Field(i)
				if inner > 1 {
					v = v.Field(j)
				}
				return v
			}
			fill(at(&task))
			kept := whole(task)
			require.Equal(t, fmt.Sprint(at(&task)), fmt.Sprint(at(&kept)), "field %d, %d", i, j) // functions by their addresses
			require.False(t, at(&kept).IsZero())
			fields++
		}
	}
	require.Greater(t, fields, 11)
	require.Equal(t, Task{}, whole(Task{}))
}

func TestOneCriticalSectionShedsABoundedNumberOfLateTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10 * maxExpired
		p, err := New(WithWorkers(1), WithQueueDelay(time.Second))
		require.NoError(t, err)
		gate := make(chan struct{})
		require.NoError(t, p.Go(Medium, func() { <-gate }))
		synctest.Wait()
		for range n {
			require.NoError(t, p.Go(Medium, func() { panic("must not run") }))
		}
		time.Sleep(time.Hour)

		p.lock()
		p.sched.delays.of[Medium].above = 1
		p.sched.slots++
		w := &worker{pool: p}
		p.dispatchLocked(w)
		require.False(t, w.busy)
		require.Equal(t, n-maxExpired, p.sched.count[StateQueued])
		p.sched.slots--
		p.unlock()

		close(gate)
		require.NoError(t, p.WaitIdle(t.Context()), "the worker comes back for the others")
		require.EqualValues(t, n, p.Stats().Expired)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// What packages around this one ask of a handle and of a goroutine.
func TestOtherPackagesAreToldWhenATaskHasSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(WithWorkers(1))
		require.NoError(t, err)
		cause := errors.New("called off")
		gate, told := make(chan struct{}), make(chan error, 2)
		require.Nil(t, remote.TaskHere())
		require.NoError(t, p.Go(Medium, func() { <-gate }))
		canceled, err := p.Submit(t.Context(), Task{Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		var here context.Context
		run, err := p.Submit(t.Context(), Task{Run: func(ctx context.Context) error {
			here = remote.TaskHere()
			info, _ := Current(ctx)
			info.Handle.Cancel(cause)
			return nil
		}})
		require.NoError(t, err)
		for _, h := range []*Handle{canceled, run} {
			require.True(t, remote.OnSettled(h, func(canceled error) { told <- canceled }))
		}
		require.Empty(t, told)
		canceled.Cancel(cause)
		require.NoError(t, <-told, "no attempt was under way")
		close(gate)
		require.Equal(t, cause, <-told)
		require.NoError(t, run.Wait(t.Context()), "it has succeeded all the same")
		require.NotNil(t, attemptFrom(here), "the goroutine was known to be the task's")
		require.False(t, remote.OnSettled(run, func(error) { t.Error("told of what had settled before") }))
		require.NoError(t, p.Shutdown(t.Context()))
	})
}
