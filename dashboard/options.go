package dashboard

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool/internal/option"
)

// pkg is what the errors of this package begin with.
const pkg option.Package = "dashboard"

// An Option sets how a dashboard works; see [New].
type Option interface {
	apply(*config)
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

const (
	defaultMaxClients    = 16
	defaultStarvingAfter = 10 * time.Second
	defaultGoEvery       = 64
)

// config is what the options set. It does not change.
type config struct {
	maxClients    int
	starvingAfter time.Duration
	goEvery       int
	authorize     func(*http.Request) error           // nil: this machine only
	hosts         []string                            // in lower case
	control       func(*http.Request) (string, error) // nil: read-only

	authorizeSet, controlSet, hostsSet bool
}

func newConfig(opts []Option) (config, error) {
	c := config{maxClients: defaultMaxClients, starvingAfter: defaultStarvingAfter, goEvery: defaultGoEvery}
	if err := option.Apply(pkg, opts, func(o Option) { o.apply(&c) }); err != nil {
		return c, err
	}
	switch bad := pkg.Bad; {
	case c.maxClients < 1:
		return c, bad("WithMaxClients: n", "be at least 1", c.maxClients)
	case c.starvingAfter <= 0:
		return c, bad("WithStarvingAfter: d", "be positive", c.starvingAfter)
	case c.goEvery < 1:
		return c, bad("WithGoEvery: n", "be at least 1", c.goEvery)
	case c.authorizeSet && c.authorize == nil:
		return c, bad("WithAuthorize: authorize", "not be nil", "nil")
	case c.hostsSet && !c.authorizeSet:
		return c, bad("WithHosts", "be given with WithAuthorize: without, only loopback hosts are answered", fmt.Sprintf("%q", c.hosts))
	case c.controlSet && c.control == nil:
		return c, bad("WithControl: authorize", "not be nil", "nil")
	}
	for _, h := range c.hosts {
		if name, _ := hostOf(h); h == "" || name != h || strings.ContainsAny(h, "*/ ") {
			return c, pkg.Bad("WithHosts: name", "be the name of a host, without a port", strconv.Quote(h))
		}
	}
	return c, nil
}

// WithMaxClients bounds the number of browsers that look at a time to n, at least 1.
// Further ones see a snapshot, and get status 503 for the stream until one leaves.
// Default: 16.
func WithMaxClients(n int) Option {
	return optionFunc(func(c *config) { c.maxClients = n })
}

// WithStarvingAfter sets for how long, which must be positive, the oldest task of a
// priority may wait before that is highlighted: as starving, if meanwhile tasks of
// other priorities start and none of this one does. Default: 10 s.
func WithStarvingAfter(d time.Duration) Option {
	return optionFunc(func(c *config) { c.starvingAfter = d })
}

// WithGoEvery sets how many of the functions given to [taskpool.Pool.Go] the hooks
// are told of: one in n, chosen at random, and each that fails; see
// [taskpool.Hooks.GoEvery]. With 1 they are told of all, which short functions feel.
// Functions that fail are among the failures but not in the run times, of which they
// would be too large a part.
// Default: 64.
func WithGoEvery(n int) Option {
	return optionFunc(func(c *config) { c.goEvery = n })
}

// WithAuthorize asks authorize about every request, and answers those for which it
// returns an error, whose text is not shown, with status 403. So requests from other
// machines are answered, and those that come through a proxy, but still only to a
// loopback host, an IP address or a host given to [WithHosts]; authorize is not asked
// about others. It may be called from several goroutines at a time; if it panics, the
// request is refused with status 500. Default: requests from this machine only.
func WithAuthorize(authorize func(*http.Request) error) Option {
	return optionFunc(func(c *config) { c.authorize, c.authorizeSet = authorize, true })
}

// WithHosts names hosts, without a port, that the dashboard is reached by, as the Host
// header has them. A request to any other name is refused with status 403: the page of
// any site may rebind its own name to this machine, and what asks then is the browser
// of somebody whom authorize may well let in, by his address for one. It may be given
// several times; upper and lower case are the same. It needs [WithAuthorize]. Default:
// none, so that the dashboard is reached as localhost or by an IP address.
func WithHosts(names ...string) Option {
	return optionFunc(func(c *config) {
		c.hostsSet = true
		for _, name := range names {
			c.hosts = append(c.hosts, strings.ToLower(name))
		}
	})
}

// WithControl lets the page pause, resume and resize pools, cancel tasks, one or all of a name,
// and change their priority.
// authorize is asked about each such request, in addition to what decides about
// access, and refuses it with an error, as with [WithAuthorize]. A request from
// another site's page is refused before. The name that it returns, "" for none, says
// who asks: the page shows what was last done to a pool, when and by whom, and
// [slog.Default] logs it at level Info. Default: read-only.
func WithControl(authorize func(*http.Request) (name string, err error)) Option {
	return optionFunc(func(c *config) { c.control, c.controlSet = authorize, true })
}
