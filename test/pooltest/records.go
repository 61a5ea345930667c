package pooltest

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

// NothingMoves is what the log is told of a pool that stands still.
const NothingMoves = "taskpool: nothing moves: all slots are held, none has come to a safe point, and tasks wait"

// A LogRecorder is a slog.Handler that keeps what it is given.
type LogRecorder struct {
	Before func(slog.Record) // called first, if not nil
	Debug  bool              // it takes level Debug, too

	mu      sync.Mutex // protects the fields below
	records []slog.Record
}

func (l *LogRecorder) Enabled(_ context.Context, level slog.Level) bool {
	return level > slog.LevelDebug || l.Debug
}
func (l *LogRecorder) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *LogRecorder) WithGroup(string) slog.Handler      { return l }

func (l *LogRecorder) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	l.records = append(l.records, r)
	l.mu.Unlock()
	if l.Before != nil {
		l.Before(r)
	}
	return nil
}

// Logger returns a logger that it handles.
func (l *LogRecorder) Logger() *slog.Logger { return slog.New(l) }

// Records returns what has come so far.
func (l *LogRecorder) Records() []slog.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// Named returns the records with that message.
func (l *LogRecorder) Named(message string) (found []slog.Record) {
	for _, r := range l.Records() {
		if r.Message == message {
			found = append(found, r)
		}
	}
	return found
}

// Messages returns level and text of each record.
func (l *LogRecorder) Messages() (all []string) {
	for _, r := range l.Records() {
		all = append(all, r.Level.String()+" "+r.Message)
	}
	return all
}

// Attrs returns the attributes of record i.
func (l *LogRecorder) Attrs(i int) map[string]any {
	m := make(map[string]any)
	l.Records()[i].Attrs(func(a slog.Attr) bool { m[a.Key] = a.Value.Any(); return true })
	return m
}

// An EventLog keeps the events that hooks are told.
type EventLog struct {
	mu     sync.Mutex
	events []HookEvent
}

// A HookEvent is what the hook of that name was told, of a task or of a worker.
type HookEvent struct {
	Name   string
	Task   taskpool.TaskEvent
	Worker taskpool.WorkerEvent
}

// Add keeps one more event.
func (l *EventLog) Add(e HookEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// Hooks returns hooks that tell l.
func (l *EventLog) Hooks() taskpool.Hooks {
	return EveryHook(func(name string, e taskpool.TaskEvent, w taskpool.WorkerEvent) {
		l.Add(HookEvent{name, e, w})
	})
}

// Events returns what has come so far.
func (l *EventLog) Events() []HookEvent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// Named returns the events with one of these names.
func (l *EventLog) Named(names ...string) (found []HookEvent) {
	for _, e := range l.Events() {
		if slices.Contains(names, e.Name) {
			found = append(found, e)
		}
	}
	return found
}

// Delays returns the delays of all retries.
func (l *EventLog) Delays() (all []time.Duration) {
	for _, e := range l.Named("Retried") {
		all = append(all, e.Task.Delay)
	}
	return all
}

// OfTask returns the names of the events of a task, in order.
func (l *EventLog) OfTask(id uint64) (names []string) {
	for _, e := range l.Events() {
		if e.Worker == (taskpool.WorkerEvent{}) && e.Task.Task.ID == id {
			names = append(names, e.Name)
		}
	}
	return names
}

// EveryHook returns hooks that all call f, but for Around.
func EveryHook(f func(name string, e taskpool.TaskEvent, w taskpool.WorkerEvent)) taskpool.Hooks {
	task := func(name string) func(taskpool.TaskEvent) {
		return func(e taskpool.TaskEvent) { f(name, e, taskpool.WorkerEvent{}) }
	}
	worker := func(name string) func(taskpool.WorkerEvent) {
		return func(e taskpool.WorkerEvent) { f(name, taskpool.TaskEvent{}, e) }
	}
	return taskpool.Hooks{
		Queued: task("Queued"), Started: task("Started"), AttemptFailed: task("AttemptFailed"),
		Retried: task("Retried"), Shed: task("Shed"), Finished: task("Finished"),
		WorkerDied: worker("WorkerDied"), WorkerAbandoned: worker("WorkerAbandoned"), WorkerReplaced: worker("WorkerReplaced"),
	}
}

// AroundFunc is the type of Hooks.Around.
type AroundFunc = func(context.Context, taskpool.TaskInfo, func(context.Context) error) error

// WithAround has f wrap each attempt.
func WithAround(f AroundFunc) taskpool.Option { return taskpool.WithHooks(taskpool.Hooks{Around: f}) }
