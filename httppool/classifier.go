package httppool

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/taskpool-go/taskpool"
)

// A Classifier says what task a request is: its priority, flow, MaxWait and timeouts. With false
// it says that the request is exempt and runs outside the pool. [Routes] makes one, any function
// is one, and the methods add to what one says; a nil one says the zero Task of each request.
//
//	classify := httppool.Routes(routes, "/events").PriorityHeader("X-Priority", edge).Flow(tenant)
//
// A panic in one is the request's, as one in its handler is.
type Classifier func(*http.Request) (t taskpool.Task, limited bool)

// Routes returns a Classifier by the route of a request. The keys of routes, and exempt, are
// patterns as those of [http.ServeMux]; of those that match, the most specific one counts, and
// if none does, the request is the zero Task. A task without a name is called by its pattern.
//
// Routes panics if a pattern is not allowed or conflicts with another, as ServeMux does, and if
// Run, Retry or NotBefore of a task is set, or a duration of it is negative.
func Routes(routes map[string]taskpool.Task, exempt ...string) Classifier {
	mux := http.NewServeMux()
	tasks := make(map[string]taskpool.Task, len(routes))
	for _, pattern := range slices.Sorted(maps.Keys(routes)) { // so that of two that conflict it is always the same that is blamed
		mux.Handle(pattern, matched{})
		t := routes[pattern]
		mustBePattern(fmt.Sprintf("Routes: routes[%q]", pattern), t)
		if t.Name == "" {
			t.Name = pattern
		}
		tasks[pattern] = t
	}
	exempted := make(map[string]bool, len(exempt))
	for _, pattern := range exempt {
		mux.Handle(pattern, matched{})
		exempted[pattern] = true
	}
	return func(r *http.Request) (taskpool.Task, bool) {
		h, pattern := mux.Handler(r)
		return tasks[pattern], !exempted[pattern] || h != matched{}
	}
}

// matched is the handler of all patterns. For a path that is not clean a ServeMux has another,
// which redirects; what comes behind Handler may take such a path for one that is not exempt.
type matched struct{}

func (matched) ServeHTTP(http.ResponseWriter, *http.Request) {}

// mustBePattern panics if t, which is called name, is not allowed as the pattern of Do.
func mustBePattern(name string, t taskpool.Task) {
	bad := func(field, allowed string, got any) { panic(pkg.Bad(name+"."+field, allowed, got).Error()) }
	switch {
	case t.Run != nil:
		bad("Run", "be nil", "a function")
	case t.Retry.MaxAttempts != 0 || t.Retry.Backoff != nil || t.Retry.If != nil:
		bad("Retry", "be zero", fmt.Sprintf("%d attempts", t.Retry.MaxAttempts))
	case !t.NotBefore.IsZero():
		bad("NotBefore", "be zero", t.NotBefore)
	case t.MaxWait < 0:
		bad("MaxWait", "not be negative", t.MaxWait)
	case t.Timeout < 0:
		bad("Timeout", "not be negative", t.Timeout)
	case t.WorkTimeout < 0:
		bad("WorkTimeout", "not be negative", t.WorkTimeout)
	case t.Heartbeat < 0:
		bad("Heartbeat", "not be negative", t.Heartbeat)
	}
}

// classify returns what c says, which may be nil.
func (c Classifier) classify(r *http.Request) (taskpool.Task, bool) {
	if c == nil {
		return taskpool.Task{}, true
	}
	return c(r)
}

// Flow returns a Classifier that says what c does, with the flow that of returns: the tenant or
// the user that was authenticated, never what just anybody may claim. With "" it leaves the flow
// as c has it. See [taskpool.Task] and [taskpool.WithFlows].
func (c Classifier) Flow(of func(*http.Request) string) Classifier {
	if of == nil {
		panic(pkg.Bad("Classifier.Flow: of", "not be nil", "nil").Error())
	}
	return func(r *http.Request) (taskpool.Task, bool) {
		t, limited := c.classify(r)
		if limited {
			if flow := of(r); flow != "" {
				t.Flow = flow
			}
		}
		return t, limited
	}
}

// MaxHeaderPriority is the least urgent priority that [Classifier.PriorityHeader] takes from a
// header, and its negative the most urgent one. Each priority is a lane of the queue and a label
// in metrics, so there should not be many.
const MaxHeaderPriority = 10

// PriorityHeader returns a Classifier that says what c does, with the priority that the header
// name has: high, medium, low or a number from -10, the most urgent, to 10. Any other value,
// and the header of a request for which trusted returns false, leaves the priority as c has it:
// a header that anybody may set makes everything urgent. See [FromNetworks].
func (c Classifier) PriorityHeader(name string, trusted func(*http.Request) bool) Classifier {
	if name == "" {
		panic(pkg.Bad("Classifier.PriorityHeader: name", "not be empty", `""`).Error())
	}
	return c.byHeader("PriorityHeader", name, trusted, func(value string) (pr taskpool.Priority, ok bool) {
		err := pr.UnmarshalText([]byte(strings.ToLower(strings.TrimSpace(value))))
		return pr, err == nil && pr >= -MaxHeaderPriority && pr <= MaxHeaderPriority
	})
}

// RFC9218 returns a Classifier that says what c does, with the priority of the header Priority
// of RFC 9218, which browsers send and proxies and CDNs pass on or set: its urgency, u=0, the
// most urgent, to u=7, less 3, so that u=3, which the RFC has for ordinary requests, is
// [taskpool.Medium], u=2 High and u=4 Low. A header without a valid urgency, and that of a
// request for which trusted returns false, leaves the priority as c has it. See [FromNetworks].
func (c Classifier) RFC9218(trusted func(*http.Request) bool) Classifier {
	return c.byHeader("RFC9218", "Priority", trusted, func(value string) (taskpool.Priority, bool) {
		u, ok := urgency(value)
		return taskpool.Priority(u - ordinaryUrgency), ok
	})
}

const ordinaryUrgency = 3

// byHeader returns a Classifier with the priority that read finds in a header.
func (c Classifier) byHeader(method, name string, trusted func(*http.Request) bool, read func(string) (taskpool.Priority, bool)) Classifier {
	if trusted == nil {
		panic(pkg.Bad("Classifier."+method+": trusted", "not be nil", "nil").Error())
	}
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) (taskpool.Task, bool) {
		t, limited := c.classify(r)
		if values := r.Header[name]; limited && len(values) > 0 && trusted(r) {
			if pr, ok := read(strings.Join(values, ",")); ok {
				t.Priority = pr
			}
		}
		return t, limited
	}
}

// urgency returns the urgency of a header Priority, which is a dictionary of RFC 9651, such as
// "u=5, i". Of several the last counts. What else is in the dictionary need not be well-formed.
func urgency(dictionary string) (u int, ok bool) {
	for member := range members(dictionary) {
		key, value, _ := strings.Cut(member, "=")
		if key != "u" {
			continue
		}
		value, _, _ = strings.Cut(value, ";") // parameters
		u, ok = 0, false
		if len(value) == 1 && value[0] >= '0' && value[0] <= '7' {
			u, ok = int(value[0]-'0'), true
		}
	}
	return u, ok
}

// members returns the members of a dictionary: what stands between commas that are not part of a
// string, without space around it.
func members(dictionary string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted, escaped := 0, false, false
		for i := 0; i <= len(dictionary); i++ {
			switch {
			case i == len(dictionary) || dictionary[i] == ',' && !quoted:
				if !yield(strings.Trim(dictionary[start:i], " \t")) {
					return
				}
				start = i + 1
			case escaped:
				escaped = false
			case dictionary[i] == '\\':
				escaped = quoted
			case dictionary[i] == '"':
				quoted = !quoted
			}
		}
	}
}

// FromNetworks returns a function that reports whether a request comes right from an address in
// one of these networks, by its RemoteAddr: from the proxies at the edge, to be trusted by
// [Classifier.PriorityHeader] and [Classifier.RFC9218]. These must set the header, or remove
// what others have set. An IPv4 address is in networks of IPv4, and in those that are written as
// IPv4-mapped addresses, such as ::ffff:10.0.0.0/104; in no other of IPv6. It panics if a prefix
// is not valid.
func FromNetworks(networks ...netip.Prefix) func(*http.Request) bool {
	for i, n := range networks {
		if !n.IsValid() {
			panic(pkg.Bad(fmt.Sprintf("FromNetworks: networks[%d]", i), "be a valid prefix", n).Error())
		}
	}
	networks = slices.Clone(networks)
	return func(r *http.Request) bool {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return false
		}
		addr := peer.Addr().Unmap().WithZone("")
		mapped := netip.AddrFrom16(addr.As16())
		return slices.ContainsFunc(networks, func(n netip.Prefix) bool {
			return n.Contains(addr) || n.Addr().Is4In6() && n.Contains(mapped)
		})
	}
}
