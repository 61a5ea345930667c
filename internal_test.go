//go:build invariants

package taskpool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
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
