package process

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"slices"
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
	cut words      // of what is not kept
}

// newTail copies r to w, in whole lines, and closes it at its end. label, which may be nil,
// returns what the lines that have come begin with.
func newTail(r *os.File, w io.Writer, label func() string) *tail {
	t := &tail{r: r, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		defer r.Close()
		// A failing w is no reason to stop: a child must not block for it.
		lines := &lineWriter{w: tolerant{w}, label: label}
		_, _ = io.Copy(io.MultiWriter(t, lines), r)
		lines.end()
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
		t.cut.read(t.buf[:end])
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
// was written that says why the child died, or else the last that is not empty.
func (t *tail) last() (text []byte, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.cut
	w.read(t.buf)
	return bytes.Clone(t.buf[max(0, len(t.buf)-maxStderr):]), cmp.Or(w.why, w.last)
}

// words are what counts of what was written to a standard error.
type words struct {
	why  string // the line in which the runtime has said last why it gives up
	last string // the last line that is not empty
}

// read goes on with the lines of stderr.
func (w *words) read(stderr []byte) {
	for line := range bytes.Lines(stderr) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		last := w.last
		w.last = shorten(line)
		switch {
		case bytes.HasPrefix(line, []byte("fatal error: ")):
			w.why = w.last
			if isDetail(last) {
				w.why += " (" + last + ")"
			}
		case bytes.HasPrefix(line, []byte("panic: ")), isDetail(w.last):
			w.why = w.last
		case isSignal(w.last) && last != "-----":
			// Below that mark GOTRACEBACK=crash has each further thread print its
			// registers, by a SIGQUIT.
			w.why = w.last
		}
	}
}

// isDetail reports whether a line tells more than the fatal error that follows it.
func isDetail(line string) bool {
	return strings.HasPrefix(line, "unexpected fault address ") ||
		strings.HasPrefix(line, "runtime: ") && strings.Contains(line, "out of memory")
}

// isSignal reports whether a line is how the runtime begins to tell of a signal that
// it gives up for: one that came from elsewhere, or from code in C.
func isSignal(line string) bool {
	name, _, ok := strings.Cut(line, ": ")
	return ok && slices.Contains([]string{"SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV",
		"SIGSTKFLT", "SIGSYS", "SIGEMT"}, name)
}

// shorten returns a line that fits into an error's text.
func shorten(line []byte) string {
	const most = 200
	if len(line) > most {
		return strings.ToValidUTF8(string(line[:most]), "") + "..."
	}
	return string(line)
}

// maxLine is the longest line of a child's standard error that is copied as one.
const maxLine = 64 << 10

// A lineWriter passes on whole lines, as lines of several children would mix otherwise. What
// is longer than maxLine becomes several.
type lineWriter struct {
	w     io.Writer
	label func() string // what each line begins with; nil: nothing
	part  []byte        // of the line that has not ended; at most maxLine
}

func (l *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.LastIndexByte(p, '\n') + 1
		if end == 0 {
			end = min(len(p), maxLine-len(l.part))
			l.part = append(l.part, p[:end]...)
			if len(l.part) == maxLine {
				l.end()
			}
		} else {
			lines := p[:end]
			if len(l.part) > 0 {
				lines = append(l.part, lines...)
				l.part = nil
			}
			l.write(lines)
		}
		p = p[end:]
	}
	return n, nil
}

// end ends the line that has not ended, if there is one.
func (l *lineWriter) end() {
	if len(l.part) > 0 {
		l.write(append(l.part, '\n'))
		l.part = nil
	}
}

// write writes whole lines at once.
func (l *lineWriter) write(lines []byte) {
	if l.label != nil {
		label, labeled := l.label(), []byte(nil)
		for line := range bytes.Lines(lines) {
			labeled = append(append(labeled, label...), line...)
		}
		lines = labeled
	}
	_, _ = l.w.Write(lines) // its failures are hidden
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
