package httppool_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

func always(*http.Request) bool { return true }

func TestTheMostSpecificRouteCounts(t *testing.T) {
	classify := httppool.Routes(map[string]taskpool.Task{
		"POST /checkout":     {Priority: taskpool.High, Timeout: time.Second},
		"/export/":           {Priority: taskpool.Low, Name: "exports"},
		"/export/{id}/state": {Priority: 2},
		"example.com/":       {Priority: 5},
	}, "GET /healthz", "/export/events")
	for _, test := range []struct {
		method, url string
		want        taskpool.Task
		limited     bool
	}{
		{"POST", "http://a/checkout", taskpool.Task{Name: "POST /checkout", Priority: taskpool.High, Timeout: time.Second}, true},
		{"GET", "http://a/checkout", taskpool.Task{}, true},
		{"GET", "http://a/export/1", taskpool.Task{Name: "exports", Priority: taskpool.Low}, true},
		{"GET", "http://a/export/1/state", taskpool.Task{Name: "/export/{id}/state", Priority: 2}, true},
		{"GET", "http://a/export/events", taskpool.Task{}, false},
		{"GET", "http://example.com/x", taskpool.Task{Name: "example.com/", Priority: 5}, true},
		{"GET", "http://a/healthz", taskpool.Task{}, false},
		{"POST", "http://a/healthz", taskpool.Task{}, true},
		{"GET", "http://a/other", taskpool.Task{}, true},
		{"CONNECT", "http://a/healthz", taskpool.Task{}, true},
	} {
		got, limited := classify(httptest.NewRequest(test.method, test.url, nil))
		require.Equal(t, test.want, got, test)
		require.Equal(t, test.limited, limited, test)
	}
}

func TestRoutesRefusesWhatCannotBe(t *testing.T) {
	run := func(context.Context) error { return nil }
	for want, routes := range map[string]map[string]taskpool.Task{
		"conflicts": {"/{a}/b": {}, "/a/{b}": {}},
		"parsing":   {"GET": {}},
		`httppool: Routes: routes["/a"].Run must be nil, got a function`:        {"/a": {Run: run}},
		`httppool: Routes: routes["/a"].Retry must be zero, got 2 attempts`:     {"/a": {Retry: taskpool.Retry{MaxAttempts: 2}}},
		`httppool: Routes: routes["/a"].NotBefore must be zero, got 0001`:       {"/a": {NotBefore: time.Time{}.Add(1)}},
		`httppool: Routes: routes["/a"].MaxWait must not be negative, got -1`:   {"/a": {MaxWait: -1}},
		`httppool: Routes: routes["/a"].Timeout must not be negative, got -1`:   {"/a": {Timeout: -1}},
		`httppool: Routes: routes["/a"].WorkTimeout must not be negative, got `: {"/a": {WorkTimeout: -1}},
		`httppool: Routes: routes["/a"].Heartbeat must not be negative, got -1`: {"/a": {Heartbeat: -1}},
	} {
		require.Contains(t, panicOf(func() { httppool.Routes(routes) }), want)
	}
	require.Contains(t, panicOf(func() { httppool.Routes(map[string]taskpool.Task{"/a": {}}, "/a") }), "conflicts")
}

// panicOf returns what f panics with, as text.
func panicOf(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return ""
}

func withHeader(name string, values ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header[http.CanonicalHeaderKey(name)] = values
	return r
}

func TestAPriorityHeaderCountsFromATrustedEdgeOnly(t *testing.T) {
	base := of(taskpool.Task{Name: "a", Priority: 7})
	classify := base.PriorityHeader("x-priority", httppool.FromNetworks(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")))
	for _, test := range []struct {
		from, value string
		want        taskpool.Priority
	}{
		{"10.1.2.3:80", "high", taskpool.High},
		{"10.1.2.3:80", " LOW ", taskpool.Low},
		{"10.1.2.3:80", "-10", -10},
		{"10.1.2.3:80", "10", 10},
		{"[::ffff:10.1.2.3]:80", "medium", taskpool.Medium},
		{"[fd00::1%eth0]:80", "3", 3},
		{"10.1.2.3:80", "11", 7},
		{"10.1.2.3:80", "-11", 7},
		{"10.1.2.3:80", "", 7},
		{"10.1.2.3:80", "urgent", 7},
		{"10.1.2.3:80", strings.Repeat("9", 1<<20), 7},
		{"11.1.2.3:80", "high", 7},
		{"", "high", 7},
		{"@", "high", 7},
		{"10.1.2.3", "high", 7},
	} {
		r := withHeader("X-Priority", test.value)
		r.RemoteAddr = test.from
		got, limited := classify(r)
		require.True(t, limited)
		require.Equal(t, taskpool.Task{Name: "a", Priority: test.want}, got, "%.100v", test)
	}
	got, _ := classify(withHeader("X-Other", "high"))
	require.EqualValues(t, 7, got.Priority)
}

func TestTheUrgencyOfRFC9218IsAPriority(t *testing.T) {
	classify := of(taskpool.Task{Priority: 9}).RFC9218(always)
	for header, want := range map[string]taskpool.Priority{
		"u=0": -3, "u=2": taskpool.High, "u=3": taskpool.Medium, "u=4": taskpool.Low, "u=7": 4,
		"u=5, i": 2, "i, u=5": 2, "i;a=1,u=1;x=2": -2, "u=1,u=6": 3, `a="u=0, \"u=1",u=5`: 2, "\tu=2 ": taskpool.High,
		"": 9, "i": 9, "u": 9, "u=8": 9, "u=-1": 9, "u=10": 9, "u=1.0": 9, `u="1"`: 9, "u=1,u=x": 9, "U=1": 9, "xu=1": 9, `a="u=1`: 9, ",,": 9, `\,u=1`: -2,
	} {
		got, limited := classify(withHeader("Priority", header))
		require.True(t, limited)
		require.Equal(t, want, got.Priority, header)
	}
	got, _ := classify(withHeader("Priority", "i", "u=1"))
	require.EqualValues(t, -2, got.Priority, "in two lines")
	got, _ = of(taskpool.Task{Priority: 9}).RFC9218(func(*http.Request) bool { return false })(withHeader("Priority", "u=0"))
	require.EqualValues(t, 9, got.Priority, "not trusted")
}

func TestClassifiersAddToWhatOthersSay(t *testing.T) {
	exempt := httppool.Classifier(func(*http.Request) (taskpool.Task, bool) { return taskpool.Task{}, false })
	mustNot := func(*http.Request) bool { t.Error("asked about an exempt request"); return true }
	r := withHeader("Priority", "u=0")
	_, limited := exempt.RFC9218(mustNot).PriorityHeader("Priority", mustNot).Flow(func(*http.Request) string { t.Error("asked"); return "" })(r)
	require.False(t, limited)

	var none httppool.Classifier
	got, limited := none.RFC9218(always).Flow(func(r *http.Request) string { return r.Host })(r)
	require.True(t, limited)
	require.Equal(t, taskpool.Task{Priority: -3, Flow: "example.com"}, got)
	got, _ = of(taskpool.Task{Flow: "a"}).Flow(func(*http.Request) string { return "" })(r)
	require.Equal(t, "a", got.Flow)
}

func TestBadArgumentsPanicWithAReason(t *testing.T) {
	p := newPool(t)
	next := http.NotFoundHandler()
	for want, f := range map[string]func(){
		"httppool: Handler: p must be a Pool that New has returned, got nil": func() { httppool.Handler(nil, next, nil) },
		"taskpool: ExpectedWait: ":                                                       func() { httppool.Handler(new(taskpool.Pool), next, nil) },
		"httppool: Handler: next must not be nil":                                        func() { httppool.Handler(p, nil, nil) },
		"httppool: option 1 must not be nil":                                             func() { httppool.Handler(p, next, nil, nil) },
		"httppool: WithClientWait: d must not be negative, got -1ns":                     func() { httppool.Handler(p, next, nil, httppool.WithClientWait(-1)) },
		"httppool: WithAnswer: answer must not be nil":                                   func() { httppool.Handler(p, next, nil, httppool.WithAnswer(nil)) },
		"httppool: Transport: p must be a Pool that New has returned, got nil":           func() { httppool.Transport(nil, nil) },
		"httppool: Ready: p must be a Pool that New has returned, got nil":               func() { httppool.Ready(nil) },
		"httppool: Classifier.Flow: of must not be nil":                                  func() { httppool.Classifier(nil).Flow(nil) },
		"httppool: Classifier.RFC9218: trusted must not be nil":                          func() { httppool.Classifier(nil).RFC9218(nil) },
		"httppool: Classifier.PriorityHeader: trusted must not be nil":                   func() { httppool.Classifier(nil).PriorityHeader("a", nil) },
		"httppool: Classifier.PriorityHeader: name must not be empty":                    func() { httppool.Classifier(nil).PriorityHeader("", always) },
		"httppool: FromNetworks: networks[0] must be a valid prefix, got invalid Prefix": func() { httppool.FromNetworks(netip.Prefix{}) },
	} {
		require.Contains(t, panicOf(f), want)
	}
	var none context.Context
	ctx := t.Context()
	for want, err := range map[string]error{
		"httppool: Shutdown: ctx must not be nil":                             httppool.Shutdown(none, p, 0),
		"httppool: Shutdown: p must be a Pool that New has returned, got nil": httppool.Shutdown(ctx, nil, 0),
		"httppool: Shutdown: linger must not be negative, got -1ns":           httppool.Shutdown(ctx, p, -1),
		"httppool: Shutdown: servers[1] must not be nil":                      httppool.Shutdown(ctx, p, 0, &http.Server{}, nil),
		"httppool: Shutdown: servers[0] must not be nil":                      httppool.Shutdown(ctx, p, 0, (*http.Server)(nil)),
	} {
		require.ErrorContains(t, err, want)
	}
	require.NoError(t, p.Health())
}

func TestNetworksOfIPv4MayBeWrittenAsThoseOfIPv6(t *testing.T) {
	for _, test := range []struct {
		network, from string
		want          bool
	}{
		{"::ffff:10.0.0.0/104", "10.1.2.3:80", true},
		{"::ffff:10.0.0.0/104", "[::ffff:10.1.2.3]:80", true},
		{"::ffff:10.0.0.0/104", "11.1.2.3:80", false},
		{"::ffff:10.0.0.0/104", "[fd00::1]:80", false},
		{"::ffff:10.1.2.3/128", "10.1.2.3:80", true},
		{"::ffff:10.1.2.3/128", "10.1.2.4:80", false},
		{"10.0.0.0/8", "[::ffff:10.1.2.3]:80", true},
		{"::/0", "10.1.2.3:80", false},
		{"::/0", "[fd00::1]:80", true},
	} {
		r := newGet(t.Context())
		r.RemoteAddr = test.from
		require.Equal(t, test.want, httppool.FromNetworks(netip.MustParsePrefix(test.network))(r), "%v", test)
	}
}

func TestAPanickingClassifierCostsThePoolNothing(t *testing.T) {
	p := newPool(t, taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowReject))
	h := httppool.Handler(p, http.NotFoundHandler(), func(*http.Request) (taskpool.Task, bool) { panic("classify") })
	require.PanicsWithValue(t, "classify", func() { ask(h, newGet(t.Context())) })
	require.Zero(t, p.Stats().Submitted)
	require.Equal(t, http.StatusNotFound, ask(httppool.Handler(p, http.NotFoundHandler(), nil), newGet(t.Context())).Code)
}

func TestTasksAreCalledByTheirRoutes(t *testing.T) {
	var names []string
	p := newPool(t, taskpool.WithHooks(taskpool.Hooks{Started: func(e taskpool.TaskEvent) { names = append(names, e.Task.Name) }}))
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	outer := http.NewServeMux()
	outer.Handle("GET /in/{id}", httppool.Handler(p, ok, nil))
	outer.Handle("GET /named", httppool.Handler(p, ok, of(taskpool.Task{Name: "mine"})))
	ask(outer, httptest.NewRequest(http.MethodGet, "/in/1", nil))
	ask(outer, httptest.NewRequest(http.MethodGet, "/named", nil))

	// Whoever is outside learns of the route that was found behind the handler, as always.
	inner := http.NewServeMux()
	inner.Handle("GET /in/{id}", ok)
	r := httptest.NewRequest(http.MethodGet, "/in/2", nil)
	ask(httppool.Handler(p, inner, nil), r)
	require.Equal(t, "GET /in/{id}", r.Pattern)
	require.Equal(t, []string{"GET /in/{id}", "mine", ""}, names)
}

// A ServeMux would redirect such a path. What is behind the pool may be another router, or a proxy
// that takes it for what it is not.
func TestAPathThatIsNotCleanIsNotExempt(t *testing.T) {
	classify := httppool.Routes(map[string]taskpool.Task{"/": {Priority: taskpool.Low}}, "/metrics", "/events/")
	for path, exempt := range map[string]bool{
		"/metrics": true, "/events/1": true, "/export/../metrics": false, "//metrics": false, "/events": false, "/x": false,
	} {
		r := httptest.NewRequest("GET", "http://localhost/", nil)
		r.URL.Path = path
		_, limited := classify(r)
		require.Equal(t, !exempt, limited, path)
	}
}
