//go:build !invariants

package pooltest

import (
	"testing"

	"github.com/taskpool-go/taskpool"
)

// AtRest returns what is wrong with p where nothing moves any more, if anything: no worker
// is on its way, so nothing waits that might run. Without the tag invariants it does not look.
func AtRest(*taskpool.Pool) error { return nil }

// Together calls f, which calls Go, so that no worker of p looks before it has returned. It
// returns false, and does not call f, where Go would have to wait for that, and without the
// tag invariants.
func Together(*taskpool.Pool, func()) bool { return false }

// RequireWatches requires that p has from least to most registrations for the end of contexts,
// and that these belong to the tasks that have to be canceled then. Without the tag invariants
// it does not look.
func RequireWatches(testing.TB, *taskpool.Pool, int, int) {}
