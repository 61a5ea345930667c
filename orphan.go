package taskpool

import (
	"context"
	"log/slog"
	"time"
)

// An orphan is a task that was canceled because the task whose context it was submitted
// with had returned. That is a trap: nothing fails, and the work was not done. So they are
// counted, and the log is told once for each such parent, of all that were found within a
// moment: many are as a rule, by the pass and by workers.
//
// Tasks of whose end their submitter is told anyway, those of Call and Map, are none.
type orphans struct {
	untold map[*attempt]int // how many the log has not been told of, by parent; nil: not known
	next   time.Time        // when it is; zero if there are none
}

// orphanDelay is the moment.
const orphanDelay = 100 * time.Millisecond

// errReturned ends the context of an attempt that is over.
var errReturned error = &kindError{
	"taskpool: the task this context was given to has returned (see Detach)", context.Canceled}

// causedByReturn reports whether err, that of a canceled task, says that the task is an
// orphan.
func causedByReturn(err error) bool {
	if e, ok := err.(*endedError); ok {
		err = e.reason
	}
	return err == errReturned
}

// returnedParent returns the attempt whose return has ended ctx, nil if it cannot be told.
// It calls methods of ctx, so no lock may be held.
func (g *guard) returnedParent(ctx context.Context) (parent *attempt) {
	g.contain("a context's method", func() {
		for a := attemptFrom(ctx); a != nil && parent == nil; a = attemptFrom(a.ctx) {
			if a.end.Load() == returned {
				parent = a
			}
		}
	})
	return parent
}

// orphanedLocked takes note of h, which was canceled with err, if it is an orphan.
func (h *Handle) orphanedLocked(err error) {
	p := h.pool
	if !causedByReturn(err) || h.terms.answered {
		return
	}
	p.ledger.total.orphaned++
	o := &p.orphans
	if o.untold == nil {
		o.untold = make(map[*attempt]int)
	}
	o.untold[h.parent]++
	if o.next.IsZero() {
		o.next = time.Now().Add(orphanDelay)
		p.supervisor.alarmAtLocked(o.next)
	}
}

// take returns the reports that tell the log, through g, of the orphans that it was not told
// of.
func (o *orphans) take(g *guard) (reports []report) {
	for parent, n := range o.untold {
		reports = append(reports, report{call: func() { g.writeOrphans(parent, n) }})
	}
	*o = orphans{}
	return reports
}

func (g *guard) writeOrphans(parent *attempt, n int) {
	var attrs []slog.Attr
	if parent != nil {
		attrs = append(attrs, slog.Uint64("id", parent.h.id), slog.String("task", parent.h.task.Name))
	}
	g.write(slog.LevelWarn, "taskpool: tasks canceled, as the task with whose context they were submitted has returned",
		append(attrs, slog.Int("children", n), slog.Any("error", errReturned))...)
}
