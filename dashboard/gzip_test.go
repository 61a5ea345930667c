package dashboard_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func unzip(t *testing.T, b []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	require.NoError(t, err)
	text, err := io.ReadAll(z)
	require.NoError(t, err)
	return string(text)
}

func TestPageIsCompressedForThoseWhoAcceptThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		for range 200 {
			submit(t, p, taskpool.Task{Name: "bad", Run: func(context.Context) error { return errBroken }})
			submit(t, p, taskpool.Task{Name: "later", NotBefore: time.Now().Add(time.Minute), Run: func(context.Context) error { return nil }})
		}
		synctest.Wait()
		for _, path := range []string{"", "snapshot.json"} {
			plain := request(d, http.MethodGet, path, "").Body.String()
			for accepts, packed := range map[string]bool{
				"gzip": true, "gzip, deflate, br": true, "br;q=1.0, gzip;q=0.8": true,
				"": false, "br": false, "gzip;q=0": false, "gzip;q=0.0, br": false, "*": false,
			} {
				w := request(d, http.MethodGet, path, "", func(r *http.Request) { r.Header.Set("Accept-Encoding", accepts) })
				require.Equal(t, "Accept-Encoding", w.Header().Get("Vary"))
				if !packed {
					require.Empty(t, w.Header().Get("Content-Encoding"), accepts)
					require.Equal(t, plain, w.Body.String())
					continue
				}
				require.Equal(t, "gzip", w.Header().Get("Content-Encoding"), accepts)
				require.Less(t, w.Body.Len(), len(plain)/12)
				require.Equal(t, plain, unzip(t, w.Body.Bytes()))
			}
		}
		shutDown(p)
	})
}

// Each message is compressed once for all who get it compressed, and each stream is one that
// anybody can read, from its own beginning to its end.
func TestStreamsAreCompressedForThoseWhoAcceptThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		plain := look(d, nil)
		first := lookPacked(d)
		time.Sleep(3*time.Second + time.Millisecond)
		second := lookPacked(d)
		for range 3 {
			submit(t, p, taskpool.Task{Run: func(context.Context) error { return errBroken }})
			time.Sleep(time.Second)
		}
		synctest.Wait()
		d.Close()
		plain.leave()
		for _, s := range []*packedStream{first, second} {
			<-s.done
			require.Equal(t, "gzip", s.Header().Get("Content-Encoding"))
			text := unzip(t, s.all.Bytes())
			require.True(t, strings.HasPrefix(text, "retry: 2000\n\ndata: ["))
			messages := strings.Split(strings.TrimSuffix(text, "\n\n"), "\n\n")[1:]
			sent := plain.got()
			last := messages[1:] // the first message is all that there is at that time
			for i, m := range last {
				require.Equal(t, sent[len(sent)-len(last)+i], strings.TrimPrefix(m, "data: "))
			}
			require.Less(t, s.all.Len(), len(text)/3)
		}
		shutDown(p)
	})
}

// Who may look is asked again then: a stream must not outlive a session for days.
func TestStreamsEndAfterAnHour(t *testing.T) {
	if pooltest.Scarce() {
		t.Skip("an hour of pages takes seconds, though it is virtual")
	}
	synctest.Test(t, func(t *testing.T) {
		d := newDashboard(t)
		p := newPool(t, d)
		plain, packed := look(d, nil), lookPacked(d)
		time.Sleep(59 * time.Minute)
		require.NotEmpty(t, plain.got())
		select {
		case <-plain.done:
			require.Fail(t, "it has ended")
		default:
		}
		time.Sleep(time.Minute + time.Millisecond)
		<-plain.done
		<-packed.done
		require.Contains(t, unzip(t, packed.all.Bytes()), "data: [")
		shutDown(p)
	})
}

// A packedStream is a stream that is sent compressed.
type packedStream struct {
	httptest.ResponseRecorder
	done chan struct{} // closed when the handler has returned

	mu  sync.Mutex // protects all until then
	all bytes.Buffer
}

func lookPacked(d *dashboard.Dashboard) *packedStream {
	s := &packedStream{ResponseRecorder: *httptest.NewRecorder(), done: make(chan struct{})}
	r := httptest.NewRequest(http.MethodGet, "/events", nil)
	r.Host, r.RemoteAddr = "127.0.0.1", "[::1]:1024"
	r.Header.Set("Accept-Encoding", "gzip")
	go func() {
		defer close(s.done)
		d.ServeHTTP(s, r)
	}()
	return s
}

func (s *packedStream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(b)
}
