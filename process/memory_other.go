//go:build !linux

package process

import (
	"bytes"
	"os/exec"
	"strconv"
	"time"
)

// memoryInterval is the time between two looks at a child's memory during a call.
// Each starts a program here.
const memoryInterval = 200 * time.Millisecond

// residentBytes returns how much memory a process has resident.
func residentBytes(pid int) (int64, error) {
	text, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	return kib << 10, err
}
