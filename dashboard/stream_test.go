package dashboard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

// That the bubble ends says that no goroutine is left.
func TestSnapshotsAreTakenOnlyWhileSomebodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dashboard.New()
		p := newPool(t, d)
		defer shutDown(p)
		n := snapshots(t, p)
		synctest.Wait()
		n.Store(0)
		time.Sleep(time.Hour)
		require.Zero(t, n.Load(), "nobody looks yet")

		s := look(d, nil)
		time.Sleep(10*time.Second + time.Millisecond)
		s.leave()
		require.EqualValues(t, 11, n.Load(), "one at once and one each second")

		time.Sleep(time.Hour)
		require.EqualValues(t, 11, n.Load(), "nobody looks any more")

		again := look(d, nil)
		time.Sleep(2*time.Second + time.Millisecond)
		again.leave()
		require.EqualValues(t, 14, n.Load())
	})
}

func TestOneSnapshotServesAllClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dashboard.New()
		p := newPool(t, d)
		defer shutDown(p)
		n := snapshots(t, p)
		synctest.Wait()
		n.Store(0)
		first := look(d, nil)
		time.Sleep(300 * time.Millisecond)
		var all []*stream
		for range 9 {
			all = append(all, look(d, nil))
		}
		time.Sleep(5 * time.Second)
		require.EqualValues(t, 6, n.Load())
		for _, s := range all {
			require.Equal(t, first.got()[1:], s.got()[1:], "all are sent the same")
			s.leave()
		}
		time.Sleep(5 * time.Second)
		require.Len(t, first.got(), 11, "the first goes on when the others have left")
		first.leave()
	})
}

// A page that is loaded while others look must not take away what they were to be
// told of.
func TestWhatHasChangedIsSentToAllAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dashboard.New()
		p := newPool(t, d)
		defer shutDown(p)
		s := look(d, nil)
		time.Sleep(1500 * time.Millisecond)
		require.NoError(t, p.Go(taskpool.Medium, func() { panic("x") }))
		synctest.Wait()
		page(t, d)
		time.Sleep(2 * time.Second)
		s.leave()

		parts := func(i int) (all []string) {
			require.NoError(t, json.Unmarshal([]byte(s.got()[i]), &all))
			return all
		}
		require.Len(t, parts(0), 8, "at first everything: the time, the pools, and six parts of one")
		told := 0
		for i := range s.got()[1:] {
			for _, part := range parts(i + 1) {
				if strings.Contains(part, `id="p1-failures"`) {
					told++
				}
				require.NotContains(t, part, `id="p1-delayed"`, "it has not changed")
			}
		}
		require.Equal(t, 1, told)
	})
}

func TestSlowClientIsDroppedAndDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dashboard.New()
		p := newPool(t, d)
		defer shutDown(p)
		gate := make(chan struct{})
		slow, quick := look(d, gate), look(d, nil)
		time.Sleep(20*time.Second + 500*time.Millisecond)
		require.Len(t, quick.got(), 21)
		select {
		case <-slow.done:
			t.Fatal("it writes still")
		default:
		}
		close(gate)
		<-slow.done
		require.LessOrEqual(t, len(slow.got()), 5, "no more than what it was allowed to be behind")
		quick.leave()
	})
}

func TestClientsAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dashboard.New(dashboard.WithMaxClients(2))
		newPool(t, d)
		a, b := look(d, nil), look(d, nil)
		synctest.Wait()
		c := look(d, nil)
		<-c.done
		require.Equal(t, http.StatusServiceUnavailable, c.status)
		require.Equal(t, "10", c.header.Get("Retry-After"))
		require.Contains(t, page(t, d), "mail", "the snapshot is for everybody")

		b.leave()
		again := look(d, nil)
		synctest.Wait()
		require.NotEmpty(t, again.got())
		a.leave()
		again.leave()
	})
}

func TestStreamOutlivesTheServersTimeouts(t *testing.T) {
	d := dashboard.New()
	newPool(t, d)
	server := httptest.NewUnstartedServer(d)
	server.Config.ReadTimeout = 300 * time.Millisecond
	server.Config.WriteTimeout = 300 * time.Millisecond
	server.Start()
	defer server.Close()
	defer d.Close()
	response, err := server.Client().Get(server.URL + "/events")
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	in := bufio.NewReader(response.Body)
	for messages := 0; messages < 4; {
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		if strings.HasPrefix(line, "data: ") {
			messages++
		}
	}
}

func TestCloseEndsStreamsSoThatTheServerCanShutDown(t *testing.T) {
	d := dashboard.New()
	newPool(t, d)
	server := httptest.NewServer(d)
	server.Config.RegisterOnShutdown(d.Close)
	response, err := server.Client().Get(server.URL + "/events")
	require.NoError(t, err)
	defer response.Body.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, server.Config.Shutdown(ctx))
	w := request(d, http.MethodGet, "events", "")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, page(t, d), "mail")
	d.Close()
	server.Close()
}

func TestStreamNeedsAWriterThatCanFlush(t *testing.T) {
	d := dashboard.New()
	newPool(t, d)
	var w struct{ http.ResponseWriter }
	w.ResponseWriter = httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/events", nil)
	r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1024"
	d.ServeHTTP(w, r) // returns, as nothing would get through
}

// The errors of tasks are not the dashboard's, and anything may come of asking them.
func TestErrorWhoseMethodMisbehavesStopsNeitherPageNorStream(t *testing.T) {
	for name, misbehave := range map[string]func(){"panic": func() { panic("x") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dashboard.New()
				p := newPool(t, d)
				defer shutDown(p)
				var on atomic.Bool
				h := submit(t, p, taskpool.Task{Name: "odd", Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
					Run: func(context.Context) error { return &oddError{&on, misbehave} }})
				synctest.Wait()
				s := look(d, nil)
				time.Sleep(1500 * time.Millisecond)
				require.Len(t, s.got(), 2)
				on.Store(true)
				time.Sleep(2 * time.Second)
				if name == "panic" {
					require.Contains(t, strings.Join(s.got(), ""), "Error method of a *dashboard_test.oddError panicked")
					s.leave()
				} else {
					<-s.done // the goroutine that asked is gone, and the client comes again
				}
				on.Store(false)
				again := look(d, nil)
				time.Sleep(1500 * time.Millisecond)
				require.Len(t, again.got(), 2)
				again.leave()
				h.Cancel(nil)
			})
		})
	}
}

type oddError struct {
	on        *atomic.Bool
	misbehave func()
}

func (e *oddError) Error() string {
	if e.on.Load() {
		e.misbehave()
	}
	return "odd"
}

// An Error method may want to know how the pool is.
func TestErrorMethodMayUseTheDashboard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dashboard.New()
		p := newPool(t, d)
		defer shutDown(p)
		var on atomic.Bool
		var asked atomic.Int64
		h := submit(t, p, taskpool.Task{Name: "odd", Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
			Run: func(context.Context) error {
				return &oddError{&on, func() {
					on.Store(false) // not in the page that it asks for
					defer on.Store(true)
					asked.Add(1)
					w := httptest.NewRecorder()
					r := httptest.NewRequest(http.MethodGet, "/", nil)
					r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1024"
					d.ServeHTTP(w, r)
					require.Equal(t, http.StatusOK, w.Code)
				}}
			}})
		synctest.Wait()
		s := look(d, nil)
		synctest.Wait()
		on.Store(true)
		time.Sleep(1500 * time.Millisecond)
		require.EqualValues(t, 1, asked.Load())
		require.GreaterOrEqual(t, len(s.got()), 2)
		s.leave()
		on.Store(false)
		h.Cancel(nil)
	})
}

func TestPoolThatIsWatchedWhileASnapshotIsTakenIsInIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dashboard.New()
		p := newPool(t, d)
		defer shutDown(p)
		other, err := taskpool.New(taskpool.WithName("other"), taskpool.WithWorkers(1))
		require.NoError(t, err)
		defer shutDown(other)
		var on atomic.Bool
		h := submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
			Run: func(context.Context) error {
				return &oddError{&on, func() { require.NoError(t, d.Watch(other)) }}
			}})
		synctest.Wait()
		on.Store(true)
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1024"
		d.ServeHTTP(w, r)
		require.Contains(t, w.Body.String(), `<bdi>other</bdi>`)
		on.Store(false)
		h.Cancel(nil)
	})
}
