package waits_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMembersOfAGroupMayDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		g := p.Group(t.Context(), taskpool.Task{Name: "pattern", Priority: taskpool.Low, Timeout: time.Second})
		p.Pause()
		var ran []string
		run := func(ctx context.Context) error {
			info, _ := taskpool.Current(ctx)
			ran = append(ran, info.String())
			return nil
		}
		g.Go(run)
		g.GoTask(taskpool.Task{Run: run})
		g.GoTask(taskpool.Task{Name: "urgent", Priority: taskpool.High, Flow: "f", Run: run})
		g.GoTask(taskpool.Task{Name: "fails once", Run: func(ctx context.Context) error {
			_ = run(ctx)
			if info, _ := taskpool.Current(ctx); info.Attempt == 1 {
				return pooltest.ErrTask
			}
			return nil
		}, Retry: taskpool.Retry{MaxAttempts: 2}})
		p.Resume()
		require.NoError(t, g.Wait())
		require.Equal(t, []string{
			`task 3 "urgent" (high, flow "f", running)`,
			`task 2 (medium, running)`,
			`task 4 "fails once" (medium, running)`,
			`task 1 "pattern" (low, running)`,
			`task 4 "fails once" (medium, running, attempt 2)`,
		}, ran)
		pooltest.Drain(t, p)
	})
}

func TestGoTaskIsGoOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))

		g := p.Group(t.Context(), taskpool.Task{})
		g.GoTask(taskpool.Task{Run: pooltest.UntilEnd})
		g.GoTask(taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask }})
		require.Equal(t, pooltest.ErrTask, g.Wait())
		g.GoTask(taskpool.Task{Run: pooltest.MustNotRun})
		require.Equal(t, pooltest.ErrTask, g.Wait())

		g = p.Group(t.Context(), taskpool.Task{})
		g.GoTask(taskpool.Task{Run: pooltest.MustNotRun, Timeout: -1})
		require.EqualError(t, g.Wait(), "taskpool: Task.Timeout must not be negative, got -1ns")

		g = p.Group(t.Context(), taskpool.Task{})
		require.NoError(t, g.Wait())
		g.GoTask(taskpool.Task{Run: pooltest.MustNotRun})
		require.EqualError(t, g.Wait(), "taskpool: Group.GoTask: the group is over, Wait has returned")

		g = p.Group(t.Context(), taskpool.Task{})
		require.PanicsWithValue(t, "taskpool: Group.GoTask: Task.Run must not be nil", func() { g.GoTask(taskpool.Task{}) })

		g = p.Group(t.Context(), taskpool.Task{Run: pooltest.MustNotRun}) // which Go does not allow
		g.GoTask(taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, g.Wait())

		g = p.Group(t.Context(), taskpool.Task{})
		g.SetLimit(1)
		began := time.Now()
		g.GoTask(sleepFor(time.Second))
		g.GoTask(sleepFor(time.Second)) // waits for the first
		require.Equal(t, time.Second, time.Since(began))
		require.NoError(t, g.Wait())
		pooltest.Drain(t, p)
	})
}

func TestGroupThatCollectsErrorsCancelsNobodyAndReturnsThemAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		g := p.Group(t.Context(), taskpool.Task{})
		g.CollectErrors()
		var done atomic.Int32
		var want []error
		for i := range 10 {
			err := fmt.Errorf("error %d", i)
			if i%2 == 0 {
				err = nil
			} else {
				want = append(want, err)
			}
			g.Go(func(ctx context.Context) error {
				time.Sleep(time.Duration(i+1) * time.Second)
				if ctx.Err() == nil {
					done.Add(1)
				}
				return err
			})
		}
		g.Go(func(context.Context) error { time.Sleep(time.Hour); panic("boom") })
		require.Equal(t, "group (11 in flight)", g.String())
		time.Sleep(7 * time.Second)
		require.Equal(t, "group (7 in flight, 2 failed)", g.String())
		err := g.Wait()
		require.EqualValues(t, 10, done.Load())
		joined, ok := err.(interface{ Unwrap() []error })
		require.True(t, ok)
		all := joined.Unwrap()
		require.Len(t, all, 6)
		require.Equal(t, want, all[:5])
		var panicked *taskpool.PanicError
		require.ErrorAs(t, err, &panicked)

		g.Go(pooltest.MustNotRun)
		g.GoTask(taskpool.Task{Run: pooltest.MustNotRun}) // the first says enough
		again := g.Wait()
		require.ErrorIs(t, again, want[0])
		require.Len(t, again.(interface{ Unwrap() []error }).Unwrap(), 7)
		require.ErrorContains(t, again, "taskpool: Group.Go: the group is over, Wait has returned")
		require.EqualValues(t, 2, p.Stats().Refused)
		pooltest.Drain(t, p)
	})
}

func TestGroupThatCollectsErrorsEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		ctx, cancel := context.WithCancelCause(t.Context())
		g := p.Group(ctx, taskpool.Task{})
		g.CollectErrors()
		g.SetLimit(3)
		g.Go(func(context.Context) error { return pooltest.ErrTask })
		g.Go(pooltest.UntilEnd)
		g.Go(pooltest.MustNotRun)
		synctest.Wait()
		time.AfterFunc(time.Second, func() { cancel(pooltest.ErrCause) })
		g.Go(pooltest.Nop)        // there is room for it, as the first has failed
		g.Go(pooltest.MustNotRun) // waits at the limit
		err := g.Wait()
		require.ErrorIs(t, err, pooltest.ErrTask)
		require.ErrorIs(t, err, pooltest.ErrCause)
		require.Len(t, err.(interface{ Unwrap() []error }).Unwrap(), 5)
		pooltest.Drain(t, p)
	})
}

func TestGroupWhoseErrorsAreCollectedMayHaveNone(t *testing.T) {
	p := pooltest.New(t)
	g := p.Group(t.Context(), taskpool.Task{})
	g.CollectErrors()
	g.Go(pooltest.Nop)
	require.NoError(t, g.Wait())
	require.PanicsWithValue(t, "taskpool: Group.CollectErrors: the group has had members already", g.CollectErrors)
}

func TestMemberThatIsNotAcceptedIsOneOfTheErrorsCollected(t *testing.T) {
	p := pooltest.New(t)
	g := p.Group(t.Context(), taskpool.Task{})
	g.CollectErrors()
	g.GoTask(taskpool.Task{Run: pooltest.MustNotRun, MaxWait: -1})
	g.Go(func(context.Context) error { return pooltest.ErrTask })
	err := g.Wait()
	require.ErrorIs(t, err, pooltest.ErrTask)
	require.ErrorContains(t, err, "Task.MaxWait must not be negative")
	g = p.Group(t.Context(), taskpool.Task{})
	g.CollectErrors()
	require.NoError(t, p.Shutdown(context.Background()))
	g.Go(pooltest.MustNotRun)
	require.True(t, errors.Is(g.Wait(), taskpool.ErrClosed))
}
