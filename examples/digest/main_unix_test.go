//go:build unix

package main

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFirstSignalIsSoftAndSecondHard(t *testing.T) {
	soft, hard := interrupts()
	self, err := os.FindProcess(os.Getpid())
	require.NoError(t, err)
	require.NoError(t, soft.Err())

	require.NoError(t, self.Signal(os.Interrupt))
	<-soft.Done()
	require.NoError(t, hard.Err())

	require.NoError(t, self.Signal(syscall.SIGTERM))
	<-hard.Done()
}

func TestWhatIsNoRegularFileIsSkipped(t *testing.T) {
	t.Chdir(t.TempDir()) // a socket's path must be short
	l, err := net.Listen("unix", "socket")
	require.NoError(t, err)
	defer l.Close()
	write(t, "file", 1)
	o := digest(openFile, ".")
	require.Equal(t, statusOK, o.status, o.stderr)
	require.Len(t, o.lines(), 1)
	require.Contains(t, o.stdout, "  ./file\n")
}

// Permissions do not keep the superuser out, but a path that is too long does.
func TestUnreadableDirectoriesAreReportedAndNotFatal(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, root.MkdirAll(strings.Repeat(strings.Repeat("d", 200)+"/", 25), 0o755))
	write(t, dir+"/a", 1)
	write(t, dir+"/z", 1)
	o := digest(openFile, dir)
	require.Equal(t, statusError, o.status)
	require.Contains(t, o.stdout, dir+"/a\n")
	require.Contains(t, o.stdout, dir+"/z\n")
	require.Len(t, o.lines(), 2)
	require.Contains(t, o.stderr, syscall.ENAMETOOLONG.Error())
}

func TestProgressIsShownOnACharacterDevice(t *testing.T) {
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	require.True(t, isTerminal(f))
}
