package taskpool_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// It must not wake the processor for ever, nor take years of virtual time in a test.
func TestAStallThatLastsIsLookedAfterLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		var log pooltest.LogRecorder
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(grace))
		gate := make(chan struct{})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { <-gate; return nil }})
		time.Sleep(2*grace + 1)
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		require.LessOrEqual(t, p.UntilNextLook(), 2*grace)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		for range 16 {
			if p.UntilNextLook() > 15*grace {
				break
			}
			time.Sleep(grace)
			synctest.Wait()
		}
		require.Greater(t, p.UntilNextLook(), 15*grace)
		require.LessOrEqual(t, p.UntilNextLook(), 16*grace)

		gate <- struct{}{} // the second is at work, and a third waits: the next stall
		synctest.Wait()
		require.NoError(t, p.Health())
		pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
		time.Sleep(18 * grace)
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		require.Len(t, log.Named(pooltest.NothingMoves), 2)
		require.LessOrEqual(t, p.UntilNextLook(), 2*grace)

		p.Pause() // nothing is to move
		time.Sleep(time.Hour)
		synctest.Wait()
		require.NoError(t, p.Health())
		require.Zero(t, p.UntilNextLook())
		p.Resume()
		time.Sleep(2*grace + 1)
		synctest.Wait()
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		close(gate)
	})
}
