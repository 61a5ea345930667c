package pooltest

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskpool-go/taskpool"
)

// What tasks return, and why they are canceled.
var (
	ErrTask  = errors.New("pooltest: failed")
	ErrCause = errors.New("pooltest: enough")
)

// Nop is a task that does nothing.
func Nop(context.Context) error { return nil }

// MustNotRun is a task that must not run.
func MustNotRun(context.Context) error { panic("must not run") }

// UntilEnd runs until its context ends and returns what ctx says then.
func UntilEnd(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// WaitForEnd is UntilEnd for a Map.
func WaitForEnd(ctx context.Context, _ int) (int, error) { return 0, UntilEnd(ctx) }

// Sleep waits as a task should, until d is over or its context ends.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hang submits a task that ignores the end of its context, which comes after a second,
// until gate is closed.
func Hang(t testing.TB, p *taskpool.Pool, gate <-chan struct{}) *taskpool.Handle {
	t.Helper()
	return Submit(t, p, taskpool.Task{Name: "hang", Timeout: time.Second, Run: func(context.Context) error {
		HangsHere(gate)
		return nil
	}})
}

// HangsHere waits for gate. The stack of who waits names it.
//
//go:noinline
func HangsHere(gate <-chan struct{}) { <-gate }

// PanicsHere panics with v. The stack of the panic names it.
//
//go:noinline
func PanicsHere(v any) { panic(v) }

// AngryError is an error nobody can print.
type AngryError struct{}

func (AngryError) Error() string { panic("do not print me") }

// NoWait is a backoff of nothing.
func NoWait(int) time.Duration { return 0 }

// Attempts notes when each attempt starts.
type Attempts struct {
	mu sync.Mutex
	at []time.Time
}

// Start notes the start of an attempt and returns its number, from 1.
func (a *Attempts) Start() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = append(a.at, time.Now())
	return len(a.at)
}

// Gaps returns the times between the starts.
func (a *Attempts) Gaps() (g []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 1; i < len(a.at); i++ {
		g = append(g, a.at[i].Sub(a.at[i-1]))
	}
	return g
}

// N returns how many attempts have started.
func (a *Attempts) N() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.at)
}

// Peak keeps the highest number of callers between Enter and Leave.
type Peak struct {
	now     atomic.Int64
	Highest atomic.Int64
}

// Enter counts a caller.
func (p *Peak) Enter() {
	n := p.now.Add(1)
	for {
		h := p.Highest.Load()
		if n <= h || p.Highest.CompareAndSwap(h, n) {
			return
		}
	}
}

// Leave ends what Enter began.
func (p *Peak) Leave() { p.now.Add(-1) }

// A Pair is what a loop over a Map gets in one round.
type Pair[R any] struct {
	V   R
	Err error
}

// PairsOf returns all that a loop gets.
func PairsOf[R any](seq iter.Seq2[R, error]) (all []Pair[R]) {
	for v, err := range seq {
		all = append(all, Pair[R]{v, err})
	}
	return all
}

// UpTo returns the numbers from 0 to n-1.
func UpTo(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// Square is a function to Map.
func Square(_ context.Context, i int) (int, error) { return i * i, nil }
