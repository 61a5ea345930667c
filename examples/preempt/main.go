// Preempt is an experiment: it measures what giving the slot back is worth. Low tasks
// compute the Mandelbrot set, a row each, and keep every worker busy. High tasks of
// about a millisecond arrive at random moments. How long do they wait for a worker?
//
//	go run -C examples/preempt .
//
// takes 25 s, in which it says on standard error how far it is. It needs the machine
// for itself: other programs that compute make the waits of all variants longer.
// -duration, -rounds and -seed change the experiment.
//
// There are four variants: with and without a Yield after each pixel, with and
// without a worker reserved for High tasks. They take turns, round after round,
// so that a noisy machine treats them alike, and in each round all four see the
// same arrivals. The program prints a table and draws the distribution of the
// waits to examples/preempt/waits.svg, which git ignores. With -o preempt.svg it
// replaces the picture that the README shows.
//
// A wait is the time from the call that submits the task to its first
// instruction. What Go's scheduler takes to wake the submitting goroutine, when
// tasks compute on every processor, comes before that and is not part of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/taskpool-go/taskpool"
)

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal("preempt: ", err)
	}
}

// A variant is one way of sharing the workers between Low and High tasks.
type variant struct {
	name string
	// safePoint is called after each pixel of a row and says whether to go on.
	safePoint func(context.Context) error
	opts      []taskpool.Option
}

// variants returns what is compared; the others are relative to the first.
func variants() []variant {
	reserved := []taskpool.Option{taskpool.WithReserved(1, taskpool.High)}
	return []variant{
		{name: "neither", safePoint: context.Context.Err},
		{name: "Yield", safePoint: taskpool.Yield},
		{name: "one reserved worker", safePoint: context.Context.Err, opts: reserved},
		{name: "both", safePoint: taskpool.Yield, opts: reserved},
	}
}

// A result is what was measured of one variant, in all rounds.
type result struct {
	variant
	waits      []time.Duration // of the High tasks, sorted
	iterations int64           // the Low tasks' work
	elapsed    time.Duration   // in this time
}

// speed is the throughput of the Low tasks, in iterations a second.
func (r *result) speed() float64 { return float64(r.iterations) / r.elapsed.Seconds() }

// run is the program.
func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("preempt", flag.ContinueOnError)
	flags.SetOutput(stderr)
	duration := flags.Duration("duration", 1500*time.Millisecond, "how long each variant runs in each round")
	rounds := flags.Int("rounds", 4, "how often each variant has its turn")
	seed := flags.Uint64("seed", 1, "seed of the arrivals of the High tasks")
	file := flags.String("o", "waits.svg", "the `file` to draw to")
	switch err := flags.Parse(args); {
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case *duration < 10*meanGap:
		return fmt.Errorf("-duration must be at least %v, got %v", 10*meanGap, *duration)
	case *rounds < 1:
		return fmt.Errorf("-rounds must be positive, got %d", *rounds)
	}

	workers := max(runtime.GOMAXPROCS(0), 2) // one can be reserved only if another is left
	var results []*result
	for _, v := range variants() {
		results = append(results, &result{variant: v})
	}
	all := time.Duration(*rounds*len(results)) * *duration
	fmt.Fprintf(stderr, "preempt: %d rounds of %d variants, %v in all\n", *rounds, len(results), all)
	for round := range *rounds {
		at := arrivals(*seed+uint64(round), *duration)
		for i := range results { // a different one goes first each time
			if err := results[(round+i)%len(results)].measure(workers, at); err != nil {
				return err
			}
		}
		fmt.Fprintf(stderr, "preempt: round %d of %d done\n", round+1, *rounds)
	}
	for _, r := range results {
		slices.Sort(r.waits)
	}
	if err := printTable(stdout, results); err != nil {
		return err
	}
	title := fmt.Sprintf("How long a High task waits while Low tasks keep %d workers busy", workers)
	if err := drawFile(*file, title, results); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "preempt: the distribution of the waits is in %s\n", absolute(*file))
	return nil
}

// absolute names a file for people who started the program from elsewhere, as go run -C
// does.
func absolute(name string) string {
	if path, err := filepath.Abs(name); err == nil {
		return path
	}
	return name
}

// printTable prints a line for each variant. Its name is padded, as the columns
// are aligned to the right.
func printTable(w io.Writer, results []*result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "%-20s\tHigh tasks\tp50\tp90\tp99\tmax\tLow throughput\titerations/s\t\n", "variant")
	for _, r := range results {
		fmt.Fprintf(tw, "%-20s\t%d\t%v\t%v\t%v\t%v\t%.1f %%\t%.0f M\t\n", r.name, len(r.waits),
			short(quantile(r.waits, .50)), short(quantile(r.waits, .90)),
			short(quantile(r.waits, .99)), short(quantile(r.waits, 1)),
			100*r.speed()/results[0].speed(), r.speed()/1e6)
	}
	return tw.Flush()
}

// quantile returns the smallest of the sorted waits that a share q of them does
// not exceed. There must be some.
func quantile(sorted []time.Duration, q float64) time.Duration {
	n := float64(len(sorted))
	for i, d := range sorted {
		if float64(i+1) >= q*n {
			return d
		}
	}
	return sorted[len(sorted)-1]
}

// short rounds d to three digits.
func short(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
