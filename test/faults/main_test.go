// Package faults_test has the suite of faults: tasks, hooks and policies that fail, die,
// hang, come late or are stopped, at every place where they are called, and what becomes
// of them, of their workers and of all else. A death costs nothing, a hang no more than
// its slot.
package faults_test

import (
	"testing"

	"github.com/taskpool-go/taskpool/test/pooltest"
)

func TestMain(m *testing.M) { pooltest.Main(m) }
