package browsertest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

// newDashboard makes a dashboard with options that are all right.
func newDashboard(t *testing.T, opts ...dashboard.Option) *dashboard.Dashboard {
	t.Helper()
	d, err := dashboard.New(opts...)
	require.NoError(t, err)
	return d
}

// newPool starts a pool that d watches.
func newPool(t *testing.T, d *dashboard.Dashboard, opts ...taskpool.Option) *taskpool.Pool {
	t.Helper()
	p, err := taskpool.New(append([]taskpool.Option{taskpool.WithLogger(slog.New(slog.DiscardHandler)),
		taskpool.WithName("mail"), taskpool.WithHooks(d.Hooks())}, opts...)...)
	require.NoError(t, err)
	require.NoError(t, d.Watch(p))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.Shutdown(ctx)
	})
	return p
}

func submit(t *testing.T, p *taskpool.Pool, task taskpool.Task) *taskpool.Handle {
	t.Helper()
	h, err := p.Submit(t.Context(), task)
	require.NoError(t, err)
	return h
}

func untilEnd(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func anybody(*http.Request) (string, error) { return "anna", nil }

// says is an expression that is true if the text of an element contains text.
func says(selector, text string) string {
	return fmt.Sprintf(`(document.querySelector(%q)?.innerText ?? "").includes(%q)`, selector, text)
}

func TestPageUpdatesLive(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d)
	tb := open(t, d)
	tb.live()
	require.True(t, eval[bool](tb, `document.getElementById("refresh").hidden`))
	h := submit(t, p, taskpool.Task{Name: "newcomer", Run: untilEnd})
	tb.until(says(".running", "newcomer"))
	h.Cancel(nil)
	tb.until("!" + says(".running", "newcomer"))
	tb.until(says(".totals", "canceled\n1"))

	// For longer than the timeouts of the server.
	at := time.Now()
	for time.Since(at) < 5*time.Second {
		tb.live()
	}
}

func TestPageShowsWhatIsWrong(t *testing.T) {
	d := newDashboard(t, dashboard.WithStarvingAfter(time.Second))
	p := newPool(t, d, taskpool.WithWorkers(2), taskpool.WithFairShare(0), taskpool.WithHangGrace(time.Second))
	over := make(chan struct{})
	defer close(over)
	stuck := make(chan struct{})
	h := submit(t, p, taskpool.Task{Name: "stuck", Run: func(context.Context) error { close(stuck); <-over; return nil }})
	<-stuck // or High, that comes before a worker has woken, keeps it from starting
	h.Cancel(nil)
	var next func()
	next = func() { // one of these always waits
		select {
		case <-over:
		case <-time.After(10 * time.Millisecond):
			_ = p.Go(taskpool.High, next)
		}
	}
	for range 4 {
		require.NoError(t, p.Go(taskpool.High, next))
	}
	submit(t, p, taskpool.Task{Name: "poor", Priority: taskpool.Low, Run: untilEnd})
	submit(t, p, taskpool.Task{Name: "crash", Priority: -9, Run: func(context.Context) error { return crashHere() }})

	tb := open(t, d)
	tb.until(says(".problems", "Hung stuck #1 on worker"))
	tb.until(says(".running .hung", "stuck"))
	tb.until(says(".problems", "Starving others start"))
	tb.until(says(".queue tr.bad", "low"))
	tb.until(`/^\(\d\) taskpool/.test(document.title)`)

	tb.until(says(".failures .panic", "crash"))
	tb.do(chromedp.Click(chromedp.CSS(".failures .panic .each > summary")), chromedp.Click(chromedp.CSS(".failures .panic li summary")))
	tb.until(says(".failures .panic pre", "browsertest.crashHere"))
	tb.live()
	require.True(t, eval[bool](tb, says(".failures .panic pre", "browsertest.crashHere")), "it stays open")
}

func crashHere() error { panic("crash") }

func TestFlowsComeMoveAndGoLive(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d, taskpool.WithWorkers(1))
	ctx, cancel := context.WithCancel(t.Context())
	more := func(flow string, n int) {
		for range n {
			_, err := p.Submit(ctx, taskpool.Task{Name: "work", Flow: flow, Run: untilEnd})
			require.NoError(t, err)
		}
	}
	submit(t, p, taskpool.Task{Name: "plain", Run: untilEnd})
	tb := open(t, d, viewport(1280, 800))
	tb.live()
	require.False(t, eval[bool](tb, `document.querySelector(".flows").checkVisibility()`))
	const beside = `(r => r(".running").top === r(".queue").top && r(".queue").left >= r(".running").right && r(".failures").top >= r(".running").bottom)` +
		`(s => document.querySelector(s).getBoundingClientRect())`
	require.True(t, eval[bool](tb, beside))

	row := func(i int, begin string) string {
		return fmt.Sprintf(`(document.querySelectorAll(".flows tbody tr")[%d]?.innerText ?? "").replace(/\s+/g, " ").startsWith(%q)`, i, begin)
	}
	more("acme", 2)
	tb.until(row(0, "acme 2 0 0 "))
	tb.until(row(1, "no flow 0 0 1 "))
	require.True(t, eval[bool](tb, beside))
	require.Equal(t, "mail Flows", eval[string](tb, `document.querySelector(".flows").getAttribute("aria-labelledby").split(" ").map(id => document.getElementById(id).innerText).join(" ")`))
	require.Equal(t, 5, eval[int](tb, `document.querySelectorAll(".flows thead th[scope=col]").length`))
	eval[bool](tb, `acme = document.querySelector(".flows tbody tr"), true`)
	more("globex", 3)
	tb.until(row(0, "globex 3 0 0 "))
	tb.until(row(1, "acme 2 0 0 "))
	require.True(t, eval[bool](tb, `document.querySelectorAll(".flows tbody tr")[1] === acme`), "a row moves with its flow")

	cancel()
	tb.until(`!document.querySelector(".flows").checkVisibility()`)
	require.True(t, eval[bool](tb, beside))
}

func TestStackOnClickStaysWhileItIsRead(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d)
	h := submit(t, p, taskpool.Task{Name: "waiter", Run: func(ctx context.Context) error { return waitingHere(ctx) }})
	tb := open(t, d)
	tb.live()
	tb.do(chromedp.Click(chromedp.CSS(".running a[data-stack]")))
	tb.until(says(".running pre", "browsertest.waitingHere"))
	require.Equal(t, "true", eval[string](tb, `document.querySelector("a[data-stack]").getAttribute("aria-expanded")`))
	tb.live()
	require.True(t, eval[bool](tb, says(".running pre", "browsertest.waitingHere")))
	h.Cancel(nil)
	tb.do(chromedp.Click(chromedp.CSS("h1"))) // the list stands still while the pointer and the focus are in it
	tb.until(`document.querySelector(".running tbody.gone") !== null`)
	tb.live()
	require.True(t, eval[bool](tb, says(".running pre", "browsertest.waitingHere")), "after its task has ended, too")
	tb.do(chromedp.Click(chromedp.CSS(".running a[data-stack]")))
	tb.until(`document.querySelector(".running tbody") === null`)
}

func TestStackOfAnotherTaskIsNotShown(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d, taskpool.WithWorkers(1))
	h := submit(t, p, taskpool.Task{Name: "one", Run: untilEnd})
	tb := open(t, d)
	tb.live()
	tb.do(chromedp.Click(chromedp.CSS("#freeze")))
	tb.until(says("#link", "Frozen"))
	h.Cancel(nil)
	two := make(chan struct{})
	submit(t, p, taskpool.Task{Name: "two", Run: func(ctx context.Context) error {
		close(two)
		return waitingHere(ctx)
	}})
	<-two
	tb.tolerant = true // the browser writes of the status to the console
	tb.do(chromedp.Click(chromedp.CSS(".running a[data-stack]")))
	tb.until(says(".running pre", "no such stack, or not any more"))
}

func TestUnwatchedPoolLeavesThePage(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d)
	newPool(t, d, taskpool.WithName("other"))
	tb := open(t, d)
	tb.live()
	require.Equal(t, 2, eval[int](tb, `document.querySelectorAll("article").length`))
	d.Unwatch(p)
	tb.until(`document.querySelectorAll("article").length === 1`)
	require.True(t, eval[bool](tb, says("article", "other")))
	require.True(t, eval[bool](tb, `document.getElementById("pools").hidden`))
	require.NoError(t, d.Watch(p))
	tb.until(`document.querySelectorAll("article").length === 2`)
}

func waitingHere(ctx context.Context) error { return untilEnd(ctx) }

func TestMarkupInNamesIsText(t *testing.T) {
	const evil = `<script>alert(1)</script><img src=x onerror=alert(2)>`
	d := newDashboard(t)
	p := newPool(t, d, taskpool.WithName(evil), taskpool.WithWorkers(4))
	submit(t, p, taskpool.Task{Name: evil, Run: untilEnd})
	submit(t, p, taskpool.Task{Flow: evil, Run: untilEnd})
	submit(t, p, taskpool.Task{Name: evil, Run: func(context.Context) error { panic(evil) }})
	tb := open(t, d)
	tb.live()
	submit(t, p, taskpool.Task{Name: "live " + evil, Run: untilEnd})
	tb.until(says(".running", "live "+evil))
	for _, selector := range []string{"h2", ".flows", ".running .flow", ".running", ".failures"} {
		require.True(t, eval[bool](tb, says(selector, evil)), selector)
	}
	require.Equal(t, 0, eval[int](tb, `document.querySelectorAll("body script, img").length`))
}

// circle has two tasks wait for each other, the one medium and the other low. It returns
// when the pool of d has found that.
func circle(t *testing.T, d *dashboard.Dashboard) {
	const evil = `<img src=x onerror=alert(2)>_with_a_name_that_is_much_too_long_to_fit_into_one_line_of_a_phone`
	p := newPool(t, d, taskpool.WithWorkers(2), taskpool.WithHangGrace(10*time.Millisecond))
	var other *taskpool.Handle
	ready := make(chan struct{})
	first := submit(t, p, taskpool.Task{Name: "first", Run: func(ctx context.Context) error { <-ready; return other.Wait(ctx) }})
	other = submit(t, p, taskpool.Task{Name: evil, Priority: taskpool.Low, Run: first.Wait})
	close(ready)
	for p.Health() == nil {
		<-time.After(time.Millisecond)
	}
}

func TestWhoWaitsForWhomIsFoundWithoutAScriptAndByKeyboard(t *testing.T) {
	for name, before := range map[string][]chromedp.Action[chromedp.Void]{
		"wide":             {viewport(1280, 800)},
		"phone":            {viewport(360, 800)},
		"without a script": {viewport(360, 800), withoutScript()},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDashboard(t, dashboard.WithControl(anybody))
			circle(t, d)
			tb := open(t, d, before...)
			tb.until(says(".problems", "2 tasks wait for each other Who waits for whom"))
			require.True(t, eval[bool](tb, says(".parked", "low → medium")))
			for i := 0; !eval[bool](tb, `document.activeElement.innerText === "Who waits for whom"`); i++ {
				require.Less(t, i, 20)
				tb.do(chromedp.KeyEvent(kb.Tab))
			}
			tb.do(chromedp.KeyEvent(kb.Enter))
			tb.until(`document.activeElement.id === "p1-parked-h"`)
			require.True(t, eval[bool](tb, `(r => r.top >= document.querySelector("header").getBoundingClientRect().bottom && r.bottom <= innerHeight)(document.activeElement.getBoundingClientRect())`), "it is in sight")
			require.True(t, eval[bool](tb, says(".parked", `waits for task 2 "<img src=x onerror=alert(2)>_with`)))
			require.True(t, eval[bool](tb, says(".parked", `waits for task 1 "first"`)))
			require.LessOrEqual(t, eval[int64](tb, `document.documentElement.scrollWidth - innerWidth`), int64(0))
			for _, name := range []string{"light", "dark"} {
				tb.do(scheme(name))
				require.Empty(t, eval[string](tb, contrast), name)
			}
		})
	}
}

func TestKeyboardReachesTheControlsAndFocusSurvivesUpdates(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	p := newPool(t, d)
	submit(t, p, taskpool.Task{Name: "long", Run: untilEnd})
	for i := range 3 {
		submit(t, p, taskpool.Task{Name: fmt.Sprint("later", i), NotBefore: time.Now().Add(time.Hour), Run: untilEnd})
	}
	tb := open(t, d)
	tb.live()
	reached := map[string]bool{}
	focused := func() string {
		return eval[string](tb, `(e => e.getAttribute("aria-label") || e.innerText || e.name || e.tagName)(document.activeElement)`)
	}
	for range 20 {
		tb.do(chromedp.KeyEvent(kb.Tab))
		reached[focused()] = true
	}
	for _, want := range []string{"Skip to the pools", "Freeze", "Pause", "workers", "Resize", "Stack of long #1", "Cancel long #1", "Cancel later2 #4"} {
		require.Contains(t, reached, want)
	}

	// A list stands still while the focus is in it.
	tb.do(chromedp.Focus(chromedp.CSS(".running a[data-stack]")))
	submit(t, p, taskpool.Task{Name: "another", Run: untilEnd})
	tb.until(`document.querySelector(".running").dataset.held !== undefined`)
	tb.live()
	require.False(t, eval[bool](tb, says(".running", "another")))
	require.Equal(t, "Stack of long #1", focused())
	require.NotEqual(t, "none", eval[string](tb, `getComputedStyle(document.activeElement).outlineStyle`))
	tb.do(chromedp.KeyEvent(" "))
	tb.until(says(".running pre", "browsertest.untilEnd"))
	tb.do(chromedp.KeyEvent(" "))
	tb.do(chromedp.Focus(chromedp.CSS("#freeze")))
	tb.until(says(".running", "another"))

	// What one has done oneself is shown at once, and the next row has the focus.
	tb.do(chromedp.Focus(chromedp.CSS(".running tbody:first-of-type button")))
	require.Contains(t, focused(), "Cancel long")
	tb.do(chromedp.KeyEvent(kb.Enter))
	tb.until("!" + says(".running", "long"))
	require.Equal(t, "Cancel another #5", focused())
	tb.do(chromedp.KeyEvent(kb.Enter))
	tb.until("!" + says(".running", "another"))
	require.Contains(t, focused(), "Running", "the last of the list is gone, and its heading has the focus")

	eval[bool](tb, `document.querySelector("input[name=workers]").select(), true`)
	tb.do(chromedp.KeyEvent("7"))
	tb.live()
	require.Equal(t, "7", eval[string](tb, `document.activeElement.value`), "what was typed stays")
}

func TestControlsWork(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	p := newPool(t, d, taskpool.WithWorkers(2))
	h := submit(t, p, taskpool.Task{Name: "long", Run: untilEnd})
	tb := open(t, d)
	tb.agree = true
	tb.live()
	tb.do(chromedp.Click(chromedp.CSS("button[value=pause]")))
	tb.until(says("#said", "Paused by anna"))
	tb.until(says(".done", "Paused by anna"))
	require.Equal(t, []string{"Pause \u2068mail\u2069? No task starts until it is resumed."}, tb.questions())
	tb.until(says(".head .badge", "paused"))
	require.True(t, p.Stats().Paused)
	tb.do(chromedp.Click(chromedp.CSS("button[value=resume]")))
	tb.until(says(".head .badge", "accepting"))
	require.False(t, p.Stats().Paused)
	eval[bool](tb, `document.querySelector("input[name=workers]").select(), true`)
	tb.do(chromedp.KeyEvent("5"), chromedp.KeyEvent(kb.Enter))
	tb.until(says("#said", "Resized to 5 workers"))
	tb.until(says(".tile", "of 5 busy"))
	require.Equal(t, "Resize \u2068mail\u2069 to 5 workers?", tb.questions()[1])
	require.Equal(t, 5, p.Stats().Workers)
	tb.do(chromedp.Click(chromedp.CSS(".running button")))
	tb.until(says("#said", "Canceled task 1"))
	require.ErrorContains(t, h.Wait(t.Context()), "canceled by hand")
}

func TestCopyHasThePageAsJSON(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d)
	submit(t, p, taskpool.Task{Name: "long", Run: untilEnd})
	tb := open(t, d)
	tb.live()
	// The real clipboard is the machine's, and wants a permission.
	eval[bool](tb, `Object.defineProperty(navigator, "clipboard", {value: {writeText: async (text) => { window.copied = text; }}}), true`)
	tb.do(chromedp.Click(chromedp.CSS("#copy")))
	tb.until(`window.copied !== undefined`)
	tb.until(says("#said", "Copied the snapshot as JSON."))
	require.Equal(t, "mail", eval[string](tb, `JSON.parse(window.copied).pools[0].name`))
	require.Equal(t, "long", eval[string](tb, `JSON.parse(window.copied).pools[0].running[0].name`))

	eval[bool](tb, `navigator.clipboard.writeText = async () => { throw new Error("not allowed"); }, true`)
	tb.do(chromedp.Click(chromedp.CSS("#copy")))
	tb.until(says("#said", "The snapshot could not be copied; it is at snapshot.json."))
}

func TestControlsAreAbsentUnlessAllowed(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d)
	submit(t, p, taskpool.Task{Name: "long", Run: untilEnd})
	tb := open(t, d)
	tb.live()
	require.Equal(t, 0, eval[int](tb, `document.querySelectorAll("form").length`))
	require.True(t, eval[bool](tb, says(".running", "long")))
}

func TestPageWithoutScriptIsASnapshot(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	p := newPool(t, d)
	submit(t, p, taskpool.Task{Name: "long", Run: untilEnd})
	submit(t, p, taskpool.Task{Name: "crash", Flow: "acme", Run: func(context.Context) error { return crashHere() }})
	submit(t, p, taskpool.Task{Flow: "acme", Run: untilEnd})
	tb := open(t, d, withoutScript())
	tb.until(says("header", "Snapshot"))
	require.True(t, eval[bool](tb, says(".running", "long")))
	require.True(t, eval[bool](tb, says(".flows", "acme")))
	tb.do(chromedp.Click(chromedp.CSS("#refresh")))
	tb.until(says(".failures", "crash"))
	tb.do(chromedp.Click(chromedp.CSS(".failures .each > summary")), chromedp.Click(chromedp.CSS(".failures li summary")))
	tb.until(says(".failures pre", "browsertest.crashHere"))
	tb.do(chromedp.Click(chromedp.CSS("button[value=pause]")))
	tb.until(says(".head .badge", "paused"))
	require.True(t, p.Stats().Paused)
}

func TestPageFitsAPhone(t *testing.T) {
	for _, width := range []int64{360, 390, 768, 1280} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			d := newDashboard(t, dashboard.WithControl(anybody))
			p := newPool(t, d, taskpool.WithWorkers(4), taskpool.WithName("a-pool-with-a-name-that-is-much-too-long-to-fit-into-one-line-of-a-phone"))
			for _, name := range []string{"long", "a_task_with_a_name_that_is_much_too_long_to_fit_into_one_line_of_a_phone_or_even_two"} {
				flow := "flow_of_" + name + strings.Repeat("\u202e_and_so_on", 100)
				submit(t, p, taskpool.Task{Name: name, Flow: flow, Timeout: time.Hour, Run: untilEnd})
				submit(t, p, taskpool.Task{Name: name, Flow: flow, NotBefore: time.Now().Add(time.Hour), Run: untilEnd})
				submit(t, p, taskpool.Task{Name: name, Flow: flow, Run: func(context.Context) error { return crashHere() }})
			}
			tb := open(t, d, viewport(width, 800))
			tb.live()
			tb.do(chromedp.Click(chromedp.CSS(".failures .each > summary")), chromedp.Click(chromedp.CSS(".failures li summary")), chromedp.Click(chromedp.CSS(".running a[data-stack]")))
			tb.until(says(".running pre", "untilEnd"))
			require.LessOrEqual(t, eval[int64](tb, `document.documentElement.scrollWidth`), width)
			require.Equal(t, "", eval[string](tb, `[...document.querySelectorAll("section, table, form, .tile")]
				.filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.className).join()`))
		})
	}
}

// contrast is an expression: texts whose contrast with what is behind them is less than
// 4.5, which is level AA.
const contrast = `(() => {
	const channel = (c) => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
	const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
	const color = (s) => s.match(/[\d.]+/g).map(Number);
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const c = color(getComputedStyle(e).backgroundColor);
			if (c[3] !== 0) return c;
		}
		return [255, 255, 255];
	};
	const bad = new Set();
	for (const e of document.querySelectorAll("body *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
		const [a, b] = [light(color(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
		const ratio = (a + .05) / (b + .05);
		if (ratio < 4.5) bad.add(e.tagName + " " + e.className + " " + e.textContent.trim().slice(0, 20) + " " + ratio.toFixed(2));
	}
	return [...bad].join("; ");
})()`

func TestColorsFollowTheSystemAndContrast(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody), dashboard.WithStarvingAfter(time.Millisecond))
	p := newPool(t, d, taskpool.WithWorkers(2), taskpool.WithHangGrace(time.Hour))
	over := make(chan struct{})
	defer close(over)
	submit(t, p, taskpool.Task{Name: "late", Timeout: time.Second, Run: func(context.Context) error { <-over; return nil }})
	submit(t, p, taskpool.Task{Name: "crash", Run: func(context.Context) error { return crashHere() }})
	submit(t, p, taskpool.Task{Name: "long", Run: untilEnd})
	submit(t, p, taskpool.Task{Name: "waits", Run: untilEnd})
	submit(t, p, taskpool.Task{Name: "of a tenant", Flow: "acme", NotBefore: time.Now().Add(time.Hour), Run: untilEnd})
	backgrounds := map[string]string{}
	tb := open(t, d)
	for _, name := range []string{"light", "dark"} {
		tb.do(scheme(name))
		tb.live()
		tb.until(says(".problems .warn", "Waits long"))
		tb.until(says(".running .bad", "overdue"))
		tb.until(says(".failures .badge", "panic"))
		tb.until(says(".flows", "acme"))
		backgrounds[name] = eval[string](tb, `getComputedStyle(document.body).backgroundColor`)
		require.Empty(t, eval[string](tb, contrast), name)
	}
	require.Equal(t, map[string]string{"light": "rgb(244, 245, 247)", "dark": "rgb(16, 19, 22)"}, backgrounds)
}

func TestLostConnectionIsShownAndTakenUpAgain(t *testing.T) {
	d := newDashboard(t, dashboard.WithMaxClients(1))
	newPool(t, d)
	tb := open(t, d)
	tb.live()
	tb.tolerant = true // the browser writes of the connection to the console
	tb.closed.Lock()
	tb.server.CloseClientConnections()
	tb.until(`document.body.dataset.link === "lost"`)
	require.True(t, eval[bool](tb, says("#link", "Connection lost")))
	tb.closed.Unlock()
	tb.live()
}

func TestFrozenPageStandsStill(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d)
	tb := open(t, d)
	tb.live()
	tb.do(chromedp.Click(chromedp.CSS("#freeze")))
	tb.until(says("#link", "Frozen"))
	require.Equal(t, "1", eval[string](tb, `getComputedStyle(document.querySelector("main")).opacity`), "it is as legible as ever")
	at := eval[string](tb, `document.getElementById("at").dateTime`)
	submit(t, p, taskpool.Task{Name: "unseen", Run: untilEnd})
	for page := ""; !strings.Contains(page, "unseen"); <-time.After(50 * time.Millisecond) {
		response, err := http.Get(tb.server.URL + prefix) // there is something new
		require.NoError(t, err)
		b, err := io.ReadAll(response.Body)
		response.Body.Close()
		require.NoError(t, err)
		page = string(b)
	}
	require.Equal(t, at, eval[string](tb, `document.getElementById("at").dateTime`))
	tb.do(chromedp.Click(chromedp.CSS("#freeze")))
	tb.until(says(".running", "unseen"))
}
