// Package flows_test has the suite of flows: between them the starts of a priority are shared,
// each has its limits, and what a flow's limit holds back is in nobody's way.
package flows_test

import (
	"testing"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }
