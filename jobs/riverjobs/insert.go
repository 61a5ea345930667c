package riverjobs

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivershared/riverpilot"
	"github.com/riverqueue/river/rivertype"
)

// JobInsertMany adds jobs that may start at once as of the database's time. The driver of
// PostgreSQL would take this process's: a job would wait for as long as that is ahead.
func (f *fence) JobInsertMany(ctx context.Context, tx riverdriver.ExecutorTx, p *riverdriver.JobInsertFastManyParams) ([]*riverdriver.JobInsertFastResult, error) {
	if !f.postgres {
		return f.Pilot.JobInsertMany(ctx, tx, p)
	}
	if f.plain(p) {
		return insertPlain(ctx, tx, p)
	}
	for _, job := range p.Jobs {
		if job.ScheduledAt == nil {
			job.ScheduledAt = new(time.Time)
		}
		if job.CreatedAt == nil {
			job.CreatedAt = new(time.Time)
		}
	}
	return f.Pilot.JobInsertMany(ctx, tx, p)
}

// plain reports whether insertPlain can add the jobs: many without unique keys, into a table
// that no other pilot has a hand in.
func (f *fence) plain(p *riverdriver.JobInsertFastManyParams) bool {
	if _, standard := f.Pilot.(*riverpilot.StandardPilot); !standard || len(p.Jobs) < 2 {
		return false
	}
	for _, job := range p.Jobs {
		if job.ID != nil || job.CreatedAt != nil || len(job.UniqueKey) > 0 {
			return false
		}
	}
	return true
}

// insertPlain adds jobs as River does, but looks for no conflicts, of which there can be none,
// and has the database return what it alone knows, and not the rows: that is what keeps the
// processors busy where thousands are added.
func insertPlain(ctx context.Context, tx riverdriver.Executor, p *riverdriver.JobInsertFastManyParams) ([]*riverdriver.JobInsertFastResult, error) {
	n := len(p.Jobs)
	args, metadata := make([][]byte, n), make([][]byte, n)
	kinds, queues, states, tags := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	maxAttempts, priorities, scheduled := make([]int16, n), make([]int16, n), make([]*time.Time, n)
	for i, job := range p.Jobs {
		args[i], metadata[i] = job.EncodedArgs, job.Metadata
		kinds[i], queues[i], states[i], tags[i] = job.Kind, job.Queue, string(job.State), strings.Join(job.Tags, ",")
		maxAttempts[i], priorities[i], scheduled[i] = int16(min(job.MaxAttempts, math.MaxInt16)), int16(job.Priority), job.ScheduledAt
	}
	var now time.Time
	var added string // ids, in the order of the jobs
	err := tx.QueryRow(ctx, `WITH added AS (
			INSERT INTO `+table(p.Schema)+` (args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, created_at)
			SELECT args, kind, max_attempts, metadata, priority, queue, coalesce(scheduled_at, now()), state::`+table(p.Schema)+`_state, string_to_array(tags, ',')::varchar(255)[], now()
			FROM unnest($1::jsonb[], $2::text[], $3::smallint[], $4::jsonb[], $5::smallint[], $6::text[], $7::timestamptz[], $8::text[], $9::text[])
				AS job (args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags)
			RETURNING id)
		SELECT now(), json_agg(id ORDER BY id)::text FROM added`,
		args, kinds, maxAttempts, metadata, priorities, queues, scheduled, states, tags).Scan(&now, &added)
	if err != nil {
		return nil, fmt.Errorf("riverjobs: insert: %w", err)
	}
	var ids []int64
	if err := json.Unmarshal([]byte(added), &ids); err != nil || len(ids) != n {
		return nil, fmt.Errorf("riverjobs: insert: %d ids of %d jobs: %w", len(ids), n, err)
	}
	results := make([]*riverdriver.JobInsertFastResult, n)
	for i, job := range p.Jobs {
		row := &rivertype.JobRow{ID: ids[i], CreatedAt: now.UTC(), EncodedArgs: job.EncodedArgs, Kind: job.Kind, MaxAttempts: job.MaxAttempts,
			Metadata: job.Metadata, Priority: job.Priority, Queue: job.Queue, ScheduledAt: now.UTC(), State: job.State, Tags: job.Tags,
			AttemptedBy: []string{}, Errors: []rivertype.AttemptError{}}
		if job.ScheduledAt != nil {
			row.ScheduledAt = job.ScheduledAt.UTC()
		}
		results[i] = &riverdriver.JobInsertFastResult{Job: row}
	}
	return results, nil
}
