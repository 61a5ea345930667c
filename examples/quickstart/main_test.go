package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// In a bubble no two tasks end at the same instant, so all that is left to
// chance is the order of the three first starts, which worker makes them, and the
// place of the line about the replaced worker, which is printed on a goroutine of
// its own.
func TestQuickstartTellsItsStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		require.NoError(t, run(&out))
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")

		replaced := regexp.MustCompile(`^replaced   worker [123] by worker 5: panic$`)
		at := slices.IndexFunc(lines, replaced.MatchString)
		require.Greater(t, at, slices.Index(lines, "started    Broken, attempt 1"), "%s", &out)
		require.Less(t, at, slices.Index(lines, "succeeded  Low_1"), "%s", &out)
		lines = slices.Delete(lines, at, at+1)

		require.ElementsMatch(t, []string{
			"started    Low_1, attempt 1",
			"started    High_1, attempt 1",
			"started    High_2, attempt 1",
		}, lines[:3], "the most urgent tasks start first, beside the one that was there before")
		require.Equal(t, []string{
			"started    High_3, attempt 1",
			"yielded    Low_1, to High_3",
			"succeeded  High_3",
			"started    Medium_1, attempt 1",
			"succeeded  High_1",
			"started    Medium_2, attempt 1",
			"succeeded  High_2",
			"started    Flaky, attempt 1",
			"retry      Flaky in 40ms: connection refused",
			"started    Broken, attempt 1",
			"failed     Broken: taskpool: task panicked: out of luck",
			"resumed    Low_1, 1 of 3 slices done",
			"succeeded  Low_1",
			"started    Flaky, attempt 2",
			"retry      Flaky in 80ms: connection refused",
			"succeeded  Medium_1",
			"succeeded  Medium_2",
			"started    Flaky, attempt 3",
			"succeeded  Flaky",
			"8 tasks: 7 succeeded, 1 failed",
			"10 attempts: 2 retried, 1 panicked, 1 worker replaced",
		}, lines[3:])
	})
}
