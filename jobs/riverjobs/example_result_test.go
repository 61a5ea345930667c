package riverjobs_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/riverqueue/river/riverdriver/riversqlite"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// A Sum is the result of a job.
type Sum struct{ Total int }

// saveResult stores what an attempt has come to, in one transaction with whatever else the handler
// writes. A job may run twice, so a result that is there is replaced.
func saveResult[T any](ctx context.Context, tx *sql.Tx, m jobs.Meta, result T) error {
	text, err := json.Marshal(result)
	if err != nil {
		return taskpool.Permanent(err)
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO results (job, result) VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET result = excluded.result", string(m.ID), string(text))
	return err
}

// loadResult returns the result of a job, whichever process has run it; sql.ErrNoRows if there is
// none yet.
func loadResult[T any](ctx context.Context, db *sql.DB, id jobs.ID) (result T, err error) {
	var text string
	if err = db.QueryRowContext(ctx, "SELECT result FROM results WHERE job = ?", string(id)).Scan(&text); err == nil {
		err = json.Unmarshal([]byte(text), &result)
	}
	return result, err
}

// A handler stores its result in a table of the program's, with a type of the program's. There
// it is found by the ID that Enqueue has returned, in any process, for as long as the program
// keeps it.
func Example_result() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "riverjobs")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "jobs.sqlite")+
		"?_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if err := riverjobs.Migrate(ctx, riversqlite.New(db)); err != nil {
		log.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE results (job TEXT PRIMARY KEY, result TEXT NOT NULL)"); err != nil {
		log.Fatal(err)
	}

	var reg jobs.Registry
	sum := jobs.Register(&reg, "sum", func(ctx context.Context, m jobs.Meta, numbers []int) error {
		var s Sum
		for _, n := range numbers {
			s.Total += n
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if err := saveResult(ctx, tx, m, s); err != nil {
			return err
		}
		return tx.Commit()
	}, jobs.Policy{MaxAttempts: 3})
	completed := make(chan jobs.ID, 1)
	reg.Observe(func(e jobs.Event) {
		if e.State == jobs.StateCompleted {
			completed <- e.ID // another process would look at the table
		}
	})

	pool, err := taskpool.New(taskpool.WithWorkers(1))
	if err != nil {
		log.Fatal(err)
	}
	q, err := riverjobs.New(riversqlite.New(db), &reg, riverjobs.Config{Pool: pool})
	if err != nil {
		log.Fatal(err)
	}
	if err := q.Start(ctx); err != nil {
		log.Fatal(err)
	}
	id, err := sum.Enqueue(ctx, q, []int{1, 2, 3}, nil)
	if err != nil {
		log.Fatal(err)
	}
	<-completed
	s, err := loadResult[Sum](ctx, db, id)
	fmt.Println("total:", s.Total, err)
	fmt.Println("stop:", q.Stop(ctx), pool.Shutdown(ctx))
	// Output:
	// total: 6 <nil>
	// stop: <nil> <nil>
}
