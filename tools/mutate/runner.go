package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An outcome is what became of a mutant.
type outcome int

const (
	notRun outcome = iota
	survived
	failed
	timedOut
	numOutcomes
)

func (o outcome) String() string {
	return [numOutcomes]string{"not run", "survived", "killed by a failure", "killed by the time limit"}[o]
}

// A binary is the compiled tests with all mutants: those of the package, and those of
// others, which come first.
type binary struct {
	dir    string   // of the package
	also   []string // of the others, relative to dir
	temp   string
	memory int
}

// suites returns the directories of list, which are relative to dir. DIR/... stands for
// those in DIR that have tests, if there are any.
func suites(dir, list string) (all []string, err error) {
	for also := range strings.SplitSeq(list, ",") {
		root, below := strings.CutSuffix(also, "/...")
		if !below {
			if also != "" {
				all = append(all, also)
			}
			continue
		}
		files, err := filepath.Glob(filepath.Join(dir, root, "*", "*_test.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			suite, err := filepath.Rel(dir, filepath.Dir(file))
			if err != nil {
				return nil, err
			}
			if !slices.Contains(all, suite) {
				all = append(all, suite)
			}
		}
	}
	return all, nil
}

// tests returns the directories whose tests are run.
func (b *binary) tests() []string { return append(slices.Clone(b.also), ".") }

// build compiles the tests with files in place of those on disk.
func (b *binary) build(ctx context.Context, files map[string][]byte) error {
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for name, text := range files {
		at := filepath.Join(b.temp, name)
		if err := os.WriteFile(at, text, 0o666); err != nil {
			return err
		}
		overlay.Replace[filepath.Join(b.dir, name)] = at
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	list := filepath.Join(b.temp, "overlay.json")
	if err := os.WriteFile(list, data, 0o666); err != nil {
		return err
	}
	// Without cgo the runtime sees a deadlock, which saves waiting for the
	// time limit.
	for i, dir := range b.tests() {
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", list, "-o", b.path(i), ".")
		cmd.Dir = filepath.Join(b.dir, dir)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go test -c in %s: %w\n%s", dir, err, out)
		}
	}
	return nil
}

// path returns where the i-th of the tests are.
func (b *binary) path(i int) string {
	return filepath.Join(b.temp, fmt.Sprintf("mutants%d.test", i))
}

// A stage is a part of the tests.
type stage struct {
	name  string
	args  []string
	limit time.Duration
}

// stages runs the tests without a mutant and returns their parts, each with a
// multiple of the time that it took.
func (b *binary) stages(ctx context.Context, s settings, log io.Writer) ([]stage, error) {
	stages := []stage{{name: "fast", args: []string{"-test.run=" + s.fast}}}
	rest := stage{name: "rest"}
	if s.slow != "" {
		rest.args = []string{"-test.skip=" + s.slow}
		stages[0].args = append(stages[0].args, rest.args...)
	}
	stages = append(stages, rest)
	if s.slow != "" {
		stages = append(stages, stage{name: "slow", args: []string{"-test.run=" + s.slow}})
	}
	stages = stages[:min(s.stages, len(stages))]
	for i := range stages {
		st := &stages[i]
		st.args = append(st.args, "-test.failfast")
		st.limit = 10 * time.Minute
		var out bytes.Buffer
		start := time.Now()
		o := b.runStage(ctx, *st, 0, &out)
		took := time.Since(start)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if o != survived {
			return nil, fmt.Errorf("the tests fail without a mutant (stage %s, %s):\n%s", st.name, o, &out)
		}
		st.limit = max(time.Duration(s.times*float64(took)), s.least)
		fmt.Fprintf(log, "stage %s: %.1f s\n", st.name, took.Seconds())
	}
	return stages, nil
}

// try runs the stages until one kills the mutant.
func (b *binary) try(ctx context.Context, stages []stage, id int, out io.Writer) outcome {
	for _, st := range stages {
		if out != nil {
			fmt.Fprintf(out, "== stage %s\n", st.name)
		}
		if o := b.runStage(ctx, st, id, out); o != survived {
			return o
		}
	}
	return survived
}

// runStage runs one part of the tests with a mutant, 0 being none.
func (b *binary) runStage(ctx context.Context, st stage, id int, out io.Writer) outcome {
	ctx, cancel := context.WithTimeout(ctx, st.limit)
	defer cancel()
	for i, dir := range b.tests() {
		if o := b.runTests(ctx, i, filepath.Join(b.dir, dir), st, id, out); o != survived {
			return o
		}
	}
	return survived
}

// runTests runs that part of the i-th of the tests, which are in dir.
func (b *binary) runTests(ctx context.Context, i int, dir string, st stage, id int, out io.Writer) outcome {
	work, err := os.MkdirTemp(b.temp, "run-") // for what a killed test leaves behind
	if err != nil {
		return notRun
	}
	defer os.RemoveAll(work)
	cmd := b.command(ctx, i, st.args, out != nil)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MUTANT="+strconv.Itoa(id), "TMPDIR="+work)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	if cmd.Process != nil {
		killGroup(cmd.Process.Pid)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return survived
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return timedOut
	case ctx.Err() != nil || !errors.As(err, &exit):
		return notRun
	}
	return failed
}

// runAll runs the mutants, s.jobs at a time, and returns what became of each.
func (b *binary) runAll(ctx context.Context, s settings, stages []stage, mutants []mutant, log io.Writer) []outcome {
	results := make([]outcome, len(mutants))
	start := time.Now()
	var mu sync.Mutex // protects the fields below
	next, done, survivors := 0, 0, 0
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(mutants) || ctx.Err() != nil || s.budget > 0 && time.Since(start) > s.budget {
			return 0, false
		}
		next++
		return next - 1, true
	}
	var wg sync.WaitGroup
	for range s.jobs {
		wg.Go(func() {
			for i, ok := take(); ok; i, ok = take() {
				began := time.Now()
				o := b.try(ctx, stages, mutants[i].id, nil)
				mu.Lock()
				results[i] = o
				if done++; o == survived {
					survivors++
				}
				fmt.Fprintf(log, "%d/%d, %d survived: %d %s after %.1f s: %s\n", done, len(mutants), survivors,
					mutants[i].id, o, time.Since(began).Seconds(), strings.ReplaceAll(mutants[i].String(), "\t", "  "))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return results
}
