package riverjobs_test

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
	"github.com/taskpool-go/taskpool/jobs/riverjobs/internal/chaos"
)

func TestMain(m *testing.M) {
	if os.Getenv(chaos.WorkerEnv) != "" {
		if err := chaos.Work(); err != nil {
			fmt.Fprintln(os.Stderr, "worker process:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if server.skip != "" { // without -v, nobody would see it
			fmt.Fprintln(os.Stderr, "the tests on PostgreSQL were skipped:", server.skip)
		}
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
	once      sync.Once
	url, data string   // data is empty if the server is not ours
	skip      string   // why there is none
	made      []string // databases, to be dropped in the end if the server is not ours
	stop_     func() error
}

func (p *postgres) start() {
	if p.url, p.data = os.Getenv("TASKPOOL_POSTGRES_URL"), os.Getenv("TASKPOOL_POSTGRES_DATA"); p.url != "" {
		return
	}
	if out, err := exec.Command("./postgres.sh", "installed").CombinedOutput(); err != nil {
		p.skip = cmp.Or(strings.TrimSpace(string(out)), err.Error())
		return
	}
	cmd := exec.Command("./postgres.sh", "sh", "-c", `echo "$TASKPOOL_POSTGRES_URL $TASKPOOL_POSTGRES_DATA"; exec cat >/dev/null`)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		panic(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	p.stop_ = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		panic(fmt.Sprintf("postgres.sh: %v, %v", err, p.stop_()))
	}
	p.url, p.data, _ = strings.Cut(strings.TrimSpace(line), " ")
}

func (p *postgres) stop() error {
	if p.stop_ != nil {
		return p.stop_()
	}
	if len(p.made) == 0 || p.data != "" {
		return nil
	}
	ctx := context.Background()
	admin, err := pgx.Connect(ctx, p.url)
	if err != nil {
		return err
	}
	for _, name := range p.made {
		_, e := admin.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
		err = errors.Join(err, e)
	}
	return errors.Join(err, admin.Close(ctx))
}

// postgresURL returns that of the server. Without one the test is skipped, or has
// failed if CI_REQUIRE_POSTGRES is 1.
func postgresURL(t testing.TB) string {
	t.Helper()
	server.once.Do(server.start)
	if server.skip != "" {
		if os.Getenv("CI_REQUIRE_POSTGRES") == "1" {
			t.Fatalf("CI_REQUIRE_POSTGRES=1, but %s", server.skip)
		}
		t.Skipf("no PostgreSQL: %s", server.skip)
	}
	return server.url
}

var databases atomic.Int64

// template is the name of a database with River's tables, of which the others are copies:
// making the tables takes longer than most tests.
var template = sync.OnceValues(func() (name string, err error) {
	ctx := context.Background()
	name = fmt.Sprintf("template_%d", os.Getpid())
	admin, err := pgx.Connect(ctx, server.url)
	if err != nil {
		return "", err
	}
	if _, err = admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", errors.Join(err, admin.Close(ctx))
	}
	server.made = append(server.made, name)
	db, err := pgxpool.New(ctx, databaseURL(name))
	if err == nil {
		err = riverjobs.Migrate(ctx, riverpgxv5.New(db))
		db.Close()
	}
	return name, errors.Join(err, admin.Close(ctx))
})

// databaseURL returns that of the database of the server.
func databaseURL(name string) string {
	u, err := url.Parse(server.url)
	if err != nil {
		panic(err)
	}
	u.Path = "/" + name
	return u.String()
}

// newPostgres returns a new database with River's tables. It stays until the end: to drop one
// the server writes all that it has to the disk.
func newPostgres(t testing.TB) *pgxpool.Pool {
	t.Helper()
	url := postgresURL(t)
	from, err := template()
	require.NoError(t, err)
	admin, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))
	_, err = admin.Exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+from)
	require.NoError(t, err)
	require.NoError(t, admin.Close(t.Context()))
	server.made = append(server.made, name)
	db, err := pgxpool.New(t.Context(), databaseURL(name))
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return db
}

// sqlite returns the contents of a database with River's tables.
var sqlite = sync.OnceValues(func() (contents []byte, err error) {
	dir, err := os.MkdirTemp("", "riverjobs")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "jobs.sqlite")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return nil, err
	}
	err = riverjobs.Migrate(context.Background(), riversqlite.New(db))
	if err = errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// newSQLite returns a new database with River's tables, in a file.
func newSQLite(t testing.TB) *sql.DB {
	t.Helper()
	contents, err := sqlite()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "jobs.sqlite")
	require.NoError(t, os.WriteFile(path, contents, 0o600))
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(0)") // does not wait for the disk
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

var quiet = slog.New(slog.DiscardHandler)

// quick is a configuration under which nothing waits long.
func quick() river.Config {
	return river.Config{FetchCooldown: time.Millisecond, FetchPollInterval: 10 * time.Millisecond, TestOnly: true, Logger: quiet}
}

// newPool returns a pool that is shut down after the test.
func newPool(t testing.TB, opts ...taskpool.Option) *taskpool.Pool {
	t.Helper()
	pool, err := taskpool.New(append([]taskpool.Option{taskpool.WithWorkers(1), taskpool.WithLogger(quiet)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = pool.Shutdown(context.Background()) })
	return pool
}

// started returns a queue at work.
func started[TTx any](t testing.TB, driver riverdriver.Driver[TTx], reg *jobs.Registry, c riverjobs.Config) *riverjobs.Queue[TTx] {
	t.Helper()
	q, err := riverjobs.New(driver, reg, c)
	require.NoError(t, err)
	require.NoError(t, q.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, q.Stop(context.Background())) })
	return q
}
