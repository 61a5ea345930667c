package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunPrintsTheTableAndDrawsTheCurves(t *testing.T) {
	const duration, rounds, seed = 150 * time.Millisecond, 2, 7
	file := filepath.Join(t.TempDir(), "waits.svg")
	var out, progress bytes.Buffer
	require.NoError(t, run([]string{"-duration", "150ms", "-rounds", "2", "-seed", "7", "-o", file}, &out, &progress))
	require.Equal(t, "preempt: 2 rounds of 4 variants, 1.2s in all\npreempt: round 1 of 2 done\npreempt: round 2 of 2 done\n"+
		"preempt: the distribution of the waits is in "+file+"\n", progress.String())

	svg, err := os.ReadFile(file)
	require.NoError(t, err)
	text := textOf(t, svg)

	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	require.Len(t, lines, 1+len(variants()), "%s", &out)
	tasks := 0
	for round := range uint64(rounds) {
		tasks += len(arrivals(seed+round, duration))
	}
	row := regexp.MustCompile(`^ *(\S.*?) +(\d+)   +(\S+)   +(\S+)   +(\S+)   +(\S+)   +(\S+) %   +(\d+) M$`)
	for i, v := range variants() {
		require.Equal(t, utf8.RuneCountInString(lines[0]), utf8.RuneCountInString(lines[i+1]), "columns must be aligned:\n%s", &out)
		cells := row.FindStringSubmatch(strings.TrimRight(lines[i+1], " "))
		require.NotNil(t, cells, "%q", lines[i+1])
		require.Equal(t, v.name, cells[1])
		require.Equal(t, tasks, number(t, cells[2]), "every arrival must be measured, in every variant")
		var last time.Duration
		for _, cell := range cells[3:7] {
			d, err := time.ParseDuration(cell)
			require.NoError(t, err)
			require.GreaterOrEqual(t, d, last, "quantiles must grow:\n%s", lines[i+1])
			last = d
		}
		if i == 0 {
			require.Equal(t, "100.0", cells[7], "the first variant is what the others are relative to")
		}
		require.Positive(t, number(t, cells[8]), "Low tasks must have got on")
		require.Contains(t, text, v.name, "the legend must name each variant")
	}
	for _, want := range []string{"How long a High task waits", "wait from submission to start", "High tasks that have started", "100 %"} {
		require.Contains(t, text, want)
	}
}

// The picture kept beside the program, or the one named by $SVG.
func TestPictureIsWellFormed(t *testing.T) {
	svg, err := os.ReadFile(cmp.Or(os.Getenv("SVG"), "preempt.svg"))
	require.NoError(t, err)
	text := textOf(t, svg)
	for _, v := range variants() {
		require.Contains(t, text, v.name)
	}
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

func number(t *testing.T, s string) (n int) {
	t.Helper()
	for _, digit := range s {
		require.Contains(t, "0123456789", string(digit))
		n = 10*n + int(digit-'0')
	}
	return n
}

func TestBadArgumentsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-duration", "99ms"},
		{"-duration", "-1s"},
		{"-rounds", "0"},
		{"-seed", "x"},
		{"extra"},
		{"-o", filepath.Join(t.TempDir(), "missing", "x.svg"), "-duration", "100ms", "-rounds", "1"},
	} {
		require.Error(t, run(args, io.Discard, io.Discard), "%q", args)
	}
}

func TestArrivalsFollowTheSeed(t *testing.T) {
	const d = 100 * time.Second
	at := arrivals(1, d)
	require.Equal(t, at, arrivals(1, d))
	require.NotEqual(t, at, arrivals(2, d))
	require.True(t, slices.IsSorted(at))
	require.Less(t, at[len(at)-1], d)
	// Gaps that are exponential have a standard deviation that is their mean.
	mean := meanGap.Seconds()
	require.InEpsilon(t, d.Seconds()/mean, float64(len(at)), .05)
	var squares float64
	for i := range at[1:] {
		squares += math.Pow((at[i+1]-at[i]).Seconds()-mean, 2)
	}
	require.InEpsilon(t, mean, math.Sqrt(squares/float64(len(at)-1)), .05)
	require.Len(t, arrivals(1, 0), 1, "there is always one")
}

func TestQuantileIsTheSmallestWaitThatCoversTheShare(t *testing.T) {
	var waits []time.Duration
	for i := range 200 {
		waits = append(waits, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0: 1, .5: 100, .9: 180, .99: 198, .991: 199, 1: 200} {
		require.Equal(t, want, quantile(waits, q), "%v", q)
		require.Equal(t, time.Duration(5), quantile([]time.Duration{5}, q), "%v", q)
	}
}

func TestShortKeepsThreeDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 999: "999ns", 1234: "1.23µs", 40_649: "40.6µs", 999_999: "1ms", 61_251_000: "61.3ms", 1_234_567_890: "1.23s",
	} {
		require.Equal(t, want, short(d).String())
	}
}

func TestDecadesEncloseTheWaits(t *testing.T) {
	for _, c := range []struct{ first, last, from, to time.Duration }{
		{3 * time.Microsecond, 80 * time.Millisecond, time.Microsecond, 100 * time.Millisecond},
		{20 * time.Microsecond, 2 * time.Second, 10 * time.Microsecond, 10 * time.Second},
		{30, 40, time.Microsecond, 10 * time.Microsecond},
		{10 * time.Millisecond, 100 * time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond},
	} {
		from, to := decades(c.first, c.last)
		require.Equal(t, c.from, from)
		require.Equal(t, c.to, to)
	}
}

func TestRowStopsAtItsSafePoint(t *testing.T) {
	stop := errors.New("stop")
	for _, pixels := range []int{1, 7} {
		var calls int
		var work, want atomic.Int64
		err := mandelbrot(t.Context(), 50, func(context.Context) error {
			if calls++; calls == pixels {
				want.Store(work.Load())
				return stop
			}
			return nil
		}, &work)
		require.ErrorIs(t, err, stop)
		require.Equal(t, pixels, calls)
		require.Equal(t, want.Load(), work.Load(), "nothing is computed after the safe point that said stop")
		require.Positive(t, work.Load())
	}
}

func TestIterateTellsThePointsOfTheSet(t *testing.T) {
	for c, want := range map[complex128]int{0: 100, -1: 100, -.1 + .1i: 100, 1: 3, 2: 2, 3i: 1} {
		require.Equal(t, want, iterate(c, 100), "%v", c)
	}
}
