package httppool

import (
	"net/http"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/inside"
)

// insideHeader marks a request of a task of the pool that it is for.
const insideHeader = "Taskpool-Inside"

// Transport returns a RoundTripper for requests that tasks of p make. A handler of p, see
// [Handler], that such a request comes to in the same process runs it at once, outside the
// pool, as it is part of a task's work: the task holds its slot while it waits for the answer,
// and in a queue behind others that wait so the request would wait forever. The same is true
// for the requests that this one leads to. For all other requests, and other handlers, Transport
// makes no difference. A nil base is [http.DefaultTransport].
//
// A request is marked by a header with a random text, which counts for as long as
// RoundTrip takes to return the answer's header. So whom a task asks can have requests run
// outside the pool meanwhile, if it knows the header, and nobody else can. It costs a few
// microseconds.
func Transport(p *taskpool.Pool, base http.RoundTripper) http.RoundTripper {
	if p == nil {
		panic(pkg.Bad("Transport: p", "be a Pool that New has returned", "nil").Error())
	}
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{pool: p, calls: inside.Of(p), base: base}
}

type transport struct {
	pool  *taskpool.Pool
	calls *inside.Calls
	base  http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.calls.Has(r.Context(), t.pool) {
		return t.base.RoundTrip(r)
	}
	text, end := t.calls.Begin()
	defer end()
	marked := r.WithContext(r.Context()) // a RoundTripper must not change the request
	if marked.Header = r.Header.Clone(); marked.Header == nil {
		marked.Header = make(http.Header)
	}
	marked.Header.Set(insideHeader, text)
	return t.base.RoundTrip(marked)
}

// CloseIdleConnections is for [http.Client.CloseIdleConnections].
func (t *transport) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}
