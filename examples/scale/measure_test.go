package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

const databaseEnv = "SCALE_DATABASE" // of a process that runs jobs

func TestMain(m *testing.M) {
	if url := os.Getenv(databaseEnv); url != "" {
		if err := work(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

func register(reg *jobs.Registry) *jobs.Kind[int] {
	return jobs.Register(reg, "sleep", func(ctx context.Context, _ jobs.Meta, n int) error {
		// From half to one and a half times measuredRun, as in the simulation.
		<-time.After(measuredRun/2 + time.Duration(n%1000)*measuredRun/1000)
		return nil
	}, jobs.Policy{})
}

// work runs jobs until standard input ends, and prints the processor time that it has taken since
// a line came.
func work(url string) error {
	ctx := context.Background()
	db, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close()
	pool, err := taskpool.New(taskpool.WithWorkers(measuredWorkers))
	if err != nil {
		return err
	}
	var reg jobs.Registry
	register(&reg)
	q, err := riverjobs.New(riverpgxv5.New(db), &reg, riverjobs.Config{Pool: pool,
		River: river.Config{FetchCooldown: cooldown, Logger: slog.New(slog.DiscardHandler)}})
	if err != nil {
		return err
	}
	if err := q.Start(ctx); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(time.Duration(usage.Utime.Nano() + usage.Stime.Nano())); err != nil {
		return err
	}
	stop, cancel := context.WithTimeout(ctx, 0)
	defer cancel()
	_ = q.Stop(stop) // what is left is not looked at
	return pool.Shutdown(ctx)
}

// postgresTime returns the processor time that all PostgreSQL of this machine has taken.
func postgresTime(t *testing.T) (sum time.Duration) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, entry := range all {
		text, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil || !strings.Contains(string(text), "(postgres)") {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		for _, i := range []int{11, 12} { // user and system, in hundredths of a second
			n, err := strconv.Atoi(fields[i])
			require.NoError(t, err)
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}

// TestMeasure measures what TestPlot predicts.
func TestMeasure(t *testing.T) {
	if !*measure {
		t.Skip("only with -measure")
	}
	url := os.Getenv("TASKPOOL_POSTGRES_URL")
	require.NotEmpty(t, url, "run it by jobs/riverjobs/postgres.sh")
	rows := table{{"processes", "cores", "jobs/s", "client µs", "database µs"}}
	for _, processes := range measuredProcesses {
		rows = append(rows, measureOne(t, url, processes))
	}
	t.Logf("measured:\n%s", rows)
	require.NoError(t, os.WriteFile("measured.csv", rows.csv(), 0o666))
}

func measureOne(t *testing.T, url string, processes int) []string {
	ctx := t.Context()
	db, err := pgxpool.New(ctx, url)
	require.NoError(t, err)
	defer db.Close()
	driver := riverpgxv5.New(db)
	require.NoError(t, riverjobs.Migrate(ctx, driver))
	_, err = db.Exec(ctx, "TRUNCATE river_job")
	require.NoError(t, err)
	var reg jobs.Registry
	kind := register(&reg)
	q, err := riverjobs.New(driver, &reg, riverjobs.Config{River: river.Config{Logger: slog.New(slog.DiscardHandler)}})
	require.NoError(t, err)
	for left := processes * 500 * 14; left > 0; { // more than they do in the time
		rs := make([]jobs.Request, min(left, 2000))
		for i := range rs {
			rs[i], err = kind.Request(left+i*7, nil)
			require.NoError(t, err)
		}
		_, err = jobs.EnqueueMany(ctx, q, rs)
		require.NoError(t, err)
		left -= len(rs)
	}
	_, err = db.Exec(ctx, "VACUUM ANALYZE river_job")
	require.NoError(t, err)

	began := postgresTime(t)
	cmds, stdins, outs := make([]*exec.Cmd, processes), make([]io.Closer, processes), make([]io.Reader, processes)
	for i := range cmds {
		cmds[i] = exec.Command(os.Args[0])
		cmds[i].Env = append(os.Environ(), databaseEnv+"="+url)
		cmds[i].Stderr = os.Stderr
		stdins[i], err = cmds[i].StdinPipe()
		require.NoError(t, err)
		outs[i], err = cmds[i].StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmds[i].Start())
	}
	<-time.After(9 * time.Second)
	database := postgresTime(t) - began
	var client time.Duration
	for i := range cmds {
		require.NoError(t, stdins[i].Close())
	}
	for i := range cmds {
		var used time.Duration
		require.NoError(t, json.NewDecoder(outs[i]).Decode(&used))
		client += used
		var exit *exec.ExitError
		if err := cmds[i].Wait(); err != nil && !errors.As(err, &exit) {
			require.NoError(t, err)
		}
	}
	var done int
	var rate float64
	require.NoError(t, db.QueryRow(ctx, `WITH ends AS (SELECT finalized_at AS at FROM river_job WHERE state = 'completed'),
			span AS (SELECT min(at) + interval '2 seconds' AS first, min(at) + interval '7 seconds' AS last FROM ends)
		SELECT (SELECT count(*) FROM ends), (SELECT count(*) / 5.0 FROM ends, span WHERE at >= first AND at < last)::float8`).Scan(&done, &rate))
	each := func(d time.Duration) string {
		return strconv.FormatFloat(float64(d.Microseconds())/float64(done), 'f', 1, 64)
	}
	t.Logf("%d processes: %.0f jobs/s, %d in all", processes, rate, done)
	return []string{strconv.Itoa(processes), strconv.Itoa(runtime.NumCPU()), number(rate), each(client), each(database)}
}
