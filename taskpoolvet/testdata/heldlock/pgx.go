package heldlock

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/taskpool-go/taskpool"
)

func acquired(ctx context.Context, db *pgxpool.Pool) error {
	c, err := db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	return taskpool.Yield(ctx) // want `c, .* across Yield`
}

func begun(ctx context.Context, db *pgxpool.Pool) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if err := taskpool.Yield(ctx); err != nil { // want `tx, .* across Yield`
		return err
	}
	return tx.Commit(ctx)
}

func queried(ctx context.Context, db *pgxpool.Pool) error {
	rows, err := db.Query(ctx, "SELECT 1")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := taskpool.Yield(ctx); err != nil { // want `rows, .* across Yield`
			return err
		}
	}
	return taskpool.Yield(ctx) // Next has closed the rows
}

// Nobody waits for a connection that is not out of a pool.
func single(ctx context.Context, c *pgx.Conn) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	return taskpool.Yield(ctx)
}
