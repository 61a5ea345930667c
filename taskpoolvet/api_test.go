package taskpoolvet

import (
	"go/types"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/packages"
)

// An API is the exported functions of package taskpool, and methods of its types that have
// any to do with pools and tasks, by the names that called returns.
func loadAPI(t *testing.T) map[string]*types.Signature {
	pkgs, err := packages.Load(&packages.Config{Mode: packages.LoadTypes, Dir: "testdata"}, taskpoolPath)
	require.NoError(t, err)
	require.Len(t, pkgs, 1)
	require.Empty(t, pkgs[0].Errors)
	api := make(map[string]*types.Signature)
	scope := pkgs[0].Types.Scope()
	for _, name := range scope.Names() {
		switch obj := scope.Lookup(name).(type) {
		case *types.Func:
			if obj.Exported() {
				api[name] = obj.Signature()
			}
		case *types.TypeName:
			named, ok := obj.Type().(*types.Named)
			if ok && slices.Contains([]string{"Pool", "Handle", "Future", "Group", "Periodic"}, name) {
				for m := range named.Methods() {
					if m.Exported() {
						api[name+"."+m.Name()] = m.Signature()
					}
				}
			}
		}
	}
	return api
}

func TestTheNamesInTheTablesAreThoseOfThePackage(t *testing.T) {
	api := loadAPI(t)
	for _, table := range []map[string]bool{safePoints, waits, mustCheck, starts} {
		for name := range table {
			assert.Contains(t, api, name)
		}
	}
	for _, arguments := range []struct {
		table map[string]int
		is    func(types.Type) bool
	}{
		{contextOf, isContext},
		{submits, isContext},
		{runs, isFunc},
		{usesPool, func(t types.Type) bool { return isType(t, taskpoolPath, "Pool") }},
	} {
		for name, i := range arguments.table {
			if assert.Contains(t, api, name) && assert.Less(t, i, api[name].Params().Len(), name) {
				assert.True(t, arguments.is(api[name].Params().At(i).Type()), name)
			}
		}
	}
}

// A function that is new in the package must be added to a table, or here.
func TestEveryFunctionOfThePackageIsInATableOrLeftOutOnPurpose(t *testing.T) {
	noTask := set("Block", "WithFlows")                                         // runs f in the task that it is called in, or a policy
	noWait := set("Beat", "Current", "Detach", "Pool.Group", "Pool.Inside")     // take a context and wait for nothing
	dropped := set("Yield", "Block", "Call", "Join", "Permanent", "RetryAfter", // their errors may be dropped,
		"Handle.Wait", "Handle.Err", "Future.Wait", "Future.Get", "Future.Err", // or are those of a task
		"Group.Wait", "Periodic.Wait", "Pool.Health", "Pool.WaitIdle", "Pool.WaitRunning")
	api := loadAPI(t)
	for name, sig := range api {
		_, run := runs[name]
		_, with := contextOf[name]
		_, submit := submits[name]
		for param := range sig.Params().Variables() {
			if isFunc(param.Type()) {
				assert.True(t, run != noTask[name], "%s: %s", name, param)
			}
			if isContext(param.Type()) {
				assert.True(t, (with || submit) != noWait[name], "%s: %s", name, param)
			}
		}
		for result := range sig.Results().Variables() {
			if types.Identical(result.Type(), types.Universe.Lookup("error").Type()) {
				assert.True(t, mustCheck[name] != dropped[name], "%s: %s", name, result)
			}
		}
	}
	for _, left := range []map[string]bool{noTask, noWait, dropped} {
		assert.Subset(t, slices.Collect(maps.Keys(api)), slices.Collect(maps.Keys(left)))
	}
}

func isContext(t types.Type) bool { return isType(t, "context", "Context") }

func isFunc(t types.Type) bool {
	_, ok := t.Underlying().(*types.Signature)
	return ok
}
