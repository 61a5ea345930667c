package waits_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// secondsOf sleeps for n seconds and returns n.
func secondsOf(ctx context.Context, n int) (int, error) {
	return n, pooltest.Sleep(ctx, time.Duration(n)*time.Second)
}

func TestMapUnorderedReturnsResultsAsTheyComeWithTheirIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(4))
		began := time.Now()
		var got []string
		for r, err := range taskpool.MapUnordered(t.Context(), p, 0, taskpool.Task{}, slices.Values([]int{9, 3, 5, 1, 1}), secondsOf) {
			require.NoError(t, err)
			got = append(got, fmt.Sprintf("%d: %d at %v", r.Index, r.Value, time.Since(began)))
		}
		require.Equal(t, []string{"3: 1 at 1s", "4: 1 at 2s", "1: 3 at 3s", "2: 5 at 5s", "0: 9 at 9s"}, got)
		pooltest.Drain(t, p)
	})
}

func TestSlowElementKeepsNobodyWaitingInMapUnordered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(2))
		began := time.Now()
		n := 0
		for r, err := range taskpool.MapUnordered(t.Context(), p, 2, taskpool.Task{}, slices.Values(append([]int{100}, slices.Repeat([]int{1}, 50)...)), secondsOf) {
			require.NoError(t, err)
			if n++; r.Index > 0 {
				require.Equal(t, time.Duration(n)*time.Second, time.Since(began))
			}
		}
		require.Equal(t, 51, n)
		require.Equal(t, 100*time.Second, time.Since(began))
		pooltest.Drain(t, p)
	})
}

func TestWindowOfMapUnorderedIsKept(t *testing.T) {
	for _, limit := range []int{0, 1, 3, 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pooltest.New(t, taskpool.WithWorkers(3))
				want := limit
				if limit == 0 {
					want = 6
				}
				var taken, received, most int
				in := func(yield func(int) bool) {
					for i := range 40 {
						taken++
						most = max(most, taken-received)
						if !yield(i%4 + 1) {
							return
						}
					}
				}
				for _, err := range taskpool.MapUnordered(t.Context(), p, limit, taskpool.Task{}, in, secondsOf) {
					require.NoError(t, err)
					received++
					time.Sleep(1700 * time.Millisecond) // results wait meanwhile
				}
				require.Equal(t, 40, received)
				require.Equal(t, want, most)
				pooltest.Drain(t, p)
			})
		})
	}
}

// naturals yields 0, 1, 2 and so on.
func naturals(yield func(int) bool) {
	for i := 0; yield(i); i++ {
	}
}

func TestErrorsOfMapUnorderedComeWithTheIndex(t *testing.T) {
	p := pooltest.New(t, taskpool.WithWorkers(3))
	seen := make(map[int]bool)
	for r, err := range taskpool.MapUnordered(t.Context(), p, 5, taskpool.Task{}, naturals, func(_ context.Context, i int) (int, error) {
		switch i % 3 {
		case 0:
			return i, pooltest.ErrTask
		case 1:
			panic("boom")
		}
		return i, nil
	}) {
		require.False(t, seen[r.Index])
		seen[r.Index] = true
		var panicked *taskpool.PanicError
		switch r.Index % 3 {
		case 0:
			require.Equal(t, pooltest.ErrTask, err)
			require.Zero(t, r.Value)
		case 1:
			require.ErrorAs(t, err, &panicked)
		case 2:
			require.NoError(t, err)
			require.Equal(t, r.Index, r.Value)
		}
		if len(seen) == 200 {
			break
		}
	}
	require.Zero(t, outstanding(p), "what was in flight was waited for")
	require.LessOrEqual(t, p.Stats().Submitted, uint64(205))
}

func TestMapUnorderedThatIsCutOffSaysWhyInTheEnd(t *testing.T) {
	for _, shutdown := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := pooltest.New(t, taskpool.WithWorkers(2))
			ctx, cancel := context.WithCancelCause(t.Context())
			n := 0
			var last error
			for r, err := range taskpool.MapUnordered(ctx, p, 0, taskpool.Task{}, naturals, func(context.Context, int) (int, error) {
				time.Sleep(time.Second)
				return 1, nil
			}) {
				require.NoError(t, last, "nothing comes after that")
				switch {
				case r.Index == -1:
					last = err
				case err == nil:
					n++
				}
				if n == 10 && shutdown {
					go func() { _ = p.Shutdown(context.Background()) }()
					synctest.Wait()
				} else if n == 10 {
					cancel(pooltest.ErrCause)
				}
			}
			if shutdown {
				require.ErrorIs(t, last, taskpool.ErrClosed)
				require.Greater(t, n, 10, "what was accepted is finished")
			} else {
				require.Equal(t, pooltest.ErrCause, last)
			}
			cancel(nil)
			require.Zero(t, outstanding(p))
			pooltest.Drain(t, p)
		})
	}
}

func TestLeavingMapUnorderedCancelsWhatIsInFlightAndWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(3))
		var started, ended atomic.Int32
		two := make(chan struct{})
		for range taskpool.MapUnordered(t.Context(), p, 0, taskpool.Task{}, naturals, func(ctx context.Context, i int) (int, error) {
			if i == 1 {
				<-two
				return 0, nil
			}
			if started.Add(1) == 2 {
				close(two)
			}
			<-ctx.Done()
			time.Sleep(time.Second) // it cleans up
			ended.Add(1)
			return 0, ctx.Err()
		}) {
			break
		}
		require.Zero(t, outstanding(p))
		require.GreaterOrEqual(t, started.Load(), int32(2))
		require.LessOrEqual(t, started.Load(), int32(3), "others do not start")
		require.Equal(t, started.Load(), ended.Load())
		pooltest.Drain(t, p)
	})
}

func TestMapUnorderedInATaskGivesTheSlotBackAndLendsItsUrgency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pooltest.New(t, taskpool.WithWorkers(1))
		h := pooltest.Submit(t, p, taskpool.Task{Priority: taskpool.High, Run: func(ctx context.Context) error {
			sum := 0
			for r, err := range taskpool.MapUnordered(ctx, p, 0, taskpool.Task{Name: "element", Priority: taskpool.Low}, slices.Values([]int{1, 2, 3}), func(ctx context.Context, n int) (int, error) {
				info, _ := taskpool.Current(ctx)
				require.Equal(t, taskpool.High, info.Urgency)
				return secondsOf(ctx, n)
			}) {
				if err != nil {
					return err
				}
				sum += r.Value
			}
			require.Equal(t, 6, sum)
			return nil
		}})
		synctest.Wait()
		require.Equal(t, `group "element"`, h.Info().WaitsFor)
		require.NoError(t, h.Wait(t.Context()))
		pooltest.Drain(t, p)
	})
}

func TestMapUnorderedIsRefusedByName(t *testing.T) {
	p := pooltest.New(t)
	var none context.Context
	in := slices.Values([]int{1})
	for _, test := range []struct {
		seq  iter.Seq2[taskpool.Indexed[int], error]
		text string
	}{
		{taskpool.MapUnordered(none, p, 0, taskpool.Task{}, in, secondsOf), "taskpool: MapUnordered: ctx must not be nil"},
		{taskpool.MapUnordered(t.Context(), nil, 0, taskpool.Task{}, in, secondsOf), "taskpool: MapUnordered: the Pool must be one that New has returned, got nil"},
		{taskpool.MapUnordered(t.Context(), p, -1, taskpool.Task{}, in, secondsOf), "taskpool: MapUnordered: limit must not be negative, got -1"},
		{taskpool.MapUnordered(t.Context(), p, 0, taskpool.Task{}, nil, secondsOf), "taskpool: MapUnordered: in must not be nil"},
		{taskpool.MapUnordered[int, int](t.Context(), p, 0, taskpool.Task{}, in, nil), "taskpool: MapUnordered: f must not be nil"},
		{taskpool.MapUnordered(t.Context(), p, 0, taskpool.Task{Run: pooltest.MustNotRun}, in, secondsOf), "taskpool: Task.Run must be nil where a function stands beside the Task"},
		{taskpool.MapUnordered(t.Context(), p, 0, taskpool.Task{Timeout: -1}, in, secondsOf), "taskpool: Task.Timeout must not be negative, got -1ns"},
	} {
		n := 0
		for r, err := range test.seq {
			n++
			require.Equal(t, taskpool.Indexed[int]{Index: -1}, r)
			require.EqualError(t, err, test.text)
		}
		require.Equal(t, 1, n)
	}
	for range taskpool.MapUnordered(t.Context(), p, 0, taskpool.Task{}, slices.Values([]int(nil)), secondsOf) {
		t.Error("there is nothing")
	}
}
