package faults_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

var errStorm = errors.New("storm: failed")

// falseAlarm is the probability that a sound backoff fails the tests for
// uniformity of one run, taken together. The default backoff draws from the
// global generator of math/rand/v2, which cannot be seeded. A false alarm as rare
// as this makes up for it: at a run a second, one in thirty years.
const falseAlarm = 1e-9

// ksCritical returns the distance that n values drawn evenly exceed with a
// probability of at most falseAlarm/tests. By Massart's inequality P(D > d) is at
// most 2·exp(−2·n·d²), for every n, and less where the values are discrete.
func ksCritical(n, tests int) float64 {
	return math.Sqrt(math.Log(2*float64(tests)/falseAlarm) / (2 * float64(n)))
}

// ksDistance returns how far the distribution of values is from U(0, limit), after
// Kolmogorov and Smirnov. It sorts values.
func ksDistance(values []time.Duration, limit time.Duration) (d float64) {
	slices.Sort(values)
	n := float64(len(values))
	for i, v := range values {
		even := float64(v) / float64(limit)
		d = max(d, even-float64(i)/n, float64(i+1)/n-even)
	}
	return d
}

// Of the storm: all tasks have at least one retry, one in five has so many that
// the backoff reaches its cap.
const (
	stormMaxAttempts = 12
	stormRetries     = stormMaxAttempts - 1
	stormTests       = 2 * stormRetries // for uniformity, in the two storms of a run
)

// stormSize is the number of tasks of the large storm.
const stormSize = 100_000

// stormFewest is how many values a test for uniformity gets in the large storm at
// least: those of the last attempt.
const stormFewest = stormSize / 5

// stormTasks is stormSize or less. The tests for uniformity are as sure then, and see
// less.
func stormTasks() int { return pooltest.Times(stormSize, stormSize/5) }

func stormCap(attempt int) time.Duration {
	return min(30*time.Second, 100*time.Millisecond<<(attempt-1))
}

// With the fewest values that the storm has, the test tells full jitter from what
// is like it.
func TestUniformityTestRejectsWhatIsNotFullJitter(t *testing.T) {
	t.Parallel()
	const limit = 30 * time.Second
	for name, tt := range map[string]struct {
		draw   func(*rand.Rand) float64
		passes bool
	}{
		"full jitter":            {func(r *rand.Rand) float64 { return r.Float64() }, true},
		"equal jitter":           {func(r *rand.Rand) float64 { return 0.5 + 0.5*r.Float64() }, false},
		"none":                   {func(*rand.Rand) float64 { return 1 }, false},
		"the lower 95 %":         {func(r *rand.Rand) float64 { return 0.95 * r.Float64() }, false},
		"the upper 95 %":         {func(r *rand.Rand) float64 { return 0.05 + 0.95*r.Float64() }, false},
		"the mean of two":        {func(r *rand.Rand) float64 { return (r.Float64() + r.Float64()) / 2 }, false},
		"one in ten without any": {func(r *rand.Rand) float64 { return math.Floor(10*r.Float64())/9*0.1 + 0.9*r.Float64() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			const runs = 20
			rnd := rand.New(rand.NewPCG(4, 5))
			for range runs {
				values := make([]time.Duration, stormFewest)
				for i := range values {
					values[i] = time.Duration(tt.draw(rnd) * float64(limit))
				}
				d, critical := ksDistance(values, limit), ksCritical(len(values), stormTests)
				if tt.passes {
					require.LessOrEqual(t, d, critical)
				} else {
					require.Greater(t, d, critical)
				}
			}
		})
	}
}

// A stormTask is what the storm knows of one task.
type stormTask struct {
	attempts  atomic.Int32
	ended     atomic.Int64 // when the last attempt ended, in nanoseconds since the start
	due       atomic.Int64 // when the next may start
	max       int
	delays    [stormRetries]time.Duration // by the attempt that failed
	tooEarly  atomic.Bool
	wrongTold atomic.Bool
}

// All tasks fail for good and are retried meanwhile, by the default backoff and in
// a queue that has room for a fifth of them. Their attempts take next to no time.
func TestRetryStormKeepsItsPromises(t *testing.T) {
	t.Parallel()
	// A task that can start at once is never refused, so with idle slots the
	// queue does not bound a storm; that is what WithCapacity says.
	t.Run("with idle slots", func(t *testing.T) { retryStorm(t, stormTasks(), false) })
	// Without, the bound is strict.
	t.Run("with busy slots", func(t *testing.T) { retryStorm(t, stormTasks()/5, true) })
}

func retryStorm(t *testing.T, n int, busy bool) {
	synctest.Test(t, func(t *testing.T) {
		const workers, submitters = 8, 16
		tasks := make([]stormTask, n)
		capacity := len(tasks) / 5
		start := time.Now()
		ids := make(map[string]int, len(tasks)) // by name; fixed once submitters run
		names := make([]string, len(tasks))
		for i := range tasks {
			tasks[i].max = 2 + i/5%4
			if i%5 == 0 {
				tasks[i].max = stormMaxAttempts
			}
			names[i] = strconv.Itoa(i)
			ids[names[i]] = i
		}
		var finished atomic.Int64
		p := pooltest.New(t, taskpool.WithWorkers(workers), taskpool.WithCapacity(capacity, taskpool.OverflowWait),
			taskpool.WithHooks(taskpool.Hooks{
				Retried: func(e taskpool.TaskEvent) {
					s := &tasks[ids[e.Task.Name]]
					s.delays[e.Task.Attempt-1] = e.Delay
					// In a bubble no time passes between Run's end and here.
					told := e.Task.Due.Sub(start) - time.Duration(s.ended.Load())
					if told != e.Delay || e.Task.State != taskpool.StateDelayed {
						s.wrongTold.Store(true)
					}
					s.due.Store(int64(e.Task.Due.Sub(start)))
				},
				Finished: func(e taskpool.TaskEvent) {
					if e.Task.Name != "" {
						finished.Add(1)
					}
				},
			}))
		// Ballast holds every slot that nothing else needs, and gives way.
		ballast, stop := 0, make(chan struct{})
		if busy {
			for ballast < workers {
				pooltest.Submit(t, p, taskpool.Task{Priority: 10, Run: func(ctx context.Context) error {
					for sleepUnless(stop, 20*time.Millisecond) {
						if err := taskpool.Yield(ctx); err != nil {
							return err
						}
					}
					return nil
				}})
				ballast++
			}
		}
		run := func(s *stormTask, slow bool) func(context.Context) error {
			return func(context.Context) error {
				if int64(time.Since(start)) < s.due.Load() {
					s.tooEarly.Store(true)
				}
				if slow {
					time.Sleep(5 * time.Millisecond)
				}
				s.attempts.Add(1)
				s.ended.Store(int64(time.Since(start)))
				return errStorm
			}
		}
		handles := make([]*taskpool.Handle, len(tasks))
		var wg sync.WaitGroup
		var failed atomic.Int64
		for first := range submitters {
			wg.Go(func() {
				for i := first; i < len(tasks); i += submitters {
					h, err := p.Submit(context.Background(), taskpool.Task{
						Name: names[i], Run: run(&tasks[i], i%100 == 0),
						Retry: taskpool.Retry{MaxAttempts: tasks[i].max}})
					if err != nil {
						failed.Add(1)
						return
					}
					handles[i] = h
				}
			})
		}
		// Samples are taken when nothing moves, half a second apart.
		samples, full, functions := 0, 0, 0
		for finished.Load() < int64(len(tasks)) {
			synctest.Wait()
			s := p.Stats()
			pooltest.RequireConserved(t, s)
			waiting, free := s.Queued+s.Delayed, s.Workers-s.Running
			require.LessOrEqual(t, uint64(waiting), s.Submitted-s.Failed-s.Succeeded)
			if busy {
				require.Zero(t, free)
			}
			require.LessOrEqual(t, waiting, capacity+workers, "each running task may return to a full queue")
			err := p.TryGo(11, func() {})
			if waiting < capacity+free {
				require.NoError(t, err, "there is room: %+v", s)
				require.Zero(t, s.SubmittersWaiting, "no submitter waits then: %+v", s)
				functions++
			} else {
				require.ErrorIs(t, err, taskpool.ErrFull, "retries hold their places: %+v", s)
				full++
			}
			samples++
			time.Sleep(500 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		require.Zero(t, failed.Load())
		require.NoError(t, p.Shutdown(context.Background()))

		attempts := 0
		delays := make([][]time.Duration, stormRetries)
		for i := range tasks {
			s := &tasks[i]
			require.EqualValues(t, s.max, s.attempts.Load(), "task %d", i)
			require.Equal(t, taskpool.StateFailed, handles[i].State())
			require.False(t, s.tooEarly.Load(), "task %d: an attempt started before it was due", i)
			require.False(t, s.wrongTold.Load(), "task %d: a hook was told another delay", i)
			attempts += s.max
			for k, d := range s.delays[:s.max-1] {
				require.GreaterOrEqual(t, d, time.Duration(0))
				require.LessOrEqual(t, d, stormCap(k+1))
				delays[k] = append(delays[k], d)
			}
		}
		for k, ds := range delays {
			require.GreaterOrEqual(t, len(ds), n/5)
			d, critical := ksDistance(ds, stormCap(k+1)), ksCritical(len(ds), stormTests)
			require.LessOrEqual(t, d, critical, "attempt %d: the backoff is not even", k+1)
		}
		s := p.Stats()
		pooltest.RequireConserved(t, s)
		require.EqualValues(t, attempts+functions+ballast, s.Attempts)
		require.EqualValues(t, attempts-len(tasks), s.Retries)
		require.EqualValues(t, len(tasks), s.Failed)
		require.EqualValues(t, functions+ballast, s.Succeeded)
		if busy {
			require.Positive(t, full, "the queue must have been full")
		}
	})
}

// sleepUnless sleeps for d and reports true, unless stop is closed.
func sleepUnless(stop <-chan struct{}, d time.Duration) bool {
	select {
	case <-stop:
		return false
	default:
		time.Sleep(d)
		return true
	}
}
