package prompool_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/metrics/prompool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newCollector returns a collector and a registry that it alone is registered with.
func newCollector(tb testing.TB, opts ...prompool.Option) (*prompool.Collector, *prometheus.Registry) {
	tb.Helper()
	c, err := prompool.New(opts...)
	require.NoError(tb, err)
	reg := prometheus.NewPedanticRegistry()
	require.NoError(tb, reg.Register(c))
	return c, reg
}

// newPool returns a pool that c watches, and that is shut down with the test.
func newPool(tb testing.TB, c *prompool.Collector, opts ...taskpool.Option) *taskpool.Pool {
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

// submit submits a task that does nothing and waits for it, but not for its hooks.
func submit(tb testing.TB, p *taskpool.Pool, t taskpool.Task) {
	tb.Helper()
	if t.Run == nil {
		t.Run = func(context.Context) error { return nil }
	}
	h, err := p.Submit(context.Background(), t)
	require.NoError(tb, err)
	require.NoError(tb, h.Wait(context.Background()))
}

// shutdown shuts p down: then all hooks have been called.
func shutdown(tb testing.TB, p *taskpool.Pool) {
	tb.Helper()
	require.NoError(tb, p.Shutdown(context.Background()))
}

// A scrape is metrics as they are exposed.
type scrape map[string]*dto.MetricFamily

func gather(tb testing.TB, g prometheus.Gatherer) scrape {
	tb.Helper()
	families, err := g.Gather()
	require.NoError(tb, err)
	s := make(scrape)
	for _, f := range families {
		s[f.GetName()] = f
	}
	return s
}

// each returns the metrics of a family that have the given labels: name, value, and so on.
func (s scrape) each(name string, labels ...string) (found []*dto.Metric) {
	for _, m := range s[name].GetMetric() {
		has := make(map[string]string)
		for _, l := range m.Label {
			has[l.GetName()] = l.GetValue()
		}
		all := true
		for i := 0; i < len(labels); i += 2 {
			all = all && has[labels[i]] == labels[i+1]
		}
		if all {
			found = append(found, m)
		}
	}
	return found
}

// sum returns the sum of these metrics; of histograms, that of their counts.
func (s scrape) sum(name string, labels ...string) (sum float64) {
	for _, m := range s.each(name, labels...) {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// values returns the values of these metrics by the value of a label.
func (s scrape) values(name, by string) map[string]float64 {
	values := make(map[string]float64)
	for _, m := range s[name].GetMetric() {
		for _, l := range m.Label {
			if l.GetName() == by {
				values[l.GetValue()] = s.sum(name, by, l.GetValue())
			}
		}
	}
	return values
}
