// Load sends the server more than it can answer and prints what became of it:
//
//	go run -C examples/server ./load -rate 400 -duration 10s -high 20% -medium 20%
//
// takes 10 s, and says on standard error how far it is. Requests come at random and do not wait for each other's answers, as those of
// many independent clients do, and latencies count from the moment at which a
// request was to be sent. So they are what clients see, also when the server or
// this program falls behind. Every answer is checked.
//
// With Ctrl-C no more are sent, and the table is that of those that were; a second
// one ends the program at once. The exit status is 0 if each request has a right answer,
// which may be that it has to come again later, 1 if not and 2 if the command line is
// wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool/examples/server/internal/load"
)

// Exit statuses.
const (
	statusOK    = 0
	statusError = 1
	statusUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // the second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	l := load.Load{High: .2, Medium: .2}
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&l.URL, "url", "http://localhost:8080", "send to the server at this `URL`")
	flags.Float64Var(&l.Rate, "rate", 400, "send `n` requests a second")
	flags.DurationVar(&l.Duration, "duration", 10*time.Second, "for how long")
	flags.Func("high", "`percentage` of requests with high priority (default 20%)", percentage(&l.High))
	flags.Func("medium", "`percentage` of requests with medium priority; the others are low (default 20%)", percentage(&l.Medium))
	flags.Uint64Var(&l.Seed, "seed", 1, "seed of the times and priorities")
	keepAlive := flags.Bool("keepalive", true, "use connections more than once")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return statusOK
	case err != nil:
		return statusUsage
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case !(l.Rate > 0):
		err = fmt.Errorf("-rate must be positive, got %v", l.Rate)
	case l.Duration <= 0:
		err = fmt.Errorf("-duration must be positive, got %v", l.Duration)
	case l.High+l.Medium > 1:
		err = fmt.Errorf("-high and -medium must not be more than 100%% together, got %v%% and %v%%", 100*l.High, 100*l.Medium)
	}
	if err != nil {
		fmt.Fprintln(stderr, "load:", err)
		return statusUsage
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 1000, DisableKeepAlives: !*keepAlive}
	defer transport.CloseIdleConnections()
	l.Client = &http.Client{Transport: transport, Timeout: time.Minute}
	answered, every := 0, int(max(2*l.Rate, 1)) // some two seconds' worth
	l.Answered = func(load.Answer) {
		if answered++; answered%every == 0 {
			fmt.Fprintf(stderr, "load: %d requests answered\n", answered)
		}
	}
	answers := l.Run(ctx)
	if err := load.WriteTable(stdout, answers); err != nil {
		fmt.Fprintln(stderr, "load:", err)
		return statusError
	}
	status := statusOK
	for _, a := range answers {
		if a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable && a.Err == nil {
			a.Err = fmt.Errorf("status %d", a.Status)
		}
		if a.Err != nil && status == statusOK {
			fmt.Fprintf(stderr, "load: the first failure: %v priority: %v\n", a.Priority, a.Err)
			status = statusError
		}
	}
	return status
}

// percentage returns a function that reads a percentage, with its sign or without,
// as a share of 1.
func percentage(share *float64) func(string) error {
	return func(s string) error {
		p, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
		if err != nil || !(p >= 0 && p <= 100) {
			return errors.New("must be a percentage from 0% to 100%")
		}
		*share = p / 100
		return nil
	}
}
