package taskpoolvet

import (
	"go/ast"
	"go/token"
	"go/types"
	"reflect"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/types/typeutil"
)

// tasks finds the functions of a package that run as tasks. It reports nothing.
var tasks = &analysis.Analyzer{
	Name:       "taskpooltasks",
	Doc:        "find the functions that run as tasks of a taskpool.Pool",
	Run:        findTasks,
	ResultType: reflect.TypeFor[*taskFuncs](),
}

// A taskFuncs says which functions of a package run as tasks. A function is its
// *ast.FuncLit or *ast.FuncDecl.
type taskFuncs struct {
	direct map[ast.Node]bool // given to a pool
	within map[ast.Node]bool // those, and what they call
	all    []ast.Node        // all functions of the package that have a body, in the order of the source
	decls  map[*types.Func]*ast.FuncDecl
	lits   map[*types.Var][]*ast.FuncLit // the function literals assigned to a variable
}

func findTasks(pass *analysis.Pass) (any, error) {
	info := pass.TypesInfo
	t := &taskFuncs{
		direct: make(map[ast.Node]bool),
		within: make(map[ast.Node]bool),
		decls:  make(map[*types.Func]*ast.FuncDecl),
		lits:   make(map[*types.Var][]*ast.FuncLit),
	}
	assigned := func(to, value ast.Expr) {
		if lit, ok := ast.Unparen(value).(*ast.FuncLit); ok {
			if v := varOf(info, to); v != nil {
				t.lits[v] = append(t.lits[v], lit)
			}
		}
	}
	eachNode(pass.Files, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if fn, ok := info.Defs[n.Name].(*types.Func); ok && n.Body != nil {
				t.decls[fn] = n
				t.all = append(t.all, n)
			}
		case *ast.FuncLit:
			t.all = append(t.all, n)
		case *ast.AssignStmt:
			if len(n.Lhs) == len(n.Rhs) {
				for i, to := range n.Lhs {
					assigned(to, n.Rhs[i])
				}
			}
		case *ast.ValueSpec:
			if len(n.Names) == len(n.Values) {
				for i, to := range n.Names {
					assigned(to, n.Values[i])
				}
			}
		}
	})
	eachNode(pass.Files, func(n ast.Node) {
		for _, e := range runsAsTask(info, n) {
			for _, f := range t.resolve(info, e) {
				t.direct[f] = true
				t.follow(info, f)
			}
		}
	})
	return t, nil
}

func eachNode(files []*ast.File, f func(ast.Node)) {
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if n != nil {
				f(n)
			}
			return true
		})
	}
}

// runsAsTask returns the functions that n itself gives to a pool: as an argument, or as
// the field Run of a Task.
func runsAsTask(info *types.Info, n ast.Node) (funcs []ast.Expr) {
	switch n := n.(type) {
	case *ast.CallExpr:
		if i, ok := runs[called(info, n)]; ok {
			if f := arg(n, i); f != nil {
				funcs = append(funcs, f)
			}
		}
	case *ast.CompositeLit:
		if tv := info.Types[n]; tv.Type == nil || !isTaskpoolType(tv.Type, "Task") {
			break
		}
		for _, elt := range n.Elts {
			if kv, ok := elt.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Run" {
					funcs = append(funcs, kv.Value)
				}
			}
		}
	case *ast.AssignStmt:
		for i, to := range n.Lhs {
			sel, ok := ast.Unparen(to).(*ast.SelectorExpr)
			if ok && sel.Sel.Name == "Run" && len(n.Lhs) == len(n.Rhs) && isType(info.TypeOf(sel.X), taskpoolPath, "Task") {
				funcs = append(funcs, n.Rhs[i])
			}
		}
	}
	return funcs
}

// resolve returns the functions of this package that e may stand for: a literal, what was
// assigned to a variable, a function or method, or the literals that a function returns.
func (t *taskFuncs) resolve(info *types.Info, e ast.Expr) (funcs []ast.Node) {
	switch e := ast.Unparen(e).(type) {
	case *ast.FuncLit:
		return []ast.Node{e}
	case *ast.Ident:
		switch obj := info.Uses[e].(type) {
		case *types.Func:
			return t.declared(obj)
		case *types.Var:
			for _, lit := range t.lits[obj] {
				funcs = append(funcs, lit)
			}
		}
	case *ast.SelectorExpr:
		if fn, ok := info.Uses[e.Sel].(*types.Func); ok {
			return t.declared(fn)
		}
	case *ast.CallExpr:
		for _, maker := range t.declared(typeutil.Callee(info, e)) {
			inspectBody(maker, func(n ast.Node) {
				if ret, ok := n.(*ast.ReturnStmt); ok {
					for _, r := range ret.Results {
						if lit, ok := ast.Unparen(r).(*ast.FuncLit); ok {
							funcs = append(funcs, lit)
						}
					}
				}
			})
		}
	}
	return funcs
}

func (t *taskFuncs) declared(obj types.Object) []ast.Node {
	if fn, ok := obj.(*types.Func); ok {
		if d := t.decls[fn.Origin()]; d != nil {
			return []ast.Node{d}
		}
	}
	return nil
}

// follow marks f and what f calls, directly or not, as running within a task. What f
// starts as a goroutine does not, nor does a function that it only passes on.
func (t *taskFuncs) follow(info *types.Info, f ast.Node) {
	if t.within[f] {
		return
	}
	t.within[f] = true
	spawned := make(map[*ast.CallExpr]bool)
	inspectBody(f, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.GoStmt:
			spawned[n.Call] = true
		case *ast.CallExpr:
			if spawned[n] {
				return
			}
			fun := ast.Unparen(n.Fun)
			if _, ok := fun.(*ast.CallExpr); ok {
				return // calls what another call returns
			}
			for _, g := range t.resolve(info, fun) {
				t.follow(info, g)
			}
		}
	})
}

// inspectBody calls visit for each node in the body of f, a function, without what stands in other
// functions within it.
func inspectBody(f ast.Node, visit func(ast.Node)) {
	ast.Inspect(bodyOf(f), func(n ast.Node) bool {
		if n == nil {
			return false
		}
		visit(n)
		_, other := n.(*ast.FuncLit)
		return !other
	})
}

func bodyOf(f ast.Node) *ast.BlockStmt {
	if lit, ok := f.(*ast.FuncLit); ok {
		return lit.Body
	}
	return f.(*ast.FuncDecl).Body
}

func typeOf(f ast.Node) *ast.FuncType {
	if lit, ok := f.(*ast.FuncLit); ok {
		return lit.Type
	}
	return f.(*ast.FuncDecl).Type
}

// params returns the parameters of f, a function; nil stands for one without a name.
func params(info *types.Info, f ast.Node) (vars []*types.Var) {
	for _, field := range typeOf(f).Params.List {
		if len(field.Names) == 0 {
			vars = append(vars, nil)
		}
		for _, name := range field.Names {
			v, _ := info.Defs[name].(*types.Var)
			vars = append(vars, v)
		}
	}
	return vars
}

// taskContexts returns the variables that hold the context of the task that f is, or one
// derived from it, all through f: its first parameter of type context.Context, and what
// was made of that by functions of package context that keep the task's end.
func taskContexts(info *types.Info, f ast.Node) map[*types.Var]bool {
	own := make(map[*types.Var]bool)
	for _, v := range params(info, f) {
		if v != nil && isType(v.Type(), "context", "Context") {
			own[v] = true
			break
		}
	}
	if len(own) == 0 {
		return own
	}
	foreign := make(map[*types.Var]bool)
	ast.Inspect(bodyOf(f), func(n ast.Node) bool {
		assign, ok := n.(*ast.AssignStmt)
		if !ok {
			return true
		}
		for i, to := range assign.Lhs {
			v := varOf(info, to)
			if v == nil || !isType(v.Type(), "context", "Context") {
				continue
			}
			if from := assign.Rhs[min(i, len(assign.Rhs)-1)]; derives(info, from, own) {
				own[v] = true
			} else {
				foreign[v] = true
			}
		}
		return true
	})
	for v := range foreign {
		delete(own, v)
	}
	return own
}

// derives reports whether e is one of the contexts in own, or made of one by package context
// or errgroup so that it ends no later.
func derives(info *types.Info, e ast.Expr, own map[*types.Var]bool) bool {
	if v := varOf(info, e); v != nil {
		return own[v]
	}
	call, ok := ast.Unparen(e).(*ast.CallExpr)
	if !ok || len(call.Args) == 0 {
		return false
	}
	fn, ok := typeutil.Callee(info, call).(*types.Func)
	if !ok || fn.Pkg() == nil || fn.Signature().Recv() != nil {
		return false
	}
	switch fn.Pkg().Path() {
	case "context":
		if fn.Name() == "WithoutCancel" {
			return false
		}
	case "golang.org/x/sync/errgroup":
	default:
		return false
	}
	return derives(info, call.Args[0], own)
}

// waitsItself reports whether f, a task, waits in a way that package taskpool does not
// know of: for a channel, or in a method named Wait such as that of a sync.WaitGroup. Then it
// may know when its children or its goroutines are done.
func (t *taskFuncs) waitsItself(info *types.Info, f ast.Node) bool {
	found := false
	ast.Inspect(bodyOf(f), func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return !t.direct[n]
		case *ast.GoStmt:
			return false
		case *ast.UnaryExpr:
			found = found || n.Op == token.ARROW
		case *ast.SelectStmt:
			found = true
		case *ast.RangeStmt:
			if tv, ok := info.Types[n.X]; ok && tv.Type != nil {
				_, ch := tv.Type.Underlying().(*types.Chan)
				found = found || ch
			}
		case *ast.CallExpr:
			if sel, ok := ast.Unparen(n.Fun).(*ast.SelectorExpr); ok && sel.Sel.Name == "Wait" {
				found = found || called(info, n) == ""
			}
		}
		return !found
	})
	return found
}
