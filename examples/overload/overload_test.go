package overload

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

var update = flag.Bool("update", false, "write waits.csv and overload.svg anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func runAll(t *testing.T) (results []*result) {
	t.Helper()
	for _, load := range loads {
		for i := range variants() {
			synctest.Test(t, func(t *testing.T) {
				of, err := simulate(i, load)
				require.NoError(t, err)
				results = append(results, of...)
			})
		}
	}
	return results
}

// The figures in waits.csv, and the picture, are what the simulation yields, byte for byte.
func TestPlot(t *testing.T) {
	results := runAll(t)
	var table bytes.Buffer
	require.NoError(t, write(&table, results))
	t.Logf("the waits:\n%s", aligned(table.String()))
	svg, err := picture(results)
	require.NoError(t, err)
	for name, content := range map[string][]byte{"waits.csv": table.Bytes(), "overload.svg": svg} {
		if *update {
			require.NoError(t, os.WriteFile(name, content, 0o666))
		}
		kept, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, string(kept), string(content), "%s; to accept this: go test -C examples/overload -run TestPlot -update", name)
	}
	text := textOf(t, svg)
	for _, v := range variants() {
		require.Contains(t, text, v.name)
	}

	// What docs/overload.md says.
	good := func(variant int, load float64) (sum float64) {
		for _, r := range results {
			if r.variant == variant && r.load == load {
				sum += share(r.good)
			}
		}
		return sum
	}
	const fifo, bounded, delay = 0, 1, 2
	for _, r := range results {
		if r.variant != delay {
			continue
		}
		require.LessOrEqual(t, r.quantile(.99), 20*target+2*target, "%+v", r.priority)
		if r.priority == taskpool.High && r.load <= 2 {
			require.LessOrEqual(t, r.quantile(1), target)
			require.InDelta(t, r.arrived, len(r.waits), workers, "none was shed")
		}
	}
	for _, load := range loads[1:] {
		require.Greater(t, good(delay, load), .95)
		require.Less(t, good(fifo, load), .25)
		require.Less(t, good(bounded, load), good(delay, load))
	}
}

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

func TestArrivalsAreThoseOfTheLoad(t *testing.T) {
	for _, load := range loads {
		all := arrivals(load)
		require.Equal(t, all, arrivals(load))
		var work time.Duration
		for i, a := range all {
			work += a.run
			require.Less(t, a.at, horizon)
			require.True(t, i == 0 || a.at >= all[i-1].at)
		}
		require.InEpsilon(t, load, share(work), .03)
	}
}
