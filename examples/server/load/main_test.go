package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBadFlagsAreRefusedWithAReason(t *testing.T) {
	for args, want := range map[string]string{
		"-rate 0":               "-rate must be positive, got 0",
		"-rate NaN":             "-rate must be positive, got NaN",
		"-duration 0s":          "-duration must be positive, got 0s",
		"-high 101%":            "must be a percentage from 0% to 100%",
		"-medium x":             "must be a percentage from 0% to 100%",
		"-high 60% -medium 50%": "-high and -medium must not be more than 100% together, got 60% and 50%",
		"much":                  `unexpected argument "much"`,
	} {
		var stderr strings.Builder
		require.Equal(t, statusUsage, run(t.Context(), strings.Fields(args), nil, &stderr), args)
		require.Contains(t, stderr.String(), want)
	}
	var stderr strings.Builder
	require.Equal(t, statusOK, run(t.Context(), []string{"-help"}, nil, &stderr))
	require.Contains(t, stderr.String(), "-rate")
}

// loadOn runs the program against a server that gives all the same answer.
func loadOn(t *testing.T, status int, args ...string) (exit int, stdout, stderr string) {
	ctx, stop := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		stop()
	}))
	defer server.Close()
	var out, errs strings.Builder
	exit = run(ctx, append([]string{"-url", server.URL, "-duration", "1h", "-high", "100%", "-medium", "0"}, args...), &out, &errs)
	return exit, out.String(), errs.String()
}

func TestRequestsTurnedAwayAreNoFailure(t *testing.T) {
	exit, stdout, stderr := loadOn(t, http.StatusServiceUnavailable)
	require.Equal(t, statusOK, exit)
	require.Empty(t, stderr)
	require.Regexp(t, `(?m)^ +priority +sent +200 +503 .*\n +high +\d+ +0 +[1-9]`, stdout)
}

func TestOtherAnswersAreAFailure(t *testing.T) {
	exit, stdout, stderr := loadOn(t, http.StatusTeapot)
	require.Equal(t, statusError, exit)
	require.Equal(t, "load: the first failure: high priority: status 418\n", stderr)
	require.Contains(t, stdout, "high")
}

func TestProgressIsToldEveryTwoSecondsWorthOfRequests(t *testing.T) {
	exit, _, stderr := loadOn(t, http.StatusServiceUnavailable, "-rate", "0.5") // the first is sent at once
	require.Equal(t, statusOK, exit)
	require.Equal(t, "load: 1 requests answered\n", stderr)
}
