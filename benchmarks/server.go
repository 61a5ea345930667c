package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/priority"
	"github.com/go-chi/chi/v5/middleware"
	"golang.org/x/sync/semaphore"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

const (
	serverGroup = "In front of an HTTP server: clients give up after 1 s and ask once more"
	serverSlots = 8 // requests at work at once
	serverHigh  = 0.2
)

// serverLoads are what comes, as multiples of what the server can answer.
var serverLoads = []float64{0.5, 1, 2, 4}

func serverName(load float64) string { return fmt.Sprintf("requests, %g times the capacity", load) }

// A serverScale is how long things take: 8 requests of 50 ms at once are 160 a second.
type serverScale struct {
	work     time.Duration // of a request
	patience time.Duration // of a client, each time
	warm     time.Duration // from the beginning, in which nothing is counted
	length   time.Duration // in which clients come
}

func scaleOf(short bool) serverScale {
	if short {
		return serverScale{5 * time.Millisecond, 50 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}
	}
	return serverScale{50 * time.Millisecond, time.Second, time.Second, 3500 * time.Millisecond}
}

// A guard is a way to decide which requests run, and end is called when it is no longer needed.
type guard struct {
	name string
	kind kind
	put  func(next http.Handler, s serverScale) (h http.Handler, end func())
}

// guards lists them. Where one has to be given a time for which requests may wait, it is half of the
// patience of the clients.
func guards() []guard {
	return []guard{
		{"httppool, queue delay", ours, func(next http.Handler, s serverScale) (http.Handler, func()) {
			return pooled(next, 0, taskpool.WithQueueDelay(s.patience/50))
		}},
		{"httppool, MaxWait", other, func(next http.Handler, s serverScale) (http.Handler, func()) {
			return pooled(next, s.patience/2)
		}},
		{"httppool, defaults", other, func(next http.Handler, s serverScale) (http.Handler, func()) {
			return pooled(next, 0)
		}},
		{"net/http alone", other, func(next http.Handler, s serverScale) (http.Handler, func()) {
			return next, func() {}
		}},
		{"semaphore", peer, func(next http.Handler, s serverScale) (http.Handler, func()) {
			free := semaphore.NewWeighted(serverSlots)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if free.Acquire(r.Context(), 1) == nil {
					defer free.Release(1)
					next.ServeHTTP(w, r)
				}
			}), func() {}
		}},
		{"chi Throttle", peer, func(next http.Handler, s serverScale) (http.Handler, func()) {
			return middleware.ThrottleBacklog(serverSlots, 8*serverSlots, s.patience/2)(next), func() {}
		}},
		{"failsafe-go bulkhead", peer, func(next http.Handler, s serverScale) (http.Handler, func()) {
			return failsafehttp.NewHandler(next, bulkhead.NewBuilder[*http.Response](serverSlots).WithMaxWaitTime(s.patience/2).Build()), func() {}
		}},
		{"failsafe-go adaptive", peer, func(next http.Handler, s serverScale) (http.Handler, func()) {
			prioritizer := adaptivelimiter.NewPrioritizer()
			limiter := adaptivelimiter.NewBuilder[*http.Response]().BuildPrioritized(prioritizer)
			stop := prioritizer.ScheduleCalibrations(context.Background(), s.patience/2)
			limited := failsafehttp.NewHandler(next, limiter)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				of := priority.Low
				if isHigh(r) {
					of = priority.High
				}
				limited.ServeHTTP(w, r.WithContext(priority.ContextWithPriority(r.Context(), of)))
			}), stop
		}},
	}
}

func isHigh(r *http.Request) bool { return r.URL.Path == "/high" }

func pooled(next http.Handler, maxWait time.Duration, opts ...taskpool.Option) (http.Handler, func()) {
	p, err := taskpool.New(append(opts, taskpool.WithWorkers(serverSlots))...)
	if err != nil {
		panic(err)
	}
	return httppool.Handler(p, next, func(r *http.Request) (taskpool.Task, bool) {
		t := taskpool.Task{Priority: taskpool.Low, MaxWait: maxWait}
		if isHigh(r) {
			t.Priority = taskpool.High
		}
		return t, true
	}), func() { _ = p.Shutdown(context.Background()) }
}

// serverScenarios measures an HTTP server whose requests need one of 8 connections to something, a
// database say, for a time: first come, first served, until the client is gone. What has begun there
// ends no sooner for a client that has gone meanwhile, and is wasted.
//
// Clients come at random times, whatever the server does, one of five with High priority. One that
// is refused, or gives up after its patience, asks once more after a pause of up to a second.
func serverScenarios() (all []scenario) {
	for _, load := range serverLoads {
		s := scenario{group: serverGroup, name: serverName(load), metrics: []metric{
			{"capacity not spent on answers in time", "%"},
			{"High clients without an answer in time", "%"}, {"Low clients without an answer in time", "%"},
			{"work for clients that are gone", "%"},
			{"p50 of answers to High", "ms"}, {"p99 of answers to High", "ms"}, {"p50 of answers to Low", "ms"}, {"p99 of answers to Low", "ms"},
		}, note: func(result) string {
			return "![Answers in time, and how long those to High take, by load](plots/server.svg)\n\n" + leastLatencies()
		}}
		for _, g := range guards() {
			s.contestants = append(s.contestants, contestant{g.name, g.kind, func(short bool) []float64 {
				return overloaded(g, load, scaleOf(short)).values()
			}})
		}
		all = append(all, s)
	}
	return all
}

// A rush is what comes of a load.
type rush struct {
	mu        sync.Mutex // protects the fields below
	capacity  float64    // answers that there could be
	patience  float64    // in ms
	inTime    int
	clients   [2]int // that came, by class: High and Low
	answered  [2]int
	latencies [2][]float64 // in ms
	done      int          // pieces of work
	wasted    int
}

func (o *rush) values() []float64 {
	share := func(part, whole float64) float64 { return 100 * part / max(whole, 1) }
	v := []float64{max(100-share(float64(o.inTime), o.capacity), 0)}
	for class, n := range o.clients {
		v = append(v, share(float64(n-o.answered[class]), float64(n)))
	}
	v = append(v, share(float64(o.wasted), float64(o.done)))
	for _, l := range o.latencies {
		if len(l) == 0 {
			l = []float64{o.patience} // all took longer
		}
		v = append(v, quantile(l, 0.5), quantile(l, 0.99))
	}
	return v
}

// overloaded sends a server behind g so many times what it can answer.
func overloaded(g guard, load float64, s serverScale) *rush {
	rate := serverSlots / s.work.Seconds()
	o := &rush{capacity: rate * (s.length - s.warm).Seconds(), patience: s.patience.Seconds() * 1000}
	begin := time.Now()
	counts := func() bool { t := time.Since(begin); return t >= s.warm && t < s.length }
	connections := make(chan struct{}, serverSlots)
	h, end := g.put(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case connections <- struct{}{}:
		case <-r.Context().Done():
			return
		}
		time.Sleep(s.work)
		<-connections
		o.mu.Lock()
		if counts() {
			o.done++
			if r.Context().Err() != nil {
				o.wasted++
			}
		}
		o.mu.Unlock()
		_, _ = io.WriteString(w, "answer")
	}), s)
	defer end()
	server := httptest.NewServer(h)
	defer server.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 10_000}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: s.patience}
	random := rand.New(rand.NewPCG(5, 6))
	var all sync.WaitGroup
	begin = time.Now()
	for _, a := range poisson(load*rate, s.length, serverHigh) {
		if early := a.at - time.Since(begin); early > 0 {
			time.Sleep(early)
		}
		class, path := 1, "/low"
		if a.priority == taskpool.High {
			class, path = 0, "/high"
		}
		pause := time.Duration(random.Int64N(int64(s.patience)))
		all.Go(func() {
			answered := false
			for try := 0; try < 2 && !answered; try++ {
				if try == 1 {
					time.Sleep(pause)
				}
				sent := time.Now()
				answered = fetch(client, server.URL+path)
				o.mu.Lock()
				if answered && counts() {
					o.inTime++
					o.latencies[class] = append(o.latencies[class], microseconds(time.Since(sent))/1000)
				}
				o.mu.Unlock()
			}
			if a.at >= s.warm { // it came after the beginning
				o.mu.Lock()
				defer o.mu.Unlock()
				if o.clients[class]++; answered {
					o.answered[class]++
				}
			}
		})
	}
	all.Wait()
	return o
}

// fetch reports whether there was an answer before the client gave up.
func fetch(client *http.Client, url string) bool {
	resp, err := client.Get(url)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}
