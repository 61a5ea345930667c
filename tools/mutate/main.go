// Mutate shows what the tests of a package do not notice. It changes one thing
// at a time, a mutant: a comparison, a condition, a constant, or a statement
// that is left out. Then it runs the tests, which ought to fail. A mutant that
// survives is a promise without a test, or a change without a difference.
//
// All mutants are compiled into one test binary, which is told by the
// environment variable MUTANT which of them to be: a run costs as much as the
// tests that it takes to fail, and no build. The source stays as it is, as the
// build goes by an overlay.
//
//	cd tools/mutate && GOFLAGS=-tags=invariants go run . -dir ../.. -only priority_queue.go -j 2
//
// The tests run in stages, so that most mutants die cheaply: first those that
// -fast names, then all but those that -slow names, then these. A mutant is
// killed when a stage fails or takes ten times as long as it should, see -times
// and -least.
//
// Survivors are printed one a line: where, in which function, the line, and the
// change, separated by tabs. One that makes no difference is put into the file
// of explained ones as it was printed, with the reason behind a further tab. Its
// line number does not count there, so that it survives edits nearby. The exit
// status is 1 if a survivor is not explained, and 2 if there was no answer.
//
// With -check nothing is run: an explanation of a mutant that there is none of, as the
// line was changed, is printed, and the status is 1 if there is any.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A settings is what the flags say.
type settings struct {
	dir       string
	only      string
	ids       string
	list      bool
	check     bool
	fast      string
	slow      string
	also      string
	stages    int
	jobs      int
	times     float64
	least     time.Duration
	budget    time.Duration
	memory    int
	explained string
}

// fastTests find most of what is wrong in a second or two.
const fastTests = `^TestPoolAgreesWithModel$`

// slowTests take a third of a second or more each.
const slowTests = `^(TestAtMostW|TestEveryAccepted|TestSubmittersRacing|TestOneWorkerFinishes|TestTaskThatBeats|` +
	`TestRandomActions|TestRetryStorm|TestNoSubmitter|TestStopped|TestAMillion|TestNoRace|TestSoak|TestTheorem|` +
	`TestShutdownCutShortA|TestShutdownWithPatience|TestShutdownGivesUp|TestEveryDeath|TestTenThousand|` +
	`TestAnyMix|TestHungTasksCost|TestThousands|TestUniformity|TestMemoryOf|TestTasksThatCome|TestEndOfAContext|` +
	`TestYieldSees|TestCountedPriorities)`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	status, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
	}
	stop()
	os.Exit(status)
}

// run is main without its process. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	var s settings
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.dir, "dir", ".", "directory of the package")
	flags.StringVar(&s.only, "only", "", "the files to change, separated by commas; all if empty")
	flags.StringVar(&s.ids, "id", "", "the mutants to run, as in 3,7-9; the output of the tests is shown if it is one")
	flags.BoolVar(&s.list, "list", false, "list the mutants and run none")
	flags.BoolVar(&s.check, "check", false, "look for explanations of mutants that there are none of, and run none")
	flags.StringVar(&s.fast, "fast", fastTests, "regular expression of the tests to run first")
	flags.StringVar(&s.slow, "slow", slowTests, "regular expression of the tests to run last")
	flags.StringVar(&s.also, "also", "test/...", "directories with more tests of the package, separated by commas, relative to it; they are run first; DIR/... is those in DIR")
	flags.IntVar(&s.stages, "stages", 3, "how many of the three stages to run")
	flags.IntVar(&s.jobs, "j", runtime.GOMAXPROCS(0), "how many mutants run at once")
	flags.Float64Var(&s.times, "times", 10, "the time limit of a stage, in times of what it takes without a mutant")
	flags.DurationVar(&s.least, "least", 20*time.Second, "the shortest time limit of a stage")
	flags.DurationVar(&s.budget, "budget", 0, "start no mutant after this time; 0: no limit")
	flags.IntVar(&s.memory, "memory", 8<<10, "bound of a test's address space in MiB, where there is a shell; 0: none")
	flags.StringVar(&s.explained, "explained", "docs/mutants.txt", "file of the survivors that make no difference, relative to the package")
	if err := flags.Parse(args); err != nil {
		return 2, nil // it was told already
	}
	if flags.NArg() > 0 || s.jobs < 1 || s.stages < 1 || s.stages > 3 {
		return 2, fmt.Errorf("unexpected arguments %q, or -j %d or -stages %d out of range", flags.Args(), s.jobs, s.stages)
	}
	if !filepath.IsAbs(s.explained) {
		s.explained = filepath.Join(s.dir, s.explained)
	}
	status, err := mutate(ctx, s, stdout, stderr)
	if err != nil {
		return 2, err
	}
	return status, nil
}

func mutate(ctx context.Context, s settings, stdout, stderr io.Writer) (int, error) {
	known, err := readExplained(s.explained)
	if err != nil {
		return 0, err
	}
	pkg, err := load(ctx, s.dir)
	if err != nil {
		return 0, err
	}
	chosen, err := pkg.choose(s.only)
	if err != nil {
		return 0, err
	}
	if s.check {
		only := chosen
		if s.only == "" {
			only = nil
		}
		stale := known.beyond(pkg.mutants(chosen), only)
		for _, k := range stale {
			fmt.Fprintf(stdout, "explained, but there is no such change:\t%s\n", k)
		}
		return btoi(len(stale) > 0), nil
	}
	broken, err := pkg.dropBroken(chosen)
	if err != nil {
		return 0, err
	}
	mutants := slices.DeleteFunc(pkg.mutants(chosen), func(m mutant) bool { return broken[m.id] })
	wanted, err := parseIDs(s.ids)
	if err != nil {
		return 0, err
	}
	if wanted != nil {
		mutants = slices.DeleteFunc(mutants, func(m mutant) bool { return !wanted(m.id) })
	}
	if s.list {
		for _, m := range mutants {
			fmt.Fprintf(stdout, "%d\t%s\n", m.id, m)
		}
		fmt.Fprintf(stdout, "%d mutants, and %d that do not compile\n", len(mutants), len(broken))
		return 0, nil
	}
	if len(mutants) == 0 {
		return 0, errors.New("no mutant to run")
	}

	temp, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(temp)
	b := &binary{dir: pkg.dir, temp: temp, memory: s.memory}
	if b.also, err = suites(pkg.dir, s.also); err != nil {
		return 0, err
	}
	if err := b.build(ctx, pkg.schemata(chosen, broken)); err != nil {
		return 0, err
	}
	stages, err := b.stages(ctx, s, stderr)
	if err != nil {
		return 0, err
	}
	if len(mutants) == 1 && s.ids != "" {
		fmt.Fprintf(stdout, "%d\t%s\n", mutants[0].id, mutants[0])
		o := b.try(ctx, stages, mutants[0].id, stdout)
		fmt.Fprintln(stdout, o)
		return btoi(o == survived && known.without(mutants, nil) > 0), ctx.Err()
	}
	results := b.runAll(ctx, s, stages, mutants, stderr)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return report(stdout, mutants, results, known, len(broken)), nil
}

// report prints the survivors and the summary. It returns the exit status.
func report(w io.Writer, mutants []mutant, results []outcome, known *explained, broken int) int {
	var count [numOutcomes]int
	var survivors []mutant
	for i, m := range mutants {
		count[results[i]]++
		if results[i] == survived {
			survivors = append(survivors, m)
		} else if results[i] != notRun && known.has(m) {
			fmt.Fprintf(w, "explained, but killed:\t%s\n", m)
		}
	}
	open := known.without(survivors, func(m mutant) { fmt.Fprintf(w, "survived:\t%d\t%s\n", m.id, m) })
	run := len(mutants) - count[notRun]
	score := 100.0
	if run > 0 {
		score = 100 * float64(run-count[survived]) / float64(run)
	}
	fmt.Fprintf(w, "%d mutants: %d killed by a failure, %d by the time limit, %d survived, %d of these explained; score %.1f %%\n",
		run, count[failed], count[timedOut], count[survived], count[survived]-open, score)
	if count[notRun] > 0 {
		fmt.Fprintf(w, "%d more were not run\n", count[notRun])
	}
	if broken > 0 {
		fmt.Fprintf(w, "%d more do not compile\n", broken)
	}
	return btoi(open > 0)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// parseIDs returns which mutants s asks for, nil for all.
func parseIDs(s string) (func(id int) bool, error) {
	if s == "" {
		return nil, nil
	}
	wanted := make(map[int]bool)
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		lo, err := strconv.Atoi(from)
		hi, err2 := strconv.Atoi(to)
		if err != nil || err2 != nil || lo < 1 || hi < lo {
			return nil, fmt.Errorf("-id: want numbers and ranges from 1, got %q", part)
		}
		for id := lo; id <= hi; id++ {
			wanted[id] = true
		}
	}
	return func(id int) bool { return wanted[id] }, nil
}
