//go:build linux

package process_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/process"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// childrenName is a variable with the number of children of the program "many".
const childrenName = "PROCESS_TEST_CHILDREN"

func init() {
	programs["many"] = func() {
		process.Main()
		n, err := strconv.Atoi(os.Getenv(childrenName))
		if err != nil {
			panic(err)
		}
		w, err := process.New(process.WithWorkers(n), process.WithStderr(io.Discard), process.WithStartTimeout(patience), fastExit)
		if err != nil {
			panic(err)
		}
		for _, dir := range []string{"task", "fd"} {
			entries, err := os.ReadDir("/proc/self/" + dir)
			if err != nil {
				panic(err)
			}
			fmt.Println(len(entries))
		}
		fmt.Println(w.Shutdown(context.Background()))
	}
}

func TestAChildTakesNoThreadOfItsParent(t *testing.T) {
	n := 30
	if pooltest.Full && !raceEnabled {
		n = 200
	}
	cmd := run(t, "many")
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", childrenName, n))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	var threads, files int
	_, err = fmt.Sscanf(string(out), "%d\n%d\n<nil>", &threads, &files)
	require.NoError(t, err, "%s", out)
	t.Logf("%d children: %d threads, %d descriptors", n, threads, files)
	require.Less(t, threads, n/2+10)
	require.LessOrEqual(t, files, 5*n+20)
}
