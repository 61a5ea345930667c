// Server is an HTTP service that answers the most urgent request first, turns the
// least urgent away at once when more come than it can answer, and loses none that
// it has accepted when it is stopped.
//
//	go run -C examples/server . -workers 4 -work 20ms -capacity 40
//
// It runs until it is stopped. Meanwhile, from another terminal,
//
//	curl -d 'to be or not to be' localhost:8080/v1/words
//	curl -d 'abc' -H 'X-Priority: high' localhost:8080/v1/digest
//	curl localhost:8080/readyz                # should new clients be sent here?
//	curl localhost:8080/healthz               # or should the process be replaced?
//
//	curl localhost:8081/metrics               # for Prometheus
//	xdg-open http://localhost:8081/debug/taskpool/
//
// A request is answered with
//
//	200  the answer, as JSON
//	400  X-Priority is neither high, medium or low nor a number from -10 (most
//	     urgent) to 10, or the text ended too early
//	408  the text took too long to arrive
//	413  the text is larger than 1 MiB
//	500  its task panicked
//	503  no room: it is no more urgent than what waits, or had to leave for
//	     something more urgent; Retry-After says when to come again
//	504  it was not done within -timeout
//
// A request whose client goes away while it waits is not worked on. One that is
// turned away is answered before its text is read, and one whose text arrives slowly
// costs no worker.
//
// Package httppool does most of this. The priority counts for clients on this machine
// only: in front of a real service a proxy sets the header, or the route decides.
//
// # Overload
//
// Each request takes 20 ms of one of four workers, so the server above can answer
// 200 a second. This sends twice as many:
//
//	go run -C examples/server ./load -rate 400 -duration 10s -high 20% -medium 20%
//
//	priority  sent  200   503  other  none  wrong      p50      p90      p99      max
//	high       850  850     0      0     0      0   29.8ms   37.6ms   48.6ms   60.4ms
//	medium     832  832     0      0     0      0   72.9ms  246.5ms  347.2ms    376ms
//	low       2358  274  2084      0     0      0  1.0659s  1.6654s  1.9182s  1.9771s
//
// With a quarter of that load, -rate 100, the p50 of high priority is 22.7 ms
// and the p99 33.6 ms. And this is what twice the load makes of requests that are all alike:
//
//	go run -C examples/server ./load -rate 400 -duration 10s -high 0 -medium 100%
//
//	priority  sent   200   503  other  none  wrong      p50      p90      p99      max
//	medium    4040  1951  2089      0     0      0  227.4ms  232.5ms  239.9ms  254.7ms
//
// Low requests get what the others leave. If these left nothing, it would be one of
// every 16 dispatches; see taskpool.WithFairShare. These are figures of one run each,
// on two cores that the load shared with the server.
//
// # The end
//
// With SIGTERM or Ctrl-C the server becomes not ready and goes on for -linger, so
// that load balancers notice, while it asks clients to close their connections. Then
// it accepts none any more, finishes what it has accepted and exits with status 0.
// A second signal, or -drain after the first, cuts that short: what is left is
// answered with 503 and listed in the log, and the exit status is 1. It is 2 if the
// command line is wrong. (After Ctrl-C, go run itself always exits with 1.)
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
	"github.com/taskpool-go/taskpool/httppool"
	"github.com/taskpool-go/taskpool/metrics/prompool"
)

const maxText = 1 << 20 // bytes

const readTimeout = 10 * time.Second // for a request to arrive

func main() {
	told, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(told, os.Args[1:], os.Stderr)
	stop()
	os.Exit(status)
}

// config is what the flags set.
type config struct {
	addr, admin                  string
	workers, capacity            int
	work, timeout, linger, drain time.Duration
}

// run is the program, until it is told to end. It returns the exit status.
func run(told context.Context, args []string, stderr io.Writer) int {
	var c config
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.addr, "addr", "localhost:8080", "listen on this `address` for requests")
	flags.StringVar(&c.admin, "admin", "localhost:8081", "listen on this `address` for operators, until the end")
	flags.IntVar(&c.workers, "workers", runtime.GOMAXPROCS(0), "work on `n` requests at once")
	flags.IntVar(&c.capacity, "capacity", 100, "let `n` requests wait")
	flags.DurationVar(&c.work, "work", 0, "let each request take so much longer, for load tests")
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "the longest that a request may wait and be worked on")
	flags.DurationVar(&c.linger, "linger", time.Second, "how long to go on after the signal, until clients have noticed")
	flags.DurationVar(&c.drain, "drain", 30*time.Second, "patience with requests at work after the signal, -linger included")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0 || c.workers < 1 || min(int64(c.capacity), int64(c.work), int64(c.linger)) < 0 || c.timeout <= 0 || c.drain <= c.linger:
		fmt.Fprintf(stderr, "server: %s: -workers must be at least 1, -timeout positive, -drain longer than -linger, nothing negative, "+
			"and there are no arguments\n", strings.Join(args, " "))
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if err := serve(told, c, log); err != nil {
		log.Error("server failed", "error", err)
		return 1
	}
	return 0
}

// serve answers requests until it is told to end, by a signal, and then ends without losing any. The
// error says what went wrong, or what was left undone.
func serve(told context.Context, c config, log *slog.Logger) error {
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	adminListener, err := net.Listen("tcp", c.admin)
	if err != nil {
		return err
	}
	s := newService(c, log)
	server := &http.Server{
		Handler:           s.public,
		ConnContext:       httppool.ConnContext,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       readTimeout,
		WriteTimeout:      readTimeout + c.timeout + 5*time.Second, // counts from the header's end
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	// What operators look at has a server of its own. It shows the end, too, and
	// their open pages do not keep the other from ending.
	admin := &http.Server{Handler: s.admin, ReadHeaderTimeout: 5 * time.Second, ErrorLog: server.ErrorLog}
	defer admin.Close()
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(listener) }()
	go func() { failed <- admin.Serve(adminListener) }()
	log.Info("listening", "addr", listener.Addr().String(), "admin", adminListener.Addr().String())
	select {
	case err = <-failed:
	case <-told.Done():
	}
	hard, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) // a second one
	defer stop()
	hard, cancel := context.WithTimeoutCause(hard, c.drain, errors.New("out of patience, see -drain"))
	defer cancel()
	log.Info("draining", "cause", context.Cause(told))
	return errors.Join(err, s.shutdown(hard, server, c.linger))
}

// shutdown ends the server and the pool, and says what they have done.
func (s *service) shutdown(hard context.Context, server *http.Server, linger time.Duration) error {
	err := httppool.Shutdown(hard, s.pool, linger, server)
	cut := new(taskpool.ShutdownError)
	errors.As(err, &cut)
	for _, u := range cut.Unfinished {
		s.log.Warn("unfinished", "task", u.Task.Name, "priority", u.Task.Priority, "state", u.State)
	}
	stats := s.pool.Stats()
	s.log.Info("stopped", "left", len(cut.Unfinished), "succeeded", stats.Succeeded, "failed", stats.Failed,
		"canceled", stats.Canceled, "shed", stats.Shed, "refused", stats.Refused)
	return err
}

// A service answers requests by tasks of a pool.
type service struct {
	pool          *taskpool.Pool
	log           *slog.Logger
	extra         func(context.Context) // work beside that on the text
	public, admin http.Handler          // for clients, and for operators
}

// newService starts a service. Options are added to those of its pool.
func newService(c config, log *slog.Logger, opts ...taskpool.Option) *service {
	page := must(dashboard.New())
	metrics := must(prompool.New(prompool.WithPriorities(taskpool.High, taskpool.Medium, taskpool.Low)))
	pool := must(taskpool.New(append(opts, taskpool.WithName("requests"), taskpool.WithLogger(log), taskpool.WithWorkers(c.workers),
		taskpool.WithCapacity(c.capacity, taskpool.OverflowShed), taskpool.WithHooks(page.Hooks()), taskpool.WithHooks(metrics.Hooks()))...))
	must(0, errors.Join(page.Watch(pool), metrics.Watch(pool)))
	public, admin, registry := http.NewServeMux(), http.NewServeMux(), prometheus.NewRegistry()
	s := &service{pool: pool, log: log, public: public, admin: admin}
	s.extra = func(ctx context.Context) { pause(ctx, c.work) }

	near := httppool.FromNetworks(netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	classify := httppool.Classifier(nil).PriorityHeader("X-Priority", near)
	for pattern, f := range map[string]func(text []byte) any{"POST /v1/words": words, "POST /v1/digest": digest} {
		public.Handle(pattern, s.before(c.timeout, httppool.Handler(pool, s.answer(f), classify)))
	}
	public.Handle("GET /readyz", httppool.Ready(pool))
	public.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := pool.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	registry.MustRegister(metrics)
	admin.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	admin.Handle("/debug/taskpool/", page)
	return s
}

// must returns v. What makes it has errors only for what run does not allow.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func words(text []byte) any { return map[string]int{"words": len(bytes.Fields(text))} }

func digest(text []byte) any {
	sum := sha256.Sum256(text)
	return map[string]string{"sha256": hex.EncodeToString(sum[:])}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// before returns a handler for what is done before a request is a task, and after it.
func (s *service) before(timeout time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var pr taskpool.Priority
		text := strings.ToLower(r.Header.Get("X-Priority"))
		if err := pr.UnmarshalText([]byte(text)); text != "" && (err != nil || max(pr, -pr) > httppool.MaxHeaderPriority) {
			http.Error(w, fmt.Sprintf("X-Priority must be high, medium, low or a number from -10 (most urgent) to 10, got %q", text), http.StatusBadRequest)
			return
		}
		defer func() {
			if v := recover(); v == http.ErrAbortHandler {
				panic(v)
			} else if v != nil { // the pool has counted it
				s.log.Error("panic", "value", v, "stack", string(debug.Stack()))
				http.Error(w, "internal error", http.StatusInternalServerError)
			}
		}()
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// answer returns a handler, which runs in a task, that answers a text with what f makes of it.
func (s *service) answer(f func(text []byte) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxText))
		switch tooLarge := new(http.MaxBytesError); {
		case errors.As(err, &tooLarge):
			http.Error(w, fmt.Sprintf("the text must not be larger than %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
		case errors.Is(err, os.ErrDeadlineExceeded):
			http.Error(w, "the text took too long to arrive", http.StatusRequestTimeout)
		case err != nil:
			http.Error(w, "the text could not be read to its end", http.StatusBadRequest)
		default:
			if s.extra(r.Context()); r.Context().Err() == nil { // otherwise package httppool says what has happened
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(f(text))
			}
		}
	}
}
