//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// command returns a run of the tests in a process group of its own, with bounded
// memory, as a mutant may well collect things for ever. If stacks is set the end
// of ctx has it print its stacks first.
func (b *binary) command(ctx context.Context, i int, args []string, stacks bool) *exec.Cmd {
	bound := ""
	if b.memory > 0 {
		bound = fmt.Sprintf("ulimit -v %d; ", b.memory<<10)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", bound + `exec "$@"`, "sh", b.path(i)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if stacks {
			return cmd.Process.Signal(syscall.SIGQUIT)
		}
		killGroup(cmd.Process.Pid)
		return os.ErrProcessDone
	}
	return cmd
}

// killGroup ends what a run of the tests may have left behind.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
