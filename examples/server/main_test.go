package main

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBadFlagsAreRefusedWithAReason(t *testing.T) {
	for args, want := range map[string]string{
		"-workers 0":         "-workers must be at least 1, got 0",
		"-capacity -1":       "-capacity must not be negative, got -1",
		"-work -1s":          "-work must not be negative, got -1s",
		"-timeout 0s":        "-timeout must be positive, got 0s",
		"-linger -1s":        "-linger must not be negative, got -1s",
		"-drain 0s":          "-drain must be longer than -linger, 1s, got 0s",
		"-workers 1 toomuch": `unexpected argument "toomuch"`,
		"-nothing":           "flag provided but not defined",
	} {
		var stderr strings.Builder
		require.Equal(t, statusUsage, run(strings.Fields(args), &stderr, nil), args)
		require.Contains(t, stderr.String(), want)
	}
	var stderr strings.Builder
	require.Equal(t, statusOK, run([]string{"-help"}, &stderr, nil))
	require.Contains(t, stderr.String(), "-capacity")
}

func TestAddressInUseIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer l.Close()
	used := l.Addr().String()
	for _, args := range [][]string{{"-addr", used}, {"-addr", "localhost:0", "-admin", used}} {
		var stderr strings.Builder
		require.Equal(t, statusError, run(args, &stderr, nil))
		require.Contains(t, stderr.String(), used)
	}
}

func TestSignalEndsTheServer(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	var stderr strings.Builder
	status := run([]string{"-addr", "localhost:0", "-admin", "localhost:0", "-linger", "0s"}, &stderr, signals)
	require.Equal(t, statusOK, status, "%s", &stderr)
	require.Contains(t, stderr.String(), "msg=stopped left=0")
}
