package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// prepare waits until the child is ready for calls, and has it make those of WithInit.
func (w *worker) prepare(stop <-chan struct{}) error {
	if err := w.awaitHello(stop); err != nil || len(w.cfg.inits) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.cfg.startTimeout)
	defer cancel()
	ready := make(chan struct{})
	defer close(ready)
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ready:
		}
	}()
	for _, call := range w.cfg.inits {
		if err := call(ctx, w); err != nil {
			return fmt.Errorf("WithInit: %w", err)
		}
	}
	w.calls = 0
	w.mu.Lock()
	defer w.mu.Unlock()
	w.initID = w.id
	return nil
}

// awaitHello waits until the child is ready.
func (w *worker) awaitHello(stop <-chan struct{}) error {
	answered := make(chan struct{})
	defer close(answered)
	go func() {
		select {
		case <-stop:
			w.kill(ErrClosed)
		case <-answered:
		}
	}()
	_ = w.out.SetReadDeadline(time.Now().Add(w.cfg.startTimeout))
	k, body, err := w.results.next()
	if err != nil {
		return err
	}
	if k != kindHello {
		return fmt.Errorf("%w: kind %d in place of a hello", errMalformed, k)
	}
	h, err := parseHello(body)
	switch {
	case err != nil:
		return err
	case h.version != protocolVersion:
		return fmt.Errorf("it speaks protocol version %d, not %d", h.version, protocolVersion)
	case h.build != self.build:
		return fmt.Errorf("it is another build: %q, not %q (the program's file was replaced)", h.build, self.build)
	}
	return w.out.SetReadDeadline(time.Time{})
}

// startError makes the error of a child that has not become ready. The process
// has been waited for.
func (w *worker) startError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("process: child %d was not ready within %v: does the program call process.Main first?",
			w.pid, w.cfg.startTimeout)
		if _, line := w.stderr.last(); line != "" {
			err = fmt.Errorf("%w Its last output: %s", err, line)
		}
		return err
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return w.exitError("")
	}
	return fmt.Errorf("process: child %d: %w", w.pid, err)
}
