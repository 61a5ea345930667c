package faults_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

var errWakeup = errors.New("wakeup: canceled")

// heapFaults are the actors' shared state.
type heapFaults struct {
	p         *taskpool.Pool
	recent    [4096]atomic.Pointer[taskpool.Handle] // tasks to cancel and to move, old and new
	finished  []atomic.Int32                        // by task ID: how often Finished was told, eight bits a state
	functions atomic.Int64                          // given to Go
	ended     atomic.Int64                          // of these, how many settled
	moved     atomic.Int64                          // moves of waiting tasks

	mu      sync.Mutex
	handles []*taskpool.Handle
	faults  []error
}

func (f *heapFaults) fault(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, err)
}

// priority returns one of 300.
func (f *heapFaults) priority(rnd *rand.Rand) taskpool.Priority {
	return taskpool.Priority(rnd.IntN(300) - 150)
}

// act takes part with a number of random operations.
func (f *heapFaults) act(actor, operations int, rnd *rand.Rand) {
	var mine []*taskpool.Handle
	for range operations {
		h := f.recent[rnd.IntN(len(f.recent))].Load()
		switch op := rnd.IntN(100); {
		case op < 40 || h == nil:
			task := taskpool.Task{Priority: f.priority(rnd), Run: f.run(rnd.IntN(16))}
			switch rnd.IntN(4) {
			case 0:
				task.Retry = taskpool.Retry{MaxAttempts: 3, Backoff: pooltest.NoWait}
			case 1:
				task.Retry = taskpool.Retry{MaxAttempts: 3, Backoff: func(n int) time.Duration { return time.Duration(n) * 10 * time.Microsecond }}
			}
			h, err := f.p.Submit(context.Background(), task)
			if err != nil {
				if !errors.Is(err, taskpool.ErrFull) {
					f.fault(err)
				}
				break
			}
			mine = append(mine, h)
			f.recent[rnd.IntN(len(f.recent))].Store(h)
		case op < 45:
			if f.p.Go(f.priority(rnd), func() { runtime.Gosched() }) == nil {
				f.functions.Add(1)
			}
		case op < 80:
			if h.SetPriority(f.priority(rnd)) {
				f.moved.Add(1)
			}
		case op < 97:
			h.Cancel(errWakeup)
		case op < 98 && actor == 0:
			f.fault(f.p.Resize(3 + rnd.IntN(4)))
		case op < 99 && actor == 0:
			f.p.Pause()
			runtime.Gosched()
			f.p.Resume()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handles = append(f.handles, mine...)
}

// run returns what a task does: it leaves the actors time to fill the queue, and
// by kind it fails, gives way or blocks.
func (f *heapFaults) run(kind int) func(context.Context) error {
	return func(ctx context.Context) error {
		for range 4 {
			runtime.Gosched()
			if kind < 4 {
				if err := taskpool.Yield(ctx); err != nil {
					return err
				}
			}
		}
		switch {
		case kind < 2:
			return taskpool.Block(ctx, func() error { runtime.Gosched(); return nil })
		case kind < 8:
			return errWakeup
		}
		return nil
	}
}

// Eight goroutines cancel and move tasks of a deep queue with 300 priorities while
// workers take from it, newcomers shed and retries return. At every sample, taken
// between any two operations, all heaps hold together.
func TestNoRaceOfQueueOperationsBreaksAHeap(t *testing.T) {
	t.Parallel()
	actors, operations := 8, max(pooltest.Times(8_000, 1_000), 500) // 64,000 at most in each of 8 rows
	const unbounded = 1 << 20
	with := func(opts ...taskpool.Option) []taskpool.Option { return opts }
	for seed, tt := range []struct {
		name     string
		capacity int
		sheds    bool
		opts     []taskpool.Option
	}{
		{"fair share", unbounded, false, nil},
		{"strict", unbounded, false, with(taskpool.WithFairShare(0))},
		{"aging", unbounded, false, with(taskpool.WithAging(time.Millisecond))},
		{"reserved", unbounded, false, with(taskpool.WithReserved(2, 0))},
		{"room, reserved", 1000, false, with(taskpool.WithCapacity(1000, taskpool.OverflowWait), taskpool.WithReserved(1, -100), taskpool.WithFairShare(3))},
		{"reject, aging, reserved", 3000, false, with(taskpool.WithCapacity(3000, taskpool.OverflowReject), taskpool.WithReserved(1, -100), taskpool.WithAging(time.Microsecond))},
		{"shed", 2000, true, with(taskpool.WithCapacity(2000, taskpool.OverflowShed), taskpool.WithFairShare(2))},
		{"shed, aging, reserved", 2000, true, with(taskpool.WithCapacity(2000, taskpool.OverflowShed), taskpool.WithAging(time.Millisecond), taskpool.WithReserved(2, 0))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const fill = 3000
			f := &heapFaults{finished: make([]atomic.Int32, fill+actors*operations+1)}
			f.p = pooltest.New(t, append(tt.opts, taskpool.WithWorkers(4), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
				if e.Task.ID == 0 {
					f.ended.Add(1)
					return
				}
				f.finished[e.Task.ID].Add(1 << (8 * (e.Task.State - taskpool.StateSucceeded)))
			}}))...)
			rnd := rand.New(rand.NewPCG(uint64(seed), 1000))
			f.p.Pause() // so that the queue is deep when the race begins
			for i := range min(tt.capacity, fill) {
				h := pooltest.Submit(t, f.p, taskpool.Task{Priority: f.priority(rnd), Run: f.run(rnd.IntN(16))})
				f.handles = append(f.handles, h)
				f.recent[i].Store(h)
			}
			require.Equal(t, min(tt.capacity, fill), f.p.Stats().Queued)
			require.Greater(t, len(f.p.Stats().Waiting), 250)
			f.p.Resume()
			var wg sync.WaitGroup
			for actor := range actors {
				wg.Go(func() { f.act(actor, operations, rand.New(rand.NewPCG(uint64(seed), uint64(actor)))) })
			}
			wg.Wait()
			require.Empty(t, f.faults, "seed %d", seed)
			require.NoError(t, f.p.Shutdown(context.Background()))

			want := make(map[taskpool.State]int) // by what their handles say
			for _, h := range f.handles {
				want[h.State()]++
			}
			got := make(map[taskpool.State]int) // by what was told
			for id := range f.finished {
				switch told := f.finished[id].Load(); told {
				case 0: // a function's number, or none's
				case 1:
					got[taskpool.StateSucceeded]++
				case 1 << 8:
					got[taskpool.StateFailed]++
				case 1 << 16:
					got[taskpool.StateCanceled]++
				case 1 << 24:
					got[taskpool.StateShed]++
				default:
					require.Failf(t, "a task settled more than once", "seed %d, task %d: %x", seed, id, told)
				}
			}
			require.Equal(t, want, got, "seed %d", seed)
			require.Equal(t, f.functions.Load(), f.ended.Load(), "functions, too, end once")
			s := f.p.Stats()
			pooltest.RequireConserved(t, s)
			require.EqualValues(t, len(f.handles)+int(f.functions.Load()), s.Submitted)
			// The race was one.
			require.Positive(t, f.moved.Load())
			require.Positive(t, s.Canceled)
			require.Positive(t, s.Retries)
			require.Positive(t, s.Parks)
			require.Equal(t, tt.sheds, s.Shed > 0)
		})
	}
}

// No lost wake-up.

// A roomRound is one round of a race between submitters who wait for room and
// something that makes room, or ends their wait. All are on their own goroutines
// from the start, so the event finds none, some or all of them waiting for room.
type roomRound struct {
	t        *testing.T
	p        *taskpool.Pool
	rnd      *rand.Rand
	capacity int
	blocked  *int // rounds in which the event found somebody waiting for room

	gates []chan struct{} // of the tasks that hold the slots
	fill  []*taskpool.Handle
	calls chan roomAnswer
}

type roomAnswer struct {
	h   *taskpool.Handle
	err error
}

const roomSubmitters = 3

// occupy starts n tasks that hold their slots.
func (r *roomRound) occupy(n int, pr taskpool.Priority) {
	for range n {
		gate := make(chan struct{})
		r.gates = append(r.gates, gate)
		started := make(chan struct{})
		pooltest.Submit(r.t, r.p, taskpool.Task{Priority: pr, Run: func(context.Context) error { close(started); <-gate; return nil }})
		<-started
	}
}

// fillUp submits n tasks, which the pool must have room for.
func (r *roomRound) fillUp(n int, pr taskpool.Priority) {
	for range n {
		r.fill = append(r.fill, pooltest.Submit(r.t, r.p, taskpool.Task{Priority: pr, Run: pooltest.Nop}))
	}
}

// open lets the tasks go that hold the slots.
func (r *roomRound) open() {
	for _, gate := range r.gates {
		close(gate)
	}
}

// submit sends n submitters on their way.
func (r *roomRound) submit(ctx context.Context, n int) {
	for range n {
		pr, calls := taskpool.Priority(r.rnd.IntN(3)-1), r.calls
		go func() {
			h, err := r.p.Submit(ctx, taskpool.Task{Priority: pr, Run: pooltest.Nop})
			calls <- roomAnswer{h, err}
		}()
	}
}

// meanwhile lets the submitters come as far as they come, and takes note whether
// that is where submitters wait.
func (r *roomRound) meanwhile() {
	for range r.rnd.IntN(6) {
		runtime.Gosched()
	}
	if r.p.Stats().SubmittersWaiting > 0 {
		*r.blocked++
	}
}

// accepted waits for n submitters who must be let in.
func (r *roomRound) accepted(n int) {
	r.t.Helper()
	for range n {
		c := <-r.calls
		require.NoError(r.t, c.err)
		r.fill = append(r.fill, c.h)
	}
}

// refused waits for n submitters who must get want.
func (r *roomRound) refused(n int, want error) {
	r.t.Helper()
	for range n {
		require.ErrorIs(r.t, (<-r.calls).err, want)
	}
}

// Each race is run 10,000 times, over all capacities. A submitter who is forgotten ends the test by its
// deadline, with the stacks of all that wait.
func TestNoSubmitterWaitsWhileThereIsRoom(t *testing.T) {
	t.Parallel()
	low := taskpool.Low
	parked := taskpool.Task{Run: func(ctx context.Context) error { return pooltest.UntilEnd(ctx) }}
	type race struct {
		name       string
		opts       []taskpool.Option
		workers    int
		capacities []int
		afresh     bool // each round needs a pool of its own
		round      func(r *roomRound)
	}
	all := []int{0, 1, 2}
	for _, race := range []race{
		{name: "the submitter's context ends", workers: 1, capacities: all, round: func(r *roomRound) {
			r.occupy(1, 0)
			r.fillUp(r.capacity, 0)
			ctx, cancel := context.WithCancelCause(context.Background())
			r.submit(ctx, 2)
			r.meanwhile()
			cancel(errWakeup)
			r.refused(2, errWakeup) // there is no room yet
			r.submit(context.Background(), 1)
			r.open()
			r.accepted(1)
		}},
		{name: "the submitter's context ends as room is made", workers: 1, capacities: all, round: func(r *roomRound) {
			r.occupy(1, 0)
			r.fillUp(r.capacity, 0)
			ctx, cancel := context.WithCancelCause(context.Background())
			patient := make(chan roomAnswer, roomSubmitters)
			impatient := r.calls
			r.submit(ctx, 2)
			r.calls = patient
			r.submit(context.Background(), 2)
			r.meanwhile()
			go cancel(errWakeup)
			r.open()
			r.accepted(2)
			for range 2 {
				c := <-impatient
				if c.err != nil {
					require.ErrorIs(r.t, c.err, errWakeup)
				} else if err := c.h.Wait(context.Background()); err != nil {
					require.ErrorIs(r.t, err, errWakeup)
				}
			}
		}},
		{name: "Shutdown", workers: 1, capacities: all, afresh: true, round: func(r *roomRound) {
			r.occupy(1, 0)
			r.fillUp(r.capacity, 0)
			r.submit(context.Background(), roomSubmitters)
			r.meanwhile()
			down := make(chan error)
			go func() { down <- r.p.Shutdown(context.Background()) }()
			r.refused(roomSubmitters, taskpool.ErrClosed)
			r.open()
			require.NoError(r.t, <-down)
		}},
		{name: "Shutdown that is cut short", workers: 1, capacities: all, afresh: true, round: func(r *roomRound) {
			h := pooltest.Submit(r.t, r.p, parked)
			r.fillUp(r.capacity, 0)
			r.submit(context.Background(), roomSubmitters)
			r.meanwhile()
			down := make(chan error)
			go func() { down <- r.p.Shutdown(pooltest.EndedContext()) }()
			r.refused(roomSubmitters, taskpool.ErrClosed)
			var e *taskpool.ShutdownError
			require.ErrorAs(r.t, <-down, &e)
			require.Len(r.t, e.Unfinished, 1+r.capacity)
			for _, h := range append(r.fill, h) {
				require.ErrorIs(r.t, h.Err(), taskpool.ErrClosed)
			}
			r.fill = nil
		}},
		{name: "Resize up", workers: 1, capacities: all, round: func(r *roomRound) {
			r.occupy(1, 0)
			r.fillUp(r.capacity, 0)
			r.submit(context.Background(), roomSubmitters)
			r.meanwhile()
			require.NoError(r.t, r.p.Resize(2+r.rnd.IntN(3)))
			r.accepted(roomSubmitters) // while the first slot is still held
			require.NoError(r.t, r.p.Resize(1))
			r.open()
		}},
		{name: "Resize down, then a task ends", workers: 2, capacities: all, round: func(r *roomRound) {
			r.occupy(2, 0)
			r.fillUp(r.capacity, 0)
			r.submit(context.Background(), roomSubmitters)
			r.meanwhile()
			resized := make(chan error)
			go func() { resized <- r.p.Resize(1) }()
			r.open()
			r.accepted(roomSubmitters)
			require.NoError(r.t, <-resized)
			require.NoError(r.t, r.p.Resize(2))
		}},
		{name: "a waiting task is canceled", workers: 1, capacities: all, round: func(r *roomRound) {
			r.p.Pause() // the free slot is one more place
			r.fillUp(1+r.capacity, 0)
			r.submit(context.Background(), roomSubmitters)
			r.meanwhile()
			n := 1 + r.rnd.IntN(1+r.capacity)
			for _, h := range r.fill[:n] {
				require.True(r.t, h.Cancel(errWakeup))
			}
			r.fill = r.fill[n:]
			r.accepted(n)
			s := r.p.Stats()
			require.Equal(r.t, 1+r.capacity, s.Queued, "as many as went")
			r.p.Resume()
			r.accepted(roomSubmitters - n)
		}},
		{name: "SetPriority moves a task to a free slot", workers: 2, capacities: []int{1, 2}, // a task must wait
			opts: []taskpool.Option{taskpool.WithReserved(1, taskpool.High)}, round: func(r *roomRound) {
				r.occupy(1, low)
				r.fillUp(r.capacity, low)
				for range r.capacity {
					go func() {
						h, err := r.p.Submit(context.Background(), taskpool.Task{Priority: low, Run: pooltest.Nop})
						r.calls <- roomAnswer{h, err}
					}()
				}
				r.meanwhile()
				for _, h := range r.fill {
					require.True(r.t, h.SetPriority(taskpool.High))
				}
				r.accepted(r.capacity) // while the slot of their own is still held
				r.open()
			}},
		{name: "a task is shed", workers: 1, capacities: []int{1, 2}, round: func(r *roomRound) {
			r.occupy(1, 0)
			r.fillUp(r.capacity, 9)
			results := make(chan error, roomSubmitters)
			go func() { // Map waits for room where Submit does not
				for _, err := range taskpool.Map(context.Background(), r.p, taskpool.Task{Priority: 9}, pooltest.UpTo(roomSubmitters), pooltest.Square) {
					results <- err
				}
			}()
			r.meanwhile()
			urgent := make(chan roomAnswer, 1)
			go func() {
				h, err := r.p.Submit(context.Background(), taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
				urgent <- roomAnswer{h, err}
			}()
			if r.rnd.IntN(2) == 0 {
				runtime.Gosched()
			}
			r.open()
			for range roomSubmitters {
				if err := <-results; err != nil {
					require.ErrorIs(r.t, err, taskpool.ErrShed)
				}
			}
			c := <-urgent
			require.NoError(r.t, c.err)
			require.NoError(r.t, c.h.Wait(context.Background()))
			for _, h := range r.fill {
				if err := h.Wait(context.Background()); err != nil {
					require.ErrorIs(r.t, err, taskpool.ErrShed)
				}
			}
			r.fill = nil
		}},
		{name: "Pause and Resume", workers: 1, capacities: all, round: func(r *roomRound) {
			r.p.Pause()
			r.fillUp(1+r.capacity, 0)
			r.submit(context.Background(), roomSubmitters)
			r.meanwhile()
			other := make(chan struct{})
			go func() { r.p.Pause(); r.p.Resume(); close(other) }()
			r.p.Resume()
			r.accepted(roomSubmitters)
			<-other
		}},
		{name: "a task waiting for room is let in", workers: 2, capacities: all, round: func(r *roomRound) {
			gate, begin, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
			holds := taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { <-gate; return nil }}
			r.fill = append(r.fill, pooltest.Submit(r.t, r.p, holds))
			r.fill = append(r.fill, pooltest.Submit(r.t, r.p, taskpool.Task{Priority: low, Run: func(ctx context.Context) error {
				<-begin
				// The child's end would wake its parent, too: it must not come first.
				h, err := r.p.Submit(ctx, taskpool.Task{Priority: low, Run: func(context.Context) error { <-returned; return nil }})
				r.calls <- roomAnswer{h, err}
				return h.Wait(ctx)
			}}))
			for range r.capacity {
				r.fill = append(r.fill, pooltest.Submit(r.t, r.p, holds))
			}
			// It takes the room that the task's slot makes, or comes too late.
			go func() {
				h, err := r.p.Submit(context.Background(), holds)
				r.calls <- roomAnswer{h, err}
			}()
			if r.rnd.IntN(4) > 0 {
				r.meanwhile()
			}
			close(begin)
			r.meanwhile()
			close(gate)
			r.accepted(2)
			close(returned)
		}},
		{name: "the parent's context ends", workers: 1, capacities: all, round: func(r *roomRound) {
			const more = 2
			children := 1 + r.capacity + more
			started := make(chan struct{})
			parent := pooltest.Submit(r.t, r.p, taskpool.Task{Run: func(ctx context.Context) error {
				close(started)
				var wg sync.WaitGroup
				for range children {
					// The first gets the slot that the parent gives back.
					wg.Go(func() {
						h, err := r.p.Submit(ctx, parked)
						r.calls <- roomAnswer{h, err}
					})
				}
				wg.Wait()
				return ctx.Err()
			}})
			<-started
			r.meanwhile()
			parent.Cancel(errWakeup)
			for range children {
				if c := <-r.calls; c.err != nil {
					require.ErrorIs(r.t, c.err, errWakeup)
				} else {
					require.ErrorIs(r.t, c.h.Wait(context.Background()), errWakeup)
				}
			}
			require.ErrorIs(r.t, parent.Wait(context.Background()), errWakeup)
		}},
	} {
		for _, capacity := range race.capacities {
			t.Run(race.name+"/capacity "+strconv.Itoa(capacity), func(t *testing.T) {
				rounds := max(pooltest.Times(10_000, 1_000), 500)/len(race.capacities) + 1
				overflow := taskpool.OverflowWait
				if race.name == "a task is shed" {
					overflow = taskpool.OverflowShed
				}
				opts := append([]taskpool.Option{taskpool.WithWorkers(race.workers), taskpool.WithCapacity(capacity, overflow)}, race.opts...)
				var p *taskpool.Pool
				rnd := rand.New(rand.NewPCG(uint64(capacity), 3))
				blocked := 0
				for range rounds {
					if p == nil {
						p = pooltest.New(t, opts...)
					}
					r := &roomRound{t: t, p: p, rnd: rnd, capacity: capacity, blocked: &blocked, calls: make(chan roomAnswer, 8)}
					race.round(r)
					for _, h := range r.fill {
						require.NoError(t, h.Wait(context.Background()))
					}
					if race.afresh {
						p = nil
						continue
					}
					require.NoError(t, p.WaitIdle(context.Background()))
					s := p.Stats()
					require.Zero(t, s.SubmittersWaiting)
					pooltest.RequireConserved(t, s)
				}
				require.Positive(t, blocked, "the event must find somebody waiting for room")
			})
		}
	}
}
