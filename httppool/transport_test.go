package httppool_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

// recursive starts a server on a pool of one worker, whose handler asks the server for the next
// lower number and adds one, until it comes to 0.
func recursive(t *testing.T, p *taskpool.Pool, transport http.RoundTripper) (url string) {
	client := &http.Client{Transport: transport}
	t.Cleanup(client.CloseIdleConnections)
	server, _ := serve(t, false, httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if n == 0 {
			fmt.Fprint(w, 0)
			return
		}
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, fmt.Sprintf("http://%s/%d", r.Host, n-1), nil)
		resp, err := client.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		below, _ := strconv.Atoi(string(text))
		w.WriteHeader(resp.StatusCode)
		fmt.Fprint(w, below+1)
	}), nil), io.Discard)
	return server.URL
}

func TestRequestsOfTasksToTheirOwnServerDoNotBlock(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	url := recursive(t, p, httppool.Transport(p, new(http.Transport)))
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	resp, err := client.Get(url + "/5")
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "5", string(text))
	require.EqualValues(t, 1, p.Stats().Submitted)
	require.Zero(t, p.Stats().Refused)
}

// So does a request without a context, made on the task's goroutine.
func TestRequestsWithoutAContextAreKnownByTheirGoroutine(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	url := recursive(t, p, nil)
	client := &http.Client{Transport: httppool.Transport(p, new(http.Transport))}
	defer client.CloseIdleConnections()
	h, err := p.Submit(t.Context(), taskpool.Task{Run: func(context.Context) error {
		resp, err := client.Get(url + "/0")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		return err
	}})
	require.NoError(t, err)
	require.NoError(t, h.Wait(t.Context()))
}

func TestOtherRequestsAreLeftAlone(t *testing.T) {
	p, other := newPool(t), newPool(t)
	var seen []*http.Request
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		seen = append(seen, r)
		return httptest.NewRecorder().Result(), nil
	})
	transport := httppool.Transport(p, base)
	r := httptest.NewRequest(http.MethodGet, "http://a/", nil)
	_, err := transport.RoundTrip(r)
	require.NoError(t, err)
	require.Same(t, r, seen[0])
	require.NoError(t, other.Do(t.Context(), taskpool.Task{}, func(ctx context.Context) error {
		_, err := transport.RoundTrip(r.WithContext(ctx))
		return err
	}))
	require.Empty(t, seen[1].Header)

	// One that is marked is a copy.
	r.Header = nil
	require.NoError(t, p.Do(t.Context(), taskpool.Task{}, func(ctx context.Context) error {
		r = r.WithContext(ctx)
		_, err := transport.RoundTrip(r)
		return err
	}))
	require.Nil(t, r.Header)
	require.NotEmpty(t, seen[2].Header.Get("Taskpool-Inside"))
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Nobody else can have a request run outside the pool: not with a mark that was made up, and not
// with one that was right until its call was over.
func TestTheMarkOfARequestCannotBeSpoofed(t *testing.T) {
	p, other := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject)), newPool(t)
	var exempt atomic.Bool
	h := httppool.Handler(p, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, inside := taskpool.Current(r.Context())
		exempt.Store(!inside)
	}), nil)
	runs := func(marks ...string) bool {
		exempt.Store(false)
		return ask(h, withHeader("Taskpool-Inside", marks...)).Code == http.StatusOK && exempt.Load()
	}
	transport := func(p *taskpool.Pool, during func(mark string)) {
		base := roundTripper(func(r *http.Request) (*http.Response, error) {
			during(r.Header.Get("Taskpool-Inside"))
			return httptest.NewRecorder().Result(), nil
		})
		require.NoError(t, p.Do(t.Context(), taskpool.Task{}, func(ctx context.Context) error {
			_, err := httppool.Transport(p, base).RoundTrip(newGet(ctx))
			return err
		}))
	}
	var mark string
	transport(p, func(m string) {
		mark = m
		require.True(t, runs(m), "the call is under way")
		require.True(t, runs("made up", m))
		for _, no := range []string{"", "true", strings.ToLower(m), m + "A", m[1:], strings.Repeat("A", 1<<20)} {
			require.False(t, runs(no))
		}
		require.False(t, runs(slices.Repeat([]string{"A"}, 10_000)...))
	})
	require.GreaterOrEqual(t, len(mark), 26, "five bits each")
	require.False(t, runs(mark), "the call is over")
	transport(p, func(m string) { require.NotEqual(t, mark, m) })
	transport(other, func(m string) { require.False(t, runs(m), "another pool's") })

	// Not even if RoundTrip panics.
	require.Panics(t, func() { transport(p, func(m string) { mark = m; panic("transport") }) })
	require.False(t, runs(mark))
}

func TestAnExemptRequestRunsWhenThePoolIsFull(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	defer occupied(t, p)()
	h := httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, inside := taskpool.Current(r.Context())
		fmt.Fprint(w, inside)
	}), httppool.Routes(nil, "/a"))
	require.Equal(t, "false", ask(h, newGet(t.Context())).Body.String())
	require.EqualValues(t, 1, p.Stats().Submitted)
}

func TestHandlersWithinHandlersDoNotBlock(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	h := httppool.Handler(p, httppool.Handler(p, http.NotFoundHandler(), nil), nil)
	require.Equal(t, http.StatusNotFound, ask(h, newGet(t.Context())).Code)
}

func TestAServiceIsForgottenWithItsPool(t *testing.T) {
	p, err := taskpool.New()
	require.NoError(t, err)
	httppool.Ready(p)
	require.NotZero(t, httppool.Services())
	require.NoError(t, p.Shutdown(t.Context()))
	runtime.KeepAlive(p)
	require.Eventually(t, func() bool { return httppool.Services() == 0 }, time.Minute, time.Millisecond) // those of other tests are gone, too
}
