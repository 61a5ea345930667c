package main

import (
	"context"
	"database/sql"
	"net/url"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivertype"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// hangGrace is how long a file may go on after its time is up before it is given up as hung.
const hangGrace = 2 * time.Second

// An engine is a queue of any kind, and what is done with it but for enqueueing.
type engine struct {
	jobs.Queue
	start func(context.Context) error
	wait  func(context.Context) error // until no job is left
	stop  func(context.Context) error
	close func()
}

// open returns the engine that was asked for. It is not started.
func (p *program) open(ctx context.Context, reg *jobs.Registry) (*engine, error) {
	switch p.engine {
	case "sqlite":
		path, err := filepath.Abs(p.db)
		if err != nil {
			return nil, err
		}
		// Two connections of a process would only be in each other's way, and so would
		// two processes, but for the patience, and transactions that take the lock for
		// writing at once.
		db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: filepath.ToSlash(path),
			RawQuery: "_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_txlock=immediate"}).String())
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(1)
		return stored(ctx, p, reg, riversqlite.New(db), func() { _ = db.Close() })
	case "postgres":
		db, err := pgxpool.New(ctx, p.db)
		if err != nil {
			return nil, err
		}
		return stored(ctx, p, reg, riverpgxv5.New(db), db.Close)
	}
	// Where files wait in memory, few of them do: what is left out when the program is
	// stopped is found again, and a job that waits is memory.
	pool, err := p.newPool(taskpool.WithCapacity(100, taskpool.OverflowWait))
	if err != nil {
		return nil, err
	}
	q := jobs.Local(pool, reg)
	start := func(context.Context) error { return nil }
	return &engine{Queue: q, start: start, wait: pool.WaitIdle, stop: q.Stop, close: func() {}}, nil
}

// stored returns an engine that keeps its jobs in a database.
func stored[TTx any](ctx context.Context, p *program, reg *jobs.Registry, driver riverdriver.Driver[TTx], closeDB func()) (_ *engine, err error) {
	closeAll := closeDB
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	if err := migrate(ctx, driver); err != nil {
		return nil, err
	}
	var pool *taskpool.Pool // nil: the process only enqueues
	if p.workers > 0 {
		if pool, err = p.newPool(); err != nil {
			return nil, err
		}
		closeAll = func() {
			_ = pool.Shutdown(context.Background())
			closeDB()
		}
	}
	// There is no Route: a database is strict about priority, and low work may wait for
	// as long as there is other work. That does no harm where the work has an end.
	q, err := riverjobs.New(driver, reg, riverjobs.Config{Pool: pool, River: river.Config{
		// Nobody tells River that a process was killed: it takes a job for lost when an
		// attempt is older than any may get, by default an hour. So attempts get less
		// time here, and what hangs is given up, and that is stored, before another
		// process is told to do it. River looks every 30 s, and whoever does that
		// may have been killed, too: it takes up to 21 s until another does.
		RescueStuckJobsAfter: (p.timeout + hangGrace + time.Second) / 9 * 10, // riverjobs wants a tenth of it to be left
		// A process fetches jobs only so often, by default every 100 ms, and only as
		// many as it has free workers. These jobs take a few milliseconds.
		FetchCooldown: 5 * time.Millisecond,
		Logger:        p.log,
	}})
	if err != nil {
		return nil, err
	}
	return &engine{Queue: q, start: q.Start, stop: q.Stop, close: closeAll, wait: func(ctx context.Context) error {
		return waitUntilNoneLeft(ctx, pool, q.Client(), reg.Kinds())
	}}, nil
}

// migrate creates River's tables. Where several processes start at once, each failure is
// a step that another has made.
func migrate[TTx any](ctx context.Context, driver riverdriver.Driver[TTx]) (err error) {
	for range 20 {
		if err = riverjobs.Migrate(ctx, driver); err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

// waitUntilNoneLeft looks once a second, after this process has run out of work, whether
// any process has some left.
func waitUntilNoneLeft[TTx any](ctx context.Context, pool *taskpool.Pool, client *river.Client[TTx], kinds []string) error {
	one := river.NewJobListParams().First(1).Kinds(kinds...).States(rivertype.JobStateAvailable, rivertype.JobStatePending,
		rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled)
	for {
		if err := pool.WaitIdle(ctx); err != nil {
			return err
		}
		left, err := client.JobList(ctx, one)
		if err != nil || len(left.Jobs) == 0 {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
