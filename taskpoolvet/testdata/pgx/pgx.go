// Package pgx has those types of the package of that name that heldlock knows.
package pgx

import "context"

type Tx interface {
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

type Rows interface {
	Close()
	Next() bool
}

type Conn struct{}

func (*Conn) Begin(ctx context.Context) (Tx, error) { return nil, nil }
