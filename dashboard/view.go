package dashboard

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	rateOver      = 10 * time.Second // rates are over the snapshots of that time
	leastForRates = 4 * time.Second  // before that, none of a priority started says little
	recentOver    = time.Minute      // what has happened over a longer time may be long ago
	gapAfter      = 5 * interval / 2 // two looks that are further apart do not belong together
	maxName       = 200
)

// A point is a pool's counts at one moment.
type point struct {
	at    time.Time
	stats taskpool.Stats
}

// A page is a snapshot as the templates show it.
type page struct {
	At       time.Time
	Pools    []*poolView
	Problems int
	ids      []string // of its parts, in order
}

// A poolView is a pool as the templates show it.
type poolView struct {
	ID      int
	Name    string
	Control bool
	Stacks  bool // of failures are in the page

	Done       string // what was last done to it by hand
	DoneAt     time.Time
	State      string // accepting, paused, shutting down or closed; stalled or unhealthy
	StateClass string
	Health     string
	Problems   []problem
	taskpool.Stats
	Told bool // hooks have told of something

	Over           time.Duration // for rates
	Recent         bool          // that is not long
	Succeeds       float64       // a second
	Fails          float64
	Cancels        float64
	Sheds          float64
	Refuses        float64
	RetriesRate    float64
	FailShare      float64 // of what succeeded or failed, in percent
	SucceedsCurve  curve
	FailsCurve     curve
	Wait, Run      quantiles
	Priorities     []priorityView
	troubled       []priorityView // those of all priorities that have a note, the most urgent first
	MorePriorities int
	Flows          []flowView // none if no task has one
	MoreFlows      bool       // than in Flows
	Active         taskList   // running and abandoned
	Parking        taskList
	Waiters        taskList // delayed
	Next           taskList // queued, the first to start first
	hung, overdue  []taskGroup
	Names          []nameView
	counts         map[string]atWork                  // by name
	timesOf        map[taskpool.Priority][2]quantiles // waits and runs
	NamedOf        int                                // so many of a state are counted by name; 0: all
	Hour           hourView
	Failures       []failure
	Groups         []groupView
	OlderFailures  uint64 // that are not kept
}

// Oldest returns how long the task that waits longest has waited.
func (v *poolView) Oldest() (longest time.Duration) {
	for _, s := range v.Stats.Waiting {
		longest = max(longest, s.OldestWait)
	}
	return longest
}

// WithStacks returns a view that has the stacks of failures in it.
func (v *poolView) WithStacks() *poolView {
	w := *v
	w.Stacks = true
	return &w
}

type quantiles struct {
	Known         bool
	P50, P95, P99 time.Duration
}

// partNames are the templates of which each pool has a part.
var partNames = []string{"summary", "hour", "queue", "flows", "running", "waiting", "parked", "delayed", "names", "failures"}

// A watched is a pool that the dashboard shows. What changes of it is protected by
// Dashboard.looking.
type watched struct {
	pool    *taskpool.Pool
	id      int // in addresses; never used again
	history *history
	hour    hour
	points  []point   // of the last minute, and the one before; the oldest first
	since   time.Time // from when on somebody has looked without a gap

	done   string // what was last done to the pool on the page, and by whom; "" if nothing
	doneAt time.Time
}

// newWatched is called with looking held.
func (d *Dashboard) newWatched(p *taskpool.Pool) *watched {
	first := newPoint(p)
	d.lastID++
	w := &watched{
		pool:    p,
		id:      d.lastID,
		history: &history{epoch: d.epoch, goEvery: uint64(d.cfg.goEvery), since: first.at.Sub(d.epoch)},
		points:  []point{first},
		since:   first.at,
	}
	w.hour.asked.Store(int64(first.at.Sub(d.epoch)))
	w.hour.add(first.at, first.stats)
	return w
}

func newPoint(p *taskpool.Pool) point {
	s := p.Stats()
	return point{time.Now(), s}
}

// look takes the next point, and forgets those that are too old. If nobody has looked for a while,
// hooks may have: then rates are over the last seconds for who looks first, too.
func (w *watched) look() point {
	before := w.points[len(w.points)-1].at
	recent, hooked := w.hour.recent(before, time.Now().Add(-interval))
	p := newPoint(w.pool)
	if p.at.Sub(before) > gapAfter {
		w.since = p.at
		if hooked {
			w.points = append(w.points, recent)
		}
	}
	w.points = append(w.points, p)
	for len(w.points) > 2 && p.at.Sub(w.points[0].at) > time.Minute {
		w.points = w.points[1:]
	}
	return p
}

// atLeast reports whether something that began at a time, as far as anybody has seen, may
// have been there before. What comes between two looks is first seen by the second.
func (w *watched) atLeast(began time.Time) bool {
	return !began.After(w.since.Add(interval / 2))
}

// snapshot takes a snapshot, if the last one is older than maxAge, and sends what is
// new to the clients.
func (d *Dashboard) snapshot(maxAge time.Duration) {
	asked := time.Now()
	d.looking.Lock()
	defer d.looking.Unlock()
	d.mu.Lock()
	taken := d.taken
	d.mu.Unlock()
	if !taken.IsZero() && asked.Sub(taken) < maxAge { // perhaps it was begun while this call waited
		return
	}
	now := time.Now()
	p := &page{At: now, ids: []string{"at", "pools"}}
	for _, w := range d.pools.All {
		v := d.view(w)
		p.Pools = append(p.Pools, v)
		p.Problems += len(v.Problems)
	}
	parts := make(map[string]string)
	parts["at"], parts["pools"] = execute("at", p), execute("pools", p)
	for _, v := range p.Pools {
		for _, name := range partNames {
			id := fmt.Sprintf("p%d-%s", v.ID, name)
			p.ids = append(p.ids, id)
			parts[id] = execute(name, v)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.parts
	d.page, d.parts, d.taken = p, parts, now
	d.sendLocked(before)
}

func execute(name string, data any) string {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		panic(err) // a mistake in the template
	}
	return b.String()
}

// view looks at a pool.
func (d *Dashboard) view(w *watched) *poolView {
	now := w.look()
	v := &poolView{
		ID:      w.id,
		Name:    cut(w.pool.Name(), maxName),
		Control: d.cfg.control != nil,
		Done:    w.done, DoneAt: w.doneAt,
		State: "accepting", StateClass: "ok",
		Stats: now.stats,
	}
	switch {
	case v.Closed && v.Queued+v.Delayed+v.Running+v.Parked > 0:
		v.State, v.StateClass = "shutting down", "warn"
	case v.Closed:
		v.State, v.StateClass = "closed", "off"
	case v.Lost > 0:
		v.State = "unhealthy"
	case v.Stalled:
		v.State = "stalled"
	case v.Paused:
		v.State, v.StateClass = "paused", "warn"
	}
	if v.Lost > 0 || v.Stalled {
		v.StateClass = "bad"
	}
	if err := w.pool.Health(); err != nil && !errors.Is(err, taskpool.ErrClosed) {
		v.Health = textOf(err)
	}
	v.lists(w, now)
	base := w.base(now.at)
	v.rates(w, base)
	w.history.fill(v, now.at)
	w.hour.note(w.pool, d.epoch, now.at.Sub(d.epoch))
	v.priorities(w, base, d.cfg.starvingAfter)
	v.findFlows(w, now.at)
	w.hour.view(now.at, &v.Hour)
	v.findProblems(w, base, d.cfg.starvingAfter)
	return v
}

// base returns the point from which on rates are taken: the oldest of the last
// seconds, or else the one before.
func (w *watched) base(now time.Time) point {
	for _, p := range w.points[:len(w.points)-1] {
		if now.Sub(p.at) <= rateOver+interval/2 {
			return p
		}
	}
	return w.points[max(len(w.points)-2, 0)]
}

// from returns the first point that is not before a time that is not after the last.
func (w *watched) from(t time.Time) point {
	return w.points[slices.IndexFunc(w.points, func(p point) bool { return !p.at.Before(t) })]
}

// perSecond returns how fast a total has grown between two points.
func perSecond(from, to point, total func(*taskpool.Stats) uint64) float64 {
	if over := to.at.Sub(from.at); over > 0 {
		return float64(total(&to.stats)-total(&from.stats)) / over.Seconds()
	}
	return 0
}

func (v *poolView) rates(w *watched, base point) {
	last := w.points[len(w.points)-1]
	succeeded := func(s *taskpool.Stats) uint64 { return s.Succeeded }
	failed := func(s *taskpool.Stats) uint64 { return s.Failed }
	v.Over = last.at.Sub(base.at)
	v.Recent = v.Over <= recentOver
	v.Succeeds = perSecond(base, last, succeeded)
	v.Fails = perSecond(base, last, failed)
	v.Cancels = perSecond(base, last, func(s *taskpool.Stats) uint64 { return s.Canceled })
	v.Sheds = perSecond(base, last, func(s *taskpool.Stats) uint64 { return s.Shed })
	v.Refuses = perSecond(base, last, func(s *taskpool.Stats) uint64 { return s.Refused })
	v.RetriesRate = perSecond(base, last, func(s *taskpool.Stats) uint64 { return s.Retries })
	if v.Fails > 0 {
		v.FailShare = 100 * v.Fails / (v.Succeeds + v.Fails)
	}
	var succeeds, fails []sample
	for i, p := range w.points[1:] {
		succeeds = append(succeeds, sample{p.at, perSecond(w.points[i], p, succeeded)})
		fails = append(fails, sample{p.at, perSecond(w.points[i], p, failed)})
	}
	v.SucceedsCurve, v.FailsCurve = newCurve(last.at, succeeds), newCurve(last.at, fails)
}
