package taskpool_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestLooksLeaveNothingBehindForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, release := pooltest.Occupied(t)
		for range 10 {
			p.Stats()
		}
		require.Zero(t, p.Marks(), "nothing waits")
		require.NoError(t, p.Go(taskpool.Medium, func() {}))
		for range 10 {
			time.Sleep(time.Second)
			p.Stats()
		}
		require.Equal(t, 1, p.Marks(), "nothing has come since the first look")
		for range 10_000 {
			require.NoError(t, p.Go(taskpool.Medium, func() {}))
			time.Sleep(time.Second)
			p.Stats()
		}
		require.Less(t, p.Marks(), 1025)
		release()
		require.NoError(t, p.WaitIdle(t.Context()))
		p.Stats()
		require.Zero(t, p.Marks())
	})
}
