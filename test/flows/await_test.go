package flows_test

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

// The packages around the pool wait with remote.Await for what other tasks bring about.

func TestAwaitGivesThePlaceInTheFlowBackAndGoesOnWhenItHasOneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2), limit(1))
		came := make(chan struct{})
		var wentOn, ended time.Time
		pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: func(ctx context.Context) error {
			err := remote.Await(ctx, func() error { <-came; return nil })
			wentOn = time.Now()
			return err
		}})
		pooltest.Submit(t, p, taskpool.Task{Flow: "A", Run: func(context.Context) error {
			close(came)
			time.Sleep(time.Second)
			ended = time.Now()
			return nil
		}})
		pooltest.Drain(t, p)
		require.Equal(t, ended, wentOn)
	})
}

func TestAwaitGivesTheSlotBackHoweverManyTasksAreParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithMaxParked(1))
		began := time.Now()
		came := make(chan struct{})
		for _, wait := range []func(context.Context, func() error) error{taskpool.Block, remote.Await} {
			pooltest.Submit(t, p, taskpool.Task{Timeout: time.Minute, Run: func(ctx context.Context) error {
				return wait(ctx, func() error {
					select {
					case <-came:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
			}})
			synctest.Wait()
		}
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { close(came); return nil }})
		pooltest.Drain(t, p)
		require.Zero(t, time.Since(began))
	})
}

func TestHasFlowsIsFalseOfAPoolWithAging(t *testing.T) {
	require.True(t, remote.HasFlows(pooltest.New(t)))
	require.False(t, remote.HasFlows(pooltest.New(t, taskpool.WithAging(time.Second))))
}
