package main

import (
	"net/http"
	"strconv"
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

// metric returns the sum of the series of a scrape that have the name and the labels of series.
func metric(t *testing.T, scrape, series string) (sum float64) {
	t.Helper()
	name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	found := false
lines:
	for line := range strings.Lines(scrape) {
		line, ok := strings.CutPrefix(line, name+"{")
		if !ok {
			continue
		}
		for label := range strings.SplitSeq(labels, ",") {
			if !strings.Contains(line, label) {
				continue lines
			}
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		require.NoError(t, err)
		sum, found = sum+value, true
	}
	require.True(t, found, "no such series as %s", series)
	return sum
}

// requireAnswered checks that a request has a right answer, or is told when to come
// again.
func requireAnswered(t *testing.T, a load.Answer) {
	t.Helper()
	require.NoError(t, a.Err)
	if a.Status != http.StatusOK {
		require.Equal(t, http.StatusServiceUnavailable, a.Status)
		require.Regexp(t, `^[1-9]\d*$`, a.RetryAfter)
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
	high := len(answers)
	answers = append(answers, others...)

	metrics := f.see("/metrics")
	shed := metric(t, metrics, `taskpool_tasks_finished_total{outcome="shed",pool="requests"}`)
	refused := metric(t, metrics, `taskpool_tasks_refused_total{pool="requests"}`)
	ok := float64(count(answers, http.StatusOK))
	require.Equal(t, float64(count(answers, http.StatusServiceUnavailable)), shed+refused)
	for name, want := range map[string]float64{
		`taskpool_tasks_submitted_total{pool="requests"}`:                    float64(len(answers)) - refused,
		`taskpool_tasks_finished_total{outcome="succeeded",pool="requests"}`: ok,
		`taskpool_tasks_finished_total{outcome="canceled",pool="requests"}`:  0,
		`taskpool_tasks_finished_total{outcome="failed",pool="requests"}`:    0,
		`taskpool_attempts_ended_total{pool="requests",result="success"}`:    ok,
		`taskpool_attempts_started_total{pool="requests",priority="high"}`:   float64(high),
		`taskpool_tasks{pool="requests",state="queued"}`:                     0,
		`taskpool_capacity{pool="requests"}`:                                 20,
	} {
		require.Equal(t, want, metric(t, metrics, name), name)
	}

	var table strings.Builder
	require.NoError(t, load.WriteTable(&table, answers))
	t.Logf("\n%s", &table)
}
