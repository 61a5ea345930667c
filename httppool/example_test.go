package httppool_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

// A whole service. From the outside in: what logs or recovers; what says who the client is; Handler;
// the mux, with what reads bodies. Ready stands beside Handler: it answers when the queue is full.
func Example() {
	pool, err := taskpool.New(taskpool.WithWorkers(8), taskpool.WithCapacity(100, taskpool.OverflowShed))
	if err != nil {
		log.Fatal(err)
	}

	mux := http.NewServeMux()
	mux.HandleFunc("POST /checkout", func(w http.ResponseWriter, r *http.Request) {
		order, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20)) // a slow client costs no slot
		if err != nil {
			http.Error(w, "no order", http.StatusBadRequest)
			return
		}
		task, _ := taskpool.Current(r.Context())
		fmt.Fprintf(w, "%s: %s, for %s, %v", r.Pattern, order, cmp.Or(task.Flow, "anybody"), task.Priority)
	})
	mux.HandleFunc("GET /export/{year}", func(w http.ResponseWriter, r *http.Request) {
		task, _ := taskpool.Current(r.Context())
		fmt.Fprintf(w, "%s: %s, %v", r.Pattern, r.PathValue("year"), task.Priority)
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		_, limited := taskpool.Current(r.Context())
		fmt.Fprintf(w, "%s: a task %v", r.Pattern, limited)
	})

	edge := httppool.FromNetworks(netip.MustParsePrefix("10.0.0.0/8")) // the proxies that set X-Priority
	classify := httppool.Routes(map[string]taskpool.Task{
		"POST /checkout": {Priority: taskpool.High, MaxWait: 2 * time.Second, Timeout: 5 * time.Second},
		"/export/":       {Priority: taskpool.Low, MaxWait: 5 * time.Second, Timeout: time.Minute},
	}, "/events").PriorityHeader("X-Priority", edge).Flow(tenant)

	all := http.NewServeMux()
	all.Handle("GET /readyz", httppool.Ready(pool))
	all.Handle("/", authenticated(httppool.Handler(pool, mux, classify)))
	server := &http.Server{
		Handler:           all,
		ConnContext:       httppool.ConnContext,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2 * time.Minute,
	}
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	told, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)

	// From here on the program is its own client, and then what tells it to end.
	url := "http://" + listener.Addr().String()
	show(http.Post(url+"/checkout", "text/plain", strings.NewReader("two books")))
	show(http.Get(url + "/export/2026"))
	show(http.Get(url + "/events"))
	show(http.Get(url + "/readyz"))
	stop()

	<-told.Done()
	linger := 10 * time.Millisecond // in earnest some seconds, until load balancers have noticed
	within, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	fmt.Println("shutdown:", httppool.Shutdown(within, pool, linger, server))
	fmt.Println("served:", <-served)

	// Output:
	// 200 POST /checkout: two books, for acme, high
	// 200 GET /export/{year}: 2026, low
	// 200 GET /events: a task false
	// 200 ready
	// shutdown: <nil>
	// served: http: Server closed
}

type tenantKey struct{}

// authenticated notes which tenant a request is of. In earnest it would look at a token, and
// refuse: it stands before Handler, so it should be cheap.
func authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tenantKey{}, "acme")))
	})
}

func tenant(r *http.Request) string {
	name, _ := r.Context().Value(tenantKey{}).(string)
	return name
}

func show(resp *http.Response, err error) {
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(resp.StatusCode, strings.TrimSpace(string(text)))
}
