package pooltest

import (
	"os"
	"testing"
)

// Full is set by TASKPOOL_TEST_FULL=1, with which tests repeat what they do as often as is
// worth the while, and take minutes. It is no flag, as packages that do not know it would
// refuse that.
var Full = os.Getenv("TASKPOOL_TEST_FULL") != ""

// Times returns how often a test is to do what it repeats: full times if Full is set and the
// race detector, which makes it ten times slower, is not there; few times otherwise, and a
// fifth of that with -short.
func Times(full, few int) int {
	switch {
	case testing.Short():
		return max(few/5, 1)
	case Full && !Race:
		return full
	}
	return few
}
