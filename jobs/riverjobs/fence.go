package riverjobs

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivershared/baseservice"
	"github.com/riverqueue/river/rivershared/riverpilot"
	"github.com/riverqueue/river/rivershared/startstop"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

// River stores the end of an attempt if the row is running, whoever runs it, and takes an
// attempt for lost by the clock of the leader. So a process that was frozen for longer than
// RescueStuckJobsAfter, and goes on, would end the attempt of the process that has the job
// since; and a leader whose clock is ahead would take jobs from those that work on them. A
// fence stands between River and the driver, where River lets its own extensions stand:
// what it stores, it stores for the attempt that it is the end of, and it asks the database
// what time it is.

// A fencedDriver is a driver for a client that has a fence.
type fencedDriver[TTx any] struct {
	riverdriver.Driver[TTx]
	fence *fence
}

// A driverPlugin is a driver that has a pilot of its own.
type driverPlugin interface {
	PluginInit(archetype *baseservice.Archetype)
	PluginPilot() riverpilot.Pilot
}

// PluginInit is called before PluginPilot.
func (d *fencedDriver[TTx]) PluginInit(archetype *baseservice.Archetype) {
	if p, ok := d.Driver.(driverPlugin); ok {
		p.PluginInit(archetype)
		if inner := p.PluginPilot(); inner != nil {
			d.fence.Pilot = inner
		}
	}
}

func (d *fencedDriver[TTx]) PluginPilot() riverpilot.Pilot { return d.fence }

// A fence is the pilot of a client: what River does with rows goes through it. Where it has
// no more to say, it is the pilot that the client would have had.
type fence struct {
	riverpilot.Pilot
	reg      *jobs.Registry
	events   *events
	logger   *slog.Logger
	postgres bool
	rescue   time.Duration // RescueStuckJobsAfter

	mu      sync.Mutex                  // protects the field below
	foreign map[int64]*rivertype.JobRow // of the jobs that seem lost, those of kinds that the registry does not have
}

// The keys under which an attempt has its number and its stack stored with its end. Neither
// comes to the row's metadata.
const (
	attemptKey = "taskpool_attempt"
	traceKey   = "taskpool_trace"
)

// Notes are what an attempt has to say to the fence.
type notes struct {
	attempt int    // 0: it is not said
	trace   string // of a panic
}

// takeNotes returns the notes in an attempt's updates of the metadata, and the rest of those,
// nil if nothing is left.
func takeNotes(updates []byte) (notes, []byte) {
	const short = `{"` + attemptKey + `":`
	if rest, ok := strings.CutPrefix(string(updates), short); ok { // as nearly all are
		if n, err := strconv.Atoi(strings.TrimSuffix(rest, "}")); err == nil {
			return notes{attempt: n}, nil
		}
	}
	var all map[string]json.RawMessage
	var n notes
	if len(updates) == 0 || json.Unmarshal(updates, &all) != nil {
		return n, updates
	}
	_ = json.Unmarshal(all[attemptKey], &n.attempt)
	_ = json.Unmarshal(all[traceKey], &n.trace)
	delete(all, attemptKey)
	delete(all, traceKey)
	if len(all) == 0 {
		return n, nil
	}
	updates, _ = json.Marshal(all)
	return n, updates
}

// JobSetStateIfRunningMany stores the ends of attempts, without those of jobs that others
// have taken since. It holds the rows meanwhile; River calls it with many at once.
func (f *fence) JobSetStateIfRunningMany(ctx context.Context, exec riverdriver.Executor, p *riverdriver.JobSetStateIfRunningManyParams) (rows []*rivertype.JobRow, err error) {
	ends, err := endsOf(p)
	if err != nil {
		return nil, err
	}
	tx, err := exec.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx))
		}
	}()
	asked := time.Now()
	now, odd, err := f.hold(ctx, tx, p.Schema, ends)
	if err != nil {
		return nil, err
	}
	ahead := now.Sub(asked) // the database's clock; a little too much, so that no retry comes early
	store := &riverdriver.JobSetStateIfRunningManyParams{Now: p.Now, Schema: p.Schema}
	for i, e := range ends {
		at := p.ScheduledAt[i]
		switch odd[e.id] {
		case taken:
			continue
		case canceled: // of those that are to run again River thinks itself
			if e.state == rivertype.JobStateDiscarded {
				e.state = rivertype.JobStateCancelled
			}
		}
		if at != nil {
			at = new(ceil(at.Add(ahead)))
		}
		store.ID, store.Attempt, store.ErrData = append(store.ID, e.id), append(store.Attempt, p.Attempt[i]), append(store.ErrData, e.err)
		store.FinalizedAt, store.ScheduledAt = append(store.FinalizedAt, p.FinalizedAt[i]), append(store.ScheduledAt, at)
		store.MetadataDoMerge, store.MetadataUpdates = append(store.MetadataDoMerge, len(e.metadata) > 0), append(store.MetadataUpdates, e.metadata)
		store.State = append(store.State, e.state)
	}
	if len(store.ID) > 0 {
		if rows, err = f.Pilot.JobSetStateIfRunningMany(ctx, tx, store); err != nil {
			return nil, err
		}
	}
	if err = tx.Commit(ctx); err != nil {
		return nil, err
	}
	for _, e := range ends {
		if odd[e.id] == taken {
			f.events.lost(e.id, e.attempt)
			f.logger.LogAttrs(ctx, slog.LevelWarn, "riverjobs: the job was taken for lost while an attempt was under way, whose end is not stored",
				slog.Int64("job", e.id), slog.Int("attempt", e.attempt))
		}
	}
	return rows, nil
}

// A rowEnd is the end of an attempt as it is to be stored.
type rowEnd struct {
	id       int64
	attempt  int // 0 if nobody has said
	state    rivertype.JobState
	err      []byte // a rivertype.AttemptError; nil if there is none
	metadata []byte // to be merged; nil if nothing is
}

// endsOf returns the ends in p, with what their attempts have noted.
func endsOf(p *riverdriver.JobSetStateIfRunningManyParams) ([]rowEnd, error) {
	ends := make([]rowEnd, len(p.ID))
	for i, id := range p.ID {
		n, metadata := takeNotes(p.MetadataUpdates[i])
		e := rowEnd{id, n.attempt, p.State[i], p.ErrData[i], metadata}
		if len(e.err) > 0 && (e.attempt == 0 || n.trace != "") {
			var attempt rivertype.AttemptError
			if err := json.Unmarshal(e.err, &attempt); err != nil {
				return nil, fmt.Errorf("riverjobs: error of job %d: %w", id, err)
			}
			e.attempt = attempt.Attempt // River makes none at a job whose kind it does not know
			if n.trace != "" {
				attempt.Trace = n.trace
				e.err, _ = json.Marshal(attempt)
			}
		}
		ends[i] = e
	}
	return ends, nil
}

// What can be odd about a row whose attempt has ended.
type oddity int

const (
	taken    oddity = iota + 1 // the attempt is not the row's any more
	canceled                   // somebody has canceled the job while it ran
)

// frozen is how long a process may hold rows without a word: one that is frozen meanwhile
// must not keep others from taking them for lost.
const frozen = 10 * time.Second

// hold locks the rows of ends until the transaction ends, and returns the database's time
// and what is odd about some of them.
func (f *fence) hold(ctx context.Context, tx riverdriver.Executor, schema string, ends []rowEnd) (now time.Time, odd map[int64]oddity, err error) {
	ids, attempts := make([]int64, len(ends)), make([]int64, len(ends))
	for i, e := range ends {
		ids[i], attempts[i] = e.id, int64(e.attempt)
	}
	var found string // [[id, oddity], ...]
	if f.postgres {
		// A row that has settled under the attempt's number was settled by the handler's own
		// transaction or by the rescuer, and nobody has told of it yet.
		err = tx.QueryRow(ctx, `WITH held AS MATERIALIZED (
				SELECT job.id, (job.metadata ? 'cancel_attempted_at') AS canceled,
					(ended.attempt IN (0, job.attempt) AND job.state IN ('running', 'completed', 'discarded')) AS ours
				FROM unnest($1::bigint[], $2::bigint[]) AS ended (id, attempt)
				JOIN `+table(schema)+` AS job ON job.id = ended.id
				ORDER BY job.id FOR UPDATE OF job)
			SELECT clock_timestamp(), set_config('idle_in_transaction_session_timeout', $3, true),
				coalesce(json_agg(json_build_array(id, CASE WHEN ours THEN 2 ELSE 1 END)) FILTER (WHERE NOT ours OR canceled), '[]')::text FROM held`,
			ids, attempts, strconv.FormatInt(frozen.Milliseconds(), 10)).Scan(&now, new(string), &found)
	} else {
		now = time.Now() // the file is on this machine; the transaction holds all of it
		var idsJSON, attemptsJSON []byte
		idsJSON, _ = json.Marshal(ids)
		attemptsJSON, _ = json.Marshal(attempts)
		err = tx.QueryRow(ctx, `SELECT json_group_array(json_array(id, CASE WHEN ours THEN 2 ELSE 1 END)) FILTER (WHERE NOT ours OR canceled) FROM (
				SELECT job.id, (CASE WHEN typeof(job.metadata) <> 'text' OR json_valid(job.metadata)
						THEN json_extract(job.metadata, '$.cancel_attempted_at') END) IS NOT NULL AS canceled,
					(attempt.value IN (0, job.attempt) AND job.state IN ('running', 'completed', 'discarded')) AS ours
				FROM json_each(?1) AS ended JOIN json_each(?2) AS attempt ON attempt.key = ended.key
				JOIN `+table(schema)+` AS job ON job.id = ended.value)`,
			string(idsJSON), string(attemptsJSON)).Scan(&found)
	}
	if err != nil {
		return now, nil, fmt.Errorf("riverjobs: rows of ended attempts: %w", err)
	}
	var pairs [][2]int64
	if err := json.Unmarshal([]byte(found), &pairs); err != nil {
		return now, nil, fmt.Errorf("riverjobs: rows of ended attempts: %w", err)
	}
	odd = make(map[int64]oddity, len(pairs))
	for _, p := range pairs {
		odd[p[0]] = oddity(p[1])
	}
	return now, odd, nil
}

// table returns the name of River's table of jobs, as it stands in SQL.
func table(schema string) string {
	if schema == "" {
		return "river_job"
	}
	return `"` + strings.ReplaceAll(schema, `"`, `""`) + `".river_job`
}

// databaseTime returns the time by the clock of the database, which has given the rows theirs.
func (f *fence) databaseTime(ctx context.Context, exec riverdriver.Executor) (now time.Time, err error) {
	if !f.postgres {
		return time.Now(), nil
	}
	if err = exec.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now); err != nil {
		return now, fmt.Errorf("riverjobs: the database's time: %w", err)
	}
	return now, nil
}

// JobGetStuck returns the jobs that have been running for too long by the clock of the
// database, as if all had been by this process's: River goes on to compare their times with
// that.
func (f *fence) JobGetStuck(ctx context.Context, exec riverdriver.Executor, p *riverdriver.JobGetStuckParams) (rows []*rivertype.JobRow, err error) {
	now, err := f.databaseTime(ctx, exec)
	if err != nil {
		return nil, err
	}
	here := time.Now()
	stuck := *p
	stuck.StuckHorizon = now.Add(-f.rescue)
	if pilot, ok := f.Pilot.(riverpilot.PilotJobRescuer); ok {
		rows, err = pilot.JobGetStuck(ctx, exec, &stuck)
	} else {
		rows, err = exec.JobGetStuck(ctx, &stuck)
	}
	if err != nil {
		return nil, err
	}
	foreign := make(map[int64]*rivertype.JobRow)
	for _, row := range rows {
		if row.AttemptedAt != nil {
			row.AttemptedAt = new(row.AttemptedAt.Add(here.Sub(now)))
		}
		if _, ok := engine.Policy(f.reg, row.Kind); !ok {
			foreign[row.ID] = row
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.foreign = foreign
	return rows, nil
}

// JobRescueMany has jobs run again that are lost, or ends them. River would discard those
// whose kind this process does not know, which another may.
func (f *fence) JobRescueMany(ctx context.Context, exec riverdriver.Executor, p *riverdriver.JobRescueManyParams) (*struct{}, error) {
	now, err := f.databaseTime(ctx, exec)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	foreign := f.foreign
	f.mu.Unlock()
	here := time.Now()
	rescued := *p
	rescued.StuckHorizon = now.Add(-f.rescue)
	rescued.State, rescued.FinalizedAt = slices.Clone(p.State), slices.Clone(p.FinalizedAt)
	rescued.ScheduledAt = make([]time.Time, len(p.ID))
	for i, id := range p.ID {
		at := p.ScheduledAt[i]
		row := foreign[id]
		if row != nil && rescued.State[i] == string(rivertype.JobStateDiscarded) && row.Attempt < row.MaxAttempts {
			rescued.State[i], rescued.FinalizedAt[i] = string(rivertype.JobStateRetryable), nil
			at = here.Add(engine.Judge(f.reg, meta(row), errLost).Delay)
		}
		if rescued.State[i] == string(rivertype.JobStateRetryable) {
			at = ceil(at.Add(now.Sub(here)))
		}
		rescued.ScheduledAt[i] = at
	}
	if pilot, ok := f.Pilot.(riverpilot.PilotJobRescuer); ok {
		return pilot.JobRescueMany(ctx, exec, &rescued)
	}
	return exec.JobRescueMany(ctx, &rescued)
}

// What a pilot may have beside, the fence must have, and hands on.

// JobDelete is the inner pilot's.
func (f *fence) JobDelete(ctx context.Context, exec riverdriver.Executor, p *riverdriver.JobDeleteParams) (*rivertype.JobRow, error) {
	if pilot, ok := f.Pilot.(riverpilot.PilotJobDeleter); ok {
		return pilot.JobDelete(ctx, exec, p)
	}
	return exec.JobDelete(ctx, p)
}

// JobDeleteBefore is the inner pilot's.
func (f *fence) JobDeleteBefore(ctx context.Context, exec riverdriver.Executor, p *riverdriver.JobDeleteBeforeParams) (int, error) {
	if pilot, ok := f.Pilot.(riverpilot.PilotJobDeleter); ok {
		return pilot.JobDeleteBefore(ctx, exec, p)
	}
	return exec.JobDeleteBefore(ctx, p)
}

// JobDeleteMany is the inner pilot's.
func (f *fence) JobDeleteMany(ctx context.Context, exec riverdriver.Executor, p *riverdriver.JobDeleteManyParams) ([]*rivertype.JobRow, error) {
	if pilot, ok := f.Pilot.(riverpilot.PilotJobDeleter); ok {
		return pilot.JobDeleteMany(ctx, exec, p)
	}
	return exec.JobDeleteMany(ctx, p)
}

// A pilotPlugin is a pilot that has services of its own.
type pilotPlugin interface {
	PluginMaintenanceServices() []startstop.Service
	PluginServices() []startstop.Service
}

// PluginMaintenanceServices are the inner pilot's.
func (f *fence) PluginMaintenanceServices() []startstop.Service {
	if p, ok := f.Pilot.(pilotPlugin); ok {
		return p.PluginMaintenanceServices()
	}
	return nil
}

// PluginServices are the inner pilot's.
func (f *fence) PluginServices() []startstop.Service {
	if p, ok := f.Pilot.(pilotPlugin); ok {
		return p.PluginServices()
	}
	return nil
}
