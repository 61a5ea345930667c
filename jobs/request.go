package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/taskpool-go/taskpool"
)

// A Request is a job as it is handed to a [Queue]. [Kind.Enqueue] makes it.
type Request struct {
	Kind        string
	Payload     json.RawMessage
	Priority    taskpool.Priority
	Flow        string // whose work it is; empty if nobody has said
	MaxAttempts int    // at least 1
	NotBefore   time.Time
	MaxWait     time.Duration // 0: no bound
	UniqueKey   string
}

// What all engines can store. SQLite takes no JSON that is nested deeper than 1000, and
// what PostgreSQL takes depends on its stack.
const (
	maxAttempts = 32767
	maxYear     = 9999
	maxDepth    = 500
)

// depth returns how deep arrays and objects in a JSON text are nested.
func depth(text []byte) (deepest int) {
	now, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[', c == '{':
			now++
			deepest = max(deepest, now)
		case c == ']', c == '}':
			now--
		}
	}
	return deepest
}

// storable reports whether the strings in a JSON text are text to all databases:
// PostgreSQL refuses NUL and half a surrogate pair.
func storable(text []byte) bool {
	if !utf8.Valid(text) {
		return false
	}
	unit := func(i int) rune { // of UTF-16, that the escape at i stands for; -1 if none is there
		if i+6 > len(text) || text[i] != '\\' || text[i+1] != 'u' {
			return -1
		}
		n, _ := strconv.ParseUint(string(text[i+2:i+6]), 16, 16) // it is JSON
		return rune(n)
	}
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		switch r := unit(i); {
		case r < 0:
			i++ // another escape
		case r == 0:
			return false
		case utf16.IsSurrogate(r):
			if utf16.DecodeRune(r, unit(i+6)) == utf8.RuneError {
				return false
			}
			i += 11
		default:
			i += 5
		}
	}
	return true
}

// textRule says which strings all databases store as text.
const textRule = "UTF-8 without NUL"

func validText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// validate returns an error that names the first field of r that no engine accepts,
// its value and what is allowed.
func (r Request) validate() error {
	switch {
	case !validKind(r.Kind):
		return fmt.Errorf("jobs: Request.Kind must be %s, got %q", kindRule, r.Kind)
	case !json.Valid(r.Payload):
		return errors.New("jobs: Request.Payload must be JSON")
	case !storable(r.Payload):
		return errors.New("jobs: Request.Payload must be UTF-8 without NUL and unpaired surrogates, as \\u0000 and \\ud800 are: databases store no such text")
	case depth(r.Payload) > maxDepth:
		return fmt.Errorf("jobs: Request.Payload must not be nested more than %d deep, got %d", maxDepth, depth(r.Payload))
	case !validText(r.Flow):
		return fmt.Errorf("jobs: Request.Flow must be %s, got %q", textRule, r.Flow)
	case !validText(r.UniqueKey):
		return fmt.Errorf("jobs: Request.UniqueKey must be %s, got %q", textRule, r.UniqueKey)
	case r.NotBefore.UTC().Year() > maxYear:
		return fmt.Errorf("jobs: Request.NotBefore must not be after the year %d in UTC, got %v", maxYear, r.NotBefore)
	case r.MaxWait < 0:
		return fmt.Errorf("jobs: Request.MaxWait must not be negative, got %v", r.MaxWait)
	case r.MaxAttempts < 1 || r.MaxAttempts > maxAttempts:
		return fmt.Errorf("jobs: Request.MaxAttempts must be from 1 to %d, got %d", maxAttempts, r.MaxAttempts)
	}
	return nil
}

// Options are what one job has in place of its kind's [Policy], and beside it. The
// zero value changes nothing, and so does nil where Options are asked for.
type Options struct {
	// Priority is the job's; nil: the policy's. It is a pointer as the zero value
	// of a Priority is Medium: write new(taskpool.High).
	Priority *taskpool.Priority

	// Flow says whose work the job is: a tenant, an account, a host. See [Policy]. Empty:
	// the policy's.
	Flow string

	// MaxAttempts is the number of attempts in all, at most 32,767; 0: the policy's.
	MaxAttempts int

	// NotBefore is the earliest time at which the job may start. Zero, or a time
	// in the past: at once.
	NotBefore time.Time

	// MaxWait bounds the time from Enqueue, or from NotBefore if that is later, to the start
	// of the first attempt. A job that has not started by then is Discarded, with
	// taskpool.ErrExpired, and its handler never sees it. What an engine makes of that is in
	// its doc: [Local] discards it at that moment, one that stores jobs when a process comes
	// to take it, so that its unique key is taken until then. Retries are not bounded. Zero:
	// no bound.
	MaxWait time.Duration

	// UniqueKey, with the kind, allows one unsettled job only. Empty: any number.
	UniqueKey string
}
