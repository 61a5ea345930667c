package lifecycle_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

var overflows = []taskpool.Overflow{taskpool.OverflowWait, taskpool.OverflowReject, taskpool.OverflowShed}

// eachOverflow runs test with each kind of overflow, in a bubble.
func eachOverflow(t *testing.T, test func(*testing.T, taskpool.Overflow)) {
	for _, o := range overflows {
		t.Run(o.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, o) })
		})
	}
}

// in returns a task that is due after d.
func in(d time.Duration) taskpool.Task {
	return taskpool.Task{NotBefore: time.Now().Add(d), Run: pooltest.Nop}
}

// submitted calls Submit on a goroutine and returns where its error comes.
func submitted(p *taskpool.Pool, t taskpool.Task) <-chan error {
	answer := make(chan error, 1)
	go func() {
		_, err := p.Submit(context.Background(), t)
		answer <- err
	}()
	synctest.Wait()
	return answer
}

func requireWaits(t *testing.T, answer <-chan error) {
	t.Helper()
	synctest.Wait()
	require.Empty(t, answer)
}

func requireNow[T any](t *testing.T, answer <-chan T) T {
	t.Helper()
	synctest.Wait()
	require.Len(t, answer, 1)
	return <-answer
}

func TestDelayedTasksTakeNoRoomFromWhatCouldRun(t *testing.T) {
	eachOverflow(t, func(t *testing.T, o taskpool.Overflow) {
		p := pooltest.New(t, taskpool.WithWorkers(4), taskpool.WithCapacity(10, o))
		for range 14 {
			pooltest.Submit(t, p, in(time.Hour))
		}
		// Workers are idle: what is urgent starts now.
		began := time.Now()
		high := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: pooltest.Nop})
		require.NoError(t, high.Wait(pooltest.Patience(t)))
		require.Equal(t, began, time.Now())

		// The whole capacity is there for what could run.
		gate := make(chan struct{})
		for range 14 {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		}
		synctest.Wait()
		s := p.Stats()
		require.Equal(t, []int{4, 10, 14}, []int{s.Running, s.Queued, s.Delayed})
		require.ErrorIs(t, p.TryGo(taskpool.Medium, func() {}), taskpool.ErrFull)
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestDelayedTasksAreBoundedApart(t *testing.T) {
	eachOverflow(t, func(t *testing.T, o taskpool.Overflow) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(3, o))
		gate := make(chan struct{})
		for range 5 { // all that may run and wait
			pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { <-gate; return nil }})
		}
		var delayed []*taskpool.Handle
		for range 5 { // capacity and workers
			delayed = append(delayed, pooltest.Submit(t, p, in(time.Hour)))
		}
		one := in(time.Hour)
		one.Priority = taskpool.High
		answer := submitted(p, one)
		if o == taskpool.OverflowWait {
			requireWaits(t, answer)
			require.Equal(t, 1, p.Stats().SubmittersWaiting)
			require.True(t, delayed[0].Cancel(nil))
			require.NoError(t, requireNow(t, answer), "the room of one that was canceled")

			answer = submitted(p, one)
			requireWaits(t, answer)
			require.NoError(t, p.Resize(3))
			require.NoError(t, requireNow(t, answer), "room with one worker more")

			answer = submitted(p, in(2*time.Hour))
			time.Sleep(time.Hour)
			requireWaits(t, answer) // the others are due, but have not started
			close(gate)
			require.NoError(t, requireNow(t, answer))
		} else {
			require.ErrorIs(t, requireNow(t, answer), taskpool.ErrFull)
			close(gate)
		}
		s := p.Stats()
		require.Zero(t, s.Shed, "nothing is shed for what cannot run")
		require.NoError(t, p.Shutdown(context.Background()))
		require.Zero(t, p.Stats().Shed)
	})
}

// A submitter of a delayed task that waits for room stands in nobody's way.
func TestSubmittersOfDelayedTasksHoldUpNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		pooltest.Submit(t, p, in(time.Hour))
		first := in(time.Hour)
		first.Priority = taskpool.High
		delayed := submitted(p, first)
		requireWaits(t, delayed)

		gate := make(chan struct{})
		require.NoError(t, requireNow(t, submitted(p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})))
		low := submitted(p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
		requireWaits(t, low)
		close(gate)
		require.NoError(t, requireNow(t, low))
		requireWaits(t, delayed)
		time.Sleep(time.Hour)
		require.NoError(t, requireNow(t, delayed))
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestOfSubmittersOfDelayedTasksTheFirstDueIsLetInFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		holder := pooltest.Submit(t, p, in(time.Hour))
		after := []time.Duration{5 * time.Hour, 3 * time.Hour, 4 * time.Hour, 3 * time.Hour}
		admitted := make(chan int, len(after))
		handles := make([]*taskpool.Handle, len(after))
		for i, d := range after {
			go func() {
				task := in(d)
				task.Priority = taskpool.Priority(-i) // counts when it is due
				h, err := p.Submit(context.Background(), task)
				if err == nil {
					handles[i] = h
					admitted <- i
				}
			}()
			synctest.Wait()
		}
		for _, want := range []int{1, 3, 2, 0} { // of those due at one time, in order of arrival
			require.Empty(t, admitted)
			require.True(t, holder.Cancel(nil))
			require.Equal(t, want, requireNow(t, admitted))
			holder = handles[want]
		}
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestASubmitterWhoseTaskBecomesDueWaitsForItNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		pooltest.Submit(t, p, in(time.Hour))
		began := time.Now()
		var started []string
		task := func(name string, due time.Duration, pr taskpool.Priority) taskpool.Task {
			t := in(due)
			t.Name, t.Priority = name, pr
			t.Run = func(context.Context) error {
				started = append(started, fmt.Sprint(name, " ", time.Since(began)))
				time.Sleep(time.Second)
				return nil
			}
			return t
		}
		for _, task := range []taskpool.Task{
			task("low", time.Second, taskpool.Low), task("high", time.Second+1, taskpool.High), task("lone", time.Minute, taskpool.Medium),
		} {
			requireWaits(t, submitted(p, task))
		}
		// The first runs when it is due. When it has, the more urgent of those
		// that are due by then comes first, as among all submitters.
		more := task("medium", time.Second+2, taskpool.Medium)
		requireWaits(t, submitted(p, more))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"low 1s", "high 2s", "medium 3s", "lone 1m0s"}, started)
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

// What is due joins the queue, full or not. As it counts among the delayed until it
// starts, the queue has a bound all the same.
func TestDelayedTasksThatBecomeDueJoinAFullQueue(t *testing.T) {
	eachOverflow(t, func(t *testing.T, o taskpool.Overflow) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(2, o))
		gate := make(chan struct{})
		for range 3 {
			pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		}
		for range 3 {
			pooltest.Submit(t, p, in(time.Minute))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		s := p.Stats()
		require.Equal(t, []int{1, 5, 0}, []int{s.Running, s.Queued, s.Delayed})
		require.ErrorIs(t, p.TryGo(taskpool.Low, func() {}), taskpool.ErrFull)
		for i := range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			task := in(time.Millisecond * time.Duration(i+2))
			answer := make(chan error, 1)
			go func() { _, err := p.Submit(ctx, task); answer <- err }()
			time.Sleep(time.Millisecond)
			cancel()
			require.Error(t, requireNow(t, answer))
			require.Equal(t, 5, p.Stats().Queued)
		}
		close(gate)
		require.NoError(t, p.Shutdown(context.Background()))
		require.EqualValues(t, 6, p.Stats().Succeeded)
	})
}

// Else they would pile up without a bound while what all tasks need is down.
func TestTasksThatWaitForARetryTakeRoomAsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithCapacity(3, taskpool.OverflowReject))
		failing := taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
			Run:   func(context.Context) error { return pooltest.ErrTask },
		}
		for range 5 {
			pooltest.Submit(t, p, failing)
			synctest.Wait()
		}
		require.Equal(t, 5, p.Stats().Delayed)
		_, err := p.Submit(context.Background(), failing)
		require.ErrorIs(t, err, taskpool.ErrFull)
		pooltest.Submit(t, p, in(time.Minute))
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestShutdownTurnsSubmittersOfDelayedTasksAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		held := pooltest.Submit(t, p, in(time.Hour))
		outside := submitted(p, in(time.Hour))
		inside := make(chan error, 1)
		pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
			h, err := p.Submit(ctx, in(30*time.Minute)) // with its slot given back
			inside <- err
			if err == nil {
				return h.Wait(ctx)
			}
			return nil
		}})
		requireWaits(t, outside)
		requireWaits(t, inside)
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(context.Background()) }()
		require.ErrorIs(t, requireNow(t, outside), taskpool.ErrClosed)
		requireWaits(t, inside)
		require.True(t, held.Cancel(nil))
		require.NoError(t, requireNow(t, inside))
		time.Sleep(30 * time.Minute)
		require.NoError(t, requireNow(t, down))
	})
}

func TestSubmittersOfDelayedTasksGiveUpWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		pooltest.Submit(t, p, in(time.Hour))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err := p.Submit(ctx, in(time.Hour))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
		require.Zero(t, p.Stats().SubmittersWaiting)
		require.NoError(t, p.Shutdown(context.Background()))
	})
}

func TestShutdownWaitsForDelayedTasksUnlessToldOtherwise(t *testing.T) {
	for policy, want := range map[taskpool.DelayedPolicy]time.Duration{taskpool.DelayedWait: time.Hour, taskpool.DelayedCancel: time.Minute} {
		t.Run(policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				events := new(pooltest.EventLog)
				opts := []taskpool.Option{taskpool.WithWorkers(2), taskpool.WithHooks(events.Hooks())}
				if policy != taskpool.DelayedWait {
					opts = append(opts, taskpool.WithDelayedAtShutdown(policy))
				}
				p := pooltest.New(t, opts...)
				away := pooltest.Submit(t, p, in(time.Hour))
				first := true
				retried := pooltest.Submit(t, p, taskpool.Task{
					NotBefore: time.Now().Add(time.Millisecond),
					Retry:     taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }},
					Run: func(context.Context) error {
						if first {
							first = false
							return pooltest.ErrTask
						}
						return nil
					}})
				// One that waits for it, so that both go on.
				waits := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { _ = away.Wait(ctx); return nil }})
				time.Sleep(time.Millisecond)
				synctest.Wait()
				began := time.Now()
				down := make(chan error, 1)
				go func() { down <- p.Shutdown(context.Background()) }()
				synctest.Wait()
				canceled := 0
				if policy == taskpool.DelayedCancel {
					canceled = 1
					require.Equal(t, taskpool.StateCanceled, away.State(), "at once")
					require.ErrorIs(t, away.Err(), taskpool.ErrClosed)
					require.Equal(t, taskpool.StateSucceeded, waits.State())
				}
				require.NoError(t, <-down)
				require.WithinRange(t, time.Now(), began.Add(want-time.Millisecond), began.Add(want))
				require.Equal(t, taskpool.StateSucceeded, retried.State(), "what waits for a retry is waited for")
				s := p.Stats()
				require.EqualValues(t, canceled, s.Canceled)
				require.EqualValues(t, 3-canceled, s.Succeeded)
				pooltest.RequireConserved(t, s)
				require.Len(t, events.Named("Finished"), 3)
			})
		})
	}
}

func TestShutdownThatCancelsDelayedTasksTakesNoMoreOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait),
			taskpool.WithDelayedAtShutdown(taskpool.DelayedCancel))
		gate := make(chan struct{})
		inside := make(chan error, 1)
		inAdmission := make(chan error, 1)
		pooltest.Submit(t, p, taskpool.Task{Name: "submits", Run: func(ctx context.Context) error {
			pooltest.Submit(t, p, in(time.Hour))
			_, err := p.Submit(ctx, in(time.Hour)) // waits for room
			inAdmission <- err
			<-gate
			_, err = p.Submit(ctx, in(time.Hour))
			inside <- err
			h, err := p.Submit(ctx, in(0)) // due, so it is part of what was accepted
			if err != nil {
				return err
			}
			return h.Wait(ctx)
		}})
		requireWaits(t, inAdmission)
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(context.Background()) }()
		require.ErrorIs(t, requireNow(t, inAdmission), taskpool.ErrClosed)
		close(gate)
		require.ErrorIs(t, requireNow(t, inside), taskpool.ErrClosed)
		require.NoError(t, requireNow(t, down))
		s := p.Stats()
		require.Equal(t, []uint64{3, 2, 1}, []uint64{s.Submitted, s.Succeeded, s.Canceled})
	})
}

func TestDelayedTasksCanceledByShutdownAreNotUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithDelayedAtShutdown(taskpool.DelayedCancel))
		for i := range 100 {
			pooltest.Submit(t, p, in(time.Hour*time.Duration(1+i%7)))
		}
		pooltest.Submit(t, p, taskpool.Task{Name: "runs", Run: pooltest.UntilEnd})
		synctest.Wait()
		left := requireShutdownError(t, p.Shutdown(pooltest.EndedContext()))
		require.Len(t, left, 1)
		require.Contains(t, left, "runs")
		require.EqualValues(t, 101, p.Stats().Canceled)
	})
}
