package taskpoolvet

import (
	"go/ast"
	"go/types"
	"strings"

	"golang.org/x/tools/go/types/typeutil"
)

const taskpoolPath = "github.com/taskpool-go/taskpool"

// What the analyzers know of package taskpool, by the names that called returns. A test
// compares the names with the package.
var (
	// safePoints give the slot back wherever they stand in a task, and do nothing of
	// interest outside one.
	safePoints = set("Yield", "Block")

	// waits give the slot back when they are called in a task.
	waits = set("Call", "Join", "Map", "MapLimit", "MapUnordered", "Handle.Wait", "Future.Wait", "Future.Get",
		"Group.Wait", "Pool.Do", "Periodic.Wait", "Pool.WaitIdle", "Pool.WaitRunning", "Pool.Shutdown")

	// contextOf says which argument is the context that a wait or a safe point is called with.
	contextOf = map[string]int{"Yield": 0, "Block": 0, "Call": 0, "Join": 0, "Map": 0, "MapLimit": 0, "MapUnordered": 0,
		"Handle.Wait": 0, "Future.Wait": 0, "Future.Get": 0, "Pool.Do": 0, "Pool.WaitIdle": 0, "Pool.WaitRunning": 0, "Pool.Shutdown": 0,
		"Periodic.Wait": 0}

	// runs says which argument is a function that is to run as a task.
	runs = map[string]int{"Pool.Go": 1, "Pool.TryGo": 1, "SubmitFunc": 3, "Call": 3, "Join": 4, "Map": 4,
		"MapLimit": 5, "MapUnordered": 5, "Group.Go": 0, "Pool.Do": 2}

	// submits says which argument is the context that governs the new task.
	submits = map[string]int{"Pool.Submit": 0, "Pool.TrySubmit": 0, "Pool.SubmitWithin": 1, "SubmitFunc": 0, "Every": 0}

	// mustCheck are the calls whose error says that something was not accepted, or not
	// finished, and that have no other way to say so.
	mustCheck = set("New", "Pool.Go", "Pool.TryGo", "Pool.Submit", "Pool.TrySubmit",
		"Pool.SubmitWithin", "SubmitFunc", "Pool.Do", "Every", "Pool.Resize", "Pool.Shutdown")

	// starts are the methods of a Pool, and usesPool the functions and their argument, that
	// make a pool start goroutines.
	starts   = set("Pool.Go", "Pool.TryGo", "Pool.Submit", "Pool.TrySubmit", "Pool.SubmitWithin", "Pool.Do", "Pool.Group")
	usesPool = map[string]int{"SubmitFunc": 1, "Call": 1, "Join": 1, "Map": 1, "MapLimit": 1, "MapUnordered": 1, "Every": 1}

	// uncopyable are the types that must not be copied.
	uncopyable = set("Pool", "Handle", "Group", "Periodic")
)

func set(names ...string) map[string]bool {
	s := make(map[string]bool, len(names))
	for _, n := range names {
		s[n] = true
	}
	return s
}

// called returns the name of what call calls if that is a function or method of package
// taskpool, such as "Yield" or "Pool.Submit", and "" otherwise.
func called(info *types.Info, call *ast.CallExpr) string {
	fn, ok := typeutil.Callee(info, call).(*types.Func)
	if !ok || !inTaskpool(fn) {
		return ""
	}
	recv := fn.Signature().Recv()
	if recv == nil {
		return fn.Name()
	}
	if sel, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr); !ok || info.Selections[sel] == nil ||
		info.Selections[sel].Kind() != types.MethodVal {
		return "" // a method expression, whose arguments stand elsewhere
	}
	if named := namedType(recv.Type()); named != nil {
		return named.Obj().Name() + "." + fn.Name()
	}
	return ""
}

// inTaskpool reports whether obj belongs to package taskpool, also if that was built for a test.
func inTaskpool(obj types.Object) bool {
	return obj.Pkg() != nil && pathOf(obj.Pkg()) == taskpoolPath
}

// pathOf returns the import path of pkg without the mark of a build for a test.
func pathOf(pkg *types.Package) string {
	path, _, _ := strings.Cut(pkg.Path(), " ")
	return path
}

// namedType returns the named type that t is or points to, or nil.
func namedType(t types.Type) *types.Named {
	if p, ok := types.Unalias(t).(*types.Pointer); ok {
		t = p.Elem()
	}
	named, _ := types.Unalias(t).(*types.Named)
	return named
}

// isTaskpoolType reports whether t is package taskpool's type of that name, not a pointer to it.
func isTaskpoolType(t types.Type, name string) bool {
	named, ok := types.Unalias(t).(*types.Named)
	return ok && named.Obj().Name() == name && inTaskpool(named.Obj())
}

// isType reports whether t is the named type of the package with that path, or a pointer to it.
func isType(t types.Type, path, name string) bool {
	named := namedType(t)
	return named != nil && named.Obj().Name() == name && named.Obj().Pkg() != nil && pathOf(named.Obj().Pkg()) == path
}

// varOf returns the variable that e names, or nil.
func varOf(info *types.Info, e ast.Expr) *types.Var {
	id, ok := ast.Unparen(e).(*ast.Ident)
	if !ok {
		return nil
	}
	v, _ := info.ObjectOf(id).(*types.Var)
	return v
}

// arg returns the i-th argument of call, or nil.
func arg(call *ast.CallExpr, i int) ast.Expr {
	if i < len(call.Args) {
		return call.Args[i]
	}
	return nil
}
