// Package httppool puts a pool in front of an HTTP server: which request runs when not all can
// is decided by priority, and what cannot be answered in time is told so at once.
//
//	pool, err := taskpool.New(taskpool.WithWorkers(8), taskpool.WithCapacity(100, taskpool.OverflowShed))
//	if err != nil {
//		return err
//	}
//	classify := httppool.Routes(map[string]taskpool.Task{
//		"POST /checkout": {Priority: taskpool.High, Timeout: 5 * time.Second},
//		"/export/":       {Priority: taskpool.Low, MaxWait: 2 * time.Second},
//	}, "/metrics", "/events") // exempt
//	server := &http.Server{Handler: httppool.Handler(pool, mux, classify)}
//
// [Handler] runs a handler on the request's own goroutine, by [taskpool.Pool.Do], when its turn
// has come. To the handler and the client all is as without, but that a request may be refused:
// with 503 and Retry-After when the queue is full, 429 when its flow has its own bound waiting,
// 504 when it has waited for too long, always before its body is read. A [Classifier] says what
// task a request is, by its route, a header that a trusted edge sets, or the priority of RFC
// 9218; [WithAnswer] replaces the answers.
//
// The package example is a whole service. What costs little and tells who a client is, such as
// authentication, stands before Handler, as a Classifier needs it, and so does what logs requests,
// those that are refused too. What works, or reads bodies, stands behind. [Ready] stands beside it,
// and other probes and metrics too, or they are exempt: in the queue they would fail just when they
// are needed.
//
// # The limits that matter
//
// Without a capacity, a MaxWait or [taskpool.WithQueueDelay] nothing is refused, and under
// overload each request waits until its client gives up. A MaxWait of what a client waits, less
// what an answer takes, is a good start. Timeouts of the [http.Server] are as needed as ever:
// ReadHeaderTimeout, ReadTimeout and WriteTimeout end what a client that is slow on purpose
// holds besides the slot: a connection, and memory.
//
// # Slow clients
//
// A task gives its slot back while it waits for its client, in a read of the body or in a write
// that the kernel's buffers do not take, see [WithClientWait]. So a handler may read the body
// itself: clients that send it a byte a second keep nobody else from running. They keep their place
// within [taskpool.FlowPolicy].Limit, and beyond [taskpool.WithMaxParked], 10,000, they keep the slot.
// Once the task's timeout is over they are waited for no longer.
//
// # Clients that are gone
//
// net/http ends the context of a request whose client has gone away, and the request leaves the
// queue. With HTTP/1 it learns that only if the request has no body or the body was read. With
// [ConnContext] a request with a body stays in the queue, but its handler does not run for nobody.
//
// # Requests within requests
//
// A handler that calls its own server holds a slot, and waits for another. [Transport] marks
// the requests of a pool's tasks, which then run at once: they are part of work that has its
// turn already. Handlers of one pool within each other are no problem, but queue twice.
//
// # Seeing it
//
// The name of a route is the name of its tasks: in logs, on the dashboard, and in metrics that are told
// to have names, as by prompool.WithTaskNames(20). What is refused is counted by priority and reason,
// see [taskpool.Stats]; WithAnswer sees each one with its request. A request that matches no route, and
// comes by no ServeMux, has no name.
//
// # The end
//
// [Shutdown] is all that is to be done on SIGTERM, and [Ready] the probe that it turns.
//
// # Measured
//
// A request through Handler costs 2 to 3 µs more than without, and a refusal about 3 µs of CPU.
// BenchmarkHandler and BenchmarkRefusalCPU measure that. What [ConnContext] adds for a request with
// a body is 2 µs, and 9 µs if it is too large for net/http's buffer; see BenchmarkHungUp.
package httppool
