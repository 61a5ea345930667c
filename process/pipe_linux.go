package process

import (
	"os"
	"syscall"
)

// pipeSize is how much a pipe holds: with the default of 64 KiB, parent and child
// take turns sixteen times for a MiB, which takes several times as long.
const pipeSize = 1 << 20

// enlarge makes room in a pipe. Where that is not allowed, as a user's pipes may take
// so much in all, it stays as it is.
func enlarge(pipe *os.File) {
	const setPipeSize = 1031 // F_SETPIPE_SZ, see fcntl(2)
	if c, err := pipe.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, pipeSize) })
	}
}
