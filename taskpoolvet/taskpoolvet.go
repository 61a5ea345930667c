package taskpoolvet

import (
	_ "embed"
	"go/ast"
	"go/token"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis"
)

// Analyzers are all analyzers of this package.
var Analyzers = []*analysis.Analyzer{HeldLock, LostChild, TaskContext, DroppedError, CopyPool, NoShutdown}

//go:embed doc.go
var docFile string

// document fills in what the package documentation says about a, under a heading with its name.
func document(a *analysis.Analyzer) *analysis.Analyzer {
	_, text, found := strings.Cut(docFile, "// # Analyzer "+a.Name+"\n//\n// "+a.Name+": ")
	if !found {
		panic("taskpoolvet: doc.go does not describe " + a.Name)
	}
	for _, end := range []string{"// # ", "package "} {
		text, _, _ = strings.Cut(text, end)
	}
	var doc strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(line, "//")
		doc.WriteString(strings.TrimPrefix(line, " "))
	}
	a.Doc = strings.TrimSpace(doc.String())
	a.URL = "https://pkg.go.dev/github.com/taskpool-go/taskpool/taskpoolvet#hdr-Analyzer_" + a.Name
	return a
}

// report reports d unless the line it is about has a comment that says not to.
func report(pass *analysis.Pass, d analysis.Diagnostic) {
	if !silenced(pass, d.Pos) {
		pass.Report(d)
	}
}

// silenced reports whether the line of pos ends in a comment //nolint:taskpoolvet, in
// golangci-lint's form, so that one comment is understood by it and by go vet.
func silenced(pass *analysis.Pass, pos token.Pos) bool {
	i := slices.IndexFunc(pass.Files, func(f *ast.File) bool { return f.FileStart <= pos && pos <= f.FileEnd })
	if i < 0 {
		return false
	}
	line := pass.Fset.Position(pos).Line
	for _, group := range pass.Files[i].Comments {
		for _, c := range group.List {
			if pass.Fset.Position(c.Pos()).Line != line {
				continue
			}
			text, ok := strings.CutPrefix(c.Text, "//nolint:")
			if !ok {
				continue
			}
			linters, _, _ := strings.Cut(text, " ")
			if slices.Contains(strings.Split(linters, ","), "taskpoolvet") {
				return true
			}
		}
	}
	return false
}
