package main

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/taskpool-go/taskpool"
)

// strictest computes what comes of a load on a server that has the same slots, work and clients as
// those that are measured, and no costs: the most urgent request that waits starts when a slot becomes
// free, at once, and nobody's work is interrupted. Nothing can answer High requests sooner that does
// not keep slots free for them, so this is how much of their latency is in the load itself. Of the
// slots, reserved ones never run Low requests.
func strictest(load float64, s serverScale, maxWait time.Duration, reserved int) *rush {
	rate := serverSlots / s.work.Seconds()
	o := &rush{capacity: rate * (s.length - s.warm).Seconds(), patience: s.patience.Seconds() * 1000}
	random := rand.New(rand.NewPCG(5, 6))
	var events eventHeap
	for _, a := range poisson(load*rate, s.length, serverHigh) {
		class := 1
		if a.priority == taskpool.High {
			class = 0
		}
		events = append(events, event{at: a.at, request: &request{came: a.at, class: class, pause: time.Duration(random.Int64N(int64(s.patience)))}})
	}
	heap.Init(&events)
	var waiting [2][]*request // High and Low, in the order in which they were sent
	busy := [2]int{}
	for len(events) > 0 {
		e := heap.Pop(&events).(event)
		r := e.request
		switch {
		case !e.done: // it is sent
			r.sent = e.at
			waiting[r.class] = append(waiting[r.class], r)
		default:
			busy[r.class]--
			if e.at-r.sent <= s.patience {
				r.answered = true
				if e.at >= s.warm && e.at < s.length {
					o.inTime++
					o.latencies[r.class] = append(o.latencies[r.class], (e.at-r.sent).Seconds()*1000)
				}
			}
			r.over(o, s, e.at, &events)
		}
		for class, most := range [2]int{serverSlots, serverSlots - reserved} {
			for len(waiting[class]) > 0 && busy[0]+busy[1] < serverSlots && (class == 0 || busy[1] < most) {
				r := waiting[class][0]
				waiting[class] = waiting[class][1:]
				if e.at-r.sent >= maxWait { // it was refused
					r.over(o, s, r.sent+maxWait, &events)
					continue
				}
				busy[class]++
				heap.Push(&events, event{at: e.at + s.work, done: true, request: r})
			}
		}
	}
	return o
}

// leastLatencies says how much of the latencies of High is in the load itself.
func leastLatencies() string {
	const spared = 5 // slots
	s := scaleOf(false)
	p99 := func(load float64, reserved int) (ms, unused float64) {
		v := strictest(load, s, s.patience/2, reserved).values()
		return v[5], v[0]
	}
	half, _ := p99(0.5, 0)
	full, _ := p99(4, 0)
	kept, unused := p99(4, spared)
	_, atOnce := p99(1, spared)
	return fmt.Sprintf("At 4 times the capacity the p99 of High cannot be 1.5 times that at half the load: High alone is %.0f %% of the capacity then, "+
		"and all slots are taken when a request comes. Strict priority without any cost, computed for these arrivals, has %.1f ms, %.2f times the %.1f ms at "+
		"half the load. With %d of the %d slots reserved for High it has %.1f ms, %.2f times, and spends %.1f %% of the capacity on nothing; but %.0f %% at "+
		"1 times the capacity. With less High, 1.5 times is kept: see TestGoodputAndLatencyUnderOverload of httppool, where it is a tenth of what comes.",
		100*4*serverHigh, full, full/half, half, spared, serverSlots, kept, kept/half, unused, atOnce)
}

// A request is one of a client, who may ask twice.
type request struct {
	came, sent time.Duration // the first time, and the last
	class      int
	pause      time.Duration // before it asks again
	again      bool          // it has
	answered   bool
}

// over has the client ask again, once, if it was not answered by the time at.
func (r *request) over(o *rush, s serverScale, at time.Duration, events *eventHeap) {
	if !r.answered && !r.again {
		r.again = true
		heap.Push(events, event{at: at + r.pause, request: r})
		return
	}
	if r.came >= s.warm {
		if o.clients[r.class]++; r.answered {
			o.answered[r.class]++
		}
	}
}

// An event is that a request is sent, or done.
type event struct {
	at   time.Duration
	done bool
	*request
}

type eventHeap []event

func (h eventHeap) Len() int           { return len(h) }
func (h eventHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h eventHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(e any)        { *h = append(*h, e.(event)) }
func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}
