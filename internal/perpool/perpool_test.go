package perpool_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/perpool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachPoolHasItsOwnUntilItIsGone(t *testing.T) {
	var m perpool.Map[int]
	p, err := taskpool.New()
	require.NoError(t, err)
	other, err := taskpool.New()
	require.NoError(t, err)
	*m.Of(p) = 1
	require.Zero(t, *m.Of(other))
	require.Equal(t, 1, *m.Of(p))
	require.Equal(t, 2, m.Len())
	require.NoError(t, other.Shutdown(t.Context()))
	require.Eventually(t, func() bool { runtime.GC(); return m.Len() == 1 }, time.Minute, time.Millisecond)
	require.Equal(t, 1, *m.Of(p))
	require.NoError(t, p.Shutdown(t.Context()))
}
