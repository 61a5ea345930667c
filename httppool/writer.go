package httppool

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
)

// A writer is the ResponseWriter of a request that runs in a task.
type writer struct {
	http.ResponseWriter
	traffic
	r     *http.Request
	body  *body // nil if the request has none
	wrote bool  // there is an answer, or its beginning, or the connection is next's
	room  int   // how many bytes net/http keeps in its buffer before it sends any; negative: it has sent some
}

// netHTTPBuffer is how much of an answer net/http keeps at least, until the handler returns or
// flushes. A write that fits there does not wait for the client, and most answers do.
const netHTTPBuffer = 2048

// Unwrap is for [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return beneath{w} }

// beneath is what a ResponseController finds that has not found Flush or Hijack in a writer, since
// the one that this is around, of a middleware say, has only Unwrap. Without it, it would find those
// further down, and the writer would not know that the answer has begun.
type beneath struct{ *writer }

// Unwrap is for all else that a ResponseController may do.
func (b beneath) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// FlushError is for [http.ResponseController].
func (b beneath) FlushError() error { return flusher{b.writer}.FlushError() }

// Hijack is for [http.ResponseController].
func (b beneath) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return hijacker{b.writer}.Hijack()
}

func (w *writer) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// begin notes that the answer begins. Where http.MaxBytesReader finds a body too large, it has
// net/http not wait for the rest, but tells only a ResponseWriter of net/http's own. Handlers then
// answer that it is too large, or have read a part and answer with another error: so of these
// the rest is not waited for.
func (w *writer) begin(status int) {
	if !w.wrote && w.body != nil && !w.body.ended.Load() &&
		(status == http.StatusRequestEntityTooLarge || status >= 400 && w.body.begun.Load()) {
		closeAfter(w.ResponseWriter, w.r)
	}
	w.wrote = true
}

func (w *writer) Write(p []byte) (int, error) {
	if w.fits(len(p)) {
		return w.ResponseWriter.Write(p)
	}
	n, err := w.do(func() (int64, error) {
		n, err := w.ResponseWriter.Write(p)
		return int64(n), err
	})
	return int(n), err
}

// WriteString is for [io.WriteString], which net/http's own spares a copy.
func (w *writer) WriteString(s string) (int, error) {
	if w.fits(len(s)) {
		return io.WriteString(w.ResponseWriter, s)
	}
	n, err := w.do(func() (int64, error) {
		n, err := io.WriteString(w.ResponseWriter, s)
		return int64(n), err
	})
	return int(n), err
}

// fits notes that n bytes are written, and reports whether they fit into the buffer with all that
// was written before.
func (w *writer) fits(n int) bool {
	w.begin(http.StatusOK)
	w.room = max(w.room-n, -1)
	return w.room >= 0
}

// ReadFrom is for [io.Copy]. Where net/http may have the kernel do it, as for a file, it does.
// Otherwise it begins as net/http does, which looks at the first bytes for the type and then sends
// the header; and of the rest only the writes wait for the client: a reader may have work to do.
func (w *writer) ReadFrom(src io.Reader) (n int64, err error) {
	if to, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		w.begin(http.StatusOK)
		w.room = -1
		if fromKernel(src) {
			return w.do(func() (int64, error) { return to.ReadFrom(src) })
		}
		n, err = w.do(func() (int64, error) { return to.ReadFrom(io.LimitReader(src, sniffed)) })
		if n < sniffed || err != nil {
			return n, err
		}
	}
	rest, err := io.Copy(struct{ io.Writer }{w}, src)
	return n + rest, err
}

const sniffed = 512 // bytes, as many as http.DetectContentType looks at

// fromKernel reports whether src is a file or a connection, or a part of one.
func fromKernel(src io.Reader) bool {
	if part, ok := src.(*io.LimitedReader); ok {
		src = part.R
	}
	switch src.(type) {
	case *os.File, *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// like returns w with the methods beside its own that the one it is around has, so that a
// handler that asks for them gets the same answer.
func (w *writer) like(of http.ResponseWriter) http.ResponseWriter {
	_, flushes := of.(http.Flusher)
	_, hijacks := of.(http.Hijacker)
	_, pushes := of.(http.Pusher)
	f, h, p := flusher{w}, hijacker{w}, pusher{w}
	if n, ok := of.(closeNotifier); ok { // net/http's own
		switch {
		case flushes && hijacks && !pushes: // HTTP/1
			return struct {
				*writer
				flusher
				hijacker
				closeNotifier
			}{w, f, h, n}
		case flushes && !hijacks && pushes: // HTTP/2
			return struct {
				*writer
				flusher
				pusher
				closeNotifier
			}{w, f, p, n}
		}
	}
	switch [...]bool{flushes, hijacks, pushes} {
	case [...]bool{true, true, false}:
		return struct {
			*writer
			flusher
			hijacker
		}{w, f, h}
	case [...]bool{true, false, true}:
		return struct {
			*writer
			flusher
			pusher
		}{w, f, p}
	case [...]bool{true, false, false}:
		return struct {
			*writer
			flusher
		}{w, f}
	case [...]bool{true, true, true}:
		return struct {
			*writer
			flusher
			hijacker
			pusher
		}{w, f, h, p}
	case [...]bool{false, true, false}:
		return struct {
			*writer
			hijacker
		}{w, h}
	case [...]bool{false, false, true}:
		return struct {
			*writer
			pusher
		}{w, p}
	case [...]bool{false, true, true}:
		return struct {
			*writer
			hijacker
			pusher
		}{w, h, p}
	}
	return w
}

// A closeNotifier is an http.CloseNotifier, which is deprecated and still asked for.
type closeNotifier interface{ CloseNotify() <-chan bool }

type flusher struct{ w *writer }

// Flush is for [http.Flusher].
func (f flusher) Flush() { _ = f.FlushError() }

// FlushError is for [http.ResponseController].
func (f flusher) FlushError() error {
	wrote, room := f.w.wrote, f.w.room
	f.w.begin(http.StatusOK)
	f.w.room = -1
	_, err := f.w.do(func() (int64, error) { return 0, http.NewResponseController(f.w.ResponseWriter).Flush() })
	if errors.Is(err, http.ErrNotSupported) {
		f.w.wrote, f.w.room = wrote, room
	}
	return err
}

type hijacker struct{ w *writer }

// Hijack is for [http.Hijacker].
func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(h.w.ResponseWriter).Hijack()
	h.w.wrote = h.w.wrote || err == nil
	return conn, buf, err
}

type pusher struct{ w *writer }

// Push is for [http.Pusher].
func (p pusher) Push(target string, opts *http.PushOptions) error {
	return p.w.ResponseWriter.(http.Pusher).Push(target, opts)
}
