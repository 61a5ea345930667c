//go:build linux

package httppool_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

// A wrapped connection is what a listener of a user's own may return.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

// net/http looks for the end of a connection only once the body was read. Here it waits unread, the
// whole of it or a part, behind a request that is at work.
func TestNoHandlerRunsForAClientThatHasGoneWhileItsBodyWasUnread(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		tls     bool
		request string
		leave   func(*testing.T, net.Conn)
		runs    bool
	}{
		{"closed, the body sent", false, "Content-Length: 4\r\n\r\nbody", closeConn, false},
		{"closed, the body not sent", false, "Content-Length: 1000000\r\n\r\npart", closeConn, false},
		{"closed, 100-continue awaited", false, "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n", closeConn, false},
		{"closed, TLS", true, "Content-Length: 4\r\n\r\nbody", closeConn, false},
		{"half closed, as net/http takes it", false, "Content-Length: 4\r\n\r\nbody", func(t *testing.T, c net.Conn) {
			require.NoError(t, c.(*net.TCPConn).CloseWrite())
		}, false},
		{"reset", false, "Content-Length: 1000000\r\n\r\npart", func(t *testing.T, c net.Conn) {
			require.NoError(t, c.(*net.TCPConn).SetLinger(0))
			closeConn(t, c)
		}, false},
		{"there", false, "Content-Length: 4\r\n\r\nbody", nil, true},
		{"there, TLS", true, "Content-Length: 4\r\n\r\nbody", nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			settled := make(chan taskpool.TaskEvent, 10)
			p := newPool(t, taskpool.WithWorkers(1), taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) {
				if e.Task.Name != "occupant" {
					settled <- e
				}
			}}))
			statuses := make(chan int, 1)
			ran := false
			conns := make(chan context.Context, 1)
			server := httptest.NewUnstartedServer(httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ran = true
				_, _ = io.Copy(w, r.Body)
			}), nil, httppool.WithAnswer(func(w http.ResponseWriter, r *http.Request, why httppool.Refusal) { statuses <- why.Status })))
			server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
				ctx = httppool.ConnContext(ctx, wrapped{c})
				conns <- ctx
				return ctx
			}
			if test.tls {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			free := occupied(t, p)
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			if test.tls {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+test.request)
			require.NoError(t, err)
			waitQueued(p, 1)
			ctx := <-conns
			require.False(t, httppool.HungUp(ctx))
			if test.leave != nil {
				test.leave(t, conn)
				for !httppool.HungUp(ctx) {
					// The end takes the network microseconds.
				}
			}
			free()
			e := <-settled
			if test.runs {
				answer, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.Contains(t, string(answer), "body")
				require.Equal(t, taskpool.StateSucceeded, e.Task.State)
				return
			}
			require.Equal(t, httppool.StatusClientClosedRequest, <-statuses)
			require.Equal(t, taskpool.StateCanceled, e.Task.State)
			require.False(t, ran)
		})
	}
}

func closeConn(t *testing.T, c net.Conn) { require.NoError(t, c.Close()) }

func TestConnContextIgnoresConnectionsThatItCannotLookAt(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	require.Equal(t, t.Context(), httppool.ConnContext(t.Context(), a))
	require.Equal(t, t.Context(), httppool.ConnContext(t.Context(), wrapped{nil}))
}

// BenchmarkHungUp measures what the look costs a request.
func BenchmarkHungUp(b *testing.B) {
	for _, unread := range []string{"", "body"} {
		b.Run(fmt.Sprintf("%d bytes unread", len(unread)), func(b *testing.B) { benchmarkHungUp(b, unread) })
	}
}

func benchmarkHungUp(b *testing.B, unread string) {
	listener, err := net.Listen("tcp", "localhost:0")
	require.NoError(b, err)
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(b, err)
	defer conn.Close()
	server, err := listener.Accept()
	require.NoError(b, err)
	defer server.Close()
	_, err = io.WriteString(server, unread)
	require.NoError(b, err)
	ctx := httppool.ConnContext(context.Background(), conn)
	b.ReportAllocs()
	for b.Loop() {
		if httppool.HungUp(ctx) {
			b.Fatal("it is there")
		}
	}
}

// BenchmarkRefusalCPU measures the processor time, of all goroutines, that a refusal takes, without
// the network.
func BenchmarkRefusalCPU(b *testing.B) {
	p := newPool(b, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	defer occupied(b, p)()
	h := httppool.Handler(p, never(b), nil)
	w := &discard{header: make(http.Header)}
	r := httptest.NewRequest(http.MethodPost, "/a", neverRead{b})
	begin := cpuTime(b)
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
	b.ReportMetric(float64((cpuTime(b)-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

type neverRead struct{ b *testing.B }

func (n neverRead) Read([]byte) (int, error) {
	n.b.Error("the body was read")
	return 0, io.EOF
}

// cpuTime is the processor time of this process.
func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
