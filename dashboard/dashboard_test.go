package dashboard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

func TestBadOptionIsRefused(t *testing.T) {
	for want, o := range map[string]dashboard.Option{
		"option 1 must not be nil":                                                                           nil,
		"WithMaxClients: n must be at least 1, got 0":                                                        dashboard.WithMaxClients(0),
		"WithStarvingAfter: d must be positive, got 0s":                                                      dashboard.WithStarvingAfter(0),
		"WithGoEvery: n must be at least 1, got -1":                                                          dashboard.WithGoEvery(-1),
		"WithAuthorize: authorize must not be nil, got nil":                                                  dashboard.WithAuthorize(nil),
		"WithControl: authorize must not be nil, got nil":                                                    dashboard.WithControl(nil),
		"WithHosts must be given with WithAuthorize: without, only loopback hosts are answered, got [\"a\"]": dashboard.WithHosts("a"),
	} {
		d, err := dashboard.New(o)
		require.EqualError(t, err, "dashboard: "+want)
		require.Nil(t, d)
	}
	for _, name := range []string{"", "a.example:80", "[::1]", "*.example", "http://a", "a b"} {
		_, err := dashboard.New(dashboard.WithAuthorize(func(*http.Request) error { return nil }), dashboard.WithHosts("a.example", name))
		require.EqualError(t, err, fmt.Sprintf("dashboard: WithHosts: name must be the name of a host, without a port, got %q", name))
	}
}

func TestPoolsThatCannotBeWatchedAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		other, err := taskpool.New(taskpool.WithName("other"))
		require.NoError(t, err)
		defer shutDown(other)
		require.EqualError(t, d.Watch(other, nil), "dashboard: Watch: pool 2 must not be nil")
		require.NotContains(t, page(t, d), "other", "none was added")

		require.NoError(t, d.Watch(p, other, other, p))
		html := page(t, d)
		require.Equal(t, 2, strings.Count(html, "<article"), "a pool is shown once")
		require.Less(t, strings.Index(html, "<bdi>mail"), strings.Index(html, "<bdi>other"), "in order")

		namesake, err := taskpool.New(taskpool.WithName("mail"))
		require.NoError(t, err)
		defer shutDown(namesake)
		require.EqualError(t, d.Watch(namesake),
			`dashboard: Watch: pool 1 must have a name of its own, got "mail", which another pool has (see taskpool.WithName and Dashboard.Unwatch)`)
		shutDown(p)
		time.Sleep(time.Second) // the snapshot is kept for that long
		require.Contains(t, page(t, d), ">closed<")
		require.NoError(t, d.Watch(namesake))
		html = page(t, d)
		require.Equal(t, 2, strings.Count(html, "<article"))
		require.NotContains(t, html, ">closed<", "the closed pool has given way")
		require.Contains(t, html, `id="p3"`, "addresses of the old one do not mean the new one")
	})
}

func TestPageWithoutPoolsSaysSo(t *testing.T) {
	require.Contains(t, page(t, newDashboard(t)), "No pool is watched")
}

// text returns the page as a reader sees it, each cell and term on its own.
func text(html string) string {
	html = regexp.MustCompile(`(?s)<head>.*</head>`).ReplaceAllString(html, "")
	html = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(html, " ")
	return strings.Join(strings.Fields(html), " ")
}

// The one request a browser without a script makes gets all that there is.
func TestSnapshotHasTheFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(4), taskpool.WithCapacity(50, taskpool.OverflowReject), taskpool.WithHangGrace(time.Second))
		defer shutDown(p)
		over := make(chan struct{})
		defer close(over)
		submit(t, p, taskpool.Task{Name: "crash", Run: func(context.Context) error { panic(errBroken) }})
		submit(t, p, taskpool.Task{Name: "stuck", Timeout: 2 * time.Second, Run: func(context.Context) error { <-over; return nil }})
		submit(t, p, taskpool.Task{Name: "again", Run: func(context.Context) error { return errBroken },
			Retry: taskpool.Retry{MaxAttempts: 3, Backoff: func(int) time.Duration { return 90 * time.Second }}})
		submit(t, p, taskpool.Task{Name: "pause", Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { return untilEnd(ctx) })
		}})
		synctest.Wait()
		for i := range 4 {
			submit(t, p, taskpool.Task{Name: fmt.Sprint("long", i), Timeout: time.Minute, Run: untilEnd})
			time.Sleep(time.Second)
		}
		for range 3 {
			require.NoError(t, p.Go(taskpool.Low, func() {}))
		}
		time.Sleep(4 * time.Second)
		html := page(t, d)
		got := text(html)
		for _, want := range []string{
			"mail stalled",
			"Hung stuck #2 on worker",
			"Workers 4 of 4 busy", "idle 0 parked 1 abandoned 1 slots lost 0",
			"3 capacity 50", "delayed 1 submitters waiting 0",
			"submitted 11 ", "failed 2 ", "attempts 8 ", "retries 1 errors 1 timeouts 0 panics 1 goexits 0 hangs 1 workers replaced 1",
			"low 3 ",
			"Running 4, 1 abandoned", "Parked 1", "Delayed 1",
			"stuck #2 hung medium",
			"8 s of 2 s",
			"long0 #5 medium",
			"pause #4",
			"again #3 the printer is on fire medium 1 1 m 22 s",
			"Failures 3",
			"crash #1 medium, attempt 1, the last task panicked: the printer is on fire Stack goroutine",
			"again the printer is on fire error the printer is on fire 1 The last 1, the first 00:00:00 00:00:00 again #3 medium, attempt 1, retried after 1 m 30 s the printer is on fire",
			"hung task hung: still running 1s after its context ended",
			"dashboard_test.TestSnapshotHasTheFacts",
		} {
			require.Contains(t, got, want)
		}
		running := html[strings.Index(html, `id="p1-running"`):]
		order := []int{strings.Index(running, "stuck"), strings.Index(running, "long0"), strings.Index(running, "long1"), strings.Index(running, "long2")}
		require.True(t, slices.IsSorted(order), "hung first, then the longest: %v", order)

		// What the stream sends is the same, but for stacks, which are asked for.
		s := look(d, nil)
		synctest.Wait()
		s.leave()
		require.NotContains(t, s.got()[0], "TestSnapshotHasTheFacts")
		for _, want := range []string{"stuck", "long0", "pause", "again", "crash", "the printer is on fire"} {
			require.Contains(t, s.got()[0], want)
		}
	})
}

func TestNamesAndErrorsAreShownAsText(t *testing.T) {
	const evil = `<script>alert(1)</script>" onload="x`
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t, dashboard.WithControl(anybody))
		p := newPool(t, d, taskpool.WithName(evil))
		defer shutDown(p)
		submit(t, p, taskpool.Task{Name: evil, Run: func(context.Context) error { return errors.New(evil) },
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }}})
		submit(t, p, taskpool.Task{Name: evil + "\xff" + strings.Repeat("€", 500), Run: func(context.Context) error { panic(evil) }})
		h := submit(t, p, taskpool.Task{Name: evil, Timeout: time.Second, Run: func(ctx context.Context) error { <-ctx.Done(); time.Sleep(3 * time.Second); return nil }})
		time.Sleep(2 * time.Second)
		s := look(d, nil)
		synctest.Wait()
		s.leave()
		for _, html := range []string{page(t, d), s.got()[0]} {
			require.NotContains(t, html, "<script>")
			require.NotContains(t, html, `" onload`)
			require.Contains(t, html, "&lt;script&gt;alert(1)&lt;/script&gt;")
			require.True(t, strings.ToValidUTF8(html, "") == html)
			require.NotContains(t, html, strings.Repeat("€", 100), "too long a name is cut")
		}
		_ = h.Wait(t.Context())
	})
}

// part returns a part of the first pool, as a reader sees it.
func part(html, name string) string {
	html = html[strings.Index(html, `id="p1-`+name+`"`):]
	return text("<" + html[:strings.Index(html, "</section>")])
}

func TestParkedTaskIsShownWithWhatItWaitsFor(t *testing.T) {
	const evil = `<script>alert(1)</script>" onload="x`
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(4))
		other := newPool(t, d, taskpool.WithWorkers(4), taskpool.WithName(evil))
		defer shutDown(other)
		defer shutDown(p)
		child := submit(t, p, taskpool.Task{Name: evil, Run: untilEnd})
		far := submit(t, other, taskpool.Task{Name: strings.Repeat("€", 500), Run: untilEnd})
		submit(t, p, taskpool.Task{Name: "near", Run: child.Wait})
		submit(t, p, taskpool.Task{Name: "far", Run: far.Wait})
		submit(t, p, taskpool.Task{Name: "idle", Run: other.WaitIdle})
		submit(t, p, taskpool.Task{Name: "block", Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { return untilEnd(ctx) })
		}})
		synctest.Wait()
		s := look(d, nil)
		synctest.Wait()
		s.leave()
		var parts []string
		require.NoError(t, json.Unmarshal([]byte(s.got()[0]), &parts))
		for _, html := range []string{page(t, d), strings.Join(parts, "")} {
			require.NotContains(t, html, "<script>")
			require.NotContains(t, html, `" onload`)
			require.NotContains(t, html, strings.Repeat("€", 200), "too long a text is cut")
			require.NotContains(t, html, "Who waits for whom", "nothing is wrong")
			parked := part(html, "parked")
			for _, want := range []string{
				`near #2 waits for task 1 &#34;&lt;script&gt;alert(1)&lt;/script&gt;\&#34; onload=\&#34;x&#34; medium`,
				`far #3 waits for task 1 &#34;€€€`,
				`idle #4 waits for an idle pool in pool &#34;&lt;script&gt;`,
				`block #5 medium`,
			} {
				require.Contains(t, parked, want)
			}
			require.Equal(t, 3, strings.Count(html, "waits for <bdi>"))
		}
		child.Cancel(nil)
		far.Cancel(nil)
	})
}

func TestDelayedTaskIsShownWithWhatItComesAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		require.NotContains(t, page(t, d), "of these for others")
		first := submit(t, p, taskpool.Task{Name: "first", Run: untilEnd})
		submit(t, p, taskpool.Task{Name: "next", Run: untilEnd, After: []*taskpool.Handle{first}})
		submit(t, p, taskpool.Task{Name: "timed", Run: untilEnd, NotBefore: time.Now().Add(time.Hour), After: []*taskpool.Handle{first}})
		time.Sleep(time.Minute)
		html := page(t, d)
		require.Contains(t, text(html), "delayed 2 of these for others 2")
		require.Contains(t, part(html, "delayed"), `next #2 waits for task 1 &#34;first&#34; medium 0 –`)
		require.Contains(t, part(html, "delayed"), `timed #3 waits for task 1 &#34;first&#34; medium 0 59 m`)
		first.Cancel(nil)
	})
}

func TestPriorityIsShownWithTheUrgencyThatATaskWasLent(t *testing.T) {
	const low = "low → high (a task that waits for it has lent it its urgency)"
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(4))
		defer shutDown(p)
		lent := func(name string, task taskpool.Task) *taskpool.Handle {
			task.Name, task.Priority = name, taskpool.Low
			h := submit(t, p, task)
			submit(t, p, taskpool.Task{Name: "for " + name, Priority: taskpool.High, Run: h.Wait})
			return h
		}
		running := lent("running", taskpool.Task{Run: untilEnd})
		lent("parked", taskpool.Task{Run: running.Wait})
		delayed := lent("delayed", taskpool.Task{Run: untilEnd, NotBefore: time.Now().Add(time.Hour)})
		submit(t, p, taskpool.Task{Name: "plain", Priority: taskpool.Low, Run: running.Wait})
		synctest.Wait()
		html := page(t, d)
		for name, want := range map[string]string{
			"running": "running #1 " + low + " , worker",
			"parked":  "parked #3 waits for task 1 &#34;running&#34; " + low + " , worker",
			"delayed": "delayed #5 " + low + " 0 1 h",
		} {
			require.Contains(t, part(html, name), want)
		}
		require.Equal(t, 5, strings.Count(html, "→ high"), "for a phone and for a wide screen")
		require.Contains(t, part(html, "parked"), "plain #7 waits for task 1 &#34;running&#34; low, worker")
		require.Contains(t, part(html, "parked"), "for running #2 waits for task 1 &#34;running&#34; high, worker")
		require.Contains(t, html, `low <span title="a task that waits for it has lent it its urgency">`)
		running.Cancel(nil)
		delayed.Cancel(nil)
	})
}

func TestStalledPoolLeadsToWhoWaitsForWhom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(4), taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(0))
		defer shutDown(p)
		gate := make(chan struct{})
		for range 150 { // more than are listed
			submit(t, p, taskpool.Task{Name: "block", Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { <-gate; return nil })
			}})
		}
		time.Sleep(time.Second)
		var a, b *taskpool.Handle
		ready := make(chan struct{})
		a = submit(t, p, taskpool.Task{Name: "a", Run: func(ctx context.Context) error { <-ready; return b.Wait(ctx) }})
		b = submit(t, p, taskpool.Task{Name: "b", Run: func(ctx context.Context) error { <-ready; return a.Wait(ctx) }})
		close(ready)
		time.Sleep(500 * time.Millisecond)
		require.NotContains(t, page(t, d), "Who waits for whom", "nothing is wrong yet")
		time.Sleep(5 * time.Second)
		html := page(t, d)
		require.Contains(t, html, `2 tasks wait for each other</bdi> <a href="#p1-parked-h">Who waits for whom</a>`)
		require.Contains(t, html, `<h3 id="p1-parked-h" tabindex="-1">`)
		parked := part(html, "parked")
		require.Contains(t, parked, "a #151 waits for task 152 &#34;b&#34;")
		require.Contains(t, parked, "b #152 waits for task 151 &#34;a&#34;")
		require.Less(t, strings.Index(parked, "b #152"), strings.Index(parked, "block"), "those that wait for something come first")
		a.Cancel(nil)
		synctest.Wait()
		time.Sleep(2 * time.Second)
		html = page(t, d)
		require.NotContains(t, html, "Stalled")
		require.NotContains(t, html, "Who waits for whom")

		close(gate)
		over, end := context.WithCancel(t.Context())
		for range 5 {
			require.NoError(t, p.Go(taskpool.Medium, func() { <-over.Done() }))
		}
		time.Sleep(5 * time.Second)
		html = page(t, d)
		require.Contains(t, html, "all 4 slots have been held")
		require.NotContains(t, html, "Who waits for whom", "nobody waits for another task")
		end()

		late := make(chan struct{})
		long := submit(t, p, taskpool.Task{Run: untilEnd})
		submit(t, p, taskpool.Task{Run: long.Wait})
		submit(t, p, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-late; return nil }})
		time.Sleep(5 * time.Second)
		html = page(t, d)
		require.Contains(t, html, "<strong>Slots lost</strong>")
		require.NotContains(t, html, "Who waits for whom", "it is unhealthy for another reason")
		long.Cancel(nil)
		close(late)
	})
}

func TestTheLast100FailuresAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		for i := range 120 {
			submit(t, p, taskpool.Task{Name: fmt.Sprintf("task-%03d", i), Run: func(context.Context) error { return errBroken }})
		}
		synctest.Wait()
		html := page(t, d)
		html = html[strings.Index(html, `id="p1-failures"`):]
		require.NotContains(t, html, "task-019")
		require.Contains(t, html, "the last 100; 20 before")
		require.Less(t, strings.Index(html, "task-119"), strings.Index(html, "task-020"), "the newest first")
	})
}

func TestEachKindOfFailureIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		kind := func() string { // of the newest
			html := page(t, d)
			html = html[strings.Index(html, `id="p1-failures"`):]
			m := regexp.MustCompile(`<tbody data-key="g\w+" class="(\w+)">`).FindStringSubmatch(html)
			require.NotNil(t, m, html)
			return m[1]
		}
		panicked := submit(t, p, taskpool.Task{Run: func(context.Context) error { return panicHere() }}).Wait(t.Context())
		for _, c := range []struct {
			want string
			task taskpool.Task
		}{
			{"error", taskpool.Task{Run: func(context.Context) error { return errBroken }}},
			{"panic", taskpool.Task{Run: func(context.Context) error { panic("x") }}},
			{"goexit", taskpool.Task{Run: func(context.Context) error { runtime.Goexit(); return nil }}},
			{"timeout", taskpool.Task{Run: untilEnd, Timeout: time.Second}},
			{"timeout", taskpool.Task{Run: untilEnd, Heartbeat: time.Second}},
			{"hung", taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Minute); return nil }, Timeout: time.Second}},
			// What a task returns may be the error of another.
			{"error", taskpool.Task{Run: func(context.Context) error { return panicked }}},
			{"error", taskpool.Task{Run: func(context.Context) error { return taskpool.ErrTimeout }}},
			{"timeout", taskpool.Task{Run: func(ctx context.Context) error { <-ctx.Done(); return taskpool.ErrGoexit }, Timeout: time.Second}},
		} {
			h := submit(t, p, c.task)
			_ = h.Wait(context.Background())
			time.Sleep(time.Second)
			require.Equal(t, c.want, kind())
		}
		require.Equal(t, 3, strings.Count(page(t, d), "<summary>Stack"), "of those two that panicked and the one that hung")
		before := kind()
		h := submit(t, p, taskpool.Task{Run: untilEnd})
		synctest.Wait()
		h.Cancel(nil)
		time.Sleep(time.Second)
		require.Contains(t, page(t, d), "Failures <small>10</small>", "a task that was canceled did not fail")
		require.Equal(t, before, kind())
		require.NoError(t, p.Go(taskpool.Low, func() { panic("in a function") }))
		time.Sleep(time.Second)
		require.Equal(t, "panic", kind())
		require.Contains(t, part(page(t, d), "failures"), "function low, attempt 1, the last task panicked: in a function")
		time.Sleep(time.Minute) // until what hangs has returned
	})
}

func TestPercentilesAreOfTheLastMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		require.Contains(t, text(page(t, d)), "wait – – – run – – –")
		for i := range 100 { // each waits for those before it
			submit(t, p, taskpool.Task{Run: func(context.Context) error {
				time.Sleep(time.Duration(i+1) * time.Millisecond)
				return nil
			}})
		}
		time.Sleep(10 * time.Second)
		require.Regexp(t, `wait 1\.[123] s 4\.[3-6] s (4\.[7-9]|5) s run (49|50|51)\.\d ms 9[3-7]\.\d ms (9[6-9]\.\d|10[0-2]) ms`, text(page(t, d)))
		time.Sleep(time.Minute)
		require.Contains(t, text(page(t, d)), "wait – – – run – – –")
	})
}

func TestFunctionsAreASampleThatStandsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t, dashboard.WithGoEvery(1))
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		require.Equal(t, 64, newDashboard(t).Hooks().GoEvery)
		require.Equal(t, 1, d.Hooks().GoEvery)
		for range 20 {
			require.NoError(t, p.Go(taskpool.Medium, func() { time.Sleep(10 * time.Millisecond) }))
		}
		time.Sleep(time.Second)
		require.Regexp(t, `run (9\.\d+|10\.\d) ms`, text(page(t, d)))
	})
}

// Of functions that fail all are told of, so none stands for others.
func TestFunctionsThatFailDoNotWeighMoreThanTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(4), taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) {}}))
		defer shutDown(p)
		for i := range 4000 {
			require.NoError(t, p.Go(taskpool.Medium, func() {
				time.Sleep(10 * time.Millisecond)
				if i%100 == 0 {
					time.Sleep(time.Second)
					panic("x")
				}
			}))
		}
		require.NoError(t, p.WaitIdle(t.Context()))
		synctest.Wait()
		require.Regexp(t, `run (9\.\d+|10\.\d) ms (9\.\d+|10\.\d) ms (9\.\d+|10\.\d) ms`, text(page(t, d)))
		require.Contains(t, text(page(t, d)), "Failures 40")
	})
}

func TestRatesAreExactAndSayOverWhichTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		for i := range 100 {
			submit(t, p, taskpool.Task{Run: func(context.Context) error {
				if i%4 == 0 {
					return errBroken
				}
				return nil
			}})
		}
		time.Sleep(50 * time.Second)
		require.Contains(t, text(page(t, d)), "Succeeded 1.50 a second over the last 50 s Failed 0.50 a second, 25.0&nbsp;% 0 shed · 0 refused · 0 canceled")
		time.Sleep(20 * time.Second)
		require.Contains(t, text(page(t, d)), "Succeeded 0 a second over the last 20 s")
		s := look(d, nil)
		time.Sleep(15*time.Second + time.Millisecond)
		s.leave()
		require.Contains(t, text(page(t, d)), "over the last 10 s")
	})
}

// endless keeps p at work on tasks of a priority, of which one always waits.
func endless(p *taskpool.Pool, pr taskpool.Priority, stop chan struct{}) {
	var next func()
	next = func() {
		time.Sleep(20 * time.Millisecond)
		select {
		case <-stop:
		default:
			_ = p.Go(pr, next)
		}
	}
	_ = p.Go(pr, next)
	_ = p.Go(pr, next)
}

func TestStarvingPriorityIsHighlighted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t, dashboard.WithStarvingAfter(5*time.Second), dashboard.WithGoEvery(1))
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithFairShare(0))
		stop := make(chan struct{})
		endless(p, taskpool.High, stop)
		time.Sleep(time.Millisecond)
		h := submit(t, p, taskpool.Task{Name: "poor", Priority: taskpool.Low, Run: func(context.Context) error { return nil }})
		time.Sleep(4 * time.Second)
		require.NotContains(t, text(page(t, d)), "tarving")
		time.Sleep(4 * time.Second)
		html := text(page(t, d))
		require.Contains(t, html, "Starving others start, and none of these does · priority low: 1 waiting, the oldest for 8 s")
		require.Contains(t, html, "low starving 1 8 s 0")
		close(stop)
		require.NoError(t, h.Wait(t.Context()))
		time.Sleep(time.Second)
		require.NotContains(t, text(page(t, d)), "tarving")
		shutDown(p)
	})
}

func TestPriorityThatIsLateIsHighlighted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithQueueDelay(time.Second))
		for range 60 { // twice as many as get done
			require.NoError(t, p.Go(taskpool.Low, func() { time.Sleep(time.Second) }))
			time.Sleep(time.Second / 2)
		}
		synctest.Wait() // a task ends at this very instant, and its worker sheds the next ones
		html := text(page(t, d))
		require.Contains(t, html, "Late what has waited for too long is shed · priority low: ")
		require.Contains(t, html, "low late ")
		require.NoError(t, p.WaitIdle(t.Context()))
		time.Sleep(time.Second)
		require.NotContains(t, text(page(t, d)), " late ")
		shutDown(p)
	})
}

func TestPriorityThatIsBehindDoesNotStarve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t, dashboard.WithStarvingAfter(5*time.Second))
		p := newPool(t, d, taskpool.WithWorkers(1))
		time.Sleep(time.Millisecond)
		for range 100 {
			submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Second); return nil }})
		}
		time.Sleep(8 * time.Second)
		require.Contains(t, text(page(t, d)), "Waits long tasks wait for 5 s or more · priority medium: ")
		require.NotContains(t, text(page(t, d)), "tarving")
		p.Pause()
		time.Sleep(20 * time.Second)
		require.NotContains(t, text(page(t, d)), "tarving", "nothing starts, so nothing is preferred")
		require.Contains(t, text(page(t, d)), "mail paused")
		p.Resume()
		time.Sleep(2 * time.Minute)
		shutDown(p)
	})
}

func TestOtherProblemsAreHighlighted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed),
			taskpool.WithMaxAbandoned(0), taskpool.WithHangGrace(10*time.Second))
		submit(t, p, taskpool.Task{Name: "late", Timeout: time.Second, Run: func(context.Context) error { time.Sleep(time.Minute); return nil }})
		submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { return nil }})
		time.Sleep(500 * time.Millisecond)
		require.NotContains(t, page(t, d), `class="bad"`)
		submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }})
		require.ErrorIs(t, p.TryGo(taskpool.Low, func() {}), taskpool.ErrFull)
		time.Sleep(time.Second)
		html := text(page(t, d))
		require.Contains(t, html, "Overdue late #1 on worker 1")
		require.Contains(t, html, "Shedding the queue is full")
		require.Contains(t, html, "Refusing tasks are not accepted")
		require.Contains(t, html, "0.67 shed · 0.67 refused")
		time.Sleep(20 * time.Second)
		html = text(page(t, d))
		require.Contains(t, html, "Slots lost tasks that hang hold them · 1 of 1")
		require.Contains(t, html, "slots lost 1")
		require.NotContains(t, html, "Shedding", "it was long ago")
		time.Sleep(time.Minute)
		shutDown(p)
	})
}

func TestSpentRetryBudgetIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithRetryBudget(0, 0))
		defer shutDown(p)
		require.NotContains(t, text(page(t, d)), "retries denied")
		time.Sleep(time.Second)
		submit(t, p, taskpool.Task{Run: func(context.Context) error { return errBroken }, Retry: taskpool.Retry{MaxAttempts: 2}})
		synctest.Wait()
		html := text(page(t, d))
		require.Contains(t, html, "retries 0 retries denied 1 errors 1")
		require.Contains(t, html, "Not retrying the retry budget is spent")
		time.Sleep(6 * time.Hour)
		submit(t, p, taskpool.Task{Run: func(context.Context) error { return errBroken }, Retry: taskpool.Retry{MaxAttempts: 2}})
		synctest.Wait()
		require.Contains(t, text(page(t, d)), "Not retried the retry budget was spent within the last 6 h")
		time.Sleep(time.Minute)
		require.NotContains(t, text(page(t, d)), "Not retr", "it was long ago")
	})
}

// Over a time in which nobody looked.
func TestWhatMayBeLongAgoIsNotSaidToHappen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
		defer shutDown(p)
		for i := range 3 {
			submit(t, p, taskpool.Task{Priority: taskpool.Priority(-i), Run: func(context.Context) error { time.Sleep(time.Second); return nil }})
		}
		require.ErrorIs(t, p.TryGo(taskpool.Low, func() {}), taskpool.ErrFull)
		time.Sleep(6 * time.Hour)
		html := page(t, d)
		require.Contains(t, text(html), "Shed tasks were dropped from a full queue within the last 6 h What to do Refused tasks were not accepted within the last 6 h ")
		require.Contains(t, html, "<strong>&lt; 0.01 shed</strong>")
		require.NotContains(t, html, `class="bad"`)
		time.Sleep(5 * time.Second)
		require.NotContains(t, text(page(t, d)), "within the last", "it was before the last look")
	})
}

// A priority of which none has started since the last look, hours ago, may have come now.
func TestPriorityThatHasJustComeDoesNotStarve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Hour))
		time.Sleep(time.Hour)
		submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(time.Minute); return nil }})
		submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: func(context.Context) error { return nil }})
		time.Sleep(30 * time.Second)
		require.Contains(t, text(page(t, d)), "Stalled tasks wait, and none starts · 1 waiting")
		require.NotContains(t, text(page(t, d)), "tarving")
		time.Sleep(time.Minute)
		shutDown(p)
	})
}

// Without hooks functions are not timed: that they are there is seen by who looks.
func TestTimesThatMayBeLongerAreShownAsAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p, err := taskpool.New(taskpool.WithWorkers(1))
		require.NoError(t, err)
		require.NoError(t, d.Watch(p))
		gate := make(chan struct{})
		function := func() { <-gate }
		require.NoError(t, p.Go(taskpool.Medium, function))
		require.NoError(t, p.Go(taskpool.Low, function))
		time.Sleep(3 * time.Hour)
		html := text(page(t, d))
		require.Contains(t, html, "low 1 ≥ 0 s")
		// The supervisor was the first to look, when nothing moved.
		require.Contains(t, html, "Stalled pool stands still")
		require.Contains(t, html, "function medium, worker 1 medium 1 1 ≥ 2 h 59 m Stack")
		time.Sleep(10 * time.Second)
		require.Contains(t, text(page(t, d)), "worker 1 medium 1 1 ≥ 3 h Stack")

		s := look(d, nil)
		time.Sleep(3500 * time.Millisecond)
		require.NoError(t, p.Go(taskpool.High, function))
		require.NoError(t, p.Resize(2))
		synctest.Wait()
		require.NoError(t, p.Go(taskpool.Priority(7), function))
		time.Sleep(5500 * time.Millisecond)
		s.leave()
		html = text(page(t, d))
		require.Contains(t, html, "low starving 1 ≥ 19 s")
		require.Contains(t, html, "7 1 5 s", "it came while somebody looked")
		require.Contains(t, html, "worker 1 medium 1 1 ≥ 3 h 00 m Stack")
		require.Contains(t, html, "worker 2 high 1 2 5 s Stack")
		close(gate)
		shutDown(p)
	})
}

func TestSubmittersThatWaitAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		h := submit(t, p, taskpool.Task{Run: untilEnd})
		go func() {
			_, _ = p.Submit(context.Background(), taskpool.Task{Run: func(context.Context) error { return nil }})
		}()
		synctest.Wait()
		require.Contains(t, text(page(t, d)), "Full submitters wait for room in the queue")
		h.Cancel(nil)
		synctest.Wait()
		shutDown(p)
	})
}

func TestLongListsAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		ctx, cancel := context.WithCancel(context.Background())
		for i := range 20_000 {
			if i == 150 {
				require.Contains(t, text(page(t, d)), "and 50 more")
			}
			// The later one comes, the earlier it is due.
			_, err := p.Submit(ctx, taskpool.Task{Name: fmt.Sprint("kind ", i%2), NotBefore: time.Now().Add(24*time.Hour - time.Duration(i)*time.Second), Run: untilEnd})
			require.NoError(t, err)
		}
		p.Pause()
		for i := range 40 {
			require.NoError(t, p.Go(taskpool.Priority(i), func() {}))
		}
		time.Sleep(time.Second)
		html := page(t, d)
		delayed := part(html, "delayed")
		require.Contains(t, delayed, "Delayed 20,000")
		require.Contains(t, delayed, "kind 1 #20000 medium 0 18 h 26 m")
		require.Contains(t, delayed, "and 19,900 more")
		names := part(html, "names")
		require.Contains(t, names, "of the waiting, parked and delayed, the first 1,000 each are counted")
		require.Contains(t, names, "kind 0 0 0 0 500 ")
		require.Contains(t, names, "kind 1 0 0 0 500 ")
		require.Contains(t, text(html), "and 15 more, which wait less long")
		cancel()
		shutDown(p)
	})
}

func TestManyParkedTasksAreListedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(2))
		long := submit(t, p, taskpool.Task{Name: "long", Run: untilEnd})
		for i := range 2000 {
			submit(t, p, taskpool.Task{Name: fmt.Sprint("parent ", i%2), Run: long.Wait})
		}
		time.Sleep(time.Second)
		html := page(t, d)
		require.Contains(t, part(html, "parked"), "Parked 2,000")
		require.Contains(t, part(html, "parked"), "and 1,900 more")
		require.Contains(t, part(html, "names"), "parent 0 0 0 500 0 ")
		require.Contains(t, part(html, "names"), "long 1 0 0 0 ")
		long.Cancel(nil)
		shutDown(p)
	})
}

func TestStacksAreHadOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		h := submit(t, p, taskpool.Task{Run: waitingHere})
		synctest.Wait()
		worker := p.Tasks(taskpool.StateRunning)[0].Worker
		w := request(d, http.MethodGet, fmt.Sprintf("stack?pool=1&worker=%d", worker), "")
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"))
		require.Contains(t, w.Body.String(), "dashboard_test.waitingHere")
		h.Cancel(nil)

		failing := submit(t, p, taskpool.Task{Run: func(context.Context) error { return panicHere() }})
		require.Error(t, failing.Wait(t.Context()))
		synctest.Wait() // hooks are called after Wait has returned
		w = request(d, http.MethodGet, "stack?pool=1&failure=1", "")
		require.Equal(t, http.StatusOK, w.Code)
		require.Contains(t, w.Body.String(), "dashboard_test.panicHere")

		for query, want := range map[string]string{
			"":                  "no such pool",
			"pool=2&worker=1":   "no such pool",
			"pool=x&worker=1":   "no such pool",
			"pool=1":            "no such stack, or not any more",
			"pool=1&worker=99":  "no such stack, or not any more",
			"pool=1&failure=-1": "no such stack, or not any more",
			"pool=1&failure=9":  "no such stack, or not any more",
		} {
			w := request(d, http.MethodGet, "stack?"+query, "")
			require.Equal(t, http.StatusNotFound, w.Code)
			require.Equal(t, want+"\n", w.Body.String())
		}
	})
}

// By the time a stack is asked for, the worker may have taken up something else.
func TestStackIsThatOfTheAttemptInTheListOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		var stop context.CancelFunc
		start := func() (ctx context.Context) {
			ctx, stop = context.WithCancel(t.Context())
			return ctx
		}
		link := func() string {
			m := regexp.MustCompile(`href="(stack[^"]*)"`).FindStringSubmatch(page(t, d))
			require.NotNil(t, m)
			return strings.ReplaceAll(m[1], "&amp;", "&")
		}
		again := taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }}
		for name, begin := range map[string]func(){
			"task": func() {
				ctx := start()
				submit(t, p, taskpool.Task{Retry: again, Run: func(context.Context) error { return waitingHere(ctx) }})
			},
			"function": func() {
				ctx := start()
				require.NoError(t, p.Go(taskpool.Medium, func() { _ = waitingHere(ctx) }))
			},
		} {
			begin()
			synctest.Wait()
			one := link()
			for range 3 {
				w := request(d, http.MethodGet, one, "")
				require.Equal(t, http.StatusOK, w.Code, name)
				require.Contains(t, w.Body.String(), "dashboard_test.waitingHere", name)
			}
			stop()
			time.Sleep(time.Second)
			begin()
			time.Sleep(time.Second)
			w := request(d, http.MethodGet, one, "")
			require.Equal(t, http.StatusNotFound, w.Code, name)
			require.Equal(t, "no such stack, or not any more\n", w.Body.String())
			require.Equal(t, http.StatusOK, request(d, http.MethodGet, link(), "").Code, name)
			stop()
			time.Sleep(time.Second)
		}
		shutDown(p)
	})
}

func waitingHere(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
func panicHere() error                      { panic("here") }

// Each stack of a worker stops the whole program for a moment.
func TestStacksOfWorkersAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		require.NoError(t, p.Go(taskpool.Medium, func() {})) // workers start when they are needed
		synctest.Wait()
		get := func() int { return request(d, http.MethodGet, "stack?pool=1&worker=1", "").Code }
		for range 3 {
			for range 5 {
				require.Equal(t, http.StatusOK, get())
			}
			w := request(d, http.MethodGet, "stack?pool=1&worker=1", "")
			require.Equal(t, http.StatusTooManyRequests, w.Code)
			require.Equal(t, "1", w.Header().Get("Retry-After"))
			require.Equal(t, http.StatusNotFound, request(d, http.MethodGet, "stack?pool=1&failure=1", "").Code, "these are kept, and cost nothing")
			time.Sleep(time.Second)
		}
	})
}

func TestPagesInQuickSuccessionShareASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		require.Equal(t, 5, snapshots(d, 5*time.Second, func() { page(t, d) }))
	})
}

func TestHooksOfPoolsThatAreNotWatchedNoteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p, err := taskpool.New(taskpool.WithHooks(d.Hooks()), taskpool.WithName("stranger"))
		require.NoError(t, err)
		submit(t, p, taskpool.Task{Run: func(context.Context) error { return errBroken }})
		synctest.Wait()
		require.NoError(t, d.Watch(p))
		require.Contains(t, page(t, d), "No attempt has failed")
		shutDown(p)
	})
}

func TestUnwatchedPoolIsOffThePageAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		other := newPool(t, d, taskpool.WithName("other"))
		defer shutDown(p)
		defer shutDown(other)
		s := look(d, nil)
		fail := func() {
			submit(t, p, taskpool.Task{Run: func(context.Context) error { return errBroken }})
			synctest.Wait()
		}
		fail()
		require.Equal(t, 2, strings.Count(page(t, d), "<article"))

		require.True(t, d.Unwatch(p))
		require.False(t, d.Unwatch(p))
		require.False(t, d.Unwatch(nil))
		require.Equal(t, 1, dashboard.Histories(d))
		html := page(t, d)
		require.NotContains(t, html, "mail")
		require.Contains(t, html, `<article id="p2"`)
		require.Equal(t, http.StatusNotFound, request(d, http.MethodGet, "stack?pool=1&failure=1", "").Code)
		fail()
		time.Sleep(1500 * time.Millisecond)
		last := s.got()[len(s.got())-1]
		require.NotContains(t, last, "mail", "those who look are told")
		s.leave()

		require.NoError(t, d.Watch(p))
		html = page(t, d)
		require.Contains(t, html, `<article id="p3"`)
		require.Contains(t, html, "No attempt has failed", "while it was watched")
	})
}

// A page is kept until the next look, which may be never.
func TestPageKeepsNothingOfTheTasksInItAlive(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d)
	freed := make(chan struct{})
	func() {
		big := new([1 << 20]byte)
		runtime.AddCleanup(big, func(struct{}) { close(freed) }, struct{}{})
		type key struct{}
		started := make(chan struct{})
		h, err := p.Submit(context.WithValue(t.Context(), key{}, big), taskpool.Task{Name: "big", Run: func(ctx context.Context) error {
			close(started)
			return untilEnd(ctx)
		}})
		require.NoError(t, err)
		<-started
		require.Contains(t, page(t, d), "big")
		h.Cancel(nil)
		<-h.Done()
		require.NoError(t, p.WaitIdle(t.Context()))
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		select {
		case <-freed:
			return true
		default:
			return false
		}
	}, time.Minute, time.Millisecond)
	require.Equal(t, http.StatusOK, request(d, http.MethodGet, "style.css", "").Code) // d is alive
}

func TestADashboardThatNewHasNotReturnedIsRefused(t *testing.T) {
	const must = ": the Dashboard must be one that New has returned, got nil or a zero one"
	for _, d := range []*dashboard.Dashboard{nil, {}} {
		require.EqualError(t, d.Watch(), "dashboard: Watch"+must)
		require.PanicsWithValue(t, "dashboard: Hooks"+must, func() { d.Hooks() })
		require.PanicsWithValue(t, "dashboard: Unwatch"+must, func() { d.Unwatch(nil) })
		require.PanicsWithValue(t, "dashboard: Close"+must, func() { d.Close() })
		require.PanicsWithValue(t, "dashboard: ServeHTTP"+must, func() { d.ServeHTTP(nil, nil) })
	}
	require.False(t, newDashboard(t).Unwatch(nil))
}

func TestPoolsThatNewHasNotReturnedAreNotWatched(t *testing.T) {
	p, err := taskpool.New()
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Shutdown(t.Context())) }()
	copied := reflect.New(reflect.TypeFor[taskpool.Pool]()).Elem()
	copied.Set(reflect.ValueOf(p).Elem())
	for got, bad := range map[string]*taskpool.Pool{"a zero Pool": {}, "a copy": copied.Addr().Interface().(*taskpool.Pool)} {
		d := newDashboard(t)
		require.EqualError(t, d.Watch(p, bad), "dashboard: Watch: pool 2 must be one that taskpool.New has returned, got "+got)
		require.False(t, d.Unwatch(p), "none is added")
		require.False(t, d.Unwatch(bad))
	}
}

func TestFailuresAndRetryStormsAreProblems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		fail := func(context.Context) error { return errBroken }
		run := func(n int, task taskpool.Task) string {
			time.Sleep(30 * time.Second)
			page(t, d)
			for range n {
				submit(t, p, task)
			}
			time.Sleep(10 * time.Second)
			return problems(page(t, d))
		}
		require.Empty(t, run(90, taskpool.Task{Run: func(context.Context) error { return nil }}))
		require.Equal(t, "Failing tasks fail for good · 100 % of them, 9.00/s", run(90, taskpool.Task{Run: fail}))
		require.Empty(t, run(2, taskpool.Task{Run: fail}), "too few to say so")
		some := 0
		require.Equal(t, "Failing tasks fail for good · 20 % of them, 0.40/s", run(20, taskpool.Task{Run: func(context.Context) error {
			if some++; some%5 == 0 {
				return errBroken
			}
			return nil
		}}))
		require.Equal(t, "Retry storm most attempts fail and are followed by a retry · 10.0 retries/s",
			run(10, taskpool.Task{Run: fail, Retry: taskpool.Retry{MaxAttempts: 100, Backoff: func(int) time.Duration { return 1050 * time.Millisecond }}}))
		time.Sleep(10 * time.Minute)
		require.Equal(t, "Failed tasks have failed within the last 8 m 36 s · 100 % of them, 0.02/s", problems(page(t, d)))
		shutDown(p)
	})
}

func TestCanceledAndShedTasksHaveNotFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
		page(t, d)
		for i := range 60 {
			submit(t, p, taskpool.Task{Priority: taskpool.Priority(100 - i), Run: func(context.Context) error { time.Sleep(time.Second); return nil }})
		}
		require.Error(t, p.Go(taskpool.Low+100, func() {}))
		time.Sleep(10 * time.Second)
		html := text(page(t, d))
		require.Contains(t, html, "Failed 0 a second 5.80 shed · 0.10 refused · 0 canceled")
		require.NotContains(t, html, "Failing")
		shutDown(p)
	})
}

// The page has 25 rows: of the priorities in trouble, then of those that wait longest.
func TestPriorityInTroubleIsShownHoweverManyAreMoreUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t, dashboard.WithStarvingAfter(5*time.Second))
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithFairShare(0))
		stop := make(chan struct{})
		endless(p, 0, stop)
		time.Sleep(time.Millisecond)
		poor := submit(t, p, taskpool.Task{Priority: 99, Run: func(context.Context) error { return nil }})
		time.Sleep(5 * time.Second)
		page(t, d)
		time.Sleep(5 * time.Second)
		for i := range 60 {
			require.NoError(t, p.Go(taskpool.Priority(1+i), func() {}))
		}
		time.Sleep(time.Second / 10)
		html := page(t, d)
		require.Equal(t, "Starving others start, and none of these does · priority 99: 1 waiting, the oldest for 10.1 s", problems(html))
		require.Contains(t, part(html, "queue"), "99 starving 1 10.1 s 0")
		require.Contains(t, part(html, "queue"), "and 37 more, which wait less long")
		close(stop)
		require.NoError(t, poor.Wait(t.Context()))
		shutDown(p)
	})
}

func TestPoolInWhichNothingStartsIsStalledAndAPausedOneIsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Hour), taskpool.WithCapacity(10, taskpool.OverflowReject))
		gate := make(chan struct{})
		for range 3 {
			require.NoError(t, p.Go(taskpool.Medium, func() { <-gate }))
		}
		time.Sleep(time.Second)
		require.Empty(t, problems(page(t, d)))
		time.Sleep(15 * time.Second)
		page(t, d)
		time.Sleep(5 * time.Second)
		require.Equal(t, "Stalled tasks wait, and none starts · 2 waiting", problems(page(t, d)))
		p.Pause()
		require.NoError(t, p.Go(taskpool.Medium, func() {}))
		time.Sleep(time.Second)
		require.Equal(t, "Paused no task starts, and tasks wait · 3 waiting", problems(page(t, d)))
		for range 5 {
			require.NoError(t, p.Go(taskpool.Medium, func() {}))
		}
		time.Sleep(time.Second)
		require.Equal(t, "Paused no task starts, and tasks wait · 8 waiting Queue over 80 % there is little room left, or none · 8 waiting, capacity 10", problems(page(t, d)))
		p.Resume()
		close(gate)
		require.NoError(t, p.WaitIdle(t.Context()))
		p.Pause()
		time.Sleep(time.Minute)
		require.Equal(t, "Paused no task starts", problems(page(t, d)))
		p.Resume()
		shutDown(p)
	})
}

func TestHungTasksOfOneNameAreOneProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second), taskpool.WithMaxAbandoned(9))
		gate := make(chan struct{})
		for _, name := range []string{"report", "report", "report", "mail"} {
			submit(t, p, taskpool.Task{Name: name, Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		}
		time.Sleep(20 * time.Second)
		require.Equal(t, "Hung report · 3 of them Hung mail #4 on worker 4 Failing tasks fail for good · 100 % of them, 0.20/s", problems(page(t, d)))
		close(gate)
		shutDown(p)
	})
}

// Who looks for the first time in hours is told of the last seconds, not of the mean of hours, as
// hooks have counted meanwhile.
func TestFirstLookTellsOfTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		run := func(over time.Duration, err error) {
			for range over / time.Second {
				submit(t, p, taskpool.Task{Run: func(context.Context) error { return err }})
				time.Sleep(time.Second)
			}
		}
		run(time.Hour, nil)
		run(30*time.Second, errBroken)
		html := text(page(t, d))
		require.Contains(t, html, "Failing tasks fail for good · 100 % of them, 1.00/s")
		require.Regexp(t, `Succeeded 0 a second over the last \d+ s Failed 1\.00 a second, 100&nbsp;%`, html)
		run(time.Hour, nil)
		require.NotContains(t, text(page(t, d)), "Failing")

		// Where nothing has happened for long there is no such point.
		time.Sleep(time.Hour)
		require.Contains(t, text(page(t, d)), "over the last 1 h")
	})
}

func TestPoolThatIsShutDownSaysWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		gate := make(chan struct{})
		for range 2 {
			submit(t, p, taskpool.Task{Name: "long", Run: func(context.Context) error { <-gate; return nil }})
		}
		go func() { _ = p.Shutdown(context.Background()) }()
		time.Sleep(500 * time.Millisecond)
		html := page(t, d)
		require.Contains(t, html, `<span class="badge warn">shutting down</span>`)
		require.NotContains(t, html, "<strong>Stalled")
		time.Sleep(10 * time.Second)
		require.True(t, p.Stats().Stalled)
		html = page(t, d)
		require.Contains(t, html, `<span class="badge bad">shutting down</span>`)
		require.Contains(t, text(html), "Stalled nothing moves: tasks hold all slots, or wait for each other")
		close(gate)
		time.Sleep(time.Second)
		require.Contains(t, page(t, d), `<span class="badge off">closed</span>`)
	})
}

func TestHighTasksThatAreTurnedAwayAreAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1), taskpool.WithCapacity(10, taskpool.OverflowReject))
		page(t, d)
		gate := make(chan struct{})
		try := func(pr taskpool.Priority) error {
			_, err := p.TrySubmit(t.Context(), taskpool.Task{Priority: pr, Run: func(context.Context) error { <-gate; return nil }})
			return err
		}
		for try(taskpool.Medium) == nil {
		}
		time.Sleep(5 * time.Second)
		html := text(page(t, d))
		require.Contains(t, html, "Refusing")
		require.Contains(t, html, "Queue over 80 % there is little room left, or none · 10 waiting, capacity 10")
		require.NotContains(t, html, "High turned away")
		require.ErrorIs(t, try(taskpool.High), taskpool.ErrFull)
		time.Sleep(5 * time.Second)
		require.Contains(t, text(page(t, d)), "High turned away tasks of priority high are dropped or not accepted · 0.10/s")
		close(gate)
		shutDown(p)
	})
}

// However many there are, and though a list shows the first hundred.
func TestAllHungTasksAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(150), taskpool.WithMaxAbandoned(200), taskpool.WithHangGrace(time.Second))
		gate := make(chan struct{})
		for range 120 {
			submit(t, p, taskpool.Task{Name: "stuck", Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
		}
		time.Sleep(5 * time.Second)
		html := page(t, d)
		require.Contains(t, text(html), "Hung stuck · 120 of them")
		require.Contains(t, part(html, "running"), "and 20 more")
		close(gate)
		shutDown(p)
	})
}
