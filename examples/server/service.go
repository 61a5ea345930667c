package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
	"github.com/taskpool-go/taskpool/metrics/prompool"
)

const (
	// A text is read before its task is submitted, so that no worker waits for a
	// slow client.
	maxText = 1 << 20

	// The priorities that a header may ask for. Each priority is a lane in the
	// queue and a label in the metrics, so strangers should not make up many.
	maxPriority = 10

	// retryAfter is when a client that was turned away should come again, in
	// seconds.
	retryAfter = "1"
)

// A service answers requests by tasks of a pool.
type service struct {
	pool     *taskpool.Pool
	log      *slog.Logger
	timeout  time.Duration               // of a request, its wait for a worker included
	extra    func(context.Context) error // work beside that on the text
	draining atomic.Bool
	public   http.Handler // for clients
	admin    http.Handler // for operators
}

// newService starts a service. Options are added to those of its pool.
func newService(c config, log *slog.Logger, opts ...taskpool.Option) (*service, error) {
	page, err := dashboard.New()
	if err != nil {
		return nil, err
	}
	metrics, err := prompool.New(prompool.WithPriorities(taskpool.High, taskpool.Medium, taskpool.Low))
	if err != nil {
		return nil, err
	}
	pool, err := taskpool.New(append([]taskpool.Option{
		taskpool.WithName("requests"),
		taskpool.WithWorkers(c.workers),
		taskpool.WithCapacity(c.capacity, taskpool.OverflowShed),
		taskpool.WithLogger(log),
		taskpool.WithHooks(page.Hooks()),
		taskpool.WithHooks(metrics.Hooks()),
	}, opts...)...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(page.Watch(pool), metrics.Watch(pool)); err != nil {
		return nil, err
	}
	s := &service{pool: pool, log: log, timeout: c.timeout}
	s.extra = func(ctx context.Context) error { return pause(ctx, c.work) }

	public := http.NewServeMux()
	public.Handle("POST /v1/words", s.answer("words", words))
	public.Handle("POST /v1/digest", s.answer("digest", digest))
	public.HandleFunc("GET /healthz", s.healthz)
	public.HandleFunc("GET /readyz", s.readyz)
	s.public = s.closing(public)

	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	admin := http.NewServeMux()
	admin.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}))
	admin.Handle("/debug/taskpool/", page)
	s.admin = admin
	return s, nil
}

// words counts the words of a text.
func words(text []byte) any {
	return struct {
		Words int `json:"words"`
	}{len(bytes.Fields(text))}
}

// digest is the SHA-256 of a text.
func digest(text []byte) any {
	sum := sha256.Sum256(text)
	return struct {
		SHA256 string `json:"sha256"`
	}{hex.EncodeToString(sum[:])}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answer returns a handler that answers a text with what f makes of it, in a task
// of that name.
func (s *service) answer(name string, f func(text []byte) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		pr, err := parsePriority(r.Header.Get("X-Priority"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxText))
		if err != nil {
			unreadable(w, err)
			return
		}
		// The request's context ends when its client goes away. A task that waits
		// then leaves the queue, and is not run.
		ctx, cancel := context.WithTimeout(r.Context(), s.timeout)
		defer cancel()
		task := taskpool.Task{Name: name, Priority: pr}
		result, err := taskpool.Call(ctx, s.pool, task, func(ctx context.Context) (any, error) {
			if err := s.extra(ctx); err != nil {
				return nil, err
			}
			return f(text), nil
		})
		if err != nil {
			unanswered(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(result); err != nil {
			s.log.Debug("answer not sent", "error", err)
		}
	}
}

// parsePriority reads the header X-Priority. In a real service it would be the
// server that knows how urgent a client is.
func parsePriority(header string) (taskpool.Priority, error) {
	if header == "" {
		return taskpool.Medium, nil
	}
	var pr taskpool.Priority
	err := pr.UnmarshalText([]byte(strings.ToLower(header)))
	if err != nil || pr < -maxPriority || pr > maxPriority {
		return 0, fmt.Errorf("X-Priority must be high, medium, low or a number from %d (most urgent) to %d, got %q",
			-maxPriority, maxPriority, header)
	}
	return pr, nil
}

// unreadable tells the client why its text could not be read.
func unreadable(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, fmt.Sprintf("the text must not be larger than %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
	case errors.Is(err, os.ErrDeadlineExceeded):
		http.Error(w, "the text took too long to arrive", http.StatusRequestTimeout)
	default:
		http.Error(w, "the text could not be read to its end", http.StatusBadRequest)
	}
}

// unanswered tells the client why its request has no answer.
func unanswered(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // it is gone: there is nobody to tell
	case errors.Is(err, taskpool.ErrShed):
		unavailable(w, "shed: the queue is full of more urgent requests")
	case errors.Is(err, taskpool.ErrFull):
		unavailable(w, "full: no less urgent request waits")
	case errors.Is(err, taskpool.ErrClosed):
		unavailable(w, "closed: the server is going down")
	case errors.Is(err, context.DeadlineExceeded):
		http.Error(w, "the request took too long", http.StatusGatewayTimeout)
	default: // the pool has logged it
		http.Error(w, "internal error", http.StatusInternalServerError)
	}
}

func unavailable(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", retryAfter)
	http.Error(w, why, http.StatusServiceUnavailable)
}

// closing asks clients to leave while the service drains. A connection that is
// closed with its last answer cannot be closed in the moment in which its client
// sends another request on it.
func (s *service) closing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// healthz says whether the process is of use, or should be replaced.
func (s *service) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.pool.Health(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readyz says whether new clients should be sent here.
func (s *service) readyz(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() {
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	}
	s.healthz(w, r)
}
