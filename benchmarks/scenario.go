package main

import "slices"

// A scenario is one row of RESULTS.md: the same work done by each contestant.
type scenario struct {
	group       string   // heading of the table that it belongs to
	name        string   // of the row, unique within all
	metrics     []metric // what one round yields
	contestants []contestant
	note        func(r result) string // says below the table what the figures do not; nil: nothing
}

// A metric is one number of a round; the lower the better.
type metric struct{ name, unit string } // e.g. {"time a task", "ns"}

// A contestant does the work of a scenario with one library or by hand.
type contestant struct {
	name  string                     // "taskpool", "channel", "ants", ...
	kind  kind                       // what it is compared as
	round func(short bool) []float64 // does the work once, with a pool of its own; one value a metric. short: a small amount, for CI
}

// A kind says what a contestant is compared as.
type kind int

const (
	ours    kind = iota // taskpool
	channel             // the reference
	peer                // compared as "best peer"
	other               // shown, not counted as a peer
)

// scenarios lists all of them, in the order of RESULTS.md.
func scenarios() []scenario {
	var all []scenario
	all = append(all, throughputScenarios()...)
	all = append(all, backlogScenarios()...)
	all = append(all, latencyScenarios()...)
	all = append(all, stallScenarios()...)
	all = append(all, preemptScenarios()...)
	all = append(all, serverScenarios()...)
	all = append(all, processScenarios(hasPython())...)
	return all
}

// A result is what the rounds of a scenario yielded. It goes from the child
// process that ran them to the parent, as JSON.
type result struct {
	Group       string
	Scenario    string
	Metrics     []resultMetric
	Contestants []resultContestant     // in the scenario's order
	Values      map[string][][]float64 // by contestant's name: for each metric the values of all rounds
	Note        string                 // for below the table; may be empty
}

type resultMetric struct{ Name, Unit string }

type resultContestant struct {
	Name string
	Kind kind
}

// values returns those of all rounds, nil if there are none.
func (r result) values(contestant string, metric int) []float64 {
	if of := r.Values[contestant]; metric < len(of) {
		return of[metric]
	}
	return nil
}

// median returns the middle of the rounds' values; false if there are none.
func (r result) median(contestant string, metric int) (float64, bool) {
	v := r.values(contestant, metric)
	return median(v), len(v) > 0
}

// ratio returns how two contestants compare: the median of their ratios, round by
// round, as the two of one round had the machine at about the same speed. False if
// one of them has no figures, or none to divide by.
func (r result) ratio(of, to string, metric int) (float64, bool) {
	a, b := r.values(of, metric), r.values(to, metric)
	if len(a) == 0 || len(a) != len(b) || slices.Min(b) <= 0 {
		return 0, false
	}
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios), true
}

// bestPeer returns the peer with the lowest median; false if there is none.
func (r result) bestPeer(metric int) (name string, value float64, ok bool) {
	for _, c := range r.Contestants {
		if c.Kind != peer {
			continue
		}
		if v, has := r.median(c.Name, metric); has && (!ok || v < value) {
			name, value, ok = c.Name, v, true
		}
	}
	return name, value, ok
}

// first returns the first contestant of a kind; false if there is none.
func (r result) first(k kind) (name string, ok bool) {
	for _, c := range r.Contestants {
		if c.Kind == k {
			return c.Name, true
		}
	}
	return "", false
}
