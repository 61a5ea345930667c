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
	allow := func(role string) func(*http.Request) error {
		return func(r *http.Request) error {
			if r.Header.Get("X-Role") != role {
				return errors.New("not allowed")
			}
			return nil
		}
	}
	d, err := dashboard.New(
		dashboard.WithAuthorize(func(*http.Request) error { return nil }),
		dashboard.WithHosts("pools.example.com"),
		dashboard.WithControl(allow("operator")),
	)
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/debug/taskpool/", d)
}
