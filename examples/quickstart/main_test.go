package main

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// In a bubble no two tasks end at the same instant, so all that is left to
// chance is the order of the three first starts and the place of the line about
// the replaced worker, which is printed on a goroutine of its own.
func TestQuickstartTellsItsStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		require.NoError(t, run(&out))
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")

		const replaced = "replaced   worker 2 by worker 4: panic"
		at := slices.Index(lines, replaced)
		require.Greater(t, at, slices.Index(lines, "started    Broken, attempt 1"), "%s", &out)
		require.Less(t, at, slices.Index(lines, "succeeded  Medium_1"), "%s", &out)
		lines = slices.Delete(lines, at, at+1)

		require.ElementsMatch(t, []string{
			"started    High_1, attempt 1",
			"started    High_2, attempt 1",
			"started    Medium_1, attempt 1",
		}, lines[:3], "the most urgent tasks start first")
		require.Equal(t, []string{
			"succeeded  High_1",
			"started    Medium_2, attempt 1",
			"succeeded  High_2",
			"started    Flaky, attempt 1",
			"retry      Flaky in 40ms: connection refused",
			"started    Broken, attempt 1",
			"failed     Broken: taskpool: task panicked: out of luck",
			"started    Low_1, attempt 1",
			"succeeded  Medium_1",
			"started    Flaky, attempt 2",
			"retry      Flaky in 80ms: connection refused",
			"succeeded  Medium_2",
			"succeeded  Low_1",
			"started    Flaky, attempt 3",
			"succeeded  Flaky",
			"7 tasks: 6 succeeded, 1 failed",
			"9 attempts: 2 retried, 1 panicked, 1 worker replaced",
		}, lines[3:])
	})
}
