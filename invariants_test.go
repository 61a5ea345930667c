//go:build invariants

package taskpool_test

import "github.com/taskpool-go/taskpool"

// atRest returns what is wrong with p where nothing moves any more, if anything: no
// worker is on its way, so nothing waits that might run.
func atRest(p *taskpool.Pool) error { return p.CheckAtRest() }
