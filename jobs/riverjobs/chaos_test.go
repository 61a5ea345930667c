package riverjobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// The environment of a worker process of TestNoJobIsLostWhateverDies: the process's
// number and its database.
const (
	chaosWorkerEnv   = "TASKPOOL_RIVERJOBS_WORKER"
	chaosDatabaseEnv = "TASKPOOL_RIVERJOBS_DATABASE"

	chaosWorkers = 8 // of each process
)

var (
	errDiscard = errors.New("the handler says: never again")
	errOnce    = errors.New("the handler says: once more")
)

// chaosKind registers jobs of which each tenth is to be discarded, and each tenth fails
// at first. note is told of each attempt.
func chaosKind(reg *jobs.Registry, note func(ctx context.Context, n, attempt int) error) *jobs.Kind[int] {
	return jobs.Register(reg, "chaos", func(ctx context.Context, m jobs.Meta, n int) error {
		if err := note(ctx, n, m.Attempt); err != nil {
			return err
		}
		select { // the work
		case <-time.After(rand.N(40 * time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case n%10 == 0:
			return taskpool.Permanent(errDiscard)
		case n%10 == 1 && m.Attempt == 1:
			return errOnce
		}
		return nil
	}, jobs.Policy{MaxAttempts: 100, Backoff: func(int) time.Duration { return 10 * time.Millisecond }})
}

// chaosWorker runs jobs until standard input ends.
func chaosWorker() error {
	ctx := context.Background()
	db, err := pgxpool.New(ctx, os.Getenv(chaosDatabaseEnv))
	if err != nil {
		return err
	}
	defer db.Close()
	pool, err := taskpool.New(taskpool.WithWorkers(chaosWorkers), taskpool.WithLogger(quiet))
	if err != nil {
		return err
	}
	var reg jobs.Registry
	chaosKind(&reg, func(ctx context.Context, n, attempt int) error {
		_, err := db.Exec(ctx, "INSERT INTO runs (job, attempt, process) VALUES ($1, $2, $3)", n, attempt, os.Getenv(chaosWorkerEnv))
		return err
	})
	c := river.Config{FetchCooldown: 10 * time.Millisecond, FetchPollInterval: 100 * time.Millisecond, TestOnly: true, Logger: quiet}
	c.RescueStuckJobsAfter = 8 * time.Second // more than the server is away for
	q, err := riverjobs.New(riverpgxv5.New(db), &reg, riverjobs.Config{Pool: pool, River: c})
	if err != nil {
		return err
	}
	for q.Start(ctx) != nil { // the server may be away
		<-time.After(100 * time.Millisecond)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return errors.Join(q.Stop(ctx), pool.Shutdown(ctx))
}

// A chaosProcess is a worker process.
type chaosProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func startChaosProcess(t *testing.T, n int, database string) *chaosProcess {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", chaosWorkerEnv, n), chaosDatabaseEnv+"="+database)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return &chaosProcess{cmd, stdin}
}

// freeze stops a process, and lets it go on when others have all jobs that it was at work on.
// The channel that it returns is closed then.
func freeze(t *testing.T, ctx context.Context, db *pgxpool.Pool, number int, p *chaosProcess) (frozen <-chan struct{}) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }()
		for {
			var left int
			err := db.QueryRow(ctx, `SELECT count(*) FROM runs JOIN river_job ON (args ->> 'value')::int = runs.job
				WHERE process = $1 AND state = 'running' AND runs.attempt = river_job.attempt`, number).Scan(&left)
			if err == nil && left == 0 || ctx.Err() != nil {
				return
			}
			<-time.After(100 * time.Millisecond)
		}
	}()
	return done
}

// Three processes run the jobs while one after the other is killed and replaced, one is frozen
// for longer than RescueStuckJobsAfter, and the server is killed once. Every job ends as its
// handler says. It runs more often than the handler says only if a process was killed or
// frozen, or the server killed, in between.
func TestNoJobIsLostWhateverDies(t *testing.T) {
	total := 10_000
	switch {
	case testing.Short():
		total = 500
	case pooltest.Race: // .ci/run does it without, too
		total = 2000
	}
	db := newPostgres(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := db.Exec(ctx, "CREATE TABLE runs (id bigserial, job int, attempt int, process int)")
	require.NoError(t, err)

	var reg jobs.Registry
	kind := chaosKind(&reg, nil)
	q, err := riverjobs.New(riverpgxv5.New(db), &reg, riverjobs.Config{River: river.Config{Logger: quiet}})
	require.NoError(t, err)
	tx, err := db.Begin(ctx)
	require.NoError(t, err)
	for n := range total {
		enqueue(t, kind, q.InTx(tx), n, nil)
	}
	require.NoError(t, tx.Commit(ctx))

	// settled returns how many jobs are, as soon as the server answers.
	settled := func() (n int) {
		for {
			err := db.QueryRow(ctx, "SELECT count(*) FROM river_job WHERE finalized_at IS NOT NULL").Scan(&n)
			if err == nil {
				return n
			}
			require.NoError(t, ctx.Err(), "%v", err)
		}
	}

	begin := time.Now()
	processes, killed, frozen, atRestart := make(map[int]*chaosProcess), make(map[int]bool), make(map[int]bool), make(map[int]bool)
	started := 0
	start := func() {
		started++
		processes[started] = startChaosProcess(t, started, db.Config().ConnString())
	}
	for range 3 {
		start()
	}
	defer func() {
		for _, p := range processes {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	}()
	var thawed <-chan struct{} // nil until a process was frozen
	icy := 0
	for n := 0; n < total*8/10 || len(atRestart) == 0; n = settled() {
		<-time.After(300*time.Millisecond + rand.N(700*time.Millisecond))
		if thawed == nil && len(atRestart) > 0 && !testing.Short() {
			for number, p := range processes {
				icy, frozen[number] = number, true
				thawed = freeze(t, ctx, db, number, p)
				break
			}
			start()
		}
		for number, p := range processes { // in random order
			if number == icy {
				continue
			}
			require.NoError(t, p.cmd.Process.Kill())
			_ = p.cmd.Wait()
			_ = p.stdin.Close()
			killed[number] = true
			delete(processes, number)
			break
		}
		start()
		if len(atRestart) == 0 && n > total/3 {
			for number := range processes {
				atRestart[number] = true
			}
			server.restart(t)
		}
	}
	for settled() < total {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			rows, _ := db.Query(context.Background(), "SELECT state::text || ' ' || count(*) FROM river_job GROUP BY state")
			states, _ := pgx.CollectRows(rows, pgx.RowTo[string])
			require.Fail(t, "jobs have not settled", "%v", states)
		}
	}
	if thawed != nil {
		<-thawed
	}
	took := time.Since(begin)
	for number, p := range processes {
		require.NoError(t, p.stdin.Close())
		require.NoError(t, p.cmd.Wait(), "process %d", number)
		delete(processes, number)
	}

	runs := make(map[int][]int) // processes by job
	rows, err := db.Query(ctx, "SELECT job, process FROM runs ORDER BY id")
	require.NoError(t, err)
	var job, process int
	_, err = pgx.ForEachRow(rows, []any{&job, &process}, func() error { runs[job] = append(runs[job], process); return nil })
	require.NoError(t, err)

	var completed, discarded, rescued, again int
	rows, err = db.Query(ctx, "SELECT args, state::text, to_jsonb(errors)::text FROM river_job")
	require.NoError(t, err)
	var args, state string
	var errorsJSON *string
	_, err = pgx.ForEachRow(rows, []any{&args, &state, &errorsJSON}, func() error {
		var payload struct{ Value int }
		require.NoError(t, json.Unmarshal([]byte(args), &payload))
		n := payload.Value
		var attempts []rivertype.AttemptError
		if errorsJSON != nil {
			require.NoError(t, json.Unmarshal([]byte(*errorsJSON), &attempts))
		}
		for _, e := range attempts {
			if strings.Contains(e.Error, "rescued") {
				rescued++
			}
		}
		if n%10 == 0 {
			require.Equal(t, "discarded", state, "job %d", n)
			require.Equal(t, errDiscard.Error(), attempts[len(attempts)-1].Error, "job %d", n)
			discarded++
		} else {
			require.Equal(t, "completed", state, "job %d", n)
			completed++
		}
		require.NotEmpty(t, runs[n], "job %d is settled and never ran", n)
		want := 1
		if n%10 == 1 {
			want = 2
		}
		if len(runs[n]) > want {
			again += len(runs[n]) - want
			died := 0
			for _, number := range runs[n][:len(runs[n])-1] {
				if killed[number] || frozen[number] || atRestart[number] {
					died++
				}
			}
			require.GreaterOrEqual(t, died, len(runs[n])-want, "job %d ran again though nothing died: %v", n, runs[n])
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, total, completed+discarded)
	t.Logf("%d jobs in %v: %d completed, %d discarded as their handlers say; %d processes killed, %d frozen and the server killed once; "+
		"%d attempts rescued, %d ran once more than the handler says",
		total, took.Round(time.Second), completed, discarded, len(killed), len(frozen), rescued, again)
}

// restart kills the server and starts it again. One that is not ours is left alone.
func (p *postgres) restart(t *testing.T) {
	t.Helper()
	if p.data == "" {
		t.Log("TASKPOOL_POSTGRES_URL names a server that is not ours: it is not restarted")
		return
	}
	cmd := exec.Command("./postgres.sh", "restart")
	cmd.Env = append(os.Environ(), "TASKPOOL_POSTGRES_DATA="+p.data)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
