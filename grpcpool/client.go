package grpcpool

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/internal/inside"
)

// insideKey marks a call of a task of the pool that it is for, in its metadata.
const insideKey = "taskpool-inside"

// UnaryClient returns an interceptor for calls that tasks of p make. The interceptors of p that such a
// call comes to in the same process, see [Unary] and [Stream], have it run at once, outside the pool,
// as it is part of a task's work: the task holds its slot while it waits for the answer, and in a queue
// behind others that wait so the call would wait forever. The same is true for the calls, and the
// requests by httppool.Transport, that this one leads to, and for those that requests by
// httppool.Transport lead to. For all other calls, and other servers, it makes no difference.
//
// A call is marked by a random text in its metadata, which counts until the call is over, so whom a
// task calls can have calls run outside the pool meanwhile, and nobody else can.
func UnaryClient(p *taskpool.Pool) grpc.UnaryClientInterceptor {
	calls := callsOf("UnaryClient", p)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if calls.Has(ctx, p) {
			text, end := calls.Begin()
			defer end()
			ctx = metadata.AppendToOutgoingContext(ctx, insideKey, text)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}

// StreamClient returns an interceptor that does with streams what [UnaryClient] does with calls. The
// mark counts until the stream's first message or the header has come, or it has ended.
func StreamClient(p *taskpool.Pool) grpc.StreamClientInterceptor {
	calls := callsOf("StreamClient", p)
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if !calls.Has(ctx, p) {
			return open(ctx, desc, cc, method, opts...)
		}
		text, end := calls.Begin()
		stream, err := open(metadata.AppendToOutgoingContext(ctx, insideKey, text), desc, cc, method, opts...)
		if err != nil {
			end()
			return nil, err
		}
		return &marked{stream, context.AfterFunc(ctx, end), end}, nil
	}
}

// callsOf returns p's calls. It panics if p is not a pool, naming the call.
func callsOf(call string, p *taskpool.Pool) *inside.Calls {
	if p == nil {
		panic(pkg.Bad(call+": p", "be a Pool that New has returned", "nil").Error())
	}
	return inside.Of(p)
}

// A marked stream is one whose mark counts until the server has shown that it has accepted it. gRPC
// asks of a client that it receives until an error or ends the context, so the mark does not stay.
type marked struct {
	grpc.ClientStream
	stop func() bool // has the end of the context no longer end the mark
	end  func()
}

func (s *marked) Header() (metadata.MD, error) {
	defer s.accepted()
	return s.ClientStream.Header()
}

func (s *marked) RecvMsg(m any) error {
	defer s.accepted()
	return s.ClientStream.RecvMsg(m)
}

func (s *marked) accepted() {
	s.stop()
	s.end()
}

// A within is a stream whose handler is part of the work of a task.
type within struct {
	grpc.ServerStream
	ctx context.Context
}

func (s within) Context() context.Context { return s.ctx }
