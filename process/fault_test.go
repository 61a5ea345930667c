package process

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// faults are what was found wrong with children that are gone, by no test's doing: a
// data race in any of them, or another exit code than 0 of one that was told to exit.
var faults struct {
	sync.Mutex
	found []string
}

func init() { childExited = lookForFaults }

func lookForFaults(w *worker) {
	_, _, retired := w.history()
	w.mu.Lock()
	doomed := w.doomed
	w.mu.Unlock()
	var found []string
	stderr, _ := w.stderr.last()
	if i := bytes.Index(stderr, []byte("WARNING: DATA RACE")); i >= 0 {
		found = append(found, fmt.Sprintf("child %d: %s", w.pid, stderr[i:]))
	}
	if retired && !doomed && w.state != nil {
		// A test may have killed it at that moment.
		code, sig := exitStatus(w.state)
		if code != 0 && sig != os.Signal(syscall.SIGKILL) {
			found = append(found, fmt.Sprintf("child %d was told to exit: code %d, signal %v, %q", w.pid, code, sig, stderr))
		}
	}
	faults.Lock()
	defer faults.Unlock()
	faults.found = append(faults.found, found...)
}

// Faults returns what was found wrong since it was called last.
func Faults() []string {
	faults.Lock()
	defer faults.Unlock()
	found := faults.found
	faults.found = nil
	return found
}

// CopyOf returns what a call sees of a copy of w.
func CopyOf(w *Pool) *Pool { return &Pool{self: w.self, cfg: w.cfg} }
