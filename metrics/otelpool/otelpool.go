package otelpool

import (
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/metricset"
	"github.com/taskpool-go/taskpool/internal/watch"
)

// scope is the instrumentation scope.
const scope = "github.com/taskpool-go/taskpool/metrics/otelpool"

// A Collector gives OpenTelemetry the metrics of the pools that it watches, and spans of
// the tasks of those that have its hooks. Make one with [New]. Its methods may be called
// from any goroutine at any time.
type Collector struct {
	cfg          config
	in           *instruments
	spans        spans
	registration metric.Registration

	pools watch.Pools[watched]
	jobs  metricset.Jobs
}

// A watched is a pool that is reported.
type watched struct {
	pool       *taskpool.Pool
	label      string // its name
	priorities *metricset.Numbers[taskpool.Priority]

	// records has, by number of the priority, how histograms are told of it, once
	// one was. With that a record allocates nothing here.
	records [metricset.MaxPriorities + 1]atomic.Pointer[[]metric.RecordOption]
}

// New makes a collector that watches no pool yet. It returns an error that names the
// option if one cannot be, or that of the meter provider if that has one. The provider
// refers to the collector until [Collector.Close].
func New(opts ...Option) (*Collector, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	meter := cfg.meters.Meter(scope)
	in, err := newInstruments(meter, len(cfg.flows) > 0)
	if err != nil {
		return nil, fmt.Errorf("otelpool: cannot make an instrument: %w", err)
	}
	c := &Collector{cfg: cfg, in: in}
	c.spans.tracer, c.spans.children = cfg.tracers.Tracer(scope), cfg.childSpans
	if c.registration, err = meter.RegisterCallback(c.observe, in.observed...); err != nil {
		return nil, fmt.Errorf("otelpool: cannot register with the meter: %w", err)
	}
	return c, nil
}

// Close ends the collection of all pools for good; histograms and spans, which come from
// hooks, go on. It returns the error of the meter provider, if that has one.
func (c *Collector) Close() error {
	if err := c.registration.Unregister(); err != nil {
		return fmt.Errorf("otelpool: cannot unregister: %w", err)
	}
	return nil
}

// Hooks returns hooks to be given to each pool that the collector watches, with
// [taskpool.WithHooks]. Without them there are no histograms and no spans. Histograms
// tell pools apart by their names, and note nothing of a pool until it is watched, so
// watch it before its first task; spans need no Watch. Functions given to Go are a
// sample, see [WithGoEvery].
func (c *Collector) Hooks() taskpool.Hooks {
	return taskpool.Hooks{
		Started: func(e taskpool.TaskEvent) {
			c.record(&e, c.in.wait, e.Wait.Seconds(), trace.SpanContext{})
		},
		Shed: func(e taskpool.TaskEvent) {
			if e.Wait > 0 || !e.Task.IsFunc() { // of some functions it is not known
				c.recordTimes(&e, c.in.shedWait, e.Wait.Seconds(), trace.SpanContext{}, 1)
			}
		},
		Around: c.spans.around,
		AttemptFailed: func(e taskpool.TaskEvent) {
			// Of functions all that fail are told of, not a sample.
			if !e.Task.IsFunc() {
				c.record(&e, c.in.duration, e.Elapsed.Seconds(), c.spans.end(&e))
			}
		},
		Finished: func(e taskpool.TaskEvent) {
			switch e.Result {
			case taskpool.ResultSuccess:
				c.record(&e, c.in.duration, e.Elapsed.Seconds(), c.spans.end(&e))
			case "":
				neverStarted(&e)
			} // else AttemptFailed was told
		},
		GoEvery: c.cfg.goEvery,
	}
}

// record tells a histogram of an event, with the span that it belongs to, if any.
func (c *Collector) record(e *taskpool.TaskEvent, h metric.Float64Histogram, seconds float64, span trace.SpanContext) {
	times := 1
	if e.Task.IsFunc() { // it stands for others; a histogram knows no weights
		times = c.cfg.goEvery
	}
	c.recordTimes(e, h, seconds, span, times)
}

// recordTimes is record for an event that counts so many times.
func (c *Collector) recordTimes(e *taskpool.TaskEvent, h metric.Float64Histogram, seconds float64, span trace.SpanContext, times int) {
	w := c.pools.Named(e.Pool)
	if w == nil {
		return
	}
	ctx := background
	if span.IsSampled() { // it may become an exemplar
		ctx = trace.ContextWithSpanContext(ctx, span)
	}
	for opts := w.recordOptions(e.Task.Priority); times > 0; times-- {
		h.Record(ctx, seconds, opts...)
	}
}

func (w *watched) recordOptions(pr taskpool.Priority) []metric.RecordOption {
	i := w.priorities.Of(pr)
	if opts := w.records[i].Load(); opts != nil {
		return *opts
	}
	label := pr.String()
	if i == metricset.MaxPriorities {
		label = metricset.Other
	}
	w.records[i].Store(&[]metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(
		attribute.String("taskpool.pool", w.label), attribute.String("taskpool.priority", label)))})
	return *w.records[i].Load()
}

// rules are those of a pool's metrics, of which its name is an attribute.
var rules = watch.Rules{Package: "otelpool", Unwatch: "Collector.Unwatch", UTF8: true, Label: metricset.Label}

// Watch adds pools to what is collected. A pool that is watched already stays as it is.
// Pools must have names of their own, in UTF-8, as their metrics have no other attribute
// to be told apart by. In case of an error none is added.
//
// A pool that was shut down goes on being reported, until [Collector.Unwatch].
func (c *Collector) Watch(pools ...*taskpool.Pool) error {
	return c.pools.Watch(rules, pools, func(p *taskpool.Pool) *watched {
		return &watched{pool: p, label: metricset.Label(p.Name()), priorities: metricset.NewNumbers(metricset.MaxPriorities, c.cfg.priorities...)}
	})
}

// Unwatch ends the collection of a pool. It reports whether the pool was watched. A
// meter provider whose temporality is cumulative goes on reporting what the histograms
// have recorded.
func (c *Collector) Unwatch(p *taskpool.Pool) bool {
	return c.pools.Unwatch(p)
}
