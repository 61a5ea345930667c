// Package lifecycle_test has the suite of a pool's life: New and its options, what Submit and
// Go accept and refuse, tasks that wait for their time, Pause, Resize, WaitIdle and Shutdown;
// and bugs found once.
package lifecycle_test

import (
	"testing"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }
