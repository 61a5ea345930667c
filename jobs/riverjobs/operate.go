package riverjobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool/internal/contain"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

// What operators do to the jobs of the database, whichever processes run them.

// isDue says, in SQL, whether the time of a row has come by the database's clock.
func (q *Queue[TTx]) isDue() string {
	if q.fence.postgres {
		return "scheduled_at <= now()"
	}
	return "julianday(scheduled_at) <= julianday('now')"
}

// unsettledStates are the states of the jobs that operators see.
const unsettledStates = "('available', 'pending', 'retryable', 'running', 'scheduled')"

// List returns jobs of the database, see [jobs.Operator]. It is one statement, which looks at
// rows in the order of their IDs until it has enough, also at those that have settled and are
// not deleted yet; with Filter.Flow set it looks into each one's metadata.
func (q *Queue[TTx]) List(ctx context.Context, f jobs.Filter) ([]jobs.Info, error) {
	f, err := engine.ValidateFilter(f)
	if err != nil {
		return nil, err
	}
	p := river.NewJobListParams().First(f.Limit).OrderBy(river.JobListOrderByID, river.SortOrderAsc).
		States(rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled)
	if f.Queue != "" {
		p = p.Queues(f.Queue)
	}
	if f.Kind != "" {
		p = p.Kinds(f.Kind)
	}
	if f.Flow != "" {
		p = p.Where("metadata ->> 'taskpool_flow' = @flow", river.NamedArgs{"flow": f.Flow})
	}
	if f.After != "" {
		after, _ := strconv.ParseInt(string(f.After), 10, 64)
		p = p.Where("id > @after", river.NamedArgs{"after": after})
	}
	waits := "state = 'available' AND " + q.isDue()
	var any []string
	for _, s := range f.Status {
		any = append(any, [...]string{jobs.StatusWaiting: waits,
			jobs.StatusDelayed: "state <> 'running' AND NOT (" + waits + ")", jobs.StatusRunning: "state = 'running'"}[s])
	}
	if len(any) > 0 {
		p = p.Where("((" + strings.Join(any, ") OR (") + "))")
	}
	found, err := q.client.JobList(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("riverjobs: List: %w", err)
	}
	now, err := q.fence.databaseTime(ctx, q.client.Driver().GetExecutor())
	if err != nil {
		return nil, err
	}
	list := make([]jobs.Info, len(found.Jobs))
	for i, row := range found.Jobs {
		list[i] = jobs.Info{Meta: meta(row), Queue: row.Queue, Status: jobs.StatusDelayed, Due: row.ScheduledAt}
		switch {
		case row.State == rivertype.JobStateRunning:
			list[i].Status = jobs.StatusRunning
		case row.State == rivertype.JobStateAvailable && !row.ScheduledAt.After(now) && (len(f.Status) == 0 || slices.Contains(f.Status, jobs.StatusWaiting)):
			list[i].Status = jobs.StatusWaiting
		}
	}
	return list, nil
}

// Depths counts the jobs of the database, see [jobs.Operator]. Where millions wait, look once a
// minute and not at each scrape.
func (q *Queue[TTx]) Depths(ctx context.Context) ([]jobs.Depth, error) {
	waits := "state = 'available' AND " + q.isDue()
	oldest, array, group := "unixepoch('now', 'subsec') - min(unixepoch(scheduled_at, 'subsec'))", "json_array", "json_group_array"
	if q.fence.postgres {
		oldest, array, group = "extract(epoch FROM clock_timestamp() - min(scheduled_at)", "json_build_array", "json_agg"
		oldest += " FILTER (WHERE " + waits + "))"
	} else {
		oldest += " FILTER (WHERE " + waits + ")"
	}
	var found string // [[queue, kind, waiting, delayed, running, milliseconds], ...]
	err := q.client.Driver().GetExecutor().QueryRow(ctx, `SELECT coalesce(`+group+`(`+array+`(queue, kind, waiting, delayed, running, oldest)), '[]')`+q.text()+` FROM (
			SELECT queue, kind, count(*) FILTER (WHERE `+waits+`) AS waiting,
				count(*) FILTER (WHERE state <> 'running' AND NOT (`+waits+`)) AS delayed,
				count(*) FILTER (WHERE state = 'running') AS running,
				CAST(coalesce(1000 * (`+oldest+`), 0) AS bigint) AS oldest
			FROM `+table(q.client.Schema())+` WHERE state IN `+unsettledStates+`
			GROUP BY queue, kind ORDER BY queue, kind) AS depths`).Scan(&found)
	if err != nil {
		return nil, fmt.Errorf("riverjobs: Depths: %w", err)
	}
	var rows [][6]any
	if err := json.Unmarshal([]byte(found), &rows); err != nil {
		return nil, fmt.Errorf("riverjobs: Depths: %w", err)
	}
	all := make([]jobs.Depth, len(rows))
	number := func(v any) int { f, _ := v.(float64); return int(f) }
	for i, r := range rows {
		d := &all[i]
		d.Queue, _ = r[0].(string)
		d.Kind, _ = r[1].(string)
		d.Waiting, d.Delayed, d.Running = number(r[2]), number(r[3]), number(r[4])
		d.Oldest = max(time.Duration(number(r[5]))*time.Millisecond, 0)
	}
	return all, nil
}

// text makes text of JSON, in SQL.
func (q *Queue[TTx]) text() string {
	if q.fence.postgres {
		return "::text"
	}
	return ""
}

// Pause pauses a queue in all processes, see [jobs.Operator]. River tells them at once on
// PostgreSQL, and within a minute if the message is lost; on SQLite this process's knows at once
// and the others when they look next. A queue is there once a process has worked on it.
func (q *Queue[TTx]) Pause(ctx context.Context, queue string) error {
	return operated("Pause", queue, q.client.QueuePause(ctx, riverQueue(queue), nil))
}

// Resume resumes a queue, see [Queue.Pause].
func (q *Queue[TTx]) Resume(ctx context.Context, queue string) error {
	return operated("Resume", queue, q.client.QueueResume(ctx, riverQueue(queue), nil))
}

// riverQueue returns what River calls a queue, or all.
func riverQueue(queue string) string {
	if queue == "" {
		return "*"
	}
	return queue
}

func operated(call, queue string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, river.ErrNotFound):
		return fmt.Errorf("riverjobs: %s: there is no queue %q", call, queue)
	}
	return fmt.Errorf("riverjobs: %s of queue %q: %w", call, queue, err)
}

// EnqueuePeriodically is for [jobs.Kind.Periodic]: it makes r a periodic job of River's. River's
// leader adds it, at most a second late, and none is added while there is no leader, as after the
// death of one, for up to 15 s. So call it in each process that has a Pool, before Start.
func (q *Queue[TTx]) EnqueuePeriodically(s jobs.Schedule, r jobs.Request) (stop func(), err error) {
	switch {
	case s == nil:
		return nil, errors.New("riverjobs: EnqueuePeriodically: s must not be nil")
	case q.worker.pool == nil:
		return nil, errors.New("riverjobs: EnqueuePeriodically: Config.Pool must be set, as those processes add periodic jobs that run jobs")
	case q.noLeader:
		return nil, errors.New("riverjobs: EnqueuePeriodically: Config.River.LeaderElectionDisabled must not be set")
	}
	if err := q.validate(r); err != nil {
		return nil, err
	}
	queue := q.route(r)
	key := r.Kind + "\x00" + r.UniqueKey
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.periodic[key] {
		return nil, fmt.Errorf("riverjobs: EnqueuePeriodically: there is a series of kind %q with the key %q already", r.Kind, r.UniqueKey)
	}
	bundle := q.client.PeriodicJobs()
	handle, err := bundle.AddSafely(river.NewPeriodicJob(&schedule{s, r.Kind, q}, func() (river.JobArgs, *river.InsertOpts) {
		a, o := newArgs(r, queue)
		return a, o
	}, nil))
	if err != nil {
		return nil, fmt.Errorf("riverjobs: EnqueuePeriodically: %w", err)
	}
	if q.periodic == nil {
		q.periodic = make(map[string]bool)
	}
	q.periodic[key] = true
	return sync.OnceFunc(func() {
		bundle.Remove(handle)
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.periodic, key)
	}), nil
}

// A schedule is the user's as River may call it: with a lock held, for one round after the
// other, however long ago they were due.
type schedule struct {
	s    jobs.Schedule
	kind string
	q    interface{ scheduleFailed(kind string, v any) }
}

func (s *schedule) Next(t time.Time) time.Time {
	next := river.NeverSchedule().Next(t)
	contain.Apart(func() {
		at := s.s.Next(t)
		if now := time.Now(); at.Before(now) { // the process was frozen
			at = s.s.Next(now)
		}
		if !at.IsZero() {
			next = at
		}
	}, func(v any) { s.q.scheduleFailed(s.kind, v) })
	return next
}

// scheduleFailed is called where a schedule panics or calls runtime.Goexit: its series is over.
func (q *Queue[TTx]) scheduleFailed(kind string, v any) {
	q.logger.Error("riverjobs: a Schedule panicked or called runtime.Goexit, and adds no more jobs", "kind", kind, "panic", fmt.Sprint(v))
}
