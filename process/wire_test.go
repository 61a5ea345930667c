package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

// frame returns a frame as it is on the wire.
func frame(k kind, body string) []byte {
	var b bytes.Buffer
	_, _ = (&frameWriter{w: &b}).write(append(newFrame(nil, k), body...), nil)
	return b.Bytes()
}

func TestFramesAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := &frameWriter{w: &b}
	bodies := []string{"", "a", strings.Repeat("b", 100_000), strings.Repeat("c", 5<<20), "", "d"}
	for i, body := range bodies {
		before := b.Len()
		end, err := w.write(append(newFrame(nil, kind(i+1)), body...), nil)
		require.NoError(t, err)
		require.EqualValues(t, before+headerSize+len(body), end)
		require.Equal(t, end, w.total())
	}
	r := newFrameReader(&b, 5<<20)
	for i, body := range bodies {
		k, got, err := r.next()
		require.NoError(t, err)
		require.Equal(t, kind(i+1), k)
		require.Equal(t, body, string(got))
	}
	_, _, err := r.next()
	require.Equal(t, io.EOF, err)
}

func TestAFrameThatEndsEarlyIsAnUnexpectedEOF(t *testing.T) {
	t.Parallel()
	const total = 1 << 20
	whole := frame(kindResult, strings.Repeat("x", total-headerSize))
	step := total / pooltest.Times(1024, 128)
	for n := 0; n < total; {
		_, _, err := newFrameReader(bytes.NewReader(whole[:n]), total).next()
		if n == 0 {
			require.Equal(t, io.EOF, err, "between two frames")
		} else {
			require.Equal(t, io.ErrUnexpectedEOF, err, "after %d bytes", n)
		}
		switch {
		case n < 64 || n >= total-64:
			n++
		default:
			n = min(n+step, total-64)
		}
	}
}

func TestAFrameThatCannotBeIsRefusedBeforeItIsRead(t *testing.T) {
	for want, header := range map[string][]byte{
		"malformed frame: kind 0":                                 {0, 0, 0, 1, 0},
		"malformed frame: kind 9":                                 {0, 0, 0, 1, 9},
		"malformed frame: 4097 bytes, at most 4096 allowed":       {0, 0, 0x10, 1, 1},
		"malformed frame: 4294967295 bytes, at most 4096 allowed": {255, 255, 255, 255, 1},
	} {
		_, _, err := newFrameReader(bytes.NewReader(header), 4096).next()
		require.EqualError(t, err, want)
	}
}

// A child that has died in the middle of a frame must not have cost as much memory
// as the frame claimed.
func TestMemoryIsTakenAsBytesCome(t *testing.T) {
	header := binary.BigEndian.AppendUint32(nil, 1<<30)
	header = append(header, byte(kindResult))
	r := newFrameReader(bytes.NewReader(header), 1<<30)
	var err error
	got := testing.AllocsPerRun(100, func() { // other goroutines allocate now and then
		r = newFrameReader(bytes.NewReader(header), 1<<30)
		_, _, err = r.next()
	})
	require.Equal(t, io.ErrUnexpectedEOF, err)
	require.Less(t, got, 10.0)
	require.LessOrEqual(t, bytesAllocated(func() { _, _, _ = newFrameReader(bytes.NewReader(header), 1<<30).next() }), uint64(3*growStep))
}

// bytesAllocated returns how much memory f has taken, at most.
func bytesAllocated(f func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 10 { // other goroutines allocate now and then
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

func TestMessagesAreParsedAsTheyWereMade(t *testing.T) {
	h, err := parseHello(hello{3, "build"}.appendTo(nil))
	require.NoError(t, err)
	require.Equal(t, hello{3, "build"}, h)

	for _, c := range []callHeader{
		{prefix{7, flagFreshValue}, 0, "f"},
		{prefix{1 << 31, flagHasDeadline | flagFreshReply}, -time.Hour, strings.Repeat("n", 255)},
	} {
		got, arg, err := parseCall(append(c.appendTo(nil), "argument"...))
		require.NoError(t, err)
		require.Equal(t, c, got)
		require.Equal(t, "argument", string(arg))
	}

	d := -time.Second
	wire := &wireError{Text: "text", Sentinels: []int{0, 3}, Typed: [][]byte{[]byte("a"), []byte("bc")}, Permanent: true, RetryAfter: &d}
	for _, f := range []failure{
		{reason: returnedError, err: wire},
		{reason: returnedError, err: &wireError{}},
		{reason: hasPanicked, text: "value", value: []byte("encoded"), stack: []byte("stack"), err: wire},
		{reason: hasPanicked, text: "value", value: []byte{}, stack: []byte("stack")},
		{reason: calledGoexit},
		{reason: notRegistered},
		{reason: resultTooLarge, size: 1 << 40},
	} {
		got, err := parseFailure(f.appendTo(nil))
		require.NoError(t, err)
		require.Equal(t, f, got)
	}
}

func TestAFailureFitsIntoTheSmallestFrame(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	err := errors.Join(errors.New(long), io.EOF, io.EOF)
	for _, f := range []failure{failed(err, minMaxFrame), panicked(long, []byte(long), minMaxFrame), panicked(err, []byte(long), minMaxFrame)} {
		require.Less(t, len(f.appendTo(prefix{}.appendTo(nil))), minMaxFrame)
	}
}

// FuzzFrames reads frames and takes their bodies apart as both sides do.
func FuzzFrames(f *testing.F) {
	f.Add(frame(kindHello, string(hello{1, "build"}.appendTo(nil))))
	f.Add(frame(kindCall, string(callHeader{prefix{1, flagHasDeadline}, time.Second, "f"}.appendTo(nil))))
	f.Add(frame(kindCancel, string(newWireError(io.EOF, 1000).appendTo(prefix{1, 0}.appendTo(nil)))))
	for _, failure := range []failure{
		failed(errors.Join(io.EOF, errors.New("x")), 1000), panicked("x", []byte("stack"), 1000), panicked(io.EOF, nil, 1000),
		{reason: calledGoexit}, {reason: resultTooLarge, size: 5},
	} {
		f.Add(frame(kindFailure, string(failure.appendTo(prefix{1, 0}.appendTo(nil)))))
	}
	f.Add([]byte{0, 16, 0, 0, 6, 1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 20
		r := newFrameReader(bytes.NewReader(data), most)
		for {
			k, body, err := r.next()
			if err != nil {
				return
			}
			if len(body) > most || cap(body) > most+growStep {
				t.Fatalf("a body of %d bytes in %d", len(body), cap(body))
			}
			took := 0
			switch k {
			case kindHello:
				h, err := parseHello(body)
				if err == nil {
					took = len(h.build)
				}
			case kindCall:
				c, arg, err := parseCall(body)
				if err == nil {
					took = len(c.name) + len(arg)
				}
			case kindCancel:
				if _, rest, err := parsePrefix(body); err == nil {
					took = sizeOf(parseWireError(&parser{rest: rest}))
				}
			case kindFailure:
				_, rest, err := parsePrefix(body)
				if err != nil {
					continue
				}
				failure, err := parseFailure(rest)
				if err != nil {
					continue
				}
				if failure.error("f", most) == nil {
					t.Fatal("a failure without an error")
				}
				took = len(failure.text) + len(failure.value) + len(failure.stack) + sizeOf(failure.err)
				again, err := parseFailure(failure.appendTo(nil))
				if err != nil || again.reason != failure.reason || sizeOf(again.err) != sizeOf(failure.err) {
					t.Fatalf("%v: %+v and %+v", err, failure, again)
				}
			}
			if took > 8*len(body) { // an index takes a byte there, and eight here
				t.Fatalf("%d bytes of %d", took, len(body))
			}
		}
	})
}

// sizeOf returns how much an error's parts take.
func sizeOf(w *wireError) int {
	if w == nil {
		return 0
	}
	n := len(w.Text) + 8*len(w.Sentinels)
	for _, data := range w.Typed {
		n += len(data)
	}
	return n
}

// FuzzParentReadsAnything has the parent's side of a call read what no child would
// send.
func FuzzParentReadsAnything(f *testing.F) {
	result := prefix{1, flagFreshValue}.appendTo(nil)
	var e valueEncoder
	result, _, _ = e.encode(result, &value[int]{5})
	f.Add(frame(kindResult, string(result)))
	f.Add(append(frame(kindBeat, string(prefix{1, 0}.appendTo(nil))), frame(kindResult, string(result))...))
	f.Add(frame(kindFailure, string(failed(io.EOF, 1000).appendTo(prefix{1, 0}.appendTo(nil)))))
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 16
		w := &worker{cfg: &config{maxFrame: most}, results: newFrameReader(bytes.NewReader(data), most)}
		k, body, err := w.reply(1, nil)
		if err != nil {
			return
		}
		p, body, err := parsePrefix(body)
		if err != nil {
			t.Fatal("reply has looked at it")
		}
		if k == kindResult {
			var d valueDecoder
			var v value[int]
			_ = d.decode(body, p.flags&flagFreshValue != 0, &v)
		}
	})
}

// FuzzChildReadsAnything has the child's side read what no parent would send. The
// only function that it calls is one of the tests of this package that does no harm.
func FuzzChildReadsAnything(f *testing.F) {
	var e valueEncoder
	call, _, _ := e.encode(callHeader{prefix{1, flagFreshValue}, 0, "add"}.appendTo(nil), &value[struct{ X, Y int }]{struct{ X, Y int }{1, 2}})
	f.Add(append(frame(kindCall, string(call)), frame(kindBye, "")...))
	f.Add(append(frame(kindCall, string(call)), frame(kindCall, string(call))...))
	f.Add(append(frame(kindBeatDue, string(prefix{1, 0}.appendTo(nil))), frame(kindCancel, string(newWireError(io.EOF, 1000).appendTo(prefix{1, 0}.appendTo(nil))))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 16
		for r := newFrameReader(bytes.NewReader(data), most); ; {
			k, body, err := r.next()
			if err != nil {
				break
			}
			if c, _, err := parseCall(body); k == kindCall && err == nil && c.name != "add" && lookUp(c.name) != nil {
				return
			}
		}
		var out bytes.Buffer
		s := newServer(bytes.NewReader(data), &out, most)
		_ = s.handle()
		s.calls.Wait()
		for r := newFrameReader(&out, most); ; {
			k, body, err := r.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if k != kindResult && k != kindFailure && k != kindBeat {
				t.Fatalf("kind %d", k)
			}
			if _, _, err := parsePrefix(body); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A frame is read into one piece of memory of its size, but for a small part of a large one.
func TestAFrameIsReadWithoutBeingCopiedOften(t *testing.T) {
	if pooltest.Race {
		t.Skip("the race detector changes what is allocated")
	}
	for _, size := range []int{100, 64 << 10, 1<<20 + 25, 3 << 20, 32<<20 + 25} {
		text := frame(kindResult, strings.Repeat("x", size))
		took := bytesAllocated(func() {
			_, body, err := newFrameReader(bytes.NewReader(text), 1<<30).next()
			require.NoError(t, err)
			require.Len(t, body, size)
		})
		require.LessOrEqual(t, took, uint64(size)*21/20+128<<10, "%d", size)
	}
}
