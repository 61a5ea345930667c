package dashboard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

// oneAtATime has each flow run one task at a time, but for tasks without a flow.
func oneAtATime(flow string) taskpool.FlowPolicy {
	if flow == "" {
		return taskpool.FlowPolicy{}
	}
	return taskpool.FlowPolicy{Limit: 1}
}

// sent returns what d sends to a browser that comes now, as the page has it.
func sent(t *testing.T, d *dashboard.Dashboard) string {
	t.Helper()
	s := look(d, nil)
	synctest.Wait()
	s.leave()
	var parts []string
	require.NoError(t, json.Unmarshal([]byte(s.got()[0]), &parts))
	return strings.Join(parts, "\n")
}

func TestFlowsOfWhichMostTasksWaitAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(3), taskpool.WithFlows(oneAtATime))
		run, end := context.WithCancel(t.Context())
		for _, flow := range []string{"slow.example", "slow.example", "slow.example", "quick.example", ""} {
			submit(t, p, taskpool.Task{Flow: flow, Run: func(context.Context) error { <-run.Done(); return nil }})
			synctest.Wait()
		}
		submit(t, p, taskpool.Task{Flow: "late.example", Run: func(context.Context) error { return nil }})
		time.Sleep(90 * time.Second)
		for _, html := range []string{page(t, d), sent(t, d)} {
			require.Contains(t, part(html, "flows"), "Flows Flow Waiting Held back Running Oldest "+
				"slow.example 2 2 1 1 m 30 s late.example 1 0 0 1 m 30 s no flow 0 0 1 0 s quick.example 0 0 1 0 s")
			require.Contains(t, part(html, "summary"), "Waiting 3 no limit delayed 0 held back 2 submitters waiting 0")
			require.NotContains(t, html, "of which most tasks wait", "these are all")
		}
		end()
		time.Sleep(time.Second)
		shutDown(p)
	})
}

func TestNoFlowsAreShownWhereTasksHaveNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		none := func(html string) {
			t.Helper()
			require.Contains(t, html, `<section id="p1-flows" class="card flows" aria-labelledby="p1-name p1-flows-h" hidden>`)
			require.NotContains(t, html, "Held back")
			require.NotContains(t, html, "held back")
			require.NotContains(t, html, "no flow")
			require.NotContains(t, html, `<span class="flow">`)
		}
		submit(t, p, taskpool.Task{Run: untilEnd}).Cancel(nil)
		running := submit(t, p, taskpool.Task{Run: untilEnd})
		waiting := submit(t, p, taskpool.Task{Run: untilEnd})
		require.NoError(t, p.Go(taskpool.Low, func() {}))
		synctest.Wait()
		none(page(t, d))
		none(sent(t, d))

		h := submit(t, p, taskpool.Task{Flow: "acme", Run: untilEnd})
		time.Sleep(time.Second)
		html := page(t, d)
		require.Contains(t, html, `<section id="p1-flows" class="card flows" aria-labelledby="p1-name p1-flows-h">`)
		require.Contains(t, part(html, "flows"), "no flow 2 0 1 ")
		require.Contains(t, part(html, "flows"), "acme 1 0 0 ")
		h.Cancel(nil)
		time.Sleep(time.Second)
		none(page(t, d))
		running.Cancel(nil)
		waiting.Cancel(nil)
		shutDown(p)
	})
}

func TestTenFlowsAreListedAndMoreAreSaidToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		p.Pause()
		for i := range 10 {
			for range i + 1 {
				submit(t, p, taskpool.Task{Flow: fmt.Sprint("tenant", i), Run: func(context.Context) error { return nil }})
			}
		}
		html := page(t, d)
		require.Equal(t, 11, strings.Count(html[strings.Index(html, `id="p1-flows"`):strings.Index(html, `id="p1-names"`)], "<tr"))
		require.NotContains(t, html, "of which most tasks wait")
		require.Less(t, strings.Index(part(html, "flows"), "tenant9"), strings.Index(part(html, "flows"), "tenant8"))

		for range 2 {
			submit(t, p, taskpool.Task{Flow: "newcomer", Run: func(context.Context) error { return nil }})
		}
		time.Sleep(time.Second)
		html = page(t, d)
		require.Equal(t, 11, strings.Count(html[strings.Index(html, `id="p1-flows"`):strings.Index(html, `id="p1-names"`)], "<tr"))
		require.Contains(t, part(html, "flows"), "Flows the 10 of which most tasks wait")
		require.Contains(t, part(html, "flows"), "newcomer 2 0 0 ")
		require.NotContains(t, part(html, "flows"), "tenant0")
		p.Resume()
		shutDown(p)
	})
}

func TestNamesOfFlowsAreShownAsTextAndCut(t *testing.T) {
	const evil = `<script>alert(1)</script>" onload="x`
	long := strings.Repeat("€", 500)
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(8))
		for _, flow := range []string{evil, "\xff\xfe", long + "a", long + "b", "\u202egnp.exe", " ", "\x00\n"} {
			submit(t, p, taskpool.Task{Flow: flow, Run: untilEnd})
			submit(t, p, taskpool.Task{Flow: flow, Run: func(context.Context) error { return errBroken }})
		}
		synctest.Wait()
		for _, html := range []string{page(t, d), sent(t, d)} {
			require.True(t, utf8.ValidString(html))
			require.NotContains(t, html, "<script>")
			require.NotContains(t, html, `" onload`)
			require.NotContains(t, html, "\x00")
			require.NotContains(t, html, strings.Repeat("€", 100), "too long a name is cut")
			flows := html[strings.Index(html, `id="p1-flows"`):strings.Index(html, `id="p1-names"`)]
			for _, want := range []string{"<bdi>&lt;script&gt;alert(1)&lt;/script&gt;", "<bdi>\ufffd</bdi>", "€…</bdi>", "<bdi>\u202egnp.exe</bdi>"} {
				require.Contains(t, flows, want)
				require.GreaterOrEqual(t, strings.Count(html, want), 2, "in the table and in the list of tasks: %s", want)
			}
			keys := make(map[string]bool)
			for _, row := range strings.Split(flows, `<tr data-key="`)[1:] {
				key, _, _ := strings.Cut(row, `"`)
				keys[key] = true
			}
			require.Len(t, keys, 7, "those that look the same are told apart")
		}
		for _, task := range p.Tasks() {
			task.Handle.Cancel(nil)
		}
		shutDown(p)
	})
}

func TestFlowOfATaskIsShownWithItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(4))
		long := submit(t, p, taskpool.Task{Name: "long", Flow: "acme", Run: untilEnd})
		submit(t, p, taskpool.Task{Name: "waits", Flow: "acme", Run: long.Wait})
		due := submit(t, p, taskpool.Task{Flow: "acme", NotBefore: time.Now().Add(time.Hour), Run: untilEnd})
		submit(t, p, taskpool.Task{Name: "crash", Flow: "acme", Run: func(context.Context) error { return errBroken }})
		plain := submit(t, p, taskpool.Task{Name: "plain", Run: untilEnd})
		synctest.Wait()
		html := page(t, d)
		require.Contains(t, part(html, "running"), "long #1 flow acme medium, worker")
		require.Contains(t, part(html, "running"), "plain #5 medium, worker")
		require.Contains(t, part(html, "parked"), "waits #2 flow acme waits for task 1")
		require.Contains(t, part(html, "delayed"), "unnamed #3 flow acme medium")
		require.Contains(t, part(html, "failures"), "crash #4 flow acme medium, attempt 1")
		long.Cancel(nil)
		due.Cancel(nil)
		plain.Cancel(nil)
		shutDown(p)
	})
}

func TestPriorityWhoseTasksAreHeldBackDoesNotStarve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t, dashboard.WithStarvingAfter(5*time.Second))
		p := newPool(t, d, taskpool.WithWorkers(2), taskpool.WithFlows(oneAtATime))
		stop := make(chan struct{})
		first := submit(t, p, taskpool.Task{Flow: "acme", Priority: taskpool.Low, Run: untilEnd})
		second := submit(t, p, taskpool.Task{Flow: "acme", Priority: taskpool.Low, Run: untilEnd})
		endless(p, taskpool.High, stop)
		time.Sleep(20 * time.Second)
		synctest.Wait() // a task ends at this very instant, and the next one starts
		html := page(t, d)
		require.Contains(t, part(html, "flows"), "acme 1 1 1 20 s")
		require.Contains(t, part(html, "queue"), "low 1 0 s 0")
		require.Empty(t, problems(html))
		close(stop)
		first.Cancel(nil)
		second.Cancel(nil)
		time.Sleep(time.Second)
		shutDown(p)
	})
}

// problems returns those of the first pool, without the links to what to do.
func problems(html string) string {
	html = html[strings.Index(html, `<ul class="problems"`):]
	return strings.ReplaceAll(text(html[:strings.Index(html, "</ul>")]), " What to do", "")
}

// Without hooks the arrival of a task is not timed.
func TestWaitOfAFlowThatMayBeLongerIsShownAsAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p, err := taskpool.New(taskpool.WithWorkers(1))
		require.NoError(t, err)
		require.NoError(t, d.Watch(p))
		p.Pause()
		submit(t, p, taskpool.Task{Flow: "acme", Run: func(context.Context) error { return nil }})
		time.Sleep(time.Hour)
		page(t, d)
		time.Sleep(2 * time.Second)
		require.Contains(t, part(page(t, d), "flows"), "acme 1 0 0 ≥ 2 s")
		p.Resume()
		shutDown(p)
	})
}
