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
		"-workers 0":         "server: -workers 0: -workers must be at least 1",
		"-capacity -1":       "nothing negative",
		"-work -1s":          "nothing negative",
		"-timeout 0s":        "-timeout positive",
		"-linger -1s":        "nothing negative",
		"-drain 1s":          "-drain longer than -linger",
		"-workers 1 toomuch": "server: -workers 1 toomuch: ",
		"-nothing":           "flag provided but not defined",
	} {
		var stderr strings.Builder
		require.Equal(t, 2, run(strings.Fields(args), &stderr, nil), args)
		require.Contains(t, stderr.String(), want)
	}
	var stderr strings.Builder
	require.Equal(t, 0, run([]string{"-help"}, &stderr, nil))
	require.Contains(t, stderr.String(), "-capacity")
}

func TestAddressInUseIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer l.Close()
	used := l.Addr().String()
	for _, args := range [][]string{{"-addr", used}, {"-addr", "localhost:0", "-admin", used}} {
		var stderr strings.Builder
		require.Equal(t, 1, run(args, &stderr, nil))
		require.Contains(t, stderr.String(), used)
	}
}

func TestSignalEndsTheServer(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	var stderr strings.Builder
	status := run([]string{"-addr", "localhost:0", "-admin", "localhost:0", "-linger", "0s"}, &stderr, signals)
	require.Equal(t, 0, status, "%s", &stderr)
	require.Contains(t, stderr.String(), "msg=stopped left=0")
}
