//go:build !unix

package process

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
)

// supported is nil if this package works on this operating system. Process groups
// and pipes that a child inherits are what is missing here.
var supported = fmt.Errorf("process: not supported on %s", runtime.GOOS)

const goOn = syscall.Signal(0)

func startChild(string, []string, []string, []*os.File, *credential) (*os.Process, error) {
	return nil, supported
}
func signalGroup(int, os.Signal)                     {}
func killOwnGroup()                                  { os.Exit(1) }
func privileged() bool                               { return false }
func openPipes() (in io.Reader, out io.Writer)       { return nil, nil }
func exitStatus(s *os.ProcessState) (int, os.Signal) { return s.ExitCode(), nil }
