package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/jobs"
)

// A file is the payload of a job. It says all that there is to say, as the process that
// works on it may not be the one that found it.
type file struct {
	Source string // absolute
	Output string // likewise
}

// small is the size, in bytes, beyond which a file has low priority.
const small = 1 << 20

// register registers the handler. A kill costs the attempt that it interrupts, so there
// are a few.
func (p *program) register(reg *jobs.Registry) {
	p.compress = jobs.Register(reg, "compress", func(ctx context.Context, m jobs.Meta, f file) error {
		p.log.Info("compressing", "source", f.Source, "attempt", m.Attempt)
		return compress(ctx, f)
	}, jobs.Policy{MaxAttempts: 5, Timeout: p.timeout})
	reg.Observe(p.settled)
}

// compress writes the source, compressed, to the output. A stored job may run twice,
// even twice at a time: so each attempt has a file of its own, which takes the output's
// place when it is complete and on disk.
func compress(ctx context.Context, f file) (err error) {
	in, err := os.Open(f.Source)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return taskpool.Permanent(err) // it will not come back
	case err != nil:
		return err
	}
	defer in.Close()
	info, err := in.Stat() // first: if it changes while it is read it is not up to date
	if err != nil {
		return err
	}
	dir := filepath.Dir(f.Output)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	out, err := os.CreateTemp(dir, ".jobs-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = out.Close()
			_ = os.Remove(out.Name())
		}
	}()
	zip := gzip.NewWriter(out)
	zip.ModTime = info.ModTime()
	if _, err := io.Copy(zip, reader{ctx, in}); err != nil {
		return err
	}
	if err := errors.Join(zip.Close(), out.Chmod(info.Mode().Perm()), out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.Chtimes(out.Name(), info.ModTime(), info.ModTime()); err != nil {
		return err
	}
	return os.Rename(out.Name(), f.Output)
}

// A reader lets more urgent tasks go first before it reads on, and stops when the
// task's time is up.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := taskpool.Yield(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// enqueue adds a job for each file of the tree whose output is not up to date.
func (p *program) enqueue(ctx context.Context, q jobs.Queue) error {
	if err := os.MkdirAll(p.out, 0o777); err != nil {
		return err
	}
	out, err := resolve(p.out)
	if err != nil {
		return err
	}
	return filepath.WalkDir(p.tree, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && path == out:
			return fs.SkipDir
		case err == nil && !entry.Type().IsRegular():
			return nil
		}
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if err == nil && !utf8.ValidString(path) {
			err = errors.New("a payload is JSON, which has no room for a name that is not UTF-8")
		}
		if err != nil { // of one file or directory; there are others
			p.log.Error("not enqueued", "source", path, "error", err)
			p.count(&p.failed)
			return nil
		}
		f := file{path, filepath.Join(out, path[len(p.tree):]+".gz")}
		if old, err := os.Stat(f.Output); err == nil && old.ModTime().Equal(info.ModTime()) {
			p.count(&p.upToDate)
			return nil
		}
		o := &jobs.Options{UniqueKey: f.Output}
		if info.Size() > small {
			o.Priority = new(taskpool.Low)
		}
		switch _, err := p.compress.Enqueue(ctx, q, f, o); {
		case errors.Is(err, jobs.ErrDuplicate):
			p.count(&p.waiting)
		case err != nil:
			return fmt.Errorf("enqueue %q: %w", path, err)
		default:
			p.count(&p.enqueued)
		}
		return nil
	})
}
