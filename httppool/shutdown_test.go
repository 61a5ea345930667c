package httppool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// Clients that keep their connections send POSTs, which nobody sends again, until the server is
// gone. What it has run was answered, and it has turned away none: it counts as many as they do.
func TestShutdownUnderLoadLosesNoAcceptedRequest(t *testing.T) {
	rounds := pooltest.Times(50, 10)
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", http2), func(t *testing.T) {
			t.Parallel()
			for range rounds {
				shutDownUnderLoad(t, http2)
			}
		})
	}
}

func shutDownUnderLoad(t *testing.T, http2 bool) {
	p, err := taskpool.New(taskpool.WithWorkers(2))
	require.NoError(t, err)
	var run, other, ok atomic.Int64
	server, client := serve(t, http2, httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		run.Add(1)
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}), nil), io.Discard)
	defer client.CloseIdleConnections()
	enough := make(chan struct{})
	var once sync.Once
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for {
				resp, err := client.Post(server.URL, "text/plain", io.NopCloser(strings.NewReader("body")))
				if err != nil {
					if run.Load() < 100 {
						t.Errorf("no answer before the end: %v", err)
					}
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || string(body) != "body" {
					other.Add(1)
				} else {
					ok.Add(1)
				}
				if run.Load() >= 100 {
					once.Do(func() { close(enough) })
				}
			}
		})
	}
	<-enough
	require.NoError(t, httppool.Shutdown(t.Context(), p, 2*time.Millisecond, server.Config))
	clients.Wait()
	require.Zero(t, other.Load())
	require.Equal(t, run.Load(), ok.Load())
	require.EqualValues(t, ok.Load(), p.Stats().Succeeded)
}

func TestADrainingServiceIsNotReadyButAnswersAndAsksToClose(t *testing.T) {
	p := newPool(t)
	ready := httppool.Ready(p)
	h := httppool.Handler(p, http.NotFoundHandler(), httppool.Routes(nil, "/exempt"))
	w := ask(ready, newGet(t.Context()))
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "ready\n", w.Body.String())
	require.Empty(t, ask(h, newGet(t.Context())).Header().Get("Connection"))

	ctx, interrupt := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- httppool.Shutdown(ctx, p, time.Hour) }()
	for ask(ready, newGet(t.Context())).Code != http.StatusServiceUnavailable {
		// It says so as soon as Shutdown has begun.
	}
	w = ask(ready, newGet(t.Context()))
	require.Equal(t, "draining\n", w.Body.String())
	require.Equal(t, "close", w.Header().Get("Connection"))
	for _, path := range []string{"/", "/exempt"} {
		w := ask(h, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, http.StatusNotFound, w.Code, "it goes on answering")
		require.Equal(t, "close", w.Header().Get("Connection"))
	}
	interrupt()
	require.NoError(t, <-result, "nothing was cut off")
	require.Equal(t, http.StatusServiceUnavailable, ask(h, newGet(t.Context())).Code)
}

// An upgrade is answered with "Connection: Upgrade". httputil.ReverseProxy adds that to what is there.
func TestADrainingServiceDoesNotAskToCloseWhatItUpgrades(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(acceptWebSocket))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	require.NoError(t, err)
	for _, exempt := range []string{"/exempt", "/"} {
		p := newPool(t)
		server, client := serve(t, false, httppool.Handler(p, httputil.NewSingleHostReverseProxy(target), httppool.Routes(nil, exempt)), io.Discard)
		e := &exchange{t, server, client, nil}
		before := speakWebSocket(e)
		require.Contains(t, before, "Connection:[Upgrade]")
		require.Contains(t, before, "echo: hello")
		ctx, interrupt := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- httppool.Shutdown(ctx, p, time.Hour) }()
		for ask(httppool.Ready(p), newGet(t.Context())).Code != http.StatusServiceUnavailable {
			// It says so as soon as Shutdown has begun.
		}
		require.Equal(t, before, speakWebSocket(e))
		require.NoError(t, p.WaitIdle(t.Context()))
		interrupt()
		require.NoError(t, <-result)
	}
}

func TestAnUnhealthyServiceIsNotReady(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Millisecond), taskpool.WithMaxAbandoned(0))
	started, goOn := make(chan struct{}), make(chan struct{})
	h, err := p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error { close(started); <-goOn; return nil }})
	require.NoError(t, err)
	<-started
	h.Cancel(nil)
	require.ErrorIs(t, h.Wait(t.Context()), taskpool.ErrHung)
	w := ask(httppool.Ready(p), newGet(t.Context()))
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, w.Body.String(), "1 of 1 slots lost")
	close(goOn)
}

func TestShutdownFinishesWhatWasAccepted(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	goOn := make(chan struct{})
	server, client := serve(t, false, httppool.Handler(p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-goOn }), nil), io.Discard)
	statuses := make(chan int, 3)
	for range 3 {
		go func() {
			resp, err := client.Get(server.URL)
			if err != nil {
				statuses <- 0
				return
			}
			resp.Body.Close()
			statuses <- resp.StatusCode
		}()
	}
	waitQueued(p, 2)
	result := make(chan error, 1)
	go func() { result <- httppool.Shutdown(t.Context(), p, 0, server.Config) }()
	require.Eventually(t, func() bool {
		_, err := new(http.Client).Get(server.URL)
		return err != nil
	}, time.Minute, time.Millisecond, "it goes on accepting connections")
	close(goOn)
	for range 3 {
		require.Equal(t, http.StatusOK, <-statuses)
	}
	require.NoError(t, <-result)
}

func TestAShutdownThatIsCutShortAnswersWhatItCanAndListsWhatIsLeft(t *testing.T) {
	t.Parallel()                  // it mostly waits
	const grace = 2 * time.Second // in which the gentle one surely returns
	p, err := taskpool.New(taskpool.WithWorkers(2), taskpool.WithHangGrace(grace))
	require.NoError(t, err)
	goOn := make(chan struct{})
	server, client := serve(t, false, httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stubborn", "/stream":
			<-goOn
		default:
			<-r.Context().Done()
		}
	}), httppool.Routes(map[string]taskpool.Task{"/stubborn": {}, "/gentle": {}}, "/stream")), io.Discard)
	type answer struct {
		path   string
		status int
		closes bool
	}
	answers := make(chan answer, 4)
	send := func(path string) {
		go func() {
			resp, err := client.Get(server.URL + path)
			if err != nil {
				answers <- answer{path: path}
				return
			}
			resp.Body.Close()
			answers <- answer{path, resp.StatusCode, resp.Close}
		}()
	}
	send("/stubborn")
	send("/gentle")
	for p.Stats().Running < 2 {
	}
	send("/gentle")
	send("/stream")
	waitQueued(p, 1)
	ctx, interrupt := context.WithCancelCause(t.Context())
	cause := errors.New("out of patience")
	told := make(chan struct{})
	server.Config.RegisterOnShutdown(func() { close(told) }) // once: twice is a panic
	result := make(chan error, 1)
	go func() { result <- httppool.Shutdown(ctx, p, time.Hour, server.Config) }()
	interrupt(cause)
	<-told
	got := make(map[answer]int)
	for range 4 {
		got[<-answers]++
	}
	require.Equal(t, map[answer]int{{"/gentle", 503, true}: 2, {path: "/stubborn"}: 1, {path: "/stream"}: 1}, got)
	err = <-result
	var cut *taskpool.ShutdownError
	require.ErrorAs(t, err, &cut)
	require.Len(t, cut.Unfinished, 3)
	require.ErrorIs(t, err, cause)
	require.NotErrorIs(t, err, context.Canceled)
	close(goOn)
}

func TestShutdownInsideATaskIsRefused(t *testing.T) {
	p := newPool(t)
	h := httppool.Handler(p, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.ErrorIs(t, httppool.Shutdown(r.Context(), p, 0), taskpool.ErrInside)
	}), nil)
	ask(h, newGet(t.Context()))
	require.NoError(t, p.Do(t.Context(), taskpool.Task{}, func(context.Context) error { return nil }))
}
