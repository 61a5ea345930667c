// Package golangci makes the analyzers of package taskpoolvet a linter named taskpoolvet for
// golangci-lint, as a module plugin. README.md of the module says how to build and enable it.
package golangci

import (
	"github.com/golangci/plugin-module-register/register"
	"github.com/taskpool-go/taskpool/taskpoolvet"
	"golang.org/x/tools/go/analysis"
)

func init() { register.Plugin("taskpoolvet", newPlugin) }

type plugin struct{}

// newPlugin returns the linter. It has no settings.
func newPlugin(any) (register.LinterPlugin, error) { return plugin{}, nil }

func (plugin) BuildAnalyzers() ([]*analysis.Analyzer, error) { return taskpoolvet.Analyzers, nil }
func (plugin) GetLoadMode() string                           { return register.LoadModeTypesInfo }
