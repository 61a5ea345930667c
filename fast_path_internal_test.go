package taskpool

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

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
						if e.Task.State == Canceled {
							finished++
						}
					}}))
					require.NoError(t, err)
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
					p.arrivals.mu.Lock()
					require.Equal(t, n, p.arrivals.n)
					handles[canceled].canceled = cause
					p.arrivals.mu.Unlock()
					p.mu.Unlock()
					require.NoError(t, p.CheckQueue())
					require.Equal(t, Canceled, handles[canceled].State())
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
						require.Equal(t, Succeeded, h.State())
						require.Equal(t, 1, ran[i])
					}
				})
			}
		}
	}
}

// A task is ready if it found a slot free when it arrived, and then nothing passes
// it. So there are no more of these than there are free slots.
func TestNoMoreTasksAreReadyThanSlotsAreFree(t *testing.T) {
	p, err := New(WithWorkers(2))
	require.NoError(t, err)
	p.lock() // nobody takes anything in
	for i := range 5 {
		require.NoError(t, p.Go(Low, func() {}))
		require.True(t, p.arrivals.courtesy.woken == (i == 0), "the first wakes the scout")
		p.takeInLocked()
		require.Equal(t, min(i+1, 2), p.ready.len())
		require.Equal(t, max(i-1, 0), p.queue.n)
	}
	p.restoreLocked()
	p.unlock()
	require.NoError(t, p.Shutdown(context.Background()))
}

// A batch that finds slots free loses its first tasks to them, and the rest stays
// where it is.
func TestABatchThatFindsSlotsFreeIsASegmentToo(t *testing.T) {
	for _, n := range []int{worthWhole, maxArrivals} {
		p, err := New(WithWorkers(3))
		require.NoError(t, err)
		gate := make(chan struct{})
		p.lock() // nobody takes anything in
		for range n {
			require.NoError(t, p.Go(Low, func() { <-gate }))
		}
		p.takeInLocked()
		l := p.queue.lane(laneKey{Low, false})
		require.Same(t, l.head, l.tail)
		require.Equal(t, batchSize, l.head.size)
		require.Equal(t, []int32{3, int32(n), int32(n - 3)}, []int32{l.head.head, l.head.tail, l.head.live})
		p.restoreLocked()
		p.unlock()
		require.NoError(t, p.CheckQueue())
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
	}
}

// Between a scout's being woken and its first look, the others find its work done.
func TestWhoeverLocksThePoolFindsAReadyTaskRunning(t *testing.T) {
	p, err := New(WithWorkers(2))
	require.NoError(t, err)
	for range 1000 {
		done := make(chan struct{})
		p.mu.Lock()
		require.NoError(t, p.Go(Low, func() { <-done }))
		p.takeInLocked()
		require.True(t, p.scoutUp)
		p.mu.Unlock()
		p.lock() // before the scout, or after it
		require.Equal(t, 1, p.count[Running])
		p.unlock()
		close(done)
		require.NoError(t, p.WaitIdle(context.Background()))
	}
	require.NoError(t, p.Shutdown(context.Background()))
}

// Whether submitters let others run costs time only, so these tests look at the
// decision itself.
func TestSubmittersLetOthersRunWhileTasksAreShort(t *testing.T) {
	const enough, tooFew = maxArrivals / 2, maxArrivals/2 - 1
	var c courtesy
	require.False(t, c.due(), "nothing is known yet")
	c.woken = true
	require.True(t, c.due(), "the scout needs a processor")
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
	next := func(c *courtesy, since uint64, away time.Duration) {
		c.away = away
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
			c := courtesy{started: started, brisk: true}
			next(&c, test.since, test.away)
			require.Equal(t, !test.tooLong, c.due())
			require.Zero(t, c.away, "a new account begins")
			if !test.tooLong {
				return
			}
			for range stubbornness {
				c.woken = true
				require.False(t, c.due())
				next(&c, 0, 0)
			}
			c.woken = true
			require.True(t, c.due(), "the scout has a claim again")
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
		p.arrivals.mu.Lock()
		require.False(t, p.arrivals.courtesy.due())
		require.Zero(t, p.arrivals.courtesy.away)
		p.arrivals.mu.Unlock()
	}
	p.arrivals.mu.Lock()
	require.Equal(t, uint64(1), p.arrivals.courtesy.started)
	p.arrivals.letOthersRun()
	require.Positive(t, p.arrivals.courtesy.away)
	p.arrivals.mu.Unlock()
	close(gate)
	require.NoError(t, p.Shutdown(context.Background()))
}

// Two submitters may hand in their tasks in another order than they have read the
// clock, and a worker may have read it meanwhile.
func TestWithAgeingOrdersOfArrivalsNeverDecrease(t *testing.T) {
	p, gate := occupiedPool(t, WithAging(time.Hour))
	p.mu.Lock() // nobody takes anything in
	p.takeInLocked()
	const late, later = int64(time.Hour), 2 * int64(time.Hour)
	p.arrivals.mu.Lock()
	p.arrivals.latest = late
	p.arrivals.mu.Unlock()
	for range 3 {
		require.NoError(t, p.Go(Low, func() {}))
	}
	p.arrivals.mu.Lock()
	for i := range 3 {
		require.Equal(t, late, p.arrivals.batch.slots[i].order)
	}
	p.arrivals.batch.slots[2].order = later + 1 // read after the worker's
	p.arrivals.mu.Unlock()
	p.seq = later
	p.takeInLocked()
	var orders []int64
	for _, e := range p.queue.all() {
		orders = append(orders, e.order)
	}
	require.Equal(t, []int64{later, later, later + 1}, orders)
	require.Zero(t, p.spare.base, "with ageing it stays so")
	require.Zero(t, p.spare.handles)
	require.Equal(t, later+1, p.seq)
	p.restoreLocked()
	p.unlock()
	require.NoError(t, p.CheckQueue())
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
			require.NoError(t, p.CheckQueue())
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
			require.NoError(t, p.CheckQueue())
			close(gate)
			require.NoError(t, p.Shutdown(context.Background()))
			// One worker, and with a fair share the oldest has a turn now and then.
			require.ElementsMatch(t, want, ran)
			for i, h := range handles {
				require.Equal(t, i%3 == 0, h.State() == Canceled)
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

// awaitSupervisor waits until the supervisor has had its first turn, in which it
// takes in what has arrived, and all is idle.
func awaitSupervisor(t *testing.T, p *Pool) {
	t.Helper()
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
			require.Equal(t, 9, p.queue.n)
			p.unlock()
			if inRun {
				for range 2 { // the second of these is taken from a run
					step <- struct{}{}
					<-started
				}
				p.mu.Lock()
				require.NotNil(t, p.run.lane)
				p.mu.Unlock()
			}
			require.NoError(t, p.Go(Low, func() {}))
			p.arrivals.mu.Lock()
			require.Equal(t, 1, p.arrivals.n)
			p.arrivals.mu.Unlock()
			require.Zero(t, p.queue.turn[0])
			step <- struct{}{}
			<-started
			p.mu.Lock()
			require.Equal(t, uint64(1), p.queue.turn[0])
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

// A scout that finds the last task canceled as it takes it in may be dismissed
// while it looks, and then nobody wakes it any more.
func TestAScoutThatIsDismissedWhileItLooksEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which reports a goroutine that stays
		p, err := New(WithWorkers(1))
		require.NoError(t, err)
		synctest.Wait()
		p.mu.Lock()
		h, err := p.Submit(context.Background(), Task{Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		p.arrivals.mu.Lock()
		h.canceled = context.Canceled // as cancel does
		p.arrivals.closed = true      // as Shutdown does
		p.arrivals.mu.Unlock()
		p.closed = true
		p.mu.Unlock()
		synctest.Wait()
		require.NoError(t, p.Shutdown(context.Background()))
		require.Equal(t, Canceled, h.State())
	})
}
