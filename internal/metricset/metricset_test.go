package metricset_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/metricset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFirstKeysHaveNumbersOfTheirOwn(t *testing.T) {
	n := metricset.NewNumbers(3, "a")
	require.Equal(t, 1, n.Of("b"))
	require.Equal(t, 0, n.Of("a"))
	require.Equal(t, []string{"a", "b", "", "other"}, n.Labels(func(k string) string { return k }))
	require.Equal(t, 2, n.Of("c"))
	require.Equal(t, 3, n.Of("d"))
	require.Equal(t, 3, n.Of("e"))
	require.Equal(t, []string{"a", "b", "c"}, n.Keys())
}

func TestNumbersStayWhatTheyAre(t *testing.T) {
	const max, keys = 10, 20
	n := metricset.NewNumbers[int](max)
	var seen [4][keys]int
	var wg sync.WaitGroup
	for g := range seen {
		wg.Go(func() {
			for _, k := range rand.Perm(keys) {
				seen[g][k] = n.Of(k)
			}
		})
	}
	wg.Wait()
	require.Len(t, n.Keys(), max)
	for i, k := range n.Keys() {
		require.Equal(t, i, seen[0][k])
	}
	for _, s := range seen {
		require.Equal(t, seen[0], s)
	}
}

func attempts(n uint64) taskpool.PriorityTotals { return taskpool.PriorityTotals{Attempts: n} }

func TestRowsTakeThoseWithTheMostAttemptsFirst(t *testing.T) {
	n := metricset.NewNumbers[taskpool.Priority](3)
	s := taskpool.Stats{
		Attempts:   106, // of which ByPriority knows 105
		Failed:     7,
		ByPriority: map[taskpool.Priority]taskpool.PriorityTotals{7: {Attempts: 100, Failed: 4}, 9: {Attempts: 1}, taskpool.Low: {Attempts: 3}, 8: {Attempts: 1}},
		Waiting: []taskpool.PriorityStats{
			{Priority: taskpool.High, Queued: 2, OldestWait: time.Second},
			{Priority: 7, Queued: 3, OldestWait: time.Minute},
			{Priority: 9, Queued: 4, OldestWait: 2 * time.Second, Late: true},
		},
	}
	rows := metricset.Rows(&s, n)
	require.Equal(t, []metricset.Row{
		{"7", taskpool.PriorityTotals{Attempts: 100, Failed: 4}, 3, time.Minute, false},
		{"low", attempts(3), 0, 0, false},
		{"8", attempts(1), 0, 0, false},
		{"other", taskpool.PriorityTotals{Attempts: 2, Failed: 3}, 6, 2 * time.Second, true},
	}, rows)

	// Who comes later cannot change that.
	s.ByPriority[9], s.Attempts = attempts(1001), 1106
	s.Waiting = nil
	require.Equal(t, []metricset.Row{
		{"7", taskpool.PriorityTotals{Attempts: 100, Failed: 4}, 0, 0, false},
		{"low", attempts(3), 0, 0, false},
		{"8", attempts(1), 0, 0, false},
		{"other", taskpool.PriorityTotals{Attempts: 1002, Failed: 3}, 0, 0, false},
	}, metricset.Rows(&s, n))
}

func TestNoRowOfOthersWithoutOthers(t *testing.T) {
	n := metricset.NewNumbers(2, taskpool.High, taskpool.Low)
	s := taskpool.Stats{Attempts: 1, ByPriority: map[taskpool.Priority]taskpool.PriorityTotals{taskpool.Low: attempts(1)}}
	require.Equal(t, []metricset.Row{{"high", attempts(0), 0, 0, false}, {"low", attempts(1), 0, 0, false}}, metricset.Rows(&s, n))
}

func TestAttemptsAddUp(t *testing.T) {
	s := taskpool.Stats{
		Attempts: 100, Running: 2, Parked: 3,
		Errors: 4, Timeouts: 5, Interrupted: 6, Panics: 7, Goexits: 8, Hangs: 9,
	}
	require.Equal(t, []metricset.Value{
		{"success", 56}, {"error", 4}, {"timeout", 5}, {"interrupted", 6}, {"panic", 7}, {"goexit", 8}, {"hung", 9},
	}, metricset.Results(&s))
}

func TestTasksAndWorkersByState(t *testing.T) {
	totals := taskpool.PriorityTotals{Succeeded: 1, Failed: 2, Canceled: 3, Shed: 4,
		RefusedFull: 5, RefusedFlow: 6, RefusedClosed: 7, RefusedContext: 8, RefusedExpired: 9}
	s := taskpool.Stats{
		Queued: 5, Delayed: 6, Running: 7, Parked: 8,
		Goroutines: 20, Idle: 9, Abandoned: 10, Lost: 11,
		ReplacedPanic: 12, ReplacedGoexit: 13, ReplacedHung: 14,
	}
	require.Equal(t, []metricset.Value{{"succeeded", 1}, {"failed", 2}, {"canceled", 3}, {"shed", 4}}, metricset.Outcomes(&totals))
	require.Equal(t, []metricset.Value{{"full", 5}, {"flow", 6}, {"closed", 7}, {"context", 8}, {"expired", 9}}, metricset.Refusals(&totals))
	require.Equal(t, []metricset.Value{{"queued", 5}, {"delayed", 6}, {"running", 7}, {"parked", 8}}, metricset.Tasks(&s))
	require.Equal(t, []metricset.Value{{"idle", 9}, {"busy", 3}, {"parked", 8}, {"abandoned", 10}, {"lost", 11}}, metricset.Goroutines(&s))
	require.Equal(t, []metricset.Value{{"panic", 12}, {"goexit", 13}, {"hung", 14}}, metricset.Replaced(&s))
}

func TestLiveWorkersAddUp(t *testing.T) {
	for _, s := range []taskpool.Stats{
		{Goroutines: 5, Idle: 2, Running: 1, Parked: 1}, // one is telling hooks
		{Goroutines: 1, Idle: 1, Parked: 1},             // one has died in Block, and is not replaced yet
		{Idle: 1},
	} {
		sum := uint64(0)
		for _, v := range metricset.Goroutines(&s)[:3] {
			sum += v.N
		}
		require.EqualValues(t, max(s.Goroutines, s.Idle), sum, "%+v", s)
	}
}

func TestFlowsAreThoseListedInThatOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(2), taskpool.WithFlows(func(string) taskpool.FlowPolicy {
			return taskpool.FlowPolicy{Limit: 1}
		}))
		require.NoError(t, err)
		over := make(chan struct{})
		t.Cleanup(func() {
			close(over)
			_ = p.Shutdown(context.Background())
		})
		for _, flow := range []string{"b", "b", "a", "other", "unlisted", "unlisted", "unlisted"} {
			_, err := p.Submit(context.Background(), taskpool.Task{Flow: flow, Run: func(context.Context) error { <-over; return nil }})
			require.NoError(t, err)
			synctest.Wait()
		}
		require.NotEmpty(t, metricset.Flows(p, []string{"b"})) // it is the first to look at what waits
		time.Sleep(time.Minute)
		require.Equal(t, []taskpool.FlowStats{
			{Flow: "nobody"},
			{Flow: "b", Queued: 1, HeldBack: 1, Running: 1, Places: 1, OldestWait: time.Minute},
			{Flow: ""},
			{Flow: "other", Queued: 1, OldestWait: time.Minute},
			{Flow: "a", Running: 1, Places: 1},
		}, metricset.Flows(p, []string{"nobody", "b", "", "other", "a"}))
		require.Empty(t, metricset.Flows(p, nil))
	})
}

func TestNoPoolIsLookedAtWithoutAListOfFlows(t *testing.T) {
	require.Empty(t, metricset.Flows(nil, nil)) // which would panic
}

func TestNamesOfFlowsAreBoundedAndInUTF8(t *testing.T) {
	require.NoError(t, metricset.CheckFlows("pack", nil))
	require.NoError(t, metricset.CheckFlows("pack", append(make([]string, 997), "", "other", strings.Repeat("€", 10_000))))
	long := strings.Repeat("x", 200)
	require.NoError(t, metricset.CheckFlows("pack", []string{long, long, long + "y"}))
	require.EqualError(t, metricset.CheckFlows("pack", []string{long + "y", long + "z"}),
		`pack: WithFlowNames: name must differ from others in its first 200 bytes, got "`+long[:197]+`…"`)
	require.EqualError(t, metricset.CheckFlows("pack", make([]string, 1001)), "pack: WithFlowNames must have at most 1000 names, got 1001")
	require.EqualError(t, metricset.CheckFlows("pack", []string{"a", "\xff"}), `pack: WithFlowNames: name must be in UTF-8, got "\xff"`)
}

func TestLabelsAreShortAndInUTF8(t *testing.T) {
	for text, label := range map[string]string{
		"":                          "",
		"a":                         "a",
		"\xff":                      "\uFFFD",
		strings.Repeat("x", 200):    strings.Repeat("x", 200),
		strings.Repeat("x", 201):    strings.Repeat("x", 197) + "…",
		strings.Repeat("€", 100):    strings.Repeat("€", 65) + "…",
		strings.Repeat("\xff", 99):  "\uFFFD",
		strings.Repeat("a\xff", 99): strings.Repeat("a\uFFFD", 49) + "a…",
	} {
		require.Equal(t, label, metricset.Label(text))
		require.LessOrEqual(t, len(label), metricset.MaxLabel)
	}
}
