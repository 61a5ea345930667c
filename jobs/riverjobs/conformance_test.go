package riverjobs_test

import (
	"testing"
	"time"

	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/conformance"
	"github.com/taskpool-go/taskpool/jobs/riverjobs"
)

func TestSQLiteConforms(t *testing.T) {
	conformance.Run(t, nil, func(t *testing.T, reg *jobs.Registry) conformance.Engine {
		return started(t, riversqlite.New(newSQLite(t)), reg, riverjobs.Config{Pool: newPool(t, taskpool.WithHangGrace(500*time.Millisecond)), PayloadGrace: time.Millisecond, River: quick()})
	})
}

func TestPostgreSQLConforms(t *testing.T) {
	postgresURL(t)
	conformance.Run(t, nil, func(t *testing.T, reg *jobs.Registry) conformance.Engine {
		return started(t, riverpgxv5.New(newPostgres(t)), reg, riverjobs.Config{Pool: newPool(t, taskpool.WithHangGrace(500*time.Millisecond)), PayloadGrace: time.Millisecond, River: quick()})
	})
}
