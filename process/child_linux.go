package process

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// secureMode reports whether the kernel has started this program in secure mode, as it does
// for file capabilities too.
func secureMode() bool {
	const atSecure = 23 // see getauxval(3)
	auxv, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return errors.Is(err, fs.ErrPermission) // of a program in secure mode it is root's
	}
	for entry := 2 * strconv.IntSize / 8; len(auxv) >= entry; auxv = auxv[entry:] {
		if word(auxv) == atSecure {
			return word(auxv[entry/2:]) != 0
		}
	}
	return false
}

// word returns the machine word that b begins with.
func word(b []byte) uint64 {
	if strconv.IntSize == 32 {
		return uint64(binary.NativeEndian.Uint32(b))
	}
	return binary.NativeEndian.Uint64(b)
}

// closeInherited closes the files that a child has of its parent beyond the pipes: those that
// code in C has opened without O_CLOEXEC. What Go has opened here already has that flag.
func closeInherited() {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		if err != nil || fd <= childOut {
			continue
		}
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			_ = syscall.Close(fd)
		}
	}
}

// offerToOOMKiller has the kernel, where memory runs out, end this child rather than its
// parent, as if it used half of the memory more than it does.
func offerToOOMKiller() {
	const file, more, most = "/proc/self/oom_score_adj", 500, 1000
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	if adj, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		_ = os.WriteFile(file, strconv.AppendInt(nil, int64(min(adj+more, most)), 10), 0)
	}
}
