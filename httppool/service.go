package httppool

import (
	"sync/atomic"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/comeback"
	"github.com/taskpool-go/taskpool/internal/perpool"
)

// A service is what all handlers of a pool, Ready and Shutdown share.
type service struct {
	draining atomic.Bool
	waits    comeback.Waits
}

var services perpool.Map[service]

// serviceOf returns the service of p, which is not nil.
func serviceOf(p *taskpool.Pool) *service { return services.Of(p) }
