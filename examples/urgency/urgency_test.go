package urgency

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

var update = flag.Bool("update", false, "write times.csv and urgency.svg anew")

const seed = 1

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runAll simulates every variant.
func runAll(t *testing.T) (results []*result) {
	t.Helper()
	all := arrivals(seed)
	for _, v := range variants() {
		synctest.Test(t, func(t *testing.T) {
			of, err := simulate(v, all)
			require.NoError(t, err)
			results = append(results, of[:]...)
		})
	}
	return results
}

// The figures in times.csv are what the simulation yields, byte for byte.
func TestPlot(t *testing.T) {
	results := runAll(t)
	var table bytes.Buffer
	require.NoError(t, writeTable(&table, results))
	t.Logf("the times:\n%s", aligned(table.String()))
	svg, err := picture(results)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile("times.csv", table.Bytes(), 0o666))
		require.NoError(t, os.WriteFile("urgency.svg", svg, 0o666))
	}
	want, err := os.ReadFile("times.csv")
	require.NoError(t, err)
	require.Equal(t, string(want), table.String(), "to accept this: go test -C examples/urgency -run TestPlot -update")

	kept, err := os.ReadFile("urgency.svg")
	require.NoError(t, err)
	for _, svg := range [][]byte{svg, kept} {
		text := textOf(t, svg)
		for _, v := range variants() {
			for _, name := range names {
				require.Contains(t, text, name+": "+v.name)
			}
		}
	}

	// What docs/starvation.md says.
	const lends, nothing = 0, 1
	find := func(v int, pr taskpool.Priority) *result {
		for _, r := range results {
			if r.variant.name == variants()[v].name && r.priority == pr {
				require.Len(t, r.times, r.arrived, "all have ended")
				return r
			}
		}
		t.Fatal("missing")
		return nil
	}
	quantile := func(v int, pr taskpool.Priority, q float64) time.Duration {
		d, ok := find(v, pr).quantile(q)
		require.True(t, ok)
		return d
	}
	for _, q := range []float64{.5, .99} {
		require.Greater(t, quantile(nothing, taskpool.High, q), 500*quantile(lends, taskpool.High, q))
	}
	require.Less(t, quantile(lends, taskpool.Medium, .99), 2*quantile(nothing, taskpool.Medium, .99), "what it costs those in between")
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

func TestArrivalsFollowTheRatesAndTheSeed(t *testing.T) {
	all := arrivals(seed)
	require.Equal(t, all, arrivals(seed))
	require.NotEqual(t, all, arrivals(seed+1))
	count := map[taskpool.Priority]int{}
	for i, a := range all {
		require.Less(t, a.at, horizon)
		if i > 0 {
			require.GreaterOrEqual(t, a.at, all[i-1].at)
		}
		count[a.pr]++
	}
	require.InEpsilon(t, 50*horizon.Seconds(), count[taskpool.High], .05)
	require.InEpsilon(t, 600*horizon.Seconds(), count[taskpool.Medium], .05)
}

func TestQuantileCountsTasksThatHaveNotEnded(t *testing.T) {
	r := &result{arrived: 4, times: []time.Duration{1, 2, 3}}
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
