package dashboard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
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
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		nothing := func() {}
		require.Zero(t, snapshots(d, time.Hour, nothing), "nobody looks yet")

		var s *stream
		require.Equal(t, 11, snapshots(d, 10*time.Second, sync.OnceFunc(func() { s = look(d, nil) })), "one at once and one each second")
		s.leave()
		require.Zero(t, snapshots(d, time.Hour, nothing), "nobody looks any more")

		require.Equal(t, 3, snapshots(d, 2*time.Second, sync.OnceFunc(func() { s = look(d, nil) })))
		s.leave()
	})
}

func TestOneSnapshotServesAllClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		first := look(d, nil)
		time.Sleep(300 * time.Millisecond)
		var all []*stream
		for range 9 {
			all = append(all, look(d, nil))
		}
		require.Equal(t, 5, snapshots(d, 5*time.Second, func() {}))
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
		d := newDashboard(t)
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
		require.Len(t, parts(0), 12, "at first everything: the time, the pools, and ten parts of one")
		told := 0
		for i := range s.got()[1:] {
			for _, part := range parts(i + 1) {
				if strings.Contains(part, `id="p1-failures"`) {
					told++
				}
				require.NotContains(t, part, `id="p1-delayed"`, "it has not changed")
				require.NotContains(t, part, `id="p1-flows"`, "there are none")
			}
		}
		require.Equal(t, 1, told)
	})
}

func TestSlowClientIsDroppedAndDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
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
		d := newDashboard(t, dashboard.WithMaxClients(2))
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
	d := newDashboard(t)
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
	for messages := 0; messages < 3; { // one a second
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		if strings.HasPrefix(line, "data: ") {
			messages++
		}
	}
}

func TestCloseEndsStreamsSoThatTheServerCanShutDown(t *testing.T) {
	d := newDashboard(t)
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
	d := newDashboard(t)
	newPool(t, d)
	var w struct{ http.ResponseWriter }
	w.ResponseWriter = httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/events", nil)
	r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1024"
	d.ServeHTTP(w, r) // returns, as nothing would get through
}

// The errors of tasks are not the dashboard's, and anything may come of asking them.
type oddError struct{ say func() string }

func (e *oddError) Error() string { return e.say() }

// Once it was told of, whatever its methods do then.
func TestErrorIsAskedForItsTextOnceAndByTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		asked := 0
		h := submit(t, p, taskpool.Task{Name: "odd", Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
			Run: func(context.Context) error {
				return &oddError{func() string {
					if asked++; asked > 1 {
						select {} // which the bubble would tell of
					}
					return "odd enough"
				}}
			}})
		synctest.Wait()
		s := look(d, nil)
		time.Sleep(2500 * time.Millisecond)
		s.leave()
		require.Equal(t, 1, asked)
		require.Len(t, s.got(), 3)
		html := page(t, d)
		require.Contains(t, html[strings.Index(html, `id="p1-delayed"`):strings.Index(html, `id="p1-failures"`)], "odd enough")
		require.Contains(t, html[strings.Index(html, `id="p1-failures"`):], "odd enough")
		h.Cancel(nil)
		synctest.Wait()
		time.Sleep(time.Second)
		html = page(t, d)
		require.Contains(t, html, "Delayed <small>0")
	})
}

func TestErrorsOfWhichNoHookHasToldAreNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p, err := taskpool.New(taskpool.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		defer shutDown(p)
		require.NoError(t, d.Watch(p))
		h := submit(t, p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
			Run: func(context.Context) error { return &oddError{func() string { panic("asked") }} }})
		synctest.Wait()
		require.Contains(t, page(t, d), "(a *dashboard_test.oddError, of which no hook has told)")
		h.Cancel(nil)
	})
}

// A failure is shown also if nothing is to be had of its error.
func TestFailureIsShownWhateverTheMethodsOfItsErrorDo(t *testing.T) {
	release := make(chan struct{})
	for name, say := range map[string]func() string{
		"panicked":                  func() string { panic("x") },
		"has not returned":          func() string { runtime.Goexit(); return "" },
		"has not returned, for now": func() string { <-release; return "at last" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDashboard(t)
				p := newPool(t, d)
				release = make(chan struct{})
				submit(t, p, taskpool.Task{Name: "odd", Run: func(context.Context) error { return &oddError{say} }})
				synctest.Wait()
				name, later := strings.CutSuffix(name, ", for now")
				require.Contains(t, text(page(t, d)), "odd #1 medium, attempt 1, the last (the Error method of a *dashboard_test.oddError "+name+")")
				if later {
					close(release)
					synctest.Wait()
					time.Sleep(time.Second)
					require.Contains(t, text(page(t, d)), "odd #1 medium, attempt 1, the last at last")
				}
				shutDown(p)
			})
		})
	}
}

type comparing struct{ error }

func (comparing) Is(error) bool { panic("Is") }
func (comparing) As(any) bool   { panic("As") }

func TestFailureIsShownWhateverItsErrorIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		submit(t, p, taskpool.Task{Name: "odd", Run: func(context.Context) error { return comparing{errBroken} }})
		synctest.Wait()
		require.Contains(t, text(page(t, d)), "odd #1 medium, attempt 1, the last the printer is on fire")
	})
}

// An Error method may want to know how the pool is.
func TestErrorMethodMayUseTheDashboard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		defer shutDown(p)
		s := look(d, nil)
		submit(t, p, taskpool.Task{Name: "odd", Run: func(context.Context) error {
			return &oddError{func() string {
				return fmt.Sprintf("the page has %d articles", strings.Count(page(t, d), "<article"))
			}}
		}})
		time.Sleep(1500 * time.Millisecond)
		s.leave()
		require.Contains(t, page(t, d), "the page has 1 articles")
	})
}
