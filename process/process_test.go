package process_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/process"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

type point struct{ X, Y int }

var (
	add   = process.Register("add", func(_ context.Context, p point) (int, error) { return p.X + p.Y, nil })
	pid   = process.Register("pid", func(context.Context, none) (int, error) { return os.Getpid(), nil })
	size  = process.Register("size", func(_ context.Context, b []byte) (int, error) { return len(b), nil })
	fill  = process.Register("fill", func(_ context.Context, n int) ([]byte, error) { return make([]byte, n), nil })
	isNil = process.Register("isNil", func(_ context.Context, p *point) (bool, error) { return p == nil, nil })
	same  = process.Register("same", func(_ context.Context, v any) (any, error) { return v, nil })
	print = process.Register("print", func(_ context.Context, text string) (int, error) {
		n, err := fmt.Print(text)
		fmt.Fprint(os.Stderr, text)
		return n, err
	})
	getenv = process.Register("getenv", func(_ context.Context, key string) (string, error) { return os.Getenv(key), nil })
)

func TestACallReturnsWhatTheFunctionReturns(t *testing.T) {
	w := start(t, process.WithWorkers(2))
	for i := range 100 {
		require.Equal(t, i+1, call(t, w, add, point{i, 1}))
	}
	require.NotEqual(t, os.Getpid(), call(t, w, pid, none{}), "in another process")
	require.Equal(t, "add", add.Name())
}

// With -race, start sees a data race in the child.
func TestACallDoesNotTouchTheReplyOfTheOneBefore(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	for i := range 100 {
		require.Len(t, call(t, w, fill, i), i)
	}
}

func TestManyCallersShareTheChildren(t *testing.T) {
	w := start(t, process.WithWorkers(3))
	p, err := taskpool.New(taskpool.WithWorkers(20))
	require.NoError(t, err)
	defer p.Shutdown(context.Background())
	g := p.Group(context.Background(), taskpool.Task{})
	for i := range 2000 {
		g.Go(func(ctx context.Context) error {
			sum, err := add.Call(ctx, w, point{i, i})
			if err == nil && sum != 2*i {
				err = fmt.Errorf("%d + %[1]d = %d", i, sum)
			}
			return err
		})
	}
	require.NoError(t, g.Wait())
	s := w.Stats()
	require.EqualValues(t, 2000, s.Calls)
	require.EqualValues(t, 3, s.Started)
	require.Equal(t, 3, s.Idle)
}

// Values that package gob does not take at its top level, or leaves out.
func TestArgumentsAndResultsMayBeNilOrEmpty(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	require.True(t, call(t, w, isNil, nil))
	require.False(t, call(t, w, isNil, &point{}), "a pointer to a zero value stays one")
	require.Nil(t, call(t, w, same, nil))
	require.Equal(t, 0, call(t, w, size, nil))
	require.Equal(t, map[string]int{"a": 1}, call(t, w, same, any(map[string]int{"a": 1})))
	require.Equal(t, "", call(t, w, same, any("")))
}

func init() { gob.Register(map[string]int(nil)) }

func TestAValueThatCannotBeEncodedIsAnErrorAndTheChildLivesOn(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	type unknown struct{ A int }
	id := call(t, w, pid, none{})
	for range 3 { // also with a stream that has begun
		err := fails(t, w, same, any(unknown{1}))
		require.ErrorContains(t, err, "argument of same: gob: type not registered")
		require.Equal(t, 7, call(t, w, same, any(7)))
		err = fails(t, w, makeUnknown, none{})
		require.ErrorContains(t, err, "result of makeUnknown: gob: type not registered")
	}
	require.Equal(t, id, call(t, w, pid, none{}))
	require.EqualValues(t, 1, w.Stats().Started)
}

var makeUnknown = process.Register("makeUnknown", func(context.Context, none) (any, error) {
	type unknown struct{ A int }
	return unknown{1}, nil
})

// A touchy value fails to encode or decode, or panics at that.
type touchy struct{ How string }

func (t touchy) GobEncode() ([]byte, error) {
	switch t.How {
	case "encode":
		return nil, errors.New("touched")
	case "encode panics":
		panic("touched")
	}
	return []byte(t.How), nil
}

func (t *touchy) GobDecode(b []byte) error {
	switch t.How = string(b); t.How {
	case "decode":
		return errors.New("touched")
	case "decode panics":
		panic("touched")
	case "decode exits":
		runtime.Goexit()
	}
	return nil
}

var (
	touch    = process.Register("touch", func(_ context.Context, v touchy) (string, error) { return v.How, nil })
	unsettle = process.Register("unsettle", func(_ context.Context, how string) (touchy, error) { return touchy{how}, nil })
)

func TestMethodsThatFailWhileAValueTravelsHarmNobodyElse(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	id := call(t, w, pid, none{})
	check := func() {
		t.Helper()
		require.Equal(t, "fine", call(t, w, touch, touchy{"fine"}))
		require.Equal(t, touchy{"fine"}, call(t, w, unsettle, "fine"))
		require.Equal(t, id, call(t, w, pid, none{}))
	}
	check()
	require.ErrorContains(t, fails(t, w, touch, touchy{"encode"}), "touched")
	check()
	require.PanicsWithValue(t, "touched", func() { touch.Call(context.Background(), w, touchy{"encode panics"}) })
	check()
	require.ErrorContains(t, fails(t, w, touch, touchy{"decode"}), "touched")
	check()
	var pe *taskpool.PanicError
	require.ErrorAs(t, fails(t, w, touch, touchy{"decode panics"}), &pe)
	check()
	require.ErrorIs(t, fails(t, w, touch, touchy{"decode exits"}), taskpool.ErrGoexit)
	check()
	require.ErrorContains(t, fails(t, w, unsettle, "encode"), "touched")
	check()
	require.ErrorAs(t, fails(t, w, unsettle, "encode panics"), &pe)
	check()
	require.ErrorContains(t, fails(t, w, unsettle, "decode"), "touched")
	check()
	require.PanicsWithValue(t, "touched", func() { unsettle.Call(context.Background(), w, "decode panics") })
	check()
}

func TestAFrameAboveTheLimitIsRefused(t *testing.T) {
	const limit = 64 << 10
	w := start(t, process.WithWorkers(1), process.WithMaxFrame(limit))
	id := call(t, w, pid, none{})
	for range 2 {
		err := fails(t, w, size, make([]byte, limit))
		require.ErrorIs(t, err, process.ErrTooLarge)
		require.ErrorContains(t, err, "the argument of size takes")
		err = fails(t, w, fill, limit)
		require.ErrorIs(t, err, process.ErrTooLarge)
		require.ErrorContains(t, err, "the result of fill takes")
		require.ErrorContains(t, err, "WithMaxFrame allows 65536")
		require.Equal(t, limit/2, call(t, w, size, make([]byte, limit/2)))
		require.Len(t, call(t, w, fill, limit/2), limit/2)
	}
	require.Equal(t, id, call(t, w, pid, none{}), "the child lives on")
}

func TestLargeFramesTravel(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	n := pooltest.Times(20<<20, 20<<20)
	require.Equal(t, n, call(t, w, size, make([]byte, n)))
	require.Len(t, call(t, w, fill, n), n)
}

func TestPrintingInAFunctionDoesNoHarm(t *testing.T) {
	var stderr bytes.Buffer
	w, err := process.New(process.WithWorkers(1), process.WithStderr(&stderr))
	require.NoError(t, err)
	text := "this is what a function prints\n"
	require.Equal(t, len(text), call(t, w, print, text))
	require.Equal(t, 3, call(t, w, add, point{1, 2}))
	shutdown(t, w)
	require.Equal(t, text, stderr.String())
}

func TestAFunctionThatTheChildDoesNotKnowIsRefused(t *testing.T) {
	lateNames++ // the test may run several times
	late := process.Register(fmt.Sprint("late", lateNames), func(context.Context, none) (none, error) { return none{}, nil })
	w := start(t, process.WithWorkers(1))
	for range 2 {
		err := fails(t, w, late, none{})
		require.ErrorIs(t, err, process.ErrNotRegistered)
		require.ErrorContains(t, err, "late")
	}
	require.Equal(t, 3, call(t, w, add, point{1, 2}))
}

var lateNames int

func TestRegisterPanicsOnWhatCannotBe(t *testing.T) {
	for want, register := range map[string]func(){
		`name must not be empty`: func() { process.Register("", func(context.Context, int) (int, error) { return 0, nil }) },
		`name must have at most 255 bytes, got 256`: func() {
			process.Register(strings.Repeat("x", 256), func(context.Context, int) (int, error) { return 0, nil })
		},
		`"nothing": f must not be nil`:                  func() { process.Register[int, int]("nothing", nil) },
		`"add": name is taken`:                          func() { process.Register("add", func(context.Context, int) (int, error) { return 0, nil }) },
		`"chan": the argument cannot be encoded: gob: `: func() { process.Register("chan", func(context.Context, chan int) (int, error) { return 0, nil }) },
		`"func": the result cannot be encoded: gob: `:   func() { process.Register("func", func(context.Context, int) (func(), error) { return nil, nil }) },
	} {
		func() {
			defer func() { require.Contains(t, recover(), want) }()
			register()
		}()
	}
}

func TestStartRefusesBadOptions(t *testing.T) {
	for want, option := range map[string]process.Option{
		"process: WithWorkers: n must be at most 10000, got 10001":                                   process.WithWorkers(10_001),
		"process: WithWorkers: n must be at least 1, got 0":                                          process.WithWorkers(0),
		"process: WithMaxCalls: n must be at least 1, got 0":                                         process.WithMaxCalls(0),
		"process: WithMaxMemory: bytes must be at least 1, got -1":                                   process.WithMaxMemory(-1),
		"process: WithKillGrace: d must not be negative, got -1ns":                                   process.WithKillGrace(-1),
		"process: WithStartTimeout: d must be positive, got 0s":                                      process.WithStartTimeout(0),
		"process: WithMaxFrame: bytes must be from 4096 to 1073741824, got 1":                        process.WithMaxFrame(1),
		"process: WithStderr: w must not be nil (io.Discard drops what is written), got nil":         process.WithStderr(nil),
		`process: WithEnv: variable must have the form "key=value", got "x"`:                         process.WithEnv("a=b", "x"),
		`process: WithEnv: variable must not be the one this package uses, got "TASKPOOL_PROCESS=1"`: process.WithEnv("TASKPOOL_PROCESS=1"),
		"process: option 1 must not be nil":                                                          nil,
	} {
		_, err := process.New(option)
		require.EqualError(t, err, want)
	}
}

func TestWhatCannotBeMeantIsRefusedByName(t *testing.T) {
	ctx := context.Background()
	var none context.Context
	w := start(t, process.WithWorkers(1))
	for got, bad := range map[string]*process.Pool{"nil": nil, "a zero Pool": {}, "a copy": process.CopyOf(w)} {
		_, err := add.Call(ctx, bad, point{})
		require.EqualError(t, err, "process: Call of add: the Pool must be one that New has returned, got "+got)
		require.EqualError(t, bad.Shutdown(ctx), "process: Pool.Shutdown: the Pool must be one that New has returned, got "+got)
		require.PanicsWithValue(t, "process: Pool.Stats: the Pool must be one that New has returned, got "+got, func() { bad.Stats() })
	}
	for got, bad := range map[string]*process.Func[point, int]{"nil": nil, "a zero Func": {}} {
		_, err := bad.Call(ctx, w, point{})
		require.EqualError(t, err, "process: Func.Call: the Func must be one that Register has returned, got "+got)
		require.PanicsWithValue(t, "process: Func.Name: the Func must be one that Register has returned, got "+got, func() { _ = bad.Name() })
	}
	_, err := add.Call(none, w, point{})
	require.EqualError(t, err, "process: Call of add: ctx must not be nil")
	require.EqualError(t, w.Shutdown(none), "process: Pool.Shutdown: ctx must not be nil")
	require.Zero(t, w.Stats().Calls)
	require.Equal(t, 3, call(t, w, add, point{1, 2}))
}

func TestTheEnvironmentIsThisProgramsAndWithEnvs(t *testing.T) {
	t.Setenv("PROCESS_TEST_A", "a")
	t.Setenv("PROCESS_TEST_B", "b")
	w := start(t, process.WithWorkers(1), process.WithEnv("PROCESS_TEST_B=other"), process.WithEnv("PROCESS_TEST_C=c=d"))
	require.Equal(t, "a", call(t, w, getenv, "PROCESS_TEST_A"))
	require.Equal(t, "other", call(t, w, getenv, "PROCESS_TEST_B"))
	require.Equal(t, "c=d", call(t, w, getenv, "PROCESS_TEST_C"))
	require.Equal(t, "", call(t, w, getenv, "TASKPOOL_PROCESS"), "nothing that a child starts takes itself for one")
}

var nest = process.Register("nest", func(context.Context, none) (string, error) {
	_, err := process.New()
	return err.Error(), nil
})

func TestAChildCannotHaveChildren(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	require.Equal(t, "process: New called in a child process, which cannot have children of its own", call(t, w, nest, none{}))
}

// An inputError is an error whose type package gob knows.
type inputError struct{ Line int }

func (e *inputError) Error() string { return fmt.Sprintf("line %d: bad input", e.Line) }

type code int

func (c code) Error() string { return fmt.Sprintf("code %d", int(c)) }

type plainError struct{ text string }

func (e *plainError) Error() string { return e.text }

func init() {
	gob.Register(&inputError{})
	gob.Register(code(0))
}

var fail = process.Register("fail", func(ctx context.Context, how string) (int, error) {
	switch how {
	case "plain":
		return 1, &plainError{"plain"}
	case "sentinel":
		return 1, io.ErrUnexpectedEOF
	case "wrapped sentinel":
		return 1, fmt.Errorf("reading: %w", io.ErrUnexpectedEOF)
	case "typed":
		return 1, &inputError{7}
	case "wrapped types":
		return 1, fmt.Errorf("file a: %w", errors.Join(&inputError{7}, code(3), taskpool.ErrFull))
	case "path":
		_, err := os.Open("/nowhere/to/be/found")
		return 1, err
	case "permanent":
		return 1, fmt.Errorf("giving up: %w", taskpool.Permanent(&inputError{8}))
	case "retry after":
		return 1, taskpool.RetryAfter(1234, code(4))
	case "huge":
		return 1, errors.New(strings.Repeat("x", 100<<20))
	case "panics":
		return 1, panicky{}
	case "nil inside":
		return 1, fmt.Errorf("%w", error(nil))
	}
	return 0, nil
})

type panicky struct{}

func (panicky) Error() string { panic("in Error") }

func TestErrorsKeepWhatCanTravel(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	err := fails(t, w, fail, "plain")
	require.EqualError(t, err, "plain")

	require.Equal(t, io.ErrUnexpectedEOF, fails(t, w, fail, "sentinel"), "the very same")

	err = fails(t, w, fail, "wrapped sentinel")
	require.EqualError(t, err, "reading: unexpected EOF")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)

	require.Equal(t, &inputError{7}, fails(t, w, fail, "typed"))

	err = fails(t, w, fail, "wrapped types")
	require.EqualError(t, err, "file a: line 7: bad input\ncode 3\ntaskpool: queue is full")
	var in *inputError
	require.ErrorAs(t, err, &in)
	require.Equal(t, 7, in.Line)
	require.ErrorIs(t, err, code(3), "a value of a type that can be compared serves as a sentinel")
	require.ErrorIs(t, err, taskpool.ErrFull)
	require.NotErrorIs(t, err, taskpool.ErrClosed)

	err = fails(t, w, fail, "path")
	require.ErrorIs(t, err, fs.ErrNotExist)
	var pathErr *fs.PathError
	require.ErrorAs(t, err, &pathErr)
	require.Equal(t, "/nowhere/to/be/found", pathErr.Path)

	require.Equal(t, "%!w(<nil>)", fails(t, w, fail, "nil inside").Error())

	err = fails(t, w, fail, "huge")
	require.Less(t, len(err.Error()), 64<<20, "cut to what a frame takes")
	require.Equal(t, "xxx", err.Error()[:3])

	var pe *taskpool.PanicError
	require.ErrorAs(t, fails(t, w, fail, "panics"), &pe, "a panic in the error's methods is the function's")
	require.Equal(t, "in Error", pe.Value)

	require.EqualValues(t, 1, w.Stats().Started)
}

// What a function says of retries, the pool of the task that called it obeys.
func TestRetriesFollowWhatTheFunctionSays(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	p, err := taskpool.New(taskpool.WithWorkers(1), taskpool.WithLogger(quiet))
	require.NoError(t, err)
	defer p.Shutdown(context.Background())
	attempts := func(how string) (int, error) {
		n := 0
		h, e := p.Submit(context.Background(), taskpool.Task{
			Retry: taskpool.Retry{MaxAttempts: 3, Backoff: func(int) time.Duration { return 0 }},
			Run: func(ctx context.Context) error {
				n++
				_, err := fail.Call(ctx, w, how)
				return err
			},
		})
		require.NoError(t, e)
		err := h.Wait(context.Background())
		return n, err
	}
	n, err := attempts("plain")
	require.EqualError(t, err, "plain")
	require.Equal(t, 3, n)

	n, err = attempts("permanent")
	require.EqualError(t, err, "giving up: line 8: bad input")
	require.Equal(t, 1, n)

	waits := 0
	h, err := p.Submit(context.Background(), taskpool.Task{
		Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { waits++; return 0 }},
		Run:   func(ctx context.Context) error { _, err := fail.Call(ctx, w, "retry after"); return err },
	})
	require.NoError(t, err)
	require.EqualError(t, h.Wait(context.Background()), "code 4")
	require.Zero(t, waits, "RetryAfter comes before the policy's Backoff")
}

var panics = process.Register("panics", func(ctx context.Context, how string) (int, error) {
	switch how {
	case "text":
		panic("out of luck")
	case "typed":
		panic(&inputError{9})
	case "error":
		panic(fmt.Errorf("wrapped: %w", io.EOF))
	case "runtime":
		var m map[string]int
		//lint:ignore SA5000 it is to panic
		m["a"] = 1
	case "unknown":
		panic(struct{ a int }{5})
	case "method":
		panic(panicky{})
	case "exit":
		runtime.Goexit()
	}
	return 0, nil
})

func TestAPanicComesBackAndTheChildLivesOn(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	id := call(t, w, pid, none{})
	of := func(how string) *taskpool.PanicError {
		var pe *taskpool.PanicError
		require.ErrorAs(t, fails(t, w, panics, how), &pe)
		require.Contains(t, string(pe.Stack), "process_test.go", "the child's stack")
		require.Contains(t, string(pe.Stack), "goroutine ")
		return pe
	}
	require.Equal(t, "out of luck", of("text").Value)
	require.Equal(t, "taskpool: task panicked: out of luck", of("text").Error())
	require.Equal(t, &inputError{9}, of("typed").Value)
	var in *inputError
	require.ErrorAs(t, of("typed"), &in)
	require.ErrorIs(t, of("error"), io.EOF)
	require.Equal(t, "taskpool: task panicked: assignment to entry in nil map", of("runtime").Error())
	require.Equal(t, "{5}", of("unknown").Value)
	require.Contains(t, fails(t, w, panics, "method").Error(), "task panicked")
	require.Equal(t, taskpool.ErrGoexit, fails(t, w, panics, "exit"))
	require.Equal(t, id, call(t, w, pid, none{}))
}
