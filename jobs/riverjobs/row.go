package riverjobs

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivershared/uniquestates"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// args are a job of any kind to River, whose rows have the payload as it is in args.
type args struct {
	kind      string
	payload   json.RawMessage
	uniqueKey string
	next      *time.Duration // until the retry that was judged; set by an attempt
}

func (a args) Kind() string                 { return a.kind }
func (a args) MarshalJSON() ([]byte, error) { return a.payload, nil }

// UnmarshalJSON does nothing: the registry decodes, from the row.
func (a *args) UnmarshalJSON([]byte) error { return nil }

// An insertHook gives a row what River's options do not: a unique key that is not made
// of the payload, and a start in the near future that does not wait for the scheduler,
// which River does for retries.
type insertHook struct{ river.HookDefaults }

// unsettled are the states in which a unique key is taken.
var unsettled = uniquestates.UniqueStatesToBitmask([]rivertype.JobState{rivertype.JobStateAvailable, rivertype.JobStatePending,
	rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled})

// schedulerInterval is the time between two runs of River's scheduler.
const schedulerInterval = 5 * time.Second

func (*insertHook) InsertBegin(_ context.Context, p *rivertype.JobInsertParams) error {
	a, ok := p.Args.(args)
	if !ok {
		return nil // of the River client's user
	}
	if a.uniqueKey != "" {
		sum := sha256.Sum256([]byte(a.kind + "\x00" + a.uniqueKey)) // no kind has a NUL
		p.UniqueKey, p.UniqueStates = sum[:], unsettled
	}
	if p.State == rivertype.JobStateScheduled && time.Until(*p.ScheduledAt) < schedulerInterval {
		p.State = rivertype.JobStateAvailable // a fetch looks at the time too
	}
	return nil
}

// priorities are those of package taskpool by River's, which are 1 to 4 and of which 0,
// unset, is the most urgent.
var priorities = [...]taskpool.Priority{1: taskpool.High, 2: taskpool.Medium, 3: taskpool.Low, 4: taskpool.Low + 1}

// riverPriority maps all that is more urgent than High to 1, and all that is less
// urgent than Low to 4.
func riverPriority(p taskpool.Priority) int {
	return int(min(max(p, taskpool.High), taskpool.Low+1)-taskpool.High) + 1
}

// An extra is what a row's metadata has that its columns do not say.
type extra struct {
	Priority  *taskpool.Priority `json:"taskpool_priority,omitempty"`
	UniqueKey string             `json:"taskpool_unique_key,omitempty"`

	riverPriority int
}

func (x *extra) priority() taskpool.Priority {
	if x.Priority != nil {
		return *x.Priority
	}
	return priorities[min(max(x.riverPriority, 1), 4)]
}

func id(row *rivertype.JobRow) jobs.ID { return jobs.ID(strconv.FormatInt(row.ID, 10)) }

func meta(row *rivertype.JobRow) jobs.Meta {
	x := extra{riverPriority: row.Priority}
	if len(row.Metadata) > len("{}") {
		_ = json.Unmarshal(row.Metadata, &x) // what is not there is not known
	}
	return jobs.Meta{ID: id(row), Kind: row.Kind, Attempt: row.Attempt, MaxAttempts: row.MaxAttempts,
		Priority: x.priority(), Enqueued: row.CreatedAt, UniqueKey: x.UniqueKey}
}

// ceil rounds up to what SQLite's driver stores, which otherwise rounds down.
func ceil(t time.Time) time.Time { return t.Add(time.Millisecond - 1).Truncate(time.Millisecond) }
