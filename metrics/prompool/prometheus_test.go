package prompool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/metrics/prompool"
)

// In a real Prometheus, with classic histograms and with native ones: each target of the
// dashboard for Grafana returns data, and an alert that needs no minutes fires.
func TestPrometheusHasDataForEachPanelAndRaisesAlerts(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds until there are rates")
	}
	path, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("Prometheus is not installed")
	}
	for mode, flags := range map[string][]string{"classic": nil, "native": {"--enable-feature=native-histograms"}} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := newPrometheus(t, path, serveSome(t), flags...)
			for _, panel := range grafanaPanels(t) {
				for _, target := range panel.Targets {
					server.until(t, "query?query="+url.QueryEscape(grafanaVariables.Replace(target.Expr)), `"value":[`, panel.Title)
				}
			}
			server.until(t, "alerts", `"alertname":"TaskpoolHighTurnedAway"`, "no alert")
			buckets := server.get(t, "query?query="+url.QueryEscape("taskpool_queue_wait_seconds_bucket"))
			require.Equal(t, mode == "classic", strings.Contains(buckets, `"value":[`), "the histograms are of the other kind")
		})
	}
}

var grafanaVariables = strings.NewReplacer("$__rate_interval", "10s", "$job", ".*", "$instance", ".*", "$pool", ".*")

// serveSome serves the metrics of a pool in which all goes on that panels show.
func serveSome(t *testing.T) *httptest.Server {
	c, reg := newCollector(t, prompool.WithFlowNames("acme"))
	p := newPool(t, c, taskpool.WithName("mail"), taskpool.WithWorkers(1), taskpool.WithCapacity(1, taskpool.OverflowShed))
	server := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	over, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(over)
		<-ended
		server.Close()
	})
	go func() {
		defer close(ended)
		for {
			for _, pr := range []taskpool.Priority{taskpool.High, taskpool.Low, taskpool.Medium, taskpool.High} {
				_, _ = p.Submit(context.Background(), taskpool.Task{Flow: "acme", Priority: pr, Run: func(context.Context) error {
					time.Sleep(20 * time.Millisecond)
					if pr == taskpool.Medium {
						return errors.New("out of paper")
					}
					return nil
				}})
			}
			select {
			case <-over:
				return
			case <-time.After(30 * time.Millisecond):
			}
		}
	}()
	return server
}

// A prometheusServer is a running Prometheus.
type prometheusServer struct{ api string }

func newPrometheus(t *testing.T, path string, scraped *httptest.Server, flags ...string) prometheusServer {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs("../alerts/taskpool.rules.yml")
	require.NoError(t, err)
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\n"+
		"scrape_configs: [{job_name: test, static_configs: [{targets: [%q]}]}]\n", rules, strings.TrimPrefix(scraped.URL, "http://"))
	file := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	output := filepath.Join(dir, "log")
	log, err := os.Create(output)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(output)
			t.Logf("%s", text)
		}
	})
	for range 10 { // a port that is free now may be taken a moment later, and then Prometheus ends
		free, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		address := free.Addr().String()
		require.NoError(t, free.Close())
		cmd := exec.Command(path, append(flags, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)...)
		cmd.Stdout, cmd.Stderr = log, log
		require.NoError(t, cmd.Start())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait()
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Signal(os.Interrupt)
			<-ended
		})
		s := prometheusServer{"http://" + address + "/api/v1/"}
		for s.get(t, "status/runtimeinfo") == "" {
			select {
			case <-ended:
			case <-time.After(100 * time.Millisecond):
				continue
			}
			break
		}
		select {
		case <-ended:
		default:
			return s
		}
	}
	require.Fail(t, "Prometheus does not start")
	return prometheusServer{}
}

// get returns the answer to a request, "" while there is none.
func (s prometheusServer) get(t *testing.T, path string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := client.Get(s.api + path)
	if err != nil {
		return "" // it is not up yet
	}
	defer r.Body.Close()
	var answer struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		return ""
	}
	return string(answer.Data)
}

// until waits until the answer to a request contains text, or, if it has native histograms
// instead, those.
func (s prometheusServer) until(t *testing.T, path, text, what string) {
	t.Helper()
	require.Eventually(t, func() bool {
		answer := s.get(t, path)
		return strings.Contains(answer, text) || strings.Contains(answer, `"histogram":[`)
	}, 10*time.Minute, 200*time.Millisecond, "%s: %s", what, path)
}
