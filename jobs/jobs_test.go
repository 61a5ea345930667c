package jobs_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/jobs"
)

func nothing[T any](context.Context, jobs.Meta, T) error { return nil }

func TestRegisterPanicsOnAProgrammersError(t *testing.T) {
	var reg jobs.Registry
	jobs.Register(&reg, "taken", nothing[int], jobs.Policy{})
	for want, f := range map[string]func(){
		"name is taken":               func() { jobs.Register(&reg, "taken", nothing[int], jobs.Policy{}) },
		"name must be":                func() { jobs.Register(&reg, "a b", nothing[int], jobs.Policy{}) },
		"handler must not be nil":     func() { jobs.Register[int](&reg, "one", nil, jobs.Policy{}) },
		"payload cannot be encoded":   func() { jobs.Register(&reg, "one", nothing[struct{ C []chan int }], jobs.Policy{}) },
		"Policy.Timeout must not":     func() { jobs.Register(&reg, "one", nothing[int], jobs.Policy{Timeout: -1}) },
		"Policy.Heartbeat must not":   func() { jobs.Register(&reg, "one", nothing[int], jobs.Policy{Heartbeat: -1}) },
		"Policy.MaxAttempts must be ": func() { jobs.Register(&reg, "one", nothing[int], jobs.Policy{MaxAttempts: -1}) },
	} {
		func() {
			defer func() { require.Contains(t, recover(), want) }()
			f()
		}()
	}
	require.Equal(t, []string{"taken"}, reg.Kinds())
}
