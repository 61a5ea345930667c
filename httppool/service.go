package httppool

import (
	"runtime"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/comeback"
)

// A service is what all handlers of a pool, its Transport, Ready and Shutdown share. It must
// not refer to the pool.
type service struct {
	draining atomic.Bool
	calls    sync.Map // of string to struct{}: what tells the requests that its tasks have under way
	waits    comeback.Waits
}

var services struct {
	mu sync.Mutex // protects the field below
	of map[weak.Pointer[taskpool.Pool]]*service
}

// serviceOf returns the service of p, which is not nil.
func serviceOf(p *taskpool.Pool) *service {
	key := weak.Make(p)
	services.mu.Lock()
	defer services.mu.Unlock()
	s := services.of[key]
	if s == nil {
		s = new(service)
		if services.of == nil {
			services.of = make(map[weak.Pointer[taskpool.Pool]]*service)
		}
		services.of[key] = s
		runtime.AddCleanup(p, func(key weak.Pointer[taskpool.Pool]) {
			services.mu.Lock()
			defer services.mu.Unlock()
			delete(services.of, key)
		}, key)
	}
	return s
}
