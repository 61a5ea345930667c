package observe_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestFirstTasksListsTheFirstOfTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		p.Pause()
		for i := range 10 {
			pooltest.Submit(t, p, taskpool.Task{Name: fmt.Sprint("low", i), Priority: taskpool.Low, Flow: fmt.Sprint(i % 2), Run: func(context.Context) error { return nil }})
		}
		pooltest.Submit(t, p, taskpool.Task{Name: "delayed", NotBefore: time.Now().Add(time.Hour), Run: func(context.Context) error { return nil }})
		pooltest.Submit(t, p, taskpool.Task{Name: "high", Priority: taskpool.High, Run: func(context.Context) error { return nil }})
		all := p.Tasks(taskpool.StateQueued)
		require.Len(t, all, 11)
		require.Equal(t, "high", all[0].Name)
		for _, n := range []int{0, 1, 2, 5, 10, 11} {
			require.Equal(t, all[:n], append([]taskpool.TaskInfo{}, p.FirstTasks(n, taskpool.StateQueued)...))
		}
		require.Equal(t, all, p.FirstTasks(12, taskpool.StateQueued))
		require.Equal(t, all, p.FirstTasks(-1, taskpool.StateQueued))
		p.Resume()
	})
}

func TestFirstTasksListsDelayedTasksAsTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		ctx, cancel := context.WithCancel(t.Context())
		now := time.Now()
		submit := func(task taskpool.Task) *taskpool.Handle {
			h, err := p.Submit(ctx, task)
			require.NoError(t, err)
			return h
		}
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 1000 { // some are due at the same time
			submit(taskpool.Task{Name: fmt.Sprint(i), NotBefore: now.Add(time.Hour + time.Duration(random.IntN(300))*time.Second), Run: pooltest.Nop})
		}
		last := submit(taskpool.Task{NotBefore: now.Add(time.Hour), Run: pooltest.Nop})
		dependent := submit(taskpool.Task{After: []*taskpool.Handle{last}, Run: pooltest.Nop})
		all := p.Tasks(taskpool.StateDelayed)
		slices.SortFunc(all, func(a, b taskpool.TaskInfo) int {
			return cmp.Or(cmp.Compare(len(a.WaitsFor), len(b.WaitsFor)), a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID))
		})
		require.Len(t, all, 1002)
		require.Equal(t, dependent.ID(), all[1001].ID)
		for _, n := range []int{0, 1, 2, 3, 10, 100, 999, 1000, 1001, 1002} {
			require.Equal(t, all[:n], append([]taskpool.TaskInfo{}, p.FirstTasks(n, taskpool.StateDelayed)...))
		}
		require.Equal(t, all, p.FirstTasks(2000, taskpool.StateDelayed))
		require.Equal(t, all, p.FirstTasks(-1, taskpool.StateDelayed))
		cancel()
	})
}

func TestFirstTasksListsTasksAtWorkAsTheyStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(20), taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(2))
		over := make(chan struct{})
		hangs := func(context.Context) error { <-over; return nil }
		waits := func(ctx context.Context) error { return taskpool.Block(ctx, func() error { <-over; return nil }) }
		for i := range 5 {
			pooltest.Submit(t, p, taskpool.Task{Name: fmt.Sprint("runs", i), Run: hangs})
			time.Sleep(time.Second)
			pooltest.Submit(t, p, taskpool.Task{Name: fmt.Sprint("parked", i), Run: waits})
			time.Sleep(time.Second)
			pooltest.Submit(t, p, taskpool.Task{Name: fmt.Sprint("abandoned", i), Timeout: time.Second, Run: hangs})
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		require.Equal(t, 3, p.Stats().Lost)
		names := func(n int, state taskpool.State) (all []string) {
			for _, info := range p.FirstTasks(n, state) {
				require.Equal(t, state, info.State)
				all = append(all, info.Name)
			}
			return all
		}
		for state, name := range map[taskpool.State]string{taskpool.StateRunning: "runs", taskpool.StateParked: "parked", taskpool.StateAbandoned: "abandoned"} {
			var all []string
			for i := range 5 {
				all = append(all, fmt.Sprint(name, i))
			}
			for n := range 6 {
				require.Equal(t, all[:n], append([]string{}, names(n, state)...))
			}
			require.Equal(t, all, names(-1, state))
			require.Len(t, p.Tasks(state), 5)
		}
		require.Empty(t, p.FirstTasks(-1, taskpool.StateSucceeded))
		close(over)
	})
}
