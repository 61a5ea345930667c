package prompool_test

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/metrics/prompool"
)

var (
	selectorInExpr = regexp.MustCompile(`(taskpool_[a-z_]+)(\{[^}]*\})?`)
	labelInExpr    = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"`)
	byInExpr       = regexp.MustCompile(`(by|without) \(([^)]*)\)`)
)

// Each label in an expression must be one of each metric in it.
func TestDashboardAsksForWhatIsExposed(t *testing.T) {
	c, reg := newCollector(t, prompool.WithFlowNames("a"))
	p := newPool(t, c, taskpool.WithName("a"))
	submit(t, p, taskpool.Task{})
	shutdown(t, p)
	exposed := gather(t, reg)

	file, err := os.ReadFile("../grafana/taskpool.json")
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(file, &dashboard))
	require.NotEmpty(t, dashboard.Panels)
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			requireAsksForWhatIsExposed(t, target.Expr, exposed)
		}
	}
}

// requireAsksForWhatIsExposed checks that each metric in expr is exposed and has the labels that
// it is selected by, and that some metric has each label that is summed over.
func requireAsksForWhatIsExposed(t *testing.T, expr string, exposed scrape) {
	t.Helper()
	selectors := selectorInExpr.FindAllStringSubmatch(expr, -1)
	require.NotEmpty(t, selectors, expr)
	any := make(map[string]bool)
	for _, m := range selectors {
		base := strings.TrimSuffix(m[1], "_bucket")
		require.Contains(t, exposed, base, expr)
		has := map[string]bool{"job": true, "instance": true, "le": base != m[1]}
		for _, l := range exposed[base].Metric[0].Label {
			has[l.GetName()] = true
		}
		for _, label := range labelInExpr.FindAllStringSubmatch(m[2], -1) {
			require.True(t, has[label[1]], "%s has no label %s: %s", m[1], label[1], expr)
		}
		maps.Copy(any, has)
	}
	for _, m := range byInExpr.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(m[2], ", ") {
			require.True(t, any[label] || label == "le", "no metric has the label %s: %s", label, expr)
		}
	}
}

// Each alert has a part of the runbook, and the runbook none that is not one.
func TestEachAlertAsksForWhatIsExposedAndIsInTheRunbook(t *testing.T) {
	c, reg := newCollector(t)
	p := newPool(t, c, taskpool.WithName("a"))
	submit(t, p, taskpool.Task{})
	shutdown(t, p)
	exposed := gather(t, reg)

	rules, err := os.ReadFile("../alerts/taskpool.rules.yml")
	require.NoError(t, err)
	runbook, err := os.ReadFile("../../docs/runbook.md")
	require.NoError(t, err)
	parts := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^## (Taskpool\w+)$`).FindAllStringSubmatch(string(runbook), -1) {
		parts[m[1]] = true
	}
	alerts := make(map[string]bool)
	for _, rule := range strings.Split(string(rules), "- alert: ")[1:] {
		name, rest, _ := strings.Cut(rule, "\n")
		alerts[name] = true
		_, rest, _ = strings.Cut(rest, "expr: ")
		expr, rest, _ := strings.Cut(rest, "labels:\n")
		requireAsksForWhatIsExposed(t, expr, exposed)
		if !strings.Contains(rest, "annotations: *") { // those of another alert of the name
			require.Contains(t, rest, "runbook_url: https://github.com/taskpool-go/taskpool/blob/main/docs/runbook.md#"+strings.ToLower(name)+"\n")
		}
	}
	require.Equal(t, parts, alerts)
}
