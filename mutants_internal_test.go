//go:build invariants

package taskpool

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// The promises here were found by changing the library one thing at a time and
// looking for what no test noticed, see tools/mutate.

// With a reservation the lanes are in two classes, and there is a fair share of
// its own for the slots that only the first class may have. The reference looks
// at all tasks that a slot may have, and at nothing else.
func TestQueueWithReservationAgreesWithNaiveQueue(t *testing.T) {
	const ops = 2000
	for _, mode := range queueModes() {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(17, 19))
			reserve := Medium
			var q priorityQueue
			q.share, q.step, q.shed, q.reserve = mode.share, mode.step, mode.shed, &reserve
			q.init()

			var waiting []naiveTask
			var turn [2]uint64
			called := -1
			id := func(e entry) int {
				if e.h != nil {
					return int(e.h.id)
				}
				e.f()
				return called
			}
			order := int64(0)
			push := func(n int) {
				if order++; mode.step > 0 && rng.IntN(3) == 0 {
					order-- // at the same instant
				}
				pr := Priority(rng.IntN(7) - 3)
				task := naiveTask{id: n, priority: pr, order: order, fresh: true}
				e := entry{f: func() { called = n }, order: order}
				if kind := rng.IntN(4); kind > 0 {
					e.f, e.h = nil, &Handle{id: uint64(n)}
					if kind > 1 { // a retry, or an attempt that asks to go on
						e.h.attempts, task.fresh = 1, false
					}
					if kind > 2 {
						e.h.state, task.resuming = StateParked, rng.IntN(2) == 0
					}
				}
				task.h = e.h
				ref := naiveQueue{step: mode.step} // computes the key
				ref.push(task)
				waiting = append(waiting, ref.tasks[0])
				q.push(e, pr, task.resuming)
			}
			take := func(i int) {
				n := naiveQueue{tasks: waiting}
				n.takeAt(i)
				waiting = n.tasks
			}
			pop := func(restricted bool) {
				r := 0
				ref := naiveQueue{share: mode.share, step: mode.step, tasks: waiting}
				if restricted {
					r, ref.tasks = 1, nil
					for _, n := range waiting {
						if n.priority <= reserve {
							ref.tasks = append(ref.tasks, n)
						}
					}
				}
				ref.turn = turn[r]
				var want naiveTask
				some := len(ref.tasks) > 0
				if some {
					want = ref.tasks[ref.next()]
					if mode.share > 0 && ref.choice() {
						turn[r] = (turn[r] + 1) % mode.share
					}
				}
				l, _ := q.next(restricted)
				require.Equal(t, some, l != nil, "restricted: %v", restricted)
				e, pr, ok := q.pop(restricted)
				require.Equal(t, some, ok, "restricted: %v", restricted)
				if !some {
					return
				}
				require.Equal(t, want.id, id(e), "restricted: %v", restricted)
				require.Equal(t, want.priority, pr)
				for i := range waiting {
					if waiting[i].id == want.id {
						take(i)
						break
					}
				}
			}

			growing, restrictedPops := true, 0
			for n := range ops {
				if len(waiting) == 0 {
					growing = true
				} else if len(waiting) > 60 {
					growing = false
				}
				switch r := rng.IntN(10); {
				case r < 4 || growing && r < 6:
					push(n)
				case r < 7:
					restrictedPops++
					pop(true)
				case r < 9 || len(waiting) == 0:
					pop(false)
				default:
					if i := rng.IntN(len(waiting)); waiting[i].h != nil {
						require.Equal(t, waiting[i].h, q.remove(waiting[i].h).h)
						take(i)
					}
				}
				require.Equal(t, turn, q.turn)
				require.NoError(t, q.checkHeaps(true))
				parked := make(map[laneKey]int)
				for _, n := range waiting {
					if n.h != nil && n.h.state == StateParked {
						parked[laneKey{n.priority, n.resuming}]++
					}
				}
				for k, l := range q.lanes {
					require.Equal(t, parked[k], l.parked, "parked attempts in lane %v", k)
				}
			}
			require.Greater(t, restrictedPops, ops/20)
		})
	}
}

func TestQueueWithNothingToGiveGivesNothing(t *testing.T) {
	reserve := Medium
	for _, share := range []uint64{0, 1, 16} {
		var q priorityQueue
		q.share, q.shed, q.reserve = share, true, &reserve
		q.init()
		nothing := func(e entry, pr Priority, ok bool) {
			t.Helper()
			require.False(t, ok)
			require.False(t, e.live())
			require.Zero(t, pr)
		}
		least := func(want Priority, waits bool) {
			t.Helper()
			pr, ok := q.leastPriority()
			require.Equal(t, waits, ok)
			require.Equal(t, want, pr)
		}
		for range 3 { // as it was at first, also after tasks have come and gone
			nothing(q.pop(false))
			nothing(q.pop(true))
			nothing(q.takeShed(math.MinInt))
			least(0, false)
			q.push(entry{f: func() {}, order: 1}, Low, false)
			least(Low, true)
			nothing(q.pop(true))
			nothing(q.takeShed(Low))
			q.push(entry{h: &Handle{item: item{attempts: 1}}, order: 2}, 7, false)
			nothing(q.takeShed(Low)) // it has started
			for want := range 2 {
				_, pr, ok := q.pop(false)
				require.True(t, ok)
				require.Equal(t, []Priority{Low, 7}[want], pr)
			}
		}
	}
}

// A lane that moves along needs a new segment for each 84 tasks, and gives one
// back as often.
func TestQueueOfSteadyLengthAllocatesNothing(t *testing.T) {
	for _, depth := range []int{1, 83, 84, 85, 1000} {
		var q priorityQueue
		q.share = 16
		q.init()
		order := int64(0)
		f := func() {}
		push := func() { order++; q.push(entry{f: f, order: order}, Low, false) }
		for range depth {
			push()
		}
		q.pop(false)
		push()
		allocs := testing.AllocsPerRun(100, func() {
			for range 840 {
				push()
				q.pop(false)
			}
		})
		require.Zero(t, allocs, "840 pushes and pops with %d tasks waiting", depth)
	}
}

// Priorities that come and go share one segment.
func TestForgottenLanesLeaveTheirSegmentBehind(t *testing.T) {
	var q priorityQueue
	q.init()
	segments := make(map[*segment]bool)
	for i := range 1000 {
		q.push(entry{f: func() {}, order: int64(i)}, Priority(i), false)
		if i >= 2*keptLanes {
			segments[q.lanes[laneKey{Priority(i), false}].head] = true
		}
		q.pop(false)
		require.LessOrEqual(t, len(q.lanes), keptLanes)
	}
	require.Len(t, q.lanes, keptLanes, "so many empty lanes are kept")
	require.Len(t, segments, 1, "for 872 lanes")
}

//go:noinline
func weakLanes(q *priorityQueue) (lanes []weak.Pointer[lane]) {
	for _, l := range q.lanes {
		lanes = append(lanes, weak.Make(l))
	}
	return lanes
}

func TestForgottenLaneIsGarbageAtOnce(t *testing.T) {
	for _, mode := range []queueMode{{share: 16, shed: true}, {step: time.Second, shed: true}} {
		const priorities = 3 * keptLanes
		var q priorityQueue
		q.share, q.step, q.shed = mode.share, mode.step, mode.shed
		q.init()
		for i := range priorities {
			q.push(entry{f: func() {}, order: int64(i)}, Priority(i), false)
		}
		lanes := weakLanes(&q)
		require.Len(t, lanes, priorities)
		for range priorities {
			q.pop(false)
		}
		runtime.GC()
		kept := 0
		for _, l := range lanes {
			if l.Value() != nil {
				kept++
			}
		}
		require.Equal(t, keptLanes, kept, "share %d, step %v", mode.share, mode.step)
		runtime.KeepAlive(&q)
	}
}

// Only the front of a lane has a say in its place.
func TestRemovingFromBehindTheFrontComparesNothing(t *testing.T) {
	for _, mode := range []queueMode{{}, {share: 16}, {step: time.Second}, {step: time.Second, shed: true}} {
		var q priorityQueue
		q.share, q.step, q.shed = mode.share, mode.step, mode.shed
		q.init()
		handles := make([]*Handle, 1000)
		for i := range handles {
			handles[i] = &Handle{}
			q.push(entry{h: handles[i], order: int64(i)}, Priority(i%4), false)
		}
		n := countComparisons(&q)
		removed := 0
		for i := len(handles) - 1; i >= 4; i-- { // i < 4 are the fronts
			if i%3 > 0 {
				q.remove(handles[i])
				removed++
			}
		}
		require.Equal(t, 664, removed)
		require.Zero(t, *n, "share %d, step %v", mode.share, mode.step)
		require.NoError(t, q.checkHeaps(true))
	}
}

func TestListingTheQueueMayStopAnywhere(t *testing.T) {
	var q priorityQueue
	q.init()
	for i := range 300 {
		q.push(entry{h: &Handle{id: uint64(i)}, order: int64(i)}, Priority(i%3), i%2 == 0)
	}
	for stop := range 300 {
		seen := 0
		for range q.all() {
			if seen++; seen > stop {
				break
			}
		}
		require.Equal(t, stop+1, seen)
	}
}

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
	delayed, watched := new(dueHeap), new(watchHeap)
	for range 3 {
		delayed.add(new(Handle))
		heap.Push(watched, new(worker))
	}
	for range 3 {
		delayed.remove(delayed.first())
		heap.Pop(watched)
	}
	for i := range 3 {
		require.Nil(t, delayed.tasks[:3][i].Handle)
		require.Nil(t, (*watched)[:3][i])
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
		require.Equal(t, context.Canceled, h.canceled)
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
		require.Nil(t, settled.parent)
		require.Empty(t, p.orphans.untold)

		atDoor := &Handle{pool: p, parent: other}
		cancel(atDoor, at)
		require.Same(t, other, atDoor.parent)
		require.Equal(t, errReturned, atDoor.canceled)

		waiting := watchedTask(t, p, context.Background())
		cancel(waiting, at)
		require.Equal(t, map[*attempt]int{at: 1}, p.orphans.untold)

		justIn := watchedTask(t, p, context.Background()) // and its Submit does not know yet
		justIn.parent = other
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
