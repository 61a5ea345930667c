package process

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"time"
)

// protocolVersion changes whenever a frame's meaning does.
const protocolVersion = 2

// A hello is what a child says first: protocolVersion, then the identity of its
// build.
type hello struct {
	version uint64
	build   string
}

func (h hello) appendTo(frame []byte) []byte {
	frame = binary.AppendUvarint(frame, h.version)
	return append(frame, h.build...)
}

func parseHello(body []byte) (hello, error) {
	version, n := binary.Uvarint(body)
	if n <= 0 {
		return hello{}, fmt.Errorf("%w: hello without a version", errMalformed)
	}
	return hello{version, string(body[n:])}, nil
}

// The flags of calls, results and failures.
const (
	flagFreshValue  = 1 << iota // the value that follows begins a new stream
	flagFreshReply              // the other side's next value must begin a new stream
	flagHasDeadline             // only of calls
	knownFlags      = flagFreshValue | flagFreshReply | flagHasDeadline
)

// A prefix is how calls, results and failures begin: the call's number as a
// uint32, and the flags. The number tells late messages of one call from those of
// the next.
type prefix struct {
	id    uint32
	flags byte
}

const prefixSize = 5

func (p prefix) appendTo(frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(frame, p.id), p.flags)
}

func parsePrefix(body []byte) (prefix, []byte, error) {
	if len(body) < prefixSize {
		return prefix{}, nil, fmt.Errorf("%w: %d bytes", errMalformed, len(body))
	}
	p := prefix{binary.BigEndian.Uint32(body), body[4]}
	if p.flags&^knownFlags != 0 {
		return prefix{}, nil, fmt.Errorf("%w: flags %#x", errMalformed, p.flags)
	}
	return p, body[prefixSize:], nil
}

// A callHeader precedes the argument of a call: the time left until the deadline
// in nanoseconds if there is one, the length of the function's name, the name.
type callHeader struct {
	prefix
	left time.Duration // valid with flagHasDeadline
	name string
}

func (c callHeader) appendTo(frame []byte) []byte {
	frame = c.prefix.appendTo(frame)
	if c.flags&flagHasDeadline != 0 {
		frame = binary.AppendVarint(frame, int64(c.left))
	}
	frame = binary.AppendUvarint(frame, uint64(len(c.name)))
	return append(frame, c.name...)
}

// parseCall returns the header and the argument that follows it.
func parseCall(body []byte) (c callHeader, arg []byte, err error) {
	if c.prefix, body, err = parsePrefix(body); err != nil {
		return callHeader{}, nil, err
	}
	p := &parser{rest: body}
	if c.flags&flagHasDeadline != 0 {
		c.left = time.Duration(p.varint())
	}
	c.name = string(p.bytes())
	arg, p.rest = p.rest, nil
	return c, arg, p.end("call")
}

// appendBytes appends the length of b and b.
func appendBytes[T string | []byte](frame []byte, b T) []byte {
	return append(binary.AppendUvarint(frame, uint64(len(b))), b...)
}

// A parser takes a body apart. Once that fails, it returns zeros.
type parser struct {
	rest []byte
	bad  bool
}

// end returns an error if what was parsed, or what is left over, makes no sense.
func (p *parser) end(what string) error {
	if p.bad || len(p.rest) > 0 {
		return fmt.Errorf("%w: %s", errMalformed, what)
	}
	return nil
}

// take returns the next n bytes.
func (p *parser) take(n uint64) []byte {
	if p.bad || n > uint64(len(p.rest)) {
		p.bad = true
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	p.take(uint64(max(n, 0)))
	if p.bad = p.bad || n <= 0; p.bad {
		return 0
	}
	return v
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.rest)
	p.take(uint64(max(n, 0)))
	if p.bad = p.bad || n <= 0; p.bad {
		return 0
	}
	return v
}

// bytes returns a part that appendBytes made.
func (p *parser) bytes() []byte { return p.take(p.uvarint()) }

// count returns the number of things that follow, each of a byte or more.
func (p *parser) count() uint64 {
	n := p.uvarint()
	if n > uint64(len(p.rest)) {
		p.bad = true
		return 0
	}
	return n
}

// A []byte travels as a byte that says whether it is nil, and itself. Other values
// travel as gob streams, one for each function and direction, so that the description
// of a type is sent and compiled once in a child's life and not once a call. A stream that had an error at either end is given up: whoever encodes
// marks the next value as the beginning of a new one, and whoever failed to
// decode asks for that.

// A valueEncoder is the sending end of a stream. The zero value begins one.
type valueEncoder struct {
	buf bytes.Buffer
	enc *gob.Encoder // writes to buf; nil: the next value begins a new stream
}

// fresh reports whether the next value begins a new stream.
func (e *valueEncoder) fresh() bool { return e.enc == nil }

// encode returns frame with v appended, valid until the next call, but for a tail, which is v's
// own memory. It calls methods of v, a pointer. If it does not return normally, the next value
// begins a new stream.
func (e *valueEncoder) encode(frame []byte, v any) (_, tail []byte, err error) {
	if raw, ok := v.(*value[[]byte]); ok {
		isNil := byte(0)
		if raw.V == nil {
			isNil = 1
		}
		frame = append(frame, isNil)
		if len(raw.V) < keepBuffer { // one write
			return append(frame, raw.V...), nil, nil
		}
		return frame, raw.V, nil
	}
	enc := e.enc
	if enc == nil {
		enc = gob.NewEncoder(&e.buf)
	}
	e.enc = nil
	e.buf.Reset()
	e.buf.Write(frame)
	if err := enc.Encode(v); err != nil {
		return nil, nil, err
	}
	e.enc = enc
	frame = e.buf.Bytes()
	if cap(frame) > keepBuffer {
		e.buf = bytes.Buffer{} // enc goes on with it
	}
	return frame, nil, nil
}

// giveUp makes the next value begin a new stream.
func (e *valueEncoder) giveUp() { e.enc = nil }

// A valueDecoder is the receiving end of a stream.
type valueDecoder struct {
	src bytes.Reader
	dec *gob.Decoder // reads from src; nil: there is no stream to go on with
}

// decode puts into v, a pointer, the value that a message holds as text. It calls methods
// of v. If it does not return normally, the stream is given up.
func (d *valueDecoder) decode(text []byte, fresh bool, v any) error {
	if raw, ok := v.(*value[[]byte]); ok {
		switch {
		case len(text) == 0 || text[0] > 1 || text[0] == 1 && len(text) > 1:
			return fmt.Errorf("%w: bytes", errMalformed)
		case text[0] == 1:
			raw.V = nil
		case len(text) > keepBuffer: // its buffer is not used again, see frameReader
			raw.V = text[1:]
		default:
			raw.V = append([]byte{}, text[1:]...)
		}
		return nil
	}
	dec := d.dec
	d.dec = nil
	if fresh {
		dec = gob.NewDecoder(&d.src)
	}
	if dec == nil {
		return fmt.Errorf("%w: value of a stream without beginning", errMalformed)
	}
	d.src.Reset(text)
	defer d.src.Reset(nil) // text is not kept
	if err := dec.Decode(v); err != nil {
		return err
	}
	if n := d.src.Len(); n > 0 {
		return fmt.Errorf("%w: %d bytes after the value", errMalformed, n)
	}
	d.dec = dec
	return nil
}
