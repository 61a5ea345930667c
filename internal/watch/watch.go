// Package watch keeps the pools that somebody watches, and what there is of each.
package watch

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
)

// Pools are pools that are watched, each with a W of its own. The zero value is empty.
// Hooks, which know a pool's name, look one up without a lock.
type Pools[W any] struct {
	mu     sync.Mutex // held while the set changes
	byName atomic.Pointer[map[string]*W]
	all    atomic.Pointer[[]watched[W]] // in order of Watch; what it points to does not change
}

type watched[W any] struct {
	pool *taskpool.Pool
	w    *W
}

// Named returns what belongs to the pool of a name, nil if none is watched.
func (s *Pools[W]) Named(name string) *W {
	if byName := s.byName.Load(); byName != nil {
		return (*byName)[name]
	}
	return nil
}

// All yields the pools watched, in order of Watch.
func (s *Pools[W]) All(yield func(*taskpool.Pool, *W) bool) {
	for _, w := range s.list() {
		if !yield(w.pool, w.w) {
			return
		}
	}
}

func (s *Pools[W]) list() []watched[W] {
	if all := s.all.Load(); all != nil {
		return *all
	}
	return nil
}

// Rules say which pools may be watched together.
type Rules struct {
	Package string // that errors begin with
	Unwatch string // the method that they name
	UTF8    bool   // whether names must be in UTF-8

	// Label returns what becomes of a name: no two pools may share that. Nil: the name.
	Label func(name string) string

	// Succeed says whether a pool that was shut down gives way to another of its name,
	// which takes its place.
	Succeed bool
}

func (r *Rules) label(p *taskpool.Pool) string {
	if r.Label == nil {
		return p.Name()
	}
	return r.Label(p.Name())
}

// Watch adds pools, with what make returns for each. A pool that is watched already
// stays as it is. In case of an error none is added.
func (s *Pools[W]) Watch(r Rules, pools []*taskpool.Pool, make func(*taskpool.Pool) *W) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.list())
	for i, p := range pools {
		what := fmt.Sprintf("%s: Watch: pool %d", r.Package, i+1)
		if err := remote.CheckPool(what, p); err != nil {
			return err
		}
		name := p.Name()
		if r.UTF8 && !utf8.ValidString(name) {
			return fmt.Errorf("%s must have a name in UTF-8, got %q (see taskpool.WithName)", what, name)
		}
		at := slices.IndexFunc(all, func(w watched[W]) bool { return r.label(w.pool) == r.label(p) })
		switch {
		case at < 0:
			all = append(all, watched[W]{p, make(p)})
		case all[at].pool == p:
		case r.Succeed && errors.Is(all[at].pool.Health(), taskpool.ErrClosed):
			all[at] = watched[W]{p, make(p)}
		default:
			return fmt.Errorf("%s must have a name of its own, got %q, which another pool has (see taskpool.WithName and %s)", what, name, r.Unwatch)
		}
	}
	s.storeLocked(all)
	return nil
}

// Unwatch removes a pool. It reports whether it was watched.
func (s *Pools[W]) Unwatch(p *taskpool.Pool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.list()
	i := slices.IndexFunc(all, func(w watched[W]) bool { return w.pool == p })
	if i < 0 {
		return false
	}
	s.storeLocked(slices.Delete(slices.Clone(all), i, i+1))
	return true
}

func (s *Pools[W]) storeLocked(all []watched[W]) {
	byName := make(map[string]*W, len(all))
	for _, w := range all {
		byName[w.pool.Name()] = w.w
	}
	s.all.Store(&all)
	s.byName.Store(&byName)
}
