package httppool

import (
	"context"
	"io"
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
// What another goroutine does at the same time, such as to close a body that is being read, is
// done as it is: the one that came first sees to the slot.
type traffic struct {
	busy sync.Mutex // locked while an operation is under way; protects the fields below

	ctx    context.Context // the task's
	most   time.Duration   // the most that credit may be
	credit time.Duration   // for how long the next operation may wait with the slot

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
	if t.credit < t.most/8 || t.most == 0 { // a timer for less is hardly worth it
		_ = taskpool.Block(t.ctx, func() error {
			n, err = operation()
			t.earn(n, began)
			return nil
		})
		return n, err
	}
	t.arm()
	defer t.disarm() // also if operation panics, as the reader of ReadFrom may
	n, err = operation()
	t.earn(n, began)
	return n, err
}

// earn settles the account of an operation that has begun at a time.
func (t *traffic) earn(n int64, began time.Time) {
	earned := t.most // for more than it can be
	if n < int64(t.most/perByte)+1 {
		earned = time.Duration(n) * perByte
	}
	t.credit = min(max(t.credit-time.Since(began), 0)+earned, t.most)
}

// arm has the task give its slot back when its credit is used up, until disarm.
func (t *traffic) arm() {
	if t.timer != nil {
		t.timer.Reset(t.credit)
		return
	}
	t.over, t.back = make(chan struct{}), make(chan struct{})
	t.timer = time.AfterFunc(t.credit, func() {
		_ = taskpool.Block(t.ctx, func() error {
			<-t.over
			return nil
		})
		t.back <- struct{}{}
	})
}

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
	return int(n), err
}

// Close may read what is left of it.
func (b *body) Close() error {
	_, err := b.do(func() (int64, error) { return 0, b.ReadCloser.Close() })
	return err
}
