package pooltest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Patience returns a context for waits that must end by themselves. In a bubble its year
// is virtual: a wait that never ends fails its test in no time, where it would otherwise
// take the whole run down as a deadlock.
func Patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 365*24*time.Hour)
	t.Cleanup(cancel)
	return ctx
}

// ErrStop is the cause of the end of EndedContext.
var ErrStop = errors.New("test: shutdown has waited long enough")

// EndedContext returns a context that is over, with cause ErrStop.
func EndedContext() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(ErrStop)
	return ctx
}

// Key is a key of values in contexts.
type Key struct{}

// A CountedContext is one of another package, of which the context package knows nothing.
// It counts the functions that wait for its end, as those would that a refused Submit left
// behind.
type CountedContext struct {
	context.Context
	Waiting atomic.Int64
	Probe   func() // if set, called by Err and Value
	Asked   func() // if set, called once when another package asks for a value
}

// AfterFunc counts f until it is stopped.
func (c *CountedContext) AfterFunc(f func()) func() bool {
	c.Waiting.Add(1)
	stop := context.AfterFunc(c.Context, f)
	return func() bool {
		c.Waiting.Add(-1)
		return stop()
	}
}

func (c *CountedContext) Err() error {
	if c.Probe != nil {
		c.Probe()
	}
	return c.Context.Err()
}

func (c *CountedContext) Value(key any) any {
	if c.Probe != nil {
		c.Probe()
	}
	if _, std := key.(*int); !std && c.Asked != nil { // the context package's own key is an *int
		asked := c.Asked
		c.Asked = nil
		asked()
	}
	return nil
}

// A ForeignContext is a context that package context knows nothing of.
type ForeignContext struct {
	context.Context
	Probe func()        // called by every method, if not nil
	Ended chan struct{} // closed by End
	once  sync.Once
	mu    sync.Mutex
	err   error
}

func (f *ForeignContext) called() {
	if f.Probe != nil {
		f.Probe()
	}
}

// End ends the context.
func (f *ForeignContext) End() {
	f.once.Do(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.err = context.Canceled
		close(f.Ended)
	})
}

func (f *ForeignContext) Done() <-chan struct{}       { f.called(); return f.Ended }
func (f *ForeignContext) Deadline() (time.Time, bool) { f.called(); return f.Context.Deadline() }
func (f *ForeignContext) Value(key any) any           { f.called(); return f.Context.Value(key) }
func (f *ForeignContext) Err() error {
	f.called()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
