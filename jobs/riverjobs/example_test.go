package riverjobs_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	_ "modernc.org/sqlite"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// Urgent jobs come first for three of four workers. The fourth is there for low work
// alone, which therefore never waits for ever.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "riverjobs")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "jobs.sqlite")+
		"?_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_txlock=immediate") // processes wait for each other
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	driver := riversqlite.New(db)
	if err := riverjobs.Migrate(ctx, driver); err != nil {
		log.Fatal(err)
	}

	type Report struct{ Month string }
	var reg jobs.Registry
	finished := make(chan string)
	report := jobs.Register(&reg, "report", func(ctx context.Context, m jobs.Meta, r Report) error {
		finished <- "report of " + r.Month
		return nil
	}, jobs.Policy{Priority: taskpool.Low, MaxAttempts: 3})

	pool, err := taskpool.New(taskpool.WithWorkers(4))
	if err != nil {
		log.Fatal(err)
	}
	q, err := riverjobs.New(driver, &reg, riverjobs.Config{
		Pool: pool,
		Route: func(r jobs.Request) string {
			if r.Priority >= taskpool.Low {
				return "low"
			}
			return river.QueueDefault
		},
		River: river.Config{Queues: map[string]river.QueueConfig{
			river.QueueDefault: {MaxWorkers: 3},
			"low":              {MaxWorkers: 1},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := report.Enqueue(ctx, q, Report{"May"}, nil); err != nil { // it is stored
		log.Fatal(err)
	}
	if err := q.Start(ctx); err != nil { // in this process or another one
		log.Fatal(err)
	}
	fmt.Println(<-finished)
	fmt.Println("stop:", q.Stop(ctx))
	fmt.Println("shutdown:", pool.Shutdown(ctx))
	// Output:
	// report of May
	// stop: <nil>
	// shutdown: <nil>
}
