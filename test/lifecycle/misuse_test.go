package lifecycle_test

import (
	"context"
	"iter"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// A misuse is a call that cannot be meant, and what it says: as its error or, if panics is
// set, by a panic.
type misuse struct {
	call   func() error
	says   string
	panics bool
}

func (m misuse) check(t *testing.T) {
	t.Helper()
	panicked := true
	err := func() (err error) {
		defer func() {
			if panicked {
				require.Equal(t, m.says, recover())
			}
		}()
		err = m.call()
		panicked = false
		return err
	}()
	require.Equal(t, m.panics, panicked, m.says)
	if !panicked {
		require.EqualError(t, err, m.says)
	}
}

// errorOf drops what comes with an error.
func errorOf[T any](_ T, err error) error { return err }

// lastOf returns the error of the only pair.
func lastOf[R any](t *testing.T, seq iter.Seq2[R, error]) error {
	all := pooltest.PairsOf(seq)
	require.Len(t, all, 1)
	require.Zero(t, all[0].V)
	return all[0].Err
}

func noError(f func()) func() error {
	return func() error { f(); return nil }
}

func answer(context.Context) (int, error) { return 42, nil }

func TestNilContextsAndFunctionsAreRefusedByName(t *testing.T) {
	p := pooltest.New(t)
	h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.Nop})
	fut, err := taskpool.SubmitFunc(t.Context(), p, taskpool.Task{}, answer)
	require.NoError(t, err)
	g := p.Group(t.Context(), taskpool.Task{})
	require.NoError(t, p.WaitIdle(t.Context()))
	before := p.Stats()
	var none context.Context
	ctx, task := t.Context(), taskpool.Task{Run: pooltest.MustNotRun}
	all := []misuse{
		{func() error { return p.Go(0, nil) }, "taskpool: Go: f must not be nil", false},
		{func() error { return errorOf(p.Submit(none, task)) }, "taskpool: Submit: ctx must not be nil", false},
		{func() error { return errorOf(p.Submit(ctx, taskpool.Task{})) }, "taskpool: Submit: Task.Run must not be nil", false},
		{func() error { return errorOf(p.TrySubmit(none, task)) }, "taskpool: TrySubmit: ctx must not be nil", false},
		{func() error { return errorOf(p.TrySubmit(ctx, taskpool.Task{})) }, "taskpool: TrySubmit: Task.Run must not be nil", false},
		{func() error { return errorOf(p.SubmitWithin(none, ctx, task)) }, "taskpool: SubmitWithin: wait must not be nil", false},
		{func() error { return errorOf(p.SubmitWithin(ctx, none, task)) }, "taskpool: SubmitWithin: ctx must not be nil", false},
		{func() error { return errorOf(p.SubmitWithin(ctx, ctx, taskpool.Task{})) }, "taskpool: SubmitWithin: Task.Run must not be nil", false},
		{func() error { return p.WaitRunning(none) }, "taskpool: WaitRunning: ctx must not be nil", false},
		{func() error { return p.WaitIdle(none) }, "taskpool: WaitIdle: ctx must not be nil", false},
		{func() error { return p.Shutdown(none) }, "taskpool: Shutdown: ctx must not be nil", false},
		{noError(func() { p.Group(none, taskpool.Task{}) }), "taskpool: Group: ctx must not be nil", true},
		{noError(func() { g.Go(nil) }), "taskpool: Group.Go: f must not be nil", true},
		{func() error { return h.Wait(none) }, "taskpool: Handle.Wait: ctx must not be nil", false},
		{func() error { return errorOf(fut.Get(none)) }, "taskpool: Future.Get: ctx must not be nil", false},
		{func() error { return errorOf(taskpool.SubmitFunc(none, p, taskpool.Task{}, answer)) }, "taskpool: SubmitFunc: ctx must not be nil", false},
		{func() error { return errorOf(taskpool.SubmitFunc[int](ctx, p, taskpool.Task{}, nil)) }, "taskpool: SubmitFunc: f must not be nil", false},
		{func() error { return errorOf(taskpool.Call(none, p, taskpool.Task{}, answer)) }, "taskpool: Call: ctx must not be nil", false},
		{func() error { return errorOf(taskpool.Call[int](ctx, p, taskpool.Task{}, nil)) }, "taskpool: Call: f must not be nil", false},
		{func() error {
			return lastOf(t, taskpool.Map(none, p, taskpool.Task{}, pooltest.UpTo(3), pooltest.Square))
		}, "taskpool: Map: ctx must not be nil", false},
		{func() error { return lastOf(t, taskpool.Map(ctx, p, taskpool.Task{}, nil, pooltest.Square)) }, "taskpool: Map: in must not be nil", false},
		{func() error { return lastOf(t, taskpool.Map[int, int](ctx, p, taskpool.Task{}, pooltest.UpTo(3), nil)) }, "taskpool: Map: f must not be nil", false},
		{func() error {
			return lastOf(t, taskpool.MapLimit(none, p, 1, taskpool.Task{}, pooltest.UpTo(3), pooltest.Square))
		}, "taskpool: MapLimit: ctx must not be nil", false},
		{func() error { return taskpool.Yield(none) }, "taskpool: Yield: ctx must not be nil", false},
		{func() error { return taskpool.Block(none, func() error { panic("must not be called") }) }, "taskpool: Block: ctx must not be nil", false},
		{func() error { return taskpool.Block(ctx, nil) }, "taskpool: Block: f must not be nil", false},
		{noError(func() { taskpool.Beat(none) }), "taskpool: Beat: ctx must not be nil", true},
		{noError(func() { taskpool.Current(none) }), "taskpool: Current: ctx must not be nil", true},
		{noError(func() { taskpool.Detach(none) }), "taskpool: Detach: ctx must not be nil", true},
	}
	for _, m := range all {
		m.check(t)
	}
	after := p.Stats()
	require.Equal(t, before.Submitted, after.Submitted, "nothing was started")
	require.NoError(t, g.Wait(), "the group has no member")
	require.Equal(t, 42, func() int { v, err := fut.Get(ctx); require.NoError(t, err); return v }())
	// Inside a task too.
	require.NoError(t, pooltest.Submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
		for _, m := range all {
			m.check(t)
		}
		misuse{func() error { return taskpool.Block(ctx, nil) }, "taskpool: Block: f must not be nil", false}.check(t)
		return taskpool.Yield(ctx)
	}}).Wait(ctx))
	pooltest.RequireWorkers(t, p, p.Stats().Workers)
}

// poolCalls are the calls with a pool.
func poolCalls(p *taskpool.Pool) map[string]func() error {
	ctx := context.Background()
	return map[string]func() error{
		"Go":           func() error { return p.Go(0, func() { panic("must not run") }) },
		"Submit":       func() error { return errorOf(p.Submit(ctx, taskpool.Task{Run: pooltest.MustNotRun})) },
		"TrySubmit":    func() error { return errorOf(p.TrySubmit(ctx, taskpool.Task{Run: pooltest.MustNotRun})) },
		"SubmitWithin": func() error { return errorOf(p.SubmitWithin(ctx, ctx, taskpool.Task{Run: pooltest.MustNotRun})) },
		"WaitIdle":     func() error { return p.WaitIdle(ctx) },
		"WaitRunning":  func() error { return p.WaitRunning(ctx) },
		"Resize":       func() error { return p.Resize(1) },
		"Shutdown":     func() error { return p.Shutdown(ctx) },
		"Health":       func() error { return p.Health() },
		"SubmitFunc":   func() error { return errorOf(taskpool.SubmitFunc(ctx, p, taskpool.Task{}, answer)) },
		"Call":         func() error { return errorOf(taskpool.Call(ctx, p, taskpool.Task{}, answer)) },
		"Map": func() error {
			for _, err := range taskpool.Map(ctx, p, taskpool.Task{}, pooltest.UpTo(3), pooltest.Square) {
				return err
			}
			return nil
		},
		"MapLimit": func() error {
			for _, err := range taskpool.MapLimit(ctx, p, 1, taskpool.Task{}, pooltest.UpTo(3), pooltest.Square) {
				return err
			}
			return nil
		},
		"Group":     noError(func() { p.Group(ctx, taskpool.Task{}) }),
		"Pause":     noError(func() { p.Pause() }),
		"Resume":    noError(func() { p.Resume() }),
		"Stats":     noError(func() { p.Stats() }),
		"Tasks":     noError(func() { p.Tasks() }),
		"Stack":     noError(func() { p.Stack(1) }),
		"Name":      noError(func() { _ = p.Name() }),
		"HangGrace": noError(func() { p.HangGrace() }),
		"Inside":    noError(func() { p.Inside(ctx) }),
	}
}

var callsWithoutError = map[string]bool{"Group": true, "Pause": true, "Resume": true, "Stats": true, "Tasks": true,
	"Stack": true, "Name": true, "HangGrace": true, "Inside": true}

func TestPoolsThatNewHasNotReturnedAreRefused(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	// As *p would, without a complaint of vet about it, and before anything runs in it.
	copied := copyOf(p)
	require.NoError(t, p.Go(0, func() {}))
	require.NoError(t, p.WaitIdle(t.Context()))
	for got, bad := range map[string]*taskpool.Pool{"nil": nil, "a zero Pool": {}, "a copy": copied} {
		t.Run(got, func(t *testing.T) {
			for name, call := range poolCalls(bad) {
				misuse{call, "taskpool: " + name + ": the Pool must be one that New has returned, got " + got, callsWithoutError[name]}.check(t)
			}
		})
	}
	require.NoError(t, p.Go(0, func() {}), "the pool itself is none the worse")
	require.NoError(t, p.WaitIdle(t.Context()))
	require.EqualValues(t, 2, p.Stats().Succeeded)
}

func TestHandlesGroupsAndFuturesOfNobodyAreRefused(t *testing.T) {
	ctx := context.Background()
	for got, h := range map[string]*taskpool.Handle{"nil": nil, "a zero Handle": {}} {
		for name, call := range map[string]func(){
			"Done": func() { h.Done() }, "Err": func() { _ = h.Err() }, "State": func() { h.State() },
			"ID": func() { h.ID() }, "Info": func() { h.Info() },
			"Cancel": func() { h.Cancel(nil) }, "SetPriority": func() { h.SetPriority(0) },
		} {
			misuse{noError(call), "taskpool: Handle." + name + ": the Handle must be one that Submit has returned, got " + got, true}.check(t)
		}
		misuse{func() error { return h.Wait(ctx) }, "taskpool: Handle.Wait: the Handle must be one that Submit has returned, got " + got, false}.check(t)
	}
	for got, g := range map[string]*taskpool.Group{"nil": nil, "a zero Group": {}} {
		const must = ": the Group must be one that Pool.Group has returned, got "
		misuse{noError(func() { g.Go(pooltest.MustNotRun) }), "taskpool: Group.Go" + must + got, true}.check(t)
		misuse{noError(func() { g.SetLimit(1) }), "taskpool: Group.SetLimit" + must + got, true}.check(t)
		misuse{noError(func() { g.GoTask(taskpool.Task{}) }), "taskpool: Group.GoTask" + must + got, true}.check(t)
		misuse{noError(func() { g.CollectErrors() }), "taskpool: Group.CollectErrors" + must + got, true}.check(t)
		misuse{func() error { return g.Wait() }, "taskpool: Group.Wait" + must + got, false}.check(t)
	}
	for _, f := range []*taskpool.Future[int]{nil, {}} {
		misuse{func() error { return errorOf(f.Get(ctx)) },
			"taskpool: Future.Get: the Future must be one that SubmitFunc has returned, got nil or a zero Future", false}.check(t)
		const must = ": the Future must be one that SubmitFunc has returned, got nil or a zero Future"
		misuse{func() error { return f.Wait(ctx) }, "taskpool: Future.Wait" + must, false}.check(t)
		for name, call := range map[string]func(){
			"Done": func() { f.Done() }, "Err": func() { _ = f.Err() }, "State": func() { f.State() },
			"ID": func() { f.ID() }, "Info": func() { f.Info() },
			"Cancel": func() { f.Cancel(nil) }, "SetPriority": func() { f.SetPriority(0) },
		} {
			misuse{noError(call), "taskpool: Future." + name + must, true}.check(t)
		}
	}
}

// A handle's method that a Future lacks would be a nil dereference with a nil Future.
func TestFutureHasAllMethodsOfItsHandleByItself(t *testing.T) {
	handle, future := reflect.TypeFor[*taskpool.Handle](), reflect.TypeFor[taskpool.Future[int]]()
	for i := range handle.NumMethod() {
		name := handle.Method(i).Name
		_, promoted := future.MethodByName(name) // to the value, which has none of its own
		switch name {
		case "Waiting": // is for tests alone
		case "String", "GoString", "LogValue": // print a Future that is no pointer too; for a nil one, fmt has an answer
		default:
			require.False(t, promoted, name)
		}
	}
}

func TestSubmissionsThatContextsRefuseNameTheirCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowWait))
		task := taskpool.Task{Run: pooltest.MustNotRun}
		run := func(context.Context) (int, error) { panic("must not run") }
		bg := context.Background()
		calls := map[string]func(context.Context) error{
			"Submit":       func(ctx context.Context) error { return errorOf(p.Submit(ctx, task)) },
			"TrySubmit":    func(ctx context.Context) error { return errorOf(p.TrySubmit(ctx, task)) },
			"SubmitWithin": func(ctx context.Context) error { return errorOf(p.SubmitWithin(ctx, bg, task)) },
			"SubmitFunc":   func(ctx context.Context) error { return errorOf(taskpool.SubmitFunc(ctx, p, taskpool.Task{}, run)) },
			"Call":         func(ctx context.Context) error { return errorOf(taskpool.Call(ctx, p, taskpool.Task{}, run)) },
			"Group.Go": func(ctx context.Context) error {
				g := p.Group(ctx, taskpool.Task{})
				g.Go(pooltest.MustNotRun)
				return g.Wait()
			},
		}
		over, cancel := context.WithCancel(bg)
		cancel()
		for name, call := range calls {
			require.EqualError(t, call(over), "taskpool: "+name+": context is over: context canceled")
		}
		require.EqualError(t, errorOf(p.SubmitWithin(bg, over, task)), "taskpool: SubmitWithin: context is over: context canceled")

		// The same where it ends while they wait for room, outside of tasks and inside.
		free := make(chan struct{})
		require.NoError(t, p.Go(0, func() { <-free }))
		synctest.Wait()
		other := pooltest.New(t, taskpool.WithWorkers(1))
		for name, call := range calls {
			if name == "TrySubmit" {
				continue
			}
			ctx, cancel := context.WithTimeout(bg, time.Second)
			require.EqualError(t, call(ctx), "taskpool: "+name+": context is over: context deadline exceeded")
			cancel()
			h := pooltest.Submit(t, other, taskpool.Task{Timeout: time.Second, Run: func(context.Context) error { return call(bg) }})
			require.ErrorContains(t, h.Wait(bg), "taskpool: "+name+": the context of the task that waits is over: taskpool: attempt timed out")
		}
		close(free)
	})
}

func TestAHookThatRunsWithANilContextIsTold(t *testing.T) {
	p := pooltest.New(t, taskpool.WithHooks(taskpool.Hooks{
		Around: func(_ context.Context, _ taskpool.TaskInfo, run func(context.Context) error) error { return run(nil) },
	}))
	h := pooltest.Submit(t, p, taskpool.Task{Run: pooltest.MustNotRun})
	require.EqualError(t, h.Wait(t.Context()), "taskpool: hook Around called run with a nil context")
}

// copyOf returns a copy of *p, without a complaint of vet about it.
func copyOf[T any](p *T) *T {
	c := reflect.New(reflect.TypeFor[T]()).Elem()
	c.Set(reflect.ValueOf(p).Elem())
	return c.Addr().Interface().(*T)
}

func TestCopiesOfHandlesAndGroupsAreRefused(t *testing.T) {
	ctx := context.Background()
	p := pooltest.New(t, taskpool.WithWorkers(1))
	p.Pause()
	const must = ": the Handle must be one that Submit has returned, got a copy"
	for _, with := range []context.Context{ctx, t.Context()} { // two ways to make a handle
		h, err := p.Submit(with, taskpool.Task{Run: pooltest.Nop})
		require.NoError(t, err)
		c := copyOf(h)
		for name, call := range map[string]func(){
			"Done": func() { c.Done() }, "Err": func() { _ = c.Err() }, "State": func() { c.State() },
			"ID": func() { c.ID() }, "Info": func() { c.Info() },
			"Cancel": func() { c.Cancel(nil) }, "SetPriority": func() { c.SetPriority(0) },
		} {
			misuse{noError(call), "taskpool: Handle." + name + must, true}.check(t)
		}
		misuse{func() error { return c.Wait(ctx) }, "taskpool: Handle.Wait" + must, false}.check(t)
		require.Equal(t, taskpool.StateQueued, h.State(), "the task is none the worse")
	}
	g := p.Group(ctx, taskpool.Task{})
	g.Go(pooltest.Nop)
	c := copyOf(g)
	const mustGroup = ": the Group must be one that Pool.Group has returned, got a copy"
	misuse{noError(func() { c.Go(pooltest.MustNotRun) }), "taskpool: Group.Go" + mustGroup, true}.check(t)
	misuse{noError(func() { c.SetLimit(1) }), "taskpool: Group.SetLimit" + mustGroup, true}.check(t)
	misuse{noError(func() { c.GoTask(taskpool.Task{}) }), "taskpool: Group.GoTask" + mustGroup, true}.check(t)
	misuse{noError(func() { c.CollectErrors() }), "taskpool: Group.CollectErrors" + mustGroup, true}.check(t)
	misuse{func() error { return c.Wait() }, "taskpool: Group.Wait" + mustGroup, false}.check(t)
	p.Resume()
	require.NoError(t, g.Wait())
	require.NoError(t, p.WaitIdle(ctx))
}

func TestCopyOfAFutureHasItsResult(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(1))
	p.Pause()
	fut, err := taskpool.SubmitFunc(t.Context(), p, taskpool.Task{}, answer)
	require.NoError(t, err)
	early := *fut
	p.Resume()
	want, err := fut.Get(t.Context())
	require.NoError(t, err)
	require.NotZero(t, want)
	late := *fut
	for _, f := range []*taskpool.Future[int]{&early, &late} {
		v, err := f.Get(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	_, err = (&taskpool.Future[int]{Handle: fut.Handle}).Get(t.Context())
	require.EqualError(t, err, "taskpool: Future.Get: the Future must be one that SubmitFunc has returned, got nil or a zero Future")
}
