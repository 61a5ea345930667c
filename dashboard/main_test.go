package dashboard_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// newDashboard makes a dashboard with options that are all right.
func newDashboard(t testing.TB, opts ...dashboard.Option) *dashboard.Dashboard {
	t.Helper()
	d, err := dashboard.New(opts...)
	require.NoError(t, err)
	return d
}

// newPool starts a pool that d watches. It is shut down at the end of the test; in a
// bubble of synctest the test has to see to that before it ends.
func newPool(t testing.TB, d *dashboard.Dashboard, opts ...taskpool.Option) *taskpool.Pool {
	t.Helper()
	opts = append([]taskpool.Option{taskpool.WithLogger(slog.New(slog.DiscardHandler)),
		taskpool.WithName("mail"), taskpool.WithHooks(d.Hooks())}, opts...)
	p, err := taskpool.New(opts...)
	require.NoError(t, err)
	require.NoError(t, d.Watch(p))
	t.Cleanup(func() { shutDown(p) })
	return p
}

func shutDown(p *taskpool.Pool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = p.Shutdown(ctx)
}

func submit(t testing.TB, p *taskpool.Pool, task taskpool.Task) *taskpool.Handle {
	t.Helper()
	h, err := p.Submit(context.Background(), task)
	require.NoError(t, err)
	return h
}

func untilEnd(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// request asks for something below a prefix, from this machine and on loopback unless
// change says else.
func request(d http.Handler, method, path, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/debug/taskpool/"+path, strings.NewReader(body))
	r.Host, r.RemoteAddr = "localhost:6060", "127.0.0.1:1024"
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

// page returns the page.
func page(t testing.TB, d http.Handler) string {
	t.Helper()
	w := request(d, http.MethodGet, "", "")
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

// A stream reads what a dashboard sends, in a bubble of synctest.
type stream struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the handler has returned
	header http.Header
	status int
	gate   chan struct{} // if not nil, each write waits for it

	mu   sync.Mutex // protects sent
	sent []string   // messages, without their frame
}

// look opens the stream.
func look(d http.Handler, gate chan struct{}) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{cancel: cancel, done: make(chan struct{}), header: make(http.Header), gate: gate}
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/events", nil)
	r.Host, r.RemoteAddr = "127.0.0.1", "[::1]:1024"
	go func() {
		defer close(s.done)
		d.ServeHTTP(s, r)
	}()
	return s
}

func (s *stream) leave() {
	s.cancel()
	<-s.done
}

func (s *stream) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent)
}

func (s *stream) Header() http.Header  { return s.header }
func (s *stream) WriteHeader(code int) { s.status = code }
func (s *stream) Flush()               {}

func (s *stream) Write(b []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	if text, ok := strings.CutPrefix(string(b), "data: "); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent = append(s.sent, strings.TrimSuffix(text, "\n\n"))
	}
	return len(b), nil
}

// snapshots returns how many snapshots are taken over a time, during which each is
// called ten times a second, in a bubble of synctest.
func snapshots(d *dashboard.Dashboard, over time.Duration, each func()) (n int) {
	last := dashboard.Taken(d)
	for range over / (100 * time.Millisecond) {
		each()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if now := dashboard.Taken(d); !now.Equal(last) {
			n, last = n+1, now
		}
	}
	return n
}

var errBroken = errors.New("the printer is on fire")

func readAll(t testing.TB, r *http.Response) string {
	t.Helper()
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

func anybody(*http.Request) (string, error) { return "", nil }

// nameless makes of a function for WithAuthorize one for WithControl.
func nameless(authorize func(*http.Request) error) func(*http.Request) (string, error) {
	return func(r *http.Request) (string, error) { return "", authorize(r) }
}
