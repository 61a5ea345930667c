package main

import (
	"container/heap"
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/alitto/pond/v2"
	"github.com/bytedance/gopkg/util/gopool"
	"github.com/gammazero/workerpool"
	"github.com/panjf2000/ants/v2"
	conc "github.com/sourcegraph/conc/pool"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"

	"github.com/taskpool-go/taskpool"
)

// channelCapacity is that of the buffered channel that is the reference.
const channelCapacity = 1024

// A job is a task in each of the forms that the libraries ask for. It is made
// before the clock starts, so that nobody is charged for a conversion.
type job struct {
	run        func()
	runErr     func() error
	runContext func(context.Context) error
}

func newJob(f func()) *job {
	return &job{
		run:        f,
		runErr:     func() error { f(); return nil },
		runContext: func(context.Context) error { f(); return nil },
	}
}

// A pool is what the throughput scenarios need of a contestant. Calling submit
// through the interface costs each of them the same.
type pool interface {
	// submit hands over a job and may wait for room. The lower the priority,
	// the more urgent the job; a pool without priorities ignores it.
	submit(priority int, j *job)

	// close ends the pool and its goroutines, when nothing runs any more.
	close()
}

// A settler is a pool of which more workers than it was asked for may run. Its
// method says whether these have ended.
type settler interface{ settled() bool }

// An entrant is a contestant of the throughput scenarios.
type entrant struct {
	name  string
	kind  kind
	start func(workers int) pool
}

func taskpoolEntrant(name string, k kind, opts ...taskpool.Option) entrant {
	return entrant{name, k, func(workers int) pool { return newTaskpool(workers, opts...) }}
}

var channelEntrant = entrant{"channel", channel, func(workers int) pool { return newChannelPool(workers, plain) }}

// unordered lists the pools that know no priorities, beside what one writes by
// hand.
func unordered() []entrant {
	return []entrant{
		taskpoolEntrant("taskpool", ours),
		channelEntrant,
		{"errgroup", peer, newErrgroup},
		{"semaphore", peer, newSemaphore},
		{"ants", peer, func(workers int) pool { return newAnts(workers) }},
		{"ants MultiPool", peer, func(workers int) pool { return newAntsMulti(workers) }},
		{"pond", peer, newPond},
		{"pond, bounded", peer, func(workers int) pool { return pondPool{pond.NewPool(workers, pond.WithQueueSize(channelCapacity))} }},
		{"conc", peer, newConc},
		{"workerpool", peer, newWorkerpool},
		{"gopool", peer, newGopool},
	}
}

// ordered lists those that know priorities, and the channel as the reference.
func ordered() []entrant {
	return []entrant{
		taskpoolEntrant("taskpool", ours),
		channelEntrant,
		{"heap+cond", peer, newHeapPool},
		{"priorityqueue", peer, newPriorityQueue},
	}
}

// panicking lists those that go on when a task panics, with what they offer to
// keep them silent.
func panicking() []entrant {
	return []entrant{
		taskpoolEntrant("taskpool", ours, taskpool.WithLogger(slog.New(slog.DiscardHandler))),
		{"channel", channel, func(workers int) pool { return newChannelPool(workers, contained) }},
		{"ants", peer, func(workers int) pool { return newAnts(workers, ants.WithPanicHandler(func(any) {})) }},
		{"ants MultiPool", peer, func(workers int) pool { return newAntsMulti(workers, ants.WithPanicHandler(func(any) {})) }},
		{"pond", peer, newPond},
		{"conc", peer, newConc},
		{"gopool", peer, newGopool},
	}
}

// must ends the program: a benchmark that lost a task has measured nothing.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

type taskpoolPool struct{ p *taskpool.Pool }

func newTaskpool(workers int, opts ...taskpool.Option) taskpoolPool {
	p, err := taskpool.New(append([]taskpool.Option{taskpool.WithWorkers(workers)}, opts...)...)
	must(err)
	return taskpoolPool{p}
}

func (t taskpoolPool) submit(priority int, j *job) {
	must(t.p.Go(taskpool.Priority(priority), j.run))
}

func (t taskpoolPool) close() { must(t.p.Shutdown(context.Background())) }

// channelPool is goroutines that range over one buffered channel.
type channelPool struct {
	tasks   chan func()
	workers sync.WaitGroup
}

// newChannelPool starts workers that call each task by way of call.
func newChannelPool(workers int, work func(tasks <-chan func())) *channelPool {
	c := &channelPool{tasks: make(chan func(), channelCapacity)}
	for range workers {
		c.workers.Go(func() { work(c.tasks) })
	}
	return c
}

// plain is the loop of a worker as everybody writes it.
func plain(tasks <-chan func()) {
	for f := range tasks {
		f()
	}
}

// contained survives tasks that panic.
func contained(tasks <-chan func()) {
	for f := range tasks {
		func() {
			defer func() { _ = recover() }()
			f()
		}()
	}
}

func (c *channelPool) submit(_ int, j *job) { c.tasks <- j.run }

func (c *channelPool) close() {
	close(c.tasks)
	c.workers.Wait()
}

type errgroupPool struct{ g errgroup.Group }

func newErrgroup(workers int) pool {
	e := &errgroupPool{}
	e.g.SetLimit(workers)
	return e
}

func (e *errgroupPool) submit(_ int, j *job) { e.g.Go(j.runErr) }

func (e *errgroupPool) close() { must(e.g.Wait()) }

// semaphorePool starts a goroutine for each task, as the example of the package
// does.
type semaphorePool struct {
	slots   *semaphore.Weighted
	workers int64
}

func newSemaphore(workers int) pool {
	return &semaphorePool{semaphore.NewWeighted(int64(workers)), int64(workers)}
}

func (s *semaphorePool) submit(_ int, j *job) {
	must(s.slots.Acquire(context.Background(), 1))
	go func() {
		defer s.slots.Release(1)
		j.run()
	}()
}

func (s *semaphorePool) close() { must(s.slots.Acquire(context.Background(), s.workers)) }

type antsPool struct{ p *ants.Pool }

func newAnts(workers int, opts ...ants.Option) antsPool {
	p, err := ants.NewPool(workers, opts...)
	must(err)
	return antsPool{p}
}

func (a antsPool) submit(_ int, j *job) { must(a.p.Submit(j.run)) }

func (a antsPool) close() { must(a.p.ReleaseTimeout(time.Minute)) }

type antsMulti struct{ p *ants.MultiPool }

// newAntsMulti makes eight pools, or the next smaller number into which the
// workers can be divided; one for each of two cores was a little slower. Round
// robin gives each pool its share of the tasks that meet at the end, as these are
// submitted in a row and as many as there are workers.
func newAntsMulti(workers int, opts ...ants.Option) antsMulti {
	pools := min(8, workers)
	for workers%pools != 0 {
		pools--
	}
	p, err := ants.NewMultiPool(pools, workers/pools, ants.RoundRobin, opts...)
	must(err)
	return antsMulti{p}
}

func (a antsMulti) submit(_ int, j *job) { must(a.p.Submit(j.run)) }

func (a antsMulti) close() { must(a.p.ReleaseTimeout(time.Minute)) }

type pondPool struct{ p pond.Pool }

func newPond(workers int) pool { return pondPool{pond.NewPool(workers)} }

func (p pondPool) submit(_ int, j *job) { must(p.p.Go(j.run)) }

func (p pondPool) close() { p.p.StopAndWait() }

type concPool struct{ p *conc.Pool }

func newConc(workers int) pool { return concPool{conc.New().WithMaxGoroutines(workers)} }

func (c concPool) submit(_ int, j *job) { c.p.Go(j.run) }

func (c concPool) close() {
	defer func() { _ = recover() }() // Wait panics with the first panic of a task
	c.p.Wait()
}

type workerpoolPool struct{ p *workerpool.WorkerPool }

func newWorkerpool(workers int) pool { return workerpoolPool{workerpool.New(workers)} }

func (w workerpoolPool) submit(_ int, j *job) { w.p.Submit(j.run) }

func (w workerpoolPool) close() { w.p.StopWait() }

// gopoolPool has no way to be closed: its workers end when nothing waits.
type gopoolPool struct {
	p       gopool.Pool
	workers int32
}

func newGopool(workers int) pool {
	p := gopool.NewPool("benchmark", int32(workers), gopool.NewConfig())
	p.SetPanicHandler(func(context.Context, any) {})
	return gopoolPool{p, int32(workers)}
}

func (g gopoolPool) submit(_ int, j *job) { g.p.Go(j.run) }

func (g gopoolPool) close() {
	for g.p.WorkerCount() > 0 {
		runtime.Gosched()
	}
}

// Its producers look at the number of workers and then start one, so with
// several there may be more than asked for. When the tasks that meet at the end
// have met, nothing waits, so those too many end as soon as their last task is
// done.
func (g gopoolPool) settled() bool { return g.p.WorkerCount() <= g.workers }

// A heapPool is what people write by hand who need priorities: container/heap
// under a mutex, and a condition variable for the workers.
type heapPool struct {
	workers sync.WaitGroup

	mu     sync.Mutex
	filled sync.Cond
	queue  taskHeap
	seq    int
	closed bool
}

func newHeapPool(workers int) pool {
	h := &heapPool{}
	h.filled.L = &h.mu
	for range workers {
		h.workers.Go(h.work)
	}
	return h
}

func (h *heapPool) submit(priority int, j *job) {
	h.mu.Lock()
	h.seq++
	heap.Push(&h.queue, &heapTask{priority, h.seq, j.run})
	h.mu.Unlock()
	h.filled.Signal()
}

func (h *heapPool) work() {
	for {
		h.mu.Lock()
		for h.queue.Len() == 0 && !h.closed {
			h.filled.Wait()
		}
		if h.queue.Len() == 0 {
			h.mu.Unlock()
			return
		}
		t := heap.Pop(&h.queue).(*heapTask)
		h.mu.Unlock()
		t.f()
	}
}

func (h *heapPool) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.filled.Broadcast()
	h.workers.Wait()
}

type heapTask struct {
	priority, seq int
	f             func()
}

// taskHeap holds the most urgent task, of equals the first, at its top.
type taskHeap []*heapTask

func (t taskHeap) Len() int { return len(t) }

func (t taskHeap) Less(i, j int) bool {
	if t[i].priority != t[j].priority {
		return t[i].priority < t[j].priority
	}
	return t[i].seq < t[j].seq
}

func (t taskHeap) Swap(i, j int) { t[i], t[j] = t[j], t[i] }

func (t *taskHeap) Push(x any) { *t = append(*t, x.(*heapTask)) }

func (t *taskHeap) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	return last
}

// priorityQueuePool is workers around the queue of controller-runtime, which
// run a task between Get and Done as its controllers do. The queue takes equal
// items for one, so each task is an item of its own. Without a name the queue
// keeps no metrics.
type priorityQueuePool struct {
	queue   priorityqueue.PriorityQueue[*queueItem]
	workers sync.WaitGroup
}

type queueItem struct{ f func() }

func newPriorityQueue(workers int) pool {
	p := &priorityQueuePool{queue: priorityqueue.New[*queueItem]("")}
	for range workers {
		p.workers.Go(p.work)
	}
	return p
}

func (p *priorityQueuePool) work() {
	for {
		item, _, shutdown := p.queue.GetWithPriority()
		if shutdown {
			return
		}
		item.f()
		p.queue.Done(item)
	}
}

func (p *priorityQueuePool) submit(priority int, j *job) {
	urgency := -priority // here the higher goes first
	p.queue.AddWithOpts(priorityqueue.AddOpts{Priority: &urgency}, &queueItem{j.run})
}

func (p *priorityQueuePool) close() {
	p.queue.ShutDown()
	p.workers.Wait()
}
