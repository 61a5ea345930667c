//go:build unix

package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/examples/server/internal/load"
)

// build builds the program and returns its path.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// A child is the program in a process of its own.
type child struct {
	t       *testing.T
	process *os.Process
	url     string
	admin   string      // likewise
	lines   chan string // of its log; closed once it has exited
	status  int         // then
}

// launch starts the program and waits until it listens. It is killed before the test
// ends, also if that is because it takes too long.
func launch(t *testing.T, path string, args ...string) *child {
	t.Helper()
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-5*time.Second))
		t.Cleanup(cancel)
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"-addr", "localhost:0", "-admin", "localhost:0"}, args...)...)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &child{t: t, process: cmd.Process, lines: make(chan string, 1000)}
	go func() {
		defer close(c.lines)
		for log := bufio.NewScanner(stderr); log.Scan(); {
			c.lines <- log.Text()
		}
		_ = cmd.Wait()
		c.status = cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		_ = c.process.Kill()
		for line := range c.lines {
			t.Log(line)
		}
	})
	addrs := regexp.MustCompile(`addr=(\S+) admin=(\S+)`).FindStringSubmatch(c.waitFor("msg=listening"))
	require.NotNil(t, addrs)
	c.url, c.admin = "http://"+addrs[1], "http://"+addrs[2]
	return c
}

// waitFor returns the next line of the log that contains a text.
func (c *child) waitFor(text string) string {
	c.t.Helper()
	for line := range c.lines {
		if strings.Contains(line, text) {
			return line
		}
		c.t.Log(line)
	}
	require.Fail(c.t, "not in the log", text)
	return ""
}

// signal sends SIGTERM.
func (c *child) signal() { require.NoError(c.t, c.process.Signal(syscall.SIGTERM)) }

// wait waits until the program has exited, and returns its status and what its log says
// that it has done.
func (c *child) wait() (status int, counts map[string]uint64) {
	c.t.Helper()
	stopped := c.waitFor("msg=stopped")
	for line := range c.lines {
		c.t.Log(line)
	}
	counts = make(map[string]uint64)
	for _, m := range regexp.MustCompile(`(\w+)=(\d+)( |$)`).FindAllStringSubmatch(stopped, -1) {
		n, err := strconv.ParseUint(m[2], 10, 64)
		require.NoError(c.t, err)
		counts[m[1]] = n
	}
	return c.status, counts
}

// What becomes of a request that the server has not read any more is the network's
// business. But the server has read none to which the client got no answer: both count
// the same.
func TestEveryAcceptedRequestIsAnsweredAcrossASIGTERM(t *testing.T) {
	path := build(t)
	for _, test := range []struct {
		name      string
		keepAlive bool
	}{{"connections kept alive", true}, {"a connection for each request", false}} {
		t.Run(test.name, func(t *testing.T) {
			server := launch(t, path, "-workers", "4", "-work", "20ms", "-capacity", "20", "-linger", "300ms")
			transport := &http.Transport{MaxIdleConnsPerHost: 1000, DisableKeepAlives: !test.keepAlive}
			defer transport.CloseIdleConnections()

			// The load goes on until the server has ended.
			answers, signaled := 0, false
			l := load.Load{URL: server.url, Rate: 400, Duration: time.Hour, High: .3, Medium: .2,
				Client: &http.Client{Transport: transport},
				Answered: func(a load.Answer) {
					if !signaled && a.Status == 0 {
						t.Errorf("no answer before the signal: %v", a.Err)
					}
					if answers++; answers == 500 {
						signaled = true
						server.signal()
					}
				}}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			all := make(chan []load.Answer, 1)
			go func() { all <- l.Run(ctx) }()
			status, counts := server.wait()
			stop()
			got := <-all

			require.Equal(t, 0, status)
			for _, a := range got {
				if a.Status != 0 {
					requireAnswered(t, a)
					require.NotContains(t, a.Reason, "going down", "accepted by the server and refused by the pool")
				}
			}
			require.Equal(t, map[string]uint64{
				"left":      0,
				"succeeded": count(got, http.StatusOK),
				"failed":    0,
				"canceled":  0,
				"shed":      counts["shed"],
				"refused":   count(got, http.StatusServiceUnavailable) - counts["shed"],
			}, counts)
			require.NotZero(t, counts["shed"]+counts["refused"], "the load was no load")

			var table strings.Builder
			require.NoError(t, load.WriteTable(&table, got))
			t.Logf("\n%s", &table)
		})
	}
}

func TestSecondSignalCutsTheFirstShort(t *testing.T) {
	server := launch(t, build(t), "-workers", "1", "-capacity", "1", "-work", "1h", "-timeout", "1h", "-linger", "1h", "-drain", "2h")
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	answers := make(chan load.Answer, 3)
	for n := range 3 {
		go func() { answers <- load.Send(t.Context(), &http.Client{Transport: transport}, server.url, "low", n) }()
	}
	refused := <-answers // so the others are at work and in the queue
	requireAnswered(t, refused)

	server.signal()
	server.waitFor("msg=draining")
	server.signal()
	for range 2 {
		a := <-answers
		requireAnswered(t, a)
		require.Equal(t, http.StatusServiceUnavailable, a.Status)
	}
	for range 2 {
		server.waitFor("msg=unfinished")
	}
	status, counts := server.wait()
	require.Equal(t, 1, status)
	require.EqualValues(t, 2, counts["left"])
}

// The dashboard's stream is a request that does not end by itself.
func TestOpenDashboardDoesNotKeepTheServerFromEnding(t *testing.T) {
	server := launch(t, build(t), "-linger", "0s", "-drain", "1h")
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	resp, err := client.Get(server.admin + "/debug/taskpool/events")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	_, err = io.ReadFull(resp.Body, make([]byte, 1)) // it is under way
	require.NoError(t, err)

	scrape, err := client.Get(server.admin + "/metrics")
	require.NoError(t, err)
	defer scrape.Body.Close()
	text, err := io.ReadAll(scrape.Body)
	require.NoError(t, err)
	require.Zero(t, metric(t, string(text), `taskpool_tasks_submitted_total{pool="requests"}`))

	server.signal()
	status, _ := server.wait()
	require.Equal(t, 0, status)
}
