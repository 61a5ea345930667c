package watch_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPool(t *testing.T, name string) *taskpool.Pool {
	p, err := taskpool.New(taskpool.WithName(name), taskpool.WithWorkers(1))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Shutdown(context.Background())) })
	return p
}

func TestPoolsAreWatchedInOrderAndAllOrNone(t *testing.T) {
	pool := func(name string) *taskpool.Pool { return newPool(t, name) }
	rules := watch.Rules{Package: "test", Unwatch: "Collector.Unwatch", UTF8: true}
	var pools watch.Pools[string]
	named := func(p *taskpool.Pool) *string { return new("of " + p.Name()) }
	names := func() (all []string) {
		for p, w := range pools.All {
			require.Equal(t, "of "+p.Name(), *w)
			require.Same(t, w, pools.Named(p.Name()))
			all = append(all, p.Name())
		}
		return all
	}
	require.Empty(t, names())
	require.Nil(t, pools.Named("b"))
	a, b := pool("a"), pool("b")
	require.False(t, pools.Unwatch(a))
	require.NoError(t, pools.Watch(rules, []*taskpool.Pool{b, a, b}, named))
	require.Equal(t, []string{"b", "a"}, names())

	for want, bad := range map[string]*taskpool.Pool{
		"test: Watch: pool 2 must not be nil":                                                                                            nil,
		"test: Watch: pool 2 must be one that taskpool.New has returned, got a zero Pool":                                                {},
		"test: Watch: pool 2 must have a name in UTF-8, got \"\\xff\" (see taskpool.WithName)":                                           pool("\xff"),
		`test: Watch: pool 2 must have a name of its own, got "a", which another pool has (see taskpool.WithName and Collector.Unwatch)`: pool("a"),
	} {
		require.EqualError(t, pools.Watch(rules, []*taskpool.Pool{pool("c"), bad}, named), want)
		require.Equal(t, []string{"b", "a"}, names())
	}
	require.True(t, pools.Unwatch(b))
	require.Equal(t, []string{"a"}, names())
	require.Nil(t, pools.Named("b"))
}

func TestAPoolThatWasShutDownGivesWayWhereRulesSaySo(t *testing.T) {
	var pools watch.Pools[taskpool.Pool]
	self := func(p *taskpool.Pool) *taskpool.Pool { return p }
	rules := watch.Rules{Package: "test", Succeed: true}
	first, other, second := newPool(t, "\xff"), newPool(t, "b"), newPool(t, "\xff")
	require.NoError(t, pools.Watch(rules, []*taskpool.Pool{first, other}, self))
	require.Error(t, pools.Watch(rules, []*taskpool.Pool{second}, self), "it is not shut down")
	require.NoError(t, first.Shutdown(t.Context()))
	require.Error(t, pools.Watch(watch.Rules{}, []*taskpool.Pool{second}, self))
	require.NoError(t, pools.Watch(rules, []*taskpool.Pool{second}, self))
	require.Same(t, second, pools.Named("\xff"))
	var all []*taskpool.Pool
	for p := range pools.All {
		all = append(all, p)
	}
	require.Equal(t, []*taskpool.Pool{second, other}, all, "in its place")
	require.False(t, pools.Unwatch(first))
}
