// Package scale is an experiment: what do 1 to 1,000 workers, on 1 to 100 machines and with 1 to 8
// databases, get done with jobs/riverjobs, how long do jobs wait, what has the database to do, and
// what does a dead machine or a dead database cost? It is a simulation of discrete events in
// virtual time, whose input is what was measured with real processes and a real PostgreSQL. It has
// the form of a test:
//
//	go test -C examples/scale -v -run TestPlot
//
// prints the tables, and fails if they are not those of the files here; -update writes these
// anew, and the picture. Beside the predictions for 1, 2, 4 and 8 processes stands what
//
//	jobs/riverjobs/postgres.sh go test -C examples/scale -v -run TestMeasure -measure
//
// has measured, on a machine with nothing else to do; it writes measured.csv, from which the
// simulation has its costs: those of one process.
//
// # The model
//
// A process has workers and a database. It asks the database for as many jobs as it has free
// workers, at most once each FetchCooldown; the most urgent jobs come first, among equals the
// first. Each takes its time, and then processor time of its machine, and of its database to be
// stored. Processors are stations with a number of servers and one queue; a database, and all
// processes on its machine where they share it, is one. A job whose machine dies is taken for lost
// after RescueStuckJobsAfter, and up to 30 s later it waits again.
package scale

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Costs are the processor time of a job, measured.
type costs struct {
	client   time.Duration // in its process
	database time.Duration // to be fetched and stored
}

// A setup is what is simulated.
type setup struct {
	costs
	machines, databases int
	workers             int  // of each machine, in one process
	cores, dbCores      int  // of each machine, of each database
	shared              bool // all is on one machine, of cores
	cooldown, run       time.Duration
	load                float64       // jobs a second that arrive; 0: more wait than are done
	horizon             time.Duration // how long it is looked at
	dies                int           // machines that die at a third of the horizon
	dbDies              time.Duration // how long the first database is away then
	rescue              time.Duration // RescueStuckJobsAfter
}

// A result is what came of it.
type result struct {
	throughput float64         // jobs a second that ended in the second half
	dbLoad     float64         // busy share of the busiest database's cores
	high, low  []time.Duration // waits of urgent jobs, a tenth, and of the rest
	again      int             // jobs that ran twice
	late       time.Duration   // the longest wait
}

// A station is processors with one queue.
type station struct {
	free []time.Duration // when each is
	busy time.Duration
}

func newStation(n int) *station { return &station{free: make([]time.Duration, n)} }

// do returns when work that comes now and takes that long is done.
func (s *station) do(now, cost time.Duration) time.Duration {
	first := 0
	for i, at := range s.free {
		if at < s.free[first] {
			first = i
		}
	}
	s.free[first] = max(now, s.free[first]) + cost
	s.busy += cost
	return s.free[first]
}

// away keeps all processors from working for a while.
func (s *station) away(from, until time.Duration) {
	for i := range s.free {
		s.free[i] = max(s.free[i], until)
	}
}

// An event happens at a time.
type event struct {
	at   time.Duration
	n    int // among equals the first is first
	what func()
}

type events []event

func (h events) Len() int { return len(h) }
func (h events) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].n < h[j].n
}
func (h events) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)   { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}

type job struct {
	arrived time.Duration
	urgent  bool
}

type database struct {
	*station
	waiting [2][]job // urgent ones, the rest
	procs   []*process
}

func (d *database) take(n int) (jobs []job) {
	for i := range d.waiting {
		k := min(n-len(jobs), len(d.waiting[i]))
		jobs = append(jobs, d.waiting[i][:k]...)
		d.waiting[i] = d.waiting[i][k:]
	}
	return jobs
}

func (d *database) empty() bool { return len(d.waiting[0])+len(d.waiting[1]) == 0 }

type process struct {
	db      *database
	cpu     *station
	free    int
	last    time.Duration // when it fetched last
	planned bool          // a fetch is
	dead    bool
	at      map[int]job // jobs at work, by number
}

// simulate runs a setup.
func simulate(s setup) result {
	random := rand.New(rand.NewPCG(1, 2))
	var now time.Duration
	var queue events
	n := 0
	at := func(t time.Duration, what func()) {
		n++
		heap.Push(&queue, event{max(t, now), n, what})
	}
	var r result
	done := 0
	var dbs []*database
	for range s.databases {
		dbs = append(dbs, &database{station: newStation(s.dbCores)})
	}
	if s.shared {
		for _, d := range dbs {
			d.station = dbs[0].station
			d.station.free = make([]time.Duration, s.cores)
		}
	}
	numbers := 0
	var fetch func(p *process)
	plan := func(p *process) {
		if !p.planned && !p.dead && p.free > 0 && (s.load == 0 || !p.db.empty()) {
			p.planned = true
			at(p.last+s.cooldown, func() { fetch(p) })
		}
	}
	add := func(d *database, j job) {
		k := 1
		if j.urgent {
			k = 0
		}
		d.waiting[k] = append(d.waiting[k], j)
		for _, p := range d.procs { // they are told
			plan(p)
		}
	}
	fetch = func(p *process) {
		p.planned, p.last = false, now
		if p.dead {
			return
		}
		var got []job
		if s.load == 0 {
			got = make([]job, p.free)
			for i := range got {
				got[i].arrived = now
			}
		} else {
			got = p.db.take(p.free)
		}
		p.free -= len(got)
		for _, j := range got {
			numbers++
			number := numbers
			p.at[number] = j
			begins := p.db.do(now, s.database/2)
			if wait := begins - j.arrived; j.urgent {
				r.high = append(r.high, wait)
			} else {
				r.low = append(r.low, wait)
			}
			at(begins+time.Duration((.5+random.Float64())*float64(s.run)), func() {
				if p.dead {
					return
				}
				at(p.cpu.do(now, s.client), func() {
					if p.dead {
						return
					}
					delete(p.at, number)
					p.free++
					plan(p)
					at(p.db.do(now, s.database-s.database/2), func() {
						if now >= s.horizon/2 && now < s.horizon {
							done++
						}
					})
				})
			})
		}
	}
	for i := range s.machines {
		d := dbs[i%len(dbs)]
		p := &process{db: d, cpu: newStation(s.cores), free: s.workers, at: make(map[int]job), last: -s.cooldown + time.Duration(random.Float64()*float64(s.cooldown))}
		if s.shared {
			p.cpu = d.station
		}
		d.procs = append(d.procs, p)
		plan(p)
		if i < s.dies {
			at(s.horizon/3, func() {
				p.dead = true
				r.again += len(p.at)
				lost := p.at
				at(now+s.rescue+time.Duration(random.Float64()*float64(30*time.Second)), func() {
					for _, k := range slices.Sorted(keys(lost)) {
						add(d, lost[k])
					}
				})
			})
		}
	}
	if s.dbDies > 0 {
		at(s.horizon/3, func() { dbs[0].away(now, now+s.dbDies) })
	}
	if s.load > 0 {
		var arrive func()
		arrive = func() {
			add(dbs[random.IntN(len(dbs))], job{now, random.IntN(10) == 0})
			at(now+time.Duration(random.ExpFloat64()/s.load*float64(time.Second)), arrive)
		}
		at(0, arrive)
	}
	for len(queue) > 0 {
		e := heap.Pop(&queue).(event)
		if now = e.at; now > s.horizon {
			break
		}
		e.what()
	}
	r.throughput = float64(done) / (s.horizon / 2).Seconds()
	for _, d := range dbs {
		r.dbLoad = max(r.dbLoad, min(d.busy.Seconds()/float64(len(d.free))/s.horizon.Seconds(), 1))
	}
	slices.Sort(r.high)
	slices.Sort(r.low)
	for _, waits := range [][]time.Duration{r.high, r.low} {
		if len(waits) > 0 {
			r.late = max(r.late, waits[len(waits)-1])
		}
	}
	return r
}

func keys(m map[int]job) func(func(int) bool) {
	return func(yield func(int) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// quantile returns the least wait that a share q of sorted waits does not exceed.
func quantile(waits []time.Duration, q float64) time.Duration {
	if len(waits) == 0 {
		return 0
	}
	return waits[max(int(math.Ceil(q*float64(len(waits)))), 1)-1]
}
