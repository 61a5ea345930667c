package process

import (
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"strings"
	"sync"
)

// A Func is a function that [Register] has made callable in child processes. It
// is safe for concurrent use.
type Func[In, Out any] struct {
	name string
	f    func(context.Context, In) (Out, error)
}

// Register makes f callable in child processes under the given name. Call it
// from the initialization of a package-level variable, so that the program has
// registered the same functions in the parent and in each child by the time
// [Main] is called. It panics if the name is empty or taken, if f is nil, or if
// package gob cannot encode In or Out.
//
// A []byte travels as it is. All other In and Out travel by package encoding/gob:
// exported fields only, types in interfaces must be registered with gob.Register, and
// pointers, also cyclic ones, lose their identity (gob does not end on a cycle). A
// function sees a copy of its argument.
//
// The context that f gets ends when the one given to Call does, and has its
// deadline, but none of its values; at the deadline its cause is
// context.DeadlineExceeded. In [context.Cause], and in the error that f
// returns, these cross the border between processes: the text; whether it is a
// context.Canceled, a context.DeadlineExceeded, one of taskpool's errors or a
// usual one of packages io, io/fs and os; errors of types known to package gob,
// for [errors.As]; taskpool.Permanent and taskpool.RetryAfter. A sentinel of your
// own can be made of such a type:
//
//	type badInput int
//
//	func (badInput) Error() string { return "bad input" }
//
//	const ErrBadInput = badInput(1)
//
//	func init() { gob.Register(ErrBadInput) }
func Register[In, Out any](name string, f func(context.Context, In) (Out, error)) *Func[In, Out] {
	switch {
	case name == "":
		panic("process: Register: name must not be empty")
	case len(name) > maxName:
		panic(fmt.Sprintf("process: Register: name must have at most %d bytes, got %d", maxName, len(name)))
	case strings.HasPrefix(name, chunkPrefix):
		panic(fmt.Sprintf("process: Register: name must not begin with NUL, got %q", name))
	case f == nil:
		panic(fmt.Sprintf("process: Register %q: f must not be nil", name))
	}
	for what, v := range map[string]any{"argument": value[In]{}, "result": value[Out]{}} {
		if err := gob.NewEncoder(io.Discard).Encode(v); err != nil {
			panic(fmt.Sprintf("process: Register %q: the %s cannot be encoded: %v", name, what, err))
		}
	}
	fn := &Func[In, Out]{name, f}
	functions.Lock()
	defer functions.Unlock()
	if functions.byName[name] != nil {
		panic(fmt.Sprintf("process: Register %q: name is taken", name))
	}
	if functions.byName == nil {
		functions.byName = make(map[string]function)
	}
	functions.byName[name], functions.byName[chunkPrefix+name] = fn, &chunked[In, Out]{name, inChunks(f)}
	return fn
}

// maxName is the longest name of a function.
const maxName = 255

// A value is how an argument or a result is encoded: as a field, so that nil
// pointers, interfaces and empty structs can be.
type value[T any] struct{ V T }

// elements returns for how many elements a function is called.
func (v *value[T]) elements() int {
	if c, ok := any(v.V).(interface{ elements() int }); ok {
		return c.elements()
	}
	return 1
}

// A function is a Func of any type, as the child sees it.
type function interface {
	// call decodes the argument, calls the function and returns its result, to be
	// encoded.
	call(ctx context.Context, decode func(v any) error) (result any, err error)
}

var functions struct {
	sync.RWMutex // protects the field below
	byName       map[string]function
}

// lookUp returns the registered function of that name, nil if there is none.
func lookUp(name string) function {
	functions.RLock()
	defer functions.RUnlock()
	return functions.byName[name]
}

func (fn *Func[In, Out]) call(ctx context.Context, decode func(any) error) (any, error) {
	return callWith(ctx, fn.name, fn.f, decode)
}

func callWith[In, Out any](ctx context.Context, name string, f func(context.Context, In) (Out, error), decode func(any) error) (any, error) {
	var in value[In]
	if err := decode(&in); err != nil {
		return nil, fmt.Errorf("process: argument of %s: %w", name, err)
	}
	out, err := f(ctx, in.V)
	return &value[Out]{out}, err
}

// Name returns the name that the function was registered under.
func (fn *Func[In, Out]) Name() string {
	if err := fn.misuse("Func.Name"); err != nil {
		panic(err.Error())
	}
	return fn.name
}

// misuse returns the error of a call with a function that is nil or zero, else nil.
func (fn *Func[In, Out]) misuse(call string) error {
	switch {
	case fn == nil:
		return fmt.Errorf("process: %s: the Func must be one that Register has returned, got nil", call)
	case fn.f == nil:
		return fmt.Errorf("process: %s: the Func must be one that Register has returned, got a zero Func", call)
	}
	return nil
}

// Call calls the function in a child process of p and returns what it returns. It
// waits for a free child, the most urgent caller first: the priority is what
// the task that ctx belongs to counts as, also if it is lent more meanwhile, and Medium
// outside tasks. Among equals the order
// is that of arrival, and one of every 16 children that several callers wait for
// goes to whoever has waited longest.
//
// When ctx ends, the function's context does, and Call goes on to wait for it to
// return; after the kill grace (see [WithKillGrace]) its child is killed. So the
// function is not running any more when Call has returned. While Call waits for a
// child, it returns the cause of ctx's end at once.
//
// The error is the function's own, as far as it can travel (see [Register]); a
// [*taskpool.PanicError] if it panicked, and [taskpool.ErrGoexit] if it called
// runtime.Goexit, after which the child lives on; an [*ExitError] if the child
// died; [ErrTooLarge] if the argument or the result makes a frame above
// [WithMaxFrame]; [ErrNotRegistered] if the child does not know the function;
// [ErrClosed] after Shutdown; or why no child can be started. An argument or
// result that cannot be encoded is an error, too. With any error, the result is
// the zero value.
//
// A call costs two frames, some tens of microseconds or more, and the encoding of In and Out.
func (fn *Func[In, Out]) Call(ctx context.Context, p *Pool, in In) (Out, error) {
	var out value[Out]
	if err := fn.misuse("Func.Call"); err != nil {
		return out.V, err
	}
	if _, err := p.call(ctx, fn.name, &value[In]{in}, &out, nil); err != nil {
		var zero Out
		return zero, err
	}
	return out.V, nil
}
