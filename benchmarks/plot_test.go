package main

import (
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// invented returns a result for each scenario: in the first metric the first
// contestant has 100, the second 200 and so on, and more in later metrics.
func invented() (results []result) {
	for _, s := range scenarios() {
		r := result{Group: s.group, Scenario: s.name, Values: make(map[string][][]float64)}
		for _, m := range s.metrics {
			r.Metrics = append(r.Metrics, resultMetric{m.name, m.unit})
		}
		for i, c := range s.contestants {
			r.Contestants = append(r.Contestants, resultContestant{c.name, c.kind})
			for m := range s.metrics {
				r.Values[c.name] = append(r.Values[c.name], []float64{100 * float64(i+1) * math.Pow(3, float64(m))})
			}
		}
		results = append(results, r)
	}
	return results
}

// text returns all text of an SVG file, which must be well-formed.
func text(t *testing.T, file string) (words []string) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	d := xml.NewDecoder(f)
	for {
		token, err := d.Token()
		if err == io.EOF {
			return words
		}
		require.NoError(t, err)
		if data, ok := token.(xml.CharData); ok && strings.TrimSpace(string(data)) != "" {
			words = append(words, string(data))
		}
	}
}

func TestPlotsShowEveryContestant(t *testing.T) {
	dir := t.TempDir()
	results := invented()
	require.NoError(t, plots(results, dir))
	for file, r := range map[string]result{
		"throughput.svg": find(results, "empty task, "+crew(2, 1)),
		"latency.svg":    find(results, overloadName),
		"server.svg":     find(results, serverName(serverLoads[0])),
		"backlog.svg":    find(results, backlogName(backlogDepths[0])),
	} {
		require.NotEmpty(t, r.Contestants, file)
		shown := text(t, filepath.Join(dir, file))
		for _, c := range r.Contestants {
			require.Contains(t, shown, c.Name, file)
		}
	}
}

// -only leaves most scenarios out, and a contestant may have no value.
func TestPlotsNeedNotAllResults(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, plots(nil, dir))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)

	results := invented()
	for _, r := range results {
		for _, values := range r.Values[r.Contestants[0].Name] {
			values[0] = 0
		}
		if len(r.Contestants) > 1 {
			delete(r.Values, r.Contestants[1].Name)
		}
	}
	require.NoError(t, plots(results, dir))
	require.NoError(t, plots(results[:1], dir))
}

func TestStepsEncloseTheRange(t *testing.T) {
	for _, c := range []struct {
		least, greatest float64
		want            []float64
	}{
		{48, 1200, []float64{20, 50, 100, 200, 500, 1000, 2000}},
		{100, 100, []float64{100}},
		{99, 101, []float64{50, 100, 200}},
		{0.3, 0.9, []float64{0.2, 0.5, 1}},
	} {
		got := steps(math.Log10(c.least), math.Log10(c.greatest))
		require.InDeltaSlice(t, c.want, got, 1e-9)
	}
}

func TestDurationsHaveAFittingUnit(t *testing.T) {
	for x, want := range map[float64]string{-2: "10 ns", 0: "1 µs", 1: "10 µs", 2: "100 µs", 3: "1 ms", 5: "100 ms", 6: "1 s", 7: "10 s"} {
		require.Equal(t, want, duration(x))
	}
}
