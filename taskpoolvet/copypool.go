package taskpoolvet

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

// CopyPool reports copies of a Pool, a Handle or a Group.
var CopyPool = document(&analysis.Analyzer{
	Name: "copypool",
	Run:  runCopyPool,
})

func runCopyPool(pass *analysis.Pass) (any, error) {
	info := pass.TypesInfo
	copied := func(at ast.Node, t types.Type, how string) {
		if name := holdsUncopyable(t, nil); name != "" {
			report(pass, analysis.Diagnostic{
				Pos:     at.Pos(),
				End:     at.End(),
				Message: fmt.Sprintf("%s a taskpool.%s: use a pointer, the copy refuses to work", how, name),
			})
		}
	}
	values := func(exprs []ast.Expr, how string) {
		for _, e := range exprs {
			switch ast.Unparen(e).(type) {
			case *ast.CompositeLit, *ast.CallExpr: // new, or reported where the function returns it
			default:
				if tv := info.Types[e]; tv.IsValue() {
					copied(e, tv.Type, how)
				}
			}
		}
	}
	fields := func(list *ast.FieldList) {
		if list != nil {
			for _, f := range list.List {
				copied(f.Type, info.TypeOf(f.Type), "the call copies")
			}
		}
	}
	eachNode(pass.Files, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, e := range n.Rhs {
				if id, ok := n.Lhs[i].(*ast.Ident); !ok || id.Name != "_" {
					values([]ast.Expr{e}, "the assignment copies")
				}
			}
		case *ast.ValueSpec:
			values(n.Values, "the declaration copies")
		case *ast.CompositeLit:
			for _, e := range n.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					e = kv.Value
				}
				values([]ast.Expr{e}, "the literal copies")
			}
		case *ast.ReturnStmt:
			values(n.Results, "the return copies")
		case *ast.SendStmt:
			values([]ast.Expr{n.Value}, "the send copies")
		case *ast.CallExpr:
			if fun := info.Types[n.Fun]; fun.IsBuiltin() && !isAppend(info, n.Fun) {
				break
			}
			values(n.Args, "the call copies")
		case *ast.FuncDecl:
			fields(n.Recv)
			fields(n.Type.Params)
		case *ast.FuncLit:
			fields(n.Type.Params)
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if id, ok := e.(*ast.Ident); e != nil && (!ok || id.Name != "_") && (n.Tok == token.DEFINE || n.Tok == token.ASSIGN) {
					copied(e, info.TypeOf(e), "the range copies")
				}
			}
		}
	})
	return nil, nil
}

func isAppend(info *types.Info, fun ast.Expr) bool {
	id, ok := ast.Unparen(fun).(*ast.Ident)
	return ok && info.Uses[id] == types.Universe.Lookup("append")
}

// holdsUncopyable returns the name of the type of package taskpool that must not be copied
// and of which t holds a value, or "".
func holdsUncopyable(t types.Type, seen map[types.Type]bool) string {
	if t == nil || seen[t] {
		return ""
	}
	if seen == nil {
		seen = make(map[types.Type]bool)
	}
	seen[t] = true
	if named, ok := types.Unalias(t).(*types.Named); ok && inTaskpool(named.Obj()) {
		if uncopyable[named.Obj().Name()] {
			return named.Obj().Name()
		}
		return "" // what the package itself makes of them may be copied
	}
	if _, ok := types.Unalias(t).(*types.TypeParam); ok {
		return ""
	}
	switch u := t.Underlying().(type) {
	case *types.Array:
		return holdsUncopyable(u.Elem(), seen)
	case *types.Struct:
		for f := range u.Fields() {
			if name := holdsUncopyable(f.Type(), seen); name != "" {
				return name
			}
		}
	}
	return ""
}
