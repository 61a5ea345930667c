package riverjobs

import (
	"bytes"
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
	Flow      string             `json:"taskpool_flow,omitempty"`
	UniqueKey string             `json:"taskpool_unique_key,omitempty"`
	Wrapped   bool               `json:"taskpool_wrapped,omitempty"` // the payload is the args' "value"
	MaxWait   time.Duration      `json:"taskpool_max_wait,omitempty"`
	NotBefore time.Time          `json:"taskpool_not_before,omitzero"` // if MaxWait is set

	Undecoded time.Time `json:"taskpool_undecoded,omitzero"` // when it was first found that the payload does not decode
}

// undecodedKey is the key of extra.Undecoded.
const undecodedKey = "taskpool_undecoded"

// wrapped is the args of a payload that is neither an object nor an array: the driver of
// SQLite refuses strings and makes true a 1.
type wrapped struct {
	Value json.RawMessage `json:"value"`
}

// newArgs returns the River job that is r.
func newArgs(r jobs.Request, queue string) (args, *river.InsertOpts) {
	a := args{kind: r.Kind, payload: r.Payload, uniqueKey: r.UniqueKey}
	o := &river.InsertOpts{MaxAttempts: r.MaxAttempts, Priority: riverPriority(r.Priority), Queue: queue}
	if time.Until(r.NotBefore) > 0 {
		o.ScheduledAt = ceil(r.NotBefore)
	}
	x := extra{Flow: r.Flow, UniqueKey: r.UniqueKey, MaxWait: r.MaxWait}
	if r.MaxWait > 0 && o.ScheduledAt.After(time.Time{}) {
		x.NotBefore = o.ScheduledAt
	}
	if priorities[o.Priority] != r.Priority {
		x.Priority = &r.Priority
	}
	if c := bytes.TrimLeft(r.Payload, " \t\r\n")[0]; c != '{' && c != '[' { // Validate has seen that there is one
		x.Wrapped = true
		a.payload, _ = json.Marshal(wrapped{r.Payload})
	}
	if x != (extra{}) {
		o.Metadata, _ = json.Marshal(x)
	}
	return a, o
}

// patienceOf returns how much longer a job may wait that has been fetched for its first attempt:
// negative if it has waited too long, 0 if there is no bound. Both times are the database's.
func patienceOf(row *rivertype.JobRow) time.Duration {
	x := extraOf(row)
	if x.MaxWait <= 0 || row.Attempt > 1 || row.AttemptedAt == nil {
		return 0
	}
	from := row.CreatedAt
	if x.NotBefore.After(from) {
		from = x.NotBefore
	}
	left := x.MaxWait - row.AttemptedAt.Sub(from)
	if left == 0 {
		left = -1
	}
	return left
}

func id(row *rivertype.JobRow) jobs.ID { return jobs.ID(strconv.FormatInt(row.ID, 10)) }

func extraOf(row *rivertype.JobRow) (x extra) {
	if len(row.Metadata) > len("{}") {
		_ = json.Unmarshal(row.Metadata, &x) // what is not there is not known
	}
	return x
}

// canceledAt returns when a Cancel last reached the job before it had settled; zero if none.
func canceledAt(row *rivertype.JobRow) time.Time {
	var at struct {
		Time time.Time `json:"cancel_attempted_at"`
	}
	_ = json.Unmarshal(row.Metadata, &at)
	return at.Time
}

func meta(row *rivertype.JobRow) jobs.Meta {
	x := extraOf(row)
	m := jobs.Meta{ID: id(row), Kind: row.Kind, Attempt: row.Attempt, MaxAttempts: row.MaxAttempts,
		Priority: priorities[min(max(row.Priority, 1), 4)], Flow: x.Flow, Enqueued: row.CreatedAt, UniqueKey: x.UniqueKey}
	if x.Priority != nil {
		m.Priority = *x.Priority
	}
	return m
}

func payload(row *rivertype.JobRow) json.RawMessage {
	var w wrapped
	if !extraOf(row).Wrapped || json.Unmarshal(row.EncodedArgs, &w) != nil {
		return row.EncodedArgs
	}
	return w.Value
}

// ceil rounds up to the milliseconds that the driver of SQLite stores: it rounds, and a
// job must not start early.
func ceil(t time.Time) time.Time { return t.Add(time.Millisecond - 1).Truncate(time.Millisecond) }
