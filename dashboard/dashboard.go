package dashboard

import (
	"fmt"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/watch"
)

// A Dashboard is a live page about the pools that it watches. Make one with [New].
// Its methods may be called from any goroutine at any time; Watch and Unwatch wait for a
// snapshot that is being taken, which takes milliseconds.
type Dashboard struct {
	cfg   config
	epoch time.Time
	stack limiter

	pools watch.Pools[watched] // changed with looking held

	// looking is held while a snapshot is taken, so that the points of a pool are in
	// order, and while pools come and go. Locked before mu. No user code is called with
	// either.
	looking sync.Mutex
	lastID  int // of pools; protected by looking

	mu      sync.Mutex        // protects the fields below
	taken   time.Time         // when the snapshot was begun; zero: a new one is needed
	page    *page             // the snapshot, which does not change; nil: there is none
	parts   map[string]string // its parts, as HTML, by their id
	clients map[*client]struct{}
	packer  packer
	streams int           // requests that hold a place among the clients
	stop    chan struct{} // closed to end the sampler; nil if there is none
	closed  bool
}

// New makes a dashboard that watches no pool yet. If an option is not allowed it returns
// an error that names the option, its value and what is allowed.
func New(opts ...Option) (*Dashboard, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	return &Dashboard{cfg: cfg, epoch: time.Now(), clients: make(map[*client]struct{})}, nil
}

// Hooks returns hooks to be given to each pool that the dashboard watches, with
// [taskpool.WithHooks]. Without them it does not know how long tasks take, nor what
// has failed and why: an error is asked for its text once, by the hook, on the worker of
// its task. They tell pools apart by their names, and note nothing of a pool until it is
// watched. Functions given to Go are a sample, see [WithGoEvery].
func (d *Dashboard) Hooks() taskpool.Hooks {
	d.mustBeUsable("Hooks")
	note := func(to func(*history, taskpool.TaskEvent, time.Duration)) func(taskpool.TaskEvent) {
		return func(e taskpool.TaskEvent) {
			if w := d.pools.Named(e.Pool); w != nil {
				now := time.Since(d.epoch)
				to(w.history, e, now)
				w.hour.note(w.pool, d.epoch, now)
			}
		}
	}
	return taskpool.Hooks{
		Started:       note((*history).started),
		AttemptFailed: note((*history).attemptFailed),
		Retried:       note((*history).retried),
		Finished:      note((*history).finished),
		GoEvery:       d.cfg.goEvery,
	}
}

// Watch adds pools to the page, in the order given. A pool that is watched already
// is left where it is. Pools must have names of their own, as hooks tell of names,
// but a pool that was shut down gives way to a new one of its name; until then, or
// until [Dashboard.Unwatch], it stays on the page. In case of an error none is added.
func (d *Dashboard) Watch(pools ...*taskpool.Pool) error {
	if err := d.misuse("Watch"); err != nil {
		return err
	}
	d.looking.Lock()
	defer d.looking.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.pools.Watch(rules, pools, d.newWatched); err != nil {
		return err
	}
	d.taken = time.Time{}
	return nil
}

var rules = watch.Rules{Package: "dashboard", Unwatch: "Dashboard.Unwatch", Succeed: true}

// Unwatch takes a pool off the page, and forgets what its hooks have told. It reports
// whether the pool was watched.
func (d *Dashboard) Unwatch(p *taskpool.Pool) bool {
	d.mustBeUsable("Unwatch")
	d.looking.Lock()
	defer d.looking.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken = time.Time{}
	return d.pools.Unwatch(p)
}

// misuse returns the error of a call with a dashboard that New has not returned, else nil.
func (d *Dashboard) misuse(call string) error {
	if d == nil || d.clients == nil {
		return fmt.Errorf("dashboard: %s: the Dashboard must be one that New has returned, got nil or a zero one", call)
	}
	return nil
}

func (d *Dashboard) mustBeUsable(call string) {
	if err := d.misuse(call); err != nil {
		panic(err.Error())
	}
}

// find returns the watched pool with an id, nil if there is none.
func (d *Dashboard) find(id int) *watched {
	for _, w := range d.pools.All {
		if w.id == id {
			return w
		}
	}
	return nil
}

// Close ends the streams of those who look, and refuses further ones with status
// 503; the page itself remains, as a snapshot. [http.Server.Shutdown] waits for
// streams, so call it by then:
//
//	server.RegisterOnShutdown(d.Close)
//
// It may be called more than once.
func (d *Dashboard) Close() {
	d.mustBeUsable("Close")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.dropAllLocked()
}
