package process

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"
)

// A tail copies a child's standard error and keeps the end of it.
type tail struct {
	r    *os.File
	done chan struct{} // closed when all has been copied

	mu  sync.Mutex // protects the field below
	buf []byte     // at most twice maxStderr
}

// newTail copies r to w, and closes it at its end.
func newTail(r *os.File, w io.Writer) *tail {
	t := &tail{r: r, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		defer r.Close()
		// A failing w is no reason to stop: a child must not block for it.
		_, _ = io.Copy(io.MultiWriter(t, tolerant{w}), r)
	}()
	return t
}

// Write keeps the end of what was written so far. It never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-maxStderr):]...)
	if len(t.buf) > 2*maxStderr {
		n := copy(t.buf, t.buf[len(t.buf)-maxStderr:])
		t.buf = t.buf[:n]
	}
	return len(p), nil
}

// finish waits until all has been copied, for at most d: another process may have
// the pipe, and the writer may block.
func (t *tail) finish(d time.Duration) {
	_ = t.r.SetReadDeadline(time.Now().Add(d))
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-t.done:
	case <-late.C:
	}
}

// last returns the last maxStderr bytes that were written.
func (t *tail) last() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf[max(0, len(t.buf)-maxStderr):])
}

// suffix returns the last line, for an error's text.
func (t *tail) suffix() string {
	if line := (&ExitError{Stderr: t.last()}).lastWords(); line != "" {
		return " Its last words: " + line
	}
	return ""
}

// A tolerant writer hides that another fails or panics.
type tolerant struct{ w io.Writer }

func (t tolerant) Write(p []byte) (n int, err error) {
	n = len(p)
	defer func() { _ = recover() }()
	_, _ = t.w.Write(p)
	return n, nil
}

// A serialWriter lets one goroutine write at a time.
type serialWriter struct {
	mu sync.Mutex // held while w, the user's, writes, and by nobody who has another lock
	w  io.Writer
}

func (s *serialWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
