package taskpoolvet

import (
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strings"

	"golang.org/x/tools/go/types/typeutil"
)

const pgxpoolPath = "github.com/jackc/pgx/v5/pgxpool"

// connections are the types that stand for a connection that others wait for, with the
// methods that give it back. Rows give it back too when Next returns false.
var connections = map[string][]string{
	"database/sql.Conn":            {"Close"},
	"database/sql.Tx":              {"Commit", "Rollback"},
	"database/sql.Rows":            {"Close"},
	pgxpoolPath + ".Conn":          {"Release", "Hijack"},
	"github.com/jackc/pgx/v5.Tx":   {"Commit", "Rollback"}, // if they come from a pool
	"github.com/jackc/pgx/v5.Rows": {"Close"},
}

type effectKind int

const (
	acquire effectKind = iota
	release            // of resource
	assign             // to the variable or field in resource
	forget             // anything may have been released
	wait               // the slot is given back
)

// An effect is what a part of a statement does to what is held.
type effect struct {
	kind     effectKind
	resource resource
	name     string // acquire: of the resource; wait: of what waits
	at       ast.Node
	unsure   *types.Var
}

// reaches reports whether r is another resource after e, an assignment.
func (e effect) reaches(r resource) bool {
	return e.resource.base == r.base && (r.path == e.resource.path || strings.HasPrefix(r.path, e.resource.path+"."))
}

// apply changes h as e says.
func (h holdings) apply(e effect) {
	switch e.kind {
	case acquire:
		h[e.resource] = holding{name: e.name, since: e.at, unsure: e.unsure}
	case release:
		delete(h, e.resource)
	case assign:
		// An error that is set anew no longer tells whether the resource is held.
		maps.DeleteFunc(h, func(r resource, held holding) bool {
			return e.reaches(r) || held.unsure != nil && e.resource == resource{base: held.unsure}
		})
	case forget:
		clear(h)
	}
}

// effectsOf returns the effects of n, a node of the control flow, in the order in which they happen.
func (h *holder) effectsOf(n ast.Node) []effect {
	effects, ok := h.effects[n]
	if !ok {
		effects = h.findEffects(n)
		h.effects[n] = effects
	}
	return effects
}

func (h *holder) findEffects(n ast.Node) (effects []effect) {
	info := h.pass.TypesInfo
	if v := varOfNode(info, n); v != nil {
		// The tag of a switch, or a variable of a range: nothing more is known of an error.
		return []effect{{kind: assign, resource: resource{base: v}}}
	}
	var open []ast.Node
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit, *ast.GoStmt, *ast.DeferStmt:
			return false
		case nil:
			last := open[len(open)-1]
			open = open[:len(open)-1]
			effects = append(effects, h.own(last)...)
			return true
		default:
			open = append(open, n)
			return true
		}
	})
	return effects
}

func varOfNode(info *types.Info, n ast.Node) *types.Var {
	if e, ok := n.(ast.Expr); ok {
		return varOf(info, e)
	}
	return nil
}

// own returns the effects of n itself, which come after those of its parts.
func (h *holder) own(n ast.Node) (effects []effect) {
	info := h.pass.TypesInfo
	switch n := n.(type) {
	case *ast.CallExpr:
		if locks, ok := lockCall(info, n); ok {
			return []effect{locks}
		}
		if r, ok := releaseOfConnection(info, n); ok {
			return []effect{{kind: release, resource: r, at: n}}
		}
		name := called(info, n)
		if safePoints[name] || h.inTask && waits[name] && (name != "Map" && name != "MapLimit" || h.ranged[n]) {
			return []effect{{kind: wait, name: name, at: n}}
		}
		if fn, ok := typeutil.Callee(info, n).(*types.Func); ok && h.releasers[fn.Origin()] {
			return []effect{{kind: forget}}
		}
	case *ast.AssignStmt:
		for _, to := range n.Lhs {
			if r, ok := resourceOf(info, to); ok {
				effects = append(effects, effect{kind: assign, resource: r})
			}
		}
		if len(n.Rhs) == 1 {
			effects = append(effects, taken(info, n.Lhs, n.Rhs[0])...)
		}
	case *ast.ValueSpec:
		if len(n.Values) == 1 {
			var to []ast.Expr
			for _, name := range n.Names {
				to = append(to, name)
			}
			effects = append(effects, taken(info, to, n.Values[0])...)
		}
	}
	return effects
}

// taken returns the connections that a call returns into variables.
func taken(info *types.Info, to []ast.Expr, value ast.Expr) (effects []effect) {
	call, ok := ast.Unparen(value).(*ast.CallExpr)
	if !ok {
		return nil
	}
	var unsure *types.Var
	for _, e := range to {
		if v := varOf(info, e); v != nil && types.Identical(v.Type(), types.Universe.Lookup("error").Type()) {
			unsure = v
		}
	}
	for _, e := range to {
		if v := varOf(info, e); v != nil && v.Name() != "_" && connection(v.Type()) != nil && pooled(info, call, v.Type()) {
			effects = append(effects, effect{kind: acquire, resource: resource{base: v}, name: v.Name(), at: call, unsure: unsure})
		}
	}
	return effects
}

// connection returns the methods that give a connection of type t back, or nil.
func connection(t types.Type) []string {
	if named := namedType(t); named != nil && named.Obj().Pkg() != nil {
		return connections[pathOf(named.Obj().Pkg())+"."+named.Obj().Name()]
	}
	return nil
}

// pooled reports whether what call returns as a connection of type t is out of a pool. The
// interfaces of package pgx stand for single connections too.
func pooled(info *types.Info, call *ast.CallExpr, t types.Type) bool {
	if !types.IsInterface(t) {
		return true
	}
	fn, ok := typeutil.Callee(info, call).(*types.Func)
	return ok && fn.Pkg() != nil && pathOf(fn.Pkg()) == pgxpoolPath
}

// releaseOfConnection returns the connection that call gives back.
func releaseOfConnection(info *types.Info, call *ast.CallExpr) (resource, bool) {
	sel, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr)
	if !ok {
		return resource{}, false
	}
	v := varOf(info, sel.X)
	if v == nil || !slices.Contains(connection(v.Type()), sel.Sel.Name) {
		return resource{}, false
	}
	return resource{base: v}, true
}

// lockCall returns what call does if it locks or unlocks something that can be named.
func lockCall(info *types.Info, call *ast.CallExpr) (effect, bool) {
	sel, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr)
	if !ok {
		return effect{}, false
	}
	e := effect{kind: acquire, at: call}
	if r, ok := lockMethod(info, sel); ok {
		e.resource, e.name = r, types.ExprString(sel.X)
	} else {
		return effect{}, false
	}
	if strings.HasSuffix(sel.Sel.Name, "nlock") {
		e.kind = release
	}
	return e, true
}

// lockMethod returns the lock whose method Lock, Unlock, RLock or RUnlock sel is.
func lockMethod(info *types.Info, sel *ast.SelectorExpr) (resource, bool) {
	other, ok := map[string]string{"Lock": "Unlock", "Unlock": "Lock", "RLock": "RUnlock", "RUnlock": "RLock"}[sel.Sel.Name]
	if !ok {
		return resource{}, false
	}
	s := info.Selections[sel]
	if s == nil || s.Kind() != types.MethodVal || !plain(s.Obj()) {
		return resource{}, false
	}
	if obj, _, _ := types.LookupFieldOrMethod(s.Recv(), true, s.Obj().Pkg(), other); !plain(obj) {
		return resource{}, false
	}
	r, ok := resourceOf(info, sel.X)
	r.read = sel.Sel.Name[0] == 'R'
	return r, ok
}

// plain reports whether obj is a function without parameters and results.
func plain(obj types.Object) bool {
	fn, ok := obj.(*types.Func)
	return ok && fn.Signature().Params().Len() == 0 && fn.Signature().Results().Len() == 0
}

// resourceOf returns the variable or field that e names, unless that needs a call or an index.
func resourceOf(info *types.Info, e ast.Expr) (resource, bool) {
	switch e := ast.Unparen(e).(type) {
	case *ast.Ident:
		v, ok := info.ObjectOf(e).(*types.Var)
		return resource{base: v}, ok
	case *ast.SelectorExpr:
		if v, ok := info.Uses[e.Sel].(*types.Var); ok && !v.IsField() {
			return resource{base: v}, true // of another package
		}
		r, ok := resourceOf(info, e.X)
		r.path += "." + e.Sel.Name
		return r, ok
	case *ast.StarExpr:
		return resourceOf(info, e.X)
	case *ast.UnaryExpr:
		if e.Op == token.AND {
			return resourceOf(info, e.X)
		}
	}
	return resource{}, false
}

// holdsAnything reports whether f takes a lock or a connection, so that there is something to follow.
func holdsAnything(info *types.Info, f ast.Node) bool {
	found := false
	inspectBody(f, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.CallExpr:
			e, ok := lockCall(info, n)
			found = found || ok && e.kind == acquire
		case *ast.Ident:
			if v, ok := info.Defs[n].(*types.Var); ok {
				found = found || connection(v.Type()) != nil
			}
		}
	})
	return found
}

// onlyUnlocks reports whether f unlocks and does not lock, so that its caller may no longer
// hold what it held.
func onlyUnlocks(f ast.Node) bool {
	locks, unlocks := false, false
	inspectBody(f, func(n ast.Node) {
		if call, ok := n.(*ast.CallExpr); ok {
			if sel, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr); ok {
				locks = locks || sel.Sel.Name == "Lock" || sel.Sel.Name == "RLock"
				unlocks = unlocks || sel.Sel.Name == "Unlock" || sel.Sel.Name == "RUnlock"
			}
		}
	})
	return unlocks && !locks
}

// survey finds what is released when f returns, what may be released where nothing is
// followed, and which connections others know.
func (h *holder) survey() {
	info := h.pass.TypesInfo
	followed := make(map[ast.Node]bool) // uses of a connection after which nobody else knows it
	deferred := make(map[ast.Node]bool) // literals that are called when f returns
	called := make(map[ast.Node]bool)   // selectors
	use := func(call *ast.CallExpr, atEnd bool) {
		sel, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr)
		if !ok {
			return
		}
		followed[ast.Unparen(sel.X)] = true
		if e, ok := lockCall(info, call); atEnd && ok && e.kind == release {
			h.deferred[e.resource] = true
		}
		if r, ok := releaseOfConnection(info, call); atEnd && ok {
			h.deferred[r] = true
		}
	}
	inspectBody(h.f, func(n ast.Node) {
		switch n := n.(type) {
		case *ast.CallExpr:
			use(n, false)
		case *ast.DeferStmt:
			use(n.Call, true)
			if lit, ok := ast.Unparen(n.Call.Fun).(*ast.FuncLit); ok {
				deferred[lit] = true
				inspectBody(lit, func(n ast.Node) {
					if call, ok := n.(*ast.CallExpr); ok {
						use(call, true)
					}
				})
			}
		case *ast.AssignStmt:
			for _, to := range n.Lhs {
				followed[ast.Unparen(to)] = true
			}
		case *ast.BinaryExpr:
			followed[ast.Unparen(n.X)] = true
			followed[ast.Unparen(n.Y)] = true
		}
	})
	ast.Inspect(bodyOf(h.f), func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			if !deferred[n] && onlyUnlocks(n) {
				h.loseUnlocked(n.Body)
			}
		case *ast.CallExpr:
			called[ast.Unparen(n.Fun)] = true
		case *ast.SelectorExpr:
			if !called[n] {
				h.loseUnlocked(n)
			}
		case *ast.Ident:
			if v, ok := info.Uses[n].(*types.Var); ok && !followed[n] && connection(v.Type()) != nil {
				h.escaped[resource{base: v}] = true
			}
		}
		return true
	})
}

// loseUnlocked notes that what n unlocks, or could, is unlocked nobody knows when.
func (h *holder) loseUnlocked(n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && strings.HasSuffix(sel.Sel.Name, "nlock") {
			if r, ok := lockMethod(h.pass.TypesInfo, sel); ok {
				h.lost[r] = true
			}
		}
		return true
	})
}

// refine takes from held what is not held if cond is truth.
func (h *holder) refine(held holdings, cond ast.Expr, truth bool) {
	cond = ast.Unparen(cond)
	switch c := cond.(type) {
	case *ast.UnaryExpr:
		if c.Op == token.NOT {
			h.refine(held, c.X, !truth)
			return
		}
	case *ast.BinaryExpr:
		if c.Op == token.LAND && truth || c.Op == token.LOR && !truth {
			h.refine(held, c.X, truth)
			h.refine(held, c.Y, truth)
			return
		}
	}
	info := h.pass.TypesInfo
	failed, isNil := comparedWithNil(info, cond)
	for r, is := range held {
		switch {
		case is.unsure != nil && failed == is.unsure:
			if isNil == truth {
				is.unsure = nil
				held[r] = is
			} else {
				delete(held, r)
			}
		case is.unsure != nil && mentions(info, cond, is.unsure):
			delete(held, r)
		case nextOf(info, cond) == r.base && r.base != nil:
			if !truth {
				delete(held, r)
			}
		case callsNextOf(info, cond, r.base):
			delete(held, r)
		}
	}
}

// comparedWithNil returns the variable that cond compares with nil, and whether it is true if it is nil.
func comparedWithNil(info *types.Info, cond ast.Expr) (v *types.Var, isNil bool) {
	c, ok := cond.(*ast.BinaryExpr)
	if !ok || c.Op != token.EQL && c.Op != token.NEQ {
		return nil, false
	}
	x, y := c.X, c.Y
	if info.Types[x].IsNil() {
		x, y = y, x
	}
	if !info.Types[y].IsNil() {
		return nil, false
	}
	return varOf(info, x), c.Op == token.EQL
}

func mentions(info *types.Info, e ast.Expr, v types.Object) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && info.Uses[id] == v {
			found = true
		}
		return !found
	})
	return found
}

// nextOf returns the rows whose Next e calls, or nil.
func nextOf(info *types.Info, e ast.Expr) types.Object {
	call, ok := ast.Unparen(e).(*ast.CallExpr)
	if !ok {
		return nil
	}
	sel, ok := ast.Unparen(call.Fun).(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != "Next" {
		return nil
	}
	if v := varOf(info, sel.X); v != nil && connection(v.Type()) != nil {
		return v
	}
	return nil
}

func callsNextOf(info *types.Info, e ast.Expr, v types.Object) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok && v != nil && nextOf(info, e) == v {
			found = true
		}
		return !found
	})
	return found
}

// mayReturn reports whether a function goes on after call.
func mayReturn(info *types.Info, call *ast.CallExpr) bool {
	switch fn := typeutil.Callee(info, call).(type) {
	case *types.Builtin:
		return fn.Name() != "panic"
	case *types.Func:
		name := fn.Name()
		if fn.Pkg() == nil {
			return true
		}
		switch fn.Pkg().Path() {
		case "os":
			return name != "Exit"
		case "runtime":
			return name != "Goexit"
		case "log":
			return !strings.HasPrefix(name, "Fatal") && !strings.HasPrefix(name, "Panic")
		case "testing":
			return !strings.HasPrefix(name, "Fatal") && !strings.HasPrefix(name, "Skip") && name != "FailNow"
		}
	}
	return true
}
