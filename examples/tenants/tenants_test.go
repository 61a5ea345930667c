package tenants

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write waits.csv, shares.csv and tenants.svg anew")

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
			results = append(results, of...)
		})
	}
	return results
}

func runWeights(t *testing.T) (starts [][3]int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		starts, err = simulateWeights()
		require.NoError(t, err)
	})
	return starts
}

// The figures in waits.csv and shares.csv, and the picture, are what the simulation yields, byte
// for byte.
func TestPlot(t *testing.T) {
	results, starts := runAll(t), runWeights(t)
	var waits, shares bytes.Buffer
	require.NoError(t, writeWaits(&waits, results))
	t.Logf("the waits:\n%s", aligned(waits.String()))
	require.NoError(t, writeShares(&shares, starts))
	t.Logf("the starts in each %v:\n%s", window, aligned(shares.String()))
	svg, err := picture(results, starts)
	require.NoError(t, err)
	for name, content := range map[string][]byte{"waits.csv": waits.Bytes(), "shares.csv": shares.Bytes(), "tenants.svg": svg} {
		if *update {
			require.NoError(t, os.WriteFile(name, content, 0o666))
		}
		kept, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, string(kept), string(content), "%s; to accept this: go test -C examples/tenants -run TestPlot -update", name)
	}
	text := textOf(t, svg)
	for _, title := range titles {
		require.Contains(t, text, title)
	}
	for _, v := range variants() {
		require.Contains(t, text, v.name)
	}

	// What docs/flows.md says.
	const one, list, count, flows = 0, 1, 2, 3
	const small, middle = 0, 1
	p99 := func(v, of int) time.Duration {
		i := slices.IndexFunc(results, func(r *result) bool {
			return r.variant.name == variants()[v].name && r.tenant.name == tenants()[of].name
		})
		return results[i].quantile(.99)
	}
	for _, v := range []int{list, count, flows} {
		require.Less(t, 1000*p99(v, small), p99(one, small), "a single task does not wait for a flood")
	}
	for _, v := range []int{one, list, count} {
		require.Less(t, 10*p99(flows, middle), p99(v, middle), "with flows alone, 200 do not either")
	}
}

// While all have work, and while one has none, the starts are shared by weight. Who comes back
// gets its share and nothing for the time in which it was away.
func TestStartsAreSharedByWeight(t *testing.T) {
	const ran = 1400 * time.Millisecond // 800 tasks at four of seven starts
	n := float64(window / service)
	for i, s := range runWeights(t) {
		at := time.Duration(i) * window
		want := [3]float64{n / 7, 2 * n / 7, 4 * n / 7}
		if at >= ran && at < away || at >= away+ran {
			want = [3]float64{n / 3, 2 * n / 3, 0}
		}
		for of, want := range want {
			require.InDelta(t, want, s[of], 2, "%s in the %v from %v", names[of], window, at)
		}
	}
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

func TestArrivalsFollowTheTenantsAndTheSeed(t *testing.T) {
	all := arrivals(seed)
	require.Equal(t, all, arrivals(seed))
	require.NotEqual(t, all, arrivals(seed+1))
	count := make([]int, len(tenants()))
	for i, a := range all {
		require.Less(t, a.at, horizon)
		if i > 0 {
			require.GreaterOrEqual(t, a.at, all[i-1].at)
		}
		count[a.of]++
	}
	require.InEpsilon(t, 50*horizon.Seconds(), count[0], .05)
	require.InEpsilon(t, horizon.Seconds()/2, count[1], .25)
	require.Equal(t, []int{2, 1}, count[2:])
}

func TestQuantileIsTheLeastTimeWithinWhichSoManyHadStarted(t *testing.T) {
	r := &result{waits: []time.Duration{1, 2, 3, 4}}
	for q, want := range map[float64]time.Duration{0: 1, .25: 1, .26: 2, .5: 2, .75: 3, .76: 4, 1: 4} {
		require.Equal(t, want, r.quantile(q), "%v", q)
	}
	for d, want := range map[time.Duration]float64{0: 0, 1: .25, 2: .5, 3: .75, time.Hour: 1} {
		require.Equal(t, want, r.share(d), "%v", d)
	}
}
