// Package waits_test has the suite of waits: for tasks, results, members of groups, room and
// the ends of contexts, from outside and inside tasks. Each wait ends, none keeps a slot
// from others, and what waits in a circle is told of.
package waits_test

import (
	"testing"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }
