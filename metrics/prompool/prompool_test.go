package prompool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/metrics/prompool"
)

func TestBadOptionsAreRefused(t *testing.T) {
	for want, opt := range map[string]prompool.Option{
		"prompool: option 1 must not be nil":                                                                               nil,
		"prompool: WithGoEvery: n must be at least 1, got 0":                                                               prompool.WithGoEvery(0),
		"prompool: WithTaskNames: max must be from 0 to 1000, got 1001":                                                    prompool.WithTaskNames(1001),
		"prompool: WithTaskNames: max must be from 0 to 1000, got -1":                                                      prompool.WithTaskNames(-1),
		"prompool: WithPriorities must have at most 25 priorities, got 26":                                                 prompool.WithPriorities(priorities(26)...),
		"prompool: WithFlowNames must have at most 1000 names, got 1001":                                                   prompool.WithFlowNames(numbered(1001)...),
		`prompool: WithFlowNames: name must be in UTF-8, got "\xff"`:                                                       prompool.WithFlowNames("a", "\xff"),
		"prompool: WithBuckets: wait must be at most 100 increasing numbers of seconds, from 1e-6 to 43200, got [0]":       prompool.WithBuckets([]float64{0}, nil),
		"prompool: WithBuckets: wait must be at most 100 increasing numbers of seconds, from 1e-6 to 43200, got [2 1]":     prompool.WithBuckets([]float64{2, 1}, nil),
		"prompool: WithBuckets: duration must be at most 100 increasing numbers of seconds, from 1e-6 to 43200, got [1 1]": prompool.WithBuckets(nil, []float64{1, 1}),
		"prompool: WithBuckets: duration must be at most 100 increasing numbers of seconds, from 1e-6 to 43200, got [NaN]": prompool.WithBuckets(nil, []float64{math.NaN()}),
		"prompool: WithBuckets: wait must be at most 100 increasing numbers of seconds, from 1e-6 to 43200, got [+Inf]":    prompool.WithBuckets([]float64{math.Inf(1)}, nil),
	} {
		c, err := prompool.New(opt)
		require.EqualError(t, err, want)
		require.Nil(t, c)
	}
}

func priorities(n int) []taskpool.Priority {
	all := make([]taskpool.Priority, n)
	for i := range all {
		all[i] = taskpool.Priority(i)
	}
	return all
}

func numbered(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = strconv.Itoa(i)
	}
	return all
}

func TestPoolsOfOneNameAreRefused(t *testing.T) {
	c, reg := newCollector(t)
	a := newPool(t, c, taskpool.WithName("a"))
	require.NoError(t, c.Watch(a), "it is watched already")
	other, err := taskpool.New(taskpool.WithName("other"))
	require.NoError(t, err)
	twin, err := taskpool.New(taskpool.WithName("a"))
	require.NoError(t, err)
	latin, err := taskpool.New(taskpool.WithName("\xe4"))
	require.NoError(t, err)
	for _, p := range []*taskpool.Pool{other, twin, latin} {
		defer func() { require.NoError(t, p.Shutdown(context.Background())) }()
	}

	require.EqualError(t, c.Watch(other, twin),
		`prompool: Watch: pool 2 must have a name of its own, got "a", which another pool has (see taskpool.WithName and Collector.Unwatch)`)
	require.EqualError(t, c.Watch(latin), `prompool: Watch: pool 1 must have a name in UTF-8, got "\xe4" (see taskpool.WithName)`)
	require.EqualError(t, c.Watch(other, nil), "prompool: Watch: pool 2 must not be nil")
	require.Len(t, gather(t, reg).each("taskpool_workers"), 1, "in case of an error none is added")
	require.False(t, c.Unwatch(twin))

	require.True(t, c.Unwatch(a))
	require.NoError(t, c.Watch(twin, other))
	require.Len(t, gather(t, reg).each("taskpool_workers"), 2)
}

func TestShutDownPoolIsReportedUntilUnwatched(t *testing.T) {
	c, reg := newCollector(t)
	p := newPool(t, c, taskpool.WithName("a"))
	submit(t, p, taskpool.Task{})
	shutdown(t, p)

	s := gather(t, reg)
	require.EqualValues(t, 1, s.sum("taskpool_closed", "pool", "a"))
	require.EqualValues(t, 1, s.sum("taskpool_tasks_finished_total", "outcome", "succeeded"))
	require.EqualValues(t, 1, s.sum("taskpool_queue_wait_seconds"))
	require.True(t, c.Unwatch(p))
	require.Empty(t, gather(t, reg))
}

func TestMetricsFollowTheRules(t *testing.T) {
	c, reg := newCollector(t, prompool.WithTaskNames(5))
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithCapacity(10, taskpool.OverflowReject))
	submit(t, p, taskpool.Task{Name: "x"})
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// In a bubble, so all times are exact.
func TestEachKindOfEndIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		release := make(chan struct{})
		run := func(t taskpool.Task, f func(context.Context) error) {
			t.Run = f
			h, err := p.Submit(context.Background(), t)
			if err != nil {
				panic(err)
			}
			<-h.Done()
			synctest.Wait()
		}
		run(taskpool.Task{}, func(context.Context) error { time.Sleep(3 * time.Second); return nil })
		tries := 0
		retry := taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }}
		run(taskpool.Task{Retry: retry}, func(context.Context) error {
			if tries++; tries == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		run(taskpool.Task{Timeout: time.Second}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		run(taskpool.Task{}, func(ctx context.Context) error {
			self, _ := taskpool.Current(ctx)
			self.Handle.Cancel(context.Canceled)
			return ctx.Err()
		})
		run(taskpool.Task{}, func(context.Context) error { panic("boom") })
		run(taskpool.Task{}, func(context.Context) error { runtime.Goexit(); return nil })
		run(taskpool.Task{Timeout: time.Second}, func(context.Context) error { <-release; return nil })

		s := gather(t, reg)
		require.EqualValues(t, 7, s.sum("taskpool_tasks_submitted_total"))
		require.EqualValues(t, 8, s.sum("taskpool_attempts_started_total"))
		require.Equal(t, map[string]float64{"success": 2, "error": 1, "timeout": 1, "interrupted": 1, "panic": 1, "goexit": 1, "hung": 1},
			s.values("taskpool_attempts_ended_total", "result"))
		require.Equal(t, map[string]float64{"succeeded": 2, "failed": 4, "canceled": 1, "shed": 0},
			s.values("taskpool_tasks_finished_total", "outcome"))
		require.Equal(t, map[string]float64{"panic": 1, "goexit": 1, "hung": 1}, s.values("taskpool_replaced_total", "reason"))
		require.Equal(t, map[string]float64{"idle": 1, "busy": 0, "parked": 0, "abandoned": 1, "lost": 0}, s.values("taskpool_goroutines", "state"))
		require.EqualValues(t, 1, s.sum("taskpool_retries_total"))
		require.EqualValues(t, 8, s.sum("taskpool_queue_wait_seconds", "priority", "medium"))
		require.EqualValues(t, 8, s.sum("taskpool_attempt_duration_seconds", "priority", "medium"))
		h := s.each("taskpool_attempt_duration_seconds")[0].Histogram
		require.InDelta(t, 3+1+2, h.GetSampleSum(), 1e-9, "3 s of work, a timeout of 1 s, and 1 s until a hang was given up")
		require.Empty(t, s.each("taskpool_capacity"), "it is not bounded")
		close(release)
	})
}

func TestWhatWaitsAndRunsIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithCapacity(5, taskpool.OverflowReject))
		release := make(chan struct{})
		wait := func(context.Context) error { <-release; return nil }
		for _, task := range []taskpool.Task{{}, {Priority: taskpool.Low}, {Priority: 42}, {Priority: 42}, {NotBefore: time.Now().Add(20 * time.Second)}} {
			task.Run = wait
			_, err := p.Submit(context.Background(), task)
			require.NoError(t, err)
			synctest.Wait()
			time.Sleep(time.Second)
		}
		s := gather(t, reg)
		require.Equal(t, map[string]float64{"queued": 3, "delayed": 1, "running": 1, "parked": 0}, s.values("taskpool_tasks", "state"))
		require.Equal(t, map[string]float64{"medium": 0, "low": 1, "42": 2}, s.values("taskpool_queue_depth", "priority"))
		require.Equal(t, map[string]float64{"medium": 0, "low": 4, "42": 3}, s.values("taskpool_oldest_waiting_seconds", "priority"))
		require.Equal(t, map[string]float64{"medium": 1, "low": 0, "42": 0}, s.values("taskpool_attempts_started_total", "priority"))
		require.EqualValues(t, 5, s.sum("taskpool_unfinished_work_seconds"))
		require.EqualValues(t, 5, s.sum("taskpool_longest_running_attempt_seconds"))
		require.EqualValues(t, 5, s.sum("taskpool_capacity"))
		require.EqualValues(t, 1, s.sum("taskpool_workers"))
		require.EqualValues(t, 0, s.sum("taskpool_paused"))
		p.Pause()
		require.EqualValues(t, 1, gather(t, reg).sum("taskpool_paused"))
		p.Resume()
		close(release)
	})
}

func TestWhyTasksAreRefusedAndLostSlotsAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowReject),
			taskpool.WithMaxAbandoned(0), taskpool.WithHangGrace(time.Second), taskpool.WithFlows(func(string) taskpool.FlowPolicy {
				return taskpool.FlowPolicy{Capacity: 1}
			}))
		gate := make(chan struct{})
		task := func(pr taskpool.Priority) taskpool.Task {
			return taskpool.Task{Priority: pr, Flow: "f", Run: func(context.Context) error { return nil }}
		}
		require.NoError(t, p.Go(taskpool.High, func() { time.Sleep(time.Minute) }))
		synctest.Wait()
		_, err := p.Submit(t.Context(), task(taskpool.Low))
		require.NoError(t, err)
		_, err = p.Submit(t.Context(), task(taskpool.Low))
		require.ErrorIs(t, err, taskpool.ErrFull)
		require.ErrorIs(t, p.Go(taskpool.High, func() {}), taskpool.ErrFull)
		require.ErrorIs(t, p.Go(taskpool.High, func() {}), taskpool.ErrFull)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = p.Submit(ended, task(taskpool.Low))
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(2 * time.Minute)
		_, err = p.Submit(t.Context(), taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		s := gather(t, reg)
		require.EqualValues(t, 1, s.sum("taskpool_slots_lost"))
		require.EqualValues(t, 1, s.sum("taskpool_workers"))
		close(gate)
		shutdown(t, p)
		require.ErrorIs(t, p.Go(taskpool.Low, func() {}), taskpool.ErrClosed)
		s = gather(t, reg)
		require.Zero(t, s.sum("taskpool_slots_lost"))
		require.Equal(t, map[string]float64{"full": 2, "flow": 1, "closed": 1, "context": 1, "expired": 0}, s.values("taskpool_tasks_refused_total", "reason"))
		require.Equal(t, map[string]float64{"high": 2, "medium": 0, "low": 3}, s.values("taskpool_tasks_refused_total", "priority"))
		require.EqualValues(t, 2, s.sum("taskpool_tasks_refused_total", "priority", "high", "reason", "full"))
		require.EqualValues(t, 1, s.sum("taskpool_tasks_finished_total", "priority", "medium", "outcome", "failed"))
		require.EqualValues(t, 1, s.sum("taskpool_tasks_finished_total", "priority", "low", "outcome", "succeeded"))
	})
}

// A name of 10 kB, of which there may be thousands, must not make a scrape of megabytes.
func TestNamesAreCutInLabels(t *testing.T) {
	long := strings.Repeat("n", 10_000)
	c, reg := newCollector(t, prompool.WithTaskNames(10), prompool.WithFlowNames(long))
	p := newPool(t, c, taskpool.WithName(long))
	submit(t, p, taskpool.Task{Name: long, Flow: long})
	submit(t, p, taskpool.Task{Name: long + "else"})
	other, err := taskpool.New(taskpool.WithName(long + "else"))
	require.NoError(t, err)
	defer shutdown(t, other)
	require.ErrorContains(t, c.Watch(other), "must have a name of its own")
	shutdown(t, p)
	s := gather(t, reg)
	for _, family := range s {
		for _, m := range family.Metric {
			for _, l := range m.Label {
				require.LessOrEqual(t, len(l.GetValue()), 200, family.GetName())
			}
		}
	}
	require.Equal(t, map[string]float64{strings.Repeat("n", 197) + "…": 2, "": 0, "other": 0}[strings.Repeat("n", 197)+"…"],
		s.values("taskpool_attempt_duration_seconds", "task")[strings.Repeat("n", 197)+"…"])
}

func TestExemplarsComeFromTheContextOfSubmit(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c, reg := newCollector(t, prompool.WithExemplars(func(ctx context.Context) prometheus.Labels {
			asked++
			if id, _ := ctx.Value(key{}).(string); id != "" {
				return prometheus.Labels{"trace_id": id}
			}
			return nil
		}))
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1))
		do := func(id string, d time.Duration) {
			h, err := p.Submit(context.WithValue(t.Context(), key{}, id), taskpool.Task{Run: func(context.Context) error { time.Sleep(d); return nil }})
			require.NoError(t, err)
			<-h.Done()
			synctest.Wait()
		}
		do("first", 20*time.Millisecond)
		do("soon", 20*time.Millisecond) // the exemplars are still new
		require.Equal(t, 2, asked)
		do("long", 2*time.Second)
		do("later", 20*time.Millisecond)
		do("", 600*time.Millisecond)
		do("endless", time.Hour)
		require.NoError(t, p.Go(taskpool.Medium, func() {}))
		shutdown(t, p)
		exemplars := func(name string) (ids []string) {
			for _, b := range gather(t, reg).each(name)[0].Histogram.Bucket {
				if e := b.Exemplar; e != nil {
					require.LessOrEqual(t, e.GetValue(), b.GetUpperBound())
					ids = append(ids, e.Label[0].GetValue())
				}
			}
			return ids
		}
		require.Equal(t, []string{"later", "long", "endless"}, exemplars("taskpool_attempt_duration_seconds"))
		require.Equal(t, []string{"later"}, exemplars("taskpool_queue_wait_seconds"))
	})
}

func TestExemplarsThatPrometheusDoesNotAllowAreLeftOut(t *testing.T) {
	c, reg := newCollector(t, prompool.WithExemplars(func(context.Context) prometheus.Labels {
		return prometheus.Labels{"id": strings.Repeat("x", 200)}
	}))
	p := newPool(t, c, taskpool.WithName("a"))
	submit(t, p, taskpool.Task{})
	shutdown(t, p)
	require.EqualValues(t, 1, gather(t, reg).sum("taskpool_attempt_duration_seconds"))
}

// The table in the package's documentation has each metric, with its labels, and no other.
func TestTheDocumentationListsWhatIsExposed(t *testing.T) {
	c, reg := newCollector(t, prompool.WithFlowNames("a"))
	require.NoError(t, c.WatchJobs("a", &operator{depths: []jobs.Depth{{Kind: "a"}}}))
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowShed))
	p.Pause()
	_, err := p.Submit(t.Context(), taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { return nil }})
	require.NoError(t, err)
	_, err = p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { return nil }}) // sheds that
	require.NoError(t, err)
	p.Resume()
	shutdown(t, p)
	var exposed []string
	for name, family := range gather(t, reg) {
		var labels []string
		for _, l := range family.Metric[0].Label {
			if l.GetName() != "pool" {
				labels = append(labels, l.GetName())
			}
		}
		if len(labels) > 0 {
			name += "{" + strings.Join(labels, ",") + "}"
		}
		exposed = append(exposed, name)
	}
	file, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(taskpool_[a-z_]+(?:\{[a-z,]+\})?)(?:, (taskpool_[a-z]+))?(?: |$)`).FindAllStringSubmatch(string(file), -1) {
		if listed = append(listed, m[1]); m[2] != "" {
			listed = append(listed, m[2])
		}
	}
	require.ElementsMatch(t, exposed, listed)
}

func TestTasksThatExpireAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c, taskpool.WithWorkers(1))
		p.Pause()
		_, err := p.Submit(t.Context(), taskpool.Task{MaxWait: time.Second, Run: func(context.Context) error { return nil }})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		got := gather(t, reg)
		require.EqualValues(t, 1, got.sum("taskpool_tasks_expired_total"))
		require.EqualValues(t, 1, got.sum("taskpool_tasks_finished_total", "outcome", "shed"))
		waited := got.each("taskpool_shed_wait_seconds", "priority", "medium")[0].Histogram
		require.EqualValues(t, 1, waited.GetSampleCount())
		require.EqualValues(t, 1, waited.GetSampleSum())
	})
}

func TestRetriesBeyondTheBudgetAreCounted(t *testing.T) {
	c, reg := newCollector(t)
	p := newPool(t, c, taskpool.WithWorkers(1), taskpool.WithRetryBudget(0, 0))
	h, err := p.Submit(t.Context(), taskpool.Task{
		Run:   func(context.Context) error { return errors.New("failed") },
		Retry: taskpool.Retry{MaxAttempts: 2},
	})
	require.NoError(t, err)
	require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrRetryBudget)
	got := gather(t, reg)
	require.EqualValues(t, 1, got.sum("taskpool_retries_denied_total"))
	require.Zero(t, got.sum("taskpool_retries_total"))
}

func TestPriorityThatIsLateIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c, taskpool.WithWorkers(1), taskpool.WithQueueDelay(time.Second))
		require.NoError(t, p.Go(taskpool.High, func() {}))
		for range 60 { // twice as many as get done
			require.NoError(t, p.Go(taskpool.Low, func() { time.Sleep(time.Second) }))
			time.Sleep(time.Second / 2)
		}
		synctest.Wait() // a task ends at this very instant, and its worker sheds the next ones
		got := gather(t, reg)
		require.EqualValues(t, 0, got.sum("taskpool_late", "priority", "high"))
		require.EqualValues(t, 1, got.sum("taskpool_late", "priority", "low"))
		require.EqualValues(t, p.Stats().Shed, got.each("taskpool_shed_wait_seconds", "priority", "low")[0].Histogram.GetSampleCount())
		require.NoError(t, p.WaitIdle(t.Context()))
		require.EqualValues(t, 0, gather(t, reg).sum("taskpool_late"))
	})
}

func TestCallsThatJoinAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				_, err := taskpool.Join(t.Context(), p, "key", taskpool.Task{}, func(context.Context) (int, error) { time.Sleep(time.Second); return 0, nil })
				assert.NoError(t, err)
			})
		}
		all.Wait()
		require.EqualValues(t, 2, gather(t, reg).sum("taskpool_joined_total"))
	})
}

func TestTasksThatWaitForOthersAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c)
		release := make(chan struct{})
		h, err := p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { <-release; return nil }})
		require.NoError(t, err)
		_, err = p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { return nil }, After: []*taskpool.Handle{h}})
		require.NoError(t, err)
		require.EqualValues(t, 1, gather(t, reg).sum("taskpool_tasks_dependent"))
		close(release)
		synctest.Wait()
		require.EqualValues(t, 0, gather(t, reg).sum("taskpool_tasks_dependent"))
	})
}

func TestOrphansAndStandingStillAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		require.EqualValues(t, 0, gather(t, reg).sum("taskpool_stalled"))
		release := make(chan struct{})
		_, err := p.Submit(t.Context(), taskpool.Task{Run: func(ctx context.Context) error {
			_, err := p.Submit(ctx, taskpool.Task{Run: func(context.Context) error { return nil }})
			<-release
			return err
		}})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, gather(t, reg).sum("taskpool_stalled"))
		require.EqualValues(t, 0, gather(t, reg).sum("taskpool_tasks_orphaned_total"))
		close(release)
		synctest.Wait()
		require.EqualValues(t, 0, gather(t, reg).sum("taskpool_stalled"))
		require.EqualValues(t, 1, gather(t, reg).sum("taskpool_tasks_orphaned_total"))
	})
}

// hostFlows submits tasks of flows with limit 1 to a pool with 2 workers, one after the other,
// and lets a minute pass: of a one runs and two are held back, of other one runs, of b one
// waits for a worker, as does a task without a flow. They run until end is called or the test
// is over.
func hostFlows(t *testing.T, c *prompool.Collector) (p *taskpool.Pool, end func()) {
	p = newPool(t, c, taskpool.WithName("hosts"), taskpool.WithWorkers(2), taskpool.WithFlows(func(flow string) taskpool.FlowPolicy {
		if flow == "" {
			return taskpool.FlowPolicy{}
		}
		return taskpool.FlowPolicy{Limit: 1}
	}))
	release := make(chan struct{})
	end = sync.OnceFunc(func() { close(release) })
	t.Cleanup(end)
	for _, flow := range []string{"a", "a", "a", "other", "b", ""} {
		pr := taskpool.Medium
		if flow == "a" {
			pr = taskpool.High
		}
		_, err := p.Submit(context.Background(), taskpool.Task{Flow: flow, Priority: pr, Run: func(context.Context) error { <-release; return nil }})
		require.NoError(t, err)
		synctest.Wait()
	}
	time.Sleep(time.Minute)
	return p, end
}

func TestFlowsAreNoLabelUnlessListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		hostFlows(t, c)
		s := gather(t, reg)
		require.EqualValues(t, 2, s.sum("taskpool_tasks_held_back", "pool", "hosts"))
		for name, family := range s {
			require.NotContains(t, name, "flow")
			for _, m := range family.Metric {
				for _, l := range m.Label {
					require.NotEqual(t, "flow", l.GetName(), name)
				}
			}
		}
	})
}

func TestEachListedFlowIsShownAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t, prompool.WithFlowNames("a", "nobody", "", "other", "a"))
		hostFlows(t, c)
		s := gather(t, reg)
		for name, want := range map[string]map[string]float64{
			"taskpool_flow_queue_depth":            {"a": 2, "other": 0, "nobody": 0, "": 1},
			"taskpool_flow_tasks_held_back":        {"a": 2, "other": 0, "nobody": 0, "": 0},
			"taskpool_flow_tasks_running":          {"a": 1, "other": 1, "nobody": 0, "": 0},
			"taskpool_flow_oldest_waiting_seconds": {"a": 60, "other": 0, "nobody": 0, "": 60},
		} {
			require.Len(t, s[name].Metric, len(want), name)
			require.Equal(t, want, s.values(name, "flow"), name)
		}
		require.Equal(t, map[string]float64{"high": 2, "medium": 2}, s.values("taskpool_queue_depth", "priority"))
		problems, err := testutil.GatherAndLint(reg)
		require.NoError(t, err)
		require.Empty(t, problems)
	})
}

// Or an alert on what starves would tell of each flow that is at its limit.
func TestOldestWaitingIsWithoutTheTimeHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p, end := hostFlows(t, c)
		require.Equal(t, map[string]float64{"high": 0, "medium": 60}, gather(t, reg).values("taskpool_oldest_waiting_seconds", "priority"))
		end()
		shutdown(t, p)
		waited := gather(t, reg).each("taskpool_queue_wait_seconds", "priority", "high")[0].Histogram
		require.EqualValues(t, 3, waited.GetSampleCount())
		require.InDelta(t, 2*60, waited.GetSampleSum(), 1e-9, "once it is over, it is told of in full")
	})
}

// A parked task has made the pool hire, so when the next hangs no worker is replaced:
// what is left to raise an alert is the attempt and the goroutine.
func TestParkedWorkersAndHangsAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, reg := newCollector(t)
		p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1))
		release := make(chan struct{})
		for _, task := range []taskpool.Task{
			{Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { <-release; return nil })
			}},
			{Timeout: time.Second, Run: func(context.Context) error { <-release; return nil }},
		} {
			_, err := p.Submit(context.Background(), task)
			require.NoError(t, err)
			synctest.Wait()
		}
		require.Equal(t, map[string]float64{"idle": 0, "busy": 1, "parked": 1, "abandoned": 0, "lost": 0},
			gather(t, reg).values("taskpool_goroutines", "state"))
		time.Sleep(time.Minute) // a grace and more
		s := gather(t, reg)
		require.Equal(t, map[string]float64{"idle": 0, "busy": 0, "parked": 1, "abandoned": 1, "lost": 0},
			s.values("taskpool_goroutines", "state"))
		require.EqualValues(t, 1, s.sum("taskpool_attempts_ended_total", "result", "hung"))
		require.Zero(t, s.sum("taskpool_replaced_total"))
		close(release)
		shutdown(t, p)
	})
}

func TestAtMost25PrioritiesHaveLabels(t *testing.T) {
	c, reg := newCollector(t, prompool.WithPriorities(1000, taskpool.High))
	p := newPool(t, c, taskpool.WithName("a"))
	for _, pr := range priorities(40) {
		submit(t, p, taskpool.Task{Priority: pr})
	}
	first := gather(t, reg)
	dispatched := first.values("taskpool_attempts_started_total", "priority")
	require.Len(t, dispatched, 26)
	require.EqualValues(t, 40-23, dispatched["other"])
	require.Zero(t, dispatched["1000"])
	require.Zero(t, dispatched["high"])
	require.EqualValues(t, 1, dispatched["22"], "23 had room, the first to come")
	require.NotContains(t, dispatched, "23")

	// Neither what comes later nor how much of it moves any of them.
	for range 3 {
		submit(t, p, taskpool.Task{Priority: 39})
		submit(t, p, taskpool.Task{Priority: 1000})
	}
	shutdown(t, p)
	dispatched["other"] += 3
	dispatched["1000"] += 3
	second := gather(t, reg)
	require.Equal(t, dispatched, second.values("taskpool_attempts_started_total", "priority"))
	delete(dispatched, "high") // never waited
	require.Equal(t, dispatched, second.values("taskpool_queue_wait_seconds", "priority"))
	require.Equal(t, dispatched, second.values("taskpool_attempt_duration_seconds", "priority"))
}

func TestTaskNamesAreBounded(t *testing.T) {
	c, reg := newCollector(t, prompool.WithTaskNames(3))
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1)) // one, so in this order
	for _, name := range []string{"b", "other", "", "a", "b", "\xff", "x", "y", "\xff", "a"} {
		submit(t, p, taskpool.Task{Name: name})
	}
	submit(t, p, taskpool.Task{Name: "b", Priority: taskpool.Low})
	shutdown(t, p)
	require.Equal(t, map[string]float64{"a": 2, "b": 3, "\uFFFD": 2, "": 1, "other": 3},
		gather(t, reg).values("taskpool_attempt_duration_seconds", "task"))
}

func TestTaskNamesAreNoLabelUnlessAskedFor(t *testing.T) {
	c, reg := newCollector(t)
	p := newPool(t, c, taskpool.WithName("a"))
	submit(t, p, taskpool.Task{Name: "secret"})
	shutdown(t, p)
	var text bytes.Buffer
	write(t, reg, &text)
	require.NotContains(t, text.String(), "secret")
	require.Contains(t, text.String(), `taskpool_attempt_duration_seconds_count{pool="a",priority="medium"} 1`)
}

func TestFunctionsCountForThoseThatTheSampleLeavesOut(t *testing.T) {
	const n, every = 20_000, 4
	c, reg := newCollector(t, prompool.WithGoEvery(every))
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1))
	for range n {
		require.NoError(t, p.Go(taskpool.Low, func() {}))
	}
	require.NoError(t, p.Go(taskpool.Low, func() { panic("not in the histogram of attempts") }))
	shutdown(t, p)
	s := gather(t, reg)
	require.EqualValues(t, n+1, s.sum("taskpool_attempts_started_total", "priority", "low"))
	// 4 times a binomial variable with standard deviation 61: 10 of these are 2450.
	for _, name := range []string{"taskpool_queue_wait_seconds", "taskpool_attempt_duration_seconds"} {
		require.InDelta(t, n, s.sum(name, "priority", "low"), 2450, name)
		require.Zero(t, int(s.sum(name))%every)
	}
}

// write writes metrics as text.
func write(tb testing.TB, g prometheus.Gatherer, to io.Writer) {
	tb.Helper()
	families, err := g.Gather()
	require.NoError(tb, err)
	for _, f := range families {
		_, err := expfmt.MetricFamilyToText(to, f)
		require.NoError(tb, err)
	}
}

// parse reads metrics that were written as text.
func parse(tb testing.TB, text io.Reader) scrape {
	tb.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	s, err := parser.TextToMetricFamilies(text)
	require.NoError(tb, err)
	return s
}

func TestEachScrapeAddsUpUnderLoad(t *testing.T) {
	c, reg := newCollector(t)
	pools := []*taskpool.Pool{
		newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(3), taskpool.WithCapacity(50, taskpool.OverflowShed)),
		newPool(t, c, taskpool.WithName("b"), taskpool.WithWorkers(2)),
	}
	const tasks = 1500
	var load, scrapes sync.WaitGroup
	done := make(chan struct{})
	for _, p := range pools {
		for g := range 2 {
			load.Go(func() {
				for i := range tasks {
					workOn(p, g*tasks+i)
				}
			})
		}
	}
	for range 2 {
		scrapes.Go(func() {
			last := map[string]float64{}
			for more := true; more; {
				select {
				case <-done:
					more = false // and one when all is quiet
				default:
				}
				var text bytes.Buffer
				write(t, reg, &text)
				s := parse(t, &text)
				for _, pool := range []string{"a", "b"} {
					requireAddsUp(t, s, pool)
					submitted := s.sum("taskpool_tasks_submitted_total", "pool", pool)
					require.GreaterOrEqual(t, submitted, last[pool])
					last[pool] = submitted
				}
			}
		})
	}
	load.Wait()
	for _, p := range pools {
		require.NoError(t, p.WaitIdle(context.Background()))
	}
	close(done)
	scrapes.Wait()

	s := gather(t, reg)
	for _, p := range pools {
		pool := p.Name()
		require.Zero(t, s.sum("taskpool_tasks", "pool", pool))
		require.EqualValues(t, p.Stats().Attempts, s.sum("taskpool_attempts_started_total", "pool", pool))
		require.Positive(t, s.sum("taskpool_attempts_ended_total", "pool", pool, "result", "panic"))
		require.Positive(t, s.sum("taskpool_retries_total", "pool", pool))
	}
	require.Positive(t, s.sum("taskpool_tasks_finished_total", "outcome", "shed"))
}

// What hooks are told of is what the counters say, where no function is left out.
func TestHistogramsAgreeWithCounters(t *testing.T) {
	c, reg := newCollector(t)
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(3))
	var load sync.WaitGroup
	for g := range 2 {
		load.Go(func() {
			for i := range 500 {
				workOn(p, 2*(g*500+i)+1) // no functions
			}
		})
	}
	load.Wait()
	shutdown(t, p)
	s := gather(t, reg)
	require.Equal(t, s.values("taskpool_attempts_started_total", "priority"), s.values("taskpool_queue_wait_seconds", "priority"))
	require.Equal(t, s.values("taskpool_attempts_started_total", "priority"), s.values("taskpool_attempt_duration_seconds", "priority"))
	require.Equal(t, s.sum("taskpool_attempts_started_total"), s.sum("taskpool_attempts_ended_total"))
}

// workOn gives p the i-th task of a mix: a function if i is even.
func workOn(p *taskpool.Pool, i int) {
	pr := taskpool.Priority(i % 7)
	if i%2 == 0 {
		_ = p.Go(pr, func() {
			if i%50 == 0 {
				panic("boom")
			}
		})
		return
	}
	_, _ = p.Submit(context.Background(), taskpool.Task{
		Priority: pr,
		Retry:    taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Millisecond }},
		Run: func(ctx context.Context) error {
			switch i % 15 {
			case 0:
				return errors.New("failed")
			case 3:
				return taskpool.Block(ctx, func() error { runtime.Gosched(); return nil })
			case 9:
				return taskpool.Yield(ctx)
			}
			return nil
		},
	})
}

func requireAddsUp(t *testing.T, s scrape, pool string) {
	t.Helper()
	sum := func(name string, labels ...string) float64 {
		return s.sum("taskpool_"+name, append(labels, "pool", pool)...)
	}
	require.Equal(t, sum("tasks_submitted_total"), sum("tasks_finished_total")+sum("tasks"))
	require.Equal(t, sum("attempts_started_total"), sum("attempts_ended_total")+sum("tasks", "state", "running")+sum("tasks", "state", "parked"))
	require.Equal(t, sum("tasks", "state", "queued"), sum("queue_depth"))
	for _, m := range s.each("taskpool_attempts_ended_total", "pool", pool) {
		require.GreaterOrEqual(t, m.GetCounter().GetValue(), 0.)
		require.LessOrEqual(t, m.GetCounter().GetValue(), sum("attempts_started_total"))
	}
}

func TestHooksDoNotAllocate(t *testing.T) {
	for _, opts := range [][]prompool.Option{nil, {prompool.WithTaskNames(2)}} {
		c, _ := newCollector(t, opts...)
		newPool(t, c, taskpool.WithName("a"))
		hooks := c.Hooks()
		e := taskpool.TaskEvent{Pool: "a", Task: taskpool.TaskInfo{ID: 1, Name: "x", State: taskpool.StateSucceeded}, Elapsed: time.Second}
		require.Zero(t, testing.AllocsPerRun(100, func() {
			hooks.Started(e)
			hooks.Finished(e)
		}))
	}
}

func TestEventsOfOtherPoolsAreIgnored(t *testing.T) {
	c, reg := newCollector(t)
	hooks := c.Hooks()
	e := taskpool.TaskEvent{Pool: "b", Task: taskpool.TaskInfo{ID: 1, State: taskpool.StateSucceeded}}
	hooks.Started(e)
	hooks.Finished(e)
	require.Empty(t, gather(t, reg))
}

func TestWatchAndCollectAtTheSameTime(t *testing.T) {
	c, reg := newCollector(t)
	var wg sync.WaitGroup
	for g := range 3 {
		p := newPool(t, c, taskpool.WithName("p"+strconv.Itoa(g)), taskpool.WithWorkers(1))
		wg.Go(func() {
			for i := range 50 {
				if c.Unwatch(p); c.Watch(p) != nil {
					t.Errorf("pool %d: cannot be watched again", g)
				}
				_ = p.Go(taskpool.Priority(i), func() {})
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			gather(t, reg)
		}
	})
	wg.Wait()
	require.Len(t, gather(t, reg).each("taskpool_workers"), 3)
}

func ExampleCollector() {
	c, err := prompool.New()
	if err != nil {
		panic(err)
	}
	pool, err := taskpool.New(taskpool.WithName("mail"), taskpool.WithHooks(c.Hooks()))
	if err != nil {
		panic(err)
	}
	if err := c.Watch(pool); err != nil {
		panic(err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(c) // serve it with promhttp.HandlerFor(reg, promhttp.HandlerOpts{})

	for range 3 {
		_ = pool.Go(taskpool.High, func() {})
	}
	_ = pool.Shutdown(context.Background())

	var text strings.Builder
	families, _ := reg.Gather()
	for _, f := range families {
		_, _ = expfmt.MetricFamilyToText(&text, f)
	}
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "taskpool_tasks_") || strings.HasPrefix(line, "taskpool_attempts_started") {
			fmt.Print(line)
		}
	}
	// Output:
	// taskpool_attempts_started_total{pool="mail",priority="high"} 3
	// taskpool_tasks_dependent{pool="mail"} 0
	// taskpool_tasks_expired_total{pool="mail"} 0
	// taskpool_tasks_finished_total{outcome="canceled",pool="mail",priority="high"} 0
	// taskpool_tasks_finished_total{outcome="failed",pool="mail",priority="high"} 0
	// taskpool_tasks_finished_total{outcome="shed",pool="mail",priority="high"} 0
	// taskpool_tasks_finished_total{outcome="succeeded",pool="mail",priority="high"} 3
	// taskpool_tasks_held_back{pool="mail"} 0
	// taskpool_tasks_orphaned_total{pool="mail"} 0
	// taskpool_tasks_refused_total{pool="mail",priority="high",reason="closed"} 0
	// taskpool_tasks_refused_total{pool="mail",priority="high",reason="context"} 0
	// taskpool_tasks_refused_total{pool="mail",priority="high",reason="expired"} 0
	// taskpool_tasks_refused_total{pool="mail",priority="high",reason="flow"} 0
	// taskpool_tasks_refused_total{pool="mail",priority="high",reason="full"} 0
	// taskpool_tasks_submitted_total{pool="mail"} 3
}
