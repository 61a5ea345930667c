//go:build !race && !invariants

// The race detector and looks at the invariants change what is allocated.

package flows_test

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Each of many flows has one task that waits.
func TestTaskAloneInItsFlowTakesLittleMemory(t *testing.T) {
	const flows = 20_000
	names := make([]string, flows)
	for i := range names {
		names[i] = "flow " + strconv.Itoa(i)
	}
	p := pooltest.New(t, taskpool.WithWorkers(1))
	release := pooltest.Block(t, p)
	before := pooltest.LiveHeap()
	for _, name := range names {
		pooltest.Submit(t, p, taskpool.Task{Flow: name, Run: pooltest.Nop})
	}
	require.Len(t, p.Flows(-1), flows+1)
	each := (pooltest.LiveHeap() - before) / flows
	t.Logf("%d bytes for a task and its flow", each)
	release()
	require.LessOrEqual(t, each, 1024)
	pooltest.Drain(t, p)
	runtime.KeepAlive(names)
}

func TestFlowsThatHaveGoneLeaveNothing(t *testing.T) {
	rounds, flows := pooltest.Times(50, 10), 20_000
	p := pooltest.New(t, taskpool.WithWorkers(2), taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
		return taskpool.FlowPolicy{Limit: len(flow) % 3}
	}))
	round := func(n int) {
		release := pooltest.Block(t, p)
		for i := range n {
			pooltest.Submit(t, p, taskpool.Task{Flow: strconv.Itoa(i), Priority: taskpool.Priority(i % 5), Run: pooltest.Nop})
		}
		release()
		pooltest.Drain(t, p)
	}
	round(100)
	before := pooltest.LiveHeap()
	for range rounds {
		round(flows)
	}
	require.Empty(t, p.Flows(-1))
	left := pooltest.LiveHeap() - before
	t.Logf("%d bytes are left of %d flows", left, rounds*flows)
	require.LessOrEqual(t, left, 1_000_000)
}
