//go:build invariants

package pooltest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

// AtRest returns what is wrong with p where nothing moves any more, if anything: no worker
// is on its way, so nothing waits that might run. Without the tag invariants it does not look.
func AtRest(p *taskpool.Pool) error { return p.CheckAtRest() }

// Together calls f, which calls Go, so that no worker of p looks before it has returned. It
// returns false, and does not call f, where Go would have to wait for that, and without the
// tag invariants.
func Together(p *taskpool.Pool, f func()) bool { return p.Together(f) }

// RequireWatches requires that p has from least to most registrations for the end of contexts,
// and that these belong to the tasks that have to be canceled then. Without the tag invariants
// it does not look.
func RequireWatches(t testing.TB, p *taskpool.Pool, least, most int) {
	t.Helper()
	n := p.Watches()
	require.GreaterOrEqual(t, n, least, "registrations; -1 if they are not in order")
	require.LessOrEqual(t, n, most, "registrations")
}
