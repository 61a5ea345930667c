package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool/jobs"
)

// maxDepth is how deep arrays and objects of a payload may be nested.
const maxDepth = 500

func nested(depth int) json.RawMessage {
	return json.RawMessage(strings.Repeat("[", depth) + strings.Repeat("]", depth))
}

func badRequests(s *suite) {
	jobs.Register(&s.reg, "one", func(context.Context, jobs.Meta, json.RawMessage) error { return nil }, jobs.Policy{})
	s.start()
	good := jobs.Request{Kind: "one", Payload: json.RawMessage("1"), MaxAttempts: 1}
	west := time.FixedZone("west", -12*60*60)
	for field, bad := range map[string]func(*jobs.Request){
		"Kind":        func(r *jobs.Request) { r.Kind = "no kind" },
		"Payload":     func(r *jobs.Request) { r.Payload = nil },
		"JSON":        func(r *jobs.Request) { r.Payload = json.RawMessage("{") },
		"surrogates":  func(r *jobs.Request) { r.Payload = json.RawMessage(`"\ud800"`) },
		"deep":        func(r *jobs.Request) { r.Payload = nested(maxDepth + 1) },
		"Flow":        func(r *jobs.Request) { r.Flow = "\x00" },
		"UniqueKey":   func(r *jobs.Request) { r.UniqueKey = "\xff" },
		"NotBefore":   func(r *jobs.Request) { r.NotBefore = time.Date(9999, 12, 31, 23, 0, 0, 0, west) }, // the year 10000 in UTC
		"MaxAttempts": func(r *jobs.Request) { r.MaxAttempts = 0 },
		"32767":       func(r *jobs.Request) { r.MaxAttempts = 32768 },
	} {
		r := good
		bad(&r)
		_, err := s.q.Enqueue(s.ctx, r)
		s.check(err != nil && strings.Contains(err.Error(), field), "%s: %v", field, err)
	}
	_, err := s.q.Enqueue(s.ctx, good)
	s.check(err == nil, "Enqueue: %v", err)
	s.next(jobs.StateCompleted, 1)
}

func payloads(s *suite) {
	arrived := make(chan any, 1)
	k := jobs.Register(&s.reg, "any", func(_ context.Context, _ jobs.Meta, p any) error { arrived <- p; return nil }, jobs.Policy{})
	s.start()
	for _, p := range []any{nil, true, 1.5, "", "text \u2028 <&> \U0001F600", []any{}, []any{1.0, "2", nil}, map[string]any{}, map[string]any{"value": map[string]any{"a": []any{false}}}} {
		_, err := k.Enqueue(s.ctx, s.q, p, nil)
		s.check(err == nil, "Enqueue of %v: %v", p, err)
		s.next(jobs.StateCompleted, 1)
		got := <-arrived
		s.check(reflect.DeepEqual(got, p), "payload is %#v, want %#v", got, p)
	}
}

func deepPayload(s *suite) {
	arrived := make(chan int, 1)
	jobs.Register(&s.reg, "deep", func(_ context.Context, _ jobs.Meta, p json.RawMessage) error {
		arrived <- bytes.Count(p, []byte("["))
		return nil
	}, jobs.Policy{})
	s.start()
	_, err := s.q.Enqueue(s.ctx, jobs.Request{Kind: "deep", Payload: nested(maxDepth), MaxAttempts: 1})
	s.check(err == nil, "Enqueue: %v", err)
	s.next(jobs.StateCompleted, 1)
	s.check(<-arrived == maxDepth, "it is not what was enqueued")
}

func fifo(s *suite) {
	var got []int
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(_ context.Context, _ jobs.Meta, n int) error { got = append(got, n); return nil }, jobs.Policy{})
	s.start()
	s.enqueue(gate, 0, nil)
	s.await(started)
	for i := range 10 {
		s.enqueue(k, i, nil)
	}
	release()
	for range 11 {
		s.next(jobs.StateCompleted, 1)
	}
	s.check(slices.IsSorted(got) && len(got) == 10, "jobs ran in the order %v", got)
}

func uniqueFreed(s *suite) {
	fails := jobs.Register(&s.reg, "fails", func(context.Context, jobs.Meta, int) error { return errTest }, jobs.Policy{})
	s.start()
	o := &jobs.Options{UniqueKey: "key"}
	for range 2 {
		s.enqueue(fails, 0, o)
		s.next(jobs.StateDiscarded, 1)
	}
	o.NotBefore = time.Now().Add(time.Hour)
	for range 2 {
		id := s.enqueue(fails, 0, o)
		got, err := fails.Enqueue(s.ctx, s.q, 0, o)
		s.check(errors.Is(err, jobs.ErrDuplicate) && got == id, "Enqueue while it waits: %q, %v", got, err)
		s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel failed")
		s.next(jobs.StateCanceled, 0)
	}
}

func uniqueRace(s *suite) {
	const n = 8
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	s.enqueue(gate, 0, nil)
	s.await(started)
	var mu sync.Mutex
	ids, added := make(map[jobs.ID]bool), 0
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			id, err := k.Enqueue(s.ctx, s.q, 0, &jobs.Options{UniqueKey: "key"})
			mu.Lock()
			defer mu.Unlock()
			ids[id] = true
			switch {
			case err == nil:
				added++
			case !errors.Is(err, jobs.ErrDuplicate):
				s.Errorf("Enqueue: %v", err)
			}
		})
	}
	all.Wait()
	s.check(added == 1 && len(ids) == 1, "%d were added, with the IDs %v", added, ids)
	release()
	s.next(jobs.StateCompleted, 1)
	s.next(jobs.StateCompleted, 1)
}

func many(s *suite) {
	var got []int
	gate, started, release := s.gate()
	k := jobs.Register(&s.reg, "note", func(_ context.Context, _ jobs.Meta, n int) error { got = append(got, n); return nil }, jobs.Policy{})
	s.start()
	s.enqueue(gate, 0, nil)
	s.await(started)
	var rs []jobs.Request
	for i := range 10 {
		r, err := k.Request(i, &jobs.Options{Flow: "acme"})
		s.check(err == nil, "Request: %v", err)
		rs = append(rs, r)
	}
	all, err := jobs.EnqueueMany(s.ctx, s.q, rs)
	s.check(err == nil, "EnqueueMany: %v", err)
	s.check(len(all) == len(rs), "%d of %d were added", len(all), len(rs))
	release()
	of := make(map[jobs.ID]bool)
	for range 1 + len(rs) { // in any order
		if e := s.next(jobs.StateCompleted, 1); e.Kind == k.Name() {
			s.check(e.Flow == "acme", "flow is %q", e.Flow)
			of[e.ID] = true
		}
	}
	s.check(slices.Equal(got, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}), "jobs ran in the order %v", got)
	for _, a := range all {
		s.check(of[a.ID] && !a.Duplicate, "%+v was not completed", a)
	}
	none, err := jobs.EnqueueMany(s.ctx, s.q, nil)
	s.check(err == nil && len(none) == 0, "EnqueueMany of nothing: %v, %v", none, err)
}

func manyInvalid(s *suite) {
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	r, err := k.Request(1, &jobs.Options{UniqueKey: "key"})
	s.check(err == nil, "Request: %v", err)
	bad := r
	bad.MaxAttempts = 0
	_, err = jobs.EnqueueMany(s.ctx, s.q, []jobs.Request{r, bad})
	s.check(err != nil && strings.Contains(err.Error(), "request 1: jobs: Request.MaxAttempts"), "EnqueueMany: %v", err)
	id := s.enqueue(k, 0, &jobs.Options{UniqueKey: "key"}) // it is free
	s.check(s.next(jobs.StateCompleted, 1).ID == id, "another job was completed")
}

func manyUnique(s *suite) {
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	later := time.Now().Add(time.Hour)
	there := s.enqueue(k, 0, &jobs.Options{UniqueKey: "there", NotBefore: later})
	var rs []jobs.Request
	for _, key := range []string{"new", "", "there", "new", ""} {
		r, err := k.Request(1, &jobs.Options{UniqueKey: key, NotBefore: later})
		s.check(err == nil, "Request: %v", err)
		rs = append(rs, r)
	}
	all, err := jobs.EnqueueMany(s.ctx, s.q, rs)
	s.check(err == nil && len(all) == len(rs), "EnqueueMany: %v, %v", all, err)
	for i, duplicate := range []bool{false, false, true, true, false} {
		s.check(all[i].Duplicate == duplicate, "job %d is %+v", i, all[i])
	}
	s.check(all[2].ID == there, "the ID of the job that is there is %q, want %q", all[2].ID, there)
	s.check(all[3].ID == all[0].ID, "the ID of the one before is %q, want %q", all[3].ID, all[0].ID)
	s.check(all[1].ID != all[4].ID, "jobs without a key have one ID")
	for _, id := range []jobs.ID{there, all[0].ID, all[1].ID, all[4].ID} {
		s.check(s.q.Cancel(s.ctx, id) == nil, "Cancel of %q failed", id)
		s.next(jobs.StateCanceled, 0)
	}
}

func enqueueOver(s *suite) {
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	over, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := k.Enqueue(over, s.q, 0, &jobs.Options{UniqueKey: "key"})
	s.check(errors.Is(err, context.Canceled), "Enqueue: %v", err)
	id := s.enqueue(k, 0, &jobs.Options{UniqueKey: "key"}) // the key is not taken
	s.check(s.next(jobs.StateCompleted, 1).ID == id, "another job was completed")
}

func handlerEnqueues(s *suite) {
	type key struct{}
	seen := make(chan any, 2)
	second := jobs.Register(&s.reg, "second", func(ctx context.Context, _ jobs.Meta, _ int) error { seen <- ctx.Value(key{}); return nil }, jobs.Policy{})
	first := jobs.Register(&s.reg, "first", func(ctx context.Context, _ jobs.Meta, _ int) error {
		seen <- ctx.Value(key{})
		_, err := second.Enqueue(context.WithValue(ctx, key{}, "of the first"), s.q, 0, nil)
		return err
	}, jobs.Policy{})
	s.start()
	_, err := first.Enqueue(context.WithValue(s.ctx, key{}, "of the test"), s.q, 0, nil)
	s.check(err == nil, "Enqueue: %v", err)
	kinds := map[string]bool{s.next(jobs.StateCompleted, 1).Kind: true, s.next(jobs.StateCompleted, 1).Kind: true}
	s.check(kinds["first"] && kinds["second"], "completed were %v", kinds)
	for range 2 {
		v := <-seen
		s.check(v == nil, "a handler sees the value %v", v)
	}
}

func unknownKind(s *suite) {
	jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{}) // an engine may refuse to run none
	s.start()
	_, err := s.q.Enqueue(s.ctx, jobs.Request{Kind: "nobody", Payload: json.RawMessage("1"), MaxAttempts: 5})
	if err == nil {
		err = s.next(jobs.StateDiscarded, 1).Err
	}
	s.check(errors.Is(err, jobs.ErrUnknownKind), "not ErrUnknownKind: %v", err)
}

func badPayload(s *suite) {
	jobs.Register(&s.reg, "one", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	r := jobs.Request{Kind: "one", Payload: json.RawMessage("{"), MaxAttempts: 5}
	_, err := s.q.Enqueue(s.ctx, r)
	s.check(err != nil, "what is no JSON was accepted")
	r.Payload = json.RawMessage(`"text"`)
	_, err = s.q.Enqueue(s.ctx, r)
	s.check(err == nil, "Enqueue: %v", err)
	for {
		e := s.any()
		s.check(errors.Is(e.Err, jobs.ErrPayload), "not ErrPayload: %v", e.Err)
		s.check(e.Attempt == 1, "it is attempt %d", e.Attempt)
		if e.State == jobs.StateDiscarded {
			return
		}
		s.check(e.State == jobs.StateRetrying, "event is %v", e.State) // for others to take it
	}
}

func unique(s *suite) {
	gate, started, release := s.gate()
	other := jobs.Register(&s.reg, "other", func(context.Context, jobs.Meta, int) error { return nil }, jobs.Policy{})
	s.start()
	o := &jobs.Options{UniqueKey: "key"}
	first := s.enqueue(gate, 0, o)
	s.await(started)
	id, err := gate.Enqueue(s.ctx, s.q, 1, o)
	s.check(errors.Is(err, jobs.ErrDuplicate) && id == first, "second Enqueue: %q, %v", id, err)
	s.enqueue(other, 0, o) // a key of another kind is another
	release()
	s.next(jobs.StateCompleted, 1)
	s.next(jobs.StateCompleted, 1)
	again := s.enqueue(other, 0, o)
	s.check(s.next(jobs.StateCompleted, 1).ID == again, "the key was not free again")
}

func notBefore(s *suite) {
	var ran time.Time
	k := jobs.Register(&s.reg, "note", func(context.Context, jobs.Meta, int) error { ran = time.Now(); return nil }, jobs.Policy{})
	s.start()
	at := time.Now().Add(50 * time.Millisecond)
	s.enqueue(k, 0, &jobs.Options{NotBefore: at})
	s.next(jobs.StateCompleted, 1)
	s.check(!ran.Before(at), "it ran %v too early", at.Sub(ran))
}
