package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	// largeFile is the size in bytes from which a file counts as large.
	largeFile = 256 << 10

	// maxWaiting bounds the files that wait for a worker; for the others
	// Submit waits. In a longer queue more small files overtake large ones.
	maxWaiting = 1024

	// chunk is the number of bytes read at once. Between chunks a task looks
	// whether it is to stop.
	chunk = 128 << 10

	// stopGrace is how long a file that is at work may take to notice the
	// second interrupt. A read from a dead network file system never does.
	stopGrace = time.Second
)

// A file is a file to digest and what became of it.
type file struct {
	path string
	size int64 // when it was found
	err  error // nil if it was digested

	// Set by the file's task, and valid if err is nil: a task that was given
	// up may be at work still.
	sum  [sha256.Size]byte
	read int64         // its size when it was digested
	wait time.Duration // from submission to start
}

// priority puts small files first.
func (f *file) priority() taskpool.Priority {
	if f.size < largeFile {
		return taskpool.High
	}
	return taskpool.Low
}

// leftOut reports whether the file was not digested because of an interrupt.
func (f *file) leftOut() bool { return errors.Is(f.err, taskpool.ErrClosed) }

// find returns the regular files below dir, sorted by path, and says what it
// could not look into. It stops when ctx ends.
func find(ctx context.Context, dir string) (files []*file, unreadable []error) {
	root := strings.TrimRight(dir, "/") + "/" // the slash is for dir being a symbolic link
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if dir == "." {
			// As find has it. A bare - would be no file to sha256sum.
			path = "./" + strings.TrimPrefix(path, "./")
		}
		var info fs.FileInfo
		switch {
		case ctx.Err() != nil:
			unreadable = append(unreadable, fmt.Errorf("stopped looking for files at %q", path))
			return fs.SkipAll
		case err == nil && !entry.Type().IsRegular():
			return nil
		case err == nil:
			info, err = entry.Info()
		}
		if err != nil {
			unreadable = append(unreadable, pathError(path, err))
			return nil // go on with the others
		}
		files = append(files, &file{path: path, size: info.Size()})
		return nil
	})
	slices.SortFunc(files, func(a, b *file) int { return strings.Compare(a.path, b.path) })
	return files, unreadable
}

// pathError says what is wrong with a file. The errors of package os name it
// themselves; what they say besides is enough.
func pathError(path string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("%q: %w", path, err)
}

// An opener opens a file for reading.
type opener func(path string) (io.ReadCloser, error)

func openFile(path string) (io.ReadCloser, error) { return os.Open(path) }

// A digester digests files on a pool of its own, once.
type digester struct {
	pool *taskpool.Pool
	open opener
	read atomic.Int64 // bytes so far
}

func newDigester(workers int, open opener) (*digester, error) {
	pool, err := taskpool.New(
		taskpool.WithName("digest"),
		taskpool.WithWorkers(workers),
		taskpool.WithCapacity(maxWaiting, taskpool.OverflowWait),
		taskpool.WithHangGrace(stopGrace),
		taskpool.WithLogger(slog.New(slog.DiscardHandler)), // run reports what failed
	)
	return &digester{pool: pool, open: open}, err
}

// digestAll digests the files. When it returns, each has its sum or its error.
// Once soft has ended, no file is begun; once hard has, those at work are cut
// off. It ends the pool.
func (d *digester) digestAll(soft, hard context.Context, files []*file) {
	// Shutdown lets the loop below fall through: from then on Submit refuses
	// all files, the one included that it holds back until there is room.
	defer context.AfterFunc(soft, func() { _ = d.pool.Shutdown(hard) })()

	handles := make([]*taskpool.Handle, len(files))
	for i, f := range files {
		submitted := time.Now()
		task := taskpool.Task{Name: f.path, Priority: f.priority(), Run: func(ctx context.Context) error {
			if soft.Err() != nil {
				return taskpool.ErrClosed // accepted in time, but its turn comes too late
			}
			f.wait = time.Since(submitted)
			return d.digest(ctx, f)
		}}
		// Soft must not end the tasks that run, so they do not get it.
		handles[i], f.err = d.pool.Submit(context.WithoutCancel(soft), task)
	}
	_ = d.pool.Shutdown(hard) // what it has to say, the handles say file by file
	for i, h := range handles {
		if h != nil {
			files[i].err = h.Err()
		}
	}
}

var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// digest sets f's sum. It stops between two chunks when ctx ends.
func (d *digester) digest(ctx context.Context, f *file) error {
	r, err := d.open(f.path)
	if err != nil {
		return err
	}
	defer r.Close()
	buffer := buffers.Get().(*[chunk]byte)
	defer buffers.Put(buffer)
	hash := sha256.New()
	for ctx.Err() == nil {
		n, err := r.Read(buffer[:])
		hash.Write(buffer[:n])
		f.read += int64(n)
		d.read.Add(int64(n))
		if err == io.EOF {
			hash.Sum(f.sum[:0])
			return nil
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// progress describes how far digestAll has come, in less than a line.
func (d *digester) progress(soft context.Context, files int) string {
	s := d.pool.Stats()
	text := fmt.Sprintf("%d of %d files, %.1f MB", s.Succeeded+s.Failed, files, megabytes(d.read.Load()))
	if soft.Err() != nil {
		text += fmt.Sprintf("; finishing %d, Ctrl-C to stop at once", s.Running)
	}
	return text
}
