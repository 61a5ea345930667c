// Package inside tells the requests that tasks of a pool make to servers on that pool from all
// others, for packages httppool and grpcpool. They are part of work that has its turn already, and
// in a queue behind others that wait so they would wait forever.
package inside

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/perpool"
)

var all perpool.Map[Calls]

// Calls are the requests that tasks of a pool have under way, in whatever protocol. Each has a text
// of its own, which nobody can guess and which counts for as long as the request is under way.
type Calls struct {
	texts sync.Map // of string to nil
}

// Of returns the calls of p, which is not nil.
func Of(p *taskpool.Pool) *Calls { return all.Of(p) }

// Has reports whether a request with ctx is part of the work of a task of p, whose calls c are.
func (c *Calls) Has(ctx context.Context, p *taskpool.Pool) bool {
	return ctx.Value(c) != nil || p.Inside(ctx)
}

// Begin returns the text of a new request, and a function that ends it, which may be called again.
func (c *Calls) Begin() (text string, end func()) {
	text = rand.Text()
	c.texts.Store(text, nil)
	return text, func() { c.texts.Delete(text) }
}

// Know reports whether one of texts, which a request has come with, is that of one under way.
func (c *Calls) Know(texts []string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		_, ok := c.texts.Load(text)
		return ok
	})
}

// Within returns a context for the work on a request that is known: what it asks for in turn is part
// of the same work.
func (c *Calls) Within(ctx context.Context) context.Context { return context.WithValue(ctx, c, true) }
