package starvation

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/taskpool-go/taskpool"
)

var update = flag.Bool("update", false, "write waits.csv and starvation.svg anew")

const seed = 1

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runAll simulates every policy under every load.
func runAll(t *testing.T) (results []*result) {
	t.Helper()
	for _, l := range loads() {
		all := arrivals(l, seed)
		for _, pol := range policies() {
			synctest.Test(t, func(t *testing.T) {
				both, err := simulate(l, pol, all)
				require.NoError(t, err)
				results = append(results, both[:]...)
			})
		}
	}
	return results
}

// The figures in waits.csv are what the simulation yields, byte for byte.
func TestPlot(t *testing.T) {
	results := runAll(t)
	var table bytes.Buffer
	require.NoError(t, writeTable(&table, results))
	t.Logf("the waits:\n%s", aligned(table.String()))
	svg, err := picture(results)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile("waits.csv", table.Bytes(), 0o666))
		require.NoError(t, os.WriteFile("starvation.svg", svg, 0o666))
	}
	want, err := os.ReadFile("waits.csv")
	require.NoError(t, err)
	require.Equal(t, string(want), table.String(), "to accept this: go test -C examples/starvation -run TestPlot -update")

	kept, err := os.ReadFile("starvation.svg")
	require.NoError(t, err)
	for _, svg := range [][]byte{svg, kept} {
		text := textOf(t, svg)
		for _, l := range loads() {
			require.Contains(t, text, l.name)
		}
		for _, pol := range policies() {
			require.Contains(t, text, pol.name+": High tasks")
			require.Contains(t, text, pol.name+": Low tasks")
		}
	}

	// What docs/starvation.md says of the policies.
	find := func(l, pol int, pr taskpool.Priority) *result {
		for _, r := range results {
			if r.load == loads()[l] && r.policy.name == policies()[pol].name && r.priority == pr {
				return r
			}
		}
		t.Fatal("missing")
		return nil
	}
	const strict, aging, fair = 0, 1, 2
	p99 := func(l, pol int) time.Duration {
		d, ok := find(l, pol, taskpool.High).quantile(.99)
		require.True(t, ok)
		return d
	}
	require.Greater(t, p99(1, aging), 1000*p99(1, strict), "aging: urgent work waits in the backlog")
	require.Less(t, p99(1, fair), 2*p99(1, strict), "fair share: it does not")
	require.Less(t, len(find(2, strict, taskpool.Low).waits), 10, "strict: less urgent work starves")
	require.InDelta(t, horizon.Seconds()*1000/16, len(find(2, fair, taskpool.Low).waits), 10, "fair share: it has its share")
}

// aligned returns a CSV table in columns.
func aligned(table string) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 3, ' ', 0)
	rows, _ := csv.NewReader(strings.NewReader(table)).ReadAll()
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush()
	return out.String()
}

// textOf returns the text in an XML document, which must be well-formed.
func textOf(t *testing.T, doc []byte) string {
	t.Helper()
	var text strings.Builder
	for dec := xml.NewDecoder(bytes.NewReader(doc)); ; {
		token, err := dec.Token()
		if err == io.EOF {
			return text.String()
		}
		require.NoError(t, err)
		if chars, ok := token.(xml.CharData); ok {
			text.Write(chars)
		}
	}
}

func TestArrivalsFollowTheLoadAndTheSeed(t *testing.T) {
	l := loads()[0]
	all := arrivals(l, seed)
	require.Equal(t, all, arrivals(l, seed))
	require.NotEqual(t, all, arrivals(l, seed+1))
	count := map[taskpool.Priority]int{}
	for i, a := range all {
		require.Less(t, a.at, horizon)
		if i > 0 {
			require.GreaterOrEqual(t, a.at, all[i-1].at)
		}
		count[a.pr]++
	}
	capacity := float64(horizon / service)
	require.InEpsilon(t, .3*capacity, count[taskpool.High], .05)
	require.InEpsilon(t, .5*capacity, count[taskpool.Low], .05)
}

func TestQuantileCountsTasksThatHaveNotStarted(t *testing.T) {
	r := &result{arrived: 4, waits: []time.Duration{1, 2, 3}}
	for q, want := range map[float64]time.Duration{0: 1, .25: 1, .26: 2, .5: 2, .75: 3} {
		d, ok := r.quantile(q)
		require.True(t, ok)
		require.Equal(t, want, d, "%v", q)
	}
	_, ok := r.quantile(.76)
	require.False(t, ok)
	for d, want := range map[time.Duration]float64{0: 0, 1: .25, 2: .5, 3: .75, time.Hour: .75} {
		require.Equal(t, want, r.share(d), "%v", d)
	}
}
