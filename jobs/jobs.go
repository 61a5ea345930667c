package jobs

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/backoff"
	"github.com/taskpool-go/taskpool/internal/contain"
	"github.com/taskpool-go/taskpool/internal/option"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// The errors that callers branch on, with [errors.Is].
var (
	// ErrDuplicate is returned by Enqueue, with the ID of the job that is there
	// already, if that has the same kind and unique key and has not settled.
	ErrDuplicate = errors.New("jobs: a job with this unique key has not settled yet")

	// ErrNotFound is returned by Cancel if no unsettled job has the ID.
	ErrNotFound = errors.New("jobs: no unsettled job has this ID")

	// ErrUnknownKind says that the registry has no handler for a job.
	ErrUnknownKind = errors.New("jobs: unknown kind")

	// ErrPayload says that a job's payload does not decode into what the handler
	// of its kind takes.
	ErrPayload = errors.New("jobs: payload does not decode")
)

// An ID names a job within its queue. What it is made of is the engine's affair.
type ID string

// A Queue takes jobs. Its methods may be called from any goroutine.
type Queue interface {
	// Enqueue adds a job, and returns its ID, or ErrDuplicate and the ID of the one
	// that is there. If r is not valid the error names the field.
	// It may wait, for room or for a database, until ctx ends; then the job may or
	// may not have been added.
	Enqueue(ctx context.Context, r Request) (ID, error)

	// Cancel ends a job: one that waits never runs, of one that runs the context
	// ends. It does not wait for the handler to return. It returns ErrNotFound
	// if no job has the ID, or the job has settled.
	Cancel(ctx context.Context, id ID) error
}

// A Policy is how the jobs of a kind are treated. The zero value is one attempt of
// Medium priority, without a bound.
type Policy struct {
	// Priority is the jobs' urgency; zero is Medium.
	Priority taskpool.Priority

	// Flow says whose work the jobs are for which Options.Flow does not say it: that of the
	// host, for instance, that all jobs of the kind talk to. UTF-8 without NUL. With
	// [Local] flows take turns, and [taskpool.WithFlows] of the pool sets their weights,
	// limits and capacities; other engines say what they keep of that. Empty: the jobs are
	// one flow with all others that have none.
	Flow string

	// MaxAttempts is the number of attempts in all, the first included, at most
	// 32,767; 0 is 1.
	MaxAttempts int

	// Backoff returns the time from the end of attempt n, counted from 1, to its
	// retry; a negative one counts as 0. Nil, and if it panics: full jitter, see
	// the package's doc.
	Backoff func(attempt int) time.Duration

	// Timeout bounds one attempt. Zero: no bound.
	Timeout time.Duration

	// Heartbeat is the longest silence allowed between calls of taskpool.Yield and
	// taskpool.Beat, see [taskpool.Task]. Zero: not watched.
	Heartbeat time.Duration
}

// validate reports the first field that cannot be accepted.
func (p *Policy) validate(of option.Package) error {
	switch bad := of.Bad; {
	case !validText(p.Flow):
		return bad("Policy.Flow", "be "+textRule, strconv.Quote(p.Flow))
	case p.MaxAttempts < 0 || p.MaxAttempts > maxAttempts:
		return bad("Policy.MaxAttempts", fmt.Sprintf("be from 0 to %d", maxAttempts), p.MaxAttempts)
	case p.Timeout < 0:
		return bad("Policy.Timeout", "not be negative", p.Timeout)
	case p.Heartbeat < 0:
		return bad("Policy.Heartbeat", "not be negative", p.Heartbeat)
	}
	return nil
}

// Meta is what a handler is told about its job.
type Meta struct {
	ID          ID
	Kind        string
	Attempt     int // from 1; 0 in an [Event] of a job that never started
	MaxAttempts int
	Priority    taskpool.Priority
	Flow        string // empty if it has none
	Enqueued    time.Time
	UniqueKey   string // empty if it has none
}

// A State is what an attempt, or a job that never ran, came to.
type State int

// The states. All but StateRetrying are final.
const (
	StateCompleted State = iota // the handler returned nil
	StateRetrying               // the attempt failed, and another follows
	StateDiscarded              // it failed for good
	StateCanceled               // it was canceled, or cut off by a stop that could not wait
)

// String returns the state's name in lower case.
func (s State) String() string {
	if s < StateCompleted || s > StateCanceled {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return [...]string{"completed", "retrying", "discarded", "canceled"}[s]
}

// An Event says what an attempt came to, or a job that was ended before it ran.
type Event struct {
	Meta
	State State
	Err   error         // nil if Completed
	Delay time.Duration // Retrying: the time until the next attempt may start
}

// A Registry is a set of handlers by kind. The zero value is ready. It must not be
// copied after first use; its methods may be called from any goroutine.
type Registry struct {
	mu        sync.RWMutex // protects the fields below; no user code is called with it
	kinds     map[string]*kind
	observers []func(Event)
	around    []Middleware
}

type kind struct {
	policy Policy
	run    func(ctx context.Context, m Meta, payload []byte) error
}

// kindRule says which names kinds may have; River accepts these and a few others.
const kindRule = "2 to 127 letters, digits and . _ - / of ASCII, a letter or digit first"

var kindPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{1,126}$`)

func validKind(name string) bool { return kindPattern.MatchString(name) }

// A Kind enqueues jobs with payloads of type T. [Register] makes it.
type Kind[T any] struct {
	name   string
	policy Policy
}

// Register adds a handler of jobs of the named kind to reg and returns what enqueues
// them. It is meant for package level and panics on a programmer's error: a name
// that is taken, or is not 2 to 127 ASCII letters, digits and . _ - / with a letter
// or digit first; a nil reg or handler; a T that has, in a field or an element too, what
// package encoding/json cannot encode or decode, or that has no exported field; a
// policy with a value that is not allowed.
func Register[T any](reg *Registry, name string, handler func(ctx context.Context, m Meta, payload T) error, p Policy) *Kind[T] {
	call := fmt.Sprintf("jobs: Register %q", name)
	fail := func(format string, args ...any) { panic(call + ": " + fmt.Sprintf(format, args...)) }
	if !validKind(name) {
		fail("name must be %s", kindRule)
	}
	if reg == nil {
		fail("reg must not be nil")
	}
	if handler == nil {
		fail("handler must not be nil")
	}
	if err := encodable(reflect.TypeFor[T]()); err != nil {
		fail("payload cannot be encoded: %v", err)
	}
	if err := p.validate(option.Package(call)); err != nil {
		panic(err.Error())
	}
	p.MaxAttempts = max(p.MaxAttempts, 1)
	reg.mu.Lock()
	defer reg.mu.Unlock()
	if reg.kinds[name] != nil {
		fail("name is taken")
	}
	if reg.kinds == nil {
		reg.kinds = make(map[string]*kind)
	}
	reg.kinds[name] = &kind{p, func(ctx context.Context, m Meta, payload []byte) error {
		var v T
		if err := json.Unmarshal(payload, &v); err != nil {
			return taskpool.Permanent(fmt.Errorf("%w into %v of kind %q: %w", ErrPayload, reflect.TypeFor[T](), name, err))
		}
		return handler(ctx, m, v)
	}}
	return &Kind[T]{name, p}
}

// encodable returns why values of type t cannot go through package json and back,
// nil if they can. It looks at types only and calls no method.
func encodable(t reflect.Type) error {
	if t.Kind() == reflect.Struct && t.NumField() > 0 && !hasOwnJSON(t) &&
		!slices.ContainsFunc(reflect.VisibleFields(t), reflect.StructField.IsExported) {
		return fmt.Errorf("%v has no exported field, so nothing of it would arrive", t)
	}
	return encodableIn(t, make(map[reflect.Type]bool))
}

func encodableIn(t reflect.Type, seen map[reflect.Type]bool) error {
	if seen[t] || t.Kind() != reflect.Interface && hasOwnJSON(t) {
		return nil
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return fmt.Errorf("JSON has no %v", t)
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return fmt.Errorf("JSON decodes into no interface with methods, as %v is", t)
		}
	case reflect.Map:
		switch k := t.Key(); {
		case k.Kind() == reflect.String, k.Kind() >= reflect.Int && k.Kind() <= reflect.Uintptr, implements[encoding.TextMarshaler](k):
		default:
			return fmt.Errorf("JSON has no keys of type %v", k)
		}
		return encodableIn(t.Elem(), seen)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return encodableIn(t.Elem(), seen)
	case reflect.Struct:
		for f := range t.Fields() {
			embedded := f.Anonymous && (f.Type.Kind() == reflect.Struct || f.Type.Kind() == reflect.Pointer)
			if f.Tag.Get("json") == "-" || !f.IsExported() && !embedded {
				continue
			}
			if err := encodableIn(f.Type, seen); err != nil {
				return fmt.Errorf("field %s: %w", f.Name, err)
			}
		}
	}
	return nil
}

// hasOwnJSON reports whether t, or a pointer to it, says itself how it is encoded.
func hasOwnJSON(t reflect.Type) bool {
	return implements[json.Marshaler](t) || implements[encoding.TextMarshaler](t)
}

func implements[I any](t reflect.Type) bool {
	i := reflect.TypeFor[I]()
	return t.Implements(i) || reflect.PointerTo(t).Implements(i)
}

// Name returns the kind's name.
func (k *Kind[T]) Name() string {
	if k == nil || k.name == "" {
		panic("jobs: Kind.Name: " + notRegistered)
	}
	return k.name
}

const notRegistered = "the Kind must be one that Register has returned, got nil or a zero Kind"

// Enqueue encodes payload and adds a job to q, see [Queue]. The options are not kept; nil
// is the same as a zero Options. It returns the job's ID; with ErrDuplicate, the ID of the
// job that has the same unique key.
func (k *Kind[T]) Enqueue(ctx context.Context, q Queue, payload T, o *Options) (ID, error) {
	switch {
	case k == nil || k.name == "":
		return "", errors.New("jobs: Kind.Enqueue: " + notRegistered)
	case ctx == nil:
		return "", errors.New("jobs: Kind.Enqueue: ctx must not be nil")
	case q == nil:
		return "", errors.New("jobs: Kind.Enqueue: q must not be nil")
	}
	r, err := k.Request(payload, o)
	if err != nil {
		return "", err
	}
	return q.Enqueue(ctx, r)
}

// Request encodes payload and returns the job that Enqueue would add, for [EnqueueMany].
func (k *Kind[T]) Request(payload T, o *Options) (Request, error) {
	if k == nil || k.name == "" {
		return Request{}, errors.New("jobs: Kind.Request: " + notRegistered)
	}
	if o == nil {
		o = new(Options)
	}
	if o.MaxAttempts < 0 || o.MaxAttempts > maxAttempts {
		return Request{}, fmt.Errorf("jobs: Options.MaxAttempts must be from 0 to %d, got %d", maxAttempts, o.MaxAttempts)
	}
	data, err := json.Marshal(payload)
	if err != nil {
		return Request{}, fmt.Errorf("jobs: payload of kind %q: %w", k.name, err)
	}
	r := Request{Kind: k.name, Payload: data, Priority: k.policy.Priority, Flow: k.policy.Flow,
		MaxAttempts: k.policy.MaxAttempts, NotBefore: o.NotBefore, MaxWait: o.MaxWait, UniqueKey: o.UniqueKey}
	if o.Priority != nil {
		r.Priority = *o.Priority
	}
	if o.Flow != "" {
		r.Flow = o.Flow
	}
	if o.MaxAttempts > 0 {
		r.MaxAttempts = o.MaxAttempts
	}
	return r, nil
}

// mustNotBeNil panics in a call that returns no error if reg is nil.
func (reg *Registry) mustNotBeNil(call string) {
	if reg == nil {
		panic("jobs: Registry." + call + ": the Registry must not be nil")
	}
}

// Observe has f called with what each attempt, and each job that ended without one,
// came to, on whichever engine runs the handlers of reg. Register observers before
// jobs are enqueued. f is called on a goroutine of its own, for which the engine waits:
// of [Local] a slow f holds up a worker, of engines that store jobs the events that
// follow, and one that waits for the queue may wait for ever. If f panics or calls [runtime.Goexit] that is logged with [slog.Default] and changes
// nothing. Events of one job come in order. Observe panics if f is nil.
func (reg *Registry) Observe(f func(Event)) {
	reg.mustNotBeNil("Observe")
	if f == nil {
		panic("jobs: Registry.Observe: f must not be nil")
	}
	reg.mu.Lock()
	defer reg.mu.Unlock()
	reg.observers = append(reg.observers, f)
}

// Kinds returns the names of the kinds, sorted.
func (reg *Registry) Kinds() []string {
	reg.mustNotBeNil("Kinds")
	reg.mu.RLock()
	defer reg.mu.RUnlock()
	return slices.Sorted(maps.Keys(reg.kinds))
}

// tell calls the observers.
func (reg *Registry) tell(e Event) {
	reg.mu.RLock()
	observers := slices.Clone(reg.observers)
	reg.mu.RUnlock()
	for _, f := range observers {
		isolate("an observer", e.Kind, func() { f(e) })
	}
}

// policy returns the policy of a kind, with MaxAttempts at least 1. It returns false
// if there is no such kind.
func (reg *Registry) policy(name string) (Policy, bool) {
	if k := reg.kind(name); k != nil {
		return k.policy, true
	}
	return Policy{}, false
}

func (reg *Registry) kind(name string) *kind {
	reg.mu.RLock()
	defer reg.mu.RUnlock()
	return reg.kinds[name]
}

// run makes one attempt: it decodes the payload and calls the handler of m.Kind. It
// returns the handler's error, or a permanent one that is ErrUnknownKind or
// ErrPayload.
func (reg *Registry) run(ctx context.Context, m Meta, payload []byte) error {
	k := reg.kind(m.Kind)
	if k == nil {
		return taskpool.Permanent(fmt.Errorf("%w %q", ErrUnknownKind, m.Kind))
	}
	reg.mu.RLock()
	around := reg.around // it only grows
	reg.mu.RUnlock()
	return runAround(withMeta(ctx, m), around, m, func(ctx context.Context) error { return k.run(ctx, m, payload) })
}

// judge says what an attempt that ended with err means for a job that was not
// canceled. It calls the policy's Backoff.
func (reg *Registry) judge(m Meta, err error) Event {
	if err == nil {
		return Event{Meta: m}
	}
	e := Event{Meta: m, State: StateDiscarded, Err: err}
	var after *remote.RetryAfterError
	again := false
	isolate("an error's Is, As or Unwrap", m.Kind, func() {
		var permanent *remote.PermanentError
		again = m.Attempt < m.MaxAttempts && !errors.As(err, &permanent) &&
			!errors.Is(err, taskpool.ErrGoexit) && !errors.Is(err, taskpool.ErrHung)
		errors.As(err, &after)
	})
	if !again {
		return e
	}
	e.State, e.Delay = StateRetrying, backoff.FullJitter(m.Attempt)
	if p, _ := reg.policy(m.Kind); after != nil {
		e.Delay = after.Delay
	} else if p.Backoff != nil {
		isolate("Policy.Backoff", m.Kind, func() { e.Delay = max(p.Backoff(m.Attempt), 0) })
	}
	return e
}

// canceledEvent says what an attempt that ended with err means for a job that was canceled
// with cause meanwhile.
func canceledEvent(m Meta, cause, err error) Event {
	if err == nil {
		return Event{Meta: m}
	}
	return Event{Meta: m, State: StateCanceled, Err: &canceledError{cause, err}}
}

// A canceledError is the error of an attempt whose job was canceled.
type canceledError struct{ cause, err error }

func (e *canceledError) Error() string {
	cause, err := e.cause.Error(), e.err.Error()
	if err == cause {
		return err
	}
	return cause + ": " + err
}

func (e *canceledError) Unwrap() []error { return []error{e.cause, e.err} }

// isolate calls user code that must not harm anyone and reports whether it returned. If
// not, that is logged.
func isolate(what, kind string, f func()) (ok bool) {
	log := func(msg string, attrs ...slog.Attr) {
		slog.LogAttrs(context.Background(), slog.LevelError, msg, append([]slog.Attr{slog.String("kind", kind)}, attrs...)...)
	}
	return contain.Apart(f, func(v any) { contain.Log(log, "jobs: "+what, v) })
}
