package prompool_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/metrics/prompool"
)

var (
	metricInExpr = regexp.MustCompile(`taskpool_[a-z_]+`)
	labelInExpr  = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"`)
	byInExpr     = regexp.MustCompile(`by \(([^)]*)\)`)
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
			names := metricInExpr.FindAllString(target.Expr, -1)
			require.NotEmpty(t, names, target.Expr)
			var used []string
			for _, m := range labelInExpr.FindAllStringSubmatch(target.Expr, -1) {
				used = append(used, m[1])
			}
			for _, m := range byInExpr.FindAllStringSubmatch(target.Expr, -1) {
				used = append(used, strings.Split(m[1], ", ")...)
			}
			for _, name := range names {
				base := strings.TrimSuffix(name, "_bucket")
				require.Contains(t, exposed, base, target.Expr)
				has := map[string]bool{"job": true, "le": base != name}
				for _, l := range exposed[base].Metric[0].Label {
					has[l.GetName()] = true
				}
				for _, label := range used {
					require.True(t, has[label], "%s has no label %s: %s", name, label, target.Expr)
				}
			}
		}
	}
}
