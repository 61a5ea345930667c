package riverjobs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs/internal/chaos"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// skews are by how much the clocks of worker processes are ahead, by their number. Those with
// the right one never lead, so it is never the leader's clock that is right.
var skews = [...]time.Duration{0, time.Hour, -time.Hour}

func skewOf(process int) time.Duration { return skews[process%len(skews)] }

// skewedWorker builds the program of worker processes whose clocks are wrong. There is no other
// way to have a wrong clock in one process: Go asks the kernel without a library in between,
// and River reads the time by itself, besides that of its own configuration for tests. So the
// program is built with a package time that adds to what it reads. Timers and timeouts are
// right, as they are where a clock is set wrong.
func skewedWorker(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	dir, src := t.TempDir(), filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(src, "time.go"))
	require.NoError(t, err)
	const reads = "sec, nsec, mono := runtimeNow()"
	require.Equal(t, 1, strings.Count(string(text), reads), "package time reads the clock in another way")
	text = []byte(strings.Replace(string(text), reads, reads+"; sec += skew", 1))
	overlay := map[string]string{filepath.Join(src, "time.go"): filepath.Join(dir, "time.go"), filepath.Join(src, "skew.go"): filepath.Join(dir, "skew.go")}
	replace, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	for name, contents := range map[string]string{"time.go": string(text), "overlay.json": string(replace), "skew.go": `package time

import "syscall"

var skew = func() (n int64) {
	text, _ := syscall.Getenv("` + chaos.SkewEnv + `")
	sign := int64(1)
	for _, c := range text {
		if c == '-' {
			sign = -1
		} else {
			n = 10*n + int64(c-'0')
		}
	}
	return sign * n
}()
`} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(contents), 0o600))
	}
	program := filepath.Join(dir, "worker")
	out, err := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "./internal/chaos/worker").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// A siege is the database and the worker processes that die one after the other.
type siege struct {
	t      *testing.T
	ctx    context.Context
	db     *pgxpool.Pool
	q      *riverjobs.Queue[pgx.Tx]
	skewed string // the program of those with wrong clocks; empty: there are none

	begun     int
	processes map[int]*chaosProcess // that are there, by number
	killed    map[int]bool
	frozen    map[int]bool
	atRestart map[int]bool // there when the server was killed
}

// A chaosProcess is a worker process.
type chaosProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// begin starts a process.
func (s *siege) begin() {
	s.begun++
	program, env := os.Args[0], []string{fmt.Sprintf("%s=%d", chaos.WorkerEnv, s.begun), chaos.DatabaseEnv + "=" + s.db.Config().ConnString()}
	if s.skewed != "" {
		if skew := skewOf(s.begun); skew != 0 {
			program, env = s.skewed, append(env, fmt.Sprintf("%s=%d", chaos.SkewEnv, int(skew.Seconds())))
		} else {
			env = append(env, chaos.FollowEnv+"=1")
		}
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	s.processes[s.begun] = &chaosProcess{cmd, stdin}
}

// kill kills one of the processes, and no frozen one.
func (s *siege) kill() {
	for number, p := range s.processes { // in random order
		if s.frozen[number] {
			continue
		}
		require.NoError(s.t, p.cmd.Process.Kill())
		_ = p.cmd.Wait()
		_ = p.stdin.Close()
		s.killed[number] = true
		delete(s.processes, number)
		return
	}
}

// killServer kills the server, and starts it again.
func (s *siege) killServer() {
	for number := range s.processes {
		s.atRestart[number] = true
	}
	server.restart(s.t)
}

// freeze stops a process, and lets it go on when others have all jobs that it was at work on.
// The channel that it returns is closed then.
func (s *siege) freeze() (thawed <-chan struct{}) {
	for number, p := range s.processes {
		s.frozen[number] = true
		require.NoError(s.t, p.cmd.Process.Signal(syscall.SIGSTOP))
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }()
			for {
				var left int
				err := s.db.QueryRow(s.ctx, `SELECT count(*) FROM runs JOIN river_job ON river_job.id = row
					WHERE process = $1 AND state = 'running' AND runs.attempt = river_job.attempt`, number).Scan(&left)
				if err == nil && left == 0 || s.ctx.Err() != nil {
					return
				}
				<-time.After(100 * time.Millisecond)
			}
		}()
		return done
	}
	return nil
}

// settled returns how many jobs are, as soon as the server answers.
func (s *siege) settled() (n int) {
	for {
		err := s.db.QueryRow(s.ctx, "SELECT count(*) FROM river_job WHERE finalized_at IS NOT NULL").Scan(&n)
		if err == nil {
			return n
		}
		require.NoError(s.t, s.ctx.Err(), "%v", err)
	}
}

// finish waits until all jobs have settled and all processes have stopped.
func (s *siege) finish(total int) {
	resign := time.Now()
	for s.settled() < total {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
			require.Fail(s.t, "jobs have not settled", "%v", s.texts("SELECT state::text || ' ' || count(*) FROM river_job GROUP BY state"))
		}
		if time.Since(resign) > 3*time.Second { // a new leader looks at once for what is lost
			_ = s.q.Client().Notify().RequestResign(s.ctx)
			resign = time.Now()
		}
	}
}

// stop ends the processes as a deploy would.
func (s *siege) stop() {
	var all sync.WaitGroup
	for number, p := range s.processes {
		require.NoError(s.t, p.stdin.Close())
		all.Go(func() {
			if err := p.cmd.Wait(); err != nil {
				s.t.Errorf("process %d: %v", number, err)
			}
		})
	}
	all.Wait()
	clear(s.processes)
}

// texts returns the rows of a query, of one column each.
func (s *siege) texts(query string, args ...any) []string {
	rows, err := s.db.Query(context.Background(), query, args...)
	require.NoError(s.t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(s.t, err)
	return all
}

// Three processes run the jobs while one after the other is killed and replaced, one is frozen
// for longer than RescueStuckJobsAfter, the server is killed once, and the clocks of most
// processes, and of all leaders, are wrong by an hour. Every job ends as its handler says, no
// success is told or stored as a failure, and a job runs more often than its handler says only
// if a process that had it was killed or frozen, or the server killed, for as long as
// RescueStuckJobsAfter by the database's clock.
func TestNoJobIsLostWhateverDies(t *testing.T) {
	total := 2000
	switch {
	case testing.Short():
		total = 500
	case pooltest.Full && !pooltest.Race: // as .ci/run has it
		total = 10_000
	}
	db := newPostgres(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := db.Exec(ctx, chaos.Tables)
	require.NoError(t, err)
	var reg jobs.Registry
	kind := chaos.Register(&reg, nil, nil)
	q, err := riverjobs.New(riverpgxv5.New(db), &reg, riverjobs.Config{River: river.Config{Logger: quiet}})
	require.NoError(t, err)
	rs := make([]jobs.Request, total)
	for n := range rs {
		rs[n], err = kind.Request(n, nil)
		require.NoError(t, err)
	}
	_, err = jobs.EnqueueMany(ctx, q, rs)
	require.NoError(t, err)

	s := &siege{t: t, ctx: ctx, db: db, q: q, processes: make(map[int]*chaosProcess),
		killed: make(map[int]bool), frozen: make(map[int]bool), atRestart: make(map[int]bool)}
	if !testing.Short() {
		s.skewed = skewedWorker(t)
	}
	begin := time.Now()
	for range 3 {
		s.begin()
	}
	defer func() {
		for _, p := range s.processes {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	}()
	leaders := make(map[string]bool)
	var thawed <-chan struct{} // nil until a process was frozen
	for n := 0; n < total*8/10 || len(s.atRestart) == 0; n = s.settled() {
		<-time.After(300*time.Millisecond + rand.N(700*time.Millisecond))
		for _, id := range s.leaders() {
			leaders[id] = true
		}
		if thawed == nil && len(s.atRestart) > 0 && !testing.Short() {
			thawed = s.freeze()
			s.begin()
		}
		s.kill()
		s.begin()
		if len(s.atRestart) == 0 && n > total/3 {
			s.killServer()
		}
	}
	s.finish(total)
	if thawed != nil {
		<-thawed
	}
	took := time.Since(begin)
	s.stop()
	s.look(total, took, leaders)
}

// leaders returns the processes that lead, at most one.
func (s *siege) leaders() []string {
	var id string
	if s.db.QueryRow(s.ctx, "SELECT leader_id FROM river_leader").Scan(&id) != nil {
		return nil
	}
	return []string{id}
}

// look looks at what is written down when all is over.
func (s *siege) look(total int, took time.Duration, leaders map[string]bool) {
	t := s.t
	require.Empty(t, s.texts(`SELECT format('job %s is %s, with errors %s', args ->> 'value', state, errors) FROM river_job
		WHERE CASE WHEN (args ->> 'value')::int % 10 = 0 THEN state <> 'discarded' OR errors[cardinality(errors)] ->> 'error' <> $1
			ELSE state <> 'completed' END`, chaos.ErrDiscard.Error()), "each ends as its handler says")
	require.Empty(t, s.texts("SELECT id::text FROM river_job WHERE id NOT IN (SELECT row FROM runs)"), "none has settled and never run")
	require.Empty(t, s.texts(`SELECT format('process %s was told that attempt %s of row %s is %s: %s', process, attempt, row, state, error) FROM told
		WHERE outcome = $1 AND state <> $2 OR outcome NOT IN ('', $1) AND state = $2`, chaos.Succeeded, jobs.StateCompleted.String()), "what is told is what the handler returned")
	require.Empty(t, s.texts(`SELECT format('row %s was told to be %s by %s', row, array_agg(state), array_agg(process)) FROM told
		WHERE state <> $1 GROUP BY row HAVING count(*) > 1`, jobs.StateRetrying.String()), "an end is told once")
	const errors = "SELECT id AS row, (e ->> 'attempt')::int AS attempt, e ->> 'error' AS error FROM river_job, unnest(errors) AS e"
	require.Empty(t, s.texts(`WITH errors AS (`+errors+`)
		SELECT format('attempt %s of row %s returned nil in process %s, and %s is stored', attempt, row, process, error) FROM errors JOIN runs USING (row, attempt)
		WHERE outcome = $1 AND error NOT LIKE '%rescued%'`, chaos.Succeeded), "no success is stored as a failure")
	require.Empty(t, s.texts(`WITH errors AS (`+errors+`)
		SELECT format('row %s ran again after attempt %s in process %s, of which nothing is stored', row, a.attempt, a.process)
		FROM runs AS a JOIN runs AS b USING (row) WHERE a.attempt < b.attempt AND (row, a.attempt) NOT IN (SELECT row, attempt FROM errors)`), "none runs again without reason")
	require.Empty(t, s.texts(`WITH errors AS (`+errors+`)
		SELECT format('attempt %s of row %s in process %s was taken for lost after %s', a.attempt, a.row, a.process, b.attempted_at - a.attempted_at)
		FROM errors AS e JOIN runs AS a ON a.row = e.row AND a.attempt = e.attempt JOIN runs AS b ON b.row = a.row AND b.attempt = a.attempt + 1
		WHERE error LIKE '%rescued%' AND b.attempted_at - a.attempted_at < $1::interval`, fmt.Sprintf("%d s", int(chaos.RescueAfter.Seconds()))), "by the database's clock")

	var lost, again int
	var gone, hadIt []int
	for _, all := range []map[int]bool{s.killed, s.frozen, s.atRestart} {
		for number := range all {
			gone = append(gone, number)
		}
	}
	require.NoError(t, s.db.QueryRow(context.Background(), `WITH errors AS (`+errors+`)
		SELECT count(*), (SELECT sum(greatest(n - CASE WHEN job % 10 = 1 THEN 2 ELSE 1 END, 0)) FROM (SELECT job, count(*) AS n FROM runs GROUP BY job) AS of),
			coalesce(array_agg(DISTINCT process) FILTER (WHERE process IS NOT NULL), '{}')
		FROM errors LEFT JOIN runs USING (row, attempt) WHERE error LIKE '%rescued%'`).Scan(&lost, &again, &hadIt))
	for _, number := range hadIt {
		require.Contains(t, gone, number, "a job was taken from a process that was there all the time")
	}
	if s.skewed != "" {
		require.Empty(t, s.texts("SELECT format('process %s is ahead by %s', process, ahead) FROM clocks WHERE abs(extract(epoch FROM ahead) - ($1::float8[])[1 + process % 3]) > 1800",
			[]float64{skews[0].Seconds(), skews[1].Seconds(), skews[2].Seconds()}), "the clocks are as wrong as they are to be")
		require.NotEmpty(t, leaders)
		for id := range leaders {
			number, err := strconv.Atoi(id)
			require.NoError(t, err)
			require.NotZero(t, skewOf(number), "leader %s", id)
		}
	}
	t.Logf("%d jobs in %v: all ended as their handlers say; %d processes killed, %d frozen and the server killed once; %d leaders seen, wrong clocks: %t; "+
		"%d attempts taken for lost, %d ran once more than the handler says",
		total, took.Round(time.Second), len(s.killed), len(s.frozen), len(leaders), s.skewed != "", lost, again)
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
