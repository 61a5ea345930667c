package httppool

import (
	"context"
	"io"
	"iter"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/contain"
	"github.com/taskpool-go/taskpool/internal/inside"
)

func init() { contain.Abort = http.ErrAbortHandler }

// Handler returns a handler that runs next as a task of p, by [taskpool.Pool.Do]: on the
// goroutine of the request, as soon as p has a slot for it and nothing more urgent waits. What
// classify returns is the task's pattern: its priority, flow, MaxWait and timeouts; Run, Retry
// and NotBefore must be zero, as Do says. If it returns false, the request is exempt: next runs
// at once, outside the pool. Health checks, metrics, event streams and WebSockets are to be.
// A nil classify makes tasks of the zero pattern, all alike; see [Classifier] for ready ones.
//
// The task has the request's context, so one whose client goes away leaves the queue, and next
// does not run; for requests with a body see [ConnContext]. The request that next gets has the
// task's context, and behaves like the one of a handler without Handler in all else, its
// ResponseWriter too, but for this: while next waits for its client in a read of the body or a
// write, the task gives its slot back, see [WithClientWait]. What stands before Handler sees in its
// own request which pattern of a ServeMux behind was found, its values, and the form; other values
// that next has set by SetPathValue it does not. A task without a name is called by the
// pattern of the [http.ServeMux] that has called Handler, if one has.
//
// A request that is not run is answered with status 503, 429, 504, 499 or 500, see [Refusal],
// before its body is read. So is one whose task's context has ended if next returns without an
// answer; of the headers that next has set for one, none is sent. Whatever next has begun to answer
// is left as it is. With HTTP/1, an answer with an error's status to a body that next has read a part
// of closes the connection, as after [http.MaxBytesReader]. A panic in next goes on to
// net/http, and so does [http.ErrAbortHandler], which the pool does not count as a panic.
//
// If p is nil or no call has returned it, next is nil, or an option is not allowed, Handler
// panics, as registering a handler for a pattern that is not allowed does.
func Handler(p *taskpool.Pool, next http.Handler, classify func(*http.Request) (taskpool.Task, bool), opts ...Option) http.Handler {
	cfg, err := newConfig(opts)
	switch {
	case err != nil:
		panic(err.Error())
	case p == nil:
		panic(pkg.Bad("Handler: p", "be a Pool that New has returned", "nil").Error())
	case next == nil:
		panic(pkg.Bad("Handler: next", "not be nil", "nil").Error())
	}
	p.ExpectedWait(taskpool.Medium, "") // the first call begins the measurement
	return &handler{cfg: cfg, pool: p, service: serviceOf(p), calls: inside.Of(p), next: next, classify: classify,
		lastWait: min(time.Second, p.HangGrace()/2)}
}

// A handler is what Handler returns. It does not change.
type handler struct {
	cfg      config
	pool     *taskpool.Pool
	service  *service
	calls    *inside.Calls
	next     http.Handler
	classify func(*http.Request) (taskpool.Task, bool) // may be nil
	lastWait time.Duration                             // see traffic
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// One that the handler is asked to upgrade may have no such header: a reverse proxy would add its own
	// to it, and a client would be told to close what it was just given.
	if h.service.draining.Load() && r.Header["Upgrade"] == nil {
		closeAfter(w, r)
	}
	if h.calls.Know(r.Header[insideHeader]) {
		h.forward(w, r, h.calls.Within(r.Context()), r.Body)
		return
	}
	var t taskpool.Task
	if h.classify != nil {
		var limited bool
		if t, limited = h.classify(r); !limited {
			h.next.ServeHTTP(w, r)
			return
		}
	}
	if t.Name == "" {
		t.Name = r.Pattern
	}
	run := run{handler: h, w: w, r: r}
	ctx := r.Context()
	if run.unread() && connOf(r) != nil {
		ctx, run.hangUp = context.WithCancelCause(ctx)
		defer run.hangUp(nil)
	}
	if err := h.pool.Do(ctx, t, run.do); err != nil && !run.answered() {
		run.takeBack()
		h.refuse(w, r, t, err, run.began, run.unread())
	}
}

// A run is one request on its way through the pool.
type run struct {
	*handler
	w     http.ResponseWriter
	r     *http.Request
	out   *writer // around w; nil until it has begun
	began bool
	given http.Header // the headers of the answer when next began, if it had any

	hangUp context.CancelCauseFunc // ends r's context; nil if nobody can know that its client is gone
}

// do is the task. Its error is that of a request which its context's end has left unanswered.
func (q *run) do(ctx context.Context) error {
	if q.hangUp != nil && hungUp(connOf(q.r)) {
		q.hangUp(errHungUp)
		return errHungUp
	}
	q.began = true
	if given := q.w.Header(); len(given) > 0 {
		q.given = given.Clone()
	}
	q.out = &writer{ResponseWriter: q.w, r: q.r, room: netHTTPBuffer, traffic: q.traffic(ctx, false)}
	in := q.r.Body
	if in != nil && in != http.NoBody {
		q.out.body = &body{ReadCloser: in, traffic: q.traffic(ctx, true)}
		in = q.out.body
	}
	q.forward(q.out.like(q.w), q.r, ctx, in)
	if ctx.Err() != nil && !q.answered() {
		return context.Cause(ctx)
	}
	return nil
}

func (q *run) traffic(ctx context.Context, reads bool) traffic {
	return traffic{ctx: ctx, most: q.cfg.clientWait, credit: q.cfg.clientWait, w: q.w, reads: reads, lastWait: q.lastWait}
}

// takeBack has the headers of the answer be those that it had when next began: what next has set
// there is about another answer, which did not come.
func (q *run) takeBack() {
	if q.began {
		headers := q.w.Header()
		clear(headers)
		maps.Copy(headers, q.given)
	}
}

// answered reports whether next has begun to answer.
func (q *run) answered() bool { return q.out != nil && q.out.wrote }

// unread reports whether the request has a body that was not read to its end.
func (q *run) unread() bool {
	if q.out == nil {
		return q.r.Body != nil && q.r.Body != http.NoBody
	}
	return q.out.body != nil && !q.out.body.ended.Load()
}

// forward calls next with a copy of r that has ctx and body. The copy's ctx is all that differs
// for what is outside, too: net/http removes the files of a form at the end, and who logs the
// request wants to know its route. Only what next has set is set in r, as other goroutines may
// read it.
func (h *handler) forward(w http.ResponseWriter, r *http.Request, ctx context.Context, body io.ReadCloser) {
	inner := r.WithContext(ctx)
	inner.Body = body
	if r.ContentLength < 0 && r.ProtoMajor == 1 && body != nil {
		inner.Body = &chunked{body, r, inner}
	}
	defer func() {
		if r.Form == nil && inner.Form != nil {
			r.Form, r.PostForm = inner.Form, inner.PostForm
		}
		if r.MultipartForm == nil && inner.MultipartForm != nil {
			r.MultipartForm = inner.MultipartForm
		}
		if r.Pattern != inner.Pattern {
			r.Pattern = inner.Pattern
			for name := range wildcards(r.Pattern) {
				r.SetPathValue(name, inner.PathValue(name))
			}
		}
	}()
	h.next.ServeHTTP(w, inner)
}

// A chunked is the body of a request that may have trailers which were not announced. net/http sets
// them in the request when it has read the body.
type chunked struct {
	io.ReadCloser
	outer, inner *http.Request
}

func (c *chunked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.pass()
	return n, err
}

func (c *chunked) Close() error {
	err := c.ReadCloser.Close()
	c.pass()
	return err
}

func (c *chunked) pass() {
	if c.inner.Trailer == nil && c.outer.Trailer != nil {
		c.inner.Trailer = c.outer.Trailer
	}
}

// wildcards returns the names of the wildcards of a pattern of [http.ServeMux].
func wildcards(pattern string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			_, after, found := strings.Cut(pattern, "{")
			name, rest, _ := strings.Cut(after, "}")
			if !found || name != "$" && !yield(strings.TrimSuffix(name, "...")) {
				return
			}
			pattern = rest
		}
	}
}
