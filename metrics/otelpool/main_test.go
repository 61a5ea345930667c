package otelpool_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/metrics/otelpool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A backend is what a collector reports to.
type backend struct {
	tb      testing.TB
	reader  *sdkmetric.ManualReader
	spans   *tracetest.InMemoryExporter
	tracers *sdktrace.TracerProvider
}

func newCollector(tb testing.TB, opts ...otelpool.Option) (*otelpool.Collector, *backend) {
	tb.Helper()
	b := &backend{tb: tb, reader: sdkmetric.NewManualReader(), spans: tracetest.NewInMemoryExporter()}
	b.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(b.spans))
	c, err := otelpool.New(append([]otelpool.Option{
		otelpool.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(b.reader))),
		otelpool.WithTracerProvider(b.tracers),
	}, opts...)...)
	require.NoError(tb, err)
	return c, b
}

// newPool returns a pool that c watches, and that is shut down with the test.
func newPool(tb testing.TB, c *otelpool.Collector, opts ...taskpool.Option) *taskpool.Pool {
	tb.Helper()
	p, err := taskpool.New(append([]taskpool.Option{
		taskpool.WithHooks(c.Hooks()),
		taskpool.WithLogger(slog.New(slog.DiscardHandler)),
	}, opts...)...)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(tb, p.Shutdown(ctx))
	})
	require.NoError(tb, c.Watch(p))
	return p
}

// submit submits a task, which does nothing unless it says what, and waits for it, but
// not for its hooks.
func submit(tb testing.TB, ctx context.Context, p *taskpool.Pool, t taskpool.Task) {
	tb.Helper()
	if t.Run == nil {
		t.Run = func(context.Context) error { return nil }
	}
	h, err := p.Submit(ctx, t)
	require.NoError(tb, err)
	<-h.Done()
}

// shutdown shuts p down: then all hooks have been called.
func shutdown(tb testing.TB, p *taskpool.Pool) {
	tb.Helper()
	require.NoError(tb, p.Shutdown(context.Background()))
}

// A point is one value of a metric; of a histogram its count and sum.
type point struct {
	attrs attribute.Set
	value float64
	sum   float64
}

// A collection is what a reader got at once, by name.
type collection map[string][]point

func (b *backend) collect() collection {
	b.tb.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(b.tb, b.reader.Collect(context.Background(), &all))
	got := make(collection)
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			require.NotEmpty(b.tb, m.Description, m.Name)
			require.NotEmpty(b.tb, m.Unit, m.Name)
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					got[m.Name] = append(got[m.Name], point{attrs: p.Attributes, value: float64(p.Value)})
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					got[m.Name] = append(got[m.Name], point{attrs: p.Attributes, value: float64(p.Value)})
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					got[m.Name] = append(got[m.Name], point{attrs: p.Attributes, value: p.Value})
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					got[m.Name] = append(got[m.Name], point{attrs: p.Attributes, value: float64(p.Count), sum: p.Sum})
				}
			default:
				b.tb.Fatalf("%s is a %T", m.Name, data)
			}
		}
	}
	return got
}

// values returns the values of a metric by an attribute.
func (c collection) values(name, by string) map[string]float64 {
	values := make(map[string]float64)
	for _, p := range c[name] {
		v, _ := p.attrs.Value(attribute.Key(by))
		values[v.AsString()] += p.value
	}
	return values
}

// sum returns the sum of a metric's values for a pool.
func (c collection) sum(name, pool string) float64 { return c.values(name, "taskpool.pool")[pool] }
