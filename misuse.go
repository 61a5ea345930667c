package taskpool

import (
	"context"
	"fmt"

	"github.com/taskpool-go/taskpool/internal/remote"
)

// What cannot be meant, as a nil context or function, or a Pool, Handle, Group or Future
// that is nil, zero or a copy (of a Future a copy is as good), is refused by each call
// before it has done anything: with an error that names the call where it returns one,
// and else by a panic with the same text.

// nilArgument is the error of a call whose argument is nil.
func nilArgument(call, name string) error {
	return fmt.Errorf("taskpool: %s: %s must not be nil", call, name)
}

// misused reports whether p is none of New's pools.
func misused(p *Pool) bool { return p == nil || p.self != p }

// poolMisuse is the error of a call with a pool that is misused.
func poolMisuse(p *Pool, call string) error {
	return fmt.Errorf("taskpool: %s: the Pool must be one that New has returned, got %s", call, whatElse(p))
}

// whatElse says what p is if it is misused, else "".
func whatElse(p *Pool) string {
	switch {
	case p == nil:
		return "nil"
	case p.self == nil:
		return "a zero Pool"
	case p.self != p:
		return "a copy"
	}
	return ""
}

func init() { // what the packages around this one use
	remote.PoolMisuse = func(pool any) string { return whatElse(pool.(*Pool)) }
	remote.TaskHere = func() context.Context {
		if a := currentAttempt(); a != nil {
			return a
		}
		return nil
	}
}

// mustBeUsable panics in a call that returns no error if p is misused.
func (p *Pool) mustBeUsable(call string) {
	if misused(p) {
		panic(poolMisuse(p, call).Error())
	}
}

// misuse returns the error of a call with a handle that is nil, zero or a copy, else nil.
func (h *Handle) misuse(call string) error {
	switch {
	case h == nil:
		return fmt.Errorf("taskpool: %s: the Handle must be one that Submit has returned, got nil", call)
	case h.pool == nil:
		return fmt.Errorf("taskpool: %s: the Handle must be one that Submit has returned, got a zero Handle", call)
	case h.self != h:
		return fmt.Errorf("taskpool: %s: the Handle must be one that Submit has returned, got a copy", call)
	}
	return nil
}

// mustBeUsable panics in a call that returns no error of its own if h is misused.
func (h *Handle) mustBeUsable(call string) {
	if err := h.misuse(call); err != nil {
		panic(err.Error())
	}
}

// misuse returns the error of a call with a group that is nil, zero or a copy, else nil.
func (g *Group) misuse(call string) error {
	switch {
	case g == nil:
		return fmt.Errorf("taskpool: %s: the Group must be one that Pool.Group has returned, got nil", call)
	case g.p == nil:
		return fmt.Errorf("taskpool: %s: the Group must be one that Pool.Group has returned, got a zero Group", call)
	case g.self != g:
		return fmt.Errorf("taskpool: %s: the Group must be one that Pool.Group has returned, got a copy", call)
	}
	return nil
}

// mustBeUsable panics in a call that returns no error if g is misused.
func (g *Group) mustBeUsable(call string) {
	if err := g.misuse(call); err != nil {
		panic(err.Error())
	}
}

// futureMisuse is the error of a call with a future that is nil or zero.
func futureMisuse(call string) error {
	return fmt.Errorf("taskpool: Future.%s: the Future must be one that SubmitFunc has returned, got nil or a zero Future", call)
}
