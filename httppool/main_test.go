package httppool_test

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// newPool starts a pool that is shut down when the test ends; in a bubble the test does that.
func newPool(t testing.TB, opts ...taskpool.Option) *taskpool.Pool {
	t.Helper()
	p, err := taskpool.New(append([]taskpool.Option{taskpool.WithName("requests")}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, p.Shutdown(ctx))
	})
	return p
}

// serve starts a server, of HTTP/2 if that is wanted, and returns it and a client. What the
// server logs goes to its log.
func serve(t testing.TB, http2 bool, h http.Handler, logs io.Writer) (*httptest.Server, *http.Client) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(logs, "", 0)
	if s.EnableHTTP2 = http2; http2 {
		s.Config.IdleTimeout = 20 * time.Second // for what net/http forgets in its Shutdown: golang.org/issue/81153
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, s.Client()
}

// occupied has all slots of a pool of one worker taken until free is called.
func occupied(t testing.TB, p *taskpool.Pool) (free func()) {
	t.Helper()
	running, goOn := make(chan struct{}), make(chan struct{})
	h, err := p.Submit(context.Background(), taskpool.Task{Name: "occupant", Priority: taskpool.High, Run: func(context.Context) error {
		close(running)
		<-goOn
		return nil
	}})
	require.NoError(t, err)
	<-running
	return func() {
		close(goOn)
		require.NoError(t, h.Wait(context.Background()))
	}
}
