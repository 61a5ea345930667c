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
// A request whose client goes away while it waits is not worked on.
//
// # Overload
//
// Each request takes 20 ms of one of four workers, so the server above can answer
// 200 a second. This sends twice as many:
//
//	go run -C examples/server ./load -rate 400 -duration 10s -high 20% -medium 20%
//
//	priority  sent  200   503  other  none  wrong      p50      p90      p99      max
//	high       850  850     0      0     0      0   29.1ms   37.3ms   50.3ms   56.4ms
//	medium     832  832     0      0     0      0   65.4ms  209.3ms    308ms  352.9ms
//	low       2358  302  2056      0     0      0  984.9ms  1.5467s  1.8338s  1.9643s
//
// With a quarter of that load, -rate 100, the p50 of high priority is 22.0 ms
// and the p99 29.8 ms. And this is what twice the load makes of requests that are all alike:
//
//	go run -C examples/server ./load -rate 400 -duration 10s -high 0 -medium 100%
//
//	priority  sent   200   503  other  none  wrong      p50      p90      p99      max
//	medium    4040  1985  2055      0     0      0  222.9ms  226.9ms  228.8ms  231.5ms
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
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/taskpool-go/taskpool"
)

// Exit statuses.
const (
	statusOK    = 0
	statusError = 1
	statusUsage = 2
)

// readTimeout is how long a request may take to arrive.
const readTimeout = 10 * time.Second

func main() {
	signals := make(chan os.Signal, 2) // the first ends it gently, the second at once
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(os.Args[1:], os.Stderr, signals))
}

// run is the program. It returns the exit status.
func run(args []string, stderr io.Writer, signals <-chan os.Signal) int {
	c, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return statusOK
	case err != nil:
		return statusUsage
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if err := serve(c, log, signals); err != nil {
		log.Error("server failed", "error", err)
		return statusError
	}
	return statusOK
}

// config is what the flags set.
type config struct {
	addr     string
	admin    string
	workers  int
	capacity int
	work     time.Duration
	timeout  time.Duration
	linger   time.Duration
	drain    time.Duration
}

func parse(args []string, stderr io.Writer) (c config, err error) {
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
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case c.workers < 1:
		err = fmt.Errorf("-workers must be at least 1, got %d", c.workers)
	case c.capacity < 0:
		err = fmt.Errorf("-capacity must not be negative, got %d", c.capacity)
	case c.work < 0:
		err = fmt.Errorf("-work must not be negative, got %v", c.work)
	case c.timeout <= 0:
		err = fmt.Errorf("-timeout must be positive, got %v", c.timeout)
	case c.linger < 0:
		err = fmt.Errorf("-linger must not be negative, got %v", c.linger)
	case c.drain <= c.linger:
		err = fmt.Errorf("-drain must be longer than -linger, %v, got %v", c.linger, c.drain)
	}
	if err != nil {
		fmt.Fprintln(stderr, "server:", err)
	}
	return c, err
}

// serve answers requests until the first signal, and then ends without losing
// any. The error says what went wrong, or what was left undone.
func serve(c config, log *slog.Logger, signals <-chan os.Signal) error {
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	adminListener, err := net.Listen("tcp", c.admin)
	if err != nil {
		return err
	}
	defer adminListener.Close()
	s, err := newService(c, log)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s.public,
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

	var broken error
	select {
	case broken = <-failed:
	case sig := <-signals:
		log.Info("draining", "signal", sig.String())
	}
	hard, cancel := context.WithTimeoutCause(context.Background(), c.drain, errors.New("out of patience, see -drain"))
	defer cancel()
	hard, interrupt := context.WithCancelCause(hard)
	defer interrupt(nil)
	go func() {
		select {
		case sig := <-signals:
			interrupt(fmt.Errorf("second signal: %v", sig))
		case <-hard.Done():
		}
	}()
	return errors.Join(broken, s.shutdown(hard, server, c.linger))
}

// shutdown ends the server and then the pool, when both have finished what they
// have accepted or hard ends.
func (s *service) shutdown(hard context.Context, server *http.Server, linger time.Duration) error {
	// Load balancers see that the service is not ready, and clients are asked to
	// close their connections, while all requests are still answered.
	s.draining.Store(true)
	_ = pause(hard, linger)

	// No more requests come after this, so none is refused by the pool.
	unanswered := server.Shutdown(hard)
	err := s.pool.Shutdown(hard)
	if unanswered != nil {
		// What was cut off has its 503 by now. Let that be sent.
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		unanswered = server.Shutdown(grace)
		_ = server.Close()
	}

	var cut *taskpool.ShutdownError
	left := 0
	if errors.As(err, &cut) {
		left = len(cut.Unfinished)
		for _, u := range cut.Unfinished {
			s.log.Warn("unfinished", "task", u.Task.Name, "priority", u.Task.Priority, "state", u.State)
		}
	}
	stats := s.pool.Stats()
	s.log.Info("stopped", "left", left, "succeeded", stats.Succeeded, "failed", stats.Failed,
		"canceled", stats.Canceled, "shed", stats.Shed, "refused", stats.Refused)
	return errors.Join(err, unanswered)
}
