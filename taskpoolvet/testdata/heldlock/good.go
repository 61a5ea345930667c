package heldlock

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"

	"github.com/taskpool-go/taskpool"
)

func unlockedBefore(ctx context.Context, s *store) error {
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	return taskpool.Yield(ctx)
}

func unlockedMeanwhile(ctx context.Context, s *store) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.Unlock()
	err := taskpool.Yield(ctx)
	s.mu.Lock()
	return err
}

func onOneWay(ctx context.Context, s *store, shared bool) error {
	if shared {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	return taskpool.Yield(ctx)
}

func unlockedOnAll(ctx context.Context, s *store, n int) error {
	s.mu.Lock()
	switch n {
	case 0:
		s.mu.Unlock()
	case 1:
		s.mu.Unlock()
		return nil
	default:
		s.mu.Unlock()
	}
	return taskpool.Yield(ctx)
}

func anotherLock(ctx context.Context, s *store) error {
	s.mu.Lock()
	s.mu.Unlock()
	s.next.mu.Unlock()
	err := taskpool.Yield(ctx)
	s.next.mu.Lock()
	return err
}

// The lock is that of another store by then.
func handOverHand(ctx context.Context, s *store) error {
	s.mu.Lock()
	for s.next != nil {
		s.next.mu.Lock()
		s.mu.Unlock()
		s = s.next
	}
	err := taskpool.Yield(ctx)
	s.mu.Unlock()
	return err
}

// It may have been unlocked by what is called.

func (s *store) unlock() { s.mu.Unlock() }

func helperUnlocks(ctx context.Context, s *store) error {
	s.mu.Lock()
	s.unlock()
	err := taskpool.Yield(ctx)
	s.mu.Lock()
	s.mu.Unlock()
	return err
}

func closureUnlocks(ctx context.Context, s *store) error {
	s.mu.Lock()
	unlock := sync.OnceFunc(func() { s.mu.Unlock() })
	unlock()
	err := taskpool.Yield(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	return err
}

func methodValueUnlocks(ctx context.Context, s *store) error {
	s.mu.Lock()
	unlock := s.mu.Unlock
	unlock()
	err := taskpool.Yield(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	return err
}

// Nothing in the function says that it still holds the lock.
func neverUnlocks(ctx context.Context, s *store) error {
	s.mu.Lock()
	return taskpool.Yield(ctx)
}

// Locks in other functions.
func literals(ctx context.Context, s *store) error {
	err := taskpool.Block(ctx, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return nil
	})
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
	}()
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
	}()
	return errors.Join(err, taskpool.Yield(ctx))
}

// A wait outside a task keeps no slot.
func outside(ctx context.Context, s *store, h *taskpool.Handle) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return h.Wait(ctx)
}

// A submission waits only if the queue is full.
func (s *store) submitsUnderLock(ctx context.Context) error {
	return s.pool.Go(taskpool.Low, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, _ = s.pool.Submit(context.Background(), taskpool.Task{Run: s.run})
		_ = s.pool.Go(taskpool.Low, func() {})
		seq := taskpool.Map(context.Background(), s.pool, taskpool.Task{}, slices.Values([]int{1}), double)
		_ = seq // nothing runs before a loop over it does
		go s.helper(context.Background())
	})
}

// The body of a loop over Map may lock.
func (s *store) loops(ctx context.Context) error {
	return s.pool.Go(taskpool.Low, func() {
		for range taskpool.Map(ctx, s.pool, taskpool.Task{}, slices.Values([]int{1}), double) {
			s.mu.Lock()
			s.mu.Unlock()
		}
	})
}

type flag struct{}

func (flag) Lock(n int) {}
func (flag) Unlock()    {}

func noLock(ctx context.Context, f flag) error {
	f.Lock(1)
	defer f.Unlock()
	return taskpool.Yield(ctx)
}

func silenced(ctx context.Context, s *store) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return taskpool.Yield(ctx) //nolint:errcheck,taskpoolvet // nobody else wants it
}

// Connections.

func committed(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return errors.Join(err, taskpool.Yield(ctx))
	}
	defer tx.Rollback()
	if err := tx.Commit(); err != nil {
		return err
	}
	return taskpool.Yield(ctx)
}

func readAll(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SELECT 1")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			return err
		}
	}
	return taskpool.Yield(ctx) // Next has closed the rows
}

func readSome(ctx context.Context, db *sql.DB, n int) error {
	rows, err := db.QueryContext(ctx, "SELECT 1")
	if err != nil {
		return err
	}
	defer rows.Close()
	for i := 0; i < n && rows.Next(); i++ {
	}
	return taskpool.Yield(ctx) // they may be closed
}

func failed(ctx context.Context, db *sql.DB) error {
	c, err := db.Conn(ctx)
	if errors.Is(err, sql.ErrConnDone) {
		return taskpool.Yield(ctx)
	}
	switch {
	case err != nil:
		return taskpool.Yield(ctx)
	}
	defer c.Close()
	return nil
}

func failedOrElse(ctx context.Context, db *sql.DB, more bool) error {
	c, err := db.Conn(ctx)
	if err != nil || more {
		return taskpool.Yield(ctx)
	}
	defer c.Close()
	return nil
}

// Somebody else may give it back.
func passedOn(ctx context.Context, db *sql.DB, release func(*sql.Conn)) error {
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	release(c)
	return taskpool.Yield(ctx)
}
