package taskpooltest_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }

// A fakeTB is a test that may fail.
type fakeTB struct {
	testing.TB // nil: what is not defined below panics

	mu       sync.Mutex // protects the fields below
	errors   []string   // Error and Fatal
	out      bytes.Buffer
	failed   bool
	skipped  bool
	over     bool
	cleanups []func()
}

// runTest runs a test to its end, as package testing does.
func runTest(f func(testing.TB)) *fakeTB {
	t := new(fakeTB)
	apart := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
	}
	apart(func() { f(t) })
	for len(t.cleanups) > 0 {
		last := len(t.cleanups) - 1
		cleanup := t.cleanups[last]
		t.cleanups = t.cleanups[:last]
		apart(cleanup)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	return t
}

func (t *fakeTB) Helper()          {}
func (t *fakeTB) Name() string     { return "fake" }
func (t *fakeTB) FailNow()         { runtime.Goexit() } // after Errorf
func (t *fakeTB) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *fakeTB) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		panic("log in goroutine after the test has completed")
	}
	return t.out.Write(b)
}

func (t *fakeTB) Output() io.Writer            { return t }
func (t *fakeTB) Log(args ...any)              { fmt.Fprintln(t, args...) }
func (t *fakeTB) Logf(f string, args ...any)   { t.Log(fmt.Sprintf(f, args...)) }
func (t *fakeTB) Errorf(f string, args ...any) { t.Error(fmt.Sprintf(f, args...)) }
func (t *fakeTB) Fatalf(f string, args ...any) { t.Fatal(fmt.Sprintf(f, args...)) }

func (t *fakeTB) Error(args ...any) {
	text := fmt.Sprintln(args...)
	t.Log(strings.TrimSuffix(text, "\n"))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed, t.errors = true, append(t.errors, text)
}

func (t *fakeTB) Fatal(args ...any) {
	t.Error(args...)
	runtime.Goexit()
}

func (t *fakeTB) SkipNow() {
	t.mu.Lock()
	t.skipped = true
	t.mu.Unlock()
	runtime.Goexit()
}

func (t *fakeTB) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

func (t *fakeTB) Skipped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.skipped
}

// log returns what was logged.
func (t *fakeTB) log() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out.String()
}

// failures returns what the test has failed with.
func (t *fakeTB) failures() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.errors)
}
