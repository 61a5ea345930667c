// Command benchmarks measures taskpool beside other ways to run tasks and writes
// what came out to RESULTS.md. See README.md.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"time"

	"github.com/taskpool-go/taskpool/process"
)

const (
	// A scenario goes on for brief, up to mostRounds, if its rounds are done by
	// then. One that has run for patience is content with somewhat fewer rounds, and
	// one that has run for much longer with few.
	brief        = 8 * time.Second
	mostRounds   = 99
	patience     = 12 * time.Second
	someRounds   = 5
	longPatience = 40 * time.Second
	fewRounds    = 3

	defaultOut   = "RESULTS.md"
	defaultPlots = "plots"
)

type settings struct {
	short      bool
	rounds     int
	only       *regexp.Regexp // nil: all
	out, plots string         // "-" is stdout; no plots are drawn for ""
	scenario   string         // set in a child
}

func main() {
	process.Main() // before anything else: in a child it does not return
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var s settings
	var only string
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.BoolVar(&s.short, "short", false, "do a small amount of each once, to see that all works; the figures mean nothing")
	flags.IntVar(&s.rounds, "rounds", 9, fmt.Sprintf("`rounds` of each scenario, at most; slow ones have %d or %d", someRounds, fewRounds))
	flags.StringVar(&only, "only", "", "run the scenarios whose name or group matches `regexp`")
	flags.StringVar(&s.out, "out", "", "write the results to `file`; - is stdout. Default: "+defaultOut+", and stdout with -only or -short")
	flags.StringVar(&s.plots, "plots", "", "draw the plots into `dir`. Default: "+defaultPlots+", and none with -only or -short")
	list := flags.Bool("list", false, "list the scenarios and do nothing")
	busy := flags.Bool("spin", false, "keep one core busy until stdin ends; the runner calls itself with it")
	flags.StringVar(&s.scenario, "scenario", "", "run the scenario `name` here and print its result as JSON; the runner calls itself with it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if s.rounds < 1 {
		return fmt.Errorf("-rounds must be at least 1, got %d", s.rounds)
	}
	if only != "" {
		var err error
		if s.only, err = regexp.Compile(only); err != nil {
			return err
		}
	}
	partial := only != "" || s.short
	if s.out == "" {
		s.out = defaultOut
		if partial {
			s.out = "-"
		}
	}
	if s.plots == "" && !partial {
		s.plots = defaultPlots
	}

	switch {
	case *busy:
		return keepBusy(os.Stdin)
	case s.scenario != "":
		return runChild(s, os.Stdout)
	case *list:
		for _, sc := range s.selected() {
			fmt.Printf("%s: %s (%d contestants)\n", sc.group, sc.name, len(sc.contestants))
		}
		return nil
	}
	return runAll(ctx, s, args)
}

// selected returns the scenarios that were asked for.
func (s settings) selected() []scenario {
	var selected []scenario
	for _, sc := range scenarios() {
		if s.only == nil || s.only.MatchString(sc.group) || s.only.MatchString(sc.name) {
			selected = append(selected, sc)
		}
	}
	return selected
}

// runAll runs each scenario in a process of its own and writes down the results.
func runAll(ctx context.Context, s settings, args []string) error {
	selected := s.selected()
	if len(selected) == 0 {
		return errors.New("no scenario matches, see -list")
	}
	about := newSetup(args)
	var results []result
	for i, sc := range selected {
		fmt.Fprintf(os.Stderr, "%2d/%d %s: %s ", i+1, len(selected), sc.group, sc.name)
		begin := time.Now()
		r, err := runInChild(ctx, s, sc)
		if err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
		fmt.Fprintf(os.Stderr, "(%.1f s)\n", time.Since(begin).Seconds())
		results = append(results, r)
	}
	about.took = time.Since(about.date)

	var page bytes.Buffer
	writeReport(&page, about, s.short, results)
	if s.out == "-" {
		if _, err := os.Stdout.Write(page.Bytes()); err != nil {
			return err
		}
	} else if err := os.WriteFile(s.out, page.Bytes(), 0o644); err != nil {
		return err
	}
	if s.plots == "" {
		return nil
	}
	if err := os.MkdirAll(s.plots, 0o755); err != nil {
		return err
	}
	return plots(results, s.plots)
}

// runInChild runs a scenario in a child process, with another one that keeps a
// core busy if it is of that group.
func runInChild(ctx context.Context, s settings, sc scenario) (r result, err error) {
	program, err := os.Executable()
	if err != nil {
		return r, err
	}
	if sc.group == groupBusy {
		stop, err := startBusy(ctx, program)
		if err != nil {
			return r, err
		}
		defer stop()
	}
	child := exec.CommandContext(ctx, program,
		"-scenario", sc.name, "-rounds", fmt.Sprint(s.rounds), fmt.Sprintf("-short=%t", s.short))
	child.Stderr = os.Stderr
	printed, err := child.Output()
	if err != nil {
		return r, err
	}
	err = json.Unmarshal(printed, &r)
	return r, err
}

// startBusy starts a process that keeps one core busy until stop is called, or
// until this one ends.
func startBusy(ctx context.Context, program string) (stop func(), err error) {
	child := exec.CommandContext(ctx, program, "-spin")
	child.Env = append(os.Environ(), "GOMAXPROCS=1")
	child.Stderr = os.Stderr
	open, err := child.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = open.Close()
		_ = child.Wait()
	}, nil
}

// keepBusy computes until r ends.
func keepBusy(r io.Reader) error {
	go func() {
		for {
			_ = spin(1 << 20)
		}
	}()
	_, err := io.Copy(io.Discard, r)
	return err
}

// runChild runs one scenario in this process and prints its result.
func runChild(s settings, w io.Writer) error {
	for _, sc := range scenarios() {
		if sc.name != s.scenario {
			continue
		}
		r, err := sc.run(s.rounds, s.short)
		if err != nil {
			return err
		}
		return json.NewEncoder(w).Encode(r)
	}
	return fmt.Errorf("there is no scenario %q", s.scenario)
}

// run runs the rounds of a scenario. In each of them all contestants have their
// turn, the next one first in each, so that what changes on the machine meanwhile
// meets all of them alike. Before that each does a little, as the first to run
// in a process would pay for what all use.
func (sc scenario) run(rounds int, short bool) (result, error) {
	r := result{Group: sc.group, Scenario: sc.name, Values: make(map[string][][]float64)}
	for _, m := range sc.metrics {
		r.Metrics = append(r.Metrics, resultMetric{m.name, m.unit})
	}
	for _, c := range sc.contestants {
		r.Contestants = append(r.Contestants, resultContestant{c.name, c.kind})
		r.Values[c.name] = make([][]float64, len(sc.metrics))
		if !short {
			c.round(true)
		}
	}
	if short {
		rounds = 1
	}
	begin := time.Now()
	for i := 0; i < rounds || !short && i < mostRounds && time.Since(begin) < brief; i++ {
		if enough(i, time.Since(begin)) {
			break
		}
		for k := range sc.contestants {
			c := sc.contestants[(i+k)%len(sc.contestants)]
			runtime.GC()
			values := c.round(short)
			if err := sc.check(c, values); err != nil {
				return r, err
			}
			for m, v := range values {
				r.Values[c.name][m] = append(r.Values[c.name][m], v)
			}
		}
	}
	if sc.note != nil {
		r.Note = sc.note(r)
	}
	return r, nil
}

// enough says whether the rounds so far, which took that long, will do.
func enough(rounds int, took time.Duration) bool {
	return rounds >= someRounds && took > patience || rounds >= fewRounds && took > longPatience
}

// check reports values that are not what a round has to return.
func (sc scenario) check(c contestant, values []float64) error {
	if len(values) != len(sc.metrics) {
		return fmt.Errorf("%s: %s returned %d values for %d metrics", sc.name, c.name, len(values), len(sc.metrics))
	}
	for i, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s: %s measured %s as %v", sc.name, c.name, sc.metrics[i].name, v)
		}
	}
	return nil
}
