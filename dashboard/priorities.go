package dashboard

import (
	"cmp"
	"slices"
	"time"

	"github.com/taskpool-go/taskpool"
)

const maxPriorities = 25 // in the table

type priorityView struct {
	Priority   taskpool.Priority
	Queued     int
	OldestWait time.Duration
	AtLeast    bool    // it may be longer
	Starts     float64 // a second
	Depth      curve
	Oldest     curve
	Wait, Run  quantiles // by hooks, in the last minute
	Class      string
	Note       string
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
		of := v.timesOf[rows[i].Priority]
		rows[i].Wait, rows[i].Run = of[0], of[1]
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
