package docs_test

import (
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestGoCodeInDocumentsIsAProgramOrFoundInTheRepository(t *testing.T) {
	sources := exampleSources(t)
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.language != "go" {
				continue
			}
			if why := codeProblem(b.text, sources); why != "" {
				t.Errorf("%s:%d: %s", d.name, b.line, why)
			}
		}
	}
}

// codeProblem says what is wrong with a block of Go code, or returns "". Whether a
// program builds and runs is another question.
func codeProblem(text string, sources map[string][]string) string {
	if kind, _, err := kindOf(text); err != nil {
		return err.Error()
	} else if kind == fragment {
		return notFound(text, sources)
	}
	formatted, err := format.Source([]byte(text))
	switch {
	case err != nil:
		return err.Error()
	case string(formatted) != text:
		return "the program is not formatted as gofmt would"
	}
	return ""
}

// A kind is what a block of Go code is.
type kind int

const (
	fragment kind = iota // part of a file
	program              // a main package in one file
	testFile             // a file of tests that needs no other
)

// kindOf returns what a block of Go code is and, if it is whole, what it imports.
func kindOf(text string) (k kind, imports []string, err error) {
	if !strings.HasPrefix(withoutComments(text), "package ") {
		return fragment, nil, nil
	}
	f, err := parser.ParseFile(token.NewFileSet(), "block", text, parser.SkipObjectResolution)
	if err != nil {
		return fragment, nil, err
	}
	for _, i := range f.Imports {
		name, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return fragment, nil, err
		}
		imports = append(imports, name)
	}
	switch {
	case slices.Contains(imports, "testing"):
		return testFile, imports, nil
	case f.Name.Name == "main":
		return program, imports, nil
	}
	return fragment, nil, nil
}

// withoutComments returns text without the comments and empty lines that it begins with.
func withoutComments(text string) string {
	for line := range strings.Lines(text) {
		if trimmed := strings.TrimSpace(line); trimmed != "" && !strings.HasPrefix(trimmed, "//") {
			return text
		}
		text = text[len(line):]
	}
	return text
}

// exampleSources returns the lines of the files that documents may show parts of: they
// are compiled with each test run.
func exampleSources(t *testing.T) map[string][]string {
	t.Helper()
	sources := make(map[string][]string)
	files(t, func(name string) {
		if strings.HasSuffix(name, "_test.go") || path.Base(name) == "main.go" {
			sources[name] = strings.Split(read(t, name), "\n")
		}
	})
	return sources
}

// notFound returns "" if text is, at whatever depth, part of one of the sources.
// Otherwise it says so, and where the likest part of one begins to differ.
func notFound(text string, sources map[string][]string) string {
	want := dedent(strings.Split(strings.Trim(text, "\n"), "\n"))
	most, differs := 0, ""
	for name, lines := range sources {
		for start := range lines {
			n := agree(want, lines[start:])
			if n == len(want) {
				return ""
			}
			if n > most && start+n < len(lines) {
				most, differs = n, fmt.Sprintf("; it differs from %s:%d in its line %d, %q",
					name, start+n+1, n+1, want[n])
			}
		}
	}
	return "is neither a program nor part of an Example or of a main.go" + differs
}

// agree returns with how many lines of have the lines of want, each with the same
// indentation before it, agree.
func agree(want, have []string) int {
	indent := have[0][:len(have[0])-len(strings.TrimLeft(have[0], "\t"))]
	for n, line := range want {
		if line != "" {
			line = indent + line
		}
		if n == len(have) || have[n] != line {
			return n
		}
	}
	return len(want)
}

// dedent removes the tabs that all lines begin with.
func dedent(lines []string) []string {
	least := -1
	for _, line := range lines {
		if tabs := len(line) - len(strings.TrimLeft(line, "\t")); line != "" && (least < 0 || tabs < least) {
			least = tabs
		}
	}
	dedented := slices.Clone(lines)
	for i, line := range dedented {
		if line != "" {
			dedented[i] = line[least:]
		}
	}
	return dedented
}

func TestCodeThatIsNowhereInTheRepositoryIsFound(t *testing.T) {
	sources := map[string][]string{"a_test.go": strings.Split("func ExampleX() {\n\tif a {\n\t\tb()\n\n\t\tc()\n\t}\n}\n", "\n")}
	for text, want := range map[string]string{
		"func ExampleX() {\n\tif a {\n":                     "",
		"if a {\n\tb()\n\n\tc()\n}\n":                       "",
		"\tb()\n\n\tc()\n":                                  "",
		"if a {\n\tb()\n\tc()\n}\n":                         `is neither a program nor part of an Example or of a main.go; it differs from a_test.go:4 in its line 3, "\tc()"`,
		"if a {\n...\n}\n":                                  `is neither a program nor part of an Example or of a main.go; it differs from a_test.go:3 in its line 2, "..."`,
		"nothing()\n":                                       "is neither a program nor part of an Example or of a main.go",
		"package other\n":                                   "is neither a program nor part of an Example or of a main.go",
		"package main\n\nfunc main() {\n\tprintln( 1)\n}\n": "the program is not formatted as gofmt would",
		"// Main says 1.\npackage main\n\nfunc main() {\n\tprintln(1)\n}\n":     "",
		"package a_test\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {}\n": "",
	} {
		if got := codeProblem(text, sources); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := codeProblem("package main\n\nfunc main() {\n", sources); !strings.Contains(got, "expected '}'") {
		t.Errorf("a program with a syntax error: got %q", got)
	}
}
