package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// The test binary is the program, too, for tests that need it in processes of its own.
const asProgram = "TASKPOOL_JOBS_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	_ = flag.Set("test.parallel", "6") // most tests wait for disks, processes and time to pass
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := server.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "PostgreSQL:", err)
			code = 1
		}
		os.Exit(code)
	}))
}

// server is the PostgreSQL that the tests use: the one that TASKPOOL_POSTGRES_URL names
// or, where PostgreSQL is installed, that of a postgres.sh which ends with its input, so
// also if this process is killed.
var server postgres

type postgres struct {
	once sync.Once
	url  string
	skip string       // why there is none
	end  func() error // nil if the server is not ours
}

const script = "../../jobs/riverjobs/postgres.sh"

func (p *postgres) start() {
	if p.url = os.Getenv("TASKPOOL_POSTGRES_URL"); p.url != "" {
		return
	}
	if out, err := exec.Command(script, "installed").CombinedOutput(); err != nil {
		p.skip = strings.TrimSpace(string(out))
		return
	}
	cmd := exec.Command(script, "sh", "-c", `echo "$TASKPOOL_POSTGRES_URL"; exec cat >/dev/null`)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		panic(err)
	}
	p.end = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		panic(fmt.Sprintf("postgres.sh: %v, %v", err, p.end()))
	}
	p.url = strings.TrimSpace(line)
}

func (p *postgres) stop() error {
	if p.end == nil {
		return nil
	}
	return p.end()
}

var databases atomic.Int64

// newPostgres returns the URL of a new database. Without a server the test is skipped,
// or has failed if CI_REQUIRE_POSTGRES is 1.
func newPostgres(t *testing.T) string {
	t.Helper()
	server.once.Do(server.start)
	if server.skip != "" {
		if os.Getenv("CI_REQUIRE_POSTGRES") == "1" {
			t.Fatalf("CI_REQUIRE_POSTGRES=1, but %s", server.skip)
		}
		t.Skipf("no PostgreSQL: %s", server.skip)
	}
	name := fmt.Sprintf("jobs_%d_%d", os.Getpid(), databases.Add(1))
	do := func(statement string) {
		admin, err := pgx.Connect(context.Background(), server.url)
		require.NoError(t, err)
		defer admin.Close(context.Background())
		_, err = admin.Exec(context.Background(), statement)
		require.NoError(t, err)
	}
	do("CREATE DATABASE " + name)
	t.Cleanup(func() { do("DROP DATABASE " + name + " WITH (FORCE)") })
	u, err := url.Parse(server.url)
	require.NoError(t, err)
	u.Path = "/" + name
	return u.String()
}

// engines are the flags that name an engine, with a database of its own.
var engines = map[string]func(*testing.T) []string{
	"local": func(*testing.T) []string { return []string{"-engine", "local"} },
	"sqlite": func(t *testing.T) []string {
		return []string{"-engine", "sqlite", "-db", filepath.Join(t.TempDir(), "100% jobs?.sqlite")}
	},
	"postgres": func(t *testing.T) []string { return []string{"-engine", "postgres", "-db", newPostgres(t)} },
}

// onEach runs a test on engines, beside each other and beside other tests.
func onEach(t *testing.T, test func(t *testing.T, on []string), names ...string) {
	t.Parallel()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, engines[name](t))
		})
	}
}

const smallFiles = 25

// newTree makes a directory of small files and a large one, and returns how many files
// there are to compress.
func newTree(t *testing.T) (dir string, n int) {
	t.Helper()
	dir = t.TempDir()
	for i := range smallFiles {
		write(t, filepath.Join(dir, fmt.Sprintf("d%d/%02d", i%5, i)), strings.Repeat(fmt.Sprint(i), 10*i))
	}
	odd := []string{".hidden", "a b", "c.gz", "d.gz.gz", "100%?#&'\"", "line\nbreak", "ünï/cödé", "empty", strings.Repeat("n", 250)}
	for _, name := range odd {
		write(t, filepath.Join(dir, name), name)
	}
	write(t, filepath.Join(dir, "empty"), "")
	write(t, filepath.Join(dir, "a large one"), noise(small+1))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "no files"), 0o755))
	require.NoError(t, os.Symlink("a b", filepath.Join(dir, "link")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "a b"), 0o640))
	return dir, smallFiles + len(odd) + 1
}

// noise returns n bytes that do not get smaller.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return string(b)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

// requireComplete checks that out has every file of the tree, compressed, and nothing
// else but, where processes were killed, what these have left behind.
func requireComplete(t *testing.T, tree, out string, killed bool) {
	t.Helper()
	outputs := make(map[string]bool)
	require.NoError(t, filepath.WalkDir(out, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !(killed && strings.HasPrefix(entry.Name(), ".jobs-")) {
			outputs[path] = true
		}
		return err
	}))
	require.NoError(t, filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		output := filepath.Join(out, path[len(tree):]) + ".gz"
		require.True(t, outputs[output], "missing: %q", output)
		delete(outputs, output)
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, unzip(t, output)), "wrong: %q", output)
		source, err := os.Stat(path)
		require.NoError(t, err)
		info, err := os.Stat(output)
		require.NoError(t, err)
		require.Equal(t, source.Mode(), info.Mode(), path)
		require.True(t, source.ModTime().Equal(info.ModTime()), path)
		return nil
	}))
	require.Empty(t, outputs)
}

func unzip(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	zip, err := gzip.NewReader(f)
	require.NoError(t, err)
	content, err := io.ReadAll(zip)
	require.NoError(t, err)
	return content
}

// runHere runs the program in this process.
func runHere(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(context.Background(), args, &out, &errs)
	return status, out.String(), errs.String()
}

// flags returns the arguments that are these flags and that one.
func flags(on []string, more ...string) []string { return append(on[:len(on):len(on)], more...) }

func TestAllEnginesGiveTheSameOutput(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree, n := newTree(t)
		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(tree, link))
		out := filepath.Join(tree, "out") // is not compressed itself
		program := func(enqueued, upToDate int) {
			t.Helper()
			status, stdout, stderr := runHere(flags(on, "-out", filepath.Join(link, "out"), link)...)
			require.Equal(t, statusOK, status, stderr)
			require.Empty(t, stderr)
			require.Regexp(t, fmt.Sprintf(`^enqueued %d files; %d up to date, 0 waiting already\ncompressed %[1]d files(;| in .*;) 0 failed\n$`,
				enqueued, upToDate), stdout)
		}
		program(n, 0)
		moved := filepath.Join(t.TempDir(), "out") // for comparing
		require.NoError(t, os.Rename(out, moved))
		requireComplete(t, tree, moved, false)
		require.NoError(t, os.Rename(moved, out))

		// The second time there is nothing to do, but where a file has changed.
		program(0, n)
		path := filepath.Join(tree, "a b")
		require.NoError(t, os.WriteFile(path, []byte("changed"), 0))
		require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(1e9, 1)))
		program(1, n-1)
		require.Equal(t, "changed", string(unzip(t, filepath.Join(out, "a b.gz"))))
	}, "local", "sqlite", "postgres")
}

func TestLargeFilesGoLast(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree, n := newTree(t)
		on = flags(on, "-out", t.TempDir())
		status, stdout, stderr := runHere(flags(on, "-workers", "0", tree)...)
		require.Equal(t, statusOK, status, stderr)
		require.Equal(t, fmt.Sprintf("enqueued %d files; 0 up to date, 0 waiting already\ncompressed 0 files; 0 failed\n", n), stdout)
		status, _, stderr = runHere(flags(on, "-workers", "1", "-v")...)
		require.Equal(t, statusOK, status, stderr)
		var begun []string
		for line := range strings.Lines(stderr) {
			if strings.Contains(line, "msg=compressing") {
				begun = append(begun, line)
			}
		}
		require.Len(t, begun, n)
		require.Contains(t, begun[n-1], "a large one")
	}, "sqlite", "postgres")
}

func TestAFileThatCannotBeCompressedIsReportedAndTheOthersAre(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree, n := newTree(t)
		out := t.TempDir()
		write(t, filepath.Join(out, "d3"), "in the way of a directory")
		status, stdout, stderr := runHere(flags(on, "-out", out, tree)...)
		require.Equal(t, statusError, status)
		require.Contains(t, stdout, fmt.Sprintf("compressed %d files", n-smallFiles/5))
		require.Contains(t, stdout, fmt.Sprintf("%d failed\n", smallFiles/5))
		require.Equal(t, smallFiles/5, strings.Count(stderr, "level=ERROR msg=failed"), stderr)
		require.Contains(t, stderr, filepath.Join(out, "d3", "03.gz"))

		require.NoError(t, os.Remove(filepath.Join(out, "d3")))
		status, _, stderr = runHere(flags(on, "-out", out, tree)...)
		require.Equal(t, statusOK, status, stderr)
		requireComplete(t, tree, out, false)
	}, "local", "sqlite", "postgres")
}

func TestAFileThatHasGoneIsNotTriedAgain(t *testing.T) {
	onEach(t, func(t *testing.T, on []string) {
		tree := t.TempDir()
		write(t, filepath.Join(tree, "file"), "")
		on = flags(on, "-out", t.TempDir())
		status, _, stderr := runHere(flags(on, "-workers", "0", tree)...)
		require.Equal(t, statusOK, status, stderr)
		require.NoError(t, os.Remove(filepath.Join(tree, "file")))
		status, stdout, stderr := runHere(flags(on, "-v")...)
		require.Equal(t, statusError, status)
		require.Equal(t, "compressed 0 files; 1 failed\n", stdout)
		require.Equal(t, 1, strings.Count(stderr, "msg=compressing"), stderr)
	}, "sqlite", "postgres")
}

func TestExitStatusTellsThatTheCommandLineIsWrong(t *testing.T) {
	t.Setenv("TASKPOOL_POSTGRES_URL", "")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	for _, test := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"-h"}, statusOK, "usage: jobs"},
		{[]string{"-x"}, statusUsage, "usage: jobs"},
		{[]string{dir, dir}, statusUsage, "one TREE at most"},
		{[]string{filepath.Join(dir, "missing")}, statusUsage, "missing"},
		{[]string{filepath.Join(dir, "file")}, statusUsage, "is not a directory"},
		{[]string{"-engine", "mysql", dir}, statusUsage, `-engine must be local, sqlite or postgres, got "mysql"`},
		{[]string{"-engine", "postgres", dir}, statusUsage, "-engine postgres needs -db or TASKPOOL_POSTGRES_URL"},
		{[]string{"-workers", "-1", dir}, statusUsage, "-workers must not be negative, got -1"},
		{[]string{"-workers", "0", dir}, statusUsage, "-engine local needs a TREE and workers"},
		{[]string{}, statusUsage, "-engine local needs a TREE and workers"},
		{[]string{"-engine", "sqlite", "-workers", "0"}, statusUsage, "nothing to do"},
		{[]string{"-timeout", "0s", dir}, statusUsage, "-timeout must be positive, got 0s"},
		{[]string{"-grace", "-1s", dir}, statusUsage, "-grace must not be negative, got -1s"},
		{[]string{"-engine", "postgres", "-db", "postgres://127.0.0.1:1/x?connect_timeout=5", dir}, statusError, "msg=stopped"},
		{[]string{"-engine", "sqlite", "-db", dir, dir}, statusError, "msg=stopped"},
	} {
		status, _, stderr := runHere(test.args...)
		require.Equal(t, test.status, status, "%q", test.args)
		require.Contains(t, stderr, test.stderr, "%q", test.args)
	}
}
