package docs_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

// patience is how long a step of a program may take: only one that hangs takes so long.
const patience = 5 * time.Minute

// Each program is pasted into an empty directory, as a reader would do it, with a go.mod
// that points to this repository.
func TestProgramsInDocumentsPrintWhatTheyShow(t *testing.T) {
	if testing.Short() || !pooltest.Full {
		t.Skip("builds and runs many programs: set TASKPOOL_TEST_FULL, as make test does")
	}
	mods := modules(t)
	for _, d := range documents(t) {
		for i, b := range d.blocks {
			if b.language != "go" {
				continue
			}
			if kind, _, err := kindOf(b.text); err == nil && kind == fragment {
				continue
			}
			shown := ""
			if i+1 < len(d.blocks) && d.blocks[i+1].language == "text" {
				shown = d.blocks[i+1].text
			}
			t.Run(fmt.Sprintf("%s:%d", path.Base(d.name), b.line), func(t *testing.T) {
				t.Parallel()
				printed, err := try(t.TempDir(), mods, b.text)
				if err == nil {
					err = compare(printed, shown)
				}
				if err != nil {
					t.Errorf("%s:%d: %v", d.name, b.line, err)
				}
			})
		}
	}
}

// try builds, vets and runs a program, or a file of tests, in an empty directory, and
// returns what it prints.
func try(dir string, mods map[string]*module, text string) (printed string, err error) {
	kind, imports, err := kindOf(text)
	if err != nil {
		return "", err
	}
	mod, sum, err := goMod(mods, imports)
	if err != nil {
		return "", err
	}
	source, steps := "main.go", [][]string{{"go", "build", "-o", "program"}, {"go", "vet"}, {"./program"}}
	if kind == testFile {
		source, steps = "main_test.go", [][]string{{"go", "vet"}, {"go", "test", "-count=1", "-v"}}
	}
	for name, content := range map[string]string{"go.mod": mod, "go.sum": sum, source: text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			return "", err
		}
	}
	for _, step := range steps {
		if pooltest.Race && len(step) > 2 {
			step = slices.Insert(step, 2, "-race")
		}
		if printed, err = execute(dir, step); err != nil {
			return "", err
		}
	}
	return printed, nil
}

// compare returns an error if a program that has printed this must print something else:
// what is shown, if that is not empty.
func compare(printed, shown string) error {
	if shown != "" && withoutTimes(printed) != withoutTimes(shown) {
		return fmt.Errorf("it prints\n%s\nbut the document shows\n%s", printed, shown)
	}
	return nil
}

// execute runs a command and returns what it writes to standard output.
func execute(dir string, command []string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Dir, c.Stdout, c.Stderr = dir, &stdout, &stderr
	c.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	c.WaitDelay = patience // the go command may leave a child with its output open for a while
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(command, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

var timeOfTest = regexp.MustCompile(`(?m)^( *--- .*\(|ok\s+\S+\s+)\d+\.\d+s`)

// withoutTimes returns what a program or go test has printed without the times that tests
// took, and without spaces at the ends.
func withoutTimes(printed string) string {
	lines := strings.Split(timeOfTest.ReplaceAllString(printed, "${1}0.00s"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \t")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}

// A module is one of this repository.
type module struct {
	dir      string            // from the root of the repository
	requires map[string]string // lines of its go.mod by the path of the module that is required
	sum      string            // its go.sum
}

var (
	moduleLine  = regexp.MustCompile(`(?m)^module (\S+)`)
	requireLine = regexp.MustCompile(`(?m)^(?:require |\t)((\S+) v\S+)`)
)

// modules returns the modules of this repository by path.
func modules(t *testing.T) map[string]*module {
	t.Helper()
	all := make(map[string]*module)
	files(t, func(name string) {
		if path.Base(name) != "go.mod" {
			return
		}
		text := read(t, name)
		m := &module{dir: path.Dir(name), requires: make(map[string]string)}
		for _, r := range requireLine.FindAllStringSubmatch(text, -1) {
			m.requires[r[2]] = r[1]
		}
		m.sum = read(t, path.Join(m.dir, "go.sum"))
		all[moduleLine.FindStringSubmatch(text)[1]] = m
	})
	return all
}

// goMod returns a go.mod and a go.sum for a program with these imports. What is not in
// this repository is required in the versions that its modules use, with all that these
// need, so that the go command finds it without the network where they have been built.
// Of two versions the go command takes the later one.
func goMod(mods map[string]*module, imports []string) (mod, sum string, err error) {
	needed, lines := make(map[string]*module), make(map[string]bool)
	for _, i := range imports {
		if domain, _, _ := strings.Cut(i, "/"); !strings.Contains(domain, ".") {
			continue // the standard library
		}
		if name := moduleOf(i, maps.Keys(mods)); name != "" {
			needed[name] = mods[name]
			lines[name+" v0.0.0"] = true
			continue
		}
		name := ""
		for _, requiring := range slices.Sorted(maps.Keys(mods)) {
			if moduleOf(i, maps.Keys(mods[requiring].requires)) != "" {
				name = requiring
				break
			}
		}
		if name == "" {
			return "", "", fmt.Errorf("no module of the repository requires %s", i)
		}
		needed[name] = mods[name]
	}
	for _, m := range needed {
		for _, line := range m.requires {
			lines[line] = true
		}
		sum += m.sum
	}
	here, err := filepath.Abs(root)
	if err != nil {
		return "", "", err
	}
	text := new(strings.Builder)
	fmt.Fprint(text, "module example\n\ngo 1.26.0\n\nrequire (\n")
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(text, "\t%s\n", line)
	}
	fmt.Fprint(text, ")\n\nreplace (\n")
	for _, name := range slices.Sorted(maps.Keys(mods)) {
		fmt.Fprintf(text, "\t%s => %s\n", name, filepath.Join(here, filepath.FromSlash(mods[name].dir)))
	}
	fmt.Fprint(text, ")\n")
	return text.String(), sum, nil
}

// moduleOf returns the module among these that a package is in, or "".
func moduleOf(pkg string, modules iter.Seq[string]) (longest string) {
	for m := range modules {
		if (pkg == m || strings.HasPrefix(pkg, m+"/")) && len(m) > len(longest) {
			longest = m
		}
	}
	return longest
}

func TestProgramThatFailsIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs programs")
	}
	mods := modules(t)
	const pool = `package main

import (
	"fmt"

	"github.com/taskpool-go/taskpool"
)

func main() {
	fmt.Println(taskpool.High)
}
`
	const test = `package main

import "testing"

func TestNothing(t *testing.T) {
	t.Log("nothing")
}
`
	// Each is built and run once, and what it prints compared with all that may be shown.
	type outcomes map[string]string // the errors wanted, or "", by what is shown
	for _, c := range []struct {
		text string
		want outcomes
	}{
		{pool, outcomes{"high\n": "", "": "", "low\n": "it prints\nhigh\n\nbut the document shows\nlow\n"}},
		{strings.Replace(pool, "High", "Higher", 1), outcomes{"": "undefined: taskpool.Higher"}},
		{strings.Replace(pool, "Println(", `Printf("%s", 1, `, 1), outcomes{"": "go vet: exit status 1"}},
		{strings.Replace(pool, "fmt.Println(taskpool.High)", "panic(fmt.Sprint(taskpool.High))", 1), outcomes{"": "panic: high"}},
		{strings.Replace(pool, "com/taskpool-go", "invalid", 1), outcomes{"": "no module of the repository requires github.invalid/taskpool"}},
		{test, outcomes{"=== RUN   TestNothing\n    main_test.go:6: nothing\n--- PASS: TestNothing (1.23s)\nPASS\nok  \texample\t0.50s\n": ""}},
		{strings.Replace(test, "Log", "Error", 1), outcomes{"": "FAIL"}},
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			printed, failed := try(t.TempDir(), mods, c.text)
			for shown, want := range c.want {
				err := failed
				if err == nil {
					err = compare(printed, shown)
				}
				if got := fmt.Sprint(err); (want == "") != (err == nil) || !strings.Contains(got, want) && err != nil {
					t.Errorf("got %q, want %q, for\n%s", got, want, c.text)
				}
			}
		})
	}
}
