package taskpool

import (
	"context"
	"errors"
	"fmt"
	"testing"

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
			t.Run(fmt.Sprintf("task %d of %d", canceled, n), func(t *testing.T) {
				p, err := New(WithWorkers(1))
				require.NoError(t, err)
				started, gate := make(chan struct{}), make(chan struct{})
				require.NoError(t, p.Go(High, func() { close(started); <-gate }))
				<-started
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
				require.Equal(t, n-1, p.Stats().Queued)
				close(gate)
				require.NoError(t, p.Shutdown(context.Background()))
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
