package taskpooltest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/taskpooltest"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestARecorderNamesTasksInTheOrderOfTheirStartsAndEnds(t *testing.T) {
	pool, order := paused(t, taskpool.WithWorkers(1))
	parent := pooltest.Submit(t, pool, taskpool.Task{Name: "parent", Run: func(ctx context.Context) error {
		h, err := pool.Submit(ctx, taskpool.Task{Run: pooltest.Nop})
		if err != nil {
			return err
		}
		return h.Wait(ctx)
	}})
	gone := pooltest.Submit(t, pool, taskpool.Task{Name: "gone", Run: pooltest.MustNotRun})
	gone.Cancel(nil)
	require.NoError(t, pool.Go(taskpool.Low, func() {}))
	require.NoError(t, pool.Go(7, func() {}))
	pool.Resume()
	require.NoError(t, pool.WaitIdle(context.Background()))
	require.NoError(t, parent.Err())
	taskpooltest.AssertOrder(t, order, "parent", "task 5", "func low", "func 7")
	require.Equal(t, []string{"gone", "task 5", "parent", "func low", "func 7"}, order.Finished())
	order.Reset()
	require.Empty(t, order.Started())
	require.Empty(t, order.Finished())
}

// started returns a recorder that was told that these tasks have started.
func started(names ...string) *taskpooltest.Recorder {
	r := new(taskpooltest.Recorder)
	for i, name := range names {
		r.Hooks().Started(taskpool.TaskEvent{Task: taskpool.TaskInfo{ID: uint64(i + 1), Name: name, Attempt: 1}})
	}
	return r
}

func TestAssertOrderShowsWhereTheOrdersDiffer(t *testing.T) {
	check := func(got, want []string) string {
		t.Helper()
		test := runTest(func(t testing.TB) { taskpooltest.AssertOrder(t, started(got...), want...) })
		return strings.Join(test.failures(), "")
	}
	require.Empty(t, check(nil, nil))
	require.Empty(t, check([]string{"a", "b"}, []string{"a", "b"}))
	require.Equal(t, `taskpooltest: tasks started in another order:
         got     want
      1  first   first
  >   2  Zürich  Bern
  >   3  Bern    Zürich
  >   4  -       Genf
`, check([]string{"first", "Zürich", "Bern"}, []string{"first", "Bern", "Zürich", "Genf"}))
	require.Equal(t, `taskpooltest: tasks started in another order:
         got  want
  >   1  a    -
`, check([]string{"a"}, nil))
}

func TestAssertBeforeLooksAtTwoTasksOnly(t *testing.T) {
	check := func(first, then string) string {
		t.Helper()
		test := runTest(func(t testing.TB) { taskpooltest.AssertBefore(t, started("a", "b", "c", "a"), first, then) })
		return strings.Join(test.failures(), "")
	}
	require.Empty(t, check("a", "c"))
	require.Empty(t, check("b", "c"))
	require.Equal(t, "taskpooltest: \"c\" has not started before \"a\", the order was [\"a\" \"b\" \"c\" \"a\"]\n", check("c", "a"))
	require.Contains(t, check("a", "d"), `"a" has not started before "d"`)
	require.Contains(t, check("d", "a"), `"d" has not started before "a"`)
	require.Contains(t, check("a", "a"), `"a" has not started before "a"`)
}
