package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// module writes a module with the given files and returns its directory.
func module(t *testing.T, files map[string]string) string {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module fixture\n\ngo 1.26\n"), 0o666))
	return dir
}

// A sample is a function and what it returns: as it stands, and with each of
// its mutants.
type sample struct {
	name, body string
	want       string
	mutants    map[string]string
}

// decls are what the samples refer to. say notes that it was called.
const decls = `
type priority int8

type box struct {
	n    int
	p    priority
	u    uint
	on   bool
	next *box
}

var said string

func say(s string, b bool) bool { said += s; return b }
func note(s string)             { said += s }

func over(f func(x, y priority) bool) (s string) {
	for _, x := range []priority{1, 2, 3} {
		s += letter(f(x, 2))
	}
	return s
}

func letter(b bool) string {
	return map[bool]string{true: "t", false: "f"}[b]
}

func pairs(f func(x, y bool) bool) string {
	said = ""
	s := letter(f(false, false)) + letter(f(false, true)) + letter(f(true, false)) + letter(f(true, true))
	return s + " " + said
}
`

var samples = []sample{
	{"less", `return over(func(x, y priority) bool { return x < y })`, "tff",
		map[string]string{"x < y → x <= y": "ttf", "x < y → x >= y": "ftt"}},
	{"lessEqual", `return over(func(x, y priority) bool { return x <= y })`, "ttf",
		map[string]string{"x <= y → x < y": "tff", "x <= y → x > y": "fft"}},
	{"greater", `return over(func(x, y priority) bool { return x > y })`, "fft",
		map[string]string{"x > y → x >= y": "ftt", "x > y → x <= y": "ttf"}},
	{"greaterEqual", `return over(func(x, y priority) bool { return x >= y })`, "ftt",
		map[string]string{"x >= y → x > y": "fft", "x >= y → x < y": "tff"}},
	{"equal", `return over(func(x, y priority) bool { return x == y })`, "ftf",
		map[string]string{"x == y → x <= y": "ttf", "x == y → x >= y": "ftt", "x == y → x != y": "tft"}},
	{"notEqual", `return over(func(x, y priority) bool { return x != y })`, "tft",
		map[string]string{"x != y → x < y": "tff", "x != y → x > y": "fft", "x != y → x == y": "ftf"}},
	{"constants", `return over(func(x, _ priority) bool { return 2 > x })`, "tff",
		map[string]string{"2 > x → 2 >= x": "ttf", "2 > x → 2 <= x": "ftt"}},
	{"strings", `return over(func(x, y priority) bool { return string(rune(x)) == string(rune(y)) })`, "ftf",
		map[string]string{"string(rune(x)) == string(rune(y)) → string(rune(x)) != string(rune(y))": "tft"}},
	{"pointers", `b := &box{}; return letter(b.next == nil)`, "t",
		map[string]string{"b.next == nil → b.next != nil": "f"}},
	{"lengths", `var b []int; return letter(len(b) >= 0 && len(b) == 0)`, "t", map[string]string{
		"len(b) >= 0 → len(b) > 0": "f", "len(b) >= 0 → len(b) < 0": "f", "len(b) == 0 → len(b) != 0": "f",
		"len(b) >= 0 && len(b) == 0 → len(b) >= 0 || len(b) == 0": "t",
		"len(b) >= 0 && len(b) == 0 → len(b) >= 0":                "t",
		"len(b) >= 0 && len(b) == 0 → len(b) == 0":                "t",
	}},
	// Each operand is evaluated when the operator in its place would, a
	// forced one in any case.
	{"and", `return pairs(func(x, y bool) bool { return say("x", x) && say("y", y) })`, "ffft xxxyxy", map[string]string{
		`say("x", x) && say("y", y) → say("x", x) || say("y", y)`: "fttt xyxyxx",
		`say("x", x) && say("y", y) → say("y", y)`:                "ftft xyxyxyxy",
		`say("x", x) && say("y", y) → say("x", x)`:                "fftt xxxyxy",
	}},
	{"or", `return pairs(func(x, y bool) bool { return say("x", x) || say("y", y) })`, "fttt xyxyxx", map[string]string{
		`say("x", x) || say("y", y) → say("x", x) && say("y", y)`: "ffft xxxyxy",
		`say("x", x) || say("y", y) → say("y", y)`:                "ftft xyxyxyxy",
		`say("x", x) || say("y", y) → say("x", x)`:                "fftt xyxyxx",
	}},
	{"not", `return pairs(func(x, _ bool) bool { return !x })`, "ttff ", map[string]string{"!x → x": "fftt "}},
	{"plus", `x := 5; return fmt.Sprint(x+2, "a"+said[:0])`, "7a", map[string]string{"x+2 → x - 2": "3a"}},
	{"minus", `x := priority(5); return fmt.Sprint(x-2)`, "3", map[string]string{"x-2 → x + 2": "7"}},
	{"increment", `x := uint(5); x++; return fmt.Sprint(x)`, "6", map[string]string{"x++ → x--": "4", "drop x++": "5"}},
	{"decrement", `b := box{p: 5}; b.p--; return fmt.Sprint(b.p)`, "4", map[string]string{"b.p-- → b.p++": "6", "drop b.p--": "5"}},
	{"addAssign", `x := 5; x += 2; return fmt.Sprint(x)`, "7", map[string]string{"x += 2 → x -= 2": "3", "drop x += 2": "5"}},
	{"subAssign", `x := 5; y := 1; x -= y; return fmt.Sprint(x)`, "4",
		map[string]string{"x -= y → x += y": "6", "drop x -= y": "5", "1 → 0": "5"}},
	{"loop", `s := ""; for i := 2; i < 4; i++ { s += "a" }; return s`, "aa", map[string]string{
		"i < 4 → false": "", "i < 4 → i <= 4": "aaa", "i < 4 → i >= 4": "", "i++ → i--": "-", `drop s += "a"`: ""}},
	{"if_", `x := 5; if x > 4 { return "a" }; return "b"`, "a", map[string]string{
		"x > 4 → true": "a", "x > 4 → false": "b", "x > 4 → x >= 4": "a", "x > 4 → x <= 4": "b"}},
	{"init_", `b := box{n: 5}; if b.n = 6; b.n > 5 { return "a" }; return "b"`, "a", map[string]string{
		"drop b.n = 6": "b", "b.n > 5 → true": "a", "b.n > 5 → false": "b", "b.n > 5 → b.n >= 5": "a", "b.n > 5 → b.n <= 5": "b"}},
	{"switch_", `b := box{}; switch b.n = 5; { case b.on: return "a"; default: return fmt.Sprint(b.n) }`, "5",
		map[string]string{"drop b.n = 5": "0", "b.on → true": "a", "b.on → false": "5"}},
	{"tagged", `b := box{n: 5}; switch b.n { case 5: return "a"; default: return "b" }`, "a", map[string]string{}},
	{"literals", `b := box{on: true, n: 0, u: 1}; return fmt.Sprint(b.on, b.n, b.u)`, "true 0 1", map[string]string{
		"true → false": "false 0 1", "0 → 1": "true 1 1", "1 → 0": "true 0 0"}},
	{"returns", `f := func() (int, priority, bool) { return 0, 1, false }; return fmt.Sprint(f())`, "0 1 false", map[string]string{
		"0 → 1": "1 1 false", "1 → 0": "0 0 false", "false → true": "0 1 true"}},
	{"calls", `said = ""; note("a"); defer note("b"); return said`, "a", map[string]string{
		`drop said = ""`: "-", `drop note("a")`: "", `drop defer note("b")`: "a"}},
	{"channels", `c := make(chan int, 2); c <- 5; c <- 6; <-c; return fmt.Sprint(<-c)`, "6", map[string]string{
		"drop c <- 5": "-", "drop c <- 6": "-", "drop <-c": "5"}},
	{"select_", `c := make(chan int, 2); select { case c <- 5: default: }; return fmt.Sprint(len(c))`, "1", map[string]string{}},
	{"panics", `defer func() { recover() }(); panic("x")`, "", map[string]string{
		`drop defer func() { recover() }()`: "-", "drop recover()": "-"}},
	{"fields", `b := box{n: 5}; b.n, b.p = 6, 7; return fmt.Sprint(b.n, b.p)`, "6 7", map[string]string{
		"drop b.n, b.p = 6, 7": "5 0", "keep b.n in b.n, b.p = 6, 7": "5 7", "keep b.p in b.n, b.p = 6, 7": "6 0"}},
	{"twice", `b := box{n: 5}; note(""); note(""); b.n = 6; return fmt.Sprint(b.n)`, "6", map[string]string{
		`drop note("")`: "6", `drop note("") #2`: "6", "drop b.n = 6": "5"}},
	{"once", `n := 0; f := func() int { n++; return n }; x := []int{5, 5, 5}; x[f()] += 2; return fmt.Sprint(n, x)`, "1 [5 7 5]", map[string]string{
		"0 → 1": "2 [5 5 7]", "n++ → n--": "-", "drop n++": "0 [7 5 5]",
		"x[f()] += 2 → x[f()] -= 2": "1 [5 3 5]", "drop x[f()] += 2": "1 [5 5 5]"}},
	{"nested", `a, b := 5, 3; if !(a-b > 2 || a == b) { return "a" }; return "b"`, "a", map[string]string{
		"!(a-b > 2 || a == b) → true": "a", "!(a-b > 2 || a == b) → false": "b", "!(a-b > 2 || a == b) → (a-b > 2 || a == b)": "b",
		"a-b > 2 || a == b → a-b > 2 && a == b": "a", "a-b > 2 || a == b → a == b": "a", "a-b > 2 || a == b → a-b > 2": "a",
		"a-b > 2 → a-b >= 2": "b", "a-b > 2 → a-b <= 2": "b", "a-b → a + b": "b",
		"a == b → a <= b": "a", "a == b → a >= b": "b", "a == b → a != b": "b"}},
}

// Each change is made, and nothing else changes: all samples are in one binary.
func TestEachMutantDoesWhatItSays(t *testing.T) {
	var src, test strings.Builder
	src.WriteString("package fixture\n\nimport \"fmt\"\n\nvar _ = fmt.Sprint\n\n")
	test.WriteString("package fixture\n\nimport (\n\"fmt\"\n\"testing\"\n)\n\nfunc Test(t *testing.T) {\n")
	for _, s := range samples {
		body := strings.ReplaceAll(strings.ReplaceAll(s.body, "{ ", "{\n"), "; }", "\n}")
		fmt.Fprintf(&src, "func %s() string {\n%s\n}\n\n", s.name, body)
		fmt.Fprintf(&test, "\tfmt.Printf(\"%%s=%%s\\n\", %q, %s())\n", s.name, s.name)
	}
	test.WriteString("}\n")
	dir := module(t, map[string]string{"a.go": src.String(), "b.go": "package fixture\n" + decls, "a_test.go": test.String()})

	pkg, err := load(t.Context(), dir)
	require.NoError(t, err)
	broken, err := pkg.dropBroken([]string{"a.go"})
	require.NoError(t, err)
	require.Empty(t, broken)
	b := &binary{dir: dir, temp: t.TempDir()}
	require.NoError(t, b.build(t.Context(), pkg.schemata([]string{"a.go"}, nil)))
	outputs := func(id int) map[string]string {
		var out bytes.Buffer
		b.runStage(t.Context(), stage{limit: 20 * time.Second}, id, &out)
		got := make(map[string]string)
		for line := range strings.Lines(out.String()) {
			if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
				got[name] = value
			}
		}
		return got
	}

	original := outputs(0)
	changes := make(map[string][]string)
	tried := 0
	for _, m := range pkg.mutants([]string{"a.go"}) {
		changes[m.function] = append(changes[m.function], m.change)
		for _, s := range samples {
			want, ok := s.mutants[m.change]
			if s.name != m.function || !ok || want == "-" { // it does not end, or might return anything
				continue
			}
			tried++
			got := outputs(m.id)
			require.Equal(t, want, got[s.name], "%s: %s", s.name, m.change)
			for _, other := range samples {
				if other.name != s.name {
					require.Equal(t, other.want, got[other.name], "%s, with %s in %s", other.name, m.change, s.name)
				}
			}
		}
	}
	for _, s := range samples {
		require.Equal(t, s.want, original[s.name], s.name)
		var want []string
		for c := range s.mutants {
			want = append(want, c)
		}
		require.ElementsMatch(t, want, changes[s.name], s.name)
	}
	require.Equal(t, 89, tried)
}

const guarded = `package fixture

import "sync"

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) add() {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
}

func sign(n int) int {
	if n >= 0 {
		return 1
	}
	return -1
}

func spin(n int) {
	for i := 0; i != n; i++ {
	}
}

func hidden() {
	mutant := "shadows the helper"
	if mutant == "" {
		panic(mutant)
	}
}
`

const guardedTest = `package fixture

import "testing"

func TestAdd(t *testing.T) {
	var c counter
	c.add()
	c.add()
	if c.n != 2 {
		t.Fail()
	}
}

func TestSpin(t *testing.T) { spin(2); spin(0) }

func TestSlowSign(t *testing.T) {
	if sign(5) != 1 || sign(-5) != -1 {
		t.Fatal("TestSlowSign sees the sign")
	}
}

func TestHidden(t *testing.T) { hidden() }
`

// mutateModule runs the command in dir and returns its status and its output.
func mutateModule(t *testing.T, dir string, args ...string) (int, string) {
	var stdout, stderr bytes.Buffer
	status, err := run(t.Context(), append([]string{"-dir", dir, "-fast", "^TestAdd$", "-slow", "^TestSlow", "-least", "2s", "-j", "2"}, args...), &stdout, &stderr)
	require.NoError(t, err, &stderr)
	return status, stdout.String()
}

const survivorsOfGuarded = `survived:	7	a.go:17	sign	if n >= 0 {	n >= 0 → n > 0
`

func TestSurvivorsAreReportedUntilExplained(t *testing.T) {
	dir := module(t, map[string]string{"a.go": guarded, "a_test.go": guardedTest})
	status, out := mutateModule(t, dir)
	require.Equal(t, 1, status)
	require.Contains(t, out, survivorsOfGuarded)
	require.Contains(t, out, "3 more do not compile")
	require.Contains(t, out, "15 mutants: 8 killed by a failure, 2 by the time limit, 5 survived, 0 of these explained; score 66.7 %")
	_, again := mutateModule(t, dir)
	require.Equal(t, out, again, "the output is the same each time")

	// Explained, they stay so when lines are put before them. What is
	// explained and dies all the same is told.
	var list strings.Builder
	list.WriteString("# reasons\n\n")
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "survived:\t"); ok {
			_, rest, _ = strings.Cut(strings.TrimSuffix(rest, "\n"), "\t")
			fmt.Fprintf(&list, "%s\tof no account\n", rest)
		}
	}
	list.WriteString("a.go\t(*counter).add\tc.n++\tdrop c.n++\tno reason\n")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "docs"), 0o777))
	explained := filepath.Join(dir, "docs", "mutants.txt")
	require.NoError(t, os.WriteFile(explained, []byte(list.String()), 0o666))
	moved := strings.Replace(guarded, "package fixture\n", "package fixture\n\n// A line more.\n", 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.go"), []byte(moved), 0o666))
	status, out = mutateModule(t, dir, "-only", "a.go")
	require.Equal(t, 0, status, out)
	require.NotContains(t, out, "survived:")
	require.Contains(t, out, "5 survived, 5 of these explained")
	require.Contains(t, out, "explained, but killed:\ta.go:14\t(*counter).add\tc.n++\tdrop c.n++\n")

	// Explanations of lines that have changed since, or of a file that is gone, are told.
	check := func(args ...string) (int, string) { return mutateModule(t, dir, append(args, "-check")...) }
	status, out = check()
	require.Equal(t, 0, status, out)
	require.Empty(t, out)
	list.WriteString("a.go\t(*counter).add\tc.n += 2\tdrop c.n += 2\tno reason\nb.go\tf\tg()\tdrop g()\tno reason\n")
	require.NoError(t, os.WriteFile(explained, []byte(list.String()), 0o666))
	const changed, gone = "explained, but there is no such change:\ta.go\t(*counter).add\tc.n += 2\tdrop c.n += 2\n", "explained, but there is no such change:\tb.go\tf\tg()\tdrop g()\n"
	status, out = check()
	require.Equal(t, 1, status)
	require.Equal(t, changed+gone, out)
	status, out = check("-only", "a.go")
	require.Equal(t, 1, status)
	require.Equal(t, changed, out)
}

// Files of one kind of build are not changed unless they are asked for.
func TestFilesWithABuildConstraintAreLeftAlone(t *testing.T) {
	const sign = "package fixture\n\nfunc sign(n int) bool { return n > 0 }\n"
	dir := module(t, map[string]string{"a.go": sign, "b.go": "//go:build !never\n\n" + strings.Replace(sign, "sign", "other", 1), "a_test.go": "package fixture\n"})
	_, out := mutateModule(t, dir, "-list")
	require.Contains(t, out, "a.go:3")
	require.NotContains(t, out, "b.go")
	_, out = mutateModule(t, dir, "-list", "-only", "b.go")
	require.Contains(t, out, "b.go:5")
}

func TestLaterStagesKillWhatEarlierOnesLeave(t *testing.T) {
	dir := module(t, map[string]string{"a.go": guarded, "a_test.go": guardedTest})
	id := func(change string) string {
		_, list := mutateModule(t, dir, "-list")
		for line := range strings.Lines(list) {
			if strings.HasSuffix(line, "\t"+change+"\n") {
				id, _, _ := strings.Cut(line, "\t")
				return id
			}
		}
		require.Fail(t, "no such mutant: "+change)
		return ""
	}
	status, out := mutateModule(t, dir, "-id", id("n >= 0 → n < 0"), "-stages", "2")
	require.Equal(t, 1, status, out)
	status, out = mutateModule(t, dir, "-id", id("n >= 0 → n < 0"))
	require.Equal(t, 0, status, out)
	require.Contains(t, out, "TestSlowSign sees the sign")

	for change, want := range map[string]string{
		"drop c.mu.Unlock()": "killed by a failure", // the runtime sees the deadlock
		"drop c.mu.Lock()":   "killed by a failure",
		"i++ → i--":          "killed by the time limit",
	} {
		_, out := mutateModule(t, dir, "-id", id(change))
		require.True(t, strings.HasSuffix(out, want+"\n"), "%s: %s", change, out)
	}
}

func TestTestsThatFailWithoutAMutantAreAnError(t *testing.T) {
	dir := module(t, map[string]string{"a.go": "package fixture\n\nfunc f() int { return 1 }\n",
		"a_test.go": "package fixture\n\nimport \"testing\"\n\nfunc Test(t *testing.T) { if f() == 1 { t.Fatal(\"one\") } }\n"})
	var out bytes.Buffer
	status, err := run(t.Context(), []string{"-dir", dir}, &out, &out)
	require.ErrorContains(t, err, "the tests fail without a mutant")
	require.Equal(t, 2, status)
}

func TestBadArgumentsAreRefused(t *testing.T) {
	dir := module(t, map[string]string{"a.go": "package fixture\n\nfunc f() int { return 1 }\n"})
	for _, args := range [][]string{{"-only", "b.go"}, {"-id", "0"}, {"-id", "3-2"}, {"-id", "x"}, {"-j", "0"}, {"-stages", "4"}, {"more"}, {"-nonesuch"}} {
		var out bytes.Buffer
		status, err := run(t.Context(), append([]string{"-dir", dir}, args...), &out, &out)
		require.Equal(t, 2, status, "%q", args)
		require.True(t, err != nil || out.Len() > 0, "%q", args)
	}
	for _, line := range []string{"a.go\tf\tline\tchange\n", "a.go\tf\tline\tchange\tr\na.go:7\tf\tline\tchange\tr\n"} {
		name := filepath.Join(t.TempDir(), "mutants.txt")
		require.NoError(t, os.WriteFile(name, []byte(line), 0o666))
		_, err := readExplained(name)
		require.Error(t, err, "%q", line)
	}
}

func TestTestsOfOtherDirectoriesKillToo(t *testing.T) {
	dir := module(t, map[string]string{"a.go": "package fixture\n\nfunc Positive(n int) bool { return n > 0 }\n", "a_test.go": "package fixture\n",
		"more/suite/a_test.go": "package more\n\nimport (\n\t\"testing\"\n\n\t\"fixture\"\n)\n\nfunc Test(t *testing.T) { if fixture.Positive(0) || !fixture.Positive(1) { t.Fatal() } }\n"})
	status, out := mutateModule(t, dir, "-only", "a.go")
	require.Equal(t, 1, status, out)
	for _, also := range []string{"more/suite", "more/...", "none/...,more/...,more/suite"} {
		status, out = mutateModule(t, dir, "-only", "a.go", "-also", also)
		require.Equal(t, 0, status, out)
	}
}
