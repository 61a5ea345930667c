package pooltest

import (
	"os"
	"testing"
)

// Full is set by TASKPOOL_TEST_FULL=1, with which tests repeat what they do as often as is
// worth the while, and take minutes. It is no flag, as packages that do not know it would
// refuse that.
var Full = os.Getenv("TASKPOOL_TEST_FULL") != ""

// Times returns how often a test is to do what it repeats: full times if Full is set, few
// times otherwise, and a fifth of that if Scarce.
func Times(full, few int) int {
	switch {
	case Scarce():
		return max(few/5, 1)
	case Full:
		return full
	}
	return few
}

// Scarce reports whether there is little time: with -short, and under the race detector,
// which makes all ten times slower.
func Scarce() bool { return Race || testing.Short() }
