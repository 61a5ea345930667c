package taskpooltest_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/taskpooltest"
)

// An outbox is what the test in the package's documentation tests.
type outbox struct{ pool *taskpool.Pool }

func newOutbox(pool *taskpool.Pool) *outbox { return &outbox{pool} }

func (o *outbox) send(to string, pr taskpool.Priority) {
	_, err := o.pool.Submit(context.Background(), taskpool.Task{Name: to, Priority: pr, Run: func(context.Context) error { return nil }})
	if err != nil {
		panic(err)
	}
}

func TestUrgentMailGoesFirst(t *testing.T) {
	var order taskpooltest.Recorder
	pool := taskpooltest.New(t, taskpool.WithHooks(order.Hooks()))
	outbox := newOutbox(pool) // the code under test
	pool.Pause()              // nothing starts before everything is queued
	outbox.send("newsletter", taskpool.Low)
	outbox.send("password", taskpool.High)

	if mail := taskpooltest.Step(t, pool); mail.State != taskpool.StateSucceeded {
		t.Errorf("%s: got %v, want succeeded", mail.Name, mail.State)
	}
	taskpooltest.Step(t, pool)
	taskpooltest.AssertOrder(t, &order, "password", "newsletter")
}

func TestTheTestInThePackageDocIsTheOneAbove(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var shown []string
	for line := range strings.Lines(string(doc)) {
		if code, ok := strings.CutPrefix(line, "//\t"); ok {
			shown = append(shown, code)
		} else if line == "//\n" {
			shown = append(shown, "\n")
		}
	}
	test, err := os.ReadFile("doc_test.go")
	require.NoError(t, err)
	code := strings.TrimSpace(strings.Join(shown, ""))
	require.True(t, strings.HasPrefix(code, "func TestUrgentMailGoesFirst("), code)
	require.Contains(t, string(test), "\n"+code+"\n")
}
