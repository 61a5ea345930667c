package copypool

import "github.com/taskpool-go/taskpool"

type server struct{ pool taskpool.Pool }

func bad(p *taskpool.Pool, h *taskpool.Handle, g *taskpool.Group, servers []server, c chan taskpool.Pool) taskpool.Pool {
	q := *p                     // want `the assignment copies a taskpool.Pool: use a pointer`
	var r = *h                  // want `the declaration copies a taskpool.Handle`
	s := server{*p}             // want `the literal copies a taskpool.Pool`
	take(*g)                    // want `the call copies a taskpool.Group`
	for _, s := range servers { // want `the range copies a taskpool.Pool`
		s.pool.Pause()
	}
	q.Pause()
	r.Done()
	s.pool.Pause()
	servers = append(servers, servers[0]) // want `the call copies a taskpool.Pool`
	c <- *p                               // want `the send copies a taskpool.Pool`
	_ = func(two [2]taskpool.Pool) {}     // want `the call copies a taskpool.Pool`
	q = *again(p)                         // want `the assignment copies a taskpool.Pool`
	return *p                             // want `the return copies a taskpool.Pool`
}

func again(p *taskpool.Pool) *taskpool.Pool { return p }

func take(g taskpool.Group) {} // want `the call copies a taskpool.Group`

func (s server) stop() {} // want `the call copies a taskpool.Pool`

type holder struct {
	pool *taskpool.Pool
	info taskpool.TaskInfo
	f    taskpool.Future[int]
}

func good(p *taskpool.Pool, h holder, f taskpool.Future[int], e taskpool.TaskEvent, servers []server) holder {
	q := p
	other := h
	g := f
	pools := make([]taskpool.Pool, 2)
	for i := range servers {
		s := &servers[i]
		s.pool.Pause()
	}
	_ = *p
	_ = len(pools)
	_ = any(p)
	_, _, _ = q, other, g
	return h
}
