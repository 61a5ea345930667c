package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the program prints is in its documentation.
func TestUrgentCallsAreAnsweredAndTheEndLosesNone(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, want, _ := strings.Cut(string(source), "by the code of their status:\n//\n")
	want, _, _ = strings.Cut(want, "\n//\n")
	want = strings.ReplaceAll(strings.TrimPrefix(want, "//\t"), "\n//\t", "\n") + "\n"
	var out strings.Builder
	require.NoError(t, run(&out))
	require.Equal(t, want, out.String())
}
