package prompool

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/metricset"
	"github.com/taskpool-go/taskpool/internal/watch"
)

// A Collector is a [prometheus.Collector] of the metrics of the pools that it watches.
// Make one with [New], and register it once. Its methods may be called from any
// goroutine at any time.
type Collector struct {
	cfg             config
	waits, attempts *layout // waits is that of shedWaits too
	descs           descs

	pools watch.Pools[watched]
	jobs  metricset.Jobs
}

var _ prometheus.Collector = (*Collector)(nil)

// A watched is a pool that is reported.
type watched struct {
	pool       *taskpool.Pool
	label      string // its name
	priorities *metricset.Numbers[taskpool.Priority]
	names      *metricset.Numbers[string] // of tasks; nil without WithTaskNames

	waits     []slot // by number of the priority, that of others included
	shedWaits []slot // likewise
	attempts  []slot // by number of the priority and, if there are names, of the name
}

// A slot holds a histogram once there is something to count.
type slot struct{ atomic.Pointer[histogram] }

// histogram returns the histogram of s, which is made if there is none.
func (s *slot) histogram(l *layout) *histogram {
	if h := s.Load(); h != nil {
		return h
	}
	s.CompareAndSwap(nil, newHistogram(l))
	return s.Load()
}

// New makes a collector that watches no pool yet. It returns an error that names the
// option if one cannot be.
func New(opts ...Option) (*Collector, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	c := &Collector{
		cfg:      cfg,
		waits:    newLayout(cfg.waits, cfg.exemplar != nil),
		attempts: newLayout(cfg.durations, cfg.exemplar != nil),
		descs:    newDescs(cfg.taskNames > 0, len(cfg.flows) > 0),
	}
	return c, nil
}

// Hooks returns hooks to be given to each pool that the collector watches, with
// [taskpool.WithHooks]. Without them there are no histograms. They tell pools apart by
// their names, and note nothing of a pool until it is watched, so watch it before its
// first task. Functions given to Go are a sample, see [WithGoEvery].
func (c *Collector) Hooks() taskpool.Hooks {
	return taskpool.Hooks{
		Started: func(e taskpool.TaskEvent) {
			if w := c.pools.Named(e.Pool); w != nil {
				h := w.waits[w.priorities.Of(e.Task.Priority)].histogram(c.waits)
				c.observe(h, e.Wait, &e)
			}
		},
		Shed: func(e taskpool.TaskEvent) {
			if w := c.pools.Named(e.Pool); w != nil && (e.Wait > 0 || !e.Task.IsFunc()) { // of some functions it is not known
				h := w.shedWaits[w.priorities.Of(e.Task.Priority)].histogram(c.waits)
				h.observe(e.Wait, 1)
				c.exemplify(h, e.Wait, &e)
			}
		},
		AttemptFailed: func(e taskpool.TaskEvent) {
			// Of functions all that fail are told of, not a sample.
			if !e.Task.IsFunc() {
				c.ended(&e)
			}
		},
		Finished: func(e taskpool.TaskEvent) {
			if e.Task.State == taskpool.StateSucceeded { // else AttemptFailed was told, or there was no attempt
				c.ended(&e)
			}
		},
		GoEvery: c.cfg.goEvery,
	}
}

// ended counts an attempt.
func (c *Collector) ended(e *taskpool.TaskEvent) {
	if w := c.pools.Named(e.Pool); w != nil {
		c.observe(w.attempt(e).histogram(c.attempts), e.Elapsed, e)
	}
}

// observe counts the time of an event.
func (c *Collector) observe(h *histogram, d time.Duration, e *taskpool.TaskEvent) {
	h.observe(d, c.weight(e))
	c.exemplify(h, d, e)
}

// exemplify makes an event an exemplar of its bucket, if that is due for one.
func (c *Collector) exemplify(h *histogram, d time.Duration, e *taskpool.TaskEvent) {
	if c.cfg.exemplar == nil || e.Task.IsFunc() {
		return
	}
	if at := h.exemplars.due(d); at != nil {
		at.keep(d, c.cfg.exemplar(e.Context))
	}
}

// weight returns for how many tasks an event stands.
func (c *Collector) weight(e *taskpool.TaskEvent) uint64 {
	if e.Task.IsFunc() {
		return uint64(c.cfg.goEvery)
	}
	return 1
}

func (c *Collector) newWatched(p *taskpool.Pool) *watched {
	priorities := metricset.MaxPriorities + 1
	w := &watched{
		pool:       p,
		label:      metricset.Label(p.Name()),
		priorities: metricset.NewNumbers(metricset.MaxPriorities, c.cfg.priorities...),
		waits:      make([]slot, priorities),
		shedWaits:  make([]slot, priorities),
		attempts:   make([]slot, priorities),
	}
	if c.cfg.taskNames > 0 {
		w.names = metricset.NewNumbers[string](c.cfg.taskNames)
		w.attempts = make([]slot, priorities*(c.cfg.taskNames+2))
	}
	return w
}

// attempt returns where an attempt is counted.
func (w *watched) attempt(e *taskpool.TaskEvent) *slot {
	i := w.priorities.Of(e.Task.Priority)
	if w.names == nil {
		return &w.attempts[i]
	}
	// Behind those of names come that of other names and that of no name.
	n := len(w.attempts) / len(w.waits)
	name := metricset.Label(e.Task.Name)
	switch name {
	case "":
		return &w.attempts[i*n+n-1]
	case metricset.Other:
		return &w.attempts[i*n+n-2]
	}
	return &w.attempts[i*n+w.names.Of(name)]
}

// rules are those of a pool's metrics, of which its name is a label.
var rules = watch.Rules{Package: "prompool", Unwatch: "Collector.Unwatch", UTF8: true, Label: metricset.Label}

// Watch adds pools to what is collected. A pool that is watched already stays as it is.
// Pools must have names of their own, in UTF-8, as their metrics have no other label to
// be told apart by. In case of an error none is added.
//
// A pool that was shut down goes on being reported, until [Collector.Unwatch].
func (c *Collector) Watch(pools ...*taskpool.Pool) error {
	return c.pools.Watch(rules, pools, c.newWatched)
}

// Unwatch ends the collection of a pool, and forgets what its hooks have told. It
// reports whether the pool was watched.
func (c *Collector) Unwatch(p *taskpool.Pool) bool {
	return c.pools.Unwatch(p)
}

// Describe is that of [prometheus.Collector].
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	c.descs.describe(to)
	describeJobs(to)
}

// Collect is that of [prometheus.Collector]. It calls [taskpool.Pool.Stats] once for each
// pool and, with [WithFlowNames], [taskpool.Pool.Flows].
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	for _, w := range c.pools.All {
		c.collect(w, to)
	}
	c.collectJobs(to)
}

// collect sends the metrics of a pool.
func (c *Collector) collect(w *watched, to chan<- prometheus.Metric) {
	d := &c.descs
	s := w.pool.Stats()
	name := w.label
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, label ...string) {
		to <- prometheus.MustNewConstMetric(desc, kind, v, append([]string{name}, label...)...)
	}
	counter := func(desc *prometheus.Desc, n uint64, label ...string) {
		send(desc, prometheus.CounterValue, float64(n), label...)
	}
	gauge := func(desc *prometheus.Desc, v float64, label ...string) {
		send(desc, prometheus.GaugeValue, v, label...)
	}

	counter(d.submitted, s.Submitted)
	for _, v := range metricset.Tasks(&s) {
		gauge(d.tasks, float64(v.N), v.Label)
	}
	gauge(d.heldBack, float64(s.HeldBack))
	gauge(d.dependent, float64(s.Dependent))
	counter(d.expired, s.Expired)
	counter(d.joined, s.Joined)
	counter(d.orphaned, s.Orphaned)
	for _, v := range metricset.Results(&s) {
		counter(d.ended, v.N, v.Label)
	}
	counter(d.retries, s.Retries)
	counter(d.denied, s.RetriesDenied)
	counter(d.parks, s.Parks)
	for _, v := range metricset.Goroutines(&s) {
		gauge(d.goroutines, float64(v.N), v.Label)
	}
	for _, v := range metricset.Replaced(&s) {
		counter(d.replaced, v.N, v.Label)
	}
	gauge(d.workers, float64(s.Workers))
	gauge(d.lost, float64(s.Lost))
	if s.Capacity >= 0 {
		gauge(d.capacity, float64(s.Capacity))
	}
	gauge(d.submitters, float64(s.SubmittersWaiting))
	gauge(d.unfinished, s.InProgress.Seconds())
	gauge(d.longest, s.Longest.Seconds())
	gauge(d.stalled, oneIf(s.Stalled))
	gauge(d.paused, oneIf(s.Paused))
	gauge(d.closed, oneIf(s.Closed))
	for _, r := range metricset.Rows(&s, w.priorities) {
		counter(d.started, r.Totals.Attempts, r.Label)
		for _, v := range metricset.Refusals(&r.Totals) {
			counter(d.refused, v.N, r.Label, v.Label)
		}
		for _, v := range metricset.Outcomes(&r.Totals) {
			counter(d.finished, v.N, v.Label, r.Label)
		}
		gauge(d.depth, float64(r.Queued), r.Label)
		gauge(d.oldest, r.OldestWait.Seconds(), r.Label)
		gauge(d.late, oneIf(r.Late), r.Label)
	}
	for _, f := range metricset.Flows(w.pool, c.cfg.flows) {
		flow := metricset.Label(f.Flow)
		gauge(d.flowDepth, float64(f.Queued), flow)
		gauge(d.flowHeldBack, float64(f.HeldBack), flow)
		gauge(d.flowRunning, float64(f.Running), flow)
		gauge(d.flowOldest, f.OldestWait.Seconds(), flow)
	}
	c.collectHistograms(w, to)
}

func (c *Collector) collectHistograms(w *watched, to chan<- prometheus.Metric) {
	send := func(s *slot, desc *prometheus.Desc, labels ...string) {
		if h := s.Load(); h != nil {
			labels = append([]string{w.label}, labels...)
			to <- h.withExemplars(histogramMetric{desc, prometheus.MakeLabelPairs(desc, labels), h})
		}
	}
	var names []string
	if w.names != nil {
		names = w.names.Labels(func(name string) string { return name })
	}
	perPriority := len(w.attempts) / len(w.waits)
	for i, priority := range w.priorities.Labels(taskpool.Priority.String) {
		if priority == "" {
			continue
		}
		send(&w.waits[i], c.descs.wait, priority)
		send(&w.shedWaits[i], c.descs.shedWait, priority)
		attempts := w.attempts[i*perPriority:][:perPriority]
		if w.names == nil {
			send(&attempts[0], c.descs.duration, priority)
			continue
		}
		for k, name := range names {
			if name != "" {
				send(&attempts[k], c.descs.duration, priority, name)
			}
		}
		send(&attempts[perPriority-1], c.descs.duration, priority, "")
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
