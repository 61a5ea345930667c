package process

import (
	"math/bits"
	"os"
	"syscall"
)

// A pipe holds 64 KiB by default, with which parent and child take turns sixteen times for a
// MiB. What all pipes of a user may hold is 64 MiB, beyond which new ones get two pages: the
// pipes of a pool take a quarter of that at most.
const (
	defaultPipe = 64 << 10
	largestPipe = 1 << 20
	allPipes    = 16 << 20
)

// enlarge makes room in a pipe, of which a pool of so many children has two for each. Where
// that is not allowed, it stays as it is.
func enlarge(pipe *os.File, children int) {
	const setPipeSize = 1031 // F_SETPIPE_SZ, see fcntl(2)
	size := min(largestPipe, allPipes/(2*children))
	if size <= defaultPipe {
		return
	}
	size = 1 << (bits.Len(uint(size)) - 1) // the kernel would round up
	if c, err := pipe.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, uintptr(size)) })
	}
}
