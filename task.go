package taskpool

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// A Priority says how urgent a task is: the lower number runs first. Any int is
// a priority; three have names. The zero value is the ordinary case, so that a
// forgotten field does no harm.
//
// In text and in JSON, as a value and as a map key, it is a string: its name if it has
// one, otherwise the number in digits. So it can be read from a configuration, a header
// or, with [flag.TextVar], a flag.
type Priority int

// The named priorities.
const (
	High   Priority = -1
	Medium Priority = 0
	Low    Priority = 1
)

// String returns "high", "medium", "low" or the number.
func (pr Priority) String() string {
	switch pr {
	case High:
		return "high"
	case Medium:
		return "medium"
	case Low:
		return "low"
	}
	return strconv.Itoa(int(pr))
}

// MarshalText returns what String does, and no error.
func (pr Priority) MarshalText() ([]byte, error) { return []byte(pr.String()), nil }

// UnmarshalText sets pr to what text says: "high", "medium", "low" or an int in decimal
// digits, which may be that of a named priority. For any other text it returns an error
// and leaves pr as it was.
func (pr *Priority) UnmarshalText(text []byte) error {
	for _, named := range [...]Priority{High, Medium, Low} {
		if string(text) == named.String() {
			*pr = named
			return nil
		}
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("taskpool: Priority: text must be high, medium, low or an int, got %q", text)
	}
	*pr = Priority(n)
	return nil
}

// UnmarshalJSON sets pr from a string, as [Priority.UnmarshalText] does, or from a number.
// It ignores null.
func (pr *Priority) UnmarshalJSON(value []byte) error {
	if string(value) == "null" {
		return nil
	}
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1] // escapes are not decoded: no priority needs them
	}
	return pr.UnmarshalText(value)
}

// A Task is a piece of work and how the pool should treat it. The pool copies it; a
// Task may be used as a template and submitted any number of times.
type Task struct {
	// Name is shown in logs, metrics and lists of tasks. It need not be
	// unique and may be empty.
	Name string

	// Priority is the task's urgency; zero is Medium.
	Priority Priority

	// Flow says whose work the task is: a tenant, a user, a host. Within a priority, flows
	// take turns, so that nobody's backlog stands before the others' work, see [WithFlows].
	// Tasks without one, and functions given to Go, are one flow together. A flow needs no
	// setup, and takes memory only while it has tasks. It must be empty with [WithAging].
	Flow string

	// Run does the work. It is required by Submit, and must be nil where a
	// function is passed beside the Task, as with [Call] and [Map]. Its context
	// ends when the attempt is over, times out or is canceled; see [Detach] for
	// work that must outlive it.
	//
	// If Run leaves its thread locked, see [runtime.LockOSThread], the thread stays
	// locked for later tasks on the same goroutine. The pool does not unlock it:
	// that would return a thread that Run may have changed for good to the whole
	// program. A Run that has changed its thread should end with [runtime.Goexit],
	// which ends the thread too. A panic in a goroutine that Run has started ends
	// the process.
	Run func(ctx context.Context) error

	// MaxWait bounds the time from Submit, or from NotBefore if that is later, to the
	// start of the first attempt, with the wait for room: a task that nobody needs any
	// more by then need not be done. When the time is over, the task is Shed with
	// [ErrExpired], or Submit returns that if it still waits for room. Retries are not
	// bounded. Zero: no bound, and no cost.
	MaxWait time.Duration

	// Timeout bounds one attempt from its start to its end. The time in which it is
	// parked counts: in [Block], and while it waits for its turn, for other tasks or
	// for room. When the time is over, the context of the attempt ends with
	// [ErrTimeout]. Zero: no bound.
	Timeout time.Duration

	// WorkTimeout bounds the time in which one attempt has a slot or is at
	// work in the function given to [Block]. The time in which it waits for its
	// turn, for other tasks or for room does not count. When the time is over,
	// the context of the attempt ends with [ErrTimeout] as cause. It sets no
	// deadline, as the moment is not known in advance, so the context's Err is
	// [context.Canceled]. Each attempt has the full time, and Timeout may be set
	// too. Zero: no bound.
	WorkTimeout time.Duration

	// Heartbeat is the longest silence allowed between the calls of [Yield]
	// and [Beat] of an attempt, while it is not parked. If a task is silent for
	// longer, which is noticed within twice the time, its context ends with
	// [ErrHung]. Zero: not watched.
	Heartbeat time.Duration

	// Retry says whether and when a failed attempt is followed by another.
	// Zero: one attempt.
	Retry Retry

	// NotBefore is the earliest time at which the task may start. Zero, or a
	// time in the past: at once. The task is accepted now, so Shutdown waits
	// for it or cancels it, see [WithDelayedAtShutdown], and it takes no room
	// from tasks that could run, see [WithCapacity].
	NotBefore time.Time

	// After names tasks, of this pool or of others, that must succeed before this one may
	// start. Until then it is Delayed, with or without a NotBefore, which counts as well: it
	// has no goroutine and no place of its flow, takes no room from tasks that could run, and
	// when the last has succeeded it is queued like one that has become due. MaxWait counts
	// from then. If one fails, is shed or is canceled, the task is Canceled at once, with a
	// [*DependencyError] that says which and wraps its error. What has settled before Submit
	// counts just the same. The same handle may be named twice; nil, zero and copied ones are
	// refused. The pool copies the slice, and keeps no handle once its task and this one have
	// settled.
	//
	// A task lends its urgency to those it comes after, as one that waits does, see
	// [Handle.Wait]. Handles exist before those that name them, so dependencies alone make no
	// circle; but a task that waits for one that comes after itself waits forever, which
	// [Pool.Health] reports. A task that comes after the one that submits it needs [Detach]
	// of the context. Shutdown waits for such tasks, and [WithDelayedAtShutdown] concerns only
	// those whose NotBefore has not come. None: nothing, and no cost.
	After []*Handle
}

// String describes the task in a line such as
//
//	task "report" (high, timeout 1m0s, 3 attempts)
//
// with those of its settings that are set, but for the functions.
func (t Task) String() string { return t.describe(0) }

// describe returns what String does, with the task's number unless that is 0.
func (t Task) describe(id uint64) string {
	text := []byte("task")
	if id != 0 {
		text = fmt.Appendf(text, " %d", id)
	}
	if t.Name != "" {
		text = fmt.Appendf(text, " %q", t.Name)
	}
	text = fmt.Appendf(text, " (%v", t.Priority)
	if t.Flow != "" {
		text = fmt.Appendf(text, ", flow %q", t.Flow)
	}
	for _, set := range []struct {
		what string
		d    time.Duration
	}{{"max wait", t.MaxWait}, {"timeout", t.Timeout}, {"work timeout", t.WorkTimeout}, {"heartbeat", t.Heartbeat}} {
		if set.d != 0 {
			text = fmt.Appendf(text, ", %s %v", set.what, set.d)
		}
	}
	if n := t.Retry.MaxAttempts; n > 1 {
		text = fmt.Appendf(text, ", %d attempts", n)
	}
	if !t.NotBefore.IsZero() {
		text = fmt.Appendf(text, ", not before %s", t.NotBefore.Format(time.RFC3339))
	}
	if n := len(t.After); n > 0 {
		text = fmt.Appendf(text, ", after %d", n)
	}
	return string(append(text, ')'))
}

// LogValue has package log/slog log what String returns.
func (t Task) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Retry is a task's policy for failed attempts.
//
// A retry that is due joins the queue behind all waiting tasks of its priority, even
// if its delay is zero: if there is a backlog of its priority, it starts after that.
// So tasks that fail again and again take turns with those that have not started,
// and never starve them; docs/starvation.md says why no other order would do. For a
// retry that must come sooner, loop in Run, or move the task with
// [Handle.SetPriority] while it waits, as a Retried hook may do. [WithRetryBudget] bounds
// the retries of all tasks together.
type Retry struct {
	// MaxAttempts is the total number of attempts, including the first. With 0
	// or 1 there is no retry, and then Backoff and If must be nil.
	MaxAttempts int

	// Backoff returns the time from the end of attempt n, counted from 1, to
	// its retry; a negative time counts as 0. Nil: exponential with full
	// jitter, which is uniform between 0 and a bound that is 100 ms at first,
	// doubles with each attempt and is at most 30 s.
	Backoff func(attempt int) time.Duration

	// If says whether the error of an attempt is worth a retry. Nil: every
	// error but a hang. It is not asked about a [Permanent] error, a
	// canceled task or a call of [runtime.Goexit]: these are never retried.
	// If Run returns while If is being asked about its hang, If is asked
	// again, about what Run returned, and only that answer counts.
	If func(err error) bool
}

// validate returns an error for the first field of t that is not allowed, other than Run.
func (t *Task) validate() error {
	bad := func(field, allowed string, got any) error { return pkg.Bad("Task."+field, allowed, got) }
	switch r := &t.Retry; {
	case t.MaxWait < 0:
		return bad("MaxWait", "not be negative", t.MaxWait)
	case t.Timeout < 0:
		return bad("Timeout", "not be negative", t.Timeout)
	case t.WorkTimeout < 0:
		return bad("WorkTimeout", "not be negative", t.WorkTimeout)
	case t.Heartbeat < 0:
		return bad("Heartbeat", "not be negative", t.Heartbeat)
	case r.MaxAttempts < 0:
		return bad("Retry.MaxAttempts", "not be negative", r.MaxAttempts)
	case r.MaxAttempts <= 1 && r.Backoff != nil:
		return bad("Retry.MaxAttempts", "be at least 2 where Retry.Backoff is set", r.MaxAttempts)
	case r.MaxAttempts <= 1 && r.If != nil:
		return bad("Retry.MaxAttempts", "be at least 2 where Retry.If is set", r.MaxAttempts)
	}
	for i, on := range t.After {
		if what := on.whatElse(); what != "" {
			return bad(fmt.Sprintf("After[%d]", i), "be a Handle that Submit has returned", what)
		}
	}
	return nil
}

// A State is where a task is in its life. Every accepted task reaches exactly one of the
// final states StateSucceeded, StateFailed, StateCanceled and StateShed, once. Where the
// documentation says that a task is Queued, Canceled and so on, it means these states.
type State int8

// The states of a task.
const (
	StateQueued    State = iota // waits for a worker
	StateDelayed                // waits for its NotBefore time, for its retry or for other tasks
	StateRunning                // an attempt is under way
	StateParked                 // an attempt has given its slot back and will go on
	StateSucceeded              // Run returned nil
	StateFailed                 // the last attempt failed
	StateCanceled               // its context ended or it was canceled before it succeeded
	StateShed                   // removed from a full queue for a more urgent task
	StateAbandoned              // in a TaskInfo only: an attempt given up as hung whose goroutine still runs; the task itself has moved on

	numStates = iota
)

// String returns the state's name in lower case.
func (s State) String() string {
	names := [numStates]string{"queued", "delayed", "running", "parked",
		"succeeded", "failed", "canceled", "shed", "abandoned"}
	if s < 0 || s >= numStates {
		return "State(" + strconv.Itoa(int(s)) + ")"
	}
	return names[s]
}

// Final reports whether s is one of the states in which a task ends: StateSucceeded,
// StateFailed, StateCanceled and StateShed. It is false for StateAbandoned, which says
// nothing about the task.
func (s State) Final() bool { return s >= StateSucceeded && s <= StateShed }
