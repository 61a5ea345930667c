package taskpoolvet

import (
	"fmt"
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

// LostChild reports tasks that end with the task that submits them, which nobody waits for.
var LostChild = document(&analysis.Analyzer{
	Name:     "lostchild",
	Requires: []*analysis.Analyzer{tasks},
	Run:      runLostChild,
})

func runLostChild(pass *analysis.Pass) (any, error) {
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
		endless := endlessLoops(f)
		inspectBody(f, func(n ast.Node) {
			call := dropped(info, n)
			if call == nil || within(call, endless) {
				return
			}
			name := called(info, call)
			i, ok := submits[name]
			if !ok || i >= len(call.Args) || !derives(info, call.Args[i], own) {
				return
			}
			report(pass, analysis.Diagnostic{
				Pos: call.Pos(),
				End: call.End(),
				Message: fmt.Sprintf("the task that %s starts is canceled when this one returns, and nothing waits for it: "+
					"keep its handle and wait, or submit it with taskpool.Detach(%s)", name, types.ExprString(call.Args[i])),
			})
		})
	}
	return nil, nil
}

// dropped returns the call that n makes, if n does not keep the first of its results.
func dropped(info *types.Info, n ast.Node) *ast.CallExpr {
	var value ast.Expr
	switch n := n.(type) {
	case *ast.ExprStmt:
		value = n.X
	case *ast.AssignStmt:
		if id, ok := n.Lhs[0].(*ast.Ident); ok && id.Name == "_" && len(n.Rhs) == 1 {
			value = n.Rhs[0]
		}
	}
	call, _ := ast.Unparen(value).(*ast.CallExpr)
	return call
}

// endlessLoops returns the loops of f that have no condition. What is submitted in one is
// meant to end with the task, which goes on until it is told to end.
func endlessLoops(f ast.Node) (loops []ast.Node) {
	inspectBody(f, func(n ast.Node) {
		if loop, ok := n.(*ast.ForStmt); ok && loop.Cond == nil {
			loops = append(loops, loop)
		}
	})
	return loops
}

func within(n ast.Node, outer []ast.Node) bool {
	for _, o := range outer {
		if o.Pos() <= n.Pos() && n.End() <= o.End() {
			return true
		}
	}
	return false
}
