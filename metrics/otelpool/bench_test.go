package otelpool_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/metrics/otelpool"
)

// BenchmarkTask is what an empty task costs by what becomes of its spans.
func BenchmarkTask(b *testing.B) {
	kinds := []struct {
		name    string
		sampler sdktrace.Sampler
	}{{"without", nil}, {"unsampled", sdktrace.NeverSample()}, {"sampled", sdktrace.AlwaysSample()}}
	for _, kind := range kinds {
		b.Run(kind.name, func(b *testing.B) {
			c, err := otelpool.New(
				otelpool.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))),
				otelpool.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSampler(kind.sampler))))
			require.NoError(b, err)
			opts := []taskpool.Option{taskpool.WithWorkers(1)}
			if kind.sampler != nil {
				opts = append(opts, taskpool.WithHooks(c.Hooks()))
			}
			p, err := taskpool.New(opts...)
			require.NoError(b, err)
			require.NoError(b, c.Watch(p))
			task := taskpool.Task{Run: func(context.Context) error { return nil }}
			b.ReportAllocs()
			for b.Loop() {
				h, err := p.Submit(context.Background(), task)
				if err != nil {
					b.Fatal(err)
				}
				<-h.Done()
			}
			require.NoError(b, p.Shutdown(context.Background()))
		})
	}
}
