package taskpoolvet

import (
	"fmt"
	"go/ast"
	"go/types"
	"maps"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/types/typeutil"
)

// TaskContext reports goroutines that wait with the context of the task that started them.
var TaskContext = document(&analysis.Analyzer{
	Name:     "taskcontext",
	Requires: []*analysis.Analyzer{tasks},
	Run:      runTaskContext,
})

func runTaskContext(pass *analysis.Pass) (any, error) {
	t := pass.ResultOf[tasks].(*taskFuncs)
	info := pass.TypesInfo
	for _, f := range t.all {
		if !t.direct[f] || t.waitsItself(info, f) {
			continue
		}
		own := taskContexts(info, f)
		if len(own) == 0 {
			continue
		}
		inspectBody(f, func(n ast.Node) {
			if stmt, ok := n.(*ast.GoStmt); ok {
				checkGoroutine(pass, t, stmt.Call, own)
			}
		})
	}
	return nil, nil
}

// checkGoroutine looks for waits with one of the contexts in own in the function that call starts.
func checkGoroutine(pass *analysis.Pass, t *taskFuncs, call *ast.CallExpr, own map[*types.Var]bool) {
	info := pass.TypesInfo
	var body ast.Node
	if lit, ok := ast.Unparen(call.Fun).(*ast.FuncLit); ok {
		body = lit
	} else if decl := t.declared(typeutil.Callee(info, call)); len(decl) == 1 {
		body = decl[0]
	} else {
		// A method of package taskpool itself.
		if pos, name := waitsWith(info, call, own); pos != nil {
			reportGoroutine(pass, pos, name)
		}
		return
	}
	given := maps.Clone(own)
	for i, v := range params(info, body) {
		if v != nil && i < len(call.Args) && derives(info, call.Args[i], own) {
			given[v] = true
		}
	}
	ast.Inspect(bodyOf(body), func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return !t.direct[n]
		case *ast.CallExpr:
			if pos, name := waitsWith(info, n, given); pos != nil {
				if _, ok := body.(*ast.FuncDecl); ok {
					pos = call // others may call the function too, with other contexts
				}
				reportGoroutine(pass, pos, name)
			}
		}
		return true
	})
}

// waitsWith returns call, and its name, if it waits with one of the given contexts.
func waitsWith(info *types.Info, call *ast.CallExpr, given map[*types.Var]bool) (ast.Node, string) {
	name := called(info, call)
	i, ok := contextOf[name]
	if !ok || i >= len(call.Args) || !derives(info, call.Args[i], given) {
		return nil, ""
	}
	return call, name
}

func reportGoroutine(pass *analysis.Pass, at ast.Node, name string) {
	report(pass, analysis.Diagnostic{
		Pos: at.Pos(),
		End: at.End(),
		Message: fmt.Sprintf("%s with the task's context in a goroutine parks the task, which is still at work: "+
			"give the goroutine taskpool.Detach of the context", name),
	})
}
