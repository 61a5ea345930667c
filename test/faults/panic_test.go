package faults_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// This file crosses every way in which user code can die with every place at
// which the pool calls user code. Whatever the pair, the same must hold: the
// process lives, the outcome is classified exactly, and the pool is whole.

// errCalledOff is why tasks are canceled here.
var errCalledOff = errors.New("fault: called off")

// A faultEnd is how a function ended.
type faultEnd int

const (
	faultReturns faultEnd = iota
	faultPanics
	faultExits // in a Goexit
)

func (e faultEnd) String() string { return [...]string{"returns", "panics", "exits"}[e] }

// A fault is a way to die.
type fault struct {
	name string
	die  func() error
	end  faultEnd
	// lasting is set where a Goexit has begun that no recover can stop.
	lasting bool
	same    func(v any) bool // v is the panic's value, or the error returned
	evil    *evil            // in the value or error; nil if it is harmless
}

// An evil is what is done to whoever calls the method asks.
type evil struct {
	asks string // Error, Is, As, Unwrap or Unwraps
	end  faultEnd
}

// evilPanic is what evil methods panic with.
const evilPanic = "fault: do not look"

func (e *evil) asked(method string) {
	switch {
	case e.asks != method:
	case e.end == faultExits:
		runtime.Goexit()
	default:
		panic(evilPanic)
	}
}

// A faultError is an error of which one method does harm.
type faultError struct{ evil evil }

func (e *faultError) Error() string { e.evil.asked("Error"); return "fault" }
func (e *faultError) Is(error) bool { e.evil.asked("Is"); return false }
func (e *faultError) As(any) bool   { e.evil.asked("As"); return false }
func (e *faultError) Unwrap() error { e.evil.asked("Unwrap"); return nil }

// A faultErrors does harm when it is asked for what it is made of.
type faultErrors struct{ evil evil }

func (e *faultErrors) Error() string   { return "fault" }
func (e *faultErrors) Unwrap() []error { e.evil.asked("Unwraps"); return nil }

func newEvilError(e *evil) error {
	if e.asks == "Unwraps" {
		return &faultErrors{*e}
	}
	return &faultError{*e}
}

// A faultStringer cannot be printed.
type faultStringer struct{ n int }

func (*faultStringer) String() string { panic(evilPanic) }

// A faultList is an error that cannot be compared.
type faultList []string

func (faultList) Error() string { return "fault: a list" }

func faultRecovered(f func()) {
	defer func() { _ = recover() }()
	f()
}

// faultCount is how many faults there are, for nobody to lose one.
const faultCount = 48

// faults returns all ways to die under the given setting of GODEBUG.
func faults(panicnil bool) []*fault {
	is := func(want any) func(any) bool { return func(v any) bool { return v == want } }
	isNil := func(v any) bool {
		_, ok := v.(*runtime.PanicNilError)
		return v == nil && panicnil || ok && !panicnil
	}
	isRuntime := func(text string) func(any) bool {
		return func(v any) bool {
			e, ok := v.(runtime.Error)
			return ok && strings.Contains(e.Error(), text)
		}
	}
	stringer, list := &faultStringer{1}, faultList{"a"}
	panics := func(name string, same func(any) bool, f func()) *fault {
		return &fault{name: name, die: func() error { f(); return nil }, end: faultPanics, same: same}
	}
	exits := func(name string, f func()) *fault {
		return &fault{name: name, die: func() error { f(); return nil }, end: faultExits, lasting: true}
	}
	lasting := func(f *fault) *fault { f.lasting = true; return f }
	all := []*fault{
		panics("panic with an error", is(pooltest.ErrTask), func() { panic(pooltest.ErrTask) }),
		panics("panic with a string", is("boom"), func() { panic("boom") }),
		panics("panic with nil", isNil, func() { pooltest.PanicsHere(nil) }),
		panics("panic with what cannot be printed", is(stringer), func() { panic(stringer) }),
		panics("panic with what cannot be compared", func(v any) bool {
			l, ok := v.(faultList)
			return ok && &l[0] == &list[0]
		}, func() { panic(list) }),
		panics("panic with ErrGoexit", is(taskpool.ErrGoexit), func() { panic(taskpool.ErrGoexit) }),
		panics("panic with ErrHung", is(taskpool.ErrHung), func() { panic(taskpool.ErrHung) }),
		panics("panic with context.Canceled", is(context.Canceled), func() { panic(context.Canceled) }),
		panics("panic in a defer after a panic", is("second"), func() {
			defer pooltest.PanicsHere("second")
			panic("first")
		}),
		panics("panic in three defers", is("fourth"), func() {
			defer pooltest.PanicsHere("fourth")
			defer pooltest.PanicsHere("third")
			defer pooltest.PanicsHere("second")
			panic("first")
		}),
		panics("panic in a defer after a return", is("late"), func() { lifePanicsDeferred("late") }),
		panics("panic with nil in a defer", isNil, func() { lifePanicsDeferred(nil) }),
		panics("panic with nil in a defer after a panic", isNil, func() {
			defer pooltest.PanicsHere(nil)
			panic("first")
		}),
		panics("panic again with the value recovered", is(pooltest.ErrTask), func() {
			defer func() { panic(recover()) }()
			panic(pooltest.ErrTask)
		}),
		panics("panic again with another value", is(pooltest.ErrTask), func() {
			defer func() { _ = recover(); panic(pooltest.ErrTask) }()
			panic("first")
		}),
		panics("panic after a recovered one", is("second"), func() {
			faultRecovered(func() { panic("first") })
			panic("second")
		}),
		exits("Goexit", runtime.Goexit),
		exits("Goexit in a defer", func() { defer runtime.Goexit() }),
		exits("Goexit in a defer while panicking", func() { defer runtime.Goexit(); panic("aborted") }),
		exits("Goexit in a defer while panicking with nil", func() { defer runtime.Goexit(); pooltest.PanicsHere(nil) }),
		exits("Goexit after a recovered panic", func() {
			defer func() { _ = recover(); runtime.Goexit() }()
			panic("over")
		}),
		exits("Goexit in a Goexit", func() { defer runtime.Goexit(); runtime.Goexit() }),
		exits("panic in a Goexit, recovered in the defer", func() {
			defer faultRecovered(func() { panic("over") })
			runtime.Goexit()
		}),
		exits("panic in a Goexit, recovered by the next defer", func() {
			defer func() { _ = recover() }()
			defer pooltest.PanicsHere("over")
			runtime.Goexit()
		}),
		exits("panic in a Goexit, recovered by the caller", func() {
			faultRecovered(func() { defer pooltest.PanicsHere("over"); runtime.Goexit() })
		}),
		lasting(panics("panic in a Goexit", is("on the way out"), func() {
			defer pooltest.PanicsHere("on the way out")
			runtime.Goexit()
		})),
		lasting(panics("panic, Goexit, panic", is("third"), func() {
			defer pooltest.PanicsHere("third")
			defer runtime.Goexit()
			panic("first")
		})),
		panics("write to a nil map", isRuntime("nil map"), func() {
			m := map[bool]map[string]int{}[true]
			m["x"] = 1
		}),
		panics("index out of range", isRuntime("index out of range"), func() { _ = list[len(list)] }),
		panics("nil dereference", isRuntime("nil pointer"), func() { var s *faultStringer; s.n++ }),
		panics("division by zero", isRuntime("divide by zero"), func() { n := len(list) - 1; _ = 1 / n }),
		panics("failed type assertion", isRuntime("interface conversion"), func() { _ = any(list).(fmt.Stringer) }),
		panics("close of a closed channel", isRuntime("closed channel"), func() {
			c := make(chan int)
			close(c)
			close(c)
		}),
	}
	// With panic(nil) in force recover cannot tell it, and the Goexit stands.
	nilInExit := lasting(panics("panic with nil in a Goexit", isNil, func() {
		defer pooltest.PanicsHere(nil)
		runtime.Goexit()
	}))
	if panicnil {
		nilInExit.end = faultExits
	}
	all = append(all, nilInExit)
	for _, end := range []faultEnd{faultPanics, faultExits} {
		for _, asks := range []string{"Error", "Is", "As", "Unwrap", "Unwraps"} {
			e := &evil{asks, end}
			err := newEvilError(e)
			all = append(all, &fault{name: fmt.Sprintf("error whose %s %v", asks, end),
				die: func() error { return err }, end: faultReturns, same: is(err), evil: e})
		}
		for _, asks := range []string{"Error", "Unwrap"} {
			e := &evil{asks, end}
			err := newEvilError(e)
			f := panics(fmt.Sprintf("panic with an error whose %s %v", asks, end), is(err), func() { panic(err) })
			f.evil = e
			all = append(all, f)
		}
	}
	return all
}

// void is f for a function that has no error to return: it looks at the error
// and dies of that.
func (f *fault) void() *fault {
	if f.end != faultReturns {
		return f
	}
	e := f.evil
	return &fault{name: f.name, end: e.end, lasting: e.end == faultExits,
		die:  func() error { e.asked(e.asks); return nil },
		same: func(v any) bool { return v == evilPanic }}
}

// fatal reports whether the fault ends a goroutine that contains it: by its own
// Goexit, or by that of a panic's value that is asked for its text, for the log.
func (f *fault) fatal() bool {
	v := f.void()
	return v.lasting || v.evil != nil && v.evil.asks == "Error" && v.evil.end == faultExits
}

// walked reports whether the fault's error does harm to errors.As.
func (f *fault) walked() bool {
	return f.evil != nil && (f.evil.asks == "As" || f.evil.asks == "Unwrap" || f.evil.asks == "Unwraps")
}

// one is 1 if b and 0 otherwise.
func one(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// A faultScene is one fault at one place.
type faultScene struct {
	*testing.T
	f *fault
	p *taskpool.Pool
	// armed is set while user code other than tasks is to die.
	armed atomic.Bool
	died  atomic.Int64 // number of deaths in such code
	want  faultStats
}

// faultStats is the part of Stats that tells of lives and deaths.
type faultStats struct {
	Submitted, Succeeded, Failed, Canceled, Shed, Retries, Panics, Goexits, Hangs, Replaced uint64
}

const faultWorkers = 3

// pool starts the pool of the scene.
func (s *faultScene) pool(opts ...taskpool.Option) *taskpool.Pool {
	s.Helper()
	s.armed.Store(true)
	s.p = pooltest.New(s.T, append([]taskpool.Option{
		taskpool.WithWorkers(faultWorkers), taskpool.WithHangGrace(time.Second)}, opts...)...)
	return s.p
}

// run dies, as a task does.
func (s *faultScene) run(context.Context) error { return s.f.die() }

// strike dies, as a function without an error does, while the scene is armed.
func (s *faultScene) strike() {
	if s.armed.Load() {
		s.died.Add(1)
		_ = s.f.void().die()
	}
}

// fails counts what becomes of a task that dies in its only attempt: it fails.
func (s *faultScene) fails() {
	s.want.Submitted++
	s.want.Failed++
	s.dies()
}

// dies counts an attempt that dies.
func (s *faultScene) dies() {
	s.want.Panics += one(s.f.end == faultPanics)
	s.want.Goexits += one(s.f.end == faultExits)
	s.want.Replaced += one(s.f.end != faultReturns)
}

// succeeds counts n tasks that succeed.
func (s *faultScene) succeeds(n int) {
	s.want.Submitted += uint64(n)
	s.want.Succeeded += uint64(n)
}

// workerLost counts the death of a worker in user code other than a task, which
// no recover can stop.
func (s *faultScene) workerLost() { s.want.Replaced += one(s.f.fatal()) }

// requireClass checks that err is exactly what the fault comes to. It asks err
// for nothing that might kill the test.
func (s *faultScene) requireClass(err error) {
	s.Helper()
	switch s.f.end {
	case faultReturns:
		require.True(s, s.f.same(err), "the error returned, got a %T", err)
	case faultExits:
		require.True(s, err == taskpool.ErrGoexit, "ErrGoexit itself, got a %T", err)
	case faultPanics:
		pe, ok := err.(*taskpool.PanicError)
		require.True(s, ok, "a PanicError itself, got a %T", err)
		require.True(s, s.f.same(pe.Value), "the panic's value, got a %T", pe.Value)
		require.Contains(s, string(pe.Stack), "panic_test.go")
		if e, ok := pe.Value.(error); ok {
			require.True(s, s.f.same(pe.Unwrap()), "unwraps to the value, got a %T", e)
			if s.f.evil == nil {
				var as *taskpool.PanicError
				require.ErrorAs(s, err, &as)
				require.Same(s, pe, as)
				require.Equal(s, e == taskpool.ErrGoexit, errors.Is(err, taskpool.ErrGoexit))
				require.Equal(s, e == taskpool.ErrHung, errors.Is(err, taskpool.ErrHung))
				require.NotEmpty(s, err.Error())
			}
		} else {
			require.NoError(s, pe.Unwrap())
			require.NotErrorIs(s, err, taskpool.ErrGoexit)
		}
	}
}

// requireFailed checks a task that died of the fault.
func (s *faultScene) requireFailed(h *taskpool.Handle) {
	s.Helper()
	s.requireClass(h.Wait(context.Background()))
	s.requireClass(h.Err())
	require.Equal(s, taskpool.StateFailed, h.State())
}

// fateOf calls f on a goroutine of its own and says how that ended.
func fateOf(f func()) (end faultEnd, value any) {
	done := make(chan struct{})
	end = faultExits
	go func() {
		defer close(done)
		normal := false
		func() {
			defer func() {
				if !normal {
					if value = recover(); value != nil {
						end = faultPanics // whether or not a Goexit goes on
					}
				}
			}()
			f()
			normal = true
		}()
		if end = faultPanics; normal { // a Goexit does not come here
			end = faultReturns
		}
	}()
	<-done
	return end, value
}

// requireDies checks that f dies of the fault, on the goroutine that calls it.
func (s *faultScene) requireDies(f func()) {
	s.Helper()
	end, value := fateOf(f)
	require.Equal(s, s.f.void().end, end)
	if end == faultPanics {
		require.True(s, s.f.void().same(value), "the panic's value, got a %T", value)
	}
}

// requireContained checks that f returns, though something in it dies on its
// goroutine; only a Goexit ends that.
func (s *faultScene) requireContained(f func()) {
	s.Helper()
	end, _ := fateOf(f)
	require.Equal(s, s.f.fatal(), end == faultExits, "ends: %v", end)
	require.NotEqual(s, faultPanics, end)
}

// requireSurvived checks that nothing came of the fault but what is wanted: the
// counts, all workers, all slots, and a Shutdown that leaves nobody behind. That
// no goroutine is left is the bubble's own condition for its end.
func (s *faultScene) requireSurvived() {
	s.Helper()
	s.armed.Store(false)
	synctest.Wait()
	st := s.p.Stats()
	require.Equal(s, s.want, faultStats{st.Submitted, st.Succeeded, st.Failed, st.Canceled, st.Shed,
		st.Retries, st.Panics, st.Goexits, st.Hangs, st.Replaced})
	pooltest.RequireConserved(s, st)
	require.Equal(s, faultWorkers, st.Workers)
	require.Equal(s, faultWorkers, st.Goroutines)
	require.Equal(s, faultWorkers, st.Idle)
	require.Zero(s, st.Queued+st.Delayed+st.Running+st.Parked+st.Abandoned+st.Lost+st.SubmittersWaiting)
	require.NoError(s, s.p.Health())
	s.requireSlots()
	require.NoError(s, s.p.Shutdown(context.Background()))
	synctest.Wait()
	require.Zero(s, s.p.Stats().Goroutines)
}

// requireSlots checks that as many tasks run at once as there are workers, and
// not one more: they wait for each other.
func (s *faultScene) requireSlots() {
	s.Helper()
	var come, met, extra atomic.Int32
	all, over := make(chan struct{}), make(chan struct{})
	for range faultWorkers {
		require.NoError(s, s.p.Go(taskpool.Medium, func() {
			if come.Add(1) == faultWorkers {
				close(all)
			}
			select {
			case <-all:
				met.Add(1)
			case <-over:
			}
			<-over
		}))
	}
	require.NoError(s, s.p.Go(taskpool.Medium, func() { extra.Add(1) }))
	synctest.Wait()
	together, early := met.Load(), extra.Load()
	close(over)
	synctest.Wait()
	require.EqualValues(s, faultWorkers, together, "tasks that met each other")
	require.Zero(s, early, "one more than there are slots")
	require.EqualValues(s, 1, extra.Load())
}

// A faultPlace is where user code dies. It starts the scene's pool, brings the
// death about, checks the outcome and says what is wanted of the counts.
type faultPlace struct {
	name string
	run  func(s *faultScene)
}

// crossFaults runs every fault at every place, under both settings of GODEBUG,
// and counts. With -short or the race detector it is every fifth at each place, not the same at the next, so that
// each fault is at a fifth of the places.
func crossFaults(t *testing.T, wantPlaces int, places []faultPlace) {
	ran, distance := 0, 1
	if pooltest.Scarce() {
		distance = 5
	}
	for _, panicnil := range []bool{false, true} {
		setting := map[bool]string{false: "panicnil=0", true: "panicnil=1"}[panicnil]
		t.Run(setting, func(t *testing.T) {
			t.Setenv("GODEBUG", setting)
			func() { // the setting must be in force, or the test has no power
				defer func() { require.Equal(t, panicnil, recover() == nil) }()
				pooltest.PanicsHere(nil)
			}()
			all := faults(panicnil)
			require.Len(t, all, faultCount)
			for i, place := range places {
				t.Run(place.name, func(t *testing.T) {
					for j, f := range all {
						if (i+j)%distance != 0 {
							continue
						}
						t.Run(f.name, func(t *testing.T) {
							ran++
							synctest.Test(t, func(t *testing.T) {
								s := &faultScene{T: t, f: f}
								place.run(s)
								s.requireSurvived()
							})
						})
					}
				})
			}
		})
	}
	require.Len(t, places, wantPlaces)
	if !strings.Contains(flag.Lookup("test.run").Value.String(), "/") { // all were asked for
		require.GreaterOrEqual(t, ran, 2*wantPlaces*(faultCount/distance), "combinations")
	}
}

// inTask runs f in a task that must succeed, and counts it.
func (s *faultScene) inTask(f func(ctx context.Context)) {
	s.Helper()
	h := pooltest.Submit(s.T, s.p, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error { f(ctx); return nil }})
	require.NoError(s, h.Wait(context.Background()))
	s.succeeds(1)
}

// asTask runs f in a task that must die of the fault in it, and counts it.
func (s *faultScene) asTask(f func(ctx context.Context)) {
	s.Helper()
	s.f = s.f.void()
	s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(ctx context.Context) error { f(ctx); return nil }}))
	s.fails()
}

// requireElements checks the results of a Map whose second element died.
func (s *faultScene) requireElements(got []pooltest.Pair[int]) {
	s.Helper()
	require.Len(s, got, 3)
	require.Equal(s, pooltest.Pair[int]{V: 10, Err: nil}, got[0])
	require.Zero(s, got[1].V)
	s.requireClass(got[1].Err)
	require.Equal(s, pooltest.Pair[int]{V: 12, Err: nil}, got[2])
	s.succeeds(2)
	s.fails()
}

func TestEveryDeathOfATaskLeavesThePoolWhole(t *testing.T) {
	pass := pooltest.WithAround(func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
		return run(ctx)
	})
	three := func(yield func(int) bool) {
		for i := range 3 {
			if !yield(i) {
				return
			}
		}
	}
	call := func(s *faultScene, ctx context.Context) error {
		v, err := taskpool.Call(ctx, s.p, taskpool.Task{}, func(context.Context) (int, error) { return 7, s.f.die() })
		assert.Zero(s, v)
		return err
	}
	mapped := func(s *faultScene, ctx context.Context) (got []pooltest.Pair[int]) {
		for v, err := range taskpool.Map(ctx, s.p, taskpool.Task{}, three, func(_ context.Context, i int) (int, error) {
			if i == 1 {
				return 11, s.f.die()
			}
			return 10 + i, nil
		}) {
			got = append(got, pooltest.Pair[int]{V: v, Err: err})
		}
		return got
	}
	grouped := func(s *faultScene, ctx context.Context) error {
		g := s.p.Group(ctx, taskpool.Task{})
		g.Go(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		g.Go(s.run)
		return g.Wait()
	}
	// deadInput is a Map whose input dies when two elements are in flight.
	deadInput := func(s *faultScene, ctx context.Context) {
		in := func(yield func(int) bool) {
			_ = yield(0) && yield(1)
			_ = s.f.void().die()
		}
		for range taskpool.Map(ctx, s.p, taskpool.Task{}, in, pooltest.WaitForEnd) {
			s.Error("nothing comes before the input dies")
		}
	}
	// deadLoop is a Map whose loop dies at the first element.
	deadLoop := func(s *faultScene, ctx context.Context) {
		for range taskpool.Map(ctx, s.p, taskpool.Task{}, three, func(ctx context.Context, i int) (int, error) {
			if i == 0 {
				time.Sleep(time.Second) // until all three are in flight
				return 0, nil
			}
			return pooltest.WaitForEnd(ctx, i)
		}) {
			_ = s.f.void().die()
		}
	}
	canceled := func(s *faultScene, n int) {
		s.want.Submitted += uint64(n)
		s.want.Canceled += uint64(n)
	}
	// recovers is a task that does not die of a panic in Block.
	recovers := func(s *faultScene) {
		var state taskpool.State
		parks := false
		h := pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(ctx context.Context) (err error) {
			defer func() {
				_ = recover()
				info, _ := taskpool.Current(ctx)
				state, parks = info.State, s.p.Stats().Parked > 0
			}()
			return taskpool.Block(ctx, func() error { return s.run(ctx) })
		}})
		err := h.Wait(context.Background())
		require.Equal(s, taskpool.StateRunning, state, "it has its slot back")
		require.False(s, parks)
		if s.f.end == faultPanics && !s.f.lasting {
			require.NoError(s, err)
			s.succeeds(1)
			return
		}
		if s.f.lasting { // the task has recovered the panic, and the Goexit goes on
			s.f = &fault{end: faultExits}
		}
		s.requireFailed(h)
		s.fails()
	}
	// hangs has a task be given up before it dies. lost is set if it keeps its
	// slot till then.
	hangs := func(s *faultScene, lost bool) {
		gate, release := s.gate()
		h := pooltest.Submit(s.T, s.p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error { <-gate; return s.run(ctx) }})
		err := h.Wait(context.Background())
		require.ErrorIs(s, err, taskpool.ErrHung)
		synctest.Wait()
		require.Equal(s, int(one(lost)), s.p.Stats().Lost)
		require.Equal(s, int(one(!lost)), s.p.Stats().Abandoned)
		release()
		require.True(s, h.Err() == err, "what it comes to later is nobody's")
		s.want.Submitted, s.want.Failed, s.want.Hangs = 1, 1, 1
		s.want.Replaced = one(!lost || s.f.end != faultReturns)
	}
	crossFaults(t, 34, []faultPlace{
		{"Go", func(s *faultScene) {
			s.pool()
			s.f = s.f.void()
			require.NoError(s, s.p.Go(taskpool.Low, func() { _ = s.f.die() }))
			s.fails()
		}},
		{"Submit", func(s *faultScene) {
			s.requireFailed(pooltest.Submit(s.T, s.pool(), taskpool.Task{Run: s.run}))
			s.fails()
		}},
		{"Submit with a retry", func(s *faultScene) {
			s.pool()
			began, n := time.Now(), 0
			h := pooltest.Submit(s.T, s.p, taskpool.Task{
				Retry: taskpool.Retry{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }},
				Run: func(ctx context.Context) error {
					if n++; n == 2 {
						return nil
					}
					return s.run(ctx)
				}})
			<-h.Done()
			if s.f.end == faultExits || s.f.walked() { // a Goexit, or nobody can say whether it is permanent
				s.requireFailed(h)
				require.Equal(s, 1, n)
				s.fails()
				s.want.Replaced += one(s.f.walked() && s.f.evil.end == faultExits)
				return
			}
			require.NoError(s, h.Err())
			require.Equal(s, taskpool.StateSucceeded, h.State())
			require.Equal(s, 2, n)
			require.Equal(s, time.Hour, time.Since(began))
			s.succeeds(1)
			s.dies()
			s.want.Retries++
		}},
		{"Submit with retries that die alike", func(s *faultScene) {
			s.pool()
			h := pooltest.Submit(s.T, s.p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 3}, Run: s.run})
			<-h.Done()
			s.requireFailed(h)
			s.fails()
			if s.f.end == faultExits || s.f.walked() {
				s.want.Replaced += one(s.f.walked() && s.f.evil.end == faultExits)
				return
			}
			s.dies()
			s.dies()
			s.want.Retries += 2
		}},
		{"SubmitFunc", func(s *faultScene) {
			fut, err := taskpool.SubmitFunc(context.Background(), s.pool(), taskpool.Task{},
				func(context.Context) (int, error) { return 7, s.f.die() })
			require.NoError(s, err)
			v, err := fut.Get(context.Background())
			require.Zero(s, v)
			s.requireClass(err)
			s.requireFailed(fut.Handle)
			s.fails()
		}},
		{"SubmitFunc that dies after a value", func(s *faultScene) { // a value computed is no value returned
			s.pool()
			n := 0
			fut, err := taskpool.SubmitFunc(context.Background(), s.p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}},
				func(context.Context) (v int, err error) {
					n++
					defer func() { err = s.f.die() }()
					return n, nil
				})
			require.NoError(s, err)
			v, err := fut.Get(context.Background())
			require.Zero(s, v)
			s.requireClass(err)
			s.fails()
			if s.f.end == faultExits || s.f.walked() {
				s.want.Replaced += one(s.f.walked() && s.f.evil.end == faultExits)
				return
			}
			s.dies()
			s.want.Retries++
		}},
		{"Call", func(s *faultScene) {
			s.pool()
			s.requireClass(call(s, context.Background()))
			s.fails()
		}},
		{"Call in a task", func(s *faultScene) {
			s.pool()
			var err error
			s.inTask(func(ctx context.Context) { err = call(s, ctx) })
			s.requireClass(err)
			s.fails()
		}},
		{"Call in a Call in a task", func(s *faultScene) {
			s.pool()
			var err error
			s.inTask(func(ctx context.Context) {
				_, outer := taskpool.Call(ctx, s.p, taskpool.Task{}, func(ctx context.Context) (int, error) {
					err = call(s, ctx)
					return 0, nil
				})
				assert.NoError(s, outer)
			})
			s.succeeds(1)
			s.requireClass(err)
			s.fails()
		}},
		{"Call in a task of another pool", func(s *faultScene) {
			s.pool()
			other := pooltest.New(s.T, taskpool.WithWorkers(1))
			var err error
			h := pooltest.Submit(s.T, other, taskpool.Task{Run: func(ctx context.Context) error { err = call(s, ctx); return nil }})
			require.NoError(s, h.Wait(context.Background()))
			s.requireClass(err)
			s.fails()
			require.Zero(s, other.Stats().Replaced, "the death is the other pool's")
		}},
		{"Call in tasks that fill the pool", func(s *faultScene) {
			s.pool()
			errs := make([]error, faultWorkers)
			handles := make([]*taskpool.Handle, faultWorkers)
			for i := range handles {
				handles[i] = pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(ctx context.Context) error { errs[i] = call(s, ctx); return nil }})
			}
			for i, h := range handles {
				require.NoError(s, h.Wait(context.Background()))
				s.requireClass(errs[i])
				s.succeeds(1)
				s.fails()
			}
		}},
		{"member of a Group", func(s *faultScene) {
			s.pool()
			s.requireClass(grouped(s, context.Background()))
			s.fails()
			canceled(s, 1)
		}},
		{"member of a Group in a task", func(s *faultScene) {
			s.pool()
			var err error
			s.inTask(func(ctx context.Context) { err = grouped(s, ctx) })
			s.requireClass(err)
			s.fails()
			canceled(s, 1)
		}},
		{"member of a Group with a limit", func(s *faultScene) {
			s.pool()
			g := s.p.Group(context.Background(), taskpool.Task{})
			g.SetLimit(1)
			g.Go(pooltest.Nop)
			g.Go(s.run)
			s.requireClass(g.Wait())
			s.succeeds(1)
			s.fails()
		}},
		{"every member of a Group", func(s *faultScene) {
			s.pool()
			s.p.Pause()
			g := s.p.Group(context.Background(), taskpool.Task{})
			var ran atomic.Int32
			for range faultWorkers {
				g.Go(func(ctx context.Context) error { ran.Add(1); return s.run(ctx) })
			}
			gate := make(chan struct{})
			go func() { defer close(gate); s.p.Resume() }()
			<-gate
			s.requireClass(g.Wait())
			synctest.Wait()
			st := s.p.Stats() // some may be canceled before they start, or before Run is called
			require.EqualValues(s, faultWorkers, st.Failed+st.Canceled)
			s.want.Submitted, s.want.Failed, s.want.Canceled = faultWorkers, st.Failed, st.Canceled
			deaths := uint64(ran.Load())
			s.want.Panics = deaths * one(s.f.end == faultPanics)
			s.want.Goexits = deaths * one(s.f.end == faultExits)
			s.want.Replaced = deaths * one(s.f.end != faultReturns)
			require.Positive(s, deaths)
		}},
		{"f of a Map", func(s *faultScene) {
			s.pool()
			s.requireElements(mapped(s, context.Background()))
		}},
		{"f of a Map in a task", func(s *faultScene) {
			s.pool()
			var got []pooltest.Pair[int]
			s.inTask(func(ctx context.Context) { got = mapped(s, ctx) })
			s.requireElements(got)
		}},
		{"input of a Map", func(s *faultScene) {
			s.pool()
			s.requireDies(func() { deadInput(s, context.Background()) })
			canceled(s, 2)
		}},
		{"input of a Map in a task", func(s *faultScene) {
			s.pool()
			s.asTask(func(ctx context.Context) { deadInput(s, ctx) })
			canceled(s, 2)
		}},
		{"loop over a Map", func(s *faultScene) {
			s.pool()
			s.requireDies(func() { deadLoop(s, context.Background()) })
			s.succeeds(1)
			canceled(s, 2)
		}},
		{"loop over a Map in a task", func(s *faultScene) {
			s.pool()
			s.asTask(func(ctx context.Context) { deadLoop(s, ctx) })
			s.succeeds(1)
			canceled(s, 2)
		}},
		{"Block", func(s *faultScene) {
			s.pool()
			s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { return s.run(ctx) })
			}}))
			s.fails()
		}},
		{"Block in a Block", func(s *faultScene) {
			s.pool()
			s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error {
					return taskpool.Block(ctx, func() error { return s.run(ctx) })
				})
			}}))
			s.fails()
		}},
		{"Block where none may park", func(s *faultScene) {
			s.pool(taskpool.WithMaxParked(0))
			s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Heartbeat: time.Minute, Run: func(ctx context.Context) error {
				return taskpool.Block(ctx, func() error { return s.run(ctx) })
			}}))
			s.fails()
		}},
		{"Block outside a task", func(s *faultScene) {
			s.pool()
			s.requireDies(func() { _ = taskpool.Block(context.Background(), func() error { return s.f.void().die() }) })
		}},
		{"Block in a task that recovers", func(s *faultScene) { s.pool(); recovers(s) }},
		{"Block where none may park, in a task that recovers", func(s *faultScene) {
			s.pool(taskpool.WithMaxParked(0))
			recovers(s)
		}},
		{"task that its own goroutine has parked", func(s *faultScene) {
			s.pool()
			child := pooltest.Submit(s.T, s.p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
			h := pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(ctx context.Context) error {
				go func() { _ = child.Wait(ctx) }() //nolint:taskpoolvet // it is to be parked
				time.Sleep(time.Second)             // now it waits
				assert.Equal(s, 1, s.p.Stats().Parked)
				return s.run(ctx)
			}})
			s.requireFailed(h)
			require.NoError(s, child.Wait(context.Background()))
			s.fails()
			s.succeeds(1)
		}},
		{"task that had been parked", func(s *faultScene) {
			s.pool()
			s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(ctx context.Context) error {
				assert.NoError(s, taskpool.Block(ctx, func() error { time.Sleep(time.Second); return nil }))
				return s.run(ctx)
			}}))
			s.fails()
		}},
		{"task within Around", func(s *faultScene) {
			s.requireFailed(pooltest.Submit(s.T, s.pool(pass, pass), taskpool.Task{Run: s.run}))
			s.fails()
			if s.f.end == faultPanics && !s.f.lasting { // the panic is over before it kills the worker
				s.want.Replaced--
			}
		}},
		{"task that was canceled", func(s *faultScene) {
			s.pool()
			h := pooltest.Submit(s.T, s.p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2}, Run: func(ctx context.Context) error { <-ctx.Done(); return s.run(ctx) }})
			synctest.Wait()
			require.True(s, h.Cancel(errCalledOff))
			<-h.Done()
			if s.f.end == faultReturns {
				require.Equal(s, taskpool.StateCanceled, h.State())
				require.ErrorIs(s, h.Err(), errCalledOff)
				canceled(s, 1)
				return
			}
			s.requireFailed(h)
			s.fails()
		}},
		{"task that timed out", func(s *faultScene) {
			s.pool()
			h := pooltest.Submit(s.T, s.p, taskpool.Task{Timeout: time.Second, Run: func(ctx context.Context) error { <-ctx.Done(); return s.run(ctx) }})
			<-h.Done()
			if s.f.end == faultReturns {
				require.ErrorIs(s, h.Err(), taskpool.ErrTimeout)
			} else {
				s.requireClass(h.Err())
			}
			require.Equal(s, taskpool.StateFailed, h.State())
			s.fails()
		}},
		{"task that was given up", func(s *faultScene) { s.pool(); hangs(s, false) }},
		{"task that was given up and has its slot", func(s *faultScene) {
			s.pool(taskpool.WithMaxAbandoned(0))
			hangs(s, true)
		}},
	})
}

// deadlyHook starts the scene's pool with a hook that dies, and another after it
// that must be called all the same: told returns how often it was.
func (s *faultScene) deadlyHook(victim string, opts ...taskpool.Option) (told func() int) {
	events := new(pooltest.EventLog)
	deadly := pooltest.EveryHook(func(name string, _ taskpool.TaskEvent, _ taskpool.WorkerEvent) {
		if name == victim {
			s.strike()
		}
	})
	s.pool(append(opts, taskpool.WithHooks(deadly), taskpool.WithHooks(events.Hooks()))...)
	return func() int { synctest.Wait(); return len(events.Named(victim)) }
}

// requireTold checks that the deadly hook and the one after it were called n
// times each.
func (s *faultScene) requireTold(n int, told func() int) {
	s.Helper()
	require.Equal(s, n, told(), "calls of the hook after the one that dies")
	require.EqualValues(s, n, s.died.Load(), "calls of the hook that dies")
}

// hang submits a task that is given up and returns what lets it go.
func (s *faultScene) hang(t taskpool.Task) (h *taskpool.Handle, release func()) {
	gate, release := s.gate()
	t.Timeout = time.Second
	t.Run = func(ctx context.Context) error {
		if info, _ := taskpool.Current(ctx); info.Attempt == 1 {
			<-gate
		}
		return nil
	}
	return pooltest.Submit(s.T, s.p, t), release
}

// gate returns a channel and what closes it, at the latest at the end of the
// test: a failure must not become a deadlock of the bubble.
func (s *faultScene) gate() (<-chan struct{}, func()) {
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	s.Cleanup(open)
	return gate, func() { open(); synctest.Wait() }
}

// fill occupies all workers until release is called.
func (s *faultScene) fill() (release func()) {
	gate, release := s.gate()
	for range faultWorkers {
		require.NoError(s, s.p.Go(taskpool.High, func() { <-gate }))
	}
	synctest.Wait()
	s.succeeds(faultWorkers)
	return release
}

// A faultHandler is a log handler of which one method dies.
type faultHandler struct {
	s      *faultScene
	method string
	debug  bool // it takes successes, too
}

func (h *faultHandler) in(method string) {
	if h.method == method {
		h.s.strike()
	}
}

func (h *faultHandler) Enabled(_ context.Context, level slog.Level) bool {
	h.in("Enabled")
	return level > slog.LevelDebug || h.debug
}
func (h *faultHandler) WithAttrs([]slog.Attr) slog.Handler { h.in("WithAttrs"); return h }
func (h *faultHandler) WithGroup(string) slog.Handler      { h.in("WithGroup"); return h }
func (h *faultHandler) Handle(_ context.Context, r slog.Record) error {
	h.in("Handle")
	if h.method == "looks" {
		r.Attrs(func(a slog.Attr) bool {
			if err, ok := a.Value.Any().(error); ok && h.s.armed.Load() {
				_ = errors.Is(err, pooltest.ErrTask)
				var as *evilTarget
				_ = errors.As(err, &as)
				_ = err.Error()
			}
			return true
		})
	}
	return nil
}

// An evilTarget is something to look for in an error.
type evilTarget struct{}

func (*evilTarget) Error() string { return "" }

func (s *faultScene) deadlyLogger(method string) taskpool.Option {
	return taskpool.WithLogger(slog.New(&faultHandler{s, method, false}))
}

func TestEveryDeathInAHookPolicyOrLoggerLeavesThePoolWhole(t *testing.T) {
	two := func(s *faultScene, run func() error) (h *taskpool.Handle) { // by Submit and by Go
		h = pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(context.Context) error { return run() }})
		<-h.Done()
		require.NoError(s, s.p.Go(taskpool.Medium, func() { _ = run() }))
		synctest.Wait()
		return h
	}
	fine := func() error { return nil }
	worker := func(victim string, failing bool) faultPlace { // a hook called by the worker
		return faultPlace{"hook " + victim, func(s *faultScene) {
			told := s.deadlyHook(victim)
			n := 0
			h := pooltest.Submit(s.T, s.p, taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, Backoff: pooltest.NoWait}, Run: func(context.Context) error {
				if n++; failing && n == 1 {
					return pooltest.ErrTask
				}
				return nil
			}})
			require.NoError(s, h.Wait(context.Background()))
			s.requireTold(1, told)
			s.succeeds(1)
			s.want.Retries = one(failing)
			s.workerLost()
		}}
	}
	// around is a task within a hook Around, whose Run returns err or panics
	// with it.
	around := func(s *faultScene, hook pooltest.AroundFunc, run func() error) *taskpool.Handle {
		s.pool(pooltest.WithAround(func(ctx context.Context, info taskpool.TaskInfo, run func(context.Context) error) error {
			if !s.armed.Load() {
				return run(ctx)
			}
			s.died.Add(1)
			return hook(ctx, info, run)
		}))
		ran := 0
		h := pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(context.Context) error { ran++; return run() }})
		<-h.Done()
		synctest.Wait()
		require.EqualValues(s, 1, s.died.Load())
		require.LessOrEqual(s, ran, 1)
		s.want.Submitted = 1
		return h
	}
	// stands checks an attempt that came to err, whatever its hook did; but an
	// error that the hook returns stands itself.
	stands := func(s *faultScene, h *taskpool.Handle, err error) {
		switch {
		case s.f.end == faultReturns:
			s.requireFailed(h)
			s.want.Failed = 1
		case err != nil:
			require.True(s, h.Err() == err)
			require.Equal(s, taskpool.StateFailed, h.State())
			s.want.Failed = 1
			s.workerLost()
		default:
			require.NoError(s, h.Err())
			require.Equal(s, taskpool.StateSucceeded, h.State())
			s.want.Succeeded = 1
			s.workerLost()
		}
	}
	policy := func(s *faultScene, r taskpool.Retry) (h *taskpool.Handle, attempts int) {
		s.pool()
		r.MaxAttempts = 2
		h = pooltest.Submit(s.T, s.p, taskpool.Task{Retry: r, Run: func(context.Context) error {
			if attempts++; attempts == 2 {
				return nil
			}
			return pooltest.ErrTask
		}})
		<-h.Done()
		synctest.Wait()
		require.EqualValues(s, 1, s.died.Load())
		return h, attempts
	}
	crossFaults(t, 35, []faultPlace{
		{"hook Queued", func(s *faultScene) {
			told := s.deadlyHook("Queued")
			s.requireContained(func() { _, _ = s.p.Submit(context.Background(), taskpool.Task{Run: pooltest.Nop}) })
			s.requireContained(func() { _ = s.p.Go(taskpool.Low, func() {}) })
			s.requireTold(2, told)
			s.succeeds(2)
		}},
		{"hook Queued in a task", func(s *faultScene) { // a Goexit there is the submitter's own
			told := s.deadlyHook("Queued")
			s.armed.Store(false)
			parent := pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(context.Context) error {
				time.Sleep(time.Second) // the hook about this task itself may come late
				s.armed.Store(true)
				return s.p.Go(taskpool.Low, func() {})
			}})
			<-parent.Done()
			require.Equal(s, 2, told())
			require.EqualValues(s, 1, s.died.Load())
			if s.f.fatal() {
				require.Equal(s, taskpool.ErrGoexit, parent.Err())
				s.want.Submitted, s.want.Failed, s.want.Goexits, s.want.Replaced = 1, 1, 1, 1
				s.succeeds(1)
				return
			}
			require.NoError(s, parent.Err())
			s.succeeds(2)
		}},
		{"hook Started", func(s *faultScene) {
			told := s.deadlyHook("Started")
			require.NoError(s, two(s, fine).Err())
			s.requireTold(2, told)
			s.succeeds(2)
			s.workerLost()
			s.workerLost()
		}},
		worker("AttemptFailed", true),
		worker("Retried", true),
		worker("Finished", false),
		{"hook Finished of a task that died", func(s *faultScene) {
			told := s.deadlyHook("Finished")
			s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Run: s.run}))
			s.requireTold(1, told)
			s.fails()
			s.workerLost()
		}},
		{"hook Shed", func(s *faultScene) {
			told := s.deadlyHook("Shed", taskpool.WithCapacity(1, taskpool.OverflowShed))
			release := s.fill()
			low := pooltest.Submit(s.T, s.p, taskpool.Task{Priority: taskpool.Low, Run: pooltest.Nop})
			s.requireContained(func() { _ = s.p.Go(taskpool.Medium, func() {}) })
			require.Equal(s, taskpool.ErrShed, low.Wait(context.Background()))
			s.requireTold(1, told)
			release()
			s.succeeds(1)
			s.want.Submitted++
			s.want.Shed++
		}},
		{"hook Finished of a canceled task", func(s *faultScene) {
			told := s.deadlyHook("Finished")
			h := pooltest.Submit(s.T, s.p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
			s.requireContained(func() { h.Cancel(errCalledOff) })
			require.Equal(s, errCalledOff, h.Err())
			s.requireTold(1, told)
			s.want.Submitted, s.want.Canceled = 1, 1
		}},
		{"hook Finished of a task whose context ended", func(s *faultScene) {
			told := s.deadlyHook("Finished")
			ctx, cancel := context.WithCancelCause(context.Background())
			h, err := s.p.Submit(ctx, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
			require.NoError(s, err)
			cancel(errCalledOff)
			require.Equal(s, errCalledOff, h.Wait(context.Background()))
			s.requireTold(1, told)
			s.want.Submitted, s.want.Canceled = 1, 1
		}},
		{"hook WorkerDied", func(s *faultScene) {
			told := s.deadlyHook("WorkerDied")
			two(s, func() error { panic("x") })
			s.requireTold(2, told)
			s.want = faultStats{Submitted: 2, Failed: 2, Panics: 2, Replaced: 2}
		}},
		{"hook WorkerReplaced", func(s *faultScene) {
			told := s.deadlyHook("WorkerReplaced")
			two(s, func() error { runtime.Goexit(); return nil })
			s.requireTold(2, told)
			s.want = faultStats{Submitted: 2, Failed: 2, Goexits: 2, Replaced: 2}
		}},
		{"hook WorkerAbandoned", func(s *faultScene) {
			told := s.deadlyHook("WorkerAbandoned")
			h, release := s.hang(taskpool.Task{})
			require.ErrorIs(s, h.Wait(context.Background()), taskpool.ErrHung)
			s.requireTold(1, told)
			release()
			s.want = faultStats{Submitted: 1, Failed: 1, Hangs: 1, Replaced: 1}
		}},
		{"hook WorkerReplaced after a hang", func(s *faultScene) {
			told := s.deadlyHook("WorkerReplaced")
			h, release := s.hang(taskpool.Task{})
			require.ErrorIs(s, h.Wait(context.Background()), taskpool.ErrHung)
			s.requireTold(1, told)
			release()
			s.want = faultStats{Submitted: 1, Failed: 1, Hangs: 1, Replaced: 1}
		}},
		{"hook Finished of a task that was given up", func(s *faultScene) {
			told := s.deadlyHook("Finished")
			h, release := s.hang(taskpool.Task{})
			require.ErrorIs(s, h.Wait(context.Background()), taskpool.ErrHung)
			s.requireTold(1, told)
			release()
			s.want = faultStats{Submitted: 1, Failed: 1, Hangs: 1, Replaced: 1}
		}},
		{"Around before run", func(s *faultScene) {
			stands(s, around(s, func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				if err := s.f.die(); err != nil {
					return err // instead of run
				}
				return run(ctx)
			}, func() error { return nil }), nil)
		}},
		{"Around before a run that fails", func(s *faultScene) {
			stands(s, around(s, func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				if err := s.f.die(); err != nil {
					return err
				}
				return run(ctx)
			}, func() error { return pooltest.ErrTask }), pooltest.ErrTask)
		}},
		{"Around after run", func(s *faultScene) {
			stands(s, around(s, func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				assert.NoError(s, run(ctx))
				return s.f.die()
			}, func() error { return nil }), nil)
		}},
		{"Around after a run that failed", func(s *faultScene) {
			stands(s, around(s, func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				assert.Equal(s, pooltest.ErrTask, run(ctx))
				return s.f.die()
			}, func() error { return pooltest.ErrTask }), pooltest.ErrTask)
		}},
		{"Around after a run that panicked", func(s *faultScene) {
			h := around(s, func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error {
				_ = run(ctx)
				return s.f.die()
			}, func() error { panic(pooltest.ErrTask) })
			pe, ok := h.Err().(*taskpool.PanicError)
			require.True(s, ok, "the panic stands")
			require.Equal(s, pooltest.ErrTask, pe.Value)
			s.want.Failed, s.want.Panics = 1, 1
			s.want.Replaced = one(s.f.fatal() && s.f.end != faultReturns)
		}},
		{"Around in a defer", func(s *faultScene) {
			stands(s, around(s, func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) (err error) {
				defer func() { err = s.f.die() }()
				return run(ctx)
			}, func() error { return nil }), nil)
		}},
		{"Around in a defer while run exits", func(s *faultScene) {
			h := around(s, func(ctx context.Context, _ taskpool.TaskInfo, run func(context.Context) error) (err error) {
				defer func() { err = s.f.die() }()
				return run(ctx)
			}, func() error { runtime.Goexit(); return nil })
			require.Equal(s, taskpool.ErrGoexit, h.Err(), "the Goexit of Run stands")
			s.want.Failed, s.want.Goexits, s.want.Replaced = 1, 1, 1
		}},
		{"Around instead of run", func(s *faultScene) {
			h := around(s, func(context.Context, taskpool.TaskInfo, func(context.Context) error) error {
				return s.f.die()
			}, func() error { return nil })
			stands(s, h, nil) // the attempt goes on without a hook that died
		}},
		{"inner Around", func(s *faultScene) {
			h := around(s, func(ctx context.Context, info taskpool.TaskInfo, run func(context.Context) error) error {
				inner := func(ctx context.Context) error { // the next hook, as it were
					if err := run(ctx); err != nil {
						return err
					}
					return s.f.die()
				}
				return inner(ctx)
			}, func() error { return nil })
			stands(s, h, nil)
		}},
		{"Retry.If", func(s *faultScene) {
			h, n := policy(s, taskpool.Retry{If: func(error) bool { s.strike(); return true }})
			require.Equal(s, pooltest.ErrTask, h.Err())
			require.Equal(s, 1, n)
			s.want.Submitted, s.want.Failed = 1, 1
			s.workerLost()
		}},
		{"Retry.Backoff", func(s *faultScene) { // the default stands in
			began := time.Now()
			h, n := policy(s, taskpool.Retry{Backoff: func(int) time.Duration { s.strike(); return time.Hour }})
			require.NoError(s, h.Err())
			require.Equal(s, 2, n)
			require.LessOrEqual(s, time.Since(began), 100*time.Millisecond)
			s.succeeds(1)
			s.want.Retries = 1
			s.workerLost()
		}},
		{"Retry.If about a hang", func(s *faultScene) {
			s.pool()
			h, release := s.hang(taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { s.strike(); return true }}})
			require.ErrorIs(s, h.Wait(context.Background()), taskpool.ErrHung)
			release()
			require.EqualValues(s, 1, s.died.Load())
			s.want = faultStats{Submitted: 1, Failed: 1, Hangs: 1, Replaced: 1}
		}},
		{"Retry.Backoff after a hang", func(s *faultScene) {
			s.pool()
			h, release := s.hang(taskpool.Task{Retry: taskpool.Retry{MaxAttempts: 2, If: func(error) bool { return true },
				Backoff: func(int) time.Duration { s.strike(); return time.Hour }}})
			began := time.Now()
			require.NoError(s, h.Wait(context.Background()))
			require.LessOrEqual(s, time.Since(began), 2100*time.Millisecond, "timeout, grace and default backoff")
			release()
			require.EqualValues(s, 1, s.died.Load())
			s.want = faultStats{Submitted: 1, Succeeded: 1, Retries: 1, Hangs: 1, Replaced: 1}
		}},
		{"logger's Enabled", func(s *faultScene) {
			s.pool(s.deadlyLogger("Enabled"))
			require.Equal(s, pooltest.ErrTask, two(s, func() error { return pooltest.ErrTask }).Err())
			// It dies once more of the record about its death, unless that is not
			// made, as the panic's value does not let itself be printed.
			require.EqualValues(s, 2-one(s.f.fatal() && !s.f.void().lasting), s.died.Load())
			s.want.Submitted, s.want.Failed = 1, 1
			s.succeeds(1) // Go takes no error
			s.workerLost()
		}},
		{"logger's Handle", func(s *faultScene) {
			s.pool(s.deadlyLogger("Handle"))
			s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Run: s.run}))
			synctest.Wait()
			require.Positive(s, s.died.Load())
			s.fails()
			s.workerLost()
		}},
		{"logger's WithAttrs and WithGroup", func(s *faultScene) { // the pool has no need of them
			for _, method := range []string{"WithAttrs", "WithGroup"} {
				s.want = faultStats{}
				s.pool(s.deadlyLogger(method), taskpool.WithName("named"))
				s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Run: s.run}))
				synctest.Wait()
				require.Zero(s, s.died.Load())
				s.fails()
			}
		}},
		{"logger of the supervisor", func(s *faultScene) {
			s.pool(s.deadlyLogger("Handle"))
			h, release := s.hang(taskpool.Task{})
			require.ErrorIs(s, h.Wait(context.Background()), taskpool.ErrHung)
			release()
			require.Positive(s, s.died.Load())
			s.want = faultStats{Submitted: 1, Failed: 1, Hangs: 1, Replaced: 1}
		}},
		{"logger that is told of a hook's death", func(s *faultScene) {
			s.pool(s.deadlyLogger("Handle"), taskpool.WithHooks(taskpool.Hooks{Finished: func(taskpool.TaskEvent) {
				if s.armed.Load() {
					panic("hook")
				}
			}}))
			require.NoError(s, pooltest.Submit(s.T, s.p, taskpool.Task{Run: pooltest.Nop}).Wait(context.Background()))
			synctest.Wait()
			require.EqualValues(s, 1, s.died.Load())
			s.succeeds(1)
			s.want.Replaced = one(s.f.void().lasting) // nobody is told of the logger's
		}},
		{"logger of a success", func(s *faultScene) {
			for _, method := range []string{"Enabled", "Handle"} {
				s.want = faultStats{}
				s.pool(taskpool.WithLogger(slog.New(&faultHandler{s, method, true})))
				require.NoError(s, pooltest.Submit(s.T, s.p, taskpool.Task{Run: pooltest.Nop}).Wait(context.Background()))
				synctest.Wait()
				require.Positive(s, s.died.Load())
				s.succeeds(1)
				s.workerLost()
			}
		}},
		{"logger that looks at the error", func(s *faultScene) {
			s.pool(s.deadlyLogger("looks"))
			s.requireFailed(pooltest.Submit(s.T, s.p, taskpool.Task{Run: s.run}))
			synctest.Wait()
			s.fails()
			s.want.Replaced += one(s.f.evil != nil && s.f.evil.end == faultExits)
		}},
	})
}

// A faultContext is somebody's own context, of which one method dies while the
// scene is armed.
type faultContext struct {
	context.Context
	s      *faultScene
	method string
}

func (c *faultContext) in(method string) {
	if c.method == method {
		c.s.strike()
	}
}

func (c *faultContext) Deadline() (time.Time, bool) { c.in("Deadline"); return c.Context.Deadline() }
func (c *faultContext) Done() <-chan struct{}       { c.in("Done"); return c.Context.Done() }
func (c *faultContext) Err() error                  { c.in("Err"); return c.Context.Err() }
func (c *faultContext) Value(key any) any           { c.in("Value"); return c.Context.Value(key) }

// badContext starts the scene's pool and returns a context that behaves until
// the scene is armed again.
func (s *faultScene) badContext(method string) (*faultContext, context.CancelCauseFunc) {
	s.pool()
	s.armed.Store(false)
	std, cancel := context.WithCancelCause(context.Background())
	s.Cleanup(func() { cancel(nil) })
	return &faultContext{std, s, method}, cancel
}

// submitArmed submits a task with ctx, which dies from when the task runs.
func (s *faultScene) submitArmed(ctx context.Context, t taskpool.Task) *taskpool.Handle {
	s.Helper()
	run := t.Run
	t.Run = func(ctx context.Context) error { s.armed.Store(true); return run(ctx) }
	h, err := s.p.Submit(ctx, t)
	require.NoError(s, err)
	<-h.Done()
	synctest.Wait()
	return h
}

// What the pool does with a context that was given to it must harm nobody but,
// where it is asked on the caller's own goroutine, the caller.
func TestEveryDeathInAContextLeavesThePoolWhole(t *testing.T) {
	var places []faultPlace
	for _, method := range []string{"Deadline", "Done", "Err", "Value"} {
		place := func(name string, run func(s *faultScene)) {
			places = append(places, faultPlace{method + " " + name, run})
		}
		// asked says that the worker asks the context, so that a Goexit of it
		// costs the worker its goroutine.
		asked := func(s *faultScene, methods ...string) {
			for _, m := range methods {
				if m == method {
					require.Positive(s, s.died.Load(), "the context must have been asked")
					s.workerLost()
				}
			}
		}
		place("in Submit", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			s.armed.Store(true)
			submit := func() { _, _ = s.p.Submit(ctx, taskpool.Task{Run: pooltest.Nop}) }
			if method == "Deadline" { // the worker asks
				submit()
				synctest.Wait()
				s.succeeds(1)
				asked(s, method)
				return
			}
			s.requireDies(submit)
		})
		place("in Call", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			s.armed.Store(true)
			call := func() {
				_, _ = taskpool.Call(ctx, s.p, taskpool.Task{}, func(context.Context) (int, error) { return 0, nil })
			}
			if method == "Deadline" {
				call()
				s.succeeds(1)
				asked(s, method)
				return
			}
			s.requireDies(call)
		})
		place("in Submit in a task", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			h := pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(context.Context) error {
				s.armed.Store(true)
				_, err := s.p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
				return err
			}})
			<-h.Done()
			synctest.Wait()
			if method == "Deadline" {
				require.NoError(s, h.Err())
				s.succeeds(2)
				asked(s, method)
				return
			}
			s.f = s.f.void()
			s.requireFailed(h)
			s.fails()
		})
		place("once an attempt fails", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			h := s.submitArmed(ctx, taskpool.Task{Run: func(context.Context) error { return pooltest.ErrTask }})
			require.Equal(s, pooltest.ErrTask, h.Err())
			s.want.Submitted, s.want.Failed = 1, 1
			asked(s, "Deadline", "Done", "Err", "Value")
		})
		place("once an attempt fails that asked its context", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			h := s.submitArmed(ctx, taskpool.Task{Run: func(ctx context.Context) error {
				s.armed.Store(false)
				<-time.After(time.Second)
				assert.NoError(s, ctx.Err())
				s.armed.Store(true)
				return pooltest.ErrTask
			}})
			require.Equal(s, pooltest.ErrTask, h.Err())
			s.want.Submitted, s.want.Failed = 1, 1
			asked(s, "Deadline", "Done", "Err", "Value")
			asked(s, "Done", "Value") // once for the attempt's context, once for the interest in the task's
		})
		place("once an attempt succeeds", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			h := s.submitArmed(ctx, taskpool.Task{Run: pooltest.Nop})
			require.NoError(s, h.Err())
			s.succeeds(1)
			asked(s, "Done", "Value")
		})
		place("when the task is given up", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			gate, release := s.gate()
			h := s.submitArmed(ctx, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { <-gate; return nil }})
			require.ErrorIs(s, h.Err(), taskpool.ErrHung)
			release()
			s.want = faultStats{Submitted: 1, Failed: 1, Hangs: 1, Replaced: 1}
		})
		place("that ends while the task is queued", func(s *faultScene) {
			ctx, cancel := s.badContext(method)
			release := s.fill()
			h, err := s.p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			require.NoError(s, err)
			s.armed.Store(true)
			cancel(errCalledOff)
			synctest.Wait()
			require.Equal(s, taskpool.StateCanceled, h.State())
			if method == "Err" || method == "Value" { // the cause could not be had
				require.Equal(s, context.Canceled, h.Err())
			} else {
				require.Equal(s, errCalledOff, h.Err())
			}
			release()
			s.want.Submitted++
			s.want.Canceled++
		})
		place("given to Wait", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			h := pooltest.Submit(s.T, s.p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
			s.armed.Store(true)
			wait := func() { _ = h.Wait(ctx) }
			if method == "Deadline" {
				wait()
			} else {
				s.requireDies(wait)
			}
			require.NoError(s, h.Wait(context.Background()))
			s.succeeds(1)
		})
		place("given to Wait in a task", func(s *faultScene) {
			std, _ := s.badContext(method)
			child := pooltest.Submit(s.T, s.p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
			h := pooltest.Submit(s.T, s.p, taskpool.Task{Run: func(ctx context.Context) error {
				s.armed.Store(true)
				std.Context = ctx
				return child.Wait(std)
			}})
			<-h.Done()
			if s.succeeds(1); method == "Deadline" {
				require.NoError(s, h.Err())
				s.succeeds(1)
			} else {
				s.f = s.f.void()
				s.requireFailed(h)
				s.fails()
			}
			require.NoError(s, child.Wait(context.Background()))
		})
		place("given to WaitIdle", func(s *faultScene) {
			ctx, _ := s.badContext(method)
			release := s.fill()
			s.armed.Store(true)
			if method == "Done" || method == "Value" {
				s.requireDies(func() { _ = s.p.WaitIdle(ctx) })
			}
			release()
		})
		place("given to Shutdown", func(s *faultScene) { // it has begun, and another call ends it
			ctx, _ := s.badContext(method)
			release := s.fill()
			s.armed.Store(true)
			if method == "Done" || method == "Value" {
				s.requireDies(func() { _ = s.p.Shutdown(ctx) })
			}
			s.armed.Store(false)
			require.Equal(s, method == "Done", s.p.Stats().Closed)
			s.want.Replaced = 0
			if method != "Done" {
				release()
				return
			}
			down := make(chan error, 1)
			go func() { down <- s.p.Shutdown(context.Background()) }()
			release()
			require.NoError(s, <-down)
			s.pool() // a fresh one for the rest of the checks
			s.want = faultStats{}
		})
	}
	crossFaults(t, 48, places)
}

// childEnv has a test run its risky part, as a child process.
const childEnv = "TASKPOOL_FAULT_CHILD"

// inChild runs f in a process of its own, for what would take down the tests.
func inChild(t *testing.T, f func(t *testing.T)) {
	if os.Getenv(childEnv) == t.Name() {
		f(t)
		return
	}
	name := strings.Split(t.Name(), "/")
	for i := range name {
		name[i] = "^" + name[i] + "$"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(name, "/"), "-test.v", "-test.count=1", "-test.timeout=30s")
	cmd.Env = append(os.Environ(), childEnv+"="+t.Name())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "the process must live:\n%.3000s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "it must have run")
}

// TestContextThatDiesWhileItsTaskWaitsForRoomHarmsNobodyElse has the context of a submitter that
// waits for room die: that ends the submitter, and the process lives.
func TestContextThatDiesWhileItsTaskWaitsForRoomHarmsNobodyElse(t *testing.T) {
	for _, method := range []string{"Done", "Err"} {
		for _, f := range []*fault{faults(false)[0], faults(false)[16]} { // panic, Goexit
			t.Run(method+"_"+strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
				inChild(t, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := &faultScene{T: t, f: f}
						s.pool(taskpool.WithCapacity(1, taskpool.OverflowWait))
						s.armed.Store(false)
						std, cancel := context.WithCancel(context.Background())
						defer cancel()
						ctx := &faultContext{std, s, method}
						release := s.fill()
						pooltest.Submit(t, s.p, taskpool.Task{Run: pooltest.Nop}) // there is no more room
						s.succeeds(1)
						if method == "Err" {
							go func() { time.Sleep(time.Second); s.armed.Store(true); cancel() }()
						} else {
							ctx.Context = &armsAtDone{std, s, new(atomic.Int32)}
						}
						s.requireDies(func() { _, _ = s.p.Submit(ctx, taskpool.Task{Run: pooltest.Nop}) })
						s.armed.Store(false)
						require.Zero(t, s.p.Stats().SubmittersWaiting, "who died waits no longer")
						release()
						s.requireSurvived()
					})
				})
			})
		}
	}
}

// armsAtDone arms the scene when Done has been asked for as often as Submit
// does before it waits.
type armsAtDone struct {
	context.Context
	s     *faultScene
	asked *atomic.Int32
}

func (c *armsAtDone) Done() <-chan struct{} {
	if c.asked.Add(1) == 3 { // by Submit, by AfterFunc and by its parent's lookup
		c.s.armed.Store(true)
	}
	return c.Context.Done()
}

// A group whose first error does harm must take the next member, or refuse it,
// and still be waited for.
func TestGroupWithADeadlyErrorCanBeWaitedFor(t *testing.T) {
	for _, end := range []faultEnd{faultPanics, faultExits} {
		for _, asks := range []string{"Error", "Is", "Unwrap", "Unwraps"} {
			t.Run(asks+"_"+end.String(), func(t *testing.T) {
				inChild(t, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						err := newEvilError(&evil{asks, end})
						p := pooltest.New(t, taskpool.WithWorkers(2))
						g := p.Group(context.Background(), taskpool.Task{})
						g.Go(func(context.Context) error { return err })
						synctest.Wait()
						ended, _ := fateOf(func() { g.Go(pooltest.Nop) })
						require.NotEqual(t, faultPanics, ended, "a panic in an error's method is contained")
						require.True(t, g.Wait() == err)
						pooltest.RequireWhole(t, p, 2)
					})
				})
			})
		}
	}
}

// A panic in a context's method ends Group.Go's caller, and the member is none.
func TestGroupCanBeWaitedForAfterItsContextDied(t *testing.T) {
	for _, f := range []*fault{faults(false)[0], faults(false)[16]} {
		t.Run(strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
			inChild(t, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &faultScene{T: t, f: f}
					ctx, _ := s.badContext("Value")
					g := s.p.Group(ctx, taskpool.Task{})
					s.armed.Store(true)
					s.requireDies(func() { g.Go(pooltest.Nop) })
					s.armed.Store(false)
					_ = g.Wait() // returns
					s.requireSurvived()
				})
			})
		})
	}
}

// A Goexit in a context's Value must not keep the end of the context from the
// task: when that ends before the task has started, it never runs.
func TestGoexitInAContextThatEndsCancelsTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &faultScene{T: t, f: &fault{die: func() error { runtime.Goexit(); return nil }, end: faultExits, lasting: true}}
		ctx, cancel := s.badContext("Value")
		release := s.fill()
		h, err := s.p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, err)
		s.armed.Store(true)
		cancel(errCalledOff)
		synctest.Wait()
		state := h.State()
		s.armed.Store(false)
		release()
		require.Equal(t, taskpool.StateCanceled, state)
	})
}

// A task whose wait died of its context's Done, and that recovers, has its slot.
func TestTaskHasItsSlotAfterAWaitThatPanicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &faultScene{T: t, f: faults(false)[0]}
		bad, _ := s.badContext("Done")
		child := pooltest.Submit(t, s.p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: pooltest.Nop})
		var state taskpool.State
		h := pooltest.Submit(t, s.p, taskpool.Task{Run: func(ctx context.Context) error {
			bad.Context = ctx
			s.armed.Store(true)
			faultRecovered(func() { _ = child.Wait(bad) })
			s.armed.Store(false)
			info, _ := taskpool.Current(ctx)
			state = info.State
			return nil
		}})
		require.NoError(t, h.Wait(context.Background()))
		require.NoError(t, child.Wait(context.Background()))
		require.Equal(t, taskpool.StateRunning, state)
		s.succeeds(2)
		s.requireSurvived()
	})
}

func TestTenThousandDeathsLeaveFourWorkersAndNoGoroutine(t *testing.T) {
	deaths := pooltest.Times(10_000, 2_000)
	const workers = 4
	all := faults(false)
	for _, atOnce := range []bool{false, true} {
		t.Run(fmt.Sprintf("at once=%v", atOnce), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(workers))
				var want faultStats
				for i := range deaths {
					f := all[i%len(all)].void() // nobody returns
					want.Panics += one(f.end == faultPanics)
					want.Goexits += one(f.end == faultExits)
					var done <-chan struct{}
					if i/len(all)%2 == 0 {
						done = pooltest.Submit(t, p, taskpool.Task{Run: func(context.Context) error { return f.die() }}).Done()
					} else {
						require.NoError(t, p.Go(taskpool.Low, func() { _ = f.die() }))
					}
					if atOnce {
						continue
					}
					if done != nil {
						<-done
					}
					synctest.Wait()
					require.Equal(t, workers, p.Stats().Goroutines, "after death %d", i)
				}
				require.NoError(t, p.WaitIdle(context.Background()))
				synctest.Wait()
				st := p.Stats()
				require.EqualValues(t, deaths, st.Failed)
				require.EqualValues(t, deaths, st.Replaced)
				require.Equal(t, want.Panics, st.Panics)
				require.Equal(t, want.Goexits, st.Goexits)
				pooltest.RequireWhole(t, p, workers)
				require.NoError(t, p.Shutdown(context.Background()))
				synctest.Wait()
				require.Zero(t, p.Stats().Goroutines)
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				require.NotContains(t, string(stacks), "taskpool.(*worker)", "a worker's goroutine is left")
				require.NotContains(t, string(stacks), "taskpool.(*Pool).supervise")
			})
		})
	}
}
