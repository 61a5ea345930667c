package httppool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

// never is a handler that must not run.
func never(t testing.TB) http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler has run") })
}

// of classifies each request as t.
func of(t taskpool.Task) httppool.Classifier {
	return func(*http.Request) (taskpool.Task, bool) { return t, true }
}

// ask has a handler answer a request.
func ask(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func newGet(ctx context.Context) *http.Request {
	return httptest.NewRequestWithContext(ctx, http.MethodGet, "/a", nil)
}

func retryAfter(t testing.TB, w *httptest.ResponseRecorder) int {
	t.Helper()
	seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
	require.NoError(t, err)
	return seconds
}

func TestAFullQueueIsAnsweredWith503AndRetryAfter(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	defer occupied(t, p)()
	w := ask(httppool.Handler(p, never(t), nil), newGet(t.Context()))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, []int{1, 2}, retryAfter(t, w))
	require.Equal(t, "more requests come than can be answered\n", w.Body.String())
	require.Empty(t, w.Header().Get("Connection"))
}

func TestAShedRequestIsAnsweredWith503AndRetryAfter(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
	free := occupied(t, p)
	shed := make(chan *httptest.ResponseRecorder)
	go func() {
		shed <- ask(httppool.Handler(p, never(t), of(taskpool.Task{Priority: taskpool.Low})), newGet(context.Background()))
	}()
	waitQueued(p, 1)
	h, err := p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { return nil }})
	require.NoError(t, err)
	w := <-shed
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Positive(t, retryAfter(t, w))
	free()
	require.NoError(t, h.Wait(t.Context()))
}

// waitQueued waits until n tasks are queued.
func waitQueued(p *taskpool.Pool, n int) {
	for p.Stats().Queued < n {
		// What queues a request tells nobody; it takes microseconds.
	}
}

func TestAFlowThatHasItsOwnBoundOfRequestsWaitingIsAnsweredWith429(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(10, taskpool.OverflowReject),
		taskpool.WithFlows(func(flow string) taskpool.FlowPolicy { return taskpool.FlowPolicy{Capacity: 1} }))
	free := occupied(t, p)
	for _, test := range []struct {
		flow   string
		status int
	}{{"acme", http.StatusTooManyRequests}, {"", http.StatusServiceUnavailable}} {
		run := func(context.Context) error { return nil }
		_, err := p.Submit(t.Context(), taskpool.Task{Flow: test.flow, Run: run})
		require.NoError(t, err)
		_, err = p.Submit(t.Context(), taskpool.Task{Flow: test.flow, Run: run})
		require.ErrorIs(t, err, taskpool.ErrFlowFull)
		w := ask(httppool.Handler(p, never(t), of(taskpool.Task{Flow: test.flow})), newGet(t.Context()))
		require.Equal(t, test.status, w.Code)
		require.Positive(t, retryAfter(t, w))
	}
	free()
}

func TestARequestThatHasWaitedForTooLongIsAnsweredWith504(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(1))
		require.NoError(t, err)
		free := occupied(t, p)
		begun := time.Now()
		w := ask(httppool.Handler(p, never(t), of(taskpool.Task{MaxWait: time.Second})), newGet(t.Context()))
		require.Equal(t, http.StatusGatewayTimeout, w.Code)
		require.Positive(t, retryAfter(t, w))
		require.Equal(t, time.Second, time.Since(begun))
		free()
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

func TestTimeoutsAreAnsweredWith504UnlessTheHandlerHasAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Second))
		require.NoError(t, err)
		for _, test := range []struct {
			name   string
			task   taskpool.Task
			within time.Duration // of the request's context; 0: none
			next   http.HandlerFunc
			status int
		}{
			{"timeout", taskpool.Task{Timeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, http.StatusGatewayTimeout},
			{"work timeout", taskpool.Task{WorkTimeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, http.StatusGatewayTimeout},
			{"no sign of life", taskpool.Task{Heartbeat: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, http.StatusGatewayTimeout},
			{"a deadline", taskpool.Task{}, time.Second, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, http.StatusGatewayTimeout},
			{"hung", taskpool.Task{Timeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) {
				timer := time.NewTimer(time.Minute)
				<-timer.C
			}, http.StatusGatewayTimeout},
			{"answered", taskpool.Task{Timeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				w.WriteHeader(http.StatusTeapot)
			}, http.StatusTeapot},
			{"flushed", taskpool.Task{Timeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}, http.StatusOK},
			{"flushed by what is beneath", taskpool.Task{Timeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}, http.StatusOK},
			{"headers of another answer", taskpool.Task{Timeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Set-Cookie", "a=b")
				w.Header().Add("Vary", "Cookie")
				w.Header().Del("X-Request")
				w.Header().Set("Trailer", "X-Sum")
				<-r.Context().Done()
			}, http.StatusGatewayTimeout},
			{"hints only", taskpool.Task{Timeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "5")
				w.WriteHeader(http.StatusEarlyHints)
				<-r.Context().Done()
			}, http.StatusGatewayTimeout},
			{"in time", taskpool.Task{Timeout: time.Second}, 0, func(w http.ResponseWriter, r *http.Request) {}, http.StatusOK},
		} {
			ctx := t.Context()
			if test.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, test.within)
				defer cancel()
			}
			var seen *httppool.Refusal
			h := httppool.Handler(p, test.next, of(test.task), httppool.WithAnswer(func(w http.ResponseWriter, _ *http.Request, re httppool.Refusal) {
				seen = &re
				http.Error(w, "", re.Status)
			}))
			w := newFinalRecorder()
			w.Header().Set("X-Request", "1")
			w.Header().Set("Vary", "Origin")
			var out http.ResponseWriter = w
			if strings.Contains(test.name, "beneath") {
				out = unwrapper{w}
			}
			h.ServeHTTP(out, newGet(ctx))
			require.Equal(t, test.status, w.Code, test.name)
			if test.status == http.StatusGatewayTimeout { // as http.TimeoutHandler does
				delete(w.Header(), "Content-Type")
				delete(w.Header(), "X-Content-Type-Options")
				require.Equal(t, http.Header{"X-Request": {"1"}, "Vary": {"Origin"}}, w.Header(), test.name)
			}
			require.Empty(t, w.Header().Get("Retry-After"), test.name)
			require.Equal(t, test.status == http.StatusGatewayTimeout, seen != nil, test.name)
			if seen != nil {
				require.True(t, seen.Started, test.name)
				require.Error(t, seen.Err)
				require.Empty(t, w.Header().Get("Content-Length"), test.name)
			}
			require.NoError(t, p.WaitIdle(t.Context()))
		}
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// A finalRecorder is a ResponseRecorder that, as net/http does, goes on after a status such as
// 103.
type finalRecorder struct{ *httptest.ResponseRecorder }

func newFinalRecorder() finalRecorder { return finalRecorder{httptest.NewRecorder()} }

func (w finalRecorder) WriteHeader(status int) {
	if status >= 200 {
		w.ResponseRecorder.WriteHeader(status)
	}
}

func TestAClosedPoolIsAnsweredWith503AndConnectionClose(t *testing.T) {
	p := newPool(t)
	require.NoError(t, p.Shutdown(t.Context()))
	w := ask(httppool.Handler(p, never(t), nil), newGet(t.Context()))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Positive(t, retryAfter(t, w))
	require.Equal(t, "close", w.Header().Get("Connection"))
	require.Equal(t, "the server is going down\n", w.Body.String())

	r := newGet(t.Context())
	r.Header.Set("Upgrade", "h2c") // no handler has accepted that
	require.Equal(t, "close", ask(httppool.Handler(p, never(t), nil), r).Header().Get("Connection"))
}

func TestARequestWhoseClientIsGoneDoesNotRun(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	free := occupied(t, p)
	ctx, goAway := context.WithCancelCause(t.Context())
	answer := make(chan *httptest.ResponseRecorder)
	go func() { answer <- ask(httppool.Handler(p, never(t), nil), newGet(ctx)) }()
	waitQueued(p, 1)
	goAway(errors.New("a cause of its own"))
	w := <-answer
	require.Equal(t, httppool.StatusClientClosedRequest, w.Code)
	require.Empty(t, w.Header().Get("Retry-After"))
	require.Zero(t, p.Stats().Queued)
	free()
	require.Equal(t, httppool.StatusClientClosedRequest, ask(httppool.Handler(p, never(t), nil), newGet(ctx)).Code)
}

// A logRecorder keeps the messages at level Error.
type logRecorder struct {
	slog.Handler
	mu   sync.Mutex // protects the field below
	said []string
}

func (l *logRecorder) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelError
}
func (l *logRecorder) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	l.said = append(l.said, text)
	return nil
}

func TestATaskThatDoRefusesIsAnsweredWith500AndLogged(t *testing.T) {
	log := &logRecorder{Handler: slog.DiscardHandler}
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(log))
	p := newPool(t)
	w := ask(httppool.Handler(p, never(t), of(taskpool.Task{Name: "odd", Timeout: -1})), newGet(t.Context()))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, "internal server error\n", w.Body.String())
	require.Len(t, log.said, 1)
	require.Contains(t, log.said[0], `task "odd"`)
	require.Contains(t, log.said[0], "Task.Timeout must not be negative")
}

func TestEachAnswerCanBeReplaced(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	defer occupied(t, p)()
	task := taskpool.Task{Name: "export", Priority: taskpool.Low}
	h := httppool.Handler(p, never(t), of(task), httppool.WithAnswer(func(w http.ResponseWriter, r *http.Request, re httppool.Refusal) {
		require.Equal(t, task, re.Task)
		require.ErrorIs(t, re.Err, taskpool.ErrFull)
		require.False(t, re.Started)
		require.Equal(t, w.Header().Get("Retry-After"), fmt.Sprint(re.RetryAfter.Seconds()))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(re.Status + 1)
		fmt.Fprintf(w, `{"error":%q,"path":%q}`, re.Err, r.URL.Path)
	}))
	w := ask(h, newGet(t.Context()))
	require.Equal(t, http.StatusGatewayTimeout, w.Code)
	require.Equal(t, `{"error":"taskpool: queue is full","path":"/a"}`, w.Body.String())
}

func TestRetryAfterIsTheExpectedWaitWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithCapacity(9, taskpool.OverflowReject))
		require.NoError(t, err)
		h := httppool.Handler(p, never(t), nil) // from here on the pool measures
		nap := func(ctx context.Context) error {
			timer := time.NewTimer(2 * time.Second)
			<-timer.C
			return nil
		}
		for range 10 { // 20 s until the next one would start
			_, err := p.Submit(t.Context(), taskpool.Task{Run: nap})
			require.NoError(t, err)
		}
		time.Sleep(2*time.Second + time.Millisecond) // one is done, so 9 are left, with 18 s in all
		_, err = p.Submit(t.Context(), taskpool.Task{Run: nap})
		require.NoError(t, err)
		expected := p.ExpectedWait(taskpool.Medium, "")
		require.Greater(t, expected, 5*time.Second)
		var got []int
		for range 200 {
			got = append(got, retryAfter(t, ask(h, newGet(t.Context()))))
		}
		require.GreaterOrEqual(t, slices.Min(got), int(expected.Seconds()))
		require.LessOrEqual(t, slices.Max(got), int(2*expected.Seconds())+1)
		require.Greater(t, slices.Max(got)-slices.Min(got), int(expected.Seconds())/2, "no jitter")
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// A countingListener counts the bytes that are read from its connections.
type countingListener struct {
	net.Listener
	read atomic.Int64
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countingConn{c, &l.read}, err
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// What is refused is answered when all that the client has sent is the header. A client that then
// sends a byte a second is not waited for.
func TestARefusalReadsNoneOfTheBody(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, header, body string }{
		{"length", "Content-Length: 100\r\n", "x"},
		{"long", "Content-Length: 100000000\r\n", "x"},
		{"chunked", "Transfer-Encoding: chunked\r\n", "1\r\nx\r\n"},
		{"100-continue", "Content-Length: 100\r\nExpect: 100-continue\r\n", "x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
			defer occupied(t, p)()
			server := httptest.NewUnstartedServer(httppool.Handler(p, never(t), nil))
			counting := &countingListener{Listener: server.Listener}
			server.Listener = counting
			server.Start()
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			head := "POST / HTTP/1.1\r\nHost: a\r\n" + test.header + "\r\n"
			_, err = io.WriteString(conn, head)
			require.NoError(t, err)
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			require.Equal(t, "more requests come than can be answered\n", string(body))
			require.True(t, resp.Close)
			require.EqualValues(t, len(head), counting.read.Load(), "it has read of the body")

			// The client does not see that, and goes on sending. The server hangs up.
			_, _ = io.WriteString(conn, test.body)
			_, err = in.ReadByte()
			require.Error(t, err)
		})
	}
}

func TestARefusalOverHTTP2LeavesTheConnectionOpen(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	free := occupied(t, p)
	var conns atomic.Int64
	server := httptest.NewUnstartedServer(httppool.Handler(p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil))
	server.EnableHTTP2 = true
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	client := server.Client()
	body, unsent := io.Pipe() // nothing comes
	defer unsent.Close()
	resp, err := client.Post(server.URL, "", body)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Equal(t, 2, resp.ProtoMajor)
	resp.Body.Close()
	free()
	resp, err = client.Get(server.URL)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.EqualValues(t, 1, conns.Load())
}

func TestABodyThatWasReadKeepsTheConnection(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	server, client := serve(t, false, httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		task, _ := taskpool.Current(r.Context())
		task.Handle.Cancel(context.DeadlineExceeded)
		<-r.Context().Done()
	}), nil), io.Discard)
	resp, err := client.Post(server.URL, "", strings.NewReader("body"))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusGatewayTimeout, resp.StatusCode)
	require.False(t, resp.Close)
}

func BenchmarkRefusal(b *testing.B) {
	p := newPool(b, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	defer occupied(b, p)()
	h := httppool.Handler(p, never(b), nil)
	for _, body := range []string{"without a body", "with a body"} {
		b.Run(body, func(b *testing.B) {
			w, r := &discard{header: make(http.Header)}, newGet(b.Context())
			if body == "with a body" {
				r = httptest.NewRequest(http.MethodPost, "/a", strings.NewReader("body"))
			}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}

// A discard is a ResponseWriter for benchmarks.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header               { return d.header }
func (d *discard) WriteHeader(int)                   {}
func (d *discard) Write(p []byte) (int, error)       { return len(p), nil }
func (d *discard) SetReadDeadline(time.Time) error   { return nil }
func (d *discard) WriteString(s string) (int, error) { return len(s), nil }

func TestADeadlineWithACauseOfItsOwnIsAnsweredWith504(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	defer occupied(t, p)()
	ctx, cancel := context.WithDeadlineCause(context.Background(), time.Now().Add(-time.Second), errors.New("a cause of its own"))
	defer cancel()
	answer := httptest.NewRecorder()
	httppool.Handler(p, http.NotFoundHandler(), nil).ServeHTTP(answer, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	require.Equal(t, http.StatusGatewayTimeout, answer.Code)
	require.Equal(t, "the request took too long\n", answer.Body.String())
}
