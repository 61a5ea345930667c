//go:build !invariants

package pooltest

import "github.com/taskpool-go/taskpool"

// AtRest returns what is wrong with p where nothing moves any more, if anything: no worker
// is on its way, so nothing waits that might run. Without the tag invariants it does not look.
func AtRest(*taskpool.Pool) error { return nil }

// Together calls f, which calls Go, so that no worker of p looks before it has returned. It
// returns false, and does not call f, where Go would have to wait for that, and without the
// tag invariants.
func Together(*taskpool.Pool, func()) bool { return false }
