package browsertest

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

var axe = flag.String("axe", "", "file with axe.min.js of axe-core, to look for violations with")

// hostile fills a pool with what is hard to show: names and errors that are markup, long, without
// a space, or written from right to left, and something in each list.
func hostile(t *testing.T, d *dashboard.Dashboard, name string) *taskpool.Pool {
	p := newPool(t, d, taskpool.WithName(name), taskpool.WithWorkers(4))
	for _, name := range []string{
		"long", "archive order 8812",
		`<img src=x onerror=alert(2)>" onload="x`,
		"a_task_with_a_name_that_is_much_too_long_to_fit_into_one_line_of_a_phone_or_even_two",
		"\u202eright to left " + strings.Repeat("again ", 60),
	} {
		text := name + ": the printer is on fire"
		submit(t, p, taskpool.Task{Name: name, Flow: name, NotBefore: time.Now().Add(time.Hour), Run: untilEnd})
		submit(t, p, taskpool.Task{Name: name, Priority: taskpool.High, Run: func(context.Context) error { return errors.New(text) }})
		submit(t, p, taskpool.Task{Name: name, Priority: taskpool.High, Run: func(context.Context) error { return crashHere() }})
		h := submit(t, p, taskpool.Task{Name: name, Priority: taskpool.High, Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { return untilEnd(ctx) })
		}})
		for h.State() != taskpool.StateParked {
			<-time.After(time.Millisecond)
		}
	}
	for _, name := range []string{"reindex", "nightly report", `<b>bold`, "another", "one more", "archive order 8813"} {
		submit(t, p, taskpool.Task{Name: name, Timeout: time.Hour, Flow: name, Run: untilEnd})
		submit(t, p, taskpool.Task{Name: name, Priority: taskpool.Low, Run: untilEnd})
	}
	return p
}

// broken is an expression: the words that stand in more than one line though they would take
// less than 150 pixels in one.
const broken = `(() => {
	const bad = new Set();
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; (n = walk.nextNode());) {
		if (!n.parentElement.checkVisibility() || n.parentElement.closest(".sr, pre, script, .err")) continue;
		for (const m of n.data.matchAll(/\S+/g)) {
			const range = new Range();
			range.setStart(n, m.index);
			range.setEnd(n, m.index + m[0].length);
			const lines = [...range.getClientRects()].filter((r) => r.width > 0);
			if (new Set(lines.map((r) => Math.round(r.top))).size > 1 && lines.reduce((sum, r) => sum + r.width, 0) < 150)
				bad.add(m[0] + " in " + (n.parentElement.closest("section, nav, header") || {}).className);
		}
	}
	return [...bad].join("; ");
})()`

// covered is an expression: the cells of tables whose text runs into what is beside or below it.
const covered = `[...document.querySelectorAll("th, td")].filter((c) => c.checkVisibility() && !c.querySelector("pre") && (c.scrollWidth > c.clientWidth + 1 || c.scrollHeight > c.clientHeight + 1) &&
	getComputedStyle(c).display !== "inline" && !c.closest("thead")).map((c) => c.closest("section, nav").className + ": " + c.textContent.trim().slice(0, 30)).join("; ")`

func TestNoWordIsBrokenAtAnyWidth(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	hostile(t, d, "orders")
	newPool(t, d, taskpool.WithName("mail"))
	tb := open(t, d, viewport(1280, 900))
	tb.live()
	eval[bool](tb, `document.querySelectorAll("details.fold").forEach((f) => { f.open = true; }), true`)
	for _, width := range []int64{320, 360, 390, 480, 560, 640, 768, 900, 1001, 1150, 1280, 1920} {
		tb.do(viewport(width, 900))
		require.Empty(t, eval[string](tb, broken), "%d", width)
		require.Empty(t, eval[string](tb, covered), "%d", width)
		require.LessOrEqual(t, eval[int64](tb, `document.documentElement.scrollWidth`), width)
	}
}

func TestFivePoolsFitSixScreensOfAPhone(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	for _, name := range []string{"orders", "mail", "images", "reports", "imports"} {
		hostile(t, d, name)
	}
	tb := open(t, d, viewport(390, 844))
	tb.live()
	require.Less(t, eval[int](tb, `document.documentElement.scrollHeight`), 6*844)
	require.True(t, eval[bool](tb, says("#pools", "imports")))
	require.False(t, eval[bool](tb, says("#p5", "nightly report")), "it is folded")
	names := eval[[]string](tb, `[...document.querySelectorAll("section, nav, article")].map((s) => s.ariaLabel ||
		s.getAttribute("aria-labelledby").split(" ").map((id) => document.getElementById(id).textContent).join(" "))`)
	seen := make(map[string]bool)
	for _, name := range names {
		require.NotEmpty(t, name)
		require.False(t, seen[name], "two landmarks are named %s", name)
		seen[name] = true
	}
	tb.do(chromedp.Click(chromedp.CSS(`#pools a[href="#p5"]`)))
	tb.until(says("#p5", "nightly report"))
	tb.live()
	require.True(t, eval[bool](tb, says("#p5", "nightly report")), "it stays open")
}

func TestAxeFindsNothing(t *testing.T) {
	if *axe == "" {
		t.Skip("no -axe FILE given")
	}
	source, err := os.ReadFile(*axe)
	require.NoError(t, err)
	d := newDashboard(t, dashboard.WithControl(anybody))
	hostile(t, d, "orders")
	hostile(t, d, `<img src=x onerror=alert(3)>`)
	tb := open(t, d, viewport(1280, 900))
	tb.live()
	eval[bool](tb, `document.querySelectorAll("details").forEach((f) => { f.open = true; }), true`)
	eval[bool](tb, string(source)+"; true")
	check := func(state string) {
		t.Helper()
		for _, width := range []int64{1280, 390} {
			for _, colors := range []string{"light", "dark"} {
				tb.do(viewport(width, 900), scheme(colors))
				eval[bool](tb, `window.found = undefined, axe.run().then((r) => {
					window.found = JSON.stringify(r.violations.map((v) => v.id + ": " + v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200)).join(" | ")));
				}), true`)
				tb.until(`window.found !== undefined`)
				var found []string
				require.NoError(t, json.Unmarshal([]byte(eval[string](tb, `window.found`)), &found))
				require.Empty(t, found, "%s, %d, %s", state, width, colors)
			}
		}
	}
	check("live")
	tb.do(viewport(1280, 900), chromedp.Click(chromedp.CSS("#freeze")))
	tb.until(says("#link", "Frozen"))
	check("frozen")
}

func TestNamesAreSortedAndSearched(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d, taskpool.WithWorkers(3))
	for _, name := range []string{"b", "c", "c", "a", "a", "a"} {
		require.NoError(t, submit(t, p, taskpool.Task{Name: name, Run: func(context.Context) error { return nil }}).Wait(t.Context()))
	}
	tb := open(t, d, viewport(1280, 900))
	tb.live()
	order := func() string {
		return eval[string](tb, `[...document.querySelectorAll(".names tbody tr:not([hidden]) th")].map((n) => n.innerText).join("")`)
	}
	require.Equal(t, "acb", order(), "by what is done")
	button := func(column int) chromedp.Action[chromedp.Void] {
		return chromedp.Click(chromedp.CSS(fmt.Sprintf(".names th:nth-child(%d) button", column)))
	}
	tb.do(button(1))
	require.Equal(t, "abc", order())
	tb.do(button(1))
	require.Equal(t, "cba", order())
	require.Equal(t, "descending", eval[string](tb, `document.querySelector(".names th").ariaSort`))
	tb.live()
	require.Equal(t, "cba", order(), "it stays")
	tb.do(button(6))
	require.Equal(t, "acb", order())
	require.Equal(t, 1, eval[int](tb, `document.querySelectorAll("[aria-sort]").length`))

	submit(t, p, taskpool.Task{Name: "needle", Run: untilEnd})
	submit(t, p, taskpool.Task{Name: "hay", Run: untilEnd})
	tb.until(says(".running", "hay"))
	tb.do(chromedp.Focus(chromedp.CSS("#find")), chromedp.KeyEvent("NEED"))
	require.Equal(t, "needle", order())
	tb.live()
	require.Equal(t, "needle", order())
	require.False(t, eval[bool](tb, says(".running", "hay")))
	require.True(t, eval[bool](tb, says(".running", "needle")))
}

func TestWhatWaitsIsControlledByHand(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	p := newPool(t, d, taskpool.WithWorkers(1))
	submit(t, p, taskpool.Task{Name: "runs", Run: untilEnd})
	for range 3 {
		submit(t, p, taskpool.Task{Name: "batch", Run: untilEnd})
	}
	last := submit(t, p, taskpool.Task{Name: "last", Run: untilEnd})
	tb := open(t, d, viewport(1280, 900))
	tb.agree = true
	tb.live()
	tb.until(says(".waiting", "last #5"))
	eval[bool](tb, `document.querySelector(".waiting tbody:last-of-type input[name=priority]").select(), true`)
	tb.do(chromedp.KeyEvent("high"))
	tb.do(chromedp.Click(chromedp.CSS(".waiting tbody:last-of-type button[value=priority]")))
	tb.until(says("#said", "Set task 5 to priority high by anna"))
	require.Equal(t, taskpool.High, last.Info().Priority)
	tb.until(`document.querySelector(".waiting tbody").innerText.includes("last")`)
	eval[bool](tb, `document.querySelector(".names tr[data-key] input[value=batch]").form.querySelector("button").click(), true`)
	tb.until(says("#said", `Canceled 3 tasks named "batch" by anna`))
	require.Equal(t, []string{"Cancel all tasks of \u2068mail\u2069 that are named \u2068batch\u2069, also those that run?"}, tb.questions())
	tb.until("!" + says(".waiting", "batch"))
}

func TestTimesAreTheViewers(t *testing.T) {
	zone := chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Asia/Kathmandu"})
		return err
	})
	began := time.Now()
	d := newDashboard(t)
	p := newPool(t, d)
	require.Error(t, submit(t, p, taskpool.Task{Name: "bad", Run: func(context.Context) error { return errors.New("x") }}).Wait(t.Context()))
	tb := open(t, d, zone)
	tb.live()
	hour := func(text string) string { return regexp.MustCompile(`\d\d:`).FindString(text) }
	there := func(at time.Time) string { return at.UTC().Add(5*time.Hour + 45*time.Minute).Format("15:") }
	require.Contains(t, []string{there(began), there(time.Now())}, hour(eval[string](tb, `document.getElementById("at").textContent`)))
	require.Contains(t, eval[string](tb, `document.getElementById("at").textContent`), "GMT+5:45")
	require.Contains(t, []string{there(began), there(time.Now())}, hour(eval[string](tb, `document.querySelector(".failures time").textContent`)))
	require.Contains(t, eval[string](tb, `document.querySelector(".failures time").title`), "GMT+5:45")
}
