package dashboard

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	keptFailures = 100
	maxTimed     = 64       // priorities whose times are noted
	keptTexts    = 10_000   // of tasks that wait for their retry
	maxText      = 2 << 10  // bytes of an error's text that are kept
	maxStack     = 16 << 10 // and of a stack
)

// A history is what hooks have told about a pool.
type history struct {
	epoch   time.Time
	goEvery uint64
	since   time.Duration // when the pool was watched, after the epoch

	mu       sync.Mutex // protects the fields below
	told     bool       // of anything
	wait     window
	run      window
	failures []failure            // the oldest first, at most keptFailures
	failed   uint64               // how many there were
	retrying map[uint64]lastError // by the ID of a task that waits for its retry
	tallies  tallies
	heat     heat
	times    map[taskpool.Priority]*times // of the first maxTimed priorities
	groups   map[groupKey]*group
}

// A lastError is what a task's last attempt has failed with.
type lastError struct {
	attempt int
	text    string
}

// A failure is an attempt that failed.
type failure struct {
	Number   uint64 // from 1, in order
	At       time.Time
	ID       uint64 // of the task; 0 for a function
	Name     string
	Flow     string
	Priority taskpool.Priority
	Attempt  int
	Kind     taskpool.Result
	Text     string
	Took     time.Duration // 0: not known
	Retried  bool
	Delay    time.Duration // until the retry
	stack    []byte
}

// started notes how long a task has waited.
func (h *history) started(e taskpool.TaskEvent, now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = true
	h.waited(now, e)
	delete(h.retrying, e.Task.ID)
}

// waited notes how long a task has waited that starts or is shed.
func (h *history) waited(now time.Duration, e taskpool.TaskEvent) {
	weight := uint64(1)
	if e.Task.State != taskpool.StateShed { // all that are shed are told of
		weight = h.weight(e)
	}
	h.wait.add(now, e.Wait, weight)
	h.heat.add(now, e.Wait, weight)
	if t := h.timesOf(e.Task.Priority); t != nil {
		t.wait.add(now, e.Wait, weight)
	}
}

// ran notes how long an attempt took.
func (h *history) ran(now time.Duration, e taskpool.TaskEvent, t *tally) {
	weight := h.weight(e)
	h.run.add(now, e.Elapsed, weight)
	t.run.add(now, e.Elapsed, weight)
	if t := h.timesOf(e.Task.Priority); t != nil {
		t.run.add(now, e.Elapsed, weight)
	}
}

// times are those of the tasks of a priority.
type times struct{ wait, run sketch }

// timesOf returns the times of a priority, nil if there are too many others.
func (h *history) timesOf(pr taskpool.Priority) *times {
	t := h.times[pr]
	if t == nil && len(h.times) < maxTimed {
		if h.times == nil {
			h.times = make(map[taskpool.Priority]*times)
		}
		t = &times{}
		h.times[pr] = t
	}
	return t
}

// finished notes how long an attempt took that did not fail; of one that did,
// attemptFailed was told.
func (h *history) finished(e taskpool.TaskEvent, now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.retrying, e.Task.ID)
	switch e.Task.State {
	case taskpool.StateSucceeded:
		t := h.tallies.of(e.Task.Name, now)
		h.told = true
		h.ran(now, e, t)
		t.end(now, taskpool.StateSucceeded, h.weight(e))
	case taskpool.StateShed:
		h.told = true
		h.waited(now, e)
	case taskpool.StateFailed: // of functions that fail all are told of
		h.tallies.of(e.Task.Name, now).end(now, taskpool.StateFailed, 1)
	}
}

// weight returns for how many tasks an event stands that is one of a sample.
func (h *history) weight(e taskpool.TaskEvent) uint64 {
	if e.Task.IsFunc() {
		return h.goEvery
	}
	return 1
}

// attemptFailed notes an attempt that failed, and then what its error says: the methods
// of a foreign error may do anything, and are called here and nowhere else. No lock is
// held meanwhile.
func (h *history) attemptFailed(e taskpool.TaskEvent, now time.Duration) {
	f := h.noteFailure(e, now)
	if f.Number == 0 {
		return
	}
	f.Text, f.stack = textOf(e.Err), stackIn(e)
	h.mu.Lock()
	defer h.mu.Unlock()
	if kept := h.failureLocked(func(k *failure) bool { return k.Number == f.Number }); kept != nil {
		kept.Text, kept.stack = f.Text, f.stack
	}
	h.noteGroupLocked(f)
	h.tallies.of(e.Task.Name, now).fail(f.Number, f.At, f.Text)
}

// noteFailure returns the failure, whose text is not known yet. Its number is 0 if it is none.
func (h *history) noteFailure(e taskpool.TaskEvent, now time.Duration) (f failure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = true
	if !e.Task.IsFunc() { // of functions that fail all are told of, of others a sample
		h.ran(now, e, h.tallies.of(e.Task.Name, now))
	}
	if e.Result == taskpool.ResultInterrupted {
		return f // somebody wanted that
	}
	h.failed++
	if len(h.failures) == keptFailures {
		copy(h.failures, h.failures[1:])
		h.failures = h.failures[:keptFailures-1]
	}
	f = failure{
		Number:   h.failed,
		At:       h.epoch.Add(now),
		ID:       e.Task.ID,
		Name:     cut(e.Task.Name, maxName),
		Flow:     cut(e.Task.Flow, maxName),
		Priority: e.Task.Priority,
		Attempt:  e.Task.Attempt,
		Kind:     e.Result,
		Text:     fmt.Sprintf("(the Error method of a %T has not returned)", e.Err),
		Took:     e.Elapsed,
	}
	h.failures = append(h.failures, f)
	return f
}

// retried notes that the attempt that attemptFailed was told of is not the last.
func (h *history) retried(e taskpool.TaskEvent, _ time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.failureLocked(func(f *failure) bool { return f.ID == e.Task.ID && f.Attempt == e.Task.Attempt })
	if f == nil {
		return
	}
	f.Retried, f.Delay = true, e.Delay
	if h.retrying == nil {
		h.retrying = make(map[uint64]lastError)
	}
	// It may come after the task has ended, so something may be in it for good.
	for id := range h.retrying {
		if len(h.retrying) < keptTexts {
			break
		}
		delete(h.retrying, id)
	}
	h.retrying[f.ID] = lastError{f.Attempt, cut(f.Text, maxName)}
}

// failureLocked returns the newest failure for which is is true, nil if there is none.
func (h *history) failureLocked(is func(*failure) bool) *failure {
	for i := len(h.failures) - 1; i >= 0; i-- {
		if f := &h.failures[i]; is(f) {
			return f
		}
	}
	return nil
}

// stackOf returns the stack of a failure, nil if it is not kept or has none.
func (h *history) stackOf(number uint64) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.failureLocked(func(f *failure) bool { return f.Number == number }); f != nil {
		return f.stack
	}
	return nil
}

// stackIn returns the stack that comes with the error of an attempt that panicked or was
// given up, nil otherwise. The error of another may have one in it that is not its own.
func stackIn(e taskpool.TaskEvent) (stack []byte) {
	defer func() { _ = recover() }() // of an As method
	var (
		panicked *taskpool.PanicError
		hung     *taskpool.HungError
	)
	switch {
	case e.Result == taskpool.ResultPanic && errors.As(e.Err, &panicked):
		stack = panicked.Stack
	case e.Result == taskpool.ResultHung && errors.As(e.Err, &hung):
		stack = hung.Stack
	}
	if len(stack) > maxStack {
		stack = append(slices.Clip(stack[:maxStack]), "\n..."...)
	}
	return stack
}

// textOf returns an error's text, whatever its method does, without the name of the
// library in front.
func textOf(err error) (text string) {
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprintf("(the Error method of a %T panicked)", err)
		}
	}()
	return cut(strings.TrimPrefix(err.Error(), "taskpool: "), maxText)
}

// cut returns s without what is not UTF-8 and without what exceeds n bytes.
func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

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
	v.timesOf = make(map[taskpool.Priority][2]quantiles)
	for pr, t := range h.times {
		v.timesOf[pr] = [2]quantiles{t.wait.quantiles(now.Sub(h.epoch)), t.run.quantiles(now.Sub(h.epoch))}
	}
	h.heat.view(now.Sub(h.epoch), &v.Hour)
	v.Groups = h.groupsLocked(now, v.Failures)
	v.Names = h.names(now.Sub(h.epoch), v.counts)
	for i := range v.Waiters.Tasks {
		t := &v.Waiters.Tasks[i]
		if last, ok := h.retrying[t.ID]; ok && last.attempt == t.Attempt {
			t.Err = last.text
		}
	}
}

// HasStack reports whether a failure came with a stack.
func (f failure) HasStack() bool { return len(f.stack) > 0 }

// Stack returns it as text.
func (f failure) Stack() string { return strings.ToValidUTF8(string(f.stack), "\uFFFD") }
