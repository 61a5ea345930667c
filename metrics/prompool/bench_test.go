package prompool_test

import (
	"io"
	"testing"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/metrics/prompool"
)

// BenchmarkEvents is what the hooks of a task cost here.
func BenchmarkEvents(b *testing.B) {
	for name, opts := range map[string][]prompool.Option{"plain": nil, "names": {prompool.WithTaskNames(10)}} {
		b.Run(name, func(b *testing.B) {
			c, _ := newCollector(b, opts...)
			newPool(b, c, taskpool.WithName("mail"))
			hooks := c.Hooks()
			e := taskpool.TaskEvent{Pool: "mail", Task: taskpool.TaskInfo{ID: 1, Name: "letter", State: taskpool.StateSucceeded}, Elapsed: time.Second}
			b.ReportAllocs()
			for b.Loop() {
				hooks.Started(e)
				hooks.Finished(e)
			}
		})
	}
}

func BenchmarkScrape(b *testing.B) {
	c, reg := newCollector(b)
	p := newPool(b, c, taskpool.WithName("mail"))
	for i := range 3 {
		submit(b, p, taskpool.Task{Priority: taskpool.Priority(i - 1)})
	}
	b.ReportAllocs()
	for b.Loop() {
		write(b, reg, io.Discard)
	}
}
