package dashboard_test

import (
	"errors"
	"log"
	"net/http"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/dashboard"
)

// The page is at http://localhost:6060/debug/taskpool/.
func Example() {
	d, err := dashboard.New()
	if err != nil {
		log.Fatal(err)
	}
	pool, err := taskpool.New(taskpool.WithName("mail"), taskpool.WithHooks(d.Hooks()))
	if err != nil {
		log.Fatal(err)
	}
	if err := d.Watch(pool); err != nil {
		log.Fatal(err)
	}

	mux := http.NewServeMux()
	mux.Handle("/debug/taskpool/", d)
	server := &http.Server{Addr: "localhost:6060", Handler: mux}
	server.RegisterOnShutdown(d.Close) // else Shutdown waits for those who look
	log.Fatal(server.ListenAndServe())
}

// Behind a proxy that has checked who asks, everybody may look and operators may
// change things.
func ExampleWithControl() {
	operators := func(r *http.Request) (name string, err error) {
		if r.Header.Get("X-Role") != "operator" {
			return "", errors.New("not allowed")
		}
		return r.Header.Get("X-User"), nil
	}
	d, err := dashboard.New(
		dashboard.WithAuthorize(func(*http.Request) error { return nil }),
		dashboard.WithHosts("pools.example.com"),
		dashboard.WithControl(operators),
	)
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/debug/taskpool/", d)
}
