package riverjobs_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

// The errors below have methods that do not return.
type (
	asPanics     struct{ error }
	isPanics     struct{ error }
	unwrapPanics struct{ error }
	errorExits   struct{}
	nilError     struct{ cause error }
)

func (asPanics) As(any) bool       { panic("As") }
func (isPanics) Is(error) bool     { panic("Is") }
func (unwrapPanics) Unwrap() error { panic("Unwrap") }
func (errorExits) Error() string   { runtime.Goexit(); return "" }
func (e *nilError) Error() string  { return e.cause.Error() }
func (e *nilError) Unwrap() error  { return e.cause }

func TestNoMethodOfAnErrorEndsTheProcessOrLosesTheEnd(t *testing.T) {
	hostile := []error{asPanics{errTest}, isPanics{errTest}, unwrapPanics{errTest}, errorExits{}, (*nilError)(nil)}
	var reg jobs.Registry
	next := observe(t, &reg)
	k := jobs.Register(&reg, "kind", func(_ context.Context, _ jobs.Meta, i int) error { return hostile[i] }, jobs.Policy{})
	p := openerOn(t, riversqlite.New(newSQLite(t)))(&reg, riverjobs.Config{Pool: newPool(t)})
	for i := range hostile {
		id := enqueue(t, k, p, i, nil)
		require.Equal(t, jobs.StateDiscarded, next().State, "%T", hostile[i])
		require.Equal(t, rivertype.JobStateDiscarded, p.row(id).State, "%T", hostile[i])
	}
}

func TestAnErrorOfRiversFromAHandlerIsAnErrorLikeAnyOther(t *testing.T) {
	rivers := []error{river.JobSnooze(time.Hour), river.JobCancel(errTest), river.ErrJobCancelledRemotely,
		&river.UnknownJobKindError{Kind: "other"}, fmt.Errorf("wrapped: %w", river.JobSnooze(time.Hour))}
	var reg jobs.Registry
	next := observe(t, &reg)
	k := jobs.Register(&reg, "kind", func(_ context.Context, _ jobs.Meta, i int) error { return rivers[i] },
		jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }})
	p := openerOn(t, riversqlite.New(newSQLite(t)))(&reg, riverjobs.Config{Pool: newPool(t)})
	for i, own := range rivers {
		id := enqueue(t, k, p, i, nil)
		for attempt, state := range []jobs.State{jobs.StateRetrying, jobs.StateDiscarded} {
			e := next()
			require.Equal(t, state, e.State, "%v", own)
			require.Equal(t, attempt+1, e.Attempt)
			require.ErrorIs(t, e.Err, own)
		}
		row := p.row(id)
		require.Equal(t, rivertype.JobStateDiscarded, row.State)
		require.Equal(t, own.Error(), row.Errors[1].Error)
	}
}

// rescueSoon makes those rows lost that have been running for three seconds.
func rescueSoon(lead bool) river.Config {
	r := quick()
	r.RescueStuckJobsAfter = 3 * time.Second
	r.LeaderElectionDisabled = !lead
	return r
}

func TestJobThatWaitsForAWorkerGoesBackBeforeItIsTakenForLost(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg, other jobs.Registry
		next, otherNext := observe(t, &reg), observe(t, &other)
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		jobs.Register(&other, "kind", done, jobs.Policy{})
		pool := newPool(t, taskpool.WithHangGrace(100*time.Millisecond))
		gate := make(chan struct{})
		defer close(gate)
		require.NoError(t, pool.Go(taskpool.High, func() { <-gate })) // work of somebody else's
		p := open(&reg, riverjobs.Config{Pool: pool, River: rescueSoon(false)})
		enqueue(t, k, p, 1, nil)
		e := next()
		require.Equal(t, jobs.StateRetrying, e.State)
		require.ErrorContains(t, e.Err, "no worker free")
		require.Equal(t, time.Second, e.Delay)

		require.NoError(t, p.Stop(t.Context()))
		open(&other, riverjobs.Config{Pool: newPool(t, taskpool.WithHangGrace(100*time.Millisecond)), River: rescueSoon(true)})
		e = otherNext()
		require.Equal(t, jobs.StateCompleted, e.State)
		require.Equal(t, 1, e.Attempt)
	})
}

func TestPoolThatShedsGivesJobsBack(t *testing.T) {
	var reg jobs.Registry
	next := observe(t, &reg)
	k := jobs.Register(&reg, "kind", done, jobs.Policy{Priority: taskpool.Low})
	pool := newPool(t, taskpool.WithCapacity(1, taskpool.OverflowShed))
	gate := make(chan struct{})
	require.NoError(t, pool.Go(taskpool.Medium, func() { <-gate }))
	p := openerOn(t, riversqlite.New(newSQLite(t)))(&reg, riverjobs.Config{Pool: pool})
	enqueue(t, k, p, 1, nil)
	require.Eventually(t, func() bool { return pool.Stats().Queued > 0 }, patience, time.Millisecond)
	require.NoError(t, pool.Go(taskpool.High, func() {}))
	e := next()
	require.Equal(t, jobs.StateRetrying, e.State)
	require.ErrorIs(t, e.Err, taskpool.ErrShed)
	close(gate)
	for e = next(); e.State == jobs.StateRetrying; e = next() { // it may have come again too soon
	}
	require.Equal(t, jobs.StateCompleted, e.State)
	require.Equal(t, 1, e.Attempt)
}

func TestEachJobHasOneFinalEventAndNothingAfterIt(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		const n = 100
		var reg jobs.Registry
		var mu sync.Mutex
		told := map[jobs.ID][]jobs.Event{}
		var finals sync.WaitGroup
		finals.Add(n)
		reg.Observe(func(e jobs.Event) {
			mu.Lock()
			defer mu.Unlock()
			final := func(e jobs.Event) bool { return e.State != jobs.StateRetrying }
			before := told[e.ID]
			told[e.ID] = append(before, e)
			if len(before) > 0 && final(before[len(before)-1]) {
				t.Errorf("after its end: %+v", told[e.ID])
			} else if final(e) {
				finals.Done()
			}
		})
		k := jobs.Register(&reg, "kind", func(ctx context.Context, m jobs.Meta, n int) error {
			if n%2 == 0 {
				return errTest
			}
			return nil
		}, jobs.Policy{MaxAttempts: 3, Backoff: func(int) time.Duration { return rand.N(5 * time.Millisecond) }})
		p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(8))})
		var cancels sync.WaitGroup
		for i := range n {
			id := enqueue(t, k, p, i, nil)
			for range i % 3 { // some are canceled by two at once
				cancels.Go(func() { _ = p.Cancel(context.Background(), id) })
			}
		}
		cancels.Wait()
		finals.Wait()
		require.NoError(t, p.Stop(t.Context()), "all has been told then")
	})
}

func TestCancellationIsToldAfterTheRetryThatItEnds(t *testing.T) {
	var reg jobs.Registry
	gate := make(chan struct{})
	reg.Observe(func(e jobs.Event) {
		if e.Kind == "slow" {
			<-gate
		}
	})
	next := observe(t, &reg)
	slow := jobs.Register(&reg, "slow", done, jobs.Policy{})
	k := jobs.Register(&reg, "kind", func(context.Context, jobs.Meta, int) error { return taskpool.RetryAfter(time.Hour, errTest) },
		jobs.Policy{MaxAttempts: 3})
	p := openerOn(t, riversqlite.New(newSQLite(t)))(&reg, riverjobs.Config{Pool: newPool(t)})
	enqueue(t, slow, p, 1, nil)
	id := enqueue(t, k, p, 1, nil)
	require.Eventually(t, func() bool { return p.row(id).State == rivertype.JobStateRetryable }, patience, time.Millisecond)
	require.NoError(t, p.Cancel(t.Context(), id), "no observer holds it up")
	close(gate)
	var states []jobs.State
	for range 3 {
		if e := next(); e.ID == id {
			states = append(states, e.State)
		}
	}
	require.Equal(t, []jobs.State{jobs.StateRetrying, jobs.StateCanceled}, states)
}

func TestOneOfManyCancelsAtOnceEndsAJobThatWaits(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		var told atomic.Int32
		reg.Observe(func(jobs.Event) { told.Add(1) })
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		q := open(&reg, riverjobs.Config{})
		id := enqueue(t, k, q, 1, &jobs.Options{NotBefore: time.Now().Add(time.Hour)})
		var all sync.WaitGroup
		var ended atomic.Int32
		for range 5 {
			all.Go(func() {
				if err := q.Cancel(context.Background(), id); err == nil {
					ended.Add(1)
				} else if !errors.Is(err, jobs.ErrNotFound) {
					t.Errorf("Cancel: %v", err)
				}
			})
		}
		all.Wait()
		require.NoError(t, q.Stop(t.Context())) // waits for the observers
		require.EqualValues(t, 1, ended.Load())
		require.EqualValues(t, 1, told.Load())
	})
}

// startedIn returns a queue whose database answers nobody until answer is called.
func startedIn(t *testing.T, reg *jobs.Registry) (q queue, started <-chan error, answer func() error) {
	t.Helper()
	db := newSQLite(t)
	r, err := riverjobs.New(riversqlite.New(db), reg, riverjobs.Config{Pool: newPool(t, taskpool.WithHangGrace(time.Millisecond)), River: quick()})
	require.NoError(t, err)
	tx, err := db.Begin() // it takes the only connection
	require.NoError(t, err)
	c := make(chan error, 1)
	go func() { c <- r.Start(context.Background()) }()
	require.Eventually(t, func() bool { return db.Stats().WaitCount > 0 }, patience, time.Millisecond)
	return r, c, tx.Rollback
}

func TestStopThatIsCutShortEndsAStartThatWaitsForTheDatabase(t *testing.T) {
	var reg jobs.Registry
	jobs.Register(&reg, "kind", done, jobs.Policy{})
	q, started, answer := startedIn(t, &reg)
	impatient, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	require.ErrorIs(t, q.Stop(impatient), errTest)
	require.ErrorIs(t, <-started, errTest)
	require.NoError(t, answer())
	require.NoError(t, q.Start(t.Context()), "it may be started again")
	require.NoError(t, q.Stop(t.Context()))
}

func TestHandlersCancelOfItsOwnJobOutlivesTheContextThatItEnds(t *testing.T) {
	var reg jobs.Registry
	k := jobs.Register(&reg, "kind", done, jobs.Policy{})
	q, err := riverjobs.New(riversqlite.New(newSQLite(t)), &reg, riverjobs.Config{River: quick()})
	require.NoError(t, err)
	own, err := k.Enqueue(t.Context(), q, 1, nil)
	require.NoError(t, err)
	other, err := k.Enqueue(t.Context(), q, 2, nil)
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	handlers := engine.WithMeta(ended, jobs.Meta{ID: own})
	require.ErrorIs(t, q.Cancel(handlers, other), context.Canceled)
	late, cancelLate := context.WithDeadline(handlers, time.Now())
	defer cancelLate()
	require.ErrorIs(t, q.Cancel(late, own), context.DeadlineExceeded)
	require.NoError(t, q.Cancel(handlers, own))
	require.NoError(t, q.Cancel(t.Context(), other), "it was left alone")
}

func TestStopWaitsForAStartUnderWay(t *testing.T) {
	var reg jobs.Registry
	ran := make(chan struct{}, 1)
	k := jobs.Register(&reg, "kind", func(context.Context, jobs.Meta, int) error { ran <- struct{}{}; return nil }, jobs.Policy{})
	q, started, answer := startedIn(t, &reg)
	stopped := make(chan error, 1)
	go func() { stopped <- q.Stop(context.Background()) }()
	require.NoError(t, answer())
	require.NoError(t, <-started)
	require.NoError(t, <-stopped)
	enqueue(t, k, q, 1, nil)
	require.NoError(t, q.Stop(t.Context()))
	require.Empty(t, ran, "nothing is at work any more")
}

func TestStopIsBoundedWhenTheDatabaseDoesNotAnswer(t *testing.T) {
	db := newSQLite(t)
	var reg jobs.Registry
	started := make(chan struct{})
	k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}, jobs.Policy{})
	p := openerOn(t, riversqlite.New(db))(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithHangGrace(time.Millisecond))})
	id := enqueue(t, k, p, 1, nil)
	await(t, started)
	tx, err := db.Begin()
	require.NoError(t, err)
	impatient, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	err = p.Stop(impatient)
	require.ErrorIs(t, err, errTest)
	require.ErrorContains(t, err, "may not be stored")
	require.ErrorContains(t, p.Start(t.Context()), "is started", "the rest has not ended")
	require.NoError(t, tx.Rollback())
	require.Error(t, p.Stop(t.Context()), "it was cut short")
	require.Equal(t, rivertype.JobStateAvailable, p.row(id).State, "it is stored since")
}

func TestStopInATaskOfThePoolIsErrInside(t *testing.T) {
	var reg jobs.Registry
	var p *process
	got := make(chan error, 1)
	k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error { got <- p.Stop(ctx); return nil }, jobs.Policy{})
	next := observe(t, &reg)
	p = openerOn(t, riversqlite.New(newSQLite(t)))(&reg, riverjobs.Config{Pool: newPool(t)})
	for range 2 { // it goes on
		enqueue(t, k, p, 1, nil)
		require.Equal(t, taskpool.ErrInside, <-got)
		require.Equal(t, jobs.StateCompleted, next().State)
	}
}

func TestKindRegisteredTooLateIsRefused(t *testing.T) {
	var reg jobs.Registry
	next := observe(t, &reg)
	var p *process
	var late *jobs.Kind[int]
	k := jobs.Register(&reg, "kind", func(ctx context.Context, _ jobs.Meta, _ int) error {
		_, err := late.Enqueue(ctx, p, 1, nil)
		return err
	}, jobs.Policy{MaxAttempts: 5})
	p = openerOn(t, riversqlite.New(newSQLite(t)))(&reg, riverjobs.Config{Pool: newPool(t)})
	late = jobs.Register(&reg, "late", done, jobs.Policy{})
	enqueue(t, k, p, 1, nil)
	e := next()
	require.Equal(t, jobs.StateRetrying, e.State, "the handler's own kind is known")
	require.ErrorIs(t, e.Err, jobs.ErrUnknownKind)
	require.EqualError(t, e.Err, `jobs: unknown kind "late": it was registered after New`)
}

// A syncBuffer is a bytes.Buffer for many goroutines.
type syncBuffer struct {
	mu sync.Mutex // protects the field below
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) count(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.b.Bytes(), []byte(text))
}

func TestQueueWhosePoolIsShutDownLeavesJobsToOthers(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg, other jobs.Registry
		next, otherNext := observe(t, &reg), observe(t, &other)
		k := jobs.Register(&reg, "kind", done, jobs.Policy{})
		jobs.Register(&other, "kind", done, jobs.Policy{})
		var log syncBuffer
		r := quick()
		r.Logger = slog.New(slog.NewTextHandler(&log, nil))
		pool := newPool(t, taskpool.WithWorkers(4))
		p := open(&reg, riverjobs.Config{Pool: pool, River: r})
		require.NoError(t, pool.Shutdown(t.Context()))
		for i := range 20 {
			enqueue(t, k, p, i, nil)
		}
		require.ErrorIs(t, next().Err, taskpool.ErrClosed)
		require.Eventually(t, func() bool { return log.count("River client stopped") > 0 }, patience, time.Millisecond)
		require.Equal(t, 1, log.count("the pool was shut down before the queue was stopped"))
		require.NoError(t, p.Stop(t.Context()))

		open(&other, riverjobs.Config{Pool: newPool(t, taskpool.WithWorkers(4))})
		for range 20 {
			e := otherNext()
			require.Equal(t, jobs.StateCompleted, e.State)
			require.Equal(t, 1, e.Attempt)
		}
	})
}

func TestProcessesShareASQLiteFileOpenedAsTheDocSays(t *testing.T) {
	const n = 50
	source := "file:" + filepath.Join(t.TempDir(), "jobs.sqlite") + "?_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_txlock=immediate" +
		"&_pragma=synchronous(0)" // which is quicker, and has no part in this
	var ran, all sync.WaitGroup
	ran.Add(2 * n)
	for range 2 {
		db, err := sql.Open("sqlite", source)
		require.NoError(t, err)
		db.SetMaxOpenConns(1)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		require.NoError(t, riverjobs.Migrate(t.Context(), riversqlite.New(db)))
		var reg jobs.Registry
		k := jobs.Register(&reg, "kind", func(context.Context, jobs.Meta, int) error { ran.Done(); return nil }, jobs.Policy{})
		q := started(t, riversqlite.New(db), &reg, riverjobs.Config{Pool: newPool(t), River: quick()})
		all.Go(func() {
			for i := range n {
				if _, err := k.Enqueue(context.Background(), q, i, nil); err != nil {
					t.Error(err)
					ran.Done()
				}
			}
		})
	}
	all.Wait()
	ran.Wait()
}

func TestRowsTraceHasTheStackOfAPanicAndTheLogNamesTheJob(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		var log syncBuffer
		k := jobs.Register(&reg, "kind", func(_ context.Context, m jobs.Meta, _ int) error {
			if m.Attempt == 1 {
				panic("as the handler says")
			}
			return errTest
		}, jobs.Policy{MaxAttempts: 2, Backoff: func(int) time.Duration { return 0 }})
		p := open(&reg, riverjobs.Config{Pool: newPool(t, taskpool.WithLogger(slog.New(jobs.LogHandler(slog.NewTextHandler(&log, nil)))))})
		id := enqueue(t, k, p, 1, nil)
		require.Equal(t, jobs.StateRetrying, next().State)
		require.Equal(t, jobs.StateDiscarded, next().State)
		row := p.row(id)
		require.Len(t, row.Errors, 2)
		require.Equal(t, "taskpool: task panicked: as the handler says", row.Errors[0].Error)
		require.Contains(t, row.Errors[0].Trace, "robust_test.go")
		require.Equal(t, 1, row.Errors[0].Attempt)
		require.Empty(t, row.Errors[1].Trace)
		require.NotContains(t, string(row.Metadata), "taskpool_trace")
		for attempt := range 2 {
			require.Equal(t, 1, log.count(fmt.Sprintf("job.id=%s job.kind=kind job.attempt=%d", id, attempt+1)))
		}
	})
}

func TestRowHasAtMost64KiBOfAnErrorAndOfAStack(t *testing.T) {
	onEach(t, func(t *testing.T, open opener) {
		var reg jobs.Registry
		next := observe(t, &reg)
		k := jobs.Register(&reg, "kind", func(context.Context, jobs.Meta, int) error { return errors.New(strings.Repeat("ü", 1<<20)) }, jobs.Policy{})
		p := open(&reg, riverjobs.Config{Pool: newPool(t)})
		id := enqueue(t, k, p, 1, nil)
		require.Len(t, next().Err.Error(), 2<<20, "the observer gets all of it")
		text := p.row(id).Errors[0].Error
		require.LessOrEqual(t, len(text), 64<<10)
		require.Greater(t, len(text), 60<<10)
		require.True(t, strings.HasSuffix(text, "ü... (cut)"))
	})
}
