package taskpool_test

import (
	"testing"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }
