package faults_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// A task whose work is done elsewhere is told when a sign of life is due, in time,
// and by no more than one message a Heartbeat.
func TestATaskLearnsWhenItsNextSignOfLifeIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		asked := 0
		h := pooltest.Submit(t, p, taskpool.Task{
			Heartbeat: time.Second,
			Run: func(ctx context.Context) error {
				task := remote.WaiterOf(ctx)
				for range 10 {
					select {
					case <-task.BeatDue():
						asked++
						select {
						case <-task.BeatDue():
						default:
							t.Error("it is due until it has come")
						}
						time.Sleep(900 * time.Millisecond)
						taskpool.Beat(ctx)
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
				<-task.BeatDue()
				asked++
				<-ctx.Done() // no sign of life any more
				return context.Cause(ctx)
			},
		})
		began := time.Now()
		require.ErrorIs(t, h.Wait(context.Background()), taskpool.ErrHung)
		require.Equal(t, 11, asked)
		require.Equal(t, 11*time.Second, time.Since(began))
	})
}

func TestNoSignOfLifeIsDueWithoutAHeartbeat(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	h := pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
		require.Nil(t, remote.WaiterOf(ctx).BeatDue())
		return nil
	}})
	require.NoError(t, h.Wait(context.Background()))
	require.Nil(t, remote.WaiterOf(context.Background()))
}

// A distantTask is what the context of a function in a child process names.
type distantTask struct {
	context.Context
	beats int
}

func (d *distantTask) Beat() { d.beats++ }
func (d *distantTask) Value(key any) any {
	if key == remote.WorkerKey {
		return d
	}
	return d.Context.Value(key)
}

func TestYieldAndBeatAreSignsOfLifeOfATaskElsewhere(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	d := &distantTask{Context: ctx}
	require.NoError(t, taskpool.Yield(d))
	taskpool.Beat(d)
	taskpool.Beat(context.WithValue(d, distantTask{}, 1))
	require.Equal(t, 3, d.beats)
	cancel(taskpool.ErrTimeout)
	require.Equal(t, taskpool.ErrTimeout, taskpool.Yield(d))

	// A task of a pool in that process beats for itself.
	p := pooltest.New(t, taskpool.WithWorkers(1))
	h, err := p.Submit(&distantTask{Context: context.Background()}, taskpool.Task{Run: func(ctx context.Context) error {
		return taskpool.Yield(ctx)
	}})
	require.NoError(t, err)
	require.NoError(t, h.Wait(context.Background()))
}
