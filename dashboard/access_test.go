package dashboard_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

func TestHostsOtherThanLoopbackAreRefused(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	newPool(t, d)
	for host, allowed := range map[string]bool{
		"localhost": true, "LOCALHOST:80": true, "127.0.0.1": true, "127.9.9.9:1": true, "[::1]": true, "[::1]:80": true,
		"": false, "example.com": false, "localhost.example.com": false, "10.0.0.1": false, "0.0.0.0": false, "[::2]:80": false, "127.0.0.1.example.com": false,
	} {
		for _, path := range []string{"", "events", "stack?pool=1&worker=1", "style.css", "nothing"} {
			if allowed && path == "events" {
				continue // does not end
			}
			w := request(d, http.MethodGet, path, "", func(r *http.Request) { r.Host = host })
			require.Equal(t, allowed, w.Code != http.StatusForbidden, "%s of %s: %d", path, host, w.Code)
		}
		w := request(d, http.MethodPost, "control", "pool=1&do=resume", func(r *http.Request) { r.Host = host })
		require.Equal(t, allowed, w.Code == http.StatusOK, host)
	}
}

func TestRequestsFromOtherMachinesAreRefused(t *testing.T) {
	d := newDashboard(t)
	newPool(t, d)
	for from, allowed := range map[string]bool{
		"127.0.0.1:80": true, "127.8.8.8:1": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true, "[::1%lo]:80": true,
		"10.0.0.5:80": false, "192.0.2.1:80": false, "[fe80::1%eth0]:80": false, "[::ffff:10.0.0.5]:80": false,
		"10.0.0.5": false, "": false, "@": false, "somebody": false, "localhost:80": false,
	} {
		w := request(d, http.MethodGet, "", "", func(r *http.Request) { r.RemoteAddr = from })
		if allowed {
			require.Equal(t, http.StatusOK, w.Code, from)
		} else {
			require.Equal(t, http.StatusForbidden, w.Code, from)
			require.Contains(t, w.Body.String(), "unless it is made with WithAuthorize; got one from "+strconv.Quote(from))
		}
	}
}

func TestUnixSocketIsOfThisMachine(t *testing.T) {
	d := newDashboard(t)
	newPool(t, d)
	at := filepath.Join(t.TempDir(), "s")
	server := httptest.NewUnstartedServer(d)
	server.Listener.Close()
	var err error
	server.Listener, err = net.Listen("unix", at)
	require.NoError(t, err)
	server.Start()
	defer server.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", at)
	}}
	defer transport.CloseIdleConnections()
	for host, status := range map[string]int{"localhost": http.StatusOK, "example.com": http.StatusForbidden} {
		response, err := (&http.Client{Transport: transport}).Get("http://" + host + "/")
		require.NoError(t, err)
		readAll(t, response)
		require.Equal(t, status, response.StatusCode, host)
	}
}

// A proxy on this machine connects from it, whoever asks.
func TestRequestsThroughProxiesAreRefusedUnlessAuthorizeIsGiven(t *testing.T) {
	closed := newDashboard(t)
	newPool(t, closed)
	open := newDashboard(t, dashboard.WithAuthorize(func(*http.Request) error { return nil }))
	newPool(t, open, taskpool.WithName("other"))
	for _, header := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Server", "X-Real-IP", "Via"} {
		proxied := func(r *http.Request) { r.Header.Set(header, "127.0.0.1") }
		w := request(closed, http.MethodGet, "", "", proxied)
		require.Equal(t, http.StatusForbidden, w.Code)
		require.Contains(t, w.Body.String(), "WithAuthorize; got one with the header "+http.CanonicalHeaderKey(header))
		require.Equal(t, http.StatusOK, request(open, http.MethodGet, "", "", proxied).Code)
	}
}

// The page of evil.example, once that name is rebound to the server's address, is of one
// origin with the dashboard, and asks from where its reader sits.
func TestNameThatMayBeReboundIsRefusedWithAuthorizeToo(t *testing.T) {
	asked := 0
	inside := func(r *http.Request) error {
		asked++
		if !strings.HasPrefix(r.RemoteAddr, "10.") {
			return errors.New("not from the intranet")
		}
		return nil
	}
	d := newDashboard(t, dashboard.WithAuthorize(inside), dashboard.WithControl(nameless(inside)), dashboard.WithHosts("pool.example.com"), dashboard.WithHosts("POOLS"))
	p := newPool(t, d)
	for host, allowed := range map[string]bool{
		"pool.example.com": true, "Pool.Example.Com:8080": true, "pool.example.com.": true, "pools": true,
		"localhost:6060": true, "10.0.0.1:6060": true, "[fd00::1]:6060": true, "[fd00::1]": true,
		"": false, "evil.example": false, "evil.example:6060": false, "x.pool.example.com": false, "10.0.0.1.evil.example": false,
	} {
		asked = 0
		for _, path := range []string{"", "control"} {
			method, form := http.MethodGet, ""
			if path == "control" {
				method, form = http.MethodPost, "pool=1&do=pause"
			}
			w := request(d, method, path, form, func(r *http.Request) {
				r.Host, r.RemoteAddr = host, "10.0.0.5:1024"
				r.Header.Set("Origin", "http://"+host)
				r.Header.Set("Sec-Fetch-Site", "same-origin")
			})
			if allowed {
				require.Equal(t, http.StatusOK, w.Code, host)
				continue
			}
			require.Equal(t, http.StatusForbidden, w.Code, host)
			require.Contains(t, w.Body.String(), "a host given to WithHosts; got "+strconv.Quote(host))
		}
		require.Equal(t, allowed, asked > 0, host)
		require.Equal(t, allowed, p.Stats().Paused, host)
		p.Resume()
	}
}

// What another site's page gets it cannot read, but a stack stops the program, and a
// stream takes a place.
func TestOtherSitesPagesGetNeitherStacksNorTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		require.NoError(t, p.Go(taskpool.Medium, func() {})) // workers start when they are needed
		synctest.Wait()
		for site, allowed := range map[string]bool{"": true, "none": true, "same-origin": true, "same-site": false, "cross-site": false} {
			from := func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", site) }
			want := http.StatusForbidden
			if allowed {
				want = http.StatusOK
			}
			require.Equal(t, want, request(d, http.MethodGet, "stack?pool=1&worker=1", "", from).Code, site)
			ctx, cancel := context.WithCancel(t.Context())
			if allowed {
				time.AfterFunc(time.Second, cancel) // the stream goes on until then
			}
			w := request(d, http.MethodGet, "events", "", from, func(r *http.Request) { *r = *r.WithContext(ctx) })
			require.Equal(t, want, w.Code, site)
			cancel()
			require.Equal(t, http.StatusOK, request(d, http.MethodGet, "", "", from).Code, "a link may stand anywhere")
		}
	})
}

func TestPatternWithoutASlashIsSaidToBeWrong(t *testing.T) {
	d := newDashboard(t)
	mux := http.NewServeMux()
	mux.Handle("GET /debug/{name}", d)
	w := request(mux, http.MethodGet, "", "", func(r *http.Request) { r.URL.Path = "/debug/taskpool" })
	require.Equal(t, http.StatusNotFound, w.Code)
	require.Equal(t, `no such page: the pattern with which the dashboard is mounted must end in a slash, got "GET /debug/{name}"`+"\n", w.Body.String())
}

func TestAuthorizeDecidesAboutEachRequest(t *testing.T) {
	asked := 0
	d := newDashboard(t, dashboard.WithAuthorize(func(r *http.Request) error {
		asked++
		if r.Header.Get("Authorization") != "yes" {
			return errors.New("who are you?")
		}
		return nil
	}))
	newPool(t, d)
	elsewhere := func(r *http.Request) { r.Host, r.RemoteAddr = "10.0.0.1", "10.0.0.5:1024" }
	for i, path := range []string{"", "events", "stack?pool=1&worker=1", "style.css", "control", "nothing"} {
		w := request(d, http.MethodGet, path, "", elsewhere)
		require.Equal(t, http.StatusForbidden, w.Code, path)
		require.NotContains(t, w.Body.String(), "who are you")
		require.Equal(t, i+1, asked)
	}
	w := request(d, http.MethodGet, "", "", elsewhere, func(r *http.Request) { r.Header.Set("Authorization", "yes") })
	require.Equal(t, http.StatusOK, w.Code)
}

func TestPanicOfAuthorizeRefusesTheRequestAndNothingElse(t *testing.T) {
	broken := true
	f := func(*http.Request) error {
		if broken {
			panic("no database")
		}
		return nil
	}
	d := newDashboard(t, dashboard.WithAuthorize(f))
	newPool(t, d)
	require.Equal(t, http.StatusInternalServerError, request(d, http.MethodGet, "", "").Code)
	broken = false
	require.Equal(t, http.StatusOK, request(d, http.MethodGet, "", "").Code)

	c := newDashboard(t, dashboard.WithControl(nameless(f)))
	p := newPool(t, c, taskpool.WithName("other"))
	broken = true
	require.Equal(t, http.StatusInternalServerError, request(c, http.MethodPost, "control", "pool=1&do=pause").Code)
	require.False(t, p.Stats().Paused)
}

func TestHeadersOfEveryAnswer(t *testing.T) {
	d := newDashboard(t)
	newPool(t, d)
	answers := []*httptest.ResponseRecorder{
		request(d, http.MethodGet, "", "", func(r *http.Request) { r.Host = "example.com" }),
		request(d, http.MethodPost, "", ""),
	}
	for _, path := range []string{"", "style.css", "script.js", "icon.svg", "stack", "nothing", "control"} {
		answers = append(answers, request(d, http.MethodGet, path, ""))
	}
	for _, w := range answers {
		h := w.Header()
		require.Equal(t, "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
			h.Get("Content-Security-Policy"))
		require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
		require.Equal(t, "same-origin", h.Get("Referrer-Policy"))
		require.Equal(t, "no-store", h.Get("Cache-Control"))
		require.NotEmpty(t, h.Get("Content-Type"))
	}
	html := page(t, d)
	require.NotContains(t, html, "<style")
	require.NotContains(t, html, " style=")
	require.NotContains(t, html, " on")
	require.Equal(t, 1, strings.Count(html, "<script"))
}

func TestMethodsThatAreNotMeantAreRefused(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	newPool(t, d)
	for path, allow := range map[string]string{"": "GET, HEAD", "style.css": "GET, HEAD", "events": "GET", "stack": "GET", "control": "POST"} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if strings.Contains(allow, method) {
				continue
			}
			w := request(d, method, path, "")
			require.Equal(t, http.StatusMethodNotAllowed, w.Code, "%s %s", method, path)
			require.Equal(t, allow, w.Header().Get("Allow"))
		}
	}
}

func TestItIsMountedUnderAnyPrefix(t *testing.T) {
	d := newDashboard(t)
	newPool(t, d)
	mux := http.NewServeMux()
	mux.Handle("/debug/taskpool/", d)
	mux.Handle("/a/b/", http.StripPrefix("/a/b/", d))
	mux.Handle("/c/", http.StripPrefix("/c", d))
	mux.Handle("/d", http.StripPrefix("/d", d))
	server := httptest.NewServer(mux)
	defer server.Close()
	for _, prefix := range []string{"/debug/taskpool", "/a/b", "/c"} {
		for path, part := range map[string]string{"": "<h1>taskpool</h1>", "/": "<h1>taskpool</h1>", "/style.css": ":root", "/script.js": "EventSource", "/icon.svg": "<svg"} {
			response, err := server.Client().Get(server.URL + prefix + path)
			require.NoError(t, err)
			require.Contains(t, readAll(t, response), part)
			require.Equal(t, http.StatusOK, response.StatusCode, prefix+path)
			if path == "" {
				require.Equal(t, prefix+"/", response.Request.URL.Path, "what is relative needs the slash")
			}
		}
	}
	client := *server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Get(server.URL + "/d?x")
	require.NoError(t, err)
	readAll(t, response)
	require.Equal(t, "./d/", response.Header.Get("Location"))
	html := page(t, d)
	require.NotRegexp(t, `(href|src|action)="(/|http)`, html)
	response, err = server.Client().Get(server.URL + "/c/nothing")
	require.NoError(t, err)
	readAll(t, response)
	require.Equal(t, http.StatusNotFound, response.StatusCode)
	require.Equal(t, http.StatusNotFound, serveDefault("/debug/taskpool/"), "never on the default mux by itself")
}

func serveDefault(path string) int {
	w := httptest.NewRecorder()
	http.DefaultServeMux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code
}

func TestReadOnlyUnlessControlIsGiven(t *testing.T) {
	d := newDashboard(t)
	p := newPool(t, d)
	require.NotContains(t, page(t, d), "<form")
	for _, form := range []string{"do=pause", "do=resize&workers=7", "do=cancel&task=1"} {
		w := request(d, http.MethodPost, "control", "pool=1&"+form)
		require.Equal(t, http.StatusForbidden, w.Code)
	}
	require.False(t, p.Stats().Paused)
}

func TestGetChangesNothing(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	p := newPool(t, d, taskpool.WithWorkers(3))
	started := make(chan struct{})
	h := submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { close(started); return untilEnd(ctx) }})
	<-started
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, form := range []string{"do=pause", "do=resize&workers=7", "do=cancel&task=1"} {
			w := request(d, method, "control?pool=1&"+form, "")
			require.Equal(t, http.StatusMethodNotAllowed, w.Code)
			request(d, method, "?pool=1&"+form, "")
			request(d, method, "stack?pool=1&worker=1&"+form, "")
		}
	}
	// Nor does what stands in the address of a POST.
	require.Equal(t, http.StatusNotFound, request(d, http.MethodPost, "control?pool=1&do=pause", "").Code)
	s := p.Stats()
	require.False(t, s.Paused)
	require.Equal(t, 3, s.Workers)
	require.Equal(t, 1, s.Running)
	h.Cancel(nil)
}

func TestChangesFromOtherSitesAreRefused(t *testing.T) {
	asked := false
	d := newDashboard(t, dashboard.WithControl(func(*http.Request) (string, error) { asked = true; return "", nil }))
	p := newPool(t, d)
	for _, header := range [][2]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://example.com"},
		{"Origin", "null"},
		{"Origin", "http://localhost:6061"},
	} {
		w := request(d, http.MethodPost, "control", "pool=1&do=pause", func(r *http.Request) { r.Header.Set(header[0], header[1]) })
		require.Equal(t, http.StatusForbidden, w.Code, header)
	}
	require.False(t, p.Stats().Paused)
	require.False(t, asked, "authorize is not even asked")
	for _, header := range [][2]string{{"Sec-Fetch-Site", "same-origin"}, {"Origin", "http://localhost:6060"}} {
		w := request(d, http.MethodPost, "control", "pool=1&do=pause", func(r *http.Request) { r.Header.Set(header[0], header[1]) })
		require.Equal(t, http.StatusOK, w.Code, header)
	}
	require.True(t, p.Stats().Paused)
}

func TestUnauthorizedChangesAreRefused(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(func(r *http.Request) (string, error) {
		if r.Header.Get("Authorization") != "admin" {
			return "", errors.New("not you")
		}
		return "anna", nil
	}))
	p := newPool(t, d, taskpool.WithWorkers(2))
	started := make(chan struct{})
	h := submit(t, p, taskpool.Task{Run: func(ctx context.Context) error { close(started); return untilEnd(ctx) }})
	<-started
	for _, form := range []string{"do=pause", "do=resize&workers=7", "do=cancel&task=1"} {
		w := request(d, http.MethodPost, "control", "pool=1&"+form)
		require.Equal(t, http.StatusForbidden, w.Code)
		require.Equal(t, "not authorized\n", w.Body.String())
	}
	s := p.Stats()
	require.False(t, s.Paused)
	require.Equal(t, 2, s.Workers)
	require.Equal(t, 1, s.Running)
	w := request(d, http.MethodPost, "control", "pool=1&do=cancel&task=1", func(r *http.Request) { r.Header.Set("Authorization", "admin") })
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "Canceled task 1 by anna\n", w.Body.String())
	require.Contains(t, text(page(t, d)), "Canceled task 1 by anna , ")
	require.ErrorContains(t, h.Wait(t.Context()), "canceled by hand")
}

func TestControlDoesWhatIsAskedAndSaysSo(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	p := newPool(t, d, taskpool.WithWorkers(2))
	control := func(form string) string {
		w := request(d, http.MethodPost, "control", "pool=1&"+form)
		require.Equal(t, http.StatusOK, w.Code, w.Body)
		return strings.TrimSpace(w.Body.String())
	}
	require.Equal(t, "Paused", control("do=pause"))
	require.True(t, p.Stats().Paused)
	require.Contains(t, page(t, d), `value="resume"`, "the page knows at once")
	require.Equal(t, "Resumed", control("do=resume"))
	require.False(t, p.Stats().Paused)
	require.Equal(t, "Resized to 5 workers", control("do=resize&workers=5"))
	require.Equal(t, 5, p.Stats().Workers)

	for _, task := range []taskpool.Task{{Run: untilEnd}, {Run: untilEnd, NotBefore: time.Now().Add(time.Hour)},
		{Run: func(ctx context.Context) error {
			return taskpool.Block(ctx, func() error { return untilEnd(ctx) })
		}}} {
		h := submit(t, p, task)
		info := ""
		require.Eventually(t, func() bool {
			for _, i := range p.Tasks() {
				if i.Handle == h && (task.NotBefore.IsZero() || i.State == taskpool.StateDelayed) {
					info = strconv.FormatUint(i.ID, 10)
				}
			}
			return info != ""
		}, time.Minute, time.Millisecond)
		require.Equal(t, "Canceled task "+info, control("do=cancel&task="+info))
		require.Error(t, h.Wait(t.Context()))
		require.Equal(t, taskpool.StateCanceled, h.State())
	}

	// Without a script the browser sends a form and wants a page.
	w := request(d, http.MethodPost, "control", "pool=1&do=pause", func(r *http.Request) { r.Header.Set("Accept", "text/html,*/*") })
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Equal(t, "./", w.Header().Get("Location"))
}

func TestCancelLooksAmongTheFirstTasksOnly(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	p := newPool(t, d, taskpool.WithWorkers(1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all []*taskpool.Handle
	for i := range 10_002 {
		h, err := p.Submit(ctx, taskpool.Task{NotBefore: time.Now().Add(time.Hour + time.Duration(i)*time.Second), Run: untilEnd})
		require.NoError(t, err)
		all = append(all, h)
	}
	try := func(h *taskpool.Handle) int {
		return request(d, http.MethodPost, "control", fmt.Sprint("pool=1&do=cancel&task=", h.ID())).Code
	}
	require.Equal(t, http.StatusNotFound, try(all[10_000]))
	require.Equal(t, http.StatusOK, try(all[0]))
	require.Error(t, all[0].Wait(t.Context()))
	require.Equal(t, http.StatusOK, try(all[10_000]), "another has gone")
	require.Equal(t, http.StatusOK, try(all[10_001]))
}

func TestControlRefusesWhatCannotBe(t *testing.T) {
	d := newDashboard(t, dashboard.WithControl(anybody))
	p := newPool(t, d, taskpool.WithWorkers(3), taskpool.WithReserved(2, taskpool.High))
	for form, want := range map[string]string{
		"do=pause":                            `404 pool must be the number of a pool, got ""`,
		"pool=9&do=pause":                     `404 pool must be the number of a pool, got "9"`,
		"pool=1":                              `400 do must be pause, resume, resize, cancel, cancel-all or priority, got ""`,
		"pool=1&do=explode":                   `400 do must be pause, resume, resize, cancel, cancel-all or priority, got "explode"`,
		"pool=1&do=resize":                    `400 workers must be from 1 to 10000, got ""`,
		"pool=1&do=resize&workers=0":          `400 workers must be from 1 to 10000, got "0"`,
		"pool=1&do=resize&workers=x":          `400 workers must be from 1 to 10000, got "x"`,
		"pool=1&do=resize&workers=2":          `400 Resize: workers must be at least 3, got 2: WithReserved keeps 2`,
		"pool=1&do=resize&workers=1" + "0001": `400 workers must be from 1 to 10000, got "10001"`,
		"pool=1&do=cancel":                    `404 task must be the number of a task that the page can list, got ""`,
		"pool=1&do=cancel&task=4":             `404 task must be the number of a task that the page can list, got "4"`,
		"pool=1&do=%zz":                       `400 the form cannot be read: invalid URL escape "%zz"`,
		strings.Repeat("x", 5000):             `400 the form cannot be read: http: request body too large`,
	} {
		w := request(d, http.MethodPost, "control", form)
		require.Equal(t, want, strconv.Itoa(w.Code)+" "+strings.TrimSpace(w.Body.String()), form[:min(len(form), 40)])
	}
	require.NoError(t, p.Shutdown(t.Context()))
	for _, form := range []string{"do=pause", "do=resume", "do=resize&workers=4"} {
		w := request(d, http.MethodPost, "control", "pool=1&"+form)
		require.Equal(t, "409 pool is shut down\n", strconv.Itoa(w.Code)+" "+w.Body.String())
	}
	require.NotContains(t, page(t, d), "<form")
}
