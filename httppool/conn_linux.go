package httppool

import "syscall"

// hungUp reports whether the other end of a connection has closed it, or at least its direction to
// here, which net/http takes for the same. What it has sent before, the body say, may be unread, so
// a look at what can be read does not tell.
func hungUp(c syscall.RawConn) (yes bool) {
	_ = c.Control(func(fd uintptr) { // an error: this end has been closed, by net/http
		var next [1]byte
		n, _, err := syscall.Recvfrom(int(fd), next[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if n <= 0 { // nothing is unread, as net/http has a small body together with the header
			yes = err != syscall.EAGAIN && err != syscall.EINTR
			return
		}
		poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
		if err != nil {
			return // no more files may be open: nothing is known
		}
		defer syscall.Close(poll)
		event := syscall.EpollEvent{Events: syscall.EPOLLRDHUP}
		if syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, int(fd), &event) != nil {
			return
		}
		var events [1]syscall.EpollEvent
		n, err = syscall.EpollWait(poll, events[:], 0)
		yes = err == nil && n > 0
	})
	return yes
}
