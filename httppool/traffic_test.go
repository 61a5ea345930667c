package httppool_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

// A slow is a client that sends its body, and takes the answer, a byte at a time. What it has not
// taken yet is in a buffer, as in net/http.
type slow struct {
	*httptest.ResponseRecorder
	pause time.Duration
	left  int // bytes of the body
	full  *bufio.Writer
}

func newSlow(pause time.Duration) (*slow, *http.Request) {
	s := &slow{ResponseRecorder: httptest.NewRecorder(), pause: pause, left: 100}
	s.full = bufio.NewWriterSize(slowWriter{s}, 2048)
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Body, r.ContentLength = s, 100
	return s, r
}

func (s *slow) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	s.left--
	time.Sleep(s.pause) // virtual
	p[0] = 'x'
	return 1, nil
}

func (s *slow) Close() error                         { return nil }
func (s *slow) Write(p []byte) (int, error)          { return s.full.Write(p) }
func (s *slow) WriteString(text string) (int, error) { return s.full.WriteString(text) }
func (s *slow) Flush() {
	time.Sleep(s.pause)
	_ = s.full.Flush()
}

type slowWriter struct{ s *slow }

func (w slowWriter) Write(p []byte) (int, error) {
	time.Sleep(w.s.pause * time.Duration(len(p)))
	return w.s.ResponseRecorder.Write(p)
}

const step = 10 * time.Microsecond

// held returns for how long a request holds its slot whose client takes as long as pause for
// each byte, and how long the request takes.
func held(t *testing.T, pause time.Duration, next http.HandlerFunc, opts ...httppool.Option) (held, took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(1))
		require.NoError(t, err)
		h := httppool.Handler(p, next, nil, opts...)
		client, r := newSlow(pause)
		begun, over := time.Now(), make(chan struct{})
		go func() {
			defer close(over)
			h.ServeHTTP(client, r)
			took = time.Since(begun)
		}()
		time.Sleep(step / 2)
		for { // a look between two steps
			select {
			case <-over:
				require.NoError(t, p.Shutdown(context.Background()))
				return
			case <-time.After(step):
			}
			if p.Stats().Running > 0 {
				held += step
			}
		}
	})
	return held, took
}

func readAll(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("x", 100), string(body))
	}
}

func TestASlowSenderHoldsNoSlot(t *testing.T) {
	const pause = 100 * time.Microsecond // 10 kB/s, each read being short
	h, took := held(t, pause, readAll(t))
	require.GreaterOrEqual(t, took, 100*pause)
	require.LessOrEqual(t, h, time.Millisecond+100*100*time.Nanosecond+step)
	h, _ = held(t, pause, readAll(t), httppool.WithClientWait(0))
	require.LessOrEqual(t, h, 2*step)
	for _, wait := range []time.Duration{time.Hour, math.MaxInt64} {
		h, took = held(t, pause, readAll(t), httppool.WithClientWait(wait))
		require.InDelta(t, took, h, float64(step))
	}
}

func TestASlowReaderHoldsNoSlot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, make([]byte, 10_000), 0o600))
	for name, next := range map[string]http.HandlerFunc{
		"Write":       func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 10_000)) },
		"WriteString": func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 10_000)) },
		"ReadFrom":    func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, bytes.NewReader(make([]byte, 10_000))) },
		"file":        func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) },
		"small": func(w http.ResponseWriter, r *http.Request) {
			for range 1000 {
				fmt.Fprint(w, "0123456789")
			}
		},
	} {
		const pause = 10 * time.Microsecond
		h, took := held(t, pause, next)
		require.GreaterOrEqual(t, took, 7952*pause, name)                                 // the rest is in the buffer
		require.LessOrEqual(t, h, time.Millisecond+10_000*100*time.Nanosecond+step, name) // 10 MB/s
	}
}

func TestAFlushThatWaitsHoldsNoSlot(t *testing.T) {
	h, took := held(t, 50*time.Millisecond, func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() })
	require.Equal(t, 50*time.Millisecond, took)
	require.LessOrEqual(t, h, time.Millisecond+2*step)
}

func TestAFastClientCostsNoTurn(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	h := httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(make([]byte, 1<<20))
	}), nil, httppool.WithClientWait(time.Minute))
	ask(h, httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(make([]byte, 10<<20))))
	require.Zero(t, p.Stats().Parks)
}

// What a handler does between two reads is work, however slow its client is.
func TestWorkBetweenReadsHoldsTheSlot(t *testing.T) {
	h, _ := held(t, time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1)
		for range 10 {
			_, _ = r.Body.Read(b)
			time.Sleep(10 * time.Millisecond)
		}
	})
	require.InDelta(t, 100*time.Millisecond, h, float64(2*time.Millisecond))
}

func TestAReaderThatPanicsInReadFromLeavesNothingBehind(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1))
	for _, wait := range []time.Duration{0, time.Nanosecond, time.Hour} {
		h := httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, panicReader{})
		}), nil, httppool.WithClientWait(wait))
		require.PanicsWithValue(t, "reader", func() { ask(h, newGet(t.Context())) })
	}
	require.NoError(t, p.WaitIdle(t.Context()))
	require.Zero(t, p.Stats().Parked)
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("reader") }

func TestReadsAndWritesAtOnceGiveTheSlotBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(1))
		require.NoError(t, err)
		h := httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.Copy(w, strings.NewReader(strings.Repeat("x", 5000)))
			}()
			readAll(t)(w, r)
			<-sent
		}), nil)
		client, r := newSlow(10 * time.Millisecond)
		h.ServeHTTP(client, r)
		require.Equal(t, 5000, client.Body.Len()+client.full.Buffered())
		s := p.Stats()
		require.Equal(t, [2]int{0, 0}, [2]int{s.Parked, s.Running})
		require.NotZero(t, s.Parks)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// The end of the request's context, as by its timeout, does not leave the goroutine that has
// given the slot back.
func TestATimeoutWhileTheClientIsSlowIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := taskpool.New(taskpool.WithWorkers(1))
		require.NoError(t, err)
		h := httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = r.Body.Read(make([]byte, 1))
			}
		}), of(taskpool.Task{Timeout: time.Second}))
		client, r := newSlow(300 * time.Millisecond)
		h.ServeHTTP(client, r)
		require.Equal(t, http.StatusGatewayTimeout, client.Code)
		require.EqualValues(t, 1, p.Stats().Timeouts)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}

// Without that the handlers would hang for as long as their clients please, and the pool with them.
func TestWaitsForASlowClientEndWithTheTask(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for name, test := range map[string]struct {
			task     taskpool.Task
			next     func(http.ResponseWriter, *http.Request) error
			answered bool
		}{
			"read": {taskpool.Task{Timeout: 100 * time.Millisecond}, readBody, false},
			"read, no heartbeat": {taskpool.Task{Heartbeat: 100 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) error {
				<-r.Context().Done()
				return readBody(w, r) // begun when it was over already
			}, false},
			"write": {taskpool.Task{Timeout: 100 * time.Millisecond}, writeMuch, true},
			"write when it is over": {taskpool.Task{Timeout: 100 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) error {
				<-r.Context().Done()
				return writeMuch(w, r)
			}, true},
		} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", name, http2), func(t *testing.T) {
				t.Parallel()
				const clients = 5
				p := newPool(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Hour))
				ended := make(chan error, clients)
				server, client := serve(t, http2, httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/slow" {
						ended <- test.next(w, r)
					}
				}), func(r *http.Request) (taskpool.Task, bool) {
					if r.URL.Path == "/slow" {
						return test.task, true
					}
					return taskpool.Task{}, true
				}), io.Discard)
				var statuses, unsent sync.WaitGroup
				unsent.Add(1)
				for range clients {
					statuses.Go(func() {
						body, out := io.Pipe() // nothing comes
						defer out.Close()
						resp, err := client.Post(server.URL+"/slow", "", body)
						if !assert.NoError(t, err) {
							return
						}
						defer resp.Body.Close()
						if test.answered {
							assert.Equal(t, http.StatusOK, resp.StatusCode)
							unsent.Wait() // nor is the answer read
						} else {
							assert.Equal(t, http.StatusGatewayTimeout, resp.StatusCode)
						}
					})
				}
				for range clients {
					err := <-ended
					require.Error(t, err)
					if !test.answered {
						require.True(t, errors.Is(err, taskpool.ErrTimeout) || errors.Is(err, taskpool.ErrHung), "%v", err)
					}
				}
				unsent.Done()
				statuses.Wait()
				resp, err := client.Get(server.URL)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, http.StatusOK, resp.StatusCode)
				require.NoError(t, p.WaitIdle(t.Context()))
				s := p.Stats()
				require.Equal(t, [3]int{0, 0, 0}, [3]int{s.Parked, s.Running, s.Abandoned})
			})
		}
	}
}

func readBody(_ http.ResponseWriter, r *http.Request) error {
	_, err := io.ReadAll(r.Body)
	return err
}

// writeMuch writes more than fits into buffers.
func writeMuch(w http.ResponseWriter, _ *http.Request) error {
	for range 10_000 {
		if _, err := w.Write(make([]byte, 1<<16)); err != nil {
			return err
		}
	}
	return nil
}

// A hung handler costs what the pool promises: its slot, until it is given up, and then none.
// Its request goes on, on the goroutine of net/http, so it writes to nothing that was given to others.
func TestAHungHandlerIsGivenUpAndWritesOnlyToItsOwnRequest(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithHangGrace(time.Millisecond))
	started, goOn := make(chan *taskpool.Handle), make(chan struct{})
	h := httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hangs" {
			task, _ := taskpool.Current(r.Context())
			started <- task.Handle
			<-goOn
			fmt.Fprint(w, "late")
			return
		}
		fmt.Fprint(w, "in time")
	}), nil)
	server, client := serve(t, false, h, io.Discard)
	late := make(chan string)
	fetch := func(path string) string {
		resp, err := client.Get(server.URL + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	go func() { late <- fetch("/hangs") }()
	(<-started).Cancel(nil)
	for range 10 {
		require.Equal(t, "in time", fetch("/")) // the first as soon as the other is given up; before, it waits
	}
	require.EqualValues(t, 1, p.Stats().Hangs)
	select {
	case got := <-late:
		require.Fail(t, "answered before its handler has returned", got)
	default:
	}
	close(goOn)
	require.Equal(t, "late", <-late)
	require.NoError(t, p.Health())
}

func TestAnAbortedRequestIsNoPanicOfTheTask(t *testing.T) {
	for name, opts := range map[string][]taskpool.Option{
		"plain": nil,
		"within a hook": {taskpool.WithHooks(taskpool.Hooks{Around: func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
			return run(ctx)
		}})},
	} {
		var ended error
		p := newPool(t, append(opts, taskpool.WithHooks(taskpool.Hooks{Finished: func(e taskpool.TaskEvent) { ended = e.Err }}))...)
		h := httppool.Handler(p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), nil)
		require.PanicsWithValue(t, http.ErrAbortHandler, func() { ask(h, newGet(t.Context())) }, name)
		s := p.Stats()
		require.Equal(t, [3]uint64{1, 0, 1}, [3]uint64{s.Failed, s.Panics, s.Errors}, name)
		require.ErrorIs(t, ended, http.ErrAbortHandler, name)

		h = httppool.Handler(p, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a fault") }), nil)
		require.PanicsWithValue(t, "a fault", func() { ask(h, newGet(t.Context())) }, name)
		require.EqualValues(t, 1, p.Stats().Panics, name)
		var panicked *taskpool.PanicError
		require.True(t, errors.As(ended, &panicked), name)
	}
}

// A reverse proxy's transport closes a body while another goroutine reads it.
func TestABodyMayBeClosedWhileItIsRead(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Millisecond, time.Hour} {
		p := newPool(t, taskpool.WithWorkers(1))
		h := httppool.Handler(p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reads, closed := make(chan error), make(chan error)
			begun := make(chan struct{})
			go func() {
				buf := make([]byte, 1)
				_, err := r.Body.Read(buf)
				close(begun)
				for err == nil {
					_, err = r.Body.Read(buf)
				}
				reads <- err
			}()
			<-begun
			for range 2 {
				go func() { closed <- r.Body.Close() }()
			}
			assert.NoError(t, <-closed)
			assert.NoError(t, <-closed)
			assert.ErrorIs(t, <-reads, io.ErrClosedPipe)
			w.WriteHeader(http.StatusNoContent)
		}), nil, httppool.WithClientWait(wait))
		in, out := io.Pipe()
		go func() { _, _ = out.Write([]byte("x")) }()
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, httptest.NewRequest("POST", "/", in))
		require.Equal(t, http.StatusNoContent, answer.Code)
	}
}
