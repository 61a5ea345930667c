package riverjobs

import (
	"context"
	"encoding/json"
	"fmt"
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
		return copyMany(ctx, tx, p)
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

// fewJobs are added by River's statement, which is one round trip in place of three.
const fewJobs = 32

// plain reports whether copyMany can add the jobs: many without unique keys, into a table that
// no other pilot has a hand in.
func (f *fence) plain(p *riverdriver.JobInsertFastManyParams) bool {
	if _, standard := f.Pilot.(*riverpilot.StandardPilot); !standard || len(p.Jobs) <= fewJobs {
		return false
	}
	for _, job := range p.Jobs {
		if job.ID != nil || job.CreatedAt != nil || len(job.UniqueKey) > 0 {
			return false
		}
	}
	return true
}

// copyMany adds jobs by COPY, as River's InsertManyFast does, and looks up their ids, which are
// those that this transaction has added, in order, after one that it has drawn before.
func copyMany(ctx context.Context, tx riverdriver.ExecutorTx, p *riverdriver.JobInsertFastManyParams) ([]*riverdriver.JobInsertFastResult, error) {
	sequence := "'" + table(p.Schema) + "_id_seq'" // as River calls it; a schema that River takes has no quotes
	var now time.Time
	var before int64
	if err := tx.QueryRow(ctx, "SELECT now(), nextval("+sequence+")").Scan(&now, &before); err != nil {
		return nil, fmt.Errorf("riverjobs: insert: %w", err)
	}
	for _, job := range p.Jobs {
		job.CreatedAt = &now
		if job.ScheduledAt == nil {
			job.ScheduledAt = &now
		}
	}
	if _, err := tx.JobInsertFastManyNoReturning(ctx, p); err != nil {
		return nil, err
	}
	var added string
	err := tx.QueryRow(ctx, `SELECT coalesce(json_agg(id ORDER BY id), '[]')::text FROM `+table(p.Schema)+`
		WHERE id > $1 AND xmin = (SELECT xmin FROM `+table(p.Schema)+` WHERE id = currval(`+sequence+`))`, before).Scan(&added)
	if err != nil {
		return nil, fmt.Errorf("riverjobs: insert: %w", err)
	}
	var ids []int64
	if err := json.Unmarshal([]byte(added), &ids); err != nil || len(ids) != len(p.Jobs) {
		return nil, fmt.Errorf("riverjobs: insert: found %d of %d jobs that were added (%v)", len(ids), len(p.Jobs), err)
	}
	results := make([]*riverdriver.JobInsertFastResult, len(ids))
	for i, job := range p.Jobs {
		results[i] = &riverdriver.JobInsertFastResult{Job: &rivertype.JobRow{
			ID: ids[i], AttemptedBy: []string{}, CreatedAt: now.UTC(), EncodedArgs: job.EncodedArgs, Errors: []rivertype.AttemptError{},
			Kind: job.Kind, MaxAttempts: job.MaxAttempts, Metadata: job.Metadata, Priority: job.Priority, Queue: job.Queue,
			ScheduledAt: job.ScheduledAt.UTC(), State: job.State, Tags: job.Tags,
		}}
	}
	return results, nil
}
