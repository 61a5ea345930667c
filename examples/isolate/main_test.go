package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool/process"
)

func TestMain(m *testing.M) {
	process.Main()
	// The program drops what its children write to standard error. With -race, what
	// the race detector finds in them goes here, and fails the tests.
	dir, err := os.MkdirTemp("", "isolate")
	if err != nil {
		panic(err)
	}
	reports := filepath.Join(dir, "race")
	os.Setenv("GORACE", os.Getenv("GORACE")+" log_path="+reports)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		found, _ := filepath.Glob(reports + "*")
		for _, path := range found {
			report, _ := os.ReadFile(path)
			fmt.Fprintf(os.Stderr, "FAIL: in a child:\n%s", report)
			code = max(code, 1)
		}
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

const goodFiles = 50

// tree makes a directory of good files with three declarations each, a file with a
// syntax error after one, and one that is no Go.
func tree(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	for i := range goodFiles {
		write(fmt.Sprintf("d%d/%d.go", i%3, i), "package p\n\nvar a int\n\nfunc f() {}\n\ntype t struct{}\n")
	}
	write("malformed.go", "package p\n\nvar a int\n\nfunc ) {}\n")
	write("README", "no Go")
	return dir
}

// isolate runs the program.
func isolate(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	var out, errs strings.Builder
	status = run(ctx, args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestABadFileCostsOneChildAndOneLine(t *testing.T) {
	for _, workers := range []string{"1", "3"} {
		status, stdout, stderr := isolate(t.Context(), "-workers", workers, tree(t))
		require.Equal(t, statusOK, status)
		require.Empty(t, stderr)
		require.Regexp(t, regexp.MustCompile(`^bad file ".*planted\.go": process: parse: child \d+ exited with code 2: fatal error: stack overflow\n`+
			`51 files parsed, 1 of them with syntax errors; \d+ declarations, 0\.0 MB in \S+ s; bad files: 1, children died: 1\n$`), stdout)
	}
}

func TestWithoutABadFileNoChildDies(t *testing.T) {
	dir := tree(t)
	require.NoError(t, os.Remove(filepath.Join(dir, "malformed.go")))
	status, stdout, stderr := isolate(t.Context(), "-plant=false", dir)
	require.Equal(t, statusOK, status)
	require.Empty(t, stderr)
	require.Regexp(t, `^50 files parsed, 0 of them with syntax errors; 150 declarations, 0\.0 MB in \S+ s; bad files: 0, children died: 0\n$`, stdout)
}

func TestABadFileThatWasNotPlantedIsAnError(t *testing.T) {
	dir := tree(t)
	planted, err := plantFile()
	require.NoError(t, err)
	require.NoError(t, os.Rename(filepath.Dir(planted), filepath.Join(dir, "bad")))
	status, stdout, _ := isolate(t.Context(), dir)
	require.Equal(t, statusError, status)
	require.Contains(t, stdout, fmt.Sprintf("bad file %q: process: parse: child", filepath.Join(dir, "bad", "planted.go")))
	require.Contains(t, stdout, "51 files parsed, ")
	require.Contains(t, stdout, "bad files: 2, children died: 2\n")
}

func TestAFileThatCannotBeReadIsBadButKillsNobody(t *testing.T) {
	dir := tree(t)
	missing := filepath.Join(dir, "missing.go")
	var progress []int
	r, err := parseAll(t.Context(), []string{missing, filepath.Join(dir, "d0", "0.go")}, 1, func(done int) { progress = append(progress, done) })
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, progress)
	require.Len(t, r.bad, 1)
	require.Equal(t, missing, r.bad[0].path)
	require.ErrorIs(t, r.bad[0].err, os.ErrNotExist)
	require.Equal(t, 1, r.parsed)
	require.Zero(t, r.died)
}

func TestInterruptLeavesOutWhatIsNotBegun(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	n := 0
	for range until(ctx, make([]string, 10)) {
		if n++; n == 3 {
			interrupt()
		}
	}
	require.Equal(t, 3, n)

	status, stdout, stderr := isolate(ctx, tree(t))
	require.Equal(t, statusError, status)
	require.Contains(t, stdout, "0 files parsed, ")
	require.Equal(t, "isolate: 52 files left out: context canceled\n", stderr)
}

func TestExitStatusTellsThatNothingWasBegun(t *testing.T) {
	dir := tree(t)
	for _, test := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"-h"}, statusOK, "usage: isolate"},
		{[]string{"-x", dir}, statusUsage, "usage: isolate"},
		{[]string{dir, dir}, statusUsage, "usage: isolate"},
		{[]string{"-workers", "0", dir}, statusUsage, "WithWorkers: n must be at least 1, got 0"},
		{[]string{filepath.Join(dir, "missing")}, statusUsage, "missing"},
	} {
		status, stdout, stderr := isolate(t.Context(), test.args...)
		require.Equal(t, test.status, status, "%q", test.args)
		require.Contains(t, stderr, test.stderr, "%q", test.args)
		require.Empty(t, stdout, "%q", test.args)
	}
}
