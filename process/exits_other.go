//go:build !linux

package process

import "os"

// exits would tell when children have exited. Here [os.Process.Wait] does, with a thread for
// each.
type exits struct{}

func newExits() *exits           { return new(exits) }
func (*exits) close()            {}
func (*exits) await(*os.Process) {}
