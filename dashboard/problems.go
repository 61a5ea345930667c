package dashboard

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool"
)

// A problem is something that is wrong. What and Text do not change while it lasts, so
// that it is announced once; Figure may.
type problem struct {
	Class, What, Text string
	Figure            string
	Waits             bool // the list of parked tasks has who waits for whom
}

const (
	failingShare = 10 // percent of the tasks that end by themselves
	brokenShare  = 50
	stormShare   = 50 // percent of the attempts that are followed by a retry
	fullShare    = 80 // percent of the capacity
	nearlyFull   = "Queue over 80 %"

	leastFailures = 3 // of fewer a share says little
	leastRetries  = 5
	leastCapacity = 5

	maxProblems = 12
	maxNamed    = 5 // priorities in a problem
)

// findProblems looks for what is wrong: at the moment, and since base, from which on rates are
// taken.
func (v *poolView) findProblems(w *watched, base point, starvingAfter time.Duration) {
	before := &base.stats
	v.healthProblems()
	if v.Paused {
		if v.Queued > 0 {
			v.problem("bad", "Paused", "no task starts, and tasks wait").Figure = count(v.Queued) + " waiting"
		} else {
			v.problem("warn", "Paused", "no task starts")
		}
	}
	v.taskProblems("Hung", v.hung)
	v.failureProblems(before)
	v.taskProblems("Overdue", v.overdue)
	v.waitProblems(w, starvingAfter)
	v.roomProblems(before)
	switch {
	case v.RetriesDenied == before.RetriesDenied:
	case v.Recent:
		v.problem("warn", "Not retrying", "the retry budget is spent")
	default:
		v.problem("warn", "Not retried", "the retry budget was spent within the last "+v.over())
	}
	if v.SubmittersWaiting > 0 {
		v.problem("warn", "Full", "submitters wait for room in the queue").Figure = count(v.SubmittersWaiting) + " waiting"
	}
	slices.SortStableFunc(v.Problems, func(a, b problem) int { return strings.Compare(a.Class, b.Class) }) // bad, warn
	if len(v.Problems) > maxProblems {
		v.Problems = append(v.Problems[:maxProblems-1], problem{Class: "bad", What: "More", Text: "see below"})
	}
}

// runbook has, for each What, the heading in docs/runbook.md under which is what to do.
var runbook = map[string]string{
	"Failing":             "TaskpoolFailing",
	"Failed":              "TaskpoolFailing",
	"Retry storm":         "TaskpoolRetryStorm",
	"Not retrying":        "TaskpoolRetryStorm",
	"Not retried":         "TaskpoolRetryStorm",
	"Starving":            "TaskpoolStarving",
	"Waits long":          "TaskpoolStarving",
	"Stalled":             "TaskpoolStalled",
	"Waiting in a circle": "TaskpoolStalled",
	"Paused":              "TaskpoolPaused",
	"Hung":                "TaskpoolHung",
	"Slots lost":          "TaskpoolHung",
	"Overdue":             "TaskpoolHung",
	"Shedding":            "TaskpoolShedding",
	"Shed":                "TaskpoolShedding",
	"Expiring":            "TaskpoolShedding",
	"Expired":             "TaskpoolShedding",
	"Late":                "TaskpoolShedding",
	"Refusing":            "TaskpoolShedding",
	"Refused":             "TaskpoolShedding",
	"Full":                "TaskpoolShedding",
	nearlyFull:            "TaskpoolShedding",
	"High turned away":    "TaskpoolHighTurnedAway",
}

// Runbook returns the address of what to do about it, "" if there is none.
func (p problem) Runbook() string {
	if heading := runbook[p.What]; heading != "" {
		return "https://github.com/taskpool-go/taskpool/blob/main/docs/runbook.md#" + strings.ToLower(heading)
	}
	return ""
}

func (v *poolView) problem(class, what, text string) *problem {
	v.Problems = append(v.Problems, problem{Class: class, What: what, Text: text})
	return &v.Problems[len(v.Problems)-1]
}

// over returns the time over which rates are taken.
func (v *poolView) over() string { return duration(v.Over.Round(time.Second)) }

// healthProblems adds what Health tells, and what it does not as the pool is being shut down or has
// lost slots too.
func (v *poolView) healthProblems() {
	if v.Lost > 0 {
		v.problem("bad", "Slots lost", "tasks that hang hold them").Figure = fmt.Sprintf("%s of %s", count(v.Lost), count(v.Workers))
	}
	if !v.Stalled {
		return
	}
	text := "nothing moves: tasks hold all slots, or wait for each other"
	if v.Lost == 0 && v.Health != "" {
		text = v.Health
	}
	p := v.problem("bad", "Stalled", text)
	p.Waits = slices.ContainsFunc(v.Parking.Tasks, func(t taskView) bool { return t.WaitsFor != "" })
	if p.Waits && strings.Contains(text, "tasks wait for each other") {
		p.What = "Waiting in a circle"
	}
}

// taskProblems adds those of tasks: one for all that have the same name.
func (v *poolView) taskProblems(what string, groups []taskGroup) {
	for _, g := range groups {
		if g.n == 1 {
			v.problem("bad", what, fmt.Sprintf("%s on worker %d", g.first.label(), g.first.Worker))
			continue
		}
		name := g.first.Name
		if name == "" {
			name = "tasks without a name"
		}
		v.problem("bad", what, name).Figure = count(g.n) + " of them"
	}
}

// failureProblems adds those of what fails. Tasks that were canceled, shed or refused have not
// failed.
func (v *poolView) failureProblems(before *taskpool.Stats) {
	failed := v.Failed - before.Failed
	class, what, text := "", "Failing", "tasks fail for good"
	switch {
	case failed < leastFailures || v.FailShare < failingShare:
	case v.FailShare >= brokenShare:
		class = "bad"
	default:
		class = "warn"
	}
	if !v.Recent {
		class, what, text = strings.Replace(class, "bad", "warn", 1), "Failed", "tasks have failed within the last "+v.over()
	}
	if class != "" {
		v.problem(class, what, text).Figure = fmt.Sprintf("%.0f %% of them, %s/s", v.FailShare, rate(v.Fails))
	}
	retries, attempts := v.Retries-before.Retries, v.Attempts-before.Attempts
	if retries >= leastRetries && 100*retries >= stormShare*attempts && v.Recent {
		v.problem("bad", "Retry storm", "most attempts fail and are followed by a retry").Figure = rate(v.RetriesRate) + " retries/s"
	}
}

// waitProblems adds those of what waits for too long.
func (v *poolView) waitProblems(w *watched, starvingAfter time.Duration) {
	v.priorityProblem("bad", "Late", "late", "what has waited for too long is shed")
	if v.Paused || v.Stalled {
		return // so nothing starts
	}
	longest := v.Oldest()
	if longest >= starvingAfter {
		now := w.points[len(w.points)-1]
		since := w.from(now.at.Add(-min(longest, v.Over)))
		if now.at.Sub(since.at) >= leastForRates && v.Attempts == since.stats.Attempts {
			v.problem("warn", "Stalled", "tasks wait, and none starts").Figure = count(v.Queued) + " waiting"
			return
		}
	}
	v.priorityProblem("bad", "Starving", "starving", "others start, and none of these does")
	v.priorityProblem("warn", "Waits long", "waits long", "tasks wait for "+duration(starvingAfter)+" or more")
}

// priorityProblem adds one for all priorities with a note.
func (v *poolView) priorityProblem(class, what, note, text string) {
	var names []string
	queued, oldest := 0, time.Duration(0)
	for _, p := range v.troubled {
		if p.Note == note {
			names = append(names, p.Priority.String())
			queued += p.Queued
			oldest = max(oldest, p.OldestWait)
		}
	}
	if len(names) == 0 {
		return
	}
	if more := len(names) - maxNamed; more > 0 {
		names = append(names[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	v.problem(class, what, text).Figure = fmt.Sprintf("priority %s: %s waiting, the oldest for %s", strings.Join(names, ", "), count(queued), duration(oldest))
}

// roomProblems adds those of a queue that is full, or nearly so.
func (v *poolView) roomProblems(before *taskpool.Stats) {
	perSecond := func(n uint64) string { return rate(float64(n)/max(v.Over.Seconds(), 1e-9)) + "/s" }
	expired := v.Expired - before.Expired
	switch {
	case expired == 0:
	case v.Recent:
		v.problem("bad", "Expiring", "tasks are dropped that have waited too long").Figure = perSecond(expired)
	default:
		v.problem("warn", "Expired", "tasks were dropped within the last "+v.over()+" as they had waited too long")
	}
	shed := v.Shed - before.Shed - expired
	switch {
	case shed == 0:
	case v.Recent:
		v.problem("bad", "Shedding", "the queue is full, and tasks are dropped from it").Figure = perSecond(shed)
	default:
		v.problem("warn", "Shed", "tasks were dropped from a full queue within the last "+v.over())
	}
	switch {
	case v.Refused == before.Refused || v.Closed:
	case v.Recent:
		var figures []string
		for _, reason := range []struct {
			text string
			n    uint64
		}{
			{"no room", v.RefusedFull - before.RefusedFull},
			{"no room for their flow", v.RefusedFlow - before.RefusedFlow},
			{"closed", v.RefusedClosed - before.RefusedClosed},
			{"their context ended", v.RefusedContext - before.RefusedContext},
			{"waited too long for room", v.RefusedExpired - before.RefusedExpired},
		} {
			if reason.n > 0 {
				figures = append(figures, perSecond(reason.n)+" "+reason.text)
			}
		}
		v.problem("warn", "Refusing", "tasks are not accepted").Figure = strings.Join(figures, ", ")
	default:
		v.problem("warn", "Refused", "tasks were not accepted within the last "+v.over())
	}
	high := func(s *taskpool.Stats) uint64 {
		t := s.ByPriority[taskpool.High]
		return t.Shed + t.RefusedFull + t.RefusedExpired
	}
	if n := high(&v.Stats) - high(before); n > 0 && v.Recent {
		v.problem("bad", "High turned away", "tasks of priority high are dropped or not accepted").Figure = perSecond(n)
	}
	if v.Capacity >= leastCapacity && 100*v.Queued >= fullShare*v.Capacity {
		v.problem("warn", nearlyFull, "there is little room left, or none").Figure = count(v.Queued) + " waiting, capacity " + count(v.Capacity)
	}
}
