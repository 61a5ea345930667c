package process

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// sentinels are the errors that are the same in parent and child, found by their
// place in this list.
var sentinels = []error{
	context.Canceled, context.DeadlineExceeded,
	taskpool.ErrClosed, taskpool.ErrFull, taskpool.ErrShed, taskpool.ErrTimeout, taskpool.ErrHung,
	taskpool.ErrGoexit, taskpool.ErrInside,
	ErrClosed, ErrNotRegistered, ErrTooLarge, ErrMaxMemory,
	io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, io.ErrShortWrite,
	fs.ErrInvalid, fs.ErrPermission, fs.ErrExist, fs.ErrNotExist, fs.ErrClosed,
	os.ErrDeadlineExceeded, os.ErrProcessDone, errors.ErrUnsupported,
}

func init() {
	gob.Register(syscall.Errno(0))
	gob.Register(&fs.PathError{})
	gob.Register(&os.LinkError{})
	gob.Register(&os.SyscallError{})
}

// A wireError is an error on its way from one process to the other.
type wireError struct {
	Text       string
	Sentinels  []int    // those it is, by their places in sentinels
	Typed      [][]byte // the errors in it whose types package gob knows, encoded
	Permanent  bool
	RetryAfter *time.Duration // nil: not wrapped in taskpool.RetryAfter
}

// A gobbed is how a typed error, or the value of a panic, is encoded.
type gobbed[T any] struct{ V T }

// The most errors of an error's tree that are looked at, and the most that are
// taken along with their types.
const (
	maxErrorTree   = 100
	maxTypedErrors = 8
)

// newWireError takes err apart, so that it takes less than half a frame of most
// bytes. It calls
// methods of err.
func newWireError(err error, most int) *wireError {
	w := &wireError{Text: cut(err.Error(), most/8)}
	room, looked := most/8, 0
	var look func(error)
	look = func(err error) {
		if err == nil || looked == maxErrorTree {
			return
		}
		looked++
		if i := sentinelIndex(err); i >= 0 {
			w.Sentinels = append(w.Sentinels, i)
			return
		}
		switch e := err.(type) {
		case *remote.PermanentError:
			w.Permanent = true
		case *remote.RetryAfterError:
			if w.RetryAfter == nil {
				w.RetryAfter = &e.Delay
			}
		case *remoteError: // of a call that this function made: its parts are below
		default:
			if data, ok := encodeAny(err); ok && len(w.Typed) < maxTypedErrors && len(data) <= room {
				room -= len(data)
				w.Typed = append(w.Typed, data)
				return // with all that it wraps
			}
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			look(e.Unwrap())
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				look(err)
			}
		}
	}
	look(err)
	return w
}

// appendTo encodes the error: flags, then each field as far as it is there.
func (w *wireError) appendTo(frame []byte) []byte {
	var flags byte
	if w.Permanent {
		flags |= flagPermanent
	}
	if w.RetryAfter != nil {
		flags |= flagRetryAfter
	}
	frame = append(frame, flags)
	if w.RetryAfter != nil {
		frame = binary.AppendVarint(frame, int64(*w.RetryAfter))
	}
	frame = appendBytes(frame, w.Text)
	frame = binary.AppendUvarint(frame, uint64(len(w.Sentinels)))
	for _, i := range w.Sentinels {
		frame = binary.AppendUvarint(frame, uint64(i))
	}
	frame = binary.AppendUvarint(frame, uint64(len(w.Typed)))
	for _, data := range w.Typed {
		frame = appendBytes(frame, data)
	}
	return frame
}

const (
	flagPermanent = 1 << iota
	flagRetryAfter
)

// parseWireError is the reverse of appendTo.
func parseWireError(p *parser) *wireError {
	w := new(wireError)
	flags := p.byte()
	w.Permanent = flags&flagPermanent != 0
	if flags&flagRetryAfter != 0 {
		d := time.Duration(p.varint())
		w.RetryAfter = &d
	}
	w.Text = string(p.bytes())
	for range p.count() {
		w.Sentinels = append(w.Sentinels, int(p.uvarint()))
	}
	for range p.count() {
		w.Typed = append(w.Typed, bytes.Clone(p.bytes()))
	}
	return w
}

// sentinelIndex returns err's place in sentinels, -1 if it has none.
func sentinelIndex(err error) int {
	for i, s := range sentinels {
		if same(err, s) {
			return i
		}
	}
	return -1
}

// same reports whether two errors are one; both may be of types that cannot be
// compared.
func same(a, b error) (same bool) {
	defer func() { _ = recover() }()
	return a == b
}

// error puts the error together again.
func (w *wireError) error() error {
	e := &remoteError{text: w.Text}
	for _, i := range w.Sentinels {
		if i >= 0 && i < len(sentinels) {
			e.is = append(e.is, sentinels[i])
		}
	}
	for _, data := range w.Typed {
		if err, ok := decodeAny[error](data); ok {
			e.is = append(e.is, err)
		}
	}
	var err error = e
	if len(e.is) == 1 && e.is[0].Error() == e.text {
		err = e.is[0]
	}
	if w.RetryAfter != nil {
		err = taskpool.RetryAfter(*w.RetryAfter, err)
	}
	if w.Permanent {
		err = taskpool.Permanent(err)
	}
	return err
}

// A remoteError is an error of another process: its text, and those of its parts
// that could travel.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// encodeAny encodes a value with its type, and reports whether that can be done:
// the type must be known to package gob.
func encodeAny[T any](v T) (data []byte, ok bool) {
	defer func() {
		if recover() != nil {
			data, ok = nil, false
		}
	}()
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(gobbed[T]{v}); err != nil {
		return nil, false
	}
	return b.Bytes(), true
}

// decodeAny is the reverse of encodeAny. A nil value counts as not decoded.
func decodeAny[T any](data []byte) (v T, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	var g gobbed[T]
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&g); err != nil || any(g.V) == nil {
		return v, false
	}
	return g.V, true
}

// A failure is why a call has no result: the body of a kindFailure after its
// prefix.
type failure struct {
	reason failureReason
	err    *wireError // returned: what the function returned, or why it could not be called; panicked: the value if it was an error, or nil
	text   string     // panicked: the value as text
	value  []byte     // panicked: the value, encoded with its type; empty if that could not be done
	stack  []byte     // panicked
	size   uint64     // tooLarge: of the result's frame
}

type failureReason byte

const (
	returnedError failureReason = iota + 1
	hasPanicked
	calledGoexit
	notRegistered
	resultTooLarge
)

// appendTo encodes the failure: its reason, and what belongs to that.
func (f failure) appendTo(frame []byte) []byte {
	frame = append(frame, byte(f.reason))
	switch f.reason {
	case returnedError:
		frame = f.err.appendTo(frame)
	case hasPanicked:
		frame = appendBytes(frame, f.text)
		frame = appendBytes(frame, f.value)
		frame = appendBytes(frame, f.stack)
		if f.err != nil {
			frame = f.err.appendTo(frame)
		}
	case resultTooLarge:
		frame = binary.AppendUvarint(frame, f.size)
	}
	return frame
}

// parseFailure is the reverse of appendTo.
func parseFailure(body []byte) (failure, error) {
	p := &parser{rest: body}
	f := failure{reason: failureReason(p.byte())}
	switch f.reason {
	case returnedError:
		f.err = parseWireError(p)
	case hasPanicked:
		f.text = string(p.bytes())
		f.value = p.bytes()
		f.stack = bytes.Clone(p.bytes())
		if len(p.rest) > 0 {
			f.err = parseWireError(p)
		}
	case calledGoexit, notRegistered:
	case resultTooLarge:
		f.size = p.uvarint()
	default:
		p.bad = true
	}
	return f, p.end("failure")
}

// failed describes the error that a function returned.
func failed(err error, most int) failure {
	return failure{reason: returnedError, err: newWireError(err, most)}
}

// panicked describes a panic. It calls methods of its value.
func panicked(v any, stack []byte, most int) failure {
	f := failure{reason: hasPanicked, text: cut(fmt.Sprint(v), most/8), stack: stack[:min(len(stack), most/4)]}
	if data, ok := encodeAny(v); ok && len(data) <= most/8 {
		f.value = data
	} else if err, ok := v.(error); ok {
		f.err = newWireError(err, most)
	}
	return f
}

// error returns the error of a call of the named function, for which most is the
// largest frame.
func (f failure) error(name string, most int) error {
	switch f.reason {
	case returnedError:
		return f.err.error()
	case hasPanicked:
		e := &taskpool.PanicError{Value: f.text, Stack: f.stack}
		if v, ok := decodeAny[any](f.value); ok {
			e.Value = v
		} else if f.err != nil {
			e.Value = f.err.error()
		}
		return e
	case calledGoexit:
		return taskpool.ErrGoexit
	case notRegistered:
		return taskpool.Permanent(fmt.Errorf("%w: %s", ErrNotRegistered, name))
	}
	return tooLarge(name, "result", f.size, most)
}

// cut shortens a text to at most n bytes.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "")
}
