package process

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/taskpool-go/taskpool"
)

// The errors that callers branch on, with [errors.Is].
var (
	// ErrClosed is returned by Call once Shutdown was called, and is why a call
	// was killed when Shutdown's context ended.
	ErrClosed = errors.New("process: pool is shut down")

	// ErrNotRegistered is returned by Call for a function that the child does not
	// know, since it was registered after Main was called, or only in the parent.
	ErrNotRegistered = errors.New("process: function is not registered in the child")

	// ErrTooLarge is returned by Call for an argument or a result above
	// WithMaxFrame. A retry cannot mend that, so it is permanent for taskpool.
	ErrTooLarge = errors.New("process: frame too large")

	// ErrMaxMemory is why a child above WithMaxMemory was killed. It is found in
	// the ExitError of the call.
	ErrMaxMemory = errors.New("process: above the memory limit")
)

// maxStderr is how much of a child's standard error an ExitError holds.
const maxStderr = 64 << 10

// An ExitError is the error of a call whose child died.
type ExitError struct {
	Func   string    // the function that was called; empty if the child died before any call
	PID    int       // the child's process id
	Code   int       // its exit code; -1 if a signal ended it, or if that is not known
	Signal os.Signal // the signal that ended it; nil if it exited, or if that is not known
	Stderr []byte    // the last that it wrote to standard error, up to 64 KiB

	// why is the line of all its standard error that says why it died, or the last.
	why string
	// cause is why it was killed, or what was wrong with what it sent; nil if it
	// died by itself.
	cause error
	// unknown says that somebody else has got its exit status.
	unknown bool
}

// Error says which function's child died of what, with the line of its standard
// error that says why, if there is one.
func (e *ExitError) Error() string {
	var b strings.Builder
	b.WriteString("process: ")
	if e.Func != "" {
		b.WriteString(e.Func)
		b.WriteString(": ")
	}
	fmt.Fprintf(&b, "child %d ", e.PID)
	switch {
	case e.unknown:
		b.WriteString("died of what this program was not told, as it ignores SIGCHLD or has waited for the child elsewhere")
	case e.Signal != nil:
		fmt.Fprintf(&b, "died of signal %q", e.Signal)
	default:
		fmt.Fprintf(&b, "exited with code %d", e.Code)
	}
	if e.Func == "" {
		b.WriteString(" before any call")
	}
	if e.why != "" {
		b.WriteString(": ")
		b.WriteString(e.why)
	}
	if e.cause != nil {
		b.WriteString(": ")
		b.WriteString(e.cause.Error())
	}
	return b.String()
}

// Unwrap returns why the child was killed: ErrMaxMemory, ErrClosed, or the cause
// for which the call's context had ended. It returns nil if the child died by
// itself.
func (e *ExitError) Unwrap() error { return e.cause }

// tooLarge is the error for something that makes a frame of size bytes.
func tooLarge(name, what string, size uint64, most int) error {
	return taskpool.Permanent(fmt.Errorf("%w: the %s of %s takes %d bytes, WithMaxFrame allows %d",
		ErrTooLarge, what, name, size, most))
}
