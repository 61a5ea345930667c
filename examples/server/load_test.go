package main

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/examples/server/internal/load"
)

// count returns how many answers have a status.
func count(answers []load.Answer, status int) (n uint64) {
	for _, a := range answers {
		if a.Status == status {
			n++
		}
	}
	return n
}

// requireAnswered checks that a request has a right answer, or is told when to come
// again.
func requireAnswered(t *testing.T, a load.Answer) {
	t.Helper()
	require.NoError(t, a.Err)
	if a.Status != http.StatusOK {
		require.Equal(t, http.StatusServiceUnavailable, a.Status)
		require.Equal(t, "1", a.RetryAfter)
	}
}

// High requests come from two clients that wait for each answer, so at most two of
// them are in the queue, and a full queue has less urgent ones to shed. The others
// come at random, far more than can be answered.
func TestAtTwiceItsCapacityNoHighRequestIsTurnedAway(t *testing.T) {
	const (
		workers     = 4
		work        = 10 * time.Millisecond
		mostAnswers = float64(workers) / .010 // a second
	)
	f := start(t, config{workers: workers, capacity: 20, work: work}, nil)
	var (
		mu      sync.Mutex // protects answers
		answers []load.Answer
		all     sync.WaitGroup
	)
	over := make(chan struct{})
	for client := range 2 {
		all.Go(func() {
			for n := client; ; n += 2 {
				select {
				case <-over:
					return
				default:
				}
				a := load.Send(t.Context(), f.client, f.url, "high", n)
				mu.Lock()
				answers = append(answers, a)
				mu.Unlock()
			}
		})
	}
	others := (&load.Load{URL: f.url, Rate: 2 * mostAnswers, Duration: 3 * time.Second, Medium: .3, Client: f.client}).Run(t.Context())
	close(over)
	all.Wait()

	for _, a := range answers {
		requireAnswered(t, a)
		require.Equal(t, http.StatusOK, a.Status, "a High request was turned away")
	}
	for _, a := range others {
		requireAnswered(t, a)
	}
	require.NotZero(t, count(others, http.StatusServiceUnavailable), "the load was no load")
	answers = append(answers, others...)

	stats := f.pool.Stats()
	require.Equal(t, count(answers, http.StatusOK), stats.Succeeded)
	require.Equal(t, count(answers, http.StatusServiceUnavailable), stats.Shed+stats.Refused)
	require.EqualValues(t, len(answers), stats.Submitted+stats.Refused)
	require.Zero(t, stats.Canceled+stats.Failed)

	var table strings.Builder
	require.NoError(t, load.WriteTable(&table, answers))
	t.Logf("\n%s", &table)
}
