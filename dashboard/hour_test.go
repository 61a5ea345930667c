package dashboard_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

type hourPointJSON struct {
	At                time.Time
	Succeeded, Failed uint64
	Waiting, Running  int
}

func hourOf(t *testing.T, d http.Handler) []hourPointJSON {
	t.Helper()
	var got struct {
		Pools []struct{ Hour []hourPointJSON }
	}
	require.NoError(t, json.Unmarshal(request(d, http.MethodGet, "snapshot.json", "").Body.Bytes(), &got))
	return got.Pools[0].Hour
}

func TestTheLastHourIsKeptThoughNobodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		require.Contains(t, part(page(t, d), "hour"), "There is a first point after ten seconds.")
		began := time.Now()
		for range 900 { // 90 minutes
			submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }})
			submit(t, p, taskpool.Task{Run: func(context.Context) error { return errBroken }})
			time.Sleep(6 * time.Second)
		}
		points := hourOf(t, d)
		last := points[len(points)-1]
		require.EqualValues(t, 900, last.Succeeded)
		require.Less(t, time.Since(last.At), 20*time.Second)
		require.GreaterOrEqual(t, time.Since(points[0].At), time.Hour)
		require.Less(t, time.Since(points[1].At), time.Hour)
		require.True(t, points[0].At.After(began))
		for i := range points[1:] {
			between := points[i+1].At.Sub(points[i].At)
			require.GreaterOrEqual(t, between, 10*time.Second)
			require.LessOrEqual(t, between, 12*time.Second)
			require.LessOrEqual(t, points[i].Failed, points[i+1].Failed)
		}
		hour := part(page(t, d), "hour")
		require.Contains(t, hour, "Succeeded/s at most 0.17 0 −60 min −30 now Failed, shed and refused/s at most 0.17 ")
		require.Contains(t, hour, "Waits, by length")

		// Nothing is noted while nothing happens.
		time.Sleep(30 * time.Minute)
		after := hourOf(t, d)
		require.Equal(t, last, after[len(after)-2])
		require.Equal(t, time.Now().UTC(), after[len(after)-1].At.UTC(), "but for who looks")
	})
}

func TestAnIdlePoolHasNoPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		time.Sleep(2 * time.Hour)
		require.Len(t, hourOf(t, d), 2, "that of Watch, and that of who looks")
	})
}

func TestWaitsOfTheLastHourAreOnAMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d, taskpool.WithWorkers(1))
		defer shutDown(p)
		cells := func() int { return strings.Count(page(t, d), "fill-opacity") }
		submit(t, p, taskpool.Task{Run: func(context.Context) error { time.Sleep(30 * time.Second); return nil }})
		synctest.Wait()
		submit(t, p, taskpool.Task{Run: func(context.Context) error { return errors.New("x") }})
		time.Sleep(40 * time.Second)
		html := page(t, d)
		require.Equal(t, 2, cells(), "0 s and 30 s, at about the same time")
		require.Contains(t, html, `<rect x="29" y="7" width="1" height="1" fill-opacity="1"/>`)
		require.Contains(t, html, `<rect x="29" y="2" width="1" height="1" fill-opacity="1"/>`)
		require.Contains(t, html, "1 in the darkest cell")
		time.Sleep(50 * time.Minute)
		submit(t, p, taskpool.Task{Run: func(context.Context) error { return nil }})
		time.Sleep(time.Second)
		require.Equal(t, 3, cells())
		time.Sleep(20 * time.Minute)
		require.Equal(t, 1, cells(), "what is older than an hour is gone")
		time.Sleep(time.Hour)
		require.Zero(t, cells())
	})
}
