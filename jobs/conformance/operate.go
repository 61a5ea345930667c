package conformance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// operator returns the engine as one, or skips the test.
func (s *suite) operator() jobs.Operator {
	o, ok := s.q.(jobs.Operator)
	if !ok {
		s.Skip("the engine is no jobs.Operator")
	}
	return o
}

func (s *suite) list(f jobs.Filter) []jobs.Info {
	s.Helper()
	list, err := s.operator().List(s.ctx, f)
	s.check(err == nil, "List: %v", err)
	return list
}

func ids(list []jobs.Info) (ids []jobs.ID) {
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return ids
}

// mixed starts an engine with a job that runs, two that wait and one that is delayed.
func (s *suite) mixed() (all []jobs.ID, later time.Time, release func()) {
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	all = append(all, s.enqueue(gate, 0, nil))
	s.await(started)
	later = time.Now().Add(time.Hour).Truncate(time.Millisecond)
	for _, o := range []*jobs.Options{{Flow: "acme", Priority: new(taskpool.Low)}, nil, {NotBefore: later, UniqueKey: "key"}} {
		all = append(all, s.enqueue(k, 0, o))
	}
	return all, later, release
}

// settle has the jobs of mixed settle.
func (s *suite) settle(all []jobs.ID, release func()) {
	release()
	s.check(s.q.Cancel(s.ctx, all[3]) == nil, "Cancel failed")
	for range all {
		s.any()
	}
}

func list(s *suite) {
	all, later, release := s.mixed()
	list := s.list(jobs.Filter{})
	s.check(slices.Equal(ids(list), all), "listed are %v, want %v", ids(list), all)
	for i, want := range []jobs.Status{jobs.StatusRunning, jobs.StatusWaiting, jobs.StatusWaiting, jobs.StatusDelayed} {
		s.check(list[i].Status == want, "job %d is %v, want %v", i, list[i].Status, want)
		s.check(list[i].Queue == jobs.DefaultQueue, "its queue is %q", list[i].Queue)
		s.check(!list[i].Enqueued.IsZero() && !list[i].Due.IsZero(), "it lacks a time: %+v", list[i])
	}
	s.check(list[0].Attempt == 1 && list[1].Attempt == 0, "attempts are %d and %d", list[0].Attempt, list[1].Attempt)
	s.check(list[1].Flow == "acme" && list[1].Priority == taskpool.Low && list[3].UniqueKey == "key", "they are %+v", list)
	s.check(list[3].Due.Equal(later), "it is due at %v, want %v", list[3].Due, later)
	s.settle(all, release)
	list = s.list(jobs.Filter{})
	s.check(len(list) == 0, "jobs that have settled are listed: %v", list)
}

func listFiltered(s *suite) {
	all, _, release := s.mixed()
	for name, c := range map[string]struct {
		f    jobs.Filter
		want []jobs.ID
	}{
		"all statuses": {jobs.Filter{Status: []jobs.Status{jobs.StatusRunning, jobs.StatusDelayed, jobs.StatusWaiting}}, all},
		"waiting":      {jobs.Filter{Status: []jobs.Status{jobs.StatusWaiting}}, all[1:3]},
		"delayed":      {jobs.Filter{Status: []jobs.Status{jobs.StatusDelayed}}, all[3:]},
		"running":      {jobs.Filter{Status: []jobs.Status{jobs.StatusRunning}}, all[:1]},
		"kind":         {jobs.Filter{Kind: "note"}, all[1:]},
		"flow":         {jobs.Filter{Flow: "acme"}, all[1:2]},
		"queue":        {jobs.Filter{Queue: jobs.DefaultQueue, Kind: "gate"}, all[:1]},
		"other queue":  {jobs.Filter{Queue: "nobody's"}, nil},
		"other kind":   {jobs.Filter{Kind: "nobody"}, nil},
		"first":        {jobs.Filter{Limit: 2}, all[:2]},
		"next":         {jobs.Filter{Limit: 1, After: all[1]}, all[2:3]},
		"after last":   {jobs.Filter{After: all[3]}, nil},
	} {
		got := ids(s.list(c.f))
		s.check(slices.Equal(got, c.want), "%s: listed are %v, want %v", name, got, c.want)
	}
	for field, f := range map[string]jobs.Filter{"Limit": {Limit: 10_001}, "After": {After: "no number"}, "Status": {Status: []jobs.Status{-1}}} {
		_, err := s.operator().List(s.ctx, f)
		s.check(err != nil && strings.Contains(err.Error(), "Filter."+field), "%s: %v", field, err)
	}
	s.settle(all, release)
}

func listRetry(s *suite) {
	s.one(jobs.Policy{MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Hour }}, func(context.Context, jobs.Meta) error { return errTest })
	begin := time.Now()
	id := s.next(jobs.StateRetrying, 1).ID
	list := s.list(jobs.Filter{Status: []jobs.Status{jobs.StatusDelayed}})
	for ; len(list) == 0; list = s.list(jobs.Filter{Status: []jobs.Status{jobs.StatusDelayed}}) { // it may be told a moment before
		<-time.After(time.Millisecond)
	}
	s.check(len(list) == 1 && list[0].ID == id, "listed are %v", list)
	s.check(list[0].Status == jobs.StatusDelayed && list[0].Attempt == 1 && list[0].MaxAttempts == 3, "it is %+v", list[0])
	in := list[0].Due.Sub(begin)
	s.check(in > 30*time.Minute && in < 90*time.Minute, "it is due in %v", in)
	s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
	s.next(jobs.StateCanceled, 1)
}

func depths(s *suite) {
	all, _, release := s.mixed()
	<-time.After(20 * time.Millisecond) // two wait for that long
	got, err := s.operator().Depths(s.ctx)
	s.check(err == nil && len(got) == 2, "Depths: %+v, %v", got, err)
	s.check(got[1].Oldest >= 10*time.Millisecond && got[1].Oldest < 10*time.Minute, "the oldest waits for %v", got[1].Oldest)
	got[1].Oldest = 0
	want := []jobs.Depth{{Queue: jobs.DefaultQueue, Kind: "gate", Running: 1}, {Queue: jobs.DefaultQueue, Kind: "note", Waiting: 2, Delayed: 1}}
	s.check(slices.Equal(got, want), "Depths are %+v, want %+v", got, want)
	s.settle(all, release)
	got, err = s.operator().Depths(s.ctx)
	s.check(err == nil && len(got) == 0, "Depths of nothing: %+v, %v", got, err)
}

func pause(s *suite) {
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	s.enqueue(k, 0, nil)
	s.next(jobs.StateCompleted, 1) // the queue is there
	for _, queue := range []string{jobs.DefaultQueue, ""} {
		err := s.operator().Pause(s.ctx, queue)
		s.check(err == nil, "Pause: %v", err)
		var id jobs.ID
		for waits := false; !waits; { // until it is known everywhere
			id = s.enqueue(k, 0, nil)
			select {
			case e := <-s.events:
				s.check(e.ID == id && e.State == jobs.StateCompleted, "event is %+v", e)
			case <-time.After(100 * time.Millisecond):
				if list := s.list(jobs.Filter{Status: []jobs.Status{jobs.StatusWaiting}}); len(list) == 1 {
					waits = true
				} else { // a busy machine is still at it
					s.check(s.next(jobs.StateCompleted, 1).ID == id, "another job was completed")
				}
			}
		}
		list := s.list(jobs.Filter{})
		s.check(len(list) == 1 && list[0].ID == id && list[0].Status == jobs.StatusWaiting, "listed are %+v", list)
		err = s.operator().Resume(s.ctx, queue)
		s.check(err == nil, "Resume: %v", err)
		s.check(s.next(jobs.StateCompleted, 1).ID == id, "another job was completed")
	}
}

func pauseNothing(s *suite) {
	jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	err := s.operator().Pause(s.ctx, "nobody's")
	s.check(err != nil && strings.Contains(err.Error(), `"nobody's"`), "Pause: %v", err)
	err = s.operator().Resume(s.ctx, "nobody's")
	s.check(err != nil && strings.Contains(err.Error(), `"nobody's"`), "Resume: %v", err)
}

func maxWait(s *suite) {
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{MaxAttempts: 3})
	s.start()
	s.enqueue(gate, 0, nil)
	s.await(started)
	expires := s.enqueue(k, 0, &jobs.Options{MaxWait: 10 * time.Millisecond, UniqueKey: "key"})
	runs := s.enqueue(k, 0, &jobs.Options{MaxWait: time.Hour})
	<-time.After(20 * time.Millisecond)
	release()
	states := make(map[jobs.ID]jobs.Event)
	for range 3 {
		e := s.any()
		states[e.ID] = e
	}
	e := states[expires]
	s.check(e.State == jobs.StateDiscarded && e.Attempt == 0, "it is %v in attempt %d, want discarded before the first", e.State, e.Attempt)
	s.check(errors.Is(e.Err, taskpool.ErrExpired), "event's error: %v", e.Err)
	s.check(states[runs].State == jobs.StateCompleted, "the other is %v: %v", states[runs].State, states[runs].Err)
	id := s.enqueue(k, 0, &jobs.Options{UniqueKey: "key"}) // is free
	s.check(s.next(jobs.StateCompleted, 1).ID == id, "another job was completed")
	_, err := k.Enqueue(s.ctx, s.q, 0, &jobs.Options{MaxWait: -1})
	s.check(err != nil && strings.Contains(err.Error(), "Request.MaxWait"), "Enqueue: %v", err)
}

func maxWaitOfRetries(s *suite) {
	k := jobs.Register(&s.reg, "note", func(_ context.Context, m jobs.Meta, _ int) error {
		if m.Attempt == 1 {
			return taskpool.RetryAfter(100*time.Millisecond, errTest)
		}
		return nil
	}, jobs.Policy{MaxAttempts: 2})
	s.start()
	// An idle engine has begun by then, on the slowest machine too.
	s.enqueue(k, 0, &jobs.Options{MaxWait: 30 * time.Second, NotBefore: time.Now().Add(-time.Hour)})
	s.next(jobs.StateRetrying, 1)
	s.next(jobs.StateCompleted, 2)
}

func maxWaitFromNotBefore(s *suite) {
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	s.enqueue(k, 0, &jobs.Options{NotBefore: time.Now().Add(600 * time.Millisecond), MaxWait: 500 * time.Millisecond})
	e := s.any() // on a machine that stands still for that long, it may have expired
	s.check(e.State == jobs.StateCompleted || time.Since(e.Enqueued) > time.Second, "event is %+v", e)
}

// often is a schedule of a round each 10 ms.
type often struct{}

func (often) Next(t time.Time) time.Time { return t.Add(10 * time.Millisecond) }

func periodic(s *suite) {
	gate := make(chan struct{}, 100)
	k := jobs.Register(&s.reg, "round", func(ctx context.Context, _ jobs.Meta, n int) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, jobs.Policy{Priority: taskpool.High})
	s.start()
	if _, ok := s.q.(jobs.PeriodicQueue); !ok {
		s.Skip("the engine is no jobs.PeriodicQueue")
	}
	stop, err := k.Periodic(s.q, often{}, 7, &jobs.Options{Flow: "acme"})
	s.check(err == nil, "Periodic: %v", err)
	_, err = k.Periodic(s.q, often{}, 7, nil)
	s.check(err != nil && strings.Contains(err.Error(), "already"), "second Periodic: %v", err)
	gate <- struct{}{}
	e := s.next(jobs.StateCompleted, 1)
	s.check(e.Flow == "acme" && e.Priority == taskpool.High && e.UniqueKey == "periodic", "event is %+v", e)
	for len(s.list(jobs.Filter{Status: []jobs.Status{jobs.StatusRunning}})) == 0 {
		<-time.After(5 * time.Millisecond)
	}
	<-time.After(100 * time.Millisecond) // many rounds
	rounds := s.list(jobs.Filter{Kind: "round"})
	s.check(len(rounds) == 1, "rounds overlap: %+v", rounds)
	stop()
	stop() // does nothing
	for range 10 {
		gate <- struct{}{}
	}
	s.next(jobs.StateCompleted, 1)
	for len(s.list(jobs.Filter{})) > 0 { // one may have been on its way
		<-time.After(5 * time.Millisecond)
	}
	<-time.After(100 * time.Millisecond)
	s.check(len(s.list(jobs.Filter{})) == 0, "a series that was stopped goes on")
	stop, err = k.Periodic(s.q, often{}, 7, nil)
	s.check(err == nil, "Periodic after stop: %v", err)
	stop()
}

func periodicRefused(s *suite) {
	k := jobs.Register(&s.reg, "round", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	for want, call := range map[string]func() (func(), error){
		"s must not be nil": func() (func(), error) { return k.Periodic(s.q, nil, 0, nil) },
		"q must not be nil": func() (func(), error) { return k.Periodic(nil, often{}, 0, nil) },
		"Options.NotBefore": func() (func(), error) { return k.Periodic(s.q, often{}, 0, &jobs.Options{NotBefore: time.Now()}) },
		"Request.MaxWait":   func() (func(), error) { return k.Periodic(s.q, often{}, 0, &jobs.Options{MaxWait: -1}) },
		"unknown kind \"no": func() (func(), error) {
			return jobs.Register(new(jobs.Registry), "nobody", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{}).Periodic(s.q, often{}, 0, nil)
		},
	} {
		_, err := call()
		s.check(err != nil && strings.Contains(err.Error(), want), "want an error with %q, got: %v", want, err)
	}
}

func periodicSchedule(s *suite) {
	k := jobs.Register(&s.reg, "round", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	other := jobs.Register(&s.reg, "other", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	if _, ok := s.q.(jobs.PeriodicQueue); !ok {
		s.Skip("the engine is no jobs.PeriodicQueue")
	}
	stopBad, err := k.Periodic(s.q, panicking{}, 0, nil)
	s.check(err == nil, "Periodic: %v", err)
	defer stopBad()
	stopNever, err := k.Periodic(s.q, never{}, 0, &jobs.Options{UniqueKey: "never"})
	s.check(err == nil, "Periodic: %v", err)
	defer stopNever()
	stop, err := other.Periodic(s.q, often{}, 0, nil)
	s.check(err == nil, "Periodic: %v", err)
	defer stop()
	for range 2 {
		s.check(s.next(jobs.StateCompleted, 1).Kind == "other", "a schedule that never comes added a job")
	}
}

type panicking struct{}

func (panicking) Next(time.Time) time.Time { panic("conformance: as the schedule says") }

type never struct{}

func (never) Next(time.Time) time.Time { return time.Time{} }
