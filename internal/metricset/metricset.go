// Package metricset is what the metrics of prompool and otelpool have in common: which
// values a label may have, and what a snapshot of a pool says in them.
package metricset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/option"
)

const (
	// MaxPriorities is how many priorities of a pool have a label of their own.
	MaxPriorities = 25

	// MaxFlows is how many flows may have a label of their own.
	MaxFlows = 1000

	// Other is the label of all that have none of their own.
	Other = "other"
)

// Bounds of the buckets of histograms, in seconds, reach from what an idle pool needs to
// what a batch job takes.
var Bounds = []float64{1e-5, 1e-4, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

// Numbers gives the first keys that it is asked about numbers from 0, which they keep,
// and one number to all that come later. So what is counted by number never moves from
// one to another. Make one with [NewNumbers].
type Numbers[K comparable] struct {
	max int
	of  atomic.Pointer[map[K]int] // read without a lock; a new map for each new key

	mu   sync.Mutex // protects keys, and changes of what of points to
	keys []K        // by number
}

// NewNumbers returns numbers for max keys, of which some may be known beforehand.
func NewNumbers[K comparable](max int, known ...K) *Numbers[K] {
	n := &Numbers[K]{max: max}
	n.of.Store(&map[K]int{})
	for _, k := range known {
		n.Of(k)
	}
	return n
}

// Of returns the number of k, which is max if there are max others.
func (n *Numbers[K]) Of(k K) int {
	of := *n.of.Load()
	if i, ok := of[k]; ok {
		return i
	}
	if len(of) == n.max {
		return n.max
	}
	return n.add(k)
}

// add is Of where k may be new.
func (n *Numbers[K]) add(k K) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	of := *n.of.Load()
	if i, ok := of[k]; ok {
		return i
	}
	if len(of) == n.max {
		return n.max
	}
	of = maps.Clone(of)
	of[k] = len(n.keys)
	n.keys = append(n.keys, k)
	n.of.Store(&of)
	return of[k]
}

// Keys returns the keys that have a number of their own, by number.
func (n *Numbers[K]) Keys() []K {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.keys)
}

// Labels returns the labels of all numbers: what label says about the key of each that is
// taken, "" for those that are not, and, for that of all others, [Other].
func (n *Numbers[K]) Labels(label func(K) string) []string {
	labels := make([]string, n.max+1)
	for i, k := range n.Keys() {
		labels[i] = label(k)
	}
	labels[n.max] = Other
	return labels
}

// MaxLabel is how many bytes of a text are in a label: a scrape must not grow with the names
// that tasks are given.
const MaxLabel = 200

// Label returns text as the value of a label: in UTF-8, which label values must be, and cut
// if it is longer than MaxLabel.
func Label(text string) string { return Cut(text, MaxLabel) }

// Cut returns text in UTF-8 and without what exceeds n bytes, in place of which there is an
// ellipsis.
func Cut(text string, n int) string {
	if text = strings.ToValidUTF8(text, "\uFFFD"); len(text) <= n {
		return text
	}
	const ellipsis = "…"
	end := n - len(ellipsis)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}

// A Row is what a snapshot says about a priority.
type Row struct {
	Label      string
	Totals     taskpool.PriorityTotals
	Queued     int
	OldestWait time.Duration
	Late       bool
}

// Rows returns the rows of the priorities that have a number, by number, and, if there
// are others, one of these together. Those in s that are new get their numbers first:
// where not all can have one, those with the most attempts.
func Rows(s *taskpool.Stats, n *Numbers[taskpool.Priority]) []Row {
	seen := slices.SortedFunc(maps.Keys(s.ByPriority), func(a, b taskpool.Priority) int {
		return cmp.Or(cmp.Compare(s.ByPriority[b].Attempts, s.ByPriority[a].Attempts), cmp.Compare(a, b))
	})
	for _, pr := range seen {
		n.Of(pr)
	}
	for _, w := range s.Waiting {
		n.Of(w.Priority)
	}
	keys := n.Keys()
	rows := make([]Row, len(keys), len(keys)+1)
	// Others is what is left: ByPriority does not know all priorities.
	rest := Row{Label: Other, Totals: taskpool.PriorityTotals{
		Attempts: s.Attempts, Succeeded: s.Succeeded, Failed: s.Failed, Canceled: s.Canceled, Shed: s.Shed,
		RefusedFull: s.RefusedFull, RefusedFlow: s.RefusedFlow, RefusedClosed: s.RefusedClosed,
		RefusedContext: s.RefusedContext, RefusedExpired: s.RefusedExpired,
	}}
	for i, pr := range keys {
		rows[i] = Row{Label: pr.String(), Totals: s.ByPriority[pr]}
		subtract(&rest.Totals, &rows[i].Totals)
	}
	for _, w := range s.Waiting {
		row := &rest
		if i := n.Of(w.Priority); i < len(keys) {
			row = &rows[i]
		}
		row.Queued += w.Queued
		row.OldestWait = max(row.OldestWait, w.OldestWait)
		row.Late = row.Late || w.Late
	}
	if len(keys) == n.max && (rest.Totals != taskpool.PriorityTotals{} || rest.Queued > 0) {
		rows = append(rows, rest)
	}
	return rows
}

func subtract(from, t *taskpool.PriorityTotals) {
	from.Attempts -= t.Attempts
	from.Succeeded -= t.Succeeded
	from.Failed -= t.Failed
	from.Canceled -= t.Canceled
	from.Shed -= t.Shed
	from.RefusedFull -= t.RefusedFull
	from.RefusedFlow -= t.RefusedFlow
	from.RefusedClosed -= t.RefusedClosed
	from.RefusedContext -= t.RefusedContext
	from.RefusedExpired -= t.RefusedExpired
}

// CheckFlows returns what is wrong with the names given to the option WithFlowNames of a package,
// if anything.
func CheckFlows(pkg option.Package, names []string) error {
	if len(names) > MaxFlows {
		return pkg.Bad("WithFlowNames", fmt.Sprintf("have at most %d names", MaxFlows), len(names))
	}
	labels := make(map[string]string, len(names))
	for _, name := range names {
		if !utf8.ValidString(name) { // no label may be that
			return pkg.Bad("WithFlowNames: name", "be in UTF-8", strconv.Quote(name))
		}
		label := Label(name)
		if other, has := labels[label]; has && other != name {
			return pkg.Bad("WithFlowNames: name", fmt.Sprintf("differ from others in its first %d bytes", MaxLabel), strconv.Quote(label))
		}
		labels[label] = name
	}
	return nil
}

// Flows returns what p says of the flows with these names, in their order; of one without
// tasks, zeros. It does not look at p if there are no names. The cost is that of all flows of
// p, as a pool cannot be asked for some.
func Flows(p *taskpool.Pool, names []string) []taskpool.FlowStats {
	if len(names) == 0 {
		return nil
	}
	flows := make([]taskpool.FlowStats, len(names))
	index := make(map[string]int, len(names))
	for i, name := range names {
		flows[i].Flow = name
		index[name] = i
	}
	for _, f := range p.Flows(-1) {
		if i, ok := index[f.Flow]; ok {
			flows[i] = f
		}
	}
	return flows
}

// A Value is one value of a metric that has a label.
type Value struct {
	Label string
	N     uint64
}

// Outcomes returns the tasks of a priority that have finished, by final state.
func Outcomes(t *taskpool.PriorityTotals) []Value {
	return []Value{
		{"succeeded", t.Succeeded},
		{"failed", t.Failed},
		{"canceled", t.Canceled},
		{"shed", t.Shed},
	}
}

// Refusals returns the tasks of a priority that were not accepted, by reason.
func Refusals(t *taskpool.PriorityTotals) []Value {
	return []Value{
		{"full", t.RefusedFull},
		{"flow", t.RefusedFlow},
		{"closed", t.RefusedClosed},
		{"context", t.RefusedContext},
		{"expired", t.RefusedExpired},
	}
}

// Results returns the attempts that have ended, by how.
func Results(s *taskpool.Stats) []Value {
	failed := []Value{
		{string(taskpool.ResultError), s.Errors},
		{string(taskpool.ResultTimeout), s.Timeouts},
		{string(taskpool.ResultInterrupted), s.Interrupted},
		{string(taskpool.ResultPanic), s.Panics},
		{string(taskpool.ResultGoexit), s.Goexits},
		{string(taskpool.ResultHung), s.Hangs},
	}
	success := s.Attempts - uint64(s.Running) - uint64(s.Parked)
	for _, f := range failed {
		success -= f.N
	}
	return append([]Value{{string(taskpool.ResultSuccess), success}}, failed...)
}

// Replaced returns the workers that were replaced, by reason.
func Replaced(s *taskpool.Stats) []Value {
	return []Value{
		{string(taskpool.ReasonPanic), s.ReplacedPanic},
		{string(taskpool.ReasonGoexit), s.ReplacedGoexit},
		{string(taskpool.ReasonHung), s.ReplacedHung},
	}
}

// Tasks returns the tasks that have not finished, by state.
func Tasks(s *taskpool.Stats) []Value {
	return []Value{
		{"queued", uint64(s.Queued)},
		{"delayed", uint64(s.Delayed)},
		{"running", uint64(s.Running)},
		{"parked", uint64(s.Parked)},
	}
}

// Goroutines returns the goroutines by state. Parked are those whose task has given its
// slot back, busy those that have another task, or have not told all hooks about their
// last. Idle, busy and parked add up to those alive that were not given up.
func Goroutines(s *taskpool.Stats) []Value {
	with := max(s.Goroutines-s.Idle, 0)
	parked := min(s.Parked, with) // one that just died in Block is none of the live
	return []Value{
		{"idle", uint64(s.Idle)},
		{"busy", uint64(with - parked)},
		{"parked", uint64(parked)},
		{"abandoned", uint64(s.Abandoned)},
		{"lost", uint64(s.Lost)},
	}
}
