// Package load sends requests to the server of this example and keeps account of
// what becomes of each.
package load

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// A Load is requests that come at random, so many a second on average, and do not
// wait for each other: a server that falls behind gets no less to do.
type Load struct {
	URL      string        // of the server, without a path
	Rate     float64       // requests a second
	Duration time.Duration // for which requests are sent
	High     float64       // share of requests of this priority, from 0 to 1
	Medium   float64       // and of this one; the others are low
	Seed     uint64        // of the times and the priorities
	Client   *http.Client

	// Answered, if not nil, is called with each answer as it comes, never twice at
	// a time.
	Answered func(Answer)
}

// An Answer is what became of a request.
type Answer struct {
	Priority   string
	Status     int    // 0: there was no answer
	Reason     string // the body, if the status is not 200
	RetryAfter string // the header
	// Err says why there was no answer or, with a Status, that it was wrong or came
	// in part.
	Err error
	// Latency counts from the time at which the request was to be sent, so what
	// the sender is behind is part of it.
	Latency time.Duration
}

// Run sends the requests and returns what became of all. If ctx ends, no more are
// sent; the answers to those under way are waited for.
func (l *Load) Run(ctx context.Context) []Answer {
	var (
		random  = rand.New(rand.NewPCG(l.Seed, 0))
		mu      sync.Mutex // protects answers and calls of Answered
		answers []Answer
		all     sync.WaitGroup
	)
	due := time.Now()
	end := due.Add(l.Duration)
	for n := 0; due.Before(end) && waitUntil(ctx, due); n++ {
		at, priority := due, "low"
		switch share := random.Float64(); {
		case share < l.High:
			priority = "high"
		case share < l.High+l.Medium:
			priority = "medium"
		}
		all.Go(func() {
			a := Send(context.WithoutCancel(ctx), l.Client, l.URL, priority, n)
			a.Latency = time.Since(at)
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, a)
			if l.Answered != nil {
				l.Answered(a)
			}
		})
		due = due.Add(time.Duration(random.ExpFloat64() / l.Rate * float64(time.Second)))
	}
	all.Wait()
	return answers
}

// waitUntil waits until a time and reports whether it came before ctx's end.
func waitUntil(ctx context.Context, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Send sends request number n and looks at its answer. The texts of requests with
// different numbers differ, and so do the right answers.
func Send(ctx context.Context, client *http.Client, url, priority string, n int) Answer {
	sent := time.Now()
	text := fmt.Sprint(n, strings.Repeat(" word", n%50))
	path, right := "/v1/words", map[string]any{"words": float64(1 + n%50)}
	if n%2 == 1 {
		path, right = "/v1/digest", map[string]any{"sha256": fmt.Sprintf("%x", sha256.Sum256([]byte(text)))}
	}
	a := Answer{Priority: priority}
	a.Err = func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+path, strings.NewReader(text))
		if err != nil {
			return err
		}
		req.Header.Set("X-Priority", priority)
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		a.Status, a.RetryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
		body, err := io.ReadAll(resp.Body)
		if err != nil || a.Status != http.StatusOK {
			a.Reason = string(body)
			return err
		}
		var got map[string]any
		if err := json.Unmarshal(body, &got); err != nil {
			return fmt.Errorf("answer %q: %w", body, err)
		}
		for name, value := range right {
			if len(got) != 1 || got[name] != value {
				return fmt.Errorf("answer to %q is %q, not %v", text, body, value)
			}
		}
		return nil
	}()
	a.Latency = time.Since(sent)
	return a
}

// WriteTable writes a line for each priority: how many requests were sent, what
// became of them, and the latencies of those that were answered with 200.
func WriteTable(w io.Writer, answers []Answer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "%-8s\tsent\t200\t503\tother\tnone\twrong\tp50\tp90\tp99\tmax\t\n", "priority")
	for _, priority := range []string{"high", "medium", "low"} {
		var ok []time.Duration
		sent, unavailable, other, none, wrong := 0, 0, 0, 0, 0
		for _, a := range answers {
			if a.Priority != priority {
				continue
			}
			sent++
			switch {
			case a.Status == 0:
				none++
			case a.Err != nil:
				wrong++
			case a.Status == http.StatusOK:
				ok = append(ok, a.Latency)
			case a.Status == http.StatusServiceUnavailable:
				unavailable++
			default:
				other++
			}
		}
		if sent == 0 {
			continue
		}
		slices.Sort(ok)
		fmt.Fprintf(tw, "%-8s\t%d\t%d\t%d\t%d\t%d\t%d\t%v\t%v\t%v\t%v\t\n", priority, sent, len(ok), unavailable,
			other, none, wrong, quantile(ok, .5), quantile(ok, .9), quantile(ok, .99), quantile(ok, 1))
	}
	return tw.Flush()
}

// quantile returns the least of the sorted durations that is not below a share q of
// them, or "-" if there are none.
func quantile(sorted []time.Duration, q float64) string {
	if len(sorted) == 0 {
		return "-"
	}
	i := max(int(math.Ceil(float64(len(sorted))*q))-1, 0)
	return sorted[i].Round(100 * time.Microsecond).String()
}
