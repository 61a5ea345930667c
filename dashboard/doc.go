// Package dashboard is a live page about pools, an [http.Handler] to be mounted
// as net/http/pprof is. It answers what one asks on call: what runs and for how
// long, what waits, what failed and where, does anything hang, does anything starve.
//
//	d, err := dashboard.New()
//	pool, err := taskpool.New(taskpool.WithName("mail"), taskpool.WithHooks(d.Hooks()))
//	…
//	if err := d.Watch(pool); err != nil { … }
//	mux.Handle("/debug/taskpool/", d)
//
// It needs nothing but the standard library, loads nothing from elsewhere, and is
// mounted nowhere by itself. Any pattern will do that ends in a slash, with or without
// [http.StripPrefix]: all addresses in the page are relative, and the last element
// of a request's path says what is asked for.
//
// # What it shows
//
// All pools in a table first, if there are several. Of each: whether it accepts tasks, and its
// [taskpool.Pool.Health]; workers and slots; throughput and failures; and, folded where there
// are several pools, queue depth and longest wait for each priority, and how both went in the
// last 60 seconds; of the tasks that run or were given up as hung, wait for a worker, are parked, or
// wait for their time, the first 100 each, with the stack of each that has one; and how many of
// each name there are of these, among the first 1,000 of those that do not run.
// From [Dashboard.Hooks]: how long tasks waited, those that were shed too, and ran, by priority
// and by name; how many of each name were done and failed in the last minute, for the first 200
// names, with further ones in a row together; the last 100 failures, where those that are alike
// but for digits are one row with their count; and the last hour, in steps of ten seconds or more.
//
// What is wrong comes first, under these names, with figures beside most: Stalled, Waiting in a
// circle and Slots lost, as [taskpool.Pool.Health] says; Paused; Hung and Overdue, one for all
// tasks of a name; Failing, from one in ten of the tasks that succeed or fail, Retry storm,
// from half of the attempts, and Not retrying; Starving, Late and Waits long, of priorities, shown
// or not; Expiring, Shedding, Refusing and High turned away; Queue over 80 % and Full. Each has a
// link to what docs/runbook.md says about it, where the alerts of metrics/alerts lead too.
//
// If tasks have flows, see [taskpool.Task], the page also has how many tasks the limits of
// flows hold back, the 10 flows of which most tasks wait, as [taskpool.Pool.Flows] lists
// them, and each task's flow beside its name. The longest wait of a flow includes the time
// for which its tasks were held back; that of a priority does not, so a flow at its limit
// does not make its priority look as if it starved.
//
// A parked task is shown with what it waits for: another task, a group, room. While a pool
// is stalled, such tasks come first in their list, and a link at the top leads there. A
// priority such as low → high is that of a task that was lent its urgency by a more urgent
// one that waits for it; see [taskpool.TaskInfo].
//
// A time with ≥ is at least that, counted from when somebody looked first: the arrival of
// a task is not timed without hooks, nor the start of some functions with them.
//
// Names of tasks and flows and texts of errors are shown as they are, as text, the names
// cut after 200 bytes. What a task works on is never shown, except for what its errors say.
// Looking calls no code of tasks or their errors; of an error that no hook has told of, the
// type is shown.
//
// With a script tables of names are sorted by their heads, lists are searched, and a list that
// the pointer or the focus is in stands still until they leave. Times are then in the viewer's
// zone, and otherwise in that of the program.
//
// snapshot.json, beside the page, has the same for programs: problems, rates, all of
// [taskpool.Stats], and the lists, without stacks. Times are in seconds but for those in stats,
// which are in nanoseconds.
//
// # Live
//
// A browser gets what has changed each second, by Server-Sent Events. One snapshot a
// second serves all of them, and is taken only while somebody looks: otherwise the
// dashboard has no goroutine and no timer, and costs what its hooks cost. So the
// curves of a minute start when somebody looks; rates are exact all the same, and say over which
// time they were taken: the last ten seconds or, for who looks first, the time since hooks have
// last taken a point or, in a pool in which nothing happens, since the last look. The curves of an hour have points that hooks take, ten seconds or more
// after the one before: of a time in which nothing happened there are none. A page in a hidden tab lets go of its connection.
//
// The stream outlives the server's ReadTimeout and WriteTimeout, but ends after an hour: the
// browser then asks for another, and whether it may is decided anew. Page and stream are
// compressed for those who accept gzip, each message once for all of them. A client that does
// not keep up is dropped, and connects again. Without JavaScript the page is a
// snapshot with the same content.
//
// [http.Server.Shutdown] waits for requests, so it would wait for as long as somebody
// looks: give [Dashboard.Close] to [http.Server.RegisterOnShutdown].
//
// # Access
//
// Stacks and names tell much about a program. Only requests are answered that come from
// this machine, over loopback or a Unix socket, and are to a loopback host (localhost,
// 127.0.0.0/8 or [::1], as the Host header has it), which keeps other hosts' pages from
// reading it by rebinding their name to this machine. Those with a header that proxies
// add, such as Forwarded, X-Forwarded-For or Via, are refused, and those of HTTP/1.0, which
// proxies send and browsers do not: who asks then may be anywhere. A proxy on this machine that adds none is not noticed, so let it not pass
// on the dashboard's path; and other users of this machine are not kept out.
//
// [WithAuthorize] replaces that by a function of yours, which is asked about every
// request; a stream is one request. The Host must then be a loopback host, an IP
// address or one of [WithHosts].
//
// The page is read-only. [WithControl] adds pause, resume, resize, another priority for a task,
// and cancel, of one task or all of a name that the page can list: by POST, never from another site's page (see [http.CrossOriginProtection]), and only
// if the function given to it agrees. Stacks and the stream are not for other sites'
// pages either; a link to the page may stand anywhere.
package dashboard
