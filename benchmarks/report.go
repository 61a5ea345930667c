package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A setup is what the figures depend on beside the code.
type setup struct {
	command, commit, cpu, goVersion string
	cores, procs                    int
	date                            time.Time
	took                            time.Duration
	contestants                     []string // with their versions
}

func newSetup(args []string) setup {
	return setup{
		command:     strings.Join(append([]string{"go run ."}, quoted(args)...), " "),
		commit:      commit(),
		cpu:         cpuModel(),
		goVersion:   runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		cores:       runtime.NumCPU(),
		procs:       runtime.GOMAXPROCS(0),
		date:        time.Now(),
		contestants: contestantModules(),
	}
}

// quoted returns the arguments as one would type them.
func quoted(args []string) []string {
	var typed []string
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " \t*?|&;<>()$'\"\\") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		typed = append(typed, a)
	}
	return typed
}

// commit returns what is checked out, with a + if something but results of this
// program differs from it.
func commit() string {
	head, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := string(bytes.TrimSpace(head))
	changes, err := exec.Command("git", "status", "--porcelain", "--", ":(top)",
		":(top,exclude)benchmarks/"+defaultOut, ":(top,exclude)benchmarks/"+defaultPlots).Output()
	if err != nil || len(bytes.TrimSpace(changes)) > 0 {
		name += "+"
	}
	return name
}

// cpuModel returns the name of the processor where Linux tells it.
func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(info)) {
		key, value, found := strings.Cut(line, ":")
		if found && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// contestantModules returns the modules that take part, and Python, with their
// versions.
func contestantModules() []string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	var modules []string
	for _, path := range []string{
		"golang.org/x/sync", "github.com/panjf2000/ants/v2", "github.com/alitto/pond/v2", "github.com/sourcegraph/conc",
		"github.com/gammazero/workerpool", "github.com/bytedance/gopkg", "sigs.k8s.io/controller-runtime",
		"github.com/failsafe-go/failsafe-go", "github.com/go-chi/chi/v5",
	} {
		i := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == path })
		if i >= 0 {
			modules = append(modules, path+" "+info.Deps[i].Version)
		}
	}
	return append(modules, pythonVersion())
}

// writeReport writes the page of results.
func writeReport(w *bytes.Buffer, about setup, short bool, results []result) {
	fmt.Fprintf(w, "# Results\n\n")
	if short {
		fmt.Fprintf(w, "**A short run, which only shows that everything works: the figures mean nothing.**\n\n")
	}
	fmt.Fprintf(w, "Written by `%s` in benchmarks/; [README.md](README.md) says what is measured and how.\n", about.command)
	fmt.Fprintf(w, "Figures are medians over the rounds of a scenario, and the lower the better; ratios are medians of the ratios round by round. Compare those of one scenario with each other, not with those of another run.\n\n")
	writeTable(w, [][]string{
		{"", ""},
		{"CPU", about.cpu},
		{"cores", fmt.Sprintf("%d, GOMAXPROCS %d", about.cores, about.procs)},
		{"Go", about.goVersion},
		{"commit", about.commit},
		{"date", about.date.UTC().Format("2006-01-02 15:04 UTC") + fmt.Sprintf(", %.0f s", about.took.Seconds())},
		{"contestants", strings.Join(about.contestants, ", ")},
	}, false)

	writeTargets(w, results)
	writeLost(w, results)
	for _, g := range grouped(results) {
		fmt.Fprintf(w, "## %s\n\n", g[0].Group)
		for _, m := range g[0].Metrics {
			fmt.Fprintf(w, "%s in %s\n\n", upper(m.Name), m.Unit)
			writeTable(w, medianTable(g, m), true)
		}
		for _, note := range notes(g) {
			fmt.Fprintf(w, "%s\n\n", note)
		}
	}
	fmt.Fprintf(w, "## Spread\n\nThe lower and the upper quartile, and the slowest round in brackets.\n\n")
	for _, g := range grouped(results) {
		for _, m := range g[0].Metrics {
			fmt.Fprintf(w, "%s: %s in %s\n\n", g[0].Group, m.Name, m.Unit)
			writeTable(w, spreadTable(g, m), true)
		}
	}
}

// writeTargets writes for each target whether it is met.
func writeTargets(w *bytes.Buffer, results []result) {
	rows := [][]string{{"target", "measured", "limit", "", "the worst of its scenarios"}}
	met, measured := 0, 0
	for _, t := range targets {
		o := t.outcome(results)
		if o.measured {
			measured++
		}
		if o.met() {
			met++
		}
		row := []string{t.promise, "–", withUnit(t.limit, o.unit), o.verdict(), o.scenario}
		if o.measured {
			row[1] = withUnit(o.value, o.unit)
		}
		if o.other != "" {
			row[4] += ", to " + o.other
		}
		rows = append(rows, row)
	}
	fmt.Fprintf(w, "## Targets\n\n%d of %d are met, %d were measured. What has no unit is a ratio.\n\n", met, len(targets), measured)
	writeTable(w, rows, false)
	for _, t := range targets {
		if o := t.outcome(results); o.measured && !o.met() && tried[t.promise] != "" {
			fmt.Fprintf(w, "Missed, %s. %s\n\n", t.promise, tried[t.promise])
		}
	}
}

// writeLost lists the scenarios in which something was faster.
func writeLost(w *bytes.Buffer, results []result) {
	var lines []string
	for _, r := range results {
		for i, m := range r.Metrics {
			var lost []string
			for _, c := range rivals(r, i) {
				if c.lost() {
					lost = append(lost, number(c.ratio)+" times "+c.name)
				}
			}
			if len(lost) > 0 {
				lines = append(lines, fmt.Sprintf("- %s, %s: %s", r.Scenario, m.Name, strings.Join(lost, ", ")))
			}
		}
	}
	fmt.Fprintf(w, "## Lost\n\n")
	if len(lines) == 0 {
		fmt.Fprintf(w, "Nothing: neither the channel nor a peer was faster anywhere.\n\n")
		return
	}
	fmt.Fprintf(w, "Where the channel or the best peer was faster:\n\n%s\n\n", strings.Join(lines, "\n"))
}

// A rival is what taskpool is compared with.
type rival struct {
	name  string
	ratio float64 // taskpool to it
}

func (r rival) lost() bool { return r.ratio > 1 }

// rivals returns the channel and the best peer, so far as they take part.
func rivals(r result, metric int) []rival {
	var all []rival
	if c, ok := r.versus(channel, metric); ok {
		all = append(all, c)
	}
	if c, ok := r.versus(peer, metric); ok {
		all = append(all, c)
	}
	return all
}

// versus compares taskpool with the channel, or with the best of its peers;
// false if one of the two has no figure.
func (r result) versus(k kind, metric int) (rival, bool) {
	us, ok := r.first(ours)
	if !ok {
		return rival{}, false
	}
	name, ok := r.first(k)
	if k == peer {
		name, _, ok = r.bestPeer(metric)
	}
	if !ok {
		return rival{}, false
	}
	ratio, ok := r.ratio(us, name, metric)
	return rival{name, ratio}, ok
}

// grouped returns the results by group, and those of a group that measure
// something else apart, so that each makes a table.
func grouped(results []result) [][]result {
	var groups [][]result
	for _, r := range results {
		i := slices.IndexFunc(groups, func(g []result) bool {
			return g[0].Group == r.Group && slices.Equal(g[0].Metrics, r.Metrics)
		})
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], r)
	}
	return groups
}

// notes returns those of a group, each once.
func notes(g []result) []string {
	var all []string
	for _, r := range g {
		if r.Note != "" && !slices.Contains(all, r.Note) {
			all = append(all, r.Note)
		}
	}
	return all
}

// medianTable has a row for each scenario of a group, a column for each
// contestant and two with the ratios; or the other way round if that is too
// wide.
func medianTable(g []result, m resultMetric) [][]string {
	names := contestantsOf(g)
	header := append([]string{""}, names...)
	withRatios := slices.ContainsFunc(g, func(r result) bool { return len(rivals(r, metricIndex(r, m))) > 0 })
	if withRatios {
		header = append(header, "to the channel", "to the best peer")
	}
	rows := [][]string{header}
	labels := rowLabels(g)
	for i, r := range g {
		metric := metricIndex(r, m)
		row := []string{labels[i]}
		for _, name := range names {
			row = append(row, orDash(r.median(name, metric)))
		}
		if withRatios {
			row = append(row, ratioCell(r, channel, metric), ratioCell(r, peer, metric))
		}
		rows = append(rows, row)
	}
	return narrow(rows, len(names))
}

// spreadTable has the shape of medianTable, without the ratios.
func spreadTable(g []result, m resultMetric) [][]string {
	names := contestantsOf(g)
	rows := [][]string{append(append([]string{""}, names...), "rounds")}
	labels := rowLabels(g)
	for i, r := range g {
		metric := metricIndex(r, m)
		row := []string{labels[i]}
		rounds := 0
		for _, name := range names {
			v := r.values(name, metric)
			rounds = max(rounds, len(v))
			cell := "–"
			if len(v) > 0 {
				cell = fmt.Sprintf("%s–%s (%s)", number(quantile(v, 0.25)), number(quantile(v, 0.75)), number(slices.Max(v)))
			}
			row = append(row, cell)
		}
		rows = append(rows, append(row, fmt.Sprint(rounds)))
	}
	return narrow(rows, len(names))
}

// ratioCell says how taskpool compares with the channel or the best peer.
func ratioCell(r result, k kind, metric int) string {
	c, ok := r.versus(k, metric)
	if !ok {
		return "–"
	}
	cell := number(c.ratio)
	if k == peer {
		cell += " (" + c.name + ")"
	}
	if c.lost() {
		cell = "**" + cell + " LOST**"
	}
	return cell
}

// narrow swaps rows and columns if there are too many contestants for columns.
func narrow(rows [][]string, contestants int) [][]string {
	if contestants <= 6 {
		return rows
	}
	turned := make([][]string, len(rows[0]))
	for i := range turned {
		for _, row := range rows {
			turned[i] = append(turned[i], row[i])
		}
	}
	return turned
}

// contestantsOf returns the names of all that take part in a group.
func contestantsOf(g []result) []string {
	var names []string
	for _, r := range g {
		for _, c := range r.Contestants {
			if !slices.Contains(names, c.Name) {
				names = append(names, c.Name)
			}
		}
	}
	return names
}

func metricIndex(r result, m resultMetric) int { return slices.Index(r.Metrics, m) }

// rowLabels returns the names of a group's scenarios, without the words before a
// comma that all of them begin with.
func rowLabels(g []result) []string {
	labels := make([]string, len(g))
	for i, r := range g {
		labels[i] = r.Scenario
	}
	for len(g) > 1 {
		common, _, found := strings.Cut(labels[0], ", ")
		if !found || slices.ContainsFunc(labels, func(l string) bool { return !strings.HasPrefix(l, common+", ") }) {
			break
		}
		for i := range labels {
			labels[i] = strings.TrimPrefix(labels[i], common+", ")
		}
	}
	return labels
}

// writeTable writes rows, of which the first is the header, as a markdown table.
// Columns of figures are aligned to the right.
func writeTable(w *bytes.Buffer, rows [][]string, figures bool) {
	for i, row := range rows {
		escaped := make([]string, len(row))
		for k, cell := range row {
			escaped[k] = strings.ReplaceAll(cell, "|", `\|`)
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(escaped, " | "))
		if i > 0 {
			continue
		}
		for k := range row {
			if figures && k > 0 {
				w.WriteString("| ---: ")
			} else {
				w.WriteString("| --- ")
			}
		}
		w.WriteString("|\n")
	}
	w.WriteString("\n")
}

func orDash(v float64, ok bool) string {
	if !ok {
		return "–"
	}
	return number(v)
}

// number returns v with about three digits, and commas if it is large.
func number(v float64) string {
	switch size := math.Abs(v); {
	case size >= 1e15:
		return fmt.Sprintf("%.3g", v)
	case size >= 99.95:
		return thousands(int(math.Round(v)))
	case size >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case size >= 0.1 || v == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// withUnit returns v and its unit, or v alone if it has none.
func withUnit(v float64, unit string) string { return strings.TrimSpace(number(v) + " " + unit) }

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
