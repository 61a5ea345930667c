// Command worker is a worker process of TestNoJobIsLostWhateverDies whose clock is wrong: the
// test builds it with a package time that adds so much to the time.
package main

import (
	"fmt"
	"os"

	"github.com/taskpool-go/taskpool/jobs/riverjobs/internal/chaos"
)

func main() {
	if err := chaos.Work(); err != nil {
		fmt.Fprintln(os.Stderr, "worker process:", err)
		os.Exit(1)
	}
}
