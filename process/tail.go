package process

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// A tail copies a child's standard error and keeps the end of it.
type tail struct {
	r    *os.File
	done chan struct{} // closed when all has been copied

	mu  sync.Mutex // protects the fields below
	buf []byte     // at most twice maxStderr and a write
	why string     // the last line that says why, among what is not kept
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
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - maxStderr; n > maxStderr {
		end := n
		if i := bytes.IndexByte(t.buf[n:], '\n'); i >= 0 {
			end += i // the line that is cut in two
		}
		if why, _ := lastWords(t.buf[:end]); why != "" {
			t.why = why
		}
		t.buf = t.buf[:copy(t.buf, t.buf[n:])]
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

// last returns the last maxStderr bytes that were written, and the line of all that
// was written that says why the child died, empty if there is none.
func (t *tail) last() (text []byte, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text = bytes.Clone(t.buf[max(0, len(t.buf)-maxStderr):])
	why, last := lastWords(t.buf)
	return text, cmp.Or(why, t.why, last)
}

// lastWords returns the last line in which the runtime says why it gives up, and the
// last line that is not empty.
func lastWords(stderr []byte) (why, last string) {
	var w, l []byte
	for line := range bytes.Lines(stderr) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("fatal error: ")) || bytes.HasPrefix(line, []byte("panic: ")) {
			w = line
		}
		if len(line) > 0 {
			l = line
		}
	}
	return shorten(w), shorten(l)
}

// shorten returns a line that fits into an error's text.
func shorten(line []byte) string {
	const most = 200
	if len(line) > most {
		return strings.ToValidUTF8(string(line[:most]), "") + "..."
	}
	return string(line)
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
