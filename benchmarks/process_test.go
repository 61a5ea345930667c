package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPythonComputesWhatGoComputes(t *testing.T) {
	if !hasPython() {
		t.Skip("there is no python3")
	}
	for _, c := range []callee{incrementing, spinning} {
		for _, pool := range append([]string{""}, pythonPools...) {
			for _, argument := range []int{0, 1, 1_000} {
				for _, how := range []string{"", "many", "chunks"} {
					_, result := startPython().measure(pythonRequest{
						Pool: pool, Workers: 2, Function: c.child.Name(), Argument: argument, Calls: 3, How: how,
					})
					want, err := c.f(context.Background(), argument)
					require.NoError(t, err)
					require.Equal(t, want, result, "%s(%d) with %q", c.child.Name(), argument, pool)
				}
			}
		}
	}
}

func TestReportSaysThatThereWasNoPython(t *testing.T) {
	var results []result
	for _, s := range processScenarios(false) {
		require.Len(t, s.contestants, map[bool]int{true: 1, false: 3}[s.group == groupMaps || s.group == groupBytes], s.name)
		r, err := s.run(1, true)
		require.NoError(t, err)
		results = append(results, r)
	}
	var page bytes.Buffer
	writeReport(&page, setup{}, true, results)
	note := noPython + "\n"
	require.Contains(t, page.String(), "\n\n"+note, "once below the two rows of small calls")
	require.Contains(t, page.String(), " "+note, "after the rates")
	require.Equal(t, 4, strings.Count(page.String(), note), "and below maps and bytes")
	require.Regexp(t, `\nMillions of turns a second, process: [0-9.,]+; process, GOMAXPROCS=1: [0-9.,]+; taskpool: [0-9.,]+\. There`, page.String())
}
