package process

import (
	"os"
	"sync"
	"syscall"
)

// exits tells when children have exited. A goroutine in wait4 would keep a thread for each
// child; the kernel's handles of processes can be waited for together, as files can.
type exits struct {
	epoll *os.File // nil: there is none
	over  chan struct{}

	mu      sync.Mutex              // protects the fields below
	last    int32                   // number
	awaited map[int32]chan struct{} // closed when the process of that number has exited
	ended   bool                    // nothing is told any more
}

func newExits() *exits {
	e := &exits{over: make(chan struct{}), awaited: make(map[int32]chan struct{})}
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return e
	}
	_ = syscall.SetNonblock(fd, true) // so that the runtime waits for it as for a pipe
	e.epoll = os.NewFile(uintptr(fd), "exits")
	go e.follow()
	return e
}

// close ends what newExits began. Nothing is awaited any more.
func (e *exits) close() {
	if e.epoll != nil {
		_ = e.epoll.Close()
		<-e.over
	}
}

// follow takes what the kernel tells, until e is closed.
func (e *exits) follow() {
	defer close(e.over)
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.ended = true
		for _, gone := range e.awaited { // none, unless the runtime cannot wait for e
			close(gone)
		}
		clear(e.awaited)
	}()
	conn, err := e.epoll.SyscallConn()
	if err != nil {
		return
	}
	var events [64]syscall.EpollEvent
	_ = conn.Read(func(fd uintptr) bool {
		for n := len(events); n == len(events); {
			var err error
			if n, err = syscall.EpollWait(int(fd), events[:], 0); err == syscall.EINTR {
				n = len(events)
				continue
			}
			e.mu.Lock()
			for _, event := range events[:max(n, 0)] {
				if gone := e.awaited[event.Fd]; gone != nil {
					close(gone)
					delete(e.awaited, event.Fd)
				}
			}
			e.mu.Unlock()
		}
		return false
	})
}

// await returns when p, which nobody has waited for, has exited; or at once where the kernel
// has no such handle, as before Linux 5.4: then Wait takes a thread.
func (e *exits) await(p *os.Process) {
	if e.epoll == nil {
		return
	}
	conn, err := e.epoll.SyscallConn()
	if err != nil {
		return
	}
	gone := make(chan struct{})
	e.mu.Lock()
	if e.ended {
		e.mu.Unlock()
		return
	}
	e.last++
	number := e.last
	e.awaited[number] = gone
	e.mu.Unlock()
	added := false
	_ = p.WithHandle(func(handle uintptr) {
		_ = conn.Control(func(fd uintptr) {
			// Once: until it is closed everywhere, also in a child that is about to be
			// another program, the handle stays known.
			event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLONESHOT, Fd: number}
			added = syscall.EpollCtl(int(fd), syscall.EPOLL_CTL_ADD, int(handle), &event) == nil
		})
	})
	if !added {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.awaited, number)
		return
	}
	<-gone
}
