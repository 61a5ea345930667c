package main

import (
	"cmp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

func TestPoissonScheduleHasItsRateAndShare(t *testing.T) {
	const rate, length, high = 10_000, 10 * time.Second, 0.3
	schedule := poisson(rate, length, high)
	require.InEpsilon(t, rate*length.Seconds(), len(schedule), 0.02)
	urgent, early, gaps := 0, 0, 0
	last := time.Duration(0)
	require.True(t, slices.IsSortedFunc(schedule, func(a, b arrival) int { return cmp.Compare(a.at, b.at) }))
	require.Less(t, schedule[len(schedule)-1].at, length)
	for _, a := range schedule {
		if a.at-last < time.Second/rate {
			gaps++
		}
		last = a.at
		if a.at < length/2 {
			early++
		}
		if a.priority == taskpool.High {
			urgent++
		}
	}
	require.InEpsilon(t, high*float64(len(schedule)), urgent, 0.03)
	require.InEpsilon(t, 0.5*float64(len(schedule)), early, 0.03)
	require.InEpsilon(t, 0.632*float64(len(schedule)), gaps, 0.03, "shorter than the mean, of exponential gaps: 1-1/e")
	require.Equal(t, schedule, poisson(rate, length, high), "the same each time")
}

func TestPoissonScheduleMayBeEmpty(t *testing.T) {
	require.Empty(t, poisson(1, time.Nanosecond, 1))
}

func TestOpenLoadHasAWaitForEveryHighTask(t *testing.T) {
	schedule := []arrival{{0, taskpool.High}, {0, taskpool.Low}, {time.Millisecond, taskpool.Low}, {2 * time.Millisecond, taskpool.High}}
	waits, took := serve(taskpoolEntrant("taskpool", ours), schedule)
	require.Len(t, waits, 2)
	require.GreaterOrEqual(t, took, 2*time.Millisecond+sleepTask)
	waits, _ = serve(roomyChannel(1), nil)
	require.Empty(t, waits)
}

// A pool that is first in, first out starts the High task when all others have
// been started.
func TestFirstInFirstOutYieldsOneWait(t *testing.T) {
	require.Len(t, waitsBehind(roomyChannel(1001), 1000, 5, time.Microsecond), 1)
}

func TestPoolsApartRunEachPriorityInItsOwn(t *testing.T) {
	p := apartEntrant("apart", 0.5, 2).start(2).(apartPool)
	defer p.close()
	// A Low task that waits for a High one would not end on one worker.
	var both sync.WaitGroup
	both.Add(2)
	for _, pr := range []taskpool.Priority{taskpool.Low, taskpool.High} {
		p.submit(int(pr), newJob(func() {
			both.Done()
			both.Wait()
		}))
	}
	both.Wait()
	require.Zero(t, len(p.high.tasks)+len(p.less.tasks))
}

// The task that submits itself again runs as often as it should at each depth,
// and every waiting task is counted.
func TestBacklogRunsEveryTask(t *testing.T) {
	for _, e := range unbounded(101) {
		require.Positive(t, circulate(e, 100, 500), e.name)
		_, nanoseconds := fillAndEmpty(e, 100, 500, 3)
		require.Positive(t, nanoseconds, e.name)
	}
}

func TestHeapOfABacklogIsThatOfItsTasks(t *testing.T) {
	const room = 1 << 17
	bytes, _ := fillAndEmpty(roomyChannel(room), room-1, 1, 1)
	require.InEpsilon(t, 8, bytes, 0.1, "a function value in a channel takes a word of 64 bits")
}
