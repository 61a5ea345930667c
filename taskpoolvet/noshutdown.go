package taskpoolvet

import (
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

// NoShutdown reports pools that are made and used in a function, and not shut down.
var NoShutdown = document(&analysis.Analyzer{
	Name: "noshutdown",
	Run:  runNoShutdown,
})

func runNoShutdown(pass *analysis.Pass) (any, error) {
	for _, file := range pass.Files {
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
				checkShutdown(pass, fn)
			}
		}
	}
	return nil, nil
}

// A localPool is a variable that holds a pool that was made in the function.
type localPool struct {
	made    *ast.CallExpr
	used    bool // something was started on it
	settled bool // it is shut down, or others know it and may do so
}

func checkShutdown(pass *analysis.Pass, fn *ast.FuncDecl) {
	info := pass.TypesInfo
	pools := make(map[*types.Var]*localPool)
	var order []*localPool
	known := make(map[*ast.Ident]bool) // uses of a pool that have been accounted for
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if len(n.Rhs) != 1 || len(n.Lhs) != 2 {
				break
			}
			id, ok := n.Lhs[0].(*ast.Ident)
			call, isCall := ast.Unparen(n.Rhs[0]).(*ast.CallExpr)
			if !ok || !isCall || called(info, call) != "New" {
				break
			}
			known[id] = true
			if v := varOf(info, id); v != nil && pools[v] == nil && v.Name() != "_" && isLocal(v, fn) {
				pools[v] = &localPool{made: call}
				order = append(order, pools[v])
			}
		case *ast.ValueSpec:
			if len(n.Values) != 1 || len(n.Names) != 2 {
				break
			}
			if call, ok := ast.Unparen(n.Values[0]).(*ast.CallExpr); ok && called(info, call) == "New" {
				if v, ok := info.Defs[n.Names[0]].(*types.Var); ok && v.Name() != "_" {
					pools[v] = &localPool{made: call}
					order = append(order, pools[v])
				}
			}
		}
		return true
	})
	if len(pools) == 0 {
		return
	}
	poolOf := func(e ast.Expr) (*localPool, *ast.Ident) {
		id, ok := ast.Unparen(e).(*ast.Ident)
		if !ok {
			return nil, nil
		}
		v, _ := info.Uses[id].(*types.Var)
		return pools[v], id
	}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			name := called(info, n)
			if sel, ok := ast.Unparen(n.Fun).(*ast.SelectorExpr); ok {
				if p, id := poolOf(sel.X); p != nil && name != "" {
					known[id] = name != "Pool.Shutdown"
					p.used = p.used || starts[name]
				}
			}
			if i, ok := usesPool[name]; ok && i < len(n.Args) {
				if p, id := poolOf(n.Args[i]); p != nil {
					known[id] = true
					p.used = true
				}
			}
		case *ast.BinaryExpr: // a comparison
			for _, e := range []ast.Expr{n.X, n.Y} {
				if p, id := poolOf(e); p != nil {
					known[id] = true
				}
			}
		case *ast.Ident:
			if p, id := poolOf(n); p != nil && !known[id] {
				p.settled = true
			}
		}
		return true
	})
	for _, p := range order {
		if p.used && !p.settled {
			report(pass, analysis.Diagnostic{
				Pos: p.made.Pos(),
				End: p.made.End(),
				Message: "the pool is not shut down: its goroutines are left behind, and what waits " +
					"when the program ends is lost; call Shutdown",
			})
		}
	}
}

// isLocal reports whether v is declared in the body of fn, and is no parameter or result, also of
// a function literal in it.
func isLocal(v *types.Var, fn *ast.FuncDecl) bool {
	return v.Kind() == types.LocalVar && fn.Body.Pos() <= v.Pos() && v.Pos() < fn.Body.End()
}
