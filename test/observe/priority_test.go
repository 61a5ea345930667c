package observe_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
)

func TestAPriorityIsAStringInTextAndInJSON(t *testing.T) {
	type config struct {
		Priority taskpool.Priority
		By       map[taskpool.Priority]int
	}
	b, err := json.Marshal(config{taskpool.High, map[taskpool.Priority]int{taskpool.Low: 1, -7: 2}})
	require.NoError(t, err)
	require.JSONEq(t, `{"Priority": "high", "By": {"low": 1, "-7": 2}}`, string(b))
	var got config
	require.NoError(t, json.Unmarshal([]byte(`{"Priority": -5, "By": {"high": 1, "0": 2}}`), &got))
	require.Equal(t, config{-5, map[taskpool.Priority]int{taskpool.High: 1, taskpool.Medium: 2}}, got)
	require.NoError(t, json.Unmarshal([]byte(`{"Priority": null}`), &got))
	require.EqualValues(t, -5, got.Priority)

	for _, handler := range []func(io.Writer) slog.Handler{
		func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
		func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		var out bytes.Buffer
		slog.New(handler(&out)).Info("x", "priority", taskpool.Low)
		require.Contains(t, out.String(), "low")
	}

	flags := flag.NewFlagSet("", flag.ContinueOnError)
	var pr taskpool.Priority
	flags.TextVar(&pr, "priority", taskpool.Medium, "")
	require.NoError(t, flags.Parse([]string{"-priority", "high"}))
	require.Equal(t, taskpool.High, pr)
}

func TestAPriorityIsReadAsItIsWritten(t *testing.T) {
	all := []int{math.MinInt, math.MaxInt}
	for n := -100; n <= 100; n++ {
		all = append(all, n)
	}
	for range 2000 {
		all = append(all, int(rand.Uint64()>>rand.IntN(64)), -int(rand.Uint64()>>rand.IntN(64)))
	}
	for _, n := range all {
		want := taskpool.Priority(n)
		text, err := want.MarshalText()
		require.NoError(t, err)
		require.Equal(t, want.String(), string(text))
		value, err := json.Marshal(want)
		require.NoError(t, err)
		require.Equal(t, strconv.Quote(want.String()), string(value))

		var fromText, fromDigits, fromJSON, fromNumber taskpool.Priority
		require.NoError(t, fromText.UnmarshalText(text))
		require.NoError(t, fromDigits.UnmarshalText([]byte(strconv.Itoa(n))))
		require.NoError(t, json.Unmarshal(value, &fromJSON))
		require.NoError(t, json.Unmarshal([]byte(strconv.Itoa(n)), &fromNumber))
		require.Equal(t, []taskpool.Priority{want, want, want, want}, []taskpool.Priority{fromText, fromDigits, fromJSON, fromNumber})
	}
}

func TestWhatIsNoPriorityIsRefusedAndNamed(t *testing.T) {
	for _, text := range []string{"", "High", "urgent", "1.5", "1e2", " 1", "0x1", "1_0", "92233720368547758080", "null", "\"", "hi\ngh"} {
		pr := taskpool.Priority(42)
		require.EqualError(t, pr.UnmarshalText([]byte(text)),
			fmt.Sprintf("taskpool: Priority: text must be high, medium, low or an int, got %q", text))
		value, err := json.Marshal(text)
		require.NoError(t, err)
		require.Error(t, json.Unmarshal(value, &pr), text)
		require.EqualValues(t, 42, pr, "as it was")
	}
	for _, value := range []string{"1.5", "true", "[]", "{}"} {
		pr := taskpool.Priority(42)
		require.ErrorContains(t, json.Unmarshal([]byte(value), &pr), "got "+strconv.Quote(value))
		require.EqualValues(t, 42, pr)
	}
}
