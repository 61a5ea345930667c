package httppool

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool"
)

// A traffic is what goes from or to the client of a request, in one direction. A read or write
// that takes long waits for the client, and nobody can say beforehand that it will: net/http
// and the kernel have buffers. To give the slot back and ask for it again around each would
// have every request wait for its turn several times. So a read or write begins with the slot
// and, by a timer, gives it back when it has waited for as long as its credit allows. A
// client that is slow has none any more, and gives it back at once. What it sends or takes
// earns credit: one that is fast never loses its slot, however much it is.
//
// What waits for the client without the slot ends with the task's context. Otherwise a client that is
// slow on purpose would have the task given up as hung, and the pool with many of those be unhealthy.
//
// What another goroutine does at the same time, such as to close a body that is being read, is
// done as it is: the one that came first sees to the slot.
type traffic struct {
	busy sync.Mutex // locked while an operation is under way; protects the fields below

	ctx      context.Context // the task's
	most     time.Duration   // the most that credit may be
	credit   time.Duration   // for how long the next operation may wait with the slot
	w        http.ResponseWriter
	reads    bool          // from the client; otherwise it writes
	lastWait time.Duration // for how long an answer may wait for the client when ctx has ended
	hurried  bool          // the client has no longer than that

	timer *time.Timer   // has the task give its slot back; nil until it was needed
	over  chan struct{} // tells what the timer has started that the operation is over
	back  chan struct{} // that the task has a slot again
}

// A client that moves less than a byte in this time is slow: 10 MB/s.
const perByte = 100 * time.Nanosecond

// do calls operation, which returns how many bytes it has moved, with the slot or without.
func (t *traffic) do(operation func() (int64, error)) (n int64, err error) {
	if !t.busy.TryLock() {
		return operation()
	}
	defer t.busy.Unlock()
	began := time.Now()
	t.arm()
	defer t.disarm() // also if operation panics, as the reader of ReadFrom may
	n, err = operation()
	t.earn(n, began)
	return n, err
}

// earn settles the account of an operation that has begun at a time.
func (t *traffic) earn(n int64, began time.Time) {
	left := max(t.credit-time.Since(began), 0)
	if missing := t.most - left; n < int64(missing/perByte) {
		t.credit = left + time.Duration(n)*perByte
	} else {
		t.credit = t.most
	}
}

// arm has the task give its slot back when its credit is used up, until disarm.
func (t *traffic) arm() {
	patience := t.credit
	if patience < t.most/8 { // hardly worth it
		patience = 0
	}
	if t.timer != nil {
		t.timer.Reset(patience)
		return
	}
	t.over, t.back = make(chan struct{}), make(chan struct{})
	t.timer = time.AfterFunc(patience, func() {
		_ = taskpool.Block(t.ctx, func() error {
			t.watch()
			return nil
		})
		t.back <- struct{}{}
	})
}

// watch waits until the operation is over, and has the client no more than some time for it once the
// task's context has ended. A ResponseWriter that has no deadlines leaves that to the client, or to the
// timeouts of the server.
func (t *traffic) watch() {
	late := t.ctx.Err() != nil // an answer that comes too late, but comes
	select {
	case <-t.over:
		return
	case <-t.ctx.Done():
	}
	if !t.hurried {
		t.hurried = true
		control, soon := http.NewResponseController(t.w), time.Now().Add(t.lastWait)
		if !t.reads {
			_ = control.SetWriteDeadline(soon)
		}
		if !t.reads || !late { // with HTTP/1, what waits in a write may be that net/http reads the rest of the body
			soon = longAgo
		}
		_ = control.SetReadDeadline(soon)
	}
	<-t.over
}

var longAgo = time.Unix(1, 0)

// disarm undoes what arm did, and waits for a slot if the task has none.
func (t *traffic) disarm() {
	if !t.timer.Stop() {
		t.over <- struct{}{}
		<-t.back
	}
}

// A body is the body of a request, read in a task.
type body struct {
	io.ReadCloser
	traffic
	begun atomic.Bool // some of it was read
	ended atomic.Bool // all of it was read
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.do(func() (int64, error) {
		n, err := b.ReadCloser.Read(p)
		return int64(n), err
	})
	if n > 0 {
		b.begun.Store(true)
	}
	if err == io.EOF {
		b.ended.Store(true)
	}
	return int(n), b.orCause(err)
}

// Close may read what is left of it.
func (b *body) Close() error {
	_, err := b.do(func() (int64, error) { return 0, b.ReadCloser.Close() })
	return b.orCause(err)
}

// orCause returns err, or why the task's context has ended if err comes of that. A deadline that is not
// from here ends the context, too: net/http cancels it, without a cause.
func (b *body) orCause(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if cause := context.Cause(b.ctx); cause != nil && cause != context.Canceled {
			return cause
		}
	}
	return err
}
