package inside_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/inside"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRequestsAreKnownWhileTheyAreUnderWay(t *testing.T) {
	p, err := taskpool.New()
	require.NoError(t, err)
	other, err := taskpool.New()
	require.NoError(t, err)
	calls := inside.Of(p)
	require.Same(t, calls, inside.Of(p))

	text, end := calls.Begin()
	second, endSecond := calls.Begin()
	require.NotEqual(t, text, second)
	require.True(t, calls.Know([]string{"", text}))
	require.False(t, calls.Know(nil))
	require.False(t, inside.Of(other).Know([]string{text}))
	end()
	end()
	require.False(t, calls.Know([]string{text}))
	require.True(t, calls.Know([]string{second}))
	endSecond()

	ctx := t.Context()
	require.False(t, calls.Has(ctx, p))
	within := calls.Within(ctx)
	require.True(t, calls.Has(within, p))
	require.False(t, inside.Of(other).Has(within, other))
	require.NoError(t, p.Do(ctx, taskpool.Task{}, func(ctx context.Context) error {
		require.True(t, calls.Has(ctx, p))
		require.False(t, inside.Of(other).Has(ctx, other))
		return nil
	}))
	require.NoError(t, p.Shutdown(ctx))
	require.NoError(t, other.Shutdown(ctx))
}
