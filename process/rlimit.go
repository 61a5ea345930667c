//go:build linux || darwin

package process

import "syscall"

func setRlimit(r rlimit) error {
	return syscall.Setrlimit(r.resource, &syscall.Rlimit{Cur: r.limit, Max: r.limit})
}
