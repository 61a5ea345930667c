// The analyzers are tested on code that uses the real package.
module testdata

go 1.26.0

require (
	github.com/jackc/pgx/v5 v5.0.0
	github.com/taskpool-go/taskpool v0.0.0
)

replace (
	github.com/jackc/pgx/v5 => ./pgx // the few types that heldlock knows
	github.com/taskpool-go/taskpool => ../..
)
