package prompool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

// A situation is something that an engineer on call may meet, with all that he is told.
type situation struct {
	name string
	opts []taskpool.Option
	// load is called once a second, with the number of the second; until pool.end is called.
	load func(s *stage, second int)

	page    []string // the problems on the page 15 s after it began
	metrics []string // those of troubles that are not zero then
	alerts  []string // that fire when it has lasted for minutes
	minutes int      // 15 unless set
	runbook string
}

// A stage is where a situation takes place.
type stage struct {
	t    *testing.T
	p    *taskpool.Pool
	gate chan struct{} // closed at the end
}

func (s *stage) submit(ctx context.Context, n int, task taskpool.Task) {
	for range n {
		_, _ = s.p.Submit(ctx, task)
	}
}

func (s *stage) do(n int, pr taskpool.Priority, run func(context.Context) error) {
	s.submit(context.Background(), n, taskpool.Task{Priority: pr, Run: run})
}

// untilEnd waits for the end of the situation, whatever its context says.
func (s *stage) untilEnd(context.Context) error { <-s.gate; return nil }

func works(context.Context) error        { time.Sleep(10 * time.Millisecond); return nil }
func takesASecond(context.Context) error { time.Sleep(time.Second); return nil }
func fails(context.Context) error        { return errors.New("out of order") }

// troubles are the metrics that say that something is wrong, by a name.
var troubles = map[string][]string{
	"failed":          {"taskpool_tasks_finished_total", "outcome", "failed"},
	"shed":            {"taskpool_tasks_finished_total", "outcome", "shed"},
	"expired":         {"taskpool_tasks_expired_total"},
	"refused full":    {"taskpool_tasks_refused_total", "reason", "full"},
	"refused flow":    {"taskpool_tasks_refused_total", "reason", "flow"},
	"refused closed":  {"taskpool_tasks_refused_total", "reason", "closed"},
	"refused context": {"taskpool_tasks_refused_total", "reason", "context"},
	"refused expired": {"taskpool_tasks_refused_total", "reason", "expired"},
	"high refused":    {"taskpool_tasks_refused_total", "reason", "full", "priority", "high"},
	"retries":         {"taskpool_retries_total"},
	"retries denied":  {"taskpool_retries_denied_total"},
	"timeouts":        {"taskpool_attempts_ended_total", "result", "timeout"},
	"panics":          {"taskpool_attempts_ended_total", "result", "panic"},
	"hung":            {"taskpool_attempts_ended_total", "result", "hung"},
	"abandoned":       {"taskpool_goroutines", "state", "abandoned"},
	"slots lost":      {"taskpool_slots_lost"},
	"late":            {"taskpool_late"},
	"paused":          {"taskpool_paused"},
	"stalled":         {"taskpool_stalled"},
	"closed":          {"taskpool_closed"},
	"held back":       {"taskpool_tasks_held_back"},
	"submitters":      {"taskpool_submitters_waiting"},
}

func situations() []situation {
	one := taskpool.WithWorkers(1)
	once := func(do func(s *stage)) func(*stage, int) {
		return func(s *stage, second int) {
			if second == 0 {
				do(s)
			}
		}
	}
	retry := taskpool.Retry{MaxAttempts: 1000, Backoff: func(int) time.Duration { return time.Second }}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return []situation{
		{name: "an idle pool"},
		{name: "a pool that does well", load: func(s *stage, _ int) {
			s.do(5, taskpool.High, works)
			s.do(5, taskpool.Low, works)
		}},
		{name: "all tasks fail", load: func(s *stage, _ int) { s.do(20, taskpool.Medium, fails) },
			page: []string{"Failing"}, metrics: []string{"failed"}, alerts: []string{"TaskpoolFailing"}},
		{name: "all tasks panic", load: func(s *stage, _ int) { s.do(2, taskpool.Medium, func(context.Context) error { panic("x") }) },
			page: []string{"Failing"}, metrics: []string{"failed", "panics"}, alerts: []string{"TaskpoolFailing"}},
		{name: "one in five fails", load: func(s *stage, _ int) { s.do(2, taskpool.Low, fails); s.do(8, taskpool.High, works) },
			page: []string{"Failing"}, metrics: []string{"failed"}, alerts: []string{"TaskpoolFailing"}},
		{name: "one in fifty fails", load: func(s *stage, _ int) {
			s.do(1, taskpool.Low, fails)
			s.do(49, taskpool.High, func(context.Context) error { return nil })
		},
			metrics: []string{"failed"}},
		{name: "all tasks time out", load: func(s *stage, _ int) {
			s.submit(context.Background(), 2, taskpool.Task{Timeout: 10 * time.Millisecond, Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		}, page: []string{"Failing"}, metrics: []string{"failed", "timeouts"}, alerts: []string{"TaskpoolFailing"}},
		{name: "a retry storm in which no task has failed", load: once(func(s *stage) {
			s.submit(context.Background(), 50, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 10_000, Backoff: retry.Backoff}, Run: fails})
		}), page: []string{"Retry storm"}, metrics: []string{"retries"}, alerts: []string{"TaskpoolRetryStorm"}},
		{name: "a spent retry budget", opts: []taskpool.Option{taskpool.WithRetryBudget(0.01, 0)}, load: func(s *stage, _ int) {
			s.submit(context.Background(), 5, taskpool.Task{Retry: retry, Run: fails})
		}, page: []string{"Failing", "Not retrying"}, metrics: []string{"failed", "retries denied"}, alerts: []string{"TaskpoolFailing"}},
		{name: "a paused pool without tasks", load: once(func(s *stage) { s.p.Pause() }),
			page: []string{"Paused"}, metrics: []string{"paused"}},
		{name: "a paused pool that fills up", load: func(s *stage, second int) {
			if second == 0 {
				s.p.Pause()
			}
			s.do(1, taskpool.Medium, works)
		}, page: []string{"Paused"}, metrics: []string{"paused"}, alerts: []string{"TaskpoolPaused"}},
		{name: "less urgent tasks are shed", opts: []taskpool.Option{one, taskpool.WithCapacity(10, taskpool.OverflowShed)}, load: func(s *stage, _ int) {
			s.do(20, taskpool.Low, func(context.Context) error { time.Sleep(100 * time.Millisecond); return nil })
			s.do(2, taskpool.High, works)
		}, page: []string{"Shedding", "Refusing"}, metrics: []string{"shed", "refused full"}, alerts: []string{"TaskpoolShedding"}},
		{name: "High tasks are refused", opts: []taskpool.Option{one, taskpool.WithCapacity(10, taskpool.OverflowReject)}, load: func(s *stage, _ int) {
			s.do(30, taskpool.High, func(context.Context) error { time.Sleep(time.Second / 2); return nil })
		}, page: []string{"High turned away", "Refusing", "Queue over 80 %"}, metrics: []string{"refused full", "high refused"}, alerts: []string{"TaskpoolShedding", "TaskpoolHighTurnedAway"}},
		{name: "a rolling restart", load: func(s *stage, second int) {
			if second == 5 {
				_ = s.p.Shutdown(context.Background())
			}
			s.do(5, taskpool.High, works)
		}, metrics: []string{"closed", "refused closed"}},
		{name: "contexts that are over", load: func(s *stage, _ int) { s.submit(ended, 5, taskpool.Task{Run: works}); s.do(5, taskpool.High, works) },
			page: []string{"Refusing"}, metrics: []string{"refused context"}},
		{name: "a flow that fills its own capacity", opts: []taskpool.Option{one, taskpool.WithCapacity(1000, taskpool.OverflowReject), taskpool.WithFlows(func(string) taskpool.FlowPolicy {
			return taskpool.FlowPolicy{Limit: 1, Capacity: 2}
		})}, load: func(s *stage, _ int) {
			s.submit(context.Background(), 4, taskpool.Task{Flow: "greedy", Run: takesASecond})
		}, page: []string{"Refusing"}, metrics: []string{"refused flow", "held back"}},
		{name: "tasks held back by the limit of their flow", opts: []taskpool.Option{taskpool.WithWorkers(2), taskpool.WithFlows(func(string) taskpool.FlowPolicy {
			return taskpool.FlowPolicy{Limit: 1}
		})}, load: func(s *stage, second int) {
			if second == 0 {
				s.submit(context.Background(), 3, taskpool.Task{Flow: "slow", Run: s.untilEnd})
			}
			s.do(3, taskpool.High, works)
		}, metrics: []string{"held back"}},
		{name: "tasks expire", opts: []taskpool.Option{one}, load: func(s *stage, _ int) {
			s.submit(context.Background(), 4, taskpool.Task{MaxWait: 2 * time.Second, Run: takesASecond})
		}, page: []string{"Expiring"}, metrics: []string{"expired", "shed"}, alerts: []string{"TaskpoolShedding"}},
		{name: "a queue that is late", opts: []taskpool.Option{one, taskpool.WithQueueDelay(200 * time.Millisecond)}, load: func(s *stage, _ int) {
			for i := range 10 {
				time.AfterFunc(time.Duration(i)*100*time.Millisecond, func() {
					s.do(1, taskpool.Low, func(context.Context) error { time.Sleep(300 * time.Millisecond); return nil })
				})
			}
		}, page: []string{"Late", "Expiring"}, metrics: []string{"late", "expired", "shed"}, alerts: []string{"TaskpoolShedding"}},
		{name: "a priority that starves", opts: []taskpool.Option{one, taskpool.WithFairShare(0)}, load: func(s *stage, second int) {
			if second == 0 {
				s.do(5, taskpool.High, takesASecond)
				s.do(1, taskpool.Low, works)
			}
			s.do(1, taskpool.High, takesASecond)
		}, page: []string{"Starving"}, alerts: []string{"TaskpoolStarving"}},
		{name: "a priority that starves behind more than a page has rows for", opts: []taskpool.Option{one, taskpool.WithFairShare(0)}, load: func(s *stage, second int) {
			if second == 0 {
				s.do(5, taskpool.High, takesASecond)
				s.do(1, 500, works)
			}
			s.do(1, taskpool.High, takesASecond)
			for i := range 40 {
				if second == 14 {
					s.do(1, taskpool.Priority(i+10), works)
				}
			}
		}, page: []string{"Starving"}, alerts: []string{"TaskpoolStarving"}},
		{name: "more work than workers", opts: []taskpool.Option{one}, load: func(s *stage, second int) {
			if second == 0 {
				s.do(12, taskpool.Medium, takesASecond)
			}
			s.do(2, taskpool.Medium, takesASecond)
		}, page: []string{"Waits long"}, alerts: []string{"TaskpoolStarving"}},
		{name: "submitters that wait for room", opts: []taskpool.Option{one, taskpool.WithCapacity(5, taskpool.OverflowWait)}, load: func(s *stage, second int) {
			if second == 0 {
				for range 8 {
					go func() {
						for {
							select {
							case <-s.gate:
								return
							default:
								s.do(1, taskpool.Medium, takesASecond)
							}
						}
					}()
				}
			}
		}, page: []string{"Full", "Queue over 80 %"}, metrics: []string{"submitters"}},
		{name: "all slots are held, and tasks wait", opts: []taskpool.Option{one, taskpool.WithHangGrace(time.Hour)}, load: once(func(s *stage) {
			s.do(3, taskpool.Medium, s.untilEnd)
		}), page: []string{"Stalled"}, alerts: []string{"TaskpoolStalled"}},
		{name: "a pool that stands still", opts: []taskpool.Option{one, taskpool.WithHangGrace(5 * time.Second)}, load: once(func(s *stage) {
			s.do(3, taskpool.Medium, s.untilEnd)
		}), page: []string{"Stalled"}, metrics: []string{"stalled"}, alerts: []string{"TaskpoolStalled"}},
		{name: "tasks that wait for each other", opts: []taskpool.Option{taskpool.WithHangGrace(time.Second)}, load: once(func(s *stage) {
			var other *taskpool.Handle
			ready := make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			go func() { <-s.gate; cancel() }()
			first, err := s.p.Submit(ctx, taskpool.Task{Name: "first", Run: func(ctx context.Context) error { <-ready; return other.Wait(ctx) }})
			require.NoError(s.t, err)
			other, err = s.p.Submit(ctx, taskpool.Task{Name: "second", Run: func(ctx context.Context) error { return first.Wait(ctx) }})
			require.NoError(s.t, err)
			close(ready)
		}), page: []string{"Waiting in a circle"}, metrics: []string{"stalled"}, alerts: []string{"TaskpoolStalled"}},
		{name: "tasks that hang", opts: []taskpool.Option{one, taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(9)}, load: once(func(s *stage) {
			s.submit(context.Background(), 3, taskpool.Task{Name: "stuck", Timeout: time.Second, Run: s.untilEnd})
		}), page: []string{"Hung"}, metrics: []string{"hung", "abandoned", "failed"}, alerts: []string{"TaskpoolHung"}},
		{name: "a task that hangs and keeps its slot", opts: []taskpool.Option{one, taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(0)}, load: once(func(s *stage) {
			s.submit(context.Background(), 1, taskpool.Task{Name: "stuck", Timeout: time.Second, Run: s.untilEnd})
		}), page: []string{"Slots lost", "Hung"}, metrics: []string{"hung", "slots lost", "failed"}, alerts: []string{"TaskpoolHung"}},
		{name: "a shutdown that waits for tasks that hold all slots", opts: []taskpool.Option{one, taskpool.WithHangGrace(5 * time.Second)}, load: once(func(s *stage) {
			s.do(2, taskpool.Medium, s.untilEnd)
			go func() { _ = s.p.Shutdown(context.Background()) }()
		}), page: []string{"Stalled"}, metrics: []string{"closed", "stalled"}, alerts: []string{"TaskpoolStalled"}},
		{name: "slots are lost, and tasks wait", opts: []taskpool.Option{one, taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(0)}, load: once(func(s *stage) {
			s.submit(context.Background(), 3, taskpool.Task{Name: "stuck", Timeout: time.Second, Run: s.untilEnd})
		}), page: []string{"Slots lost", "Hung", "Stalled"}, metrics: []string{"hung", "slots lost", "failed", "stalled"}, alerts: []string{"TaskpoolHung", "TaskpoolStalled"}},
		{name: "a task that is overdue", opts: []taskpool.Option{one, taskpool.WithHangGrace(20 * time.Second)}, load: once(func(s *stage) {
			s.submit(context.Background(), 1, taskpool.Task{Name: "slow", Timeout: 5 * time.Second, Run: func(context.Context) error { time.Sleep(20 * time.Second); return nil }})
		}), page: []string{"Overdue"}},
		{name: "a task that runs for long", load: once(func(s *stage) { s.do(1, taskpool.Medium, s.untilEnd) }),
			alerts: []string{"TaskpoolLongRunning"}, minutes: 35},
	}
}

// What page, snapshot.json, metrics and alerts say agrees, and is the truth, in each situation.
// The alerts are evaluated by promtool on what was scraped once a minute of virtual time.
func TestAllThatIsToldOfASituationIsTrue(t *testing.T) {
	var series strings.Builder
	rules, err := filepath.Abs("../alerts/taskpool.rules.yml")
	require.NoError(t, err)
	fmt.Fprintf(&series, "rule_files: [%q]\nevaluation_interval: 1m\ntests:\n", rules)
	runbook, err := os.ReadFile("../../docs/runbook.md")
	require.NoError(t, err)
	for _, s := range situations() {
		s.runbook = string(runbook)
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { s.play(t, &series) })
		})
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("the alerts are not looked at: promtool is missing, which comes with Prometheus")
	}
	file := filepath.Join(t.TempDir(), "situations.yml")
	require.NoError(t, os.WriteFile(file, []byte(series.String()), 0o600))
	out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// play has the situation take place, and adds to series what was scraped.
func (x *situation) play(t *testing.T, series *strings.Builder) {
	c, reg := newCollector(t)
	d, err := dashboard.New()
	require.NoError(t, err)
	s := &stage{t: t, gate: make(chan struct{})}
	s.p = newPool(t, c, append([]taskpool.Option{taskpool.WithName("pool"), taskpool.WithWorkers(4), taskpool.WithHooks(d.Hooks())}, x.opts...)...)
	require.NoError(t, d.Watch(s.p))
	if x.minutes == 0 {
		x.minutes = 15
	}
	end := sync.OnceFunc(func() { close(s.gate) })
	defer end()
	time.Sleep(time.Millisecond) // out of step with whole seconds
	recorded := make(map[string][]string)
	for second := range 60*x.minutes + 1 {
		if x.load != nil {
			x.load(s, second)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if second < 14 {
			page(t, d)
		}
		if second == 14 {
			x.requirePage(t, d)
			x.requireMetrics(t, gather(t, reg))
		}
		if second%60 == 0 {
			record(gather(t, reg), second/60, recorded)
		}
	}
	end()
	s.p.Resume()
	shutdown(t, s.p)
	x.write(series, recorded)
}

// page returns what is at a path of the page.
func page(t *testing.T, d *dashboard.Dashboard, path ...string) string {
	r := httptest.NewRequest(http.MethodGet, "/debug/taskpool/"+strings.Join(path, ""), nil)
	r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1024"
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

func (x *situation) requirePage(t *testing.T, d *dashboard.Dashboard) {
	var snapshot struct {
		Pools []struct {
			Health   string
			Stats    taskpool.Stats
			State    string
			Problems []struct{ What, Text, Figure, Runbook string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(page(t, d, "snapshot.json")), &snapshot))
	pool := snapshot.Pools[0]
	var whats []string
	html := page(t, d)
	for _, p := range pool.Problems {
		whats = append(whats, p.What)
		require.Contains(t, html, "<strong>"+p.What+"</strong>")
	}
	require.ElementsMatch(t, x.page, whats, "%+v", pool.Problems)
	// The page leads to what the runbook says of the alert that rings, and names the problem so that
	// it is found there.
	headings := make(map[string]bool)
	for _, p := range pool.Problems {
		require.Contains(t, html, `<a href="`+p.Runbook+`" rel="noreferrer">What to do</a>`)
		require.Contains(t, x.runbook, "| "+p.What+" |")
		_, heading, _ := strings.Cut(p.Runbook, "/docs/runbook.md#")
		headings[heading] = true
	}
	for _, alert := range x.alerts {
		require.True(t, headings[strings.ToLower(alert)] || alert == "TaskpoolLongRunning", "the page has nothing of %s", alert)
	}
	_, list, _ := strings.Cut(html, `<ul class="problems"`)
	list, _, _ = strings.Cut(list, "</ul>")
	require.Equal(t, len(x.page), strings.Count(list, "<strong>"))
	unwell := pool.Stats.Stalled || pool.Stats.Lost > 0
	require.Equal(t, unwell && !pool.Stats.Closed, pool.State == "stalled" || pool.State == "unhealthy")
	require.Equal(t, unwell && !pool.Stats.Closed, pool.Health != "")
	require.Equal(t, unwell, strings.Contains(html, `<span class="badge bad">`+pool.State))
}

func (x *situation) requireMetrics(t *testing.T, s scrape) {
	var found []string
	for name, of := range troubles {
		if s.sum(of[0], of[1:]...) > 0 {
			found = append(found, name)
		}
	}
	require.ElementsMatch(t, x.metrics, found)
}

// record adds what was scraped in a minute.
func record(s scrape, minute int, to map[string][]string) {
	for name, family := range s {
		for _, m := range family.Metric {
			if m.Histogram != nil {
				continue
			}
			labels := make(prometheus.Labels)
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			var text []string
			for _, k := range slices.Sorted(maps.Keys(labels)) {
				text = append(text, k+"="+strconv.Quote(labels[k]))
			}
			key := name + "{" + strings.Join(text, ", ") + "}"
			for len(to[key]) < minute {
				to[key] = append(to[key], "_")
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			to[key] = append(to[key], strconv.FormatFloat(value, 'f', -1, 64))
		}
	}
}

// write adds a test for promtool of the alerts that must fire at the end, and of no other.
func (x *situation) write(to *strings.Builder, recorded map[string][]string) {
	fmt.Fprintf(to, "  - name: %q\n    interval: 1m\n    input_series:\n", x.name)
	for _, key := range slices.Sorted(maps.Keys(recorded)) {
		fmt.Fprintf(to, "      - series: '%s'\n        values: '%s'\n", key, strings.Join(recorded[key], " "))
	}
	fmt.Fprintf(to, "    promql_expr_test:\n      - eval_time: %dm\n        expr: count by (alertname) (ALERTS{alertstate=\"firing\"})\n        exp_samples:\n", x.minutes)
	for _, name := range x.alerts {
		fmt.Fprintf(to, "          - labels: '{alertname=%q}'\n            value: 1\n", name)
	}
}
