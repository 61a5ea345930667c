package taskpool

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func quietPool(t *testing.T, opts ...Option) *Pool {
	p, err := New(append([]Option{WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	require.NoError(t, err)
	return p
}

//go:noinline
func sitsHere(gate chan struct{}) { <-gate }

//go:noinline
func sitsDeep(depth int, gate chan struct{}) {
	if depth > 0 {
		sitsDeep(depth-1, gate)
		return
	}
	sitsHere(gate)
}

// The stack of a worker is told from those of others: of pools that have the same
// name, of goroutines that its task has started and that have its labels, however
// deep it is and whatever the task has done to the labels.
func TestStackIsThatOfTheWorker(t *testing.T) {
	others := []*Pool{quietPool(t), quietPool(t)}
	for name, work := range map[string]func(ctx context.Context, gate chan struct{}){
		"plain": func(_ context.Context, gate chan struct{}) { sitsHere(gate) },
		"deep":  func(_ context.Context, gate chan struct{}) { sitsDeep(1000, gate) },
		"with goroutines": func(_ context.Context, gate chan struct{}) {
			for depth := range 3 {
				go sitsDeep(depth*100, gate)
			}
			sitsHere(gate)
		},
		"with labels of its own": func(ctx context.Context, gate chan struct{}) {
			pprof.Do(ctx, pprof.Labels("worker", "7", "zone", "a"), func(context.Context) { sitsHere(gate) })
		},
		"with foreign labels": func(_ context.Context, gate chan struct{}) {
			pprof.Do(context.Background(), pprof.Labels("pool", "", "worker", "1"), func(context.Context) { sitsHere(gate) })
		},
		"with goroutines and foreign labels": func(ctx context.Context, gate chan struct{}) {
			go sitsDeep(10, gate)
			pprof.SetGoroutineLabels(context.Background())
			sitsHere(gate)
		},
	} {
		t.Run(name, func(t *testing.T) {
			gate := make(chan struct{})
			p := quietPool(t, WithWorkers(2))
			var entered sync.WaitGroup
			for _, q := range append(others, p) {
				entered.Add(1)
				_, err := q.Submit(t.Context(), Task{Run: func(ctx context.Context) error {
					entered.Done()
					if q == p {
						work(ctx, gate)
					} else {
						<-gate
					}
					return nil
				}})
				require.NoError(t, err)
			}
			entered.Wait()
			for text := ""; !strings.Contains(text, "sitsHere"); { // once it is there
				running := p.Tasks(StateRunning)
				require.Len(t, running, 1)
				text = string(p.Stack(running[0].Worker))
				require.NotEmpty(t, text)
				require.True(t, strings.HasPrefix(text, "goroutine "), text)
				require.Equal(t, 1, strings.Count(text, "goroutine "+strings.Fields(text)[1]+" ["), text)
				if strings.Contains(text, "additional frames elided") {
					continue
				}
				require.Contains(t, text, "taskpool.(*worker).main", text)
			}
			close(gate)
			require.NoError(t, p.Shutdown(t.Context()))
		})
	}
	for _, q := range others {
		require.NoError(t, q.Shutdown(t.Context()))
	}
}

// A profile has 128 frames of a stack. Wherever that cuts it off, the text says so.
func TestStackThatIsCutOffSaysSo(t *testing.T) {
	p := quietPool(t, WithWorkers(1))
	cut := 0
	for depth := 100; depth <= 130; depth++ {
		gate := make(chan struct{})
		h, err := p.Submit(t.Context(), Task{Run: func(context.Context) error { sitsDeep(depth, gate); return nil }})
		require.NoError(t, err)
		text := ""
		for !strings.Contains(text, "sitsHere") { // once it is there
			runtime.Gosched()
			if running := p.Tasks(StateRunning); len(running) > 0 {
				text = string(p.Stack(running[0].Worker))
			}
		}
		elided := strings.Contains(text, "additional frames elided")
		if elided {
			cut++
		} else {
			require.Contains(t, text, "taskpool.(*worker).main")
		}
		close(gate)
		require.NoError(t, h.Wait(t.Context()))
	}
	require.Positive(t, cut)
	require.Less(t, cut, 31)
	require.NoError(t, p.Shutdown(t.Context()))
}

// A hang each 20 ms, with looks of 30 ms and of 2 s.
func TestLooksForHungTasksAreBounded(t *testing.T) {
	for _, cost := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 2 * time.Second} {
		var b budget
		now, spent, looks := time.Now(), time.Duration(0), 0
		const storm = 10 * time.Minute
		for passed := time.Duration(0); passed < storm; passed += 20 * time.Millisecond {
			if b.ask(now.Add(passed)) {
				b.spend(cost)
				spent += cost
				looks++
			}
		}
		require.LessOrEqual(t, spent, maxLooks+storm/looksShare+cost)
		require.GreaterOrEqual(t, spent, storm/looksShare-cost, "what may be spent is spent")
		require.NotZero(t, looks)
	}
}

// While nothing may be spent on a look, the stack is that of the last one, if the
// task's context had ended by then, and else words.
func TestHungErrorSaysWhyItsStackIsOldOrMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := quietPool(t, WithWorkers(3), WithHangGrace(10*time.Second))
		gate := make(chan struct{})
		hang := func(timeout time.Duration) *Handle {
			h, err := p.Submit(context.Background(), Task{Timeout: timeout, Run: func(context.Context) error { sitsHere(gate); return nil }})
			require.NoError(t, err)
			return h
		}
		stack := func(h *Handle) string {
			var e *HungError
			require.ErrorAs(t, h.Wait(context.Background()), &e)
			return string(e.Stack)
		}
		first, second, third := hang(time.Second), hang(3*time.Second), hang(time.Minute)
		looks.ask(time.Now()) // this clock's beginning
		text := stack(first)
		require.Contains(t, text, "sitsHere")
		require.Contains(t, text, " [waiting]:")
		looks.spend(time.Hour)
		defer looks.spend(-time.Hour)
		text = stack(second)
		require.Contains(t, text, "sitsHere")
		require.Contains(t, text, " [waiting, 2s before it was given up]:")
		text = stack(third)
		require.NotContains(t, text, "sitsHere")
		require.Contains(t, text, " [unknown]:\n(its stack was not looked for")
		close(gate)
		require.NoError(t, p.Shutdown(t.Context()))
	})
}
