// Package observe_test has the suite of what a pool tells: hooks, logs, Stats, Tasks, stacks,
// Health, traces and profiler labels; in what order, and without a lock.
package observe_test

import (
	"testing"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }
