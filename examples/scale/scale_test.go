package scale

import (
	"bytes"
	"encoding/csv"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	update  = flag.Bool("update", false, "write the tables and the picture anew")
	measure = flag.Bool("measure", false, "measure with processes and a PostgreSQL, and write measured.csv")
)

// What is measured: processes of so many workers, which share the processors with their database.
const (
	measuredWorkers = 50
	measuredRun     = 20 * time.Millisecond
	cooldown        = 100 * time.Millisecond // River's default
)

var measuredProcesses = []int{1, 2, 4, 8}

// A measurement is a row of measured.csv.
type measurement struct {
	processes, cores int
	throughput       float64
	costs
}

func measurements(t *testing.T) (all []measurement) {
	t.Helper()
	text, err := os.ReadFile("measured.csv")
	require.NoError(t, err)
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	require.NoError(t, err)
	for _, row := range rows[1:] {
		var x [5]float64
		for i := range x {
			x[i], err = strconv.ParseFloat(row[i], 64)
			require.NoError(t, err)
		}
		all = append(all, measurement{int(x[0]), int(x[1]), x[2], costs{time.Duration(x[3] * 1e3), time.Duration(x[4] * 1e3)}})
	}
	return all
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Microseconds())/1e3, 'f', 1, 64)
}

func number(x float64) string { return strconv.FormatFloat(x, 'f', 0, 64) }

// A table is rows of text.
type table [][]string

func (r table) csv() []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.WriteAll(r)
	return b.Bytes()
}

func (r table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range r {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush()
	return b.String()
}

// The tables are what the simulation yields with the measured costs, byte for byte, and its
// predictions for what was measured are within 20 % of it.
func TestPlot(t *testing.T) {
	all := measurements(t)
	require.Len(t, all, len(measuredProcesses))
	input := all[0].costs // of one process; the others are predicted with these
	predicted := table{{"processes", "predicted jobs/s", "measured jobs/s", "ratio"}}
	for i, m := range all {
		require.Equal(t, measuredProcesses[i], m.processes)
		r := simulate(setup{costs: input, machines: m.processes, databases: 1, workers: measuredWorkers, cores: m.cores, dbCores: m.cores, shared: true,
			cooldown: cooldown, run: measuredRun, horizon: 20 * time.Second})
		ratio := r.throughput / m.throughput
		require.InDelta(t, 1, ratio, .2, "%d processes", m.processes)
		predicted = append(predicted, []string{strconv.Itoa(m.processes), number(r.throughput), number(m.throughput), strconv.FormatFloat(ratio, 'f', 2, 64)})
	}

	// Machines of 4 cores, databases of 2: as many jobs as they can do.
	grown := table{{"workers", "machines", "databases", "jobs/s", "load of the busiest database %"}}
	var curves [][3]float64 // databases, workers, throughput
	for _, databases := range []int{1, 2, 4, 8} {
		for _, c := range [][2]int{{1, 1}, {1, 10}, {3, 10}, {10, 10}, {30, 10}, {100, 10}} {
			machines, workers := c[0], c[1]
			if machines < databases {
				continue
			}
			r := simulate(setup{costs: input, machines: machines, databases: databases, workers: workers, cores: 4, dbCores: 2, cooldown: 10 * time.Millisecond, run: measuredRun, horizon: 4 * time.Second})
			grown = append(grown, []string{strconv.Itoa(machines * workers), strconv.Itoa(machines), strconv.Itoa(databases), number(r.throughput), number(100 * r.dbLoad)})
			curves = append(curves, [3]float64{float64(databases), float64(machines * workers), r.throughput})
		}
	}

	// Five machines with jobs at some part of what they can do; a tenth is urgent.
	base := setup{costs: input, machines: 5, databases: 1, workers: 10, cores: 4, dbCores: 2, cooldown: 10 * time.Millisecond, run: measuredRun, horizon: 3 * time.Minute, rescue: time.Minute}
	full := base
	full.horizon = 10 * time.Second
	most := simulate(full).throughput
	waits := table{{"what", "load %", "urgent p50 ms", "urgent p99 ms", "others p50 ms", "others p99 ms", "longest ms", "jobs that ran twice"}}
	row := func(what string, load float64, s setup) {
		s.load = load * most
		r := simulate(s)
		waits = append(waits, []string{what, number(100 * load), milliseconds(quantile(r.high, .5)), milliseconds(quantile(r.high, .99)),
			milliseconds(quantile(r.low, .5)), milliseconds(quantile(r.low, .99)), milliseconds(r.late), strconv.Itoa(r.again)})
	}
	for _, load := range []float64{.5, .8, .95, 1.1} {
		row("all is well", load, base)
	}
	dead := base
	dead.dies = 1
	row("1 machine of 5 dies", .5, dead)
	dead.rescue, dead.horizon = 3*time.Minute, 6*time.Minute
	row("the same, with 3 minutes until rescue", .5, dead)
	away := base
	away.dbDies = 20 * time.Second
	row("the database is away for 20 s", .5, away)
	away.databases = 8
	away.machines = 16
	row("1 database of 8 is away for 20 s", .5, away)

	for _, f := range []struct {
		name    string
		content []byte
		show    table
	}{{"predicted.csv", predicted.csv(), predicted}, {"grown.csv", grown.csv(), grown}, {"waits.csv", waits.csv(), waits}, {"scale.svg", picture(curves), nil}} {
		if f.show != nil {
			t.Logf("%s:\n%s", f.name, f.show)
		}
		if *update {
			require.NoError(t, os.WriteFile(f.name, f.content, 0o666))
		}
		kept, err := os.ReadFile(f.name)
		require.NoError(t, err)
		require.Equal(t, string(kept), string(f.content), "%s; to accept this: go test -C examples/scale -run TestPlot -update", f.name)
	}
}

// What the model must come to where it can be computed.
func TestModelAgreesWithArithmetic(t *testing.T) {
	free := setup{machines: 3, databases: 1, workers: 8, cores: 4, dbCores: 8, cooldown: cooldown, run: measuredRun, horizon: 20 * time.Second}
	require.InEpsilon(t, 3*8/cooldown.Seconds(), simulate(free).throughput, .02, "the cooldown is what bounds it")
	free.cooldown = 0
	free.run = 50 * time.Millisecond
	require.InEpsilon(t, 3*8/.05, simulate(free).throughput, .05, "the workers are")
	bound := free
	bound.database, bound.workers = 10*time.Millisecond, 100
	r := simulate(bound)
	require.InEpsilon(t, 8/.01, r.throughput, .05, "the database is")
	require.InEpsilon(t, 1, r.dbLoad, .05)
	bound.database, bound.client = 0, 10*time.Millisecond
	require.InEpsilon(t, 3*4/.01, simulate(bound).throughput, .05, "the machines are")
	some := free
	some.load = 100
	r = simulate(some)
	require.InEpsilon(t, 100, r.throughput, .1)
	require.Less(t, quantile(r.low, .99), 10*time.Millisecond)
}
