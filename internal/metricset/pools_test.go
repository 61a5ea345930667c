package metricset_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/metricset"
)

func TestPoolsAreWatchedInOrderAndAllOrNone(t *testing.T) {
	pool := func(name string) *taskpool.Pool {
		p, err := taskpool.New(taskpool.WithName(name), taskpool.WithWorkers(1))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Shutdown(context.Background())) })
		return p
	}
	var pools metricset.Pools[string]
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
	require.NoError(t, pools.Watch("test", []*taskpool.Pool{b, a, b}, named))
	require.Equal(t, []string{"b", "a"}, names())

	for want, bad := range map[string]*taskpool.Pool{
		"test: Watch: pool 2 must not be nil":                                                                                            nil,
		"test: Watch: pool 2 must be one that taskpool.New has returned, got a zero Pool":                                                {},
		"test: Watch: pool 2 must have a name in UTF-8, got \"\\xff\" (see taskpool.WithName)":                                           pool("\xff"),
		`test: Watch: pool 2 must have a name of its own, got "a", which another pool has (see taskpool.WithName and Collector.Unwatch)`: pool("a"),
	} {
		require.EqualError(t, pools.Watch("test", []*taskpool.Pool{pool("c"), bad}, named), want)
		require.Equal(t, []string{"b", "a"}, names())
	}
	require.True(t, pools.Unwatch(b))
	require.Equal(t, []string{"a"}, names())
	require.Nil(t, pools.Named("b"))
}
