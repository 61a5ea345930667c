// Package order_test has the suite of order: which task starts next, and which gives its
// slot to another.
package order_test

import (
	"testing"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }
