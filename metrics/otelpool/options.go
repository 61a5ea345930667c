package otelpool

import (
	"fmt"
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/metricset"
	"github.com/taskpool-go/taskpool/internal/option"
)

// pkg is what the errors of this package begin with.
const pkg option.Package = "otelpool"

// An Option sets how a collector works; see [New].
type Option interface {
	apply(*config)
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

const (
	defaultGoEvery = 64
	maxGoEvery     = 1024
)

// config is what the options set. It does not change.
type config struct {
	meters     metric.MeterProvider
	tracers    trace.TracerProvider
	priorities []taskpool.Priority
	flows      []string // have metrics of their own
	goEvery    int
	childSpans bool
}

func newConfig(opts []Option) (config, error) {
	c := config{meters: otel.GetMeterProvider(), tracers: otel.GetTracerProvider(), goEvery: defaultGoEvery}
	if err := option.Apply(pkg, opts, func(o Option) { o.apply(&c) }); err != nil {
		return c, err
	}
	switch bad := pkg.Bad; {
	case c.meters == nil:
		return c, bad("WithMeterProvider: p", "not be nil (package metric/noop has one that does nothing)", "nil")
	case c.tracers == nil:
		return c, bad("WithTracerProvider: p", "not be nil (package trace/noop has one that does nothing)", "nil")
	case len(c.priorities) > metricset.MaxPriorities:
		return c, bad("WithPriorities", fmt.Sprintf("have at most %d priorities", metricset.MaxPriorities), len(c.priorities))
	case c.goEvery < 1 || c.goEvery > maxGoEvery:
		return c, bad("WithGoEvery: n", fmt.Sprintf("be from 1 to %d", maxGoEvery), c.goEvery)
	}
	return c, metricset.CheckFlows(pkg, c.flows)
}

// WithMeterProvider sets where the metrics go. Default: [otel.GetMeterProvider].
func WithMeterProvider(p metric.MeterProvider) Option {
	return optionFunc(func(c *config) { c.meters = p })
}

// WithTracerProvider sets where the spans go. Default: [otel.GetTracerProvider].
func WithTracerProvider(p trace.TracerProvider) Option {
	return optionFunc(func(c *config) { c.tracers = p })
}

// WithChildSpans makes the span of an attempt a child of the span that was in the
// context given to Submit, where there is one, in its trace and sampled with it. That
// suits tasks whose submitter waits for them. Default: a trace of its own, with a link.
func WithChildSpans() Option {
	return optionFunc(func(c *config) { c.childSpans = true })
}

// WithPriorities gives these priorities values of their own whatever else comes first,
// and makes the collector report them before they are seen. At most 25. Default: none.
func WithPriorities(prs ...taskpool.Priority) Option {
	prs = slices.Compact(slices.Sorted(slices.Values(prs)))
	return optionFunc(func(c *config) { c.priorities = prs })
}

// WithFlowNames gives the flows with these names, see [taskpool.Task.Flow], the metrics whose
// names begin with taskpool.flow: at most 1000, in UTF-8. A name given twice counts once, and
// "" is that of tasks without a flow and functions given to Go. Tasks of other flows count in
// the metrics without the attribute taskpool.flow only. A collection then also costs a
// [taskpool.Pool.Flows] of all flows of each pool, whether they are listed or not. Default:
// none.
func WithFlowNames(names ...string) Option {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	return optionFunc(func(c *config) { c.flows = names })
}

// WithGoEvery sets how many of the functions given to [taskpool.Pool.Go] the histograms
// see: one in n, chosen at random; see [taskpool.Hooks.GoEvery]. As a histogram knows no
// weights that one is recorded n times, before the worker goes on, so n is at most 1024.
// With 1 they see all, which short functions feel. Default: 64.
func WithGoEvery(n int) Option {
	return optionFunc(func(c *config) { c.goEvery = n })
}
