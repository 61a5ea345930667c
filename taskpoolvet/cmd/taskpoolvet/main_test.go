package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const program = `package main

import (
	"context"

	"github.com/taskpool-go/taskpool"
)

func main() {
	pool, err := taskpool.New()
	if err != nil {
		panic(err)
	}
	pool.Go(taskpool.Low, func() {})
	pool.Go(taskpool.Low, func() {}) //nolint:taskpoolvet
	if err := pool.Shutdown(context.Background()); err != nil {
		panic(err)
	}
}
`

func TestTheToolRunsUnderGoVetAndAlone(t *testing.T) {
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	dir := t.TempDir()
	tool := filepath.Join(dir, "taskpoolvet.exe")
	run := func(in, name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "GOWORK=off")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run(".", "go", "build", "-o", tool, ".")
	require.NoError(t, err, out)

	app := filepath.Join(dir, "app")
	require.NoError(t, os.Mkdir(app, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(app, "main.go"), []byte(program), 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(app, "go.mod"), []byte(`module app

go 1.26.0

require github.com/taskpool-go/taskpool v0.0.0

replace github.com/taskpool-go/taskpool => `+root+"\n"), 0o666))

	const finding = "main.go:14:2: the error of Pool.Go is dropped: a task that was not accepted is lost\n"
	for _, with := range [][]string{{"go", "vet", "-vettool=" + tool}, {tool}} {
		out, err = run(app, with[0], append(with[1:], "./...")...)
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, out)
		require.Contains(t, out, finding)
		require.NotContains(t, out, "main.go:15", "it is silenced")

		out, err = run(app, with[0], append(with[1:], "-droppederror=false", "./...")...)
		require.NoError(t, err, out)
		out, err = run(app, with[0], append(with[1:], "-droppederror", "./...")...)
		require.ErrorAs(t, err, &exit, out)
		require.Contains(t, out, finding)
		out, err = run(app, with[0], append(with[1:], "-heldlock", "./...")...)
		require.NoError(t, err, out)
	}
	out, err = run(app, tool, "help", "noshutdown")
	require.NoError(t, err, out)
	require.Contains(t, out, "report a pool that is made and used in a function and not shut down")
}
