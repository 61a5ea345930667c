package browsertest

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/dashboard"
)

var chromium context.Context // of a running browser; nil if none is installed

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		return m.Run()
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.WSURLReadTimeout(5*time.Minute)) // to start takes long on a machine with much else to do
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // which root may not have
	}
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	defer cancel()
	ctx, cancel := chromedp.NewContext(alloc)
	defer cancel()
	if err := chromedp.Do(ctx); err != nil {
		log.Printf("%s does not start: %v", path, err)
		return 1
	}
	chromium = ctx
	return m.Run()
}

const prefix = "/debug/taskpool/"

// timeouts are those of the server, which streams must outlive.
const timeouts = 3 * time.Second

// A tab shows the page of a dashboard. At its end the test fails if the browser wrote
// to the console, asked for anything but what belongs to the page, or opened a dialog.
type tab struct {
	t      *testing.T
	ctx    context.Context
	server *httptest.Server

	closed sync.RWMutex // requests wait while it is locked

	tolerant bool // what the browser complains of does not matter
	agree    bool // dialogs are wanted, and answered with yes

	mu    sync.Mutex // protects the fields below
	bad   []string
	asked []string // what dialogs have said
}

// waitWhileClosed returns as soon as nobody has locked closed.
func (tb *tab) waitWhileClosed() {
	tb.closed.RLock()
	defer tb.closed.RUnlock()
}

// open serves d below a prefix on loopback, and opens its page, after what is to be
// done before.
func open(t *testing.T, d *dashboard.Dashboard, before ...chromedp.Action[chromedp.Void]) *tab {
	t.Helper()
	if chromium == nil {
		const text = "no Chromium is installed: looked for chromium, chromium-browser and google-chrome"
		if os.Getenv("CI_REQUIRE_BROWSER") == "1" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	mux := http.NewServeMux()
	tb := &tab{t: t, server: httptest.NewUnstartedServer(mux)}
	mux.HandleFunc(prefix, func(w http.ResponseWriter, r *http.Request) {
		tb.waitWhileClosed()
		d.ServeHTTP(w, r)
	})
	tb.server.Config.ReadTimeout, tb.server.Config.WriteTimeout = timeouts, timeouts
	tb.server.Start()
	ctx, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext(), chromedp.WithListener(tb.listen))
	tb.ctx = ctx
	t.Cleanup(func() {
		cancel()
		d.Close()
		tb.server.Close()
		tb.mu.Lock()
		defer tb.mu.Unlock()
		if len(tb.bad) > 0 && !tb.tolerant {
			t.Errorf("the browser complains:\n%s", strings.Join(tb.bad, "\n"))
		}
	})
	enable := chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, network.Enable, network.EnableParams{})
		return err
	})
	tb.do(enable)
	tb.do(before...)
	tb.do(chromedp.Navigate(tb.server.URL + prefix))
	return tb
}

func (tb *tab) listen(event any) {
	complain := func(format string, args ...any) {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.bad = append(tb.bad, fmt.Sprintf(format, args...))
	}
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		complain("console: %s", e.Type)
	case *runtime.EventExceptionThrown:
		complain("exception: %s", e.ExceptionDetails.Text)
	case *cdplog.EventEntryAdded:
		complain("log: %s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
	case *network.EventRequestWillBeSent:
		if !strings.HasPrefix(e.Request.URL, tb.server.URL+prefix) {
			complain("request to %s", e.Request.URL)
		}
	case *page.EventJavascriptDialogOpening:
		if !tb.agree {
			complain("dialog: %s", e.Message)
			return
		}
		tb.mu.Lock()
		tb.asked = append(tb.asked, e.Message)
		tb.mu.Unlock()
		go func() { // the page stands still until then
			_ = chromedp.Do(tb.ctx, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
				_, err := cdp.Call(ctx, t, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
				return err
			}))
		}()
	}
}

// questions returns what dialogs have said.
func (tb *tab) questions() []string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return slices.Clone(tb.asked)
}

func (tb *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	require.NoError(tb.t, chromedp.Do(tb.ctx, actions...))
}

// eval returns the value of an expression in the page.
func eval[T any](tb *tab, expression string) T {
	tb.t.Helper()
	v, err := chromedp.Run(tb.ctx, chromedp.Evaluate[T](expression))
	require.NoError(tb.t, err, expression)
	return v
}

// until waits until an expression is true, through navigations too.
func (tb *tab) until(expression string) {
	tb.t.Helper()
	for deadline := time.Now().Add(10 * time.Minute); ; <-time.After(50 * time.Millisecond) {
		ok, err := chromedp.Run(tb.ctx, chromedp.Evaluate[bool](expression))
		if ok && err == nil {
			return
		}
		require.True(tb.t, time.Now().Before(deadline), "%s is not true (%v) in a page that says:\n%s", expression, err, lazy(func() string {
			return eval[string](tb, "document.body.innerText")
		}))
	}
}

type lazy func() string

func (f lazy) String() string { return f() }

// live waits until the page has been updated at least twice.
func (tb *tab) live() {
	tb.t.Helper()
	tb.until(`document.body.dataset.link === "live"`)
	at := eval[string](tb, `document.getElementById("at").dateTime`)
	tb.until(fmt.Sprintf(`document.getElementById("at").dateTime !== %q`, at))
}

func viewport(width, height int64) chromedp.Action[chromedp.Void] {
	return chromedp.EmulateViewport(width, height)
}

func scheme(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
		})
		return err
	})
}

func withoutScript() chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	})
}
