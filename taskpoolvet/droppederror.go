package taskpoolvet

import (
	"fmt"
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/types/typeutil"
)

// DroppedError reports calls whose error says what was not accepted or not finished, and that
// nobody looks at.
var DroppedError = document(&analysis.Analyzer{
	Name: "droppederror",
	Run:  runDroppedError,
})

func runDroppedError(pass *analysis.Pass) (any, error) {
	eachNode(pass.Files, func(n ast.Node) {
		var call *ast.CallExpr
		switch n := n.(type) {
		case *ast.ExprStmt:
			call, _ = ast.Unparen(n.X).(*ast.CallExpr)
		case *ast.DeferStmt:
			call = n.Call
		case *ast.GoStmt:
			call = n.Call
		}
		if call == nil {
			return
		}
		if name := called(pass.TypesInfo, call); mustCheck[name] && !(name == "Pool.Shutdown" && endless(pass.TypesInfo, call)) {
			lost := "a task that was not accepted is lost"
			switch name {
			case "New", "Pool.Resize":
				lost = "nobody learns that it failed"
			case "Pool.Shutdown":
				lost = "nobody learns which tasks did not finish"
			}
			report(pass, analysis.Diagnostic{
				Pos:     call.Pos(),
				End:     call.End(),
				Message: fmt.Sprintf("the error of %s is dropped: %s", name, lost),
			})
		}
	})
	return nil, nil
}

// endless reports whether the context that call, of Shutdown, is given never ends. Then Shutdown
// leaves nothing undone, and has no error but that it was called inside the pool.
func endless(info *types.Info, call *ast.CallExpr) bool {
	if len(call.Args) != 1 {
		return false
	}
	ctx, ok := ast.Unparen(call.Args[0]).(*ast.CallExpr)
	if !ok {
		return false
	}
	fn, ok := typeutil.Callee(info, ctx).(*types.Func)
	return ok && fn.Pkg() != nil && fn.Pkg().Path() == "context" && (fn.Name() == "Background" || fn.Name() == "TODO")
}
