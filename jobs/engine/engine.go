// Package engine is for those who make a [jobs.Queue] of their own: an engine that stores
// jobs somewhere and makes attempts at them with the handlers of a [jobs.Registry]. Who
// registers handlers and enqueues jobs needs package jobs alone.
//
// Enqueue of the queue calls [Validate] and stores the request. Later, and perhaps
// elsewhere, the engine makes an attempt with [Run], asks [Judge] what its end means, or [Canceled]
// if the job was canceled meanwhile, stores that, and calls [Tell]. It gives the attempt the
// timeout and the heartbeat of the kind's [Policy], most easily as a task of a
// [taskpool.Pool], with the job's priority and flow. Package conformance tests whether it does all that package jobs
// promises; [jobs.Local] and the module jobs/riverjobs are engines to look at.
//
// The functions may be called from any goroutine. Those that take a registry panic if it
// is nil, but for Run.
package engine

import (
	"context"
	"errors"

	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/internal/bridge"
)

// Validate returns an error that names the first field of r that no engine accepts, its
// value and what is allowed.
func Validate(r jobs.Request) error { return bridge.Validate(r) }

// ValidateFilter returns f with the default of what is zero in it, or an error that names the
// first field that no engine accepts.
func ValidateFilter(f jobs.Filter) (jobs.Filter, error) {
	err := bridge.ValidateFilter(&f)
	return f, err
}

// Policy returns the policy of a kind, with MaxAttempts at least 1. It returns false if
// reg has no such kind.
func Policy(reg *jobs.Registry, kind string) (jobs.Policy, bool) {
	return of("Policy", reg).Policy(kind)
}

// Run makes one attempt: it decodes the payload and calls the handler of m.Kind, on the
// calling goroutine. It returns the handler's error, or a permanent one that is
// [jobs.ErrUnknownKind] or [jobs.ErrPayload]. If reg or ctx is nil it returns an error.
func Run(ctx context.Context, reg *jobs.Registry, m jobs.Meta, payload []byte) error {
	switch {
	case reg == nil:
		return errors.New("engine: Run: reg must not be nil")
	case ctx == nil:
		return errors.New("engine: Run: ctx must not be nil")
	}
	return of("Run", reg).Run(ctx, m, payload)
}

// Judge says what an attempt that ended with err means for a job that was not canceled:
// whether there is another, and after what time. It calls methods of err and the policy's
// Backoff, with what they do to their goroutine contained.
func Judge(reg *jobs.Registry, m jobs.Meta, err error) jobs.Event {
	return of("Judge", reg).Judge(m, err)
}

// Canceled says what an attempt that ended with err means for a job that was canceled while
// it was under way, whether the handler knew of that or not: Completed if err is nil, else
// Canceled, with an error that is [context.Canceled] and err.
func Canceled(m jobs.Meta, err error) jobs.Event { return bridge.Canceled(m, err).(jobs.Event) }

// WithMeta returns a context of which [jobs.MetaFrom] returns m, to submit a job's task with:
// hooks and logs can name the job then. [Run] gives such a context to the handler anyway.
func WithMeta(ctx context.Context, m jobs.Meta) context.Context { return bridge.WithMeta(ctx, m) }

// Tell calls the observers of reg, see [jobs.Registry.Observe], each on a goroutine of its
// own, and waits for them. Events of one job must come in order.
func Tell(reg *jobs.Registry, e jobs.Event) { of("Tell", reg).Tell(e) }

// A registry is what package jobs has for this package.
type registry interface {
	Policy(kind string) (jobs.Policy, bool)
	Run(ctx context.Context, m jobs.Meta, payload []byte) error
	Judge(m jobs.Meta, err error) jobs.Event
	Tell(e jobs.Event)
}

func of(call string, reg *jobs.Registry) registry {
	if reg == nil {
		panic("engine: " + call + ": reg must not be nil")
	}
	return bridge.Registry(reg).(registry)
}
