package process

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Parent and child talk in frames over two pipes. A frame is the length of its
// body as a big-endian uint32, its kind, and the body. What the body holds is
// said at the message types in message.go.
type kind byte

const (
	kindHello   kind = iota + 1 // child: ready for calls
	kindCall                    // parent: call a function
	kindCancel                  // parent: the call's context has ended
	kindBeatDue                 // parent: a sign of life is due
	kindBye                     // parent: no more calls, exit
	kindResult                  // child: what the function returned
	kindFailure                 // child: the function returned an error, panicked or could not be called
	kindBeat                    // child: a sign of life
	numKinds
)

// headerSize is the size of a frame's length and kind.
const headerSize = 5

// growStep bounds how much memory is taken on the word of a frame's length, before any
// of it has come, and grow how many times what has come is taken after that.
const (
	growStep = 2 << 20
	grow     = 64
)

// keepBuffer is the largest buffer that is kept for the next frame.
const keepBuffer = 64 << 10

// A frameReader reads frames whose bodies are no longer than max.
type frameReader struct {
	r   *bufio.Reader
	max int
	buf []byte
}

func newFrameReader(r io.Reader, max int) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 16<<10), max: max}
}

// next returns the next frame. Its body is valid until the next call. The error
// is io.EOF if the stream ends between two frames, and io.ErrUnexpectedEOF if it
// ends within one.
func (f *frameReader) next() (kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(f.r, header[:]); err != nil {
		return 0, nil, err
	}
	size, k := binary.BigEndian.Uint32(header[:]), kind(header[4])
	if k == 0 || k >= numKinds {
		return 0, nil, fmt.Errorf("%w: kind %d", errMalformed, k)
	}
	if uint64(size) > uint64(f.max) {
		return 0, nil, fmt.Errorf("%w: %d bytes, at most %d allowed", errMalformed, size, f.max)
	}
	body := f.buf[:0]
	for n := int(size); len(body) < n; {
		// A longer frame is copied, but for little of it, as seldom as can be.
		take := n
		if n > growStep {
			take = min(n, max(grow*len(body), min(n/grow+1, growStep)))
		}
		body = slices.Grow(body, take-len(body))
		more, err := io.ReadFull(f.r, body[len(body):take])
		body = body[:len(body)+more]
		if err != nil {
			return 0, nil, noEOF(err)
		}
	}
	f.buf = nil
	if cap(body) <= keepBuffer {
		f.buf = body
	}
	return k, body, nil
}

// detach makes the body that next returned last valid for good.
func (f *frameReader) detach() { f.buf = nil }

// A frameWriter writes frames, also from several goroutines at a time.
type frameWriter struct {
	mu      sync.Mutex // held while a frame is written, so that frames stay whole; protects the fields below
	w       io.Writer
	written int64 // bytes
}

// write writes a frame made by newFrame, whose body has been appended to it but for the tail,
// which may be nil. It returns how many bytes have been written when the frame has been.
func (f *frameWriter) write(frame, tail []byte) (end int64, err error) {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)+len(tail)-headerSize))
	f.mu.Lock()
	defer f.mu.Unlock()
	end = f.written + int64(len(frame)) + int64(len(tail))
	n, err := f.w.Write(frame)
	f.written += int64(n)
	if err == nil && len(tail) > 0 {
		n, err = f.w.Write(tail)
		f.written += int64(n)
	}
	return end, err
}

// total returns how many bytes have been written.
func (f *frameWriter) total() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written
}

// newFrame appends to buf the header of a frame, without its length.
func newFrame(buf []byte, k kind) []byte {
	return append(buf, 0, 0, 0, 0, byte(k))
}

// errMalformed is what no child and no parent of this build sends.
var errMalformed = errors.New("malformed frame")

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
