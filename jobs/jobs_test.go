package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

func nothing[T any](context.Context, jobs.Meta, T) error { return nil }

func TestRegisterPanicsOnAProgrammersError(t *testing.T) {
	var reg jobs.Registry
	jobs.Register(&reg, "taken", nothing[int], jobs.Policy{})
	for want, f := range map[string]func(){
		"name is taken":           func() { jobs.Register(&reg, "taken", nothing[int], jobs.Policy{}) },
		"name must be":            func() { jobs.Register(&reg, "a b", nothing[int], jobs.Policy{}) },
		"handler must not be nil": func() { jobs.Register[int](&reg, "one", nil, jobs.Policy{}) },
		"payload cannot be encoded: field C: JSON has no chan int": func() { jobs.Register(&reg, "one", nothing[struct{ C []chan int }], jobs.Policy{}) },
		"JSON has no func()":            func() { jobs.Register(&reg, "one", nothing[map[string]*func()], jobs.Policy{}) },
		"JSON has no keys of type bool": func() { jobs.Register(&reg, "one", nothing[[1]map[bool]int], jobs.Policy{}) },
		"field Err: JSON decodes into no interface with methods, as error is": func() { jobs.Register(&reg, "one", nothing[struct{ Err error }], jobs.Policy{}) },
		"has no exported field":           func() { jobs.Register(&reg, "one", nothing[struct{ path string }], jobs.Policy{}) },
		"field C: JSON has no complex128": func() { jobs.Register(&reg, "one", nothing[outer], jobs.Policy{}) },
		"Policy.Timeout must not":         func() { jobs.Register(&reg, "one", nothing[int], jobs.Policy{Timeout: -1}) },
		"Policy.Heartbeat must not":       func() { jobs.Register(&reg, "one", nothing[int], jobs.Policy{Heartbeat: -1}) },
		`jobs: Register "one": Policy.Flow must be UTF-8 without NUL, got "\x00"`: func() { jobs.Register(&reg, "one", nothing[int], jobs.Policy{Flow: "\x00"}) },
		"Policy.MaxAttempts must be ": func() { jobs.Register(&reg, "one", nothing[int], jobs.Policy{MaxAttempts: -1}) },
	} {
		func() {
			defer func() { require.Contains(t, recover(), want) }()
			f()
		}()
	}
	require.Equal(t, []string{"taken"}, reg.Kinds())
}

// A color has no name for its zero value.
type color int

func (c color) MarshalText() ([]byte, error) {
	if c == 0 {
		return nil, errors.New("no color")
	}
	return []byte("red"), nil
}

type deep struct {
	Color *color
	Next  *deep
	Raw   json.RawMessage
	Any   any
	Skip  func() `json:"-"`
}

type outer struct{ inner }

type inner struct{ C complex128 }

// A lookup cannot be encoded without a map.
type lookup struct{ names map[int]string }

func (l lookup) MarshalJSON() ([]byte, error) {
	if l.names == nil {
		panic("no names")
	}
	return json.Marshal(l.names)
}

type named struct {
	base
	Keys   map[color]int
	Nested struct{ hidden int }
}

type base struct{ Name string }

func TestPayloadTypesAreNotRefusedForWhatSomeValuesDo(t *testing.T) {
	var reg jobs.Registry
	jobs.Register(&reg, "color", nothing[color], jobs.Policy{})
	jobs.Register(&reg, "deep", nothing[deep], jobs.Policy{})
	jobs.Register(&reg, "any", nothing[any], jobs.Policy{})
	jobs.Register(&reg, "pointer", nothing[*time.Time], jobs.Policy{})
	jobs.Register(&reg, "lookup", nothing[lookup], jobs.Policy{})
	jobs.Register(&reg, "named", nothing[named], jobs.Policy{})
	jobs.Register(&reg, "nothing", nothing[struct{}], jobs.Policy{})
}

func TestKindNames(t *testing.T) {
	var reg jobs.Registry
	for _, name := range []string{"ab", "mail.send", "a/b-c_d.e", "7z", "A" + strings.Repeat("z", 126)} {
		require.Equal(t, name, jobs.Register(&reg, name, nothing[int], jobs.Policy{}).Name())
	}
	for _, name := range []string{"", "a", "-a", "/ab", "a b", "naïve", "a\n", "A" + strings.Repeat("z", 127)} {
		require.Panics(t, func() { jobs.Register(&reg, name, nothing[int], jobs.Policy{}) }, "%q", name)
	}
}

func TestRequestErrorsNameTheFieldTheValueAndWhatIsAllowed(t *testing.T) {
	good := jobs.Request{Kind: "kind", Payload: []byte("1"), MaxAttempts: 1}
	require.NoError(t, engine.Validate(good))
	for want, change := range map[string]func(*jobs.Request){
		`jobs: Request.Kind must be 2 to 127 letters, digits and . _ - / of ASCII, a letter or digit first, got "?"`: func(r *jobs.Request) { r.Kind = "?" },
		`jobs: Request.Payload must be JSON`:                               func(r *jobs.Request) { r.Payload = nil },
		"jobs: Request.UniqueKey must be UTF-8 without NUL, got \"\\x00\"": func(r *jobs.Request) { r.UniqueKey = "\x00" },
		"jobs: Request.UniqueKey must be UTF-8 without NUL, got \"\\xff\"": func(r *jobs.Request) { r.UniqueKey = "\xff" },
		`jobs: Request.Flow must be UTF-8 without NUL, got "\x00"`:         func(r *jobs.Request) { r.Flow = "\x00" },
		`jobs: Request.Flow must be UTF-8 without NUL, got "\xff"`:         func(r *jobs.Request) { r.Flow = "\xff" },
		"jobs: Request.NotBefore must not be after the year 9999 in UTC, got 10000-01-01 00:00:00 +0000 UTC": func(r *jobs.Request) {
			r.NotBefore = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
		},
		`jobs: Request.MaxAttempts must be from 1 to 32767, got 0`:     func(r *jobs.Request) { r.MaxAttempts = 0 },
		`jobs: Request.MaxAttempts must be from 1 to 32767, got 32768`: func(r *jobs.Request) { r.MaxAttempts = 32768 },
	} {
		r := good
		change(&r)
		require.EqualError(t, engine.Validate(r), want)
		var reg jobs.Registry
		_, err := newLocal(t, &reg).Enqueue(t.Context(), r)
		require.EqualError(t, err, want)
	}
}

func TestPayloadsAreTextToAllDatabases(t *testing.T) {
	for payload, ok := range map[string]bool{
		`"é\n\"\\"`: true, `"\\u0000"`: true, `{"a\u00e9":["\ud83d\ude00"]}`: true, `"\\\\ud800"`: true,
		`"\u0000"`: false, `"\\\u0000"`: false, `{"\u0000":1}`: false, "\"\xff\"": false,
		`"\ud800"`: false, `"\ud800\n"`: false, `"\ud800x"`: false, `"\ud800\ud800"`: false, `"\ude00\ud83d"`: false, `"\ud83d\ude00\ude00"`: false,
	} {
		err := engine.Validate(jobs.Request{Kind: "kind", Payload: []byte(payload), MaxAttempts: 1})
		require.Equal(t, ok, err == nil, "%s: %v", payload, err)
	}
	var reg jobs.Registry
	k := jobs.Register(&reg, "kind", nothing[string], jobs.Policy{})
	_, err := k.Enqueue(t.Context(), newLocal(t, &reg), "a\x00b", nil)
	require.EqualError(t, err, `jobs: Request.Payload must be UTF-8 without NUL and unpaired surrogates, as \u0000 and \ud800 are: databases store no such text`)
}

// A queue that keeps the last request.
type keeper struct {
	jobs.Queue
	last jobs.Request
}

func (q *keeper) Enqueue(_ context.Context, r jobs.Request) (jobs.ID, error) {
	q.last = r
	return "id", nil
}

func TestOptionsTakeThePolicysPlace(t *testing.T) {
	var reg jobs.Registry
	var q keeper
	k := jobs.Register(&reg, "kind", nothing[string], jobs.Policy{Priority: taskpool.High, Flow: "host", MaxAttempts: 4})
	must(t)(k.Enqueue(t.Context(), &q, "text", nil))
	require.Equal(t, jobs.Request{Kind: "kind", Payload: []byte(`"text"`), Priority: taskpool.High, Flow: "host", MaxAttempts: 4}, q.last)
	must(t)(k.Enqueue(t.Context(), &q, "text", new(jobs.Options)))
	require.Equal(t, jobs.Request{Kind: "kind", Payload: []byte(`"text"`), Priority: taskpool.High, Flow: "host", MaxAttempts: 4}, q.last)

	when := time.Now().Add(time.Hour)
	must(t)(k.Enqueue(t.Context(), &q, "text", &jobs.Options{Priority: new(taskpool.Medium), Flow: "acme", MaxAttempts: 2, NotBefore: when, UniqueKey: "key"}))
	require.Equal(t, jobs.Request{Kind: "kind", Payload: []byte(`"text"`), Flow: "acme", MaxAttempts: 2, NotBefore: when, UniqueKey: "key"}, q.last)

	for _, n := range []int{-1, 32768} {
		_, err := k.Enqueue(t.Context(), &q, "", &jobs.Options{MaxAttempts: n})
		require.EqualError(t, err, fmt.Sprintf("jobs: Options.MaxAttempts must be from 0 to 32767, got %d", n))
	}
	_, err := jobs.Register(&reg, "number", nothing[float64], jobs.Policy{}).Enqueue(t.Context(), &q, math.NaN(), nil)
	require.ErrorContains(t, err, `jobs: payload of kind "number": `)
}

func TestPolicyIsWhatWasRegistered(t *testing.T) {
	var reg jobs.Registry
	jobs.Register(&reg, "kind", nothing[int], jobs.Policy{Timeout: time.Second})
	p, ok := engine.Policy(&reg, "kind")
	require.True(t, ok)
	require.Equal(t, jobs.Policy{Timeout: time.Second, MaxAttempts: 1}, p)
	_, ok = engine.Policy(&reg, "other")
	require.False(t, ok)
}

func TestJudgeSaysWhatAnErrorMeans(t *testing.T) {
	var reg jobs.Registry
	jobs.Register(&reg, "kind", nothing[int], jobs.Policy{Backoff: func(n int) time.Duration { return time.Duration(n) * time.Second }})
	jobs.Register(&reg, "early", nothing[int], jobs.Policy{Backoff: at(-time.Second)})
	jobs.Register(&reg, "default", nothing[int], jobs.Policy{})
	wrapped := func(err error) error { return fmt.Errorf("wrapped: %w", err) }
	for _, c := range []struct {
		kind    string
		attempt int
		err     error
		state   jobs.State
		delay   time.Duration
	}{
		{"kind", 1, nil, jobs.StateCompleted, 0},
		{"kind", 2, errTest, jobs.StateRetrying, 2 * time.Second},
		{"kind", 5, errTest, jobs.StateDiscarded, 0},
		{"kind", 1, wrapped(taskpool.Permanent(errTest)), jobs.StateDiscarded, 0},
		{"kind", 1, wrapped(taskpool.RetryAfter(time.Minute, errTest)), jobs.StateRetrying, time.Minute},
		{"kind", 5, taskpool.RetryAfter(time.Minute, errTest), jobs.StateDiscarded, 0},
		{"kind", 1, taskpool.ErrGoexit, jobs.StateDiscarded, 0},
		{"kind", 1, &taskpool.HungError{}, jobs.StateDiscarded, 0},
		{"kind", 1, wrapped(taskpool.ErrTimeout), jobs.StateRetrying, time.Second},
		{"kind", 1, &taskpool.PanicError{}, jobs.StateRetrying, time.Second},
		{"early", 1, errTest, jobs.StateRetrying, 0},
	} {
		m := jobs.Meta{Kind: c.kind, Attempt: c.attempt, MaxAttempts: 5}
		require.Equal(t, jobs.Event{Meta: m, State: c.state, Err: c.err, Delay: c.delay}, engine.Judge(&reg, m, c.err), "%+v", c)
	}
	longest := make(map[int]time.Duration)
	for range 1000 {
		for _, n := range []int{1, 3, 30} {
			longest[n] = max(longest[n], engine.Judge(&reg, jobs.Meta{Kind: "default", Attempt: n, MaxAttempts: 99}, errTest).Delay)
		}
	}
	for n, limit := range map[int]time.Duration{1: 100 * time.Millisecond, 3: 400 * time.Millisecond, 30: 30 * time.Second} {
		require.LessOrEqual(t, longest[n], limit)
		require.Greater(t, longest[n], limit/2, "of 1,000 delays none is in the upper half")
	}
}

func TestStatesHaveNames(t *testing.T) {
	require.Equal(t, "[completed retrying discarded canceled State(4) State(-1)]",
		fmt.Sprint([]jobs.State{jobs.StateCompleted, jobs.StateRetrying, jobs.StateDiscarded, jobs.StateCanceled, 4, -1}))
}
