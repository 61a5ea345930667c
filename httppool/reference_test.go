package httppool_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

// A lockedBuffer is a buffer for the log of a server.
type lockedBuffer struct {
	mu sync.Mutex // protects the field below
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// An exchange is a server with a handler, and a client.
type exchange struct {
	t      testing.TB
	server *httptest.Server
	client *http.Client
	log    *lockedBuffer
}

// do sends a request and returns what a client sees of the answer.
func (e *exchange) do(method, path string, body io.Reader, header ...string) string {
	e.t.Helper()
	req, err := http.NewRequest(method, e.server.URL+path, body)
	require.NoError(e.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return e.send(req)
}

func (e *exchange) send(req *http.Request) string {
	var informed []string
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			informed = append(informed, fmt.Sprint(code, " ", header.Get("Link")))
			return nil
		},
	}))
	resp, err := e.client.Do(req)
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return "timed out"
		}
		return "no answer"
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if len(got) > 200 {
		got = fmt.Appendf(nil, "%d bytes, the last %q", len(got), got[len(got)-1])
	}
	resp.Header.Del("Date")
	return fmt.Sprintln(informed, resp.Proto, resp.Status, resp.Header, resp.ContentLength, resp.TransferEncoding, resp.Close) +
		fmt.Sprintf("%s\ncut short: %v\ntrailers %v", got, err != nil, resp.Trailer)
}

// raw sends bytes on a connection of its own and returns all that comes back.
func (e *exchange) raw(request string) string {
	conn, err := net.Dial("tcp", e.server.Listener.Addr().String())
	require.NoError(e.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, request)
	require.NoError(e.t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(e.t, err)
	return withoutDate(string(answer))
}

// first sends bytes on a connection of its own, no more, and returns the first answer.
func (e *exchange) first(request string) string {
	conn, err := net.Dial("tcp", e.server.Listener.Addr().String())
	require.NoError(e.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, request)
	require.NoError(e.t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(e.t, err)
	defer resp.Body.Close()
	resp.Header.Del("Date")
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintln(resp.Proto, resp.Status, resp.Header, resp.Close, string(body), err)
}

func withoutDate(answer string) string {
	lines := strings.SplitAfter(answer, "\r\n")
	kept := lines[:0]
	for _, l := range lines {
		if !strings.HasPrefix(l, "Date: ") {
			kept = append(kept, l)
		}
	}
	return strings.Join(kept, "")
}

// A like is a handler and what a client does with it. What it sees must be the same whether the
// handler stands behind Handler or not; want is a part of that, for the test to be of use.
type like struct {
	name    string
	handler http.HandlerFunc
	client  func(*exchange) string
	want    string
	logs    string                          // what the server logs, or a part of that
	only    int                             // 1 or 2: only with this version of HTTP
	around  func(http.Handler) http.Handler // what stands before Handler; nil: nothing
}

func get(e *exchange) string { return e.do(http.MethodGet, "/a", nil) }

// interfaces says which of the interfaces of net/http w has. ReaderFrom and StringWriter are not
// among them: every writer of this package has them, as io.Copy and io.WriteString ask for them and do
// the same without.
func interfaces(w http.ResponseWriter) string {
	_, flusher := w.(http.Flusher)
	_, flushError := w.(interface{ FlushError() error })
	_, hijacker := w.(http.Hijacker)
	_, pusher := w.(http.Pusher)
	return fmt.Sprint("flusher ", flusher, flushError, ", hijacker ", hijacker, ", pusher ", pusher)
}

func likes(t testing.TB) []like {
	file := filepath.Join(t.TempDir(), "file.txt")
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("0123456789"), 100_000), 0o600))
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		_, _ = w.Write(make([]byte, 100_000)) // net/http cuts the connection
	}))
	t.Cleanup(backend.Close)
	target, err := url.Parse(backend.URL)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	return []like{
		{name: "nothing written", handler: func(http.ResponseWriter, *http.Request) {}, client: get, want: "200 OK"},
		{name: "status and header", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Path", r.URL.Path)
			http.Error(w, "no", http.StatusTeapot)
		}, client: get, want: "418 I'm a teapot"},
		{name: "status only", handler: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) }, client: get, want: "204 No Content"},
		{name: "header after the status", handler: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			w.Header().Set("X-Late", "1")
			w.WriteHeader(http.StatusOK)
		}, client: get, want: "202 Accepted"},
		{name: "sniffed type", handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>") }, client: get, want: "text/html"},
		{name: "large", handler: func(w http.ResponseWriter, r *http.Request) {
			for range 1000 {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 1500))
			}
		}, client: get, want: "1500000 bytes"},
		{name: "large by strings", handler: func(w http.ResponseWriter, r *http.Request) {
			for range 100 {
				_, _ = io.WriteString(w, strings.Repeat("x", 5000))
			}
		}, client: get, want: "500000 bytes"},
		{name: "HEAD", handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "body") },
			client: func(e *exchange) string { return e.do(http.MethodHead, "/", nil) }, want: "200 OK"},
		{name: "write after a status without a body", handler: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotModified)
			_, err := io.WriteString(w, "body")
			w.Header().Set("X-Err", fmt.Sprint(err))
		}, client: get, want: "304"},
		{name: "too much for the Content-Length", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "3")
			_, err := io.WriteString(w, "four")
			_, _ = io.WriteString(w, map[bool]string{true: "abc"}[err != nil])
		}, client: get, want: "200 OK"},
		{name: "ErrAbortHandler", handler: func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, client: get, want: "no answer"},
		{name: "ErrAbortHandler in the middle", handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "part")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, client: get, want: "cut short: true"},
		{name: "panic", handler: func(w http.ResponseWriter, r *http.Request) { panicHere() }, client: get, want: "no answer", logs: "httppool_test.panicHere"},
		{name: "panic with something that cannot be compared", handler: func(w http.ResponseWriter, r *http.Request) { panic([]int{1}) }, client: get, want: "no answer", logs: "panic serving"},
		{name: "Flush", handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "one ")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "two")
		}, client: get, want: "one two"},
		{name: "Flush of nothing", handler: func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() }, client: get, want: "200 OK"},
		{name: "ResponseController", handler: func(w http.ResponseWriter, r *http.Request) {
			c := http.NewResponseController(w)
			var errs []error
			errs = append(errs, c.SetReadDeadline(time.Now().Add(time.Hour)), c.SetWriteDeadline(time.Now().Add(time.Hour)))
			if r.ProtoMajor == 1 {
				errs = append(errs, c.EnableFullDuplex())
			}
			errs = append(errs, c.Flush())
			fmt.Fprint(w, errs)
		}, client: get, want: "<nil> <nil>"},
		{name: "a write deadline", handler: func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(-time.Second))
			_, _ = w.Write(make([]byte, 1<<20))
		}, client: get, want: "no answer"},
		{name: "a read deadline", only: 1, handler: func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err := io.ReadAll(r.Body)
			fmt.Fprint(w, errors.Is(err, os.ErrDeadlineExceeded), r.Context().Err())
		}, client: tooLarge, want: "true context canceled"},
		{name: "interfaces", handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, interfaces(w)) }, client: get, want: "flusher true"},
		{name: "ReadFrom a file", handler: func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, client: get, want: "1000000 bytes"},
		{name: "a range of a file", handler: func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) },
			client: func(e *exchange) string { return e.do(http.MethodGet, "/", nil, "Range", "bytes=5-9") }, want: "206 Partial Content"},
		{name: "ReadFrom a reader", handler: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<20)), 1<<19))
		}, client: get, want: "524288 bytes"},
		{name: "echo", handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) },
			client: func(e *exchange) string {
				return e.do(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", 100_000)))
			}, want: "200 OK"}, // HTTP/1 loses all but what was read before the answer
		{name: "echo, full duplex", handler: func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			_, _ = io.Copy(w, r.Body)
		}, client: func(e *exchange) string {
			return e.do(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", 100_000)))
		}, want: "100000 bytes"},
		{name: "body left unread", handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "answer") },
			client: func(e *exchange) string { return e.do(http.MethodPost, "/", strings.NewReader("small")) }, want: "answer"},
		{name: "body closed", handler: func(w http.ResponseWriter, r *http.Request) {
			first := make([]byte, 1)
			_, err := io.ReadFull(r.Body, first)
			fmt.Fprint(w, string(first), err, r.Body.Close())
			_, err = r.Body.Read(first)
			fmt.Fprint(w, err)
		}, client: func(e *exchange) string { return e.do(http.MethodPost, "/", strings.NewReader("small")) }, want: "s<nil> <nil>"},
		{name: "MaxBytesReader", only: 1, handler: func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 10)); err != nil {
				http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			}
		}, client: tooLarge, want: "413"}, // the rest does not come, and is not waited for
		{name: "MaxBytesReader, with an answer of another status", only: 1, handler: func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 10)); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		}, client: tooLarge, want: "400"},
		{name: "MaxBytesHandler before", only: 1, around: func(next http.Handler) http.Handler { return http.MaxBytesHandler(next, 10) },
			handler: readsAll, client: tooLarge, want: "413"},
		{name: "MaxBytesHandler behind", only: 1, handler: http.MaxBytesHandler(http.HandlerFunc(readsAll), 10).ServeHTTP, client: tooLarge, want: "413"},
		{name: "TimeoutHandler before", around: func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Minute, "") },
			handler: readsAll, client: func(e *exchange) string { return e.do(http.MethodPost, "/", strings.NewReader("body")) }, want: "4 bytes"},
		{name: "TimeoutHandler behind", handler: http.TimeoutHandler(http.HandlerFunc(readsAll), time.Minute, "").ServeHTTP,
			client: func(e *exchange) string { return e.do(http.MethodPost, "/", strings.NewReader("body")) }, want: "4 bytes"},
		{name: "TimeoutHandler behind, late", handler: http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			_, err := io.WriteString(w, "late")
			_, _ = io.WriteString(w, fmt.Sprint(err))
		}), time.Millisecond, "too late").ServeHTTP, client: get, want: "503 Service Unavailable"},
		{name: "Flush under a writer that has only Unwrap", around: onlyUnwrap, handler: func(w http.ResponseWriter, r *http.Request) {
			_, flusher := w.(http.Flusher)
			_, hijacker := w.(http.Hijacker)
			fmt.Fprint(w, flusher, hijacker, http.NewResponseController(w).Flush(), http.NewResponseController(w).SetWriteDeadline(time.Time{}))
		}, client: get, want: "false false <nil> <nil>"},
		{name: "Hijack under a writer that has only Unwrap", only: 1, around: onlyUnwrap, handler: func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				defer conn.Close()
				_, _ = io.WriteString(conn, "anything")
			}
		}, client: func(e *exchange) string { return e.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n") }, want: "anything"},
		{name: "Flush and Hijack under a writer that has nothing", around: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
			})
		}, handler: func(w http.ResponseWriter, r *http.Request) {
			c := http.NewResponseController(w)
			_, _, err := c.Hijack()
			errs := []error{err, c.Flush()}
			w.Header().Set("X-Late", "no") // nothing was sent
			fmt.Fprint(w, errs)
		}, client: get, want: "X-Late"},
		{name: "what a middleware sees of the route", around: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r)
				fmt.Fprintf(w, "%q", []string{r.Pattern, r.PathValue("id"), r.PathValue("rest"), r.PathValue("$"), r.Form.Encode(), r.PostForm.Encode()})
			})
		}, handler: func(w http.ResponseWriter, r *http.Request) {
			mux := http.NewServeMux()
			mux.HandleFunc("POST /{id}/x/{rest...}", func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
			})
			mux.ServeHTTP(w, r)
		}, client: func(e *exchange) string {
			return e.do(http.MethodPost, "/7/x/a/b?q=1", strings.NewReader("field=2"), "Content-Type", "application/x-www-form-urlencoded")
		}, want: `["POST /{id}/x/{rest...}" "7" "a/b" "" "field=2&q=1" "field=2"]`},
		{name: "100-continue", handler: func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%q %v", body, err)
		}, client: func(e *exchange) string {
			return e.do(http.MethodPost, "/", strings.NewReader("body"), "Expect", "100-continue")
		}, want: `"body" <nil>`},
		{name: "no 100-continue", only: 1, handler: func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) },
			client: func(e *exchange) string {
				return e.first("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
			}, want: "403"},
		{name: "early hints", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			w.WriteHeader(http.StatusCreated)
		}, client: get, want: "103 </style.css>"},
		{name: "trailers", handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
			w.Header().Set("X-Sum", r.Trailer.Get("X-Up"))
			w.Header().Set(http.TrailerPrefix+"X-More", "2")
		}, client: func(e *exchange) string {
			req, err := http.NewRequest(http.MethodPost, e.server.URL, io.NopCloser(strings.NewReader("body")))
			require.NoError(e.t, err)
			req.Trailer = http.Header{"X-Up": {"1"}}
			return e.send(req)
		}, want: "X-More:[2]"},
		{name: "trailers that were not announced", only: 1, handler: func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			fmt.Fprint(w, string(body), err, r.Trailer)
		}, client: func(e *exchange) string {
			return e.raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Up: 1\r\n\r\n")
		}, want: "map[X-Up:[1]]"},
		{name: "upgrade to a WebSocket", only: 1, handler: acceptWebSocket, client: speakWebSocket, want: "echo: hello"},
		{name: "Hijack", only: 1, handler: func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				defer conn.Close()
				_, _ = io.WriteString(conn, "anything")
				_, err = io.WriteString(w, "too late")
				fmt.Fprint(conn, err)
			}
		}, client: func(e *exchange) string { return e.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n") }, want: "anything" + http.ErrHijacked.Error()},
		{name: "Hijack by ResponseController", handler: func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				fmt.Fprint(w, errors.Is(err, http.ErrNotSupported))
				return
			}
			conn.Close()
		}, client: get, want: ""},
		{name: "pipelined", only: 1, handler: func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, r.URL.Path, string(body))
		}, client: func(e *exchange) string {
			return e.raw("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		}, want: "/2"},
		{name: "HTTP/1.0", only: 1, handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) },
			client: func(e *exchange) string { return e.raw("GET / HTTP/1.0\r\n\r\n") }, want: "HTTP/1.0"},
		{name: "reverse proxy to a server that cuts short", handler: proxy.ServeHTTP, client: get, want: "cut short: true"},
		{name: "form with a file", handler: func(w http.ResponseWriter, r *http.Request) {
			f, _, err := r.FormFile("file")
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			defer f.Close()
			n, _ := io.Copy(io.Discard, f)
			fmt.Fprint(w, n, r.FormValue("field"))
		}, client: func(e *exchange) string {
			var b bytes.Buffer
			form := multipart.NewWriter(&b)
			part, err := form.CreateFormFile("file", "name")
			require.NoError(e.t, err)
			_, _ = part.Write(make([]byte, 1000))
			require.NoError(e.t, form.WriteField("field", "value"))
			require.NoError(e.t, form.Close())
			return e.do(http.MethodPost, "/", &b, "Content-Type", form.FormDataContentType())
		}, want: "1000value"},
		{name: "context of the server", handler: func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Context().Value(http.ServerContextKey).(*http.Server) != nil, r.Context().Err())
		}, client: get, want: "true"},
	}
}

// readsAll answers how much it was sent.
func readsAll(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	fmt.Fprint(w, len(body), " bytes")
}

// tooLarge sends more than 10 bytes of a body, the rest of which does not come.
func tooLarge(e *exchange) string {
	return e.first("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789012345")
}

// onlyUnwrap is a middleware as many are: of the writer's methods it has only those that it must.
func onlyUnwrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(unwrapper{w}, r) })
}

type unwrapper struct{ http.ResponseWriter }

func (w unwrapper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func panicHere() { panic("on purpose") }

// acceptWebSocket does the server's side of RFC 6455 for one short message in each direction.
func acceptWebSocket(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	frame := make([]byte, 2+4+5) // masked
	if _, err := io.ReadFull(both, frame); err != nil {
		return
	}
	for i := range 5 {
		frame[6+i] ^= frame[2+i%4]
	}
	text := "echo: " + string(frame[6:])
	_, _ = both.Write(append([]byte{0x81, byte(len(text))}, text...))
	_ = both.Flush()
}

func speakWebSocket(e *exchange) string {
	conn, err := net.Dial("tcp", e.server.Listener.Addr().String())
	require.NoError(e.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(e.t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(e.t, err)
	frame, mask := []byte{0x81, 0x80 | 5, 1, 2, 3, 4}, []byte{1, 2, 3, 4}
	for i, c := range []byte("hello") {
		frame = append(frame, c^mask[i%4])
	}
	_, err = conn.Write(frame)
	require.NoError(e.t, err)
	rest, err := io.ReadAll(in)
	require.NoError(e.t, err)
	resp.Header.Del("Date")
	return fmt.Sprint(resp.Status, resp.Header, string(rest))
}

func TestRequestsBehaveAsWithNetHTTPAlone(t *testing.T) {
	for version := 1; version <= 2; version++ {
		for _, test := range likes(t) {
			if test.only != 0 && test.only != version {
				continue
			}
			t.Run(fmt.Sprintf("HTTP %d/%s", version, test.name), func(t *testing.T) {
				t.Parallel()
				see := func(h http.Handler) (string, *lockedBuffer) {
					if test.around != nil {
						h = test.around(h)
					}
					logs := new(lockedBuffer)
					server, client := serve(t, version == 2, h, logs)
					seen := test.client(&exchange{t, server, client, logs})
					server.Close()
					return strings.ReplaceAll(seen, server.URL, ""), logs
				}
				alone, alonesLog := see(test.handler)
				require.Contains(t, alone, test.want)

				for _, wait := range []time.Duration{0, time.Millisecond} {
					p := newPool(t, taskpool.WithWorkers(1))
					var done atomic.Bool
					pooled := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer func() { done.Store(true) }()
						_, inside := taskpool.Current(r.Context())
						require.True(t, inside)
						test.handler(w, r)
					})
					got, gotLog := see(httppool.Handler(p, pooled, nil, httppool.WithClientWait(wait)))
					require.NoError(t, p.WaitIdle(context.Background()))
					require.True(t, done.Load())
					require.Equal(t, alone, got)
					require.Eventually(t, func() bool { // HTTP/2 writes its log when the client has its answer
						a, g := firstWords(alonesLog.String()), firstWords(gotLog.String())
						return slices.Equal(a, g) && strings.Contains(gotLog.String(), test.logs)
					}, time.Minute, time.Millisecond, "%s\n%s", alonesLog, gotLog)
				}
			})
		}
	}
}

// firstWords is what a log says, but for addresses, stacks and who called.
func firstWords(log string) (words []string) {
	for line := range strings.Lines(log) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "http:" || f[0] == "http2:") {
			words = append(words, f[0]+" "+f[1])
		}
	}
	return words
}

// It is deprecated, and gin asks for it without a look whether it is there.
func TestTheResponseWriterIsACloseNotifierStill(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		p := newPool(t, taskpool.WithWorkers(1))
		server, client := serve(t, http2, httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, ok := w.(interface{ CloseNotify() <-chan bool })
			_, _ = fmt.Fprint(w, ok)
		}), nil), io.Discard)
		answer, err := client.Get(server.URL)
		require.NoError(t, err)
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, "true", string(text))
	}
}
