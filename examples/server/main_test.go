package main

import (
	"context"
	"errors"
	"net"
	"strings"
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
		require.Equal(t, 2, run(t.Context(), strings.Fields(args), &stderr), args)
		require.Contains(t, stderr.String(), want)
	}
	var stderr strings.Builder
	require.Equal(t, 0, run(t.Context(), []string{"-help"}, &stderr))
	require.Contains(t, stderr.String(), "-capacity")
}

func TestAddressInUseIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer l.Close()
	used := l.Addr().String()
	for _, args := range [][]string{{"-addr", used}, {"-addr", "localhost:0", "-admin", used}} {
		var stderr strings.Builder
		require.Equal(t, 1, run(t.Context(), args, &stderr))
		require.Contains(t, stderr.String(), used)
	}
}

func TestSignalEndsTheServer(t *testing.T) {
	told, tell := context.WithCancelCause(t.Context())
	tell(errors.New("a signal"))
	var stderr strings.Builder
	status := run(told, []string{"-addr", "localhost:0", "-admin", "localhost:0", "-linger", "0s"}, &stderr)
	require.Equal(t, 0, status, "%s", &stderr)
	require.Contains(t, stderr.String(), `msg=draining cause="a signal"`)
	require.Contains(t, stderr.String(), "msg=stopped left=0")
}
