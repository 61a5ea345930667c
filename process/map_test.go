//go:build unix

package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/process"
)

var (
	next = process.Register("next", func(_ context.Context, n int) (int, error) { return n + 1, nil })

	// odd does something to each number whose remainder by 100 is small.
	odd = process.Register("odd", func(ctx context.Context, n int) (*int, error) {
		switch n % 100 {
		case 1:
			return nil, fmt.Errorf("number %d: %w", n, os.ErrNotExist)
		case 2:
			panic(fmt.Sprint("number ", n))
		case 3:
			runtime.Goexit()
		case 4:
			return nil, nil
		case 5:
			if n > 100 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				<-ctx.Done()
			}
		}
		return new(n + 1), nil // gob makes a pointer to 0 nil
	})

	dwell = process.Register("dwell", func(ctx context.Context, d time.Duration) (int, error) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		return os.Getpid(), nil
	})

	// turn returns how many elements the child has had, after a moment that keeps chunks small.
	turn = process.Register("turn", func(context.Context, int) (int64, error) {
		time.Sleep(10 * time.Millisecond)
		return turns.Add(1), nil
	})
	turns atomic.Int64

	blow = process.Register("blow", func(_ context.Context, n int) (string, error) { return strings.Repeat("x", n), nil })
)

// numbers yields the numbers from 0 to n-1.
func numbers(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func TestMapReturnsTheResultsInOrderAndSendsManyTogether(t *testing.T) {
	w := start(t, process.WithWorkers(2))
	const n = 20_000
	i := 0
	for v, err := range process.Map(t.Context(), w, next, numbers(n)) {
		require.NoError(t, err)
		i++
		require.Equal(t, i, v)
	}
	require.Equal(t, n, i)
	require.Less(t, w.Stats().Calls, uint64(n/2)) // a few hundred, but more on a machine with much else to do
	for range process.Map(t.Context(), w, next, numbers(0)) {
		require.Fail(t, "a result of nothing")
	}
}

func TestErrorsOfMapComeInTheirPlace(t *testing.T) {
	w := start(t, process.WithWorkers(2))
	i := 0
	for v, err := range process.Map(t.Context(), w, odd, numbers(300)) {
		switch n := i % 100; {
		case n == 1:
			require.ErrorIs(t, err, os.ErrNotExist)
			require.EqualError(t, err, fmt.Sprintf("number %d: file does not exist", i))
		case n == 2:
			p, ok := errors.AsType[*taskpool.PanicError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, fmt.Sprint("number ", i), p.Value)
			require.Contains(t, string(p.Stack), "map_test.go")
		case n == 3:
			require.ErrorIs(t, err, taskpool.ErrGoexit)
		case n == 4:
			require.NoError(t, err)
			require.Nil(t, v)
		case n == 5 && i > 100:
			e, ok := errors.AsType[*process.ExitError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, "odd", e.Func)
			require.Equal(t, syscall.SIGKILL, e.Signal)
		default:
			require.NoError(t, err)
			require.Equal(t, i+1, *v)
			i++
			continue
		}
		if n := i % 100; n != 4 {
			require.Nil(t, v)
		}
		i++
	}
	require.Equal(t, 300, i)
}

func TestElementsThatTakeLongAreSharedOut(t *testing.T) {
	w := start(t, process.WithWorkers(2))
	pids := make(map[int]int)
	for pid, err := range process.Map(t.Context(), w, dwell, slices.Values(slices.Repeat([]time.Duration{30 * time.Millisecond}, 8))) {
		require.NoError(t, err)
		pids[pid]++
	}
	require.Len(t, pids, 2)
	require.EqualValues(t, 8, w.Stats().Calls, "each went alone")
}

func TestElementsStartInOrder(t *testing.T) {
	w := start(t, process.WithWorkers(1)) // and two chunks in flight
	want := int64(0)
	for got, err := range process.Map(t.Context(), w, turn, numbers(20)) {
		require.NoError(t, err)
		want++
		require.Equal(t, want, got)
	}
	require.EqualValues(t, 20, want)
}

func TestMapIsLazyAndALoopThatIsLeftCancelsWhatIsInFlight(t *testing.T) {
	w := start(t, process.WithWorkers(2))
	taken := 0
	in := func(yield func(time.Duration) bool) {
		for yield(time.Millisecond) {
			taken++
		}
	}
	all := process.Map(t.Context(), w, dwell, in)
	require.Zero(t, taken)
	n := 0
	for _, err := range all {
		require.NoError(t, err)
		if n++; n == 3 {
			break
		}
	}
	require.Less(t, taken, 1000)
	require.Zero(t, w.Stats().Busy, "nothing runs any more")

	long := slices.Values([]time.Duration{0, time.Hour, time.Hour})
	for _, err := range process.Map(t.Context(), w, dwell, long) {
		require.NoError(t, err)
		break
	}
	require.Zero(t, w.Stats().Busy)
}

func TestMapEndsWithItsContextAndSaysWhy(t *testing.T) {
	w := start(t, process.WithWorkers(2))
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	cause := errors.New("enough")
	var last error
	n := 0
	for _, err := range process.Map(ctx, w, next, func(yield func(int) bool) {
		for i := 0; yield(i); i++ {
		}
	}) {
		if last = err; err == nil {
			n++
		}
		if n == 1000 {
			cancel(cause)
		}
	}
	require.ErrorIs(t, last, cause)
	require.GreaterOrEqual(t, n, 1000)
	require.NoError(t, w.Shutdown(t.Context()))
	for _, err := range process.Map(t.Context(), w, next, numbers(10)) {
		last = err
		n = -1
	}
	require.ErrorIs(t, last, process.ErrClosed)
	require.Equal(t, -1, n)
}

func TestElementsWhoseChunkIsTooLargeGoAlone(t *testing.T) {
	w := start(t, process.WithWorkers(1), process.WithMaxFrame(8<<10))
	sizes := slices.Repeat([]int{10}, 200)
	sizes = append(sizes, slices.Repeat([]int{5000}, 20)...)
	sizes = append(sizes, 9000, 10)
	i := 0
	for s, err := range process.Map(t.Context(), w, blow, slices.Values(sizes)) {
		if sizes[i] == 9000 {
			require.ErrorIs(t, err, process.ErrTooLarge)
		} else {
			require.NoError(t, err)
			require.Len(t, s, sizes[i])
		}
		i++
	}
	require.Len(t, sizes, i)
}

func TestElementsCountForMaxCalls(t *testing.T) {
	w := start(t, process.WithWorkers(1), process.WithMaxCalls(10))
	pids := make(map[int]int)
	for pid, err := range process.Map(t.Context(), w, dwell, slices.Values(make([]time.Duration, 100))) {
		require.NoError(t, err)
		pids[pid]++
	}
	for pid, n := range pids {
		require.Less(t, n, 20, "child %d", pid)
	}
}

func TestMapRefusesWhatCannotBeMeant(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	var none context.Context
	for want, all := range map[string]iter.Seq2[int, error]{
		"process: Map: the Func must be":            process.Map(t.Context(), w, (*process.Func[int, int])(nil), numbers(1)),
		"process: Map of next: the Pool must be":    process.Map(t.Context(), nil, next, numbers(1)),
		"process: Map of next: ctx must not be nil": process.Map(none, w, next, numbers(1)),
		"process: Map of next: in must not be nil":  process.Map(t.Context(), w, next, nil),
	} {
		n := 0
		for _, err := range all {
			require.ErrorContains(t, err, want)
			n++
		}
		require.Equal(t, 1, n)
	}
}

func TestBytesTravelAsTheyAre(t *testing.T) {
	w := start(t, process.WithWorkers(1))
	for _, size := range []int{-1, 0, 1, 100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3 << 20} {
		var data []byte
		if size >= 0 {
			data = bytes.Repeat([]byte{0, 1, 0xff}, size/3+1)[:size]
		}
		for range 2 { // the result is not overwritten by the next
			got, err := echo.Call(t.Context(), w, data)
			require.NoError(t, err)
			require.Equal(t, data == nil, got == nil, "%d bytes", size)
			_, err = echo.Call(t.Context(), w, bytes.Repeat([]byte{7}, max(size, 0)))
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got), "%d bytes", size)
		}
	}
}
