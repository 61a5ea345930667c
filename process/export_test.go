//go:build unix

package process

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// DyingName is a variable that has a child kill itself at a byte of what it reads
// or, after its hello, writes. Its value has the form "read 1048576 97 64 1 /a/file": of so
// many bytes, in steps of so many, but in the first and the last so many in steps of so many.
// The file has the byte of the next child.
const DyingName = "PROCESS_TEST_DYING"

// HelloName is a variable that has a child say something else than its hello: "version",
// "build", "kind" or "empty".
const HelloName = "PROCESS_TEST_HELLO"

var _ = func() bool {
	way := os.Getenv(HelloName)
	if _, child := os.LookupEnv(cookieName); !child || way == "" {
		return false
	}
	open := pipes
	pipes = func() (io.Reader, io.Writer) {
		in, out := open()
		return in, &lyingWriter{out, way}
	}
	return true
}()

// A lyingWriter writes something else in the place of a hello.
type lyingWriter struct {
	io.Writer
	way string
}

func (l *lyingWriter) Write(p []byte) (int, error) {
	said := map[string][]byte{
		"version": hello{protocolVersion + 1, "build"}.appendTo(newFrame(nil, kindHello)),
		"build":   hello{protocolVersion, "another build"}.appendTo(newFrame(nil, kindHello)),
		"kind":    prefix{}.appendTo(newFrame(nil, kindBeat)),
		"empty":   newFrame(nil, kindHello),
	}[l.way]
	_, err := (&frameWriter{w: l.Writer}).write(said, nil)
	return len(p), err
}

// It comes before init, which opens the pipes.
var _ = func() bool {
	var way, file string
	var total, step, edge, fine, at int
	if _, err := fmt.Sscanf(os.Getenv(DyingName), "%s %d %d %d %d %s", &way, &total, &step, &edge, &fine, &file); err != nil {
		return false
	}
	if _, child := os.LookupEnv(cookieName); !child {
		return false
	}
	text, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	if _, err := fmt.Sscan(string(text), &at); err != nil {
		panic(err)
	}
	next := at + step
	if at < edge || at >= total-edge {
		next = at + fine
	} else if next > total-edge {
		next = total - edge
	}
	err = os.WriteFile(file+".new", fmt.Append(nil, next), 0o600)
	if err == nil {
		err = os.Rename(file+".new", file) // the test may be reading it
	}
	if err != nil {
		panic(err)
	}
	open := pipes
	pipes = func() (io.Reader, io.Writer) {
		in, out := open()
		if way == "read" {
			return &dyingReader{in, at}, out
		}
		return in, &dyingWriter{out, at, false}
	}
	return true
}()

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// A dyingReader dies when it has read left bytes.
type dyingReader struct {
	io.Reader
	left int
}

func (d *dyingReader) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p[:min(len(p), d.left)])
	if d.left -= n; d.left == 0 {
		die()
	}
	return n, err
}

// A dyingWriter dies when it has written left bytes after the first write.
type dyingWriter struct {
	io.Writer
	left  int
	hello bool
}

func (d *dyingWriter) Write(p []byte) (int, error) {
	if !d.hello {
		d.hello = true
		return d.Writer.Write(p)
	}
	if len(p) >= d.left {
		_, _ = d.Writer.Write(p[:d.left])
		die()
	}
	d.left -= len(p)
	return d.Writer.Write(p)
}

// MostUrgentWaiting returns what the task of the caller that is first in the queue counts as.
func (p *Pool) MostUrgentWaiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting[0].priority
}

// CookieName is the variable that tells a process that it is a child.
const CookieName = cookieName

// Cookie returns the variable's value for a child of the given process.
func Cookie(parent int) string { return cookie{parent: parent, maxFrame: defaultMaxFrame}.String() }
