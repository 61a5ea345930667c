// Package chaos is the work of the processes that TestNoJobIsLostWhateverDies kills, freezes
// and gives clocks of their own. A process writes down in the database what it does.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// The environment of a worker process: its number, its database, by how many seconds its clock
// is ahead, and whether others may lead only.
const (
	WorkerEnv   = "TASKPOOL_RIVERJOBS_WORKER"
	DatabaseEnv = "TASKPOOL_RIVERJOBS_DATABASE"
	SkewEnv     = "TASKPOOL_RIVERJOBS_SKEW" // read by the package time that the test makes
	FollowEnv   = "TASKPOOL_RIVERJOBS_FOLLOW"
)

const (
	workers = 8 // of each process

	// RescueAfter is when a job is taken for lost: more than the server is away for.
	RescueAfter = 8 * time.Second
)

// Tables are those that the processes write into.
const Tables = `
	CREATE TABLE clocks (process int, ahead interval);
	CREATE TABLE runs (id bigserial, job int, row bigint, attempt int, process int, attempted_at timestamptz, outcome text);
	CREATE TABLE told (process int, n int, row bigint, attempt int, state text, error text, outcome text, PRIMARY KEY (process, n))`

// What handlers return that do not succeed.
var (
	ErrDiscard = errors.New("the handler says: never again")
	ErrOnce    = errors.New("the handler says: once more")
)

// Succeeded is the outcome of an attempt whose handler returned nil.
const Succeeded = "succeeded"

// Register registers jobs of which each tenth is to be discarded, and each tenth fails at
// first. began and ended, which may be nil, are told of each attempt.
func Register(reg *jobs.Registry, began func(ctx context.Context, n int, m jobs.Meta) error, ended func(n int, m jobs.Meta, err error)) *jobs.Kind[int] {
	return jobs.Register(reg, "chaos", func(ctx context.Context, m jobs.Meta, n int) (err error) {
		defer func() { ended(n, m, err) }()
		if err := began(ctx, n, m); err != nil {
			return err
		}
		select { // the work
		case <-time.After(rand.N(40 * time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case n%10 == 0:
			return taskpool.Permanent(ErrDiscard)
		case n%10 == 1 && m.Attempt == 1:
			return ErrOnce
		}
		return nil
	}, jobs.Policy{MaxAttempts: 100, Backoff: func(int) time.Duration { return 10 * time.Millisecond }})
}

// A worker is what a process keeps of its jobs.
type worker struct {
	db      *pgxpool.Pool
	process string

	mu       sync.Mutex         // protects the fields below
	outcomes map[attempt]string // of attempts that have not been told of
	events   int                // that have been told
}

type attempt struct {
	job    jobs.ID
	number int
}

func outcome(err error) string {
	if err == nil {
		return Succeeded
	}
	return err.Error()
}

// began writes down that an attempt has begun, and when the database says that it was taken.
func (w *worker) began(ctx context.Context, n int, m jobs.Meta) error {
	_, err := w.db.Exec(ctx, `INSERT INTO runs (job, row, attempt, process, attempted_at)
		VALUES ($1, $2::bigint, $3::int, $4, (SELECT attempted_at FROM river_job WHERE id = $2::bigint AND attempt = $3::int))`, n, string(m.ID), m.Attempt, w.process)
	return err
}

func (w *worker) ended(n int, m jobs.Meta, err error) {
	w.mu.Lock()
	w.outcomes[attempt{m.ID, m.Attempt}] = outcome(err)
	w.mu.Unlock()
	// The server may be away: then it is not known.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // less than the attempt has
	defer cancel()
	_, _ = w.db.Exec(ctx, "UPDATE runs SET outcome = $1 WHERE row = $2::bigint AND attempt = $3 AND process = $4", outcome(err), string(m.ID), m.Attempt, w.process)
}

// told writes down what an observer is told, beside what the handler has returned.
func (w *worker) told(e jobs.Event) {
	w.mu.Lock()
	key := attempt{e.ID, e.Attempt}
	was := w.outcomes[key]
	delete(w.outcomes, key)
	w.events++
	n := w.events
	w.mu.Unlock()
	var text string
	if e.Err != nil {
		text = e.Err.Error()
	}
	for { // the server may be away, and it may have come to that before it was
		_, err := w.db.Exec(context.Background(), "INSERT INTO told (process, n, row, attempt, state, error, outcome) VALUES ($1, $2, $3::bigint, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
			w.process, n, string(e.ID), e.Attempt, e.State.String(), text, was)
		if err == nil {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
}

// Work runs jobs until standard input ends.
func Work() error {
	ctx := context.Background()
	db, err := pgxpool.New(ctx, os.Getenv(DatabaseEnv))
	if err != nil {
		return err
	}
	defer db.Close()
	quiet := slog.New(slog.DiscardHandler)
	pool, err := taskpool.New(taskpool.WithWorkers(workers), taskpool.WithLogger(quiet))
	if err != nil {
		return err
	}
	w := &worker{db: db, process: os.Getenv(WorkerEnv), outcomes: make(map[attempt]string)}
	var reg jobs.Registry
	Register(&reg, w.began, w.ended)
	reg.Observe(w.told)
	c := river.Config{ID: w.process, FetchCooldown: 10 * time.Millisecond, FetchPollInterval: 100 * time.Millisecond, TestOnly: true, Logger: quiet}
	c.RescueStuckJobsAfter, c.LeaderElectionDisabled = RescueAfter, os.Getenv(FollowEnv) != ""
	q, err := riverjobs.New(riverpgxv5.New(db), &reg, riverjobs.Config{Pool: pool, River: c})
	if err != nil {
		return err
	}
	for { // the server may be away
		_, err := db.Exec(ctx, "INSERT INTO clocks (process, ahead) VALUES ($1, $2::timestamptz - clock_timestamp())", w.process, time.Now())
		if err == nil {
			if err = q.Start(ctx); err == nil {
				break
			}
		}
		<-time.After(100 * time.Millisecond)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := errors.Join(q.Stop(ctx), pool.Shutdown(ctx)); err != nil {
		return fmt.Errorf("process %s: %w", w.process, err)
	}
	return nil
}
