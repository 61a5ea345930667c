package httppool

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

// A Server is what [Shutdown] ends: an [http.Server], or what has its methods.
type Server interface {
	Shutdown(context.Context) error // accepts no more, and returns when all is answered or ctx has ended
	Close() error                   // cuts off what is left
}

// Ready returns a handler that says whether new requests should be sent here, for a load
// balancer: it answers with status 200, or with 503 once [Shutdown] was called for p or while
// p.Health returns an error, with its text. Register it beside the handlers of p, not behind
// them.
func Ready(p *taskpool.Pool) http.Handler {
	if p == nil {
		panic(pkg.Bad("Ready: p", "be a Pool that New has returned", "nil").Error())
	}
	s := serviceOf(p)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			closeAfter(w, r)
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		if err := p.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ready\n"))
	})
}

// Shutdown ends servers whose handlers run on p, and p, so that no request is lost that they
// have accepted; call it when the process is told to end, by SIGTERM say:
//
//  1. [Ready] answers with status 503 from now on, and handlers of p ask their clients to close
//     the connection after the answer, so that none is closed in the moment in which a client
//     sends a request on it. Otherwise all goes on for the time linger, in which load balancers
//     and clients should notice.
//  2. The servers accept no more, by their Shutdown, and finish what they have accepted.
//  3. p is shut down, see [taskpool.Pool.Shutdown].
//
// If ctx ends meanwhile, the next steps follow at once. What is left then is cut off by p and
// answered with status 503 if its handler returns; after a second at most the servers are closed,
// which ends exempt requests too. Shutdown then returns the servers' errors, and that of p with the
// list of what was cut off, a [*taskpool.ShutdownError]. It returns nil if nothing was. The servers
// are still to be waited for where they were started, as Serve returns earlier.
//
// A request that never ends by itself, such as an event stream, has to be told: see
// [http.Server.RegisterOnShutdown], whose functions run once in each call of Shutdown: to cut one short,
// end its ctx. Hijacked connections are not waited
// for. An HTTP/2 connection that a client opens in the moment in which the servers accept no more,
// and sends nothing on, may be waited for until ctx ends (golang.org/issue/81153): let ctx have a
// deadline, or the servers an IdleTimeout. Called inside a task of p, Shutdown returns
// [taskpool.ErrInside].
func Shutdown(ctx context.Context, p *taskpool.Pool, linger time.Duration, servers ...Server) error {
	switch {
	case ctx == nil:
		return pkg.Bad("Shutdown: ctx", "not be nil", "nil")
	case p == nil:
		return pkg.Bad("Shutdown: p", "be a Pool that New has returned", "nil")
	case linger < 0:
		return pkg.Bad("Shutdown: linger", "not be negative", linger)
	case p.Inside(ctx):
		return taskpool.ErrInside
	}
	for i, server := range servers {
		if hs, ok := server.(*http.Server); server == nil || ok && hs == nil {
			return pkg.Bad(fmt.Sprintf("Shutdown: servers[%d]", i), "not be nil", "nil")
		}
	}
	serviceOf(p).draining.Store(true)
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	// Each server's Shutdown is called once, as each call runs the functions of RegisterOnShutdown.
	// It has until the answers are there that p leaves when ctx ends.
	ending, cutShort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cutShort(nil)
	var unanswered error
	ended := make(chan struct{})
	go func() {
		unanswered = shutDown(ending, servers)
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	cutOff := p.Shutdown(ctx)
	timer.Reset(lastAnswers)
	select {
	case <-ended:
	case <-timer.C:
		cutShort(context.Cause(ctx))
		<-ended
	}
	if unanswered != nil {
		for _, s := range servers {
			_ = s.Close()
		}
	}
	return errors.Join(unanswered, cutOff)
}

const lastAnswers = time.Second

// shutDown calls Shutdown of all servers at a time.
func shutDown(ctx context.Context, servers []Server) error {
	errs := make([]error, len(servers))
	var all sync.WaitGroup
	for i, s := range servers {
		all.Go(func() {
			if errs[i] = s.Shutdown(ctx); errs[i] != nil && errs[i] == ctx.Err() {
				errs[i] = context.Cause(ctx)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
