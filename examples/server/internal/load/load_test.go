package load

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server with a handler and returns its URL and a client.
func serve(t *testing.T, handler http.HandlerFunc) (string, *http.Client) {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL, server.Client()
}

// answer is what the server of the example does.
func answer(w http.ResponseWriter, r *http.Request) {
	text, _ := io.ReadAll(r.Body)
	switch r.URL.Path {
	case "/v1/words":
		fmt.Fprintf(w, `{"words":%d}`, len(strings.Fields(string(text))))
	case "/v1/digest":
		fmt.Fprintf(w, `{"sha256":"%x"}`, sha256.Sum256(text))
	}
}

func TestRightAnswersAreRight(t *testing.T) {
	url, client := serve(t, answer)
	for n := range 110 {
		a := Send(t.Context(), client, url, "low", n)
		require.NoError(t, a.Err)
		require.Equal(t, http.StatusOK, a.Status)
	}
}

func TestWrongAnswersAreFound(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"wrong":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"words":7}`) },
		"more":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"words":1,"more":1}`) },
		"empty":     func(http.ResponseWriter, *http.Request) {},
		"not JSON":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `one`) },
		"cut short": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "100") },
	} {
		url, client := serve(t, handler)
		a := Send(t.Context(), client, url, "low", 0)
		require.Error(t, a.Err, name)
		require.Equal(t, http.StatusOK, a.Status, name)
	}
}

func TestWhatComesOfARequestIsReported(t *testing.T) {
	url, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3")
		http.Error(w, r.Header.Get("X-Priority"), http.StatusServiceUnavailable)
	})
	a := Send(t.Context(), client, url, "medium", 0)
	require.NoError(t, a.Err)
	require.Equal(t, http.StatusServiceUnavailable, a.Status)
	require.Equal(t, "3", a.RetryAfter)
	require.Equal(t, "medium", a.Priority)
	require.Equal(t, "medium\n", a.Reason)

	a = Send(t.Context(), client, "http://localhost:0", "low", 0)
	require.Error(t, a.Err)
	require.Zero(t, a.Status)
}

func TestRequestsDoNotWaitForAnswers(t *testing.T) {
	const all = 20
	goOn := make(chan struct{})
	var here atomic.Int64
	url, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if here.Add(1) == all {
			close(goOn)
		}
		<-goOn
		answer(w, r)
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reported := 0
	l := &Load{URL: url, Rate: 1000, Duration: time.Hour, High: .5, Medium: .5, Client: client, Answered: func(Answer) {
		reported++
		stop() // those under way are still answered
	}}
	answers := l.Run(ctx)
	require.GreaterOrEqual(t, len(answers), all)
	require.Equal(t, len(answers), reported)
	for _, a := range answers {
		require.NoError(t, a.Err)
		require.NotEqual(t, "low", a.Priority)
	}
}

func TestTableHasALineForEachPriority(t *testing.T) {
	var answers []Answer
	for n := range 100 {
		answers = append(answers, Answer{Priority: "high", Status: 200, Latency: time.Duration(n+1) * time.Millisecond})
	}
	answers = append(answers,
		Answer{Priority: "low", Status: 503, Latency: time.Hour},
		Answer{Priority: "low", Status: 504},
		Answer{Priority: "low", Status: 200, Err: errors.New("wrong")},
		Answer{Priority: "low", Err: errors.New("refused")},
	)
	var table strings.Builder
	require.NoError(t, WriteTable(&table, answers))
	require.Equal(t, `  priority  sent  200  503  other  none  wrong   p50   p90   p99    max
  high       100  100    0      0     0      0  50ms  90ms  99ms  100ms
  low          4    0    1      1     1      1     -     -     -      -
`, table.String())
}
