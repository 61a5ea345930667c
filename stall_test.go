package taskpool_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

// stalls returns the records that tell that a pool stands still.
func stalls(l *logRecorder, msg string) (found []slog.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.records {
		if r.Message == msg {
			found = append(found, r)
		}
	}
	return found
}

const (
	nothingMoves = "taskpool: nothing moves: all slots are held, none has come to a safe point, and tasks wait"
	inACircle    = "taskpool: tasks wait for each other"
)

func attrOf(r slog.Record, key string) (v slog.Value) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			v = a.Value
		}
		return true
	})
	return v
}

func TestAPoolInWhichNothingMovesSaysSoOnceAndInHealthWhileItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logRecorder
		p := newPool(t, taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second))
		gate := make(chan struct{})
		for _, name := range []string{"a", "b"} { // each waits for what only the third could bring about
			submit(t, p, taskpool.Task{Name: name, Run: func(context.Context) error { <-gate; return nil }})
		}
		time.Sleep(10 * time.Second)
		require.NoError(t, p.Health(), "nothing waits")
		require.False(t, p.Stats().Stalled)
		submit(t, p, taskpool.Task{Name: "c", Run: func(context.Context) error { close(gate); return nil }})
		time.Sleep(time.Second - 1)
		require.NoError(t, p.Health(), "not for long enough")
		time.Sleep(time.Hour)
		require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
		require.True(t, p.Stats().Stalled)
		told := stalls(&log, nothingMoves)
		require.Len(t, told, 1)
		require.Equal(t, slog.LevelWarn, told[0].Level)
		require.EqualValues(t, 1, attrOf(told[0], "queued").Int64())
		running := attrOf(told[0], "running").Any().([]string)
		require.Len(t, running, 2)
		require.Contains(t, fmt.Sprint(running), `task 1 "a" for `)
		require.Contains(t, fmt.Sprint(running), `task 2 "b" for `)
		require.NoError(t, p.Resize(3)) // is what helps
		synctest.Wait()
		require.NoError(t, p.Health())
		require.False(t, p.Stats().Stalled)
		require.NoError(t, p.WaitIdle(patience(t)))
	})
}

func TestAPoolThatMovesDoesNotSayThatItStandsStill(t *testing.T) {
	for name, task := range map[string]func(ctx context.Context){
		"Yield": func(ctx context.Context) { time.Sleep(300 * time.Millisecond); _ = taskpool.Yield(ctx) },
		"Beat":  func(ctx context.Context) { time.Sleep(300 * time.Millisecond); taskpool.Beat(ctx) },
		"Block": func(ctx context.Context) {
			_ = taskpool.Block(ctx, func() error { time.Sleep(300 * time.Millisecond); return nil })
		},
		"a derived one": func(ctx context.Context) {
			time.Sleep(300 * time.Millisecond)
			_ = taskpool.Yield(context.WithValue(ctx, waitKey{}, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logRecorder
				p := newPool(t, taskpool.WithWorkers(1), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second))
				submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
					for range 100 {
						task(ctx)
					}
					return nil
				}})
				submit(t, p, taskpool.Task{Priority: taskpool.Low, Run: nop})
				for range 40 {
					time.Sleep(time.Second)
					require.NoError(t, p.Health())
				}
				require.Empty(t, stalls(&log, nothingMoves))
				require.NoError(t, p.WaitIdle(patience(t)))
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // many short tasks, and a pause
		var log logRecorder
		p := newPool(t, taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second))
		for range 200 {
			require.NoError(t, p.Go(taskpool.Medium, func() { time.Sleep(100 * time.Millisecond) }))
		}
		time.Sleep(5 * time.Second)
		p.Pause()
		time.Sleep(5 * time.Second)
		require.NoError(t, p.Health())
		p.Resume()
		require.NoError(t, p.WaitIdle(patience(t)))
		require.Empty(t, stalls(&log, nothingMoves))
	})
}

func TestTasksThatWaitForEachOtherAreNamedOnceAndShownInHealth(t *testing.T) {
	type ring func(p, other *taskpool.Pool) (cancel func())
	handles := func(in func(i int, p, other *taskpool.Pool) *taskpool.Pool, n int) ring {
		return func(p, other *taskpool.Pool) func() {
			all := make([]*taskpool.Handle, n)
			ready := make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			for i := range n {
				all[i], _ = in(i, p, other).Submit(ctx, taskpool.Task{Name: fmt.Sprint("ring ", i), Run: func(ctx context.Context) error {
					<-ready
					return all[(i+1)%n].Wait(ctx)
				}})
			}
			close(ready)
			return cancel
		}
	}
	for name, c := range map[string]struct {
		ring  ring
		names []string
	}{
		"two": {handles(func(_ int, p, _ *taskpool.Pool) *taskpool.Pool { return p }, 2),
			[]string{`task 1 "ring 0" waits for task 2 "ring 1"`, `task 2 "ring 1" waits for task 1 "ring 0"`}},
		"five": {handles(func(_ int, p, _ *taskpool.Pool) *taskpool.Pool { return p }, 5), []string{`"ring 4" waits for task 1 "ring 0"`}},
		"through two pools": {handles(func(i int, p, other *taskpool.Pool) *taskpool.Pool {
			if i%2 == 0 {
				return p
			}
			return other
		}, 4), []string{`"ring 3" waits for task 1 "ring 0"`}},
		"a child that waits for the group of its parent": {func(p, _ *taskpool.Pool) func() {
			ctx, cancel := context.WithCancel(context.Background())
			_, _ = p.Submit(ctx, taskpool.Task{Name: "maker", Run: func(ctx context.Context) error {
				g := p.Group(ctx, taskpool.Task{Name: "member"})
				g.Go(func(ctx context.Context) error {
					_, err := taskpool.Call(ctx, p, taskpool.Task{Name: "child"}, func(context.Context) (int, error) { return 0, g.Wait() })
					return err
				})
				return g.Wait()
			}})
			return cancel
		}, []string{`"maker" waits for the members of a group`, `"member" waits for task 3 "child"`, `"child" waits for the members of a group`}},
		"members that wait for the limit of their group": {func(p, _ *taskpool.Pool) func() {
			ctx, cancel := context.WithCancel(context.Background())
			g := p.Group(ctx, taskpool.Task{Name: "member"})
			g.SetLimit(2)
			ready := make(chan struct{})
			for range 2 {
				g.Go(func(context.Context) error { <-ready; g.Go(nop); return nil })
			}
			close(ready)
			return cancel
		}, []string{`"member" waits for the limit of a group`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logRecorder
				opts := []taskpool.Option{taskpool.WithWorkers(6), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second)}
				p, other := newPool(t, opts...), newPool(t, opts...)
				cancel := c.ring(p, other)
				time.Sleep(time.Second - 1)
				require.NoError(t, p.Health())
				for range 100 { // other work goes on
					time.Sleep(100 * time.Millisecond)
					submit(t, p, taskpool.Task{Run: nop})
				}
				told := stalls(&log, inACircle)
				require.Len(t, told, 1)
				for _, name := range c.names {
					require.Contains(t, fmt.Sprint(attrOf(told[0], "tasks").Any()), name)
				}
				require.ErrorIs(t, p.Health(), taskpool.ErrStalled)
				require.True(t, p.Stats().Stalled)
				if name == "through two pools" {
					require.ErrorIs(t, other.Health(), taskpool.ErrStalled)
				}
				cancel()
				synctest.Wait()
				require.NoError(t, p.Health())
				require.NoError(t, other.Health())
				require.NoError(t, p.WaitIdle(patience(t)))
			})
		})
	}
}

func TestLongWaitsThatEndAreNoCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logRecorder
		p := newPool(t, taskpool.WithWorkers(2), taskpool.WithLogger(slog.New(&log)), taskpool.WithHangGrace(time.Second))
		slow := func(context.Context) error { time.Sleep(time.Minute); return nil }
		for _, call := range waits {
			h := submit(t, p, taskpool.Task{Run: func(ctx context.Context) error {
				return call(ctx, p, func(ctx context.Context) error { return call(ctx, p, slow) })
			}})
			require.NoError(t, h.Wait(patience(t)))
		}
		later := submit(t, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: nop})
		h := submit(t, p, taskpool.Task{Run: later.Wait})
		require.NoError(t, h.Wait(aYear(t)))
		require.Empty(t, stalls(&log, inACircle))
		require.Empty(t, stalls(&log, nothingMoves))
	})
}
