package dashboard

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

// Whoever looks takes a part in the same curves.
func TestTotalsAreInOrderHoweverManyLook(t *testing.T) {
	d, err := New()
	require.NoError(t, err)
	p, err := taskpool.New(taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	require.NoError(t, d.Watch(p))
	stop := make(chan struct{})
	var busy, looking sync.WaitGroup
	busy.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = p.Go(taskpool.Medium, func() {})
			if i%64 == 0 {
				runtime.Gosched()
			}
		}
	})
	for range 6 {
		looking.Go(func() {
			for range 50 {
				d.snapshot(0)
			}
		})
	}
	looking.Wait()
	close(stop)
	busy.Wait()
	points := d.find(1).points
	require.Greater(t, len(points), 50)
	for i := range points[1:] {
		before, after := points[i], points[i+1]
		require.False(t, after.at.Before(before.at))
		require.GreaterOrEqual(t, after.stats.Succeeded, before.stats.Succeeded)
	}
	require.NoError(t, p.Shutdown(context.Background()))
}

// A mistake in here must not end the program that is looked at.
func TestPanicOfTheSamplerEndsTheStreamsAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := New()
		require.NoError(t, err)
		c, err := d.enter(false)
		require.NoError(t, err)
		p, err := taskpool.New()
		require.NoError(t, err)
		noView := func(*taskpool.Pool) *watched { return nil }
		require.NoError(t, d.pools.Watch(rules, []*taskpool.Pool{p}, noView))
		<-c.dropped
		d.exit(c)
		require.True(t, d.pools.Unwatch(p))
		require.NoError(t, p.Shutdown(t.Context()))
		c, err = d.enter(false)
		require.NoError(t, err)
		d.exit(c)
	})
}

// The page would keep it alive; TestPageKeepsNothingOfTheTasksInItAlive is about the rest.
func TestListHoldsNoErrorOnceItIsCut(t *testing.T) {
	var l taskList
	for i := range 2 * maxListed {
		l.Tasks = append(l.Tasks, taskView{ID: uint64(i), err: errors.New("private")})
	}
	l.cut(2 * maxListed)
	require.Equal(t, maxListed, l.More)
	require.Equal(t, maxListed, len(l.Tasks))
	for i, v := range l.Tasks {
		require.EqualValues(t, i, v.ID)
		require.NoError(t, v.err)
		require.Equal(t, "(a *errors.errorString, of which no hook has told)", v.Err)
	}
}
