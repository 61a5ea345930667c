package engine_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatCannotBeMeantIsRefused(t *testing.T) {
	var none context.Context
	for name, call := range map[string]func(){
		"Policy": func() { engine.Policy(nil, "kind") },
		"Judge":  func() { engine.Judge(nil, jobs.Meta{}, nil) },
		"Tell":   func() { engine.Tell(nil, jobs.Event{}) },
	} {
		require.PanicsWithValue(t, "engine: "+name+": reg must not be nil", call)
	}
	require.EqualError(t, engine.Run(t.Context(), nil, jobs.Meta{}, nil), "engine: Run: reg must not be nil")
	require.EqualError(t, engine.Run(none, new(jobs.Registry), jobs.Meta{}, nil), "engine: Run: ctx must not be nil")
}
