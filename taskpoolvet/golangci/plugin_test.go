package golangci

import (
	"testing"

	"github.com/golangci/plugin-module-register/register"
	"github.com/stretchr/testify/require"
	"github.com/taskpool-go/taskpool/taskpoolvet"
	"golang.org/x/tools/go/analysis"
)

func TestThePluginIsRegisteredWithAllAnalyzers(t *testing.T) {
	build, err := register.GetPlugin("taskpoolvet")
	require.NoError(t, err)
	linter, err := build(nil)
	require.NoError(t, err)
	analyzers, err := linter.BuildAnalyzers()
	require.NoError(t, err)
	require.Equal(t, taskpoolvet.Analyzers, analyzers)
	require.NoError(t, analysis.Validate(analyzers))
	require.Equal(t, register.LoadModeTypesInfo, linter.GetLoadMode())
}
