//go:build unix

package process

import (
	"io"
	"os"
	"syscall"
)

// supported is nil if this package works on this operating system.
var supported error

// Descriptors of a child's ends of the pipes. Standard input, output and error
// come before them.
const (
	childIn  = 3
	childOut = 4
)

// startChild starts a process in a process group of its own, so that a signal can
// reach what it starts in its turn, and the terminal's Ctrl-C does not reach it.
func startChild(path string, argv, env []string, files []*os.File, as *credential) (*os.Process, error) {
	sys := &syscall.SysProcAttr{Setpgid: true}
	if as != nil {
		sys.Credential = &syscall.Credential{Uid: as.uid, Gid: as.gid, Groups: as.groups}
	}
	return os.StartProcess(path, argv, &os.ProcAttr{Env: env, Files: files, Sys: sys})
}

// signalGroup sends a signal to the process group that pid leads. It does nothing
// if there is none any more.
func signalGroup(pid int, sig os.Signal) { _ = syscall.Kill(-pid, sig.(syscall.Signal)) }

// goOn continues a process that is stopped.
const goOn = syscall.SIGCONT

// killOwnGroup ends this process, a child, and whatever is left in its group.
func killOwnGroup() {
	if pid := os.Getpid(); syscall.Getpgrp() == pid {
		signalGroup(pid, syscall.SIGKILL)
	}
	os.Exit(1)
}

// openPipes returns the child's ends of the pipes, kept from the programs that
// the child may start.
func openPipes() (in io.Reader, out io.Writer) {
	for _, fd := range []int{childIn, childOut} {
		syscall.CloseOnExec(fd)
		_ = syscall.SetNonblock(fd, true) // so that waiting does not hold a thread
	}
	return os.NewFile(childIn, "requests"), os.NewFile(childOut, "results")
}

// privileged reports whether this program has rights that who started it may not have.
func privileged() bool {
	return os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() || secureMode()
}

// exitStatus returns how a process ended: the signal that ended it, or nil and
// its exit code.
func exitStatus(s *os.ProcessState) (int, os.Signal) {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return -1, ws.Signal()
	}
	return s.ExitCode(), nil
}
