package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
)

// A mutant is one change of the source.
type mutant struct {
	key
	id   int
	lino int
}

func (m mutant) String() string {
	return fmt.Sprintf("%s:%d\t%s\t%s\t%s", m.file, m.lino, m.function, m.line, m.change)
}

// A rewriter puts all mutants of one file into its text. It changes text rather
// than the tree and adds no line, so that a stack shows the lines of the source.
type rewriter struct {
	fset   *token.FileSet
	file   *token.File
	name   string
	src    []byte
	info   *types.Info
	pkg    *types.Package
	names  map[string]string // of the imported packages, by path
	active func(id int) bool // mutants that are left out have no text

	nextID   int
	mutants  []mutant
	seen     map[key]int
	function string
	stack    []frame
	outer    map[ast.Node][]wrapping // asked for by a node further out
	edits    []edit
}

// A frame is a node that the walk is in.
type frame struct {
	node   ast.Node
	closed []string // what to put behind it, innermost last
}

// A wrapping is text to be put before and behind a node.
type wrapping struct{ open, closed string }

// An edit replaces the text from off to end.
type edit struct {
	off, end int
	text     string
}

// rewrite returns the mutants of f, numbered from firstID, and the text that has
// them.
func (r *rewriter) rewrite(f *ast.File, firstID int) (mutants []mutant, text []byte) {
	r.nextID = firstID
	r.seen = make(map[key]int)
	r.outer = make(map[ast.Node][]wrapping)
	r.names = make(map[string]string)
	for _, imp := range f.Imports {
		path, _ := strconv.Unquote(imp.Path.Value)
		if imp.Name != nil {
			r.names[path] = imp.Name.Name
		} else {
			for _, p := range r.pkg.Imports() {
				if p.Path() == path {
					r.names[path] = p.Name()
				}
			}
		}
	}
	for _, d := range f.Decls {
		r.function = "-"
		switch d := d.(type) {
		case *ast.FuncDecl:
			r.function = functionName(d)
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue
			}
		}
		ast.Inspect(d, func(n ast.Node) bool {
			if n == nil {
				r.leave()
				return true
			}
			return r.enter(n)
		})
	}
	// What closes a node stands before an operator that follows it at once.
	slices.SortStableFunc(r.edits, func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(btoi(a.end > a.off), btoi(b.end > b.off)))
	})
	at := 0
	for _, e := range r.edits {
		text = append(append(text, r.src[at:e.off]...), e.text...)
		at = e.end
	}
	return r.mutants, append(text, r.src[at:]...)
}

// functionName returns the name of d with its receiver's type.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	t, star := d.Recv.List[0].Type, ""
	if s, ok := t.(*ast.StarExpr); ok {
		t, star = s.X, "*"
	}
	switch x := t.(type) { // without type parameters
	case *ast.IndexExpr:
		t = x.X
	case *ast.IndexListExpr:
		t = x.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return "(" + star + id.Name + ")." + d.Name.Name
	}
	return d.Name.Name
}

func (r *rewriter) parent() ast.Node {
	if len(r.stack) < 2 {
		return nil
	}
	return r.stack[len(r.stack)-2].node
}

func (r *rewriter) enter(n ast.Node) bool {
	if e, ok := n.(ast.Expr); ok {
		tv := r.info.Types[e]
		if tv.IsType() {
			return false
		}
		if tv.Value != nil && !r.literal(e) { // nothing in a constant changes
			for _, w := range r.outer[n] {
				r.edit(n.Pos(), n.Pos(), w.open)
			}
			for _, w := range slices.Backward(r.outer[n]) {
				r.edit(n.End(), n.End(), w.closed)
			}
			return false // ast.Inspect does not tell its end then
		}
	}
	r.stack = append(r.stack, frame{node: n})
	for _, w := range r.outer[n] {
		r.wrap(w.open, w.closed)
	}
	r.visit(n)
	return true
}

// literal reports whether e is one of the constants that are changed.
func (r *rewriter) literal(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Value == "0" || e.Value == "1"
	case *ast.Ident:
		return r.info.Uses[e] == types.Universe.Lookup("true") || r.info.Uses[e] == types.Universe.Lookup("false")
	}
	return false
}

func (r *rewriter) leave() {
	f := r.stack[len(r.stack)-1]
	r.stack = r.stack[:len(r.stack)-1]
	for _, text := range slices.Backward(f.closed) {
		r.edit(f.node.End(), f.node.End(), text)
	}
}

func (r *rewriter) edit(from, to token.Pos, text string) {
	r.edits = append(r.edits, edit{r.file.Offset(from), r.file.Offset(to), text})
}

// wrap puts text around the node that the walk is at, within what is around it
// already.
func (r *rewriter) wrap(open, closed string) {
	f := &r.stack[len(r.stack)-1]
	r.edit(f.node.Pos(), f.node.Pos(), open)
	f.closed = append(f.closed, closed)
}

// around has text put around a node that the walk has yet to come to.
func (r *rewriter) around(n ast.Node, open, closed string) {
	r.outer[n] = append(r.outer[n], wrapping{open, closed})
}

// A change is a mutant's number as text, "-1" if it is left out.
type change string

const noChange change = "-1"

// mutant adds the mutant that makes a change at n.
func (r *rewriter) mutant(n ast.Node, what string) change {
	id := r.nextID
	r.nextID++
	lino := r.file.Line(n.Pos())
	from := r.file.Offset(r.file.LineStart(lino))
	line, _, _ := strings.Cut(string(r.src[from:]), "\n")
	k := key{r.name, r.function, plain(line), what}
	if r.seen[k]++; r.seen[k] > 1 {
		k.change += fmt.Sprintf(" #%d", r.seen[k])
	}
	r.mutants = append(r.mutants, mutant{k, id, lino})
	if !r.active(id) {
		return noChange
	}
	return change(strconv.Itoa(id))
}

// some reports whether one of cs is there.
func some(cs ...change) bool {
	return slices.ContainsFunc(cs, func(c change) bool { return c != noChange })
}

// text returns the source of n, at most the beginning if it is long.
func (r *rewriter) text(n ast.Node) string {
	const most = 60
	s := plain(string(r.src[r.file.Offset(n.Pos()):r.file.Offset(n.End())]))
	if rs := []rune(s); len(rs) > most {
		s = string(rs[:most]) + "…"
	}
	return s
}

func plain(s string) string { return strings.Join(strings.Fields(s), " ") }

// visit adds the mutants of n.
func (r *rewriter) visit(n ast.Node) {
	switch n := n.(type) {
	case *ast.IfStmt:
		r.drop(n.Init)
		r.force(n.Cond, true)
	case *ast.ForStmt:
		r.drop(n.Init)
		if n.Cond != nil {
			r.force(n.Cond, false)
		}
	case *ast.SwitchStmt:
		r.drop(n.Init)
		if n.Tag == nil {
			for _, c := range n.Body.List {
				for _, e := range c.(*ast.CaseClause).List {
					r.force(e, true)
				}
			}
		}
	case *ast.BlockStmt:
		r.dropEach(n.List)
	case *ast.CaseClause:
		r.dropEach(n.Body)
	case *ast.CommClause:
		r.dropEach(n.Body)
	case *ast.BinaryExpr:
		r.binary(n)
	case *ast.UnaryExpr:
		if n.Op == token.NOT && r.isBool(n) {
			if c := r.mutant(n, r.text(n)+" → "+r.text(n.X)); some(c) {
				r.wrap("((", fmt.Sprintf(") != (mutant == %s))", c))
			}
		}
	case *ast.IncDecStmt:
		r.incDec(n)
	case *ast.AssignStmt:
		r.assign(n)
	case *ast.Ident:
		if r.literal(n) && r.isBool(n) {
			other := map[string]string{"true": "false", "false": "true"}[n.Name]
			if c := r.mutant(n, n.Name+" → "+other); some(c) {
				op := map[string]string{"true": "!=", "false": "=="}[n.Name]
				r.edit(n.Pos(), n.End(), fmt.Sprintf("(mutant %s %s)", op, c))
			}
		}
	case *ast.BasicLit:
		r.number(n)
	}
}

// force adds mutants in which the condition is always false and, if both is
// set, always true. It is still evaluated.
func (r *rewriter) force(cond ast.Expr, both bool) {
	if r.info.Types[cond].Value != nil || !r.isBool(cond) {
		return
	}
	always := noChange
	if both {
		always = r.mutant(cond, r.text(cond)+" → true")
	}
	never := r.mutant(cond, r.text(cond)+" → false")
	if some(always, never) {
		r.around(cond, "((", fmt.Sprintf(" || mutant == %s) && mutant != %s)", always, never))
	}
}

// dropEach adds mutants in which one of the statements is left out.
func (r *rewriter) dropEach(list []ast.Stmt) {
	for _, s := range list {
		if r.droppable(s) {
			if c := r.mutant(s, "drop "+r.text(s)); some(c) {
				r.around(s, fmt.Sprintf("if mutant != %s { ", c), " }")
			}
		}
	}
}

// drop adds the mutant in which s, the first part of an if and the like, is
// left out.
func (r *rewriter) drop(s ast.Stmt) {
	if s != nil && r.droppable(s) {
		if c := r.mutant(s, "drop "+r.text(s)); some(c) {
			r.around(s, fmt.Sprintf("func() { if mutant != %s { ", c), " } }()")
		}
	}
}

// droppable reports whether a program without s compiles and differs.
func (r *rewriter) droppable(s ast.Stmt) bool {
	switch s := s.(type) {
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		if !ok {
			return true // receives
		}
		id, ok := call.Fun.(*ast.Ident)
		return !ok || id.Name != "panic"
	case *ast.SendStmt, *ast.GoStmt, *ast.DeferStmt:
		return true
	case *ast.AssignStmt:
		if s.Tok == token.DEFINE || r.delta(s) {
			return false
		}
		return slices.ContainsFunc(s.Lhs, func(e ast.Expr) bool { return !blank(e) })
	}
	return false
}

func blank(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == "_"
}

var comparisons = map[token.Token]struct {
	function          string
	neighbors, negate []token.Token
}{
	token.LSS: {"mutantLess", []token.Token{token.LEQ}, []token.Token{token.GEQ}},
	token.LEQ: {"mutantLessEqual", []token.Token{token.LSS}, []token.Token{token.GTR}},
	token.GTR: {"mutantGreater", []token.Token{token.GEQ}, []token.Token{token.LEQ}},
	token.GEQ: {"mutantGreaterEqual", []token.Token{token.GTR}, []token.Token{token.LSS}},
	token.EQL: {"mutantEqual", []token.Token{token.LEQ, token.GEQ}, []token.Token{token.NEQ}},
	token.NEQ: {"mutantNotEqual", []token.Token{token.LSS, token.GTR}, []token.Token{token.EQL}},
}

func (r *rewriter) binary(n *ast.BinaryExpr) {
	with := func(op token.Token) change {
		return r.mutant(n, fmt.Sprintf("%s → %s %s %s", r.text(n), r.text(n.X), op, r.text(n.Y)))
	}
	call := func(function string, cs ...change) {
		if !some(cs...) {
			return
		}
		r.wrap(function+"(", ")")
		for _, c := range cs {
			r.edit(n.Pos(), n.Pos(), string(c)+", ")
		}
		r.edit(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), ",")
	}
	switch n.Op {
	case token.LAND, token.LOR:
		if r.isBool(n) {
			r.logical(n, with)
		}
	case token.LSS, token.LEQ, token.GTR, token.GEQ:
		how := comparisons[n.Op]
		call(how.function, with(how.neighbors[0]), with(how.negate[0]))
	case token.EQL, token.NEQ:
		how := comparisons[n.Op]
		if r.ordered(n) {
			call(how.function, with(how.neighbors[0]), with(how.neighbors[1]), with(how.negate[0]))
		} else if c := with(how.negate[0]); some(c) {
			r.wrap("((", fmt.Sprintf(") != (mutant == %s))", c))
		}
	case token.ADD:
		if r.isInteger(n) {
			call("mutantAdd", with(token.SUB))
		}
	case token.SUB:
		if r.isInteger(n) {
			call("mutantSub", with(token.ADD))
		}
	}
}

// logical adds the mutants of && and ||. The operator changes by de Morgan's
// law, so that each operand stands there once and is evaluated when it should.
func (r *rewriter) logical(n *ast.BinaryExpr, with func(token.Token) change) {
	other := token.LAND + token.LOR - n.Op
	swapped := with(other)
	onlyY := r.mutant(n, r.text(n)+" → "+r.text(n.Y))
	onlyX := r.mutant(n, r.text(n)+" → "+r.text(n.X))
	if !some(swapped, onlyX, onlyY) {
		return
	}
	xor := fmt.Sprintf(" != (mutant == %s))", swapped)
	r.wrap("((", ")"+xor)
	for e, without := range map[ast.Expr]change{n.X: onlyY, n.Y: onlyX} {
		if n.Op == token.LAND {
			r.around(e, "((", fmt.Sprintf(" || mutant == %s)%s", without, xor))
		} else {
			r.around(e, "(((", fmt.Sprintf(") && mutant != %s)%s", without, xor))
		}
	}
}

// ordered reports whether the operands of == or != are numbers of which one may
// as well be less as greater than the other.
func (r *rewriter) ordered(n *ast.BinaryExpr) bool {
	if !r.isInteger(n.X) || !r.isInteger(n.Y) {
		return false
	}
	for _, e := range []ast.Expr{n.X, n.Y} {
		if r.info.Types[e].Value != nil {
			if _, ok := e.(*ast.BasicLit); !ok {
				return false // one of several names
			}
			if e.(*ast.BasicLit).Value != "0" {
				continue
			}
			for _, o := range []ast.Expr{n.X, n.Y} {
				if b := r.basic(o); o != e && (b.Info()&types.IsUnsigned != 0 || isLen(o)) {
					return false
				}
			}
		}
	}
	return true
}

func isLen(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	id, ok := call.Fun.(*ast.Ident)
	return ok && (id.Name == "len" || id.Name == "cap")
}

func (r *rewriter) incDec(n *ast.IncDecStmt) {
	if !r.isInteger(n.X) {
		return
	}
	op, other := "+=", "--"
	if n.Tok == token.DEC {
		op, other = "-=", "++"
	}
	back := r.mutant(n, r.text(n)+" → "+r.text(n.X)+other)
	none := noChange
	if f, ok := r.parent().(*ast.ForStmt); !ok || f.Post != n { // a loop that does not get on would only waste time
		none = r.mutant(n, "drop "+r.text(n))
	}
	if some(back, none) {
		r.edit(n.TokPos, n.End(), fmt.Sprintf(" %s mutantDelta[%s](%s, %s, 1)", op, r.typeOf(n.X), back, none))
	}
}

// delta reports whether n adds to a number or subtracts from it.
func (r *rewriter) delta(n *ast.AssignStmt) bool {
	return (n.Tok == token.ADD_ASSIGN || n.Tok == token.SUB_ASSIGN) && r.isInteger(n.Lhs[0])
}

func (r *rewriter) assign(n *ast.AssignStmt) {
	if r.delta(n) {
		other := token.ADD_ASSIGN + token.SUB_ASSIGN - n.Tok
		back := r.mutant(n, fmt.Sprintf("%s → %s %s %s", r.text(n), r.text(n.Lhs[0]), other, r.text(n.Rhs[0])))
		none := r.mutant(n, "drop "+r.text(n))
		if some(back, none) {
			r.around(n.Rhs[0], fmt.Sprintf("mutantDelta[%s](%s, %s, ", r.typeOf(n.Lhs[0]), back, none), ")")
		}
		return
	}
	if n.Tok != token.ASSIGN || len(n.Lhs) < 2 || len(n.Rhs) != len(n.Lhs) {
		return
	}
	for i, l := range n.Lhs {
		if blank(l) || r.literal(n.Rhs[i]) || !repeatable(l) {
			continue
		}
		c := r.mutant(n, fmt.Sprintf("keep %s in %s", r.text(l), r.text(n)))
		if some(c) {
			old := r.src[r.file.Offset(l.Pos()):r.file.Offset(l.End())]
			r.around(n.Rhs[i], fmt.Sprintf("mutantKeep[%s](%s, %s, ", r.typeOf(l), c, old), ")")
		}
	}
}

// repeatable reports whether e may be evaluated once more without a difference.
func repeatable(e ast.Expr) bool {
	ok := true
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr, *ast.FuncLit:
			ok = false
		case *ast.UnaryExpr:
			ok = ok && n.Op != token.ARROW
		}
		return ok
	})
	return ok
}

// number adds the mutant of a 0 or a 1 that is returned or assigned.
func (r *rewriter) number(n *ast.BasicLit) {
	if n.Value != "0" && n.Value != "1" || !r.isInteger(n) {
		return
	}
	switch p := r.parent().(type) {
	case *ast.ReturnStmt:
	case *ast.AssignStmt:
		if p.Tok != token.ASSIGN && p.Tok != token.DEFINE {
			return
		}
	case *ast.ValueSpec: // of a variable, as constants are not walked
	case *ast.KeyValueExpr:
		if p.Value != n {
			return
		}
	default:
		return
	}
	other := map[string]string{"0": "1", "1": "0"}[n.Value]
	if c := r.mutant(n, n.Value+" → "+other); some(c) {
		r.wrap(fmt.Sprintf("mutantNumber[%s](%s, ", r.typeOf(n), c), ")")
	}
}

func (r *rewriter) basic(e ast.Expr) *types.Basic {
	if t := r.info.TypeOf(e); t != nil {
		if b, ok := t.Underlying().(*types.Basic); ok {
			return b
		}
	}
	return types.Typ[types.Invalid]
}

func (r *rewriter) isInteger(e ast.Expr) bool { return r.basic(e).Info()&types.IsInteger != 0 }

// isBool reports whether e is of the type bool itself.
func (r *rewriter) isBool(e ast.Expr) bool {
	t := r.info.TypeOf(e)
	return t != nil && (types.Unalias(t) == types.Typ[types.Bool] || types.Unalias(t) == types.Typ[types.UntypedBool])
}

// typeOf returns the type of e as the file would write it.
func (r *rewriter) typeOf(e ast.Expr) string {
	t := r.info.TypeOf(e)
	return types.TypeString(types.Default(t), func(p *types.Package) string {
		if p == r.pkg {
			return ""
		}
		return r.names[p.Path()]
	})
}

// helpers is the file that the changed ones refer to. %s is the package's name.
const helpers = `package %s

import (
	"cmp"
	"os"
	"strconv"
)

var mutant, _ = strconv.Atoi(os.Getenv("MUTANT"))

type mutantInteger interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

func mutantLess[T cmp.Ordered](neighbor, negated int, x, y T) bool {
	return mutant == neighbor && x <= y || mutant == negated && x >= y || mutant != neighbor && mutant != negated && x < y
}

func mutantLessEqual[T cmp.Ordered](neighbor, negated int, x, y T) bool {
	return mutant == neighbor && x < y || mutant == negated && x > y || mutant != neighbor && mutant != negated && x <= y
}

func mutantGreater[T cmp.Ordered](neighbor, negated int, x, y T) bool {
	return mutantLess(neighbor, negated, y, x)
}

func mutantGreaterEqual[T cmp.Ordered](neighbor, negated int, x, y T) bool {
	return mutantLessEqual(neighbor, negated, y, x)
}

func mutantEqual[T cmp.Ordered](less, greater, negated int, x, y T) bool {
	switch mutant {
	case less:
		return x <= y
	case greater:
		return x >= y
	}
	return (x == y) != (mutant == negated)
}

func mutantNotEqual[T cmp.Ordered](less, greater, negated int, x, y T) bool {
	switch mutant {
	case less:
		return x < y
	case greater:
		return x > y
	}
	return (x != y) != (mutant == negated)
}

func mutantAdd[T mutantInteger](n int, x, y T) T {
	if mutant == n {
		return x - y
	}
	return x + y
}

func mutantSub[T mutantInteger](n int, x, y T) T {
	if mutant == n {
		return x + y
	}
	return x - y
}

func mutantDelta[T mutantInteger](back, none int, d T) T {
	switch mutant {
	case back:
		return -d
	case none:
		return 0
	}
	return d
}

func mutantNumber[T mutantInteger](n int, x T) T {
	if mutant == n {
		return 1 - x
	}
	return x
}

func mutantKeep[T any](n int, before, after T) T {
	if mutant == n {
		return before
	}
	return after
}
`
