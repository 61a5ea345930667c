package main

import (
	"fmt"
	"regexp"
	"slices"
)

// A target is what the library promises about its speed, or has set itself to
// reach, as a comparison of two figures of one run.
type target struct {
	promise string
	is      figure   // what is held to it
	by      relation // how it is compared
	to      figure   // with what; scenario "": the same as is, contestant or metric "": likewise
	limit   float64
}

// A figure is a median of the results. scenario is a regular expression that
// must match the whole name; where several scenarios match in is, the worst
// decides. metric may be "" if the scenario has but one.
type figure struct{ scenario, contestant, metric string }

// A relation says what is compared with a target's limit.
type relation int

const (
	ratio      relation = iota // is / to
	difference                 // is − to
	absolute                   // is
)

// bestPeer stands for the peer with the lowest median, as a contestant.
const bestPeer = "best peer"

const (
	agingPromise     = "aging on: at most 1.3 times aging off"
	fairSharePromise = "fair share costs nothing measurable: within 5 % of none"
	panicAntsPromise = "tasks that panic: no slower than ants"
	millionPromise   = "1,000,000 waiting: a task costs at most 1.3 times what it does with 1,000"
	yieldPromise     = "Yield with nothing to yield to: at most 5 ns"
	computePromise   = "computing in child processes: within 5 % of goroutines in this process"
	pythonPromise    = "small call in a child process: at least 3 times Python's rate"
)

// targets lists them in the order of RESULTS.md. In all of them the lower the
// better: "2.5 times faster than" is a ratio of at most 0.4.
var targets = []target{
	{"empty task: at most 0.9 times the channel",
		figure{"empty task, \\d.*", "taskpool", ""}, ratio, figure{"", "channel", ""}, 0.9},
	{"empty task: at least 2.5 times faster than the fastest peer",
		figure{"empty task, \\d.*", "taskpool", ""}, ratio, figure{"", bestPeer, ""}, 1 / 2.5},
	{"1 µs task: within 5 % of the channel",
		figure{"1 µs task, .*", "taskpool", ""}, ratio, figure{"", "channel", ""}, 1.05},
	{"1 µs task: faster than every peer",
		figure{"1 µs task, .*", "taskpool", ""}, ratio, figure{"", bestPeer, ""}, 1},
	{"empty task with one core busy: at most 1.3 times the channel",
		figure{"empty task, one core busy, .*", "taskpool", ""}, ratio, figure{"", "channel", ""}, 1.3},
	{"no stall: the worst of 20,000 submits while 64 tasks compute within 20 ms of the channel's",
		figure{"20,000 submits", "taskpool", "worst submit"}, difference, figure{"", "channel", ""}, 20},
	{"a waiting task: at most 32 bytes of heap, with 1,000,000 waiting",
		figure{"1,000,000 tasks wait", "taskpool", "heap a waiting task"}, absolute, figure{}, 32},
	{millionPromise,
		figure{"1,000,000 tasks wait", "taskpool", "a task at that depth"}, ratio, figure{"1,000 tasks wait", "", ""}, 1.3},
	{"1,000 priorities waiting: a task costs at most 2 times what it does with 3",
		figure{"1,000 priorities", "taskpool", "a task, filled and emptied"}, ratio, figure{"3 priorities", "", ""}, 2},
	{"High behind 100,000 waiting Low: p99 within two Low tasks",
		figure{"behind 100,000 tasks of 200 µs", "taskpool", "p99 in Low tasks"}, absolute, figure{}, 2},
	{"120 % load: p99 of High within 2 times that of strict priority",
		figure{"120 % load", "taskpool", "p99"}, ratio, figure{"", "taskpool, strict", ""}, 2},
	{yieldPromise,
		figure{"Yield with nothing to yield to", "taskpool", ""}, absolute, figure{}, 5},
	{agingPromise,
		figure{"options, .*", "aging 1 s", ""}, ratio, figure{"", "fair share 0", ""}, 1.3},
	{fairSharePromise,
		figure{"options, .*", "taskpool", ""}, ratio, figure{"", "fair share 0", ""}, 1.05},
	{panicAntsPromise,
		figure{"10 % panic, .*", "taskpool", ""}, ratio, figure{"", "ants", ""}, 1},
	{"tasks that panic: no slower than pond",
		figure{"10 % panic, .*", "taskpool", ""}, ratio, figure{"", "pond", ""}, 1},
	{pythonPromise,
		figure{"small call, .*", "process", ""}, ratio, figure{"", bestPeer, ""}, 1 / 3.},
	{"map of small elements in child processes: no slower than Python's",
		figure{"map of .*", "process", ""}, ratio, figure{"", bestPeer, ""}, 1},
	{"1 MiB to a child process and back: no slower than Python",
		figure{"1 MiB there and back", "process", ""}, ratio, figure{"", bestPeer, ""}, 1},
	{computePromise,
		figure{"call of 10 ms, .*", "process", ""}, ratio, figure{"", "taskpool", ""}, 1.05},
}

// tried says of targets, by their promise, what was tried where they are missed.
var tried = map[string]string{
	agingPromise: "Aging has to know when each task arrived. A look at the clock takes about as long " +
		"as an empty task does without aging, 27 ns where this was tried; as long as a task took 60 ns in all, the target was met. " +
		"Tried: to take several tasks of one lane in a row, as far as the next lane's age allows " +
		"(from 113 to 73 ns with three priorities); to read the clock before the lock, so that producers do so side by side. " +
		"Not done: one reading for several arrivals. If a producer pauses between them, " +
		"a task could be passed by one that came later than aging promises.",
	fairSharePromise: "With one and with three priorities it is a few nanoseconds a task, next to the noise of the machine. " +
		"With 1,000 in the queue each 16th task comes from another lane than the one at work, and a heap of the lanes by age is kept in order: 20 to 60 ns. " +
		"Tried: ages are brought up to date only when they come to the top of that heap, and up to 15 functions between two turns are taken in a row.",
	panicAntsPromise: "ants goes on with the same goroutine after a panic, and the handler it was given here keeps no stack. " +
		"taskpool notes the stack, ends the goroutine, and has its supervisor start another: 3 to 4 µs a panic. " +
		"Tried, from 11 µs: to keep program counters instead of text, as runtime.Stack takes a lock for each word; " +
		"to settle the function on the dying goroutine; to store the new goroutine's number without the pool's lock. " +
		"Not worth it: a larger first stack, smaller frames. Not done, as it would break what the pool promises: " +
		"to leave the stack out (15 % less), or to go on without the supervisor (12 % less).",
	millionPromise: "A million tasks do not fit into the processor's caches, and each is written and read once: " +
		"runs came out between 1.10 and 1.34, by the machine and the hour.",
	yieldPromise: "An absolute time, and a shared machine is at some hours half as fast as at others.",
	pythonPromise: "The round trip of one call is many times faster. With many at once, Pool.map keeps the queue that its workers read from full, " +
		"so that they wait for nobody. A child of package process waits for its parent between two calls, " +
		"as it is decided only then which call is the most urgent. " +
		"Tried: a processor of its own for each child, so that no thread wakes another (half the CPU of a call). " +
		"Not done: a call sent ahead to a child at work, as a more urgent one could not pass it any more.",
	computePromise: "The parent hands out the calls on the two cores that the children compute on.",
}

// An outcome is what the results say about a target.
type outcome struct {
	target
	scenario string  // that decided
	other    string  // what it was compared with, when that is not plain from the target
	value    float64 // to be compared with the limit
	unit     string  // of the value; "" for a ratio
	measured bool    // false if a figure is missing

	good, of int // in how many scenarios it is met, of how many
}

func (o outcome) met() bool { return o.measured && o.value <= o.limit }

// outcome returns the worst of what the results say about a target.
func (t target) outcome(results []result) outcome {
	worst := outcome{target: t}
	good, of := 0, 0
	match := regexp.MustCompile("^(?:" + t.is.scenario + ")$")
	for _, r := range results {
		if !match.MatchString(r.Scenario) {
			continue
		}
		o, ok := t.in(r, results)
		if !ok {
			continue
		}
		of++
		if o.met() {
			good++
		}
		if !worst.measured || o.value > worst.value {
			worst = o
		}
	}
	worst.good, worst.of = good, of
	return worst
}

// in returns what a target comes to in one scenario; false if a figure is
// missing.
func (t target) in(r result, results []result) (o outcome, ok bool) {
	is, _, unit, ok := t.is.find(r)
	if !ok {
		return o, false
	}
	o = outcome{target: t, scenario: r.Scenario, value: is, unit: unit, measured: true}
	if t.by == absolute {
		return o, true
	}
	to := t.to
	if to.contestant == "" {
		to.contestant = t.is.contestant
	}
	if to.metric == "" {
		to.metric = t.is.metric
	}
	if to.scenario != "" {
		if r, ok = named(results, to.scenario); !ok {
			return o, false
		}
	}
	than, name, _, ok := to.find(r)
	if !ok {
		return o, false
	}
	if to.contestant == bestPeer {
		o.other = name
	}
	switch {
	case t.by == difference:
		o.value = is - than
	case than == 0:
		return o, false
	default:
		o.value, o.unit = is/than, ""
		if metric := r.metric(to.metric); to.scenario == "" && to.metric == t.is.metric && metric >= 0 {
			if paired, ok := r.ratio(t.is.contestant, name, metric); ok {
				o.value = paired
			}
		}
	}
	return o, true
}

// named returns the first result whose scenario matches.
func named(results []result, scenario string) (result, bool) {
	match := regexp.MustCompile("^(?:" + scenario + ")$")
	for _, r := range results {
		if match.MatchString(r.Scenario) {
			return r, true
		}
	}
	return result{}, false
}

// find returns a figure from a result, whose it is, and its unit.
func (f figure) find(r result) (value float64, name, unit string, ok bool) {
	i := r.metric(f.metric)
	if i < 0 {
		return 0, "", "", false
	}
	unit = r.Metrics[i].Unit
	if f.contestant == bestPeer {
		name, value, ok = r.bestPeer(i)
		return value, name, unit, ok
	}
	value, ok = r.median(f.contestant, i)
	return value, f.contestant, unit, ok
}

// metric returns the index of the metric of that name; "" is the only one. It is
// negative if there is none.
func (r result) metric(name string) int {
	if name == "" && len(r.Metrics) == 1 {
		return 0
	}
	return slices.IndexFunc(r.Metrics, func(m resultMetric) bool { return m.Name == name })
}

// verdict says in a few words what became of a target.
func (o outcome) verdict() string {
	switch {
	case !o.measured:
		return "not measured"
	case o.met():
		return "met"
	}
	missed := fmt.Sprintf("**missed** by %s", withUnit(o.value-o.limit, o.unit))
	if o.by != difference {
		missed = fmt.Sprintf("**missed** by %s %%", number(100*(o.value/o.limit-1)))
	}
	if o.of > 1 {
		missed += fmt.Sprintf(", met in %d of %d", o.good, o.of)
	}
	return missed
}
