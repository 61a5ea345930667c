package prompool

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/metricset"
	"github.com/taskpool-go/taskpool/internal/option"
)

// pkg is what the errors of this package begin with.
const pkg option.Package = "prompool"

// An Option sets how a collector works; see [New].
type Option interface {
	apply(*config)
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

const (
	defaultGoEvery = 64
	maxTaskNames   = 1000
	minBound       = 1e-6
	maxBound       = 12 * 60 * 60
	maxBounds      = 100
)

// config is what the options set. It does not change.
type config struct {
	priorities         []taskpool.Priority
	waits, durations   []float64 // bounds of buckets
	flows              []string  // have metrics of their own
	taskNames, goEvery int

	exemplar    func(context.Context) prometheus.Labels // nil: no exemplars
	exemplarSet bool
}

func newConfig(opts []Option) (config, error) {
	c := config{waits: metricset.Bounds, durations: metricset.Bounds, goEvery: defaultGoEvery}
	if err := option.Apply(pkg, opts, func(o Option) { o.apply(&c) }); err != nil {
		return c, err
	}
	switch bad := pkg.Bad; {
	case len(c.priorities) > metricset.MaxPriorities:
		return c, bad("WithPriorities", fmt.Sprintf("have at most %d priorities", metricset.MaxPriorities), len(c.priorities))
	case !goodBounds(c.waits):
		return c, bad("WithBuckets: wait", boundsAllowed, c.waits)
	case !goodBounds(c.durations):
		return c, bad("WithBuckets: duration", boundsAllowed, c.durations)
	case c.taskNames < 0 || c.taskNames > maxTaskNames:
		return c, bad("WithTaskNames: max", fmt.Sprintf("be from 0 to %d", maxTaskNames), c.taskNames)
	case c.exemplarSet && c.exemplar == nil:
		return c, bad("WithExemplars: labels", "not be nil", "nil")
	case c.goEvery < 1:
		return c, bad("WithGoEvery: n", "be at least 1", c.goEvery)
	}
	return c, metricset.CheckFlows(pkg, c.flows)
}

const boundsAllowed = "be at most 100 increasing numbers of seconds, from 1e-6 to 43200"

func goodBounds(bounds []float64) bool {
	last := math.Nextafter(minBound, 0)
	for _, b := range bounds {
		if !(b > last && b <= maxBound) {
			return false
		}
		last = b
	}
	return len(bounds) <= maxBounds
}

// WithPriorities gives these priorities labels of their own whatever else comes first,
// and makes the collector report them before they are seen. At most 25. Default: none.
func WithPriorities(prs ...taskpool.Priority) Option {
	prs = slices.Compact(slices.Sorted(slices.Values(prs)))
	return optionFunc(func(c *config) { c.priorities = prs })
}

// WithBuckets sets the upper bounds of the classic buckets, in seconds, of how long
// tasks wait and of how long attempts take: at most 100 each, which increase, from a
// microsecond to 12 hours. A last bucket for the rest is added. With nil a
// histogram keeps the default, with an empty slice it has that last bucket only, and
// native ones. Default: 18 bounds from 10 µs to 5 minutes.
func WithBuckets(wait, duration []float64) Option {
	wait, duration = slices.Clone(wait), slices.Clone(duration)
	return optionFunc(func(c *config) {
		if wait != nil {
			c.waits = wait
		}
		if duration != nil {
			c.durations = duration
		}
	})
}

// WithTaskNames adds the label task, the task's name, to
// taskpool_attempt_duration_seconds: for the first max names seen in a pool, at most
// 1000, and "other" for further ones, cut after 200 bytes. It is "" for tasks without a name and functions
// given to Go. Each name of each priority is a histogram, so max should be small, and
// names must be those of kinds of tasks. With 0 there is no such label. Default: 0.
func WithTaskNames(max int) Option {
	return optionFunc(func(c *config) { c.taskNames = max })
}

// WithFlowNames gives the flows with these names, see [taskpool.Task.Flow], the metrics whose
// names begin with taskpool_flow: at most 1000, in UTF-8. A name given twice counts once, and
// "" is that of tasks without a flow and functions given to Go. Tasks of other flows count in
// the metrics without the label flow only. A scrape then also costs a [taskpool.Pool.Flows]
// of all flows of each pool, whether they are listed or not. Default: none.
func WithFlowNames(names ...string) Option {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	return optionFunc(func(c *config) { c.flows = names })
}

// WithExemplars gives the histograms exemplars: of a task in each classic bucket, what labels
// returns for the context that it was submitted with, such as the trace ID of a span in it.
// labels is called on the goroutine of the task, at most once a second for each bucket, and
// must not take long; if it returns none there is no exemplar. Those whose labels Prometheus
// does not allow, as they have more than 128 characters, are left out with all of their
// histogram. Functions given to Go are no exemplars. promhttp exposes exemplars if
// EnableOpenMetrics is set in its HandlerOpts. Default: none.
func WithExemplars(labels func(context.Context) prometheus.Labels) Option {
	return optionFunc(func(c *config) { c.exemplar, c.exemplarSet = labels, true })
}

// WithGoEvery sets how many of the functions given to [taskpool.Pool.Go] the histograms
// see: one in n, chosen at random, which counts for n; see [taskpool.Hooks.GoEvery].
// With 1 they see all, which short functions feel. Default: 64.
func WithGoEvery(n int) Option {
	return optionFunc(func(c *config) { c.goEvery = n })
}
