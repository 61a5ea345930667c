//go:build !unix

package main

import (
	"context"
	"os/exec"
)

// command returns a run of the tests. There are no process groups here.
func (b *binary) command(ctx context.Context, i int, args []string, _ bool) *exec.Cmd {
	return exec.CommandContext(ctx, b.path(i), args...)
}

func killGroup(int) {}
