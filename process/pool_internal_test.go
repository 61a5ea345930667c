package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/internal/backoff"
)

// poolWithout makes a pool that has no keepers, and so no children of its own.
func poolWithout(n int) *Pool {
	w := &Pool{cfg: &config{workers: n}, drained: make(chan struct{}), children: map[*worker]struct{}{}}
	w.self = w
	return w
}

func (w *Pool) offer(c *worker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offerLocked(c)
}

func TestACallerThatGivesUpWhileChildrenDoNotStartSaysBoth(t *testing.T) {
	w := poolWithout(1)
	w.startErr = errors.New("no memory")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := w.acquire(ctx, nil)
	require.EqualError(t, err, "context canceled while no child could be started: no memory")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, w.startErr)
	require.Empty(t, w.waiting)
}

func TestPausesDoubleUpToABound(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		1: 10 * time.Millisecond, 2: 20 * time.Millisecond, 5: 160 * time.Millisecond,
		12: 20_480 * time.Millisecond, 13: 30 * time.Second, 1000: 30 * time.Second,
	} {
		require.Equal(t, want, backoff.Exponential(minBackoff, maxBackoff, failures), "%d", failures)
	}
}

// A program whose children say hello and die would otherwise start them without end.
func TestAChildThatDiesSoonAndUncalledCountsAsOneThatDidNotStart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		child  *worker
		lived  time.Duration
		failed bool
		want   Stats
	}{
		{"soon", &worker{}, earlyDeath - 1, true, Stats{Died: 1}},
		{"later", &worker{}, earlyDeath, false, Stats{Died: 1}},
		{"called", &worker{id: 1}, 0, false, Stats{Died: 1}},
		{"killed", &worker{cause: ErrMaxMemory}, 0, false, Stats{Killed: 1}},
		{"told to exit", &worker{retiring: true}, 0, false, Stats{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := poolWithout(1)
			tt.child.stderr = &tail{}
			err := (&keeper{p: w}).remove(tt.child, tt.lived)
			require.Equal(t, tt.failed, err != nil, "%v", err)
			require.Equal(t, tt.want, w.stats)
		})
	}
}

func TestNoCallerWaitsWhenThereIsNoHope(t *testing.T) {
	w := poolWithout(2)
	w.startErr = errors.New("no memory")
	w.failing = 2
	_, err := w.acquire(context.Background(), nil)
	require.Equal(t, w.startErr, err)
	w.cut = true
	_, err = w.acquire(context.Background(), nil)
	require.Equal(t, ErrClosed, err)
}

// A caller gets a child and its context ends at the same moment: the child must not
// be lost.
func TestAChildGivenToACallerWhoIsGoneIsFreeAgain(t *testing.T) {
	const rounds = 1000
	got := 0
	for round := range rounds {
		w := poolWithout(1)
		c := &worker{cfg: w.cfg}
		w.children[c] = struct{}{}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan *worker)
		go func() {
			c, _ := w.acquire(ctx, nil)
			done <- c
		}()
		for w.Stats().Waiting == 0 {
			runtime.Gosched()
		}
		w.mu.Lock()
		if round%2 == 0 {
			cancel()
		}
		w.offerLocked(c)
		cancel()
		w.mu.Unlock()
		if mine := <-done; mine != nil {
			got++
			require.Equal(t, 1, w.Stats().Busy)
			w.release(mine)
		}
		s := w.Stats()
		require.Equal(t, 1, s.Idle)
		require.Zero(t, s.Busy)
		require.Zero(t, s.Waiting)
	}
	require.Less(t, got, rounds)
	t.Logf("%d of %d callers were still there", got, rounds)
}

func TestAChildThatIsOfferedWhileNobodyWaitsIsIdle(t *testing.T) {
	w := poolWithout(1)
	c := &worker{cfg: w.cfg}
	w.children[c] = struct{}{}
	w.offer(c)
	got, err := w.acquire(context.Background(), nil)
	require.NoError(t, err)
	require.Same(t, c, got)
}

func TestAChildAtWorkThatSendsNonsenseIsNotUnderstood(t *testing.T) {
	id := func(n uint32) string { return string(prefix{n, 0}.appendTo(nil)) }
	for want, sent := range map[string][]byte{
		"EOF":                         nil,
		"unexpected EOF":              {0},
		"malformed frame: 2 bytes":    frame(kindResult, "ab"),
		"malformed frame: flags 0x80": frame(kindResult, "\x00\x00\x00\x05\x80"),
		"malformed frame: kind 1 from a child at work": frame(kindHello, id(5)),
		"malformed frame: reply to call 4 in call 5":   append(frame(kindBeat, id(4)), frame(kindFailure, id(4))...),
	} {
		w := &worker{results: newFrameReader(bytes.NewReader(sent), 100)}
		_, _, err := w.reply(5, nil)
		require.EqualError(t, err, want)
	}
	w := &worker{results: newFrameReader(bytes.NewReader(append(frame(kindBeat, id(4)), frame(kindResult, id(5))...)), 100)}
	k, _, err := w.reply(5, nil)
	require.NoError(t, err, "a late beat is none of nonsense")
	require.Equal(t, kindResult, k)
}

func TestAParentThatSendsNonsenseIsNotUnderstood(t *testing.T) {
	call := string(callHeader{prefix{1, 0}, 0, "unknown"}.appendTo(nil))
	for want, sent := range map[string][]byte{
		"EOF":                           frame(kindCall, call),
		"malformed frame: kind 1":       frame(kindHello, ""),
		"malformed frame: call":         frame(kindCall, call[:10]),
		"malformed frame: 0 bytes":      frame(kindBeatDue, ""),
		"malformed frame: 1 bytes":      frame(kindCancel, "a"),
		"malformed frame: cancellation": frame(kindCancel, call[:5]),
	} {
		s := newServer(bytes.NewReader(sent), io.Discard, 100)
		require.EqualError(t, s.handle(), want)
		s.calls.Wait()
	}
}
