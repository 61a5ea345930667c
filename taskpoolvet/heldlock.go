package taskpoolvet

import (
	"fmt"
	"go/ast"
	"go/types"
	"maps"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/cfg"
)

// HeldLock reports locks and pooled connections that are held where a task gives its slot
// back.
var HeldLock = document(&analysis.Analyzer{
	Name:     "heldlock",
	Requires: []*analysis.Analyzer{tasks},
	Run:      runHeldLock,
})

func runHeldLock(pass *analysis.Pass) (any, error) {
	t := pass.ResultOf[tasks].(*taskFuncs)
	releasers := make(map[*types.Func]bool)
	for fn, decl := range t.decls {
		if onlyUnlocks(decl) {
			releasers[fn] = true
		}
	}
	for _, f := range t.all {
		if holdsAnything(pass.TypesInfo, f) {
			newHolder(pass, f, t.within[f], releasers).check()
		}
	}
	return nil, nil
}

// A resource is a lock or a connection: a variable and the fields that lead on from it. The
// two ways to lock an RWMutex are two resources.
type resource struct {
	base types.Object
	path string
	read bool
}

// A holding is a resource that is held. Unless unsure is nil it is held only if that
// error, which was returned along with it, is nil.
type holding struct {
	name   string
	since  ast.Node
	unsure *types.Var
}

// A holdings is what is held on every path that leads to a point.
type holdings map[resource]holding

// meet keeps in h what is held in o too, and reports whether h has changed.
func (h holdings) meet(o holdings) (changed bool) {
	for r, mine := range h {
		theirs, ok := o[r]
		switch {
		case !ok, mine.unsure != nil && theirs.unsure != nil && mine.unsure != theirs.unsure:
			delete(h, r)
			changed = true
		case mine.unsure == nil && theirs.unsure != nil:
			h[r] = theirs
			changed = true
		}
	}
	return changed
}

// A holder follows one function. Its flow is that of the function's statements: what is
// deferred, started as a goroutine or stands in another function is not followed.
type holder struct {
	pass      *analysis.Pass
	f         ast.Node
	inTask    bool
	releasers map[*types.Func]bool // the functions of the package that unlock and do not lock
	ranged    map[*ast.CallExpr]bool
	effects   map[ast.Node][]effect

	deferred map[resource]bool // released when the function returns
	lost     map[resource]bool // may be released in ways that are not followed
	escaped  map[resource]bool // connections that others know and may release
}

func newHolder(pass *analysis.Pass, f ast.Node, inTask bool, releasers map[*types.Func]bool) *holder {
	h := &holder{
		pass: pass, f: f, inTask: inTask, releasers: releasers,
		ranged:   make(map[*ast.CallExpr]bool),
		effects:  make(map[ast.Node][]effect),
		deferred: make(map[resource]bool),
		lost:     make(map[resource]bool),
		escaped:  make(map[resource]bool),
	}
	inspectBody(f, func(n ast.Node) {
		if r, ok := n.(*ast.RangeStmt); ok {
			if call, ok := ast.Unparen(r.X).(*ast.CallExpr); ok {
				h.ranged[call] = true
			}
		}
	})
	h.survey()
	return h
}

// check reports the waits at which something is held.
func (h *holder) check() {
	g := cfg.New(bodyOf(h.f), func(call *ast.CallExpr) bool { return mayReturn(h.pass.TypesInfo, call) })
	before := h.solve(g)
	reported := make(map[ast.Node]bool)
	for _, b := range g.Blocks {
		in, ok := before[b]
		if !ok {
			continue
		}
		in = maps.Clone(in)
		for i, n := range b.Nodes {
			for j, e := range h.effectsOf(n) {
				if e.kind == wait && !reported[e.at] {
					for r, held := range in {
						if held.unsure == nil && !h.lost[r] && h.releasedLater(b, i, j, r) {
							reported[e.at] = true
							h.report(e, held)
							break
						}
					}
				}
				in.apply(e)
			}
		}
	}
}

// solve returns what is held before each block that can be reached.
func (h *holder) solve(g *cfg.CFG) map[*cfg.Block]holdings {
	before := map[*cfg.Block]holdings{g.Blocks[0]: {}}
	work := []*cfg.Block{g.Blocks[0]}
	for len(work) > 0 {
		b := work[len(work)-1]
		work = work[:len(work)-1]
		after := maps.Clone(before[b])
		for _, n := range b.Nodes {
			for _, e := range h.effectsOf(n) {
				after.apply(e)
			}
		}
		for i, succ := range b.Succs {
			out := maps.Clone(after)
			if cond := condition(b); cond != nil {
				h.refine(out, cond, i == 0)
			}
			if in, seen := before[succ]; !seen {
				before[succ] = out
			} else if !in.meet(out) {
				continue
			}
			work = append(work, succ)
		}
	}
	return before
}

// condition returns the expression that decides which successor of b is next, or nil.
func condition(b *cfg.Block) ast.Expr {
	if len(b.Succs) != 2 || len(b.Nodes) == 0 {
		return nil
	}
	e, _ := b.Nodes[len(b.Nodes)-1].(ast.Expr)
	return e
}

// releasedLater reports whether r, held at effect j of node i of b, is certain to be so: the
// function releases it when it returns, or on a way that leads on from there.
func (h *holder) releasedLater(b *cfg.Block, i, j int, r resource) bool {
	if h.deferred[r] && !h.escaped[r] {
		return true
	}
	seen := make(map[*cfg.Block]bool)
	var from func(b *cfg.Block, i, j int) bool
	from = func(b *cfg.Block, i, j int) bool {
		for ; i < len(b.Nodes); i, j = i+1, 0 {
			for _, e := range h.effectsOf(b.Nodes[i])[j:] {
				switch {
				case e.kind == release && e.resource == r:
					return true
				case e.kind == acquire && e.resource == r, e.kind == assign && e.reaches(r), e.kind == forget:
					return false
				}
			}
		}
		for _, succ := range b.Succs {
			if !seen[succ] {
				seen[succ] = true
				if from(succ, 0, 0) {
					return true
				}
			}
		}
		return false
	}
	return from(b, i, j+1)
}

func (h *holder) report(e effect, held holding) {
	since := h.pass.Fset.Position(held.since.Pos())
	report(h.pass, analysis.Diagnostic{
		Pos: e.at.Pos(),
		End: e.at.End(),
		Message: fmt.Sprintf("%s, taken in line %d, is held across %s: the task that gets the slot may need it",
			held.name, since.Line, e.name),
		Related: []analysis.RelatedInformation{{Pos: held.since.Pos(), End: held.since.End(), Message: held.name + " is taken here"}},
	})
}
