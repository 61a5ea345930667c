package main

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fixture is a service in this process, with an HTTP server and a client.
type fixture struct {
	*service
	t       *testing.T
	server  *http.Server
	url     string
	client  *http.Client
	queued  chan taskpool.TaskEvent // an event for each request in the pool
	settled chan taskpool.TaskEvent
}

// start starts a service in which each request does what extra does.
func start(t *testing.T, c config, extra func(context.Context), opts ...taskpool.Option) *fixture {
	t.Helper()
	c.workers = cmp.Or(c.workers, 1)
	c.timeout = cmp.Or(c.timeout, time.Hour)
	c.capacity = cmp.Or(c.capacity, 1) // a worker may be about to be free when its reply is here already
	f := &fixture{t: t, queued: make(chan taskpool.TaskEvent, 10_000), settled: make(chan taskpool.TaskEvent, 10_000)}
	opts = append(opts, taskpool.WithHooks(taskpool.Hooks{
		Queued:   func(e taskpool.TaskEvent) { f.queued <- e },
		Finished: func(e taskpool.TaskEvent) { f.settled <- e },
	}))
	s := newService(c, slog.New(slog.DiscardHandler), opts...)
	if extra != nil {
		s.extra = extra
	}
	server := httptest.NewUnstartedServer(s.public)
	server.Config.ConnContext = httppool.ConnContext
	server.Start()
	transport := new(http.Transport)
	f.service, f.server, f.url, f.client = s, server.Config, server.URL, &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		_ = s.pool.Shutdown(context.Background()) // the test's answer again, if it had one
	})
	return f
}

// A reply is the end of a request.
type reply struct {
	status int
	body   string
	header http.Header
	closes bool // the connection
	err    error
}

// post sends a text and waits for the reply.
func (f *fixture) post(ctx context.Context, path, priority, text string) (r reply) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+path, strings.NewReader(text))
	require.NoError(f.t, err)
	req.Header.Set("X-Priority", priority)
	return f.do(req)
}

func (f *fixture) get(path string) reply {
	req, err := http.NewRequest(http.MethodGet, f.url+path, nil)
	require.NoError(f.t, err)
	return f.do(req)
}

// see returns what operators see at a path.
func (f *fixture) see(path string) string {
	f.t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost"+path, nil)
	r.RemoteAddr = "127.0.0.1:1024" // the dashboard answers this machine only
	f.admin.ServeHTTP(w, r)
	require.Equal(f.t, http.StatusOK, w.Code)
	return w.Body.String()
}

func (f *fixture) do(req *http.Request) (r reply) {
	resp, err := f.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, string(body), resp.Header, resp.Close, err}
}

// queue sends a request, waits until its task is accepted, and returns where its
// reply will come.
func (f *fixture) queue(priority string) <-chan reply {
	replies := make(chan reply, 1)
	go func() { replies <- f.post(context.Background(), "/v1/words", priority, "a b") }()
	<-f.queued
	return replies
}

func (f *fixture) requireUnavailable(r reply, why string) {
	f.t.Helper()
	require.NoError(f.t, r.err)
	require.Equal(f.t, http.StatusServiceUnavailable, r.status)
	require.Regexp(f.t, `^[1-9]\d*$`, r.header.Get("Retry-After"))
	require.Contains(f.t, r.body, why)
}

func TestTextIsAnswered(t *testing.T) {
	f := start(t, config{workers: 1}, nil)
	for _, test := range []struct{ path, text, answer string }{
		{"/v1/words", " one, two\nthree ", `{"words":3}`},
		{"/v1/words", "", `{"words":0}`},
		{"/v1/words", strings.Repeat("a ", maxText/2), `{"words":524288}`},
		{"/v1/digest", "abc", `{"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}`},
	} {
		r := f.post(t.Context(), test.path, "", test.text)
		require.NoError(t, r.err)
		require.Equal(t, http.StatusOK, r.status)
		require.JSONEq(t, test.answer, r.body)
		require.Equal(t, "application/json", r.header.Get("Content-Type"))
	}
}

func TestBadInputIsRefusedWithAReason(t *testing.T) {
	f := start(t, config{workers: 1}, nil)
	for _, test := range []struct {
		name   string
		reply  reply
		status int
		body   string
	}{
		{"priority", f.post(t.Context(), "/v1/words", "urgent", "a"), http.StatusBadRequest,
			`X-Priority must be high, medium, low or a number from -10 (most urgent) to 10, got "urgent"`},
		{"priority out of range", f.post(t.Context(), "/v1/digest", "-11", "a"), http.StatusBadRequest, `got "-11"`},
		{"too large", f.post(t.Context(), "/v1/words", "", strings.Repeat("a", maxText+1)),
			http.StatusRequestEntityTooLarge, "the text must not be larger than 1048576 bytes"},
		{"method", f.get("/v1/words"), http.StatusMethodNotAllowed, ""},
		{"path", f.post(t.Context(), "/v1/nothing", "", ""), http.StatusNotFound, ""},
	} {
		require.NoError(t, test.reply.err, test.name)
		require.Equal(t, test.status, test.reply.status, test.name)
		require.Contains(t, test.reply.body, test.body, test.name)
	}
	require.EqualValues(t, 1, f.pool.Stats().Submitted, "that which was too large")
}

// partOfText sends a request with a part of its text and returns the status line of
// the answer. The client says that no more will come if it gives up.
func (f *fixture) partOfText(url string, givesUp bool) string {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(f.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /v1/words HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\npart")
	require.NoError(f.t, err)
	if givesUp {
		require.NoError(f.t, conn.(*net.TCPConn).CloseWrite())
	}
	answer, err := io.ReadAll(conn)
	require.NoError(f.t, err)
	line, _, _ := strings.Cut(string(answer), "\r\n")
	return line
}

func TestTextThatStopsHalfwayIsRefused(t *testing.T) {
	f := start(t, config{workers: 1}, nil)
	plain := httptest.NewServer(f.public) // without ConnContext, with which the client may be taken to be gone before that
	defer plain.Close()
	require.Equal(t, "HTTP/1.1 400 Bad Request", f.partOfText(plain.URL, true))
}

func TestTextThatTakesTooLongIsRefused(t *testing.T) {
	f := start(t, config{workers: 1}, nil)
	hasty := httptest.NewUnstartedServer(f.public)
	hasty.Config.ReadTimeout = 50 * time.Millisecond
	hasty.Start()
	defer hasty.Close()
	require.Equal(t, "HTTP/1.1 408 Request Timeout", f.partOfText(hasty.URL, false))
}

func TestPrioritiesHaveNamesAndNumbers(t *testing.T) {
	for header, want := range map[string]taskpool.Priority{
		"": taskpool.Medium, "medium": taskpool.Medium, "0": taskpool.Medium,
		"high": taskpool.High, "High": taskpool.High, "-1": taskpool.High,
		"LOW": taskpool.Low, "1": taskpool.Low,
		"-10": -10, "10": 10, "+7": 7,
	} {
		f := start(t, config{}, nil)
		require.Equal(t, http.StatusOK, f.post(t.Context(), "/v1/words", header, "a").status, header)
		require.Equal(t, want, (<-f.settled).Task.Priority, header)
	}
	f := start(t, config{}, nil)
	for _, header := range []string{"highest", "11", "-11", "1.5", "9999999999999999999999"} {
		require.Equal(t, http.StatusBadRequest, f.post(t.Context(), "/v1/words", header, "a").status, header)
	}
}

func TestMostUrgentRequestIsAnsweredFirst(t *testing.T) {
	started := make(chan taskpool.Priority, 4)
	f := start(t, config{workers: 1, capacity: 4}, func(ctx context.Context) {
		info, _ := taskpool.Current(ctx)
		started <- info.Priority
	})
	f.pool.Pause()
	var replies []<-chan reply
	for _, priority := range []string{"low", "5", "high", "medium"} {
		replies = append(replies, f.queue(priority))
	}
	f.pool.Resume()
	for _, r := range replies {
		require.Equal(t, http.StatusOK, (<-r).status)
	}
	for _, want := range []taskpool.Priority{taskpool.High, taskpool.Medium, taskpool.Low, 5} {
		require.Equal(t, want, <-started)
	}
}

func TestLeastUrgentRequestIsShedFromAFullQueue(t *testing.T) {
	f := start(t, config{workers: 1, capacity: 2}, nil)
	f.pool.Pause()
	var low, high []<-chan reply
	for range 3 { // one for the free worker
		low = append(low, f.queue("low"))
	}
	f.requireUnavailable(f.post(t.Context(), "/v1/words", "low", ""), "more requests come than can be answered")
	for i := range low {
		high = append(high, f.queue("high"))
		f.requireUnavailable(<-low[len(low)-1-i], "more requests come than can be answered") // the newest goes first
	}
	f.requireUnavailable(f.post(t.Context(), "/v1/words", "low", ""), "more requests come than can be answered")
	f.requireUnavailable(f.post(t.Context(), "/v1/words", "high", ""), "more requests come than can be answered")
	f.pool.Resume()
	for _, r := range high {
		require.Equal(t, http.StatusOK, (<-r).status)
	}
	s := f.pool.Stats()
	require.EqualValues(t, 3, s.Succeeded)
	require.EqualValues(t, 3, s.Shed)
	require.EqualValues(t, 3, s.Refused)
}

func TestRequestOfAClientThatWentAwayIsNotRun(t *testing.T) {
	f := start(t, config{workers: 1, capacity: 1}, func(context.Context) { t.Error("it was run") })
	f.pool.Pause()
	ctx, goAway := context.WithCancel(t.Context())
	replies := make(chan reply, 1)
	go func() { replies <- f.post(ctx, "/v1/words", "", "") }() // with a text: see the tests of httppool
	<-f.queued
	goAway()
	require.ErrorIs(t, (<-replies).err, context.Canceled)
	e := <-f.settled
	require.Equal(t, taskpool.StateCanceled, e.Task.State)
	require.Zero(t, e.Task.Attempt)
	require.Zero(t, f.pool.Stats().Queued)
	f.pool.Resume()
}

func TestWorkForAClientThatWentAwayIsStopped(t *testing.T) {
	atWork := make(chan struct{})
	f := start(t, config{workers: 1}, func(ctx context.Context) {
		close(atWork)
		pause(ctx, time.Hour)
	})
	ctx, goAway := context.WithCancel(t.Context())
	replies := make(chan reply, 1)
	go func() { replies <- f.post(ctx, "/v1/words", "", "a") }()
	<-atWork
	goAway()
	require.ErrorIs(t, (<-replies).err, context.Canceled)
	require.Equal(t, taskpool.StateCanceled, (<-f.settled).Task.State)
}

func TestRequestsThatTakeTooLongAreGivenUp(t *testing.T) {
	f := start(t, config{workers: 1, capacity: 1, timeout: 50 * time.Millisecond, work: time.Hour}, nil)
	first := f.queue("")
	second := f.queue("") // waits
	for _, replies := range []<-chan reply{first, second} {
		r := <-replies
		require.NoError(t, r.err)
		require.Equal(t, http.StatusGatewayTimeout, r.status)
		<-f.settled
	}
	require.EqualValues(t, 2, f.pool.Stats().Canceled)
}

func TestPanicCostsOneRequest(t *testing.T) {
	panics := true
	f := start(t, config{workers: 1}, func(context.Context) {
		if panics {
			panics = false
			panic("on purpose")
		}
	})
	r := f.post(t.Context(), "/v1/words", "", "a")
	require.Equal(t, http.StatusInternalServerError, r.status)
	require.NotContains(t, r.body, "on purpose")
	require.Equal(t, http.StatusOK, f.post(t.Context(), "/v1/words", "", "a").status)
}

func TestHealthSaysWhenWorkersAreLost(t *testing.T) {
	atWork, goOn := make(chan struct{}), make(chan struct{})
	f := start(t, config{workers: 1}, func(context.Context) {
		close(atWork)
		<-goOn
	}, taskpool.WithHangGrace(time.Millisecond), taskpool.WithMaxAbandoned(0))
	for _, path := range []string{"/healthz", "/readyz"} {
		require.Equal(t, http.StatusOK, f.get(path).status)
	}
	replies := f.queue("")
	<-atWork
	f.pool.Tasks(taskpool.StateRunning)[0].Handle.Cancel(nil)
	require.ErrorIs(t, (<-f.settled).Err, taskpool.ErrHung)
	for _, path := range []string{"/healthz", "/readyz"} {
		r := f.get(path)
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Contains(t, r.body, "1 of 1 slots lost")
	}
	close(goOn)
	require.Equal(t, http.StatusGatewayTimeout, (<-replies).status)
}

func TestOperatorsSeeWhatRuns(t *testing.T) {
	atWork, goOn := make(chan struct{}), make(chan struct{})
	f := start(t, config{workers: 1}, func(context.Context) {
		close(atWork)
		<-goOn
	})
	replies := f.queue("high")
	<-atWork
	page := f.see("/debug/taskpool/")
	require.Contains(t, page, "requests") // the pool
	require.Contains(t, page, "words")    // the task
	close(goOn)
	require.Equal(t, http.StatusOK, (<-replies).status)
	for _, path := range []string{"/metrics", "/debug/taskpool/"} {
		require.Equal(t, http.StatusNotFound, f.get(path).status, "clients see it, too")
	}
}

func TestServiceIsNotReadyButGoesOnUntilClientsHaveNoticedThatItDrains(t *testing.T) {
	f := start(t, config{workers: 1}, nil)
	r := f.get("/readyz")
	require.Equal(t, http.StatusOK, r.status)
	require.False(t, r.closes)
	hard, interrupt := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- f.shutdown(hard, f.server, time.Hour) }()
	require.Eventually(t, func() bool { return f.get("/readyz").status == http.StatusServiceUnavailable },
		time.Minute, time.Millisecond, "it does not say that it drains")
	require.Equal(t, http.StatusOK, f.get("/healthz").status)
	r = f.post(t.Context(), "/v1/words", "", "a")
	require.Equal(t, http.StatusOK, r.status)
	require.True(t, r.closes)
	interrupt()
	require.NoError(t, <-result)
	require.Error(t, f.get("/readyz").err)
}

func TestShutdownFinishesWhatWasAccepted(t *testing.T) {
	goOn := make(chan struct{})
	f := start(t, config{workers: 1, capacity: 2}, func(context.Context) { <-goOn })
	replies := []<-chan reply{f.queue("low"), f.queue("medium"), f.queue("high")}
	result := make(chan error, 1)
	go func() { result <- f.shutdown(t.Context(), f.server, 0) }()
	require.Eventually(t, func() bool { return f.get("/healthz").err != nil }, time.Minute, time.Millisecond,
		"it goes on accepting connections")
	close(goOn)
	for _, r := range replies {
		require.Equal(t, http.StatusOK, (<-r).status)
	}
	require.NoError(t, <-result)
}

func TestShutdownCutShortTellsClientsAndListsWhatIsLeft(t *testing.T) {
	f := start(t, config{workers: 1, capacity: 2, work: time.Hour}, nil)
	replies := []<-chan reply{f.queue("low"), f.queue("medium"), f.queue("high")}
	hard, interrupt := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	go func() { result <- f.shutdown(hard, f.server, time.Hour) }()
	interrupt(io.ErrClosedPipe)
	err := <-result
	var cut *taskpool.ShutdownError
	require.ErrorAs(t, err, &cut)
	require.Len(t, cut.Unfinished, 3)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	for _, r := range replies {
		f.requireUnavailable(<-r, "the server is going down")
	}
}
