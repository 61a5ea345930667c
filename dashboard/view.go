package dashboard

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	rateOver      = 10 * time.Second // rates are over the snapshots of that time
	leastForRates = 4 * time.Second  // before that, none of a priority started says little
	recentOver    = time.Minute      // what has happened over a longer time may be long ago
	gapAfter      = 5 * interval / 2 // two looks that are further apart do not belong together
	maxListed     = 100              // tasks in one list
	maxScanned    = 10_000           // delayed or parked tasks among which to look for these
	maxPriorities = 25
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
	State      string // accepting, paused or closed; stalled or unhealthy
	StateClass string
	Health     string
	Stalled    bool
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
	Failures       []failure
	OlderFailures  uint64 // that are not kept
}

// WithStacks returns a view that has the stacks of failures in it.
func (v *poolView) WithStacks() *poolView {
	w := *v
	w.Stacks = true
	return &w
}

// A listing is a list of tasks of a pool.
type listing struct {
	View *poolView
	List taskList
}

// Of returns a list as the template "tasks" wants it.
func (v *poolView) Of(l taskList) listing { return listing{v, l} }

type quantiles struct {
	Known         bool
	P50, P95, P99 time.Duration
}

type priorityView struct {
	Priority   taskpool.Priority
	Queued     int
	OldestWait time.Duration
	AtLeast    bool    // it may be longer
	Starts     float64 // a second
	Depth      curve
	Oldest     curve
	Class      string
	Note       string
}

type taskList struct {
	Tasks   []taskView
	More    int  // that are not listed
	TooMany bool // to look at
}

// A taskView is what is shown of a task. It holds nothing of the task's own, which would
// be kept as long as the page.
type taskView struct {
	ID       uint64
	Key      string
	Name     string
	Flow     string
	Priority taskpool.Priority
	Urgency  taskpool.Priority
	WaitsFor string
	Attempt  int
	Worker   int
	Class    string
	Note     string        // what is wrong
	Timed    bool          // Elapsed is known
	Elapsed  time.Duration // since its start or, of a function, since it was first seen at work
	AtLeast  bool          // it may have been at work before that
	Timeout  time.Duration
	Percent  int // of Timeout
	Until    time.Duration
	Err      string
	err      error // nil once Err is set
}

// partNames are the templates of which each pool has a part.
var partNames = []string{"summary", "queue", "flows", "running", "parked", "delayed", "failures"}

// A watched is a pool that the dashboard shows. What changes of it is protected by
// Dashboard.looking.
type watched struct {
	pool    *taskpool.Pool
	id      int // in addresses; never used again
	history *history
	points  []point   // of the last minute, and the one before; the oldest first
	since   time.Time // from when on somebody has looked without a gap

	done   string // what was last done to the pool on the page, and by whom; "" if nothing
	doneAt time.Time
}

// newWatched is called with looking held.
func (d *Dashboard) newWatched(p *taskpool.Pool) *watched {
	first := newPoint(p)
	d.lastID++
	return &watched{
		pool:    p,
		id:      d.lastID,
		history: &history{epoch: d.epoch, goEvery: uint64(d.cfg.goEvery)},
		points:  []point{first},
		since:   first.at,
	}
}

func newPoint(p *taskpool.Pool) point {
	s := p.Stats()
	return point{time.Now(), s}
}

// look takes the next point, and forgets those that are too old.
func (w *watched) look() point {
	p := newPoint(w.pool)
	if p.at.Sub(w.points[len(w.points)-1].at) > gapAfter {
		w.since = p.at
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

// scan returns the tasks in the given states, but for those that are parked or delayed
// if they are too many to look at: the pool stands still meanwhile.
func scan(p *taskpool.Pool, s *taskpool.Stats, states ...taskpool.State) []taskpool.TaskInfo {
	states = slices.DeleteFunc(states, func(state taskpool.State) bool {
		return state == taskpool.StateParked && s.Parked > maxScanned || state == taskpool.StateDelayed && s.Delayed > maxScanned
	})
	return p.Tasks(states...)
}

// lists returns lists of the tasks of w that run or were abandoned, are parked, and are
// delayed. If w has stalled, parked tasks that wait for something come first.
func (w *watched) lists(now point, stalled bool) (active, parking, waiters taskList) {
	parking.TooMany = now.stats.Parked > maxScanned
	waiters.TooMany = now.stats.Delayed > maxScanned
	for _, t := range scan(w.pool, &now.stats, taskpool.StateRunning, taskpool.StateAbandoned, taskpool.StateParked, taskpool.StateDelayed) {
		list := &active
		switch t.State {
		case taskpool.StateParked:
			list = &parking
		case taskpool.StateDelayed:
			list = &waiters
		}
		list.Tasks = append(list.Tasks, w.newTaskView(t, now.at))
	}
	longest := func(a, b taskView) int {
		return cmp.Or(cmp.Compare(b.Class, a.Class), // hung and overdue ones first
			cmp.Compare(b.Elapsed, a.Elapsed), cmp.Compare(a.Worker, b.Worker))
	}
	active.sort(longest)
	last := func(t taskView) int {
		if stalled && t.WaitsFor == "" {
			return 1
		}
		return 0
	}
	parking.sort(func(a, b taskView) int { return cmp.Or(cmp.Compare(last(a), last(b)), longest(a, b)) })
	waiters.sort(func(a, b taskView) int { return cmp.Or(cmp.Compare(a.Until, b.Until), cmp.Compare(a.ID, b.ID)) })
	return active, parking, waiters
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
	case v.Closed:
		v.State, v.StateClass = "closed", "off"
	case v.Paused:
		v.State, v.StateClass = "paused", "warn"
	}
	if err := w.pool.Health(); err != nil && !errors.Is(err, taskpool.ErrClosed) {
		v.Health, v.StateClass = textOf(err), "bad"
		v.State = "unhealthy"
		if v.Stalled = errors.Is(err, taskpool.ErrStalled); v.Stalled {
			v.State = "stalled"
		}
	}
	v.Active, v.Parking, v.Waiters = w.lists(now, v.Stalled)
	base := w.base(now.at)
	v.rates(w, base)
	w.history.fill(v, now.at)
	v.priorities(w, base, d.cfg.starvingAfter)
	v.findFlows(w, now.at)
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

// priorities makes a row for each priority that waits or starts, or has waited in the
// last minute: where there are more than a table has room for, of those in trouble, then of
// those that wait longest.
func (v *poolView) priorities(w *watched, base point, starvingAfter time.Duration) {
	seen := make(map[taskpool.Priority]taskpool.PriorityStats)
	for _, p := range w.points { // the last is the one that stays
		for _, s := range p.stats.Waiting {
			seen[s.Priority] = taskpool.PriorityStats{Priority: s.Priority}
		}
	}
	for pr, n := range v.ByPriority {
		if n.Attempts > base.stats.ByPriority[pr].Attempts {
			seen[pr] = taskpool.PriorityStats{Priority: pr}
		}
	}
	for _, s := range v.Stats.Waiting {
		seen[s.Priority] = s
	}
	rows := make([]priorityView, 0, len(seen))
	for _, s := range seen {
		rows = append(rows, v.newPriorityView(w, base, s, starvingAfter))
	}
	byPriority := func(a, b priorityView) int { return cmp.Compare(a.Priority, b.Priority) }
	slices.SortFunc(rows, byPriority)
	for _, row := range rows {
		if row.Note != "" {
			v.troubled = append(v.troubled, row)
		}
	}
	if v.MorePriorities = max(len(rows)-maxPriorities, 0); v.MorePriorities > 0 {
		slices.SortStableFunc(rows, func(a, b priorityView) int {
			return cmp.Or(cmp.Compare(a.severity(), b.severity()), cmp.Compare(b.OldestWait, a.OldestWait))
		})
		rows = rows[:maxPriorities]
		slices.SortFunc(rows, byPriority)
	}
	now := w.points[len(w.points)-1].at
	for i := range rows {
		rows[i].draw(w.points, now)
	}
	v.Priorities = rows
}

func (v *poolView) newPriorityView(w *watched, base point, s taskpool.PriorityStats, starvingAfter time.Duration) priorityView {
	now := w.points[len(w.points)-1].at
	attempts := v.ByPriority[s.Priority].Attempts
	row := priorityView{Priority: s.Priority, Queued: s.Queued, OldestWait: s.OldestWait}
	if v.Over > 0 {
		row.Starts = float64(attempts-base.stats.ByPriority[s.Priority].Attempts) / v.Over.Seconds()
	}
	row.AtLeast = row.Queued > 0 && !v.Told && w.atLeast(now.Add(-row.OldestWait)) // with hooks it is known
	waits := w.from(now.Add(-min(row.OldestWait, v.Over)))                         // since then it has
	switch {
	case s.Late:
		row.Class, row.Note = "bad", "late"
	case row.OldestWait < starvingAfter:
	case now.Sub(waits.at) >= leastForRates && attempts == waits.stats.ByPriority[s.Priority].Attempts && v.Attempts > waits.stats.Attempts:
		row.Class, row.Note = "bad", "starving"
	default:
		row.Class, row.Note = "warn", "waits long"
	}
	return row
}

// severity returns 0 of a row that is in trouble, and more of others.
func (p priorityView) severity() int {
	switch p.Class {
	case "bad":
		return 0
	case "warn":
		return 1
	}
	return 2
}

// draw draws the curves.
func (p *priorityView) draw(points []point, now time.Time) {
	var depth, oldest []sample
	for _, at := range points {
		var s taskpool.PriorityStats
		if i, waits := slices.BinarySearchFunc(at.stats.Waiting, p.Priority, func(s taskpool.PriorityStats, pr taskpool.Priority) int {
			return cmp.Compare(s.Priority, pr)
		}); waits {
			s = at.stats.Waiting[i]
		}
		depth = append(depth, sample{at.at, float64(s.Queued)})
		oldest = append(oldest, sample{at.at, s.OldestWait.Seconds()})
	}
	p.Depth, p.Oldest = newCurve(now, depth), newCurve(now, oldest)
}

// sort puts the tasks in order, and keeps the first. What their errors say fill knows,
// perhaps.
func (l *taskList) sort(by func(a, b taskView) int) {
	slices.SortFunc(l.Tasks, by)
	l.More = max(len(l.Tasks)-maxListed, 0)
	l.Tasks = slices.Clone(l.Tasks[:len(l.Tasks)-l.More]) // so that the others go
	for i := range l.Tasks {
		if t := &l.Tasks[i]; t.err != nil {
			t.Err, t.err = fmt.Sprintf("(a %T, of which no hook has told)", t.err), nil
		}
	}
}

// Classes of tasks, in the order in which they are listed from the last one on.
const (
	classHung    = "hung"
	classOverdue = "bad"
)

func (w *watched) newTaskView(t taskpool.TaskInfo, now time.Time) taskView {
	v := taskView{ID: t.ID, Key: keyOf(t), Name: cut(t.Name, maxName), Flow: cut(t.Flow, maxName), Priority: t.Priority,
		Urgency: t.Urgency, WaitsFor: cut(t.WaitsFor, 2*maxName), Attempt: t.Attempt, Worker: t.Worker, Until: max(t.Due.Sub(now), 0), err: t.Err}
	if !t.Started.IsZero() {
		v.Timed, v.Elapsed = true, max(now.Sub(t.Started), 0)
		v.AtLeast = t.IsFunc() && w.atLeast(t.Started)
		if !t.Deadline.IsZero() {
			v.Timeout = t.Deadline.Sub(t.Started)
			v.Percent = min(int(100*v.Elapsed/max(v.Timeout, 1)), 100)
		}
	}
	switch {
	case t.State == taskpool.StateAbandoned:
		v.Class, v.Note = classHung, "hung"
	case t.State != taskpool.StateDelayed && v.Timeout > 0 && v.Elapsed > v.Timeout:
		v.Class, v.Note = classOverdue, "overdue"
	}
	return v
}

// keyOf tells one attempt of a pool from all others.
func keyOf(t taskpool.TaskInfo) string {
	key := fmt.Sprintf("t%d-%d-%d", t.ID, t.Attempt, t.Worker)
	if t.IsFunc() && !t.Started.IsZero() {
		key += "-" + strconv.FormatInt(t.Started.UnixNano(), 36)
	}
	return key
}

// label names a task in a sentence.
func (t *taskView) label() string {
	name := t.Name
	if name == "" {
		name = "a task"
		if t.ID == 0 {
			name = "a function"
		}
	}
	if t.ID != 0 {
		name += " #" + strconv.FormatUint(t.ID, 10)
	}
	return name
}

// Label names a task for who does not see the row that it stands in.
func (t taskView) Label() string { return t.label() }

// fill adds what hooks have told.
func (h *history) fill(v *poolView, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := func(w *window) quantiles {
		all := w.sum(now.Sub(h.epoch))
		return quantiles{all.total > 0, all.quantile(.50), all.quantile(.95), all.quantile(.99)}
	}
	v.Told = h.told
	v.Wait, v.Run = of(&h.wait), of(&h.run)
	v.Failures = slices.Clone(h.failures)
	v.OlderFailures = h.failed - uint64(len(h.failures))
	slices.Reverse(v.Failures)
	for i := range v.Waiters.Tasks {
		t := &v.Waiters.Tasks[i]
		if last, ok := h.retrying[t.ID]; ok && last.attempt == t.Attempt {
			t.Err = last.text
		}
	}
}

// A segment is a part of the bar that shows what workers do.
type segment struct {
	Class    string
	From, To float64 // percent
}

// Bar returns the segments of the bar of slots.
func (v *poolView) Bar() (all []segment) {
	total := float64(max(v.Workers, v.Running+v.Lost))
	from := 0.
	for _, s := range []struct {
		class string
		n     int
	}{{"busy", v.Running}, {"lost", v.Lost}} {
		if s.n > 0 {
			width := 100 * float64(s.n) / total
			all = append(all, segment{s.class, from, width})
			from += width
		}
	}
	return all
}

// HasStack reports whether a failure came with a stack.
func (f failure) HasStack() bool { return len(f.stack) > 0 }

// Stack returns it as text.
func (f failure) Stack() string { return strings.ToValidUTF8(string(f.stack), "\uFFFD") }

// A curve is drawn into 60 by 16 units, a second each, the newest on the right.
type curve struct {
	Line, Area string // paths of SVG; empty if there is nothing to draw
	Max        float64
}

type sample struct {
	at    time.Time
	value float64
}

// newCurve draws samples, the oldest first. Where nobody looked for a while, there is
// a gap.
func newCurve(now time.Time, samples []sample) (c curve) {
	for _, s := range samples {
		if now.Sub(s.at) <= time.Minute {
			c.Max = max(c.Max, s.value)
		}
	}
	const height = 15.
	var line, area strings.Builder
	var before time.Time
	x := 0.
	for _, s := range samples {
		if now.Sub(s.at) > time.Minute {
			continue
		}
		gap := before.IsZero() || s.at.Sub(before) > gapAfter
		if gap && line.Len() > 0 {
			fmt.Fprintf(&area, "V%g", height+.5)
		}
		x = 60 - now.Sub(s.at).Seconds()
		y := height
		if c.Max > 0 {
			y = height - (height-1)*s.value/c.Max
		}
		command := "L"
		if gap {
			command = "M"
			fmt.Fprintf(&area, "M%.1f %gL", x, height+.5)
		} else {
			area.WriteString("L")
		}
		fmt.Fprintf(&line, "%s%.1f %.1f", command, x, y)
		fmt.Fprintf(&area, "%.1f %.1f", x, y)
		before = s.at
	}
	if line.Len() > 0 {
		fmt.Fprintf(&area, "V%g", height+.5)
	}
	c.Line, c.Area = line.String(), area.String()
	return c
}

// duration writes d with three digits, or as two units if it is long.
func duration(d time.Duration) string {
	units := func(big, small time.Duration, bigName, smallName string) string {
		if d%big == 0 { // what people set
			return fmt.Sprintf("%d %s", d/big, bigName)
		}
		return fmt.Sprintf("%d %s %02d %s", d/big, bigName, d%big/small, smallName)
	}
	const day = 24 * time.Hour
	switch {
	case d <= 0:
		return "0 s"
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d)
	case d < time.Millisecond:
		return digits(float64(d)/1e3) + " µs"
	case d < time.Second:
		return digits(float64(d)/1e6) + " ms"
	case d < time.Minute:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
	case d < time.Hour:
		return units(time.Minute, time.Second, "m", "s")
	case d < day:
		return units(time.Hour, time.Minute, "h", "m")
	}
	return units(day, time.Hour, "d", "h")
}

// digits writes three digits of x, which is less than 1,000, or more if it rounds to
// that.
func digits(x float64) string {
	switch {
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

func rate(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < .005:
		return "< 0.01"
	case x < 999.5:
		return digits(x)
	}
	return count(int(x + .5))
}

// count writes n with a comma after each thousand.
func count[N int | uint64](n N) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
