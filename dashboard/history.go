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
	maxText      = 2 << 10  // bytes of an error's text that are kept
	maxStack     = 16 << 10 // and of a stack
)

// A history is what hooks have told about a pool.
type history struct {
	epoch   time.Time
	goEvery uint64

	mu       sync.Mutex // protects the fields below
	told     bool       // of anything
	wait     window
	run      window
	failures []failure // the oldest first, at most keptFailures
	failed   uint64    // how many there were
}

// A failure is an attempt that failed.
type failure struct {
	Number   uint64 // from 1, in order
	At       time.Time
	ID       uint64 // of the task; 0 for a function
	Name     string
	Priority taskpool.Priority
	Attempt  int
	Kind     string // error, timeout, panic, goexit or hung
	Text     string
	Took     time.Duration // 0: not known
	Retried  bool
	Delay    time.Duration // until the retry
	stack    []byte
}

// started notes how long a task has waited.
func (h *history) started(e taskpool.TaskEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = true
	h.wait.add(time.Since(h.epoch), e.Wait, h.weight(e))
}

// finished notes how long an attempt took that did not fail; of one that did,
// attemptFailed was told.
func (h *history) finished(e taskpool.TaskEvent) {
	if e.Task.State != taskpool.Succeeded {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = true
	h.run.add(time.Since(h.epoch), e.Elapsed, h.weight(e))
}

// weight returns for how many tasks an event stands that is one of a sample.
func (h *history) weight(e taskpool.TaskEvent) uint64 {
	if e.Task.ID == 0 {
		return h.goEvery
	}
	return 1
}

func (h *history) attemptFailed(e taskpool.TaskEvent) {
	f := failure{
		At:       time.Now(),
		ID:       e.Task.ID,
		Name:     cut(e.Task.Name, maxName),
		Priority: e.Task.Priority,
		Attempt:  e.Task.Attempt,
		Took:     e.Elapsed,
	}
	// The methods of a foreign error may do anything, so no lock is held.
	f.Kind, f.Text, f.stack = describe(e.Err)
	if len(f.stack) > maxStack {
		f.stack = append(slices.Clip(f.stack[:maxStack]), "\n..."...)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = true
	if e.Task.ID != 0 || e.Elapsed > 0 { // else it was left out of the sample
		h.run.add(f.At.Sub(h.epoch), e.Elapsed, h.weight(e))
	}
	if e.Task.State == taskpool.Canceled && f.stack == nil {
		return // somebody wanted that
	}
	h.failed++
	f.Number = h.failed
	if len(h.failures) == keptFailures {
		copy(h.failures, h.failures[1:])
		h.failures = h.failures[:keptFailures-1]
	}
	h.failures = append(h.failures, f)
}

// retried notes that the attempt that attemptFailed was told of is not the last.
func (h *history) retried(e taskpool.TaskEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.failures) - 1; i >= 0; i-- {
		if f := &h.failures[i]; f.ID == e.Task.ID && f.Attempt == e.Task.Attempt {
			f.Retried, f.Delay = true, e.Delay
			return
		}
	}
}

// stackOf returns the stack of a failure, nil if it is not kept or has none.
func (h *history) stackOf(number uint64) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.failures {
		if f.Number == number {
			return f.stack
		}
	}
	return nil
}

// describe returns what an attempt's error is, in a word and in its own words, and
// the stack that comes with it.
func describe(err error) (kind, text string, stack []byte) {
	var (
		panicked *taskpool.PanicError
		hung     *taskpool.HungError
	)
	switch {
	case errors.As(err, &panicked):
		kind, stack = "panic", panicked.Stack
	case errors.As(err, &hung):
		kind, stack = "hung", hung.Stack
	case errors.Is(err, taskpool.ErrHung): // silent for too long, but it returned
		kind = "hung"
	case errors.Is(err, taskpool.ErrGoexit):
		kind = "goexit"
	case errors.Is(err, taskpool.ErrTimeout):
		kind = "timeout"
	default:
		kind = "error"
	}
	return kind, textOf(err), stack
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
