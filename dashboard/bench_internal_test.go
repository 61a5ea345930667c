package dashboard

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskpool-go/taskpool"
)

func benchPool(b *testing.B, d *Dashboard, name string, opts ...taskpool.Option) *taskpool.Pool {
	b.Helper()
	p, err := taskpool.New(append([]taskpool.Option{taskpool.WithName(name), taskpool.WithHooks(d.Hooks()),
		taskpool.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err == nil {
		err = d.Watch(p)
	}
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func benchDashboard(b *testing.B, opts ...Option) *Dashboard {
	b.Helper()
	d, err := New(opts...)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// end gives up all tasks of a pool.
func end(p *taskpool.Pool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.Shutdown(ctx)
}

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// What the hooks take of each task, with the hour's points and 100 names.
func BenchmarkHooks(b *testing.B) {
	d := benchDashboard(b)
	p := benchPool(b, d, "mail")
	defer end(p)
	hooks := d.Hooks()
	var events [100]taskpool.TaskEvent
	for i := range events {
		events[i] = taskpool.TaskEvent{Pool: "mail", Wait: time.Duration(i) * time.Millisecond, Elapsed: time.Duration(i) * time.Microsecond,
			Task: taskpool.TaskInfo{ID: uint64(i + 1), Name: fmt.Sprint("render page ", i), Priority: taskpool.Priority(i % 3), State: taskpool.StateSucceeded}}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		hooks.Started(events[i%100])
		hooks.Finished(events[i%100])
		i++
	}
}

// A page of a pool in which very many tasks wait.
func BenchmarkPage(b *testing.B) {
	for name, task := range map[string]taskpool.Task{
		"1000000 waiting": {Name: "work", Run: untilDone},
		"1000000 delayed": {Name: "work", Run: untilDone, NotBefore: time.Now().Add(time.Hour)},
	} {
		b.Run(name, func(b *testing.B) {
			d := benchDashboard(b)
			p := benchPool(b, d, "mail", taskpool.WithWorkers(2))
			ctx, cancel := context.WithCancel(context.Background())
			defer end(p)
			defer cancel()
			for range 1_000_000 {
				if _, err := p.Submit(ctx, task); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				d.snapshot(0)
				if _, err := d.render(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A viewer counts the messages that it is sent.
type viewer struct {
	header http.Header
	told   *sync.WaitGroup
}

func (v *viewer) Header() http.Header { return v.header }
func (v *viewer) WriteHeader(int)     {}
func (v *viewer) Flush()              {}
func (v *viewer) Write(p []byte) (int, error) {
	v.told.Done()
	return len(p), nil
}

// view has n viewers look at d, until the end of the benchmark. The function that it returns
// takes a snapshot and waits until each has got it.
func view(b *testing.B, d *Dashboard, n int) (tick func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var told, left sync.WaitGroup
	told.Add(2 * n) // a first line, and all that there is
	for range n {
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/events", nil)
		r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1024"
		r.Header.Set("Accept-Encoding", "gzip")
		left.Go(func() { d.ServeHTTP(&viewer{make(http.Header), &told}, r) })
	}
	told.Wait()
	d.mu.Lock()
	stop := d.stop
	d.stop = make(chan struct{}) // closed when the last has left
	d.mu.Unlock()
	close(stop) // ticks are taken by the benchmark
	b.Cleanup(func() {
		cancel()
		left.Wait()
	})
	return func() {
		told.Add(n)
		d.snapshot(0)
		told.Wait()
	}
}

// What a second costs with 100 viewers of five busy pools: 100 ms are 10 % of a core.
func BenchmarkHundredViewersOfFivePools(b *testing.B) {
	d := benchDashboard(b, WithMaxClients(100))
	var pools []*taskpool.Pool
	for i := range 5 {
		p := benchPool(b, d, fmt.Sprint("pool ", i), taskpool.WithWorkers(50))
		defer end(p)
		pools = append(pools, p)
		for j := range 300 {
			task := taskpool.Task{Name: fmt.Sprint("work ", j%40), Priority: taskpool.Priority(j % 10), Timeout: time.Hour, Run: untilDone}
			if j%3 == 0 {
				task.NotBefore = time.Now().Add(time.Hour)
			}
			if _, err := p.Submit(context.Background(), task); err != nil {
				b.Fatal(err)
			}
		}
	}
	hooks := d.Hooks()
	for i := range 1000 { // what has ended, and failed
		e := taskpool.TaskEvent{Pool: pools[i%5].Name(), Elapsed: time.Millisecond, Err: errCanceled, Result: taskpool.ResultError,
			Task: taskpool.TaskInfo{ID: uint64(i + 10_000), Name: fmt.Sprint("work ", i%40), State: taskpool.StateFailed}}
		hooks.AttemptFailed(e)
		hooks.Finished(e)
	}
	tick := view(b, d, 100)
	for b.Loop() {
		tick()
	}
	b.StopTimer()
}

func pauses() *metrics.Float64Histogram {
	s := []metrics.Sample{{Name: "/sched/pauses/total/other:seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64Histogram()
}

// For how long a program with many goroutines stands still when the page is asked for a stack
// while five look: the longest pause that the runtime tells of, but for those of the garbage
// collector, rounded up to the end of its bucket.
func BenchmarkStandstill(b *testing.B) {
	for _, goroutines := range []int{10_000, 50_000} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			d := benchDashboard(b)
			p := benchPool(b, d, "mail", taskpool.WithWorkers(2))
			ctx, cancel := context.WithCancel(context.Background())
			var parked sync.WaitGroup
			for range goroutines {
				parked.Go(func() { <-ctx.Done() })
			}
			defer parked.Wait()
			defer cancel()
			defer end(p)
			started := make(chan struct{})
			if _, err := p.Submit(ctx, taskpool.Task{Name: "long", Run: func(ctx context.Context) error { close(started); return untilDone(ctx) }}); err != nil {
				b.Fatal(err)
			}
			<-started
			worker := p.Tasks(taskpool.StateRunning)[0].Worker
			tick := view(b, d, 5)
			before := pauses()
			for b.Loop() {
				tick()
				d.stack = limiter{}
				r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("/stack?pool=1&worker=%d", worker), nil)
				r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1024"
				w := httptest.NewRecorder()
				d.ServeHTTP(w, r)
				if !strings.Contains(w.Body.String(), "untilDone") {
					b.Fatal(w.Body)
				}
			}
			after := pauses()
			for i := len(after.Counts) - 1; i >= 0; i-- {
				if after.Counts[i] > before.Counts[i] {
					b.ReportMetric(1000*after.Buckets[i+1], "standstill-ms")
					break
				}
			}
		})
	}
}
