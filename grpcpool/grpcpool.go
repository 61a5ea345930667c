// Package grpcpool puts a pool in front of a gRPC server, as package httppool does with HTTP:
// which call runs when not all can is decided by priority, and what cannot be answered in time
// is told so at once.
//
//	server := grpc.NewServer(
//		grpc.ChainUnaryInterceptor(grpcpool.Unary(pool, classify)),
//		grpc.ChainStreamInterceptor(grpcpool.Stream(pool, classify)),
//		grpc.InTapHandle(grpcpool.Tap(pool, classify)),
//	)
//
// A call that is refused gets the status
//
//	RESOURCE_EXHAUSTED  the queue is full, or the call had to leave it for a more urgent one, has
//	                    waited for longer than its MaxWait, or its flow has its own bound waiting
//	UNAVAILABLE         the pool is shut down
//	DEADLINE_EXCEEDED   its deadline, or the task's timeout, was over
//	CANCELED            its client has gone away
//	INTERNAL            the task that the Classifier has returned is not allowed, or was canceled by
//	                    hand; this is logged by [slog.Default] at level Error
//
// the first two with a RetryInfo: a delay at random between the wait that the pool expects and
// twice that.
//
// A call that a task of the pool makes to its own server would wait in the queue while the task holds
// its slot, maybe forever. [UnaryClient] and [StreamClient] mark such calls, which then run at once:
// they are part of work that has its turn already.
//
// To end a server on SIGTERM, hand it to httppool.Shutdown by [Server]. The program examples/grpc
// of the repository is a server of this kind.
package grpcpool

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/comeback"
	"github.com/taskpool-go/taskpool/internal/inside"
	"github.com/taskpool-go/taskpool/internal/option"
)

const pkg option.Package = "grpcpool"

// A Classifier says what task a call of a method, such as "/package.Service/Method", is: its
// priority, flow, MaxWait and timeouts; Run, Retry and NotBefore must be zero. With false it says
// that the call is exempt and runs outside the pool, as health checks and reflection should. A
// nil one says the zero Task of each call. A task without a name is called by its method, and its
// MaxWait is no longer than the call's deadline allows.
type Classifier func(ctx context.Context, method string) (t taskpool.Task, limited bool)

// MaxPriority is the least urgent priority that [Classifier.Metadata] takes from a call, and its
// negative the most urgent one. Each priority is a lane of the queue and a label in metrics, so
// there should not be many.
const MaxPriority = 10

// Metadata returns a Classifier that says what c does, with the priority and the flow that the
// metadata of the call has under these keys, unless a key is "": high, medium, low or a number
// from -10, the most urgent, to 10; and any text. Calls for which trusted returns false, by their
// peer for one, are left as c has them, and so is a priority that is none: what anybody may set
// makes everything urgent.
func (c Classifier) Metadata(priority, flow string, trusted func(ctx context.Context) bool) Classifier {
	if trusted == nil {
		panic(pkg.Bad("Classifier.Metadata: trusted", "not be nil", "nil").Error())
	}
	return func(ctx context.Context, method string) (taskpool.Task, bool) {
		t, limited := c.classify(ctx, method)
		if !limited || !trusted(ctx) {
			return t, limited
		}
		if value := last(ctx, priority); value != "" {
			var pr taskpool.Priority
			if pr.UnmarshalText([]byte(strings.ToLower(value))) == nil && pr >= -MaxPriority && pr <= MaxPriority {
				t.Priority = pr
			}
		}
		if value := last(ctx, flow); value != "" {
			t.Flow = value
		}
		return t, limited
	}
}

// last returns the last value of a key in the metadata of a call, "" if there is none.
func last(ctx context.Context, key string) string {
	if values := metadata.ValueFromIncomingContext(ctx, key); key != "" && len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// classify returns what c says, which may be nil.
func (c Classifier) classify(ctx context.Context, method string) (t taskpool.Task, limited bool) {
	if limited = true; c != nil {
		t, limited = c(ctx, method)
	}
	if t.Name == "" {
		t.Name = method
	}
	return t, limited
}

// bounded returns t, of a call with ctx, with a MaxWait that is no longer than the call's deadline
// allows.
func bounded(ctx context.Context, t taskpool.Task) taskpool.Task {
	deadline, ok := ctx.Deadline()
	if left := max(time.Until(deadline), 1); ok && (t.MaxWait == 0 || t.MaxWait > left) {
		t.MaxWait = left
	}
	return t
}

// A gate is what a pool's interceptors have in common.
type gate struct {
	pool     *taskpool.Pool
	calls    *inside.Calls
	classify Classifier
	waits    comeback.Waits
}

// newGate panics if p is not a pool, naming the call.
func newGate(call string, p *taskpool.Pool, c Classifier) *gate {
	if p == nil {
		panic(pkg.Bad(call+": p", "be a Pool that New has returned", "nil").Error())
	}
	p.ExpectedWait(taskpool.Medium, "") // the first call begins the measurement
	return &gate{pool: p, calls: inside.Of(p), classify: c}
}

// fromInside reports whether a call with ctx is part of the work of a task of the pool.
func (g *gate) fromInside(ctx context.Context) bool {
	return g.calls.Know(metadata.ValueFromIncomingContext(ctx, insideKey))
}

// Unary returns an interceptor that runs the handler of a call as a task of p, by
// [taskpool.Pool.Do]: on the call's goroutine, as soon as p has a slot for it and nothing more
// urgent waits. The handler gets the task's context. What it returns is left as it is, but that an
// error with no status that follows the task's timeout becomes DEADLINE_EXCEEDED. A panic goes on.
func Unary(p *taskpool.Pool, c Classifier) grpc.UnaryServerInterceptor {
	g := newGate("Unary", p, c)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		if g.fromInside(ctx) {
			return handler(g.calls.Within(ctx), req)
		}
		t, limited := g.classify.classify(ctx, info.FullMethod)
		if !limited {
			return handler(ctx, req)
		}
		t = bounded(ctx, t)
		began := false
		ended := p.Do(ctx, t, func(ctx context.Context) error {
			began = true
			resp, err = handler(ctx, req)
			return err
		})
		switch _, hasStatus := status.FromError(err); {
		case !began:
			return nil, g.refusal(ctx, t, ended)
		case err != nil && !hasStatus && (errors.Is(ended, taskpool.ErrTimeout) || errors.Is(ended, taskpool.ErrHung)):
			return resp, g.refusal(ctx, t, ended)
		}
		return resp, err
	}
}

// Stream returns an interceptor that has a stream wait for its turn before its handler runs, as a
// task of p that does nothing. The stream itself, which may take hours, holds no slot: what
// there is to do for a message may be a task of its own.
func Stream(p *taskpool.Pool, c Classifier) grpc.StreamServerInterceptor {
	g := newGate("Stream", p, c)
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx := stream.Context()
		if g.fromInside(ctx) {
			return handler(srv, within{stream, g.calls.Within(ctx)})
		}
		t, limited := g.classify.classify(ctx, info.FullMethod)
		if !limited {
			return handler(srv, stream)
		}
		t = bounded(ctx, t)
		if err := p.Do(ctx, t, func(context.Context) error { return nil }); err != nil {
			return g.refusal(ctx, t, err)
		}
		return handler(srv, stream)
	}
}

// Tap returns a handle that refuses a call whose expected wait is longer than its MaxWait, or than
// its deadline allows, as soon as its header is there: before it has a goroutine, and before its
// message is read. That is an estimate, see [taskpool.Pool.ExpectedWait]; all else is decided by
// the interceptors, which ask c once more. It waits for nothing, and gRPC lets one call of a
// connection through at a time, so c should be quick. Where it panics, no interceptor could recover:
// the call is left to those.
func Tap(p *taskpool.Pool, c Classifier) tap.ServerInHandle {
	g := newGate("Tap", p, c)
	return func(ctx context.Context, info *tap.Info) (same context.Context, err error) {
		same = ctx
		defer func() { _ = recover() }()
		in := metadata.NewIncomingContext(ctx, info.Header)
		t, limited := g.classify.classify(in, info.FullMethodName)
		if !limited {
			return ctx, nil
		}
		if t = bounded(ctx, t); t.MaxWait <= 0 || p.ExpectedWait(t.Priority, t.Flow) <= t.MaxWait || g.fromInside(in) {
			return ctx, nil
		}
		return ctx, g.refusal(ctx, t, taskpool.ErrExpired)
	}
}

// refusal returns the status of a call with ctx whose task t has ended with err.
func (g *gate) refusal(ctx context.Context, t taskpool.Task, err error) error {
	const tooLong = "the call took too long"
	var st *status.Status
	flow := ""
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, taskpool.ErrHung):
		return status.Error(codes.DeadlineExceeded, tooLong)
	case errors.Is(err, taskpool.ErrExpired):
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= 0 { // its timer may be about to end ctx
			return status.Error(codes.DeadlineExceeded, tooLong)
		}
		st = status.New(codes.ResourceExhausted, "the call has waited for too long")
	case errors.Is(err, taskpool.ErrFlowFull) && t.Flow != "":
		st, flow = status.New(codes.ResourceExhausted, "too many of your calls wait"), t.Flow
	case errors.Is(err, taskpool.ErrFull):
		st = status.New(codes.ResourceExhausted, "more calls come than can be answered")
	case errors.Is(err, taskpool.ErrClosed):
		st = status.New(codes.Unavailable, "the server is going down")
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	default: // what the classifier has returned is not allowed, or the task was canceled by hand
		slog.Error("grpcpool: call not run", "task", t, "error", err)
		return status.Error(codes.Internal, "internal error")
	}
	delay := comeback.After(g.waits.Expected(g.pool, t.Priority, flow))
	if detailed, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}); err == nil {
		st = detailed
	}
	return st.Err()
}

// Server returns s as what httppool.Shutdown ends, together with HTTP servers or alone: its
// Shutdown is GracefulStop, cut short when its context ends, and its Close is Stop.
func Server(s *grpc.Server) interface {
	Shutdown(context.Context) error
	Close() error
} {
	if s == nil {
		panic(pkg.Bad("Server: s", "not be nil", "nil").Error())
	}
	return server{s}
}

type server struct{ *grpc.Server }

func (s server) Shutdown(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.GracefulStop()
	}()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s server) Close() error {
	s.Stop()
	return nil
}
