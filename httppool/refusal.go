package httppool

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/comeback"
)

// StatusClientClosedRequest is the status of a request whose client has gone away before it was
// answered. The client does not see it, but logs do. It is none of RFC 9110; nginx has coined it.
const StatusClientClosedRequest = 499

// A Refusal says why a request was not run, or was left unanswered when its task's context
// ended, and how it is answered.
type Refusal struct {
	// Status is
	//
	//	503  the queue is full (ErrFull), or the request had to leave it for a more urgent one
	//	     (ErrShed), or the pool is shut down (ErrClosed)
	//	429  the request's flow has as many waiting as its own bound allows (ErrFlowFull)
	//	504  it has waited for longer than its MaxWait, or a queue that is late has shed it
	//	     (ErrExpired), its handler has run into the task's timeout or has hung, or the
	//	     request's context had a deadline of its own
	//	499  its client has gone away, see [StatusClientClosedRequest]
	//	500  the task that classify has returned is not allowed, or was canceled by hand; this
	//	     is logged by [slog.Default] at level Error
	Status int

	// RetryAfter is the header Retry-After: whole seconds, chosen at random between the wait
	// that the pool expects for such a request and twice that, at least 1 s and at most an
	// hour. It is set where a later request may be answered: with 503 and 429, and with 504 for
	// a request that has not been run. Zero: the header is not sent.
	RetryAfter time.Duration

	Err     error         // what Do has returned
	Task    taskpool.Task // what classify has returned
	Started bool          // the handler has run, and has returned without an answer
}

// A kind is what becomes of requests whose task has ended with an error that Is err.
type kind struct {
	err    error
	status int
	later  bool   // a later request may be answered
	text   string // for the client
}

// kinds are in order: the first that an error Is counts.
var kinds = []kind{
	{taskpool.ErrExpired, http.StatusGatewayTimeout, true, "the request has waited for too long"},
	{taskpool.ErrFlowFull, http.StatusTooManyRequests, true, "too many of your requests wait"},
	{taskpool.ErrFull, http.StatusServiceUnavailable, true, "more requests come than can be answered"},
	{taskpool.ErrClosed, http.StatusServiceUnavailable, true, "the server is going down"},
	{taskpool.ErrHung, http.StatusGatewayTimeout, false, "the request took too long"},
	{errHungUp, StatusClientClosedRequest, false, clientGone.text},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, false, "the request took too long"},
}

var (
	clientGone = kind{status: StatusClientClosedRequest, text: "the client has gone away"}
	faulty     = kind{status: http.StatusInternalServerError, text: "internal server error"}
)

// kindOf returns the kind of a request with a context, whose task t has ended with err.
func kindOf(ctx context.Context, t taskpool.Task, err error) kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) && (k.err != taskpool.ErrFlowFull || t.Flow != "") {
			return k
		}
	}
	switch ctx.Err() {
	case nil:
		return faulty
	case context.DeadlineExceeded: // with a cause of the user's
		return kind{status: http.StatusGatewayTimeout, text: "the request took too long"}
	}
	return clientGone
}

// refuse answers a request whose task t has ended with err and without an answer. unread says
// that it has a body that was not read to its end.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, t taskpool.Task, err error, started, unread bool) {
	k := kindOf(r.Context(), t, err)
	re := Refusal{Status: k.status, Err: err, Task: t, Started: started}
	if k.later {
		flow := ""
		if k.status == http.StatusTooManyRequests {
			flow = t.Flow
		}
		re.RetryAfter = comeback.After(h.service.waits.Expected(h.pool, t.Priority, flow))
		w.Header().Set("Retry-After", strconv.FormatInt(int64(re.RetryAfter/time.Second), 10))
	}
	if k == faulty {
		slog.Error("httppool: request not run", "task", t, "error", err)
	}
	if k.err == taskpool.ErrClosed {
		closeAfter(w, r)
	}
	if unread && r.ProtoMajor < 2 {
		closeAfter(w, r)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lastRead))
	}
	h.cfg.answer(w, r, re)
}

// closeAfter has net/http close the connection of r after the answer. HTTP/2 has no need of that: it
// ends its connections in order. (And a Server.Shutdown soon after may then wait forever, with Go 1.26.)
func closeAfter(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor < 2 {
		w.Header().Set("Connection", "close")
	}
}

// lastRead is for how long net/http reads what comes of the body once a request is refused, and
// the answer is out. It keeps a reset of the connection from destroying the answer before the
// client has read it; a client that sends more slowly need not be waited for.
const lastRead = 500 * time.Millisecond

// answerInText is the default of WithAnswer.
func answerInText(w http.ResponseWriter, r *http.Request, re Refusal) {
	http.Error(w, kindOf(r.Context(), re.Task, re.Err).text, re.Status)
}
