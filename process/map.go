package process

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"sync"
	"time"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/remote"
)

const (
	// chunkTime is what the elements of a chunk are to take: long beside the cost of a call,
	// and short for whoever is more urgent and waits for a child.
	chunkTime = 5 * time.Millisecond

	// maxChunkTime is when a child begins no further element of a chunk, and replies.
	maxChunkTime = 4 * chunkTime

	// chunkBytes is what the arguments, or the results, of a chunk are to take.
	chunkBytes = 1 << 20

	// maxChunk is the most elements of a chunk.
	maxChunk = 4096
)

// chunkPrefix begins the name under which chunks of a function are called.
const chunkPrefix = "\x00"

// A chunk is elements that travel in one message.
type chunk[In any] []value[In]

func (c chunk[In]) elements() int { return len(c) }

// A chunkReply is what became of the elements of a chunk, or the first of them.
type chunkReply[Out any] struct {
	Results []value[Out]
	Failed  []failedElement
	Took    time.Duration
}

// A chunked is a function as it is called in a child for the elements of a chunk.
type chunked[In, Out any] struct {
	name string
	f    func(context.Context, chunk[In]) (chunkReply[Out], error)
}

func (fn *chunked[In, Out]) call(ctx context.Context, decode func(any) error) (any, error) {
	return callWith(ctx, fn.name, fn.f, decode)
}

// A failedElement says why an element has no result.
type failedElement struct {
	Index   int
	Failure []byte // as it is on the wire
}

// inChunks returns the function that calls f for the elements of a chunk, in a child.
func inChunks[In, Out any](f func(context.Context, In) (Out, error)) func(context.Context, chunk[In]) (chunkReply[Out], error) {
	return func(ctx context.Context, c chunk[In]) (reply chunkReply[Out], err error) {
		most := minMaxFrame
		if call, ok := ctx.Value(remote.WorkerKey).(*call); ok {
			most = min(call.s.max, keepBuffer)
		}
		reply.Results = make([]value[Out], 0, len(c))
		begin := time.Now()
		over := func() bool {
			done := len(reply.Results)
			return done == len(c) || done > 0 && (ctx.Err() != nil || time.Since(begin) > maxChunkTime)
		}
		one := func(i int) {
			var is *failure
			var out Out
			returned := false
			defer func() {
				switch v := recover(); {
				case v != nil:
					is = new(failure)
					*is = panicked("(a method of the value panicked)", debug.Stack(), most)
					func() {
						defer func() { _ = recover() }()
						*is = panicked(v, debug.Stack(), most)
					}()
				case !returned:
					is = &failure{reason: calledGoexit}
				}
				if is != nil {
					out = *new(Out)
					reply.Failed = append(reply.Failed, failedElement{i, is.appendTo(nil)})
				}
				reply.Results = append(reply.Results, value[Out]{out})
			}()
			out, err := f(ctx, c[i].V)
			if err != nil {
				is = new(failed(err, most))
			}
			returned = true
		}
		for !over() { // a second time after a Goexit
			done := make(chan struct{})
			go func() {
				defer close(done)
				for !over() {
					one(len(reply.Results))
				}
			}()
			<-done
		}
		reply.Took = time.Since(begin)
		return reply, nil
	}
}

// A sizing says how many elements the next chunk gets, by what those before took.
type sizing struct {
	mu   sync.Mutex // protects the fields below
	n    int
	most int
}

func (s *sizing) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// learn takes note of a chunk: how many elements it had, what they took, and of how many bytes
// they were.
func (s *sizing) learn(n int, took time.Duration, bytes int) {
	fit := int(min(int64(chunkTime)*int64(n)/max(int64(took), 1), int64(chunkBytes)*int64(n)/int64(max(bytes, 1)), int64(s.most)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n = max(min(fit, 2*s.n), 1)
}

// A flight is a chunk under way.
type flight[In, Out any] struct {
	placed  chan struct{} // closed when it has a child, waits for one in its place, or is over
	done    chan struct{}
	results []value[Out] // the fields are valid once done is closed
	errs    map[int]error
	cut     error // why the rest of the elements has neither
}

// Map calls fn in the children of p for each value of in and returns the results in the order
// of in. Elements start in that order too. Unlike calls one by one, elements that take little time travel together, so that an
// element costs a fraction of a microsecond and its encoding: as many as take some 5 ms and 1
// MiB, at most 4096, found out as it goes, beginning with one. Elements that take longer go one
// by one. What is in flight is at most twice as many such chunks as there are children.
//
// It is lazy: nothing runs before the loop over the results does, and in may be endless. in runs
// on the looping goroutine, in turns with the loop's body. A chunk that has waited for its
// elements for 5 ms leaves with the next one, however few they are.
//
// The error of an element, as [Func.Call] returns it, comes in its place, with the zero value,
// and the loop goes on. If a chunk as such fails, as an element ends its child, or as what it
// returns is too large, its elements are called again one by one, so that all but the culprits
// have their results. So an element may be called twice without having failed: fn must bear
// that, as it must bear retries.
//
// When the loop is left, what is in flight is canceled and waited for, as Call waits. If ctx ends,
// or p is shut down, while there may be more elements, the results that are there come first,
// and the last pair is the zero value and the cause. A chunk waits for a free child with the
// priority of the task that ctx belongs to, and counts as one call in [Stats] and as many as it
// has elements for [WithMaxCalls]. All elements of a chunk see one context.
func Map[In, Out any](ctx context.Context, p *Pool, fn *Func[In, Out], in iter.Seq[In]) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		var zero Out
		err := fn.misuse("Map")
		if err == nil {
			err = p.misuse("Map of " + fn.name)
		}
		switch {
		case err != nil:
		case ctx == nil:
			err = fmt.Errorf("process: Map of %s: ctx must not be nil", fn.name)
		case in == nil:
			err = fmt.Errorf("process: Map of %s: in must not be nil", fn.name)
		}
		if err != nil {
			yield(zero, err)
			return
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(errMapLeft)
		most := maxChunk
		if p.cfg.maxCalls > 0 {
			most = min(most, p.cfg.maxCalls)
		}
		size := &sizing{n: 1, most: most}
		var flights []*flight[In, Out]
		more := true
		leave := func() {
			cancel(errMapLeft)
			for _, f := range flights {
				<-f.done
			}
		}
		// land hands over the results of the first flight.
		land := func() {
			f := flights[0]
			<-f.done
			flights = flights[1:]
			for i, r := range f.results {
				if more = yield(r.V, f.errs[i]); !more {
					return
				}
			}
			if f.cut != nil {
				yield(zero, f.cut)
				more = false
			}
		}
		var c chunk[In]
		var began time.Time
		launch := func() {
			f := &flight[In, Out]{placed: make(chan struct{}), done: make(chan struct{})}
			flights = append(flights, f)
			go f.run(ctx, p, fn, c, size)
			<-f.placed // or a chunk might start before one whose results come first
			c = nil
			for more && len(flights) > 0 && (len(flights) >= 2*p.cfg.workers || flights[0].over()) {
				land()
			}
		}
		for v := range in {
			if len(c) == 0 {
				c, began = make(chunk[In], 0, size.next()), time.Now()
			}
			c = append(c, value[In]{v})
			if len(c) == cap(c) || time.Since(began) > chunkTime {
				if launch(); !more {
					leave()
					return
				}
			}
			if ctx.Err() != nil {
				break
			}
		}
		if len(c) > 0 {
			launch()
		}
		for more && len(flights) > 0 {
			land()
		}
		if more && ctx.Err() != nil {
			yield(zero, context.Cause(ctx))
		}
		leave()
	}
}

// errMapLeft cancels the calls of a Map whose loop was left.
var errMapLeft = fmt.Errorf("process: the loop over Map was left: %w", context.Canceled)

// over reports whether the chunk has come back.
func (f *flight[In, Out]) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// run has the chunk called.
func (f *flight[In, Out]) run(ctx context.Context, p *Pool, fn *Func[In, Out], c chunk[In], size *sizing) {
	defer close(f.done)
	place := sync.OnceFunc(func() { close(f.placed) })
	defer place()
	defer func() { // a method of a value panicked while it was encoded
		if v := recover(); v != nil {
			f.cut = &taskpool.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	f.results = make([]value[Out], 0, len(c))
	f.errs = make(map[int]error)
	for together := len(c); len(f.results) < len(c); {
		rest := c[len(f.results):min(len(f.results)+together, len(c))]
		var reply value[chunkReply[Out]]
		bytes, err := p.call(ctx, chunkPrefix+fn.name, &value[chunk[In]]{rest}, &reply, place)
		switch {
		case err == nil && len(reply.V.Results) > 0 && len(reply.V.Results) <= len(rest):
			f.take(fn.name, p, reply.V)
			if together > 1 || len(c) == 1 {
				size.learn(len(reply.V.Results), reply.V.Took, bytes)
			}
			continue
		case err == nil:
			err = fmt.Errorf("process: Map of %s: %w: %d results of %d", fn.name, errMalformed, len(reply.V.Results), len(rest))
		}
		switch {
		case ctx.Err() != nil:
			f.cut = context.Cause(ctx)
			return
		case errors.Is(err, ErrClosed):
			f.cut = err
			return
		case len(rest) > 1:
			together = 1
		default:
			f.errs[len(f.results)] = err
			f.results = append(f.results, value[Out]{})
		}
	}
}

// take adds the results of some elements.
func (f *flight[In, Out]) take(name string, p *Pool, r chunkReply[Out]) {
	for _, e := range r.Failed {
		is, err := parseFailure(e.Failure)
		if err == nil {
			err = is.error(name, p.cfg.maxFrame)
		}
		f.errs[len(f.results)+e.Index] = err
	}
	f.results = append(f.results, r.Results...)
}
