package dashboard

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/taskpool-go/taskpool"
)

// A snapshotJSON is what snapshot.json has: the page, for programs. Times are in seconds, but
// for those in Stats, which has the fields of [taskpool.Stats] as they are.
type snapshotJSON struct {
	At    time.Time  `json:"at"`
	Pools []poolJSON `json:"pools"`
}

type poolJSON struct {
	Name     string         `json:"name"`
	State    string         `json:"state"` // accepting, paused, shutting down, closed, stalled or unhealthy
	Health   string         `json:"health,omitempty"`
	Problems []problemJSON  `json:"problems"`
	Rates    ratesJSON      `json:"rates"`
	Wait     *quantilesJSON `json:"wait,omitempty"`
	Run      *quantilesJSON `json:"run,omitempty"`
	Stats    taskpool.Stats `json:"stats"`
	Flows    []flowJSON     `json:"flows,omitempty"`
	Names    []nameJSON     `json:"names"`   // of tasks, those of which some fail first
	Running  []taskJSON     `json:"running"` // and abandoned
	Waiting  []taskJSON     `json:"waiting"` // the first to start first
	Parked   []taskJSON     `json:"parked"`
	Delayed  []taskJSON     `json:"delayed"`
	Failures []failureJSON  `json:"failures"` // the newest first
	Groups   []groupJSON    `json:"failure_groups"`
	Hour     []hourJSON     `json:"hour"` // the last hour, the oldest first
}

type problemJSON struct {
	Class  string `json:"class"` // bad or warn
	What   string `json:"what"`
	Text   string `json:"text"`
	Figure string `json:"figure,omitempty"`

	// Runbook is the address of what to do about it.
	Runbook string `json:"runbook,omitempty"`
}

type ratesJSON struct { // a second
	Over      float64 `json:"over"` // seconds
	Succeeded float64 `json:"succeeded"`
	Failed    float64 `json:"failed"`
	Canceled  float64 `json:"canceled"`
	Shed      float64 `json:"shed"`
	Refused   float64 `json:"refused"`
	Retries   float64 `json:"retries"`
}

type quantilesJSON struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

type flowJSON struct {
	Flow       string  `json:"flow"`
	Queued     int     `json:"queued"`
	HeldBack   int     `json:"held_back"`
	Running    int     `json:"running"`
	OldestWait float64 `json:"oldest_wait"`
}

type taskJSON struct {
	ID       uint64            `json:"id,omitempty"` // none of a function given to Go
	Name     string            `json:"name,omitempty"`
	Flow     string            `json:"flow,omitempty"`
	Priority taskpool.Priority `json:"priority"`
	Urgency  taskpool.Priority `json:"urgency"`
	WaitsFor string            `json:"waits_for,omitempty"`
	Attempt  int               `json:"attempt"`
	Worker   int               `json:"worker,omitempty"`
	Note     string            `json:"note,omitempty"`    // hung or overdue
	Elapsed  float64           `json:"elapsed,omitempty"` // of the attempt
	Timeout  float64           `json:"timeout,omitempty"`
	DueIn    float64           `json:"due_in,omitempty"`
	Error    string            `json:"error,omitempty"` // of the last attempt
}

type nameJSON struct {
	Name      string         `json:"name"`
	Other     bool           `json:"other,omitempty"` // all further names
	Running   int            `json:"running"`
	Waiting   int            `json:"waiting"`
	Parked    int            `json:"parked"`
	Delayed   int            `json:"delayed"`
	Done      float64        `json:"done"`       // a second, over the last minute
	FailShare float64        `json:"fail_share"` // percent
	Run       *quantilesJSON `json:"run,omitempty"`
	LastError string         `json:"last_error,omitempty"`
	LastAt    *time.Time     `json:"last_error_at,omitempty"`
}

type groupJSON struct {
	Kind  taskpool.Result `json:"kind"`
	Name  string          `json:"name,omitempty"`
	Error string          `json:"error"`
	Count uint64          `json:"count"`
	First time.Time       `json:"first"`
	Last  time.Time       `json:"last"`
}

// An hourJSON has totals, and what waited and ran at a moment.
type hourJSON struct {
	At        time.Time `json:"at"`
	Succeeded uint64    `json:"succeeded"`
	Failed    uint64    `json:"failed"`
	Shed      uint64    `json:"shed"`
	Refused   uint64    `json:"refused"`
	Waiting   int       `json:"waiting"`
	Running   int       `json:"running"`
}

type failureJSON struct {
	At       time.Time         `json:"at"`
	ID       uint64            `json:"id,omitempty"`
	Name     string            `json:"name,omitempty"`
	Flow     string            `json:"flow,omitempty"`
	Priority taskpool.Priority `json:"priority"`
	Attempt  int               `json:"attempt"`
	Kind     taskpool.Result   `json:"kind"`
	Error    string            `json:"error"`
	Took     float64           `json:"took"`
	Retried  bool              `json:"retried"`
}

// serveSnapshot is the page as JSON.
func (d *Dashboard) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	d.snapshot(interval)
	d.mu.Lock()
	p := d.page
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	body, err := json.MarshalIndent(p.json(), "", "\t")
	if err != nil {
		panic(err) // a mistake in the types
	}
	send(w, r, append(body, '\n'))
}

func (p *page) json() snapshotJSON {
	s := snapshotJSON{At: p.At, Pools: []poolJSON{}}
	for _, v := range p.Pools {
		s.Pools = append(s.Pools, v.json())
	}
	return s
}

func (v *poolView) json() poolJSON {
	p := poolJSON{
		Name: v.Name, State: v.State, Health: v.Health, Stats: v.Stats,
		Rates: ratesJSON{
			Over: v.Over.Seconds(), Succeeded: v.Succeeds, Failed: v.Fails, Canceled: v.Cancels,
			Shed: v.Sheds, Refused: v.Refuses, Retries: v.RetriesRate,
		},
		Problems: []problemJSON{}, Failures: []failureJSON{},
		Wait: v.Wait.json(), Run: v.Run.json(),
		Names: []nameJSON{}, Groups: []groupJSON{}, Hour: []hourJSON{},
		Running: v.Active.json(), Waiting: v.Next.json(), Parked: v.Parking.json(), Delayed: v.Waiters.json(),
	}
	for _, x := range v.Problems {
		p.Problems = append(p.Problems, problemJSON{x.Class, x.What, x.Text, x.Figure, x.Runbook()})
	}
	for _, f := range v.Flows {
		p.Flows = append(p.Flows, flowJSON{f.Name, f.Queued, f.HeldBack, f.Running, f.OldestWait.Seconds()})
	}
	for _, n := range v.Names {
		row := nameJSON{n.Name, n.Other, n.Running, n.Waiting, n.Parked, n.Delayed, n.Done, n.FailShare, n.Run.json(), n.LastError, nil}
		if !n.LastAt.IsZero() {
			row.LastAt = &n.LastAt
		}
		p.Names = append(p.Names, row)
	}
	for _, x := range v.Hour.points {
		p.Hour = append(p.Hour, hourJSON(x))
	}
	for _, g := range v.Groups {
		p.Groups = append(p.Groups, groupJSON{g.Kind, g.Name, g.Text, g.Count, g.First, g.Last})
	}
	for _, f := range v.Failures {
		p.Failures = append(p.Failures, failureJSON{f.At, f.ID, f.Name, f.Flow, f.Priority, f.Attempt, f.Kind, f.Text, f.Took.Seconds(), f.Retried})
	}
	return p
}

func (q quantiles) json() *quantilesJSON {
	if !q.Known {
		return nil
	}
	return &quantilesJSON{q.P50.Seconds(), q.P95.Seconds(), q.P99.Seconds()}
}

func (l taskList) json() []taskJSON {
	all := make([]taskJSON, 0, len(l.Tasks))
	for _, t := range l.Tasks {
		all = append(all, taskJSON{
			ID: t.ID, Name: t.Name, Flow: t.Flow, Priority: t.Priority, Urgency: t.Urgency, WaitsFor: t.WaitsFor,
			Attempt: t.Attempt, Worker: t.Worker, Note: t.Note, Elapsed: t.Elapsed.Seconds(), Timeout: t.Timeout.Seconds(),
			DueIn: t.Until.Seconds(), Error: t.Err,
		})
	}
	return all
}
