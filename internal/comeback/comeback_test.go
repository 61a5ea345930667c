package comeback_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/comeback"
)

func TestTimesAreSpreadAndBounded(t *testing.T) {
	for _, test := range []struct{ wait, least, most time.Duration }{
		{0, time.Second, 2 * time.Second},
		{-time.Hour, time.Second, 2 * time.Second},
		{10 * time.Second, 10 * time.Second, 20 * time.Second},
		{1 << 62, 30 * time.Minute, time.Hour},
	} {
		seen := make(map[time.Duration]bool)
		for range 1000 {
			d := comeback.After(test.wait)
			require.GreaterOrEqual(t, d, test.least)
			require.LessOrEqual(t, d, test.most)
			require.Zero(t, d%time.Second)
			seen[d] = true
		}
		require.Greater(t, len(seen), 1, "no jitter")
	}
}

func TestAnExpectationHoldsForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(1))
		require.NoError(t, err)
		var w comeback.Waits
		require.Zero(t, w.Expected(p, 0, "a"))
		goOn := make(chan struct{})
		for range 3 {
			_, err := p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { <-goOn; return nil }})
			require.NoError(t, err)
		}
		time.Sleep(999 * time.Millisecond)
		require.Zero(t, w.Expected(p, 0, "a"))
		require.Positive(t, w.Expected(p, 0, "b"))
		time.Sleep(time.Millisecond)
		require.Positive(t, w.Expected(p, 0, "a"))
		for i := range 5000 { // memory is bounded
			w.Expected(p, 0, fmt.Sprint(i))
		}
		require.LessOrEqual(t, w.Kept(), 1000)
		close(goOn)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}
