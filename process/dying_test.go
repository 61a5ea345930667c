//go:build unix

package process_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool/process"
	"github.com/taskpool-go/taskpool/test/pooltest"
)

// dyingStep is the distance of the bytes at which children die, except for the first and
// last 64, where they die at each, or without TASKPOOL_TEST_FULL at every third or, with
// -short, every 16th. With 1, a million die: that takes hours.
var dyingStep = flag.Int("dying", 0, "distance of the bytes of a frame at which children die; 0: a 64th of it with TASKPOOL_TEST_FULL, and more without")

var echo = process.Register("echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil })

// A child that dies at any byte of a frame of 1 MiB, which it reads or writes, costs
// no call more than its own, and none hangs.
func TestAChildThatDiesAtAnyByteOfAFrame(t *testing.T) {
	t.Parallel()
	const payload = 1 << 20
	const edge = 64
	fine, step := edge/max(pooltest.Times(64, 20), 4), *dyingStep
	if step == 0 {
		step = payload / pooltest.Times(64, 20)
	}
	for _, way := range []string{"read", "write"} {
		t.Run(way, func(t *testing.T) {
			next := filepath.Join(t.TempDir(), "next")
			require.NoError(t, os.WriteFile(next, []byte("1"), 0o600))
			position := func() int {
				text, err := os.ReadFile(next)
				require.NoError(t, err)
				n, err := strconv.Atoi(string(text))
				require.NoError(t, err)
				return n
			}
			// The frame is that much longer than what it carries.
			const total = payload + 32
			w := start(t, process.WithWorkers(1),
				process.WithEnv(fmt.Sprintf("%s=%s %d %d %d %d %s", process.DyingName, way, total, step, edge, fine, next)))
			deaths, longest := 0, time.Duration(0)
			data := make([]byte, payload)
			var out []byte
			for position() <= total+1 {
				began := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				var err error
				out, err = echo.Call(ctx, w, data)
				cancel()
				longest = max(longest, time.Since(began))
				if err != nil {
					var e *process.ExitError
					require.ErrorAs(t, err, &e)
					require.Equal(t, syscall.SIGKILL, e.Signal)
					require.Equal(t, "echo", e.Func)
					require.False(t, errors.Is(err, context.DeadlineExceeded), "a call hung: %v", err)
					deaths++
				}
			}
			require.Len(t, out, payload, "the last child died behind the frame")
			require.Greater(t, deaths, edge/2/fine)
			t.Logf("%d calls failed and %d children died; the longest call took %v", deaths, w.Stats().Died, longest)
		})
	}
}
