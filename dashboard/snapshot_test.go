package dashboard_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

func TestSnapshotIsThePageForPrograms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(2))
		page(t, d)
		over := make(chan struct{})
		submit(t, p, taskpool.Task{Name: "long", Flow: "acme", Priority: taskpool.High, Timeout: time.Hour, Run: func(context.Context) error { <-over; return nil }})
		synctest.Wait()
		for range 20 {
			submit(t, p, taskpool.Task{Name: "bad", Run: func(context.Context) error { return errBroken }})
		}
		submit(t, p, taskpool.Task{Name: "again", Priority: taskpool.Low, Run: func(context.Context) error { return errBroken },
			Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Minute }}})
		time.Sleep(10 * time.Second)
		w := request(d, http.MethodGet, "snapshot.json", "")
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, "application/json", w.Header().Get("Content-Type"))
		var got struct {
			At    time.Time
			Pools []struct {
				Name, State     string
				Problems        []map[string]string
				Rates           map[string]float64
				Run             map[string]float64
				Stats           taskpool.Stats
				Flows           []map[string]any
				Running, Parked []map[string]any
				Delayed         []map[string]any
				Failures        []map[string]any
			}
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		require.Equal(t, time.Now().UTC(), got.At.UTC())
		require.Len(t, got.Pools, 1)
		pool := got.Pools[0]
		require.Equal(t, "mail", pool.Name)
		require.Equal(t, "accepting", pool.State)
		require.Equal(t, []map[string]string{{"class": "bad", "what": "Failing", "text": "tasks fail for good", "figure": "100 % of them, 2.00/s",
			"runbook": "https://github.com/taskpool-go/taskpool/blob/main/docs/runbook.md#taskpoolfailing"}}, pool.Problems)
		require.Equal(t, map[string]float64{"over": 10, "succeeded": 0, "failed": 2, "canceled": 0, "shed": 0, "refused": 0, "retries": .1}, pool.Rates)
		require.Equal(t, p.Stats().ByPriority, pool.Stats.ByPriority)
		require.EqualValues(t, 20, pool.Stats.Failed)
		require.Equal(t, []map[string]any{{"flow": "acme", "queued": 0., "held_back": 0., "running": 1., "oldest_wait": 0.}}, pool.Flows)
		require.Equal(t, []map[string]any{{"id": 1., "name": "long", "flow": "acme", "priority": "high", "urgency": "high", "attempt": 1., "worker": 1.,
			"elapsed": 10., "timeout": 3600.}}, pool.Running)
		require.Empty(t, pool.Parked)
		require.Equal(t, []map[string]any{{"id": 22., "name": "again", "priority": "low", "urgency": "low", "attempt": 1.,
			"due_in": 50., "error": "the printer is on fire"}}, pool.Delayed)
		require.Len(t, pool.Failures, 21)
		require.Equal(t, "again", pool.Failures[0]["name"])
		require.Equal(t, true, pool.Failures[0]["retried"])
		require.Equal(t, "error", pool.Failures[20]["kind"])
		close(over)
		shutDown(p)
	})
}

func TestSnapshotIsServedByTheSameRulesAsThePage(t *testing.T) {
	d := newDashboard(t)
	require.Equal(t, http.StatusForbidden, request(d, http.MethodGet, "snapshot.json", "", func(r *http.Request) { r.RemoteAddr = "192.0.2.1:1" }).Code)
	require.Equal(t, http.StatusForbidden, request(d, http.MethodGet, "snapshot.json", "", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }).Code)
	require.Equal(t, http.StatusMethodNotAllowed, request(d, http.MethodPost, "snapshot.json", "a=b").Code)
	require.Equal(t, http.StatusOK, request(d, http.MethodGet, "snapshot.json", "").Code)
}

// nginx sends these by default, without a header that says so.
func TestHTTP10IsRefused(t *testing.T) {
	d := newDashboard(t)
	old := func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0 }
	w := request(d, http.MethodGet, "", "", old)
	require.Equal(t, http.StatusForbidden, w.Code)
	require.Contains(t, w.Body.String(), "no requests of HTTP/1.0, which proxies send, unless it is made with WithAuthorize; got HTTP/1.0")
}
