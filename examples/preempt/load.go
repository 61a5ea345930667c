package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	// The Low tasks: a row takes 40 to 100 ms, and a pixel at most 35 µs.
	rowPixels     = 3000
	maxIterations = 10_000

	// The High tasks: 1 ms of work, 10 ms from one to the next on average.
	highIterations = 280_000
	meanGap        = 10 * time.Millisecond
)

// errOver ends the Low tasks of a round.
var errOver = errors.New("the round is over")

// arrivals returns the moments at which High tasks arrive within d, counted from
// the start of the round. The gaps are exponential, so that the past of the
// arrivals tells nothing of their future. There is one arrival at least.
func arrivals(seed uint64, d time.Duration) []time.Duration {
	rnd := rand.New(rand.NewPCG(seed, 0))
	gap := func() time.Duration { return time.Duration(rnd.ExpFloat64() * float64(meanGap)) }
	at := []time.Duration{min(gap(), d)}
	for next := at[0] + gap(); next < d; next += gap() {
		at = append(at, next)
	}
	return at
}

// measure gives the variant one round, with High tasks that arrive at the given
// moments, and adds what it measures to r.
func (r *result) measure(workers int, at []time.Duration) error {
	pool, err := taskpool.New(append(r.opts, taskpool.WithWorkers(workers))...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(errOver)

	// So many rows in flight that no worker ever lacks one.
	var iterations atomic.Int64
	low := pool.Group(ctx, taskpool.Task{Name: "row", Priority: taskpool.Low})
	low.SetLimit(3 * workers)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for row := 0; ctx.Err() == nil; row++ {
			low.Go(func(ctx context.Context) error {
				return mandelbrot(ctx, row, r.safePoint, &iterations)
			})
		}
	}()

	waits := make([]time.Duration, len(at))
	high := pool.Group(ctx, taskpool.Task{Name: "urgent", Priority: taskpool.High})
	began := time.Now()
	for i, moment := range at {
		time.Sleep(time.Until(began.Add(moment)))
		submitted := time.Now()
		high.Go(func(context.Context) error {
			waits[i] = time.Since(submitted)
			iterate(complex(-.1, .1), highIterations)
			return nil
		})
	}
	err = high.Wait() // the last ones, too, have to wait their time
	r.iterations += iterations.Load()
	r.elapsed += time.Since(began)
	r.waits = append(r.waits, waits...)

	cancel(errOver)
	<-fed
	if lowErr := low.Wait(); !errors.Is(lowErr, errOver) && !errors.Is(lowErr, context.Canceled) {
		err = errors.Join(err, lowErr)
	}
	return errors.Join(err, pool.Shutdown(context.Background()))
}

// mandelbrot computes a row of the Mandelbrot set and counts its work. After
// each pixel it calls safePoint.
func mandelbrot(ctx context.Context, row int, safePoint func(context.Context) error, work *atomic.Int64) error {
	im := float64(row%100)/100 - .5 // where the set is wide, so that no row is cheap
	for i := range rowPixels {
		re := 2*float64(i)/rowPixels - 1.5
		n := iterate(complex(re, im), maxIterations)
		work.Add(int64(n))
		if err := safePoint(ctx); err != nil {
			return err
		}
	}
	return nil
}

// iterate returns after how many iterations of z → z² + c, starting from 0,
// |z| exceeds 2; limit if it has not by then.
func iterate(c complex128, limit int) int {
	var x, y float64
	for n := range limit {
		xx, yy := x*x, y*y
		if xx+yy > 4 {
			return n
		}
		x, y = xx-yy+real(c), 2*x*y+imag(c)
	}
	return limit
}
