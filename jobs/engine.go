package jobs

import (
	"context"

	"github.com/taskpool-go/taskpool/jobs/internal/bridge"
)

// forEngine is a registry as package engine sees it, whose interface registry says what
// there must be.
type forEngine struct{ reg *Registry }

func (f forEngine) Policy(kind string) (Policy, bool) { return f.reg.policy(kind) }
func (f forEngine) Judge(m Meta, err error) Event     { return f.reg.judge(m, err) }
func (f forEngine) Tell(e Event)                      { f.reg.tell(e) }
func (f forEngine) Run(ctx context.Context, m Meta, payload []byte) error {
	return f.reg.run(ctx, m, payload)
}

func init() {
	bridge.Registry = func(reg any) any { return forEngine{reg.(*Registry)} }
	bridge.WithMeta = func(ctx context.Context, m any) context.Context { return withMeta(ctx, m.(Meta)) }
	bridge.Canceled = func(m any, err error) any { return canceledEvent(m.(Meta), context.Canceled, err) }
	bridge.Validate = func(r any) error { return r.(Request).validate() }
	bridge.ValidateFilter = func(f any) error { return f.(*Filter).complete() }
}
