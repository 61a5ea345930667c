// Package perpool keeps what a package knows about each pool.
package perpool

import (
	"runtime"
	"sync"
	"weak"

	"github.com/taskpool-go/taskpool"
)

// A Map has a T for each pool that it was asked for. A pool's is forgotten with the pool, so it must
// not refer to that. The zero Map is ready for use, and must not go itself.
type Map[T any] struct {
	mu sync.Mutex // protects the field below
	of map[weak.Pointer[taskpool.Pool]]*T
}

// Of returns p's T, which is zero at first. p must not be nil.
func (m *Map[T]) Of(p *taskpool.Pool) *T {
	key := weak.Make(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.of[key]
	if t == nil {
		t = new(T)
		if m.of == nil {
			m.of = make(map[weak.Pointer[taskpool.Pool]]*T)
		}
		m.of[key] = t
		runtime.AddCleanup(p, m.forget, key)
	}
	return t
}

func (m *Map[T]) forget(key weak.Pointer[taskpool.Pool]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, key)
}

// Len returns of how many pools m knows.
func (m *Map[T]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.of)
}
