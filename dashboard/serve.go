package dashboard

import (
	"bytes"
	"embed"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

//go:embed assets
var assets embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"ago":   duration,
	"count": count[int],
	"total": count[uint64],
	"rate":  rate,
}).ParseFS(assets, "assets/page.html"))

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// ServeHTTP serves the page and what belongs to it. See the package documentation
// about access.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mustBeUsable("ServeHTTP")
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	// Not no-referrer, with which browsers hide the origin of a form's POST.
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	if !d.admit(w, r) {
		return
	}
	// If all of the path was stripped, addresses in the page need the slash at its end.
	if at, _, _ := strings.Cut(r.RequestURI, "?"); r.URL.Path == "" && !strings.HasSuffix(at, "/") {
		header.Set("Location", "./"+path.Base(at)+"/")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	allowed := []string{http.MethodGet, http.MethodHead}
	serve := d.servePage
	switch name {
	case "":
	case "events":
		serve, allowed = d.serveEvents, allowed[:1]
	case "stack":
		serve, allowed = d.serveStack, allowed[:1]
	case "snapshot.json":
		serve = d.serveSnapshot
	case "control":
		serve, allowed = d.serveControl, []string{http.MethodPost}
	case "style.css", "script.js", "icon.svg":
		serve = func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, assets, "assets/"+name)
		}
	default:
		text := "no such page"
		if p := r.Pattern; p != "" && !strings.HasSuffix(p, "/") {
			text += ": the pattern with which the dashboard is mounted must end in a slash, got " + strconv.Quote(p)
		}
		answer(w, http.StatusNotFound, text)
		return
	}
	// A link to the page may stand anywhere; nobody else has business with these.
	if (name == "events" || name == "stack" || name == "snapshot.json") && fromElsewhere(r) {
		answer(w, http.StatusForbidden, "the page of another site asks for this")
		return
	}
	for _, method := range allowed {
		if r.Method == method {
			serve(w, r)
			return
		}
	}
	header.Set("Allow", strings.Join(allowed, ", "))
	answer(w, http.StatusMethodNotAllowed, "method must be "+strings.Join(allowed, " or "))
}

// admit reports whether the request may be answered, and answers it if not.
func (d *Dashboard) admit(w http.ResponseWriter, r *http.Request) bool {
	if why := d.forbidden(r); why != "" {
		answer(w, http.StatusForbidden, why)
		return false
	}
	if d.cfg.authorize == nil {
		return true
	}
	_, ok := agreed(w, r, func(r *http.Request) (string, error) { return "", d.cfg.authorize(r) })
	return ok
}

// forbidden says why the request is refused before authorize is asked, if it is.
func (d *Dashboard) forbidden(r *http.Request) (why string) {
	name, ip := hostOf(r.Host)
	local := name == "localhost" || ip.IsLoopback()
	if d.cfg.authorize != nil {
		// An address cannot be rebound, only a name.
		if local || ip.IsValid() || slices.Contains(d.cfg.hosts, name) {
			return ""
		}
		return "the dashboard answers requests to a loopback host, an IP address or a host given to WithHosts; got " + strconv.Quote(r.Host)
	}
	const unless = ", unless it is made with WithAuthorize; got "
	if !local {
		return "the dashboard answers requests to a loopback host only" + unless + strconv.Quote(r.Host)
	}
	if !fromHere(r) {
		return "the dashboard answers requests from this machine only" + unless + "one from " + strconv.Quote(r.RemoteAddr)
	}
	if !r.ProtoAtLeast(1, 1) { // as nginx speaks to what is behind it, without a header of its own
		return "the dashboard answers no requests of HTTP/1.0, which proxies send" + unless + r.Proto
	}
	for header := range r.Header {
		if slices.Contains(ofProxies, header) || strings.HasPrefix(header, "X-Forwarded-") {
			return "the dashboard answers no requests that come through a proxy" + unless + "one with the header " + header
		}
	}
	return ""
}

// ofProxies are headers that proxies add, beside those that begin with X-Forwarded.
var ofProxies = []string{"Forwarded", "Via", "X-Real-Ip"}

// agreed reports whether authorize agrees to the request, and whose it is, and answers it if
// not.
func agreed(w http.ResponseWriter, r *http.Request, authorize func(*http.Request) (string, error)) (name string, ok bool) {
	defer func() {
		if v := recover(); v != nil {
			slog.Error("dashboard: authorize panicked", "panic", v)
			answer(w, http.StatusInternalServerError, "authorize panicked")
			ok = false
		}
	}()
	name, err := authorize(r)
	if err != nil {
		answer(w, http.StatusForbidden, "not authorized")
		return "", false
	}
	return cut(name, maxName), true
}

// hostOf returns the name in a Host header, in lower case, and the address if it is one.
func hostOf(host string) (name string, ip netip.Addr) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	ip, _ = netip.ParseAddr(host)
	return strings.ToLower(strings.TrimSuffix(host, ".")), ip.Unmap()
}

// fromHere reports whether the request was sent by this machine. RemoteAddr is that of
// the connection or what a handler before this one has made of it; the client of a
// Unix socket has no address.
func fromHere(r *http.Request) bool {
	if _, ip := hostOf(r.RemoteAddr); ip.IsValid() {
		return ip.IsLoopback()
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return local != nil && local.Network() == "unix"
}

// fromElsewhere reports whether a browser says that another site's page has asked.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site != "" && site != "same-origin" && site != "none"
}

// answer answers with a line of text.
func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

// servePage is the page with the snapshot, as text without a script too.
func (d *Dashboard) servePage(w http.ResponseWriter, r *http.Request) {
	html, err := d.render()
	if err != nil {
		slog.Error("dashboard: no page", "error", err)
		answer(w, http.StatusInternalServerError, "the page cannot be made")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	send(w, r, html)
}

func (d *Dashboard) render() ([]byte, error) {
	d.snapshot(interval)
	d.mu.Lock()
	page := d.page
	d.mu.Unlock()
	var b bytes.Buffer
	err := templates.ExecuteTemplate(&b, "page", page)
	return b.Bytes(), err
}

// serveStack is the stack of a worker, as it is now, or that of a failure, as text.
func (d *Dashboard) serveStack(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	number := func(name string) int {
		n, _ := strconv.Atoi(query.Get(name)) // 0 is none's number
		return n
	}
	p := d.find(number("pool"))
	if p == nil {
		answer(w, http.StatusNotFound, "no such pool")
		return
	}
	var stack []byte
	if query.Has("failure") {
		stack = p.history.stackOf(uint64(max(number("failure"), 0)))
	} else {
		if !d.stack.allow(time.Now()) {
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusTooManyRequests, "too many stacks in a second: each one stops the program for a moment")
			return
		}
		stack = p.pool.Stack(number("worker"))
		if query.Has("task") && !p.runs(query.Get("task")) {
			stack = nil // perhaps that of what its worker has taken up since
		}
	}
	if len(stack) == 0 {
		answer(w, http.StatusNotFound, "no such stack, or not any more")
		return
	}
	answer(w, http.StatusOK, strings.ToValidUTF8(string(stack), "\uFFFD"))
}

// runs reports whether the attempt with a key is still under way.
func (w *watched) runs(key string) bool {
	return slices.ContainsFunc(append(w.pool.Tasks(taskpool.StateRunning, taskpool.StateAbandoned), w.pool.FirstTasks(maxScanned, taskpool.StateParked)...),
		func(t taskpool.TaskInfo) bool { return keyOf(t) == key })
}

// A limiter lets maxStacks through in a second.
type limiter struct {
	mu    sync.Mutex // protects the fields below
	since time.Time
	n     int
}

const maxStacks = 5

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= time.Second {
		l.since, l.n = now, 0
	}
	l.n++
	return l.n <= maxStacks
}
