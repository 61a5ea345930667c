package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// write makes a file of the given size, with its directory.
func write(t *testing.T, path string, size int) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	content := bytes.Repeat([]byte(filepath.Base(path)), size/len(filepath.Base(path))+1)
	require.NoError(t, os.WriteFile(path, content[:size], 0o644))
}

// tree makes a directory with files of all sizes that matter, some with names
// that break lines.
func tree(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	sizes := []int{0, 1, chunk - 1, chunk, chunk + 1, largeFile - 1, largeFile, 3 * largeFile}
	for i, size := range sizes {
		write(t, fmt.Sprintf("%s/d%d/size", dir, i%3), size)
		write(t, fmt.Sprintf("%s/d%d.x/%d", dir, i%3, size), size)
	}
	write(t, dir+"/ two  spaces ", 10)
	write(t, dir+"/-", 10)
	if runtime.GOOS != "windows" {
		write(t, dir+"/new\nline", 10)
		write(t, dir+"/return\r", 10)
		write(t, dir+`/back\slash`, 10)
		write(t, dir+`/n\n`, 10)
		require.NoError(t, os.Symlink(dir+"/-", dir+"/link"))
		require.NoError(t, os.Symlink(dir+"/d1", dir+"/linked"))
		require.NoError(t, os.Symlink("nowhere", dir+"/dangling"))
	}
	return dir
}

// naive is the plain way to do it: one file after the other, in memory.
func naive(t *testing.T, dir string) (lines []string) {
	t.Helper()
	var paths []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	}))
	slices.Sort(paths)
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		lines = append(lines, sumLine(path, sum(content)))
	}
	return lines
}

func sum(content []byte) []byte {
	s := sha256.Sum256(content)
	return s[:]
}

// outcome is what a run came to.
type outcome struct {
	status int
	stdout string
	stderr string
}

// lines returns what was printed on standard output.
func (o outcome) lines() []string { return slices.Collect(nonEmptyLines(o.stdout)) }

// leftOut returns the base names of the files listed as left out, and how many are only
// counted.
func (o outcome) leftOut() (names []string, more int) {
	for line := range nonEmptyLines(o.stderr) {
		rest, ok := strings.CutPrefix(line, "digest: left out: ")
		if _, err := fmt.Sscanf(rest, "%d more", &more); ok && err != nil {
			names = append(names, filepath.Base(strings.Trim(rest, `"`)))
		}
	}
	return names, more
}

func nonEmptyLines(s string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.SplitSeq(s, "\n") {
			if line != "" && !yield(line) {
				return
			}
		}
	}
}

// digest runs the program without interrupts.
func digest(open opener, args ...string) outcome {
	return interrupted(context.Background(), context.Background(), open, args...)
}

func interrupted(soft, hard context.Context, open opener, args ...string) outcome {
	var stdout, stderr strings.Builder
	status := run(soft, hard, args, &stdout, &stderr, open)
	return outcome{status, stdout.String(), stderr.String()}
}

func TestSumsAreThoseOfPlainSHA256(t *testing.T) {
	dir := tree(t)
	want := naive(t, dir)
	for _, workers := range []string{"1", "4"} {
		o := digest(openFile, "-workers", workers, dir)
		require.Equal(t, want, o.lines(), "workers: %s", workers)
		require.Equal(t, statusOK, o.status)
		require.Contains(t, o.stderr, fmt.Sprintf("digest: %d files, ", len(want)))
		require.Regexp(t, `small \(high\): \d+ files, wait p50 \S+s, p99 \S+s`, o.stderr)
		require.Regexp(t, `large \(low\): \d+ files, wait p50 \S+s, p99 \S+s`, o.stderr)
		require.NotContains(t, o.stderr, "\x1b", "no progress where there is no terminal")
	}
}

func TestSha256sumAcceptsTheOutput(t *testing.T) {
	dir := tree(t)
	t.Chdir(dir)
	o := digest(openFile, ".")
	require.Equal(t, statusOK, o.status)
	require.Contains(t, o.stdout, "  ./-\n", "paths begin with the directory, as those of find")

	// By hand, on every system: the format says which name and which sum.
	for _, line := range o.lines() {
		line, escaped := strings.CutPrefix(line, `\`)
		hex, name, ok := strings.Cut(line, "  ")
		require.True(t, ok, line)
		if escaped {
			name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
		}
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%x", sum(content)), hex, name)
	}

	// By the program itself where there is the one whose format it is.
	version, err := exec.Command("sha256sum", "--version").Output()
	if err != nil || !bytes.Contains(version, []byte("GNU coreutils")) {
		return
	}
	check := exec.Command("sha256sum", "--check", "--strict")
	check.Stdin = strings.NewReader(o.stdout)
	said, err := check.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Equal(t, len(o.lines()), strings.Count(string(said), ": OK\n"), "%s", said)

	args := []string{"--"}
	for _, f := range must(find(t.Context(), ".")) {
		args = append(args, f.path)
	}
	sums, err := exec.Command("sha256sum", args...).Output()
	require.NoError(t, err)
	require.Equal(t, string(sums), o.stdout)
}

func must(files []*file, unreadable []error) []*file {
	if len(unreadable) > 0 {
		panic(errors.Join(unreadable...))
	}
	return files
}

func TestNamesAreEscapedAsSha256sumDoes(t *testing.T) {
	for path, want := range map[string]string{
		"plain":   `ab  plain`,
		" a  b ":  `ab   a  b `,
		"\xff\"'": "ab  \xff\"'",
		"a\nb":    `\ab  a\nb`,
		"a\rb":    `\ab  a\rb`,
		`a\b`:     `\ab  a\\b`,
		`a\n`:     `\ab  a\\n`,
	} {
		require.Equal(t, want, sumLine(path, []byte{0xab}))
	}
}

// failing is a file that cannot be read to its end.
type failing struct{}

func (failing) Read(p []byte) (int, error) {
	return copy(p, "some"), &fs.PathError{Op: "read", Path: "x", Err: errors.New("input/output error")}
}
func (failing) Close() error { return nil }

func TestUnreadableFilesAreReportedAndNotFatal(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"closed", "good", "broken", "wild", "better"} {
		write(t, filepath.Join(dir, name), 5)
	}
	o := digest(func(path string) (io.ReadCloser, error) {
		switch filepath.Base(path) {
		case "closed":
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
		case "broken":
			return failing{}, nil
		case "wild":
			panic("boo")
		}
		return openFile(path)
	}, dir)
	require.Equal(t, statusError, o.status)
	var want []string
	for _, line := range naive(t, dir) {
		if strings.HasSuffix(line, "better") || strings.HasSuffix(line, "good") {
			want = append(want, line)
		}
	}
	require.Equal(t, want, o.lines())
	said := slices.Collect(nonEmptyLines(o.stderr))
	require.Equal(t, fmt.Sprintf("digest: %q: input/output error", filepath.Join(dir, "broken")), said[0])
	require.Equal(t, fmt.Sprintf("digest: %q: %v", filepath.Join(dir, "closed"), fs.ErrPermission), said[1])
	require.Equal(t, fmt.Sprintf("digest: %q: taskpool: task panicked: boo", filepath.Join(dir, "wild")), said[2])
	require.Contains(t, said[3], "2 files, ")
	require.NotContains(t, o.stderr, "left out")
}

func TestInterruptFinishesWhatRunsAndListsTheRest(t *testing.T) {
	for name, n := range map[string]int{
		"with all files submitted":    10,
		"while Submit waits for room": 10 + maxWaiting,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for i := range n {
				write(t, fmt.Sprintf("%s/%04d", dir, i), 3)
			}
			synctest.Test(t, func(t *testing.T) {
				soft, interrupt := context.WithCancelCause(t.Context())
				o := interrupted(soft, t.Context(), func(path string) (io.ReadCloser, error) {
					// Time passes when everybody waits: the other
					// worker in here, too, and the submitter for room
					// or in Shutdown.
					time.Sleep(time.Second)
					interrupt(errors.New("interrupt signal received"))
					return openFile(path)
				}, "-workers", "2", dir)
				require.Equal(t, statusError, o.status)
				all := naive(t, dir)
				require.Equal(t, all[:2], o.lines(), "the two at work are finished")
				var want []string
				for i := 2; i < n && i < 2+maxListed; i++ {
					want = append(want, fmt.Sprintf("%04d", i))
				}
				listed, more := o.leftOut()
				require.Equal(t, want, listed)
				require.Equal(t, n-2-len(want), more)
				require.Contains(t, o.stderr, "digest: interrupt signal received\ndigest: 2 files, ")
			})
		})
	}
}

func TestInterruptBeforeTheStartLeavesAllOut(t *testing.T) {
	soft, cancel := context.WithCancel(t.Context())
	cancel()
	dir := tree(t)
	o := interrupted(soft, t.Context(), openFile, dir)
	require.Equal(t, statusError, o.status)
	require.Empty(t, o.stdout)
	require.Contains(t, o.stderr, "stopped looking for files at "+fmt.Sprintf("%q", dir+"/"))
}

// endless is a file without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (endless) Close() error               { return nil }

func TestSecondInterruptCutsOffWhatRuns(t *testing.T) {
	for name, n := range map[string]int{
		"with all files submitted":    10,
		"while Submit waits for room": 10 + maxWaiting,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for i := range n {
				write(t, fmt.Sprintf("%s/%04d", dir, i), 3)
			}
			synctest.Test(t, func(t *testing.T) {
				soft, first := context.WithCancel(t.Context())
				hard, second := context.WithCancel(t.Context())
				o := interrupted(soft, hard, func(string) (io.ReadCloser, error) {
					time.Sleep(time.Second) // until everybody waits
					first()
					second()
					return endless{}, nil
				}, "-workers", "1", dir)
				require.Equal(t, statusError, o.status)
				require.Empty(t, o.stdout)
				listed, more := o.leftOut()
				require.Len(t, listed, maxListed)
				require.Equal(t, n-maxListed, more)
			})
		})
	}
}

func TestSecondInterruptGivesUpAReadThatHangs(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a", 1)
	synctest.Test(t, func(t *testing.T) {
		soft, first := context.WithCancel(t.Context())
		hard, second := context.WithCancel(t.Context())
		release := make(chan struct{})
		began := time.Now()
		o := interrupted(soft, hard, func(string) (io.ReadCloser, error) {
			first()
			second()
			<-release
			return io.NopCloser(strings.NewReader("late")), nil
		}, dir)
		require.Equal(t, stopGrace, time.Since(began))
		require.Equal(t, statusError, o.status)
		require.Empty(t, o.stdout)
		listed, _ := o.leftOut()
		require.Equal(t, []string{"a"}, listed)
		close(release)
	})
}

func TestSmallFilesGoFirst(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{
		"a": 1, "b": largeFile, "c": 1, "d": 2 * largeFile, "e": largeFile - 1, "f": 0,
	} {
		write(t, filepath.Join(dir, name), size)
	}
	synctest.Test(t, func(t *testing.T) {
		var order string // by one worker
		o := digest(func(path string) (io.ReadCloser, error) {
			order += filepath.Base(path)
			time.Sleep(time.Second) // at the first file, until all are submitted
			return openFile(path)
		}, "-workers", "1", dir)
		require.Equal(t, "acefbd", order)
		require.Contains(t, o.stderr, "digest: small (high): 4 files, wait p50 1s, p99 3s\n")
		require.Contains(t, o.stderr, "digest: large (low): 2 files, wait p50 4s, p99 5s\n")
		require.Contains(t, o.stderr, "digest: 6 files, 1.0 MB in 6.000 s, 0.2 MB/s\n")
	})
}

func TestDirMayBeALink(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // to make one takes a privilege
	}
	link := filepath.Join(t.TempDir(), "link")
	dir := tree(t)
	require.NoError(t, os.Symlink(dir, link))
	o := digest(openFile, link)
	require.Equal(t, statusOK, o.status)
	require.Len(t, o.lines(), len(naive(t, dir)))
	require.Contains(t, o.stdout, "  "+link+"/-\n")
}

func TestExitStatusTellsWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", 1)
	for _, test := range []struct {
		name   string
		args   []string
		status int
		stderr string
	}{
		{"empty directory", []string{t.TempDir()}, statusOK, "0 files, 0.0 MB"},
		{"help", []string{"-h"}, statusOK, "usage: digest"},
		{"unknown flag", []string{"-x", dir}, statusUsage, "usage: digest"},
		{"two directories", []string{dir, dir}, statusUsage, "usage: digest"},
		{"no workers", []string{"-workers", "0", dir}, statusUsage, "WithWorkers: n must be at least 1, got 0"},
		{"missing directory", []string{dir + "/missing"}, statusUsage, "missing"},
		{"empty name", []string{""}, statusUsage, "digest: "},
		{"a file", []string{dir + "/file"}, statusUsage, "is not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := digest(openFile, test.args...)
			require.Equal(t, test.status, o.status, o.stderr)
			require.Contains(t, o.stderr, test.stderr)
			require.Empty(t, o.stdout)
		})
	}
}

// full is a standard output that takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestFullOutputIsAnError(t *testing.T) {
	var stderr strings.Builder
	status := run(t.Context(), t.Context(), []string{tree(t)}, full{}, &stderr, openFile)
	require.Equal(t, statusError, status)
	require.Contains(t, stderr.String(), "digest: no space left on device")
}

func TestDefaultIsTheGoSource(t *testing.T) {
	dir, err := goSource(t.Context())
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "context", "context.go"))
}

// A screen collects what is written to it.
type screen struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func TestProgressIsRewrittenAndCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s screen
		n := 0
		stop := showProgress(&s, func() string { n++; return fmt.Sprint("at ", n) })
		time.Sleep(250 * time.Millisecond)
		stop()
		require.Equal(t, "\r\x1b[Kat 1\r\x1b[Kat 2\r\x1b[K", s.buf.String())
	})
}

func TestProgressTellsHowToStopAtOnce(t *testing.T) {
	d, err := newDigester(1, openFile)
	require.NoError(t, err)
	defer func() { require.NoError(t, d.pool.Shutdown(context.Background())) }()
	soft, cancel := context.WithCancel(t.Context())
	require.Equal(t, "0 of 7 files, 0.0 MB", d.progress(soft, 7))
	cancel()
	require.Equal(t, "0 of 7 files, 0.0 MB; finishing 0, Ctrl-C to stop at once", d.progress(soft, 7))
}

func TestProgressNeedsATerminal(t *testing.T) {
	require.False(t, isTerminal(new(strings.Builder)))
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	require.False(t, isTerminal(f))
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, test := range []struct {
		n, p int
		want time.Duration
	}{
		{1, 50, 1}, {1, 99, 1}, {2, 50, 1}, {2, 99, 2}, {3, 50, 2}, {99, 99, 99},
		{100, 50, 50}, {100, 99, 99}, {100, 100, 100}, {100, 1, 1},
	} {
		require.Equal(t, test.want, percentile(hundred[:test.n], test.p), "%+v", test)
	}
}
