package heldlock

import (
	"context"
	"database/sql"
	"slices"
	"sync"

	"github.com/taskpool-go/taskpool"
)

type store struct {
	mu     sync.Mutex
	rw     sync.RWMutex
	pool   *taskpool.Pool
	shards []*store
	next   *store
}

func deferred(ctx context.Context, s *store) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return taskpool.Yield(ctx) // want `s.mu, taken in line 21, is held across Yield`
}

func plain(ctx context.Context, s *store) error {
	s.mu.Lock()
	err := taskpool.Block(ctx, func() error { return nil }) // want `s.mu, taken in line 27, is held across Block`
	s.mu.Unlock()
	return err
}

func reader(ctx context.Context, s *store) error {
	s.rw.RLock()
	defer s.rw.RUnlock()
	return taskpool.Yield(ctx) // want `s.rw, .* across Yield`
}

func deferredLiteral(ctx context.Context, s *store) error {
	s.rw.Lock()
	defer func() { s.rw.Unlock() }()
	return taskpool.Yield(ctx) // want `s.rw, .* across Yield`
}

func inLoop(ctx context.Context, s *store, n int) {
	for range n {
		s.mu.Lock()
		if err := taskpool.Yield(ctx); err != nil { // want `s.mu, .* across Yield`
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

func locker(ctx context.Context, l sync.Locker) error {
	l.Lock()
	defer l.Unlock()
	return taskpool.Yield(ctx) // want `l, .* across Yield`
}

type embedded struct{ sync.Mutex }

func promoted(ctx context.Context, e *embedded) error {
	e.Lock()
	defer e.Unlock()
	return taskpool.Yield(ctx) // want `e, .* across Yield`
}

type spinlock struct{}

func (*spinlock) Lock()   {}
func (*spinlock) Unlock() {}

func ownLock(ctx context.Context, l *spinlock) error {
	l.Lock()
	defer l.Unlock()
	return taskpool.Yield(ctx) // want `l, .* across Yield`
}

var global sync.Mutex

func packageLevel(ctx context.Context) error {
	global.Lock()
	defer global.Unlock()
	return taskpool.Yield(ctx) // want `global, .* across Yield`
}

// Waits are reported in tasks, and in what tasks call.

func (s *store) submitted(ctx context.Context, h *taskpool.Handle) error {
	_, err := s.pool.Submit(ctx, taskpool.Task{Run: s.run})
	if err != nil {
		return err
	}
	return s.pool.Go(taskpool.Low, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = h.Wait(context.Background()) // want `s.mu, .* across Handle.Wait`
	})
}

func (s *store) run(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := taskpool.Call(ctx, s.pool, taskpool.Task{}, compute); err != nil { // want `s.mu, .* across Call`
		return err
	}
	s.helper(ctx)
	return nil
}

func compute(ctx context.Context) (int, error) { return 0, nil }

func (s *store) helper(ctx context.Context) {
	f, _ := taskpool.SubmitFunc(ctx, s.pool, taskpool.Task{}, compute)
	g := s.pool.Group(ctx, taskpool.Task{})
	s.rw.RLock()
	_, _ = f.Get(ctx)                                                                       // want `s.rw, .* across Future.Get`
	_ = f.Wait(ctx)                                                                         // want `s.rw, .* across Future.Wait`
	_ = g.Wait()                                                                            // want `s.rw, .* across Group.Wait`
	_ = s.pool.WaitIdle(ctx)                                                                // want `s.rw, .* across Pool.WaitIdle`
	for range taskpool.Map(ctx, s.pool, taskpool.Task{}, slices.Values([]int{1}), double) { // want `s.rw, .* across Map`
	}
	s.rw.RUnlock()
}

func double(ctx context.Context, n int) (int, error) { return 2 * n, nil }

// Connections.

func transaction(ctx context.Context, db *sql.DB, rows []int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, r := range rows {
		if err := insert(ctx, tx, r); err != nil {
			return err
		}
		if err := taskpool.Yield(ctx); err != nil { // want `tx, .* across Yield`
			return err
		}
	}
	return tx.Commit()
}

func insert(ctx context.Context, tx *sql.Tx, r int) error { return nil }

func query(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SELECT 1")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := taskpool.Yield(ctx); err != nil { // want `rows, .* across Yield`
			return err
		}
	}
	return rows.Err()
}

func conn(ctx context.Context, db *sql.DB) error {
	if c, err := db.Conn(ctx); err == nil {
		defer c.Close()
		return taskpool.Yield(ctx) // want `c, .* across Yield`
	}
	return nil
}
