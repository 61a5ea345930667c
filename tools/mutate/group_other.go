//go:build !unix

package main

import (
	"context"
	"os/exec"
)

// command returns a run of the tests. There are no process groups here.
func (b *binary) command(ctx context.Context, args []string, _ bool) *exec.Cmd {
	return exec.CommandContext(ctx, b.path(), args...)
}

func killGroup(int) {}
