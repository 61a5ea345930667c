package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
)

// A Schedule says when the rounds of a periodic job are due. Those of
// github.com/robfig/cron/v3 are schedules, cron.ParseStandard("CRON_TZ=Europe/Berlin 30 4 * * 1-5")
// for one; name the time zone in them, as a machine's own may be any. [Each] is another.
type Schedule interface {
	// Next returns the first time after t at which a round is due; zero if there is none.
	Next(t time.Time) time.Time
}

// Each returns a schedule with a round each d, at multiples of d since the year 1, in UTC, so
// that all processes mean the same moments. It panics if d is less than a second.
func Each(d time.Duration) Schedule {
	if d < time.Second {
		panic(fmt.Sprintf("jobs: Each: d must be at least a second, got %v", d))
	}
	return each(d)
}

type each time.Duration

func (e each) Next(t time.Time) time.Time {
	return t.UTC().Truncate(time.Duration(e)).Add(time.Duration(e))
}

// A PeriodicQueue is a [Queue] that adds jobs by itself when they are due. Call
// [Kind.Periodic].
type PeriodicQueue interface {
	Queue

	// EnqueuePeriodically has r added each time s says, from now until stop is called. Of
	// requests with the same kind and unique key it takes one, and r has a key.
	EnqueuePeriodically(s Schedule, r Request) (stop func(), err error)
}

// Periodic has q add a job of the kind with that payload each time s says, from now until stop
// is called or q is stopped. Rounds do not overlap: one that is due while the job of the round
// before has not settled is left out, so are those that come due while no process is at work,
// and none is made up for. So a job that is delayed by its retries takes the next rounds' place;
// bound its attempts.
//
// What a crontab is to machines: each process that runs jobs calls it, with the same schedule,
// and one of them adds the job. The job has the options o, but for NotBefore, which must be
// zero, and its UniqueKey is "periodic" unless o says otherwise; several series of one kind need
// a key each. nil is the same as a zero Options.
//
// q must be a [PeriodicQueue], as [Local] and the queues of jobs/riverjobs are. Times are those
// of this process's clock. Next of s is called with no lock held, and must return at once.
func (k *Kind[T]) Periodic(q Queue, s Schedule, payload T, o *Options) (stop func(), err error) {
	switch {
	case k == nil || k.name == "":
		return nil, errors.New("jobs: Kind.Periodic: " + notRegistered)
	case q == nil:
		return nil, errors.New("jobs: Kind.Periodic: q must not be nil")
	case s == nil:
		return nil, errors.New("jobs: Kind.Periodic: s must not be nil")
	case o != nil && !o.NotBefore.IsZero():
		return nil, fmt.Errorf("jobs: Kind.Periodic: Options.NotBefore must be zero, got %v", o.NotBefore)
	}
	r, err := k.Request(payload, o)
	if err != nil {
		return nil, err
	}
	if r.UniqueKey == "" {
		r.UniqueKey = "periodic"
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	p, ok := q.(PeriodicQueue)
	if !ok {
		return nil, fmt.Errorf("jobs: Kind.Periodic: q must be a PeriodicQueue, got a %T", q)
	}
	return p.EnqueuePeriodically(s, r)
}

// A series adds jobs to a LocalQueue.
type series struct {
	q *LocalQueue
	s Schedule
	r Request

	mu    sync.Mutex  // protects the fields below; no user code is called with it
	timer *time.Timer // for the next round; nil: there is none, or not yet
	over  bool
}

// EnqueuePeriodically is for [Kind.Periodic]. Between two rounds a series is a timer and no
// goroutine. A round waits for room in the pool as Enqueue does; the rounds that are due
// meanwhile are left out. Where the pool refuses one it is left out. It ends when the pool is
// shut down.
func (q *LocalQueue) EnqueuePeriodically(s Schedule, r Request) (stop func(), err error) {
	if err := q.misuse("EnqueuePeriodically", context.Background()); err != nil {
		return nil, err
	}
	if s == nil {
		return nil, errors.New("jobs: LocalQueue.EnqueuePeriodically: s must not be nil")
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	if _, ok := q.reg.policy(r.Kind); !ok {
		return nil, fmt.Errorf("%w %q", ErrUnknownKind, r.Kind)
	}
	if q.pool.Stats().Closed {
		return nil, fmt.Errorf("jobs: LocalQueue.EnqueuePeriodically: %w", taskpool.ErrClosed)
	}
	key := uniqueKey{r.Kind, r.UniqueKey}
	one := &series{q: q, s: s, r: r}
	q.mu.Lock()
	taken := q.series[key] != nil
	if !taken {
		if q.series == nil {
			q.series = make(map[uniqueKey]*series)
		}
		q.series[key] = one
	}
	q.mu.Unlock()
	if taken {
		return nil, fmt.Errorf("jobs: Kind.Periodic: there is a series of kind %q with the key %q already", r.Kind, r.UniqueKey)
	}
	one.next()
	return one.stop, nil
}

// next has the next round begin when it is due.
func (s *series) next() {
	now := time.Now()
	var at time.Time
	returned := isolate("a Schedule", s.r.Kind, func() { at = s.s.Next(now) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || !returned || at.IsZero() {
		return
	}
	s.timer = time.AfterFunc(max(at.Sub(now), time.Millisecond), s.round)
}

// round adds a job.
func (s *series) round() {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over {
		return
	}
	_, err := s.q.Enqueue(context.Background(), s.r)
	if errors.Is(err, taskpool.ErrClosed) {
		s.stop()
		return
	}
	s.next()
}

// stop ends the series. A round that is just being added may still be.
func (s *series) stop() {
	s.mu.Lock()
	s.over = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	if key := (uniqueKey{s.r.Kind, s.r.UniqueKey}); s.q.series[key] == s {
		delete(s.q.series, key)
	}
}

// stopSeries ends all series.
func (q *LocalQueue) stopSeries() {
	q.mu.Lock()
	all := make([]*series, 0, len(q.series))
	for _, s := range q.series {
		all = append(all, s)
	}
	q.mu.Unlock()
	for _, s := range all {
		s.stop()
	}
}
