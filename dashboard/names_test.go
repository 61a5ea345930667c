package dashboard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

// A namesJSON is what the tests here read of snapshot.json.
type namesJSON struct {
	Names []struct {
		Name             string
		Other            bool
		Running, Waiting int
		Done             float64
		FailShare        float64 `json:"fail_share"`
		Run              map[string]float64
		LastError        string `json:"last_error"`
	}
	Waiting []struct {
		ID   uint64
		Name string
	}
	Groups []struct {
		Kind, Name, Error string
		Count             int
		First, Last       time.Time
	} `json:"failure_groups"`
}

func namesOf(t *testing.T, d http.Handler) namesJSON {
	t.Helper()
	var got struct{ Pools []namesJSON }
	require.NoError(t, json.Unmarshal(request(d, http.MethodGet, "snapshot.json", "").Body.Bytes(), &got))
	return got.Pools[0]
}

func TestTasksAreCountedByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		for range 30 {
			submit(t, p, taskpool.Task{Name: "good", Run: func(context.Context) error { time.Sleep(100 * time.Millisecond); return nil }})
		}
		for i := range 10 {
			submit(t, p, taskpool.Task{Name: "mixed", Run: func(context.Context) error {
				if i%2 == 0 {
					return fmt.Errorf("number %d", i)
				}
				return nil
			}})
		}
		time.Sleep(10 * time.Second)
		long := submit(t, p, taskpool.Task{Name: "long", Run: untilEnd})
		synctest.Wait()
		for range 3 {
			submit(t, p, taskpool.Task{Name: "good", Run: func(context.Context) error { return nil }})
		}
		all := namesOf(t, d).Names
		require.Len(t, all, 3)
		mixed, good, running := all[0], all[1], all[2]
		require.Equal(t, "mixed", mixed.Name, "what fails comes first")
		require.EqualValues(t, 50, mixed.FailShare)
		require.EqualValues(t, 1, mixed.Done)
		require.Equal(t, "number 8", mixed.LastError)
		require.Equal(t, "good", good.Name)
		require.EqualValues(t, 3, good.Done)
		require.Zero(t, good.FailShare)
		require.Equal(t, 3, good.Waiting)
		require.InEpsilon(t, .1, good.Run["p50"], .07)
		require.InEpsilon(t, .1, good.Run["p99"], .07)
		require.Equal(t, "long", running.Name)
		require.Equal(t, 1, running.Running)
		names := part(page(t, d), "names")
		require.Contains(t, names, "mixed number 8 0 0 0 0 1.00 50.0 ")
		require.Contains(t, names, "good 0 3 0 0 3.00 0 ")

		// What was more than a minute ago does not count, but for the error.
		time.Sleep(2 * time.Minute)
		for _, n := range namesOf(t, d).Names {
			require.Zero(t, n.Done, n.Name)
			require.Zero(t, n.FailShare)
			require.Equal(t, n.Name == "mixed", n.LastError != "")
		}
		long.Cancel(nil)
	})
}

func TestTwoHundredNamesAreListedAndOthersTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		for i := range 250 {
			submit(t, p, taskpool.Task{Name: fmt.Sprint("name", i), Run: func(context.Context) error { return nil }})
		}
		time.Sleep(10 * time.Second)
		long := submit(t, p, taskpool.Task{Name: "another", Run: untilEnd})
		synctest.Wait()
		submit(t, p, taskpool.Task{Name: "one more", Run: untilEnd}).Cancel(nil)
		submit(t, p, taskpool.Task{Name: "one more", Run: func(context.Context) error { return nil }})
		all := namesOf(t, d).Names
		require.Len(t, all, 201)
		other := all[200]
		require.True(t, other.Other)
		require.EqualValues(t, 5, other.Done, "50 in 10 s")
		require.Equal(t, 1, other.Running)
		require.Equal(t, 1, other.Waiting)
		require.Contains(t, part(page(t, d), "names"), "other names 1 1 0 0 5.00 ")

		// Names of which nothing was told for an hour make room.
		time.Sleep(61 * time.Minute)
		long.Cancel(nil)
		submit(t, p, taskpool.Task{Name: "newcomer", Run: func(context.Context) error { return nil }})
		time.Sleep(time.Second)
		require.Contains(t, part(page(t, d), "names"), "newcomer 0 0 ")
	})
}

func TestFailuresThatAreAlikeAreOneRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		began := time.Now()
		for i := range 150 {
			submit(t, p, taskpool.Task{Name: fmt.Sprint("order ", i), Run: func(context.Context) error {
				time.Sleep(time.Second)
				return fmt.Errorf("row %d is locked", 7*i)
			}})
		}
		time.Sleep(200 * time.Second)
		for range 2 {
			submit(t, p, taskpool.Task{Name: "render", Run: func(context.Context) error { return errors.New("503") }})
			submit(t, p, taskpool.Task{Name: "render", Run: func(context.Context) error { panic("503") }})
		}
		time.Sleep(time.Second)
		groups := namesOf(t, d).Groups
		require.Len(t, groups, 3)
		require.Equal(t, "panic", groups[0].Kind, "that of the newest failure comes first")
		require.Equal(t, "error", groups[1].Kind)
		require.Equal(t, "503", groups[1].Error, "where all are the same the digits are kept")
		require.Equal(t, 2, groups[1].Count)
		require.Equal(t, "order #", groups[2].Name)
		require.Equal(t, "row # is locked", groups[2].Error)
		require.Equal(t, 150, groups[2].Count)
		require.Equal(t, began.Add(time.Second).UTC(), groups[2].First.UTC())
		require.Equal(t, began.Add(150*time.Second).UTC(), groups[2].Last.UTC())
		failures := part(page(t, d), "failures")
		require.Contains(t, failures, "order # row # is locked error row # is locked 150 The last 96, the first 00:00:01 00:02:30 order 149 #150 medium, attempt 1, the last, took 1 s row 1043 is locked")
	})
}

func TestFiftyKindsOfFailuresAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		for i := range 60 {
			text := strings.Repeat("x", i+1)
			for range 3 {
				submit(t, p, taskpool.Task{Name: "odd", Run: func(context.Context) error { return errors.New(text) }})
			}
		}
		time.Sleep(time.Second)
		groups := namesOf(t, d).Groups
		require.Len(t, groups, 50, "the oldest are forgotten")
		require.Equal(t, strings.Repeat("x", 60), groups[0].Error)
		require.Equal(t, strings.Repeat("x", 11), groups[49].Error)
	})
}

func TestWhatWaitsIsListedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const evil = `<script>alert(1)</script>" onload="x`
		d := newDashboard(t, dashboard.WithControl(anybody))
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		p.Pause()
		for range 1200 {
			submit(t, p, taskpool.Task{Name: "low", Priority: taskpool.Low, Run: func(context.Context) error { return nil }})
		}
		submit(t, p, taskpool.Task{Name: evil, Priority: taskpool.High, Run: func(context.Context) error { return nil }})
		require.NoError(t, p.Go(taskpool.High, func() {}))
		html := page(t, d)
		require.NotContains(t, html, "<script>")
		require.NotContains(t, html, `" onload`)
		waiting := part(html, "waiting")
		require.Contains(t, waiting, "Waiting 1,202 ")
		require.Less(t, strings.Index(waiting, "alert(1)"), strings.Index(waiting, "function"))
		require.Less(t, strings.Index(waiting, "function"), strings.Index(waiting, "low #1 "))
		require.Contains(t, waiting, "and 1,102 more")
		require.Contains(t, part(html, "names"), "of the waiting, parked and delayed, the first 1,000 each are counted")
		require.Contains(t, part(html, "names"), "low 0 998 ")
		p.Resume()
	})
}

func TestWhatWaitsIsMovedAndCanceledByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t, dashboard.WithControl(anybody))
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		control := func(form string) string {
			w := request(d, http.MethodPost, "control", "pool=1&"+form)
			return fmt.Sprint(w.Code, " ", strings.TrimSpace(w.Body.String()))
		}
		runs := submit(t, p, taskpool.Task{Name: "work", Run: untilEnd})
		synctest.Wait()
		h := submit(t, p, taskpool.Task{Name: "moved", Run: func(context.Context) error { return nil }})
		require.Equal(t, "200 Set task 2 to priority -7", control("do=priority&task=2&priority=-7"))
		require.EqualValues(t, -7, h.Info().Priority)
		require.Equal(t, "200 Set task 2 to priority low", control("do=priority&task=2&priority=low"))
		require.Equal(t, `400 priority must be high, medium, low or a whole number, got "urgent"`, control("do=priority&task=2&priority=urgent"))
		require.Equal(t, "200 Canceled task 2", control("do=cancel&task=2"))
		require.Equal(t, `404 task must be the number of a task that the page can list, got "2"`, control("do=priority&task=2&priority=low"))

		for range 25_000 { // more than are looked at in one go
			submit(t, p, taskpool.Task{Name: "work", Run: untilEnd})
		}
		submit(t, p, taskpool.Task{Name: "work", NotBefore: time.Now().Add(time.Hour), Run: untilEnd})
		other := submit(t, p, taskpool.Task{Name: "other", Run: func(context.Context) error { return nil }})
		require.Equal(t, "400 name must be that of tasks, got none", control("do=cancel-all"))
		require.Equal(t, `200 Canceled 25,002 tasks named "work"`, control("do=cancel-all&name=work"))
		require.ErrorContains(t, runs.Wait(t.Context()), "canceled by hand")
		require.NoError(t, other.Wait(t.Context()))
		require.Equal(t, `200 Canceled 0 tasks named "work"`, control("do=cancel-all&name=work"))

		p.Pause()
		for range 10_001 {
			submit(t, p, taskpool.Task{Name: "before", Run: func(context.Context) error { return nil }})
		}
		submit(t, p, taskpool.Task{Name: "beyond", Run: func(context.Context) error { return nil }})
		require.Equal(t, `200 Canceled 0 tasks named "beyond", among those that the page can list`, control("do=cancel-all&name=beyond"))
		p.Resume()
	})
}

func TestWaitsOfWhatWasShedCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		over := make(chan struct{})
		submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(context.Context) error { <-over; return nil }})
		for range 9 {
			submit(t, p, taskpool.Task{Priority: taskpool.Low, MaxWait: 5 * time.Second, Run: func(context.Context) error { return nil }})
		}
		time.Sleep(time.Second)
		page(t, d)
		time.Sleep(5 * time.Second)
		close(over)
		synctest.Wait()
		html := page(t, d)
		require.Contains(t, text(html), "wait 5 s 5 s 5 s", "of ten tasks nine were shed after 5 s")
		require.Regexp(t, `low 0 0 s 0 (4\.9|5|5\.1) s –`, part(html, "queue"))
	})
}
