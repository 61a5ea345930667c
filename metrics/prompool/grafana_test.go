package prompool_test

import (
	"context"
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
	p := newPool(t, c, taskpool.WithName("a"), taskpool.WithWorkers(1), taskpool.WithCapacity(0, taskpool.OverflowShed))
	shed(t, p)
	submit(t, p, taskpool.Task{})
	shutdown(t, p)
	exposed := gather(t, reg)

	for _, panel := range grafanaPanels(t) {
		require.NotEmpty(t, panel.Description, panel.Title)
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			requireAsksForWhatIsExposed(t, target.Expr, exposed)
			for _, selector := range selectorInExpr.FindAllString(target.Expr, -1) {
				require.Contains(t, selector, `{job=~"$job", instance=~"$instance", pool=~"$pool"`, target.Expr)
			}
		}
	}
}

// A grafanaPanel is a panel of the dashboard for Grafana.
type grafanaPanel struct {
	Title, Description string
	Targets            []struct{ Expr string }
}

func grafanaPanels(t *testing.T) []grafanaPanel {
	t.Helper()
	file, err := os.ReadFile("../grafana/taskpool.json")
	require.NoError(t, err)
	var dashboard struct{ Panels []grafanaPanel }
	require.NoError(t, json.Unmarshal(file, &dashboard))
	require.NotEmpty(t, dashboard.Panels)
	return dashboard.Panels
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

// shed has p, which has one worker and a queue without room, shed a task.
func shed(t *testing.T, p *taskpool.Pool) {
	t.Helper()
	p.Pause()
	run := func(context.Context) error { return nil }
	for _, pr := range []taskpool.Priority{taskpool.Low, taskpool.Medium} {
		_, err := p.Submit(t.Context(), taskpool.Task{Priority: pr, Run: run})
		require.NoError(t, err)
	}
	p.Resume()
	require.NoError(t, p.WaitIdle(t.Context()))
}
