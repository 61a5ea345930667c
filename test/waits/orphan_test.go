package waits_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// orphanLines returns what the log says of orphans: how many children by parent's name.
func orphanLines(l *pooltest.LogRecorder) map[string][]int64 {
	lines := map[string][]int64{}
	for _, r := range l.Records() {
		children, name := int64(-1), ""
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "children":
				children = a.Value.Int64()
			case "task":
				name = a.Value.String()
			}
			return true
		})
		if children >= 0 {
			lines[name] = append(lines[name], children)
		}
	}
	return lines
}

// orphanTrial runs parent as a task named "parent" on the given number of workers, and
// returns the pool, some time later, and what the log says of orphans.
func orphanTrial(t *testing.T, workers int, parent func(ctx context.Context, p *taskpool.Pool) error) (*taskpool.Pool, map[string][]int64) {
	log := new(pooltest.LogRecorder)
	p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithLogger(log.Logger()))
	h := pooltest.Submit(t, p, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error { return parent(ctx, p) }})
	require.NoError(t, h.Wait(t.Context()))
	time.Sleep(time.Minute)
	synctest.Wait()
	return p, orphanLines(log)
}

// The trap of Detach: what a task submits with its own context ends with it.
func TestOrphansAreCountedAndLoggedOnceForEachParent(t *testing.T) {
	mustNotRun := func(context.Context) error { panic("must not run") }
	derived := func(ctx context.Context) context.Context { ctx, end := context.WithCancel(ctx); _ = end; return ctx }
	same := func(ctx context.Context) context.Context { return ctx }
	tests := map[string]struct {
		workers int
		parent  func(ctx context.Context, p *taskpool.Pool) error
		want    int
	}{
		"children that wait": {1, func(ctx context.Context, p *taskpool.Pool) error { return submitAll(ctx, p, 1000, same, mustNotRun) }, 1000},
		"with derived contexts": {1, func(ctx context.Context, p *taskpool.Pool) error {
			return submitAll(ctx, p, 1000, derived, mustNotRun)
		}, 1000},
		"children that run": {5, func(ctx context.Context, p *taskpool.Pool) error {
			defer synctest.Wait()
			return submitAll(ctx, p, 4, same, pooltest.UntilEnd)
		}, 4},
		"children that end with an error of their own": {5, func(ctx context.Context, p *taskpool.Pool) error {
			defer synctest.Wait()
			return submitAll(ctx, p, 4, same, func(ctx context.Context) error { <-ctx.Done(); return pooltest.ErrTask })
		}, 4},
		"children that wait for their time": {1, func(ctx context.Context, p *taskpool.Pool) error {
			_, err := p.Submit(ctx, taskpool.Task{NotBefore: time.Now().Add(time.Hour), Run: mustNotRun})
			return err
		}, 1},
		"a future": {1, func(ctx context.Context, p *taskpool.Pool) error {
			_, err := taskpool.SubmitFunc(ctx, p, taskpool.Task{}, func(ctx context.Context) (int, error) { return 0, mustNotRun(ctx) })
			return err
		}, 1},
		"an abandoned group": {1, func(ctx context.Context, p *taskpool.Pool) error {
			g := p.Group(ctx, taskpool.Task{})
			for range 10 {
				g.Go(mustNotRun)
			}
			return nil
		}, 10},
		"no child is left": {2, func(ctx context.Context, p *taskpool.Pool) error {
			h, err := p.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
			return errors.Join(err, h.Wait(ctx))
		}, 0},
		"a child that succeeds all the same": {2, func(ctx context.Context, p *taskpool.Pool) error {
			defer synctest.Wait()
			return submitAll(ctx, p, 1, same, func(ctx context.Context) error { <-ctx.Done(); return nil })
		}, 0},
		"detached": {1, func(ctx context.Context, p *taskpool.Pool) error {
			return submitAll(ctx, p, 10, taskpool.Detach, pooltest.Nop)
		}, 0},
		"canceled by hand": {1, func(ctx context.Context, p *taskpool.Pool) error {
			h, err := p.Submit(ctx, taskpool.Task{Run: mustNotRun})
			h.Cancel(nil)
			return err
		}, 0},
		"the loop over Map was left": {1, func(ctx context.Context, p *taskpool.Pool) error {
			for range taskpool.Map(ctx, p, taskpool.Task{}, pooltest.UpTo(100), pooltest.Square) {
				break
			}
			return nil
		}, 0},
		"a group that was waited for": {1, func(ctx context.Context, p *taskpool.Pool) error {
			g := p.Group(ctx, taskpool.Task{})
			for range 10 {
				g.Go(func(context.Context) error { return pooltest.ErrTask })
			}
			assert.Error(t, g.Wait())
			return nil
		}, 0},
		"Call in a helper goroutine": {1, func(ctx context.Context, p *taskpool.Pool) error {
			go func() {
				_, err := taskpool.Call(ctx, p, taskpool.Task{NotBefore: time.Now().Add(time.Hour)}, func(ctx context.Context) (int, error) { return 0, mustNotRun(ctx) })
				assert.ErrorIs(t, err, context.Canceled)
			}()
			synctest.Wait()
			return nil
		}, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, lines := orphanTrial(t, test.workers, test.parent)
				s := p.Stats()
				require.EqualValues(t, test.want, s.Orphaned)
				require.LessOrEqual(t, s.Orphaned, s.Canceled)
				if test.want == 0 {
					require.Empty(t, lines)
				} else {
					require.Equal(t, map[string][]int64{"parent": {int64(test.want)}}, lines)
				}
			})
		})
	}
}

// A terseContext tells package context all and others nothing.
type terseContext struct{ context.Context }

func (c terseContext) Value(key any) any {
	if _, std := key.(*int); std {
		return c.Context.Value(key)
	}
	return nil
}

func TestOrphansAreCountedAndLoggedAlsoWhereTheirParentIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, lines := orphanTrial(t, 1, func(ctx context.Context, p *taskpool.Pool) error {
			return submitAll(ctx, p, 3, func(ctx context.Context) context.Context { return terseContext{ctx} }, pooltest.MustNotRun)
		})
		require.EqualValues(t, 3, p.Stats().Orphaned)
		require.Equal(t, map[string][]int64{"": {3}}, lines)
	})
}

// The moment within which the log is told begins with the first of them.
func TestLogIsToldOfOrphansThoughMoreKeepComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(pooltest.LogRecorder)
		p := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(log.Logger()))
		for range 5 {
			h := pooltest.Submit(t, p, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error {
				return submitAll(ctx, p, 1, func(ctx context.Context) context.Context { return ctx }, pooltest.MustNotRun)
			}})
			require.NoError(t, h.Wait(t.Context()))
			time.Sleep(60 * time.Millisecond)
		}
		synctest.Wait()
		require.Equal(t, map[string][]int64{"parent": {1, 1, 1, 1}}, orphanLines(log), "each 120 ms")
	})
}

func submitAll(ctx context.Context, p *taskpool.Pool, n int, own func(context.Context) context.Context, run func(context.Context) error) error {
	for range n {
		if _, err := p.Submit(own(ctx), taskpool.Task{Run: run}); err != nil {
			return err
		}
	}
	return nil
}

// What is left is told before Shutdown returns; and parents may be of another pool.
func TestLogHasBeenToldOfOrphansWhenShutdownReturns(t *testing.T) {
	log := new(pooltest.LogRecorder)
	p := pooltest.New(t, taskpool.WithWorkers(1))
	q := pooltest.New(t, taskpool.WithWorkers(1), taskpool.WithLogger(log.Logger()))
	release := pooltest.Block(t, q)
	for _, name := range []string{"one", "two"} {
		h := pooltest.Submit(t, p, taskpool.Task{Name: name, Run: func(ctx context.Context) error {
			return submitAll(ctx, q, 10, func(ctx context.Context) context.Context { return ctx }, pooltest.Nop)
		}})
		require.NoError(t, h.Wait(t.Context()))
	}
	release()
	require.NoError(t, q.Shutdown(t.Context()))
	sum := map[string]int64{}
	for name, all := range orphanLines(log) {
		for _, n := range all {
			sum[name] += n
		}
	}
	require.Equal(t, map[string]int64{"one": 10, "two": 10}, sum)
	require.EqualValues(t, 20, q.Stats().Orphaned)
	require.Zero(t, p.Stats().Orphaned)
}
