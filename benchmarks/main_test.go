package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool/process"
)

// Some of the contestants start goroutines when they are imported, which stay.
func TestMain(m *testing.M) {
	process.Main()
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

func TestScenarioNamesAreUnique(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range scenarios() {
		require.False(t, seen[s.name], "%q twice", s.name)
		seen[s.name] = true
		require.NotEmpty(t, s.group, s.name)
		require.NotEmpty(t, s.metrics, s.name)
		names := make(map[string]bool)
		for _, c := range s.contestants {
			require.False(t, names[c.name], "%s: %q twice", s.name, c.name)
			names[c.name] = true
		}
	}
}

// Each scenario runs in its short form, with everybody who takes part, and what
// it yields survives the way to the parent process.
func TestEveryScenarioRuns(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			r, err := s.run(1, true)
			require.NoError(t, err)
			require.Len(t, r.Values, len(s.contestants))
			for _, c := range s.contestants {
				require.Len(t, r.Values[c.name], len(s.metrics))
				for _, v := range r.Values[c.name] {
					require.Len(t, v, 1)
				}
			}
			printed, err := json.Marshal(r)
			require.NoError(t, err)
			var read result
			require.NoError(t, json.Unmarshal(printed, &read))
			require.Equal(t, r, read)
		})
	}
}

// At the moment at which the clock stops every task has been run, neither more
// nor less.
func TestClockStopsWhenAllTasksAreDone(t *testing.T) {
	for _, through := range throughputs() {
		for _, e := range through.entrants {
			t.Run(through.group+"/"+through.name+"/"+e.name, func(t *testing.T) {
				var done atomic.Int64
				jobs := through.jobs()
				for i, j := range jobs {
					jobs[i] = newJob(func() {
						defer done.Add(1) // when it panics, too
						j.run()
					})
				}
				p := e.start(through.workers)
				through.submitAll(p, through.short, jobs)
				leave := meet(p, through.workers, through.last())
				require.EqualValues(t, through.short, done.Load())
				leave()
				p.close()
				require.EqualValues(t, through.short, done.Load())
			})
		}
	}
}

func TestEveryTaskWithAHandleIsWaitedFor(t *testing.T) {
	const n = 2_000
	for _, e := range handleEntrants() {
		for _, producers := range []int{1, 8} {
			var done atomic.Int64
			e.round(8, producers, n, newJob(func() { done.Add(1) }))
			require.EqualValues(t, n, done.Load(), e.name)
		}
	}
}

// A target that no scenario measures would be forgotten.
func TestEveryTargetIsMeasured(t *testing.T) {
	var results []result
	for _, s := range scenarios() {
		r := result{Group: s.group, Scenario: s.name, Values: make(map[string][][]float64)}
		for _, m := range s.metrics {
			r.Metrics = append(r.Metrics, resultMetric{m.name, m.unit})
		}
		for _, c := range s.contestants {
			r.Contestants = append(r.Contestants, resultContestant{c.name, c.kind})
			for range s.metrics {
				r.Values[c.name] = append(r.Values[c.name], []float64{1})
			}
		}
		results = append(results, r)
	}
	unknown := maps.Clone(tried)
	for _, target := range targets {
		if target.promise == pythonPromise && !hasPython() {
			continue
		}
		require.True(t, target.outcome(results).measured, target.promise)
		delete(unknown, target.promise)
	}
	require.Empty(t, unknown, "what was tried belongs to a target")
}

func sample() []result {
	return []result{{
		Group: "Group", Scenario: "work, few", Metrics: []resultMetric{{"time a task", "ns"}},
		Contestants: []resultContestant{{"taskpool", ours}, {"channel", channel}, {"slow", peer}, {"fast", peer}, {"unfair", other}},
		Values: map[string][][]float64{
			"taskpool": {{90, 30, 60}}, "channel": {{100, 120, 110}}, "slow": {{5_000, 5_000, 5_000}}, "fast": {{50, 50, 50}}, "unfair": {{1, 1, 1}},
		},
	}, {
		Group: "Group", Scenario: "work, many", Metrics: []resultMetric{{"time a task", "ns"}},
		Contestants: []resultContestant{{"taskpool", ours}, {"channel", channel}},
		Values:      map[string][][]float64{"taskpool": {{11}}, "channel": {{10}}},
	}}
}

func TestReportSaysWhatIsLost(t *testing.T) {
	var page bytes.Buffer
	writeReport(&page, setup{}, false, sample())
	for _, line := range []string{
		"|  | taskpool | channel | slow | fast | unfair | to the channel | to the best peer |",
		"| few | 60.0 | 110 | 5,000 | 50.0 | 1.00 | 0.55 | **1.20 (fast) LOST** |",
		"| many | 11.0 | 10.0 | – | – | – | **1.10 LOST** | – |",
		"- work, few, time a task: 1.20 times fast",
		"- work, many, time a task: 1.10 times channel",
		"| few | 45.0–75.0 (90.0) | 105–115 (120) | 5,000–5,000 (5,000) | 50.0–50.0 (50.0) | 1.00–1.00 (1.00) | 3 |",
	} {
		require.Regexp(t, "(?m)^"+regexp.QuoteMeta(line)+"$", page.String())
	}
}

func TestTargetIsDecidedByItsWorstScenario(t *testing.T) {
	few, many := figure{"work, few", "taskpool", ""}, figure{"work, many", "taskpool", ""}
	for _, c := range []struct {
		target   target
		value    float64
		scenario string
		verdict  string
	}{
		{target{"", figure{"work, .*", "taskpool", ""}, ratio, figure{"", "channel", ""}, 1}, 1.1, "work, many", "**missed** by 10.0 %, met in 1 of 2"},
		{target{"", few, ratio, figure{"", bestPeer, ""}, 1.2}, 1.2, "work, few", "met"},
		{target{"", few, difference, figure{"", "channel", ""}, -60}, -50, "work, few", "**missed** by 10.0 ns"},
		{target{"", many, absolute, figure{}, 12}, 11, "work, many", "met"},
		{target{"", few, ratio, many, 5}, 60. / 11, "work, few", "**missed** by 9.09 %"},
		{target{"", many, ratio, figure{"", bestPeer, ""}, 1}, 0, "", "not measured"},
		{target{"", figure{"play", "taskpool", ""}, absolute, figure{}, 1}, 0, "", "not measured"},
	} {
		o := c.target.outcome(sample())
		require.InDelta(t, c.value, o.value, 1e-9)
		require.Equal(t, c.scenario, o.scenario)
		require.Equal(t, c.verdict, o.verdict())
	}
}

func TestManyContestantsBecomeRows(t *testing.T) {
	rows := [][]string{{"", "a", "b"}, {"x", "1", "2"}}
	require.Equal(t, rows, narrow(rows, 6))
	require.Equal(t, [][]string{{"", "x"}, {"a", "1"}, {"b", "2"}}, narrow(rows, 7))
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.0123: "0.012", 0.994: "0.99", 1: "1.00", 9.996: "10.0", 99.94: "99.9", 99.96: "100", 1234567: "1,234,567", -1234: "-1,234",
	} {
		require.Equal(t, want, number(v))
	}
}

func TestQuantiles(t *testing.T) {
	require.Zero(t, median(nil))
	require.Equal(t, 7., median([]float64{7}))
	require.Equal(t, 2., median([]float64{3, 1, 2}))
	require.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
	require.Equal(t, 4., quantile([]float64{4, 1, 3, 2}, 1))
}
