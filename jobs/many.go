package jobs

import (
	"context"
	"errors"
	"fmt"
)

// An Added says what became of one of the jobs given to [EnqueueMany].
type Added struct {
	ID        ID
	Duplicate bool // ID is of the unsettled job with the same kind and unique key, and none was added
}

// A ManyQueue is a [Queue] that adds many jobs at once. Call [EnqueueMany], which also takes a
// queue that does not.
type ManyQueue interface {
	Queue

	// EnqueueMany adds jobs in the order of rs: all of them or, with an error, none. Of
	// those in rs with the same kind and unique key the first is added.
	EnqueueMany(ctx context.Context, rs []Request) ([]Added, error)
}

// EnqueueMany adds the jobs of rs to q, which [Kind.Request] makes, in that order, and says
// for each what its ID is. A queue that stores jobs does so in one round trip, and adds all
// of them or, with an error, none: thousands at a time cost a fraction of what they cost one
// by one. Of any other, [Local] for one, jobs are added one after the other: the error then
// comes with those that were added before it. Requests that are not valid are refused before
// any job is added. A job whose unique key is taken is no error, see [Added].
func EnqueueMany(ctx context.Context, q Queue, rs []Request) ([]Added, error) {
	switch {
	case ctx == nil:
		return nil, errors.New("jobs: EnqueueMany: ctx must not be nil")
	case q == nil:
		return nil, errors.New("jobs: EnqueueMany: q must not be nil")
	}
	for i, r := range rs {
		if err := r.validate(); err != nil {
			return nil, fmt.Errorf("jobs: EnqueueMany: request %d: %w", i, err)
		}
	}
	if len(rs) == 0 {
		return nil, nil
	}
	if many, ok := q.(ManyQueue); ok {
		return many.EnqueueMany(ctx, rs)
	}
	all := make([]Added, 0, len(rs))
	for i, r := range rs {
		id, err := q.Enqueue(ctx, r)
		if err != nil && !errors.Is(err, ErrDuplicate) {
			return all, fmt.Errorf("jobs: EnqueueMany: request %d: %w", i, err)
		}
		all = append(all, Added{id, err != nil})
	}
	return all, nil
}
